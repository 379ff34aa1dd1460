# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""A raw image with an empty file system in it.

Such an image is a template: made once, then the backing of many disks. So it takes little space, and it
leaves no work for the first mount, which every one of those disks would do again: where the place is known
to read as zeroes, tables and journal are not written, and are marked as done. Its UUID is given, because
the disks of one instance must not have the same.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .command import Limits, Runner
from .errors import BadInput

_LIMITS = Limits(wall_seconds=600, cpu_seconds=300)
_NAMESPACE = uuid.UUID("7f6f0a3e-3c0f-5e0c-9d58-0b7f6a2f4f11")
_KIB, _MIB, _TIB = 1 << 10, 1 << 20, 1 << 40


@dataclass(frozen=True)
class _Kind:
    """What a file system can be: bounds of its size and its label in bytes, and how it is made."""

    least: int
    most: int
    label: int
    command: Callable[[uuid.UUID, str], Sequence[str]]


def _ext4(identity: uuid.UUID, label: str) -> Sequence[str]:
    # With discard, mke2fs empties the file and knows that the tables read as zeroes; so "not lazy" costs no
    # write, and the kernel finds nothing to initialize later. The journal is empty as well: skip writing it.
    options = f"discard,lazy_itable_init=0,lazy_journal_init=1,hash_seed={identity}"
    return ["mkfs.ext4", "-q", "-F", "-t", "ext4", "-U", str(identity), "-L", label, "-E", options]


def _xfs(identity: uuid.UUID, label: str) -> Sequence[str]:
    return ["mkfs.xfs", "-q", "-f", "-m", f"uuid={identity}", *(["-L", label] if label else [])]


def _swap(identity: uuid.UUID, label: str) -> Sequence[str]:
    return ["mkswap", "--pagesize", "4096", "-U", str(identity), *(["-L", label] if label else [])]


def _vfat(identity: uuid.UUID, label: str) -> Sequence[str]:
    volume = identity.hex[:8]
    return ["mkfs.vfat", "--invariant", "-i", volume, *(["-n", label.upper()] if label else [])]


_KINDS = {
    # Below its minimum ext4 comes without a journal.
    "ext4": _Kind(8 * _MIB, 1024 * 1024 * _TIB, 16, _ext4),
    "xfs": _Kind(300 * _MIB, 8 * 1024 * 1024 * _TIB - 512, 12, _xfs),
    "swap": _Kind(40 * _KIB, 16 * _TIB - 4096, 15, _swap),
    "vfat": _Kind(1 * _MIB, 2 * _TIB - 512, 11, _vfat),
}

KINDS = tuple(_KINDS)
"""The file systems that can be made."""


def identity_for(key: str) -> uuid.UUID:
    """The UUID of the file system that ``key`` stands for: the same key gives the same UUID on every host."""
    return uuid.uuid5(_NAMESPACE, key)


def check_blank(kind: str, size: int, label: str = "") -> None:
    """Raise BadInput when ``make_blank`` could not make this; nothing is looked at or changed."""
    if kind not in _KINDS:
        raise BadInput(f"A file system {kind!r} was asked; known are {', '.join(KINDS)}.")
    what = _KINDS[kind]
    if not what.least <= size <= what.most or size % 512:
        raise BadInput(
            f"A size of {size} bytes was asked for {kind}; "
            f"it can be {what.least} to {what.most} bytes, in whole sectors of 512."
        )
    if len(label) > what.label or not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]*|", label):
        raise BadInput(
            f"The label {label!r} was asked for {kind}; it can have up to {what.label} letters (a-z), digits, "
            "underscores and, not in front, hyphens."
        )


def make_blank(
    fd: int,
    kind: str,
    size: int,
    label: str,
    identity: uuid.UUID,
    runner: Runner,
    pass_fds: Sequence[int] = (),
) -> None:
    """Make the regular file ``fd``, open for writing, a sparse image of ``size`` bytes with a file system.

    What the file held is gone. Nothing is synced. ``pass_fds`` are locks that the program has to keep while
    it runs. vfat has no UUID: the first 32 bits of ``identity`` become its volume number, and
    its label is put in capitals, as the format has it.

    Raises BadInput, MissingRequirement (with the package), CommandFailed or OutOfSpace.
    """
    check_blank(kind, size, label)
    os.ftruncate(fd, 0)
    os.ftruncate(fd, size)
    # By its descriptor: nobody can put another file in its place meanwhile.
    argv = [*_KINDS[kind].command(identity, label), f"/proc/self/fd/{fd}"]
    runner.run(argv, limits=_LIMITS, pass_fds=(fd, *pass_fds))
