# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who uses a file: by any name, by any kind of lock, and guests that are not running, too."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ansible_collections.virt.storage.plugins.module_utils._ground import usage
from ansible_collections.virt.storage.plugins.module_utils._ground.usage import users_of_files


@contextmanager
def somebody(code: str) -> Iterator[int]:
    """Another process that runs ``code`` and then stays."""
    argv = [sys.executable, "-c", f"import fcntl\n{code}\nprint(flush=True)\nimport time\ntime.sleep(60)"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process.pid
        finally:
            process.kill()


@pytest.fixture
def path(tmp_path: Path) -> str:
    made = tmp_path / "volume"
    made.write_bytes(bytes(4096))
    return str(made)


def test_nobody(path: str) -> None:
    assert users_of_files([path, path + ".missing"]) == {path: []}
    assert users_of_files([]) == {}


def test_oneself_is_nobody(path: str) -> None:
    with open(path, "rb"):
        assert users_of_files([path]) == {path: []}


def test_who_has_it_open_under_any_name(path: str) -> None:
    os.link(path, path + ".other")
    with somebody(f"f = open({path + '.other'!r})") as pid:
        found = users_of_files([path, path + ".other"])
    assert [str(pid) in users[0] for users in found.values()] == [True, True]


def test_who_has_it_open_though_its_name_is_gone(path: str) -> None:
    os.link(path, path + ".other")
    with somebody(f"f = open({path!r})\nimport os\nos.unlink({path!r})") as pid:
        users = users_of_files([path + ".other"])[path + ".other"]
        assert str(pid) in users[0]


@pytest.mark.parametrize("kind", ["LOCK_SH", "LOCK_EX"])
def test_who_locks_bytes_of_it(path: str, kind: str) -> None:
    """A guest's qemu locks bytes behind 100, also where nothing of it can be seen in /proc: on another host."""
    with somebody(f"f = open({path!r}, 'r+b')\nfcntl.lockf(f, fcntl.{kind}, 1, 200)"):
        users = users_of_files([path])[path]
    assert any("locks it" in user for user in users)


def test_a_link_or_a_pipe_is_not_waited_for(tmp_path: Path, path: str) -> None:
    fifo, link = tmp_path / "fifo", tmp_path / "link"
    os.mkfifo(fifo)
    link.symlink_to(path)
    began = time.monotonic()
    assert users_of_files([str(fifo)]) == {str(fifo): []}
    with pytest.raises(OSError, match="Too many levels"):
        users_of_files([str(link)])
    assert time.monotonic() - began < 2


def test_what_cannot_be_asked_is_an_error(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(*arguments: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "fcntl", deny)
    with pytest.raises(OSError, match="No locks"):
        users_of_files([path])


@pytest.mark.parametrize("name", [b"a\rb", b"a\xffb", b"a\n"])
def test_the_file_of_a_loop_device_may_be_called_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: bytes
) -> None:
    backing, told = os.path.join(os.fsencode(tmp_path), name), tmp_path / "backing_file"
    with open(backing, "wb"):
        told.write_bytes(backing + b"\n")
    monkeypatch.setattr(usage, "open", lambda _path, *how: told.open(*how), raising=False)
    status = os.stat(backing)
    assert usage._backing("loop0") == (status.st_dev, status.st_ino)
