# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""What oslo.utils' inspectors leave unasked about the header of an incoming image.

Each function reads a few fields that qemu would act on, and raises ``UnsafeImage`` with the name of the check that
failed. They are for incoming images whose format was declared *and* detected; they never say what something is.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable

from .errors import UnsafeImage

SECTOR = 512

# qemu's own bounds on what it loads from a qcow2 header.
_MAX_L1_BYTES = 32 * 1024**2
_MAX_REFCOUNT_TABLE_BYTES = 8 * 1024**2
_MAX_SNAPSHOTS = 65536

_VMDK_REDUNDANT = 1 << 1  # flag: there is a second grain directory, which is used
_VMDK_IN_FOOTER = 2**64 - 1


def refuse(check: str, message: str, **facts: object) -> UnsafeImage:
    """The error for a failed check."""
    return UnsafeImage(message, check=check, **facts)


def check_qcow2(head: bytes, size: int) -> None:
    """Encryption, features by name, and tables that lie in the file. ``size`` is that of the file in bytes."""
    _need_header(head)
    (
        version,
        _unused,
        _unused,
        cluster_bits,
        _unused,
        crypt,
        l1_entries,
        l1,
        refcounts,
        refcount_clusters,
        snapshots,
        snapshot_at,
    ) = struct.unpack_from(">IQIIQIIQQIIQ", head, 4)
    if version not in (2, 3):
        raise refuse("subformat", "The image is version %d of qcow2; only 2 and 3 are accepted." % version)
    features = _field(">Q", head, 72) if version >= 3 else 0
    if crypt:
        raise refuse(
            "encrypted",
            "The image is encrypted (qcow2 method %d), and no key can be given here; decrypt it first." % crypt,
        )
    if features & 1 << 4:
        raise refuse(
            "unknown_features",
            "The image uses qcow2's extended_l2 (subclusters), which the inspection does not know; "
            "convert it without that option.",
        )
    if features & 1 << 1:
        raise refuse("corrupt", "The image is marked corrupt by qemu; repair it or fetch it again.")
    if not 9 <= cluster_bits <= 21:
        raise refuse("header", "The qcow2 header names clusters of 2**%d bytes, which no qemu makes." % cluster_bits)
    if l1_entries * 8 > _MAX_L1_BYTES:
        raise refuse("header", "The qcow2 header names an L1 table of %d entries, more than qemu reads." % l1_entries)
    table_bytes = refcount_clusters << cluster_bits
    if table_bytes > _MAX_REFCOUNT_TABLE_BYTES or snapshots > _MAX_SNAPSHOTS:
        raise refuse("header", "The tables that the qcow2 header names are larger than qemu reads.")
    for offset, length in ((l1, l1_entries * 8), (refcounts, table_bytes), (snapshot_at, snapshots)):
        if length and (offset < 72 or offset % (1 << cluster_bits)):
            raise refuse("header", "The qcow2 header places a table at byte %d, where none can be." % offset)
        if length and offset + length > size:
            raise refuse(
                "truncated",
                "The image has %d bytes, but its tables reach up to byte %d; fetch it again." % (size, offset + length),
            )


def check_vhd(head: bytes, size: int) -> None:
    """Only dynamic disks: a fixed one has no header in front, a differencing one needs a parent."""
    _need_header(head)
    kind = _field(">I", head, 60)
    if kind == 4:
        raise refuse("backing_file", "The image is a differencing VHD, which needs a parent; merge it first.")
    if kind != 3:
        raise refuse("subformat", "The VHD is of type %d; only dynamic ones (3) are accepted." % kind)


def check_vdi(head: bytes, size: int) -> None:
    """No differencing images and no links to others."""
    _need_header(head)
    kind = _field("<I", head, 0x4C)
    if kind == 4 or any(head[0x1A8:0x1C8]):
        raise refuse("backing_file", "The image is a differencing VDI, which needs a parent; merge it first.")
    if kind not in (1, 2):
        raise refuse("subformat", "The VDI is of type %d; only dynamic (1) and fixed ones (2) are accepted." % kind)


def check_vmdk(head: bytes, size: int) -> None:
    """No parent, and an extent that is the file itself. ``head`` holds the whole descriptor."""
    if not head.startswith(b"KDMV"):
        raise refuse("subformat", "The VMDK does not hold its data itself; export it as streamOptimized.")
    _need_header(head)
    capacity, _unused, descriptor, descriptor_sectors = struct.unpack_from("<QQQQ", head, 12)
    start = descriptor * SECTOR
    if start + descriptor_sectors * SECTOR > size:
        raise refuse("truncated", "The image ends within its VMDK descriptor; fetch it again.")
    text = head[start : start + descriptor_sectors * SECTOR].lower()
    if capacity == 0:
        # qemu then takes the descriptor for the whole image and opens the extents that it names.
        raise refuse("subformat", "The VMDK has an empty extent, so that its descriptor could name other files.")
    _check_grain_directories(head, size)
    parent = re.search(rb"parentcid\s*=\s*([0-9a-f]+)", text)
    if b"parentfilenamehint" in text or (parent and int(parent.group(1), 16) != 0xFFFFFFFF):
        raise refuse("backing_file", "The image is a VMDK that needs a parent; consolidate it first.")


def _check_grain_directories(header: bytes, size: int) -> None:
    """They lie in the file: qemu reads one that does not as an empty disk."""
    (flags,) = struct.unpack_from("<I", header, 8)
    redundant, directory = struct.unpack_from("<QQ", header, 48)
    for sector in (directory, redundant if flags & _VMDK_REDUNDANT else 0):
        if sector != _VMDK_IN_FOOTER and sector * SECTOR >= size:
            raise refuse("truncated", "The image ends before the tables that its VMDK header names; fetch it again.")


def check_vmdk_footer(head: bytes, tail: bytes, size: int) -> None:
    """The footer of a stream-optimised VMDK, which qemu believes, tells the same as the header that was looked at."""
    # All but the place of the grain directory, which is what the footer is there for.
    if head[:56] != tail[SECTOR : SECTOR + 56]:
        raise refuse("footer", "The footer of the VMDK tells something else than its header.")
    _check_grain_directories(tail[SECTOR:], size)


def _need_header(head: bytes) -> None:
    if len(head) < SECTOR:
        raise refuse("truncated", "The image ends within its header, after %d bytes; fetch it again." % len(head))


def _field(layout: str, head: bytes, offset: int) -> int:
    return int(struct.unpack_from(layout, head, offset)[0])


OWN_CHECKS: dict[str, Callable[[bytes, int], None]] = {
    "qcow2": check_qcow2,
    "vdi": check_vdi,
    "vhd": check_vhd,
    "vmdk": check_vmdk,
}
