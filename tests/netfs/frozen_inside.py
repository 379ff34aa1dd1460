# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Runs in a test machine: a task of ``tests/crash`` on a pool that both machines have, which waits before one of its
steps until it is told to go on, or what another does meanwhile. Reads calls from standard input and writes what came of
each to standard output, each a line of JSON. Arguments: the pool's folder, the name of the task, and of the rival.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from crash import child
from crash.freezing import Freezing, directly, judge
from crash.scenarios import MIB, Sources, scenarios

child.LEASE, child.BEAT, child.WALL = 4.0, 0.5, 500
"""An emulated machine is slow."""


class Pause(child.Kill):
    """It waits for a line."""

    def strike(self) -> None:
        os.write(1, b'"paused"\n')
        os.read(0, 100)


def answered(freezing: Freezing, call: str, given: Any) -> Any:
    """What came of one call."""
    if call == "set":
        os.makedirs(freezing.root)
        freezing.scenario.stage(freezing.root)
        for act in freezing.scenario.before:
            child.fine(child.run(freezing.root, act))
        return None
    if call == "act":
        return asdict(child.run(freezing.root, freezing.scenario.act, Pause("decision", given)))
    if call == "rival":
        freezing.note("before")
        lived = [child.run(freezing.root, act) for act in freezing.acts()]
        freezing.note("after")
        return [asdict(each) for each in lived]
    first, *rivals = (child.Lived(**each) for each in given)
    judge(freezing, first, rivals, directly)
    return None


def main(root: str, name: str, rival: str) -> None:
    """Answer until there is nothing more to read."""
    folder = Path("/root/frozen")
    folder.mkdir(exist_ok=True)
    sources = Sources(folder, 8 * MIB, 2 * MIB)  # the same bytes in both machines
    freezing = Freezing(root, "netfs", name, scenarios(sources, root)[name], rival, sources)
    print('"ready"', flush=True)
    while line := sys.stdin.readline():
        call, given = json.loads(line)
        print(json.dumps(answered(freezing, call, given)), flush=True)


main(*sys.argv[1:])
