# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A small guest that proves from which image it was booted.

Its image is a whole disk: boot code, a partition with syslinux, the distribution's kernel, and an initramfs of
busybox whose first program is ``tests/bed/guest-init``. In front of the partition stands a sector with a marker
of the image; the guest reads it from its disk and tells it on its serial console, and counts its boots there.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import lzma
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

from common import ROOT, WORK, Trouble, apt_install, only_one, run, say

INIT = ROOT / "tests" / "bed" / "guest-init"
CACHE = WORK / "guest"
PACKAGES = ("busybox-static", "cpio", "dosfstools", "kmod", "mtools", "qemu-utils", "syslinux", "syslinux-common")
MODULES = ("virtio_pci", "virtio_blk", "isofs")
BOOT_SECONDS = 90
"""How long a boot may take; 8 to 10 s are usual under software emulation."""

_SECTOR = 512
_MARKER = 64  # sector; guest-init has the same numbers
_PARTITION = 2048
_DISK_SECTORS = 48 * 2048
_MBR = Path("/usr/lib/syslinux/mbr/mbr.bin")
# Two builds of the same parts give the same bytes: a second quickstart finds nothing to change.
_MOMENT = 946684800
_MTOOLS = {"MTOOLS_SKIP_CHECK": "1", "SOURCE_DATE_EPOCH": str(_MOMENT)}
_CONFIG = """\
DEFAULT guest
LABEL guest
  KERNEL vmlinuz
  INITRD initrd
  APPEND console=ttyS0 quiet panic=-1 tsc=reliable mitigations=off
"""


def make_boot_image(path: Path, marker: str, image_format: str = "raw") -> Path:
    """Make a bootable image at ``path``, ``raw`` or ``qcow2``, whose guest says that it is ``marker``."""
    line = f"virt.storage image: {marker}\n".encode()
    if len(line) > _SECTOR or "\n" in marker:
        raise Trouble(f"the marker {marker!r} does not fit in one line of a sector: use a shorter one.")
    partial = path.with_name(f"{path.name}.partial")
    run(["cp", "--sparse=always", _disk(), partial])
    with open(partial, "r+b") as disk:
        disk.seek(_MARKER * _SECTOR)
        disk.write(line)
    if image_format != "raw":
        raw = partial.rename(path.with_name(f"{path.name}.raw"))
        run(["qemu-img", "convert", "-q", "-f", "raw", "-O", image_format, raw, partial])
        raw.unlink()
    return partial.rename(path)


def _disk() -> Path:
    """The bootable disk without a marker, made anew when a part of it has changed."""
    with only_one("guest"):
        apt_install(PACKAGES)
        package = _kernel_package()
        parts = f"{package} {_DISK_SECTORS} {_CONFIG}".encode() + INIT.read_bytes() + Path(__file__).read_bytes()
        disk = CACHE / f"disk-{hashlib.sha256(parts).hexdigest()[:16]}.raw"
        if not disk.exists():
            say("making a small bootable image from the distribution's kernel and busybox")
            for old in CACHE.glob("disk-*"):
                old.unlink()
            stage = CACHE / "stage"
            shutil.rmtree(stage, ignore_errors=True)
            stage.mkdir(parents=True)
            kernel, modules = _unpack_kernel(package, stage)
            partial = stage / "disk.raw"
            _write_disk(partial, {"vmlinuz": kernel, "initrd": _pack_initramfs(stage, modules)})
            partial.rename(disk)
            shutil.rmtree(stage)
        return disk


def _kernel_package() -> str:
    """``name=version`` of the distribution's newest kernel for clouds: it has virtio and few other drivers."""
    meta = "linux-image-cloud-amd64"
    depends = run(["apt-cache", "depends", "--important", meta], capture=True).stdout.split()
    names = [word for word in depends if word.startswith("linux-image-") and word != meta]
    if not names:
        raise Trouble(f"apt knows no package {meta}, which brings the kernel of the small guest: run apt-get update.")
    shown = run(["apt-cache", "show", "--no-all-versions", names[0]], capture=True).stdout
    version = re.search(r"^Version: (\S+)$", shown, re.MULTILINE)
    if version is None:
        raise Trouble(f"apt knows no version of {names[0]}: run apt-get update.")
    return f"{names[0]}={version[1]}"


def _unpack_kernel(package: str, stage: Path) -> tuple[Path, dict[str, bytes]]:
    """Download the package; the kernel in it, and the modules that the guest loads in this order."""
    run(["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", package], cwd=stage, capture=True)
    (deb,) = stage.glob("linux-image-*.deb")
    tree = stage / "tree"
    run(["dpkg-deb", "--extract", deb, tree])
    (kernel,) = (tree / "boot").glob("vmlinuz-*")
    (place,) = (tree / "lib/modules").iterdir()
    run(["/usr/sbin/depmod", "--basedir", tree, place.name])
    return kernel, _needed_modules(place)


def _needed_modules(place: Path) -> dict[str, bytes]:
    """The modules of ``MODULES`` and those they need, in the order in which they can be loaded, unpacked.

    One that is missing is built in; when it is neither, the guest finds no disk and says so.
    """
    depends = {}
    for line in (place / "modules.dep").read_text(encoding="ascii").splitlines():
        path, needed = line.split(":", 1)
        depends[Path(path).name.split(".")[0]] = [path, *needed.split()]
    modules = {}
    for wanted in MODULES:
        for path in reversed(depends.get(wanted, [])):
            content = (place / path).read_bytes()
            modules[Path(path).name.split(".")[0]] = lzma.decompress(content) if path.endswith(".xz") else content
    return modules


def _pack_initramfs(stage: Path, modules: dict[str, bytes]) -> Path:
    root = stage / "root"
    (root / "bin").mkdir(parents=True)
    (root / "modules").mkdir()
    shutil.copy(shutil.which("busybox") or "/bin/busybox", root / "bin/busybox")
    # There is no other shell in there.
    (root / "init").write_bytes(INIT.read_bytes().replace(b"#!/bin/sh", b"#!/bin/busybox sh", 1))
    (root / "init").chmod(0o755)
    for name, content in modules.items():
        (root / f"modules/{name}.ko").write_bytes(content)
    (root / "modules/order").write_text("".join(f"{name}\n" for name in modules), encoding="ascii")
    paths = sorted(root.rglob("*"))
    for path in paths:
        os.utime(path, (_MOMENT, _MOMENT))
    names = "".join(f"{path.relative_to(root)}\n" for path in paths)
    # Not compressed: under emulation the guest would take longer to unpack it than the BIOS takes to read it.
    archive = stage / "initrd"
    with open(archive, "wb") as output:
        pack = ["cpio", "--quiet", "--create", "--format=newc", "--owner=0:0", "--reproducible"]
        subprocess.run(pack, cwd=root, input=names.encode(), stdout=output, check=True, timeout=60)
    return archive


def _write_disk(disk: Path, files: dict[str, Path]) -> None:
    """Put together boot code, a table with one partition, and in it a FAT file system with syslinux and ``files``."""
    sectors = _DISK_SECTORS - _PARTITION
    entry = bytes([0x80, 0xFE, 0xFF, 0xFF, 0x0E, 0xFE, 0xFF, 0xFF])
    entry += _PARTITION.to_bytes(4, "little") + sectors.to_bytes(4, "little")
    with open(disk, "wb") as output:
        output.truncate(_DISK_SECTORS * _SECTOR)
        output.write(_MBR.read_bytes().ljust(446, b"\0") + entry + bytes(48) + b"\x55\xaa")
    mkfs = ["/usr/sbin/mkfs.vfat", "--invariant", "-h", _PARTITION, f"--offset={_PARTITION}"]
    run([*mkfs, disk, sectors // 2], capture=True)
    target = f"{disk}@@{_PARTITION * _SECTOR}"
    config = disk.with_name("syslinux.cfg")
    config.write_text(_CONFIG, encoding="ascii")
    for name, path in {**files, "syslinux.cfg": config}.items():
        run(["mcopy", "-i", target, path, f"::{name}"], env=_MTOOLS, capture=True)
    run(["syslinux", "--install", "--offset", _PARTITION * _SECTOR, disk], env=_MTOOLS, capture=True)


@dataclass(frozen=True)
class Told:
    """What a guest said on its console when it was up."""

    image: str
    disk_size: int
    serial: str
    boots: str
    line: str
    """The whole line."""
    seconds: float
    """From the start of the domain to the line."""


def boot_domain_xml(name: str, disks: Sequence[str], console: Path, idle: bool = False) -> str:
    """A domain under software emulation that boots from the first of ``disks``, which are ``<disk>`` elements."""
    family = "idle" if idle else "once"
    return f"""<domain type='qemu'>
  <name>{name}</name>
  <memory unit='MiB'>256</memory>
  <vcpu>1</vcpu>
  <sysinfo type='smbios'><system><entry name='family'>{family}</entry></system></sysinfo>
  <os><type arch='x86_64' machine='pc'>hvm</type><boot dev='hd'/><smbios mode='sysinfo'/></os>
  <features><acpi/></features>
  <on_poweroff>destroy</on_poweroff><on_reboot>destroy</on_reboot><on_crash>destroy</on_crash>
  <devices>
    {"".join(disks)}
    <serial type='file'><source path={quoteattr(str(console))}/><target port='0'/></serial>
    <memballoon model='none'/>
  </devices>
</domain>"""


@contextlib.contextmanager
def guest(
    name: str, disks: Sequence[str], console: Path, idle: bool = True, seconds: float = BOOT_SECONDS
) -> Iterator[tuple[Any, Told]]:
    """A guest that is up, as libvirt's domain and what it told; it is ended with the block, or with this process.

    ``console`` is the file that gets its serial console; what it held before is gone.
    """
    import libvirt  # not at the top: the quickstart imports this file before it has installed the binding

    libvirt.registerErrorHandler(lambda *_: None, None)
    connection = libvirt.open("qemu:///system")
    try:
        console.unlink(missing_ok=True)
        start = time.monotonic()
        xml = boot_domain_xml(name, disks, console, idle)
        domain = connection.createXML(xml, libvirt.VIR_DOMAIN_START_AUTODESTROY)
        try:
            yield domain, _wait_for_line(console, start, seconds)
            if not idle:
                wait_for_console(console, r"^virt\.storage guest down", seconds)
        finally:
            # A guest that has powered off by itself is gone already.
            with contextlib.suppress(libvirt.libvirtError):
                domain.destroy()
    finally:
        connection.close()


def run_guest(name: str, disks: Sequence[str], console: Path, seconds: float = BOOT_SECONDS) -> Told:
    """Boot a guest, let it power off, and return what it told."""
    with guest(name, disks, console, idle=False, seconds=seconds) as (_domain, told):
        return told


def wait_for_console(console: Path, pattern: str, seconds: float) -> re.Match[str]:
    """Wait until the console shows a line that matches ``pattern``; raise Trouble after ``seconds``."""
    end = time.monotonic() + seconds
    while True:
        text = console.read_text(encoding="utf-8", errors="replace") if console.exists() else ""
        if found := re.search(pattern, text.replace("\r", ""), re.MULTILINE):
            return found
        if time.monotonic() > end:
            shown = "\n".join(text.splitlines()[-20:]) or "(nothing)"
            raise Trouble(f"the guest's console showed no {pattern!r} within {seconds:.0f} s; it ends with:\n{shown}")
        time.sleep(0.2)


def _wait_for_line(console: Path, start: float, seconds: float) -> Told:
    pattern = r"^virt\.storage guest up: image=(.*) disk=vda size=(\d+) serial=(\S*) boots=(\S+)$"
    found = wait_for_console(console, pattern, seconds)
    image, size, serial, boots = found.groups()
    return Told(image, int(size), serial, boots, found[0], time.monotonic() - start)


def main(words: Sequence[str]) -> int:
    """Make a boot image, or boot a guest from the ``<disk>`` elements on standard input and print what it tells."""
    parser = argparse.ArgumentParser(prog="guest.py", description=main.__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    image = commands.add_parser("image")
    image.add_argument("path", type=Path)
    image.add_argument("marker")
    image.add_argument("format", nargs="?", default="raw", choices=("raw", "qcow2"))
    boot = commands.add_parser("boot")
    boot.add_argument("name")
    boot.add_argument("console", type=Path)
    options = parser.parse_args(words)
    if options.command == "image":
        make_boot_image(options.path, options.marker, options.format)
    else:
        print(run_guest(options.name, [sys.stdin.read()], options.console).line)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Trouble as trouble:
        print(f"guest.py: {trouble}", file=sys.stderr)
        sys.exit(1)
