# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""`cached_image` with ``state: pruned`` and ``state: verified``: what a cache keeps, and whether it is sound."""

from __future__ import annotations

import time
from calendar import timegm
from collections.abc import Sequence

from .._algorithms.cache import retire
from .._algorithms.pool import Pool
from .._algorithms.reclaim import Reclaimed, find_debris, reclaim
from .._algorithms.survey import ABOUT_POOL, SeenImage, listing_of, see_image
from .._ground.errors import LostMetadata
from .._policy.eviction import CachedImage, Limits, Verdict, judge, shortfall
from .._policy.plan import Action, Fields, Plan
from .._policy.sizes import in_words
from .._records.types import State, taken_apart
from .session import Session, first_error

LIMITS = ("max_bytes", "max_count", "max_age", "min_free")


# pruned


def pruned(session: Session, params: Fields) -> Fields:
    """Clear what dead work left and give up what the limits do not allow. Works on a full pool: it writes no file
    but the names that removing needs."""
    plans, told = [], {}
    for name in dict.fromkeys(params["pools"]):
        pool = session.open(name)
        if pool is None:
            continue
        limits = session.run(_limits(pool, params["cache"] or {}))
        seen = session.run(_ready(pool))
        verdicts = judge([_as_policy(each) for each in seen], limits, params["keep"] or (), time.time())
        debris = session.run(find_debris(pool))
        going = [each for each, verdict in zip(seen, verdicts) if verdict.goes]
        done = Reclaimed([each.sentence for each in debris if each.due], [d.sentence for d in debris if not d.due])
        plans.append(_prune_plan(name, verdicts, done.cleared))
        if not session.check_mode and (going or done.cleared):
            ended = session.work(pool, [_prune(pool, going)])
            first_error(ended)
            done = ended[0].value
        told[name] = _told(verdicts, limits, done)
        session.warnings += [f"Pool {name}: {sentence}." for sentence in told[name]["unmet"]]
    return {**Plan.join(plans).to_result(), "pruned": told, "images": []}


async def _prune(pool: Pool, going: Sequence[SeenImage]) -> Reclaimed:
    done = await reclaim(pool)
    for each in going:
        await retire(pool, each.image, each.state)
    return done


async def _limits(pool: Pool, stated: Fields) -> Limits:
    """The task's own limits over those that the pool holds."""
    config = (await pool.records.notes(ABOUT_POOL)).get("config", {})
    kept = config.get("limits") if isinstance(config.get("limits"), dict) else {}
    values = {name: int(stated.get(name) or (kept or {}).get(name) or 0) for name in LIMITS}
    _capacity, free = await pool.volumes.capacity()
    return Limits(free=free, **values)


async def _ready(pool: Pool) -> list[SeenImage]:
    listing = await listing_of(pool)
    found = []
    for record_id, state in sorted(listing.states.items()):
        if state is State.READY and taken_apart(record_id).image:
            try:
                seen = await see_image(pool, record_id, listing, with_references=True)
            except LostMetadata:
                continue  # kept, and told by verified
            if seen is not None:
                found.append(seen)
    return found


def _as_policy(seen: SeenImage) -> CachedImage:
    used = seen.facts.get("use", {}).get("at") or seen.image.created
    return CachedImage(
        id=seen.image.id,
        name=seen.image.name,
        bytes=seen.stat.allocated if seen.stat else 0,
        used=_seconds(str(used)),
        references=len(seen.references),
        pinned=bool(seen.facts.get("pin", {}).get("pinned")),
    )


def _seconds(moment: str) -> float:
    """Seconds since the epoch; a moment that cannot be read counts as now, so that nothing goes for it."""
    try:
        return float(timegm(time.strptime(moment[:19], "%Y-%m-%dT%H:%M:%S")))
    except ValueError:
        return time.time()


def _prune_plan(pool: str, verdicts: Sequence[Verdict], cleared: Sequence[str]) -> Plan:
    actions = [Action("reclaim", f"pool {pool}", f"{sentence}, in pool {pool}") for sentence in cleared]
    before = {}
    for verdict in verdicts:
        if verdict.goes:
            what = f"image {verdict.image.id} in pool {pool}"
            freed = in_words(verdict.image.bytes)
            sentence = f"remove {what}, which frees {freed}"
            actions.append(Action("evict", what, sentence, reason=verdict.why))
            before[what] = {"state": "ready"}
    return Plan(tuple(actions), before, {})


def _told(verdicts: Sequence[Verdict], limits: Limits, done: Reclaimed) -> Fields:
    return {
        "removed": [
            {"id": v.image.id, "name": v.image.name, "bytes": v.image.bytes, "reason": v.why}
            for v in verdicts
            if v.goes
        ],
        "kept": [{"id": v.image.id, "name": v.image.name, "why": v.why} for v in verdicts if not v.goes],
        "cleared": done.cleared,
        "left": done.left,
        "unmet": shortfall(verdicts, limits),
    }


# verified


def verified(session: Session, params: Fields) -> Fields:
    """Read images anew and compare their digests; one that differs is quarantined: kept, and never cloned again."""
    names = {each["name"] for each in params["images"] or ()}
    plans, problems, shown = [], [], []
    for name in dict.fromkeys(params["pools"]):
        pool = session.open(name)
        if pool is None:
            continue
        seen = [each for each in session.run(_ready(pool)) if not names or each.image.name in names]
        for each in seen:
            problem = session.run(_verify(pool, each))
            shown.append({"pool": name, "name": each.image.name, "id": each.image.id, "sound": problem is None})
            if problem is None:
                continue
            problems.append({"pool": name, "id": each.image.id, **problem})
            if problem["problem"] == "content_differs":
                plans.append(_quarantine_plan(name, each))
                if not session.check_mode:
                    first_error(session.work(pool, [_quarantine(pool, each)]))
    result = {**Plan.join(plans).to_result(), "problems": problems, "images": shown}
    if problems:
        result.update(failed=True, msg=" ".join(problem["message"] for problem in problems))
    return result


async def _verify(pool: Pool, seen: SeenImage) -> Fields | None:
    """What is wrong with the image, or None. The data is compared with the digest taken while it was written."""
    if seen.stat is None:
        message = (
            f"The image {seen.image.id} of pool {pool.name} has no volume any more: bring {seen.image.volume} back."
        )
        return {"problem": "volume_missing", "message": message}
    expected = seen.facts.get("seal", {}).get("content")
    if expected is None:
        message = f"No digest is recorded for the image {seen.image.id} of pool {pool.name}, so it cannot be verified."
        return {"problem": "digest_missing", "message": message}
    found = await pool.volumes.digest(seen.image.volume)
    if found == expected:
        return None
    message = (
        f"The image {seen.image.id} of pool {pool.name} does not hold what was written ({found}, not {expected}): "
        f"it is quarantined, and the {len(seen.references)} disks that stand on it may be damaged."
    )
    return {"problem": "content_differs", "message": message}


def _quarantine_plan(pool: str, seen: SeenImage) -> Plan:
    what = f"image {seen.image.id} in pool {pool}"
    action = Action("quarantine", what, f"quarantine {what}, whose content is not what was written")
    return Plan((action,), {what: {"state": "ready"}}, {what: {"state": "quarantined"}})


async def _quarantine(pool: Pool, seen: SeenImage) -> None:
    await pool.records.swap(seen.image.id, State.READY, State.QUARANTINED)
