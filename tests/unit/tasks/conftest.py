# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A host whose pools are folders, for tasks as a whole: there is no libvirtd where these tests run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ansible_collections.virt.storage.plugins.module_utils._ground.errors import NotFound
from ansible_collections.virt.storage.plugins.module_utils._ground.libvirt_host import EmptyHost, PoolStatus
from ansible_collections.virt.storage.plugins.module_utils._policy.pool_xml import Definition, write
from ansible_collections.virt.storage.plugins.module_utils._tasks import session
from ansible_collections.virt.storage.plugins.module_utils._tasks.session import Session


class FolderHost(EmptyHost):
    """Pools of type dir, in folders of ``root`` that have their names."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root
        self.known: dict[str, PoolStatus] = {}

    def add(self, name: str) -> Path:
        """An active pool; gives its folder."""
        folder = self.root / name
        folder.mkdir()
        xml = write(Definition(name, "dir", path=str(folder)))
        self.known[name] = PoolStatus(name, name, True, True, True, 0, 0, 0, xml, xml)
        return folder

    def end(self, name: str) -> None:
        """Have a pool be inactive."""
        self.known[name] = replace(self.known[name], active=False)

    def pools(self) -> list[PoolStatus]:
        return list(self.known.values())

    def pool(self, name: str) -> PoolStatus:
        if name not in self.known:
            raise NotFound(f"There is no pool {name}.")
        return self.known[name]

    def refresh(self, name: str) -> None:
        """Nothing to refresh."""


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FolderHost:
    """The host that sessions find."""
    made = FolderHost(tmp_path)
    monkeypatch.setattr(session, "connect", lambda uri, check_mode, warnings: made)
    return made


@pytest.fixture
def begin(host: FolderHost) -> Callable[..., Session]:
    """Begins a session there."""
    return lambda check_mode=False: Session("test:", check_mode)
