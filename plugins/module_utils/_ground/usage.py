# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""Who uses a file, on this host and, over NFS, on others: by locks, by open descriptors, by guests.

A guest's qemu locks bytes of its images (on NFS the server knows them for all hosts); whoever has the file open
under any name shows by its inode; a guest with a managed save goes on with its disks when it is restored.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Callable, Collection, Mapping, Sequence

from .libvirt_host import Use, using_any

_FLOCK = struct.Struct("hhqqi4x")
Identity = tuple[int, int]


def users_of_files(paths: Sequence[str], guests: Callable[[], list[Use]] | None = None) -> Mapping[str, list[str]]:
    """For each path that exists, who uses it, in words; an empty list where nobody does.

    ``guests`` lists the disks of this host's guests. Raises OSError where it cannot be told.
    """
    found: dict[str, list[str]] = {}
    files: dict[Identity, list[str]] = {}
    for path in paths:
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            continue
        found[path] = _by_lock(path)
        files.setdefault((status.st_dev, status.st_ino), []).append(path)
    if files:
        for identity, who in _open_files(files):
            for path in files[identity]:
                found[path].append(who)
        uses = using_any(guests() if guests is not None else [], found)
        for path, users in found.items():
            users.extend(f"guest {use}" for use in uses[path] if use.live)
    return found


def _by_lock(path: str) -> list[str]:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
        free = _FLOCK.unpack(answer)[0] == fcntl.F_UNLCK
    finally:
        os.close(descriptor)
    return [] if free else ["a process that locks it, on this host or another"]


def _open_files(files: Collection[Identity]) -> list[tuple[Identity, str]]:
    """Which of ``files`` a process of this host, or a loop device, has open."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        if int(pid) != os.getpid():
            for identity in _opened_by(f"/proc/{pid}/fd").intersection(files):
                found.append((identity, f"process {pid} ({_name(pid)})"))
    for device in os.listdir("/sys/block"):
        backing = _backing(device)
        if backing is not None and backing in files:
            found.append((backing, f"loop device /dev/{device}"))
    return found


def _opened_by(folder: str) -> set[Identity]:
    opened = set()
    try:
        for entry in os.listdir(folder):
            try:
                status = os.stat(os.path.join(folder, entry))
            except (FileNotFoundError, PermissionError, OSError):
                continue
            opened.add((status.st_dev, status.st_ino))
    except (FileNotFoundError, ProcessLookupError):
        return opened  # the process ended meanwhile
    return opened


def _name(pid: str) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return "ended meanwhile"


def _backing(device: str) -> Identity | None:
    try:
        with open(f"/sys/block/{device}/loop/backing_file", "rb") as file:  # a path may hold any byte
            status = os.stat(file.read()[:-1])
    except OSError:
        return None
    return status.st_dev, status.st_ino
