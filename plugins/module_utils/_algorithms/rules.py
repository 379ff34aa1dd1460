# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""The decisions of the protocol, pure: what a listing permits. ``docs/architecture.md`` tells why they are safe."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace

from .._records.contract import Listing
from .._records.types import ENDED, USABLE, Disk, Image, Record, State, Volume, is_id, taken_apart

PROBE = "probe+"
"""Names of probes begin so; they are no references."""

FILL_GENERATIONS = 16
"""How many frozen fillers of one image are stepped over before we give up."""


def pause(owner: str, lease: float, attempt: int) -> float:
    """Seconds to wait before a disk is begun anew. Two processes that begin the same disks at once both withdraw: they
    would meet again and again if their waits, which follow from their names, were alike."""
    share = int.from_bytes(hashlib.sha256(f"{owner} {attempt}".encode()).digest()[:4], "big") / (1 << 32)
    return lease * (attempt + 1) * (0.1 + share) / 20


def reference_names(names: Iterable[str]) -> list[str]:
    """The names that keep an image: all but probes, whether anybody can read them or not."""
    return sorted(name for name in names if not name.startswith(PROBE))


def rivals(listing: Listing, disk: Disk) -> list[str]:
    """Other live records for the same role of the same instance."""
    return [other for other in listing.slot(disk.instance, disk.role) if other != disk.id]


def lost_names(names: Iterable[str], listing: Listing, instance: str, role: str) -> list[str]:
    """Those of an image's ``names`` that a lost record of this place left: ids that no record has.

    ``listing`` is made after ``names``: every record is older than its reference, so one that is not listed is lost.
    """
    place = (instance, role)
    lost = (name for name in names if is_id(name) and listing.state(name) is None)
    return sorted(name for name in lost if (taken_apart(name).instance, taken_apart(name).role) == place)


def obstacle(listing: Listing, disk: Disk, lost: Sequence[str] = ()) -> str | None:
    """Why the volume of ``disk`` may not be made, from a listing made after its record and reference; or None.

    ``lost`` are the ``lost_names`` of its image, from after the reference, where the disk's record is rebuilt. They
    let it stand on a retired image: whoever looked for references before ours stood saw theirs, which keep the image
    because nobody knows whose they are, and whoever looks later sees ours. Without one, somebody may have seen that
    nothing refers to the image, and be about to remove it.
    """
    if listing.state(disk.id) is not State.PENDING:
        return "its own record was taken back by somebody else"
    others = rivals(listing, disk)
    if others:
        return "another disk holds its place: {}".format(", ".join(others))
    serving = (State.READY, State.RETIRED) if lost else (State.READY,)
    if disk.backing is not None and listing.state(disk.backing) not in serving:
        return f"its image {disk.backing} is not ready any more"
    return None


def oldest(images: Sequence[Image]) -> Image | None:
    """The one to use among ready images of one key: by what their immutable bodies say, never by a clock at hand."""
    return min(images, key=lambda image: (image.created, image.id), default=None)


def is_adoption(record: Record) -> bool:
    """Whether the record's volume existed before the record did."""
    return bool(record.volume.adopted)


def found_at(record: Record) -> Volume | None:
    """The adopted volume under the name at which it was found, where ours is another."""
    found = record.origin.get("found") if isinstance(record, Disk) else None
    if not isinstance(found, str) or found in ("", record.volume.name):
        return None
    return replace(record.volume, name=found)


def withdrawn(record: Record) -> State:
    """Where a record goes that never became ready: an adopted volume is somebody's disk and stays."""
    return State.RELEASED if is_adoption(record) else State.DELETING


def worked(state: State | None) -> bool:
    """Whether this state says that publishing had worked, although the reply said otherwise."""
    return state in USABLE or state in (State.RETIRED, State.QUARANTINED)


def reference_is_due(state: State | None) -> bool:
    """Whether a reference held by a record in this state must stay. A name without a record stays: nobody knows."""
    return state is None or (state not in ENDED and state is not State.FLAT)
