# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""What the steps of a plan leave free in their pools, foretold; and what they took, counted."""

from __future__ import annotations

from collections.abc import Mapping

from .._algorithms.pool import Pool
from .._policy.plan import Fields, Plan
from .session import Session

Counts = dict[tuple[str, str], Fields]
"""By verb and subject of a step, what it took."""
BYTES = ("bytes_read", "bytes_written")


def foretold(session: Session, plan: Plan) -> Fields:
    """The result ``fill_after``. Asked before anything is done; only pools count that the task has opened."""
    pools = session.opened()
    names = {name for action in plan.actions for name in action.takes}
    spaces = {name: session.run(_space(pools[name])) for name in sorted(names.intersection(pools))}
    return {"fill_after": plan.fill_after(spaces)}


async def _space(pool: Pool) -> tuple[int, int]:
    return await pool.volumes.capacity()


def taken(facts: Mapping[str, int | None]) -> Fields:
    """What a step read and wrote, in bytes of data; None where nobody counted it."""
    return {name: facts.get(name, 0) for name in BYTES}


def counted(plan: Plan, counts: Counts) -> Fields:
    """The result ``counted``: for each step what it took. A step that has no entry moved no data."""
    return {"counted": [counts.get((action.verb, action.what), taken({})) for action in plan.actions]}
