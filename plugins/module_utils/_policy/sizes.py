# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""Sizes as people write them, and sizes and numbers as people read them. Pure."""

from __future__ import annotations

import re
from typing import Any

from .._ground.errors import BadInput

LARGEST = 1 << 56
"""64 PiB: more than any format that we write can hold."""

_UNITS = {"": 1, "B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40, "P": 1 << 50}
_SIZE = re.compile(r"([0-9]{1,18})(?:\s*([BKMGTP]?)(?:iB)?)", re.IGNORECASE)


def parse_size(value: Any, what: str) -> int:
    """Bytes of ``20G``, ``512 MiB``, ``1048576``; units are powers of 1024. ``what`` names the option."""
    text = str(value).strip()
    match = None if isinstance(value, bool) else _SIZE.fullmatch(text)
    size = int(match.group(1)) * _UNITS[match.group(2).upper()] if match else 0
    if not 0 < size <= LARGEST:
        shown = text if len(text) <= 40 else text[:40] + "..."
        raise BadInput(
            f"The {what} {shown!r} is not a size: give a whole number above 0, of bytes or with a unit "
            "K, M, G, T or P (powers of 1024), such as 20G."
        )
    return size


def in_words(size: int) -> str:
    """Bytes as a reader likes them: ``20.0 GiB``."""
    amount, units = float(size), ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB"]
    while amount >= 1024 and len(units) > 1:
        amount /= 1024
        units.pop(0)
    return f"{size} bytes" if units[0] == "bytes" else f"{amount:.1f} {units[0]}"


def counted(count: int, what: str) -> str:
    """``1 disk``, ``3 disks``."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
