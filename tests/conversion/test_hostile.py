# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Layouts that somebody prepared: each is named in the plan, none is followed, and an honest instance beside it is
converted all the same."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from .bed import MIB, Bed, by_role, run

Prepare = Callable[[Bed, Path], None]


def hostile_base(bed: Bed, folder: Path) -> None:
    """A base that was cached before images were inspected: it has a backing file, and was declared raw."""
    base = bed.instances / "_base" / ("b" * 40)
    secret = bed.raw(bed.root / "secret", MIB, 9)
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", secret, "-F", "raw", base, "4M")
    bed.overlay(folder / "disk", base)
    bed.info(folder, disk="qcow2")


def hostile_qcow2_base(bed: Bed, folder: Path) -> None:
    """The same, declared as what it is."""
    base = bed.instances / "_base" / ("b" * 40)
    secret = bed.raw(bed.root / "secret", MIB, 9)
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", secret, "-F", "raw", base, "4M")
    bed.overlay(folder / "disk", base, base_format="qcow2")
    bed.info(folder, disk="qcow2")


def pointer_out(bed: Bed, folder: Path) -> None:
    bed.overlay(folder / "disk", bed.raw(bed.root / "secret", 4 * MIB, 9))
    bed.info(folder, disk="qcow2")


def pointer_up(bed: Bed, folder: Path) -> None:
    bed.raw(bed.root / "secret", 4 * MIB, 9)
    bed.overlay(folder / "disk", "../_base/../../secret")
    bed.info(folder, disk="qcow2")


def pointer_to_a_disk(bed: Bed, folder: Path) -> None:
    """Another instance's disk is no base."""
    bed.overlay(folder / "disk", bed.instances / ("1" * 8 + "-1111-2222-3333-444444444444") / "disk")
    bed.info(folder, disk="qcow2")


def pointer_of_a_protocol(bed: Bed, folder: Path) -> None:
    bed.overlay(folder / "disk", bed.base("b" * 40))
    bed.info(folder, disk="qcow2")
    run("qemu-img", "rebase", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", "nbd:127.0.0.1:1", folder / "disk")


def missing_base(bed: Bed, folder: Path) -> None:
    base = bed.base("b" * 40)
    bed.overlay(folder / "disk", base)
    bed.info(folder, disk="qcow2")
    base.unlink()


def base_that_is_a_link(bed: Bed, folder: Path) -> None:
    base = bed.instances / "_base" / ("b" * 40)
    base.symlink_to(bed.raw(bed.root / "secret", 4 * MIB, 9))
    bed.overlay(folder / "disk", base)
    bed.info(folder, disk="qcow2")


def disk_that_is_a_link(bed: Bed, folder: Path) -> None:
    folder.mkdir()
    (folder / "disk").symlink_to(bed.raw(bed.root / "secret", 4 * MIB, 9))
    bed.info(folder, disk="raw")


def lying_info(bed: Bed, folder: Path) -> None:
    """disk.info says qcow2 of a raw disk in which its guest wrote a header."""
    header(bed, folder)
    bed.info(folder, disk="qcow2")


def header_and_no_word(bed: Bed, folder: Path) -> None:
    header(bed, folder)


def header(bed: Bed, folder: Path) -> None:
    """A raw disk that begins like a qcow2 file which stands on a secret."""
    disk = bed.raw(folder / "disk", 8 * MIB)
    secret = bed.raw(bed.root / "secret", MIB, 9)
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", secret, "-F", "raw", bed.root / "header", "8M")
    with disk.open("r+b") as file:
        file.write((bed.root / "header").read_bytes())


def info_that_is_a_link(bed: Bed, folder: Path) -> None:
    bed.overlay(folder / "disk", bed.base("b" * 40))
    elsewhere = bed.root / "elsewhere"
    elsewhere.write_text(json.dumps({str(folder / "disk"): "qcow2"}))
    (folder / "disk.info").symlink_to(elsewhere)


def info_that_is_no_json(bed: Bed, folder: Path) -> None:
    bed.overlay(folder / "disk", bed.base("b" * 40))
    (folder / "disk.info").write_text("[" * 50000)


def info_of_another_format(bed: Bed, folder: Path) -> None:
    bed.overlay(folder / "disk", bed.base("b" * 40))
    bed.info(folder, disk="vmdk")


def two_names(bed: Bed, folder: Path) -> None:
    bed.overlay(folder / "disk", bed.base("b" * 40))
    bed.info(folder, disk="qcow2")
    os.link(folder / "disk", bed.root / "second")


def being_resized(bed: Bed, folder: Path) -> None:
    bed.overlay(folder / "disk", bed.base("b" * 40))
    bed.info(folder, disk="qcow2")
    bed.overlay(Path(f"{folder}_resize") / "disk", bed.base("b" * 40))


def being_rescued(bed: Bed, folder: Path) -> None:
    bed.overlay(folder / "disk", bed.base("b" * 40))
    bed.overlay(folder / "disk.rescue", bed.base("b" * 40))
    bed.info(folder, disk="qcow2")


def data_file(bed: Bed, folder: Path) -> None:
    folder.mkdir()
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", f"data_file={bed.root}/data", folder / "disk", "8M")
    bed.info(folder, disk="qcow2")


def not_what_is_said(bed: Bed, folder: Path) -> None:
    bed.raw(folder / "disk", 8 * MIB)
    bed.info(folder, disk="qcow2")


def ploop(bed: Bed, folder: Path) -> None:
    (folder / "disk").mkdir(parents=True)
    (folder / "disk" / "DiskDescriptor.xml").write_text("<x/>")


CASES: dict[Prepare, str] = {
    hostile_base: "quarantined",
    hostile_qcow2_base: "quarantined",
    pointer_out: "lies outside",
    pointer_up: "lies outside",
    pointer_to_a_disk: "lies outside",
    pointer_of_a_protocol: "no path of a file",
    missing_base: "is missing",
    base_that_is_a_link: "no regular file",
    disk_that_is_a_link: "symbolic link, not followed",
    lying_info: "lies outside",
    header_and_no_word: "nothing says what format",
    info_that_is_a_link: "disk.info cannot be read",
    info_that_is_no_json: "disk.info cannot be read",
    info_of_another_format: "says something else than raw and qcow2",
    two_names: "1 more names",
    being_resized: "being resized",
    being_rescued: "being rescued",
    data_file: "in another file",
    not_what_is_said: "does not begin with a qcow2 header",
    ploop: "ploop",
}


@pytest.mark.parametrize("prepare", CASES, ids=lambda each: each.__name__)
def test_named_and_not_followed(bed: Bed, prepare: Prepare) -> None:
    good = bed.instance(1)
    bad = bed.instances / ("6" * 8 + "-1111-2222-3333-444444444444")
    prepare(bed, bad)
    honest = bed.contents_of(good)
    files = {path: facts for path, facts in bed.files().items() if Path(path).parent in (bad, Path(f"{bad}_resize"))}

    planned = bed.task("planned")
    refused = {each["instance"]: " | ".join(each["refusals"]) for each in planned["instances"]}
    assert refused[good.name] == ""
    assert CASES[prepare] in refused[bad.name]
    assert bad.name in planned["verdict"]
    result = bed.task("converted")
    assert result["plan"] == planned["plan"]
    assert bed.volumes() == by_role(honest)
    now = bed.files()
    assert {path: now[path] for path in files} == files, "nothing was done to it"
    assert bed.task("converted")["changed"] is False
    bed.task("finalized")
    assert {path: bed.files()[path] for path in files} == files


def test_a_definition_that_contradicts(bed: Bed) -> None:
    folder = bed.instance(1)
    with bed.guest((folder / "disk", "raw")):
        result = bed.task("converted")
        assert "is not clear" in bed.refusals(result)
        assert result["changed"] is False
        result = bed.task("converted", formats={str(folder / "disk"): "qcow2"})
        assert result["changed"] is True


def test_a_raw_disk_is_never_looked_into(bed: Bed) -> None:
    """All who know say raw: whatever a guest wrote there is data."""
    folder = bed.instances / ("6" * 8 + "-1111-2222-3333-444444444444")
    header(bed, folder)
    bed.info(folder, disk="raw")
    before = bed.contents()
    assert bed.refusals(bed.task("converted")) == ""
    assert bed.volumes() == by_role(before)
    assert [path.parent.name for path in bed.pool.rglob("*+root+*.raw")] == ["disks"], "out of libvirt's refresh"


def test_a_pool_elsewhere(bed: Bed, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A pool on another file system is refused, for nothing could be linked."""
    if os.stat("/dev/shm").st_dev == os.stat(bed.root).st_dev:
        pytest.fail("/dev/shm is no file system of its own here")
    folder = bed.instance(1)
    pool = bed.connection.storagePoolLookupByName(bed.name)
    pool.destroy()
    pool.undefine()
    path = Path("/dev/shm") / bed.name
    path.mkdir()
    xml = f"<pool type='dir'><name>{bed.name}</name><target><path>{path}</path></target></pool>"
    bed.connection.storagePoolDefineXML(xml, 0).create(0)
    try:
        assert "another file system" in bed.refusals(bed.task("planned"))
        assert (folder / "disk").stat().st_nlink == 1
    finally:
        for each in sorted(path.rglob("*"), reverse=True):
            each.rmdir() if each.is_dir() else each.unlink()
        path.rmdir()
