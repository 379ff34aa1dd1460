# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""New volumes as files: blank ones, overlays on an image, copies of one."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from .._ground.durable import sync_files, sync_folder
from .._ground.errors import StorageError
from .._ground.extents import copy_data, share_extents
from .._ground.ops import ALREADY, DONE, Outcome, copied, refused
from .._ground.qcow2 import overlay_image, write_pieces
from .._records.types import Volume
from .contract import Stat
from .folder import Folder

SECTOR = 512
NO_REFLINK = "the file system of the pool cannot share extents: use overlay or copy"


class NewFiles:
    """Makes files in ``folder``; ``stat`` is the backend's, ``beat`` is called while a copy is made."""

    def __init__(self, folder: Folder, stat: Callable[[Volume], Stat | None], beat: Callable[[], None]) -> None:
        self._folder, self._stat, self._beat = folder, stat, beat

    def make(self, batch: Sequence[tuple[Volume, Volume | None, int]]) -> list[Outcome]:
        """New qcow2 files, with or without an image under them; raw ones only without. All or none: whoever tries
        again after a failure must not take a file that is cut short, or not durable, for one that is made."""
        outcomes: list[Outcome] = []
        made: list[str] = []
        sizes: dict[str, int] = {}
        try:
            for volume, image, size in batch:
                outcome = DONE if image is None else self._fits(image, size, sizes)
                if outcome:
                    outcome = self._make_one(volume, image, size)
                if outcome is DONE:
                    made.append(self._folder.path(volume.name))
                outcomes.append(outcome)
            sync_files(made)
            for folder in {os.path.dirname(path) for path in made}:
                sync_folder(folder)
        except (OSError, StorageError):
            for path in made:
                os.unlink(path)
            raise
        return outcomes

    def _make_one(self, volume: Volume, image: Volume | None, size: int) -> Outcome:
        """Write one new file; nothing is synced."""
        try:
            with self._folder.new(volume) as descriptor:
                if volume.format == "qcow2":
                    write_pieces(descriptor, overlay_image(size, None if image is None else self._below(volume, image)))
                else:
                    os.ftruncate(descriptor, rounded(size))
        except FileExistsError:
            return ALREADY  # the name is fresh: we made it ourselves
        return DONE

    def _below(self, volume: Volume, image: Volume) -> str:
        """How ``volume`` names its image: from its own folder, so that the pool can be mounted elsewhere."""
        path = os.path.relpath(self._folder.path(image.name), os.path.dirname(self._folder.path(volume.name)))
        return path if path.startswith("../") else "./" + path

    def _fits(self, image: Volume, size: int, sizes: dict[str, int]) -> Outcome:
        """Whether a disk of ``size`` can stand on the image; each image is looked at once a batch."""
        if image.name not in sizes:
            stat_now = self._stat(image)
            sizes[image.name] = -1 if stat_now is None else stat_now.size
        if sizes[image.name] < 0:
            return refused(f"the image {image} has no volume")
        if sizes[image.name] > size:
            return refused(f"the image {image} has {sizes[image.name]} bytes, more than the {size} asked for")
        return DONE

    def copy(self, image: Volume, volume: Volume, size: int, how: str) -> Outcome:
        fits = self._fits(image, size, {})
        if not fits:
            return fits
        path = self._folder.path(volume.name)
        amount = 0
        try:
            with self._folder.open(image, os.O_RDONLY) as source, self._folder.new(volume) as descriptor:
                if how == "copy":
                    amount = copy_data(source, descriptor, self._beat)
                elif not share_extents(source, descriptor):
                    os.unlink(path)
                    return refused(NO_REFLINK)
                os.ftruncate(descriptor, rounded(size))
                os.fsync(descriptor)
        except FileExistsError:
            return ALREADY  # the name is fresh: we made it ourselves
        sync_folder(os.path.dirname(path))
        return copied(amount)


def rounded(size: int) -> int:
    """``size`` bytes as whole sectors."""
    return -(-size // SECTOR) * SECTOR
