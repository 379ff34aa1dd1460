# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Disks that are placed by flavor, in three pools of known size: file systems, or such and one in Ceph."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import libvirt
import pytest

from .ceph_site import ceph
from .conftest import ModuleFailed, Modules, Place, Result
from .pool_kinds import KINDS, Ground, Made

MIB = 1 << 20
LABELS = {"fast": {"media": "nvme", "tier": "gold"}, "quick": {"media": "nvme"}, "slow": {"media": "hdd", "rack": 7}}
SIZES = {"fast": 128, "quick": 128, "slow": 1024}
"""MiB."""
FILES = {"fast": "file system", "quick": "file system", "slow": "file system"}
MIXED = {**FILES, "slow": "ceph"}
"""The kinds of the three pools."""


class Host:
    """Three pools, and the image ``base`` of 8 MiB in all of them. Those of one size come by name."""

    def __init__(self, task: Modules, place: Place, pools: dict[str, Made]) -> None:
        self.task, self.place = task, place
        twins = sorted((pools["fast"], pools["quick"]), key=lambda pool: pool.name)
        pools = {"fast": twins[0], "quick": twins[1], "slow": pools["slow"]}
        self.names = {name: pool.name for name, pool in pools.items()}
        self.paths = {name: Path(pool.prefix) for name, pool in pools.items()}
        for name, labels in LABELS.items():
            task("libvirt_pool", name=self.names[name], labels=labels)
        source = place.root / "base.raw"
        source.write_bytes(random.Random(3).randbytes(MIB) + bytes(7 * MIB))
        image = {"name": "base", "source": str(source), "format": "raw"}
        task("cached_image", pools=list(self.names.values()), images=[image])

    def flavors(self) -> dict[str, Any]:
        """Four flavors, as a role variable has them."""
        return {
            "gold": {"root": [{"labels": {"tier": "gold"}}, {"labels": {"media": "nvme"}}]},
            "silver": {
                "root": [{"labels": {"media": "nvme"}, "overcommit": 2}],
                "ephemeral": [{"labels": {"rack": "7"}, "min_free": "10M"}],
            },
            "bronze": {"root": [{"pools": [self.names["slow"]]}]},
            "m1.nova": {
                "extra_specs": {
                    "hw:cpu_policy": "shared",
                    "disk:pool": f"{self.names['slow']},{self.names['quick']}",
                    "disk:pool_choose": "pack",
                    "disk:pool_overcommit": "2",
                }
            },
        }

    def disks(self, flavor: str, *disks: Result, **params: Any) -> Result:
        """One run of disks by flavor."""
        return self.task("instance_disk", flavor=flavor, flavors=self.flavors(), disks=list(disks), **params)

    def refused(self, flavor: str, *disks: Result, **params: Any) -> str:
        """The sentence with which check mode and a run refuse."""
        return self.task.refused("instance_disk", flavor=flavor, flavors=self.flavors(), disks=list(disks), **params)

    def pool_of(self, disk: Result) -> str:
        """Our word for the pool that a disk is in."""
        return next(name for name, pool in self.names.items() if pool == disk["pool"])


@pytest.fixture
def kinds() -> dict[str, str]:
    """The kinds of the pools, unless a test says otherwise."""
    return FILES


@pytest.fixture
def host(task: Modules, place: Place, kinds: dict[str, str]) -> Iterator[Host]:
    ground = Ground(task, place, place.connection)
    with ExitStack() as stack:
        if "ceph" in kinds.values():
            stack.enter_context(ceph.cluster())
        pools = {name: stack.enter_context(KINDS[kind](ground, SIZES[name] * MIB)) for name, kind in kinds.items()}
        yield Host(task, place, pools)


def root(instance: str, **more: Any) -> Result:
    return {"instance": instance, "image": "base", **more}


def many() -> list[Result]:
    """Thirty instances of four flavors."""
    silver = [f"silver{number}" for number in range(10)]
    return [
        *(root(f"gold{number}", flavor="gold", size="16M") for number in range(10)),
        *(root(name, flavor="silver", size="12M") for name in silver),
        *({"instance": name, "role": "data", "flavor": "silver", "size": "64M", "blank": {}} for name in silver),
        *(root(f"bronze{number}", flavor="bronze", size="32M") for number in range(5)),
        *(root(f"nova{number}", flavor="m1.nova") for number in range(5)),
    ]


def expected(disk: Result) -> str:
    """Where the rules put a disk. From the largest on: the data disks fill 640 MiB of ``slow`` and the bronze ones 160;
    eight gold ones fill ``fast``, two go to their second choice. That leaves 128 and 224 MiB to the silver ones, which
    may promise twice the capacity: eight make up for the difference, of the last two each gets one. ``quick`` has
    less left than ``slow`` then."""
    name, number = disk["instance"][:-1], int(disk["instance"][-1])
    if disk["role"] == "data" or name == "bronze":
        return "slow"
    if name == "gold":
        return "fast" if number < 8 else "quick"
    return "fast" if (name, number) == ("silver", 8) else "quick"


@pytest.mark.parametrize("kinds", [FILES, MIXED], ids=["files", "mixed"])
def test_thirty_instances_of_four_flavors_land_as_the_policy_says(
    host: Host, play: Callable[..., list[Result]], libvirtd: libvirt.virConnect
) -> None:
    disks = many()
    variables = {"storage_pool_flavors": host.flavors(), "wanted": disks}
    task = {"virt.storage.instance_disk": {"flavors": "{{ storage_pool_flavors }}", "disks": "{{ wanted }}"}}
    predicted, made = play([{**task, "check_mode": True}, task], variables=variables)
    assert made["changed"]
    assert len(made["disks"]) == 40
    assert predicted["actions"] == made["actions"]
    assert predicted["diff"] == made["diff"]
    assert [(disk["pool"], disk["placement"]) for disk in predicted["disks"]] == [
        (disk["pool"], disk["placement"]) for disk in made["disks"]
    ]
    assert {disk["path"]: host.pool_of(disk) for disk in made["disks"]} == {
        disk["path"]: expected(disk) for disk in made["disks"]
    }
    assert all(disk["path"].startswith(str(host.paths[expected(disk)])) for disk in made["disks"])
    (first,) = (disk for disk in made["disks"] if disk["instance"] == "silver0" and disk["role"] == "root")
    assert first["placement"] == (
        "choice 1 of 1 of flavor silver for root disks: the most room of 2 pools that fit, 224.0 MiB left"
    )
    random.Random(1).shuffle(disks)
    (again,) = play([task], variables={**variables, "wanted": disks})
    assert not again["changed"]
    assert not again.get("warnings")
    assert {disk["path"] for disk in again["disks"]} == {disk["path"] for disk in made["disks"]}
    assert {disk["placement"] for disk in again["disks"]} == {"it stands there"}
    names = sorted({disk["instance"] for disk in disks})
    assert len(names) == 30
    assert host.disks("whatever", *({"instance": name} for name in names), state="absent")["changed"]
    assert not list(host.place.root.glob("*/*.qcow2"))


def test_a_refusal_lists_every_pool(host: Host) -> None:
    fast, quick, slow = host.names.values()
    said = host.refused("gold", root("big", size="200M"))
    of = "of 128.0 MiB that may be promised to disks, 0 bytes are"
    assert f"not {fast} ({of}, and" not in said
    assert f"not {fast} ({of})" in said
    assert f"not {quick} (it has no label tier, and {of})" in said
    assert f"not {slow} (it has no label tier, and its label media is hdd, not nvme)" in said
    host.disks("gold", root("one", size="100M"))
    assert "100.0 MiB are" in host.refused("gold", root("a", size="100M"), root("b", size="100M"))


def test_space_that_has_to_stay_free_counts_what_is_really_free(host: Host) -> None:
    disk = {"instance": "a", "role": "data", "size": "8M", "blank": {}}
    filler = host.paths["slow"] / ".virt-storage" / "filler"
    filler.write_bytes(bytes(1016 * MIB))
    assert "MiB are free and 10.0 MiB have to be, while cached images take 1.0 MiB" in host.refused("silver", disk)
    filler.unlink()
    assert host.pool_of(host.disks("silver", disk)["disks"][0]) == "slow"


def test_what_a_flavor_cannot_do_is_said(host: Host) -> None:
    inside = {"path": str(host.paths["slow"] / "a.raw"), "format": "raw"}
    for disk, says in (
        ({"flavor": "tin"}, "ask for flavor tin, and flavors has gold, silver, bronze, m1.nova: define it there"),
        ({"import_from": {"path": "/etc/hostname", "format": "raw"}}, "give its size"),
        ({"import_from": inside, "size": "8M"}, f"lies in pool {host.names['slow']}: give that pool instead"),
        ({"image": "other"}, "No pool of this host has a ready image other"),
        ({"pool": "ssd", "flavor": "gold"}, "mutually exclusive"),
    ):
        with pytest.raises(ModuleFailed) as refusal:
            host.disks("gold", {"instance": "a", **disk})
        assert says in refusal.value.msg


def test_a_disk_stays_where_it_stands(host: Host, task: Modules) -> None:
    (made,) = host.disks("gold", root("web"))["disks"]
    assert host.pool_of(made) == "fast"
    task("libvirt_pool", name=host.names["fast"], labels={"media": "tape", "tier": "gone"})
    for _run in range(2):
        again = host.disks("gold", root("web", size="24M"), root("new"))
        assert [host.pool_of(disk) for disk in again["disks"]] == ["fast", "quick"]
        assert again["disks"][0]["path"] == made["path"]
        assert again["disks"][0]["size"] == 24 * MIB
        (warning,) = again["warnings"]
        assert "would not put it (its label tier is gone, not gold, and its label media is tape, not nvme)" in str(
            warning
        )
    assert not again["changed"]
    task("libvirt_pool", name=host.names["fast"], labels=LABELS["fast"])
    pinned = {"pool": host.names["fast"], "instance": "named", "size": "8M", "blank": {}}
    # What it has grown by counts, and so does what the task itself puts there by name.
    task("instance_disk", flavor="gold", flavors=host.flavors(), disks=[pinned, root("x", size="96M")])
    (told,) = host.disks("gold", root("x"))["disks"]
    assert host.pool_of(told) == "fast"
    assert host.pool_of(host.disks("gold", root("y"))["disks"][0]) == "quick"


def test_where_it_cannot_be_seen_whether_a_disk_stands_none_is_made(host: Host, task: Modules) -> None:
    (made,) = host.disks("gold", root("web"))["disks"]
    task("libvirt_pool", name=host.names["fast"], state="inactive", autostart=False)
    with pytest.raises(ModuleFailed) as refusal:
        host.disks("bronze", root("web"))
    assert f"Whether the disk root of web stands in pool {host.names['fast']} cannot be seen" in refusal.value.msg
    warned = host.disks("bronze", root("web"), check=True)["warnings"]
    assert "cannot be seen (it is not active)" in str(warned)
    task("libvirt_pool", name=host.names["fast"], state="active")
    assert host.disks("bronze", root("web"))["disks"][0]["path"] == made["path"]
    for path in (host.paths["fast"] / ".virt-storage" / "records").glob(f"{made['id']}*"):
        path.unlink()
    assert "its record is lost" in host.refused("bronze", root("web"))
    assert "its record is lost" in host.refused("any", root("web"), state="absent")


def test_check_mode_goes_on_where_an_earlier_task_makes_the_pool(host: Host) -> None:
    flavors = {"tape": {"root": [{"labels": {"media": "tape"}}]}}
    planned = host.task("instance_disk", check=True, flavor="tape", flavors=flavors, disks=[root("a")])
    assert planned["actions"] == ["make disk root of a in pool yet to be made (clone of image base)"]
    (disk,) = planned["disks"]
    assert disk["pool"] is None
    assert disk["placement"] is None
    assert "its label media is hdd, not tape" in str(planned["warnings"])
    with pytest.raises(ModuleFailed, match="its label media is hdd, not tape"):
        host.task("instance_disk", flavor="tape", flavors=flavors, disks=[root("a")])
