# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""``kill -9`` anywhere in a task on a pool in Ceph, within the steps of librbd, too.

What a client held that died, Ceph gives free after half a minute. It is told of the death here, but for the cases that
wait for it. ``VIRT_STORAGE_FULL=1`` kills at every moment of every call, otherwise at one of several.
"""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

rbd = pytest.importorskip("rbd", reason="./dev installs the bindings of Ceph with its cluster")

from contract.rbd_bed import ceph, connected, prepared  # noqa: E402

from ansible_collections.virt.storage.plugins.module_utils._algorithms import cache  # noqa: E402
from ansible_collections.virt.storage.plugins.module_utils._algorithms.pool import Pool  # noqa: E402
from ansible_collections.virt.storage.plugins.module_utils._backends.perform import Clockwork  # noqa: E402
from ansible_collections.virt.storage.plugins.module_utils._ground.command import Runner  # noqa: E402
from ansible_collections.virt.storage.plugins.module_utils._ground.contents import Literal  # noqa: E402
from ansible_collections.virt.storage.plugins.module_utils._ground.digest import content_of_file  # noqa: E402
from ansible_collections.virt.storage.plugins.module_utils._ground.rbd_snapshot import RbdSnapshot  # noqa: E402
from ansible_collections.virt.storage.plugins.module_utils._records.types import (  # noqa: E402
    Disk,
    Image,
    State,
    Volume,
    disk_id,
)

from . import child, pool_state, rbd_child  # noqa: E402
from .child import Act, Kill, Lived, fine, run  # noqa: E402
from .rbd_child import MOMENTS, in_child  # noqa: E402
from .scenarios import (  # noqa: E402  # noqa: E402
    BOUNDS,
    CONFIG,
    KEY,
    MIB,
    DiskWish,
    Scenario,
    Sources,
    Task,
    bring_in,
    clear,
    disks,
    fill,
    make,
    on_disk,
    prune,
)
from .tally import Tally  # noqa: E402
from .test_crash import FULL, sources  # noqa: E402, F401  # pylint: disable=unused-import

STRIDE = {"before": 1 if FULL else 9, "call": 1 if FULL else 37}
NAMES = (
    "fill from raw",
    "fill from qcow2",
    "fill from a snapshot",
    "fill from a snapshot, flattened",
    "clone three",
    "copy",
    "blank",
    "config disk",
    "import",
    "grow",
    "flatten",
    "prune",
    "prune what is used",
    "delete",
    "delete, then reclaim",
    "adopt",
    "reclaim an adoption",
)
OLD = "old"
"""The name of somebody's image."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with prepared(tmp_path_factory.mktemp("cluster")):
        yield


class Stage:
    """A pool for one kill at a time; ``glance`` is a snapshot of what is in ``sources``, in another pool."""

    def __init__(self, folder: Path, glance: str) -> None:
        self.root, self.glance = str(folder / "pool"), glance

    def set(self, scenario: Scenario) -> None:
        self.strike()
        in_child(rbd_child.begin, self.root)
        in_child(scenario.stage, self.root)
        for act in scenario.before:
            fine(run(self.root, act))

    def strike(self) -> None:
        if os.path.exists(self.root):
            in_child(rbd_child.strike, self.root)
            shutil.rmtree(self.root)


@pytest.fixture
def stage(
    cluster: None,
    tmp_path: Path,
    sources: Sources,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Stage]:
    """A pool in Ceph in the place of one in a folder."""
    made = Stage(tmp_path, f"crash-{secrets.token_hex(4)}")
    expected = digest_of(sources.raw)

    def check_image(pool: Any, image: Image) -> None:
        assert pool.volumes.sealed(image.volume), f"hold 2: {image} can be written"
        assert pool.volumes.digest(image.volume) == expected, "hold 2: the content"

    for module in (child, pool_state):
        monkeypatch.setattr(module, "parts", rbd_child.parts)
    monkeypatch.setattr(pool_state, "_reads_as", rbd_child.reads_as)
    monkeypatch.setattr(pool_state, "_check_image", check_image)
    monkeypatch.setattr(child, "_kill_at_call", lambda kill: rbd_child.kill_at_call(made.root, kill))
    in_child(bring, made.glance, sources)
    yield made
    made.strike()
    in_child(take_away, made.glance)


def digest_of(path: str) -> str:
    with open(path, "rb") as file:
        return content_of_file(file.fileno(), os.fstat(file.fileno()).st_size)


def bring(name: str, from_: Sources) -> None:
    """Make the snapshot in Glance's pool."""
    with connected("admin") as link, link.ioctx(ceph.IMAGES) as ioctx:
        rbd.RBD().create(ioctx, name, from_.size)
        with rbd.Image(ioctx, name) as image, open(from_.raw, "rb") as file:
            for offset in range(0, from_.size, MIB):
                image.write(file.read(MIB), offset)
            image.create_snap("snap")


def take_away(name: str) -> None:
    """Remove it; nothing of ours needs it any more."""
    with connected("admin") as link, link.ioctx(ceph.IMAGES) as ioctx:
        with rbd.Image(ioctx, name) as image:
            image.remove_snap("snap")
        rbd.RBD().remove(ioctx, name)


def stage_old(root: str) -> Volume:
    """Somebody's disk, and its id in a file."""
    pool = rbd_child.parts(root, Runner())
    volume = Volume(OLD, "raw")
    pool.volumes.fill(volume, Literal(lambda: CONFIG))
    native = pool.volumes.inventory()[OLD]
    Path(root, "native").write_text(native, encoding="ascii")
    return replace(volume, adopted=native)


def stage_dead(root: str) -> None:
    """Its adoption was begun by somebody who died."""
    volume = stage_old(root)
    record_id = disk_id("web", "root", Clockwork().fresh())
    disk = Disk(record_id, "web", "root", MIB, volume, "2026", "owner+dead", origin={"found": OLD})
    rbd_child.parts(root, Runner()).records.create(disk, State.PENDING)


def scenarios_of(stage: Stage, sources: Sources) -> dict[str, Scenario]:  # noqa: F811
    """Every scenario by name."""
    size, root = sources.size, stage.root
    raw = fill(sources.raw, "raw")
    web = ("web", "root")
    clone = make(DiskWish("web", "root", image_key=KEY, size=size))
    here = {KEY: True}

    def from_snapshot(flattened: bool) -> Act:
        def act(pool: Pool) -> Sequence[Task]:
            source = RbdSnapshot.at(connected(), f"{ceph.IMAGES}/{stage.glance}@snap", BOUNDS, flattened)
            return [cache.fill(pool, cache.ImageWish(KEY, "img", source))]

        return act

    def adopt(pool: Pool) -> Sequence[Task]:
        native = Path(root, "native").read_text(encoding="ascii")
        return [disks.make(pool, DiskWish("web", "root", native=native, found=OLD, name=OLD, format="raw"))]

    async def grow(pool: Pool, disk: Disk) -> None:
        await disks.grow(pool, disk, 2 * size)

    return {
        "fill from raw": Scenario(raw, images=here),
        "fill from qcow2": Scenario(fill(sources.qcow2, "qcow2"), images=here),
        "fill from a snapshot": Scenario(from_snapshot(False), images=here),
        "fill from a snapshot, flattened": Scenario(from_snapshot(True), images=here),
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
        "grow": Scenario(on_disk("web", grow), [raw, clone], {web: sources.reads(2 * size)}, here),
        "flatten": Scenario(on_disk("web", disks.flatten), [raw, clone], {web: sources.reads(size)}, here),
        "prune": Scenario(prune, [raw], images={KEY: False}),
        "prune what is used": Scenario(prune, [raw, clone], {web: sources.reads(size)}, {KEY: False}),
        "delete": Scenario(on_disk("web", disks.delete), [raw, clone], images=here),
        "delete, then reclaim": Scenario(clear, [raw, clone, prune, on_disk("web", disks.delete)], images={KEY: False}),
        "adopt": Scenario(
            adopt, wanted={web: sources.literal(CONFIG, len(CONFIG) + -len(CONFIG) % 512)}, stage=stage_old
        ),
        "reclaim an adoption": Scenario(clear, strangers={OLD}, stage=stage_dead),
    }


def converge(stage: Stage, scenario: Scenario, first: Lived) -> None:
    """Run the same task again, then reclaim; all must hold."""
    second = fine(run(stage.root, scenario.act))
    if first.acknowledged:
        assert second.made == first.made, "what was acknowledged is not what is there"
    fine(run(stage.root, clear))
    in_child(pool_state.check, stage.root, scenario.wanted, scenario.images, scenario.strangers)


def numbers(where: str, reached: Callable[[], int]) -> Iterator[int]:
    """The numbers to kill at, until there is no such operation or call any more."""
    number = 1
    while True:
        yield number
        per_site = len(MOMENTS) if where == "call" else 1
        if reached() * per_site < number:
            return
        number += STRIDE[where]


@pytest.mark.parametrize("where", ["before", "call"])
@pytest.mark.parametrize("name", NAMES)
def test_killed_anywhere_the_task_converges(
    name: str,
    where: str,
    stage: Stage,
    sources: Sources,  # noqa: F811
    tally: Tally,
) -> None:
    found = scenarios_of(stage, sources)
    assert tuple(found) == NAMES
    scenario = found[name]
    kills = 0
    last: list[Lived] = []

    def reached() -> int:
        return rbd_child.calls(stage.root) if where == "call" else int(last[-1].killed and 1 << 30)

    for number in numbers(where, reached):
        stage.set(scenario)
        Path(stage.root, "calls").write_bytes(b"")
        Path(stage.root, "clients").unlink(missing_ok=True)
        last.append(run(stage.root, scenario.act, Kill(where, number)))
        if last[-1].killed:
            in_child(rbd_child.forget, stage.root)
            kills += 1
        try:
            converge(stage, scenario, last[-1])
        except AssertionError as error:
            raise AssertionError(f"killed {where} {number}: {error}") from error
    tally.add("rbd", name, where, kills)
    tally.add("rbd", name, "watch", rbd_child.stayed(stage.root))
    assert kills, "nothing was killed"


@pytest.mark.parametrize("name", ["fill from raw", "clone three", "flatten", "prune"] if FULL else ["clone three"])
def test_ceph_forgets_the_dead_by_itself(name: str, stage: Stage, sources: Sources, tally: Tally) -> None:  # noqa: F811
    """The same task at once again: it may be told who is still seen to use a volume, and loses nothing by that."""
    scenario = scenarios_of(stage, sources)[name]
    stage.set(scenario)
    number = 1
    while True:
        Path(stage.root, "calls").write_bytes(b"")
        first = run(stage.root, scenario.act, Kill("call", number))
        assert first.killed, "no client died while it had an image open"
        if users(stage.root):
            break
        stage.set(scenario)
        number += len(MOMENTS)
    began = time.monotonic()
    second = run(stage.root, scenario.act)
    for sentence in second.errors:
        assert "in use by the client at 127.0.0.1" in sentence
    if not second.acknowledged:
        in_child(rbd_child.wait_until_forgotten, stage.root)
    converge(stage, scenario, second)
    assert rbd_child.stayed(stage.root) or time.monotonic() - began < 60
    tally.add("rbd", name, "call")


def users(root: str) -> bool:
    """Whether anybody is seen to use an image."""
    try:
        in_child(nobody_uses, root)
    except AssertionError:
        return True
    return False


def nobody_uses(root: str) -> None:
    volumes = rbd_child.parts(root, Runner(), patience=0).volumes
    assert not any(volumes.users(Volume(name, "raw")) for name in volumes.inventory())
