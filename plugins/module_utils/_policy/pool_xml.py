# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""What defines a libvirt storage pool, and its XML.

Reading keeps the parts that virt.storage manages; writing changes these parts and leaves the rest of a definition
that somebody else made as it is. A type of pool is a class for its source: to add one, add the class to `SOURCES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Union
from xml.etree import ElementTree

from .pool_ceph import CephSource
from .pool_group import VolumeGroup
from .pool_nfs import NfsExport

Source = Union[NfsExport, CephSource, VolumeGroup]
SOURCES: Mapping[str, type[NfsExport] | type[CephSource] | type[VolumeGroup]] = {
    "netfs": NfsExport,
    "logical": VolumeGroup,
    "rbd": CephSource,
}
"""What a pool of each type comes from. A dir pool is its folder, and comes from nothing."""
TYPES = ("dir", *SOURCES)
"""The pool types that can be made."""
WITH_FOLDER = ("dir", "netfs")
"""The types whose volumes are files."""


@dataclass(frozen=True)
class Definition:
    """What a pool is defined by. ``path`` is the folder in which its volumes are, "" where they are in none."""

    name: str
    type: str
    path: str = ""
    uuid: str | None = None
    source: Source | None = None

    def __str__(self) -> str:
        source, path = str(self.source or ""), self.path
        return f"{self.type}, {source}{' on ' if source and path else ''}{path}"

    @property
    def place(self) -> str:
        """Where its volumes are, as the beginning of a sentence."""
        return f"The folder {self.path}" if self.path or not self.source else self.source.place

    @property
    def nfs(self) -> NfsExport | None:
        """The source of a netfs pool."""
        return self.source if isinstance(self.source, NfsExport) else None

    @property
    def ceph(self) -> CephSource | None:
        """The source of an rbd pool."""
        return self.source if isinstance(self.source, CephSource) else None

    @property
    def group(self) -> str:
        """The volume group of a logical pool; "" for others."""
        return self.source.group if isinstance(self.source, VolumeGroup) else ""


def read(xml: str) -> Definition:
    """The definition in a pool's XML, as libvirt writes it."""
    root = ElementTree.fromstring(xml)
    kind = root.get("type", "")
    return Definition(
        name=root.findtext("name") or "",
        type=kind,
        path="" if kind in TYPES and kind not in WITH_FOLDER else root.findtext("./target/path") or "",
        uuid=root.findtext("uuid"),
        source=SOURCES[kind].read(root) if kind in SOURCES else None,
    )


def defined_anew(live: str, stored: str) -> str:
    """Why a pool that runs by the XML ``live`` is not to be worked with: by ``stored`` it will be somewhere else when
    it starts next, and what is made now would be missing there. Empty where both say the same."""
    runs, next_start = read(live), read(stored)
    if runs == next_start:
        return ""
    return (
        f"Pool {runs.name} runs as {runs}, and was defined anew as {next_start} meanwhile: stop it with libvirt_pool "
        "state=inactive, then define it as it is to be, and start it."
    )


def write(definition: Definition, onto: str | None = None) -> str:
    """The XML for ``definition``; with ``onto``, that XML with the definition's parts changed in it."""
    root = ElementTree.fromstring(onto) if onto else ElementTree.Element("pool")
    root.set("type", definition.type)
    _child(root, "name").text = definition.name
    if definition.uuid:
        _child(root, "uuid").text = definition.uuid
    if definition.source and not (onto and read(onto).source == definition.source):
        source = _child(root, "source")
        for old in [part for part in source if part.tag in definition.source.PARTS]:
            source.remove(old)
        definition.source.write(root, source)
    if definition.path:
        _child(_child(root, "target"), "path").text = definition.path
    return ElementTree.tostring(root, encoding="unicode")


def _child(parent: ElementTree.Element, tag: str) -> ElementTree.Element:
    found = parent.find(tag)
    return found if found is not None else ElementTree.SubElement(parent, tag)
