# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Every hostile image is refused, by the check that is meant for it, and before qemu looks where that can be."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Sequence
from pathlib import Path

import hostile
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from volumes import FileSink

from ansible_collections.virt.storage.plugins.module_utils._ground.bounds import Bounds
from ansible_collections.virt.storage.plugins.module_utils._ground.command import Runner
from ansible_collections.virt.storage.plugins.module_utils._ground.errors import UnsafeImage
from ansible_collections.virt.storage.plugins.module_utils._ground.inspection import inspect
from ansible_collections.virt.storage.plugins.module_utils._ground.intake import Staging, take_in
from ansible_collections.virt.storage.plugins.module_utils._ground.sources import SourceSpec

BOUNDS = Bounds(max_source_bytes=2**35, max_virtual_size=8 * 1024**2)


def offer(case: hostile.Hostile, folder: Path, bounds: Bounds = BOUNDS) -> tuple[UnsafeImage, list[str]]:
    """Take ``case`` in. The refusal, and the programs that ran."""
    source, staging = folder / "image", folder / "staging"
    staging.mkdir()
    if callable(case.content):
        case.content(source)
    else:
        source.write_bytes(case.content)
    spec = SourceSpec(str(source), case.declared, compression=case.compression, checksum=case.checksum)
    ran: list[str] = []

    def journal(argv: Sequence[str], rc: int, seconds: float) -> None:
        ran.append(argv[0])

    sink = FileSink(folder / "volume")
    try:
        with pytest.raises(UnsafeImage) as caught:
            take_in(
                spec, bounds, [sink], runner=Runner(journal), staging=Staging(str(staging), 2**30), beat=lambda: None
            )
    finally:
        sink.close()
    assert not list(staging.iterdir())
    return caught.value, ran


@pytest.mark.parametrize("case", hostile.BEFORE_QEMU, ids=lambda case: case.name)
def test_refused_before_qemu(case: hostile.Hostile, tmp_path: Path) -> None:
    refusal, ran = offer(case, tmp_path)
    assert refusal.facts["check"] == case.check, refusal.message
    assert "qemu-img" not in ran


@pytest.mark.parametrize("case", hostile.BY_QEMU_OR_DIGEST, ids=lambda case: case.name)
def test_refused_by_qemu_or_digest(case: hostile.Hostile, tmp_path: Path) -> None:
    refusal, ran = offer(case, tmp_path, Bounds(2**35, 2**33))
    assert refusal.facts["check"] == case.check, refusal.message
    assert "qemu-img" in ran


def test_there_are_enough() -> None:
    names = [case.name for case in hostile.BEFORE_QEMU + hostile.BY_QEMU_OR_DIGEST]
    assert len(set(names)) == len(names) >= 40


MODELS = [
    ("qcow2", hostile.qcow2(disk=b"boot")),
    ("vmdk", hostile.vmdk(hostile.descriptor())),
    ("vmdk", hostile.vmdk_stream()),
    ("vhd", hostile.vhd()),
    ("vdi", hostile.vdi()),
    ("vhdx", hostile.vhdx()),
    ("raw", hostile.raw_disk()),
    ("iso", hostile.iso(partitioned=True)),
]


@pytest.mark.parametrize(("declared", "model"), MODELS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_mutated_header_is_refused_or_accepted(
    declared: str, model: bytes, data: st.DataObject, tmp_path: Path
) -> None:
    """Nothing but an ``UnsafeImage`` comes out, whatever a header says."""
    image = model
    for _unused in range(data.draw(st.integers(1, 4))):
        offset = data.draw(st.one_of(st.integers(0, 600), st.integers(0, len(model) - 1)))
        value = data.draw(st.one_of(st.binary(min_size=1, max_size=8), st.sampled_from([0, 1, 2**31, 2**64 - 1]).map(
            lambda number: struct.pack(">Q", number))))  # fmt: skip
        image = hostile.poke(image, offset, value)
    path = tmp_path / "image"
    path.write_bytes(image[: data.draw(st.one_of(st.just(len(image)), st.integers(0, len(image))))])
    with open(path, "rb") as file, contextlib.suppress(UnsafeImage):
        assert 0 < inspect(file.fileno(), declared, BOUNDS).virtual_size <= BOUNDS.max_virtual_size
