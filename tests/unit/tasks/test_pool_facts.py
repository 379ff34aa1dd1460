# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a pool keeps about itself may be damaged: nothing is given up by limits that are none, and they are set anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ansible_collections.virt.storage.plugins.module_utils._algorithms.pool import Pool
from ansible_collections.virt.storage.plugins.module_utils._backends.file import CAPABILITIES, PRIVATE, FileVolumes
from ansible_collections.virt.storage.plugins.module_utils._backends.perform import Parts, Performer
from ansible_collections.virt.storage.plugins.module_utils._ground.command import Runner
from ansible_collections.virt.storage.plugins.module_utils._ground.drive import drive_one
from ansible_collections.virt.storage.plugins.module_utils._ground.errors import LostMetadata
from ansible_collections.virt.storage.plugins.module_utils._policy.pool_xml import Definition
from ansible_collections.virt.storage.plugins.module_utils._records.folder import POOL, FolderStore
from ansible_collections.virt.storage.plugins.module_utils._tasks.cache_policy import _survey
from ansible_collections.virt.storage.plugins.module_utils._tasks.kinds import Surroundings
from ansible_collections.virt.storage.plugins.module_utils._tasks.pool_contents import read_contents, write_limits


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
