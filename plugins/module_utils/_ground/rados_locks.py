# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""Locks for processes on one or more hosts, as advisory locks of RADOS on a few objects.

A lock lasts for a while from its last renewal, by the clock of the OSD, and a thread of the holder renews it: that is
its beat, and how long it will last is the number that others see going on. Locks order work and carry no safety: a
holder that was frozen for too long is not told that it lost one.

OSDs do this in their class ``lock``, which keeps a lock as an attribute of the object. It is called here with what
``rados_lock_exclusive`` sends: the bindings leave the microseconds of a duration to chance, and cannot take the lock
and remove what stays of it in one step.
"""

from __future__ import annotations

import contextlib
import errno
import secrets
import struct
import threading
import time
from typing import Any
from zlib import crc32

from .ceph import told, translated
from .errors import NotFound

try:
    import rados  # type: ignore[import-not-found,import-untyped,unused-ignore]
except ImportError:
    rados = None

_CLASS = "lock"
_ATTRIBUTE = "lock."
_EXCLUSIVE = 1
_MAY_RENEW = 1
_CONFLICTS = (errno.EBUSY, errno.EEXIST)
_REPLY_LIMIT = 1 << 20
"""The most bytes of a reply: the names of ten thousand locks on one object."""
_HEADER = 6
"""The bytes before each structure: its version, the oldest that can read it, and the length of the rest."""

BEATS = 10
"""For how many beats a lock lasts after the last one."""
SHORTEST = 2.0
"""The fewest seconds that a lock lasts, whatever the beat: an OSD may be busy for that long."""


class RadosLocks:
    """The locks of a pool, spread over the objects ``<prefix>0`` to ``<prefix><count - 1>``."""

    def __init__(self, ioctx: Any, prefix: str, count: int, beat_seconds: float = 2.0) -> None:
        self.seconds = max(BEATS * beat_seconds, SHORTEST)
        """For how long a lock outlives its holder."""
        self._ioctx = ioctx
        self._objects = tuple(f"{prefix}{number}" for number in range(count))
        self._beat_seconds = beat_seconds
        self._cookie = secrets.token_hex(8)
        self._held: set[str] = set()
        self._lock = threading.Lock()
        self._heart: threading.Thread | None = None

    def hold(self, name: str) -> bool:
        """Take the lock without waiting; whether it is the caller's now. Two tasks of one process exclude each other,
        too: the second is refused."""
        with self._lock:
            if name in self._held or not self._taken(name):
                return False
            self._held.add(name)
            if self._heart is None:
                self._heart = threading.Thread(target=self._live, name="RADOS lock beats", daemon=True)
                self._heart.start()
            return True

    def release(self, name: str) -> None:
        """Give the lock back. One that cannot be given back, because nothing answers, ends by itself."""
        with self._lock:
            if name in self._held:
                self._held.remove(name)
                with contextlib.suppress(rados.Error), rados.WriteOpCtx() as op:
                    op.execute(_CLASS, "unlock", _structure(_text(name), _text(self._cookie)))
                    op.rm_xattr(_ATTRIBUTE + name)
                    self._ioctx.operate_write_op(op, self._object(name))

    def close(self) -> None:
        """Give all locks back. Librados crashes where a beat comes after the connection was closed."""
        for name in tuple(self._held):
            self.release(name)

    def pulse(self, name: str) -> int | None:
        """None where nobody holds the lock; otherwise the holder's beat."""
        try:
            with told(f"look at the lock {name}"):
                reply = self._ioctx.execute(self._object(name), _CLASS, "get_info", _structure(_text(name)))[1]
        except NotFound:
            return None
        return _lasts_until(reply)

    def names(self) -> list[str]:
        """Every lock that is held, or that was and could not be given back."""
        found: list[str] = []
        for place in self._objects:
            try:
                with told("list the locks"):
                    found += _texts(self._ioctx.execute(place, _CLASS, "list_locks", b"", _REPLY_LIMIT)[1])
            except NotFound:
                continue
        return found

    def sweep(self) -> None:
        """Remove what is left of locks that nobody holds: taken and removed in one step, so it is nobody's."""
        for name in self.names():
            self._taken(name, and_removed=True)

    def destroy(self) -> None:
        """Remove the objects, and with them all locks, those that are held here, too."""
        with self._lock:
            self._held.clear()
        for place in self._objects:
            with told(f"remove the object {place}"), contextlib.suppress(rados.ObjectNotFound):
                self._ioctx.remove_object(place)

    def _taken(self, name: str, *, and_removed: bool = False) -> bool:
        """Take the lock, for good or for this moment; False where anybody holds it."""
        try:
            with rados.WriteOpCtx() as op:
                op.execute(_CLASS, "lock", self._request(name))
                if and_removed:
                    op.rm_xattr(_ATTRIBUTE + name)
                self._ioctx.operate_write_op(op, self._object(name))
            return True
        except rados.Error as error:
            if error.errno in _CONFLICTS:
                return False
            raise translated(f"take the lock {name}", error) from error

    def _request(self, name: str, flags: int = 0) -> bytes:
        """What the method ``lock`` is given: name, type, cookie, tag, description, duration, flags."""
        whole = int(self.seconds)
        duration = struct.pack("<II", whole, int((self.seconds - whole) * 1e9))
        kind, flag = bytes([_EXCLUSIVE]), bytes([flags])
        return _structure(_text(name), kind, _text(self._cookie), _text(""), _text(""), duration, flag)

    def _object(self, name: str) -> str:
        return self._objects[crc32(name.encode()) % len(self._objects)]

    def _live(self) -> None:
        while True:
            time.sleep(self._beat_seconds)
            with self._lock:
                if not self._held:
                    self._heart = None
                    return
                self._beat()

    def _beat(self) -> None:
        """Renew all that is held, at the same time. A lock that ran out is taken again, unless somebody else has it.
        Errors are nobody's failure: whoever waits judges by the beat that stands still."""
        under_way = []
        for name in self._held:
            with contextlib.suppress(rados.Error), rados.WriteOpCtx() as op:
                op.execute(_CLASS, "lock", self._request(name, _MAY_RENEW))
                under_way.append(self._ioctx.operate_aio_write_op(op, self._object(name)))
        for completion in under_way:
            completion.wait_for_complete()


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<I", len(data)) + data


def _structure(*fields: bytes) -> bytes:
    data = b"".join(fields)
    return struct.pack("<BBI", 1, 1, len(data)) + data


def _lasts_until(reply: bytes) -> int | None:
    """When the first of a lock's holders loses it unless it renews it, in nanoseconds of the OSD's clock; None where
    there is no holder. The reply is a map of (client, cookie) to (end, address, description)."""
    (holders,) = struct.unpack_from("<I", reply, _HEADER)
    if not holders:
        return None
    client = _HEADER + 4
    (length,) = struct.unpack_from("<I", reply, client + 2)
    seconds, nanoseconds = struct.unpack_from("<II", reply, client + _HEADER + length + _HEADER)
    end: int = seconds * 10**9 + nanoseconds
    return end


def _texts(reply: bytes) -> list[str]:
    """A structure that is a list of texts."""
    (count,) = struct.unpack_from("<I", reply, _HEADER)
    place, found = _HEADER + 4, []
    for _unused in range(count):
        (length,) = struct.unpack_from("<I", reply, place)
        found.append(reply[place + 4 : place + 4 + length].decode(errors="replace"))
        place += 4 + length
    return found
