# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Disks that Nova made in Ceph, by import and as clones of Glance's snapshots: they become disks where they are."""

from __future__ import annotations

import contextlib
import hashlib
import os
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import libvirt
import pytest
from crash.tally import Tally
from integration.ceph_site import Cluster, administered, ceph, of_glance
from integration.conftest import Modules

from ansible_collections.virt.storage.plugins.module_utils._tasks import session, storage_layout
from ansible_collections.virt.storage.plugins.module_utils._tasks.kinds import Surroundings

from .bed import MIB, Bed
from .killed import Host, killed, killed_at_every_step

Nova = Callable[[dict[str, Any]], list[dict[str, str]]]
FLAT, CLONE = "11111111-1111-1111-1111-111111111111", "22222222-2222-2222-2222-222222222222"
WANTED = {(FLAT, "root", 16 * MIB), (FLAT, "swap", 8 * MIB), (CLONE, "root", 16 * MIB)}
FULL = os.environ.get("VIRT_STORAGE_FULL") == "1"
pytestmark = pytest.mark.timeout(3600 if FULL else 900)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with ceph.cluster(), administered() as connection:
        yield connection


class NovaPool:
    """A pool of Ceph that Nova uses, and the libvirt pool over it."""

    def __init__(self, cluster: Cluster) -> None:
        self.name = f"vst-{uuid.uuid4().hex[:8]}"
        ceph.ceph("osd", "pool", "create", self.name, 4)
        ceph.ceph("osd", "pool", "application", "enable", self.name, "rbd")
        self.ioctx = cluster.ioctx(self.name)
        source = {"pool": self.name, "conf": str(ceph.CONF), "user": "admin", "keyring": str(ceph.keyring("admin"))}
        Modules()("libvirt_pool", name=self.name, type="rbd", rbd=source)

        self.params = {
            "layout": "nova",
            "path": "/nowhere",
            "pool": self.name,
            "uri": "qemu:///system",
            **dict.fromkeys(("instances", "formats", "base_format", "flattened")),
        }

    def task(self, state: str, **params: Any) -> dict[str, Any]:
        """The task in this process."""
        return storage_layout.task({**self.params, "state": state, **params}, False)

    def recorded(self) -> set[tuple[str, str, int]]:
        """The disks of the pool: instance, role, size."""
        found = Modules()("instance_disk_info", pools=[self.name])["disks"]
        return {(each["instance"], each["role"], each["size"]) for each in found}

    def contents(self) -> dict[str, tuple[str, str, tuple[str, ...]]]:
        """Of each image what a guest reads, what it stands on, and its snapshots."""
        import rbd

        found = {}
        for name in rbd.RBD().list(self.ioctx):
            with rbd.Image(self.ioctx, name, read_only=True) as image:
                digest = hashlib.sha256(image.read(0, image.size())).hexdigest()
                try:
                    parent = "/".join(image.parent_info())
                except rbd.ImageNotFound:
                    parent = ""
                found[name] = (digest, parent, tuple(each["name"] for each in image.list_snaps()))
        return found

    def used(self) -> int:
        """Bytes of data objects of images."""
        sizes = [self.ioctx.stat(each.key)[0] for each in self.ioctx.list_objects() if each.key.startswith("rbd_data")]
        return sum(sizes)

    def remove(self, libvirtd: libvirt.virConnect) -> None:
        """Take the libvirt pool, its secret and all objects away."""
        pool = libvirtd.storagePoolLookupByName(self.name)
        if pool.isActive():
            pool.destroy()
        pool.undefine()
        for secret in libvirtd.listAllSecrets(0):
            if secret.usageID().endswith(f" {self.name}"):
                secret.undefine()
        self.ioctx.close()
        ceph.ceph("config", "set", "mon", "mon_allow_pool_delete", "true")
        ceph.ceph("osd", "pool", "rm", self.name, self.name, "--yes-i-really-really-mean-it")


@pytest.fixture
def pool(cluster: Cluster, libvirtd: libvirt.virConnect) -> Iterator[NovaPool]:
    made = NovaPool(cluster)
    yield made
    made.remove(libvirtd)


@pytest.fixture
def disks(bed: Bed, pool: NovaPool, cluster: Cluster, nova: Nova) -> Iterator[NovaPool]:
    """A flat disk with its swap and config, and a clone."""
    raw = bed.raw(bed.root / "image.raw", 8 * MIB)
    with of_glance(cluster, raw.read_bytes()) as snapshot:
        image, _at, snap = snapshot.partition("@")
        options = {
            "images_rbd_pool": pool.name,
            "images_rbd_ceph_conf": str(ceph.CONF),
            "rbd_user": "admin",
        }
        made = nova(
            {
                "root": str(bed.instances),
                "images_type": "rbd",
                "libvirt": options,
                "images": {"one": {"path": str(raw), "format": "raw"}},
                "instances": [
                    {
                        "uuid": FLAT,
                        "disks": [{"name": "disk", "image": "one", "size": 16 * MIB}, {"name": "disk.swap", "swap": 8}],
                    },
                    {
                        "uuid": CLONE,
                        "disks": [{"name": "disk", "clone": f"rbd://{cluster.fsid}/{image}/{snap}", "size": 16 * MIB}],
                    },
                ],
            }
        )
        assert len(made) == 3
        try:
            yield pool
        finally:
            import rbd

            for name in rbd.RBD().list(pool.ioctx):
                with contextlib.suppress(rbd.Error):
                    rbd.RBD().remove(pool.ioctx, name)


@pytest.fixture
def short_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """The locks of the dead last for a lease, which is half a minute otherwise."""
    monkeypatch.setattr(session, "Surroundings", lambda host, runner, _lease: Surroundings(host, runner, 2.0))


def test_there_and_back_and_there_for_good(disks: NovaPool) -> None:
    before, used = disks.contents(), disks.used()
    assert before[f"{CLONE}_disk"][1] != ""
    planned = disks.task("planned")
    assert {each["verdict"] for each in planned["instances"]} == {"converts"}
    assert planned["bytes_to_copy"] == 0
    assert sum("goes on standing on images/" in step["reason"] for step in planned["plan"]) == 1
    assert disks.task("converted")["plan"] == planned["plan"]
    assert (disks.contents(), disks.used()) == (before, used), "nothing was touched"
    assert disks.task("converted")["changed"] is False
    Modules()("disk_metadata", pool=disks.name, state="verified")
    assert disks.recorded() == WANTED
    disks.task("rolled_back")
    assert disks.recorded() == set()
    assert disks.contents() == before
    disks.task("converted")
    disks.task("finalized")
    assert disks.contents() == before
    assert disks.task("converted")["changed"] is False, "what is final is known by its records"
    Modules()("disk_metadata", pool=disks.name, state="verified")


@pytest.mark.parametrize("release", ["31.3.1"], indirect=True)
@pytest.mark.usefixtures("short_lease")
def test_killed(disks: NovaPool, tally: Tally) -> None:
    before, used = disks.contents(), disks.used()

    def unharmed() -> None:
        assert (disks.contents(), disks.used()) == (before, used)

    def forgotten() -> None:
        names = [{"instance": instance, "role": role} for instance, role, _size in WANTED]
        Modules()("disk_metadata", pool=disks.name, state="absent", disks=names)

    wanted = {(instance, role) for instance, role, _size in WANTED}
    for name, kills in killed_at_every_step(Host(disks.params, wanted, unharmed, forgotten), 1 if FULL else 4).items():
        tally.add("rbd", name, "before", kills)


@pytest.mark.parametrize("release", ["31.3.1"], indirect=True)
@pytest.mark.usefixtures("short_lease")
def test_killed_while_a_clone_is_flattened(disks: NovaPool, cluster: Cluster) -> None:
    """At every step. What it reads stays, whether the run is continued or taken back."""
    import rbd

    name = f"{CLONE}_disk"
    digest, parent, _snapshots = disks.contents()[name]
    pool, image, snapshot = parent.split("/")
    number, places = 0, 0
    while not places:
        number += 1
        rbd.RBD().remove(disks.ioctx, name)
        with cluster.ioctx(pool) as source:
            rbd.RBD().clone(source, image, snapshot, disks.ioctx, name)
        with rbd.Image(disks.ioctx, name) as clone:
            clone.resize(16 * MIB)
        places = killed("before", number, 1, {**disks.params, "state": "converted", "flattened": True})
        assert disks.contents()[name][0] == digest
        if number % 2:
            disks.task("converted", flattened=True)
            assert disks.recorded() == WANTED
            assert disks.contents()[name][1] == ""
            assert disks.task("converted", flattened=True)["changed"] is False
        disks.task("rolled_back")
        assert disks.recorded() == set()
        assert disks.contents()[name][0] == digest
    assert number > 3, "it was hardly killed"


def test_a_disk_that_is_being_resized(disks: NovaPool, bed: Bed) -> None:
    """Nova's snapshot tells of it, and on the host where it came from the folder that waits beside."""
    import rbd

    with rbd.Image(disks.ioctx, f"{CLONE}_disk") as image:
        image.create_snap("nova-resize")
    (bed.instances / f"{FLAT}_resize").mkdir()
    before = disks.contents()
    planned = disks.task("planned", path=str(bed.instances))
    refused = {each["instance"]: each["refusals"] for each in planned["instances"]}
    assert "nova-resize" in refused[CLONE][0]
    assert "being resized" in refused[FLAT][0]
    assert disks.task("converted", path=str(bed.instances))["changed"] is False
    assert disks.contents() == before
    with rbd.Image(disks.ioctx, f"{CLONE}_disk") as image:
        image.remove_snap("nova-resize")
    assert [each["verdict"] for each in disks.task("converted")["instances"]] == ["converts", "converts"]


@pytest.mark.parametrize("release", ["31.3.1"], indirect=True)
def test_an_image_that_cannot_be_opened(disks: NovaPool) -> None:
    """Such as one whose removal was broken off: its instance is named, and the other is converted."""
    import rbd

    with rbd.Image(disks.ioctx, f"{FLAT}_disk.swap") as image:
        disks.ioctx.remove_object(f"rbd_header.{image.id()}")
    result = disks.task("converted")
    assert {each["instance"]: each["verdict"] for each in result["instances"]} == {FLAT: "refused", CLONE: "converts"}
    (why,) = result["instances"][0]["refusals"]
    assert why.startswith(f"{FLAT}_disk.swap: ")
    print(f"\n{why}")
    assert disks.recorded() == {(CLONE, "root", 16 * MIB)}


def test_a_clone_is_flattened_by_choice(disks: NovaPool) -> None:
    """When nothing uses it; what it reads stays the same, in its snapshots, too, and flat it stays."""
    import rbd

    before = disks.contents()
    with rbd.Image(disks.ioctx, f"{CLONE}_disk") as image:
        image.create_snap("before")
        image.write(b"mine", 0)  # a client, as a guest's qemu is one
        planned = disks.task("planned", flattened=True)
        assert {each["instance"]: each["verdict"] for each in planned["instances"]} == {
            FLAT: "converts",
            CLONE: "waits",
        }
        assert planned["bytes_to_copy"] == 0
        disks.task("converted", flattened=True)
        assert disks.contents()[f"{CLONE}_disk"][1] != ""
        image.write(bytes(range(4)), 0)
        data = image.read(0, 4)
    assert data == bytes(range(4))
    written = {name: facts[0] for name, facts in disks.contents().items()}
    assert "not wholly converted" in disks.task("finalized", instances=[CLONE])["instances"][0]["refusals"][0]
    planned = disks.task("planned", flattened=True)["plan"]
    result = disks.task("converted", flattened=True)
    assert result["plan"] == planned
    assert result["bytes_to_copy"] == 16 * MIB
    assert [each.split(" ")[0] for each in result["actions"]] == ["flatten"]
    assert disks.task("converted", flattened=True)["changed"] is False
    assert {name: facts[0] for name, facts in disks.contents().items()} == written
    assert {facts[1] for facts in disks.contents().values()} == {""}
    disks.task("rolled_back")
    assert disks.recorded() == set()
    assert {name: facts[0] for name, facts in disks.contents().items()} == written
    with rbd.Image(disks.ioctx, f"{CLONE}_disk", snapshot="before") as image:
        assert hashlib.sha256(image.read(0, image.size())).hexdigest() == before[f"{CLONE}_disk"][0]
    with rbd.Image(disks.ioctx, f"{CLONE}_disk") as image:
        image.remove_snap("before")


def test_a_definition_that_says_otherwise(disks: NovaPool, libvirtd: libvirt.virConnect) -> None:
    xml = f"""<domain type='qemu'><name>{disks.name}</name><memory unit='MiB'>32</memory>
      <os><type arch='x86_64' machine='pc'>hvm</type></os><devices>
      <disk type='network' device='disk'><driver name='qemu' type='qcow2'/>
      <source protocol='rbd' name='{disks.name}/{FLAT}_disk'><host name='127.0.0.1' port='1'/></source>
      <target dev='vda' bus='virtio'/></disk></devices></domain>"""
    domain = libvirtd.defineXML(xml)
    try:
        result = disks.task("converted")
        assert {each["instance"]: each["verdict"] for each in result["instances"]} == {
            FLAT: "refused",
            CLONE: "converts",
        }
        assert "is not clear" in result["instances"][0]["refusals"][0]
    finally:
        domain.undefine()
