# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What others do to a pool and its disks while a task is at work, or between two: libvirtd ends, the pool is stopped
and forgotten, a disk gets a snapshot or is committed. It is told, and nothing is broken by it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest

from .conftest import ModuleFailed, Modules, Place, Result, undefine
from .test_cached_image import DISK, data, image, web  # noqa: F401  # pylint: disable=unused-import
from .test_guests import own, running  # noqa: F401  # pylint: disable=unused-import
from .test_instance_disk import CONTENT, MIB, SIZE, Store, content, open_store
from .test_migrating import MOUNTS, OWN, reached

AGAIN = MOUNTS.replace("exec libvirtd", "while sleep 0.2; do libvirtd || true; done")
"""A daemon that is started anew whenever it has ended, as systemd does."""


@pytest.fixture
def host(place: Place) -> Iterator[tuple[Modules, Path]]:
    """Runs modules where a libvirtd of the test's own is; and the folder of that one's files."""
    base = place.root / "host"
    environment = {**os.environ, "BASE": str(base), "FOLDERS": " ".join(OWN)}
    argv = ["unshare", "--mount", "--propagation=private", "sh", "-c", AGAIN]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
    with subprocess.Popen(argv, env=environment, **quiet) as daemon:
        try:
            python = place.root / "python"
            python.write_text(f'#!/bin/sh\nexec nsenter --target {daemon.pid} --mount {sys.executable} "$@"\n')
            python.chmod(0o755)
            reached(uri(base))
            yield Modules(python=str(python)), base
        finally:
            os.killpg(daemon.pid, signal.SIGKILL)


def uri(base: Path) -> str:
    return f"qemu+unix:///system?socket={base}/run/libvirt/libvirt-sock"


@contextlib.contextmanager
def half_way(web: Any, task: Modules, pool: str) -> Iterator[list[Result]]:  # noqa: F811
    """A fill that has got half of its image, for the time of a block; what came of it is in the list afterwards."""
    begun, go = threading.Event(), threading.Event()

    def slow(handler: Any) -> None:
        handler.start(200, len(DISK), ETag='"1"')
        handler.wfile.write(DISK[:MIB])
        begun.set()
        go.wait(60)
        handler.wfile.write(DISK[MIB:])

    web.answers["/disk.raw"] = slow
    filling = task.start("cached_image", pools=[pool], images=[image("web", web.url("/disk.raw"))])
    results: list[Result] = []
    try:
        assert begun.wait(60)
        yield results
    finally:
        go.set()
        out, err = filling.communicate(timeout=120)
    assert "Traceback" not in out + err
    results.append(task.read("cached_image", out, err))


def test_a_libvirtd_that_dies_in_mid_fill_keeps_nobody_from_filling(
    host: tuple[Modules, Path],
    place: Place,
    web: Any,  # noqa: F811
) -> None:
    there, base = host
    pool = place.pool()
    there("libvirt_pool", type="dir", **pool)
    with half_way(web, there, pool["name"]) as results:
        os.kill(int((base / "run/libvirtd.pid").read_text()), signal.SIGKILL)
        reached(uri(base))
    (filled,) = results[0]["images"]
    assert data(filled) == DISK
    disk = {"instance": "after", "image": "web"}
    assert there("instance_disk", pool=pool["name"], disks=[disk])["changed"]
    assert there("disk_metadata", pool=pool["name"], state="verified")["problems"] == []


@pytest.mark.parametrize("defined", [True, False], ids=["stopped", "forgotten"])
def test_a_pool_that_is_stopped_in_mid_fill_is_filled_all_the_same(
    defined: bool,
    task: Modules,
    own: Store,  # noqa: F811
    place: Place,
    web: Any,  # noqa: F811
) -> None:
    with half_way(web, task, own.name) as results:
        pool = place.connection.storagePoolLookupByName(own.name)
        if defined:
            pool.destroy()
        else:
            undefine(pool)
    (filled,) = results[0]["images"]
    assert data(filled) == DISK
    assert own.name in own.failed({"instance": "after", "image": "web"}).msg
    task("libvirt_pool", type="dir", name=own.name, path=str(own.path))
    own.four({"instance": "after", "image": "web"})
    assert task("disk_metadata", pool=own.name, state="verified")["problems"] == []


def test_a_disk_under_a_snapshot_of_others_stays_and_is_told(
    own: Store,  # noqa: F811
    task: Modules,
    place: Place,
    libvirtd: libvirt.virConnect,
    tmp_path: Path,
) -> None:
    other = open_store(task, place)
    wanted = {"instance": "snapped", "image": "base"}
    disk = own.make(wanted)[0]
    name = f"{own.name}-snapped"
    with running(libvirtd, name, [disk]) as domain:
        flags = libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA
        domain.snapshotCreateXML("<domainsnapshot><name>behind</name></domainsnapshot>", flags)
        top = Path(disk["path"]).with_suffix(".behind")
        reports = task("disk_metadata", pool=own.name, state="verified")["reports"]
        assert [(each["problem"], each["volume"]) for each in reports] == [("volume_unmanaged", top.name)]
        uses = f"guest {name} (running, vda)"
        assert uses in own.refused({"instance": "snapped"}, state="absent")
        assert uses in own.refused({**wanted, "flattened": True})
        domain.destroy()
        told = task.refused("instance_disk", pool=other.name, disks=[wanted], allow_move=True)
        assert f"in use by the volume that stands on it in {name} (off, vda), as after an external snapshot" in told
        domain.create()
        commit = libvirt.VIR_DOMAIN_BLOCK_COMMIT_ACTIVE
        domain.blockCommit("vda", disk["path"], str(top), 0, commit)
        while not (job := domain.blockJobInfo("vda"))["end"] or job["cur"] < job["end"]:
            pass
        domain.blockJobAbort("vda", libvirt.VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT)
    top.unlink()
    assert task("disk_metadata", pool=own.name, state="verified")["problems"] == []
    assert content(disk, tmp_path) == CONTENT + bytes(SIZE - MIB)
    own.four({**wanted, "flattened": True})


def test_an_image_takes_no_commit(own: Store, task: Modules, tmp_path: Path) -> None:  # noqa: F811
    disk, twin = own.make({"instance": "written", "image": "base"}, {"instance": "twin", "image": "base"})
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -q -P 9 0 64k", disk["path"]], check=True)
    commit = subprocess.run(["qemu-img", "commit", "-q", "-f", "qcow2", disk["path"]], capture_output=True, check=False)
    assert commit.returncode != 0
    for check in ("cached_image", "disk_metadata"):
        where: dict[str, Any] = {"pools": [own.name]} if check == "cached_image" else {"pool": own.name}
        assert task(check, state="verified", **where)["problems"] == []
    assert content(twin, tmp_path) == CONTENT + bytes(SIZE - MIB)


def test_a_disk_that_others_pulled_away_from_its_image_is_told_and_mended(own: Store, task: Modules) -> None:  # noqa: F811
    wanted = {"instance": "pulled", "image": "base"}
    (disk,) = own.make(wanted)
    subprocess.run(["qemu-img", "rebase", "-f", "qcow2", "-b", "", disk["path"]], check=True)
    with pytest.raises(ModuleFailed) as told:
        task("disk_metadata", pool=own.name, state="verified")
    (problem,) = told.value.result["problems"]
    assert (problem["problem"], problem["id"]) == ("pointer_differs", disk["id"])
    own.four({**wanted, "flattened": True})
    assert task("disk_metadata", pool=own.name, state="verified")["problems"] == []
