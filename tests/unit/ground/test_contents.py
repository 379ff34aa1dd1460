# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What volumes are filled with: the same bytes in every sink, and the digest of exactly those."""

from __future__ import annotations

import contextlib
import hashlib
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.virt.storage.plugins.module_utils._ground.bounds import Bounds
from ansible_collections.virt.storage.plugins.module_utils._ground.command import Runner
from ansible_collections.virt.storage.plugins.module_utils._ground.contents import (
    Content,
    FileReader,
    FileSink,
    Incoming,
    Literal,
    Means,
    Sibling,
    Template,
)
from ansible_collections.virt.storage.plugins.module_utils._ground.digest import BLOCK, content_of_file
from ansible_collections.virt.storage.plugins.module_utils._ground.errors import NotFound, SourceError, UnsafeImage
from ansible_collections.virt.storage.plugins.module_utils._ground.intake import Staging
from ansible_collections.virt.storage.plugins.module_utils._ground.sources import SourceSpec

MIB = 1 << 20
BOUNDS = Bounds(max_source_bytes=1 << 30, max_virtual_size=1 << 30, timeout=60)
IMAGE = b"a" * 512 + bytes(BLOCK) + os.urandom(4096)

Pour = Callable[[Content], tuple[dict[str, object], list[bytes]]]


@pytest.fixture
def beats() -> list[None]:
    return []


@pytest.fixture
def pour(tmp_path: Path, beats: list[None]) -> Iterator[Pour]:
    """Pours something into two new files; gives the facts and what the files hold."""
    paths = [tmp_path / "one", tmp_path / "two"]
    staging = tmp_path / "staging"
    staging.mkdir()
    means = Means(Runner(), Staging(str(staging), 1 << 30), lambda: beats.append(None), ())

    def into_two(content: Content) -> tuple[dict[str, object], list[bytes]]:
        descriptors = [os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL) for path in paths]
        try:
            sinks = [FileSink(descriptor, str(path)) for descriptor, path in zip(descriptors, paths)]
            facts = content.pour(sinks, means)
            size = os.fstat(descriptors[0]).st_size
            assert facts["size"] == size
            assert facts["content"] == content_of_file(descriptors[0], size)
            return facts, [path.read_bytes() for path in paths]
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    yield into_two
    assert list(staging.iterdir()) == []


@pytest.mark.parametrize("data", [b"", b"abc", b"x" * 512, bytes(1000), os.urandom(BLOCK + 700)], ids=len)
def test_a_literal_is_padded_to_whole_sectors(pour: Pour, data: bytes) -> None:
    facts, held = pour(Literal(lambda: data))
    assert held == [data + bytes(-len(data) % 512)] * 2
    assert facts["source_digests"] == {"sha256": hashlib.sha256(data).hexdigest()}


def test_an_incoming_image_arrives_in_every_sink(pour: Pour, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(IMAGE)
    facts, held = pour(Incoming(SourceSpec(str(source), "raw"), BOUNDS))
    assert held == [IMAGE] * 2
    assert facts["source_digests"] == {"sha256": hashlib.sha256(IMAGE).hexdigest()}


def sibling(path: Path, facts: dict[str, Any]) -> Sibling:
    @contextlib.contextmanager
    def reading() -> Iterator[FileReader]:
        if not path.exists():
            raise NotFound("gone")
        with path.open("rb") as file:
            yield FileReader(file.fileno(), path.stat().st_size)

    return Sibling(reading, str(path), facts)


def test_a_sibling_is_copied_without_its_holes(pour: Pour, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(IMAGE)
    with source.open("rb") as file:
        content = content_of_file(file.fileno(), len(IMAGE))
    facts, held = pour(sibling(source, {"size": len(IMAGE), "content": content, "more": "kept"}))
    assert held == [IMAGE] * 2
    assert facts["more"] == "kept"
    assert (tmp_path / "one").stat().st_blocks * 512 < MIB


def test_a_sibling_that_was_changed_or_removed_is_refused(pour: Pour, tmp_path: Path) -> None:
    source = tmp_path / "source"
    with pytest.raises(SourceError, match="removed"):
        pour(sibling(source, {"size": 0, "content": "x"}))
    for path in (tmp_path / "one", tmp_path / "two"):
        path.unlink()
    source.write_bytes(IMAGE)
    with pytest.raises(UnsafeImage) as caught:
        pour(sibling(source, {"size": len(IMAGE), "content": "content:v1:sha256:" + "0" * 64}))
    assert caught.value.facts["check"] == "content"


def test_a_template_is_made_apart_and_beats(pour: Pour, beats: list[None]) -> None:
    facts, held = pour(Template("ext4", 64 * MIB, "data", uuid.UUID(int=5)))
    assert held[0] == held[1]
    assert held[0][1024 + 56 : 1024 + 58] == b"\x53\xef", "no ext4 superblock"
    assert held[0][1024 + 104 : 1024 + 120] == uuid.UUID(int=5).bytes
    assert beats
    assert int(str(facts["bytes_written"])) < 2 * 64 * MIB
