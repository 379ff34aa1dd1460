# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The example that brings a stopped instance to another host: two libvirtds, each with folders and sockets of its own,
play the two."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import libvirt
import pytest

from .conftest import COLLECTION, TREE, Modules, Place
from .test_guests import EMPTY
from .test_instance_disk import MIB, open_store
from .test_moving import nothing_left, reading, reads_the_same, scribble
from .test_moving_guests import runs_with

OWN = ("run", "etc/libvirt", "var/lib/libvirt", "var/cache/libvirt", "var/log/libvirt")
"""What the other host has for itself."""
MOUNTS = """
set -e
for folder in $FOLDERS; do
  mkdir -p "$BASE/$folder"
  case $folder in etc/*) cp -a "/$folder/." "$BASE/$folder/" ;; esac
  mount --bind "$BASE/$folder" "/$folder"
done
mkdir -p /run/libvirt
exec libvirtd
"""
INSTANCE = f"mig-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def other_host(place: Place) -> Iterator[tuple[Modules, str]]:
    """Runs modules where the second libvirtd is; and the URI under which the first host reaches that."""
    base = place.root / "other"
    environment = {**os.environ, "BASE": str(base), "FOLDERS": " ".join(OWN)}
    argv = ["unshare", "--mount", "--propagation=private", "sh", "-c", MOUNTS]
    with subprocess.Popen(argv, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as daemon:
        try:
            python = place.root / "python"
            python.write_text(f'#!/bin/sh\nexec nsenter --target {daemon.pid} --mount {sys.executable} "$@"\n')
            python.chmod(0o755)
            uri = f"qemu+unix:///system?socket={base}/run/libvirt/libvirt-sock"
            reached(uri)
            yield Modules(python=str(python)), uri
        finally:
            daemon.terminate()


def reached(uri: str) -> None:
    """Wait until a libvirtd answers."""
    end = time.monotonic() + 60
    while True:
        with contextlib.suppress(libvirt.libvirtError):
            libvirt.open(uri).close()
            return
        assert time.monotonic() < end
        time.sleep(0.2)


def migrate(place: Place, pool: str, uri: str, there: Modules) -> subprocess.CompletedProcess[str]:
    """Run the example."""
    hosts = {"one": {"ansible_python_interpreter": there.python}, "two": {"ansible_python_interpreter": sys.executable}}
    for host in hosts.values():
        host["ansible_connection"] = "local"
    inventory = place.root / "inventory.yml"
    inventory.write_text(json.dumps({"all": {"hosts": hosts}}))
    wanted = {"migrate_from": "one", "migrate_to": "two", "migrate_instance": INSTANCE, "migrate_pool": pool}
    wanted.update(migrate_uri=uri, migrate_staging=str(place.root))
    program = Path(sys.executable).with_name("ansible-playbook")
    book = COLLECTION / "docs" / "examples" / "migrate" / "migrate.yml"
    return subprocess.run(
        [program, "-i", inventory, "-e", json.dumps(wanted), book],
        env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(TREE), "ANSIBLE_HOME": str(place.root / "ansible")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_a_stopped_instance_goes_to_another_host_with_its_disk_and_definition(
    task: Modules, place: Place, other_host: tuple[Modules, str], libvirtd: libvirt.virConnect
) -> None:
    there, uri = other_host
    store = open_store(there, place)
    (disk,) = store.make({"instance": INSTANCE, "image": "base", "size": str(64 * MIB)})
    scribble(disk)
    expected = reading(disk, place.root)
    second = libvirt.open(uri)
    second.defineXML(EMPTY.format(name=INSTANCE, disks=disk["xml"]))
    here = str(place.root / "here")
    task("libvirt_pool", type="dir", name=store.name, path=here)

    done = migrate(place, "missing", uri, there)
    assert done.returncode != 0
    assert there("instance_disk_info", pools=[store.name])["disks"][0]["id"] == disk["id"]

    done = migrate(place, store.name, uri, there)
    assert done.returncode == 0, done.stdout + done.stderr
    (moved,) = task("instance_disk_info", pools=[store.name])["disks"]
    assert (moved["instance"], moved["size"]) == (INSTANCE, 64 * MIB)
    assert moved["path"].startswith(here)
    reads_the_same(moved, expected)
    nothing_left(store, disk)
    assert INSTANCE not in [domain.name() for domain in second.listAllDomains(0)]
    domain = libvirtd.lookupByName(INSTANCE)
    try:
        (element,) = ElementTree.fromstring(domain.XMLDesc(0)).iterfind("./devices/disk")
        domain.create()
        runs_with(domain, moved)
        assert element.find("target").get("dev") == "vda"  # type: ignore[union-attr]
    finally:
        if domain.isActive():
            domain.destroy()
        domain.undefine()
    second.close()
