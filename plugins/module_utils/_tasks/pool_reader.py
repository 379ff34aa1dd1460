# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""A pool for reading, whether it has records yet or not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .._algorithms.pool import Pool
from .._backends.contract import Backend
from .._backends.perform import Performer
from .._ground.drive import Ended, drive
from .._ground.errors import NotFound
from .._policy.pool_xml import read
from .._records.types import Volume
from .kinds import open_parts
from .session import Session, Task


@dataclass(frozen=True)
class Reader:
    """A pool for reading, whether it has records yet or not."""

    pool: Pool
    backend: Backend
    run_all: Callable[[Sequence[Task]], list[Ended]]

    @classmethod
    def of(cls, session: Session, name: str) -> Reader | None:
        """The pool; None, in check mode only, where an earlier task has yet to make it."""
        pool = session.open(name, make=False)
        if pool is not None:
            return cls(pool, session.backend(pool), session.run_all)
        try:
            definition = read(session.host.pool(name).xml)
        except NotFound:
            return None
        parts = open_parts(definition, session.around, bare=True)
        return cls(
            Pool(name, parts.volumes.capabilities(), "nobody"),
            parts.volumes,
            lambda tasks: drive(tasks, Performer({name: parts}, write=False)),
        )

    def run(self, task: Task) -> Any:
        """Run one task; gives its value or raises its error."""
        return self.run_all([task])[0].unwrap()

    def path(self, volume: Volume) -> str:
        """Where a volume is: its path, or ``pool/image``."""
        return str(self.backend.location(volume))
