# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""LVM is tried in a machine of ``./dev vm`` (docs/testbed.md), for it needs the device mapper. What stands in
``inside`` runs in the machine; what stands here starts that, and does to the machine what cannot be done from within.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO / "dev.d"))

from vm_machine import TREE, Machine, machines  # noqa: E402

collect_ignore = ["inside"]


@dataclass(frozen=True)
class LvmMachine:
    """A machine with the tree in it, and a blank disk for a volume group."""

    machine: Machine
    place: str

    def run(self, *words: str, timeout: float) -> tuple[int, str]:
        """Run a program in the tree's root there; its exit code and all that it said."""
        path = f"{TREE}:{self.place}/tests:{self.place}/tests/lvm/inside"
        form = f"VIRT_STORAGE_FULL={os.environ.get('VIRT_STORAGE_FULL', '')}"
        command = f"cd {self.place} && PYTHONPATH={path} {form} {shlex.join(words)} 2>&1"
        done = self.machine.ssh(command, check=False, timeout=timeout)
        return done.returncode, done.stdout

    def passes(self, *words: str, timeout: float) -> None:
        """Run pytest there; every test it is given has to pass. What they measured is printed."""
        argv = ["python3", "-B", "-m", "pytest", "-q", "-x", "-rP", "--durations=5", "--timeout=900", *words]
        code, said = self.run(*argv, timeout=timeout)
        print(said)
        assert code == 0, said[-6000:]

    def results(self, name: str) -> str:
        """What the tests that have just passed there counted under that name, as JSON."""
        return self.machine.ssh(f"cat {self.place}/.work/results/{name}.json").stdout


@pytest.fixture(scope="session")
def lvm_machine() -> Iterator[LvmMachine]:
    """Started for the session, unless ``./dev vm up`` was there before."""
    with machines(1) as (machine,):
        place = machine.send_tree()
        # Where a checkout has its namespaced folder.
        machine.ssh(f"mkdir -p {place}/.work && ln -sfn {TREE} {place}/.work/tree")
        yield LvmMachine(machine, place)


def cleared(machine: Machine, groups: dict[str, str]) -> None:
    """Neither pools nor groups of these names, whatever a run left; each group's device is blank again."""
    for name, device in groups.items():
        machine.ssh(
            f"mountpoint -q /run/virt-storage/{name} && umount /run/virt-storage/{name}\n"
            f"for verb in destroy undefine; do virsh -q pool-$verb {name}; done 2>/dev/null\n"
            f"vgs {name} >/dev/null 2>&1 && vgremove -qq -y -ff {name}\n"
            f"wipefs -q --all --force {device} && blkdiscard -z -l {4 << 20} {device}",
            timeout=180,
        )
