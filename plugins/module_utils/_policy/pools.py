# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""What has to be done so that a pool is as wished: pure, from a wish and what was found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from .._ground.errors import BadInput, InUse, LostMetadata, StorageError
from .plan import Action, Differences, Fields, Plan
from .pool_names import checked_name
from .pool_nfs import NfsExport, unfit, unfit_mount
from .pool_xml import WITH_FOLDER, Definition

FOLDER_MODE = 0o711
"""Mode of a folder that is made: libvirt's qemu user has to pass through it, and nobody else to list it."""
SHOWN = 5
"""How many names a message lists before it only counts."""


@dataclass(frozen=True)
class Wish:
    """What the user asked for; ``None`` is "as it is".

    ``netfs`` holds those fields of an `NfsExport` that were given, ``limits`` those limits of the image cache;
    a limit of 0 is none.
    """

    name: str
    state: str = "active"
    type: str | None = None
    path: str | None = None
    netfs: Mapping[str, Any] | None = None
    mode: int | None = None
    owner: str | None = None
    group: str | None = None
    autostart: bool | None = None
    labels: Mapping[str, Any] | None = None
    limits: Mapping[str, int] | None = None
    force: bool = False
    remove_contents: bool = False


@dataclass(frozen=True)
class Folder:
    """The folder of a pool; ``mode``, ``owner`` and ``group`` are None where it does not exist.

    ``problem`` says why it cannot be used, or cannot be made; "" when it can.
    """

    exists: bool
    mode: int | None = None
    owner: str | None = None
    group: str | None = None
    problem: str = ""
    parent_missing: bool = False


@dataclass(frozen=True)
class Contents:
    """What is in a pool: labels and cache limits, recorded disks and images, and what has no record.

    ``leftovers`` are volumes whose record has ended, ``busy`` the locks that somebody holds. ``problem`` says why
    nothing of this could be read; "" when it could.
    """

    labels: Mapping[str, Any] = field(default_factory=dict)
    limits: Mapping[str, int] = field(default_factory=dict)
    disks: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    unmanaged: tuple[str, ...] = ()
    leftovers: tuple[str, ...] = ()
    busy: tuple[str, ...] = ()
    problem: str = ""


@dataclass(frozen=True)
class Found:
    """What is there. ``definition`` is None for a pool that does not exist.

    ``contents`` is None where they cannot be read, because the pool is not mounted. ``mount`` are the options of
    what is mounted for a netfs pool, "" for nothing. ``taken_by`` is another pool with the wished path.
    ``live_users`` are guests that hold something in the pool now, ``users`` all whose definition names it.
    """

    definition: Definition | None = None
    active: bool = False
    persistent: bool = True
    autostart: bool = False
    folder: Folder | None = None
    contents: Contents | None = field(default_factory=Contents)
    mount: str = ""
    taken_by: str = ""
    live_users: tuple[str, ...] = ()
    users: tuple[str, ...] = ()


def plan(want: Wish, have: Found) -> Plan:
    """The way from ``have`` to ``want``, or a `StorageError` that says what stands in it."""
    if want.state == "absent":
        return _plan_removal(want, have, have.definition) if have.definition else Plan()
    wished = wished_definition(want, have.definition)
    _check(want, have, wished)
    differences = Differences()
    actions = [
        *_stop_and_define(want, have, wished, differences),
        *_make_folder_and_start(want, have, wished, differences),
        *_autostart(want, have, differences),
        *_contents(want, have, differences),
    ]
    if not actions:
        return Plan()
    pool = f"pool {want.name}"
    return Plan(tuple(actions), {pool: differences.before} if have.definition else {}, {pool: differences.after})


def wished_definition(want: Wish, have: Definition | None) -> Definition:
    """The definition that ``want`` asks for. Of a pool that exists, what is not mentioned stays."""
    if have is None:
        return _new_definition(want)
    if want.type and want.type != have.type:
        raise BadInput(
            f"Pool {want.name} is of type {have.type}, and type {want.type} was asked for: choose another name, or "
            "undefine that pool first (state=absent leaves its volumes where they are)."
        )
    if have.type not in WITH_FOLDER:
        raise BadInput(
            f"Pool {want.name} is of type {have.type}, and only {' and '.join(WITH_FOLDER)} pools can be managed."
        )
    _check_netfs_belongs(want, have.type)
    nfs = replace(have.nfs, **want.netfs) if have.nfs and want.netfs else have.nfs
    return replace(have, path=want.path or have.path, source=nfs)


def _new_definition(want: Wish) -> Definition:
    missing = [name for name in ("type", "path") if not getattr(want, name)]
    if want.type == "netfs":
        missing += [f"netfs.{name}" for name in ("host", "export") if not (want.netfs or {}).get(name)]
    if missing:
        raise BadInput(f"There is no pool {want.name}: say {', '.join(missing)} to have it made.")
    if want.type is None:
        raise AssertionError
    if want.path is None:
        raise AssertionError
    _check_netfs_belongs(want, want.type)
    nfs = NfsExport(**want.netfs) if want.netfs else None
    return Definition(checked_name(want.name), want.type, want.path, None, nfs)


def _check_netfs_belongs(want: Wish, kind: str) -> None:
    if want.netfs is not None and kind != "netfs":
        raise BadInput(f"The option netfs is for pools of type netfs, and pool {want.name} is of type {kind}.")


def _check(want: Wish, have: Found, wished: Definition) -> None:
    """Refuse what cannot be done, before anything is."""
    options = {"mode": want.mode, "owner": want.owner, "group": want.group, "labels": want.labels, "cache": want.limits}
    given = [name for name, value in options.items() if value is not None]
    if want.remove_contents:
        raise BadInput("The option remove_contents is for state=absent.")
    if given and want.state != "active":
        raise BadInput(f"The options {', '.join(given)} are kept in the pool itself and need state=active.")
    of_folder = [name for name in given if name in ("mode", "owner", "group")]
    if of_folder and wished.type != "dir":
        raise BadInput(f"The options {', '.join(of_folder)} are for pools of type dir: the NFS server has its own.")
    if have.taken_by:
        raise BadInput(f"The path {wished.path} is that of pool {have.taken_by}: give each pool a folder of its own.")
    if want.state != "active":
        return
    if have.folder and have.folder.problem:
        raise StorageError(have.folder.problem)
    if wished.nfs:
        problem = unfit(wished.nfs) or (unfit_mount(have.mount) if have.active else None)
        if problem:
            raise StorageError(f"Pool {want.name} cannot be used: {problem}; stop it and change its netfs options.")


def _stop_and_define(want: Wish, have: Found, wished: Definition, differences: Differences) -> list[Action]:
    pool, old, actions = f"pool {want.name}", have.definition, []
    state = {"active": "active", "inactive": "inactive", "defined": None if old else "inactive"}[want.state]
    differences.add("state", state, _state(have))
    if old and not have.persistent:
        differences.add("persistent", True, False)
        actions.append(Action("keep", pool, f"define {pool}, which was started without a definition, for good"))
    if have.active and want.state == "inactive":
        actions.append(_stop(want, have))
    changed = Differences()
    changed.add("type", wished.type, old and old.type)
    changed.add("path", wished.path, old and old.path)
    netfs = Differences()
    for name, value in _netfs(wished).items():
        netfs.add(name, value, _netfs(old).get(name))
    if netfs:
        changed.add("netfs", netfs.after, netfs.before)
    if changed and old and have.active and want.state != "inactive":
        raise InUse(
            f"Pool {want.name} is active as {old}, and {wished} was asked for: a running pool is not redefined; "
            "stop it first (state=inactive)."
        )
    if changed:
        verb = "redefine" if old else "define"
        actions.append(Action(verb, pool, f"{verb} {pool} ({wished})"))
    differences.before.update(changed.before)
    differences.after.update(changed.after)
    return actions


def _make_folder_and_start(want: Wish, have: Found, wished: Definition, differences: Differences) -> list[Action]:
    if want.state != "active" or not have.folder:
        return []
    actions, folder, what = [], have.folder, f"folder {wished.path}"
    access = Differences()
    access.add("mode", octal(want.mode if folder.exists else want.mode or FOLDER_MODE), octal(folder.mode))
    access.add("owner", want.owner, folder.owner)
    access.add("group", want.group, folder.group)
    if not folder.exists:
        actions.append(Action("create", what, f"create {what} (mode {octal(want.mode or FOLDER_MODE)})"))
    elif access:
        values = ", ".join(f"{name} {value}" for name, value in access.after.items())
        actions.append(Action("permit", what, f"set {values} of {what}"))
    if wished.type == "dir":
        differences.before.update(access.before)
        differences.after.update(access.after)
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


def _plan_removal(want: Wish, have: Found, definition: Definition) -> Plan:
    pool, actions = f"pool {want.name}", []
    if want.remove_contents:
        actions.append(_remove_contents(want, have, definition))
    if have.active:
        actions.append(_stop(want, have))
    if have.persistent:
        actions.append(Action("undefine", pool, f"undefine {pool} ({definition})"))
    gone: Fields = {"state": _state(have), "type": definition.type, "path": definition.path}
    return Plan(tuple(actions), {pool: gone}, {})


def _remove_contents(want: Wish, have: Found, definition: Definition) -> Action:
    if have.contents is None:
        raise BadInput(f"What pool {want.name} holds cannot be seen while it is not mounted: start it first.")
    if have.contents.problem:
        raise LostMetadata(have.contents.problem)
    held = {
        "used by": have.users,
        "at work": have.contents.busy,
        "disks": have.contents.disks,
        "images": have.contents.images,
        "volumes without a record": have.contents.unmanaged,
        "volumes to be reclaimed": have.contents.leftovers,
    }
    said = "; ".join(f"{what}: {listed(names)}" for what, names in held.items() if names)
    if said:
        raise InUse(
            f"Pool {want.name} is not empty ({said}): remove these first, or leave remove_contents out to undefine the "
            "pool and keep all that it holds.",
            **{what.replace(" ", "_"): list(names) for what, names in held.items() if names},
        )
    pool = f"pool {want.name}"
    return Action(
        "remove", pool, f"remove the records of {pool}, which holds nothing else, and folder {definition.path}"
    )


def _stop(want: Wish, have: Found) -> Action:
    if have.live_users and not want.force:
        raise InUse(
            f"Pool {want.name} is used by {listed(have.live_users)}: stop these guests first, or say force=true.",
            used_by=list(have.live_users),
        )
    return Action("stop", f"pool {want.name}", f"stop pool {want.name}")


def listed(names: tuple[str, ...]) -> str:
    """Some names for a message, and how many more there are."""
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def _state(have: Found) -> str | None:
    if have.definition is None:
        return None
    return "active" if have.active else "inactive"


def _netfs(definition: Definition | None) -> Fields:
    return definition.nfs.fields() if definition and definition.nfs else {}


def octal(mode: int | None) -> str | None:
    """A mode as people write it."""
    return None if mode is None else f"{mode:04o}"
