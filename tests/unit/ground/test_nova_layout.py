# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Nova's folder, read without following or believing anything."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ansible_collections.virt.storage.plugins.module_utils._ground.errors import LostMetadata, StorageError
from ansible_collections.virt.storage.plugins.module_utils._ground.nova_layout import read_layout
from ansible_collections.virt.storage.plugins.module_utils._ground.old_files import (
    drop,
    facts_of,
    link,
    read_overlay,
    read_small,
)

UUID = "8d0f3c1e-54c7-4c3e-8e56-7d8a7f0b2a11"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "_base").mkdir()
    (tmp_path / UUID).mkdir()
    (tmp_path / "locks").mkdir()
    (tmp_path / "compute_nodes").write_text("{}")
    return tmp_path


def test_names(root: Path) -> None:
    for name in ("disk", "disk.local", "disk.eph1", "disk.swap", "disk.config", "kernel", "console.log", "odd"):
        (root / UUID / name).write_text("x")
    for name in ("a" * 40, "a" * 40 + "_20", "swap_512", "ephemeral_20_40d1d2c", "ephemeral_0_20_linux", "x.part"):
        (root / "_base" / name).write_text("x")
    found = read_layout(str(root))
    (instance,) = found.instances
    assert {disk.role for disk in instance.disks} == {"root", "ephemeral", "ephemeral-1", "swap", "config"}
    assert {Path(path).name for path in found.bases} == {
        "a" * 40,
        "a" * 40 + "_20",
        "swap_512",
        "ephemeral_20_40d1d2c",
        "ephemeral_0_20_linux",
    }
    assert {Path(path).name for path, _why in found.left} == {"odd", "x.part"}


@pytest.mark.parametrize("name", ["disk.rescue", "unrescue.xml", "disk.config.rescue"])
def test_rescue(root: Path, name: str) -> None:
    (root / UUID / name).write_text("x")
    assert "rescued" in read_layout(str(root)).instances[0].flaws[0]


def test_no_link_is_followed(root: Path) -> None:
    elsewhere = root.parent / f"{root.name}-elsewhere"
    elsewhere.mkdir()
    (elsewhere / "disk").write_text("x")
    (root / "00000000-0000-0000-0000-000000000000").symlink_to(elsewhere)
    (root / UUID / "disk").symlink_to(elsewhere / "disk")
    (root / "_base" / ("a" * 40)).symlink_to(elsewhere / "disk")
    (root / "_base_x").symlink_to(elsewhere)
    found = read_layout(str(root))
    assert [instance.name for instance in found.instances] == [UUID]
    assert found.instances[0].disks == ()
    assert "symbolic link" in found.instances[0].flaws[0]
    assert found.bases == {}
    assert len(found.folders) == 1


@pytest.mark.parametrize(
    ("text", "info", "unread"),
    [
        (json.dumps({"/x/disk": "raw"}), {"/x/disk": "raw"}, False),
        ("", {}, True),
        ("[]", {}, True),
        ("[" * 60000, {}, True),
        ('{"/x": "vmdk"}', {}, True),
        ('{"/x": ["raw"]}', {}, True),
        ('{"/x": null}', {}, True),
        (" " * 70000, {}, True),
    ],
)
def test_disk_info(root: Path, text: str, info: dict[str, str], unread: bool) -> None:
    (root / UUID / "disk.info").write_text(text)
    (instance,) = read_layout(str(root)).instances
    assert instance.info == info
    assert bool(instance.unread) is unread


def test_a_pipe_keeps_nobody_waiting(root: Path) -> None:
    os.mkfifo(root / UUID / "disk.info")
    os.mkfifo(root / UUID / "disk")
    (instance,) = read_layout(str(root)).instances
    assert instance.unread
    assert "special file" in instance.flaws[0]
    with pytest.raises(StorageError):
        read_small(str(root / UUID / "disk.info"))


def test_links_are_made_and_dropped_by_inode(tmp_path: Path) -> None:
    one, two, other = (tmp_path / name for name in ("one", "two", "other"))
    one.write_text("x")
    other.write_text("y")
    native = facts_of(str(one)).native  # type: ignore[union-attr]
    assert link(str(one), native, str(two)).kind == "done"
    assert link(str(one), native, str(two)).kind == "already"
    assert not link(str(one), native, str(other)), "another file stands there"
    assert not link(str(other), native, str(tmp_path / "third")), "not the file that was looked at"
    assert not (tmp_path / "third").exists()
    assert not drop(str(other), native, str(one))
    assert not drop(str(one), native, str(one)), "its only name"
    assert drop(str(one), native, str(two)).kind == "done"
    assert drop(str(one), native, str(two)).kind == "already"
    assert two.read_text() == "x"
    assert not drop(str(two), native, str(one)), "its last name"
    assert two.exists()


def test_a_header_is_read_of_the_file_that_was_meant(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(b"QFI\xfb" + bytes(600))
    with pytest.raises(LostMetadata):
        read_overlay(str(tmp_path / "disk"), "1")
    (tmp_path / "name").symlink_to(tmp_path / "disk")
    with pytest.raises(LostMetadata, match="symbolic link"):
        read_overlay(str(tmp_path / "name"), "1")
