# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What befalls a task, other than its death: the file system is full, or fails altogether, from any of its calls on;
one call of it fails and no other; the clock of the host is set. It ends as it was asked to or says in a sentence what
is wrong; when that is mended, the same task again ends as it was asked to, and nothing acknowledged is lost.

``VIRT_STORAGE_FULL=1`` does it at every call, otherwise at a few.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta, timezone
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from contract.beds import mounted, program

from ansible_collections.virt.storage.plugins.module_utils._backends import perform

from .child import Befalls, Freeze, Lived, fine, run
from .freezing import sentences
from .pool_state import check
from .scenarios import MIB, NAMES, Sources, clear, scenarios
from .test_crash import FULL, Stage, converge, sources  # noqa: F401  # pylint: disable=unused-import

FAULTS = ("full", "shut down", "one error")
TRIED = tuple(itertools.product(NAMES, FAULTS)) if FULL else tuple(zip(NAMES, itertools.cycle(FAULTS)))
HOURS = 7 * 3600
SHUTDOWN = 0x8004587D
"""``FS_IOC_SHUTDOWN``: ext4 stops as it does when its disk fails, and its journal is not written out (2)."""
BALLAST = "ballast"
_open, _ioctl = os.open, fcntl.ioctl


class Place(Stage):
    """A pool on an ext4 of its own, in memory."""

    def __init__(self, image: Path, point: Path) -> None:
        super().__init__(point)
        self._image, self._point = image, point

    def fill_up(self) -> None:
        """Take all the space that is left."""
        descriptor = _open(self._point / BALLAST, os.O_WRONLY | os.O_CREAT, 0o600)
        for piece in (MIB, 4096):
            try:
                while True:
                    os.posix_fallocate(descriptor, os.fstat(descriptor).st_size, piece)
            except OSError as error:
                assert error.errno == errno.ENOSPC  # noqa: PT017 - this is no test of the error
        os.close(descriptor)

    def shut_down(self) -> None:
        """Have everything fail from now on."""
        descriptor = _open(self._point, os.O_RDONLY)
        _ioctl(descriptor, SHUTDOWN, struct.pack("I", 2))
        os.close(descriptor)

    def mend(self) -> None:
        """As an operator does: free space, mount anew."""
        program("umount", str(self._point))
        program("mount", "-o", "loop", str(self._image), str(self._point))
        (self._point / BALLAST).unlink(missing_ok=True)


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with ExitStack() as stack:
        image = Path(stack.enter_context(TemporaryDirectory(dir="/dev/shm")), "ext4.img")
        made = Place(image, stack.enter_context(mounted(image, 96 * MIB, "mkfs.ext4", "-q")))
        stack.callback(made.strike)
        yield made


def fail() -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.mark.parametrize(("name", "fault"), TRIED)
def test_what_a_file_system_does_is_told_and_mended(
    name: str,
    fault: str,
    place: Place,
    sources: Sources,  # noqa: F811
) -> None:
    scenario = scenarios(sources, place.root)[name]
    what = {"full": place.fill_up, "shut down": place.shut_down, "one error": fail}[fault]
    for number in itertools.count(1) if FULL else (4,):
        place.set(scenario)
        program("sync", "--file-system", place.root)  # others' files, too, were there for long
        first = run(place.root, scenario.act, Befalls("call", number, what))
        try:
            sentences(first)
            place.mend()
            converge(place, scenario, first)
        except AssertionError as error:
            raise AssertionError(f"{fault} at call {number}: {error}; it said {first.errors}") from error
        if not first.struck:
            break
    assert first.struck or number > 1, "nothing befell it"


@pytest.mark.parametrize("hours", [HOURS, -HOURS], ids=["forward", "back"])
@pytest.mark.parametrize("name", NAMES if FULL else ["clone three", "delete, then reclaim"])
def test_a_clock_that_is_set_changes_nothing(
    name: str,
    hours: int,
    place: Place,
    sources: Sources,  # noqa: F811
) -> None:
    scenario = scenarios(sources, place.root)[name]
    for number in itertools.count(1):
        place.set(scenario)
        first = fine(run(place.root, scenario.act, Befalls("decision", number, lambda: set_clock(hours))))
        converge(place, scenario, first)
        if not first.struck or not FULL:
            break
    assert first.struck or number > 1, "nothing befell it"


def test_a_clock_that_is_set_back_while_one_waits_for_the_frozen_is_not_waited_for(
    place: Place,
    sources: Sources,  # noqa: F811
) -> None:
    scenario = scenarios(sources, place.root)["fill from raw"]
    place.set(scenario)
    set_back = Befalls("before", 8, lambda: set_clock(-HOURS))
    rivals: list[Lived] = []

    def meanwhile() -> None:
        rivals.append(fine(run(place.root, scenario.act, set_back)))

    first = run(place.root, scenario.act, Freeze("decision", 1), meanwhile=meanwhile)
    assert first.frozen
    assert rivals[0].struck
    fine(run(place.root, clear))  # of the two images that were made, one
    check(place.root, scenario.wanted, scenario.images)


def set_clock(seconds: int) -> None:
    """The time of day is another in this process, from now on."""
    now = time.time

    class Set(datetime):
        @classmethod
        def now(cls, tz: timezone | None = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) + timedelta(seconds=seconds)

    time.time = lambda: now() + seconds
    perform.datetime = Set  # type: ignore[misc]
