# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""The record store's contract, as operations.

A store keeps one immutable body a record, a state that moves by compare-and-swap, names of references under
an id, and facts. Mutators are durable when they return. Every store passes ``tests/contract``.

A store is a class with a method for each operation here, same name, same arguments. A method ``<name>_all``, if
the store has one, takes a list of argument tuples and gives a list of results: that is how a thousand records
share one sync.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from .._ground.ops import Facts, Op, Outcome
from .types import ENDED, Record, State, taken_apart


class Listing:
    """The states of all records, as one listing showed them, with look-ups by slot and by image key."""

    def __init__(self, states: Mapping[str, State]) -> None:
        self.states = states
        self._slots: dict[tuple[str, str], list[str]] | None = None
        self._keys: dict[str, list[str]] = {}

    def state(self, record_id: str) -> State | None:
        """The record's state, or None where the listing did not show it."""
        return self.states.get(record_id)

    def slot(self, instance: str, role: str) -> list[str]:
        """The live records of one role of one instance."""
        return self._indexed().get((instance, role), [])

    def images(self, key_hash: str) -> list[str]:
        """The live records of images whose key has this digest."""
        self._indexed()
        return self._keys.get(key_hash, [])

    def _indexed(self) -> dict[tuple[str, str], list[str]]:
        if self._slots is None:
            self._slots = {}
            for record_id, state in self.states.items():
                if state not in ENDED:
                    name = taken_apart(record_id)
                    if name.image:
                        self._keys.setdefault(name.key_hash, []).append(record_id)
                    else:
                        self._slots.setdefault((name.instance, name.role), []).append(record_id)
        return self._slots


class Records:
    """The record store of one pool, for algorithms to await."""

    def __init__(self, pool: str) -> None:
        self._pool = pool

    def _op(self, primitive: str, *args: Any, writes: bool = True) -> Op[Any]:
        return Op(self._pool, "records", primitive, args, writes)

    def create(self, record: Record, state: State) -> Op[Outcome]:
        """A new record. Exclusive, whole or nothing, durable. A repetition with the same body is ALREADY."""
        return self._op("create", record, state)

    def swap(self, record_id: str, was: State, now: State) -> Op[Outcome]:
        """Move the state from ``was`` to ``now``: atomic, durable; refused where it is not ``was``.

        A server may do it and lose the reply, which then looks like a refusal: the caller settles that.
        """
        return self._op("swap", record_id, was, now)

    def refer(self, record_id: str, name: str) -> Op[Outcome]:
        """Put ``name`` under ``record_id``, never to be renamed. Idempotent, durable. Probes go here too."""
        return self._op("refer", record_id, name)

    def unrefer(self, record_id: str, name: str) -> Op[Outcome]:
        """Take ``name`` away from under ``record_id``. Idempotent, durable."""
        return self._op("unrefer", record_id, name)

    def states(self) -> Op[Listing]:
        """A listing made afresh. Fresh as of the caller's own last write to the records; not atomic:
        a record that moved meanwhile is shown in either state, or as MOVING, but never left out."""
        return self._op("states", writes=False)

    def references(self, record_id: str) -> Op[Iterable[str]]:
        """The names under ``record_id``, readable or not. Fresh as of the caller's own last write there."""
        return self._op("references", record_id, writes=False)

    def read(self, record_id: str) -> Op[Record]:
        """The body; raises LostMetadata where it is missing or damaged, NewerSchema where it is newer."""
        return self._op("read", record_id, writes=False)

    def sync(self) -> Op[None]:
        """On return, everything that an earlier listing showed is durable, whoever wrote it."""
        return self._op("sync")

    def probe(self) -> Op[None]:
        """Write something of one's own among the records, so that the next ``states`` is fresh."""
        return self._op("probe")

    def note(self, record_id: str, topic: str, facts: Facts) -> Op[None]:
        """Set the facts of one topic of a record, or of the pool itself under an id of another form. Never part of
        safety."""
        return self._op("note", record_id, topic, facts)

    def notes(self, record_id: str) -> Op[Mapping[str, Facts]]:
        """The facts of a record by topic. Damaged ones are empty, and raise LostMetadata where they are about the pool
        itself: what they keep would be lost. A topic that cannot be looked at is an error, and never left out."""
        return self._op("notes", record_id, writes=False)

    def hold(self, name: str) -> Op[Outcome]:
        """Take the lock ``name`` for this process and its children, without waiting; beats while it is held.
        Refused where anybody holds it, another task of this process included.

        Locks order work; they do not carry safety: a host that lost one is not told.
        """
        return self._op("hold", name)

    def release(self, name: str) -> Op[None]:
        """Give the lock back."""
        return self._op("release", name)

    def pulse(self, name: str) -> Op[int | None]:
        """None where nobody holds ``name``; otherwise the holder's beat, which goes on while it lives."""
        return self._op("pulse", name, writes=False)

    def drop(self, record_id: str, state: State) -> Op[Outcome]:
        """Turn a record that is in ``state``, or MOVING for none, and whose body is damaged into a lost one: as if it
        had never been, but for its references, which stay and keep what they are under. Durable; refused where the
        body can be read or the state is another. Raises NewerSchema where the body is only too new for us."""
        return self._op("drop", record_id, state)

    def forget(self, record_id: str) -> Op[None]:
        """Drop an ended record for good, and first its name under its image, which would keep that for ever without a
        record. Only for records that ended long ago (30 days)."""
        return self._op("forget", record_id)

    def sweep(self, keep_seconds: float, kept: Collection[str] = ()) -> Op[list[str]]:
        """Forget records that were gone more than ``keep_seconds`` ago, but those ``kept``, and clear what no record
        ever named. What was released stays: its volume does, and without it would be taken for one whose record was
        lost."""
        return self._op("sweep", keep_seconds, kept)
