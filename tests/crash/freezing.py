# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What another process does while one is frozen in a task, and what must hold when that one has gone on."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.virt.storage.plugins.module_utils._backends.perform import Parts
from ansible_collections.virt.storage.plugins.module_utils._records.types import (
    ENDED,
    USABLE,
    Disk,
    State,
    key_hash,
    taken_apart,
)

from . import child, pool_state
from .child import Act, Lived, fine, run
from .pool_state import Runner
from .scenarios import KEY, DiskWish, Scenario, Sources, clear, disks, fill, make, on_disk, prune

RIVALS = ("same", "opposite", "reclaim")
TAKES_IMAGES = ("flatten, then prune", "prune", "prune what is used")
TAKES_DISKS = ("delete",)
WEB = ("web", "root")
OLD = "old"
"""How the name of what is adopted begins."""


@dataclass(frozen=True)
class Freezing:
    """The task ``name`` that is frozen in the pool at ``root``, and which of ``RIVALS`` goes on meanwhile."""

    root: str
    backend: str
    name: str
    scenario: Scenario
    rival: str
    sources: Sources
    settle: Callable[[str], None] = lambda root: None
    """Waits until nothing is held by somebody dead."""

    @property
    def takes(self) -> bool:
        """Whether the rival takes everything away."""
        return self.rival == "opposite" and self.name not in (*TAKES_IMAGES, *TAKES_DISKS)

    def acts(self) -> Sequence[Act]:
        """What the rival does."""
        if self.rival == "same":
            return [self.scenario.act]
        if self.rival == "reclaim":
            return [clear]
        if self.takes:
            return self.take_away()
        return [fill(self.sources.raw, "raw"), make(DiskWish(*WEB, image_key=KEY, size=self.sources.size))]

    def take_away(self) -> Sequence[Act]:
        """Remove all that is in the pool."""
        instances = sorted({instance for instance, _role in {WEB, *self.scenario.wanted}})
        return [*(on_disk(instance, disks.delete) for instance in instances), prune, clear]

    # These run where a pool may be looked at.

    def note(self, moment: str) -> None:
        """Write down the states of this moment."""
        listing = child.parts(self.root, Runner()).records.states()
        Path(f"{self.root}.{moment}").write_text(json.dumps(listing.states), encoding="utf-8")

    def noted(self, moment: str) -> Mapping[str, str]:
        """What :func:`note` wrote down."""
        states: Mapping[str, str] = json.loads(Path(f"{self.root}.{moment}").read_text(encoding="utf-8"))
        return states

    def check(self, made: Collection[str]) -> None:
        """After a reclaim: what was there before the rival came, or was acknowledged as ``made`` to anybody, is there
        unless one of the two took it; and every disk reads as it should."""
        pool = child.parts(self.root, Runner())
        listing = pool.records.states()
        before, after = self.noted("before"), self.noted("after")
        owed = {*made, *(each for each, state in before.items() if state in USABLE)}
        if self.takes:
            owed -= {each for each, state in after.items() if state not in (*USABLE, State.PENDING, State.FILLING)}
        ready = any(listing.state(each) is State.READY for each in listing.images(key_hash(KEY)))
        for each in owed:
            if taken_apart(each).image:
                assert ready or self.name in TAKES_IMAGES, f"the image {each} is gone"
            else:
                assert listing.state(each) in USABLE or self.name in TAKES_DISKS, f"the disk {each} is gone"
        records = [pool.records.read(each) for each, state in listing.states.items() if state not in ENDED]
        found = [each for each in records if isinstance(each, Disk)]
        strangers = self._strangers(pool)
        if self.scenario.stage is not Scenario.stage:
            assert found or strangers or State.GONE in listing.states.values(), "somebody's volume is gone"
        wanted = {(each.instance, each.role): self._expected(pool, each) for each in found}
        pool_state.check(self.root, wanted, {KEY: ready}, strangers)

    def check_empty(self) -> None:
        """Nothing is left but what is not ours."""
        strangers = self._strangers(child.parts(self.root, Runner()))
        pool_state.check(self.root, {}, {KEY: False}, strangers)

    def check_done(self) -> None:
        """All is as the task should leave it."""
        scenario = self.scenario
        pool_state.check(self.root, scenario.wanted, scenario.images, scenario.strangers)

    def _strangers(self, pool: Parts) -> set[str]:
        """Other people's volumes that no disk is."""
        states = pool.records.states().states.items()
        named = {pool.records.read(each).volume.name for each, state in states if state not in ENDED}
        return {name for name in pool.volumes.inventory() if name.startswith(OLD)} - named

    def _expected(self, pool: Parts, disk: Disk) -> str:
        """What the guest of the disk reads."""
        size = pool.volumes.stat(disk.volume).size
        wanted = self.scenario.wanted.get((disk.instance, disk.role))
        if wanted is not None and os.stat(wanted).st_size == size:
            return wanted
        return self.sources.reads(size)


Look = Callable[..., object]
"""Calls what looks at a pool, with its arguments."""


def directly(do: Callable[..., object], *arguments: object) -> None:
    """In this process."""
    do(*arguments)


def judge(freezing: Freezing, first: Lived, rivals: Sequence[Lived], look: Look = directly) -> None:
    """See to what has become of all when the frozen one, ``first``, has gone on to its end."""
    for lived in (first, *rivals):
        assert not lived.hung, f"it waited for something that never came: {lived}"
        sentences(lived)
    if not first.acknowledged:
        look(freezing.settle, freezing.root)
    if freezing.rival == "same" and not rivals[0].acknowledged:
        assert all("in use" in said or "another process" in said for said in rivals[0].errors), rivals[0].errors
    finish(freezing, [clear])
    if freezing.name == "flatten" and not first.acknowledged:
        finish(freezing, [freezing.scenario.act])  # its disk may stand on no image any more, and be recorded as before
    look(freezing.check, [each for lived in (first, *rivals) for each in lived.made])
    if freezing.rival == "opposite":
        finish(freezing, freezing.take_away())
        look(freezing.check_empty)
        return
    if first.acknowledged or (freezing.rival == "same" and rivals[0].acknowledged):
        look(freezing.check_done)
    finish(freezing, [freezing.scenario.act, clear])
    look(freezing.check_done)


def sentences(lived: Lived) -> None:
    """What was refused was refused in one line each."""
    assert not lived.killed
    assert lived.acknowledged or lived.errors
    for said in lived.errors:
        assert "\n" not in said
        assert said.endswith("."), said
        assert "Traceback" not in said


def finish(freezing: Freezing, acts: Sequence[Act]) -> None:
    """Tasks that nothing hinders any more."""
    for act in acts:
        fine(run(freezing.root, act))
