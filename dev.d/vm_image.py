# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a test machine boots from: a root image (slow to make, kept) and an initramfs (quick, made when a file changed).

The root image holds Debian packages and Python packages, nothing of this repository. The files of ``tests/bed/root``
travel in the initramfs, which lays them over the root at every boot: editing them costs a second, not a new image.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from common import ROOT, WORK, Trouble, apt_install, only_one, run, say, venv

BED = ROOT / "tests" / "bed"
CACHE = WORK / "vm"
"""Everything about the machines: images, downloads, keys, and a folder for each machine that runs."""

SUITE = "bookworm"
PYTHON = "3.11"
"""The Python that ``SUITE`` ships; Python packages are chosen for it, whatever runs this program."""
BOOT_MODULES = ("virtio_pci", "virtio_blk", "crc32c_generic", "ext4")
"""Kernel modules that ``tests/bed/initramfs`` loads before it can mount the root, unless they are built in."""
ROOT_SIZE = "8G"
BUILD_TOOLS = ("cpio", "debootstrap", "e2fsprogs", "kmod", "openssh-client", "qemu-system-x86", "qemu-utils")
LONGEST_STEP = 1200
"""Seconds that one step of a build may take; debootstrap on a slow network is the longest."""


@dataclass(frozen=True)
class Image:
    """The files that ``qemu-system-x86_64`` starts a machine from."""

    kernel: Path
    initramfs: Path
    root: Path


def build() -> Image:
    """Make what is missing and return it. The first time needs root, the network and two to four minutes."""
    with only_one("vm-build"):
        folder = CACHE / f"image-{_digest(_root_inputs())}"
        if not folder.exists():
            say("building the root image of the test machines: two to four minutes, once")
            apt_install(BUILD_TOOLS)
            _build_root(folder)
            for old in set(CACHE.glob("image-*")) - {folder}:
                run(["rm", "-rf", old], root=True)
        initramfs = folder / f"initramfs-{_digest(_initramfs_inputs())}"
        if not initramfs.exists():
            _build_initramfs(folder, initramfs)
        return Image(folder / "vmlinuz", initramfs, folder / "root.ext4")


def keys() -> Path:
    """The folder with the ssh keys of the bed, made at first use: ``client`` for us, ``host`` for every machine."""
    folder = CACHE / "keys"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("client", "host"):
        if not (folder / name).exists():
            run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"test-bed-{name}", "-f", folder / name])
    return folder


def _root_inputs() -> list[Path]:
    return [Path(__file__), BED / "packages.txt", BED / "requirements.txt"]


def _initramfs_inputs() -> list[Path]:
    overlay = [path for path in sorted((BED / "root").rglob("*")) if path.is_file()]
    return [BED / "initramfs", *overlay, *sorted(keys().glob("*.pub"))]


def _digest(files: list[Path]) -> str:
    """Sixteen hex digits that change when the name, mode or content of a file does."""
    digest = hashlib.sha256()
    for path in files:
        facts = path.stat()
        digest.update(f"{path.relative_to(ROOT)} {facts.st_mode:o} {facts.st_size}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _build_root(folder: Path) -> None:
    """Install everything into a tree, turn the tree into an ext4 image; ``folder`` appears only when complete."""
    partial = folder.with_suffix(".partial")
    run(["rm", "-rf", partial], root=True)
    partial.mkdir(parents=True)
    downloads = CACHE / "downloads"
    downloads.mkdir(exist_ok=True)
    tree = partial / "tree"

    packages = _lines(BED / "packages.txt")
    debootstrap = ["debootstrap", "--variant=minbase", f"--cache-dir={downloads}", f"--include={','.join(packages)}"]
    run([*debootstrap, SUITE, tree, _mirror()], root=True, capture=True, timeout=LONGEST_STEP)
    version = _install_kernel(partial, tree, downloads)
    _install_python_packages(tree)
    _keep_for_initramfs(tree, tree / "lib/modules" / version, partial / "boot")
    image = partial / "root.ext4"
    image.touch()
    run(["mkfs.ext4", "-q", "-J", "size=16", "-d", tree, image, ROOT_SIZE], root=True, timeout=LONGEST_STEP)
    run(["rm", "-rf", tree], root=True)
    partial.rename(folder)


def _lines(path: Path) -> list[str]:
    return [line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]


def _mirror() -> str:
    """Where this host gets its own Debian packages from."""
    query = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", f"Codename: {SUITE}"]
    found = run(query, capture=True).stdout.split()
    if not found:
        raise Trouble(f"apt knows no source for Debian {SUITE}, which the test machines consist of: add one.")
    return found[0]


def _install_kernel(partial: Path, tree: Path, downloads: Path) -> str:
    """Unpack the newest kernel for clouds and return its version.

    That flavour has NFS, the device mapper and virtio, and none of the drivers for real hardware.
    """
    depends = run(["apt-cache", "depends", "--important", "linux-image-cloud-amd64"], capture=True).stdout.split()
    package = next(word for word in depends if word.startswith("linux-image-") and word != "linux-image-cloud-amd64")
    run(["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", package], cwd=downloads)
    newest = max(downloads.glob(f"{package}_*.deb"), key=lambda path: path.stat().st_mtime)
    # Not straight into the tree: there /lib is a symbolic link, which unpacking would replace by a folder.
    unpacked = partial / "kernel"
    run(["dpkg-deb", "--extract", newest, unpacked])
    version = package.removeprefix("linux-image-")
    shutil.copy(unpacked / f"boot/vmlinuz-{version}", partial / "vmlinuz")
    run(["cp", "-r", unpacked / "lib/modules", tree / "usr/lib/"], root=True)
    run(["depmod", "--basedir", tree, version], root=True)
    shutil.rmtree(unpacked)
    return version


def _install_python_packages(tree: Path) -> None:
    """Put wheels into the folder where Debian's python3 looks for packages that were added locally."""
    target: Path = tree / "usr/local/lib" / f"python{PYTHON}" / "dist-packages"
    platforms = [f"--platform=manylinux{tag}_x86_64" for tag in ("2014", "_2_28", "_2_34")]
    pip: list[str | Path] = [
        venv(),
        "-m",
        "pip",
        "install",
        "-qq",
        "--no-input",
        "--disable-pip-version-check",
        "--no-deps",
    ]
    wheels: list[str | Path] = ["--target", target, "--python-version", PYTHON, "--only-binary=:all:", *platforms]
    run([*pip, *wheels, "--requirement", BED / "requirements.txt"], root=True, capture=True, timeout=LONGEST_STEP)


def _keep_for_initramfs(tree: Path, modules: Path, boot: Path) -> None:
    """Set busybox and ``BOOT_MODULES`` aside, so that an initramfs can be made when the tree is gone."""
    (boot / "bin").mkdir(parents=True)
    shutil.copy(tree / "bin/busybox", boot / "bin/busybox")
    (boot / "bin/sh").symlink_to("busybox")
    kept = boot / "lib/modules" / modules.name
    kept.mkdir(parents=True)
    shutil.copy(modules / "modules.dep", kept)
    for line in (modules / "modules.dep").read_text(encoding="ascii").splitlines():
        module, needed = line.split(":", 1)
        if Path(module).name.split(".")[0].replace("-", "_") in BOOT_MODULES:
            for each in [module, *needed.split()]:
                (kept / each).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(modules / each, kept / each)


def _build_initramfs(folder: Path, initramfs: Path) -> None:
    """Pack the boot files, ``tests/bed/initramfs`` as the first program, and the overlay with the ssh keys."""
    for old in folder.glob("initramfs-*"):
        old.unlink()
    stage = folder / "stage"
    shutil.rmtree(stage, ignore_errors=True)
    shutil.copytree(folder / "boot", stage, symlinks=True)
    shutil.copy(BED / "initramfs", stage / "init")
    overlay = stage / "overlay"
    shutil.copytree(BED / "root", overlay)
    (overlay / "root/.ssh").mkdir(parents=True)
    shutil.copy(keys() / "client.pub", overlay / "root/.ssh/authorized_keys")
    for suffix in ("", ".pub"):
        shutil.copy(keys() / f"host{suffix}", overlay / f"etc/ssh/ssh_host_ed25519_key{suffix}")

    paths = sorted(stage.rglob("*"))
    for path in paths:
        if path.is_dir():
            # Laid over the root, the folders of a checkout must not bring that user's umask along.
            path.chmod(0o755)
    partial = folder / "initramfs.partial"
    names = "".join(f"{path.relative_to(stage)}\n" for path in paths)
    with open(partial, "wb") as archive:
        pack = ["cpio", "--quiet", "--create", "--format=newc", "--owner=0:0"]
        subprocess.run(pack, cwd=stage, input=names.encode(), stdout=archive, check=True, timeout=60)
    partial.rename(initramfs)
    shutil.rmtree(stage)
