# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""New volumes in several pools, filled from one read.

Each volume is written by a thread of its own, so that the slowest pool sets the pace. A pool that fails is left out
from then on, and tells its own error; the others get what they were promised.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Union

from .._ground.contents import Content, Means
from .._ground.digest import Buffer
from .._ground.errors import BadInput, SourceError, StorageError, UnsafeImage
from .._ground.intake import Sink
from .._ground.ops import Facts
from .._ground.work import Lane
from .._records.types import Volume

Filled = Union[Facts, Exception]
"""What a fill came to: its facts, or its error."""
_OF_THE_SOURCE = (BadInput, SourceError, UnsafeImage)


def fill_together(wanted: Sequence[tuple[Any, Volume]], content: Content) -> list[Filled]:
    """Fill a new volume of each backend with ``content``; gives what each fill came to, in order."""
    parts = [_Part(backend, volume) for backend, volume in wanted]
    open_parts = [part for part in parts if part.open()]
    if not open_parts:
        return [part.filled for part in parts]
    company = _Company(open_parts)
    try:
        facts = content.pour([_Lane(part, company) for part in open_parts], company.means())
    except (StorageError, OSError) as error:
        for part in open_parts:
            part.close(error)
        if not isinstance(error, _OF_THE_SOURCE) and not any(part.failed for part in open_parts):
            return [part.alone(content) for part in parts]  # a program wrote, and does not say to whom it could not
    else:
        for number, part in enumerate(open_parts):
            part.close(None)
            part.facts = _share(facts, open_parts, number)
    return [part.filled for part in parts]


def _share(facts: Facts, parts: Sequence[_Part], number: int) -> Facts:
    """The facts of one of several volumes. What was read counts for the first; what a program wrote, and nobody
    counted, for the one whose volume it can have written."""
    written = parts[number].written
    if parts[number].is_local and not written:
        written = facts.get("bytes_written", 0) - sum(part.written for part in parts)
    read = facts.get("bytes_read", 0) if number == 0 else 0
    return {**facts, "bytes_read": read, "bytes_written": written}


class _Part:
    """One volume of several."""

    def __init__(self, backend: Any, volume: Volume) -> None:
        self._backend, self._volume = backend, volume
        self._filling = backend.filling(volume)
        self._error: Exception | None = None
        self.facts: Facts = {}
        self.failed: Exception | None = None
        """What kept this volume alone from being written."""
        self.written = 0

    def open(self) -> bool:
        """Make the volume; tells whether that worked."""
        try:
            self.sink, self.means = self._filling.__enter__()
        except (StorageError, OSError) as error:
            self._error = error
            return False
        self.lane = Lane()
        return True

    @property
    def is_local(self) -> bool:
        """Whether a program can write to it."""
        return self.sink.path is not None

    def close(self, error: Exception | None) -> None:
        """Let go of the volume, which is of no use after its own error, or ``error``."""
        self.lane.close()
        error = self.failed or error
        try:
            if error is None:
                self._filling.__exit__(None, None, None)
            elif not self._filling.__exit__(type(error), error, error.__traceback__):
                self._error = error
        except (StorageError, OSError) as raised:
            self._error = raised

    def alone(self, content: Content) -> Filled:
        """Fill it by itself, after a try in company failed."""
        try:
            self._backend.remove(self._volume)
            facts: Facts = self._backend.fill(self._volume, content)
        except (StorageError, OSError) as error:
            return error
        return facts

    @property
    def filled(self) -> Filled:
        """What the fill came to."""
        return self._error or self.facts


class _Company:
    """All volumes that one content is poured into."""

    def __init__(self, parts: Sequence[_Part]) -> None:
        self._parts = parts

    def means(self) -> Means:
        """What pouring may use: of each that there is one, of the first; preferably of one that is local."""
        means = next((part.means for part in self._parts if part.is_local), self._parts[0].means)
        inherit = [lock for part in self._parts for lock in part.means.inherit]
        return Means(means.runner, means.staging, self._beat, inherit)

    def _beat(self) -> None:
        for part in self._parts:
            part.means.beat()

    def left_out(self, part: _Part, error: Exception) -> None:
        """Go on without ``part``; raises where nobody is left."""
        part.failed = part.failed or error
        if all(each.failed for each in self._parts):
            raise error


class _Lane:
    """A volume as a sink that takes its time in a thread of its own."""

    def __init__(self, part: _Part, company: _Company) -> None:
        self._part, self._company = part, company
        self._sink: Sink = part.sink
        self.path: str | None = part.sink.path

    def set_size(self, size: int) -> None:
        """See Sink. Done on return: a program may be the next to write, and the volume may have had no path before."""
        self._do(self._sink.set_size, size, wait=True)
        self.path = self._sink.path

    def write(self, offset: int, data: Buffer) -> None:
        """See Sink."""
        self._do(self._sink.write, offset, bytes(data))
        self._part.written += len(data)

    def sync(self) -> None:
        """See Sink."""
        self._do(self._sink.sync, wait=True)

    def _do(self, call: Any, *arguments: Any, wait: bool = False) -> None:
        if self._part.failed:
            return
        try:
            done = self._part.lane.do(call, *arguments)
            if wait:
                done.result()
        except (StorageError, OSError) as error:
            self._company.left_out(self._part, error)
