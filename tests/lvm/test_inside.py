# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What runs in the machine, a file at a time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from .conftest import REPO, LvmMachine

INSIDE = Path(__file__).parent / "inside"
LIMIT = 5 * 3600 if os.environ.get("VIRT_STORAGE_FULL") == "1" else 3500
"""Seconds: the long form kills at every program."""
COUNTED = {"test_killed.py": "kills", "test_frozen.py": "freezes"}
"""Files whose counts go into docs/crash-matrix.md."""


@pytest.mark.timeout(LIMIT + 100)
@pytest.mark.parametrize("name", sorted(path.name for path in INSIDE.glob("test_*.py")))
def test_inside(lvm_machine: LvmMachine, name: str) -> None:
    lvm_machine.passes(f"tests/lvm/inside/{name}", timeout=LIMIT)
    if name in COUNTED:
        told = lvm_machine.results(COUNTED[name])
        (REPO / ".work" / "results" / f"{COUNTED[name]}-lvm.json").write_text(told, encoding="utf-8")
