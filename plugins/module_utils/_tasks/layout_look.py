# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""What an old layout of files is, as all who know tell: its folders, disk.info, the guests, and the pool's records.

No format is learnt from data. A header is read only where everybody who says anything says qcow2.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from .._algorithms.conversion import STAGING
from .._algorithms.conversion_end import is_of
from .._algorithms.conversion_journal import CONVERTED, CONVERTING, FINALIZING, BaseEntry, DiskEntry, Entry, Journal
from .._algorithms.verify import Holdings
from .._ground.errors import BadInput, LostMetadata, StorageError, UnsafeImage
from .._ground.immutable import has_flag
from .._ground.inspection import inspect
from .._ground.libvirt_host import Guest
from .._ground.nova_layout import FoundDisk, FoundInstance, FoundLayout
from .._ground.old_files import FileFacts, Overlay, facts_of, opened, read_overlay
from .._policy.conversion import OldBase, OldDisk, OldInstance, agreed
from .._policy.disk_xml import Link
from .._policy.guest_disks import DiskElement, is_spelt_out
from .._records.types import USABLE, Disk, Image, State, checked_image_name, checked_instance
from .layout_pool import BOUNDS, OldFiles

_PROTOCOL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_CONFIG = "the layout"


@dataclass(frozen=True)
class Around:
    """What an old layout is compared with. ``words`` are the formats that the operator states, by path; ``elements``
    the disks of all guests by device and inode; ``users`` who uses each path now."""

    root: str
    device: int
    held: Holdings
    journal: Journal
    files: OldFiles
    words: Mapping[str, str]
    base_word: str
    elements: Mapping[tuple[int, int], Sequence[tuple[Guest, DiskElement]]]
    users: Mapping[str, Sequence[str]]
    shared: bool


@dataclass
class Seen:
    """An old layout, understood: instances and bases for the plan, and what the journal is to say of each."""

    instances: list[OldInstance] = field(default_factory=list)
    bases: dict[str, OldBase] = field(default_factory=dict)
    entries: dict[str, Entry] = field(default_factory=dict)
    base_entries: dict[str, BaseEntry] = field(default_factory=dict)


def understand(layout: FoundLayout, around: Around) -> Seen:
    """Put together what everybody says."""
    seen = Seen()
    said: dict[str, dict[str, str]] = {}
    for instance in layout.instances:
        _instance(instance, layout, around, seen, said)
    for path, told in sorted(said.items()):
        _base(layout.bases[path], told, layout.root, around, seen)
    return seen


# Instances


def _instance(
    found: FoundInstance, layout: FoundLayout, around: Around, seen: Seen, said: dict[str, dict[str, str]]
) -> None:
    flaws = [*found.flaws]
    entry = around.journal.instances.get(found.name)
    try:
        checked_instance(found.name)
    except BadInput as error:
        flaws.append(error.message)
    if entry is not None and entry.state == FINALIZING:
        flaws.append("it is being finalized: end that with state=finalized, or take it back with state=rolled_back")
    named = {guest.name: guest for disk in found.disks for guest, _element in _elements(disk.facts, around)}
    if len(named) > 1:
        flaws.append(f"its disks are named by more than one guest: {', '.join(sorted(named))}")
    guest = next(iter(named.values()), None)
    if guest is None and around.shared:
        flaws.append(
            "no guest of this host names its disks, and the folder is shared with other hosts: run this on its own"
        )
    disks, entries = [], []
    for each in found.disks:
        old, kept = _disk(each, found, layout, around, said)
        disks.append(old)
        entries.append(_entry(each, old, kept, entry, around))
    users = sorted({user for each in found.disks for user in around.users.get(each.facts.path, ())})
    settled = entry is not None and entry.state == CONVERTED
    seen.instances.append(
        OldInstance(
            found.name,
            tuple(disks),
            guest.name if guest else "",
            guest.state if guest else "off",
            ", ".join(users),
            tuple(flaws),
            settled,
        )
    )
    seen.entries[found.name] = Entry(found.name, CONVERTING, layout.root, guest.name if guest else "", tuple(entries))


def _elements(facts: FileFacts, around: Around) -> Sequence[tuple[Guest, DiskElement]]:
    return around.elements.get((facts.device, facts.inode), ())


def _disk(
    found: FoundDisk,
    instance: FoundInstance,
    layout: FoundLayout,
    around: Around,
    said: dict[str, dict[str, str]],
) -> tuple[OldDisk, Overlay | None]:
    """A disk as the plan sees it, and its header where it has one."""
    facts, path = found.facts, found.facts.path
    record = _record(facts, instance.name, found.role, around)
    told = _told(found, instance, around, record)
    format, flaw = agreed(told, around.words.get(path, ""))
    if instance.unread and not around.words.get(path):
        flaw = f"{instance.unread}: state its format under formats"
    flaw = flaw or _misplaced(facts, instance.name, found.role, around, record)
    overlay = None
    base, pointed = "", False
    if format == "qcow2" and not flaw:
        try:
            overlay = read_overlay(path, facts.native)
            flaw = overlay.flaw
        except StorageError as error:
            flaw = error.message.rstrip(".")
    if overlay is not None and overlay.pointer.backing_file and not flaw:
        base, pointed, flaw = _pointed_at(path, overlay.pointer.backing_file, layout, around, record)
    if base and overlay is not None:
        told_of_base = said.setdefault(base, {})
        if overlay.pointer.backing_format:
            told_of_base[f"the header of {path}"] = overlay.pointer.backing_format
        for guest, element in _elements(facts, around):
            for below, stated in element.below[:1]:
                if stated and os.path.basename(below) == os.path.basename(base):
                    told_of_base[f"the definition of {guest.name}"] = stated
    if pointed and not flaw and _journaled(found, instance.name, around) is None:
        flaw = "it is converted, and its entry in the journal is lost: it stays as it is"
    disk = OldDisk(
        role=found.role,
        path=path,
        size=overlay.size if overlay else facts.size,
        format=format,
        said=told,
        base=base,
        flaw=flaw,
        record=record.id if record else "",
        pointed=pointed,
        described=_described(facts, around, record),
        out=format != "raw" or os.path.dirname(os.path.realpath(path)) != os.path.realpath(around.root),
    )
    return disk, overlay


def _told(found: FoundDisk, instance: FoundInstance, around: Around, record: Disk | None) -> dict[str, str]:
    """Who says what about the format of a disk."""
    told = {}
    if found.facts.path in instance.info:
        told["disk.info"] = instance.info[found.facts.path]
    for guest, element in _elements(found.facts, around):
        if element.format:
            told[f"the definition of {guest.name}"] = element.format
    if record is not None:
        told["its record"] = record.volume.format
    if found.role == "config":
        told[_CONFIG] = "raw"  # an ISO 9660 or vfat image, always
    return told


def _record(facts: FileFacts, instance: str, role: str, around: Around) -> Disk | None:
    """The disk of the pool that this very file is."""
    for record_id in around.held.listing.slot(instance, role):
        record = around.held.records.get(record_id)
        if isinstance(record, Disk) and record.volume.adopted == facts.native:
            return record if around.held.listing.state(record_id) in USABLE else None
    return None


def _misplaced(facts: FileFacts, instance: str, role: str, around: Around, record: Disk | None) -> str:
    """Why a file cannot be linked into the pool as this disk."""
    if facts.device != around.device:
        return "it lies on another file system than the pool: choose a pool on the same one"
    ours = set(around.held.names.get(facts.native, ())) - {os.path.relpath(facts.path, around.root)}
    staging = facts_of(os.path.join(around.root, STAGING, f"{instance}+{role}"))
    names = 1 + len(ours) + (staging is not None and staging.inode == facts.inode)
    if facts.links > names:
        return f"it has {facts.links - names} more names, by which others may write to it: remove those first"
    if record is None:
        for each in around.held.records.values():
            if around.held.live(each.id) and isinstance(each, Disk):
                same = each.volume.adopted == facts.native
                place = (each.instance, each.role) == (instance, role)
                if place != same:
                    return f"the pool has the disk {each.id} in its place"
    return ""


def _pointed_at(
    path: str, named: str, layout: FoundLayout, around: Around, record: Disk | None
) -> tuple[str, bool, str]:
    """The base that a header names, whether that is the cached image already, or why it is not followed."""
    if _PROTOCOL.match(named) and not named.startswith("/"):
        return "", False, f"its header names {named!r}, which is no path of a file"
    target = os.path.normpath(os.path.join(os.path.dirname(path), named))
    image = around.held.records.get(record.backing) if record is not None and record.backing else None
    if isinstance(image, Image) and target == os.path.normpath(os.path.join(around.root, image.volume.name)):
        return "", True, ""
    folder = os.path.realpath(os.path.dirname(target))
    for base, found in layout.bases.items():
        if os.path.basename(base) == os.path.basename(target) and os.path.realpath(os.path.dirname(base)) == folder:
            return ("", False, "its header names itself") if base == path else (found.path, False, "")
    if folder in map(os.path.realpath, layout.folders):
        why = "is missing" if facts_of(target) is None else "is no regular file"
        return "", False, f"its header names {target}, which {why}"
    return "", False, f"its header names {target}, which lies outside of the folders of bases"


def _described(facts: FileFacts, around: Around, record: Disk | None) -> bool:
    """Whether every persistent definition that names the disk spells its chain out."""
    elements = [element for guest, element in _elements(facts, around) if guest.xml]
    if record is None:
        return not elements
    image = around.held.records.get(record.backing or "")
    volumes = (record.volume, image.volume) if isinstance(image, Image) else (record.volume,)
    chain: list[Link] = around.files.chain(volumes)
    return all(is_spelt_out(element, chain) for element in elements)


def _journaled(found: FoundDisk, instance: str, around: Around) -> DiskEntry | None:
    entry = around.journal.instances.get(instance)
    for each in entry.disks if entry else ():
        if (each.role, each.path, each.native) == (found.role, found.facts.path, found.facts.native):
            return each
    return None


def _entry(found: FoundDisk, old: OldDisk, overlay: Overlay | None, entry: Entry | None, around: Around) -> DiskEntry:
    """What the journal is to say of a disk: what it says already, or how the disk is now."""
    kept = None if entry is None else _journaled(found, entry.name, around)
    definition = next((each.text for guest, each in _elements(found.facts, around) if guest.xml), "")
    if kept is not None and (old.record or old.base == kept.base):
        return kept if kept.definition else replace(kept, definition=definition if not old.record else "")
    on_base = overlay if overlay is not None and old.base else None
    return DiskEntry(
        role=old.role,
        path=old.path,
        native=found.facts.native,
        format=old.format,
        size=old.size,
        base=old.base,
        pointer=on_base.pointer.__dict__ if on_base else None,
        blank=on_base is not None and on_base.blank,
        definition=definition,
        out=old.out,
    )


# Bases


def _base(facts: FileFacts, told: Mapping[str, str], root: str, around: Around, seen: Seen) -> None:
    path = facts.path
    format, flaw = agreed(told, around.words.get(path, "") or ("" if told else around.base_word))
    near = facts.device == around.device
    key = "" if format == "raw" and near else f"source:{path}#{facts.native}.{facts.modified}+{format}"
    entry = around.journal.bases.get(path)
    if entry is None or entry.native != facts.native:
        entry = BaseEntry(path, facts.native, root, facts.uid, facts.gid, facts.mode, False, key)
    ready = (each.id for each in images_of(around.held, entry) if around.held.listing.state(each.id) is State.READY)
    image = next(ready, "")
    if not flaw:
        try:
            with opened(path, facts.native) as descriptor:
                if path not in around.journal.bases:
                    entry = replace(entry, immutable=has_flag(descriptor))
                if not image:
                    inspect(descriptor, format, BOUNDS)
        except UnsafeImage as error:
            flaw = f"quarantined, it is no image to trust: {error.message.rstrip('.')}"
        except (LostMetadata, OSError) as error:
            flaw = f"it cannot be read: {error}"
    seen.bases[path] = OldBase(path, _name(path), facts.size, format, flaw, image, near)
    seen.base_entries[path] = entry


def images_of(held: Holdings, entry: BaseEntry) -> list[Image]:
    """The live images that are this very file, or were copied from it."""
    return [
        image
        for image in held.records.values()
        if isinstance(image, Image)
        and held.live(image.id)
        and is_of(image, held.inventory.get(image.volume.name), entry)
    ]


def _name(path: str) -> str:
    name = re.sub(r"[^A-Za-z0-9._-]", "-", os.path.basename(path))[:64]
    try:
        return checked_image_name(name)
    except BadInput:
        return "base"
