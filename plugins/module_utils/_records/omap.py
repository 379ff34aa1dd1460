# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""The record store for a Ceph pool: omaps of a few objects that stand among those of its images.

::

    virt-storage.pool           schema and number of shards: what makes the others a store
    virt-storage.records.<n>    a shard, whose omap has for each record that belongs there
        state/<id>                  the state
        body/<id>                   one JSON object, written with the first state and never again
        ended/<id>                  when it was gone, in seconds since 1970 by the clock of whoever ended it
        under/<id>/<name>           what refers to <id>
        facts/<id>/<topic>          facts, replaced as a whole
    virt-storage.locks.<n>      see ``_ground.rados_locks``

A step of a record is one write to one object, guarded by what the keys must be: RADOS does it as a whole, in one
order for everybody. So a record never shows without its state, and of two that swap the same state one succeeds. All
keys are in objects that exist before the first record: a pool that is full takes no new object, and can be pruned.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any
from zlib import crc32

from .._ground.ceph import told
from .._ground.errors import BadInput, LostMetadata, NewerSchema, NotFound
from .._ground.ops import ALREADY, DONE, Facts, Outcome, refused
from .._ground.rados_locks import RadosLocks
from .._ground.rados_omap import Change, Omaps, joined
from .contract import Listing
from .types import (
    ENDED,
    SCHEMA,
    Disk,
    Record,
    State,
    facts_from_json,
    from_json,
    is_id,
    remedy,
    state_named,
    to_json,
)

try:
    import rados  # type: ignore[import-not-found,import-untyped,unused-ignore]
except ImportError:
    rados = None

OBJECT = "virt-storage.pool"
SHARD = "virt-storage.records."
LOCKS = "virt-storage.locks."
SHARDS = 16
"""Into how many objects a new store is spread. Ceph warns of objects with more than 200,000 keys."""
MOST_SHARDS = 4096
BATCH = 2000
"""The most records that are changed at the same time."""

STATE, BODY, ENDED_AT, UNDER, FACTS = "state/", "body/", "ended/", "under/", "facts/"


class OmapStore:
    """The records in the pool and namespace of an open ``rados.Ioctx``. ``open`` ones that exist, ``make`` ones that
    need not."""

    def __init__(self, ioctx: Any, shards: int, beat_seconds: float = 2.0) -> None:
        self.locks = RadosLocks(ioctx, LOCKS, shards, beat_seconds)
        self._ioctx = ioctx
        self._omaps = Omaps(ioctx)
        self._shards = [f"{SHARD}{number}" for number in range(shards)]

    @classmethod
    def open(cls, ioctx: Any, beat_seconds: float = 2.0) -> OmapStore:
        """The store of the pool; raises NotFound where there is none, NewerSchema where it is too new for us."""
        with told("read the records"):
            try:
                data = ioctx.read(OBJECT)
            except rados.ObjectNotFound:
                raise NotFound("There are no records in this Ceph pool.") from None
        return cls(ioctx, _shards(data), beat_seconds)

    @classmethod
    def make(cls, ioctx: Any, beat_seconds: float = 2.0) -> OmapStore:
        """The store of the pool, made where there is none; idempotent."""
        with contextlib.suppress(NotFound):
            return cls.open(ioctx, beat_seconds)
        layout = json.dumps({"schema": SCHEMA, "shards": SHARDS}, sort_keys=True) + "\n"
        with told("make the objects for records"):
            for name in (f"{start}{number}" for start in (SHARD, LOCKS) for number in range(SHARDS)):
                with rados.WriteOpCtx() as op:
                    op.new(rados.LIBRADOS_CREATE_IDEMPOTENT)
                    ioctx.operate_write_op(op, name)
            with contextlib.suppress(rados.ObjectExists), rados.WriteOpCtx() as op:
                op.new(rados.LIBRADOS_CREATE_EXCLUSIVE)
                op.write_full(layout.encode())
                ioctx.operate_write_op(op, OBJECT)
        return cls.open(ioctx, beat_seconds)

    # Records

    def create_all(self, batch: Sequence[tuple[Record, State]]) -> list[Outcome]:
        """Body and state in one step each, where neither is there. What stands already is looked at first: an error
        is raised before anything is done."""
        wanted = [(record.id, key) for record, _state in batch for key in (STATE + record.id, BODY + record.id)]
        there = self._values(wanted)
        outcomes: list[Outcome | None] = [
            _standing(record, _parsed(there.get(BODY + record.id), record.id))
            if STATE + record.id in there or BODY + record.id in there
            else None
            for record, _state in batch
        ]
        fresh = [number for number, outcome in enumerate(outcomes) if outcome is None]
        for number, made in zip(fresh, self._change_all([_creation(*batch[number]) for number in fresh])):
            record = batch[number][0]
            outcomes[number] = DONE if made else _standing(record, self.read(record.id))
        return [outcome for outcome in outcomes if outcome is not None]

    def create(self, record: Record, state: State) -> Outcome:
        """See the contract."""
        return self.create_all([(record, state)])[0]

    def swap_all(self, batch: Sequence[tuple[str, State, State]]) -> list[Outcome]:
        """One guarded step each."""
        changes = [
            (record_id, Change({STATE + record_id: was.value}, _entering(record_id, now)))
            for record_id, was, now in batch
        ]
        return [
            DONE if done else refused(f"{record_id} is not {was}")
            for done, (record_id, was, _now) in zip(self._change_all(changes), batch)
        ]

    def swap(self, record_id: str, was: State, now: State) -> Outcome:
        """See the contract."""
        return self.swap_all([(record_id, was, now)])[0]

    def _change_all(self, changes: Sequence[tuple[str, Change]]) -> list[bool]:
        """Do changes of records, each guarded; tells which were done."""
        done: list[bool] = []
        for start in range(0, len(changes), BATCH):
            done += self._change_some(changes[start : start + BATCH])
        return done

    def _change_some(self, changes: Sequence[tuple[str, Change]]) -> list[bool]:
        """Those of a shard go in one step. Where one of them stands in the way of the others, or one record is to be
        changed twice, they go one by one."""
        done = [False] * len(changes)
        groups: dict[str, list[int]] = {}
        for number, (record_id, _change) in enumerate(changes):
            groups.setdefault(self._shard(record_id), []).append(number)

        def attempt(steps: list[list[int]]) -> None:
            writes = [(self._shard(changes[step[0]][0]), joined(changes[n][1] for n in step)) for step in steps]
            for step, worked in zip(steps, self._omaps.change_all(writes)):
                for number in step:
                    done[number] = worked

        attempt([group for group in groups.values() if len({changes[n][0] for n in group}) == len(group)])
        attempt([[n] for group in groups.values() if len(group) > 1 and not done[group[0]] for n in group])
        return done

    def states(self) -> Listing:
        """See the contract. A key that cannot be ours is passed over; a state that we do not know fails closed."""
        return Listing(
            {
                record_id: state_named(word.decode(errors="replace"), record_id)
                for shard in self._shards
                for record_id, word in self._omaps.items(shard, STATE)
                if is_id(record_id)
            }
        )

    def read_all(self, batch: Sequence[tuple[str]]) -> list[Record]:
        """One reading for each shard."""
        bodies = self._values([(record_id, BODY + record_id) for (record_id,) in batch])
        return [_parsed(bodies.get(BODY + record_id), record_id) for (record_id,) in batch]

    def read(self, record_id: str) -> Record:
        """See the contract."""
        return self.read_all([(record_id,)])[0]

    def sync(self) -> None:
        """See the contract. Nothing is left to do: a reading waits for the writes before it to be on disk on all
        replicas, so what a listing showed was durable."""

    def probe(self) -> None:
        """See the contract. Nothing is left to do: each object has one OSD that orders all that is done to it, and that
        OSD answers no reading once another may have taken its place (since Ceph 15). Every listing is fresh."""

    # References

    def refer_all(self, batch: Sequence[tuple[str, str]]) -> list[Outcome]:
        """One step for each shard."""
        return self._put_under(batch, there=True)

    def refer(self, record_id: str, name: str) -> Outcome:
        """See the contract."""
        return self.refer_all([(record_id, name)])[0]

    def unrefer_all(self, batch: Sequence[tuple[str, str]]) -> list[Outcome]:
        """One step for each shard."""
        return self._put_under(batch, there=False)

    def unrefer(self, record_id: str, name: str) -> Outcome:
        """See the contract."""
        return self.unrefer_all([(record_id, name)])[0]

    def _put_under(self, batch: Sequence[tuple[str, str]], there: bool) -> list[Outcome]:
        """Have names be ``there`` or not. Whether they were is looked at before, and only ever told."""
        wanted = [(record_id, _under(record_id) + name) for record_id, name in batch]
        standing = set(self._values(wanted))
        outcomes: list[Outcome] = []
        steps: dict[str, list[Change]] = {}
        for record_id, key in wanted:
            outcomes.append(ALREADY if (key in standing) is there else DONE)
            (standing.add if there else standing.discard)(key)
            step = Change(now={key: ""}) if there else Change(without=(key,))
            steps.setdefault(self._shard(record_id), []).append(step)
        self._omaps.change_all([(shard, joined(each)) for shard, each in steps.items()])
        return outcomes

    def references(self, record_id: str) -> Iterable[str]:
        """See the contract."""
        return [name for name, _value in self._omaps.items(self._shard(record_id), _under(record_id))]

    # Facts

    def note(self, record_id: str, topic: str, facts: Facts) -> None:
        """See the contract."""
        text = json.dumps(facts, sort_keys=True)
        self._omaps.change(self._shard(record_id), Change(now={_facts(record_id) + topic: text}))

    def notes(self, record_id: str) -> Mapping[str, Facts]:
        """See the contract."""
        shard, start = self._shard(record_id), _facts(record_id)
        return {
            topic: facts_from_json(data, record_id, topic, f"the omap key {start}{topic} of the object {shard}")
            for topic, data in self._omaps.items(shard, start)
        }

    # Locks

    def hold(self, name: str) -> Outcome:
        """See the contract."""
        return DONE if self.locks.hold(name) else refused(f"another process holds {name}")

    def release(self, name: str) -> None:
        """See the contract."""
        self.locks.release(name)

    def pulse(self, name: str) -> int | None:
        """See the contract."""
        return self.locks.pulse(name)

    def busy(self) -> tuple[str, ...]:
        """The names of the locks that somebody holds now."""
        return tuple(name for name in self.locks.names() if self.locks.pulse(name) is not None)

    def close(self) -> None:
        """Give all locks back. To be done before the connection is closed."""
        self.locks.close()

    # Housekeeping

    def drop(self, record_id: str, state: State) -> Outcome:
        """See the contract."""
        try:
            self.read(record_id)
            return refused(f"the record of {record_id} can be read")
        except LostMetadata:
            pass
        word = "" if state is State.MOVING else state.value
        change = Change({STATE + record_id: word}, without=_keys(record_id))
        return DONE if self._omaps.change(self._shard(record_id), change) else refused(f"{record_id} is not {state}")

    def forget(self, record_id: str) -> None:
        """See the contract. All that there is of it goes in one step, after its name elsewhere."""
        shard = self._shard(record_id)
        standing = self._omaps.values(shard, _keys(record_id))
        if not standing:
            return
        word = standing.get(STATE + record_id, b"").decode(errors="replace")
        if word not in {state.value for state in ENDED}:
            raise BadInput(f"The record of {record_id} has not ended and cannot be forgotten.")
        with contextlib.suppress(LostMetadata, NewerSchema):
            record = _parsed(standing.get(BODY + record_id), record_id)
            if isinstance(record, Disk) and record.backing is not None:
                self.unrefer(record.backing, record_id)
        more = [
            start + name
            for start in (_under(record_id), _facts(record_id))
            for name, _value in self._omaps.items(shard, start)
        ]
        self._omaps.change(shard, Change({STATE + record_id: word}, without=(*_keys(record_id), *more)))

    def sweep(self, keep_seconds: float, kept: Collection[str] = ()) -> list[str]:
        """See the contract. Age is only ever asked of what is gone."""
        limit = time.time() - keep_seconds
        forgotten = [
            record_id
            for shard in self._shards
            for record_id, ended in self._omaps.items(shard, ENDED_AT)
            if is_id(record_id) and record_id not in kept and _seconds(ended) < limit
        ]
        for record_id in forgotten:
            self.forget(record_id)
        self.locks.sweep()
        return forgotten

    def destroy(self) -> None:
        """Remove all of the store, first what makes it one: what is left of a removal that was cut short is removed
        with the pool, or used by the next store."""
        for name in (OBJECT, *self._shards):
            with told(f"remove the object {name}"), contextlib.suppress(rados.ObjectNotFound):
                self._ioctx.remove_object(name)
        self.locks.destroy()

    # Keys

    def _shard(self, record_id: str) -> str:
        return self._shards[crc32(record_id.encode()) % len(self._shards)]

    def _values(self, wanted: Iterable[tuple[str, str]]) -> dict[str, bytes]:
        """The values that there are of keys, each given with the record that it belongs to."""
        places: dict[str, list[str]] = {}
        for record_id, key in wanted:
            places.setdefault(self._shard(record_id), []).append(key)
        found: dict[str, bytes] = {}
        for shard, keys in places.items():
            found.update(self._omaps.values(shard, keys))
        return found


def _under(record_id: str) -> str:
    return f"{UNDER}{record_id}/"


def _facts(record_id: str) -> str:
    return f"{FACTS}{record_id}/"


def _keys(record_id: str) -> tuple[str, ...]:
    """The keys that are the record itself."""
    return STATE + record_id, BODY + record_id, ENDED_AT + record_id


def _parsed(body: bytes | None, record_id: str) -> Record:
    """The record, from what stands in the place of its body."""
    if body is None:
        raise LostMetadata(f"There is no record of {record_id}: {remedy(record_id)}.", id=record_id)
    return from_json(body, record_id)


def _standing(record: Record, there: Record) -> Outcome:
    """What it means for creating a record that one of its id is ``there`` already."""
    return ALREADY if there == record else refused("another record has this id")


def _creation(record: Record, state: State) -> tuple[str, Change]:
    """What makes a record where there is none, with its id."""
    absent = {STATE + record.id: "", BODY + record.id: ""}
    return record.id, Change(absent, {BODY + record.id: to_json(record).decode(), **_entering(record.id, state)})


def _entering(record_id: str, state: State) -> dict[str, str]:
    """What is written when a record enters a state."""
    ended = {ENDED_AT + record_id: f"{time.time():.3f}"} if state is State.GONE else {}
    return {STATE + record_id: state.value, **ended}


def _seconds(text: bytes) -> float:
    """When a record ended; never, where that cannot be read."""
    try:
        return float(text)
    except ValueError:
        return float("inf")


def _shards(data: bytes) -> int:
    """The number of shards, from the content of ``OBJECT``."""
    try:
        layout = json.loads(data)
        schema, shards = layout.get("schema"), layout.get("shards")
    except (ValueError, AttributeError, RecursionError):
        schema = shards = None
    if isinstance(schema, int) and schema > SCHEMA:
        raise NewerSchema(
            f"The records in the Ceph pool have schema {schema}, and this version of virt.storage knows up to "
            f"{SCHEMA}: use a newer version of the collection."
        )
    if isinstance(schema, int) and isinstance(shards, int) and 0 < shards <= MOST_SHARDS:
        return shards
    raise LostMetadata(
        f"The object {OBJECT} of the Ceph pool does not say how its records are kept: write "
        f'{{"schema": {SCHEMA}, "shards": N}} there, where N is the number of objects {SHARD}*.'
    )
