# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is synced, and that errors are told. That it survives a power loss is shown elsewhere, with machines."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from ansible_collections.virt.storage.plugins.module_utils._ground import durable


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What fsync and syncfs are called on, by path."""
    calls: list[str] = []

    def note(kind: str) -> object:
        def call(descriptor: int) -> int:
            calls.append(f"{kind} {os.path.basename(os.readlink(f'/proc/self/fd/{descriptor}'))}")
            return 0

        return call

    class Libc:
        syncfs = staticmethod(note("syncfs"))

    monkeypatch.setattr(os, "fsync", note("fsync"))
    monkeypatch.setattr(durable, "_LIBC", Libc)
    return calls


def files(folder: Path, count: int) -> list[str]:
    paths = [folder / f"f{number}" for number in range(count)]
    for path in paths:
        path.write_text("x")
    return [str(path) for path in paths]


def test_few_files_are_synced_one_by_one(tmp_path: Path, synced: list[str]) -> None:
    durable.sync_files([])
    durable.sync_files(files(tmp_path, 3))
    assert synced == ["fsync f0", "fsync f1", "fsync f2"]


def test_many_files_share_one_sync(tmp_path: Path, synced: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durable, "_syncfs_tells_errors", lambda: True)
    durable.sync_files(files(tmp_path, durable.FEW + 1))
    assert synced == [f"syncfs {tmp_path.name}"]


def test_not_where_the_kernel_would_hide_an_error(
    tmp_path: Path, synced: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durable, "_syncfs_tells_errors", lambda: False)
    durable.sync_files(files(tmp_path, durable.FEW + 1))
    assert len(synced) == durable.FEW + 1


@pytest.mark.parametrize(
    ("release", "tells"),
    [
        ("5.7.19", False),
        ("5.8.0-1-amd64", True),
        ("4.18.0-553.el8", False),
        ("6.1", True),
        ("odd", False),
        ("6.x", False),
    ],
)
def test_which_kernels_tell(release: str, tells: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    class Uname:
        pass

    answer = Uname()
    answer.release = release  # type: ignore[attr-defined]
    monkeypatch.setattr(os, "uname", lambda: answer)
    assert durable._syncfs_tells_errors() is tells


def test_a_failed_sync_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Libc:
        @staticmethod
        def syncfs(descriptor: int) -> int:
            durable.ctypes.set_errno(errno.EIO)
            return -1

    monkeypatch.setattr(durable, "_LIBC", Libc)
    with pytest.raises(OSError, match="Input/output") as caught:
        durable.sync_file_system(str(tmp_path))
    assert caught.value.filename == str(tmp_path)


def test_real_syncs(tmp_path: Path) -> None:
    durable.sync_files(files(tmp_path, durable.FEW * 2))
    durable.sync_folder(str(tmp_path))
    durable.sync_file_system(str(tmp_path))
    for missing in (durable.sync_folder, durable.sync_file_system):
        with pytest.raises(FileNotFoundError):
            missing(str(tmp_path / "missing"))
    with pytest.raises(NotADirectoryError):
        durable.sync_folder(files(tmp_path, 1)[0])
