# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""Looking at an incoming image before any program of qemu does, and making qemu agree afterwards.

For incoming images only. What a volume of this host is stands in its record; a guest can write whatever it likes
into its disk, and would be believed here.

An image is accepted when what is declared is what is found and nothing in it leads out of it: no backing file, no
data file, no other extents, no features that are not known (qcow2's extended_l2 is among those), no encryption, and
a virtual size within bounds. Internal snapshots of a qcow2 are accepted and left behind: only the current state is
converted.

==========  =========================================================================================
declared    found
==========  =========================================================================================
raw         nothing that is known, a partition table, an ISO 9660 or UDF file system, or both of these
iso         ISO 9660 or UDF, with or without a partition table; the content is raw
qcow2       qcow2 version 2 or 3
vmdk        monolithicSparse or streamOptimized
vhd, vpc    dynamic VHD; a fixed one is a raw image with a footer, and says so only there
vhdx, vdi   these
==========  =========================================================================================
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from . import headers
from .bounds import Bounds
from .command import INSPECTING, Runner
from .errors import (
    BadInput,
    CommandFailed,
    MissingRequirement,
    UnsafeImage,
)
from .headers import SECTOR, refuse

try:
    from oslo_utils.imageutils import format_inspector
except ImportError:
    # From 10.1 on, oslo.utils imports cryptography here and does not depend on it.
    format_inspector = None

FORMATS = ("raw", "iso", "qcow2", "vmdk", "vhd", "vpc", "vhdx", "vdi")
"""What can be declared."""

HEAD = 1024**2 + 4096
"""Bytes from the start of an image in which every format shows, and the longest VMDK descriptor ends."""

_RAW = {"raw", "iso"}
_DETECTABLE = ("qcow2", "qed", "vhd", "vhdx", "vmdk", "vdi", "luks", "iso", "gpt")
# How formats start that oslo.utils does not know, or knows only when the header is whole.
_MAGIC = (
    (b"QFI\xfb", "qcow2"),
    (b"KDMV", "vmdk"),
    (b"COWD", "vmdk"),
    (b"# disk descriptorfile", "vmdk"),
    (b"conectix", "vhd"),
    (b"\x1f\x8b\x08", "gz"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x28\xb5\x2f\xfd", "zst"),
    (b"bochs virtual hd image", "bochs"),
    (b"withoutfreespace", "parallels"),
    (b"withoufrespacext", "parallels"),
)
_QEMU_NAMES = {"vhd": "vpc", "iso": "raw"}
_VHDX_METADATA_WITHIN = 64 * 1024**2
_FOOTER = 3 * SECTOR
_CHECKS = {"descriptor": "subformat"}  # oslo.utils' names of checks that say less than ours


@dataclass(frozen=True)
class Inspected:
    """An image that passed."""

    format: str
    """As declared; ``vhd`` where ``vpc`` was, qemu's name of it."""
    virtual_size: int
    """Bytes that a guest sees: a multiple of 512, to which a raw image is rounded up."""

    @property
    def qemu_format(self) -> str:
        """What to tell qemu."""
        return _QEMU_NAMES.get(self.format, self.format)


def canonical_format(declared: str) -> str:
    """The one name of a declared format; ``BadInput`` for anything else."""
    if declared not in FORMATS:
        raise BadInput("The format %r is not one of %s." % (declared, ", ".join(FORMATS)), format=declared)
    return "vhd" if declared == "vpc" else declared


def needs_random_access(declared: str) -> bool:
    """Whether an image of this format has to be a file before it can be converted."""
    return canonical_format(declared) not in _RAW


def inspect(fd: int, declared: str, bounds: Bounds) -> Inspected:
    """Look at an open file or block device that claims to hold an image.

    :raises UnsafeImage: with the fact ``check``: format_mismatch, truncated, virtual_size, backing_file, data_file,
        unknown_features, encrypted, subformat, footer, corrupt, header, nested.
    :raises MissingRequirement: without oslo.utils.
    """
    size = os.lseek(fd, 0, os.SEEK_END)
    head = _read(fd, 0, HEAD)
    return _inspect(fd, head, size, canonical_format(declared), bounds)


def inspect_raw(head: bytes, declared: str, bounds: Bounds, size: int | None = None) -> None:
    """Look at the first ``HEAD`` bytes (or all there are) of raw content that comes as a stream.

    :param size: length of the whole stream in bytes, if it is known yet.
    """
    if not head:
        raise refuse("truncated", "The source is empty.")
    _check_declared(canonical_format(declared), _detect(head))
    _check_virtual_size(round_up(len(head) if size is None else size), bounds)


def inspect_content(head: bytes) -> None:
    """Look at what came out of a conversion: an image in an image is refused as ``nested``.

    A raw disk that starts like a qcow2 or the like is what makes probing programs open other files. No cloud image
    is one, and a guest that wants such a disk can write it by itself.
    """
    found = _detect(head) - {"iso", "gpt"}
    if found == {"luks"}:
        raise _encrypted()
    if found:
        raise refuse("nested", "The disk in the image starts as an image of format %s itself." % _names(found))


def round_up(size: int) -> int:
    """``size`` in bytes, up to whole sectors."""
    return -(-size // SECTOR) * SECTOR


def qemu_agrees(runner: Runner, fd: int, inspected: Inspected, *, inherit: Sequence[int] = ()) -> None:
    """Let qemu, told the format and held by limits, look at an image that passed; it must see the same.

    ``qemu-img check`` follows, where it knows the format: an image that was cut off converts without a complaint,
    with zeroes where its data was.

    :param inherit: descriptors that the programs inherit, such as that of a lock.
    :raises UnsafeImage: with the fact ``check``: qemu_disagrees or corrupt.
    :raises CommandFailed: a program was stopped, by a limit or from outside, and so said nothing about the image.
    """
    name = "/proc/self/fd/%d" % fd
    fds = (fd, *inherit)
    known_as = inspected.qemu_format
    try:
        told = runner.run(
            ["qemu-img", "info", "-f", known_as, "--output=json", name], limits=INSPECTING, pass_fds=fds
        ).out
        _compare(json.loads(told), inspected, name)
    except CommandFailed as error:
        if not _ended_by_itself(error):
            raise
        raise refuse("qemu_disagrees", "qemu refuses the image: %s" % error.message, **error.facts) from error
    except (ValueError, TypeError, AttributeError) as error:
        raise refuse("qemu_disagrees", "What qemu-img info told about the image cannot be understood.") from error
    try:
        # 3 is leaked clusters, which only take room; 63 is a format that cannot be checked.
        runner.run(["qemu-img", "check", "-f", known_as, name], limits=INSPECTING, pass_fds=fds, ok=(0, 3, 63))
    except CommandFailed as error:
        if not _ended_by_itself(error):
            raise
        message = "The image is damaged or cut off; fetch it again. %s" % error.message
        raise refuse("corrupt", message, **error.facts) from error


def _ended_by_itself(error: CommandFailed) -> bool:
    """Whether the program came to an end of its own: no limit stopped it, and no signal."""
    rc = error.facts.get("rc")
    return rc is not None and bool(rc >= 0)


def _compare(told: dict[str, Any], inspected: Inspected, name: str) -> None:
    special = (told.get("format-specific") or {}).get("data") or {}
    extents = [extent.get("filename") for extent in special.get("extents") or []]
    differences = [
        what
        for what, differs in (
            ("its format is %s" % told.get("format"), told.get("format") != inspected.qemu_format),
            (
                "its virtual size is %s bytes, not %d" % (told.get("virtual-size"), inspected.virtual_size),
                told.get("virtual-size") != inspected.virtual_size,
            ),
            ("it has a backing file", "backing-filename" in told or "full-backing-filename" in told),
            ("it has a data file", "data-file" in special),
            ("it is encrypted", bool(told.get("encrypted")) or "encrypt" in special),
            ("it is corrupt", bool(special.get("corrupt"))),
            ("it has extents elsewhere", bool(extents) and extents != [name]),
        )
        if differs
    ]
    if differences:
        raise refuse("qemu_disagrees", "To qemu the image is something else: %s." % ", ".join(differences))


def _inspect(fd: int, head: bytes, size: int, declared: str, bounds: Bounds) -> Inspected:
    if size == 0:
        raise refuse("truncated", "The image is empty.")
    found = _detect(head)
    _check_declared(declared, found)
    if declared in _RAW:
        virtual_size = round_up(size)
    else:
        if declared in headers.OWN_CHECKS:
            headers.OWN_CHECKS[declared](head, size)
        virtual_size = _safe_size(fd, head, size, declared)
    _check_virtual_size(virtual_size, bounds)
    return Inspected(declared, virtual_size)


def _check_declared(declared: str, found: set[str]) -> None:
    kinds = found - {"gpt"} or {"raw"}
    if "luks" in found:
        raise _encrypted()
    if declared == "raw":
        kinds -= {"iso"}
        fits = not kinds - {"raw"}
    else:
        fits = kinds == {declared} and (declared == "iso" or "gpt" not in found)
    if not fits:
        raise refuse(
            "format_mismatch",
            "The image was declared as %s, but its content is %s; state what it is." % (declared, _names(found)),
            declared=declared,
            found=sorted(found),
        )


def _check_virtual_size(size: int, bounds: Bounds) -> None:
    if not 0 < size <= bounds.max_virtual_size or size % SECTOR:
        raise refuse(
            "virtual_size",
            "The disk in the image would have %d bytes, and whole sectors up to %d bytes are accepted."
            % (size, bounds.max_virtual_size),
            virtual_size=size,
        )


def _encrypted() -> UnsafeImage:
    return refuse("encrypted", "The image is encrypted (LUKS), and no key can be given here; decrypt it first.")


def _detect(head: bytes) -> set[str]:
    """Every format that the start of an image fits; empty for raw.

    Each inspector is asked by itself: the wrapper that asks them all ends with the first decision, and an image
    that fits two formats is just the one to be told about.
    """
    start = head[:64]
    known = {name for magic, name in _MAGIC if start.startswith(magic) or start.lstrip().lower().startswith(magic)}
    return known | {name for name in _DETECTABLE if _matches(name, head)}


def _matches(name: str, head: bytes) -> bool:
    inspector = _inspector(name)
    try:
        inspector.eat_chunk(head)
        inspector.finish()
    except Exception:  # noqa: BLE001 - whatever a hostile header makes the parser trip over
        # The magic may have fitted before it did.
        pass
    try:
        return bool(inspector.format_match)
    except Exception:  # noqa: BLE001 - as above
        return False


def _inspector(name: str) -> Any:
    if format_inspector is None:
        raise MissingRequirement(
            "The Python library oslo.utils (7.4 or later) with its image inspection is missing; install "
            "oslo.utils[image-inspection] for %s, or python3-oslo.utils where the distribution's is new enough."
            % sys.executable,
            library="oslo.utils",
        )
    inspector = format_inspector.get_inspector(name)
    if inspector is None:
        raise MissingRequirement("oslo.utils does not know the format %s; 7.4 or later is needed." % name)
    return inspector()


def _safe_size(fd: int, head: bytes, size: int, declared: str) -> int:
    """oslo.utils' verdict, and the virtual size that it found."""
    inspector = _inspector(declared)
    try:
        inspector.eat_chunk(head)
        _feed_rest(inspector, fd, head, size, declared)
        inspector.finish()
        if not inspector.complete:
            raise refuse("truncated", "The image ends within its header; fetch it again.")
        _check_safety(inspector, head, declared)
        return int(inspector.virtual_size)
    except UnsafeImage:
        raise
    except Exception as error:
        raise refuse("header", "The header of the image cannot be understood (%s)." % error) from error


def _check_safety(inspector: Any, head: bytes, declared: str) -> None:
    try:
        inspector.safety_check()
    except format_inspector.SafetyCheckFailed as error:
        failures = dict(error.failures)
        if declared == "qcow2" and head[4:8] == b"\0\0\0\2":
            # Version 2 has no feature bits; the inspector takes what stands in their place for them.
            failures.pop("data_file", None)
        for name, reason in failures.items():
            check = _CHECKS.get(name) or str(name)
            message = "The image is not safe: its %s did not pass (%s)." % (check.replace("_", " "), reason)
            raise refuse(check, message) from error


def _feed_rest(inspector: Any, fd: int, head: bytes, size: int, declared: str) -> None:
    """What lies behind the head and matters: VHDX metadata anywhere, the footer of a VMDK."""
    if declared == "vhdx":
        offset = len(head)
        while not inspector.complete and offset < min(size, _VHDX_METADATA_WITHIN):
            chunk = _read(fd, offset, HEAD)
            inspector.eat_chunk(chunk)
            offset += len(chunk)
    elif declared == "vmdk" and inspector.has_region("footer"):
        # The inspector keeps the last bytes that it is given, so nothing between needs to be read.
        tail = _read(fd, max(0, size - _FOOTER), _FOOTER)
        inspector.eat_chunk(tail)
        headers.check_vmdk_footer(head, tail, size)


def _names(found: set[str]) -> str:
    return " and ".join(sorted(found)) or "raw"


def _read(fd: int, offset: int, length: int) -> bytes:
    """Up to ``length`` bytes from ``offset`` on, fewer only at the end of the file."""
    data = b""
    while len(data) < length and (more := os.pread(fd, length - len(data), offset + len(data))):
        data += more
    return data
