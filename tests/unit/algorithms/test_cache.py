# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is told of an image that was removed is true."""

from __future__ import annotations

from pathlib import Path

from ansible_collections.virt.storage.plugins.module_utils._algorithms.cache import Disposed, retire
from ansible_collections.virt.storage.plugins.module_utils._algorithms.pool import Pool
from ansible_collections.virt.storage.plugins.module_utils._backends.file import CAPABILITIES, PRIVATE, FileVolumes
from ansible_collections.virt.storage.plugins.module_utils._backends.perform import Parts, Performer
from ansible_collections.virt.storage.plugins.module_utils._ground.command import Runner
from ansible_collections.virt.storage.plugins.module_utils._ground.drive import drive_one
from ansible_collections.virt.storage.plugins.module_utils._ground.ops import Outcome, refused
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
