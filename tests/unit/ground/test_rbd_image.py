# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Writing to an RBD image where writes fail, or are slow. A real image is written to in ``tests/contract``."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from typing import Any

import pytest

from ansible_collections.virt.storage.plugins.module_utils._ground.errors import OutOfSpace, StorageError
from ansible_collections.virt.storage.plugins.module_utils._ground.rbd_image import RbdSink

MIB = 1 << 20


class Completed:
    """A write that has ended."""

    def __init__(self, code: int) -> None:
        self._code = code

    def get_return_value(self) -> int:
        return self._code


class FakeImage:
    """An image whose writes end when they are told to, with a code."""

    def __init__(self) -> None:
        self.length = 0
        self.writes: list[tuple[int, bytes, Callable[[Any], None]]] = []
        self.flushed = 0
        self.ended = 0

    def size(self) -> int:
        return self.length

    def resize(self, size: int) -> None:
        self.length = size

    def aio_write(self, data: bytes, offset: int, done: Callable[[Any], None]) -> None:
        assert offset + len(data) <= self.length, "a write past the end"
        self.writes.append((offset, data, done))

    def flush(self) -> None:
        self.flushed += 1

    def end(self, code: int = 0, count: int = 1000) -> None:
        for _offset, _data, done in self.writes[self.ended :][:count]:
            self.ended += 1
            done(Completed(code))


def test_pieces_that_join_are_one_write() -> None:
    image = FakeImage()
    sink = RbdSink(image, "p/i")
    sink.set_size(16 * MIB)
    for start in range(0, 2 * MIB, 65536):
        sink.write(start, b"a" * 65536)
    sink.write(3 * MIB, b"b" * 512)
    threading.Timer(0.05, image.end).start()
    threading.Timer(0.2, image.end).start()
    sink.sync()
    assert [(offset, data) for offset, data, _done in image.writes] == [(0, b"a" * 2 * MIB), (3 * MIB, b"b" * 512)]
    assert image.flushed == 1


def test_without_a_size_the_image_holds_what_comes_and_has_its_size_at_the_end() -> None:
    image = FakeImage()
    sink = RbdSink(image, "p/i")
    sink.write(5 << 30, b"a" * 4 * MIB)
    image.end()
    assert image.length > 5 << 30
    sink.set_size(6 << 30)
    assert image.length == 6 << 30


def test_what_is_under_way_is_bounded() -> None:
    image = FakeImage()
    sink = RbdSink(image, "p/i")
    sink.set_size(1 << 30)

    def write() -> None:
        for number in range(64):
            sink.write(number * 4 * MIB, b"a" * 4 * MIB)

    writer = threading.Thread(target=write)
    writer.start()
    most = 0
    while writer.is_alive():
        writer.join(0.05)
        most = max(most, len(image.writes) - image.ended)
        image.end(count=1)
    assert most == 4
    assert len(image.writes) == 64


@pytest.mark.parametrize(("code", "kind"), [(errno.EIO, StorageError), (errno.ENOSPC, OutOfSpace)])
def test_the_error_of_a_write_is_raised_by_the_next_call(code: int, kind: type[StorageError]) -> None:
    for last in ("write", "set_size", "sync"):
        image = FakeImage()
        sink = RbdSink(image, "p/i")
        sink.set_size(1 << 30)
        sink.write(0, b"a" * 4 * MIB)
        image.end(-code)
        call = {
            "write": lambda: sink.write(4 * MIB, b"a" * 4 * MIB),  # noqa: B023 - called at once
            "set_size": lambda: sink.set_size(1 << 31),  # noqa: B023
            "sync": sink.sync,
        }[last]
        with pytest.raises(kind, match="write the image p/i") as caught:
            call()
        assert caught.value.facts["errno"] == code
        assert image.flushed == 0
