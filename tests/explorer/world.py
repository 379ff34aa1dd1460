# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A simulated pool that behaves as badly as real ones may, and no worse.

It answers every primitive of the two contracts. A mutation is seen by others before it is durable; a power loss
keeps any subset of what was not durable yet. A listing is a stale one unless the lister wrote in that folder
itself, and is not atomic. A frozen host keeps its locks or loses them, and is not told.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.virt.storage.plugins.module_utils._backends.contract import Capabilities, Stat, Users
from ansible_collections.virt.storage.plugins.module_utils._ground.errors import LostMetadata, SourceError
from ansible_collections.virt.storage.plugins.module_utils._ground.ops import ALREADY, DONE, Op, Outcome, refused
from ansible_collections.virt.storage.plugins.module_utils._records.contract import Listing
from ansible_collections.virt.storage.plugins.module_utils._records.types import MOVES, Record, State, Volume

CAPABILITIES = Capabilities(
    backend="world",
    image_name="img/{id}",
    disk_names={"qcow2": "{id}.qcow2", "raw": "raw/{id}"},
    clones={"overlay": "qcow2"},
)
LEASE = 1.0
IMAGE_SIZE = 100


@dataclass
class Content:
    """A volume's data: what it holds, whether all of it, what it needs."""

    holds: str
    whole: bool = True
    sealed: bool = False
    backing: str | None = None
    size: int = IMAGE_SIZE


@dataclass
class Entry:
    """A record: its body and, once it has one, its state."""

    body: Record
    state: State | None
    damaged: bool = False


@dataclass
class Disk:
    """All that is kept: one of these is what everybody sees, another what is durable."""

    records: dict[str, Entry] = field(default_factory=dict)
    references: dict[str, set[str]] = field(default_factory=dict)
    volumes: dict[str, Content] = field(default_factory=dict)
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)


class Violation(Exception):
    """A hold that does not hold; the message says which."""


Change = Callable[[Disk], None]


class World:
    """One pool. ``begin`` performs the first half of an operation, ``end`` the second and gives the reply."""

    def __init__(self) -> None:
        self.seen = Disk()
        self.durable = Disk()
        self.undurable: list[tuple[int, Change]] = []
        self.time = 0.0
        self.counter = 0
        self.locks: dict[str, int] = {}
        self.frozen: set[int] = set()
        self.ever_frozen: set[int] = set()
        self.filling: dict[int, str] = {}
        self.read_sources = 0
        self.used_names: set[str] = set()
        self.deletion_begun: set[str] = set()
        self.history: dict[str, list[tuple[int, Any]]] = {}
        self.step = 0
        self.epoch = 0
        self.faults = 0
        self.last_write: dict[tuple[int, str], int] = {}
        self.last_seen: dict[tuple[int, str], int] = {}

    # What others may see

    def folder_of(self, op: Op[Any]) -> str:
        """The folder that a listing is of."""
        return "records" if op.primitive == "states" else str(op.args[0])

    def superseded(self) -> set[str]:
        """Records of disks that do not count any more, although they stand."""
        return set()

    def check(self) -> None:
        """What must hold besides the holds; raises Violation."""

    def folders(self) -> list[str]:
        """Every folder there is."""
        return ["records", *self.seen.references]

    def _folder(self, name: str) -> Any:
        if name == "records":
            return {record_id: entry.state for record_id, entry in self.seen.records.items()}
        return set(self.seen.references.get(name, ()))

    def _remember(self, folder: str) -> None:
        self.history.setdefault(folder, []).append((self.step, self._folder(folder)))

    def views(self, actor: int, folder: str) -> list[Any]:
        """What a listing by ``actor`` may show: the folder as it is, or as it was when the actor last wrote there or
        last saw it fresh: what a host knows may be old, and does not grow older."""
        since = max(self.last_write.get((actor, folder), self.epoch), self.last_seen.get((actor, folder), self.epoch))
        now = self._folder(folder)
        old = [view for step, view in self.history.get(folder, []) if step <= since]
        stale = old[-1] if old else ({} if folder == "records" else set())
        return [now] if stale == now else [now, stale]

    def saw_fresh(self, actor: int, folder: str) -> None:
        """The actor was shown the folder as it is."""
        self.last_seen[(actor, folder)] = self.step

    def _change(self, actor: int, folder: str | None, change: Change) -> None:
        self.step += 1
        change(self.seen)
        self.undurable.append((actor, change))
        if folder is not None:
            self._remember(folder)
            self.last_write[(actor, folder)] = self.step

    def make_durable(self, actor: int | None = None) -> None:
        """What ``actor`` changed (everybody, if None) is durable."""
        rest = []
        for who, change in self.undurable:
            if actor is None or who == actor:
                change(self.durable)
            else:
                rest.append((who, change))
        self.undurable = rest

    def lose_power(self, survives: Callable[[], bool]) -> None:
        """Only what is durable remains, and any of the rest that ``survives``."""
        for _who, change in self.undurable:
            if survives():
                change(self.durable)
        self.undurable = []
        self.seen = deepcopy(self.durable)
        self.locks.clear()
        self.filling.clear()
        self.frozen.clear()
        self.step += 1
        self.epoch = self.step
        self.history.clear()
        self.last_write.clear()
        self.last_seen.clear()
        for folder in self.folders():
            self._remember(folder)

    def die(self, actor: int) -> None:
        """The process is gone and so are its locks."""
        self.locks = {name: holder for name, holder in self.locks.items() if holder != actor}
        self.filling.pop(actor, None)
        self.frozen.discard(actor)

    def freeze(self, actor: int, keeps_locks: bool) -> None:
        """The host stands still. A server may give its locks to others; the host is never told."""
        self.frozen.add(actor)
        self.ever_frozen.add(actor)
        if not keeps_locks:
            self.locks = {name: holder for name, holder in self.locks.items() if holder != actor}

    # Operations

    def is_slow(self, op: Op[Any]) -> bool:
        """Whether others can move while the operation is under way."""
        return op.writes and op.part != "host" and op.primitive not in ("hold", "release", "note", "sync", "sweep")

    def begin(self, actor: int, op: Op[Any]) -> Any:
        """Do what the operation does, as others see it. The reply stands at once, durable it is at ``end``."""
        return getattr(self, "_%s_%s" % (op.part, op.primitive))(actor, *op.args)

    # The host

    def _host_fresh(self, actor: int) -> str:
        self.counter += 1
        return "%012d" % self.counter

    def _host_now(self, actor: int) -> str:
        self.counter += 1
        return "2026-01-01T00:00:00.%06dZ" % self.counter

    def _host_clock(self, actor: int) -> float:
        return self.time

    def _host_sleep(self, actor: int, seconds: float) -> None:
        self.time += LEASE

    # The record store

    def _records_create(self, actor: int, record: Record, state: State) -> Outcome:
        entry = self.seen.records.get(record.id)
        if entry is not None and entry.state is not None:
            return ALREADY if entry.body == record else refused("exists")

        def with_state(disk: Disk) -> None:
            disk.records[record.id] = Entry(record, state)

        def body_alone(disk: Disk) -> None:
            disk.records.setdefault(record.id, Entry(record, None))

        self._change(actor, "records", with_state)
        self._change(actor, "records", body_alone)
        return DONE

    def _records_swap(self, actor: int, record_id: str, was: State, now: State) -> Outcome:
        entry = self.seen.records.get(record_id)
        if entry is None or entry.state is not was:
            return refused("not %s" % was)
        if now not in MOVES[was]:
            raise Violation("a record moves from %s to %s, which is final" % (was, now))

        def move(disk: Disk) -> None:
            if record_id in disk.records:
                disk.records[record_id].state = now

        self._change(actor, "records", move)
        if now in (State.DELETING, State.RELEASED):
            self.deletion_begun.add(record_id)
        return DONE

    def _records_refer(self, actor: int, record_id: str, name: str) -> Outcome:
        if name in self.seen.references.get(record_id, ()):
            return ALREADY
        self._change(actor, record_id, lambda disk: disk.references.setdefault(record_id, set()).add(name))
        return DONE

    def _records_unrefer(self, actor: int, record_id: str, name: str) -> Outcome:
        if name not in self.seen.references.get(record_id, ()):
            return ALREADY
        self._change(actor, record_id, lambda disk: disk.references.setdefault(record_id, set()).discard(name))
        return DONE

    def _records_probe(self, actor: int) -> None:
        self._change(actor, "records", lambda disk: None)

    def _records_sync(self, actor: int) -> None:
        self.make_durable()

    def _records_read(self, actor: int, record_id: str) -> Record:
        entry = self.seen.records.get(record_id)
        if entry is None:
            raise LostMetadata("no record %s" % record_id)
        if entry.damaged:
            raise LostMetadata("the record %s is damaged" % record_id)
        return entry.body

    def _records_drop(self, actor: int, record_id: str, state: State) -> Outcome:
        entry = self.seen.records.get(record_id)
        if entry is None or not entry.damaged or entry.state is not state:
            return refused("not a damaged %s" % state)
        self._change(actor, "records", lambda disk: disk.records.pop(record_id, None) and None)
        return DONE

    def _records_note(self, actor: int, record_id: str, topic: str, facts: Any) -> None:
        self.seen.facts.setdefault(record_id, {})[topic] = facts

    def _records_notes(self, actor: int, record_id: str) -> Any:
        return self.seen.facts.get(record_id, {})

    def _records_hold(self, actor: int, name: str) -> Outcome:
        if name in self.locks:
            return refused("held")
        self.locks[name] = actor
        return DONE

    def _records_release(self, actor: int, name: str) -> None:
        if self.locks.get(name) == actor:
            del self.locks[name]

    def _records_pulse(self, actor: int, name: str) -> int | None:
        holder = self.locks.get(name)
        if holder is None:
            return None
        if holder in self.frozen or holder < 0:
            return 0
        self.counter += 1
        return self.counter

    def listing(self, view: Any, earlier: Any) -> Listing:
        """What ``states`` replies with, when the folder looked like ``earlier`` at first and like ``view`` at last."""
        shown = {}
        for record_id in {**earlier, **view}:
            if record_id in view and record_id in earlier and view[record_id] is earlier[record_id]:
                shown[record_id] = view[record_id] or State.MOVING
            elif record_id in earlier:
                shown[record_id] = State.MOVING
        return Listing(shown)

    # The volumes

    def _new_volume(self, actor: int, volume: Volume, content: Content) -> None:
        record_id = volume.name.removeprefix("img/").removeprefix("raw/").removesuffix(".qcow2")
        if record_id not in self.durable.records:
            raise Violation("hold 4: the volume %s is made before its record is durable" % volume)
        if volume.name in self.used_names:
            raise Violation("hold 7: the name %s is used a second time" % volume)
        self.used_names.add(volume.name)
        self._change(actor, None, lambda disk: disk.volumes.__setitem__(volume.name, deepcopy(content)))

    def _volumes_inventory(self, actor: int) -> dict[str, str]:
        return {name: name for name in self.seen.volumes}

    def _volumes_stat(self, actor: int, volume: Volume) -> Stat | None:
        content = self.seen.volumes.get(volume.name)
        return None if content is None else Stat(content.size, content.size, volume.name)

    def _volumes_allocate(self, actor: int, volume: Volume, size: int) -> Outcome:
        self._new_volume(actor, volume, Content("blank", size=size))
        return DONE

    def _volumes_fill(self, actor: int, volume: Volume, source: str) -> Any:
        for other, key in self.filling.items():
            if key == source and not {actor, other} & self.ever_frozen:
                raise Violation("hold 5: two live fillers read %s at once" % source)
        self.filling[actor] = source
        self.read_sources += 1
        self._new_volume(actor, volume, Content(source, whole=False))
        if source == "bad":
            self.filling.pop(actor)
            raise SourceError("a bad source")
        return {"size": IMAGE_SIZE, "content": source}

    def finish_fill(self, actor: int, volume: Volume) -> None:
        """The second half of a fill: the data is whole."""
        self.filling.pop(actor, None)

        def complete(disk: Disk) -> None:
            if volume.name in disk.volumes:
                disk.volumes[volume.name].whole = True

        self._change(actor, None, complete)

    def _volumes_seal(self, actor: int, volume: Volume) -> Outcome:
        def seal(disk: Disk) -> None:
            if volume.name in disk.volumes:
                disk.volumes[volume.name].sealed = True

        self._change(actor, None, seal)
        return DONE

    def _volumes_clone(self, actor: int, image: Volume, volume: Volume, size: int, how: str) -> Outcome:
        base = self.seen.volumes.get(image.name)
        if base is None:
            return refused("the image has no volume")
        self._new_volume(actor, volume, Content(base.holds, backing=image.name, size=size))
        return DONE

    def _volumes_grow(self, actor: int, volume: Volume, size: int) -> Outcome:
        return DONE

    def _volumes_flatten(self, actor: int, volume: Volume) -> Outcome:
        def flatten(disk: Disk) -> None:
            if volume.name in disk.volumes:
                disk.volumes[volume.name].backing = None

        self._change(actor, None, flatten)
        return DONE

    def _volumes_adopt(self, actor: int, native: str, volume: Volume) -> Outcome:
        return DONE if volume.name in self.seen.volumes else refused("no such volume")

    def _volumes_leave(self, actor: int, found: str, volume: Volume) -> Outcome:
        return DONE

    def _volumes_sweep(self, actor: int) -> list[str]:
        return []

    def _records_sweep(self, actor: int, keep_seconds: float, kept: Collection[str] = ()) -> list[str]:
        return []

    def _volumes_users(self, actor: int, volume: Volume) -> Users:
        return Users()

    def _volumes_remove(self, actor: int, volume: Volume) -> Outcome:
        if volume.name not in self.seen.volumes:
            return ALREADY
        self._change(actor, None, lambda disk: disk.volumes.pop(volume.name, None) and None)
        return DONE


def place(world: World, records: Iterable[tuple[Record, State]]) -> None:
    """Set the stage: records with their volumes and references, durable, seen by all."""
    for record, state in records:
        world.seen.records[record.id] = Entry(record, state)
        backing = getattr(record, "backing", None)
        if backing is not None:
            world.seen.references.setdefault(backing, set()).add(record.id)
        if record.volume.name not in world.seen.volumes and state not in (State.GONE, State.RELEASED):
            base = None if backing is None else world.seen.records[backing].body.volume.name
            holds = getattr(record, "key", "") or (world.seen.volumes[base].holds if base else "blank")
            world.seen.volumes[record.volume.name] = Content(holds, sealed=record.kind == "image", backing=base)
            world.used_names.add(record.volume.name)
    world.durable = deepcopy(world.seen)
    for folder in world.folders():
        world._remember(folder)
