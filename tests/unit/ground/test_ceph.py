# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a connection to Ceph says without a cluster; the rest is in tests/contract/test_rbd_records.py."""

from __future__ import annotations

import errno
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import rados
import rbd

from ansible_collections.virt.storage.plugins.module_utils._ground import ceph, rados_locks
from ansible_collections.virt.storage.plugins.module_utils._ground.ceph import Access, Cluster, told
from ansible_collections.virt.storage.plugins.module_utils._ground.errors import (
    Busy,
    InUse,
    MissingRequirement,
    NotFound,
    OutOfSpace,
    StorageError,
)
from ansible_collections.virt.storage.plugins.module_utils._ground.rados_omap import Change, joined


@pytest.mark.parametrize(
    ("error", "kind", "word"),
    [
        (rados.ObjectNotFound("x", errno=errno.ENOENT), NotFound, "does not exist"),
        (rbd.ImageNotFound("x", errno=errno.ENOENT), NotFound, "does not exist"),
        (rados.NoSpace("x", errno=errno.ENOSPC), OutOfSpace, "full"),
        (rbd.DiskQuotaExceeded("x", errno=errno.EDQUOT), OutOfSpace, "quota"),
        (rbd.ImageBusy("x", errno=errno.EBUSY), InUse, "busy"),
        (rados.ObjectBusy("x", errno=errno.EBUSY), Busy, "busy"),
        (rados.PermissionError("x", errno=errno.EPERM), StorageError, "profile rbd"),
        (rbd.PermissionError("x", errno=errno.EPERM), StorageError, "profile rbd"),
        (rados.PermissionDeniedError("x", errno=errno.EACCES), StorageError, "profile rbd"),
        (rados.TimedOut("x", errno=errno.ETIMEDOUT), StorageError, "ceph -s"),
        (rados.ConnectionShutdown("x", errno=errno.ESHUTDOWN), StorageError, "blocklist"),
        (rados.OSError("x", errno=errno.EOPNOTSUPP), StorageError, "erasure-coded"),
        (rados.NoData("x", errno=errno.ENODATA), StorageError, "no data"),
        (rados.Error("something\nelse."), StorageError, "something else"),
        (rados.LogicError("odd"), StorageError, "odd"),
    ],
)
def test_an_error_becomes_one_sentence_of_its_kind(error: Exception, kind: type[StorageError], word: str) -> None:
    with pytest.raises(StorageError) as raised, told("do it"):
        raise error
    assert raised.type is kind
    text = raised.value.message
    assert text.startswith("Ceph could not do it: ")
    assert text.endswith(".")
    assert ". " not in text
    assert "[errno" not in text
    assert word in text
    assert raised.value.facts["errno"] == (getattr(error, "errno", None) or 0)


def test_other_errors_pass() -> None:
    with pytest.raises(KeyError), told("do it"):
        raise KeyError


def test_the_key_is_in_no_representation() -> None:
    assert "secret" not in repr(Access(("a:1",), "u", "secret"))


def test_missing_bindings_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceph, "rados", None)
    with pytest.raises(MissingRequirement, match="python3-rados") as raised:
        Cluster(Access(("a:1",), "u", ""))
    assert raised.value.facts["packages"] == ["python3-rados", "python3-rbd"]


@contextmanager
def listening(greeting: bytes) -> Iterator[str]:
    """Something that sends this to whoever connects."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> None:
            connection, _address = server.accept()
            with connection:
                connection.sendall(greeting)

        thread = threading.Thread(target=greet, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        thread.join(10)


@pytest.mark.parametrize(
    ("greeting", "word"), [(b"ceph v2\n", "key is wrong"), (b"ceph v027", "key is wrong"), (b"SSH-2.0", "within 5 s")]
)
def test_a_monitor_that_answers_and_lets_nobody_in_is_told_from_one_that_does_not(greeting: bytes, word: str) -> None:
    with listening(greeting) as host:
        error = ceph._unreachable(Access((host,), "u", "k"), 5, rados.TimedOut("x", errno=errno.ETIMEDOUT))
    assert word in error.message
    assert host in error.message


@pytest.mark.parametrize("host", ["127.0.0.1:1", "", "127.0.0.1", "[::1]:x", "a:b:c"])
def test_what_does_not_listen_does_not_answer(host: str) -> None:
    assert not ceph._answers(host)


def test_changes_are_joined_as_they_stand() -> None:
    one, two = Change({"a": "1"}, {"a": "2"}, ("x",)), Change({"b": ""}, {"b": "3"}, ("y", "z"))
    assert joined([one, two]) == Change({"a": "1", "b": ""}, {"a": "2", "b": "3"}, ["x", "y", "z"])


def test_a_lock_is_asked_for_in_the_words_of_the_class() -> None:
    locks = rados_locks.RadosLocks(None, "l.", 1, 0.25)
    data = locks._request("name", flags=1)
    cookie = locks._cookie.encode()
    fields = b"".join(
        [
            *(struct.pack("<I", 4), b"name", b"\1"),  # name, exclusive
            *(struct.pack("<I", len(cookie)), cookie, struct.pack("<I", 0), struct.pack("<I", 0)),
            *(struct.pack("<II", 2, 500_000_000), b"\1"),  # 2.5 s, may renew
        ]
    )
    assert data == struct.pack("<BBI", 1, 1, len(fields)) + fields


def holders(*ends: tuple[int, int], more: bytes = b"") -> bytes:
    """A reply to get_info. Parts that we do not read have lengths that no version of ours knows."""
    data = struct.pack("<I", len(ends))
    for number, (seconds, nanoseconds) in enumerate(ends):
        client = b"c" * (20 + number)
        info = struct.pack("<II", seconds, nanoseconds) + b"address"
        data += struct.pack("<BBI", 1, 1, len(client)) + client + struct.pack("<BBI", 9, 1, len(info)) + info
    return struct.pack("<BBI", 2, 1, len(data) + len(more)) + data + more


def test_a_reply_tells_who_holds_a_lock_for_how_long() -> None:
    assert rados_locks._lasts_until(holders()) is None
    assert rados_locks._lasts_until(holders((7, 5))) == 7_000_000_005
    assert rados_locks._lasts_until(holders((0, 0))) == 0
    assert rados_locks._lasts_until(holders((7, 5), (9, 9), more=b"novel")) == 7_000_000_005


def test_a_reply_tells_the_names_of_locks() -> None:
    names = struct.pack("<I", 2) + struct.pack("<I", 1) + b"a" + struct.pack("<I", 3) + b"b\xffc"
    reply = struct.pack("<BBI", 1, 1, len(names)) + names
    assert rados_locks._texts(reply) == ["a", "b�c"]
    assert rados_locks._texts(struct.pack("<BBI", 1, 1, 4) + struct.pack("<I", 0)) == []
