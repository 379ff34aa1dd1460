# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The part ``lint``: everything that judges the collection without running it."""

from __future__ import annotations

import re
from pathlib import Path

from common import ROOT, WORK, Trouble, copy, home, tracked_files, tree, venv, venv_env
from gates import Gates, starting_with
from results import Result

PACKAGE = "ansible_collections.virt.storage.plugins.module_utils"


def check(result: Result, timeout: float) -> None:
    """Run every gate; ``timeout`` is in seconds for all of them."""
    venv()
    place = copy("lint")
    collections = place.parents[2]
    env = {**venv_env(), "HOME": str(home()), "ANSIBLE_COLLECTIONS_PATH": str(collections)}
    gates = Gates(result, env, timeout)

    gates.check("ruff check", "ruff", "check", "--no-cache", ".")
    gates.check("ruff format", "ruff", "format", "--no-cache", "--check", ".")
    gates.check("mypy module_utils", "mypy", "-p", PACKAGE, env={"MYPYPATH": str(tree())})
    gates.check("mypy dev.d", "mypy", "dev.d")
    gates.check("shellcheck", "shellcheck", *starting_with(tracked_files(), b"#!/bin/sh", b"#!/bin/bash"))
    gates.check("yamllint", "yamllint", "--strict", ".", cwd=place)
    gates.check("reuse", "reuse", "lint", cwd=place)
    gates.all_of("links", _links)

    strict = ["--offline", "--strict", "--profile", "production"]
    gates.check("ansible-lint", "ansible-lint", "--nocolor", *strict, cwd=place)
    gates.check("changelog", "antsibull-changelog", "lint", cwd=place)
    references = ["--validate-collection-refs=self", "--disallow-unknown-collection-refs"]
    gates.check("docs", "antsibull-docs", "lint-collection-docs", "--plugin-docs", *references, ".", cwd=place)
    gates.check("execution environment", "ansible-builder", "introspect", "--sanitize", collections)
    gates.all_of("galaxy", lambda: _galaxy(gates, place))


def _galaxy(gates: Gates, place: Path) -> None:
    """Build the archive, install it, compare what was installed with it, and have Galaxy's own importer judge it."""
    shop = WORK / "galaxy"
    gates.program("rm", "-rf", shop)
    build = ["ansible-galaxy", "collection", "build", "--force", "--output-path", shop]
    gates.program(*build, cwd=place)
    (archive,) = shop.glob("virt-storage-*.tar.gz")
    there = ["-p", shop / "installed"]
    gates.program("ansible-galaxy", "collection", "install", "--offline", "--force", *there, archive)
    gates.program("ansible-galaxy", "collection", "verify", "--offline", *there, "virt.storage")
    told = gates.program("python", "-m", "galaxy_importer.main", archive, cwd=shop)
    judged = [line for line in told.splitlines() if line.startswith(("ERROR", "WARNING"))]
    if judged or "Importer processing completed successfully" not in told:
        raise Trouble("galaxy-importer has objections:\n" + "\n".join(judged or [told]))


def _links() -> None:
    """Every link of a Markdown page to another file of this repository leads somewhere."""
    broken = []
    for page in tracked_files():
        if page.suffix == ".md":
            for target in re.findall(r"\]\(([^)#\s]+)", (ROOT / page).read_text(encoding="utf-8")):
                if "://" not in target and not (ROOT / page.parent / target).exists():
                    broken.append(f"{page}: {target}")
    if broken:
        raise Trouble("links that lead nowhere:\n" + "\n".join(broken))
