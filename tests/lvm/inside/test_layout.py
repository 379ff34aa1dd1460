# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""``storage_layout`` on the volumes that Nova has in a volume group: they become disks where they are."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from ansible_collections.virt.storage.plugins.module_utils._tasks import (
    disk_metadata,
    instance_disk,
    libvirt_pool,
    storage_layout,
)
from ansible_collections.virt.storage.plugins.modules import disk_metadata as disk_metadata_module
from ansible_collections.virt.storage.plugins.modules import instance_disk_info
from ansible_collections.virt.storage.plugins.modules.libvirt_pool import ARGUMENTS

GROUP, POOL = "vst-nova", "vst-nova"
ONE, TWO = "11111111-1111-1111-1111-111111111111", "22222222-2222-2222-2222-222222222222"
NAMES = [f"{ONE}_disk", f"{ONE}_disk.local", f"{TWO}_disk"]


def program(*argv: str, check: bool = True) -> str:
    return subprocess.run(argv, check=check, capture_output=True, text=True, timeout=300).stdout


def checked(task: Any, arguments: Any, **given: Any) -> dict[str, Any]:
    """A task with the arguments that its module would give it."""
    found = ArgumentSpecValidator(arguments).validate(given)
    assert not found.error_messages
    result: dict[str, Any] = task(found.validated_parameters, False)
    return result


def clear() -> None:
    """Take away what a test left, one that was broken off before among them."""
    if POOL in program("virsh", "pool-list", "--all", "--name").split():
        for instance, role in recorded():
            given = {"state": "absent", "pool": POOL, "disks": [{"instance": instance, "role": role}]}
            checked(disk_metadata.task, disk_metadata_module.ARGUMENTS, **given)
        for name in (*NAMES, "other"):
            program("lvremove", "-y", f"{GROUP}/{name}", check=False)
        checked(libvirt_pool.task, ARGUMENTS, name=POOL, state="absent", remove_contents=True)
    program("vgremove", "-f", GROUP, check=False)
    program("dd", "if=/dev/zero", "of=/dev/vdc", "bs=1M", "count=4", "oflag=direct")


@pytest.fixture
def names() -> Iterator[list[str]]:
    """Volumes as Nova makes them in a group that a pool has taken over."""
    clear()
    wanted = {"name": POOL, "type": "logical", "logical": {"group": GROUP, "devices": ["/dev/vdc"]}}
    checked(libvirt_pool.task, ARGUMENTS, **wanted)
    for number, name in enumerate(NAMES):
        make(name, number + 1)
    program("lvcreate", "-y", "-Wn", "-L", "4M", "-n", "other", GROUP)
    yield NAMES
    clear()


def make(name: str, byte: int) -> None:
    program("lvcreate", "-y", "-Wn", "-L", "8M", "-n", name, GROUP)
    with open(f"/dev/{GROUP}/{name}", "r+b") as device:
        device.write(bytes([byte]) * (1 << 20))


def recorded() -> list[tuple[str, str]]:
    found = checked(instance_disk.info, instance_disk_info.ARGUMENTS, pools=[POOL])["disks"]
    return sorted((each["instance"], each["role"]) for each in found)


def layout(state: str) -> dict[str, Any]:
    nothing = dict.fromkeys(("instances", "formats", "base_format", "flattened"))
    given = {"state": state, "layout": "nova", "path": "/nowhere", "pool": POOL, "uri": "qemu:///system"}
    return storage_layout.task({**nothing, **given}, False)


def stand(names: list[str]) -> list[tuple[str, str]]:
    """What guests read, and the volumes themselves."""
    digests = []
    for name in names:
        with open(f"/dev/{GROUP}/{name}", "rb") as device:
            digests.append(hashlib.sha256(device.read()).hexdigest())
    uuids = dict(line.split() for line in program("lvs", "--noheadings", "-o", "lv_name,lv_uuid", GROUP).splitlines())
    return [(uuids[name], digest) for name, digest in zip(names, digests)]


def test_there_and_back_and_there_for_good(names: list[str]) -> None:
    before = stand(names)
    planned = layout("planned")
    assert {each["instance"]: each["verdict"] for each in planned["instances"]} == {ONE: "converts", TWO: "converts"}
    assert planned["bytes_to_copy"] == 0
    assert layout("converted")["plan"] == planned["plan"]
    wanted = [(ONE, "ephemeral"), (ONE, "root"), (TWO, "root")]
    assert recorded() == wanted
    assert stand(names) == before
    assert layout("converted")["changed"] is False
    layout("rolled_back")
    assert recorded() == []
    assert stand(names) == before
    layout("converted")
    layout("finalized")
    assert recorded() == wanted
    assert stand(names) == before
    assert layout("converted")["changed"] is False
    program("lvremove", "-y", f"{GROUP}/{TWO}_disk")
    make(f"{TWO}_disk", 9)
    refused = {each["instance"]: each["refusals"] for each in layout("planned")["instances"]}
    assert refused[ONE] == []
    assert "another volume, which had this name" in refused[TWO][0]
