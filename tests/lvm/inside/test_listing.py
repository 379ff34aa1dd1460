# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What it takes to see many volumes. ``VIRT_STORAGE_FULL=1`` makes 2,000 of them, for which LVM takes half an hour in
an emulated machine: it writes all of the group's metadata for each."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from contract.beds import program
from contract.lvm_bed import GROUP, LvmBed, prepared

from ansible_collections.virt.storage.plugins.module_utils._ground.command import Limits, Runner

LIMITS = Limits(wall_seconds=3000, address_space=None)
MANY = 2000 if os.environ.get("VIRT_STORAGE_FULL") == "1" else 200


@pytest.fixture(scope="module", autouse=True)
def ground() -> Iterator[None]:
    """The group, which goes as a whole: to remove so many volumes takes as long as to make them."""
    with prepared(Path("/")):
        yield


@pytest.mark.timeout(3600)
def test_a_listing_of_many_volumes_is_linear() -> None:
    """Volumes that are recorded by nobody and not active, which is how most stand in a large group."""
    thin = LvmBed("thin")
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
