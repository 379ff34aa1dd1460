# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""The immutable flag of a file (``chattr +i``), where the file system knows it and we may set it."""

from __future__ import annotations

import errno
import fcntl
import os
import struct

_GETFLAGS, _SETFLAGS, _IMMUTABLE = 0x80086601, 0x40086602, 0x10
_CAP_LINUX_IMMUTABLE = 9
_LONG = struct.Struct("l")
_UNKNOWN = (errno.ENOTTY, errno.EOPNOTSUPP, errno.EPERM, errno.EINVAL)


def set_immutable(descriptor: int, immutable: bool) -> None:
    """Set or clear the immutable flag; file systems without it are let be (the mode still stands)."""
    try:
        flags = _LONG.unpack(fcntl.ioctl(descriptor, _GETFLAGS, _LONG.pack(0)))[0]
        flags = flags | _IMMUTABLE if immutable else flags & ~_IMMUTABLE
        fcntl.ioctl(descriptor, _SETFLAGS, _LONG.pack(flags))
    except OSError as error:
        if error.errno not in _UNKNOWN:
            raise


def is_immutable(descriptor: int) -> bool:
    """Whether the flag is set, or cannot be: not on this file system, or not by this process."""
    try:
        flags = _LONG.unpack(fcntl.ioctl(descriptor, _GETFLAGS, _LONG.pack(0)))[0]
    except OSError as error:
        if error.errno not in _UNKNOWN:
            raise
        return True
    return bool(flags & _IMMUTABLE) or not _mayset_immutable()


def _mayset_immutable() -> bool:
    """Whether this process has the capability to; in a container root may lack it."""
    with open("/proc/self/status", encoding="ascii") as status:
        effective = next(line for line in status if line.startswith("CapEff:"))
    return bool(int(effective.split()[1], 16) >> _CAP_LINUX_IMMUTABLE & 1)


def has_flag(descriptor: int) -> bool:
    """Whether the flag is set; not so where it is not known."""
    try:
        return bool(_LONG.unpack(fcntl.ioctl(descriptor, _GETFLAGS, _LONG.pack(0)))[0] & _IMMUTABLE)
    except OSError as error:
        if error.errno not in _UNKNOWN:
            raise
        return False


def unlink(path: str) -> None:
    """Take a name away, also that of an immutable file, which stays so under the names that are left to it."""
    try:
        os.unlink(path)
        return
    except PermissionError:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        flagged = has_flag(descriptor)
        set_immutable(descriptor, False)
        try:
            os.unlink(path)
        finally:
            if flagged and os.fstat(descriptor).st_nlink:
                set_immutable(descriptor, True)
    finally:
        os.close(descriptor)
