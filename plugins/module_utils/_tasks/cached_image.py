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
from .._ground.errors import LostMetadata, NewerSchema, StorageError
from .._policy.plan import Action, Fields, Plan
from .._policy.sizes import counted, in_words
from .._records.types import Image, State, is_id
from . import cache_policy
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
    pools = session.open_all(params["pools"] or ())
    images = [image for pool in pools for image in session.run(describe_all(session, pool))]
    return {"changed": False, "images": images, "warnings": session.warnings}


# present


@dataclass(frozen=True)
class Standing:
    """What a pool has for a wanted image: ``image`` that serves, what the ``name`` stands for now, and its pin."""

    image: Image | None = None
    named: Image | None = None
    pinned: bool = False


@dataclass(frozen=True)
class Site:
    """One pool of the task, what it has for each wanted image, and how that would come in. ``pool`` is None where
    check mode has none."""

    name: str
    pool: Pool | None
    standings: Sequence[Standing]
    routes: Sequence[Route]


def _present(session: Session, params: Fields) -> Fields:
    names = pool_names(params)
    wanted = wanted_images(session, params)
    sites = [_look(session, name, wanted) for name in names]
    plans = plan(wanted, sites)
    joined = Plan.join(plans.values())
    if joined.changed and not session.check_mode:
        _carry_out(session, wanted, sites, plans)
        sites = [_look(session, name, wanted) for name in names]
    shown = [
        _show(session, site, want, standing, sorted(other.name for other in wanted if other.key == want.key))
        for site in sites
        for want, standing in zip(wanted, site.standings)
    ]
    return {**joined.to_result(), "images": shown}


def plan(wanted: Sequence[Wanted], sites: Sequence[Site]) -> dict[tuple[str, str], Plan]:
    """The steps that give every pool every wanted image, by the names of both. Pure.

    A source is read once for all pools that need it, and for one name; other names share its image.
    """
    plans = {}
    for number, site in enumerate(sites):
        brought: dict[str, str] = {}
        for place, (want, standing) in enumerate(zip(wanted, site.standings)):
            if standing.image is not None:
                steps = _plan_label(site.name, want, standing)
            elif brought.setdefault(want.key, want.name) != want.name:
                steps = _plan_share(site.name, want, standing, brought[want.key])
            else:
                ready = [other.name for other in sites if other.standings[place].image is not None]
                readers = [other.name for other in sites[:number] if other.routes[place].strategy == "source"]
                steps = _plan_fill(site.name, want, standing, _Ways(site.routes[place], ready[:1], readers[:1]))
            plans[site.name, want.name] = steps
    return plans


@dataclass(frozen=True)
class _Ways:
    """How an image can come into a pool: by itself, from a pool that has it, or by what is read for another one."""

    route: Route
    ready: Sequence[str]
    readers: Sequence[str]


def _plan_fill(pool: str, want: Wanted, have: Standing, ways: _Ways) -> Plan:
    what, route = f"image {want.name} in pool {pool}", ways.route
    amount = f", {in_words(want.source_size)}" if want.source_size else ""
    staged = f", kept in {route.staging} on its way" if route.staging else ""
    sentence = f"bring image {want.name} into pool {pool} ({want.spec.format} from {want.spec.shown}{amount}{staged})"
    strategy, reason, size = route.strategy, route.reason or None, want.source_size
    read = size
    if strategy == "clone":
        sentence = f"clone image {want.name} into pool {pool} from {want.spec.shown}"
    elif ways.ready:
        sentence = f"copy image {want.name} from pool {ways.ready[0]} into pool {pool}"
        strategy, reason = "sibling", f"pool {ways.ready[0]} has it, so that its source need not be read"
    elif ways.readers:
        sentence = f"bring image {want.name} into pool {pool} by what is read for pool {ways.readers[0]}"
        strategy, reason, read = "shared", f"its source is read once, for pool {ways.readers[0]}, too", 0
    action = Action("fill", what, sentence, bytes_to_read=read, bytes_to_write=size, strategy=strategy, reason=reason)
    return Plan((action,), *_difference(what, want, have))


def _plan_share(pool: str, want: Wanted, have: Standing, name: str) -> Plan:
    """What another name of the task brings in is what this name is to stand for, too."""
    what = f"image {want.name} in pool {pool}"
    action = Action("label", what, f"let the name {want.name} in pool {pool} stand for what {name} brings in")
    return Plan((action,), *_difference(what, want, have))


def _difference(what: str, want: Wanted, have: Standing) -> tuple[dict[str, Fields], dict[str, Fields]]:
    """What is before and after, where the name comes to stand for an image that is not there yet."""
    before: Fields = {"key": have.named.key} if have.named else {}
    after: Fields = {"key": want.key} if have.named else {"key": want.key, "state": "ready"}
    if want.pinned is not None and want.pinned != have.pinned:
        after["pinned"] = want.pinned
        if have.named:
            before["pinned"] = have.pinned
    return {what: before} if before else {}, {what: after}


def _plan_label(pool: str, want: Wanted, have: Standing) -> Plan:
    """What is left to do for an image that is there: its name, its pin."""
    what = f"image {want.name} in pool {pool}"
    actions = []
    before: Fields = {}
    after: Fields = {}
    if have.image is not None and have.image != have.named:
        actions.append(Action("label", what, f"let the name {want.name} in pool {pool} stand for {have.image.id}"))
        before["id"], after["id"] = have.named.id if have.named else None, have.image.id
    if want.pinned is not None and want.pinned != have.pinned:
        word = "pin" if want.pinned else "unpin"
        actions.append(Action(word, what, f"{word} image {want.name} in pool {pool}"))
        before["pinned"], after["pinned"] = have.pinned, want.pinned
    return Plan(tuple(actions), {what: before} if before else {}, {what: after} if after else {})


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
    session: Session, wanted: Sequence[Wanted], sites: Sequence[Site], plans: Mapping[tuple[str, str], Plan]
) -> None:
    """Do what the plans say, in all pools side by side. An error tells under ``done`` what was done."""
    siblings = _siblings(session, wanted, sites)
    jobs = [
        Job(site.pool, want, have, siblings.get(want.name), plans[site.name, want.name])
        for site in sites
        for want, have in zip(wanted, site.standings)
        if site.pool is not None and plans[site.name, want.name].changed
    ]
    done: list[str] = []
    for turn in _by_turns(jobs):
        ended = session.work_in([(job.pool, _provide(session, job)) for job in turn])
        for job, end in zip(turn, ended):
            if end.error is None:
                done += [action.sentence for action in job.plan.actions]
            elif isinstance(end.error, StorageError):
                end.error.facts.setdefault("done", done)
        first_error(ended)


@dataclass(frozen=True)
class Job:
    """What one pool needs done for one image; ``sibling`` is that image in a pool that has it, as a source."""

    pool: Pool
    want: Wanted
    have: Standing
    sibling: Sibling | None
    plan: Plan


def _siblings(session: Session, wanted: Sequence[Wanted], sites: Sequence[Site]) -> dict[str, Sibling]:
    """For each image that a pool of the task has already, that as a source: the same one for all the others."""
    found: dict[str, Sibling] = {}
    for site in sites:
        for want, have in zip(wanted, site.standings):
            if site.pool is not None and have.image is not None and want.name not in found:
                sibling = session.run(_sibling(session, site.pool, have.image))
                if sibling is not None:
                    found[want.name] = sibling
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


async def _provide(session: Session, job: Job) -> None:
    """One image, ready in its pool and under its name."""
    pool, want, image = job.pool, job.want, job.have.image
    if image is None:
        content = want.content
        if job.sibling is not None and session.backend(pool).route(content).strategy == "source":
            content = job.sibling
        image = (await fill(pool, ImageWish(want.key, want.name, content, want.spec.shown))).image
    pinned = job.have.pinned if want.pinned is None else want.pinned
    await label(pool, want.name, image, want.identity, pinned)


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
    plans, staying = [], []
    for name in pool_names(params):
        pool = session.open(name, make=False)
        if pool is None:
            continue
        found = session.run(_leaving(pool, wanted))
        going = [each for each in found if absent_plan(name, each).changed]
        plans += [absent_plan(name, each) for each in going]
        if going and not session.check_mode:
            first_error(session.work(pool, [_give_up(pool, each) for each in going]))
        named = session.run(labels(pool))
        for each in found:
            if each.kept or each.seen.references:
                retired = not each.kept and each.seen.state is State.READY
                after = replace(each.seen, state=State.RETIRED) if retired else each.seen
                left = {label: facts for label, facts in named.items() if label not in each.dropped}
                staying.append(describe(session, pool, after, left))
    return {**Plan.join(plans).to_result(), "images": staying}


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
        count = counted(len(seen.references), "disk")
        sentence = f"retire {what}: {count} {stand} on it, so its data stays"
        return Plan((Action("retire", what, sentence),), {what: {"state": "ready"}}, {what: {"state": "retired"}})
    freed = seen.stat.allocated if seen.stat else 0
    sentence = f"remove {what}, which frees {in_words(freed)}"
    return Plan((Action("remove", what, sentence),), {what: {"state": str(seen.state)}}, {})


async def _leaving(pool: Pool, wanted: Sequence[str]) -> list[Leaving]:
    """The images, in use or out of it, that are meant by ``wanted``: names, ids and keys.

    A name means the image that it stands for, and those that were brought in under it before a refresh. Raises
    LostMetadata where the record of one cannot be read: it is not gone for that.
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
    for record_id in broken:
        if record_id in wanted or names.intersection(names_of(record_id, named)):
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
