# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a conversion takes, judged from descriptions."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ansible_collections.virt.storage.plugins.module_utils._policy.conversion import (
    Conversion,
    OldBase,
    OldDisk,
    OldInstance,
    Site,
    agreed,
    plan_conversion,
    shown,
)

BASE = OldBase("/i/_base/b", "b", 1000, "raw")
DISK = OldDisk("root", "/i/u/disk", 2000, "qcow2", {"disk.info": "qcow2"}, base=BASE.path)
ONE = OldInstance("u", (DISK,))
SITE = Site("pool", 1 << 30)


def plan(*instances: OldInstance, base: OldBase = BASE, site: Site = SITE) -> Conversion:
    return plan_conversion(instances, {base.path: base}, site)


@pytest.mark.parametrize(
    ("said", "word", "format"),
    [
        ({"disk.info": "raw"}, "", "raw"),
        ({"disk.info": "raw", "the definition of x": "raw"}, "", "raw"),
        ({"disk.info": "raw", "the definition of x": "qcow2"}, "", ""),
        ({"disk.info": "raw", "the definition of x": "qcow2"}, "qcow2", "qcow2"),
        ({"the definition of x": "vmdk"}, "", ""),
        ({}, "", ""),
        ({}, "raw", "raw"),
    ],
)
def test_formats_are_agreed_on_or_stated(said: dict[str, str], word: str, format: str) -> None:
    found, why = agreed(said, word)
    assert found == format
    assert bool(why) == (not format)


def test_an_instance_that_is_off() -> None:
    found = plan(ONE)
    assert [action.verb for action in found.plan().actions] == ["adopt", "adopt", "point"]
    assert found.bytes_to_copy == 0
    assert [action.bytes_to_write for action in found.plan().actions] == [0, 0, 0]
    assert "1 converted at once" in found.verdict


def test_what_is_in_use_waits_with_its_header_alone() -> None:
    found = plan(replace(ONE, users="guest g (running, vda)", guest="g", state="running"))
    (judged,) = found.judged
    assert judged.verdict == "waits"
    assert [step.action.verb for step in judged.now] == ["adopt"]
    assert [step.action.verb for step in judged.later] == ["point"]
    assert [step["when"] for step in shown(judged)["steps"]] == ["now", "later"]


def test_a_base_that_is_not_raw_is_copied_once() -> None:
    found = plan(ONE, replace(ONE, name="v"), base=replace(BASE, format="qcow2"))
    assert found.bytes_to_copy == 1000
    assert found.bytes_needed > 1000


def test_a_base_on_another_file_system_is_copied() -> None:
    assert plan(ONE, base=replace(BASE, near=False)).bytes_to_copy == 1000


def test_a_flaw_of_a_base_refuses_those_on_it_and_nobody_else() -> None:
    other = OldInstance("v", (OldDisk("root", "/i/v/disk", 5, "raw", {"disk.info": "raw"}),))
    found = plan(ONE, other, base=replace(BASE, flaw="quarantined"))
    assert [each.verdict for each in found.judged] == ["refused", "converts"]
    assert found.bases == ()
    assert [base.path for base in found.hostile] == [BASE.path]


def test_a_base_that_nobody_who_is_converted_needs_stays() -> None:
    assert plan(replace(ONE, flaws=("it is being resized",))).bases == ()


def test_nothing_is_left_to_do() -> None:
    done = replace(DISK, record="u+root+x", pointed=True, base="")
    found = plan(replace(ONE, disks=(done,), settled=True))
    assert found.plan().actions == ()
    assert found.judged[0].verdict == "converted"


def test_a_definition_is_spelt_out_once_for_all_disks() -> None:
    two = (replace(DISK, described=False), replace(DISK, role="swap", described=False))
    found = plan(replace(ONE, disks=two, guest="g"))
    assert [action.verb for action in found.plan().actions].count("describe") == 1


def test_room_for_the_records() -> None:
    found = plan(ONE, site=replace(SITE, available=10))
    assert "cannot be converted now: the run needs" in found.verdict
    assert plan(ONE, site=replace(SITE, obstacle="Nova runs")).verdict.endswith("Nova runs")


def test_raw_in_the_refreshed_folder_goes_when_it_is_off() -> None:
    raw = OldDisk("root", "/p/disk.img", 5, "raw", {"x": "raw"}, out=False)
    off, live = plan(OldInstance("a", (raw,))), plan(OldInstance("a", (raw,), users="process 1"))
    assert [action.verb for action in off.plan().actions] == ["adopt", "move"]
    assert [action.verb for action in live.plan().actions] == ["adopt"]


def test_a_clone_is_flattened_by_choice_when_it_is_off() -> None:
    disk = OldDisk("root", "u_disk", 3000, "raw", {"the backend": "raw"}, in_place=True, parent="images/x@snap")
    kept = plan(OldInstance("u", (disk,)))
    (action,) = kept.plan().actions
    assert (action.verb, kept.bytes_to_copy) == ("adopt", 0)
    assert "goes on standing on images/x@snap" in str(action.reason)
    chosen = OldInstance("u", (replace(disk, flatten=True),))
    found = plan(chosen)
    assert [action.verb for action in found.plan().actions] == ["adopt", "flatten"]
    assert found.bytes_to_copy == 3000
    waits = plan(replace(chosen, users="a client"))
    assert (waits.judged[0].verdict, waits.bytes_to_copy) == ("waits", 0)
