# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""The backend for folders: libvirt's ``dir`` and ``netfs`` pools.

::

    <pool>/<disk>.qcow2                 disks: qcow2, so that libvirt's refresh meets no guest-written header
    <pool>/.virt-storage/images/<image>.raw
    <pool>/.virt-storage/disks/<disk>.raw    raw disks (adopted, reflinked), out of the refresh's way
    <pool>/.virt-storage/staging/            sources that must be read twice, while they are
    <pool>/.virt-storage/...                 the record store

An overlay names its image relative to itself, so a pool may move or be mounted elsewhere. Volumes are not made by
libvirt's calls: those run qemu-img per volume (27 ms) and read formats.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence

from .._ground.command import Limits, Runner
from .._ground.contents import Content, FileReader, FileSink, Incoming, Means, RawReader
from .._ground.disk_data import DiskReader, keep_still, own_amount, own_data, qcow2_disk, raw_disk
from .._ground.durable import sync_files, sync_folder
from .._ground.errors import BadInput, NotFound, StorageError
from .._ground.extents import share_extents
from .._ground.guest_growth import grow_in_guest
from .._ground.immutable import is_immutable, set_immutable, unlink
from .._ground.intake import Sink, Staging
from .._ground.libvirt_host import Host
from .._ground.ops import ALREADY, DONE, Facts, Outcome, copied, refused
from .._ground.qcow2 import read_header, read_size
from .._ground.qcow2_clusters import OverlaySink
from .._ground.qcow2_detach import copy_up, drop_pointer, image_below, to_copy_up
from .._ground.staging import sweep_staging
from .._ground.usage import users_of_files
from .._policy.disk_xml import Link, Location
from .._records.types import Volume
from .contract import Capabilities, Route, Stat, Users
from .folder import Folder
from .guest_copies import copy_from_guest, end_copy
from .new_files import NO_REFLINK, NewFiles, rounded

PRIVATE = ".virt-storage"
CAPABILITIES = Capabilities(
    backend="file",
    image_name=PRIVATE + "/images/{id}.raw",
    disk_names={"qcow2": "{id}.qcow2", "raw": PRIVATE + "/disks/{id}.raw"},
    clones={"overlay": "qcow2", "reflink": "raw", "copy": "raw"},
    clone_reasons={
        "overlay": "a qcow2 overlay costs the same whatever the size of its image",
        "reflink": "asked for: shares the image's extents, needs XFS or btrfs",
        "copy": "asked for: a full copy that needs no image",
    },
    independent=frozenset({"reflink", "copy"}),
    moves_adopted=frozenset({"raw"}),
    tells_own=True,
    takes_own=True,
    follows=True,
)
_CHANGING = Limits(wall_seconds=24 * 3600)


class FileVolumes:
    """The volumes in ``root``. ``inherit`` gives the descriptors of the locks that programs must hold on;
    ``host`` is asked for guests, and tells a running one that its disk grew."""

    def __init__(
        self,
        root: str,
        runner: Runner,
        inherit: Callable[[], Sequence[int]] = tuple,
        host: Host | None = None,
        beat: Callable[[], None] = lambda: None,
        staging_bytes: int = 1 << 42,
    ) -> None:
        self.root = root
        self._folder = Folder(root)
        self._runner, self._inherit, self._host, self._beat = runner, inherit, host, beat
        self._new = NewFiles(self._folder, self.stat, beat)
        self._staging = Staging(self._folder.path(PRIVATE + "/staging"), staging_bytes)

    def prepare(self) -> None:
        """Make the folders that volumes stand in. A guest's qemu passes through them and cannot list them."""
        for name in ("images", "disks", "staging"):
            path = self._folder.path(f"{PRIVATE}/{name}")
            os.makedirs(path, mode=0o711, exist_ok=True)
            os.chmod(path, 0o700 if name == "staging" else 0o711)
        sync_folder(self._folder.path(PRIVATE))

    def clear(self) -> None:
        """See Backend."""
        for name in ("images", "disks", "staging"):
            with contextlib.suppress(FileNotFoundError):
                os.rmdir(self._folder.path(f"{PRIVATE}/{name}"))

    @staticmethod
    def capabilities() -> Capabilities:
        """See the contract."""
        return CAPABILITIES

    # Telling

    def location(self, volume: Volume) -> Location:
        """See Backend."""
        return Location("file", self._folder.path(volume.name))

    def name_at(self, address: str) -> str | None:
        """See Backend. Our own folder is no place for what others made."""
        name = os.path.relpath(address, self.root) if address.startswith(os.path.join(self.root, "")) else None
        if name is not None and name.split(os.sep)[0] == PRIVATE:
            raise BadInput(f"The path {address} lies in the folder of the pool's own files, which are not adopted.")
        return name

    def flaw(self, volume: Volume) -> str:
        """See Backend."""
        return self._folder.flaw(volume)

    def obstacle_to_clone(self, how: str) -> str:
        """See Backend. Tried with files that have no name."""
        if how not in CAPABILITIES.clones:
            return f"the pool offers {', '.join(CAPABILITIES.clones)}"
        if how != "reflink":
            return ""
        with tempfile.TemporaryFile(dir=self.root) as one, tempfile.TemporaryFile(dir=self.root) as other:
            return "" if share_extents(one.fileno(), other.fileno()) else NO_REFLINK

    def route(self, content: Content) -> Route:
        """See Backend."""
        staged = isinstance(content, Incoming) and content.is_staged(local=True)
        return Route(staging=self._staging.directory if staged else "")

    @contextlib.contextmanager
    def reading(self, volume: Volume) -> Iterator[RawReader]:
        """See Backend."""
        try:
            with self._folder.open(volume, os.O_RDONLY) as descriptor:
                yield FileReader(descriptor, os.fstat(descriptor).st_size)
        except FileNotFoundError:
            raise NotFound(f"There is no volume {volume} in the pool.") from None

    @contextlib.contextmanager
    def disk_data(self, volume: Volume, own: bool = False, used: bool = False) -> Iterator[DiskReader]:
        """See Backend."""
        with contextlib.ExitStack() as stack:
            try:
                descriptor = stack.enter_context(self._folder.open(volume, os.O_RDONLY))
            except FileNotFoundError:
                raise NotFound(f"There is no volume {volume} in the pool.") from None
            if not used:
                keep_still(descriptor, f"The volume {volume}")
            if volume.format == "raw":
                yield raw_disk(descriptor, os.fstat(descriptor).st_size)
            elif own:
                yield own_data(descriptor, str(volume))
            else:
                yield qcow2_disk(descriptor, str(volume), self._open_below(volume, stack))

    def _open_below(self, volume: Volume, stack: contextlib.ExitStack) -> int | None:
        """The image under a qcow2 file, open for reading as long as ``stack`` stands."""
        path, _size = self._image_below(volume)
        if path is None:
            return None
        name = os.path.relpath(path, self.root)
        return stack.enter_context(self._folder.open(Volume(name, "raw"), os.O_RDONLY))

    def others(self) -> Sequence[str]:
        """See Backend."""
        return self._folder.others(PRIVATE, "lost+found")

    def to_flatten(self, volume: Volume) -> int | None:
        """See Backend."""
        with contextlib.ExitStack() as stack:
            descriptor = stack.enter_context(self._folder.open(volume, os.O_RDONLY))
            image = self._open_below(volume, stack) if volume.format == "qcow2" else None
            return 0 if image is None else to_copy_up(descriptor, str(volume), image)

    # Looking

    def inventory(self) -> Mapping[str, str]:
        """See the contract. Folders and what is no regular file are none of ours."""
        found = {}
        for folder in ("", PRIVATE + "/images/", PRIVATE + "/disks/"):
            with contextlib.suppress(FileNotFoundError), os.scandir(os.path.join(self.root, folder)) as entries:
                for entry in entries:
                    if entry.is_file(follow_symlinks=False):
                        found[folder + entry.name] = str(entry.inode())
        return found

    def stat(self, volume: Volume) -> Stat | None:
        """See the contract."""
        try:
            with self._folder.open(volume, os.O_RDONLY) as descriptor:
                status = os.fstat(descriptor)
                size = read_size(descriptor, str(volume)) if volume.format == "qcow2" else status.st_size
        except FileNotFoundError:
            return None
        return Stat(size, status.st_blocks * 512, str(status.st_ino))

    def pointer(self, volume: Volume) -> str | None:
        """See the contract. Only a qcow2 file, by its record, can point anywhere."""
        if volume.format != "qcow2":
            return None
        with self._folder.open(volume, os.O_RDONLY) as descriptor:
            named = read_header(descriptor, str(volume)).backing_file
        if named is None:
            return None
        path = os.path.normpath(os.path.join(os.path.dirname(self._folder.path(volume.name)), named))
        return os.path.relpath(path, self.root) if path.startswith(self.root + "/") else path

    def digest(self, volume: Volume) -> str:
        """See the contract."""
        with self.reading(volume) as source:
            return source.content(self._beat)

    def capacity(self) -> tuple[int, int]:
        """See the contract."""
        found = os.statvfs(self.root)
        return found.f_frsize * found.f_blocks, found.f_frsize * found.f_bavail

    def sealed(self, volume: Volume) -> bool:
        """See the contract."""
        with self._folder.open(volume, os.O_RDONLY) as descriptor:
            return not os.fstat(descriptor).st_mode & 0o222 and is_immutable(descriptor)

    def users_all(self, batch: Sequence[tuple[Volume]]) -> list[Users]:
        """One look over the host's processes and guests for all."""
        paths = [self._folder.path(volume.name) for (volume,) in batch]
        try:
            found = users_of_files(paths, self._host.uses if self._host is not None else None)
        except (OSError, StorageError) as error:
            return [Users(unknown=f"it cannot be told who uses it: {error}") for _unused in batch]
        return [Users(by=tuple(found.get(path, ()))) for path in paths]

    def users(self, volume: Volume) -> Users:
        """See the contract."""
        return self.users_all([(volume,)])[0]

    # Making

    def allocate_all(self, batch: Sequence[tuple[Volume, int]]) -> list[Outcome]:
        """Blank files, one sync for all."""
        return self._new.make([(volume, None, size) for volume, size in batch])

    def allocate(self, volume: Volume, size: int) -> Outcome:
        """See the contract."""
        return self.allocate_all([(volume, size)])[0]

    def clone_all(self, batch: Sequence[tuple[Volume, Volume, int, str]]) -> list[Outcome]:
        """Overlays in one batch, one sync for all; other ways one by one."""
        overlays = [(volume, image, size) for image, volume, size, how in batch if how == "overlay"]
        made = iter(self._new.make(overlays))
        return [
            next(made) if how == "overlay" else self._new.copy(image, volume, size, how)
            for image, volume, size, how in batch
        ]

    def clone(self, image: Volume, volume: Volume, size: int, how: str) -> Outcome:
        """See the contract."""
        return self.clone_all([(image, volume, size, how)])[0]

    def fill(self, volume: Volume, content: Content) -> Facts:
        """See the contract."""
        with self.filling(volume) as (sink, means):
            return content.pour([sink], means)

    @contextlib.contextmanager
    def filling(self, volume: Volume) -> Iterator[tuple[Sink, Means]]:
        """See Backend."""
        path = self._folder.path(volume.name)
        with self._folder.new(volume) as descriptor:
            yield FileSink(descriptor, path), Means(self._runner, self._staging, self._beat, tuple(self._inherit()))
        sync_folder(os.path.dirname(path))

    def patch(self, volume: Volume, content: Content) -> Facts:
        """See the contract."""
        with contextlib.ExitStack() as stack:
            descriptor = stack.enter_context(self._folder.open(volume, os.O_RDWR))
            image = self._open_below(volume, stack)
            if image is None:
                raise BadInput(f"The volume {volume} is no clone, so there is nothing to write over.")
            sink = OverlaySink(descriptor, str(volume), image)
            return content.pour([sink], Means(self._runner, self._staging, self._beat, tuple(self._inherit())))

    def follow(self, volume: Volume, domain: str, target: str) -> Facts:
        """See the contract."""
        image, _size = self._image_below(volume)
        chain = [Link(self.location(volume), volume.format)]
        if image is not None:
            chain.append(Link(Location("file", image), "raw"))
        facts = copy_from_guest(self._host, chain, image is not None, domain, target, self._beat)
        sync_files([self._folder.path(volume.name)])
        return facts

    def part(self, volume: Volume, keep: bool) -> None:
        """See the contract."""
        end_copy(self._host, self._folder.path(volume.name), keep)

    def seal(self, volume: Volume) -> Outcome:
        """See the contract. Where the file system knows it, not even root writes to the file by mistake."""
        with self._folder.open(volume, os.O_RDONLY) as descriptor:
            if stat.S_IMODE(os.fstat(descriptor).st_mode) != 0o444:  # an immutable file refuses the very same mode, too
                os.fchmod(descriptor, 0o444)
            set_immutable(descriptor, True)
            os.fsync(descriptor)
        return DONE

    # Changing

    def grow(self, volume: Volume, size: int) -> Outcome:
        """See the contract. Qemu's own lock keeps two that grow the file at once apart; neither call shrinks."""
        stat_now = self.stat(volume)
        if stat_now is None:
            return refused(f"the volume {volume} is missing")
        if stat_now.size >= rounded(size):
            return ALREADY
        if self._host is not None:
            uses = self._host.users_of(self._folder.path(volume.name))
            outcome = grow_in_guest(self._host, uses, rounded(size))
            if outcome is not None:
                return outcome
        if volume.format == "qcow2":
            self._image_below(volume)
        argv = ["qemu-img", "resize", "-q", "-f", volume.format, self._folder.path(volume.name), str(rounded(size))]
        self._run(argv)
        sync_files([self._folder.path(volume.name)])
        return DONE

    def flatten(self, volume: Volume) -> Outcome:
        """See the contract. The image's pointer goes last, so that it can be done again from any point."""
        if volume.format != "qcow2":
            return ALREADY
        users = self.users(volume)
        if users:
            return refused(f"it is in use by {users}")
        image, size = self._image_below(volume)
        if image is None:
            return ALREADY
        path = self._folder.path(volume.name)
        before = self._own_amount(volume)
        copy_up(path, image, size, self._runner, _CHANGING, tuple(self._inherit()), self._beat)
        sync_files([path])
        after = self._own_amount(volume)
        users = self.users(volume)
        if users:
            return refused(f"it is in use by {users}")
        with self._folder.open(volume, os.O_RDWR) as descriptor:
            keep_still(descriptor, f"The volume {volume}")  # a guest that starts now would write the old header back
            drop_pointer(descriptor, str(volume))
        return copied(None if before is None or after is None else after - before)

    def _own_amount(self, volume: Volume) -> int | None:
        with self._folder.open(volume, os.O_RDONLY) as descriptor:
            return own_amount(descriptor, str(volume))

    def _image_below(self, volume: Volume) -> tuple[str | None, int]:
        """The image that a qcow2 file stands on, if any, and the file's size. Raises LostMetadata where that is no raw
        file of this pool: qemu would open whatever the header names."""
        with self._folder.open(volume, os.O_RDONLY) as descriptor:
            named, size = image_below(descriptor, str(volume)), read_size(descriptor, str(volume))
        if named is None:
            return None, size
        return self._folder.path(os.path.join(os.path.dirname(self._folder.path(volume.name)), named)), size

    def adopt(self, found: str, volume: Volume) -> Outcome:
        """See the contract."""
        return self._folder.link(found, volume)

    def leave(self, found: str, volume: Volume) -> Outcome:
        """See the contract."""
        return self._folder.unlink_twin(found, volume)

    def remove_all(self, batch: Sequence[tuple[Volume]]) -> list[Outcome]:
        """One look for users, one sync a folder."""
        outcomes = []
        folders = set()
        for (volume,), users in zip(batch, self.users_all(batch)):
            if users:
                outcomes.append(refused(f"it is in use by {users}"))
                continue
            path = self._folder.path(volume.name)
            try:
                if volume.adopted and str(os.lstat(path).st_ino) != volume.adopted:
                    outcomes.append(ALREADY)  # what was adopted is gone, and this is somebody else's
                    continue
                unlink(path)
                outcomes.append(DONE)
            except FileNotFoundError:
                outcomes.append(ALREADY)
            folders.add(os.path.dirname(path))
        for folder in folders:
            sync_folder(folder)
        return outcomes

    def remove(self, volume: Volume) -> Outcome:
        """See the contract."""
        return self.remove_all([(volume,)])[0]

    def sweep(self) -> list[str]:
        """See the contract."""
        return [os.path.relpath(path, self.root) for path in sweep_staging(self._staging.directory)]

    def _run(self, argv: Sequence[str]) -> None:
        self._runner.run(argv, limits=_CHANGING, pass_fds=tuple(self._inherit()), beat=self._beat)
