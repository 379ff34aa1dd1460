# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""One look at the pools of a task: the disks that it wants, the images that it names. Changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .._algorithms.pool import Pool
from .._algorithms.survey import SeenDisk, image_named, labels, listing_of, see_disk
from .._algorithms.verify import id_in
from .._ground.errors import BadInput, LostMetadata, StorageError
from .._records.contract import Listing
from .._records.types import ENDED, USABLE, Image, State, taken_apart
from .disk_wishes import UNMADE, Order
from .session import Session, first_error

Slot = tuple[str, str]
Run = Callable[[Coroutine[Any, Any, Any]], Any]
"""Runs one task on a pool, as `Session.run` does."""


@dataclass(frozen=True)
class Stocked:
    """An image that a pool has ready, and its size in bytes."""

    image: Image
    size: int


@dataclass
class Site:
    """One pool of a task with the task's disks in it. ``pool`` is None where check mode has none yet."""

    name: str
    pool: Pool | None = None
    orders: list[Order] = field(default_factory=list)
    listing: Listing = field(default_factory=lambda: Listing({}))
    disks: dict[Slot, SeenDisk] = field(default_factory=dict)
    stock: dict[str, Stocked] = field(default_factory=dict)
    """The images asked for, by what the task calls them."""
    _holders: Mapping[str, str] | None = None

    def missing(self) -> list[Order]:
        """The disks that do not stand yet."""
        return [order for order in self.orders if order.slot not in self.disks]

    def holder(self, session: Session, native: str) -> str | None:
        """Which record has the volume of this native id, if any."""
        if self._holders is None:
            self._holders = {} if self.pool is None else session.run(_holders(self.pool, self.listing))
        return self._holders.get(native)


def look(session: Session, ordered: Sequence[Order]) -> list[Site]:
    """Every pool of the task: one listing each, and in it the disks and the images that the task names."""
    sites: dict[str, Site] = {}
    for order in ordered:
        sites.setdefault(order.want.pool, Site(order.want.pool)).orders.append(order)
    for site in sites.values():
        site.pool = None if site.name == UNMADE else session.open(site.name)
    for site in sites.values():
        if site.pool is not None:
            _look_into(session, site, site.pool)
    return list(sites.values())


def _look_into(session: Session, site: Site, pool: Pool) -> None:
    inventory = look_at_volumes(session.run, pool)
    site.listing = session.run(listing_of(pool))
    ended = session.run_all([see_disk(pool, *order.slot, site.listing) for order in site.orders])
    first_error(ended)
    for order, each in zip(site.orders, ended):
        if each.value is not None:
            site.disks[order.slot] = each.value
    refuse_lost(session.run, pool, inventory, site.listing, {order.slot for order in site.missing()})
    wanted = {order.want.content for order in site.orders if order.want.kind == "image"}
    if wanted:
        named = session.run(labels(pool))
        for name in sorted(wanted):
            image = session.run(image_named(pool, name, site.listing, named))
            if image is not None:
                site.stock[name] = Stocked(image, session.run(_size(pool, image)))


def refuse_lost(run: Run, pool: Pool, inventory: Collection[str], listing: Listing, slots: Collection[Slot]) -> None:
    """A disk whose record was lost is neither made a second time nor passed over. Its volume bears the id of a record
    that is not there, or that has no state, also when it is looked at again: a state that moves may be missed once.

    ``slots`` are instances and roles; no role stands for all. ``inventory`` is older than ``listing``.
    """
    suspects = []
    for name in inventory:
        record_id = id_in(pool.capabilities, name)
        if record_id and listing.state(record_id) in (None, State.MOVING):
            place = taken_apart(record_id)
            if (place.instance, place.role) in slots or (place.instance, "") in slots:
                suspects.append((record_id, name))
    again = run(listing_of(pool)) if suspects else listing
    for record_id, name in suspects:
        if again.state(record_id) in (None, State.MOVING):
            place = taken_apart(record_id)
            raise LostMetadata(
                f"The volume {name} of pool {pool.name} is the disk {place.role} of {place.instance} by its name, and "
                "its record is lost: restore it with disk_metadata state=rebuilt, or remove the volume.",
                id=record_id,
            )


def look_at_volumes(run: Run, pool: Pool) -> Collection[str]:
    """The names of all volumes. Looked at before a listing, so that each has a record which that shows."""
    return set(run(_inventory(pool)))


async def _inventory(pool: Pool) -> Collection[str]:
    return await pool.volumes.inventory()


async def _size(pool: Pool, image: Image) -> int:
    found = await pool.volumes.stat(image.volume)
    if found is None:
        raise LostMetadata(
            f"The image {image.id} of pool {pool.name} is recorded as ready, but its volume {image.volume} is missing: "
            "bring the volume back or remove the image.",
            id=image.id,
        )
    return found.size


async def _holders(pool: Pool, listing: Listing) -> dict[str, str]:
    held = {}
    for record_id, state in listing.states.items():
        if state not in ENDED and state is not State.MOVING:
            record = await pool.records.read(record_id)
            found = await pool.volumes.stat(record.volume)
            if found is not None:
                held[found.native] = record_id
    return held


def elsewhere(session: Session, sites: Sequence[Site]) -> dict[Slot, list[str]]:
    """The other pools of this host in which disks stand that are not where they are asked for."""
    missing = {order.slot: order.want for site in sites for order in site.missing()}
    found: dict[Slot, list[str]] = {}
    seen = {site.name: site.listing for site in sites}
    for name in session.names() if missing else ():
        try:
            listing = seen.get(name) or _listing(session, name)
        except StorageError as error:
            session.warnings.append(f"Whether a disk stands in pool {name} already could not be seen: {error.message}")
            continue
        for slot, want in missing.items():
            if name != want.pool and any(listing.state(each) in USABLE for each in listing.slot(*slot)):
                found.setdefault(slot, []).append(name)
    return found


def refuse_elsewhere(standing: Mapping[Slot, Sequence[str]], sites: Sequence[Site], allow_move: bool) -> None:
    """A disk that stands in another pool of this host is not made a second time, and moved only where that is said."""
    for site in sites:
        for order in site.missing():
            names, want = standing.get(order.slot, ()), order.want
            if names and not (allow_move and len(names) == 1):
                move = "" if allow_move else "set allow_move to have the disk moved, "
                raise BadInput(
                    f"The disk {want.role} of {want.instance} stands in pool {' and in pool '.join(names)}, not in "
                    f"{want.pool}: name that pool, {move}or remove the disk there first."
                )


def _listing(session: Session, name: str) -> Listing:
    pool = session.open(name, make=False)
    listing: Listing = Listing({}) if pool is None else session.run(listing_of(pool))
    return listing
