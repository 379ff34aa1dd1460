# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The playbook ``virt.storage.site`` over ssh: a thin and a thick pool made of empty devices, images, disks."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterator
from typing import Any

import pytest
from vm_machine import Machine

from ansible_collections.virt.storage.tests.over_ssh import played

from .conftest import LvmMachine, cleared

MIB = 1 << 20
DATA = random.Random(1).randbytes(3 * MIB) + bytes(5 * MIB)
HOW = re.compile("(snapshot|overlay) of image")
"""What check mode cannot know of a pool that is not there yet."""
SOURCE = "/root/site.qcow2"
DEVICES = {"site-thin": "/dev/disk/by-id/virtio-data", "site-thick": "/dev/disk/by-id/virtio-shared"}
SITE: dict[str, Any] = {
    # The machine has all of it, and no network to get more.
    "storage_pool_manage_packages": False,
    "storage_pool_use_venv": False,
    "storage_pool_pools": [
        {
            "name": name,
            "type": "logical",
            "logical": {"group": name, "devices": [device], "thin": name == "site-thin"},
            "labels": {"tier": name},
        }
        for name, device in DEVICES.items()
    ],
    "image_cache_images": [{"name": "base", "source": SOURCE, "format": "qcow2"}],
    "virt_storage_disk_pool": "site-thin",
    "virt_storage_disks": [
        {"instance": "web1", "image": "base", "size": "32M"},
        {"instance": "web1", "role": "swap", "size": "16M", "blank": {"fs": "swap"}, "pool": "site-thick"},
        {"instance": "web2", "image": "base", "size": "32M", "pool": "site-thick"},
        {"instance": "web2", "role": "data", "size": "32M", "blank": {"fs": "ext4"}},
    ],
}


@pytest.fixture
def machine(lvm_machine: LvmMachine) -> Iterator[Machine]:
    machine = lvm_machine.machine
    cleared(machine, DEVICES)
    machine.ssh("cat > /root/site.raw", data=DATA)
    machine.ssh(f"qemu-img convert -f raw -O qcow2 /root/site.raw {SOURCE}")
    yield machine
    cleared(machine, DEVICES)


def site(*options: str) -> list[dict[str, Any]]:
    """What our modules did, in order."""
    told, trouble = played("virt.storage.site", "--limit=vm1", *options, variables=SITE)
    assert trouble == "", trouble[-4000:]
    items = [item for result in told for item in result.get("results", [result])]
    assert [item for item in items if item.get("changed")] == [
        item for item in items if item.get("changed") and "actions" in item
    ], "something else than our modules changed the machine"
    return [item for item in items if "actions" in item]


def actions(told: list[dict[str, Any]]) -> list[str]:
    return [action for each in told for action in each["actions"]]


def digest(machine: Machine, disk: dict[str, Any]) -> str:
    """Of as much as the image has, as a guest reads it."""
    words = f"qemu-img convert -f {disk['format']} -O raw {disk['path']} /root/read.raw"
    said = machine.ssh(f"{words} && head -c {len(DATA)} /root/read.raw | sha256sum && rm /root/read.raw").stdout
    return said.split()[0]


@pytest.mark.timeout(5400)
def test_site_from_outside_is_foretold_and_settles_and_outlives_a_reset(machine: Machine) -> None:
    check, run = site("--check"), site()
    assert [each["changed"] for each in check] == [each["changed"] for each in run] == [True] * 4
    assert actions(check) == [HOW.sub("clone of image", action) for action in actions(run)]
    again = site()
    assert [each["changed"] for each in again] == [False] * 4
    assert actions(again) == []

    disks = run[-1]["disks"]
    assert [(disk["pool"], disk["format"]) for disk in disks] == [
        ("site-thin", "raw"),
        ("site-thick", "qcow2"),
        ("site-thick", "qcow2"),
        ("site-thin", "raw"),
    ]
    roots = [disks[0], disks[2]]
    assert all('type="block"' in disk["xml"] for disk in disks)
    assert [digest(machine, disk) for disk in roots] == [hashlib.sha256(DATA).hexdigest()] * 2

    machine.ssh("sync")  # of the machine's own root, which a reset may take back to before the pools were defined
    machine.reset()
    after = site()
    assert set(actions(after)) <= {f"start pool {name}" for name in DEVICES}
    assert after[-1]["disks"] == disks
    assert [digest(machine, disk) for disk in roots] == [hashlib.sha256(DATA).hexdigest()] * 2
