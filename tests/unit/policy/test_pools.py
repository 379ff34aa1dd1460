# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What plans for pools cannot be shown on a host without an NFS server: the rest is in the integration tests."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ansible_collections.virt.storage.plugins.module_utils._ground.errors import InUse, StorageError
from ansible_collections.virt.storage.plugins.module_utils._policy.pool_nfs import NfsExport
from ansible_collections.virt.storage.plugins.module_utils._policy.pool_plan import plan
from ansible_collections.virt.storage.plugins.module_utils._policy.pool_xml import Definition
from ansible_collections.virt.storage.plugins.module_utils._policy.pools import Contents, Folder, Found, Wish

SHARED = Definition("shared", "netfs", "/srv/shared", "3d752bc0-9729-41c3-9e55-9f0202916884", NfsExport("nas", "/x"))
MOUNTED = Found(
    SHARED, active=True, autostart=True, folder=Folder(True, 0o755, "root", "root"), mount="rw,vers=4.2,hard"
)
STOPPED = replace(MOUNTED, active=False, mount="", contents=None)


def sentences(want, have):
    return [action.sentence for action in plan(want, have).actions]


def test_a_mounted_export_that_will_do_needs_nothing():
    assert plan(Wish("shared"), MOUNTED).changed is False


def test_a_mounted_export_that_will_not_do_is_refused_and_can_be_stopped():
    for mount, said in (("rw,vers=3", "version 3"), ("rw,vers=4.2,nocto", "nocto"), ("", "version unknown")):
        with pytest.raises(StorageError, match=said):
            plan(Wish("shared"), replace(MOUNTED, mount=mount))
        assert sentences(Wish("shared", state="inactive"), replace(MOUNTED, mount=mount)) == ["stop pool shared"]


def test_labels_of_an_export_that_is_not_mounted_are_set_unseen():
    want = Wish("shared", labels={"tier": "cheap"}, limits={"max_age": 60})
    assert sentences(want, STOPPED) == [
        "start pool shared",
        "label pool shared (tier=cheap)",
        "limit the image cache of pool shared (max_age 60)",
    ]
    assert plan(want, STOPPED).before["pool shared"]["labels"] is None
    same = replace(MOUNTED, contents=Contents(labels={"tier": "cheap"}, limits={"max_age": 60}))
    assert plan(want, same).changed is False


def test_contents_of_an_export_that_is_not_mounted_are_not_removed_unseen():
    with pytest.raises(StorageError, match="start it first"):
        plan(Wish("shared", state="absent", remove_contents=True), STOPPED)


def test_contents_go_while_the_pool_is_still_mounted():
    assert [step.verb for step in plan(Wish("shared", state="absent", remove_contents=True), MOUNTED).actions] == [
        "remove",
        "stop",
        "undefine",
    ]


def test_nobody_removes_the_records_of_a_pool_that_somebody_works_in():
    have = replace(MOUNTED, contents=Contents(busy=("owner+host+1",)))
    with pytest.raises(InUse, match="at work: owner"):
        plan(Wish("shared", state="absent", remove_contents=True), have)


def test_an_export_is_changed_by_field_and_only_while_it_is_stopped():
    want = Wish("shared", sources={"netfs": {"version": "4.2"}})
    with pytest.raises(InUse, match="not redefined"):
        plan(want, MOUNTED)
    changed = plan(want, STOPPED)
    assert [step.verb for step in changed.actions] == ["redefine", "start"]
    assert changed.after["pool shared"]["netfs"] == {"version": "4.2"}


def test_long_lists_are_counted_in_messages_and_whole_in_facts():
    names = tuple(f"disk{number}" for number in range(1000))
    with pytest.raises(InUse) as refusal:
        plan(Wish("shared", state="absent", remove_contents=True), replace(MOUNTED, contents=Contents(disks=names)))
    assert "disk4 and 995 more" in refusal.value.message
    assert len(refusal.value.facts["disks"]) == 1000
