# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""The images of a Ceph pool by the names that records give them: opened, and who uses them and stands on them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from .._ground.ceph import Cluster, told, understood
from .._ground.errors import LostMetadata, NotFound
from .._ground.libvirt_host import Use
from .._ground.rbd_presence import Presence
from .._records.types import Volume

try:
    import rbd  # type: ignore[import-not-found,import-untyped,unused-ignore]
except ImportError:
    rbd = None

SNAPSHOT = "image"
"""The snapshot that an image is sealed by, and cloned from."""
_LUMINOUS_OR_OLDER = "abcdefghijkl"  # releases go by the alphabet, and mimic's clients are the first to know format 2


class RbdPool:
    """A pool, or a namespace of it."""

    def __init__(self, cluster: Cluster, name: str, namespace: str = "") -> None:
        self.cluster, self.name, self.namespace = cluster, name, namespace

    @cached_property
    def ioctx(self) -> Any:
        """What librbd reaches the pool by; for any number of threads."""
        return self.cluster.ioctx(self.name, self.namespace)

    @cached_property
    def _presence(self) -> Presence:
        return Presence(self.ioctx)

    @cached_property
    def clone_format(self) -> int:
        """Which clones librbd makes here: 1, for which a snapshot has to be protected, or 2, for which it has not.
        As librbd decides it: by the client's option, or by the oldest clients that the cluster admits."""
        wanted = self.cluster.option("rbd_default_clone_format")
        if wanted in ("1", "2"):
            return int(wanted)
        with understood("osd dump"):
            oldest = str(self.cluster.mon_command("osd dump").get("require_min_compat_client", ""))
        return 1 if oldest[:1] in _LUMINOUS_OR_OLDER else 2

    def seal(self, volume: Volume) -> None:
        """Have the image sealed by its snapshot, and that protected where clones need it to be."""
        with self.open(volume, "seal", writable=True) as image:
            if not is_sealed(image):
                image.create_snap(SNAPSHOT)
            if self.clone_format == 1 and not image.is_protected_snap(SNAPSHOT):
                image.protect_snap(SNAPSHOT)

    def capacity(self) -> tuple[int, int]:
        """The bytes that the pool holds in all, and that could still be stored: with its replication and its quota."""
        with understood("df detail"):
            for pool in self.cluster.mon_command("df", detail="detail")["pools"]:
                if pool["name"] == self.name:
                    found, stored = pool["stats"], int(pool["stats"]["stored"])
                    free, quota = int(found["max_avail"]), int(found.get("quota_bytes", 0))
                    free = min(free, max(0, quota - stored)) if quota else free
                    return stored + free, free
        raise NotFound(f"There is no pool {self.name} in the Ceph cluster.")

    def spec(self, name: str) -> str:
        """The image as Ceph's tools and guests spell it: ``pool/image`` or ``pool/namespace/image``. Raises
        LostMetadata where the name is none of an image, and would be read as something else."""
        if not name or "/" in name or "@" in name:
            raise LostMetadata(
                f"The record names the volume {name!r}, which no image can be called: restore the record."
            )
        return "/".join(filter(None, (self.name, self.namespace, name)))

    @contextlib.contextmanager
    def open(
        self, volume: Volume, doing: str = "look at", snapshot: str | None = None, *, writable: bool = False
    ) -> Iterator[Any]:
        """The image. Raises NotFound where there is none, and LostMetadata where it is not the one that was adopted.

        Only one that is open ``writable`` is seen as used by us. If that is removed all the same, this process ends.
        """
        shown = self.spec(volume.name)
        with told(f"{doing} the image {shown}"), rbd.Image(self.ioctx, volume.name, snapshot, not writable) as image:
            if volume.adopted and writable and image.id() != volume.adopted:
                raise LostMetadata(f"The image {shown} is not the one that was adopted: bring that one back.")
            with self._presence.of(image, shown) if writable else contextlib.nullcontext():
                yield image

    def users(self, volume: Volume, guests: Iterable[Use]) -> tuple[list[str], list[str]]:
        """The guests and the clients that use the image, or a clone of it. A saved guest has no client."""
        try:
            with self.open(volume) as image:
                clients, children = watchers(image), list(image.list_children2())
        except NotFound:
            return [], []
        for child in children:
            with contextlib.suppress(NotFound):
                clients += self._users_of_clone(child)
        specs = {self.spec(volume.name), *map(spelt, children)}
        return [str(use) for use in guests if use.live and use.source in specs], clients

    def _users_of_clone(self, child: Mapping[str, Any]) -> list[str]:
        """The clients of a clone, in whatever pool it is, and in its trash, too."""
        with (
            told(f"look at {spelt(child)}"),
            self.cluster.ioctx(child["pool"], child["pool_namespace"]) as ioctx,
            rbd.Image(ioctx, image_id=child["id"], read_only=True) as image,
        ):
            return watchers(image)


def watchers(image: Any) -> list[str]:
    """The clients that have the image open for writing."""
    return [f"the client at {watcher['addr']}" for watcher in image.watchers_list()]


def spelt(child: Mapping[str, Any]) -> str:
    """A clone as Ceph's tools spell it."""
    return "/".join(filter(None, (child["pool"], child["pool_namespace"], child["image"])))


def told_clones(children: Sequence[Mapping[str, Any]]) -> str:
    """The names of clones, for a message; a few of them, where there are many."""
    names = [spelt(child) + (" (in the trash)" if child["trash"] else "") for child in children[:4]]
    return ", ".join(names) + (f" and {len(children) - len(names)} more" if len(children) > len(names) else "")


def is_sealed(image: Any) -> bool:
    """Whether the image has the snapshot that seals it."""
    return any(snapshot["name"] == SNAPSHOT and is_ours(snapshot) for snapshot in image.list_snaps())


def is_ours(snapshot: Mapping[str, Any]) -> bool:
    """Whether a snapshot is the one that seals an image, or one that Ceph has kept aside for the clones it had."""
    kept_aside = snapshot["namespace"] == rbd.RBD_SNAP_NAMESPACE_TYPE_TRASH
    seals = snapshot["namespace"] == rbd.RBD_SNAP_NAMESPACE_TYPE_USER and snapshot["name"] == SNAPSHOT
    return bool(seals or kept_aside)
