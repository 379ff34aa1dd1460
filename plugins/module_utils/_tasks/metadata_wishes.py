# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""The arguments of `disk_metadata`, checked as far as that goes without a look at the pool."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .._backends.file import CAPABILITIES, PRIVATE
from .._ground.errors import BadInput
from .._policy.plan import Fields
from .._policy.pool_names import shown
from .._records.types import checked_instance, checked_role, is_id, taken_apart

DEFAULT_ROLE = "root"
LONGEST_NAME = 255
"""Bytes that a file name may have."""
_DISKS = CAPABILITIES.disk_names["raw"].partition("{id}")[0]


@dataclass(frozen=True)
class Statement:
    """What the operator says a volume is. ``image`` is the name, key or id of the image under it, or empty."""

    volume: str
    instance: str
    role: str
    format: str
    image: str = ""

    @property
    def what(self) -> str:
        """The disk, for sentences."""
        return f"disk {self.role} of {self.instance}"


def statements(entries: Sequence[Fields], state: str) -> list[Statement]:
    """What `present` and `rebuilt` are told, each checked by itself and all together."""
    for entry in entries:
        if entry["id"] is not None:
            raise BadInput(f"The id {shown(entry['id'])} is given with state={state}, which makes the ids itself.")
        for option in ("volume", "instance", "format"):
            if entry[option] is None:
                raise BadInput(f"A disk of state={state} lacks its {option}: nothing about a volume is guessed.")
    found = [
        Statement(
            checked_volume(entry["volume"]),
            checked_instance(entry["instance"]),
            checked_role(entry["role"] or DEFAULT_ROLE),
            entry["format"],
            entry["image"] or "",
        )
        for entry in entries
    ]
    _only_once([each.volume for each in found], "volume")
    _only_once([each.what for each in found], "disk")
    return found


def selections(entries: Sequence[Fields]) -> list[Fields]:
    """Which disks `absent` is told: each by its id, by its volume, or by instance and role."""
    for entry in entries:
        given = [option for option in ("id", "volume", "instance") if entry[option] is not None]
        if len(given) != 1:
            raise BadInput(
                f"A disk of state=absent is given by {' and '.join(given) or 'nothing'}: give one of id, volume and "
                "instance."
            )
        if entry["id"] is not None and (not is_id(entry["id"]) or taken_apart(entry["id"]).image):
            raise BadInput(f"The id {shown(entry['id'])} is not that of a disk: disk_metadata_info lists them.")
        if entry["volume"] is not None:
            checked_volume(entry["volume"])
        if entry["instance"] is not None:
            checked_instance(entry["instance"])
            checked_role(entry["role"] or DEFAULT_ROLE)
    return list(entries)


def checked_volume(name: str) -> str:
    """The name of a volume of a pool on files, or BadInput."""
    bare = name[len(_DISKS) :] if name.startswith(_DISKS) else name
    if not bare or "/" in bare or bare in (".", "..", PRIVATE) or not bare.isprintable():
        raise BadInput(
            f"The volume name {shown(name)} cannot be used: give the name of a file in the pool's own folder, as "
            "disk_metadata_info lists it."
        )
    if len(bare.encode(errors="surrogateescape")) > LONGEST_NAME:
        raise BadInput(
            f"The volume name {shown(name)} cannot be used: no file has a name of more than {LONGEST_NAME} bytes."
        )
    return name


def _only_once(names: Sequence[str], what: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise BadInput(f"The {what} {shown(name)} is given twice: list it once.")
        seen.add(name)
