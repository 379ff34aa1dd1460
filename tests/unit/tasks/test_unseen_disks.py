# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A disk of which nobody can see whether it stands is neither passed over nor made a second time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ansible_collections.virt.storage.plugins.module_utils._ground.errors import LostMetadata, StorageError
from ansible_collections.virt.storage.plugins.module_utils._policy.disk_plan import Wanted
from ansible_collections.virt.storage.plugins.module_utils._records.types import disk_id
from ansible_collections.virt.storage.plugins.module_utils._tasks.disk_absent import absent
from ansible_collections.virt.storage.plugins.module_utils._tasks.disk_present import present
from ansible_collections.virt.storage.plugins.module_utils._tasks.disk_wishes import Order
from ansible_collections.virt.storage.plugins.module_utils._tasks.session import Session

Begin = Callable[..., Session]
MIB = 1 << 20


@pytest.mark.parametrize("check_mode", [False, True])
@pytest.mark.parametrize("role", ["root", ""])
def test_a_disk_is_not_absent_because_all_records_of_its_pool_are(
    host: Any, begin: Begin, role: str, check_mode: bool
) -> None:
    volume = f"{disk_id('web1', 'root', 'a' * 12)}.qcow2"
    (host.add("p") / volume).write_bytes(b"x")
    with pytest.raises(LostMetadata, match=rf"^The volume {volume.replace('+', '.')} of pool p .* its record is lost"):
        absent(begin(check_mode), [Order(Wanted("p", "web1", role))])
    assert not absent(begin(check_mode), [Order(Wanted("p", "web2", role))])["changed"]


def test_nothing_is_absent_in_a_pool_that_is_yet_to_be_made(host: Any, begin: Begin) -> None:
    session = begin(True)
    assert not absent(session, [Order(Wanted("p", "web1", ""))])["changed"]
    assert len(session.warnings) == 1


@pytest.mark.parametrize("how", ["inactive", "damaged"])
def test_a_disk_that_may_be_moved_is_not_made_while_it_may_stand_where_nobody_can_look(
    host: Any, begin: Begin, how: str
) -> None:
    new, old, elsewhere = (host.add(name) for name in ("new", "old", "elsewhere"))
    order = Order(Wanted("new", "web1", "root", "blank", size=MIB))
    present(begin(), [Order(Wanted("elsewhere", "web2", "root", "blank", size=MIB))], False)
    if how == "inactive":
        host.end("old")
    else:
        (old / ".virt-storage").mkdir()
        (old / ".virt-storage" / "schema").write_text("nonsense")
    for check_mode in (False, True):
        session = begin(check_mode)
        if check_mode:
            assert present(session, [order], True)["changed"]
            told = [warning for warning in session.warnings if "allow_move" in warning]
        else:
            with pytest.raises(StorageError) as raised:
                present(session, [order], True)
            told = [raised.value.message]
        assert len(told) == 1
        assert told[0].startswith("Whether the disk root of web1 stands in pool old cannot be seen (")
        assert "): start that pool, repair or undefine it, or ask for the disk without allow_move." in told[0]
    assert not list(new.glob("*.qcow2"))
    found = Order(Wanted("new", "web2", "root"))
    assert "moved" in present(begin(), [found], True)["disks"][0], "what was found needs no further look"
    assert not list(elsewhere.glob("*.qcow2"))
    assert present(begin(), [order], False)["changed"], "who does not ask for a move is not kept from making one"
    assert not present(begin(), [order], True)["changed"], "what stands where it is asked for is not looked for"


def test_a_lost_record_in_another_pool_keeps_a_disk_that_may_be_moved_from_being_made(host: Any, begin: Begin) -> None:
    host.add("new")
    (host.add("old") / f"{disk_id('web1', 'root', 'a' * 12)}.qcow2").write_bytes(b"x")
    with pytest.raises(LostMetadata, match="of pool old is the disk root of web1 by its name, and its record is lost"):
        present(begin(), [Order(Wanted("new", "web1", "root", "blank", size=MIB))], True)
