# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""``kill -9`` anywhere in a conversion, on the way back, and at its end: the same task again comes to its end, the
other way is open, too, and at no moment does a guest read anything else from its disk.

``VIRT_STORAGE_FULL=1`` kills at every system call and every step, otherwise at every step of the journal and at one of
several others.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import libvirt
import pytest
from crash.tally import Tally

from .bed import MIB, Bed, by_role
from .killed import TASKS, killed, stands

FULL = os.environ.get("VIRT_STORAGE_FULL") == "1"
STRIDE = {"before": 1 if FULL else 2, "call": 1 if FULL else 11}
pytestmark = pytest.mark.timeout(4 * 3600 if FULL else 1800)
INACTIVE = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE


class Stage:
    """A host that is put back to its old layout for each kill: two overlays on one base, one on a qcow2 base that
    has to be copied, and a raw disk; one of the instances has a guest."""

    def __init__(self, bed: Bed, guest: Callable[..., Any], tally: Tally) -> None:
        self.bed, self.tally = bed, tally
        one, two = bed.instance(1), bed.instance(2, bed.instances / "_base" / ("a" * 40))
        config = bed.raw(one / "disk.config", MIB, 5)
        base = bed.instances / "_base" / ("c" * 40)
        subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", config, base], check=True)
        bed.overlay(two / "disk.local", base, base_format="qcow2")
        bed.info(two, disk="qcow2", disk_local="qcow2")
        self.guest = guest((one / "disk", "qcow2"), (config, "raw"))
        self.definition = self.guest.XMLDesc(INACTIVE)
        self.contents = bed.contents()
        shutil.copytree(bed.instances, bed.root / "template")
        self.params = {
            "layout": "nova",
            "path": str(bed.instances),
            "pool": bed.name,
            **dict.fromkeys(("instances", "formats", "base_format", "flattened")),
            "uri": "qemu:///system",
        }
        self.kills = 0

    def set(self) -> None:
        """The old layout, and an empty pool."""
        bed = self.bed
        subprocess.run(["chattr", "-R", "-f", "-i", bed.instances, bed.pool], check=False)
        for folder in (bed.instances, bed.pool):
            for path in folder.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.copytree(bed.root / "template", bed.instances, dirs_exist_ok=True)
        bed.connection.defineXML(self.definition)
        self.files = bed.files()

    def kill(self, state: str, where: str, number: int) -> int:
        """Have the task killed; the number of places there are where it came to its end, 0 where it was killed."""
        places = killed(where, number, STRIDE[where], {**self.params, "state": state})
        if not places:
            self.kills += 1
            self.tally.add("file", TASKS[state], where)
        return places

    def old(self) -> None:
        """All is as it was."""
        assert stands(self.params) == (set(), set(), set())
        assert self.bed.files() == self.files
        assert self.guest.XMLDesc(INACTIVE) == self.definition
        assert self.bed.contents() == self.contents
        assert self.bed.volumes() == {}
        assert list(self.bed.pool.glob(".virt-storage/conversion/*")) == []
        assert list(self.bed.pool.glob(".virt-storage/images/*")) == []

    def new(self) -> None:
        """All is converted."""
        assert stands(self.params)[1] == {"ready"}
        assert self.bed.volumes() == by_role(self.contents)
        assert str(self.bed.instances) not in self.guest.XMLDesc(INACTIVE)
        assert list(self.bed.pool.glob(".virt-storage/conversion/*")) == []
        assert len(list(self.bed.pool.glob(".virt-storage/images/*"))) == 2
        assert self.bed.task("converted")["changed"] is False


@pytest.fixture
def stage(bed: Bed, tally: Tally) -> Iterator[Stage]:
    with contextlib.ExitStack() as stack:
        made = Stage(bed, lambda *disks: stack.enter_context(bed.guest(*disks)), tally)
        yield made
        print(f"\nconversion: killed at {made.kills} points, all converged and all went back")


def points(stage: Stage, state: str, where: str, prepare: Callable[[], None]) -> Iterator[int]:
    """Kill the task at one place after the other, each time from ``prepare`` on."""
    number = 1
    while True:
        prepare()
        if stage.kill(state, where, number):
            assert number > 1, "it was never killed"
            return
        yield number
        number += 1


@pytest.mark.parametrize("where", ["before", "call"])
@pytest.mark.parametrize("then", ["converted", "rolled_back"])
def test_converting(stage: Stage, where: str, then: str) -> None:
    for _number in points(stage, "converted", where, stage.set):
        assert stage.bed.contents() == stage.contents
        stage.bed.task(then)
        (stage.new if then == "converted" else stage.old)()


@pytest.mark.parametrize("where", ["before", "call"])
@pytest.mark.parametrize("then", ["converted", "rolled_back"])
def test_rolling_back(stage: Stage, where: str, then: str) -> None:
    def prepare() -> None:
        stage.set()
        stage.bed.task("converted")

    for _number in points(stage, "rolled_back", where, prepare):
        assert stage.bed.contents() == stage.contents
        stage.bed.task(then)
        (stage.new if then == "converted" else stage.old)()


@pytest.mark.parametrize("where", ["before", "call"])
def test_finalizing(stage: Stage, where: str) -> None:
    def prepare() -> None:
        stage.set()
        stage.bed.task("converted")

    for _number in points(stage, "finalized", where, prepare):
        assert stage.bed.volumes() == by_role(stage.contents)
        stage.bed.task("finalized")
        assert stage.bed.disks() == {}
        stage.new()
        assert sorted(path.name for path in (stage.bed.instances / "_base").iterdir()) == ["c" * 40]
