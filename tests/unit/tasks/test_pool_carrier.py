# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A pool whose plan fails on the way: the cause is told, and what was done before it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ansible_collections.virt.storage.plugins.module_utils._ground.errors import StorageError
from ansible_collections.virt.storage.plugins.module_utils._ground.libvirt_host import EmptyHost
from ansible_collections.virt.storage.plugins.module_utils._policy.plan import Action, Plan
from ansible_collections.virt.storage.plugins.module_utils._policy.pools import Folder, Found, Wish
from ansible_collections.virt.storage.plugins.module_utils._tasks.pool_carrier import Carrier

STEPS = Plan(tuple(Action(verb, "pool p", f"{verb} pool p") for verb in ("define", "create", "start")))


class Host(EmptyHost):
    """One on which no pool starts. Libvirtd is ``dead`` after that, or does what ``undone`` tells."""

    def __init__(self, dead: bool = False) -> None:
        self.dead = dead
        self.undone: list[str] = []

    def define(self, xml: str) -> None:
        pass

    def start(self, name: str) -> None:
        raise StorageError("Libvirt could not start it: the real cause.")

    def stop(self, name: str) -> None:
        self._undo("stop")

    def undefine(self, name: str) -> None:
        self._undo("undefine")

    def undefine_secret(self, uuid: str) -> None:
        self._undo("undefine_secret")

    def _undo(self, what: str) -> None:
        if self.dead:
            raise StorageError("Libvirt could not look up the pool: the socket is closed.")
        self.undone.append(what)


def carrier(host: Host, path: Path) -> Carrier:
    want = Wish("p", type="dir", path=str(path))
    return Carrier(host, want, None, Found(folder=Folder(exists=False)))


def test_a_pool_that_cannot_start_is_not_left_behind(tmp_path: Path) -> None:
    host = Host()
    with pytest.raises(StorageError, match="real cause") as raised:
        carrier(host, tmp_path / "p").apply(STEPS)
    assert raised.value.facts["done"] == ["define pool p", "create pool p"]
    assert host.undone == ["stop", "undefine", "undefine_secret"]
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize("dead", [True, False], ids=["no daemon", "not empty"])
def test_what_cannot_be_taken_back_does_not_hide_why_it_had_to_be(tmp_path: Path, dead: bool) -> None:
    path = tmp_path / "p"
    acting = carrier(Host(dead), path)
    steps = replace(STEPS, actions=STEPS.actions[:2])
    acting.apply(steps)
    (path / "somebody").touch()
    with pytest.raises(StorageError, match="real cause") as raised:
        acting.apply(replace(STEPS, actions=STEPS.actions[2:]))
    assert raised.value.facts["done"] == []
    assert path.exists()


def test_what_the_system_refuses_is_told_with_what_was_done(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"^The operating system refused .*\.$") as raised:
        carrier(Host(), tmp_path / "missing" / "p").apply(STEPS)
    assert raised.value.facts["done"] == ["define pool p"]
    assert raised.value.facts["errno"] == 2
