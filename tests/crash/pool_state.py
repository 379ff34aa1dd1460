# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What must hold on a pool at rest, whatever was killed before."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Collection, Mapping

from ansible_collections.virt.storage.plugins.module_utils._backends.file import PRIVATE
from ansible_collections.virt.storage.plugins.module_utils._backends.perform import Parts
from ansible_collections.virt.storage.plugins.module_utils._ground.command import Runner
from ansible_collections.virt.storage.plugins.module_utils._records.folder import OWNER
from ansible_collections.virt.storage.plugins.module_utils._records.types import (
    ENDED,
    USABLE,
    Disk,
    Image,
    State,
)

from .child import parts

RESTING = {*USABLE, *ENDED, State.RETIRED, State.QUARANTINED}


def check(
    root: str, wanted: Mapping[tuple[str, str], str], images: Mapping[str, bool], strangers: Collection[str] = ()
) -> None:
    """Every record and every volume has the other, and every guest reads what it should.

    ``wanted`` maps instance and role of every disk there must be to a raw file with what its guest reads; ``images``
    maps the key of every image that was ever here to whether one must be ready now; ``strangers`` are other people's
    files.
    """
    pool = parts(root, Runner())
    listing = pool.records.states()
    named: dict[str, str] = {}
    found: dict[tuple[str, str], Disk] = {}
    ready: set[str] = set()
    for record_id, state in listing.states.items():
        assert state in RESTING, f"hold 6: {record_id} is left {state}"
        if state in ENDED:
            continue
        record = pool.records.read(record_id)
        assert record.volume.name not in named, f"hold 7: {record_id} and {named[record.volume.name]} are one volume"
        named[record.volume.name] = record_id
        assert pool.volumes.stat(record.volume) is not None, f"hold 1: {record_id} is {state} and has no volume"
        if isinstance(record, Image):
            _check_image(pool, record)
            if state is State.READY:
                assert record.key not in ready, "hold 5: two images of one key are left"
                ready.add(record.key)
        else:
            _check_disk(pool, record, state)
            assert (record.instance, record.role) not in found, "hold 7: two disks hold one place"
            found[(record.instance, record.role)] = record
    assert set(pool.volumes.inventory()) == {*named, *strangers}, "hold 4: a volume without a record"
    assert found.keys() == wanted.keys()
    for slot, disk in found.items():
        _reads_as(root, disk, wanted[slot])
    assert ready == {key for key, there in images.items() if there}
    assert os.listdir(os.path.join(root, PRIVATE, "staging")) == [], "something is left staged"
    assert [name for name in pool.records.locks.names() if name.startswith(OWNER)] == [], "a dead owner's lock is left"


def _check_image(pool: Parts, image: Image) -> None:
    assert pool.volumes.sealed(image.volume), f"hold 2: {image} can be written"
    assert pool.volumes.digest(image.volume) == pool.records.notes(image.id)["seal"]["content"], "hold 2: the content"
    for name in pool.records.references(image.id):
        if not name.startswith("probe+"):
            assert pool.records.states().state(name) in USABLE, f"{name} keeps {image} for ever"


def _check_disk(pool: Parts, disk: Disk, state: State) -> None:
    pointer = pool.volumes.pointer(disk.volume)
    if state is State.READY and disk.backing is not None:
        image = pool.records.read(disk.backing)
        assert pool.volumes.stat(image.volume) is not None, f"hold 3: {disk} has lost its image"
        assert disk.id in pool.records.references(image.id), f"hold 3: nothing keeps the image of {disk}"
        assert pointer == image.volume.name
    else:
        assert pointer is None, f"hold 1: {disk} is {state} and stands on {pointer}"


def _reads_as(root: str, disk: Disk, expected: str) -> None:
    """A guest reads what it should, to the last byte."""
    path = os.path.join(root, disk.volume.name)
    argv = ["qemu-img", "compare", "-f", disk.volume.format, "-F", "raw", path, expected]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{disk}: {done.stdout}{done.stderr}"
    assert parts(root, Runner()).volumes.stat(disk.volume).size == os.stat(expected).st_size
