# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The parts that run code: pytest over a folder of ``tests/``, and molecule over its scenarios."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

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
}

SCENARIOS = ROOT / "extensions" / "molecule"


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
    if name == "crash" and full and "-k" not in extra and not result.failures:
        crash_matrix.write()


def run_molecule(result: Result, *, full: bool, extra: list[str], timeout: float) -> None:
    """Run every scenario of ``extensions/molecule`` on this machine, on a copy of the collection as it is shipped."""
    scenarios = sorted(path.parent.name for path in SCENARIOS.glob("*/molecule.yml"))
    if not scenarios:
        result.count("molecule", "there is no scenario in extensions/molecule")
    venv()
    place = copy("molecule")
    shipped = {"ANSIBLE_COLLECTIONS_PATH": str(place.parents[2]), "HOME": str(home())}
    with libvirtd(), ceph.cluster():
        for scenario in scenarios:
            say(f"molecule: {scenario}")
            words = [VENV / "bin" / "molecule", "test", "--scenario-name", scenario, *extra]
            env = {**venv_env(), **shipped, **_wanted(full), "VIRT_STORAGE_CEPH": str(ceph.FOLDER)}
            try:
                run(words, root=True, cwd=place, env=env, timeout=timeout)
            except Trouble as trouble:
                result.count(scenario, str(trouble))
            else:
                result.count(scenario)


def _wanted(full: bool) -> dict[str, str]:
    """How tests learn that they are run as a whole, and whether their long form is wanted."""
    return {"VIRT_STORAGE_TRACE": "1", **({"VIRT_STORAGE_FULL": "1"} if full else {})}
