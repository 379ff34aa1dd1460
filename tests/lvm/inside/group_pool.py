# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The tasks of ``tests/crash`` on a pool in the group, thin or thick, and a process that does them, to which something
happens at one of the programs that it starts.

All that changes a volume group is done by programs. The records are files, as in a folder.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import work
from contract.beds import program
from contract.lvm_bed import GROUP, LvmBed, emptied, grouped
from crash import child, pool_state
from crash import scenarios as tasks
from crash.child import Kill, fine, run
from crash.scenarios import CONFIG, MIB, NAMES, DiskWish, Scenario, Sources, Task, clear, disks, scenarios

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
MOMENTS = (0.0, 0.05, 0.2)
"""Seconds after its start at which a program's parent is struck: one of them after the other."""
OLD = "old"
"""The name of somebody's volume."""
#: A thin snapshot is its own from the beginning.
ALL = [(kind, name) for kind in KINDS for name in NAMES if (kind, name) != ("thin", "flatten")]


class Struck(Runner):
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


class Bench:
    """A pool of one kind in the group, for one process to be struck at a time."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.kind, self.root = kind, str(folder / kind)
        Path(self.root, ".virt-storage", "staging").mkdir(parents=True)

    def set(self, scenario: Scenario) -> None:
        """An empty pool with what stands before the scenario."""
        self.strike()
        scenario.stage(self.root)
        for act in scenario.before:
            fine(run(self.root, act))

    def strike(self) -> None:
        emptied(LvmBed(self.kind))


@contextmanager
def bench(folder: Path, kind: str) -> Iterator[Bench]:
    """One for a test, which leaves the group empty."""
    made = Bench(folder, kind)
    try:
        yield made
    finally:
        made.strike()


def on_the_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """What ``crash`` does with a folder, it does with the group."""
    for module in (child, pool_state):
        monkeypatch.setattr(module, "parts", parts)
    monkeypatch.setattr(child, "Stopping", Struck)
    monkeypatch.setattr(child, "_kill_at_call", lambda kill: None)
    monkeypatch.setattr(child, "LEASE", work.LEASE)
    monkeypatch.setattr(child, "BEAT", work.LEASE / 10)
    monkeypatch.setattr(child, "WALL", 300)
    monkeypatch.setattr(tasks, "BOUNDS", replace(tasks.BOUNDS, timeout=600))  # it is slow, and may share its host
    monkeypatch.setattr(pool_state, "_reads_as", reads_as)
