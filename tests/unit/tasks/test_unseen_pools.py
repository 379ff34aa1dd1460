# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One pool that cannot be looked into keeps nobody from the others, whatever it is that refuses.

A link that leads to itself stands for a disk that died: the kernel refuses to look behind it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ansible_collections.virt.storage.plugins.module_utils._backends.file import PRIVATE
from ansible_collections.virt.storage.plugins.module_utils._ground.command import Runner
from ansible_collections.virt.storage.plugins.module_utils._ground.errors import NotFound, StorageError
from ansible_collections.virt.storage.plugins.module_utils._ground.libvirt_host import EmptyHost, PoolStatus
from ansible_collections.virt.storage.plugins.module_utils._policy.disk_plan import Wanted
from ansible_collections.virt.storage.plugins.module_utils._policy.pool_xml import Definition
from ansible_collections.virt.storage.plugins.module_utils._policy.pools import Wish
from ansible_collections.virt.storage.plugins.module_utils._records.folder import FolderStore
from ansible_collections.virt.storage.plugins.module_utils._tasks import disk_metadata, libvirt_pool, session
from ansible_collections.virt.storage.plugins.module_utils._tasks.disk_site import Site, elsewhere
from ansible_collections.virt.storage.plugins.module_utils._tasks.disk_wishes import Order
from ansible_collections.virt.storage.plugins.module_utils._tasks.kinds import Surroundings, open_parts
from ansible_collections.virt.storage.plugins.module_utils._tasks.pool_contents import read_contents
from ansible_collections.virt.storage.plugins.module_utils._tasks.pool_look import look

SAID = "symbolic links"


class Pools(EmptyHost):
    """A host with these folders as active pools, by their names."""

    def __init__(self, *folders: Path) -> None:
        self.folders = {folder.name: folder for folder in folders}

    def pools(self) -> list[PoolStatus]:
        return [self.pool(name) for name in sorted(self.folders)]

    def pool(self, name: str) -> PoolStatus:
        if name not in self.folders:
            raise NotFound(f"There is no pool {name}.")
        xml = f"<pool type='dir'><name>{name}</name><target><path>{self.folders[name]}</path></target></pool>"
        return PoolStatus(name, "u", True, True, True, 2, 1, 1, xml, xml)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pools:
    """A pool that cannot be looked into, and after it by name one that can."""
    dead, sound = tmp_path / "dead", tmp_path / "sound"
    dead.symlink_to(dead)
    sound.mkdir()
    FolderStore.make(str(sound / PRIVATE))
    pools = Pools(dead, sound)
    for module in (session, libvirt_pool):
        monkeypatch.setattr(module, "connect", lambda *_unused: pools)
    return pools


def around(host: Pools) -> Surroundings:
    return Surroundings(host, Runner())


@pytest.mark.parametrize("how", [{}, {"make": True}, {"bare": True}], ids=str)
def test_what_the_system_refuses_is_told_in_a_sentence(host: Pools, how: dict[str, bool]) -> None:
    with pytest.raises(StorageError, match=SAID) as raised:
        open_parts(Definition("dead", "dir", str(host.folders["dead"])), around(host), **how)
    assert not isinstance(raised.value, NotFound), "that is for records"


def test_records_that_cannot_be_listed_are_the_pools_problem(host: Pools) -> None:
    records = host.folders["sound"] / PRIVATE / "records"
    records.rmdir()
    records.symlink_to(records)
    assert SAID in read_contents(Definition("sound", "dir", str(host.folders["sound"])), around(host)).problem


def test_every_pool_is_listed(host: Pools) -> None:
    dead, sound = libvirt_pool.info({"uri": "", "name": []}, False)["pools"]
    assert SAID in dead["problem"]
    assert "problem" not in sound


@pytest.mark.parametrize("state", ["inactive", "absent"])
def test_a_pool_whose_disk_died_can_be_stopped(host: Pools, state: str) -> None:
    _status, have = look(host, Wish("dead", state=state))
    assert have.contents is not None
    assert have.contents.problem


def test_a_report_over_all_pools_leaves_out_what_cannot_be_seen(host: Pools) -> None:
    seeing = session.Session(reads=True)
    told, unseen = seeing.tell((), lambda pool: [{"name": pool.name}])
    assert told == [{"name": "sound"}]
    assert [each["name"] for each in unseen] == ["dead"]
    assert SAID in str(seeing.warnings)
    with pytest.raises(StorageError, match=SAID):
        seeing.tell(["dead"], lambda _pool: [])


def test_a_disk_is_looked_for_in_the_pools_that_can_be_seen(host: Pools) -> None:
    want = Wanted("sound", "web1", "root", "blank")
    seeing = session.Session()
    assert elsewhere(seeing, [Site("sound", orders=[Order(want)])]) == {}
    assert len(seeing.warnings) == 1


def test_the_records_of_other_pools_are_shown(host: Pools) -> None:
    result: Any = disk_metadata.info({"uri": "", "pools": None}, False)
    assert [each["pool"] for each in result["pools"]] == ["dead", "sound"]
    assert SAID in result["pools"][0]["problem"]
    assert result["pools"][1]["records"] == []
    assert len(result["warnings"]) == 1
    with pytest.raises(StorageError, match=SAID):
        disk_metadata.info({"uri": "", "pools": ["dead"]}, False)
