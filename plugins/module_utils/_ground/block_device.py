# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""Block devices, asked and told through the kernel itself: size, seal, zeroes, and who has one open."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import struct
import time
from collections.abc import Callable, Collection, Iterator, Mapping

from .digest import Buffer
from .errors import StorageError
from .mounts import MOUNTS

_BLKROGET, _BLKZEROOUT = 0x125E, 0x127F
_RANGE = struct.Struct("QQ")
_ZERO_PIECE = 256 << 20
"""Bytes that are zeroed between two signs of life."""
APPEARS_SECONDS = 20.0
"""How long a name in /dev may take to appear once its device is there: udev makes it, in its own time."""


@contextlib.contextmanager
def open_device(path: str, number: int, flags: int) -> Iterator[int]:
    """The block device of that number, open by ``path``, which udev may be about to make."""
    await_name(path, number)
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISBLK(status.st_mode) or status.st_rdev != number:
            raise _not_there(path, number)
        yield descriptor
    finally:
        os.close(descriptor)


def await_name(path: str, number: int) -> None:
    """Wait, for a bounded time, until ``path`` is the device of that number."""
    until = time.monotonic() + APPEARS_SECONDS
    while not _is(path, number):
        if time.monotonic() > until:
            raise _not_there(path, number)
        time.sleep(0.05)


def _is(path: str, number: int) -> bool:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return False
    return stat.S_ISBLK(status.st_mode) and status.st_rdev == number


def _not_there(path: str, number: int) -> StorageError:
    return StorageError(
        f"The device {path} did not become {os.major(number)}:{os.minor(number)} within {APPEARS_SECONDS:.0f} seconds: "
        "see that udev runs, then run the task again."
    )


def device_size(descriptor: int) -> int:
    """Bytes of an open device, as the kernel has it."""
    return os.lseek(descriptor, 0, os.SEEK_END)


def is_read_only(descriptor: int) -> bool:
    """Whether the kernel refuses every write to the device."""
    flag = bytearray(4)
    fcntl.ioctl(descriptor, _BLKROGET, flag)
    return any(flag)


def zero(descriptor: int, start: int, end: int, beat: Callable[[], None] = lambda: None) -> None:
    """The bytes from ``start`` to ``end``, in whole sectors, read as zeroes on return, durably."""
    while start < end:
        piece = min(end - start, _ZERO_PIECE)
        fcntl.ioctl(descriptor, _BLKZEROOUT, _RANGE.pack(start, piece))
        start += piece
        beat()
    os.fsync(descriptor)


def write_at(descriptor: int, data: Buffer, offset: int) -> None:
    """Write all of ``data``, also when the kernel takes it in parts."""
    view = memoryview(data)
    while view:
        done = os.pwrite(descriptor, view, offset)
        view, offset = view[done:], offset + done


def users_of_devices(numbers: Collection[int]) -> Mapping[int, list[str]]:
    """For each block device, by number, who has it open on this host, in words: processes, mounts, other devices."""
    found: dict[int, list[str]] = {number: [] for number in numbers}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        if int(pid) != os.getpid():
            for number in _opened_by(pid) & found.keys():
                found[number].append(f"process {pid} ({_first_line(f'/proc/{pid}/comm') or 'ended meanwhile'})")
    for number, where in _mounts():
        if number in found:
            found[number].append(f"the mount at {where}")
    for number in found:
        with contextlib.suppress(FileNotFoundError):
            for holder in os.listdir(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/holders"):
                name = _first_line(f"/sys/block/{holder}/dm/name") or holder
                found[number].append(f"the device {name} on top of it")
    for device in os.listdir("/sys/block"):
        backing = _first_line(f"/sys/block/{device}/loop/backing_file")
        if backing:
            with contextlib.suppress(OSError):
                number = os.stat(backing).st_rdev
                if number in found:
                    found[number].append(f"loop device /dev/{device}")
    return found


def _opened_by(pid: str) -> set[int]:
    opened = set()
    try:
        for entry in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                status = os.stat(f"/proc/{pid}/fd/{entry}")
                if stat.S_ISBLK(status.st_mode):
                    opened.add(status.st_rdev)
    except (FileNotFoundError, ProcessLookupError):
        return opened  # the process ended meanwhile
    return opened


def _mounts() -> Iterator[tuple[int, str]]:
    with open(MOUNTS, encoding="utf-8", errors="surrogateescape", newline="\n") as lines:
        for line in lines:
            fields = line.split(" ")
            major, _colon, minor = fields[2].partition(":")
            yield os.makedev(int(major), int(minor)), fields[4]


def _first_line(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.readline().strip()
    except OSError:
        return ""
