# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A block device that remembers what was written to it, in order, and gives what was on it at any moment.

The device mapper's ``log-writes`` target keeps the log: its format is that of the kernel's dm-log-writes.c, see
https://docs.kernel.org/admin-guide/device-mapper/log-writes.html.
"""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

FLUSH, FUA, DISCARD, MARK = 1, 2, 4, 8
MAGIC = 0x6A736677736872
SECTOR = 512


@dataclass(frozen=True)
class Entry:
    """One write to ``offset``, in bytes. Its ``length`` bytes are in the log at ``place``; a mark has a ``name``."""

    offset: int
    length: int
    flags: int
    place: int
    name: str = ""

    @property
    def barrier(self) -> bool:
        """Whether all that ended before this write was kept when it ended."""
        return bool(self.flags & (FLUSH | FUA))


class Recorder:
    """Records the writes to the first ``size`` bytes of one device on another."""

    def __init__(self, name: str, device: str, log: str, size: int) -> None:
        self.name, self.path, self._log, self._size = name, f"/dev/mapper/{name}", log, size
        program("blkdiscard", "--zeroout", "--length", str(size), device)
        program("dmsetup", "create", name, "--table", f"0 {size // SECTOR} log-writes {device} {log}")

    def mark(self, name: str) -> None:
        """Put a name to this moment; what was synced before is kept in it."""
        program("dmsetup", "message", self.name, "0", "mark", name)

    def end(self) -> None:
        """Stop recording. The device is gone, the log stays."""
        program("dmsetup", "remove", "--retry", self.name)

    def entries(self) -> list[Entry]:
        """All that was written, in the order in which it ended."""
        with open(self._log, "rb") as log:
            magic, version, count, size = struct.unpack("<QQQI", log.read(28))
            assert (magic, version) == (MAGIC, 1), f"{self._log} has no log of writes"
            return list(_entries(log, count, size))

    def replayed(self, entries: list[Entry], path: Path) -> None:
        """Do these writes to a file, a new one unless it is there; where nothing was written are zeroes."""
        path.touch()
        with open(self._log, "rb") as log, open(path, "r+b") as file:
            file.truncate(self._size)
            for entry in entries:
                if entry.length:
                    log.seek(entry.place)
                    file.seek(entry.offset)
                    file.write(bytes(entry.length) if entry.flags & DISCARD else log.read(entry.length))


def _entries(log: BinaryIO, count: int, size: int) -> Iterator[Entry]:
    """``size`` is that of a sector in the log: an entry fills one, what was written follows."""
    place = size
    for _number in range(count):
        log.seek(place)
        sector, sectors, flags, extra = struct.unpack("<4Q", log.read(32))
        name = log.read(extra).decode() if flags & MARK else ""
        place += size
        yield Entry(sector * size, sectors * size, flags, place, name)
        if not flags & DISCARD:
            place += sectors * size


def program(*argv: str) -> str:
    """Run a program that has to succeed; gives its output."""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"{' '.join(argv)}: {done.stderr}{done.stdout}"
    return done.stdout
