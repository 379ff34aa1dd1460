# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The table in ``docs/crash-matrix.md``, of what ``./dev test crash --full`` killed."""

from __future__ import annotations

import json
from collections import defaultdict

from common import ROOT
from results import FOLDER

PAGE = ROOT / "docs" / "crash-matrix.md"
KEPT = FOLDER / "kills.json"
BEGIN, END = "<!-- written by ./dev test crash --full -->\n", "<!-- up to here -->\n"
PLACES = ("before", "call", "program")
WATCH = "watch"
"""No place: what some of the kills left."""


def write() -> None:
    """Bring the page up to date with the run that has just passed."""
    text = PAGE.read_text(encoding="utf-8")
    head, rest = text.split(BEGIN)
    tail = rest.split(END)[1]
    PAGE.write_text(head + BEGIN + table() + END + tail, encoding="utf-8")


def table() -> str:
    """The kills by backend and task, as Markdown."""
    rows: dict[tuple[str, str], dict[str, int]] = defaultdict(lambda: dict.fromkeys((*PLACES, WATCH), 0))
    for backend, task, where, kills in json.loads(KEPT.read_text(encoding="utf-8")):
        rows[backend, task][where] += kills
    titles = "before a step | within a call | beside its program | of these, a watch stayed"
    lines = ["", f"| backend | task | {titles} |", "|---|---|---:|---:|---:|---:|"]
    for (backend, task), counts in sorted(rows.items()):
        lines.append(f"| {backend} | {task} | {' | '.join(str(counts[place] or '') for place in (*PLACES, WATCH))} |")
    sums = [sum(counts[place] for counts in rows.values()) for place in (*PLACES, WATCH)]
    lines.append(f"| all | {len(rows)} tasks, {sum(sums[:-1])} kill points | {' | '.join(map(str, sums))} |")
    return "\n".join([*lines, "", ""])
