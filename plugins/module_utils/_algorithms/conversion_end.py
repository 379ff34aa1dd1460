# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""The way back from a conversion, and its end."""

from __future__ import annotations

from .._ground.errors import InUse, LostMetadata, StorageError
from .._ground.ops import Outcome
from .._records.types import USABLE, Disk, Image, State, Volume, is_id, taken_apart
from .cache import retire
from .conversion import OldLayout, clear_unfinished, record_of, staging_name
from .conversion_journal import FINALIZING, ROLLING_BACK, BaseEntry, DiskEntry, Entry, close, move
from .pool import Pool, take_over
from .verify import id_in


async def roll_back_instance(pool: Pool, old: OldLayout, entry: Entry) -> None:
    """Put an instance back as it was: definition, names, pointers; then its records end and our names go.

    A header goes back before the reference to its image does. Nothing may use the disks meanwhile.
    """
    found = {disk.path: await record_of(pool, entry, disk) for disk in entry.disks}
    for disk in entry.disks:
        record = found[disk.path]
        users = await pool.volumes.users(record[0].volume) if record is not None and not disk.in_place else None
        if users:
            raise InUse(f"The instance {entry.name} is in use ({users}): stop it, then roll it back.")
    entry = await move(pool, entry, ROLLING_BACK)
    told = tuple(
        (record[0].volume, disk.definition) for disk in entry.disks if disk.definition and (record := found[disk.path])
    )
    if told:
        await old.describe_back(entry.guest, told)
    for disk in entry.disks:
        await _disk_back(pool, old, entry, disk, found[disk.path])
    await close(pool, entry)


async def _disk_back(
    pool: Pool, old: OldLayout, entry: Entry, disk: DiskEntry, found: tuple[Disk, State] | None
) -> None:
    if disk.in_place:
        if found is not None:
            await _end(pool, *found)
        return
    if found is not None and found[1] in USABLE:
        _done(await old.give_back(found[0].volume, disk.native, disk.path), entry, disk)
    if disk.pointer is not None:
        image = _image_volume(pool, disk.image)
        await old.point_back(disk.path, disk.native, dict(disk.pointer), image, disk.blank)
    if found is not None:
        await _end(pool, *found)
    for name, native in (await pool.volumes.inventory()).items():
        if native == disk.native and id_in(pool.capabilities, name):
            _done(await old.take_back(name, disk.native, disk.path), entry, disk)
    _done(await old.take_back(staging_name(entry, disk), disk.native, disk.path), entry, disk)


def _done(outcome: Outcome, entry: Entry, disk: DiskEntry) -> None:
    if not outcome:
        raise StorageError(f"The disk {disk.role} of {entry.name} stays as it is: {outcome.why}.")


def _image_volume(pool: Pool, image_id: str) -> Volume | None:
    """The volume of an image, by the id that our own entry or record says; None where it says none."""
    return pool.capabilities.image_volume(image_id) if is_id(image_id) else None


async def _end(pool: Pool, disk: Disk, state: State) -> None:
    """End the record of an adopted disk, and its reference. The volume is somebody's, and stays."""
    if state is State.PENDING:
        await take_over(pool, disk, state)
    elif await pool.records.swap(disk.id, state, State.RELEASED) and disk.backing is not None:
        await pool.records.unrefer(disk.backing, disk.id)


async def base_back(pool: Pool, old: OldLayout, entry: BaseEntry) -> tuple[str, ...]:
    """Take the image that was made of a base out of the pool, and give the base its owner and mode back. What keeps
    the image, where something does."""
    await clear_unfinished(pool, entry)
    kept: list[str] = []
    for image, state in await images_of(pool, entry):
        kept += (await retire(pool, image, state)).kept_by
    if not kept:
        await _unsealed(old, entry)
        await close(pool, entry)
    return tuple(kept)


async def images_of(pool: Pool, entry: BaseEntry) -> list[tuple[Image, State]]:
    """The images that are the very file of a base, or were copied from it; those that are on their way out, too."""
    inventory = await pool.volumes.inventory()
    listing = await pool.records.states()
    found: list[tuple[Image, State]] = []
    for record_id, state in listing.states.items():
        if taken_apart(record_id).image and state in (State.READY, State.RETIRED, State.DELETING):
            record = await pool.records.read(record_id)
            if isinstance(record, Image) and is_of(record, inventory.get(record.volume.name), entry):
                found.append((record, state))
    return found


def is_of(image: Image, native: str | None, entry: BaseEntry) -> bool:
    """Whether an image, whose volume has the id ``native``, is what became of a base."""
    return image.key == entry.key if entry.key else native == entry.native


async def finalize_instance(pool: Pool, old: OldLayout, entry: Entry) -> None:
    """Take the old names of an instance away. Each is checked by inode, and its header by what its record says."""
    entry = await move(pool, entry, FINALIZING)
    for disk in entry.disks:
        found = await record_of(pool, entry, disk)
        if found is None or found[1] not in USABLE:
            raise LostMetadata(
                f"The disk {disk.role} of {entry.name} has no record in pool {pool.name} any more, so its old name "
                f"{disk.path} stays: remove it by hand, or roll the instance back."
            )
        if disk.in_place:
            continue
        record, state = found
        image = _image_volume(pool, record.backing or "") if state is State.READY else None
        pointer = await pool.volumes.pointer(record.volume)
        if pointer != (None if image is None else image.name):
            raise StorageError(
                f"The header of disk {disk.role} of {entry.name} names {pointer or 'nothing'}, and not the image that "
                "its record says: convert it again first."
            )
        _done(await old.unlink(disk.path, disk.native, record.volume), entry, disk)
    await close(pool, entry)


async def finalize_base(pool: Pool, old: OldLayout, entry: BaseEntry) -> None:
    """Take the old name of a base away that is an image of the pool by the same inode. One that was copied, or whose
    image is gone, keeps its name, and is its owner's again."""
    for image, state in await images_of(pool, entry):
        if not entry.key and state is not State.DELETING:
            outcome = await old.unlink(entry.path, entry.native, image.volume)
            if not outcome:
                raise StorageError(f"The old name of the image {image.id} stays: {outcome.why}.")
    await _unsealed(old, entry)
    await close(pool, entry)


async def _unsealed(old: OldLayout, entry: BaseEntry) -> None:
    """The base as it was, where it has its old name."""
    await old.unseal(entry.path, entry.native, (entry.uid, entry.gid), entry.mode, entry.immutable)
