# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""`cached_image` with ``state: pruned`` and ``state: verified``: what a cache keeps, and whether it is sound."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone

from .._algorithms.cache import Disposed, retire
from .._algorithms.pool import Pool
from .._algorithms.reclaim import Debris, Reclaimed, find_debris, reclaim
from .._algorithms.survey import ABOUT_POOL, SeenImage, labels, listing_of
from .._ground.errors import BadInput, LostMetadata, NotFound, StorageError
from .._policy.eviction import CachedImage, Limits, Verdict, judge, parse_limits, shortfall
from .._policy.plan import Action, Fields, Plan
from .._policy.sizes import counted, in_words
from .._records.types import State
from .costs import foretold
from .image_result import Labels, describe, is_pinned, names_of, seen_images
from .image_wishes import image_references, pool_names
from .session import Session

TAKING_ROOM = frozenset({State.READY, State.RETIRED, State.QUARANTINED})
"""States in which an image takes up room that a limit is about."""


# pruned


@dataclass(frozen=True)
class Cache:
    """One pool's cache: its images with a verdict on each, and the records that ought to end before that, with the
    bytes that this frees, by id."""

    pool: Pool
    limits: Limits
    images: Sequence[SeenImage]
    verdicts: Sequence[Verdict]
    debris: Sequence[Debris]
    freed: Mapping[str, int]


@dataclass
class Pruned:
    """What pruning a cache came to: the verdicts as they turned out, and what was cleared or left, in sentences."""

    verdicts: list[Verdict]
    cleared: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


def pruned(session: Session, params: Fields) -> Fields:
    """Clear what dead work left, and give up what the limits do not allow."""
    stated, wanted = parse_limits(params["cache"] or {}), params["keep"] or ()
    plans: list[Plan] = []
    told: dict[str, Fields] = {}
    fills: list[Fields] = []
    for name in pool_names(params):
        pool = session.open(name, make=False)
        if pool is None:
            told[name] = _told(Pruned([]), Limits())
            continue
        cache = session.run(_survey(pool, stated, wanted))
        steps = prune_plan(cache)
        fills += foretold(session, steps)["fill_after"]
        outcome = _foreseen(cache)
        if steps.changed and not session.check_mode:
            outcome = _prune(session, cache)
        plans.append(steps)
        told[name] = _told(outcome, cache.limits)
        session.warnings += [f"The cache of pool {name} is over its limits: {unmet}." for unmet in told[name]["unmet"]]
    return {**Plan.join(plans).to_result(), "fill_after": fills, "pruned": told}


def prune_plan(cache: Cache) -> Plan:
    """The steps that bring a cache within its limits. Pure."""
    pool = cache.pool.name
    actions = [
        Action(
            "reclaim",
            f"pool {pool}",
            f"{each.sentence}, in pool {pool}",
            takes={pool: -cache.freed.get(each.record_id, 0)},
        )
        for each in cache.debris
        if each.due
    ]
    before = {}
    for verdict in cache.verdicts:
        if verdict.goes:
            what = f"{verdict.image.id} in pool {pool}"
            sentence = f"remove {what}, which frees {in_words(verdict.image.bytes)}"
            actions.append(Action("evict", what, sentence, reason=verdict.why, takes={pool: -verdict.image.bytes}))
            before[what] = {"state": "ready"}
    return Plan(tuple(actions), before, {})


async def _survey(pool: Pool, stated: dict[str, int], wanted: Sequence[str]) -> Cache:
    """What is in the cache, and what should become of it. What reclaiming frees counts as free already."""
    kept = (await pool.records.notes(ABOUT_POOL)).get("config", {}).get("limits")
    _capacity, free = await pool.volumes.capacity()
    debris = await find_debris(pool)
    leaving = {each.record_id: each.record for each in debris if each.due}
    named = await labels(pool)
    images = []
    for seen in await seen_images(pool, await listing_of(pool)):
        if seen.image.id in leaving and seen.references:
            del leaving[seen.image.id]  # it is retired, and its data stays
        if seen.state in TAKING_ROOM and seen.image.id not in leaving:
            images.append(seen)
    freed = {}
    for record_id, record in leaving.items():
        stat = await pool.volumes.stat(record.volume) if record is not None and not record.volume.adopted else None
        freed[record_id] = stat.allocated if stat is not None else 0
    limits = Limits(free=free + sum(freed.values()), **{**_kept_limits(pool, kept), **stated})
    own: dict[str, dict[str, Fields]] = {}
    for name, facts in named.items():
        own.setdefault(str(facts.get("id")), {})[name] = dict(facts)
    judged = [_as_policy(seen, own.get(seen.image.id, {})) for seen in images]
    verdicts = judge(judged, limits, wanted, time.time())
    return Cache(pool, limits, images, verdicts, debris, freed)


def _kept_limits(pool: Pool, kept: object) -> dict[str, int]:
    """The limits that the pool keeps about itself. Raises LostMetadata for what is none: without one, images would stay
    or go that should not."""
    if kept is None:
        return {}
    try:
        if isinstance(kept, dict):
            return parse_limits(kept)
        why = "What it keeps are no limits by name."
    except BadInput as error:
        why = error.message
    raise LostMetadata(f"Pool {pool.name} keeps a limit of its cache that is none, set it with libvirt_pool: {why}")


def _prune(session: Session, cache: Cache) -> Pruned:
    """Carry out what ``prune_plan`` says, one part after the other: reclaiming would finish what giving up has begun,
    and tell it as its own. What cannot go now stays, and is told."""
    done = Reclaimed()
    if any(each.due for each in cache.debris):
        (ended,) = session.work(cache.pool, [reclaim(cache.pool)])
        done = ended.unwrap()
    outcome = Pruned(list(cache.verdicts), done.cleared, done.left or _foreseen(cache).left)
    going = [number for number, verdict in enumerate(cache.verdicts) if verdict.goes]
    tasks = [retire(cache.pool, cache.images[number].image, cache.images[number].state) for number in going]
    ends = session.work(cache.pool, tasks) if tasks else []
    for number, end in zip(going, ends):
        why = ""
        if isinstance(end.error, StorageError):
            why = end.error.message
            outcome.left.append(why)
        elif isinstance(end.value, Disposed) and not end.value.removed:
            why = f"{counted(len(end.value.kept_by), 'disk')} on it"
        if why:
            outcome.verdicts[number] = Verdict(outcome.verdicts[number].image, False, why)
    return outcome


def _foreseen(cache: Cache) -> Pruned:
    cleared = [each.sentence for each in cache.debris if each.due]
    return Pruned(list(cache.verdicts), cleared, [each.sentence for each in cache.debris if not each.due])


def _as_policy(seen: SeenImage, named: Labels) -> CachedImage:
    used = seen.facts["use"].get("at") if "use" in seen.facts else seen.image.created
    return CachedImage(
        id=seen.image.id,
        names=tuple(names_of(seen.image.id, named)),
        bytes=seen.stat.allocated if seen.stat else 0,
        used=_seconds(str(used)),
        references=len(seen.references),
        pinned=is_pinned(seen.image.id, named),
        state=str(seen.state),
    )


def _seconds(moment: str) -> float:
    """Seconds since the epoch; a moment that cannot be read counts as now, so that nothing goes for it."""
    try:
        return datetime.strptime(moment, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=timezone.utc).timestamp()
    except ValueError:
        return time.time()


def _told(outcome: Pruned, limits: Limits) -> Fields:
    def shown(verdict: Verdict) -> Fields:
        return {"id": verdict.image.id, "names": list(verdict.image.names), "bytes": verdict.image.bytes}

    return {
        "removed": [{**shown(verdict), "reason": verdict.why} for verdict in outcome.verdicts if verdict.goes],
        "kept": [{**shown(verdict), "why": verdict.why} for verdict in outcome.verdicts if not verdict.goes],
        "frees": sum(verdict.image.bytes for verdict in outcome.verdicts if verdict.goes),
        "cached": sum(verdict.image.bytes for verdict in outcome.verdicts if not verdict.goes),
        "cleared": outcome.cleared,
        "left": outcome.left,
        "unmet": shortfall(outcome.verdicts, limits),
    }


# verified


def verified(session: Session, params: Fields) -> Fields:
    """Read images anew and compare their digests. One that differs is quarantined: kept, and never cloned again."""
    wanted = image_references(params) if params["images"] else []
    plans, problems, shown = [], [], []
    for name in pool_names(params):
        pool = session.open(name, make=False)
        if pool is None:
            _tell_missing(session, name, set(wanted))
            continue
        look: ToVerify = session.run(_to_verify(pool, wanted))
        _tell_missing(session, name, look.missing)
        problems += look.problems
        for seen in look.images:
            problem, digest = session.run(_verify(pool, seen))
            if problem is not None:
                problems.append(problem)
            steps = verify_plan(name, seen, problem)
            plans.append(steps)
            if not session.check_mode:
                session.run(_conclude(pool, seen, problem, digest))
            after = replace(seen, state=State.QUARANTINED) if steps.changed else seen
            shown.append({**describe(session, pool, after, look.named), "sound": problem is None})
    result = {**Plan.join(plans).to_result(), "problems": problems, "images": shown}
    if problems:
        result.update(failed=True, msg=" ".join(problem["message"] for problem in problems))
    return result


@dataclass
class ToVerify:
    """The images of a pool that have to be read, the names that stand for any, the problems that can be told without
    reading, and what is wanted and not there."""

    images: list[SeenImage] = field(default_factory=list)
    named: Labels = field(default_factory=dict)
    problems: list[Fields] = field(default_factory=list)
    missing: set[str] = field(default_factory=set)


async def _to_verify(pool: Pool, wanted: Sequence[str]) -> ToVerify:
    listing = await listing_of(pool)
    broken: dict[str, str] = {}
    look = ToVerify(named=await labels(pool), missing=set(wanted))
    for seen in await seen_images(pool, listing, broken):
        means = {seen.image.id, seen.image.key, *names_of(seen.image.id, look.named)}
        look.missing -= means
        if wanted and not means.intersection(wanted):
            continue
        if seen.state is State.READY or (seen.state is State.RETIRED and seen.references):
            look.images.append(seen)
        elif seen.state is State.QUARANTINED:
            look.problems.append(_problem(pool, seen.image.id, "quarantined", f"is quarantined; {_affected(seen)}"))
    for record_id, message in broken.items():
        if not wanted or record_id in wanted:
            look.missing.discard(record_id)
            problem = {"pool": pool.name, "id": record_id, "problem": "record_damaged", "message": message}
            look.problems.append(problem)
    return look


def _tell_missing(session: Session, pool: str, missing: set[str]) -> None:
    if missing:
        names = " and no image ".join(sorted(missing))
        message = f"Pool {pool} has no image {names}: bring it in, or leave it out of images."
        if not session.check_mode:
            raise NotFound(message)
        session.warnings.append(f"{message} Check mode goes on as if an earlier task did.")


async def _verify(pool: Pool, seen: SeenImage) -> tuple[Fields | None, str]:
    """What is wrong with the image, or None, and the digest of its data now. That is compared with the one taken while
    the data was written; of a clone of a snapshot none was, so the first that is taken counts."""
    if seen.stat is None:
        volume = seen.image.volume
        told = f"has no volume any more: bring {volume} back."
        return _problem(pool, seen.image.id, "volume_missing", told), ""
    seal = seen.facts.get("seal", {})
    if "content" not in seal and "parent" not in seal:
        told = "has no digest on record, so nobody can verify it."
        return _problem(pool, seen.image.id, "digest_missing", told), ""
    try:
        found = await pool.volumes.digest(seen.image.volume)
    except StorageError as error:
        return _problem(pool, seen.image.id, "unreadable", f"cannot be read: {error.message}"), ""
    expected = seal.get("content", found)
    if found == expected:
        return None, found
    told = f"does not hold what was written ({found}, not {expected}) and is not used any more; {_affected(seen)}"
    return _problem(pool, seen.image.id, "content_differs", told), found


def _problem(pool: Pool, record_id: str, code: str, told: str) -> Fields:
    message = f"The image {record_id} of pool {pool.name} {told}"
    return {"pool": pool.name, "id": record_id, "problem": code, "message": message}


def _affected(seen: SeenImage) -> str:
    count = len(seen.references)
    stand = "stands" if count == 1 else "stand"
    what = f"{counted(count, 'disk')} {stand} on it and may be damaged" if count else "no disk stands on it"
    return f"{what}: remove it with state=absent, and bring it in anew."


def verify_plan(pool: str, seen: SeenImage, problem: Fields | None) -> Plan:
    """The steps that an image's verification asks for. Pure."""
    if problem is None or problem["problem"] != "content_differs":
        return Plan()
    what = f"{seen.image.id} in pool {pool}"
    action = Action("quarantine", what, f"quarantine {what}, whose content is not what was written")
    return Plan((action,), {what: {"state": str(seen.state)}}, {what: {"state": str(State.QUARANTINED)}})


async def _conclude(pool: Pool, seen: SeenImage, problem: Fields | None, digest: str) -> None:
    """Note that the image is sound, or carry out ``verify_plan``."""
    seal = seen.facts.get("seal", {})
    if problem is None and "content" not in seal:
        await pool.records.note(seen.image.id, "seal", {**seal, "content": digest})
    if problem is None:
        await pool.records.note(seen.image.id, "verify", {"at": await pool.host.now()})
    elif problem["problem"] == "content_differs":
        await pool.records.swap(seen.image.id, seen.state, State.QUARANTINED)
