# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""A connection to a Ceph cluster through librados, and its errors and librbd's told in one sentence.

Every wait ends: librados waits for ever for monitors, for OSDs and, at a full cluster, for space, unless it is told
otherwise. The key reaches librados as an option of the connection and nobody else: it is in no argument list, no
representation and no message.
"""

from __future__ import annotations

import base64
import binascii
import errno
import json
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from .errors import BadInput, Busy, InUse, MissingRequirement, NotFound, OutOfSpace, StorageError

try:
    import rados  # type: ignore[import-not-found,import-untyped,unused-ignore]
    import rbd  # type: ignore[import-not-found,import-untyped,unused-ignore]
except ImportError:
    rados = rbd = None

_CEPH_ERRORS: tuple[type[Exception], ...] = (rados.Error, rbd.Error) if rados else ()
_KEY_HEADER = 12
"""The bytes of a key before the secret itself: type, time of creation, and in the last two the secret's length."""

CAPS = "mon 'profile rbd' osd 'profile rbd pool=POOL'"
"""What a user of a pool must be allowed to do."""

_QUIET = {
    # A module's standard error is no log, and it has no business in the folders of the cluster's daemons.
    "log_to_stderr": "false",
    "log_file": "",
    "admin_socket": "",
}
_BANNER = b"ceph v"
_BANNER_SECONDS = 3.0
"""How long a monitor that answers at all takes to say so."""

_CAUSES = {
    errno.ENOENT: "it does not exist",
    errno.EPERM: f"the user lacks a capability for it: give it at least {CAPS} with 'ceph auth caps'",
    errno.ENOSPC: "the cluster or the pool is full: free space or add OSDs, and run the task again",
    errno.EDQUOT: "the quota of the pool is used up: raise it with 'ceph osd pool set-quota', and run the task again",
    errno.ETIMEDOUT: "it did not answer in time: see 'ceph -s' for monitors and OSDs that are down or full, and run "
    "the task again",
    errno.ESHUTDOWN: "the cluster has blocked this client (see 'ceph osd blocklist ls'): somebody took it for dead; "
    "run the task again",
    errno.EOPNOTSUPP: "the pool does not support it: use a replicated pool, since an erasure-coded one can only hold "
    "data",
    errno.EROFS: "it is open for reading only",
}
_CAUSES[errno.EACCES] = _CAUSES[errno.EPERM]
_KINDS: dict[int, type[StorageError]] = {
    errno.ENOENT: NotFound,
    errno.ENOSPC: OutOfSpace,
    errno.EDQUOT: OutOfSpace,
}


@dataclass(frozen=True)
class Access:
    """How a cluster is reached, and as whom.

    ``hosts`` are monitors as ``address:port``, ``user`` is as in libvirt, without ``client.``, ``options`` are any of
    Ceph's client options, ``conf`` is a configuration file. No file is read unless it is named here, and what is said
    here counts before what stands there.
    """

    hosts: tuple[str, ...]
    user: str
    key: str = field(repr=False)
    options: tuple[tuple[str, str], ...] = ()
    conf: str = ""


class Cluster:
    """A connection to a cluster, for any number of threads. The monitors are waited for ``timeout_seconds``, an OSD
    twice as long, since one that died is replaced after 20 seconds at best; then there is a `StorageError`."""

    def __init__(self, access: Access, timeout_seconds: int = 30) -> None:
        """Connect; raises MissingRequirement without the bindings, BadInput for a key or option that cannot be."""
        if rados is None:
            raise MissingRequirement(
                "The Python bindings of Ceph are missing: install python3-rados and python3-rbd with apt or dnf.",
                packages=["python3-rados", "python3-rbd"],
            )
        _check_key(access)
        self.access = access
        self._rados = _configured(access, timeout_seconds)
        try:
            self._rados.connect()
        except rados.Error as error:
            self._rados.shutdown()
            raise _unreachable(access, timeout_seconds, error) from None

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_unused: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. Librados crashes if anything that was opened through it is still used: a record store
        is closed before, which ends the beats of its locks."""
        self._rados.shutdown()

    @property
    def fsid(self) -> str:
        """The id of the cluster, which no other has."""
        with told("tell the cluster's id"):
            fsid: str = self._rados.get_fsid()
            return fsid

    def ioctx(self, pool: str, namespace: str = "") -> Any:
        """A new ``rados.Ioctx`` of a pool, and of a namespace in it; NotFound where there is no such pool.

        A namespace is not looked for: RADOS knows no empty ones. At a full cluster or pool, what needs more space
        is OutOfSpace at once, instead of waiting for space; what needs none, as pruning, goes on. Librbd keeps to that.
        """
        with told(f"open the pool {pool}"):
            ioctx = self._rados.open_ioctx(pool)
            ioctx.set_namespace(namespace)
            ioctx.set_osdmap_full_try()
            return ioctx

    def option(self, name: str) -> str:
        """What an option of this client is set to, by whoever set it."""
        with told(f"tell the option {name}"):
            return str(self._rados.conf_get(name))

    def mon_command(self, prefix: str, **arguments: Any) -> Any:
        """What the monitors reply to a command, such as ``df``: from JSON, or a text where it is none."""
        command = json.dumps({"prefix": prefix, "format": "json", **arguments})
        with told(f"do '{prefix}'"):
            code, reply, text = self._rados.mon_command(command, b"")
            if code:
                raise rados.OSError(text or "refused", errno=abs(code))
            try:
                return json.loads(reply)
            except ValueError:
                return reply.decode(errors="replace").strip()  # a few commands know no JSON


def _configured(access: Access, timeout_seconds: int) -> Any:
    """A ``rados.Rados`` that is ready to connect."""
    timeout = str(timeout_seconds)
    options = {
        **_QUIET,
        "client_mount_timeout": timeout,
        "rados_mon_op_timeout": timeout,
        "rados_osd_op_timeout": str(2 * timeout_seconds),
        "rbd_cache": "false",  # images are read and written once, and an error belongs to the write that had it
        **dict(access.options),
    }
    if access.hosts:
        options["mon_host"] = ",".join(access.hosts)
    if not access.conf:
        options.setdefault("keyring", "")  # or the one of /etc/ceph would be used
    try:
        handle = rados.Rados(rados_id=access.user or None, conffile=access.conf or None)
    except rados.Error as error:
        raise BadInput(f"The Ceph configuration file {access.conf} cannot be read: {_text(error)}.") from None
    for name, value in options.items():
        try:
            handle.conf_set(name, value)
        except rados.Error:
            raise BadInput(f"Ceph knows no option {name!r}, or not with such a value: correct or drop it.") from None
    if access.key:
        handle.conf_set("key", access.key)
    return handle


def _check_key(access: Access) -> None:
    """Refuse what is no key. Librados would print it."""
    if not access.key:
        return
    try:
        key = base64.b64decode(access.key, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) < _KEY_HEADER or len(key) != _KEY_HEADER + int.from_bytes(key[10:12], "little"):
        raise BadInput(
            f"What was given as the key of the Ceph user {access.user} is no key: give the value of 'ceph auth "
            f"get-key client.{access.user}'."
        )


def _unreachable(access: Access, timeout_seconds: int, error: Exception) -> StorageError:
    """Why there is no connection."""
    who = f"client.{access.user or 'admin'}"
    where = f" {', '.join(access.hosts)}" if access.hosts else f" of {access.conf}" if access.conf else ""
    code = getattr(error, "errno", None)
    waited = code in (errno.ETIMEDOUT, errno.EINTR)
    if code in (errno.EACCES, errno.EPERM) or (waited and any(map(_answers, access.hosts))):
        why = (
            f"The Ceph monitors{where} do not let {who} in: the key is wrong, there is no such user, or it lacks the "
            f"capability mon 'profile rbd'; compare with 'ceph auth get {who}'."
        )
    elif waited:
        why = (
            f"The Ceph monitors{where} did not answer within {timeout_seconds} s: see that they run and that this "
            "host reaches them, and run the task again."
        )
    elif code in (errno.ENOENT, errno.EINVAL):
        why = (
            f"The Ceph monitors{where} cannot be looked up: name them as address:port, or give a configuration file "
            "that does."
        )
    else:
        why = f"No connection to the Ceph monitors{where} as {who}: {_text(error)}."
    return StorageError(why, errno=code)


def _answers(host: str) -> bool:
    """Whether something at ``address:port`` speaks Ceph's protocol. Librados does not tell a refusal from silence where
    it has to try both versions of the protocol, which it has to at ports other than the usual ones."""
    address, _colon, port = host.rpartition(":")
    try:
        with socket.create_connection((address.strip("[]"), int(port)), timeout=_BANNER_SECONDS) as connection:
            connection.settimeout(_BANNER_SECONDS)
            return connection.recv(len(_BANNER)) == _BANNER
    except (OSError, ValueError):
        return False


@contextmanager
def told(doing: str) -> Iterator[None]:
    """Turn what librados and librbd raise into a member of the family: "Ceph could not <doing>: <why>".

    NotFound for what does not exist and nothing else, InUse for an image, Busy for another object that is in use.
    """
    try:
        yield
    except _CEPH_ERRORS as error:
        raise translated(doing, error) from error


@contextmanager
def understood(command: str) -> Iterator[None]:
    """Have what is amiss with the monitors' reply to ``command`` told in a sentence."""
    try:
        yield
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise StorageError(
            f"The reply of Ceph's monitors to '{command}' could not be understood ({error!r}): look with "
            f"'ceph {command} --format json'."
        ) from error


def translated(doing: str, error: Exception) -> StorageError:
    """What ``error``, of librados or librbd, means; its ``errno`` is in the facts."""
    code = getattr(error, "errno", None) or 0
    kind = _KINDS.get(code, StorageError)
    cause = _CAUSES.get(code, _text(error))
    if code == errno.EBUSY:
        kind = InUse if isinstance(error, rbd.Error) else Busy
    return kind(f"Ceph could not {doing}: {cause}.", errno=code)


def _text(error: Exception) -> str:
    """The library's own words, in one line."""
    return re.sub(r"^\[errno \d+\] ", "", " ".join(str(error).split())).rstrip(".")
