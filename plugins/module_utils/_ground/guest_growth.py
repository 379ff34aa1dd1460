# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""Growing a volume that guests have."""

from __future__ import annotations

from collections.abc import Sequence

from .libvirt_host import Host, Use
from .ops import DONE, Outcome, refused


def bar_to_growth(uses: Sequence[Use]) -> str:
    """Why a volume with these ``uses`` cannot grow, as a clause; empty where it can.

    Of a chain, libvirt grows only the top.
    """
    for use in uses:
        if use.state == "saved":
            return f"a saved guest goes on with it as it is: {use}"
        if not use.top:
            return (
                f"another volume stands on it in {use}, as after an external snapshot: bring that one's data back into "
                "it with virsh blockcommit --active --pivot"
            )
    return ""


def grow_in_guest(host: Host, uses: Sequence[Use], size: int) -> Outcome | None:
    """Have the guest that runs with the volume of these ``uses`` grow it to ``size`` bytes. None where none runs."""
    why = bar_to_growth(uses)
    if why:
        return refused(why)
    live = next((use for use in uses if use.live), None)
    if live is None:
        return None
    host.block_resize(live.domain, live.target, size)
    return DONE
