# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Look at a host before ``virt.storage`` works there, and change nothing.

The playbook ``virt.storage.preflight`` runs this on the host, which may have nothing but a Python 3.9: only the
standard library is used. One argument, a JSON object: ``family`` is Ansible's name of the family of the distribution,
``pools`` are those that are to be made, each as ``storage_pool_pools`` has it. Prints one JSON object of lists
of sentences: ``problems`` have to be solved, ``hints`` matter for some uses, ``found`` is how the host is.
"""

from __future__ import annotations

import glob
import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

URI = "qemu:///system"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
LIMIT = 30
"""Seconds that a program may take to answer."""

# Where modules look for a Python that has what they import, after the one that Ansible chose.
INTERPRETERS = ("/opt/virt-storage/venv/bin/python", "/usr/bin/python3", "/usr/libexec/platform-python")
INSPECTION = "oslo_utils.imageutils.format_inspector"
CONFIG_DISKS = "pycdlib"
CEPH = ("rados", "rbd")
OTHERS = ("logical", "rbd")
"""The types of pools that have no folder."""
LVMLOCKD = "/run/lvm/lvmlockd.socket"
KEEP_OUT = "set devices/scan_lvs=0 in /etc/lvm/lvm.conf, or reject them in devices/global_filter"
Pool = Mapping[str, Any]
"""A pool, with what `storage_pool_pools` says of it."""


class Program(NamedTuple):
    """A program that modules start. ``serves`` is the use it is for; without it no use goes without the program. One
    for pools of a ``type`` is needed where such a pool is to be made."""

    name: str
    debian: str
    redhat: str
    serves: str = ""
    type: str = ""


PROGRAMS = (
    Program("qemu-img", "qemu-utils", "qemu-img"),
    Program("chattr", "e2fsprogs", "e2fsprogs"),
    Program("zstd", "zstd", "zstd", "sources compressed with zst"),
    Program("mkfs.ext4", "e2fsprogs", "e2fsprogs", "blank disks with ext4"),
    Program("mkfs.xfs", "xfsprogs", "xfsprogs", "blank disks with xfs"),
    Program("mkfs.vfat", "dosfstools", "dosfstools", "blank disks with vfat"),
    Program("mkswap", "util-linux", "util-linux", "swap disks"),
    Program("mount.nfs", "nfs-common", "nfs-utils", "pools of type netfs", "netfs"),
    Program("lvm", "lvm2", "lvm2", "pools of type logical", "logical"),
)
OLDEST = {"libvirt": (7, 0), "qemu-img": (5, 2), "python": (3, 9)}


class Report:
    """What is told of the host; ``family`` decides whose packages are named."""

    def __init__(self, family: str) -> None:
        self.family = family
        self.problems: list[str] = []
        self.hints: list[str] = []
        self.found: list[str] = []

    def package(self, debian: str, redhat: str) -> str:
        """The name of a package on this host, or on both families where it is of neither."""
        names = {"Debian": debian, "RedHat": redhat}
        return names.get(self.family) or " or ".join(dict.fromkeys((debian, redhat)))


def main(words: Sequence[str]) -> None:
    """Look, and print what was seen."""
    given = json.loads(words[0]) if words else {}
    report = Report(given.get("family", ""))
    wanted = [*given.get("pools", ())]
    types = {pool.get("type", "") for pool in wanted}
    look_at_python(report, types)
    look_at_programs(report, types)
    pools = look_at_libvirt(report)
    known = {pool["name"] for pool in pools}
    pools += [each for each in wanted if each["name"] not in known]
    for pool in pools:
        look_at_pool(report, pool)
    look_at_groups(report, [pool for pool in pools if pool.get("type") == "logical"])
    print(json.dumps({"problems": report.problems, "hints": report.hints, "found": report.found}))


def run(*words: str) -> tuple[int, str]:
    """The exit code of a program and what it printed, errors included; 127 for one that is not there."""
    try:
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={"PATH": PATH, "LC_ALL": "C"},
            timeout=LIMIT,
            check=False,
            text=True,
            errors="replace",
        )
    except FileNotFoundError:
        return 127, ""
    except subprocess.TimeoutExpired:
        return 124, f"{words[0]} gave no answer within {LIMIT} s"
    return done.returncode, done.stdout.strip()


def version_of(text: str) -> tuple[int, ...]:
    """The first version in a text: ``qemu-img version 7.2.17 (Debian ...)`` is (7, 2, 17)."""
    match = re.search(r"\d+(?:\.\d+)+", text)
    return tuple(int(part) for part in match.group().split(".")) if match else ()


def dotted(version: Iterable[int]) -> str:
    """A version as people write it."""
    return ".".join(map(str, version))


def look_at_python(report: Report, types: Collection[str]) -> None:
    """Which interpreters there are, and whether one has the bindings, those of Ceph where a pool of these ``types``
    needs them, and one the inspection besides."""
    has: dict[str, list[str]] = {}
    for interpreter in dict.fromkeys((sys.executable, *INTERPRETERS)):
        if os.path.exists(interpreter):
            wanted = ["libvirt", INSPECTION, CONFIG_DISKS, *CEPH]
            has[interpreter] = [name for name in wanted if run(interpreter, "-c", f"import {name}")[0] == 0]
            version = version_of(run(interpreter, "--version")[1])
            report.found.append(
                f"{interpreter} is Python {dotted(version)} and can import {', '.join(has[interpreter]) or 'nothing'}."
            )
    able = [modules for modules in has.values() if "libvirt" in modules]
    if sys.version_info[:2] < OLDEST["python"]:
        report.problems.append(
            f"Ansible runs modules here with Python {dotted(sys.version_info[:3])}, and they need "
            f"{dotted(OLDEST['python'])} or newer: set ansible_python_interpreter."
        )
    if not able:
        package = report.package("python3-libvirt", "python3-libvirt")
        report.problems.append(f"No Python here can import libvirt: install {package}.")
        return
    if "rbd" in types and not any({*CEPH} <= {*modules} for modules in able):
        report.problems.append(
            "No Python here that can import libvirt can import rados and rbd: install python3-rados and python3-rbd."
        )
    role = "let the role virt.storage.storage_pool make its virtual environment"
    if not any(INSPECTION in modules for modules in able):
        report.problems.append(
            f"No Python here that can import libvirt can look into images with oslo.utils 7.4 or newer: {role}."
        )
    elif not any({INSPECTION, CONFIG_DISKS} <= set(modules) for modules in able):
        package = report.package("python3-pycdlib", "python3-pycdlib")
        report.hints.append(f"pycdlib is missing, which configuration disks need: install {package}, or {role}.")


def look_at_programs(report: Report, types: Collection[str]) -> None:
    """Which programs are missing, and the versions of those where it matters. Pools of ``types`` are to be made."""
    for program in PROGRAMS:
        if shutil.which(program.name, path=PATH):
            continue
        package = report.package(program.debian, program.redhat)
        if not program.serves or program.type in types:
            report.problems.append(f"{program.name} is missing: install {package}.")
        else:
            report.hints.append(f"{program.name} is missing, which {program.serves} need: install {package}.")
    code, text = run("qemu-img", "--version")
    if code == 0:
        _expect(report, "qemu-img", version_of(text))
    report.found.append(f"The kernel is {os.uname().release}.")


def look_at_libvirt(report: Report) -> list[Pool]:
    """Whether the daemon answers, how old it is, and which pools it has."""
    code, text = run("virsh", "-q", "-c", URI, "uri")
    if code == 127:
        report.problems.append(f"virsh is missing: install {report.package('libvirt-clients', 'libvirt-client')}.")
        return []
    if code != 0:
        service = "libvirtd" if report.family == "Debian" else "virtqemud and virtstoraged"
        package = report.package("libvirt-daemon-system", "libvirt-daemon-driver-qemu")
        reason = (text.splitlines() or ["no reason was given"])[-1]
        report.problems.append(
            f"No libvirt daemon answers at {URI} ({reason}): start {service}, of {package}, and look into its log."
        )
        return []
    _unused, text = run("virsh", "-q", "-c", URI, "version", "--daemon")
    for line in text.splitlines():
        if line.startswith(("Using library", "Running against daemon")):
            _expect(report, "libvirt", version_of(line), line.partition(":")[0].lower())
    if "emulator" in text:
        package = report.package("qemu-system-x86", "qemu-kvm")
        report.hints.append(f"libvirt finds no emulator, which guests need: install for example {package}.")
    pools: list[Pool] = []
    for name in run("virsh", "-q", "-c", URI, "pool-list", "--all", "--name")[1].split("\n"):
        code, xml = run("virsh", "-q", "-c", URI, "pool-dumpxml", "--", name) if name.strip() else (1, "")
        if code == 0:
            pool = ET.fromstring(xml)
            pools.append(
                {
                    "name": name,
                    "type": pool.get("type", ""),
                    "path": pool.findtext("target/path", default=""),
                    "logical": {"group": pool.findtext("source/name")},
                }
            )
    return pools


def _expect(report: Report, what: str, version: tuple[int, ...], how: str = "installed") -> None:
    report.found.append(f"{what} is {dotted(version)} ({how}).")
    if version < OLDEST[what]:
        report.problems.append(f"{what} is {dotted(version)}: {dotted(OLDEST[what])} or newer is needed.")


def look_at_pool(report: Report, pool: Pool) -> None:
    """The file system under a pool: space, mount options, whether it can share extents. Nothing of other pools."""
    if pool.get("type") not in ("dir", "netfs") or not pool.get("path"):
        ours = "it has no folder to look at" if pool.get("type") in OTHERS else "virt.storage leaves it alone"
        report.found.append(f"Pool {pool['name']} is of type {pool.get('type') or 'unknown'}: {ours}.")
        return
    place = pool["path"]
    while not os.path.isdir(place):
        place = os.path.dirname(place)
    kind, options, mount = mount_of(os.path.realpath(place))
    room = os.statvfs(place)
    free, size = room.f_bavail * room.f_frsize, room.f_blocks * room.f_frsize
    if pool["type"] == "netfs" and not kind.startswith("nfs"):
        report.found.append(f"Pool {pool['name']} ({pool['path']}) is not mounted, so that nothing is said of it.")
        return
    shares = "can" if _shares_extents(kind, mount) else "cannot"
    report.found.append(
        f"Pool {pool['name']} ({pool['path']}) is on {kind} mounted at {mount} ({','.join(sorted(options))}), has "
        f"{free / 2**30:.1f} of {size / 2**30:.1f} GiB free, and {shares} share extents (reflink)."
    )
    if "ro" in options:
        report.problems.append(f"The file system of pool {pool['name']} is read-only: remount {mount}.")
    if kind.startswith("nfs"):
        version = next((option.partition("=")[2] for option in options if option.startswith("vers=")), "unknown")
        if version not in ("4.1", "4.2"):
            report.problems.append(f"{mount} is mounted with NFS {version}: pool {pool['name']} needs 4.1 or 4.2.")
        if "nocto" in options:
            report.problems.append(f"{mount} is mounted with nocto, which no pool can be: remount it without.")


def look_at_groups(report: Report, pools: Sequence[Pool]) -> None:
    """What LVM sees of the volume groups of pools, and whether it keeps out of what guests have in their volumes."""
    if not pools or not shutil.which("lvm", path=PATH):
        return
    groups = _lvm("vgs", "vg_name,vg_lock_type", "--shared", "--foreign")
    seen = {os.path.realpath(device): group for device, group in _lvm("pvs", "pv_name,vg_name", "-a").items()}
    listed = _devices_file()
    if listed:
        report.found.append(f"LVM looks at the devices in {listed}, and at no other.")
    elif _setting("devices/scan_lvs") == "1":
        report.hints.append(
            f"LVM looks into logical volumes, and takes volume groups in them for the host's own: {KEEP_OUT}."
        )
    for pool in pools:
        wanted = pool.get("logical") or {}
        group = wanted.get("group") or pool["name"]
        for volume in sorted(glob.glob(f"/dev/{glob.escape(group)}/*")):
            inner = seen.get(os.path.realpath(volume))
            if inner:
                report.problems.append(
                    f"LVM takes the volume group {inner}, which is in the volume {volume} of pool {pool['name']}, for "
                    f"the host's own: {KEEP_OUT}."
                )
        if group not in groups:
            _look_at_devices(report, pool["name"], group, wanted.get("devices") or (), {*seen} if not listed else None)
        elif groups[group] not in ("", "none") and not os.path.exists(LVMLOCKD):
            report.problems.append(
                f"The volume group {group} of pool {pool['name']} is shared between hosts, and lvmlockd does not run "
                "here, without which hosts destroy each other's volumes: start it."
            )


def _look_at_devices(report: Report, pool: str, group: str, devices: Sequence[str], seen: set[str] | None) -> None:
    """What keeps a volume group from being there; ``seen`` is what LVM can take for it, None for whatever there is."""
    left_out = "devices/filter and devices/global_filter in /etc/lvm/lvm.conf, and the devices file"
    if not devices:
        report.problems.append(
            f"LVM sees no volume group {group}, which pool {pool} is of: say logical.devices to have it made, or look "
            f"whether {left_out} (vgimportdevices {group}), let LVM see its devices."
        )
    for device in devices:
        if not os.path.exists(device):
            report.problems.append(f"There is no device {device}, of which pool {pool} is to be made.")
        elif seen is not None and os.path.realpath(device) not in seen:
            report.problems.append(
                f"LVM passes over {device}, of which pool {pool} is to be made: it is partitioned, or {left_out}, "
                "leave it out."
            )


def _devices_file() -> str:
    """The file with the devices that LVM looks at; empty where it looks at all."""
    path = os.path.join("/etc/lvm/devices", _setting("devices/devicesfile") or "system.devices")
    return path if _setting("devices/use_devicesfile") == "1" and os.path.exists(path) else ""


def _setting(name: str) -> str:
    """What LVM's configuration says, defaults included; empty where this LVM does not know the setting."""
    code, text = run("lvm", "lvmconfig", "--typeconfig", "full", name)
    return text.partition("=")[2].strip('"') if code == 0 else ""


def _lvm(program: str, fields: str, *options: str) -> dict[str, str]:
    """The two ``fields`` that a report of LVM has of each thing."""
    code, text = run("lvm", program, *options, "--noheadings", "--separator", "|", "-o", fields)
    rows = [line.strip().split("|") for line in text.splitlines()] if code == 0 else []
    return {row[0]: row[1] for row in rows if len(row) == 2}


def mount_of(path: str) -> tuple[str, set[str], str]:
    """The type, the options and the mount point of the file system on which ``path`` is."""
    found: tuple[str, set[str], str] = ("unknown", set(), "/")
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            mount, _unused, system = line.rstrip("\n").partition(" - ")
            fields, (kind, _source, options) = mount.split(" "), system.split(" ", 2)
            where = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code.group(1), 8)), fields[4])
            within = path == where or path.startswith(where.rstrip("/") + "/")
            if within and len(where) >= len(found[2]):
                found = (kind, {*fields[5].split(","), *options.split(",")}, where)
    return found


def _shares_extents(kind: str, mount: str) -> bool:
    return kind in ("btrfs", "bcachefs") or (kind == "xfs" and "reflink=1" in run("xfs_info", mount)[1])


if __name__ == "__main__":
    main(sys.argv[1:])
