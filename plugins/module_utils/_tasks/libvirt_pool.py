# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""The tasks of `libvirt_pool` and `libvirt_pool_info`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from .._ground.errors import BadInput
from .._ground.libvirt_host import Host, connect
from .._policy.plan import Fields
from .._policy.pool_ceph import checked_ceph
from .._policy.pool_group import GroupWish, checked_group
from .._policy.pool_names import checked_path, shown
from .._policy.pool_nfs import checked_nfs
from .._policy.pool_plan import plan
from .._policy.pool_xml import defined_anew, read
from .._policy.pools import Found, Wish
from .._policy.sizes import parse_size
from .pool_carrier import Carrier
from .pool_cluster import with_files
from .pool_folder import account, folder_mode, impassable
from .pool_group import advice
from .pool_look import found, look
from .pool_result import describe, foresee


def task(params: Fields, check_mode: bool) -> Fields:
    """Make one pool as ``params`` say; gives the result of `libvirt_pool`."""
    warnings: list[str] = []
    want = wish(params, check_mode, warnings)
    with connect(params["uri"], check_mode, warnings) as host:
        want = _resolved(host, want, params, check_mode, warnings)
        status, have = look(host, want)
        have = _lenient(have, check_mode, warnings)
        steps = plan(want, have)
        if steps.changed and not check_mode:
            Carrier(host, want, status, have).apply(steps)
            status, have = look(host, want)
    pool = describe(want.name, status, have)
    if steps.changed and check_mode:
        after = steps.after.get(f"pool {want.name}")
        pool = foresee(want.name, status, have, after) if after else describe(want.name, None, have)
    if want.state == "active" and "path" in pool:
        warnings += impassable(pool["path"])
    if want.state == "active" and have.group is not None and have.group.exists:
        warnings += advice(pool["logical"]["group"])
    return {**steps.to_result(), "pool": pool, "warnings": warnings}


def info(params: Fields, check_mode: bool) -> Fields:
    """Describe all pools, or those named; gives the result of `libvirt_pool_info`. Only reads."""
    warnings: list[str] = []
    wanted = params["name"]
    with connect(params["uri"], check_mode, warnings) as host:
        chosen = [status for status in host.pools() if not wanted or status.name in wanted]
        pools = [describe(status.name, status, found(host, status, weigh=True)) for status in chosen]
        warnings += filter(None, (defined_anew(status.xml, status.stored) for status in chosen))
    return {"changed": False, "pools": pools, "warnings": warnings}


def requires(params: Fields) -> Iterable[str]:
    """The Python modules that a task imports; parameters of any shape."""
    return ("libvirt", "rados", "rbd") if params.get("type") == "rbd" or params.get("rbd") else ("libvirt",)


def wish(params: Fields, check_mode: bool, warnings: list[str]) -> Wish:
    """What the parameters ask for, checked as far as that goes without a look at the pools."""
    name, limits = params["name"], _limits(params["cache"])
    if not name or "/" in name or not name.isprintable() or len(name.encode()) > 200:
        raise BadInput(f"The pool name {shown(name)} cannot be used: give a short name without '/' and line breaks.")
    for label, value in (params["labels"] or {}).items():
        if not isinstance(value, (str, int, float)):
            raise BadInput(f"The label {shown(str(label))} cannot hold {type(value).__name__}: give text or a number.")
    sources = {}
    if params["netfs"] is not None:
        sources["netfs"] = checked_nfs(params["netfs"])
    if params["rbd"] is not None:
        sources["rbd"] = checked_ceph(params["rbd"])
    lvm = GroupWish()
    if params["logical"] is not None:
        sources["logical"], lvm = checked_group(params["logical"])
    return Wish(
        name=name,
        state=params["state"],
        type=params["type"],
        path=None if params["path"] is None else checked_path(params["path"]),
        sources=sources,
        key=sources.get("rbd", {}).pop("key", None),
        lvm=lvm,
        mode=folder_mode(params["mode"]),
        owner=account("user", params["owner"], check_mode, warnings),
        group=account("group", params["group"], check_mode, warnings),
        autostart=params["autostart"],
        labels=params["labels"],
        limits=limits,
        force=params["force"],
        remove_contents=params["remove_contents"],
    )


def _resolved(host: Host, want: Wish, params: Fields, check_mode: bool, warnings: list[str]) -> Wish:
    """``want`` with what stands in files of this host, where the pool is to come from a Ceph cluster."""
    old = next((read(pool.xml) for pool in host.pools() if pool.name == want.name), None)
    kind = old.type if old else want.type
    if "rbd" not in want.sources or kind != "rbd" or want.state == "absent":
        return want
    return with_files(want, params["rbd"], old, check_mode, warnings)


def _lenient(have: Found, check_mode: bool, warnings: list[str]) -> Found:
    """In check mode a missing parent folder is a warning: the task that makes it may come earlier in the play."""
    if check_mode and have.folder and have.folder.parent_missing:
        warnings.append(f"{have.folder.problem[:-1]} (unless an earlier task does, which check mode does not run).")
        return replace(have, folder=replace(have.folder, problem=""))
    return have


def _given(suboptions: Fields | None) -> Fields | None:
    if suboptions is None:
        return None
    return {name: value for name, value in suboptions.items() if value is not None}


def _limits(cache: Fields | None) -> dict[str, int] | None:
    """The limits given, sizes in bytes; 0 stands for none."""
    given = _given(cache)
    if given is None:
        return None
    for name in ("max_bytes", "min_free"):
        if name in given:
            given[name] = 0 if given[name] == "0" else parse_size(given[name], f"cache limit {name}")
    for name, value in given.items():
        if value < 0:
            raise BadInput(f"The cache limit {name} cannot be {value}: give a number above 0, or 0 for no limit.")
    return given
