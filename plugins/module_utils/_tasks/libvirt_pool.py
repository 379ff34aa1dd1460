# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""The tasks of `libvirt_pool` and `libvirt_pool_info`."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from .._ground.command import Runner
from .._ground.errors import BadInput, StorageError
from .._ground.libvirt_host import Host, PoolStatus, beneath, connect
from .._ground.mounts import mounted_at
from .._policy.plan import Fields, Plan
from .._policy.pool_names import checked_path, shown
from .._policy.pool_nfs import checked_nfs, unfit_mount
from .._policy.pool_xml import Definition, read, write
from .._policy.pools import Contents, Found, Wish, plan, wished_definition
from .._policy.sizes import parse_size
from .kinds import Surroundings
from .pool_contents import read_contents, remove_contents, write_labels, write_limits
from .pool_folder import account, create, folder_mode, impassable, look_at, permit


def task(params: Fields, check_mode: bool) -> Fields:
    """Make one pool as ``params`` say; gives the result of `libvirt_pool`."""
    warnings: list[str] = []
    want = wish(params, check_mode, warnings)
    with connect(params["uri"], check_mode, warnings) as host:
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
    if want.state == "active":
        warnings += impassable(pool["path"])
    return {**steps.to_result(), "pool": pool, "warnings": warnings}


def info(params: Fields, check_mode: bool) -> Fields:
    """Describe all pools, or those named; gives the result of `libvirt_pool_info`. Only reads."""
    warnings: list[str] = []
    wanted = params["name"]
    with connect(params["uri"], check_mode, warnings) as host:
        found = [status for status in host.pools() if not wanted or status.name in wanted]
        pools = [describe(status.name, status, _found(host, status)) for status in found]
    return {"changed": False, "pools": pools, "warnings": warnings}


def wish(params: Fields, check_mode: bool, warnings: list[str]) -> Wish:
    """What the parameters ask for, checked as far as that goes without a look at the pools."""
    name, netfs, limits = params["name"], _given(params["netfs"]), _limits(params["cache"])
    if not name or "/" in name or not name.isprintable() or len(name.encode()) > 200:
        raise BadInput(f"The pool name {shown(name)} cannot be used: give a short name without '/' and line breaks.")
    for label, value in (params["labels"] or {}).items():
        if not isinstance(value, (str, int, float)):
            raise BadInput(f"The label {shown(str(label))} cannot hold {type(value).__name__}: give text or a number.")
    return Wish(
        name=name,
        state=params["state"],
        type=params["type"],
        path=None if params["path"] is None else checked_path(params["path"]),
        netfs=None if netfs is None else checked_nfs(netfs),
        mode=folder_mode(params["mode"]),
        owner=account("user", params["owner"], check_mode, warnings),
        group=account("group", params["group"], check_mode, warnings),
        autostart=params["autostart"],
        labels=params["labels"],
        limits=limits,
        force=params["force"],
        remove_contents=params["remove_contents"],
    )


def look(host: Host, want: Wish) -> tuple[PoolStatus | None, Found]:
    """The pool as it is, and whatever else the plan depends on."""
    pools = host.pools()
    status = next((pool for pool in pools if pool.name == want.name), None)
    have = _found(host, status)
    path = want.path or (have.definition.path if have.definition else "")
    taken_by = ""
    if want.path and not (have.definition and have.definition.path == want.path):
        taken_by = next((pool.name for pool in pools if pool.name != want.name and _is_at(pool, want.path)), "")
    uses = []
    if path and want.state in ("inactive", "absent") and (have.active or want.remove_contents):
        uses = beneath(host.uses(), path)
    if want.path and "dir" in (want.type, have.definition and have.definition.type):
        have = replace(
            have, contents=read_contents(Definition(want.name, "dir", want.path), _around(host))
        )  # a folder may have been a pool's before
    return status, replace(
        have,
        folder=look_at(path) if path and want.state == "active" else None,
        taken_by=taken_by,
        live_users=tuple(dict.fromkeys(str(use) for use in uses if use.live)),
        users=tuple(dict.fromkeys(str(use) for use in uses)),
    )


def _found(host: Host, status: PoolStatus | None) -> Found:
    """What is there of one pool: its definition and what it holds."""
    if status is None:
        return Found()
    definition = read(status.xml)
    mount = mounted_at(os.path.realpath(definition.path)) if definition.type == "netfs" and status.active else None
    readable = definition.type == "dir" or mount is not None
    return Found(
        definition=definition,
        active=status.active,
        persistent=status.persistent,
        autostart=status.autostart,
        contents=read_contents(definition, _around(host)) if readable else None,
        mount=mount.options if mount and mount.type.startswith("nfs") else "",
    )


def _around(host: Host) -> Surroundings:
    return Surroundings(host, Runner())


def _is_at(pool: PoolStatus, path: str) -> bool:
    other = read(pool.xml).path
    return bool(other) and os.path.realpath(other) == os.path.realpath(path)


def describe(name: str, status: PoolStatus | None, have: Found) -> Fields:
    """A pool as the modules return it. Sizes are bytes, as of libvirt's last look at the pool."""
    definition = have.definition
    if status is None or definition is None:
        return {"name": name, "state": "absent"}
    pool: Fields = {
        "name": name,
        "state": "active" if have.active else "inactive",
        "type": definition.type,
        "path": definition.path,
        "uuid": definition.uuid,
        "autostart": have.autostart,
        "capacity": status.capacity,
        "allocation": status.allocation,
        "available": status.available,
    }
    if definition.nfs:
        pool["netfs"] = definition.nfs.fields()
    if have.contents is not None:
        pool.update(_described(have.contents))
    return pool


def foresee(name: str, status: PoolStatus | None, have: Found, after: Fields) -> Fields:
    """The pool as ``after`` will make it. What only a run can tell (UUID and sizes of a new pool) is None."""
    pool = describe(name, status, have)
    if status is None:
        unknown = dict.fromkeys(("uuid", "capacity", "allocation", "available"))
        pool = {"name": name, "autostart": False, **unknown, **_described(have.contents or Contents())}
    for field, value in after.items():
        if field in ("netfs", "cache"):
            pool[field] = {**pool.get(field, {}), **value}
        elif field not in ("mode", "owner", "group", "persistent"):
            pool[field] = value
    if "cache" in pool:
        pool["cache"] = {limit: value for limit, value in pool["cache"].items() if value}
    return pool


def _described(contents: Contents) -> Fields:
    if contents.problem:
        return {"problem": contents.problem}
    return {
        "labels": dict(contents.labels),
        "cache": {limit: value for limit, value in contents.limits.items() if value},
        "unmanaged": list(contents.unmanaged),
    }


def _lenient(have: Found, check_mode: bool, warnings: list[str]) -> Found:
    """In check mode a missing parent folder is a warning: the task that makes it may come earlier in the play."""
    if check_mode and have.folder and have.folder.parent_missing:
        warnings.append(f"{have.folder.problem[:-1]} (unless an earlier task does, which check mode does not run).")
        return replace(have, folder=replace(have.folder, problem=""))
    return have


class Carrier:
    """Carries a plan out. The steps of `plan` are its methods, by verb."""

    def __init__(self, host: Host, want: Wish, status: PoolStatus | None, have: Found) -> None:
        self.host, self.want, self.status, self.have = host, want, status, have
        self.around = _around(host)
        self.wished = wished_definition(want, have.definition) if want.state != "absent" else have.definition
        self.steps: dict[str, Callable[[], Any]] = {
            "keep": lambda: host.define(host.pool(want.name).xml),
            "define": self._define,
            "redefine": self._define,
            "create": lambda: create(self._path, want),
            "permit": lambda: permit(self._path, want),
            "start": self._start,
            "stop": lambda: host.stop(want.name),
            "undefine": lambda: host.undefine(want.name),
            "enable": lambda: host.set_autostart(want.name, True),
            "disable": lambda: host.set_autostart(want.name, False),
            "label": lambda: write_labels(self._wished, self.around, want.labels or {}),
            "limit": lambda: write_limits(self._wished, self.around, want.limits or {}),
            "remove": lambda: remove_contents(self._wished, self.around),
        }

    @property
    def _wished(self) -> Definition:
        if self.wished is None:
            raise AssertionError
        return self.wished

    @property
    def _path(self) -> str:
        return self._wished.path

    def apply(self, steps: Plan) -> None:
        """Every step in order. An error tells under ``done`` what was done before it."""
        done: list[str] = []
        for action in steps.actions:
            try:
                self.steps[action.verb]()
            except StorageError as error:
                error.facts.setdefault("done", done)
                raise
            done.append(action.sentence)

    def _define(self) -> None:
        if self.wished is None:
            raise AssertionError
        self.host.define(write(self.wished, onto=self.status.xml if self.status else None))

    def _start(self) -> None:
        """Start the pool. A new one that cannot be used is not left behind."""
        try:
            self.host.start(self.want.name)
            self._check_mount()
        except StorageError:
            self._withdraw()
            raise

    def _check_mount(self) -> None:
        if self.wished is None or self.wished.type != "netfs":
            return
        mount = mounted_at(os.path.realpath(self._path))
        problem = unfit_mount(mount.options if mount and mount.type.startswith("nfs") else "")
        if problem:
            raise StorageError(f"Pool {self.want.name} was started and stopped again: {problem}; set netfs.version.")

    def _withdraw(self) -> None:
        self.host.stop(self.want.name)
        if self.status is None:
            self.host.undefine(self.want.name)
        if self.have.folder and not self.have.folder.exists:
            os.rmdir(self._path)


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
