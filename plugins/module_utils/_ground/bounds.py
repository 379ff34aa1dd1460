# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""How much of anything an incoming image may use."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Bounds:
    """Limits on one intake."""

    max_source_bytes: int
    """What may be read from the source, in bytes: compressed if it is."""
    max_virtual_size: int
    """The largest disk that a guest may be given, in bytes. Bounds decompression too."""
    timeout: float = 3600.0
    """Seconds for the whole intake."""
