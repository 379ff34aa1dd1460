# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""The record store for anything that is a folder on a file system, local or NFS.

::

    records/<id>            the body: one JSON object; never renamed, never edited
    records/<id>.<state>    a second name of the body: the state
    references/<id>/<name>  what refers to <id>, by a further name of its own record; never renamed
    facts/<id>/<topic>      facts, replaced as a whole
    locks/<name>            see ``_ground.locks``
    new/                    files before they get their names

The state moves by renaming its name: of two hosts that rename the same source one succeeds. A scan can miss a name
that is renamed meanwhile, so a record shows by its body's name, too, and counts as MOVING then. What was tried on
NFS 4.2: a listing through a descriptor of its own is fresh; ``link`` excludes, ``renameat2`` is refused.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain

from .._ground.durable import sync_files, sync_folder
from .._ground.errors import BadInput, LostMetadata, NewerSchema, NotFound
from .._ground.locks import FileLocks
from .._ground.ops import ALREADY, DONE, Facts, Outcome, refused
from .contract import Listing
from .folder_files import check_own_folder, drop, look_afresh, names_in, new_file, read_file, seconds_since_named
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

SCHEMA_DIGITS = 9
FOLDERS = ("records", "references", "facts", "locks", "new")
POOL = "pool"
"""Facts under this id are about the pool itself."""


class FolderStore:
    """The records in ``root``. ``open`` one that exists, ``make`` one that need not."""

    def __init__(self, root: str, beat_seconds: float = 2.0) -> None:
        self.root = root
        self.locks = FileLocks(self._path("locks"), beat_seconds)
        self._records = self._path("records")

    @classmethod
    def open(cls, root: str, beat_seconds: float = 2.0) -> FolderStore:
        """The store in ``root``; raises NotFound where there is none, NewerSchema where it is too new for us."""
        try:
            look_afresh(os.path.dirname(root), root)
            schema = read_file(os.path.join(root, "schema")).strip()
        except (FileNotFoundError, NotADirectoryError):
            raise NotFound(f"There are no records in {root}.") from None
        check_own_folder(root)  # nobody is led by records that another user made up
        if not schema.isdigit() or len(schema) > SCHEMA_DIGITS:
            raise LostMetadata(
                f"The file {root}/schema does not hold a number: write the schema version of the pool there "
                f"({SCHEMA} for this version of virt.storage)."
            )
        if int(schema) > SCHEMA:
            raise NewerSchema(
                f"The records in {root} have schema {schema.decode()}, and this version of virt.storage knows up to "
                f"{SCHEMA}: use a newer version of the collection."
            )
        return cls(root, beat_seconds)

    @classmethod
    def make(cls, root: str, beat_seconds: float = 2.0) -> FolderStore:
        """The store in ``root``, made where there is none. Only root can look in; idempotent."""
        try:
            return cls.open(root, beat_seconds)
        except NotFound:
            pass
        os.makedirs(root, mode=0o711, exist_ok=True)
        check_own_folder(root)
        os.chmod(root, 0o711)  # whatever the umask is: a guest's qemu passes through
        for folder in FOLDERS:
            path = os.path.join(root, folder)
            os.makedirs(path, mode=0o700, exist_ok=True)
            check_own_folder(path)
        store = cls(root, beat_seconds)
        store._place(os.path.join(root, "schema"), b"%d\n" % SCHEMA)
        sync_folder(root)
        sync_folder(os.path.dirname(root))
        return store

    # Records

    def create_all(self, batch: Sequence[tuple[Record, State]]) -> list[Outcome]:
        """Bodies first and durable, then their names: never the other way round."""
        outcomes: list[Outcome] = []
        fresh = []
        for record, state in batch:
            standing = self._standing(record, state)
            if standing is None:
                fresh.append((record, state, new_file(self._path("new"), to_json(record))))
            outcomes.append(DONE if standing is None else standing)
        try:
            self._name(fresh)
        except OSError:
            for _record, _state, path in fresh:
                drop(path)  # whoever tries again begins with files of its own
            raise
        if fresh or ALREADY in outcomes:
            sync_folder(self._records)
        return outcomes

    def create(self, record: Record, state: State) -> Outcome:
        """See the contract."""
        return self.create_all([(record, state)])[0]

    def _name(self, fresh: Sequence[tuple[Record, State, str]]) -> None:
        """Give bodies that are written their two names."""
        sync_files([path for _record, _state, path in fresh])
        for record, state, path in fresh:
            if record.kind == "image":
                self._reference_folder(record.id)  # now, and not when the pool is full and the image has to go
            os.link(path, self._state_path(record.id, state))
            os.rename(path, os.path.join(self._records, record.id))

    def _standing(self, record: Record, state: State) -> Outcome | None:
        """What a record of this id that stands already means for creating it; None where there is none."""
        body = os.path.join(self._records, record.id)
        if not os.path.lexists(body) and not any(os.path.lexists(p) for p in self._state_paths(record.id)):
            return None
        if self.read(record.id) != record:
            return refused("another record has this id")
        names = [path for path in self._state_paths(record.id) if os.path.lexists(path)]
        if not names:
            os.link(body, self._state_path(record.id, state))  # a creation that power loss cut short
        elif not os.path.lexists(body):
            os.link(names[0], body)  # one that failed between its two names
        return ALREADY

    def swap_all(self, batch: Sequence[tuple[str, State, State]]) -> list[Outcome]:
        """One rename each, one sync for all."""
        outcomes: list[Outcome] = []
        for record_id, was, now in batch:
            try:
                os.rename(self._state_path(record_id, was), self._state_path(record_id, now))
                outcomes.append(DONE)
            except FileNotFoundError:
                outcomes.append(refused(f"{record_id} is not {was}"))
        sync_folder(self._records)
        return outcomes

    def swap(self, record_id: str, was: State, now: State) -> Outcome:
        """See the contract."""
        return self.swap_all([(record_id, was, now)])[0]

    def states(self) -> Listing:
        """See the contract. A name that cannot be ours is passed over; a state that we do not know fails closed."""
        states: dict[str, State] = {}
        for name in os.listdir(self._records):
            if is_id(name):
                states.setdefault(name, State.MOVING)
                continue
            record_id, _dot, word = name.rpartition(".")
            if not is_id(record_id):
                continue
            state = state_named(word, record_id)
            twice = states.get(record_id, State.MOVING) is not State.MOVING
            states[record_id] = State.MOVING if twice else state
        return Listing(states)

    def read(self, record_id: str) -> Record:
        """See the contract."""
        for path in chain([os.path.join(self._records, record_id)], self._state_paths(record_id)):
            try:
                return from_json(read_file(path), record_id)
            except FileNotFoundError:
                continue
        raise LostMetadata(f"There is no record of {record_id}: {remedy(record_id)}.", id=record_id)

    def sync(self) -> None:
        """See the contract."""
        sync_folder(self._records)

    def probe(self) -> None:
        """See the contract."""
        path = os.path.join(self._records, PROBE + secrets.token_hex(8))
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        os.unlink(path)

    # References

    def refer_all(self, batch: Sequence[tuple[str, str]]) -> list[Outcome]:
        """One name each, one sync a folder. The name is a link, which takes neither inode nor block: a full pool can
        be pruned."""
        outcomes = []
        folders = set()
        for record_id, name in batch:
            folder = self._reference_folder(record_id)
            try:
                self._link_name(os.path.join(folder, name), (name, record_id))
                outcomes.append(DONE)
            except FileExistsError:
                outcomes.append(ALREADY)
            folders.add(folder)
        for folder in folders:
            sync_folder(folder)
        return outcomes

    def refer(self, record_id: str, name: str) -> Outcome:
        """See the contract."""
        return self.refer_all([(record_id, name)])[0]

    def unrefer_all(self, batch: Sequence[tuple[str, str]]) -> list[Outcome]:
        """One unlink each, one sync a folder."""
        outcomes = []
        folders = set()
        for record_id, name in batch:
            folder = self._references(record_id)
            try:
                os.unlink(os.path.join(folder, name))
                outcomes.append(DONE)
                folders.add(folder)
            except FileNotFoundError:
                outcomes.append(ALREADY)
        for folder in folders:
            sync_folder(folder)
        return outcomes

    def unrefer(self, record_id: str, name: str) -> Outcome:
        """See the contract."""
        return self.unrefer_all([(record_id, name)])[0]

    def _reference_folder(self, record_id: str) -> str:
        folder = self._references(record_id)
        try:
            os.mkdir(folder, 0o700)
            sync_folder(os.path.dirname(folder))
        except FileExistsError:
            pass
        return folder

    def _link_name(self, path: str, records: Sequence[str]) -> None:
        """Make ``path`` a further name of the first of ``records`` that there is; otherwise an empty file."""
        for record_id in records:
            try:
                os.link(os.path.join(self._records, record_id), path)
                return
            except FileNotFoundError:
                continue
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))

    def references(self, record_id: str) -> Iterable[str]:
        """See the contract."""
        try:
            return os.listdir(self._references(record_id))
        except FileNotFoundError:
            return []

    # Facts

    def note(self, record_id: str, topic: str, facts: Facts) -> None:
        """See the contract."""
        folder = self._path("facts", record_id)
        os.makedirs(folder, mode=0o700, exist_ok=True)
        self._place(os.path.join(folder, topic), (json.dumps(facts, sort_keys=True) + "\n").encode())
        sync_folder(folder)

    def notes(self, record_id: str) -> Mapping[str, Facts]:
        """See the contract."""
        folder = self._path("facts", record_id)
        found: dict[str, Facts] = {}
        try:
            topics = os.listdir(folder)
        except FileNotFoundError:
            return found
        for topic in sorted(topics):
            path = os.path.join(folder, topic)
            try:
                data = read_file(path)
            except FileNotFoundError:
                continue
            except LostMetadata:
                data = b""  # no file of ours
            found[topic] = facts_from_json(data, record_id, topic, f"the file {path}")
        return found

    # Locks

    def hold(self, name: str) -> Outcome:
        """See the contract."""
        return DONE if self.locks.hold(name) else refused(f"another process holds {name}")

    def release(self, name: str) -> None:
        """See the contract. A lock that only this process ever takes goes with it."""
        self.locks.release(name)
        if name.startswith(OWNER):
            self.locks.discard(name)

    def pulse(self, name: str) -> int | None:
        """See the contract."""
        return self.locks.pulse(name)

    def busy(self) -> tuple[str, ...]:
        """The locks that somebody holds."""
        return tuple(name for name in self.locks.names() if self.locks.pulse(name) is not None)

    # Housekeeping

    def drop(self, record_id: str, state: State) -> Outcome:
        """See the contract. The state goes last: a record that is half dropped is still a damaged one."""
        try:
            self.read(record_id)
            return refused(f"the record of {record_id} can be read")
        except LostMetadata:
            pass
        standing = [path for path in self._state_paths(record_id) if os.path.lexists(path)]
        if standing != ([] if state is State.MOVING else [self._state_path(record_id, state)]):
            return refused(f"{record_id} is not {state}")
        for path in (os.path.join(self._records, record_id), *standing):
            drop(path)
        sync_folder(self._records)
        return DONE

    def forget(self, record_id: str) -> None:
        """See the contract. The state goes last: a record that is half forgotten is still ended."""
        body = os.path.join(self._records, record_id)
        states = [path for path in self._state_paths(record_id) if os.path.lexists(path)]
        ended = [self._state_path(record_id, state) for state in ENDED]
        if not set(states) <= set(ended) or (os.path.lexists(body) and not states):
            raise BadInput(f"The record of {record_id} has not ended and cannot be forgotten.")
        with contextlib.suppress(LostMetadata, NewerSchema):
            record = self.read(record_id)
            if isinstance(record, Disk) and record.backing is not None:
                self.unrefer(record.backing, record_id)
        for folder in (self._references(record_id), self._path("facts", record_id)):
            for name in names_in(folder):
                drop(os.path.join(folder, name))
            with contextlib.suppress(FileNotFoundError):
                os.rmdir(folder)
        for path in (body, *states):
            drop(path)
        sync_folder(self._records)

    def sweep(self, keep_seconds: float, kept: Collection[str] = ()) -> list[str]:
        """See the contract. Age is only ever asked of what is gone or never began."""
        forgotten = []
        for record_id, state in self.states().states.items():
            if state is not State.GONE or record_id in kept:
                continue
            if seconds_since_named(self._state_path(record_id, state)) > keep_seconds:
                self.forget(record_id)
                forgotten.append(record_id)
        for name in self.locks.names():
            if name.startswith(OWNER) and self.locks.pulse(name) is None:
                self.locks.discard(name)
        probes = [self._path("records", name) for name in names_in(self._records) if name.startswith(PROBE)]
        for path in [*probes, *(self._path("new", name) for name in names_in(self._path("new")))]:
            if seconds_since_named(path) > NEW_SECONDS:
                drop(path)
        return forgotten

    def destroy(self) -> None:
        """Remove all of it. Only for a pool that holds nothing any more."""
        shutil.rmtree(self.root)

    # Files

    def _path(self, *parts: str) -> str:
        return os.path.join(self.root, *parts)

    def _references(self, record_id: str) -> str:
        return self._path("references", record_id)

    def _state_path(self, record_id: str, state: State) -> str:
        return os.path.join(self._records, f"{record_id}.{state}")

    def _state_paths(self, record_id: str) -> Iterator[str]:
        return (self._state_path(record_id, state) for state in State if state is not State.MOVING)

    def _place(self, path: str, data: bytes) -> None:
        """Put ``data`` at ``path``, whole or not at all."""
        new = new_file(self._path("new"), data)
        sync_files([new])
        os.rename(new, path)


PROBE = ".probe-"
"""Names of files that are written for the sake of writing begin so."""
OWNER = "owner+"
"""Names of locks that stand for one process begin so."""
NEW_SECONDS = 24 * 3600
"""How old a file without a name must be to be nobody's."""
