# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""The one family of exceptions that the collection raises on purpose.

A message is one sentence: what was found, what was expected, what to do. ``facts`` carries the same
in machine-readable form into the module's result.
"""

from __future__ import annotations

from typing import Any


class StorageError(Exception):
    """Something the deployer has to know. Base of the family."""

    def __init__(self, message: str, **facts: Any) -> None:
        # Names in it may be of others' choice: they neither break the line nor reach a terminal as a command.
        self.message = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in message)
        self.facts = facts
        super().__init__(self.message)


class BadInput(StorageError):
    """An argument that cannot be meant; nothing was looked at or changed."""


class NotFound(StorageError):
    """The thing that was named does not exist."""


class InUse(StorageError):
    """A volume is used by a guest, another host or another disk."""


class UnsafeImage(StorageError):
    """An incoming image was refused; ``facts['check']`` names the check that failed."""


class SourceError(StorageError):
    """A source could not be read, or is not what was declared."""


class CommandFailed(StorageError):
    """An external program failed; ``facts`` holds ``rc`` and the tail of ``stderr``."""


class OutOfSpace(StorageError):
    """The pool is full."""


class LostMetadata(StorageError):
    """A record is missing, unreadable or contradicts its volume: fails closed."""


class NewerSchema(StorageError):
    """The pool was written by a newer version of the collection."""


class MissingRequirement(StorageError):
    """A program or library is not installed; the message names the package that brings it."""


class Busy(StorageError):
    """Somebody else is at work on the same thing and the wait ran out."""
