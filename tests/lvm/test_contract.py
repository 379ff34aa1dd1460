# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The contracts on thin and on thick volumes."""

from __future__ import annotations

import pytest

from .conftest import LvmMachine


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", ["thin", "thick"])
def test_the_contracts_are_kept(lvm_machine: LvmMachine, kind: str) -> None:
    suites = [f"tests/contract/test_{name}.py" for name in ("store", "volumes")]
    lvm_machine.passes(*suites, "--backend", f"lvm-{kind}", timeout=3500)
