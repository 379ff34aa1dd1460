# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""A folder in which guests have disks, together with what these stand on, as vagrant-libvirt and terraform leave it.

The guests are its instances. The folder may be that of the pool: then disks that were converted stand there, too, by
their new names, and are known by their inodes.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence

from .._algorithms.conversion_journal import DiskEntry, Journal
from .._ground.errors import BadInput
from .._ground.libvirt_host import Guest
from .._ground.nova_layout import FoundDisk, FoundInstance, FoundLayout
from .._ground.old_files import facts_of, names_in
from .._policy.guest_disks import DiskElement

_OURS = ".virt-storage"


def folder_layout(
    root: str, guests: Sequence[tuple[Guest, Sequence[DiskElement]]], journal: Journal, ours: Collection[str]
) -> FoundLayout:
    """The layout in ``root``. ``ours`` are the paths of disks that have a record."""
    if not os.path.isdir(root):
        raise BadInput(f"There is no folder {root}: give the one that guests have their disks in.")
    instances = []
    for guest, elements in guests:
        entry = journal.instances.get(guest.name)
        found = _instance(root, guest.name, elements, entry.disks if entry else (), ours)
        if found.disks or found.flaws:
            instances.append(found)
    taken = {disk.facts.path for instance in instances for disk in instance.disks}
    bases, left = {}, []
    for name in names_in(root):
        facts = facts_of(os.path.join(root, name.name))
        if facts is None or facts.path in taken or name.name == _OURS or facts.path in ours:
            continue
        if facts.kind == "file":
            bases[facts.path] = facts
        else:
            left.append((facts.path, f"a {facts.kind}, not followed"))
    return FoundLayout(root, (root,), bases, tuple(instances), tuple(left))


def _instance(
    root: str, name: str, elements: Sequence[DiskElement], known: Sequence[DiskEntry], ours: Collection[str]
) -> FoundInstance:
    disks: list[FoundDisk] = []
    flaws = []
    converted = {disk.native: disk for disk in known}
    for number, element in enumerate(each for each in elements if each.device == "disk"):
        facts = facts_of(element.path)
        before = converted.get(facts.native) if facts else None
        if before is not None:
            old = facts_of(before.path)
            if old is not None:
                disks.append(FoundDisk(before.role, old))
        elif os.path.dirname(element.path) != root or element.path in ours:
            continue
        elif facts is None or facts.kind != "file":
            flaws.append(f"{element.path} is {'missing' if facts is None else f'a {facts.kind}, not followed'}")
        else:
            disks.append(FoundDisk(element.target if number else "root", facts))
    return FoundInstance(name, tuple(disks), flaws=tuple(flaws))
