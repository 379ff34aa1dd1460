# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.
"""What has to be done so that a pool is as wished: pure, from a wish and what was found."""

from __future__ import annotations

from .._ground.errors import BadInput, InUse, LostMetadata, StorageError
from .plan import Action, Differences, Fields, Plan
from .pool_ceph import secret_uuid
from .pool_nfs import unfit, unfit_mount
from .pool_place import check_group, make_folder, make_group
from .pool_removal import plan_removal, stop
from .pool_wished import wished_definition
from .pool_xml import Definition
from .pools import Found, Wish


def plan(want: Wish, have: Found) -> Plan:
    """The way from ``have`` to ``want``, or a `StorageError` that says what stands in it."""
    if want.state == "absent":
        return plan_removal(want, have)
    wished = wished_definition(want, have)
    _check(want, have, wished)
    differences = Differences()
    actions = [
        *_stop_and_define(want, have, wished, differences),
        *_make_and_start(want, have, wished, differences),
        *_autostart(want, have, differences),
        *_contents(want, have, differences),
    ]
    if not actions:
        return Plan()
    pool = f"pool {want.name}"
    return Plan(tuple(actions), {pool: differences.before} if have.definition else {}, {pool: differences.after})


def _check(want: Wish, have: Found, wished: Definition) -> None:
    """Refuse what cannot be done, before anything is."""
    options = {"mode": want.mode, "owner": want.owner, "group": want.group, "labels": want.labels, "cache": want.limits}
    given = [name for name, value in options.items() if value is not None] + want.lvm.given()
    if want.remove_contents:
        raise BadInput("The option remove_contents is for state=absent.")
    if given and want.state != "active":
        raise BadInput(f"The options {', '.join(given)} are of the pool itself and need state=active.")
    of_folder = [name for name in given if name in ("mode", "owner", "group")]
    if of_folder and wished.type != "dir":
        raise BadInput(f"The options {', '.join(of_folder)} are for the folder of a pool of type dir.")
    if have.taken_by:
        raise BadInput(f"{wished.place} is that of pool {have.taken_by}: give each pool a place of its own.")
    if want.state != "active":
        return
    problem = have.obstacle or (have.folder.problem if have.folder else "")
    if problem:
        raise StorageError(problem)
    if wished.nfs:
        unsuited = unfit(wished.nfs) or (unfit_mount(have.mount) if have.active else None)
        if unsuited:
            raise StorageError(f"Pool {want.name} cannot be used: {unsuited}; stop it and change its netfs options.")
    check_group(want, have, wished)


def _stop_and_define(want: Wish, have: Found, wished: Definition, differences: Differences) -> list[Action]:
    pool, old, actions = f"pool {want.name}", have.definition, []
    state = {"active": "active", "inactive": "inactive", "defined": None if old else "inactive"}[want.state]
    differences.add("state", state, have.state)
    if old and not have.persistent:
        differences.add("persistent", True, False)
        actions.append(Action("keep", pool, f"define {pool}, which was started without a definition, for good"))
    if have.active and want.state == "inactive":
        actions.append(stop(want, have))
    changed = Differences()
    changed.add("type", wished.type, old and old.type)
    changed.add("path", wished.path or None, old and old.path)
    source, found = Differences(), _fields(old)
    for name, value in _fields(wished).items():
        source.add(name, value, found.get(name))
    if (changed or source) and old and have.active and want.state != "inactive":
        raise InUse(
            f"Pool {want.name} is active as {old}, and {wished} was asked for: a running pool is not redefined; "
            "stop it first (state=inactive)."
        )
    redefined = bool(changed or source)
    actions += _entrust(want, have, wished, source)
    if source:
        changed.add(wished.type, source.after, source.before)
    if redefined:
        verb = "redefine" if old else "define"
        actions.append(Action(verb, pool, f"{verb} {pool} ({wished})"))
    differences.before.update(changed.before)
    differences.after.update(changed.after)
    return actions


def _entrust(want: Wish, have: Found, wished: Definition, source: Differences) -> list[Action]:
    """Put the key of a pool on Ceph into the pool's own secret. The key itself is never shown."""
    ceph = wished.ceph
    if ceph is None or want.key is None or ceph.secret != secret_uuid(want.name) or have.keys.own == want.key:
        return []
    new = have.keys.own is None
    source.add("key", "new" if new else "changed", None if new else "as it was")
    what, whose = f"the libvirt secret of pool {want.name}", f"the key of client.{ceph.user}"
    sentence = f"make {what} with {whose}" if new else f"put {whose} into {what} in place of another"
    return [Action("entrust", f"secret of pool {want.name}", sentence)]


def _make_and_start(want: Wish, have: Found, wished: Definition, differences: Differences) -> list[Action]:
    if want.state != "active":
        return []
    actions = [*make_folder(want, have, wished, differences), *make_group(want, have, wished, differences)]
    if not have.active:
        actions.append(Action("start", f"pool {want.name}", f"start pool {want.name}"))
    return actions


def _autostart(want: Wish, have: Found, differences: Differences) -> list[Action]:
    wanted = True if want.autostart is None and want.state == "active" else want.autostart
    if not differences.add("autostart", wanted, have.autostart):
        return []
    verb, pool = "enable" if wanted else "disable", f"pool {want.name}"
    return [Action(verb, pool, f"{verb} autostart of {pool}")]


def _contents(want: Wish, have: Found, differences: Differences) -> list[Action]:
    """Labels and cache limits. Those of a pool that is yet to be mounted are not known, and so are set."""
    actions, pool = [], f"pool {want.name}"
    if have.contents and have.contents.problem and (want.labels is not None or want.limits):
        raise LostMetadata(have.contents.problem)
    if differences.add("labels", want.labels, have.contents and dict(have.contents.labels)):
        values = ", ".join(f"{name}={value}" for name, value in sorted((want.labels or {}).items()))
        actions.append(Action("label", pool, f"label {pool} ({values})" if values else f"remove the labels of {pool}"))
    limits = Differences()
    for name, value in (want.limits or {}).items():
        limits.add(name, value, have.contents and have.contents.limits.get(name, 0))
    if limits:
        differences.add("cache", limits.after, limits.before)
        values = ", ".join(f"{name} {value or 'none'}" for name, value in limits.after.items())
        actions.append(Action("limit", pool, f"limit the image cache of {pool} ({values})"))
    return actions


def _fields(definition: Definition | None) -> Fields:
    return definition.source.fields() if definition and definition.source else {}
