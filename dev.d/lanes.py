# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Parts of the suite side by side: much of a test against libvirtd or Ceph is waiting, in which others can compute.

Each part is a ``./dev test PART`` of its own, with a Ceph cluster of its own, because some tests freeze theirs or fill
it. Its output goes to ``.work/results/PART.log`` and is printed in one piece when the part has ended.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from common import ROOT, say, stop
from results import FOLDER, Result

STOP_LIMIT = 60
"""Seconds that a part has to stop what it started."""


@dataclass
class Part:
    """A part that runs."""

    name: str
    process: subprocess.Popen[str]
    log: Path
    began: float

    def result(self) -> Result:
        """What the part came to, once it has ended; prints what it said."""
        say(f"test {self.name}")
        with open(self.log, encoding="utf-8", errors="replace") as log:
            for line in log:
                print(line, end="")
        try:
            result = Result.load(self.name)
        except FileNotFoundError:
            result = Result(self.name)
            result.count(self.name, f"ended with exit code {self.process.returncode} and told nothing")
        result.seconds = time.monotonic() - self.began
        return result


@contextlib.contextmanager
def running(name: str, *, full: bool) -> Iterator[Part]:
    """A part for as long as the block lasts; one that runs then is stopped."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    Result.forget(name)
    log = FOLDER / f"{name}.log"
    words = [sys.executable, str(ROOT / "dev.d" / "main.py"), "test", name, *(["--full"] if full else [])]
    with open(log, "w", encoding="utf-8") as output:
        process = subprocess.Popen(
            words,
            cwd=ROOT,
            env={**os.environ, "VIRT_STORAGE_CEPH": f"ceph-{name}"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
    say(f"test {name} has begun, see {log.relative_to(ROOT)}")
    try:
        yield Part(name, process, log, time.monotonic())
    finally:
        if process.poll() is None:
            stop(process, STOP_LIMIT)


def run_lanes(lanes: Sequence[Sequence[str]], *, full: bool, timeout: float) -> list[Result]:
    """Run the parts of each lane one after the other, and the lanes side by side. ``timeout`` is in seconds; what has
    not ended by then is stopped, and failed."""
    end = time.monotonic() + timeout
    results: dict[str, Result] = {}
    with contextlib.ExitStack() as stack:
        busy = [stack.enter_context(contextlib.closing(_lane(names, full, results))) for names in lanes]
        while busy and time.monotonic() < end:
            busy = [lane for lane in busy if next(lane, None)]
            time.sleep(0.2)
    for name in (name for names in lanes for name in names if name not in results):
        results[name] = Result(name)
        results[name].count(name, f"did not end within the {timeout:.0f} s that all parts have together")
    return list(results.values())


def _lane(names: Sequence[str], full: bool, results: dict[str, Result]) -> Generator[bool, None, None]:
    """One part after the other; gives back the word while one runs."""
    for name in names:
        with running(name, full=full) as part:
            while part.process.poll() is None:
                yield True
        results[name] = part.result()
