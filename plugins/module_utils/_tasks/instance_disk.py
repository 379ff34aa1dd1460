# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""The task of `instance_disk`."""

from __future__ import annotations

import gc

from .._policy.plan import Fields
from .disk_absent import absent
from .disk_present import present
from .disk_wishes import orders
from .session import Session


def task(params: Fields, check_mode: bool) -> Fields:
    """Make or remove the disks of instances; gives the result of `instance_disk`."""
    # Ten thousand disks are a million objects and no garbage: to look for some all the time takes a sixth of the time.
    gc.set_threshold(100_000, 50, 100)
    session = Session(params["uri"], check_mode)
    ordered = orders(params, session.warnings)
    if params["state"] == "present":
        result = present(session, ordered, params["allow_move"])
    else:
        result = absent(session, ordered)
    return {**result, "warnings": session.warnings}
