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
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import work
from contract.lvm_bed import fresh_bed
from crash.child import Kill, run
from crash.scenarios import Sources
from crash.tally import Tally
from crash.test_crash import converge
from group_pool import ALL, FULL, bench, scenarios_of
from work import Opened, Slow

from ansible_collections.virt.storage.plugins.module_utils._algorithms import cache

STRIDE = 1 if FULL else 7
SHORT = ("clone three", "flatten", "grow", "import", "prune what is used", "delete")


@pytest.fixture(scope="module")
def tally() -> Iterator[Tally]:
    """What was killed: told, and kept where whoever runs this outside finds it."""
    counted = Tally()
    yield counted
    counted.keep(Path(".work/results/kills.json"))
    print(f"lvm: {sum(counted.kills.values())} kill points, 0 lost, all converged")


@pytest.mark.timeout(3600)
@pytest.mark.usefixtures("on_group")
@pytest.mark.parametrize(("kind", "name"), [each for each in ALL if FULL or each[1] in SHORT])
def test_killed_at_any_program_the_task_converges(
    kind: str, name: str, tmp_path: Path, sources: Sources, tally: Tally
) -> None:
    kills = 0
    with bench(tmp_path, kind) as pool:
        scenario = scenarios_of(pool.root, sources)[name]
        for where in ("call", "program"):
            for number in itertools.count(1 if where == "call" else 2, STRIDE):
                try:
                    pool.set(scenario)
                    first = run(pool.root, scenario.act, Kill(where, number))
                    converge(pool, scenario, first)
                except AssertionError as error:
                    raise AssertionError(f"killed {where} {number}: {error}") from error
                if not first.killed:
                    break
                tally.add(f"lvm {kind}", name, where)
                kills += 1
    assert kills, "nothing was killed"


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
