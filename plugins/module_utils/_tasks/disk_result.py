# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""Disks as the modules return them, with the element for the domain."""

from __future__ import annotations

from collections.abc import Sequence

from .._algorithms.pool import Pool
from .._algorithms.survey import SeenDisk
from .._policy.disk_plan import Wanted
from .._policy.disk_xml import Attachment, Link, default_target, disk_xml
from .._policy.plan import Fields
from .._records.types import Image
from .session import Session

CHAIN = "_chain"
"""Carries the chain from describing a disk to its element, which needs to know its neighbours' targets."""


def describe(session: Session, pool: Pool, seen: SeenDisk, want: Wanted | None = None) -> Fields:
    """A disk as it stands; sizes in bytes."""
    disk = seen.disk
    path = session.path(pool, disk.volume.name)
    chain = [Link(path, disk.volume.format)]
    if seen.backing is not None:
        chain.append(Link(session.path(pool, seen.backing.volume.name), seen.backing.volume.format))
    shown: Fields = {
        "instance": disk.instance,
        "role": disk.role,
        "pool": pool.name,
        "id": disk.id,
        "state": str(seen.state),
        "path": path,
        "format": disk.volume.format,
        "size": seen.stat.size if seen.stat else None,
        "allocated": seen.stat.allocated if seen.stat else None,
        "image": disk.origin.get("name"),
        "backing": seen.backing.id if seen.backing else None,
        "strategy": disk.strategy,
        "reason": disk.reason,
        "origin": dict(disk.origin),
        "created": disk.created,
    }
    if want is None:
        how = Attachment(bus="sata", device="cdrom") if "config" in disk.origin else Attachment()
        shown["xml"] = disk_xml(chain, how, default_target(how.bus, 0))
        return shown
    return {**shown, CHAIN: chain}


def foreseen(session: Session, pool: str, want: Wanted, image: Image | None) -> Fields:
    """A disk that a check run foresees. Its path, and so its element, are not known before it is made."""
    return {
        "instance": want.instance,
        "role": want.role,
        "pool": pool,
        "id": None,
        "state": "ready",
        "path": None,
        "size": want.bytes or None,
        "image": want.content if want.kind == "image" else None,
        "backing": image.id if image is not None else None,
        "xml": None,
    }


def with_targets(shown: Sequence[Fields], wanted: Sequence[Wanted]) -> list[Fields]:
    """Give every disk its target: the one asked for, or the next one that is free on its bus in its instance."""
    taken: dict[str, set[str]] = {}
    for want in wanted:
        if want.attachment.target:
            taken.setdefault(want.instance, set()).add(want.attachment.target)
    for disk, want in zip(shown, wanted):
        target = want.attachment.target
        used = taken.setdefault(want.instance, set())
        position = 0
        while target is None:
            candidate = default_target(want.attachment.bus, position)
            if candidate not in used:
                target = candidate
                used.add(target)
            position += 1
        disk["target"] = target
        chain = disk.pop(CHAIN, None)
        if chain is not None:
            disk["xml"] = disk_xml(chain, want.attachment, target)
    return list(shown)
