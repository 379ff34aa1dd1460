# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""The names and paths of pools: what can be one, and how it is shown in a message."""

from __future__ import annotations

import posixpath
import re

from .._ground.errors import BadInput

LONGEST_NAME = 100
LONGEST_PATH = 1000
"""Bytes; leaves room below the kernel's 4096 for what stands in the folder."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


def checked_name(name: str) -> str:
    """The name for a new pool, or `BadInput`. It becomes a file name of libvirt's and stands in messages."""
    if len(name) > LONGEST_NAME or not _NAME.fullmatch(name):
        raise BadInput(
            f"The pool name {shown(name)} cannot be used: give 1 to {LONGEST_NAME} of A-Z, a-z, 0-9 and . _ + -, "
            "beginning with a letter or digit."
        )
    return name


def checked_path(path: str) -> str:
    """The folder of a pool in normal form, or `BadInput`."""
    normal = normal_path(path)
    if normal == "/":
        raise BadInput("The path / cannot be used: give a folder of the pool's own.")
    return normal


def normal_path(path: str) -> str:
    """An absolute path in normal form, or `BadInput`."""
    if not path.startswith("/") or ".." in path.split("/") or not path.isprintable():
        raise BadInput(f"The path {shown(path)} cannot be used: give an absolute path without '..'.")
    if len(path.encode()) > LONGEST_PATH or any(len(part.encode()) > 255 for part in path.split("/")):
        raise BadInput(f"The path {shown(path)} cannot be used: it is longer than file systems allow.")
    return "/" + posixpath.normpath(path).lstrip("/")


def shown(text: str) -> str:
    """``text`` for a message: in quotes, control characters escaped, and not at endless length."""
    return repr(text if len(text) <= 60 else text[:57] + "...")
