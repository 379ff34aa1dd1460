# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""Copying files inside of a file system: by sharing extents, or by what is data."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable

_FICLONE = 0x40049409
_COPY_PIECE = 64 << 20


def share_extents(source: int, target: int) -> bool:
    """Give ``target`` the content of ``source`` without copying it; whether the file system can."""
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL):
            raise
        return False
    return True


def copy_data(source: int, target: int, beat: Callable[[], None]) -> int:
    """Copy what is data, leave holes holes; gives how many bytes that were."""
    end, offset, amount = os.fstat(source).st_size, 0, 0
    while offset < end:
        try:
            offset = os.lseek(source, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                break
            raise
        stop = os.lseek(source, offset, os.SEEK_HOLE)
        while offset < stop:
            done = os.copy_file_range(source, target, min(stop - offset, _COPY_PIECE), offset, offset)
            offset, amount = offset + done, amount + done
            beat()
    os.ftruncate(target, end)
    return amount
