# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""The domain's ``<disk>`` element, the backing chain spelt out. Pure.

Libvirt looks into an image to learn what is not said: a format, or whether there is a backing file. Everything is
said here, down to the empty ``<backingStore/>`` that ends the chain, so it looks into nothing. The image under an
overlay is kept from being handed to the guest's user, who could then write to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

from .._ground.errors import BadInput

TARGETS = {"virtio": "vd", "scsi": "sd", "sata": "sd", "usb": "sd", "ide": "hd"}


@dataclass(frozen=True)
class Link:
    """One file of the chain: its absolute path and the format that its record says."""

    path: str
    format: str


@dataclass(frozen=True)
class Attachment:
    """How a guest is to see a disk; None leaves it to libvirt."""

    target: str
    bus: str = "virtio"
    device: str = "disk"
    readonly: bool = False
    cache: str | None = None
    io: str | None = None
    discard: str | None = None
    serial: str | None = None


def disk_xml(chain: Sequence[Link], how: Attachment) -> str:
    """The element for ``chain``, which begins with the disk itself."""
    disk = ElementTree.Element("disk", type="file", device=how.device)
    driver = {"name": "qemu", "type": chain[0].format, "cache": how.cache, "io": how.io, "discard": how.discard}
    ElementTree.SubElement(disk, "driver", {name: value for name, value in driver.items() if value is not None})
    ElementTree.SubElement(disk, "source", file=chain[0].path)
    parent = disk
    for link in chain[1:]:
        parent = ElementTree.SubElement(parent, "backingStore", type="file")
        ElementTree.SubElement(parent, "format", type=link.format)
        source = ElementTree.SubElement(parent, "source", file=link.path)
        ElementTree.SubElement(source, "seclabel", model="dac", relabel="no")
    ElementTree.SubElement(parent, "backingStore")
    ElementTree.SubElement(disk, "target", dev=how.target, bus=how.bus)
    if how.serial is not None:
        ElementTree.SubElement(disk, "serial").text = how.serial
    if how.readonly:
        ElementTree.SubElement(disk, "readonly")
    ElementTree.indent(disk)
    return ElementTree.tostring(disk, encoding="unicode")


def default_target(bus: str, position: int) -> str:
    """The device name of the disk that stands at ``position`` (from 0) on ``bus``: vda, vdb, ... vdaa."""
    if bus not in TARGETS:
        raise BadInput(f"The bus {bus!r} is unknown: use one of {', '.join(TARGETS)}.")
    letters, number = "", position + 1
    while number:
        number, rest = divmod(number - 1, 26)
        letters = chr(ord("a") + rest) + letters
    return TARGETS[bus] + letters
