# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Layouts that Nova itself made: what a guest reads is the same before, after, after the way back, and at the end."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .bed import MIB, Bed, by_role, run

Nova = Callable[[dict[str, Any]], list[dict[str, str]]]
MANY = 100
MOST_SECONDS = 5.0
"""For MANY instances, what comes on top of an Ansible module that does nothing."""


def sources(bed: Bed) -> dict[str, dict[str, str]]:
    """A qcow2 and a raw image, as Glance would have them."""
    qcow2, raw = bed.root / "image.qcow2", bed.raw(bed.root / "image.raw", 12 * MIB, 3)
    run("qemu-img", "create", "-q", "-f", "qcow2", qcow2, "16M")
    run("qemu-io", "-f", "qcow2", "-c", "write -q -P 5 0 3M", "-c", "write -q -P 9 8M 1M", qcow2)
    return {"one": {"path": str(qcow2), "format": "qcow2"}, "two": {"path": str(raw), "format": "raw"}}


def wish(bed: Bed, images_type: str, **options: Any) -> dict[str, Any]:
    """Two instances with every kind of disk between them."""
    config = bed.raw(bed.root / "config.iso", MIB, 4)
    return {
        "root": str(bed.instances),
        "images_type": images_type,
        "images": sources(bed),
        "instances": [
            {
                "uuid": "11111111-1111-1111-1111-111111111111",
                "disks": [
                    {"name": "disk", "image": "one", "size": 24 * MIB},
                    {"name": "disk.local", "ephemeral": 16},
                    {"name": "disk.swap", "swap": 8},
                    {"name": "disk.config", "type": "raw", "config": str(config)},
                ],
            },
            {
                "uuid": "22222222-2222-2222-2222-222222222222",
                "disks": [{"name": "disk", "image": "two", "size": 16 * MIB}],
            },
        ],
        **options,
    }


@pytest.mark.parametrize(
    ("images_type", "options"),
    [
        ("qcow2", {}),
        ("raw", {}),
        ("flat", {"force_raw": False}),
        ("default", {"use_cow": True}),
        ("default", {"use_cow": False}),
    ],
    ids=["qcow2", "raw", "flat-not-forced-raw", "default-cow", "default-no-cow"],
)
def test_there_and_back_and_there_for_good(bed: Bed, nova: Nova, images_type: str, options: dict[str, Any]) -> None:
    made = nova(wish(bed, images_type, **options))
    write_as_a_guest(made)
    before, files, allocated = bed.contents(), bed.files(), bed.allocated()

    planned = bed.task("planned")
    assert bed.files() == files
    assert not (bed.pool / ".virt-storage").exists()
    assert bed.refusals(planned) == ""
    assert planned["bytes_to_copy"] == 0
    assert [each["format"] for each in made] == [
        {disk["path"]: disk["format"] for each in planned["instances"] for disk in each["disks"]}[disk["path"]]
        for disk in made
    ]
    converted = bed.task("converted")
    assert converted["plan"] == planned["plan"]
    assert converted["changed"]
    assert bed.contents() == before, "the old paths read the same"
    assert bed.volumes() == by_role(before), "the volumes read the same"
    assert bed.allocated() == allocated, "nothing was copied"
    again = bed.task("converted")
    assert again["actions"] == []
    assert not again["changed"]

    back = bed.task("rolled_back")
    assert back["changed"]
    assert bed.files() == files, "every file is what it was, bit for bit"
    assert bed.contents() == before
    assert bed.volumes() == {}
    assert bed.task("rolled_back")["changed"] is False

    assert bed.task("converted")["plan"] == planned["plan"]
    final = bed.task("finalized")
    assert bed.refusals(final) == ""
    assert final["changed"]
    assert bed.disks() == {}
    assert bed.volumes() == by_role(before)
    left = [path.name for path in (bed.instances / "_base").iterdir()]
    assert left == ([] if images_type == "qcow2" or options.get("use_cow") else sorted(left, key=left.index))
    assert bed.task("finalized")["changed"] is False


def write_as_a_guest(made: list[dict[str, str]]) -> None:
    for disk in made:
        if not disk["path"].endswith("config"):
            run("qemu-io", "-f", disk["format"], "-c", "write -q -P 33 2M 128k", disk["path"])


def test_a_hundred_instances(bed: Bed, nova: Nova) -> None:
    """In one run, quickly, and without a byte of disk data written."""
    many = [
        {
            "uuid": f"{number:08d}-1111-1111-1111-111111111111",
            "disks": [{"name": "disk", "image": "one", "size": 24 * MIB}],
        }
        for number in range(MANY)
    ]
    nova({**wish(bed, "qcow2"), "instances": many})
    before, allocated = bed.contents(), bed.allocated()
    written, started = characters_written(), time.monotonic()
    result = bed.task("converted")
    seconds, written = time.monotonic() - started, characters_written() - written
    print(
        f"\nconversion: {MANY} instances in {seconds:.2f} s, {written} bytes written in all (records, journal, headers)"
    )
    assert len(result["instances"]) == MANY
    assert {each["verdict"] for each in result["instances"]} == {"converts"}
    assert bed.allocated() == allocated
    assert result["bytes_to_copy"] == 0
    assert written < MANY * 16 * 1024, "records, journal entries and header sectors are all that is written"
    assert seconds <= MOST_SECONDS
    assert bed.volumes() == by_role(before)


def characters_written() -> int:
    """Bytes that this process handed to the kernel to write."""
    text = Path(f"/proc/{os.getpid()}/io").read_text()
    return int(text.split("wchar: ")[1].split()[0])
