# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What was killed in this run: told at its end, and kept for the table in docs/crash-matrix.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from .tally import Freezes, Tally

FOLDER = Path(__file__).parents[2] / ".work" / "results"


@pytest.fixture(scope="session")
def tally(request: pytest.FixtureRequest) -> Iterator[Tally]:
    """To be told of every kill whose task converged."""
    counted = Tally()
    yield counted
    if not request.session.testsfailed:
        counted.keep(FOLDER / "kills-crash.json")
        backends: Counter[str] = Counter()
        for (backend, _task, _where), kills in counted.kills.items():
            backends[backend] += kills
        told = ", ".join(f"{kills} on {backend}" for backend, kills in sorted(backends.items()))
        say(request, f"crash: {sum(counted.kills.values())} kill points ({told}), 0 lost, all converged")


@pytest.fixture(scope="session")
def freezes(request: pytest.FixtureRequest) -> Iterator[Freezes]:
    """To be told of every freeze after which all held."""
    counted = Freezes()
    yield counted
    if not request.session.testsfailed:
        counted.keep(FOLDER / "freezes-crash.json")
        say(request, f"crash: {counted.told}")


def say(request: pytest.FixtureRequest, line: str) -> None:
    """Print a line that pytest does not keep to itself."""
    capture = request.config.pluginmanager.getplugin("capturemanager")
    assert capture is not None
    with capture.global_and_fixture_disabled():
        print(f"\n{line}")
