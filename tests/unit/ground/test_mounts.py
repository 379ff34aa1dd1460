# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ansible_collections.virt.storage.plugins.module_utils._ground import block_device, mounts
from ansible_collections.virt.storage.plugins.module_utils._ground.mounts import Mount, mounted_at

TABLE = r"""
22 1 252:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard
40 22 0:40 / /srv/with\040space rw,nosuid shared:9 - nfs4 nas:/ex\040port rw,vers=4.2,hard,addr=10.0.0.1
41 22 0:41 / /srv/twice rw master:1 propagate_from:2 - tmpfs first rw
42 22 0:42 / /srv/twice rw - nfs4 nas:/second rw,vers=4.1
"""


def test_the_options_of_the_file_system_are_found_by_its_mount_point():
    found = mounted_at("/srv/with space", TABLE.strip())
    assert found == Mount("/srv/with space", "nfs4", "nas:/ex port", "rw,vers=4.2,hard,addr=10.0.0.1")


def test_the_uppermost_mount_counts():
    found = mounted_at("/srv/twice", TABLE.strip())
    assert found is not None
    assert found.options == "rw,vers=4.1"


def test_a_folder_below_a_mount_is_not_mounted():
    assert mounted_at("/srv", TABLE.strip()) is None
    assert mounted_at("/proc") is not None


@pytest.mark.parametrize("end", "\r\v\f\x1c\x1d\x1e\x85\u2028\u2029", ids=ascii)
def test_what_ends_a_line_for_python_may_stand_in_a_mount_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """Any user may mount at such a name, with fusermount."""
    table, odd = tmp_path / "mountinfo", f"/home/u/a{end}b"
    lines = [f"50 22 0:50 / {odd} rw - fuse s rw", "51 22 7:99 / /srv/after rw - ext4 /dev/x rw", ""]
    table.write_bytes("\n".join(lines).encode())
    for module in (mounts, block_device):
        monkeypatch.setattr(module, "MOUNTS", str(table))
    assert mounted_at(odd) == Mount(odd, "fuse", "s", "rw")
    assert mounted_at("/srv/after") is not None
    number = os.makedev(7, 99)
    assert "the mount at /srv/after" in block_device.users_of_devices([number])[number]
