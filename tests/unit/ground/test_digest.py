# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The digest of what a guest reads: as documented, and the same however the bytes are stored."""

from __future__ import annotations

import hashlib
import os
import random
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.virt.storage.plugins.module_utils._ground.digest import (
    BLOCK,
    ContentDigest,
    blocks_with_data,
    content_of_file,
)


def documented(content: bytes) -> str:
    """The digest as its documentation tells it, in the plainest way."""
    text = b"virt.storage content v1\0" + struct.pack(">Q", len(content))
    for number in range(-(-len(content) // BLOCK)):
        block = content[number * BLOCK : (number + 1) * BLOCK]
        if any(block):
            text += struct.pack(">Q", number) + hashlib.sha256(block).digest()
    return "content:v1:sha256:" + hashlib.sha256(text).hexdigest()


def open_with(path: Path, content: bytes) -> int:
    path.write_bytes(content)
    return os.open(path, os.O_RDWR)


def test_known_value() -> None:
    """Recorded images carry this: it must never change."""
    digest = ContentDigest(8 * 1024**2)
    digest.add(BLOCK, b"x" + bytes(BLOCK - 1))
    assert digest.finish() == "content:v1:sha256:9c1ceb99695d53e78e7ee7d7ae91ba0989ab68f00916df6c9ed7d7bbc408e560"


@settings(max_examples=30, deadline=None)
@given(
    size=st.integers(0, 3 * BLOCK + 700),
    pieces=st.lists(st.tuples(st.integers(0, 3 * BLOCK), st.binary(min_size=1, max_size=9)), max_size=4),
    seed=st.integers(0, 99),
)
def test_order_and_holes_do_not_matter(
    tmp_path_factory: pytest.TempPathFactory, size: int, pieces: list[tuple[int, bytes]], seed: int
) -> None:
    path = tmp_path_factory.mktemp("d") / "sparse"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        os.ftruncate(fd, size)
        for offset, data in pieces:
            os.pwrite(fd, data[: max(0, size - offset)], offset)
        content = os.pread(fd, size, 0)
        expected = documented(content)
        assert content_of_file(fd, size) == expected
    finally:
        os.close(fd)
    blocks = [(offset, content[offset : offset + BLOCK]) for offset in range(0, size, BLOCK)]
    random.Random(seed).shuffle(blocks)
    digest = ContentDigest()
    for offset, block in blocks:
        digest.add(offset, block)
    assert digest.finish(size) == expected


def test_the_size_is_bound_in(tmp_path: Path) -> None:
    fd = open_with(tmp_path / "a", b"boot")
    assert content_of_file(fd, 512) == documented(b"boot" + bytes(508))
    assert content_of_file(fd, 512) != content_of_file(fd, 1024)
    os.close(fd)


def test_moved_content_is_other_content(tmp_path: Path) -> None:
    first, second = ContentDigest(2 * BLOCK), ContentDigest(2 * BLOCK)
    first.add(0, b"x" * BLOCK)
    second.add(BLOCK, b"x" * BLOCK)
    assert first.finish() != second.finish()


def test_holes_are_not_read(tmp_path: Path) -> None:
    fd = open_with(tmp_path / "sparse", b"")
    os.truncate(fd, 1 << 40)
    os.pwrite(fd, b"x", 1 << 39)
    assert list(blocks_with_data(fd, 1 << 40)) == [1 << 39]
    assert content_of_file(fd, 1 << 40).startswith("content:v1:sha256:")
    os.close(fd)


def test_a_device_that_does_not_tell_its_holes() -> None:
    fd = os.open("/dev/zero", os.O_RDONLY)
    assert content_of_file(fd, 2 * BLOCK) == documented(bytes(2 * BLOCK))
    os.close(fd)


def test_each_gets_the_blocks_in_order(tmp_path: Path) -> None:
    content = b"".join(bytes([n]) * BLOCK for n in (1, 0, 2, 3, 4, 5))
    fd = open_with(tmp_path / "a", content)
    seen: list[tuple[int, bytes]] = []
    content_of_file(fd, len(content), each=lambda offset, data: seen.append((offset // BLOCK, bytes(data[:1]))))
    os.close(fd)
    assert seen == [(0, b"\1"), (2, b"\2"), (3, b"\3"), (4, b"\4"), (5, b"\5")]


def test_beat_may_cancel(tmp_path: Path) -> None:
    fd = open_with(tmp_path / "a", b"x" * 3 * BLOCK)
    with pytest.raises(KeyboardInterrupt):
        content_of_file(fd, 3 * BLOCK, beat=lambda: (_unused for _unused in ()).throw(KeyboardInterrupt))
    os.close(fd)


def test_only_whole_blocks() -> None:
    with pytest.raises(ValueError, match="not one block"):
        ContentDigest(BLOCK).add(512, b"x")
    with pytest.raises(ValueError, match="size was not told"):
        ContentDigest().finish()
