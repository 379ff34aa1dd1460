# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""What a file pool says about itself: labels and cache limits, and what it holds.

All of it is in the pool's own record store, so that every host that mounts the pool finds the same.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from .._backends.file import CAPABILITIES, PRIVATE, FileVolumes
from .._ground.command import Runner
from .._ground.errors import NotFound, StorageError
from .._policy.pools import Contents
from .._records.contract import Listing
from .._records.folder import POOL, FolderStore
from .._records.types import ENDED, State, taken_apart

CONFIG = "config"
"""The topic of the pool's own facts that holds ``labels`` and ``limits``."""
NOT_VOLUMES = (PRIVATE, "lost+found")


def read_contents(path: str) -> Contents:
    """What the folder of a pool holds, from its records and listings: no volume is opened.

    Records that cannot be read, or are too new, do not raise: they are the ``problem`` of what is returned.
    """
    try:
        entries = os.listdir(path)
    except (FileNotFoundError, NotADirectoryError):
        return Contents()
    try:
        store = FolderStore.open(os.path.join(path, PRIVATE))
        config, listing = _config(store), store.states()
        busy = tuple(name for name in store.locks.names() if store.pulse(name) is not None)
    except NotFound:
        config, listing, busy = {}, Listing({}), ()
    except StorageError as error:
        return Contents(problem=error.message)
    live = sorted(record_id for record_id, state in listing.states.items() if state not in ENDED)
    unmanaged, leftovers = _unrecorded(path, entries, listing)
    return Contents(
        labels=config.get("labels", {}),
        limits=config.get("limits", {}),
        disks=tuple(record_id for record_id in live if not taken_apart(record_id).image),
        images=tuple(record_id for record_id in live if taken_apart(record_id).image),
        unmanaged=unmanaged,
        leftovers=leftovers,
        busy=busy,
    )


def write_labels(path: str, labels: Mapping[str, Any]) -> None:
    """Set the labels of the pool, all of them."""
    store = FolderStore.make(os.path.join(path, PRIVATE))
    store.note(POOL, CONFIG, {**_config(store), "labels": dict(labels)})


def write_limits(path: str, limits: Mapping[str, int]) -> None:
    """Set the limits that are named; 0 lifts one."""
    store = FolderStore.make(os.path.join(path, PRIVATE))
    config = _config(store)
    merged = {**config.get("limits", {}), **limits}
    store.note(POOL, CONFIG, {**config, "limits": {limit: value for limit, value in merged.items() if value}})


def remove_contents(path: str) -> None:
    """Remove the records of a pool that holds no volumes, and its folder unless something is mounted there."""
    own = os.path.join(path, PRIVATE)
    for folder, folders, files in os.walk(own, topdown=False):
        for name in files:
            os.unlink(os.path.join(folder, name))
        for name in folders:
            os.rmdir(os.path.join(folder, name))
    if os.path.isdir(own):
        os.rmdir(own)
    if os.path.isdir(path) and not os.path.ismount(path):
        os.rmdir(path)


def _config(store: FolderStore) -> dict[str, Any]:
    return dict(store.notes(POOL).get(CONFIG, {}))


def _unrecorded(path: str, entries: list[str], listing: Listing) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of what has no record, and of volumes whose record has ended and that wait for reclaim.

    A volume's name follows from its record's id. An adopted one may still have its old name besides: the inode
    shows that both are one.
    """
    inodes = FileVolumes(path, Runner()).inventory()
    managed: set[str] = set()
    ended: set[str] = set()
    for record_id, state in listing.states.items():
        if state is not State.RELEASED:
            names = _volume_names(record_id)
            (ended if state is State.GONE else managed).update(name for name in names if name in inodes)
    known = {inodes[name] for name in managed | ended}
    unmanaged = [name for name, inode in inodes.items() if inode not in known]
    unmanaged += [name for name in entries if name not in inodes and name not in NOT_VOLUMES]
    return tuple(sorted(unmanaged)), tuple(sorted(ended))


def _volume_names(record_id: str) -> list[str]:
    if taken_apart(record_id).image:
        return [CAPABILITIES.image_volume(record_id).name]
    return [CAPABILITIES.disk_volume(record_id, format).name for format in CAPABILITIES.disk_names]
