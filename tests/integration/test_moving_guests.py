# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Disks that move to another pool of this host while their guest runs: between folders, and into Ceph and out of it."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import libvirt
import libvirt_qemu
import pytest

from ansible_collections.virt.storage.plugins.module_utils._tasks.kinds import LEASE

from .ceph_site import CephSite, administered, ceph, ceph_site
from .conftest import TREE, Modules, Place, Result
from .test_guests import BOOT_SECONDS, guest, make_boot_image, run_guest, running
from .test_instance_disk import MIB, Store, open_store
from .test_moving import LARGE, WEB, moving, nothing_left, reading, reads_the_same, scribble

BLOCK = 64 * 1024
"""What qemu goes by when it copies."""


@dataclass
class Way:
    """Two pools with the same image: one for disks to leave, and another. ``site`` is the one in Ceph."""

    here: Store
    there: Store
    root: Path
    site: CephSite | None = None

    def reads(self, disk: Result, expected: Path) -> None:
        """See that a disk that nobody uses holds what it should."""
        if self.site is not None and disk["pool"] == self.site.name:
            path = self.root / "of-ceph"
            path.write_bytes(self.site.data(disk["path"]))
            disk = {"path": str(path), "format": "raw"}
        reads_the_same(disk, expected)

    def left(self, disk: Result) -> None:
        """See that nothing is left of a disk, nor of its move."""
        if self.site is not None and disk["pool"] == self.site.name:
            assert disk["id"] not in self.site.names()
        else:
            nothing_left(self.here if disk["pool"] == self.here.name else self.there, disk)
        for store in (self.here, self.there):
            assert store.task("disk_metadata", state="verified", pool=store.name)["reports"] == []


@pytest.fixture(scope="module")
def running_ceph() -> Iterator[None]:
    with ceph.cluster():
        yield


@pytest.fixture
def way(request: pytest.FixtureRequest, task: Modules, place: Place, libvirtd: libvirt.virConnect) -> Iterator[Way]:
    """From the one kind to the other that the test names."""
    with contextlib.ExitStack() as stack:
        site = None
        stores = []
        for kind in request.param:
            store = open_store(task, place)
            if kind == "rbd":
                request.getfixturevalue("running_ceph")
                site = stack.enter_context(ceph_site(stack.enter_context(administered()), task, libvirtd, space=False))
                image = {"name": "base", "source": str(place.root / "base.raw"), "format": "raw"}
                store = Store(task, site.name, Path(), site.cache(image)[0])
            stores.append(store)
        yield Way(*stores, place.root, site)


FILES, INTO, OUT = ("dir", "dir"), ("dir", "rbd"), ("rbd", "dir")


def begun(way: Way) -> tuple[Result, Path]:
    """A disk in the pool that is to be left, and what a guest reads of it."""
    (disk,) = way.here.make({"instance": WEB, "image": "base", "size": str(LARGE)})
    if disk["format"] == "qcow2":
        scribble(disk)
        return disk, reading(disk, way.root)
    expected = way.root / "expected"
    assert way.site is not None
    with way.site.image(disk["path"], writable=True) as image:
        image.write(b"written" * 9000, LARGE - MIB)
        expected.write_bytes(image.read(0, LARGE))
    return disk, expected


def copied(disk: Result) -> int:
    """The blocks of a qcow2 file in which anything is its own."""
    argv = ["qemu-img", "map", "--output=json", "-f", "qcow2", str(disk["path"])]
    done = subprocess.run(argv, check=True, capture_output=True, timeout=60)
    own = [each for each in json.loads(done.stdout) if each["depth"] == 0 and each["present"]]
    blocks = {
        number
        for each in own
        for number in range(each["start"] // BLOCK, -(-(each["start"] + each["length"]) // BLOCK))
    }
    return BLOCK * len(blocks)


def sources(domain: libvirt.virDomain) -> set[str]:
    """Where a guest's first disk is, as it runs and as it is defined."""
    texts = [domain.XMLDesc(flags) for flags in (0, libvirt.VIR_DOMAIN_XML_INACTIVE)]
    found = [ElementTree.fromstring(text).find("./devices/disk/source") for text in texts]
    return {each.get("file") or each.get("name", "") for each in found if each is not None}


def runs_with(domain: libvirt.virDomain, disk: Result) -> None:
    """The guest goes on, with this disk and with no copy under way."""
    assert domain.state(0)[0] == libvirt.VIR_DOMAIN_RUNNING
    assert sources(domain) == {disk["path"]}
    assert "<mirror" not in domain.XMLDesc(0)


@pytest.mark.parametrize(
    ("way", "flattened"),
    [(FILES, False), (FILES, True), (INTO, False), (INTO, True), (OUT, False)],
    indirect=["way"],
    ids=["files", "files, flattened", "into Ceph", "into Ceph, flattened", "out of Ceph"],
)
def test_a_guest_that_runs_takes_its_disk_along(
    way: Way, flattened: bool, task: Modules, libvirtd: libvirt.virConnect
) -> None:
    disk, expected = begun(way)
    delta = disk["format"] == "qcow2" and not flattened
    amount = copied(disk) if delta else LARGE
    with running(libvirtd, f"{way.here.name}-live", [disk]) as domain:
        four = moving(task, way.there, {"instance": WEB, "image": "base", "flattened": flattened})
        (step,) = four.run["plan"]
        (moved,) = four.run["disks"]
        runs_with(domain, moved)
        way.left(disk)
        assert f"at least {amount / MIB:.1f} MiB, while guest {way.here.name}-live runs" in four.run["actions"][0]
        assert step["strategy"] == ("delta" if delta else "whole")
        assert step["bytes_to_read"] == step["bytes_to_write"] == amount
        assert moved["moved"] == {"from": way.here.name, "bytes_read": amount, "bytes_written": amount}
        assert (moved["pool"], moved["size"]) == (way.there.name, LARGE)
        assert moved["backing"] == (way.there.image["id"] if delta else None)
    way.reads(moved, expected)


def test_a_guest_does_not_take_its_disk_where_libvirt_cannot_follow(
    running_ceph: None, task: Modules, place: Place, libvirtd: libvirt.virConnect
) -> None:
    here = open_store(task, place)
    (disk,) = here.make({"instance": WEB, "image": "base"})
    with administered() as cluster, ceph_site(cluster, task, libvirtd) as site:
        with running(libvirtd, f"{here.name}-live", [disk]) as domain:
            refusal = task.refused("instance_disk", pool=site.name, allow_move=True, disks=[{"instance": WEB}])
            assert f"guest {here.name}-live (running, vda)" in refusal
            assert f"no guest takes a disk out of pool {site.name} or into it while it runs: stop" in refusal
            runs_with(domain, disk)
        assert site.names() == []


@pytest.mark.parametrize("way", [FILES], indirect=True, ids=["files"])
def test_what_a_guest_wrote_before_and_after_its_disk_moved_is_in_it(way: Way, task: Modules, tmp_path: Path) -> None:
    here, there = way.here, way.there
    image = make_boot_image(tmp_path / "boot.qcow2", "moved-while-it-ran", "qcow2")
    task("cached_image", pools=[here.name], images=[{"name": "boot", "source": str(image), "format": "qcow2"}])
    (disk,) = here.make({"instance": WEB, "image": "boot", "size": "64M", "cache": "none"})
    console = here.path.parent / "console"
    with guest(f"{here.name}-boot", [disk["xml"]], console, seconds=BOOT_SECONDS) as (domain, told):
        assert (told.image, told.boots) == ("moved-while-it-ran", "1")
        (moved,) = there.make({"instance": WEB}, allow_move=True, check=False)
        runs_with(domain, moved)
        way.left(disk)
    again = run_guest(f"{here.name}-again", [moved["xml"]], console, seconds=BOOT_SECONDS)
    assert (again.image, again.boots) == ("moved-while-it-ran", "2")


KILLED = """
import os, signal, sys
import libvirt
from ansible_collections.virt.storage.plugins.module_utils._tasks import session
from ansible_collections.virt.storage.plugins.modules import instance_disk

MOST = ("clone", "follow", "part", "remove", "swap")
left, NAMED, FULL = int(os.environ["STEP"]), os.environ["NAMED"], os.environ.get("VIRT_STORAGE_FULL")

def step(name):
    global left
    if left == 0 or name == NAMED:
        print(name, file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1

class Dying(session.Performer):
    def __call__(self, waiting):
        for op in waiting.values():
            if op.primitive in MOST or (FULL and op.writes and op.part != "host"):
                step(f"{op.part} {op.primitive}")
        return super().__call__(waiting)

def dying(name, call):
    def wrapped(*args):
        step(f"guest {name}")
        result = call(*args)
        step(f"guest {name} done")
        return result
    return wrapped

session.Performer = Dying
session.Session.__init__.__defaults__ = (session.SYSTEM, False, float(os.environ["LEASE"]))
for name in ("blockCopy", "suspend", "blockJobAbort", "resume"):
    setattr(libvirt.virDomain, name, dying(name, getattr(libvirt.virDomain, name)))
instance_disk.main()
"""
SHORT = 3.0
"""Seconds for which a dead process is waited for; its locks in Ceph outlive it."""
NEEDED = (
    "volumes clone",
    "volumes follow",
    "guest suspend",
    "guest suspend done",
    "guest blockJobAbort",
    "guest blockJobAbort done",
    "guest resume",
    "records swap",
    "volumes remove",
)


def killed_at(step: int | str, pool: str, lease: float = LEASE) -> tuple[str, Result]:
    """Move the disk in a process that is killed at its ``step``-th step, or at the first one of that name. What that
    was; where it was not killed "", with the disk."""
    number, name = (step, "") if isinstance(step, int) else (-1, step)
    environment = {**os.environ, "PYTHONPATH": str(TREE), "STEP": str(number), "NAMED": name, "LEASE": str(lease)}
    given = json.dumps(
        {"ANSIBLE_MODULE_ARGS": {"pool": pool, "allow_move": True, "disks": [{"instance": WEB}]}},
    )
    argv = [sys.executable, "-c", KILLED]
    done = subprocess.run(argv, input=given, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode in (0, -9), done.stdout + done.stderr
    if done.returncode:
        return done.stderr.strip(), {}
    return "", Modules.read("instance_disk", done.stdout, done.stderr)["disks"][0]


def write_as_guest(domain: libvirt.virDomain, expected: Path, value: int) -> None:
    """Have a guest write to its disk, and wait until that is durable."""
    place = 64 * 1024 * (value * 37 % (LARGE // 65536))
    for command in (f"write -P {value} {place} 4k", "flush"):
        order = f'qemu-io -d /machine/peripheral/virtio-disk0/virtio-backend "{command}"'
        told = libvirt_qemu.qemuMonitorCommand(domain, order, libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP)
        assert "rror" not in told, told
    with open(expected, "r+b") as file:
        os.pwrite(file.fileno(), bytes([value]) * 4096, place)


@pytest.mark.parametrize("dies", [False, True], ids=["the guest goes on", "the guest dies, too"])
@pytest.mark.parametrize("way", [FILES], indirect=True, ids=["files"])
def test_killed_anywhere_a_move_leaves_a_guest_one_disk_with_all_that_it_wrote(
    way: Way, dies: bool, libvirtd: libvirt.virConnect
) -> None:
    disk, expected = begun(way)
    source, target = way.here, way.there
    killed: list[str] = []
    stack = contextlib.ExitStack()
    with stack:
        domain = stack.enter_context(running(libvirtd, f"{source.name}-0", [disk]))
        while True:
            write_as_guest(domain, expected, 2 * len(killed) + 1)
            step, _disk = killed_at(len(killed), target.name)
            if not step:
                break
            killed.append(step)
            if domain.state(0)[0] == libvirt.VIR_DOMAIN_RUNNING:
                write_as_guest(domain, expected, 2 * len(killed))
            if dies:
                stack.close()
            (moved,) = target.make({"instance": WEB}, allow_move=True)
            nothing_left(source, disk)
            if dies:
                way.reads(moved, expected)
                domain = stack.enter_context(running(libvirtd, f"{source.name}-{len(killed)}", [moved]))
            runs_with(domain, moved)
            disk, source, target = moved, target, source
    for needed in NEEDED:
        assert needed in killed, killed
    (moved,) = target.make({"instance": WEB})
    way.reads(moved, expected)


AT = ("guest suspend done", "guest blockJobAbort", "guest blockJobAbort done")
"""Around the decision: the other steps are those of folders."""


@pytest.mark.parametrize("way", [INTO], indirect=True, ids=["Ceph"])
def test_killed_on_its_way_into_ceph_and_out_of_it_a_move_leaves_one_disk_with_all_that_was_written(
    way: Way, libvirtd: libvirt.virConnect
) -> None:
    disk, expected = begun(way)
    source, target, value = way.here, way.there, 0
    with running(libvirtd, f"{source.name}-0", [disk]) as domain:
        full = os.environ.get("VIRT_STORAGE_FULL")
        for step in itertools.count() if full else AT:
            for _way in (INTO, OUT) if full else ("the one that is due",):
                write_as_guest(domain, expected, value := value + 1)
                killed, _disk = killed_at(step, target.name, SHORT)
                if killed and domain.state(0)[0] == libvirt.VIR_DOMAIN_RUNNING:
                    write_as_guest(domain, expected, value := value + 1)
                _step, moved = killed_at("", target.name, SHORT)
                runs_with(domain, moved)
                way.left(disk)
                disk, source, target = moved, target, source
            if not killed:
                break
        assert killed or step not in AT, f"there was no {step}"
    way.reads(disk, expected)
