# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Counting kills, and freezes."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path


class Tally:
    """Kills by backend, task, and where in the task: ``before`` one of our steps, in a ``call`` of the system or of
    Ceph, or with a ``program`` at work that goes on alone. After some of them a ``watch`` stayed, counted apart."""

    def __init__(self) -> None:
        self.kills: Counter[tuple[str, str, str]] = Counter()

    def add(self, backend: str, task: str, where: str, kills: int = 1) -> None:
        """So many more."""
        self.kills[backend, task, where] += kills

    def keep(self, path: Path) -> None:
        """Write it down."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps([[*where, kills] for where, kills in self.kills.items()]), encoding="utf-8")


class Freezes(Tally):
    """Freezes by backend, task, and what another process did meanwhile. ``operations`` are the tasks of all those that
    were run while somebody stood still; ``lost`` is how many of the frozen ones said in the end that they lost."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    @property
    def lost(self) -> int:
        return sum(count for (_backend, _task, where), count in self.kills.items() if where == LOST)

    @property
    def told(self) -> str:
        """All of it in a sentence."""
        return (
            f"{sum(self.kills.values()) - self.lost} freezes beside {self.operations} operations of others, no disk or "
            f"image lost; {self.lost} of the frozen said that they lost, the others ended rightly"
        )


LOST = "lost"
