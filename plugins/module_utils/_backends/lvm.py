# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""The backend for volume groups: libvirt's ``logical`` pools. What thin and thick volumes have in common.

::

    <group>/disk+web1+root+k7d2m4q9xa3e   disks
    <group>/image+debian-12+9f86...+p4x8  cached images: read-only
    <group>/virt-storage-records          a small file system with the record store
    <group>/virt-storage-pool             the thin pool, where volumes are thin

Volumes have the tag ``virt-storage``; an adopted one keeps its name and is found by its UUID. Libvirt does not look
into the volumes of such a pool, so raw disks may stand in it.

A logical volume is a whole number of extents. A raw volume of another size has that in a tag: the digest of an image
is of so many bytes, and a disk of 10,000,000,000 bytes is not one that would have to shrink to them. Its guest sees
zeroes up to the end of the extent.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from .._ground.block_device import device_size, is_read_only, write_at
from .._ground.command import Runner
from .._ground.contents import Content, Incoming, Means
from .._ground.digest import content_of_file
from .._ground.errors import BadInput, StorageError
from .._ground.guest_growth import bar_to_growth, grow_in_guest
from .._ground.intake import Sink, Staging
from .._ground.libvirt_host import Host
from .._ground.lvm import TAG, LogicalVolume, failure, in_portions
from .._ground.ops import ALREADY, DONE, Facts, Outcome, copied, refused
from .._ground.staging import make_staging
from .._records.types import Volume
from .contract import Route
from .lvm_group import Group
from .lvm_look import TRIES, LvmLook, Seen
from .lvm_names import RECORDS, SPARE, exact_size, lv_name, size_tag, stale_size_tag, tags_for, volume_name
from .lvm_sink import LvSink

ABANDONED_SECONDS = 3600
"""How old what is only ours must be, and unused, to be a dead process's."""


@dataclass(frozen=True)
class New:
    """A logical volume to be made by ``commands``, not active, and the bytes that it then has at least."""

    volume: Volume
    size: int
    commands: Sequence[Sequence[str]]


class LvmVolumes(LvmLook):
    """The volumes of ``group``; ``host`` tells a running guest that its disk grew. Sources that must be read twice
    are kept in the folder ``staging`` meanwhile."""

    def __init__(
        self,
        group: Group,
        runner: Runner,
        inherit: Callable[[], Sequence[int]] = tuple,
        host: Host | None = None,
        beat: Callable[[], None] = lambda: None,
        staging: str = "/var/tmp",
        staging_bytes: int = 1 << 42,
    ) -> None:
        super().__init__(group, runner, inherit, host, beat)
        self._staging = Staging(staging, staging_bytes)
        self._unfinished: set[str] = set()

    # What thin and thick volumes differ in

    def _creating(self, volume: Volume, size: int) -> list[str]:
        """The command that makes a blank logical volume for ``volume``, not active."""
        raise NotImplementedError

    def _check_room(self, seen: Seen) -> None:
        """Raise OutOfSpace where nothing more may be begun."""
        raise NotImplementedError

    def _blank(self, descriptor: int, volume: Volume, size: int) -> None:
        """Have a new logical volume read as ``size`` zeroes, through its format; a raw one all that it has."""
        raise NotImplementedError

    def _clone(self, batch: Sequence[tuple[LogicalVolume, Volume, int]]) -> None:
        """Clones in the default way, all or none."""
        raise NotImplementedError

    def _extend(self, lv: LogicalVolume, volume: Volume, size: int) -> None:
        """Have a raw volume's device show ``size`` bytes, the new ones zeroes."""
        raise NotImplementedError

    def prepare(self) -> None:
        """See Backend. After a host's start, what is ours and not active yet is activated."""
        make_staging(self._staging.directory)
        self._activated([lv for lv in self._look().volumes.values() if TAG in lv.tags])

    def clear(self) -> None:
        """See Backend. There is nothing: the group and its thin pool are the operator's."""

    # Making

    def allocate_all(self, batch: Sequence[tuple[Volume, int]]) -> list[Outcome]:
        """Blank volumes, made in one start of LVM."""
        seen = self._look_anew([volume for volume, _size in batch])
        outcomes = [ALREADY if seen.find(volume) is not None else DONE for volume, _size in batch]
        fresh = [each for each, outcome in zip(batch, outcomes) if outcome is DONE]
        if any(size <= 0 for _volume, size in fresh):
            raise BadInput("A volume of 0 bytes was asked; a disk needs at least one byte.")
        if fresh:
            self._check_room(seen)
            with self._made([New(volume, size, [self._creating(volume, size)]) for volume, size in fresh]) as made:
                for volume, size in fresh:
                    with self._open(made[volume.name], os.O_RDWR) as descriptor:
                        self._blank(descriptor, volume, size)
        return outcomes

    def allocate(self, volume: Volume, size: int) -> Outcome:
        """See the contract."""
        return self.allocate_all([(volume, size)])[0]

    def clone_all(self, batch: Sequence[tuple[Volume, Volume, int, str]]) -> list[Outcome]:
        """Clones in the default way in one start of LVM, copies one by one."""
        seen = self._look_anew([volume for _image, volume, _size, _how in batch])
        outcomes = [self._fate(seen, *each) for each in batch]
        fresh = [each for each, outcome in zip(batch, outcomes) if outcome is DONE]
        if fresh:
            self._check_room(seen)
            images = {image.name: seen.find(image) for image, _volume, _size, _how in fresh}
            fast = [(images[i.name], v, size) for i, v, size, how in fresh if how == self.CAPABILITIES.default_clone]
            if fast:
                self._clone([(lv, volume, size) for lv, volume, size in fast if lv is not None])
            for place, (image, volume, size, how) in enumerate(batch):
                lv = images.get(image.name)
                if outcomes[place] is DONE and how == "copy" and lv is not None:
                    outcomes[place] = copied(self._copy(lv, volume, size))
        return outcomes

    def clone(self, image: Volume, volume: Volume, size: int, how: str) -> Outcome:
        """See the contract."""
        return self.clone_all([(image, volume, size, how)])[0]

    def _fate(self, seen: Seen, image: Volume, volume: Volume, size: int, how: str) -> Outcome:
        lv, obstacle = seen.find(image), self.obstacle_to_clone(how)
        if obstacle:
            return refused(obstacle)
        if seen.find(volume) is not None:
            return ALREADY  # the name is fresh: we made it ourselves
        if lv is None:
            return refused(f"the image {image} has no volume")
        has = exact_size(lv, self.group.extent)
        if has > size:
            return refused(f"the image {image} has {has} bytes, more than the {size} asked for")
        return DONE

    def _copy(self, image: LogicalVolume, volume: Volume, size: int) -> int:
        amount = 0
        with self._new(volume, size) as target, self._open(image, os.O_RDONLY) as source:

            def write(offset: int, block: memoryview) -> None:
                nonlocal amount
                write_at(target, block, offset)
                amount += len(block)

            content_of_file(source, exact_size(image, self.group.extent), beat=self._beat, each=write)
            os.fsync(target)
        return amount

    def route(self, content: Content) -> Route:
        """See Backend."""
        staged = isinstance(content, Incoming) and content.is_staged(local=True)
        return Route(staging=self._staging.directory if staged else "")

    def fill(self, volume: Volume, content: Content) -> Facts:
        """See the contract."""
        with self.filling(volume) as (sink, means):
            return content.pour([sink], means)

    @contextlib.contextmanager
    def filling(self, volume: Volume) -> Iterator[tuple[Sink, Means]]:
        """See Backend. The volume is made when its size is told."""
        seen = self._look()
        if seen.find(volume) is not None:
            raise StorageError(f"The volume {volume} exists already: it is not filled again.")
        self._check_room(seen)
        sink = LvSink(lambda size: self._begin(volume, size), lambda size: self._resize(volume, size))
        try:
            yield sink, Means(self._runner, self._staging, self._fill_beat(), tuple(self._inherit()))
        except (OSError, StorageError):
            sink.close()
            self._discard([lv_name(volume.name, self.group.name)])
            raise
        sink.close()

    def _fill_beat(self) -> Callable[[], None]:
        """The sign of life of a fill."""
        return self._beat

    def _begin(self, volume: Volume, size: int) -> tuple[str, int]:
        """A blank volume to be filled with ``size`` bytes; its path, and a descriptor that whoever called closes."""
        with self._new(volume, size) as descriptor:
            return os.readlink(f"/proc/self/fd/{descriptor}"), os.dup(descriptor)

    @contextlib.contextmanager
    def _new(self, volume: Volume, size: int) -> Iterator[int]:
        """A blank raw volume, open; gone again where the block fails."""
        with (
            self._made([New(volume, size, [self._creating(volume, size)])]) as made,
            self._open(made[volume.name], os.O_RDWR) as descriptor,
        ):
            self._blank(descriptor, volume, size)
            yield descriptor

    def _resize(self, volume: Volume, size: int) -> None:
        """Bring a volume that is being filled, and is nobody's yet, to ``size`` bytes."""
        lv = self._found(volume)
        if size > lv.size:
            self._extend(lv, volume, size)
            return
        path = self._path(lv)
        if lv.size - size >= self.group.extent:
            self._lvm.change("lvreduce", "-y", "-f", "-L", self._bytes(size), path)
        self._retag(lv, size)

    def seal(self, volume: Volume) -> Outcome:
        """See the contract. The kernel refuses writes to the device from then on, and LVM says so at every start."""
        lv = self._found(volume)
        if not lv.read_only:
            self._lvm.change("lvchange", "-pr", self._path(lv))
        with self._open(lv, os.O_RDONLY) as descriptor:
            if not is_read_only(descriptor):
                self._lvm.change("lvchange", "--refresh", self._path(lv))
            if not is_read_only(descriptor):
                raise StorageError(f"The device {self._path(lv)} is still writable after lvchange -pr: look at dmesg.")
            os.fsync(descriptor)
        return DONE

    @contextlib.contextmanager
    def _made(self, batch: Sequence[New]) -> Iterator[Mapping[str, LogicalVolume]]:
        """New logical volumes, active, by their names in the pool; gone again where that, or the block, fails: whoever
        tries again must not take one that is half made for one that is made."""
        group = self.group.name
        names = [lv_name(new.volume.name, group) for new in batch]
        commands = [command for new in batch for command in new.commands]
        # Activated together, they wait for udev once; each by itself takes three times as long.
        commands += in_portions(["lvchange", self._up, "-K"], [f"{group}/{name}" for name in names])
        try:
            changed = self._lvm.change_all(group, commands)
            now = {volume_name(lv): lv for lv in changed.volumes if lv.active}
            if any(new.volume.name not in now or now[new.volume.name].size < new.size for new in batch):
                raise failure(f"Making volumes in the group {group}", changed.said)
            yield now
        except (OSError, StorageError):
            self._unfinished.update(names)
            with contextlib.suppress(StorageError):
                self._discard(names)
            raise

    def _discard(self, names: Sequence[str]) -> None:
        """Remove what we were making and nobody knows yet, if it is there."""
        group = self.group.name
        standing = {lv.name for lv in self._lvm.volumes(group)} & set(names)
        left = self._remove([f"{group}/{name}" for name in sorted(standing)]) if standing else ()
        self._unfinished -= {name for name in names if f"{group}/{name}" not in left}

    def _look_anew(self, volumes: Sequence[Volume]) -> Seen:
        """The group, without what an earlier try to make these volumes left: it would be taken for made, and may hold
        what somebody else wrote there."""
        stale = self._unfinished & {lv_name(volume.name, self.group.name) for volume in volumes}
        if stale:
            self._discard(sorted(stale))
        left = stale & self._unfinished
        if left:
            raise StorageError(
                f"The logical volume {self.group.name}/{min(left)} is half made and cannot be removed: see lvs and the "
                "kernel's log, and run the task again."
            )
        return self._look()

    # Changing

    def grow(self, volume: Volume, size: int) -> Outcome:
        """See the contract. No command of ours that grows a volume can shrink one."""
        seen = self._look()
        lv = seen.find(volume)
        stat_now = self._stat(lv, volume)
        if lv is None or stat_now is None:
            return refused(f"the volume {volume} is missing")
        if stat_now.size >= size:
            return ALREADY
        uses = self._host.users_of(self._path(lv)) if self._host is not None else []
        if bar_to_growth(uses):
            return refused(bar_to_growth(uses))
        if volume.format == "raw":
            self._retag(lv, size)  # first: of a tag that is more than the volume, nobody takes notice
        if volume.format != "raw" or lv.size < size:
            self._extend(lv, volume, size)
        self._check_size(lv, volume, size)
        if self._host is not None:
            grow_in_guest(self._host, uses, size)
        return DONE

    def _retag(self, lv: LogicalVolume, size: int) -> None:
        """Have the tag of a raw volume say ``size``, where that is no whole number of extents."""
        tags = [*(["--deltag", stale_size_tag(lv)] if stale_size_tag(lv) else []), *self._sizing(size)]
        if tags:
            self._lvm.change("lvchange", *tags, self._path(lv))

    def _sizing(self, size: int) -> list[str]:
        sectors = -(-size // 512) * 512
        return ["--addtag", size_tag(sectors)] if sectors % self.group.extent else []

    def _called(self, volume: Volume, size: int) -> list[str]:
        """Name and tags of a new volume of ``size`` bytes, as words of ``lvcreate``."""
        tags = [word for tag in tags_for(volume.name, self.group.name) for word in ("--addtag", tag)]
        sizing = self._sizing(size) if volume.format == "raw" else []
        return [*tags, *sizing, "-n", lv_name(volume.name, self.group.name)]

    def _check_size(self, lv: LogicalVolume, volume: Volume, size: int) -> None:
        """Make durable what LVM did. Raise where the device is smaller than what it said it made: of a snapshot it
        is."""
        with self._open(lv, os.O_RDONLY) as descriptor:
            found = device_size(descriptor)
            os.fsync(descriptor)  # LVM never flushes its metadata; they lie on the disks that the volume lies on
        if found < size:
            raise StorageError(
                f"The device of {volume} has {found} bytes after LVM grew it to {size}: look at dmsetup table."
            )

    def to_flatten(self, volume: Volume) -> int | None:
        """See Backend."""
        return 0

    def flatten(self, volume: Volume) -> Outcome:
        """See the contract. A raw volume needs nothing else."""
        if volume.format == "raw":
            return ALREADY
        raise StorageError(f"The volume {volume} is recorded as {volume.format}, which this pool does not have.")

    def adopt(self, found: str, volume: Volume) -> Outcome:
        """See the contract. The UUID tells that it is the volume that was meant; it keeps its name."""
        lv = self._look().find(volume)
        if lv is None or found not in (lv.name, volume_name(lv)):
            return refused(f"{found} is not the volume that it was when the task began")
        if TAG not in lv.tags:
            # Found by the next host start, too: snapshots are left inactive then, unless told otherwise.
            self._lvm.change("lvchange", "-kn", "--addtag", TAG, self._path(lv))
        return DONE

    def leave(self, found: str, volume: Volume) -> Outcome:
        """See the contract. There is one name only."""
        return ALREADY

    def remove_all(self, batch: Sequence[tuple[Volume]]) -> list[Outcome]:
        """One look for users, one start of LVM."""
        seen = self._look()
        lvs = [seen.find(volume) for (volume,) in batch]
        outcomes: list[Outcome] = []
        doomed: dict[str, int] = {}
        for position, (lv, users) in enumerate(zip(lvs, self._users_of(lvs, seen))):
            outcomes.append(refused(f"it is in use by {users}") if users else DONE if lv is not None else ALREADY)
            if lv is not None and not users:
                doomed[f"{self.group.name}/{lv.name}"] = position
        left = self._remove(list(doomed))
        for path, said in left.items():
            outcomes[doomed[path]] = refused(f"it is in use or cannot be removed: {said}")
        return outcomes

    def remove(self, volume: Volume) -> Outcome:
        """See the contract."""
        return self.remove_all([(volume,)])[0]

    def _remove(self, paths: Sequence[str]) -> dict[str, str]:
        """Remove logical volumes; those that stayed, with what LVM said."""
        said, left = "", list(paths)
        for attempt in range(TRIES):
            if not left:
                break
            if attempt:
                time.sleep(0.1 * 2**attempt)
            changed = self._lvm.change_all(self.group.name, in_portions(["lvremove", "-y"], left))
            standing = {f"{self.group.name}/{lv.name}" for lv in changed.volumes}
            said, left = changed.said, [path for path in left if path in standing]
        return dict.fromkeys(left, said)

    def sweep(self) -> list[str]:
        """See the contract."""
        abandoned = [
            f"{self.group.name}/{lv.name}"
            for lv in self._lvm.volumes(self.group.name)
            if lv.name.startswith((SPARE, RECORDS + "+")) and not lv.open and time.time() - lv.made > ABANDONED_SECONDS
        ]
        left = self._remove(abandoned)
        return [path.partition("/")[2] for path in abandoned if path not in left]
