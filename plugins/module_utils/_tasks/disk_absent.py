# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""Removing disks, as `instance_disk` does."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from .._algorithms.disks import delete, refuse_replaced
from .._algorithms.pool import Pool
from .._algorithms.survey import listing_of
from .._ground.errors import InUse, NotFound, StorageError
from .._policy.plan import Action, Fields, Plan
from .._records.contract import Listing
from .._records.types import USABLE, Disk, State, taken_apart
from .costs import counted, foretold
from .disk_moves import left_over, settle_left, superseded
from .disk_placement import everywhere
from .disk_site import Slot, look_at_volumes, refuse_lost
from .disk_wishes import Order
from .pool_reader import Reader
from .session import Session, first_error


def absent(session: Session, ordered: Sequence[Order]) -> Fields:
    """Remove the disks that are meant; gives the result of `instance_disk`."""
    going: list[tuple[Pool, list[tuple[Disk, int]]]] = []
    finished: list[Plan] = []
    ordered = everywhere(session, ordered)
    for name in dict.fromkeys(order.want.pool for order in ordered):
        slots = {order.slot for order in ordered if order.want.pool == name}
        pool, listing = _look(session, name, slots)
        if pool is not None:
            disks = _see_all(session, pool, listing, slots)
            left = left_over(session, pool, [disk for disk, _allocated in disks], slots)
            if left and not session.check_mode:
                settle_left(session, left)
                disks = _see_all(session, pool, session.run(listing_of(pool)), slots)
            finished += [each.plan() for each in left]
            gone = superseded(left, name)
            going.append((pool, [each for each in disks if (each[0].instance, each[0].role) not in gone]))
    removals = Plan.join([*finished, *(_removal(pool.name, *each) for pool, disks in going for each in disks)])
    costs = foretold(session, removals)
    if not session.check_mode:
        ended = []
        for pool, disks in going:
            if disks:
                ended += session.work(pool, [delete(pool, disk) for disk, _allocated in disks])
        first_error(ended)
        costs.update(counted(removals, {}))
    return {**removals.to_result(), **costs, "disks": []}


def _look(session: Session, name: str, slots: Collection[Slot]) -> tuple[Pool | None, Listing]:
    """A pool and its listing; None where there is nothing to remove. A pool that has no records may have lost them all,
    so its volumes are looked at like those of any other."""
    reader = Reader.of(session, name)
    if reader is None:
        return None, Listing({})
    inventory, listing = look_at_volumes(reader.run, reader.pool), reader.run(listing_of(reader.pool))
    refuse_lost(reader.run, reader.pool, inventory, listing, slots)
    return session.opened().get(name), listing


def _see_all(session: Session, pool: Pool, listing: Listing, slots: Collection[Slot]) -> list[tuple[Disk, int]]:
    ended = session.run_all([_see_to_remove(pool, each, listing.state(each)) for each in _meant(listing, slots)])
    first_error(ended)
    return [each.value for each in ended]


def _meant(listing: Listing, slots: Collection[Slot]) -> list[str]:
    """The disks of one role, or of all roles, of instances; removals that were cut short belong to them."""
    found = []
    for record_id, state in listing.states.items():
        name = taken_apart(record_id)
        standing = (state in USABLE or state is State.DELETING) and not name.image
        if standing and ((name.instance, name.role) in slots or (name.instance, "") in slots):
            found.append(record_id)
    return sorted(found)


async def _see_to_remove(pool: Pool, record_id: str, state: State | None) -> tuple[Disk, int]:
    """The disk, if nothing uses it and it is what its record says, and what it takes up. A missing volume or image is
    no bar to removing what is left."""
    disk = await pool.records.read(record_id)
    if not isinstance(disk, Disk):
        raise NotFound(f"The record of {record_id} is not that of a disk.")
    users = await pool.volumes.users(disk.volume)
    if users:
        raise InUse(
            f"The disk {disk.role} of {disk.instance} in pool {pool.name} is in use by {users}: stop what uses it, "
            "then remove the disk.",
            volume=disk.volume.name,
        )
    if state in USABLE:
        await refuse_replaced(pool, disk)
    try:
        stat = await pool.volumes.stat(disk.volume)
    except StorageError:
        stat = None  # a header that was lost is no bar, either
    return disk, stat.allocated if stat is not None else 0


def _removal(pool: str, disk: Disk, allocated: int) -> Plan:
    what = f"disk {disk.role} of {disk.instance} in pool {pool}"
    action = Action("remove", what, f"remove {what} ({disk.id})", takes={pool: -allocated})
    return Plan((action,), {what: {"state": "ready"}}, {})
