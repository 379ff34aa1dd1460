# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""The secrets of this host's libvirt: the keys with which its Ceph pools and guests ask their clusters."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from .errors import NotFound, StorageError
from .libvirt_errors import told

try:
    import libvirt  # type: ignore[import-untyped,unused-ignore]
except ImportError:
    libvirt = None


@dataclass(frozen=True)
class Secret:
    """A secret of type ceph. The value of a ``private`` one is for libvirt alone."""

    uuid: str
    usage: str
    private: bool


class Secrets:
    """Secrets of type ceph, over a libvirt connection. A key is what follows ``key =`` in a keyring, in base64."""

    _connection: Any

    def secret(self, uuid: str) -> Secret:
        """The secret with that UUID, or `NotFound`."""
        with told(f"look up the secret {uuid}"):
            root = ElementTree.fromstring(self._connection.secretLookupByUUIDString(uuid).XMLDesc(0))
        return Secret(uuid, root.findtext("./usage/name") or "", root.get("private") == "yes")

    def secret_of_usage(self, usage: str) -> Secret:
        """The secret that is for that usage, or `NotFound`."""
        with told(f"look up the secret for {usage!r}"):
            found = self._connection.secretLookupByUsage(libvirt.VIR_SECRET_USAGE_TYPE_CEPH, usage)
            uuid: str = found.UUIDString()
        return self.secret(uuid)

    def secret_value(self, uuid: str) -> str:
        """The key in the secret. Raises `NotFound` where there is no secret or no value in it, and `StorageError` for
        a private one."""
        if self.secret(uuid).private:
            raise StorageError(
                f"The libvirt secret {uuid} is private, so nobody but libvirt itself can read the key in it: stop the "
                "pool and give libvirt_pool the key in rbd.keyring or rbd.key, for a secret of the pool's own.",
                secret=uuid,
            )
        with told(f"read the secret {uuid}"):
            value: bytes = self._connection.secretLookupByUUIDString(uuid).value(0)
        return base64.b64encode(value).decode()

    def define_secret(self, secret: Secret, description: str) -> None:
        """Store a secret, without a value if it is new."""
        root = ElementTree.Element("secret", {"ephemeral": "no", "private": "yes" if secret.private else "no"})
        ElementTree.SubElement(root, "uuid").text = secret.uuid
        ElementTree.SubElement(root, "description").text = description
        usage = ElementTree.SubElement(root, "usage", {"type": "ceph"})
        ElementTree.SubElement(usage, "name").text = secret.usage
        with told(f"define the secret {secret.uuid}"):
            self._connection.secretDefineXML(ElementTree.tostring(root, encoding="unicode"), 0)

    def set_secret_value(self, uuid: str, key: str) -> None:
        """Put ``key`` into the secret, in place of another if there is one."""
        with told(f"set the secret {uuid}"):
            self._connection.secretLookupByUUIDString(uuid).setValue(base64.b64decode(key), 0)

    def undefine_secret(self, uuid: str) -> None:
        """Forget the secret and its value. One that is not there is all right."""
        try:
            with told(f"undefine the secret {uuid}"):
                self._connection.secretLookupByUUIDString(uuid).undefine()
        except NotFound:
            pass
