# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""The volume contract: what a backend does for the algorithms, as operations.

Names are fresh, so no two actors ever make the same volume. Mutators are durable when they return. Formats come
from records; only ``stat`` of a volume that the record calls qcow2 reads its header, and no primitive ever looks
into data to learn what it is. A backend is a class with a method for each operation, same name, same arguments
(and ``<name>_all`` for those that gain from a batch), and those of ``Backend``. It passes ``tests/contract``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from .._ground.contents import Content, Means, RawReader
from .._ground.disk_data import DiskReader
from .._ground.intake import Sink
from .._ground.ops import Facts, Op, Outcome
from .._policy.disk_xml import Location
from .._records.types import Volume


@dataclass(frozen=True)
class Capabilities:
    """What a backend offers, as data.

    ``image_name`` and the values of ``disk_names`` are patterns with ``{id}``; ``clones`` maps each way of cloning
    to the format of the disk it makes, the default first; a disk made in one of the ``independent`` ways needs no
    image once it is made. A volume is adopted in one of the formats of ``disk_names``; one of
    ``moves_adopted`` gets the name that it has there, others keep theirs. ``spells_backing`` tells whether a guest has
    to be told of the image under its disk, ``tells_own`` whether a disk tells what it has of its own over its image,
    ``takes_own`` whether a clone takes that from another. The guest of a disk in a format of ``keeps_space`` must not
    give space back. ``thick`` tells whether a volume takes its whole size from the pool at once, ``follows`` whether
    the disk of a running guest is copied from and to its volumes.
    """

    backend: str
    image_name: str
    disk_names: Mapping[str, str]
    clones: Mapping[str, str]
    clone_reasons: Mapping[str, str] = field(default_factory=dict)
    independent: frozenset[str] = frozenset()
    moves_adopted: frozenset[str] = frozenset()
    spells_backing: bool = True
    tells_own: bool = False
    takes_own: bool = False
    keeps_space: frozenset[str] = frozenset()
    thick: bool = False
    follows: bool = False

    def image_volume(self, record_id: str) -> Volume:
        """Where a new image goes."""
        return Volume(self.image_name.format(id=record_id), "raw")

    def disk_volume(self, record_id: str, format: str) -> Volume:
        """Where a new disk goes."""
        return Volume(self.disk_names[format].format(id=record_id), format)

    @property
    def followed(self) -> str:
        """The format of the copy that ``follow`` makes of all of a disk."""
        return next(iter(self.disk_names))

    @property
    def standing(self) -> frozenset[str]:
        """The formats of disks that stand on their image."""
        return frozenset(format for how, format in self.clones.items() if how not in self.independent)

    @property
    def default_clone(self) -> str:
        """How disks are cloned where nothing is said."""
        return next(iter(self.clones))


@dataclass(frozen=True)
class Stat:
    """A volume's size as a guest sees it and its allocation, in bytes, and its lasting native id."""

    size: int
    allocated: int
    native: str


@dataclass(frozen=True)
class Route:
    """How a content comes into a pool. ``strategy`` is ``source`` where it is read, ``clone`` where it is not, and
    then ``reason`` says why, and ``copies`` whether its data is copied nevertheless, by the storage; ``staging`` is the
    folder in which all of it is kept on its way, if any."""

    strategy: str = "source"
    reason: str = ""
    staging: str = ""
    copies: bool = False


@dataclass(frozen=True)
class Users:
    """Who uses a volume. ``unknown`` counts as used: it says why it could not be told."""

    by: tuple[str, ...] = ()
    unknown: str = ""

    def __bool__(self) -> bool:
        return bool(self.by or self.unknown)

    def __str__(self) -> str:
        return ", ".join(self.by) or self.unknown or "nobody"


class Volumes:
    """The volumes of one pool, for algorithms to await."""

    def __init__(self, pool: str) -> None:
        self._pool = pool

    def _op(self, primitive: str, *args: Any, writes: bool = True) -> Op[Any]:
        return Op(self._pool, "volumes", primitive, args, writes)

    def inventory(self) -> Op[Mapping[str, str]]:
        """Every volume of the pool: name to native id. Fresh, not atomic; reads no data."""
        return self._op("inventory", writes=False)

    def stat(self, volume: Volume) -> Op[Stat | None]:
        """The volume as it is now, or None where there is none."""
        return self._op("stat", volume, writes=False)

    def pointer(self, volume: Volume) -> Op[str | None]:
        """The backing that the volume itself names, as it stands there, or None."""
        return self._op("pointer", volume, writes=False)

    def capacity(self) -> Op[tuple[int, int]]:
        """The bytes that the pool can hold in all, and those that are still free."""
        return self._op("capacity", writes=False)

    def allocate(self, volume: Volume, size: int) -> Op[Outcome]:
        """A new blank volume of ``size`` bytes that reads as zeroes. Exclusive. What an earlier try left half made is
        not taken for it."""
        return self._op("allocate", volume, size)

    def fill(self, volume: Volume, content: Any) -> Op[Facts]:
        """A new volume with ``content`` (see ``_ground.contents``); gives its facts (size, digests). Not atomic:
        what a broken fill leaves is removed, never resumed. Raises UnsafeImage, SourceError, OutOfSpace."""
        return self._op("fill", volume, content)

    def patch(self, volume: Volume, content: Any) -> Op[Facts]:
        """Write over a new clone what a disk has of its own (see ``_ground.disk_data``); durable. Where it breaks off,
        the volume is of no use. Only where the backend ``takes_own``."""
        return self._op("patch", volume, content)

    def follow(self, volume: Volume, domain: str, target: str) -> Op[Facts]:
        """Copy the disk ``target`` of a guest that runs on this host to a new volume of its size: all of it to a blank
        one, what it has over its image to a clone of the same. On return the guest stands still, and both are equal and
        durable. Facts and only where as ``patch``, but where the backend ``follows``."""
        return self._op("follow", volume, domain, target)

    def part(self, volume: Volume, keep: bool) -> Op[None]:
        """End what ``follow`` began, if it goes on: the guest goes on with the volume (``keep``) or with its old one.
        Idempotent."""
        return self._op("part", volume, keep)

    def digest(self, volume: Volume) -> Op[str]:
        """The content digest of a sealed image, read anew."""
        return self._op("digest", volume, writes=False)

    def sealed(self, volume: Volume) -> Op[bool]:
        """Whether the volume is sealed as well as its storage allows."""
        return self._op("sealed", volume, writes=False)

    def seal(self, volume: Volume) -> Op[Outcome]:
        """The volume cannot be changed from now on. Idempotent."""
        return self._op("seal", volume)

    def clone(self, image: Volume, volume: Volume, size: int, how: str) -> Op[Outcome]:
        """A new volume of ``size`` bytes that begins with the image's content. Exclusive; refused where the image
        is larger than ``size`` or does not exist."""
        return self._op("clone", image, volume, size, how)

    def grow(self, volume: Volume, size: int) -> Op[Outcome]:
        """Make the volume ``size`` bytes: never smaller, new space reads as zeroes, idempotent. In use is no bar:
        whoever has the volume open is told the new size."""
        return self._op("grow", volume, size)

    def flatten(self, volume: Volume) -> Op[Outcome]:
        """The volume needs no backing on return. Restartable. Refused while it is in use."""
        return self._op("flatten", volume)

    def adopt(self, found: str, volume: Volume) -> Op[Outcome]:
        """Give the volume that stands at ``found``, and is ``volume.adopted``, its place under our name, too.
        No byte is touched. Idempotent."""
        return self._op("adopt", found, volume)

    def leave(self, found: str, volume: Volume) -> Op[Outcome]:
        """Take away the name under which an adopted volume was found, once it stands under ours. Idempotent."""
        return self._op("leave", found, volume)

    def users(self, volume: Volume) -> Op[Users]:
        """Who uses the volume, on any host, by whatever path."""
        return self._op("users", volume, writes=False)

    def remove(self, volume: Volume) -> Op[Outcome]:
        """No such volume on return; ALREADY where there was none; refused while it is in use."""
        return self._op("remove", volume)

    def sweep(self) -> Op[list[str]]:
        """Clear temporary things that dead processes left; gives what was cleared."""
        return self._op("sweep")


class Backend(Protocol):
    """What a backend tells and does besides the primitives. Only ``prepare`` and ``clear`` change anything."""

    def capabilities(self) -> Capabilities:
        """What it offers."""

    def prepare(self) -> None:
        """Make what volumes need. Idempotent."""

    def clear(self) -> None:
        """Take away what ``prepare`` made, in a pool that holds nothing any more."""

    def location(self, volume: Volume) -> Location:
        """How a guest reaches the volume."""

    def name_at(self, address: str) -> str | None:
        """The name that a volume at ``address`` (a path, or what ``Location.name`` is) has here; None where that is no
        place in this pool. Whether there is a volume is not looked at."""

    def flaw(self, volume: Volume) -> str:
        """Why what stands under the volume's name cannot be adopted in its format, as a clause; empty where it can."""

    def obstacle_to_clone(self, how: str) -> str:
        """Why no disk can be cloned in this way, as a clause; empty where one can."""

    def route(self, content: Content) -> Route:
        """How ``fill`` would bring a content in."""

    def filling(self, volume: Volume) -> AbstractContextManager[tuple[Sink, Means]]:
        """A new volume for a content to be poured into, and what that may use. Durable after the block."""

    def reading(self, volume: Volume) -> AbstractContextManager[RawReader]:
        """A sealed image, open for reading; raises NotFound where there is none."""

    def disk_data(self, volume: Volume, own: bool = False, used: bool = False) -> AbstractContextManager[DiskReader]:
        """A disk that nobody uses, open for reading and, as far as the storage can, kept from guests meanwhile: all of
        it or, with ``own``, what it has over its image. Raises InUse or NotFound. One that is ``used``, where the
        backend ``follows``, only tells its amount of data."""

    def to_flatten(self, volume: Volume) -> int | None:
        """How many bytes ``flatten`` would copy; None where that cannot be told. Raises StorageError where the volume
        cannot be flattened."""

    def others(self) -> Sequence[str]:
        """Names of what stands in the pool and is no volume, nor anything of ours."""
