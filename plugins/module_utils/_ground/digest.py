# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""``content``: a digest of what a guest would read from a volume.

It does not depend on the format that the bytes are stored in, on where a file has holes, or on the order in which
they were written. So one digest serves an image in a file, in a logical volume and in Ceph, and it can be computed
while an image is written, by several threads, with zeroes costing next to nothing.

Its text form is ``content:v1:sha256:`` and 64 hexadecimal digits: the SHA-256 of

1. the 24 bytes ``virt.storage content v1`` and a zero byte,
2. the virtual size in bytes, as 8 bytes, most significant first,
3. for each block that has a byte other than zero, in ascending order: its number as 8 bytes, most significant
   first, and the 32 bytes of its SHA-256.

Block *n* is what a guest reads from byte *n* * 4 MiB on, 4 MiB or, for the last one, what is left of the virtual
size.
"""

from __future__ import annotations

import errno
import hashlib
import os
import struct
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Union

Buffer = Union[bytes, bytearray, memoryview]

BLOCK = 4 * 1024**2
"""Bytes in a block."""

ZEROES = bytes(BLOCK)
"""A block of zeroes, to compare with and to hand out for holes."""

_PREFIX = "content:v1:sha256:"
_SEED = b"virt.storage content v1\0"
_THREADS = 2  # Reading from the page cache and hashing a block cost about the same.


def is_zero(data: Buffer) -> bool:
    """Whether ``data``, at most a block, has no byte other than zero. Costs nothing when the first byte is one."""
    return data is ZEROES or ZEROES.startswith(data)


class ContentDigest:
    """The digest while its blocks come in, in any order and from any thread.

    :param size: virtual size in bytes; may be told as late as in ``finish``.
    """

    def __init__(self, size: int | None = None) -> None:
        self._size = size
        self._blocks: dict[int, bytes] = {}

    def add(self, offset: int, data: Buffer) -> None:
        """Take in the block that starts at byte ``offset``. Blocks of zeroes may be left out."""
        if offset % BLOCK or len(data) > BLOCK:
            raise ValueError("%d bytes at %d are not one block" % (len(data), offset))
        if not is_zero(data):
            self._blocks[offset // BLOCK] = hashlib.sha256(data).digest()

    def finish(self, size: int | None = None) -> str:
        """The text form."""
        size = self._size if size is None else size
        if size is None:
            raise ValueError("the virtual size was not told")
        whole = hashlib.sha256(_SEED + struct.pack(">Q", size))
        for number in sorted(self._blocks):
            whole.update(struct.pack(">Q", number) + self._blocks[number])
        return _PREFIX + whole.hexdigest()


def content_of_file(
    fd: int,
    size: int,
    *,
    beat: Callable[[], None] | None = None,
    each: Callable[[int, memoryview], None] | None = None,
) -> str:
    """The digest of the first ``size`` bytes of an open file or block device that holds raw content.

    What the file is shorter than ``size`` counts as zeroes. The descriptor's position is neither used nor moved,
    except to ask for holes; the file must not be written meanwhile.

    :param beat: called between blocks; may raise to cancel.
    :param each: called in this thread, in order, with the offset and the bytes of every block that is not zero:
        a further volume to write, say. The bytes are good only until it returns.
    """
    digest = ContentDigest(size)
    buffers = [bytearray(BLOCK) for _unused in range(_THREADS + 1)]

    def take(offset: int, buffer: bytearray) -> memoryview:
        view = _read_into(fd, offset, memoryview(buffer)[: min(BLOCK, size - offset)])
        digest.add(offset, view)
        return view

    with ThreadPoolExecutor(_THREADS) as pool:
        running: deque[tuple[int, bytearray, Future[memoryview]]] = deque()

        def settle() -> None:
            offset, buffer, future = running.popleft()
            view = future.result()
            if each is not None and not is_zero(view):
                each(offset, view)
            buffers.append(buffer)
            if beat is not None:
                beat()

        for offset in blocks_with_data(fd, size):
            if not buffers:
                settle()
            buffer = buffers.pop()
            running.append((offset, buffer, pool.submit(take, offset, buffer)))
        while running:
            settle()
    return digest.finish()


def read_block(fd: int, offset: int, length: int) -> bytes:
    """``length`` bytes from ``offset`` on; zeroes behind the end of the file."""
    return bytes(_read_into(fd, offset, memoryview(bytearray(length))))


def _read_into(fd: int, offset: int, view: memoryview) -> memoryview:
    filled = 0
    while filled < len(view):
        done = os.preadv(fd, [view[filled:]], offset + filled)
        if not done:
            view[filled:] = bytes(len(view) - filled)
            break
        filled += done
    return view


def blocks_with_data(fd: int, size: int) -> Iterator[int]:
    """Offsets of the blocks that are not wholly in a hole. Where holes cannot be seen, all of them."""
    offset = 0
    while offset < size:
        offset = next_data(fd, offset, size) // BLOCK * BLOCK
        if offset >= size:
            return
        yield offset
        offset += BLOCK


def next_data(fd: int, offset: int, size: int) -> int:
    """Where the next data starts at or behind ``offset``; ``size`` when there is none before it."""
    try:
        # The kernel answers 0 for some devices: never go back.
        return max(offset, min(os.lseek(fd, offset, os.SEEK_DATA), size))
    except OSError as error:
        # ENXIO: only a hole up to the end. Anything else: this kind of file does not tell.
        return size if error.errno == errno.ENXIO else offset


def data_extents(fd: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Where data begins and ends between two offsets. Where holes cannot be seen, all of it is data."""
    while start < end:
        start = next_data(fd, start, end)
        if start >= end:
            return
        try:
            stop = min(os.lseek(fd, start, os.SEEK_HOLE), end)
        except OSError:
            stop = end
        stop = stop if stop > start else end
        yield start, stop
        start = stop


def bytes_with_data(fd: int, size: int, piece: int) -> int:
    """How many bytes those pieces of ``piece`` bytes have that are not wholly in a hole."""
    total = counted = 0
    for start, stop in data_extents(fd, 0, size):
        first = max(counted, start // piece * piece)
        counted = max(counted, min(-(-stop // piece) * piece, size))
        total += max(0, counted - first)
    return total
