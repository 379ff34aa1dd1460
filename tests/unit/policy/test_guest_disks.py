# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Disks in definitions are exchanged as text, and the rest of a definition stays as it was."""

from __future__ import annotations

import pytest

from ansible_collections.virt.storage.plugins.module_utils._ground.errors import StorageError
from ansible_collections.virt.storage.plugins.module_utils._policy.disk_xml import Link, Location
from ansible_collections.virt.storage.plugins.module_utils._policy.guest_disks import (
    disk_elements,
    exchanged,
    is_spelt_out,
    spelt_out,
)

XML = """<domain type="qemu" xmlns:qemu="http://q"><name>é&amp;a</name>
<metadata><nova:instance xmlns:nova="u"><nova:disk/></nova:instance><disk>not this</disk></metadata><devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2' cache='none'/>
      <source file='/i/a/disk' startupPolicy='optional'><seclabel model='dac' relabel='no'/></source>
      <target dev='vda' bus='virtio'/>
      <address type='pci' domain='0x0000'/>
    </disk>
    <disk type='volume' device='cdrom'><source pool='p' volume='v.img'/><target dev='sda'/></disk >
</devices><qemu:commandline><qemu:env name='x'/></qemu:commandline></domain>"""
CHAIN = [
    Link(Location("file", "/pool/a.qcow2"), "qcow2"),
    Link(Location("file", "/pool/.virt-storage/images/x.raw"), "raw"),
]


def test_elements_are_found_with_what_they_say() -> None:
    one, two = disk_elements(XML, {"p": "/pp"})
    assert (one.path, one.target, one.format, one.below, one.device) == ("/i/a/disk", "vda", "qcow2", (), "disk")
    assert (two.path, two.target, two.format, two.device) == ("/pp/v.img", "sda", "", "cdrom")
    assert one.text in XML
    assert two.text in XML
    assert disk_elements(XML, {})[1].path == ""


def test_there_and_back() -> None:
    one, two = disk_elements(XML, {"p": "/pp"})
    changed = exchanged(XML, {one.text: spelt_out(one.text, CHAIN), two.text: spelt_out(two.text, CHAIN[1:])})
    here, there = disk_elements(changed, {})
    assert is_spelt_out(here, CHAIN)
    assert is_spelt_out(there, CHAIN[1:])
    assert not is_spelt_out(one, CHAIN)
    assert not is_spelt_out(here, CHAIN[:1])
    for kept in ('cache="none"', 'startupPolicy="optional"', "0x0000", "xmlns:nova", "é&amp;a", 'device="cdrom"'):
        assert kept in changed
    assert 'pool="p"' not in changed
    assert 'type="volume"' not in changed
    assert changed.count("relabel=") == 2
    assert exchanged(changed, {here.text: one.text, there.text: two.text}) == XML


def test_an_old_chain_is_replaced() -> None:
    (one, _two) = disk_elements(XML, {})
    once = spelt_out(one.text, [CHAIN[0], Link(Location("file", "/other"), "qcow2")])
    again = spelt_out(once, CHAIN)
    assert again == spelt_out(one.text, CHAIN)
    assert disk_elements(XML.replace(one.text, again), {})[0].below == (("/pool/.virt-storage/images/x.raw", "raw"),)


def test_two_of_the_same_words() -> None:
    one = disk_elements(XML, {})[0]
    with pytest.raises(StorageError, match="the very same words"):
        exchanged(XML.replace(one.text, one.text * 2), {one.text: "x"})
