# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""Taking in an image: read once, verify, inspect, convert, and digest what came out.

=====================================  ==============================================================================
source                                 how
=====================================  ==============================================================================
raw, from anywhere, compressed or not  one loop: read, hash, digest, write; zeroes are not written
other formats, a plain local file      inspected, then qemu-img converts it while a thread hashes the same descriptor
other formats, http or compressed      copied into a staging file while it is hashed; verified; then as above
=====================================  ==============================================================================

In each of them the bytes that are verified are those that are converted: everything goes through one descriptor,
which qemu-img is given too. qemu-img writes through the page cache and leaves the syncing to us, which begins while
it still works; that is faster than its own direct I/O, and the digest then reads from memory.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from .bounds import Bounds
from .checksums import Checksum
from .command import Beat, Limits, Runner
from .decompress import Stream, decompressed
from .digest import (
    BLOCK,
    Buffer,
    ContentDigest,
    content_of_file,
    is_zero,
)
from .errors import OutOfSpace, SourceError, StorageError
from .headers import refuse
from .inspection import (
    HEAD,
    Inspected,
    inspect,
    inspect_content,
    inspect_raw,
    needs_random_access,
    qemu_agrees,
    round_up,
)
from .opening import expected_checksum, open_source
from .source_digests import HashedSource
from .sources import (
    Source,
    SourceSpec,
)
from .work import Lane, Ring, WriteBack, with_beat

STAGING_PREFIX = "virt-storage-staging-"
"""Staging files are unlinked as soon as they are open. One that is found was left in that moment, and is garbage."""

PIECE = 64 * 1024
"""What is left out when it is zero, and the smallest hole that comes about; in bytes."""
_RING = 6  # blocks in memory at a time
_COROUTINES = "16"


class Sink(Protocol):
    """A new volume, which reads as zeroes, that an image is written to."""

    path: str | None
    """A local file or block device that qemu-img may write to, or ``None``."""

    def set_size(self, size: int) -> None:
        """Give it ``size`` bytes. Called before the first write, or, when a compressed or chunked raw source does
        not tell its size, after the last."""

    def write(self, offset: int, data: Buffer) -> None:
        """Write all of ``data`` at ``offset``."""

    def sync(self) -> None:
        """What was written is durable on return."""


@dataclass(frozen=True)
class Staging:
    """Where a source is kept that cannot be converted as it comes."""

    directory: str
    max_bytes: int
    """What a staging file may hold."""


@dataclass(frozen=True)
class Taken:
    """What an intake did. Sizes are bytes."""

    virtual_size: int
    source_size: int
    """As transferred: compressed if it is."""
    source_digests: dict[str, str]
    """Algorithm -> hexadecimal digest of the source's bytes: sha256, and what was declared."""
    content: str
    """The digest of what a guest reads (see ``digest``)."""
    bytes_read: int
    bytes_written: int
    """To all volumes together, zeroes left out; staging is not part of it."""
    staged: int
    """What went through staging files."""


def take_in(
    spec: SourceSpec,
    bounds: Bounds,
    sinks: Sequence[Sink],
    *,
    runner: Runner,
    staging: Staging,
    beat: Beat,
    inherit: Sequence[int] = (),
) -> Taken:
    """Bring an image into one or more fresh volumes. All of it is durable on return; publishing is the caller's.

    After an exception the volumes hold anything, and the caller removes them.

    :param beat: called in this thread about twice a second; when it raises, everything is stopped first.
    :param inherit: descriptors of locks, which programs that write have to hold as long as they run.
    :raises UnsafeImage: a check failed; the fact ``check`` names it (``checksum`` among them).
    :raises SourceError: the source cannot be read, changed meanwhile, or took too long.
    :raises OutOfSpace: a volume or the staging directory is full.
    """
    if not sinks:
        raise ValueError("an intake needs somewhere to go")
    sources: list[Source] = []

    def work(alive: Beat) -> Taken:
        with contextlib.ExitStack() as stack:
            expected = expected_checksum(spec, bounds)
            alive()
            source = open_source(spec, bounds)
            sources.append(source)
            stack.callback(source.close)
            hashed = HashedSource(source, {"sha256", expected.algorithm if expected else "sha256"}, alive)
            stack.callback(hashed.stop)
            intake = _Intake(
                spec, bounds, sinks, runner, staging, alive, tuple(inherit), expected, source, hashed, stack
            )
            return intake.run()

    def cancel() -> None:
        for source in sources:
            source.cancel()

    return with_beat(work, beat, timeout=bounds.timeout, cancel=cancel)


@dataclass
class _Intake:
    """One intake, in the worker's thread."""

    spec: SourceSpec
    bounds: Bounds
    sinks: Sequence[Sink]
    runner: Runner
    staging: Staging
    alive: Beat
    inherit: tuple[int, ...]
    expected: Checksum | None
    source: Source
    hashed: HashedSource
    stack: contextlib.ExitStack
    written: int = 0
    staged: int = 0

    def run(self) -> Taken:
        if not needs_random_access(self.spec.format):
            size, content = self._pour()
        elif self.source.fd is not None and self.spec.compressed_with == "none":
            inspected = inspect(self.source.fd, self.spec.format, self.bounds)
            self.hashed.read_all()
            size, content = self._convert(self.source.fd, inspected)
            self._verify()
        else:
            fd = self._stage()
            self._verify()
            size, content = self._convert(fd, inspect(fd, self.spec.format, self.bounds))
        for sink in self.sinks:
            sink.sync()
        return Taken(
            virtual_size=size,
            source_size=self.hashed.position,
            source_digests=self.hashed.digests(),
            content=content,
            bytes_read=self.hashed.position,
            bytes_written=self.written,
            staged=self.staged,
        )

    def _verify(self) -> None:
        """The bytes that were read are those that were promised, and the source is still the same."""
        found = self.hashed.digests()
        if self.expected is not None and found[self.expected.algorithm] != self.expected.digest:
            raise refuse(
                "checksum",
                "The source %s has the checksum %s:%s, but %s was expected."
                % (self.spec.shown, self.expected.algorithm, found[self.expected.algorithm], self.expected),
                expected=str(self.expected),
                found="%s:%s" % (self.expected.algorithm, found[self.expected.algorithm]),
            )
        self.source.check_unchanged()

    def _pour(self) -> tuple[int, str]:
        """Raw content, straight into the volumes."""
        plain = self.spec.compressed_with == "none"
        size = self.source.size if plain else None
        reader = self._reader(self.bounds.max_virtual_size)
        ring, digest, lane = Ring(_RING, BLOCK), ContentDigest(), Lane()
        self.stack.callback(lane.close)
        buffer = ring.next()
        block = reader.block(buffer)
        inspect_raw(bytes(block[:HEAD]), self.spec.format, self.bounds, size)
        if size is not None:
            self._set_size(round_up(size))
        write_back = WriteBack(self._open_paths())
        self.stack.callback(write_back.stop)
        position = 0
        while block:
            self.alive()
            users = list(self.hashed.hashing) if plain else []
            if not is_zero(block):
                users.append(lane.do(digest.add, position, _whole_sectors(block)))
                self._write(self.sinks, position, block)
            position += len(block)
            if position > self.bounds.max_virtual_size:
                raise refuse("virtual_size", "The source %s is larger than a disk may be." % self.spec.shown)
            ring.busy(buffer, users)
            buffer = ring.next()
            block = reader.block(buffer)
        lane.finish()
        self._verify()
        if size is not None and position != size:
            raise SourceError("The source %s ended after %d of %d bytes." % (self.spec.shown, position, size))
        if size is None:
            self._set_size(round_up(position))
        with self._room(position):
            write_back.finish()
        return round_up(position), digest.finish(round_up(position))

    def _reader(self, limit: int) -> HashedSource | Stream:
        """The source as it is, or decompressed to at most ``limit`` bytes."""
        if self.spec.compressed_with == "none":
            return self.hashed
        stream = decompressed(self.hashed, self.spec.compressed_with, limit, self.runner)
        self.stack.callback(stream.close)
        return stream

    def _convert(self, fd: int, inspected: Inspected) -> tuple[int, str]:
        """Let qemu convert an image that passed into the first volume, and bring that into the others."""
        size = inspected.virtual_size
        qemu_agrees(self.runner, fd, inspected, inherit=self.inherit)
        self._set_size(size)
        first = next((sink for sink in self.sinks if sink.path is not None), None)
        others = [sink for sink in self.sinks if sink is not first]
        if first is not None and first.path is not None:
            target = self._keep_open(os.open(first.path, os.O_RDWR | os.O_CLOEXEC))
        else:
            target = self._staging_file(size)
        write_back = WriteBack([target, *self._open_paths(others)] if first is not None else [])
        self.stack.callback(write_back.stop)
        with self._room(size):
            self._run_convert(fd, inspected, target)
            inspect_content(os.pread(target, HEAD, 0))

            def write_others(offset: int, data: memoryview) -> None:
                self._write(others, offset, data)

            content = content_of_file(target, size, beat=self.alive, each=write_others if others else None)
            write_back.finish()
        if first is not None:
            self.written += _allocated(target, size)
        else:
            self.staged += _allocated(target, size)
        return size, content

    def _run_convert(self, fd: int, inspected: Inspected, target: int) -> None:
        # Both ends as descriptors: qemu opens what was inspected, whatever happened to its name. Cache mode
        # "unsafe" leaves out qemu's flushes, not ours. The target is new and all zeroes, by the contract of a sink.
        command = ["qemu-img", "convert", "-f", inspected.qemu_format, "-O", "raw", "-n", "--target-is-zero"]
        command += ["-W", "-m", _COROUTINES, "-T", "writeback", "-t", "unsafe"]
        command += ["/proc/self/fd/%d" % fd, "/proc/self/fd/%d" % target]
        try:
            self.runner.run(command, limits=Limits(), pass_fds=(fd, target, *self.inherit), beat=self.alive)
        except OutOfSpace as error:
            raise self._full(inspected.virtual_size) from error

    def _stage(self) -> int:
        """Copy the source, decompressed, into a file without a name."""
        limit = self.staging.max_bytes
        fd = self._staging_file(self.source.size if self.spec.compressed_with == "none" else None)
        reader = self._reader(limit)
        with self._room(self.source.size):
            while block := reader.read(BLOCK):
                self.alive()
                _write_all(fd, block, self.staged)
                self.staged += len(block)
                if self.staged > limit:
                    self._need_room(self.staged)
        return fd

    def _staging_file(self, size: int | None) -> int:
        directory = self.staging.directory
        if size is not None:
            self._need_room(size)
        path = os.path.join(directory, STAGING_PREFIX + uuid.uuid4().hex)
        try:
            fd = self._keep_open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            os.unlink(path)
            os.ftruncate(fd, size or 0)
        except OSError as error:
            raise SourceError("The staging directory %s cannot be used: %s." % (directory, error.strerror)) from error
        return fd

    def _need_room(self, size: int) -> None:
        """Whether a staging file can be allowed at all."""
        if size > self.staging.max_bytes:
            raise OutOfSpace(
                "Staging needs %d bytes, and %d are allowed in %s."
                % (size, self.staging.max_bytes, self.staging.directory),
                needed=size,
                free=self.staging.max_bytes,
            )

    def _keep_open(self, fd: int) -> int:
        self.stack.callback(os.close, fd)
        return fd

    def _open_paths(self, sinks: Sequence[Sink] | None = None) -> list[int]:
        """Descriptors on the local volumes, for their write-back."""
        paths = [sink.path for sink in (self.sinks if sinks is None else sinks) if sink.path is not None]
        return [self._keep_open(os.open(path, os.O_RDWR | os.O_CLOEXEC)) for path in paths]

    def _set_size(self, size: int) -> None:
        with self._room(size):
            for sink in self.sinks:
                sink.set_size(size)

    def _write(self, sinks: Sequence[Sink], offset: int, block: Buffer) -> None:
        with self._room(None):
            for start, end in data_runs(block):
                for sink in sinks:
                    sink.write(offset + start, memoryview(block)[start:end])
                    self.written += end - start

    @contextlib.contextmanager
    def _room(self, needed: int | None) -> Iterator[None]:
        """Say how much was needed and is free, when something inside finds a file system full."""
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise self._full(needed) from error
            raise StorageError(
                "The image %s could not be written: %s." % (self.spec.shown, error.strerror), errno=error.errno
            ) from error

    def _full(self, needed: int | None) -> OutOfSpace:
        needed = self.source.size if needed is None else needed
        places = [self.staging.directory, *(sink.path for sink in self.sinks if sink.path is not None)]
        free = min(status.f_bavail * status.f_frsize for status in map(os.statvfs, places))
        return OutOfSpace(
            "There is no room for the image %s: up to %s bytes are needed, and %d are free."
            % (self.spec.shown, "an unknown number of" if needed is None else needed, free),
            needed=needed,
            free=free,
        )


def data_runs(block: Buffer) -> Iterator[tuple[int, int]]:
    """Where in ``block`` something else than zeroes stands: (start, end), in pieces of 64 KiB that are joined."""
    start = None
    for offset in range(0, len(block), PIECE):
        zero = is_zero(memoryview(block)[offset : offset + PIECE])
        if zero and start is not None:
            yield start, offset
            start = None
        elif not zero and start is None:
            start = offset
    if start is not None:
        yield start, len(block)


def _whole_sectors(block: memoryview) -> Buffer:
    """The last block of a raw source as a guest sees it."""
    missing = -len(block) % 512
    return bytes(block) + bytes(missing) if missing else block


def _write_all(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        done = os.pwrite(fd, view, offset)
        view, offset = view[done:], offset + done


def _allocated(fd: int, size: int) -> int:
    found = os.fstat(fd)
    return found.st_blocks * 512 if stat.S_ISREG(found.st_mode) else size
