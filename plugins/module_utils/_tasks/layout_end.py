# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""The way back from a conversion, and its end, from what the journal in the pool says."""

from __future__ import annotations

import os
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .._algorithms.conversion import OldLayout
from .._algorithms.conversion_end import base_back, finalize_base, finalize_instance, roll_back_instance
from .._algorithms.conversion_journal import CONVERTED, FINALIZING, BaseEntry, Entry
from .._algorithms.pool import Pool
from .._ground.errors import StorageError
from .._ground.usage import users_of_files
from .._policy.plan import Action, Fields, Plan
from .._records.types import Disk
from .layout_host import Host
from .layout_look import images_of


@dataclass(frozen=True)
class Ending:
    """An instance of the journal, and why it is left as it is, if it is."""

    entry: Entry
    refusal: str = ""


def roll_back(host: Host) -> Fields:
    """Undo what the journal says. Instances that are in use are left."""
    entries = _entries(host)
    users = users_of_files([path for entry in entries for path in _paths(host, entry)], host.session.host.uses)
    endings = [Ending(entry, _why_not_back(host, entry, users)) for entry in entries]
    names = {each.entry.name for each in endings if not each.refusal}
    bases = [entry for entry in _bases(host) if not _kept(host, entry, names)]
    actions = [
        (f"instance {name}", f"put the disks of {name} back: definition, headers and names as they were")
        for name in sorted(names)
    ]
    actions += [(f"base {entry.path}", f"take the image of {entry.path} out of the pool") for entry in bases]
    result = _result(host, endings, _plan("roll back", actions, "converted", "old"), "rolled back")

    def tasks(pool: Pool, old: OldLayout) -> list[list[tuple[str, Coroutine[Any, Any, Any]]]]:
        instances = [(e.entry.name, roll_back_instance(pool, old, e.entry)) for e in endings if not e.refusal]
        return [instances, [(entry.path, base_back(pool, old, entry)) for entry in bases]]

    return _carried_out(host, result, bool(actions), tasks)


def finalize(host: Host) -> Fields:
    """Take the old names away where nothing needs them."""
    live = {_name(use.source): str(use) for use in host.session.host.uses() if use.live}
    defined = {_name(element.path): guest.name for guest, elements in host.guests for element in elements}
    endings = [Ending(entry, _why_not_final(entry, live, defined)) for entry in _entries(host)]
    names = {each.entry.name for each in endings if not each.refusal}
    bases = [entry for entry in _bases(host) if not _needed(host, entry, names)]
    actions = [(f"instance {name}", f"take the old names of the disks of {name} away") for name in sorted(names)]
    for entry in bases:
        if _is_linked(host, entry):
            actions.append((f"base {entry.path}", f"take the old name {entry.path} away"))
        else:
            actions.append((f"base {entry.path}", f"leave {entry.path}, which is no image of the pool, to its owner"))
            host.session.warnings.append(
                f"No disk of the pool needs the base {entry.path} any more: remove it by hand."
            )
    result = _result(host, endings, _plan("finalize", actions, "converted", "final"), "finalized")

    def tasks(pool: Pool, old: OldLayout) -> list[list[tuple[str, Coroutine[Any, Any, Any]]]]:
        instances = [(e.entry.name, finalize_instance(pool, old, e.entry)) for e in endings if not e.refusal]
        return [instances, [(entry.path, finalize_base(pool, old, entry)) for entry in bases]]

    return _carried_out(host, result, bool(actions), tasks)


def _entries(host: Host) -> list[Entry]:
    """The instances of this layout that the journal knows, and that are asked for."""
    known = sorted(host.journal.instances.items())
    return [entry for name, entry in known if entry.layout == host.layout.root and name in host.chosen]


def _bases(host: Host) -> list[BaseEntry]:
    return [entry for _path, entry in sorted(host.journal.bases.items()) if entry.layout == host.layout.root]


# Refusals


def _why_not_back(host: Host, entry: Entry, users: Mapping[str, Sequence[str]]) -> str:
    if all(disk.in_place for disk in entry.disks):
        return ""  # records alone are taken back
    if entry.guest and entry.guest not in {guest.name for guest, _elements in host.guests}:
        return f"its guest {entry.guest} is not on this host: run this where it is"
    who = sorted({user for path in _paths(host, entry) for user in users.get(path, ())})
    return f"it is in use ({', '.join(who)}): stop it first" if who else ""


def _paths(host: Host, entry: Entry) -> list[str]:
    """The old names of the disks that are files, and ours."""
    if all(disk.in_place for disk in entry.disks):
        return []
    return [disk.path for disk in entry.disks] + [host.reader.path(each.volume) for each in _records(host, entry)]


def _records(host: Host, entry: Entry) -> list[Disk]:
    """The live records of the instance's own disks."""
    natives = {(disk.role, disk.native) for disk in entry.disks}
    return [
        record
        for record_id, record in host.held.records.items()
        if isinstance(record, Disk)
        and host.held.live(record_id)
        and record.instance == entry.name
        and (record.role, record.volume.adopted) in natives
    ]


def _why_not_final(entry: Entry, live: Mapping[str, str], defined: Mapping[str, str]) -> str:
    """``live`` and ``defined`` have the guests that use a path now, and whose definitions name one."""
    if entry.state not in (CONVERTED, FINALIZING):
        return "it is not wholly converted yet: stop it and convert it again"
    paths = [_name(disk.path) for disk in entry.disks if not disk.in_place]
    if running := [live[path] for path in paths if path in live]:
        return f"it still runs from its old path ({running[0]}): stop it once"
    if guests := [defined[path] for path in paths if path in defined]:
        return f"the definition of {guests[0]} names its old path again: convert it again"
    return ""


def _name(path: str) -> str:
    """A path by which a file is told from its other names: not the inode, which they share."""
    return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))


def _kept(host: Host, entry: BaseEntry, rolled: set[str]) -> bool:
    """Whether a disk stays that stands on the image of a base."""
    ids = {record.id for record in host.held.records.values() if isinstance(record, Disk) and record.instance in rolled}
    return any(set(host.held.references.get(image.id, ())) - ids for image in images_of(host.held, entry))


def _is_linked(host: Host, entry: BaseEntry) -> bool:
    """Whether the base is an image of the pool by another name."""
    return not entry.key and bool(images_of(host.held, entry))


def _needed(host: Host, entry: BaseEntry, final: set[str]) -> bool:
    """Whether a disk may still stand on the base by its old name. One that nobody understands may stand on any."""
    if host.layout.under_way:
        return True
    waiting = {each.name for each in host.journal.instances.values()} - final
    for instance in host.seen.instances:
        if instance.name in final:
            continue
        if instance.flaws or instance.name in waiting:
            return True
        if any(disk.flaw or not disk.format or disk.base == entry.path for disk in instance.disks):
            return True
    return False


# Carrying out


def _plan(verb: str, actions: Sequence[tuple[str, str]], before: str, after: str) -> Plan:
    return Plan(
        tuple(Action(verb, what, sentence) for what, sentence in actions),
        {what: {"layout": before} for what, _sentence in actions},
        {what: {"layout": after} for what, _sentence in actions},
    )


def _result(host: Host, endings: Sequence[Ending], plan: Plan, done: str) -> Fields:
    refused = [each for each in endings if each.refusal]
    verdict = f"{len(endings) - len(refused)} instances are {done}, {len(refused)} are left as they are."
    return {
        **plan.to_result(),
        "verdict": host.obstacle or verdict,
        "instances": [
            {
                "instance": each.entry.name,
                "guest": each.entry.guest,
                "verdict": "refused" if each.refusal else done,
                "refusals": [each.refusal] if each.refusal else [],
            }
            for each in endings
        ],
        "bases": [],
        "bytes_to_copy": 0,
    }


def _carried_out(host: Host, result: Fields, wanted: bool, tasks: Any) -> Fields:
    """Run the tasks, group after group; an instance that fails holds up no other."""
    if not wanted:
        return result
    if host.obstacle:
        raise StorageError(host.obstacle, **{**result, "changed": False})
    if host.session.check_mode:
        return result
    pool = host.session.convert_into(host.pool.name)
    errors = {}
    for group in tasks(pool, OldLayout(pool.name)):
        ended = host.session.work(pool, [task for _what, task in group]) if group else []
        errors.update({what: str(each.error) for (what, _t), each in zip(group, ended) if each.error is not None})
    if errors:
        raise StorageError(
            f"{len(errors)} of {len(result['actions'])} steps failed, the others were done; the first: "
            f"{next(iter(errors.values()))}",
            **{**result, "failures": errors},
        )
    return result
