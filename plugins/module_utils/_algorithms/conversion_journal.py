# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""The journal of conversion, in the pool, so that every host reads it.

There is one entry an instance and one a base. It is written whole before the first step of the instance, with what
undoes each step, and durable when ``write`` returns. No step is marked when it is done: each can be repeated, and what
is left to do shows in the files, the records and the definition. So a kill at any point leaves an entry that says both
ways on. Entries are facts of the record store under an id of their own; an emptied one is none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from .._ground.errors import LostMetadata, NewerSchema
from .._ground.ops import Facts
from .pool import Pool

JOURNAL = "conversion"
"""The id that the entries are facts of."""
SCHEMA = 1
CONVERTING, WAITING, CONVERTED = "converting", "waiting", "converted"
ROLLING_BACK, FINALIZING = "rolling_back", "finalizing"
"""States of an entry. Where an instance is rolled back or finalized, its entry is emptied."""
_INSTANCE, _BASE = "instance+", "base+"


@dataclass(frozen=True)
class DiskEntry:
    """A disk as it was found, which is what it goes back to. ``pointer`` are the fields of its backing pointer, and
    ``blank`` tells that nothing was behind it in the header. ``definition`` is the element of the guest's definition,
    "" where there was none. ``out`` tells that its old name may stay until the end; otherwise it goes at once. One
    that is ``in_place`` is a volume of the pool by the name ``path``, and keeps it; with ``flatten`` it lets go of
    what it was cloned from. Size in bytes."""

    role: str
    path: str
    native: str
    format: str
    size: int
    base: str = ""
    image: str = ""
    pointer: Mapping[str, Any] | None = None
    blank: bool = False
    definition: str = ""
    out: bool = True
    in_place: bool = False
    flatten: bool = False


@dataclass(frozen=True)
class Entry:
    """An instance in the journal."""

    name: str
    state: str
    layout: str
    guest: str
    disks: tuple[DiskEntry, ...]

    @property
    def topic(self) -> str:
        """Under which it stands."""
        return _INSTANCE + self.name


@dataclass(frozen=True)
class BaseEntry:
    """A base as it was found: its owner, its mode and whether it was immutable. ``key`` is that of the image that is
    copied from it; one that is the same file is known by its inode, and has "" here."""

    path: str
    native: str
    layout: str
    uid: int
    gid: int
    mode: int
    immutable: bool
    key: str = ""

    @property
    def source(self) -> str:
        """What the record of the image says about where it came from."""
        return f"{self.path} (converted)"

    @property
    def topic(self) -> str:
        """Under which it stands."""
        return _BASE + hashlib.sha256(self.path.encode(errors="surrogateescape")).hexdigest()[:32]


@dataclass(frozen=True)
class Journal:
    """All that stands in a pool's journal: instances by name, bases by path."""

    instances: Mapping[str, Entry]
    bases: Mapping[str, BaseEntry]


async def read_journal(pool: Pool) -> Journal:
    """The journal of the pool; LostMetadata where an entry is none of ours, NewerSchema where it is newer."""
    instances: dict[str, Entry] = {}
    bases: dict[str, BaseEntry] = {}
    for topic, facts in (await pool.records.notes(JOURNAL)).items():
        if facts:
            entry = _from_facts(topic, dict(facts))
            if isinstance(entry, Entry):
                instances[entry.name] = entry
            else:
                bases[entry.path] = entry
    return Journal(instances, bases)


def old_pointers(journal: Journal) -> Mapping[str, str]:
    """What headers name that are not changed yet, or are changed back: by the native id of the disk."""
    return {
        disk.native: str(disk.pointer["backing_file"])
        for entry in journal.instances.values()
        for disk in entry.disks
        if disk.pointer is not None and entry.state not in (CONVERTED, FINALIZING)
    }


async def write(pool: Pool, entry: Entry | BaseEntry) -> None:
    """Put an entry in the place of the one that stands there."""
    await pool.records.note(JOURNAL, entry.topic, {"schema": SCHEMA, **asdict(entry)})


async def move(pool: Pool, entry: Entry, state: str) -> Entry:
    """The entry in another state."""
    moved = replace(entry, state=state)
    await write(pool, moved)
    return moved


async def close(pool: Pool, entry: Entry | BaseEntry) -> None:
    """Nothing is left to do or to undo."""
    await pool.records.note(JOURNAL, entry.topic, {})


def _from_facts(topic: str, facts: Facts) -> Entry | BaseEntry:
    schema = facts.pop("schema", None)
    if isinstance(schema, int) and schema > SCHEMA:
        raise NewerSchema(
            f"The entry {topic} of the conversion's journal has schema {schema}, and this version of virt.storage "
            f"knows up to {SCHEMA}: use a newer version of the collection."
        )
    try:
        if topic.startswith(_BASE):
            entry: Entry | BaseEntry = BaseEntry(**_checked(BaseEntry, facts))
        else:
            disks = tuple(DiskEntry(**_checked(DiskEntry, each)) for each in facts.pop("disks"))
            entry = Entry(**_checked(Entry, {**facts, "disks": disks}))
        if entry.topic != topic:
            raise ValueError("it is about something else")
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise LostMetadata(
            f"The entry {topic} of the conversion's journal is damaged ({error}): restore it from a backup of the "
            "pool, or undo what it was about by hand.",
        ) from None
    return entry


_KINDS = {"str": str, "int": int, "bool": bool, "tuple[DiskEntry, ...]": tuple}


def _checked(kind: Any, values: Facts) -> Facts:
    """The values, each of its field's type."""
    for each in fields(kind):
        wanted = _KINDS.get(str(each.type))
        if wanted is not None and each.name in values and not isinstance(values[each.name], wanted):
            raise ValueError(f"its {each.name} is no {wanted.__name__}")
    return values
