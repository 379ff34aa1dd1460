# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The driving loop: what ``perform`` answers reaches the task that waits for it, and no other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from ansible_collections.virt.storage.plugins.module_utils._ground.drive import (
    Answer,
    Dead,
    Failure,
    Reply,
    drive,
    drive_one,
)
from ansible_collections.virt.storage.plugins.module_utils._ground.errors import NotFound, StorageError
from ansible_collections.virt.storage.plugins.module_utils._ground.ops import ALREADY, DONE, Host, Op, refused

HOST = Host("p")


async def two_names() -> str:
    return await HOST.fresh() + await HOST.fresh()


async def at_once() -> str:
    return "done"


async def suffering() -> str:
    try:
        await HOST.now()
    except StorageError as error:
        return f"went on after {error}"
    return "nothing happened"


async def failing() -> str:
    await HOST.now()
    raise NotFound("nothing there")


def each(reply: Reply) -> Any:
    return lambda waiting: dict.fromkeys(waiting, reply)


def test_every_round_has_one_operation_of_each_task() -> None:
    rounds: list[list[int]] = []

    def perform(waiting: Mapping[int, Op[Any]]) -> Mapping[int, Reply]:
        rounds.append(sorted(waiting))
        return {number: Answer(f"{number}{len(rounds)}") for number in waiting}

    ended = drive([two_names(), at_once(), two_names()], perform)
    assert [one.value for one in ended] == ["0102", "done", "2122"]
    assert rounds == [[0, 2], [0, 2]]


def test_perform_may_answer_one_at_a_time() -> None:
    order: list[int] = []

    def perform(waiting: Mapping[int, Op[Any]]) -> Mapping[int, Reply]:
        number = max(waiting)
        order.append(number)
        return {number: Answer("x")}

    assert [one.value for one in drive([two_names(), two_names()], perform)] == ["xx", "xx"]
    assert order == [1, 1, 0, 0]


def test_a_task_that_fails_fails_alone() -> None:
    ended = drive([failing(), two_names()], each(Answer("a")))
    assert isinstance(ended[0].error, NotFound)
    assert ended[1].unwrap() == "aa"
    with pytest.raises(NotFound, match="nothing there"):
        ended[0].unwrap()


def test_a_task_may_go_on_after_an_operation_failed() -> None:
    ended = drive([suffering(), failing()], each(Failure(StorageError("trouble"))))
    assert ended[0].value == "went on after trouble"
    assert str(ended[1].error) == "trouble"


def test_what_is_no_error_of_the_family_ends_the_drive() -> None:
    with pytest.raises(ZeroDivisionError):
        drive([suffering()], each(Failure(ZeroDivisionError())))


def test_the_dead_do_nothing_any_more() -> None:
    cleaned = []

    async def tidy() -> None:
        try:
            await HOST.now()
        finally:
            cleaned.append("cleaned")

    tasks = [tidy()]
    ended = drive(tasks, each(Dead()))
    assert ended[0].dead
    assert cleaned == []
    assert ended[0].unwrap() is None
    tasks[0].close()


def test_one_task_gives_its_value_or_raises() -> None:
    assert drive_one(two_names(), each(Answer("b"))) == "bb"
    with pytest.raises(NotFound):
        drive_one(failing(), each(Answer(None)))


def test_outcomes_are_true_unless_refused() -> None:
    assert DONE
    assert ALREADY
    assert not refused("why")
    assert refused("why").why == "why"


def test_an_operation_shows_what_it_is() -> None:
    op = HOST.sleep(2)
    assert (str(op), op.writes, HOST.fresh().writes) == ("host.sleep(2)", False, True)
