# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""What a pool says about itself: labels and cache limits, and what it holds.

All of it is in the pool's own record store, so that every host that has the pool finds the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from .._backends.contract import Capabilities
from .._backends.perform import Parts
from .._ground.errors import LostMetadata, NewerSchema, StorageError
from .._ground.os_errors import told
from .._policy.pool_xml import Definition
from .._policy.pools import Contents
from .._records.contract import Listing
from .._records.folder import POOL
from .._records.types import ENDED, State, taken_apart
from .kinds import Surroundings, open_parts

CONFIG = "config"
"""The topic of the pool's own facts that holds ``labels`` and ``limits``."""


def read_contents(definition: Definition, around: Surroundings, weigh: bool = False) -> Contents:
    """What a pool holds, from its records and listings: no volume is opened, unless to ``weigh`` the images.

    Records that cannot be read, or are too new, do not raise, nor does a disk that failed: that is the ``problem`` of
    what is returned.
    """
    try:
        parts = open_parts(definition, around, bare=True)
        config, listing = _config(parts), parts.records.states()
        busy = parts.records.busy()
        live = sorted(record_id for record_id, state in listing.states.items() if state not in ENDED)
        unmanaged, leftovers = _unrecorded(parts, listing)
        images = tuple(record_id for record_id in live if taken_apart(record_id).image)
        cached = _weight(parts, images) if weigh else None
    except StorageError as error:
        return Contents(problem=error.message)
    except OSError as error:
        return Contents(problem=told(error).message)
    return Contents(
        labels=config.get("labels", {}),
        limits=config.get("limits", {}),
        disks=tuple(record_id for record_id in live if not taken_apart(record_id).image),
        images=images,
        cached=cached,
        unmanaged=unmanaged,
        leftovers=leftovers,
        busy=busy,
    )


def _weight(parts: Parts, images: Iterable[str]) -> int:
    """What images take up, in bytes; one whose record cannot be read is not told apart from the rest of the pool."""
    total = 0
    for record_id in images:
        try:
            found = parts.volumes.stat(parts.records.read(record_id).volume)
        except (LostMetadata, NewerSchema):
            continue
        total += found.allocated if found is not None else 0
    return total


def write_labels(definition: Definition, around: Surroundings, labels: Mapping[str, Any]) -> None:
    """Set the labels of the pool, all of them."""
    parts = open_parts(definition, around, make=True)
    parts.records.note(POOL, CONFIG, {**_config(parts), "labels": dict(labels)})


def write_limits(definition: Definition, around: Surroundings, limits: Mapping[str, int]) -> None:
    """Set the limits that are named; 0 lifts one."""
    parts = open_parts(definition, around, make=True)
    config = _config(parts)
    merged = {**config.get("limits", {}), **limits}
    config["limits"] = {limit: value for limit, value in merged.items() if value}
    parts.records.note(POOL, CONFIG, config)


def remove_contents(definition: Definition, around: Surroundings) -> None:
    """Remove the records of a pool that holds no volumes, and its folder unless something is mounted there."""
    parts = open_parts(definition, around, bare=True)
    parts.volumes.clear()
    parts.records.destroy()
    if os.path.isdir(definition.path) and not os.path.ismount(definition.path):
        os.rmdir(definition.path)


def _config(parts: Parts) -> dict[str, Any]:
    config = parts.records.notes(POOL).get(CONFIG, {})
    return {name: facts for name, facts in config.items() if isinstance(facts, dict)}  # anything else can be set anew


def _unrecorded(parts: Parts, listing: Listing) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of what has no record, and of volumes whose record has ended and that wait for reclaim.

    A volume's name follows from its record's id, or stands in the record of one that was adopted. That may still have
    its old name besides: the native id shows that both are one.
    """
    natives = parts.volumes.inventory()
    managed: set[str] = set()
    ended: set[str] = set()
    for record_id, state in listing.states.items():
        if state is not State.RELEASED:
            names = [name for name in _volume_names(parts.volumes.capabilities(), record_id) if name in natives]
            (ended if state is State.GONE else managed).update(names or _adopted(parts, record_id, state, natives))
    known = {natives[name] for name in managed | ended}
    unmanaged = [name for name, native in natives.items() if native not in known]
    return tuple(sorted([*unmanaged, *parts.volumes.others()])), tuple(sorted(ended))


def _volume_names(capabilities: Capabilities, record_id: str) -> list[str]:
    if taken_apart(record_id).image:
        return [capabilities.image_volume(record_id).name]
    return [capabilities.disk_volume(record_id, format).name for format in capabilities.disk_names]


def _adopted(parts: Parts, record_id: str, state: State, natives: Mapping[str, str]) -> Iterable[str]:
    """The name that an adopted volume kept, from its record; nothing for a record that has ended, or is damaged."""
    if state in ENDED:
        return ()
    try:
        volume = parts.records.read(record_id).volume
    except (LostMetadata, NewerSchema):
        return ()
    return (volume.name,) if natives.get(volume.name) == volume.adopted else ()
