# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A bed is one pool of one backend for the suites to try. A new backend joins with a bed of its own in ``GROUNDS``.

``excused`` names the promises that a backend cannot be held to, with the reason; tests that need one are marked with
``@pytest.mark.promise(...)`` and are not selected there.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from explorer.world import CAPABILITIES as WORLD_CAPABILITIES
from explorer.world import World

from ansible_collections.virt.storage.plugins.module_utils._backends.contract import Capabilities, Volumes
from ansible_collections.virt.storage.plugins.module_utils._backends.file import FileVolumes
from ansible_collections.virt.storage.plugins.module_utils._backends.perform import Clockwork, Parts, Performer
from ansible_collections.virt.storage.plugins.module_utils._ground.command import Runner
from ansible_collections.virt.storage.plugins.module_utils._ground.digest import BLOCK, ContentDigest
from ansible_collections.virt.storage.plugins.module_utils._ground.drive import Answer, Ended, Reply, drive
from ansible_collections.virt.storage.plugins.module_utils._ground.immutable import set_immutable
from ansible_collections.virt.storage.plugins.module_utils._ground.ops import Op
from ansible_collections.virt.storage.plugins.module_utils._records.contract import Records
from ansible_collections.virt.storage.plugins.module_utils._records.folder import FolderStore
from ansible_collections.virt.storage.plugins.module_utils._records.types import (
    Disk,
    Image,
    Volume,
    disk_id,
    image_id,
)

POOL = "p"
MIB = 1 << 20
GIB = 1 << 30
BEAT = 0.05
"""Seconds between two beats of a lock."""


async def awaited(op: Op[Any]) -> Any:
    """An operation as a task of its own."""
    return await op


class Bed:
    """What a suite asks of a backend."""

    name: str
    capabilities: Capabilities
    lock_outlives: float = 0.0
    """For how many seconds a lock outlives its holder."""
    perform: Callable[[Mapping[int, Op[Any]]], Mapping[int, Reply]]
    records = Records(POOL)
    volumes = Volumes(POOL)

    def do(self, op: Op[Any]) -> Any:
        """Perform one operation; gives its result or raises its error."""
        return self.do_all([op])[0].unwrap()

    def do_all(self, ops: Sequence[Op[Any]]) -> list[Ended]:
        """Perform several at once, as tasks that run side by side."""
        return self.run_all([awaited(op) for op in ops])

    def run_all(self, tasks: Sequence[Coroutine[Op[Any], Any, Any]]) -> list[Ended]:
        """Run algorithms side by side."""
        return drive(tasks, self.perform)

    def another(self) -> Bed:
        """The same pool, as another process holds it."""
        raise NotImplementedError

    def disk(self, instance: str = "web", size: int = MIB, format: str = "", backing: Image | None = None) -> Disk:
        """The body of a new disk."""
        record_id = disk_id(instance, "root", Clockwork().fresh())
        volume = self.capabilities.disk_volume(record_id, format or next(iter(self.capabilities.disk_names)))
        backing_id = backing.id if backing is not None else None
        return Disk(record_id, instance, "root", size, volume, "2026", "owner+t", backing_id, origin={"of": ["a"]})

    def image(self, key: str = "sha256:x") -> Image:
        """The body of a new image."""
        record_id = image_id("img", key, Clockwork().fresh())
        return Image(record_id, key, "img", "", self.capabilities.image_volume(record_id), "2026", "owner+t")


class RealBed(Bed):
    """A backend on storage that is there. ``address`` is how another process comes to it (see ``actor``)."""

    parts: Parts

    @property
    def address(self) -> str:
        raise NotImplementedError

    def at(self, volume: Volume) -> tuple[str, str]:
        """Format and name by which qemu's programs find a volume."""
        raise NotImplementedError

    def body(self, record_id: str, data: bytes | None) -> None:
        """Put ``data`` in the place of a record's body behind the store's back; None takes it away."""
        raise NotImplementedError

    def fact(self, record_id: str, topic: str, data: bytes) -> None:
        """Put ``data`` in the place of facts behind the store's back."""
        raise NotImplementedError

    def state(self, record_id: str, word: str) -> None:
        """Write a state that no version of ours knows."""
        raise NotImplementedError

    def inherited(self) -> Sequence[int]:
        """The descriptors of the locks that are held."""
        raise NotImplementedError

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.capabilities = parts.volumes.capabilities()
        self.perform = Performer({POOL: parts})

    @contextmanager
    def actor(self, *words: str) -> Any:
        """Another process at work on this pool (see ``actor.main``); killed on the way out."""
        argv = [sys.executable, "-m", f"{__package__}.actor", self.address, *words]
        pipe = subprocess.PIPE
        with subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True, env=child_env()) as process:
            try:
                yield process
            finally:
                process.kill()


class FileBed(RealBed):
    """Pools in a folder."""

    name = "file"

    def __init__(self, root: str) -> None:
        records = FolderStore.make(os.path.join(root, ".virt-storage"), BEAT)
        volumes = FileVolumes(root, Runner(), records.locks.inherited)
        volumes.prepare()
        super().__init__(Parts(records, volumes))
        self.root = root

    @property
    def address(self) -> str:
        return json.dumps(["file", self.root])

    def another(self) -> FileBed:
        return FileBed(self.root)

    def at(self, volume: Volume) -> tuple[str, str]:
        return volume.format, os.path.join(self.root, volume.name)

    def record_path(self, name: str) -> Path:
        """The file ``name`` among the records."""
        return Path(self.root, ".virt-storage", "records", name)

    def body(self, record_id: str, data: bytes | None) -> None:
        names = [path for path in self.record_path("").iterdir() if path.name.partition(".")[0] == record_id]
        for path in names:
            if data is None:
                path.unlink()
            else:
                path.write_bytes(data)

    def fact(self, record_id: str, topic: str, data: bytes) -> None:
        self.record_path("").parent.joinpath("facts", record_id, topic).write_bytes(data)

    def state(self, record_id: str, word: str) -> None:
        os.link(self.record_path(record_id), self.record_path(f"{record_id}.{word}"))

    def inherited(self) -> Sequence[int]:
        return self.parts.records.locks.inherited()

    def destroy(self) -> None:
        """Remove the pool, sealed images included."""
        for folder, _folders, files in os.walk(self.root):
            for name in files:
                path = os.path.join(folder, name)
                if not os.path.islink(path) and os.path.isfile(path) and os.access(path, os.R_OK):
                    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
                    try:
                        set_immutable(descriptor, False)
                    finally:
                        os.close(descriptor)
        shutil.rmtree(self.root)


@dataclass
class WorldBed(Bed):
    """The simulated pool of the explorer: the suites hold it to what it models, so that the explorer does not prove
    things about a pool that is kinder than real ones."""

    world: World = field(default_factory=World)
    me: int = 0
    name = "world"
    capabilities = WORLD_CAPABILITIES

    def __post_init__(self) -> None:
        self.perform = self._perform

    def another(self) -> WorldBed:
        return WorldBed(self.world, self.me + 1)

    def _perform(self, waiting: Mapping[int, Op[Any]]) -> Mapping[int, Reply]:
        replies: dict[int, Reply] = {}
        for number, op in waiting.items():
            if op.primitive == "states":
                view = self.world.views(self.me, "records")[0]
                replies[number] = Answer(self.world.listing(view, view))
            elif op.primitive == "references":
                replies[number] = Answer(self.world.views(self.me, op.args[0])[0])
            else:
                replies[number] = Answer(self.world.begin(self.me, op))
                if op.primitive == "fill":
                    self.world.finish_fill(self.me, op.args[0])
                self.world.make_durable(self.me)
        return replies


def open_at(address: str) -> RealBed:
    """The bed that another process made."""
    kind, *where = json.loads(address)
    if kind == "rbd":
        from .rbd_bed import RbdBed

        return RbdBed(*where)
    if kind == "lvm":
        from .lvm_bed import LvmBed

        return LvmBed(*where)
    if kind != "file":
        raise ValueError(address)
    return FileBed(*where)


@contextmanager
def mounted(image: Path, size: int, *mkfs: str) -> Any:
    """A file system of ``size`` bytes in a sparse file, mounted by loop as long as the context lasts."""
    point = image.with_suffix(".mount")
    point.mkdir()
    with image.open("wb") as file:
        file.truncate(size)
    program(*mkfs, str(image))
    program("mount", "-o", "loop", str(image), str(point))
    try:
        yield point
    finally:
        # What a failed test left running may still use it: then the last one out takes it along.
        program("umount", "--lazy", str(point))


def program(*argv: str) -> str:
    """Run a program that has to succeed; gives its output."""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, f"{' '.join(argv)}: {done.stderr}{done.stdout}"
    return done.stdout


def child_env() -> dict[str, str]:
    """The environment in which a Python process finds the collection and these tests."""
    root = Path(__file__).resolve().parents[2]
    return {**os.environ, "PYTHONPATH": f"{root}/.work/tree:{root}/tests"}


@contextmanager
def _world(folder: Path) -> Any:
    yield WorldBed()


@contextmanager
def _file(folder: Path) -> Any:
    bed = FileBed(str(folder))
    try:
        yield bed
    finally:
        bed.destroy()


@contextmanager
def _here(place: Path) -> Any:
    yield place


# What a bed in Ceph imports is there once ./dev has made it so.


@contextmanager
def _ceph(place: Path) -> Any:
    from .rbd_bed import prepared

    with prepared(place):
        yield place


@contextmanager
def _rbd(folder: Path) -> Any:
    from .rbd_bed import fresh_bed

    with fresh_bed(folder) as bed:
        yield bed


# A bed in a volume group needs the machine that it is tried in.


@contextmanager
def _group(place: Path) -> Any:
    from .lvm_bed import prepared

    with prepared(place):
        yield place


def _lvm(kind: str) -> Callable[[Path], AbstractContextManager[Bed]]:
    @contextmanager
    def bed(folder: Path) -> Any:
        from .lvm_bed import fresh_bed

        with fresh_bed(kind) as made:
            yield made

    return bed


XFS = ("mkfs.xfs", "-q")
BTRFS = ("mkfs.btrfs", "-q")
NO_REFLINK = {"reflink": "ext4 does not share extents"}
RBD_EXCUSED = {
    "reflink": "has clones of its own",
    "inheritance": "librbd writes from the process itself, which leaves no child at work",
}
THIN_EXCUSED = {
    "reflink": "has snapshots of its own",
    "backing": "a thin snapshot does not need its image",
}
THICK_EXCUSED = {
    "reflink": "is no file system",
    "sparse": "a thick volume takes its whole size",
}
WORLD_EXCUSED = {
    "data": "keeps no bytes, and all images have one size",
    "processes": "lives in one process",
    "bodies": "keeps bodies as objects",
    "retention": "forgets nothing",
}


@dataclass(frozen=True)
class Ground:
    """Where the pools of a backend are made: ``prepare`` once a session, ``bed`` for each test, in a new folder. One
    that is ``elsewhere`` is only tried when it is named."""

    backend: str
    prepare: Callable[[Path], AbstractContextManager[Path]]
    bed: Callable[[Path], AbstractContextManager[Bed]]
    excused: Mapping[str, str] = field(default_factory=dict)
    elsewhere: bool = False


GROUNDS = {
    "world": Ground("world", _here, _world, WORLD_EXCUSED),
    "ext4": Ground("file", _here, _file, NO_REFLINK),
    "xfs": Ground("file", lambda place: mounted(place / "xfs.img", 300 * MIB, *XFS), _file),
    "btrfs": Ground("file", lambda place: mounted(place / "btrfs.img", 256 * MIB, *BTRFS), _file),
    "rbd": Ground("rbd", _ceph, _rbd, RBD_EXCUSED),
    "thin": Ground("lvm-thin", _group, _lvm("thin"), THIN_EXCUSED, elsewhere=True),
    "thick": Ground("lvm-thick", _group, _lvm("thick"), THICK_EXCUSED, elsewhere=True),
}


@dataclass(frozen=True)
class Sparse:
    """Content that is a few bytes in a large empty image."""

    size: int
    pieces: Mapping[int, bytes]

    def pour(self, sinks: Sequence[Any], means: Any) -> Any:
        for sink in sinks:
            sink.set_size(self.size)
            for offset, data in self.pieces.items():
                sink.write(offset, data)
            sink.sync()
        return {"size": self.size, "content": self.digest()}

    def digest(self) -> str:
        """The content digest, worked out apart from any volume; no piece reaches over the end of a block."""
        blocks: dict[int, bytearray] = {}
        for offset, data in self.pieces.items():
            number, start = divmod(offset, BLOCK)
            block = blocks.setdefault(number, bytearray(min(BLOCK, self.size - number * BLOCK)))
            block[start : start + len(data)] = data
        digest = ContentDigest(self.size)
        for number, block in blocks.items():
            digest.add(number * BLOCK, block)
        return digest.finish()
