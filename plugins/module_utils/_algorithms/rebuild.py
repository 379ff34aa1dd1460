# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""Rebuild: what an operator states takes the place of a record or a reference that was lost.

A damaged record is turned into a lost one first, not released: the names of lost records keep the images that they
are under, so that the image of the disk is held at every moment until the new record's own reference holds it,
whether we come to the end or die on the way. Nothing here learns from the volume; the task compares what the
operator says with the volume's own header before it comes here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from .._ground.errors import LostMetadata
from .._records.types import Disk, State
from . import rules
from .disks import DiskWish, Made, make
from .pool import Pool, state_of

SERVING = frozenset({State.READY, State.RETIRED, State.QUARANTINED})
"""States of an image whose data disks may need."""


async def rebuild(pool: Pool, wish: DiskWish) -> Made:
    """A new record, under a fresh id, for the volume that ``wish`` adopts; then the names that the old one left go."""
    made = await make(pool, replace(wish, rebuilt=True))
    if made.disk.volume.adopted != wish.native:
        return made  # somebody put another disk in its place: what keeps the image of this one stays
    await pool.records.probe()
    listing = await pool.records.states()
    for image_id in [each for each, state in listing.states.items() if state in SERVING]:
        names = await pool.records.references(image_id)
        listing = await pool.records.states()
        for name in rules.lost_names(names, listing, wish.instance, wish.role):
            await pool.records.unrefer(image_id, name)
    return made


async def give_up(pool: Pool, damaged: Mapping[str, State]) -> None:
    """Turn damaged records, with the states that a listing showed, into lost ones. All of a task's go before the
    first is rebuilt: any of them might name the volume that is to be adopted."""
    for record_id, state in damaged.items():
        await pool.records.drop(record_id, state)


async def restore_state(pool: Pool, disk: Disk) -> bool:
    """Give a disk whose record has a body and lost its state the state ``ready``: its operator says that it is one.

    Its reference, whose name is due as long as there is no state, holds its image meanwhile.
    """
    if await state_of(pool, disk.id) is not State.MOVING:
        return False
    await restore_reference(pool, disk)
    await pool.records.create(disk, State.READY)
    return await state_of(pool, disk.id) is State.READY


async def restore_reference(pool: Pool, disk: Disk) -> bool:
    """Put the reference of a ready disk under its image again. Whether it was missing; raises where the image went.

    Where the image is retired, somebody may have looked before and found nothing that refers to it. Nothing that is
    written now stops them, and the disk is no worse off for the reference: that the image is still there is looked at
    last.
    """
    if disk.backing is None:
        return False
    outcome = await pool.records.refer(disk.backing, disk.id)
    if await state_of(pool, disk.backing) not in SERVING:
        raise LostMetadata(
            f"The image {disk.backing}, which the disk {disk.id} needs, is not there any more: restore the disk from "
            "a backup.",
            id=disk.id,
        )
    return outcome.kind == "done"
