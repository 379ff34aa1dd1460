# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""The omaps of RADOS objects: sorted keys with values, changed in atomic, guarded steps.

What is changed is on the disks of all replicas when the call returns, and whoever reads afterwards sees it: one OSD
orders all that is done to an object, and a read waits for the writes before it to be on disk everywhere.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from .ceph import told
from .errors import LostMetadata, NotFound

try:
    import rados  # type: ignore[import-not-found,import-untyped,unused-ignore]
except ImportError:
    rados = None

PAGE = 4096
"""The most keys that one reading asks for; an OSD gives fewer when it is told to (1,024 unless configured)."""


@dataclass(frozen=True)
class Change:
    """A change of one omap, done as a whole or not at all: the values that keys must have (an empty one stands for a
    key that is not there), the values that keys get, and keys that go."""

    was: Mapping[str, str] = field(default_factory=dict)
    now: Mapping[str, str] = field(default_factory=dict)
    without: Collection[str] = ()


def joined(changes: Iterable[Change]) -> Change:
    """All of them as one. Only for changes of different keys: a guard sees what was before any of them."""
    was: dict[str, str] = {}
    now: dict[str, str] = {}
    without: list[str] = []
    for change in changes:
        was.update(change.was)
        now.update(change.now)
        without.extend(change.without)
    return Change(was, now, without)


class Omaps:
    """The omaps of a pool, through an open ``rados.Ioctx``. For any number of threads."""

    def __init__(self, ioctx: Any) -> None:
        self._ioctx = ioctx

    def items(self, name: str, prefix: str) -> Iterator[tuple[str, bytes]]:
        """The keys of an object that begin with ``prefix``, sorted, without it, and their values.

        Not atomic over many keys, but a key that is there all the time is never left out."""
        after = ""
        while True:
            with _told("read", name), rados.ReadOpCtx() as op:
                page, _unused = self._ioctx.get_omap_vals(op, after, prefix, PAGE)
                self._ioctx.operate_read_op(op, name)
                items = _collected(page, name)
            if not items:
                return  # an OSD does not tell these bindings whether there is more
            yield from ((key[len(prefix) :], value) for key, value in items)
            after = items[-1][0]

    def values(self, name: str, keys: Sequence[str]) -> dict[str, bytes]:
        """The values of those of ``keys`` that an object has."""
        with _told("read", name), rados.ReadOpCtx() as op:
            found, _unused = self._ioctx.get_omap_vals_by_keys(op, tuple(keys))
            self._ioctx.operate_read_op(op, name)
            return dict(_collected(found, name))

    def change(self, name: str, change: Change) -> bool:
        """Do it; False where a key had another value than it must have, and then nothing was changed."""
        return self.change_all([(name, change)])[0]

    def change_all(self, changes: Sequence[tuple[str, Change]]) -> list[bool]:
        """Do several changes, those of one object in this order. Raises the first error when all have ended."""
        with told("write"):
            under_way = [self._begun(name, change) for name, change in changes]
        for completion in under_way:
            completion.wait_for_complete()
        outcomes = []
        for (name, _change), completion in zip(changes, under_way):
            code = -completion.get_return_value()
            with _told("write", name):
                if code not in (0, errno.ECANCELED):
                    raise rados.OSError(os.strerror(code), errno=code)
            outcomes.append(code == 0)
        return outcomes

    def _begun(self, name: str, change: Change) -> Any:
        with rados.WriteOpCtx() as op:
            for key, value in change.was.items():
                op.omap_cmp(key, value)
            if change.now:
                values = tuple(value.encode() for value in change.now.values())
                self._ioctx.set_omap(op, tuple(change.now), values)
            if change.without:
                self._ioctx.remove_omap_keys(op, tuple(change.without))
            return self._ioctx.operate_aio_write_op(op, name)


def _collected(items: Any, name: str) -> list[tuple[str, bytes]]:
    """The items of an iterator of the bindings, which stumble over keys that are no text."""
    try:
        return [(key, value or b"") for key, value in items]
    except UnicodeDecodeError:
        raise LostMetadata(
            f"The object {name} has a key that is no text, which virt.storage never makes: remove the key."
        ) from None


@contextmanager
def _told(doing: str, name: str) -> Iterator[None]:
    """As ``told``; but these objects are made once and never removed, so one that is missing is a loss."""
    try:
        with told(f"{doing} the object {name}"):
            yield
    except NotFound as error:
        raise LostMetadata(
            f"The object {name}, which holds records, is missing from the Ceph pool: put an empty one there with "
            f"'rados create {name}', and restore the records that it held with disk_metadata state=rebuilt."
        ) from error
