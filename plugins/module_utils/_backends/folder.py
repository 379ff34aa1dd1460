# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""The folder of a file pool: its files by the names that records give them, links not followed."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator

from .._ground.durable import sync_folder
from .._ground.errors import LostMetadata, OutOfSpace, StorageError
from .._ground.ops import ALREADY, DONE, Outcome, refused
from .._ground.qcow2_foreign import foreign_flaw
from .._records.types import Volume


class Folder:
    """The folder at ``root``, an absolute path."""

    def __init__(self, root: str) -> None:
        self.root = root

    def path(self, name: str) -> str:
        """The absolute path of a volume; LostMetadata where its record names what cannot be a volume of this pool."""
        path = os.path.normpath(os.path.join(self.root, name))
        try:
            impossible = b"\0" in os.fsencode(name)
        except UnicodeEncodeError:
            impossible = True
        if impossible:
            raise LostMetadata(
                f"The record names the volume {name!r}, which no file can be called: restore the record."
            )
        if not path.startswith(self.root.rstrip("/") + "/"):
            raise LostMetadata(f"The record names the volume {name!r}, which lies outside of its pool {self.root}.")
        return path

    @contextlib.contextmanager
    def open(self, volume: Volume, flags: int) -> Iterator[int]:
        """The volume's file, never through a link that somebody put there."""
        path = self.path(volume.name)
        descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise LostMetadata(f"The volume {volume} is not a regular file: restore it, or remove its disk.")
            yield descriptor
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def new(self, volume: Volume) -> Iterator[int]:
        """The volume's file, which was not there before, and is not there any more when its making fails."""
        path = self.path(volume.name)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            yield descriptor
        except (OSError, StorageError) as error:
            os.unlink(path)
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise OutOfSpace(
                    f"The pool folder {self.root} is full: free space in it, then run the task again."
                ) from error
            raise
        finally:
            os.close(descriptor)

    def others(self, *known: str) -> list[str]:
        """Names in the folder that are neither regular files nor ``known``."""
        try:
            with os.scandir(self.root) as entries:
                return [
                    entry.name
                    for entry in entries
                    if entry.name not in known and not entry.is_file(follow_symlinks=False)
                ]
        except (FileNotFoundError, NotADirectoryError):
            return []

    # Files that others made

    def flaw(self, volume: Volume) -> str:
        """Why the file at the volume's name cannot be adopted in its format; empty where it can."""
        path = self.path(volume.name)
        try:
            mode = os.lstat(path).st_mode
        except (FileNotFoundError, NotADirectoryError):
            return "there is no such file in its folder; disk_metadata_info lists what there is"
        if stat.S_ISLNK(mode):
            return "that is a symbolic link, which may lead anywhere; give the file itself"
        if stat.S_ISDIR(mode):
            return "that is a folder; give a file"
        if not stat.S_ISREG(mode):
            return "that is not a regular file; give one"
        return foreign_flaw(path) if volume.format == "qcow2" else ""

    def link(self, found: str, volume: Volume) -> Outcome:
        """Give the file ``found`` the volume's name, too. The inode tells that it is the file that was meant."""
        source, target = self.path(found), self.path(volume.name)
        try:
            status = os.lstat(source)
        except FileNotFoundError:
            return refused(f"there is no {found} in the pool")
        if not stat.S_ISREG(status.st_mode) or str(status.st_ino) != volume.adopted:
            return refused(f"{found} is not the file that it was when the task began")
        if source != target:
            try:
                os.link(source, target, follow_symlinks=False)
            except FileExistsError:
                if str(os.lstat(target).st_ino) != volume.adopted:
                    return refused(f"another file stands at {volume}")
            sync_folder(os.path.dirname(target))
        return DONE

    def unlink_twin(self, found: str, volume: Volume) -> Outcome:
        """Take away the name ``found`` of a file that has the volume's name, too."""
        source, target = self.path(found), self.path(volume.name)
        try:
            if os.path.samestat(os.lstat(source), os.lstat(target)) and source != target:
                os.unlink(source)
                sync_folder(os.path.dirname(source))
                return DONE
        except FileNotFoundError:
            return ALREADY
        return refused(f"{found} and {volume} are not one file")
