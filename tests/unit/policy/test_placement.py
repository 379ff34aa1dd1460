# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.virt.storage.plugins.module_utils._policy.flavors import Choice, Flavor
from ansible_collections.virt.storage.plugins.module_utils._policy.placement import (
    Demand,
    Place,
    Placed,
    Refused,
    place,
)

GIB = 1 << 30
NAMES = ("a", "b", "c", "d")
PARTS = ("root", "ephemeral", "swap")

gibs = st.integers(0, 12).map(lambda count: count * GIB)
labels = st.fixed_dictionaries(
    {}, optional={"media": st.sampled_from(("nvme", "hdd")), "tier": st.sampled_from((1, 2))}
)
choices = st.builds(
    Choice,
    pools=st.frozensets(st.sampled_from((*NAMES, "elsewhere")), max_size=2),
    labels=st.fixed_dictionaries(
        {}, optional={"media": st.sampled_from(("nvme", "hdd")), "tier": st.sampled_from(("1", "2"))}
    ),
    pack=st.booleans(),
    overcommit=st.sampled_from((Fraction(1, 2), Fraction(1), Fraction(5, 3))),
    min_free=st.sampled_from((0, 0, 2 * GIB, 5 * GIB)),
)
some_choices = st.lists(choices, min_size=1, max_size=3).map(tuple)


@st.composite
def hosts(draw):
    """Up to four pools. Few values each, so that ties and limits that just fit come up."""
    places = []
    for name in draw(st.permutations(NAMES))[: draw(st.integers(0, 4))]:
        capacity = draw(gibs)
        places.append(
            Place(
                name,
                draw(labels),
                capacity=capacity,
                free=min(capacity, draw(gibs)),
                provisioned=draw(gibs),
                thick=draw(st.sampled_from((False, False, True))),
                problem=draw(st.sampled_from(("", "", "", "", "it is not active"))),
            )
        )
    return places


@st.composite
def situations(draw):
    """Pools, and disks of two flavors, some of which stand."""
    places = draw(hosts())
    flavors = [Flavor(name, {"root": draw(some_choices), "swap": draw(some_choices)}) for name in ("gold", "tin")]
    demands = []
    for number in range(draw(st.integers(0, 7))):
        size = draw(st.integers(0, 4)) * GIB
        demands.append(
            Demand(
                f"i{number // 2}",
                f"r{number % 2}",
                draw(st.sampled_from(PARTS)),
                draw(st.sampled_from(flavors)),
                size,
                written=draw(st.sampled_from((0, size))),
                stands=draw(st.sampled_from(["", "", "", *(each.name for each in places)])),
            )
        )
    return places, draw(st.permutations(demands))


def pooled(answers, demand):
    """The pool that a disk goes to, None where there is none."""
    answer = answers[demand.slot]
    return answer.pool if isinstance(answer, Placed) else None


def in_order(demands):
    """The order in which new disks are placed."""
    return sorted(demands, key=lambda each: (-each.size, each.instance, each.role))


def allows(choice, pool):
    """Whether a choice is about a pool, told by the rule and not by the code."""
    named = not choice.pools or pool.name in choice.pools
    return named and all(str(pool.labels.get(name)) == value for name, value in choice.labels.items())


def at_once(pool, demand):
    """What a disk takes up as soon as it is made."""
    return demand.size if pool.thick else demand.written


def replayed(places, demands):
    """Every new disk in the order of placing, with the state of each pool just before: bytes promised and free."""
    answers = place(demands, places)
    promised = {each.name: each.provisioned for each in places}
    free = {each.name: each.free for each in places}
    pools = {each.name: each for each in places}
    for demand in demands:
        if demand.stands:
            promised[demand.stands] += demand.size
            free[demand.stands] -= at_once(pools[demand.stands], demand)
    for demand in in_order(demands):
        if not demand.stands:
            answer = answers[demand.slot]
            yield demand, answer, dict(promised), dict(free)
            if isinstance(answer, Placed):
                promised[answer.pool] += demand.size
                free[answer.pool] -= at_once(pools[answer.pool], demand)


def fits(choice, pool, demand, promised, free):
    """Whether a disk may go to a pool by one choice."""
    room = promised[pool.name] + demand.size <= pool.capacity * choice.overcommit
    left = free[pool.name] - at_once(pool, demand) >= choice.min_free
    return not pool.problem and allows(choice, pool) and room and left


@settings(max_examples=300)
@given(situations())
def test_each_goes_to_its_best_choice_that_has_room_and_no_limit_is_exceeded(situation):
    places, demands = situation
    for demand, answer, promised, free in replayed(places, demands):
        for choice in demand.flavor.choices(demand.part):
            able = [each for each in places if fits(choice, each, demand, promised, free)]
            if able:
                assert isinstance(answer, Placed)
                assert answer.pool in [each.name for each in able]
                room = {each.name: each.capacity * choice.overcommit - promised[each.name] for each in able}
                assert int(room[answer.pool]) == (min if choice.pack else max)(int(left) for left in room.values())
                break
        else:
            assert isinstance(answer, Refused)


@settings(max_examples=200)
@given(situations())
def test_with_one_limit_for_all_no_pool_ends_beyond_it(situation):
    places, demands = situation
    limits = {"overcommit": Fraction(3, 2), "min_free": 2 * GIB}
    demands = [
        replace(
            demand,
            flavor=Flavor(
                demand.flavor.name,
                {
                    part: tuple(replace(choice, **limits) for choice in each)
                    for part, each in demand.flavor.parts.items()
                },
            ),
        )
        for demand in demands
    ]
    answers = place(demands, places)
    for pool in places:
        stand = [each for each in demands if each.stands == pool.name]
        placed = [each for each in demands if not each.stands and pooled(answers, each) == pool.name]
        if placed:
            assert pool.provisioned + sum(each.size for each in stand + placed) <= pool.capacity * Fraction(3, 2)
            assert pool.free - sum(at_once(pool, each) for each in stand + placed) >= 2 * GIB


@settings(max_examples=200)
@given(situations(), st.randoms(use_true_random=False))
def test_neither_the_order_of_pools_nor_that_of_disks_matters(situation, random):
    places, demands = situation
    again, shuffled = list(places), list(demands)
    random.shuffle(again)
    random.shuffle(shuffled)
    assert place(demands, places) == place(shuffled, again)


@settings(max_examples=200)
@given(situations())
def test_a_disk_that_stands_stays_whatever_its_flavor_says(situation):
    places, demands = situation
    first = place(demands, places)
    for demand in demands:
        if demand.stands:
            assert first[demand.slot].pool == demand.stands
            matches = [pool for pool in places if pool.name == demand.stands]
            strays = not any(allows(choice, matches[0]) for choice in demand.flavor.choices(demand.part))
            assert bool(first[demand.slot].strays) is strays


@settings(max_examples=200)
@given(situations(), st.data())
def test_run_again_after_some_or_all_were_made_the_rest_goes_where_it_would_have_gone(situation, data):
    places, demands = situation
    first = place(demands, places)
    placed = [each for each in in_order(demands) if pooled(first, each) and not each.stands]
    made = placed[: data.draw(st.integers(0, len(placed)))]
    done = [*made, *(each for each in demands if each.stands)]
    for number, pool in enumerate(places):
        here = [each for each in done if pooled(first, each) == pool.name]
        provisioned = pool.provisioned + sum(each.size for each in here)
        places[number] = replace(
            pool, provisioned=provisioned, free=pool.free - sum(at_once(pool, each) for each in here)
        )
    then = [replace(each, size=0, written=0, stands=pooled(first, each)) if each in done else each for each in demands]
    again = place(then, places)
    assert [pooled(again, each) for each in demands] == [pooled(first, each) for each in demands]


@settings(max_examples=200)
@given(situations())
def test_a_refusal_lists_every_pool_of_the_host_and_every_other_that_is_named(situation):
    places, demands = situation
    for demand, answer in ((each, place(demands, places)[each.slot]) for each in demands):
        if isinstance(answer, Refused):
            named = frozenset().union(*(choice.pools for choice in demand.flavor.choices(demand.part)))
            assert set(answer.unfit) == {each.name for each in places} | named
            assert all(answer.unfit.values())
            assert all(f"not {pool} ({why})" in str(answer) for pool, why in answer.unfit.items())


def flavor(*choices):
    return Flavor("gold", {"root": choices})


def disk(number, size=1, **more):
    return Demand(f"vm{number:02}", "root", "root", more.pop("flavor"), size * GIB, **more)


def pools_of(answers):
    return [answer.pool for _slot, answer in sorted(answers.items())]


def test_spread_and_pack():
    places = [Place("a", {}, 10 * GIB, 10 * GIB), Place("b", {}, 20 * GIB, 20 * GIB)]
    both = frozenset({"a", "b"})
    spread = place([disk(number, 5, flavor=flavor(Choice(both))) for number in range(6)], places)
    assert pools_of(spread) == ["b", "b", "a", "b", "a", "b"]
    pack = place([disk(number, 5, flavor=flavor(Choice(both, pack=True))) for number in range(6)], places)
    assert pools_of(pack) == ["a", "a", "b", "b", "b", "b"]


def test_what_it_says():
    places = [
        Place("hdd", {"media": "hdd"}, 100 * GIB, 100 * GIB),
        Place("nvme", {"media": "nvme"}, 100 * GIB, 4 * GIB, provisioned=10 * GIB, cached=3 * GIB),
        Place("old", {"media": "nvme"}, problem="it is not active"),
        Place("ssd", {"media": "nvme"}, 10 * GIB, 10 * GIB, provisioned=12 * GIB),
    ]
    gold = flavor(Choice(labels={"media": "nvme"}, min_free=GIB), Choice(frozenset({"tape"})))
    answers = place([disk(1, 20, flavor=gold), disk(2, 20, flavor=gold, written=20 * GIB)], places)
    assert answers["vm01", "root"] == Placed(
        "nvme", "choice 1 of 2 of flavor gold for root disks: the only pool that fits, 90.0 GiB left"
    )
    assert str(answers["vm02", "root"]) == (
        "No pool fits the disk root of vm02 (20.0 GiB, flavor gold), not hdd (its label media is hdd, not nvme, and it "
        "is not named), not nvme (4.0 GiB are free and 21.0 GiB have to be, while cached images take 3.0 GiB, and it "
        "is not named), not old (it is not active), not ssd (of 10.0 GiB that may be promised to disks, 12.0 GiB are, "
        "and it is not named), not tape (there is no such pool): make room, or change the flavor or a pool's labels."
    )
    assert answers["vm02", "root"].matching
    elsewhere = place([disk(1, 1, flavor=flavor(Choice(frozenset({"tape"}))))], places)["vm01", "root"]
    assert not elsewhere.matching
    assert "for this host has none" in str(
        place([disk(1, 1, flavor=flavor(Choice(labels={"a": "b"})))], [])["vm01", "root"]
    )
    strayed = place([disk(1, 1, flavor=gold, stands="hdd")], places)["vm01", "root"]
    assert strayed == Placed("hdd", "it stands there", "its label media is hdd, not nvme, and it is not named")


def test_ten_thousand_disks_take_a_fixed_number_of_looks_each(monkeypatch):
    """Linear: twice the disks are twice the looks at a pool."""
    looks = 0
    mismatch = Choice.mismatch

    def counted(self, pool, labels):
        nonlocal looks
        looks += 1
        return mismatch(self, pool, labels)

    monkeypatch.setattr(Choice, "mismatch", counted)
    places = [Place(name, {}, 1 << 50, 1 << 50) for name in NAMES]
    spread = flavor(Choice(frozenset(NAMES)))
    answers = place([Demand(f"vm{number}", "root", "root", spread, GIB) for number in range(10_000)], places)
    assert looks == 10_000 * len(NAMES)
    assert sorted(pools_of(answers)) == [name for name in NAMES for _count in range(2500)]
