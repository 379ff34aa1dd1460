# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.
"""What has to be done so that the place of a pool, a folder or a volume group, is as wished: pure."""

from __future__ import annotations

from .._ground.errors import InUse, LostMetadata, StorageError
from .plan import Action, Differences
from .pool_xml import Definition
from .pools import FOLDER_MODE, Found, Wish, listed


def make_folder(want: Wish, have: Found, wished: Definition, differences: Differences) -> list[Action]:
    """The step that makes the folder, or gives it the wished owner and mode."""
    folder, what = have.folder, f"folder {wished.path}"
    if folder is None:
        return []
    access = Differences()
    access.add("mode", octal(want.mode if folder.exists else want.mode or FOLDER_MODE), octal(folder.mode))
    access.add("owner", want.owner, folder.owner)
    access.add("group", want.group, folder.group)
    if wished.type == "dir":
        differences.before.update(access.before)
        differences.after.update(access.after)
    if not folder.exists:
        return [Action("create", what, f"create {what} (mode {octal(want.mode or FOLDER_MODE)})")]
    if not access:
        return []
    values = ", ".join(f"{name} {value}" for name, value in access.after.items())
    return [Action("permit", what, f"set {values} of {what}")]


def make_group(want: Wish, have: Found, wished: Definition, differences: Differences) -> list[Action]:
    """The steps that make the volume group, and have its disks in a thin pool."""
    found, actions, changed = have.group, [], Differences()
    if found is None:
        return []
    what = f"volume group {wished.group}"
    if not found.exists:
        changed.add("devices", list(want.lvm.devices), None)
        actions.append(Action("gather", what, f"make {what} of {', '.join(want.lvm.devices)}"))
    thin_pool = _thin_pool(want, have)
    if changed.add("thin_pool", thin_pool, found.thin_pool):
        there = want.lvm.thin_pool is not None
        sentence = f"have the disks of pool {want.name} in the thin pool {wished.group}/{thin_pool}"
        actions.append(
            Action("enlist", what, sentence) if there else Action("thin", what, f"make a thin pool in {what}")
        )
    if changed:
        for side, fields in ((differences.before, changed.before), (differences.after, changed.after)):
            side["logical"] = {**side.get("logical", {}), **fields}
    return actions


def check_group(want: Wish, have: Found, wished: Definition) -> None:
    """Refuse disks of another kind than those that are there."""
    found = have.group
    if found is None:
        return
    thin_pool = _thin_pool(want, have)
    if found.thin_pool and (want.lvm.thin is False or thin_pool != found.thin_pool):
        raise StorageError(
            f"The disks in volume group {wished.group} stand in its thin pool {found.thin_pool}, which was not asked "
            f"for: leave logical.thin and logical.thin_pool out, or use another group."
        )
    if have.contents and have.contents.problem and thin_pool != found.thin_pool:
        raise LostMetadata(have.contents.problem)  # what the group holds may be thick
    held = (*have.contents.disks, *have.contents.images) if have.contents else ()
    if held and thin_pool != found.thin_pool:
        raise InUse(
            f"Pool {want.name} holds disks or images that are thick ({listed(held)}): remove these first, or leave "
            "logical.thin and logical.thin_pool out."
        )


def _thin_pool(want: Wish, have: Found) -> str:
    """The thin pool in which disks are to be; "" where they are thick."""
    if have.group is None:
        return ""
    if want.lvm.thin_pool is not None:
        return want.lvm.thin_pool
    thin = want.lvm.thin if want.lvm.thin is not None else not have.group.exists
    return have.group.thin_pool or (THIN_POOL if thin else "")


THIN_POOL = "virt-storage-pool"
"""The thin pool that is made."""


def octal(mode: int | None) -> str | None:
    """A mode as people write it."""
    return None if mode is None else f"{mode:04o}"
