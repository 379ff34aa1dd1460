# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""An open RBD image as something to read from and to write to: by whole blocks, several of them at a time."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from .ceph import told, translated
from .command import Beat
from .digest import BLOCK, Buffer, ContentDigest, is_zero
from .inspection import round_up

try:
    import rbd  # type: ignore[import-not-found,import-untyped,unused-ignore]
except ImportError:
    rbd = None

_AHEAD = 6
"""Blocks that are read, or wait to be taken, at a time."""
_IN_FLIGHT = 16 << 20
"""Bytes that are written and not yet confirmed."""
_FIRST_SIZE = 1 << 30


class RbdReader:
    """An image, open at a snapshot, as raw content."""

    def __init__(self, image: Any) -> None:
        self._image = image
        self._end: int = image.size()
        self.size = round_up(self._end)

    def content(self, beat: Beat, each: Callable[[int, memoryview], None] | None = None) -> str:
        """See RawReader. Only blocks in which something is allocated are read."""
        digest = ContentDigest(self.size)
        running: deque[tuple[int, Future[bytes]]] = deque()

        def settle() -> None:
            offset, future = running.popleft()
            block = future.result()
            if each is not None and not is_zero(block):
                each(offset, memoryview(block))
            beat()

        with told("read the image"), ThreadPoolExecutor(_AHEAD) as threads:
            for offset in self._allocated():
                if len(running) == _AHEAD:
                    settle()
                running.append((offset, threads.submit(self._take, digest, offset)))
            while running:
                settle()
        return digest.finish()

    def _take(self, digest: ContentDigest, offset: int) -> bytes:
        block: bytes = self._image.read(offset, min(BLOCK, self._end - offset))
        block += bytes(-len(block) % 512)
        digest.add(offset, block)
        return block

    def allocated(self, piece: int = 1) -> int:
        """See RawReader. Only whole blocks can be told apart."""
        return sum(min(BLOCK, self.size - offset) for offset in self._allocated())

    def _allocated(self) -> list[int]:
        """Offsets of the blocks that the image or its parents have anything of, in order.

        By whole objects, which the object map can tell without asking the OSDs for each: nothing that has data is left
        out, and what turns out to be zero costs a read.
        """
        found: set[int] = set()

        def note(offset: int, length: int, exists: bool) -> None:
            if exists:
                found.update(range(offset // BLOCK, -(-(offset + length) // BLOCK)))

        self._image.diff_iterate(0, self._end, None, note, include_parent=True, whole_object=True)
        return [number * BLOCK for number in sorted(found)]


class RbdDisk(RbdReader):
    """An image that nobody writes to, as the data of a disk."""

    def __init__(self, image: Any) -> None:
        super().__init__(image)
        with told("read the image"):
            self._blocks = self._allocated()

    def amount(self) -> int:
        """See DiskReader."""
        return sum(min(BLOCK, self.size - offset) for offset in self._blocks)

    def blocks(self) -> int:
        """See DiskReader."""
        return self.amount()

    def pieces(self) -> Iterator[tuple[int, int, bytes | None]]:
        """See DiskReader."""
        for offset in self._blocks:
            with told("read the image"):
                block: bytes = self._image.read(offset, min(BLOCK, self._end - offset))
            block += bytes(-len(block) % 512)
            yield offset, len(block), block


def allocated(image: Any) -> int:
    """Bytes of the objects that the image has of its own, from its object map. Without a map that is valid every
    object would have to be asked for: then it is the image's size, which it can at most be."""
    size: int = image.size()
    if not image.features() & rbd.RBD_FEATURE_FAST_DIFF or has_invalid_map(image):
        return size
    return _own(image, whole_object=True)


def own_data(image: Any) -> int:
    """Bytes of data that the image has of its own: every object is asked for, as one may be there and be empty."""
    return _own(image, whole_object=False)


def _own(image: Any, whole_object: bool) -> int:
    lengths: list[int] = []

    def note(_offset: int, length: int, exists: bool) -> None:
        lengths.append(length if exists else 0)

    image.diff_iterate(0, image.size(), None, note, include_parent=False, whole_object=whole_object)
    return sum(lengths)


def has_invalid_map(image: Any) -> bool:
    """Whether the image has an object map that Ceph does not go by any more."""
    return bool(image.flags() & (rbd.RBD_FLAG_OBJECT_MAP_INVALID | rbd.RBD_FLAG_FAST_DIFF_INVALID))


def parent_of(image: Any) -> Mapping[str, str] | None:
    """The snapshot that a clone stands on, None for what is no clone."""
    try:
        parent: Mapping[str, str] = image.get_parent_image_spec()
        return parent
    except rbd.ImageNotFound:
        return None


def flatten(image: Any) -> None:
    """Copy what a clone has of its parent into it, and let the parent go. Can be done again after any crash.

    A client counts an object in the map before it writes it. When it dies in between, versions of librbd before the
    end of 2024 take the object for one that has been copied, and its data goes with the parent. So the map is begun
    anew, which makes it invalid until it has been rebuilt from what is there.
    """
    mapped = image.features() & (rbd.RBD_FEATURE_OBJECT_MAP | rbd.RBD_FEATURE_FAST_DIFF)
    if parent_of(image) is not None:
        if mapped and not has_invalid_map(image):
            image.update_features(mapped, False)
            image.update_features(mapped, True)
        image.flatten()
    if mapped and has_invalid_map(image):
        image.rebuild_object_map()


class RbdSink:
    """A new image, open for writing, as a sink. Pieces that join are written together, several writes at a time; an
    error of one is raised by the next call."""

    path: str | None = None

    def __init__(self, image: Any, shown: str) -> None:
        self._image, self._doing = image, f"write the image {shown}"
        self._size: int = image.size()
        self._run, self._start = bytearray(), 0
        self._landing = threading.Condition()
        self._flying = self._failed = 0

    def set_size(self, size: int) -> None:
        """See Sink."""
        self._send()
        self._resize(size)

    def write(self, offset: int, data: Buffer) -> None:
        """See Sink."""
        if offset != self._start + len(self._run):
            self._send()
            self._start = offset
        self._run += data
        if len(self._run) >= BLOCK:
            self._send()

    def zero(self, offset: int, length: int) -> None:
        """See PatchSink."""
        self._send()
        with told(self._doing):
            self._image.write_zeroes(offset, length)

    def sync(self) -> None:
        """See Sink."""
        self._send()
        self._wait_for(0)
        with told(self._doing):
            self._image.flush()

    def _send(self) -> None:
        """Begin to write what has been gathered. Nobody may have told the size yet: then the image is made to hold it,
        and gets its size at the end."""
        data, start = bytes(self._run), self._start
        end = start + len(data)
        self._run, self._start = bytearray(), end
        self._wait_for(max(0, _IN_FLIGHT - len(data)))
        if not data:
            return
        if end > self._size:
            self._resize(max(end, 2 * self._size, _FIRST_SIZE))

        def landed(completion: Any) -> None:  # it has hold of data, too, from which librbd writes until then
            with self._landing:
                self._flying -= len(data)
                self._failed = self._failed or -min(0, completion.get_return_value())
                self._landing.notify()

        with self._landing:
            self._flying += len(data)
        with told(self._doing):
            self._image.aio_write(data, start, landed)

    def _resize(self, size: int) -> None:
        with told(self._doing):
            self._image.resize(size)
        self._size = size

    def _wait_for(self, limit: int) -> None:
        """Wait until at most ``limit`` bytes are under way; raise what went wrong."""
        with self._landing:
            self._landing.wait_for(lambda: self._flying <= limit)
            if self._failed:
                raise translated(self._doing, OSError(self._failed, os.strerror(self._failed)))
