# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""Which pools the disks of a task stand in, or go to, that are asked for by flavor. Changes nothing.

A flavor lets the place of a disk be looked up, and so does leave to move it: the look has to be complete. Where a pool
cannot be looked into, a disk that was not found might stand there, and is not made a second time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from .._algorithms.moving import Mark, marks_in
from .._algorithms.pool import Pool
from .._algorithms.survey import ABOUT_POOL, image_named, labels, listing_of
from .._ground.errors import BadInput, LostMetadata, NewerSchema, NotFound, StorageError
from .._ground.libvirt_host import PoolStatus
from .._policy.flavors import part_of
from .._policy.placement import Answer, Demand, Place, Placed, Slot, place
from .._policy.plan import Fields
from .._policy.pool_xml import read
from .._records.contract import Listing
from .._records.types import ENDED, USABLE, Image, State, taken_apart
from .disk_site import look_at_volumes, refuse_lost
from .disk_wishes import UNMADE, Order
from .kinds import KINDS
from .pool_contents import CONFIG
from .pool_reader import Reader
from .session import Session

_NO_FLAVOR = "give the pool of the disk instead of a flavor"
CONFIG_DISK = 1 << 20
"""Bytes that a new config disk counts. It is as large as its files, which is less."""


@dataclass
class Look:
    """One pool of the host. ``reader`` is None where it cannot be looked into; then ``unseen`` says why a disk of ours
    may stand there nevertheless, "" where none can."""

    place: Place
    reader: Reader | None = None
    unseen: str = ""
    inventory: Collection[str] = ()
    listing: Listing = field(default_factory=lambda: Listing({}))
    marks: Sequence[Mark] = ()
    """Of moves out of the pool that are not at their end."""
    left_behind: Collection[str] = ()
    """The disks that such a move has made its copy of, which is the disk by now."""
    sizes: dict[str, int] = field(default_factory=dict)
    """What recorded disks promise, by id, as far as it was counted."""

    @property
    def name(self) -> str:
        """The pool's name."""
        return self.place.name


def placed(session: Session, ordered: Sequence[Order]) -> list[Order]:
    """The orders, each with the pool that it stands in or goes to. Raises BadInput where no pool fits."""
    flavored = [order for order in ordered if order.flavor is not None]
    if not flavored:
        return list(ordered)
    looks = _look_at_all(session)
    standing = {order.slot: where for order in flavored for where in _standing(order, looks)}
    new = [order for order in flavored if order.slot not in standing]
    images: Mapping[str, int] = {}
    if new:
        _check_complete(session, looks, {order.slot for order in new}, _NO_FLAVOR)
        images = _image_sizes(session, looks, new)
        for look in looks:
            if look.reader is not None and any(_allows(order, look.place) for order in new):
                _count(session, look, ordered)
    demands = [_demand(order, standing.get(order.slot), images, looks) for order in flavored]
    answers = place(demands, [look.place for look in looks])
    return [_settled(session, order, answers[order.slot]) if order.flavor else order for order in ordered]


def everywhere(session: Session, ordered: Sequence[Order]) -> list[Order]:
    """The orders for removal, those by flavor once for every pool that their disks may stand in."""
    flavored = {order.slot for order in ordered if order.flavor is not None}
    if not flavored:
        return list(ordered)
    looks = _look_at_all(session)
    _check_complete(session, looks, flavored, _NO_FLAVOR)
    names = [look.name for look in looks if look.reader is not None]
    return [each for order in ordered for each in (_in_pools(order, names) if order.flavor else (order,))]


def refuse_unseen(session: Session, slots: Collection[Slot]) -> None:
    """Disks that may be moved, and were not found to be: none is made while one may stand where nobody can look."""
    if slots:
        _check_complete(session, _look_at_all(session), slots, "ask for the disk without allow_move")


def _in_pools(order: Order, names: Iterable[str]) -> list[Order]:
    return [replace(order, want=replace(order.want, pool=name)) for name in names]


# Looking


def _look_at_all(session: Session) -> list[Look]:
    """All pools."""
    looks = [look for look in (_look_at(session, status) for status in session.host.pools()) if look is not None]
    ready = {(look.name, each) for look in looks for each, state in look.listing.states.items() if state in USABLE}
    for look in looks:
        moved = [mark.slot for mark in look.marks if (mark.pool, mark.copy) in ready]
        look.left_behind = {each for slot in moved for each in look.listing.slot(*slot)}
    return looks


def _look_at(session: Session, status: PoolStatus) -> Look | None:
    """One pool; None where it went since it was listed."""
    kind, name = read(status.xml).type, status.name
    if kind not in KINDS:
        return Look(Place(name, problem=f"pools of type {kind} are not managed"))
    if not status.active:
        return Look(Place(name, problem="it is not active"), unseen="it is not active")
    try:
        reader = Reader.of(session, name)
        if reader is None:
            return None
        look = Look(Place(name), reader, inventory=look_at_volumes(reader.run, reader.pool))
        look.listing = reader.run(listing_of(reader.pool))
        look.marks = reader.run(marks_in(reader.pool))
        look.place = reader.run(_describe(reader.pool))
    except NotFound:
        return None
    except StorageError as error:
        return Look(Place(name, problem="it cannot be looked into"), unseen=error.message)
    return look


async def _describe(pool: Pool) -> Place:
    config: Fields = (await pool.records.notes(ABOUT_POOL)).get(CONFIG, {})
    known = config.get("labels")
    capacity, free = await pool.volumes.capacity()
    thick = pool.capabilities.thick
    return Place(pool.name, known if isinstance(known, dict) else {}, capacity, free, thick=thick)


def _standing(order: Order, looks: Iterable[Look]) -> list[tuple[Look, str]]:
    """The pool and the id of the disk that stands, or that somebody has begun; none where there is none yet."""
    found = [
        (look, record_id, look.listing.state(record_id) in USABLE)
        for look in looks
        for record_id in look.listing.slot(*order.slot)
        if look.listing.state(record_id) is not State.DELETING and record_id not in look.left_behind
    ]
    usable = [each for each in found if each[2]]
    pools = sorted({look.name for look, _record_id, _usable in usable})
    if len(pools) > 1:
        raise BadInput(
            f"The disk {order.want.role} of {order.want.instance} stands in pools {' and '.join(pools)}: give the pool "
            "of the one that is meant instead of a flavor, and remove the other."
        )
    return [(look, record_id) for look, record_id, _usable in (usable or found)[:1]]


def _check_complete(session: Session, looks: Sequence[Look], slots: Collection[Slot], otherwise: str) -> None:
    """What was not found is not there: no pool hides it, and no record was lost. No role stands for all roles.
    ``otherwise`` is what helps where a pool cannot be brought back."""
    instance, role = min(slots)
    what = f"the disk {role} of {instance}" if role else f"a disk of {instance}"
    for look in looks:
        if look.reader is not None:
            refuse_lost(look.reader.run, look.reader.pool, look.inventory, look.listing, slots)
        elif look.unseen:
            problem = (
                f"Whether {what} stands in pool {look.name} cannot be seen ({look.unseen.rstrip('.')}): start that "
                f"pool, repair or undefine it, or {otherwise}."
            )
            if not session.check_mode:
                raise StorageError(problem)
            session.warnings.append(f"{problem} Check mode goes on as if an earlier task did.")


# Counting


def _allows(order: Order, pool: Place) -> bool:
    choices = order.flavor.choices(_part(order)) if order.flavor is not None else ()
    return any(not choice.mismatch(pool.name, pool.labels) for choice in choices)


def _count(session: Session, look: Look, ordered: Sequence[Order]) -> None:
    """Add up what the pool's disks promise and its images take up, and what orders that name the pool will."""
    over = {*ENDED, State.DELETING}
    ids = [each for each, s in look.listing.states.items() if s not in over and each not in look.left_behind]
    pool = look.reader.pool if look.reader is not None else None
    cached = 0
    for record_id, ended in zip(ids, session.run_all([_weigh(pool, each) for each in ids]) if pool else ()):
        if isinstance(ended.error, (LostMetadata, NewerSchema)):
            session.warnings.append(f"In pool {look.name} {record_id} is not counted: {ended.error.message}")
        elif taken_apart(record_id).image:
            cached += ended.unwrap()
        else:
            look.sizes[record_id] = ended.unwrap()
    promised = sum(look.sizes.values())
    for order in ordered:
        if order.flavor is None and order.want.pool == look.name:
            stands = max((look.sizes.get(each, 0) for each in look.listing.slot(*order.slot)), default=0)
            promised += max(0, order.want.bytes - stands)
    look.place = replace(look.place, provisioned=promised, cached=cached)


async def _weigh(pool: Pool, record_id: str) -> int:
    """What a record counts, in bytes: what a disk promises, what an image takes up."""
    record = await pool.records.read(record_id)
    stat = await pool.volumes.stat(record.volume)
    if isinstance(record, Image):
        return stat.allocated if stat else 0
    return max(record.size, stat.size if stat else 0)


def _image_sizes(session: Session, looks: Iterable[Look], new: Iterable[Order]) -> Mapping[str, int]:
    """The sizes of the images that new disks take theirs from, in bytes."""
    wanted = {order.want.content for order in new if order.want.kind == "image" and not order.want.bytes}
    sizes: dict[str, int] = {}
    for look in looks:
        if look.reader is not None and wanted:
            for name, size in look.reader.run(_sizes_in(look.reader.pool, look.listing, wanted)).items():
                sizes[name] = max(size, sizes.get(name, 0))
    lacking = sorted(wanted.difference(sizes))
    if lacking and not session.check_mode:
        raise NotFound(f"No pool of this host has a ready image {lacking[0]}: bring it in with cached_image first.")
    return sizes


async def _sizes_in(pool: Pool, listing: Listing, wanted: Iterable[str]) -> dict[str, int]:
    named, sizes = await labels(pool), {}
    for name in sorted(wanted):
        image = await image_named(pool, name, listing, named)
        stat = await pool.volumes.stat(image.volume) if image is not None else None
        if stat is not None:
            sizes[name] = stat.size
    return sizes


# Asking and answering


def _part(order: Order) -> str:
    return part_of(order.want.role, swap=order.file_system == "swap")


def _demand(order: Order, where: tuple[Look, str] | None, images: Mapping[str, int], looks: Iterable[Look]) -> Demand:
    """What an order asks of the pools."""
    want = order.want
    if order.flavor is None:
        raise AssertionError
    if where is not None:
        look, record_id = where
        grown = max(0, want.bytes - look.sizes.get(record_id, want.bytes))
        return Demand(want.instance, want.role, _part(order), order.flavor, grown, stands=look.name)
    if want.kind == "import":
        _check_import(order, looks)
    size = want.bytes or {"image": images.get(want.content, 0), "config": CONFIG_DISK}.get(want.kind, 0)
    at_once = want.kind in ("import", "config") or want.clone == "copy" or want.flattened
    return Demand(want.instance, want.role, _part(order), order.flavor, size, size if at_once else 0)


def _check_import(order: Order, looks: Iterable[Look]) -> None:
    what = f"disk {order.want.role} of {order.want.instance}"
    for look in looks:
        if look.reader is not None and look.reader.backend.name_at(order.path) is not None:
            raise BadInput(
                f"The path {order.path} to import the {what} from lies in pool {look.name}: give that pool instead of "
                "a flavor, to take the volume over as it is."
            )
    if not order.want.bytes:
        raise BadInput(
            f"How large the {what} becomes is not known before it is imported: give its size, so that its flavor can "
            "choose a pool with room."
        )


def _settled(session: Session, order: Order, answer: Answer) -> Order:
    """The order with its pool, or the refusal."""
    want = order.want
    if isinstance(answer, Placed):
        if answer.strays:
            session.warnings.append(
                f"The disk {want.role} of {want.instance} stands in pool {answer.pool}, where its flavor would not put "
                f"it ({answer.strays}): it stays there."
            )
        return replace(order, want=replace(want, pool=answer.pool), placement=answer.reason)
    if answer.matching or not session.check_mode:
        raise BadInput(str(answer), pools=dict(answer.unfit))
    session.warnings.append(f"{answer} Check mode goes on as if an earlier task did.")
    return replace(order, want=replace(want, pool=UNMADE))
