# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""Reclaim: clear what dead work left. The only recovery there is; it may run at any time, by anybody."""

from __future__ import annotations

from dataclasses import dataclass, field

from .._ground.errors import InUse, LostMetadata, NewerSchema
from .._records.contract import Listing
from .._records.types import Image, Record, State, is_id, taken_apart
from . import rules
from .cache import dispose, ready_images, retire
from .pool import Pool, end_stateless, finish, take_over


UNSETTLED = frozenset({State.PENDING, State.FILLING, State.DELETING, State.RETIRED, State.MOVING})
"""States in which a record may need somebody to bring it to its end."""


KEEP_ENDED = 30 * 24 * 3600.0
"""How many seconds an ended record stays: longer than any host sleeps before it wakes up and goes on."""


@dataclass
class Reclaimed:
    """What was cleared, and what was left, each a sentence."""

    cleared: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


async def reclaim(pool: Pool) -> Reclaimed:
    """Finish deletions, take back what dead owners left, dispose of unreferenced retired images, remove volumes
    beside ``gone`` records. Young duplicates of one key are retired first."""
    done = Reclaimed()
    listing = await pool.records.states()
    await pool.records.sync()
    for record_id, state in sorted(listing.states.items()):
        if state in UNSETTLED:
            try:
                await _one(pool, record_id, state, done)
            except (LostMetadata, NewerSchema, InUse) as error:
                done.left.append(error.message)
    await _duplicates(pool, done)
    await _beside_gone(pool, done)
    await pool.volumes.sweep()
    await pool.records.sweep(KEEP_ENDED)
    return done


async def _one(pool: Pool, record_id: str, state: State, done: Reclaimed) -> None:
    if state is State.MOVING:
        if await end_stateless(pool, record_id):
            done.cleared.append(f"ended {record_id}, whose creation was cut short")
        return
    record = await pool.records.read(record_id)
    if state is State.DELETING:
        await finish(pool, record, state)
        done.cleared.append(f"finished the removal of {record_id}")
    elif state is State.RETIRED and isinstance(record, Image):
        disposed = await dispose(pool, record, state)
        if disposed.removed:
            done.cleared.append(f"removed the retired image {record_id}")
        else:
            done.left.append("%s is retired and kept by %d disks" % (record_id, len(disposed.kept_by)))
    elif await pool.records.pulse(record.owner) is None:
        if await take_over(pool, record, state):
            done.cleared.append(f"took back {record_id}, whose maker died")
    else:
        done.left.append(f"{record_id} is being made")


async def _readable(pool: Pool, record_id: str) -> Record | None:
    try:
        return await pool.records.read(record_id)
    except (LostMetadata, NewerSchema):
        return None


async def _duplicates(pool: Pool, done: Reclaimed) -> None:
    """Of two ready images for one key the older is used; the other goes."""
    listing = await pool.records.states()
    seen = set()
    for record_id in [each for each, state in listing.states.items() if state is State.READY]:
        hashed = taken_apart(record_id).key_hash
        if not hashed or hashed in seen or len(_ready(listing, hashed)) < 2:
            continue
        seen.add(hashed)
        record = await _readable(pool, record_id)
        if isinstance(record, Image):
            images = await ready_images(pool, record.key, listing)
            keep = rules.oldest(images)
            for image in images:
                if image is not keep:
                    await retire(pool, image, State.READY)
                    done.cleared.append(f"retired {image.id}, a younger duplicate")


def _ready(listing: Listing, hashed: str) -> list[str]:
    return [each for each in listing.images(hashed) if listing.state(each) is State.READY]


async def _beside_gone(pool: Pool, done: Reclaimed) -> None:
    """A volume beside a ``gone`` record was made by a host that woke late: names are never reused, so it goes."""
    inventory = await pool.volumes.inventory()
    await pool.records.probe()
    listing = await pool.records.states()
    await pool.records.sync()
    for record_id, state in sorted(listing.states.items()):
        if state is State.GONE and is_id(record_id):
            record = await _readable(pool, record_id)
            if record is not None and record.volume.name in inventory and not rules.is_adoption(record):
                if await pool.volumes.remove(record.volume):
                    done.cleared.append(f"removed the volume {record.volume} beside its ended record")
                else:
                    done.left.append(f"the volume {record.volume} beside its ended record is in use")
