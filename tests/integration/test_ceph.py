# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Images and disks in a pool that is in Ceph, through the modules; looked at with librbd beside them."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest

from ansible_collections.virt.storage.plugins.module_utils._ground.ceph import Cluster
from ansible_collections.virt.storage.tests.unit.ground.webserver import WebServer

from . import pool_cases
from .ceph_site import SNAPSHOT, STAGING, CephSite, administered, ceph, ceph_site, of_glance
from .conftest import Modules, Result
from .pool_cases import MIB, converted, entry, served

DISK = random.Random(1).randbytes(5 * MIB) + bytes(14 * MIB) + random.Random(2).randbytes(MIB)
SIZE = len(DISK)
LEASE = 30


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with ceph.cluster(), administered() as connection:
        yield connection


@pytest.fixture
def site(cluster: Cluster, task: Modules, libvirtd: libvirt.virConnect) -> Iterator[CephSite]:
    with ceph_site(cluster, task, libvirtd) as here:
        yield here


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    path = tmp_path / "disk.raw"
    path.write_bytes(DISK)
    return path


@pytest.fixture
def web() -> Iterator[WebServer]:
    with WebServer() as server:
        yield server


@pytest.fixture
def glance(cluster: Cluster) -> Iterator[str]:
    with of_glance(cluster, DISK) as address:
        yield address


def counted(task: Modules, module: str, **params: Any) -> tuple[Result, int]:
    """The result of a module, and the bytes that it and its programs wrote to local file systems."""
    process = task.start(module, **params)
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdout, process.stderr:
        out, err = process.stdout.read(), process.stderr.read()
    _pid, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return task.read(module, out, err), usage.ru_oublock * 512


# Images


def test_an_image_of_every_kind_of_source_reads_as_its_disk(site: CephSite, raw: Path, web: WebServer) -> None:
    results = pool_cases.images_of_every_source(site, raw, web)
    for image in results.run["images"]:
        assert image["path"].startswith(f"virt/{site.name}/image+")
        assert image["allocated"] < SIZE, "what is zero takes no room"
    assert f"kept in {STAGING} on its way" in results.run["actions"][1]
    assert list(STAGING.iterdir()) == []


def test_nothing_of_image_size_is_written_to_this_host(
    glance: str, site: CephSite, task: Modules, web: WebServer, raw: Path
) -> None:
    web.answers["/disk.raw"] = served(DISK)
    web.answers["/disk.qcow2"] = served(converted(raw, "qcow2").read_bytes())
    for image in (entry("web", web.url("/disk.raw")), entry("glance", f"rbd:{glance}", flatten=True)):
        result, written = counted(task, "cached_image", pools=[site.name], images=[image])
        assert site.data(result["images"][0]["path"], SNAPSHOT) == DISK
        assert written < MIB, f"{image['name']} wrote {written} bytes here"
    # The same counting sees what is staged.
    _result, written = counted(
        task, "cached_image", pools=[site.name], images=[entry("staged", web.url("/disk.qcow2"), "qcow2")]
    )
    assert written > 6 * MIB


def test_a_snapshot_of_the_same_cluster_is_cloned_and_not_read(glance: str, site: CephSite) -> None:
    image = {"name": "glance", "source": f"rbd:{glance}"}
    results = site.cache_four(image)
    assert results.run["actions"] == [f"clone image glance into pool {site.name} from rbd:{glance}"]
    (plan,) = results.run["plan"]
    assert (plan["strategy"], plan["bytes_to_write"]) == ("clone", 0)
    (made,) = results.run["images"]
    assert made["key"].startswith(f"rbd-snap:{site.cluster.fsid}/")
    assert (made["allocated"], made["content"]) == (0, None)
    with site.image(made["path"]) as opened:
        assert opened.parent_info()[:2] == tuple(glance.partition("@")[0].split("/"))
    assert site.data(made["path"], SNAPSHOT) == DISK
    as_glance_says = "rbd://" + "/".join((site.cluster.fsid, *glance.replace("@", "/").split("/")))
    assert site.cache({"name": "glance", "source": as_glance_says})[0]["id"] == made["id"]
    first = site.cache_four(state="verified").run["images"][0]
    assert first["sound"]
    assert site.cache_four(state="verified").run["images"][0]["content"].startswith("content:v1:")


def test_a_flattened_clone_lets_the_snapshot_go(site: CephSite) -> None:
    with of_glance(site.cluster, DISK) as address:
        (made,) = site.cache({"name": "glance", "source": f"rbd:{address}", "flatten": True})
        (disk,) = site.disks({"instance": "web1", "image": "glance", "size": str(SIZE)})
    assert site.data(made["path"], SNAPSHOT) == DISK
    assert site.data(disk["path"]) == DISK
    assert made["content"] is not None


def test_a_snapshot_fills_a_pool_of_files_too(glance: str, site: CephSite, task: Modules, pool: dict[str, Any]) -> None:
    wanted: dict[str, Any] = {"pools": [site.name, pool["name"]], "images": [{"name": "g", "source": f"rbd:{glance}"}]}
    results = task.four("cached_image", **wanted)
    in_ceph, in_files = results.run["images"]
    assert Path(in_files["path"]).read_bytes() == DISK == site.data(in_ceph["path"], SNAPSHOT)
    assert in_files["key"] == in_ceph["key"]


def test_an_image_goes_from_pool_to_pool_without_its_source(
    site: CephSite, task: Modules, pool: dict[str, Any], raw: Path
) -> None:
    task("cached_image", pools=[pool["name"]], images=[entry("a", raw)])
    raw.unlink()
    wanted = {"pools": [site.name, pool["name"]], "images": [entry("a", raw)]}
    raw.write_bytes(b"x" * SIZE)  # whoever read it would bring something else
    results = task.four("cached_image", **wanted)
    assert results.run["actions"] == [f"copy image a from pool {pool['name']} into pool {site.name}"]
    assert site.data(results.run["images"][0]["path"], SNAPSHOT) == DISK
    task("cached_image", pools=[pool["name"]], state="absent", images=[{"name": "a"}])
    back = task("cached_image", **wanted)["images"][1]
    assert Path(back["path"]).read_bytes() == DISK


@pytest.mark.parametrize(
    ("image", "words"),
    [
        ({"source": "rbd:images/none@snap"}, "There is no snapshot images/none@snap in the Ceph cluster"),
        ({"source": "rbd:images"}, "names no RBD snapshot: give pool/image@snapshot"),
        ({"source": "rbd://no-such-cluster/images/x/snap"}, "is in the Ceph cluster no-such-cluster, and"),
        ({"source": "rbd:images/x@snap", "format": "qcow2"}, "only raw ones can be cloned"),
        ({"source": "rbd:images/x@snap", "checksum": "sha256:" + "0" * 64}, "checksum means nothing"),
        ({"source": "rbd:images/x@snap", "ceph": {"conf": "/no/such.conf"}}, "There is no file /no/such.conf"),
    ],
)
def test_a_snapshot_that_cannot_be_had_is_one_clear_sentence(
    site: CephSite, task: Modules, image: dict[str, Any], words: str
) -> None:
    assert words in task.refused("cached_image", pools=[site.name], images=[{"name": "g", **image}])
    assert site.names() == []


def test_a_snapshot_needs_a_way_to_its_cluster(task: Modules, pool: dict[str, Any]) -> None:
    said = task.refused("cached_image", pools=[pool["name"]], images=[{"name": "g", "source": "rbd:images/x@snap"}])
    assert "none of the pools is: say with ceph how its cluster is reached" in said


def test_the_way_to_a_cluster_can_be_said(glance: str, site: CephSite, task: Modules, pool: dict[str, Any]) -> None:
    way = {"conf": str(ceph.CONF), "user": site.user, "keyring": str(ceph.keyring(site.user))}
    image = {"name": "g", "source": f"rbd:{glance}", "ceph": way}
    made = task.four("cached_image", pools=[pool["name"]], images=[image]).run["images"][0]
    assert Path(made["path"]).read_bytes() == DISK


def test_absent_keeps_the_data_under_a_disk_and_pruned_takes_it_later(site: CephSite, raw: Path) -> None:
    pool_cases.the_data_under_a_disk_stays(site, raw)


def test_a_damaged_image_is_quarantined(site: CephSite, raw: Path) -> None:
    (image,) = site.cache(entry("a", raw))
    with site.image(image["path"], writable=True) as opened:
        opened.remove_snap(SNAPSHOT)
        opened.write(b"x", 100)
        opened.create_snap(SNAPSHOT)
    failure = site.failed("cached_image", pools=[site.name], state="verified")
    assert "does not hold what was written" in failure.msg
    failure = site.failed(
        "instance_disk", pool=site.name, disks=[{"instance": "web1", "image": "a", "size": str(SIZE)}]
    )
    assert "has no ready image a" in failure.msg


def test_two_clients_at_once_read_the_source_once(site: CephSite, task: Modules, web: WebServer) -> None:
    begun, go = threading.Event(), threading.Event()
    web.answers["/disk.raw"] = halting(begun, go)
    wanted = {"pools": [site.name], "images": [entry("web", web.url("/disk.raw"))]}
    both = [task.start("cached_image", **wanted)]
    assert begun.wait(20)
    both.append(task.start("cached_image", **wanted))
    time.sleep(3)  # the second is at the lock by now
    assert both[1].poll() is None
    go.set()
    results = [task.read("cached_image", *process.communicate(timeout=60)) for process in both]
    assert len(web.requests) == 1
    assert results[0]["images"] == results[1]["images"]
    assert len(site.names()) == 1
    assert site.data(results[0]["images"][0]["path"], SNAPSHOT) == DISK


def test_a_client_that_dies_in_a_fill_delays_the_other_by_a_lease(
    site: CephSite, task: Modules, web: WebServer
) -> None:
    begun, go = threading.Event(), threading.Event()
    web.answers["/disk.raw"] = halting(begun, go)
    wanted = {"pools": [site.name], "images": [entry("web", web.url("/disk.raw"))]}
    first = task.start("cached_image", **wanted)
    assert begun.wait(20)
    second = task.start("cached_image", **wanted)
    time.sleep(3)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    died = time.monotonic()
    web.answers["/disk.raw"] = served(DISK)
    go.set()
    result = task.read("cached_image", *second.communicate(timeout=3 * LEASE))
    assert time.monotonic() - died < LEASE + 15
    assert site.data(result["images"][0]["path"], SNAPSHOT) == DISK
    (left,) = set(site.names()) - {result["images"][0]["id"]}
    time.sleep(max(0, died + LEASE + 5 - time.monotonic()))  # until Ceph has forgotten the client that died
    results = site.cache_four(state="pruned")
    assert results.run["actions"] == [f"take back {left}, whose maker died, in pool {site.name}"]
    assert site.names() == [result["images"][0]["id"]]


def halting(begun: threading.Event, go: threading.Event) -> Any:
    """An answer that stops in the middle until it is told to go on."""

    def answer(handler: Any) -> None:
        handler.start(200, SIZE, ETag='"1"')
        handler.wfile.write(DISK[: 5 * MIB])
        begun.set()
        go.wait(60)
        with contextlib.suppress(OSError):
            handler.wfile.write(DISK[5 * MIB :])

    return answer


# Disks


def test_disks_of_every_kind(site: CephSite, raw: Path) -> None:
    made = pool_cases.disks_of_every_kind(site, raw)
    assert [made[name, "root"]["state"] for name in ("web1", "web2", "web3")] == ["ready", "flat", "flat"]
    with site.image(made["web2", "root"]["path"]) as flat, site.image(made["web1", "root"]["path"]) as clone:
        assert clone.overlap() == SIZE
        assert flat.overlap() == 0
    pool_cases.all_is_taken_away(site, made)


def test_a_thousandth_disk_costs_what_the_first_does(site: CephSite, raw: Path) -> None:
    """Not by time, which a shared machine has none of to spare: by what is asked of Ceph in bulk."""
    site.cache(entry("a", raw))
    wanted = [{"instance": f"web{number}", "image": "a", "size": "24M"} for number in range(40)]
    made = site.disks_four(*wanted).run["disks"]
    assert len({disk["path"] for disk in made}) == 40
    assert len(site.names()) == 41
    site.disks_four(*({"instance": each["instance"]} for each in wanted), state="absent")
    assert len(site.names()) == 1


def test_a_volume_that_stands_in_the_pool_is_adopted_in_place(site: CephSite) -> None:
    import rbd

    rbd.RBD().create(site.ioctx, "old-disk", SIZE)
    with site.image("old-disk", writable=True) as image:
        image.write(DISK, 0)
    where = f"virt/{site.space}/old-disk"
    pool_cases.adopted_in_place(site, f"rbd:{where}", where, DISK)


def test_records_that_were_lost_are_found_and_restored(site: CephSite, raw: Path) -> None:
    pool_cases.a_lost_record_is_found_and_restored(site, raw)


def test_a_disk_in_use_is_not_removed(site: CephSite, raw: Path) -> None:
    site.cache(entry("a", raw))
    wanted = {"instance": "web1", "image": "a", "size": "24M"}
    (disk,) = site.disks(wanted)
    with site.image(disk["path"], writable=True) as used:
        used.write(b"x", 0)  # takes the lock, and watches
        gone = {"pool": site.name, "disks": [{"instance": "web1", "role": "root"}], "state": "absent"}
        assert "in use by the client at 127.0.0.1" in site.failed("instance_disk", **gone).msg
    wanted["flattened"] = True
    assert site.disks_four(wanted).run["disks"][0]["state"] == "flat"


def test_a_disk_that_has_snapshots_is_not_copied_to_another_pool(
    site: CephSite, task: Modules, pool: dict[str, Any]
) -> None:
    (disk,) = site.disks({"instance": "snapped", "size": "1M", "blank": {}})
    with site.image(disk["path"], writable=True) as image:
        image.create_snap("backup-1")
    wanted: dict[str, Any] = {"pool": pool["name"], "allow_move": True, "disks": [{"instance": "snapped"}]}
    before = site.names()
    assert "snapshots that others made: backup-1" in task.refused("instance_disk", **wanted)
    assert site.names() == before
    assert task("instance_disk_info", pools=[pool["name"]])["disks"] == []
    with site.image(disk["path"], writable=True) as image:
        image.remove_snap("backup-1")
    assert task("instance_disk", **wanted)["disks"][0]["pool"] == pool["name"]
    assert site.names() == []


def test_a_disk_whose_guest_died_with_its_host_is_removed_when_ceph_has_forgotten_it(site: CephSite, raw: Path) -> None:
    site.cache(entry("a", raw))
    (disk,) = site.disks({"instance": "web1", "image": "a", "size": "24M"})
    hold = (
        "import sys, rados, rbd; conf, name, space = sys.argv[1:]\n"
        "cluster = rados.Rados(rados_id='admin', conffile=conf); cluster.connect()\n"
        "ioctx = cluster.open_ioctx('virt'); ioctx.set_namespace(space)\n"
        "image = rbd.Image(ioctx, name); image.write(b'x', 0); print('held', flush=True); sys.stdin.read()"
    )
    words = [site.task.python, "-c", hold, str(ceph.CONF), disk["id"], site.space]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        holder.kill()
    site.task("instance_disk", pool=site.name, disks=[{"instance": "web1"}], state="absent")
    assert disk["id"] not in site.names()


def test_a_pool_that_holds_disks_is_not_emptied(site: CephSite, raw: Path) -> None:
    pool_cases.a_pool_that_holds_disks_is_not_emptied(site, raw)
    assert [each.key for each in site.ioctx.list_objects() if each.key.startswith("virt-storage")] == []
