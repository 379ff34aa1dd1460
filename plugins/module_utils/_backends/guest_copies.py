# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""The disk of a running guest, brought into a volume by libvirt's block copy."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .._ground.errors import StorageError
from .._ground.libvirt_host import Host
from .._ground.ops import Facts
from .._policy.disk_xml import Attachment, Link, disk_xml


def copy_from_guest(
    host: Host | None, chain: Sequence[Link], cloned: bool, domain: str, target: str, beat: Callable[[], None]
) -> Facts:
    """What ``follow`` of the contract does, but for what the storage itself holds back. ``chain`` begins with the new
    volume; ``cloned`` tells whether that has what the disk's image holds."""
    if host is None:
        raise StorageError("Without libvirt no disk of a running guest can be copied.")
    xml = disk_xml(chain, Attachment(), target)
    amount = host.copy_block(domain, target, xml, chain[0].place.name, cloned, beat)
    return {"bytes_read": amount, "bytes_written": amount}


def end_copy(host: Host | None, place: str, keep: bool) -> None:
    """What ``part`` of the contract does, for the volume at ``place``."""
    if host is not None:
        host.end_copy(place, keep)
