# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whole intakes: what a guest will read is what the source held, in every volume, from every kind of source."""

from __future__ import annotations

import contextlib
import ctypes
import gzip
import hashlib
import lzma
import os
import random
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import hostile
import pytest
from volumes import FileSink, MemorySink
from webserver import Flaky, Handler, WebServer

from ansible_collections.virt.storage.plugins.module_utils._ground import http_source
from ansible_collections.virt.storage.plugins.module_utils._ground import intake as intake_module
from ansible_collections.virt.storage.plugins.module_utils._ground.bounds import Bounds
from ansible_collections.virt.storage.plugins.module_utils._ground.command import Runner
from ansible_collections.virt.storage.plugins.module_utils._ground.digest import BLOCK, ContentDigest
from ansible_collections.virt.storage.plugins.module_utils._ground.errors import (
    CommandFailed,
    OutOfSpace,
    SourceError,
    StorageError,
)
from ansible_collections.virt.storage.plugins.module_utils._ground.intake import (
    Sink,
    Staging,
    Taken,
    data_runs,
    take_in,
)
from ansible_collections.virt.storage.plugins.module_utils._ground.sources import SourceSpec
from ansible_collections.virt.storage.plugins.module_utils._ground.work import WriteBack

MIB = 1024**2
SIZE = 3 * BLOCK + 5 * MIB
BOUNDS = Bounds(2**30, 2**30, timeout=120)


def make_disk() -> bytes:
    """Data in the first and the last sector, and in between runs that no boundary suits."""
    dice = random.Random(7)
    disk = bytearray(hostile.raw_disk(SIZE))
    for offset in (1000, BLOCK - 3, 2 * BLOCK + 70_000, SIZE - 512):
        data = dice.randbytes(min(100_000, SIZE - offset))
        disk[offset : offset + len(data)] = data
    return bytes(disk)


DISK = make_disk()
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".xz": lambda data: lzma.compress(data, preset=0),
    ".zst": hostile.zstd,
}


def content_of(disk: bytes) -> str:
    digest = ContentDigest(len(disk))
    for offset in range(0, len(disk), BLOCK):
        digest.add(offset, disk[offset : offset + BLOCK])
    return digest.finish()


def take(spec: SourceSpec, sinks: Sequence[Sink], folder: Path, *, bounds: Bounds = BOUNDS, room: int = 2**30,
         beat: Callable[[], None] = lambda: None, runner: Runner | None = None,
         inherit: Sequence[int] = ()) -> Taken:  # fmt: skip
    staging = folder / "staging"
    staging.mkdir(exist_ok=True)
    try:
        return take_in(spec, bounds, sinks, runner=runner or Runner(), staging=Staging(str(staging), room), beat=beat,
                       inherit=inherit)  # fmt: skip
    finally:
        assert not list(staging.iterdir())


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The disk in each format."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "raw").write_bytes(DISK)
    for name in ("qcow2", "vmdk", "vdi", "vhdx"):
        command = ["qemu-img", "convert", "-f", "raw", "-O", name, str(folder / "raw"), str(folder / name)]
        subprocess.run(command, check=True)
    return {name: (folder / name).read_bytes() for name in ("raw", "qcow2", "vmdk", "vdi", "vhdx")}


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[FileSink]:
    sink = FileSink(tmp_path / "volume")
    yield sink
    sink.close()


@pytest.mark.parametrize("name", ["raw", "qcow2", "vmdk", "vdi", "vhdx"])
@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("where", ["file", "http"])
def test_every_kind_of_source(
    name: str,
    suffix: str,
    where: str,
    images: dict[str, bytes],
    volume: FileSink,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_source, "_LONGEST_PAUSE", 0.01)
    source = COMPRESS[suffix](images[name])
    path = tmp_path / ("image.%s%s" % (name, suffix))
    path.write_bytes(source)
    digests = {"sha256": hashlib.sha256(source).hexdigest(), "sha512": hashlib.sha512(source).hexdigest()}
    with WebServer({"/" + path.name: Flaky(source, 2 * MIB)}) as web:
        location = str(path) if where == "file" else web.url("/" + path.name)
        taken = take(SourceSpec(location, name, checksum="sha512:" + digests["sha512"]), [volume], tmp_path)
    staged = name != "raw" and (suffix != "" or where == "http")
    assert (tmp_path / "volume").read_bytes() == DISK
    assert taken.bytes_written < SIZE
    assert taken == Taken(
        virtual_size=SIZE,
        source_size=len(source),
        source_digests=digests,
        content=content_of(DISK),
        bytes_read=len(source),
        bytes_written=taken.bytes_written,
        staged=len(images[name]) if staged else 0,
    )
    assert (tmp_path / "volume").stat().st_blocks * 512 < SIZE // 2


@pytest.mark.parametrize("name", ["raw", "qcow2"])
def test_one_read_for_several_volumes(name: str, images: dict[str, bytes], volume: FileSink, tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(images[name])
    distant, second = MemorySink(), FileSink(tmp_path / "second")
    taken = take(SourceSpec(str(tmp_path / "image"), name), [distant, volume, second], tmp_path)
    second.close()
    assert bytes(distant.data) == (tmp_path / "volume").read_bytes() == (tmp_path / "second").read_bytes() == DISK
    assert distant.synced
    assert taken.bytes_read == len(images[name])
    assert taken.staged == 0


def test_a_volume_that_no_program_can_open(images: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(images["qcow2"])
    distant = MemorySink()
    taken = take(SourceSpec(str(tmp_path / "image"), "qcow2"), [distant], tmp_path)
    assert bytes(distant.data) == DISK
    assert 0 < taken.staged < SIZE


def test_a_raw_source_of_odd_length(volume: FileSink, tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(DISK[: BLOCK + 700])
    taken = take(SourceSpec(str(tmp_path / "image"), "raw"), [volume], tmp_path)
    assert taken.virtual_size == BLOCK + 1024
    assert (tmp_path / "volume").read_bytes() == DISK[: BLOCK + 700].ljust(BLOCK + 1024, b"\0")
    assert taken.content == content_of(DISK[: BLOCK + 700].ljust(BLOCK + 1024, b"\0"))


def test_what_ran(images: dict[str, bytes], volume: FileSink, tmp_path: Path) -> None:
    """One inspection, one check, one conversion; each of the descriptor, with the format said."""
    (tmp_path / "image").write_bytes(images["qcow2"])
    ran: list[list[str]] = []
    runner = Runner(lambda argv, rc, seconds: ran.append(list(argv)))
    take(SourceSpec(str(tmp_path / "image"), "qcow2"), [volume], tmp_path, runner=runner)
    assert [argv[1] for argv in ran] == ["info", "check", "convert"]
    assert all(argv[argv.index("-f") + 1] == "qcow2" for argv in ran)
    assert not any(str(tmp_path) in word for argv in ran for word in argv)


def test_a_file_that_changes_while_it_is_read(volume: FileSink, tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(DISK)

    class Meddling(MemorySink):
        def set_size(self, size: int) -> None:
            super().set_size(size)
            with open(path, "r+b") as image:
                image.write(b"other")

    with pytest.raises(SourceError, match="was changed while it was read"):
        take(SourceSpec(str(path), "raw"), [Meddling()], tmp_path)


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(DISK)

    class Cutting(MemorySink):
        def set_size(self, size: int) -> None:
            super().set_size(size)
            os.truncate(path, BLOCK + 17)

    with pytest.raises(SourceError, match="was changed while it was read"):
        take(SourceSpec(str(path), "raw"), [Cutting()], tmp_path)


def test_a_checksum_tells_what_was_found(volume: FileSink, tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(DISK)
    expected, found = "sha256:" + "0" * 64, "sha256:" + hashlib.sha256(DISK).hexdigest()
    with pytest.raises(StorageError) as caught:
        take(SourceSpec(str(tmp_path / "image"), "raw", checksum=expected), [volume], tmp_path)
    assert caught.value.facts == {"check": "checksum", "expected": expected, "found": found}
    assert expected in caught.value.message
    assert found in caught.value.message


class Cancelled(Exception):
    pass


@pytest.mark.parametrize("name", ["raw", "qcow2"])
def test_beat_goes_on_and_may_cancel(
    name: str, images: dict[str, bytes], volume: FileSink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while qemu-img runs, which is stopped and not left behind."""
    (tmp_path / "image").write_bytes(images[name])
    slow = tmp_path / "bin" / "qemu-img"
    slow.parent.mkdir()
    script = '#!/bin/sh\n[ "$1" = convert ] && { echo $$ > %s/pid; exec sleep 60; }\nexec /usr/bin/qemu-img "$@"\n'
    slow.write_text(script % tmp_path)
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", "%s:%s" % (slow.parent, os.environ["PATH"]))
    beats: list[float] = []
    threads: set[int] = set()

    def beat() -> None:
        beats.append(time.monotonic())
        threads.add(threading.get_ident())
        if len(beats) == 4:
            raise Cancelled

    class Slow(MemorySink):
        def write(self, offset: int, data: bytes) -> None:
            time.sleep(0.5)
            super().write(offset, data)

    sink = volume if name == "qcow2" else Slow()
    started = time.monotonic()
    before = threading.active_count()
    with pytest.raises(Cancelled):
        take(SourceSpec(str(tmp_path / "image"), name), [sink], tmp_path, beat=beat)
    assert time.monotonic() - started < 15
    assert max(later - earlier for earlier, later in zip(beats, beats[1:])) < 1
    assert threads == {threading.get_ident()}
    assert threading.active_count() <= before
    if name == "qcow2":
        assert not Path("/proc/%s" % (tmp_path / "pid").read_text().strip()).exists()
    else:
        writes = sink.writes  # type: ignore[union-attr]
        time.sleep(0.6)
        assert sink.writes == writes  # type: ignore[union-attr]


def test_timeout(tmp_path: Path) -> None:
    quiet = threading.Event()

    def answer(handler: Handler) -> None:
        handler.start(200, 10**6)
        quiet.wait(20)

    with WebServer({"/image": answer}) as web:
        started = time.monotonic()
        try:
            with pytest.raises(SourceError, match="within the 1 seconds"):
                take(SourceSpec(web.url("/image"), "raw"), [MemorySink()], tmp_path, bounds=Bounds(2**30, 2**30, 1))
            assert time.monotonic() - started < 10
        finally:
            quiet.set()


def test_programs_inherit_the_lock(images: dict[str, bytes], volume: FileSink, tmp_path: Path,
                                   monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    (tmp_path / "image").write_bytes(images["qcow2"])
    program = tmp_path / "bin" / "qemu-img"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\nreadlink /proc/self/fd/* >> %s/held\nexec /usr/bin/qemu-img "$@"\n' % tmp_path)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", "%s:%s" % (program.parent, os.environ["PATH"]))
    with open(tmp_path / "lock", "w") as lock:
        take(SourceSpec(str(tmp_path / "image"), "qcow2"), [volume], tmp_path, inherit=[lock.fileno()])
    assert (tmp_path / "held").read_text().splitlines().count(str(tmp_path / "lock")) == 3


@pytest.fixture
def small_file_system(tmp_path: Path) -> Iterator[Path]:
    """Eight megabytes of memory as a file system of its own."""
    place = tmp_path / "small"
    place.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mount(b"tmpfs", str(place).encode(), b"tmpfs", 0, b"size=8m") == 0, os.strerror(ctypes.get_errno())
    yield place
    assert libc.umount2(str(place).encode(), 2) == 0


@pytest.mark.parametrize("name", ["raw", "qcow2"])
def test_a_full_pool(name: str, tmp_path: Path, small_file_system: Path) -> None:
    (tmp_path / "disk").write_bytes(os.urandom(12 * MIB))
    command = ["qemu-img", "convert", "-f", "raw", "-O", name, str(tmp_path / "disk"), str(tmp_path / "image")]
    subprocess.run(command, check=True)
    with contextlib.closing(FileSink(small_file_system / "volume")) as sink, pytest.raises(OutOfSpace) as caught:
        take(SourceSpec(str(tmp_path / "image"), name), [sink], tmp_path)
    assert caught.value.facts["needed"] == 12 * MIB
    assert caught.value.facts["free"] < 8 * MIB
    assert "There is no room for the image" in caught.value.message


def test_full_staging(images: dict[str, bytes], volume: FileSink, small_file_system: Path, tmp_path: Path) -> None:
    image = gzip.compress(os.urandom(12 * MIB))
    (tmp_path / "image.gz").write_bytes(image)
    spec = SourceSpec(str(tmp_path / "image.gz"), "qcow2")
    with pytest.raises(OutOfSpace, match="There is no room"):
        take(spec, [volume], small_file_system)
    with (
        WebServer({"/image": lambda handler: handler.reply(200, images["qcow2"])}) as web,
        pytest.raises(OutOfSpace, match="and 1000 are allowed"),
    ):
        take(SourceSpec(web.url("/image"), "qcow2"), [volume], tmp_path, room=1000)


def test_staging_that_cannot_be_used(images: dict[str, bytes], volume: FileSink, tmp_path: Path) -> None:
    (tmp_path / "image.gz").write_bytes(gzip.compress(images["qcow2"]))
    with pytest.raises(SourceError, match="cannot be used"):
        take_in(SourceSpec(str(tmp_path / "image.gz"), "qcow2"), BOUNDS, [volume], runner=Runner(),
                staging=Staging(str(tmp_path / "nowhere"), 2**30), beat=lambda: None)  # fmt: skip


@pytest.mark.parametrize("name", ["raw", "qcow2"])
def test_a_volume_that_cannot_be_written(name: str, images: dict[str, bytes], tmp_path: Path) -> None:
    class Failing(MemorySink):
        def write(self, offset: int, data: bytes) -> None:
            raise OSError(5, "Input/output error")

    (tmp_path / "image").write_bytes(images[name])
    with pytest.raises(StorageError, match="could not be written: Input/output error"):
        take(SourceSpec(str(tmp_path / "image"), name), [Failing()], tmp_path)


def test_an_error_of_write_back_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel reports it once, to whichever sync comes first."""
    reported = threading.Event()

    def fdatasync(fd: int) -> None:
        if not reported.is_set():
            reported.set()
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    write_back = WriteBack([0])
    assert reported.wait(20)
    with pytest.raises(OSError, match="Input/output error"):
        write_back.finish()


def test_a_failing_sync_fails_the_intake(volume: FileSink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fdatasync(fd: int) -> None:
        raise OSError(5, "Input/output error")

    (tmp_path / "image").write_bytes(DISK)
    monkeypatch.setattr(os, "fdatasync", fdatasync)
    with pytest.raises(StorageError, match="could not be written: Input/output error"):
        take(SourceSpec(str(tmp_path / "image"), "raw"), [volume], tmp_path)


def test_a_conversion_that_fails(images: dict[str, bytes], volume: FileSink, tmp_path: Path,
                                 monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    (tmp_path / "image").write_bytes(images["qcow2"])
    monkeypatch.setattr(intake_module, "_COROUTINES", "none")
    with pytest.raises(CommandFailed, match="qemu-img convert failed with exit status 1"):
        take(SourceSpec(str(tmp_path / "image"), "qcow2"), [volume], tmp_path)


def test_data_runs() -> None:
    piece = 64 * 1024
    block = bytes(piece) + b"x" + bytes(2 * piece - 1) + bytes(piece - 1) + b"y" + b"z"
    assert list(data_runs(block)) == [(piece, 2 * piece), (3 * piece, 4 * piece + 1)]
    assert list(data_runs(bytes(BLOCK))) == []
    assert list(data_runs(b"x" * BLOCK)) == [(0, BLOCK)]
