# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The reset button, in the midst of a fill and afterwards: the group comes up, every disk that was acknowledged reads
back, and what was begun is cleared away."""

from __future__ import annotations

import pytest

from .conftest import LvmMachine

SETUP = """
import os
from pathlib import Path
from contract import lvm_bed
ground = lvm_bed.prepared(Path("/"))
ground.__enter__()
os._exit(0)  # an ordinary end would take the group away
"""


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("kind", ["thin", "thick"])
def test_reset_in_mid_fill(lvm_machine: LvmMachine, kind: str) -> None:
    machine, work = lvm_machine.machine, f"{lvm_machine.place}/tests/lvm/inside/work.py"
    path = f"PYTHONPATH=/opt/tree:{lvm_machine.place}/tests"

    def task(*words: str) -> str:
        code, said = lvm_machine.run("python3", "-B", work, kind, *words, timeout=300)
        assert code == 0, said[-3000:]
        return said

    code, said = lvm_machine.run("python3", "-B", "-c", SETUP, timeout=300)
    assert code == 0, said
    try:
        assert "done" in task("make", "one", "two")
        with machine.spawn(f"{path} python3 -B {work} {kind} fill") as filling:
            for _piece in range(3):
                assert filling.stdout is not None
                assert filling.stdout.readline() == "filling\n"
            machine.reset()
            filling.kill()
        assert "at rest" in task("check", "one", "two")
        assert "done" in task("make", "one", "two", "three")
        machine.reset()
        assert "at rest" in task("check", "one", "two", "three")
    finally:
        lvm_machine.run("python3", "-B", "-c", "from contract import lvm_bed; lvm_bed.wiped()", timeout=120)
