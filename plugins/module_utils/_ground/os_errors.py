# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""Errors of the operating system, told to the reader in one sentence."""

from __future__ import annotations

import errno

from .errors import OutOfSpace, StorageError

_CAUSES = {
    errno.ENOSPC: "No space is left for {path}: free some on its file system and run the task again.",
    errno.EDQUOT: "The disk quota leaves no space for {path}: raise it and run the task again.",
    errno.EROFS: "The file system of {path} is read-only: make it writable, or if it failed (see the kernel's log), "
    "mend what is under it and mount it anew, and run the task again.",
    errno.EACCES: "Access to {path} was denied: run the task as root (become: true), or let root write there "
    "(an NFS export with root_squash does not).",
    errno.ESTALE: "The NFS server no longer knows {path}: mount the pool anew and run the task again.",
    errno.EIO: "Reading or writing {path} failed: check the storage under it (see the kernel's log).",
}
_CAUSES[errno.EPERM] = _CAUSES[errno.EACCES]
_FULL = (errno.ENOSPC, errno.EDQUOT)


def told(error: OSError) -> StorageError:
    """What ``error`` means, as a member of the family."""
    path = error.filename or "what the task writes"
    if isinstance(path, bytes):
        path = path.decode(errors="replace")
    cause = _CAUSES.get(error.errno or 0, f"The operating system refused {{path}}: {error.strerror or error}.")
    kind = OutOfSpace if error.errno in _FULL else StorageError
    return kind(cause.format(path=path), errno=error.errno)
