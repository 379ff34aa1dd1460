# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What befalls a task in a volume group, other than its death: the group's disk is gone, or takes no writes, from any
of the task's programs on; every volume that is not open is deactivated. The task ends as it was asked to or says in a
sentence what is wrong; when that is mended, the same task again ends as it was asked to, and nothing acknowledged is
lost.

``VIRT_STORAGE_FULL=1`` does it at every program of every task, otherwise one of the three at one of several.
"""

from __future__ import annotations

import contextlib
import itertools
import mmap
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from contract.beds import MIB, Sparse, program
from contract.lvm_bed import DISK, GROUP, KEPT, fresh_bed, grouped, prepared
from contract.test_volumes import DATA, cloned, filled, raw_file, reads_as, recorded
from crash.child import Befalls, run
from crash.freezing import sentences
from crash.scenarios import Sources
from crash.test_crash import converge
from group_pool import ALL, FULL, KINDS, bench, scenarios_of

from ansible_collections.virt.storage.plugins.module_utils._backends.lvm_names import POOL, RECORDS
from ansible_collections.virt.storage.plugins.module_utils._backends.lvm_records import unmount
from ansible_collections.virt.storage.plugins.module_utils._backends.perform import Parts, Performer
from ansible_collections.virt.storage.plugins.module_utils._ground.command import Completed, Runner
from ansible_collections.virt.storage.plugins.module_utils._ground.durable import sync_folder
from ansible_collections.virt.storage.plugins.module_utils._ground.errors import CommandFailed, StorageError

LAYER = "bed-layer"
START = 2048
"""The sector of the disk at which the layer begins: LVM must not see the group on both."""
STRIDE = 1 if FULL else 5
SHORT = ("clone three", "delete, then reclaim", "flatten", "grow")


def layered(target: str, *words: str, first: Callable[[], object] = lambda: None) -> None:
    """What is read and written from now on, but for what is done ``first``, goes to another target of the device
    mapper."""
    size = int(program("blockdev", "--getsz", DISK)) - START
    rest = " ".join([target, *words])
    program("dmsetup", "load", LAYER, "--table", f"0 {size} {rest}")
    first()
    program("dmsetup", "suspend", "--noflush", "--nolockfs", LAYER)
    program("dmsetup", "resume", LAYER)


def well() -> None:
    layered("linear", DISK, str(START))


def gone() -> None:
    layered("error")


def takes_no_writes(first: Callable[[], object] = lambda: None) -> None:
    layered("flakey", DISK, str(START), "0", "1", "1", "error_writes", first=first)


def deactivated() -> None:
    """Refused for what is open, which is why it fails; all else goes."""
    subprocess.run(["vgchange", "-q", "-an", GROUP], capture_output=True, timeout=120, check=False)


def mended() -> None:
    """As docs/guides/lvm.md says: what stands on the disk is let go, checked, and taken up again."""
    well()
    unmount(GROUP, Runner())
    program("vgchange", "-q", "-an", GROUP)
    checked = 'global/thin_check_options=["-q","--clear-needs-check-flag"]'
    program("lvchange", "-ay", "-K", "--config", checked, f"{GROUP}/{KEPT}", f"{GROUP}/{RECORDS}")
    done = subprocess.run(["e2fsck", "-p", f"/dev/{GROUP}/{RECORDS}"], capture_output=True, timeout=120, check=False)
    assert done.returncode in (0, 1), done
    grouped.cache_clear()  # devices have other numbers


FAULTS: dict[str, tuple[Callable[[], None], Callable[[], None]]] = {
    "the disk is gone": (gone, mended),
    "the disk takes no writes": (takes_no_writes, mended),
    "volumes are deactivated": (deactivated, lambda: None),
}


SOME = zip((each for each in ALL if each[1] in SHORT), itertools.cycle(FAULTS))
TRIED = [(*each, fault) for each, fault in (itertools.product(ALL, FAULTS) if FULL else SOME)]


@pytest.fixture(scope="module", autouse=True)
def ground() -> Iterator[None]:
    """The group, on a layer over its disk."""
    size = int(program("blockdev", "--getsz", DISK)) - START
    program("dmsetup", "create", LAYER, "--table", f"0 {size} linear {DISK} {START}")
    try:
        with prepared(Path("/"), f"/dev/mapper/{LAYER}"):
            yield
    finally:
        program("dmsetup", "remove", "--retry", LAYER)


@pytest.mark.timeout(3600)
@pytest.mark.usefixtures("on_group")
@pytest.mark.parametrize(("kind", "name", "fault"), TRIED)
def test_what_befalls_a_group_is_told_and_mended(
    kind: str, name: str, fault: str, tmp_path: Path, sources: Sources
) -> None:
    befall, mend = FAULTS[fault]
    with bench(tmp_path, kind) as pool:
        scenario = scenarios_of(pool.root, sources)[name]
        for number in itertools.count(1, STRIDE):
            pool.set(scenario)
            program("sync", "--file-system", f"/run/virt-storage/{GROUP}")
            try:
                first = run(pool.root, scenario.act, Befalls("call", number, befall))
            finally:
                mend()
            try:
                assert not first.hung, "it waited for something that never came"
                sentences(first)
                converge(pool, scenario, first)
            except AssertionError as error:
                raise AssertionError(f"{fault} at program {number}: {error}; it said {first.errors}") from error
            if not first.struck:
                break
    assert number > 1, "nothing befell it"


def waits_for_its_check(place: str) -> None:
    """Have the disk take no writes at a moment when the pool has not yet noted down where it put a block."""
    block = mmap.mmap(-1, MIB)  # as direct I/O wants it
    device = os.open(place, os.O_WRONLY | os.O_DIRECT)
    try:
        for offset in range(2 * MIB, 32 * MIB, MIB):
            takes_no_writes(first=lambda at=offset: os.pwrite(device, block, at))
            with contextlib.suppress(OSError):
                os.fsync(device)
            well()
            if "needed" in program("lvs", "--noheadings", "-o", "lv_check_needed", f"{GROUP}/{POOL}"):
                return
    finally:
        os.close(device)
    raise AssertionError("the pool noted everything down in time")


def test_a_thin_pool_that_waits_for_its_check_says_so() -> None:
    """LVM speaks of free space then."""
    with fresh_bed("thin") as bed:
        image = filled(bed, Sparse(MIB, {0: DATA}))
        disk = cloned(bed, image, 32 * MIB)
        fresh = [recorded(bed, bed.disk(f"n{number}")) for number in range(2)]
        program("sync", "--file-system", bed.parts.records.root)
        try:
            waits_for_its_check(bed.at(disk)[1])
            for op in (bed.volumes.clone(image, fresh[0], MIB, "snapshot"), bed.volumes.allocate(fresh[1], MIB)):
                with pytest.raises(StorageError, match=r"takes no writes \(metadata read only\).*guide"):
                    bed.do(op)
        finally:
            mended()
    with fresh_bed("thin") as bed:
        assert cloned(bed, filled(bed, Sparse(MIB, {0: DATA}), "again"), MIB)


def test_records_that_take_no_writes_say_so() -> None:
    with fresh_bed("thick") as bed:
        takes_no_writes()
        try:
            Path(bed.parts.records.root, "probe").mkdir()
            with pytest.raises(OSError, match="Input/output"):
                sync_folder(bed.parts.records.root)
            well()
            with pytest.raises(StorageError, match=r"read-only: .*mount it anew"):
                recorded(bed, bed.disk("n"))
        finally:
            mended()


class KilledAtWork(Runner):
    """What makes volumes does so once and is killed before it told; the look after that fails."""

    def __init__(self) -> None:
        super().__init__()
        self.made = self.blind = False

    def run(self, argv: Sequence[str], **options: Any) -> Completed:
        done = super().run(argv, **options)
        if not self.made and "lvcreate" in str(options.get("input")):
            self.made = self.blind = True
            raise CommandFailed("lvm was killed.", rc=-9)
        if self.blind and "lvs" in argv:
            self.blind = False
            raise CommandFailed("lvs failed once.", rc=5)
        return done


@pytest.mark.parametrize("kind", KINDS)
def test_a_volume_that_is_half_made_is_not_taken_for_made(kind: str, tmp_path: Path) -> None:
    """It would show the next guest what the last one had there."""
    with fresh_bed(kind) as bed:
        earlier = recorded(bed, bed.disk("earlier"))
        bed.do(bed.volumes.allocate(earlier, 8 * MIB))
        Path(bed.at(earlier)[1]).write_bytes(b"secret!!" * MIB)
        assert bed.do(bed.volumes.remove(earlier)).kind == "done"
        killed = KilledAtWork()
        bed.parts = Parts(bed.parts.records, KINDS[kind](grouped(kind), killed, bed.parts.records.locks.inherited))
        bed.perform = Performer({"p": bed.parts})
        disks = [recorded(bed, bed.disk(f"n{number}")) for number in range(2)]
        ended = bed.do_all([bed.volumes.allocate(disk, 4 * MIB) for disk in disks])
        assert killed.made
        assert not killed.blind
        assert [each.unwrap().kind for each in ended] == ["done", "done"]
        for disk in disks:
            reads_as(bed, disk, raw_file(tmp_path / "blank", 4 * MIB, {}))
