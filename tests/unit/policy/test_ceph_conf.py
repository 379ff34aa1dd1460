# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Monitors and keys, out of the files that Ceph's own tools read."""

from __future__ import annotations

import pytest

from ansible_collections.virt.storage.plugins.module_utils._ground.errors import BadInput
from ansible_collections.virt.storage.plugins.module_utils._policy.ceph_conf import key_of, monitors_of
from ansible_collections.virt.storage.plugins.module_utils._policy.pool_ceph import checked_ceph, checked_monitor, split

KEY = "AQAAAAAAAAAAABAAAAAAAAAAAAAAAAAAAAAAAA=="


@pytest.mark.parametrize(
    ("named", "monitors"),
    [
        ("10.0.0.1", ["10.0.0.1"]),
        ("10.0.0.2,10.0.0.1", ["10.0.0.1", "10.0.0.2"]),
        ("10.0.0.1 mon.example.com:6789, 10.0.0.1", ["10.0.0.1", "mon.example.com:6789"]),
        ('"a, b"', ["a", "b"]),
        (
            "[v2:10.0.0.1:3300/0,v1:10.0.0.1:6789/0],[v2:10.0.0.2:3300/0,v1:10.0.0.2:6789/0]",
            ["10.0.0.1:3300", "10.0.0.2:3300"],
        ),
        ("[v1:10.0.0.2:6789/0] [v1:10.0.0.1:6789/0,v2:10.0.0.1:3300/0]", ["10.0.0.1:3300", "10.0.0.2:6789"]),
        ("v2:127.0.0.1:4711", ["127.0.0.1:4711"]),
        ("v1:10.0.0.1", ["10.0.0.1:6789"]),
        ("v2:mon", ["mon:3300"]),
        ("any:10.0.0.1:4711/0", ["10.0.0.1:4711"]),
        ("[fd00::1]:6789", ["[fd00::1]:6789"]),
        ("[fd00::1],fd00::2", ["[fd00::1]", "[fd00::2]"]),
        ("[v2:[fd00::1]:3300/0,v1:[fd00::1]:6789/0]", ["[fd00::1]:3300"]),
        ("v2:[fd00::1]", ["[fd00::1]:3300"]),
    ],
)
def test_monitors_in_every_form_that_librados_reads(named, monitors):
    assert monitors_of(f"[global]\nmon host = {named}\n", "libvirt", "/c") == tuple(monitors)


def test_the_nearest_section_counts_and_a_name_may_be_spelt_in_three_ways():
    conf = """
# mon host = no
    [global]  ; for all
    mon_host = one \\
        two
[osd]
mon host = no
[client]
\tmon-host = three # not four
[client.libvirt]
mon host =
"""
    assert monitors_of(conf, "libvirt", "/c") == ("three",)
    assert monitors_of(conf.replace("[client]", "[mon]"), "libvirt", "/c") == ("one", "two")
    assert monitors_of(conf + "[client.libvirt]\nmon host = five\n", "libvirt", "/c") == ("five",)


@pytest.mark.parametrize("named", ["", "[v2:10.0.0.1", "a@b", "a:0", "a:99999", "a:b:c", "-a", "[fe::zz]:1"])
def test_what_names_no_monitor_is_refused_in_a_sentence(named):
    with pytest.raises(BadInput) as refusal:
        monitors_of(f"[global]\nmon host = {named}\n", "libvirt", "/c")
    assert "\n" not in refusal.value.message


def test_one_monitor_has_one_spelling():
    assert checked_monitor("10.0.0.1:03300") == "10.0.0.1:3300"
    assert checked_monitor("fd00::1") == "[fd00::1]"
    assert split("[fd00::1]:3300") == ("fd00::1", "3300")
    assert split("mon") == ("mon", "")


def test_the_key_is_that_of_the_user_and_no_message_shows_one():
    keyring = f'[client.other]\n\tkey = notbase64!\n[client.libvirt]\n\tkey = {KEY}\n\tcaps mon = "profile rbd"\n'
    assert key_of(keyring, "libvirt", "/k") == KEY
    with pytest.raises(BadInput, match=r"has the key of client.other, client.libvirt, not of client.nova") as refusal:
        key_of(keyring, "nova", "/k")
    assert KEY not in refusal.value.message
    with pytest.raises(BadInput, match="holds no key") as refusal:
        key_of(keyring, "other", "/k")
    assert "notbase64" not in refusal.value.message
    with pytest.raises(BadInput, match="nobody"):
        key_of("", "libvirt", "/k")


def test_what_is_given_of_a_source_has_one_form_and_no_files():
    given = {"pool": "vms", "monitors": ["b", "a", "a"], "user": "client.libvirt", "conf": "/c", "keyring": None}
    assert checked_ceph(given) == {"pool": "vms", "monitors": ("a", "b"), "user": "libvirt"}
    assert checked_ceph({"namespace": ""}) == {"namespace": ""}


@pytest.mark.parametrize(
    "given",
    [
        {"pool": ""},
        {"pool": "a/b"},
        {"pool": "a@b"},
        {"namespace": "a/b"},
        {"user": "a b"},
        {"user": ""},
        {"monitors": []},
        {"monitors": ["a,b"]},
        {"key": "secret!"},
        {"key": "c2hvcnQ="},
    ],
)
def test_what_cannot_be_meant_is_refused(given):
    with pytest.raises(BadInput) as refusal:
        checked_ceph(given)
    assert "secret!" not in refusal.value.message
