# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The power fails at any moment of a task: what was acknowledged is there, and the same task again ends as it was asked
to.

A task is recorded on a file system of its own. Then that file system is put together again as it was on the device at
each barrier (every write before it has ended and was flushed), and once between it and the next: some of the writes in
between were kept, and others were not, as a device does that loses its power. Each of these is mounted, and the task
runs again. ``VIRT_STORAGE_FULL=1`` takes every barrier, otherwise one of several.
"""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from crash.child import run
from crash.pool_state import check
from crash.scenarios import MIB, NAMES, Scenario, Sources, clear, scenarios
from crash.test_crash import fine
from log_writes import Entry, Recorder, program

DATA, LOG = "/dev/vdc", "/dev/vdb"
SIZE = 320 * MIB
"""XFS takes no device that is smaller than 300 MiB."""
POINT = Path("/srv/power")
ROOT = str(POINT / "pool")
MKFS = {"ext4": ["mkfs.ext4", "-q", "-N", "1024"], "xfs": ["mkfs.xfs", "-q"]}
STRIDE = 1 if os.environ.get("VIRT_STORAGE_FULL") == "1" else 5


@dataclass
class Taken:
    """A task that was recorded: all writes, and which of them are its first and the one at which it was told."""

    entries: list[Entry]
    begun: int
    acknowledged: int


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    program("modprobe", "loop")
    return Sources(tmp_path_factory.mktemp("sources"), 8 * MIB, 2 * MIB)


@contextlib.contextmanager
def mounted(device: str, *options: str) -> Iterator[None]:
    POINT.mkdir(exist_ok=True)
    program("mount", *options, device, str(POINT))
    try:
        yield
    finally:
        program("umount", str(POINT))


def record(scenario: Scenario, kind: str) -> tuple[Recorder, Taken]:
    recorder = Recorder("power", DATA, LOG, SIZE)
    try:
        program(*MKFS[kind], recorder.path)
        with mounted(recorder.path):
            os.mkdir(ROOT)
            scenario.stage(ROOT)
            for act in scenario.before:
                fine(run(ROOT, act))
            program("sync")
            recorder.mark("begun")
            fine(run(ROOT, scenario.act))
            recorder.mark("acknowledged")
    finally:
        recorder.end()
    entries = recorder.entries()
    names = [entry.name for entry in entries]
    return recorder, Taken(entries, names.index("begun"), names.index("acknowledged"))


def moments(taken: Taken) -> Iterator[tuple[str, list[Entry], bool]]:
    """What was written since the task began, and kept, when the power failed: at every barrier of the task and when it
    was acknowledged; and whether it was."""
    chance = random.Random(len(taken.entries))
    ends = [n for n in range(taken.begun, taken.acknowledged + 1) if taken.entries[n].barrier]
    stride = max(1, min(STRIDE, len(ends) // 3))  # a short task has few
    ends = sorted({*ends[chance.randrange(stride) :: stride], taken.acknowledged})
    for end in ends:
        told = end >= taken.acknowledged
        since = taken.entries[taken.begun : end + 1]
        yield f"at write {end}", since, told
        later = taken.entries[end + 1 :]
        open_end = next((n for n, entry in enumerate(later) if entry.barrier), len(later))
        kept = [entry for entry in later[:open_end] if chance.random() < 0.5]
        if kept:
            yield f"at write {end}, and {len(kept)} of the {open_end} after it", since + kept, told


def holds(scenario: Scenario, acknowledged: bool) -> None:
    """What was acknowledged is there as it stands; anything else is when the task has run again."""
    if not acknowledged:
        fine(run(ROOT, scenario.act))
    fine(run(ROOT, clear))
    check(ROOT, scenario.wanted, scenario.images, scenario.strangers)


@pytest.mark.parametrize("kind", MKFS)
@pytest.mark.parametrize("name", NAMES)
def test_the_power_fails(name: str, kind: str, sources: Sources, tmp_path: Path) -> None:
    scenario = scenarios(sources, ROOT)[name]
    recorder, taken = record(scenario, kind)
    before, image, tried = tmp_path / "before", tmp_path / "image", 0
    recorder.replayed(taken.entries[: taken.begun], image)
    program("cp", "--sparse=always", str(image), str(before))
    for what, entries, told in moments(taken):
        try:
            program("cp", str(before), str(image))
            recorder.replayed(entries, image)
            with mounted(str(image), "-o", "loop"):
                holds(scenario, told)
        except AssertionError as error:
            raise AssertionError(f"{what} of {taken.begun} to {taken.acknowledged}: {error}") from error
        tried += 1
    assert tried > 2, "hardly any power failed"
    print(f"power: {name} on {kind}: {tried}")
