# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The holds, as checks on a simulated pool. ``always`` after every step, ``at_rest`` when everything has ended."""

from __future__ import annotations

from ansible_collections.virt.storage.plugins.module_utils._records.types import ENDED, USABLE, Disk, Image, State

from .world import Content, Violation, World

SERVES = (State.READY, State.RETIRED, State.QUARANTINED)


def always(world: World, acknowledged: set[str], kept: set[str]) -> None:
    """Holds 1, 2, 3, 6 and 7 on what everybody sees now. ``kept`` are volumes of others, which must stay."""
    slots: dict[tuple[str, str], str] = {}
    named: dict[str, str] = {}
    superseded = world.superseded()
    for name in kept - set(world.seen.volumes):
        raise Violation("hold 6: the volume %s, which was somebody's disk, is lost" % name)
    for record_id, entry in world.seen.records.items():
        content = world.seen.volumes.get(entry.body.volume.name)
        if isinstance(entry.body, Image):
            if entry.state in SERVES:
                _image(record_id, entry.body, content)
        elif entry.state in USABLE:
            _disk(world, record_id, entry.body, entry.state, content)
            slot = (entry.body.instance, entry.body.role)
            if record_id in superseded:
                continue
            if slot in slots:
                raise Violation("hold 7: two disks hold one place: %s and %s" % (slots[slot], record_id))
            slots[slot] = record_id
            if entry.body.volume.name in named:
                raise Violation("hold 7: two disks are one volume: %s" % entry.body.volume)
            named[entry.body.volume.name] = record_id
    for record_id in acknowledged - world.deletion_begun:
        entry_now = world.seen.records.get(record_id)
        if entry_now is None or entry_now.state not in (*USABLE, State.RETIRED):
            raise Violation("hold 6: %s was acknowledged, and nobody removed it, but it is not there" % record_id)
    world.check()


def _image(record_id: str, image: Image, content: Content | None) -> None:
    if content is None:
        raise Violation("hold 1: the image %s serves and has no volume" % record_id)
    if not content.whole:
        raise Violation("hold 1: the image %s serves and its volume is partial" % record_id)
    if not content.sealed:
        raise Violation("hold 2: the image %s serves and is not sealed" % record_id)
    if content.holds != image.key:
        raise Violation("hold 2: the image %s holds something else" % record_id)


def _disk(world: World, record_id: str, disk: Disk, state: State, content: Content | None) -> None:
    if content is None or not content.whole:
        raise Violation("hold 1: the disk %s is %s and its volume is not whole" % (record_id, state))
    if state is State.FLAT and content.backing is not None:
        raise Violation("hold 1: the disk %s is flat and still needs %s" % (record_id, content.backing))
    if state is State.READY and disk.backing is not None:
        image = world.seen.records[disk.backing].body
        base = world.seen.volumes.get(image.volume.name)
        if base is None or not base.whole:
            raise Violation("hold 3: the disk %s names %s, which is not there" % (record_id, image))
        if base.holds != disk.origin.get("key", base.holds):
            raise Violation("hold 3: the disk %s has another image under it" % record_id)


def at_rest(world: World, kept: set[str], survived: bool) -> None:
    """Hold 6: no debris once the tasks were run again and the pool was reclaimed. Where all ``survived``, no name of an
    ended disk is under an image; otherwise it goes with the record that is forgotten."""
    for image_id, names in world.seen.references.items():
        for name in names if survived else ():
            if name in world.seen.records and world.seen.records[name].state in ENDED:
                raise Violation("hold 6: the name of %s, which has ended, stays under %s" % (name, image_id))
    owned = set(kept)
    for record_id, entry in world.seen.records.items():
        if entry.state in (State.PENDING, State.FILLING, State.DELETING, None):
            raise Violation("hold 6: %s is left %s for ever" % (record_id, entry.state or "without a state"))
        if entry.state not in (State.GONE, State.RELEASED):
            owned.add(entry.body.volume.name)
    for name in world.seen.volumes:
        if name not in owned:
            raise Violation("hold 6: the volume %s is left beside no live record" % name)
