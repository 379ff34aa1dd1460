# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The parts that run code: pytest over a folder of ``tests/``, and molecule over its scenarios."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import ceph
import crash_matrix
from common import ROOT, VENV, Trouble, copy, home, libvirtd, run, say, venv, venv_env
from results import FOLDER, Result, count_junit


@dataclass(frozen=True)
class Suite:
    """A folder of tests, and whether they touch the machine: then they run as root and with libvirtd."""

    folder: str
    machine: bool = False


SUITES = {
    "unit": Suite("tests/unit"),
    "contract": Suite("tests/contract", machine=True),
    "interleavings": Suite("tests/explorer"),
    "integration": Suite("tests/integration", machine=True),
    "crash": Suite("tests/crash", machine=True),
    "conversion": Suite("tests/conversion", machine=True),
    "netfs": Suite("tests/netfs", machine=True),
    "lvm": Suite("tests/lvm", machine=True),
    "power": Suite("tests/power", machine=True),
}

SCENARIOS = ROOT / "extensions" / "molecule"
ON_A_MACHINE = {"lvm"}
"""Scenarios for a machine of ``./dev vm``: the part of that name runs them."""


def run_suite(name: str, result: Result, *, full: bool, extra: list[str], timeout: float) -> None:
    """Run the tests of one folder; ``extra`` goes to pytest as it is, ``timeout`` is in seconds."""
    suite = SUITES[name]
    report = FOLDER / f"{name}.xml"
    FOLDER.mkdir(parents=True, exist_ok=True)
    report.unlink(missing_ok=True)
    words = [venv(), "-m", "pytest", suite.folder, f"--junitxml={report}", *extra]
    with libvirtd() if suite.machine else contextlib.nullcontext():
        env = {**venv_env(), **_wanted(full)}
        finished = run(words, root=suite.machine, env=env, check=False, timeout=timeout)
    count_junit(result, report, finished.returncode)
    if name in crash_matrix.PARTS and full and "-k" not in extra and not result.failures:
        crash_matrix.write(name)


def run_molecule(result: Result, *, full: bool, extra: list[str], timeout: float) -> None:
    """Run the scenarios of ``extensions/molecule`` that this machine is enough for; the others are in other parts."""
    scenarios = sorted({path.parent.name for path in SCENARIOS.glob("*/molecule.yml")} - ON_A_MACHINE)
    if not scenarios:
        result.count("molecule", "there is no scenario in extensions/molecule")
    place = copy("molecule")
    with libvirtd(), ceph.cluster():
        for scenario in scenarios:
            env = {**_wanted(full), "VIRT_STORAGE_CEPH": str(ceph.FOLDER)}
            try:
                run_scenario(scenario, place, env, extra, timeout)
            except Trouble as trouble:
                result.count(scenario, str(trouble))
            else:
                result.count(scenario)


def run_scenario(
    name: str, place: Path, env: Mapping[str, str], extra: Sequence[str] = (), timeout: float = 3600
) -> None:
    """Run a scenario of molecule on ``place``, a copy of the collection as it is shipped; Trouble where it fails."""
    say(f"molecule: {name}")
    venv()
    shipped = {"ANSIBLE_COLLECTIONS_PATH": str(place.parents[2]), "HOME": str(home())}
    words = [VENV / "bin" / "molecule", "test", "--scenario-name", name, *extra]
    run(words, root=True, cwd=place, env={**venv_env(), **shipped, **env}, timeout=timeout)


def _wanted(full: bool) -> dict[str, str]:
    """How tests learn that they are run as a whole, and whether their long form is wanted."""
    return {"VIRT_STORAGE_TRACE": "1", **({"VIRT_STORAGE_FULL": "1"} if full else {})}
