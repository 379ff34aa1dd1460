# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""The record store of a volume group: the one for folders, on a small logical volume of the group.

Tags could not hold the records: all volumes of a group share a metadata area that a few hundred records fill, and a tag
cannot stand before its volume does. So the records are in a file system of their own, never in the thin pool, which may
be full when an image has to go. It is mounted, for root only, where no task has done so since the host's start, and
stays so: ``unmount`` it before the group is deactivated or goes to another host. The file system notices when another
host has it mounted (multiple mount protection).
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence

from .._ground.block_device import open_device
from .._ground.command import Limits, Runner
from .._ground.errors import Busy, CommandFailed, NotFound, StorageError
from .._ground.lvm import TAG, LogicalVolume, Lvm, failure
from .._ground.mounts import mounted_at
from .._records.folder import FolderStore
from .lvm_group import RECORDS_BYTES, Group
from .lvm_names import RECORDS

MOUNTS = "/run/virt-storage"
_OPTIONS = "nodev,nosuid,noexec,noatime,errors=remount-ro"
_LIMITS = Limits(wall_seconds=300, address_space=None)


class GroupStore(FolderStore):
    """The records of a volume group."""

    _lvm: Lvm
    _runner: Runner
    _group: Group

    @classmethod
    def of(cls, group: Group, runner: Runner, beat_seconds: float = 2.0, *, make: bool = False) -> GroupStore:
        """The store of the group; NotFound where there is none, unless it is to be made."""
        lvm = Lvm(runner)
        if group.records is None and not make:
            raise NotFound(f"There are no records in the volume group {group.name}.")
        lv = group.records or _make(lvm, runner, group)
        root = os.path.join(_mounted(lvm, runner, group, lv), "store")
        store = (cls.make if make else cls.open)(root, beat_seconds)
        if not isinstance(store, GroupStore):
            raise TypeError
        store._lvm, store._runner, store._group = lvm, runner, group
        return store

    def destroy(self) -> None:
        """See FolderStore: the logical volume goes, too."""
        unmount(self._group.name, self._runner)
        self._lvm.change("lvremove", "-y", f"{self._group.name}/{RECORDS}")


def unmount(group: str, runner: Runner) -> None:
    """Let the group's records go, so that it can be deactivated. Nothing where they are not mounted; Busy where
    another task is at work on them."""
    point = os.path.join(MOUNTS, group)
    if mounted_at(point) is None:
        return
    try:
        runner.run(["umount", point], limits=_LIMITS)
    except CommandFailed as error:
        raise Busy(f"The records of the volume group {group} are in use: wait for the tasks on it to end.") from error
    os.rmdir(point)


def _records(volumes: Sequence[LogicalVolume]) -> LogicalVolume | None:
    return next((lv for lv in volumes if lv.name == RECORDS), None)


def _make(lvm: Lvm, runner: Runner, group: Group) -> LogicalVolume:
    """A file system under a name of its own first: what has the name of the records is whole."""
    name = f"{RECORDS}+{secrets.token_hex(8)}"
    extent = group.extent
    size = -(-RECORDS_BYTES // extent) * extent
    lvm.change("lvcreate", "-y", "-Wy", "-Zy", "-kn", "-L", f"{size}b", "--addtag", TAG, "-n", name, group.name)
    # Records are small files: many inodes. No reserve for root, who is all that ever writes here.
    path = f"/dev/{group.name}/{name}"
    argv = ["mkfs.ext4", "-q", "-F", "-t", "ext4", "-L", "virt-storage", "-m", "0", "-i", "4096", "-O", "mmp"]
    runner.run([*argv, "-E", "lazy_itable_init=0,lazy_journal_init=0", path], limits=_LIMITS)
    changed = lvm.change_all(group.name, [["lvrename", group.name, name, RECORDS]])
    lv = _records(changed.volumes)
    if any(each.name == name for each in changed.volumes):
        lvm.change("lvremove", "-y", f"{group.name}/{name}")  # somebody else was faster
    if lv is None:
        raise failure("lvrename", changed.said)
    return lv


def _mounted(lvm: Lvm, runner: Runner, group: Group, lv: LogicalVolume) -> str:
    """Where the records are mounted, now if they were not."""
    point = os.path.join(MOUNTS, group.name)
    if not lv.active:
        activate = ["lvchange", "-aey" if group.shared else "-ay", "-K", f"{group.name}/{RECORDS}"]
        changed = lvm.change_all(group.name, [activate])
        lv = _records(changed.volumes) or lv
        if not lv.active:
            raise failure(f"Activating the records of the volume group {group.name}", changed.said)
    if _is_mounted(point, lv):
        return point
    for folder in (MOUNTS, point):
        os.makedirs(folder, mode=0o700, exist_ok=True)
    path = f"/dev/{group.name}/{RECORDS}"
    with open_device(path, lv.number, os.O_RDONLY):
        pass  # udev has named it
    try:
        runner.run(["mount", "-t", "ext4", "-o", _OPTIONS, path, point], limits=_LIMITS)
    except CommandFailed as error:
        if not _is_mounted(point, lv):
            raise StorageError(
                f"The records of the volume group {group.name} cannot be mounted at {point}: "
                f"{error.facts.get('stderr', '').strip()[-300:]} If another host has the group in use, work there, or "
                "unmount them there first; the kernel's log says more.",
            ) from error
    if not _is_mounted(point, lv):
        raise StorageError(f"Something else than the records of {group.name} is mounted at {point}: unmount it.")
    os.chmod(point, 0o700)
    return point


def _is_mounted(point: str, lv: LogicalVolume) -> bool:
    return mounted_at(point) is not None and os.stat(point).st_dev == lv.number
