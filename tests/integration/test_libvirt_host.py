# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who uses a volume, by whatever name, and growing the disk of a running guest."""

from __future__ import annotations

import os
import subprocess

import pytest

from ansible_collections.virt.storage.plugins.module_utils._ground.errors import InUse, NotFound
from ansible_collections.virt.storage.plugins.module_utils._ground.libvirt_host import Host, beneath, using_any

MIB = 1 << 20
GUEST = """
<domain type='qemu'>
  <name>{name}</name>
  <memory unit='MiB'>32</memory>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2'/>
      <source file='{overlay}'/>
      <backingStore type='file'>
        <format type='raw'/>
        <source file='{base}'/>
        <backingStore/>
      </backingStore>
      <target dev='vda' bus='virtio'/>
    </disk>
    <disk type='volume' device='disk'>
      <driver name='qemu' type='raw'/>
      <source pool='{pool}' volume='second.raw'/>
      <target dev='vdb' bus='virtio'/>
    </disk>
  </devices>
  <seclabel type='none'/>
</domain>
"""


@pytest.fixture
def host():
    with Host() as connection:
        yield connection


@pytest.fixture
def guest(libvirtd, pool):
    """A guest, running, with an overlay on a raw base, and a second disk that names pool and volume."""
    paths = {name: os.path.join(pool["path"], name) for name in ("base.raw", "overlay.qcow2", "second.raw")}
    for name in ("base.raw", "second.raw"):
        with open(paths[name], "wb") as file:
            file.truncate(MIB)
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", paths["base.raw"], paths["overlay.qcow2"]],
        check=True,
    )
    libvirtd.storagePoolLookupByName(pool["name"]).refresh(0)
    domain = libvirtd.defineXML(
        GUEST.format(
            name=f"{pool['name']}-guest", overlay=paths["overlay.qcow2"], base=paths["base.raw"], pool=pool["name"]
        )
    )
    domain.create()
    yield domain
    if domain.isActive():
        domain.destroy()
    domain.undefine()


def test_a_volume_is_found_in_use_by_any_of_its_names(host, guest, place, pool):
    link, alias = place.root / "hard-link", place.root / "alias"
    os.link(os.path.join(pool["path"], "base.raw"), link)
    alias.symlink_to(pool["path"])
    for path in (str(link), f"{alias}/base.raw", f"{pool['path']}/base.raw"):
        assert [(use.domain, use.state, use.target) for use in host.users_of(path) if use.live] == [
            (guest.name(), "running", "vda")
        ], path
    assert [use.target for use in host.users_of(f"{pool['path']}/second.raw") if use.live] == ["vdb"]
    other = place.root / "other"
    other.write_text("x")
    uses = host.uses()
    assert using_any(uses, [str(other), str(link)])[str(other)] == []
    assert {use.target for use in beneath(uses, str(alias))} == {"vda", "vdb"}
    guest.destroy()
    assert {use.state for use in host.users_of(str(link))} == {"off"}


def test_the_disk_of_a_running_guest_grows_and_never_shrinks(host, guest):
    assert host.block_resize(guest.name(), "vda", 4 * MIB) == 4 * MIB
    assert host.block_resize(guest.name(), "vda", 4 * MIB) == 4 * MIB
    assert host.block_resize(guest.name(), "vda", 2 * MIB) == 4 * MIB
    guest.destroy()
    with pytest.raises(InUse, match="not running"):
        host.block_resize(guest.name(), "vda", 8 * MIB)
    with pytest.raises(NotFound):
        host.block_resize("vst-no-such-guest", "vda", 8 * MIB)


def test_only_not_found_is_not_found(host, pool):
    with pytest.raises(NotFound):
        host.pool("vst-no-such-pool")
    with pytest.raises(Exception, match="still active") as refusal:
        host.undefine(pool["name"])
    assert not isinstance(refusal.value, NotFound)
    host.refresh(pool["name"])
    host.start(pool["name"])
    assert host.pool(pool["name"]).active
