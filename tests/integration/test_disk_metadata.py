# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Records of disks on the real libvirtd: adopted, checked, lost in every way and restored, and given up."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from ansible_collections.virt.storage.plugins.module_utils._algorithms.cache import retire
from ansible_collections.virt.storage.plugins.module_utils._algorithms.disks import DiskWish, make
from ansible_collections.virt.storage.plugins.module_utils._algorithms.reclaim import reclaim
from ansible_collections.virt.storage.plugins.module_utils._ground.errors import LostMetadata, StorageError
from ansible_collections.virt.storage.plugins.module_utils._ground.qcow2_pointer import write_backing
from ansible_collections.virt.storage.plugins.module_utils._records.types import State
from ansible_collections.virt.storage.plugins.module_utils._tasks.session import Session, first_error

from .conftest import ModuleFailed

MIB = 1 << 20
LOST = "web1+root+aaaaaaaaaaaa"


class Bench:
    """A pool with an image in its cache; and the accidents that may befall it."""

    def __init__(self, task, pool, source):
        self.task, self.name, self.path = task, pool["name"], Path(pool["path"])
        self.private = self.path / ".virt-storage"
        brought = task(
            "cached_image", pools=[self.name], images=[{"name": "base", "source": str(source), "format": "raw"}]
        )
        self.image = brought["images"][0]["id"]
        self.image_volume = self.private / "images" / f"{self.image}.raw"

    def session(self):
        session = Session(lease=1.0)
        return session, session.open(self.name)

    def disk(self, instance="web1", role="root"):
        """A disk on the image, made as the algorithms make it; gives its id."""
        session, pool = self.session()
        key = next(r["key"] for r in self.records() if r["id"] == self.image)
        wish = DiskWish(instance, role, 4 * MIB, image_key=key)
        ended = session.work(pool, [make(pool, wish)])
        first_error(ended)
        return ended[0].value.disk.id

    def run(self, coroutine):
        session, pool = self.session()
        ended = session.work(pool, [coroutine(pool)])
        first_error(ended)
        return ended[0].value

    def retire(self):
        """Take the image out of use."""

        async def act(pool):
            await retire(pool, await pool.records.read(self.image), State.READY)

        self.run(act)

    def records(self):
        return self.task("disk_metadata_info", pools=[self.name])["pools"][0]["records"]

    def state_of(self, record_id):
        return next((r["state"] for r in self.records() if r["id"] == record_id), None)

    def files(self, record_id):
        """The files of a record, its body first."""
        return sorted((self.private / "records").glob(f"{record_id}*"))

    def lose(self, record_id):
        for file in self.files(record_id):
            file.unlink()

    def write(self, record_id, text):
        """Another body, under both names."""
        body, state = self.files(record_id)
        body.unlink()
        state.unlink()
        body.write_text(text)
        os.link(body, state)

    def references(self):
        folder = self.private / "references" / self.image
        return sorted(os.listdir(folder)) if folder.exists() else []

    def problems(self):
        """What verified finds wrong, by its code; the pool is left as it is, in check mode and in a run."""
        before = self.everything()
        found = []
        for check in (True, False):
            try:
                result = self.task("disk_metadata", check=check, pool=self.name, state="verified")
            except ModuleFailed as failed:
                result = failed.result
            assert result["changed"] is False
            assert bool(result["problems"]) is bool(result.get("failed"))
            assert not result["problems"] or result["problems"][0]["message"] in result["msg"]
            found.append(result["problems"])
        assert found[0] == found[1]
        assert self.everything() == before
        assert all(each["pool"] == self.name and "\n" not in each["message"] for each in found[0])
        return {(each["problem"], each["id"], each["volume"]): each["message"] for each in found[0]}

    def reports(self):
        result = self.task("disk_metadata", pool=self.name, state="verified")
        return {(each["problem"], each["id"], each["volume"]): each["message"] for each in result["reports"]}

    def everything(self):
        found = {}
        for path in self.path.rglob("*"):
            status = path.lstat()
            found[str(path)] = (status.st_ino, status.st_mtime_ns, status.st_size, status.st_mode)
        return found

    def overlay(self, name, backing=None, options=(), size="4M"):
        """A qcow2 volume that somebody else made."""
        argv = ["qemu-img", "create", "-q", "-f", "qcow2", *options]
        if backing is not None:
            argv += ["-b", str(backing), *([] if "-F" in options else ["-F", "raw"])]
        subprocess.run([*argv, str(self.path / name), size], check=True, cwd=self.path)
        return self.path / name


@pytest.fixture
def bench(task, pool, tmp_path):
    source = tmp_path / "base.raw"
    source.write_bytes(b"base" * 1024 + bytes(MIB))
    return Bench(task, pool, source)


def entry(volume, instance="web1", format="qcow2", **more):
    return {"volume": volume, "instance": instance, "format": format, **more}


# Adoption


def test_a_qcow2_volume_is_adopted_where_it_is(four, bench):
    path = bench.overlay("old.qcow2")
    before = path.read_bytes(), path.stat().st_ino
    results = four("disk_metadata", pool=bench.name, disks=[entry("old.qcow2")])
    what = f"disk root of web1 in pool {bench.name}"
    assert results.run["actions"] == [f"adopt old.qcow2 as {what} (qcow2)"]
    assert results.run["diff"]["before"] == {}
    assert results.run["diff"]["after"] == {what: {"state": "ready", "volume": "old.qcow2", "format": "qcow2"}}
    foreseen, made = results.check["disks"][0], results.run["disks"][0]
    assert set(foreseen) == set(made)
    assert {**made, "id": None} == foreseen
    assert made == results.check_again["disks"][0] == results.run_again["disks"][0]
    assert (made["path"], made["size"], made["backing"]) == (str(path), 4 * MIB, None)
    assert (path.read_bytes(), path.stat().st_ino) == before
    assert bench.problems() == {}


def test_a_raw_volume_moves_out_of_the_refreshed_folder(four, bench):
    path = bench.path / "old.img"
    path.write_bytes(b"data" * 256)
    inode = path.stat().st_ino
    results = four("disk_metadata", pool=bench.name, disks=[entry("old.img", format="raw", role="data")])
    assert results.run["actions"] == [f"adopt old.img as disk data of web1 in pool {bench.name} (raw, moved)"]
    made = results.run["disks"][0]
    assert made["volume"] == f".virt-storage/disks/{made['id']}.raw"
    assert not path.exists()
    assert os.stat(made["path"]).st_ino == inode
    assert Path(made["path"]).read_bytes() == b"data" * 256
    assert bench.problems() == {}


def test_a_raw_volume_in_use_does_not_move(task, refused, bench):
    path = bench.path / "old.img"
    path.write_bytes(bytes(512))
    with path.open("rb") as file, subprocess.Popen(["sleep", "60"], stdin=file) as user:
        message = refused("disk_metadata", pool=bench.name, disks=[entry("old.img", format="raw")])
        user.kill()
    assert "is in use" in message
    assert "process" in message
    assert path.exists()
    assert task("disk_metadata", pool=bench.name, disks=[entry("old.img", format="raw")])["changed"]


def test_a_move_that_was_cut_short_is_told_and_finished(four, task, bench):
    path = bench.path / "old.img"
    path.write_bytes(bytes(512))
    made = task("disk_metadata", pool=bench.name, disks=[entry("old.img", format="raw")])["disks"][0]
    os.link(made["path"], path)
    assert list(bench.problems()) == [("raw_exposed", made["id"], "old.img")]
    stated = [entry("old.img", format="raw")]
    check = task("disk_metadata", check=True, pool=bench.name, disks=stated)
    result = task("disk_metadata", pool=bench.name, disks=stated)
    assert check["plan"] == result["plan"]
    assert check["diff"] == result["diff"]
    assert result["actions"] == [f"move old.img to {made['volume']}"]
    assert not path.exists()
    assert bench.problems() == {}


def test_a_volume_on_a_cached_image_is_adopted_where_both_say_so(four, refused, bench):
    bench.overlay("vm.qcow2", bench.image_volume)
    assert "it stands on base" in refused("disk_metadata", pool=bench.name, disks=[entry("vm.qcow2")])
    other = refused("disk_metadata", pool=bench.name, disks=[entry("vm.qcow2", image="other")])
    assert "stated to stand on the image other" in other
    assert "it stands on base" in other
    results = four("disk_metadata", pool=bench.name, disks=[entry("vm.qcow2", image="base")])
    assert results.run["disks"][0]["backing"] == bench.image
    assert bench.references() == [results.run["disks"][0]["id"]]
    assert bench.problems() == {}
    for name in (bench.image, next(r["key"] for r in bench.records() if r["id"] == bench.image)):
        again = bench.task("disk_metadata", pool=bench.name, disks=[entry("vm.qcow2", image=name)])
        assert again["changed"] is False


def test_what_is_no_disk_of_ours_is_refused(refused, bench):
    bench.overlay("foreign", "/etc/hostname", ("-u", "-F", "raw"))
    bench.overlay("nested", bench.image_volume, ("-u", "-F", "qcow2"))
    bench.overlay("outside", None, ("-o", f"data_file={bench.path}/data"))
    (bench.path / "zeroes").write_bytes(bytes(4096))
    (bench.path / "empty").write_bytes(b"")
    (bench.path / "link").symlink_to("/etc/hostname")
    (bench.path / "folder").mkdir()
    os.mkfifo(bench.path / "pipe")
    before = bench.everything()
    for name, tells in {
        "foreign": "'/etc/hostname' as its backing file",
        "nested": "header says qcow2 about the format",
        "outside": "its data is in another file",
        "zeroes": "does not begin with a qcow2 header",
        "empty": "does not begin with a qcow2 header",
        "link": "symbolic link",
        "folder": "that is a folder",
        "pipe": "not a regular file",
        "missing": "there is no such file",
    }.items():
        assert tells in refused("disk_metadata", pool=bench.name, disks=[entry(name)])
    assert bench.everything() == before


def test_bad_input_is_one_sentence_and_begins_no_records(refused, pool):
    for disk, tells in (
        (entry("../x"), "volume name '../x'"),
        (entry("a\nb"), "volume name 'a\\nb'"),
        (entry("x" * 300), "more than 255 bytes"),
        (entry("ü.qcow2"), "has no volume 'ü.qcow2'"),
        (entry("x", instance="ü"), "instance name"),
        ({"volume": "x", "instance": "a"}, "lacks its format"),
    ):
        assert tells in refused("disk_metadata", pool=pool["name"], disks=[disk])
    assert "is given by nothing" in refused("disk_metadata", pool=pool["name"], state="absent", disks=[{}])
    assert not (Path(pool["path"]) / ".virt-storage").exists()


def test_one_refusal_of_many_changes_nothing(refused, bench):
    bench.overlay("good.qcow2")
    disks = [entry("good.qcow2"), entry("missing.qcow2", instance="web2")]
    before = bench.everything()
    assert "missing.qcow2" in refused("disk_metadata", pool=bench.name, disks=disks)
    assert bench.everything() == before


def test_many_are_adopted_in_one_task(four, bench):
    disks = []
    for number in range(20):
        bench.overlay(f"v{number}.qcow2", bench.image_volume)
        disks.append(entry(f"v{number}.qcow2", instance=f"vm{number}", image="base"))
    results = four("disk_metadata", pool=bench.name, disks=disks)
    assert len(results.run["actions"]) == 20
    assert len(bench.references()) == 20
    assert bench.problems() == {}


def test_contradictions_are_refused(task, refused, bench):
    bench.overlay("one.qcow2")
    bench.overlay("two.qcow2")
    task("disk_metadata", pool=bench.name, disks=[entry("one.qcow2")])
    taken = refused("disk_metadata", pool=bench.name, disks=[entry("two.qcow2")])
    assert "exists already" in taken
    for other in (
        entry("one.qcow2", instance="web2"),
        entry("one.qcow2", role="data"),
        entry("one.qcow2", image="base"),
    ):
        assert "is recorded as disk root of web1" in refused("disk_metadata", pool=bench.name, disks=[other])
    os.link(bench.path / "one.qcow2", bench.path / "alias.qcow2")
    alias = refused("disk_metadata", pool=bench.name, disks=[entry("alias.qcow2", instance="web3")])
    assert "is recorded as disk root of web1" in alias


def test_a_pool_without_records_is_left_so_by_reading(task, pool, libvirtd):
    volume = Path(pool["path"]) / "x.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(volume), "1M"], check=True)
    result = task("disk_metadata", pool=pool["name"], state="verified")
    assert [(each["problem"], each["volume"]) for each in result["reports"]] == [("volume_unmanaged", "x.qcow2")]
    info = task("disk_metadata_info", pools=[pool["name"]])["pools"]
    assert info == [{"pool": pool["name"], "records": [], "unmanaged": ["x.qcow2"]}]
    check = task("disk_metadata", check=True, pool=pool["name"], disks=[entry("x.qcow2")])
    assert check["changed"]
    assert task("disk_metadata", pool=pool["name"], state="absent", disks=[{"volume": "x.qcow2"}])["changed"] is False
    assert not (Path(pool["path"]) / ".virt-storage").exists()


def test_a_pool_that_is_not_there(task):
    for state in ("verified", "present", "rebuilt", "absent"):
        disk = {"volume": "x"} if state == "absent" else entry("x")
        with pytest.raises(ModuleFailed) as failed:
            task("disk_metadata", pool="vst-none", state=state, disks=[disk])
        assert "There is no pool 'vst-none'" in failed.value.msg
        lenient = task("disk_metadata", check=True, pool="vst-none", state=state, disks=[disk])
        assert lenient["changed"] is False
        assert "There is no pool 'vst-none'" in str(lenient["warnings"])


# What verified finds, and what restores it


def test_a_sound_pool_has_no_problem(bench):
    bench.disk()
    assert bench.problems() == {}
    assert bench.reports() == {}


def test_a_deleted_record_is_told_holds_its_image_and_is_rebuilt(four, refused, bench):
    lost = bench.disk()
    volume = f"{lost}.qcow2"
    bench.lose(lost)
    found = bench.problems()
    assert list(found) == [("record_missing", lost, volume)]
    assert "state=rebuilt" in found["record_missing", lost, volume]
    assert "is one of ours" in refused("disk_metadata", pool=bench.name, disks=[entry(volume, image="base")])
    bench.retire()
    assert bench.image_volume.exists()
    wrong = refused(
        "disk_metadata", pool=bench.name, state="rebuilt", disks=[entry(volume, instance="db", image="base")]
    )
    assert "bears the name of disk root of web1" in wrong
    assert "lacks" in refused("disk_metadata", pool=bench.name, state="rebuilt", disks=[{"volume": volume}])
    results = four("disk_metadata", pool=bench.name, state="rebuilt", disks=[entry(volume, image="base")])
    assert results.run["actions"] == [
        f"rebuild {volume} as disk root of web1 in pool {bench.name} (qcow2, on image base)"
    ]
    fresh = results.run["disks"][0]["id"]
    assert fresh != lost
    assert bench.references() == [fresh]
    assert bench.problems() == {}
    bench.run(reclaim)
    assert bench.image_volume.exists()


def test_a_record_lost_with_its_reference_on_a_retired_image_is_not_rebuilt(refused, bench):
    keeper, lost = bench.disk("web2"), bench.disk()
    bench.lose(lost)
    (bench.private / "references" / bench.image / lost).unlink()
    bench.retire()
    message = refused("disk_metadata", pool=bench.name, state="rebuilt", disks=[entry(f"{lost}.qcow2", image="base")])
    assert "may be pruned at any moment" in message
    assert bench.references() == [keeper]
    subprocess.run(["qemu-img", "rebase", "-q", "-f", "qcow2", "-b", "", str(bench.path / f"{lost}.qcow2")], check=True)
    bench.task("disk_metadata", pool=bench.name, state="rebuilt", disks=[entry(f"{lost}.qcow2")])
    assert bench.problems() == {}


@pytest.mark.parametrize("text", [None, "{}"])
def test_a_disk_is_shown_grown_and_flattened_without_the_record_of_its_image(four, bench, text):
    disk = bench.disk()
    seen = bench.task("instance_disk_info", pools=[bench.name])["disks"]
    bench.lose(bench.image) if text is None else bench.write(bench.image, text)
    assert bench.task("instance_disk_info", pools=[bench.name])["disks"] == seen
    assert bench.references() == [disk]
    wanted = {"instance": "web1", "size": "6M", "flattened": True}
    shown = four("instance_disk", pool=bench.name, disks=[wanted]).run["disks"][0]
    assert (shown["size"], shown["backing"], bench.state_of(disk)) == (6 * MIB, None, "flat")
    assert bench.references() == []
    argv = ["qemu-img", "compare", "-f", "qcow2", "-F", "raw", shown["path"], str(bench.image_volume)]
    subprocess.run(argv, check=True, capture_output=True)


def test_a_damaged_record_is_told_and_replaced(four, refused, bench):
    lost = bench.disk()
    volume = f"{lost}.qcow2"
    bench.write(lost, "{ half")
    found = bench.problems()
    assert list(found) == [("record_damaged", lost, "")]
    assert "cannot be read" in found["record_damaged", lost, ""]
    bench.overlay("other.qcow2")
    other = refused("disk_metadata", pool=bench.name, disks=[entry("other.qcow2", instance="web9")])
    assert f"The record of {lost} cannot be read" in other
    in_place = refused("disk_metadata", pool=bench.name, disks=[entry("other.qcow2")])
    assert "state its disk with state=rebuilt" in in_place
    usurper = refused("disk_metadata", pool=bench.name, state="rebuilt", disks=[entry("other.qcow2")])
    assert f"is that of the volume {volume}" in usurper
    with pytest.raises(LostMetadata):
        bench.run(lambda pool: make(pool, DiskWish("web1", "root", MIB)))
    bench.retire()
    results = four("disk_metadata", pool=bench.name, state="rebuilt", disks=[entry(volume, image="base")])
    assert results.run["actions"][0] == f"give up the damaged record {lost}"
    assert bench.references() == [results.run["disks"][0]["id"]]
    assert bench.problems() == {}


def test_two_damaged_records_are_replaced_in_one_task(four, bench, refused):
    one, two = bench.disk("web1"), bench.disk("web2")
    for each in (one, two):
        bench.write(each, "[]")
    alone = [entry(f"{one}.qcow2", image="base")]
    assert "or in the same task" in refused("disk_metadata", pool=bench.name, state="rebuilt", disks=alone)
    both = [*alone, entry(f"{two}.qcow2", instance="web2", image="base")]
    four("disk_metadata", pool=bench.name, state="rebuilt", disks=both)
    assert bench.problems() == {}


def test_a_newer_record_is_left_alone(bench, refused):
    newer = bench.disk()
    body = json.loads(bench.files(newer)[0].read_text())
    bench.write(newer, json.dumps({**body, "schema": 99}))
    found = bench.problems()
    assert list(found) == [("record_newer", newer, "")]
    assert "newer version" in found["record_newer", newer, ""]
    disks = [entry(f"{newer}.qcow2", image="base")]
    for state in ("present", "rebuilt"):
        assert "schema 99" in refused("disk_metadata", pool=bench.name, state=state, disks=disks)
    assert "schema 99" in refused("disk_metadata", pool=bench.name, state="absent", disks=[{"id": newer}])
    bench.overlay("other.qcow2")
    with pytest.raises(StorageError):
        bench.run(lambda pool: make(pool, _adoption(bench, "other.qcow2")))
    assert [r["id"] for r in bench.records() if r["state"] == "pending"] == []


def _adoption(bench, name):
    inode = str((bench.path / name).stat().st_ino)
    return DiskWish("new", "root", MIB, native=inode, found=name, name=name, format="qcow2")


def test_a_newer_state_and_a_newer_pool(bench, refused):
    disk = bench.disk()
    _body, state = bench.files(disk)
    os.rename(state, f"{state}er")
    assert list(bench.problems()) == [("record_newer", disk, "")]
    os.rename(f"{state}er", state)
    (bench.private / "schema").write_text("99\n")
    assert list(bench.problems()) == [("record_newer", "", "")]
    info = bench.task("disk_metadata_info", pools=[bench.name])["pools"][0]
    assert "schema 99" in info["problem"]
    assert "schema 99" in refused("disk_metadata", pool=bench.name, disks=[entry("x")])


def test_a_record_without_its_volume(bench):
    disk = bench.disk()
    (bench.path / f"{disk}.qcow2").unlink()
    found = bench.problems()
    assert list(found) == [("volume_missing", disk, f"{disk}.qcow2")]
    assert "from a backup" in found["volume_missing", disk, f"{disk}.qcow2"]


def test_a_backing_image_without_its_volume(bench, refused):
    disk = bench.disk()
    subprocess.run(["chattr", "-i", str(bench.image_volume)], check=False, capture_output=True)
    bench.image_volume.unlink()
    found = bench.problems()
    volume = f".virt-storage/images/{bench.image}.raw"
    assert set(found) == {("backing_missing", disk, f"{disk}.qcow2"), ("volume_missing", bench.image, volume)}
    assert f"whose volume {volume} is missing" in found["backing_missing", disk, f"{disk}.qcow2"]
    with pytest.raises(LostMetadata, match=r"volume .* is missing"):
        bench.disk("web2")
    bench.lose(disk)
    message = refused("disk_metadata", pool=bench.name, state="rebuilt", disks=[entry(f"{disk}.qcow2", image="base")])
    assert "has lost its volume" in message


@pytest.mark.parametrize(("text", "why"), [("", "cannot be read"), (None, "no record")])
def test_a_backing_image_without_its_record(bench, text, why):
    disk = bench.disk()
    if text is None:
        bench.lose(bench.image)
    else:
        bench.write(bench.image, text)
    found = bench.problems()
    assert why in found["backing_missing", disk, f"{disk}.qcow2"]
    other = next(code for code, id, _volume in found if id == bench.image)
    assert other == ("record_missing" if text is None else "record_damaged")
    assert len(found) == 2


def test_a_missing_reference_is_restored(four, bench):
    disk = bench.disk()
    (bench.private / "references" / bench.image / disk).unlink()
    volume = f"{disk}.qcow2"
    assert list(bench.problems()) == [("reference_missing", disk, volume)]
    assert bench.task("disk_metadata", pool=bench.name, disks=[entry(volume, image="base")])["changed"] is False
    results = four("disk_metadata", pool=bench.name, state="rebuilt", disks=[entry(volume, image="base")])
    assert results.run["actions"] == [f"refer to the image {bench.image} from {disk}"]
    assert bench.references() == [disk]
    assert bench.problems() == {}


def test_a_record_without_a_state_is_kept_and_revived(four, refused, bench):
    disk = bench.disk()
    bench.files(disk)[1].unlink()
    volume = f"{disk}.qcow2"
    assert list(bench.problems()) == [("stateless", disk, volume)]
    bench.run(reclaim)
    assert (bench.path / volume).exists()
    assert "lost its state" in refused("disk_metadata", pool=bench.name, disks=[entry(volume, image="base")])
    results = four("disk_metadata", pool=bench.name, state="rebuilt", disks=[entry(volume, image="base")])
    assert results.run["actions"] == [f"give the record {disk} its state again"]
    assert bench.state_of(disk) == "ready"
    assert bench.problems() == {}


def test_a_pointer_that_differs(bench):
    disk = bench.disk()
    path = bench.path / f"{disk}.qcow2"
    fd = os.open(path, os.O_RDWR)
    write_backing(fd, "/etc/hostname")
    os.close(fd)
    found = bench.problems()
    assert list(found) == [("pointer_differs", disk, path.name)]
    assert "/etc/hostname" in found["pointer_differs", disk, path.name]
    bench.lose(disk)
    with pytest.raises(ModuleFailed, match="no cached image"):
        bench.task("disk_metadata", pool=bench.name, state="rebuilt", disks=[entry(path.name, image="base")])


def test_a_volume_that_is_something_else(task, refused, bench):
    disk = bench.disk()
    (bench.path / f"{disk}.qcow2").write_bytes(bytes(MIB))
    assert list(bench.problems()) == [("volume_damaged", disk, f"{disk}.qcow2")]
    bench.overlay("old.qcow2")
    adopted = task("disk_metadata", pool=bench.name, disks=[entry("old.qcow2", instance="web2")])["disks"][0]["id"]
    (bench.path / "old.qcow2").rename(bench.path.parent / "kept")
    bench.overlay("old.qcow2")
    assert ("volume_replaced", adopted, "old.qcow2") in bench.problems()
    disks = [{"instance": "web2"}]
    assert "is not the one that the disk" in refused("instance_disk", pool=bench.name, state="absent", disks=disks)


def test_an_image_that_can_be_written(bench):
    subprocess.run(["chattr", "-i", str(bench.image_volume)], check=False, capture_output=True)
    bench.image_volume.chmod(0o644)
    assert list(bench.problems()) == [("unsealed", bench.image, f".virt-storage/images/{bench.image}.raw")]


def test_reports_are_no_failure(bench):
    bench.overlay("stray.qcow2")

    async def begin(pool):
        wish = DiskWish("half", "root", MIB)
        made = await make(pool, wish)
        await pool.records.swap(made.disk.id, State.READY, State.DELETING)
        return made.disk.id

    half = bench.run(begin)
    reports = bench.reports()
    assert ("volume_unmanaged", "", "stray.qcow2") in reports
    assert "pruned clears it" in reports["unfinished", half, f"{half}.qcow2"]
    assert len(reports) == 2
    bench.run(reclaim)
    assert list(bench.reports()) == [("volume_unmanaged", "", "stray.qcow2")]


# Giving up


def test_a_disk_is_no_longer_managed_and_can_be_again(four, refused, bench):
    path = bench.overlay("old.qcow2")
    bench.task("disk_metadata", pool=bench.name, disks=[entry("old.qcow2")])
    content = path.read_bytes()
    results = four("disk_metadata", pool=bench.name, state="absent", disks=[{"instance": "web1"}])
    what = f"disk root of web1 in pool {bench.name}"
    assert results.run["actions"] == [f"stop managing {what}, keep old.qcow2"]
    assert results.run["diff"]["before"] == {what: {"state": "ready", "volume": "old.qcow2"}}
    assert path.read_bytes() == content
    assert list(bench.reports()) == [("volume_unmanaged", "", "old.qcow2")]
    made = four("disk_metadata", pool=bench.name, disks=[entry("old.qcow2")]).run["disks"][0]["id"]
    assert four("disk_metadata", pool=bench.name, state="absent", disks=[{"id": made}]).run["changed"]
    four("disk_metadata", pool=bench.name, disks=[entry("old.qcow2")])
    assert four("disk_metadata", pool=bench.name, state="absent", disks=[{"volume": "old.qcow2"}]).run["changed"]
    assert bench.state_of(made) == "released"


def test_a_disk_that_needs_its_image_stays_managed(refused, bench):
    disk = bench.disk()
    for which in ({"id": disk}, {"volume": f"{disk}.qcow2"}, {"instance": "web1", "role": "root"}):
        assert "flatten the disk first" in refused("disk_metadata", pool=bench.name, state="absent", disks=[which])
    assert bench.state_of(disk) == "ready"
    bench.write(disk, "?")
    message = refused("disk_metadata", pool=bench.name, state="absent", disks=[{"id": disk}])
    assert "restore it with state=rebuilt first" in message


def test_what_is_not_managed_is_absent(four, bench):
    for which in ({"id": LOST}, {"volume": "nothing"}, {"instance": "nobody"}):
        assert four("disk_metadata", pool=bench.name, state="absent", disks=[which]).run["changed"] is False


@pytest.mark.parametrize(("state", "ends"), [(State.PENDING, "released"), (State.DELETING, "gone")])
def test_a_damaged_record_of_unfinished_work_is_given_up(four, refused, bench, state, ends):
    disk = bench.disk()
    body, name = bench.files(disk)
    name.rename(f"{body}.{state}")
    bench.write(disk, "?")
    rebuilt = [entry(f"{disk}.qcow2", image="base")]
    assert "give it up with state=absent" in refused("disk_metadata", pool=bench.name, state="rebuilt", disks=rebuilt)
    if state is State.DELETING:
        message = refused("disk_metadata", pool=bench.name, state="absent", disks=[{"id": disk}])
        assert f"the removal of its volume {disk}.qcow2 had begun" in message
        (bench.path / f"{disk}.qcow2").unlink()
    four("disk_metadata", pool=bench.name, state="absent", disks=[{"id": disk}])
    assert bench.state_of(disk) == ends


# Information, and the way through a playbook


def test_info_shows_every_record(bench):
    disk = bench.disk()
    bench.overlay("stray.qcow2")
    damaged = bench.disk("web2")
    bench.write(damaged, "?")
    result = bench.task("disk_metadata_info", pools=[bench.name])
    found = result["pools"][0]
    records = {each["id"]: each for each in found["records"]}
    assert set(records) == {disk, damaged, bench.image}
    assert records[disk]["backing"] == bench.image
    assert (records[disk]["instance"], records[disk]["role"], records[disk]["size"]) == ("web1", "root", 4 * MIB)
    assert records[bench.image]["references"] == sorted([disk, damaged])
    assert "content" in records[bench.image]["facts"]["seal"]
    assert "cannot be read" in records[damaged]["problem"]
    assert found["unmanaged"] == ["stray.qcow2"]
    assert result["changed"] is False
    every = bench.task("disk_metadata_info")["pools"]
    assert bench.name in [each["pool"] for each in every]


def test_a_play_adopts_and_verifies(play, bench):
    bench.overlay("old.qcow2")
    tasks = [
        {"virt.storage.disk_metadata": {"pool": bench.name, "disks": [entry("old.qcow2")]}},
        {"virt.storage.disk_metadata": {"pool": bench.name, "state": "verified"}},
        {"virt.storage.disk_metadata_info": {"pools": [bench.name]}},
    ]
    adopted, verified, shown = play(tasks)
    assert adopted["changed"]
    assert verified["problems"] == []
    assert len(shown["pools"][0]["records"]) == 2
