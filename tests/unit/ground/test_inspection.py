# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Sound images pass, whoever made them; and what qemu thinks of an image is compared word by word."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import hostile
import pytest

from ansible_collections.virt.storage.plugins.module_utils._ground import inspection
from ansible_collections.virt.storage.plugins.module_utils._ground.bounds import Bounds
from ansible_collections.virt.storage.plugins.module_utils._ground.command import Limits, Runner
from ansible_collections.virt.storage.plugins.module_utils._ground.errors import (
    BadInput,
    CommandFailed,
    MissingRequirement,
    UnsafeImage,
)
from ansible_collections.virt.storage.plugins.module_utils._ground.inspection import (
    Inspected,
    inspect,
    inspect_content,
    inspect_raw,
    needs_random_access,
    qemu_agrees,
)

MIB = 1024**2
BOUNDS = Bounds(2**35, 2**35)

MADE_BY_QEMU = [
    ("qcow2", ""),
    ("qcow2", "-o compat=0.10"),
    ("qcow2", "-c"),
    ("qcow2", "-c -o compression_type=zstd"),
    ("qcow2", "-o cluster_size=2M,lazy_refcounts=on"),
    ("vmdk", ""),
    ("vmdk", "-o subformat=streamOptimized"),
    ("vdi", ""),
    ("vdi", "-o static=on"),
    ("vpc", "-o force_size=on"),
    ("vhdx", ""),
    ("raw", ""),
]


def make(folder: Path, name: str, options: str) -> Path:
    source, target = folder / "source", folder / "image"
    source.write_bytes(hostile.raw_disk(8 * MIB))
    command = ["qemu-img", "convert", "-f", "raw", "-O", name, *options.split(), str(source), str(target)]
    subprocess.run(command, check=True)
    return target


@pytest.mark.parametrize(("name", "options"), MADE_BY_QEMU)
def test_what_qemu_makes_passes(name: str, options: str, tmp_path: Path) -> None:
    with open(make(tmp_path, name, options), "rb") as image:
        inspected = inspect(image.fileno(), name, BOUNDS)
        assert inspected == Inspected("vhd" if name == "vpc" else name, 8 * MIB)
        qemu_agrees(Runner(), image.fileno(), inspected)


def test_internal_snapshots_are_accepted(tmp_path: Path) -> None:
    path = make(tmp_path, "qcow2", "")
    subprocess.run(["qemu-img", "snapshot", "-c", "before", str(path)], check=True)
    with open(path, "rb") as image:
        qemu_agrees(Runner(), image.fileno(), inspect(image.fileno(), "qcow2", BOUNDS))


def test_version_2_is_not_taken_for_one_with_features(tmp_path: Path) -> None:
    """Where version 3 has feature bits, version 2 has whatever it likes."""
    path = tmp_path / "image"
    path.write_bytes(hostile.poke(hostile.qcow2(version=2), 72, b"\xe2\x79\x2a\xcf\0\0\0\xff"))
    with open(path, "rb") as image:
        assert inspect(image.fileno(), "qcow2", BOUNDS).virtual_size == MIB


@pytest.mark.parametrize(
    ("declared", "content"),
    [
        ("raw", hostile.raw_disk()),
        ("raw", hostile.iso()),
        ("raw", hostile.iso(partitioned=True)),
        ("iso", hostile.iso()),
        ("iso", hostile.iso(partitioned=True)),
        ("raw", b"\0" * 4096),
        ("raw", b"\xeb\x3c\x90" + bytes(507) + b"\x55\xaa"),
    ],
)
def test_raw_content_that_is_nothing_else(declared: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(content)
    with open(tmp_path / "image", "rb") as image:
        assert inspect(image.fileno(), declared, BOUNDS) == Inspected(declared, len(content))
    inspect_raw(content[: inspection.HEAD], declared, BOUNDS)
    inspect_content(content[: inspection.HEAD])


def test_raw_is_rounded_up_to_sectors(tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(b"boot")
    with open(tmp_path / "image", "rb") as image:
        assert inspect(image.fileno(), "raw", BOUNDS).virtual_size == 512


def test_the_largest_disk(tmp_path: Path) -> None:
    with open(make(tmp_path, "qcow2", ""), "rb") as image:
        assert inspect(image.fileno(), "qcow2", Bounds(2**35, 8 * MIB)).virtual_size == 8 * MIB
        with pytest.raises(UnsafeImage, match="would have 8388608 bytes"):
            inspect(image.fileno(), "qcow2", Bounds(2**35, 8 * MIB - 512))


SOUND = {"format": "qcow2", "virtual-size": MIB, "format-specific": {"type": "qcow2", "data": {"corrupt": False}}}


@pytest.mark.parametrize(
    "told",
    [
        {**SOUND, "format": "raw"},
        {**SOUND, "virtual-size": MIB + 512},
        {**SOUND, "virtual-size": str(MIB)},
        {**SOUND, "backing-filename": "/etc/shadow"},
        {**SOUND, "full-backing-filename": "/etc/shadow"},
        {**SOUND, "encrypted": True},
        {**SOUND, "format-specific": {"data": {"data-file": "/etc/shadow"}}},
        {**SOUND, "format-specific": {"data": {"encrypt": {"format": "luks"}}}},
        {**SOUND, "format-specific": {"data": {"corrupt": True}}},
        {**SOUND, "format-specific": {"data": {"extents": [{"filename": "/etc/shadow"}]}}},
        {},
        [],
        "nonsense",
    ],
)
def test_qemu_has_to_see_the_same(told: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend(tmp_path, monkeypatch, json.dumps(told))
    with open("/dev/null", "rb") as image, pytest.raises(UnsafeImage) as caught:
        qemu_agrees(Runner(), image.fileno(), Inspected("qcow2", MIB))
    assert caught.value.facts["check"] == "qemu_disagrees"


def test_qemu_sees_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend(tmp_path, monkeypatch, json.dumps(SOUND))
    with open("/dev/null", "rb") as image:
        qemu_agrees(Runner(), image.fileno(), Inspected("qcow2", MIB))


@pytest.mark.parametrize("command", ["info", "check"])
@pytest.mark.parametrize(
    ("does", "limits", "told", "rc"),
    [
        ("sleep 60", Limits(wall_seconds=0.5), "took longer", None),
        ("while :; do :; done", Limits(wall_seconds=60, cpu_seconds=1), "1 seconds of processor time", -signal.SIGKILL),
        ("kill -KILL $$", Limits(wall_seconds=60), "ended by signal SIGKILL", -signal.SIGKILL),
    ],
    ids=["wall", "cpu", "killed"],
)
def test_a_program_that_is_stopped_says_nothing_about_the_image(
    command: str, does: str, limits: Limits, told: str, rc: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _pretend(tmp_path, monkeypatch, json.dumps(SOUND), f'if [ "$1" = {command} ]; then {does}; fi')
    monkeypatch.setattr(inspection, "INSPECTING", limits)
    with open("/dev/null", "rb") as image, pytest.raises(CommandFailed, match=told) as caught:
        qemu_agrees(Runner(), image.fileno(), Inspected("qcow2", MIB))
    assert caught.value.facts["rc"] == rc


@pytest.mark.parametrize(("command", "check"), [("info", "qemu_disagrees"), ("check", "corrupt")])
def test_a_program_that_refuses_an_image_does(
    command: str, check: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _pretend(tmp_path, monkeypatch, json.dumps(SOUND), f'if [ "$1" = {command} ]; then exit 1; fi')
    with open("/dev/null", "rb") as image, pytest.raises(UnsafeImage) as caught:
        qemu_agrees(Runner(), image.fileno(), Inspected("qcow2", MIB))
    assert caught.value.facts["check"] == check


def _pretend(folder: Path, monkeypatch: pytest.MonkeyPatch, told: str, does: str = ":") -> None:
    """A qemu-img that tells what no real one would, once it ``does`` what it is to do."""
    (folder / "told").write_text(told)
    (folder / "qemu-img").write_text("#!/bin/sh\n%s\ncat %s/told\n" % (does, folder))
    (folder / "qemu-img").chmod(0o755)
    monkeypatch.setenv("PATH", "%s:%s" % (folder, os.environ["PATH"]))


def test_formats() -> None:
    assert [needs_random_access(name) for name in ("raw", "iso", "qcow2", "vpc")] == [False, False, True, True]
    with pytest.raises(BadInput, match="'qed' is not one of raw, iso"):
        needs_random_access("qed")


def test_missing_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "format_inspector", None)
    with pytest.raises(MissingRequirement, match=r"oslo\.utils\[image-inspection\]"):
        inspect_content(b"x" * 512)
