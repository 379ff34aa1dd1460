# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""The libvirt of this host: its storage pools, and the guests that use a volume.

Nothing here makes libvirt read a volume's format: volumes are not looked up, described, created, cloned or
resized through libvirt, for it learns what they are by looking inside, where a guest can write. Pools, domains
and their XML are all that is asked for.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit
from xml.etree import ElementTree

from .block_copies import BlockCopies
from .errors import BadInput, Busy, InUse, MissingRequirement, NotFound
from .libvirt_errors import NoDaemon, silent, told
from .libvirt_secrets import Secret, Secrets

try:
    import libvirt  # type: ignore[import-untyped,unused-ignore]
except ImportError:
    libvirt = None

SYSTEM = "qemu:///system"
Identity = tuple[Any, ...]
REFRESH_TRIES = 10
REFRESH_PAUSE = 0.5
"""Seconds between two tries to refresh a pool that is busy with another job."""


@dataclass(frozen=True)
class PoolStatus:
    """A pool as libvirt sees it. Sizes are bytes, as of libvirt's own last look; ``xml`` is what it runs with now, or
    would start with, ``stored`` what it starts with next: another, where it was defined anew while it was active."""

    name: str
    uuid: str
    active: bool
    persistent: bool
    autostart: bool
    capacity: int
    allocation: int
    available: int
    xml: str
    stored: str


@dataclass(frozen=True)
class Use:
    """A disk of a guest, or a link of its backing chain.

    ``state`` is ``running``, ``paused``, ``saved`` (managed save: the guest's memory still counts on the disk) or
    ``off``. ``source`` is a path, or ``pool/image`` for a network disk, and ``secret`` the UUID of the libvirt secret
    with which that is opened. ``top`` tells the disk itself from what it stands on, or is copied to.
    """

    domain: str
    state: str
    target: str
    source: str
    secret: str = ""
    top: bool = True

    @property
    def live(self) -> bool:
        """Whether the guest holds the disk now, or goes on with it when it is restored."""
        return self.state != "off"

    def __str__(self) -> str:
        return f"{self.domain} ({self.state}, {self.target})"


@dataclass(frozen=True)
class Guest:
    """A guest; ``state`` as in `Use`. ``xml`` is what it starts with next, passwords included, "" for one that is only
    running; it is for redefining, and never recorded or shown."""

    name: str
    state: str
    xml: str = field(repr=False)


class Host(Secrets, BlockCopies):
    """A connection to the libvirt daemon of this host.

    Every method raises a `StorageError` that says what libvirt could not do, and `NotFound` only where libvirt
    itself said that there is no such pool or domain.
    """

    def __init__(self, uri: str = SYSTEM) -> None:
        """Connect; raises `MissingRequirement` without the bindings and `NoDaemon` where nobody listens."""
        try:
            elsewhere = urlsplit(uri).hostname
        except ValueError:
            raise BadInput(f"The URI {uri!r} cannot be read: give a local one, such as qemu:///system.") from None
        if elsewhere:
            raise BadInput(
                f"The URI {uri!r} names another host: the paths of a pool are looked at on the host that the task "
                "runs on, so give a local URI such as qemu:///system and run the task on that host."
            )
        if libvirt is None:
            raise MissingRequirement(
                "The Python bindings of libvirt are missing: install python3-libvirt with apt or dnf.",
                packages=["python3-libvirt"],
            )
        libvirt.registerErrorHandler(silent, None)
        self.uri = uri
        with told(f"connect to {uri}"):
            self._connection = libvirt.open(uri)

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *_unused: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; what was started stays as it is."""
        self._connection.close()

    # Pools

    def pools(self) -> list[PoolStatus]:
        """All pools, defined or only running, by name."""
        with told("list the storage pools"):
            pools = self._connection.listAllStoragePools(0)
        found = []
        for pool in pools:
            try:
                found.append(self._status(pool))
            except NotFound:
                continue  # went between the listing and the look
        return sorted(found, key=lambda status: status.name)

    def pool(self, name: str) -> PoolStatus:
        """The pool of that name, or `NotFound`."""
        return self._status(self._pool(name))

    def define(self, xml: str) -> None:
        """Store a pool's definition. With the UUID of a pool that exists, that pool's is replaced."""
        with told("define the storage pool"):
            self._connection.storagePoolDefineXML(xml, 0)

    def start(self, name: str) -> None:
        """Start a pool; it is refreshed by that. Where somebody else was faster, that is all right."""
        with told(f"start pool {name}"):
            pool = self._pool(name)
            if not pool.isActive():
                pool.create(0)

    def stop(self, name: str) -> None:
        """Stop a pool. Its volumes stay, and so do guests that use them; a pool that libvirt mounted is unmounted."""
        with told(f"stop pool {name}"):
            pool = self._pool(name)
            if pool.isActive():
                pool.destroy()

    def undefine(self, name: str) -> None:
        """Forget a stopped pool. Its volumes stay."""
        with told(f"undefine pool {name}"):
            self._pool(name).undefine()

    def set_autostart(self, name: str, autostart: bool) -> None:
        """Whether libvirt starts the pool when it starts itself."""
        with told(f"set autostart of pool {name}"):
            self._pool(name).setAutostart(int(autostart))

    def refresh(self, name: str) -> None:
        """Have libvirt list the pool's volumes anew; raises `Busy` while another job keeps the pool."""
        for attempt in range(REFRESH_TRIES):
            try:
                with told(f"refresh pool {name}"):
                    self._pool(name).refresh(0)
                    return
            except Busy:
                if attempt == REFRESH_TRIES - 1:
                    raise
                time.sleep(REFRESH_PAUSE)

    def _pool(self, name: str) -> Any:
        with told(f"look up pool {name}"):
            return self._connection.storagePoolLookupByName(name)

    def _status(self, pool: Any) -> PoolStatus:
        with told(f"describe pool {pool.name()}"):
            persistent = bool(pool.isPersistent())
            _unused, capacity, allocation, available = pool.info()
            return PoolStatus(
                name=pool.name(),
                uuid=pool.UUIDString(),
                active=bool(pool.isActive()),
                persistent=persistent,
                autostart=bool(pool.autostart()),
                capacity=capacity,
                allocation=allocation,
                available=available,
                xml=pool.XMLDesc(0),
                stored=pool.XMLDesc(libvirt.VIR_STORAGE_XML_INACTIVE if persistent else 0),
            )

    # Guests

    def uses(self) -> list[Use]:
        """Every source of every disk of every guest, backing chains included, running and as defined."""
        with told("list the guests"):
            domains = self._connection.listAllDomains(0)
        roots = {status.name: _target(status.xml) for status in self.pools()}
        found: list[Use] = []
        for domain in domains:
            try:
                found.extend(self._uses_of(domain, roots))
            except NotFound:
                continue  # undefined between the listing and the look
        return found

    def guests(self) -> list[Guest]:
        """Every guest, by name."""
        with told("list the guests"):
            domains = self._connection.listAllDomains(0)
        found = []
        for domain in domains:
            try:
                found.append(self._guest(domain))
            except NotFound:
                continue  # undefined between the listing and the look
        return sorted(found, key=lambda guest: guest.name)

    def guest(self, name: str) -> Guest:
        """The guest of that name, or `NotFound`."""
        with told(f"look up guest {name}"):
            domain = self._connection.lookupByName(name)
        return self._guest(domain)

    def define_guest(self, xml: str) -> None:
        """Store a guest's definition in the place of the one that it has. A running guest goes on as it is."""
        with told("define the guest"):
            self._connection.defineXML(xml)

    def _guest(self, domain: Any) -> Guest:
        with told(f"describe guest {domain.name()}"):
            flags = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE
            return Guest(domain.name(), _state(domain), domain.XMLDesc(flags) if domain.isPersistent() else "")

    def users_of(self, path: str) -> list[Use]:
        """The uses of the file or device at ``path``, by whatever name: the same inode or device number counts."""
        return using(self.uses(), path)

    def block_resize(self, domain: str, target: str, size: int) -> int:
        """Tell a running guest that its disk has ``size`` bytes now; gives the size in bytes that it then has.

        Only grows: a guest that sees ``size`` bytes or more is left alone. Libvirt's call would shrink too, so
        whoever calls holds the disk's lock.
        """
        with told(f"grow {target} of {domain}"):
            guest = self._connection.lookupByName(domain)
            if not guest.isActive():
                raise InUse(f"The guest {domain} is not running: its disk {target} is grown as a file.", domain=domain)
            if guest.blockInfo(target, 0)[0] < size:
                guest.blockResize(target, size, libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES)
            seen: int = guest.blockInfo(target, 0)[0]
            return seen

    def _uses_of(self, domain: Any, roots: dict[str, str]) -> list[Use]:
        with told(f"describe guest {domain.name()}"):
            name, state = domain.name(), _state(domain)
            found = _disks(name, state, domain.XMLDesc(0), roots)
            if domain.isActive() and domain.isPersistent():
                found += _disks(name, "off", domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE), roots)
            return list(dict.fromkeys(found))


class EmptyHost(Host):
    """A host without pools and guests: how check mode sees one on which an earlier task has yet to set up libvirt."""

    def __init__(self) -> None:
        """Connects to nothing."""

    def close(self) -> None:
        """Nothing to close."""

    def pools(self) -> list[PoolStatus]:
        """No pool."""
        return []

    def pool(self, name: str) -> PoolStatus:
        """`NotFound`, always."""
        raise NotFound(f"There is no pool {name}: libvirt does not run here.")

    def uses(self) -> list[Use]:
        """No guest."""
        return []

    def guests(self) -> list[Guest]:
        """No guest."""
        return []

    def secret(self, uuid: str) -> Secret:
        """`NotFound`, always."""
        raise NotFound(f"There is no secret {uuid}: libvirt does not run here.")


def connect(uri: str, check_mode: bool, warnings: list[str]) -> Host:
    """A `Host`. In check mode a host without libvirt gives an `EmptyHost` and a warning, for there the task that
    installs and starts libvirt has not really run."""
    try:
        return Host(uri)
    except (MissingRequirement, NoDaemon) as error:
        if not check_mode:
            raise
        warnings.append(f"{error.message} Check mode goes on as if there were no pools and guests on this host.")
        return EmptyHost()


def using(uses: list[Use], path: str) -> list[Use]:
    """Those of ``uses`` that are of the file or device at ``path``, whatever it is called there."""
    return using_any(uses, [path])[path]


def using_any(uses: list[Use], paths: Iterable[str]) -> dict[str, list[Use]]:
    """For each of ``paths`` those of ``uses`` that are of it; one look at each file, however many there are."""
    found: dict[Identity, list[Use]] = {}
    for use in uses:
        found.setdefault(_identity(use.source), []).append(use)
    return {path: found.get(_identity(path), []) for path in paths}


def beneath(uses: list[Use], folder: str) -> list[Use]:
    """Those of ``uses`` whose source lies under ``folder``."""
    root = os.path.join(os.path.realpath(folder), "")
    return [use for use in uses if use.source.startswith("/") and os.path.realpath(use.source).startswith(root)]


def within(uses: list[Use], ceph_pool: str) -> list[Use]:
    """Those of ``uses`` whose source is an image of a Ceph pool, or of a namespace in one, "pool/namespace"."""
    return [use for use in uses if use.source.rpartition("/")[0] == ceph_pool]


def _identity(path: str) -> Identity:
    """What makes two paths the same volume: the device number of a device, the inode of a file."""
    try:
        status = os.stat(path)
    except OSError:
        return ("path", os.path.normpath(path))
    if status.st_rdev:
        return ("device", status.st_rdev)
    return ("inode", status.st_dev, status.st_ino)


def _state(domain: Any) -> str:
    if not domain.isActive():
        return "saved" if domain.hasManagedSaveImage(0) else "off"
    paused = (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PMSUSPENDED)
    return "paused" if domain.state(0)[0] in paused else "running"


def _disks(name: str, state: str, xml: str, roots: dict[str, str]) -> list[Use]:
    found = []
    for disk in ElementTree.fromstring(xml).iterfind("./devices/disk"):
        target = disk.find("target")
        shown = target.get("dev", "") if target is not None else ""
        for source in disk.iter("source"):
            where = _source(source, roots)
            if where:
                secret = _secret(source) or _secret(disk)
                found.append(Use(name, state, shown, where, secret, top=source is disk.find("source")))
    return found


def _source(source: ElementTree.Element, roots: dict[str, str]) -> str:
    if source.get("volume"):
        return os.path.join(roots.get(source.get("pool", ""), ""), source.get("volume", ""))
    return source.get("file") or source.get("dev") or source.get("name") or ""


def _secret(element: ElementTree.Element) -> str:
    """The secret that an element names for itself: libvirt takes it with the source, and with the disk of old."""
    secret = element.find("./auth/secret")
    return secret.get("uuid", "") if secret is not None else ""


def _target(xml: str) -> str:
    """What stands before the names of a pool's volumes: its folder, or the Ceph pool that it is."""
    pool = ElementTree.fromstring(xml)
    return pool.findtext("./source/name" if pool.get("type") == "rbd" else "./target/path") or ""
