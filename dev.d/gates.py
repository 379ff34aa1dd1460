# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A gate: a check that a program makes, counted as one test and silent unless it fails."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from common import ROOT, VENV, Trouble, run
from results import Result


class Gates:
    """The gates of one part, all together limited to ``timeout`` seconds."""

    def __init__(self, result: Result, env: Mapping[str, str], timeout: float) -> None:
        self._result = result
        self._env = env
        self._end = time.monotonic() + timeout

    def program(self, *words: object, cwd: Path = ROOT, env: Mapping[str, str] | None = None) -> str:
        """Run a program, of the virtual environment where it has one of that name; returns what it printed."""
        ours = VENV / "bin" / str(words[0])
        words = (ours, *words[1:]) if ours.exists() else words
        left = max(1.0, self._end - time.monotonic())
        return run(words, cwd=cwd, env={**self._env, **(env or {})}, capture=True, timeout=left).stdout

    def check(self, name: str, *words: object, cwd: Path = ROOT, env: Mapping[str, str] | None = None) -> None:
        """A gate that is one program, passed when its exit code is 0."""
        self.all_of(name, lambda: self.program(*words, cwd=cwd, env=env))

    def all_of(self, name: str, gate: Callable[[], object]) -> None:
        """A gate of several steps: it passes when ``gate`` returns, and fails when it raises :class:`Trouble`."""
        start = time.monotonic()
        failed = ""
        try:
            gate()
        except Trouble as trouble:
            print(trouble)
            failed = str(trouble).split("\n", 1)[0]
        self._result.count(name, failed)
        print(f"{'FAILED' if failed else 'ok':<6} {name} ({time.monotonic() - start:.1f} s)", flush=True)


def starting_with(files: Sequence[Path], *starts: bytes) -> list[Path]:
    """Those of ``files`` whose content begins with one of ``starts``."""
    found = []
    for file in files:
        path = ROOT / file
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as content:
                if content.read(max(len(start) for start in starts)).startswith(starts):
                    found.append(file)
    return found
