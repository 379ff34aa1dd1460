# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from ansible_collections.virt.storage.plugins.module_utils._policy.plan import Action, Differences, Plan

DEFINE = Action("define", "pool ssd", "define pool ssd (dir, /srv/ssd)")


def test_an_empty_plan_changes_nothing_and_shows_an_empty_diff():
    assert Plan().to_result() == {
        "changed": False,
        "actions": [],
        "plan": [],
        "diff": {"before": {}, "after": {}, "before_header": "", "after_header": ""},
    }


def test_the_result_lists_sentences_and_costs_in_order():
    copy = Action("copy", "image a", "copy image a (5 bytes)", bytes_to_read=5, bytes_to_write=4, strategy="copy")
    result = Plan((DEFINE, copy), {}, {"pool ssd": {"type": "dir"}}).to_result()
    assert result["changed"] is True
    assert result["actions"] == ["define pool ssd (dir, /srv/ssd)", "copy image a (5 bytes)"]
    assert result["plan"] == [
        {
            "verb": "define",
            "what": "pool ssd",
            "sentence": DEFINE.sentence,
            "bytes_to_read": 0,
            "bytes_to_write": 0,
        },
        {
            "verb": "copy",
            "what": "image a",
            "sentence": copy.sentence,
            "bytes_to_read": 5,
            "bytes_to_write": 4,
            "strategy": "copy",
        },
    ]
    assert result["diff"]["before"] == {}
    assert result["diff"]["after"] == {"pool ssd": {"type": "dir"}}
    assert result["diff"]["before_header"] == result["diff"]["after_header"] == "pool ssd"


def test_plans_of_several_resources_join_in_order():
    stop = Action("stop", "pool hdd", "stop pool hdd")
    joined = Plan.join(
        [
            Plan((DEFINE,), {}, {"pool ssd": {"type": "dir"}}),
            Plan(),
            Plan((stop,), {"pool hdd": {"state": "active"}}, {"pool hdd": {"state": "inactive"}}),
        ]
    )
    assert joined.actions == (DEFINE, stop)
    assert list(joined.before) == ["pool hdd"]
    assert list(joined.after) == ["pool ssd", "pool hdd"]
    assert joined.to_result()["diff"]["after_header"] == "2 resources"


def test_only_what_was_set_is_compared():
    found = Differences()
    assert found.add("autostart", None, True) is False
    assert found.add("mode", "0711", "0711") is False
    assert not found
    assert found.add("owner", 0, None) is True
    assert found.add("labels", {}, {"tier": "fast"}) is True
    assert found
    assert found.names() == ["owner", "labels"]
    assert "owner" in found
    assert "autostart" not in found
    assert found.before == {"owner": None, "labels": {"tier": "fast"}}
    assert found.after == {"owner": 0, "labels": {}}


def test_what_is_free_after_each_step_follows_from_those_before():
    def step(**takes: int | None) -> Action:
        return Action("make", "disk", "make disk", takes=takes)

    plan = Plan((step(ssd=10), DEFINE, step(ssd=5, hdd=-7, elsewhere=1), step(hdd=None), step(hdd=1, ssd=0)))
    assert plan.fill_after({"ssd": (100, 50), "hdd": (200, 0)}) == [
        {"ssd": {"capacity": 100, "free": 40}},
        {},
        {"ssd": {"capacity": 100, "free": 35}, "hdd": {"capacity": 200, "free": 7}},
        {"hdd": {"capacity": 200, "free": None}},
        {"hdd": {"capacity": 200, "free": None}, "ssd": {"capacity": 100, "free": 35}},
    ]
    assert plan.to_result()["plan"][0]["takes"] == {"ssd": 10}
    assert "takes" not in plan.to_result()["plan"][1]
