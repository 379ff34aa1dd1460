# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""Which pool each disk goes to, by its flavor. Pure; sizes in bytes.

A disk that stands stays. New ones are placed from the largest to the smallest, each into the best choice of its
flavor that has a pool with room, and counted there before the next. So neither the order of the pools nor that of the
disks in the task matters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Union

from .flavors import Choice, Flavor
from .sizes import in_words

Slot = tuple[str, str]


@dataclass(frozen=True)
class Place:
    """A pool of the host as it is now.

    ``provisioned`` are the sizes of its recorded disks, whatever they take up; ``cached`` is what its images take up,
    which is counted apart. In a ``thick`` one a disk takes up its whole size at once. ``problem`` says why nothing can
    be placed in it, whatever a flavor allows.
    """

    name: str
    labels: Mapping[str, Any] = field(default_factory=dict)
    capacity: int = 0
    free: int = 0
    provisioned: int = 0
    cached: int = 0
    thick: bool = False
    problem: str = ""


@dataclass(frozen=True)
class Demand:
    """A disk that is asked for by flavor.

    ``size`` is what it promises to its guest, ``written`` the part of that which making it takes up at once.
    ``stands`` is the pool that has it already; then ``size`` is only what it grows by.
    """

    instance: str
    role: str
    part: str
    flavor: Flavor
    size: int
    written: int = 0
    stands: str = ""

    @property
    def slot(self) -> Slot:
        """Instance and role: there is one disk for them."""
        return self.instance, self.role


@dataclass(frozen=True)
class Placed:
    """The pool for a disk and why. ``strays`` says why the flavor would not put it there, where it stays
    nevertheless."""

    pool: str
    reason: str
    strays: str = ""


@dataclass(frozen=True)
class Refused:
    """That no pool can have a disk, and for every pool of the host, and every other that the flavor names, why."""

    demand: Demand
    unfit: Mapping[str, str]
    matching: bool
    """Whether there is a pool that the flavor allows, so that it is only for lack of room."""

    def __str__(self) -> str:
        demand = self.demand
        pools = ", ".join(f"not {pool} ({why})" for pool, why in self.unfit.items())
        return (
            f"No pool fits the disk {demand.role} of {demand.instance} ({in_words(demand.size)}, flavor "
            f"{demand.flavor.name}), {pools or 'for this host has none'}: make room, or change the flavor or a pool's "
            "labels."
        )


Answer = Union[Placed, Refused]


def place(demands: Sequence[Demand], pools: Iterable[Place]) -> dict[Slot, Answer]:
    """A pool, or a refusal, for every disk."""
    rooms = {pool.name: _Room(pool) for pool in sorted(pools, key=lambda each: each.name)}
    answers: dict[Slot, Answer] = {}
    for demand in demands:
        if demand.stands:
            answers[demand.slot] = Placed(demand.stands, "it stands there", _strays(demand, rooms[demand.stands].pool))
            rooms[demand.stands].take(demand)
    new = (demand for demand in demands if not demand.stands)
    for demand in sorted(new, key=lambda each: (-each.size, each.slot)):
        answer = answers[demand.slot] = _place(demand, rooms)
        if isinstance(answer, Placed):
            rooms[answer.pool].take(demand)
    return answers


class _Room:
    """What is left of a pool while disks are placed in it."""

    def __init__(self, pool: Place) -> None:
        self.pool = pool
        self._promised = pool.provisioned
        self._free = pool.free

    def take(self, demand: Demand) -> None:
        """Count a disk in."""
        self._promised += demand.size
        self._free -= self._at_once(demand)

    def _at_once(self, demand: Demand) -> int:
        """What the disk takes up when it is made."""
        return demand.size if self.pool.thick else demand.written

    def left(self, choice: Choice) -> int:
        """The bytes that may still be promised; negative where too many were."""
        return int(self.pool.capacity * choice.overcommit) - self._promised

    def lack(self, choice: Choice, demand: Demand) -> str:
        """Why the disk does not fit in, "" where it does."""
        left = self.left(choice)
        if demand.size > left:
            most = in_words(self._promised + left)
            return f"of {most} that may be promised to disks, {in_words(self._promised)} are"
        if self._free - self._at_once(demand) < choice.min_free:
            needed = in_words(choice.min_free + self._at_once(demand))
            images = f", while cached images take {in_words(self.pool.cached)}" if self.pool.cached else ""
            return f"{in_words(max(0, self._free))} are free and {needed} have to be{images}"
        return ""


def _place(demand: Demand, rooms: Mapping[str, _Room]) -> Answer:
    choices = demand.flavor.choices(demand.part)
    unfit: dict[str, list[str]] = {name: [] for name in rooms}
    matching = False
    for number, choice in enumerate(choices, 1):
        fitting = []
        for name, room in rooms.items():
            why = room.pool.problem or choice.mismatch(name, room.pool.labels)
            if not why:
                matching = True
                why = room.lack(choice, demand)
            if why:
                unfit[name].append(why)
            else:
                fitting.append(room)
        if fitting:
            which = f"choice {number} of {len(choices)} of flavor {demand.flavor.name} for {demand.part} disks"
            return _best(fitting, choice, which)
    for name in sorted(frozenset().union(*(choice.pools for choice in choices)).difference(rooms)):
        unfit[name] = ["there is no such pool"]
    return Refused(demand, {name: ", and ".join(dict.fromkeys(why)) for name, why in unfit.items()}, matching)


def _best(fitting: Sequence[_Room], choice: Choice, which: str) -> Placed:
    """One of the pools that fit, which come by name; of several with equal room the first."""
    room = min(fitting, key=lambda each: each.left(choice) * (1 if choice.pack else -1))
    way = "the only pool that fits"
    if len(fitting) > 1:
        way = f"the {'least' if choice.pack else 'most'} room of {len(fitting)} pools that fit"
    return Placed(room.pool.name, f"{which}: {way}, {in_words(room.left(choice))} left")


def _strays(demand: Demand, pool: Place) -> str:
    """Why the flavor would not put a disk where it stands; room is no question for it any more."""
    why = [choice.mismatch(pool.name, pool.labels) for choice in demand.flavor.choices(demand.part)]
    return ", and ".join(dict.fromkeys(why)) if all(why) else ""
