# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What runs in the machine: the group of the contract's bed, thin and thick."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from contract.lvm_bed import LvmBed, fresh_bed, prepared
from crash.scenarios import MIB, Sources
from group_pool import on_the_group


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "promise(name): of the suites of tests/contract, which are borrowed from here")


@pytest.fixture(scope="session", autouse=True)
def ground() -> Iterator[None]:
    with prepared(Path("/")):
        yield


@pytest.fixture
def thin() -> Iterator[LvmBed]:
    with fresh_bed("thin") as bed:
        yield bed


@pytest.fixture
def thick() -> Iterator[LvmBed]:
    with fresh_bed("thick") as bed:
        yield bed


@pytest.fixture(params=["thin", "thick"])
def bed(request: pytest.FixtureRequest) -> Iterator[LvmBed]:
    with fresh_bed(request.param) as made:
        yield made


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    """What images are made of, for the tasks of ``tests/crash``."""
    return Sources(tmp_path_factory.mktemp("sources"), 8 * MIB, 2 * MIB)


@pytest.fixture
def on_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes of ``crash`` open pools in the group."""
    on_the_group(monkeypatch)
