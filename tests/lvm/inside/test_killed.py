# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Every task is killed just before each program that it starts, and with the program at work; the same task again ends
in the asked state, and nothing acknowledged is lost.

All that changes a volume group is done by programs. The tasks are those of ``tests/crash``, which kills between them,
too: the records are files, as there. ``VIRT_STORAGE_FULL=1`` kills at every program, otherwise at one of several.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import work
from contract.beds import program
from contract.lvm_bed import GROUP, LvmBed, emptied, fresh_bed, grouped
from crash import child, pool_state
from crash import scenarios as tasks
from crash.child import Kill, Lived, fine, run
from crash.scenarios import CONFIG, MIB, NAMES, DiskWish, Scenario, Sources, Task, clear, disks, scenarios
from crash.tally import Tally
from crash.test_crash import wait_for_end
from work import Opened, Slow

from ansible_collections.virt.storage.plugins.module_utils._algorithms import cache
from ansible_collections.virt.storage.plugins.module_utils._algorithms.pool import Pool
from ansible_collections.virt.storage.plugins.module_utils._backends.lvm_records import GroupStore
from ansible_collections.virt.storage.plugins.module_utils._backends.lvm_thick import ThickVolumes
from ansible_collections.virt.storage.plugins.module_utils._backends.lvm_thin import ThinVolumes
from ansible_collections.virt.storage.plugins.module_utils._backends.perform import Clockwork, Parts
from ansible_collections.virt.storage.plugins.module_utils._ground.command import Runner, Running
from ansible_collections.virt.storage.plugins.module_utils._ground.lvm import Lvm
from ansible_collections.virt.storage.plugins.module_utils._records.types import Disk, State, Volume, disk_id

FULL = os.environ.get("VIRT_STORAGE_FULL") == "1"
KINDS: dict[str, type[ThinVolumes | ThickVolumes]] = {"thin": ThinVolumes, "thick": ThickVolumes}
STRIDE = 1 if FULL else 7
SHORT = ("clone three", "flatten", "grow", "import", "prune what is used", "delete")
MOMENTS = (0.0, 0.05, 0.2)
"""Seconds after its start at which a program's parent is killed: one of them after the other."""
OLD = "old"
"""The name of somebody's volume."""
#: A thin snapshot is its own from the beginning.
ALL = [(kind, name) for kind in KINDS for name in NAMES if (kind, name) != ("thin", "flatten")]


class Dying(Runner):
    """Tells what it starts; at the n-th program, ``kill`` happens to this process: at the ``call``, before it is
    started, or with the ``program`` at work, which goes on alone."""

    def __init__(self, kill: Kill | None, tell: Callable[[str, Any], None]) -> None:
        super().__init__()
        self._kill, self._tell = kill, tell
        self._count = itertools.count(1)

    def start(self, argv: Sequence[str], **options: Any) -> Running:
        kill = self._kill
        reached = kill is not None and next(self._count) == kill.number
        if kill is not None and reached and kill.where == "call":
            kill.strike()
        running = super().start(argv, **options)
        self._tell("started", running._process.pid)
        if kill is not None and reached and kill.where == "program":
            threading.Timer(MOMENTS[kill.number % len(MOMENTS)], kill.strike).start()
        return running


def parts(root: str, runner: Runner) -> Parts:
    """The pool in the group, of the kind that the folder is called; opening it is not among what is killed."""
    kind = os.path.basename(root)
    group = grouped(kind)
    records = GroupStore.of(group, Runner(), child.BEAT, make=True)
    volumes = KINDS[kind](group, runner, records.locks.inherited, staging=f"{root}/.virt-storage/staging")
    volumes.prepare()
    return Parts(records, volumes)


def reads_as(root: str, disk: Disk, expected: str) -> None:
    """A guest reads what it should, to the last byte."""
    place = parts(root, Runner()).volumes.location(disk.volume).name
    program("qemu-img", "compare", "-f", disk.volume.format, "-F", "raw", place, expected)


def stage_old(root: str) -> None:
    """Somebody's volume, and its UUID in a file beside the pool."""
    sort = ["--type", "thin", "-V", "1m", "--thinpool", "virt-storage-pool"] if root.endswith("thin") else ["-L", "1m"]
    program("lvcreate", "-y", *sort, "-n", OLD, GROUP)
    with open(f"/dev/{GROUP}/{OLD}", "r+b") as device:
        device.write(CONFIG + bytes(MIB - len(CONFIG)))
    (uuid,) = (lv.uuid for lv in Lvm(Runner()).volumes(GROUP) if lv.name == OLD)
    Path(root, "uuid").write_text(uuid, encoding="ascii")


def old(root: str) -> Volume:
    return Volume(OLD, "raw", Path(root, "uuid").read_text(encoding="ascii"))


def stage_dead(root: str) -> None:
    """Its adoption was begun by somebody who died."""
    stage_old(root)
    pool = parts(root, Runner())
    record_id = disk_id("web", "root", Clockwork().fresh())
    disk = Disk(record_id, "web", "root", MIB, old(root), "2026", "owner+dead", origin={"found": OLD})
    pool.records.create(disk, State.PENDING)
    pool.volumes.adopt(OLD, old(root))


def scenarios_of(root: str, sources: Sources) -> dict[str, Scenario]:
    """Every scenario by name; what stands in a group is adopted by its UUID."""

    def adopt(pool: Pool) -> Sequence[Task]:
        wish = DiskWish("web", "root", native=old(root).adopted, found=OLD, name=OLD, format="raw")
        return [disks.make(pool, wish)]

    return {
        **scenarios(sources, root),
        "adopt": Scenario(adopt, wanted={("web", "root"): sources.literal(CONFIG, MIB)}, stage=stage_old),
        "reclaim an adoption": Scenario(clear, strangers={OLD}, stage=stage_dead),
    }


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    return Sources(tmp_path_factory.mktemp("sources"), 8 * MIB, 2 * MIB)


@pytest.fixture(scope="module")
def tally() -> Iterator[Tally]:
    """What was killed: told, and kept where whoever runs this outside finds it."""
    counted = Tally()
    yield counted
    counted.keep(Path(".work/results/kills.json"))
    print(f"lvm: {sum(counted.kills.values())} kill points, 0 lost, all converged")


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """What ``crash`` does with a folder, it does with the group."""
    for module in (child, pool_state):
        monkeypatch.setattr(module, "parts", parts)
    monkeypatch.setattr(child, "Stopping", Dying)
    monkeypatch.setattr(child, "_kill_at_call", lambda kill: None)
    monkeypatch.setattr(child, "LEASE", work.LEASE)
    monkeypatch.setattr(child, "BEAT", work.LEASE / 10)
    monkeypatch.setattr(child, "WALL", 300)
    monkeypatch.setattr(tasks, "BOUNDS", replace(tasks.BOUNDS, timeout=600))  # it is slow, and may share its host
    monkeypatch.setattr(pool_state, "_reads_as", reads_as)


@pytest.mark.timeout(3600)
@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(("kind", "name"), [each for each in ALL if FULL or each[1] in SHORT])
def test_killed_at_any_program_the_task_converges(
    kind: str, name: str, tmp_path: Path, sources: Sources, tally: Tally
) -> None:
    root = str(tmp_path / kind)
    staging = Path(root, ".virt-storage", "staging")
    staging.mkdir(parents=True)
    scenario = scenarios_of(root, sources)[name]
    kills = 0
    for where in ("call", "program"):
        for number in itertools.count(1 if where == "call" else 2, STRIDE):
            bed = LvmBed(kind)
            try:
                scenario.stage(root)
                for act in scenario.before:
                    fine(run(root, act))
                first = run(root, scenario.act, Kill(where, number))
                converges(root, scenario, first)
            except AssertionError as error:
                raise AssertionError(f"killed {where} {number}: {error}") from error
            finally:
                emptied(bed)
            if not first.killed:
                break
            tally.add(f"lvm {kind}", name, where)
            kills += 1
    assert kills, "nothing was killed"


def converges(root: str, scenario: Scenario, first: Lived) -> None:
    """The programs that were left behind end, the same task is run again, then reclaim; all must hold."""
    for pid in first.started:
        wait_for_end(pid)
    second = fine(run(root, scenario.act))
    if first.acknowledged:
        assert second.made == first.made, "what was acknowledged is not what is there"
    fine(run(root, clear))
    pool_state.check(root, scenario.wanted, scenario.images, scenario.strangers)


@pytest.mark.parametrize("kind", ["thin", "thick"])
def test_killed_in_mid_fill_the_image_is_begun_anew(kind: str) -> None:
    argv = [sys.executable, "-B", str(Path(work.__file__)), kind, "fill"]
    with fresh_bed(kind):
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as filling:
            assert filling.stdout is not None
            assert [filling.stdout.readline() for _piece in range(3)] == ["filling\n"] * 3
            filling.kill()
        again = Opened(kind)
        begun = set(again.parts.volumes.inventory())
        again.run(cache.fill(again.pool, cache.ImageWish("sha256:y", "other", Slow())))
        assert len(begun) == 1
        again.check()
        assert len(again.live()) == 1
        assert not begun & again.live().keys()
