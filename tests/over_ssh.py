# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Ansible driven at the machines of ``./dev vm`` from outside, over ssh."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO / "dev.d"))

from common import VENV, run, venv_env  # noqa: E402
from vm import inventory  # noqa: E402

PLAY_LIMIT = 1800
"""Seconds that one playbook may take; on a free host a task costs about two in an emulated machine, one of ours ten."""


def played(book: Any, *options: str, variables: dict[str, Any] | None = None) -> tuple[list[dict[str, Any]], str]:
    """The result of each task of a playbook that ran, in order, and "" or, where the play failed, what was said.

    ``book`` is the name of a playbook, or a list of plays. Modules of this collection are those of the checkout. A
    failed task ends the play, and its result is the last; a play in which no task ran is an error.
    """
    with tempfile.TemporaryDirectory() as folder:
        results, hosts, plays = (Path(folder, name) for name in ("results", "hosts", "play.json"))
        hosts.write_text(inventory(), encoding="utf-8")
        if not isinstance(book, str):
            plays.write_text(json.dumps(book), encoding="utf-8")
            book = plays
        env = {
            **venv_env(),
            "ANSIBLE_CALLBACK_PLUGINS": str(REPO / "tests" / "integration" / "callback_plugins"),
            "ANSIBLE_CALLBACKS_ENABLED": "collect_results",
            "COLLECT_RESULTS": str(results),
            "ANSIBLE_HOME": str(Path(folder, "ansible")),
        }
        words = [VENV / "bin" / "ansible-playbook", "--inventory", hosts, "--diff", book, *options]
        words += ["--extra-vars", json.dumps(variables)] if variables else []
        finished = run(words, env=env, check=False, capture=True, timeout=PLAY_LIMIT)
        assert results.exists(), f"no task ran:\n{finished.stdout}"
        told = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
        return told, finished.stdout if finished.returncode else ""
