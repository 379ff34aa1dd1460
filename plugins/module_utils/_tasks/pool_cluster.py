# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.
"""The Ceph cluster behind a pool: how it is reached, what the host's files say of it, and the keys that libvirt has."""

from __future__ import annotations

from dataclasses import replace

from .._ground.ceph import Access, Cluster, told
from .._ground.errors import BadInput, NotFound, StorageError
from .._ground.libvirt_host import Host
from .._policy.ceph_conf import key_of, monitors_of
from .._policy.plan import Fields
from .._policy.pool_ceph import DEFAULT_USER, CephSource, secret_uuid
from .._policy.pool_xml import Definition
from .._policy.pools import Keys, Wish

try:
    import rbd  # type: ignore[import-not-found,import-untyped,unused-ignore]
except ImportError:
    rbd = None

CONF = "/etc/ceph/ceph.conf"
KEYRING = "/etc/ceph/ceph.client.{user}.keyring"
"""Where Ceph's own tools look for the monitors and the key of a user."""


def open_cluster(host: Host, ceph: CephSource) -> Cluster:
    """A connection to the cluster, once it is seen that the pool is there, and the namespace.

    Raises StorageError, and never NotFound: that is for records.
    """
    cluster = Cluster(access(host, ceph))
    try:
        _look_for(cluster, ceph)
    except NotFound:
        cluster.close()
        raise StorageError(
            f"There is no pool {ceph.pool} in the Ceph cluster at {', '.join(ceph.monitors)}: make it with 'ceph osd "
            f"pool create {ceph.pool}' and 'rbd pool init {ceph.pool}', or name another in rbd.pool."
        ) from None
    except BaseException:
        cluster.close()
        raise
    return cluster


def _look_for(cluster: Cluster, ceph: CephSource) -> None:
    with cluster.ioctx(ceph.pool) as ioctx, told(f"look for the namespace {ceph.namespace} in pool {ceph.pool}"):
        if ceph.namespace and not rbd.RBD().namespace_exists(ioctx, ceph.namespace):
            raise StorageError(
                f"There is no namespace {ceph.namespace} in the Ceph pool {ceph.pool}: make it with 'rbd namespace "
                f"create {ceph.pool}/{ceph.namespace}', or name another in rbd.namespace."
            )


def access(host: Host, ceph: CephSource) -> Access:
    """How the cluster is reached: with the key in the secret that libvirt has, unless ``ceph`` comes with one.

    Raises StorageError where the secret is private, or is not there.
    """
    if ceph.user is None:
        return Access(ceph.monitors, "", "")
    try:
        key = ceph.key or host.secret_value(secret_of(host, ceph))
    except NotFound as error:
        raise StorageError(
            f"{error.message[:-1]}, and the pool's definition names it: give libvirt_pool the key in rbd.keyring or "
            "rbd.key."
        ) from None
    return Access(ceph.monitors, ceph.user, key)


def obstacle(host: Host, ceph: CephSource) -> str:
    """Why libvirt cannot start a pool in the cluster; "" where it can, or where it alone can read the key."""
    if _is_private(host, ceph):
        return ""
    doing = f"list the images of pool {ceph.pool}, as libvirt does to start it"
    try:
        with open_cluster(host, ceph) as cluster, cluster.ioctx(ceph.pool) as ioctx, told(doing):
            rbd.RBD().list(ioctx)
    except StorageError as error:
        return error.message
    return ""


def keys(host: Host, name: str, definition: Definition | None) -> Keys:
    """The keys that libvirt has for the pool of that name."""
    own, held = secret_uuid(name), None
    users: tuple[str, ...] = ()
    if _is_there(host, own):
        held = _value(host, own) or ""
        users = tuple(dict.fromkeys(str(use) for use in host.uses() if use.secret == own))
    ceph = definition.ceph if definition else None
    try:
        used = _value(host, secret_of(host, ceph)) if ceph and ceph.user is not None else None
    except NotFound:
        used = None
    return Keys(used, held, users)


def secret_of(host: Host, ceph: CephSource) -> str:
    """The UUID of the secret with the user's key, "" where the cluster asks for none; NotFound where it is named by a
    usage that no secret is for."""
    if ceph.user is None:
        return ""
    return ceph.secret or host.secret_of_usage(ceph.usage or "").uuid


def _is_private(host: Host, ceph: CephSource) -> bool:
    try:
        return ceph.user is not None and not ceph.key and host.secret(secret_of(host, ceph)).private
    except NotFound:
        return False


def _is_there(host: Host, uuid: str) -> bool:
    try:
        host.secret(uuid)
    except NotFound:
        return False
    return True


def _value(host: Host, uuid: str) -> str | None:
    """The key in a secret; None where there is none that could be read."""
    try:
        return None if host.secret(uuid).private else host.secret_value(uuid)
    except NotFound:
        return None


def with_files(want: Wish, given: Fields, old: Definition | None, check_mode: bool, warnings: list[str]) -> Wish:
    """``want`` with the monitors, the user and the key that follow from the option rbd, and from files where it names
    them. For a new pool they are looked for where Ceph's tools do.

    In check mode a missing file is a warning, for an earlier task may bring it; what it would say stays unknown.
    """
    before = old.ceph if old else None
    fields = dict(want.sources["rbd"])
    user = fields.get("user") or (before and before.user) or DEFAULT_USER
    keyring, conf = given.get("keyring"), given.get("conf")
    if want.key is None and (before is None or user != before.user):
        keyring = keyring or KEYRING.format(user=user)
    if before is None and "monitors" not in fields:
        conf = conf or CONF
    key = want.key
    if keyring:
        text = _text(keyring, f"the key of client.{user}", "rbd.keyring or rbd.key", check_mode, warnings)
        key = key_of(text, user, keyring) if text is not None else UNREAD if before is None else None
    if conf:
        text = _text(conf, "the monitors", "rbd.conf or rbd.monitors", check_mode, warnings)
        if text is not None:
            fields["monitors"] = monitors_of(text, user, conf)
    if key is not None:
        fields["user"] = user
    if check_mode and rbd is None and before is None:
        key = UNREAD  # the module has warned of the bindings
    return replace(want, key=key, sources={**want.sources, "rbd": fields})


UNREAD = "not read"
"""Stands for a key in check mode, where it or the means to use it are yet to come."""


def is_known(ceph: CephSource) -> bool:
    """Whether all is known that is needed to reach the cluster."""
    return bool(ceph.monitors) and ceph.key != UNREAD


def text_of(path: str, what: str, options: str) -> str:
    """A file of Ceph's on this host. Raises NotFound, which names the ``options`` that do without it."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except FileNotFoundError:
        raise NotFound(f"There is no file {path} to take {what} from: say {options}, or put it there.") from None


def _text(path: str, what: str, options: str, check_mode: bool, warnings: list[str]) -> str | None:
    try:
        return text_of(path, what, options)
    except NotFound as error:
        if not check_mode:
            raise BadInput(error.message) from None
        warnings.append(f"{error.message[:-1]} (unless an earlier task does, which check mode does not run).")
        return None
