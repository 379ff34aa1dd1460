# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Explore the moving of disks between pools, and see that each broken clause of it is caught."""

from __future__ import annotations

import pytest

from .algorithms import mutated, shipped
from .explore import at_random, exhaustively
from .mutants import Mutant
from .scenarios_moving import MOVE_MUTANTS, moves
from .test_explorer import EVERY, RANDOM, hunt

SCENARIOS = moves(shipped())


@pytest.mark.parametrize("name", SCENARIOS)
def test_no_schedule_of_a_move_breaks_a_hold(name: str) -> None:
    for bounds, limit in EVERY.items():
        assert exhaustively(SCENARIOS[name], bounds, limit).story is None
    for bounds, seeds in RANDOM.items():
        explored = at_random(SCENARIOS[name], bounds, range(seeds))
        assert explored.story is None, "\n%s" % explored.story


@pytest.mark.parametrize("mutant", MOVE_MUTANTS, ids=lambda mutant: mutant.label)
def test_a_broken_clause_of_moving_is_caught(mutant: Mutant) -> None:
    broken = moves(mutated(mutant.label, mutant.file, mutant.old, mutant.new))
    stories = (explored.story for name in mutant.scenarios for _bounds, explored in hunt(broken[name]))
    assert any(stories), "no schedule showed that %s" % mutant.label
