# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""Where an rbd pool comes from: a pool of a Ceph cluster, its monitors, and who asks them.

Libvirt asks librados with what stands in the pool's XML, and with nothing from the host's ``ceph.conf``. It gives a
monitor as ``host:port`` without saying which protocol is spoken there, and librados then goes by the port: 3300 is
the second version, 6789 the first, at another it tries both, and without a port it tries both at their own ports
(``MonMap::_add_ambiguous_addr``). So one address a monitor is enough.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar
from xml.etree import ElementTree

from .._ground.errors import BadInput
from .pool_names import shown

DEFAULT_USER = "libvirt"
"""The user for a new pool where none is given: what Ceph's own documentation calls the one for libvirt."""
_NAMESPACE = "namespace "
_SECRETS = uuid.UUID("76ed09e3-b09b-4260-ac43-6e4c32da60ab")
_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_POOL = re.compile(r"[^/@\s'\"<>&\x00-\x1f]+")
_USER = re.compile(r"[A-Za-z0-9_.-]+")


@dataclass(frozen=True)
class CephSource:
    """Where an rbd pool comes from.

    ``pool`` is the pool in the Ceph cluster, ``namespace`` a namespace in it, "" for the default one. ``monitors``
    are "host" or "host:port", sorted, an IPv6 address in brackets. ``user`` is without "client.", and None where the
    cluster asks for none. ``secret`` is the UUID of the libvirt secret that holds the user's key; a definition may name
    it by its ``usage`` instead. ``key`` is the key itself, in base64, where libvirt does not have it yet.
    """

    pool: str
    monitors: tuple[str, ...] = ()
    user: str | None = None
    namespace: str = ""
    secret: str | None = None
    usage: str | None = None
    key: str | None = field(default=None, repr=False, compare=False)

    PARTS: ClassVar[tuple[str, ...]] = ("host", "name", "auth", "product")

    def __str__(self) -> str:
        return f"{self.where} at {', '.join(self.monitors)}" if self.monitors else self.where

    @property
    def where(self) -> str:
        """The pool, with the namespace, as Ceph's tools spell it."""
        return f"{self.pool}/{self.namespace}" if self.namespace else self.pool

    @property
    def place(self) -> str:
        """As the beginning of a sentence."""
        return f"The Ceph pool {self.where}"

    def fields(self) -> dict[str, Any]:
        """As the module takes and returns it; without what is not set."""
        given = {
            "pool": self.pool,
            "namespace": self.namespace,
            "monitors": list(self.monitors),
            "user": self.user,
            "secret": self.secret,
        }
        return {name: value for name, value in given.items() if value is not None}

    @classmethod
    def read(cls, root: ElementTree.Element) -> CephSource:
        """From the XML of a pool."""
        auth, secret = root.find("./source/auth"), root.find("./source/auth/secret")
        product = root.find("./source/product")
        noted = product.get("name", "") if product is not None else ""
        return cls(
            pool=root.findtext("./source/name") or "",
            monitors=tuple(sorted(_joined(host) for host in root.iterfind("./source/host"))),
            user=auth.get("username") if auth is not None else None,
            namespace=noted[len(_NAMESPACE) :] if noted.startswith(_NAMESPACE) else "",
            secret=secret.get("uuid") if secret is not None else None,
            usage=secret.get("usage") if secret is not None else None,
        )

    def write(self, _root: ElementTree.Element, source: ElementTree.Element) -> None:
        """Into the XML of a pool, whose ``source`` has none of the ``PARTS`` any more.

        Libvirt's rbd pools know no namespace, and start in the default one only. It stands where libvirt keeps a text
        about the source as it is given, so that it is part of the definition and not of something beside it.
        """
        for monitor in self.monitors:
            host, port = split(monitor)
            element = ElementTree.SubElement(source, "host", {"name": host})
            if port:
                element.set("port", port)
        ElementTree.SubElement(source, "name").text = self.pool
        if self.user is not None:
            auth = ElementTree.SubElement(source, "auth", {"type": "ceph", "username": self.user})
            named = {"uuid": self.secret} if self.secret else {"usage": self.usage or ""}
            ElementTree.SubElement(auth, "secret", named)
        if self.namespace:
            ElementTree.SubElement(source, "product", {"name": _NAMESPACE + self.namespace})


def secret_usage(pool: str) -> str:
    """What the secret of a pool of ours is for, in libvirt's words; by this it is known as ours."""
    return f"virt.storage {pool}"


def secret_uuid(pool: str) -> str:
    """The UUID of the secret of a pool of ours: the same on every host and for ever.

    The definition of a guest names the secret by its UUID. It goes with the guest to another host, and it stays when
    the pool is undefined and made again.
    """
    return str(uuid.uuid5(_SECRETS, secret_usage(pool)))


def checked_ceph(given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a `CephSource` that were given, in normal form, or `BadInput`."""
    files = ("conf", "keyring")  # these are read, and are no part of the source
    normal = {name: value for name, value in given.items() if value is not None and name not in files}
    if "pool" in normal and not _POOL.fullmatch(normal["pool"]):
        raise BadInput(f"The Ceph pool {shown(normal['pool'])} cannot be used: give the name of one pool.")
    if normal.get("namespace") and not _POOL.fullmatch(normal["namespace"]):
        raise BadInput(f"The namespace {shown(normal['namespace'])} cannot be used: give a name without '/' and '@'.")
    if "user" in normal:
        normal["user"] = normal["user"][len("client.") :] if normal["user"].startswith("client.") else normal["user"]
        if not _USER.fullmatch(normal["user"]):
            raise BadInput(f"The Ceph user {shown(normal['user'])} cannot be used: give one such as libvirt.")
    if "monitors" in normal:
        normal["monitors"] = tuple(sorted({checked_monitor(monitor) for monitor in normal["monitors"]}))
        if not normal["monitors"]:
            raise BadInput("The option rbd.monitors is empty: give at least one monitor, or rbd.conf.")
    if "key" in normal:
        normal["key"] = checked_key(normal["key"], "The option rbd.key")
    return normal


def checked_monitor(text: str) -> str:
    """A monitor's address in normal form, "host" or "host:port", or `BadInput`."""
    host, port = split(text)
    bracketed = f"[{host}]" if ":" in host else host
    if not (_is_ipv6(host) if ":" in host else _HOST.fullmatch(host)) or not (
        port == "" or (port.isdecimal() and 0 < int(port) < 65536)
    ):
        raise BadInput(
            f"The monitor {shown(text)} cannot be used: give host, host:port or [address]:port, one an item."
        )
    return f"{bracketed}:{int(port)}" if port else bracketed


def checked_key(text: str, whose: str) -> str:
    """A cephx key in normal form, or `BadInput`, which does not show it. ``whose`` begins the sentence."""
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) <= 12:
        raise BadInput(f"{whose} holds no key of Ceph, which is base64 such as 'ceph auth get-key' prints.")
    return base64.b64encode(key).decode()


def split(monitor: str) -> tuple[str, str]:
    """A monitor's host, without brackets, and its port, "" for none."""
    bracketed = re.fullmatch(r"\[(.*)\](?::(.*))?", monitor)
    if bracketed:
        return bracketed[1], bracketed[2] or ""
    if monitor.count(":") > 1:
        return monitor, ""
    host, _colon, port = monitor.partition(":")
    return host, port


def _is_ipv6(host: str) -> bool:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return True


def _joined(host: ElementTree.Element) -> str:
    name, port = host.get("name", ""), host.get("port", "")
    bracketed = f"[{name}]" if ":" in name else name
    return f"{bracketed}:{port}" if port else bracketed
