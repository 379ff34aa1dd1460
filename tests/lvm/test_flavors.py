# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Placement by flavor from outside, over ssh, in pools of three backends: a folder, thin and thick volumes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
from vm_machine import Machine

from ansible_collections.virt.storage.tests.over_ssh import played

from .conftest import LvmMachine, cleared

DEVICES = {"flavor-thin": "/dev/disk/by-id/virtio-data", "flavor-thick": "/dev/disk/by-id/virtio-shared"}
"""Of 16 and of 4 GiB."""
FILES = "/srv/flavor-files"
POOLS: list[dict[str, Any]] = [
    {"name": "flavor-files", "type": "dir", "path": FILES, "labels": {"media": "hdd"}},
    *(
        {
            "name": name,
            "type": "logical",
            "logical": {"group": name, "devices": [device], "thin": name == "flavor-thin"},
            "labels": {"media": "nvme", **({"tier": "gold"} if name == "flavor-thin" else {})},
        }
        for name, device in DEVICES.items()
    ),
]
FLAVORS: dict[str, Any] = {
    "gold": {"root": [{"labels": {"tier": "gold"}}, {"labels": {"media": "nvme"}}]},
    "silver": {"root": [{"labels": {"media": "nvme"}}], "ephemeral": [{"labels": {"media": "hdd"}}]},
    "bronze": {"root": [{"pools": ["flavor-files"]}]},
    "m1.nova": {"extra_specs": {"disk:pool": "flavor-files,flavor-thick", "disk:pool_choose": "pack"}},
}


def wanted() -> list[dict[str, Any]]:
    """Thirty instances, ten of which have a second disk."""
    counts = {"gold": (8, "2G"), "silver": (10, "64M"), "bronze": (7, "32M"), "m1.nova": (5, "64M")}
    roots = [
        {"instance": f"{flavor}-{number}", "flavor": flavor, "image": "base", "size": size}
        for flavor, (count, size) in counts.items()
        for number in range(count)
    ]
    more = {"role": "data", "flavor": "silver", "size": "16M", "blank": {}}
    return roots + [{"instance": f"silver-{number}", **more} for number in range(10)]


def expected(disk: dict[str, Any]) -> str:
    """Seven of the gold ones fill the thin pool but for less than one more, so the eighth takes the second choice. It
    leaves more in the thick pool than there is in the thin one, so the silver ones follow it; packed, the last flavor
    goes to where there is least."""
    if disk["role"] == "data" or disk["instance"].startswith("bronze"):
        return "flavor-files"
    if disk["instance"].startswith("gold"):
        return "flavor-thin" if int(disk["instance"][-1]) < 7 else "flavor-thick"
    return "flavor-thick"


@pytest.fixture
def machine(lvm_machine: LvmMachine) -> Iterator[Machine]:
    machine = lvm_machine.machine
    cleared(machine, DEVICES)
    machine.ssh("head -c 8M /dev/urandom > /root/flavor.raw")
    yield machine
    machine.ssh("for verb in destroy undefine; do virsh -q pool-$verb flavor-files; done; rm -rf " + FILES, check=False)
    cleared(machine, DEVICES)


def play(*options: str, tasks: list[dict[str, Any]]) -> dict[str, Any]:
    """What the last task said."""
    told, trouble = played([{"hosts": "vm1", "gather_facts": False, "tasks": tasks}], *options)
    assert trouble == "", trouble[-4000:]
    return told[-1]


def placed(*options: str, disks: list[dict[str, Any]]) -> dict[str, Any]:
    return play(*options, tasks=[{"virt.storage.instance_disk": {"flavors": FLAVORS, "disks": disks}}])


@pytest.mark.timeout(3600)
def test_thirty_instances_of_four_flavors_land_as_the_policy_says(machine: Machine) -> None:
    image = {"name": "base", "source": "/root/flavor.raw", "format": "raw"}
    cache: dict[str, Any] = {"pools": [pool["name"] for pool in POOLS], "images": [image]}
    play(tasks=[*({"virt.storage.libvirt_pool": pool} for pool in POOLS), {"virt.storage.cached_image": cache}])
    disks = wanted()
    predicted, made = placed("--check", disks=disks), placed(disks=disks)
    assert made["changed"]
    assert len({disk["instance"] for disk in made["disks"]}) == 30
    assert predicted["actions"] == made["actions"]
    assert [disk["placement"] for disk in predicted["disks"]] == [disk["placement"] for disk in made["disks"]]
    named = [f"{disk['instance']} {disk['role']}" for disk in made["disks"]]
    assert dict(zip(named, (disk["pool"] for disk in made["disks"]))) == dict(zip(named, map(expected, made["disks"])))
    random.Random(1).shuffle(disks)
    assert not placed(disks=disks)["changed"]
