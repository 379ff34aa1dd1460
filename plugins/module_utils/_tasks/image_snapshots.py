# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""Images that come from a snapshot in a Ceph cluster, such as those of Glance."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote

from .._ground.bounds import Bounds
from .._ground.ceph import Access, Cluster
from .._ground.errors import BadInput, NotFound
from .._ground.rbd_snapshot import RbdSnapshot
from .._policy.ceph_conf import key_of, monitors_of
from .._policy.plan import Fields
from .._policy.pool_ceph import DEFAULT_USER, checked_ceph
from .._policy.pool_xml import read
from .pool_cluster import CONF, KEYRING, text_of
from .session import Session

_OF_GLANCE = re.compile(r"rbd://(?P<fsid>[^/]+)/(?P<pool>[^/]+)/(?P<image>[^/]+)/(?P<snapshot>[^/]+)")
_OF_OTHERS = ("checksum", "headers", "username", "password", "client_cert", "client_key", "ca_path", "refresh")


@dataclass(frozen=True)
class SnapshotSpec:
    """A source that is a snapshot: ``rbd:pool/image@snapshot``, or ``rbd://fsid/pool/image/snapshot`` as Glance has it.

    ``address`` is ``pool/image@snapshot``, ``fsid`` the cluster where it is said.
    """

    location: str
    address: str
    fsid: str = ""
    format: str = "raw"

    @property
    def shown(self) -> str:
        """The location; there is nothing secret in it."""
        return self.location

    @property
    def identity(self) -> str:
        """The location as part of a key."""
        return self.location


def is_snapshot(source: str | None) -> bool:
    """Whether a task's ``source`` is a snapshot in Ceph."""
    return bool(source) and str(source).startswith("rbd:")


def snapshot_spec(entry: Fields) -> SnapshotSpec:
    """The snapshot that an entry of ``images`` names, or BadInput."""
    source, name = str(entry["source"]), entry["name"]
    compressed = entry["compression"] not in ("auto", "none")
    for option in (*_OF_OTHERS, *(["compression"] if compressed else [])):
        if entry[option]:
            raise BadInput(f"The image {name} comes from Ceph, where {option} means nothing: leave it out.")
    if entry["format"] not in (None, "raw"):
        raise BadInput(f"The image {name} is {entry['format']} in Ceph, and only raw ones can be cloned: convert it.")
    found = _OF_GLANCE.fullmatch(source)
    if found is None:
        return SnapshotSpec(source, source[len("rbd:") :])
    parts = {part: unquote(value) for part, value in found.groupdict().items()}
    return SnapshotSpec(source, f"{parts['pool']}/{parts['image']}@{parts['snapshot']}", parts["fsid"])


def snapshot(
    session: Session, pools: list[str], entry: Fields, spec: SnapshotSpec, bounds: Bounds
) -> RbdSnapshot | None:
    """The snapshot itself; None, in check mode only, where an earlier task has yet to make the pool that leads to
    it."""
    cluster = _named_cluster(entry) if entry["ceph"] else _cluster_of(session, pools, entry["name"])
    if cluster is None:
        return None
    if spec.fsid not in ("", cluster.fsid):
        raise BadInput(
            f"The image {entry['name']} is in the Ceph cluster {spec.fsid}, and {cluster.fsid} was asked: say with "
            "ceph how its cluster is reached."
        )
    return RbdSnapshot.at(cluster, spec.address, bounds, flattened=bool(entry["flatten"]))


def _cluster_of(session: Session, pools: list[str], image: str) -> Cluster | None:
    """The cluster of the first rbd pool of the task."""
    for name in pools:
        try:
            ceph = read(session.host.pool(name).xml).ceph
        except NotFound:
            if not session.check_mode:
                raise
            return None  # the session warns of it
        if ceph is not None:
            return session.around.cluster(ceph)
    raise BadInput(f"The image {image} is in Ceph, and none of the pools is: say with ceph how its cluster is reached.")


def _named_cluster(entry: Fields) -> Cluster:
    """The cluster that the entry says the way to."""
    given: Fields = {option: value for option, value in entry["ceph"].items() if value is not None}
    fields = checked_ceph(
        {"pool": "unused", **{name: given[name] for name in ("monitors", "user", "key") if name in given}}
    )
    user = fields.get("user", DEFAULT_USER)
    monitors, key = fields.get("monitors"), fields.get("key")
    image = entry["name"]
    if monitors is None:
        conf = given.get("conf", CONF)
        monitors = monitors_of(text_of(conf, f"the monitors for the image {image}", "ceph.monitors"), user, conf)
    if key is None:
        keyring = given.get("keyring", KEYRING.format(user=user))
        key = key_of(text_of(keyring, f"the key for the image {image}", "ceph.key"), user, keyring)
    return Cluster(Access(monitors, user, key))
