# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the contracts mean for folders: links, fifos, full and read-only file systems, and other people's names."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ansible_collections.virt.storage.plugins.module_utils._algorithms.disks import delete
from ansible_collections.virt.storage.plugins.module_utils._algorithms.pool import Pool
from ansible_collections.virt.storage.plugins.module_utils._backends.file import FileVolumes
from ansible_collections.virt.storage.plugins.module_utils._backends.perform import Parts, Performer
from ansible_collections.virt.storage.plugins.module_utils._ground.command import Limits, Runner, Running
from ansible_collections.virt.storage.plugins.module_utils._ground.contents import Literal
from ansible_collections.virt.storage.plugins.module_utils._ground.errors import (
    BadInput,
    LostMetadata,
    NewerSchema,
    NotFound,
    OutOfSpace,
    StorageError,
)
from ansible_collections.virt.storage.plugins.module_utils._ground.qcow2_detach import drop_pointer
from ansible_collections.virt.storage.plugins.module_utils._records.folder import PROBE, FolderStore
from ansible_collections.virt.storage.plugins.module_utils._records.types import SCHEMA, State, Volume

from .beds import MIB, POOL, FileBed, Sparse, mounted, program
from .test_volumes import DATA, cloned, filled, guest_writes, raw_file, reads_as, recorded, stat_of


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[FileBed]:
    """A pool on the file system of the tests."""
    bed = FileBed(str(tmp_path / "pool"))
    yield bed
    bed.destroy()


# The record store


def test_a_store_is_made_once_and_opened_by_anybody(tmp_path: Path) -> None:
    root = tmp_path / "records"
    with pytest.raises(NotFound):
        FolderStore.open(str(root))
    umask = os.umask(0o077)
    try:
        FolderStore.make(str(root))
    finally:
        os.umask(umask)
    FolderStore.make(str(root))
    FolderStore.open(str(root))
    assert root.stat().st_mode & 0o777 == 0o711, "a guest's qemu has to pass through"
    assert {path.name: path.stat().st_mode & 0o777 for path in root.iterdir() if path.is_dir()} == dict.fromkeys(
        ["records", "references", "facts", "locks", "new"], 0o700
    )


@pytest.mark.parametrize("text", ["", "one", "-1", "1.0", "9" * 5000, "\0", "ü"])
def test_a_schema_that_is_no_number_is_lost_metadata(pool: FileBed, text: str) -> None:
    (Path(pool.parts.records.root) / "schema").write_text(text)
    with pytest.raises(LostMetadata, match="schema"):
        FolderStore.open(pool.parts.records.root)
    with pytest.raises(LostMetadata, match="schema"):
        FolderStore.make(pool.parts.records.root)


@pytest.mark.parametrize("kind", ["folder", "fifo", "link"])
def test_a_schema_that_is_no_file_is_lost_metadata(pool: FileBed, kind: str, tmp_path: Path) -> None:
    schema = Path(pool.parts.records.root) / "schema"
    put(schema, kind, tmp_path)
    with pytest.raises(LostMetadata):
        FolderStore.open(pool.parts.records.root)


def test_a_newer_store_is_left_alone(pool: FileBed) -> None:
    (Path(pool.parts.records.root) / "schema").write_text(f"{SCHEMA + 1}\n")
    for way in (FolderStore.open, FolderStore.make):
        with pytest.raises(NewerSchema, match=str(SCHEMA + 1)):
            way(pool.parts.records.root)


def test_a_store_is_not_made_in_somebody_elses_folder(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    os.chown(theirs, 4711, 4711)
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    for path in (theirs, link):
        with pytest.raises(BadInput):
            FolderStore.make(str(path))


def put(path: Path, kind: str, tmp_path: Path) -> None:
    """Something else in the place of a file."""
    path.unlink(missing_ok=True)
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "link":
        (tmp_path / "target").write_text("{}")
        path.symlink_to(tmp_path / "target")
    elif kind == "huge":
        with path.open("wb") as file:
            file.truncate(1 << 40)


@pytest.mark.parametrize("kind", ["folder", "fifo", "link", "huge"])
def test_a_body_that_is_no_small_file_is_lost_metadata(pool: FileBed, kind: str, tmp_path: Path) -> None:
    disk = pool.disk()
    recorded(pool, disk)
    put(pool.record_path(disk.id), kind, tmp_path)
    began = time.monotonic()
    with pytest.raises(LostMetadata):
        pool.do(pool.records.read(disk.id))
    assert time.monotonic() - began < 2


def test_the_body_is_found_under_its_states_name(pool: FileBed) -> None:
    """The body's own name is lost: the state is another name of the same file."""
    disk = pool.disk()
    recorded(pool, disk)
    pool.record_path(disk.id).unlink()
    assert pool.do(pool.records.read(disk.id)) == disk
    assert pool.do(pool.records.create(disk, State.PENDING)).kind == "already"
    assert pool.record_path(disk.id).samefile(pool.record_path(f"{disk.id}.pending"))


def test_a_creation_cut_short_shows_and_can_be_ended(pool: FileBed) -> None:
    """Power was lost: the body's name is durable, the state's is not."""
    disk = pool.disk()
    recorded(pool, disk)
    pool.record_path(f"{disk.id}.pending").unlink()
    assert pool.do(pool.records.states()).state(disk.id) is State.MOVING
    with pytest.raises(BadInput):
        pool.do(pool.records.forget(disk.id))
    assert pool.do(pool.records.create(disk, State.DELETING)).kind == "already"
    assert pool.do(pool.records.states()).state(disk.id) is State.DELETING


def test_names_that_are_not_ours_are_passed_over(pool: FileBed) -> None:
    disk = pool.disk()
    recorded(pool, disk)
    for name in (".", "..", "x", f"{disk.id}.pending.swp", f".{disk.id}.ready", "a+b+c.ready", f"{disk.id[:-1]}.gone"):
        path = pool.record_path(name)
        if not path.exists():
            path.write_text("{}")
    assert pool.do(pool.records.states()).states == {disk.id: State.PENDING}


def test_facts_that_are_no_facts_are_empty(pool: FileBed, tmp_path: Path) -> None:
    disk = pool.disk()
    recorded(pool, disk)
    bad = ("cut", "list", "fifo", "link", "folder")
    for topic in ("good", *bad):
        pool.do(pool.records.note(disk.id, topic, {"a": 1}))
    folder = Path(pool.parts.records.root, "facts", disk.id)
    (folder / "cut").write_text('{"a":')
    (folder / "list").write_text("[]")
    for kind in ("fifo", "link", "folder"):
        put(folder / kind, kind, tmp_path)
    (tmp_path / "target").write_text('{"stolen": 1}')
    assert pool.do(pool.records.notes(disk.id)) == {"good": {"a": 1}, **{topic: {} for topic in bad}}


def test_a_sweep_clears_what_the_dead_left_and_not_what_is_young(
    pool: FileBed, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(pool.parts.records.root)
    left = [root / "new" / "abc", root / "records" / f"{PROBE}1", root / "locks" / "owner+dead"]
    for path in left:
        path.write_text("")
    pool.do(pool.records.sweep(3600))
    assert [path.exists() for path in left] == [True, True, False]
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 2 * 24 * 3600)
    pool.do(pool.records.sweep(30 * 24 * 3600))
    assert not any(path.exists() for path in left)


# Volumes


@pytest.mark.parametrize("name", ["../out", "a/../../out", "/etc/passwd", ".virt-storage/../../out"])
def test_a_name_that_leaves_the_pool_is_refused_by_everything(pool: FileBed, name: str, tmp_path: Path) -> None:
    outside = tmp_path / "out"
    outside.write_bytes(bytes(512))
    told = set()
    for op in operations(pool, Volume(name, "raw", str(outside.stat().st_ino))):
        try:
            outcome = pool.do(op)
        except LostMetadata as error:
            told.add(op.primitive)
            assert "outside" in error.message  # noqa: PT017 - refusing is as good
        else:
            assert outcome.kind == "refused", f"{op.primitive} gave {outcome}"
    assert len(told) >= 11
    assert outside.stat().st_nlink == 1
    assert outside.stat().st_mode & 0o777 != 0o444


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "x" * 300, ".", ""])
def test_a_name_that_no_file_can_have_is_an_error_of_the_family(pool: FileBed, name: str) -> None:
    for op in operations(pool, Volume(name, "raw")):
        try:
            outcome = pool.do(op)
        except StorageError:
            continue
        assert not outcome or op.primitive == "users", f"{op.primitive} of {name!r} gave {outcome}"


def operations(pool: FileBed, volume: Volume) -> list[object]:
    """Every primitive on one volume."""
    volumes, other = pool.volumes, pool.disk().volume
    return [
        volumes.stat(volume),
        volumes.pointer(replace(volume, format="qcow2")),
        volumes.allocate(volume, MIB),
        volumes.fill(volume, Literal(lambda: DATA)),
        volumes.digest(volume),
        volumes.seal(volume),
        volumes.clone(volume, other, MIB, "overlay"),
        volumes.clone(other, volume, MIB, "overlay"),
        volumes.grow(volume, 2 * MIB),
        volumes.flatten(replace(volume, format="qcow2")),
        volumes.adopt(volume.name, other),
        volumes.adopt(other.name, volume),
        volumes.leave(volume.name, other),
        volumes.users(volume),
        volumes.remove(volume),
    ]


@pytest.mark.parametrize("kind", ["folder", "fifo", "link"])
@pytest.mark.parametrize("format", ["raw", "qcow2"])
def test_what_is_no_file_in_a_volumes_place_is_not_taken_for_one(
    pool: FileBed, kind: str, format: str, tmp_path: Path
) -> None:
    disk = pool.disk(format=format)
    recorded(pool, disk)
    path = Path(pool.root, disk.volume.name)
    put(path, kind, tmp_path)
    before = path.lstat()
    ops = [op for op in operations(pool, disk.volume) if op.primitive not in ("remove", "users", "leave", "adopt")]
    began = time.monotonic()
    for op in ops:
        try:
            outcome = pool.do(op)
        except StorageError:
            continue
        assert outcome.kind in ("refused", "already"), op
        assert op.primitive in ("clone", "allocate", "flatten"), op
    assert time.monotonic() - began < 5, "something waited for a fifo"
    assert os.path.samestat(path.lstat(), before)
    if kind == "link":
        assert (tmp_path / "target").read_text() == "{}"
        assert (tmp_path / "target").stat().st_mode & 0o777 == 0o644


def test_an_overlay_finds_its_image_when_the_pool_stands_elsewhere(pool: FileBed, tmp_path: Path) -> None:
    image = filled(pool, Literal(lambda: DATA))
    volume = cloned(pool, image, MIB)
    moved = tmp_path / "elsewhere"
    os.rename(pool.root, moved)
    try:
        other = FileBed(str(moved))
        reads_as(other, volume, raw_file(tmp_path / "expected", MIB, {0: DATA}))
        assert other.do(other.volumes.pointer(volume)) == image.name
    finally:
        os.rename(moved, pool.root)


def test_a_sealed_image_is_immutable_even_to_root(pool: FileBed) -> None:
    path = Path(pool.root, filled(pool, Literal(lambda: DATA)).name)
    assert path.stat().st_mode & 0o777 == 0o444
    for attempt in (path.unlink, lambda: path.chmod(0o600), lambda: path.open("r+b"), lambda: os.truncate(path, 0)):
        with pytest.raises(PermissionError):
            attempt()


def test_an_image_stays_immutable_when_another_name_of_it_is_removed(pool: FileBed) -> None:
    """Two images that were converted from one base are one file."""
    image = filled(pool, Literal(lambda: DATA))
    path = Path(pool.root, image.name)
    other = path.with_name("other.raw")
    program("chattr", "-i", str(path))
    os.link(path, other)
    program("chattr", "+i", str(path))
    assert pool.do(pool.volumes.remove(image)).kind == "done"
    assert not path.exists()
    with pytest.raises(PermissionError):
        other.unlink()


def test_reflink_is_refused_where_the_file_system_cannot(pool: FileBed) -> None:
    image = filled(pool, Literal(lambda: DATA))
    volume = recorded(pool, pool.disk(format="raw"))
    outcome = pool.do(pool.volumes.clone(image, volume, MIB, "reflink"))
    assert (outcome.kind, outcome.why) == ("refused", pool.parts.volumes.obstacle_to_clone("reflink"))
    assert "XFS" in outcome.why or "reflink" in outcome.why or "extents" in outcome.why
    assert stat_of(pool, volume) is None


def test_a_reflink_shares_its_images_extents(tmp_path: Path) -> None:
    size = 64 * MIB
    with mounted(tmp_path / "xfs.img", 320 * MIB, "mkfs.xfs", "-q") as point:
        bed = FileBed(str(point / "pool"))
        image = filled(bed, Sparse(size, dict.fromkeys(range(0, size, MIB), DATA)))
        free = os.statvfs(point).f_bavail
        volume = cloned(bed, image, size, "reflink")
        assert (free - os.statvfs(point).f_bavail) * os.statvfs(point).f_frsize < MIB
        program("qemu-img", "compare", "-f", "raw", "-F", "raw", bed.at(image)[1], bed.at(volume)[1])
        assert bed.parts.volumes.obstacle_to_clone("reflink") == ""
        bed.destroy()


# Adopting


def test_an_adopted_file_stands_under_both_names_until_it_is_left(pool: FileBed) -> None:
    found = Path(pool.root, "old.img")
    found.write_bytes(DATA)
    disk = pool.disk(format="raw")
    volume = replace(disk.volume, adopted=str(found.stat().st_ino))
    recorded(pool, replace(disk, volume=volume))
    for _again in range(2):
        assert pool.do(pool.volumes.adopt("old.img", volume))
        assert found.samefile(Path(pool.root, volume.name))
    assert pool.do(pool.volumes.leave("old.img", volume)).kind == "done"
    assert not found.exists()
    assert pool.do(pool.volumes.leave("old.img", volume)).kind == "already"
    assert Path(pool.root, volume.name).read_bytes() == DATA


def test_an_adopted_file_can_keep_its_name(pool: FileBed) -> None:
    found = Path(pool.root, "old.qcow2")
    found.write_bytes(DATA)
    volume = Volume("old.qcow2", "qcow2", str(found.stat().st_ino))
    assert pool.do(pool.volumes.adopt("old.qcow2", volume))
    assert not pool.do(pool.volumes.leave("old.qcow2", volume))
    assert found.read_bytes() == DATA


def test_a_file_that_took_the_place_of_an_adopted_one_is_not_removed(pool: FileBed) -> None:
    found = Path(pool.root, "old.qcow2")
    found.write_bytes(DATA)
    disk = pool.disk()
    disk = replace(disk, volume=Volume("old.qcow2", "qcow2", str(found.stat().st_ino)))
    recorded(pool, disk)
    assert pool.do(pool.records.swap(disk.id, State.PENDING, State.READY))
    kept = found.rename(Path(pool.root, "kept"))
    found.write_bytes(b"another")
    algorithms = Pool(POOL, pool.parts.volumes.capabilities(), disk.owner)
    with pytest.raises(LostMetadata, match="is not the one that the disk root of web adopted"):
        pool.run_all([delete(algorithms, disk)])[0].unwrap()
    assert pool.do(pool.records.states()).state(disk.id) is State.READY
    # What was begun before it was replaced comes to its end, and leaves the other alone.
    assert pool.do(pool.records.swap(disk.id, State.READY, State.DELETING))
    assert pool.run_all([delete(algorithms, disk)])[0].unwrap()
    assert pool.do(pool.records.states()).state(disk.id) is State.GONE
    assert found.read_bytes() == b"another"
    assert kept.exists()


def test_another_file_than_was_meant_is_not_adopted(pool: FileBed, tmp_path: Path) -> None:
    found, link = Path(pool.root, "old.img"), Path(pool.root, "link.img")
    found.write_bytes(DATA)
    link.symlink_to(found)
    volume = replace(pool.disk(format="raw").volume, adopted=str(found.stat().st_ino))
    wrong = replace(volume, adopted=str(found.stat().st_ino + 1))
    assert pool.do(pool.volumes.adopt("old.img", wrong)).kind == "refused"
    assert pool.do(pool.volumes.adopt("nothing", volume)).kind == "refused"
    assert pool.do(pool.volumes.adopt("link.img", replace(volume, adopted=str(link.lstat().st_ino)))).kind == "refused"
    Path(pool.root, volume.name).write_bytes(b"theirs")
    assert pool.do(pool.volumes.adopt("old.img", volume)).kind == "refused"
    assert pool.do(pool.volumes.leave("old.img", volume)).kind == "refused"
    assert Path(pool.root, volume.name).read_bytes() == b"theirs"
    assert found.stat().st_nlink == 1


# In use


@pytest.mark.parametrize("way", ["open", "another name", "flock", "loop", "qemu-nbd", "fcntl"])
def test_a_user_shows_whatever_it_uses_the_file_by(pool: FileBed, way: str, tmp_path: Path) -> None:
    volume = recorded(pool, pool.disk(format="raw"))
    pool.do(pool.volumes.allocate(volume, MIB))
    path = pool.at(volume)[1]
    assert not pool.do(pool.volumes.users(volume))
    if way == "loop":
        device = program("losetup", "--find", "--show", path).strip()
        try:
            check_in_use(pool, volume, device)
        finally:
            program("losetup", "--detach", device)
    else:
        os.link(path, tmp_path / "name")
        if way == "qemu-nbd":
            argv = ["qemu-nbd", "-f", "raw", "-k", str(tmp_path / "socket"), "-t", path]
        else:
            name = str(tmp_path / "name") if way == "another name" else path
            lock = {"flock": "fcntl.flock(f, fcntl.LOCK_EX)", "fcntl": "fcntl.lockf(f, fcntl.LOCK_EX)"}.get(way, "0")
            argv = [sys.executable, "-c", f"import fcntl,time; f=open({name!r},'r+b'); {lock}; time.sleep(60)"]
        with subprocess.Popen(argv) as user:
            try:
                wait_until(lambda: bool(pool.do(pool.volumes.users(volume))))
                check_in_use(pool, volume, str(user.pid))
            finally:
                user.kill()
    assert pool.do(pool.volumes.remove(volume)).kind == "done"


def check_in_use(pool: FileBed, volume: Volume, who: str) -> None:
    users = pool.do(pool.volumes.users(volume))
    assert who in str(users)
    outcome = pool.do(pool.volumes.remove(volume))
    assert (outcome.kind, who in outcome.why) == ("refused", True)
    assert stat_of(pool, volume) is not None


def wait_until(fulfilled: object) -> None:
    deadline = time.monotonic() + 20
    while not fulfilled():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_who_uses_it_is_told_for_every_name_in_a_batch(pool: FileBed) -> None:
    one = recorded(pool, pool.disk("a", format="raw"))
    two = recorded(pool, pool.disk("b", format="raw"))
    pool.do(pool.volumes.allocate(one, MIB))
    os.link(pool.at(one)[1], pool.at(two)[1])
    with subprocess.Popen(["tail", "-f", pool.at(one)[1]], stdout=subprocess.DEVNULL) as user:
        wait_until(lambda: bool(pool.do(pool.volumes.users(one))))
        told = [each.unwrap() for each in pool.do_all([pool.volumes.users(one), pool.volumes.users(two)])]
        user.kill()
    assert [str(user.pid) in str(each) for each in told] == [True, True]


def test_what_cannot_be_told_counts_as_used(pool: FileBed, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = recorded(pool, pool.disk())
    pool.do(pool.volumes.allocate(volume, MIB))

    def deny(*arguments: object) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(fcntl, "fcntl", deny)
    assert pool.do(pool.volumes.users(volume)).unknown
    assert pool.do(pool.volumes.remove(volume)).kind == "refused"


def test_a_sweep_of_staging_leaves_what_another_host_may_work_with(pool: FileBed) -> None:
    staging = Path(pool.root, ".virt-storage", "staging")
    now = time.time()
    for name, age in ((".nfs01", 3600), (".nfs02", 2 * 24 * 3600), ("virt-storage-staging-1", 0)):
        (staging / name).touch()
        os.utime(staging / name, (now - age, now - age))
    cleared = pool.do(pool.volumes.sweep())
    assert sorted(cleared) == [".virt-storage/staging/.nfs02", ".virt-storage/staging/virt-storage-staging-1"]
    assert os.listdir(staging) == [".nfs01"], "NFS calls a file so that is open on any host and has no name"


# Flattening, broken off


class Impatient(Runner):
    """Kills what it starts after some milliseconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def start(self, argv: list[str], **options: object) -> Running:  # type: ignore[override]
        running = super().start(argv, **options)  # type: ignore[arg-type]
        time.sleep(self.seconds)
        running._process.kill()
        return running


def test_flattening_can_be_broken_off_anywhere_and_done_again(pool: FileBed, tmp_path: Path) -> None:
    size = 48 * MIB
    pieces = {offset: os.urandom(MIB) for offset in range(0, size, 2 * MIB)}
    image = filled(pool, Sparse(size, pieces))
    volume = cloned(pool, image, size)
    guest_writes(pool, volume, "write -P 3 0 4096")
    pieces[0] = b"\3" * 4096 + pieces[0][4096:]
    expected = raw_file(tmp_path / "expected", size, pieces)
    broken = 0
    for step in range(1, 12):
        volumes = FileVolumes(pool.root, Impatient(0.01 * step))
        ended = Performer({POOL: Parts(pool.parts.records, volumes)})({0: pool.volumes.flatten(volume)})[0]
        broken += hasattr(ended, "error")
        reads_as(pool, volume, expected)
    assert broken >= 3, "nothing was broken off"
    assert pool.do(pool.volumes.flatten(volume))
    assert pool.do(pool.volumes.pointer(volume)) is None
    reads_as(pool, volume, expected)
    program("qemu-img", "check", "-q", "-f", "qcow2", "-r", "leaks", pool.at(volume)[1])


def test_a_disk_with_snapshots_in_it_keeps_the_image_that_they_need(pool: FileBed, tmp_path: Path) -> None:
    image = filled(pool, Literal(lambda: DATA))
    volume = cloned(pool, image, MIB)
    path = pool.at(volume)[1]
    program("qemu-img", "snapshot", "-c", "before", path)
    guest_writes(pool, volume, "write -P 3 0 512")
    with pytest.raises(StorageError, match="snapshots of its guest in it"):
        pool.do(pool.volumes.flatten(volume))
    program("qemu-img", "snapshot", "-a", "before", path)
    reads_as(pool, volume, raw_file(tmp_path / "expected", MIB, {0: DATA}))
    program("qemu-img", "snapshot", "-d", "before", path)
    assert pool.do(pool.volumes.flatten(volume)).kind == "done"


def test_no_guest_starts_while_the_pointer_to_the_image_goes(pool: FileBed, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = cloned(pool, filled(pool, Literal(lambda: DATA)), MIB)
    guest = ["qemu-io", "-f", "qcow2", "-c", "write -q 0 512", pool.at(volume)[1]]
    tried = []

    def drop(descriptor: int, name: str) -> None:
        tried.append(subprocess.run(guest, capture_output=True, text=True, check=False, timeout=60))
        drop_pointer(descriptor, name)

    monkeypatch.setattr(f"{FileVolumes.__module__}.drop_pointer", drop)
    assert pool.do(pool.volumes.flatten(volume)).kind == "done"
    assert ["lock" in each.stderr for each in tried] == [True]
    subprocess.run(guest, check=True, timeout=60)


# Full, and read-only


@pytest.fixture
def small(tmp_path: Path) -> Iterator[FileBed]:
    """A pool on a file system of 16 MiB."""
    with mounted(tmp_path / "small.img", 16 * MIB, "mkfs.ext4", "-q", "-m", "0") as point:
        bed = FileBed(str(point / "pool"))
        yield bed
        bed.destroy()


def fill_up(bed: FileBed) -> Path:
    """A file that takes all the space there is."""
    ballast = Path(bed.root, "ballast")
    with ballast.open("wb", buffering=0) as file:
        while os.statvfs(bed.root).f_bavail:
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(1024))
            os.fsync(file.fileno())
    return ballast


def test_a_fill_that_does_not_fit_is_out_of_space_and_leaves_nothing(small: FileBed) -> None:
    image = small.image()
    recorded(small, image)
    with pytest.raises(OutOfSpace):
        small.do(small.volumes.fill(image.volume, Sparse(32 * MIB, dict.fromkeys(range(0, 32 * MIB, MIB), DATA))))
    assert stat_of(small, image.volume) is None
    fitting = filled(small, Literal(lambda: DATA), "fits")
    assert stat_of(small, fitting) is not None


def test_a_batch_that_does_not_fit_makes_what_fits_whole(small: FileBed, tmp_path: Path) -> None:
    """The last clones have no room for their metadata: no disk may be half made and called made."""
    image = filled(small, Literal(lambda: DATA))
    disks = [small.disk(f"i{number}") for number in range(4)]
    for disk in disks:
        recorded(small, disk)
    ballast = fill_up(small)
    os.truncate(ballast, ballast.stat().st_size - 8 * 1024)
    os.sync()
    ended = small.do_all([small.volumes.clone(image, disk.volume, MIB, "overlay") for disk in disks])
    made = [disk for disk, each in zip(disks, ended) if each.error is None and each.value.kind == "done"]
    assert {type(each.error) for each in ended if each.error is not None} == {OutOfSpace}
    assert 0 < len(made) < 4
    ballast.unlink()
    expected = raw_file(tmp_path / "expected", MIB, {0: DATA})
    for disk in made:
        reads_as(small, disk.volume, expected)
    assert {disk.volume.name for disk in made} == set(small.do(small.volumes.inventory())) - {image.name}


def test_records_that_do_not_fit_are_told_and_leave_the_others(small: FileBed) -> None:
    first = small.disk("first")
    recorded(small, first)
    ballast = fill_up(small)
    disks = [small.disk(f"i{number}") for number in range(3)]
    ended = small.do_all([small.records.create(disk, State.PENDING) for disk in disks])
    assert [type(each.error) for each in ended] == [OutOfSpace] * 3
    assert small.do(small.records.states()).states == {first.id: State.PENDING}
    ballast.unlink()
    assert [each.unwrap().kind for each in small.do_all([small.records.create(d, State.PENDING) for d in disks])] == [
        "done"
    ] * 3


def test_a_read_only_pool_can_be_looked_at_and_says_what_to_do(small: FileBed) -> None:
    image = filled(small, Literal(lambda: DATA))
    volume = cloned(small, image, MIB)
    point = str(Path(small.root).parent)
    program("mount", "-o", "remount,ro", point)
    try:
        assert stat_of(small, volume) is not None
        assert small.do(small.volumes.pointer(volume)) == image.name
        assert small.do(small.volumes.inventory()).keys() == {image.name, volume.name}
        assert not small.do(small.volumes.users(volume))
        assert len(small.do(small.records.states()).states) == 2
        assert small.do(small.records.pulse("l")) is None
        disk = small.disk("other")
        refusals = [
            small.records.create(disk, State.PENDING),
            small.records.hold("l"),
            small.records.probe(),
            small.volumes.allocate(disk.volume, MIB),
            small.volumes.clone(image, disk.volume, MIB, "overlay"),
            small.volumes.remove(volume),
            small.volumes.seal(volume),
        ]
        for op in refusals:
            with pytest.raises(StorageError, match="read-only"):
                small.do(op)
    finally:
        program("mount", "-o", "remount,rw", point)
    assert Limits().wall_seconds is None
