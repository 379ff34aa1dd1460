# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Frozen anywhere in a task for longer than a lease, while another process does the same, or the opposite, to its end:
no disk and no image is lost, and the one that goes on ends rightly or says in a sentence that it lost.

``VIRT_STORAGE_FULL=1`` freezes at every step and call, beside all rivals in turn; otherwise before what changes states
and volumes, beside those rivals that do most to whom they take for dead.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Protocol

import pytest

from .child import Freeze, Lived, run
from .freezing import RIVALS, Freezing, Look, directly, judge
from .scenarios import NAMES, Scenario, Sources, scenarios
from .tally import LOST, Freezes
from .test_crash import FULL, Stage, large, quick_stage, sources, stage  # noqa: F401  # pylint: disable=unused-import

KEPT, GIVEN_UP = "its locks stay", "its locks are lost"
"""What becomes of the locks of a process that is stopped, and of those of a host that a server took for dead."""
WAYS = tuple((rival, locks) for locks in (GIVEN_UP, KEPT) for rival in RIVALS)
SOME = (("opposite", GIVEN_UP), ("reclaim", GIVEN_UP))
TURNS = {"before": 4, "call": 1}
"""In how many ways each place has its turn in the long form, each place in others."""


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
    look: Look = directly,
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
    judge(freezing, first, rivals, look)
    counted.operations += len(rivals)
    counted.add(freezing.backend, freezing.name, freezing.rival)
    counted.add(freezing.backend, freezing.name, LOST, int(not first.acknowledged))
    return first


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
    turns = itertools.cycle(WAYS)
    for number in itertools.count(1):
        ways = list(itertools.islice(turns, TURNS[where])) if FULL else SOME
        found = [frozen_file(quick_stage, name, sources, Freeze(where, number), way, freezes) for way in ways]
        if not found[0].frozen:
            break
    assert number > 1, "nothing was frozen"


@pytest.mark.parametrize("way", WAYS if FULL else SOME[:1])
@pytest.mark.parametrize("name", ["fill from qcow2", "flatten", "grow"])
def test_frozen_with_its_program_nothing_is_lost(
    name: str,
    way: Sequence[str],
    stage: Stage,  # noqa: F811
    large: Sources,  # noqa: F811
    freezes: Freezes,
) -> None:
    assert frozen_file(stage, name, large, Freeze("program", 1), way, freezes).frozen
