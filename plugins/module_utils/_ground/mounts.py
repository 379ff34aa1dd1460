# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""What is mounted where, as the kernel says."""

from __future__ import annotations

import re
from dataclasses import dataclass

MOUNTS = "/proc/self/mountinfo"
"""To be read with newlines as they are: the kernel escapes space, tab, newline and backslash, and no other character at
which Python would end a line."""
_ESCAPE = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True)
class Mount:
    """A mounted file system. ``options`` are those of the file system itself, not of this mount of it."""

    path: str
    type: str
    source: str
    options: str


def mounted_at(path: str, table: str | None = None) -> Mount | None:
    """What is mounted exactly at ``path``, uppermost; None where nothing is. ``table`` stands in for mountinfo."""
    if table is None:
        with open(MOUNTS, encoding="utf-8", errors="surrogateescape", newline="\n") as lines:
            table = lines.read()
    found = None
    for line in filter(None, table.split("\n")):
        mount, _unused, system = line.partition(" - ")
        where = _unescaped(mount.split(" ")[4])
        if where == path:
            kind, source, options = system.split(" ", 2)
            found = Mount(where, kind, _unescaped(source), options)
    return found


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(lambda code: chr(int(code.group(1), 8)), text)
