# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Blank file systems, made by the real programs and looked at by others."""

from __future__ import annotations

import os
import re
import subprocess
import uuid
from pathlib import Path

import pytest

from ansible_collections.virt.storage.plugins.module_utils._ground.blank import (
    KINDS,
    check_blank,
    identity_for,
    make_blank,
)
from ansible_collections.virt.storage.plugins.module_utils._ground.command import Runner
from ansible_collections.virt.storage.plugins.module_utils._ground.errors import BadInput, MissingRequirement

MIB = 1 << 20
GIB = 1 << 30
IDENTITY = identity_for("web1/data")


def made(path: Path, kind: str, size: int, label: str = "data", identity: uuid.UUID = IDENTITY) -> Path:
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        make_blank(fd, kind, size, label, identity, Runner())
    finally:
        os.close(fd)
    return path


def output(*argv: str) -> str:
    # The sbin folders hold the programs, and not every user has them on the path.
    env = {"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin", "LC_ALL": "C"}
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True, env=env)
    return done.stdout


def probed(path: Path) -> dict[str, str]:
    found = output("blkid", "--probe", "--output", "export", str(path))
    return dict(line.split("=", 1) for line in found.splitlines())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [512 * MIB, 10 * GIB + 512])
def test_type_label_and_identity_are_as_asked(tmp_path: Path, kind: str, size: int) -> None:
    path = made(tmp_path / "blank", kind, size)
    found = probed(path)
    assert path.stat().st_size == size
    assert found["TYPE"] == kind
    assert found["LABEL"] == ("DATA" if kind == "vfat" else "data")
    volume = IDENTITY.hex[:8].upper()
    assert found["UUID"] == (f"{volume[:4]}-{volume[4:]}" if kind == "vfat" else str(IDENTITY))


@pytest.mark.parametrize(("kind", "most"), [("ext4", 6), ("xfs", 68), ("swap", 1), ("vfat", 12)])
def test_a_template_of_10_gib_takes_little_space(tmp_path: Path, kind: str, most: int) -> None:
    """In MiB. For xfs it is the log, which mkfs.xfs reserves whatever it is told, for vfat its two tables."""
    assert made(tmp_path / "blank", kind, 10 * GIB).stat().st_blocks * 512 <= most * MIB


@pytest.mark.parametrize("kind", KINDS)
def test_the_smallest_works_and_one_sector_less_does_not(tmp_path: Path, kind: str) -> None:
    with pytest.raises(BadInput, match="it can be") as refused:
        check_blank(kind, 512)
    (least,) = re.findall(r"it can be (\d+) to", refused.value.message)
    assert probed(made(tmp_path / "blank", kind, int(least), label=""))["TYPE"] == kind
    for size in (int(least) - 512, int(least) + 100, 0, -1):
        with pytest.raises(BadInput, match="whole sectors"):
            check_blank(kind, size)


def test_ext4_is_whole_has_a_journal_and_leaves_no_work_for_the_first_mount(tmp_path: Path) -> None:
    path = made(tmp_path / "blank", "ext4", GIB)
    output("e2fsck", "-fn", str(path))
    told = output("dumpe2fs", str(path))
    groups = re.findall(r"^Group \d+:.*$", told, re.MULTILINE)
    assert len(groups) == 8
    assert all("ITABLE_ZEROED" in group for group in groups)
    assert "has_journal" in told
    assert f"Directory Hash Seed:      {IDENTITY}" in told


def test_xfs_is_whole(tmp_path: Path) -> None:
    path = made(tmp_path / "blank", "xfs", 512 * MIB)
    output("xfs_repair", "-n", "-f", str(path))


@pytest.mark.parametrize("kind", ["swap", "vfat"])
def test_the_same_wish_gives_the_same_bytes(tmp_path: Path, kind: str) -> None:
    first = made(tmp_path / "first", kind, 4 * MIB).read_bytes()
    assert made(tmp_path / "second", kind, 4 * MIB).read_bytes() == first
    assert made(tmp_path / "third", kind, 4 * MIB, identity=identity_for("other")).read_bytes() != first


def test_what_the_file_held_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "blank"
    path.write_bytes(b"secret" * MIB)
    assert b"secret" not in made(path, "swap", 4 * MIB).read_bytes()


def test_keys_give_identities() -> None:
    assert identity_for("a") == identity_for("a") != identity_for("b")


@pytest.mark.parametrize(
    ("kind", "label"), [("ext4", "x" * 17), ("xfs", "x" * 13), ("swap", "x" * 16), ("vfat", "x" * 12), ("ext4", "-L")]
)
def test_a_label_that_does_not_fit_is_refused(kind: str, label: str) -> None:
    with pytest.raises(BadInput, match="The label"):
        check_blank(kind, GIB, label)


@pytest.mark.parametrize(("kind", "length"), [("ext4", 16), ("xfs", 12), ("swap", 15), ("vfat", 11)])
def test_the_longest_label_arrives(tmp_path: Path, kind: str, length: int) -> None:
    assert probed(made(tmp_path / "blank", kind, GIB, "X" * length))["LABEL"] == "X" * length


@pytest.mark.parametrize("label", ["a/b", "ü", "a b", "a\n", "a\0"])
def test_a_label_of_strange_letters_is_refused(label: str) -> None:
    with pytest.raises(BadInput, match="letters"):
        check_blank("ext4", GIB, label)


def test_an_unknown_file_system_is_refused() -> None:
    with pytest.raises(BadInput, match="known are ext4, xfs, swap, vfat"):
        check_blank("ntfs", GIB)


def test_a_missing_program_is_named_with_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name, **_path: None if name == "mkfs.xfs" else f"/usr/bin/{name}")
    with pytest.raises(MissingRequirement, match="xfsprogs"):
        made(tmp_path / "blank", "xfs", GIB)
