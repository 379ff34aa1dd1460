# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Placement by flavor from outside, over ssh, in three pools: a folder, a thin pool, and thick volumes or Ceph."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import ceph
import pytest
from vm_machine import Machine

from ansible_collections.virt.storage.tests.over_ssh import played

from .conftest import LvmMachine, cleared

DEVICES = {"flavor-thin": "/dev/disk/by-id/virtio-data", "flavor-thick": "/dev/disk/by-id/virtio-shared"}
"""Of 16 and of 4 GiB."""
FILES, CEPH = "/srv/flavor-files", "/etc/flavor-ceph"
FAST = {"labels": {"media": "nvme"}}
GOLD = {"labels": {"media": "nvme", "tier": "gold"}}


def group(name: str) -> dict[str, Any]:
    """What makes a pool of a volume group."""
    wanted = {"group": name, "devices": [DEVICES[name]], "thin": name == "flavor-thin"}
    return {"name": name, "type": "logical", "logical": wanted}


POOLS: dict[str, dict[str, Any]] = {
    "flavor-files": {"name": "flavor-files", "type": "dir", "path": FILES, "labels": {"media": "hdd"}},
    "flavor-thin": {**group("flavor-thin"), **GOLD},
    "flavor-thick": {**group("flavor-thick"), **FAST},
    "flavor-ceph": {
        "name": "flavor-ceph",
        "type": "rbd",
        "rbd": {"pool": ceph.DISKS, "conf": f"{CEPH}/conf", "user": ceph.USER, "keyring": f"{CEPH}/keyring"},
        **FAST,
    },
}
NOVA = {"flavor-thick": "flavor-files,flavor-thick", "flavor-ceph": "flavor-ceph,flavor-thin"}
"""Of which pools the last flavor chooses the one with the least room."""


@dataclass(frozen=True)
class Site:
    """A machine with three pools; ``third`` is the one beside the folder and the thin pool."""

    machine: Machine
    third: str

    @property
    def pools(self) -> list[dict[str, Any]]:
        return [POOLS[name] for name in ("flavor-files", "flavor-thin", self.third)]

    @property
    def flavors(self) -> dict[str, Any]:
        """Four."""
        return {
            "gold": {"root": [{"labels": {"tier": "gold"}}, {"labels": {"media": "nvme"}}]},
            "silver": {"root": [{"labels": {"media": "nvme"}}], "ephemeral": [{"labels": {"media": "hdd"}}]},
            "bronze": {"root": [{"pools": ["flavor-files"]}]},
            "m1.nova": {"extra_specs": {"disk:pool": NOVA[self.third], "disk:pool_choose": "pack"}},
        }

    def expected(self, disk: dict[str, Any]) -> str:
        """Seven of the gold ones fill the thin pool but for less than one more, so the eighth takes the second choice.
        It leaves more in the third pool than there is in the thin one, so the silver ones follow it; packed, the last
        flavor goes to where there is least."""
        if disk["role"] == "data" or disk["instance"].startswith("bronze"):
            return "flavor-files"
        if disk["instance"].startswith("gold") and int(disk["instance"][-1]) < 7:
            return "flavor-thin"
        return "flavor-thin" if disk["instance"].startswith("m1") and self.third == "flavor-ceph" else self.third

    def placed(self, *options: str, disks: list[dict[str, Any]]) -> dict[str, Any]:
        return play(*options, tasks=[{"virt.storage.instance_disk": {"flavors": self.flavors, "disks": disks}}])


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


@pytest.fixture(params=sorted(NOVA))
def site(lvm_machine: LvmMachine, request: pytest.FixtureRequest) -> Iterator[Site]:
    machine = lvm_machine.machine
    cleared(machine, DEVICES)
    machine.ssh("head -c 8M /dev/urandom > /root/flavor.raw")
    with served(machine) if request.param == "flavor-ceph" else nullcontext():
        yield Site(machine, request.param)
        for name in ("flavor-files", "flavor-ceph"):
            machine.ssh(f"for verb in destroy undefine; do virsh -q pool-$verb {name}; done", check=False)
    machine.ssh(f"rm -rf {FILES} {CEPH}")
    cleared(machine, DEVICES)


@contextmanager
def served(machine: Machine) -> Iterator[None]:
    """A cluster on the host whose ports stand on the machine's loopback, where its clients look for them."""
    with ceph.cluster(), machine.reaching(ceph.ports()):
        conf = f"[global]\nmon host = v2:{ceph.monitor()}\n"
        for name, text in (("conf", conf), ("keyring", ceph.keyring(ceph.USER).read_text(encoding="ascii"))):
            machine.ssh(f"mkdir -p {CEPH} && umask 077 && cat > {CEPH}/{name}", data=text.encode())
        yield


def play(*options: str, tasks: list[dict[str, Any]]) -> dict[str, Any]:
    """What the last task said."""
    told, trouble = played([{"hosts": "vm1", "gather_facts": False, "tasks": tasks}], *options)
    assert trouble == "", trouble[-4000:]
    return told[-1]


@pytest.mark.timeout(3600)
def test_thirty_instances_of_four_flavors_land_as_the_policy_says(site: Site) -> None:
    image = {"name": "base", "source": "/root/flavor.raw", "format": "raw"}
    cache: dict[str, Any] = {"pools": [pool["name"] for pool in site.pools], "images": [image]}
    play(tasks=[*({"virt.storage.libvirt_pool": pool} for pool in site.pools), {"virt.storage.cached_image": cache}])
    disks = wanted()
    predicted, made = site.placed("--check", disks=disks), site.placed(disks=disks)
    assert made["changed"]
    assert len({disk["instance"] for disk in made["disks"]}) == 30
    assert predicted["actions"] == made["actions"]
    assert [disk["placement"] for disk in predicted["disks"]] == [disk["placement"] for disk in made["disks"]]
    for disk in made["disks"]:
        assert disk["pool"] == site.expected(disk), f"{disk['instance']} {disk['role']}: {disk['placement']}"
    random.Random(1).shuffle(disks)
    assert not site.placed(disks=disks)["changed"]
    gone = [{key: disk[key] for key in ("instance", "role", "pool")} for disk in made["disks"]]
    play(
        tasks=[
            {"virt.storage.instance_disk": {"disks": gone, "state": "absent"}},
            {"virt.storage.cached_image": {**cache, "images": [{"name": "base"}], "state": "absent"}},
        ]
    )
