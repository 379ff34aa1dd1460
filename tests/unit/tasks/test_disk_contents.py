# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What new disks are made of."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from ansible_collections.virt.storage.plugins.module_utils._ground.contents import Incoming
from ansible_collections.virt.storage.plugins.module_utils._policy.disk_plan import Wanted
from ansible_collections.virt.storage.plugins.module_utils._tasks.disk_contents import recipe
from ansible_collections.virt.storage.plugins.module_utils._tasks.disk_site import Site
from ansible_collections.virt.storage.plugins.module_utils._tasks.disk_wishes import Order


def test_a_disk_of_terabytes_is_given_the_time_that_importing_it_takes(tmp_path: Path) -> None:
    path = tmp_path / "old.qcow2"
    path.touch()
    want = Wanted("ssd", "web1", "root", kind="import", content=str(path))
    nobody: Any = SimpleNamespace(around=SimpleNamespace(runner=None))  # an empty file is looked into by no program
    source = cast(Incoming, recipe(nobody, Site("ssd"), Order(want, path=str(path), format="qcow2")).wish.source)
    assert source.bounds.timeout > (4 << 40) / (100 << 20), "4 TiB at 100 MiB a second"
