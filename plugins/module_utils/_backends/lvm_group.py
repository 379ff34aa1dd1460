# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""Volume groups: what there is in one, and making one with all that volumes need."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass

from .._ground.command import INSPECTING, Runner
from .._ground.errors import BadInput, NotFound, OutOfSpace, StorageError
from .._ground.lvm import TAG, LogicalVolume, Lvm, understood
from .lvm_names import POOL, RECORDS

METADATA_BYTES = 16 << 20
"""Space for the metadata of a group that we make, on each device: over 5,000 volumes."""
VOLUME_METADATA = 1200
"""Bytes that a volume may take there: its text twice, for a change stands beside what it replaces."""
RECORDS_BYTES = 256 << 20
"""The logical volume with the records: room for 10,000 disks and images, those that ended included."""
_GIB = 1 << 30
_FIELDS = "vg_name,vg_size,vg_free,vg_extent_size,vg_lock_type,vg_systemid,vg_exported,vg_partial,vg_mda_free"
_NAME = re.compile(r"[a-zA-Z0-9+_.][a-zA-Z0-9+_.-]{0,66}")
_LOCKS_SOCKET = "/run/lvm/lvmlockd.socket"


@dataclass(frozen=True)
class Group:
    """A volume group that this host may work with. Sizes are bytes. ``pool`` is the thin pool that its volumes are in;
    empty where they are thick. ``shared`` between hosts by lvmlockd: what is activated is activated for one alone.
    ``records`` is where the record store is, as of when the group was looked at."""

    name: str
    size: int
    free: int
    extent: int
    room: int
    """How many more volumes its metadata area can hold."""
    shared: bool = False
    pool: str = ""
    records: LogicalVolume | None = None


def find_group(lvm: Lvm, name: str) -> Group:
    """The group; NotFound where LVM lists none of that name, StorageError where this host must not touch it."""
    rows = lvm.report("vgs", _FIELDS, "--shared", "--foreign")
    row = next((row for row in rows if row["vg_name"] == name), None)
    if row is None:
        raise NotFound(f"There is no volume group {name}: make it with libvirt_pool, or look with vgs.")
    lock_type = row["vg_lock_type"]
    shared = lock_type not in ("", "none")
    _check(lvm, name, lock_type if shared else "", row["vg_systemid"])
    if row["vg_exported"]:
        raise StorageError(f"The volume group {name} is exported: bring it in with vgimport {name}.")
    if row["vg_partial"]:
        raise StorageError(f"The volume group {name} lacks one of its devices: attach it, and look with pvs.")
    volumes = lvm.volumes(name)
    pools = [lv for lv in volumes if lv.thin_pool and TAG in lv.tags]
    if len(pools) > 1:
        names = " and ".join(lv.name for lv in pools)
        raise StorageError(f"The thin pools {names} of {name} both have the tag {TAG}: leave it on one (lvchange).")
    with understood("vgs"):
        return Group(
            name=name,
            size=int(row["vg_size"]),
            free=int(row["vg_free"]),
            extent=int(row["vg_extent_size"]),
            room=int(row["vg_mda_free"]) // VOLUME_METADATA,
            shared=shared,
            pool=pools[0].name if pools else "",
            records=next((lv for lv in volumes if lv.name == RECORDS), None),
        )


def _check(lvm: Lvm, name: str, lock_type: str, owner: str) -> None:
    """Raise where the group belongs to other hosts, too, and nothing keeps them apart from this one."""
    if lock_type and not os.path.exists(_LOCKS_SOCKET):
        raise StorageError(
            f"The volume group {name} is shared between hosts (lock type {lock_type}), and lvmlockd does not run "
            f"here: without it hosts destroy each other's volumes. Start lvmlockd, then vgchange --lockstart {name}."
        )
    if owner and owner != lvm.system_id():
        raise StorageError(
            f"The volume group {name} belongs to the host {owner}: hand it over there with vgexport or vgchange "
            f"--systemid, or use it from that host."
        )


# Making


def why_not_empty(runner: Runner, device: str) -> str:
    """Why ``device`` cannot become part of a new group, as a clause; empty where it can. Nothing is changed."""
    try:
        status = os.stat(device)
    except FileNotFoundError:
        return "does not exist"
    if not stat.S_ISBLK(status.st_mode):
        return "is no block device"
    try:
        descriptor = os.open(device, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC)
    except OSError as error:
        return f"is in use or cannot be written ({error.strerror}): it is mounted, say, or part of something else"
    try:
        empty = not any(os.pread(descriptor, 1 << 20, 0))
    finally:
        os.close(descriptor)
    found = runner.run(["blkid", "-p", "-o", "export", device], limits=INSPECTING, ok=(0, 2, 8))
    facts = dict(line.split("=", 1) for line in found.out.splitlines() if "=" in line)
    held = facts.get("TYPE") or facts.get("PTTYPE")
    if held or found.rc == 8:
        return f"holds something ({held or 'more than one thing'}): wipe it with wipefs --all if that is to go"
    return "" if empty else "holds data in its first MiB: wipe it with blkdiscard or dd if that is to go"


def make_group(lvm: Lvm, runner: Runner, name: str, devices: Sequence[str]) -> None:
    """Make a group of devices that hold nothing, with room for the metadata of thousands of volumes."""
    if not _NAME.fullmatch(name):
        raise BadInput(
            f"The volume group name {name!r} cannot be used: give 1 to 67 letters, digits, '_', '.', '+' or '-', the "
            "last not in front."
        )
    if not devices:
        raise BadInput(f"The volume group {name} is to be made, and no devices are named: give logical.devices.")
    for device in devices:
        why = why_not_empty(runner, device)
        if why:
            raise StorageError(f"The device {device} cannot become part of the volume group {name}: it {why}.")
    # An extent of 4 MiB, LVM's own default, said because sizes of disks follow from it.
    lvm.change("vgcreate", "--metadatasize", f"{METADATA_BYTES}b", "-s", "4m", name, *devices)


def pool_sizes(free: int, extent: int) -> tuple[int, int, int]:
    """Bytes of data, of metadata and of a chunk for a thin pool that takes most of ``free`` bytes of a group.

    Small chunks make clones cheap; the metadata must hold every chunk, some of them in many snapshots, and has an
    upper end. As much again is set aside by LVM for repairing it, and a twentieth stays free for growing both.
    """
    chunk = 64 << 10
    while free // chunk * 64 > 8 * _GIB:
        chunk *= 2
    metadata = min(max(free // chunk * 64 * 2, 64 << 20), 15 * _GIB)
    data = free * 19 // 20 - 2 * metadata - RECORDS_BYTES
    return data // extent * extent, -(-metadata // extent) * extent, chunk


def make_thin_pool(lvm: Lvm, group: Group, size: int = 0) -> str:
    """Make a thin pool of ``size`` bytes, or of most of what is free; gives its name. Disks are then made in it."""
    data, metadata, chunk = pool_sizes(group.free, group.extent)
    if data < metadata:
        raise OutOfSpace(
            f"The volume group {group.name} has {group.free} bytes free, too few for a thin pool with its metadata: "
            "add a device with vgextend."
        )
    words = ["--type", "thin-pool", "-L", f"{size or data}b", "--poolmetadatasize", f"{metadata}b"]
    words += ["--chunksize", f"{chunk}b", "--zero", "y", "--discards", "passdown", "--addtag", TAG]
    lvm.change("lvcreate", "-y", *words, "-n", POOL, group.name)
    return POOL


def adopt_thin_pool(lvm: Lvm, group: Group, name: str) -> None:
    """Have disks made in a thin pool that is there. Refused where it does not zero new space."""
    pool = next((lv for lv in lvm.volumes(group.name) if lv.name == name and lv.thin_pool), None)
    if pool is None:
        raise NotFound(f"There is no thin pool {name} in the volume group {group.name}: look with lvs {group.name}.")
    check_zeroing(pool, group.name)
    if TAG not in pool.tags:
        lvm.change("lvchange", "--addtag", TAG, f"{group.name}/{name}")


def check_zeroing(pool: LogicalVolume, group: str) -> None:
    """Raise where a new volume in the thin pool could show what another tenant wrote."""
    if not pool.zeroes:
        raise StorageError(
            f"The thin pool {group}/{pool.name} does not zero new space, so a disk could show what another tenant "
            f"wrote: set it with lvchange --zero y {group}/{pool.name}."
        )


def warnings(lvm: Lvm, group: Group) -> list[str]:
    """What the operator should know about this host's LVM and the group, each a sentence."""
    told = []
    if lvm.setting("devices/scan_lvs") == "1":
        told.append(
            "LVM looks into logical volumes (devices/scan_lvs=1), and takes volume groups that guests made in their "
            "disks for the host's own: set devices/scan_lvs=0 in /etc/lvm/lvm.conf."
        )
    if group.pool and lvm.setting("activation/monitoring") == "0":
        told.append("Nobody watches thin pools (activation/monitoring=0): set it to 1 in /etc/lvm/lvm.conf.")
    if group.pool and lvm.setting("activation/thin_pool_autoextend_threshold") in ("", "100"):
        told.append(
            f"The thin pool {group.name}/{group.pool} is not extended when it fills up: set "
            "activation/thin_pool_autoextend_threshold in /etc/lvm/lvm.conf below 100, such as 80."
        )
    if group.room < 2000:
        told.append(
            f"The metadata area of {group.name} has room for about {group.room} more volumes: a group made with "
            f"vgcreate --metadatasize {METADATA_BYTES >> 20}m holds thousands."
        )
    return told
