# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Power failures, in a machine of ``./dev vm``: recording what reaches a device needs the device mapper."""

from __future__ import annotations

import os

import pytest
from lvm.conftest import LvmMachine, lvm_machine

__all__ = ["lvm_machine"]  # a fixture
LIMIT = 4 * 3600 if os.environ.get("VIRT_STORAGE_FULL") == "1" else 3500
"""Seconds: the long form takes every barrier instead of every fifth."""


@pytest.mark.timeout(LIMIT + 60)
@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_inside(lvm_machine: LvmMachine, kind: str) -> None:
    lvm_machine.passes("tests/power/inside/test_power_loss.py", "-s", "-k", kind, timeout=LIMIT)
