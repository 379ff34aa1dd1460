# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A libvirt pool in the Ceph cluster of ``./dev ceph``, and what is in it as Ceph itself shows it."""

from __future__ import annotations

import contextlib
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import libvirt

from ansible_collections.virt.storage.plugins.module_utils._ground.ceph import Access, Cluster

from .conftest import COLLECTION, Modules, Result
from .pool_cases import PoolSite

sys.path.insert(0, str(COLLECTION / "dev.d"))

import ceph

STAGING = Path("/var/lib/virt-storage/staging")
SNAPSHOT = "image"
"""The snapshot that seals an image."""


@dataclass
class CephSite(PoolSite):
    """A pool in Ceph. ``space`` is a namespace of the Ceph pool, "" for the default one."""

    pool: str
    space: str
    user: str
    cluster: Cluster
    _ioctx: list[Any] = field(default_factory=list)

    @property
    def source(self) -> dict[str, Any]:
        """The option rbd of libvirt_pool."""
        more = {"namespace": self.space} if self.space else {}
        return {
            "pool": self.pool,
            "conf": str(ceph.CONF),
            "user": self.user,
            "keyring": str(ceph.keyring(self.user)),
            **more,
        }

    def define(self) -> Result:
        """Have the libvirt pool."""
        made: Result = self.task("libvirt_pool", name=self.name, type="rbd", rbd=self.source)["pool"]
        return made

    # What Ceph itself shows

    @property
    def ioctx(self) -> Any:
        """The pool, in the namespace."""
        if not self._ioctx:
            self._ioctx.append(self.cluster.ioctx(self.pool, self.space))
        return self._ioctx[0]

    @contextlib.contextmanager
    def image(self, path: str, snapshot: str | None = None, writable: bool = False) -> Iterator[Any]:
        """The RBD image of a result's ``path``."""
        import rbd

        with rbd.Image(self.ioctx, path.rpartition("/")[2], snapshot, read_only=not writable) as image:
            yield image

    def data(self, path: str, snapshot: str | None = None) -> bytes:
        """All that a guest would read."""
        with self.image(path, snapshot) as image:
            read: bytes = image.read(0, image.size())
            return read

    def read(self, volume: Result) -> bytes:
        """See PoolSite. An image is read where it is sealed; it is known by its key."""
        return self.data(volume["path"], SNAPSHOT if "key" in volume else None)

    def names(self) -> list[str]:
        """See PoolSite."""
        import rbd

        return sorted(rbd.RBD().list(self.ioctx))

    def lose_record(self, record_id: str) -> None:
        """See PoolSite."""
        import rados

        for each in list(self.ioctx.list_objects()):
            if each.key.startswith("virt-storage.records."):
                with rados.WriteOpCtx() as op:
                    self.ioctx.remove_omap_keys(op, (f"state/{record_id}", f"body/{record_id}"))
                    self.ioctx.operate_write_op(op, each.key)

    def clear(self, libvirtd: libvirt.virConnect) -> None:
        """Take the libvirt pool, its secret and all objects away."""
        import rados
        import rbd

        for found in libvirtd.listAllStoragePools(0):
            if found.name() == self.name:
                if found.isActive():
                    found.destroy()
                found.undefine()
        for secret in libvirtd.listAllSecrets(0):
            if secret.usageID().endswith(f" {self.name}"):
                secret.undefine()
        while names := self.names():  # clones first
            for name in names:
                with contextlib.suppress(rbd.ImageBusy, rbd.ImageHasSnapshots):
                    self._remove(name)
        for each in self.ioctx.list_objects():
            with contextlib.suppress(rados.ObjectNotFound):
                self.ioctx.remove_object(each.key)
        self._ioctx.pop().close()

    def _remove(self, name: str) -> None:
        import rbd

        with rbd.Image(self.ioctx, name) as image:
            for snap in list(image.list_snaps()):
                if not list(image.list_children2()) and snap["namespace"] == rbd.RBD_SNAP_NAMESPACE_TYPE_USER:
                    image.remove_snap(snap["name"])
        rbd.RBD().remove(self.ioctx, name)


@contextlib.contextmanager
def administered() -> Iterator[Cluster]:
    """A connection that may do everything."""
    with Cluster(Access((ceph.monitor(),), "admin", ceph.key("admin"))) as cluster:
        yield cluster


@contextlib.contextmanager
def ceph_site(cluster: Cluster, task: Modules, libvirtd: libvirt.virConnect, space: bool = True) -> Iterator[CephSite]:
    """A pool of its own for a block: a namespace of the pool for disks, or that pool as it is."""
    import rbd

    name = f"vst-{uuid.uuid4().hex[:8]}"
    with cluster.ioctx(ceph.DISKS) as disks:
        if space:
            rbd.RBD().namespace_create(disks, name)
        here = CephSite(task, name, ceph.DISKS, name if space else "", ceph.USER, cluster)
        try:
            here.define()
            yield here
        finally:
            here.clear(libvirtd)
            if space:
                rbd.RBD().namespace_remove(disks, name)


@contextlib.contextmanager
def of_glance(cluster: Cluster, content: bytes) -> Iterator[str]:
    """An image as Glance has it, ``pool/image@snap``, for a block."""
    import rbd

    name = str(uuid.uuid4())
    with cluster.ioctx(ceph.IMAGES) as ioctx:
        rbd.RBD().create(ioctx, name, len(content))
        try:
            with rbd.Image(ioctx, name) as image:
                image.write(content, 0)
                image.create_snap("snap")
                image.protect_snap("snap")
            yield f"{ceph.IMAGES}/{name}@snap"
        finally:
            with rbd.Image(ioctx, name) as image:
                for snap in [each["name"] for each in image.list_snaps()]:
                    with contextlib.suppress(rbd.InvalidArgument):
                        image.unprotect_snap(snap)
                    image.remove_snap(snap)
            rbd.RBD().remove(ioctx, name)
