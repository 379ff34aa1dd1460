# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""What a record is: names, states, and the immutable bodies of images and disks.

A name is never reused. It has a readable part and a fresh suffix, joined by ``+``, so that one listing of a
pool tells which instance and role, or which image key, every record is about::

    web1+root+k7d2m4q9xa3e                       the disk of role ``root`` of instance ``web1``
    image+debian-12+9f86d081884c7d65+p4x8...     an image; the third part is a digest of its key

The body of a record is written once, before its volume exists. Only the state moves.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any, Union

from .._ground.errors import BadInput, LostMetadata, NewerSchema

SCHEMA = 1
SUFFIX_LENGTH = 12
_INSTANCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ROLE = re.compile(r"[a-z0-9][a-z0-9-]{0,15}")
_NAME = re.compile(
    r"image\+[A-Za-z0-9][A-Za-z0-9._-]{0,63}\+[0-9a-f]{16}\+[a-z0-9]{%d}"
    r"|[A-Za-z0-9][A-Za-z0-9._-]{0,63}\+[a-z0-9][a-z0-9-]{0,15}\+[a-z0-9]{%d}" % (SUFFIX_LENGTH, SUFFIX_LENGTH)
)


class State(str, Enum):
    """The states of a record. The value is what stands in a file name or an omap."""

    PENDING = "pending"
    FILLING = "filling"
    READY = "ready"
    FLAT = "flat"
    RETIRED = "retired"
    QUARANTINED = "quarantined"
    DELETING = "deleting"
    GONE = "gone"
    RELEASED = "released"
    """Given up without touching the volume, which is not ours: a withdrawn adoption, a disk no longer managed."""
    MOVING = "moving"
    """Seen without a state: a listing passed while the record moved. Never stored."""

    def __str__(self) -> str:
        return self.value


#: Which moves a record may make. The stores do not check them; the algorithms ask for no other.
MOVES: Mapping[State, frozenset[State]] = {
    State.PENDING: frozenset({State.READY, State.FLAT, State.DELETING, State.RELEASED}),
    State.FILLING: frozenset({State.READY, State.DELETING}),
    State.READY: frozenset({State.FLAT, State.RETIRED, State.QUARANTINED, State.DELETING, State.RELEASED}),
    State.FLAT: frozenset({State.DELETING, State.RELEASED}),
    State.RETIRED: frozenset({State.DELETING, State.QUARANTINED}),
    State.QUARANTINED: frozenset({State.DELETING}),
    State.DELETING: frozenset({State.GONE}),
    State.GONE: frozenset(),
    State.RELEASED: frozenset(),
}
LONGEST_LIFE = 5
"""The most moves that one record can make."""

ENDED = frozenset({State.GONE, State.RELEASED})
USABLE = frozenset({State.READY, State.FLAT})


@dataclass(frozen=True)
class Volume:
    """A volume's address in its pool. ``format`` is what the record says, never what the data looks like.

    ``adopted`` is the backend's own lasting id (inode, LV UUID, RBD id) of a volume that we did not make.
    """

    name: str
    format: str
    adopted: str = ""

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Image:
    """A cached image. ``key`` says what identified it, ``source`` where it came from, without secrets."""

    id: str
    key: str
    name: str
    source: str
    volume: Volume
    created: str
    owner: str

    kind = "image"

    def __str__(self) -> str:
        return self.id


@dataclass(frozen=True)
class Disk:
    """A volume of an instance. ``size`` (bytes) is the size it was made with; growing shows in the volume.

    ``origin`` tells where the content came from, for ever, and is never a reference. ``backing`` is the image
    that the volume needs to be readable, as long as the state is not ``flat``.
    """

    id: str
    instance: str
    role: str
    size: int
    volume: Volume
    created: str
    owner: str
    backing: str | None = None
    strategy: str = ""
    reason: str = ""
    origin: Mapping[str, Any] = field(default_factory=dict)

    kind = "disk"

    def __str__(self) -> str:
        return self.id


Record = Union[Image, Disk]


@dataclass(frozen=True)
class Name:
    """A record's id, taken apart: ``instance`` and ``role`` of a disk, ``image`` and ``key_hash`` of an image."""

    instance: str = ""
    role: str = ""
    image: str = ""
    key_hash: str = ""


def key_hash(key: str) -> str:
    """The short digest of an image key that stands in image ids."""
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def image_id(name: str, key: str, suffix: str) -> str:
    """The id of a new cached image."""
    return f"image+{checked_image_name(name)}+{key_hash(key)}+{suffix}"


def disk_id(instance: str, role: str, suffix: str) -> str:
    """The id of a new disk."""
    return f"{checked_instance(instance)}+{checked_role(role)}+{suffix}"


def is_id(text: str) -> bool:
    """Whether ``text`` can be a record's id. Guards what comes in and what a listing shows."""
    return _NAME.fullmatch(text) is not None


def taken_apart(record_id: str) -> Name:
    """What the id alone tells."""
    parts = record_id.split("+")
    if len(parts) == 4:
        return Name(image=parts[1], key_hash=parts[2])
    return Name(instance=parts[0], role=parts[1])


def remedy(record_id: str) -> str:
    """What to do about a record that is lost, as a clause. That of an image is not restored: nobody can vouch for what
    the image holds."""
    if taken_apart(record_id).image:
        return "flatten the disks that need the image, and bring it in anew with cached_image"
    return "restore it with disk_metadata state=rebuilt"


def state_named(word: str, record_id: str) -> State:
    """The state that a store calls ``word``; NewerSchema for one that we do not know, since it could mean anything."""
    try:
        return State(word)
    except ValueError:
        raise NewerSchema(
            f"The record of {record_id} is in state {word!r}, which this version of virt.storage does not know: "
            "use a newer version of the collection.",
            id=record_id,
        ) from None


def checked_instance(name: str) -> str:
    """The name of an instance, or BadInput."""
    return _checked(
        _INSTANCE,
        name,
        "instance",
        "1 to 64 letters, digits, '.', '_' or '-', beginning with a letter or digit",
    )


def checked_image_name(name: str) -> str:
    """The name of an image, or BadInput."""
    return _checked(
        _INSTANCE,
        name,
        "image",
        "1 to 64 letters, digits, '.', '_' or '-', beginning with a letter or digit",
    )


def checked_role(name: str) -> str:
    """The role of a disk, or BadInput."""
    return _checked(
        _ROLE,
        name,
        "disk role",
        "1 to 16 lower-case letters, digits or '-', beginning with a letter or digit",
    )


def _checked(pattern: re.Pattern[str], name: str, what: str, expected: str) -> str:
    if not isinstance(name, str) or pattern.fullmatch(name) is None:
        shown = json.dumps(str(name)[:40] + ("..." if len(str(name)) > 40 else ""))
        raise BadInput(f"The {what} name {shown} cannot be used: it must be {expected}. Choose such a name.")
    return name


def to_json(record: Record) -> bytes:
    """The body as it is stored: one JSON object, one line."""
    body = dict(asdict(record), kind=record.kind, schema=SCHEMA)
    return (json.dumps(body, sort_keys=True) + "\n").encode()


def from_json(data: bytes, record_id: str) -> Record:
    """The body of ``record_id``, checked field by field; raises LostMetadata or NewerSchema.

    What stands here was written by us, but on storage that others can reach: nothing is taken on trust.
    """
    try:
        body = json.loads(data)
        schema, kind = body.pop("schema"), body.pop("kind")
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        raise LostMetadata(
            f"The record of {record_id} cannot be read: its content is not a record. "
            f"Nothing is guessed from the volume; {remedy(record_id)}.",
            id=record_id,
        ) from None
    if not isinstance(schema, int) or schema > SCHEMA:
        raise NewerSchema(
            "The record of %s has schema %.40s, and this version of virt.storage knows up to %d: "
            "use a newer version of the collection." % (record_id, json.dumps(schema), SCHEMA),
            id=record_id,
        )
    try:
        record = _build(kind, body)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise LostMetadata(
            f"The record of {record_id} is damaged ({error}). Nothing is guessed from the volume; {remedy(record_id)}.",
            id=record_id,
        ) from None
    if record.id != record_id:
        raise LostMetadata(
            f"The record of {record_id} holds the body of another one: {remedy(record_id)}.",
            id=record_id,
        )
    return record


def facts_from_json(data: bytes, record_id: str, topic: str, where: str) -> dict[str, Any]:
    """The facts of one topic. Damaged ones are empty: that they were noted is known, and nothing else. LostMetadata for
    those about the pool itself, whose id is no record's: names, pins and limits keep images, the journal disks."""
    try:
        facts = json.loads(data)
    except (ValueError, RecursionError):
        facts = None
    if isinstance(facts, dict):
        return facts
    if is_id(record_id):
        return {}
    raise LostMetadata(
        f"The facts {record_id}/{topic} of the pool are damaged: restore {where} from a backup, or remove it and state "
        "anew what it held.",
        id=record_id,
    )


def _build(kind: str, body: dict[str, Any]) -> Record:
    volume = Volume(**body.pop("volume"))
    for value in (volume.name, volume.format, volume.adopted):
        _text(value)
    if kind == "image":
        image = Image(volume=volume, **body)
        for value in (
            image.id,
            image.key,
            image.name,
            image.source,
            image.created,
            image.owner,
        ):
            _text(value)
        return image
    if kind != "disk":
        raise ValueError("unknown kind")
    disk = Disk(volume=volume, **body)
    for value in (
        disk.id,
        disk.instance,
        disk.role,
        disk.created,
        disk.owner,
        disk.strategy,
        disk.reason,
    ):
        _text(value)
    if disk.backing is not None and not is_id(_text(disk.backing)):
        raise ValueError("the backing is not a record's id")
    if not isinstance(disk.size, int) or isinstance(disk.size, bool) or disk.size < 0:
        raise ValueError("the size is not a number of bytes")
    if not isinstance(disk.origin, dict):
        raise ValueError("the origin is not a mapping")
    return disk


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("a text field holds something else")
    return value
