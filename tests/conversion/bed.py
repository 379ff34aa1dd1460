# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A host with an old layout: a folder of instances, a pool beside it, and guests that have their disks there."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import libvirt

from ansible_collections.virt.storage.plugins.module_utils._tasks import storage_layout

MIB = 1 << 20
_GETFLAGS, _IMMUTABLE = 0x80086601, 0x10
Result = dict[str, Any]
GUEST = """
<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>{name}</name>{uuid}
  <metadata>
    <nova:instance xmlns:nova="http://openstack.org/xmlns/libvirt/nova/1.1"><nova:name>{name}</nova:name></nova:instance>
  </metadata>
  <memory unit='MiB'>32</memory>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <devices>
    {disks}
    <graphics type='vnc' port='-1' autoport='yes' passwd='secret1'/>
    <memballoon model='none'/>
  </devices>
  <qemu:commandline><qemu:env name='KEPT' value='yes'/></qemu:commandline>
</domain>
"""
DISK = """<disk type='file' device='disk'>
      <driver name='qemu' type='{format}' cache='none' discard='unmap'/>
      <source file='{path}'/>
      <target dev='{target}' bus='virtio'/>
      <iotune><total_iops_sec>500</total_iops_sec></iotune>
      <serial>{serial}</serial>
    </disk>"""


def run(*argv: str | Path) -> str:
    """A program's output; its failure is the test's."""
    done = subprocess.run([str(word) for word in argv], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"{argv}: {done.stderr}{done.stdout}"
    return done.stdout


class Bed:
    """``root`` is a folder of the test's own; the layout is in ``instances``, the pool in ``pool``."""

    def __init__(self, root: Path, connection: libvirt.virConnect) -> None:
        self.root, self.connection = root, connection
        self.instances, self.pool = root / "instances", root / "pool"
        self.name = f"vst-{uuid.uuid4().hex[:8]}"
        (self.instances / "_base").mkdir(parents=True)
        self.pool.mkdir(mode=0o711)
        xml = f"<pool type='dir'><name>{self.name}</name><target><path>{self.pool}</path></target></pool>"
        connection.storagePoolDefineXML(xml, 0).create(0)

    # Layouts by hand

    def raw(self, path: Path, size: int, seed: int = 1) -> Path:
        """A raw file with some data."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.truncate(size)
            for offset in range(0, size, 1 * MIB):
                file.seek(offset)
                file.write(hashlib.sha256(b"%d %d" % (seed, offset)).digest() * 256)
        return path

    def base(self, name: str = "a" * 40, size: int = 4 * MIB, seed: int = 1) -> Path:
        """A raw file of the cache."""
        return self.raw(self.instances / "_base" / name, size, seed)

    def overlay(self, path: Path, base: Path | str, size: int = 8 * MIB, base_format: str | None = "raw") -> Path:
        """A qcow2 disk over ``base`` with some data of its own; without format as old releases left it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        run("qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", base, "-F", base_format or "raw", path, str(size))
        run("qemu-io", "-f", "qcow2", "-c", f"write -q -P 7 {MIB} 64k", path)
        if base_format is None:
            run("qemu-img", "amend", "-q", "-f", "qcow2", "-o", "compat=0.10", path)
            drop_format(path)
        return path

    def overlay_only(self, path: Path, base: Path, size: int) -> None:
        """A qcow2 disk over ``base`` without data of its own."""
        run("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", path, str(size))

    def info(self, folder: Path, **formats: str) -> None:
        """disk.info of an instance; ``disk_local`` stands for disk.local."""
        said = {str(folder / name.replace("_", ".", 1)): format for name, format in formats.items()}
        (folder / "disk.info").write_text(json.dumps(said))

    def instance(self, number: int = 1, base: Path | None = None) -> Path:
        """An ordinary instance: one overlay on a base. Gives its folder."""
        folder = self.instances / (str(number) * 8 + "-1111-2222-3333-444444444444")
        self.overlay(folder / "disk", base or self.base())
        self.info(folder, disk="qcow2")
        return folder

    # Guests

    def define(self, name: str, *disks: tuple[Path, str], uuid: str = "") -> libvirt.virDomain:
        """A guest that has these disks; ``uuid`` is that of one which is defined anew."""
        text = "\n    ".join(
            DISK.format(path=path, format=format, target=f"vd{chr(97 + number)}", serial=f"s{number}")
            for number, (path, format) in enumerate(disks)
        )
        return self.connection.defineXML(
            GUEST.format(name=name, disks=text, uuid=f"<uuid>{uuid}</uuid>" if uuid else "")
        )

    @contextlib.contextmanager
    def guest(self, *disks: tuple[Path, str]) -> Iterator[libvirt.virDomain]:
        """A defined guest, which is gone afterwards."""
        domain = self.define(f"{self.name}-guest", *disks)
        try:
            yield domain
        finally:
            if domain.isActive():
                domain.destroy()
            domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE)

    # The task

    def task(self, state: str, *, check: bool = False, **params: Any) -> Result:
        """The task in this process."""
        defaults = {
            "layout": "nova",
            "path": str(self.instances),
            "pool": self.name,
            "instances": None,
            "formats": None,
            "base_format": None,
            "flattened": False,
            "uri": "qemu:///system",
        }
        return storage_layout.task({**defaults, "state": state, **params}, check)

    def refusals(self, result: Result) -> str:
        """All refusals of a result."""
        return " | ".join(why for each in result["instances"] for why in each["refusals"])

    # Looking

    def disks(self) -> dict[str, str]:
        """The disks of the layout, by path, with the formats in which they were made."""
        found = {}
        for info in self.instances.glob("*/disk.info"):
            found.update(
                {path: format for path, format in json.loads(info.read_text()).items() if os.path.exists(path)}
            )
        for path in self.instances.glob("*/disk.config"):
            found[str(path)] = "raw"
        return found

    def contents(self) -> dict[str, str]:
        """What a guest reads from each disk, as a digest."""
        return {path: content(path, format) for path, format in self.disks().items()}

    def contents_of(self, folder: Path) -> dict[str, str]:
        """Those of one instance."""
        return {path: content(path, format) for path, format in json.loads((folder / "disk.info").read_text()).items()}

    def files(self) -> dict[str, tuple[Any, ...]]:
        """Every file of the layout as it stands: inode, links, mode, owner, flags, bytes."""
        return {
            str(path): (*_facts(path.lstat()), _flags(path), hashlib.sha256(path.read_bytes()).hexdigest())
            for path in sorted(self.instances.rglob("*"))
            if path.is_file() and not path.is_symlink()
        }

    def allocated(self) -> int:
        """Bytes that volumes, bases and disks take, each inode once."""
        os.sync()  # what is not written yet has no blocks
        seen = {}
        for path in (*self.instances.rglob("*"), *self.pool.glob("*"), *self.pool.glob(".virt-storage/[id]*/*")):
            if path.is_file():
                seen[path.stat().st_ino] = path.stat().st_blocks * 512
        return sum(seen.values())

    def volumes(self) -> dict[str, str]:
        """What a guest reads from each volume of the pool that is a disk, by instance and role."""
        found = {}
        for path in (*self.pool.glob("*+*.qcow2"), *self.pool.glob(".virt-storage/disks/*.raw")):
            instance, role, _suffix = path.name.split("+")
            found[f"{instance} {role}"] = content(str(path), "qcow2" if path.suffix == ".qcow2" else "raw")
        return found

    def remove(self, whole: bool = True) -> None:
        """Undo what the test left; the folder only as a ``whole``."""
        for pool in self.connection.listAllStoragePools(0):
            if pool.name() == self.name:
                pool.destroy()
                pool.undefine()
        for path in self.root.rglob("*"):
            if path.is_file() and not path.is_symlink() and _flags(path) & _IMMUTABLE:
                subprocess.run(["chattr", "-i", str(path)], check=False, capture_output=True)
        if whole:
            shutil.rmtree(self.root)


ROLES = {"disk": "root", "disk.local": "ephemeral", "disk.swap": "swap", "disk.config": "config"}


def by_role(contents: Mapping[str, str]) -> dict[str, str]:
    """Digests of old paths as those of volumes are told."""
    return {f"{Path(path).parent.name} {ROLES[Path(path).name]}": digest for path, digest in contents.items()}


def content(path: str, format: str) -> str:
    """The digest of what a guest reads."""
    if format == "raw":
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    out = f"{path}.content"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(out)
    run("qemu-img", "convert", "-U", "-f", format, "-O", "raw", path, out)
    digest = hashlib.sha256(Path(out).read_bytes()).hexdigest()
    os.unlink(out)
    return digest


def drop_format(path: Path) -> None:
    """Take the extension that names the backing format out of a version 2 header, as releases before 2020 wrote it."""
    with path.open("r+b") as file:
        file.seek(72)
        assert file.read(4) == bytes.fromhex("e2792aca")
        file.seek(72)
        file.write(bytes(16))


def _facts(status: os.stat_result) -> tuple[int, ...]:
    return status.st_ino, status.st_nlink, status.st_mode, status.st_uid, status.st_gid


def _flags(path: Path) -> int:
    """What lsattr shows; a kill test asks thousands of times."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        return int.from_bytes(fcntl.ioctl(descriptor, _GETFLAGS, bytes(8)), "little")
    finally:
        os.close(descriptor)
