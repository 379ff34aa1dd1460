# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What runs in the machine, a file at a time."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import LvmMachine

INSIDE = Path(__file__).parent / "inside"


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", sorted(path.name for path in INSIDE.glob("test_*.py")))
def test_inside(lvm_machine: LvmMachine, name: str) -> None:
    lvm_machine.passes(f"tests/lvm/inside/{name}", timeout=3500)
