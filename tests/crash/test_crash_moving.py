# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""``kill -9`` anywhere in a move between two pools: at every moment one disk counts, and reads what it should."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from contract.beds import mounted

from ansible_collections.virt.storage.plugins.module_utils._algorithms import moving
from ansible_collections.virt.storage.plugins.module_utils._algorithms.cache import look_up
from ansible_collections.virt.storage.plugins.module_utils._algorithms.disks import Made
from ansible_collections.virt.storage.plugins.module_utils._algorithms.pool import Pool, attend, depart
from ansible_collections.virt.storage.plugins.module_utils._ground.disk_data import DiskData
from ansible_collections.virt.storage.plugins.module_utils._records.types import USABLE, Disk

from .child import NAME, Act, Kill, Lived, Task, fine, parts, run
from .pool_state import Runner, check
from .scenarios import KEY, MIB, DiskWish, Scenario, Sources, clear, fill, make
from .tally import Tally
from .test_crash import FULL, REBOOTS, Stage

STRIDE = {"before": 1, "call": 1 if FULL else 5}
OTHER = "q"
WRITTEN = "write -q -P 5 100k 300k\nwrite -q -z 1M 128k\nwrite -q -P 6 12M 1M\n"
SLOT = ("web", "root")


class Two:
    """A pool with a disk in it that was written to, and another one."""

    def __init__(self, folder: Path) -> None:
        self.here, self.there = Stage(folder / "here"), Stage(folder / "there")
        self.expected = str(folder / "expected")

    def set(self, sources: Sources, own: bool) -> None:
        """Anew; with ``own``, both have the image."""
        raw = fill(sources.raw, "raw")
        clone = make(DiskWish("web", "root", image_key=KEY, size=2 * sources.size))
        for stage in (self.here, self.there):
            os.makedirs(os.path.dirname(stage.root), exist_ok=True)
        self.here.set(Scenario(clear, [raw, clone]))
        self.there.set(Scenario(clear, [raw] if own else []))
        ((_root, disk),) = self.counting()
        path = os.path.join(self.here.root, disk.volume.name)
        subprocess.run(["qemu-io", "-f", "qcow2", path], input=WRITTEN, text=True, check=True, timeout=60)
        convert = ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", path, self.expected]
        subprocess.run(convert, check=True, timeout=60)

    def counting(self) -> list[tuple[str, Disk]]:
        """The disks that count, with the folder of their pool, by the records of both alone."""
        found: list[tuple[str, Disk]] = []
        for root in (self.here.root, self.there.root):
            store = parts(root, Runner()).records
            listing = store.states()
            bodies = [store.read(each) for each in listing.slot(*SLOT) if listing.state(each) in USABLE]
            found += [(root, body) for body in bodies if isinstance(body, Disk)]
        gone = {moving.moved_from(disk)[1] for _root, disk in found}
        return [(root, disk) for root, disk in found if disk.id not in gone]

    def check_now(self) -> None:
        """In whatever state it is: one disk, equal to the original."""
        ((root, disk),) = self.counting()
        path = os.path.join(root, disk.volume.name)
        compare = ["qemu-img", "compare", "-f", disk.volume.format, "-F", "raw", path, self.expected]
        done = subprocess.run(compare, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def act(self) -> Act:
        """Move the disk, as a task does that knows nothing of any before it."""

        async def act(pool: Pool) -> Any:
            other = Pool(OTHER, pool.capabilities, pool.owner, pool.lease)
            await attend(other)
            disk = await _moved(self.here.root, pool, other)
            await depart(other)
            return Made(disk, made=True)

        def tasks(pool: Pool) -> Sequence[Task]:
            return [act(pool)]

        return tasks

    def run(self, kill: Kill | None = None) -> Lived:
        """Move it, in a process of its own."""
        return run(self.here.root, self.act(), kill, {OTHER: self.there.root})


async def _moved(root: str, here: Pool, there: Pool) -> Disk:
    pools: Mapping[str, Pool] = {NAME: here, OTHER: there}
    await moving.settle_moves(here, pools, *SLOT)
    found = await _standing(there)
    if found is not None:
        return found
    disk = await _standing(here)
    assert disk is not None
    image, stat = await look_up(there, KEY), await here.volumes.stat(disk.volume)
    assert stat is not None
    data = DiskData(lambda: parts(root, Runner()).volumes.disk_data(disk.volume, image is not None))
    return (await moving.move(here, there, pools, moving.MoveWish(disk, stat.size, data, image))).disk


async def _standing(pool: Pool) -> Disk | None:
    listing = await pool.records.states()
    for record_id in listing.slot(*SLOT):
        if listing.state(record_id) in USABLE:
            disk = await pool.records.read(record_id)
            assert isinstance(disk, Disk)
            return disk
    return None


@pytest.fixture(scope="module")
def two() -> Iterator[Two]:
    """On an ext4 in memory."""
    with ExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory(dir="/dev/shm"))
        point = stack.enter_context(mounted(Path(folder, "ext4.img"), 256 * MIB, "mkfs.ext4", "-q"))
        made = Two(point)
        stack.callback(made.here.strike)
        stack.callback(made.there.strike)
        yield made


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    return Sources(tmp_path_factory.mktemp("sources"), 8 * MIB, 2 * MIB)


@pytest.mark.parametrize("where", ["before", "call"])
@pytest.mark.parametrize("own", [True, False], ids=["its own data", "all of its data"])
def test_killed_anywhere_one_disk_counts_and_the_move_converges(
    own: bool,
    where: str,
    two: Two,
    sources: Sources,
    tally: Tally,
) -> None:
    number, kills = 1, 0
    while True:
        two.set(sources, own)
        first = two.run(Kill(where, number))
        if first.killed and number % REBOOTS == 0:
            two.here.reboot()
            two.there.reboot()
        try:
            two.check_now()
            second = fine(two.run())
            if first.acknowledged:
                assert second.made == first.made, "what was acknowledged is not what is there"
            for stage in (two.here, two.there):
                fine(run(stage.root, clear))
            check(two.here.root, {}, {KEY: True})
            check(two.there.root, {SLOT: two.expected}, {KEY: own})
            marks = Path(two.here.root, ".virt-storage", "references", moving.MOVES)
            assert os.listdir(marks) == [], "a mark is left"
        except (AssertionError, ValueError) as error:
            raise AssertionError(f"killed {where} {number}: {error}") from error
        if not first.killed:
            break
        kills += 1
        number += STRIDE[where]
    tally.add("file", f"move with {'its own' if own else 'all of its'} data", where, kills)
    assert number > 20, "the move took hardly any steps"
