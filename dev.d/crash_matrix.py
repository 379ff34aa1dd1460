# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The tables in ``docs/crash-matrix.md``, of what the long forms of the tests killed and froze.

Each part of the tests has some of the rows, so a run replaces the rows that it counted and leaves the others."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from common import ROOT
from results import FOLDER

PAGE = ROOT / "docs" / "crash-matrix.md"
PARTS = ("crash", "lvm", "conversion")
"""Those that kill."""
FREEZING = ("crash", "lvm")
BEGIN, END = "<!-- {}: written by ./dev test PART --full -->\n", "<!-- up to here -->\n"
PLACES = ("before", "call", "program")
WATCH = "watch"
"""No place: what some of the kills left."""
RIVALS = ("same", "opposite", "reclaim")
LOST = "lost"
"""No rival: how many of the frozen said that they lost."""

Rows = dict[tuple[str, str], dict[str, int]]


def write(part: str) -> None:
    """Bring the page up to date with the run of a part that has just passed."""
    write_kills(part)
    if part in FREEZING:
        write_freezes(part)


def write_kills(part: str) -> None:
    """The rows of the kills that a part counted."""
    titles = "before a step | within a call | beside its program | of these, a watch stayed"
    _place("kills", FOLDER / f"kills-{part}.json", titles, (*PLACES, WATCH), PLACES, "kill points")


def write_freezes(part: str) -> None:
    """The rows of the freezes that a part counted."""
    titles = "beside the same | beside the opposite | beside a reclaim | of these, said that they lost"
    _place("freezes", FOLDER / f"freezes-{part}.json", titles, (*RIVALS, LOST), RIVALS, "freezes")


def _place(name: str, counted: Path, titles: str, columns: Sequence[str], summed: Sequence[str], what: str) -> None:
    text = PAGE.read_text(encoding="utf-8")
    begin = BEGIN.format(name)
    head, rest = text.split(begin)
    table, tail = rest.split(END, 1)
    rows = _read(table, columns) | _rows(json.loads(counted.read_text(encoding="utf-8")), columns)
    total = sum(counts[column] for counts in rows.values() for column in summed)
    made = _table(rows, titles, columns, f"{len(rows)} tasks, {total} {what}")
    PAGE.write_text(head + begin + made + END + tail, encoding="utf-8")


def _read(table: str, columns: Sequence[str]) -> Rows:
    """The rows that stand in a table."""
    lines = (line.strip("|\n").split("|") for line in table.splitlines() if line.startswith("| "))
    cells = ([cell.strip() for cell in line] for line in lines)
    return {
        (backend, task): {column: int(count or 0) for column, count in zip(columns, counts)}
        for backend, task, *counts in cells
        if backend not in ("backend", "all")
    }


def _rows(counted: Sequence[tuple[str, str, str, int]], columns: Sequence[str]) -> Rows:
    """The counts by backend and task, and in each by column."""
    rows: Rows = defaultdict(lambda: dict.fromkeys(columns, 0))
    for backend, task, column, count in counted:
        rows[backend, task][column] += count
    return dict(rows)


def _table(rows: Rows, titles: str, columns: Sequence[str], total: str) -> str:
    """The rows as Markdown, and their sums."""
    lines = ["", f"| backend | task | {titles} |", "|---|---|---:|---:|---:|---:|"]
    for (backend, task), counts in sorted(rows.items()):
        lines.append(f"| {backend} | {task} | {' | '.join(str(counts[column] or '') for column in columns)} |")
    sums = [sum(counts[column] for counts in rows.values()) for column in columns]
    lines.append(f"| all | {total} | {' | '.join(map(str, sums))} |")
    return "\n".join([*lines, "", ""])
