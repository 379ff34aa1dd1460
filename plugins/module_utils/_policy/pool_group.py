# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.
"""Where a logical pool comes from: a volume group of LVM, and how disks stand in it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar
from xml.etree import ElementTree

from .._ground.errors import BadInput
from .pool_names import normal_path, shown

_GROUP = re.compile(r"[A-Za-z0-9_.+][A-Za-z0-9_.+-]{0,66}")


@dataclass(frozen=True)
class VolumeGroup:
    """Where a logical pool comes from: a volume group, by its name."""

    group: str

    PARTS: ClassVar[tuple[str, ...]] = ("device", "name", "format")

    def __str__(self) -> str:
        return f"volume group {self.group}"

    @property
    def place(self) -> str:
        """As the beginning of a sentence."""
        return f"The volume group {self.group}"

    def fields(self) -> dict[str, Any]:
        """As the module takes and returns it."""
        return {"group": self.group}

    @classmethod
    def read(cls, root: ElementTree.Element) -> VolumeGroup:
        """From the XML of a pool."""
        return cls(root.findtext("./source/name") or root.findtext("name") or "")

    def write(self, _root: ElementTree.Element, source: ElementTree.Element) -> None:
        """Into the XML of a pool, whose ``source`` has none of the ``PARTS`` any more."""
        ElementTree.SubElement(source, "name").text = self.group
        ElementTree.SubElement(source, "format").set("type", "lvm2")


@dataclass(frozen=True)
class GroupWish:
    """How a volume group is wished: made of ``devices`` where there is none, and its disks ``thin``, in ``thin_pool``
    where that is there already. None is "as it is", and thin in a group that is made."""

    devices: tuple[str, ...] = ()
    thin: bool | None = None
    thin_pool: str | None = None

    def given(self) -> list[str]:
        """The options that say something."""
        return [f"logical.{name}" for name, value in vars(self).items() if value not in (None, ())]


@dataclass(frozen=True)
class FoundGroup:
    """What there is of a volume group. ``thin_pool`` is the one that our disks are in, "" where they are thick."""

    exists: bool
    thin_pool: str = ""


def checked_group(given: Mapping[str, Any]) -> tuple[dict[str, Any], GroupWish]:
    """The fields of a `VolumeGroup` that were given and the rest of the wish, in normal form, or `BadInput`."""
    group = given.get("group")
    if group is not None and not (_GROUP.fullmatch(group) and group not in (".", "..")):
        raise BadInput(f"The volume group {shown(group)} cannot be used: give a name such as vg0.")
    if given.get("thin") is False and given.get("thin_pool"):
        raise BadInput("The option logical.thin_pool is for thin disks: leave logical.thin out, or say true.")
    devices = tuple(normal_path(device) for device in given.get("devices") or ())
    wish = GroupWish(devices, given.get("thin"), given.get("thin_pool") or None)
    return {} if group is None else {"group": group}, wish
