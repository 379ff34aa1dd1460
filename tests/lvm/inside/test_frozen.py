# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Frozen in a task on a volume group for longer than a lease, while another process does the same, or the opposite, to
its end: no disk and no image is lost, and the one that goes on ends rightly or says in a sentence that it lost.

It is the process that stands still; a program of LVM that it has started ends by itself, as it does when a task is
stopped on a host that goes on. ``VIRT_STORAGE_FULL=1`` freezes before every decision of every task and beside every
rival, otherwise beside one rival after the other.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from crash.child import Freeze
from crash.freezing import RIVALS, Freezing
from crash.scenarios import Sources
from crash.tally import Freezes
from crash.test_frozen import frozen
from group_pool import ALL, FULL, bench, scenarios_of

SHORT = ("clone three", "delete", "prune what is used")


@pytest.fixture(scope="module")
def freezes() -> Iterator[Freezes]:
    """What was frozen: told, and kept where whoever runs this outside finds it."""
    counted = Freezes()
    yield counted
    counted.keep(Path(".work/results/freezes.json"))
    print(f"lvm: {counted.told}")


@pytest.mark.timeout(3600)
@pytest.mark.usefixtures("on_group")
@pytest.mark.parametrize(("kind", "name"), [each for each in ALL if FULL or each[1] in SHORT])
def test_frozen_before_a_decision_nothing_is_lost(
    kind: str, name: str, tmp_path: Path, sources: Sources, freezes: Freezes
) -> None:
    turns = itertools.cycle(RIVALS)
    with bench(tmp_path, kind) as pool:
        scenario = scenarios_of(pool.root, sources)[name]
        for number in itertools.count(1):
            for rival in RIVALS if FULL else [next(turns)]:
                freezing = Freezing(pool.root, f"lvm {kind}", name, scenario, rival, sources)
                try:
                    first = frozen(pool, freezing, Freeze("decision", number), freezes)
                except AssertionError as error:
                    raise AssertionError(f"frozen at decision {number}, {rival}: {error}") from error
            if not first.frozen:
                break
    assert number > 1, "nothing was frozen"
