# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Modules find a Python that has what they import, or say what is missing."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.fixture
def bare_python(tmp_path):
    """An interpreter that sees no package at all."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True)
    python = str(tmp_path / "bare" / "bin" / "python")
    assert subprocess.run([python, "-c", "import libvirt"], check=False, capture_output=True).returncode
    return python


@pytest.fixture
def no_bindings(tmp_path, task):
    """Modules on a host on which no Python can import libvirt."""
    (tmp_path / "libvirt.py").write_text("raise ImportError('not installed')\n")
    environment = {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}:{task.tree}"}
    return type(task)(environment=environment)


def test_a_module_moves_to_a_python_that_has_the_bindings(play, bare_python, new_pool):
    pool = {"virt.storage.libvirt_pool": {"type": "dir", **new_pool}, "name": "pool"}
    made, again = play([pool, pool], python=bare_python)
    assert made.get("pool", {}).get("state") == "active", made
    assert again["changed"] is False


def test_it_moves_with_arguments_that_no_pipe_holds(play, bare_python, new_pool):
    labels = {f"label{number}": "x" * 100 for number in range(3000)}
    pool = {"virt.storage.libvirt_pool": {"type": "dir", "labels": labels, **new_pool}, "name": "pool"}
    (made,) = play([pool], python=bare_python)
    assert made.get("pool", {}).get("labels") == labels, made.get("msg")


def test_without_any_such_python_the_package_is_named(no_bindings, new_pool):
    with pytest.raises(AssertionError, match="install python3-libvirt with apt or dnf"):
        no_bindings("libvirt_pool", type="dir", **new_pool)


def test_without_any_such_python_check_mode_predicts_from_nothing(no_bindings, new_pool):
    foreseen = no_bindings("libvirt_pool", check=True, type="dir", **new_pool)
    assert foreseen["actions"][0].startswith("define pool")
    assert "python3-libvirt" in str(foreseen["warnings"])
    assert no_bindings("libvirt_pool_info", check=True)["pools"] == []
