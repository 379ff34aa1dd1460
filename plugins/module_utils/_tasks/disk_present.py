# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""Having disks as they are asked for, as `instance_disk` does: made, moved, grown, flattened or replaced."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from .._algorithms.cache import ImageWish, fill, look_up
from .._algorithms.disks import DiskWish, delete, flatten, format_for, grow, make
from .._algorithms.pool import Pool
from .._algorithms.survey import SeenDisk, users_of
from .._ground.drive import Ended
from .._ground.errors import StorageError
from .._policy.disk_plan import Found, Offer, Wanted, check_discard, plan
from .._policy.plan import Fields, Plan
from .._records.types import Disk
from .costs import Counts, counted, foretold, taken
from .disk_contents import Recipe, recipe
from .disk_moves import Move, attended, broken_off, moves_into, settle_left, superseded
from .disk_placement import placed, refuse_unseen
from .disk_result import changed, describe, foreseen, with_targets
from .disk_site import Site, Slot, elsewhere, look, refuse_elsewhere
from .disk_wishes import UNMADE, Order
from .session import Session, first_error


@dataclass(frozen=True)
class Step:
    """What is to be done about one disk of the task: ``seen`` is the disk as it stands, ``recipe`` how it is made
    where it does not, or is made anew, ``move`` how it is brought here from another pool."""

    order: Order
    plan: Plan
    seen: SeenDisk | None
    recipe: Recipe | None
    move: Move | None = None

    def does(self, verb: str) -> bool:
        """Whether the plan has such an action."""
        return any(action.verb == verb for action in self.plan.actions)


def present(session: Session, ordered: Sequence[Order], allow_move: bool) -> Fields:
    """Have the disks of the task; gives the result of `instance_disk`."""
    ordered = placed(session, ordered)
    sites, standing, finished = _found(session, ordered)
    refuse_elsewhere(standing, sites, allow_move)
    if allow_move:
        refuse_unseen(session, {o.slot for site in sites for o in site.missing() if _is_new(o, standing)})
    steps = {site.name: list(_steps(session, site, standing)) for site in sites}
    plans = {step.order.slot: step.plan for site in sites for step in steps[site.name]}
    joined = Plan.join([*finished, *(plans[order.slot] for order in ordered)])
    costs, counts = foretold(session, joined), Counts()
    if joined.changed and not session.check_mode:
        first_error([ended for site in sites for ended in _apply(session, site, steps[site.name], counts)])
        costs.update(counted(joined, counts))
        made = {site.name: site for site in look(session, [each for each in ordered if plans[each.slot].changed])}
        for site in sites:
            if site.name in made:
                site.disks.update(made[site.name].disks)
    shown = {step.order.slot: _shown(session, site, step) for site in sites for step in steps[site.name]}
    for site in sites:
        for step in steps[site.name]:
            if step.move is not None and ("move", step.order.want.what) in counts:
                shown[step.order.slot]["moved"] = {
                    "from": step.move.source.name,
                    **counts["move", step.order.want.what],
                }
    return {
        **joined.to_result(),
        **costs,
        "disks": with_targets([shown[o.slot] for o in ordered], [o.want for o in ordered]),
    }


def _is_new(order: Order, standing: Mapping[Slot, Sequence[str]]) -> bool:
    """Whether a disk that is missing in its pool was found in no other. For a flavor all pools were looked into."""
    return order.slot not in standing and order.flavor is None


def _found(session: Session, ordered: Sequence[Order]) -> tuple[list[Site], dict[Slot, list[str]], list[Plan]]:
    """The pools of the task, the other pools that its disks stand in, and what was left to do of moves that were broken
    off: a run does that first, since nothing else can be told before; a check run looks as if it had been done."""
    sites = look(session, ordered)
    standing = elsewhere(session, sites)
    left = broken_off(session, sites, standing)
    if left and not session.check_mode:
        settle_left(session, left)
        sites = look(session, ordered)
    for site in sites if left else ():
        for slot in superseded(left, site.name):
            site.disks.pop(slot, None)
    if left:
        gone = {name: superseded(left, name) for name in session.names()}
        standing = {
            slot: names
            for slot, all_names in elsewhere(session, sites).items()
            if (names := [name for name in all_names if slot not in gone[name]])
        }
    return sites, standing, [each.plan() for each in left]


def _steps(session: Session, site: Site, standing: Mapping[Slot, Sequence[str]]) -> Iterator[Step]:
    """What is to be done in one pool, disk by disk. Pure but for what has to be looked up."""
    users = _users_in_the_way(session, site)
    moves = moves_into(session, site, standing)
    for order in site.orders:
        want, seen = order.want, site.disks.get(order.slot)
        if order.slot in moves:
            yield Step(order, moves[order.slot].plan(want), None, None, moves[order.slot])
            continue
        if seen is None or seen.stat is None:
            made = recipe(session, site, order)
            _check_discard(site, want, made.wish)
            yield Step(order, plan(want, None, made.offer), None, made)
            continue
        found = _as_found(session, site, seen, want, users.get(order.slot, ""))
        _check_discard(site, want, seen.disk)
        stocked, thick = site.stock.get(want.content), site.pool is not None and site.pool.capabilities.thick
        offer = Offer(stocked.size, name=stocked.image.name, thick=thick) if stocked is not None else Offer(thick=thick)
        made_anew = recipe(session, site, order) if want.replace else None
        offer = made_anew.offer if made_anew is not None else offer
        yield Step(order, plan(want, found, offer), seen, made_anew)


def _check_discard(site: Site, want: Wanted, disk: Disk | DiskWish) -> None:
    """Raise BadInput where the disk, as it stands or as it will be, must not be used as it is asked for."""
    if site.pool is not None:
        offered = site.pool.capabilities
        format = disk.volume.format if isinstance(disk, Disk) else format_for(disk, offered)
        check_discard(want, format, offered.keeps_space)


def _as_found(session: Session, site: Site, seen: SeenDisk, want: Wanted, users: str) -> Found:
    """The disk as the plan wants to know it; ``seen`` has its volume."""
    stat, needs_image = seen.stat, seen.backing is not None
    if site.pool is None or stat is None:
        raise AssertionError
    to_flatten: int | None = 0
    if want.flattened and needs_image and not users:
        to_flatten = session.backend(site.pool).to_flatten(seen.disk.volume)
    return Found(stat.size, seen.disk.origin, needs_image, users, stat.allocated, to_flatten)


def _users_in_the_way(session: Session, site: Site) -> dict[Slot, str]:
    """Who uses the disks that may have to be flattened or replaced, which cannot be done to a disk in use."""
    pool = site.pool
    if pool is None:
        return {}
    at_stake = {
        order.slot: site.disks[order.slot]
        for order in site.orders
        if order.slot in site.disks
        and (order.want.replace or (order.want.flattened and site.disks[order.slot].backing is not None))
    }
    ended = session.run_all([users_of(pool, seen.disk.volume) for seen in at_stake.values()])
    first_error(ended)
    return {slot: each.value for slot, each in zip(at_stake, ended)}


def _shown(session: Session, site: Site, step: Step) -> Fields:
    """The disk as it is now; in check mode, as it would be."""
    seen = site.disks.get(step.order.slot)
    after = step.plan.after.get(step.order.want.what, {})
    if site.pool is not None and seen is None and step.move is not None:
        shown = step.move.foreseen(session, site.pool, after)
    elif site.pool is None or seen is None or (session.check_mode and step.does("replace")):
        shown = foreseen(site.name, step.order.want, step.recipe, after)
        shown["pool"] = None if site.name == UNMADE else site.name
    else:
        shown = describe(session, site.pool, seen)
        shown = changed(shown, after) if session.check_mode else shown
    if step.order.flavor is not None:
        shown["placement"] = step.order.placement or None
    return shown


def _apply(session: Session, site: Site, steps: Sequence[Step], counts: Counts) -> list[Ended]:
    """Carry out what is planned for one pool: templates first, then all disks side by side. One that fails leaves
    the others alone."""
    pool = site.pool
    due = [step for step in steps if step.plan.changed]
    if pool is None or not due:
        return []
    broken = _fill_templates(session, site, pool, due, counts)
    able = [step for step in due if not (step.recipe and step.recipe.template and step.recipe.template.key in broken)]
    tasks = [(pool, _provide(pool, step, counts)) for step in able]
    used = {site.stock[s.order.want.content].image.id for s in able if s.order.want.content in site.stock}
    now = session.now()
    uses = [(pool, _note_use(pool, each, now)) for each in sorted(used)]
    ended = session.work_in([*tasks, *uses, *attended(step.move for step in able if step.move)])
    return [*(Ended(error=error) for error in broken.values()), *ended]


def _fill_templates(
    session: Session, site: Site, pool: Pool, due: Sequence[Step], counts: Counts
) -> dict[str, Exception]:
    """Have the templates of new disks in the cache; gives the errors, by the key of the template. What making one takes
    counts for the first disk that is made of it."""
    wanted: dict[str, tuple[ImageWish, str]] = {}
    for step in due:
        if step.recipe and step.recipe.template:
            wanted.setdefault(step.recipe.template.key, (step.recipe.template, step.order.want.what))
    lacking = [each for key, each in wanted.items() if session.run(look_up(pool, key, site.listing)) is None]
    if not lacking:
        return {}
    ended = session.work(pool, [fill(pool, wish) for wish, _what in lacking])
    for (_wish, what), end in zip(lacking, ended):
        if end.error is None:
            counts["make", what] = taken(end.value.facts)
    return {wish.key: end.error for (wish, _what), end in zip(lacking, ended) if end.error is not None}


async def _note_use(pool: Pool, image_id: str, now: str) -> None:
    await pool.records.note(image_id, "use", {"at": now})


async def _provide(pool: Pool, step: Step, counts: Counts) -> None:
    """One disk, as its plan says; what that took is put into ``counts``."""
    disk, what = step.seen.disk if step.seen is not None else None, step.order.want.what
    try:
        if step.does("replace") and disk is not None:
            await delete(pool, disk)
            disk = None
        if disk is None and step.recipe is not None:
            made = await make(pool, step.recipe.wish)
            disk = made.disk
            counts.setdefault(("replace" if step.does("replace") else "make", what), taken(made.facts))
        if step.move is not None:
            came = await step.move.carry_out(pool)
            disk, counts["move", what] = came.disk, taken(came.facts)
        if disk is not None and step.does("grow"):
            await grow(pool, disk, step.order.want.bytes)
        if disk is not None and step.does("flatten"):
            amount = await flatten(pool, disk)
            counts["flatten", what] = taken({"bytes_read": amount, "bytes_written": amount})
    except StorageError as error:
        want = step.order.want
        error.facts.setdefault("disk", f"{want.role} of {want.instance}")
        if want.instance not in error.message:
            told = f"The {want.what} is not as it was asked for: {error.message}"
            raise type(error)(told, **error.facts) from error
        raise
