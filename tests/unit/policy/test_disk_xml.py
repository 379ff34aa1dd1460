# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from ansible_collections.virt.storage.plugins.module_utils._ground.errors import BadInput
from ansible_collections.virt.storage.plugins.module_utils._policy.disk_xml import (
    Attachment,
    Link,
    Location,
    check_attachment,
    default_target,
    disk_xml,
)

DISK = Link(Location("file", "/srv/ssd/web1.qcow2"), "qcow2")
IMAGE = Link(Location("file", "/srv/ssd/.virt-storage/images/a.raw"), "raw")


def test_a_chain_is_spelt_out_to_its_end():
    assert disk_xml([DISK, IMAGE], Attachment(), "vda") == (
        '<disk type="file" device="disk">\n'
        '  <driver name="qemu" type="qcow2"/>\n'
        '  <source file="/srv/ssd/web1.qcow2"/>\n'
        '  <backingStore type="file">\n'
        '    <format type="raw"/>\n'
        '    <source file="/srv/ssd/.virt-storage/images/a.raw">\n'
        '      <seclabel model="dac" relabel="no"/>\n'
        "    </source>\n"
        "    <backingStore/>\n"
        "  </backingStore>\n"
        '  <target dev="vda" bus="virtio"/>\n'
        "</disk>"
    )


def test_no_link_of_a_chain_leaves_anything_to_find_out():
    for length in range(1, 5):
        element = ElementTree.fromstring(disk_xml([DISK, *[IMAGE] * (length - 1)], Attachment(), "vda"))
        depth = 1
        link = element.find("backingStore")
        while link is not None and len(link):
            assert link.get("type") == "file"
            assert link.find("format").get("type") == "raw"
            assert link.find("source/seclabel").attrib == {"model": "dac", "relabel": "no"}
            link = link.find("backingStore")
            depth += 1
        assert link is not None, "the chain ends with an empty backingStore"
        assert link.attrib == {}
        assert depth == length
        assert element.find("source/seclabel") is None, "the disk itself is handed to the guest"


def test_every_option_is_said_where_libvirt_looks_for_it():
    how = Attachment("sdq", "scsi", "disk", "none", "native", "unmap", "A-1_2.3 x")
    element = ElementTree.fromstring(disk_xml([DISK], how, "sdq"))
    driver = {"name": "qemu", "type": "qcow2", "cache": "none", "io": "native", "discard": "unmap"}
    assert element.find("driver").attrib == driver
    assert element.find("target").attrib == {"dev": "sdq", "bus": "scsi"}
    assert element.findtext("serial") == "A-1_2.3 x"
    assert element.find("readonly") is None


def test_a_cdrom_is_read_only():
    element = ElementTree.fromstring(disk_xml([IMAGE], Attachment(bus="sata", device="cdrom"), "sda"))
    assert element.get("device") == "cdrom"
    assert element.find("readonly") is not None


def test_what_is_not_said_is_left_to_libvirt():
    element = ElementTree.fromstring(disk_xml([DISK], Attachment(), "vda"))
    assert element.find("driver").attrib == {"name": "qemu", "type": "qcow2"}
    assert element.find("serial") is None


def test_paths_are_quoted():
    path = "/srv/a & b/<\"'>.qcow2"
    assert (
        ElementTree.fromstring(disk_xml([Link(Location("file", path), "qcow2")], Attachment(), "vda"))
        .find("source")
        .get("file")
        == path
    )


def test_disks_that_are_alike_are_not_mixed_up():
    others = [Link(Location("file", "/srv/ssd/web2.qcow2"), "qcow2"), Link(Location("file", "/b.raw"), "raw")]
    assert "/b.raw" not in disk_xml([DISK, IMAGE], Attachment(), "vda")
    assert "a.raw" not in disk_xml(others, Attachment(), "vda")
    assert 'cache="none"' in disk_xml(others, Attachment(cache="none"), "vda")
    assert "cache" not in disk_xml(others, Attachment(), "vda")


def test_targets_count_on_behind_z():
    names = [default_target("virtio", position) for position in (0, 1, 25, 26, 27, 701, 702)]
    assert names == ["vda", "vdb", "vdz", "vdaa", "vdab", "vdzz", "vdaaa"]
    assert [default_target(bus, 0) for bus in ("scsi", "sata", "usb", "ide")] == ["sda", "sda", "sda", "hda"]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (Attachment(bus="floppy"), "bus 'floppy' of the disk x is unknown"),
        (Attachment(target="vda1"), "target 'vda1' of the disk x"),
        (Attachment(target="a'/><x"), "is no name of a disk"),
        (Attachment(target=""), "is no name of a disk"),
        (Attachment(serial=""), "serial ''"),
        (Attachment(serial="x" * 37), "1 to 36"),
        (Attachment(serial="ä"), "1 to 36"),
        (Attachment(device="cdrom"), "cannot be a cdrom on bus virtio"),
        (Attachment(io="native"), "needs cache none or directsync"),
        (Attachment(io="native", cache="writeback"), "needs cache none or directsync"),
    ],
)
def test_what_libvirt_would_refuse_is_refused(how, said):
    with pytest.raises(BadInput, match=said):
        check_attachment(how, "disk x")


def test_what_libvirt_takes_is_taken():
    for how in (
        Attachment(),
        Attachment("vdaa", serial="x" * 36, io="native", cache="none"),
        Attachment("sdb", bus="sata", device="cdrom", io="threads"),
    ):
        check_attachment(how, "disk x")


def test_a_network_disk_names_its_monitors_and_its_secret_and_no_key() -> None:
    place = Location("network", "virt/web1", ("10.0.0.1:6789", "[::1]:3300"), "libvirt", "5f0b-uuid")
    source = ElementTree.fromstring(disk_xml([Link(place, "raw")], Attachment(), "vda")).find("source")
    assert source.attrib == {"protocol": "rbd", "name": "virt/web1"}
    assert [host.attrib for host in source.iter("host")] == [
        {"name": "10.0.0.1", "port": "6789"},
        {"name": "::1", "port": "3300"},
    ]
    assert source.find("auth").get("username") == "libvirt"
    assert source.find("auth/secret").attrib == {"type": "ceph", "uuid": "5f0b-uuid"}


def test_a_block_disk_over_an_image_is_told_both_devices() -> None:
    chain = [Link(Location("block", "/dev/vg/web1"), "qcow2"), Link(Location("block", "/dev/vg/image"), "raw")]
    disk = ElementTree.fromstring(disk_xml(chain, Attachment(), "vda"))
    assert (disk.get("type"), disk.find("source").attrib) == ("block", {"dev": "/dev/vg/web1"})
    below = disk.find("backingStore")
    assert (below.get("type"), below.find("source").get("dev")) == ("block", "/dev/vg/image")
    assert below.find("source/seclabel").get("relabel") == "no"
    assert below.find("backingStore").attrib == {}
