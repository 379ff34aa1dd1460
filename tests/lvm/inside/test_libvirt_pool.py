# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""``libvirt_pool`` on volume groups: made, adopted, stopped with their records mounted, and left."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from ansible_collections.virt.storage.plugins.module_utils._backends.lvm_records import unmount
from ansible_collections.virt.storage.plugins.module_utils._ground.command import Runner
from ansible_collections.virt.storage.plugins.module_utils._ground.errors import BadInput, StorageError
from ansible_collections.virt.storage.plugins.module_utils._tasks import instance_disk, libvirt_pool
from ansible_collections.virt.storage.plugins.modules import instance_disk as instance_disk_module
from ansible_collections.virt.storage.plugins.modules.libvirt_pool import ARGUMENTS

DISK = "/dev/vdc"
GROUP = "vst-pool"
POOL = "vst-fast"
UNFORESEEN = ("uuid", "capacity", "allocation", "available")
WANTED = {"name": POOL, "type": "logical", "logical": {"group": GROUP, "devices": [DISK]}}


def program(*argv: str, check: bool = True) -> str:
    return subprocess.run(argv, check=check, capture_output=True, text=True, timeout=300).stdout


def volumes() -> list[str]:
    return program("lvs", "--noheadings", "-o", "lv_name", GROUP).split()


def task(check: bool = False, **given: Any) -> Mapping[str, Any]:
    checked = ArgumentSpecValidator(ARGUMENTS).validate(given)
    assert not checked.error_messages
    return libvirt_pool.task(checked.validated_parameters, check)


def four(**given: Any) -> Mapping[str, Any]:
    """Check, run, check, run; gives the run's result. It was foretold, and done again it changes nothing."""
    check, run, *again = (task(each, **given) for each in (True, False, True, False))
    for part in ("changed", "actions", "plan", "diff"):
        assert check[part] == run[part], f"check mode foretold another {part}"
    assert [each["actions"] for each in again] == [[], []]
    known = {name: value for name, value in check["pool"].items() if name not in UNFORESEEN}
    assert {name: run["pool"][name] for name in known} == known
    return run


def refused(**given: Any) -> str:
    said = []
    for check in (True, False):
        with pytest.raises(StorageError) as refusal:
            task(check, **given)
        said.append(refusal.value.message)
    assert said[0] == said[1]
    assert "\n" not in said[0]
    return said[0]


@pytest.fixture(scope="module", autouse=True)
def libvirtd() -> None:
    if subprocess.run(["virsh", "-q", "uri"], check=False, capture_output=True, timeout=60).returncode:
        program("virtlogd", "-d", check=False)
        program("libvirtd", "-d")
        for _attempt in range(60):
            if program("virsh", "-q", "uri", check=False):
                return
            time.sleep(1)


@pytest.fixture(autouse=True)
def disk() -> Iterator[str]:
    """An empty disk, emptied again."""
    wiped()
    yield DISK
    wiped()


def wiped() -> None:
    unmount(GROUP, Runner())  # first: libvirt stops no group of which a volume is open
    for verb in ("pool-destroy", "pool-undefine"):
        program("virsh", "-q", verb, POOL, check=False)
    if GROUP in program("vgs", "--noheadings", "-o", "vg_name").split():
        program("vgremove", "-y", "-ff", GROUP)
    program("pvremove", "-y", "-ff", DISK, check=False)
    program("wipefs", "-q", "--all", DISK)
    program("dd", "if=/dev/zero", f"of={DISK}", "bs=1M", "count=2", "conv=fsync")


def test_a_group_is_made_used_stopped_and_left() -> None:
    made = four(**WANTED)
    assert made["actions"] == [
        f"define pool {POOL} (logical, volume group {GROUP})",
        f"make volume group {GROUP} of {DISK}",
        f"make a thin pool in volume group {GROUP}",
        f"start pool {POOL}",
        f"enable autostart of pool {POOL}",
    ]
    assert made["pool"]["logical"] == {"group": GROUP, "thin_pool": "virt-storage-pool"}
    assert made["pool"]["unmanaged"] == []
    labelled = four(name=POOL, labels={"tier": "fast"}, cache={"max_count": 3})
    assert labelled["pool"]["labels"] == {"tier": "fast"}
    assert four(name=POOL, state="inactive")["actions"] == [f"stop pool {POOL}"]
    assert program("lvs", "--noheadings", "-o", "lv_active", f"{GROUP}/virt-storage-records").strip() == ""
    assert four(**WANTED)["pool"]["labels"] == {"tier": "fast"}
    four(name=POOL, state="absent")
    assert "virt-storage-records" in volumes()
    assert four(**WANTED)["pool"]["labels"] == {"tier": "fast"}
    gone = four(name=POOL, state="absent", remove_contents=True)
    assert gone["actions"][0] == f"remove the records of pool {POOL}, which holds nothing else"
    assert volumes() == ["virt-storage-pool"]


def test_a_group_is_adopted_thick_and_gets_the_thin_pool_that_it_has() -> None:
    program("vgcreate", "-y", "--metadatasize", "16m", GROUP, DISK)
    program("lvcreate", "-y", "-L", "8m", "-n", "old", GROUP)
    program("lvcreate", "-y", "--type", "thin-pool", "-L", "256m", "--zero", "y", "-n", "tp", GROUP)
    wanted = {"name": POOL, "type": "logical", "logical": {"group": GROUP}}
    adopted = four(**wanted)
    assert adopted["pool"]["logical"] == {"group": GROUP, "thin_pool": ""}
    assert adopted["pool"]["unmanaged"] == ["old", "tp"]
    assert sorted(volumes()) == ["old", "tp"]
    assert "There is no thin pool nowhere" in _failed(name=POOL, logical={"thin_pool": "nowhere"})
    thin = four(name=POOL, logical={"thin_pool": "tp"})
    assert thin["actions"] == [f"have the disks of pool {POOL} in the thin pool {GROUP}/tp"]
    assert thin["pool"]["logical"]["thin_pool"] == "tp"
    assert "stand in its thin pool tp" in refused(name=POOL, logical={"thin": False})
    assert "old" in refused(name=POOL, state="absent", remove_contents=True)


def _failed(**given: Any) -> str:
    with pytest.raises(StorageError) as failure:
        task(**given)
    return failure.value.message


def test_what_cannot_be_a_group_is_said_before_anything_is_done() -> None:
    nothing = {"name": POOL, "type": "logical", "logical": {"group": GROUP}}
    assert "say logical.devices" in refused(**nothing)
    program("mkfs.ext4", "-q", "-F", DISK)
    assert "holds something (ext4)" in refused(**WANTED)
    assert "does not exist" in refused(**{**WANTED, "logical": {"group": GROUP, "devices": ["/dev/nothing"]}})
    assert POOL not in program("virsh", "-q", "pool-list", "--all", "--name")


def test_a_group_with_an_open_volume_is_not_stopped_and_works_on() -> None:
    task(**WANTED, labels={"tier": "fast"})
    program("lvcreate", "-y", "--type", "thin", "-V", "16m", "--thinpool", "virt-storage-pool", "-n", "held", GROUP)
    with open(f"/dev/{GROUP}/held", "rb"):
        assert "Libvirt could not stop pool" in _failed(name=POOL, state="inactive")
    assert four(name=POOL, labels={"tier": "slow"})["pool"]["labels"] == {"tier": "slow"}


def test_a_guest_gives_nothing_back_of_a_disk_that_has_all_it_can_fill() -> None:
    def disk(check: bool = False, **given: Any) -> Mapping[str, Any]:
        wanted = {"pool": POOL, "disks": [{"instance": "web", "blank": {"fs": "none"}, "size": "8M", **given}]}
        checked = ArgumentSpecValidator(instance_disk_module.ARGUMENTS).validate(wanted)
        assert not checked.error_messages
        return instance_disk.task(checked.validated_parameters, check)

    task(**{**WANTED, "logical": {**WANTED["logical"], "thin": False}})
    for made in (False, True):
        for check in (True, False):
            with pytest.raises(BadInput, match="discard unmap, and it is qcow2"):
                disk(check, discard="unmap")
        if not made:
            assert volumes() == ["virt-storage-records"]
            assert 'type="qcow2"' in disk(discard="ignore")["disks"][0]["xml"]
    program("lvremove", "-y", *(f"{GROUP}/{name}" for name in volumes() if name.startswith("disk+")))
