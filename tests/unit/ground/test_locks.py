# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Locks as files: exclusion, beats, inheritance, and files that somebody discards."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from pathlib import Path

import pytest

from ansible_collections.virt.storage.plugins.module_utils._ground.locks import FileLocks

BEAT = 0.02


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(tmp_path)


def test_one_holder_at_a_time_in_one_process_or_two(folder: str) -> None:
    one, two = FileLocks(folder, BEAT), FileLocks(folder, BEAT)
    assert one.hold("l")
    assert not one.hold("l")
    assert not two.hold("l")
    assert len(one.inherited()) == 1
    assert two.inherited() == ()
    one.release("l")
    one.release("l")
    assert two.hold("l")
    two.release("l")


def test_a_pulse_is_none_without_a_holder_and_goes_on_with_one(folder: str) -> None:
    one, two = FileLocks(folder, BEAT), FileLocks(folder, BEAT)
    assert two.pulse("l") is None
    assert not Path(folder, "l").exists(), "looking makes nothing"
    one.hold("l")
    beats = {two.pulse("l")}
    deadline = time.monotonic() + 5
    while len(beats) < 3:
        assert time.monotonic() < deadline
        beats.add(two.pulse("l"))
    assert None not in beats
    one.release("l")
    assert two.pulse("l") is None


def test_a_new_holder_never_shows_the_beat_of_the_last(folder: str) -> None:
    """Who waits for a lease judges by the beat: a new holder must not look like one that stands still."""
    one, two, watcher = (FileLocks(folder, 3600) for _unused in range(3))
    one.hold("l")
    before = watcher.pulse("l")
    one.release("l")
    two.hold("l")
    assert watcher.pulse("l") != before
    two.release("l")


@pytest.mark.parametrize("content", [b"", b"rubbish", b"\0" * 64, b"9" * 64])
def test_a_damaged_beat_is_no_obstacle(folder: str, content: bytes) -> None:
    Path(folder, "l").write_bytes(content)
    one, two = FileLocks(folder, BEAT), FileLocks(folder, BEAT)
    assert two.pulse("l") is None
    assert one.hold("l")
    assert two.pulse("l") is not None
    one.release("l")


def test_looking_does_not_let_go(folder: str) -> None:
    """Classic POSIX locks go when any descriptor of the file is closed; these do not."""
    one, two = FileLocks(folder, BEAT), FileLocks(folder, BEAT)
    one.hold("l")
    assert one.pulse("l") is not None
    os.close(os.open(Path(folder, "l"), os.O_RDONLY))
    assert not two.hold("l")
    one.release("l")


def test_a_child_holds_on_what_it_inherited(folder: str) -> None:
    one, two = FileLocks(folder, BEAT), FileLocks(folder, BEAT)
    one.hold("l")
    with subprocess.Popen(["sleep", "60"], pass_fds=one.inherited()) as child:
        one.release("l")
        assert not two.hold("l")
        child.kill()
    assert two.hold("l")
    two.release("l")


def test_other_children_do_not(folder: str) -> None:
    one, two = FileLocks(folder, BEAT), FileLocks(folder, BEAT)
    one.hold("l")
    with subprocess.Popen(["sleep", "60"], close_fds=False) as child:
        one.release("l")
        assert two.hold("l")
        child.kill()
    two.release("l")


def test_a_lock_that_is_discarded_while_it_is_taken_is_taken_on_the_file_that_others_see(folder: str) -> None:
    one, two = FileLocks(folder, BEAT), FileLocks(folder, BEAT)
    stop = threading.Event()

    def discard() -> None:
        while not stop.is_set():
            two.discard("l")

    thread = threading.Thread(target=discard)
    thread.start()
    try:
        for _turn in range(200):
            assert one.hold("l")
            one.release("l")
    finally:
        stop.set()
        thread.join()
    assert one.hold("l")
    assert two.pulse("l") is not None
    one.release("l")


def test_links_are_not_followed(folder: str, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    target.mkdir()
    Path(folder, "l").symlink_to(target / "made")
    locks = FileLocks(folder, BEAT)
    for use in (locks.hold, locks.pulse):
        with pytest.raises(OSError, match="Too many levels"):
            use("l")
    assert not (target / "made").exists()


def test_names_and_discarding(folder: str) -> None:
    locks = FileLocks(folder, BEAT)
    locks.hold("a")
    locks.release("a")
    assert locks.names() == ["a"]
    locks.discard("a")
    locks.discard("a")
    assert locks.names() == []
