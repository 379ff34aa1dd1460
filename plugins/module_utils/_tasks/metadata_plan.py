# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""What a statement about a volume comes to, given what the pool holds. Pure: decides, and touches nothing.

A volume gets a record only where all that speaks about it agrees: the operator, the header of what the operator says
is qcow2, and the id in the volume's own name if it has one. Where two disagree the sentence tells both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .._algorithms import rules
from .._algorithms.disks import DiskWish
from .._algorithms.verify import Holdings, id_in, is_exposed
from .._backends.contract import Capabilities, Stat
from .._ground.errors import BadInput, Busy, InUse, LostMetadata, NewerSchema, NotFound, StorageError
from .._policy.plan import Action, Plan
from .._policy.pool_names import shown
from .._records.types import USABLE, Disk, Image, State, taken_apart
from .metadata_wishes import Statement

ADOPTED = "adopted"
"""Where the origin of a disk keeps the name under which its volume was found."""
_ADOPTABLE_DAMAGED = frozenset({State.READY, State.FLAT, State.MOVING})
"""States in which a damaged record can be given up for a new one: nobody is at work on it."""


@dataclass(frozen=True)
class Examined:
    """A volume, looked at as the format that the operator says. ``users`` is asked only of one that has to move."""

    stat: Stat | None = None
    pointer: str | None = None
    flaw: str = ""
    users: str = ""


@dataclass(frozen=True)
class Site:
    """A pool as one look showed it. ``labels`` are the ids that names stand for, ``alive`` the records whose maker is
    at work, ``given_up`` the damaged records that the statements of the task replace."""

    pool: str
    capabilities: Capabilities
    held: Holdings
    rebuilt: bool
    labels: Mapping[str, str] = field(default_factory=dict)
    alive: frozenset[str] = frozenset()
    given_up: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Step:
    """What is to be done for one statement: ``verb`` is adopt, rebuild, move, refer, revive, or nothing. ``found`` is
    the name that a volume which moves has besides its own."""

    plan: Plan = field(default_factory=Plan)
    verb: str = ""
    wish: DiskWish | None = None
    disk: Disk | None = None
    found: str = ""


def replaced(statement: Statement, site: Site) -> set[str]:
    """The damaged records that a rebuilt disk takes the place of: those of its role, and the one its volume names.
    None where the disk is only to be adopted."""
    if not site.rebuilt:
        return set()
    damaged = {each for each in _slot(statement, site) if isinstance(site.held.unreadable.get(each), LostMetadata)}
    own = id_in(site.capabilities, statement.volume)
    if isinstance(site.held.unreadable.get(own), LostMetadata):
        damaged.add(own)
    return damaged


def decide(statement: Statement, site: Site, seen: Examined) -> Step:
    """The step for one statement; raises what stands in the way."""
    owner = site.held.owner(statement.volume) or _moved(statement, site)
    if seen.stat is None and owner is None:
        raise NotFound(f"The pool {site.pool} has no volume {shown(statement.volume)}: {seen.flaw}.")
    if owner is not None:
        step = _managed(statement, site, seen, owner)
        if step is not None:
            return step
    _check_records(statement, site)
    _check_place(statement, site)
    _check_replaced(statement, site)
    if seen.stat is None or seen.flaw:
        raise BadInput(f"The volume {statement.volume} of pool {site.pool} cannot become a disk: {seen.flaw}.")
    if statement.image and statement.format not in site.capabilities.standing:
        raise BadInput(
            f"The volume {statement.volume} is to be {statement.format} and to need the image "
            f"{shown(statement.image)}: no such disk of pool {site.pool} stands on an image; leave out image."
        )
    image = _image(statement, site, seen)
    stays = statement.format != "raw" or not is_exposed(site.capabilities, statement.volume)
    if not stays:
        _check_unused(statement, site, seen)
    verb = "rebuild" if site.rebuilt else "adopt"
    wish = DiskWish(
        instance=statement.instance,
        role=statement.role,
        size=seen.stat.size,
        native=seen.stat.native,
        found=statement.volume,
        name=statement.volume if stays else "",
        format=statement.format,
        backing=image.id if image else "",
        origin={
            ADOPTED: statement.volume,
            **({"image": image.id, "key": image.key, "name": image.name} if image else {}),
        },
    )
    return Step(_adoption(statement, site, image, stays, verb), verb, wish)


def _adoption(statement: Statement, site: Site, image: Image | None, stays: bool, verb: str) -> Plan:
    what = f"{statement.what} in pool {site.pool}"
    about = statement.format + (f", on image {image.name}" if image else "") + ("" if stays else ", moved")
    sentence = f"{verb} {statement.volume} as {what} ({about})"
    actions = [
        Action("drop", what, f"give up the damaged record {record_id}")
        for record_id in sorted(replaced(statement, site))
    ]
    after = {"state": "ready", "volume": statement.volume, "format": statement.format}
    if image:
        after["backing"] = image.id
    before = {what: {"state": "damaged"}} if actions else {}
    return Plan((*actions, Action(verb, what, sentence)), before, {what: after})


# A volume that has a record


def _moved(statement: Statement, site: Site) -> Disk | None:
    """The disk that the stated volume became, if it moved when it was adopted."""
    for record_id in _slot(statement, site):
        disk = site.held.records.get(record_id)
        if not isinstance(disk, Disk) or site.held.listing.state(record_id) not in USABLE:
            continue
        if disk.origin.get(ADOPTED) == statement.volume and disk.volume.name in site.held.inventory:
            return disk
    return None


def _managed(statement: Statement, site: Site, seen: Examined, owner: object) -> Step | None:
    """The step for a volume that a live record names; None where that record is a dead adoption, to be taken over."""
    if not isinstance(owner, Disk):
        raise BadInput(f"The volume {statement.volume} of pool {site.pool} is that of {owner}, which is no disk.")
    state = site.held.listing.state(owner.id)
    what = f"{statement.what} in pool {site.pool}"
    if state is State.PENDING and rules.is_adoption(owner):
        if owner.id in site.alive:
            raise Busy(
                f"The volume {statement.volume} of pool {site.pool} is being adopted as {owner.id}: wait for it."
            )
        return None
    if state is not State.MOVING and state not in USABLE:
        raise InUse(
            f"The volume {statement.volume} of pool {site.pool} belongs to {owner.id}, which is {state}: "
            "cached_image state=pruned clears what was not finished."
        )
    _check_same(statement, site, owner, state)
    if state is State.MOVING:
        if not site.rebuilt:
            raise LostMetadata(f"The record of {owner.id} has lost its state: state the disk with state=rebuilt.")
        sentence = f"give the record {owner.id} its state again"
        plan = Plan((Action("revive", what, sentence),), {what: {"state": None}}, {what: {"state": "ready"}})
        return Step(plan, "revive", disk=owner)
    if statement.volume != owner.volume.name and statement.volume in site.held.inventory:
        _check_unused(statement, site, seen)
        sentence = f"move {statement.volume} to {owner.volume.name}"
        before, after = {"names": [statement.volume, owner.volume.name]}, {"names": [owner.volume.name]}
        plan = Plan((Action("move", what, sentence),), {what: before}, {what: after})
        return Step(plan, "move", disk=owner, found=statement.volume)
    needs = owner.backing if state is State.READY else None
    if site.rebuilt and needs is not None and owner.id not in site.held.references.get(needs, ()):
        if needs not in site.held.records or site.held.listing.state(needs) not in (State.READY, State.RETIRED):
            raise LostMetadata(f"The disk {owner.id} needs the image {needs}, which is not there: restore both first.")
        sentence = f"refer to the image {needs} from {owner.id}"
        plan = Plan((Action("refer", what, sentence),), {what: {"reference": None}}, {what: {"reference": needs}})
        return Step(plan, "refer", disk=owner)
    return Step(disk=owner)


def _check_same(statement: Statement, site: Site, disk: Disk, state: State | None) -> None:
    """Refuse a statement that contradicts the record."""
    if statement.image:
        same_image = disk.backing is not None and disk.backing in _meant(statement.image, site)
    else:
        same_image = disk.backing is None or state is State.FLAT
    stated = (statement.instance, statement.role, statement.format)
    if stated != (disk.instance, disk.role, disk.volume.format) or not same_image:
        raise BadInput(
            f"The volume {statement.volume} of pool {site.pool} is recorded as disk {disk.role} of {disk.instance} "
            f"({disk.volume.format}, image {disk.backing or 'none'}), and is stated as {statement.what} "
            f"({statement.format}, image {statement.image or 'none'}): state it as recorded, or stop managing it first."
        )


# A volume that has none


def _slot(statement: Statement, site: Site) -> list[str]:
    return site.held.listing.slot(statement.instance, statement.role)


def _check_place(statement: Statement, site: Site) -> None:
    """Refuse a place that another disk holds, and a volume whose own name says another place."""
    for other in _slot(statement, site):
        state = site.held.listing.state(other)
        if other in site.held.unreadable:
            continue
        if state is State.PENDING and other not in site.alive:
            continue  # a dead maker's, which is taken over
        raise BadInput(
            f"The {statement.what} in pool {site.pool} exists already, as {other} ({state}): give another role, or "
            "remove that disk first."
        )
    own = id_in(site.capabilities, statement.volume)
    state = site.held.listing.state(own) if own else None
    if not own or state is State.RELEASED:
        return
    if state is State.GONE:
        raise BadInput(
            f"The volume {statement.volume} of pool {site.pool} belongs to a disk that was removed, and goes with the "
            "next prune: make a copy under another name to keep it."
        )
    if not site.rebuilt:
        raise LostMetadata(
            f"The volume {statement.volume} of pool {site.pool} is one of ours, and its record {own} is missing or "
            "damaged: state it with state=rebuilt.",
            id=own,
        )
    named = taken_apart(own)
    if (named.instance, named.role) != (statement.instance, statement.role):
        raise BadInput(
            f"The volume {statement.volume} of pool {site.pool} bears the name of disk {named.role} of "
            f"{named.instance}, and is stated as {statement.what}: state what it is."
        )


def _check_records(statement: Statement, site: Site) -> None:
    """Refuse while a record that cannot be read may name the very volume."""
    for record_id, error in site.held.unreadable.items():
        if taken_apart(record_id).image:
            continue  # what an image is called follows from its id
        if isinstance(error, NewerSchema):
            raise NewerSchema(error.message, id=record_id)
        if record_id not in site.given_up:
            raise LostMetadata(
                f"The record of {record_id} cannot be read and may name the volume {statement.volume}: state its disk "
                "with state=rebuilt first, or in the same task.",
                id=record_id,
            )


def _check_replaced(statement: Statement, site: Site) -> None:
    """Refuse to give up a damaged record that somebody may be at work on, or that is another volume's."""
    for record_id in replaced(statement, site):
        state = site.held.listing.state(record_id)
        if state not in _ADOPTABLE_DAMAGED:
            raise LostMetadata(
                f"The record {record_id} is damaged, and its disk was {state}: give it up with state=absent and this "
                "id, then adopt the volume that is left, if any.",
                id=record_id,
            )
        for format in site.capabilities.disk_names:
            name = site.capabilities.disk_volume(record_id, format).name
            if name != statement.volume and name in site.held.inventory:
                raise BadInput(
                    f"The damaged record {record_id} is that of the volume {name}, which is there, and "
                    f"{statement.volume} is stated in its place: state {name}, or another role."
                )


def _image(statement: Statement, site: Site, seen: Examined) -> Image | None:
    """The image that the volume stands on, where the operator and the header agree."""
    header = seen.pointer
    if header is None and not statement.image:
        return None
    volume = f"The volume {statement.volume} of pool {site.pool}"
    images = [r for i, r in site.held.records.items() if isinstance(r, Image) and site.held.live(i)]
    pointed = next((image for image in images if image.volume.name == header), None)
    if header is not None and pointed is None:
        raise BadInput(
            f"{volume} names {shown(header)} as its backing file, which is no cached image of the pool: flatten the "
            "volume first (qemu-img rebase with explicit formats and an empty -b), or import it with instance_disk."
        )
    if pointed is None or pointed.id not in _meant(statement.image, site):
        said = f"{pointed.name} ({pointed.id})" if pointed else "nothing"
        raise BadInput(
            f"{volume} is stated to stand on the image {statement.image or 'none'}, and it stands on {said}: state "
            "what is true."
        )
    _check_serves(statement, site, pointed)
    return pointed


def _check_serves(statement: Statement, site: Site, image: Image) -> None:
    """An image takes a new reference while it is ready; a retired one only from the heir of one that it has."""
    state = site.held.listing.state(image.id)
    if image.volume.name not in site.held.inventory:
        raise LostMetadata(
            f"The image {image.id} has lost its volume {image.volume}: bring that back first.", id=image.id
        )
    if state is State.READY:
        return
    names = site.held.references.get(image.id, ())
    heir = site.rebuilt and (
        rules.lost_names(names, site.held.listing, statement.instance, statement.role)
        or replaced(statement, site) & set(names)
    )
    if state is not State.RETIRED or not heir:
        raise StorageError(
            f"The volume {statement.volume} of pool {site.pool} stands on the image {image.id}, which is {state} and "
            "may be pruned at any moment, for nothing refers to it in the name of this disk: flatten the volume now "
            "(qemu-img rebase with explicit formats and an empty -b), then state it without image."
        )


def _meant(wanted: str, site: Site) -> set[str]:
    """The ids of the images that ``wanted``, a name, key or id, may mean. A name may have meant several in its time;
    the header of the volume tells which."""
    ids = {site.labels[wanted]} if wanted in site.labels else set()
    for record in site.held.records.values():
        if isinstance(record, Image) and wanted in (record.id, record.key, record.name):
            ids.add(record.id)
    return ids


def _check_unused(statement: Statement, site: Site, seen: Examined) -> None:
    if seen.users:
        raise InUse(
            f"The volume {statement.volume} of pool {site.pool} is in use ({seen.users}), and a raw disk moves out of "
            "the folder that libvirt refreshes: stop what uses it, then run the task again."
        )
