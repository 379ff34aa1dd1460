# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The tasks that are killed, what stands before them, and what must be there when all is over."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ansible_collections.virt.storage.plugins.module_utils._algorithms import cache, disks
from ansible_collections.virt.storage.plugins.module_utils._algorithms.disks import DiskWish
from ansible_collections.virt.storage.plugins.module_utils._algorithms.pool import Pool
from ansible_collections.virt.storage.plugins.module_utils._algorithms.reclaim import reclaim
from ansible_collections.virt.storage.plugins.module_utils._backends.perform import Clockwork
from ansible_collections.virt.storage.plugins.module_utils._ground.bounds import Bounds
from ansible_collections.virt.storage.plugins.module_utils._ground.command import Runner
from ansible_collections.virt.storage.plugins.module_utils._ground.contents import Incoming, Literal
from ansible_collections.virt.storage.plugins.module_utils._ground.sources import SourceSpec
from ansible_collections.virt.storage.plugins.module_utils._records.types import Disk, State, disk_id, key_hash

from .child import Act, Task, parts

MIB = 1 << 20
KEY = "sha256:x"
BOUNDS = Bounds(max_source_bytes=1 << 32, max_virtual_size=1 << 32, timeout=60)
CONFIG = b"#cloud-config\n" * 100


class Sources:
    """Raw and qcow2 sources of one content, and what guests read of it; made once."""

    def __init__(self, folder: Path, size: int, data: int) -> None:
        self.folder, self.size = folder, size
        self.raw = self._file("source.raw", size)
        chance = random.Random(size)
        with open(self.raw, "r+b") as file:
            for offset in range(0, data, MIB):
                file.seek(offset * (size // data))
                file.write(chance.randbytes(MIB))
        self.qcow2 = str(folder / "source.qcow2")
        convert = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", self.raw, self.qcow2]
        subprocess.run(convert, check=True, timeout=60)

    def reads(self, size: int) -> str:
        """A file of what a guest reads whose disk of ``size`` bytes begins with the image."""
        path = self._file(f"reads-{size}", size)
        subprocess.run(["cp", "--sparse=always", self.raw, path], check=True, timeout=60)
        os.truncate(path, size)
        return path

    def literal(self, data: bytes, size: int) -> str:
        """A file of ``size`` bytes that begins with ``data``."""
        path = self._file(f"literal-{len(data)}-{size}", size)
        with open(path, "r+b") as file:
            file.write(data)
        return path

    def _file(self, name: str, size: int) -> str:
        path = self.folder / name
        with path.open("wb") as file:
            file.truncate(size)
        return str(path)


NAMES = (
    "fill from raw",
    "fill from qcow2",
    "clone three",
    "copy",
    "blank",
    "config disk",
    "import",
    "grow",
    "flatten",
    "flatten, then prune",
    "prune",
    "prune what is used",
    "delete",
    "delete, then reclaim",
    "adopt",
    "reclaim an adoption",
)


@dataclass(frozen=True)
class Scenario:
    """``before`` is done undisturbed, ``act`` is killed. ``wanted`` and ``images`` are as in ``pool_state.check``."""

    act: Act
    before: Sequence[Act] = ()
    wanted: Mapping[tuple[str, str], str] = field(default_factory=dict)
    images: Mapping[str, bool] = field(default_factory=dict)
    strangers: Collection[str] = ()
    stage: Callable[[str], None] = lambda root: None
    """Puts other people's things into the pool."""


def clear(pool: Pool) -> Sequence[Task]:
    """Reclaim."""
    return [reclaim(pool)]


def fill(location: str, format: str) -> Act:
    """Bring the image in."""
    source = Incoming(SourceSpec(location, format), BOUNDS)
    return lambda pool: [cache.fill(pool, cache.ImageWish(KEY, "img", source))]


def make(*wishes: DiskWish) -> Act:
    """Make disks side by side."""
    return lambda pool: [disks.make(pool, wish) for wish in wishes]


def bring_in(sources: Sources) -> Act:
    """Import a file from outside as a disk."""
    source = Incoming(SourceSpec(sources.qcow2, "qcow2"), BOUNDS)
    return make(DiskWish("web", "root", size=sources.size, source=source, format="raw"))


def on_disk(instance: str, what: Callable[[Pool, Disk], Task]) -> Act:
    """Do something to the disk of an instance, if it is there."""

    async def act(pool: Pool) -> Any:
        listing = await pool.records.states()
        for record_id in listing.slot(instance, "root"):
            await what(pool, await pool.records.read(record_id))

    return lambda pool: [act(pool)]


def prune(pool: Pool) -> Sequence[Task]:
    """Take the image out of use."""

    async def act() -> None:
        listing = await pool.records.states()
        for record_id in listing.images(key_hash(KEY)):
            await cache.retire(pool, await pool.records.read(record_id), listing.state(record_id))

    return [act()]


def inode_file(root: str) -> Path:
    """Where a scenario keeps the inode of what is to be adopted, beside the pool."""
    return Path(os.path.dirname(root), "inode")


def adopt(root: str, name: str) -> Act:
    """Adopt the file that stands, or stood, at ``name``."""

    def act(pool: Pool) -> Sequence[Task]:
        inode = inode_file(root).read_text()
        return [disks.make(pool, DiskWish("web", "root", native=inode, found=name, format="raw"))]

    return act


def scenarios(sources: Sources, root: str) -> dict[str, Scenario]:
    """Every scenario by name; ``root`` is where the pool is."""
    size = sources.size
    raw = fill(sources.raw, "raw")
    web = ("web", "root")
    clone = DiskWish("web", "root", image_key=KEY, size=size)
    here = {KEY: True}

    def stage(where: str) -> None:
        found = Path(where, "old.img")
        found.write_bytes(CONFIG + bytes(-len(CONFIG) % 512))
        inode_file(where).write_text(str(found.stat().st_ino))

    def stage_dead(where: str) -> None:
        stage(where)
        pool = parts(where, Runner())
        record_id = disk_id("web", "root", Clockwork().fresh())
        volume = replace(
            pool.volumes.capabilities().disk_volume(record_id, "raw"), adopted=inode_file(where).read_text()
        )
        origin = {"found": "old.img"}
        pool.records.create(
            Disk(record_id, "web", "root", MIB, volume, "2026", "owner+dead", origin=origin), State.PENDING
        )
        pool.volumes.adopt("old.img", volume)

    async def grow(pool: Pool, disk: Disk) -> None:
        await disks.grow(pool, disk, 2 * size)

    return {
        "fill from raw": Scenario(raw, images=here),
        "fill from qcow2": Scenario(fill(sources.qcow2, "qcow2"), images=here),
        "clone three": Scenario(
            make(*(DiskWish(f"web{number}", "root", image_key=KEY, size=2 * size) for number in range(3))),
            [raw],
            {(f"web{number}", "root"): sources.reads(2 * size) for number in range(3)},
            here,
        ),
        "copy": Scenario(
            make(DiskWish("web", "root", image_key=KEY, how="copy")), [raw], {web: sources.reads(size)}, here
        ),
        "blank": Scenario(make(DiskWish("web", "root", size=MIB)), wanted={web: sources.literal(b"", MIB)}),
        "config disk": Scenario(
            make(DiskWish("web", "root", size=MIB, source=Literal(lambda: CONFIG), format="raw")),
            wanted={web: sources.literal(CONFIG, MIB)},
        ),
        "import": Scenario(bring_in(sources), wanted={web: sources.reads(size)}),
        "grow": Scenario(on_disk("web", grow), [raw, make(clone)], {web: sources.reads(2 * size)}, here),
        "flatten": Scenario(on_disk("web", disks.flatten), [raw, make(clone)], {web: sources.reads(size)}, here),
        "flatten, then prune": Scenario(
            prune,
            [raw, make(clone), on_disk("web", disks.flatten)],
            {web: sources.reads(size)},
            {KEY: False},
        ),
        "prune": Scenario(prune, [raw], images={KEY: False}),
        "prune what is used": Scenario(prune, [raw, make(clone)], {web: sources.reads(size)}, {KEY: False}),
        "delete": Scenario(on_disk("web", disks.delete), [raw, make(clone)], images=here),
        "delete, then reclaim": Scenario(
            clear, [raw, make(clone), prune, on_disk("web", disks.delete)], images={KEY: False}
        ),
        "adopt": Scenario(
            adopt(root, "old.img"),
            wanted={web: sources.literal(CONFIG, len(CONFIG) + -len(CONFIG) % 512)},
            stage=stage,
        ),
        "reclaim an adoption": Scenario(clear, strangers={"old.img"}, stage=stage_dead),
    }
