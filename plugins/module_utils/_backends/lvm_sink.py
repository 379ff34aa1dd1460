# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""A logical volume that is being filled, as a sink."""

from __future__ import annotations

import os
from collections.abc import Callable

from .._ground.block_device import write_at
from .._ground.digest import Buffer

_FIRST = 1 << 30
"""Bytes of the volume for a source that does not tell its size; doubled whenever it turns out to be more."""


class LvSink:
    """``make`` gives a new volume of some bytes: its device and an open descriptor. ``resize`` changes its size, which
    is only asked of it where the source told none before its first byte."""

    def __init__(self, make: Callable[[int], tuple[str, int]], resize: Callable[[int], None]) -> None:
        self._make, self._resize = make, resize
        self._descriptor = -1
        self._size = 0
        self.path: str | None = None
        """The device, once there is one."""

    def set_size(self, size: int) -> None:
        """See Sink."""
        if self.path is None:
            self.path, self._descriptor = self._make(size)
        elif size != self._size:
            self._resize(size)
        self._size = size

    def write(self, offset: int, data: Buffer) -> None:
        """See Sink."""
        end = offset + len(data)
        if end > self._size:
            wanted = max(self._size, _FIRST)
            while wanted < end:
                wanted *= 2
            self.set_size(wanted)
        write_at(self._descriptor, data, offset)

    def sync(self) -> None:
        """See Sink."""
        if self._descriptor >= 0:
            os.fsync(self._descriptor)

    def close(self) -> None:
        """Let go of the device."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
