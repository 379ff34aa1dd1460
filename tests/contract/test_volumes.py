# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Every promise of ``_backends/contract.py``, on every backend."""

from __future__ import annotations

import subprocess
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.virt.storage.plugins.module_utils._backends.contract import Stat
from ansible_collections.virt.storage.plugins.module_utils._ground.bounds import Bounds
from ansible_collections.virt.storage.plugins.module_utils._ground.contents import Incoming, Literal, Template
from ansible_collections.virt.storage.plugins.module_utils._ground.errors import StorageError
from ansible_collections.virt.storage.plugins.module_utils._ground.sources import SourceSpec
from ansible_collections.virt.storage.plugins.module_utils._records.types import Disk, Image, State, Volume

from .beds import MIB, Bed, RealBed, Sparse, program

TIB = 1 << 40
BOUNDS = Bounds(max_source_bytes=1 << 34, max_virtual_size=1 << 34, timeout=60)
DATA = bytes(range(256)) * 4096  # 1 MiB


def recorded(bed: Bed, record: Disk | Image) -> Volume:
    """A record of its own comes before every volume."""
    bed.do(bed.records.create(record, State.FILLING if isinstance(record, Image) else State.PENDING))
    return record.volume


def filled(bed: Bed, content: Any, key: str = "k") -> Volume:
    """A sealed image."""
    volume = recorded(bed, bed.image(key))
    bed.do(bed.volumes.fill(volume, content))
    bed.do(bed.volumes.seal(volume))
    return volume


def cloned(bed: Bed, image: Volume, size: int, how: str = "") -> Volume:
    how = how or bed.capabilities.default_clone
    volume = recorded(bed, bed.disk(format=bed.capabilities.clones[how]))
    assert bed.do(bed.volumes.clone(image, volume, size, how)).kind == "done"
    return volume


def backing(bed: Bed, image: Volume, how: str = "") -> str | None:
    """What a clone points to: nothing where it is independent at once."""
    return None if (how or bed.capabilities.default_clone) in bed.capabilities.independent else image.name


def raw_file(path: Path, size: int, pieces: dict[int, bytes]) -> Path:
    """What a guest should read."""
    with path.open("wb") as file:
        file.truncate(size)
        for offset, data in pieces.items():
            file.seek(offset)
            file.write(data)
    return path


def reads_as(bed: RealBed, volume: Volume, expected: Path) -> None:
    """A guest reads what ``expected`` holds, and as many bytes."""
    stat: Stat = bed.do(bed.volumes.stat(volume))
    assert stat.size == expected.stat().st_size
    format, name = bed.at(volume)
    program("qemu-img", "compare", "-U", "-f", format, "-F", "raw", name, str(expected))


def guest_writes(bed: RealBed, volume: Volume, *commands: str) -> None:
    format, name = bed.at(volume)
    program("qemu-io", "-f", format, *[word for command in commands for word in ("-c", command)], name)


def stat_of(bed: Bed, volume: Volume) -> Stat | None:
    stat: Stat | None = bed.do(bed.volumes.stat(volume))
    return stat


# Looking


def test_the_inventory_shows_every_volume_with_its_native_id(bed: Bed) -> None:
    assert bed.do(bed.volumes.inventory()) == {}
    volumes = [recorded(bed, bed.disk(f"i{number}")) for number in range(3)]
    for volume in volumes:
        bed.do(bed.volumes.allocate(volume, MIB))
    image = filled(bed, "k" if bed.capabilities.backend == "world" else Literal(lambda: DATA))
    inventory = bed.another().do(bed.volumes.inventory())
    assert inventory.keys() == {volume.name for volume in [*volumes, image]}
    for volume in [*volumes, image]:
        found = stat_of(bed, volume)
        assert found is not None
        assert found.native == inventory[volume.name]
    assert len(set(inventory.values())) == 4


def test_a_volume_that_is_not_there_has_no_stat_and_no_users(bed: Bed) -> None:
    volume = recorded(bed, bed.disk())
    assert stat_of(bed, volume) is None
    assert not bed.do(bed.volumes.users(volume))


@pytest.mark.promise("data")
def test_the_capacity_bounds_what_is_free(bed: RealBed) -> None:
    total, free = bed.do(bed.volumes.capacity())
    assert 0 < free <= total


# Allocating


@pytest.mark.promise("data")
@pytest.mark.parametrize("size", [MIB, 5000, 3 << 30])
def test_a_blank_volume_reads_as_zeroes(bed: RealBed, size: int, tmp_path: Path) -> None:
    for format in bed.capabilities.disk_names:
        volume = recorded(bed, bed.disk(format=format))
        assert bed.do(bed.volumes.allocate(volume, size)).kind == "done"
        stat = stat_of(bed, volume)
        assert stat is not None
        assert size <= stat.size < size + 4 * MIB, "whole sectors or extents, and no more"
        reads_as(bed, volume, raw_file(tmp_path / "zero", stat.size, {}))
        assert bed.do(bed.volumes.pointer(volume)) is None


@pytest.mark.promise("data")
def test_allocating_never_touches_what_is_there(bed: RealBed, tmp_path: Path) -> None:
    for format in bed.capabilities.disk_names:
        volume = recorded(bed, bed.disk(format=format))
        bed.do(bed.volumes.allocate(volume, MIB))
        guest_writes(bed, volume, "write -P 7 4096 512")
        assert bed.do(bed.volumes.allocate(volume, 2 * MIB)).kind != "done"
        reads_as(bed, volume, raw_file(tmp_path / "kept", MIB, {4096: b"\7" * 512}))


@pytest.mark.promise("data")
def test_a_volume_of_no_size_is_refused_and_leaves_nothing(bed: RealBed) -> None:
    volume = recorded(bed, bed.disk())
    with pytest.raises(StorageError):
        bed.do(bed.volumes.allocate(volume, 0))
    assert stat_of(bed, volume) is None


# Filling


@pytest.mark.promise("data")
def test_an_image_holds_what_it_was_filled_with(bed: RealBed, tmp_path: Path) -> None:
    source = raw_file(tmp_path / "source.raw", 9 * MIB, {0: DATA, 5 * MIB + 512: b"x" * 512})
    qcow2 = tmp_path / "source.qcow2"
    program("qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(source), str(qcow2))
    contents = {
        "raw": Incoming(SourceSpec(str(source), "raw"), BOUNDS),
        "qcow2": Incoming(SourceSpec(str(qcow2), "qcow2"), BOUNDS),
        "sparse": Sparse(9 * MIB, {0: DATA, 5 * MIB + 512: b"x" * 512}),
    }
    told = set()
    for key, content in contents.items():
        volume = recorded(bed, bed.image(key))
        facts = bed.do(bed.volumes.fill(volume, content))
        assert facts["size"] == 9 * MIB
        reads_as(bed, volume, source)
        assert bed.do(bed.volumes.digest(volume)) == facts["content"]
        told.add(facts["content"])
    assert len(told) == 1, "one content, one digest, whatever way it came"


@pytest.mark.promise("data")
def test_a_literal_is_padded_to_sectors(bed: RealBed, tmp_path: Path) -> None:
    volume = recorded(bed, bed.image())
    facts = bed.do(bed.volumes.fill(volume, Literal(lambda: b"abc")))
    assert facts["size"] == 512
    reads_as(bed, volume, raw_file(tmp_path / "expected", 512, {0: b"abc"}))


@pytest.mark.promise("data")
def test_a_template_is_a_file_system(bed: RealBed, tmp_path: Path) -> None:
    volume = recorded(bed, bed.image())
    identity = uuid.UUID(int=7)
    facts = bed.do(bed.volumes.fill(volume, Template("ext4", 16 * MIB, "label", identity)))
    assert facts["content"] == bed.do(bed.volumes.digest(volume))
    format, name = bed.at(volume)
    copy = str(tmp_path / "copy")
    program("qemu-img", "convert", "-U", "-f", format, "-O", "raw", name, copy)
    assert program("blkid", "-p", "-o", "value", "-s", "UUID", copy).strip() == str(identity)
    program("e2fsck", "-fn", copy)


@pytest.mark.promise("data")
def test_a_fill_that_fails_leaves_a_name_that_can_be_removed(bed: RealBed, tmp_path: Path) -> None:
    volume = recorded(bed, bed.image())
    source = raw_file(tmp_path / "source", MIB, {0: DATA})
    wrong = "sha256:" + "0" * 64
    with pytest.raises(StorageError) as caught:
        bed.do(bed.volumes.fill(volume, Incoming(SourceSpec(str(source), "raw", checksum=wrong), BOUNDS)))
    assert caught.value.facts["check"] == "checksum"
    assert bed.do(bed.volumes.remove(volume))
    assert stat_of(bed, volume) is None


@pytest.mark.promise("data")
def test_filling_never_touches_what_is_there(bed: RealBed) -> None:
    volume = filled(bed, Literal(lambda: DATA))
    before = bed.do(bed.volumes.digest(volume))
    with pytest.raises(StorageError):
        bed.do(bed.volumes.fill(volume, Literal(lambda: b"other")))
    assert bed.do(bed.volumes.digest(volume)) == before


# Sealing


@pytest.mark.promise("data")
def test_a_sealed_image_cannot_be_written_and_can_be_sealed_again(bed: RealBed) -> None:
    fresh = recorded(bed, bed.image("fresh"))
    bed.do(bed.volumes.fill(fresh, Literal(lambda: DATA)))
    assert not bed.do(bed.volumes.sealed(fresh))
    volume = filled(bed, Literal(lambda: DATA))
    assert bed.do(bed.volumes.sealed(volume))
    assert bed.do(bed.volumes.seal(volume))
    before = bed.do(bed.volumes.digest(volume))
    format, name = bed.at(volume)
    done = subprocess.run(["qemu-io", "-f", format, "-c", "write -P 1 0 512", name], check=False, timeout=30)
    assert done.returncode != 0, "a sealed image took a write of root's"
    assert bed.do(bed.volumes.digest(volume)) == before


@pytest.mark.promise("data")
def test_a_sealed_image_can_be_removed(bed: RealBed) -> None:
    volume = filled(bed, Literal(lambda: DATA))
    assert bed.do(bed.volumes.remove(volume)).kind == "done"
    assert stat_of(bed, volume) is None


# Cloning


@pytest.mark.promise("data")
@pytest.mark.parametrize("how", ["default", "copy", pytest.param("reflink", marks=pytest.mark.promise("reflink"))])
def test_a_clone_begins_with_its_image_and_leaves_it_alone(bed: RealBed, how: str, tmp_path: Path) -> None:
    pieces = {0: DATA, 3 * MIB: b"y" * 4096}
    image = filled(bed, Sparse(4 * MIB, pieces))
    before = bed.do(bed.volumes.digest(image))
    same, larger = (cloned(bed, image, size, "" if how == "default" else how) for size in (4 * MIB, 6 * MIB))
    reads_as(bed, same, raw_file(tmp_path / "same", 4 * MIB, pieces))
    reads_as(bed, larger, raw_file(tmp_path / "larger", 6 * MIB, pieces))
    guest_writes(bed, same, "write -P 9 0 4096")
    reads_as(bed, larger, tmp_path / "larger")
    reads_as(bed, same, raw_file(tmp_path / "same", 4 * MIB, {**pieces, 0: b"\x09" * 4096 + DATA[4096:]}))
    assert bed.do(bed.volumes.digest(image)) == before
    assert bed.do(bed.volumes.pointer(same)) == backing(bed, image, "" if how == "default" else how)


@pytest.mark.promise("data", "sparse")
def test_a_clone_costs_the_same_whatever_the_size_of_its_image(bed: RealBed) -> None:
    small = filled(bed, Literal(lambda: DATA), "small")
    image = filled(bed, Sparse(TIB, {0: DATA, TIB - 512: b"z" * 512}))
    began = time.monotonic()
    cloned(bed, small, MIB)
    between = time.monotonic()
    volume = cloned(bed, image, TIB)
    assert time.monotonic() - between < 2 + 2 * (between - began)
    stat = stat_of(bed, volume)
    assert stat is not None
    assert stat.size == TIB
    assert stat.allocated < 2 * MIB, "what it shares with its image, at most"
    format, name = bed.at(volume)
    program("qemu-io", "-r", "-f", format, "-c", f"read -P 0x7a {TIB - 512} 512", name)


@pytest.mark.promise("data")
@pytest.mark.parametrize("how", ["default", "copy"])
def test_a_clone_smaller_than_its_image_or_of_no_image_is_refused(bed: RealBed, how: str) -> None:
    how = bed.capabilities.default_clone if how == "default" else how
    image = filled(bed, Literal(lambda: DATA))
    nothing = recorded(bed, bed.image("other"))
    volume = recorded(bed, bed.disk(format=bed.capabilities.clones[how]))
    too_small = bed.do(bed.volumes.clone(image, volume, MIB - 512, how))
    missing = bed.do(bed.volumes.clone(nothing, volume, MIB, how))
    assert (too_small.kind, missing.kind) == ("refused", "refused")
    assert str(MIB) in too_small.why
    assert stat_of(bed, volume) is None


def test_an_image_without_a_volume_is_not_cloned(bed: Bed) -> None:
    image, disk = bed.image(), bed.disk()
    recorded(bed, image)
    recorded(bed, disk)
    how = bed.capabilities.default_clone
    assert bed.do(bed.volumes.clone(image.volume, disk.volume, MIB, how)).kind == "refused"
    assert stat_of(bed, disk.volume) is None


@pytest.mark.promise("data")
def test_cloning_never_touches_what_is_there(bed: RealBed, tmp_path: Path) -> None:
    image = filled(bed, Literal(lambda: DATA))
    for how in (bed.capabilities.default_clone, "copy"):
        volume = recorded(bed, bed.disk(format=bed.capabilities.clones[how]))
        bed.do(bed.volumes.allocate(volume, 2 * MIB))
        assert bed.do(bed.volumes.clone(image, volume, MIB, how)).kind != "done"
        reads_as(bed, volume, raw_file(tmp_path / "kept", 2 * MIB, {}))


@pytest.mark.promise("data")
def test_a_batch_of_clones_has_each_its_own_fate(bed: RealBed, tmp_path: Path) -> None:
    image = filled(bed, Literal(lambda: DATA))
    how = bed.capabilities.default_clone
    disks = [bed.disk(f"i{number}", format=bed.capabilities.clones[how]) for number in range(12)]
    for disk in disks:
        recorded(bed, disk)
    sizes = [MIB, MIB - 512] * 6
    ended = bed.do_all([bed.volumes.clone(image, disk.volume, size, how) for disk, size in zip(disks, sizes)])
    assert [each.unwrap().kind for each in ended] == ["done", "refused"] * 6
    expected = raw_file(tmp_path / "expected", MIB, {0: DATA})
    for disk in disks[::2]:
        reads_as(bed, disk.volume, expected)
    assert [stat_of(bed, disk.volume) for disk in disks[1::2]] == [None] * 6


# Growing


@pytest.mark.promise("data")
def test_a_volume_grows_by_zeroes_and_never_shrinks(bed: RealBed, tmp_path: Path) -> None:
    for format in bed.capabilities.disk_names:
        volume = recorded(bed, bed.disk(format=format))
        bed.do(bed.volumes.allocate(volume, MIB))
        guest_writes(bed, volume, f"write -P 5 0 {MIB}")
        assert bed.do(bed.volumes.grow(volume, 3 * MIB)).kind == "done"
        assert bed.do(bed.volumes.grow(volume, 3 * MIB)).kind == "already"
        assert bed.do(bed.volumes.grow(volume, 2 * MIB)).kind == "already"
        reads_as(bed, volume, raw_file(tmp_path / "grown", 3 * MIB, {0: b"\5" * MIB}))


@pytest.mark.promise("data")
def test_a_clone_grows_by_zeroes(bed: RealBed, tmp_path: Path) -> None:
    image = filled(bed, Literal(lambda: DATA))
    volume = cloned(bed, image, MIB)
    assert bed.do(bed.volumes.grow(volume, 2 * MIB)).kind == "done"
    reads_as(bed, volume, raw_file(tmp_path / "grown", 2 * MIB, {0: DATA}))
    assert bed.do(bed.volumes.pointer(volume)) == backing(bed, image)


@pytest.mark.promise("data")
def test_a_volume_that_is_missing_does_not_grow(bed: RealBed) -> None:
    volume = recorded(bed, bed.disk())
    assert bed.do(bed.volumes.grow(volume, MIB)).kind == "refused"
    assert stat_of(bed, volume) is None


# Flattening


@pytest.mark.promise("data")
def test_a_flat_volume_needs_no_image(bed: RealBed, tmp_path: Path) -> None:
    image = filled(bed, Literal(lambda: DATA))
    volume = cloned(bed, image, 2 * MIB)
    guest_writes(bed, volume, "write -P 3 512 512", f"write -P 4 {MIB} 512")
    expected = raw_file(tmp_path / "e", 2 * MIB, {0: DATA[:512] + b"\3" * 512 + DATA[1024:], MIB: b"\4" * 512})
    assert bed.do(bed.volumes.flatten(volume)).kind == ("done" if backing(bed, image) else "already")
    assert bed.do(bed.volumes.pointer(volume)) is None
    assert bed.do(bed.volumes.flatten(volume)).kind == "already"
    bed.do(bed.volumes.remove(image))
    reads_as(bed, volume, expected)


@pytest.mark.promise("data")
def test_a_volume_in_use_is_neither_flattened_nor_removed(bed: RealBed, tmp_path: Path) -> None:
    image = filled(bed, Literal(lambda: DATA))
    volume = cloned(bed, image, MIB)
    format, name = bed.at(volume)
    with subprocess.Popen(["qemu-io", "-f", format, name], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as guest:
        wait_for_use(bed, volume)
        flatten = [bed.volumes.flatten(volume)] if backing(bed, image) else []
        for op in (*flatten, bed.volumes.remove(volume)):
            outcome = bed.do(op)
            assert outcome.kind == "refused"
            assert "use" in outcome.why
        assert bed.do(bed.volumes.pointer(volume)) == backing(bed, image)
        guest.communicate(b"quit\n", timeout=30)
    reads_as(bed, volume, raw_file(tmp_path / "expected", MIB, {0: DATA}))
    assert bed.do(bed.volumes.flatten(volume)).kind == ("done" if backing(bed, image) else "already")
    assert bed.do(bed.volumes.remove(volume)).kind == "done"


@pytest.mark.promise("data", "backing")
def test_an_image_is_in_use_while_a_disk_on_it_is(bed: RealBed) -> None:
    image = filled(bed, Literal(lambda: DATA))
    volume = cloned(bed, image, MIB)
    format, name = bed.at(volume)
    with subprocess.Popen(["qemu-io", "-f", format, name], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as guest:
        wait_for_use(bed, volume)
        assert bed.do(bed.volumes.users(image))
        assert bed.do(bed.volumes.remove(image)).kind == "refused"
        guest.communicate(b"quit\n", timeout=30)
    assert not bed.do(bed.volumes.users(image))


def wait_for_use(bed: Bed, volume: Volume) -> None:
    deadline = time.monotonic() + 20
    while not bed.do(bed.volumes.users(volume)):
        assert time.monotonic() < deadline, "nobody uses it, it seems"
        time.sleep(0.02)


# Removing


def test_removing_is_done_once_and_leaves_the_others(bed: Bed) -> None:
    volumes = [recorded(bed, bed.disk(f"i{number}")) for number in range(3)]
    for volume in volumes[:2]:
        bed.do(bed.volumes.allocate(volume, MIB))
    ended = bed.do_all([bed.volumes.remove(volume) for volume in volumes[1:]])
    assert [each.unwrap().kind for each in ended] == ["done", "already"]
    assert bed.do(bed.volumes.remove(volumes[1])).kind == "already"
    assert stat_of(bed, volumes[0]) is not None
    assert bed.do(bed.volumes.inventory()).keys() == {volumes[0].name}


def test_a_sweep_of_a_clean_pool_clears_nothing(bed: Bed) -> None:
    volume = recorded(bed, bed.disk())
    bed.do(bed.volumes.allocate(volume, MIB))
    assert bed.do(bed.volumes.sweep()) == []
    assert stat_of(bed, volume) is not None
