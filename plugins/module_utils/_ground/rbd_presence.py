# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""Ends a process that librbd would keep for ever.

Nobody removes an image that a client has open for writing, unless the cluster has forgotten the client: its host stood
still for longer than a watch lasts. When such a client goes on, librbd (seen with Ceph 16.2) may wait without end for
what an image lets it do that is not there any more, in a call that nothing can break off. All that it was doing has
been taken back by then, so the process says so and ends, as if it had died when it was taken for dead.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

try:
    import rados  # type: ignore[import-not-found,import-untyped,unused-ignore]
except ImportError:
    rados = None

SECONDS = 10.0
"""Between two looks. An image that is missing at two of them is not one that is just being closed."""


def fail(sentence: str) -> None:
    """End this process as a module that fails, although one of its threads cannot be waited for."""
    sys.stdout.write(json.dumps({"failed": True, "msg": sentence}) + "\n")
    sys.stdout.flush()
    os._exit(1)


class Presence:
    """Watches over the images that this process has open for writing, through an open ``rados.Ioctx``."""

    def __init__(self, ioctx: Any) -> None:
        self._ioctx = ioctx
        self._changing = threading.Lock()
        self._open: dict[tuple[str, int], str] = {}
        self._missing: set[tuple[str, int]] = set()
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def of(self, image: Any, shown: str) -> Iterator[None]:
        """For as long as a block has the image open; ``shown`` is what messages call it."""
        key = f"rbd_header.{image.id()}", id(image)
        with self._changing:
            self._open[key] = shown
            if self._thread is None:
                self._thread = threading.Thread(target=self._live, name="open images", daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            with self._changing:
                del self._open[key]

    def _live(self) -> None:
        while True:
            time.sleep(SECONDS)
            with self._changing:  # so no connection is closed meanwhile
                if not self._open:
                    self._thread = None
                    return
                self._look()

    def _look(self) -> None:
        missing = {key for key in self._open if self._is_missing(key[0])}
        for key in missing & self._missing:
            fail(
                f"The image {self._open[key]} was removed while it was in use here: this host stood still for so long "
                "that it was taken for dead. Run the task again."
            )
        self._missing = missing

    def _is_missing(self, header: str) -> bool:
        try:
            self._ioctx.stat(header)
        except rados.ObjectNotFound:
            return True
        except rados.Error:  # no answer, which is no answer to this
            return False
        return False
