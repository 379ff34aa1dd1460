# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Disks that move between pools: nobody ever finds two of one, or none; and the clauses that this rests on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ansible_collections.virt.storage.plugins.module_utils._algorithms.moving import MOVES, moved_from
from ansible_collections.virt.storage.plugins.module_utils._backends.contract import Capabilities
from ansible_collections.virt.storage.plugins.module_utils._ground.errors import Busy, NotFound
from ansible_collections.virt.storage.plugins.module_utils._ground.ops import Op, Outcome
from ansible_collections.virt.storage.plugins.module_utils._records.contract import Listing
from ansible_collections.virt.storage.plugins.module_utils._records.types import USABLE, Disk, Record, State, Volume

from .algorithms import Algorithms
from .explore import Stage
from .mutants import Mutant
from .scenarios import Script, Task, disk, image
from .world import CAPABILITIES, LEASE, Change, Content, Violation, World, place

HERE, THERE, YONDER = "here", "there", "yonder"
POOLS = (HERE, THERE, YONDER)
WRITTEN = "what the guest wrote"
Acts = Sequence[Callable[[Any], Task]]


class Pools(World):
    """Three pools, each with a store of its own: what is listed, locked and synced in one says nothing of another."""

    def __init__(self, removals: bool) -> None:
        super().__init__()
        self.home: dict[str, str] = {}
        self.at = HERE
        self.removals = removals
        """Whether somebody removes the disk, so that there may be none."""

    def begin(self, actor: int, op: Op[Any]) -> Any:
        self.at = op.pool
        return super().begin(actor, op)

    def folder_of(self, op: Op[Any]) -> str:
        self.at = op.pool
        return self._named(super().folder_of(op))

    def _named(self, folder: str) -> str:
        return f"{folder}@{self.at}" if folder in ("records", MOVES) else folder

    def folders(self) -> list[str]:
        return [*(f"records@{pool}" for pool in POOLS), *self.seen.references]

    def _folder(self, name: str) -> Any:
        kind, _at, pool = name.partition("@")
        if kind != "records":
            return super()._folder(name)
        return {i: entry.state for i, entry in self.seen.records.items() if self.home[i] == pool}

    def _change(self, actor: int, folder: str | None, change: Change) -> None:
        pool = self.at

        def there(disk_now: Any) -> None:
            change(disk_now)

        there.pool = pool  # type: ignore[attr-defined]
        super()._change(actor, None if folder is None else self._named(folder), there)

    def _records_sync(self, actor: int) -> None:
        rest = []
        for who, change in self.undurable:
            if change.pool == self.at:  # type: ignore[attr-defined]
                change(self.durable)
            else:
                rest.append((who, change))
        self.undurable = rest

    def _records_create(self, actor: int, record: Record, state: State) -> Outcome:
        self.home.setdefault(record.id, self.at)
        return super()._records_create(actor, record, state)

    def _records_swap(self, actor: int, record_id: str, was: State, now: State) -> Outcome:
        if self.home[record_id] != self.at:
            raise Violation(f"{record_id} is looked for in pool {self.at}")
        return super()._records_swap(actor, record_id, was, now)

    def _records_refer(self, actor: int, record_id: str, name: str) -> Outcome:
        return super()._records_refer(actor, self._named(record_id), name)

    def _records_unrefer(self, actor: int, record_id: str, name: str) -> Outcome:
        return super()._records_unrefer(actor, self._named(record_id), name)

    def _records_hold(self, actor: int, name: str) -> Outcome:
        return super()._records_hold(actor, f"{name}@{self.at}")

    def _records_release(self, actor: int, name: str) -> None:
        super()._records_release(actor, f"{name}@{self.at}")

    def _records_pulse(self, actor: int, name: str) -> int | None:
        return super()._records_pulse(actor, f"{name}@{self.at}")

    def _volumes_inventory(self, actor: int) -> dict[str, str]:
        ours = {entry.body.volume.name for i, entry in self.seen.records.items() if self.home[i] == self.at}
        return {name: name for name in self.seen.volumes if name in ours}

    def _volumes_fill(self, actor: int, volume: Volume, source: str) -> Any:
        facts = super()._volumes_fill(actor, volume, source)
        self._hold(actor, volume, self._read(source))
        return facts

    def _volumes_patch(self, actor: int, volume: Volume, source: str) -> Any:
        self._hold(actor, volume, self._read(source))
        return {"size": 100}

    def _hold(self, actor: int, volume: Volume, holds: str) -> None:
        def hold(now: Any) -> None:
            if volume.name in now.volumes:
                now.volumes[volume.name].holds = holds

        self._change(actor, None, hold)

    def _read(self, name: str) -> str:
        content = self.seen.volumes.get(name)
        return content.holds if content is not None else "nothing"

    def superseded(self) -> set[str]:
        ready = (entry.body for entry in self.seen.records.values() if entry.state in USABLE)
        return {moved_from(body)[1] for body in ready if isinstance(body, Disk)} - {""}

    def counts(self) -> list[Disk]:
        """The disks that count."""
        gone = self.superseded()
        live = (e.body for i, e in self.seen.records.items() if e.state in USABLE and i not in gone)
        return [body for body in live if isinstance(body, Disk)]

    def check(self) -> None:
        found = self.counts()
        if len(found) > 1 or not (found or self.removals):
            raise Violation(f"hold 6: of one disk there are {len(found)}: {', '.join(map(str, found))}")
        for each in found:
            content = self.seen.volumes.get(each.volume.name)
            if content is None or content.holds != WRITTEN:
                raise Violation(f"hold 6: {each} does not hold what the guest wrote")


class Mover(Script):
    """Does what tasks about one disk do. An act gets the pools by name."""

    async def as_actor(self, *acts: Callable[[Any], Task]) -> None:
        """The acts in order, by one process."""
        self.actors += 1
        owner = f"owner{self.actors}"
        pools = {name: self.algorithms.pool.Pool(name, DELTAS, owner, LEASE) for name in POOLS}
        for pool in pools.values():
            await self.algorithms.pool.attend(pool)
        for act in acts:
            await act(pools)
        for pool in pools.values():
            await self.algorithms.pool.depart(pool)

    async def _found(self, pools: Mapping[str, Any]) -> tuple[Any, Disk] | None:
        """The pool in which the disk stands, when the moves that were broken off are at their end."""
        for pool in pools.values():
            await self.algorithms.moving.settle_moves(pool, pools, "a", "root")
        for pool in pools.values():
            await pool.records.probe()
            listing: Listing = await pool.records.states()
            for record_id in listing.slot("a", "root"):
                if listing.state(record_id) in USABLE:
                    return pool, await pool.records.read(record_id)
        return None

    def move(self, to: str) -> Callable[[Any], Task]:
        """Have the disk in a pool; with its own data alone, where that has the image."""

        async def act(pools: Mapping[str, Any]) -> None:
            try:
                found = await self._found(pools)
                if found is None:
                    return
                source, what = found
                moved = what
                if source.name != to:
                    theirs = THEIR_IMAGE if to == THERE and what.backing else None
                    wish = self.algorithms.moving.MoveWish(what, 100, what.volume.name, theirs)
                    moved = (await self.algorithms.moving.move(source, pools[to], pools, wish)).disk
            except (Busy, NotFound):
                return
            self.stage.acknowledged.add(moved.id)

        return act

    def remove(self) -> Callable[[Any], Task]:
        """Remove the disk, wherever it stands."""

        async def act(pools: Mapping[str, Any]) -> None:
            try:
                found = await self._found(pools)
            except Busy:
                return
            if found is not None:
                await self.algorithms.disks.delete(*found)

        return act

    def retire_there(self) -> Callable[[Any], Task]:
        """Take the other pool's image out of use."""

        async def act(pools: Mapping[str, Any]) -> None:
            await self.algorithms.cache.retire(pools[THERE], THEIR_IMAGE, State.READY)

        return act

    def reclaim_all(self) -> Callable[[Any], Task]:
        """Reclaim every pool."""

        async def act(pools: Mapping[str, Any]) -> None:
            for pool in pools.values():
                await self.algorithms.reclaim.reclaim(pool)

        return act


DELTAS: Capabilities = replace(CAPABILITIES, tells_own=True, takes_own=True)
IMAGE, THEIR_IMAGE = image(1), image(2)
ALONE, ON_IMAGE = disk("a"), disk("a", IMAGE)
COPY = replace(
    ALONE,
    id="a+root+z00000000008",
    volume=Volume("a+root+z00000000008.qcow2", "qcow2"),
    origin={"moved": {"pool": HERE, "id": ALONE.id}},
)
Cast = Callable[[Mover], list[Acts]]


def _stage(
    algorithms: Algorithms, before: Mapping[str, list[tuple[Record, State]]], cast: Cast, again: Cast, removals: bool
) -> Stage:
    world = Pools(removals)
    for pool, records in before.items():
        world.home.update((record.id, pool) for record, _state in records)
    records = [each for records in before.values() for each in records]
    world.seen.references[f"{MOVES}@{HERE}"] = {f"{COPY.id}@{THERE}"} if COPY.id in world.home else set()
    for record, _state in records:
        if isinstance(record, Disk):
            base = IMAGE.volume.name if record.backing else None
            world.seen.volumes[record.volume.name] = Content(WRITTEN, backing=base)
            world.used_names.add(record.volume.name)
    place(world, records)
    stage = Stage(world, [], lambda: iter(()))
    actors = Mover(algorithms, stage)
    stage.tasks = [actors.as_actor(*acts) for acts in cast(actors)]

    def recovery() -> Iterator[Task]:
        for acts in again(actors):
            yield actors.as_actor(*acts, actors.reclaim_all(), actors.reclaim_all())

    stage.recovery = recovery
    stage.converged = _settled  # type: ignore[assignment]
    return stage


def _settled(world: Pools) -> None:
    """Nothing tells of a move any more."""
    world.check()
    left = {i for i in world.superseded() if i in world.seen.records and world.seen.records[i].state in USABLE}
    names = [name for pool in POOLS for name in world.seen.references.get(f"{MOVES}@{pool}", ())]
    if left or [name for name in names if not name.startswith("probe+")]:
        raise Violation(f"hold 6: a move is left half done: {left} {names}")


def moves(algorithms: Algorithms) -> dict[str, Callable[[], Stage]]:
    """Every scenario by name."""
    ready = State.READY

    def play(
        before: Mapping[str, list[tuple[Record, State]]], cast: Cast, again: Cast, removals: bool = False
    ) -> Callable[[], Stage]:
        return lambda: _stage(algorithms, before, cast, again, removals)

    alone: Mapping[str, list[tuple[Record, State]]] = {HERE: [(ALONE, ready)]}
    images: Mapping[str, list[tuple[Record, State]]] = {
        HERE: [(IMAGE, ready), (ON_IMAGE, ready)],
        THERE: [(THEIR_IMAGE, ready)],
    }
    broken_off: Mapping[str, list[tuple[Record, State]]] = {HERE: [(ALONE, ready)], THERE: [(COPY, ready)]}
    return {
        "a move": play(alone, lambda s: [[s.move(THERE)]], lambda s: [[s.move(THERE)]]),
        "a move, reclaim": play(alone, lambda s: [[s.move(THERE)], [s.reclaim_all()]], lambda s: [[s.move(THERE)]]),
        "two moves to one pool": play(alone, lambda s: [[s.move(THERE)], [s.move(THERE)]], lambda s: [[s.move(THERE)]]),
        "two moves to two pools": play(
            alone, lambda s: [[s.move(THERE)], [s.move(YONDER)]], lambda s: [[s.move(THERE)]]
        ),
        "to and fro": play(
            alone, lambda s: [[s.move(THERE), s.move(HERE)], [s.move(YONDER)]], lambda s: [[s.move(HERE)]]
        ),
        "a move of its own data, retire": play(
            images, lambda s: [[s.move(THERE)], [s.retire_there()]], lambda s: [[s.move(YONDER)]]
        ),
        "a move, remove": play(
            alone, lambda s: [[s.move(THERE)], [s.remove()]], lambda s: [[s.move(THERE)]], removals=True
        ),
        "a move broken off, two removals": play(
            broken_off, lambda s: [[s.remove()], [s.remove()]], lambda s: [[s.remove()]], True
        ),
        "a move broken off, a move back": play(
            broken_off, lambda s: [[s.move(HERE)], [s.move(THERE)]], lambda s: [[s.move(THERE)]]
        ),
    }


MOVE_MUTANTS = (
    Mutant(
        "a mover does not look for other marks",
        "moving",
        "    if others:\n",
        "    if False:\n",
        ("two moves to two pools", "to and fro"),
    ),
    Mutant(
        "a mover leaves no mark",
        "moving",
        "    await source.records.refer(MOVES, str(mark))\n",
        "",
        ("a move", "two moves to two pools"),
    ),
    Mutant(
        "the disk left behind goes before the copy is ready",
        "moving",
        "    if why is None and await settle(target, copy, State.PENDING, State.READY):\n",
        """    if why is None:
        await _leave(source, target, copy)
    if why is None and await settle(target, copy, State.PENDING, State.READY):
""",
        ("a move",),
    ),
    Mutant(
        "the copy is ready before its data",
        "moving",
        "            facts = await _write(target, copy, wish)\n",
        """            await target.records.swap(copy.id, State.PENDING, State.READY)
            facts = await _write(target, copy, wish)
""",
        ("a move",),
    ),
    Mutant(
        "the mark goes before the disk left behind",
        "moving",
        """        await _leave(source, target, copy)
        await _unmark(source, target, mark)
""",
        """        await _unmark(source, target, mark)
        await _leave(source, target, copy)
""",
        ("a move",),
    ),
    Mutant(
        "a dead mover's mark is taken away and its copy is not",
        "moving",
        """            await target.records.sync()
            await _withdraw(target, begun)
        state = await state_of(target, mark.copy)
""",
        """            pass
        state = State.GONE
""",
        ("two moves to two pools", "to and fro"),
    ),
    Mutant(
        "the copy is made although its image is not ready any more",
        "moving",
        "    return rules.obstacle(await target.records.states(), copy)\n",
        "    return None\n",
        ("a move of its own data, retire",),
    ),
    Mutant(
        "a copy that is found ready is acted on before that is durable",
        "moving",
        "    await target.records.sync()\n    copy = None\n",
        "    copy = None\n",
        ("two moves to one pool", "two moves to two pools"),
    ),
)
