# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the explorer plays: two or three actors on a pool, and what must be true when all is over."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from ansible_collections.virt.storage.plugins.module_utils._ground.errors import Busy, NotFound, SourceError
from ansible_collections.virt.storage.plugins.module_utils._records.types import (
    Disk,
    Image,
    Record,
    State,
    Volume,
    disk_id,
    image_id,
)

from .algorithms import Algorithms
from .explore import Stage
from .world import CAPABILITIES, LEASE, Content, Violation, World, place

Task = Coroutine[Any, Any, Any]
Actor = Callable[["Script"], Task]
KEY = "sha256:x"


def image(number: int = 1, key: str = KEY, owner: str = "before") -> Image:
    """An image that was there before."""
    record_id = image_id("img", key, "z%011d" % number)
    created = "2025-01-01T00:00:00.%06dZ" % number
    return Image(record_id, key, "img", "", CAPABILITIES.image_volume(record_id), created, owner)


def disk(instance: str, backing: Image | None = None, owner: str = "before") -> Disk:
    """A disk that was there before."""
    record_id = disk_id(instance, "root", "z%011d" % 9)
    origin = {"key": backing.key} if backing else {}
    volume = CAPABILITIES.disk_volume(record_id, "qcow2")
    return Disk(record_id, instance, "root", 100, volume, "2025", owner, backing.id if backing else None, origin=origin)


class Script:
    """What actors do, over the algorithms given (the real ones, or a mutant)."""

    def __init__(self, algorithms: Algorithms, stage: Stage) -> None:
        self.algorithms, self.stage = algorithms, stage
        self.actors = 0

    def pool(self) -> Any:
        self.actors += 1
        return self.algorithms.pool.Pool("p", CAPABILITIES, owner="owner%d" % self.actors, lease=LEASE)

    async def _as_actor(self, *acts: Callable[[Any], Task]) -> None:
        pool = self.pool()
        await self.algorithms.pool.attend(pool)
        for act in acts:
            await act(pool)
        await self.algorithms.pool.depart(pool)

    def clone(self, instance: str, key: str = KEY) -> Callable[[Any], Task]:
        async def act(pool: Any) -> None:
            try:
                made = await self.algorithms.disks.make(
                    pool, self.algorithms.disks.DiskWish(instance, "root", image_key=key)
                )
            except (NotFound, Busy):
                return
            self.stage.acknowledged.add(made.disk.id)

        return act

    def adopt(self, instance: str, name: str) -> Callable[[Any], Task]:
        async def act(pool: Any) -> None:
            wish = self.algorithms.disks.DiskWish(instance, "root", native=name, name=name, format="qcow2")
            try:
                made = await self.algorithms.disks.make(pool, wish)
            except (NotFound, Busy):
                return
            self.stage.acknowledged.add(made.disk.id)

        return act

    def fill(self, key: str = KEY, source: str = KEY) -> Callable[[Any], Task]:
        async def act(pool: Any) -> None:
            try:
                cached = await self.algorithms.cache.fill(pool, self.algorithms.cache.ImageWish(key, "img", source))
            except SourceError:
                left = [name for name, content in self.stage.world.seen.volumes.items() if content.holds == "bad"]
                if left and not self.stage.world.faults:
                    raise Violation("a fill that failed left the volume %s" % left[0]) from None
                return
            self.stage.acknowledged.add(cached.image.id)

        return act

    def retire(self, what: Image, times: int = 1) -> Callable[[Any], Task]:
        async def act(pool: Any) -> None:
            for _unused in range(times):
                await self.algorithms.cache.retire(pool, what, State.READY)

        return act

    def delete(self, what: Disk) -> Callable[[Any], Task]:
        async def act(pool: Any) -> None:
            await self.algorithms.disks.delete(pool, what)
            entry = self.stage.world.seen.records[what.id]
            if entry.state is not State.GONE and not self.stage.world.deletion_begun & {what.id}:
                raise Violation("the removal of %s was acknowledged, and it is %s" % (what.id, entry.state))

        return act

    def flatten(self, what: Disk) -> Callable[[Any], Task]:
        async def act(pool: Any) -> None:
            try:
                await self.algorithms.disks.flatten(pool, what)
            except NotFound:
                return

        return act

    def reclaim(self) -> Callable[[Any], Task]:
        async def act(pool: Any) -> None:
            await self.algorithms.reclaim.reclaim(pool)

        return act


Cast = Callable[[Any], list[list[Callable[[Any], Task]]]]


def _stage(
    algorithms: Algorithms,
    before: list[tuple[Record, State]],
    cast: Cast,
    again: Cast,
    foreign: tuple[str, ...] = (),
    script: type[Script] = Script,
) -> Stage:
    world = World()
    for name in foreign:
        world.seen.volumes[name] = Content("foreign")
        world.used_names.add(name)
    place(world, before)
    stage = Stage(world, [], lambda: iter(()))
    actors = script(algorithms, stage)
    stage.acknowledged = {r.id for r, s in before if s in (State.READY, State.FLAT)}
    for record, _state in before:
        if record.owner == "frozen":
            world.locks["frozen"] = -1
    stage.kept = set(foreign)
    stage.tasks = [actors._as_actor(*acts) for acts in cast(actors)]

    def recovery() -> Iterator[Task]:
        world.locks.pop("frozen", None)
        for acts in again(actors):
            yield actors._as_actor(*acts, actors.reclaim(), actors.reclaim())

    stage.recovery = recovery
    return stage


def scenarios(algorithms: Algorithms) -> dict[str, Callable[[], Stage]]:
    """Every scenario by name."""
    x, y = image(1), image(2)
    a, b = disk("a", x), disk("b", x)
    dead_disk, dead_image = disk("c", x, owner="died"), image(3, owner="died")
    foreign = "old.qcow2"
    lost = Disk(disk_id("f", "root", "z00000000007"), "f", "root", 1, Volume(foreign, "qcow2", foreign), "2025", "died")
    ready = State.READY

    def play(
        before: list[tuple[Record, State]],
        cast: Cast,
        again: Cast = lambda s: [[]],
        foreign: tuple[str, ...] = (),
    ) -> Callable[[], Stage]:
        return lambda: _stage(algorithms, before, cast, again, foreign)

    return {
        "clone, retire": play(
            [(x, ready)], lambda s: [[s.clone("n")], [s.retire(x)]], lambda s: [[s.clone("n")], [s.retire(x)]]
        ),
        "clone, retire, reclaim": play([(x, ready)], lambda s: [[s.clone("n")], [s.retire(x)], [s.reclaim()]]),
        "clone, retire, retire twice": play(
            [(x, ready)], lambda s: [[s.clone("n")], [s.retire(x)], [s.retire(x, times=2)]]
        ),
        "clone, clone, retire, retire twice": play(
            [(x, ready)], lambda s: [[s.clone("m")], [s.retire(x, times=2)], [s.retire(x)], [s.clone("n")]]
        ),
        "one place, two clones": play(
            [(x, ready)], lambda s: [[s.clone("n")], [s.clone("n")]], lambda s: [[s.clone("n")]]
        ),
        "one place, two clones, reclaim": play(
            [(x, ready)], lambda s: [[s.clone("n")], [s.clone("n")], [s.reclaim()]], lambda s: [[s.clone("n")]]
        ),
        "two fills": play([], lambda s: [[s.fill()], [s.fill()]], lambda s: [[s.fill()]]),
        "three fills": play([], lambda s: [[s.fill()], [s.fill()], [s.fill()]], lambda s: [[s.fill()]]),
        "fill, clone": play([], lambda s: [[s.fill()], [s.clone("n")]], lambda s: [[s.fill(), s.clone("n")]]),
        "fill, clone, reclaim": play(
            [], lambda s: [[s.fill()], [s.clone("n")], [s.reclaim()]], lambda s: [[s.fill(), s.clone("n")]]
        ),
        "fill, clone after fill": play(
            [], lambda s: [[s.fill()], [s.fill(), s.clone("n")]], lambda s: [[s.fill(), s.clone("n")]]
        ),
        "fill, clone, retire": play([(x, ready)], lambda s: [[s.clone("n")], [s.retire(x), s.fill()]]),
        "bad fill, good fill": play([], lambda s: [[s.fill(source="bad")], [s.fill()]], lambda s: [[s.fill()]]),
        "delete, retire": play([(x, ready), (a, ready)], lambda s: [[s.delete(a)], [s.retire(x)]]),
        "delete, reclaim": play([(x, ready), (a, ready)], lambda s: [[s.delete(a)], [s.reclaim()]]),
        "delete, delete, reclaim": play(
            [(x, ready), (a, ready)], lambda s: [[s.delete(a)], [s.delete(a)], [s.reclaim()]], lambda s: [[s.delete(a)]]
        ),
        "delete, clone in its place": play(
            [(x, ready), (a, ready)], lambda s: [[s.delete(a)], [s.clone("a")]], lambda s: [[s.clone("a")]]
        ),
        "flatten, retire": play(
            [(x, ready), (a, ready)], lambda s: [[s.flatten(a)], [s.retire(x)]], lambda s: [[s.flatten(a)]]
        ),
        "flatten, delete, retire": play(
            [(x, ready), (a, ready)], lambda s: [[s.flatten(a)], [s.delete(a)], [s.retire(x)]]
        ),
        "flatten, flatten, retire": play(
            [(x, ready), (a, ready), (b, ready)], lambda s: [[s.flatten(a)], [s.flatten(a)], [s.retire(x)]]
        ),
        "two adoptions of one volume": play(
            [], lambda s: [[s.adopt("m", foreign)], [s.adopt("n", foreign)]], foreign=(foreign,)
        ),
        "adoption, reclaim": play(
            [], lambda s: [[s.adopt("n", foreign)], [s.reclaim()]], lambda s: [[s.adopt("n", foreign)]], (foreign,)
        ),
        "a dead adoption, reclaim, adoption": play(
            [(lost, State.PENDING)],
            lambda s: [[s.reclaim()], [s.adopt("n", foreign)]],
            lambda s: [[s.adopt("n", foreign)]],
            (foreign,),
        ),
        "dead makers, two reclaims": play(
            [(x, ready), (dead_disk, State.PENDING), (dead_image, State.FILLING)],
            lambda s: [[s.reclaim()], [s.reclaim()]],
        ),
        "dead makers, reclaim, clone, retire": play(
            [(x, State.RETIRED), (y, ready), (dead_disk, State.PENDING)],
            lambda s: [[s.reclaim()], [s.clone("c")], [s.retire(x)]],
            lambda s: [[s.clone("c")]],
        ),
        "a frozen maker, clone in its place": play(
            [(x, ready), (disk("c", x, owner="frozen"), State.PENDING)],
            lambda s: [[s.clone("c")], [s.reclaim()]],
            lambda s: [[s.clone("c")]],
        ),
        "duplicates, clone, reclaim": play(
            [(x, ready), (y, ready)], lambda s: [[s.clone("n")], [s.reclaim()]], lambda s: [[s.clone("n")]]
        ),
        "last disk deleted, retired image, clone": play(
            [(x, State.RETIRED), (a, ready)],
            lambda s: [[s.delete(a)], [s.reclaim()], [s.clone("n")]],
        ),
    }
