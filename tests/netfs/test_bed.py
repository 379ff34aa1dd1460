# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The test bed is what docs/testbed.md says: what tests of shared storage rest on is itself shown first."""

from __future__ import annotations

import re
import shlex
import time
import uuid

import pytest
from vm_machine import Machine

LOCK = """
import fcntl, struct, sys
whole_file = struct.pack("hhqqi", fcntl.F_WRLCK, 0, 0, 0, 0)
file = open(sys.argv[2], "a")
try:
    fcntl.fcntl(file, {"try": 37, "wait": 38}[sys.argv[1]], whole_file)  # F_OFD_SETLK, F_OFD_SETLKW
    print("got it", flush=True)
    sys.stdin.read()
except BlockingIOError:
    print("refused")
"""


def lock(how: str, path: str) -> str:
    """A command that takes an OFD lock on ``path``, tells what came of it and holds it until its input ends."""
    return f"exec python3 -c {shlex.quote(LOCK)} {how} {path}"


def clock(machine: Machine) -> float:
    """The machine's own monotonic clock."""
    return float(machine.ssh("cut -d' ' -f1 /proc/uptime").stdout)


@pytest.fixture
def name() -> str:
    """A name that nothing in the machines has yet: they may be older than this run."""
    return f"test-{uuid.uuid4().hex[:8]}"


def test_both_machines_are_whole(netfs_bed):
    for machine in (netfs_bed.one, netfs_bed.two):
        assert machine.ssh("hostname").stdout.strip() == machine.name
        assert machine.ssh("virsh --connect qemu:///system uri").stdout.strip() == "qemu:///system"
        machine.ssh("modprobe --dry-run --all dm_thin_pool dm_flakey dm_log_writes xfs btrfs loop softdog")
        machine.ssh("python3 -c 'import libvirt, oslo_utils.imageutils.format_inspector, pycdlib, pytest'")
        disks = machine.ssh("lsblk --noheadings --nodeps --output NAME,SERIAL").stdout.split()
        assert disks == ["vda", "root", "vdb", "data", "vdc", "shared"]


def test_both_machines_have_one_shared_disk(netfs_bed, name):
    netfs_bed.one.ssh("dd of=/dev/vdc oflag=direct bs=512 conv=sync status=none", data=name.encode())
    seen = netfs_bed.two.ssh("dd if=/dev/vdc iflag=direct bs=512 count=1 status=none").stdout
    assert seen.rstrip("\0") == name


def test_the_tree_is_sent_whole(netfs_bed):
    place = netfs_bed.two.send_tree()
    netfs_bed.two.ssh(f"cd {place} && test -x dev && test -f plugins/module_utils/_ground/errors.py && test ! -e .work")
    errors = "ansible_collections.virt.storage.plugins.module_utils._ground.errors"
    netfs_bed.two.ssh(f"PYTHONPATH=/opt/tree python3 -c 'import {errors}'")


def test_locks_exclude_across_hosts_and_against_the_server(netfs_bed, name):
    path = f"{netfs_bed.shared}/{name}"
    with netfs_bed.two.spawn(lock("wait", path)) as holder:
        assert holder.stdout.readline() == "got it\n"
        assert netfs_bed.one.ssh(lock("try", path)).stdout == "refused\n"
        assert netfs_bed.one.ssh(lock("try", f"/srv/nfs/{name}")).stdout == "refused\n"
        assert netfs_bed.one.ssh(lock("try", f"{path}-other")).stdout == "got it\n"
        holder.communicate(timeout=30)
    assert netfs_bed.one.ssh(lock("try", path)).stdout == "got it\n"


def test_a_lock_of_a_frozen_host_is_given_away_after_the_lease(netfs_bed, name):
    path = f"{netfs_bed.shared}/{name}"
    with netfs_bed.two.spawn(lock("wait", path)) as holder:
        assert holder.stdout.readline() == "got it\n"
        with netfs_bed.two.frozen("process"):
            start = time.monotonic()
            assert netfs_bed.one.ssh(lock("wait", path)).stdout == "got it\n"
            waited = time.monotonic() - start
        holder.communicate(timeout=30)
    assert 5 < waited < 40, "the lease is 10 s"


def test_a_frozen_machine_notices_or_not_as_asked(netfs_bed):
    for how, notices in (("process", True), ("clock", False)):
        before = clock(netfs_bed.two)
        with netfs_bed.two.frozen(how):
            time.sleep(4)
            resumed = time.monotonic()
        passed = clock(netfs_bed.two) - before
        assert (passed - (time.monotonic() - resumed) > 3) == notices, f"{how}: {passed} s passed in the machine"


def test_a_cut_link_is_cut_for_the_block_only(netfs_bed):
    ping = "busybox ping -c 1 -W 1 10.99.0.1"
    netfs_bed.two.ssh(ping)
    with netfs_bed.two.unlinked():
        assert netfs_bed.two.ssh(ping, check=False).returncode
    # The machine sees its card's carrier come back a moment later.
    netfs_bed.two.ssh(f"for try in $(seq 20); do {ping} && exit; done; exit 1")


def test_root_may_write_to_the_shared_mount_and_not_to_the_squashed_one(netfs_bed, name):
    for machine in (netfs_bed.one, netfs_bed.two):
        machine.ssh(f"touch {netfs_bed.shared}/{name}-{machine.name}")
        refused = machine.ssh(f"touch {netfs_bed.squashed}/{name}", check=False)
        assert "Permission denied" in refused.stderr
    assert netfs_bed.one.ssh(f"ls /srv/nfs | grep {name}").stdout.split() == [f"{name}-vm1", f"{name}-vm2"]


def test_libvirt_mounts_a_netfs_pool_over_the_link(netfs_bed, name):
    target = f"/var/lib/libvirt/images/{name}"
    pool = f"""
        <pool type='netfs'>
          <name>{name}</name>
          <source>
            <host name='10.99.0.1'/> <dir path='/srv/nfs'/> <format type='nfs'/> <protocol ver='4.2'/>
          </source>
          <target><path>{target}</path></target>
        </pool>"""
    virsh = "virsh --quiet --connect qemu:///system"
    netfs_bed.two.ssh(f"{virsh} pool-define /dev/stdin && {virsh} pool-build {name}", data=pool.encode())
    netfs_bed.two.ssh(f"{virsh} pool-start {name}")
    mounts = netfs_bed.two.ssh("cat /proc/mounts").stdout
    assert re.search(rf"^10\.99\.0\.1:/srv/nfs {target} nfs4 .*\bvers=4\.2\b", mounts, re.MULTILINE)
    netfs_bed.two.ssh(f"{virsh} vol-create-as {name} {name}.qcow2 1M --format qcow2")
    netfs_bed.one.ssh(f"test -s /srv/nfs/{name}.qcow2")
    netfs_bed.two.ssh(f"{virsh} vol-delete {name}.qcow2 {name} && {virsh} pool-destroy {name}")
    netfs_bed.two.ssh(f"{virsh} pool-undefine {name}")
    assert target not in netfs_bed.two.ssh("cat /proc/mounts").stdout


def test_ansible_drives_a_machine_from_outside(netfs_bed):
    tasks = [
        {"ansible.builtin.command": "hostname"},
        {"ansible.builtin.package": {"name": "libvirt-daemon-system"}},
        {"ansible.builtin.command": "false"},
        {"ansible.builtin.command": "true"},
    ]
    hostname, package, failed = netfs_bed.ansible_playbook(netfs_bed.two, tasks)
    assert hostname["stdout"] == "vm2"
    assert not package["changed"], "known to be installed, without a network"
    assert failed["failed"]


def test_a_reset_loses_what_was_not_synced_and_keeps_the_disk(netfs_bed, name):
    two = netfs_bed.two
    two.ssh(f"touch /root/{name} /run/{name} && sync /root/{name} /root && touch /root/{name}-unsynced")
    two.reset()
    netfs_bed.mount()
    assert two.ssh(f"ls /root /run | grep {name}").stdout.split() == [name]
