# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""A pool as the algorithms see it, and the steps that several of them share."""

from __future__ import annotations

from dataclasses import dataclass, field

from .._backends.contract import Capabilities, Volumes
from .._ground.errors import Busy, InUse, LostMetadata
from .._ground.ops import Host
from .._records.contract import Records
from .._records.types import ENDED, LONGEST_LIFE, Disk, Record, State
from . import rules

BEAT_LOOKS = 8
"""How often a lock is looked at within one lease."""


@dataclass(frozen=True)
class Pool:
    """One pool, for one process. ``owner`` is the name of this process's own lock; ``lease`` is in seconds."""

    name: str
    capabilities: Capabilities
    owner: str
    lease: float = 30.0
    records: Records = field(init=False)
    volumes: Volumes = field(init=False)
    host: Host = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "records", Records(self.name))
        object.__setattr__(self, "volumes", Volumes(self.name))
        object.__setattr__(self, "host", Host(self.name))


async def attend(pool: Pool) -> None:
    """Take this process's own lock: as long as it is held, what we began is not reclaimed."""
    if not await pool.records.hold(pool.owner):
        raise Busy(f"The lock {pool.owner}, which is nobody else's, is held by another process: run the task again.")


async def depart(pool: Pool) -> None:
    """Give this process's own lock back; what is still unfinished may be reclaimed at once."""
    await pool.records.release(pool.owner)


async def settle(pool: Pool, record: Record, was: State, now: State) -> bool:
    """Publish ``record``; False when somebody had taken it back, and then nothing of ours is left.

    A refused swap may have worked all the same (a server can lose its reply): the listing decides.
    """
    if await pool.records.swap(record.id, was, now):
        return True
    state = await state_of(pool, record.id)
    if rules.worked(state):
        return True
    if state is was:
        await withdraw(pool, record, was)
    elif rules.is_adoption(record):
        await give_back(pool, record)
    elif state is not State.DELETING:
        await pool.volumes.remove(record.volume)
    return False


async def state_of(pool: Pool, record_id: str) -> State | None:
    """The record's state from a fresh listing. Only a record without any state is still MOVING after so many looks."""
    state: State | None = State.MOVING
    for _look in range(LONGEST_LIFE + 1):
        await pool.records.probe()
        state = (await pool.records.states()).state(record_id)
        if state is not State.MOVING:
            break
    return state


async def withdraw(pool: Pool, record: Record, was: State) -> None:
    """Take back a record of our own that is not published. Refused means that somebody reclaims it: they finish."""
    target = rules.withdrawn(record)
    if await pool.records.swap(record.id, was, target):
        await finish(pool, record, target)
    else:
        await forsake(pool, record)


async def forsake(pool: Pool, record: Record) -> None:
    """Take our reference away where somebody reclaimed the record: they may have been done before it stood."""
    if not isinstance(record, Disk) or record.backing is None:
        return
    if await state_of(pool, record.id) in (State.DELETING, *ENDED):
        await pool.records.unrefer(record.backing, record.id)


async def finish(pool: Pool, record: Record, state: State) -> None:
    """Bring a record that is DELETING, or RELEASED, to its end: volume, then reference, then record.

    Anybody may do this, any number of times. Raises InUse where the volume is used; the record then stays.
    """
    if state is State.DELETING:
        outcome = await pool.volumes.remove(record.volume)
        if not outcome:
            raise InUse(
                f"The volume {record.volume} of pool {pool.name} cannot be removed: {outcome.why}. "
                "Stop what uses it and run the task again.",
                volume=record.volume.name,
            )
    elif rules.is_adoption(record):
        await give_back(pool, record)
    if isinstance(record, Disk) and record.backing is not None:
        await pool.records.unrefer(record.backing, record.id)
    if state is State.DELETING:
        await pool.records.swap(record.id, State.DELETING, State.GONE)


async def give_back(pool: Pool, record: Record) -> None:
    """Take our name away from a volume whose adoption came to nothing. The one under which it was found stays; where
    that is gone, ours stays."""
    found = rules.found_at(record)
    if found is not None:
        await pool.volumes.leave(record.volume.name, found)


async def outlived(pool: Pool, lock: str) -> bool:
    """Wait until the holder of ``lock`` shows life (False), lets go, or has stood still for a lease (True).

    Judged by a counter that stands still on our own monotonic clock: no clock of another host is trusted.
    """
    beat = await pool.records.pulse(lock)
    until = await pool.host.clock() + pool.lease
    while beat is not None:
        if await pool.host.clock() >= until:
            return True
        await pool.host.sleep(pool.lease / BEAT_LOOKS)
        now = await pool.records.pulse(lock)
        if now is not None and now != beat:
            return False
        beat = now
    return True


async def take_over(pool: Pool, record: Record, was: State) -> bool:
    """Reclaim what a dead owner left unpublished; False where it is not ours to reclaim (any more)."""
    await pool.records.sync()
    target = rules.withdrawn(record)
    if not await pool.records.swap(record.id, was, target):
        return False
    await finish(pool, record, target)
    return True


async def end_stateless(pool: Pool, record_id: str) -> bool:
    """End a record that has a body and no state: power failed within ``create``, so it never had a volume of ours.

    One that has a volume has lost its state since: LostMetadata, for nobody knows what the state was.
    """
    if await state_of(pool, record_id) is not State.MOVING:
        return False
    record = await pool.records.read(record_id)
    if await pool.records.pulse(record.owner) is not None:
        return False
    target = rules.withdrawn(record)
    if target is State.DELETING and record.volume.name in await pool.volumes.inventory():
        raise LostMetadata(
            f"The record of {record_id} has lost its state, and its volume {record.volume} is there: restore it with "
            "disk_metadata state=rebuilt.",
            id=record_id,
        )
    await pool.records.create(record, target)
    await finish(pool, record, target)
    return True
