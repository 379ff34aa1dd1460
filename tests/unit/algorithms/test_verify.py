# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The names that verify goes by, and that every check it can report is documented."""

from __future__ import annotations

import pytest
import yaml

from ansible_collections.virt.storage.plugins.module_utils._algorithms.verify import (
    CHECKS,
    REPORTS,
    Finding,
    id_in,
    is_exposed,
)
from ansible_collections.virt.storage.plugins.module_utils._backends.file import CAPABILITIES
from ansible_collections.virt.storage.plugins.modules import disk_metadata

DISK, IMAGE = "web1+root+aaaaaaaaaaaa", "image+base+0123456789abcdef+aaaaaaaaaaaa"


@pytest.mark.parametrize(
    ("name", "id"),
    [
        (f"{DISK}.qcow2", DISK),
        (f".virt-storage/disks/{DISK}.raw", DISK),
        (f".virt-storage/images/{IMAGE}.raw", IMAGE),
        (f"{DISK}.raw", ""),
        (f"{DISK}.qcow2.bak", ""),
        (f"x/{DISK}.qcow2", ""),
        ("old.qcow2", ""),
        (".qcow2", ""),
        ("", ""),
    ],
)
def test_the_id_for_which_a_volume_was_named(name, id):
    assert id_in(CAPABILITIES, name) == id


def test_a_raw_disk_is_exposed_where_libvirt_refreshes():
    assert is_exposed(CAPABILITIES, "old.img")
    assert not is_exposed(CAPABILITIES, f".virt-storage/disks/{DISK}.raw")


def test_reports_are_no_faults():
    assert {code for code in CHECKS if not Finding(code, "").fails} == REPORTS


def test_every_check_is_documented():
    documented = yaml.safe_load(disk_metadata.DOCUMENTATION)["options"]["state"]["description"]
    assert [code for code in CHECKS if f"C({code})" not in " ".join(documented)] == []
