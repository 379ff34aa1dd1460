# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""Opening sources: the right reader for a location, and the checksum that is declared for it."""

from __future__ import annotations

from dataclasses import replace

from . import checksums
from .bounds import Bounds
from .digest import BLOCK
from .http_source import HttpSource
from .sources import LocalSource, Source, SourceSpec, origin


def open_source(spec: SourceSpec, bounds: Bounds) -> Source:
    """Open what ``spec`` describes.

    :raises SourceError: it cannot be read, or is larger than ``bounds`` allow.
    :raises NotFound: there is no such file.
    :raises UnsafeImage: it is not a plain file (check ``file_type``).
    """
    if spec.is_url:
        return HttpSource(spec, bounds)
    return LocalSource(spec, bounds)


def expected_checksum(spec: SourceSpec, bounds: Bounds) -> checksums.Checksum | None:
    """The checksum that is declared, fetched from its SUMS file if it stands in one."""
    if spec.checksum is None:
        return None
    stated = checksums.declared(spec.checksum)
    if stated is not None:
        return stated
    sums = replace(spec, location=spec.checksum, format="raw", compression="none", checksum=None)
    if not (sums.is_url and spec.is_url and origin(sums.location) == origin(spec.location)):
        sums = replace(
            spec,
            location=spec.checksum,
            format="raw",
            compression="none",
            checksum=None,
            headers={},
            username=None,
            password=None,
            client_cert=None,
            client_key=None,
        )
    source = open_source(sums, Bounds(checksums.MAX_SUMS_BYTES, bounds.max_virtual_size, bounds.timeout))
    try:
        text = b"".join(iter(lambda: source.read(BLOCK), b""))
    finally:
        source.close()
    return checksums.from_sums(text.decode("utf-8", "replace"), spec.file_name, sums.shown)
