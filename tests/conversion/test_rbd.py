# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Disks that Nova made in Ceph, by import and as clones of Glance's snapshots: they become disks where they are."""

from __future__ import annotations

import contextlib
import hashlib
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import libvirt
import pytest
from integration.ceph_site import Cluster, administered, ceph, of_glance
from integration.conftest import Modules

from ansible_collections.virt.storage.plugins.module_utils._tasks import storage_layout

from .bed import MIB, Bed

Nova = Callable[[dict[str, Any]], list[dict[str, str]]]
FLAT, CLONE = "11111111-1111-1111-1111-111111111111", "22222222-2222-2222-2222-222222222222"


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

    def task(self, state: str, **params: Any) -> dict[str, Any]:
        """The task in this process."""
        given = {"layout": "nova", "path": "/nowhere", "pool": self.name, "uri": "qemu:///system"}
        nothing = dict.fromkeys(("instances", "formats", "base_format"))
        return storage_layout.task({**nothing, **given, "state": state, **params}, False)

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
    modules = Modules()
    modules("disk_metadata", pool=disks.name, state="verified")
    found = modules("instance_disk_info", pools=[disks.name])["disks"]
    assert {(each["instance"], each["role"], each["size"]) for each in found} == {
        (FLAT, "root", 16 * MIB),
        (FLAT, "swap", 8 * MIB),
        (CLONE, "root", 16 * MIB),
    }
    disks.task("rolled_back")
    assert modules("instance_disk_info", pools=[disks.name])["disks"] == []
    assert disks.contents() == before
    disks.task("converted")
    disks.task("finalized")
    assert disks.contents() == before
    assert disks.task("converted")["changed"] is False, "what is final is known by its records"
    modules("disk_metadata", pool=disks.name, state="verified")


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
