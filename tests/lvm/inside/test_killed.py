# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A task is killed before, or right after, any program that it starts; the same task again ends in the asked state."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import work
from contract.lvm_bed import fresh_bed
from work import Opened, Slow

from ansible_collections.virt.storage.plugins.module_utils._algorithms import cache, disks
from ansible_collections.virt.storage.plugins.module_utils._ground.command import Runner, Running

FULL = os.environ.get("VIRT_STORAGE_FULL") == "1"
STRIDE = 1 if FULL else 4
"""Of the kills, which share is tried in the short form."""


class Dying(Runner):
    """Ends its process at the n-th program: just before it, or with the program left at work."""

    def __init__(self, number: int, orphan: bool) -> None:
        super().__init__()
        self._left, self._orphan = itertools.count(number, -1), orphan

    def start(self, argv: Sequence[str], **options: Any) -> Running:
        last = next(self._left) == 0
        if last and not self._orphan:
            os._exit(137)
        running = super().start(argv, **options)
        if last:
            os._exit(137)
        return running


def act(opened: Opened) -> None:
    """An image, two disks on it, one of them removed again."""
    opened.run(opened.fill())
    made = [each.unwrap().disk for each in opened.run(*opened.make("keep", "drop"))]
    opened.run(disks.delete(opened.pool, made[1]))


def killed(kind: str, number: int, orphan: bool) -> bool:
    """Act in a process that dies at its n-th program; whether it came that far."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            act(Opened(kind, Dying(number, orphan)))
            code = 0
        except Exception:  # noqa: BLE001 - told, and seen by the exit code
            traceback.print_exc()
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, 137)
    return code == 137


@pytest.mark.parametrize("kind", ["thin", "thick"])
def test_killed_at_any_program_the_task_converges(kind: str) -> None:
    died = 0
    for number in itertools.count(0 if FULL else 3 + (kind == "thick"), STRIDE):
        with fresh_bed(kind):
            came = killed(kind, number, orphan=bool(number // STRIDE % 2))
            if not came:
                break
            died += 1
            settled()
            again = Opened(kind)
            act(again)
            again.check("keep")
    assert died >= (12 if FULL else 3)


@pytest.mark.parametrize("kind", ["thin", "thick"])
def test_killed_in_mid_fill_the_image_is_begun_anew(kind: str) -> None:
    argv = [sys.executable, "-B", str(Path(work.__file__)), kind, "fill"]
    with fresh_bed(kind):
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as filling:
            assert filling.stdout is not None
            assert [filling.stdout.readline() for _piece in range(3)] == ["filling\n"] * 3
            filling.kill()
        again = Opened(kind)
        begun = set(again.parts.volumes.inventory())
        again.run(cache.fill(again.pool, cache.ImageWish("sha256:y", "other", Slow())))
        assert len(begun) == 1
        again.check()
        assert len(again.live()) == 1
        assert not begun & again.live().keys()


def settled() -> None:
    """Wait until no program of LVM is at work."""
    until = time.monotonic() + 60
    while any(name(pid) == "lvm" for pid in filter(str.isdigit, os.listdir("/proc"))):
        assert time.monotonic() < until
        time.sleep(0.2)


def name(pid: str) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""
