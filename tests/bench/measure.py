# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the measurements of disks share: a pool, modules as processes, medians of turns, a table.

What is compared is measured turn by turn in one run, so that whatever else the machine does meets both. A module costs
something before it does anything: Python, Ansible, its arguments and its answer. So each is measured beside a module
that takes the same arguments and does nothing, and the targets are for what comes on top.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
TREE = os.environ.get("ANSIBLE_COLLECTIONS_PATH") or str(HERE.parents[1] / ".work" / "tree")
MODULE = "ansible_collections.virt.storage.plugins.modules."
TURNS = 3
IMAGE_BYTES = 64 << 20


@dataclass(frozen=True)
class Row:
    """A line of the table. Seconds; ``target`` in words; ``met`` None where there is none to meet."""

    what: str
    ours: float
    floor: float | None = None
    target: str = ""
    met: bool | None = None


def show(rows: Sequence[Row]) -> bool:
    """Print the table; whether every target is met."""
    print(f"{'what':<58} {'ours':>8} {'floor':>8} {'ratio':>6}  target")
    for row in rows:
        floor = "" if row.floor is None else f"{row.floor:.2f} s"
        ratio = "" if not row.floor else f"{row.ours / row.floor:.2f}"
        verdict = {True: "met", False: "MISSED", None: ""}[row.met]
        print(f"{row.what:<58} {row.ours:>6.2f} s {floor:>8} {ratio:>6}  {row.target} {verdict}".rstrip())
    return all(row.met is not False for row in rows)


def turns(
    works: Mapping[str, Callable[[int], None]], clear: Callable[[int], None] = lambda _turn: None
) -> dict[str, float]:
    """The median of the seconds that each of ``works`` takes, in ``TURNS`` turns of all; each is told the turn.

    ``clear`` comes after each turn and is not counted.
    """
    taken: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(TURNS):
        for name, work in works.items():
            os.sync()
            started = time.monotonic()
            work(turn)
            taken[name].append(time.monotonic() - started)
        clear(turn)
    print("  ".join(f"{name}: {', '.join(f'{each:.2f}' for each in seen)} s" for name, seen in taken.items()))
    return {name: statistics.median(seen) for name, seen in taken.items()}


def module(program: str, /, **params: Any) -> dict[str, Any]:
    """Run a module as a process of its own, as Ansible does; gives its answer."""
    return _run(["-m", MODULE + program], params)


def empty_module(**params: Any) -> None:
    """Run a module that takes what `instance_disk` takes, and does nothing."""
    _run([str(HERE / "empty_module.py")], params)


def _run(words: Sequence[str], params: Mapping[str, Any]) -> dict[str, Any]:
    given = json.dumps({"ANSIBLE_MODULE_ARGS": params})
    environment = {**os.environ, "PYTHONPATH": TREE}
    done = subprocess.run(
        [sys.executable, *words], env=environment, input=given, capture_output=True, text=True, check=False
    )
    answer: dict[str, Any] = json.loads(done.stdout or "{}")
    if done.returncode or answer.get("failed"):
        raise SystemExit(f"{words[-1]} failed: {answer.get('msg', done.stderr)}")
    return answer


@contextlib.contextmanager
def pool() -> Iterator[tuple[str, Path]]:
    """A pool in /var/tmp with the image ``base`` in its cache; both are gone afterwards."""
    place = Path(tempfile.mkdtemp(prefix="vst-bench-", dir="/var/tmp"))
    place.chmod(0o711)
    name, path = place.name, place / "pool"
    try:
        module("libvirt_pool", name=name, type="dir", path=str(path))
        source = place / "base.raw"
        with open(source, "wb") as image:
            image.truncate(IMAGE_BYTES)
            image.write(os.urandom(1 << 20))
        image_wish = {"name": "base", "source": str(source), "format": "raw"}
        module("cached_image", pools=[name], images=[image_wish])
        yield name, path
    finally:
        module("libvirt_pool", name=name, state="absent")
        for sealed in path.glob(".virt-storage/images/*"):
            subprocess.run(["chattr", "-i", str(sealed)], check=False, capture_output=True)
        shutil.rmtree(place)
