# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""The data of a disk, read to be written somewhere else while nobody uses the disk.

Read is what is allocated and nothing else, and all that is read is written: what a copy costs is known before it.
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

from .contents import Means
from .digest import BLOCK, data_extents, read_block
from .errors import BadInput, InUse, NotFound, StorageError
from .intake import Sink
from .ops import Facts
from .qcow2 import read_size
from .qcow2_clusters import clusters

_FLOCK = struct.Struct("hhqqi4x")
_USED, _UNSHARED = 100, 200
"""Where qemu locks a byte of an image for every right that it uses, and for every one that others may not use."""
_WRITE, _RESIZE = 1, 3
_COPIED = 1 << 16
"""What qemu's block copy goes by."""


@dataclass(frozen=True)
class Extent:
    """``length`` bytes of a disk from ``offset`` on, which stand at ``where`` of the file ``fd``; no ``fd`` means that
    they read as zeroes, whatever is under the disk."""

    offset: int
    length: int
    fd: int | None = None
    where: int = 0


class DiskReader(Protocol):
    """A disk that is kept from changing as long as it is open. ``size`` in bytes, as a guest sees it."""

    size: int

    def amount(self) -> int:
        """How many bytes there are to read."""

    def blocks(self) -> int:
        """How many bytes are in the blocks of which anything is told, zeroes, too: what qemu's block copy takes."""

    def pieces(self) -> Iterator[tuple[int, int, bytes | None]]:
        """Offset, length and data, None for zeroes; what is left out is as under the disk, or zeroes."""


class ExtentReader:
    """A disk whose data stands in open files."""

    def __init__(self, size: int, extents: Sequence[Extent]) -> None:
        self.size, self._extents = size, extents

    def amount(self) -> int:
        """See DiskReader."""
        return sum(extent.length for extent in self._extents if extent.fd is not None)

    def blocks(self) -> int:
        """See DiskReader."""
        total = end = 0
        for extent in self._extents:
            start = max(end, extent.offset // _COPIED * _COPIED)
            end = min(-(-(extent.offset + extent.length) // _COPIED) * _COPIED, self.size)
            total += max(0, end - start)
        return total

    def pieces(self) -> Iterator[tuple[int, int, bytes | None]]:
        """See DiskReader."""
        for extent in self._extents:
            if extent.fd is None:
                yield extent.offset, extent.length, None
                continue
            for start in range(0, extent.length, BLOCK):
                length = min(BLOCK, extent.length - start)
                yield extent.offset + start, length, read_block(extent.fd, extent.where + start, length)


def raw_disk(fd: int, size: int) -> ExtentReader:
    """All data of a raw disk."""
    return ExtentReader(size, list(_data(fd, 0, size)))


def own_data(fd: int, name: str) -> ExtentReader:
    """What the qcow2 disk ``fd`` has of its own, over its image."""
    return ExtentReader(read_size(fd, name), list(_own(fd, name)))


@contextmanager
def own_data_of(path: str) -> Iterator[DiskReader]:
    """What the qcow2 file at ``path`` has of its own, whatever it names as its image: that is not looked for. Raises
    NotFound where there is no file, InUse where a guest may write to it, StorageError for what cannot be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"There is no file {path}: give the path of a qcow2 file.") from None
    except OSError as error:
        raise StorageError(f"The file {path} cannot be opened: {error.strerror}.") from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise BadInput(f"{path} is no regular file: give the path of a qcow2 file.")
        keep_still(descriptor, f"The file {path}")
        yield own_data(descriptor, path)
    finally:
        os.close(descriptor)


def own_amount(fd: int, name: str) -> int | None:
    """How many bytes the qcow2 disk ``fd`` has of its own; None where only qemu can tell."""
    try:
        return own_data(fd, name).amount()
    except StorageError:
        return None


def qcow2_disk(fd: int, name: str, image: int | None) -> ExtentReader:
    """All that a guest reads of the qcow2 disk ``fd``, which stands on the raw file ``image``."""
    size = read_size(fd, name)
    extents: list[Extent] = []
    below = 0 if image is None else min(size, os.lseek(image, 0, os.SEEK_END))
    end = 0
    for extent in _own(fd, name):
        if image is not None:
            extents += _data(image, end, min(below, extent.offset))
        if extent.fd is not None:
            extents.append(extent)
        end = extent.offset + extent.length
    if image is not None:
        extents += _data(image, end, below)
    return ExtentReader(size, extents)


def _own(fd: int, name: str) -> Iterator[Extent]:
    """The clusters of a qcow2 file, neighbours joined."""
    last: Extent | None = None
    for offset, length, where in clusters(fd, name):
        new = Extent(offset, length) if where is None else Extent(offset, length, fd, where)
        if last is not None and _joined(last, new):
            last = Extent(last.offset, last.length + length, last.fd, last.where)
            continue
        if last is not None:
            yield last
        last = new
    if last is not None:
        yield last


def _joined(one: Extent, next: Extent) -> bool:
    """Whether the second goes on where the first ends, for a guest and in the file."""
    if one.fd != next.fd or one.offset + one.length != next.offset:
        return False
    return one.fd is None or one.where + one.length == next.where


def _data(fd: int, start: int, end: int) -> Iterator[Extent]:
    """What is no hole of a raw file. Of a device, which does not tell, it is all."""
    for first, stop in data_extents(fd, start, end):
        yield Extent(first, stop - first, fd, first)


def keep_still(fd: int, name: str) -> None:
    """No guest may write to the image file ``fd`` as long as it is open, by the locks that qemu itself goes by; on NFS
    they count on every host. Raises InUse where one does."""
    for right in (_WRITE, _RESIZE):
        try:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _lock(fcntl.F_RDLCK, _UNSHARED + right))
        except (BlockingIOError, PermissionError):
            raise InUse(f"{name} is in use by a process that locks it: stop what uses it.") from None
        answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _lock(fcntl.F_WRLCK, _USED + right))
        if _FLOCK.unpack(answer)[0] != fcntl.F_UNLCK:
            raise InUse(f"{name} is in use by a process that may write to it: stop what uses it.")


def _lock(kind: int, byte: int) -> bytes:
    return _FLOCK.pack(kind, os.SEEK_SET, byte, 1, 0)


class PatchSink(Sink, Protocol):
    """A clone as a sink: what is not written stays as the image has it, so zeroes have to be told."""

    def zero(self, offset: int, length: int) -> None:
        """Have ``length`` bytes from ``offset`` on read as zeroes."""


@dataclass(frozen=True)
class DiskData:
    """The data of a disk to fill a new volume with, or, where it is but what the disk has of its own, to write over a
    clone of the image that the disk stands on."""

    reading: Callable[[], AbstractContextManager[DiskReader]]

    def pour(self, sinks: Sequence[Sink], means: Means) -> Facts:
        """See Content. New volumes are zeroes where nothing is written."""
        moved = 0
        with self.reading() as source:
            for sink in sinks:
                sink.set_size(source.size)
            for offset, length, data in source.pieces():
                for sink in sinks:
                    if data is not None:
                        sink.write(offset, data)
                    elif hasattr(sink, "zero"):
                        sink.zero(offset, length)
                moved += length if data is not None else 0
                means.beat()
            for sink in sinks:
                sink.sync()
            return {"size": source.size, "bytes_read": moved, "bytes_written": moved * len(sinks)}
