# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""A pool of files and an old layout of files beside it, performed for real."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .._algorithms.conversion import STAGING, Standing
from .._algorithms.pool import Pool
from .._backends.perform import Parts
from .._ground import old_files
from .._ground.bounds import Bounds
from .._ground.digest import content_of_file
from .._ground.errors import StorageError
from .._ground.inspection import inspect
from .._ground.libvirt_host import Host
from .._ground.ops import DONE, Facts, Outcome, refused
from .._ground.qcow2_pointer import Pointer
from .._policy.disk_xml import Link, Location
from .._policy.guest_disks import disk_elements, exchanged, is_spelt_out, spelt_out
from .._policy.pool_xml import read
from .._records.types import Volume
from .session import Session

LARGEST = 1 << 46
"""Bytes that a base may have; more than any file system of a host with an old layout holds."""
BOUNDS = Bounds(LARGEST, LARGEST)


@dataclass(frozen=True)
class ConvertingParts(Parts):
    """The parts of a pool, with the old layout as a further one."""

    old: Any


class ConvertingSession(Session):
    """A session whose pools can be converted into."""

    def convert_into(self, name: str) -> Pool:
        """The pool, to be written to, with the operations on old layouts performed for it, too."""
        pool = self.open(name)
        if pool is None:
            raise AssertionError
        parts = self._parts[name]
        volumes = _Linking(parts.volumes)
        self._parts[name] = ConvertingParts(parts.records, volumes, OldFiles(parts.volumes, self.host))
        return pool


class _Linking:
    """The volumes of a pool, where an image may also be filled with a file that stands already."""

    def __init__(self, volumes: Any) -> None:
        self._volumes = volumes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._volumes, name)

    def fill(self, volume: Volume, content: Any) -> Facts:
        """See the contract."""
        if not isinstance(content, Standing):
            facts: Facts = self._volumes.fill(volume, content)
            return facts
        found = old_files.facts_of(content.path)
        if found is None or found.modified != content.facts["modified"]:
            raise StorageError(f"The file {content.path} was changed while it was read: stop what writes to it.")
        outcome = old_files.link_to_seal(content.path, content.native, self._volumes.location(volume).name)
        if not outcome:
            raise StorageError(f"The file {content.path} cannot become an image: {outcome.why}.")
        return {"size": content.facts["size"], "content": content.facts["content"], "bytes_read": found.size}


def same_file(one: str, other: str) -> bool:
    """Whether two paths are, or would be, the same file."""
    with contextlib.suppress(OSError):
        return os.path.samefile(one, other)
    return one == other


class OldFiles:
    """The operations of ``_algorithms.conversion.OldLayout`` on files and on the guests of this host."""

    def __init__(self, volumes: Any, host: Host) -> None:
        self._volumes, self._host = volumes, host

    def content(self, path: str, native: str) -> Facts:
        """See OldLayout."""
        with old_files.opened(path, native) as descriptor:
            found = os.fstat(descriptor)
            inspect(descriptor, "raw", BOUNDS)
            digest = content_of_file(descriptor, found.st_size)
        return {"size": found.st_size, "content": digest, "modified": found.st_mtime_ns}

    def link(self, path: str, native: str, name: str) -> Outcome:
        """See OldLayout."""
        target = self._path(name)
        if name.startswith(STAGING):
            os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
        return old_files.link(path, native, target)

    def unlink(self, path: str, native: str, twin: Volume) -> Outcome:
        """See OldLayout."""
        return old_files.drop(path, native, self._path(twin.name))

    def give_back(self, twin: Volume, native: str, path: str) -> Outcome:
        """See OldLayout."""
        return old_files.link(self._path(twin.name), native, path)

    def take_back(self, name: str, native: str, path: str) -> Outcome:
        """See OldLayout."""
        return old_files.drop(self._path(name), native, path)

    def point(self, path: str, native: str, pointer: Facts, image: Volume) -> Outcome:
        """See OldLayout. The image is named by its absolute path: both names of the disk lead to it."""
        named = old_files.read_overlay(path, native).pointer.backing_file
        if named not in (pointer.get("backing_file"), self._path(image.name)):
            return refused(f"it names {named or 'nothing'} by now, and no longer {pointer.get('backing_file')}")
        old_files.point(path, native, self._path(image.name))
        return DONE

    def point_back(self, path: str, native: str, pointer: Facts, image: Volume | None, blank: bool) -> None:
        """See OldLayout."""
        old, now = Pointer(**pointer), old_files.read_overlay(path, native).pointer
        named = os.path.join(os.path.dirname(path), now.backing_file or "")
        if now == old or (image is not None and named == self._path(image.name)):
            old_files.point_back(path, native, old, blank=blank)

    def describe(self, guest: str, disks: tuple[tuple[str, tuple[Volume, ...]], ...]) -> None:
        """See OldLayout."""
        chains = {path: self.chain(volumes) for path, volumes in disks}
        self._redefine(guest, self.changes(self._host.guest(guest).xml, chains))

    def describe_back(self, guest: str, disks: tuple[tuple[Volume, str], ...]) -> None:
        """See OldLayout."""
        old = {self._path(volume.name): text for volume, text in disks}
        elements = disk_elements(self._host.guest(guest).xml, self.pools())
        self._redefine(guest, {each.text: old[each.path] for each in elements if each.path in old})

    def unseal(self, path: str, native: str, owner: tuple[int, int], mode: int, immutable: bool) -> None:
        """See OldLayout."""
        old_files.unseal(path, native, owner, mode, immutable)

    def chain(self, volumes: tuple[Volume, ...]) -> list[Link]:
        """Volumes as links of a definition."""
        return [Link(Location("file", self._path(volume.name)), volume.format) for volume in volumes]

    def changes(self, xml: str, chains: Mapping[str, list[Link]]) -> Mapping[str, str]:
        """What elements are exchanged for: those that name the old path, or the new one, and do not say the chain."""
        found = {}
        for element in disk_elements(xml, self.pools()):
            for path, chain in chains.items():
                named = same_file(element.path, path) or element.path == str(chain[0].place)
                if named and not is_spelt_out(element, chain):
                    found[element.text] = spelt_out(element.text, chain)
        return found

    def pools(self) -> Mapping[str, str]:
        """The folder of each pool."""
        return {status.name: read(status.xml).path for status in self._host.pools()}

    def _redefine(self, guest: str, changes: Mapping[str, str]) -> None:
        if changes:
            self._host.define_guest(exchanged(self._host.guest(guest).xml, changes))

    def _path(self, name: str) -> str:
        location: Location = self._volumes.location(Volume(name, ""))
        return location.name
