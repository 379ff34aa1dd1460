# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What only records in Ceph have: objects that can go missing, locks that run out, a cluster that refuses or is gone.

The last part breaks the cluster: it stops its daemons and fills it up.
"""

from __future__ import annotations

import errno
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.virt.storage.plugins.module_utils._ground.ceph import Access, Cluster, told
from ansible_collections.virt.storage.plugins.module_utils._ground.errors import (
    BadInput,
    LostMetadata,
    NewerSchema,
    NotFound,
    OutOfSpace,
    StorageError,
)
from ansible_collections.virt.storage.plugins.module_utils._records.omap import (
    FACTS,
    OBJECT,
    SHARD,
    STATE,
    UNDER,
    OmapStore,
)
from ansible_collections.virt.storage.plugins.module_utils._records.types import SCHEMA, State

from .beds import GROUNDS

SHORT = 3
"""Seconds after which a connection that has to fail gives up."""


@pytest.fixture
def pool(grounds: Callable[[str], Path]) -> Iterator[Any]:
    """An empty pool in Ceph."""
    with GROUNDS["rbd"].bed(grounds("rbd") / "pool") as made:
        yield made


@pytest.fixture
def ceph(grounds: Callable[[str], Path]) -> Any:
    """The cluster, as its administrator has it."""
    grounds("rbd")
    from .rbd_bed import ceph as cluster

    return cluster


@contextmanager
def connected(ceph: Any, user: str, key: str = "", seconds: int = SHORT) -> Iterator[Cluster]:
    with Cluster(Access((ceph.monitor(),), user, key or ceph.key(user)), seconds) as cluster:
        yield cluster


def one_sentence(error: BaseException, *words: str) -> None:
    """The message is one, has these words, and no key."""
    text = str(error)
    assert text.endswith(".")
    assert ". " not in text
    assert "\n" not in text
    for word in words:
        assert word in text


def wait_until(fulfilled: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not fulfilled():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def made(pool: Any, state: State = State.PENDING) -> Any:
    disk = pool.disk()
    assert pool.parts.records.create(disk, state).kind == "done"
    return disk


# The store


def test_a_store_is_made_once_and_opened_by_anybody(pool: Any) -> None:
    pool.parts.records.destroy()
    with pytest.raises(NotFound):
        OmapStore.open(pool.ioctx)
    barrier, stores, errors = threading.Barrier(4), [], []

    def make() -> None:
        barrier.wait()
        try:
            stores.append(OmapStore.make(pool.ioctx))
        except StorageError as error:
            errors.append(error)

    threads = [threading.Thread(target=make) for _unused in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(stores), errors) == (4, [])
    disk = pool.disk()
    stores[0].create(disk, State.READY)
    for store in (*stores, OmapStore.open(pool.ioctx), OmapStore.make(pool.ioctx)):
        assert store.states().states == {disk.id: State.READY}


def test_a_store_that_is_destroyed_leaves_nothing(pool: Any) -> None:
    store = pool.parts.records
    disk = made(pool, State.GONE)
    store.refer(disk.id, "x")
    store.note("pool", "config", {})
    store.hold("owner+me")
    store.destroy()
    assert not [each.key for each in pool.ioctx.list_objects() if each.key.startswith("virt-storage.")]
    store.release("owner+me")
    store.destroy()


@pytest.mark.parametrize(
    "layout",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b'{"schema": 1}',
        b'{"schema": 1, "shards": 0}',
        b'{"schema": 1, "shards": 1e3}',
        b'{"schema": 1, "shards": 100000}',
        b'{"schema": "1", "shards": 16}',
        b"[" * 8000,
    ],
    ids=lambda data: repr(data[:40]),
)
def test_a_layout_that_cannot_be_read_is_lost_metadata(pool: Any, layout: bytes) -> None:
    pool.ioctx.write_full(OBJECT, layout)
    for way in (OmapStore.open, OmapStore.make):
        with pytest.raises(LostMetadata, match=OBJECT):
            way(pool.ioctx)


@pytest.mark.parametrize("rest", ["", ', "shards": 16', ', "shards": "many"'])
def test_a_newer_store_is_left_alone(pool: Any, rest: str) -> None:
    pool.ioctx.write_full(OBJECT, f'{{"schema": {SCHEMA + 1}{rest}}}'.encode())
    for way in (OmapStore.open, OmapStore.make):
        with pytest.raises(NewerSchema, match=str(SCHEMA + 1)):
            way(pool.ioctx)


def test_a_shard_that_is_missing_fails_closed(pool: Any) -> None:
    store, disk = pool.parts.records, made(pool)
    shard = store._shard(disk.id)
    pool.ioctx.remove_object(shard)
    attempts = [
        store.states,
        lambda: store.read(disk.id),
        lambda: store.create(disk, State.PENDING),
        lambda: store.swap(disk.id, State.PENDING, State.READY),
        lambda: store.references(disk.id),
        lambda: store.refer(disk.id, "x"),
        lambda: store.sweep(0),
        lambda: store.forget(disk.id),
    ]
    for attempt in attempts:
        with pytest.raises(LostMetadata, match=shard) as raised:
            attempt()
        one_sentence(raised.value, "rados create", "rebuilt")
    pool.ioctx.write_full(shard, b"")
    assert store.states().states == {}


def test_keys_that_are_not_ours_are_passed_over_and_no_text_fails_closed(pool: Any) -> None:
    store, disk = pool.parts.records, made(pool)
    set_omap(pool, f"{SHARD}0", **{"state/no id": b"ready", "other": b"x", "body/": b"{}", "state/": b""})
    assert store.states().states == {disk.id: State.PENDING}
    assert store.sweep(0) == []
    set_omap(pool, f"{SHARD}0", **{"ended/" + disk.id: b"soon"})
    assert store.sweep(0) == []
    set_omap(pool, f"{SHARD}0", **{b"state/\xff".decode(errors="surrogateescape"): b"x"})
    with pytest.raises(LostMetadata, match="no text"):
        store.states()


def set_omap(pool: Any, name: str, **items: bytes) -> None:
    import rados

    with rados.WriteOpCtx() as op:
        keys = tuple(key.encode(errors="surrogateescape") for key in items)
        pool.ioctx.set_omap(op, keys, tuple(items.values()))
        pool.ioctx.operate_write_op(op, name)


def test_of_two_swaps_of_one_record_in_one_batch_one_wins(pool: Any) -> None:
    """A write sees nothing of itself: both guards would hold in it."""
    store, disk, other = pool.parts.records, made(pool), made(pool)
    outcomes = store.swap_all(
        [
            (disk.id, State.PENDING, State.READY),
            (other.id, State.PENDING, State.READY),
            (disk.id, State.PENDING, State.DELETING),
        ]
    )
    assert [outcome.kind for outcome in outcomes] == ["done", "done", "refused"]
    assert store.states().states == {disk.id: State.READY, other.id: State.READY}


def test_of_two_creations_of_one_id_in_one_batch_one_wins(pool: Any) -> None:
    store, disk = pool.parts.records, pool.disk()
    outcomes = store.create_all([(disk, State.PENDING), (disk, State.READY)])
    assert [outcome.kind for outcome in outcomes] == ["done", "already"]
    assert store.states().states == {disk.id: State.PENDING}


def test_large_batches_and_listings_go_in_parts(pool: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from ansible_collections.virt.storage.plugins.module_utils._ground import rados_omap
    from ansible_collections.virt.storage.plugins.module_utils._records import omap

    monkeypatch.setattr(omap, "BATCH", 30)
    monkeypatch.setattr(rados_omap, "PAGE", 2)
    store, disks = pool.parts.records, [pool.disk(f"i{number}") for number in range(100)]
    store.create(disks[50], State.READY)
    outcomes = store.create_all([(disk, State.PENDING) for disk in disks])
    assert [number for number, outcome in enumerate(outcomes) if outcome.kind != "done"] == [50]
    outcomes = store.swap_all([(disk.id, State.PENDING, State.READY) for disk in disks])
    assert [number for number, outcome in enumerate(outcomes) if outcome.kind != "done"] == [50]
    assert store.states().states == {disk.id: State.READY for disk in disks}


def test_what_is_forgotten_is_gone_and_what_lives_on_is_not(pool: Any) -> None:
    store, gone, live = pool.parts.records, made(pool, State.READY), made(pool, State.READY)
    for disk in (gone, live):
        store.refer(disk.id, "x")
        store.note(disk.id, "seal", {"size": 1})
    store.swap(gone.id, State.READY, State.RELEASED)
    store.forget(gone.id)
    left = [key for number in range(16) for key, _value in store._omaps.items(f"{SHARD}{number}", "")]
    assert sorted(left) == sorted([STATE + live.id, "body/" + live.id, f"{UNDER}{live.id}/x", f"{FACTS}{live.id}/seal"])


# Locks


def test_a_lock_that_was_released_leaves_nothing_and_one_of_the_dead_is_swept(pool: Any) -> None:
    store = pool.parts.records
    for name in ("owner+a", "fill+b"):
        assert store.hold(name)
        assert store.busy() == (name,)
        store.release(name)
        assert (store.busy(), store.locks.names()) == ((), [])
    with pool.actor("hold", "owner+dead") as other:
        assert other.stdout.readline() == "held\n"
        store.sweep(3600)
        assert store.busy() == ("owner+dead",), "a lock of the living was swept"
        other.kill()
        other.wait(10)
        wait_until(lambda: store.busy() == (), pool.lock_outlives + 1)
    assert store.locks.names() == ["owner+dead"]
    store.hold("owner+me")
    store.sweep(3600)
    assert store.locks.names() == ["owner+me"]
    assert store.pulse("owner+me") is not None
    store.release("owner+me")


def test_many_locks_beat_together_for_longer_than_one_lasts(pool: Any) -> None:
    store = pool.parts.records
    names = [f"fill+{number}" for number in range(60)]
    assert all(store.hold(name) for name in names)
    first = {name: store.pulse(name) for name in names}
    time.sleep(pool.lock_outlives + 0.5)
    assert sorted(store.busy()) == sorted(names)
    assert all(store.pulse(name) > first[name] for name in names)
    for name in names:
        store.release(name)
    wait_until(lambda: store.locks._heart is None)
    assert store.busy() == ()


def test_a_frozen_holder_loses_its_lock_and_is_not_told_but_cannot_take_it_back(pool: Any) -> None:
    with pool.actor("hold", "l") as other:
        assert other.stdout.readline() == "held\n"
        other.send_signal(signal.SIGSTOP)
        wait_until(lambda: pool.parts.records.pulse("l") is None, pool.lock_outlives + 1)
        assert pool.parts.records.hold("l")
        other.send_signal(signal.SIGCONT)
        time.sleep(0.5)
        assert other.poll() is None
    mine = pool.parts.records.pulse("l")
    wait_until(lambda: pool.parts.records.pulse("l") != mine)
    pool.parts.records.release("l")
    assert pool.parts.records.pulse("l") is None


def test_a_lock_that_was_lost_is_still_not_for_another_task_of_its_process(pool: Any) -> None:
    store = pool.parts.records
    assert store.hold("l")
    pool.ioctx.rm_xattr(store.locks._object("l"), "lock.l")
    assert not store.hold("l")
    wait_until(lambda: store.pulse("l") is not None)
    store.release("l")


def test_a_lock_that_somebody_else_took_by_hand_holds(pool: Any) -> None:
    store = pool.parts.records
    pool.ioctx.lock_exclusive(store.locks._object("l"), "l", "by hand")
    assert store.pulse("l") == 0
    assert not store.hold("l")
    pool.ioctx.unlock(store.locks._object("l"), "l", "by hand")
    assert store.hold("l")
    store.release("l")


# Access


def test_who_is_not_let_in_is_told_why(ceph: Any) -> None:
    for user, key in (("libvirt", ceph.key("admin")), ("nobody", ceph.key("libvirt"))):
        began = time.monotonic()
        with pytest.raises(StorageError) as raised, connected(ceph, user, key):
            pass
        one_sentence(raised.value, ceph.monitor(), f"client.{user}", "key is wrong", "ceph auth get")
        assert key not in str(raised.value)
        assert time.monotonic() - began < SHORT + 4


@pytest.mark.parametrize("key", ["secret", "c2VjcmV0", "AQA" + "x" * 37, "!", "ä"])
def test_what_is_no_key_is_told_before_librados_prints_it(
    ceph: Any, key: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(BadInput) as raised, connected(ceph, "libvirt", key):
        pass
    one_sentence(raised.value, "no key", "ceph auth get-key client.libvirt")
    assert key not in str(raised.value) + repr(Access((), "libvirt", key)) + "".join(capfd.readouterr())


def test_a_missing_capability_is_named(ceph: Any) -> None:
    users = {
        "no-mon": {"osd": "profile rbd pool=virt"},
        "no-osd": {"mon": "profile rbd"},
        "reads-only": {"mon": "profile rbd", "osd": "profile rbd-read-only pool=virt"},
    }
    for user, caps in users.items():
        key = ceph.add_user(user, caps)
        with pytest.raises(StorageError) as raised, connected(ceph, user, key) as cluster:
            OmapStore.make(cluster.ioctx("virt", f"test-{secrets.token_hex(4)}"))
        one_sentence(raised.value, "profile rbd")
        assert raised.value.facts["errno"] in (errno.EPERM, errno.EACCES, errno.ETIMEDOUT)


def test_a_configuration_file_is_used_when_it_is_named_and_what_is_said_counts_before_it(ceph: Any) -> None:
    with Cluster(Access((), "libvirt", "", conf=str(ceph.CONF)), SHORT) as cluster:
        assert cluster.fsid == ceph.ceph("fsid")["fsid"]
    wrong = Access(("127.0.0.1:1",), "libvirt", ceph.key("libvirt"), conf=str(ceph.CONF))
    with pytest.raises(StorageError, match="did not answer") as raised:
        Cluster(wrong, SHORT)
    one_sentence(raised.value, "127.0.0.1:1")


def test_what_cannot_be_looked_up_is_told(ceph: Any, tmp_path: Path) -> None:
    key = ceph.key("libvirt")
    attempts = {
        Access((), "libvirt", key): "address:port",
        Access(("no.such.host.invalid:6789",), "libvirt", key): "no.such.host",
        Access((), "libvirt", key, conf=str(tmp_path / "ceph.conf")): "ceph.conf",
        Access((ceph.monitor(),), "libvirt", key, options=(("no_such_option", "1"),)): "no_such_option",
    }
    for access, word in attempts.items():
        with pytest.raises(StorageError) as raised:
            Cluster(access, SHORT)
        one_sentence(raised.value, word)
    with connected(ceph, "libvirt") as cluster, pytest.raises(NotFound, match="no-such-pool"):
        cluster.ioctx("no-such-pool")


# A cluster that is broken


def test_a_monitor_that_hangs_is_told_in_time_and_records_go_on(pool: Any, ceph: Any) -> None:
    with ceph.frozen("mon.a"):
        began = time.monotonic()
        with pytest.raises(StorageError) as raised, connected(ceph, "libvirt"):
            pass
        assert time.monotonic() - began < SHORT + 4
        one_sentence(raised.value, ceph.monitor(), f"within {SHORT} s")
        assert pool.parts.records.create(pool.disk(), State.PENDING).kind == "done"
    ceph.wait_until_it_serves()


def test_a_monitor_that_is_away_for_a_while_is_waited_for(pool: Any, ceph: Any) -> None:
    ceph.stop("mon.a")
    back = threading.Timer(5, lambda: ceph.start("mon.a"))
    back.start()
    try:
        with connected(ceph, "libvirt", seconds=60) as cluster:
            assert OmapStore.open(cluster.ioctx("virt", pool.namespace)).states().states == {}
    finally:
        back.join()
        ceph.wait_until_it_serves()


def test_an_osd_that_hangs_is_told_in_time_and_nothing_is_lost(pool: Any, ceph: Any) -> None:
    disk, fresh = made(pool), pool.disk()
    with connected(ceph, "libvirt") as cluster:
        store = OmapStore.open(cluster.ioctx("virt", pool.namespace))
        attempts = [
            store.states,
            lambda: store.swap(disk.id, State.PENDING, State.READY),
            lambda: store.create(fresh, State.PENDING),
            lambda: store.hold("l"),
            lambda: store.pulse("l"),
        ]
        with ceph.frozen("osd.0"), ThreadPoolExecutor(len(attempts)) as threads:
            began = time.monotonic()
            for attempt in [threads.submit(each) for each in attempts]:
                with pytest.raises(StorageError) as raised:
                    attempt.result()
                one_sentence(raised.value, "did not answer in time")
            assert time.monotonic() - began < 2 * SHORT + 2
        ceph.wait_until_it_serves()
        # What was on its way when the wait ended may have arrived: then the same again is refused, and settled.
        store.close()
        again = store.swap(disk.id, State.PENDING, State.READY)
        assert store.states().state(disk.id) is State.READY
        assert store.create(fresh, State.PENDING)
        assert (again.kind, store.states().states) in (
            (kind, {disk.id: State.READY, fresh.id: State.PENDING}) for kind in ("done", "refused")
        )


def test_a_client_that_was_blocked_is_told(pool: Any, ceph: Any) -> None:
    with connected(ceph, "libvirt") as cluster:
        ioctx = cluster.ioctx("virt", pool.namespace)
        store = OmapStore.open(ioctx)
        disk = made(pool)
        address = cluster._rados.get_addrs()
        for each in addresses(address):
            ceph.ceph("osd", "blocklist", "add", each)
        errors: list[StorageError] = []

        def is_told() -> bool:
            try:
                store.swap(disk.id, State.READY, State.FLAT)
            except StorageError as error:
                errors.append(error)
            return bool(errors)

        wait_until(is_told)
        one_sentence(errors[0], "blocked", "blocklist ls")
        for each in addresses(address):
            ceph.ceph("osd", "blocklist", "rm", each)


def addresses(text: str) -> list[str]:
    """The addresses of a client, as the monitors take them."""
    return [each.split(":", 1)[1] if each[:3] in ("v1:", "v2:") else each for each in text.strip("[]").split(",")]


@contextmanager
def full(ceph: Any, how: str, pool: str) -> Iterator[None]:
    """A pool that is full: its quota is used up, or the OSDs are."""

    def is_full() -> bool:
        (flags,) = [each["flags_names"] for each in ceph.ceph("osd", "dump")["pools"] if each["pool_name"] == pool]
        return "full" in flags.split(",")

    ratios = {"nearfull": (0.0001, 0.85), "backfillfull": (0.0002, 0.9), "full": (0.0003, 0.95)}
    if how == "quota":
        ceph.ceph("osd", "pool", "set-quota", pool, "max_objects", 1)
    else:
        for name, (low, _usual) in ratios.items():
            ceph.ceph("osd", f"set-{name}-ratio", low)
    try:
        wait_until(is_full)
        yield
    finally:
        ceph.ceph("osd", "pool", "set-quota", pool, "max_objects", 0)
        for name, (_low, usual) in reversed(ratios.items()):
            ceph.ceph("osd", f"set-{name}-ratio", usual)
        wait_until(lambda: not is_full())


@pytest.mark.parametrize("how", ["quota", "osd"])
def test_a_full_pool_is_told_at_once_and_can_be_pruned(pool: Any, ceph: Any, how: str) -> None:
    store, disk, gone = pool.parts.records, made(pool, State.READY), made(pool, State.GONE)
    store.refer(disk.id, "x")
    with full(ceph, how, "virt"):
        began = time.monotonic()
        with pytest.raises(OutOfSpace) as raised, told("write"):
            pool.ioctx.write_full("more", b"x")
        one_sentence(raised.value, "quota" if how == "quota" else "full")
        assert store.hold("owner+me")
        assert store.swap(disk.id, State.READY, State.DELETING)
        assert store.unrefer(disk.id, "x").kind == "done"
        assert store.swap(disk.id, State.DELETING, State.GONE)
        time.sleep(0.01)
        assert sorted(store.sweep(0)) == sorted([disk.id, gone.id])
        store.release("owner+me")
        assert time.monotonic() - began < SHORT
    assert pool.ioctx.write_full("more", b"x") is not None
