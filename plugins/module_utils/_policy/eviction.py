# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""Which images a cache gives up. Pure: what it knows is handed in, times in seconds since the epoch, sizes in bytes.

An image that a disk needs, that is pinned or that is wanted is never given up. Of the rest the least recently used
go first, until every limit is met or nothing is left to give.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .._ground.errors import BadInput
from .sizes import counted, in_words, parse_size

DIGITS = 18
SIZES = ("max_bytes", "min_free")
NUMBERS = ("max_count", "max_age")


@dataclass(frozen=True)
class CachedImage:
    """What matters of an image.

    ``names`` are those that stand for it, ``bytes`` is what removing it frees, ``used`` its last use or its making.
    ``state`` is that of its record: one that is out of use and still there takes room, and is not for us to remove.
    """

    id: str
    names: tuple[str, ...]
    bytes: int
    used: float
    references: int = 0
    pinned: bool = False
    state: str = "ready"


@dataclass(frozen=True)
class Limits:
    """The limits of one pool's cache; 0 is no limit. ``free`` is what the pool has left now."""

    max_bytes: int = 0
    max_count: int = 0
    max_age: int = 0
    min_free: int = 0
    free: int = 0


@dataclass(frozen=True)
class Verdict:
    """What becomes of one image and why, in words."""

    image: CachedImage
    goes: bool
    why: str


def parse_limits(given: Mapping[str, Any]) -> dict[str, int]:
    """The limits that are given, as numbers: sizes in bytes, ages in seconds, 0 for none."""
    limits = {}
    for name in (*SIZES, *NUMBERS):
        value = given.get(name)
        if value is None:
            continue
        if name in SIZES and str(value).strip() != "0":
            value = parse_size(value, f"cache limit {name}")
        shown = str(value).strip()
        if not (shown.isdecimal() and len(shown) <= DIGITS):
            raise BadInput(f"The cache limit {name} cannot be {shown[:40]}: give a number above 0, or 0 for no limit.")
        limits[name] = int(shown)
    return limits


def judge(images: Sequence[CachedImage], limits: Limits, wanted: Iterable[str], now: float) -> list[Verdict]:
    """A verdict on each image, in the order given. ``wanted`` are names or ids of images that stay."""
    kept = set(wanted)
    verdicts: dict[str, Verdict] = {}
    candidates = []
    for image in images:
        protection = _protection(image, kept)
        if protection:
            verdicts[image.id] = Verdict(image, False, protection)
        else:
            candidates.append(image)
    total, count, free = sum(image.bytes for image in images), len(images), limits.free
    for image in sorted(candidates, key=lambda each: (each.used, each.id)):
        why = _excess(image, limits, total, count, free, now)
        verdicts[image.id] = Verdict(image, bool(why), why or "the cache is within its limits")
        if why:
            total, count, free = total - image.bytes, count - 1, free + image.bytes
    return [verdicts[image.id] for image in images]


def shortfall(verdicts: Sequence[Verdict], limits: Limits) -> list[str]:
    """The limits that cannot be met, each in a sentence: what stays may not go."""
    staying = [verdict.image for verdict in verdicts if not verdict.goes]
    free = limits.free + sum(verdict.image.bytes for verdict in verdicts if verdict.goes)
    total = sum(image.bytes for image in staying)
    told = []
    if limits.max_count and len(staying) > limits.max_count:
        told.append(f"{counted(len(staying), 'image')} cannot go, and {limits.max_count} are allowed")
    if limits.max_bytes and total > limits.max_bytes:
        told.append(f"the images that cannot go take {in_words(total)}, and {in_words(limits.max_bytes)} are allowed")
    if limits.min_free and free < limits.min_free:
        told.append(f"only {in_words(free)} can be free, and {in_words(limits.min_free)} are asked for")
    return told


def _protection(image: CachedImage, wanted: set[str]) -> str:
    if image.references:
        return f"{counted(image.references, 'disk')} on it"
    if image.state != "ready":
        return f"it is {image.state}"
    if image.pinned:
        return "it is pinned"
    return "it is wanted" if wanted.intersection((image.id, *image.names)) else ""


def _excess(image: CachedImage, limits: Limits, total: int, count: int, free: int, now: float) -> str:
    """Why the image has to go, the least recently used of those that may; "" where it need not."""
    if limits.max_age and now - image.used > limits.max_age:
        last = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(image.used))
        return f"last used at {last}, more than {counted(limits.max_age, 'second')} ago"
    if limits.max_count and count > limits.max_count:
        return f"least recently used of {count} images, and {limits.max_count} are allowed"
    if not image.bytes:
        return ""  # whatever room is wanted, this one has none to give
    if limits.max_bytes and total > limits.max_bytes:
        return f"least recently used; the cache has {in_words(total)}, and {in_words(limits.max_bytes)} are allowed"
    if limits.min_free and free < limits.min_free:
        return f"least recently used; {in_words(free)} are free, and {in_words(limits.min_free)} are asked for"
    return ""
