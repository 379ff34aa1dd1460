# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which images a task means that takes some out of use."""

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.virt.storage.plugins.module_utils._algorithms.pool import Pool
from ansible_collections.virt.storage.plugins.module_utils._backends.file import CAPABILITIES, PRIVATE, FileVolumes
from ansible_collections.virt.storage.plugins.module_utils._backends.perform import Parts, Performer
from ansible_collections.virt.storage.plugins.module_utils._ground.command import Runner
from ansible_collections.virt.storage.plugins.module_utils._ground.drive import drive_one
from ansible_collections.virt.storage.plugins.module_utils._ground.errors import LostMetadata
from ansible_collections.virt.storage.plugins.module_utils._records.folder import POOL, FolderStore
from ansible_collections.virt.storage.plugins.module_utils._records.types import Image, State, image_id
from ansible_collections.virt.storage.plugins.module_utils._tasks.cached_image import _leaving


def test_an_image_whose_record_cannot_be_read_is_not_taken_for_gone(tmp_path: Path) -> None:
    store, volumes = FolderStore.make(str(tmp_path / PRIVATE)), FileVolumes(str(tmp_path), Runner())
    volumes.prepare()
    ids = [image_id(name, f"sha256:{name}", "0" * 12) for name in ("sound", "broken")]
    for record_id in ids:
        volume = CAPABILITIES.image_volume(record_id)
        (tmp_path / volume.name).write_bytes(b"x")
        name = record_id.split("+")[1]
        store.create(
            Image(record_id, f"sha256:{name}", name, "/source", volume, "2026-01-01T00:00:00.000000Z", "owner+x"),
            State.READY,
        )
    for label, record_id in {"sound": ids[0], "now": ids[1]}.items():
        store.note(POOL, f"label+{label}", {"id": record_id, "identity": "x"})
    (tmp_path / PRIVATE / "records" / ids[1]).write_text("nonsense")
    pool, performer = Pool("p", CAPABILITIES, "owner+x"), Performer({"p": Parts(store, volumes)}, write=False)
    for wanted in ("now", ids[1], "broken", "sha256:broken"):
        with pytest.raises(LostMetadata, match="by hand"):
            drive_one(_leaving(pool, ["sound", wanted]), performer)
    for wanted in ("sound", "sha256:sound", ids[0]):
        (leaving,) = drive_one(_leaving(pool, [wanted]), performer)
        assert leaving.seen.image.id == ids[0]
