# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""A task's hold on the pools it works with: opened by name, driven by one performer."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from .._algorithms.pool import Pool, attend, depart
from .._backends.contract import Backend
from .._backends.perform import Clockwork, Parts, Performer
from .._ground.command import Runner
from .._ground.drive import Ended, drive, drive_one
from .._ground.errors import NotFound, StorageError
from .._ground.libvirt_host import SYSTEM, Host, PoolStatus, connect
from .._policy.plan import Fields
from .._policy.pool_names import shown
from .._policy.pool_xml import defined_anew, read
from .._records.folder import OWNER
from .._records.types import Volume
from .kinds import KINDS, LEASE, Surroundings, open_parts

Task = Coroutine[Any, Any, Any]


class Session:
    """Pools of this host, opened as they are named. In check mode, or when it ``reads`` only, nothing can be
    written through it; in check mode a pool that an earlier task would make is let pass."""

    def __init__(
        self, uri: str = SYSTEM, check_mode: bool = False, lease: float = LEASE, *, reads: bool = False
    ) -> None:
        self.check_mode = check_mode or reads
        self.warnings: list[str] = []
        self.host: Host = connect(uri, check_mode, self.warnings)
        self._lenient = check_mode
        self.around = Surroundings(self.host, Runner(), lease)
        self._owner = OWNER + secrets.token_hex(8)
        self._parts: dict[str, Parts] = {}
        self._pools: dict[str, Pool] = {}

    def open(self, name: str, make: bool = True) -> Pool | None:
        """The pool, with its records and its backend; ``make`` has records begun in a pool that has none yet.

        None where there are no records and none are to be made, and in check mode also, with a warning, where the pool
        does not exist: an earlier task that makes it has not really run.
        Raises NotFound where there is no such pool, StorageError where it is not active, of no type of ours, or was
        defined anew as another while it ran.
        """
        if name not in self._pools:
            status = self._active(name)
            if status is None:
                return None
            opened = self._open(status, make)
            if opened is None:
                return None
            self._parts[name] = opened
            self._pools[name] = Pool(name, opened.volumes.capabilities(), self._owner, self.around.lease)
        elif make and not self.check_mode:
            self._parts[name].volumes.prepare()  # opened to be read first, and its maker may have died before this
        return self._pools[name]

    def _active(self, name: str) -> PoolStatus | None:
        """The pool, seen to be active; in check mode a warning where it is not, and None where there is none."""
        status = None
        try:
            status = self.host.pool(name)
            problem = (
                "" if status.active else f"The pool {name} is not active: start it with libvirt_pool state=active."
            )
        except NotFound:
            problem = f"There is no pool {shown(name)}: make it with libvirt_pool first."
        if problem and not self._lenient:
            raise (StorageError if status else NotFound)(problem)
        if status and (differs := defined_anew(status.xml, status.stored)):
            raise StorageError(differs)
        if problem:
            self.warnings.append(f"{problem} Check mode goes on as if an earlier task did.")
        return status

    def _open(self, status: PoolStatus, make: bool) -> Parts | None:
        """The parts of a pool. None where it has no records yet, unless we ``make`` them, or look as if we did. Whoever
        makes them does without nothing: what is missing then is an error."""
        try:
            definition = read(status.xml)
            return open_parts(definition, self.around, make=make and not self.check_mode, bare=make and self.check_mode)
        except NotFound as error:
            if make and not self.check_mode:
                raise StorageError(error.message, **error.facts) from error
            return None

    def tell(self, names: Sequence[str], about: Callable[[Pool], list[Fields]]) -> tuple[list[Fields], list[Fields]]:
        """What there is to tell ``about`` the pools named; without names, about every active pool of a type of ours
        that has records. One of those that cannot be looked into keeps nobody from seeing the others: it is among the
        second, with its ``problem``, and there is a warning."""
        found: list[Fields] = []
        unseen: list[Fields] = []
        for name in dict.fromkeys(names) if names else self.names():
            try:
                pool = self.open(name, make=False)
                found += about(pool) if pool is not None else ()
            except StorageError as error:
                if names:
                    raise
                unseen.append({"name": name, "problem": error.message})
                self.warnings.append(f"The pool {name} cannot be looked into: {error.message}")
        return found, unseen

    def names(self) -> list[str]:
        """The active pools of a type of ours on this host, whether they have records or not."""
        return [pool.name for pool in self.host.pools() if pool.active and read(pool.xml).type in KINDS]

    def run_all(self, tasks: Sequence[Coroutine[Any, Any, Any]]) -> list[Ended]:
        """Run the tasks side by side, each to its own end."""
        return drive(tasks, Performer(self._parts, write=not self.check_mode))

    def run(self, task: Coroutine[Any, Any, Any]) -> Any:
        """Run one task; gives its value or raises its error."""
        return drive_one(task, Performer(self._parts, write=not self.check_mode))

    def work(self, pool: Pool, tasks: Sequence[Task]) -> list[Ended]:
        """Run tasks that write to ``pool``, as a process that others can see alive; then let libvirt look again."""
        return self.work_in([(pool, task) for task in tasks])

    def work_in(self, tasks: Sequence[tuple[Pool, Task]]) -> list[Ended]:
        """Run tasks that write, each to its pool, side by side."""
        pools = {pool.name: pool for pool, _task in tasks}
        for pool in pools.values():
            self.run(attend(pool))
        ended = self.run_all([task for _pool, task in tasks])
        for pool in pools.values():
            self.run(depart(pool))
            self._refresh(pool)
        return ended

    def _refresh(self, pool: Pool) -> None:
        try:
            self.host.refresh(pool.name)
        except StorageError as error:
            self.warnings.append(f"What was done stands, but libvirt did not look at the pool again: {error.message}")

    def now(self) -> str:
        """The time of day, as records have it."""
        return Clockwork().now()

    def opened(self) -> Mapping[str, Pool]:
        """The pools that were opened so far, by name."""
        return dict(self._pools)

    def backend(self, pool: Pool) -> Backend:
        """What the pool's backend tells besides its primitives."""
        backend: Backend = self._parts[pool.name].volumes
        return backend

    def path(self, pool: Pool, volume: Volume) -> str:
        """Where a volume is: its path, or ``pool/image``."""
        return str(self.backend(pool).location(volume))


def first_error(ended: Sequence[Ended]) -> None:
    """Raise the error of the first task that failed; how many others did is said with it."""
    errors = [each.error for each in ended if each.error is not None]
    if len(errors) > 1 and isinstance(errors[0], StorageError):
        errors[0].facts.setdefault("also_failed", [str(error) for error in errors[1:]])
    if errors:
        raise errors[0]
