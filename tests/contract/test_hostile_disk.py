# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A guest writes a qcow2 header into its raw disk, which names a file of the host. Nothing that is done to the disk
opens that file: seen from outside, by tracing every process that works on it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .beds import MIB, FileBed, child_env, program
from .test_volumes import recorded

TRACE = ("strace", "-f", "-qq", "-s", "4096", "-e", "trace=%file")


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[FileBed]:
    bed = FileBed(str(tmp_path / "pool"))
    yield bed
    bed.destroy()


def traced(trace: Path, *argv: str) -> tuple[list[str], str]:
    """Run a program with all that it starts; what it says, and every call on a file."""
    done = subprocess.run(
        [*TRACE, "-o", str(trace), *argv], capture_output=True, text=True, timeout=120, check=False, env=child_env()
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), trace.read_text(errors="replace")


def touch(pool: FileBed, name: str, format: str, trace: Path) -> tuple[dict[str, str], str]:
    """Do everything to a volume, traced."""
    actor = [sys.executable, "-m", f"{__package__}.actor", pool.address, "touch", name, format]
    said, calls = traced(trace, *actor)
    return dict(line.split(": ", 1) for line in said), calls


def header(folder: Path, *options: str) -> bytes:
    """A whole qcow2 file of 1 MiB, made without looking at what it names."""
    path = folder / "header.qcow2"
    program("qemu-img", "create", "-q", "-f", "qcow2", *options, str(path), "1M")
    return path.read_bytes()


def backing(name: str) -> tuple[str, ...]:
    return ("-u", "-F", "raw", "-b", name)


@pytest.mark.parametrize("kind", ["shadow", "device", "file", "protocol", "data file"])
def test_a_header_that_a_guest_wrote_is_data(pool: FileBed, kind: str, tmp_path: Path) -> None:
    decoy = tmp_path / "decoy"
    decoy.write_bytes(b"secret" * 1000)
    victim = {"shadow": "/etc/shadow", "device": "/dev/full"}.get(kind, str(decoy))
    if kind == "protocol":
        written = header(tmp_path, *backing("json:" + json.dumps({"driver": "raw", "file.filename": victim})))
    elif kind == "data file":
        written = header(tmp_path, "-o", f"data_file={tmp_path / 'decoy'}")
        decoy.write_bytes(b"secret" * 1000)
    else:
        written = header(tmp_path, *backing(victim))
    disk = pool.disk(format="raw", size=4 * MIB)
    volume = recorded(pool, disk)
    pool.do(pool.volumes.allocate(volume, disk.size))
    with open(pool.at(volume)[1], "r+b") as file:
        file.write(written)
    said, calls = touch(pool, volume.name, "raw", tmp_path / "trace")
    assert f'{volume.name}"' in calls, "the trace shows nothing"
    assert "qemu-img" in calls
    assert f'"{victim}"' not in calls
    assert said["pointer"] == "None"
    assert "done" in said["grow"]
    assert "already" in said["flatten"]
    assert "done" in said["remove"]
    assert not os.path.exists(pool.at(volume)[1])


@pytest.mark.parametrize("options", [("-F", "raw"), ("-F", "qcow2")], ids=" ".join)
def test_a_disk_that_is_qcow2_is_not_followed_out_of_the_pool(
    pool: FileBed, options: tuple[str, ...], tmp_path: Path
) -> None:
    decoy = tmp_path / "decoy"
    decoy.write_bytes(b"secret" * 1000)
    volume = recorded(pool, pool.disk(format="qcow2"))
    path = pool.at(volume)[1]
    program("qemu-img", "create", "-q", "-f", "qcow2", "-u", *options, "-b", str(decoy), path, "1M")
    said, calls = touch(pool, volume.name, "qcow2", tmp_path / "trace")
    assert f'"{decoy}"' not in calls
    assert said["pointer"] == str(decoy)
    assert said["grow"].startswith("LostMetadata")
    assert said["flatten"].startswith("LostMetadata")


def test_the_trace_would_show_it(pool: FileBed, tmp_path: Path) -> None:
    """What qemu does when it is told to look: the check above can fail."""
    decoy = tmp_path / "decoy"
    decoy.write_bytes(b"secret" * 1000)
    path = tmp_path / "overlay"
    path.write_bytes(header(tmp_path, *backing(str(decoy))))
    _said, calls = traced(tmp_path / "trace", "qemu-io", "-r", "-f", "qcow2", "-c", "read 0 512", str(path))
    assert f'"{decoy}"' in calls
