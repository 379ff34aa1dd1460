# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""Records and stated disks as the modules return them. Sizes are bytes."""

from __future__ import annotations

from .._algorithms.pool import Pool
from .._algorithms.verify import Holdings, id_in, look
from .._policy.plan import Fields
from .._records.types import Disk, Image, State, Volume, taken_apart
from .metadata_plan import Step
from .metadata_wishes import Statement
from .pool_reader import Reader


async def described(pool: Pool) -> Fields:
    """All that the records of a pool say, with their facts; and the volumes that no live record names."""
    held = await look(pool)
    records = []
    for record_id, state in sorted(held.listing.states.items()):
        record = held.records.get(record_id)
        shown: Fields = {"id": record_id, "state": str(state)}
        if record is None:
            shown["kind"] = "image" if taken_apart(record_id).image else "disk"
            if record_id in held.unreadable:
                shown["problem"] = held.unreadable[record_id].message
        else:
            shown.update(_body(record), facts=dict(await pool.records.notes(record_id)))
        if record_id in held.references:
            shown["references"] = list(held.references[record_id])
        records.append(shown)
    unmanaged = sorted(
        name
        for name in held.inventory
        if held.owner(name) is None and id_in(pool.capabilities, name) not in held.unreadable
    )
    return {"pool": pool.name, "records": records, "unmanaged": unmanaged}


def _body(record: Disk | Image) -> Fields:
    shown: Fields = {
        "kind": record.kind,
        "volume": record.volume.name,
        "format": record.volume.format,
        "adopted": record.volume.adopted,
        "created": record.created,
        "owner": record.owner,
    }
    if isinstance(record, Image):
        return {**shown, "name": record.name, "key": record.key, "source": record.source}
    return {
        **shown,
        "instance": record.instance,
        "role": record.role,
        "size": record.size,
        "backing": record.backing,
        "strategy": record.strategy,
        "reason": record.reason,
        "origin": dict(record.origin),
    }


async def managed(reader: Reader, held: Holdings, statement: Statement) -> Fields:
    """The disk of a statement as its record has it now."""
    for record_id in held.listing.slot(statement.instance, statement.role):
        disk, state = held.records.get(record_id), held.listing.state(record_id)
        if isinstance(disk, Disk):
            stat = await reader.pool.volumes.stat(disk.volume)
            return {
                "instance": disk.instance,
                "role": disk.role,
                "pool": reader.pool.name,
                "id": disk.id,
                "state": str(state),
                "volume": disk.volume.name,
                "path": reader.path(disk.volume),
                "format": disk.volume.format,
                "size": stat.size if stat else None,
                "backing": disk.backing if state is State.READY else None,
            }
    return {}


def foreseen(reader: Reader, statement: Statement, step: Step) -> Fields:
    """The disk of a statement as a run would make it. What only a run can tell is None: the id, and with it the new
    name of a volume that moves."""
    volume = step.disk.volume.name if step.disk else step.wish.name if step.wish else ""
    backing = step.disk.backing if step.disk else step.wish.backing if step.wish else None
    return {
        "instance": statement.instance,
        "role": statement.role,
        "pool": reader.pool.name,
        "id": step.disk.id if step.disk else None,
        "state": "ready",
        "volume": volume or None,
        "path": reader.path(Volume(volume, statement.format)) if volume else None,
        "format": statement.format,
        "size": step.wish.size if step.wish else None,
        "backing": backing or None,
    }
