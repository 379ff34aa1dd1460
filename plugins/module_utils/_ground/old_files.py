# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""Files of a layout that others wrote: looked at without following a link, and changed only where the inode is the one
that was looked at.

Whoever owns the folder can exchange a name at any moment. So whatever is done goes by name and is checked by inode.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from . import qcow2
from .durable import sync_folder
from .errors import LostMetadata, StorageError
from .immutable import set_immutable, unlink
from .ops import ALREADY, DONE, Outcome, refused
from .qcow2_pointer import Pointer, read_pointer, restore_pointer, write_backing

SMALL = 64 * 1024
"""Bytes that are read of a file which says something about others."""


@dataclass(frozen=True)
class FileFacts:
    """A name and what it is. ``kind`` is file, link, folder or other; sizes are bytes."""

    path: str
    kind: str
    device: int
    inode: int
    size: int
    mode: int
    uid: int
    gid: int
    links: int
    modified: int

    @property
    def native(self) -> str:
        """The lasting id, as a record has it."""
        return str(self.inode)


@dataclass(frozen=True)
class Overlay:
    """The header of a qcow2 file: the size of the disk in bytes, its pointer, and what forbids to take it over.
    ``blank`` tells that there are only zeroes behind what the header cluster says."""

    size: int
    pointer: Pointer
    flaw: str
    blank: bool


def facts_of(path: str) -> FileFacts | None:
    """What stands at ``path``; None where nothing does."""
    try:
        found = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    kinds = {stat.S_IFREG: "file", stat.S_IFLNK: "link", stat.S_IFDIR: "folder"}
    return FileFacts(
        path,
        kinds.get(stat.S_IFMT(found.st_mode), "other"),
        found.st_dev,
        found.st_ino,
        found.st_size,
        stat.S_IMODE(found.st_mode),
        found.st_uid,
        found.st_gid,
        found.st_nlink,
        found.st_mtime_ns,
    )


def names_in(folder: str) -> list[os.DirEntry[str]]:
    """What is in a folder, by name; nothing where there is no such folder."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return []


def read_small(path: str) -> bytes:
    """The start of a regular file; StorageError where it is none, or longer than anybody would write it."""
    with _opened(path, os.O_RDONLY) as descriptor:
        data = os.read(descriptor, SMALL + 1)
    if len(data) > SMALL:
        raise StorageError(f"The file {path} is longer than {SMALL} bytes, and nothing of it is believed.")
    return data


def read_overlay(path: str, native: str) -> Overlay:
    """The header of the file that all who know say is qcow2; LostMetadata where it has none."""
    with _opened(path, os.O_RDONLY, native) as descriptor:
        header, pointer = qcow2.read_header(descriptor, path), read_pointer(descriptor, path)
        blank = not any(_behind(descriptor, path)[1])
    flaw = ""
    if header.incompatible & qcow2.DATA_FILE:
        flaw = "its data is in another file, which its header names"
    elif header.incompatible & qcow2.CORRUPT:
        flaw = "qemu marked it as corrupt"
    elif header.crypt_method:
        flaw = "it is encrypted"
    return Overlay(header.virtual_size, pointer, flaw, blank)


def _behind(descriptor: int, path: str) -> tuple[int, bytes]:
    """Where what the header cluster says ends, and the bytes from there on."""
    cluster = qcow2.read_cluster(descriptor, path)
    header = qcow2.parse_header(cluster, path)
    name = header.backing_offset + len(os.fsencode(header.backing_file or ""))
    end = max(header.length, header.extensions_end + len(qcow2.pack_extensions(())), name)
    return end, cluster[end:]


@contextlib.contextmanager
def _opened(path: str, flags: int, native: str = "") -> Iterator[int]:
    """A regular file, by no link; with ``native`` only the one of that inode."""
    try:
        descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise LostMetadata(f"The file {path} is a symbolic link, which is not followed.") from None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or (native and str(found.st_ino) != native):
            raise LostMetadata(f"What stands at {path} is not the file that was looked at: run the task again.")
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def opened(path: str, native: str) -> Iterator[int]:
    """The file of that inode, for reading."""
    with _opened(path, os.O_RDONLY, native) as descriptor:
        yield descriptor


# Names


def link(path: str, native: str, name: str) -> Outcome:
    """Give the file at ``path`` the name ``name``, too. Idempotent, durable; refused where it is another file."""
    made = False
    try:
        os.link(path, name, follow_symlinks=False)
        made = True
    except FileExistsError:
        pass
    except FileNotFoundError:
        return refused(f"there is no {path} any more")
    except PermissionError as error:
        return refused(f"{path} cannot be linked ({error.strerror}): take its immutable flag away with chattr -i")
    if not _is(name, native):
        if made:
            os.unlink(name)
        return refused(f"what stands at {path if made else name} is not the file that was looked at")
    sync_folder(os.path.dirname(name))
    return DONE if made else ALREADY


def link_to_seal(path: str, native: str, name: str) -> Outcome:
    """Like ``link``, for a file that is to be sealed: it becomes our own, for libvirt may have left it to the guests'
    user; and where it is immutable, as it could get no other name, it is not so until it is sealed."""
    with opened(path, native) as descriptor:
        set_immutable(descriptor, False)
        os.fchown(descriptor, os.geteuid(), os.getegid())
    return link(path, native, name)


def drop(path: str, native: str, twin: str) -> Outcome:
    """Take the name ``path`` away from a file that has the name ``twin``, too. Idempotent, durable."""
    if facts_of(path) is None:
        return ALREADY
    if os.path.realpath(path) == os.path.realpath(twin) or not _is(path, native) or not _is(twin, native):
        return refused(f"{path} and {twin} are not two names of the file that was converted")
    unlink(path)
    sync_folder(os.path.dirname(path))
    return DONE


def unseal(path: str, native: str, owner: tuple[int, int], mode: int, immutable: bool) -> None:
    """Give a file that was sealed its owner and group, its mode and its flag back. Idempotent, durable. What else has
    come to stand there is let be."""
    if not _is(path, native):
        return
    with opened(path, native) as descriptor:
        set_immutable(descriptor, False)
        os.fchown(descriptor, *owner)
        os.fchmod(descriptor, mode)
        if immutable:
            set_immutable(descriptor, True)
        os.fsync(descriptor)


def _is(path: str, native: str) -> bool:
    found = facts_of(path)
    return found is not None and found.kind == "file" and found.native == native


# Pointers


def point(path: str, native: str, backing: str) -> None:
    """Let the qcow2 file stand on the raw file ``backing``. Atomic, durable, idempotent."""
    with _opened(path, os.O_RDWR, native) as descriptor:
        write_backing(descriptor, backing, "raw", path)


def point_back(path: str, native: str, pointer: Pointer, *, blank: bool) -> None:
    """Put back the pointer that the qcow2 file had. Atomic, durable, idempotent. Where there was nothing behind it,
    what a change that was broken off left there goes."""
    with _opened(path, os.O_RDWR, native) as descriptor:
        restore_pointer(descriptor, pointer, path)
        end, rest = _behind(descriptor, path)
        if blank and any(rest):
            qcow2.pwrite(descriptor, bytes(len(rest)), end)
            os.fdatasync(descriptor)
