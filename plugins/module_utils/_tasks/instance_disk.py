# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""The tasks of `instance_disk` and `instance_disk_info`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from .._algorithms.cache import fill
from .._algorithms.disks import DiskWish, Made, delete, flatten, grow, make
from .._algorithms.pool import Pool
from .._algorithms.survey import (
    SeenDisk,
    image_named,
    labels,
    listing_of,
    see_disk,
    see_disk_by_id,
)
from .._ground.errors import BadInput, InUse, NotFound
from .._policy.disk_plan import Found, Offer, Wanted, plan
from .._policy.plan import Action, Fields, Plan
from .._records.contract import Listing
from .._records.types import USABLE, Disk, Image, taken_apart
from .disk_contents import Ingredients, importing, template
from .disk_result import describe, foreseen, with_targets
from .disk_wishes import Order, orders
from .session import Session, first_error


def task(params: Fields, check_mode: bool) -> Fields:
    """Make or remove the disks of instances; gives the result of `instance_disk`."""
    session = Session(params["uri"], check_mode)
    ordered = orders(params, session.warnings)
    work = {"present": _present, "absent": _absent}[params["state"]]
    result = work(session, ordered)
    return {**result, "warnings": session.warnings}


def info(params: Fields, check_mode: bool) -> Fields:
    """Describe the disks of instances; gives the result of `instance_disk_info`. Only reads."""
    session = Session(params["uri"], check_mode=True)
    shown: list[Fields] = []
    for pool in session.open_all(params["pools"]):
        listing = session.run(listing_of(pool))
        ids = [
            record_id
            for record_id, state in sorted(listing.states.items())
            if state in USABLE
            and not taken_apart(record_id).image
            and (not params["instances"] or taken_apart(record_id).instance in params["instances"])
        ]
        for record_id, ended in zip(ids, session.run_all([see_disk_by_id(pool, each, listing) for each in ids])):
            if ended.error is not None:
                shown.append({"pool": pool.name, "id": record_id, "problem": str(ended.error)})
            elif ended.value is not None:
                shown.append(describe(session, pool, ended.value))
    return {"changed": False, "disks": shown, "warnings": session.warnings}


@dataclass
class Site:
    """One pool of the task and what it has for the task's disks, as one look showed it."""

    pool: Pool | None
    orders: list[Order]
    listing: Listing = field(default_factory=lambda: Listing({}))
    found: list[SeenDisk | None] = field(default_factory=list)
    images: dict[str, Image | None] = field(default_factory=dict)
    image_sizes: dict[str, int] = field(default_factory=dict)


# present


def _present(session: Session, ordered: Sequence[Order]) -> Fields:
    sites = _look(session, ordered)
    _refuse_elsewhere(session, sites)
    plans: dict[tuple[str, str], Plan] = {}
    for site in sites.values():
        for order, seen in zip(site.orders, site.found):
            plans[order.slot] = plan(order.want, _found(session, site, order, seen), _offer(session, site, order, seen))
    joined = Plan.join(plans[order.slot] for order in ordered)
    if joined.changed and not session.check_mode:
        for site in sites.values():
            _carry_out(session, site, plans)
        sites = _look(session, ordered)
    shown = {}
    for name, site in sites.items():
        for order, seen in zip(site.orders, site.found):
            if site.pool is None or seen is None:
                shown[order.slot] = foreseen(session, name, order.want, site.images.get(order.want.content))
            else:
                shown[order.slot] = describe(session, site.pool, seen, order.want)
    return {**joined.to_result(), "disks": with_targets([shown[o.slot] for o in ordered], [o.want for o in ordered])}


def _look(session: Session, ordered: Sequence[Order]) -> dict[str, Site]:
    """Every pool of the task: one listing each, the disks wanted, the images wanted."""
    sites: dict[str, Site] = {}
    for order in ordered:
        site = sites.setdefault(order.want.pool, Site(None, []))
        site.orders.append(order)
    for name, site in sites.items():
        site.pool = pool = session.open(name)
        if pool is None:
            site.found = [None] * len(site.orders)
            continue
        site.listing = session.run(listing_of(pool))
        looks = [see_disk(pool, order.want.instance, order.want.role, site.listing) for order in site.orders]
        ended = session.run_all(looks)
        first_error(ended)
        site.found = [each.value for each in ended]
        named = session.run(labels(pool))
        for wanted in {order.want.content for order in site.orders if order.want.kind == "image"}:
            image = session.run(image_named(pool, wanted, site.listing, named))
            site.images[wanted] = image
            if image is not None:
                stat = session.run(_size(pool, image))
                site.image_sizes[wanted] = stat
    return sites


async def _size(pool: Pool, image: Image) -> int:
    stat = await pool.volumes.stat(image.volume)
    return stat.size if stat is not None else 0


def _refuse_elsewhere(session: Session, sites: Mapping[str, Site]) -> None:
    """A disk that stands in another pool is not made a second time."""
    missing = {
        order.slot: order.want
        for site in sites.values()
        for order, seen in zip(site.orders, site.found)
        if seen is None
    }
    if not missing:
        return
    for pool in session.open_all([]):
        listing = sites[pool.name].listing if pool.name in sites else session.run(listing_of(pool))
        for slot, want in missing.items():
            if pool.name != want.pool and any(listing.state(each) in USABLE for each in listing.slot(*slot)):
                raise BadInput(
                    f"The disk {want.role} of {want.instance} stands in pool {pool.name}, not in {want.pool}: "
                    "name that pool, or remove the disk there first."
                )


def _found(session: Session, site: Site, order: Order, seen: SeenDisk | None) -> Found | None:
    """What the plan needs to know of a disk that stands."""
    if seen is None or site.pool is None or seen.stat is None:
        return None
    needs_image = seen.backing is not None
    users = ""
    if (order.want.flattened and needs_image) or order.want.replace:
        using = session.run(_users(site.pool, seen))
        users = using
    return Found(seen.stat.size, seen.disk.origin, needs_image, users)


async def _users(pool: Pool, seen: SeenDisk) -> str:
    users = await pool.volumes.users(seen.disk.volume)
    return str(users) if users else ""


def _offer(session: Session, site: Site, order: Order, seen: SeenDisk | None) -> Offer:
    """What the pool has for a disk: its image, and how it would be cloned."""
    want = order.want
    if want.kind != "image":
        return Offer()
    strategy = want.clone or "overlay"
    reason = ""
    if site.pool is not None:
        capabilities = site.pool.capabilities
        strategy = want.clone or capabilities.default_clone
        if strategy not in capabilities.clones:
            raise BadInput(
                f"The {want.what} cannot be cloned by {strategy}: pool {want.pool} offers "
                f"{', '.join(capabilities.clones)}."
            )
        reason = capabilities.clone_reasons.get(strategy, "")
    image = site.images.get(want.content)
    if image is None:
        if not session.check_mode and seen is None:
            raise NotFound(
                f"Pool {want.pool} has no ready image {want.content}: bring it in with cached_image, then make the "
                "disk."
            )
        return Offer(strategy=strategy, reason=reason)
    return Offer(site.image_sizes[want.content], strategy, reason, image.id, image.name)


def _carry_out(session: Session, site: Site, plans: Mapping[tuple[str, str], Plan]) -> None:
    """What the plans say for one pool: templates first, then all disks side by side."""
    if site.pool is None:
        return
    pool = site.pool
    due = [(order, seen) for order, seen in zip(site.orders, site.found) if plans[order.slot].changed]
    if not due:
        return
    made_of: list[Ingredients] = []
    taken: dict[str, set[int]] = {}
    for order, seen in due:
        if order.want.kind == "blank" and order.file_system and seen is None:
            made_of.append(template(session, pool, site.listing, order, taken))
        elif order.want.kind == "import" and seen is None:
            made_of.append(importing(session, pool, site.listing, order))
        else:
            made_of.append(Ingredients())
    fills = {each.template.key: each.template for each in made_of if each.template is not None}
    if fills:
        first_error(session.work(pool, [fill(pool, wish) for wish in fills.values()]))
    now = session.now()
    used = {image.id for image in (site.images.get(order.want.content) for order, _ in due) if image is not None}
    tasks = [
        _provide(pool, order, seen, site.images.get(order.want.content), source, plans[order.slot].actions)
        for (order, seen), source in zip(due, made_of)
    ]
    first_error(session.work(pool, [*tasks, *(_note_use(pool, each, now) for each in sorted(used))]))


async def _note_use(pool: Pool, image_id: str, now: str) -> None:
    await pool.records.note(image_id, "use", {"at": now})


async def _provide(
    pool: Pool,
    order: Order,
    seen: SeenDisk | None,
    image: Image | None,
    source: Ingredients,
    actions: Sequence[Action],
) -> None:
    """One disk, as its plan says."""
    verbs = {action.verb for action in actions}
    disk = seen.disk if seen is not None else None
    if "replace" in verbs and disk is not None:
        await delete(pool, disk)
        disk = None
    if disk is None:
        made: Made = await make(pool, _wish(order, image, source))
        disk = made.disk
    if "grow" in verbs:
        await grow(pool, disk, order.want.bytes)
    if "flatten" in verbs:
        await flatten(pool, disk)


def _wish(order: Order, image: Image | None, source: Ingredients) -> DiskWish:
    """The wish that the algorithms understand."""
    want = order.want
    wish = DiskWish(want.instance, want.role, want.bytes, origin={want.kind: want.content}, how=want.clone or "")
    if want.kind == "image" and image is not None:
        return replace(wish, image_key=image.key, origin={})
    if want.kind == "config":
        return replace(wish, source=order.content, format="raw")
    if source.template is not None:
        return replace(wish, image_key=source.template.key, origin={**wish.origin, "template": source.number})
    return source.adopt(wish)


# absent


def _absent(session: Session, ordered: Sequence[Order]) -> Fields:
    plans = []
    for name in dict.fromkeys(order.want.pool for order in ordered):
        pool = session.open(name)
        if pool is None:
            continue
        listing = session.run(listing_of(pool))
        ids = [record_id for order in ordered if order.want.pool == name for record_id in _meant(listing, order.want)]
        ended = session.run_all([_see_to_remove(pool, record_id) for record_id in ids])
        first_error(ended)
        disks = [each.value for each in ended]
        plans.append(Plan.join(_removal(name, disk.instance, disk.role, disk.id) for disk in disks))
        if disks and not session.check_mode:
            first_error(session.work(pool, [delete(pool, disk) for disk in disks]))
    return {**Plan.join(plans).to_result(), "disks": []}


def _meant(listing: Listing, want: Wanted) -> list[str]:
    """The ready disks of one role, or of all roles, of an instance; and removals that were cut short."""
    if want.role:
        return listing.slot(want.instance, want.role)
    return [
        record_id
        for record_id in listing.states
        if record_id.startswith(want.instance + "+")
        and record_id in listing.slot(want.instance, taken_apart(record_id).role)
    ]


async def _see_to_remove(pool: Pool, record_id: str) -> Disk:
    """The disk, if nothing uses it. A missing volume or image is no bar to removing what is left."""
    disk = await pool.records.read(record_id)
    if not isinstance(disk, Disk):
        raise NotFound(f"The record of {record_id} is not that of a disk.")
    users = await pool.volumes.users(disk.volume)
    if users:
        raise InUse(
            f"The disk {disk.role} of {disk.instance} in pool {pool.name} is in use by {users}: stop what uses it, "
            "then remove the disk.",
            volume=disk.volume.name,
        )
    return disk


def _removal(pool: str, instance: str, role: str, record_id: str) -> Plan:
    what = f"disk {role} of {instance} in pool {pool}"
    return Plan((Action("remove", what, f"remove {what} ({record_id})"),), {what: {"state": "ready"}}, {})
