# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""The tasks of `disk_metadata` and `disk_metadata_info`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from .._algorithms.disks import make, release
from .._algorithms.pool import Pool
from .._algorithms.rebuild import give_up, rebuild, restore_reference, restore_state
from .._algorithms.survey import labels, users_of
from .._algorithms.verify import Finding, Holdings, id_in, is_exposed, look, verify
from .._ground.errors import Busy, InUse, LostMetadata, NewerSchema, StorageError
from .._policy.plan import Action, Fields, Plan
from .._records.types import USABLE, Disk, State, Volume, taken_apart
from .disk_moves import left_over
from .metadata_plan import Examined, Site, Step, decide, replaced
from .metadata_result import described, foreseen, managed
from .metadata_wishes import DEFAULT_ROLE, Statement, selections, statements
from .pool_reader import Reader
from .session import Session, first_error


def task(params: Fields, check_mode: bool) -> Fields:
    """Set, check, restore or give up the records of disks; gives the result of `disk_metadata`."""
    state, name, entries = params["state"], params["pool"], params["disks"] or []
    if state == "verified":
        return _verified(Session(params["uri"], check_mode, reads=True), name)
    session = Session(params["uri"], check_mode)
    if state == "absent":
        wanted = selections(entries)
        reader = Reader.of(session, name)
        result = _nothing() if reader is None else _absent(session, reader, wanted)
    else:
        stated = statements(entries, state)
        reader = Reader.of(session, name)
        result = _nothing() if reader is None else _present(session, reader, stated, state == "rebuilt")
    return {**result, "problems": [], "reports": [], "warnings": session.warnings}


def info(params: Fields, check_mode: bool) -> Fields:
    """All that pools record; gives the result of `disk_metadata_info`. Only reads.

    Where no pools are named, one that cannot be looked into keeps nobody from seeing the others.
    """
    session = Session(params["uri"], check_mode, reads=True)
    found = []
    for name in params["pools"] or session.names():
        try:
            reader = Reader.of(session, name)
            if reader is not None:
                found.append(reader.run(described(reader.pool)))
        except (LostMetadata, NewerSchema) as error:
            found.append({"pool": name, "problem": error.message})
        except StorageError as error:
            if params["pools"]:
                raise
            found.append({"pool": name, "problem": error.message})
            session.warnings.append(f"The pool {name} cannot be looked into: {error.message}")
    return {"changed": False, "pools": found, "warnings": session.warnings}


def _nothing() -> Fields:
    return {**Plan().to_result(), "disks": []}


# verified


def _verified(session: Session, name: str) -> Fields:
    """Raises, with all findings, where any of them is a fault."""
    try:
        reader = Reader.of(session, name)
        found: list[Finding] = [] if reader is None else reader.run(verify(reader.pool))
    except (LostMetadata, NewerSchema) as error:
        code = "record_newer" if isinstance(error, NewerSchema) else "record_damaged"
        found = [Finding(code, error.message)]
    faults = [each for each in found if each.fails]
    findings = {
        "problems": [{"pool": name, **asdict(each)} for each in faults],
        "reports": [{"pool": name, **asdict(each)} for each in found if not each.fails],
    }
    if faults:
        raise StorageError(
            f"The pool {name} has {len(faults)} problem{'s' if len(faults) > 1 else ''}, listed under problems; the "
            f"first: {faults[0].message}",
            changed=False,
            **findings,
        )
    return {**_nothing(), **findings, "warnings": session.warnings}


# present and rebuilt


def _present(session: Session, reader: Reader, stated: Sequence[Statement], rebuilt: bool) -> Fields:
    held, site = reader.run(_site(reader.pool, rebuilt))
    site = replace(site, given_up=frozenset(each for every in stated for each in replaced(every, site)))
    seen = [_examined(reader, every, held) for every in stated]
    steps = [decide(every, site, each) for every, each in zip(stated, seen)]
    plan = Plan.join(step.plan for step in steps)
    for every, step in zip(stated, steps):
        if step.plan.changed and every.format == "raw" and (step.wish is None or not step.wish.name):
            _warn_of_definitions(session, reader, every)
    if plan.changed and not session.check_mode:
        _apply(session, reader.pool.name, steps, {each: held.listing.states[each] for each in sorted(site.given_up)})
        reader = Reader.of(session, reader.pool.name) or reader
        held = reader.run(look(reader.pool))
    disks = [
        foreseen(reader, every, step) if session.check_mode and step.verb else reader.run(managed(reader, held, every))
        for every, step in zip(stated, steps)
    ]
    return {**plan.to_result(), "disks": disks}


async def _site(pool: Pool, rebuilt: bool) -> tuple[Holdings, Site]:
    held = await look(pool)
    named = {name: str(facts.get("id", "")) for name, facts in (await labels(pool)).items()}
    alive = set()
    for record_id, record in held.records.items():
        if held.listing.state(record_id) is State.PENDING and await pool.records.pulse(record.owner) is not None:
            alive.add(record_id)
    return held, Site(pool.name, pool.capabilities, held, rebuilt, named, frozenset(alive))


def _examined(reader: Reader, statement: Statement, held: Holdings) -> Examined:
    """The volume as it stands. Its content is only looked at where it is stated to be qcow2, and no further than its
    header."""
    volume = Volume(statement.volume, statement.format)
    if statement.volume not in held.inventory:
        return Examined(flaw=reader.backend.flaw(volume))
    users = ""
    try:
        found = reader.run(_stat(reader.pool, volume))
        flaw = reader.backend.flaw(volume)
        pointer = None if flaw else reader.run(_pointer(reader.pool, volume))
    except LostMetadata as error:
        # Not what it is stated to be: the size is of no use then, but that the volume exists is.
        found, pointer, flaw = (
            reader.run(_stat(reader.pool, replace(volume, format="raw"))),
            None,
            str(error).rstrip("."),
        )
    if statement.format == "raw" and is_exposed(reader.pool.capabilities, statement.volume):
        users = reader.run(users_of(reader.pool, volume))
    return Examined(found, pointer, flaw, users)


async def _stat(pool: Pool, volume: Volume) -> Any:
    return await pool.volumes.stat(volume)


async def _pointer(pool: Pool, volume: Volume) -> Any:
    return await pool.volumes.pointer(volume)


def _warn_of_definitions(session: Session, reader: Reader, statement: Statement) -> None:
    path = reader.path(Volume(statement.volume, statement.format))
    guests = sorted({use.domain for use in session.host.users_of(path)})
    if guests:
        session.warnings.append(
            f"The volume {statement.volume} moves, and the definition of {', '.join(guests)} names its old path "
            f"{path}: change it there before the guest is started."
        )


def _apply(session: Session, name: str, steps: Sequence[Step], damaged: dict[str, State]) -> None:
    """Carry out the steps. Damaged records go first, all of them: any might name the volume of another step."""
    pool = session.open(name)
    if pool is None:
        raise AssertionError
    if damaged:
        first_error(session.work(pool, [give_up(pool, damaged)]))
    first_error(session.work(pool, [_step(pool, step) for step in steps if step.verb]))


async def _step(pool: Pool, step: Step) -> None:
    if step.wish is not None:
        made = await (rebuild if step.verb == "rebuild" else make)(pool, step.wish)
        if made.disk.volume.adopted != step.wish.native:
            raise Busy(
                f"The disk {step.wish.role} of {step.wish.instance} was made meanwhile by another task, of "
                f"{made.disk.volume}: run this one again to see what it makes of it."
            )
    elif step.disk is not None and step.verb == "move":
        outcome = await pool.volumes.leave(step.found, step.disk.volume)
        if not outcome:
            raise StorageError(f"The name {step.found} cannot be taken away: {outcome.why}.")
    elif step.disk is not None:
        await (restore_state if step.verb == "revive" else restore_reference)(pool, step.disk)


# absent


def _absent(session: Session, reader: Reader, wanted: Sequence[Fields]) -> Fields:
    held = reader.run(look(reader.pool))
    ids = dict.fromkeys(record_id for each in wanted for record_id in _selected(each, held))
    for record_id in ids:
        _check_releasable(record_id, reader.pool, held)
    _check_settled(session, reader, [each for each in map(held.records.get, ids) if isinstance(each, Disk)])
    plan = Plan.join(_release_plan(record_id, reader.pool.name, held) for record_id in ids)
    if plan.changed and not session.check_mode:
        pool = session.open(reader.pool.name)
        if pool is None:
            raise AssertionError
        first_error(session.work(pool, [_release(pool, record_id, held) for record_id in ids]))
    return {**plan.to_result(), "disks": []}


def _selected(wanted: Fields, held: Holdings) -> list[str]:
    """The live records that are meant; what is not managed is as it should be."""
    if wanted["id"] is not None:
        return [wanted["id"]] if held.live(wanted["id"]) else []
    if wanted["volume"] is not None:
        owner = held.owner(wanted["volume"])
        return [] if owner is None else [owner.id]
    return held.listing.slot(wanted["instance"], wanted["role"] or DEFAULT_ROLE)


def _check_releasable(record_id: str, pool: Pool, held: Holdings) -> None:
    state = held.listing.state(record_id)
    error = held.unreadable.get(record_id)
    if isinstance(error, NewerSchema):
        raise NewerSchema(error.message, id=record_id)
    if error is not None:
        left = [name for name in held.inventory if id_in(pool.capabilities, name) == record_id]
        if state is State.DELETING and left:
            raise LostMetadata(
                f"The record {record_id} is damaged, and the removal of its volume {left[0]} had begun: remove that "
                "file, then run the task again.",
                id=record_id,
            )
        if state not in (State.PENDING, State.DELETING):
            raise LostMetadata(
                f"The record {record_id} is damaged, and nobody knows whether its disk needs an image: restore it with "
                "state=rebuilt first.",
                id=record_id,
            )
        return
    disk = held.records[record_id]
    if not isinstance(disk, Disk):
        raise InUse(f"The record {record_id} is that of an image: remove it with cached_image state=absent.")
    if state not in USABLE:
        raise InUse(f"The disk {record_id} is {state}: cached_image state=pruned clears what was not finished.")
    if state is State.READY and disk.backing is not None:
        raise InUse(
            f"The disk {disk.role} of {disk.instance} needs the image {disk.backing}, which would be pruned under it: "
            "flatten the disk first.",
            id=record_id,
        )


def _check_settled(session: Session, reader: Reader, disks: Sequence[Disk]) -> None:
    """No disk is let go of while it is not settled which of two it is: a move's copy, or what that was made of."""
    for left in left_over(session, reader.pool, disks, {(disk.instance, disk.role) for disk in disks}):
        instance, role = left.mark.slot
        raise Busy(
            f"The disk {role} of {instance} is on its way from pool {left.source.name} to pool {left.target.name}: "
            "have instance_disk bring its move to an end first."
        )


def _release_plan(record_id: str, pool: str, held: Holdings) -> Plan:
    name = taken_apart(record_id)
    what = f"disk {name.role} of {name.instance} in pool {pool}"
    disk = held.records.get(record_id)
    if disk is None:
        return Plan((Action("drop", what, f"give up the damaged record {record_id}"),), {what: {"state": "damaged"}})
    before = {"state": "ready", "volume": disk.volume.name}
    return Plan((Action("release", what, f"stop managing {what}, keep {disk.volume}"),), {what: before})


async def _release(pool: Pool, record_id: str, held: Holdings) -> None:
    disk = held.records.get(record_id)
    if isinstance(disk, Disk):
        await release(pool, disk)
    elif held.listing.state(record_id) is State.DELETING:
        await pool.records.swap(record_id, State.DELETING, State.GONE)
    else:
        await pool.records.swap(record_id, State.PENDING, State.RELEASED)
