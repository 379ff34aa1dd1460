# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""Hashing a source's bytes in the pass that reads them."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Collection
from concurrent.futures import Future
from typing import Any

from .command import Beat
from .digest import BLOCK, Buffer
from .sources import Source
from .work import Lane, Ring


class HashedSource:
    """Reads a source, and hashes what is read: one thread for each algorithm, beside the one that reads.

    :param alive: called before each read; may raise to cancel.
    """

    def __init__(self, source: Source, algorithms: Collection[str], alive: Beat) -> None:
        self._source = source
        self._alive = alive
        self._hashes = {name: hashlib.new(name) for name in sorted(algorithms)}
        self._lanes = {name: Lane() for name in self._hashes}
        self._reader: threading.Thread | None = None
        self._stopped = threading.Event()
        self._error: BaseException | None = None
        self._digests: dict[str, str] = {}
        self.position = 0
        """Bytes read so far."""
        self.hashing: list[Future[Any]] = []
        """What still reads the bytes that came last."""

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes of the source; none at the end."""
        self._alive()
        data = self._source.read(size)
        self.position += len(data)
        self._hash(data)
        return data

    def block(self, buffer: bytearray) -> memoryview:
        """The next bytes, mostly in ``buffer``, which is in use until all of ``hashing`` is done."""
        self._alive()
        view = self._source.block(buffer)
        self.position += len(view)
        self._hash(view)
        return view

    def _hash(self, data: Buffer) -> None:
        self.hashing = [lane.do(self._hashes[name].update, data) for name, lane in self._lanes.items()]

    def read_all(self) -> None:
        """Start to read and hash everything in a thread. Whoever uses the source's descriptor meanwhile must not
        use its position."""
        self._reader = threading.Thread(target=self._read_all, daemon=True)
        self._reader.start()

    def _read_all(self) -> None:
        try:
            ring = Ring(3, BLOCK)
            while not self._stopped.is_set():
                buffer = ring.next()
                if not self.block(buffer):
                    break
                ring.busy(buffer, self.hashing)
        except BaseException as error:  # noqa: BLE001 - it is raised again by digests()
            self._error = error

    def digests(self) -> dict[str, str]:
        """Algorithm -> hexadecimal digest, when all has been read."""
        if not self._digests:
            if self._reader is not None:
                self._reader.join()
            if self._error is not None:
                raise self._error
            for lane in self._lanes.values():
                lane.finish()
            self._digests = {name: digest.hexdigest() for name, digest in self._hashes.items()}
        return dict(self._digests)

    def stop(self) -> None:
        """End the threads. The source is not used any more on return."""
        self._stopped.set()
        if self._reader is not None:
            self._reader.join()
        for lane in self._lanes.values():
            with contextlib.suppress(Exception):
                lane.close()
