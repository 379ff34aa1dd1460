# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Pools in a volume group, thin and thick, on the blank disk of a test machine (see docs/testbed.md): to be run in it.

Extents are of 1 MiB, so that the sizes that the suites ask for are sizes of logical volumes.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path

from ansible_collections.virt.storage.plugins.module_utils._backends.lvm_group import Group, find_group, make_thin_pool
from ansible_collections.virt.storage.plugins.module_utils._backends.lvm_names import RECORDS
from ansible_collections.virt.storage.plugins.module_utils._backends.lvm_records import GroupStore, unmount
from ansible_collections.virt.storage.plugins.module_utils._backends.lvm_thick import ThickVolumes
from ansible_collections.virt.storage.plugins.module_utils._backends.lvm_thin import ThinVolumes
from ansible_collections.virt.storage.plugins.module_utils._backends.perform import Parts
from ansible_collections.virt.storage.plugins.module_utils._ground.command import Runner
from ansible_collections.virt.storage.plugins.module_utils._ground.lvm import Lvm
from ansible_collections.virt.storage.plugins.module_utils._records.types import Volume

from .beds import BEAT, GIB, FileBed, RealBed, program

GROUP = "bed-group"
KEPT = RECORDS + "-and-an-active-pool"
DISK = "/dev/disk/by-id/virtio-data"


class LvmBed(FileBed):
    """A pool in the group, ``thin`` or thick. The records are files, as in a folder."""

    name = "lvm"

    def __init__(self, kind: str) -> None:
        runner = Runner()
        group = grouped(kind)
        records = GroupStore.of(group, runner, BEAT, make=True)
        kinds = {"thin": ThinVolumes, "thick": ThickVolumes}
        # A bed of files opens a folder, which this is not.
        # pylint: disable-next=non-parent-init-called
        RealBed.__init__(self, Parts(records, kinds[kind](group, runner, records.locks.inherited)))
        self.kind = kind

    @property
    def address(self) -> str:
        return json.dumps(["lvm", self.kind])

    def another(self) -> LvmBed:
        return LvmBed(self.kind)

    def at(self, volume: Volume) -> tuple[str, str]:
        place = self.parts.volumes.location(volume).name
        if os.path.isdir(os.path.dirname(place)):
            until = time.monotonic() + 10
            while not os.path.exists(place) and time.monotonic() < until:
                time.sleep(0.05)
        return volume.format, place

    def record_path(self, name: str) -> Path:
        return Path(self.parts.records.root, "records", name)


@cache
def grouped(kind: str) -> Group:
    """The group, with its records, as a pool of that kind has it: the thin pool stands in it either way."""
    GroupStore.of(find_group(Lvm(Runner()), GROUP), Runner(), BEAT, make=True)
    group = find_group(Lvm(Runner()), GROUP)
    return group if kind == "thin" else replace(group, pool="")


@contextmanager
def prepared(place: Path, disk: str = DISK) -> Iterator[Path]:
    """The group on ``disk``, for the time of a block."""
    if not os.path.exists(disk):
        raise RuntimeError(f"there is no {disk}: these tests run in a machine, by ./dev test lvm")
    wiped(disk)
    program("vgcreate", "-y", "--metadatasize", "16m", "-s", "1m", GROUP, disk)
    lvm = Lvm(Runner())
    pool = make_thin_pool(lvm, find_group(lvm, GROUP), 5 * GIB)
    # With nothing in it that is active, a pool stops with each test and starts with the next, which takes seconds.
    program("lvcreate", "-y", "--type", "thin", "-V", "1m", "--thinpool", pool, "-n", KEPT, GROUP)
    try:
        yield place
    finally:
        wiped(disk)


def wiped(disk: str) -> None:
    """No group, whatever an earlier run left."""
    unmount(GROUP, Runner())
    if GROUP in program("vgs", "--noheadings", "-o", "vg_name").split():
        program("vgchange", "-q", "-an", GROUP)
    program("wipefs", "-q", "--all", disk)


@contextmanager
def fresh_bed(kind: str) -> Iterator[LvmBed]:
    """An empty pool, emptied again."""
    bed = LvmBed(kind)
    try:
        yield bed
    finally:
        emptied(bed)


def emptied(bed: LvmBed) -> None:
    """Remove all that a test made; the file system of the records stays mounted."""
    lvm = Lvm(Runner())
    names = [lv.name for lv in lvm.volumes(GROUP) if lv.name not in (RECORDS, KEPT) and not lv.thin_pool]
    if names:
        program("lvremove", "-y", *(f"{GROUP}/{name}" for name in names))
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(bed.parts.records.root)
