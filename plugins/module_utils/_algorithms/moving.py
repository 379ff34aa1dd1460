# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""Moving a disk to another pool: a copy of its own, made ready, and the end of the disk that it was copied from.

Two pools have two record stores, and nothing is written to both at once. So one record decides: the copy's. As long as
it is not ``ready``, the disk is the one it was copied from; from then on it is the copy, and the other is of no use.

1. the copy's record, ``pending``, in the pool it goes to, and its reference to the image there;
2. a *mark* in the pool it leaves, which names the copy and its pool;
3. afresh: the copy is still pending, its image ready, its place free; the disk is still there, and there is no other
   mark for it. Otherwise all of it is taken back;
4. the data, durable; once more nobody uses the disk, and it is as large as it was;
5. the copy becomes ready: this decides;
6. the disk left behind is deleted, then the mark.

Where a guest runs with the disk, its qemu makes the copy and follows it (4), and the guest stands still from when both
are equal until the copy has become ready and the guest goes on with it. So what becomes ready is never behind what the
guest has written. The copy's record names the guest, and whoever settles the move ends what qemu still does for it.

The copy's record says what it was copied from, and the mark where to look for the copy. Whoever is to touch a disk that
is marked, on either side, asks the copy's record first (``settle_moves``): a copy that is ready makes the disk left
behind go; one that is pending and whose maker is dead is taken back, by a swap that its maker, should it wake up, runs
into. So two never both go on, as every one of them has to move the state of the same record. Two that move a disk to
two pools meet by their marks: each writes its own before it looks for others. A disk moves on when what it was copied
from is gone: a mark that finds its copy gone would have that one count again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .._ground.errors import BadInput, Busy, InUse, NotFound, StorageError
from .._ground.ops import DONE, Facts
from .._records.types import ENDED, USABLE, Disk, Image, Record, State, disk_id, is_id, taken_apart
from . import rules
from .disks import ATTEMPTS, delete, standing_in
from .pool import Pool, end_stateless, finish, forsake, outlived, settle, state_of

MOVES = "moves"
"""The marks of a pool stand under this name, like references under an image."""
UNMARKED = "unmarked"
"""The fact of a copy that no mark leads to it any more. Until then its record is not forgotten: without it, what came
of the move could never be told again."""


@dataclass(frozen=True)
class Running:
    """The guest of this host that runs with the disk, and how it calls it."""

    domain: str
    target: str


@dataclass(frozen=True)
class MoveWish:
    """A disk that is to move. ``size`` is what it has now, in bytes. ``content`` is its data: all of it or, with an
    ``image`` of the other pool that is to the byte the one under the disk, what it has over that. ``reason`` says why
    it is one or the other. Where a guest is ``running`` with the disk, its qemu brings the data.
    """

    disk: Disk
    size: int
    content: Any
    image: Image | None = None
    reason: str = ""
    running: Running | None = None


@dataclass(frozen=True)
class Moved:
    """The disk in its new pool, and what the copy took: ``bytes_read``, ``bytes_written``. None where an earlier task
    had copied it."""

    disk: Disk
    facts: Facts = field(default_factory=dict)


@dataclass(frozen=True)
class Mark:
    """That the disk of this place is being moved: the id of the copy and the pool that it is made in."""

    copy: str
    pool: str

    def __str__(self) -> str:
        return f"{self.copy}@{self.pool}"

    @property
    def slot(self) -> tuple[str, str]:
        """Instance and role."""
        name = taken_apart(self.copy)
        return name.instance, name.role


def marks(names: Iterable[str]) -> list[Mark]:
    """The marks among the names that stand under ``MOVES``."""
    split = (name.partition("@") for name in sorted(names))
    return [Mark(copy, pool) for copy, at, pool in split if at and pool and is_id(copy)]


async def marks_in(pool: Pool) -> list[Mark]:
    """The marks of the moves out of a pool that are not at their end."""
    return marks(await pool.records.references(MOVES))


def moved_from(disk: Disk) -> tuple[str, str]:
    """The pool, and the id there, of what the disk was copied from; empty where it was never moved."""
    moved = disk.origin.get("moved")
    if not isinstance(moved, Mapping):
        return "", ""
    return str(moved.get("pool", "")), str(moved.get("id", ""))


async def move(source: Pool, target: Pool, pools: Mapping[str, Pool], wish: MoveWish) -> Moved:
    """Have the disk in ``target``. ``pools`` are those that marks of the disk may name.

    Raises Busy where another task moves it, InUse where anybody uses it, NotFound where it is gone.
    """
    why: Moved | str = ""
    # What the disk was itself copied from ends first: once the disk is gone from here, that one would count again.
    before = pools.get(moved_from(wish.disk)[0])
    for attempt in range(ATTEMPTS):
        for pool in (target, before) if before is not None else (target,):
            await settle_moves(pool, pools, wish.disk.instance, wish.disk.role)
        moved = await settle_moves(source, pools, wish.disk.instance, wish.disk.role)
        if moved is not None:
            return Moved(moved)
        why = await _attempt(source, target, wish)
        if isinstance(why, Moved):
            return why
        await target.host.sleep(rules.pause(target.owner, target.lease, attempt))
    raise Busy(f"The {_called(wish.disk)} could not be moved to pool {target.name} in {ATTEMPTS} attempts: {why}.")


async def settle_moves(source: Pool, pools: Mapping[str, Pool], instance: str, role: str) -> Disk | None:
    """Bring earlier moves of a disk out of ``source`` to an end. The disk in its new pool, where it has one; None where
    the disk in ``source`` is the one that counts."""
    probe = rules.PROBE + await source.host.fresh()
    await source.records.refer(MOVES, probe)
    names = list(await source.records.references(MOVES))
    for name in names:
        if name.startswith(rules.PROBE):  # those of the dead, too, as this name is never retired
            await source.records.unrefer(MOVES, name)
    found = [mark for mark in marks(names) if mark.slot == (instance, role)]
    settled = None
    for mark in found:
        if mark.pool not in pools:
            raise unseen(source.name, mark)
        settled = await _settle(source, pools[mark.pool], mark) or settled
    return settled


def unseen(source: str, mark: Mark) -> StorageError:
    """That the copy's record is out of reach: its pool is not here, or the one of that name here is another."""
    instance, role = mark.slot
    return StorageError(
        f"The disk {role} of {instance} in pool {source} is being moved to pool {mark.pool}, or was, and what came of "
        "it cannot be seen: run this on a host that has that pool, and not another of its name, and with it active."
    )


async def _settle(source: Pool, target: Pool, mark: Mark) -> Disk | None:
    """Bring one move to its end; the copy, where that is the disk now.

    A copy is recorded before it is marked. One that has no record is in another host's pool of the same name.
    """
    state = await state_of(target, mark.copy)
    if state is None:
        raise unseen(source.name, mark)
    if state is State.MOVING and await end_stateless(target, mark.copy):
        state = State.GONE
    if state is State.PENDING:
        begun = await target.records.read(mark.copy)
        if await outlived(target, begun.owner):
            await target.records.sync()
            await _withdraw(target, begun)
        state = await state_of(target, mark.copy)
    if state in (State.PENDING, State.MOVING):
        raise Busy(
            f"The disk {mark.slot[1]} of {mark.slot[0]} is being moved from pool {source.name} to pool {target.name}: "
            "wait until that is done, then run the task again."
        )
    if state is State.DELETING:  # whoever began that may have died, or not known of its guest
        await _end(target, await target.records.read(mark.copy))
    await target.records.sync()
    copy = None
    if state in USABLE:
        copy = await target.records.read(mark.copy)
        if isinstance(copy, Disk):
            await _part(target, copy, keep=True)
            await _leave(source, target, copy)
    await _unmark(source, target, mark)
    return copy if isinstance(copy, Disk) else None


async def _attempt(source: Pool, target: Pool, wish: MoveWish) -> Moved | str:
    """One copy begun under a name of its own; or why it came to nothing, with nothing left of it."""
    disk = wish.disk
    await target.records.probe()
    there = await standing_in(target, disk.instance, disk.role)
    stands = await state_of(source, disk.id) in USABLE
    if there is not None and moved_from(there) == (source.name, disk.id):
        return "another task has moved it" if stands else Moved(there)
    if not stands:
        raise NotFound(f"The {_called(disk)} was removed from pool {source.name} meanwhile.")
    if there is not None:
        raise BadInput(
            f"The {_called(disk)} stands in pool {source.name} and, as {there.id}, in pool {target.name}: remove one."
        )
    copy = await _record(source, target, wish)
    mark = Mark(copy.id, target.name)
    await target.records.create(copy, State.PENDING)
    if copy.backing is not None:
        await target.records.refer(copy.backing, copy.id)
        await target.records.probe()
    await source.records.refer(MOVES, str(mark))
    facts: Facts = {}
    try:
        why = await _obstacle(source, target, disk, copy)
        if why is None:
            await source.records.sync()
            await target.records.sync()
            facts = await _write(target, copy, wish)
            why = await _change(source, wish)
    except StorageError:
        await _take_back(source, target, copy, mark)
        raise
    if why is None and await settle(target, copy, State.PENDING, State.READY):
        await _part(target, copy, keep=True)
        await _leave(source, target, copy)
        await _unmark(source, target, mark)
        return Moved(copy, facts)
    await _take_back(source, target, copy, mark)
    return why or "its copy was taken for dead and reclaimed"


async def _record(source: Pool, target: Pool, wish: MoveWish) -> Disk:
    """The body of the copy, under a name that no disk ever had."""
    disk, image, capabilities = wish.disk, wish.image, target.capabilities
    record_id = disk_id(disk.instance, disk.role, await target.host.fresh())
    origin = {key: value for key, value in disk.origin.items() if key != "found"}
    origin["moved"] = {"pool": source.name, "id": disk.id}
    how, format = "copy", "raw"
    if wish.running is not None:
        origin["moved"]["guest"] = wish.running.domain
        format = capabilities.followed
    if image is not None:
        how = capabilities.default_clone
        format = capabilities.clones[how]
        origin.update(image=image.id, key=image.key, name=image.name)
    return Disk(
        id=record_id,
        instance=disk.instance,
        role=disk.role,
        size=wish.size,
        volume=capabilities.disk_volume(record_id, format),
        created=await target.host.now(),
        owner=target.owner,
        backing=None if image is None else image.id,
        strategy=how,
        reason=wish.reason,
        origin=origin,
    )


async def _obstacle(source: Pool, target: Pool, disk: Disk, copy: Disk) -> str | None:
    """Why the copy may not be made, looked up after its record, its reference and its mark stand."""
    names = await source.records.references(MOVES)
    others = [mark for mark in marks(names) if mark.slot == (disk.instance, disk.role) and mark.copy != copy.id]
    if others:
        return f"it is being moved to pool {others[0].pool}, too"
    if await state_of(source, disk.id) not in USABLE:
        return f"it was removed from pool {source.name} meanwhile"
    return rules.obstacle(await target.records.states(), copy)


async def _write(target: Pool, copy: Disk, wish: MoveWish) -> Facts:
    """The copy's volume, durable."""
    facts: Facts
    outcome = DONE
    if wish.image is not None:
        outcome = await target.volumes.clone(wish.image.volume, copy.volume, copy.size, copy.strategy)
    elif wish.running is not None:
        outcome = await target.volumes.allocate(copy.volume, copy.size)
    if not outcome:
        raise StorageError(f"The {_called(copy)} cannot be made in pool {target.name}: {outcome.why}.")
    if wish.running is not None:
        facts = await target.volumes.follow(copy.volume, wish.running.domain, wish.running.target)
    elif wish.image is not None:
        facts = await target.volumes.patch(copy.volume, wish.content)
    else:
        facts = await target.volumes.fill(copy.volume, wish.content)
    await target.records.note(copy.id, "move", facts)
    return facts


async def _change(source: Pool, wish: MoveWish) -> str | None:
    """What happened to the disk while it was copied. Raises InUse where somebody uses it."""
    disk = wish.disk
    users = await source.volumes.users(disk.volume) if wish.running is None else None
    if users:
        raise InUse(f"The {_called(disk)} is in use by {users}: stop what uses it, then move it.")
    stat = await source.volumes.stat(disk.volume)
    if stat is not None and stat.size != wish.size:
        raise StorageError(f"The {_called(disk)} grew while it was copied: run the task again.")
    if stat is None or await state_of(source, disk.id) not in USABLE:
        return f"it was removed from pool {source.name} meanwhile"
    return None


async def _leave(source: Pool, target: Pool, copy: Disk) -> None:
    """Delete the disk that ``copy`` was copied from."""
    _pool, record_id = moved_from(copy)
    state = await state_of(source, record_id)
    if state is None or state in ENDED:
        return
    disk = await source.records.read(record_id)
    if not isinstance(disk, Disk):
        return
    try:
        await delete(source, disk)
    except InUse as error:
        raise InUse(
            f"The {_called(disk)} is in pool {target.name} now, as {copy.id}, and what it was copied from, {disk.id} "
            f"in pool {source.name}, is in use: stop what uses it, define the guest anew, and run the task again.",
            **error.facts,
        ) from error


async def _take_back(source: Pool, target: Pool, copy: Disk, mark: Mark) -> None:
    """Leave nothing of a copy that is not published; its mark goes last."""
    await _withdraw(target, copy)
    await _unmark(source, target, mark)


async def _unmark(source: Pool, target: Pool, mark: Mark) -> None:
    """The end of a move. Killed between the two, the copy's record is kept for longer than it had to be."""
    await source.records.unrefer(MOVES, str(mark))
    await target.records.note(mark.copy, UNMARKED, {})


async def marked(pool: Pool, record: Disk) -> bool:
    """Whether a mark in another pool may lead to this record."""
    return "moved" in record.origin and UNMARKED not in await pool.records.notes(record.id)


async def _withdraw(target: Pool, copy: Record) -> None:
    """Take back a copy that is not published. Refused means that somebody else did: they finish."""
    if await target.records.swap(copy.id, State.PENDING, State.DELETING):
        await _end(target, copy)
    else:
        await forsake(target, copy)


async def _end(target: Pool, copy: Record) -> None:
    """Bring a copy that is DELETING to its end. Its guest lets go of it only now: before, it could have become ready
    without what the guest writes from then on."""
    await _part(target, copy, keep=False)
    await finish(target, copy, State.DELETING)


async def _part(target: Pool, copy: Record, keep: bool) -> None:
    """Have the guest that the copy was made for go on: with the copy, or with what it had."""
    moved = copy.origin.get("moved") if isinstance(copy, Disk) else None
    if isinstance(moved, Mapping) and "guest" in moved:
        await target.volumes.part(copy.volume, keep)


def _called(disk: Disk) -> str:
    return f"disk {disk.role} of {disk.instance}"
