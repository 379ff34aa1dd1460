# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""A task's hold on the pools it works with: opened by name, driven by one performer."""

from __future__ import annotations

import os
import secrets
from collections.abc import Coroutine, Sequence
from typing import Any

from .._algorithms.pool import Pool, attend, depart
from .._backends.file import PRIVATE, FileVolumes
from .._backends.perform import Clockwork, Parts, Performer
from .._ground.command import Runner
from .._ground.drive import Ended, drive, drive_one
from .._ground.errors import NotFound, StorageError
from .._ground.libvirt_host import SYSTEM, Host, PoolStatus, connect
from .._policy.pool_xml import read
from .._records.folder import OWNER, FolderStore

TYPES = ("dir", "netfs")
LEASE = 30.0
"""Seconds for which a holder may show no life before others go on without it."""


class Session:
    """Pools of this host, opened as they are named. In check mode nothing can be written through it."""

    def __init__(self, uri: str = SYSTEM, check_mode: bool = False, lease: float = LEASE) -> None:
        self.check_mode = check_mode
        self.warnings: list[str] = []
        self.host: Host = connect(uri, check_mode, self.warnings)
        self.runner = Runner()
        self._lease = lease
        self._owner = OWNER + secrets.token_hex(8)
        self._parts: dict[str, Parts] = {}
        self._pools: dict[str, Pool] = {}
        self._changed: set[str] = set()

    def open(self, name: str) -> Pool | None:
        """The pool, with its records and its backend.

        None, in check mode only, where it does not exist yet: an earlier task that makes it has not really run.
        Raises NotFound where there is no such pool, StorageError where it is not active or of no type of ours.
        """
        if name not in self._pools:
            try:
                status = self.host.pool(name)
            except NotFound:
                if self.check_mode:
                    return None
                raise
            if not status.active and not self.check_mode:
                raise StorageError(f"The pool {name} is not active: start it with libvirt_pool state=active.")
            opened = self._open(status)
            if opened is None:
                return None
            self._parts[name] = opened
            self._pools[name] = Pool(name, opened.volumes.capabilities(), self._owner, self._lease)
        return self._pools[name]

    def _open(self, status: PoolStatus) -> Parts | None:
        """The parts of a pool. None in check mode where the pool has no records yet."""
        definition = read(status.xml)
        if definition.type not in TYPES:
            raise StorageError(
                f"The pool {status.name} is of type {definition.type}, which virt.storage does not manage: "
                "use a pool of type dir or netfs."
            )
        root = definition.path
        private = os.path.join(root, PRIVATE)
        if self.check_mode:
            try:
                records = FolderStore.open(private, self._lease / 10)
            except NotFound:
                return None
        else:
            records = FolderStore.make(private, self._lease / 10)
        volumes = FileVolumes(root, self.runner, records.locks.inherited, self.host)
        if not self.check_mode:
            volumes.prepare()
        return Parts(records, volumes)

    def open_all(self, names: Sequence[str]) -> list[Pool]:
        """The pools named; without names, every active pool of a type of ours that has records."""
        if names:
            return [pool for pool in map(self.open, names) if pool is not None]
        found = []
        for status in self.host.pools():
            if status.active and read(status.xml).type in TYPES:
                pool = self.open(status.name)
                if pool is not None:
                    found.append(pool)
        return found

    def run_all(self, tasks: Sequence[Coroutine[Any, Any, Any]]) -> list[Ended]:
        """Run the tasks side by side, each to its own end."""
        return drive(tasks, Performer(self._parts, write=not self.check_mode))

    def run(self, task: Coroutine[Any, Any, Any]) -> Any:
        """Run one task; gives its value or raises its error."""
        return drive_one(task, Performer(self._parts, write=not self.check_mode))

    def work(self, pool: Pool, tasks: Sequence[Coroutine[Any, Any, Any]]) -> list[Ended]:
        """Run tasks that write to ``pool``, as a process that others can see alive; then let libvirt look again."""
        self.run(attend(pool))
        ended = self.run_all(tasks)
        self.run(depart(pool))
        try:
            self.host.refresh(pool.name)
        except StorageError as error:
            self.warnings.append(f"What was done stands, but libvirt did not look at the pool again: {error.message}")
        return ended

    def now(self) -> str:
        """The time of day, as records have it."""
        return Clockwork().now()

    def path(self, pool: Pool, name: str) -> str:
        """The absolute path of a volume of a pool on files."""
        root: str = self._parts[pool.name].volumes.root
        return os.path.join(root, name)


def first_error(ended: Sequence[Ended]) -> None:
    """Raise the error of the first task that failed; how many others did is said with it."""
    errors = [each.error for each in ended if each.error is not None]
    if len(errors) > 1 and isinstance(errors[0], StorageError):
        errors[0].facts.setdefault("also_failed", [str(error) for error in errors[1:]])
    if errors:
        raise errors[0]
