# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Fixtures: a bed for a test, and the releases of Nova whose code makes layouts."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest
from crash.tally import Tally

from .bed import Bed

collect_ignore = ["inside"]
REPOSITORY = Path(__file__).resolve().parents[2]
RELEASES = {
    "20.6.1": ("oslo.db<9", "SQLAlchemy<1.4", "oslo.utils<5", "oslo.versionedobjects<3", "oslo.messaging<13"),
    "31.3.1": (),
}
"""Releases of Nova, one of 2020 and one of 2025, and what has to be older than today's to go with them."""


@pytest.fixture(scope="session")
def libvirtd() -> Iterator[libvirt.virConnect]:
    libvirt.registerErrorHandler(lambda _context, _error: None, None)
    connection = libvirt.open("qemu:///system")
    yield connection
    connection.close()


@pytest.fixture(scope="session")
def tally(request: pytest.FixtureRequest) -> Iterator[Tally]:
    """To be told of every kill after which a conversion came to its end."""
    counted = Tally()
    yield counted
    if not request.session.testsfailed:
        counted.keep(REPOSITORY / ".work" / "results" / "kills-conversion.json")


@pytest.fixture
def bed(libvirtd: libvirt.virConnect) -> Iterator[Bed]:
    """On a disk, in a folder that a guest's qemu may pass through."""
    root = Path(tempfile.mkdtemp(prefix="vst-", dir="/var/tmp"))
    root.chmod(0o711)
    made = Bed(root, libvirtd)
    yield made
    made.remove()


@pytest.fixture(scope="session", params=sorted(RELEASES))
def release(request: pytest.FixtureRequest) -> str:
    """A release of Nova, installed into an environment of its own when it is wanted first."""
    version: str = request.param
    install(version)
    return version


def python_of(version: str) -> Path:
    """The Python that has this release."""
    return REPOSITORY / ".work" / "nova" / version / "bin" / "python"


def install(version: str) -> None:
    """Have a release of Nova."""
    folder = python_of(version).parents[1]
    if (folder / "complete").exists():
        return
    subprocess.run(["/usr/bin/python3", "-m", "venv", "--clear", "--system-site-packages", folder], check=True)
    # The distribution's own pyOpenSSL and cryptography clash with what is installed beside them.
    for words in ((f"nova=={version}", "setuptools<66", *RELEASES[version]), ("-U", "pyOpenSSL", "cryptography")):
        subprocess.run([python_of(version), "-m", "pip", "install", "-q", *words], check=True, timeout=600)
    (folder / "complete").touch()


@pytest.fixture
def nova(release: str) -> Callable[[dict[str, Any]], list[dict[str, str]]]:
    """``nova(wish)`` makes a layout with Nova's own code, see ``make_layout.py``; gives the disks that it made."""

    def make(wish: dict[str, Any]) -> list[dict[str, str]]:
        done = subprocess.run(
            [python_of(release), "-W", "ignore", Path(__file__).with_name("make_layout.py")],
            input=json.dumps(wish),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            env={**os.environ, "PYTHONPATH": ""},
        )
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout.splitlines()[-1])
        assert said["version"] == release
        disks: list[dict[str, str]] = said["disks"]
        return disks

    return make
