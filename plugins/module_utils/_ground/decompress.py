# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""Decompression of a stream: bounded in memory and in what comes out, and never ending quietly in the middle."""

from __future__ import annotations

import contextlib
import lzma
import os
import subprocess
import threading
import zlib
from collections.abc import Callable, Iterator
from typing import IO

from .command import Limits, Runner
from .digest import BLOCK
from .errors import CommandFailed, UnsafeImage
from .headers import refuse
from .sources import Reader, fill

_CHUNK = 1024**2
_XZ_MEMORY = 80 * 1024**2  # bytes; `xz -9`, the most that its presets ask for, needs 65 MiB
_ZSTD = ["zstd", "--decompress", "--stdout", "--quiet", "--no-progress", "--memory=128MB"]
_ZSTD_LIMITS = Limits(address_space=1024**3)


class Stream:
    """What comes out.

    :param limit: bytes; a stream that has more is refused (check ``virtual_size``).
    """

    def __init__(self, chunks: Iterator[bytes], limit: int) -> None:
        self._chunks = chunks
        self._limit = limit
        self._given = 0
        self._left = memoryview(b"")

    def read(self, size: int) -> bytes:
        """At least one byte and at most ``size``; none at the end."""
        if not self._left:
            self._left = memoryview(next(self._chunks, b""))
        data, self._left = bytes(self._left[:size]), self._left[size:]
        self._given += len(data)
        if self._given > self._limit:
            raise refuse("virtual_size", "The source holds more than the %d bytes that are accepted." % self._limit)
        return data

    def block(self, buffer: bytearray) -> memoryview:
        """As many bytes as ``buffer`` holds, or what is left."""
        return fill(self, buffer)

    def close(self) -> None:
        """Stop what is at work for the stream."""
        close = getattr(self._chunks, "close", None)
        if close is not None:
            close()


def decompressed(source: Reader, compression: str, limit: int, runner: Runner) -> Stream:
    """The content of ``source``, which is compressed with ``none``, ``gz``, ``xz`` or ``zst``.

    :param limit: bytes that may come out.
    :raises UnsafeImage: while reading, with the fact ``check``: truncated, compression or virtual_size.
    """
    if compression == "gz":
        return Stream(_members(source, _gunzip, "gzip"), limit)
    if compression == "xz":
        return Stream(_members(source, _unxz, "xz"), limit)
    if compression == "zst":
        return Stream(_unzstd(source, runner), limit)
    return Stream(iter(lambda: source.read(BLOCK), b""), limit)


class _Input:
    """The compressed bytes of one member after another."""

    def __init__(self, source: Reader, name: str) -> None:
        self._source = source
        self._name = name
        self._given_back = b""

    def next(self) -> bytes:
        """The next bytes of a member, of which there have to be some."""
        data, self._given_back = self._given_back or self._source.read(_CHUNK), b""
        if not data:
            raise _truncated(self._name)
        return data

    def give_back(self, data: bytes) -> None:
        """Bytes that are not of this member."""
        self._given_back = data

    def has_member(self) -> bool:
        """Whether anything but padding is left."""
        self._given_back = self._given_back.lstrip(b"\0")
        while not self._given_back:
            data = self._source.read(_CHUNK)
            if not data:
                return False
            self._given_back = data.lstrip(b"\0")
        return True


def _members(source: Reader, member: Callable[[_Input], Iterator[bytes]], name: str) -> Iterator[bytes]:
    """Members one after another, zeroes between and behind them; nothing else may follow."""
    compressed = _Input(source, name)
    try:
        yield from member(compressed)
        while compressed.has_member():
            yield from member(compressed)
    except (zlib.error, lzma.LZMAError) as error:
        raise refuse("compression", "The source cannot be decompressed as %s: %s." % (name, error)) from error


def _gunzip(compressed: _Input) -> Iterator[bytes]:
    member = zlib.decompressobj(wbits=31)  # gzip, whose checksum and length zlib verifies
    out = b""
    while not member.eof:
        # A full chunk may have left more inside, which comes out without further input.
        pending = member.unconsumed_tail or (b"" if len(out) == _CHUNK else compressed.next())
        out = member.decompress(pending, _CHUNK)
        if out:
            yield out
    compressed.give_back(member.unused_data)


def _unxz(compressed: _Input) -> Iterator[bytes]:
    member = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)
    while not member.eof:
        data = compressed.next() if member.needs_input is True else b""
        out = member.decompress(data, _CHUNK)
        if out:
            yield out
    compressed.give_back(member.unused_data)


def _unzstd(source: Reader, runner: Runner) -> Iterator[bytes]:
    """By the ``zstd`` program: Python has its own only since 3.14."""
    pipe = subprocess.PIPE
    with runner.start(_ZSTD, limits=_ZSTD_LIMITS, stdin=pipe, stdout=pipe) as running:
        if running.stdin is None:
            raise AssertionError
        if running.stdout is None:
            raise AssertionError
        feeder = _Feeder(source, running.stdin)
        try:
            while chunk := os.read(running.stdout.fileno(), _CHUNK):
                yield chunk
            feeder.finish()
            running.wait()
        except CommandFailed as error:
            if "premature end" in error.facts["stderr"] or "unexpected end" in error.facts["stderr"]:
                raise _truncated("zstd") from error
            raise refuse("compression", "The source cannot be decompressed: %s" % error.message) from error
        finally:
            running.stop()
            feeder.join()


class _Feeder(threading.Thread):
    """Writes the compressed bytes to a program, while somebody else reads what it makes of them."""

    def __init__(self, source: Reader, pipe: IO[bytes]) -> None:
        super().__init__(daemon=True)
        self._source = source
        self._pipe = pipe
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            while chunk := self._source.read(_CHUNK):
                self._pipe.write(chunk)
        except (BrokenPipeError, ValueError):
            pass  # the program has ended, and its exit status says why
        except BaseException as error:  # noqa: BLE001 - it is raised again by finish()
            self._error = error
        finally:
            with contextlib.suppress(BrokenPipeError, ValueError):
                self._pipe.close()

    def finish(self) -> None:
        """Wait for the end, and raise what reading the source raised."""
        self.join()
        if self._error is not None:
            raise self._error


def _truncated(name: str) -> UnsafeImage:
    return refuse("truncated", "The source ends in the middle of its %s data; fetch it again." % name)
