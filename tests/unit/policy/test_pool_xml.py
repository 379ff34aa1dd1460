# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest

from ansible_collections.virt.storage.plugins.module_utils._ground.errors import BadInput
from ansible_collections.virt.storage.plugins.module_utils._policy.pool_names import checked_name, checked_path
from ansible_collections.virt.storage.plugins.module_utils._policy.pool_nfs import (
    NfsExport,
    checked_nfs,
    unfit,
    unfit_mount,
)
from ansible_collections.virt.storage.plugins.module_utils._policy.pool_xml import Definition, read, write

FOREIGN = """
<pool type='dir'>
  <name>images</name>
  <uuid>3d752bc0-9729-41c3-9e55-9f0202916884</uuid>
  <capacity unit='bytes'>0</capacity>
  <source/>
  <target>
    <path>/srv/images</path>
    <permissions><mode>0750</mode></permissions>
  </target>
</pool>
"""


def test_a_definition_survives_writing_and_reading():
    nfs = NfsExport("nas", "/export/a b", "4.2", ("hard", "noatime"))
    for definition in (
        Definition("ssd", "dir", "/srv/ssd & co", "3d752bc0-9729-41c3-9e55-9f0202916884"),
        Definition("nas", "netfs", "/srv/nas", None, nfs),
        Definition("nas", "netfs", "/srv/nas", None, NfsExport("nas", "/")),
    ):
        assert read(write(definition)) == definition


def test_writing_onto_a_definition_leaves_the_rest_as_it_was():
    moved = write(Definition("images", "dir", "/srv/new", "3d752bc0-9729-41c3-9e55-9f0202916884"), onto=FOREIGN)
    assert "<mode>0750</mode>" in moved
    assert read(moved).path == "/srv/new"
    assert read(moved).uuid == read(FOREIGN).uuid


def test_mount_options_are_replaced_and_not_added_to():
    first = write(Definition("nas", "netfs", "/srv/nas", None, NfsExport("nas", "/x", "4.1", ("hard", "noatime"))))
    second = write(Definition("nas", "netfs", "/srv/nas", None, NfsExport("nas", "/x", "4.2", ("ro",))), onto=first)
    assert read(second).nfs == NfsExport("nas", "/x", "4.2", ("ro",))
    third = write(Definition("nas", "netfs", "/srv/nas", None, NfsExport("nas", "/x", "4.2")), onto=second)
    assert "mount_opts" not in third


@pytest.mark.parametrize("name", ["", "a/b", "..", "-a", "a\nb", "a b", "naïve", "x" * 101, "a\0"])
def test_names_that_cannot_be_file_names_of_libvirt_are_refused(name):
    with pytest.raises(BadInput) as refusal:
        checked_name(name)
    assert "\n" not in refusal.value.message


@pytest.mark.parametrize("path", ["", "srv", "./srv", "/srv/../etc", "/srv/..", "/", "//", "/a\nb", "/" + "x" * 256])
def test_paths_that_cannot_be_a_folder_of_the_pools_own_are_refused(path):
    with pytest.raises(BadInput) as refusal:
        checked_path(path)
    assert "\n" not in refusal.value.message
    assert len(refusal.value.message) < 250


@pytest.mark.parametrize("path", ["/srv/ssd", "/srv/ssd/", "//srv//ssd", "/srv/./ssd"])
def test_one_folder_has_one_spelling(path):
    assert checked_path(path) == "/srv/ssd"


@pytest.mark.parametrize(
    "given",
    [
        {"host": "a b"},
        {"host": "-o"},
        {"host": ""},
        {"export": "x"},
        {"export": "/a/../b"},
        {"version": "3"},
        {"version": "4.0"},
        {"options": ["nocto"]},
        {"options": ["hard,nocto"]},
        {"options": ["vers=3"]},
        {"options": ["nfsvers=3"]},
        {"options": ["minorversion=0"]},
        {"options": ["v3"]},
        {"options": ["hard", ""]},
    ],
)
def test_nfs_that_records_cannot_live_on_is_refused(given):
    with pytest.raises(BadInput):
        checked_nfs(given)


def test_nfs_fields_have_one_form_and_what_was_not_given_stays_out():
    given = {"host": "[fd00::1]", "export": "//x/", "version": None, "options": ["noatime", "hard", "hard"]}
    assert checked_nfs(given) == {"host": "[fd00::1]", "export": "/x", "options": ("hard", "noatime")}
    assert checked_nfs({"export": "/", "version": "4.1"}) == {"export": "/", "version": "4.1"}


def test_a_foreign_nfs_definition_is_judged_before_it_is_mounted():
    assert unfit(NfsExport("nas", "/x")) is None
    assert unfit(NfsExport("nas", "/x", "4")) is None
    assert "version 3" in (unfit(NfsExport("nas", "/x", "3")) or "")
    assert "nocto" in (unfit(NfsExport("nas", "/x", "4.2", ("nocto",))) or "")


def test_a_mount_is_judged_by_what_the_kernel_says():
    good = "rw,vers=4.2,rsize=1048576,namlen=255,hard,proto=tcp,local_lock=none,addr=10.0.0.1"
    assert unfit_mount(good) is None
    assert unfit_mount(good.replace("4.2", "4.1")) is None
    assert "version 3" in (unfit_mount(good.replace("4.2", "3")) or "")
    assert "version 4.0" in (unfit_mount(good.replace("4.2", "4.0")) or "")
    assert "nocto" in (unfit_mount(good + ",nocto") or "")
    assert "unknown" in (unfit_mount("rw,relatime") or "")
