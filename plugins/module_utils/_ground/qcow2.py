# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""The header of a qcow2 file: reading it, and making a fresh overlay.

Nothing here finds out *whether* a volume is qcow2. A caller comes with a record (or agreeing
authorities) that says so; when the data does not fit that, the answer is ``LostMetadata``. No number
found in a file is used as a length before it is bounded, and no byte behind the header cluster is read.

All offsets and sizes are bytes. File descriptors are those of regular files or block devices, not
opened with ``O_DIRECT``; their own position is neither used nor moved.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from .errors import BadInput, LostMetadata, StorageError

MAX_NAME = 1023
"""Longest backing file name that the format allows, in bytes."""

BACKING_FORMATS = ("raw", "qcow2")
"""What a backing image may be in this collection."""

DIRTY, CORRUPT, DATA_FILE, COMPRESSION, EXTENDED_L2 = (1 << bit for bit in range(5))
"""The incompatible features that are known. A reader must refuse a file with any other bit."""

FORMAT_NAME = 0xE2792ACA
"""Type of the header extension that holds the format of the backing file."""

FEATURE_NAMES = 0x6803F857
"""Type of the one that names the feature bits, for error messages alone."""

_MAGIC = b"QFI\xfb"
_BASE = struct.Struct(">4sIQIIQIIQQIIQ")
_FEATURES = struct.Struct(">QQQII")
_EXTENSION = struct.Struct(">II")
_END = 0  # the type that ends the extensions
_SECTOR = 512  # a virtual size is a number of these
_L1_LIMIT = 32 << 20  # bytes of L1 table that qemu accepts
_ENTRY = 8  # bytes of an entry of an L1, L2 or refcount table
_REFCOUNT = 2  # bytes of a reference count in what we make


@dataclass(frozen=True)
class Extension:
    """One header extension: its type number and its data, without padding."""

    kind: int
    data: bytes


@dataclass(frozen=True)
class Header:
    """What the header cluster of a qcow2 file says. Offsets and sizes are bytes, ``l1_size`` is entries."""

    version: int
    length: int
    cluster_bits: int
    virtual_size: int
    crypt_method: int
    l1_size: int
    l1_offset: int
    refcount_offset: int
    refcount_clusters: int
    refcount_bits: int
    snapshots: int
    snapshots_offset: int
    incompatible: int
    compatible: int
    autoclear: int
    extensions: tuple[Extension, ...]
    extensions_end: int
    """Where the extensions end, counted without the end marker."""
    backing_file: str | None
    backing_offset: int
    """Where the backing name stands in the header cluster; 0 when there is none."""

    @property
    def cluster_size(self) -> int:
        """Bytes of a cluster."""
        return 1 << self.cluster_bits

    @property
    def backing_format(self) -> str | None:
        """The recorded format of the backing file, or None when the header leaves it open."""
        for extension in self.extensions:
            if extension.kind == FORMAT_NAME:
                return os.fsdecode(extension.data)
        return None


@dataclass(frozen=True)
class Pieces:
    """A file to be written: its length, and the few places in it that are not zero."""

    length: int
    virtual_size: int
    parts: tuple[tuple[int, bytes], ...]


def read_header(fd: int, name: str = "The volume") -> Header:
    """Read and check the header of the qcow2 file ``fd``; ``name`` begins the sentence of an error.

    Raises LostMetadata when this is not the qcow2 file that the caller was told it is.
    """
    return parse_header(read_cluster(fd, name), name)


def read_size(fd: int, name: str = "The volume") -> int:
    """The virtual size in bytes, by one read of 32 bytes."""
    start = os.pread(fd, 32, 0)
    _check_start(start, name)
    (size,) = struct.unpack_from(">Q", start, 24)
    return int(size)


def refuse_snapshots(header: Header, name: str) -> None:
    """Raise where the file has snapshots in it: they need the image as long as they are there, and no copy of the disk
    has them."""
    if header.snapshots:
        raise StorageError(
            f"{name} has snapshots of its guest in it ({header.snapshots}), which would be lost: delete them with "
            "'virsh snapshot-delete' or 'qemu-img snapshot -d', and run the task again."
        )


def overlay_image(
    virtual_size: int,
    backing_path: str | None,
    backing_format: str = "raw",
    cluster_size: int = 65536,
) -> Pieces:
    """A fresh, empty qcow2 file (version 3) over ``backing_path``; ``None`` makes one that stands alone.

    ``virtual_size`` is rounded up to whole sectors of 512 bytes, as the format cannot say less. In the
    file come, each from a cluster boundary on: the header, the refcount table, the refcount blocks and
    the L1 table, which is all zeroes and so is left out of the parts. Pure: nothing is opened, and
    nothing is asked about the backing file.
    """
    bits = cluster_size.bit_length() - 1
    if cluster_size != 1 << bits or not 9 <= bits <= 21:
        raise BadInput(f"A cluster size of {cluster_size} bytes was asked; use a power of two from 512 to 2097152.")
    if virtual_size <= 0:
        raise BadInput(f"A virtual size of {virtual_size} bytes was asked; a disk needs at least one byte.")
    virtual_size = _round_up(virtual_size, _SECTOR)
    l1_size = _ceil(virtual_size, cluster_size * (cluster_size // _ENTRY))
    if l1_size * _ENTRY > _L1_LIMIT:
        most = _L1_LIMIT // _ENTRY * cluster_size * (cluster_size // _ENTRY)
        raise BadInput(
            f"A virtual size of {virtual_size} bytes was asked; "
            f"with clusters of {cluster_size} bytes qcow2 holds at most {most}."
        )
    table, blocks, l1 = _metadata_clusters(l1_size, cluster_size)
    total = 1 + table + blocks + l1
    name = checked_path(backing_path) if backing_path is not None else b""
    extensions = pack_extensions((format_extension(backing_format),) if name else ())
    length = _BASE.size + _FEATURES.size
    name_at = length + len(extensions) if name else 0
    l1_offset = (1 + table + blocks) * cluster_size
    header = _BASE.pack(
        _MAGIC, 3, name_at, len(name), bits, virtual_size, 0, l1_size, l1_offset, cluster_size, table, 0, 0
    )
    header += _FEATURES.pack(0, 0, 0, (_REFCOUNT * 8).bit_length() - 1, length) + extensions + name
    if len(header) > cluster_size:
        raise BadInput(
            f"The header with its backing path takes {len(header)} bytes; "
            f"it must fit in one cluster of {cluster_size}: choose larger clusters or a shorter path."
        )
    entries = b"".join(struct.pack(">Q", (1 + table + block) * cluster_size) for block in range(blocks))
    # The blocks are neighbours, so the counts of all clusters are one run: each is used once.
    counts = b"\x00\x01" * total
    return Pieces(
        length=total * cluster_size,
        virtual_size=virtual_size,
        parts=((0, header), (cluster_size, entries), ((1 + table) * cluster_size, counts)),
    )


def write_pieces(fd: int, pieces: Pieces) -> None:
    """Write a new, empty regular file. Nothing is synced: the caller does that, for many files at once.

    What the parts leave out must read as zeroes, so a block device is cleared up to ``length`` first and
    then given the parts by itself.
    """
    os.ftruncate(fd, pieces.length)
    for offset, data in pieces.parts:
        pwrite(fd, data, offset)


def parse_header(cluster: bytes, name: str) -> Header:
    """Check a header cluster, take it apart; the work of ``read_header``."""
    fields = _BASE.unpack_from(cluster)
    version, name_at, name_length, bits, size, crypt = fields[1:7]
    l1_size, l1_offset, table_offset, table_clusters, snapshots, snapshots_offset = fields[7:]
    features = (0, 0, 0, 4, _BASE.size)
    if version == 3:
        features = _FEATURES.unpack_from(cluster, _BASE.size)
    incompatible, compatible, autoclear, refcount_order, length = features
    unknown = incompatible & ~(DIRTY | CORRUPT | DATA_FILE | COMPRESSION | EXTENDED_L2)
    if unknown:
        raise StorageError(f"{name} uses qcow2 features that are not known here (bits {unknown:#x}); leave it to qemu.")
    per_entry = len(cluster) * (len(cluster) // (2 * _ENTRY if incompatible & EXTENDED_L2 else _ENTRY))
    sound = {
        "header length": version == 2 or (104 <= length <= len(cluster) and length % 8 == 0),
        "refcount order": refcount_order <= 6,
        "encryption": crypt <= 2,
        "L1 table": l1_offset % len(cluster) == 0 and _ceil(size, per_entry) <= l1_size <= _L1_LIMIT // _ENTRY,
        "refcount table": table_offset > 0 and table_offset % len(cluster) == 0,
        "backing name": name_length <= MAX_NAME and name_at + name_length <= len(cluster),
    }
    for what, fine in sound.items():
        if not fine:
            raise _lost(name, f"its {what} is out of bounds")
    # The extensions run up to the backing name, where there is one, even when it has been emptied.
    extensions, end = parse_extensions(cluster, length, name_at or len(cluster), name)
    backing = cluster[name_at : name_at + name_length] if name_at else b""
    if b"\0" in backing or (backing and name_at < length):
        raise _lost(name, "its backing name is no file name")
    return Header(
        version=version,
        length=length,
        cluster_bits=bits,
        virtual_size=size,
        crypt_method=crypt,
        l1_size=l1_size,
        l1_offset=l1_offset,
        refcount_offset=table_offset,
        refcount_clusters=table_clusters,
        refcount_bits=1 << refcount_order,
        snapshots=snapshots,
        snapshots_offset=snapshots_offset,
        incompatible=incompatible,
        compatible=compatible,
        autoclear=autoclear,
        extensions=tuple(extensions),
        extensions_end=end,
        backing_file=os.fsdecode(backing) if backing else None,
        backing_offset=name_at if backing else 0,
    )


def parse_extensions(data: bytes, start: int, end: int, name: str) -> tuple[list[Extension], int]:
    """The extensions in ``data[start:end]``, and where they end."""
    found: list[Extension] = []
    while start + _EXTENSION.size <= end:
        kind, length = _EXTENSION.unpack_from(data, start)
        if kind == _END:
            break
        body = start + _EXTENSION.size
        if length > end - body:
            raise _lost(name, f"its header extension {kind:#x} runs out of the header")
        if any(extension.kind == kind for extension in found):
            raise _lost(name, f"its header extension {kind:#x} is there twice")
        found.append(Extension(kind, data[body : body + length]))
        start = _round_up(body + length, 8)
    return found, start


def pack_extensions(extensions: Sequence[Extension]) -> bytes:
    """The extension area, end marker included."""
    packed = bytearray()
    for extension in extensions:
        padding = bytes(-len(extension.data) % 8)
        packed += _EXTENSION.pack(extension.kind, len(extension.data)) + extension.data + padding
    return bytes(packed + _EXTENSION.pack(_END, 0))


def format_extension(backing_format: str) -> Extension:
    """The extension that says what the backing file is."""
    if backing_format not in BACKING_FORMATS:
        raise BadInput(f"A backing format {backing_format!r} was asked; it can be raw or qcow2.")
    return Extension(FORMAT_NAME, backing_format.encode())


def checked_path(path: str) -> bytes:
    """The bytes of a backing path, which must mean the same file to everyone who reads it.

    A relative one is seen from the overlay's folder. It begins with a dot and a slash, so that no part of it can be
    taken for a protocol (``nbd:...``).
    """
    encoded = os.fsencode(path)
    if not path.startswith(("/", "./", "../")) or b"\0" in encoded:
        raise BadInput(
            f"The backing path {path!r} is not absolute and does not begin with ./ or ../; "
            "qemu could take it for another file."
        )
    if len(encoded) > MAX_NAME:
        raise BadInput(
            f"The backing path has {len(encoded)} bytes, and qcow2 holds at most {MAX_NAME}; "
            f"use a pool with a shorter path: {path}"
        )
    return encoded


def _metadata_clusters(l1_size: int, cluster_size: int) -> tuple[int, int, int]:
    """How many clusters the refcount table, the refcount blocks and the L1 table need.

    The blocks count themselves and the table too, hence the loop; it ends because each round only adds
    what the round before left uncounted.
    """
    l1 = _ceil(l1_size * _ENTRY, cluster_size)
    table = blocks = 1
    while True:
        total = 1 + table + blocks + l1
        wanted = _ceil(total * _REFCOUNT, cluster_size)
        if wanted <= blocks:
            return table, blocks, l1
        blocks = wanted
        table = _ceil(blocks * _ENTRY, cluster_size)


def read_cluster(fd: int, name: str) -> bytes:
    """The header cluster, which is all that is ever read."""
    start = os.pread(fd, _BASE.size, 0)
    _check_start(start, name)
    (bits,) = struct.unpack_from(">I", start, 20)
    if not 9 <= bits <= 21:
        raise _lost(name, "its cluster size is out of bounds")
    cluster = os.pread(fd, 1 << bits, 0)
    if len(cluster) != 1 << bits:
        raise _lost(name, "its header is cut off")
    return cluster


def _check_start(start: bytes, name: str) -> None:
    if len(start) < 32 or start[:4] != _MAGIC:
        raise _lost(name, "it does not begin with a qcow2 header")
    (version,) = struct.unpack_from(">I", start, 4)
    if version not in (2, 3):
        raise _lost(name, f"its qcow2 version is {version}, not 2 or 3")


def _lost(name: str, found: str) -> LostMetadata:
    return LostMetadata(
        f"{name} is recorded as qcow2, but {found}; it was left alone: restore it, or correct its record."
    )


def pwrite(fd: int, data: bytes, offset: int) -> None:
    """Write all of ``data``, also when the kernel takes it in parts."""
    view = memoryview(data)
    while view:
        done = os.pwrite(fd, view, offset)
        view, offset = view[done:], offset + done


def _ceil(value: int, unit: int) -> int:
    return -(-value // unit)


def _round_up(value: int, unit: int) -> int:
    return _ceil(value, unit) * unit
