# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""How images come into the pools of a task, planned. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from .._algorithms.pool import Pool
from .._backends.contract import Route
from .._ground.costs import UNKNOWN, Cost
from .._policy.plan import Action, Fields, Plan
from .._policy.sizes import in_words
from .._records.types import Image
from .image_wishes import Wanted


@dataclass(frozen=True)
class Standing:
    """What a pool has for a wanted image: ``image`` that serves, what the ``name`` stands for now, and its pin."""

    image: Image | None = None
    named: Image | None = None
    pinned: bool = False


@dataclass(frozen=True)
class Site:
    """One pool of the task, what it has for each wanted image, and how that would come in. ``pool`` is None where
    check mode has none."""

    name: str
    pool: Pool | None
    standings: Sequence[Standing]
    routes: Sequence[Route]

    @property
    def thick(self) -> bool:
        """Whether an image takes its whole size from the pool."""
        return self.pool is not None and self.pool.capabilities.thick


@dataclass(frozen=True)
class Supply:
    """What an image can be had for: ``source`` is what reading its source costs; ``sibling`` the pool, and the cost,
    where a pool of the task has it in a form that can be verified."""

    source: Cost = UNKNOWN
    sibling: tuple[str, Cost] | None = None


def plan(
    wanted: Sequence[Wanted], sites: Sequence[Site], supplies: Mapping[str, Supply]
) -> dict[tuple[str, str], Plan]:
    """The steps that give every pool every wanted image, by the names of both. ``supplies`` are by the image's name.

    A source is read once for all pools that need it, and for one name; other names share its image.
    """
    plans = {}
    for number, site in enumerate(sites):
        brought: dict[str, str] = {}
        for place, (want, standing) in enumerate(zip(wanted, site.standings)):
            if standing.image is not None:
                steps = _plan_label(site.name, want, standing)
            elif brought.setdefault(want.key, want.name) != want.name:
                steps = _plan_share(site.name, want, standing, brought[want.key])
            else:
                readers = [other.name for other in sites[:number] if other.routes[place].strategy == "source"]
                ways = _Ways(site.routes[place], supplies.get(want.name, Supply()), readers[:1])
                steps = _plan_fill(site, want, standing, ways)
            plans[site.name, want.name] = steps
    return plans


@dataclass(frozen=True)
class _Ways:
    """How an image can come into a pool: by itself, from a pool that has it, or by what is read for another one."""

    route: Route
    supply: Supply
    readers: Sequence[str]


def _plan_fill(site: Site, want: Wanted, have: Standing, ways: _Ways) -> Plan:
    pool, route, cost = site.name, ways.route, ways.supply.source
    what = f"image {want.name} in pool {pool}"
    amount = f", {in_words(want.source_size)}" if want.source_size else ""
    staged = f", kept in {route.staging} on its way" if route.staging else ""
    sentence = f"bring image {want.name} into pool {pool} ({want.spec.format} from {want.spec.shown}{amount}{staged})"
    strategy, reason = route.strategy, route.reason or None
    if strategy == "clone":
        cost = Cost() if not route.copies else cost
        sentence = f"clone image {want.name} into pool {pool} from {want.spec.shown}"
    elif ways.supply.sibling is not None:
        other, cost = ways.supply.sibling
        sentence = f"copy image {want.name} from pool {other} into pool {pool}"
        strategy, reason = "sibling", f"pool {other} has it, so that its source need not be read"
    elif ways.readers:
        sentence = f"bring image {want.name} into pool {pool} by what is read for pool {ways.readers[0]}"
        strategy, reason = "shared", f"its source is read once, for pool {ways.readers[0]}, too"
        cost = replace(cost, read=0)
    takes = {pool: cost.size if site.thick else cost.written}
    action = Action("fill", what, sentence, cost.read, cost.written, strategy, reason, takes)
    return Plan((action,), *_difference(what, want, have))


def _plan_share(pool: str, want: Wanted, have: Standing, name: str) -> Plan:
    """What another name of the task brings in is what this name is to stand for, too."""
    what = f"image {want.name} in pool {pool}"
    action = Action("label", what, f"let the name {want.name} in pool {pool} stand for what {name} brings in")
    return Plan((action,), *_difference(what, want, have))


def _difference(what: str, want: Wanted, have: Standing) -> tuple[dict[str, Fields], dict[str, Fields]]:
    """What is before and after, where the name comes to stand for an image that is not there yet."""
    before: Fields = {"key": have.named.key} if have.named else {}
    after: Fields = {"key": want.key} if have.named else {"key": want.key, "state": "ready"}
    if want.pinned is not None and want.pinned != have.pinned:
        after["pinned"] = want.pinned
        if have.named:
            before["pinned"] = have.pinned
    return {what: before} if before else {}, {what: after}


def _plan_label(pool: str, want: Wanted, have: Standing) -> Plan:
    """What is left to do for an image that is there: its name, its pin."""
    what = f"image {want.name} in pool {pool}"
    actions = []
    before: Fields = {}
    after: Fields = {}
    if have.image is not None and have.image != have.named:
        actions.append(Action("label", what, f"let the name {want.name} in pool {pool} stand for {have.image.id}"))
        before["id"], after["id"] = have.named.id if have.named else None, have.image.id
    if want.pinned is not None and want.pinned != have.pinned:
        word = "pin" if want.pinned else "unpin"
        actions.append(Action(word, what, f"{word} image {want.name} in pool {pool}"))
        before["pinned"], after["pinned"] = have.pinned, want.pinned
    return Plan(tuple(actions), {what: before} if before else {}, {what: after} if after else {})
