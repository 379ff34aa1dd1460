# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from fractions import Fraction

import pytest

from ansible_collections.virt.storage.plugins.module_utils._ground.errors import BadInput
from ansible_collections.virt.storage.plugins.module_utils._policy.flavors import (
    Choice,
    from_extra_specs,
    label_text,
    parse_flavor,
    parse_flavors,
    part_of,
)

GIB = 1 << 30


def test_a_flavor_as_people_write_it():
    given = {
        "root": [
            {"labels": {"media": "nvme", "fast": True, "rack": 7}},
            {"pools": ["ssd1", "ssd2"], "choose": "pack", "overcommit": "1.5", "min_free": "50G"},
        ],
        "swap": [{"pools": ["hdd"], "labels": {"tier": "bronze"}, "overcommit": 0.5, "min_free": 0}],
    }
    (flavor,) = parse_flavors({"gold": given}).values()
    assert flavor.name == "gold"
    assert flavor.choices("root") == (
        Choice(labels={"media": "nvme", "fast": "true", "rack": "7"}),
        Choice(frozenset({"ssd1", "ssd2"}), {}, True, Fraction(3, 2), 50 * GIB),
    )
    assert flavor.choices("swap") == (Choice(frozenset({"hdd"}), {"tier": "bronze"}, overcommit=Fraction(1, 2)),)
    assert flavor.choices("ephemeral") == flavor.choices("root")


def test_a_part_without_choices_is_named_when_it_is_asked_for():
    flavor = parse_flavor("scratch", {"ephemeral": [{"pools": ["hdd"]}]})
    with pytest.raises(BadInput, match="Flavor scratch does not say which pools hold swap disks"):
        flavor.choices("swap")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("ssd", "Flavor f cannot be read, for it is no mapping"),
        ({"data": []}, "Flavor f cannot have data: it knows root, ephemeral, swap"),
        ({"root": []}, "Flavor f has no list of choices for root"),
        ({"root": {"pools": ["ssd"]}}, "Flavor f has no list of choices for root"),
        ({"root": ["ssd"]}, "Choice 1 for root of flavor f cannot be read"),
        ({"root": [{"pools": ["a"]}, {}]}, "Choice 2 for root of flavor f names no pools"),
        ({"root": [{"pools": "ssd"}]}, "pools that are no list of names"),
        ({"root": [{"pools": [""]}]}, "pools that are no list of names"),
        ({"root": [{"labels": ["nvme"]}]}, "The labels of Choice 1 for root of flavor f cannot be read"),
        ({"root": [{"pool": "ssd"}]}, "Choice 1 for root of flavor f cannot have pool"),
        ({"root": [{"pools": ["a"], "choose": "best"}]}, "cannot choose by 'best': use spread or pack"),
        ({"root": [{"pools": ["a"], "overcommit": 0}]}, "cannot overcommit by '0'"),
        ({"root": [{"pools": ["a"], "overcommit": "-1"}]}, "cannot overcommit by '-1'"),
        ({"root": [{"pools": ["a"], "overcommit": "1e9"}]}, "cannot overcommit by '1e9'"),
        ({"root": [{"pools": ["a"], "overcommit": None}]}, "cannot overcommit by 'None'"),
        ({"root": [{"pools": ["a"], "min_free": "lots"}]}, "min_free of choice 1 for root of flavor f 'lots' is no"),
        ({"extra_specs": {}, "root": []}, "Flavor f cannot have root: it knows extra_specs"),
        ({"extra_specs": "disk:pool=a"}, "extra_specs of flavor f cannot be read"),
        ({"extra_specs": {"disk:pools": "a"}}, "extra_specs of flavor f cannot have disk:pools"),
        ({"extra_specs": {"disk:pool": "a", "disk:pool_labels": "b=c"}}, "give one of them"),
        ({"extra_specs": {"disk:pool_labels": "nvme"}}, "do not give nvme a value"),
        ({"extra_specs": {"disk:pool_labels": "media="}}, "do not give media a value"),
        ({"extra_specs": {"disk:pool": "a,"}}, "pools that are no list of names"),
        ({"extra_specs": {"disk:pool": "a", "disk:pool_choose": "x"}}, "cannot choose by 'x'"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(given, says):
    with pytest.raises(BadInput) as refusal:
        parse_flavor("f", given)
    assert says in refusal.value.message.replace("is not a size", "is no")
    assert "\n" not in refusal.value.message


def test_the_extra_specs_of_a_nova_flavor():
    specs = {
        "hw:cpu_policy": "dedicated",
        "quota:disk_read_iops_sec": "500",
        "disk:pool_labels": "media=nvme, tier=gold; media=ssd",
        "disk:swap_pool": "hdd1,hdd2;hdd3",
        "disk:pool_choose": "pack",
        "disk:pool_overcommit": "2",
        "disk:pool_min_free": "10G",
    }
    flavor = parse_flavor("m1.large", {"extra_specs": specs})
    limits = {"pack": True, "overcommit": Fraction(2), "min_free": 10 * GIB}
    assert flavor.choices("root") == flavor.choices("ephemeral")
    assert flavor.choices("root") == (
        Choice(labels={"media": "nvme", "tier": "gold"}, **limits),
        Choice(labels={"media": "ssd"}, **limits),
    )
    assert flavor.choices("swap") == (
        Choice(frozenset({"hdd1", "hdd2"}), **limits),
        Choice(frozenset({"hdd3"}), **limits),
    )


def test_extra_specs_of_one_part_leave_the_others_to_the_general_ones():
    specs = {"disk:pool": "ssd", "disk:ephemeral_pool_labels": "media=hdd"}
    assert from_extra_specs("f", specs) == {
        "root": [{"pools": ["ssd"]}],
        "ephemeral": [{"labels": {"media": "hdd"}}],
        "swap": [{"pools": ["ssd"]}],
    }
    assert from_extra_specs("f", {"hw:mem_page_size": "large"}) == {}


@pytest.mark.parametrize(
    ("role", "swap", "part"),
    [
        ("root", False, "root"),
        ("config", False, "root"),
        ("swap", False, "swap"),
        ("swap-2", True, "swap"),
        ("data", False, "ephemeral"),
        ("ephemeral0", False, "ephemeral"),
    ],
)
def test_which_part_a_disk_belongs_to(role, swap, part):
    assert part_of(role, swap) == part


def test_labels_are_compared_as_text():
    assert [label_text(value) for value in (True, False, 1, 1.5, "Gold")] == ["true", "false", "1", "1.5", "Gold"]
    choice = Choice(labels={"tier": "1", "encrypted": "true"})
    assert choice.mismatch("ssd", {"tier": 1, "encrypted": True}) == ""
    assert choice.mismatch("ssd", {"tier": 2, "encrypted": True}) == "its label tier is 2, not 1"
    assert choice.mismatch("ssd", {"tier": 1}) == "it has no label encrypted"
    assert Choice(frozenset({"hdd"})).mismatch("ssd", {}) == "it is not named"
