# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Every suite over every bed; ``--backend file`` picks one backend."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from .beds import GROUNDS, Bed


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--backend", choices=sorted({ground.backend for ground in GROUNDS.values()}), help="only this backend's tests"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "promise(name): needs what some backends are excused from (see beds.py)")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "bed" in metafunc.fixturenames:
        backend = metafunc.config.getoption("--backend")
        grounds = [
            name
            for name, ground in GROUNDS.items()
            if backend == ground.backend or (backend is None and not ground.elsewhere)
        ]
        metafunc.parametrize("bed", grounds, indirect=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what a backend is excused from: these are not skipped, they do not apply."""
    left_out = []
    for item in items:
        if hasattr(item, "callspec") and "bed" in item.callspec.params:
            needed = {name for mark in item.iter_markers("promise") for name in mark.args}
            if needed & GROUNDS[item.callspec.params["bed"]].excused.keys():
                left_out.append(item)
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session")
def grounds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Path]]:
    """The grounds that this session needs, each prepared when it is first asked for."""
    with ExitStack() as stack:
        prepared: dict[str, Path] = {}

        def prepare(name: str) -> Path:
            if name not in prepared:
                prepared[name] = stack.enter_context(GROUNDS[name].prepare(tmp_path_factory.mktemp(name)))
            return prepared[name]

        yield prepare


@pytest.fixture
def bed(request: pytest.FixtureRequest, grounds: Callable[[str], Path]) -> Iterator[Bed]:
    """An empty pool."""
    folder = grounds(request.param) / "pool"
    with GROUNDS[request.param].bed(folder) as made:
        yield made
