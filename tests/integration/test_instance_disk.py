# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The disks of instances on real pools, without guests: those are in `test_guests`."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import shutil
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import libvirt
import pycdlib
import pytest

from ansible_collections.virt.storage.plugins.module_utils._ground.qcow2 import overlay_image, write_pieces

from .conftest import Four, ModuleFailed, Modules, Place, Result

MIB = 1 << 20
SIZE = 8 * MIB
CONTENT = random.Random(7).randbytes(MIB)
"""What the image of the tests begins with."""


@dataclass
class Store:
    """A pool of the tests, with the image ``base`` in its cache."""

    task: Modules
    name: str
    path: Path
    image: Result

    def four(self, *disks: dict[str, Any], **params: Any) -> Four:
        """Check, run, check, run of ``disks``."""
        return self.task.four("instance_disk", pool=self.name, disks=list(disks), **params)

    def make(self, *disks: dict[str, Any], **params: Any) -> list[Result]:
        """The disks, after one run."""
        return self.task("instance_disk", pool=self.name, disks=list(disks), **params)["disks"]

    def remove(self, instance: str, *roles: str) -> Result:
        """Remove all disks of an instance, or those of ``roles``."""
        disks = [{"instance": instance, "role": role} for role in roles] or [{"instance": instance}]
        return self.task("instance_disk", pool=self.name, state="absent", disks=disks)

    def refused(self, *disks: dict[str, Any], **params: Any) -> str:
        """The sentence with which check mode and a run refuse ``disks``, and nothing has changed by either."""
        before = self.snapshot()
        said = self.task.refused("instance_disk", pool=self.name, disks=list(disks), **params)
        assert self.snapshot() == before
        return said

    def failed(self, *disks: dict[str, Any], **params: Any) -> ModuleFailed:
        """The error of a run."""
        with pytest.raises(ModuleFailed) as failure:
            self.task("instance_disk", pool=self.name, disks=list(disks), **params)
        assert "\n" not in failure.value.msg
        return failure.value

    def snapshot(self) -> set[tuple[str, int, int]]:
        """Every file of the pool by path, inode and size: equal ones mean that nothing was made or removed."""
        found = set()
        for path in [*self.path.glob("*"), *self.path.glob(".virt-storage/[dirs]*/*")]:
            status = path.lstat()
            found.add((str(path.relative_to(self.path)), status.st_ino, status.st_size))
        return found

    @property
    def private(self) -> Path:
        """The folder of the pool's own files."""
        return self.path / ".virt-storage"

    def record(self, disk: Result) -> Path:
        """The body of a disk's record."""
        return self.private / "records" / str(disk["id"])


def open_store(task: Modules, place: Place, path: Path | None = None) -> Store:
    """A new pool with an image in it."""
    given = place.pool()
    if path is not None:
        given["path"] = str(path)
    task("libvirt_pool", type="dir", **given)
    source = place.root / "base.raw"
    if not source.exists():
        source.write_bytes(CONTENT + bytes(SIZE - MIB))
    image = {"name": "base", "source": str(source), "format": "raw"}
    made = task("cached_image", pools=[given["name"]], images=[image])["images"][0]
    return Store(task, given["name"], Path(given["path"]), made)


@pytest.fixture(scope="module")
def site(libvirtd: libvirt.virConnect) -> Iterator[Place]:
    here = Place(libvirtd)
    yield here
    here.remove()


@pytest.fixture(scope="module")
def store(task: Modules, site: Place) -> Store:
    """A pool for all tests that need no pool to themselves; each has instances of its own."""
    return open_store(task, site)


@pytest.fixture
def own(task: Modules, place: Place) -> Store:
    """A pool of one test."""
    return open_store(task, place)


@contextlib.contextmanager
def mounted(folder: Path, megabytes: int, *mkfs: str) -> Iterator[Path]:
    """A file system of its own, in a file in ``folder``."""
    file, point = folder / f"{mkfs[0]}.img", folder / f"{mkfs[0]}.mnt"
    with open(file, "wb") as image:
        image.truncate(megabytes * MIB)
    point.mkdir()
    subprocess.run([*mkfs, str(file)], check=True, capture_output=True)
    subprocess.run(["mount", "-o", "loop", str(file), str(point)], check=True)
    try:
        yield point
    finally:
        for path in point.rglob("*.raw"):
            subprocess.run(["chattr", "-i", str(path)], check=False, capture_output=True)
        subprocess.run(["umount", str(point)], check=True)


def as_raw(disk: Result, folder: Path) -> Path:
    """What a guest reads from the disk, as a sparse file."""
    path = folder / f"{disk['id']}.content"
    subprocess.run(["qemu-img", "convert", "-f", disk["format"], "-O", "raw", disk["path"], str(path)], check=True)
    return path


def content(disk: Result, folder: Path) -> bytes:
    path = as_raw(disk, folder)
    return path.read_bytes()


def info(disk: Result) -> Result:
    argv = ["qemu-img", "info", "-f", disk["format"], "--output=json", disk["path"]]
    return json.loads(subprocess.run(argv, check=True, capture_output=True).stdout)


def blkid(path: Path) -> dict[str, str]:
    out = subprocess.run(["blkid", "-p", "-o", "export", str(path)], check=True, capture_output=True, text=True).stdout
    return dict(line.split("=", 1) for line in out.splitlines())


@contextlib.contextmanager
def open_elsewhere(path: str) -> Iterator[int]:
    """Another process that has the file open; gives its id."""
    with open(path, "rb") as file:
        process = subprocess.Popen(["sleep", "60"], stdin=file)
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


# Of an image


def test_an_image_is_named_by_name_key_and_id(store: Store, tmp_path: Path) -> None:
    names = {"byname": "base", "bykey": store.image["key"], "byid": store.image["id"]}
    results = store.four(*({"instance": each, "image": name} for each, name in names.items()))
    assert results.run["actions"] == [
        f"make disk root of {each} in pool {store.name} (8.0 MiB, overlay of image {name})"
        for each, name in names.items()
    ]
    assert results.run["diff"]["before"] == {}
    assert results.run["diff"]["after"] == {
        f"disk root of {each} in pool {store.name}": {"state": "ready", "size": SIZE} for each in names
    }
    assert results.run["plan"][0]["strategy"] == "overlay"
    for check, disk in zip(results.check["disks"], results.run["disks"]):
        assert set(check) == set(disk)
        assert {**disk, **{key: value for key, value in check.items() if value is not None}} == disk
        assert (disk["size"], disk["format"], disk["state"], disk["role"]) == (SIZE, "qcow2", "ready", "root")
        assert (disk["image"], disk["backing"]) == ("base", store.image["id"])
        assert os.path.dirname(disk["path"]) == str(store.path)
        assert stat.S_IMODE(os.stat(disk["path"]).st_mode) == 0o600
    assert content(results.run["disks"][0], tmp_path) == CONTENT + bytes(SIZE - MIB)
    assert results.run_again["disks"] == results.check_again["disks"] == results.run["disks"]


def test_the_size_is_the_images_or_more_in_whole_sectors(store: Store, tmp_path: Path) -> None:
    disks = store.four(
        {"instance": "equal", "image": "base", "size": str(SIZE)},
        {"instance": "larger", "image": "base", "size": "20M"},
        {"instance": "odd", "image": "base", "size": str(SIZE + 1)},
    ).run["disks"]
    assert [disk["size"] for disk in disks] == [SIZE, 20 * MIB, SIZE + 512]
    assert content(disks[1], tmp_path) == CONTENT + bytes(19 * MIB)
    assert store.refused({"instance": "small", "image": "base", "size": "4M"}) == (
        f"The disk root of small in pool {store.name} is to have 4194304 bytes (4.0 MiB), but its image base has "
        "8388608 bytes (8.0 MiB): ask for at least that size."
    )


def test_an_image_that_is_not_there_is_asked_for_before_anything_is_made(store: Store) -> None:
    disks = [{"instance": "fine", "image": "base"}, {"instance": "lacks", "image": "nobody-brought-it"}]
    foreseen = store.task("instance_disk", check=True, pool=store.name, disks=disks)
    assert "bring it in with cached_image first" in str(foreseen["warnings"])
    before = store.snapshot()
    assert "no ready image nobody-brought-it" in store.failed(*disks).msg
    assert store.snapshot() == before


def test_a_copy_needs_no_image_from_the_start(store: Store, task: Modules, site: Place, tmp_path: Path) -> None:
    source = site.root / "passing.raw"
    source.write_bytes(CONTENT[::-1])
    image = {"name": "passing", "source": str(source), "format": "raw"}
    task("cached_image", pools=[store.name], images=[image])
    results = store.four({"instance": "copied", "image": "passing", "clone": "copy", "size": "2M"})
    disk = results.run["disks"][0]
    assert (disk["state"], disk["format"], disk["backing"], disk["image"]) == ("flat", "raw", None, "passing")
    assert Path(disk["path"]).parent == store.private / "disks"
    assert disk["xml"].count("<source") == 1
    assert content(disk, tmp_path) == CONTENT[::-1] + bytes(MIB)
    task("cached_image", pools=[store.name], state="absent", images=[{"name": "passing"}])
    assert task("cached_image_info", pools=[store.name])["images"][0]["id"] == store.image["id"]
    assert store.make({"instance": "copied", "flattened": True, "size": "2M"}) == [disk]


def test_reflink_is_refused_where_the_file_system_cannot(store: Store) -> None:
    said = store.refused({"instance": "linked", "image": "base", "clone": "reflink"})
    assert said.endswith("cannot be cloned by reflink: the file system of the pool cannot share extents: use overlay "
                         "or copy.")  # fmt: skip


@pytest.mark.parametrize("mkfs", [("mkfs.xfs", "-q"), ("mkfs.btrfs", "-q")], ids=["xfs", "btrfs"])
def test_reflink_shares_extents(task: Modules, place: Place, mkfs: tuple[str, ...], tmp_path: Path) -> None:
    with mounted(place.root, 320, *mkfs) as point:
        store = open_store(task, place, point / "pool")
        disk = store.four({"instance": "linked", "image": "base", "clone": "reflink", "size": "9M"}).run["disks"][0]
        assert (disk["format"], disk["state"], disk["strategy"]) == ("raw", "flat", "reflink")
        assert content(disk, tmp_path) == CONTENT + bytes(8 * MIB)
        subprocess.run(["sync", "-f", disk["path"]], check=True)
        shown = subprocess.run(["filefrag", "-v", disk["path"]], check=True, capture_output=True, text=True).stdout
        assert "shared" in shown
        store.make({"instance": "over", "image": "base"})
        task("libvirt_pool", name=store.name, state="absent")


# Blank


def test_blank_disks_have_the_file_system_that_was_asked_for(store: Store, tmp_path: Path) -> None:
    asked = {
        "plain": {"size": "1M", "blank": {}},
        "one": {"size": "16M", "blank": {"fs": "ext4", "label": "one"}},
        "two": {"size": "16M", "blank": {"fs": "ext4"}},
        "three": {"size": "16M", "blank": {"fs": "ext4"}},
        "xfs": {"size": "300M", "blank": {"fs": "xfs", "label": "deep"}},
        "swap": {"size": "2M", "blank": {"fs": "swap", "label": "spill"}},
        "vfat": {"size": "2M", "blank": {"fs": "vfat", "label": "boot"}},
    }
    results = store.four(*({"instance": "blank", "role": role, **disk} for role, disk in asked.items()))
    seen = {}
    for disk in results.run["disks"]:
        path = as_raw(disk, tmp_path)
        assert disk["image"] is None
        assert path.stat().st_size == disk["size"]
        seen[disk["role"]] = blkid(path) if disk["role"] != "plain" else {"TYPE": "none" * any(path.read_bytes())}
    assert {role: each["TYPE"] for role, each in seen.items()} == {
        **dict.fromkeys(("one", "two", "three"), "ext4"),
        **{kind: kind for kind in ("xfs", "swap", "vfat")},
        "plain": "",
    }
    labels = {role: each["LABEL"] for role, each in seen.items() if "LABEL" in each}
    assert labels == {"one": "one", "xfs": "deep", "swap": "spill", "vfat": "BOOT"}
    identities = [each["UUID"] for role, each in seen.items() if role != "plain"]
    assert len(set(identities)) == len(identities)
    subprocess.run(["e2fsck", "-f", "-n", str(as_raw(results.run["disks"][2], tmp_path))], check=True)
    another = store.make({"instance": "blank2", "role": "two", **asked["two"]})[0]
    assert another["backing"] == results.run["disks"][2]["backing"], "instances share a template"


def test_identities_differ_across_pools_too(store: Store, own: Store, tmp_path: Path) -> None:
    blank = {"instance": "spread", "size": "16M", "blank": {"fs": "ext4"}}
    disks = store.make({**blank, "role": "here"}, {**blank, "role": "there", "pool": own.name})
    assert [disk["pool"] for disk in disks] == [store.name, own.name]
    assert len({blkid(as_raw(disk, tmp_path))["UUID"] for disk in disks}) == 2


@pytest.mark.parametrize(
    ("disk", "sentence"),
    [
        ({"size": "1M", "blank": {"fs": "ext4"}}, "A size of 1048576 bytes was asked for ext4"),
        ({"size": "100M", "blank": {"fs": "xfs"}}, "A size of 104857600 bytes was asked for xfs"),
        ({"size": "512", "blank": {"fs": "swap"}}, "A size of 512 bytes was asked for swap"),
        ({"size": "10K", "blank": {"fs": "vfat"}}, "A size of 10240 bytes was asked for vfat"),
        ({"size": "16M", "blank": {"fs": "ext4", "label": "a b"}}, "The label 'a b' was asked"),
        ({"size": "16M", "blank": {"label": "data"}}, "has no file system to carry a label"),
        ({"blank": {"fs": "ext4"}}, "its size is needed"),
        ({"size": "0", "blank": {}}, "'0' is not a size"),
        ({"size": "-1G", "blank": {}}, "'-1G' is not a size"),
        ({"size": "10X", "blank": {}}, "'10X' is not a size"),
        ({"size": "3P", "blank": {}}, "is 3.0 PiB, and a disk can have 2.0 PiB at most"),
        ({"size": "1M", "blank": {}, "clone": "copy"}, "nothing to clone"),
        ({"size": "1M", "blank": {}, "replace": True}, "is no config disk"),
        ({"size": "1M", "config": {}}, "leave size out"),
        ({"size": "1M", "blank": {}, "image": "base"}, "image and blank: give one of them"),
        ({"size": "1M"}, "does not say what to make it of"),
        ({"size": "1M", "blank": {}, "role": "Root"}, "role name"),
        ({"size": "1M", "blank": {}, "instance": "a/b"}, "instance name"),
        ({"size": "1M", "blank": {}, "instance": ".."}, "instance name"),
        ({"size": "1M", "blank": {}, "instance": "a\nb"}, "instance name"),
        ({"size": "1M", "blank": {}, "instance": "x" * 300}, "instance name"),
        ({"size": "1M", "blank": {}, "instance": "müller"}, "instance name"),
        ({"size": "1M", "blank": {}, "target": "../sda"}, "is no name of a disk"),
        ({"size": "1M", "blank": {}, "serial": "<x/>"}, "The serial '<x/>'"),
        ({"size": "1M", "blank": {}, "io": "native"}, "needs cache none or directsync"),
        ({"size": "1M", "blank": {}, "device": "cdrom", "bus": "virtio"}, "cannot be a cdrom on bus virtio"),
        ({"image": ""}, "has no name"),
        ({"import_from": {"path": "here.raw", "format": "raw"}}, "absolute path"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_made(store: Store, disk: dict[str, Any], sentence: str) -> None:
    fine = {"instance": "innocent", "size": "1M", "blank": {}}
    assert sentence in store.refused(fine, {"instance": "bad", **disk})


def test_lists_that_contradict_themselves_are_refused(store: Store, task: Modules) -> None:
    disk = {"instance": "twice", "size": "1M", "blank": {}}
    assert "stands twice" in store.refused(disk, disk)
    assert "ask for the target vda" in store.refused({**disk, "target": "vda"}, {**disk, "role": "b", "target": "vda"})
    assert "No pool is given" in task.refused("instance_disk", disks=[disk])


def test_a_disk_is_what_it_was_made_of(store: Store) -> None:
    store.make({"instance": "fixed", "image": "base"}, {"instance": "fixed", "role": "d", "size": "1M", "blank": {}})
    assert "is a clone of image base, not a blank disk (no file system)" in store.refused(
        {"instance": "fixed", "size": "8M", "blank": {}}
    )
    assert "is a blank disk (no file system), not a blank disk (ext4)" in store.refused(
        {"instance": "fixed", "role": "d", "size": "16M", "blank": {"fs": "ext4"}}
    )
    assert "is a clone of image base, not a config disk" in store.refused({"instance": "fixed", "config": {}})
    assert store.make({"instance": "fixed"}, {"instance": "fixed", "role": "d"})[0]["size"] == SIZE


# Config

SECRET = "correct horse battery staple"


def config(password: str = SECRET) -> dict[str, Any]:
    return {
        "user_data": f"#cloud-config\nchpasswd:\n  list: root:{password}\n",
        "meta_data": f"local-hostname: web\nkey: {password} meta\n",
        "network_config": f"version: 2\n# {password} net\n",
        "vendor_data": f"#cloud-config\n# {password} vendor\n",
    }


def files_of(path: str) -> dict[str, str]:
    """The files in the root of an ISO image, by their Rock Ridge names."""
    iso = pycdlib.PyCdlib()
    iso.open(path)
    found = {}
    for child in iso.list_children(rr_path="/"):
        if child.is_file():
            data = io.BytesIO()
            name = child.rock_ridge.name().decode()
            iso.get_file_from_iso_fp(data, rr_path=f"/{name}")
            found[name] = data.getvalue().decode()
    iso.close()
    return found


def test_a_config_disk_holds_its_files_and_keeps_its_secrets(store: Store) -> None:
    wanted = {"instance": "seeded", "role": "config", "config": config()}
    results = store.four(wanted)
    disk = results.run["disks"][0]
    assert (disk["format"], disk["target"]) == ("raw", "sda")
    assert 'device="cdrom"' in disk["xml"]
    assert Path(disk["path"]).parent == store.private / "disks"
    assert stat.S_IMODE(os.stat(disk["path"]).st_mode) == 0o600
    found = files_of(disk["path"])  # what a guest's kernel makes of it is in `test_guests`
    assert found == {
        "user-data": config()["user_data"],
        "meta-data": 'instance-id: "seeded"\n' + config()["meta_data"],
        "network-config": config()["network_config"],
        "vendor-data": config()["vendor_data"],
    }
    with pytest.raises(ModuleFailed) as refusal:
        store.make({**wanted, "config": config("another password")})
    assert "holds other files than the task gives" in refusal.value.msg
    replaced = store.four({**wanted, "config": config("another password"), "replace": True})
    assert replaced.run["diff"]["before"] != replaced.run["diff"]["after"]
    again = replaced.run["disks"][0]
    assert again["path"] != disk["path"]
    assert not os.path.exists(disk["path"])
    described = store.task("instance_disk_info", pools=[store.name], instances=["seeded"])
    assert described["disks"][0]["origin"] == {"config": True}
    shown = json.dumps([results, replaced, refusal.value.result, described])
    assert "VALUE_SPECIFIED_IN_NO_LOG_PARAMETER" in shown, "Ansible hides what stands in the parameters"
    for path in [path for part in ("records", "facts", "references") for path in (store.private / part).rglob("*")]:
        shown += path.read_text() if path.is_file() else ""
    assert SECRET not in shown
    assert "another password" not in shown
    assert "sha256:" not in json.dumps([results, replaced, described]), "a digest would tell whether a guess is right"


# Import and adoption


def test_a_file_from_elsewhere_is_inspected_and_copied(store: Store, tmp_path: Path) -> None:
    raw, qcow2 = tmp_path / "old.raw", tmp_path / "old.qcow2"
    raw.write_bytes(CONTENT)
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(qcow2)], check=True)
    results = store.four(
        {"instance": "in-raw", "import_from": {"path": str(raw), "format": "raw"}},
        {"instance": "in-qcow2", "import_from": {"path": str(qcow2), "format": "qcow2"}, "size": "3M"},
    )
    first, second = results.run["disks"]
    assert (content(first, tmp_path), content(second, tmp_path)) == (CONTENT, CONTENT + bytes(2 * MIB))
    assert {Path(disk["path"]).parent for disk in (first, second)} == {store.private / "disks"}
    assert raw.read_bytes() == CONTENT
    assert results.run["plan"][0]["strategy"] == "copy"
    qcow2.unlink()
    assert not store.task(
        "instance_disk",
        pool=store.name,
        disks=[{"instance": "in-qcow2", "import_from": {"path": str(qcow2), "format": "qcow2"}}],
    )["changed"]


def test_what_must_not_come_in_is_refused_and_the_others_are_made(store: Store, tmp_path: Path) -> None:
    hostile, wrong, large = tmp_path / "hostile.qcow2", tmp_path / "wrong.raw", tmp_path / "large.raw"
    with open(hostile, "wb") as file:
        write_pieces(file.fileno(), overlay_image(MIB, "/etc/shadow", "raw"))
    shutil.copy(hostile, wrong)
    large.write_bytes(CONTENT)
    failed = store.failed(
        {"instance": "before", "size": "1M", "blank": {}},
        {"instance": "hostile", "import_from": {"path": str(hostile), "format": "qcow2"}},
        {"instance": "wrong", "import_from": {"path": str(wrong), "format": "raw"}},
        {"instance": "large", "import_from": {"path": str(large), "format": "raw"}, "size": "512K"},
        {"instance": "after", "image": "base"},
    )
    assert failed.msg.startswith(f"The disk root of hostile in pool {store.name} is not as it was asked for: ")
    assert (failed.result["check"], failed.result["disk"]) == ("backing_file", "root of hostile")
    assert ["of wrong" in each or "of large" in each for each in failed.result["also_failed"]] == [True, True]
    found = store.task("instance_disk_info", pools=[store.name], instances=["before", "hostile", "wrong", "after"])
    assert [disk["instance"] for disk in found["disks"]] == ["after", "before"]
    assert not any("hostile" in name or "wrong" in name for name in os.listdir(store.private / "disks"))
    missing = {"instance": "none", "import_from": {"path": str(tmp_path / "none"), "format": "raw"}}
    assert "There is no file" in store.failed(missing).msg
    foreseen = store.task("instance_disk", check=True, pool=store.name, disks=[missing])
    assert "Check mode goes on" in str(foreseen["warnings"])
    assert "is a folder" in store.refused({"instance": "f", "import_from": {"path": str(tmp_path), "format": "raw"}})


def test_a_raw_volume_of_the_pool_moves_to_where_no_refresh_looks(own: Store, tmp_path: Path) -> None:
    volume = own.path / "old.img"
    volume.write_bytes(CONTENT)
    inode = volume.stat().st_ino
    wanted = {"instance": "adopted", "import_from": {"path": str(volume), "format": "raw"}, "size": "2M"}
    results = own.four(wanted)
    assert results.run["actions"] == [
        f"make disk root of adopted in pool {own.name} (2.0 MiB, the volume {volume})".replace("2.0 MiB, ", ""),
        f"grow disk root of adopted in pool {own.name} from 1.0 MiB to 2.0 MiB",
    ]
    disk = results.run["disks"][0]
    assert Path(disk["path"]).parent == own.private / "disks"
    assert os.stat(disk["path"]).st_ino == inode
    assert not volume.exists()
    assert content(disk, tmp_path) == CONTENT + bytes(MIB)
    assert (disk["strategy"], disk["size"]) == ("adopt", 2 * MIB)
    inside = {"instance": "b", "import_from": {"path": disk["path"], "format": "raw"}}
    assert "folder of the pool's own files" in own.refused(inside)


def test_qcow2_volumes_of_the_pool_are_taken_over_in_place(own: Store, task: Modules, tmp_path: Path) -> None:
    alone, over = own.path / "alone.qcow2", own.path / "over.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(alone), "4M"], check=True)
    image = own.image["path"]
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", image, "-F", "raw", str(over)], check=True)
    alone_disk = {"instance": "alone", "import_from": {"path": str(alone), "format": "qcow2"}}
    over_disk = {"instance": "over", "import_from": {"path": str(over), "format": "qcow2"}}
    with open_elsewhere(str(alone)):
        results = own.four(alone_disk, over_disk)
    assert [disk["path"] for disk in results.run["disks"]] == [str(alone), str(over)]
    assert [disk["backing"] for disk in results.run["disks"]] == [None, own.image["id"]]
    assert [disk["size"] for disk in results.run["disks"]] == [4 * MIB, SIZE]
    task("cached_image", pools=[own.name], state="absent", images=[{"name": "base"}])
    assert content(results.run["disks"][1], tmp_path) == CONTENT + bytes(SIZE - MIB)
    thief = {"instance": "thief", "import_from": {"path": str(over), "format": "qcow2"}}
    assert f"already belongs to {results.run['disks'][1]['id']}" in own.refused(thief)


def test_volumes_that_lead_elsewhere_are_not_taken_over(own: Store) -> None:
    def adopted(name: str, format: str = "qcow2") -> dict[str, Any]:
        return {"instance": "foreign", "import_from": {"path": str(own.path / name), "format": format}}

    def volume(name: str, backing: str, format: str = "raw") -> dict[str, Any]:
        with open(own.path / name, "wb") as file:
            write_pieces(file.fileno(), overlay_image(SIZE, backing, format))
        return adopted(name)

    assert "names '/etc/shadow' as its backing, which is no ready image" in own.refused(volume("a", "/etc/shadow"))
    assert "images of the cache are raw" in own.refused(volume("b", own.image["path"], "qcow2"))
    outside = volume("c", "/x")
    with open(own.path / "c", "r+b") as file:
        file.seek(72)
        file.write((4).to_bytes(8, "big"))  # the feature bit of a data file
    assert "its data is in another file" in own.refused(outside)
    (own.path / "d").write_bytes(CONTENT)
    assert "give the format that it has" in own.refused(adopted("d"))
    (own.path / "e").symlink_to("/etc/shadow")
    assert "symbolic link" in own.refused(adopted("e", "raw"))
    assert "no volume f in pool" in own.refused(adopted("f", "raw"))
    assert "only qcow2 and raw can" in own.refused(adopted("d", "vmdk"))
    with open_elsewhere(str(own.path / "d")):
        assert "is in use by process" in own.refused(adopted("d", "raw"))


# Changes


def test_a_disk_grows_and_never_shrinks(store: Store, tmp_path: Path) -> None:
    store.make(
        {"instance": "growing", "image": "base"}, {"instance": "growing", "role": "d", "size": "1M", "blank": {}}
    )
    wanted = [{"instance": "growing", "size": "12M"}, {"instance": "growing", "role": "d", "size": "3M"}]
    results = store.four(*wanted)
    what = f"disk root of growing in pool {store.name}"
    assert results.run["actions"][0] == f"grow {what} from 8.0 MiB to 12.0 MiB"
    assert results.run["diff"]["before"][what] == {"size": SIZE}
    assert results.run["diff"]["after"][what] == {"size": 12 * MIB}
    assert [disk["size"] for disk in results.check["disks"]] == [12 * MIB, 3 * MIB]
    assert [info(disk)["virtual-size"] for disk in results.run["disks"]] == [12 * MIB, 3 * MIB]
    assert content(results.run["disks"][0], tmp_path) == CONTENT + bytes(11 * MIB)
    assert "cannot shrink to 8388608 bytes (8.0 MiB)" in store.refused({"instance": "growing", "size": "8M"})


def test_a_flat_disk_needs_no_image(own: Store, task: Modules, tmp_path: Path) -> None:
    own.make({"instance": "leaning", "image": "base"})
    made_flat = own.four({"instance": "upright", "image": "base", "flattened": True})
    assert len(made_flat.run["actions"]) == 2
    results = own.four({"instance": "leaning", "flattened": True})
    assert results.run["actions"] == [f"flatten disk root of leaning in pool {own.name}, so that it needs no image"]
    assert results.check["disks"] == [{**results.run["disks"][0]}]
    blank = {"instance": "leaning", "role": "data", "size": "16M", "blank": {"fs": "ext4"}, "flattened": True}
    own.four(blank)
    task("cached_image", pools=[own.name], state="absent", images=[{"name": own.image["id"]}])
    assert not os.path.exists(own.image["path"])
    for disk in (made_flat.run["disks"][0], results.run["disks"][0]):
        assert (disk["state"], disk["backing"], info(disk).get("backing-filename")) == ("flat", None, None)
        assert content(disk, tmp_path) == CONTENT + bytes(SIZE - MIB)


def test_a_disk_with_snapshots_is_not_flattened(store: Store) -> None:
    disk = store.make({"instance": "snapped", "image": "base"})[0]
    for change in ("-c", "-d"):
        told = f"driver=qcow2,file.driver=file,file.filename={disk['path']}"
        subprocess.run(["qemu-img", "snapshot", change, "before", "--image-opts", told], check=True)
        if change == "-c":
            assert "has snapshots of its guest in it (1)" in store.refused({"instance": "snapped", "flattened": True})
    store.four({"instance": "snapped", "flattened": True})


def test_a_disk_with_compressed_clusters_is_flattened(store: Store, tmp_path: Path) -> None:
    """What only qemu can read is not measured before."""
    disk = store.make({"instance": "pressed", "image": "base"})[0]
    before = content(disk, tmp_path)
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -q -c -P 5 4M 64k", disk["path"]], check=True)
    results = store.four({"instance": "pressed", "flattened": True})
    assert content(results.run["disks"][0], tmp_path) == before[: 4 * MIB] + b"\5" * 65536 + before[4 * MIB + 65536 :]


def test_a_disk_in_use_is_neither_flattened_nor_removed(store: Store) -> None:
    disk = store.make({"instance": "busy", "image": "base"})[0]
    with open_elsewhere(disk["path"]) as pid:
        assert f"in use by process {pid} (sleep)" in store.refused({"instance": "busy", "flattened": True})
        assert f"in use by process {pid} (sleep)" in store.refused({"instance": "busy"}, state="absent")
    loop = subprocess.run(["losetup", "-f", "--show", disk["path"]], check=True, capture_output=True, text=True)
    device = loop.stdout.strip()
    try:
        assert f"in use by loop device {device}" in store.refused({"instance": "busy"}, state="absent")
    finally:
        subprocess.run(["losetup", "-d", device], check=True)
    store.four({"instance": "busy", "flattened": True})
    assert store.four({"instance": "busy"}, state="absent").run["actions"] == [
        f"remove disk root of busy in pool {store.name} ({disk['id']})"
    ]
    assert not os.path.exists(disk["path"])


def test_one_in_use_keeps_all_of_a_removal(store: Store, own: Store) -> None:
    free = store.make({"instance": "pair", "image": "base"})[0]
    busy = own.make({"instance": "pair", "role": "b", "image": "base"})[0]
    with open_elsewhere(busy["path"]):
        store.refused({"instance": "pair"}, {"instance": "pair", "role": "b", "pool": own.name}, state="absent")
    assert os.path.exists(free["path"])


def test_all_disks_of_an_instance_are_removed_and_no_others(store: Store) -> None:
    blank = {"size": "1M", "blank": {}}
    store.make(*({"instance": name, "role": role, **blank} for name in ("gone", "gone2") for role in ("a", "b", "c")))
    one = store.four({"instance": "gone", "role": "b"}, state="absent").run
    assert [action.split(" (")[0] for action in one["actions"]] == [f"remove disk b of gone in pool {store.name}"]
    assert one["diff"]["after"] == {}
    assert one["disks"] == []
    rest = store.four({"instance": "gone"}, {"instance": "never-was"}, state="absent").run
    assert [action.split(" of ")[0] for action in rest["actions"]] == ["remove disk a", "remove disk c"]
    left = store.task("instance_disk_info", pools=[store.name], instances=["gone", "gone2"])["disks"]
    assert [(disk["instance"], disk["role"]) for disk in left] == [("gone2", "a"), ("gone2", "b"), ("gone2", "c")]


def test_each_disk_may_name_its_pool_and_is_not_made_in_two(store: Store, own: Store) -> None:
    results = store.four(
        {"instance": "wide", "image": "base"},
        {"instance": "wide", "role": "data", "size": "1M", "blank": {}, "pool": own.name},
    )
    assert [disk["pool"] for disk in results.run["disks"]] == [store.name, own.name]
    assert [disk["target"] for disk in results.run["disks"]] == ["vda", "vdb"]
    assert f"stands in pool {own.name}, not in {store.name}" in store.refused(
        {"instance": "wide", "role": "data", "size": "1M", "blank": {}}
    )
    found = store.task("instance_disk_info", instances=["wide"])["disks"]
    assert sorted((disk["pool"], disk["role"]) for disk in found) == sorted([(store.name, "root"), (own.name, "data")])


def test_info_describes_a_disk_whole(store: Store) -> None:
    made = store.make({"instance": "told", "image": "base"})[0]
    found = store.task("instance_disk_info", pools=[store.name], instances=["told"])["disks"][0]
    assert {key: found[key] for key in made} == made
    assert found["origin"]["name"] == found["origin"]["asked"] == "base"
    assert 0 < found["allocated"] < MIB
    assert store.task("instance_disk_info", instances=["nobody"])["disks"] == []


# Many


def test_a_thousand_disks_in_one_task(own: Store) -> None:
    disks = [{"instance": f"vm{number}", "image": "base", "size": "10M"} for number in range(1000)]
    started = time.monotonic()
    made = own.make(*disks)
    assert time.monotonic() - started < 30, "disks are made in batches"
    assert len({disk["path"] for disk in made}) == 1000
    assert len(list(own.path.glob("*.qcow2"))) == 1000
    again = own.task("instance_disk", pool=own.name, disks=disks)
    assert not again["changed"]
    assert again["disks"] == made
    info(made[999])
    removed = own.task(
        "instance_disk", pool=own.name, state="absent", disks=[{"instance": f"vm{n}"} for n in range(1000)]
    )
    assert len(removed["actions"]) == 1000
    assert not list(own.path.glob("*.qcow2"))


def test_two_processes_make_the_same_disks_once(own: Store, task: Modules) -> None:
    disks = [{"instance": f"vm{number}", "image": "base"} for number in range(100)]
    running = [task.start("instance_disk", pool=own.name, disks=disks) for _unused in range(2)]
    results: list[list[Result]] = []
    busy: list[str] = []
    for process in running:
        out, err = process.communicate(timeout=120)
        try:
            results.append(task.read("instance_disk", out, err)["disks"])
        except ModuleFailed as failure:
            busy.append(failure.msg)
    made = own.make(*disks)
    assert results
    assert all("Run the task again" in said for said in busy)
    assert all(result == made for result in results)
    states = [path.suffix for path in (own.private / "records").iterdir() if path.name.startswith("vm")]
    assert states.count(".ready") == 100
    assert ".pending" not in states
    assert len(list(own.path.glob("*.qcow2"))) == 100


# What was lost


def test_lost_and_damaged_records_fail_closed(own: Store) -> None:
    disk = own.make({"instance": "lost", "image": "base"}, {"instance": "well", "image": "base"})[0]
    wanted = {"instance": "lost", "image": "base"}
    record, body = own.record(disk), own.record(disk).read_bytes()
    ready = record.with_name(f"{record.name}.ready")

    def damage(content: bytes) -> None:
        for path in (record, ready):
            path.unlink()
        record.write_bytes(content)
        os.link(record, ready)

    damage(b"{}")
    assert "restore it with disk_metadata state=rebuilt" in own.refused(wanted)
    assert "restore it with disk_metadata state=rebuilt" in own.refused(wanted, state="absent")
    told = own.task("instance_disk_info", pools=[own.name])["disks"]
    assert [("problem" in each, each["instance"]) for each in told] == [(True, "lost"), (False, "well")]
    damage(json.dumps({**json.loads(body), "schema": 99}).encode())
    assert "use a newer version of the collection" in own.refused(wanted)
    damage(body)
    ready.unlink()
    assert "its record is lost: restore it with disk_metadata state=rebuilt" in own.refused(wanted)
    record.unlink()
    for state in ("present", "absent"):
        assert own.refused(wanted, state=state) == (
            f"The volume {disk['id']}.qcow2 of pool {own.name} is the disk root of lost by its name, and its record is "
            "lost: restore it with disk_metadata state=rebuilt, or remove the volume."
        )
    assert not own.task("instance_disk", pool=own.name, disks=[{"instance": "well"}])["changed"]


def test_a_pool_that_lost_all_its_records_has_its_disks_still(own: Store) -> None:
    own.make({"instance": "lost", "image": "base"})
    schema = own.path / ".virt-storage" / "schema"
    aside = schema.rename(schema.with_name("aside"))
    assert "its record is lost" in own.refused({"instance": "lost"}, state="absent")
    aside.rename(schema)
    assert own.task("instance_disk", pool=own.name, state="absent", disks=[{"instance": "lost"}])["changed"]


def test_missing_volumes_fail_closed(own: Store, task: Modules) -> None:
    first, second = own.make({"instance": "a", "image": "base"}, {"instance": "b", "image": "base"})
    os.unlink(first["path"])
    said = own.refused({"instance": "a", "image": "base"})
    assert f"is recorded as ready, but its volume {first['id']}.qcow2 is missing" in said
    assert own.four({"instance": "a"}, state="absent").run["changed"], "what is left can be removed"
    subprocess.run(["chattr", "-i", own.image["path"]], check=False, capture_output=True)
    os.rename(own.image["path"], own.path.parent / "elsewhere.raw")
    said = own.refused({"instance": "b", "size": "20M"})
    assert f"stands on the image {own.image['id']}, whose volume is missing" in said
    assert "its volume" in own.refused({"instance": "c", "image": "base"})
    assert "missing" in own.task("instance_disk_info", pools=[own.name])["disks"][0]["problem"]
    os.rename(own.path.parent / "elsewhere.raw", own.image["path"])
    assert own.make({"instance": "b"}) == [second]


def test_a_pool_of_a_newer_collection_is_left_alone(own: Store) -> None:
    (own.private / "schema").write_text("99\n")
    assert "use a newer version" in own.refused({"instance": "a", "image": "base"})
    assert "use a newer version" in own.refused({"instance": "a"}, state="absent")


# Pools that are not as they should be


def test_pools_that_are_not_there_or_not_active(store: Store, task: Modules, place: Place) -> None:
    disk = {"instance": "homeless", "size": "1M", "blank": {}}
    for state in ("present", "absent"):
        assert "There is no pool" in store.failed({**disk, "pool": "no-such-pool"}, state=state).msg
    given = place.pool()
    task("libvirt_pool", type="dir", state="inactive", **given)
    assert store.failed({**disk, "pool": given["name"]}).msg == (
        f"The pool {given['name']} is not active: start it with libvirt_pool state=active."
    )
    foreseen = task("instance_disk", check=True, disks=[{**disk, "pool": "no-such-pool"}])
    assert foreseen["changed"]
    assert "Check mode goes on" in str(foreseen["warnings"])
    assert "There is no pool" in store.failed({**disk, "pool": "a\nb"}).msg


def test_a_full_pool_and_a_read_only_one(task: Modules, place: Place) -> None:
    with mounted(place.root, 24, "mkfs.ext4", "-q") as point:
        store = open_store(task, place, point / "pool")
        kept = store.make({"instance": "kept", "image": "base"})[0]
        with open(point / "filler", "wb") as filler, contextlib.suppress(OSError):
            while True:
                filler.write(bytes(MIB))
                filler.flush()
        files = store.snapshot()
        said = store.failed({"instance": "more", "size": "8M", "image": "base", "clone": "copy"}).msg
        assert "free" in said
        assert not [name for name, *_unused in store.snapshot() - files if "disks/" in name]
        os.unlink(point / "filler")
        subprocess.run(["mount", "-o", "remount,ro", str(point)], check=True)
        files = store.snapshot()
        assert "read-only" in store.failed({"instance": "more", "image": "base"}).msg
        assert store.task("instance_disk_info", pools=[store.name])["disks"][0]["id"] == kept["id"]
        assert store.snapshot() == files
        subprocess.run(["mount", "-o", "remount,rw", str(point)], check=True)
        assert store.make({"instance": "more", "size": "8M", "image": "base", "clone": "copy"})[0]["state"] == "flat"
        task("libvirt_pool", name=store.name, state="absent")


def test_a_pool_that_cannot_be_looked_at_keeps_nobody_else_from_working(own: Store, store: Store) -> None:
    (own.private / "schema").write_text("99\n")
    result = store.task("instance_disk", pool=store.name, disks=[{"instance": "new", "size": "1M", "blank": {}}])
    assert result["changed"]
    assert any(own.name in str(warning) and "could not be seen" in str(warning) for warning in result["warnings"])


@pytest.mark.parametrize(("module", "what"), [("instance_disk_info", "disks"), ("cached_image_info", "images")])
def test_a_pool_that_cannot_be_looked_into_hides_no_other(own: Store, store: Store, module: str, what: str) -> None:
    store.make({"instance": "seen", "image": "base"})
    (own.private / "schema").write_text("99\n")
    result = store.task(module)
    assert store.name in {each["pool"] for each in result[what]}
    (problem,) = [each["problem"] for each in result["unseen"] if each["name"] == own.name]
    assert "use a newer version" in problem
    assert any(own.name in str(warning) and problem in str(warning) for warning in result["warnings"])
    assert store.task(module, pools=[store.name])["unseen"] == []
    with pytest.raises(ModuleFailed, match="use a newer version"):
        store.task(module, pools=[store.name, own.name])


def test_through_ansible_itself(play: Callable[..., list[Result]], store: Store) -> None:
    tasks = [
        {
            "name": "disks",
            "virt.storage.instance_disk": {
                "pool": store.name,
                "disks": [
                    {"instance": "played", "image": "base", "size": "10M"},
                    {"instance": "played", "role": "config", "config": config()},
                ],
            },
        },
        {"name": "told", "virt.storage.instance_disk_info": {"instances": ["played"]}},
    ]
    results = play(tasks, "-vvv")
    assert [disk["role"] for disk in results[0]["disks"]] == ["root", "config"]
    assert [disk["role"] for disk in results[1]["disks"]] == ["config", "root"]
    assert SECRET not in json.dumps(results)
