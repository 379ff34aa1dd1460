# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Pools of every kind that is at hand here, each for a block and of a known size.

A test that takes the kinds of its pools as a parameter runs on any of them: one more kind is one more entry in KINDS.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import libvirt

from .ceph_site import administered, ceph, ceph_site
from .conftest import Modules, Place

MIB = 1 << 20


@dataclass(frozen=True)
class Ground:
    """What a test has to make pools on."""

    task: Modules
    place: Place
    libvirtd: libvirt.virConnect


@dataclass(frozen=True)
class Made:
    """A pool. ``prefix`` is how the paths of its disks begin."""

    name: str
    prefix: str


Kind = Callable[[Ground, int], AbstractContextManager[Made]]


@contextmanager
def file_system(ground: Ground, size: int) -> Iterator[Made]:
    """A folder that is a file system of its own, of ``size`` bytes."""
    given = ground.place.pool()
    path = Path(given["path"])
    path.mkdir(mode=0o711)
    options = f"size={size},mode=711"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "vst", path], check=True)
    try:
        ground.task("libvirt_pool", type="dir", **given)
        yield Made(given["name"], str(path))
    finally:
        for pool in ground.libvirtd.listAllStoragePools(0):
            if pool.name() == given["name"] and pool.isActive():
                pool.destroy()
        subprocess.run(["umount", path], check=True)


@contextmanager
def in_ceph(ground: Ground, size: int) -> Iterator[Made]:
    """A namespace in Ceph, whose pool has a quota of ``size`` bytes meanwhile. Ceph has to be up."""
    with administered() as cluster, ceph_site(cluster, ground.task, ground.libvirtd) as site:
        _quota(size)
        try:
            yield Made(site.name, f"{site.pool}/{site.space}/")
        finally:
            _quota(0)


def _quota(size: int) -> None:
    """Let the pool of Ceph have so many bytes, 0 for any number."""
    argv = ["ceph", "-c", str(ceph.CONF), "osd", "pool", "set-quota", ceph.DISKS, "max_bytes", str(size)]
    subprocess.run(argv, check=True, capture_output=True, timeout=60)


KINDS: dict[str, Kind] = {"file system": file_system, "ceph": in_ceph}
