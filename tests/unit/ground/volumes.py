# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Volumes to take images into."""

from __future__ import annotations

import os
from pathlib import Path


class FileSink:
    """A sparse file."""

    def __init__(self, path: Path) -> None:
        self.path: str | None = str(path)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)

    def set_size(self, size: int) -> None:
        os.ftruncate(self._fd, size)

    def write(self, offset: int, data: bytes) -> None:
        assert os.pwrite(self._fd, data, offset) == len(data)

    def sync(self) -> None:
        os.fsync(self._fd)

    def close(self) -> None:
        os.close(self._fd)


class MemorySink:
    """A volume that no program can open, as one in Ceph is."""

    path: str | None = None

    def __init__(self) -> None:
        self.data = bytearray()
        self.writes = 0
        self.synced = False

    def set_size(self, size: int) -> None:
        assert size >= len(self.data)
        self.data += bytes(size - len(self.data))

    def write(self, offset: int, data: bytes) -> None:
        assert not any(self.data[offset : offset + len(data)])
        self.data[len(self.data) :] = bytes(max(0, offset + len(data) - len(self.data)))
        self.data[offset : offset + len(data)] = data
        self.writes += 1

    def sync(self) -> None:
        self.synced = True
