# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Explore the protocol; break it on purpose, and see that each break is caught.

``VIRT_STORAGE_FULL=1`` (``./dev test interleavings --full``) runs the long form.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from .algorithms import mutated, shipped
from .choices import Choices
from .explore import Bounds, Explored, Stage, at_random, exhaustively, run
from .mutants import MUTANTS, Mutant
from .scenarios import scenarios

FULL = os.environ.get("VIRT_STORAGE_FULL") == "1"
SCENARIOS = scenarios(shipped())
#: switches, faults -> schedules a scenario
EVERY = {Bounds(1, 1): 6000 if FULL else 150, Bounds(2, 0): 1000 if FULL else 100}
RANDOM = {Bounds(2, 1): 600 if FULL else 100, Bounds(4, 2): 600 if FULL else 100, Bounds(8, 0): 300 if FULL else 30}
HUNT = (Bounds(2, 1), Bounds(4, 2), Bounds(8, 0))


def hunt(scenario: Callable[[], Stage]) -> Iterator[tuple[Bounds, Explored]]:
    """Short and cheap first, and every schedule with one switch and one fault at last."""
    for bounds in HUNT:
        yield bounds, at_random(scenario, bounds, range(1000))
    yield Bounds(1, 1), exhaustively(scenario, Bounds(1, 1), 20_000)


class Tally:
    """What was explored in this run."""

    def __init__(self) -> None:
        self.schedules = self.exhausted = self.caught = 0

    def add(self, explored: Explored) -> None:
        self.schedules += explored.schedules
        self.exhausted += explored.exhausted
        assert explored.story is None, "\n%s" % explored.story


@pytest.fixture(scope="module")
def tally(capfd_disabled_print: Callable[[str], None]) -> Iterator[Tally]:
    counted = Tally()
    yield counted
    capfd_disabled_print(
        "\nexplorer: %d schedules of %d scenarios, 0 violations, %d explored to the end of their bounds; "
        "%d of %d mutants caught" % (counted.schedules, len(SCENARIOS), counted.exhausted, counted.caught, len(MUTANTS))
    )
    if FULL:
        assert counted.schedules >= 100_000


@pytest.fixture(scope="module")
def capfd_disabled_print(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """A print that reaches the terminal although pytest captures output."""
    capture = request.config.pluginmanager.getplugin("capturemanager")

    def show(text: str) -> None:
        with capture.global_and_fixture_disabled():
            print(text)

    return show


@pytest.mark.parametrize("name", SCENARIOS)
def test_no_schedule_breaks_a_hold(name: str, tally: Tally) -> None:
    scenario: Callable[[], Stage] = SCENARIOS[name]
    for bounds, limit in EVERY.items():
        tally.add(exhaustively(scenario, bounds, limit))
    for bounds, seeds in RANDOM.items():
        tally.add(at_random(scenario, bounds, range(seeds)))


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.label)
def test_a_broken_clause_is_caught(mutant: Mutant, tally: Tally) -> None:
    broken = scenarios(mutated(mutant.label, mutant.file, mutant.old, mutant.new))
    for name in mutant.scenarios:
        for bounds, explored in hunt(broken[name]):
            story = explored.story
            if story is not None:
                tally.caught += 1
                replayed = run(broken[name], Choices(story.choices), bounds)
                assert replayed is not None
                assert replayed.lines == story.lines, "the story does not replay"
                return
    pytest.fail("no schedule showed that %s" % mutant.label)


def test_the_shipped_protocol_survives_what_catches_the_mutants(tally: Tally) -> None:
    """The mutants' own schedules, over the shipped code: what catches them is the clause and nothing else."""
    for mutant in MUTANTS:
        for name in mutant.scenarios:
            tally.add(at_random(SCENARIOS[name], HUNT[1], range(200 if FULL else 20)))
