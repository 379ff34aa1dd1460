# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Frozen anywhere in a task for longer than a lease, while another process does the same, or the opposite, to its end:
no disk and no image is lost, and the one that goes on ends rightly or says in a sentence that it lost.

``VIRT_STORAGE_FULL=1`` freezes at every step and call, beside every rival; otherwise before what changes states and
volumes, beside those rivals that do most to whom they take for dead.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Protocol

import pytest

from .child import Act, Freeze, Lived, run
from .freezing import RIVALS, Freezing
from .scenarios import NAMES, Scenario, Sources, clear, scenarios
from .tally import LOST, Freezes
from .test_crash import FULL, Stage, fine, large, quick_stage, sources, stage  # noqa: F401

KEPT, GIVEN_UP = "its locks stay", "its locks are lost"
"""What becomes of the locks of a process that is stopped, and of those of a host that a server took for dead."""
WAYS = tuple(itertools.product(RIVALS, (GIVEN_UP, KEPT))) if FULL else (("opposite", GIVEN_UP), ("reclaim", GIVEN_UP))


class Bench(Protocol):
    """Where pools are made for one freeze at a time."""

    root: str

    def set(self, scenario: Scenario) -> None:
        """A pool with what stands before the scenario."""


def frozen(
    bench: Bench,
    freezing: Freezing,
    at: Freeze,
    counted: Freezes,
    lose: Callable[[], object] = lambda: None,
    look: Callable[..., object] = lambda do, *arguments: do(*arguments),
) -> Lived:
    """Freeze a task there, have the rival go on, and see to what has become of all. ``lose`` takes the frozen one's
    locks away; ``look`` calls what looks at the pool."""
    bench.set(freezing.scenario)
    rivals: list[Lived] = []

    def meanwhile() -> None:
        lose()
        look(freezing.note, "before")
        rivals.extend(run(bench.root, act) for act in freezing.acts())
        look(freezing.note, "after")

    first = run(bench.root, freezing.scenario.act, at, meanwhile=meanwhile)
    if not first.frozen:
        return first
    assert not first.killed
    for lived in (first, *rivals):
        sentences(lived)
    if freezing.rival == "same" and not rivals[0].acknowledged:
        assert all(waits_for_the_frozen(each) for each in rivals[0].errors), rivals[0].errors
    fine(run(bench.root, clear))
    look(freezing.check, [each for lived in (first, *rivals) for each in lived.made])
    if freezing.rival == "opposite":
        ended(bench, freezing.take_away())
        look(freezing.check_empty)
    else:
        if first.acknowledged or (freezing.rival == "same" and rivals[0].acknowledged):
            look(freezing.check_done)
        ended(bench, [freezing.scenario.act, clear])
        look(freezing.check_done)
    counted.operations += len(rivals)
    counted.add(freezing.backend, freezing.name, freezing.rival)
    counted.add(freezing.backend, freezing.name, LOST, int(not first.acknowledged))
    return first


def sentences(lived: Lived) -> None:
    """What was refused was refused in one line each."""
    assert lived.acknowledged or lived.errors
    for said in lived.errors:
        assert "\n" not in said
        assert said.endswith("."), said
        assert "Traceback" not in said


def waits_for_the_frozen(said: str) -> bool:
    return "in use" in said or "another process" in said


def ended(bench: Bench, acts: Sequence[Act]) -> None:
    for act in acts:
        fine(run(bench.root, act))


def frozen_file(bench: Stage, name: str, from_: Sources, at: Freeze, way: Sequence[str], counted: Freezes) -> Lived:
    """Freeze a task in a pool of files."""
    rival, locks = way
    freezing = Freezing(bench.root, "file", name, scenarios(from_, bench.root)[name], rival, from_)
    try:
        return frozen(bench, freezing, at, counted, bench.reboot if locks == GIVEN_UP else lambda: None)
    except AssertionError as error:
        raise AssertionError(f"frozen {at.where} {at.number}, {locks}, {rival}: {error}") from error


@pytest.mark.parametrize("where", ["before", "call"] if FULL else ["decision"])
@pytest.mark.parametrize("name", NAMES)
def test_frozen_anywhere_nothing_is_lost(
    name: str,
    where: str,
    quick_stage: Stage,  # noqa: F811
    sources: Sources,  # noqa: F811
    freezes: Freezes,
) -> None:
    for number in itertools.count(1):
        found = [frozen_file(quick_stage, name, sources, Freeze(where, number), way, freezes) for way in WAYS]
        if not found[0].frozen:
            break
    assert number > 1, "nothing was frozen"


@pytest.mark.parametrize("way", WAYS if FULL else WAYS[:1])
@pytest.mark.parametrize("name", ["fill from qcow2", "flatten", "grow"])
def test_frozen_with_its_program_nothing_is_lost(
    name: str,
    way: Sequence[str],
    stage: Stage,  # noqa: F811
    large: Sources,  # noqa: F811
    freezes: Freezes,
) -> None:
    assert frozen_file(stage, name, large, Freeze("program", 1), way, freezes).frozen
