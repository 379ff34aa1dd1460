# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A thousand disks in one task, beside bare writes of the same files and a loop of ``qemu-img create``.

./dev bench clone [DISKS]
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

from measure import TREE, Row, empty_module, module, pool, show, turns

sys.path.insert(0, TREE)

from ansible_collections.virt.storage.plugins.module_utils._ground.qcow2 import overlay_image, write_pieces

SIZE = 10 << 30
SAMPLE = 50
"""How many disks the loop of qemu-img really makes."""
BODY = b"x" * 700
"""About as long as a record."""
LIBC = ctypes.CDLL(None)


def bare_writes(folder: Path, count: int, image: str) -> None:
    """What has to be written at the least, in the order and in the synced batches that durability needs: records,
    names of references, overlays, and the state that publishes them."""
    records, disks = folder / "records", folder / "disks"
    for each in (records, disks):
        each.mkdir()
    for number in range(count):
        _write(records / f"new{number}", BODY)
    _sync_all(folder)
    for number in range(count):
        os.link(records / f"new{number}", records / f"{number}.pending")
        os.rename(records / f"new{number}", records / str(number))
        os.link(records / str(number), records / f"{number}.reference")
    _sync(records)
    pieces = overlay_image(SIZE, image)
    for number in range(count):
        descriptor = os.open(disks / f"{number}.qcow2", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        write_pieces(descriptor, pieces)
        os.close(descriptor)
    _sync_all(folder)
    _sync(disks)
    for number in range(count):
        os.rename(records / f"{number}.pending", records / f"{number}.ready")
    _sync(records)


def _write(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    os.write(descriptor, data)
    os.close(descriptor)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def _sync_all(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    if LIBC.syncfs(descriptor):
        raise OSError("syncfs failed")
    os.close(descriptor)


def qemu_img(folder: Path, image: str) -> None:
    for number in range(SAMPLE):
        words = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", image, "-F", "raw"]
        subprocess.run([*words, str(folder / f"{number}.qcow2"), str(SIZE)], check=True)


def main(count: int) -> bool:
    with pool() as (name, path):
        image = str(next(path.glob(".virt-storage/images/*.raw")))

        def wishes(turn: int) -> dict[str, object]:
            disks = [{"instance": f"vm{turn}-{number}", "image": "base", "size": str(SIZE)} for number in range(count)]
            return {"pool": name, "disks": disks}

        def clear(turn: int) -> None:
            gone = [{"instance": f"vm{turn}-{number}"} for number in range(count)]
            module("instance_disk", pool=name, state="absent", disks=gone)

        def folder(kind: str, turn: int) -> Path:
            made = path.parent / f"{kind}{turn}"
            made.mkdir()
            return made

        seconds = turns(
            {
                "ours": lambda turn: module("instance_disk", **wishes(turn)) and None,
                "empty": lambda turn: empty_module(**wishes(turn)),
                "bare": lambda turn: bare_writes(folder("bare", turn), count, image),
                "qemu-img": lambda turn: qemu_img(folder("qemu", turn), image),
            },
            clear,
        )
    on_top = seconds["ours"] - seconds["empty"]
    scaled = seconds["qemu-img"] * count / SAMPLE
    limit = 1.5 * count / 1000
    rows = [
        Row(f"{count} new disks, the whole module", seconds["ours"], seconds["empty"]),
        Row(
            "  on top of an empty module, beside bare writes", on_top, seconds["bare"], f"<= {limit} s", on_top <= limit
        ),
        Row(f"  beside a loop of qemu-img create ({SAMPLE}, scaled)", on_top, scaled),
    ]
    return show(rows)


if __name__ == "__main__":
    sys.exit(0 if main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000) else 1)
