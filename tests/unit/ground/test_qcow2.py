# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What we write, qemu must read; what qemu writes, we must read; what is wrong, we must refuse."""

from __future__ import annotations

import json
import os
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ansible_collections.virt.storage.plugins.module_utils._ground import qcow2
from ansible_collections.virt.storage.plugins.module_utils._ground.errors import BadInput, LostMetadata, StorageError
from ansible_collections.virt.storage.plugins.module_utils._ground.qcow2_pointer import (
    Pointer,
    read_pointer,
    restore_pointer,
    write_backing,
)

MIB = 1 << 20
TIB = 1 << 40


def run(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{' '.join(argv)}: {done.stderr}{done.stdout}"
    return done.stdout


def info(path: Path) -> dict[str, object]:
    found = json.loads(run("qemu-img", "info", "-f", "qcow2", "-U", "--output=json", str(path)))
    assert isinstance(found, dict)
    return found


def check(path: Path) -> None:
    found = json.loads(run("qemu-img", "check", "-f", "qcow2", "--output=json", str(path)))
    assert not found.get("leaks"), found
    assert not found.get("corruptions"), found


@contextmanager
def opened(path: Path, flags: int = os.O_RDWR | os.O_CREAT) -> Iterator[int]:
    fd = os.open(path, flags, 0o600)
    try:
        yield fd
    finally:
        os.close(fd)


def written(path: Path, pieces: qcow2.Pieces) -> Path:
    with opened(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC) as fd:
        qcow2.write_pieces(fd, pieces)
    return path


def header_of(path: Path) -> qcow2.Header:
    with opened(path, os.O_RDONLY) as fd:
        return qcow2.read_header(fd)


def pattern(path: Path, *commands: str) -> None:
    """Let qemu-io run commands; a pattern that is not found fails."""
    argv = ["qemu-io", "-f", "qcow2"]
    for command in commands:
        argv += ["-c", command]
    assert "verification failed" not in run(*argv, str(path))


def largest(cluster_size: int) -> int:
    """The largest virtual size with a 32 MiB L1 table."""
    return (32 * MIB // 8) * (cluster_size // 8) * cluster_size


@st.composite
def shapes(draw: st.DrawFn) -> tuple[int, int]:
    cluster = 1 << draw(st.integers(9, 21))
    limit = min(largest(cluster), 64 * TIB)
    per_l1_entry = cluster * cluster // 8
    edge = st.integers(1, max(1, limit // per_l1_entry)).flatmap(
        lambda entries: st.sampled_from([entries * per_l1_entry + off for off in (-512, 0, 512)])
    )
    size = draw(st.one_of(st.integers(1, 4096), st.integers(1, limit), edge, st.just(limit)))
    return min(max(size, 1), limit), cluster


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shapes(), st.booleans())
def test_qemu_accepts_every_shape(tmp_path: Path, shape: tuple[int, int], alone: bool) -> None:
    size, cluster = shape
    base = tmp_path / "base.raw"
    with base.open("wb") as file:
        file.truncate(MIB)
        file.write(b"B" * MIB)
    pieces = qcow2.overlay_image(size, None if alone else str(base), cluster_size=cluster)
    path = written(tmp_path / "disk", pieces)
    check(path)
    found = info(path)
    assert found["virtual-size"] == pieces.virtual_size == -(-size // 512) * 512
    assert found["cluster-size"] == cluster
    assert found.get("backing-filename") == (None if alone else str(base))
    assert found.get("backing-filename-format") == (None if alone else "raw")
    assert path.stat().st_size == pieces.length

    header = header_of(path)
    assert (header.virtual_size, header.cluster_size) == (pieces.virtual_size, cluster)
    assert header.backing_file == (None if alone else str(base))

    last = pieces.virtual_size - 512
    before = "0" if alone or last >= MIB else "0x42"
    pattern(path, f"read -P {before} {last} 512", f"write -P 0x5a {last} 512", f"read -P 0x5a {last} 512")
    check(path)
    assert base.read_bytes() == b"B" * MIB


def test_an_overlay_of_64_tib_costs_three_small_writes(tmp_path: Path) -> None:
    pieces = qcow2.overlay_image(64 * TIB, "/pool/base")
    assert len(pieces.parts) == 3
    assert sum(len(data) for _offset, data in pieces.parts) < 400
    assert written(tmp_path / "disk", pieces).stat().st_blocks * 512 <= 64 * 1024


def test_a_large_l1_table_needs_several_refcount_blocks(tmp_path: Path) -> None:
    path = written(tmp_path / "disk", qcow2.overlay_image(largest(512), None, cluster_size=512))
    assert header_of(path).refcount_clusters > 1
    check(path)


def test_the_overlay_reads_its_base_and_keeps_it(tmp_path: Path) -> None:
    base = tmp_path / "base.raw"
    base.write_bytes(b"\x11" * MIB)
    path = written(tmp_path / "disk", qcow2.overlay_image(3 * MIB, str(base)))
    pattern(
        path, "read -P 0x11 0 1M", "read -P 0 1M 2M", "write -P 0x22 4k 8k", "read -P 0x11 0 4k", "read -P 0x22 4k 8k"
    )
    run("qemu-img", "resize", "-q", "-f", "qcow2", str(path), "5G")
    check(path)
    assert base.read_bytes() == b"\x11" * MIB


def test_a_backing_qcow2_is_named_as_such(tmp_path: Path) -> None:
    base = written(tmp_path / "base", qcow2.overlay_image(MIB, None))
    path = written(tmp_path / "disk", qcow2.overlay_image(MIB, str(base), "qcow2"))
    assert info(path)["backing-filename-format"] == "qcow2"
    pattern(path, "read -P 0 0 1M")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((0, None), "at least one byte"),
        ((-5, None), "at least one byte"),
        ((MIB, "relative"), "not absolute"),
        ((MIB, "/a\0b"), "not absolute"),
        ((MIB, "/" + "x" * 1023), "at most 1023"),
        ((MIB, "/" + "ü" * 600), "at most 1023"),
        ((MIB, "/base", "vmdk"), "raw or qcow2"),
        ((MIB, None, "raw", 1000), "power of two"),
        ((MIB, None, "raw", 256), "power of two"),
        ((MIB, None, "raw", 1 << 22), "power of two"),
        ((largest(512) + 1, None, "raw", 512), "at most 137438953472"),
        ((MIB, "/" + "x" * 500, "raw", 512), "larger clusters"),
    ],
)
def test_what_cannot_be_made_is_refused(arguments: tuple[int, str | None], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        qcow2.overlay_image(*arguments)


def test_the_longest_path_fits(tmp_path: Path) -> None:
    path = written(tmp_path / "disk", qcow2.overlay_image(MIB, "/" + "x" * 1022))
    assert info(path)["backing-filename"] == "/" + "x" * 1022


MADE = [
    "compat=1.1",
    "compat=0.10",
    "cluster_size=512",
    "cluster_size=2M",
    "lazy_refcounts=on",
    "extended_l2=on",
    "compression_type=zstd",
    "refcount_bits=64",
]


@pytest.mark.parametrize("options", MADE)
@pytest.mark.parametrize("backing", ["raw", "qcow2", None])
def test_what_qemu_made_is_read(tmp_path: Path, options: str, backing: str | None) -> None:
    path, base = tmp_path / "disk", tmp_path / "base"
    more = []
    if backing:
        run("qemu-img", "create", "-q", "-f", backing, str(base), "1M")
        more = ["-b", str(base), "-F", backing]
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, *more, str(path), "7M")
    header, found = header_of(path), info(path)
    assert header.virtual_size == found["virtual-size"] == 7 * MIB
    assert header.cluster_size == found["cluster-size"]
    assert header.backing_file == found.get("backing-filename") == (str(base) if backing else None)
    assert header.backing_format == found.get("backing-filename-format") == backing
    assert header.version == (2 if options == "compat=0.10" else 3)
    details = found["format-specific"]
    assert isinstance(details, dict)
    assert header.refcount_bits == details["data"]["refcount-bits"]
    with opened(path, os.O_RDONLY) as fd:
        assert qcow2.read_size(fd) == 7 * MIB


def test_snapshots_bitmaps_and_data_files_are_seen(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    data = tmp_path / "data"
    run("qemu-img", "create", "-q", "-f", "qcow2", str(path), "1M")
    run("qemu-img", "snapshot", "-q", "-c", "one", str(path))
    run("qemu-img", "bitmap", "--add", "-f", "qcow2", str(path), "dirt")
    header = header_of(path)
    assert header.snapshots == 1
    assert [extension.kind for extension in header.extensions if extension.kind == 0x23852875]
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", f"data_file={data}", str(path), "1M")
    assert header_of(path).incompatible & qcow2.DATA_FILE


def damaged(tmp_path: Path, offset: int, field: bytes) -> Path:
    path = written(tmp_path / "disk", qcow2.overlay_image(MIB, "/base"))
    with opened(path) as fd:
        os.pwrite(fd, field, offset)
    return path


@pytest.mark.parametrize(
    ("offset", "field", "says"),
    [
        (0, b"QFI\xfa", "does not begin with a qcow2 header"),
        (4, struct.pack(">I", 4), "version is 4"),
        (8, struct.pack(">Q", 1 << 63), "backing name is out of bounds"),
        (8, struct.pack(">Q", 16), "backing name is no file name"),
        (16, struct.pack(">I", 0xFFFFFFFF), "backing name is out of bounds"),
        (128, b"/ba\0e", "backing name is no file name"),
        (20, struct.pack(">I", 8), "cluster size is out of bounds"),
        (20, struct.pack(">I", 63), "cluster size is out of bounds"),
        (24, struct.pack(">Q", 1 << 62), "L1 table is out of bounds"),
        (32, struct.pack(">I", 3), "encryption is out of bounds"),
        (36, struct.pack(">I", 0xFFFFFFFF), "L1 table is out of bounds"),
        (40, struct.pack(">Q", 12345), "L1 table is out of bounds"),
        (48, struct.pack(">Q", 0), "refcount table is out of bounds"),
        (96, struct.pack(">I", 7), "refcount order is out of bounds"),
        (100, struct.pack(">I", 0xFFFFFFF8), "header length is out of bounds"),
        (104, struct.pack(">II", 0x12345678, 0xFFFFFFFF), "runs out of the header"),
    ],
)
def test_nonsense_is_refused(tmp_path: Path, offset: int, field: bytes, says: str) -> None:
    with pytest.raises(LostMetadata, match=says), opened(damaged(tmp_path, offset, field)) as fd:
        qcow2.read_header(fd, "web1-root")


def test_an_unknown_feature_is_refused_and_no_record_is_blamed(tmp_path: Path) -> None:
    with opened(damaged(tmp_path, 72, struct.pack(">Q", 1 << 40))) as fd, pytest.raises(StorageError, match="0x1000"):
        qcow2.read_header(fd)


def test_a_doubled_extension_is_refused(tmp_path: Path) -> None:
    twice = struct.pack(">II8s", 0xE2792ACA, 3, b"raw") * 2 + bytes(8)
    with opened(damaged(tmp_path, 104, twice)) as fd:
        os.pwrite(fd, struct.pack(">QI", 200, 5), 8)
        with pytest.raises(LostMetadata, match="there twice"):
            qcow2.read_header(fd)


@pytest.mark.parametrize("content", [b"", b"QFI\xfb", b"QFI\xfb" + struct.pack(">I", 3) + bytes(20), b"\0" * 65536])
def test_a_cut_off_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "disk"
    path.write_bytes(content)
    with opened(path) as fd:
        for read in (qcow2.read_header, qcow2.read_size):
            with pytest.raises(LostMetadata):
                read(fd)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_noise_is_read_or_refused_but_never_trusted(tmp_path: Path, data: st.DataObject) -> None:
    cluster = bytearray(65536)
    offset, header = qcow2.overlay_image(MIB, "/base").parts[0]
    cluster[offset : len(header)] = header
    for _change in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(4, len(header) - 8))
        cluster[at : at + 8] = data.draw(st.binary(min_size=8, max_size=8))
    path = tmp_path / "noise"
    path.write_bytes(cluster)
    with opened(path, os.O_RDONLY) as fd:
        try:
            found = qcow2.read_header(fd)
        except StorageError:
            return
    assert len(os.fsencode(found.backing_file or "")) <= 1023
    assert all(len(extension.data) <= found.cluster_size for extension in found.extensions)


def disk_with_backing(tmp_path: Path, options: str, named: bool, old: str) -> Path:
    path = tmp_path / "disk"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, str(path), "2M")
    if old:
        run("qemu-img", "rebase", "-u", "-f", "qcow2", "-b", old, "-F", "raw", str(path))
        if not named:
            strip_format(path)
    return path


def strip_format(path: Path) -> None:
    """Take the backing format away, as Nova left it out until 2020: qemu-img of today will not."""
    with opened(path) as fd:
        cluster = qcow2.read_cluster(fd, "it")
        header = qcow2.parse_header(cluster, "it")
        kept = [extension for extension in header.extensions if extension.kind != qcow2.FORMAT_NAME]
        backing = os.fsencode(header.backing_file or "")
        area = cluster[: header.length] + qcow2.pack_extensions(kept)
        new = bytearray(area + backing)
        struct.pack_into(">QI", new, 8, len(area), len(backing))
        os.pwrite(fd, bytes(new) + bytes(4096 - len(new)), 0)


@pytest.mark.parametrize("options", ["compat=1.1", "compat=0.10", "cluster_size=4096"])
@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("old_length", [20, 300, 900])
@pytest.mark.parametrize("new_length", [20, 300, 900])
def test_the_pointer_changes_and_comes_back_bit_for_bit(
    tmp_path: Path, options: str, named: bool, old_length: int, new_length: int
) -> None:
    old, new = "/o" * (old_length // 2), "/n" * (new_length // 2)
    path = disk_with_backing(tmp_path, options, named, old)
    before = path.read_bytes()
    with opened(path) as fd:
        pointer = write_backing(fd, new)
        assert pointer == Pointer(**json.loads(json.dumps(pointer.__dict__)))
        assert (pointer.backing_file, pointer.backing_format) == (old, "raw" if named else None)
        changed = read_pointer(fd)
    found = info(path)
    assert (found["backing-filename"], found["backing-filename-format"]) == (new, "raw")
    assert (changed.backing_file, changed.backing_format) == (new, "raw")
    assert path.read_bytes()[65536:] == before[65536:]
    with opened(path) as fd:
        for _twice in range(2):
            restore_pointer(fd, pointer)
            assert path.read_bytes() == before


@pytest.mark.parametrize("options", ["compat=1.1", "compat=0.10"])
def test_the_guest_reads_the_same_through_the_new_pointer(tmp_path: Path, options: str) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_bytes(b"\x11" * 2 * MIB)
    os.link(first, second)
    path = disk_with_backing(tmp_path, options, True, str(first))
    pattern(path, "write -P 0x33 64k 64k")
    with opened(path) as fd:
        write_backing(fd, str(second))
    first.unlink()
    pattern(path, "read -P 0x11 0 64k", "read -P 0x33 64k 64k", "read -P 0x11 128k 1M")
    check(path)


def test_many_changes_do_not_wear_the_cluster_out(tmp_path: Path) -> None:
    path = disk_with_backing(tmp_path, "cluster_size=4096", True, "/a" * 450)
    with opened(path) as fd:
        for turn in range(20):
            write_backing(fd, f"/{turn}" + "b" * 900)
    assert info(path)["backing-filename"] == "/19" + "b" * 900


def test_a_disk_that_stood_alone_gets_a_backing_and_loses_it(tmp_path: Path) -> None:
    path = disk_with_backing(tmp_path, "compat=1.1", True, "")
    before = path.read_bytes()
    with opened(path) as fd:
        pointer = write_backing(fd, "/base")
        assert pointer.backing_file is None
        assert qcow2.read_header(fd).backing_file == "/base"
        restore_pointer(fd, pointer)
    assert path.read_bytes() == before


def test_a_bitmap_that_came_in_between_stays(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.write_bytes(bytes(2 * MIB))
    path = disk_with_backing(tmp_path, "compat=1.1", True, str(base))
    other = tmp_path / "other"
    os.link(base, other)
    with opened(path) as fd:
        pointer = write_backing(fd, str(other))
    run("qemu-img", "bitmap", "--add", "-f", "qcow2", str(path), "dirt")
    with opened(path) as fd:
        restore_pointer(fd, pointer)
    found = info(path)
    assert found["backing-filename"] == str(base)
    assert "dirt" in json.dumps(found["format-specific"])
    check(path)


def test_a_corrupt_disk_and_an_impossible_name_change_nothing(tmp_path: Path) -> None:
    path = disk_with_backing(tmp_path, "cluster_size=512", True, "/base")
    before = path.read_bytes()
    with opened(path) as fd:
        with pytest.raises(StorageError, match="no room"):
            write_backing(fd, "/" + "x" * 500)
        with pytest.raises(BadInput, match="at most 1023"):
            write_backing(fd, "/" + "x" * 1023)
        with pytest.raises(BadInput, match="not absolute"):
            write_backing(fd, "base")
        assert path.read_bytes() == before
        os.pwrite(fd, struct.pack(">Q", qcow2.CORRUPT), 72)
        with pytest.raises(StorageError, match="marked corrupt"):
            write_backing(fd, "/other")


class PowerLoss(BaseException):
    """Ends a call at a write, as if the machine had stopped."""


@pytest.mark.parametrize("options", ["compat=1.1", "compat=0.10", "cluster_size=4096", "cluster_size=512"])
@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("lengths", [(20, 30), (300, 40), (40, 300), (120, 120)])
def test_power_lost_at_any_write_leaves_one_of_the_two_pointers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: str, named: bool, lengths: tuple[int, int]
) -> None:
    """Every write is cut at every boundary of 512 bytes, and unsynced writes may be missing."""
    old, new = ("/" + letter * (length - 1) for letter, length in zip("on", lengths))
    path = disk_with_backing(tmp_path, options, named, old)
    start = path.read_bytes()[:65536]

    steps: list[tuple[bytes, int] | None] = []
    real_write, real_sync = os.pwrite, os.fdatasync

    def note_write(to: int, data: bytes, offset: int) -> int:
        if to == fd:  # and not what a thread of another test writes
            steps.append((bytes(data), offset))
        return real_write(to, data, offset)

    def note_sync(to: int) -> None:
        if to == fd:
            steps.append(None)
        real_sync(to)

    with opened(path) as fd:
        monkeypatch.setattr(os, "pwrite", note_write)
        monkeypatch.setattr(os, "fdatasync", note_sync)
        pointer = write_backing(fd, new)
        restore_pointer(fd, pointer)
        monkeypatch.undo()

    seen = set()
    for state in states_after_power_loss(start, steps):
        path.write_bytes(state + bytes(65536))
        seen.add(header_of(path).backing_file)
    assert seen == {old, new}


def states_after_power_loss(start: bytes, steps: list[tuple[bytes, int] | None]) -> Iterator[bytes]:
    """What a disk may hold: all that was synced, and any one sector, or all but one, of what was not."""
    durable = bytearray(start)
    pending: list[tuple[int, bytes]] = []
    for step in steps:
        if step is None:
            for offset, data in pending:
                durable[offset : offset + len(data)] = data
            pending = []
            continue
        data, offset = step
        while data:
            room = 512 - offset % 512
            pending.append((offset, data[:room]))
            data, offset = data[room:], offset + room
        for chosen in range(len(pending)):
            for kept in ([pending[chosen]], pending[:chosen], pending[:chosen] + pending[chosen + 1 :]):
                state = bytearray(durable)
                for at, part in kept:
                    state[at : at + len(part)] = part
                yield bytes(state)
