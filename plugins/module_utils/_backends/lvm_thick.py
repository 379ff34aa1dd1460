# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""Thick volumes: each has its whole size from the beginning; clones are qcow2 on a volume over the read-only image.

Snapshots of the old kind are not used: they cannot grow, slow down every write of their origin, and go with it.

LVM hands out space as its last owner left it. A raw volume is zeroed before it is anybody's; when it grows, the new
space is zeroed as a volume of its own first, so that no guest ever sees it otherwise, whatever is killed when. Of a
qcow2 volume the tables are zeroed: its guest reads only clusters that it wrote.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator, Sequence

from .._ground.block_device import device_size, open_device, write_at, zero
from .._ground.command import Limits
from .._ground.disk_data import keep_still, own_amount
from .._ground.errors import LostMetadata, StorageError
from .._ground.lvm import TAG, LogicalVolume, failure, understood
from .._ground.ops import ALREADY, Outcome, copied, refused
from .._ground.qcow2 import EXTENDED_L2, Header, Pieces, overlay_image, read_header, read_size, refuse_snapshots
from .._ground.qcow2_detach import copy_up, drop_pointer, image_below
from .._records.types import Volume
from .contract import Capabilities
from .lvm import LvmVolumes, New
from .lvm_look import Seen
from .lvm_names import DISK, IMAGE, SPARE

CLUSTER = 65536
RESERVE = 16 << 20
"""Bytes beyond the most that a qcow2 volume can fill: for clusters that a killed guest allocated and never used."""
_CHANGING = Limits(wall_seconds=24 * 3600)
_LOCKS = "/run/lock/lvm"


def most_bytes(size: int, cluster: int = CLUSTER, entry: int = 8, refcount_bits: int = 16) -> int:
    """How large a qcow2 volume for a disk of ``size`` bytes can become: every cluster of it written, with all tables.
    ``entry`` is the bytes of an entry of the L2 tables; all but ``size`` are as in the volumes that are made here.

    It holds for as long as qemu gives no cluster back, that is, without ``discard=unmap``: with holes it would begin
    anew behind the end.
    """
    data = -(-size // cluster)
    l2 = -(-data * entry // cluster)
    l1 = -(-l2 * 8 // cluster)
    table = blocks = 1
    while True:
        # Twice the L1 table, and the refcount table: one that grows is written anew before the old one is given up.
        total = 1 + data + l2 + 2 * l1 + blocks + 2 * table
        wanted = -(-total * refcount_bits // (8 * cluster))
        if wanted <= blocks:
            return total * cluster + RESERVE
        blocks = wanted
        table = -(-blocks * 8 // cluster)


def _most_of(header: Header, size: int) -> int:
    """The same for a volume whose clusters are not ours, because it was adopted."""
    entry = 16 if header.incompatible & EXTENDED_L2 else 8
    return most_bytes(size, header.cluster_size, entry, header.refcount_bits)


class ThickVolumes(LvmVolumes):
    """Volumes that take their whole size from the group."""

    CAPABILITIES = Capabilities(
        backend="lvm",
        image_name=IMAGE,
        disk_names={"qcow2": DISK, "raw": DISK},
        clones={"overlay": "qcow2", "copy": "raw"},
        clone_reasons={
            "overlay": "a qcow2 overlay costs the same whatever the size of its image, and can grow",
            "copy": "asked for: a full copy that needs no image",
        },
        independent=frozenset({"copy"}),
        keeps_space=frozenset({"qcow2"}),
        thick=True,
    )

    def capacity(self) -> tuple[int, int]:
        """See the contract: of the group."""
        rows = self._lvm.report("vgs", "vg_size,vg_free", self.group.name)
        with understood("vgs"):
            (row,) = rows
            return int(row["vg_size"]), int(row["vg_free"])

    def _check_room(self, seen: Seen) -> None:
        """Nothing to ask: a volume that does not fit is refused by LVM, and no other suffers."""

    def _creating(self, volume: Volume, size: int) -> list[str]:
        room = most_bytes(size) if volume.format == "qcow2" else size
        return self._lvcreate(room, *self._called(volume, size))

    def _lvcreate(self, size: int, *words: str) -> list[str]:
        kind = ["-y", "-an", "-kn", "-Wn", "-Zn", "--type", "linear"]
        return ["lvcreate", *kind, "-L", self._bytes(size), *words, self.group.name]

    def _blank(self, descriptor: int, volume: Volume, size: int) -> None:
        if volume.format == "qcow2":
            _write_new(descriptor, overlay_image(size, None, cluster_size=CLUSTER))
        else:
            zero(descriptor, 0, device_size(descriptor), self._beat)

    def _clone(self, batch: Sequence[tuple[LogicalVolume, Volume, int]]) -> None:
        new = [New(volume, most_bytes(size), [self._creating(volume, size)]) for _image, volume, size in batch]
        with self._made(new) as made:
            for image, volume, size in batch:
                with self._open(made[volume.name], os.O_RDWR) as descriptor:
                    # From its own folder, so that the group can be renamed.
                    _write_new(descriptor, overlay_image(size, f"./{image.name}", cluster_size=CLUSTER))

    def flaw(self, volume: Volume) -> str:
        """See Backend. What was made elsewhere may have less space than its guest can fill."""
        flaw = super().flaw(volume)
        if flaw or volume.format != "qcow2":
            return flaw
        lv = self._found(volume)
        with self._open(lv, os.O_RDONLY) as descriptor:
            header = read_header(descriptor, str(volume))
        most = _most_of(header, header.virtual_size)
        if lv.size >= most:
            return ""
        return (
            f"it has {lv.size} bytes, and its guest can fill {most}; extend it before, with "
            f"lvextend -L {self._bytes(most)} {self.group.name}/{lv.name}"
        )

    # Growing

    def _extend(self, lv: LogicalVolume, volume: Volume, size: int) -> None:
        path = self._path(lv)
        if volume.format == "raw":
            self._extend_by_zeroes(lv, volume, size)
            return
        with self._open(lv, os.O_RDONLY) as descriptor:
            most = _most_of(read_header(descriptor, str(volume)), size)
        if lv.size < most:
            self._lvm.change("lvextend", "-L", self._bytes(most), path)
        if not self._is_live(lv):
            self._below(lv, volume)
            argv = ["qemu-img", "resize", "-q", "-f", "qcow2", path, str(-(-size // 512) * 512)]
            self._runner.run(argv, limits=_CHANGING, pass_fds=tuple(self._inherit()), beat=self._beat)
            with self._open(lv, os.O_RDONLY) as descriptor:
                os.fsync(descriptor)

    def _is_live(self, lv: LogicalVolume) -> bool:
        """Whether a guest has it, which then resizes it."""
        return self._host is not None and any(use.live for use in self._host.users_of(self._path(lv)))

    def _extend_by_zeroes(self, lv: LogicalVolume, volume: Volume, size: int) -> None:
        """Grow a raw volume by space that was zeroed as a volume of its own. Between that one's end and the growth,
        nobody else may have the space: LVM's own lock on the group is ours meanwhile."""
        group, extent = self.group.name, self.group.extent
        if self.group.shared:  # and the lock that keeps other hosts off is not ours to take
            raise StorageError(
                f"The raw volume {volume} cannot grow in the volume group {group}, which hosts share: make a disk of "
                "that size, qcow2 if it is to grow, and copy the data over."
            )
        more = -(-(size - lv.size) // extent)
        spare = SPARE + secrets.token_hex(8)
        create = self._lvcreate(more * extent, "--addtag", TAG, "-n", spare)
        changed = self._lvm.change_all(group, [create, ["lvchange", self._up, f"{group}/{spare}"]])
        found = next((each for each in changed.volumes if each.name == spare), None)
        if found is None or not found.active:
            raise failure(f"Growing {volume}", changed.said)
        with open_device(self._path(found), found.number, os.O_RDWR) as descriptor:
            zero(descriptor, 0, device_size(descriptor), self._beat)
        ranges = self._ranges(spare)
        self._lvm.change("lvchange", "-an", f"{group}/{spare}")
        with self._locked():
            self._lvm.change("lvremove", "--nolocking", "-y", f"{group}/{spare}")
            self._lvm.change("lvextend", "--nolocking", "-l", f"+{more}", f"{group}/{lv.name}", *ranges)

    def _ranges(self, name: str) -> list[str]:
        """Where a volume's space is. Never empty: LVM would take that for anywhere, which nobody zeroed."""
        rows = self._lvm.report("lvs", "seg_pe_ranges", f"{self.group.name}/{name}")
        with understood("lvs"):
            first, *others = (word for row in rows for word in row["seg_pe_ranges"].split())
        return [first, *others]

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """The lock that every command of LVM takes to change the group."""
        path = os.path.join(self._lvm.setting("global/locking_dir") or _LOCKS, f"V_{self.group.name}")
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o777)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                if _stands(path, descriptor):
                    yield
                    return
            finally:
                os.close(descriptor)

    # Flattening

    def to_flatten(self, volume: Volume) -> int | None:
        """See Backend. A device does not tell what of it is data, so all of the image counts."""
        lv = self._found(volume)
        image = self._below(lv, volume) if volume.format == "qcow2" else None
        if image is None:
            return 0
        with self._open(lv, os.O_RDONLY) as descriptor:
            refuse_snapshots(read_header(descriptor, str(volume)), str(volume))
        return image.size

    def flatten(self, volume: Volume) -> Outcome:
        """See the contract. The image's pointer goes last, so that it can be done again from any point."""
        if volume.format != "qcow2":
            return ALREADY
        users = self.users(volume)
        if users:
            return refused(f"it is in use by {users}")
        lv = self._found(volume)
        image = self._below(lv, volume)
        if image is None:
            return ALREADY
        with self._open(lv, os.O_RDONLY) as descriptor:
            size, before = read_size(descriptor, str(volume)), own_amount(descriptor, str(volume))
        path, below = os.path.realpath(self._path(lv)), os.path.realpath(self._path(image))
        copy_up(path, below, size, self._runner, _CHANGING, tuple(self._inherit()), self._beat)
        with self._open(lv, os.O_RDWR) as descriptor:
            os.fsync(descriptor)
            after = own_amount(descriptor, str(volume))
        users = self.users(volume)
        if users:
            return refused(f"it is in use by {users}")
        with self._open(lv, os.O_RDWR) as descriptor:
            keep_still(descriptor, f"The volume {volume}")  # a guest that starts now would write the old header back
            drop_pointer(descriptor, str(volume))
        return copied(None if before is None or after is None else after - before)

    def _below(self, lv: LogicalVolume, volume: Volume) -> LogicalVolume | None:
        """The image that a qcow2 volume stands on, if any. Raises LostMetadata where that is no volume of this group:
        qemu would open whatever the header names."""
        with self._open(lv, os.O_RDONLY) as descriptor:
            named = image_below(descriptor, str(volume))
        if named is None:
            return None
        path = os.path.normpath(os.path.join(f"/dev/{self.group.name}", named))
        found = next((each for each in self._look().volumes.values() if self._path(each) == path), None)
        if found is None:
            raise LostMetadata(
                f"The volume {volume} stands on {named}, which is no volume of the group {self.group.name}; it was "
                "left alone: bring that volume back, or correct the header."
            )
        (active,) = self._activated([found])
        return active


def _write_new(descriptor: int, pieces: Pieces) -> None:
    """Write a new qcow2 volume where anything may stand."""
    zero(descriptor, 0, pieces.length)
    for offset, data in pieces.parts:
        write_at(descriptor, data, offset)
    os.fsync(descriptor)


def _stands(path: str, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False
