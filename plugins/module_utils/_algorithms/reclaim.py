# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""Reclaim: clear what dead work left. The only recovery there is; it may run at any time, by anybody.

``find_debris`` looks and changes nothing, so that a check run can tell what ``reclaim`` would do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .._ground.errors import LostMetadata, NewerSchema, StorageError
from .._records.contract import Listing
from .._records.types import Disk, Image, Record, State, taken_apart
from . import rules
from .cache import ready_images, retire
from .moving import marked
from .pool import Pool, end_stateless, finish, give_back, take_over

UNSETTLED = frozenset({State.PENDING, State.FILLING, State.DELETING, State.RETIRED, State.MOVING})
"""States in which a record may need somebody to bring it to its end."""

KEEP_ENDED = 30 * 24 * 3600.0
"""How many seconds a gone record stays: longer than any host sleeps before it wakes up and goes on."""


@dataclass(frozen=True)
class Debris:
    """A record that ought to end. ``sentence`` says what reclaiming does; ``due`` is false where it has to wait."""

    record_id: str
    state: State
    sentence: str
    due: bool = True
    record: Record | None = None


@dataclass
class Reclaimed:
    """What was cleared, and what was left, each a sentence."""

    cleared: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


async def reclaim(pool: Pool) -> Reclaimed:
    """Finish deletions, take back what dead owners left, dispose of unreferenced retired images, retire young
    duplicates, remove volumes beside ``gone`` records."""
    done = Reclaimed()
    debris = await find_debris(pool)
    await pool.records.sync()
    for each in debris:
        try:
            cleared = each.due and await _clear(pool, each)
        except StorageError as error:
            done.left.append(error.message)
            continue
        (done.cleared if cleared else done.left).append(each.sentence)
    await pool.volumes.sweep()
    await pool.records.sweep(KEEP_ENDED, await _kept(pool))
    return done


async def _kept(pool: Pool) -> frozenset[str]:
    """What is gone and not to be forgotten, as a mark in another pool may lead to it."""
    found = set()
    for record_id, state in sorted((await pool.records.states()).states.items()):
        record = await _readable(pool, record_id) if state is State.GONE else None
        if isinstance(record, Disk) and await marked(pool, record):
            found.add(record_id)
    return frozenset(found)


async def find_debris(pool: Pool) -> list[Debris]:
    """Everything that a reclaim would clear or has to leave, in the order in which it goes."""
    inventory = await pool.volumes.inventory()
    listing = await pool.records.states()
    found = []
    for record_id, state in sorted(listing.states.items()):
        if state in UNSETTLED:
            found.append(await _unsettled(pool, record_id, state, listing))
    found += await _duplicates(pool, listing)
    for record_id, state in sorted(listing.states.items()):
        if state is State.GONE:
            record = await _readable(pool, record_id)
            if record is not None and record.volume.name in inventory and not rules.is_adoption(record):
                sentence = f"remove the volume {record.volume} beside its ended record"
                found.append(Debris(record_id, state, sentence, record=record))
        elif state is State.RELEASED:
            record = await _readable(pool, record_id)
            if record is not None and _has_two_names(record, inventory):
                sentence = f"give back {record.volume}, whose adoption came to nothing"
                found.append(Debris(record_id, state, sentence, record=record))
    return found


def _has_two_names(record: Record, inventory: Mapping[str, str]) -> bool:
    """Whether a volume that is not ours stands under our name as well as under the one at which it was found."""
    found = rules.found_at(record)
    ours = inventory.get(record.volume.name)
    return found is not None and ours is not None and ours == inventory.get(found.name)


async def _unsettled(pool: Pool, record_id: str, state: State, listing: Listing) -> Debris:
    try:
        record = await pool.records.read(record_id)
    except (LostMetadata, NewerSchema) as error:
        return Debris(record_id, state, error.message, due=False)
    if state is State.DELETING:
        return Debris(record_id, state, f"finish the removal of {record_id}", record=record)
    if state is State.RETIRED:
        names = rules.reference_names(await pool.records.references(record_id))
        kept = [name for name in names if rules.reference_is_due(listing.state(name))]
        if kept:
            return Debris(record_id, state, f"{record_id} is retired and kept by {len(kept)} disks", due=False)
        return Debris(record_id, state, f"remove the retired image {record_id}", record=record)
    if await pool.records.pulse(record.owner) is not None:
        return Debris(record_id, state, f"{record_id} is being made", due=False)
    if state is State.MOVING:
        return Debris(record_id, state, f"end {record_id}, whose creation was cut short", record=record)
    return Debris(record_id, state, f"take back {record_id}, whose maker died", record=record)


async def _duplicates(pool: Pool, listing: Listing) -> list[Debris]:
    """Of two ready images for one key the older is used; the other goes."""
    found = []
    seen = set()
    for record_id, state in sorted(listing.states.items()):
        hashed = taken_apart(record_id).key_hash
        if state is not State.READY or not hashed or hashed in seen:
            continue
        seen.add(hashed)
        alike = [each for each in listing.images(hashed) if listing.state(each) is State.READY]
        record = await _readable(pool, record_id) if len(alike) > 1 else None
        if isinstance(record, Image):
            images = await ready_images(pool, record.key, listing)
            for image in images:
                if image is not rules.oldest(images):
                    found.append(Debris(image.id, state, f"retire {image.id}, a younger duplicate", record=image))
    return found


async def _clear(pool: Pool, debris: Debris) -> bool:
    """Bring one record to its end; False where it was not ours to end, or is kept after all."""
    record, state = debris.record, debris.state
    if record is None:
        return False
    if state is State.RELEASED:
        await give_back(pool, record)
        return True
    if state is State.GONE:
        return bool(await pool.volumes.remove(record.volume))
    if state is State.MOVING:
        return await end_stateless(pool, record.id)
    if state is State.DELETING:
        await finish(pool, record, state)
        return True
    if isinstance(record, Image) and state in (State.RETIRED, State.READY):
        return (await retire(pool, record, state)).removed or state is State.READY
    return await take_over(pool, record, state)


async def _readable(pool: Pool, record_id: str) -> Record | None:
    try:
        return await pool.records.read(record_id)
    except (LostMetadata, NewerSchema):
        return None
