# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""A pool for reading, whether it has records yet or not."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from .._algorithms.pool import Pool
from .._backends.file import FileVolumes
from .._backends.perform import Parts, Performer
from .._ground.drive import drive_one
from .._ground.errors import NotFound
from .._policy.plan import Fields
from .._policy.pool_xml import read
from .._records.contract import Listing
from .session import Session


class NoRecords:
    """The store of a pool that has no records yet, for looking at only."""

    def states(self) -> Listing:
        """No record."""
        return Listing({})

    def notes(self, record_id: str) -> Fields:
        """No facts."""
        return {}


@dataclass(frozen=True)
class Reader:
    """A pool for reading, whether it has records yet or not."""

    pool: Pool
    root: str
    run: Callable[[Coroutine[Any, Any, Any]], Any]

    @classmethod
    def of(cls, session: Session, name: str) -> Reader | None:
        """The pool; None, in check mode only, where an earlier task has yet to make it."""
        pool = session.open(name, make=False)
        if pool is not None:
            return cls(pool, session.path(pool, "").rstrip("/"), session.run)
        try:
            root = read(session.host.pool(name).xml).path
        except NotFound:
            return None
        volumes = FileVolumes(root, session.runner, host=session.host)
        parts = {name: Parts(NoRecords(), volumes)}
        return cls(
            Pool(name, volumes.capabilities(), "nobody"),
            root,
            lambda task: drive_one(task, Performer(parts, write=False)),
        )
