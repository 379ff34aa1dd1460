# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Disks in a volume group, made by Nova's own code: in a machine of ``./dev vm``, for that needs the device mapper."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from crash.tally import Tally
from lvm.conftest import LvmMachine, lvm_machine

from .conftest import RELEASES, install, python_of

__all__ = ["lvm_machine"]  # a fixture
LIMIT = 5 * 3600 if os.environ.get("VIRT_STORAGE_FULL") == "1" else 3500
"""Seconds: the long form kills at every step, not only at those of the journal and some more."""
DISTRIBUTION = Path("/usr/lib/python3/dist-packages")


def send(machine: LvmMachine, version: str) -> None:
    """Have a release of Nova in the machine, with what it takes from this host, which is of the same distribution."""
    place = f"/opt/nova/{version}"
    if machine.machine.ssh(f"test -e {place}/complete", check=False).returncode == 0:
        return
    install(version)
    packages = next((python_of(version).parents[1] / "lib").glob("python3.*/site-packages"))
    for folder in (packages, DISTRIBUTION):
        packed = subprocess.run(
            [
                "tar",
                "-C",
                folder.parent,
                "-I",
                "gzip -1",
                "-cf",
                "-",
                "--exclude=tests",
                "--exclude=locale*",
                folder.name,
            ],
            capture_output=True,
            check=True,
        )
        machine.machine.ssh(f"mkdir -p {place} && tar -C {place} -xzf -", data=packed.stdout, timeout=600)
    machine.machine.ssh(f"touch {place}/complete")


@pytest.mark.timeout(LIMIT + 600)
def test_inside(lvm_machine: LvmMachine, tally: Tally) -> None:
    for version in RELEASES:
        send(lvm_machine, version)
    lvm_machine.passes("tests/conversion/inside/test_volumes.py", "-s", timeout=LIMIT)
    for backend, task, where, kills in json.loads(lvm_machine.results("kills")):
        tally.add(backend, task, where, kills)
