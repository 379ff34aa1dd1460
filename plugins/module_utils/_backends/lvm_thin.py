# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""Thin volumes: everything in one thin pool, clones as snapshots.

A thin snapshot shares its image's blocks and does not need the image: LVM lets the image go, and the blocks stay for as
long as anything uses them. So a clone is independent at once, and its image is not kept for its sake.

The pool clears each block before a volume has it, so new and grown space reads as zeroes. A full pool stops every
guest in it, and one whose metadata is full may not be repairable: nothing is begun above the watermarks, and a fill
ends itself when it comes there. Removing needs no room.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from .._ground.command import INSPECTING
from .._ground.errors import OutOfSpace, StorageError
from .._ground.lvm import LogicalVolume, failure
from .._records.types import Volume
from .contract import Capabilities
from .lvm import LvmVolumes, New
from .lvm_group import check_zeroing
from .lvm_look import Seen
from .lvm_names import DISK, IMAGE, lv_name

DATA_WATERMARK = 90.0
METADATA_WATERMARK = 80.0
"""Percent of the thin pool's data and metadata space above which nothing new is begun."""
_LOOK_SECONDS = 2.0
"""How often a fill looks at the pool."""


class ThinVolumes(LvmVolumes):
    """Volumes in the thin pool of the group."""

    CAPABILITIES = Capabilities(
        backend="lvm",
        image_name=IMAGE,
        disk_names={"raw": DISK},
        clones={"snapshot": "raw", "copy": "raw"},
        clone_reasons={
            "snapshot": "a thin snapshot costs the same whatever the size of its image",
            "copy": "asked for: a full copy that shares nothing with its image",
        },
        independent=frozenset({"snapshot", "copy"}),
        spells_backing=False,
    )

    def capacity(self) -> tuple[int, int]:
        """See the contract: of the thin pool."""
        pool = self._pool(self._look())
        return pool.size, pool.size - int(pool.size * pool.data_percent / 100)

    def _taken(self, lvs: Sequence[LogicalVolume]) -> Mapping[str, int]:
        """See LvmLook: what the pool has mapped. LVM tells it in hundredths of a percent, the kernel in sectors."""
        mapped: dict[str, int] = {}
        if lvs:
            out = self._runner.run(["dmsetup", "status", "--target", "thin"], limits=INSPECTING).out
            for line in out.splitlines():
                name, _colon, status = line.partition(": ")
                words = status.split()
                if len(words) > 3 and words[3].isdigit():
                    mapped[name] = int(words[3]) * 512
        group = self.group.name.replace("-", "--")
        return {lv.uuid: mapped.get(f"{group}-{lv.name.replace('-', '--')}", 0) for lv in lvs}

    def _pool(self, seen: Seen) -> LogicalVolume:
        if seen.pool is None:
            raise OutOfSpace(
                f"The thin pool {self.group.name}/{self.group.pool} is gone: look with lvs {self.group.name}."
            )
        return seen.pool

    def _creating(self, volume: Volume, size: int) -> list[str]:
        words = ["lvcreate", "-y", "-an", "-kn", "--type", "thin", "-V", self._bytes(size)]
        words += ["--thinpool", self.group.pool]
        return [*words, *self._called(volume, size), self.group.name]

    def _blank(self, descriptor: int, volume: Volume, size: int) -> None:
        """Nothing is to do: the pool has no block for the volume yet, and clears those that it will have."""

    def _check_room(self, seen: Seen) -> None:
        pool = self._pool(seen)
        check_zeroing(pool, self.group.name)
        if pool.ailment:  # LVM would speak of free space
            raise StorageError(pool.ailment)
        for what, used, mark in (
            ("data", pool.data_percent, DATA_WATERMARK),
            ("metadata", pool.metadata_percent, METADATA_WATERMARK),
        ):
            if used > mark:
                option = " --poolmetadatasize" if what == "metadata" else ""
                raise OutOfSpace(
                    f"The thin pool {self.group.name}/{pool.name} has {used:.2f} % of its {what} space in use, and "
                    f"above {mark:.0f} % nothing is begun, since a full pool stops every guest in it: prune images, "
                    f"remove disks, or extend it with lvextend{option}.",
                    used_percent=used,
                    watermark=mark,
                )

    def _fill_beat(self) -> Callable[[], None]:
        due = time.monotonic() + _LOOK_SECONDS

        def beat() -> None:
            nonlocal due
            self._beat()
            if time.monotonic() > due:
                self._check_room(self._look())
                due = time.monotonic() + _LOOK_SECONDS

        return beat

    def _clone(self, batch: Sequence[tuple[LogicalVolume, Volume, int]]) -> None:
        new = []
        for image, volume, size in batch:
            words = ["lvcreate", "-y", "-an", "-kn", "-s", *self._called(volume, size)]
            commands = [[*words, f"{self.group.name}/{image.name}"]]
            if size > image.size:
                path = f"{self.group.name}/{lv_name(volume.name, self.group.name)}"
                commands.append(["lvextend", "-L", self._bytes(size), path])
            new.append(New(volume, size, commands))
        with self._made(new):
            pass

    def _extend(self, lv: LogicalVolume, volume: Volume, size: int) -> None:
        changed = self._lvm.change_all(self.group.name, [["lvextend", "-L", self._bytes(size), self._path(lv)]])
        if not any(each.uuid == lv.uuid and each.size >= size for each in changed.volumes):
            raise failure(f"Growing {volume}", changed.said)
