# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""The backing pointer of a qcow2 file: changing it in place, and putting it back.

A crash at any moment leaves the old pointer or the new one, never a mixture. The parts of the new header
outside its first sector go where the old header has nothing, and are made durable; then one write of the
first sector, which no disk tears, changes over. Where the extensions cannot be kept outside the first
sector as they are, the table of feature names is left out: it only serves error messages, and qemu adds
it again by itself.

Whoever calls has made sure that nobody has the file open, and that the guest reads the same bytes through
either pointer; and has recorded the old one (``read_pointer``) before it is changed, so that whoever
continues after a crash can go either way. No cluster behind the header is read or written.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from . import qcow2
from .errors import StorageError
from .qcow2 import Extension, Header

_SECTOR = 512  # the largest write that a power loss leaves either undone or done
_NAME_AT = struct.Struct(">QI")
_NAME_FIELDS = 8  # where in the header the offset and the length of the backing name are
_MARKER = 8  # bytes of the mark that ends the extensions


@dataclass(frozen=True)
class Pointer:
    """The backing pointer of a file as it stood: enough to put it back. Its fields fit into JSON as they are.

    ``offset`` is where the name stood; ``extensions`` is the extension area in hexadecimal digits.
    """

    backing_file: str | None
    backing_format: str | None
    offset: int
    extensions: str


def read_pointer(fd: int, name: str = "The volume") -> Pointer:
    """The backing pointer of the qcow2 file ``fd``; ``name`` begins the sentence of an error."""
    cluster = qcow2.read_cluster(fd, name)
    return _pointer(cluster, qcow2.parse_header(cluster, name))


def write_backing(fd: int, path: str, backing_format: str = "raw", name: str = "The volume") -> Pointer:
    """Make ``path`` the backing file of the qcow2 file ``fd``, durably; returns the pointer that it replaced."""
    backing = qcow2.checked_path(path)
    named = qcow2.format_extension(backing_format)
    cluster = qcow2.read_cluster(fd, name)
    header = qcow2.parse_header(cluster, name)
    if header.incompatible & qcow2.CORRUPT:
        raise StorageError(f"{name} is marked corrupt by qemu; repair it before its backing file is changed.")
    wanted = [named if extension.kind == named.kind else extension for extension in header.extensions]
    if named not in wanted:
        wanted.insert(0, named)
    if (path, backing_format) != (header.backing_file, header.backing_format):
        _switch(fd, cluster, header, wanted, backing, 0, name)
    os.fdatasync(fd)
    return _pointer(cluster, header)


def restore_pointer(fd: int, pointer: Pointer, name: str = "The volume") -> None:
    """Put ``pointer`` back, durably; doing so again is no harm.

    A header that nobody else changed in between becomes again what it was, bit for bit. When a program
    has written other extensions since (a bitmap, say), those stay and only the pointer goes back.
    """
    cluster = qcow2.read_cluster(fd, name)
    header = qcow2.parse_header(cluster, name)
    area = bytes.fromhex(pointer.extensions)
    wanted, _end = qcow2.parse_extensions(area, 0, len(area), name)
    if _unrelated(wanted) != _unrelated(header.extensions):
        named = [extension for extension in wanted if extension.kind == qcow2.FORMAT_NAME]
        wanted = named + [extension for extension in header.extensions if extension.kind != qcow2.FORMAT_NAME]
    if _pointer(cluster, header) != pointer:
        backing = os.fsencode(pointer.backing_file or "")
        _switch(fd, cluster, header, wanted, backing, pointer.offset, name)
    os.fdatasync(fd)


def _switch(
    fd: int,
    cluster: bytes,
    header: Header,
    extensions: Sequence[Extension],
    backing: bytes,
    wish: int,
    name: str,
) -> None:
    """Change over to ``extensions`` and the name ``backing``, which goes to offset ``wish`` if it can."""
    area = _fitting_area(cluster, header, extensions, name)
    start = _place(header, len(area), len(backing), wish, name) if backing else 0
    new = bytearray(cluster)
    new[: len(area)] = area
    new[len(area) : _SECTOR] = bytes(max(0, _SECTOR - len(area)))
    new[start : start + len(backing)] = backing
    _NAME_AT.pack_into(new, _NAME_FIELDS, start, len(backing))
    low, end = max(start, _SECTOR), start + len(backing)
    if low < end:
        qcow2.pwrite(fd, bytes(new[low:end]), low)
        os.fdatasync(fd)
    qcow2.pwrite(fd, bytes(new[:_SECTOR]), 0)
    os.fdatasync(fd)
    # Now nobody needs the old name. Clearing it lets the way back leave no trace of the way there.
    low, high = max(header.backing_offset, len(area), _SECTOR), header.backing_offset + _length(header)
    if low < high and (high <= start or end <= low):
        qcow2.pwrite(fd, bytes(high - low), low)


def _fitting_area(cluster: bytes, header: Header, extensions: Sequence[Extension], name: str) -> bytes:
    """Header and extensions, of which nothing outside the first sector differs from what is there."""
    area = b""
    for chosen in (extensions, [extension for extension in extensions if extension.kind != qcow2.FEATURE_NAMES]):
        area = cluster[: header.length] + qcow2.pack_extensions(chosen)
        if area[_SECTOR:] == cluster[_SECTOR : len(area)] and len(area) <= len(cluster):
            return area
    raise StorageError(
        f"{name} has a header of {len(area)} bytes, and its backing pointer can be changed safely only "
        f"in the first {_SECTOR}; use qemu-img rebase -u while the guest is off."
    )


def _place(header: Header, area_end: int, length: int, wish: int, name: str) -> int:
    """An offset for a name of ``length`` bytes that overwrites nothing which the old header still needs."""
    old_end = header.backing_offset + _length(header)
    used = max(area_end, header.extensions_end + _MARKER)
    for start in (wish, area_end, used, max(used, old_end)):
        end = start + length
        # Inside the first sector everything changes at once; outside, old and new must be apart.
        low = max(start, _SECTOR)
        apart = low >= used and (end <= header.backing_offset or low >= old_end)
        if area_end <= start and end <= header.cluster_size and (end <= _SECTOR or apart):
            return start
    raise StorageError(
        f"{name} has no room for a backing path of {length} bytes in its header cluster of "
        f"{header.cluster_size}; use a shorter path."
    )


def _length(header: Header) -> int:
    """Bytes of the backing name."""
    return len(os.fsencode(header.backing_file or ""))


def _pointer(cluster: bytes, header: Header) -> Pointer:
    area = cluster[header.length : header.extensions_end]
    return Pointer(header.backing_file, header.backing_format, header.backing_offset, area.hex())


def _unrelated(extensions: Sequence[Extension]) -> list[Extension]:
    """The extensions that a change of pointer carries along."""
    return [extension for extension in extensions if extension.kind not in (qcow2.FORMAT_NAME, qcow2.FEATURE_NAMES)]
