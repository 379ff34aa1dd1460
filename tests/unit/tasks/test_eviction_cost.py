# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What deciding costs, counted on real records: a number of looks and steps that grows as the pool does."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

from ansible_collections.virt.storage.plugins.module_utils._algorithms.pool import Pool
from ansible_collections.virt.storage.plugins.module_utils._backends.file import CAPABILITIES, PRIVATE, FileVolumes
from ansible_collections.virt.storage.plugins.module_utils._backends.perform import Parts, Performer
from ansible_collections.virt.storage.plugins.module_utils._ground.command import Runner
from ansible_collections.virt.storage.plugins.module_utils._ground.drive import drive_one
from ansible_collections.virt.storage.plugins.module_utils._records.folder import POOL, FolderStore
from ansible_collections.virt.storage.plugins.module_utils._records.types import Disk, Image, State, disk_id, image_id
from ansible_collections.virt.storage.plugins.module_utils._tasks.cache_policy import _survey, prune_plan

CREATED = "2026-01-01T00:00:00.000000Z"


def suffix(number: int) -> str:
    return f"{number:012}"


def filled(root: Path, images: int, disks: int) -> tuple[FolderStore, FileVolumes]:
    """A pool with this many images, each with a name, and as many disks on each of the first nine in ten."""
    store, volumes = FolderStore.make(str(root / PRIVATE)), FileVolumes(str(root), Runner())
    volumes.prepare()
    made = []
    for number in range(images):
        record_id = image_id(f"image-{number}", f"key-{number}", suffix(number))
        volume = CAPABILITIES.image_volume(record_id)
        made.append(Image(record_id, f"key-{number}", f"image-{number}", "/source", volume, CREATED, "owner+x"))
        (root / volume.name).write_bytes(b"x")
        store.note(POOL, f"label+image-{number}", {"id": record_id, "identity": "x"})
    stand = []
    for number in range(disks):
        record_id = disk_id(f"vm{number}", "root", suffix(number))
        volume = CAPABILITIES.disk_volume(record_id, "qcow2")
        backing = made[number % (images * 9 // 10)].id
        stand.append(Disk(record_id, f"vm{number}", "root", 1 << 30, volume, CREATED, "owner+x", backing))
        (root / volume.name).touch()
    assert all(store.create_all([(record, State.READY) for record in [*made, *stand]]))
    assert all(store.refer_all([(disk.backing, disk.id) for disk in stand]))
    return store, volumes


def cost(root: Path, images: int, disks: int) -> tuple[Counter[str], int]:
    """The operations that deciding takes, and the calls of all functions within."""
    root.mkdir()
    performer = Performer({"p": Parts(*filled(root, images, disks))}, write=False)
    looks: Counter[str] = Counter()
    calls = 0

    def counting(waiting):
        looks.update(f"{op.part}.{op.primitive}" for op in waiting.values())
        return performer(waiting)

    def called(_frame, event, _argument):
        nonlocal calls
        calls += event in ("call", "c_call")

    pool = Pool("p", CAPABILITIES, "owner+me")
    sys.setprofile(called)
    try:
        cache = drive_one(_survey(pool, {"max_count": 1}, [f"image-{images - 1}"]), counting)
        steps = prune_plan(cache)
    finally:
        sys.setprofile(None)
    # Nine in ten have disks, one is wanted: the others go.
    assert len(steps.actions) == images // 10 - 1
    return looks, calls


def test_twice_the_pool_is_twice_the_work_and_disks_are_looked_at_in_listings_only(tmp_path: Path) -> None:
    looks, calls = cost(tmp_path / "one", 60, 200)
    assert looks == {
        "records.notes": 60 + 2,
        "volumes.capacity": 1,
        "volumes.inventory": 1,
        "records.states": 2,
        "records.read": 60,
        "records.references": 60,
        "volumes.stat": 60,
    }
    # Images times disks would be four times as much.
    again, twice = cost(tmp_path / "two", 120, 400)
    assert sum(again.values()) < 2 * sum(looks.values())
    assert twice < 2.05 * calls
