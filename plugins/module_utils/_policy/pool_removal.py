# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.
"""What has to be done to stop a pool, and so that it is no more: pure."""

from __future__ import annotations

from .._ground.errors import BadInput, InUse, LostMetadata
from .plan import Action, Fields, Plan
from .pool_xml import Definition
from .pools import Found, Wish, listed


def plan_removal(want: Wish, have: Found) -> Plan:
    """The way to no pool of that name, or a `StorageError` that says what stands in it."""
    pool, actions = f"pool {want.name}", []
    gone: Fields = {}
    if have.definition:
        gone = {"state": have.state, "type": have.definition.type}
        if have.definition.path:
            gone["path"] = have.definition.path
        if want.remove_contents:
            actions.append(_remove_contents(want, have, have.definition))
        if have.active:
            actions.append(stop(want, have))
        if have.persistent:
            actions.append(Action("undefine", pool, f"undefine {pool} ({have.definition})"))
    # A secret without a pool is what a task left that was killed here.
    if have.keys.own is not None and not have.keys.own_users:
        actions.append(Action("forget", f"secret of {pool}", f"remove the libvirt secret of {pool}"))
        gone["key"] = "as it was"
    return Plan(tuple(actions), {pool: gone} if actions else {}, {})


def stop(want: Wish, have: Found) -> Action:
    """The step that stops a pool, or `InUse`."""
    if have.live_users and not want.force:
        raise InUse(
            f"Pool {want.name} is used by {listed(have.live_users)}: stop these guests first, or say force=true.",
            used_by=list(have.live_users),
        )
    return Action("stop", f"pool {want.name}", f"stop pool {want.name}")


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
    folder = f", and folder {definition.path}" if definition.path else ""
    return Action("remove", pool, f"remove the records of {pool}, which holds nothing else{folder}")
