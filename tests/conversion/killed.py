# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The task in a process of its own that is killed on its way."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from ansible_collections.virt.storage.plugins.module_utils._algorithms.conversion_journal import JOURNAL, read_journal
from ansible_collections.virt.storage.plugins.module_utils._algorithms.verify import look
from ansible_collections.virt.storage.plugins.module_utils._backends.perform import Performer
from ansible_collections.virt.storage.plugins.module_utils._ground.drive import Reply
from ansible_collections.virt.storage.plugins.module_utils._ground.errors import StorageError
from ansible_collections.virt.storage.plugins.module_utils._ground.ops import Op
from ansible_collections.virt.storage.plugins.module_utils._records.types import Disk
from ansible_collections.virt.storage.plugins.module_utils._tasks import session, storage_layout
from ansible_collections.virt.storage.plugins.module_utils._tasks.layout_pool import ConvertingSession
from ansible_collections.virt.storage.plugins.module_utils._tasks.pool_reader import Reader

CALLS = ("rename", "link", "unlink", "mkdir", "rmdir", "fsync", "fdatasync", "ftruncate", "fchmod", "pwrite", "write")
Place = tuple[str, str]
"""An instance, and the role of one of its disks."""
passed = 0


def die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    while True:
        time.sleep(1)


def come_by(number: int) -> None:
    """One more place to be killed at."""
    global passed
    passed += 1
    if passed == number:
        die()


def at_rounds(number: int, stride: int) -> None:
    others, after = -1, False

    class Killing(Performer):
        def __call__(self, waiting: Mapping[int, Op[Any]]) -> Mapping[int, Reply]:
            nonlocal others, after
            writing = [op for op in waiting.values() if op.writes]
            if writing:
                journal = any(op.primitive == "note" and op.args[0] == JOURNAL for op in writing)
                others += not (journal or after)
                if journal or after or others % stride == 0:
                    come_by(number)
                after = journal
            return super().__call__(waiting)

    session.Performer = Killing


def at_calls(number: int, stride: int) -> None:
    number = 1 + (number - 1) * stride

    def deadly(call: Callable[..., Any]) -> Callable[..., Any]:
        def instead(*arguments: Any, **options: Any) -> Any:
            come_by(number)
            return call(*arguments, **options)

        return instead

    for name in CALLS:
        setattr(os, name, deadly(getattr(os, name)))
    fcntl.ioctl = deadly(fcntl.ioctl)


def killed(where: str, number: int, stride: int, params: Mapping[str, Any]) -> int:
    """Do the task in a fork that dies at the n-th place. How many it came by where it came to its end, 0 where it died.

    Places are (``before``) each round of operations that writes the journal, the next one that writes anything, and
    every ``stride``-th of the others that write; or (``call``) every ``stride``-th system call that changes something.
    """
    reader, writer = os.pipe()
    tell = os.write
    pid = os.fork()
    if pid == 0:
        try:
            {"before": at_rounds, "call": at_calls}[where](number, stride)
            with contextlib.suppress(StorageError):
                storage_layout.task(dict(params), False)
            tell(writer, b"%d" % passed)
        except BaseException:  # noqa: BLE001 - told, and seen by what is missing
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        said = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code == -signal.SIGKILL or said, "the task failed, see above"
    return int(said or 0)


def stands(params: Mapping[str, Any]) -> tuple[set[str], set[str], set[Place]]:
    """What is in the pool: the states of the journal's instances, "base" where it has one, those of live records, and
    the disks that these are of."""
    reader = Reader.of(ConvertingSession(params["uri"], reads=True), params["pool"])
    assert reader is not None
    held, journal = reader.run(look(reader.pool)), reader.run(read_journal(reader.pool))
    live = [record for record in held.records.values() if held.live(record.id)]
    return (
        {entry.state for entry in journal.instances.values()} | {"base" for _each in journal.bases},
        {str(held.listing.state(record.id).value) for record in live},
        {(record.instance, record.role) for record in live if isinstance(record, Disk)},
    )


TASKS = {"converted": "convert", "rolled_back": "roll a conversion back", "finalized": "finalize a conversion"}
JOURNALED: Mapping[str, set[str]] = {"converted": {"converted"}, "rolled_back": set(), "finalized": set()}
"""What the journal says of all instances after each task, where all disks are volumes of the pool."""


@dataclass(frozen=True)
class Host:
    """A host whose ``disks`` are volumes of a pool. ``params`` are those of the task but for the state; ``unharmed``
    asserts that all volumes are as they were; ``forgotten`` ends the records of what is final."""

    params: Mapping[str, Any]
    disks: set[Place]
    unharmed: Callable[[], None]
    forgotten: Callable[[], None]

    def stands(self, state: str) -> None:
        """Assert that the pool stands as after a task that came to its end, and nothing else."""
        disks = set() if state == "rolled_back" else self.disks
        found = stands(self.params)
        assert found == (JOURNALED[state], {"ready"} if disks else set(), disks), f"{found} after {state}"
        self.unharmed()

    def task(self, state: str) -> None:
        """Carry out, undisturbed."""
        storage_layout.task({**self.params, "state": state}, False)


WAYS = (
    (("converted", "converted"), ("rolled_back", "rolled_back")),
    (("converted", "rolled_back"), ("converted", "")),
    (("rolled_back", "converted"), ("finalized", "finalized")),
)
"""What is killed, and what is done then ("" for a first task that nobody kills): from old to old, or to the end."""


def killed_at_every_step(host: Host, stride: int) -> Counter[str]:
    """Kill every task at every place, and come to the end of it, or go back. Prints how many kills each had, and gives
    them by task as ``docs/crash-matrix.md`` calls it."""
    steps = [step for way in WAYS for step in way]
    kills = Counter[tuple[str, str]]()
    number, died = 1, True
    while died:
        died = False
        for state, then in steps:
            dead = bool(then) and not killed("before", number, stride, {**host.params, "state": state})
            kills[state, then] += dead
            died |= dead
            if dead or then != state:  # otherwise it came to its end just now
                host.task(then or state)
            host.stands(then or state)
        host.forgotten()
        host.stands("rolled_back")
        number += 1
    each = "; ".join(f"{state}, then {then}: {count}" for (state, then), count in kills.items() if then)
    print(f"\nconversion: pool {host.params['pool']}: {kills.total()} kills, each came to its end ({each})")
    assert all(kills[step] for step in steps if step[1]), "a task was never killed"
    by_task = Counter[str]()
    for (state, _then), count in kills.items():
        by_task[TASKS[state]] += count
    return by_task
