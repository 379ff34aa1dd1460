# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""The data clusters of a qcow2 file: finding them, and giving some to a fresh overlay.

As with the header (``qcow2``), a caller comes with a record that says qcow2. No guest can write the tables; still no
number in them is used before it is bounded. All offsets and sizes are bytes.
"""

from __future__ import annotations

import os
import struct
from array import array
from collections.abc import Iterator

from .digest import Buffer, read_block
from .errors import LostMetadata, StorageError
from .qcow2 import CORRUPT, DATA_FILE, EXTENDED_L2, Header, pwrite, read_header, refuse_snapshots

_OFFSET = 0x00FFFFFFFFFFFE00
_COMPRESSED, _USED_ONCE = 1 << 62, 1 << 63
_ZERO = 1
_ENTRY = 8


def clusters(fd: int, name: str) -> Iterator[tuple[int, int, int | None]]:
    """Where a guest sees each cluster that the file has of its own, its length, and where it stands in the file; None
    where the file says that it is zero. In the guest's order; the last one ends where the disk ends.

    Raises StorageError for what only qemu can read, LostMetadata for tables that cannot be.
    """
    header = read_header(fd, name)
    _refuse_foreign(header, name)
    refuse_snapshots(header, name)
    size, end = header.cluster_size, os.lseek(fd, 0, os.SEEK_END)
    per_table = size // _ENTRY
    needed = -(-header.virtual_size // (size * per_table))
    for number, entry in enumerate(_table(fd, header.l1_offset, needed, end, name)):
        at = entry & _OFFSET
        if not at:
            continue
        for place, entry in enumerate(_table(fd, at, per_table, end, name)):
            offset = (number * per_table + place) * size
            if not entry or offset >= header.virtual_size:
                continue
            where = entry & _OFFSET
            if entry & _COMPRESSED:
                raise StorageError(f"{name} has compressed clusters, which only qemu reads: convert it first.")
            length = min(size, header.virtual_size - offset)
            if entry & _ZERO:
                yield offset, length, None
            elif where % size or where + length > end:
                raise _lost(name)
            elif where:
                yield offset, length, where


def _refuse_foreign(header: Header, name: str) -> None:
    if header.crypt_method or header.incompatible & (CORRUPT | DATA_FILE | EXTENDED_L2):
        raise StorageError(
            f"{name} is encrypted, damaged, or has its data elsewhere, so that it cannot be copied here: have qemu-img "
            "check look at it, or convert it first."
        )


def _table(fd: int, offset: int, entries: int, end: int, name: str) -> Iterator[int]:
    if offset % 512 or offset + entries * _ENTRY > end:
        raise _lost(name)
    data = read_block(fd, offset, entries * _ENTRY)
    return iter(struct.unpack(f">{entries}Q", data)) if any(data) else iter(())


def _lost(name: str) -> LostMetadata:
    return LostMetadata(f"{name} is recorded as qcow2, but its tables point out of it: have qemu-img check look at it.")


class OverlaySink:
    """A fresh overlay, open for writing, as a sink: what is not written stays as its image has it.

    New clusters come one behind the other. The tables are kept in memory and written by ``sync``, once; an overlay
    that is not synced is of no use.
    """

    path: str | None = None

    def __init__(self, fd: int, name: str, image: int) -> None:
        """``image`` is open for reading: of a cluster that is written in part, the rest is the image's."""
        self._fd, self._name, self._image = fd, name, image
        self._header = read_header(fd, name)
        self._size = self._header.cluster_size
        self._next = -(-os.lseek(fd, 0, os.SEEK_END) // self._size)
        self._tables: dict[int, array[int]] = {}

    def set_size(self, size: int) -> None:
        """See Sink. It has been made with its size."""
        if size > self._header.virtual_size:
            raise StorageError(f"{self._name} has {self._header.virtual_size} bytes, and {size} are to be written.")

    def write(self, offset: int, data: Buffer) -> None:
        """See Sink."""
        view = memoryview(data)
        while view:
            skip = offset % self._size
            length = min(self._size - skip, len(view))
            table, place = self._entry(offset)
            if table[place] & _OFFSET:
                pwrite(self._fd, bytes(view[:length]), (table[place] & _OFFSET) + skip)
            elif skip == 0 and len(view) >= self._size:
                length = self._write_new(offset, view)
            else:
                self._write_part(table, place, offset - skip, skip, view[:length])
            view, offset = view[length:], offset + length

    def zero(self, offset: int, length: int) -> None:
        """See PatchSink."""
        end = offset + length
        while offset < end:
            step = min(self._size - offset % self._size, end - offset)
            table, place = self._entry(offset)
            last = end == self._header.virtual_size and offset % self._size == 0
            if step == self._size or last:
                table[place] = _ZERO
            else:
                self.write(offset, bytes(step))
            offset += step

    def _entry(self, offset: int) -> tuple[array[int], int]:
        per_table = self._size // _ENTRY
        number, place = divmod(offset // self._size, per_table)
        if number not in self._tables:
            self._tables[number] = array("Q", bytes(self._size))
        return self._tables[number], place

    def _take(self, count: int = 1) -> int:
        """Where ``count`` new clusters stand."""
        at, self._next = self._next * self._size, self._next + count
        return at

    def _write_new(self, offset: int, view: memoryview) -> int:
        """Whole clusters that are all new, as many as there are; gives how many bytes."""
        count = 0
        start = self._next
        while len(view) >= (count + 1) * self._size:
            table, place = self._entry(offset + count * self._size)
            if table[place]:
                break
            table[place] = ((start + count) * self._size) | _USED_ONCE
            count += 1
        if not count:  # it was told to be zero before
            table, place = self._entry(offset)
            table[place], count = self._next * self._size | _USED_ONCE, 1
        pwrite(self._fd, bytes(view[: count * self._size]), self._take(count))
        return count * self._size

    def _write_part(self, table: array[int], place: int, start: int, skip: int, data: memoryview) -> None:
        """A new cluster of which only a part is given."""
        whole = bytearray(self._size if table[place] & _ZERO else read_block(self._image, start, self._size))
        whole[skip : skip + len(data)] = data
        at = self._take()
        pwrite(self._fd, bytes(whole), at)
        table[place] = at | _USED_ONCE

    def sync(self) -> None:
        """See Sink."""
        top = array("Q", bytes(self._header.l1_size * _ENTRY))
        for number, table in sorted(self._tables.items()):
            at = self._take()
            pwrite(self._fd, _packed(table), at)
            top[number] = at | _USED_ONCE
        self._count()
        pwrite(self._fd, _packed(top), self._header.l1_offset)
        os.fsync(self._fd)

    def _count(self) -> None:
        """New reference counts, behind all else, instead of those that the overlay was made with: every cluster is
        used once, but for those that held the old ones."""
        header, size = self._header, self._size
        old = range(header.refcount_offset // size, header.l1_offset // size)
        blocks = tables = 1
        while True:
            total = self._next + tables + blocks
            enough = -(-total * 2 // size), -(-blocks * _ENTRY // size)
            if enough <= (blocks, tables):
                break
            blocks, tables = max(blocks, enough[0]), max(tables, enough[1])
        counts = bytearray(b"\0\1" * total) + bytes(blocks * size - total * 2)
        for number in old:
            counts[2 * number + 1] = 0
        at = self._take(tables + blocks)
        entries = array("Q", (at + (tables + number) * size for number in range(blocks)))
        pwrite(self._fd, _packed(entries).ljust(tables * size, b"\0"), at)
        pwrite(self._fd, bytes(counts), at + tables * size)
        pwrite(self._fd, struct.pack(">QI", at, tables), 48)


def _packed(entries: array[int]) -> bytes:
    return struct.pack(f">{len(entries)}Q", *entries)
