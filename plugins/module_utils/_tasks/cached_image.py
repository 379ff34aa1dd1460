# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""The tasks of `cached_image` and `cached_image_info`: images brought in, taken out, described."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from .._algorithms.cache import ImageWish, fill, look_up, retire
from .._algorithms.pool import Pool
from .._algorithms.survey import SeenImage, image_named, label, labels, listing_of, unlabel
from .._backends.contract import Route
from .._ground.contents import Sibling
from .._ground.costs import UNKNOWN
from .._ground.errors import LostMetadata, NewerSchema, StorageError
from .._ground.ops import Facts
from .._policy.plan import Action, Fields, Plan
from .._policy.sizes import counted as several
from .._policy.sizes import in_words
from .._records.types import Image, State, is_id, key_hash, taken_apart
from . import cache_policy
from .costs import Counts, counted, foretold, taken
from .image_plan import Site, Standing, Supply, plan
from .image_result import describe, describe_all, describe_one, foresee, names_of, seen_images
from .image_wishes import Wanted, image_references, pool_names, wanted_images
from .session import Session, first_error

LEAVING = frozenset({State.RETIRED, State.QUARANTINED, State.DELETING})
"""States of an image that is out of use and has not gone yet."""


def task(params: Fields, check_mode: bool) -> Fields:
    """Bring the image caches of pools into the wished state; gives the result of `cached_image`."""
    states = {
        "present": _present,
        "absent": _absent,
        "pruned": cache_policy.pruned,
        "verified": cache_policy.verified,
    }
    session = Session(params["uri"], check_mode)
    result = states[params["state"]](session, params)
    return {**result, "warnings": session.warnings}


def info(params: Fields, check_mode: bool) -> Fields:
    """Describe the cached images of pools; gives the result of `cached_image_info`. Only reads."""
    session = Session(params["uri"], check_mode, reads=True)
    images, unseen = session.tell(params["pools"] or (), lambda pool: list(session.run(describe_all(session, pool))))
    return {"changed": False, "images": images, "unseen": unseen, "warnings": session.warnings}


# present


def _present(session: Session, params: Fields) -> Fields:
    names = pool_names(params)
    wanted = wanted_images(session, params)
    sites = [_look(session, name, wanted) for name in names]
    siblings = _siblings(session, wanted, sites)
    plans = plan(wanted, sites, _supplies(session, wanted, sites, siblings))
    joined = Plan.join(plans.values())
    costs = foretold(session, joined)
    if joined.changed and not session.check_mode:
        costs.update(counted(joined, _carry_out(session, wanted, sites, plans, siblings)))
        sites = [_look(session, name, wanted) for name in names]
    shown = [
        _show(session, site, want, standing, sorted(other.name for other in wanted if other.key == want.key))
        for site in sites
        for want, standing in zip(wanted, site.standings)
    ]
    return {**joined.to_result(), **costs, "images": shown}


def _look(session: Session, name: str, wanted: Sequence[Wanted]) -> Site:
    pool = session.open(name)
    if pool is None:
        return Site(name, None, [Standing() for _unused in wanted], [Route() for _unused in wanted])
    backend = session.backend(pool)
    routes = [backend.route(want.content) if want.is_known else Route() for want in wanted]
    return Site(name, pool, session.run(_standings(pool, wanted)), routes)


async def _standings(pool: Pool, wanted: Sequence[Wanted]) -> list[Standing]:
    """What the pool has, one look for all. What the name stands for comes first: after a refresh that found other
    bytes, the image under the source's own key is an old one."""
    listing, named = await listing_of(pool), await labels(pool)
    found = []
    for want in wanted:
        facts = named.get(want.name, {})
        now = image = None
        with contextlib.suppress(LostMetadata, NewerSchema):  # no image to use; state=verified tells of it
            now = await image_named(pool, want.name, listing, named)
        if now is not None:
            seal = (await pool.records.notes(now.id)).get("seal", {})
            image = now if want.served_by(now, dict(seal), str(facts.get("identity", ""))) else None
        if image is None:
            image = await look_up(pool, want.key, listing)
        found.append(Standing(image, now, bool(facts.get("pinned"))))
    return found


def _carry_out(
    session: Session,
    wanted: Sequence[Wanted],
    sites: Sequence[Site],
    plans: Mapping[tuple[str, str], Plan],
    siblings: Mapping[str, tuple[str, Sibling]],
) -> Counts:
    """Do what the plans say, in all pools side by side; gives what that took. An error tells under ``done`` what was
    done."""
    jobs = [
        Job(
            site.pool,
            want,
            have,
            siblings[want.name][1] if want.name in siblings else None,
            plans[site.name, want.name],
        )
        for site in sites
        for want, have in zip(wanted, site.standings)
        if site.pool is not None and plans[site.name, want.name].changed
    ]
    done: list[str] = []
    counts = Counts()
    for turn in _by_turns(jobs):
        ended = session.work_in([(job.pool, _provide(session, job)) for job in turn])
        for job, end in zip(turn, ended):
            if end.error is None:
                done += [action.sentence for action in job.plan.actions]
                counts.update({(each.verb, each.what): end.value for each in job.plan.actions if each.verb == "fill"})
            elif isinstance(end.error, StorageError):
                end.error.facts.setdefault("done", done)
        first_error(ended)
    return counts


@dataclass(frozen=True)
class Job:
    """What one pool needs done for one image; ``sibling`` is that image in a pool that has it, as a source."""

    pool: Pool
    want: Wanted
    have: Standing
    sibling: Sibling | None
    plan: Plan


def _siblings(session: Session, wanted: Sequence[Wanted], sites: Sequence[Site]) -> dict[str, tuple[str, Sibling]]:
    """For each image that a pool of the task has already, and another one lacks, that pool's name and the image as a
    source: the same one for all the others."""
    found: dict[str, tuple[str, Sibling]] = {}
    lacking = _lacking(wanted, sites)
    for site in sites:
        for want, have in zip(wanted, site.standings):
            if site.pool is not None and have.image is not None and want.name in lacking.difference(found):
                sibling = session.run(_sibling(session, site.pool, have.image))
                if sibling is not None:
                    found[want.name] = site.name, sibling
    return found


def _lacking(wanted: Sequence[Wanted], sites: Sequence[Site]) -> set[str]:
    """The images that a pool of the task does not have."""
    return {want.name for site in sites for want, have in zip(wanted, site.standings) if have.image is None}


def _supplies(
    session: Session, wanted: Sequence[Wanted], sites: Sequence[Site], siblings: Mapping[str, tuple[str, Sibling]]
) -> dict[str, Supply]:
    """What those images can be had for that a pool lacks."""
    runner, lacking = session.around.runner, _lacking(wanted, sites)
    found = {}
    for want in wanted:
        if want.name not in lacking:
            continue
        source, sibling = UNKNOWN, siblings.get(want.name)
        with contextlib.suppress(StorageError):  # why it cannot be read is told when it is
            source = want.content.cost(runner) if want.is_known else UNKNOWN
        found[want.name] = Supply(source, (sibling[0], sibling[1].cost(runner)) if sibling is not None else None)
    return found


def _by_turns(jobs: Sequence[Job]) -> list[list[Job]]:
    """What can be done side by side. Of names that bring one image into a pool the others come after the first, and
    find it."""
    first: list[Job] = []
    after: list[Job] = []
    keys = set()
    for job in jobs:
        key = (job.pool.name, job.want.key)
        (after if job.have.image is None and key in keys else first).append(job)
        keys.add(key)
    return [turn for turn in (first, after) if turn]


async def _provide(session: Session, job: Job) -> Fields:
    """One image, ready in its pool and under its name; gives what that took."""
    pool, want, image = job.pool, job.want, job.have.image
    facts: Facts = {}
    if image is None:
        content = want.content
        if job.sibling is not None and session.backend(pool).route(content).strategy == "source":
            content = job.sibling
        cached = await fill(pool, ImageWish(want.key, want.name, content, want.spec.shown))
        image, facts = cached.image, cached.facts
    pinned = job.have.pinned if want.pinned is None else want.pinned
    await label(pool, want.name, image, want.identity, pinned)
    return taken(facts)


async def _sibling(session: Session, pool: Pool, image: Image) -> Sibling | None:
    """The image of another pool as a source; None where nobody could tell whether it is sound."""
    seal = (await pool.records.notes(image.id)).get("seal", {})
    if not seal.get("content"):
        return None
    reading = partial(session.backend(pool).reading, image.volume)
    return Sibling(reading, session.path(pool, image.volume), seal)


def _show(session: Session, site: Site, want: Wanted, standing: Standing, names: list[str]) -> Fields:
    """A wanted image as it is now; in check mode, as it would be. ``names`` are those of the task that mean it."""
    if site.pool is None or standing.image is None:
        return foresee(site.name, want, names)
    shown: Fields = session.run(describe_one(session, site.pool, standing.image.id))
    pinned = standing.pinned if want.pinned is None else want.pinned
    return {**shown, "name": want.name, "names": sorted({*names, *shown["names"]}), "pinned": pinned}


# absent


@dataclass(frozen=True)
class Leaving:
    """An image that a task names. ``dropped`` are the names that stand for it no more, ``kept`` those that go on to,
    and for whose sake the image stays."""

    seen: SeenImage
    dropped: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()


def _absent(session: Session, params: Fields) -> Fields:
    wanted = image_references(params)
    opened = [session.open(name, make=False) for name in pool_names(params)]
    meant = [(pool, session.run(_leaving(pool, wanted))) for pool in opened if pool is not None]
    joined = Plan.join(absent_plan(pool.name, each) for pool, found in meant for each in found)
    costs, staying = foretold(session, joined), []
    for pool, found in meant:
        going = [each for each in found if absent_plan(pool.name, each).changed]
        if going and not session.check_mode:
            first_error(session.work(pool, [_give_up(pool, each) for each in going]))
        named = session.run(labels(pool))
        for each in found:
            if each.kept or each.seen.references:
                retired = not each.kept and each.seen.state is State.READY
                after = replace(each.seen, state=State.RETIRED) if retired else each.seen
                left = {label: facts for label, facts in named.items() if label not in each.dropped}
                staying.append(describe(session, pool, after, left))
    costs.update({} if session.check_mode else counted(joined, Counts()))
    return {**joined.to_result(), **costs, "images": staying}


def absent_plan(pool: str, leaving: Leaving) -> Plan:
    """The steps that take an image out of use. Pure. None for one that is out of use, and kept by disks."""
    seen = leaving.seen
    what = f"{seen.image.id} in pool {pool}"
    if leaving.kept:
        if not leaving.dropped:
            return Plan()
        gone, stays = " and ".join(leaving.dropped), " and ".join(leaving.kept)
        names = {"names": sorted([*leaving.dropped, *leaving.kept])}
        action = Action("unlabel", what, f"take the name {gone} from {what}, which stays as {stays}")
        return Plan((action,), {what: names}, {what: {"names": list(leaving.kept)}})
    if seen.references:
        if seen.state is not State.READY:
            return Plan()
        stand = "stands" if len(seen.references) == 1 else "stand"
        count = several(len(seen.references), "disk")
        sentence = f"retire {what}: {count} {stand} on it, so its data stays"
        return Plan((Action("retire", what, sentence),), {what: {"state": "ready"}}, {what: {"state": "retired"}})
    freed = seen.stat.allocated if seen.stat else 0
    action = Action("remove", what, f"remove {what}, which frees {in_words(freed)}", takes={pool: -freed})
    return Plan((action,), {what: {"state": str(seen.state)}}, {})


async def _leaving(pool: Pool, wanted: Sequence[str]) -> list[Leaving]:
    """The images, in use or out of it, that are meant by ``wanted``: names, ids and keys.

    A name means the image that it stands for, and those that were brought in under it before a refresh. Raises
    LostMetadata where the record of one, as its id tells, cannot be read: it is not gone for that.
    """
    listing, named = await listing_of(pool), await labels(pool)
    names = {each for each in wanted if ":" not in each and not is_id(each)}
    found = []
    broken: dict[str, str] = {}
    for seen in await seen_images(pool, listing, broken):
        record = seen.image
        if seen.state is not State.READY and seen.state not in LEAVING:
            continue
        names_now = names_of(record.id, named)
        if record.id in wanted or record.key in wanted:
            found.append(Leaving(seen, tuple(names_now)))
        elif record.name in names or names.intersection(names_now):
            kept = tuple(name for name in names_now if name not in names and seen.state is State.READY)
            found.append(Leaving(seen, tuple(name for name in names_now if name not in kept), kept))
    keys = {key_hash(each) for each in wanted if ":" in each}
    for record_id in broken:
        part = taken_apart(record_id)
        means = {part.image, *names_of(record_id, named)}
        if record_id in wanted or part.key_hash in keys or names.intersection(means):
            raise LostMetadata(
                f"The image {record_id} of pool {pool.name} has a record that cannot be read, so it is left as it is: "
                "bring the record back from a backup or, where no disk needs the image, remove both by hand.",
                id=record_id,
            )
    return found


async def _give_up(pool: Pool, leaving: Leaving) -> None:
    """Carry out what ``absent_plan`` says for one image."""
    if not leaving.kept:
        await retire(pool, leaving.seen.image, leaving.seen.state)
    for name in leaving.dropped:
        await unlabel(pool, name)
