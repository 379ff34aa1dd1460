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

from ansible_collections.virt.storage.plugins.module_utils._backends.perform import Performer
from ansible_collections.virt.storage.plugins.module_utils._ground.drive import Reply
from ansible_collections.virt.storage.plugins.module_utils._ground.errors import StorageError
from ansible_collections.virt.storage.plugins.module_utils._ground.ops import Op
from ansible_collections.virt.storage.plugins.module_utils._tasks import session, storage_layout
from ansible_collections.virt.storage.plugins.module_utils._tasks.layout_host import look_at_host
from ansible_collections.virt.storage.plugins.module_utils._tasks.layout_pool import ConvertingSession

CALLS = ("rename", "link", "unlink", "mkdir", "rmdir", "fsync", "fdatasync", "ftruncate", "fchmod", "pwrite", "write")
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


def at_rounds(number: int) -> None:
    class Killing(Performer):
        def __call__(self, waiting: Mapping[int, Op[Any]]) -> Mapping[int, Reply]:
            if any(op.writes for op in waiting.values()):
                come_by(number)
            return super().__call__(waiting)

    session.Performer = Killing


def at_calls(number: int) -> None:
    def deadly(call: Callable[..., Any]) -> Callable[..., Any]:
        def instead(*arguments: Any, **options: Any) -> Any:
            come_by(number)
            return call(*arguments, **options)

        return instead

    for name in CALLS:
        setattr(os, name, deadly(getattr(os, name)))
    fcntl.ioctl = deadly(fcntl.ioctl)


def killed(where: str, number: int, params: Mapping[str, Any]) -> int:
    """Do the task in a fork that dies before the n-th round of operations that write (``before``), or instead of the
    n-th system call that changes something (``call``). How many there were where it came to its end, 0 where it died.
    """
    reader, writer = os.pipe()
    tell = os.write
    pid = os.fork()
    if pid == 0:
        try:
            {"before": at_rounds, "call": at_calls}[where](number)
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


def stands(params: Mapping[str, Any]) -> tuple[set[str], set[str]]:
    """What is in the pool: the states of the journal's instances, "base" where it has one, and of live records."""
    seen = look_at_host(ConvertingSession(params["uri"], reads=True), dict(params))
    assert seen is not None
    journal = {entry.state for entry in seen.journal.instances.values()} | {"base" for _each in seen.journal.bases}
    states = {str(seen.held.listing.state(each).value) for each in seen.held.records if seen.held.live(each)}
    return journal, states


STANDS = {"converted": ({"converted"}, {"ready"}), "rolled_back": (set(), set()), "finalized": (set(), {"ready"})}
"""What is in the pool after each task, where all disks are volumes of it."""


@dataclass(frozen=True)
class Host:
    """A host whose disks are volumes of a pool. ``params`` are those of the task but for the state; ``old`` and ``new``
    assert that all is as it was, or converted; ``forgotten`` ends the records of what is final."""

    params: Mapping[str, Any]
    old: Callable[[], None]
    new: Callable[[], None]
    forgotten: Callable[[], None]

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
    """Kill every task at every ``stride``-th step, and come to the end of it, or go back. How many kills each had."""
    kills: Counter[str] = Counter()
    number, died = 1, True
    while died:
        died = False
        for state, then in (step for way in WAYS for step in way):
            if then and not killed("before", number, {**host.params, "state": state}):
                kills[state] += 1
                died = True
            last = then or state
            host.task(last)
            assert stands(host.params) == STANDS[last]
            (host.old if last == "rolled_back" else host.new)()
        host.forgotten()
        host.old()
        number += stride
    return kills
