# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Ten thousand disks that are as they should be, beside a module that takes the same arguments and does nothing.

./dev bench noop [DISKS]
"""

from __future__ import annotations

import sys

from measure import Row, empty_module, module, pool, show, turns


def main(count: int) -> bool:
    with pool() as (name, _path):
        disks = [{"instance": f"vm{number}", "image": "base", "size": "10G"} for number in range(count)]
        module("instance_disk", pool=name, disks=disks)

        def ours(_turn: int) -> None:
            if module("instance_disk", pool=name, disks=disks)["changed"]:
                raise SystemExit("instance_disk found something to do")

        seconds = turns({"ours": ours, "empty": lambda _turn: empty_module(pool=name, disks=disks)})
    on_top = seconds["ours"] - seconds["empty"]
    limit = 2.0 * count / 10000
    rows = [
        Row(f"{count} disks, nothing to do, the whole module", seconds["ours"], seconds["empty"]),
        Row("  on top of an empty module", on_top, None, f"<= {limit} s", on_top <= limit),
    ]
    return show(rows)


if __name__ == "__main__":
    sys.exit(0 if main(int(sys.argv[1]) if len(sys.argv) > 1 else 10000) else 1)
