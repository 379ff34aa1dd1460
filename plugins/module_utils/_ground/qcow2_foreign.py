# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""What in the header of a qcow2 file from elsewhere would lead qemu to other files, or to guess.

Disks that we make have none of it. One that somebody else made is looked at before it gets a record.
"""

from __future__ import annotations

import os

from . import qcow2


def foreign_flaw(path: str) -> str:
    """Why the qcow2 file at ``path`` cannot become a disk of ours as it is; empty where it can.

    The caller knows from its operator that the file is qcow2; LostMetadata where it is not.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        header = qcow2.read_header(descriptor, os.path.basename(path))
    finally:
        os.close(descriptor)
    if header.incompatible & qcow2.DATA_FILE:
        return "its data is in another file, which its header names"
    if header.incompatible & qcow2.CORRUPT:
        return "qemu marked it as corrupt"
    if header.crypt_method:
        return "it is encrypted"
    if header.backing_file is not None and header.backing_format != "raw":
        stated = header.backing_format or "nothing"
        return f"its header says {stated} about the format of its backing file, and images of the cache are raw"
    return ""
