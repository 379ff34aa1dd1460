# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A process that does a task on a pool and is killed, or frozen, on its way: before an operation, at a system call
within one, or while a program that it started runs. It is forked here; nothing in the shipped code knows of it.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import secrets
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from ansible_collections.virt.storage.plugins.module_utils._algorithms.cache import Cached
from ansible_collections.virt.storage.plugins.module_utils._algorithms.disks import Made
from ansible_collections.virt.storage.plugins.module_utils._algorithms.pool import Pool, attend, depart
from ansible_collections.virt.storage.plugins.module_utils._backends.file import PRIVATE, FileVolumes
from ansible_collections.virt.storage.plugins.module_utils._backends.perform import Parts, Performer
from ansible_collections.virt.storage.plugins.module_utils._ground.command import Runner, Running
from ansible_collections.virt.storage.plugins.module_utils._ground.drive import Reply, drive
from ansible_collections.virt.storage.plugins.module_utils._ground.errors import StorageError
from ansible_collections.virt.storage.plugins.module_utils._ground.ops import Op
from ansible_collections.virt.storage.plugins.module_utils._records.folder import OWNER, FolderStore

NAME = "p"
LEASE = 0.4
"""Seconds after which a holder that stands still counts as dead."""
BEAT = 0.05
WALL = 60
"""Seconds after which a child ends itself: it waits for something that never comes."""

Task = Coroutine[Op[Any], Any, Any]
Act = Callable[[Pool], Sequence[Task]]

CALLS = ("rename", "link", "unlink", "mkdir", "rmdir", "fsync", "ftruncate", "fchmod", "pwrite", "write", "open")
"""System calls that change something, as Python calls them; ``open`` only where it makes a file."""


@dataclass(frozen=True)
class Kill:
    """``before`` the n-th operation, before the n-th ``decision``, at the n-th ``call`` that would change something, or
    while the n-th ``program`` that writes to a volume is at work (it is stopped first, so that it still runs when its
    parent is gone). A decision is an operation that moves a state or changes a volume."""

    where: str
    number: int

    def strike(self) -> None:
        """It happens to this process, now."""
        os.kill(os.getpid(), signal.SIGKILL)
        while True:  # until it arrives
            time.sleep(1)


@dataclass(frozen=True)
class Freeze(Kill):
    """The process and its programs stand still there, as on a host that freezes, until they are let go on."""

    def strike(self) -> None:
        """Returns when all goes on."""
        signal.alarm(0)
        _signal_programs(signal.SIGSTOP)
        signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)  # all threads: it is the process that stops
        _signal_programs(signal.SIGCONT)
        signal.alarm(WALL)


@dataclass(frozen=True)
class Befalls(Kill):
    """``what`` happens there, and the process goes on as well as it can."""

    what: Callable[[], None]

    def strike(self) -> None:
        """Raises what ``what`` raises."""
        STRUCK.append(self)
        self.what()


STRUCK: list[Kill] = []
"""What befell this process."""


@dataclass
class Lived:
    """What became of a child. ``orphan`` is the process id of a program that was stopped and left behind."""

    killed: bool
    frozen: bool = False
    hung: bool = False
    """Whether it waited for something that never came, until ``WALL`` seconds were over."""
    struck: bool = False
    """Whether something befell it; who died or was frozen does not tell."""
    acknowledged: bool = False
    made: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    programs: list[str] = field(default_factory=list)
    started: list[int] = field(default_factory=list)
    """The process ids of the programs."""
    orphan: int = 0


def parts(root: str, runner: Runner) -> Parts:
    """The pool in ``root``, as a process that begins opens it."""
    records = FolderStore.make(os.path.join(root, PRIVATE), BEAT)
    volumes = FileVolumes(root, runner, records.locks.inherited)
    volumes.prepare()
    return Parts(records, volumes)


def run(
    root: str,
    act: Act,
    kill: Kill | None = None,
    beside: Mapping[str, str] | None = None,
    meanwhile: Callable[[], object] = lambda: None,
) -> Lived:
    """Do a task in a process of its own, to which ``kill`` happens; wait for its end. ``beside`` tells where further
    pools are, by name; ``meanwhile`` is done while the process is frozen, if it comes to that."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _live(root, act, kill, writing, beside or {})
    os.close(writing)
    frozen = isinstance(kill, Freeze) and _frozen(pid)
    if frozen:
        try:
            meanwhile()
        finally:
            os.kill(pid, signal.SIGCONT)
    with os.fdopen(reading, encoding="utf-8") as pipe:
        told = [json.loads(line) for line in pipe]
    _pid, status = os.waitpid(pid, 0)
    ended_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    lived = Lived(ended_by == signal.SIGKILL, frozen, ended_by == signal.SIGALRM)
    for key, value in told:
        if isinstance(getattr(lived, key), list):
            getattr(lived, key).append(value)
        else:
            setattr(lived, key, value)
    assert lived.killed or lived.hung or os.waitstatus_to_exitcode(status) == 0, f"the child failed: {lived}"
    return lived


def fine(lived: Lived) -> Lived:
    """A task that did what it should."""
    assert not lived.killed
    assert not lived.hung, f"it waited for something that never came: {lived}"
    assert lived.errors == []
    assert lived.acknowledged
    return lived


def _frozen(pid: int) -> bool:
    """Wait until the child is frozen, or at its end; tells which. It tells less before than its pipe holds."""
    found = os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    return found is not None and found.si_code == os.CLD_STOPPED


def _live(root: str, act: Act, kill: Kill | None, pipe: int, beside: Mapping[str, str]) -> NoReturn:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # not pytest's, which waits until a call has come back
    signal.alarm(WALL)

    def tell(key: str, value: Any) -> None:
        line = json.dumps([key, value]) + "\n"
        _WRITE(pipe, line.encode())

    try:
        _do(root, act, kill, tell, beside)
    except StorageError as error:  # the pool cannot even be opened
        tell("errors", f"{type(error).__name__}: {error}")
        tell("struck", bool(STRUCK))
    except BaseException:  # noqa: BLE001 - whatever it is, this process must not go on as a second pytest
        traceback.print_exc(file=sys.__stderr__)
        os._exit(1)
    os._exit(0)


def _do(root: str, act: Act, kill: Kill | None, tell: Callable[[str, Any], None], beside: Mapping[str, str]) -> None:
    runner = Stopping(kill, tell)
    opened = parts(root, runner)
    pool = Pool(NAME, opened.volumes.capabilities(), OWNER + secrets.token_hex(8), LEASE)
    performer = Performer({NAME: opened, **{name: parts(path, runner) for name, path in beside.items()}})
    count = itertools.count(1)

    def perform(waiting: Mapping[int, Op[Any]]) -> Mapping[int, Reply]:
        reached = kill is not None and (kill.where == "before" or (kill.where == "decision" and decides(waiting)))
        if kill is not None and reached and next(count) == kill.number:
            kill.strike()
        return performer(waiting)

    if kill is not None and kill.where == "call":
        _kill_at_call(kill)
    ended = drive([attend(pool)], perform)
    if ended[0].error is None:
        ended = drive(act(pool), perform)
    for each in ended:
        if each.error is not None:
            tell("errors", f"{type(each.error).__name__}: {each.error}")
        elif isinstance(each.value, (Made, Cached)):
            tell("made", str(each.value.disk if isinstance(each.value, Made) else each.value.image))
    tell("acknowledged", all(each.error is None for each in ended))
    tell("struck", bool(STRUCK))
    for each in drive([depart(pool)], perform):
        if each.error is not None:
            tell("errors", f"{type(each.error).__name__}: {each.error}")


def decides(waiting: Mapping[int, Op[Any]]) -> bool:
    """Whether a state is about to be moved, or a volume to be changed."""
    return any(op.primitive == "swap" or (op.part == "volumes" and op.writes) for op in waiting.values())


_WRITE = os.write
_PROGRAMS: list[int] = []
"""The process ids of what this process started; each is a group of its own."""


def _signal_programs(which: int) -> None:
    for pid in _PROGRAMS:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, which)


def _kill_at_call(kill: Kill) -> None:
    """From now on it happens at the ``kill.number``-th call that changes something, before that call."""
    count = itertools.count(1)

    def deadly(call: Callable[..., Any], changes: Callable[..., bool] = lambda *_: True) -> Callable[..., Any]:
        def instead(*arguments: Any, **options: Any) -> Any:
            if changes(*arguments) and next(count) == kill.number:
                kill.strike()
            return call(*arguments, **options)

        return instead

    for name in CALLS:
        makes = (lambda _path, flags, *_: bool(flags & os.O_CREAT)) if name == "open" else (lambda *_: True)
        setattr(os, name, deadly(getattr(os, name), makes))
    fcntl.ioctl = deadly(fcntl.ioctl)


class Stopping(Runner):
    """Tells what it starts. The n-th that writes is stopped at its work, and then ``kill`` happens to this process."""

    def __init__(self, kill: Kill | None, tell: Callable[[str, Any], None]) -> None:
        super().__init__()
        self._kill, self._tell = kill, tell
        self._count = itertools.count(1)

    def start(self, argv: Sequence[str], **options: Any) -> Running:
        self._tell("programs", " ".join(argv[:2]))
        running = super().start(argv, **options)
        self._tell("started", running._process.pid)
        _PROGRAMS.append(running._process.pid)
        writes = argv[0] == "qemu-io" or argv[1:2] in (["convert"], ["resize"])
        kill = self._kill
        if kill is not None and kill.where == "program" and writes and next(self._count) == kill.number:
            self._tell("orphan", stopped(running._process.pid))
            kill.strike()
        return running


def stopped(pid: int) -> int:
    """Stop a program that is at its work on a volume. 0 if it was faster."""
    deadline = time.monotonic() + 10
    with contextlib.suppress(ProcessLookupError):
        os.setpriority(os.PRIO_PROCESS, pid, 19)  # on a busy machine, it would be done before we look again
    try:
        while not at_work(pid):
            if time.monotonic() > deadline:
                return 0
        os.kill(pid, signal.SIGSTOP)
        if at_work(pid):
            return pid
        os.kill(pid, signal.SIGCONT)
    except (OSError, EndedError):
        pass
    return 0


class EndedError(Exception):
    """The program is done."""


def at_work(pid: int) -> bool:
    """Whether a program has locked a volume, as qemu's programs do before they write to it, and not let go again."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        if file.read().split()[2] == "Z":
            raise EndedError
    for entry in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            path = os.readlink(f"/proc/{pid}/fd/{entry}")
            if "/pool/" in path and "/locks/" not in path:
                with open(f"/proc/{pid}/fdinfo/{entry}", encoding="ascii") as file:
                    if any(line.startswith("lock:") for line in file):
                        return True
    return False
