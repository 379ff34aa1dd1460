# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""Making a qcow2 file independent of the raw image under it, in place, so that it may be broken off at any point.

``qemu-img rebase`` takes the pointer to the image away while the tables that say where the copied data is are still
in memory: killed in that moment it leaves a disk that reads as zeroes, and one that looks finished. So the data comes
first, through qemu's copy-on-read, and is made durable; the pointer goes last, in one write of one sector.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence

from .command import Limits, Runner
from .digest import BLOCK, data_extents, is_zero, read_block
from .errors import LostMetadata, StorageError
from .qcow2 import read_header, refuse_snapshots
from .qcow2_clusters import clusters
from .qcow2_pointer import Pointer, restore_pointer

_NONE = Pointer(None, None, 0, "")
_SECTOR = 512
_PIECE = 16 << 20
"""Bytes that one command copies; qemu-io holds them in memory."""


def image_below(fd: int, name: str) -> str | None:
    """The raw image that the qcow2 file ``fd`` names, as it stands there; None where it needs none.

    Raises LostMetadata where the header leaves the image's format open, or says another than images have.
    """
    header = read_header(fd, name)
    if header.backing_file is not None and header.backing_format != "raw":
        raise LostMetadata(
            f"{name} stands on {header.backing_file}, of format {header.backing_format or 'unknown'}, but images are "
            "raw; it was left alone: correct its header or its record."
        )
    return header.backing_file


def copy_up(
    path: str,
    image: str,
    size: int,
    runner: Runner,
    limits: Limits,
    pass_fds: Sequence[int] = (),
    beat: Callable[[], None] | None = None,
) -> None:
    """Copy what ``image`` holds, and the qcow2 file ``path`` of ``size`` bytes does not, into it; nothing is synced.

    Both are opened by the names given here and in the formats that are known; the pointer in the header is not
    followed. Raises StorageError where the file has snapshots in it, CommandFailed, also where somebody else has the
    file open, or OutOfSpace.
    """
    with open(path, "rb") as file:
        refuse_snapshots(read_header(file.fileno(), path), path)
    graph = {
        "driver": "copy-on-read",
        "file.driver": "qcow2",
        "file.file.driver": _driver(path),
        "file.file.filename": path,
        "file.backing.driver": "raw",
        "file.backing.file.driver": _driver(image),
        "file.backing.file.filename": image,
    }
    options = ",".join("{}={}".format(key, value.replace(",", ",,")) for key, value in graph.items())
    commands = "".join(f"read -q {start} {length}\n" for start, length in _data_of(image, size))
    runner.run(["qemu-io", "--image-opts", options], limits=limits, input=commands, pass_fds=pass_fds, beat=beat)


def to_copy_up(fd: int, name: str, image: int) -> int | None:
    """How many bytes ``copy_up`` adds to the qcow2 file ``fd``: the clusters that it lacks and ``image`` has data in;
    None where only qemu can tell. Raises StorageError where ``copy_up`` would, for the file has snapshots in it."""
    header = read_header(fd, name)
    refuse_snapshots(header, name)
    unit, size = header.cluster_size, header.virtual_size
    end = min(size, os.lseek(image, 0, os.SEEK_END))
    needed = bytearray(-(-end // unit))
    for start, stop in data_extents(image, 0, end):
        first, behind = start // unit, -(-stop // unit)
        needed[first:behind] = b"\1" * (behind - first)
    try:
        for offset, _length, _where in clusters(fd, name):
            if offset // unit < len(needed):
                needed[offset // unit] = 0
    except StorageError:
        return None
    past_the_end = max(0, len(needed) * unit - size) if needed and needed[-1] else 0
    return sum(needed) * unit - past_the_end


def drop_pointer(fd: int, name: str) -> None:
    """Take the pointer away, durably. What the image held has to be in the file, and durable, before."""
    restore_pointer(fd, _NONE, name)


def _driver(path: str) -> str:
    """How qemu opens the name, without looking at what is in it."""
    return "host_device" if stat.S_ISBLK(os.stat(path).st_mode) else "file"


def _data_of(image: str, size: int) -> Iterator[tuple[int, int]]:
    """Offset and length, in whole sectors, of the pieces of the image that are data, up to ``size``."""
    descriptor = os.open(image, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        end = min(size, os.lseek(descriptor, 0, os.SEEK_END))
        find = _pieces if stat.S_ISBLK(os.fstat(descriptor).st_mode) else _extents
        for offset, stop in find(descriptor, end):
            start = offset // _SECTOR * _SECTOR
            yield start, min(-(-stop // _SECTOR) * _SECTOR, size) - start
    finally:
        os.close(descriptor)


def _extents(descriptor: int, end: int) -> Iterator[tuple[int, int]]:
    """What is no hole of a file."""
    for start, stop in data_extents(descriptor, 0, end):
        for offset in range(start, stop, _PIECE):
            yield offset, min(offset + _PIECE, stop)


def _pieces(descriptor: int, end: int) -> Iterator[tuple[int, int]]:
    """What is not zero of a device, which has no holes to tell of."""
    for offset in range(0, end, BLOCK):
        length = min(BLOCK, end - offset)
        if not is_zero(read_block(descriptor, offset, length)):
            yield offset, offset + length
