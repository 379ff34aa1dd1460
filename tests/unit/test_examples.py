# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Every example that is shown, in the pages, the modules and the examples folder, fits the interfaces that there are.

Values in braces are not computed: something of the right type stands in for them. The pages themselves are looked at,
too: nothing that a deployer can use goes unnamed, and no page is out of reach.
"""

from __future__ import annotations

import copy
import importlib
import re
import shlex
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import pytest
import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

ROOT = Path(__file__).resolve().parents[2]
OURS = "virt.storage."
MODULES = sorted(path.stem for path in (ROOT / "plugins" / "modules").glob("*.py"))
PLAYBOOKS = sorted(path.stem for path in (ROOT / "playbooks").glob("*.yml"))
README = ROOT / "README.md"
PAGES = [
    README,
    ROOT / "CONTRIBUTING.md",
    *sorted(ROOT.glob("docs/**/*.md")),
    *sorted(ROOT.glob("roles/*/README.md")),
]
SHIPPED = [
    *sorted(ROOT.glob("docs/examples/**/*.yml")),
    *sorted(ROOT.glob("playbooks/*.yml")),
    *sorted(ROOT.glob("roles/*/tasks/*.yml")),
]

STAND_INS = {"bool": True, "int": 1, "float": 1.0, "list": [], "dict": {}, "path": "/x", "str": "x", "raw": "x"}
RULES = ("mutually_exclusive", "required_together", "required_one_of", "required_if", "required_by")
BLOCKS = ("pre_tasks", "tasks", "post_tasks", "block", "rescue")
PLAY = {"hosts", "ansible.builtin.import_playbook"}


class Example(NamedTuple):
    """A piece of YAML, and where it stands."""

    where: str
    text: str


def examples() -> Iterator[Example]:
    """All of them."""
    for page in PAGES:
        text = page.read_text("utf-8")
        for match in re.finditer(r"^( *)```yaml\n(.*?)^\1```$", text, re.MULTILINE | re.DOTALL):
            line = text.count("\n", 0, match.start()) + 1
            yield Example(f"{page.relative_to(ROOT)}:{line}", textwrap.dedent(match.group(2)))
    for name in MODULES:
        module = importlib.import_module(f"ansible_collections.virt.storage.plugins.modules.{name}")
        yield Example(f"plugins/modules/{name}.py", module.EXAMPLES)
    for path in SHIPPED:
        yield Example(str(path.relative_to(ROOT)), path.read_text("utf-8"))


EXAMPLES = list(examples())


def spec_of(name: str, monkeypatch: pytest.MonkeyPatch) -> ArgumentSpecValidator:
    """The argument spec with which a module calls `run_module`."""
    module = importlib.import_module(f"ansible_collections.virt.storage.plugins.modules.{name}")
    seen = {}

    def note(argument_spec: Mapping[str, Any], _task: object, _requires: object = (), **options: Any) -> None:
        rules = {name: rule for name, rule in options.items() if name in RULES}
        seen["spec"] = ArgumentSpecValidator(dict(argument_spec), **rules)

    monkeypatch.setattr(module, "run_module", note)
    module.main()
    return seen["spec"]


def role_spec(name: str) -> dict[str, Any]:
    """The variables of a role."""
    specs = yaml.safe_load((ROOT / "roles" / name / "meta" / "argument_specs.yml").read_text("utf-8"))
    return dict(specs["argument_specs"]["main"]["options"])


ROLES = {path.name: role_spec(path.name) for path in sorted((ROOT / "roles").iterdir()) if path.is_dir()}
VARIABLES = {
    **{name: spec for role in ROLES.values() for name, spec in role.items()},
    "virt_storage_disk_flavor": {"type": "str"},
    "virt_storage_disk_pool": {"type": "str"},
    "virt_storage_disks": {"type": "list", "elements": "dict"},
    "virt_storage_hosts": {"type": "raw"},
    "virt_storage_pools": {"type": "list", "elements": "str"},
    "storage_layout_base_format": {"type": "str", "choices": ["raw", "qcow2"]},
    "storage_layout_final": {"type": "bool"},
    "storage_layout_flattened": {"type": "bool"},
    "storage_layout_formats": {"type": "dict"},
    "storage_layout_instances": {"type": "list", "elements": "str"},
    "storage_layout_kind": {"type": "str", "choices": ["nova", "folder"]},
    "storage_layout_path": {"type": "path"},
    "storage_layout_pool": {"type": "str"},
    "storage_layout_strict": {"type": "bool"},
}
OWN = ("storage_pool_", "image_cache_", "virt_storage_", "storage_layout_")
"""How the names of our variables begin."""


def settled(value: Any, spec: Mapping[str, Any]) -> Any:
    """``value`` with a stand-in for everything that Ansible would compute."""
    if isinstance(value, str) and "{{" in value:
        choices = spec.get("choices")
        return choices[0] if choices else copy.copy(STAND_INS[spec.get("type", "str")])
    options = spec.get("options", {})
    if isinstance(value, dict) and options:
        return {name: settled(each, options.get(name, {})) for name, each in value.items()}
    if isinstance(value, list):
        return [settled(each, {**spec, "type": spec.get("elements", "str")}) for each in value]
    return value


def mistakes(validator: ArgumentSpecValidator, options: Mapping[str, Any]) -> list[str]:
    """What Ansible would say of ``options`` before it runs a module or role with them. Of those that may be left out,
    one may well exclude another."""
    given = {name: settled(value, validator.argument_spec.get(name, {})) for name, value in options.items()}
    sure = {name: value for name, value in given.items() if "default(omit)" not in str(options[name])}
    found = [*ArgumentSpecValidator(validator.argument_spec).validate(given).error_messages]
    return [*found, *(each for each in validator.validate(sure).error_messages if each not in found)]


def tasks_in(node: Any) -> Iterator[dict[str, Any]]:
    """Every task of plays, blocks and lists of tasks."""
    for each in node if isinstance(node, list) else []:
        if isinstance(each, dict):
            inner = [part for key in BLOCKS for part in each.get(key) or ()]
            if inner or PLAY & each.keys():
                yield from tasks_in(inner)
            else:
                yield each


def variables_in(node: Any) -> Iterator[tuple[str, Any]]:
    """Everything that is set under the name of a variable of ours, anywhere."""
    if isinstance(node, dict):
        for name, value in node.items():
            if str(name).startswith(OWN):
                yield name, value
            yield from variables_in(value)
    elif isinstance(node, list):
        for each in node:
            yield from variables_in(each)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.where)
def test_an_example_fits_the_interfaces(example: Example, monkeypatch: pytest.MonkeyPatch) -> None:
    content = yaml.safe_load(example.text)
    assert content, "there is nothing in it"
    wrong = []
    for task in tasks_in(content):
        for action in (key for key in task if str(key).startswith(OURS)):
            name = action[len(OURS) :]
            if name not in MODULES:
                wrong.append(f"there is no module {action}")
            else:
                wrong += [f"{action}: {each}" for each in mistakes(spec_of(name, monkeypatch), task[action] or {})]
    for name, value in variables_in(content):
        if name not in VARIABLES:
            wrong.append(f"there is no variable {name}")
        else:
            wrong += mistakes(ArgumentSpecValidator({name: VARIABLES[name]}), {name: value})
    for play in content if isinstance(content, list) else []:
        if isinstance(play, dict):
            imported = str(play.get("ansible.builtin.import_playbook", ""))
            if imported.startswith(OURS) and imported[len(OURS) :] not in PLAYBOOKS:
                wrong.append(f"there is no playbook {imported}")
            for role in play.get("roles") or ():
                named = role if isinstance(role, str) else role["role"]
                if named.startswith(OURS) and named[len(OURS) :] not in ROLES:
                    wrong.append(f"there is no role {named}")
    assert wrong == []


def test_there_are_examples_of_everything() -> None:
    """So that the test above is not one of nothing."""
    shown = "\n".join(example.text for example in EXAMPLES if example.where.startswith(("README", "docs/")))
    for name in (*MODULES, *ROLES):
        if not name.endswith("_info"):
            assert f"{OURS}{name}" in shown


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_names_is_there(page: Path) -> None:
    """Names of ours in running text and in commands, too."""
    known = {*MODULES, *PLAYBOOKS, *ROLES}
    named = set(re.findall(r"(?<![\w/.])virt\.storage\.([a-z]\w*)", page.read_text("utf-8")))
    assert named <= known


def commands_in(page: Path) -> list[list[str]]:
    """The commands that a page tells to type, as words, without what follows a ``#``."""
    blocks = re.findall(r"^ *```console\n(.*?)^ *```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    lines = [line.strip().removeprefix("$ ") for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [words for words in (shlex.split(line, comments=True) for line in lines) if words]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_tells_to_type_is_there(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, str(ROOT / "dev.d")])
    dev = importlib.import_module("main").parser()
    for words in commands_in(page):
        if words[0] == "./dev":
            dev.parse_known_args(words[1:])  # ends the test where it knows no such command
        given = [words[at + 1].partition("=") for at, word in enumerate(words) if word in ("-e", "--extra-vars")]
        shipped = "\n".join((ROOT / word).read_text("utf-8") for word in words if word.startswith("docs/examples/"))
        for name, _equals, value in given if words[0] == "ansible-playbook" else ():
            if shipped:
                assert re.search(rf"\b{name}\b", shipped)
                continue
            assert name in VARIABLES
            assert mistakes(ArgumentSpecValidator({name: VARIABLES[name]}), {name: value}) == []


def test_a_page_tells_to_type_something() -> None:
    """So that the test above is not one of nothing."""
    typed = [words for page in PAGES for words in commands_in(page)]
    assert ["./dev", "quickstart", "--remove"] in typed
    assert any("storage_layout_final=true" in words for words in typed)


def test_every_element_that_is_shown_is_well_formed() -> None:
    shown = [
        re.sub(r"\{\{.*?\}\}|\{%.*?%\}", "", block)
        for page in PAGES
        for block in re.findall(r"^```xml\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    ]
    assert {ElementTree.fromstring(block).tag for block in shown} == {"domain", "devices"}


def test_the_readme_names_all_that_can_be_used() -> None:
    text = README.read_text("utf-8")
    used = {*MODULES, *PLAYBOOKS, *ROLES}
    assert [name for name in sorted(used) if not name.endswith("_info") and f"`{OURS}{name}`" not in text] == []
    assert [name for name in VARIABLES if name.startswith(OWN[2:]) and f"`{name}" not in text] == []


def test_the_variables_of_playbooks_are_known() -> None:
    """A new one has its place in ``VARIABLES`` and in the README."""
    text = "\n".join(path.read_text("utf-8") for path in ROOT.glob("playbooks/*.yml"))
    read = set(re.findall(rf"(?<![\w.])(?:{'|'.join(OWN)})\w+", text))
    assert read <= {*VARIABLES}
    assert {name for name in VARIABLES if name.startswith(OWN[2:])} <= read


def test_every_page_can_be_reached() -> None:
    reached, ahead = set(), [README]
    while ahead:
        page = ahead.pop()
        if page not in reached and page.suffix == ".md":
            reached.add(page)
            targets = re.findall(r"\]\(([^)#\s]+)", page.read_text("utf-8"))
            ahead += [(page.parent / target).resolve() for target in targets if "://" not in target]
    assert [str(page.relative_to(ROOT)) for page in PAGES if page not in reached] == []


@pytest.mark.parametrize(
    ("role", "variable", "module", "option", "beside"),
    [
        ("storage_pool", "storage_pool_pools", "libvirt_pool", None, {"uri", "key"}),
        ("image_cache", "image_cache_images", "cached_image", "images", {"pools"}),
        ("image_cache", "image_cache_limits", "cached_image", "limits", set()),
        ("image_cache", "image_cache_prune_limits", "cached_image", "cache", set()),
    ],
)
def test_a_role_takes_what_its_module_takes(
    role: str, variable: str, module: str, option: str | None, beside: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """``beside`` is what only one of the two knows: a key stands in a variable of its own."""
    spec = spec_of(module, monkeypatch).argument_spec
    options = spec if option is None else spec[option]["options"]
    assert _shape(ROLES[role][variable]["options"], beside) == _shape(options, beside)


def _shape(options: Mapping[str, Any], beside: set[str]) -> dict[str, Any]:
    """What the two have to agree in. A role may be stricter about what is needed, for it knows the state."""
    return {
        name: {
            "type": spec.get("type", "str"),
            "choices": spec.get("choices"),
            "default": spec.get("default"),
            "elements": spec.get("elements"),
            "options": _shape(spec.get("options", {}), beside),
        }
        for name, spec in options.items()
        if name not in beside
    }


def test_a_wrong_example_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {
        "an option that there is not": {"name": "ssd", "path": "/srv/ssd", "command": "define"},
        "a value that there is not": {"name": "ssd", "state": "running"},
        "a type that it is not": {"name": "ssd", "cache": {"max_count": "{{ many }} and more", "max_age": "a month"}},
        "nothing that is needed": {"state": "active"},
    }
    for why, options in wrong.items():
        assert mistakes(spec_of("libvirt_pool", monkeypatch), options), why
    pools = ArgumentSpecValidator({"storage_pool_pools": VARIABLES["storage_pool_pools"]})
    assert mistakes(pools, {"storage_pool_pools": [{"name": "ssd", "kind": "dir"}]})
    misspelt = [{"roles": [{"vars": {"storage_pool_polls": []}}]}]
    assert [name for name, _unused in variables_in(misspelt)] == ["storage_pool_polls"]
