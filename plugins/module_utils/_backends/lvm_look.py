# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""Looking at the volumes of a group: what there is, where it is, what it is, and who uses it."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from .._ground.block_device import is_read_only, open_device, users_of_devices
from .._ground.command import Runner
from .._ground.contents import FileReader, RawReader
from .._ground.disk_data import DiskReader, keep_still, raw_disk
from .._ground.errors import BadInput, LostMetadata, NotFound, StorageError
from .._ground.libvirt_host import Host, using_any
from .._ground.lvm import LogicalVolume, Lvm, failure, in_portions
from .._ground.qcow2 import read_header, read_size
from .._ground.qcow2_foreign import foreign_flaw
from .._policy.disk_xml import Location
from .._records.types import Volume
from .contract import Capabilities, Stat, Users
from .lvm_group import Group
from .lvm_names import RECORDS, SPARE, exact_size, is_private, is_volume, lv_name, volume_name

TRIES = 6
"""How often a volume that something holds for a moment, such as udev's look at it, is tried again."""


@dataclass(frozen=True)
class Seen:
    """The group as one listing showed it: volumes by their names in the pool, and the thin pool."""

    volumes: Mapping[str, LogicalVolume]
    pool: LogicalVolume | None

    def find(self, volume: Volume) -> LogicalVolume | None:
        """The logical volume that a record means: an adopted one whatever it is called now."""
        if not volume.adopted:
            return self.volumes.get(volume.name)
        return next((lv for lv in self.volumes.values() if lv.uuid == volume.adopted), None)


class LvmLook:
    """The volumes of ``group``. ``inherit`` gives the descriptors of the locks that programs must hold on;
    ``host`` is asked for guests."""

    CAPABILITIES: Capabilities

    def __init__(
        self,
        group: Group,
        runner: Runner,
        inherit: Callable[[], Sequence[int]] = tuple,
        host: Host | None = None,
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        self.group = group
        self._lvm = Lvm(runner)
        self._runner, self._inherit, self._host, self._beat = runner, inherit, host, beat
        self._up = "-aey" if group.shared else "-ay"
        self._named: dict[str, str] = {}

    # Telling

    def capabilities(self) -> Capabilities:
        """See Backend."""
        return self.CAPABILITIES

    def location(self, volume: Volume) -> Location:
        """See Backend. An adopted volume is where the last listing saw it: nobody asks LVM once more for each disk."""
        if volume.adopted and volume.adopted not in self._named:
            self._look()
        name = self._named.get(volume.adopted) or lv_name(volume.name, self.group.name)
        return Location("block", f"/dev/{self.group.name}/{name}")

    def name_at(self, address: str) -> str | None:
        """See Backend."""
        folder, mapped = f"/dev/{self.group.name}/", f"/dev/mapper/{self.group.name.replace('-', '--')}-"
        if address.startswith(folder):
            name = address[len(folder) :]
        elif address.startswith(mapped):
            name = address[len(mapped) :].replace("--", "-")
        else:
            return None
        if name.startswith((RECORDS, SPARE)):
            raise BadInput(f"The device {address} is the pool's own, which is not adopted.")
        if name.startswith("volume+"):
            name = next((known for known, lv in self._look().volumes.items() if lv.name == name), name)
        return name

    def flaw(self, volume: Volume) -> str:
        """See Backend."""
        lv = self._look().find(volume)
        if lv is None:
            return f"there is no such volume in the group {self.group.name}; disk_metadata_info lists what there is"
        if lv.thick_snapshot:
            return f"that is a snapshot of {lv.origin}, which cannot grow and goes with it; copy it to a volume first"
        if volume.format != "qcow2":
            return ""
        self._activated([lv])
        return foreign_flaw(os.path.realpath(self._path(lv)))

    def obstacle_to_clone(self, how: str) -> str:
        """See Backend."""
        clones = self.CAPABILITIES.clones
        return "" if how in clones else f"the pool offers {', '.join(clones)}"

    @contextlib.contextmanager
    def reading(self, volume: Volume) -> Iterator[RawReader]:
        """See Backend."""
        lv = self._look().find(volume)
        if lv is None:
            raise NotFound(f"There is no volume {volume} in the pool.")
        with self._open(lv, os.O_RDONLY) as descriptor:
            yield FileReader(descriptor, exact_size(lv, self.group.extent))

    @contextlib.contextmanager
    def disk_data(self, volume: Volume, own: bool = False, used: bool = False) -> Iterator[DiskReader]:
        """See Backend. Of a raw volume nobody tells what was never written: all of it is read."""
        if volume.format != "raw":
            raise StorageError(f"The volume {volume} is qcow2 on a logical volume, which cannot be moved yet.")
        lv = self._look().find(volume)
        if lv is None:
            raise NotFound(f"There is no volume {volume} in the pool.")
        with self._open(lv, os.O_RDONLY) as descriptor:
            if not used:
                keep_still(descriptor, f"The volume {volume}")
            yield raw_disk(descriptor, exact_size(lv, self.group.extent))

    def others(self) -> Sequence[str]:
        """See Backend."""
        return [lv.name for lv in self._lvm.volumes(self.group.name) if not is_volume(lv) and not is_private(lv)]

    # Looking

    def inventory(self) -> Mapping[str, str]:
        """See the contract."""
        return {name: lv.uuid for name, lv in self._look().volumes.items()}

    def stat_all(self, batch: Sequence[tuple[Volume]]) -> list[Stat | None]:
        """One listing for all."""
        seen = self._look()
        lvs = [seen.find(volume) for (volume,) in batch]
        taken = self._taken([lv for lv in lvs if lv is not None])
        stats = [self._stat(lv, volume) for lv, (volume,) in zip(lvs, batch)]
        return [stat and replace(stat, allocated=taken.get(stat.native, stat.allocated)) for stat in stats]

    def stat(self, volume: Volume) -> Stat | None:
        """See the contract."""
        return self.stat_all([(volume,)])[0]

    def pointer(self, volume: Volume) -> str | None:
        """See the contract. What a thin volume was made of is no backing: LVM lets that go, and the data stays."""
        if volume.format != "qcow2":
            return None
        lv = self._look().find(volume)
        if lv is None:
            raise LostMetadata(f"The volume {volume} is missing from the group {self.group.name}.")
        with self._open(lv, os.O_RDONLY) as descriptor:
            named = read_header(descriptor, str(volume)).backing_file
        if named is None:
            return None
        path = os.path.normpath(os.path.join(f"/dev/{self.group.name}", named))
        return self.name_at(path) or path

    def digest(self, volume: Volume) -> str:
        """See the contract."""
        with self.reading(volume) as source:
            return source.content(self._beat)

    def sealed(self, volume: Volume) -> bool:
        """See the contract."""
        lv = self._found(volume)
        if lv.active and lv.read_only:
            with self._open(lv, os.O_RDONLY) as descriptor:
                return is_read_only(descriptor)
        return lv.read_only

    def users_all(self, batch: Sequence[tuple[Volume]]) -> list[Users]:
        """One look over the host for all."""
        try:
            seen = self._look()
        except StorageError as error:
            return [_untold(error) for _unused in batch]
        return self._users_of([seen.find(volume) for (volume,) in batch], seen)

    def users(self, volume: Volume) -> Users:
        """See the contract."""
        return self.users_all([(volume,)])[0]

    def _users_of(self, lvs: Sequence[LogicalVolume | None], seen: Seen) -> list[Users]:
        """Who uses each; nobody uses one that is not there."""
        try:
            found = self._users([lv for lv in lvs if lv is not None], seen)
        except (OSError, StorageError) as error:
            return [_untold(error) for _unused in lvs]
        return [Users(by=tuple(found[lv.name]) if lv is not None else ()) for lv in lvs]

    def _users(self, lvs: Sequence[LogicalVolume], seen: Seen) -> dict[str, list[str]]:
        """Who uses each, by name. One that is open without anybody to be found is looked at again: udev reads what
        was just written, for a moment."""
        guests = self._host.uses() if self._host is not None and lvs else []
        uses = using_any(guests, [self._path(lv) for lv in lvs])
        found = users_of_devices({lv.number for lv in lvs if lv.open})
        snapshots: dict[str, list[str]] = {}
        for each in seen.volumes.values():
            if each.thick_snapshot:
                snapshots.setdefault(each.origin, []).append(f"snapshot {each.name}")
        told = {}
        for lv in lvs:
            who = [f"guest {use}" for use in uses[self._path(lv)] if use.live]
            who += snapshots.get(lv.name, [])
            who += found.get(lv.number, [])
            told[lv.name] = who or (["something that has it open"] if lv.open and not self._let_go(lv) else [])
        return told

    def _let_go(self, lv: LogicalVolume) -> bool:
        """Whether a volume that nobody is seen to use is closed soon."""
        for attempt in range(TRIES):
            time.sleep(0.05 * 2**attempt)
            now = self._look().volumes.get(volume_name(lv))
            if now is None or not now.open:
                return True
        return False

    # Logical volumes

    def _look(self) -> Seen:
        every = self._lvm.volumes(self.group.name)
        self._named = {lv.uuid: lv.name for lv in every}
        pool = next((lv for lv in every if lv.name == self.group.pool and lv.thin_pool), None)
        return Seen({volume_name(lv): lv for lv in every if is_volume(lv)}, pool)

    def _found(self, volume: Volume) -> LogicalVolume:
        lv = self._look().find(volume)
        if lv is None:
            raise LostMetadata(f"The volume {volume} is missing from the group {self.group.name}.")
        return lv

    def _stat(self, lv: LogicalVolume | None, volume: Volume) -> Stat | None:
        if lv is None:
            return None
        size = exact_size(lv, self.group.extent)
        if volume.format == "qcow2":
            with self._open(lv, os.O_RDONLY) as descriptor:
                size = read_size(descriptor, str(volume))
        return Stat(size, lv.size, lv.uuid)

    def _taken(self, lvs: Sequence[LogicalVolume]) -> Mapping[str, int]:
        """The bytes that volumes take, by UUID, where that is not the size of their devices."""
        return {}

    def _bytes(self, size: int) -> str:
        """``size`` in whole extents, for LVM, which takes no other."""
        return f"{-(-size // self.group.extent) * self.group.extent}b"

    def _path(self, lv: LogicalVolume) -> str:
        return f"/dev/{self.group.name}/{lv.name}"

    def _activated(self, lvs: Sequence[LogicalVolume]) -> list[LogicalVolume]:
        """The same logical volumes, with a device each."""
        idle = [f"{self.group.name}/{lv.name}" for lv in lvs if not lv.active]
        if not idle:
            return list(lvs)
        changed = self._lvm.change_all(self.group.name, in_portions(["lvchange", self._up, "-K"], idle))
        now = {lv.uuid: lv for lv in changed.volumes}
        found = [now.get(lv.uuid, lv) for lv in lvs]
        for lv in found:
            if not lv.active:
                raise failure(f"Activating {self.group.name}/{lv.name}", changed.said)
        return found

    @contextlib.contextmanager
    def _open(self, lv: LogicalVolume, flags: int) -> Iterator[int]:
        (lv,) = self._activated([lv])
        with open_device(self._path(lv), lv.number, flags) as descriptor:
            yield descriptor


def _untold(error: Exception) -> Users:
    return Users(unknown=f"it cannot be told who uses it: {error}")
