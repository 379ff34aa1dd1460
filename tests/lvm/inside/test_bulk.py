# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Many volumes at once: fewer starts of LVM, and what they cost beside a loop of its own programs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from contract.beds import MIB, POOL, program
from contract.lvm_bed import GROUP, LvmBed
from contract.test_volumes import DATA, filled, recorded

from ansible_collections.virt.storage.plugins.module_utils._backends.lvm_thin import ThinVolumes
from ansible_collections.virt.storage.plugins.module_utils._backends.perform import Parts, Performer
from ansible_collections.virt.storage.plugins.module_utils._ground.command import Runner, Running
from ansible_collections.virt.storage.plugins.module_utils._ground.contents import Literal

CLONES = 12


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
