# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""Disks as the modules return them, with the element for the domain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .._algorithms.pool import Pool
from .._algorithms.survey import SeenDisk
from .._policy.disk_plan import Wanted
from .._policy.disk_xml import TARGETS, Attachment, Link, default_target, disk_xml
from .._policy.plan import Fields
from .disk_contents import Recipe
from .session import Session

CHAIN = "_chain"
"""Carries the chain from describing a disk to its element, which needs to know its neighbours' targets."""


def describe(session: Session, pool: Pool, seen: SeenDisk) -> Fields:
    """A disk as it stands; sizes in bytes. Its element is left to ``with_targets``, which takes out ``CHAIN``."""
    disk = seen.disk
    backend = session.backend(pool)
    place = backend.location(disk.volume)
    chain = [Link(place, disk.volume.format)]
    if seen.backing is not None and pool.capabilities.spells_backing:
        chain.append(Link(backend.location(seen.backing), seen.backing.format))
    return {
        "instance": disk.instance,
        "role": disk.role,
        "pool": pool.name,
        "id": disk.id,
        "state": str(seen.state),
        "path": place.name,
        "format": disk.volume.format,
        "size": seen.stat.size if seen.stat else None,
        "image": disk.origin.get("name") if "blank" not in disk.origin else None,
        "backing": disk.backing if seen.backing else None,
        "strategy": disk.strategy,
        "reason": disk.reason,
        CHAIN: chain,
    }


def described_fully(session: Session, pool: Pool, seen: SeenDisk) -> Fields:
    """A disk as it stands, with what only a report asks for, and the element that it gets where nothing is said of how
    a guest is to see it."""
    shown = describe(session, pool, seen)
    disk = seen.disk
    # The digest of config files stays in the record: see ``disk_plan.CONFIG``.
    shown["origin"] = {key: True if key == "config" else value for key, value in disk.origin.items()}
    shown["created"] = disk.created
    shown["allocated"] = seen.stat.allocated if seen.stat else None
    how = Attachment(bus="sata", device="cdrom") if "config" in disk.origin else Attachment()
    _finish(shown, how, default_target(how.bus, 0))
    return shown


def foreseen(pool: str, want: Wanted, recipe: Recipe | None, after: Mapping[str, Any]) -> Fields:
    """A disk that a check run foresees. Its id and path, and so its element, are not known before it is made."""
    offer = recipe.offer if recipe is not None else None
    flattened = "flattened" in after
    return {
        "instance": want.instance,
        "role": want.role,
        "pool": pool,
        "id": None,
        "state": "flat" if flattened else "ready",
        "path": None,
        "format": None,
        "size": after.get("size"),
        "image": offer.name or want.content if offer and want.kind == "image" else None,
        "backing": None,
        "strategy": offer.strategy if offer else None,
        "reason": offer.reason if offer else None,
        CHAIN: None,
    }


def changed(shown: Fields, after: Mapping[str, Any]) -> Fields:
    """A disk that stands, as a check run foresees it: grown, or flattened."""
    if "size" in after:
        shown["size"] = after["size"]
    if after.get("flattened"):
        shown.update({"state": "flat", "backing": None, CHAIN: shown[CHAIN][:1]})
    return shown


def with_targets(shown: Sequence[Fields], wanted: Sequence[Wanted]) -> list[Fields]:
    """Give every disk its target: the one asked for, or the next one that is free on its bus in its instance."""
    taken: dict[str, set[str]] = {}
    for want in wanted:
        if want.attachment.target:
            taken.setdefault(want.instance, set()).add(want.attachment.target)
    positions: dict[tuple[str, str], int] = {}
    for disk, want in zip(shown, wanted):
        how, used = want.attachment, taken.get(want.instance, ())
        family = (want.instance, TARGETS[how.bus])
        target = how.target
        while target is None:
            position = positions[family] = positions.get(family, -1) + 1
            candidate = default_target(how.bus, position)
            target = None if candidate in used else candidate
        _finish(disk, how, target)
    return list(shown)


def _finish(disk: Fields, how: Attachment, target: str) -> None:
    chain = disk.pop(CHAIN, None)
    disk["target"] = target
    disk["xml"] = disk_xml(chain, how, target) if chain else None
