# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""What a logical volume of ours is called, and what its tags say.

A volume's name in the pool is its logical volume's name wherever LVM can take it: an instance may be called such that
LVM cannot (``a_tdata``, or too long for the device mapper, which doubles hyphens). Then the logical volume has a name
that follows from the volume's, and a tag says which that is.
"""

from __future__ import annotations

import hashlib
import re

from .._ground.errors import LostMetadata
from .._ground.lvm import TAG, LogicalVolume

RECORDS = "virt-storage-records"
"""The logical volume with the records, and how names of those that are about to become it begin."""
SPARE = "virt-storage-spare+"
"""Names of space that is zeroed before a volume grows by it begin so."""
POOL = "virt-storage-pool"
"""The thin pool that we make."""
IMAGE = "{id}"
DISK = "disk+{id}"
_PROPER = re.compile(r"[A-Za-z0-9+_.-]{1,127}")
_RESERVED_STARTS = ("snapshot", "pvmove", "-", ".")
_RESERVED_PARTS = re.compile(
    r"_[cmptv]data|_[cmptv]meta|_corig|_cpool|_cvol|_iorig|_imeta|_mimage|_mlog|_pmspare|_rimage|_rmeta|_vorigin"
    r"|_wcorig"
)
_NAME_TAG = TAG + ":name="
_SIZE_TAG = TAG + ":size="
_LONGEST = 127 - len("-tpool")
"""Bytes of a name of the device mapper, with what LVM may add."""


def proper(name: str) -> str:
    """``name``, which is to become a logical volume's; LostMetadata for what no volume of ours can be called."""
    if not _PROPER.fullmatch(name):
        raise LostMetadata(f"The record names the volume {name!r}, which LVM cannot have: restore the record.")
    return name


def lv_name(name: str, group: str) -> str:
    """What the logical volume for the new volume ``name`` is called in ``group``."""
    mapped = len(f"{group}-{name}") + group.count("-") + name.count("-")
    if mapped <= _LONGEST and not name.startswith(_RESERVED_STARTS) and not _RESERVED_PARTS.search(name):
        return proper(name)
    return "volume+" + hashlib.sha256(proper(name).encode()).hexdigest()[:32]


def tags_for(name: str, group: str) -> list[str]:
    """The tags that the new volume ``name`` gets: one short one, as all of them share the group's metadata area."""
    return [TAG] if lv_name(name, group) == name else [TAG, _NAME_TAG + name]


def size_tag(size: int) -> str:
    """The tag of a volume that ends, after ``size`` bytes, before its last extent does."""
    return f"{_SIZE_TAG}{size}"


def volume_name(lv: LogicalVolume) -> str:
    """The name in the pool of a logical volume, ours or not."""
    return _tagged(lv, _NAME_TAG) or lv.name


def exact_size(lv: LogicalVolume, extent: int) -> int:
    """The bytes of a raw volume that were asked for: all of its device, or all but the end of the last extent."""
    tagged = _tagged(lv, _SIZE_TAG)
    size = int(tagged) if tagged.isdigit() else lv.size
    return size if lv.size - extent < size <= lv.size else lv.size


def stale_size_tag(lv: LogicalVolume) -> str:
    """The tag that has to go when the volume gets another size; empty where there is none."""
    tagged = _tagged(lv, _SIZE_TAG)
    return _SIZE_TAG + tagged if tagged else ""


def is_volume(lv: LogicalVolume) -> bool:
    """Whether it can be somebody's disk: no pool, no cache, and nothing that is only ours."""
    return not lv.layout & {"pool", "writecachepool", "vdo"} and not is_private(lv)


def is_private(lv: LogicalVolume) -> bool:
    """Whether it is ours, and no volume."""
    return lv.name.startswith((RECORDS, SPARE)) or ("pool" in lv.layout and TAG in lv.tags)


def _tagged(lv: LogicalVolume, prefix: str) -> str:
    return next((tag[len(prefix) :] for tag in lv.tags if tag.startswith(prefix)), "")
