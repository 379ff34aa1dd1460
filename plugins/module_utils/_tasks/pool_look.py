# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.
"""What there is of a pool, for its plan."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

from .._ground.command import Runner
from .._ground.errors import StorageError
from .._ground.libvirt_host import Host, PoolStatus, Use, beneath, using_any, within
from .._ground.mounts import mounted_at
from .._policy.pool_group import GroupWish
from .._policy.pool_wished import wished_definition
from .._policy.pool_xml import WITH_FOLDER, Definition, defined_anew, read
from .._policy.pools import Found, Wish
from .kinds import Surroundings
from .pool_cluster import is_known, keys, obstacle
from .pool_contents import read_contents
from .pool_folder import look_at
from .pool_group import look_at_group


def around(host: Host) -> Surroundings:
    """What the backend of a pool works with."""
    return Surroundings(host, Runner())


def look(host: Host, want: Wish) -> tuple[PoolStatus | None, Found]:
    """The pool as it is, and whatever else its plan depends on."""
    pools = host.pools()
    status = next((pool for pool in pools if pool.name == want.name), None)
    if status and want.state != "inactive" and (problem := defined_anew(status.xml, status.stored)):
        raise StorageError(problem)
    have = found(host, status, ask=want.state == "defined")
    have = replace(have, keys=keys(host, want.name, have.definition))
    if want.state == "absent":
        if have.definition and have.definition.type not in WITH_FOLDER and want.remove_contents:
            have = replace(have, contents=read_contents(have.definition, around(host)))
        return status, _with_users(host, want, have, have.definition)
    wished = wished_definition(want, have)
    if want.state == "active":
        have = _with_place(host, want, have, wished)
    others = [read(pool.xml) for pool in pools if pool.name != want.name]
    have = replace(have, taken_by=_taken_by(others, wished, have.definition))
    return status, _with_users(host, want, have, wished)


def found(host: Host, status: PoolStatus | None, *, ask: bool = True, weigh: bool = False) -> Found:
    """What there is of one pool, as far as it can be seen without starting it: its definition and what it holds, and
    with ``weigh`` what its images take up.

    A Ceph cluster or a volume group is asked only where the answer is needed: one that is away is waited for, the
    records of the other are mounted.
    """
    if status is None:
        return Found()
    definition = read(status.xml)
    mount = mounted_at(os.path.realpath(definition.path)) if definition.type == "netfs" and status.active else None
    asked = status.active and ask
    readable = {"dir": True, "netfs": mount is not None, "logical": asked, "rbd": asked}.get(definition.type, False)
    return Found(
        definition=definition,
        active=status.active,
        persistent=status.persistent,
        autostart=status.autostart,
        contents=read_contents(definition, around(host), weigh) if readable else None,
        mount=mount.options if mount and mount.type.startswith("nfs") else "",
        group=look_at_group(definition.group, GroupWish())[0] if definition.group and asked else None,
    )


def _with_place(host: Host, want: Wish, have: Found, wished: Definition) -> Found:
    """``have`` with what is there already at the wished place, which may have been a pool's before."""
    if wished.type in WITH_FOLDER:
        have = replace(have, folder=look_at(wished.path))
    readable = wished.type == "dir" and not (have.folder and have.folder.problem)
    if wished.ceph and is_known(wished.ceph):
        have = replace(have, obstacle=obstacle(host, wished.ceph))
        readable = not have.obstacle
    if wished.group:
        group, problem = look_at_group(wished.group, want.lvm)
        have = replace(have, group=group, obstacle=problem)
        readable = group is not None and group.exists
    seen = wished == have.definition and have.contents is not None and not have.contents.problem
    return replace(have, contents=read_contents(wished, around(host))) if readable and not seen else have


def _taken_by(others: Sequence[Definition], wished: Definition, old: Definition | None) -> str:
    """Another pool at the place that is asked for; "" where the pool is there already."""
    if old and old.path == wished.path and old.source == wished.source:
        return ""
    return next((other.name for other in others if _same_place(other, wished)), "")


def _same_place(one: Definition, other: Definition) -> bool:
    if one.ceph and other.ceph:
        where = (one.ceph.pool, one.ceph.namespace) == (other.ceph.pool, other.ceph.namespace)
        return where and bool(set(one.ceph.monitors) & set(other.ceph.monitors))
    if one.group or other.group:
        return one.group == other.group
    return bool(one.path and other.path) and os.path.realpath(one.path) == os.path.realpath(other.path)


def _with_users(host: Host, want: Wish, have: Found, definition: Definition | None) -> Found:
    if definition is None or want.state not in ("inactive", "absent") or not (have.active or want.remove_contents):
        return have
    uses = _uses(host, definition)
    return replace(
        have,
        live_users=tuple(dict.fromkeys(str(use) for use in uses if use.live)),
        users=tuple(dict.fromkeys(str(use) for use in uses)),
    )


def _uses(host: Host, definition: Definition) -> list[Use]:
    if definition.ceph:
        return within(host.uses(), definition.ceph.where)
    if definition.group:
        return _uses_of_group(host.uses(), definition.group)
    return beneath(host.uses(), definition.path) if definition.path else []


def _uses_of_group(uses: list[Use], group: str) -> list[Use]:
    """Those of ``uses`` whose source is a volume of the group: by its device, and by name where that is not active."""
    folder, mapped = f"/dev/{group}", f"/dev/mapper/{group.replace('-', '--')}-"
    active = [os.path.join(folder, name) for name in os.listdir(folder)] if os.path.isdir(folder) else []
    held = {use for named in using_any(uses, active).values() for use in named}
    return [use for use in uses if use in held or use.source.startswith((f"{folder}/", mapped))]
