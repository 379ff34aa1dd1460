# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.virt.storage.plugins.module_utils._ground.errors import BadInput
from ansible_collections.virt.storage.plugins.module_utils._policy.eviction import (
    CachedImage,
    Limits,
    judge,
    parse_limits,
    shortfall,
)

NOW = 1_000_000.0
GIB = 1 << 30
NAMES = ("debian-12", "debian-13", "rocky-9")


@st.composite
def caches(draw):
    """Images with ids of their own; few values each, so that ties and limits that just fit come up. Most may go."""
    count = draw(st.integers(0, 8))
    return [
        CachedImage(
            id=f"image+{number}",
            names=draw(st.sampled_from(((), (), (NAMES[0],), (NAMES[1],), NAMES[1:]))),
            bytes=draw(st.integers(0, 5)) * GIB,
            used=NOW - draw(st.integers(0, 5)) * 100,
            references=draw(st.sampled_from((0, 0, 0, 0, 0, 0, 0, 2))),
            pinned=draw(st.sampled_from((False,) * 7 + (True,))),
            state=draw(st.sampled_from(("ready",) * 8 + ("retired", "quarantined"))),
        )
        for number in range(count)
    ]


def or_none(numbers):
    """A limit, or none: with all of them set at once, the tightest would hide the others."""
    return st.one_of(st.just(0), numbers)


limits = st.builds(
    Limits,
    max_bytes=or_none(st.integers(1, 20).map(lambda size: size * GIB)),
    max_count=or_none(st.integers(1, 6)),
    max_age=or_none(st.sampled_from((50, 100, 250))),
    min_free=or_none(st.integers(1, 20).map(lambda size: size * GIB)),
    free=st.integers(0, 10).map(lambda size: size * GIB),
)
wanted = st.sets(st.sampled_from(("debian-12", "image+0", "elsewhere")), max_size=1)


def may_go(image, wanted):
    free = image.state == "ready" and not image.references and not image.pinned
    return free and image.id not in wanted and not wanted.intersection(image.names)


def unmet(images, limits, freed):
    """The limits that a cache of these images breaks; ``freed`` bytes were given up already."""
    broken = set()
    if limits.max_count and len(images) > limits.max_count:
        broken.add("max_count")
    if limits.max_bytes and sum(image.bytes for image in images) > limits.max_bytes:
        broken.add("max_bytes")
    if limits.min_free and limits.free + freed < limits.min_free:
        broken.add("min_free")
    if limits.max_age and any(may_go(image, set()) and NOW - image.used > limits.max_age for image in images):
        broken.add("max_age")
    return broken


@settings(max_examples=200)
@given(caches(), limits, wanted)
def test_what_is_needed_pinned_wanted_or_out_of_use_is_never_given_up(images, limits, wanted):
    for verdict in judge(images, limits, wanted, NOW):
        if verdict.goes:
            assert may_go(verdict.image, wanted)


@settings(max_examples=200)
@given(caches(), limits, wanted)
def test_the_limits_are_met_whenever_they_can_be_and_otherwise_it_says_which_are_not(images, limits, wanted):
    verdicts = judge(images, limits, wanted, NOW)
    staying = [verdict.image for verdict in verdicts if not verdict.goes]
    freed = sum(verdict.image.bytes for verdict in verdicts if verdict.goes)
    broken = unmet(staying, replace(limits, max_age=0), freed)
    if broken:
        # Giving up all that may go would not do, either.
        all_freed = sum(image.bytes for image in images if may_go(image, wanted))
        least = [image for image in images if not may_go(image, wanted)]
        assert broken <= unmet(least, limits, all_freed)
    assert len(shortfall(verdicts, limits)) == len(broken)
    if limits.max_age:
        assert not any(may_go(image, wanted) and NOW - image.used > limits.max_age for image in staying)


@settings(max_examples=200)
@given(caches(), limits, wanted)
def test_the_least_recently_used_goes_first(images, limits, wanted):
    verdicts = judge(images, limits, wanted, NOW)
    gone = [verdict.image.used for verdict in verdicts if verdict.goes]
    stayed = [v.image.used for v in verdicts if not v.goes and may_go(v.image, wanted) and v.image.bytes]
    assert max(gone, default=0) <= min(stayed, default=NOW)


@settings(max_examples=200)
@given(caches(), limits, wanted)
def test_nothing_goes_for_a_limit_that_was_met_before_it(images, limits, wanted):
    """The last to go was still needed: with it, and all that stayed, a limit is broken."""
    verdicts = judge(images, limits, wanted, NOW)
    gone = sorted((verdict.image for verdict in verdicts if verdict.goes), key=lambda image: (image.used, image.id))
    if gone:
        with_last = [*(verdict.image for verdict in verdicts if not verdict.goes), gone[-1]]
        assert unmet(with_last, limits, sum(image.bytes for image in gone[:-1]))


@settings(max_examples=200)
@given(caches(), limits, wanted, st.randoms(use_true_random=False))
def test_the_order_in_which_images_are_listed_does_not_matter(images, limits, wanted, random):
    shuffled = list(images)
    random.shuffle(shuffled)
    once = {verdict.image.id: verdict for verdict in judge(images, limits, wanted, NOW)}
    again = {verdict.image.id: verdict for verdict in judge(shuffled, limits, wanted, NOW)}
    assert once == again


@settings(max_examples=200)
@given(caches(), limits, wanted)
def test_once_is_enough(images, limits, wanted):
    verdicts = judge(images, limits, wanted, NOW)
    left = [verdict.image for verdict in verdicts if not verdict.goes]
    freed = sum(verdict.image.bytes for verdict in verdicts if verdict.goes)
    again = judge(left, replace(limits, free=limits.free + freed), wanted, NOW)
    assert not any(verdict.goes for verdict in again)


@settings(max_examples=200)
@given(caches(), wanted)
def test_without_limits_nothing_goes(images, wanted):
    assert not any(verdict.goes for verdict in judge(images, Limits(), wanted, NOW))


def test_verdicts_say_why():
    def image(number, **fields):
        return CachedImage(**{"id": f"image+{number}", "names": (), "bytes": GIB, "used": NOW - number, **fields})

    images = [
        image(1, references=1),
        image(2, references=2, state="retired"),
        image(3, pinned=True),
        image(4, names=("debian-12",)),
        image(5, state="quarantined"),
        image(600),
        image(10),
        image(9),
        image(8, bytes=0),
    ]
    limits = Limits(max_bytes=6 * GIB, max_count=8, max_age=300, min_free=9 * GIB, free=GIB)
    verdicts = judge(images, limits, ["debian-12"], NOW)
    assert [verdict.why for verdict in verdicts] == [
        "1 disk on it",
        "2 disks on it",
        "it is pinned",
        "it is wanted",
        "it is quarantined",
        "last used at 1970-01-12T13:36:40Z, more than 300 seconds ago",
        "least recently used; the cache has 7.0 GiB, and 6.0 GiB are allowed",
        "least recently used; 3.0 GiB are free, and 9.0 GiB are asked for",
        "the cache is within its limits",
    ]
    assert shortfall(verdicts, limits) == ["only 4.0 GiB can be free, and 9.0 GiB are asked for"]
    tight = Limits(max_count=2, max_bytes=GIB)
    assert shortfall(judge(images[:4], tight, ["debian-12"], NOW), tight) == [
        "4 images cannot go, and 2 are allowed",
        "the images that cannot go take 4.0 GiB, and 1.0 GiB are allowed",
    ]


def test_limits_as_people_write_them():
    assert parse_limits({"max_bytes": "50GiB", "max_count": 3, "max_age": 0, "min_free": None}) == {
        "max_bytes": 50 * GIB,
        "max_count": 3,
        "max_age": 0,
    }
    assert parse_limits({"max_bytes": "0", "min_free": 1024}) == {"max_bytes": 0, "min_free": 1024}


@pytest.mark.parametrize(
    "given",
    [
        {"max_bytes": "10X"},
        {"min_free": "-1"},
        {"max_count": -1},
        {"max_age": -5},
        {"max_count": "many"},
        {"max_age": [1]},
    ],
)
def test_limits_that_cannot_be_meant_are_refused_by_name(given):
    with pytest.raises(BadInput, match=next(iter(given))):
        parse_limits(given)
