# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Runs a scenario in many schedules and tells a violation as a story that can be replayed.

The scheduler is nothing but a ``perform`` for the driving loop that production uses: it answers one task at a
time, in two halves where others can move in between, and now and then lets a host die, freeze or lose power.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.virt.storage.plugins.module_utils._ground.drive import (
    Answer,
    Dead,
    Failure,
    Reply,
    drive,
)
from ansible_collections.virt.storage.plugins.module_utils._ground.errors import StorageError
from ansible_collections.virt.storage.plugins.module_utils._ground.ops import Op, Outcome, refused

from . import invariants
from .choices import Choices, RandomChoices, every
from .world import Violation, World

STEPS = 2000
"""More steps than any task needs: past that a schedule counts as endless."""
NAMES = "ABCDEF"


@dataclass(frozen=True)
class Bounds:
    """How often the scheduler may take the processor from an actor that could go on, and how many faults befall."""

    switches: int
    faults: int
    power: bool = True


@dataclass
class Stage:
    """A scenario made ready for one schedule. ``recovery`` are the tasks to run again when the faults have ended."""

    world: World
    tasks: list[Coroutine[Op[Any], Any, Any]]
    recovery: Callable[[], Iterator[Coroutine[Op[Any], Any, Any]]]
    acknowledged: set[str] = field(default_factory=set)
    kept: set[str] = field(default_factory=set)
    converged: Callable[[World], None] = lambda world: None


@dataclass
class Story:
    """A violation: what broke, who did what, and the choices that lead there."""

    broken: str
    lines: list[str]
    choices: list[int]

    def __str__(self) -> str:
        return "%s\n%s\nreplay: %s" % (self.broken, "\n".join("  " + line for line in self.lines), self.choices)


@dataclass
class Begun:
    """The first half of an operation is done."""

    op: Op[Any]
    reply: Any
    early: Any = None


class Scheduler:
    """``perform`` for the driving loop: who moves next, and what befalls them."""

    def __init__(self, stage: Stage, choices: Choices, bounds: Bounds) -> None:
        self.stage, self.world, self.choices, self.bounds = stage, stage.world, choices, bounds
        self.switches, self.faults = bounds.switches, bounds.faults
        self.current = 0
        self.begun: dict[int, Begun] = {}
        self.resting: set[int] = set()
        self.first = 0
        self.alive: set[int] = set()
        self.lines: list[str] = []
        self.steps = 0
        self.survived = True

    def tell(self, actor: int, what: str) -> None:
        self.lines.append("%s: %s" % ("recovery" if self.first else NAMES[actor], what))

    def perform(self, waiting: Mapping[int, Op[Any]]) -> Mapping[int, Reply]:
        self.steps += 1
        for actor in self.alive - set(waiting):
            self.world.die(actor + self.first)
        self.alive = set(waiting)
        if self.steps > STEPS:
            raise Violation("the tasks do not end")
        for actor, op in waiting.items():
            if op.part == "host" and op.primitive != "sleep":
                return {actor: Answer(self.world.begin(actor + self.first, op))}
        actor = self._who(waiting)
        op = waiting[actor]
        fate = self._fate(actor, op)
        if fate == "power":
            return self._power(waiting)
        if fate is not None:
            return fate
        self.current = actor
        self.resting.discard(actor)
        self.world.frozen.discard(actor + self.first)
        reply = self._step(actor, op)
        invariants.always(self.world, self.stage.acknowledged, self.stage.kept)
        return reply

    def _who(self, waiting: Mapping[int, Op[Any]]) -> int:
        """Who moves: dully the one who moved last; a frozen one comes back whenever it is chosen."""
        awake = [a for a in waiting if a + self.first not in self.world.frozen]
        able = [a for a in awake if a not in self.resting] or awake
        if not able:
            able = list(waiting)
        if self.current in able:
            others = [a for a in waiting if a != self.current and (a in able or a not in awake)]
            if not others or self.switches == 0:
                return self.current
            picked = self.choices.pick(1 + len(others))
            if picked == 0:
                return self.current
            self.switches -= 1
            return others[picked - 1]
        asleep = [a for a in waiting if a not in awake] if self.switches else []
        candidates = able + [a for a in asleep if a not in able]
        return candidates[self.choices.pick(len(candidates))] if len(candidates) > 1 else candidates[0]

    def _fate(self, actor: int, op: Op[Any]) -> Any:
        """What befalls the actor before this step: nothing, mostly."""
        if self.faults == 0 or not (op.writes or actor in self.begun) or op.part == "host":
            return None
        fates = ["nothing", "dies", "freezes", "freezes and loses its locks"]
        if op.primitive == "swap" and actor not in self.begun:
            fates.append("loses the reply")
        if self.bounds.power:
            fates.append("power")
        fate = fates[self.choices.pick(len(fates))]
        if fate == "nothing":
            return None
        self.faults -= 1
        self.world.faults += 1
        if fate == "power":
            return "power"
        if fate == "loses the reply":
            self.current = actor
            reply = self.world.begin(actor + self.first, op)
            self.tell(actor, "%s -> %s, but the reply is lost" % (op, reply))
            self.begun[actor] = Begun(op, refused("the reply was lost") if isinstance(reply, Outcome) else reply)
            return {}
        self.tell(actor, "%s before %s%s" % (fate, op, " is durable" if actor in self.begun else ""))
        if fate == "dies":
            self._die(actor)
            return {actor: Dead()}
        self.world.freeze(actor + self.first, keeps_locks=fate == "freezes")
        self.resting.clear()
        return {}

    def _die(self, actor: int) -> None:
        self.survived = False
        self.begun.pop(actor, None)
        self.world.make_durable(actor + self.first)
        self.world.die(actor + self.first)

    def _power(self, waiting: Mapping[int, Op[Any]]) -> Mapping[int, Reply]:
        self.survived = False
        self.lines.append("*: power is lost")
        self.world.lose_power(lambda: self.choices.pick(2) == 1)
        self.begun.clear()
        invariants.always(self.world, self.stage.acknowledged, self.stage.kept)
        return {actor: Dead() for actor in waiting}

    def _step(self, actor: int, op: Op[Any]) -> Mapping[int, Reply]:
        me = actor + self.first
        begun = self.begun.pop(actor, None)
        if begun is not None:
            return {actor: self._end(actor, op, begun)}
        if op.primitive in ("states", "references"):
            folder = self.world.folder_of(op)
            views = self.world.views(me, folder)
            picked = self.choices.pick(len(views)) if len(views) > 1 else 0
            if picked == 0:
                self.world.saw_fresh(me, folder)
            self.begun[actor] = Begun(op, None, views[picked])
            return {}
        try:
            reply = self.world.begin(me, op)
        except StorageError as error:
            self.tell(actor, "%s fails" % op)
            return {actor: Failure(error)}
        self.tell(actor, str(op) + ("" if reply is None else " -> %s" % _shown(reply)))
        if op.primitive == "sleep":
            self.resting = {actor}
        else:
            self.resting.clear()
        if self.world.is_slow(op):
            self.begun[actor] = Begun(op, reply)
            return {}
        return {actor: Answer(reply)}

    def _end(self, actor: int, op: Op[Any], begun: Begun) -> Reply:
        """The second half: a listing passes over what moved meanwhile; a mutation becomes durable."""
        me = actor + self.first
        if op.primitive == "states":
            views = self.world.views(me, self.world.folder_of(op))
            late = views[0] if begun.early == views[0] or self.choices.pick(2) == 0 else begun.early
            listing = self.world.listing(late, begun.early)
            self.tell(actor, "lists %s" % ", ".join("%s=%s" % item for item in sorted(listing.states.items())))
            return Answer(listing)
        if op.primitive == "references":
            self.tell(actor, "lists the references of %s: %s" % (op.args[0], sorted(begun.early) or "none"))
            return Answer(begun.early)
        if op.primitive == "fill":
            self.world.finish_fill(me, op.args[0])
        self.world.make_durable(me)
        return Answer(begun.reply)


def _shown(reply: Any) -> str:
    return "%s %s" % (reply.kind, reply.why) if isinstance(reply, Outcome) else str(reply)


def run(scenario: Callable[[], Stage], choices: Choices, bounds: Bounds) -> Story | None:
    """One schedule, then recovery without faults; the story if a hold broke."""
    stage = scenario()
    scheduler = Scheduler(stage, choices, bounds)
    try:
        for ended in drive(stage.tasks, scheduler.perform):
            if not ended.dead:
                ended.unwrap()
        for actor in range(len(stage.tasks)):
            stage.world.die(actor)
        scheduler.lines.append("-- the faults end; the tasks are run again, and the pool is reclaimed --")
        for index, task in enumerate(stage.recovery()):
            alone = Scheduler(stage, Choices([]), Bounds(0, 0))
            alone.first = 100 + index
            alone.lines = scheduler.lines
            for ended in drive([task], alone.perform):
                ended.unwrap()
            stage.world.die(alone.first)
        invariants.at_rest(stage.world, stage.kept, scheduler.survived)
        stage.converged(stage.world)
    except Violation as violation:
        return Story(str(violation), scheduler.lines, choices.taken)
    except StorageError as error:
        return Story("hold 6: the tasks do not converge: %s" % error, scheduler.lines, choices.taken)
    return None


@dataclass
class Explored:
    """How many schedules were run, whether they were all there are within the bounds, and what broke."""

    schedules: int = 0
    exhausted: bool = False
    story: Story | None = None


def exhaustively(scenario: Callable[[], Stage], bounds: Bounds, limit: int) -> Explored:
    """All schedules within the bounds, or the first ``limit``."""
    explored = Explored()
    for choices in every(limit):
        explored.schedules += 1
        explored.story = run(scenario, choices, bounds)
        if explored.story is not None:
            return explored
    explored.exhausted = explored.schedules < limit
    return explored


def at_random(scenario: Callable[[], Stage], bounds: Bounds, seeds: range) -> Explored:
    """One schedule a seed."""
    explored = Explored()
    for seed in seeds:
        explored.schedules += 1
        explored.story = run(scenario, RandomChoices(seed), bounds)
        if explored.story is not None:
            explored.story.broken = "seed %d: %s" % (seed, explored.story.broken)
            return explored
    return explored
