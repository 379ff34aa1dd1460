# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Plans for pools in volume groups: the group and its thin pool are made, or adopted as they are."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ansible_collections.virt.storage.plugins.module_utils._backends.lvm_names import POOL
from ansible_collections.virt.storage.plugins.module_utils._ground.errors import (
    BadInput,
    InUse,
    LostMetadata,
    StorageError,
)
from ansible_collections.virt.storage.plugins.module_utils._policy.pool_group import (
    FoundGroup,
    GroupWish,
    VolumeGroup,
    checked_group,
)
from ansible_collections.virt.storage.plugins.module_utils._policy.pool_place import THIN_POOL
from ansible_collections.virt.storage.plugins.module_utils._policy.pool_plan import plan
from ansible_collections.virt.storage.plugins.module_utils._policy.pool_xml import Definition, read, write
from ansible_collections.virt.storage.plugins.module_utils._policy.pools import Contents, Found, Wish

GIVEN = {"logical": {"group": "vg0"}}
NEW = Wish("fast", type="logical", sources=GIVEN)
THICK = Found(
    Definition("fast", "logical", "", "3d752bc0-9729-41c3-9e55-9f0202916884", VolumeGroup("vg0")),
    active=True,
    autostart=True,
    group=FoundGroup(exists=True),
)
THIN = replace(THICK, group=FoundGroup(exists=True, thin_pool="virt-storage-pool"))
ABSENT = Found(group=FoundGroup(exists=False))


def sentences(want, have):
    return [action.sentence for action in plan(want, have).actions]


def test_a_group_that_is_made_gets_a_thin_pool_unless_it_is_said_not_to():
    devices = GroupWish(devices=("/dev/sdb", "/dev/sdc"))
    made = plan(replace(NEW, lvm=devices), ABSENT)
    assert [action.sentence for action in made.actions] == [
        "define pool fast (logical, volume group vg0)",
        "make volume group vg0 of /dev/sdb, /dev/sdc",
        "make a thin pool in volume group vg0",
        "start pool fast",
        "enable autostart of pool fast",
    ]
    assert made.after["pool fast"]["logical"] == {
        "group": "vg0",
        "devices": ["/dev/sdb", "/dev/sdc"],
        "thin_pool": "virt-storage-pool",
    }
    assert made.after["pool fast"]["logical"]["thin_pool"] == THIN_POOL == POOL
    assert "make a thin pool" not in str(sentences(replace(NEW, lvm=replace(devices, thin=False)), ABSENT))


def test_a_group_that_is_there_stays_as_it_is_unless_it_is_asked_for_a_thin_pool():
    assert plan(Wish("fast", lvm=GroupWish(devices=("/dev/sdb",))), THICK).changed is False
    assert plan(Wish("fast", lvm=GroupWish(thin=False)), THICK).changed is False
    assert plan(Wish("fast", lvm=GroupWish(thin=True)), THIN).changed is False
    assert sentences(Wish("fast", lvm=GroupWish(thin=True)), THICK) == ["make a thin pool in volume group vg0"]
    changed = plan(Wish("fast", lvm=GroupWish(thin_pool="tp")), THICK)
    assert [action.sentence for action in changed.actions] == ["have the disks of pool fast in the thin pool vg0/tp"]
    assert changed.before["pool fast"] == {"logical": {"thin_pool": ""}}
    assert changed.after["pool fast"] == {"logical": {"thin_pool": "tp"}}


def test_disks_do_not_change_from_thick_to_thin_or_from_pool_to_pool():
    for wish in (GroupWish(thin=False), GroupWish(thin_pool="tp")):
        with pytest.raises(StorageError, match="stand in its thin pool virt-storage-pool"):
            plan(Wish("fast", lvm=wish), THIN)
    held = replace(THICK, contents=Contents(images=("debian-12+9f86d081+k7d2m4q9xa3e",)))
    with pytest.raises(InUse, match="thick"):
        plan(Wish("fast", lvm=GroupWish(thin=True)), held)
    unread = replace(THICK, contents=Contents(problem="The records cannot be read."))
    with pytest.raises(LostMetadata, match="cannot be read"):
        plan(Wish("fast", lvm=GroupWish(thin=True)), unread)
    assert plan(Wish("fast", lvm=GroupWish(thin=False)), unread).changed is False


def test_what_a_group_cannot_be_is_said():
    with pytest.raises(BadInput, match=r"say logical\.group"):
        plan(Wish("fast", type="logical"), Found())
    with pytest.raises(BadInput, match=r"logical\.thin .* need state=active"):
        plan(Wish("fast", state="inactive", lvm=GroupWish(thin=True)), THICK)
    with pytest.raises(StorageError, match="no volume group"):
        plan(NEW, replace(ABSENT, obstacle="There is no volume group vg0."))
    for given in ({"group": "a/b"}, {"group": ".."}, {"group": "-a"}, {"thin": False, "thin_pool": "tp"}):
        with pytest.raises(BadInput):
            checked_group(given)
    assert checked_group({"group": "vg0", "devices": ["/dev//sdb"], "thin": None, "thin_pool": ""}) == (
        {"group": "vg0"},
        GroupWish(devices=("/dev/sdb",)),
    )


def test_a_definition_survives_writing_and_reading():
    assert read(write(THICK.definition)) == THICK.definition
    libvirt = write(THICK.definition).replace("</pool>", "<target><path>/dev/vg0</path></target></pool>")
    assert read(libvirt) == THICK.definition
    moved = write(replace(THICK.definition, source=VolumeGroup("vg1")), onto=libvirt)
    assert read(moved).group == "vg1"
