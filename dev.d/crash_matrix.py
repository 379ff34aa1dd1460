# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The tables in ``docs/crash-matrix.md``, of what ``./dev test crash --full`` killed and froze."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence

from common import ROOT
from results import FOLDER

PAGE = ROOT / "docs" / "crash-matrix.md"
KILLS, FREEZES = FOLDER / "kills.json", FOLDER / "freezes.json"
BEGIN, END = "<!-- {}: written by ./dev test crash --full -->\n", "<!-- up to here -->\n"
PLACES = ("before", "call", "program")
WATCH = "watch"
"""No place: what some of the kills left."""
RIVALS = ("same", "opposite", "reclaim")
LOST = "lost"
"""No rival: how many of the frozen said that they lost."""

Rows = dict[tuple[str, str], dict[str, int]]


def write() -> None:
    """Bring the page up to date with the run that has just passed."""
    write_kills()
    write_freezes()


def write_kills() -> None:
    """The table of the kills."""
    rows = _rows(json.loads(KILLS.read_text(encoding="utf-8")), (*PLACES, WATCH))
    titles = "before a step | within a call | beside its program | of these, a watch stayed"
    killed = sum(counts[place] for counts in rows.values() for place in PLACES)
    _place("kills", _table(rows, titles, (*PLACES, WATCH), f"{len(rows)} tasks, {killed} kill points"))


def write_freezes() -> None:
    """The table of the freezes."""
    rows = _rows(json.loads(FREEZES.read_text(encoding="utf-8")), (*RIVALS, LOST))
    titles = "beside the same | beside the opposite | beside a reclaim | of these, said that they lost"
    frozen = sum(counts[rival] for counts in rows.values() for rival in RIVALS)
    _place("freezes", _table(rows, titles, (*RIVALS, LOST), f"{len(rows)} tasks, {frozen} freezes"))


def _place(name: str, table: str) -> None:
    text = PAGE.read_text(encoding="utf-8")
    begin = BEGIN.format(name)
    head, rest = text.split(begin)
    tail = rest.split(END, 1)[1]
    PAGE.write_text(head + begin + table + END + tail, encoding="utf-8")


def _rows(counted: Sequence[tuple[str, str, str, int]], columns: Sequence[str]) -> Rows:
    """The counts by backend and task, and in each by column."""
    rows: Rows = defaultdict(lambda: dict.fromkeys(columns, 0))
    for backend, task, column, count in counted:
        rows[backend, task][column] += count
    return rows


def _table(rows: Rows, titles: str, columns: Sequence[str], total: str) -> str:
    """The rows as Markdown, and their sums."""
    lines = ["", f"| backend | task | {titles} |", "|---|---|---:|---:|---:|---:|"]
    for (backend, task), counts in sorted(rows.items()):
        lines.append(f"| {backend} | {task} | {' | '.join(str(counts[column] or '') for column in columns)} |")
    sums = [sum(counts[column] for counts in rows.values()) for column in columns]
    lines.append(f"| all | {total} | {' | '.join(map(str, sums))} |")
    return "\n".join([*lines, "", ""])
