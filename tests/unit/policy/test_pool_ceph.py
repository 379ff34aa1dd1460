# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Plans for pools on Ceph: their secret, and what changes while they run."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from ansible_collections.virt.storage.plugins.module_utils._ground.errors import BadInput, InUse, StorageError
from ansible_collections.virt.storage.plugins.module_utils._policy.pool_ceph import CephSource, secret_uuid
from ansible_collections.virt.storage.plugins.module_utils._policy.pool_plan import plan
from ansible_collections.virt.storage.plugins.module_utils._policy.pool_wished import wished_definition
from ansible_collections.virt.storage.plugins.module_utils._policy.pool_xml import Definition, read, write
from ansible_collections.virt.storage.plugins.module_utils._policy.pools import Contents, Found, Keys, Wish

OLD, NEW = "b2xkb2xkb2xkb2xkb2xkb2xk", "bmV3bmV3bmV3bmV3bmV3bmV3"
OWN = secret_uuid("vms")
FOREIGN = "3d752bc0-9729-41c3-9e55-9f0202916884"
SOURCE = CephSource("vms", ("10.0.0.1:3300",), "libvirt", secret=OWN)
RUNNING = Found(Definition("vms", "rbd", "", FOREIGN, SOURCE), active=True, autostart=True, keys=Keys(OLD, OLD))
GIVEN = {"pool": "vms", "monitors": ("10.0.0.1:3300",), "user": "libvirt"}


def verbs(want, have):
    return [action.verb for action in plan(want, have).actions]


def adopted(used):
    """A pool with a secret that somebody else made, with the key ``used``, or private."""
    source = replace(SOURCE, secret=FOREIGN)
    return replace(RUNNING, definition=replace(RUNNING.definition, source=source), keys=Keys(used, None))


def test_a_new_pool_gets_a_secret_of_its_own_before_it_is_defined():
    want = Wish("vms", type="rbd", sources={"rbd": GIVEN}, key=NEW)
    made = plan(want, Found())
    assert [action.verb for action in made.actions] == ["entrust", "define", "start", "enable"]
    assert made.after["pool vms"]["rbd"] == {
        "pool": "vms",
        "namespace": "",
        "monitors": ["10.0.0.1:3300"],
        "user": "libvirt",
        "secret": OWN,
        "key": "new",
    }
    assert "path" not in made.after["pool vms"]
    assert NEW not in json.dumps(made.to_result())
    assert NEW not in repr(want) + repr(wished_definition(want, Found()))


def test_a_secret_that_a_killed_task_left_is_used_and_an_absent_pool_takes_it_along():
    left = Found(keys=Keys(None, NEW))
    assert verbs(Wish("vms", type="rbd", sources={"rbd": GIVEN}, key=NEW), left) == ["define", "start", "enable"]
    assert verbs(Wish("vms", state="absent"), left) == ["forget"]
    assert plan(Wish("vms", state="absent"), Found()).changed is False


def test_the_key_of_a_running_pool_is_changed_in_its_secret_alone():
    assert plan(Wish("vms", key=OLD), RUNNING).changed is False
    changed = plan(Wish("vms", key=NEW), RUNNING)
    assert [action.verb for action in changed.actions] == ["entrust"]
    assert (changed.before, changed.after) == (
        {"pool vms": {"rbd": {"key": "as it was"}}},
        {"pool vms": {"rbd": {"key": "changed"}}},
    )
    assert not {NEW, OLD} & set(json.dumps(changed.to_result()).split('"'))


def test_a_foreign_secret_stays_while_its_key_is_right_and_is_never_written():
    assert plan(Wish("vms"), adopted(OLD)).changed is False
    assert plan(Wish("vms", key=OLD), adopted(OLD)).changed is False
    for used in (OLD, None):
        with pytest.raises(InUse, match="not redefined"):
            plan(Wish("vms", key=NEW), adopted(used))
        stopped = replace(adopted(used), active=False)
        assert verbs(Wish("vms", key=NEW), stopped) == ["entrust", "redefine", "start"]
        assert plan(Wish("vms", key=NEW), stopped).after["pool vms"]["rbd"] == {"secret": OWN, "key": "new"}


def test_monitors_and_namespace_are_changed_only_while_it_is_stopped():
    for given in ({"monitors": ("10.0.0.2",)}, {"namespace": "tenant"}, {"pool": "other"}):
        with pytest.raises(InUse, match="not redefined"):
            plan(Wish("vms", sources={"rbd": given}), RUNNING)
        assert verbs(Wish("vms", sources={"rbd": given}), replace(RUNNING, active=False)) == ["redefine", "start"]
    spaced = replace(
        RUNNING, active=False, definition=replace(RUNNING.definition, source=replace(SOURCE, namespace="x"))
    )
    assert plan(Wish("vms", sources={"rbd": {"namespace": ""}}), spaced).after["pool vms"]["rbd"] == {"namespace": ""}


def test_what_is_missing_or_does_not_belong_is_said():
    with pytest.raises(BadInput, match=r"say rbd\.pool to have it made"):
        plan(Wish("vms", type="rbd", sources={"rbd": {}}), Found())
    with pytest.raises(BadInput, match="option path"):
        plan(Wish("vms", type="rbd", path="/x", sources={"rbd": GIVEN}), Found())
    with pytest.raises(BadInput, match="option netfs"):
        plan(Wish("vms", sources={"netfs": {"host": "nas"}}), RUNNING)
    with pytest.raises(BadInput, match="option rbd"):
        plan(Wish("ssd", type="dir", path="/x", sources={"rbd": GIVEN}), Found())
    with pytest.raises(BadInput, match="folder"):
        plan(Wish("vms", mode=0o711), RUNNING)


def test_a_cluster_that_cannot_be_used_stops_only_what_needs_it():
    away = replace(RUNNING, obstacle="The monitors do not answer.", contents=None)
    with pytest.raises(StorageError, match="do not answer"):
        plan(Wish("vms"), away)
    assert verbs(Wish("vms", state="inactive"), away) == ["stop"]
    assert verbs(Wish("vms", state="absent"), away) == ["stop", "undefine", "forget"]
    with pytest.raises(StorageError):
        plan(Wish("vms", state="absent", remove_contents=True), away)


def test_the_secret_stays_for_guests_that_name_it():
    used = replace(RUNNING, keys=Keys(OLD, OLD, ("web1 (off, vda)",)))
    assert verbs(Wish("vms", state="absent"), used) == ["stop", "undefine"]
    gone = plan(Wish("vms", state="absent", remove_contents=True), replace(RUNNING, contents=Contents()))
    assert gone.actions[0].sentence == "remove the records of pool vms, which holds nothing else"
    assert [action.verb for action in gone.actions] == ["remove", "stop", "undefine", "forget"]


def test_a_definition_survives_writing_and_reading():
    for source in (
        SOURCE,
        CephSource("vms", ("10.0.0.1", "[fd00::1]:3300", "[fd00::2]", "mon:6789"), "nova", "tenant", secret=FOREIGN),
        CephSource("vms", ("a",), "nova", usage="client.nova secret"),
        CephSource("vms", ("a",)),
    ):
        assert read(write(Definition("vms", "rbd", "", None, source))).source == source
    assert "<target>" not in write(RUNNING.definition)


def test_what_is_not_ours_in_a_definition_stays():
    xml = write(replace(RUNNING.definition, source=replace(SOURCE, namespace="tenant")))
    xml = xml.replace("<source>", "<source><initiator/>").replace("</pool>", "<refresh/></pool>")
    moved = write(replace(RUNNING.definition, source=replace(SOURCE, monitors=("b", "c"))), onto=xml)
    assert read(moved).ceph == replace(SOURCE, monitors=("b", "c"))
    assert "<initiator />" in moved
    assert "<refresh />" in moved
    assert "10.0.0.1" not in moved


def test_the_secret_of_a_pool_has_one_uuid_for_ever():
    """Guests name it: a release that derives another one cuts them off from their disks."""
    assert secret_uuid("vms") == "460b75f7-1409-51a9-8cff-82e63a4d64e3"
    assert secret_uuid("other") != OWN
