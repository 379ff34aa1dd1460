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

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from xml.sax.saxutils import escape, quoteattr

from .._ground.errors import BadInput
from .pool_ceph import split

_BY_KIND = {"file": "file", "block": "dev"}
TARGETS = {"virtio": "vd", "scsi": "sd", "sata": "sd", "usb": "sd", "ide": "hd"}
"""How the names of disks begin on each bus."""
_TARGET = re.compile(r"(?:fd|hd|sd|ubd|vd|xvd)[a-z]{1,3}")
_SERIAL = re.compile(r"[A-Za-z0-9_. -]{1,36}")


@dataclass(frozen=True)
class Location:
    """How a guest reaches a volume. ``kind`` is file, block or network, ``name`` an absolute path, or ``pool/image`` on
    a network; there ``hosts`` are its monitors ("address" or "address:port"), and ``secret`` is the UUID of the libvirt
    secret that has the key of ``user``."""

    kind: str
    name: str
    hosts: tuple[str, ...] = ()
    user: str = ""
    secret: str = ""

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Link:
    """One volume of the chain: where it is, and the format that its record says."""

    place: Location
    format: str


@dataclass(frozen=True)
class Attachment:
    """How a guest is to see a disk; None leaves it to libvirt. ``target`` None takes the next free name."""

    target: str | None = None
    bus: str = "virtio"
    device: str = "disk"
    cache: str | None = None
    io: str | None = None
    discard: str | None = None
    serial: str | None = None


def check_attachment(how: Attachment, what: str) -> None:
    """Raise BadInput for what libvirt would refuse; ``what`` names the disk."""
    if how.bus not in TARGETS:
        raise BadInput(f"The bus {how.bus!r} of the {what} is unknown: use one of {', '.join(TARGETS)}.")
    if how.target is not None and not _TARGET.fullmatch(how.target):
        raise BadInput(f"The target {how.target!r} of the {what} is no name of a disk: give one such as vda or sdb.")
    if how.serial is not None and not _SERIAL.fullmatch(how.serial):
        raise BadInput(
            f"The serial {how.serial!r} of the {what} cannot be used: give 1 to 36 letters, digits, spaces, '_', '.' "
            "or '-'."
        )
    if how.device == "cdrom" and how.bus == "virtio":
        raise BadInput(f"The {what} cannot be a cdrom on bus virtio: use sata, scsi, ide or usb.")
    if how.io == "native" and how.cache not in ("none", "directsync"):
        raise BadInput(f"The {what} asks for io native, which needs cache none or directsync: set one of them.")


def disk_xml(chain: Sequence[Link], how: Attachment, target: str) -> str:
    """The element for ``chain``, which begins with the disk itself, as ``target`` of the guest.

    Written by hand, and what is alike for thousands of disks only once: an element tree takes ten times as long.
    """
    disk = chain[0]
    lines = [
        _head(disk.place.kind, disk.format, how),
        _source(disk.place, "  "),
        _below(tuple(chain[1:])),
        "  " + _empty("target", {"dev": target, "bus": how.bus}),
    ]
    if how.serial is not None:
        lines.append(f"  <serial>{escape(how.serial)}</serial>")
    if how.device == "cdrom":
        lines.append("  <readonly/>")
    return "\n".join([*lines, "</disk>"])


@lru_cache
def _head(kind: str, format: str, how: Attachment) -> str:
    driver = {"name": "qemu", "type": format, "cache": how.cache, "io": how.io, "discard": how.discard}
    return _open("disk", {"type": kind, "device": how.device}) + "\n  " + _empty("driver", driver)


@lru_cache
def _below(chain: Sequence[Link]) -> str:
    """What a disk stands on, down to the empty element that ends every chain."""
    lines = []
    for depth, link in enumerate(chain, start=1):
        lines += [
            "  " * depth + _open("backingStore", {"type": link.place.kind}),
            "  " * depth + "  " + _empty("format", {"type": link.format}),
            _source(link.place, "  " * depth + "  ", '<seclabel model="dac" relabel="no"/>'),
        ]
    lines.append("  " * len(chain) + "  <backingStore/>")
    lines += ["  " * depth + "</backingStore>" for depth in range(len(chain), 0, -1)]
    return "\n".join(lines)


def _source(place: Location, indent: str, *inner: str) -> str:
    """Where a volume is."""
    if place.kind == "network":
        lines = [_open("source", {"protocol": "rbd", "name": place.name})]
        lines += _cluster(place.hosts, place.user, place.secret)
    elif not inner:
        return indent + _empty("source", {_BY_KIND[place.kind]: place.name})
    else:
        lines = [_open("source", {_BY_KIND[place.kind]: place.name})]
    return "\n".join(indent + line for line in [*lines, *("  " + line for line in inner), "</source>"])


@lru_cache
def _cluster(hosts: tuple[str, ...], user: str, secret: str) -> tuple[str, ...]:
    """The monitors, and who asks them."""
    lines = []
    for host in hosts:
        name, port = split(host)
        lines.append("  " + _empty("host", {"name": name, "port": port or None}))
    if user:
        lines += ["  " + _open("auth", {"username": user}), "    " + _empty("secret", {"type": "ceph", "uuid": secret})]
        lines.append("  </auth>")
    return tuple(lines)


def default_target(bus: str, position: int) -> str:
    """The device name of the disk that stands at ``position`` (from 0) on ``bus``: vda, vdb, ... vdaa."""
    letters, number = "", position + 1
    while number:
        number, rest = divmod(number - 1, 26)
        letters = chr(ord("a") + rest) + letters
    return TARGETS[bus] + letters


def _open(name: str, attributes: Mapping[str, str | None]) -> str:
    shown = (f" {key}={quoteattr(value)}" for key, value in attributes.items() if value is not None)
    return f"<{name}{''.join(shown)}>"


def _empty(name: str, attributes: Mapping[str, str | None]) -> str:
    return _open(name, attributes)[:-1] + "/>"
