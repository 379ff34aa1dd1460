# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Pitfalls of LVM: what it does that nobody expects, and that no disk is lost or shown to others by."""

from __future__ import annotations

import gzip
import itertools
import os
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from contract.beds import MIB, POOL, Sparse, program
from contract.lvm_bed import GROUP, LvmBed
from contract.test_volumes import BOUNDS, DATA, cloned, filled, guest_writes, raw_file, reads_as, recorded, stat_of

from ansible_collections.virt.storage.plugins.module_utils._backends import lvm as backend
from ansible_collections.virt.storage.plugins.module_utils._backends.lvm_names import SPARE
from ansible_collections.virt.storage.plugins.module_utils._backends.lvm_thick import ThickVolumes
from ansible_collections.virt.storage.plugins.module_utils._backends.perform import Parts, Performer
from ansible_collections.virt.storage.plugins.module_utils._ground.command import Runner, Running
from ansible_collections.virt.storage.plugins.module_utils._ground.contents import Incoming, Literal
from ansible_collections.virt.storage.plugins.module_utils._ground.errors import BadInput, StorageError
from ansible_collections.virt.storage.plugins.module_utils._ground.qcow2_detach import drop_pointer
from ansible_collections.virt.storage.plugins.module_utils._ground.sources import SourceSpec
from ansible_collections.virt.storage.plugins.module_utils._records.types import Volume

PATTERN = b"\xa5" * MIB


def lvs(*fields: str) -> list[str]:
    return program("lvs", "--noheadings", "-o", ",".join(fields), GROUP).split("\n")


def names() -> set[str]:
    return {line.strip() for line in lvs("lv_name")} - {""}


# Names


@pytest.mark.parametrize("instance", ["snapshot", "a_tdata", "-".join("a" * 32)])
def test_an_instance_may_be_called_what_no_logical_volume_can(bed: LvmBed, instance: str) -> None:
    disk = bed.disk(instance)
    volume = recorded(bed, disk)
    assert bed.do(bed.volumes.allocate(volume, MIB)).kind == "done"
    assert volume.name in bed.do(bed.volumes.inventory())
    stat = stat_of(bed, volume)
    assert stat is not None
    place = bed.at(volume)[1]
    assert os.path.exists(place)
    assert bed.parts.volumes.name_at(place) == volume.name
    assert bed.parts.volumes.name_at(os.path.realpath(place)) is None
    assert bed.do(bed.volumes.remove(volume)).kind == "done"
    assert bed.do(bed.volumes.inventory()) == {}


def test_what_is_the_pools_own_is_no_volume(bed: LvmBed) -> None:
    own = [Volume(name, "raw") for name in ("virt-storage-records", "virt-storage-pool")]
    for volume in own:
        assert stat_of(bed, volume) is None
        assert bed.do(bed.volumes.remove(volume)).kind == "already"
        assert bed.do(bed.volumes.grow(volume, 1 << 30)).kind == "refused"
    with pytest.raises(BadInput):
        bed.parts.volumes.name_at(f"/dev/{GROUP}/virt-storage-records")
    mapped = f"/dev/mapper/{GROUP.replace('-', '--')}-a--b"
    assert bed.parts.volumes.name_at(mapped) == "a-b"
    assert bed.parts.volumes.name_at("/dev/other/a") is None
    assert {"virt-storage-records", "virt-storage-pool"} <= names()


# Adopted volumes, by UUID


def made_by_hand(name: str, size: str = "4m", *words: str) -> str:
    program("lvcreate", "-y", "-Wn", *words, "-L", size, "-n", name, GROUP)
    return next(line.split()[1] for line in lvs("lv_name", "lv_uuid") if line.split()[:1] == [name])


def test_an_adopted_volume_is_found_by_its_uuid_whatever_it_is_called(thick: LvmBed) -> None:
    uuid = made_by_hand("nova_disk")
    volume = Volume("nova_disk", "raw", uuid)
    assert thick.parts.volumes.flaw(volume) == ""
    for _again in range(2):
        assert thick.do(thick.volumes.adopt("nova_disk", volume))
    assert not thick.do(thick.volumes.adopt("nova_disk", replace(volume, adopted=uuid[::-1])))
    program("lvrename", GROUP, "nova_disk", "renamed")
    made_by_hand("nova_disk")
    stat = stat_of(thick, volume)
    assert stat is not None
    assert stat.native == uuid
    assert thick.parts.volumes.location(volume).name == f"/dev/{GROUP}/renamed"
    assert thick.do(thick.volumes.grow(volume, 6 * MIB)).kind == "done"
    assert thick.do(thick.volumes.remove(volume)).kind == "done"
    assert "nova_disk" in names(), "another volume of the same name was removed"
    assert "renamed" not in names()


def test_a_thick_snapshot_is_not_adopted_and_keeps_its_origin(thick: LvmBed) -> None:
    """``lvremove -y`` of an origin takes all its snapshots along and tells nobody."""
    uuid = made_by_hand("origin")
    program("lvcreate", "-y", "-s", "-L", "4m", "-n", "backup", f"{GROUP}/origin")
    origin, backup = Volume("origin", "raw", uuid), Volume("backup", "raw")
    assert "snapshot" in thick.parts.volumes.flaw(backup)
    outcome = thick.do(thick.volumes.remove(origin))
    assert (outcome.kind, "backup" in outcome.why) == ("refused", True)
    assert {"origin", "backup"} <= names()


def test_a_device_that_did_not_grow_is_told(thick: LvmBed) -> None:
    """``lvextend`` of a thick snapshot succeeds, and the guest sees no more than before."""
    made_by_hand("origin")
    program("lvcreate", "-y", "-s", "-L", "4m", "-n", "backup", f"{GROUP}/origin")
    with pytest.raises(StorageError):
        thick.do(thick.volumes.grow(Volume("backup", "raw"), 16 * MIB))


# What earlier tenants wrote


def soiled(thick: LvmBed, size: int) -> None:
    """The free space of the group that is handed out first has something in it."""
    program("lvcreate", "-y", "-Wn", "-L", f"{size}b", "-n", "tenant", GROUP)
    with open(f"/dev/{GROUP}/tenant", "r+b", buffering=0) as device:
        for _piece in range(size // MIB):
            device.write(PATTERN)
        os.fsync(device.fileno())
    program("lvremove", "-y", f"{GROUP}/tenant")


def test_the_space_that_is_handed_out_was_really_soiled(thick: LvmBed) -> None:
    soiled(thick, 8 * MIB)
    made_by_hand("look", "8m", "-Zn")
    assert Path(f"/dev/{GROUP}/look").read_bytes()[MIB : 2 * MIB] == PATTERN


def test_old_bytes_are_seen_by_nobody(thick: LvmBed, tmp_path: Path) -> None:
    soiled(thick, 96 * MIB)
    raw, qcow2 = (recorded(thick, thick.disk(format=format)) for format in ("raw", "qcow2"))
    for volume in (raw, qcow2):
        assert thick.do(thick.volumes.allocate(volume, 5 * MIB)).kind == "done"
        reads_as(thick, volume, raw_file(tmp_path / "zero", 5 * MIB, {}))
        assert thick.do(thick.volumes.grow(volume, 9 * MIB)).kind == "done"
        reads_as(thick, volume, raw_file(tmp_path / "zero", 9 * MIB, {}))
    image = filled(thick, Sparse(6 * MIB, {0: DATA, 5 * MIB: b"z" * 512}))
    reads_as(thick, image, raw_file(tmp_path / "image", 6 * MIB, {0: DATA, 5 * MIB: b"z" * 512}))
    for how in ("overlay", "copy"):
        clone = cloned(thick, image, 8 * MIB, how)
        reads_as(thick, clone, raw_file(tmp_path / "clone", 8 * MIB, {0: DATA, 5 * MIB: b"z" * 512}))
    assert not [name for name in names() if name.startswith(SPARE)]


def test_a_raw_volume_of_a_group_that_hosts_share_does_not_grow(thick: LvmBed) -> None:
    """Clearing the space before takes a lock, which keeps off this host's programs alone."""
    volume = recorded(thick, thick.disk(format="raw"))
    thick.do(thick.volumes.allocate(volume, MIB))
    shared = replace(thick.parts.volumes.group, shared=True)
    thick.perform = Performer({POOL: Parts(thick.parts.records, ThickVolumes(shared, Runner()))})
    before = lvs("lv_name", "lv_size")
    with pytest.raises(StorageError, match="which hosts share"):
        thick.do(thick.volumes.grow(volume, 2 * MIB))
    assert lvs("lv_name", "lv_size") == before


def test_a_thin_volume_never_shows_what_was_there(thin: LvmBed, tmp_path: Path) -> None:
    first = recorded(thin, thin.disk("first"))
    thin.do(thin.volumes.allocate(first, 16 * MIB))
    guest_writes(thin, first, "write -P 0xa5 0 16M")
    thin.do(thin.volumes.remove(first))
    second = recorded(thin, thin.disk("second"))
    thin.do(thin.volumes.allocate(second, 8 * MIB))
    thin.do(thin.volumes.grow(second, 16 * MIB))
    guest_writes(thin, second, "write -P 1 4096 512", "write -P 1 12M 512")
    reads_as(thin, second, raw_file(tmp_path / "e", 16 * MIB, {4096: b"\1" * 512, 12 * MIB: b"\1" * 512}))


def test_a_thin_pool_that_does_not_zero_is_refused(thin: LvmBed) -> None:
    program("lvchange", "--zero", "n", f"{GROUP}/virt-storage-pool")
    try:
        with pytest.raises(StorageError, match="--zero y"):
            thin.do(thin.volumes.allocate(recorded(thin, thin.disk()), MIB))
    finally:
        program("lvchange", "--zero", "y", f"{GROUP}/virt-storage-pool")


# Sizes


def test_an_image_whose_source_does_not_tell_its_size(bed: LvmBed, tmp_path: Path, monkeypatch: Any) -> None:
    """It is begun in a volume that grows, and ends in one of its size."""
    monkeypatch.setattr("ansible_collections.virt.storage.plugins.module_utils._backends.lvm_sink._FIRST", 4 * MIB)
    pieces = {0: DATA, 4 * MIB: b"m" * 4096, 10 * MIB + 512: b"e" * 512}
    plain = raw_file(tmp_path / "plain", 10 * MIB + 1024, pieces)
    packed = tmp_path / "packed.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    volume = recorded(bed, bed.image())
    source = SourceSpec(str(packed), "raw", compression="gz")
    facts = bed.do(bed.volumes.fill(volume, Incoming(source, BOUNDS)))
    assert facts["size"] == 10 * MIB + 1024
    assert bed.do(bed.volumes.digest(volume)) == facts["content"]
    stat = stat_of(bed, volume)
    assert stat is not None
    assert stat.size == 10 * MIB + 1024
    assert program("blockdev", "--getsize64", bed.at(volume)[1]).strip() == str(11 * MIB)
    program("cmp", "-n", str(stat.size), str(plain), bed.at(volume)[1])


def test_a_disk_that_ends_within_its_last_extent_grows_into_it(bed: LvmBed) -> None:
    volume = recorded(bed, bed.disk(format="raw"))
    bed.do(bed.volumes.fill(volume, Literal(lambda: b"config" * 1000)))
    stat = stat_of(bed, volume)
    assert stat is not None
    assert stat.size == 6144
    assert bed.do(bed.volumes.grow(volume, 8192)).kind == "done"
    stat = stat_of(bed, volume)
    assert stat is not None
    assert stat.size == 8192
    assert bed.do(bed.volumes.grow(volume, 8192)).kind == "already"
    assert bed.do(bed.volumes.grow(volume, 3 * MIB + 512)).kind == "done"
    stat = stat_of(bed, volume)
    assert stat is not None
    assert stat.size == 3 * MIB + 512
    assert program("blockdev", "--getsize64", bed.at(volume)[1]).strip() == str(4 * MIB)


def test_what_lvm_wrote_is_flushed_before_it_is_told(thick: LvmBed) -> None:
    """LVM leaves its metadata in the cache of the disk, where power loss finds them."""

    def flushes() -> int:
        return int(Path("/sys/block/vdb/stat").read_text().split()[15])

    volume = recorded(thick, thick.disk(format="raw"))
    thick.do(thick.volumes.fill(volume, Literal(lambda: b"config")))
    before = flushes()
    assert thick.do(thick.volumes.grow(volume, 8192)).kind == "done"
    assert flushes() > before


def test_an_overlay_can_be_written_to_its_last_byte(thick: LvmBed) -> None:
    size = 24 * MIB
    image = filled(thick, Sparse(size, dict.fromkeys(range(0, size, MIB), DATA)))
    volume = cloned(thick, image, size)
    for end in (size, 2 * size):
        thick.do(thick.volumes.grow(volume, end))
        # Backwards and in small pieces, as what is allocated last comes first.
        writes = [f"write -P {number % 250 + 1} {number * 256}k 256k" for number in reversed(range(end // (256 << 10)))]
        guest_writes(thick, volume, *writes)
        guest_writes(thick, volume, *(f"read -P {n % 250 + 1} {n * 256}k 256k" for n in range(end // (256 << 10))))
    program("qemu-img", "check", "-q", "-f", "qcow2", thick.at(volume)[1])


def test_a_disk_with_snapshots_in_it_keeps_the_image_that_they_need(thick: LvmBed) -> None:
    volume = cloned(thick, filled(thick, Literal(lambda: DATA)), MIB)
    place = thick.at(volume)[1]
    # Said with its format, for the image below it is never to be guessed either.
    options = f"driver=qcow2,file.driver=host_device,file.filename={place}"
    program("qemu-img", "snapshot", "--image-opts", "-c", "before", options)
    refusal = pytest.raises(StorageError, match="snapshots of its guest in it")
    with refusal:
        thick.parts.volumes.to_flatten(volume)
    with refusal:
        thick.do(thick.volumes.flatten(volume))
    program("qemu-img", "snapshot", "--image-opts", "-d", "before", options)
    assert thick.parts.volumes.to_flatten(volume) == MIB
    assert thick.do(thick.volumes.flatten(volume)).kind == "done"


@pytest.mark.parametrize("options", ["cluster_size=64k", "cluster_size=4k,refcount_bits=64"])
def test_a_qcow2_volume_with_less_space_than_its_guest_can_fill_is_not_adopted(thick: LvmBed, options: str) -> None:
    """As it is made elsewhere, to be extended when it fills up, which nobody here would do."""
    uuid = made_by_hand("small", "8m")
    program("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, f"/dev/{GROUP}/small", "24M")
    volume = Volume("small", "qcow2", uuid)
    flaw = thick.parts.volumes.flaw(volume)
    assert "its guest can fill" in flaw
    program(*flaw.partition("with ")[2].split())
    assert thick.parts.volumes.flaw(volume) == ""
    assert thick.do(thick.volumes.adopt("small", volume))
    assert thick.do(thick.volumes.grow(volume, 40 * MIB)).kind == "done"
    guest_writes(thick, volume, *(f"write -P 7 {start}M 4M" for start in reversed(range(0, 40, 4))))
    program("qemu-img", "check", "-q", "-f", "qcow2", thick.at(volume)[1])
    assert thick.parts.volumes.flaw(volume) == ""


# In use, busy, inactive


def test_no_guest_starts_while_a_disk_is_cut_from_its_image_or_read(thick: LvmBed, monkeypatch: Any) -> None:
    image = filled(thick, Literal(lambda: DATA))
    tried = []

    def guest(volume: Volume, check: bool = False) -> str:
        format, place = thick.at(volume)
        argv = ["qemu-io", "-f", format, "-c", "write -q 0 512", place]
        return subprocess.run(argv, capture_output=True, text=True, check=check, timeout=60).stderr

    def drop(descriptor: int, name: str) -> None:
        tried.append(guest(overlay))
        drop_pointer(descriptor, name)

    monkeypatch.setattr(f"{ThickVolumes.__module__}.drop_pointer", drop)
    overlay, copy = cloned(thick, image, MIB), cloned(thick, image, MIB, "copy")
    assert thick.do(thick.volumes.flatten(overlay)).kind == "done"
    with thick.parts.volumes.disk_data(copy):
        tried.append(guest(copy))
    assert ["lock" in said for said in tried] == [True, True]
    for volume in (overlay, copy):
        guest(volume, check=True)


@pytest.mark.parametrize("way", ["open", "loop", "mount", "device"])
def test_a_user_shows_whatever_it_uses_the_device_by(thin: LvmBed, way: str, tmp_path: Path) -> None:
    volume = recorded(thin, thin.disk())
    thin.do(thin.volumes.allocate(volume, 16 * MIB))
    place = thin.at(volume)[1]
    undo: Sequence[str] = ()
    if way == "open":
        with open(place, "rb") as device:
            user = subprocess.Popen(["sleep", "1000"], stdin=device)
        who, undo = f"process {user.pid}", ["kill", str(user.pid)]
    elif way == "loop":
        program("modprobe", "loop")
        who = program("losetup", "--find", "--show", place).strip()
        undo = ["losetup", "--detach", who]
    elif way == "mount":
        program("mkfs.ext4", "-q", place)
        program("mount", place, str(tmp_path))
        who, undo = str(tmp_path), ["umount", str(tmp_path)]
    else:
        program("dmsetup", "create", "upon", "--table", f"0 2048 linear {place} 0")
        who, undo = "upon", ["dmsetup", "remove", "upon"]
    try:
        assert who in str(thin.do(thin.volumes.users(volume)))
        outcome = thin.do(thin.volumes.remove(volume))
        assert (outcome.kind, who in outcome.why) == ("refused", True)
    finally:
        program(*undo)
        if way == "open":
            user.wait(10)
    assert thin.do(thin.volumes.remove(volume)).kind == "done"


def test_a_volume_that_somebody_holds_for_a_moment_is_removed(thin: LvmBed) -> None:
    """Between the look and the removal, as udev does: LVM says that it is in use."""
    volume = recorded(thin, thin.disk())
    thin.do(thin.volumes.allocate(volume, MIB))
    with open(thin.at(volume)[1], "rb") as device:
        holder = subprocess.Popen(["sleep", "3"], stdin=device)
    path = thin.at(volume)[1].replace("/dev/", "")
    assert thin.parts.volumes._remove([path]) == {}
    assert holder.wait(10) == 0


def test_what_is_not_active_is_activated_when_it_is_needed(bed: LvmBed, tmp_path: Path) -> None:
    """After a host's start, or when somebody switched the group off."""
    image = filled(bed, Literal(lambda: DATA))
    volume = cloned(bed, image, 2 * MIB)
    own = [f"{GROUP}/{name}" for name in (image.name, volume.name)]
    program("lvchange", "-an", *own)
    assert bed.do(bed.volumes.digest(image))
    assert bed.do(bed.volumes.sealed(image))
    assert bed.do(bed.volumes.grow(volume, 3 * MIB)).kind == "done"
    program("lvchange", "-an", "-ky", *own)
    bed.parts.volumes.prepare()
    reads_as(bed, volume, raw_file(tmp_path / "e", 3 * MIB, {0: DATA}))


def test_a_thin_clone_outlives_its_image(thin: LvmBed, tmp_path: Path) -> None:
    image = filled(thin, Literal(lambda: DATA))
    volume = cloned(thin, image, MIB)
    assert thin.do(thin.volumes.remove(image)).kind == "done"
    program("sync")
    Path("/proc/sys/vm/drop_caches").write_text("3")
    reads_as(thin, volume, raw_file(tmp_path / "e", MIB, {0: DATA}))


# Killed between any two commands


class Dying(Runner):
    """Ends its process when the n-th program has run."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._left = itertools.count(number, -1)

    def start(self, argv: Sequence[str], **options: Any) -> Running:
        if next(self._left) == 0:
            os._exit(137)
        return super().start(argv, **options)


def killed_at(number: int, bed: LvmBed, op: Any) -> bool:
    """Do ``op`` in a process that dies before its n-th program; whether it came that far."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            volumes = ThickVolumes(bed.parts.volumes.group, Dying(number))
            Performer({POOL: Parts(bed.parts.records, volumes)})({0: op})
            code = 0
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, 137)
    return code == 137


def test_growing_a_raw_volume_can_be_killed_anywhere_and_shows_nothing(thick: LvmBed, tmp_path: Path) -> None:
    soiled(thick, 64 * MIB)
    volume = recorded(thick, thick.disk(format="raw"))
    thick.do(thick.volumes.allocate(volume, 2 * MIB))
    size, died = 2 * MIB, 0
    for number in itertools.count():
        died += (was_killed := killed_at(number, thick, thick.volumes.grow(volume, size + MIB)))
        program("lvchange", "-ay", f"{GROUP}/{volume.name}")
        stat = stat_of(thick, volume)
        assert stat is not None
        assert stat.size == (size if was_killed else size + MIB)
        reads_as(thick, volume, raw_file(tmp_path / "zero", stat.size, {}))
        if not was_killed:
            break
    assert died >= 5, "nothing was killed"
    left = [name for name in names() if name.startswith(SPARE)]
    assert left
    backend.ABANDONED_SECONDS = -60
    try:
        assert set(thick.do(thick.volumes.sweep())) >= set(left)
    finally:
        backend.ABANDONED_SECONDS = 3600
    assert not set(left) & names()
