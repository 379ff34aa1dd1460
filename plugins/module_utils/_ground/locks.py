# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""Locks for processes on one or more hosts, as files in a folder.

A lock is an open-file-description lock: it excludes across hosts on NFS, it goes with the last descriptor, and
children that inherit the descriptor hold it on when their parent is killed. The holder writes a beat into the
file. Locks order work and carry no safety: an NFS host that lost its lease is not told.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import threading

_FLOCK = struct.Struct("hhqqi4x")
_CONFLICTS = (11, 13)  # EAGAIN, EACCES


class FileLocks:
    """The locks in ``folder``, which must exist. ``beat_seconds`` is how often a holder shows that it lives."""

    def __init__(self, folder: str, beat_seconds: float = 2.0) -> None:
        self._folder = folder
        self._beat_seconds = beat_seconds
        self._held: dict[str, int] = {}
        self._lock = threading.Lock()
        self._heart: threading.Thread | None = None

    def hold(self, name: str) -> bool:
        """Take the lock without waiting; whether it is the caller's now. Two tasks of one process exclude each other,
        too: the second is refused."""
        with self._lock:
            if name in self._held:
                return False
        descriptor = self._taken(name)
        if descriptor is None:
            return False
        with self._lock:
            self._held[name] = descriptor
        self._beat()
        if self._heart is None:
            self._heart = threading.Thread(target=self._live, name="lock beats", daemon=True)
            self._heart.start()
        return True

    def _taken(self, name: str) -> int | None:
        """A descriptor that holds the lock, or None where somebody else does."""
        while True:
            descriptor = os.open(self._path(name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
                if os.path.samestat(os.fstat(descriptor), os.stat(self._path(name))):
                    return descriptor
            except FileNotFoundError:
                pass  # discarded between our opening and locking it: others would not see this lock
            except OSError as error:
                _close(descriptor)
                if error.errno in _CONFLICTS:
                    return None
                raise
            _close(descriptor)

    def release(self, name: str) -> None:
        """Give the lock back. The file stays: another process may be about to lock it."""
        with self._lock:
            descriptor = self._held.pop(name, None)
        if descriptor is not None:
            _close(descriptor)

    def pulse(self, name: str) -> int | None:
        """None where nobody holds the lock; otherwise the holder's beat."""
        try:
            descriptor = os.open(self._path(name), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        try:
            answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
            if _FLOCK.unpack(answer)[0] == fcntl.F_UNLCK:
                return None
            beat = os.pread(descriptor, 32, 0)
            return int(beat) if beat.strip().isdigit() else 0
        finally:
            os.close(descriptor)

    def inherited(self) -> tuple[int, ...]:
        """The descriptors of the locks held, for children that must not outlive them unlocked."""
        with self._lock:
            return tuple(self._held.values())

    def discard(self, name: str) -> None:
        """Remove the file of a lock that is never taken again, such as that of a dead process."""
        try:
            os.unlink(self._path(name))
        except FileNotFoundError:
            return

    def names(self) -> list[str]:
        """Every lock that ever was taken here and not discarded."""
        return os.listdir(self._folder)

    def _path(self, name: str) -> str:
        return os.path.join(self._folder, name)

    def _live(self) -> None:
        stop = threading.Event()
        while not stop.wait(self._beat_seconds):
            self._beat()

    def _beat(self) -> None:
        with self._lock:
            for descriptor in self._held.values():
                try:
                    beat = os.pread(descriptor, 32, 0)
                    os.pwrite(descriptor, b"%020d\n" % (int(beat or b"0") + 1), 0)
                except (OSError, ValueError):
                    continue  # a lock that was lost: whoever waits judges by the beat that stands still


def _close(descriptor: int) -> None:
    """Close the file of a lock, which frees it whatever is said. On NFS the error of a beat that came after the lock
    was lost is said here, also to others who open the file next; nothing was lost with that beat."""
    with contextlib.suppress(OSError):
        os.close(descriptor)
