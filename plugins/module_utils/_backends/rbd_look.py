# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""Looking at the images of a pool in Ceph: what there is, where it is, what it is, and who uses it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from .._ground.ceph import Cluster, told
from .._ground.command import Runner
from .._ground.contents import Content, Incoming, RawReader
from .._ground.disk_data import DiskReader
from .._ground.errors import InUse, NotFound, StorageError
from .._ground.intake import Staging
from .._ground.libvirt_host import Host, Use
from .._ground.rbd_image import RbdDisk, RbdReader, allocated, parent_of
from .._ground.rbd_snapshot import RbdSnapshot
from .._policy.disk_xml import Location
from .._records.types import Volume
from .contract import Capabilities, Route, Stat, Users
from .rbd_pool import SNAPSHOT, RbdPool, is_sealed, watchers
from .rbd_removal import LOOKS, refuse_bound

try:
    import rbd  # type: ignore[import-not-found,import-untyped,unused-ignore]
except ImportError:
    rbd = None

R = TypeVar("R")

PATIENCE = 40.0
"""Seconds, and a few more, for which a client that died is still seen as using an image."""
OLD_FORMAT = "none"
"""Stands for the id of an image of RBD's first format, which has none."""
_RESIZE = "nova-resize"
_THREADS = 8


class RbdLook:
    """The images of ``pool``. ``secret`` is the UUID of the libvirt secret that has the user's key, ``host`` is asked
    for guests, and tells a running one that its disk grew; ``staging`` is where a source is kept that cannot be
    converted as it comes. ``patience`` is for how many seconds the trace of a client is waited for to go away."""

    def __init__(
        self,
        cluster: Cluster,
        pool: str,
        runner: Runner,
        staging: Staging,
        namespace: str = "",
        host: Host | None = None,
        secret: str = "",
        beat: Callable[[], None] = lambda: None,
        patience: float = PATIENCE,
    ) -> None:
        self._cluster, self._pool = cluster, RbdPool(cluster, pool, namespace)
        self._runner, self._staging, self._host, self._beat = runner, staging, host, beat
        self._secret, self._patience = secret, patience

    def capabilities(self) -> Capabilities:
        """See Backend. How clones are made is the cluster's to say."""
        return Capabilities(
            backend="rbd",
            image_name="{id}",
            disk_names={"raw": "{id}"},
            clones={"clone": "raw", "copy": "raw"},
            clone_reasons={
                "clone": f"a clone (format {self._pool.clone_format}) costs the same whatever the size of its image, "
                "whose objects it shares",
                "copy": "asked for: a full copy that needs no image",
            },
            independent=frozenset({"copy"}),
            spells_backing=False,
            takes_own=True,
            follows=not self._pool.namespace,  # of which libvirt cannot tell a guest
        )

    # Telling

    def location(self, volume: Volume) -> Location:
        """See Backend."""
        access = self._cluster.access
        return Location("network", self._pool.spec(volume.name), access.hosts, access.user, self._secret)

    def name_at(self, address: str) -> str | None:
        """See Backend."""
        folder, _slash, name = (address[4:] if address.startswith("rbd:") else address).rpartition("/")
        return name if name and "@" not in name and folder == self._pool.spec("x").rpartition("/")[0] else None

    def flaw(self, volume: Volume) -> str:
        """See Backend. There is nothing that raw content could be wrong about."""
        native = self.inventory().get(volume.name)
        if native is None:
            return "the pool has no image of this name"
        if native == OLD_FORMAT:
            return "it is of RBD's first format, which nobody can tell apart by an id"
        with self._pool.open(volume) as image:
            if any(each["name"] == _RESIZE for each in image.list_snaps()):
                return f"Nova is resizing it, for it has the snapshot {_RESIZE}: confirm or revert that first"
        return ""

    def obstacle_to_clone(self, how: str) -> str:
        """See Backend."""
        return "" if how in (clones := self.capabilities().clones) else f"the pool offers {', '.join(clones)}"

    def route(self, content: Content) -> Route:
        """See Backend."""
        if isinstance(content, RbdSnapshot) and content.cluster.fsid == self._cluster.fsid:
            how = "which copies it by itself" if content.flattened else "so that nothing has to be copied"
            return Route("clone", f"the snapshot is in the same cluster, {how}", copies=content.flattened)
        staged = isinstance(content, Incoming) and content.is_staged(local=False)
        return Route(staging=self._staging.directory if staged else "")

    @contextlib.contextmanager
    def reading(self, volume: Volume) -> Iterator[RawReader]:
        """See Backend."""
        with self._pool.open(volume, "read", SNAPSHOT) as image:
            yield RbdReader(image)

    @contextlib.contextmanager
    def disk_data(self, volume: Volume, own: bool = False, used: bool = False) -> Iterator[DiskReader]:
        """See Backend. Always all of it: what Ceph tells of a clone alone leaves out objects that were discarded."""
        with self._pool.open(volume, "read") as image:
            refuse_bound(image, self._pool.spec(volume.name))
            if used and len(clients := watchers(image)) > 1:
                raise InUse(f"The image {volume} is in use by {', '.join(clients)}: stop all but one of them.")
            yield RbdDisk(image)

    def to_flatten(self, volume: Volume) -> int | None:
        """See Backend."""
        with self._pool.open(volume, "read") as image:
            return max(0, RbdReader(image).allocated() - allocated(image)) if parent_of(image) is not None else 0

    def others(self) -> Sequence[str]:
        """See Backend. Images in the trash can come back."""
        with told("list the trash"):
            return [f"{entry['name']} (in the trash)" for entry in rbd.RBD().trash_list(self._pool.ioctx)]

    # Looking

    def inventory(self) -> Mapping[str, str]:
        """See the contract. One listing: no image is opened."""
        with told(f"list the images of {self._pool.name}"):
            return {image["name"]: image["id"] or OLD_FORMAT for image in rbd.RBD().list2(self._pool.ioctx)}

    def stat_all(self, batch: Sequence[tuple[Volume]]) -> list[Stat | None]:
        """Several at a time."""
        return self._each(self.stat, batch)

    def stat(self, volume: Volume) -> Stat | None:
        """See the contract. Of an image without a valid object map, what is allocated is said to be all of it."""
        try:
            with self._pool.open(volume) as image:
                return Stat(image.size(), allocated(image), image.id())
        except NotFound:
            return None

    def pointer(self, volume: Volume) -> str | None:
        """See the contract. An image of this pool by its name, anything else as ``pool/image@snapshot``."""
        with self._pool.open(volume) as image:
            parent = parent_of(image)
        if parent is None:
            return None
        where = (parent["pool_name"], parent["pool_namespace"])
        name, snapshot = parent["image_name"], parent["snap_name"]
        if where == (self._pool.name, self._pool.namespace) and snapshot == SNAPSHOT:
            return name
        return "/".join(filter(None, (*where, f"{name}@{snapshot}")))

    def digest(self, volume: Volume) -> str:
        """See the contract."""
        with self._pool.open(volume, "read") as image:
            if is_sealed(image):
                image.set_snap(SNAPSHOT)
            return RbdReader(image).content(self._beat)

    def capacity(self) -> tuple[int, int]:
        """See the contract."""
        return self._pool.capacity()

    def sealed(self, volume: Volume) -> bool:
        """See the contract."""
        with self._pool.open(volume) as image:
            return is_sealed(image) and (self._pool.clone_format == 2 or image.is_protected_snap(SNAPSHOT))

    def users_all(self, batch: Sequence[tuple[Volume]]) -> list[Users]:
        """One look over the host's guests for all; the clients of several volumes at a time. Where a client is all that
        is seen, it may be the trace of one that died: that is given the time to go away."""
        try:
            guests = self._guests()
        except StorageError as error:
            return [_unknown(error) for _unused in batch]

        def users(volume: Volume) -> tuple[Users, bool]:
            try:
                seen, clients = self._pool.users(volume, guests)
            except StorageError as error:
                return _unknown(error), False
            return Users(by=(*seen, *clients)), bool(clients) and not seen

        until = time.monotonic() + self._patience
        while True:
            found = self._each(users, batch)
            if not any(fading for _users, fading in found) or time.monotonic() >= until:
                return [each for each, _fading in found]
            time.sleep(min(LOOKS, self._patience / 4))

    def users(self, volume: Volume) -> Users:
        """See the contract."""
        return self.users_all([(volume,)])[0]

    def _guests(self) -> list[Use]:
        return [] if self._host is None else self._host.uses()

    @staticmethod
    def _each(do: Callable[..., R], batch: Sequence[tuple[Any, ...]]) -> list[R]:
        """Do it for all of a batch, several at a time. All have come to an end when an error is raised."""
        with ThreadPoolExecutor(_THREADS) as threads:
            return list(threads.map(lambda arguments: do(*arguments), batch))


def _unknown(error: StorageError) -> Users:
    return Users(unknown=f"it cannot be told who uses it: {error}")
