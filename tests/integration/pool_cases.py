# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What images and disks have to do in any pool that is no folder: the same cases for Ceph and for volume groups."""

from __future__ import annotations

import hashlib
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.virt.storage.tests.unit.ground.webserver import WebServer

from .conftest import Four, ModuleFailed, Modules, Result

MIB = 1 << 20
WEB1 = {"instance": "web1", "image": "a", "size": "24M"}


@dataclass
class PoolSite:
    """A pool, and the modules that work with it."""

    task: Modules
    name: str

    def cache(self, *images: dict[str, Any], **params: Any) -> list[Result]:
        """Bring images in."""
        brought: list[Result] = self.task("cached_image", pools=[self.name], images=list(images), **params)["images"]
        return brought

    def cache_four(self, *images: dict[str, Any], **params: Any) -> Four:
        """cached_image by check, run, check, run."""
        more = {"images": list(images)} if images else {}
        return self.task.four("cached_image", pools=[self.name], **more, **params)

    def disks_four(self, *disks: dict[str, Any], **params: Any) -> Four:
        """instance_disk by check, run, check, run."""
        return self.task.four("instance_disk", pool=self.name, disks=list(disks), **params)

    def disks(self, *disks: dict[str, Any], **params: Any) -> list[Result]:
        """Have disks."""
        made: list[Result] = self.task("instance_disk", pool=self.name, disks=list(disks), **params)["disks"]
        return made

    def failed(self, module: str, **params: Any) -> ModuleFailed:
        """The error of a run that has to fail with one sentence."""
        with pytest.raises(ModuleFailed) as failure:
            self.task(module, **params)
        assert "\n" not in failure.value.msg
        return failure.value

    # What the storage itself shows

    def read(self, volume: Result) -> bytes:
        """All that a guest would read of an image or a disk."""
        raise NotImplementedError

    def names(self) -> list[str]:
        """The volumes that there are."""
        raise NotImplementedError

    def lose_record(self, record_id: str) -> None:
        """Take a record away, wherever it is."""
        raise NotImplementedError


def entry(name: str, source: object, format: str = "raw", **options: Any) -> dict[str, Any]:
    """An entry of the option ``images``."""
    return {"name": name, "source": str(source), "format": format, **options}


def name_of(volume: Result) -> str:
    """What its volume is called in the storage."""
    return str(volume["path"]).rpartition("/")[2]


def converted(source: Path, format: str) -> Path:
    """A raw file as one of another format."""
    path = source.with_suffix(f".{format}")
    subprocess.run(["qemu-img", "convert", "-q", "-f", "raw", "-O", format, source, path], check=True)
    return path


def served(body: bytes) -> Any:
    """What a web server answers."""
    return lambda handler: handler.reply(200, body, ETag=f'"{hashlib.sha256(body).hexdigest()}"')


def images_of_every_source(site: PoolSite, raw: Path, web: WebServer) -> Four:
    """From files of several formats and from a web server: all read as the disk that is in them."""
    content = raw.read_bytes()
    web.answers["/disk.raw"] = served(content)
    results = site.cache_four(
        entry("file", raw, checksum="sha256:" + hashlib.sha256(content).hexdigest()),
        entry("qcow2", converted(raw, "qcow2"), "qcow2"),
        entry("vmdk", converted(raw, "vmdk"), "vmdk"),
        entry("web", web.url("/disk.raw")),
    )
    assert results.run["images"] == results.run_again["images"]
    assert len({image["content"] for image in results.run["images"]}) == 1
    for image in results.run["images"]:
        assert (image["format"], image["size"]) == ("raw", len(content))
        assert site.read(image) == content
    return results


def disks_of_every_kind(site: PoolSite, raw: Path) -> dict[tuple[str, str], Result]:
    """Made by every option that makes one, one of them grown; by instance and role."""
    content = raw.read_bytes()
    site.cache(entry("a", raw))
    brought = converted(raw, "qcow2").rename(raw.with_name("brought.qcow2"))
    wanted = [
        WEB1,
        {"instance": "web1", "role": "data", "size": "64M", "blank": {"fs": "ext4", "label": "data"}},
        {"instance": "web1", "role": "plain", "size": "8M", "blank": {}},
        {"instance": "web1", "role": "swap", "size": "8M", "blank": {"fs": "swap"}},
        {"instance": "web1", "role": "config", "config": {"user_data": "#cloud-config\n"}},
        {"instance": "web2", "image": "a", "size": "24M", "flattened": True},
        {"instance": "web3", "image": "a", "size": "24M", "clone": "copy"},
        {"instance": "web4", "import_from": {"path": str(brought), "format": "qcow2"}},
    ]
    made = {(disk["instance"], disk["role"]): disk for disk in site.disks_four(*wanted).run["disks"]}
    for instance in ("web1", "web2", "web3", "web4"):
        assert site.read(made[instance, "root"])[: len(content)] == content
    assert site.read(made["web1", "plain"])[: 8 * MIB] == bytes(8 * MIB)
    assert site.read(made["web1", "data"])[1080:1082] == b"\x53\xef"
    assert site.read(made["web1", "swap"])[4086:4096] == b"SWAPSPACE2"
    assert site.read(made["web1", "config"])[32769:32774] == b"CD001"
    again = site.disks_four({**WEB1, "size": "32M"}, *wanted[1:])
    assert again.run["actions"] == [f"grow disk root of web1 in pool {site.name} from 24.0 MiB to 32.0 MiB"]
    made["web1", "root"] = again.run["disks"][0]
    assert site.read(made["web1", "root"]) == content + bytes(32 * MIB - len(content))
    assert "cannot shrink to" in site.task.refused("instance_disk", pool=site.name, disks=[WEB1])
    return made


def all_is_taken_away(site: PoolSite, disks: dict[tuple[str, str], Result]) -> None:
    """No disk, no image, no volume."""
    site.disks_four(*({"instance": instance, "role": role} for instance, role in disks), state="absent")
    site.cache_four(state="pruned", cache={"max_count": 0, "max_bytes": "1"})
    assert site.names() == []


def the_data_under_a_disk_stays(site: PoolSite, raw: Path) -> None:
    """``absent`` retires an image on which a disk stands, and ``pruned`` takes its data when the disk is gone."""
    site.cache(entry("a", raw))
    (disk,) = site.disks(WEB1)
    results = site.cache_four(state="absent", images=[{"name": "a"}])
    assert "1 disk stands on it, so its data stays" in results.run["actions"][0]
    assert site.read(disk).startswith(raw.read_bytes())
    site.disks({"instance": "web1"}, state="absent")
    site.cache_four(state="pruned")
    assert site.names() == []


def adopted_in_place(site: PoolSite, path: str, where: str, content: bytes) -> None:
    """A raw volume with this content that stands in the pool becomes a disk where it is."""
    wanted = {"instance": "web1", "import_from": {"path": path, "format": "raw"}}
    (disk,) = site.disks_four(wanted).run["disks"]
    assert (disk["path"], disk["strategy"]) == (where, "adopt")
    assert site.read(disk) == content
    refusal = site.task.refused("instance_disk", pool=site.name, disks=[{**wanted, "instance": "web2"}])
    assert "already belongs to" in refusal
    assert site.task("libvirt_pool_info", name=[site.name])["pools"][0]["unmanaged"] == []
    assert site.task.four("disk_metadata", pool=site.name, state="verified").run["changed"] is False


def a_lost_record_is_found_and_restored(site: PoolSite, raw: Path) -> None:
    """Nothing is guessed of a volume whose record is lost; what the operator states is put down."""
    site.cache(entry("a", raw))
    (disk,) = site.disks(WEB1)
    site.lose_record(disk["id"])
    assert disk["id"] in site.failed("disk_metadata", pool=site.name, state="verified").msg
    assert "record is lost" in site.task.refused("instance_disk", pool=site.name, disks=[WEB1])
    stated = {"instance": "web1", "volume": name_of(disk), "format": disk["format"], "image": "a"}
    site.task.four("disk_metadata", pool=site.name, state="rebuilt", disks=[stated])
    assert site.read(disk).startswith(raw.read_bytes())
    assert site.task("disk_metadata", pool=site.name, state="verified")["changed"] is False


def a_pool_that_holds_disks_is_not_emptied(site: PoolSite, raw: Path) -> None:
    """Its records go only when nothing is left to be told of."""
    site.cache(entry("a", raw))
    site.disks(WEB1)
    failure = site.failed("libvirt_pool", name=site.name, state="absent", remove_contents=True)
    assert "is not empty" in failure.msg
    site.disks({"instance": "web1"}, state="absent")
    site.cache_four(state="absent", images=[{"name": "a"}])
    site.task.four("libvirt_pool", name=site.name, state="absent", remove_contents=True)
