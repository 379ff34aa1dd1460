# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The shape of the code, as docs/architecture.md has it: layers, imports that point down, modules that only declare."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PLUGINS = ROOT / "plugins"
UTILS = PLUGINS / "module_utils"

LAYERS = ("_tasks", "_algorithms", "_backends", "_records", "_policy", "_ground")
"""From the top down; a layer may import itself and those after it."""
NARROWER = {"_policy": {"_ground.errors"}}
"""Layers of which only some files may be imported from above: what ``_policy`` may import beside itself."""
SHARED_BACKENDS = {"_backends.contract"}
"""What the algorithms may know of the backends: never one of them."""

VAGUE = ("common", "helper", "manager", "misc", "util")
LONGEST_FILE = 420
LONGEST_FUNCTION = 60
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)

FILES = sorted(UTILS.rglob("*.py"))


def dotted(path: Path) -> str:
    """The name of a file below module_utils: ``_ground.errors``."""
    return ".".join(path.relative_to(UTILS).with_suffix("").parts)


def imported(name: str, tree: ast.AST) -> Iterator[str]:
    """The files of module_utils that the file called ``name`` imports, however it spells it."""
    known = {dotted(path) for path in FILES}
    for node in ast.walk(tree):
        targets = []
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = name.split(".")[: -node.level] if node.level else []
            stem = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            targets = [f"{stem}.{alias.name}".strip(".") for alias in node.names]
        for target in targets:
            inside = target.split("plugins.module_utils.", 1)[-1]
            # "from a import b" names the file a.b, or the thing b in the file a.
            for candidate in (inside, inside.rpartition(".")[0]):
                if candidate in known:
                    yield candidate
                    break


IMPORTS = {dotted(path): sorted(set(imported(dotted(path), ast.parse(path.read_text("utf-8"))))) for path in FILES}


def layer(name: str) -> str:
    """The layer of a file below module_utils."""
    return name.split(".", 1)[0]


def permitted(importer: str, target: str) -> bool:
    """Whether one file of module_utils may import another."""
    above, below = layer(importer), layer(target)
    if above != below and above in NARROWER:
        return target in NARROWER[above]
    if above == "_algorithms" and below == "_backends":
        return target in SHARED_BACKENDS
    return LAYERS.index(above) <= LAYERS.index(below)


def test_there_is_something_to_look_at() -> None:
    assert {layer(name) for name in IMPORTS} == set(LAYERS)
    assert sum(len(targets) for targets in IMPORTS.values()) > len(LAYERS)


@pytest.mark.parametrize(
    ("importer", "target", "may"),
    [
        ("_tasks.pools", "_algorithms.cache", True),
        ("_algorithms.cache", "_tasks.pools", False),
        ("_algorithms.cache", "_backends.contract", True),
        ("_algorithms.cache", "_backends.file", False),
        ("_policy.plan", "_ground.errors", True),
        ("_policy.plan", "_ground.locks", False),
        ("_ground.locks", "_policy.plan", False),
    ],
)
def test_the_rule_itself(importer: str, target: str, may: bool) -> None:
    assert permitted(importer, target) is may


@pytest.mark.parametrize(
    "line",
    [
        "from .errors import StorageError",
        "from . import errors",
        "from .._ground import errors",
        "from .._ground.errors import StorageError",
        "import ansible_collections.virt.storage.plugins.module_utils._ground.errors",
        "from ansible_collections.virt.storage.plugins.module_utils._ground import errors",
        "from ansible_collections.virt.storage.plugins.module_utils._ground.errors import StorageError",
        "def late():\n    from .errors import StorageError",
    ],
)
def test_every_spelling_of_an_import_is_seen(line: str) -> None:
    assert list(imported("_ground.locks", ast.parse(line))) == ["_ground.errors"]


def test_every_file_is_in_a_layer() -> None:
    assert [name for name in IMPORTS if layer(name) not in LAYERS or "." not in name] == []


def test_imports_point_down() -> None:
    upward = [
        f"{importer} imports {target}"
        for importer, targets in IMPORTS.items()
        for target in targets
        if not permitted(importer, target)
    ]
    assert upward == []


def test_imports_have_no_cycle() -> None:
    graphlib.TopologicalSorter(IMPORTS).prepare()


def test_names_say_something() -> None:
    vague = [name for name in IMPORTS for word in VAGUE if word in name.rpartition(".")[2].lower()]
    assert vague == []


@pytest.mark.parametrize("path", FILES, ids=dotted)
def test_nothing_is_too_long_to_be_one_thing(path: Path) -> None:
    text = path.read_text("utf-8")
    assert len(text.splitlines()) <= LONGEST_FILE
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, FUNCTIONS)]
    assert {each.name: lines(each) for each in functions if lines(each) > LONGEST_FUNCTION} == {}


def lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """How many lines a definition takes."""
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


def objections(source: str) -> Iterator[str]:
    """What a module of the collection does beside documenting, declaring its arguments and one call into _tasks."""
    tree = ast.parse(source)
    assigned = {target.id for node in tree.body if isinstance(node, ast.Assign) for target in node.targets}
    for name in sorted({"DOCUMENTATION", "EXAMPLES", "RETURN"} - assigned):
        yield f"has no {name}"
    defined = [node.name for node in ast.walk(tree) if isinstance(node, DEFINITIONS)]
    if defined != ["main"]:
        yield f"defines {', '.join(defined) or 'nothing'}"
    ours = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and "module_utils." in (node.module or ""):
            ours.update(alias.asname or alias.name for alias in node.names)
            if "virt.storage.plugins.module_utils._tasks." not in node.module:
                yield f"imports from {node.module}"
    calls = [node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    if len([name for name in calls if name in ours]) != 1:
        yield f"calls {', '.join(calls) or 'nothing'}"


DEFINITIONS = (*FUNCTIONS, ast.ClassDef, ast.Lambda)
DECLARES = """
from ansible_collections.virt.storage.plugins.module_utils._tasks.module import run_module
from ansible_collections.virt.storage.plugins.module_utils._tasks.pools import pools
DOCUMENTATION = EXAMPLES = RETURN = ""
def main():
    run_module({"name": {"type": "str"}}, pools)
if __name__ == "__main__":
    main()
"""


def test_a_module_may_declare_and_call() -> None:
    assert list(objections(DECLARES)) == []


@pytest.mark.parametrize(
    ("was", "now", "objection"),
    [
        ("EXAMPLES = ", "", "has no EXAMPLES"),
        ("def main", "def decide(): pass\ndef main", "defines decide, main"),
        ("._tasks.pools", "._algorithms.cache", "imports from "),
        ("    run_module(", "    pools()\n    run_module(", "calls pools, run_module, main"),
    ],
)
def test_a_module_that_does_more_is_found(was: str, now: str, objection: str) -> None:
    (found,) = objections(DECLARES.replace(was, now))
    assert found.startswith(objection)


def test_modules_only_declare_and_call() -> None:
    modules = sorted((PLUGINS / "modules").glob("*.py"))
    assert [f"{path.name} {text}" for path in modules for text in objections(path.read_text("utf-8"))] == []


def test_every_file_of_module_utils_says_that_it_is_private() -> None:
    note = "# Note that this module util is PRIVATE to the collection."
    assert [dotted(path) for path in FILES if note not in path.read_text("utf-8")] == []
