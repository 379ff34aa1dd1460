# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.
"""The volume group behind a pool: what it is like, and making it as wished."""

from __future__ import annotations

from .._backends.lvm_group import (
    adopt_thin_pool,
    find_group,
    make_group,
    make_thin_pool,
    warnings,
    why_not_empty,
)
from .._backends.lvm_records import unmount
from .._ground.command import Runner
from .._ground.errors import NotFound, StorageError
from .._ground.lvm import Lvm
from .._policy.pool_group import FoundGroup, GroupWish


def look_at_group(name: str, want: GroupWish) -> tuple[FoundGroup | None, str]:
    """The group as it is, and what keeps it from being a pool's: "" for nothing."""
    runner = Runner()
    try:
        return FoundGroup(exists=True, thin_pool=find_group(Lvm(runner), name).pool), ""
    except NotFound:
        return FoundGroup(exists=False), _unmakable(runner, name, want)
    except StorageError as error:
        return None, error.message


def _unmakable(runner: Runner, name: str, want: GroupWish) -> str:
    if not want.devices:
        return f"There is no volume group {name}: say logical.devices to have it made, or name another."
    for device in want.devices:
        why = why_not_empty(runner, device)
        if why:
            return f"The device {device} cannot become part of the volume group {name}: it {why}."
    return ""


def gather(name: str, want: GroupWish) -> None:
    """Make the group of its devices."""
    runner = Runner()
    make_group(Lvm(runner), runner, name, want.devices)


def thin(name: str) -> None:
    """Make a thin pool in the group, of most of its space."""
    lvm = Lvm(Runner())
    make_thin_pool(lvm, find_group(lvm, name))


def enlist(name: str, want: GroupWish) -> None:
    """Have disks made in a thin pool that is there."""
    lvm = Lvm(Runner())
    adopt_thin_pool(lvm, find_group(lvm, name), want.thin_pool or "")


def let_go(name: str) -> None:
    """Unmount the records, which libvirt would find in use when it deactivates the group."""
    unmount(name, Runner())


def advice(name: str) -> list[str]:
    """What the operator should know of the group, each a sentence."""
    lvm = Lvm(Runner())
    return warnings(lvm, find_group(lvm, name))
