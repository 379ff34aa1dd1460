# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is not to be taken for a pool."""

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.virt.storage.plugins.module_utils._ground.command import Runner
from ansible_collections.virt.storage.plugins.module_utils._ground.errors import NotFound, StorageError
from ansible_collections.virt.storage.plugins.module_utils._ground.libvirt_host import EmptyHost
from ansible_collections.virt.storage.plugins.module_utils._policy.pool_xml import Definition
from ansible_collections.virt.storage.plugins.module_utils._tasks.kinds import Surroundings, open_parts

AROUND = Surroundings(EmptyHost(), Runner())


@pytest.mark.parametrize("how", [{}, {"make": True}, {"bare": True}])
def test_the_folder_beneath_a_mount_that_went_away_is_no_pool(tmp_path: Path, how: dict[str, bool]) -> None:
    with pytest.raises(StorageError, match="Nothing is mounted at") as raised:
        open_parts(Definition("shared", "netfs", str(tmp_path)), AROUND, **how)
    assert not isinstance(raised.value, NotFound), "that is for records"
    assert not list(tmp_path.iterdir())


def test_a_folder_of_this_host_and_one_where_something_is_mounted_are_looked_into() -> None:
    for definition in (Definition("local", "dir", "/nowhere"), Definition("shared", "netfs", "/proc")):
        with pytest.raises(NotFound):
            open_parts(definition, AROUND)
