# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""The folder of Nova's libvirt driver, read as what anybody could have written. Nothing is followed, nothing believed.

::

    <instances>/_base/<name>     the shared cache: what overlays stand on, or disks were copied from
    <instances>/<uuid>/disk...   the disks of an instance, as files
    <instances>/<uuid>/disk.info {absolute path: "raw" | "qcow2"}, in one line

Names only tell what a file is called by; what a disk stands on is in its header. What is not understood is listed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from .errors import StorageError
from .old_files import FileFacts, facts_of, names_in, read_small

_INSTANCE = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|instance-[0-9a-f]{8}")
_BASES = re.compile(r"_base(_[0-9A-Za-z.:-]+)?")
_BASE_KINDS = (
    (re.compile(r"[0-9a-f]{40}"), "image"),
    (re.compile(r"[0-9a-f]{40}_([0-9]+|sm)"), "image resized by an old release"),
    (re.compile(r"swap_[0-9]+"), "swap"),
    (re.compile(r"ephemeral_[0-9]+_[0-9a-f]{7}|ephemeral_([0-9]+_)?[0-9]+_[A-Za-z0-9.-]+"), "ephemeral"),
)
_BASE_LITTER = re.compile(r".*\.(info|sha1|part|converted)")
_ROLES = {"disk": "root", "disk.local": "ephemeral", "disk.swap": "swap", "disk.config": "config"}
_EPHEMERAL = re.compile(r"disk\.eph([0-9]{1,3})")
_KEPT = {"kernel", "ramdisk", "console.log", "disk.info", "libvirt.xml"}
_LITTER = re.compile(r"disk\.info\.tmp|.*_qcow|.*\.fallocate_test|[0-9a-f]{32}\.tmp")
_FORMATS = ("raw", "qcow2")
_SERVICE = b"nova-compute"


@dataclass(frozen=True)
class FoundDisk:
    """A file that is a disk of an instance by its name."""

    role: str
    facts: FileFacts


@dataclass(frozen=True)
class FoundInstance:
    """A folder of an instance. ``info`` is what disk.info says, ``flaws`` are why it cannot be converted, ``unread``
    why what disk.info says is not known."""

    name: str
    disks: tuple[FoundDisk, ...]
    info: Mapping[str, str] = field(default_factory=dict)
    unread: str = ""
    flaws: tuple[str, ...] = ()


@dataclass(frozen=True)
class FoundBase:
    """A file of the cache. ``kind`` is what its name says."""

    facts: FileFacts
    kind: str


@dataclass(frozen=True)
class FoundLayout:
    """What a folder holds. ``left`` has each path that is left alone, and why."""

    root: str
    folders: tuple[str, ...]
    bases: Mapping[str, FoundBase]
    instances: tuple[FoundInstance, ...]
    left: tuple[tuple[str, str], ...]


def read_layout(root: str) -> FoundLayout:
    """Everything in Nova's folder of instances; StorageError where that is no folder."""
    if not os.path.isdir(root):
        raise StorageError(f"There is no folder {root}: give the folder that nova.conf calls instances_path.")
    folders: list[str] = []
    bases: dict[str, FoundBase] = {}
    instances: list[FoundInstance] = []
    left: list[tuple[str, str]] = []
    for entry in names_in(root):
        path = os.path.join(root, entry.name)
        if entry.name in ("locks", "compute_nodes", "lost+found"):
            continue
        if not entry.is_dir(follow_symlinks=False):
            left.append((path, "a symbolic link, not followed" if entry.is_symlink() else "not of an instance"))
        elif _BASES.fullmatch(entry.name):
            folders.append(path)
            _read_bases(path, bases, left)
        elif _INSTANCE.fullmatch(entry.name):
            instances.append(_read_instance(root, entry.name, left))
        else:
            left.append((path, _why_left(entry.name)))
    return FoundLayout(root, tuple(folders), bases, tuple(instances), tuple(left))


def _why_left(name: str) -> str:
    owner, _underscore, what = name.rpartition("_")
    if _INSTANCE.fullmatch(owner) and what in ("resize", "del"):
        return "an instance that is being resized" if what == "resize" else "an instance that is being deleted"
    return "no folder of an instance"


def _read_bases(folder: str, bases: dict[str, FoundBase], left: list[tuple[str, str]]) -> None:
    for entry in names_in(folder):
        path = os.path.join(folder, entry.name)
        facts = facts_of(path)
        if facts is None:
            continue
        if _BASE_LITTER.fullmatch(entry.name):
            left.append((path, "an old checksum, or left by a download that was broken off"))
        elif facts.kind != "file":
            left.append((path, f"a {facts.kind} among the cached files, not followed"))
        else:
            kinds = (kind for pattern, kind in _BASE_KINDS if pattern.fullmatch(entry.name))
            bases[path] = FoundBase(facts, next(kinds, "unknown"))


def _read_instance(root: str, name: str, left: list[tuple[str, str]]) -> FoundInstance:
    folder = os.path.join(root, name)
    disks: list[FoundDisk] = []
    flaws: list[str] = []
    if facts_of(folder + "_resize") is not None:
        flaws.append("it is being resized: confirm or revert that first")
    if facts_of(folder + "_del") is not None:
        flaws.append("it is being deleted")
    for entry in names_in(folder):
        path = os.path.join(folder, entry.name)
        role = _role(entry.name)
        facts = facts_of(path)
        if facts is None:
            continue
        if entry.name == "unrescue.xml" or entry.name.endswith(".rescue"):
            flaws.append(f"it is being rescued ({entry.name}): unrescue it first")
        elif entry.name in ("root.hds", "DiskDescriptor.xml") or (role and facts.kind == "folder"):
            flaws.append(f"{path} is of the ploop kind, which is not converted")
        elif role and facts.kind != "file":
            flaws.append(f"{path} is a {'symbolic link' if facts.kind == 'link' else 'special file'}, not followed")
        elif role:
            disks.append(FoundDisk(role, facts))
        elif entry.name not in _KEPT:
            left.append((path, "a leftover" if _LITTER.fullmatch(entry.name) else "not understood"))
    info, unread = _read_info(os.path.join(folder, "disk.info"))
    return FoundInstance(name, tuple(disks), info, unread, tuple(dict.fromkeys(flaws)))


def _role(name: str) -> str:
    numbered = _EPHEMERAL.fullmatch(name)
    return f"ephemeral-{numbered.group(1)}" if numbered else _ROLES.get(name, "")


def _read_info(path: str) -> tuple[Mapping[str, str], str]:
    """What disk.info says, or why that is not known. Only formats that Nova writes there count."""
    try:
        said = json.loads(read_small(path))
    except FileNotFoundError:
        return {}, ""
    except (OSError, StorageError, ValueError, RecursionError):
        return {}, f"{path} cannot be read"
    if not isinstance(said, dict) or any(said[each] not in _FORMATS for each in said):
        return {}, f"{path} says something else than raw and qcow2"
    return said, ""


def service_runs() -> bool:
    """Whether nova-compute is a process of this host, in a container or not."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read(4096).split(b"\0")[:3]
            if any(os.path.basename(word) == _SERVICE for word in words):
                return True
    return False
