# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""The one driving loop.

``drive`` collects the operation that each task waits for, hands them to ``perform`` and resumes the tasks with
what it answers. ``perform`` may answer all of them (production: like operations of a thousand tasks share one
sync and one listing), one of them (the explorer picks who moves next), or say that a task never goes on (its
host died). No task is ever closed: a dead process runs no clean-up either.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, Union

from .errors import StorageError
from .ops import Op

T = TypeVar("T")


@dataclass(frozen=True)
class Answer:
    """The operation's result; the task goes on with it."""

    value: Any


@dataclass(frozen=True)
class Failure:
    """The operation raised; the task goes on with the exception."""

    error: Exception


class Dead:
    """The task's host died: the task stays where it is for ever."""


Reply = Union[Answer, Failure, Dead]
Perform = Callable[[Mapping[int, Op[Any]]], Mapping[int, Reply]]


@dataclass
class Ended:
    """How a task ended: a value, a StorageError, or ``dead``."""

    value: Any = None
    error: Exception | None = None
    dead: bool = False

    def unwrap(self) -> Any:
        """The value; raises the error of a task that failed."""
        if self.error is not None:
            raise self.error
        return self.value


def drive(tasks: Sequence[Coroutine[Op[Any], Any, Any]], perform: Perform) -> list[Ended]:
    """Run ``tasks`` to their ends and give how each ended, in order.

    Only a StorageError ends one task alone; anything else is a fault of ours and ends the drive.
    """
    ended: dict[int, Ended] = {}
    waiting: dict[int, Op[Any]] = {}

    def resume(number: int, reply: Reply) -> None:
        waiting.pop(number, None)
        if isinstance(reply, Dead):
            ended[number] = Ended(dead=True)
            return
        try:
            if isinstance(reply, Failure):
                waiting[number] = tasks[number].throw(reply.error)
            else:
                waiting[number] = tasks[number].send(reply.value)
        except StopIteration as stop:
            ended[number] = Ended(value=stop.value)
        except StorageError as error:
            ended[number] = Ended(error=error)

    for number in range(len(tasks)):
        resume(number, Answer(None))
    while waiting:
        for number, reply in perform(dict(waiting)).items():
            resume(number, reply)
    return [ended[number] for number in range(len(tasks))]


def drive_one(task: Coroutine[Op[Any], Any, T], perform: Perform) -> T:
    """Run one task and give its value, or raise its error."""
    value: T = drive([task], perform)[0].unwrap()
    return value
