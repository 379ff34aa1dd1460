# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Disks that move between two pools of this host."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.virt.storage.plugins.module_utils._algorithms.moving import MOVES

from .conftest import Four, Modules, Place, Result
from .test_instance_disk import MIB, SIZE, Store, open_store

WEB = f"web-{uuid.uuid4().hex[:8]}"
"""An instance that no other pool of this machine has a disk of."""
LARGE = 64 * MIB
"""What the disks of the tests have, so that a part of them is behind their image."""


@pytest.fixture
def pools(task: Modules, place: Place) -> tuple[Store, Store]:
    """Two pools with the same image in both."""
    return open_store(task, place), open_store(task, place)


def moving(task: Modules, target: Store, *disks: dict[str, Any]) -> Four:
    """Check, run, check, run of a move."""
    return task.four("instance_disk", pool=target.name, allow_move=True, disks=list(disks))


def scribble(disk: Result) -> None:
    """Write to a disk as its guest would: over its image, behind it, zeroes over what the image has."""
    chance = random.Random(str(disk["path"]))
    places = [chance.randrange(LARGE // 4096) * 4096 for _unused in range(8)]
    commands = [f"write -q -P {chance.randrange(1, 255)} {place} 4096\n" for place in places]
    commands += ["write -q -P 77 100k 300k\n", "write -q -z 512k 256k\n", f"write -q -P 78 {LARGE - MIB} 1M\n"]
    argv = ["qemu-io", "-f", str(disk["format"]), str(disk["path"])]
    subprocess.run(argv, input="".join(commands), text=True, check=True, capture_output=True, timeout=60)


def reading(disk: Result, root: Path) -> Path:
    """A raw file of what a guest reads."""
    path = root / f"{disk['id']}.reads"
    argv = ["qemu-img", "convert", "-f", str(disk["format"]), "-O", "raw", str(disk["path"]), str(path)]
    subprocess.run(argv, check=True, capture_output=True, timeout=60)
    return path


def own_bytes(disk: Result) -> int:
    """What qemu says that the uppermost file of a disk has of data."""
    argv = ["qemu-img", "map", "--output=json", "-f", str(disk["format"]), str(disk["path"])]
    done = subprocess.run(argv, check=True, capture_output=True, timeout=60)
    return sum(each["length"] for each in json.loads(done.stdout) if each["data"] and each["depth"] == 0)


def reads_the_same(disk: Result, expected: Path) -> None:
    argv = ["qemu-img", "compare", "-f", str(disk["format"]), "-F", "raw", str(disk["path"]), str(expected)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    if disk["format"] == "qcow2":
        subprocess.run(["qemu-img", "check", "-q", "-f", "qcow2", str(disk["path"])], check=True, timeout=60)


def nothing_left(store: Store, disk: Result) -> None:
    """Neither volume nor reference nor mark of a disk that left."""
    assert not os.path.exists(str(disk["path"]))
    assert list((store.private / "references").glob(f"*/{disk['id']}")) == []
    assert list((store.private / "references" / MOVES).glob("*")) == []
    assert [path.suffix for path in (store.private / "records").glob(f"{disk['id']}.*")] == [".gone"]


def test_where_the_pool_has_the_image_only_what_is_the_disks_own_moves(
    task: Modules, pools: tuple[Store, Store], place: Place
) -> None:
    here, there = pools
    (disk,) = here.make({"instance": WEB, "image": "base", "size": str(LARGE)})
    scribble(disk)
    expected, own = reading(disk, place.root), own_bytes(disk)
    four = moving(task, there, {"instance": WEB})
    (step,) = four.check["plan"]
    (moved,) = four.run["disks"]
    assert (step["verb"], step["strategy"]) == ("move", "delta")
    assert "same image" in step["reason"]
    assert moved["moved"] == {
        "from": here.name,
        "bytes_read": step["bytes_to_read"],
        "bytes_written": step["bytes_to_write"],
    }
    assert step["bytes_to_read"] == own
    assert (moved["pool"], moved["format"], moved["size"], moved["backing"]) == (
        there.name,
        "qcow2",
        LARGE,
        there.image["id"],
    )
    reads_the_same(moved, expected)
    nothing_left(here, disk)
    foreseen = four.check["disks"][0]
    for name in ("pool", "size", "state", "strategy", "reason", "backing", "image"):
        assert foreseen[name] == moved[name], name
    assert four.run_again["disks"][0]["id"] == moved["id"]


def test_without_the_image_all_of_the_disk_moves_and_it_needs_none(
    task: Modules, place: Place, pools: tuple[Store, Store]
) -> None:
    here, _there = pools
    bare = place.pool()
    task("libvirt_pool", type="dir", **bare)
    target = Store(task, bare["name"], Path(bare["path"]), {})
    (disk,) = here.make({"instance": WEB, "image": "base", "size": str(LARGE)})
    scribble(disk)
    expected = reading(disk, place.root)
    four = moving(task, target, {"instance": WEB, "image": "base", "size": str(2 * LARGE)})
    move, grow = four.check["plan"]
    assert (move["strategy"], grow["verb"]) == ("whole", "grow")
    assert move["reason"] == f"pool {target.name} does not have the image base"
    (moved,) = four.run["disks"]
    assert moved["moved"]["bytes_read"] == moved["moved"]["bytes_written"] == move["bytes_to_read"]
    assert 2 * MIB < move["bytes_to_read"] < SIZE
    assert (moved["format"], moved["backing"], moved["size"]) == ("raw", None, 2 * LARGE)
    os.truncate(expected, 2 * LARGE)
    reads_the_same(moved, expected)
    nothing_left(here, disk)


def test_blank_and_config_disks_move_and_come_back(task: Modules, place: Place, pools: tuple[Store, Store]) -> None:
    here, there = pools
    wanted = [
        {"instance": WEB, "role": "data", "blank": {"fs": "ext4"}, "size": "16MiB"},
        {"instance": WEB, "role": "scratch", "blank": {}, "size": "16MiB"},
        {"instance": WEB, "role": "config", "config": {"user_data": "#cloud-config\n"}},
    ]
    made = here.make(*wanted)
    expected = [reading(disk, place.root) for disk in made]
    for target in (there, here):
        four = moving(task, target, *wanted)
        # The two pools' templates are two file systems made at two times, or there is none: no image to go by.
        assert {step["strategy"] for step in four.check["plan"]} == {"whole"}
        for disk, content in zip(four.run["disks"], expected):
            assert disk["pool"] == target.name
            assert disk["moved"]["bytes_read"] == disk["moved"]["bytes_written"]
            reads_the_same(disk, content)
        assert [step["bytes_to_read"] for step in four.check["plan"]] == [
            disk["moved"]["bytes_read"] for disk in four.run["disks"]
        ]
    for disk in made:
        nothing_left(here, disk)


def test_a_disk_stays_unless_it_is_said_and_while_anybody_uses_it(
    task: Modules, place: Place, pools: tuple[Store, Store]
) -> None:
    here, there = pools
    (disk,) = here.make({"instance": WEB, "image": "base", "size": str(LARGE)})
    refusal = there.refused({"instance": WEB, "image": "base"})
    assert refusal == (
        f"The disk root of {WEB} stands in pool {here.name}, not in {there.name}: name that pool, set allow_move to "
        "have the disk moved, or remove the disk there first."
    )
    with in_use(disk):
        refusal = there.refused({"instance": WEB}, allow_move=True)
        assert "is in use by" in refusal
        assert "then move it" in refusal
    before = here.snapshot()
    other = {"instance": WEB, "image": "other"}
    assert "exists and is a clone of image base" in there.refused(other, allow_move=True)
    assert "cannot shrink" in there.refused({"instance": WEB, "size": str(MIB)}, allow_move=True)
    assert here.snapshot() == before
    assert there.make({"instance": WEB}, allow_move=True)[0]["pool"] == there.name


@contextlib.contextmanager
def in_use(disk: Result) -> Iterator[None]:
    """A process that writes to the disk, with qemu's locks."""
    argv = ["qemu-io", "-f", str(disk["format"]), str(disk["path"])]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("write 0 512\n")
        process.stdin.flush()
        assert "wrote" in process.stdout.readline()
        yield
        process.stdin.close()


def marked(source: Store, copy: Result, target: Store) -> Path:
    """A mark that a mover left."""
    folder = source.private / "references" / MOVES
    folder.mkdir(exist_ok=True)
    mark = folder / f"{copy['id']}@{target.name}"
    mark.touch()
    return mark


def broken_off(here: Store, there: Store) -> tuple[Result, Result, Path]:
    """A disk and its copy, both ready, as a killed mover leaves them, and the mark."""
    (disk,) = here.make({"instance": WEB, "image": "base"})
    volume = Path(str(disk["path"])).read_bytes()
    (moved,) = there.make({"instance": WEB}, allow_move=True)
    body = here.record(disk)
    body.with_name(f"{disk['id']}.gone").rename(body.with_name(f"{disk['id']}.ready"))
    Path(str(disk["path"])).write_bytes(volume)
    return disk, moved, marked(here, moved, there)


def finishing(here: Store, there: Store) -> str:
    return f"finish the move of disk root of {WEB} from pool {here.name} to pool {there.name}"


@pytest.mark.parametrize("asked", ["here", "there"])
def test_a_move_that_broke_off_behind_its_decision_is_finished(
    asked: str, task: Modules, pools: tuple[Store, Store]
) -> None:
    here, there = pools
    disk, moved, mark = broken_off(here, there)
    if asked == "here":
        refusal = task.refused("instance_disk", pool=here.name, disks=[{"instance": WEB}])
        assert f"stands in pool {there.name}, not in {here.name}" in refusal
    else:
        four = there.four({"instance": WEB})
        assert four.run["actions"] == [finishing(here, there)]
        assert four.run["disks"][0]["id"] == moved["id"]
    assert not mark.exists()
    nothing_left(here, disk)


@pytest.mark.parametrize("asked", ["here", "there"])
def test_a_disk_is_removed_with_what_a_broken_move_left_of_it(asked: str, pools: tuple[Store, Store]) -> None:
    here, there = pools
    disk, moved, _mark = broken_off(here, there)
    store = here if asked == "here" else there
    four = store.four({"instance": WEB}, state="absent")
    assert four.run["actions"][0] == finishing(here, there)
    assert len(four.run["actions"]) == (1 if asked == "here" else 2)
    assert os.path.exists(str(moved["path"])) == (asked == "here")
    nothing_left(here, disk)


def test_a_mark_of_a_copy_that_came_to_nothing_is_taken_away(task: Modules, pools: tuple[Store, Store]) -> None:
    here, there = pools
    (copy,) = there.make({"instance": WEB, "image": "base"})
    there.four({"instance": WEB}, state="absent")
    (disk,) = here.make({"instance": WEB, "image": "base"})
    mark = marked(here, copy, there)
    assert here.make({"instance": WEB})[0]["id"] == disk["id"]
    assert not mark.exists()


@pytest.mark.parametrize("of_the_same_name", [False, True])
def test_a_mark_that_leads_to_a_pool_of_another_host_keeps_the_disk_from_being_used(
    of_the_same_name: bool, pools: tuple[Store, Store]
) -> None:
    here, there = pools
    here.make({"instance": WEB, "image": "base"})
    pool = there.name if of_the_same_name else "elsewhere"
    mark = here.private / "references" / MOVES / f"{WEB}+root+aaaaaaaaaaaa@{pool}"
    mark.parent.mkdir()
    mark.touch()
    for state in ("present", "absent"):
        assert "run this on a host that has that pool" in here.refused({"instance": WEB}, state=state)


def test_a_disk_between_two_pools_is_not_let_go_of_and_is_reported(task: Modules, pools: tuple[Store, Store]) -> None:
    here, there = pools
    (disk,) = here.make({"instance": WEB, "role": "data", "blank": {}, "size": str(MIB)})
    volume = Path(str(disk["path"])).read_bytes()
    (moved,) = there.make({"instance": WEB, "role": "data"}, allow_move=True)
    body = here.record(disk)
    body.with_name(f"{disk['id']}.gone").rename(body.with_name(f"{disk['id']}.ready"))
    Path(str(disk["path"])).write_bytes(volume)
    mark = marked(here, moved, there)
    for store in pools:
        refusal = task.refused(
            "disk_metadata", state="absent", pool=store.name, disks=[{"instance": WEB, "role": "data"}]
        )
        assert f"from pool {here.name} to pool {there.name}" in refusal
    assert mark.exists()
    assert os.path.exists(str(disk["path"]))
    (report,) = task("disk_metadata", state="verified", pool=here.name)["reports"]
    assert (report["problem"], report["id"]) == ("moving", disk["id"])
    assert f"to pool {there.name} is not at its end" in report["message"]
    assert task("disk_metadata", state="verified", pool=there.name)["reports"] == []
    there.make({"instance": WEB, "role": "data"})
    assert task("disk_metadata", state="verified", pool=here.name)["reports"] == []


def test_a_flavor_finds_the_disk_that_a_broken_move_has_made(task: Modules, pools: tuple[Store, Store]) -> None:
    here, there = pools
    disk, moved, _mark = broken_off(here, there)
    flavors = {"any": {"root": [{"pools": [here.name, there.name]}]}}
    four = task.four("instance_disk", flavor="any", flavors=flavors, disks=[{"instance": WEB, "image": "base"}])
    assert four.run["actions"] == [finishing(here, there)]
    assert four.run["plan"][0]["takes"] == {here.name: four.run["plan"][0]["takes"][here.name]}
    assert four.run["plan"][0]["takes"][here.name] < 0
    assert (four.run["disks"][0]["id"], four.run["disks"][0]["placement"]) == (moved["id"], "it stands there")
    nothing_left(here, disk)
