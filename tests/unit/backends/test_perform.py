# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The performer: what is batched, what is shared, and what one failure costs the others."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pytest

from ansible_collections.virt.storage.plugins.module_utils._backends import perform
from ansible_collections.virt.storage.plugins.module_utils._backends.perform import Clockwork, Parts, Performer
from ansible_collections.virt.storage.plugins.module_utils._ground.drive import Ended, drive
from ansible_collections.virt.storage.plugins.module_utils._ground.errors import OutOfSpace, StorageError
from ansible_collections.virt.storage.plugins.module_utils._ground.ops import Host, Op
from ansible_collections.virt.storage.plugins.module_utils._records.contract import Records

RECORDS, HOST = Records("p"), Host("p")


class Store:
    """Notes how it is called. ``refer`` fails for the names in ``bad``, alone and in a batch."""

    def __init__(self, bad: Sequence[str] = (), error: Exception | None = None) -> None:
        self.calls: list[str] = []
        self.bad, self.error = bad, error or OutOfSpace("full")

    def refer(self, record_id: str, name: str) -> str:
        self.calls.append(f"refer {name}")
        if name in self.bad:
            raise self.error
        return name.upper()

    def refer_all(self, batch: Sequence[tuple[str, str]]) -> list[str]:
        self.calls.append(f"refer_all {len(batch)}")
        return [self.refer(*each) for each in batch]

    def states(self) -> str:
        self.calls.append("states")
        return "listing"

    def note(self, record_id: str, topic: str, facts: dict[str, Any]) -> None:
        self.calls.append(f"note {record_id}")

    def references(self, record_id: str) -> list[str]:
        self.calls.append(f"references {record_id}")
        return [record_id]


async def awaited(op: Op[Any]) -> Any:
    return await op


def done(store: Store, *ops: Op[Any], write: bool = True) -> list[Ended]:
    return drive([awaited(op) for op in ops], Performer({"p": Parts(store, None)}, write))


def test_one_operation_is_no_batch() -> None:
    store = Store()
    assert [each.value for each in done(store, RECORDS.refer("i", "a"))] == ["A"]
    assert store.calls == ["refer a"]


def test_like_operations_share_one_call_and_each_gets_its_own_result() -> None:
    store = Store()
    ended = done(store, RECORDS.refer("i", "a"), RECORDS.states(), RECORDS.refer("i", "b"), RECORDS.refer("i", "a"))
    assert [each.value for each in ended] == ["A", "listing", "B", "A"]
    assert store.calls[0] == "refer_all 3"


def test_where_a_batch_fails_only_those_fail_that_cannot_be_done() -> None:
    store = Store(bad=["b"])
    ended = done(store, *(RECORDS.refer("i", name) for name in "abc"))
    assert [each.value for each in ended] == ["A", None, "C"]
    assert isinstance(ended[1].error, OutOfSpace)
    assert store.calls[0] == "refer_all 3"
    assert store.calls[-3:] == ["refer a", "refer b", "refer c"]


def test_an_error_of_the_system_becomes_one_of_the_family() -> None:
    store = Store(bad=["a"], error=OSError(28, "No space left on device", "/pool/x"))
    (ended,) = done(store, RECORDS.refer("i", "a"))
    assert isinstance(ended.error, OutOfSpace)
    assert "/pool/x" in str(ended.error)


def test_a_fault_of_ours_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        done(Store(bad=["a"], error=ZeroDivisionError()), RECORDS.refer("i", "a"))


def test_reads_that_are_alike_share_one_answer() -> None:
    store = Store()
    ops = [RECORDS.states(), RECORDS.references("i"), RECORDS.states(), RECORDS.references("j")]
    assert [each.value for each in done(store, *ops)] == ["listing", ["i"], "listing", ["j"]]
    assert sorted(store.calls) == ["references i", "references j", "states"]


def test_facts_which_no_set_can_hold_are_written_each() -> None:
    store = Store()
    done(store, RECORDS.note("i", "t", {"a": [1]}), RECORDS.note("i", "t", {"a": [1]}))
    assert store.calls == ["note i", "note i"]


def test_a_check_run_writes_nothing_and_reads_all() -> None:
    store = Store()
    assert done(store, RECORDS.states(), write=False)[0].value == "listing"
    with pytest.raises(AssertionError, match=r"records\.refer"):
        done(store, RECORDS.refer("i", "a"), write=False)
    assert done(store, HOST.fresh(), write=False)[0].value
    assert store.calls == ["states"]


def test_names_are_never_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [each.value for each in done(Store(), *(HOST.fresh() for _unused in range(50)))]
    assert len(set(names)) == 50
    assert all(re.fullmatch("[a-z2-7]{12}", name) for name in names)


def test_sleepers_wait_once_for_the_shortest(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(perform.time, "sleep", slept.append)
    done(Store(), HOST.sleep(3), HOST.sleep(1), RECORDS.states())
    assert slept == [1]


def test_times_are_in_order_as_text() -> None:
    clockwork = Clockwork()
    times = [clockwork.now() for _unused in range(3)]
    assert times == sorted(times)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", times[0])
    assert clockwork.clock() <= clockwork.clock()
    assert issubclass(OutOfSpace, StorageError)
