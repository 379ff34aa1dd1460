# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a part of the suite came to, and the table of all parts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from common import WORK

FOLDER = WORK / "results"


@dataclass
class Result:
    """How many tests of one part passed, which failed, and how many seconds it took."""

    part: str
    passed: int = 0
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @classmethod
    def load(cls, part: str) -> Result:
        """The one that was saved last. Raises FileNotFoundError."""
        return cls(**json.loads((FOLDER / f"{part}.json").read_text(encoding="utf-8")))

    def save(self) -> None:
        """Keep it for whoever started the part."""
        FOLDER.mkdir(parents=True, exist_ok=True)
        (FOLDER / f"{self.part}.json").write_text(json.dumps(asdict(self)), encoding="utf-8")

    @staticmethod
    def forget(part: str) -> None:
        """Have no such result."""
        (FOLDER / f"{part}.json").unlink(missing_ok=True)

    def count(self, name: str, failed: str = "") -> None:
        """Add one test; ``failed`` says why it did not pass."""
        if failed:
            self.failures.append(f"{name}: {failed}")
        else:
            self.passed += 1


def count_junit(result: Result, report: Path, exit_code: int) -> None:
    """Add the tests of a pytest run. One that was skipped or expected to fail showed nothing: it failed.

    A run that reports nothing, no test at all, or an exit code that its tests do not explain, failed as a whole.
    """
    before = len(result.failures)
    cases = list(ElementTree.parse(report).iter("testcase")) if report.exists() else []
    for case in cases:
        verdicts = [child.tag for child in case if child.tag in ("failure", "error", "skipped")]
        result.count(f"{case.get('classname')}::{case.get('name')}", ", ".join(verdicts))
    if not cases:
        result.count("pytest", f"ran no test, exit code {exit_code}")
    elif exit_code != 0 and len(result.failures) == before:
        result.count("pytest", f"exit code {exit_code}, and no test failed")


def show(results: Sequence[Result]) -> bool:
    """Print what failed and the table, the sum as the last line; true when everything passed."""
    for result in results:
        for failure in result.failures:
            print(f"failed: {result.part}: {failure}")
    print()
    print(f"{'part':<16} {'result':<8} {'passed':>7} {'failed':>7} {'seconds':>8}")
    for result in results:
        verdict = "FAILED" if result.failures else "ok"
        counts = f"{result.passed:>7} {len(result.failures):>7}"
        print(f"{result.part:<16} {verdict:<8} {counts} {result.seconds:>8.1f}")
    passed, failed = sum(each.passed for each in results), sum(len(each.failures) for each in results)
    print(f"{passed} passed, {failed} failed", flush=True)
    return failed == 0 and passed > 0
