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
from collections.abc import Iterator, Sequence

from .._ground.ceph import told
from .._ground.contents import Content, Means
from .._ground.errors import BadInput, NotFound
from .._ground.guest_growth import grow_in_guest
from .._ground.inspection import round_up
from .._ground.intake import Sink
from .._ground.ops import ALREADY, DONE, Facts, Outcome, copied, refused
from .._ground.rbd_image import RbdReader, RbdSink, allocated, flatten, has_invalid_map, own_data, parent_of
from .._ground.rbd_snapshot import RbdSnapshot
from .._ground.staging import make_staging, sweep_staging
from .._policy.disk_xml import Link
from .._records.types import Volume
from .guest_copies import copy_from_guest, end_copy
from .rbd_look import RbdLook
from .rbd_pool import SNAPSHOT
from .rbd_removal import Removal

try:
    import rados  # type: ignore[import-not-found,import-untyped,unused-ignore]
    import rbd  # type: ignore[import-not-found,import-untyped,unused-ignore]
except ImportError:
    rados = rbd = None


class RbdVolumes(RbdLook):
    """The images of a pool, made and changed, too."""

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

    def patch(self, volume: Volume, content: Content) -> Facts:
        """See the contract."""
        with self._pool.open(volume, "write", writable=True) as image:
            sink = RbdSink(image, self._pool.spec(volume.name))
            return content.pour([sink], Means(self._runner, self._staging, self._beat, ()))

    def follow(self, volume: Volume, domain: str, target: str) -> Facts:
        """See the contract."""
        with self._pool.open(volume) as image:
            cloned = parent_of(image) is not None
        link = Link(self.location(volume), volume.format)
        return copy_from_guest(self._host, [link], cloned, domain, target, self._beat)

    def part(self, volume: Volume, keep: bool) -> None:
        """See the contract."""
        end_copy(self._host, self._pool.spec(volume.name), keep)

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
