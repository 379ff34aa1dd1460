# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.
"""What is wished of a pool, and what was found of it: the values that its plan is made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .pool_group import FoundGroup, GroupWish
from .pool_xml import Definition

FOLDER_MODE = 0o711
"""Mode of a folder that is made: libvirt's qemu user has to pass through it, and nobody else to list it."""
SHOWN = 5
"""How many names a message lists before it only counts."""


@dataclass(frozen=True)
class Wish:
    """What the user asked for; ``None`` is "as it is".

    ``sources`` holds, by type of pool, those fields of its source (see `SOURCES`) that were given, ``limits`` those
    limits of the image cache; a limit of 0 is none. ``key`` is the key of a Ceph user, ``lvm`` how a volume group is
    to be.
    """

    name: str
    state: str = "active"
    type: str | None = None
    path: str | None = None
    sources: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    key: str | None = field(default=None, repr=False)
    lvm: GroupWish = field(default_factory=GroupWish)
    mode: int | None = None
    owner: str | None = None
    group: str | None = None
    autostart: bool | None = None
    labels: Mapping[str, Any] | None = None
    limits: Mapping[str, int] | None = None
    force: bool = False
    remove_contents: bool = False


@dataclass(frozen=True)
class Folder:
    """The folder of a pool; ``mode``, ``owner`` and ``group`` are None where it does not exist.

    ``problem`` says why it cannot be used, or cannot be made; "" when it can.
    """

    exists: bool
    mode: int | None = None
    owner: str | None = None
    group: str | None = None
    problem: str = ""
    parent_missing: bool = False


@dataclass(frozen=True)
class Contents:
    """What is in a pool: labels and cache limits, recorded disks and images, and what has no record.

    ``cached`` is what the images take up in bytes, None where nobody asked. ``leftovers`` are volumes whose record has
    ended, ``busy`` the locks that somebody holds. ``problem`` says why nothing of this could be read; "" when it could.
    """

    labels: Mapping[str, Any] = field(default_factory=dict)
    limits: Mapping[str, int] = field(default_factory=dict)
    disks: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    unmanaged: tuple[str, ...] = ()
    cached: int | None = None
    leftovers: tuple[str, ...] = ()
    busy: tuple[str, ...] = ()
    problem: str = ""


@dataclass(frozen=True)
class Keys:
    """The keys that libvirt has for a pool on Ceph.

    ``used`` is in the secret that the pool's definition names, None where there is none or it is private. ``own`` is in
    the secret that we make for a pool of this name, None where there is no such secret, and ``own_users`` are the
    guests whose definition names that.
    """

    used: str | None = field(default=None, repr=False)
    own: str | None = field(default=None, repr=False)
    own_users: tuple[str, ...] = ()


@dataclass(frozen=True)
class Found:
    """What is there. ``definition`` is None for a pool that does not exist.

    ``contents`` is None where they cannot be read, because the pool is not mounted or not started. ``mount`` are the
    options of what is mounted for a netfs pool, "" for nothing. ``group`` is the volume group of a logical pool, None
    where it was not looked at. ``obstacle`` says why a Ceph cluster or a volume group cannot be used, "" when it can.
    ``taken_by`` is another pool at the wished place. ``live_users`` are guests that hold something in
    the pool now, ``users`` all whose definition names it.
    """

    definition: Definition | None = None
    active: bool = False
    persistent: bool = True
    autostart: bool = False
    folder: Folder | None = None
    contents: Contents | None = field(default_factory=Contents)
    keys: Keys = field(default_factory=Keys)
    group: FoundGroup | None = None
    mount: str = ""
    obstacle: str = ""
    taken_by: str = ""
    live_users: tuple[str, ...] = ()
    users: tuple[str, ...] = ()

    @property
    def state(self) -> str | None:
        """As the module says it."""
        if self.definition is None:
            return None
        return "active" if self.active else "inactive"


def listed(names: tuple[str, ...]) -> str:
    """Some names for a message, and how many more there are."""
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
