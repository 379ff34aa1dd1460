# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The pool of a process that is killed, in Ceph: what ``child`` and ``pool_state`` do with a folder is done here with a
RADOS namespace, whose name stands in a file of that folder. The bindings have threads, which a fork leaves behind: so
they are only ever used in children."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import secrets
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import rbd
from contract.rbd_bed import ceph, connected, emptied

from ansible_collections.virt.storage.plugins.module_utils._backends.perform import Parts
from ansible_collections.virt.storage.plugins.module_utils._backends.rbd import RbdVolumes
from ansible_collections.virt.storage.plugins.module_utils._ground import rados_locks, rbd_presence
from ansible_collections.virt.storage.plugins.module_utils._ground.command import Runner
from ansible_collections.virt.storage.plugins.module_utils._ground.digest import content_of_file
from ansible_collections.virt.storage.plugins.module_utils._ground.errors import NotFound
from ansible_collections.virt.storage.plugins.module_utils._ground.intake import Staging
from ansible_collections.virt.storage.plugins.module_utils._ground.rados_omap import Omaps
from ansible_collections.virt.storage.plugins.module_utils._ground.rbd_image import RbdReader
from ansible_collections.virt.storage.plugins.module_utils._records.omap import OmapStore
from ansible_collections.virt.storage.plugins.module_utils._records.types import Disk, Volume

from . import child

MOMENTS = (0.0, 0.002, 0.008, 0.03)
"""Seconds after a call has begun at which it is killed: librbd makes and removes an image in many steps of its own."""
PATIENCE = 45.0
FORGOTTEN = 45.0
"""Seconds in which Ceph forgets a client that is dead. One that it was told of it forgets at once."""


def parts(root: str, runner: Runner, patience: float = PATIENCE) -> Parts:
    """The pool in the namespace that belongs to the folder, as a process that begins opens it. ``patience`` is for how
    many seconds it waits for a client to go away."""
    rados_locks.SHORTEST = rbd_presence.SECONDS = 0.5
    rbd_presence.fail = lambda sentence: fail(runner, sentence)
    cluster = connected()
    with open(f"{root}/clients", "a", encoding="ascii") as file:
        file.write(f"{cluster._rados.get_addrs()}\n")
    namespace = namespace_of(root)
    records = OmapStore.make(cluster.ioctx(ceph.DISKS, namespace), child.BEAT)
    staging = Staging(f"{root}/.virt-storage/staging", 1 << 30)
    volumes = RbdVolumes(cluster, ceph.DISKS, runner, staging, namespace, patience=patience)
    volumes.prepare()
    return Parts(records, volumes)


def fail(runner: Runner, sentence: str) -> NoReturn:
    """What the task would end with where librbd does not come back."""
    assert isinstance(runner, child.Stopping)
    runner._tell("errors", sentence)
    os._exit(0)


def namespace_of(root: str) -> str:
    return Path(root, "namespace").read_text(encoding="ascii")


@contextmanager
def administrator() -> Iterator[Any]:
    """The pool for disks, without a namespace."""
    with connected("admin") as cluster, cluster.ioctx(ceph.DISKS) as ioctx:
        yield ioctx


def begin(root: str) -> None:
    """An empty pool for the folder."""
    Path(root).mkdir()
    namespace = f"crash-{secrets.token_hex(6)}"
    Path(root, "namespace").write_text(namespace, encoding="ascii")
    with administrator() as ioctx:
        rbd.RBD().namespace_create(ioctx, namespace)


def strike(root: str) -> None:
    """Remove what is there. Clones of another pool's snapshot go properly: it would count them for ever."""
    namespace = namespace_of(root)
    volumes = parts(root, Runner()).volumes
    for volume in [Volume(name, "raw") for name in volumes.inventory()]:
        with contextlib.suppress(NotFound):
            if (volumes.pointer(volume) or "").startswith(f"{ceph.IMAGES}/"):
                assert volumes.remove(volume)
    with administrator() as ioctx:
        ioctx.set_namespace(namespace)
        emptied(ioctx)
        ioctx.set_namespace("")
        with contextlib.suppress(rbd.ImageNotFound):  # an OSD that is busy is asked again, and has done it
            rbd.RBD().namespace_remove(ioctx, namespace)


def forget(root: str) -> None:
    """Have the cluster forget all clients that were ever here, as it does after half a minute, and their locks end."""
    clients = Path(root, "clients")
    with connected("admin") as cluster:
        for line in clients.read_text(encoding="ascii").splitlines():
            for address in line.replace("v2:", "").replace("v1:", "").strip("[]").split(","):
                cluster.mon_command("osd blocklist", blocklistop="add", addr=address, expire=120.0)
    clients.unlink()
    wait_until_forgotten(root)


def wait_until_forgotten(root: str) -> None:
    """Wait until nobody is seen as using an image, or as holding a lock. A watch that Ceph does not end by itself is
    ended as docs/guides/ceph.md tells an operator to, and counted by :func:`stayed`."""
    pool = parts(root, Runner(), patience=0)
    if seen := _seen(pool, FORGOTTEN):
        with open(f"{root}.stayed", "ab") as file:
            file.write(b".")
        ceph.ceph("osd", "down", "0")
        ceph.wait_until_it_serves()
        seen = _seen(pool, FORGOTTEN)
    assert not seen, f"somebody dead is still there: {seen}"


def stayed(root: str) -> int:
    """How many times the watch of somebody dead stayed."""
    with contextlib.suppress(FileNotFoundError):
        return os.stat(f"{root}.stayed").st_size
    return 0


def _seen(pool: Parts, seconds: float) -> list[object]:
    """Who uses an image or holds a lock when nobody does any more, or after so many seconds."""
    deadline = time.monotonic() + seconds
    while True:
        looked = ((name, pool.volumes.users(Volume(name, "raw"))) for name in pool.volumes.inventory())
        seen = [*((name, users) for name, users in looked if users), *pool.records.busy()]
        if not seen or time.monotonic() >= deadline:
            return seen
        time.sleep(0.05)


def reads_as(root: str, disk: Disk, expected: str) -> None:
    """A guest reads what it should, to the last byte."""
    volumes = parts(root, Runner()).volumes
    with volumes._pool.open(disk.volume) as image, open(expected, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        assert image.size() == size
        assert RbdReader(image).content(lambda: None) == content_of_file(file.fileno(), size)


def in_child(do: Callable[..., object], *arguments: object) -> None:
    """Do something in a process of its own; its failure is raised here."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        told = ""
        try:
            do(*arguments)
        except BaseException:  # noqa: BLE001 - whatever it is, this process must not go on as a second pytest
            told = traceback.format_exc()
        os.write(writing, json.dumps(told[-60000:]).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as pipe:
        told = json.loads(pipe.read() or '"it died"')
    os.waitpid(pid, 0)
    assert not told, told


def calls(root: str) -> int:
    """How many calls that change something the last process had begun."""
    return Path(root, "calls").stat().st_size


def kill_at_call(root: str, kill: child.Kill) -> None:
    """From now on it happens at a call that changes something: at one moment of ``MOMENTS`` after the other."""
    site, moment = divmod(kill.number - 1, len(MOMENTS))
    count = itertools.count(1)
    # One byte a call: whatever else is under way when the process dies, none of them is lost.
    calls = os.open(f"{root}/calls", os.O_WRONLY | os.O_APPEND)

    def begun() -> None:
        reached = next(count)
        os.write(calls, b".")
        if reached == site + 1:
            if not MOMENTS[moment]:
                kill.strike()
            else:
                threading.Timer(MOMENTS[moment], kill.strike).start()

    def deadly(owner: type, names: str) -> dict[str, Any]:
        def instead(name: str) -> Callable[..., Any]:
            def call(self: Any, *arguments: Any, **options: Any) -> Any:
                begun()
                return getattr(owner, name)(self, *arguments, **options)

            return call

        return {name: instead(name) for name in names.split()}

    changing = "create_snap protect_snap unprotect_snap remove_snap remove_snap_by_id resize flatten aio_write flush"
    rbd.Image = type("Image", (rbd.Image,), deadly(rbd.Image, changing))
    rbd.RBD = type("RBD", (rbd.RBD,), deadly(rbd.RBD, "create clone remove"))
    begin_write = Omaps._begun

    def write(self: Omaps, *arguments: Any) -> Any:
        begun()
        return begin_write(self, *arguments)

    Omaps._begun = write  # type: ignore[method-assign]
