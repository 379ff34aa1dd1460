# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Damaged records become lost ones; nothing else does."""

from __future__ import annotations

import json
import os

import pytest

from ansible_collections.virt.storage.plugins.module_utils._ground.errors import LostMetadata, NewerSchema
from ansible_collections.virt.storage.plugins.module_utils._records.folder import FolderStore
from ansible_collections.virt.storage.plugins.module_utils._records.types import Disk, State, Volume, disk_id

ID = disk_id("web1", "root", "aaaaaaaaaaaa")
IMAGE = "image+base+0123456789abcdef+aaaaaaaaaaaa"


@pytest.fixture
def store(tmp_path):
    made = FolderStore.make(str(tmp_path / "store"))
    made.create(Disk(ID, "web1", "root", 1, Volume("x.qcow2", "qcow2"), "2026", "o", IMAGE), State.READY)
    made.refer(IMAGE, ID)
    return made


def damage(store, text):
    body = os.path.join(store.root, "records", ID)
    with open(body, "r+", encoding="utf-8") as file:
        file.truncate()
        file.write(text)


def test_a_damaged_record_is_lost_and_its_reference_stays(store):
    damage(store, "{")
    assert store.drop(ID, State.READY)
    assert store.states().states == {}
    assert list(store.references(IMAGE)) == [ID]
    with pytest.raises(LostMetadata, match="There is no record"):
        store.read(ID)


def test_a_record_that_can_be_read_stays(store):
    assert "can be read" in store.drop(ID, State.READY).why
    assert store.states().states == {ID: State.READY}


def test_a_record_that_moved_meanwhile_stays(store):
    damage(store, "{")
    store.swap(ID, State.READY, State.DELETING)
    for state in (State.READY, State.MOVING):
        assert not store.drop(ID, state)
    assert store.states().states == {ID: State.DELETING}


def test_a_newer_record_stays(store):
    damage(store, json.dumps({"schema": 99, "kind": "disk"}))
    with pytest.raises(NewerSchema):
        store.drop(ID, State.READY)
    assert store.states().states == {ID: State.READY}


def test_a_damaged_record_without_a_state_is_lost(store):
    damage(store, "{")
    os.unlink(os.path.join(store.root, "records", f"{ID}.ready"))
    assert store.drop(ID, State.MOVING)
    assert store.states().states == {}


def test_one_that_was_dropped_half_is_dropped_whole(store):
    damage(store, "{")
    os.unlink(os.path.join(store.root, "records", ID))
    assert store.states().states == {ID: State.READY}
    assert store.drop(ID, State.READY)
    assert store.states().states == {}
