# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""``kill -9`` anywhere in a task: the same task again ends as it was asked to, and nothing acknowledged is lost.

The state on disk after an operation is the state before the next one, so a kill before each covers both sides.
``VIRT_STORAGE_FULL=1`` (``./dev test crash --full``) kills at every system call, otherwise at one of several.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from contract.beds import FileBed, mounted

from .child import LEASE, Act, Kill, Lived, fine, parts, run
from .pool_state import Runner, check
from .scenarios import KEY, MIB, NAMES, DiskWish, Scenario, Sources, clear, disks, fill, make, on_disk, scenarios
from .tally import Tally

FULL = os.environ.get("VIRT_STORAGE_FULL") == "1"
STRIDE = {"before": 1, "call": 1 if FULL else 7}
REBOOTS = 3
"""One of so many kills is followed by what a reboot does to locks: their files may be gone, too."""


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    return Sources(tmp_path_factory.mktemp("sources"), 8 * MIB, 2 * MIB)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    """Large enough to catch a program at its work."""
    return Sources(tmp_path_factory.mktemp("large"), 96 * MIB, 96 * MIB)


class Stage:
    """A pool for one kill at a time."""

    def __init__(self, folder: Path) -> None:
        self.root = str(folder / "pool")

    def set(self, scenario: Scenario) -> None:
        self.strike()
        bed = FileBed(self.root)
        assert bed.root == self.root
        scenario.stage(self.root)
        for act in scenario.before:
            fine(run(self.root, act))

    def strike(self) -> None:
        if os.path.exists(self.root):
            FileBed(self.root).destroy()

    def reboot(self) -> None:
        """Nothing of a lock outlives a host that starts again."""
        locks = Path(self.root, ".virt-storage", "locks")
        for path in locks.iterdir():
            path.unlink()


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """On the disk of the tests."""
    made = Stage(tmp_path)
    yield made
    made.strike()


@pytest.fixture(scope="module")
def quick_stage() -> Iterator[Stage]:
    """On an ext4 in memory, where a sync costs nothing: no kill of a process loses what was written before."""
    with ExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory(dir="/dev/shm"))
        point = stack.enter_context(mounted(Path(folder, "ext4.img"), 256 * MIB, "mkfs.ext4", "-q"))
        made = Stage(point)
        stack.callback(made.strike)
        yield made


def converge(stage: Stage, scenario: Scenario, first: Lived) -> None:
    """Run the same task again, when the programs that were left behind have ended, then reclaim; all must hold."""
    for pid in first.started:
        wait_for_end(pid)
    second = fine(run(stage.root, scenario.act))
    if first.acknowledged:
        assert second.made == first.made, "what was acknowledged is not what is there"
    fine(run(stage.root, clear))
    check(stage.root, scenario.wanted, scenario.images, scenario.strangers)


@pytest.mark.parametrize("where", ["before", "call"])
@pytest.mark.parametrize("name", NAMES)
def test_killed_anywhere_the_task_converges(
    name: str, where: str, quick_stage: Stage, sources: Sources, tally: Tally
) -> None:
    stage = quick_stage
    found = scenarios(sources, stage.root)
    assert tuple(found) == NAMES
    scenario = found[name]
    number = 1
    while True:
        stage.set(scenario)
        first = run(stage.root, scenario.act, Kill(where, number))
        if first.killed and number % REBOOTS == 0:
            stage.reboot()
        try:
            converge(stage, scenario, first)
        except AssertionError as error:
            raise AssertionError(f"killed {where} {number}: {error}") from error
        if not first.killed:
            break
        tally.add("file", name, where)
        number += STRIDE[where]
    assert number > 3, "hardly anything was killed"


def test_a_fill_whose_qemu_img_goes_on_is_left_to_it(stage: Stage, large: Sources, tally: Tally) -> None:
    """No second writer: who wants the image meanwhile fills another volume, and reclaim waits."""
    act = fill(large.qcow2, "qcow2")
    first = left_behind(stage, act)
    assert first.orphan, "qemu-img was done each time before it could be stopped"
    try:
        pool = parts(stage.root, Runner())
        (theirs,) = pool.volumes.inventory()
        ((filling, state),) = pool.records.states().states.items()
        assert pool.records.pulse(pool.records.read(filling).owner) is not None, "the program does not hold the lock"
        fine(run(stage.root, clear))
        assert pool.records.states().state(filling) is state, "what is being made was reclaimed"
        assert theirs in parts(stage.root, Runner()).volumes.inventory(), "a volume was removed under its writer"
        began = time.monotonic()
        second = fine(run(stage.root, act))
        assert time.monotonic() - began < 20 * LEASE, "a dead filler delays others by more than a few leases"
        assert second.made[0] not in theirs
    finally:
        os.kill(first.orphan, signal.SIGCONT)
    wait_for_end(first.orphan)
    fine(run(stage.root, clear))
    check(stage.root, {}, {KEY: True})
    tally.add("file", "fill from qcow2", "program")


@pytest.mark.parametrize("what", ["flatten", "grow"])
def test_a_disk_that_an_orphan_writes_to_has_no_second_writer(
    what: str, stage: Stage, large: Sources, tally: Tally
) -> None:
    size = large.size if what == "flatten" else 2 * large.size

    async def grow(pool: object, disk: object) -> None:
        await disks.grow(pool, disk, size)  # type: ignore[arg-type]

    act = on_disk("web", disks.flatten if what == "flatten" else grow)  # type: ignore[arg-type]
    clone = make(DiskWish("web", "root", image_key=KEY, size=large.size))
    first = left_behind(stage, act, fill(large.raw, "raw"), clone)
    if first.orphan:
        try:
            second = run(stage.root, act)
            # A resize that was stopped behind its last write has nothing left to do for anybody.
            assert second.errors or (what == "grow" and not second.programs), "a second writer was let in"
            for sentence in second.errors:
                assert "in use" in sentence or "another process" in sentence, sentence
        finally:
            os.kill(first.orphan, signal.SIGCONT)
        wait_for_end(first.orphan)
    assert first.orphan or what == "grow", "qemu-io was done each time before it could be stopped"
    converge(stage, Scenario(act, wanted={("web", "root"): large.reads(size)}, images={KEY: True}), first)
    tally.add("file", what, "program" if first.orphan else "before")


def left_behind(stage: Stage, act: Act, *before: Act) -> Lived:
    """Kill a task while its program is at work; tried anew where the program was faster."""
    for _attempt in range(5):
        stage.set(Scenario(act, before))
        first = run(stage.root, act, Kill("program", 1))
        assert first.killed
        if first.orphan:
            break
    return first


def wait_for_end(pid: int) -> None:
    wait_until(lambda: not alive(pid))


def alive(pid: int) -> bool:
    """Whether a process, which is nobody's child here, still runs; its last thread lets the files go."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().split()[2] != "Z" or len(os.listdir(f"/proc/{pid}/task")) > 1
    except OSError:
        return False


def wait_until(fulfilled: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not fulfilled():
        assert time.monotonic() < deadline
        time.sleep(0.02)
