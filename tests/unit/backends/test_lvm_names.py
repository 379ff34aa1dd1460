# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Names, tags and sizes of logical volumes, which need no LVM."""

from __future__ import annotations

import json
import re
import subprocess

import pytest

from ansible_collections.virt.storage.plugins.module_utils._algorithms.verify import id_in
from ansible_collections.virt.storage.plugins.module_utils._backends.lvm_group import pool_sizes
from ansible_collections.virt.storage.plugins.module_utils._backends.lvm_names import (
    RECORDS,
    exact_size,
    is_volume,
    lv_name,
    size_tag,
    stale_size_tag,
    tags_for,
    volume_name,
)
from ansible_collections.virt.storage.plugins.module_utils._backends.lvm_thick import RESERVE, ThickVolumes, most_bytes
from ansible_collections.virt.storage.plugins.module_utils._backends.lvm_thin import ThinVolumes
from ansible_collections.virt.storage.plugins.module_utils._ground.errors import LostMetadata
from ansible_collections.virt.storage.plugins.module_utils._ground.lvm import LogicalVolume
from ansible_collections.virt.storage.plugins.module_utils._records.types import disk_id, image_id

MIB, GIB, TIB = 1 << 20, 1 << 30, 1 << 40
SUFFIX = "k7d2m4q9xa3e"


def lv(name: str, *tags: str, size: int = 12 * MIB, layout: str = "linear") -> LogicalVolume:
    return LogicalVolume(
        uuid="u",
        name=name,
        size=size,
        layout=frozenset(layout.split(",")),
        tags=frozenset(tags),
        read_only=False,
        active=True,
        open=False,
        zeroes=False,
        number=1,
        made=0,
        origin="",
        pool="",
        data_percent=0,
        metadata_percent=0,
        health="",
        check_needed=False,
    )


@pytest.mark.parametrize("group", ["vg0", "a-b-c-d", "g" * 67])
@pytest.mark.parametrize(
    "instance",
    ["web1", "snapshot", "pvmove0", "a_tdata", "x_mlog9", "-".join("a" * 32), "i" * 64, "a.b", "b_cmeta", "0_vorigin"],
)
def test_every_id_has_a_name_that_lvm_and_the_device_mapper_can_have(instance: str, group: str) -> None:
    for record_id in (disk_id(instance, "root", SUFFIX), image_id(instance, "sha256:x", SUFFIX)):
        for capabilities in (ThinVolumes.CAPABILITIES, ThickVolumes.CAPABILITIES):
            image = record_id.startswith("image+")
            volume = capabilities.image_volume(record_id) if image else capabilities.disk_volume(record_id, "raw")
            name = lv_name(volume.name, group)
            assert re.fullmatch(r"[a-zA-Z0-9+_.][a-zA-Z0-9+_.-]*", name)
            assert not re.match(r"snapshot|pvmove", name)
            assert not re.search(r"_(tdata|tmeta|mlog|mimage|rimage|rmeta|cdata|cmeta|corig|vorigin|pmspare)", name)
            mapped = f"{group.replace('-', '--')}-{name.replace('-', '--')}-tpool"
            assert len(mapped) <= 127
            assert volume_name(lv(name, *tags_for(volume.name, group))) == volume.name
            assert id_in(capabilities, volume.name) == record_id


def test_a_name_that_follows_is_told_by_a_tag_and_no_other() -> None:
    assert tags_for("disk+web1+root+x", "vg0") == ["virt-storage"]
    (short, long) = tags_for("disk+a_tdata+root+x", "vg0")
    assert short == "virt-storage"
    assert long.endswith("disk+a_tdata+root+x")
    assert lv_name("disk+a_tdata+root+x", "vg0") != lv_name("disk+a_tmeta+root+x", "vg0")


@pytest.mark.parametrize("name", ["", "a/b", "../x", "a b", "a\0b", "é", "x" * 128])
def test_a_record_with_a_name_that_no_volume_of_ours_has_is_lost_metadata(name: str) -> None:
    with pytest.raises(LostMetadata):
        lv_name(name, "vg0")


def test_an_image_ends_where_its_tag_says_within_the_last_extent_only() -> None:
    extent = 4 * MIB
    assert exact_size(lv("a", size_tag(9 * MIB)), extent) == 9 * MIB
    assert exact_size(lv("a"), extent) == 12 * MIB
    for stale in (8 * MIB, 13 * MIB, 1):
        assert exact_size(lv("a", size_tag(stale)), extent) == 12 * MIB
    assert exact_size(lv("a", "virt-storage:size=x"), extent) == 12 * MIB
    assert stale_size_tag(lv("a", "virt-storage", size_tag(5))) == size_tag(5)
    assert stale_size_tag(lv("a", "virt-storage")) == ""


def test_pools_and_what_is_only_ours_are_no_volumes() -> None:
    assert is_volume(lv("root"))
    assert is_volume(lv("d", layout="thin,sparse"))
    assert not is_volume(lv("p", layout="thin,pool"))
    assert not is_volume(lv(RECORDS))
    assert not is_volume(lv(RECORDS + "+abc"))
    assert not is_volume(lv("virt-storage-spare+abc"))


@pytest.mark.parametrize("size", [1, 512, MIB, 512 * MIB, 512 * MIB + 1, GIB, 2 * GIB + 7, 100 * GIB, TIB, 15 * TIB])
def test_a_qcow2_volume_has_room_for_every_cluster_and_table(size: int) -> None:
    """As qemu itself reckons, and hardly more."""
    argv = ["qemu-img", "measure", "--output", "json", "-O", "qcow2", "--size", str(size)]
    done = subprocess.run(argv, capture_output=True, check=True, text=True, timeout=30)
    needed = json.loads(done.stdout)["fully-allocated"]
    assert needed <= most_bytes(size) - RESERVE <= needed + 2 * MIB + needed // 1000


@pytest.mark.parametrize(("cluster", "refcount_bits"), [(512, 64), (4096, 1), (65536, 64), (2 * MIB, 16)])
def test_a_qcow2_volume_that_was_made_elsewhere_has_tables_of_other_sizes(cluster: int, refcount_bits: int) -> None:
    options = f"cluster_size={cluster},refcount_bits={refcount_bits}"
    argv = ["qemu-img", "measure", "--output", "json", "-O", "qcow2", "-o", options, "--size", str(GIB)]
    done = subprocess.run(argv, capture_output=True, check=True, text=True, timeout=30)
    needed = json.loads(done.stdout)["fully-allocated"]
    most = most_bytes(GIB, cluster, refcount_bits=refcount_bits) - RESERVE
    assert needed <= most <= needed + 8 * MIB + needed // 100


@pytest.mark.parametrize("free", [GIB, 16 * GIB, TIB, 60 * TIB, 1000 * TIB])
def test_a_thin_pool_leaves_room_for_its_metadata_twice_and_the_records(free: int) -> None:
    data, metadata, chunk = pool_sizes(free, 4 * MIB)
    assert data + 2 * metadata + 256 * MIB <= free
    assert data > free // 2
    assert data % (4 * MIB) == metadata % (4 * MIB) == 0
    assert 64 * MIB <= metadata < 16 * GIB
    assert data // chunk * 64 <= metadata
    assert 64 << 10 <= chunk <= GIB
