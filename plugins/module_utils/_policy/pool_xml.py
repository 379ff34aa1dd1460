# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""What defines a libvirt storage pool, and its XML.

Reading keeps the parts that virt.storage manages; writing changes these parts and leaves the rest of a definition
that somebody else made as it is.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from .._ground.errors import BadInput

TYPES = ("dir", "netfs")
"""The pool types that can be made. Each has its part in `Definition`; logical and rbd are to follow."""

MOUNT_OPTIONS = "http://libvirt.org/schemas/storagepool/fs/1.0"
ElementTree.register_namespace("fs", MOUNT_OPTIONS)

LONGEST_NAME = 100
LONGEST_PATH = 1000
"""Bytes; leaves room below the kernel's 4096 for what stands in the folder."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_VERSION_OPTION = re.compile(r"(?:(?:nfs)?vers|minorversion)=.*|v\d+(?:\.\d+)?")
_NFS_VERSIONS = ("4.1", "4.2")


@dataclass(frozen=True)
class NfsExport:
    """Where a netfs pool comes from. ``version`` is "4.1" or "4.2"; ``options`` are mount options, sorted."""

    host: str
    export: str
    version: str | None = None
    options: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.host}:{self.export}"

    def fields(self) -> dict[str, Any]:
        """As the module takes and returns it; without a version that nobody set."""
        given = {"host": self.host, "export": self.export, "version": self.version, "options": list(self.options)}
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True)
class Definition:
    """What a pool is defined by. ``path`` is the folder in which its volumes are; ``nfs`` is for netfs alone."""

    name: str
    type: str
    path: str
    uuid: str | None = None
    nfs: NfsExport | None = None

    def __str__(self) -> str:
        source = f"{self.nfs} on " if self.nfs else ""
        return f"{self.type}, {source}{self.path}"


def read(xml: str) -> Definition:
    """The definition in a pool's XML, as libvirt writes it."""
    root = ElementTree.fromstring(xml)
    kind = root.get("type", "")
    return Definition(
        name=root.findtext("name") or "",
        type=kind,
        path=root.findtext("./target/path") or "",
        uuid=root.findtext("uuid"),
        nfs=_read_nfs(root) if kind == "netfs" else None,
    )


def write(definition: Definition, onto: str | None = None) -> str:
    """The XML for ``definition``; with ``onto``, that XML with the definition's parts changed in it."""
    root = ElementTree.fromstring(onto) if onto else ElementTree.Element("pool")
    root.set("type", definition.type)
    _child(root, "name").text = definition.name
    if definition.uuid:
        _child(root, "uuid").text = definition.uuid
    if definition.nfs:
        _write_nfs(root, definition.nfs)
    _child(_child(root, "target"), "path").text = definition.path
    return ElementTree.tostring(root, encoding="unicode")


def checked_name(name: str) -> str:
    """The name for a new pool, or `BadInput`. It becomes a file name of libvirt's and stands in messages."""
    if len(name) > LONGEST_NAME or not _NAME.fullmatch(name):
        raise BadInput(
            f"The pool name {shown(name)} cannot be used: give 1 to {LONGEST_NAME} of A-Z, a-z, 0-9 and . _ + -, "
            "beginning with a letter or digit."
        )
    return name


def checked_path(path: str) -> str:
    """The folder of a pool in normal form, or `BadInput`."""
    normal = _normal(path)
    if normal == "/":
        raise BadInput("The path / cannot be used: give a folder of the pool's own.")
    return normal


def checked_nfs(given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an `NfsExport` that were given, in normal form, or `BadInput` for what records cannot live on."""
    normal = {name: value for name, value in given.items() if value is not None}
    host, version = normal.get("host"), normal.get("version")
    if host is not None and not re.fullmatch(r"[A-Za-z0-9\[][A-Za-z0-9_.:\]-]*", host):
        raise BadInput(f"The NFS server {shown(host)} cannot be used: give a host name or an address.")
    if version is not None and version not in _NFS_VERSIONS:
        raise BadInput(f"NFS version {shown(version)} cannot be used: the records of a pool need 4.1 or 4.2.")
    if "export" in normal:
        normal["export"] = _normal(normal["export"])
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


def shown(text: str) -> str:
    """``text`` for a message: in quotes, control characters escaped, and not at endless length."""
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _normal(path: str) -> str:
    if not path.startswith("/") or ".." in path.split("/") or not path.isprintable():
        raise BadInput(f"The path {shown(path)} cannot be used: give an absolute path without '..'.")
    if len(path.encode()) > LONGEST_PATH or any(len(part.encode()) > 255 for part in path.split("/")):
        raise BadInput(f"The path {shown(path)} cannot be used: it is longer than file systems allow.")
    return "/" + posixpath.normpath(path).lstrip("/")


def _read_nfs(root: ElementTree.Element) -> NfsExport:
    host, export, protocol = (root.find(f"./source/{tag}") for tag in ("host", "dir", "protocol"))
    options = [option.get("name", "") for option in root.iterfind(f"{{{MOUNT_OPTIONS}}}mount_opts/*")]
    version = protocol.get("ver") if protocol is not None else None
    return NfsExport(
        host=host.get("name", "") if host is not None else "",
        export=export.get("path", "") if export is not None else "",
        version=version,
        options=tuple(sorted(option for option in options if option)),
    )


def _write_nfs(root: ElementTree.Element, nfs: NfsExport) -> None:
    source = _child(root, "source")
    _child(source, "host").set("name", nfs.host)
    _child(source, "dir").set("path", nfs.export)
    _child(source, "format").set("type", "nfs")
    if nfs.version:
        _child(source, "protocol").set("ver", nfs.version)
    listed = root.find(f"{{{MOUNT_OPTIONS}}}mount_opts")
    if listed is not None:
        root.remove(listed)
    if nfs.options:
        listed = ElementTree.SubElement(root, f"{{{MOUNT_OPTIONS}}}mount_opts")
        for option in nfs.options:
            ElementTree.SubElement(listed, f"{{{MOUNT_OPTIONS}}}option").set("name", option)


def _child(parent: ElementTree.Element, tag: str) -> ElementTree.Element:
    found = parent.find(tag)
    return found if found is not None else ElementTree.SubElement(parent, tag)
