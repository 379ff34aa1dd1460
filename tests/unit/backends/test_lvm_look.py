# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How often LVM is asked, which needs no LVM to be counted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ansible_collections.virt.storage.plugins.module_utils._backends.lvm_group import Group
from ansible_collections.virt.storage.plugins.module_utils._backends.lvm_thick import ThickVolumes
from ansible_collections.virt.storage.plugins.module_utils._ground.command import Completed, Runner
from ansible_collections.virt.storage.plugins.module_utils._records.types import Volume


class Listing(Runner):
    """LVM that shows ``volumes``, by UUID, and counts how often."""

    def __init__(self, volumes: dict[str, str]) -> None:
        super().__init__()
        self.volumes, self.asked = volumes, 0

    def run(self, argv: Sequence[str], **options: Any) -> Completed:
        self.asked += 1
        fields = argv[argv.index("-o") + 1].split(",")
        rows = [
            {**dict.fromkeys(fields, "0"), "lv_uuid": uuid, "lv_name": name, "lv_layout": "linear", "lv_tags": ""}
            for uuid, name in self.volumes.items()
        ]
        return Completed(0, json.dumps({"report": [{"lv": rows}]}), "")


def test_where_adopted_volumes_are_is_asked_once_for_all() -> None:
    lvm = Listing({f"uuid{number}": f"disk{number}" for number in range(50)})
    pool = ThickVolumes(Group("vg0", 1 << 40, 1 << 39, 4 << 20, 1000, False, "", None), lvm)
    found = [pool.location(Volume(f"called{number}", "raw", f"uuid{number}")).name for number in range(50)]
    assert found == [f"/dev/vg0/disk{number}" for number in range(50)]
    assert lvm.asked == 1
    lvm.volumes["uuid0"] = "renamed"
    pool.inventory()
    assert pool.location(Volume("disk0", "raw", "uuid0")).name == "/dev/vg0/renamed"
