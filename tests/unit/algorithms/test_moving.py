# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A mark names a pool as the host calls it that made it, and others may call another so; what it leads to stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.virt.storage.plugins.module_utils._algorithms import reclaim as reclaiming
from ansible_collections.virt.storage.plugins.module_utils._algorithms.moving import MOVES, Mark, settle_moves
from ansible_collections.virt.storage.plugins.module_utils._algorithms.pool import Pool
from ansible_collections.virt.storage.plugins.module_utils._backends.file import CAPABILITIES, PRIVATE, FileVolumes
from ansible_collections.virt.storage.plugins.module_utils._backends.perform import Parts, Performer
from ansible_collections.virt.storage.plugins.module_utils._ground.command import Runner
from ansible_collections.virt.storage.plugins.module_utils._ground.drive import drive_one
from ansible_collections.virt.storage.plugins.module_utils._ground.errors import StorageError
from ansible_collections.virt.storage.plugins.module_utils._records.folder import FolderStore
from ansible_collections.virt.storage.plugins.module_utils._records.types import Disk, State, disk_id


def parts(root: Path) -> Parts:
    store, volumes = FolderStore.make(str(root / PRIVATE)), FileVolumes(str(root), Runner())
    volumes.prepare()
    return Parts(store, volumes)


def a_copy() -> Disk:
    copy = disk_id("web1", "root", "c" * 12)
    volume = CAPABILITIES.disk_volume(copy, "raw")
    moved = {"moved": {"pool": "shared", "id": disk_id("web1", "root", "a" * 12)}}
    return Disk(copy, "web1", "root", 1 << 20, volume, "2026-01-01T00:00:00.000000Z", "owner+x", origin=moved)


def test_what_a_mark_leads_to_is_not_forgotten_before_the_mark_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared, ours = parts(tmp_path / "shared"), parts(tmp_path / "ours")
    perform = Performer({"shared": shared, "ssd": ours})
    pools = {name: Pool(name, CAPABILITIES, "owner+me", lease=0.1) for name in ("shared", "ssd")}
    body = a_copy()
    ours.records.create(body, State.PENDING)
    shared.records.refer(MOVES, str(Mark(body.id, "ssd")))
    monkeypatch.setattr(reclaiming, "KEEP_ENDED", 0.0)
    for _unused in range(2):  # takes the copy back, of which the mover is dead; then has it gone for long
        drive_one(reclaiming.reclaim(pools["ssd"]), perform)
        assert ours.records.states().state(body.id) is State.GONE
    assert drive_one(settle_moves(pools["shared"], pools, "web1", "root"), perform) is None
    assert list(shared.records.references(MOVES)) == []
    drive_one(reclaiming.reclaim(pools["ssd"]), perform)
    assert ours.records.states().state(body.id) is None


def test_a_pool_that_is_only_called_so_does_not_tell_what_came_of_a_move(tmp_path: Path) -> None:
    shared, theirs, ours = (parts(tmp_path / name) for name in ("shared", "theirs", "ours"))
    body = a_copy()
    theirs.records.create(body, State.READY)
    mark = str(Mark(body.id, "ssd"))
    shared.records.refer(MOVES, mark)
    pools = {name: Pool(name, CAPABILITIES, "owner+me") for name in ("shared", "ssd")}
    with pytest.raises(StorageError, match="cannot be seen"):
        drive_one(settle_moves(pools["shared"], pools, "web1", "root"), Performer({"shared": shared, "ssd": ours}))
    assert mark in shared.records.references(MOVES)
    there = drive_one(
        settle_moves(pools["shared"], pools, "web1", "root"), Performer({"shared": shared, "ssd": theirs})
    )
    assert there == body
    assert list(shared.records.references(MOVES)) == []
