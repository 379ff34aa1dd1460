# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The scenario ``lvm`` of molecule, over ssh."""

from __future__ import annotations

import pytest
from common import copy
from suites import run_scenario

from .conftest import LvmMachine, cleared

GROUPS = {"molecule-thin": "/dev/disk/by-id/virtio-data", "molecule-thick": "/dev/disk/by-id/virtio-shared"}


@pytest.mark.timeout(2400)
def test_molecule(lvm_machine: LvmMachine) -> None:
    try:
        run_scenario("lvm", copy("molecule-lvm"), {"VIRT_STORAGE_VM": str(lvm_machine.machine.folder)}, timeout=2300)
    finally:
        cleared(lvm_machine.machine, GROUPS)
