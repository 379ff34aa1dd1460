# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""What a new volume can be filled with. Each kind pours itself into one or more sinks and tells what it did."""

from __future__ import annotations

import hashlib
import os
import tempfile
import uuid
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from .blank import make_blank
from .bounds import Bounds
from .command import Beat, Runner
from .costs import Cost, cost_of_source
from .digest import (
    BLOCK,
    Buffer,
    ContentDigest,
    blocks_with_data,
    bytes_with_data,
    content_of_file,
    is_zero,
    read_block,
)
from .errors import NotFound, SourceError, UnsafeImage
from .inspection import needs_random_access, round_up
from .intake import PIECE, Sink, Staging, take_in
from .ops import Facts
from .sources import SourceSpec


@dataclass(frozen=True)
class Means:
    """What pouring needs from the pool: programs, a bounded place for what has to be staged, a sign of life to
    give, and the descriptors of locks that programs have to hold as long as they run."""

    runner: Runner
    staging: Staging
    beat: Beat
    inherit: Sequence[int]


class Content(Protocol):
    """Something to fill volumes with."""

    def pour(self, sinks: Sequence[Sink], means: Means) -> Facts:
        """Write it to every sink, durably. The facts: ``size`` and ``content``, and what else is worth keeping."""

    def cost(self, runner: Runner) -> Cost:
        """What pouring it into one sink would cost. Looks only."""


@dataclass(frozen=True)
class Incoming:
    """An image from outside: inspected, verified and converted on its way."""

    spec: SourceSpec
    bounds: Bounds

    def is_staged(self, local: bool) -> bool:
        """Whether all of it is kept in a staging file on its way to volumes that are ``local`` files or devices."""
        at_hand = local and not self.spec.is_url and self.spec.compressed_with == "none"
        return needs_random_access(self.spec.format) and not at_hand

    def cost(self, runner: Runner) -> Cost:
        """See Content."""
        return cost_of_source(self.spec, self.bounds, runner)

    def pour(self, sinks: Sequence[Sink], means: Means) -> Facts:
        """See Content."""
        taken = take_in(
            self.spec,
            self.bounds,
            sinks,
            runner=means.runner,
            staging=means.staging,
            beat=means.beat,
            inherit=means.inherit,
        )
        return {
            "size": taken.virtual_size,
            "content": taken.content,
            "source_size": taken.source_size,
            "source_digests": taken.source_digests,
            "bytes_read": taken.bytes_read,
            "bytes_written": taken.bytes_written,
            "staged": taken.staged,
        }


@dataclass(frozen=True)
class Template:
    """An empty file system of ``size`` bytes, made here."""

    kind: str
    size: int
    label: str
    identity: uuid.UUID

    def cost(self, runner: Runner) -> Cost:
        """See Content. What a new file system writes shows when it is made."""
        return Cost(0, None, self.size)

    def pour(self, sinks: Sequence[Sink], means: Means) -> Facts:
        """See Content."""
        with tempfile.TemporaryFile(dir=means.staging.directory) as file:
            make_blank(file.fileno(), self.kind, self.size, self.label, self.identity, means.runner, means.inherit)
            digest = ContentDigest(self.size)
            written = 0
            for sink in sinks:
                sink.set_size(self.size)
            for offset in blocks_with_data(file.fileno(), self.size):
                block = read_block(file.fileno(), offset, min(BLOCK, self.size - offset))
                digest.add(offset, block)
                written += _spread(sinks, offset, block)
                means.beat()
        for sink in sinks:
            sink.sync()
        return {"size": self.size, "content": digest.finish(), "bytes_read": 0, "bytes_written": written}


class RawReader(Protocol):
    """Raw content that stays as it is while it is read."""

    size: int
    """Bytes, as a guest sees them."""

    def content(self, beat: Beat, each: Callable[[int, memoryview], None] | None = None) -> str:
        """The content digest; every block that is not zero goes to ``each`` with its offset on the way. The bytes are
        good only until that returns."""

    def allocated(self, piece: int = 1) -> int:
        """How many bytes those pieces of ``piece`` bytes have that something is allocated in; more, where only larger
        ones can be told apart."""


@dataclass(frozen=True)
class Sibling:
    """A sealed image of another pool, called ``shown``. ``facts`` are those of its own intake: what arrives here must
    have the digest that they name."""

    reading: Callable[[], AbstractContextManager[RawReader]]
    shown: str
    facts: Facts

    def cost(self, runner: Runner) -> Cost:
        """See Content."""
        with self.reading() as source:
            return Cost(source.allocated(BLOCK), source.allocated(PIECE), source.size)

    def pour(self, sinks: Sequence[Sink], means: Means) -> Facts:
        """See Content. Of what is read, blocks count that are not zero."""
        read = written = 0

        def write(offset: int, block: memoryview) -> None:
            nonlocal read, written
            read += len(block)
            written += _spread(sinks, offset, block)

        try:
            with self.reading() as source:
                for sink in sinks:
                    sink.set_size(source.size)
                content = source.content(means.beat, write)
        except NotFound:
            raise SourceError(f"The image {self.shown} was removed while it was copied: run the task again.") from None
        if content != self.facts["content"]:
            raise UnsafeImage(
                f"The image {self.shown} does not hold what was written there ({content}, not "
                f"{self.facts['content']}): have cached_image state=verified look at its pool.",
                check="content",
            )
        for sink in sinks:
            sink.sync()
        return {**self.facts, "bytes_read": read, "bytes_written": written, "staged": 0}


@dataclass(frozen=True)
class Literal:
    """A few bytes that are made when they are needed, such as a config disk; padded to whole sectors."""

    make: Callable[[], bytes]

    def cost(self, runner: Runner) -> Cost:
        """See Content."""
        size = round_up(len(self.make()))
        return Cost(0, size, size)

    def pour(self, sinks: Sequence[Sink], means: Means) -> Facts:
        """See Content."""
        made = self.make()
        data = made + bytes(-len(made) % 512)
        digest = ContentDigest(len(data))
        for offset in range(0, len(data), BLOCK):
            digest.add(offset, data[offset : offset + BLOCK])
        for sink in sinks:
            sink.set_size(len(data))
            sink.write(0, data)
            sink.sync()
        sha256 = hashlib.sha256(made).hexdigest()
        return {
            "size": len(data),
            "content": digest.finish(),
            "source_digests": {"sha256": sha256},
            "bytes_read": 0,
            "bytes_written": len(data) * len(sinks),
        }


def _spread(sinks: Sequence[Sink], offset: int, block: Buffer) -> int:
    """Write the pieces of a block that are not zero; gives the bytes written to all sinks together."""
    written = 0
    for start in range(0, len(block), PIECE):
        piece = memoryview(block)[start : start + PIECE]
        if not is_zero(piece):
            for sink in sinks:
                sink.write(offset + start, piece)
                written += len(piece)
    return written


class FileReader:
    """A file or a block device as raw content; open for reading."""

    def __init__(self, descriptor: int, size: int) -> None:
        self._descriptor, self.size = descriptor, size

    def content(self, beat: Beat, each: Callable[[int, memoryview], None] | None = None) -> str:
        """See RawReader."""
        return content_of_file(self._descriptor, self.size, beat=beat, each=each)

    def allocated(self, piece: int = 1) -> int:
        """See RawReader."""
        return bytes_with_data(self._descriptor, self.size, piece)


class FileSink:
    """A sparse file, open for writing, as a sink. ``path`` is how qemu-img may reach it."""

    def __init__(self, descriptor: int, path: str) -> None:
        self.descriptor = descriptor
        self.path: str | None = path

    def set_size(self, size: int) -> None:
        """See Sink."""
        os.ftruncate(self.descriptor, size)

    def write(self, offset: int, data: Buffer) -> None:
        """See Sink."""
        view = memoryview(data)
        while view:
            written = os.pwrite(self.descriptor, view, offset)
            view, offset = view[written:], offset + written

    def sync(self) -> None:
        """See Sink."""
        os.fsync(self.descriptor)
