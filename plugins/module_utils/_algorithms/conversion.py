# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""Conversion: disks and bases of an old layout become disks and images of a pool, without a byte being copied.

Written over the contracts of the pool and of the old layout (``OldLayout``). Every step can be repeated, and what
undoes it stands in the journal before it is done.

- A base becomes an image by ``fill``, whose content is the file itself under one more name. The name in the pool is
  ours alone: whoever prunes the image takes away that name, and the old one stays.
- A disk is adopted by ``make``, so the reference rule is the clone's: its reference holds the image before the header
  or the definition names it.
- The header of a disk is changed last, and only while nobody uses the disk. Until then it names the base by its old
  name, which is the same file, so the disk reads the same through either chain.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .._ground.errors import Busy, StorageError
from .._ground.ops import Facts, Op, Outcome
from .._records.types import USABLE, Disk, Image, State, Volume, checked_instance, taken_apart
from .cache import ImageWish, fill, retire
from .conversion_journal import CONVERTED, CONVERTING, WAITING, BaseEntry, DiskEntry, Entry, move, write
from .disks import DiskWish, make
from .pool import Pool, take_over

_UNFINISHED = (State.FILLING, State.RETIRED, State.DELETING)
STAGING = ".virt-storage/conversion/"
"""Names in the pool of files that are about to be adopted begin so."""


class OldLayout:
    """What others made, for algorithms to await. Files are named by absolute path and checked by inode (``native``)."""

    def __init__(self, pool: str) -> None:
        self._pool = pool

    def _op(self, primitive: str, *args: Any, writes: bool = True) -> Op[Any]:
        return Op(self._pool, "old", primitive, args, writes)

    def content(self, path: str, native: str) -> Op[Facts]:
        """Inspect the raw file as an incoming image and digest it: ``size``, ``content`` and ``modified``. Raises
        UnsafeImage."""
        return self._op("content", path, native, writes=False)

    def link(self, path: str, native: str, name: str) -> Op[Outcome]:
        """Give the file the name ``name`` in the pool, too. Idempotent, durable."""
        return self._op("link", path, native, name)

    def unlink(self, path: str, native: str, twin: Volume) -> Op[Outcome]:
        """Take the name ``path`` away from the file that is the volume ``twin``, too. Idempotent, durable."""
        return self._op("unlink", path, native, twin)

    def give_back(self, twin: Volume, native: str, path: str) -> Op[Outcome]:
        """Give the file that is the volume ``twin`` its old name ``path`` again. Idempotent, durable."""
        return self._op("give_back", twin, native, path)

    def take_back(self, name: str, native: str, path: str) -> Op[Outcome]:
        """Take the name ``name`` in the pool away from the file that stands at ``path``. Idempotent, durable."""
        return self._op("take_back", name, native, path)

    def point(self, path: str, native: str, pointer: Facts, image: Volume) -> Op[Outcome]:
        """Let the header name the image; refused where it names neither that nor what ``pointer`` says. Atomic,
        durable, idempotent."""
        return self._op("point", path, native, pointer, image)

    def point_back(self, path: str, native: str, pointer: Facts, image: Volume | None, blank: bool) -> Op[None]:
        """Put the old pointer back, unless the header names something else than ``image`` by now. ``blank``: there was
        nothing behind it."""
        return self._op("point_back", path, native, pointer, image, blank)

    def describe(self, guest: str, disks: tuple[tuple[str, tuple[Volume, ...]], ...]) -> Op[None]:
        """Spell out chains in the guest's definition: for each old path the disk's volume and what is under it."""
        return self._op("describe", guest, disks)

    def describe_back(self, guest: str, disks: tuple[tuple[Volume, str], ...]) -> Op[None]:
        """Put old elements back: for each volume the element that it was before."""
        return self._op("describe_back", guest, disks)

    def unseal(self, path: str, native: str, owner: tuple[int, int], mode: int, immutable: bool) -> Op[None]:
        """A file that was sealed gets its owner and group, its mode and its flag back. Idempotent, durable."""
        return self._op("unseal", path, native, owner, mode, immutable)


@dataclass(frozen=True)
class Standing:
    """Content of an image that is a file already: a further name of it is all that filling takes."""

    path: str
    native: str
    facts: Facts


@dataclass(frozen=True)
class BaseWish:
    """A base that is to be an image. ``content`` is that of one that has to be copied, None where it is linked."""

    entry: BaseEntry
    name: str
    content: Any = None


async def take_base(pool: Pool, old: OldLayout, wish: BaseWish) -> Image:
    """The image that the base becomes. Its owner and mode stand in the journal before it is sealed."""
    entry, key, content = wish.entry, wish.entry.key, wish.content
    if content is None:
        facts = await old.content(entry.path, entry.native)
        content = Standing(entry.path, entry.native, facts)
        key = f"{facts['content']}+raw"
    await write(pool, entry)
    await clear_unfinished(pool, entry)
    return (await fill(pool, ImageWish(key, wish.name, content, entry.source))).image


async def clear_unfinished(pool: Pool, entry: BaseEntry) -> None:
    """End what a run that died had begun to make of a base, or to take back."""
    for record_id, state in (await pool.records.states()).states.items():
        if state in _UNFINISHED and taken_apart(record_id).image:
            record = await pool.records.read(record_id)
            if not isinstance(record, Image) or record.source != entry.source:
                continue
            if state is not State.FILLING:
                await retire(pool, record, state)
            elif await pool.records.pulse(record.owner) is None:
                await take_over(pool, record, state)


async def convert(pool: Pool, old: OldLayout, entry: Entry) -> Entry:
    """Convert an instance as far as its state permits; the entry says how far that was."""
    entry = await move(pool, entry, CONVERTING)
    chains = []
    taken: list[tuple[DiskEntry, Disk, Image | None]] = []
    for each in entry.disks:
        disk = await _adopt(pool, old, entry, each)
        image = await _image(pool, disk)
        taken.append((each, disk, image))
        if each.definition:
            chains.append((each.path, (disk.volume,) if image is None else (disk.volume, image.volume)))
    if chains:
        await old.describe(entry.guest, tuple(chains))
    finished = [await _finish(pool, old, each, disk, image) for each, disk, image in taken]
    return await move(pool, entry, CONVERTED if all(finished) else WAITING)


async def _image(pool: Pool, disk: Disk) -> Image | None:
    if disk.backing is None:
        return None
    record = await pool.records.read(disk.backing)
    return record if isinstance(record, Image) else None


async def record_of(pool: Pool, entry: Entry, disk: DiskEntry) -> tuple[Disk, State] | None:
    """The live record of the very file that was converted, and its state."""
    listing = await pool.records.states()
    for record_id in listing.slot(entry.name, disk.role):
        state = listing.state(record_id)
        record = await pool.records.read(record_id)
        if state is not None and isinstance(record, Disk) and record.volume.adopted == disk.native:
            return record, state
    return None


async def _adopt(pool: Pool, old: OldLayout, entry: Entry, disk: DiskEntry) -> Disk:
    """The disk, adopted. A file is given a name in the pool first, and from there it is adopted as any other."""
    staging = staging_name(entry, disk)
    found = await record_of(pool, entry, disk)
    if found is not None and found[1] in USABLE:
        if not disk.in_place:
            await pool.volumes.leave(staging, found[0].volume)
        return found[0]
    if not disk.in_place:
        outcome = await old.link(disk.path, disk.native, staging)
        if not outcome:
            raise StorageError(f"The disk {disk.role} of {entry.name} cannot be converted: {outcome.why}.")
    wish = DiskWish(
        instance=checked_instance(entry.name),
        role=disk.role,
        size=disk.size,
        native=disk.native,
        found=disk.path if disk.in_place else staging,
        name=disk.path if disk.in_place else "",
        format=disk.format,
        backing=disk.image,
        origin={"adopted": disk.path, **({"image": disk.image} if disk.image else {})},
    )
    made = await make(pool, wish)
    if made.disk.volume.adopted != disk.native:
        raise Busy(f"The pool {pool.name} has another disk {disk.role} of {entry.name}: remove it, then convert again.")
    return made.disk


def staging_name(entry: Entry, disk: DiskEntry) -> str:
    """Where the file stands in the pool while it is adopted."""
    return f"{STAGING}{entry.name}+{disk.role}"


async def _finish(pool: Pool, old: OldLayout, entry: DiskEntry, disk: Disk, image: Image | None) -> bool:
    """What only a disk that nobody uses can have done; whether it is done."""
    if entry.in_place:
        return not entry.flatten or await _flatten(pool, disk)
    if entry.out and (image is None or await pool.volumes.pointer(disk.volume) == image.volume.name):
        return True
    if await pool.volumes.users(disk.volume):
        return False
    if image is not None:
        outcome = await old.point(entry.path, entry.native, dict(entry.pointer or {}), image.volume)
        if not outcome:
            raise StorageError(f"The header of disk {disk.role} of {disk.instance} stays as it is: {outcome.why}.")
    if not entry.out:
        outcome = await old.unlink(entry.path, entry.native, disk.volume)
        if not outcome:
            raise StorageError(f"The old name of disk {disk.role} of {disk.instance} stays: {outcome.why}.")
    return True


async def _flatten(pool: Pool, disk: Disk) -> bool:
    """What the disk was cloned from is no image of the pool, so its record says nothing of it, and stays as it is."""
    if await pool.volumes.users(disk.volume):
        return False
    outcome = await pool.volumes.flatten(disk.volume)
    if not outcome:
        raise StorageError(f"The disk {disk.role} of {disk.instance} cannot be flattened: {outcome.why}.")
    return True
