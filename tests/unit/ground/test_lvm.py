# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What LVM says of a failure, and what that is to us. Real failures are tried in the machine (tests/lvm)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from ansible_collections.virt.storage.plugins.module_utils._ground.command import Completed, Runner
from ansible_collections.virt.storage.plugins.module_utils._ground.errors import CommandFailed, OutOfSpace
from ansible_collections.virt.storage.plugins.module_utils._ground.lvm import Lvm

POOL = {
    "lv_uuid": "u",
    "lv_name": "pool",
    "lv_size": "1048576",
    "lv_layout": "thin,pool",
    "lv_attr": "twi-aotz--",
    **dict.fromkeys(("lv_tags", "lv_permissions", "lv_active", "lv_device_open", "lv_time", "origin", "pool_lv"), ""),
    **dict.fromkeys(("lv_kernel_major", "lv_kernel_minor"), "-1"),
    **dict.fromkeys(("data_percent", "metadata_percent", "lv_health_status", "lv_check_needed"), ""),
}


class Says(Runner):
    """LVM that shows one row, or fails with these words."""

    def __init__(self, row: dict[str, str] | None = None, err: str = "") -> None:
        super().__init__()
        self.row, self.err = row, err

    def run(self, argv: Sequence[str], **options: Any) -> Completed:
        if self.err:
            raise CommandFailed("it failed", stderr=self.err)
        return Completed(0, json.dumps({"report": [{"lv": [self.row]}]}), "")


@pytest.mark.parametrize(
    ("health", "check", "why"),
    [
        ("", "", ""),
        ("", "unknown", ""),
        ("out_of_data", "", ""),
        ("metadata_read_only", "check needed", "metadata read only"),
        ("", "check needed", "check needed"),
        ("failed", "unknown", "failed"),
    ],
)
def test_a_thin_pool_that_takes_no_writes_is_told_from_one_that_is_full(health: str, check: str, why: str) -> None:
    (pool,) = Lvm(Says({**POOL, "lv_health_status": health, "lv_check_needed": check})).volumes("vg0")
    assert pool.thin_pool
    assert why in pool.ailment
    assert bool(pool.ailment) == bool(why)


def test_what_befell_a_program_and_is_none_of_lvms_own_words_is_told() -> None:
    class TooLong(Runner):
        def run(self, argv: Sequence[str], **options: Any) -> Completed:
            raise CommandFailed("lvm was stopped: it took too long.", rc=None, stderr="")

    with pytest.raises(CommandFailed, match="it took too long"):
        Lvm(TooLong()).volumes("vg0")


@pytest.mark.parametrize(
    ("err", "kind", "said"),
    [
        ("  WARNING: x\n  Insufficient free space: 4 extents needed.\n", OutOfSpace, "4 extents needed"),
        (
            """  WARNING: Thin pool vg0/pool needs check has read-only metadata.
  Cannot create new thin volume, free space in thin pool vg0/pool reached threshold.
""",
            CommandFailed,
            "needs check .* guide",
        ),
        ('  Volume group "vg0" not found\n', CommandFailed, 'failed: Volume group "vg0" not found.$'),
        ("", CommandFailed, "gave no reason"),
    ],
)
def test_a_failure_is_told_by_what_it_came_from(err: str, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said):
        Lvm(Says(err=err or " \n")).change("lvcreate", "vg0")
