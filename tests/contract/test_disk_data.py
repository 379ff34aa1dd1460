# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The data of a disk, as another pool gets it: what it costs is known before, and a guest reads the same."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.virt.storage.plugins.module_utils._ground.disk_data import DiskData
from ansible_collections.virt.storage.plugins.module_utils._ground.errors import BadInput, NotFound

from .beds import GROUNDS, MIB, RealBed, Sparse
from .test_volumes import cloned, filled, recorded

SIZE, LARGE = 8 * MIB, 40 * MIB
WRITTEN = f"write -q -P 5 100k 300k\nwrite -q -z 0 64k\ndiscard -q 4M 4M\nwrite -q -P 6 {LARGE - MIB} 1M\n"


@pytest.fixture(params=["ext4", "rbd"])
def origin(request: pytest.FixtureRequest, grounds: Callable[[str], Path]) -> Iterator[Any]:
    """A pool whose disks are read."""
    with GROUNDS[request.param].bed(grounds(request.param) / "source") as made:
        yield made


@pytest.fixture
def target(grounds: Callable[[str], Path]) -> Iterator[Any]:
    """The pool that gets them."""
    with GROUNDS["ext4"].bed(grounds("ext4") / "target") as made:
        yield made


@pytest.fixture(params=["ext4", "rbd"])
def goal(request: pytest.FixtureRequest, grounds: Callable[[str], Path]) -> Iterator[Any]:
    """A pool that has the image, too."""
    with GROUNDS[request.param].bed(grounds(request.param) / "goal") as made:
        yield made


def image(origin: RealBed) -> Any:
    return filled(origin, Sparse(SIZE, {0: b"a" * MIB, 5 * MIB: b"b" * MIB}))


def written(origin: RealBed, base: Any) -> Any:
    """A clone that a guest wrote to."""
    volume = cloned(origin, base, LARGE)
    format, address = origin.at(volume)
    argv = ["qemu-io", "-d", "unmap", "-f", format, address]
    subprocess.run(argv, input=WRITTEN, text=True, check=True, capture_output=True, timeout=60)
    return volume


def data_of(origin: RealBed, volume: Any, own: bool) -> tuple[DiskData, int]:
    """The content, and how many bytes there are to read of it."""
    volumes = origin.parts.volumes
    with volumes.disk_data(volume, own) as reader:
        assert reader.size == LARGE
        amount = reader.amount()
    return DiskData(lambda: volumes.disk_data(volume, own)), amount


def same(one: RealBed, first: Any, other: RealBed, second: Any) -> None:
    (format, address), (other_format, other_address) = one.at(first), other.at(second)
    argv = ["qemu-img", "compare", "-f", format, "-F", other_format, address, other_address]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_all_of_a_disk_fills_a_volume_of_another_pool(origin: RealBed, target: RealBed) -> None:
    disk = written(origin, image(origin))
    data, amount = data_of(origin, disk, own=False)
    copy = recorded(target, target.disk(format="raw"))
    facts = target.do(target.volumes.fill(copy, data))
    assert (facts["size"], facts["bytes_read"], facts["bytes_written"]) == (LARGE, amount, amount)
    assert MIB < amount < LARGE
    same(origin, disk, target, copy)


def test_a_disk_of_a_folder_fills_an_image_in_ceph(target: RealBed, grounds: Callable[[str], Path]) -> None:
    disk = written(target, image(target))
    data, amount = data_of(target, disk, own=False)
    with GROUNDS["rbd"].bed(grounds("rbd") / "goal") as goal:
        copy = recorded(goal, goal.disk(format="raw"))
        facts = goal.do(goal.volumes.fill(copy, data))
        assert (facts["bytes_read"], facts["bytes_written"]) == (amount, amount)
        same(target, disk, goal, copy)


def test_what_a_disk_has_of_its_own_is_written_over_a_clone(target: RealBed, goal: RealBed) -> None:
    assert target.capabilities.tells_own
    assert goal.capabilities.takes_own
    disk = written(target, image(target))
    data, amount = data_of(target, disk, own=True)
    copy = cloned(goal, image(goal), LARGE)
    facts = goal.do(goal.volumes.patch(copy, data))
    assert facts["bytes_read"] == facts["bytes_written"] == amount < 2 * MIB
    same(target, disk, goal, copy)
    assert goal.do(goal.volumes.flatten(copy)).kind == "done"
    same(target, disk, goal, copy)


def test_what_is_no_clone_is_not_written_over(target: RealBed) -> None:
    volume = recorded(target, target.disk())
    target.do(target.volumes.allocate(volume, LARGE))
    data, _amount = data_of(target, volume, own=True)
    with pytest.raises(BadInput, match="is no clone"):
        target.do(target.volumes.patch(volume, data))


def test_a_disk_that_is_not_there(origin: RealBed) -> None:
    gone = recorded(origin, origin.disk())
    with pytest.raises(NotFound), origin.parts.volumes.disk_data(gone):
        pass
