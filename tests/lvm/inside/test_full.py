# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Thin pools that are full, by data and by metadata: nothing is lost, what is refused says why, and there is a way
back (docs/guides/lvm.md)."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from contract.beds import GIB, MIB, Sparse, program
from contract.lvm_bed import GROUP, LvmBed, fresh_bed, grouped
from contract.test_volumes import DATA, cloned, filled, guest_writes, raw_file, reads_as, recorded, stat_of

from ansible_collections.virt.storage.plugins.module_utils._backends import lvm_thin
from ansible_collections.virt.storage.plugins.module_utils._backends.perform import Parts, Performer
from ansible_collections.virt.storage.plugins.module_utils._ground.command import Runner
from ansible_collections.virt.storage.plugins.module_utils._ground.errors import OutOfSpace
from ansible_collections.virt.storage.plugins.module_utils._records.types import Volume

SMALL = "small-pool"
PATIENCE = Path("/sys/module/dm_thin_pool/parameters/no_space_timeout")


@pytest.fixture
def small(request: pytest.FixtureRequest) -> Iterator[LvmBed]:
    """A pool of ``data`` bytes that has ``metadata`` for it."""
    data, metadata = request.param
    words = ["--type", "thin-pool", "-L", f"{data}b", "--poolmetadatasize", f"{metadata}b", "--chunksize", "64k"]
    program("lvcreate", "-y", *words, "--zero", "y", "-n", SMALL, GROUP)
    PATIENCE.write_text("2")  # seconds that writes wait for room, 60 by default
    with fresh_bed("thin") as bed:
        group = replace(grouped("thin"), pool=SMALL)
        bed.parts = Parts(bed.parts.records, lvm_thin.ThinVolumes(group, Runner(), bed.parts.records.locks.inherited))
        bed.perform = Performer({"p": bed.parts})
        try:
            yield bed
        finally:
            program("lvremove", "-y", "-f", f"{GROUP}/{SMALL}")
            PATIENCE.write_text("60")


def used(what: str) -> float:
    return float(program("lvs", "--noheadings", "-o", f"{what}_percent", f"{GROUP}/{SMALL}"))


def write(bed: LvmBed, volume: Volume, start: int, end: int, byte: bytes = b"w") -> None:
    """Past the page cache, so that it is known what arrived."""
    argv = [
        "dd",
        f"of={bed.at(volume)[1]}",
        "bs=1M",
        f"seek={start // MIB}",
        "iflag=fullblock",
        "oflag=direct",
        "conv=notrunc",
        "status=none",
    ]
    done = subprocess.run(argv, input=byte * (end - start), capture_output=True, timeout=120, check=False)
    if done.returncode:
        raise OSError(done.stderr.decode())


def nothing_is_begun(bed: LvmBed, image: Volume, size: int, what: str) -> None:
    fresh = [recorded(bed, bed.disk(f"n{number}")) for number in range(2)]
    for op in (
        bed.volumes.clone(image, fresh[0], size, "snapshot"),
        bed.volumes.allocate(fresh[1], MIB),
        bed.volumes.fill(recorded(bed, bed.image("other")), Sparse(MIB, {0: DATA})),
    ):
        with pytest.raises(OutOfSpace, match=rf"% of its {what} space in use.*prune"):
            bed.do(op)
    for volume in fresh:
        assert stat_of(bed, volume) is None


@pytest.mark.parametrize("small", [(64 * MIB, 4 * MIB)], indirect=True)
def test_a_pool_full_of_data(small: LvmBed, tmp_path: Path, monkeypatch: Any) -> None:
    image = filled(small, Sparse(8 * MIB, dict.fromkeys(range(0, 8 * MIB, MIB), DATA)))
    disk = cloned(small, image, 8 * MIB)
    large = recorded(small, small.disk("large"))
    small.do(small.volumes.allocate(large, 128 * MIB))
    write(small, disk, 0, MIB, b"d")
    kept = raw_file(tmp_path / "kept", 8 * MIB, {**dict.fromkeys(range(0, 8 * MIB, MIB), DATA), 0: b"d" * MIB})

    # A fill that would pass the mark ends itself, and leaves nothing.
    monkeypatch.setattr(lvm_thin, "_LOOK_SECONDS", 0.0)
    volume = recorded(small, small.image("large"))
    with pytest.raises(OutOfSpace, match="above 90 %"):
        small.do(small.volumes.fill(volume, Beating(64 * MIB)))
    assert stat_of(small, volume) is None
    assert used("data") < 30

    # Above the mark nothing is begun, and pruning works.
    write(small, large, 0, 50 * MIB)
    assert 90 < used("data") < 100
    nothing_is_begun(small, image, 8 * MIB, "data")

    # Up to the brim: writes fail, what was written stays, on every disk.
    with pytest.raises(OSError, match=r"No space left|Input/output error"):
        write(small, large, 50 * MIB, 100 * MIB)
    assert used("data") == 100
    reads_as(small, disk, kept)
    assert small.do(small.volumes.users(disk)).unknown == ""
    assert small.do(small.volumes.remove(image)).kind == "done"

    # The way back: room, by removing or by extending the pool.
    program("lvextend", "-L", "+64m", f"{GROUP}/{SMALL}")
    write(small, large, 50 * MIB, 60 * MIB)
    expected = raw_file(tmp_path / "large", 128 * MIB, {0: b"w" * (60 * MIB)})
    assert Path(small.at(large)[1]).read_bytes()[: 60 * MIB] == expected.read_bytes()[: 60 * MIB]
    reads_as(small, disk, kept)
    assert small.do(small.volumes.remove(large)).kind == "done"
    other = filled(small, Sparse(MIB, {0: DATA}), "again")
    assert cloned(small, other, MIB)


class Beating:
    """Content that gives a sign of life after each MiB."""

    def __init__(self, size: int) -> None:
        self.size = size

    def pour(self, sinks: Any, means: Any) -> Any:
        for sink in sinks:
            sink.set_size(self.size)
        for offset in range(0, self.size, MIB):
            for sink in sinks:
                sink.write(offset, DATA)
                sink.sync()
            means.beat()
        return {"size": self.size, "content": ""}


@pytest.mark.parametrize("small", [(2 * GIB, 2 * MIB)], indirect=True)
def test_a_pool_full_of_metadata(small: LvmBed) -> None:
    """Each clone whose guest writes here and there takes tables of its own: eight that do, take more than there is."""
    size = GIB
    base = recorded(small, small.disk("base"))
    small.do(small.volumes.allocate(base, size))
    assert written([small.at(base)[1]], b"b", range(0, size, 64 << 10)) == 1
    clones = [recorded(small, small.disk(f"c{number}")) for number in range(8)]
    ended = small.do_all([small.volumes.clone(base, clone, size, "snapshot") for clone in clones])
    assert [each.unwrap().kind for each in ended] == ["done"] * 8
    places, whole = [small.at(clone)[1] for clone in clones], 0
    while used("metadata") <= lvm_thin.METADATA_WATERMARK:
        assert written(places[whole : whole + 1], b"c", range(0, size, 8 * MIB)) == 1
        whole += 1
    assert used("data") < lvm_thin.DATA_WATERMARK
    nothing_is_begun(small, base, size, "metadata")

    # Up to the brim, as guests do that know nothing of it.
    whole += written(places[whole:], b"c", range(0, size, 8 * MIB))
    assert whole < len(places), "the metadata was never full"

    # The way back: the pool out of use, repaired, its metadata extended.
    every = [f"{GROUP}/{volume.name}" for volume in (base, *clones)]
    program("lvchange", "-an", *every, f"{GROUP}/{SMALL}")
    program("lvconvert", "-y", "--repair", f"{GROUP}/{SMALL}")
    checked = 'global/thin_check_options=["-q","--clear-needs-check-flag"]'
    program("lvextend", "--config", checked, "--poolmetadatasize", "+16m", f"{GROUP}/{SMALL}")
    program("lvchange", "-ay", "-K", *every)
    guest_writes(small, base, *(f"read -P 0x62 {offset} 512" for offset in range(0, size, 8 * MIB)))
    for clone in clones[:whole]:
        guest_writes(small, clone, *(f"read -P 0x63 {offset} 512" for offset in range(0, size, 8 * MIB)))
    assert cloned(small, base, size, "snapshot")
    assert written([small.at(clones[-1])[1]], b"d", range(0, size, 8 * MIB)) == 1
    ended = small.do_all([small.volumes.remove(clone) for clone in clones])
    assert [each.unwrap().kind for each in ended] == ["done"] * 8


def written(places: Sequence[str], byte: bytes, offsets: Sequence[int]) -> int:
    """Write a sector at each offset of each device, and sync each device; how many of them took it all."""
    for number, place in enumerate(places):
        try:
            with open(place, "r+b", buffering=0) as device:
                for offset in offsets:
                    os.pwrite(device.fileno(), byte * 512, offset)
                os.fsync(device.fileno())
        except OSError:
            return number
    return len(places)
