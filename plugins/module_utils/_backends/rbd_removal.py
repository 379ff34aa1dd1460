# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""Removing images, which nothing may use and nothing may stand on."""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .._ground.ceph import told
from .._ground.errors import InUse, NotFound, OutOfSpace, StorageError
from .._ground.libvirt_host import Use
from .._ground.ops import ALREADY, DONE, Outcome, refused
from .._records.types import Volume
from .rbd_pool import SNAPSHOT, RbdPool, is_ours, told_clones

try:
    import rbd  # type: ignore[import-not-found,import-untyped,unused-ignore]
except ImportError:
    rbd = None

LOOKS = 1.0
"""Seconds between two looks."""


def refuse_bound(image: Any, spec: str) -> None:
    """Raise InUse where something else is made of an open image: it could not go when it was copied, and the copy would
    not have its snapshots. ``spec`` is how the image is called."""
    why = _bar(image)
    if why:
        raise InUse(f"The image {spec} cannot be moved: {why}. Remove what is made of it, and run the task again.")


def _bar(image: Any) -> str:
    """What else is made of an open image, empty for nothing. A clone that is in the trash can come back, and counts."""
    children = list(image.list_children2())
    if children:
        return f"clones stand on it: {told_clones(children)}"
    foreign = [snapshot["name"] for snapshot in image.list_snaps() if not is_ours(snapshot)]
    return f"it has snapshots that others made: {', '.join(foreign)}" if foreign else ""


@dataclass(frozen=True)
class Removal:
    """Removes images of a pool. ``guests`` are what the guests of this host use, ``patience`` is for how many seconds
    a client is waited for to go away."""

    pool: RbdPool
    guests: Sequence[Use]
    patience: float

    def remove(self, volume: Volume) -> Outcome:
        """No such image on return; ALREADY where there was none, refused with what stands in the way.

        A clone that somebody makes meanwhile keeps its data: Ceph lets an image with clones go neither before its
        snapshot is removed nor after.
        """
        until = time.monotonic() + self.patience
        while True:
            try:
                return self._remove(volume)
            except InUse as error:  # also what a clone that comes to nothing leaves for a moment
                if time.monotonic() >= until:
                    return refused(f"it is in use: {error.message}")
            time.sleep(min(LOOKS, self.patience / 4))

    def _remove(self, volume: Volume) -> Outcome:
        try:
            why = self._obstacle(volume)
            if why:
                return refused(why)
            self._remove_snapshots(volume)
        except NotFound:
            pass  # one that is half made, or half removed, cannot be opened and has a name all the same
        try:
            with told(f"remove the image {self.pool.spec(volume.name)}"):
                rbd.RBD().remove(self.pool.ioctx, volume.name)
        except NotFound:
            return self._none_there(volume)
        except StorageError as error:
            if error.facts.get("errno") == errno.ENOTEMPTY:
                return refused("a clone or a snapshot of it was made meanwhile")
            raise
        return DONE

    def _none_there(self, volume: Volume) -> Outcome:
        """Librbd also says that there is no such image when it cannot write to the trash, on its way through that."""
        with told("list the images"):
            if any(image["name"] == volume.name for image in rbd.RBD().list2(self.pool.ioctx)):
                raise OutOfSpace(
                    f"The image {self.pool.spec(volume.name)} cannot be removed by way of the trash, which the pool "
                    "has no space for: raise its quota or add OSDs, and run the task again."
                )
        return ALREADY

    def _obstacle(self, volume: Volume) -> str:
        """What is made of the image or uses it, when the dead have had the time to be forgotten; empty for nothing."""
        until = time.monotonic() + self.patience
        while True:
            with self.pool.open(volume) as image:
                why = _bar(image)
            if why:
                return why
            seen, clients = self.pool.users(volume, self.guests)
            if not seen and not clients:
                return ""
            if seen or time.monotonic() >= until:
                return f"it is in use by {', '.join([*seen, *clients])}"
            time.sleep(min(LOOKS, self.patience / 4))

    def _remove_snapshots(self, volume: Volume) -> None:
        """Remove our own, and those that Ceph has kept aside for clones that are gone."""
        with self.pool.open(volume, "remove", writable=True) as image:
            for snapshot in list(image.list_snaps()):
                if snapshot["namespace"] == rbd.RBD_SNAP_NAMESPACE_TYPE_TRASH:
                    image.remove_snap_by_id(snapshot["id"])
                    continue
                # Asking whether it is protected is not enough: who died while it took that away left it half done.
                with contextlib.suppress(rbd.InvalidArgument):
                    image.unprotect_snap(SNAPSHOT)
                image.remove_snap(SNAPSHOT)
