# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""Libvirt's block copy: the disk of a running guest copied to another volume, which the guest then goes on with.

As long as the copy follows, qemu writes to both. Once it has caught up, no write of the guest is done before both have
it; and when the guest then stops, qemu has whatever it holds back written to both. A guest that stands still while
nothing is left to be copied has two equal disks: only then may it be decided which of them is the disk.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from .errors import InUse, NotFound, StorageError
from .libvirt_errors import told

try:
    import libvirt  # type: ignore[import-untyped,unused-ignore]
except ImportError:
    libvirt = None

LOOKS = 0.2
"""Seconds between looks at a copy that is under way."""
SETTLING = 30.0
"""Seconds that a guest may stand still until all it wrote is copied."""


class BlockCopies:
    """Block copies of guests of this host, over a libvirt connection. ``target`` is a disk's name in its guest,
    ``place`` what it is copied to: a path, or ``pool/image`` in Ceph."""

    _connection: Any

    def copies_blocks(self) -> bool:
        """Whether libvirt can copy so that nothing stays behind: since 8.0."""
        known = hasattr(libvirt, "VIR_DOMAIN_BLOCK_COPY_SYNCHRONOUS_WRITES")
        with told("tell its version"):
            return known and self._connection.getLibVersion() >= 8_000_000

    def copy_block(
        self, domain: str, target: str, xml: str, place: str, shallow: bool, beat: Callable[[], None]
    ) -> int:
        """Have a running guest's disk copied to a new volume of its size, which ``xml`` describes, and followed;
        without what its image holds if ``shallow``. On return the guest stands still, both are equal, and qemu holds
        nothing back. The bytes that it went through. Raises StorageError where that cannot be; then the copy may go
        on."""
        with told(f"copy {target} of guest {domain}"):
            guest = self._connection.lookupByName(domain)
            # A copy does not outlive its guest, which libvirt wants to hear of one that is defined.
            flags = libvirt.VIR_DOMAIN_BLOCK_COPY_REUSE_EXT | libvirt.VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB
            # What is copied behind the stop is flushed by nobody before the copy is let go of.
            flags |= libvirt.VIR_DOMAIN_BLOCK_COPY_SYNCHRONOUS_WRITES
            if shallow:
                flags |= libvirt.VIR_DOMAIN_BLOCK_COPY_SHALLOW
            guest.blockCopy(target, xml, {}, flags)
            while not self._follows(guest, target, place):
                beat()
                time.sleep(LOOKS)
            if guest.state(0)[0] == libvirt.VIR_DOMAIN_RUNNING:
                guest.suspend()
            end = time.monotonic() + SETTLING
            while (amount := self._amount(guest, target, place)) is None:
                if time.monotonic() > end:
                    raise StorageError(f"The copy of {target} of guest {domain} stays behind: look at its pool.")
                beat()
                time.sleep(LOOKS)
        return amount

    def end_copy(self, place: str, keep: bool) -> None:
        """End the copy to the volume, if one goes on: the guest stays with it (``keep``), or with what it had. A guest
        that stands still goes on, unless another of its disks is being copied."""
        with told("list the running guests"):
            guests = self._connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)
        for guest in guests:
            try:
                self._end(guest, place, keep)
            except NotFound:
                continue  # it stopped meanwhile, and so did its copy

    def _end(self, guest: Any, place: str, keep: bool) -> None:
        """Whatever is done last is what the next look knows it by that this was not at its end."""
        with told(f"end a copy of guest {guest.name()}"):
            disks = _disks(guest)
            copied = next((target for target, disk in disks.items() if _same(disk.mirror, place)), None)
            others = any(disk.mirror and target != copied for target, disk in disks.items())
            if keep and copied is not None:
                guest.blockJobAbort(copied, libvirt.VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT)
            concerned = copied is not None or any(_same(disk.source, place) for disk in disks.values())
            if concerned and not others and guest.state(0)[0] == libvirt.VIR_DOMAIN_PAUSED:
                guest.resume()
            if not keep and copied is not None:
                guest.blockJobAbort(copied, 0)

    def _follows(self, guest: Any, target: str, place: str) -> bool:
        """Whether the copy has caught up once."""
        disk = _disks(guest).get(target, _Copied())
        if not _same(disk.mirror, place):
            raise InUse(f"The copy of {target} of guest {guest.name()} was ended by somebody else: run the task again.")
        return disk.ready

    def _amount(self, guest: Any, target: str, place: str) -> int | None:
        """The bytes that the copy went through; None where some are left."""
        job = guest.blockJobInfo(target, 0)
        equal = self._follows(guest, target, place) and job and job["cur"] == job["end"]
        return int(job["end"]) if equal else None


@dataclass(frozen=True)
class _Copied:
    """Where a guest's disk is, what it is copied to, and whether that has caught up."""

    source: str = ""
    mirror: str = ""
    ready: bool = False


def _disks(guest: Any) -> dict[str, _Copied]:
    """The disks of a guest by their names there."""
    found = {}
    for disk in ElementTree.fromstring(guest.XMLDesc(0)).iterfind("./devices/disk"):
        name, mirror = disk.find("target"), disk.find("mirror")
        found[name.get("dev", "") if name is not None else ""] = _Copied(
            _place(disk.find("source")),
            _place(disk.find("mirror/source")),
            mirror is not None and mirror.get("ready") == "yes",
        )
    return found


def _place(source: ElementTree.Element | None) -> str:
    """What a source names: a path, or ``pool/image``."""
    return "" if source is None else source.get("file") or source.get("dev") or source.get("name") or ""


def _same(one: str, other: str) -> bool:
    return bool(one) and os.path.realpath(one) == os.path.realpath(other)
