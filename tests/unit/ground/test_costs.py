# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a source costs, where that cannot be told. What it is where it can, is tried with the modules (integration)."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from ansible_collections.virt.storage.plugins.module_utils._ground.bounds import Bounds
from ansible_collections.virt.storage.plugins.module_utils._ground.command import Runner
from ansible_collections.virt.storage.plugins.module_utils._ground.costs import Cost, cost_of_source
from ansible_collections.virt.storage.plugins.module_utils._ground.sources import SourceSpec

MIB = 1 << 20
BOUNDS = Bounds(1 << 30, 1 << 30)


def test_an_image_in_more_pieces_than_can_be_read_costs_what_only_a_run_can_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, program = tmp_path / "image.qcow2", tmp_path / "qemu-img"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), str(MIB)], check=True)
    spec, size = SourceSpec(str(path), "qcow2"), path.stat().st_size
    assert cost_of_source(spec, BOUNDS, Runner()) == Cost(size, 0, MIB)
    extent = '{ "start": 0, "length": 65536, "depth": 0, "present": true, "zero": false, "data": true},'
    program.write_text(f"#!/bin/sh\necho '['; yes '{extent}' | head -n 200000; echo '{extent[:-1]}]'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert cost_of_source(spec, BOUNDS, Runner()) == Cost(size, None, None)
