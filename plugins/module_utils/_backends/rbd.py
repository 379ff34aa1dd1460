# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""The backend for Ceph: libvirt's ``rbd`` pools. Every volume is an RBD image of raw content.

An image of the cache is sealed by a snapshot; what is read of it, and cloned from it, is that snapshot. Disks are
clones of it. Guests that use an image are seen by Ceph itself, on any host: an image that is open for writing is
watched. The watch of a client that died goes away after half a minute, and what must not be done to a volume in use
waits for that.

Libvirt's own calls are not used: for rbd pools they neither upload nor download.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from .._ground.ceph import Cluster, told
from .._ground.command import Runner
from .._ground.contents import Content, Incoming, Means, RawReader
from .._ground.disk_data import DiskReader
from .._ground.errors import BadInput, NotFound, StorageError
from .._ground.guest_growth import grow_in_guest
from .._ground.inspection import round_up
from .._ground.intake import Sink, Staging
from .._ground.libvirt_host import Host, Use
from .._ground.ops import ALREADY, DONE, Facts, Outcome, copied, refused
from .._ground.rbd_image import RbdDisk, RbdReader, RbdSink, allocated, flatten, has_invalid_map, own_data, parent_of
from .._ground.rbd_snapshot import RbdSnapshot
from .._ground.staging import make_staging, sweep_staging
from .._policy.disk_xml import Location
from .._records.types import Volume
from .contract import Capabilities, Route, Stat, Users
from .rbd_pool import SNAPSHOT, RbdPool, is_sealed
from .rbd_removal import LOOKS, Removal, refuse_bound

try:
    import rados  # type: ignore[import-not-found,import-untyped,unused-ignore]
    import rbd  # type: ignore[import-not-found,import-untyped,unused-ignore]
except ImportError:
    rados = rbd = None

R = TypeVar("R")

PATIENCE = 40.0
"""Seconds, and a few more, for which a client that died is still seen as using an image."""
OLD_FORMAT = "none"
"""Stands for the id of an image of RBD's first format, which has none."""
_RESIZE = "nova-resize"
_THREADS = 8


class RbdVolumes:
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

    def prepare(self) -> None:
        """See Backend. Librbd removes images by way of the trash, which a pool that is full could not begin then."""
        with told("make the trash"), rados.WriteOpCtx() as op:
            op.new(rados.LIBRADOS_CREATE_IDEMPOTENT)
            self._pool.ioctx.operate_write_op(op, "rbd_trash")
        make_staging(self._staging.directory)

    def clear(self) -> None:
        """See Backend."""
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(self._staging.directory)

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

    # Making

    def allocate_all(self, batch: Sequence[tuple[Volume, int]]) -> list[Outcome]:
        """Several at a time."""
        return self._each(self.allocate, batch)

    def allocate(self, volume: Volume, size: int) -> Outcome:
        """See the contract. What was never written reads as zeroes."""
        if size <= 0:
            raise BadInput(f"The volume {volume} is to have {size} bytes: give it at least one.")
        with told(f"make the image {self._pool.spec(volume.name)}"):
            try:
                rbd.RBD().create(self._pool.ioctx, volume.name, round_up(size))
            except rbd.ImageExists:
                return self._made_before(volume, round_up(size), None)
        return DONE

    def clone_all(self, batch: Sequence[tuple[Volume, Volume, int, str]]) -> list[Outcome]:
        """Several at a time; each image is looked at once."""
        images = {image.name: image for image, *_unused in batch}
        found = dict(zip(images, self._each(self._to_clone, [(image,) for image in images.values()])))
        return self._each(self._clone, [(*arguments, *found[arguments[0].name]) for arguments in batch])

    def clone(self, image: Volume, volume: Volume, size: int, how: str) -> Outcome:
        """See the contract."""
        return self.clone_all([(image, volume, size, how)])[0]

    def _to_clone(self, image: Volume) -> tuple[int, str]:
        """The size of an image, and why no clones can be made of it, "" where they can.

        It is not protected here where that is what it lacks: somebody may be removing it, and a snapshot that gets
        protected on its way into Ceph's trash of snapshots can never be removed.
        """
        try:
            with self._pool.open(image, "look at", SNAPSHOT) as opened:
                if self._pool.clone_format == 2 or opened.is_protected_snap(SNAPSHOT):
                    return opened.size(), ""
        except NotFound:
            return 0, f"the image {image} has no volume that is sealed"
        return 0, (
            f"this client makes clones of format 1, for which the image {image} is not protected: run 'rbd snap "
            f"protect {self._pool.spec(image.name)}@{SNAPSHOT}', or set rbd_default_clone_format to 2"
        )

    def _clone(self, image: Volume, volume: Volume, size: int, how: str, least: int, why: str) -> Outcome:
        """One clone, grown last: one that was cut short is not taken for a whole one."""
        if why:
            return refused(why)
        if least > size:
            return refused(f"the image {image} has {least} bytes, more than the {size} asked for")
        flat = how == "copy"
        try:
            with told(f"clone the image {self._pool.spec(image.name)}"):
                try:
                    rbd.RBD().clone(self._pool.ioctx, image.name, SNAPSHOT, self._pool.ioctx, volume.name)
                except rbd.ImageExists:
                    return self._made_before(volume, round_up(size), None if flat else image.name)
        except NotFound:
            return refused(f"the image {image} was removed meanwhile")
        if flat or round_up(size) != least:
            with self._pool.open(volume, "make", writable=True) as made:
                if flat:
                    made.flatten()
                made.resize(round_up(size), allow_shrink=False)
                return copied(allocated(made) if flat else 0)
        return DONE

    def _made_before(self, volume: Volume, size: int, image: str | None) -> Outcome:
        """Whether what stands under a fresh name is what was to be made there: then an earlier call of ours made it."""
        stat = self.stat(volume)
        if stat is not None and stat.size == size and self.pointer(volume) == image:
            return ALREADY
        return refused(f"another image stands at {volume}")

    def fill(self, volume: Volume, content: Content) -> Facts:
        """See the contract. Nothing is kept on this host on the way, but a source that needs random access."""
        if isinstance(content, RbdSnapshot):
            facts = self._clone_snapshot(volume, content)
            if facts is not None:
                return facts
        with self.filling(volume) as (sink, means):
            return content.pour([sink], means)

    @contextlib.contextmanager
    def filling(self, volume: Volume) -> Iterator[tuple[Sink, Means]]:
        """See Backend."""
        shown = self._pool.spec(volume.name)
        with told(f"make the image {shown}"):
            rbd.RBD().create(self._pool.ioctx, volume.name, 0)
        with self._pool.open(volume, "write", writable=True) as image:
            yield RbdSink(image, shown), Means(self._runner, self._staging, self._beat, ())

    def _clone_snapshot(self, volume: Volume, source: RbdSnapshot) -> Facts | None:
        """Clone a snapshot of this very cluster; None where it has to be copied."""
        if source.cluster.fsid != self._cluster.fsid:
            return None
        facts = source.clone_into(self._cluster, self._pool.ioctx, volume.name, self._pool.clone_format)
        if facts is not None and source.flattened:
            with self._pool.open(volume, "flatten", writable=True) as image:
                image.flatten()
                facts["bytes_read"] = facts["bytes_written"] = allocated(image)
                facts["content"] = RbdReader(image).content(self._beat)
        return facts

    def seal(self, volume: Volume) -> Outcome:
        """See the contract."""
        self._pool.seal(volume)
        return DONE

    # Changing

    def grow(self, volume: Volume, size: int) -> Outcome:
        """See the contract. Whoever else has the image open learns of it by the watch."""
        size = round_up(size)
        stat = self.stat(volume)
        if stat is None:
            return refused(f"the volume {volume} is missing")
        if stat.size >= size:
            return ALREADY
        if self._host is not None:
            spec = self._pool.spec(volume.name)
            outcome = grow_in_guest(self._host, [use for use in self._host.uses() if use.source == spec], size)
            if outcome is not None:
                return outcome
        with self._pool.open(volume, "grow", writable=True) as image:
            if image.size() < size:
                image.resize(size, allow_shrink=False)
        return DONE

    def flatten(self, volume: Volume) -> Outcome:
        """See the contract."""
        with self._pool.open(volume) as image:
            if parent_of(image) is None and not has_invalid_map(image):
                return ALREADY
        users = self.users(volume)
        if users:
            return refused(f"it is in use by {users}")
        with self._pool.open(volume, "flatten", writable=True) as image:
            before = own_data(image)
            flatten(image)
            return copied(own_data(image) - before)

    def adopt(self, found: str, volume: Volume) -> Outcome:
        """See the contract. An image keeps its name: renaming one is not atomic, and a crash leaves it two."""
        if self.inventory().get(found) != volume.adopted or found != volume.name:
            return refused(f"{found} is not the image that it was when the task began")
        return DONE

    def leave(self, found: str, volume: Volume) -> Outcome:
        """See the contract. An adopted image never had two names."""
        return ALREADY

    def remove_all(self, batch: Sequence[tuple[Volume]]) -> list[Outcome]:
        """One look over the host's guests for all, then several at a time."""
        return self._each(Removal(self._pool, self._guests(), self._patience).remove, batch)

    def remove(self, volume: Volume) -> Outcome:
        """See the contract."""
        return self.remove_all([(volume,)])[0]

    def sweep(self) -> list[str]:
        """See the contract."""
        return sweep_staging(self._staging.directory)

    @staticmethod
    def _each(do: Callable[..., R], batch: Sequence[tuple[Any, ...]]) -> list[R]:
        """Do it for all of a batch, several at a time. All have come to an end when an error is raised."""
        with ThreadPoolExecutor(_THREADS) as threads:
            return list(threads.map(lambda arguments: do(*arguments), batch))


def _unknown(error: StorageError) -> Users:
    return Users(unknown=f"it cannot be told who uses it: {error}")
