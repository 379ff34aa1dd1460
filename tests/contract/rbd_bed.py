# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Pools in Ceph: each bed is a RADOS namespace of its own in the pool for disks of ``./dev ceph``, used with the
capabilities that README.md recommends."""

from __future__ import annotations

import contextlib
import json
import secrets
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ansible_collections.virt.storage.plugins.module_utils._backends.perform import Parts
from ansible_collections.virt.storage.plugins.module_utils._backends.rbd import RbdVolumes
from ansible_collections.virt.storage.plugins.module_utils._backends.rbd_pool import SNAPSHOT
from ansible_collections.virt.storage.plugins.module_utils._ground.ceph import Access, Cluster
from ansible_collections.virt.storage.plugins.module_utils._ground.command import Runner
from ansible_collections.virt.storage.plugins.module_utils._ground.intake import Staging
from ansible_collections.virt.storage.plugins.module_utils._ground.rados_omap import Change, Omaps
from ansible_collections.virt.storage.plugins.module_utils._records import omap
from ansible_collections.virt.storage.plugins.module_utils._records.types import Volume

from .beds import BEAT, GIB, RealBed

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "dev.d"))

import ceph


class RbdBed(RealBed):
    """A pool in a RADOS namespace, which must exist; ``staging`` is a folder for sources that are read twice."""

    name = "rbd"

    def __init__(self, namespace: str, staging: str) -> None:
        self.cluster = connected()
        self.ioctx = self.cluster.ioctx(ceph.DISKS, namespace)
        records = omap.OmapStore.make(self.ioctx, BEAT)
        volumes = RbdVolumes(self.cluster, ceph.DISKS, Runner(), Staging(staging, GIB), namespace, patience=2.0)
        volumes.prepare()
        super().__init__(Parts(records, volumes))
        self.namespace, self.staging = namespace, staging
        self.lock_outlives = records.locks.seconds
        self._others: list[RbdBed] = []

    @property
    def address(self) -> str:
        return json.dumps(["rbd", self.namespace, self.staging])

    def another(self) -> RbdBed:
        self._others.append(RbdBed(self.namespace, self.staging))
        return self._others[-1]

    def at(self, volume: Volume) -> tuple[str, str]:
        where = f"{ceph.DISKS}/{self.namespace}/{volume.name}"
        if self.parts.volumes.sealed(volume):
            where += f"@{SNAPSHOT}"  # what is read of an image, and stands under its clones
        return volume.format, f"rbd:{where}:id={ceph.USER}:conf={ceph.CONF}"

    def body(self, record_id: str, data: bytes | None) -> None:
        key = omap.BODY + record_id
        shard = self.parts.records._shard(record_id)
        with rados().WriteOpCtx() as op:
            if data is None:
                self.ioctx.remove_omap_keys(op, (key,))
            else:
                self.ioctx.set_omap(op, (key,), (data,))
            self.ioctx.operate_write_op(op, shard)

    def fact(self, record_id: str, topic: str, data: bytes) -> None:
        with rados().WriteOpCtx() as op:
            self.ioctx.set_omap(op, (f"{omap.FACTS}{record_id}/{topic}",), (data,))
            self.ioctx.operate_write_op(op, self.parts.records._shard(record_id))

    def state(self, record_id: str, word: str) -> None:
        Omaps(self.ioctx).change(self.parts.records._shard(record_id), Change(now={omap.STATE + record_id: word}))

    def inherited(self) -> Sequence[int]:
        return ()

    def close(self) -> None:
        """Close the connections, those of others to this bed, too."""
        for other in self._others:
            other.close()
        self.parts.records.close()
        self.ioctx.close()
        self.cluster.close()


def rados() -> Any:
    """The bindings, which are there once the cluster is."""
    import rados as bindings

    return bindings


def connected(user: str = ceph.USER, key: str = "", timeout_seconds: int = 30) -> Cluster:
    """A connection to the test cluster."""
    return Cluster(Access((ceph.monitor(),), user, key or ceph.key(user)), timeout_seconds)


@contextmanager
def prepared(place: Path) -> Iterator[Path]:
    """The cluster, for the time of a block."""
    with ceph.cluster():
        yield place


@contextmanager
def fresh_bed(folder: Path) -> Iterator[RbdBed]:
    """An empty pool, removed with all that is in it."""
    import rbd

    namespace = f"test-{secrets.token_hex(6)}"
    with connected("admin") as cluster, cluster.ioctx(ceph.DISKS) as ioctx:
        rbd.RBD().namespace_create(ioctx, namespace)
        bed = RbdBed(namespace, str(folder / "staging"))
        try:
            yield bed
        finally:
            bed.close()
            ioctx.set_namespace(namespace)
            emptied(ioctx)
            ioctx.set_namespace("")
            rbd.RBD().namespace_remove(ioctx, namespace)


def emptied(ioctx: Any) -> None:
    """Remove every object of a namespace, whoever uses it."""
    for each in ioctx.list_objects():
        with contextlib.suppress(rados().ObjectNotFound):
            ioctx.remove_object(each.key)
