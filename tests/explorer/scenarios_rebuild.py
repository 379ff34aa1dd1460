# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Records that were lost or damaged, rebuilt while others retire, prune and clone; and the clauses that it rests on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.virt.storage.plugins.module_utils._ground.errors import Busy, LostMetadata
from ansible_collections.virt.storage.plugins.module_utils._records.types import Record, State

from .algorithms import Algorithms
from .explore import Stage
from .mutants import Mutant
from .scenarios import Cast, Script, Task, _stage, disk, image
from .world import Violation, World

ACTOR = Callable[[Any], Task]


class Rebuilder(Script):
    """Rebuilds the disk ``a`` as its operator states it: qcow2, on the image given."""

    def rebuild(self, damaged: bool = False) -> ACTOR:
        """Restore the record, given up first where it is damaged."""

        async def act(pool: Any) -> None:
            wish = self.algorithms.disks.DiskWish(
                "a", "root", native=LOST.volume.name, name=LOST.volume.name, format="qcow2", backing=X.id
            )
            if damaged:
                await self.algorithms.rebuild.give_up(pool, {LOST.id: State.READY})
            try:
                made = await self.algorithms.rebuild.rebuild(pool, wish)
            except (Busy, LostMetadata):
                return
            self.stage.acknowledged.add(made.disk.id)

        return act

    def restore_state(self) -> ACTOR:
        """Give the record its state again."""

        async def act(pool: Any) -> None:
            if await self.algorithms.rebuild.restore_state(pool, LOST):
                self.stage.acknowledged.add(LOST.id)

        return act


X = image(1)
LOST = disk("a", X)


def _without(stage: Stage, change: Callable[[Any], None], keeps_image: bool) -> Stage:
    """``stage`` with an accident; the volume must stay, and its image where something still refers to it."""
    for disk_now in (stage.world.seen, stage.world.durable):
        change(disk_now)
    stage.acknowledged.discard(LOST.id)
    stage.kept |= {LOST.volume.name} | ({X.volume.name} if keeps_image else set())
    if keeps_image:
        stage.converged = _is_managed
    stage.world.history.clear()
    for folder in ["records", *stage.world.seen.references]:
        stage.world._remember(folder)
    return stage


def _is_managed(world: World) -> None:
    live = [e for e in world.seen.records.values() if e.body.volume.name == LOST.volume.name and e.state is State.READY]
    if len(live) != 1 or live[0].damaged:
        raise Violation("hold 6: the disk was not rebuilt, although its task was run again")


def _lose(disk_now: Any) -> None:
    del disk_now.records[LOST.id]


def _lose_all(disk_now: Any) -> None:
    _lose(disk_now)
    disk_now.references[X.id].clear()


def _damage(disk_now: Any) -> None:
    disk_now.records[LOST.id].damaged = True


def _lose_state(disk_now: Any) -> None:
    disk_now.records[LOST.id].state = None


def rebuilds(algorithms: Algorithms) -> dict[str, Callable[[], Stage]]:
    """Every scenario by name."""

    def play(
        change: Callable[[Any], None], state: State, cast: Cast, again: Cast, keeps_image: bool = True
    ) -> Callable[[], Stage]:
        before: list[tuple[Record, State]] = [(X, state), (LOST, State.READY)]
        return lambda: _without(_stage(algorithms, before, cast, again, script=Rebuilder), change, keeps_image)

    ready, retired = State.READY, State.RETIRED
    return {
        "lost, retire": play(_lose, ready, lambda s: [[s.rebuild()], [s.retire(X)]], lambda s: [[s.rebuild()]]),
        "lost, two rebuilds, retire": play(
            _lose, ready, lambda s: [[s.rebuild()], [s.rebuild()], [s.retire(X)]], lambda s: [[s.rebuild()]]
        ),
        "lost on a retired image, reclaim": play(
            _lose, retired, lambda s: [[s.rebuild()], [s.reclaim()]], lambda s: [[s.rebuild()]]
        ),
        "lost on a retired image, two rebuilds, reclaim": play(
            _lose, retired, lambda s: [[s.rebuild()], [s.rebuild()], [s.reclaim()]], lambda s: [[s.rebuild()]]
        ),
        "lost with its reference on a retired image, reclaim": play(
            _lose_all, retired, lambda s: [[s.rebuild()], [s.reclaim()]], lambda s: [[]], keeps_image=False
        ),
        "damaged, retire": play(
            _damage, ready, lambda s: [[s.rebuild(True)], [s.retire(X)]], lambda s: [[s.rebuild(True)]]
        ),
        "damaged on a retired image, reclaim": play(
            _damage, retired, lambda s: [[s.rebuild(True)], [s.reclaim()]], lambda s: [[s.rebuild(True)]]
        ),
        "damaged, two rebuilds, reclaim": play(
            _damage,
            retired,
            lambda s: [[s.rebuild(True)], [s.rebuild(True)], [s.reclaim()]],
            lambda s: [[s.rebuild(True)]],
        ),
        "stateless on a retired image, reclaim": play(
            _lose_state, retired, lambda s: [[s.restore_state()], [s.reclaim()]], lambda s: [[s.restore_state()]]
        ),
    }


REBUILD_MUTANTS = (
    Mutant(
        "a rebuilt disk trusts a retired image that nothing holds",
        "rules",
        "    serving = (State.READY, State.RETIRED) if lost else (State.READY,)\n",
        "    serving = (State.READY, State.RETIRED)\n",
        ("lost with its reference on a retired image, reclaim",),
    ),
    Mutant(
        "a damaged record is released, not dropped",
        "rebuild",
        "        await pool.records.drop(record_id, state)\n",
        "        await pool.records.swap(record_id, state, State.RELEASED)\n",
        ("damaged on a retired image, reclaim", "damaged, retire"),
    ),
    Mutant(
        "the lost name goes before the new record is ready",
        "rebuild",
        "    made = await make(pool, replace(wish, rebuilt=True))\n",
        """    for name in await pool.records.references(wish.backing):
        await pool.records.unrefer(wish.backing, name)
    made = await make(pool, replace(wish, rebuilt=True))
""",
        ("lost, retire",),
    ),
    Mutant(
        "the names of lost records keep nothing",
        "rules",
        "    return state is None or (state not in ENDED and state is not State.FLAT)\n",
        "    return state is not None and state not in ENDED and state is not State.FLAT\n",
        ("lost, retire", "lost on a retired image, reclaim"),
    ),
    Mutant(
        "a record that lost its state is ended although it has a volume",
        "pool",
        "    if target is State.DELETING and record.volume.name in await pool.volumes.inventory():\n",
        "    if False:\n",
        ("stateless on a retired image, reclaim",),
    ),
)
