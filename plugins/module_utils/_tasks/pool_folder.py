# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""The folder of a pool: what it is like, and making it as wished."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from typing import Any

from .._ground.errors import BadInput
from .._policy.pool_names import shown
from .._policy.pools import FOLDER_MODE, Folder, Wish


def look_at(path: str) -> Folder:
    """The folder at ``path`` as it is, and what keeps it from being a pool's."""
    parent = os.path.dirname(path)
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        problem = ""
        if os.path.lexists(path):
            problem = f"The path {path} is a symbolic link to nothing: make what it points to, or give another path."
        elif not os.path.isdir(parent):
            problem = f"The folder {path} cannot be made: there is no folder {parent}; make or mount that first."
        elif _read_only(parent):
            problem = f"The folder {path} cannot be made: the file system of {parent} is read-only; remount it."
        return Folder(exists=False, problem=problem, parent_missing=not os.path.lexists(parent))
    problem = ""
    if not stat.S_ISDIR(status.st_mode):
        problem = f"The path {path} is not a folder: a pool needs a folder of its own; give another path."
    elif _read_only(path):
        problem = f"The file system of {path} is read-only, and a pool is written to: remount it."
    return Folder(
        exists=True,
        mode=stat.S_IMODE(status.st_mode),
        owner=_name_of_user(status.st_uid),
        group=_name_of_group(status.st_gid),
        problem=problem,
    )


def impassable(path: str) -> list[str]:
    """A warning where libvirt's qemu user cannot reach what is in the folder; nothing where it can, or may."""
    try:
        status = os.stat(path)
    except OSError:
        return []
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o001 or (status.st_uid, status.st_gid) != (0, 0):
        return []
    text = (
        f"The folder {path} has mode {mode:04o} and belongs to root: libvirt's qemu user cannot pass through it, "
        "and guests cannot start from disks in it. Say mode: '0711'."
    )
    return [text]


def create(path: str, want: Wish) -> None:
    """Make the folder, closed to others until its owner is set."""
    os.mkdir(path, 0o700)
    permit(path, want, FOLDER_MODE)


def permit(path: str, want: Wish, default: int | None = None) -> None:
    """Give the folder the wished owner, group and mode; the mode last, for a new owner clears set-id bits."""
    if want.owner is not None or want.group is not None:
        os.chown(path, _uid(want.owner), _gid(want.group))
    mode = default if want.mode is None else want.mode
    if mode is not None:
        os.chmod(path, mode)


def folder_mode(given: Any) -> int | None:
    """A folder's mode from ``"0711"``, or from the number that YAML makes of 0711."""
    if given is None:
        return None
    try:
        mode = given if isinstance(given, int) else int(str(given), 8)
    except ValueError:
        mode = -1
    if isinstance(given, bool) or not 0 <= mode <= 0o7777 or mode & 0o700 != 0o700:
        raise BadInput(
            f"The mode {shown(str(given))} cannot be used: give an octal number in quotes, such as '0711', that lets "
            "the owner read, write and pass."
        )
    return mode


def account(kind: str, given: str | None, check_mode: bool, warnings: list[str]) -> str | None:
    """A user or group by its name, also when given by number. In check mode an unknown one is a warning:
    an earlier task may install the package that brings it."""
    if given is None:
        return None
    if given.isascii() and given.isdigit():
        return _name_of_user(int(given)) if kind == "user" else _name_of_group(int(given))
    try:
        (pwd.getpwnam if kind == "user" else grp.getgrnam)(given)
    except KeyError:
        message = f"There is no {kind} {shown(given)} on this host: give one that exists, or its number."
        if not check_mode:
            raise BadInput(message) from None
        warnings.append(message)
    return given


def _name_of_user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError):
        return str(uid)


def _name_of_group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except (KeyError, OverflowError):
        return str(gid)


def _uid(owner: str | None) -> int:
    if owner is None:
        return -1
    return int(owner) if owner.isdigit() else pwd.getpwnam(owner).pw_uid


def _gid(group: str | None) -> int:
    if group is None:
        return -1
    return int(group) if group.isdigit() else grp.getgrnam(group).gr_gid


def _read_only(path: str) -> bool:
    return bool(os.statvfs(path).f_flag & os.ST_RDONLY)
