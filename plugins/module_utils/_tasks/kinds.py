# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""Which record store and which backend serve which type of libvirt pool: the one place that knows all of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .._backends.file import PRIVATE, FileVolumes
from .._backends.lvm_group import find_group
from .._backends.lvm_records import GroupStore
from .._backends.lvm_thick import ThickVolumes
from .._backends.lvm_thin import ThinVolumes
from .._backends.perform import Parts
from .._backends.rbd import RbdVolumes
from .._ground.ceph import Cluster
from .._ground.command import Runner
from .._ground.errors import NotFound, StorageError
from .._ground.intake import Staging
from .._ground.libvirt_host import Host
from .._ground.lvm import Lvm
from .._ground.mounts import mounted_at
from .._ground.os_errors import told
from .._ground.staging import staging_room
from .._policy.plan import Fields
from .._policy.pool_ceph import CephSource
from .._policy.pool_xml import Definition
from .._records.contract import Listing
from .._records.folder import FolderStore
from .._records.omap import OmapStore
from .pool_cluster import open_cluster, secret_of

STAGING = "/var/lib/virt-storage/staging"
"""Where a source that needs random access is kept on its way into a pool that has no folder of its own."""
LEASE = 30.0
"""Seconds for which a holder may show no life before others go on without it."""


@dataclass(frozen=True)
class Surroundings:
    """What a backend works with on this host."""

    host: Host
    runner: Runner
    lease: float = LEASE
    clusters: dict[CephSource, Cluster] = field(default_factory=dict)
    """The connections to Ceph of this process, one for all that is done in a pool."""

    def cluster(self, ceph: CephSource) -> Cluster:
        """The connection that a pool needs."""
        if ceph not in self.clusters:
            self.clusters[ceph] = open_cluster(self.host, ceph)
        return self.clusters[ceph]


class NoRecords:
    """The store of a pool that has no records yet, for looking at only."""

    def states(self) -> Listing:
        """No record."""
        return Listing({})

    def notes(self, record_id: str) -> Fields:
        """No facts."""
        return {}

    def references(self, record_id: str) -> Iterable[str]:
        """No names."""
        return ()

    def busy(self) -> tuple[str, ...]:
        """Nobody."""
        return ()

    def destroy(self) -> None:
        """Nothing to remove."""


Opener = Callable[[Definition, Surroundings, bool, bool], Parts]


def open_parts(definition: Definition, around: Surroundings, *, make: bool = False, bare: bool = False) -> Parts:
    """A pool's store and backend. Where there are no records yet, ``make`` begins them, and ``bare`` has `NoRecords`.

    Raises NotFound where there are none otherwise, and StorageError for a type that is none of ours, or where the
    operating system refuses: no performer stands between it and whoever opens a pool.
    """
    opener = KINDS.get(definition.type)
    if opener is None:
        raise StorageError(
            f"The pool {definition.name} is of type {definition.type}, which virt.storage does not manage: "
            f"use a pool of type {' or '.join(KINDS)}."
        )
    try:
        parts = opener(definition, around, make, bare)
        if make:
            parts.volumes.prepare()
    except OSError as error:
        raise told(error) from error
    return parts


def _records(begin: Callable[[], Any], open_: Callable[[], Any], make: bool, bare: bool) -> Any:
    try:
        return begin() if make else open_()
    except NotFound:
        if not bare:
            raise
        return NoRecords()


def _folder(definition: Definition, around: Surroundings, make: bool, bare: bool) -> Parts:
    if definition.type == "netfs" and mounted_at(os.path.realpath(definition.path)) is None:
        # Libvirt looks only when it starts. The empty folder beneath would be taken for a pool without any disk.
        raise StorageError(
            f"Nothing is mounted at {definition.path}, where the volumes of pool {definition.name} are, though libvirt "
            "has it as active: stop the pool with libvirt_pool state=inactive, then start it again."
        )
    private, beat = os.path.join(definition.path, PRIVATE), around.lease / 10
    store = _records(
        lambda: FolderStore.make(private, beat), lambda: FolderStore.open(private, beat), make=make, bare=bare
    )
    inherited = store.locks.inherited if isinstance(store, FolderStore) else tuple
    return Parts(store, FileVolumes(definition.path, around.runner, inherited, around.host))


def _ceph(definition: Definition, around: Surroundings, make: bool, bare: bool) -> Parts:
    ceph, beat = definition.ceph, around.lease / 10
    if ceph is None:
        raise StorageError(f"The definition of pool {definition.name} names no Ceph pool: define it anew.")
    cluster = around.cluster(ceph)
    ioctx = cluster.ioctx(ceph.pool, ceph.namespace)
    store = _records(lambda: OmapStore.make(ioctx, beat), lambda: OmapStore.open(ioctx, beat), make=make, bare=bare)
    return Parts(
        store,
        RbdVolumes(
            cluster,
            ceph.pool,
            around.runner,
            Staging(STAGING, staging_room(STAGING)),
            namespace=ceph.namespace,
            host=around.host,
            secret=secret_of(around.host, ceph),
        ),
    )


def _group(definition: Definition, around: Surroundings, make: bool, bare: bool) -> Parts:
    runner, beat = around.runner, around.lease / 10
    try:
        group = find_group(Lvm(runner), definition.group)
    except NotFound as error:
        raise StorageError(error.message) from None
    store = _records(
        lambda: GroupStore.of(group, runner, beat, make=True),
        lambda: GroupStore.of(group, runner, beat),
        make=make,
        bare=bare,
    )
    inherited = store.locks.inherited if isinstance(store, GroupStore) else tuple
    kind = ThinVolumes if group.pool else ThickVolumes
    room = staging_room(STAGING)
    return Parts(store, kind(group, runner, inherited, around.host, staging=STAGING, staging_bytes=room))


KINDS: Mapping[str, Opener] = {"dir": _folder, "netfs": _folder, "logical": _group, "rbd": _ceph}
