# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a plan says that its steps cost is what they then took, in pools of every kind that is at hand."""

from __future__ import annotations

import os
import random
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import libvirt
import pytest

from .ceph_site import administered, ceph, ceph_site
from .conftest import Four, Modules, Place, Result

MIB = 1 << 20
CHANCE = random.Random(7)
DATA = {0: CHANCE.randbytes(4 * MIB), 8 * MIB: CHANCE.randbytes(4 * MIB)}
"""What the source has, by offset: the rest of it are holes. Whole blocks, since Ceph only tells whole objects apart."""
WRITTEN = sum(map(len, DATA.values()))
SIZE = 16 * MIB
WEB = f"web-{uuid.uuid4().hex[:8]}"


@contextmanager
def dir_pool(task: Modules, place: Place, _libvirtd: libvirt.virConnect) -> Iterator[str]:
    """A folder."""
    given = place.pool()
    task("libvirt_pool", type="dir", **given)
    yield given["name"]


@contextmanager
def rbd_pool(task: Modules, _place: Place, libvirtd: libvirt.virConnect) -> Iterator[str]:
    """A namespace in Ceph."""
    with administered() as cluster, ceph_site(cluster, task, libvirtd) as site:
        yield site.name


KINDS: dict[str, Callable[..., Any]] = {"dir": dir_pool, "rbd": rbd_pool}
Two = tuple[str, str]


@pytest.fixture(scope="module")
def running_ceph() -> Iterator[None]:
    with ceph.cluster():
        yield


@pytest.fixture(params=list(KINDS))
def pools(request: pytest.FixtureRequest, task: Modules, place: Place, libvirtd: libvirt.virConnect) -> Iterator[Two]:
    """A pool of each kind, and a folder beside it."""
    if request.param == "rbd":
        request.getfixturevalue("running_ceph")
    with ExitStack() as stack:
        here = stack.enter_context(KINDS[request.param](task, place, libvirtd))
        yield here, stack.enter_context(dir_pool(task, place, libvirtd))


@pytest.fixture
def source(place: Place) -> Path:
    path = place.root / "source.raw"
    with open(path, "wb") as file:
        for offset, data in DATA.items():
            file.seek(offset)
            file.write(data)
        file.truncate(SIZE)
    return path


def converted(source: Path, format: str) -> Path:
    path = source.with_suffix(f".{format}")
    argv = ["qemu-img", "convert", "-f", "raw", "-O", format, str(source), str(path)]
    subprocess.run(argv, check=True, capture_output=True, timeout=60)
    return path


def kept(four: Four) -> list[tuple[int, int]]:
    """What the steps read and wrote, seen to be what the plan said."""
    planned = [(step["bytes_to_read"], step["bytes_to_write"]) for step in four.check["plan"]]
    found = [(step["bytes_read"], step["bytes_written"]) for step in four.run["counted"]]
    assert planned == found
    assert "counted" not in four.check
    return found


def test_what_filling_costs(task: Modules, pools: Two, source: Path) -> None:
    here, there = pools
    qcow2 = converted(source, "qcow2")
    raw = {"name": "raw", "source": str(source), "format": "raw"}
    images = [raw, {"name": "qcow2", "source": str(qcow2), "format": "qcow2"}]
    four = task.four("cached_image", pools=[here], images=images)
    assert kept(four) == [(SIZE, WRITTEN), (qcow2.stat().st_size, WRITTEN)]
    assert [step["takes"] for step in four.run["plan"]] == [{here: WRITTEN}] * 2
    for image in four.run["images"]:
        assert WRITTEN <= image["allocated"] <= 2 * WRITTEN
    (from_sibling,) = kept(task.four("cached_image", pools=[there, here], images=[raw]))
    assert from_sibling == (WRITTEN, WRITTEN)


def test_what_is_read_once_counts_once(task: Modules, pools: Two, source: Path) -> None:
    image = {"name": "qcow2", "source": str(converted(source, "qcow2")), "format": "qcow2"}
    (first, second) = kept(task.four("cached_image", pools=list(pools), images=[image]))
    assert (first[1], second) == (WRITTEN, (0, WRITTEN))


def test_what_making_changing_and_moving_disks_cost(task: Modules, pools: Two, source: Path) -> None:
    here, there = pools
    image = {"name": "base", "source": str(source), "format": "raw"}
    task("cached_image", pools=[here], images=[image])

    def four(*disks: Result, **params: Any) -> list[tuple[int, int]]:
        return kept(task.four("instance_disk", **{"pool": here, **params}, disks=list(disks)))

    def disk(role: str, **more: Any) -> Result:
        return {"instance": WEB, "role": role, **more}

    free, all_of_it = (0, 0), (WRITTEN, WRITTEN)
    whole = four(
        disk("clone", image="base", size=str(2 * SIZE)),
        disk("copied", image="base", clone="copy"),
        disk("flat", image="base", flattened=True),
        disk("blank", blank={}, size=str(SIZE)),
        disk("raw", import_from={"path": str(source), "format": "raw"}),
    )
    assert whole[0] == whole[4] == free
    assert whole[5] == (SIZE, WRITTEN)
    assert whole[2] == free
    assert whole[1] == whole[3] == all_of_it
    assert four(disk("clone", size=str(3 * SIZE))) == [free]
    assert four(disk("clone", flattened=True)) == [all_of_it]
    config = {"user_data": "#cloud-config\n"}
    (made,) = four(disk("config", config=config))
    (replaced,) = four(disk("config", config={"user_data": "#cloud-config\n#\n"}, replace=True))
    assert made[0] == replaced[0] == 0
    assert made[1] >= 32 * 1024
    assert four(disk("copied"), pool=there, allow_move=True) == [all_of_it]


def test_a_step_that_only_a_run_can_tell_of_says_so(task: Modules, pools: Two) -> None:
    wanted = {"instance": WEB, "blank": {"fs": "ext4"}, "size": str(SIZE)}
    made = task.four("instance_disk", pool=pools[1], disks=[wanted, {**wanted, "instance": WEB + "2"}])
    assert [step["bytes_to_write"] for step in made.run["plan"]] == [None, None]
    assert made.run["fill_after"][0][pools[1]]["free"] is None
    first, second = made.run["counted"]
    assert 0 < first["bytes_written"] < 4 * MIB
    assert second["bytes_written"] == 0


@pytest.fixture
def alone(task: Modules, place: Place, tmp_path: Path) -> Iterator[str]:
    """A pool on a file system that nobody else writes to."""
    given = place.pool()
    path = Path(given["path"])
    path.mkdir(mode=0o711)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128m,mode=711", "vst", path], check=True)
    try:
        task("libvirt_pool", type="dir", **given)
        yield given["name"]
    finally:
        task("libvirt_pool", name=given["name"], state="inactive", autostart=False)
        subprocess.run(["umount", path], check=True)


def test_what_is_free_afterwards_is_what_was_foretold(task: Modules, alone: str, place: Place, source: Path) -> None:
    root = next(path for path in place.root.iterdir() if path.name == alone)

    def free() -> int:
        found = os.statvfs(root)
        return found.f_bavail * found.f_frsize

    def foretold(four: Four) -> int:
        assert four.run["fill_after"][-1][alone]["capacity"] == 128 * MIB
        return int(four.run["fill_after"][-1][alone]["free"])

    metadata = MIB // 2
    image = {"name": "base", "source": str(source), "format": "raw"}
    assert 0 <= foretold(task.four("cached_image", pools=[alone], images=[image])) - free() < metadata
    disks = [{"instance": WEB, "role": role, "image": "base", "clone": "copy"} for role in ("a", "b", "c")]
    made = task.four("instance_disk", pool=alone, disks=disks)
    after = [step[alone]["free"] for step in made.run["fill_after"]]
    assert after[0] - after[1] == after[1] - after[2] == WRITTEN
    assert 0 <= foretold(made) - free() < metadata
    gone = task.four("instance_disk", pool=alone, state="absent", disks=[{"instance": WEB}])
    assert abs(foretold(gone) - free()) < metadata
    pruned = task.four("cached_image", pools=[alone], state="pruned", cache={"max_bytes": "1M"})
    assert pruned.run["plan"][0]["takes"] == {alone: -WRITTEN}
    assert abs(foretold(pruned) - free()) < metadata
