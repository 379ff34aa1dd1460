# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Guests that run from disks in Ceph, and what is told when Ceph itself does not work."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest

from ansible_collections.virt.storage.plugins.module_utils._ground.ceph import Cluster

from .ceph_site import SNAPSHOT, CephSite, administered, ceph, ceph_site
from .conftest import Modules
from .test_guests import BOOT_SECONDS, guest, make_boot_image, run_guest, wait_for_console

MIB = 1 << 20
DISK = random.Random(3).randbytes(5 * MIB) + bytes(3 * MIB)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with ceph.cluster(), administered() as connection:
        yield connection


@pytest.fixture
def site(cluster: Cluster, task: Modules, libvirtd: libvirt.virConnect) -> Iterator[CephSite]:
    """The pool as it is: libvirt's guests cannot be told of a namespace."""
    with ceph_site(cluster, task, libvirtd, space=False) as here:
        yield here


def test_a_guest_boots_sees_its_disk_grow_and_keeps_it_from_being_removed(
    site: CephSite, task: Modules, tmp_path: Path
) -> None:
    source = make_boot_image(tmp_path / "boot.qcow2", "marker-of-this-test", "qcow2")
    (image,) = site.cache({"name": "boot", "source": str(source), "format": "qcow2"})
    sealed = site.data(image["path"], SNAPSHOT)
    root = {"instance": "booted", "image": "boot", "size": "64M", "serial": "root-1", "cache": "none"}
    data = {"instance": "booted", "role": "data", "blank": {"fs": "ext4"}, "size": "16M", "serial": "data-1"}
    xml = [disk["xml"] for disk in site.disks(root, data)]
    console = tmp_path / "console"
    with guest(f"{site.name}-boot", xml, console, seconds=BOOT_SECONDS) as (_domain, told):
        assert (told.image, told.disk_size, told.serial, told.boots) == ("marker-of-this-test", 64 * MIB, "root-1", "1")
        grown = site.disks_four({**root, "size": "80M"}, {**data, "size": "24M"})
        assert [disk["size"] for disk in grown.run["disks"]] == [80 * MIB, 24 * MIB]
        for disk, size in (("vda", 80 * MIB), ("vdb", 24 * MIB)):
            wait_for_console(console, rf"sees: disk={disk} size={size}$", BOOT_SECONDS)
        refused = {"pool": site.name, "disks": [{"instance": "booted", "role": "root"}], "state": "absent"}
        assert f"in use by {site.name}-boot (running, vda)" in task.refused("instance_disk", **refused)
    flat = site.disks_four({**root, "size": "80M", "flattened": True}).run["disks"]
    site.cache_four(state="absent", images=[{"name": "boot"}])
    again = run_guest(f"{site.name}-flat", [flat[0]["xml"]], console, seconds=BOOT_SECONDS)
    assert (again.image, again.disk_size, again.boots) == ("marker-of-this-test", 80 * MIB, "2")
    assert sealed[: 8 * MIB] == source_content(source)[: 8 * MIB]
    site.disks_four({"instance": "booted"}, state="absent")


def source_content(source: Path) -> bytes:
    """What a qcow2 file holds."""
    import subprocess

    raw = source.with_suffix(".check")
    subprocess.run(["qemu-img", "convert", "-q", "-f", "qcow2", "-O", "raw", source, raw], check=True)
    return raw.read_bytes()


@pytest.fixture
def wanted(site: CephSite, tmp_path: Path) -> dict[str, Any]:
    path = tmp_path / "disk.raw"
    path.write_bytes(DISK)
    return {"pools": [site.name], "images": [{"name": "a", "source": str(path), "format": "raw"}]}


def converges(site: CephSite, wanted: dict[str, Any]) -> None:
    """The task that failed works when it is run again, and nothing is left of what failed."""
    (image,) = site.task("cached_image", **wanted)["images"]
    assert site.data(image["path"], SNAPSHOT) == DISK
    end = time.monotonic() + 60  # until Ceph has forgotten whoever was cut off
    while site.names() != [image["id"]] and time.monotonic() < end:
        site.cache_four(state="pruned")
        time.sleep(2)
    assert site.names() == [image["id"]]


def test_a_full_cluster_is_one_sentence_and_can_be_pruned(site: CephSite, wanted: dict[str, Any]) -> None:
    site.task("cached_image", **{**wanted, "images": [{**wanted["images"][0], "name": "old"}]})
    set_ratios("0.0001", "0.0002", "0.0003")
    try:
        wait_for(lambda: "OSD_FULL" in str(ceph.ceph("health", "detail")))
        other = {**wanted["images"][0], "source": f"{wanted['images'][0]['source']}.other"}
        Path(other["source"]).write_bytes(DISK[::-1])
        failure = site.failed("cached_image", pools=[site.name], images=[other])
        assert "full" in failure.msg
        site.task("cached_image", pools=[site.name], state="absent", images=[{"name": "old"}])
    finally:
        set_ratios("0.85", "0.90", "0.95")
        wait_for(lambda: "OSD_FULL" not in str(ceph.ceph("health", "detail")))
    converges(site, wanted)


def test_a_monitor_that_stops_for_a_while_is_waited_for_or_told(site: CephSite, wanted: dict[str, Any]) -> None:
    process = None
    with ceph.frozen("mon.a"):
        process = site.task.start("cached_image", **wanted)
        time.sleep(20)
    result = site.task.read("cached_image", *process.communicate(timeout=60))
    assert result["changed"]
    with ceph.frozen("mon.a"):
        failure = site.failed("cached_image", **{**wanted, "images": [{**wanted["images"][0], "name": "b"}]})
    assert "did not answer within" in failure.msg
    converges(site, wanted)


def test_a_cap_that_is_missing_and_a_key_that_is_wrong_are_told(
    site: CephSite, wanted: dict[str, Any], libvirtd: libvirt.virConnect
) -> None:
    caps = {"mon": "profile rbd", "osd": "profile rbd-read-only pool=virt"}
    before = {"mon": "profile rbd", "osd": "profile rbd pool=virt, profile rbd-read-only pool=images"}
    site.task("cached_image", pools=[site.name], state="pruned")
    set_caps(site.user, caps)
    try:
        assert "lacks a capability" in site.failed("cached_image", **wanted).msg
    finally:
        set_caps(site.user, before)
    secret = site.define()["rbd"]["secret"]
    held = libvirtd.secretLookupByUUIDString(secret)
    key = held.value(0)
    held.setValue(key[:-1] + bytes([key[-1] ^ 1]), 0)
    try:
        assert "the key is wrong" in site.failed("cached_image", **wanted).msg
    finally:
        held.setValue(key, 0)
    converges(site, wanted)


def set_ratios(near: str, backfill: str, full: str) -> None:
    """When an OSD counts as full; raised from above and lowered from below, for Ceph wants them in order."""
    ratios = [("nearfull", near), ("backfillfull", backfill), ("full", full)]
    for name, value in ratios if float(full) < 0.5 else reversed(ratios):
        ceph.ceph("osd", f"set-{name}-ratio", value)


def set_caps(user: str, caps: dict[str, str]) -> None:
    words = [word for daemon, allowed in caps.items() for word in (daemon, allowed)]
    ceph.ceph("auth", "caps", f"client.{user}", *words)


def wait_for(condition: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.5)
