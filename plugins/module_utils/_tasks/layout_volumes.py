# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""Nova's disks that are volumes of a volume group or of a Ceph pool: ``<uuid>_disk``, ``<uuid>_disk.local``, ...

They become disks of the pool where they are, by records alone: whether they are in use makes no difference. Their
content is raw, because these backends of Nova know nothing else; a definition that says otherwise is not overruled.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from .._algorithms.conversion_journal import CONVERTED, DiskEntry, Entry, Journal
from .._algorithms.pool import Pool
from .._algorithms.verify import Holdings
from .._backends.contract import Backend
from .._ground.errors import StorageError
from .._ground.libvirt_host import Guest
from .._ground.nova_layout import FoundInstance, FoundLayout
from .._policy.conversion import OldDisk, OldInstance, agreed
from .._policy.guest_disks import DiskElement
from .._records.types import USABLE, Disk, Volume
from .layout_look import Seen

_NAME = re.compile(
    r"(?P<instance>[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|instance-[0-9a-f]{8})_disk(?P<rest>[A-Za-z0-9_.]*)"
)
_ROLES = {"": "root", ".local": "ephemeral", ".swap": "swap", ".config": "config"}
_EPHEMERAL = re.compile(r"\.eph([0-9]{1,3})")
_BACKEND = "the backend"

Guests = Sequence[tuple[Guest, Sequence[DiskElement]]]


async def read_volumes(
    pool: Pool, backend: Backend, held: Holdings, guests: Guests, journal: Journal, words: Mapping[str, str]
) -> tuple[FoundLayout, Seen]:
    """The disks of Nova's instances among the volumes of the pool."""
    root, seen = f"pool {pool.name}", Seen()
    left: list[tuple[str, str]] = []
    found: dict[str, dict[str, str]] = {}
    for name in sorted(held.inventory):
        match = _NAME.fullmatch(name)
        if match is not None:
            found.setdefault(match["instance"], {})[match["rest"]] = name
    named = _named(backend, guests)
    named_paths = {element.path for _guest, elements in guests for element in elements}
    for instance, volumes in found.items():
        disks = []
        flaws = []
        for rest, name in volumes.items():
            role = _role(rest)
            if rest.endswith(".rescue"):
                flaws.append(f"it is being rescued ({name}): unrescue it first")
            elif not role:
                left.append((name, "not understood"))
            elif f"/dev/mapper/{name}-dmcrypt" in named_paths:
                flaws.append(f"{name} is encrypted by Nova's own device, which is not converted")
            else:
                disks.append(await _disk(pool, backend, held, instance, role, name, named.get(name, ()), words))
        entry = journal.instances.get(instance)
        users = {guest.name: guest for name in volumes.values() for guest, _element in named.get(name, ())}
        if len(users) > 1:
            flaws.append(f"its disks are named by more than one guest: {', '.join(sorted(users))}")
        guest = next(iter(users.values()), None)
        seen.instances.append(
            OldInstance(
                instance,
                tuple(disks),
                guest.name if guest else "",
                guest.state if guest else "off",
                flaws=tuple(flaws),
                # One that is final has no entry any more.
                settled=entry.state == CONVERTED if entry else all(disk.record for disk in disks),
            )
        )
        entries = tuple(
            DiskEntry(disk.role, disk.path, held.inventory[disk.path], disk.format, disk.size, in_place=True)
            for disk in disks
        )
        seen.entries[instance] = Entry(instance, "", root, guest.name if guest else "", entries)
    instances = tuple(FoundInstance(name, ()) for name in found)
    return FoundLayout(root, (), {}, instances, tuple(left)), seen


def _role(rest: str) -> str:
    numbered = _EPHEMERAL.fullmatch(rest)
    return f"ephemeral-{numbered.group(1)}" if numbered else _ROLES.get(rest, "")


def _named(backend: Backend, guests: Guests) -> dict[str, list[tuple[Guest, DiskElement]]]:
    """The elements of definitions by the volume of this pool that they name."""
    found: dict[str, list[tuple[Guest, DiskElement]]] = {}
    for guest, elements in guests:
        for element in elements:
            try:
                name = backend.name_at(element.path) if element.path else None
            except StorageError:
                continue  # one of the pool's own
            if name is not None:
                found.setdefault(name, []).append((guest, element))
    return found


async def _disk(
    pool: Pool,
    backend: Backend,
    held: Holdings,
    instance: str,
    role: str,
    name: str,
    named: Sequence[tuple[Guest, DiskElement]],
    words: Mapping[str, str],
) -> OldDisk:
    volume = Volume(name, "raw")
    said = {_BACKEND: "raw"}
    for guest, element in named:
        if element.format:
            said[f"the definition of {guest.name}"] = element.format
    format, flaw = agreed(said, words.get(name, ""))
    if not flaw and format != "raw":
        flaw = f"it is stated to be {format}, and only raw volumes are converted where they are"
    flaw = flaw or backend.flaw(volume)
    record = _record(held, instance, role, name)
    if isinstance(record, str):
        flaw, record = flaw or record, None
    size, parent = 0, ""
    if not flaw:
        stat = await pool.volumes.stat(volume)
        size = stat.size if stat else 0
        parent = await pool.volumes.pointer(volume) or ""
    return OldDisk(
        role, name, size, format, said, flaw=flaw, record=record.id if record else "", in_place=True, parent=parent
    )


def _record(held: Holdings, instance: str, role: str, name: str) -> Disk | str | None:
    """The disk that the volume is already, or why it cannot become one."""
    for record in held.records.values():
        if not isinstance(record, Disk) or not held.live(record.id):
            continue
        same = record.volume.name == name
        if same != ((record.instance, record.role) == (instance, role)):
            return f"the pool has the disk {record.id} in its place"
        if same and record.volume.adopted != held.inventory[name]:
            return f"its record {record.id} is that of another volume, which had this name: end that record first"
        if same:
            return record if held.listing.state(record.id) in USABLE else None
    return None
