# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a session makes of a pool that is not all there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ansible_collections.virt.storage.plugins.module_utils._ground.errors import NotFound, StorageError
from ansible_collections.virt.storage.plugins.module_utils._policy.disk_plan import Wanted
from ansible_collections.virt.storage.plugins.module_utils._tasks import session
from ansible_collections.virt.storage.plugins.module_utils._tasks.disk_present import present
from ansible_collections.virt.storage.plugins.module_utils._tasks.disk_wishes import Order
from ansible_collections.virt.storage.plugins.module_utils._tasks.session import Session

Begin = Callable[..., Session]
GONE = "There is no pool virt in this Ceph cluster."


@pytest.fixture
def deleted(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool that libvirt has as active, and whose pool in Ceph was deleted."""
    host.add("p")

    def missing(*_unused: Any, **_how: bool) -> None:
        raise NotFound(GONE, errno=2)

    monkeypatch.setattr(session, "open_parts", missing)


@pytest.mark.usefixtures("deleted")
def test_who_makes_something_in_a_pool_that_is_gone_is_told(begin: Begin) -> None:
    with pytest.raises(StorageError, match=f"^{GONE}$") as raised:
        present(begin(), [Order(Wanted("p", "web1", "root", "blank", size=1 << 20))], False)
    assert not isinstance(raised.value, NotFound), "that is for what may be missing"
    assert raised.value.facts == {"errno": 2}


@pytest.mark.usefixtures("deleted")
def test_who_only_looks_finds_nothing_there(begin: Begin) -> None:
    assert begin().open("p", make=False) is None
    assert begin(True).open("p") is None
