# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""The image cache: look up, fill once, retire, dispose. Written once, for every backend."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .._ground.errors import Busy, LostMetadata, StorageError
from .._ground.ops import Facts
from .._records.contract import Listing
from .._records.types import Image, State, image_id, key_hash
from . import rules
from .pool import Pool, finish, outlived, settle, state_of, withdraw


@dataclass(frozen=True)
class ImageWish:
    """An image that is wanted: ``key`` identifies it, ``name`` is for people, ``source`` is what ``fill`` reads.

    ``shown`` is the source as it may be recorded: without secrets.
    """

    key: str
    name: str
    source: Any
    shown: str = ""


@dataclass(frozen=True)
class Cached:
    """A ready image, whether this call made it, and then what its fill told."""

    image: Image
    made: bool
    facts: Facts = field(default_factory=dict)


@dataclass(frozen=True)
class Disposed:
    """What became of an image out of use: removed, or kept with what keeps it."""

    removed: bool
    kept_by: tuple[str, ...] = ()


async def look_up(pool: Pool, key: str, listing: Listing | None = None) -> Image | None:
    """The ready image of this key: the oldest, where there are two."""
    return rules.oldest(await ready_images(pool, key, listing))


async def ready_images(pool: Pool, key: str, listing: Listing | None = None) -> list[Image]:
    """All ready images of this key. One whose record cannot be read is no image to use."""
    if listing is None:
        listing = await pool.records.states()
    found = []
    for record_id in listing.images(key_hash(key)):
        if listing.state(record_id) is State.READY:
            try:
                record = await pool.records.read(record_id)
            except LostMetadata:
                continue
            if isinstance(record, Image) and record.key == key:
                found.append(record)
    return found


async def fill(pool: Pool, wish: ImageWish) -> Cached:
    """A ready image of ``wish.key``: the one there is, or one made now by whoever is first.

    Everybody else waits, for a dead filler no longer than a lease.
    """
    while True:
        turn = await _turn(pool, wish.key)
        if isinstance(turn, Image):
            await pool.records.sync()
            return Cached(turn, made=False)
        try:
            made = await _fill_now(pool, wish) if await look_up(pool, wish.key) is None else None
        except StorageError:
            await pool.records.release(turn)  # or the next in this process would wait for ever, as we go on beating
            raise
        await pool.records.release(turn)
        if made is not None:
            return made


async def _turn(pool: Pool, key: str) -> str | Image:
    """The lock under which it is our turn to fill, the records listed afresh; or the image, when it is ready."""
    generation = 0
    while True:
        found = await look_up(pool, key)
        if found is not None:
            return found
        lock = "fill+%s+%d" % (key_hash(key), generation)
        if await pool.records.hold(lock):
            try:
                await pool.records.probe()
                await _let_others_finish(pool, key)
            except StorageError:
                await pool.records.release(lock)
                raise
            return lock
        if await outlived(pool, lock) and await pool.records.pulse(lock) is not None:
            generation += 1
            if generation >= rules.FILL_GENERATIONS:
                raise Busy(
                    "%d fills of one image in pool %s stand still: end the processes that hold %s."
                    % (generation, pool.name, f"fill+{key_hash(key)}+*")
                )


async def _let_others_finish(pool: Pool, key: str) -> None:
    """Wait for fillers that live but lost the lock."""
    listing = await pool.records.states()
    for record_id in listing.images(key_hash(key)):
        if listing.state(record_id) is State.FILLING:
            try:
                owner = (await pool.records.read(record_id)).owner
            except LostMetadata:
                continue
            if owner == pool.owner:
                continue  # it failed and could not be taken back: nobody fills here but who has the lock
            while not await outlived(pool, owner):
                if await state_of(pool, record_id) is not State.FILLING:
                    break


async def _fill_now(pool: Pool, wish: ImageWish) -> Cached | None:
    """Fill and publish; None when somebody took us for dead."""
    record_id = image_id(wish.name, wish.key, await pool.host.fresh())
    image = Image(
        id=record_id,
        key=wish.key,
        name=wish.name,
        source=wish.shown,
        volume=pool.capabilities.image_volume(record_id),
        created=await pool.host.now(),
        owner=pool.owner,
    )
    try:
        await pool.records.create(image, State.FILLING)
        facts: Facts = await pool.volumes.fill(image.volume, wish.source)
        await pool.volumes.seal(image.volume)
        await pool.records.note(image.id, "seal", facts)
    except StorageError:
        await withdraw(pool, image, State.FILLING)
        raise
    return Cached(image, True, facts) if await settle(pool, image, State.FILLING, State.READY) else None


async def retire(pool: Pool, image: Image, state: State) -> Disposed:
    """Take the image out of use for good, and remove it where nothing needs it.

    ``state`` is what a listing showed. An image wanted again is filled anew, under a new name.
    """
    if state is State.READY:
        await pool.records.swap(image.id, State.READY, State.RETIRED)
        state = await state_of(pool, image.id) or State.GONE
    if state is State.DELETING:
        await pool.records.sync()
        await finish(pool, image, state)
        return Disposed(removed=True)
    if state in (State.RETIRED, State.QUARANTINED):
        return await dispose(pool, image, state)
    return Disposed(removed=state is State.GONE)


async def dispose(pool: Pool, image: Image, state: State) -> Disposed:
    """Remove an image out of use unless something refers to it. Whoever continues another's retire comes here too."""
    await pool.records.sync()
    names = await references(pool, image)
    if names:
        return Disposed(removed=False, kept_by=tuple(names))
    if await pool.records.swap(image.id, state, State.DELETING):
        await finish(pool, image, State.DELETING)
        return Disposed(removed=True)
    return await retire(pool, image, await state_of(pool, image.id) or State.GONE)  # it may have worked all the same


async def references(pool: Pool, image: Image) -> list[str]:
    """What refers to the image, from a listing made after a probe of our own. Names that are no longer due are
    cleared on the way: their record has ended, or its disk is flat."""
    probe = rules.PROBE + await pool.host.fresh()
    await pool.records.refer(image.id, probe)
    names = rules.reference_names(await pool.records.references(image.id))
    await pool.records.unrefer(image.id, probe)
    if not names:
        return []
    await pool.records.probe()
    listing = await pool.records.states()
    await pool.records.sync()
    kept = []
    for name in names:
        if rules.reference_is_due(listing.state(name)):
            kept.append(name)
        else:
            await pool.records.unrefer(image.id, name)
    return kept


async def content_of(pool: Pool, image: Image) -> str:
    """The digest of what a guest reads of an image, taken when it was filled; empty where there is none."""
    return str((await pool.records.notes(image.id)).get("seal", {}).get("content", ""))
