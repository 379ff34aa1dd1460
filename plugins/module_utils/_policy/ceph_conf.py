# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.
"""What stands in a ``ceph.conf`` and in a keyring: a cluster's monitors, and a user's key. Pure, from their text."""

from __future__ import annotations

import re
from collections.abc import Iterator

from .._ground.errors import BadInput
from .pool_ceph import checked_key, checked_monitor

_PORTS = {"v2": "3300", "v1": "6789"}
"""Where a monitor listens for each version of the protocol unless a port is given."""
_VERSIONED = re.compile(r"(v1|v2|any):(.*)")


def monitors_of(conf: str, user: str, path: str) -> tuple[str, ...]:
    """The monitors that a ``ceph.conf`` names for ``client.<user>``, as `CephSource` has them.

    ``mon host`` is read as librados does (``MonMap::init_with_hosts``): items between commas or spaces; an
    item is an address, one with its protocol (``v2:10.0.0.1:3300/0``), or several of one monitor in brackets. One
    address a monitor is kept, the second version's where there is one. ``path`` is for the message of `BadInput`.
    """
    sections = dict(_sections(conf))
    for section in (f"client.{user}", "client", "global"):
        named = sections.get(section, {}).get("mon_host")
        if named:
            return tuple(sorted({checked_monitor(_address(item)) for item in _items(named)}))
    raise BadInput(f"The file {path} names no monitors as 'mon host': give them as rbd.monitors.")


def key_of(keyring: str, user: str, path: str) -> str:
    """The key of ``client.<user>`` in a keyring, or `BadInput`, which shows none. ``path`` is for its message."""
    sections = dict(_sections(keyring))
    key = sections.get(f"client.{user}", {}).get("key")
    if key:
        return checked_key(key, f"The entry client.{user} of the keyring {path}")
    others = ", ".join(name for name in sections if name.startswith("client.")) or "nobody"
    raise BadInput(f"The keyring {path} has the key of {others}, not of client.{user}: give another, or rbd.user.")


def _sections(text: str) -> Iterator[tuple[str, dict[str, str]]]:
    """The sections of a file of Ceph's. A name may be spelt with spaces, dashes or underscores; a line that ends in a
    backslash goes on in the next."""
    values: dict[str, str] = {}
    for line in text.replace("\\\n", " ").splitlines():
        stripped = re.split(r"[#;]", line, maxsplit=1)[0].strip()
        header = re.fullmatch(r"\[([^\]]+)\]", stripped)
        if header:
            values = {}
            yield header[1].strip(), values
        elif "=" in stripped:
            name, _equals, value = stripped.partition("=")
            values[re.sub(r"[\s_-]+", "_", name.strip())] = value.strip().strip("\"'")


def _items(text: str, separators: str = ", \t") -> list[str]:
    """What stands between separators, where these are in no brackets."""
    items, depth = [""], 0
    for character in text:
        depth += (character == "[") - (character == "]")
        if character in separators and depth == 0:
            items.append("")
        else:
            items[-1] += character
    return [item for item in items if item]


def _address(item: str) -> str:
    """The one address of a monitor to use, as host or host:port."""
    addresses = _items(item[1:-1], ",") if re.match(r"\[(?:v1|v2|any):", item) and item.endswith("]") else [item]
    chosen = next((address for address in addresses if address.startswith("v2:")), addresses[0]).partition("/")[0]
    versioned = _VERSIONED.fullmatch(chosen)
    if not versioned:
        return chosen
    version, address = versioned.groups()
    port = _PORTS.get(version, "")
    return address if not port or re.search(r"(?:^[^\[\]:]*|\]):\d+$", address) else f"{address}:{port}"
