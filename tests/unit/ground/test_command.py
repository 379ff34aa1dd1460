# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The runner: what it refuses to start, what it gives to a program, and how it ends one."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ansible_collections.virt.storage.plugins.module_utils._ground.command import (
    INSPECTING,
    Limits,
    Runner,
    UnsafeCommand,
)
from ansible_collections.virt.storage.plugins.module_utils._ground.errors import (
    CommandFailed,
    MissingRequirement,
    OutOfSpace,
)

FREE = Limits(address_space=None)

GUESSING = [
    "info /a",
    "info --backing-chain -f qcow2 /a",
    "info -f qcow2 a.img",
    "info -f qcow2 json:{}",
    "info -f qcow2 nbd:localhost:10809",
    "info -f qcow2 file:/a",
    "info -fqcow2 /a",
    "info --image-opts file.filename=/a",
    "info --image-opts driver=qcow2,file.filename=/a",
    "info --image-opts driver=qcow2,file.driver=file,file.filename=a",
    "info --image-opts driver=qcow2,driver=raw",
    "check /a",
    "convert -O raw /a /b",
    "convert -f qcow2 /a /b",
    "convert -f qcow2 -O raw a /b",
    "convert -f qcow2 -O raw /a b",
    "convert -f qcow2 -O raw /a /b /c",
    "convert -f qcow2 -O qcow2 -o backing_file=/x /a /b",
    "convert -f qcow2 -O qcow2 -o compat=1.1,data_file=/x /a /b",
    "convert -f -O raw /a /b",
    "convert -f qcow2 -f raw -O raw /a /b",
    "create /a 1G",
    "create -f qcow2 -b /base /a",
    "create -f qcow2 -F raw -b base /a",
    "create -f qcow2 -F raw -b json:{} /a",
    "resize /a 1G",
    "resize -f raw --shrink /a 1G",
    "rebase -f qcow2 -b /b /a",
    "rebase -f qcow2 -F raw /a",
    "measure -O raw /a",
    "compare -f raw /a /b",
    "snapshot -l /a",
    "--version",
    "",
]

EXPLICIT = [
    "info -f qcow2 --output=json /a",
    "info --image-opts driver=qcow2,file.driver=file,file.filename=/a,,b",
    "check -f qcow2 -q /a",
    "convert -n --target-is-zero -f qcow2 -O raw -W -m 16 -t none /a /b",
    "convert --target-image-opts -n -f raw -O raw /a driver=raw,file.driver=rbd,file.pool=p,file.image=i",
    "create -f qcow2 /a 1G",
    "create -f qcow2 -F raw -b /base /a",
    "resize -f qcow2 /a 1G",
    "rebase -f qcow2 -F raw -u -b /b /a",
    "measure -O qcow2 --size 1G",
    "compare -f raw -F qcow2 /a /b",
]


@pytest.mark.parametrize("line", GUESSING)
def test_refuses_what_would_let_qemu_guess(line: str) -> None:
    ran: list[object] = []
    with pytest.raises(UnsafeCommand):
        Runner(lambda *what: ran.append(what)).run(["qemu-img", *line.split()], limits=INSPECTING)
    assert not ran


@pytest.mark.parametrize("line", EXPLICIT)
def test_explicit_calls_reach_the_program(line: str, tmp_path: Path) -> None:
    program = tmp_path / "qemu-img"
    program.write_text('#!/bin/sh\necho "$@"\n')
    program.chmod(0o755)
    assert Runner().run([str(program), *line.split()], limits=INSPECTING).out == line + "\n"


def test_an_emptied_backing_file_needs_no_format(tmp_path: Path) -> None:
    program = tmp_path / "qemu-img"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert Runner().run([str(program), "rebase", "-f", "qcow2", "-b", "", "/a"], limits=FREE).rc == 0


def test_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.setenv("LANGUAGE", "de")
    script = 'echo "$LC_ALL-$LANGUAGE-$EXTRA"; wc -c; ulimit -v; ulimit -t; ls /proc/self/fd | wc -l'
    descriptor = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(descriptor, True)
    limits = Limits(cpu_seconds=7, address_space=1 << 30)
    try:
        done = Runner().run(["sh", "-c", script], limits=limits, env={"EXTRA": "x"})
    finally:
        os.close(descriptor)
    # ls sees its three standard descriptors and the folder that it reads, and nothing of ours.
    assert done.out.split() == ["C--x", "0", str(1 << 20), "7", "4"]


def test_input_output_and_journal(tmp_path: Path) -> None:
    journal: list[tuple[list[str], int, float]] = []
    runner = Runner(lambda argv, rc, seconds: journal.append((list(argv), rc, seconds)))
    text = "x" * 300_000
    assert runner.run(["cat"], limits=FREE, input=text).out == text
    with open(tmp_path / "out", "wb") as target:
        assert runner.run(["sh", "-c", "echo hi; exit 3"], limits=FREE, stdout=target, ok=(0, 3)).rc == 3
    assert (tmp_path / "out").read_text() == "hi\n"
    assert [(argv[0], rc) for argv, rc, _unused in journal] == [("cat", 0), ("sh", 3)]


def test_failure_tells_the_last_line() -> None:
    with pytest.raises(CommandFailed) as caught:
        Runner().run(["sh", "-c", "echo noise >&2; echo 'it broke.' >&2; exit 9"], limits=FREE)
    assert caught.value.message == "sh failed with exit status 9: it broke."
    assert caught.value.facts == {"rc": 9, "stderr": "noise\nit broke.\n"}


def test_full_file_system() -> None:
    with pytest.raises(OutOfSpace):
        Runner().run(["sh", "-c", "echo 'write failed: No space left on device' >&2; exit 1"], limits=FREE)


def test_missing_program_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    path = "ansible_collections.virt.storage.plugins.module_utils._ground.command._SEARCH_PATH"
    monkeypatch.setattr(path, "/nonexistent")
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(MissingRequirement, match=r"qemu-utils \(Debian\) or qemu-img \(Red Hat\)"):
        Runner().run(["qemu-img", "info", "-f", "raw", "/a"], limits=FREE)


def test_output_is_bounded() -> None:
    with pytest.raises(CommandFailed) as caught:
        Runner().run(["sh", "-c", "yes error | head -c 3000000 >&2; echo end >&2; exit 1"], limits=FREE)
    assert len(caught.value.facts["stderr"]) <= 2000
    assert caught.value.message.endswith("end.")


def test_output_that_lost_its_beginning_is_not_given_to_anybody() -> None:
    whole = Runner().run(["head", "-c", str(16 << 20), "/dev/zero"], limits=FREE)
    assert len(whole.out) == 16 << 20
    with pytest.raises(CommandFailed, match=r"^head said more than the 16 MiB that are kept .*\.$"):
        Runner().run(["head", "-c", str((16 << 20) + 1), "/dev/zero"], limits=FREE)


def test_too_slow_is_stopped_with_its_children(tmp_path: Path) -> None:
    marker = tmp_path / "pid"
    started = time.monotonic()
    script = "sleep 60 & echo $! > %s; wait" % marker
    with pytest.raises(CommandFailed, match=r"longer than the 0\.4 seconds"):
        Runner().run(["sh", "-c", script], limits=Limits(wall_seconds=0.4, address_space=None))
    assert time.monotonic() - started < 10
    _until(lambda: _gone(int(marker.read_text())))  # a signal to a group reaches its last member in its own time


def test_too_much_processor_time() -> None:
    with pytest.raises(CommandFailed, match="used the 1 seconds of processor time"):
        Runner().run(["sh", "-c", "while :; do :; done"], limits=Limits(wall_seconds=30, cpu_seconds=1))


def test_beat_is_called_and_may_cancel(tmp_path: Path) -> None:
    class Cancelled(Exception):
        pass

    beats: list[float] = []

    def beat() -> None:
        beats.append(time.monotonic())
        if len(beats) == 3:
            raise Cancelled

    marker = tmp_path / "pid"
    with pytest.raises(Cancelled):
        Runner().run(["sh", "-c", "echo $$ > %s; sleep 60" % marker], limits=FREE, beat=beat)
    assert max(later - earlier for earlier, later in zip(beats, beats[1:])) < 1
    _until(lambda: _gone(int(marker.read_text())))  # a signal to a group reaches its last member in its own time


def test_child_of_a_killed_parent_keeps_the_lock(tmp_path: Path) -> None:
    """kill -9 of the process that runs a program leaves the program, and with it the lock that it inherited."""
    lock, marker = tmp_path / "lock", tmp_path / "pid"
    parent = os.fork()
    if parent == 0:  # pragma: no cover - it is killed
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        script = "echo $$ > %s.new; mv %s.new %s; sleep 60" % (marker, marker, marker)
        Runner().run(["sh", "-c", script], limits=FREE, pass_fds=[descriptor])
        os._exit(1)
    _until(marker.exists)
    os.kill(parent, 9)
    os.waitpid(parent, 0)
    child = int(marker.read_text())
    with open(lock, "rb") as handle:
        with pytest.raises(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.killpg(child, 9)
        _until(lambda: _gone(child))
        fcntl.flock(handle, fcntl.LOCK_EX)


def _gone(pid: int) -> bool:
    """Not running any more; a zombie that nobody has waited for yet counts as gone."""
    try:
        with open("/proc/%d/stat" % pid) as stat:
            return stat.read().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
