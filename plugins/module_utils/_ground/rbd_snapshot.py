# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""A snapshot of an RBD image as the content of a new volume: cloned where that is possible, copied otherwise."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from .bounds import Bounds
from .ceph import Cluster, told
from .command import Runner
from .contents import Means
from .costs import Cost
from .errors import BadInput, NotFound, SourceError, StorageError
from .inspection import HEAD, inspect_raw, round_up
from .intake import Sink, data_runs
from .ops import Facts
from .rbd_image import RbdReader

try:
    import rbd  # type: ignore[import-not-found,import-untyped,unused-ignore]
except ImportError:
    rbd = None

_ADDRESS = re.compile(r"(?P<pool>[^/@]+)/(?:(?P<namespace>[^/@]+)/)?(?P<image>[^/@]+)@(?P<snapshot>[^/@]+)")


@dataclass(frozen=True)
class RbdSnapshot:
    """``pool/image@snapshot`` of ``cluster``, raw content. What is cloned from it needs it, unless it is
    ``flattened``: then whoever made the snapshot may remove it."""

    cluster: Cluster
    pool: str
    image: str
    snapshot: str
    bounds: Bounds
    namespace: str = ""
    flattened: bool = False

    @classmethod
    def at(cls, cluster: Cluster, address: str, bounds: Bounds, flattened: bool = False) -> RbdSnapshot:
        """The snapshot at ``pool/image@snapshot`` or ``pool/namespace/image@snapshot``; BadInput for anything else."""
        found = _ADDRESS.fullmatch(address)
        if found is None:
            raise BadInput(f"{address!r} names no RBD snapshot: give pool/image@snapshot.")
        parts = {name: part or "" for name, part in found.groupdict().items()}
        return cls(cluster, bounds=bounds, flattened=flattened, **parts)

    def __str__(self) -> str:
        return "/".join(filter(None, (self.pool, self.namespace, f"{self.image}@{self.snapshot}")))

    def key(self) -> str:
        """What identifies it for ever: ``rbd-snap:<cluster>/<pool id>/<image id>/<snapshot id>``."""
        with self._open(self.cluster) as (ioctx, image):
            (number,) = (each["id"] for each in image.list_snaps() if each["name"] == self.snapshot)
            return f"rbd-snap:{self.cluster.fsid}/{ioctx.get_pool_id()}/{image.id()}/{number}"

    def cost(self, runner: Runner) -> Cost:
        """See Content."""
        with self._open(self.cluster) as (_ioctx, image):
            source = RbdReader(image)
            return Cost(source.allocated(), source.allocated(), source.size)

    def pour(self, sinks: Sequence[Sink], means: Means) -> Facts:
        """See Content. Of what is read, blocks count that are not zero."""
        read = written = 0

        def write(offset: int, block: memoryview) -> None:
            nonlocal read, written
            read += len(block)
            for start, end in data_runs(block):
                for sink in sinks:
                    sink.write(offset + start, block[start:end])
                    written += end - start

        with self._open(self.cluster) as (_ioctx, image):
            self._check(image)
            source = RbdReader(image)
            for sink in sinks:
                sink.set_size(source.size)
            content = source.content(means.beat, write)
        for sink in sinks:
            sink.sync()
        return {"size": source.size, "content": content, "bytes_read": read, "bytes_written": written}

    def clone_into(self, cluster: Cluster, ioctx: Any, name: str, clone_format: int) -> Facts | None:
        """Clone it as ``name`` in a pool of the same cluster, which ``cluster`` and ``ioctx`` are the way to.

        None, and nothing made, where it has to be copied: its image is of a kind that has no clones, who uses that pool
        may not read this one, or the two are in different namespaces and clones are of format 1. The facts have no
        ``content``: nothing was read.
        """
        try:
            with self._open(cluster) as (parents, image):
                self._check(image)
                if not image.features() & rbd.RBD_FEATURE_LAYERING:
                    return None
                if clone_format == 1 and not image.is_protected_snap(self.snapshot):
                    raise SourceError(
                        f"The snapshot {self} is not protected, and this cluster admits clients that can only clone "
                        "one that is: protect it ('rbd snap protect'), as Glance does, or have the cluster require "
                        "newer clients ('ceph osd set-require-min-compat-client mimic')."
                    )
                with told(f"clone the snapshot {self}"):
                    rbd.RBD().clone(parents, self.image, self.snapshot, ioctx, name)
                size = image.size()
        except StorageError as error:
            if error.facts.get("errno") in (errno.EPERM, errno.EACCES, errno.EXDEV):
                return None
            raise
        return {"size": size, "parent": str(self), "clone_format": clone_format, "bytes_read": 0, "bytes_written": 0}

    def _check(self, image: Any) -> None:
        """Refuse what an image from anywhere else would be refused for. Raises UnsafeImage."""
        size: int = image.size()
        inspect_raw(image.read(0, min(HEAD, size)), "raw", self.bounds, round_up(size))

    @contextmanager
    def _open(self, cluster: Cluster) -> Iterator[tuple[Any, Any]]:
        """The pool and the image, open at the snapshot. Raises SourceError where there is no such thing."""
        try:
            ioctx = cluster.ioctx(self.pool, self.namespace)
            with told(f"open the snapshot {self}"):
                image = rbd.Image(ioctx, self.image, self.snapshot, read_only=True)
        except NotFound as error:
            raise SourceError(f"There is no snapshot {self} in the Ceph cluster: name one that it has.") from error
        with told(f"read the snapshot {self}"), ioctx, image:
            yield ioctx, image
