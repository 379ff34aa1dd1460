# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""Operations: the steps at which the world may change under an algorithm.

An algorithm is a coroutine that awaits operations and does nothing else to the world. Whoever drives it
(``drive``) decides what performing an operation means: a real pool, many tasks in one batch, a check run that
refuses to write, a simulated pool that crashes, a test that kills the process. The algorithm cannot tell.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

R = TypeVar("R")


@dataclass(frozen=True)
class Op(Generic[R]):
    """One primitive of a contract, asked of one pool; ``await`` gives its result.

    ``part`` is ``records``, ``volumes`` or ``host``; ``writes`` says whether performing it can change anything.
    Operations that only read may be answered once for all tasks that ask the same in the same round.
    """

    pool: str
    part: str
    primitive: str
    args: tuple[Any, ...]
    writes: bool

    def __await__(self) -> Generator[Op[Any], Any, R]:
        answer: R = yield self
        return answer

    def __str__(self) -> str:
        return "{}.{}({})".format(
            self.part,
            self.primitive,
            ", ".join(str(argument) for argument in self.args),
        )


@dataclass(frozen=True)
class Outcome:
    """How a mutating primitive ended: done, already so, or refused with a reason. True unless refused.

    ``copied`` are the bytes of data that were read and written for it; None where that cannot be told.
    """

    kind: str
    why: str = ""
    copied: int | None = field(default=0, compare=False)

    def __bool__(self) -> bool:
        return self.kind != "refused"


DONE = Outcome("done")
ALREADY = Outcome("already")


def copied(amount: int | None) -> Outcome:
    """It is done, and took copying ``amount`` bytes."""
    return Outcome("done", copied=amount)


def refused(why: str) -> Outcome:
    """The primitive changed nothing, and ``why`` says what stood in the way."""
    return Outcome("refused", why)


class Host:
    """What an algorithm asks of the host it runs on. Names, time and waiting are operations too, or replay lies."""

    def __init__(self, pool: str) -> None:
        self._pool = pool

    def _op(self, primitive: str, *args: Any, writes: bool = False) -> Op[Any]:
        return Op(self._pool, "host", primitive, args, writes)

    def fresh(self) -> Op[str]:
        """A suffix that no name ever had."""
        return self._op("fresh", writes=True)

    def now(self) -> Op[str]:
        """The time of day as ``YYYY-MM-DDTHH:MM:SS.ffffffZ``; for people and for order of age, never for safety."""
        return self._op("now")

    def clock(self) -> Op[float]:
        """Seconds of this host's own monotonic clock."""
        return self._op("clock")

    def sleep(self, seconds: float) -> Op[None]:
        """Let ``seconds`` pass."""
        return self._op("sleep", seconds)


Facts = dict[str, Any]
