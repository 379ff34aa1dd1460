# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Disks that Nova made in a volume group become disks where they are. ``tests/conversion/test_lvm.py`` runs this in a
machine that has Nova's releases in ``/opt/nova``."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from conversion.killed import Host, Place, killed_at_every_step
from crash.tally import Tally

from ansible_collections.virt.storage.plugins.module_utils._tasks import (
    disk_info,
    disk_metadata,
    libvirt_pool,
    storage_layout,
)
from ansible_collections.virt.storage.plugins.modules import disk_metadata as disk_metadata_module
from ansible_collections.virt.storage.plugins.modules import instance_disk_info
from ansible_collections.virt.storage.plugins.modules.libvirt_pool import ARGUMENTS

GROUP, POOL = "vst-nova", "vst-nova"
ONE, TWO = "11111111-1111-1111-1111-111111111111", "22222222-2222-2222-2222-222222222222"
NAMES = [f"{ONE}_disk", f"{ONE}_disk.local", f"{ONE}_disk.swap", f"{TWO}_disk"]
WANTED = [(ONE, "ephemeral"), (ONE, "root"), (ONE, "swap"), (TWO, "root")]
RELEASES = sorted(os.listdir("/opt/nova"))
FULL = os.environ.get("VIRT_STORAGE_FULL") == "1"
INSTANCES = Path("/var/tmp/vst-nova/instances")
PARAMS = {
    "layout": "nova",
    "path": str(INSTANCES),
    "pool": POOL,
    "uri": "qemu:///system",
    **dict.fromkeys(("instances", "formats", "base_format", "flattened")),
}


def program(*argv: str, check: bool = True) -> str:
    return subprocess.run(argv, check=check, capture_output=True, text=True, timeout=300).stdout


def checked(task: Any, arguments: Any, **given: Any) -> dict[str, Any]:
    """A task with the arguments that its module would give it."""
    found = ArgumentSpecValidator(arguments).validate(given)
    assert not found.error_messages
    result: dict[str, Any] = task(found.validated_parameters, False)
    return result


def forgotten(places: Sequence[Place]) -> None:
    """No record of a disk is left."""
    disks = [{"instance": instance, "role": role} for instance, role in places]
    if disks:
        checked(disk_metadata.task, disk_metadata_module.ARGUMENTS, state="absent", pool=POOL, disks=disks)


def clear() -> None:
    """Take away what a test left, one that was broken off before among them."""
    if POOL in program("virsh", "pool-list", "--all", "--name").split():
        forgotten(recorded())
        for name in (*NAMES, "other"):
            program("lvremove", "-y", f"{GROUP}/{name}", check=False)
        checked(libvirt_pool.task, ARGUMENTS, name=POOL, state="absent", remove_contents=True)
    program("vgremove", "-f", GROUP, check=False)
    # All of it: Nova's lvcreate asks whether to wipe a file system that it finds, and nobody answers.
    program("blkdiscard", "--zeroout", "--force", "/dev/vdc")


@pytest.fixture
def group() -> Iterator[None]:
    """A group that a pool has taken over, with a volume that is nobody's."""
    clear()
    wanted = {"name": POOL, "type": "logical", "logical": {"group": GROUP, "devices": ["/dev/vdc"]}}
    checked(libvirt_pool.task, ARGUMENTS, **wanted)
    program("lvcreate", "-y", "-Wn", "-L", "4M", "-n", "other", GROUP)
    yield
    clear()


def nova(release: str) -> None:
    """Have Nova's own code make the disks of two instances."""
    shutil.rmtree(INSTANCES.parent, ignore_errors=True)
    INSTANCES.mkdir(parents=True)
    image = INSTANCES.parent / "image.raw"
    image.write_bytes(bytes(range(256)) * (6 << 12))
    wish = {
        "root": str(INSTANCES),
        "images_type": "lvm",
        "libvirt": {"images_volume_group": GROUP},
        "images": {"one": {"path": str(image), "format": "raw"}},
        "instances": [
            {
                "uuid": ONE,
                "disks": [
                    {"name": "disk", "image": "one", "size": 16 << 20},
                    {"name": "disk.local", "ephemeral": 8},
                    {"name": "disk.swap", "swap": 8},
                ],
            },
            {"uuid": TWO, "disks": [{"name": "disk", "image": "one"}]},
        ],
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(Path(__file__).parents[1] / "make_layout.py")],
        input=json.dumps(wish),
        env={**os.environ, "PYTHONPATH": f"/opt/nova/{release}/site-packages:/opt/nova/{release}/dist-packages"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["version"] == release
    assert [(each["path"], each["format"]) for each in said["disks"]] == [(f"/dev/{GROUP}/{n}", "raw") for n in NAMES]


def make(name: str, byte: int) -> None:
    program("lvcreate", "-y", "-Wn", "-L", "4M", "-n", name, GROUP)
    with open(f"/dev/{GROUP}/{name}", "r+b") as device:
        device.write(bytes([byte]) * (1 << 20))


def recorded() -> list[Place]:
    found = checked(disk_info.info, instance_disk_info.ARGUMENTS, pools=[POOL])["disks"]
    return sorted((each["instance"], each["role"]) for each in found)


def layout(state: str) -> dict[str, Any]:
    return storage_layout.task({**PARAMS, "state": state}, False)


def stand() -> list[tuple[str, str]]:
    """What guests read, and the volumes themselves."""
    digests = [hashlib.sha256(Path(f"/dev/{GROUP}/{name}").read_bytes()).hexdigest() for name in NAMES]
    uuids = dict(line.split() for line in program("lvs", "--noheadings", "-o", "lv_name,lv_uuid", GROUP).splitlines())
    return [(uuids[name], digest) for name, digest in zip(NAMES, digests)]


def written() -> int:
    """Bytes that were ever written to the disks."""
    os.sync()
    devices = [Path(f"/dev/{GROUP}/{name}").resolve().name for name in NAMES]
    return sum(int(Path(f"/sys/block/{device}/stat").read_text().split()[6]) << 9 for device in devices)


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.usefixtures("group")
def test_there_and_back_and_there_for_good(release: str) -> None:
    nova(release)
    before, bytes_before = stand(), written()
    assert bytes_before > 0
    planned = layout("planned")
    assert {each["instance"]: each["verdict"] for each in planned["instances"]} == {ONE: "converts", TWO: "converts"}
    assert planned["bytes_to_copy"] == 0
    assert layout("converted")["plan"] == planned["plan"]
    assert recorded() == WANTED
    assert stand() == before
    assert layout("converted")["changed"] is False
    layout("rolled_back")
    assert recorded() == []
    assert stand() == before
    layout("converted")
    layout("finalized")
    assert recorded() == WANTED
    assert stand() == before
    assert layout("converted")["changed"] is False
    assert written() == bytes_before, "not a byte of disk data was written"
    print(f"\nconversion: Nova {release}, volume group: {written() - bytes_before} bytes written to disks")
    program("lvremove", "-y", f"{GROUP}/{TWO}_disk")
    make(f"{TWO}_disk", 9)
    refused = {each["instance"]: each["refusals"] for each in layout("planned")["instances"]}
    assert refused[ONE] == []
    assert "another volume, which had this name" in refused[TWO][0]


@pytest.mark.timeout(4 * 3600 if FULL else 2400)
@pytest.mark.usefixtures("group")
def test_killed() -> None:
    for number, name in enumerate(NAMES):
        make(name, number + 1)
    before = stand()

    def unharmed() -> None:
        assert stand() == before

    host = Host(PARAMS, set(WANTED), unharmed, lambda: forgotten(WANTED))
    tally = Tally()
    for name, kills in killed_at_every_step(host, 1 if FULL else 7).items():
        tally.add("lvm thick", name, "before", kills)
    tally.keep(Path(".work/results/kills.json"))
