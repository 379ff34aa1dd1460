# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Two clients on one pool in Ceph, of which one is frozen anywhere in its task, also within the steps of librbd. Its
locks run out by themselves. Ceph forgets that it has an image open after a while, or is told to block it.

``VIRT_STORAGE_FULL=1`` freezes at every step and call, otherwise at a few that decide.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

rbd = pytest.importorskip("rbd", reason="./dev installs the bindings of Ceph with its cluster")

from contract.rbd_bed import ceph  # noqa: E402

from . import rbd_child  # noqa: E402
from .child import Freeze  # noqa: E402
from .freezing import RIVALS, Freezing  # noqa: E402
from .rbd_child import MOMENTS, in_child  # noqa: E402
from .scenarios import Scenario, Sources  # noqa: E402
from .tally import Freezes  # noqa: E402
from .test_crash import FULL, sources  # noqa: E402, F401  # pylint: disable=unused-import
from .test_crash_rbd import NAMES, Stage, cluster, scenarios_of, stage  # noqa: E402, F401  # pylint: disable=unused-import
from .test_frozen import frozen  # noqa: E402

BLOCKED, STILL = "blocked", "still"
WAYS = tuple(itertools.product(RIVALS, (BLOCKED, STILL)))
WHERE = ("before", "call")
DEFAULT = (
    ("fill from raw", "decision", 3, ("reclaim", BLOCKED)),
    ("clone three", "decision", 1, ("opposite", STILL)),
    ("clone three", "decision", 2, ("reclaim", STILL)),
    ("import", "call", 15, ("reclaim", BLOCKED)),
    ("grow", "call", 2, ("same", STILL)),
    ("flatten", "call", 3, ("opposite", BLOCKED)),
    ("delete", "decision", 3, ("same", STILL)),
)
TRIED = tuple((name, where, 0, None) for name, where in itertools.product(NAMES, WHERE)) if FULL else DEFAULT
STRIDE = {"before": 1, "call": 3}
"""A call is frozen at one or two of its moments, each at others."""
FORGOTTEN = 10
"""Seconds in which the cluster forgets a client that stands still, here: beats come every five."""


@pytest.fixture(scope="module")
def forgetful(cluster: None) -> Iterator[None]:  # noqa: F811
    """A cluster that waits for no one for long."""
    ceph.ceph("config", "set", "osd", "osd_client_watch_timeout", FORGOTTEN)
    yield
    ceph.ceph("config", "rm", "osd", "osd_client_watch_timeout")


class Bench:
    """A pool, and who is frozen in it."""

    def __init__(self, stage: Stage) -> None:  # noqa: F811
        self._stage, self.root = stage, stage.root

    def set(self, scenario: Scenario) -> None:
        """A pool with what stands before the scenario. Whoever comes next is the first client."""
        self._stage.set(scenario)
        Path(self.root, "calls").write_bytes(b"")
        Path(self.root, "clients").unlink(missing_ok=True)

    def nothing(self) -> None:
        """The cluster finds out by itself."""

    def block(self) -> None:
        """Have the cluster block all clients that were here."""
        in_child(rbd_child.forget, self.root)


@pytest.mark.parametrize(("name", "where", "place", "way"), TRIED)
def test_frozen_anywhere_nothing_is_lost(
    name: str,
    where: str,
    place: int,
    way: tuple[str, str] | None,
    forgetful: None,
    stage: Stage,  # noqa: F811
    sources: Sources,  # noqa: F811
    freezes: Freezes,
) -> None:
    bench, scenario = Bench(stage), scenarios_of(stage, sources)[name]
    for number, (rival, fate) in [(place, way)] if way else every(name, where):
        # Who was ended because librbd would not come back is dead work like any other.
        freezing = Freezing(stage.root, "rbd", name, scenario, rival, sources, rbd_child.wait_until_forgotten)
        lose = bench.block if fate == BLOCKED else bench.nothing
        try:
            first = frozen(bench, freezing, Freeze(where, number), freezes, lose, in_child)
        except AssertionError as error:
            raise AssertionError(f"frozen {where} {number}, {fate}, {rival}: {error}") from error
        assert first.frozen or number not in (1, place), f"there is no {where} {number}"
        reached = rbd_child.calls(stage.root) * len(MOMENTS) if where == "call" else number
        if not first.frozen and reached <= number:
            break


def every(name: str, where: str) -> Iterator[tuple[int, tuple[str, str]]]:
    """The places to freeze at in the long form, each in another way than the one before it."""
    return zip(itertools.count(1, STRIDE[where]), itertools.islice(itertools.cycle(WAYS), NAMES.index(name), None))
