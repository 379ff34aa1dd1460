# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A disk of which nobody can see whether it stands is neither passed over nor made a second time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ansible_collections.virt.storage.plugins.module_utils._ground.errors import LostMetadata
from ansible_collections.virt.storage.plugins.module_utils._policy.disk_plan import Wanted
from ansible_collections.virt.storage.plugins.module_utils._records.types import disk_id
from ansible_collections.virt.storage.plugins.module_utils._tasks.disk_absent import absent
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
