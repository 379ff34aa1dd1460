# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""Disks that stand in another pool than they are asked for in, and those that moves left in two."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .._algorithms.cache import content_of, look_up
from .._algorithms.moving import Mark, Moved, MoveWish, Running, marks_in, move, moved_from, settle_moves, unseen
from .._algorithms.pool import Pool
from .._algorithms.survey import SeenDisk, listing_of, see_disk, users_of
from .._ground.disk_data import DiskData
from .._ground.errors import NotFound, StorageError
from .._ground.libvirt_host import Use
from .._policy.disk_plan import Found, Moving, Wanted, plan_finish, plan_move
from .._policy.plan import Fields, Plan
from .._records.types import USABLE, Disk, Image, State
from .disk_result import CHAIN, describe
from .disk_site import Site, Slot
from .session import Session, first_error


@dataclass(frozen=True)
class Move:
    """A disk that is to be moved out of ``source``, as it stands there, and what that takes."""

    source: Pool
    seen: SeenDisk
    wish: MoveWish
    moving: Moving
    pools: Mapping[str, Pool]
    users: str = ""

    def plan(self, want: Wanted) -> Plan:
        """The steps."""
        found = Found(self.wish.size, self.seen.disk.origin, self.seen.backing is not None, self.users)
        return plan_move(want, found, self.moving)

    async def carry_out(self, target: Pool) -> Moved:
        """Have the disk in ``target``."""
        return await move(self.source, target, self.pools, self.wish)

    def foreseen(self, session: Session, target: Pool, after: Fields) -> Fields:
        """The disk as a check run foresees it. Its id, its path, and what follows from them, are not known before."""
        image = self.wish.image
        return {
            **describe(session, self.source, self.seen),
            **dict.fromkeys(("id", "path", "format", CHAIN)),
            "pool": target.name,
            "state": "ready",
            "size": after.get("size", self.wish.size),
            "backing": image.id if image else None,
            "strategy": target.capabilities.default_clone if image else "copy",
            "reason": self.moving.reason,
        }


def moves_into(session: Session, site: Site, standing: Mapping[Slot, Sequence[str]]) -> dict[Slot, Move]:
    """The moves that bring disks to a site which stand in other pools, each in one."""
    found = {}
    for order in site.missing():
        if site.pool is not None and order.slot in standing:
            source = session.open(standing[order.slot][0], make=False)
            if source is not None:
                found[order.slot] = _move(session, source, site.pool, order.want)
    return found


def _move(session: Session, source: Pool, target: Pool, want: Wanted) -> Move:
    listing = session.run(listing_of(source))
    seen = session.run(see_disk(source, want.instance, want.role, listing))
    if seen is None or seen.stat is None:
        raise NotFound(f"The disk {want.role} of {want.instance} was removed from pool {source.name} meanwhile.")
    disk = seen.disk
    pools = {source.name: source, target.name: target}
    users = session.run(users_of(source, disk.volume)) or _overlay(session, source, disk)
    wish = MoveWish(disk, seen.stat.size, None)
    use = _running(session, source, target, disk) if users else None
    if users and use is None:
        why = users + _unable(session, source, target)
        return Move(source, seen, wish, Moving(source.name, "", "", 0, 0), pools, why)
    image, reason = session.run(_image(source, target, seen, want))
    backend, own = session.backend(source), image is not None
    data = DiskData(lambda: backend.disk_data(disk.volume, own))
    running = Running(use.domain, use.target) if use else None
    wish = replace(wish, image=image, reason=reason, content=data, running=running)
    with backend.disk_data(disk.volume, own, use is not None) as reader:
        kept = amount = reader.amount()
        if use is not None:
            amount = reader.blocks() if own else reader.size
    # Where qemu writes out what is empty, the storage may leave it out again.
    told = None if use is not None and not own and target.capabilities.followed == "raw" else kept
    how, thick, guest = "delta" if own else "whole", target.capabilities.thick, use.domain if use else ""
    moving = Moving(source.name, how, reason, amount, told, seen.stat.allocated, thick, guest)
    return Move(source, seen, wish, moving, pools)


def _running(session: Session, source: Pool, target: Pool, disk: Disk) -> Use | None:
    """By which guest of this host, which can take it along, the disk is used; None where it is used otherwise."""
    if _unable(session, source, target):
        return None
    live = [use for use in session.host.users_of(session.path(source, disk.volume)) if use.live]
    if len(live) != 1 or live[0].state != "running" or not live[0].top:
        return None
    return live[0]


def _unable(session: Session, *pools: Pool) -> str:
    """What keeps a running guest from taking a disk along, as a clause; empty where nothing does."""
    names = [pool.name for pool in pools if not pool.capabilities.follows]
    if names:
        return f", and no guest takes a disk out of pool {names[0]} or into it while it runs"
    return "" if session.host.copies_blocks() else ", and with libvirt before 8.0 no guest takes a disk along"


def _overlay(session: Session, source: Pool, disk: Disk) -> str:
    """What stands on the disk in a guest, running or off, and would lose what is beneath it; "" for nothing."""
    below = (use for use in session.host.users_of(session.path(source, disk.volume)) if not use.top)
    use = next(below, None)
    return "" if use is None else f"the volume that stands on it in {use}, as after an external snapshot"


async def _image(source: Pool, target: Pool, seen: SeenDisk, want: Wanted) -> tuple[Image | None, str]:
    """The image that the disk can stand on in the other pool, with the reason; None where all of it has to be copied.

    One key does not make two images the same: file systems that were made at two times differ. Their digests do.
    """
    if seen.backing is None or seen.state is not State.READY:
        return None, "the disk stands on no image"
    if want.flattened:
        return None, "the disk is to need no image"
    if not source.capabilities.tells_own:
        return None, f"in pool {source.name} a disk cannot be told from its image"
    if not target.capabilities.takes_own:
        return None, f"in pool {target.name} no clone is made of a part of a disk"
    if seen.image is None:
        return None, "the record of its image cannot be read"
    image = await look_up(target, seen.image.key)
    if image is None:
        return None, f"pool {target.name} does not have the image {seen.image.name}"
    ours, theirs = await content_of(source, seen.image), await content_of(target, image)
    if not ours or ours != theirs:
        return None, f"the image {seen.image.name} is not known to be the same in both pools"
    return image, f"pool {target.name} has the same image, so that only what the disk has of its own is copied"


# What was broken off


@dataclass(frozen=True)
class Left:
    """A mark that a move left in ``source``; ``done`` where the copy is the disk by now. Then ``allocated`` is what
    that takes up which it was copied from."""

    source: Pool
    target: Pool
    mark: Mark
    done: bool
    allocated: int = 0

    def plan(self) -> Plan:
        """What is to be seen of bringing it to its end. What comes to nothing was never there."""
        if not self.done:
            return Plan()
        return plan_finish(*self.mark.slot, self.source.name, self.target.name, self.allocated)


def broken_off(session: Session, sites: Sequence[Site], standing: Mapping[Slot, Sequence[str]]) -> list[Left]:
    """The moves of the task's disks that are not at their end, wherever the disks stand."""
    found = []
    for site in sites:
        if site.pool is not None:
            disks = [seen.disk for seen in site.disks.values()]
            found += left_over(session, site.pool, disks, {order.slot for order in site.orders})
    for name in sorted({name for names in standing.values() for name in names}):
        pool = session.open(name, make=False)
        if pool is not None:
            found += left_over(session, pool, (), {slot for slot, names in standing.items() if name in names})
    return list({(each.source.name, str(each.mark)): each for each in found}.values())


def superseded(left: Sequence[Left], pool: str) -> set[Slot]:
    """The places whose disk in ``pool`` does not count any more, as its copy is the disk."""
    return {each.mark.slot for each in left if each.done and each.source.name == pool}


def left_over(session: Session, pool: Pool, disks: Iterable[Disk], slots: Collection[Slot]) -> list[Left]:
    """The moves out of ``pool``, or to it, of the disks of some places that are not at their end. ``disks`` are those
    that stand there. No role in ``slots`` stands for all. A pool that a disk came from and that this host does not have
    is not asked for any more."""
    names = [pool.name, *(moved_from(disk)[0] for disk in disks)]
    here = session.names() if len(set(names)) > 1 else [pool.name]
    found = []
    for name in dict.fromkeys(names):
        source = session.open(name, make=False) if name in here else None
        for mark in session.run(marks_in(source)) if source is not None else ():
            if source is not None and (mark.slot in slots or (mark.slot[0], "") in slots):
                found.append(_left(session, source, mark))
    return found


def _left(session: Session, source: Pool, mark: Mark) -> Left:
    target = session.open(mark.pool, make=False) if mark.pool in session.names() else None
    state = None if target is None else session.run(listing_of(target)).state(mark.copy)
    if target is None or state is None:
        raise unseen(source.name, mark)
    if state not in USABLE:
        return Left(source, target, mark, False)
    return Left(source, target, mark, True, session.run(_left_behind(source, target, mark)))


async def _left_behind(source: Pool, target: Pool, mark: Mark) -> int:
    """What the disk takes up that a copy was made of."""
    copy = await target.records.read(mark.copy)
    record_id = moved_from(copy)[1] if isinstance(copy, Disk) else ""
    if (await source.records.states()).state(record_id) not in USABLE:
        return 0
    try:
        stat = await source.volumes.stat((await source.records.read(record_id)).volume)
    except StorageError:
        return 0  # what is damaged goes all the same
    return stat.allocated if stat is not None else 0


def settle_left(session: Session, left: Sequence[Left]) -> None:
    """Bring moves to their end. Raises Busy where one goes on, InUse where a guest holds what was left behind."""
    targets = {each.target.name: each.target for each in left}
    disks = {(each.source.name, each.mark.slot): each.source for each in left}
    tasks: list[tuple[Pool, Any]] = [(target, _nothing()) for target in targets.values()]
    tasks += [(source, settle_moves(source, targets, *slot)) for (_name, slot), source in disks.items()]
    first_error(session.work_in(tasks))


async def _nothing() -> None:
    """Lets a pool be attended, and refreshed, of which the task is another pool's."""


def attended(moves: Iterable[Move]) -> list[tuple[Pool, Any]]:
    """What has the pools attended that disks are moved out of."""
    return [(move.source, _nothing()) for move in moves]
