# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""The disks of instances: make, adopt, grow, flatten, delete. Written once, for every backend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from .._backends.contract import Capabilities
from .._ground.errors import BadInput, Busy, InUse, LostMetadata, NewerSchema, NotFound, StorageError
from .._ground.ops import Facts, Outcome
from .._records.contract import Listing
from .._records.types import USABLE, Disk, Image, State, Volume, disk_id, taken_apart
from . import rules
from .cache import content_of, look_up
from .pool import Pool, end_stateless, finish, outlived, settle, state_of, take_over, withdraw

ATTEMPTS = 5
"""How often a disk is begun anew under another name before we say that the pool is too busy."""


@dataclass(frozen=True)
class DiskWish:
    """A disk that is wanted. Exactly one of ``image_key``, ``source``, ``native`` says where its content comes
    from; none of them means a blank disk. With ``image_key``, a ``source`` is what the disk has over an image of
    the content ``over``.

    ``size`` in bytes; 0 means the image's own size. ``how`` names a way of cloning the backend offers.
    ``native`` is the lasting id of a volume to adopt, which stands at ``found``; ``name`` where it is to stay there;
    ``backing`` the image that it stands on; ``rebuilt`` where the volume's own record was lost, which lets it stand
    on a retired image that the lost record still holds.
    """

    instance: str
    role: str
    size: int = 0
    image_key: str = ""
    how: str = ""
    source: Any = None
    over: str = ""
    native: str = ""
    found: str = ""
    name: str = ""
    format: str = ""
    backing: str = ""
    rebuilt: bool = False
    origin: Mapping[str, Any] = field(default_factory=dict)


def format_for(wish: DiskWish, capabilities: Capabilities) -> str:
    """The format of the disk that a wish makes."""
    if wish.image_key:
        return capabilities.clones[wish.how or capabilities.default_clone]
    return wish.format or next(iter(capabilities.disk_names))


@dataclass(frozen=True)
class Made:
    """A ready disk, whether this call made it, and what that took: ``bytes_read`` and ``bytes_written``."""

    disk: Disk
    made: bool
    facts: Facts = field(default_factory=dict)


async def make(pool: Pool, wish: DiskWish) -> Made:
    """The disk of ``wish.instance`` and ``wish.role``: the one there is, or a new one."""
    why: Made | str = ""
    for attempt in range(ATTEMPTS):
        why = await _attempt(pool, wish)
        if isinstance(why, Made):
            return why
        await pool.host.sleep(rules.pause(pool.owner, pool.lease, attempt))
    raise Busy(
        f"The disk {wish.role} of {wish.instance} could not be made in pool {pool.name} in {ATTEMPTS} attempts: "
        f"{why}. Run the task again."
    )


async def _attempt(pool: Pool, wish: DiskWish) -> Made | str:
    """One disk begun under a name of its own; or why it came to nothing, with nothing left of it.

    Both the record and the reference to the image stand before the listing that permits the volume.
    """
    standing = await standing_in(pool, wish.instance, wish.role)
    if standing is not None:
        await _leave(pool, wish, standing)
        return Made(standing, made=False)
    image, image_size = await _image(pool, wish)
    if image is not None and image_size is None:
        return f"its image {image.id} was removed meanwhile"
    disk = await _record(pool, wish, image, image_size or 0)
    await pool.records.create(disk, State.PENDING)
    if disk.backing is not None:
        await pool.records.refer(disk.backing, disk.id)
        await pool.records.probe()
    names = await pool.records.references(disk.backing) if wish.rebuilt and disk.backing is not None else ()
    listing = await pool.records.states()
    lost = rules.lost_names(names, listing, disk.instance, disk.role)
    why = rules.obstacle(listing, disk, lost) or await _named_by_another(pool, disk, listing)
    if why is None:
        try:
            await pool.records.sync()
            outcome, facts = await _volume(pool, wish, disk, image)
        except StorageError:
            await withdraw(pool, disk, State.PENDING)
            raise
        independent = disk.backing is not None and disk.strategy in pool.capabilities.independent
        if outcome and await settle(pool, disk, State.PENDING, State.FLAT if independent else State.READY):
            if independent and disk.backing is not None:
                await pool.records.unrefer(disk.backing, disk.id)
            await _leave(pool, wish, disk)
            return Made(disk, True, facts)
        why = outcome.why or "it was taken for dead and reclaimed"
        if not outcome and await _stands(pool, image):
            await withdraw(pool, disk, State.PENDING)
            raise StorageError(f"The disk {disk.role} of {disk.instance} cannot be made in pool {pool.name}: {why}.")
    await withdraw(pool, disk, State.PENDING)
    return why


async def _stands(pool: Pool, image: Image | None) -> bool:
    """Whether the image is still what it was when it was chosen, so that choosing again is no use."""
    return image is None or await state_of(pool, image.id) is State.READY


async def standing_in(pool: Pool, instance: str, role: str) -> Disk | None:
    """The disk that stands in a place, if any. What a dead owner left there is taken over."""
    listing = await pool.records.states()
    for record_id in listing.slot(instance, role):
        state = listing.state(record_id)
        if state is State.MOVING:
            await end_stateless(pool, record_id)
            continue
        disk = await pool.records.read(record_id)
        if not isinstance(disk, Disk):
            continue
        if state in USABLE:
            await pool.records.sync()
            return disk
        if state is State.PENDING and await outlived(pool, disk.owner):
            await take_over(pool, disk, State.PENDING)
        elif state is State.DELETING:
            await pool.records.sync()
            await finish(pool, disk, State.DELETING)
    return None


async def _image(pool: Pool, wish: DiskWish) -> tuple[Image | None, int | None]:
    """The image to clone and its size, chosen anew at each attempt. No size: it was removed since it was listed."""
    if not wish.image_key:
        return None, None
    image = await look_up(pool, wish.image_key)
    if image is None:
        await pool.records.probe()
        image = await look_up(pool, wish.image_key)
    if image is None:
        raise NotFound(f"Pool {pool.name} has no ready image {wish.image_key}: bring it in with cached_image first.")
    if wish.over and await content_of(pool, image) != wish.over:
        raise StorageError(f"The image {image.name} of pool {pool.name} is another now: run the task again.")
    stat = await pool.volumes.stat(image.volume)
    if stat is None and await state_of(pool, image.id) is State.READY:
        raise LostMetadata(
            f"The image {image.id} of pool {pool.name} is recorded as ready, but its volume {image.volume} is missing: "
            "bring the volume back or remove the image."
        )
    return image, None if stat is None else stat.size


async def _record(pool: Pool, wish: DiskWish, image: Image | None, image_size: int) -> Disk:
    """The body of a new disk, under a name that no disk ever had."""
    record_id = disk_id(wish.instance, wish.role, await pool.host.fresh())
    capabilities = pool.capabilities
    how, size, backing, origin = wish.how, wish.size, wish.backing or None, dict(wish.origin)
    format = format_for(wish, capabilities)
    if image is not None:
        how = how or capabilities.default_clone
        size = _size_for(wish, image, image_size)
        backing = image.id
        origin.update(image=image.id, key=image.key, name=image.name)
    volume = capabilities.disk_volume(record_id, format)
    if wish.native:
        volume = Volume(wish.name or volume.name, format, wish.native)
        if wish.found:
            origin["found"] = wish.found
    return Disk(
        id=record_id,
        instance=wish.instance,
        role=wish.role,
        size=size,
        volume=volume,
        created=await pool.host.now(),
        owner=pool.owner,
        backing=backing,
        strategy="adopt" if wish.native else how or ("copy" if wish.source is not None else "blank"),
        reason=capabilities.clone_reasons.get(how, ""),
        origin=origin,
    )


def _size_for(wish: DiskWish, image: Image, image_size: int) -> int:
    if wish.size and wish.size < image_size:
        raise BadInput(
            "The disk %s of %s is to have %d bytes, but its image %s has %d: ask for at least that size."
            % (wish.role, wish.instance, wish.size, image.name, image_size)
        )
    return wish.size or image_size


async def _named_by_another(pool: Pool, disk: Disk, listing: Listing) -> str | None:
    """For an adoption: why the volume is not free to be adopted. A disk's record that cannot be read may name it;
    what an image is called follows from its id. What stands beside a ``gone`` record is about to be removed."""
    if not rules.is_adoption(disk):
        return None
    for record_id, state in listing.states.items():
        if record_id == disk.id or state is State.RELEASED or taken_apart(record_id).image:
            continue
        try:
            other = await pool.records.read(record_id)
        except (LostMetadata, NewerSchema):
            if state is State.GONE:
                continue  # and nothing is removed for it, either
            return f"the record of {record_id} cannot be read and may name the same volume"
        if state is State.GONE:
            if other.volume.name == disk.volume.name and not rules.is_adoption(other):
                return f"{record_id} was removed, and {disk.volume} is what is left of it"
        elif other.volume.name == disk.volume.name or other.volume.adopted == disk.volume.adopted:
            return f"{record_id} already names the volume {disk.volume}"
    return None


async def _volume(pool: Pool, wish: DiskWish, disk: Disk, image: Image | None) -> tuple[Outcome, Facts]:
    """Make the volume that the record promises; gives what that took, too."""
    if wish.native:
        return await pool.volumes.adopt(wish.found, disk.volume), {}
    if image is not None:
        outcome: Outcome = await pool.volumes.clone(image.volume, disk.volume, disk.size, disk.strategy)
        if outcome and wish.source is not None:
            own: Facts = await pool.volumes.patch(disk.volume, wish.source)
            return outcome, own
        return outcome, {"bytes_read": outcome.copied, "bytes_written": outcome.copied}
    if wish.source is not None:
        facts: Facts = await pool.volumes.fill(disk.volume, wish.source)
        await pool.records.note(disk.id, "seal", facts)
        return await pool.volumes.grow(disk.volume, max(disk.size, int(facts["size"]))), facts
    return await pool.volumes.allocate(disk.volume, disk.size), {}


async def _leave(pool: Pool, wish: DiskWish, disk: Disk) -> None:
    """An adopted volume that stands under our name loses the one under which it was found."""
    if wish.found and disk.volume.adopted == wish.native and disk.volume.name != wish.found:
        await pool.volumes.leave(wish.found, disk.volume)


async def grow(pool: Pool, disk: Disk, size: int) -> bool:
    """Make the disk ``size`` bytes; never smaller. Whether anything changed."""
    stat = await pool.volumes.stat(disk.volume)
    if stat is None:
        raise LostMetadata(f"The disk {disk.id} is recorded as ready, but its volume {disk.volume} is missing.")
    if size < stat.size:
        raise BadInput(
            "The disk %s of %s has %d bytes and cannot shrink to %d: ask for at least its size."
            % (disk.role, disk.instance, stat.size, size)
        )
    if size == stat.size:
        return False
    outcome = await pool.volumes.grow(disk.volume, size)
    if not outcome:
        raise StorageError(f"The disk {disk.role} of {disk.instance} cannot grow: {outcome.why}.")
    return outcome.kind == "done"


async def flatten(pool: Pool, disk: Disk) -> int | None:
    """Make the disk independent of its image; gives the bytes that were copied for it, None where nobody counted them.

    The data is durable before the state says ``flat``; the reference goes last.
    """
    state = await state_of(pool, disk.id)
    if state is State.READY and disk.backing is not None:
        outcome: Outcome = await pool.volumes.flatten(disk.volume)
        if not outcome:
            raise InUse(
                f"The disk {disk.role} of {disk.instance} cannot be flattened: {outcome.why}. "
                "Stop the guest and run the task again."
            )
        if not await pool.records.swap(disk.id, State.READY, State.FLAT):
            state = await state_of(pool, disk.id)
            if state is not State.FLAT:
                raise NotFound(f"The disk {disk.id} was removed while it was flattened.")
        await pool.records.unrefer(disk.backing, disk.id)
        return outcome.copied
    if state is State.FLAT and disk.backing is not None:
        await pool.records.sync()
        await pool.records.unrefer(disk.backing, disk.id)
    return 0


async def delete(pool: Pool, disk: Disk) -> bool:
    """Remove the disk. Whether it was there. Refused while anything uses it, and where another volume stands at the
    name of the one that was adopted."""
    users = await pool.volumes.users(disk.volume)
    if users:
        raise InUse(
            f"The disk {disk.role} of {disk.instance} is in use ({users}): stop what uses it, then remove it.",
            volume=disk.volume.name,
        )
    while True:
        state = await state_of(pool, disk.id)
        if state is State.DELETING:
            await pool.records.sync()
            await finish(pool, disk, State.DELETING)
            return True
        if state not in USABLE or state is None:
            return False
        await refuse_replaced(pool, disk)
        if await pool.records.swap(disk.id, state, State.DELETING):
            await finish(pool, disk, State.DELETING)
            return True


async def refuse_replaced(pool: Pool, disk: Disk) -> None:
    """Raise LostMetadata where another volume stands at the name of the one that was adopted. Only its native id is
    looked at: what stands there need not be of the format that the record says."""
    if not disk.volume.adopted:
        return
    stat = await pool.volumes.stat(replace(disk.volume, format="raw"))
    if stat is not None and stat.native != disk.volume.adopted:
        raise LostMetadata(
            f"The volume {disk.volume} is not the one that the disk {disk.role} of {disk.instance} adopted: bring that "
            "one back, or stop managing the disk with disk_metadata state=absent, which leaves the volume.",
            id=disk.id,
        )


async def release(pool: Pool, disk: Disk) -> bool:
    """Stop managing the disk and keep its data. Only a disk that needs no image can go without one's record."""
    state = await state_of(pool, disk.id)
    if state not in USABLE or state is None:
        return False
    if state is State.READY and disk.backing is not None:
        raise InUse(
            f"The disk {disk.role} of {disk.instance} needs the image {disk.backing}, which would be pruned "
            "under it: flatten the disk first."
        )
    return bool(await pool.records.swap(disk.id, state, State.RELEASED))
