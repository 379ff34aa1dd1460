# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Many volumes at once: fewer starts of LVM, and what they cost beside a loop of its own programs."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

import pytest
from contract.beds import MIB, POOL, program
from contract.lvm_bed import GROUP, LvmBed
from contract.test_volumes import DATA, filled, recorded

from ansible_collections.virt.storage.plugins.module_utils._backends.lvm_thin import ThinVolumes
from ansible_collections.virt.storage.plugins.module_utils._backends.perform import Parts, Performer
from ansible_collections.virt.storage.plugins.module_utils._ground.command import Limits, Runner, Running
from ansible_collections.virt.storage.plugins.module_utils._ground.contents import Literal

CLONES = 12
LIMITS = Limits(wall_seconds=3000, address_space=None)
MANY = 2000 if os.environ.get("VIRT_STORAGE_FULL") == "1" else 200


class Counting(Runner):
    """Counts the programs that it starts."""

    count = 0

    def start(self, argv: Sequence[str], **options: Any) -> Running:
        self.count += 1
        return super().start(argv, **options)


def test_a_batch_starts_lvm_three_times(thin: LvmBed) -> None:
    """However many clones there are. What that spares is told beside a loop of ``lvcreate -s``, turn by turn: in an
    emulated machine it is little, for most of both is udev's work on each new device."""
    image = filled(thin, Literal(lambda: DATA))
    runner = Counting()
    volumes = ThinVolumes(thin.parts.volumes.group, runner)
    thin.perform = Performer({POOL: Parts(thin.parts.records, volumes)})
    ours, theirs = [], []
    for turn in range(3):
        began = time.monotonic()
        names = [f"{GROUP}/loop{turn}-{number}" for number in range(CLONES)]
        for name in names:
            program("lvcreate", "-q", "-y", "-s", "-kn", "-ay", "--addtag", "loop", "-n", name, f"{GROUP}/{image.name}")
        theirs.append(time.monotonic() - began)
        disks = [recorded(thin, thin.disk(f"i{turn}-{number}")) for number in range(CLONES)]
        runner.count = 0
        began = time.monotonic()
        ended = thin.do_all([thin.volumes.clone(image, disk, MIB, "snapshot") for disk in disks])
        ours.append(time.monotonic() - began)
        assert [each.unwrap().kind for each in ended] == ["done"] * CLONES
        assert runner.count == 3
        program("lvremove", "-y", *names)
        assert all(thin.do_all([thin.volumes.remove(disk) for disk in disks]))
    print(f"{CLONES} clones: a loop {min(theirs):.1f} s, at once {min(ours):.1f} s ({theirs}, {ours})")


@pytest.mark.timeout(3600)
def test_a_listing_of_many_volumes_is_linear(thin: LvmBed) -> None:
    """Volumes that are recorded by nobody and not active, which is how most stand in a large group."""
    seconds = {}
    for total in (MANY // 10, MANY):
        start = len(thin.do(thin.volumes.inventory()))
        script = "\n".join(
            f"lvcreate -An -y -an -kn --type thin -V 1m --thinpool virt-storage-pool -n m{number} {GROUP}"
            for number in range(start, total)
        )
        Runner().run(["lvm"], limits=LIMITS, input=script + "\n", ok=range(256))
        began = time.monotonic()
        assert len(thin.do(thin.volumes.inventory())) == total
        seconds[total] = time.monotonic() - began
    print(f"listing: {seconds}; metadata of the group: {program('vgs', '--noheadings', '-o', 'vg_mda_free', GROUP)}")
    assert seconds[MANY] < 10 * seconds[MANY // 10] + 2
