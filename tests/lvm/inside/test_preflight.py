# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What preflight says of LVM: which devices it looks at, and whether it keeps out of what guests have in theirs."""

from __future__ import annotations

import importlib.util
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "playbooks" / "files" / "preflight.py"
LOCAL = Path("/etc/lvm/lvmlocal.conf")
LISTED = Path("/etc/lvm/devices/system.devices")
DEVICE, FREE = "/dev/vdc", "/dev/vdb"
GROUP, INNER = "vst-host", "vst-guest"
POOL: dict[str, Any] = {"name": "fast", "type": "logical", "logical": {"group": GROUP}}


@pytest.fixture(scope="module")
def ground() -> None:
    """Not the group of the others."""


@pytest.fixture(autouse=True)
def group() -> Iterator[None]:
    """A group with a volume, in which a guest made a group of its own."""
    kept = LOCAL.read_bytes()
    wiped()
    program("vgcreate", "-y", GROUP, DEVICE)
    program("lvcreate", "-y", "-L", "64m", "-n", "disk", GROUP)
    program("vgcreate", "-y", "--config", "devices/scan_lvs=1", INNER, f"/dev/{GROUP}/disk")
    yield
    LOCAL.write_bytes(kept)
    LISTED.unlink(missing_ok=True)
    wiped()


def program(*argv: str, check: bool = True) -> str:
    return subprocess.run(argv, check=check, capture_output=True, text=True, timeout=300).stdout


def wiped() -> None:
    for name in (INNER, GROUP):
        program("vgremove", "-y", "-ff", "--config", "devices/scan_lvs=1", name, check=False)
    program("wipefs", "-q", "--all", "--force", DEVICE)
    program("dd", "if=/dev/zero", f"of={DEVICE}", "bs=1M", "count=4", "conv=fsync")


@pytest.fixture
def look() -> Callable[..., Any]:
    """What preflight tells of pools, where LVM has ``settings``."""
    found = importlib.util.spec_from_file_location("preflight", SCRIPT)
    assert found is not None
    assert found.loader is not None
    preflight = importlib.util.module_from_spec(found)
    found.loader.exec_module(preflight)

    def told(*pools: dict[str, Any], settings: str = "") -> Any:
        with open(LOCAL, "a", encoding="utf-8") as configuration:
            configuration.write(f"devices {{\n{settings}\n}}\n" if settings else "")
        report = preflight.Report("Debian")
        preflight.look_at_groups(report, pools)
        return report

    return told


def test_a_host_that_keeps_out_of_its_guests_disks_has_no_problem(look: Callable[..., Any]) -> None:
    new = {"name": "new", "type": "logical", "logical": {"group": "vst-new", "devices": [FREE]}}
    told = look(POOL, new)
    assert (told.problems, told.hints, told.found) == ([], [], [])


def test_a_group_of_a_guest_that_lvm_takes_for_the_hosts(look: Callable[..., Any]) -> None:
    told = look(POOL, settings="scan_lvs = 1")
    (hint,) = told.hints
    assert "LVM looks into logical volumes" in hint
    (problem,) = told.problems
    assert f"takes the volume group {INNER}, which is in the volume /dev/{GROUP}/disk of pool fast" in problem


def test_a_filter_that_leaves_a_device_out(look: Callable[..., Any]) -> None:
    new = {"name": "new", "type": "logical", "logical": {"group": "vst-new", "devices": [FREE, "/dev/nothing"]}}
    told = look(POOL, new, settings=f'global_filter = [ "r|{FREE}|", "r|{DEVICE}|" ]')
    mine, passed_over, missing = told.problems
    assert f"LVM sees no volume group {GROUP}, which pool fast is of" in mine
    assert f"LVM passes over {FREE}, of which pool new is to be made" in passed_over
    assert missing == "There is no device /dev/nothing, of which pool new is to be made."


def test_a_devices_file_is_told_and_what_it_leaves_out_is_not_the_hosts(look: Callable[..., Any]) -> None:
    LISTED.parent.mkdir(exist_ok=True)
    LISTED.write_text(f"VERSION=1.1.1\nIDTYPE=devname IDNAME={FREE} DEVNAME={FREE} PVID=.\n")
    told = look(POOL, settings="use_devicesfile = 1\nscan_lvs = 1")
    assert told.found == [f"LVM looks at the devices in {LISTED}, and at no other."]
    assert told.hints == []
    (problem,) = told.problems
    assert f"(vgimportdevices {GROUP})" in problem


def test_a_group_that_is_shared_needs_lvmlockd(look: Callable[..., Any], tmp_path: Path) -> None:
    text = tmp_path / "metadata"
    program("vgcfgbackup", "-f", str(text), GROUP)
    program("vgchange", "-an", GROUP)  # of a shared group nothing can be deactivated without lvmlockd
    shared = text.read_text().replace(
        'format = "lvm2"', 'format = "lvm2"\nlock_type = "dlm"\nlock_args = "1.0.0:bed"', 1
    )
    text.write_text(shared)
    program("vgcfgrestore", "-f", str(text), GROUP)
    (problem,) = look(POOL).problems
    assert f"The volume group {GROUP} of pool fast is shared between hosts, and lvmlockd does not run here" in problem
