# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

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
