# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Disks and the guests that use them: the returned element boots, running guests see their disks grow, what a guest
uses is left alone, and nobody is led anywhere by what stands in a guest's data."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import libvirt
import pytest

from ansible_collections.virt.storage.plugins.module_utils._ground.qcow2 import overlay_image, write_pieces

from .conftest import COLLECTION, TREE, Modules, Place, Result
from .test_instance_disk import CONTENT, MIB, Store, content, open_store

sys.path.insert(0, str(COLLECTION / "dev.d"))

from guest import guest, make_boot_image, run_guest, wait_for_console

BOOT_SECONDS = 240
"""Far more than a boot takes, for machines that do something else at the same time."""
EMPTY = """
<domain type='qemu'>
  <name>{name}</name>
  <memory unit='MiB'>32</memory>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <devices>
    <controller type='scsi' model='virtio-scsi'/>
    {disks}
    <memballoon model='none'/>
  </devices>
</domain>
"""
"""A guest that finds nothing to boot from and goes on running."""


@pytest.fixture
def own(task: Modules, place: Place) -> Store:
    return open_store(task, place)


@contextlib.contextmanager
def running(libvirtd: libvirt.virConnect, name: str, disks: Sequence[Result]) -> Iterator[libvirt.virDomain]:
    """A guest that is defined and runs, and is gone afterwards."""
    domain = libvirtd.defineXML(EMPTY.format(name=name, disks="".join(disk["xml"] for disk in disks)))
    try:
        domain.create()
        yield domain
    finally:
        if domain.isActive():
            domain.destroy()
        domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE)


def test_from_an_image_to_a_guest_that_sees_its_disks_grow(own: Store, task: Modules, tmp_path: Path) -> None:
    source = make_boot_image(tmp_path / "boot.qcow2", "marker-of-this-test", "qcow2")
    image = {"name": "boot", "source": str(source), "format": "qcow2"}
    task("cached_image", pools=[own.name], images=[image])
    root = {"instance": "booted", "image": "boot", "size": "64M", "serial": "root-1", "cache": "none", "io": "native"}
    data = {"instance": "booted", "role": "data", "blank": {"fs": "ext4"}, "size": "16M", "serial": "data-1"}
    seed: dict[str, Any] = {"instance": "booted", "role": "config", "bus": "virtio", "device": "disk"}
    seed["config"] = {"user_data": "#cloud-config\n", "meta_data": "local-hostname: booted\n"}
    disks = own.make(root, data, seed)
    xml, console = [disk["xml"] for disk in disks], own.path.parent / "console"
    with guest(f"{own.name}-boot", xml, console, seconds=BOOT_SECONDS) as (_domain, told):
        assert (told.image, told.disk_size, told.serial, told.boots) == ("marker-of-this-test", 64 * MIB, "root-1", "1")
        shown = console.read_text(errors="replace").replace("\r", "")
        assert f"sees: disk=vdb size={16 * MIB} serial=data-1 fs=ext4 files=lost+found" in shown
        assert "fs=iso9660 files=meta-data,user-data" in shown
        assert 'meta-data: instance-id: "booted"' in shown
        backing = os.stat(next(own.private.glob("images/image+boot+*")))
        assert (backing.st_uid, backing.st_mode & 0o222) == (0, 0), "the image is not handed to the guest's user"

        grown = own.four({**root, "size": "80M"}, {**data, "size": "24M"})
        assert [disk["size"] for disk in grown.run["disks"]] == [80 * MIB, 24 * MIB]
        for disk, size in (("vda", 80 * MIB), ("vdb", 24 * MIB)):
            wait_for_console(console, rf"sees: disk={disk} size={size}$", BOOT_SECONDS)

        uses = f"guest {own.name}-boot (running, vda)"
        assert uses in own.refused({**root, "size": "80M", "flattened": True})
        assert uses in own.refused({"instance": "booted", "role": "root"}, state="absent")
        other = {**seed, "config": {"user_data": "#cloud-config\n# other\n"}, "replace": True}
        assert f"guest {own.name}-boot (running, vdc)" in own.refused(other)
    flat = own.four({**root, "size": "80M", "flattened": True}).run["disks"]
    task("cached_image", pools=[own.name], state="absent", images=[{"name": "boot"}])
    told = run_guest(f"{own.name}-flat", [flat[0]["xml"]], console, seconds=BOOT_SECONDS)
    assert (told.image, told.disk_size, told.boots) == ("marker-of-this-test", 80 * MIB, "2")
    assert len(own.four({"instance": "booted"}, state="absent").run["actions"]) == 3


def test_a_saved_guest_goes_on_with_its_disks_as_they_are(own: Store, libvirtd: libvirt.virConnect) -> None:
    disk = own.make({"instance": "saved", "image": "base"})[0]
    with running(libvirtd, f"{own.name}-saved", [disk]) as domain:
        domain.managedSave(0)
        uses = f"guest {own.name}-saved (saved, vda)"
        assert uses in own.refused({"instance": "saved"}, state="absent")
        assert uses in own.refused({"instance": "saved", "flattened": True})
        assert "a saved guest goes on with it as it is" in own.failed({"instance": "saved", "size": "20M"}).msg
        domain.managedSaveRemove(0)
        assert own.four({"instance": "saved", "size": "20M", "flattened": True}).run["changed"]
        assert own.four({"instance": "saved"}, state="absent").run["changed"]


def test_a_disk_below_an_external_snapshot_does_not_grow(own: Store, libvirtd: libvirt.virConnect) -> None:
    wanted = {"instance": "snapped", "image": "base"}
    disk = own.make(wanted)[0]
    with running(libvirtd, f"{own.name}-snapped", [disk]) as domain:
        top = own.path.parent / "top.qcow2"
        snapshot = f"<domainsnapshot><disks><disk name='vda'><source file='{top}'/></disk></disks></domainsnapshot>"
        flags = libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA
        domain.snapshotCreateXML(snapshot, flags)
        before = domain.blockInfo("vda")
        told = f"another volume stands on it in {own.name}-snapped (running, vda)"
        assert told in own.failed({**wanted, "size": "20M"}).msg
        assert domain.blockInfo("vda")[0] == before[0]


def test_a_raw_volume_does_not_move_under_a_guest(own: Store, libvirtd: libvirt.virConnect) -> None:
    volume = own.path / "legacy.img"
    volume.write_bytes(CONTENT)
    wanted = {"instance": "legacy", "import_from": {"path": str(volume), "format": "raw"}}
    xml = (
        f"<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{volume}'/><backingStore/>"
        "<target dev='vda' bus='virtio'/></disk>"
    )
    name = f"{own.name}-legacy"
    with running(libvirtd, name, [{"xml": xml}]) as domain:
        assert "for raw disks move" in own.refused(wanted)
        domain.destroy()
        result = own.task("instance_disk", pool=own.name, disks=[wanted])
        assert f"the definition of {name} names its old path" in str(result["warnings"])
    with running(libvirtd, name, result["disks"]):
        assert "is in use" in own.refused({"instance": "legacy"}, state="absent")


def test_libvirt_takes_every_option_of_the_element(own: Store, libvirtd: libvirt.virConnect) -> None:
    blank: dict[str, Any] = {"instance": "many", "size": "1M", "blank": {}}
    asked: list[dict[str, Any]] = [
        {"role": "a", "cache": "none", "io": "native", "discard": "unmap", "serial": "A_1-b.c d"},
        {"role": "b", "cache": "directsync", "io": "native", "target": "vdq"},
        {"role": "c", "bus": "scsi", "cache": "writeback", "io": "threads", "discard": "ignore"},
        {"role": "d", "bus": "sata", "cache": "writethrough", "serial": "x" * 20},
        {"role": "e", "bus": "ide", "cache": "unsafe"},
        {"role": "f", "bus": "usb"},
        {"role": "g", "device": "cdrom"},
        {"role": "h", "bus": "virtio"},
    ]
    disks = own.four(*({**blank, **disk} for disk in asked)).run["disks"]
    assert [disk["target"] for disk in disks] == ["vda", "vdq", "sda", "sdb", "hda", "sdc", "sdd", "vdb"]
    with running(libvirtd, f"{own.name}-many", disks) as domain:
        seen = domain.XMLDesc(0)
        for disk, options in zip(disks, asked):
            for line in disk["xml"].splitlines()[1:]:
                if line.strip().startswith(("<target", "<serial")):
                    assert line.strip().replace('"', "'") in seen
            for name in ("cache", "io", "discard"):
                assert options.get(name) is None or f"{name}='{options[name]}'" in seen
        assert domain.state(0)[0] == libvirt.VIR_DOMAIN_RUNNING


def test_an_option_of_the_element_is_no_change(own: Store) -> None:
    disk = {"instance": "dressed", "size": "1M", "blank": {}}
    own.make(disk)
    result = own.task("instance_disk", pool=own.name, disks=[{**disk, "bus": "scsi", "discard": "unmap"}])
    assert not result["changed"]
    assert 'dev="sda" bus="scsi"' in result["disks"][0]["xml"]


# What stands in a guest's data leads nobody anywhere


class Tracer:
    """The files that libvirtd, the guests that it starts, and modules open while a block lasts."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0

    @contextlib.contextmanager
    def libvirtd(self) -> Iterator[None]:
        pids = [path.parent.name for path in Path("/proc").glob("[0-9]*/comm") if _comm(path) == "libvirtd"]
        argv = [*self._strace(), *(word for pid in pids for word in ("-p", pid))]
        process = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        try:
            for _pid in pids:
                assert "attached" in process.stderr.readline()
            yield
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)

    def module(self, module: str, **params: Any) -> Result:
        argv = [*self._strace(), sys.executable, "-m", f"ansible_collections.virt.storage.plugins.modules.{module}"]
        environment = {**os.environ, "PYTHONPATH": str(TREE)}
        given = json.dumps({"ANSIBLE_MODULE_ARGS": params})
        done = subprocess.run(
            argv, env=environment, input=given, capture_output=True, text=True, timeout=240, check=False
        )
        return Modules.read(module, done.stdout, done.stderr)

    def _strace(self) -> list[str]:
        self._count += 1
        return ["strace", "-f", "-e", "trace=open,openat,openat2", "-o", str(self._folder / f"trace{self._count}")]

    def opened(self, path: str) -> list[str]:
        """The lines about opening ``path``."""
        lines = [line for file in self._folder.glob("trace*") for line in file.read_text(errors="replace").splitlines()]
        assert lines, "nothing was traced"
        return [line for line in lines if f'"{path}"' in line]


def _comm(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def test_headers_in_a_guests_data_are_never_followed(own: Store, libvirtd: libvirt.virConnect, tmp_path: Path) -> None:
    canary = own.path.parent / "canary"
    canary.write_bytes(bytes(MIB))
    lures = {str(canary): tmp_path / "lure", "/etc/shadow": tmp_path / "lure2", "/dev/kmsg": tmp_path / "lure3"}
    for path, lure in lures.items():
        with open(lure, "wb") as file:
            write_pieces(file.fileno(), overlay_image(MIB, path, "raw"))
    base = own.image["path"]
    subprocess.run(["chattr", "-i", base], check=True)
    with open(base, "r+b") as image:  # the image of some tenant, as it may be
        image.write((tmp_path / "lure").read_bytes())
    subprocess.run(["chattr", "+i", base], check=True)
    written = own.make({"instance": "written", "size": "4M", "blank": {}})[0]
    command = f"write -q -s {tmp_path / 'lure2'} 0 {os.path.getsize(tmp_path / 'lure2')}"
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", command, written["path"]], check=True)
    legacy = own.path / "legacy.img"
    legacy.write_bytes((tmp_path / "lure3").read_bytes().ljust(MIB, b"\0"))
    raw = {"instance": "raw", "import_from": {"path": str(legacy), "format": "raw"}}

    tracer = Tracer(tmp_path)
    with tracer.libvirtd():
        on_base = {"instance": "based", "image": "base", "size": "9M"}
        disks = tracer.module("instance_disk", pool=own.name, disks=[on_base, raw])["disks"]
        grown = [{**on_base, "size": "10M"}, {"instance": "written", "size": "8M"}, {"instance": "raw", "size": "2M"}]
        tracer.module("instance_disk", pool=own.name, disks=grown)
        disks = tracer.module("instance_disk_info", pools=[own.name])["disks"]
        tracer.module("disk_metadata", pool=own.name, state="verified")
        libvirtd.storagePoolLookupByName(own.name).refresh(0)
        for number, disk in enumerate(disks):
            disk["xml"] = disk["xml"].replace('"vda"', f'"vd{"abc"[number]}"')
        with running(libvirtd, f"{own.name}-led", disks):
            time.sleep(1)
        flat = [{"instance": each, "flattened": True} for each in ("based", "written", "raw")]
        tracer.module("instance_disk", pool=own.name, disks=flat)
    for path in lures:
        assert tracer.opened(path) == []
    assert tracer.opened(written["path"]), "the trace shows who opens what"
    sizes = {disk["instance"]: disk["size"] for disk in own.task("instance_disk_info", pools=[own.name])["disks"]}
    assert sizes == {"based": 10 * MIB, "written": 8 * MIB, "raw": 2 * MIB}
    assert content(disks[0], tmp_path).startswith((tmp_path / "lure").read_bytes()), "it is data, and stays data"

    (own.path / "exposed.img").write_bytes((tmp_path / "lure").read_bytes())
    with tracer.libvirtd():
        libvirtd.storagePoolLookupByName(own.name).refresh(0)
    assert tracer.opened(str(canary)), "libvirtd follows a header in the folder itself, so the trace would have told"
