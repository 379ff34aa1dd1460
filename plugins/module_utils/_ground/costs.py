# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""What bringing data somewhere costs, told before it is done: by what is allocated, without reading it.

Counted is the data of disks and images. Neither metadata of formats and records counts, nor what is staged on its way.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from .bounds import Bounds
from .command import INSPECTING, Runner
from .digest import bytes_with_data
from .errors import StorageError
from .inspection import inspect, needs_random_access, round_up
from .intake import PIECE
from .opening import open_source
from .sources import SourceSpec


@dataclass(frozen=True)
class Cost:
    """Bytes that are read and written, and the size that a guest sees of what comes of it. What is written may be less
    where zeroes are stored as data, which are left out on the way. None is what only a run can tell.
    """

    read: int | None = 0
    written: int | None = 0
    size: int | None = 0


UNKNOWN = Cost(None, None, None)


def cost_of_source(spec: SourceSpec, bounds: Bounds, runner: Runner) -> Cost:
    """What taking in a source costs. What is behind a URL or compressed, or would be refused, tells only when it is
    read. Raises NotFound or SourceError for a file that cannot be opened."""
    if spec.is_url:
        return UNKNOWN
    source = open_source(spec, bounds)
    try:
        if source.fd is None or source.size is None or spec.compressed_with != "none":
            return Cost(source.size, None, None)
        if not needs_random_access(spec.format):
            return Cost(source.size, bytes_with_data(source.fd, source.size, PIECE), round_up(source.size))
        try:
            inspected = inspect(source.fd, spec.format, bounds)
            written = _mapped(runner, source.fd, inspected.qemu_format)
        except StorageError:
            return Cost(source.size, None, None)
        return Cost(source.size, written, inspected.virtual_size)
    finally:
        source.close()


def _mapped(runner: Runner, fd: int, qemu_format: str) -> int:
    """The bytes of an inspected image that qemu sees data at."""
    argv = ["qemu-img", "map", "-f", qemu_format, "--output=json", f"/proc/self/fd/{fd}"]
    extents = json.loads(runner.run(argv, limits=INSPECTING, pass_fds=(fd,)).out)
    return sum(int(extent["length"]) for extent in extents if extent["data"] and not extent["zero"])
