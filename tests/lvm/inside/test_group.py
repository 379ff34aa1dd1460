# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Groups made and looked at: devices that hold something, groups of other hosts, thin pools as they should be."""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from contract.beds import GIB, MIB, program

from ansible_collections.virt.storage.plugins.module_utils._backends.lvm_group import (
    adopt_thin_pool,
    find_group,
    make_group,
    make_thin_pool,
    warnings,
    why_not_empty,
)
from ansible_collections.virt.storage.plugins.module_utils._backends.lvm_records import MOUNTS, GroupStore, unmount
from ansible_collections.virt.storage.plugins.module_utils._ground.command import Runner
from ansible_collections.virt.storage.plugins.module_utils._ground.errors import BadInput, NotFound, StorageError
from ansible_collections.virt.storage.plugins.module_utils._ground.lvm import Lvm

DISK = "/dev/vdc"
GROUP = "other-group"
RUNNER = Runner()
LVM = Lvm(RUNNER)


@pytest.fixture(autouse=True)
def disk() -> Iterator[str]:
    wiped()
    yield DISK
    wiped()


def wiped() -> None:
    unmount(GROUP, RUNNER)
    groups = program("vgs", "--shared", "--foreign", "--noheadings", "-o", "vg_name").split()
    if GROUP in groups:
        subprocess.run(["vgremove", "-y", "-ff", GROUP], check=False, capture_output=True, timeout=120)
    program("wipefs", "-q", "--all", "--force", DISK)
    program("blkdiscard", "-z", "-l", str(4 * MIB), DISK)


@pytest.mark.parametrize("held", ["file system", "partitions", "group", "data", "mount"])
def test_a_device_that_holds_something_is_not_taken(held: str, tmp_path: Path) -> None:
    assert why_not_empty(RUNNER, DISK) == ""
    if held in ("file system", "mount"):
        program("mkfs.ext4", "-q", DISK)
    elif held == "partitions":
        with open(DISK, "r+b") as device:  # one partition of 1 GiB, in the table that every system knows
            device.seek(446)
            device.write(bytes(4) + b"\x83" + bytes(3) + struct.pack("<II", 2048, GIB // 512) + bytes(48) + b"\x55\xaa")
    elif held == "group":
        program("vgcreate", GROUP, DISK)
    else:
        with open(DISK, "r+b") as device:
            device.seek(65536)
            device.write(b"somebody's")
    if held == "mount":
        program("mount", DISK, str(tmp_path))
    try:
        assert why_not_empty(RUNNER, DISK)
        with pytest.raises(StorageError, match=DISK):
            make_group(LVM, RUNNER, "new-group", [DISK])
    finally:
        if held == "mount":
            program("umount", str(tmp_path))


def test_names_and_devices_that_cannot_be() -> None:
    for name in ("-a", "a/b", "", "a b", "x" * 68):
        with pytest.raises(BadInput):
            make_group(LVM, RUNNER, name, [DISK])
    with pytest.raises(BadInput):
        make_group(LVM, RUNNER, GROUP, [])
    for path in ("/dev/nothing", "/etc/passwd"):
        assert why_not_empty(RUNNER, path)
    with pytest.raises(NotFound):
        find_group(LVM, GROUP)


def test_a_group_has_room_and_its_thin_pool_is_as_it_should_be() -> None:
    make_group(LVM, RUNNER, GROUP, [DISK])
    group = find_group(LVM, GROUP)
    assert (group.extent, group.shared, group.pool, group.records) == (4 * MIB, False, "", None)
    assert group.room > 2000
    assert make_thin_pool(LVM, group) == "virt-storage-pool"
    fields = "lv_size,zero,chunk_size,discards,seg_monitor,lv_metadata_size,metadata_percent"
    words = program("lvs", "--noheadings", "--units", "b", "--nosuffix", "-o", fields, f"{GROUP}/virt-storage-pool")
    size, zeroes, chunk, discards, monitored, metadata, used = words.split()
    assert 3 * GIB < int(size) < group.free
    assert (zeroes, chunk, discards, monitored) == ("zero", "65536", "passdown", "monitored")
    assert int(metadata) == 64 * MIB
    assert float(used) < 20
    group = find_group(LVM, GROUP)
    assert group.pool == "virt-storage-pool"
    assert any("autoextend" in sentence for sentence in warnings(LVM, group))
    store = GroupStore.of(group, RUNNER, make=True)
    assert Path(MOUNTS, GROUP).stat().st_mode & 0o77 == 0
    again = GroupStore.of(find_group(LVM, GROUP), RUNNER)
    assert again.root == store.root
    again.destroy()
    assert not os.path.ismount(f"{MOUNTS}/{GROUP}")
    with pytest.raises(NotFound):
        GroupStore.of(find_group(LVM, GROUP), RUNNER)


def test_a_thin_pool_that_is_there_is_adopted_if_it_zeroes() -> None:
    make_group(LVM, RUNNER, GROUP, [DISK])
    program("lvcreate", "-y", "--type", "thin-pool", "-L", "1g", "--zero", "n", "-n", "mine", GROUP)
    group = find_group(LVM, GROUP)
    assert group.pool == ""
    with pytest.raises(StorageError, match="--zero y"):
        adopt_thin_pool(LVM, group, "mine")
    with pytest.raises(NotFound):
        adopt_thin_pool(LVM, group, "yours")
    program("lvchange", "--zero", "y", f"{GROUP}/mine")
    for _again in range(2):
        adopt_thin_pool(LVM, group, "mine")
    assert find_group(LVM, GROUP).pool == "mine"


def test_groups_of_other_hosts_are_refused(tmp_path: Path) -> None:
    make_group(LVM, RUNNER, GROUP, [DISK])
    program("vgexport", GROUP)
    with pytest.raises(StorageError, match="vgimport"):
        find_group(LVM, GROUP)
    program("vgimport", GROUP)
    # As lvmlockd on another host would have made it: here it does not run.
    text = tmp_path / "metadata"
    program("vgcfgbackup", "-f", str(text), GROUP)
    by_dlm = 'format = "lvm2"\n\tlock_type = "dlm"\n\tlock_args = "1.0.0:bed"'  # sanlock's names a volume of the group
    text.write_text(text.read_text().replace('format = "lvm2"', by_dlm, 1))
    program("vgcfgrestore", "-f", str(text), GROUP)
    with pytest.raises(StorageError, match="lvmlockd"):
        find_group(LVM, GROUP)


def test_records_that_another_host_has_mounted_are_not_mounted_here(tmp_path: Path) -> None:
    """Through another device, as another host would come to them: the file system notices."""
    make_group(LVM, RUNNER, GROUP, [DISK])
    store = GroupStore.of(find_group(LVM, GROUP), RUNNER, make=True)
    program("modprobe", "loop")
    twin = program("losetup", "--find", "--show", f"/dev/{GROUP}/virt-storage-records").strip()
    try:
        argv = ["mount", "-t", "ext4", twin, str(tmp_path)]
        assert subprocess.run(argv, check=False, capture_output=True, timeout=120).returncode != 0
        unmount(GROUP, RUNNER)
        program(*argv)
        with pytest.raises(StorageError, match="another host"):
            GroupStore.of(find_group(LVM, GROUP), RUNNER)
        program("umount", str(tmp_path))
        assert GroupStore.of(find_group(LVM, GROUP), RUNNER).root == store.root
    finally:
        program("losetup", "--detach", twin)
