# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.
"""A pool as the modules return it, as it is or as it will be."""

from __future__ import annotations

from .._ground.libvirt_host import PoolStatus
from .._policy.plan import Fields
from .._policy.pool_xml import SOURCES
from .._policy.pools import Contents, Found


def describe(name: str, status: PoolStatus | None, have: Found) -> Fields:
    """A pool as the modules return it. Sizes are bytes, as of libvirt's last look at the pool."""
    definition = have.definition
    if status is None or definition is None:
        return {"name": name, "state": "absent"}
    pool: Fields = {
        "name": name,
        "state": have.state,
        "type": definition.type,
        "uuid": definition.uuid,
        "autostart": have.autostart,
        "capacity": status.capacity,
        "allocation": status.allocation,
        "available": status.available,
    }
    if definition.path:
        pool["path"] = definition.path
    if definition.source:
        pool[definition.type] = definition.source.fields()
    if have.group is not None:
        pool["logical"]["thin_pool"] = have.group.thin_pool
    if have.contents is not None:
        pool.update(_described(have.contents))
    return pool


def foresee(name: str, status: PoolStatus | None, have: Found, after: Fields) -> Fields:
    """The pool as ``after`` will make it. What only a run can tell (UUID and sizes of a new pool) is None."""
    pool = describe(name, status, have)
    if status is None:
        unknown = dict.fromkeys(("uuid", "capacity", "allocation", "available"))
        pool = {"name": name, "autostart": False, **unknown, **_described(have.contents or Contents())}
        if have.group is not None:
            pool["logical"] = {"thin_pool": have.group.thin_pool}
    for field, value in after.items():
        if field == "cache" or field in SOURCES:
            pool[field] = {**pool.get(field, {}), **value}
            for once in ("key", "devices"):
                pool[field].pop(once, None)
        elif field not in ("mode", "owner", "group", "persistent"):
            pool[field] = value
    if "logical" in pool and "unmanaged" in pool:
        pool["unmanaged"] = [other for other in pool["unmanaged"] if other != pool["logical"].get("thin_pool")]
    if "cache" in pool:
        pool["cache"] = {limit: value for limit, value in pool["cache"].items() if value}
    return pool


def _described(contents: Contents) -> Fields:
    if contents.problem:
        return {"problem": contents.problem}
    weighed = {} if contents.cached is None else {"cached": contents.cached}
    return {
        **weighed,
        "labels": dict(contents.labels),
        "cache": {limit: value for limit, value in contents.limits.items() if value},
        "unmanaged": list(contents.unmanaged),
    }
