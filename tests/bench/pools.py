# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An image into three pools from one read, beside the slowest of them alone and beside all of them one after the other.

The pools are a folder on a disk, a folder in memory and a pool in Ceph, turn by turn in one run. What a module costs
that does nothing in the same pools is taken off each. The image is raw and has 384 MiB of random data.

    ./dev bench pools
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from measure import TURNS, module

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "dev.d"))

import ceph

DATA = 384 << 20


@contextlib.contextmanager
def folder(place: Path, memory: bool) -> Iterator[str]:
    """A pool in a folder, on a disk or in memory."""
    name = f"vst-{uuid.uuid4().hex[:8]}"
    path = place / name
    path.mkdir(mode=0o711)
    if memory:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2g,mode=711", "vst", path], check=True)
    try:
        module("libvirt_pool", name=name, type="dir", path=str(path))
        yield name
    finally:
        module("libvirt_pool", name=name, state="absent")
        for sealed in path.glob(".virt-storage/images/*"):
            subprocess.run(["chattr", "-i", str(sealed)], check=False, capture_output=True)
        if memory:
            subprocess.run(["umount", path], check=True)


@contextlib.contextmanager
def in_ceph() -> Iterator[str]:
    """A pool in the cluster of ``./dev ceph``."""
    name = f"vst-{uuid.uuid4().hex[:8]}"
    source = {"pool": ceph.DISKS, "conf": str(ceph.CONF), "user": ceph.USER, "keyring": str(ceph.keyring(ceph.USER))}
    with ceph.cluster():
        module("libvirt_pool", name=name, type="rbd", rbd=source)
        try:
            yield name
        finally:
            module("libvirt_pool", name=name, state="absent")


def fill(pools: Sequence[str], source: str) -> float:
    """Seconds that it takes to bring the image into the pools, by which a module takes longer than one that does
    nothing; it is gone again afterwards."""
    image = {"name": "base", "source": source, "format": "raw"}
    os.sync()
    began = time.monotonic()
    module("cached_image", pools=list(pools), images=[{"name": "base"}], state="absent")
    started = time.monotonic()
    counted: list[dict[str, Any]] = module("cached_image", pools=list(pools), images=[image])["counted"]
    seconds = (time.monotonic() - started) - (started - began)
    assert [step["bytes_read"] for step in counted] == [DATA, *[0] * (len(pools) - 1)], "the source is read once"
    assert [step["bytes_written"] for step in counted] == [DATA] * len(pools)
    module("cached_image", pools=list(pools), images=[{"name": "base"}], state="absent")
    return seconds


def main() -> bool:
    with contextlib.ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vst-bench-", dir="/var/tmp")))
        place.chmod(0o711)
        source = place / "base.raw"
        source.write_bytes(os.urandom(DATA))
        names = {
            "disk": stack.enter_context(folder(place, memory=False)),
            "memory": stack.enter_context(folder(place, memory=True)),
            "Ceph": stack.enter_context(in_ceph()),
        }
        columns = {**{what: [name] for what, name in names.items()}, "all three": list(names.values())}
        taken: dict[str, list[float]] = {what: [] for what in columns}
        for turn in range(TURNS + 1):
            for what, pools in columns.items():
                seconds = fill(pools, str(source))
                if turn:  # the first turn warms the page cache up for all
                    taken[what].append(seconds)
        return told({what: statistics.median(column) for what, column in taken.items()}, list(names))


def told(medians: dict[str, float], names: Sequence[str]) -> bool:
    """Print what was found; whether all three together are nearer to the slowest than to the sum."""
    for what, seconds in medians.items():
        print(f"{what:<12} {seconds:6.2f} s")
    alone, together = [medians[name] for name in names], medians["all three"]
    print(f"all three to the slowest {together / max(alone):.2f}, to the sum {together / sum(alone):.2f}")
    met = together - max(alone) < sum(alone) - together
    print(f"target: nearer to the slowest than to the sum {'met' if met else 'MISSED'}")
    return met


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
