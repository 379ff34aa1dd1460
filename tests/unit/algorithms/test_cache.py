# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is told of an image that was removed is true, and a fill that fails leaves its turn to the next."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.virt.storage.plugins.module_utils._algorithms.cache import (
    Cached,
    Disposed,
    ImageWish,
    fill,
    retire,
)
from ansible_collections.virt.storage.plugins.module_utils._algorithms.pool import Pool, attend, depart
from ansible_collections.virt.storage.plugins.module_utils._backends.file import CAPABILITIES, PRIVATE, FileVolumes
from ansible_collections.virt.storage.plugins.module_utils._backends.perform import Parts, Performer
from ansible_collections.virt.storage.plugins.module_utils._ground.command import Runner
from ansible_collections.virt.storage.plugins.module_utils._ground.contents import Literal
from ansible_collections.virt.storage.plugins.module_utils._ground.drive import Failure, Reply, drive, drive_one
from ansible_collections.virt.storage.plugins.module_utils._ground.errors import StorageError
from ansible_collections.virt.storage.plugins.module_utils._ground.ops import Op, Outcome, refused
from ansible_collections.virt.storage.plugins.module_utils._records.folder import FolderStore
from ansible_collections.virt.storage.plugins.module_utils._records.types import Image, State, image_id


class Forgetful(FolderStore):
    """Its server does what it is asked to do, and loses the replies."""

    def swap(self, record_id: str, was: State, now: State) -> Outcome:
        super().swap(record_id, was, now)
        return refused("there was no reply")


def test_an_image_is_removed_although_the_replies_get_lost(tmp_path: Path) -> None:
    FolderStore.make(str(tmp_path / PRIVATE))
    store, volumes = Forgetful(str(tmp_path / PRIVATE)), FileVolumes(str(tmp_path), Runner())
    volumes.prepare()
    record_id = image_id("base", "key", "a" * 12)
    volume = CAPABILITIES.image_volume(record_id)
    image = Image(record_id, "key", "base", "/source", volume, "2026-01-01T00:00:00.000000Z", "owner+x")
    (tmp_path / volume.name).write_bytes(b"x")
    store.create(image, State.READY)
    performer = Performer({"p": Parts(store, volumes)})
    assert drive_one(retire(Pool("p", CAPABILITIES, "owner+x"), image, State.READY), performer) == Disposed(
        removed=True
    )
    assert not (tmp_path / volume.name).exists()
    assert store.states().state(record_id) is State.GONE


class Broken(Performer):
    """Each of ``failing``, names of primitives, gets no answer once. Ends after a time that no test here needs."""

    def __init__(self, parts: Parts, failing: list[str]) -> None:
        super().__init__({"p": parts})
        self.failing, self._until = failing, time.monotonic() + 15

    def __call__(self, waiting: Mapping[int, Op[Any]]) -> Mapping[int, Reply]:
        if time.monotonic() > self._until:
            raise TimeoutError(f"the tasks wait for {list(waiting.values())}")
        for number, op in waiting.items():
            if op.primitive in self.failing:
                self.failing.remove(op.primitive)
                return {number: Failure(StorageError(f"no answer to {op.primitive}"))}
        return super().__call__(waiting)


@pytest.mark.parametrize("failing", [["probe"], ["create", "swap"], ["note", "swap"], ["swap"]], ids="-".join)
def test_who_wants_an_image_goes_on_when_the_fill_before_broke_off(tmp_path: Path, failing: list[str]) -> None:
    FolderStore.make(str(tmp_path / PRIVATE))
    store, volumes = FolderStore(str(tmp_path / PRIVATE), beat_seconds=0.05), FileVolumes(str(tmp_path), Runner())
    volumes.prepare()
    pool, performer = Pool("p", CAPABILITIES, "owner+x", lease=0.8), Broken(Parts(store, volumes), [])
    drive_one(attend(pool), performer)
    performer.failing = list(failing)
    wishes = [ImageWish("sha256:a+raw", name, Literal(lambda: bytes(512))) for name in ("one", "two")]
    first, second = drive([fill(pool, wish) for wish in wishes], performer)
    assert str(first.error) == f"no answer to {failing[-1]}"
    assert isinstance(second.unwrap(), Cached)
    assert store.states().state(second.value.image.id) is State.READY
    drive_one(depart(pool), performer)
    assert store.busy() == ()
