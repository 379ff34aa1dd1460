# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""Threads, in the three shapes that an intake needs: work under a heartbeat, work in a lane, early write-back."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from .command import BEAT_SECONDS, Beat
from .errors import SourceError

R = TypeVar("R")


class Cancelled(Exception):
    """Raised in a worker at its next ``alive()``. Never leaves ``with_beat``."""


def with_beat(work: Callable[[Beat], R], beat: Beat, *, timeout: float, cancel: Callable[[], None]) -> R:
    """Do ``work`` in a thread, and call ``beat`` in this one about every ``BEAT_SECONDS`` until it is done.

    ``work`` is given ``alive``, which it calls between its steps. When ``beat`` raises, or ``timeout`` seconds are
    over, the next ``alive`` raises too; the worker has ended before the exception leaves here, so that nothing is
    written any more.

    :param cancel: called once in that case, to end a wait that ``alive`` cannot.
    """
    cancelled = threading.Event()
    result: Future[R] = Future()

    def alive() -> None:
        if cancelled.is_set():
            raise Cancelled

    def run() -> None:
        try:
            result.set_result(work(alive))
        except BaseException as error:  # noqa: BLE001 - it is raised again below
            result.set_exception(error)

    thread = threading.Thread(target=run, daemon=True)
    deadline = time.monotonic() + timeout
    thread.start()
    try:
        while thread.is_alive():
            thread.join(BEAT_SECONDS)
            beat()
            if time.monotonic() > deadline and thread.is_alive():
                raise SourceError("The image could not be taken in within the %g seconds that are given." % timeout)
    except BaseException:
        cancelled.set()
        cancel()
        thread.join()
        raise
    return result.result()


class Lane:
    """Calls done in order by one thread, with at most ``depth`` of them waiting: what bounds the memory in use."""

    def __init__(self, depth: int = 4) -> None:
        self._depth = depth
        self._pool = ThreadPoolExecutor(1)
        self._waiting: deque[Future[Any]] = deque()

    def do(self, function: Callable[..., Any], *arguments: object) -> Future[Any]:
        """Queue a call. Waits while the lane is full; raises what an earlier call raised."""
        if len(self._waiting) >= self._depth:
            self._waiting.popleft().result()
        self._waiting.append(self._pool.submit(function, *arguments))
        return self._waiting[-1]

    def finish(self) -> None:
        """Wait until all is done; raise what a call raised."""
        while self._waiting:
            self._waiting.popleft().result()
        self.close()

    def close(self) -> None:
        """Drop what has not begun, wait for what has."""
        self._pool.shutdown(cancel_futures=True)


class Ring:
    """Buffers that are used in turn, each only when the work on what it held is done.

    Fresh memory for each block would cost more in page faults than reading the block does.
    """

    def __init__(self, count: int, size: int) -> None:
        self._slots: deque[tuple[bytearray, Sequence[Future[Any]]]] = deque(
            (bytearray(size), ()) for _unused in range(count)
        )

    def next(self) -> bytearray:
        """A buffer to fill. Raises what the work on its last content raised."""
        buffer, users = self._slots.popleft()
        for user in users:
            user.result()
        return buffer

    def busy(self, buffer: bytearray, users: Sequence[Future[Any]]) -> None:
        """Put a buffer back that is free again when ``users`` are done."""
        self._slots.append((buffer, users))


class WriteBack:
    """Has the kernel write what is dirty while more is being made, so that little is left for the final sync.

    The descriptors stay open from before the first write until after the last sync: the kernel reports an error of
    write-back to those that were open when it happened.
    """

    def __init__(self, fds: Sequence[int]) -> None:
        self._fds = list(fds)
        self._done = threading.Event()
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._done.wait(0.1):
                self._sync()
        except OSError as error:
            self._error = error

    def _sync(self) -> None:
        for fd in self._fds:
            os.fdatasync(fd)

    def finish(self) -> None:
        """Everything written so far is durable on return."""
        self.stop()
        if self._error is not None:
            raise self._error
        self._sync()

    def stop(self) -> None:
        """Stop writing back."""
        self._done.set()
        self._thread.join()
