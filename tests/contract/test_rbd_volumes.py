# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What only volumes in Ceph have: two formats of clones, the trash, other people's snapshots, clients that died, and
snapshots as sources."""

from __future__ import annotations

import itertools
import json
import os
import random
import secrets
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.virt.storage.plugins.module_utils._backends.rbd import RbdVolumes
from ansible_collections.virt.storage.plugins.module_utils._ground.bounds import Bounds
from ansible_collections.virt.storage.plugins.module_utils._ground.ceph import Access, Cluster
from ansible_collections.virt.storage.plugins.module_utils._ground.command import Runner
from ansible_collections.virt.storage.plugins.module_utils._ground.contents import Incoming, Literal
from ansible_collections.virt.storage.plugins.module_utils._ground.digest import BLOCK, ContentDigest
from ansible_collections.virt.storage.plugins.module_utils._ground.errors import (
    BadInput,
    InUse,
    LostMetadata,
    OutOfSpace,
    SourceError,
    StorageError,
    UnsafeImage,
)
from ansible_collections.virt.storage.plugins.module_utils._ground.intake import Staging
from ansible_collections.virt.storage.plugins.module_utils._ground.ops import Outcome
from ansible_collections.virt.storage.plugins.module_utils._ground.rbd_image import RbdReader
from ansible_collections.virt.storage.plugins.module_utils._ground.rbd_snapshot import RbdSnapshot
from ansible_collections.virt.storage.plugins.module_utils._ground.sources import SourceSpec
from ansible_collections.virt.storage.plugins.module_utils._records.types import Volume

from .beds import GIB, GROUNDS, MIB, FileBed, Sparse, child_env
from .test_rbd_records import full

FULL = os.environ.get("VIRT_STORAGE_FULL") == "1"
BOUNDS = Bounds(max_source_bytes=GIB, max_virtual_size=GIB)
DATA = bytes(range(256)) * 4096  # 1 MiB
DIES = """
import os, rados, rbd, sys
from contract.rbd_bed import connected, ceph
ioctx = connected().ioctx(ceph.DISKS, sys.argv[1])
image = rbd.Image(ioctx, sys.argv[2])
image.write(b"x", 0)
print("there", flush=True)
sys.stdin.read()
"""

DIES_AS_IT_COMES = """
import sys
from contract.rbd_bed import connected, ceph
ioctx = connected().ioctx(ceph.DISKS, sys.argv[1])
ioctx.stat(sys.argv[2])
print("there", flush=True)
sys.stdin.readline()
ioctx.watch(sys.argv[2], print, timeout=3)
"""
HAS_IT_OPEN = """
import sys, time
from contract.rbd_bed import RbdBed
from ansible_collections.virt.storage.plugins.module_utils._ground import rbd_presence
from ansible_collections.virt.storage.plugins.module_utils._records.types import Volume
rbd_presence.SECONDS = 0.3
with RbdBed(sys.argv[1], sys.argv[2]).parts.volumes._pool.open(Volume(sys.argv[3], "raw"), writable=True):
    print("there", flush=True)
    time.sleep(60)
"""
TRIES = 40


@pytest.fixture
def pool(grounds: Callable[[str], Path]) -> Iterator[Any]:
    """An empty pool in Ceph."""
    with GROUNDS["rbd"].bed(grounds("rbd") / "pool") as made:
        yield made


def volumes_of(pool: Any, clone_format: int, patience: float = 2.0, namespace: str | None = None) -> RbdVolumes:
    """The pool as seen by a client for which clones are of this format."""
    namespace = pool.namespace if namespace is None else namespace
    access = pool.cluster.access
    options = (("rbd_default_clone_format", str(clone_format)),)
    cluster = Cluster(Access(access.hosts, access.user, access.key, options))
    staging = Staging(pool.staging, GIB)
    return RbdVolumes(cluster, pool.ioctx.get_pool_name(), Runner(), staging, namespace, patience=patience)


def filled(pool: Any, volumes: RbdVolumes, content: Any = None) -> Volume:
    """A sealed image."""
    volume: Volume = pool.image(secrets.token_hex(4)).volume
    volumes.fill(volume, content or Literal(lambda: DATA))
    volumes.seal(volume)
    return volume


def cloned(pool: Any, volumes: RbdVolumes, image: Volume, size: int = MIB) -> Volume:
    volume: Volume = pool.disk(secrets.token_hex(4)).volume
    assert volumes.clone(image, volume, size, "clone").kind == "done"
    return volume


@contextmanager
def opened(pool: Any, name: str, snapshot: str | None = None) -> Iterator[Any]:
    """An image, by the bindings themselves."""
    import rbd

    with rbd.Image(pool.ioctx, name, snapshot) as image:
        yield image


# Sealing and cloning


@pytest.mark.parametrize("clone_format", [1, 2])
def test_both_formats_of_clones(pool: Any, clone_format: int) -> None:
    volumes = volumes_of(pool, clone_format)
    assert f"format {clone_format}" in volumes.capabilities().clone_reasons["clone"]
    image = filled(pool, volumes)
    assert volumes.sealed(image)
    disk = cloned(pool, volumes, image, 2 * MIB)
    with opened(pool, image.name) as opened_image:
        assert opened_image.is_protected_snap("image") == (clone_format == 1)
    with opened(pool, disk.name) as opened_disk:
        import rbd

        of_format_2 = bool(opened_disk.op_features() & rbd.RBD_OPERATION_FEATURE_CLONE_CHILD)
        assert of_format_2 == (clone_format == 2)
    outcome = volumes.remove(image)
    assert (outcome.kind, disk.name in outcome.why) == ("refused", True)
    assert volumes.sealed(image), "a removal that was refused has changed the image"
    assert volumes.remove(disk).kind == "done"
    assert volumes.remove(image).kind == "done"
    assert volumes.inventory() == {}


def test_without_an_option_the_cluster_says_how_clones_are_made(pool: Any) -> None:
    """The test cluster requires clients of mimic."""
    assert pool.cluster.option("rbd_default_clone_format") == "auto"
    assert "format 2" in pool.parts.volumes.capabilities().clone_reasons["clone"]


def test_an_image_sealed_for_newer_clients_is_protected_by_the_operator_only(pool: Any) -> None:
    """A clone that protected it could meet its removal, after which nobody could remove it any more."""
    image = filled(pool, volumes_of(pool, 2))
    older = volumes_of(pool, 1)
    assert not older.sealed(image)
    outcome = older.clone(image, pool.disk().volume, MIB, "clone")
    command = f"rbd snap protect virt/{pool.namespace}/{image.name}@image"
    assert (outcome.kind, command in outcome.why) == ("refused", True)
    with opened(pool, image.name) as opened_image:
        opened_image.protect_snap("image")
    assert older.sealed(image)
    assert older.pointer(cloned(pool, older, image)) == image.name


def test_a_clone_or_blank_volume_that_was_made_before_is_told_from_another_one(pool: Any) -> None:
    volumes = pool.parts.volumes
    image = filled(pool, volumes)
    disk, blank, copy = (pool.disk().volume for _unused in range(3))
    for again in ("done", "already"):
        assert volumes.clone(image, disk, 2 * MIB, "clone").kind == again
        assert volumes.clone(image, copy, 2 * MIB, "copy").kind == again
        assert volumes.allocate(blank, MIB).kind == again
    assert volumes.clone(image, disk, 3 * MIB, "clone").kind == "refused", "one that was cut short before it grew"
    assert volumes.clone(image, disk, 2 * MIB, "copy").kind == "refused", "one that was cut short before it was flat"
    assert volumes.clone(image, blank, MIB, "clone").kind == "refused"
    assert volumes.allocate(disk, 2 * MIB).kind == "refused"


def test_what_an_image_has_allocated_is_told_by_its_map_or_bounded(pool: Any) -> None:
    import rbd

    volumes = pool.parts.volumes
    volume = pool.image().volume
    volumes.fill(volume, Sparse(GIB, {0: DATA, 512 * MIB: DATA}))
    assert volumes.stat(volume).allocated == 2 * 4 * MIB
    with opened(pool, volume.name) as image:
        image.update_features(rbd.RBD_FEATURE_FAST_DIFF | rbd.RBD_FEATURE_OBJECT_MAP, False)
    assert volumes.stat(volume).allocated == GIB


# Reading


@pytest.mark.parametrize("mapped", [True, False])
def test_nothing_that_a_guest_reads_is_left_out(pool: Any, mapped: bool) -> None:
    """Chance decides what is written, discarded, cut and grown, in an image, in a clone of it and in a clone of that;
    each time all of it is read for comparison."""
    import rbd

    chance = random.Random(7)
    features = None if mapped else rbd.RBD_FEATURE_LAYERING
    rbd.RBD().create(pool.ioctx, "i0", 40 * MIB + 512, features=features)
    for depth in range(3):
        with opened(pool, f"i{depth}") as image:
            for _turn in range(12):
                scribble(image, chance)
                same_as_all(image)
            image.create_snap("s")
            for _turn in range(4):
                scribble(image, chance)
            image.set_snap("s")
            same_as_all(image)
        rbd.RBD().clone(pool.ioctx, f"i{depth}", "s", pool.ioctx, f"i{depth + 1}", features=features)


def scribble(image: Any, chance: random.Random) -> None:
    size = image.size()
    offset = chance.randrange(size)
    length = min(size - offset, chance.choice([512, 65536, BLOCK, 3 * BLOCK]))
    start = offset // BLOCK * BLOCK
    deeds: list[Callable[[], object]] = [
        lambda: image.write(chance.randbytes(length), offset),
        lambda: image.write(chance.randbytes(length), offset),
        lambda: image.discard(offset, length),
        lambda: image.discard(start, min(BLOCK, size - start)),
        lambda: image.resize(max(MIB, size - chance.randrange(12) * MIB)),
        lambda: image.resize(min(80 * MIB, size + chance.randrange(12) * MIB)),
    ]
    chance.choice(deeds)()


def same_as_all(image: Any) -> None:
    size = -(-image.size() // 512) * 512
    digest = ContentDigest(size)
    for offset in range(0, size, BLOCK):
        data = image.read(offset, min(BLOCK, image.size() - offset))
        digest.add(offset, data + bytes(-len(data) % 512))
    assert RbdReader(image).content(lambda: None) == digest.finish()


# Flattening


def test_what_a_client_that_died_only_claimed_to_have_copied_is_copied(pool: Any) -> None:
    """It counts an object in the map of the image first. Librbd's own flatten goes by that."""
    volumes = pool.parts.volumes
    content = Sparse(16 * MIB, {0: DATA, 5 * MIB: DATA, 12 * MIB: DATA})
    image = filled(pool, volumes, content)
    disk = cloned(pool, volumes, image, 16 * MIB)
    claim = struct.pack("<QQBB", 1, 2, 1, 0)  # objects from 1 to before 2, that they exist, whatever was known
    pool.ioctx.execute(f"rbd_object_map.{volumes.stat(disk).native}", "rbd", "object_map_update", claim)
    assert volumes.digest(disk) == content.digest()
    assert volumes.flatten(disk).kind == "done"
    assert volumes.pointer(disk) is None
    assert volumes.digest(disk) == content.digest()
    assert volumes.stat(disk).allocated == 16 * MIB
    assert volumes.flatten(disk).kind == "already"


def test_a_flatten_that_was_cut_short_before_the_map_was_rebuilt_is_finished(pool: Any) -> None:
    import rbd

    volumes = pool.parts.volumes
    disk = cloned(pool, volumes, filled(pool, volumes))
    mapped = rbd.RBD_FEATURE_OBJECT_MAP | rbd.RBD_FEATURE_FAST_DIFF
    with opened(pool, disk.name) as clone:
        clone.update_features(mapped, False)
        clone.update_features(mapped, True)
        clone.flatten()
        assert clone.flags()
    assert volumes.flatten(disk).kind == "done"
    with opened(pool, disk.name) as flat:
        assert (flat.flags(), flat.features() & mapped) == (0, mapped)


# Removing


@pytest.mark.parametrize("how", ["quota", "osd"])
def test_a_pool_that_is_full_says_so_and_can_be_cleared(pool: Any, how: str, tmp_path: Path) -> None:
    volumes = pool.parts.volumes
    image = filled(pool, volumes)
    disk, blank = cloned(pool, volumes, image, 2 * MIB), pool.disk().volume
    source = tmp_path / "source"
    source.write_bytes(DATA * 32)
    content = Incoming(SourceSpec(str(source), "raw"), BOUNDS)
    began = pool.image().volume
    with full(ceph_of(pool), how, pool.ioctx.get_pool_name()):
        for attempt in (lambda: volumes.allocate(blank, MIB), lambda: volumes.fill(began, content)):
            with pytest.raises(OutOfSpace) as caught:
                attempt()
            assert ("quota" if how == "quota" else "full") in caught.value.message
        for volume in (disk, image, began):
            assert volumes.remove(volume)
        assert volumes.inventory() == {}


def test_an_image_that_the_trash_has_no_room_for_is_not_said_to_be_gone(pool: Any) -> None:
    """What an earlier version left: a pool without a trash. Librbd says that there is no such image."""
    volumes = pool.parts.volumes
    volume = pool.disk().volume
    volumes.allocate(volume, MIB)
    pool.ioctx.remove_object("rbd_trash")
    with full(ceph_of(pool), "quota", pool.ioctx.get_pool_name()):
        with pytest.raises(OutOfSpace, match="trash"):
            volumes.remove(volume)
        assert volumes.stat(volume) is not None
    assert volumes.remove(volume).kind == "done"


def ceph_of(_pool: Any) -> Any:
    """The cluster of a pool, as its administrator has it."""
    from .rbd_bed import ceph

    return ceph


def test_a_clone_in_the_trash_is_not_there_and_still_counts(pool: Any) -> None:
    import rbd

    volumes = pool.parts.volumes
    image = filled(pool, volumes)
    disk = cloned(pool, volumes, image)
    rbd.RBD().trash_move(pool.ioctx, disk.name, 0)
    assert volumes.stat(disk) is None
    assert disk.name not in volumes.inventory()
    assert volumes.remove(disk).kind == "already"
    assert volumes.others() == [f"{disk.name} (in the trash)"]
    outcome = volumes.remove(image)
    assert outcome.kind == "refused"
    assert f"{disk.name} (in the trash)" in outcome.why
    (entry,) = rbd.RBD().trash_list(pool.ioctx)
    rbd.RBD().trash_remove(pool.ioctx, entry["id"])
    assert volumes.remove(image).kind == "done"


def test_snapshots_of_others_stay(pool: Any) -> None:
    volumes = pool.parts.volumes
    image = filled(pool, volumes)
    with opened(pool, image.name) as opened_image:
        opened_image.create_snap("backup-1")
    outcome = volumes.remove(image)
    assert (outcome.kind, "backup-1" in outcome.why) == ("refused", True)
    assert volumes.sealed(image)


def test_a_disk_that_could_not_go_is_not_copied_to_another_pool(pool: Any) -> None:
    volumes = pool.parts.volumes
    disk = cloned(pool, volumes, filled(pool, volumes))
    with volumes.disk_data(disk) as reader:
        assert reader.size == MIB
    with opened(pool, disk.name) as image:
        image.create_snap("backup-1")
    with pytest.raises(InUse, match="snapshots that others made: backup-1"), volumes.disk_data(disk):
        pass
    with opened(pool, disk.name) as image:
        image.remove_snap("backup-1")
    with volumes.disk_data(disk):
        pass


@pytest.mark.parametrize("lost", ["rbd_header.{id}", "rbd_id.{name}", "rbd_header.{id} rbd_id.{name}"])
def test_what_is_left_of_half_an_image_is_seen_and_removed(pool: Any, lost: str) -> None:
    """What a client leaves that dies while it makes or removes one."""
    volumes = pool.parts.volumes
    volume = pool.disk().volume
    volumes.allocate(volume, MIB)
    for name in lost.format(id=volumes.stat(volume).native, name=volume.name).split():
        pool.ioctx.remove_object(name)
    assert volumes.inventory().keys() == {volume.name}
    assert volumes.stat(volume) is None
    assert not volumes.users(volume)
    assert volumes.remove(volume).kind == "done"
    assert volumes.inventory() == {}
    assert volumes.remove(volume).kind == "already"


def test_a_client_that_died_is_waited_for_and_named(pool: Any) -> None:
    volumes = pool.parts.volumes
    volume = pool.disk().volume
    volumes.allocate(volume, MIB)
    argv = [sys.executable, "-c", DIES, pool.namespace, volume.name]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=child_env()) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"there\n"
        (user,) = volumes.users(volume).by
        client.kill()
    assert "127.0.0.1" in user
    outcome = volumes.remove(volume)
    assert (outcome.kind, user in outcome.why) == ("refused", True)
    began = time.monotonic()
    assert volumes_of(pool, 2, patience=60).remove(volume).kind == "done"
    assert time.monotonic() - began < 45, "Ceph forgets a client in half a minute"


def test_who_has_an_image_open_that_is_removed_says_so_and_ends(pool: Any) -> None:
    """As after a freeze in which others took it for dead. Librbd would keep some of its calls for ever."""
    volume = pool.disk().volume
    pool.parts.volumes.allocate(volume, MIB)
    with opened(pool, volume.name) as image:
        header = f"rbd_header.{image.id()}"
    argv = [sys.executable, "-c", HAS_IT_OPEN, pool.namespace, pool.staging, volume.name]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, env=child_env()) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"there\n"
        time.sleep(1)
        assert client.poll() is None
        pool.ioctx.remove_object(header)
        said, _errors = client.communicate(timeout=30)
    told = json.loads(said)
    assert (client.returncode, told["failed"]) == (1, True)
    assert volume.name in told["msg"]
    assert "was removed while it was in use here" in told["msg"]


def test_a_client_whose_watch_stays_is_forgotten_as_the_guide_says(pool: Any) -> None:
    """An OSD that writes down the watch of a client which dies meanwhile may not take it back by itself."""
    volumes, ceph = pool.parts.volumes, ceph_of(pool)
    volume = pool.disk().volume
    volumes.allocate(volume, MIB)
    with opened(pool, volume.name) as image:
        header = f"rbd_header.{image.id()}"
    for _try in range(TRIES):  # which of the two the OSD sees first, the watch or the death, is chance
        die_as_it_comes(pool, header)
        time.sleep(4)
        if volumes.users(volume).by:
            break
    outcome = volumes.remove(volume)
    assert (outcome.kind, "in use by the client at 127.0.0.1" in outcome.why) == ("refused", True)
    primary = ceph.ceph("osd", "map", ceph.DISKS, header, pool.namespace)["acting_primary"]
    ceph.ceph("osd", "down", primary)
    ceph.wait_until_it_serves()
    assert volumes_of(pool, 2, patience=60).remove(volume).kind == "done"


def die_as_it_comes(pool: Any, header: str) -> None:
    """A client that watches an image, for as long as it takes to die."""
    argv = [sys.executable, "-c", DIES_AS_IT_COMES, pool.namespace, header]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=child_env()) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        assert client.stdout.readline() == b"there\n"
        with ceph_of(pool).frozen("osd.0"):
            client.stdin.write(b"\n")
            client.stdin.flush()
            time.sleep(0.3)
            client.kill()
            client.wait()


@pytest.mark.parametrize("clone_format", [2, 1])
def test_a_clone_made_while_its_image_is_removed_is_whole_or_is_not(pool: Any, clone_format: int) -> None:
    tries = (200 if clone_format == 2 else 60) if FULL else 24
    here, there = volumes_of(pool, clone_format), volumes_of(pool, clone_format)
    content = Sparse(8 * MIB, {0: DATA, 5 * MIB: DATA})
    chance = random.Random(clone_format)
    ends: dict[tuple[str, str], int] = {}

    def after(seconds: float, do: Callable[..., Outcome], *arguments: Any) -> str:
        time.sleep(seconds)
        try:
            return do(*arguments).kind
        except StorageError as error:
            return type(error).__name__

    for number in range(tries):
        image = filled(pool, here, content)
        disk = pool.disk(f"i{number}").volume
        lag = chance.uniform(0, 0.06)
        lags = (0.0, lag) if number % 2 else (lag, 0.0)
        with ThreadPoolExecutor(2) as threads:
            cloning = threads.submit(after, lags[0], here.clone, image, disk, 8 * MIB, "clone")
            removing = threads.submit(after, lags[1], there.remove, image)
        end = (cloning.result(), removing.result())
        ends[end] = ends.get(end, 0) + 1
        if end[0] == "done":
            assert here.digest(disk) == content.digest(), f"try {number}: a clone reads something else"
            assert end[1] != "done", "an image was removed under its clone"
        else:
            assert end[1] == "done" or clone_format == 1, "neither was done, although nobody else is here"
        assert here.remove(disk)
        assert here.remove(image), "a removal that was refused cannot be finished"
        assert here.inventory() == {}
    print(f"format {clone_format}: {ends}")
    assert {end[0] == "done" for end in ends} == {True, False}, f"only one of them was ever first: {ends}"


# Adopting


def test_an_image_is_adopted_where_it_stands(pool: Any) -> None:
    volumes = pool.parts.volumes
    found = Volume("somebody's disk", "raw")
    volumes.allocate(found, MIB)
    native = volumes.inventory()[found.name]
    adopted = replace(found, adopted=native)
    assert volumes.flaw(adopted) == ""
    assert volumes.adopt(found.name, adopted).kind == "done"
    assert volumes.leave(found.name, adopted).kind == "already"
    assert volumes.name_at(volumes.location(adopted).name) == found.name
    assert volumes.name_at("elsewhere/somebody's disk") is None
    assert volumes.adopt(found.name, replace(adopted, name="other")).kind == "refused"
    # Somebody puts another one in its place.
    assert volumes.remove(adopted).kind == "done"
    volumes.allocate(found, MIB)
    assert volumes.adopt(found.name, adopted).kind == "refused"
    assert volumes.stat(adopted).native != native
    for change in (lambda: volumes.grow(adopted, 2 * MIB), lambda: volumes.remove(adopted)):
        with pytest.raises(LostMetadata):
            change()
    assert volumes.stat(found).size == MIB


@pytest.mark.parametrize("name", ["", "a@b", "other/a"])
def test_a_name_that_leaves_the_pool_is_refused(pool: Any, name: str) -> None:
    volumes = pool.parts.volumes
    volume = Volume(name, "raw")
    for look in (volumes.stat, volumes.location, volumes.remove, lambda each: volumes.allocate(each, MIB)):
        with pytest.raises(LostMetadata):
            look(volume)


# Snapshots as sources


class Glance:
    """A snapshot of an image in another pool of the cluster, as its administrator made it."""

    def __init__(self, ioctx: Any) -> None:
        import rbd

        self.name = f"glance-{secrets.token_hex(4)}"
        self.pieces = {0: DATA, 9 * MIB: b"z" * 512}
        self._ioctx = ioctx
        rbd.RBD().create(ioctx, self.name, 16 * MIB)
        with rbd.Image(ioctx, self.name) as image:
            for offset, data in self.pieces.items():
                image.write(data, offset)
            image.create_snap("snap")
        self.address = f"{ioctx.get_pool_name()}/{self.name}@snap"

    def protect(self) -> None:
        import rbd

        with rbd.Image(self._ioctx, self.name) as image:
            image.protect_snap("snap")

    def rewrite(self) -> None:
        """The image goes on; its snapshot stays."""
        import rbd

        with rbd.Image(self._ioctx, self.name) as image:
            image.write(b"later" * 100, 0)

    def destroy(self) -> None:
        import rbd

        with rbd.Image(self._ioctx, self.name) as image:
            if image.is_protected_snap("snap"):
                image.unprotect_snap("snap")
            image.remove_snap("snap")
        rbd.RBD().remove(self._ioctx, self.name)


@pytest.fixture
def glance(pool: Any) -> Iterator[Glance]:
    from .rbd_bed import ceph, connected

    with connected("admin") as cluster, cluster.ioctx(ceph.IMAGES) as ioctx:
        made = Glance(ioctx)
        yield made
        for name in pool.parts.volumes.inventory():
            pool.parts.volumes.remove(Volume(name, "raw"))
        for name in pool.parts.volumes.inventory():
            pool.parts.volumes.remove(Volume(name, "raw"))
        made.destroy()


class Elsewhere(Cluster):
    """The test cluster, taken for another one: there is only one."""

    fsid = "elsewhere"


def test_a_snapshot_of_the_same_cluster_is_cloned(pool: Any, glance: Glance) -> None:
    volumes = pool.parts.volumes
    source = RbdSnapshot.at(pool.cluster, glance.address, BOUNDS)
    volume = pool.image().volume
    facts = volumes.fill(volume, source)
    volumes.seal(volume)
    assert (facts["size"], facts["bytes_read"], facts["bytes_written"]) == (16 * MIB, 0, 0)
    assert volumes.pointer(volume) == glance.address
    assert volumes.stat(volume).allocated == 0
    disk = cloned(pool, volumes, volume, 16 * MIB)
    glance.rewrite()
    assert volumes.digest(disk) == volumes.digest(volume) == Sparse(16 * MIB, glance.pieces).digest()


def test_a_flattened_snapshot_is_not_needed_any_more(pool: Any, glance: Glance) -> None:
    volumes = pool.parts.volumes
    volume = pool.image().volume
    facts = volumes.fill(volume, RbdSnapshot.at(pool.cluster, glance.address, BOUNDS, flattened=True))
    volumes.seal(volume)
    assert volumes.pointer(volume) is None
    assert facts["content"] == Sparse(16 * MIB, glance.pieces).digest() == volumes.digest(volume)


def test_the_key_of_a_snapshot_is_of_this_very_one(pool: Any, glance: Glance) -> None:
    source = RbdSnapshot.at(pool.cluster, glance.address, BOUNDS)
    start, number, image, snapshot = source.key().split("/")
    assert start == f"rbd-snap:{pool.cluster.fsid}"
    assert number.isdigit()
    assert snapshot.isdigit()
    assert image
    assert source.key() == replace(source, flattened=True).key()


def test_clients_of_format_1_need_a_protected_snapshot(pool: Any, glance: Glance) -> None:
    volumes = volumes_of(pool, 1, namespace="")
    source = RbdSnapshot.at(pool.cluster, glance.address, BOUNDS)
    volume = pool.image().volume
    with pytest.raises(SourceError, match="not protected"):
        volumes.fill(volume, source)
    assert volumes.stat(volume) is None
    glance.protect()
    assert volumes.fill(volume, source)["clone_format"] == 1
    assert volumes.pointer(volume) == glance.address
    assert volumes.remove(volume).kind == "done"
    copy = pool.image().volume
    there = volumes_of(pool, 1)
    assert there.fill(copy, source)["content"] == Sparse(16 * MIB, glance.pieces).digest()
    assert there.pointer(copy) is None, "clones of format 1 have their parent in their own namespace"


def test_a_snapshot_of_another_cluster_is_copied(pool: Any, glance: Glance, tmp_path: Path) -> None:
    access = pool.cluster.access
    with Elsewhere(access) as cluster:
        source = RbdSnapshot.at(cluster, glance.address, BOUNDS)
        volumes = pool.parts.volumes
        volume = pool.image().volume
        facts = volumes.fill(volume, source)
        volumes.seal(volume)
        assert volumes.pointer(volume) is None
        assert facts["content"] == Sparse(16 * MIB, glance.pieces).digest() == volumes.digest(volume)
        assert facts["bytes_written"] <= 2 * MIB
        assert volumes.stat(volume).allocated == 2 * 4 * MIB
        folder = FileBed(str(tmp_path / "pool"))
        copy = folder.image().volume
        assert folder.parts.volumes.fill(copy, source)["content"] == facts["content"]
        assert folder.parts.volumes.digest(copy) == facts["content"]
        folder.destroy()


def test_a_snapshot_that_the_user_of_the_pool_may_not_read_is_copied(pool: Any, glance: Glance) -> None:
    from .rbd_bed import ceph, connected

    user = f"narrow-{secrets.token_hex(4)}"
    key = ceph.add_user(user, {"mon": "profile rbd", "osd": f"profile rbd pool={ceph.DISKS}"})
    with connected(user, key) as cluster:
        volumes = RbdVolumes(cluster, ceph.DISKS, Runner(), Staging(pool.staging, GIB), pool.namespace)
        volume = pool.image().volume
        facts = volumes.fill(volume, RbdSnapshot.at(pool.cluster, glance.address, BOUNDS))
        assert volumes.pointer(volume) is None
        assert facts["content"] == Sparse(16 * MIB, glance.pieces).digest() == volumes.digest(volume)
    ceph.ceph("auth", "rm", f"client.{user}", check=False)
    ceph.keyring(user).unlink()


def test_what_is_no_raw_image_or_too_large_is_refused(pool: Any, glance: Glance, tmp_path: Path) -> None:
    volumes = pool.parts.volumes
    source = RbdSnapshot.at(pool.cluster, glance.address, replace(BOUNDS, max_virtual_size=MIB))
    with pytest.raises(UnsafeImage) as caught:
        volumes.fill(pool.image().volume, source)
    assert caught.value.facts["check"] == "virtual_size"
    qcow2 = tmp_path / "image.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", qcow2, "1M"], check=True)
    nested = pool.image().volume
    volumes.fill(nested, Literal(qcow2.read_bytes))
    volumes.seal(nested)
    address = f"{volumes.location(nested)}@image"
    with pytest.raises(UnsafeImage):
        volumes.fill(pool.image().volume, RbdSnapshot.at(pool.cluster, address, BOUNDS))
    assert volumes.inventory().keys() == {nested.name}


def test_a_source_that_is_not_there_is_told(pool: Any, glance: Glance) -> None:
    for address in (f"{glance.address}2", f"nopool/{glance.name}@snap", "virt/none@snap"):
        with pytest.raises(SourceError, match="There is no snapshot"):
            RbdSnapshot.at(pool.cluster, address, BOUNDS).key()
    for words in itertools.permutations(["virt", "none"], 2):
        with pytest.raises(BadInput):
            RbdSnapshot.at(pool.cluster, "/".join(words), BOUNDS)
