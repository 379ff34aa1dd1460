# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Shapes that older releases and other tools left, made by hand."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import libvirt
import pytest
from contract.beds import mounted
from integration.conftest import Modules

from ansible_collections.virt.storage.plugins.module_utils._ground.errors import BadInput, StorageError

from .bed import DISK, MIB, Bed, by_role, content, run

Shape = Callable[[Bed, Path], None]


def there_and_back(bed: Bed, **options: Any) -> None:
    """Converts everything, takes it back, converts again and makes it final."""
    before, files = bed.contents(), bed.files()
    result = bed.task("converted", **options)
    assert bed.refusals(result) == ""
    assert bed.volumes() == by_role(before)
    assert bed.contents() == before
    assert bed.task("rolled_back")["stop_service"] is True
    assert bed.files() == files
    bed.task("converted", **options)
    bed.task("finalized")
    assert bed.disks() == {}
    assert bed.volumes() == by_role(before)


def without_format(bed: Bed, folder: Path) -> None:
    """Overlays of releases before 2020 do not say what their base is."""
    bed.overlay(folder / "disk", bed.base(), base_format=None)
    bed.info(folder, disk="qcow2")


def relative(bed: Bed, folder: Path) -> None:
    bed.base()
    bed.overlay(folder / "disk", "../_base/" + "a" * 40)
    bed.info(folder, disk="qcow2")


def resized_base(bed: Bed, folder: Path) -> None:
    bed.overlay(folder / "disk", bed.base("a" * 40 + "_20"))
    bed.info(folder, disk="qcow2")


def small_base(bed: Bed, folder: Path) -> None:
    bed.overlay(folder / "disk", bed.base("a" * 40 + "_sm"))
    bed.info(folder, disk="qcow2")


def old_ephemeral(bed: Bed, folder: Path) -> None:
    bed.overlay(folder / "disk", bed.base())
    bed.overlay(folder / "disk.local", bed.base("ephemeral_20_default", seed=2))
    bed.overlay(folder / "disk.swap", bed.base("swap_512", seed=3))
    bed.info(folder, disk="qcow2", disk_local="qcow2", disk_swap="qcow2")


def folsom_ephemeral(bed: Bed, folder: Path) -> None:
    bed.overlay(folder / "disk", bed.base("ephemeral_0_20_linux"))
    bed.info(folder, disk="qcow2")


def with_files_beside(bed: Bed, folder: Path) -> None:
    """What is no disk stays where it is."""
    bed.overlay(folder / "disk", bed.base())
    bed.info(folder, disk="qcow2")
    for name in ("kernel", "ramdisk", "console.log", "libvirt.xml", "disk_qcow", "0" * 32 + ".tmp", "strange"):
        (folder / name).write_text(name)
    for name in ("a" * 40 + ".info", "a" * 40 + ".sha1", "a" * 40 + ".part"):
        (bed.instances / "_base" / name).write_text(name)


def another_base_folder(bed: Bed, folder: Path) -> None:
    base = bed.raw(bed.instances / "_base_192.0.2.1" / ("a" * 40), 4 * MIB)
    bed.overlay(folder / "disk", base)
    bed.info(folder, disk="qcow2")


def base_behind_a_link(bed: Bed, folder: Path) -> None:
    """The pointer leads through another name of the folder, which the operator gave it."""
    (bed.root / "nova").symlink_to(bed.instances)
    bed.base()
    bed.overlay(folder / "disk", bed.root / "nova" / "_base" / ("a" * 40))
    bed.info(folder, disk="qcow2")


def odd_size(bed: Bed, folder: Path) -> None:
    bed.overlay(folder / "disk", bed.base(size=4 * MIB + 100))
    bed.info(folder, disk="qcow2")


def sealed_before(bed: Bed, folder: Path) -> None:
    """The operator had made the base immutable, and so it is again after the way back."""
    base = bed.base()
    bed.overlay(folder / "disk", base)
    bed.info(folder, disk="qcow2")
    base.chmod(0o440)
    os.chown(base, 1234, 1234)
    run("chattr", "+i", base)


SHAPES: dict[Shape, dict[str, Any]] = {
    without_format: {"base_format": "raw"},
    relative: {},
    resized_base: {},
    small_base: {},
    old_ephemeral: {},
    folsom_ephemeral: {},
    with_files_beside: {},
    another_base_folder: {},
    base_behind_a_link: {},
    odd_size: {},
    sealed_before: {},
}


@pytest.mark.parametrize("shape", SHAPES, ids=lambda each: each.__name__)
@pytest.mark.parametrize("name", ["6" * 8 + "-1111-2222-3333-444444444444", "instance-0000002a"])
def test_shape(bed: Bed, shape: Shape, name: str) -> None:
    shape(bed, bed.instances / name)
    there_and_back(bed, **SHAPES[shape])


def test_a_base_whose_image_is_gone_is_its_owners_again(bed: Bed) -> None:
    base = bed.base()
    folder, other = bed.instance(1, base), bed.instance(2, base)
    os.chown(base, 1234, 1234)
    before = bed.files()[str(base)]
    for state in ("converted", "finalized"):
        bed.task(state, instances=[folder.name])
    assert bed.files()[str(base)] != before
    Modules()("instance_disk", pool=bed.name, disks=[{"instance": folder.name, "role": "root"}], state="absent")
    Modules()("cached_image", pools=[bed.name], images=[{"name": base.name}], state="absent")
    shutil.rmtree(other)
    bed.task("finalized")
    assert bed.files()[str(base)] == before


def test_what_is_left_is_named(bed: Bed) -> None:
    folder = bed.instances / "instance-0000002a"
    with_files_beside(bed, folder)
    (bed.instances / "else").mkdir()
    left = {Path(each["path"]).name: each["why"] for each in bed.task("planned")["left"]}
    assert left["strange"] == "not understood"
    assert left["disk_qcow"] == "a leftover"
    assert "checksum" in left["a" * 40 + ".sha1"]
    assert left["else"] == "no folder of an instance"
    bed.task("converted")
    bed.task("finalized")
    assert {"kernel", "ramdisk", "console.log", "strange"} <= {path.name for path in folder.iterdir()}
    assert (bed.instances / "_base" / ("a" * 40 + ".info")).exists()


def test_nobody_says_what_the_base_is(bed: Bed) -> None:
    folder = bed.instances / "instance-0000002a"
    without_format(bed, folder)
    assert "nothing says what format" in bed.refusals(bed.task("converted"))
    assert bed.refusals(bed.task("converted", formats={str(bed.instances / "_base" / ("a" * 40)): "raw"})) == ""


def test_a_word_that_is_no_format(bed: Bed) -> None:
    folder = bed.instance(1)
    with pytest.raises(BadInput, match="it can be raw or qcow2"):
        bed.task("planned", formats={str(folder / "disk"): "vmdk"})
    with pytest.raises(BadInput, match="There is no instance"):
        bed.task("planned", instances=["nobody"])


def test_a_base_that_is_wanted_stays(bed: Bed) -> None:
    """Of two instances on a base one is converted; the base goes with the last of them, and not before."""
    one, two = bed.instance(1), bed.instance(2, bed.instances / "_base" / ("a" * 40))
    base, before, files = bed.instances / "_base" / ("a" * 40), bed.contents(), bed.files()
    bed.task("converted", instances=[one.name])
    bed.task("finalized", instances=[one.name])
    assert base.exists()
    assert content(str(two / "disk"), "qcow2") == before[str(two / "disk")]
    bed.task("converted")
    bed.task("rolled_back")
    assert bed.files()[str(two / "disk")] == files[str(two / "disk")]
    assert base.stat().st_mode & 0o777 == 0o444, "the disk that is final stands on it"
    bed.task("converted")
    bed.task("finalized")
    assert not base.exists()
    assert bed.volumes() == by_role(before)


def test_the_records_agree(bed: Bed) -> None:
    """What is converted is a disk like any other: it verifies, grows, is flattened, and goes."""
    modules = Modules()
    folder = bed.instance(1)
    before = bed.contents()
    bed.task("converted")
    modules("disk_metadata", pool=bed.name, state="verified")
    bed.task("finalized")
    modules("disk_metadata", pool=bed.name, state="verified")
    disk = {"instance": folder.name, "role": "root", "pool": bed.name}
    modules("instance_disk", disks=[{**disk, "size": "16M", "flattened": True}])
    (volume,) = bed.pool.glob("*.qcow2")
    run("qemu-img", "resize", "-q", "-f", "qcow2", "--shrink", volume, "8M")
    assert bed.volumes() == by_role(before)
    modules("cached_image", pools=[bed.name], state="pruned", images=[])
    modules("instance_disk", state="absent", disks=[disk])
    assert bed.volumes() == {}


def test_owners_modes_and_attributes_are_kept(bed: Bed) -> None:
    folder = bed.instance(1)
    disk = folder / "disk"
    disk.chmod(0o640)
    os.chown(disk, 1234, 5678)
    os.setxattr(disk, "user.kept", b"yes")
    bed.task("converted")
    bed.task("finalized")
    (volume,) = bed.pool.glob("*.qcow2")
    status = volume.stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (1234, 5678, 0o640)
    assert os.getxattr(volume, "user.kept") == b"yes"


def test_almost_no_room(libvirtd: libvirt.virConnect, tmp_path: Path) -> None:
    """Records and journal have room where a copy of any disk would have none; and without that room, the plan says so
    and nothing is begun."""
    with mounted(tmp_path / "ext4.img", 48 * MIB, "mkfs.ext4", "-q", "-m", "0") as point:
        bed = Bed(Path(point), libvirtd)
        try:
            folder = bed.instance(1)
            before = bed.contents()
            for size in (MIB, 4096):
                fill_up(point / f"ballast-{size}", size)
            planned = bed.task("planned")
            assert "the run needs" in planned["verdict"]
            with pytest.raises(StorageError, match="the run needs"):
                bed.task("converted")
            assert folder.joinpath("disk").stat().st_nlink == 1
            with (point / "ballast-1048576").open("r+b") as file:
                file.truncate(file.seek(0, os.SEEK_END) - 512 * 1024)
            assert os.statvfs(point).f_bavail * os.statvfs(point).f_frsize < MIB
            assert bed.task("converted")["changed"] is True
            assert os.statvfs(point).f_bavail * os.statvfs(point).f_frsize > 256 * 1024
            (point / "ballast-4096").unlink()
            (point / "ballast-1048576").unlink()
            assert bed.volumes() == by_role(before)
        finally:
            bed.remove(whole=False)


def fill_up(path: Path, piece: int) -> None:
    """Write to a file until there is no room for another piece."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"x" * piece) == piece:
            pass


# Plain folders


def overlays_over_bases(bed: Bed) -> tuple[Path, Path, Path]:
    """As terraform leaves it: a qcow2 base and a raw one, an overlay on each, in the pool's own folder."""
    raw = bed.raw(bed.pool / "debian.img", 4 * MIB)
    qcow2 = bed.pool / "box_vagrant_box_image_0.img"
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", bed.raw(bed.root / "x", 4 * MIB, 5), qcow2)
    one = bed.overlay(bed.pool / "one.qcow2", raw)
    two = bed.overlay(bed.pool / "two.img", qcow2, base_format="qcow2")
    bed.connection.storagePoolLookupByName(bed.name).refresh(0)
    return one, two, bed.raw(bed.pool / "data.img", MIB, 6)


def test_a_folder_of_overlays(bed: Bed) -> None:
    one, two, data = overlays_over_bases(bed)
    options = {"layout": "folder", "path": str(bed.pool)}
    before = {path.name: content(str(path), format) for path, format in ((one, "qcow2"), (two, "qcow2"), (data, "raw"))}
    files = {path.name: path.read_bytes() for path in bed.pool.iterdir() if path.is_file()}
    volume = DISK.format(path="", format="qcow2", target="vda", serial="s").replace("type='file'", "type='volume'", 1)
    volume = volume.replace("<source file=''/>", f"<source pool='{bed.name}' volume='two.img'/>")
    with bed.guest((one, "qcow2"), (data, "raw")) as guest:
        other = bed.connection.defineXML(
            guest.XMLDesc(0)
            .split("<devices>")[0]
            .replace("-guest", "-other")
            .replace(guest.UUIDString(), "")
            .replace("<uuid></uuid>", "")
            + f"<devices>{volume}</devices></domain>"
        )
        try:
            planned = bed.task("planned", **options)
            assert bed.refusals(planned) == ""
            assert planned["bytes_to_copy"] == (bed.pool / "box_vagrant_box_image_0.img").stat().st_size
            for _again in range(2):
                assert bed.task("converted", **options)["plan"] == planned["plan"]
                assert not data.exists(), "libvirt refreshes this folder"
                assert bed.task("converted", **options)["changed"] is False
                found = bed.volumes()
                assert found[f"{guest.name()} root"] == before["one.qcow2"]
                assert found[f"{guest.name()} vdb"] == before["data.img"]
                assert found[f"{other.name()} root"] == before["two.img"]
                assert bed.task("rolled_back", **options)["stop_service"] is False
                now = {path.name: path.read_bytes() for path in bed.pool.iterdir() if path.is_file()}
                assert now == files
            bed.task("converted", **options)
            bed.task("finalized", **options)
            assert not any(path.exists() for path in (one, two, bed.pool / "debian.img"))
            assert (bed.pool / "box_vagrant_box_image_0.img").exists(), "its content was copied"
            assert bed.volumes() == found
            assert bed.task("converted", **options)["changed"] is False
            for domain in (guest, other):
                domain.create()
                domain.destroy()
        finally:
            other.undefine()
