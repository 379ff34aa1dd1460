# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""The folder of a pool for sources that have to be read twice. Its files have no name while they are used: what has
one was left by the dead. Only an NFS client gives a file a name again that goes while it is open, and other hosts see
that name and cannot see who has the file open."""

from __future__ import annotations

import contextlib
import os
import time

from .usage import users_of_files

_NAMED_BY_NFS = ".nfs"
_ABANDONED = 24 * 3600
"""Seconds without a change after which nobody on any host works with a file any more."""


def make_staging(directory: str) -> None:
    """Have the folder, which nobody else looks into. Idempotent."""
    os.makedirs(directory, mode=0o700, exist_ok=True)
    os.chmod(directory, 0o700)


def sweep_staging(directory: str) -> list[str]:
    """Remove what was left there, and give its paths. What any process has open stays."""
    cleared = []
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(directory):
            path = os.path.join(directory, name)
            if not _may_be_in_use(path):
                os.unlink(path)
                cleared.append(path)
    return cleared


def _may_be_in_use(path: str) -> bool:
    removed = os.path.basename(path).startswith(_NAMED_BY_NFS)
    if removed and time.time() - os.lstat(path).st_mtime < _ABANDONED:
        return True
    return any(users_of_files([path]).values())


def staging_room(directory: str) -> int:
    """The bytes that staging may take in a folder that need not be there yet: what is free, less a tenth for others."""
    while not os.path.isdir(directory):
        directory = os.path.dirname(directory)
    status = os.statvfs(directory)
    return status.f_bavail * status.f_frsize * 9 // 10
