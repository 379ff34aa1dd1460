# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a pool keeps about itself may be damaged, or be out of reach: nothing is given up for want of a name, a pin or a
limit, and nothing that stands is overwritten."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.virt.storage.plugins.module_utils._algorithms.pool import Pool
from ansible_collections.virt.storage.plugins.module_utils._backends.file import CAPABILITIES, PRIVATE, FileVolumes
from ansible_collections.virt.storage.plugins.module_utils._backends.perform import Parts, Performer
from ansible_collections.virt.storage.plugins.module_utils._ground.command import Runner
from ansible_collections.virt.storage.plugins.module_utils._ground.drive import drive_one
from ansible_collections.virt.storage.plugins.module_utils._ground.errors import LostMetadata, StorageError
from ansible_collections.virt.storage.plugins.module_utils._policy.pool_xml import Definition
from ansible_collections.virt.storage.plugins.module_utils._records import folder
from ansible_collections.virt.storage.plugins.module_utils._records.folder import POOL, FolderStore
from ansible_collections.virt.storage.plugins.module_utils._records.types import Image, State, image_id
from ansible_collections.virt.storage.plugins.module_utils._tasks.cache_policy import _survey, prune_plan
from ansible_collections.virt.storage.plugins.module_utils._tasks.kinds import Surroundings
from ansible_collections.virt.storage.plugins.module_utils._tasks.pool_contents import (
    read_contents,
    write_labels,
    write_limits,
)


@pytest.mark.parametrize("limits", [{"max_count": "many"}, {"max_age": {}}, {"max_bytes": "10X"}, "none", [1]], ids=str)
def test_a_limit_that_is_none_is_one_sentence_and_can_be_set_anew(tmp_path: Path, limits: Any) -> None:
    store, volumes = FolderStore.make(str(tmp_path / PRIVATE)), FileVolumes(str(tmp_path), Runner())
    volumes.prepare()
    pool, performer = Pool("p", CAPABILITIES, "owner+x"), Performer({"p": Parts(store, volumes)}, write=False)
    store.note(POOL, "config", {"limits": limits, "labels": "x"})
    with pytest.raises(LostMetadata, match=r"^Pool p keeps a limit .* set it with libvirt_pool: .*\.$"):
        drive_one(_survey(pool, {}, []), performer)
    host: Any = None
    definition, around = Definition("p", "dir", path=str(tmp_path)), Surroundings(host, Runner())
    assert read_contents(definition, around).labels == {}
    write_limits(definition, around, {"max_count": 3, "max_age": 0, "max_bytes": 0})
    assert drive_one(_survey(pool, {}, []), performer).limits.max_count == 3


IMAGE = image_id("base", "key", "0" * 12)


@pytest.fixture
def cache(tmp_path: Path) -> tuple[FolderStore, Pool, Performer]:
    """A pool with one image, which is pinned by its name and would go by its age."""
    store, volumes = FolderStore.make(str(tmp_path / PRIVATE)), FileVolumes(str(tmp_path), Runner())
    volumes.prepare()
    volume = CAPABILITIES.image_volume(IMAGE)
    (tmp_path / volume.name).write_bytes(b"x")
    created = "2020-01-01T00:00:00.000000Z"
    store.create(Image(IMAGE, "key", "base", "/source", volume, created, "owner+x"), State.READY)
    store.note(POOL, "config", {"limits": {"max_age": 3600}, "labels": {"tier": "gold"}})
    return store, Pool("p", CAPABILITIES, "owner+x"), Performer({"p": Parts(store, volumes)}, write=False)


@pytest.mark.parametrize("why", [errno.EIO, errno.ESTALE, errno.EACCES], ids=errno.errorcode.get)
@pytest.mark.parametrize("topic", ["label+base", "config", "use"])
def test_facts_that_cannot_be_looked_at_are_not_none(
    cache: tuple[FolderStore, Pool, Performer], monkeypatch: pytest.MonkeyPatch, topic: str, why: int
) -> None:
    store, pool, performer = cache
    store.note(POOL, "label+base", {"id": IMAGE, "identity": "x", "pinned": True})
    store.note(IMAGE, "use", {"at": "2021-01-01T00:00:00.000000Z"})
    read = folder.read_file

    def fails(path: str) -> bytes:
        if os.path.basename(path) == topic:
            raise OSError(why, os.strerror(why), path)
        return read(path)

    monkeypatch.setattr(folder, "read_file", fails)
    with pytest.raises(StorageError, match=topic.replace("+", r"\+")) as raised:
        drive_one(_survey(pool, {}, []), performer)
    assert raised.value.facts["errno"] == why
    host: Any = None
    definition = Definition("p", "dir", path=os.path.dirname(store.root))
    if topic == "config":
        with pytest.raises(OSError, match="config"):
            write_labels(definition, Surroundings(host, Runner()), {"tier": "lead"})
        monkeypatch.undo()
        assert store.notes(POOL)["config"] == {"limits": {"max_age": 3600}, "labels": {"tier": "gold"}}


@pytest.mark.parametrize("topic", ["label+base", "config"])
def test_a_damaged_name_or_limit_keeps_images_and_what_stands(
    cache: tuple[FolderStore, Pool, Performer], topic: str
) -> None:
    store, pool, performer = cache
    path = Path(store.root, "facts", POOL, topic)
    path.write_text("nonsense")
    with pytest.raises(LostMetadata, match=rf"restore the file {path.parent}.* or remove it"):
        drive_one(_survey(pool, {}, []), performer)
    host: Any = None
    definition, around = Definition("p", "dir", path=os.path.dirname(store.root)), Surroundings(host, Runner())
    with pytest.raises(LostMetadata, match="damaged"):
        write_labels(definition, around, {})
    assert "damaged" in read_contents(definition, around).problem
    assert path.read_text() == "nonsense"


def test_an_image_whose_last_use_is_damaged_counts_as_used_now(cache: tuple[FolderStore, Pool, Performer]) -> None:
    store, pool, performer = cache
    assert prune_plan(drive_one(_survey(pool, {}, []), performer)).changed, "it would go by its age"
    store.note(IMAGE, "use", {"at": "2021-01-01T00:00:00.000000Z"})
    Path(store.root, "facts", IMAGE, "use").write_text("nonsense")
    assert not prune_plan(drive_one(_survey(pool, {}, []), performer)).changed
