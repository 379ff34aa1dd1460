# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Reading what a qcow2 disk has, and giving it to another, against what qemu says of both."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.virt.storage.plugins.module_utils._ground.command import Runner
from ansible_collections.virt.storage.plugins.module_utils._ground.contents import FileSink, Means
from ansible_collections.virt.storage.plugins.module_utils._ground.disk_data import (
    DiskData,
    keep_still,
    own_data,
    qcow2_disk,
)
from ansible_collections.virt.storage.plugins.module_utils._ground.errors import InUse, LostMetadata, StorageError
from ansible_collections.virt.storage.plugins.module_utils._ground.intake import Staging
from ansible_collections.virt.storage.plugins.module_utils._ground.ops import Facts
from ansible_collections.virt.storage.plugins.module_utils._ground.qcow2 import overlay_image, write_pieces
from ansible_collections.virt.storage.plugins.module_utils._ground.qcow2_clusters import OverlaySink

MIB = 1 << 20
IMAGE = 8 * MIB + 3 * 4096
MEANS = Means(Runner(), Staging("/nowhere", 0), lambda: None, ())


@contextlib.contextmanager
def opened(path: Path, flags: int = os.O_RDONLY) -> Iterator[int]:
    descriptor = os.open(path, flags, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def qemu(*argv: str, commands: str = "") -> str:
    done = subprocess.run(argv, input=commands, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An image with holes, whose last cluster is cut."""
    path, chance = tmp_path / "image.raw", random.Random(1)
    with path.open("wb") as file:
        file.truncate(IMAGE)
        for offset, length in ((0, 300_000), (MIB, 300_000), (5 * MIB + 777, 300_000), (8 * MIB, 3 * 4096)):
            file.seek(offset)
            file.write(chance.randbytes(length))
    return path


def made(image: Path, size: int, cluster: int) -> Path:
    """A disk over the image, written to here and there."""
    path, chance = image.with_name("disk.qcow2"), random.Random(size + cluster)
    qemu("qemu-img", "create", "-q", "-f", "qcow2", "-o", f"cluster_size={cluster}", "-b", str(image), "-F", "raw",
         str(path), str(size))  # fmt: skip
    commands = ""
    for _unused in range(30):
        offset = chance.randrange(0, size - 512) // 512 * 512
        length = min(size - offset, chance.choice([512, 4096, 65536, 130048, 300032]))
        what = chance.choice([f"write -q -P {chance.randrange(1, 255)}", "write -q -z", "discard -q"])
        commands += f"{what} {offset} {length}\n"
    qemu("qemu-io", "-f", "qcow2", str(path), commands=commands)
    return path


def patched(disk: Path, image: Path, size: int) -> tuple[Path, Facts]:
    """A fresh overlay that got what the disk has of its own."""
    path = disk.with_name("copy.qcow2")
    with opened(path, os.O_RDWR | os.O_CREAT) as fd, opened(image) as below, opened(disk) as source:
        write_pieces(fd, overlay_image(size, f"./{image.name}"))
        reader = own_data(source, "The disk")
        facts = DiskData(lambda: contextlib.nullcontext(reader)).pour([OverlaySink(fd, "The copy", below)], MEANS)
        assert facts["bytes_read"] == facts["bytes_written"] == reader.amount()
    return path, facts


@pytest.mark.parametrize("cluster", [512, 4096, 65536, 2 * MIB])
@pytest.mark.parametrize("size", [16 * MIB, IMAGE, 40 * MIB + 512])
def test_an_overlay_gets_what_another_has_of_its_own(image: Path, size: int, cluster: int) -> None:
    disk = made(image, size, cluster)
    copy, _facts = patched(disk, image, size)
    qemu("qemu-img", "check", "-q", "-f", "qcow2", str(copy))
    qemu("qemu-img", "compare", "-q", "-f", "qcow2", "-F", "qcow2", str(disk), str(copy))
    commands = f"write -q -P 7 0 {size // 2 // 512 * 512}\n"
    for path in (disk, copy):  # qemu takes new clusters where it takes the others to be
        qemu("qemu-io", "-f", "qcow2", str(path), commands=commands)
    qemu("qemu-img", "check", "-q", "-f", "qcow2", str(copy))
    qemu("qemu-img", "compare", "-q", "-f", "qcow2", "-F", "qcow2", str(disk), str(copy))


@pytest.mark.parametrize("cluster", [512, 65536, 2 * MIB])
def test_all_that_a_guest_reads_of_a_disk(image: Path, cluster: int) -> None:
    disk = made(image, 16 * MIB, cluster)
    copy = image.with_name("copy.raw")
    with opened(disk) as fd, opened(image) as below, opened(copy, os.O_RDWR | os.O_CREAT) as target:
        reader = qcow2_disk(fd, "The disk", below)
        facts = DiskData(lambda: contextlib.nullcontext(reader)).pour([FileSink(target, str(copy))], MEANS)
        assert facts["bytes_read"] == reader.amount() < 16 * MIB
    qemu("qemu-img", "compare", "-q", "-f", "qcow2", "-F", "raw", str(disk), str(copy))


def test_what_only_qemu_reads_is_refused(image: Path) -> None:
    disk = image.with_name("compressed.qcow2")
    qemu("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", str(image), str(disk))
    with opened(disk) as fd, pytest.raises(StorageError, match="compressed clusters"):
        own_data(fd, "The disk")


def test_snapshots_in_a_disk_are_not_left_behind(image: Path) -> None:
    disk = made(image, 16 * MIB, 65536)
    qemu("qemu-img", "snapshot", "-c", "before the upgrade", str(disk))
    with opened(disk) as fd, opened(image) as below:
        for read in (lambda: own_data(fd, "The disk"), lambda: qcow2_disk(fd, "The disk", below)):
            with pytest.raises(StorageError, match=r"snapshots of its guest in it \(1\), which would be lost"):
                read()
    qemu("qemu-img", "snapshot", "-d", "before the upgrade", str(disk))
    with opened(disk) as fd:
        assert own_data(fd, "The disk").amount()


def test_tables_that_point_out_of_the_file_are_not_followed(image: Path) -> None:
    disk = made(image, 16 * MIB, 65536)
    os.truncate(disk, os.stat(disk).st_size // 2 // 65536 * 65536)
    with opened(disk) as fd, pytest.raises(LostMetadata, match="point out of it"):
        own_data(fd, "The disk")


def test_a_disk_that_is_read_is_kept_from_qemu_and_one_that_qemu_has_is_not_read(image: Path) -> None:
    disk = made(image, 16 * MIB, 65536)
    write = ["qemu-io", "-f", "qcow2", "-c", "write -q 0 512", str(disk)]
    with opened(disk) as fd:
        keep_still(fd, "The disk")
        done = subprocess.run(write, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode != 0
        assert "lock" in done.stderr
    subprocess.run(write, check=True, timeout=60)
    with subprocess.Popen([*write[:3], str(disk)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("write 0 512\n")
        process.stdin.flush()
        assert "wrote" in process.stdout.readline()
        with opened(disk) as fd, pytest.raises(InUse, match=r"may write to it|locks it"):
            keep_still(fd, "The disk")
        process.stdin.close()
