# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How far a whole intake is from its floor: a tuned ``qemu-img convert`` alone.

Both convert the same image, turn by turn in one run, so that whatever else the machine does meets both. The image is
2 GiB, with about 700 MiB of random data in it. Prints seconds, the ratio of the medians and that of the best turns,
and the peak of memory. The floor hardly needs a processor, the intake two: measure on a machine that has them free.

    ./dev bench fill [ROUNDS]
"""

from __future__ import annotations

import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial

from measure import Row, show

from ansible_collections.virt.storage.plugins.module_utils._ground.bounds import Bounds
from ansible_collections.virt.storage.plugins.module_utils._ground.command import Runner
from ansible_collections.virt.storage.plugins.module_utils._ground.intake import Staging, take_in
from ansible_collections.virt.storage.plugins.module_utils._ground.sources import SourceSpec

SIZE, ALLOCATED = 2 * 1024**3, 700 * 1024**2


class FileSink:
    """A sparse file, as a file pool has it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)

    def set_size(self, size: int) -> None:
        os.ftruncate(self._fd, size)

    def write(self, offset: int, data: bytes) -> None:
        assert os.pwrite(self._fd, data, offset) == len(data)

    def sync(self) -> None:
        os.fsync(self._fd)

    def close(self) -> None:
        os.close(self._fd)


def make_image(path: str) -> None:
    """Runs of 1 to 8 MiB of random data with holes between."""
    dice = random.Random(1)
    with open(path, "wb") as image:
        image.truncate(SIZE)
        offset = done = 0
        while done < ALLOCATED and offset < SIZE - 8 * 1024**2:
            length = dice.randint(1, 8) * 1024**2
            image.seek(offset)
            image.write(os.urandom(length))
            done += length
            offset += length * dice.choice([2, 3, 3])
        image.flush()
        os.fsync(image.fileno())


def floor(source: str, format_name: str, target: str) -> None:
    command = ["qemu-img", "convert", "-f", format_name, "-O", "raw", "-W", "-m", "16", "-t", "none", "-T", "none"]
    subprocess.run([*command, source, target], check=True)


def intake(source: str, format_name: str, target: str, pools: int = 1) -> None:
    sinks = [FileSink("%s.%d" % (target, number)) for number in range(pools)]
    staging = Staging(os.path.dirname(target), SIZE)
    spec = SourceSpec(source, format_name)
    take_in(spec, Bounds(SIZE, SIZE), sinks, runner=Runner(), staging=staging, beat=lambda: None)
    for sink in sinks:
        sink.close()


def timed(work: Callable[[], None], directory: str) -> float:
    """Seconds for ``work``, from a clean start; what it made is removed afterwards."""
    os.sync()
    started = time.monotonic()
    work()
    seconds = time.monotonic() - started
    for name in os.listdir(directory):
        if name.startswith("target"):
            os.unlink(os.path.join(directory, name))
    return seconds


def measured(source: str, name: str, target: str, rounds: int) -> list[float]:
    """Medians of the floor, of an intake, and of an intake into two pools."""
    directory = os.path.dirname(target)
    columns: list[list[float]] = [[], [], []]
    for turn in range(rounds + 1):
        works = (
            partial(floor, source, name, target),
            partial(intake, source, name, target),
            partial(intake, source, name, target, 2),
        )
        for column, work in zip(columns, works):
            seconds = timed(work, directory)
            if turn:  # the first turn warms the page cache up for all
                column.append(seconds)
    return [statistics.median(column) for column in columns]


def main(rounds: int) -> bool:
    rows = []
    with tempfile.TemporaryDirectory(prefix="vst-bench-", dir="/var/tmp") as directory:
        raw, qcow2, target = (os.path.join(directory, name) for name in ("source.raw", "source.qcow2", "target"))
        make_image(raw)
        subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, qcow2], check=True)
        for name, source in (("qcow2", qcow2), ("raw", raw)):
            bare, one, two = measured(source, name, target, rounds)
            rows.append(Row(f"fill from {name}, 700 MiB of 2 GiB", one, bare, "<= 1.25", one <= 1.25 * bare))
            rows.append(Row("  into two pools", two, bare))
    reached = show(rows)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"peak memory: {peak} MiB (target < 150: {'met' if peak < 150 else 'MISSED'})")
    return reached and peak < 150


if __name__ == "__main__":
    sys.exit(0 if main(int(sys.argv[1]) if len(sys.argv) > 1 else 5) else 1)
