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
from dataclasses import dataclass

from .._algorithms.conversion_journal import CONVERTED, CONVERTING, DiskEntry, Entry, Journal
from .._algorithms.pool import Pool
from .._algorithms.verify import Holdings
from .._backends.contract import Backend
from .._ground.drive import Ended
from .._ground.errors import StorageError
from .._ground.libvirt_host import Guest
from .._ground.nova_layout import FoundInstance, FoundLayout, unsettled
from .._policy.conversion import OldDisk, OldInstance, agreed
from .._policy.guest_disks import DiskElement
from .._records.types import USABLE, Disk, Volume
from .layout_look import Seen
from .pool_reader import Reader

_NAME = re.compile(
    r"(?P<instance>[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|instance-[0-9a-f]{8})_disk(?P<rest>[A-Za-z0-9_.]*)"
)
_ROLES = {"": "root", ".local": "ephemeral", ".swap": "swap", ".config": "config"}
_EPHEMERAL = re.compile(r"\.eph([0-9]{1,3})")
_BACKEND = "the backend"

Guests = Sequence[tuple[Guest, Sequence[DiskElement]]]
Named = Mapping[str, Sequence[tuple[Guest, DiskElement]]]


@dataclass(frozen=True)
class Around:
    """What the volumes are compared with. ``words`` are the formats that the operator states, by name; ``folder`` is
    where Nova has the folders of its instances; ``flattened`` tells that no disk is to stand on another pool's."""

    reader: Reader
    held: Holdings
    guests: Guests
    journal: Journal
    words: Mapping[str, str]
    folder: str
    flattened: bool


@dataclass(frozen=True)
class Measured:
    """A volume: its bytes, what it stands on, and who uses it, which is asked of one that is to be flattened."""

    size: int
    parent: str
    users: str


def read_volumes(around: Around) -> tuple[FoundLayout, Seen]:
    """The disks of Nova's instances among the volumes of the pool."""
    pool = around.reader.pool
    root, seen = f"pool {pool.name}", Seen()
    left: list[tuple[str, str]] = []
    found: dict[str, dict[str, str]] = {}
    for name in sorted(around.held.inventory):
        match = _NAME.fullmatch(name)
        if match is not None:
            found.setdefault(match["instance"], {})[match["rest"]] = name
    names = [name for volumes in found.values() for name in volumes.values()]
    # Side by side: a volume group is listed once for all of them.
    measured = dict(zip(names, around.reader.run_all([_measured(pool, name, around.flattened) for name in names])))
    named = _named(around.reader.backend, around.guests)
    for instance, volumes in found.items():
        seen.instances.append(old := _instance(instance, volumes, named, measured, around, left))
        entries = tuple(
            DiskEntry(
                disk.role,
                disk.path,
                around.held.inventory[disk.path],
                disk.format,
                disk.size,
                in_place=True,
                flatten=disk.flatten,
            )
            for disk in old.disks
        )
        seen.entries[instance] = Entry(instance, CONVERTING, root, old.guest, entries)
    instances = tuple(FoundInstance(name, ()) for name in found)
    return FoundLayout(root, (), {}, instances, tuple(left)), seen


async def _measured(pool: Pool, name: str, flattened: bool) -> Measured:
    volume = Volume(name, "raw")
    stat = await pool.volumes.stat(volume)
    parent = await pool.volumes.pointer(volume) or ""
    users = await pool.volumes.users(volume) if parent and flattened else None
    return Measured(stat.size if stat else 0, parent, str(users) if users else "")


def _instance(
    instance: str,
    volumes: Mapping[str, str],
    named: Named,
    measured: Mapping[str, Ended],
    around: Around,
    left: list[tuple[str, str]],
) -> OldInstance:
    """An instance whose volumes are given by what follows ``_disk`` in their names."""
    disks = []
    flaws = unsettled(around.folder, instance)
    named_paths = {element.path for _guest, elements in around.guests for element in elements}
    for rest, name in volumes.items():
        role = _role(rest)
        if rest.endswith(".rescue"):
            flaws.append(f"it is being rescued ({name}): unrescue it first")
        elif not role:
            left.append((name, "not understood"))
        elif f"/dev/mapper/{name}-dmcrypt" in named_paths:
            flaws.append(f"{name} is encrypted by Nova's own device, which is not converted")
        else:
            disks.append(_disk(instance, role, name, named.get(name, ()), measured[name], around))
    entry = around.journal.instances.get(instance)
    guests = {guest.name: guest for name in volumes.values() for guest, _element in named.get(name, ())}
    if len(guests) > 1:
        flaws.append(f"its disks are named by more than one guest: {', '.join(sorted(guests))}")
    guest = next(iter(guests.values()), None)
    users = {measured[disk.path].unwrap().users for disk in disks if disk.flatten}
    return OldInstance(
        instance,
        tuple(disks),
        guest.name if guest else "",
        guest.state if guest else "off",
        ", ".join(sorted(users - {""})),
        tuple(flaws),
        # One that is final has no entry any more.
        settled=entry.state == CONVERTED if entry else all(disk.record for disk in disks),
    )


def _role(rest: str) -> str:
    numbered = _EPHEMERAL.fullmatch(rest)
    return f"ephemeral-{numbered.group(1)}" if numbered else _ROLES.get(rest, "")


def _named(backend: Backend, guests: Guests) -> Named:
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


def _disk(
    instance: str,
    role: str,
    name: str,
    named: Sequence[tuple[Guest, DiskElement]],
    measured: Ended,
    around: Around,
) -> OldDisk:
    said = {_BACKEND: "raw"}
    for guest, element in named:
        if element.format:
            said[f"the definition of {guest.name}"] = element.format
    format, flaw = agreed(said, around.words.get(name, ""))
    if not flaw and format != "raw":
        flaw = f"it is stated to be {format}, and only raw volumes are converted where they are"
    flaw = flaw or _flaw(around.reader.backend, name, measured)
    record = _record(around.held, instance, role, name)
    if isinstance(record, str):
        flaw, record = flaw or record, None
    facts = Measured(0, "", "") if flaw else measured.unwrap()
    return OldDisk(
        role,
        name,
        facts.size,
        format,
        said,
        flaw=flaw,
        record=record.id if record else "",
        in_place=True,
        parent=facts.parent,
        flatten=bool(facts.parent) and around.flattened,
    )


def _flaw(backend: Backend, name: str, measured: Ended) -> str:
    """Why the volume is not taken over. One that cannot be looked at holds up no other."""
    try:
        return backend.flaw(Volume(name, "raw")) or str(measured.error or "").rstrip(".")
    except StorageError as error:
        return error.message.rstrip(".")


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
