# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Names and bodies of records: what is written is read back, and nothing else is taken for a record."""

from __future__ import annotations

import json
import string
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.virt.storage.plugins.module_utils._ground.errors import (
    BadInput,
    LostMetadata,
    NewerSchema,
    StorageError,
)
from ansible_collections.virt.storage.plugins.module_utils._records.types import (
    ENDED,
    LONGEST_LIFE,
    MOVES,
    SCHEMA,
    Disk,
    Image,
    Record,
    State,
    Volume,
    checked_image_name,
    checked_instance,
    checked_role,
    disk_id,
    from_json,
    image_id,
    is_id,
    key_hash,
    taken_apart,
    to_json,
)

SUFFIX = "abcdefghijkl"
NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True)
ROLES = st.from_regex(r"[a-z0-9][a-z0-9-]{0,15}", fullmatch=True)
TEXTS = st.text(max_size=20)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)
DISK = Disk(
    disk_id("web", "root", SUFFIX), "web", "root", 512, Volume("v", "qcow2"), "2026", "owner+x", origin={"a": 1}
)
IMAGE = Image(image_id("deb", "k", SUFFIX), "k", "deb", "file", Volume("i", "raw"), "2026", "owner+x")


@given(NAMES, ROLES, NAMES, TEXTS)
def test_an_id_tells_what_it_is_made_of(instance: str, role: str, image: str, key: str) -> None:
    disk, cached = disk_id(instance, role, SUFFIX), image_id(image, key, SUFFIX)
    for each in (disk, cached):
        assert is_id(each)
        assert len(each) < 128, "it has to fit in a file name with its state"
    assert (taken_apart(disk).instance, taken_apart(disk).role, taken_apart(disk).image) == (instance, role, "")
    assert (taken_apart(cached).image, taken_apart(cached).key_hash) == (image, key_hash(key))
    assert taken_apart(cached).instance == ""


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "a/b", "a\nb", "a\0b", "a b", "ü", "-a", ".a", "a+b", "x" * 65, "a\n", "😀", "../etc", None, 7],
)
def test_a_name_that_cannot_be_is_told_in_one_line(name: Any) -> None:
    for check in (checked_instance, checked_image_name, checked_role):
        with pytest.raises(BadInput) as caught:
            check(name)
        assert caught.value.message.isprintable()
        assert len(caught.value.message) < 250


@pytest.mark.parametrize("name", ["Root", "root_1", "x" * 17, "root.1"])
def test_roles_are_stricter(name: str) -> None:
    with pytest.raises(BadInput, match="role"):
        checked_role(name)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "web1",
        "web1+root",
        "web1+root+short",
        "web1+root+abcdefghijkl.ready",
        "web1+root+ABCDEFGHIJKL",
        "web1+root+abcdefghijklm",
        "web1+root+abcdefghijkl\n",
        "/web1+root+abcdefghijkl",
        "../x+root+abcdefghijkl",
        "image+x+zzzzzzzzzzzzzzzz+abcdefghijkl",
        "probe+abcdefghijkl",
        "tape+x+0123456789abcdef+abcdefghijkl",
    ],
)
def test_what_is_no_id(text: str) -> None:
    assert not is_id(text)


def test_the_states_move_forward_only() -> None:
    """A look at one state name after the other meets a record that moves meanwhile, if they are in this order."""
    order = list(State)
    assert all(order.index(now) > order.index(was) for was, targets in MOVES.items() for now in targets)
    assert MOVES.keys() == set(State) - {State.MOVING}
    assert {state for state, targets in MOVES.items() if not targets} == set(ENDED)

    def longest(state: State) -> int:
        return max((1 + longest(now) for now in MOVES[state]), default=0)

    assert max(longest(state) for state in (State.PENDING, State.FILLING)) == LONGEST_LIFE


@given(
    st.builds(
        Disk,
        id=st.just(DISK.id),
        instance=NAMES,
        role=ROLES,
        size=st.integers(0, 1 << 62),
        volume=st.builds(Volume, TEXTS, st.sampled_from(["raw", "qcow2"]), TEXTS),
        created=TEXTS,
        owner=TEXTS,
        backing=st.none() | st.just(IMAGE.id),
        strategy=TEXTS,
        reason=TEXTS,
        origin=st.dictionaries(TEXTS, TEXTS | st.integers() | st.none(), max_size=3),
    )
    | st.builds(
        Image,
        id=st.just(IMAGE.id),
        key=TEXTS,
        name=TEXTS,
        source=TEXTS,
        volume=st.builds(Volume, TEXTS, TEXTS),
        created=TEXTS,
        owner=TEXTS,
    )
)
def test_a_body_is_read_as_it_was_written(record: Record) -> None:
    data = to_json(record)
    assert data.count(b"\n") == 1
    assert from_json(data, record.id) == record


@settings(max_examples=300)
@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_rubbish_is_never_a_record_nor_a_crash(data: bytes) -> None:
    with pytest.raises(StorageError):
        from_json(data, DISK.id)


@pytest.mark.parametrize(
    ("record", "remedy"),
    [(DISK, "restore it with disk_metadata state=rebuilt"), (IMAGE, "bring it in anew with cached_image")],
)
def test_what_to_do_about_a_lost_record_depends_on_what_it_was(record: Record, remedy: str) -> None:
    other = json.dumps({**json.loads(to_json(record)), "id": "x"}).encode()
    for data in (b"nonsense", b'{"schema": 1, "kind": "x"}', other):
        with pytest.raises(LostMetadata, match=remedy):
            from_json(data, record.id)


def bodies() -> list[dict[str, Any]]:
    return [json.loads(to_json(record)) for record in (DISK, IMAGE)]


@settings(max_examples=300)
@given(st.sampled_from(bodies()), st.data())
def test_a_body_with_anything_in_a_field_is_read_or_refused(body: dict[str, Any], data: st.DataObject) -> None:
    changed = json.loads(json.dumps(body))
    field = data.draw(st.sampled_from(sorted(body)))
    if data.draw(st.booleans()):
        del changed[field]
    else:
        changed[field] = data.draw(JSON)
    try:
        record = from_json(json.dumps(changed).encode(), body["id"])
    except (LostMetadata, NewerSchema):
        return
    assert record.id == body["id"]
    assert json.loads(to_json(record)).keys() == body.keys()
    assert isinstance(record.volume.name, str)
    assert isinstance(record.owner, str)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("size", -1),
        ("size", True),
        ("size", 1.5),
        ("size", "512"),
        ("origin", []),
        ("backing", "../../etc/passwd"),
        ("backing", ""),
        ("backing", 7),
        ("volume", {"name": "v", "format": "raw", "adopted": None}),
        ("volume", {"name": "v", "format": "raw", "adopted": "", "extra": 1}),
        ("volume", ["v", "raw", ""]),
        ("kind", "tape"),
        ("kind", ["disk"]),
        ("id", disk_id("web", "root", "z" * 12)),
        ("novel", 1),
    ],
)
def test_a_disk_with_a_wrong_field_is_lost_metadata(field: str, value: Any) -> None:
    with pytest.raises(LostMetadata):
        from_json(json.dumps({**bodies()[0], field: value}).encode(), DISK.id)


@pytest.mark.parametrize("schema", [SCHEMA + 1, 10**9, "1", None, [1]])
def test_a_schema_that_is_not_ours_is_newer(schema: Any) -> None:
    with pytest.raises(NewerSchema):
        from_json(json.dumps({**bodies()[0], "schema": schema}).encode(), DISK.id)


def test_records_are_told_apart_by_every_field() -> None:
    assert from_json(to_json(DISK), DISK.id) != replace(DISK, origin={"a": 2})
    assert all(character in string.printable for character in to_json(DISK).decode())
