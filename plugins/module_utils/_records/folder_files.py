# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""The few ways in which the folder store touches files that others could have put there."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import time

from .._ground.errors import BadInput, LostMetadata

FILE_LIMIT = 1 << 20
"""No file of the store is larger, in bytes."""
STALE_TRIES = 2


def read_file(path: str) -> bytes:
    """A small regular file, whole; nobody's link is followed. On NFS one that another host has just replaced may be
    stale, for whoever remembers its name or has it open: then it is looked for again."""
    for _again in range(STALE_TRIES):
        try:
            return _read_file(path)
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
    return _read_file(path)


def _read_file(path: str) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise LostMetadata(f"The record file {path} is a symbolic link, which virt.storage never makes.") from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise LostMetadata(f"The record file {path} is not a regular file.")
        return os.read(descriptor, FILE_LIMIT)
    finally:
        os.close(descriptor)


def look_afresh(*folders: str) -> None:
    """Have what others made in ``folders``, outermost first, found from now on: an NFS client remembers for up to a
    minute that a name was not there, until it opens the folder anew."""
    for folder in folders:
        with contextlib.suppress(PermissionError):  # then it can be passed through, or the next look tells
            os.close(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))


def names_in(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def seconds_since_named(path: str) -> float:
    """Seconds since a file got its last name; none for one that somebody removed meanwhile."""
    try:
        return time.time() - os.lstat(path).st_ctime
    except FileNotFoundError:
        return 0.0


def drop(path: str) -> None:
    """Remove a file that somebody else may be removing, too."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def check_own_folder(path: str) -> None:
    """Refuse a folder that somebody else put there for us to write into."""
    status = os.lstat(path)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise BadInput(
            f"The path {path} is not a folder of user {os.geteuid()}: remove it, or give the folder to that user."
        )


def new_file(folder: str, data: bytes) -> str:
    """The path of a file of its own with ``data``, not durable yet."""
    path = os.path.join(folder, secrets.token_hex(12))
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        if os.write(descriptor, data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
    except OSError:
        os.unlink(path)
        raise
    finally:
        os.close(descriptor)
    return path
