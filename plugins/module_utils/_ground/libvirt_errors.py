# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""What libvirt raises, as members of the collection's one family of errors."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from .errors import Busy, NotFound, OutOfSpace, StorageError

try:
    import libvirt  # type: ignore[import-untyped,unused-ignore]
except ImportError:
    libvirt = None

_LIBVIRT_ERRORS: tuple[type[Exception], ...] = (libvirt.libvirtError,) if libvirt else ()


class NoDaemon(StorageError):
    """Nothing listens on libvirt's socket: it is not installed, or not started yet."""


def silent(_context: Any, _error: Any) -> None:
    """Libvirt's own handler prints every error; they are raised here."""


@contextmanager
def told(doing: str) -> Iterator[None]:
    """Turn what libvirt raises into a member of the family."""
    try:
        yield
    except _LIBVIRT_ERRORS as error:
        raise _translated(doing, error) from error


def _translated(doing: str, error: Any) -> StorageError:
    code, system = error.get_error_code(), error.get_int1()
    text = " ".join((error.get_error_message() or "").split())
    facts = {"libvirt_code": code}
    if code in (libvirt.VIR_ERR_NO_STORAGE_POOL, libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_NO_SECRET):
        return NotFound(f"Libvirt could not {doing}: {text}.", **facts)
    if error.get_error_domain() == libvirt.VIR_FROM_RPC and system in (errno.ENOENT, errno.ECONNREFUSED):
        return NoDaemon(f"Libvirt could not {doing}: {text}; install it, or start libvirtd or virtstoraged.", **facts)
    kind: Callable[..., StorageError] = StorageError
    if code == libvirt.VIR_ERR_SYSTEM_ERROR and system == errno.ENOSPC:
        kind = OutOfSpace
    if "asynchronous jobs running" in text:  # comes as an internal error, with nothing else to know it by
        kind = Busy
    return kind(f"Libvirt could not {doing}: {text}.", **facts)
