# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Decompression gives back what was compressed, in any members, and tells when there should have been more."""

from __future__ import annotations

import gzip
import io
import lzma
import resource
import threading
import time

import hostile
import pytest

from ansible_collections.virt.storage.plugins.module_utils._ground.command import Runner
from ansible_collections.virt.storage.plugins.module_utils._ground.decompress import Stream, decompressed
from ansible_collections.virt.storage.plugins.module_utils._ground.errors import MissingRequirement, UnsafeImage

MIB = 1024**2
DATA = hostile.NOISE + bytes(5 * MIB) + b"end"
COMPRESS = {"gz": gzip.compress, "xz": lzma.compress, "zst": hostile.zstd}


def everything(stream: Stream) -> bytes:
    try:
        return b"".join(iter(lambda: stream.read(300_000), b""))
    finally:
        stream.close()


@pytest.mark.parametrize("name", COMPRESS)
def test_round_trip(name: str) -> None:
    compressed = COMPRESS[name](DATA)
    assert everything(decompressed(io.BytesIO(compressed), name, len(DATA), Runner())) == DATA


def test_none_is_passed_on() -> None:
    assert everything(decompressed(io.BytesIO(DATA), "none", len(DATA), Runner())) == DATA


@pytest.mark.parametrize("name", COMPRESS)
def test_members_follow_each_other(name: str) -> None:
    compressed = COMPRESS[name](DATA) + COMPRESS[name](b"") + COMPRESS[name](b"more")
    assert everything(decompressed(io.BytesIO(compressed), name, 2**30, Runner())) == DATA + b"more"


@pytest.mark.parametrize("name", ["gz", "xz"])
def test_padding_between_and_behind(name: str) -> None:
    compressed = COMPRESS[name](b"one") + bytes(2 * MIB) + COMPRESS[name](b"two") + bytes(512)
    assert everything(decompressed(io.BytesIO(compressed), name, 2**30, Runner())) == b"onetwo"


@pytest.mark.parametrize("name", COMPRESS)
@pytest.mark.parametrize("kept", [0, 1, 5, 20, 1000, -1, -9])
def test_cut_anywhere(name: str, kept: int) -> None:
    compressed = COMPRESS[name](DATA)[:kept] if kept else b""
    with pytest.raises(UnsafeImage) as caught:
        everything(decompressed(io.BytesIO(compressed), name, 2**30, Runner()))
    assert caught.value.facts["check"] in ("truncated", "compression")


@pytest.mark.parametrize("name", COMPRESS)
def test_limit_is_exact(name: str) -> None:
    compressed = COMPRESS[name](DATA)
    with pytest.raises(UnsafeImage, match="more than the %d bytes" % (len(DATA) - 1)):
        everything(decompressed(io.BytesIO(compressed), name, len(DATA) - 1, Runner()))


@pytest.mark.parametrize("name", COMPRESS)
def test_a_bomb_is_not_unpacked_in_memory(name: str) -> None:
    compressed = COMPRESS[name](bytes(400 * MIB))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    stream = decompressed(io.BytesIO(compressed), name, 2**30, Runner())
    assert sum(iter(lambda: len(stream.read(MIB)), 0)) == 400 * MIB
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024


class Broken(Exception):
    pass


class BrokenSource:
    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def read(self, size: int) -> bytes:
        data = self._data.read(size)
        if not data:
            raise Broken
        return data


@pytest.mark.parametrize("name", COMPRESS)
def test_an_error_of_the_source_comes_through(name: str) -> None:
    with pytest.raises(Broken):
        everything(decompressed(BrokenSource(COMPRESS[name](DATA)[:-20]), name, 2**30, Runner()))


def test_closing_early_leaves_nothing_running() -> None:
    ran: list[int] = []
    before = threading.active_count()
    stream = decompressed(
        io.BytesIO(hostile.zstd(DATA * 20)), "zst", 2**30, Runner(lambda argv, rc, seconds: ran.append(rc))
    )
    assert stream.read(10) == DATA[:10]
    stream.close()
    assert ran == [-9]
    deadline = time.monotonic() + 10  # the thread that fed the program notices in its own time
    while threading.active_count() > before:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_missing_program_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    path = "ansible_collections.virt.storage.plugins.module_utils._ground.command._SEARCH_PATH"
    monkeypatch.setattr(path, "/nonexistent")
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr("ansible_collections.virt.storage.plugins.module_utils._ground.command._limiter", lambda _: [])
    with pytest.raises(MissingRequirement, match="install the package zstd"):
        everything(decompressed(io.BytesIO(b""), "zst", 2**30, Runner()))
