# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""Performing operations on real pools: the ``perform`` of production.

Like operations of many tasks become one call of the store or the backend, where it offers one (``<name>_all``), and
share its sync. Reads that are alike share one answer. Where a batch fails, its operations are done one by one, so
that only those fail that cannot be done: every primitive may be repeated, and a swap that had worked is settled.

Fills come last, when every task has come to its own or waits for somebody else's: so volumes in several pools that
get the same content are filled from one read.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from .._ground.drive import Answer, Failure, Reply
from .._ground.errors import StorageError
from .._ground.ops import Op
from .._ground.os_errors import told
from .._records.types import SUFFIX_LENGTH
from .together import Filled, fill_together

_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"

ONCE_FOR_ALL = ("sync", "probe")
"""Primitives that write, and whose effect is the same for all tasks that wait for it in one round."""


@dataclass(frozen=True)
class Parts:
    """A pool's record store and its backend."""

    records: Any
    volumes: Any


class Clockwork:
    """The host's own part: names, time, waiting."""

    def fresh(self) -> str:
        """See the contract: 60 bits of chance."""
        return "".join(secrets.choice(_ALPHABET) for _unused in range(SUFFIX_LENGTH))

    def now(self) -> str:
        """See the contract."""
        return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    def clock(self) -> float:
        """See the contract."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """See the contract."""
        time.sleep(seconds)


class Performer:
    """Performs operations on the pools given by name. One that may not ``write`` refuses every mutator."""

    def __init__(self, pools: Mapping[str, Parts], write: bool = True) -> None:
        self._pools = pools
        self._write = write
        self._host = Clockwork()

    def __call__(self, waiting: Mapping[int, Op[Any]]) -> Mapping[int, Reply]:
        groups: dict[tuple[str, str, str], dict[int, Op[Any]]] = {}
        fills: dict[int, Op[Any]] = {}
        sleeping: dict[int, Op[Any]] = {}
        for number, op in waiting.items():
            if op.writes and not self._write and op.part != "host":
                raise AssertionError(f"a check run came to {op}")
            if op.part == "host" and op.primitive == "sleep":
                sleeping[number] = op
            elif op.part == "volumes" and op.primitive == "fill":
                fills[number] = op
            else:
                groups.setdefault((op.pool, op.part, op.primitive), {})[number] = op
        replies: dict[int, Reply] = {}
        for (pool, part, primitive), ops in groups.items():
            replies.update(self._group(self._target(pool, part), primitive, ops))
        if not replies and fills:  # nobody else gets there any more before somebody has filled
            replies.update(self._fill(fills))
        elif not replies and sleeping:
            self._host.sleep(min(op.args[0] for op in sleeping.values()))
            replies.update({number: Answer(None) for number in sleeping})
        return replies

    def _fill(self, fills: Mapping[int, Op[Any]]) -> Mapping[int, Reply]:
        """Fill volumes; those of several pools that get the same content, from one read of it."""
        replies: dict[int, Reply] = {}
        for number, op in fills.items():
            if number in replies:
                continue
            company = {n: other for n, other in fills.items() if n not in replies and self._joins(op, other)}
            if len(company) < 2:
                replies[number] = _perform(self._target(op.pool, op.part).fill, op)
                continue
            parts = [(self._target(each.pool, each.part), each.args[0]) for each in company.values()]
            for n, filled in zip(company, fill_together(parts, op.args[1])):
                replies[n] = _replied(filled)
        return replies

    def _joins(self, op: Op[Any], other: Op[Any]) -> bool:
        """Whether two volumes are filled by reading the same."""
        content = op.args[1]
        return other is op or (
            other.pool != op.pool
            and bool(other.args[1] == content)
            and all(self._target(each.pool, each.part).route(content).strategy == "source" for each in (op, other))
        )

    def _target(self, pool: str, part: str) -> Any:
        return self._host if part == "host" else getattr(self._pools[pool], part)

    def _group(self, target: Any, primitive: str, ops: Mapping[int, Op[Any]]) -> Mapping[int, Reply]:
        """Perform one primitive for several tasks: in one call, or once for all that ask the same."""
        plural = getattr(target, primitive + "_all", None)
        if plural is not None and len(ops) > 1:
            try:
                return dict(zip(ops, map(Answer, plural([op.args for op in ops.values()]))))
            except (StorageError, OSError):
                pass  # told apart one by one
        single: Callable[..., Any] = getattr(target, primitive)
        shared: dict[Sequence[Any], Reply] = {}
        replies: dict[int, Reply] = {}
        for number, op in ops.items():
            if op.part == "host" or (op.writes and primitive not in ONCE_FOR_ALL):
                replies[number] = _perform(single, op)
            else:
                if op.args not in shared:
                    shared[op.args] = _perform(single, op)
                replies[number] = shared[op.args]
        return replies


def _replied(filled: Filled) -> Reply:
    if isinstance(filled, OSError):
        return Failure(told(filled))
    return Failure(filled) if isinstance(filled, Exception) else Answer(filled)


def _perform(single: Callable[..., Any], op: Op[Any]) -> Reply:
    try:
        return Answer(single(*op.args))
    except StorageError as error:
        return Failure(error)
    except OSError as error:
        return Failure(told(error))
