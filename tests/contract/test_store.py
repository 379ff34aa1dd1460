# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Every promise of ``_records/contract.py``, on every store."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from dataclasses import replace

import pytest

from ansible_collections.virt.storage.plugins.module_utils._ground.errors import BadInput, LostMetadata, NewerSchema
from ansible_collections.virt.storage.plugins.module_utils._records.types import (
    ENDED,
    SCHEMA,
    Disk,
    Record,
    State,
    key_hash,
    to_json,
)

from .beds import BEAT, Bed, RealBed

FULL = os.environ.get("VIRT_STORAGE_FULL") == "1"
LISTINGS = 500 if FULL else 60


def made(bed: Bed, record: Record, state: State = State.PENDING) -> Record:
    assert bed.do(bed.records.create(record, state)).kind == "done"
    return record


def state_of(bed: Bed, record: Record) -> State | None:
    state: State | None = bed.do(bed.records.states()).state(record.id)
    return state


# Creating


@pytest.mark.parametrize("kind", ["disk", "image"])
def test_a_record_is_there_as_it_was_written(bed: Bed, kind: str) -> None:
    record = made(bed, bed.disk("web-1") if kind == "disk" else bed.image())
    assert bed.do(bed.records.read(record.id)) == record
    assert state_of(bed, record) is State.PENDING
    assert bed.another().do(bed.records.read(record.id)) == record


def test_creating_again_is_already_so_and_changes_nothing(bed: Bed) -> None:
    record = made(bed, bed.disk())
    assert bed.do(bed.records.create(record, State.PENDING)).kind == "already"
    bed.do(bed.records.swap(record.id, State.PENDING, State.READY))
    assert bed.do(bed.records.create(record, State.PENDING)).kind == "already"
    assert state_of(bed, record) is State.READY


def test_another_body_under_the_same_id_is_refused(bed: Bed) -> None:
    record = made(bed, bed.disk())
    other = replace(record, owner="owner+other")
    outcome = bed.do(bed.records.create(other, State.READY))
    assert outcome.kind == "refused"
    assert outcome.why
    assert bed.do(bed.records.read(record.id)) == record
    assert state_of(bed, record) is State.PENDING


def test_a_listing_knows_slots_and_keys_of_what_lives(bed: Bed) -> None:
    disk, ended = made(bed, bed.disk("web")), made(bed, bed.disk("web"))
    image, other = made(bed, bed.image("k"), State.FILLING), made(bed, bed.image("other"), State.FILLING)
    bed.do(bed.records.swap(ended.id, State.PENDING, State.RELEASED))
    listing = bed.do(bed.records.states())
    assert listing.slot("web", "root") == [disk.id]
    assert listing.slot("web", "swap") == []
    assert listing.images(key_hash("k")) == [image.id]
    assert listing.images(key_hash("other")) == [other.id]


# Swapping


def test_a_swap_moves_the_state_and_nothing_else(bed: Bed) -> None:
    record, bystander = made(bed, bed.disk("a")), made(bed, bed.disk("b"))
    assert bed.do(bed.records.swap(record.id, State.PENDING, State.READY)).kind == "done"
    assert (state_of(bed, record), state_of(bed, bystander)) == (State.READY, State.PENDING)
    assert bed.do(bed.records.read(record.id)) == record


def test_a_swap_from_another_state_is_refused(bed: Bed) -> None:
    record = made(bed, bed.disk())
    assert bed.do(bed.records.swap(record.id, State.READY, State.FLAT)).kind == "refused"
    assert bed.do(bed.records.swap(bed.disk().id, State.PENDING, State.READY)).kind == "refused"
    assert state_of(bed, record) is State.PENDING


def test_a_swap_whose_reply_was_lost_looks_refused_and_shows_in_the_listing(bed: Bed) -> None:
    record = made(bed, bed.disk())
    bed.do(bed.records.swap(record.id, State.PENDING, State.READY))
    assert not bed.do(bed.records.swap(record.id, State.PENDING, State.READY))
    assert state_of(bed, record) is State.READY


def test_of_many_threads_that_swap_one_wins(bed: Bed) -> None:
    beds = [bed.another() for _unused in range(2)]
    targets = [State.READY, State.DELETING]
    for _turn in range(50):
        record = made(bed, bed.disk())
        start = threading.Barrier(2)
        won: list[State] = []

        def compete(mine: Bed, target: State, record: Record = record, start: threading.Barrier = start) -> None:
            start.wait()
            if mine.do(mine.records.swap(record.id, State.PENDING, target)):
                won.append(target)  # noqa: B023 - the threads of this turn end in this turn

        threads = [threading.Thread(target=compete, args=pair) for pair in zip(beds, targets)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert won == [state_of(bed, record)]


@pytest.mark.promise("processes")
def test_of_two_processes_that_swap_200_records_one_wins_each(bed: RealBed) -> None:
    records = [bed.disk(f"i{number}") for number in range(200)]
    assert all(bed.do_all([bed.records.create(record, State.PENDING) for record in records]))
    with bed.actor("race", "ready") as one, bed.actor("race", "deleting") as two:
        assert [one.stdout.readline(), two.stdout.readline()] == ["ready\n", "ready\n"]
        for each in (one, two):
            each.stdin.write("go\n")
            each.stdin.flush()
        won = {State.READY: json.loads(one.stdout.readline()), State.DELETING: json.loads(two.stdout.readline())}
    assert sorted(won[State.READY] + won[State.DELETING]) == sorted(record.id for record in records)
    listing = bed.do(bed.records.states())
    for state, ids in won.items():
        assert {listing.state(each) for each in ids} <= {state}


# References


def test_references_come_and_go_under_their_own_record_only(bed: Bed) -> None:
    image, other = made(bed, bed.image(), State.READY), made(bed, bed.image("y"), State.READY)
    assert list(bed.do(bed.records.references(image.id))) == []
    for name in ("a+root+aaaaaaaaaaaa", "probe+x"):
        assert bed.do(bed.records.refer(image.id, name)).kind == "done"
        assert bed.do(bed.records.refer(image.id, name)).kind == "already"
    assert sorted(bed.do(bed.records.references(image.id))) == ["a+root+aaaaaaaaaaaa", "probe+x"]
    assert list(bed.do(bed.records.references(other.id))) == []
    assert bed.do(bed.records.unrefer(image.id, "probe+x")).kind == "done"
    assert bed.do(bed.records.unrefer(image.id, "probe+x")).kind == "already"
    assert bed.do(bed.records.unrefer(other.id, "nothing")).kind == "already"
    assert list(bed.do(bed.records.references(image.id))) == ["a+root+aaaaaaaaaaaa"]


def test_a_reference_shows_to_whoever_wrote_beside_it_before(bed: Bed) -> None:
    """The reference rule: each side writes, then lists."""
    image = made(bed, bed.image(), State.READY)
    other = bed.another()
    bed.do(bed.records.refer(image.id, "mine"))
    other.do(other.records.refer(image.id, "probe+other"))
    assert "mine" in other.do(other.records.references(image.id))


def test_syncs_and_probes_leave_nothing_to_see(bed: Bed) -> None:
    record = made(bed, bed.disk())
    before = dict(bed.do(bed.records.states()).states)
    assert bed.do(bed.records.probe()) is None
    assert bed.do(bed.records.sync()) is None
    assert bed.do(bed.records.states()).states == before == {record.id: State.PENDING}


@pytest.mark.promise("processes")
def test_no_listing_leaves_a_record_out_while_others_move(bed: RealBed) -> None:
    """On ext4 with this many names, a scan misses one that is renamed meanwhile."""
    records = [bed.disk(f"i{number}") for number in range(3000)]
    bed.do_all([bed.records.create(record, State.READY) for record in records])
    ids = {record.id for record in records}
    with bed.actor("rename") as other:
        assert other.stdout.readline() == "ready\n"
        for _look in range(LISTINGS):
            states = bed.do(bed.records.states()).states
            assert ids - states.keys() == set()
            assert set(states.values()) <= {State.READY, State.FLAT, State.MOVING}
        assert other.poll() is None
        assert int(other.stdout.readline()) >= 0, "nothing was moved meanwhile"


# Reading


@pytest.mark.promise("bodies")
@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"\0" * 4096,
        b"{",
        b"[]",
        b"{}",
        b"null",
        b"7",
        b"\xff\xfe",
        b'{"schema": 1}',
        b'{"schema": 1, "kind": "disk"}',
        b'{"schema": 1, "kind": "tape", "volume": {"name": "x", "format": "raw", "adopted": ""}}',
        b"[" * 100_000,
        b'{"schema": 1' + b"0" * 5000 + b"}",
    ],
    ids=lambda data: repr(data[:40]),
)
def test_a_body_that_is_no_record_is_lost_metadata(bed: RealBed, damage: bytes) -> None:
    record = made(bed, bed.disk())
    bed.body(record.id, damage)
    with pytest.raises(LostMetadata, match=record.instance):
        bed.do(bed.records.read(record.id))
    assert state_of(bed, record) is State.PENDING


@pytest.mark.promise("bodies")
def test_a_body_cut_short_anywhere_is_lost_metadata(bed: RealBed) -> None:
    record = made(bed, bed.disk())
    whole = to_json(record)
    for length in range(0, len(whole) - 1, 7):
        bed.body(record.id, whole[:length])
        with pytest.raises(LostMetadata):
            bed.do(bed.records.read(record.id))


@pytest.mark.promise("bodies")
def test_a_body_of_another_record_is_lost_metadata(bed: RealBed) -> None:
    record, other = made(bed, bed.disk()), bed.disk()
    bed.body(record.id, to_json(other))
    with pytest.raises(LostMetadata, match="another"):
        bed.do(bed.records.read(record.id))


@pytest.mark.promise("bodies")
def test_a_body_of_a_newer_schema_is_not_guessed_at(bed: RealBed) -> None:
    record = made(bed, bed.disk())
    bed.body(record.id, json.dumps({**json.loads(to_json(record)), "schema": SCHEMA + 1, "novel": 1}).encode())
    with pytest.raises(NewerSchema, match=str(SCHEMA + 1)):
        bed.do(bed.records.read(record.id))


def test_a_record_that_never_was_is_lost_metadata(bed: Bed) -> None:
    with pytest.raises(LostMetadata):
        bed.do(bed.records.read(bed.disk().id))


@pytest.mark.promise("bodies")
def test_a_lost_body_fails_closed(bed: RealBed) -> None:
    record = made(bed, bed.disk())
    bed.body(record.id, None)
    with pytest.raises(LostMetadata, match="rebuilt"):
        bed.do(bed.records.read(record.id))


@pytest.mark.promise("bodies")
def test_a_state_of_a_newer_version_fails_closed(bed: RealBed) -> None:
    record = made(bed, bed.disk())
    bed.state(record.id, "hibernating")
    with pytest.raises(NewerSchema, match="hibernating"):
        bed.do(bed.records.states())


# Facts


def test_facts_are_kept_by_topic_and_replaced_as_a_whole(bed: Bed) -> None:
    record = made(bed, bed.image(), State.FILLING)
    assert bed.do(bed.records.notes(record.id)) == {}
    bed.do(bed.records.note(record.id, "seal", {"size": 5, "content": "c", "deep": {"a": [1, None]}}))
    bed.do(bed.records.note(record.id, "used", {"at": "2026"}))
    bed.do(bed.records.note(record.id, "used", {"pinned": True}))
    seen = bed.another().do(bed.records.notes(record.id))
    assert seen == {"seal": {"size": 5, "content": "c", "deep": {"a": [1, None]}}, "used": {"pinned": True}}


@pytest.mark.promise("bodies")
@pytest.mark.parametrize("damage", [b"", b"\0" * 4096, b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000], ids=repr)
def test_damaged_facts_of_a_record_are_empty_and_those_of_the_pool_are_lost_metadata(
    bed: RealBed, damage: bytes
) -> None:
    record = made(bed, bed.image(), State.FILLING)
    for record_id in (record.id, "pool", "conversion"):
        bed.do(bed.records.note(record_id, "sound", {"a": 1}))
        bed.do(bed.records.note(record_id, "x", {"a": 1}))
        bed.fact(record_id, "x", damage)
    assert bed.do(bed.records.notes(record.id)) == {"sound": {"a": 1}, "x": {}}
    for record_id in ("pool", "conversion"):
        with pytest.raises(LostMetadata, match=f"^The facts {record_id}/x of the pool are damaged: restore "):
            bed.do(bed.records.notes(record_id))


# Locks


def test_a_lock_excludes_until_it_is_released(bed: Bed) -> None:
    other = bed.another()
    assert bed.do(bed.records.pulse("l")) is None
    assert bed.do(bed.records.hold("l"))
    assert not bed.do(bed.records.hold("l")), "two tasks of one process exclude each other, too"
    assert not other.do(other.records.hold("l"))
    assert other.do(other.records.hold("another"))
    assert other.do(other.records.pulse("l")) is not None
    bed.do(bed.records.release("l"))
    assert other.do(other.records.pulse("l")) is None
    assert other.do(other.records.hold("l"))
    other.do(other.records.release("l"))
    other.do(other.records.release("another"))


@pytest.mark.promise("processes")
def test_a_lock_goes_with_its_process_and_beats_while_it_lives(bed: RealBed) -> None:
    with bed.actor("hold", "l") as other:
        assert other.stdout.readline() == "held\n"
        assert not bed.do(bed.records.hold("l"))
        first = bed.do(bed.records.pulse("l"))
        assert changes(bed, "l", first), "a living holder stands still"
        other.send_signal(signal.SIGSTOP)
        time.sleep(2 * BEAT)
        stopped = bed.do(bed.records.pulse("l"))
        assert not changes(bed, "l", stopped), "a frozen holder beats"
        assert not bed.do(bed.records.hold("l")), "a frozen holder lost its lock"
        other.send_signal(signal.SIGCONT)
        assert changes(bed, "l", stopped), "a holder that woke up does not beat"
        other.kill()
        other.wait(10)
        wait_until_free(bed, "l", bed.lock_outlives)
        assert bed.do(bed.records.hold("l"))
    bed.do(bed.records.release("l"))


@pytest.mark.promise("processes", "inheritance")
def test_a_child_that_inherits_a_lock_holds_it_when_its_parent_is_killed(bed: RealBed) -> None:
    with bed.actor("beget", "l") as parent:
        child = int(parent.stdout.readline())
        parent.kill()
        parent.wait(10)
        try:
            assert not bed.do(bed.records.hold("l"))
            still = bed.do(bed.records.pulse("l"))
            assert still is not None
            assert not changes(bed, "l", still), "a child that knows nothing of locks beats"
        finally:
            os.kill(child, signal.SIGKILL)
    wait_until_free(bed, "l", 10)
    assert bed.do(bed.records.hold("l"))
    bed.do(bed.records.release("l"))


def wait_until_free(bed: Bed, name: str, seconds: float) -> None:
    """Wait until nobody holds a lock, for so many seconds and the time of a look."""
    deadline = time.monotonic() + seconds
    while bed.do(bed.records.pulse(name)) is not None:
        assert time.monotonic() < deadline, "the lock outlives its holder"
        time.sleep(BEAT)


def changes(bed: Bed, name: str, beat: int | None) -> bool:
    """Whether the beat of a lock changes within ten beats."""
    deadline = time.monotonic() + 10 * BEAT
    while time.monotonic() < deadline:
        if bed.do(bed.records.pulse(name)) != beat:
            return True
        time.sleep(BEAT / 2)
    return False


# Forgetting


@pytest.mark.promise("retention")
@pytest.mark.parametrize("state", [state for state in State if state not in (*ENDED, State.MOVING)])
def test_a_live_record_is_not_forgotten_and_loses_nothing(bed: Bed, state: State) -> None:
    image = made(bed, bed.image(), state)
    bed.do(bed.records.refer(image.id, "a+root+aaaaaaaaaaaa"))
    bed.do(bed.records.note(image.id, "seal", {"size": 1}))
    with pytest.raises(BadInput):
        bed.do(bed.records.forget(image.id))
    assert bed.do(bed.records.read(image.id)) == image
    assert list(bed.do(bed.records.references(image.id))) == ["a+root+aaaaaaaaaaaa"]
    assert bed.do(bed.records.notes(image.id)) == {"seal": {"size": 1}}
    assert state_of(bed, image) is state


@pytest.mark.promise("retention")
@pytest.mark.parametrize("state", sorted(ENDED))
def test_an_ended_record_is_forgotten_with_all_that_was_kept_under_it(bed: Bed, state: State) -> None:
    image, other = made(bed, bed.image(), state), made(bed, bed.image("y"), State.READY)
    bed.do(bed.records.refer(image.id, "probe+x"))
    bed.do(bed.records.note(image.id, "seal", {"size": 1}))
    bed.do(bed.records.forget(image.id))
    bed.do(bed.records.forget(image.id))
    assert state_of(bed, image) is None
    assert list(bed.do(bed.records.references(image.id))) == []
    assert bed.do(bed.records.notes(image.id)) == {}
    assert state_of(bed, other) is State.READY


@pytest.mark.promise("retention")
def test_an_ended_disk_is_forgotten_with_its_name_under_its_image(bed: Bed) -> None:
    """Who wakes late may put it there when all is over. Once nobody knew whose it is, it would keep the image."""
    image = made(bed, bed.image(), State.READY)
    gone, live = (
        made(bed, bed.disk("a", backing=image), State.GONE),
        made(bed, bed.disk("b", backing=image), State.READY),
    )
    for disk in (gone, live):
        bed.do(bed.records.refer(image.id, disk.id))
    bed.do(bed.records.forget(gone.id))
    assert list(bed.do(bed.records.references(image.id))) == [live.id]


@pytest.mark.promise("retention")
def test_a_sweep_forgets_what_has_been_gone_for_long_and_never_what_was_released(bed: Bed) -> None:
    gone, live = made(bed, bed.disk("a"), State.GONE), made(bed, bed.disk("b"), State.READY)
    released = made(bed, bed.disk("c"), State.FLAT)
    bed.do(bed.records.swap(released.id, State.FLAT, State.RELEASED))
    assert bed.do(bed.records.sweep(3600)) == []
    time.sleep(0.05)
    assert bed.do(bed.records.sweep(0.02, {gone.id})) == []
    assert bed.do(bed.records.sweep(0.02)) == [gone.id]
    assert bed.do(bed.records.states()).states == {live.id: State.READY, released.id: State.RELEASED}


@pytest.mark.promise("retention")
def test_a_sweep_leaves_the_locks_of_the_living(bed: Bed) -> None:
    bed.do(bed.records.hold("owner+me"))
    other = bed.another()
    other.do(other.records.sweep(0))
    assert other.do(other.records.pulse("owner+me")) is not None
    bed.do(bed.records.release("owner+me"))


# Batches


@pytest.mark.promise("bodies")
def test_a_batch_gives_what_single_operations_give(bed: RealBed) -> None:
    """Each operation on twins: once alone, once in a batch of mixed fates."""
    results = []
    for together in (False, True):
        disks = [bed.disk(f"i{number}") for number in range(12)]
        taken = replace(disks[3], owner="somebody else")
        bed.do(bed.records.create(taken, State.READY))
        bed.do(bed.records.create(disks[5], State.PENDING))
        image = bed.image()
        batches = [
            [bed.records.create(disk, State.PENDING) for disk in disks],
            [bed.records.swap(disk.id, State.PENDING, State.READY) for disk in disks],
            [bed.records.refer(image.id, name) for name in ("a", "b", "a", "c")],
            [bed.records.unrefer(image.id, name) for name in ("a", "x", "c")],
        ]
        told = []
        for ops in batches:
            ended = bed.do_all(ops) if together else [bed.do_all([op])[0] for op in ops]
            told.append([each.unwrap().kind for each in ended])
        states = bed.do(bed.records.states())
        told.append([str(states.state(disk.id)) for disk in disks])
        told.append(sorted(bed.do(bed.records.references(image.id))))
        results.append(told)
    assert results[0] == results[1]
    assert results[0][0] == ["done"] * 3 + ["refused", "done", "already"] + ["done"] * 6


@pytest.mark.promise("bodies")
def test_a_batch_with_an_operation_that_fails_fails_for_that_one_alone(bed: RealBed) -> None:
    disks = [bed.disk(f"i{number}") for number in range(5)]
    bed.do(bed.records.create(disks[2], State.PENDING))
    bed.body(disks[2].id, b"rubbish")
    ended = bed.do_all([bed.records.create(disk, State.PENDING) for disk in disks])
    assert isinstance(ended[2].error, LostMetadata)
    assert [each.unwrap().kind for each in ended if each.error is None] == ["done"] * 4
    for disk in [*disks[:2], *disks[3:]]:
        assert bed.do(bed.records.read(disk.id)) == disk
    states = bed.do(bed.records.states())
    assert [states.state(disk.id) for disk in disks] == [State.PENDING] * 5
    assert isinstance(disks[0], Disk)
