# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The modules on a thin and on a thick pool: check, run, check, run, and what LVM shows beside them."""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.virt.storage.plugins.module_utils._backends.lvm_records import MOUNTS
from ansible_collections.virt.storage.tests.integration import pool_cases
from ansible_collections.virt.storage.tests.integration.conftest import Modules, Result
from ansible_collections.virt.storage.tests.integration.pool_cases import MIB, WEB1, PoolSite, entry, name_of
from ansible_collections.virt.storage.tests.unit.ground.webserver import WebServer

DISK = random.Random(1).randbytes(MIB) + bytes(2 * MIB) + random.Random(2).randbytes(MIB)
SIZE = len(DISK)
DEVICE = "/dev/vdb"
GROUP = "vst-modules"
OURS = {"virt-storage-records", "virt-storage-pool"}


def program(*argv: str, check: bool = True) -> str:
    return subprocess.run(argv, check=check, capture_output=True, text=True, timeout=300).stdout


@dataclass
class LvmSite(PoolSite):
    """A pool of the group of the same name."""

    kind: str
    folder: Path

    def volumes(self) -> dict[str, list[str]]:
        """Name, and what else LVM shows of every volume: the thin pool, the permissions."""
        said = program("lvs", "--noheadings", "--separator", "|", "-o", "lv_name,pool_lv,lv_permissions", self.name)
        rows = [line.strip().split("|") for line in said.splitlines()]
        return {row[0]: row[1:] for row in rows}

    def names(self) -> list[str]:
        """See PoolSite."""
        return sorted(set(self.volumes()) - OURS)

    def read(self, volume: Result) -> bytes:
        """See PoolSite."""
        copy = self.folder / "read.raw"
        program("qemu-img", "convert", "-f", volume["format"], "-O", "raw", volume["path"], str(copy))
        return copy.read_bytes()

    def lose_record(self, record_id: str) -> None:
        """See PoolSite."""
        found = list(self.store.joinpath("records").glob(f"{record_id}*"))
        assert found
        for path in found:
            path.unlink()

    @property
    def store(self) -> Path:
        """The folder with the records."""
        return Path(MOUNTS, self.name, "store")

    def empty(self) -> None:
        """Take all volumes and records away."""
        if self.names():
            program("lvremove", "-y", *(f"{self.name}/{name}" for name in self.names()))
        shutil.rmtree(self.store, ignore_errors=True)


@pytest.fixture(scope="module")
def ground() -> None:
    """Not the group of the others."""


@pytest.fixture(scope="module")
def task() -> Modules:
    return Modules()


@pytest.fixture(scope="module", params=["thin", "thick"])
def made(request: pytest.FixtureRequest, task: Modules, tmp_path_factory: Any) -> Iterator[LvmSite]:
    wiped()
    wanted = {"group": GROUP, "devices": [DEVICE], "thin": request.param == "thin"}
    task("libvirt_pool", name=GROUP, type="logical", logical=wanted)
    yield LvmSite(task, GROUP, request.param, tmp_path_factory.mktemp("read"))
    wiped()


@pytest.fixture
def site(made: LvmSite) -> Iterator[LvmSite]:
    yield made
    made.empty()


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    path = tmp_path / "disk.raw"
    path.write_bytes(DISK)
    return path


def wiped() -> None:
    program("umount", f"{MOUNTS}/{GROUP}", check=False)
    for verb in ("pool-destroy", "pool-undefine"):
        program("virsh", "-q", verb, GROUP, check=False)
    program("vgremove", "-y", "-ff", GROUP, check=False)
    program("wipefs", "-q", "--all", "--force", DEVICE)
    program("blkdiscard", "-z", "-l", str(4 * MIB), DEVICE)


# cached_image


def test_images_of_every_source(site: LvmSite, raw: Path) -> None:
    with WebServer() as web:
        images = pool_cases.images_of_every_source(site, raw, web).run["images"]
    volumes = site.volumes()
    for image in images:
        assert volumes[image["id"]] == ["virt-storage-pool" if site.kind == "thin" else "", "read-only"]
        assert image["path"] == f"/dev/{GROUP}/{image['id']}"
        with open(image["path"], "r+b", buffering=0) as device, pytest.raises(PermissionError):
            device.write(b"x")


def test_an_image_is_pinned_moved_on_and_pruned(site: LvmSite, raw: Path) -> None:
    (first,) = site.cache(entry("a", raw))
    site.cache_four(entry("a", raw, pinned=True))
    site.cache_four(state="pruned", cache={"max_bytes": "1"})  # it changes nothing, for the image is pinned
    raw.write_bytes(DISK[::-1])
    assert site.cache(entry("a", raw))[0]["id"] == first["id"], "a source without checksum is not read again"
    (second,) = site.cache_four(entry("a", raw, refresh=True)).run["images"]
    assert site.read(second) == DISK[::-1]
    assert site.cache_four(state="verified").run["images"][0]["sound"]
    site.cache_four(state="pruned", cache={"max_count": 1})
    assert site.names() == [second["id"]]
    site.cache_four(state="absent", images=[{"name": "a"}])
    assert site.names() == []


def test_a_damaged_image_is_quarantined(site: LvmSite, raw: Path) -> None:
    (image,) = site.cache(entry("a", raw))
    program("lvchange", "-prw", f"{GROUP}/{image['id']}")
    with open(image["path"], "r+b") as device:
        device.seek(100)
        device.write(b"x")
    program("lvchange", "-pr", f"{GROUP}/{image['id']}")
    failure = site.failed("cached_image", pools=[site.name], state="verified")
    assert "does not hold what was written" in failure.msg
    assert "has no ready image a" in site.failed("instance_disk", pool=site.name, disks=[WEB1]).msg


def test_an_image_can_go_when_thin_disks_are_made_of_it_and_stays_under_thick_ones(site: LvmSite, raw: Path) -> None:
    if site.kind == "thick":
        pool_cases.the_data_under_a_disk_stays(site, raw)
        return
    site.cache(entry("a", raw))
    (disk,) = site.disks(WEB1)
    site.cache_four(state="absent", images=[{"name": "a"}])
    assert site.names() == [name_of(disk)]
    assert site.read(disk)[:SIZE] == DISK


# instance_disk


def test_disks_of_every_kind(site: LvmSite, raw: Path) -> None:
    made = pool_cases.disks_of_every_kind(site, raw)
    web1, web2, web3 = (made[name, "root"] for name in ("web1", "web2", "web3"))
    pool = "virt-storage-pool" if site.kind == "thin" else ""
    assert {site.volumes()[name_of(disk)][0] for disk in made.values()} == {pool}
    assert all(f'<source dev="{disk["path"]}"/>' in disk["xml"] for disk in made.values())
    assert (web1["format"], web1["strategy"]) == {"thin": ("raw", "snapshot"), "thick": ("qcow2", "overlay")}[site.kind]
    assert [web2["state"], web3["state"]] == ["flat", "flat"]
    pool_cases.all_is_taken_away(site, made)


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ({"image": "nothing", "size": "8M"}, "has no ready image nothing"),
        ({"blank": {}}, "size"),
        ({"import_from": {"path": f"/dev/{GROUP}/nothing", "format": "raw"}}, "no such volume"),
        ({"import_from": {"path": f"/dev/{GROUP}/virt-storage-records", "format": "raw"}}, "the pool's own"),
    ],
)
def test_what_cannot_be_is_one_clear_sentence(site: LvmSite, wish: dict[str, Any], words: str) -> None:
    assert words in site.failed("instance_disk", pool=site.name, disks=[{"instance": "web1", **wish}]).msg
    assert site.names() == []


def test_a_disk_that_is_open_is_not_removed(site: LvmSite, raw: Path) -> None:
    site.cache(entry("a", raw))
    (disk,) = site.disks(WEB1)
    gone = {"pool": site.name, "disks": [{"instance": "web1", "role": "root"}], "state": "absent"}
    with open(disk["path"], "rb"):
        assert "in use" in site.failed("instance_disk", **gone).msg
    site.task.four("instance_disk", **gone)


# disk_metadata


def test_a_volume_that_stands_in_the_group_is_adopted_in_place_and_let_go(site: LvmSite) -> None:
    program("lvcreate", "-y", "-Wn", "-L", f"{SIZE}b", "-n", "old-disk", GROUP)
    where = f"/dev/{GROUP}/old-disk"
    with open(where, "r+b") as device:
        device.write(DISK)
    pool_cases.adopted_in_place(site, where, where, DISK)
    ended = {"pool": site.name, "disks": [{"instance": "web1", "role": "root"}], "state": "absent"}
    site.task.four("disk_metadata", **ended)
    assert site.names() == ["old-disk"]
    stated = {"instance": "web2", "volume": "old-disk", "format": "raw"}
    site.task.four("disk_metadata", pool=site.name, disks=[stated])
    (disk,) = site.disks({"instance": "web2"})
    assert site.read(disk) == DISK


def test_a_lost_record_is_found_and_restored(site: LvmSite, raw: Path) -> None:
    if site.kind == "thin":
        site.cache(entry("a", raw))
        (disk,) = site.disks(WEB1)
        site.lose_record(disk["id"])
        assert disk["id"] in site.failed("disk_metadata", pool=site.name, state="verified").msg
        stated = {"instance": "web1", "volume": name_of(disk), "format": "raw"}
        site.task.four("disk_metadata", pool=site.name, state="rebuilt", disks=[stated])
        assert site.read(disk)[:SIZE] == DISK
    else:
        pool_cases.a_lost_record_is_found_and_restored(site, raw)


# libvirt_pool, whose other states are in test_libvirt_pool.py


def test_a_pool_that_holds_disks_is_not_emptied(site: LvmSite, raw: Path) -> None:
    pool_cases.a_pool_that_holds_disks_is_not_emptied(site, raw)
    assert set(site.volumes()) == ({"virt-storage-pool"} if site.kind == "thin" else set())
