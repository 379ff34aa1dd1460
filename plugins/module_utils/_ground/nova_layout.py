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
_BASE_LITTER = re.compile(r".*\.(info|sha1|part|converted)")
_ROLES = {"disk": "root", "disk.local": "ephemeral", "disk.swap": "swap", "disk.config": "config"}
_EPHEMERAL = re.compile(r"disk\.eph([0-9]{1,3})")
_KEPT = {"kernel", "ramdisk", "console.log", "disk.info", "libvirt.xml"}
_LITTER = re.compile(r"disk\.info\.tmp|.*_qcow|.*\.fallocate_test|[0-9a-f]{32}\.tmp")
_UNDER_WAY = {"resize": "being resized: confirm or revert that first", "del": "being deleted"}
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
class FoundLayout:
    """What a folder holds. ``left`` has each path that is left alone, and why. ``under_way`` tells that Nova is in the
    midst of something with an instance whose disks are among them."""

    root: str
    folders: tuple[str, ...]
    bases: Mapping[str, FileFacts]
    instances: tuple[FoundInstance, ...]
    left: tuple[tuple[str, str], ...]
    under_way: bool = False


def read_layout(root: str) -> FoundLayout:
    """Everything in Nova's folder of instances; StorageError where that is no folder."""
    if not os.path.isdir(root):
        raise StorageError(f"There is no folder {root}: give the folder that nova.conf calls instances_path.")
    folders: list[str] = []
    bases: dict[str, FileFacts] = {}
    instances: list[FoundInstance] = []
    left: list[tuple[str, str]] = []
    under_way = False
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
            owner, _underscore, what = entry.name.rpartition("_")
            why = _UNDER_WAY.get(what) if _INSTANCE.fullmatch(owner) else None
            under_way = under_way or why is not None
            left.append((path, f"an instance that is {why}" if why else "no folder of an instance"))
    return FoundLayout(root, tuple(folders), bases, tuple(instances), tuple(left), under_way)


def _read_bases(folder: str, bases: dict[str, FileFacts], left: list[tuple[str, str]]) -> None:
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
            bases[path] = facts


def _read_instance(root: str, name: str, left: list[tuple[str, str]]) -> FoundInstance:
    folder = os.path.join(root, name)
    disks: list[FoundDisk] = []
    flaws = unsettled(root, name)
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


def unsettled(root: str, name: str) -> list[str]:
    """What Nova is in the midst of with an instance, whatever its disks are, by the folders beside that of it."""
    return [f"it is {why}" for what, why in _UNDER_WAY.items() if facts_of(os.path.join(root, f"{name}_{what}"))]


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
