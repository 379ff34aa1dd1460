# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""What a pool holds, read for plans and reports. Writes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .._backends.contract import Stat
from .._ground.errors import LostMetadata
from .._ground.ops import Facts
from .._records.contract import Listing
from .._records.types import USABLE, Disk, Image, State, Volume, is_id
from . import rules
from .cache import look_up
from .pool import Pool

ABOUT_POOL = "pool"
"""Facts under this id are about the pool itself."""
LABEL = "label+"
"""Topics of the pool's facts that say which image a name stands for begin so."""


@dataclass(frozen=True)
class SeenImage:
    """A cached image as it is now."""

    image: Image
    state: State
    stat: Stat | None
    facts: Mapping[str, Facts] = field(default_factory=dict)
    references: tuple[str, ...] = ()


@dataclass(frozen=True)
class SeenDisk:
    """A disk as it is now. ``backing`` is the volume of the image under it, None where it needs none; ``image`` is that
    image, None also where its record cannot be read."""

    disk: Disk
    state: State
    stat: Stat | None
    backing: Volume | None = None
    image: Image | None = None


async def listing_of(pool: Pool) -> Listing:
    """The states of all records, once for many questions."""
    return await pool.records.states()


async def users_of(pool: Pool, volume: Volume) -> str:
    """Who uses a volume, as a clause; empty where nobody does."""
    users = await pool.volumes.users(volume)
    return str(users) if users else ""


async def labels(pool: Pool) -> Mapping[str, Facts]:
    """Which image each name stands for: name to ``{"id": ..., "identity": ..., "pinned": ...}``."""
    notes = await pool.records.notes(ABOUT_POOL)
    return {topic[len(LABEL) :]: facts for topic, facts in notes.items() if topic.startswith(LABEL) and facts.get("id")}


async def label(pool: Pool, name: str, image: Image, identity: str, pinned: bool = False) -> None:
    """Let ``name`` stand for ``image``. ``identity`` tells its source apart from others, without secrets. A pin is
    the name's, so that an image is not pinned any more when the name moves on to the next."""
    await pool.records.note(ABOUT_POOL, LABEL + name, {"id": image.id, "identity": identity, "pinned": pinned})


async def unlabel(pool: Pool, name: str) -> None:
    """Let ``name`` stand for nothing."""
    await pool.records.note(ABOUT_POOL, LABEL + name, {})


async def image_named(pool: Pool, wanted: str, listing: Listing, named: Mapping[str, Facts]) -> Image | None:
    """The ready image that ``wanted`` means: a label, an id or a key. None where there is none."""
    if is_id(wanted):
        record_id = wanted
    elif ":" in wanted:
        return await look_up(pool, wanted, listing)
    else:
        record_id = str(named.get(wanted, {}).get("id", ""))
    if listing.state(record_id) is not State.READY:
        return None
    record = await pool.records.read(record_id)
    return record if isinstance(record, Image) else None


async def see_image(pool: Pool, record_id: str, listing: Listing, with_references: bool = False) -> SeenImage | None:
    """One image. None where the record is another thing; raises LostMetadata where it cannot be read."""
    state = listing.state(record_id)
    record = await pool.records.read(record_id)
    if not isinstance(record, Image) or state is None:
        return None
    names = rules.reference_names(await pool.records.references(record_id)) if with_references else []
    return SeenImage(
        record,
        state,
        await pool.volumes.stat(record.volume),
        await pool.records.notes(record_id),
        tuple(name for name in names if rules.reference_is_due(listing.state(name))),
    )


async def see_disk(pool: Pool, instance: str, role: str, listing: Listing) -> SeenDisk | None:
    """The ready disk of one role of an instance; None where there is none yet, whatever is being made."""
    for record_id in listing.slot(instance, role):
        state = listing.state(record_id)
        if state in USABLE:
            return await see_disk_by_id(pool, record_id, listing)
    return None


async def see_disk_by_id(pool: Pool, record_id: str, listing: Listing) -> SeenDisk | None:
    """One disk by its id. Fails closed where its record, its volume or that of the image under it is missing. What an
    image is called follows from its id, so its record can be missing: the disk can still be flattened then."""
    state = listing.state(record_id)
    disk = await pool.records.read(record_id)
    if not isinstance(disk, Disk) or state is None:
        return None
    backing = image = None
    if state is State.READY and disk.backing is not None:
        image = await _image_below(pool, disk.backing)
        backing = pool.capabilities.image_volume(disk.backing) if image is None else image.volume
        if await pool.volumes.stat(backing) is None:
            raise LostMetadata(
                f"The disk {disk.role} of {disk.instance} stands on the image {disk.backing}, whose volume is missing "
                f"from pool {pool.name}: bring that volume back; nothing was changed.",
                id=record_id,
            )
    stat = await pool.volumes.stat(disk.volume)
    if stat is None:
        raise LostMetadata(
            f"The disk {disk.role} of {disk.instance} is recorded as {state}, but its volume {disk.volume} is missing "
            f"from pool {pool.name}: bring the volume back, or remove the disk with instance_disk state=absent.",
            id=record_id,
        )
    return SeenDisk(disk, state, stat, backing, image)


async def _image_below(pool: Pool, record_id: str) -> Image | None:
    """The record of an image that a disk stands on; None where it is lost or damaged."""
    try:
        record = await pool.records.read(record_id)
    except LostMetadata:
        return None
    return record if isinstance(record, Image) else None
