# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""The one place that starts external programs.

No shell, an argument list, a C locale, nothing on standard input, no descriptor inherited that was not named,
and limits on time and memory. ``qemu-img`` is started only when nothing is left for it to guess
(``qemu_img_rules``).

A program runs in a session of its own, so that stopping it stops what it started. It is *not* told to die with
its parent: a child inherits the lock descriptors of the work that it does (``pass_fds``), and when the parent is
killed the lock has to stay taken for as long as the child goes on writing.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, Union

from .errors import (
    CommandFailed,
    MissingRequirement,
    OutOfSpace,
)
from .qemu_img_rules import (
    UnsafeCommand,
    check_qemu_img,
)

__all__ = ["BEAT_SECONDS", "INSPECTING", "Completed", "Limits", "Runner", "Running", "UnsafeCommand"]

BEAT_SECONDS = 0.5
"""How often ``beat`` is called while a program runs."""

PACKAGES = {
    "blkid": ("util-linux", "util-linux"),
    "chattr": ("e2fsprogs", "e2fsprogs"),
    "dmsetup": ("dmsetup", "device-mapper"),
    "fuser": ("psmisc", "psmisc"),
    "lsattr": ("e2fsprogs", "e2fsprogs"),
    "lvm": ("lvm2", "lvm2"),
    "mkfs.ext4": ("e2fsprogs", "e2fsprogs"),
    "mkfs.vfat": ("dosfstools", "dosfstools"),
    "mkfs.xfs": ("xfsprogs", "xfsprogs"),
    "mkswap": ("util-linux", "util-linux"),
    "mount": ("mount", "util-linux"),
    "mount.nfs": ("nfs-common", "nfs-utils"),
    "prlimit": ("util-linux", "util-linux"),
    "qemu-img": ("qemu-utils", "qemu-img"),
    "qemu-io": ("qemu-utils", "qemu-img"),
    "rbd": ("ceph-common", "ceph-common"),
    "tune2fs": ("e2fsprogs", "e2fsprogs"),
    "virsh": ("libvirt-clients", "libvirt-client"),
    "xfs_admin": ("xfsprogs", "xfsprogs"),
    "zstd": ("zstd", "zstd"),
}
"""Program -> the package that brings it, on Debian and on Red Hat systems."""

_SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_FULL = ("No space left on device", "Disk quota exceeded", "not enough space")
_KEPT_STDERR = 16 * 1024
_KEPT_STDOUT = 16 * 1024 * 1024

Journal = Callable[[Sequence[str], int, float], None]
Beat = Callable[[], None]
Handle = Union[int, IO[Any], None]


@dataclass(frozen=True)
class Limits:
    """What a program may use. ``None`` is no limit."""

    wall_seconds: float | None = None
    cpu_seconds: int | None = None
    address_space: int | None = 2 * 1024**3
    """Bytes. The default is what a hostile image should not get beyond and every honest one stays far below."""


INSPECTING = Limits(wall_seconds=60, cpu_seconds=30)
"""For a program that looks at the header of an image that nobody trusts yet."""


@dataclass(frozen=True)
class Completed:
    """What a program left: exit status, standard output, and the end of its standard error."""

    rc: int
    out: str
    err: str


class _Drain(threading.Thread):
    """Reads a pipe to its end and keeps no more than ``limit`` bytes: the last ones. ``cut`` tells that more came."""

    def __init__(self, pipe: IO[bytes], limit: int) -> None:
        super().__init__(daemon=True)
        self._pipe = pipe
        self._limit = limit
        self._kept = bytearray()
        self.cut = False
        self.start()

    def run(self) -> None:
        with contextlib.suppress(OSError, ValueError), self._pipe:
            while chunk := os.read(self._pipe.fileno(), 65536):
                self._kept += chunk
                self.cut = self.cut or len(self._kept) > self._limit
                del self._kept[: -self._limit]

    def text(self) -> str:
        # A grandchild that left the session may hold the pipe open; its output is not worth waiting for.
        self.join(5)
        return bytes(self._kept).decode("utf-8", "replace")


class Running:
    """A program at work. A context manager: leaving it by an exception stops the program."""

    def __init__(self, runner: Runner, argv: Sequence[str], process: subprocess.Popen[bytes], limits: Limits) -> None:
        self._runner = runner
        self._argv = list(argv)
        self._process = process
        self._limits = limits
        self._started = time.monotonic()
        if process.stderr is None:
            raise AssertionError
        self._err = _Drain(process.stderr, _KEPT_STDERR)
        self.stdin = process.stdin
        self.stdout = process.stdout

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Kill the program and everything in its session's process group, if it still runs."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._ended(self._process.wait())
        for pipe in (self.stdin, self.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def wait(self, ok: Collection[int] = (0,), beat: Beat | None = None) -> tuple[int, str]:
        """Wait for the end; exit status and the end of standard error. ``beat`` may raise: the program is stopped."""
        if self._process.returncode is None:
            try:
                rc = self._poll(beat)
            except BaseException:
                self.stop()
                raise
            self._ended(rc)
        rc, err = self._process.returncode, self._err.text()
        if rc not in ok:
            raise _failure(self._argv, rc, err, self._limits)
        return rc, err

    def _poll(self, beat: Beat | None) -> int:
        wall = float("inf") if self._limits.wall_seconds is None else self._limits.wall_seconds
        while True:
            left = min(BEAT_SECONDS, self._started + wall - time.monotonic())
            if left <= 0:
                raise CommandFailed(
                    "%s was stopped: it took longer than the %g seconds that it is given." % (_title(self._argv), wall),
                    rc=None,
                    stderr="",
                )
            try:
                return self._process.wait(left)
            except subprocess.TimeoutExpired:
                if beat is not None:
                    beat()

    def _ended(self, rc: int) -> None:
        self._runner.note(self._argv, rc, time.monotonic() - self._started)


class Runner:
    """Starts programs.

    :param journal: called with the argument list, the exit status and the seconds of everything that ran. What a
        program reads on standard input is not part of it, and secrets are never put into an argument list, where
        every user of the host could read them.
    """

    def __init__(self, journal: Journal | None = None) -> None:
        self._journal = journal

    def note(self, argv: Sequence[str], rc: int, seconds: float) -> None:
        """Tell the journal what ran."""
        if self._journal is not None:
            self._journal(list(argv), rc, seconds)

    def start(
        self,
        argv: Sequence[str],
        *,
        limits: Limits,
        stdin: Handle = subprocess.DEVNULL,
        stdout: Handle = subprocess.DEVNULL,
        pass_fds: Sequence[int] = (),
        env: Mapping[str, str] | None = None,
    ) -> Running:
        """Start ``argv`` and return at once."""
        if os.path.basename(argv[0]) == "qemu-img":
            check_qemu_img(argv)
        command = [*_limiter(limits), _find(argv[0]), *argv[1:]]
        environment = {**os.environ, **(env or {}), "LC_ALL": "C", "LANGUAGE": ""}
        process = subprocess.Popen(
            command,
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.PIPE,
            pass_fds=tuple(pass_fds),
            env=environment,
            cwd="/",
            start_new_session=True,
        )
        return Running(self, argv, process, limits)

    def run(
        self,
        argv: Sequence[str],
        *,
        limits: Limits,
        stdin: Handle = None,
        pass_fds: Sequence[int] = (),
        input: str | None = None,
        env: Mapping[str, str] | None = None,
        ok: Collection[int] = (0,),
        stdout: Handle = None,
        beat: Beat | None = None,
    ) -> Completed:
        """Run ``argv`` to its end.

        :param stdin: descriptor or file to read from; nothing by default.
        :param input: text for standard input, instead of ``stdin``.
        :param stdout: descriptor or file to write to; by default the output is returned.
        :param ok: exit statuses that are no failure.
        :param beat: called about every ``BEAT_SECONDS``; when it raises, the program is stopped.
        :raises CommandFailed: it failed, took too long, or said more than is kept, which nobody could understand.
        :raises OutOfSpace: it failed because a file system is full.
        :raises MissingRequirement: it is not installed.
        :raises UnsafeCommand: it would have had to guess.
        """
        source: Handle = subprocess.PIPE if input is not None else subprocess.DEVNULL if stdin is None else stdin
        target: Handle = subprocess.PIPE if stdout is None else stdout
        with self.start(argv, limits=limits, stdin=source, stdout=target, pass_fds=pass_fds, env=env) as running:
            out = _Drain(running.stdout, _KEPT_STDOUT) if running.stdout is not None else None
            if running.stdin is not None:
                _feed(running.stdin, (input or "").encode())
            rc, err = running.wait(ok, beat)
            text = out.text() if out is not None else ""
            if out is not None and out.cut:
                raise _too_much(argv, rc)
            return Completed(rc, text, err)


def _feed(pipe: IO[bytes], data: bytes) -> None:
    """Write ``data`` in a thread of its own: the program may talk before it listens."""

    def write() -> None:
        with contextlib.suppress(BrokenPipeError), pipe:
            pipe.write(data)

    threading.Thread(target=write, daemon=True).start()


def _limiter(limits: Limits) -> list[str]:
    """The prefix that sets the limits.

    They are set by a program that then becomes the wanted one. A function between fork and exec can deadlock in a
    process that has threads, and limits set from outside after the start come too late for the first moments.
    """
    options = []
    if limits.cpu_seconds is not None:
        options.append("--cpu=%d" % limits.cpu_seconds)
    if limits.address_space is not None:
        options.append("--as=%d" % limits.address_space)
    return [_find("prlimit"), "--core=0", *options, "--"] if options else []


def _find(program: str) -> str:
    path = shutil.which(program, path=os.pathsep.join([os.environ.get("PATH", ""), _SEARCH_PATH]))
    if path is None:
        debian, redhat = PACKAGES.get(os.path.basename(program), (None, None))
        packages = "install the package %s (Debian) or %s (Red Hat)" % (debian, redhat) if debian else "install it"
        raise MissingRequirement("The program %s is not installed; %s." % (program, packages), program=program)
    return path


def _title(argv: Sequence[str]) -> str:
    """What to call a command in a sentence: ``qemu-img convert``, ``mkswap``."""
    words = [os.path.basename(argv[0])]
    if words == ["qemu-img"]:
        words += argv[1:2]
    return " ".join(words)


def _too_much(argv: Sequence[str], rc: int) -> CommandFailed:
    limit = "the %d MiB that are kept of what a program says" % (_KEPT_STDOUT >> 20)
    return CommandFailed("%s said more than %s: run it by hand to see why." % (_title(argv), limit), rc=rc, stderr="")


def _failure(argv: Sequence[str], rc: int, err: str, limits: Limits) -> Exception:
    lines = [line.strip() for line in err.splitlines() if line.strip()]
    said = lines[-1][:500] if lines else "it gave no reason"
    facts = {"rc": rc, "stderr": err[-2000:]}
    if any(text in err for text in _FULL):
        return OutOfSpace("%s ran out of space: %s." % (_title(argv), said.rstrip(".")), **facts)
    if rc < 0:
        name = signal.Signals(-rc).name if -rc in set(signal.Signals) else str(-rc)
        over = limits.cpu_seconds is not None and -rc in (signal.SIGXCPU, signal.SIGKILL)
        why = "it used the %s seconds of processor time that it is given" % limits.cpu_seconds if over else said
        return CommandFailed("%s was ended by signal %s: %s." % (_title(argv), name, why.rstrip(".")), **facts)
    return CommandFailed("%s failed with exit status %d: %s." % (_title(argv), rc, said.rstrip(".")), **facts)
