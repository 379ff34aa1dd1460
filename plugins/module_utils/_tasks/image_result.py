# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""Cached images as the modules return them, and what is said of several in one way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .._algorithms.pool import Pool
from .._algorithms.survey import SeenImage, labels, listing_of, see_image
from .._ground.errors import LostMetadata, NewerSchema, NotFound
from .._ground.ops import Facts
from .._policy.plan import Fields
from .._records.contract import Listing
from .._records.types import ENDED, State, taken_apart
from .image_wishes import Wanted
from .session import Session

Labels = Mapping[str, Facts]


def names_of(record_id: str, named: Labels) -> list[str]:
    """The names that stand for an image."""
    return sorted(name for name, facts in named.items() if facts.get("id") == record_id)


def is_pinned(record_id: str, named: Labels) -> bool:
    """Whether one of the names that stand for an image is pinned."""
    return any(facts.get("pinned") for facts in named.values() if facts.get("id") == record_id)


async def seen_images(pool: Pool, listing: Listing, broken: dict[str, str] | None = None) -> list[SeenImage]:
    """Every image of a pool whose record has not ended. What is wrong with one whose record cannot be read goes into
    ``broken``, by id."""
    found = []
    for record_id, state in sorted(listing.states.items()):
        if not taken_apart(record_id).image or state in ENDED:
            continue
        try:
            seen = await see_image(pool, record_id, listing, with_references=True)
        except (LostMetadata, NewerSchema) as error:
            if broken is not None:
                broken[record_id] = error.message
            continue
        if seen is not None:
            found.append(seen)
    return found


async def describe_all(session: Session, pool: Pool) -> list[Fields]:
    """Every image of a pool, as the modules return it; one whose record cannot be read with its ``problem``."""
    listing, named = await listing_of(pool), await labels(pool)
    broken: dict[str, str] = {}
    seen = await seen_images(pool, listing, broken)
    shown = [describe(session, pool, each, named) for each in seen]
    for record_id, problem in broken.items():
        state = listing.state(record_id) or State.MOVING
        shown.append({"pool": pool.name, "id": record_id, "state": str(state), "problem": problem})
    return sorted(shown, key=lambda image: str(image["id"]))


async def describe_one(session: Session, pool: Pool, record_id: str) -> Fields:
    """One image, which was there a moment ago."""
    seen = await see_image(pool, record_id, await listing_of(pool), with_references=True)
    if seen is None:
        raise NotFound(f"The image {record_id} was removed from pool {pool.name} meanwhile: run the task again.")
    return describe(session, pool, seen, await labels(pool))


def describe(session: Session, pool: Pool, seen: SeenImage, named: Labels) -> Fields:
    """A cached image as the modules return it; sizes in bytes."""
    seal: Mapping[str, Any] = seen.facts.get("seal", {})
    return {
        "pool": pool.name,
        "name": seen.image.name,
        "names": names_of(seen.image.id, named),
        "id": seen.image.id,
        "key": seen.image.key,
        "state": str(seen.state),
        "path": session.path(pool, seen.image.volume),
        "format": seen.image.volume.format,
        "size": seen.stat.size if seen.stat else None,
        "allocated": seen.stat.allocated if seen.stat else None,
        "content": seal.get("content"),
        "source": seen.image.source,
        "source_digests": seal.get("source_digests", {}),
        "created": seen.image.created,
        "pinned": is_pinned(seen.image.id, named),
        "last_used": seen.facts.get("use", {}).get("at"),
        "verified": seen.facts.get("verify", {}).get("at"),
        "references": len(seen.references),
    }


def foresee(pool: str, want: Wanted, names: list[str]) -> Fields:
    """A wanted image as a run would make it, with the names that it would have. What only a run can tell is None."""
    unknown = ("id", "path", "format", "size", "allocated", "content", "created", "last_used", "verified")
    algorithm, _unused, digits = want.digest.partition(":")
    return {
        "pool": pool,
        "name": want.name,
        "names": names,
        "key": want.key,
        "state": "ready",
        "source": want.spec.shown,
        "source_digests": {algorithm: digits} if want.digest and want.snapshot is None else {},
        "pinned": bool(want.pinned),
        "references": 0,
        **dict.fromkeys(unknown),
    }
