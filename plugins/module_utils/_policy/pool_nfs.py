# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""Where a netfs pool comes from: an export of an NFS server on which records can live."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar
from xml.etree import ElementTree

from .._ground.errors import BadInput
from .pool_names import normal_path, shown

MOUNT_OPTIONS = "http://libvirt.org/schemas/storagepool/fs/1.0"
ElementTree.register_namespace("fs", MOUNT_OPTIONS)

_VERSION_OPTION = re.compile(r"(?:(?:nfs)?vers|minorversion)=.*|v\d+(?:\.\d+)?")
_NFS_VERSIONS = ("4.1", "4.2")


@dataclass(frozen=True)
class NfsExport:
    """Where a netfs pool comes from. ``version`` is "4.1" or "4.2"; ``options`` are mount options, sorted."""

    host: str
    export: str
    version: str | None = None
    options: tuple[str, ...] = ()

    PARTS: ClassVar[tuple[str, ...]] = ("host", "dir", "format", "protocol")

    def __str__(self) -> str:
        return f"{self.host}:{self.export}"

    @property
    def place(self) -> str:
        """As the beginning of a sentence."""
        return f"The export {self}"

    def fields(self) -> dict[str, Any]:
        """As the module takes and returns it; without a version that nobody set."""
        given = {"host": self.host, "export": self.export, "version": self.version, "options": list(self.options)}
        return {name: value for name, value in given.items() if value is not None}

    @classmethod
    def read(cls, root: ElementTree.Element) -> NfsExport:
        """From the XML of a pool."""
        host, export, protocol = (root.find(f"./source/{tag}") for tag in ("host", "dir", "protocol"))
        options = [option.get("name", "") for option in root.iterfind(f"{{{MOUNT_OPTIONS}}}mount_opts/*")]
        return cls(
            host=host.get("name", "") if host is not None else "",
            export=export.get("path", "") if export is not None else "",
            version=protocol.get("ver") if protocol is not None else None,
            options=tuple(sorted(option for option in options if option)),
        )

    def write(self, root: ElementTree.Element, source: ElementTree.Element) -> None:
        """Into the XML of a pool, whose ``source`` has none of the ``PARTS`` any more."""
        ElementTree.SubElement(source, "host").set("name", self.host)
        ElementTree.SubElement(source, "dir").set("path", self.export)
        ElementTree.SubElement(source, "format").set("type", "nfs")
        if self.version:
            ElementTree.SubElement(source, "protocol").set("ver", self.version)
        listed = root.find(f"{{{MOUNT_OPTIONS}}}mount_opts")
        if listed is not None:
            root.remove(listed)
        if self.options:
            listed = ElementTree.SubElement(root, f"{{{MOUNT_OPTIONS}}}mount_opts")
            for option in self.options:
                ElementTree.SubElement(listed, f"{{{MOUNT_OPTIONS}}}option").set("name", option)


def checked_nfs(given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an `NfsExport` that were given, in normal form, or `BadInput` for what records cannot live on."""
    normal = {name: value for name, value in given.items() if value is not None}
    host, version = normal.get("host"), normal.get("version")
    if host is not None and not re.fullmatch(r"[A-Za-z0-9\[][A-Za-z0-9_.:\]-]*", host):
        raise BadInput(f"The NFS server {shown(host)} cannot be used: give a host name or an address.")
    if version is not None and version not in _NFS_VERSIONS:
        raise BadInput(f"NFS version {shown(version)} cannot be used: the records of a pool need 4.1 or 4.2.")
    if "export" in normal:
        normal["export"] = normal_path(normal["export"])
    if "options" in normal:
        normal["options"] = tuple(sorted({_checked_option(option) for option in normal["options"]}))
    return normal


def _checked_option(option: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.:/=-]+", option):
        raise BadInput(f"The mount option {shown(option)} cannot be used: give one option an item.")
    if option == "nocto":
        raise BadInput("The mount option nocto cannot be used: with it a host does not see what others wrote.")
    if _VERSION_OPTION.fullmatch(option):
        raise BadInput(f"The mount option {option} cannot be used: say the version with netfs.version.")
    return option


def unfit(nfs: NfsExport) -> str | None:
    """What is wrong with the definition of an NFS pool that somebody else made; None when it will do."""
    if nfs.version is not None and nfs.version not in (*_NFS_VERSIONS, "4"):
        return f"it is defined with NFS version {nfs.version}, and the records of a pool need 4.1 or 4.2"
    if "nocto" in nfs.options:
        return "it is defined with nocto, with which a host does not see what others wrote"
    return None


def unfit_mount(options: str) -> str | None:
    """What is wrong with a mounted NFS file system, from its super options in mountinfo; None when it will do."""
    given = options.split(",")
    version = next((option.partition("=")[2] for option in given if option.startswith("vers=")), "")
    if version not in _NFS_VERSIONS:
        return f"it is mounted with NFS version {version or 'unknown'}, and the records of a pool need 4.1 or 4.2"
    if "nocto" in given:
        return "it is mounted with nocto, with which a host does not see what others wrote"
    return None
