# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The example that brings a stopped instance to another host: two libvirtds, each with folders and sockets of its own,
play the two."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import libvirt
import pytest

from .ceph_site import administered, ceph, ceph_site
from .conftest import COLLECTION, TREE, Modules, Place, Result
from .test_guests import EMPTY
from .test_instance_disk import MIB, open_store
from .test_moving import LARGE, in_use, nothing_left, own_bytes, reading, reads_the_same, scribble
from .test_moving_guests import runs_with

OWN = ("run", "etc/libvirt", "var/lib/libvirt", "var/cache/libvirt", "var/log/libvirt")
"""What the other host has for itself."""
MOUNTS = """
set -e
for folder in $FOLDERS; do
  mkdir -p "$BASE/$folder"
  case $folder in etc/*) cp -a "/$folder/." "$BASE/$folder/" ;; esac
  mount --bind "$BASE/$folder" "/$folder"
done
mkdir -p /run/libvirt
exec libvirtd
"""
BOOK = COLLECTION / "docs" / "examples" / "migrate" / "migrate.yml"
INSTANCE = f"mig-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def other_host(place: Place) -> Iterator[tuple[Modules, str]]:
    """Runs modules where the second libvirtd is; and the URI under which the first host reaches that."""
    base = place.root / "other"
    environment = {**os.environ, "BASE": str(base), "FOLDERS": " ".join(OWN)}
    argv = ["unshare", "--mount", "--propagation=private", "sh", "-c", MOUNTS]
    with subprocess.Popen(argv, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as daemon:
        try:
            python = place.root / "python"
            python.write_text(f'#!/bin/sh\nexec nsenter --target {daemon.pid} --mount {sys.executable} "$@"\n')
            python.chmod(0o755)
            uri = f"qemu+unix:///system?socket={base}/run/libvirt/libvirt-sock"
            reached(uri)
            yield Modules(python=str(python)), uri
        finally:
            daemon.terminate()


def reached(uri: str) -> None:
    """Wait until a libvirtd answers."""
    end = time.monotonic() + 60
    while True:
        with contextlib.suppress(libvirt.libvirtError):
            libvirt.open(uri).close()
            return
        assert time.monotonic() < end
        time.sleep(0.2)


class Watch(threading.Thread):
    """Watches what is fetched over the stream: ``most`` is how many bytes of it were seen to be here. Whoever fetches
    it is killed as soon as any is, if that is wanted; ``killed`` is how many bytes were here then."""

    def __init__(self, path: Path, kill: bool) -> None:
        super().__init__()
        self.path, self.kill = path, kill
        self.most, self.killed, self.ended = 0, 0, threading.Event()

    def run(self) -> None:
        while not self.ended.wait(0.001):
            with contextlib.suppress(FileNotFoundError):
                self.most = max(self.most, self.path.stat().st_blocks * 512)
            if self.kill and self.most and not self.killed:
                for pid in fetching(str(self.path)):
                    os.kill(pid, signal.SIGKILL)
                    self.killed = self.path.stat().st_blocks * 512


def fetching(path: str) -> list[int]:
    """The processes that fetch to this file."""
    found = []
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = each.read_text().split("\0")
            if words[0].endswith("virsh") and f"--file={path}" in words:
                found.append(int(each.parent.name))
    return found


@dataclass
class Migration:
    """Both hosts, the pool of one name on each, and a guest on the one that is to leave."""

    place: Place
    there: Modules
    uri: str
    pool: str

    @property
    def staged(self) -> Path:
        return self.place.root / f"{INSTANCE}.qcow2"

    def run(self, kill: bool = False) -> tuple[subprocess.CompletedProcess[str], list[Result], Watch]:
        """Run the example; what its tasks returned, and what came over the stream."""
        pythons = {"one": self.there.python, "two": sys.executable}
        hosts = {
            name: {"ansible_python_interpreter": python, "ansible_connection": "local"}
            for name, python in pythons.items()
        }
        inventory, results = self.place.root / "inventory.yml", self.place.root / "results"
        inventory.write_text(json.dumps({"all": {"hosts": hosts}}))
        results.write_text("")
        wanted = {"migrate_from": "one", "migrate_to": "two", "migrate_instance": INSTANCE}
        wanted.update(migrate_pool=self.pool, migrate_uri=self.uri, migrate_staging=str(self.place.root))
        watch = Watch(self.staged, kill)
        watch.start()
        try:
            done = subprocess.run(
                [Path(sys.executable).with_name("ansible-playbook"), "-i", inventory, "-e", json.dumps(wanted), BOOK],
                env={
                    **os.environ,
                    "ANSIBLE_COLLECTIONS_PATH": str(TREE),
                    "ANSIBLE_HOME": str(self.place.root / "ansible"),
                    "ANSIBLE_CALLBACK_PLUGINS": str(Path(__file__).parent / "callback_plugins"),
                    "ANSIBLE_CALLBACKS_ENABLED": "collect_results",
                    "COLLECT_RESULTS": str(results),
                },
                capture_output=True,
                text=True,
                timeout=300,
                check=False,
            )
        finally:
            watch.ended.set()
            watch.join()
        return done, [json.loads(line) for line in results.read_text().splitlines()], watch

    def done(self) -> tuple[list[Result], Watch]:
        """Run it to its end."""
        done, results, watch = self.run()
        assert done.returncode == 0, done.stdout + done.stderr
        assert not self.staged.exists()
        return results, watch

    def stays(self, disk: Result, libvirtd: libvirt.virConnect) -> None:
        """What is to leave is on the first host, as it was, and on no other."""
        (found,) = self.there("instance_disk_info", pools=[self.pool])["disks"]
        assert found["id"] == disk["id"]
        assert INSTANCE not in [domain.name() for domain in libvirtd.listAllDomains(0)]
        with contextlib.closing(libvirt.open(self.uri)) as first:
            assert not first.lookupByName(INSTANCE).isActive()


def defined(uri: str, disk: Result) -> None:
    """Have the guest on the first host."""
    with contextlib.closing(libvirt.open(uri)) as first:
        first.defineXML(EMPTY.format(name=INSTANCE, disks=disk["xml"]))


def starts(libvirtd: libvirt.virConnect, uri: str, disk: Result) -> None:
    """The guest has left the first host and runs on the second with this disk; it is gone afterwards."""
    with contextlib.closing(libvirt.open(uri)) as first:
        assert INSTANCE not in [domain.name() for domain in first.listAllDomains(0)]
    domain = libvirtd.lookupByName(INSTANCE)
    try:
        domain.create()
        runs_with(domain, disk)
        target = ElementTree.fromstring(domain.XMLDesc(0)).find("./devices/disk/target")
        assert target is not None
        assert target.get("dev") == "vda"
    finally:
        if domain.isActive():
            domain.destroy()
        domain.undefine()


@pytest.mark.parametrize("same", [True, False], ids=["the same image", "without the image"])
def test_a_stopped_instance_goes_to_another_host_with_its_disk_and_definition(
    same: bool, task: Modules, place: Place, other_host: tuple[Modules, str], libvirtd: libvirt.virConnect
) -> None:
    there, uri = other_host
    store = open_store(there, place)
    here = str(place.root / "here")
    task("libvirt_pool", type="dir", name=store.name, path=here)
    if same:
        image = {"name": "base", "source": str(place.root / "base.raw"), "format": "raw"}
        (found,) = task("cached_image", pools=[store.name], images=[image])["images"]
    (disk,) = store.make({"instance": INSTANCE, "image": "base", "size": str(LARGE)})
    scribble(disk)
    if not same:
        argv = ["qemu-io", "-f", "qcow2", "-c", f"write -q -P 9 16M {LARGE - 32 * MIB}", disk["path"]]
        subprocess.run(argv, check=True, timeout=60)
    expected, own = reading(disk, place.root), own_bytes(disk)
    defined(uri, disk)
    migration = Migration(place, there, uri, store.name)
    if not same:
        done, _results, watch = migration.run(kill=True)
        assert done.returncode != 0
        assert 0 < watch.killed < own, "it was not killed in mid-stream"
        migration.stays(disk, libvirtd)
        (left,) = there("instance_disk_info", pools=[store.name])["disks"]
        reads_the_same(left, expected)
        assert task("instance_disk_info", pools=[store.name])["disks"] == []

    results, watch = migration.done()
    (moved,) = task("instance_disk_info", pools=[store.name])["disks"]
    assert (moved["instance"], moved["size"], moved["image"]) == (INSTANCE, LARGE, "base" if same else None)
    assert moved["path"].startswith(here)
    (made,) = [each for each in results if any(step["verb"] == "make" for step in each.get("plan", ()))]
    (step,), (counted,) = made["plan"], made["counted"]
    if same:
        assert moved["backing"] == found["id"]
        assert 0 < watch.most < own + MIB
        assert step["bytes_to_read"] == counted["bytes_read"] == counted["bytes_written"] == own
    reads_the_same(moved, expected)
    nothing_left(store, disk)
    starts(libvirtd, uri, moved)


def test_a_disk_in_ceph_stays_where_it_is(
    task: Modules, place: Place, other_host: tuple[Modules, str], libvirtd: libvirt.virConnect
) -> None:
    there, uri = other_host
    with ceph.cluster(), administered() as cluster, ceph_site(cluster, task, libvirtd, space=False) as site:
        there("libvirt_pool", name=site.name, type="rbd", rbd=site.source)
        (disk,) = there(
            "instance_disk", pool=site.name, disks=[{"instance": INSTANCE, "blank": {}, "size": str(LARGE)}]
        )["disks"]
        with site.image(disk["path"], writable=True) as image:
            image.write(b"written" * 9000, MIB)
        before = site.data(disk["path"])
        defined(uri, disk)
        _results, watch = Migration(place, there, uri, site.name).done()
        assert watch.most == 0
        (moved,) = task("instance_disk_info", pools=[site.name])["disks"]
        assert moved["id"] == disk["id"]
        assert site.data(disk["path"]) == before
        starts(libvirtd, uri, moved)


def test_from_one_ceph_pool_to_another_a_disk_goes_by_librbd(task: Modules, libvirtd: libvirt.virConnect) -> None:
    with ceph.cluster(), administered() as cluster, ceph_site(cluster, task, libvirtd) as here:
        (disk,) = here.disks({"instance": INSTANCE, "blank": {}, "size": str(LARGE)})
        with here.image(disk["path"], writable=True) as image:
            image.write(b"written" * 9000, MIB)
        expected = here.data(disk["path"])
        with ceph_site(cluster, task, libvirtd) as there:
            four = there.disks_four({"instance": INSTANCE}, allow_move=True)
            (moved,), (step,) = four.run["disks"], four.check["plan"]
            assert step["bytes_to_read"] == moved["moved"]["bytes_read"] == moved["moved"]["bytes_written"] == 4 * MIB
            assert there.data(moved["path"]) == expected
            assert here.names() == []


def test_own_data_goes_over_no_other_image(task: Modules, place: Place) -> None:
    store = open_store(task, place)
    (disk,) = store.make({"instance": INSTANCE, "image": "base", "size": str(LARGE)})
    scribble(disk)
    expected, amount = reading(disk, place.root), own_bytes(disk)
    own = {"path": str(shutil.copy(disk["path"], place.root)), "content": store.image["content"]}
    wanted = {"instance": f"{INSTANCE}-2", "image": "base", "own_data": own}
    other = {**own, "content": "0" * 64}
    assert "stands on an image of content 0000" in store.refused({**wanted, "own_data": other})
    assert "leave size out" in store.refused({**wanted, "size": "1G"})
    assert "There is no file" in store.failed({**wanted, "own_data": {**own, "path": "/missing"}}).msg
    with in_use(disk):
        assert "is in use by a process" in store.refused({**wanted, "own_data": {**own, "path": disk["path"]}})
    four = store.four(wanted)
    (made,), (step,), (counted,) = four.run["disks"], four.check["plan"], four.run["counted"]
    assert (made["size"], made["backing"]) == (LARGE, store.image["id"])
    assert step["bytes_to_read"] == counted["bytes_read"] == counted["bytes_written"] == amount
    reads_the_same(made, expected)
