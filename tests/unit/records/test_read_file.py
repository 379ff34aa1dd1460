# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files of the store that another host replaces while they are read."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from ansible_collections.virt.storage.plugins.module_utils._records.folder_files import STALE_TRIES, read_file


@pytest.mark.parametrize("times", [1, STALE_TRIES, STALE_TRIES + 1])
def test_a_file_that_is_stale_is_looked_for_again(times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "use"
    path.write_bytes(b"{}")
    left, read = [errno.ESTALE] * times, os.read

    def stale(descriptor: int, size: int) -> bytes:
        if left:
            raise OSError(left.pop(), "Stale file handle")
        return read(descriptor, size)

    monkeypatch.setattr(os, "read", stale)
    if times <= STALE_TRIES:
        assert read_file(str(path)) == b"{}"
    else:
        with pytest.raises(OSError, match="Stale"):
            read_file(str(path))


def test_another_error_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_file(str(tmp_path / "nothing"))
