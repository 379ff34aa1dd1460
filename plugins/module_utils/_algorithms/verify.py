# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""Verify: compare the records of a pool with its volumes, and say what does not agree and how to restore it.

Writes nothing, guesses nothing, and opens no volume for more than the header of what its record calls qcow2.
``CHECKS`` is the list of all that is looked at; the documentation of `disk_metadata` repeats it.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from .._backends.contract import Capabilities, Stat
from .._ground.errors import LostMetadata, NewerSchema, StorageError
from .._records.contract import Listing
from .._records.types import ENDED, USABLE, Disk, Image, Record, State, is_id, taken_apart
from . import rules
from .conversion_journal import old_pointers, read_journal
from .moving import marks_in
from .pool import Pool
from .rebuild import SERVING

REPORTS = frozenset({"volume_unmanaged", "unfinished", "pointer_waits", "moving"})
"""What is told and is no fault: another's volume, work that a prune will clear, a header that waits for its guest, a
move that has its end to come to."""

CHECKS = {
    "record_damaged": "{why}",
    "record_newer": "{why}",
    "record_missing": "The {kind} {id} left {trace} and has no record: {remedy}.",
    "stateless": "The record of {id} has lost its state, and its volume {volume} is there: if it is a disk in use, "
    "state it with disk_metadata state=rebuilt; nothing is cleared as long as both are there.",
    "volume_missing": "The {kind} {id} is recorded as {state}, and its volume {volume} is missing: bring the volume "
    "back from a backup, or remove the {kind} with {remover} state=absent.",
    "volume_damaged": "The volume {volume} of {id} is not what its record says: {why}",
    "volume_replaced": "The volume {volume} is not the file that {id} adopted: bring that file back, or stop managing "
    "the disk with disk_metadata state=absent and adopt the file that is there now.",
    "backing_missing": "The disk {id} needs the image {image}, {why}: bring it back from a backup, or restore the disk "
    "from one.",
    "backing_unseen": "The disk {id} needs the image {image}, whose volume {at} cannot be looked at: {why}",
    "reference_missing": "The disk {id} needs the image {image}, and its reference there is missing, so that the image "
    "could be pruned under it: state the disk with disk_metadata state=rebuilt.",
    "pointer_differs": "The volume {volume} of {id} names {found} as its backing file, and its record says {expected}: "
    "do not start its guest; restore the disk from a backup, or correct the pointer with qemu-img rebase -u.",
    "pointer_waits": "The volume {volume} of {id} names its image by {found} still, as before the conversion: stop its "
    "guest and run storage_layout state=converted again.",
    "raw_exposed": "The raw disk {id} stands in the folder that libvirt refreshes, as {volume}, where libvirt opens "
    "whatever its guest writes: stop its guest, and state the disk again with disk_metadata state=present.",
    "unsealed": "The image {id} can be written to: set the mode of {volume} to 0444 (and chattr +i), and compare its "
    "content with cached_image state=verified.",
    "journal_damaged": "{why}",
    "volume_unmanaged": "The volume {volume} has no record: it is left alone; adopt it with disk_metadata "
    "state=present if it is a disk.",
    "unfinished": "{what} was begun and not finished: cached_image state=pruned clears it.",
    "moving": "The move of the disk {id} to pool {pool} is not at its end: where nobody is at work on it, "
    "instance_disk with the disk in that pool finishes it, or takes back what was begun.",
}


@dataclass(frozen=True)
class Finding:
    """One thing that does not agree. ``problem`` is a key of ``CHECKS``, ``message`` one sentence."""

    problem: str
    message: str
    id: str = ""
    volume: str = ""

    @property
    def fails(self) -> bool:
        """Whether somebody has to do something about it."""
        return self.problem not in REPORTS


@dataclass(frozen=True)
class Holdings:
    """All that a pool holds, by one look. ``unreadable`` has the live records that cannot be read, ``references``
    the names under each live image. ``inventory`` gives the native id of each volume, ``names`` the volume's names by
    its native id: an adopted one may have two."""

    listing: Listing
    inventory: Mapping[str, str]
    names: Mapping[str, Sequence[str]]
    records: Mapping[str, Record]
    unreadable: Mapping[str, StorageError]
    references: Mapping[str, tuple[str, ...]]

    def owner(self, name: str) -> Record | None:
        """The live record of a volume, by its name or because it is the one that was adopted."""
        native = self.inventory.get(name)
        for record_id, record in self.records.items():
            same = record.volume.name == name or (native is not None and record.volume.adopted == native)
            if same and self.listing.state(record_id) not in ENDED:
                return record
        return None

    def live(self, record_id: str) -> bool:
        """Whether the record is there and has not ended."""
        return self.listing.state(record_id) not in (None, *ENDED)


async def look(pool: Pool) -> Holdings:
    """Look at everything once. Volumes come first: each that is listed has had its record since before.

    Raises NewerSchema where a state is one of a newer version.
    """
    inventory = await pool.volumes.inventory()
    listing = await pool.records.states()
    records: dict[str, Record] = {}
    unreadable: dict[str, StorageError] = {}
    references: dict[str, tuple[str, ...]] = {}
    for record_id, state in sorted(listing.states.items()):
        try:
            records[record_id] = await pool.records.read(record_id)
        except (LostMetadata, NewerSchema) as error:
            if state not in ENDED:
                unreadable[record_id] = error
        if taken_apart(record_id).image and state not in ENDED:
            references[record_id] = tuple(rules.reference_names(await pool.records.references(record_id)))
    names: dict[str, list[str]] = {}
    for name, native in inventory.items():
        names.setdefault(native, []).append(name)
    return Holdings(listing, inventory, names, records, unreadable, references)


async def verify(pool: Pool) -> list[Finding]:
    """Everything that does not agree, by id and volume. What moved while we looked is left out."""
    try:
        held = await look(pool)
    except NewerSchema as error:
        return [Finding("record_newer", error.message, str(error.facts.get("id", "")))]
    found = list(_unrecorded(pool.capabilities, held))
    waiting: Mapping[str, str] = {}
    try:
        waiting = old_pointers(await read_journal(pool))
    except (LostMetadata, NewerSchema) as error:
        found.append(_finding("journal_damaged", why=error.message))
    for record_id, state in sorted(held.listing.states.items()):
        unread = held.unreadable.get(record_id)
        if unread is not None:
            code = "record_newer" if isinstance(unread, NewerSchema) else "record_damaged"
            found.append(_finding(code, record_id, why=unread.message))
        elif record_id in held.records:
            found += await _record(pool, held, held.records[record_id], state, waiting)
    for mark in await marks_in(pool):
        found += [_finding("moving", each, pool=mark.pool) for each in held.listing.slot(*mark.slot)]
    now = await pool.records.states()
    still = [each for each in found if not each.id or now.state(each.id) is held.listing.state(each.id)]
    return sorted(still, key=lambda each: (each.id, each.volume, each.problem))


def _finding(code: str, id: str = "", volume: str = "", **facts: object) -> Finding:
    return Finding(code, CHECKS[code].format(id=id, volume=volume, **facts), id, volume)


async def _record(
    pool: Pool, held: Holdings, record: Record, state: State, waiting: Mapping[str, str]
) -> list[Finding]:
    """What is wrong about one record that can be read. ``waiting`` has headers that a conversion has yet to change."""
    if isinstance(record, Disk) and state in USABLE:
        return await _disk(pool, held, record, state, waiting.get(record.volume.adopted, ""))
    if isinstance(record, Image) and state in SERVING:
        return await _image(pool, record, state)
    volume = record.volume.name
    exists = volume in held.inventory
    if state is State.MOVING and exists and not rules.is_adoption(record):
        return [_finding("stateless", record.id, volume)]
    if state is State.DELETING:
        return [_finding("unfinished", record.id, volume, what=f"The removal of {record.id}")]
    if state is State.GONE and exists and not rules.is_adoption(record):
        return [_finding("unfinished", record.id, volume, what=f"The removal of the volume {volume}")]
    if state in (State.PENDING, State.FILLING, State.MOVING) and await pool.records.pulse(record.owner) is None:
        return [_finding("unfinished", record.id, volume, what=f"The making of {record.id}")]
    return []


async def _volume(pool: Pool, record: Record, state: State, found: list[Finding]) -> Stat | None:
    """The volume of a record that promises one; what is wrong goes to ``found``, and None comes back."""
    name = record.volume.name
    try:
        stat = await pool.volumes.stat(record.volume)
    except StorageError as error:
        found.append(_finding("volume_damaged", record.id, name, why=error.message))
        return None
    if stat is None:
        remover = "instance_disk" if isinstance(record, Disk) else "cached_image"
        found.append(_finding("volume_missing", record.id, name, kind=record.kind, state=state, remover=remover))
    elif record.volume.adopted and stat.native != record.volume.adopted:
        found.append(_finding("volume_replaced", record.id, name))
        return None
    return stat


async def _image(pool: Pool, image: Image, state: State) -> list[Finding]:
    found: list[Finding] = []
    if await _volume(pool, image, state, found) is not None and not await pool.volumes.sealed(image.volume):
        found.append(_finding("unsealed", image.id, image.volume.name))
    return found


async def _disk(pool: Pool, held: Holdings, disk: Disk, state: State, waits_as: str) -> list[Finding]:
    """``waits_as`` is the name of its image that the header still may have, "" where it may not."""
    found: list[Finding] = []
    needs = disk.backing if state is State.READY else None
    if needs is not None:
        found += await _backing(pool, held, disk, needs)
    if await _volume(pool, disk, state, found) is None:
        return found
    if disk.volume.format == "raw":
        names = held.names.get(held.inventory.get(disk.volume.name, ""), ())
        exposed = (name for name in names if is_exposed(pool.capabilities, name))
        return found + [_finding("raw_exposed", disk.id, name) for name in exposed]
    try:
        pointer = await pool.volumes.pointer(disk.volume)
    except StorageError as error:
        return [*found, _finding("volume_damaged", disk.id, disk.volume.name, why=error.message)]
    expected = None if needs is None else image_volume(pool.capabilities, held, needs)
    if pointer != expected:
        facts = {"found": pointer or "nothing", "expected": expected or "that it needs none"}
        waits = needs is not None and pointer is not None and waits_as and _same_end(pointer, waits_as)
        found.append(_finding("pointer_waits" if waits else "pointer_differs", disk.id, disk.volume.name, **facts))
    return found


def _same_end(one: str, other: str) -> bool:
    """Whether two names, each absolute or relative to a folder of its own, can be of one file."""
    ends = [[part for part in posixpath.normpath(each).split("/") if part not in ("", "..")] for each in (one, other)]
    return all(here == there for here, there in zip(*map(reversed, ends)))


async def _backing(pool: Pool, held: Holdings, disk: Disk, image_id: str) -> list[Finding]:
    """What is wrong about the image that a disk stands on. A look at it that failed says nothing of its volume."""
    facts = {"id": disk.id, "volume": disk.volume.name, "image": image_id}
    why = _unfit_record(held, image_id)
    if not why:
        volume = held.records[image_id].volume
        try:
            why = f"whose volume {volume} is missing" if await pool.volumes.stat(volume) is None else ""
        except StorageError as error:
            return [_finding("backing_unseen", **facts, at=volume, why=error.message)]
    if why:
        return [_finding("backing_missing", **facts, why=why)]
    return [] if disk.id in held.references.get(image_id, ()) else [_finding("reference_missing", **facts)]


def _unfit_record(held: Holdings, image_id: str) -> str:
    """Why the image, by its record, cannot be what a disk stands on; empty where it can."""
    if image_id in held.unreadable:
        return "whose record cannot be read"
    state = held.listing.state(image_id)
    if state is None or image_id not in held.records:
        return "which has no record"
    return "" if state in SERVING else f"which is {state}"


def image_volume(capabilities: Capabilities, held: Holdings, image_id: str) -> str:
    """The name of an image's volume; of one that has no readable record, the name that follows from its id."""
    image = held.records.get(image_id)
    return (capabilities.image_volume(image_id) if image is None else image.volume).name


def _unrecorded(capabilities: Capabilities, held: Holdings) -> Iterator[Finding]:
    """Volumes that no record names, and names of records that are not there."""
    named = {record.volume.name for record in held.records.values()}
    released = {r.volume.name for i, r in held.records.items() if held.listing.state(i) is State.RELEASED}
    live = {r.volume.name for i, r in held.records.items() if held.live(i)}
    adopted = {r.volume.adopted for i, r in held.records.items() if held.live(i)} - {""}
    lost: dict[str, tuple[str, str]] = {}
    for image_id, names in held.references.items():
        for name in names:
            if is_id(name) and held.listing.state(name) is None:
                lost[name] = (f"a reference to the image {image_id}", "")
    for name, native in held.inventory.items():
        own = id_in(capabilities, name)
        if own and held.listing.state(own) is None and name not in named and native not in adopted:
            lost[own] = (f"the volume {name}", name)
        elif native not in adopted and name not in live and (name in released or not own):
            yield _finding("volume_unmanaged", volume=name)
    for record_id, (trace, volume) in sorted(lost.items()):
        image = bool(taken_apart(record_id).image)
        remedy = (
            "flatten the disks that need it, fill it anew with cached_image, then remove what it left"
            if image
            else "state its disk with disk_metadata state=rebuilt"
        )
        facts = {"kind": "image" if image else "disk", "trace": trace, "remedy": remedy}
        yield _finding("record_missing", record_id, volume, **facts)


def id_in(capabilities: Capabilities, name: str) -> str:
    """The id of the record for which a volume of this name was made; empty for names of others."""
    for pattern in (*capabilities.disk_names.values(), capabilities.image_name):
        before, after = pattern.split("{id}")
        middle = name[len(before) : len(name) - len(after)]
        if name == before + middle + after and is_id(middle):
            return middle
    return ""


def is_exposed(capabilities: Capabilities, name: str) -> bool:
    """Whether a raw volume of this name stands where the storage's own tools look into what guests write."""
    raw = capabilities.disk_names.get("raw", name)
    return posixpath.dirname(name) != posixpath.dirname(raw)
