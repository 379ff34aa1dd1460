# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""Everything that the task of `storage_layout` looks at: the pool and its journal, the guests, the old layout."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .._algorithms.conversion_journal import Journal, read_journal
from .._algorithms.pool import Pool
from .._algorithms.verify import Holdings, look
from .._ground.errors import BadInput
from .._ground.libvirt_host import Guest
from .._ground.mounts import mounted_at
from .._ground.nova_layout import FoundLayout, read_layout, service_runs
from .._ground.usage import users_of_files
from .._policy.conversion import FORMATS
from .._policy.guest_disks import DiskElement, disk_elements
from .._policy.plan import Fields
from .._policy.pool_names import shown
from .._policy.pool_xml import WITH_FOLDER, read
from .layout_folder import folder_layout
from .layout_look import Around, Seen, understand
from .layout_pool import ConvertingSession, OldFiles
from .layout_volumes import Around as Volumes
from .layout_volumes import Guests, read_volumes
from .pool_reader import Reader

_SHARED = ("nfs", "nfs4", "ceph", "fuse.glusterfs", "gfs2", "ocfs2", "cifs")
_SERVICE = "nova-compute runs on this host: stop it first, for it starts instances and removes bases by itself."


@dataclass(frozen=True)
class Host:
    """What was found. ``available`` are the bytes that are free in the pool, ``chosen`` the instances that are asked
    for, ``obstacle`` why nothing may be changed now."""

    session: ConvertingSession
    reader: Reader
    available: int
    held: Holdings
    journal: Journal
    guests: Guests
    layout: FoundLayout
    seen: Seen
    chosen: frozenset[str]
    obstacle: str

    @property
    def pool(self) -> Pool:
        """For reading."""
        return self.reader.pool


def look_at_host(session: ConvertingSession, params: Fields) -> Host | None:
    """None in check mode, where an earlier task has yet to make the pool."""
    reader = Reader.of(session, params["pool"])
    if reader is None:
        return None
    definition = read(session.host.pool(params["pool"]).xml)
    held, journal = reader.run(look(reader.pool)), reader.run(read_journal(reader.pool))
    pools = {status.name: read(status.xml).path for status in session.host.pools()}
    guests = [(guest, disk_elements(guest.xml, pools) if guest.xml else []) for guest in session.host.guests()]
    nova, words = params["layout"] == "nova", _words(params["formats"] or {})
    if definition.type in WITH_FOLDER:
        layout, seen = _files(session, reader, definition.path, held, journal, guests, params, words)
    elif nova:
        volumes = Volumes(reader, held, guests, journal, words, params["path"], bool(params["flattened"]))
        layout, seen = read_volumes(volumes)
    else:
        raise BadInput(
            f"The pool {definition.name} is of type {definition.type}, and a folder of disks is converted into a pool "
            f"of type {' or '.join(WITH_FOLDER)}: give one."
        )
    chosen = _chosen(layout, params["instances"], journal)
    _total, available = reader.run(_capacity(reader.pool))
    obstacle = _SERVICE if nova and service_runs() else ""
    return Host(session, reader, available, held, journal, guests, layout, seen, chosen, obstacle)


def _words(formats: Mapping[str, str]) -> Mapping[str, str]:
    """What the operator says of formats."""
    for path, format in formats.items():
        if format not in FORMATS:
            raise BadInput(f"The format of {path} is stated as {shown(str(format))}: it can be {' or '.join(FORMATS)}.")
    return formats


async def _capacity(pool: Pool) -> tuple[int, int]:
    return await pool.volumes.capacity()


def _files(
    session: ConvertingSession,
    reader: Reader,
    root: str,
    held: Holdings,
    journal: Journal,
    guests: Guests,
    params: Fields,
    words: Mapping[str, str],
) -> tuple[FoundLayout, Seen]:
    """A layout of files, beside the pool in ``root``."""
    path = os.path.abspath(params["path"])
    if params["layout"] == "nova":
        layout = read_layout(path)
    else:
        ours = {reader.path(each.volume) for record_id, each in held.records.items() if held.live(record_id)}
        layout = folder_layout(path, guests, journal, ours)
    paths = [disk.facts.path for instance in layout.instances for disk in instance.disks]
    around = Around(
        root=root,
        device=os.stat(root).st_dev,
        held=held,
        journal=journal,
        files=OldFiles(reader.backend, session.host),
        words=words,
        base_word=params["base_format"] or "",
        elements=_by_file(guests),
        users=users_of_files(paths, session.host.uses),
        shared=_is_shared(path),
    )
    return layout, understand(layout, around)


def _chosen(layout: FoundLayout, names: Sequence[str] | None, journal: Journal) -> frozenset[str]:
    """The instances that are asked for. All of the layout is looked at in any case: others may stand on a base."""
    known = {instance.name for instance in layout.instances} | set(journal.instances)
    missing = sorted(set(names or ()) - known)
    if missing:
        raise BadInput(f"There is no instance {', '.join(missing)} in {layout.root}: give names of its folders.")
    return frozenset(names or known)


def _by_file(guests: Guests) -> Mapping[tuple[int, int], Sequence[tuple[Guest, DiskElement]]]:
    """The disks of guests by device and inode."""
    found: dict[tuple[int, int], list[tuple[Guest, DiskElement]]] = {}
    for guest, elements in guests:
        for element in elements:
            try:
                status = os.stat(element.path)
            except OSError:
                continue
            found.setdefault((status.st_dev, status.st_ino), []).append((guest, element))
    return found


def _is_shared(path: str) -> bool:
    """Whether other hosts may have the folder, too."""
    path = os.path.realpath(path)
    while True:
        mount = mounted_at(path)
        if mount is not None or path == "/":
            return mount is not None and mount.type in _SHARED
        path = os.path.dirname(path)
