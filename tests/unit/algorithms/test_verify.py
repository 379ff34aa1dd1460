# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The names that verify goes by, what a look that fails is to it, and that every check it can report is documented."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import yaml

from ansible_collections.virt.storage.plugins.module_utils._algorithms.pool import Pool
from ansible_collections.virt.storage.plugins.module_utils._algorithms.verify import (
    CHECKS,
    REPORTS,
    Finding,
    id_in,
    is_exposed,
    verify,
)
from ansible_collections.virt.storage.plugins.module_utils._backends.contract import Stat
from ansible_collections.virt.storage.plugins.module_utils._backends.file import CAPABILITIES, PRIVATE, FileVolumes
from ansible_collections.virt.storage.plugins.module_utils._backends.perform import Parts, Performer
from ansible_collections.virt.storage.plugins.module_utils._ground.command import Runner
from ansible_collections.virt.storage.plugins.module_utils._ground.drive import drive_one
from ansible_collections.virt.storage.plugins.module_utils._records.folder import FolderStore
from ansible_collections.virt.storage.plugins.module_utils._records.types import Disk, Image, State, Volume
from ansible_collections.virt.storage.plugins.modules import disk_metadata

DISK, IMAGE = "web1+root+aaaaaaaaaaaa", "image+base+0123456789abcdef+aaaaaaaaaaaa"


@pytest.mark.parametrize(
    ("name", "id"),
    [
        (f"{DISK}.qcow2", DISK),
        (f".virt-storage/disks/{DISK}.raw", DISK),
        (f".virt-storage/images/{IMAGE}.raw", IMAGE),
        (f"{DISK}.raw", ""),
        (f"{DISK}.qcow2.bak", ""),
        (f"x/{DISK}.qcow2", ""),
        ("old.qcow2", ""),
        (".qcow2", ""),
        ("", ""),
    ],
)
def test_the_id_for_which_a_volume_was_named(name, id):
    assert id_in(CAPABILITIES, name) == id


def test_a_raw_disk_is_exposed_where_libvirt_refreshes():
    assert is_exposed(CAPABILITIES, "old.img")
    assert not is_exposed(CAPABILITIES, f".virt-storage/disks/{DISK}.raw")


def test_reports_are_no_faults():
    assert {code for code in CHECKS if not Finding(code, "").fails} == REPORTS


def test_every_check_is_documented():
    documented = yaml.safe_load(disk_metadata.DOCUMENTATION)["options"]["state"]["description"]
    assert [code for code in CHECKS if f"C({code})" not in " ".join(documented)] == []


class FailingImage(FileVolumes):
    """A pool whose storage fails where an image is."""

    def stat(self, volume: Volume) -> Stat | None:
        if volume.name == CAPABILITIES.image_volume(IMAGE).name:
            raise OSError(errno.EIO, os.strerror(errno.EIO), volume.name)
        return super().stat(volume)


@pytest.mark.parametrize(("kind", "expected"), [(FailingImage, "backing_unseen"), (FileVolumes, "backing_missing")])
def test_an_image_at_which_a_look_fails_is_not_missing(tmp_path: Path, kind, expected):
    store, volumes = FolderStore.make(str(tmp_path / PRIVATE)), kind(str(tmp_path), Runner())
    volumes.prepare()
    image, disk = CAPABILITIES.image_volume(IMAGE), CAPABILITIES.disk_volume(DISK, "raw")
    (tmp_path / disk.name).write_bytes(b"x")
    store.create(Image(IMAGE, "key", "base", "/source", image, "2026", "owner+x"), State.READY)
    store.create(Disk(DISK, "web1", "root", 512, disk, "2026", "owner+x", IMAGE), State.READY)
    store.refer(IMAGE, DISK)
    pool, performer = Pool("p", CAPABILITIES, "owner+x"), Performer({"p": Parts(store, volumes)}, write=False)
    (found,) = (each for each in drive_one(verify(pool), performer) if each.id == DISK)
    assert (found.problem, found.volume, found.fails) == (expected, disk.name, True)
    if expected == "backing_unseen":
        assert found.message == (
            f"The disk {DISK} needs the image {IMAGE}, whose volume {image} cannot be looked at: Reading or writing "
            f"{image} failed: check the storage under it (see the kernel's log)."
        )
