# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""Declared checksums, and the SUMS files that distributions publish them in."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .errors import BadInput, SourceError

LENGTHS = {"sha256": 64, "sha512": 128}
"""Algorithms that a checksum can be of, and how many hexadecimal digits each has."""

MAX_SUMS_BYTES = 4 * 1024**2
"""The largest SUMS file that is read."""

_DECLARED = re.compile(r"(sha256|sha512):([0-9a-fA-F]+)\Z")
# `digest  name` and `digest *name`, as coreutils write it; a leading backslash marks an escaped name.
_GNU = re.compile(r"(\\?)([0-9a-fA-F]{64}|[0-9a-fA-F]{128}) [ *]?(.+)\Z")
# `SHA256 (name) = digest`, as BSD and `sha256sum --tag` write it.
_BSD = re.compile(r"(\\?)(SHA256|SHA512) ?\((.+)\) ?= ?([0-9a-fA-F]+)\Z")
_ESCAPES = {"\\n": "\n", "\\r": "\r", "\\\\": "\\"}


@dataclass(frozen=True)
class Checksum:
    """A digest that a source must have."""

    algorithm: str
    digest: str
    """Hexadecimal, lower case."""

    def __str__(self) -> str:
        return "%s:%s" % (self.algorithm, self.digest)


def declared(text: str) -> Checksum | None:
    """The checksum that ``text`` is, or ``None`` when it is the location of a SUMS file.

    :raises BadInput: it is neither.
    """
    found = _DECLARED.match(text)
    if found:
        algorithm, digest = found.groups()
        if len(digest) != LENGTHS[algorithm]:
            raise BadInput("The checksum has %d digits, but %s has %d." % (len(digest), algorithm, LENGTHS[algorithm]))
        return Checksum(algorithm, digest.lower())
    if text.startswith(("http://", "https://", "/")):
        return None
    raise BadInput("A checksum is sha256:<digits>, sha512:<digits>, or the URL or absolute path of a SUMS file.")


def from_sums(text: str, name: str, shown: str) -> Checksum:
    """The checksum of the file ``name`` in a SUMS file; of two algorithms the longer one.

    Lines that are not entries (comments, signatures, other algorithms) are passed over. An entry with a folder
    counts when no entry has the bare name.

    :param shown: what to call the SUMS file in a message.
    :raises SourceError: no entry, or contradicting ones.
    """
    entries = [entry for line in text.splitlines() for entry in [_entry(line)] if entry is not None]
    exact = [checksum for found, checksum in entries if found.removeprefix("./") == name]
    matching = exact or [checksum for found, checksum in entries if found.rpartition("/")[2] == name]
    if not matching:
        what = "has no usable entry" if entries else "is not a list of SHA-256 or SHA-512 checksums: no entry was found"
        raise SourceError("%s %s for %s." % (shown, what, name), sums=shown, name=name)
    best = max(matching, key=lambda checksum: LENGTHS[checksum.algorithm])
    if any(other.algorithm == best.algorithm and other != best for other in matching):
        raise SourceError("%s has contradicting entries for %s." % (shown, name), sums=shown, name=name)
    return best


def _entry(line: str) -> tuple[str, Checksum] | None:
    gnu, bsd = _GNU.match(line), _BSD.match(line)
    if bsd:
        escaped, algorithm, name, digest = bsd.groups()
        algorithm = algorithm.lower()
    elif gnu:
        escaped, digest, name = gnu.groups()
        algorithm = "sha256" if len(digest) == LENGTHS["sha256"] else "sha512"
    else:
        return None
    if len(digest) != LENGTHS[algorithm]:
        return None
    if escaped:
        name = re.sub(r"\\.", lambda found: _ESCAPES.get(found.group(), found.group()), name)
    return name, Checksum(algorithm, digest.lower())
