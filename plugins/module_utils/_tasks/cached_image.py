# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""The tasks of `cached_image` and `cached_image_info`: images brought in, taken out, described."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .._algorithms.cache import Cached, ImageWish, look_up, retire
from .._algorithms.cache import fill as fill_image
from .._algorithms.pool import Pool
from .._algorithms.survey import SeenImage, image_named, label, labels, listing_of, see_image
from .._ground.bounds import Bounds
from .._ground.contents import Incoming
from .._ground.errors import BadInput, LostMetadata, NotFound
from .._ground.sources import SourceSpec, expected_checksum, open_source
from .._policy.plan import Action, Fields, Plan
from .._policy.sizes import in_words, parse_size
from .._records.types import Image, State, checked_image_name, key_hash, taken_apart
from . import cache_policy
from .session import Session, first_error

PIECE = 1 << 20
DEFAULT_LIMIT = "1T"


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
    session = Session(params["uri"], check_mode=True)
    found = [image for pool in session.open_all(params["pools"]) for image in session.run(_describe_all(pool, session))]
    return {"changed": False, "images": found, "warnings": session.warnings}


@dataclass(frozen=True)
class Wanted:
    """One image of the task, its key worked out. ``identity`` tells the source apart where there is no checksum."""

    name: str
    spec: SourceSpec
    bounds: Bounds
    key: str
    pinned: bool | None
    by_checksum: bool

    @property
    def identity(self) -> str:
        return "" if self.by_checksum else self.spec.identity


@dataclass(frozen=True)
class Standing:
    """What a pool has for a wanted image: the ready image, if any, and what its name stands for now."""

    image: Image | None = None
    labelled: bool = False
    pinned: bool = False


# present


def _present(session: Session, params: Fields) -> Fields:
    bounds = _bounds(params["limits"] or {})
    wanted = [_wanted(each, bounds) for each in _images(params, ("source", "format"))]
    plans, shown = [], []
    for name in _pools(params):
        pool = session.open(name)
        have = session.run(_standing(pool, wanted)) if pool is not None else [Standing()] * len(wanted)
        steps = Plan.join(plan(name, each, standing) for each, standing in zip(wanted, have))
        if pool is not None and steps.changed and not session.check_mode:
            first_error(session.work(pool, [_provide(pool, each, old) for each, old in zip(wanted, have)]))
        plans.append(steps)
        shown += _result(session, pool, name, wanted)
    return {**Plan.join(plans).to_result(), "images": shown}


def plan(pool: str, want: Wanted, have: Standing) -> Plan:
    """The steps that give ``pool`` the wanted image. Pure."""
    what = f"image {want.name} in pool {pool}"
    if have.image is None:
        size = 0
        if not want.spec.is_url and os.path.isfile(want.spec.location):
            size = os.stat(want.spec.location).st_size
        amount = f", {in_words(size)}" if size else ""
        sentence = f"bring image {want.name} into pool {pool} ({want.spec.format} from {want.spec.shown}{amount})"
        action = Action("fill", what, sentence, bytes_to_read=size, bytes_to_write=size, strategy="fill")
        after: Fields = {"state": "ready", "key": want.key}
        if want.pinned:
            after["pinned"] = True
        return Plan((action,), {}, {what: after})
    actions, before, after = [], {}, {}
    if not have.labelled:
        actions.append(Action("label", what, f"let the name {want.name} in pool {pool} stand for {have.image.id}"))
        before["stands_for"], after["stands_for"] = None, have.image.id
    if want.pinned is not None and want.pinned != have.pinned:
        word = "pin" if want.pinned else "unpin"
        actions.append(Action(word, what, f"{word} image {want.name} in pool {pool}"))
        before["pinned"], after["pinned"] = have.pinned, want.pinned
    return Plan(tuple(actions), {what: before} if before else {}, {what: after} if after else {})


async def _standing(pool: Pool, wanted: Sequence[Wanted]) -> list[Standing]:
    """What the pool has, one look for all."""
    listing, named = await listing_of(pool), await labels(pool)
    found = []
    for want in wanted:
        now = await image_named(pool, want.name, listing, named)
        image = await look_up(pool, want.key, listing)
        if image is None and now is not None and want.identity:
            same = named[want.name].get("identity") == want.identity and not _refreshed(want)
            image = now if same else None
        pinned = False
        if image is not None:
            pinned = bool((await pool.records.notes(image.id)).get("pin", {}).get("pinned"))
        found.append(Standing(image, image is not None and now is not None and now.id == image.id, pinned))
    return found


def _refreshed(want: Wanted) -> bool:
    """Whether the source was read anew just now, which is when the key is that of its bytes."""
    return not want.key.startswith("source:")


async def _provide(pool: Pool, want: Wanted, old: Standing) -> Cached:
    """Carry out what ``plan`` says for one image."""
    if old.image is None:
        wish = ImageWish(want.key, want.name, Incoming(want.spec, want.bounds), want.spec.shown)
        cached = await fill_image(pool, wish)
    else:
        cached = Cached(old.image, made=False)
    if not old.labelled:
        await label(pool, want.name, cached.image, want.identity)
    if want.pinned is not None and want.pinned != old.pinned:
        await pool.records.note(cached.image.id, "pin", {"pinned": want.pinned})
    return cached


def _wanted(entry: Fields, bounds: Bounds) -> Wanted:
    """An entry of the task, checked, with its key: by checksum where there is one, by source otherwise."""
    spec = SourceSpec(
        location=entry["source"],
        format=entry["format"],
        compression=entry["compression"],
        checksum=entry["checksum"],
        headers=entry["headers"] or {},
        username=entry["username"],
        password=entry["password"],
        client_cert=entry["client_cert"],
        client_key=entry["client_key"],
        ca_path=entry["ca_path"],
        validate_certs=entry["validate_certs"],
        use_proxy=entry["use_proxy"],
        timeout=entry["timeout"],
    )
    checksum = expected_checksum(spec, bounds)
    by_checksum = checksum is not None
    if checksum is not None:
        spec = replace(spec, checksum=f"{checksum.algorithm}:{checksum.digest}")
        key = f"{checksum.algorithm}:{checksum.digest}+{entry['format']}"
    elif entry["refresh"]:
        digest = _digest_of(spec, bounds)
        spec = replace(spec, checksum=f"sha256:{digest}")
        key = f"sha256:{digest}+{entry['format']}"
    else:
        key = f"source:{spec.identity}+{entry['format']}"
    return Wanted(checked_image_name(entry["name"]), spec, bounds, key, entry["pinned"], by_checksum)


def _digest_of(spec: SourceSpec, bounds: Bounds) -> str:
    """Read the source once, to learn whether it changed. Writes nothing, so a check run does it, too."""
    source = open_source(spec, bounds)
    try:
        sha256 = hashlib.sha256()
        while data := source.read(PIECE):
            sha256.update(data)
        source.check_unchanged()
        return sha256.hexdigest()
    finally:
        source.close()


# absent


def _absent(session: Session, params: Fields) -> Fields:
    names = [each["name"] for each in _images(params, ())]
    plans, kept = [], []
    for name in _pools(params):
        pool = session.open(name)
        if pool is None:
            continue
        seen = session.run(_named(pool, names))
        going = [image for image in seen if image.state is State.READY or not image.references]
        kept += [_describe(session, pool, image) for image in seen if image.references]
        plans.append(Plan.join(_absent_plan(name, image) for image in going))
        if not session.check_mode and going:
            first_error(session.work(pool, [retire(pool, image.image, image.state) for image in going]))
    return {**Plan.join(plans).to_result(), "images": kept}


def _absent_plan(pool: str, seen: SeenImage) -> Plan:
    what = f"image {seen.image.id} in pool {pool}"
    if seen.references:
        count = len(seen.references)
        sentence = f"retire image {seen.image.id} in pool {pool}: {count} disks stand on it, so its data stays"
        return Plan((Action("retire", what, sentence),), {what: {"state": "ready"}}, {what: {"state": "retired"}})
    freed = seen.stat.allocated if seen.stat else 0
    sentence = f"remove image {seen.image.id} from pool {pool}, which frees {in_words(freed)}"
    return Plan((Action("remove", what, sentence),), {what: {"state": str(seen.state)}}, {})


async def _named(pool: Pool, wanted: Sequence[str]) -> list[SeenImage]:
    """The images, in use or out of it, that a task means by name, id or key."""
    listing = await listing_of(pool)
    found = []
    for record_id, state in sorted(listing.states.items()):
        name = taken_apart(record_id)
        if not name.image or state not in (State.READY, State.RETIRED, State.QUARANTINED):
            continue
        for each in wanted:
            if each in (record_id, name.image) or key_hash(each) == name.key_hash:
                seen = await see_image(pool, record_id, listing, with_references=True)
                if seen is not None and (":" not in each or seen.image.key == each):
                    found.append(seen)
                break
    return found


# What is shown


def _result(session: Session, pool: Pool | None, pool_name: str, wanted: Sequence[Wanted]) -> list[Fields]:
    """The wanted images as they are now; in check mode, as they would be."""
    have = session.run(_standing(pool, wanted)) if pool is not None else [Standing()] * len(wanted)
    shown = []
    for want, standing in zip(wanted, have):
        if pool is None or standing.image is None:
            shown.append({"pool": pool_name, "name": want.name, "key": want.key, "state": "ready"})
        else:
            seen = session.run(_see(pool, standing.image.id))
            shown.append({**_describe(session, pool, seen), "name": want.name})
    return shown


async def _see(pool: Pool, record_id: str) -> SeenImage:
    seen = await see_image(pool, record_id, await listing_of(pool), with_references=True)
    if seen is None:
        raise NotFound(f"The image {record_id} was removed from pool {pool.name} meanwhile: run the task again.")
    return seen


async def _describe_all(pool: Pool, session: Session) -> list[Fields]:
    """Every live image of a pool. One whose record cannot be read is shown as that."""
    listing = await listing_of(pool)
    shown: list[Fields] = []
    for record_id, state in sorted(listing.states.items()):
        if not taken_apart(record_id).image or state in (State.GONE, State.RELEASED):
            continue
        try:
            seen = await see_image(pool, record_id, listing, with_references=True)
        except LostMetadata as error:
            shown.append({"pool": pool.name, "id": record_id, "state": str(state), "problem": error.message})
            continue
        if seen is not None:
            shown.append(_describe(session, pool, seen))
    return shown


def _describe(session: Session, pool: Pool, seen: SeenImage) -> Fields:
    """A cached image as the modules return it; sizes in bytes."""
    seal: Mapping[str, Any] = seen.facts.get("seal", {})
    return {
        "pool": pool.name,
        "name": seen.image.name,
        "id": seen.image.id,
        "key": seen.image.key,
        "state": str(seen.state),
        "path": session.path(pool, seen.image.volume.name),
        "format": seen.image.volume.format,
        "size": seen.stat.size if seen.stat else None,
        "allocated": seen.stat.allocated if seen.stat else None,
        "content": seal.get("content"),
        "source": seen.image.source,
        "source_digests": seal.get("source_digests", {}),
        "created": seen.image.created,
        "pinned": bool(seen.facts.get("pin", {}).get("pinned")),
        "last_used": seen.facts.get("use", {}).get("at"),
        "verified": seen.facts.get("verify", {}).get("at"),
        "references": len(seen.references),
    }


# Arguments


def _pools(params: Fields) -> list[str]:
    return list(dict.fromkeys(params["pools"]))


def _images(params: Fields, needed: Sequence[str]) -> list[Fields]:
    """The entries of the task, each complete, each name once."""
    entries: list[Fields] = params["images"] or []
    if not entries:
        raise BadInput(f"The task names no images: list what state={params['state']} is about in images.")
    names = [entry["name"] for entry in entries]
    for entry in entries:
        missing = [option for option in needed if not entry[option]]
        if missing:
            raise BadInput(
                f"The image {entry['name']} lacks {' and '.join(missing)}: state={params['state']} needs to know "
                "where it comes from and what format it has."
            )
        if names.count(entry["name"]) > 1:
            raise BadInput(f"The image {entry['name']} stands twice in images: a name means one image.")
    return entries


def _bounds(limits: Fields) -> Bounds:
    return Bounds(
        max_source_bytes=parse_size(limits.get("max_source_bytes") or DEFAULT_LIMIT, "max_source_bytes"),
        max_virtual_size=parse_size(limits.get("max_virtual_size") or DEFAULT_LIMIT, "max_virtual_size"),
        timeout=float(limits.get("timeout") or 3600),
    )
