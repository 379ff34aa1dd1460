#!/usr/bin/python

# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: libvirt_pool
short_description: Manage storage pools of libvirt
description:
  - Defines, starts, stops and undefines a storage pool of libvirt, in one task, with its folder, its autostart, its
    labels and the limits of its image cache.
  - A pool that exists already, whoever defined it, is adopted. It keeps its UUID and whatever is not mentioned, and
    what lies in it is left alone; RV(pool.unmanaged) names the volumes that have no record.
  - Labels and cache limits are kept in the pool itself, so that every host that has the pool finds the same.
author:
  - The virt.storage authors (@virt-storage)
extends_documentation_fragment:
  - virt.storage.attributes
  - virt.storage.attributes.actiongroup_storage
  - virt.storage.requirements
  - virt.storage.pool
attributes:
  check_mode:
    support: full
    details:
      - The labels and cache limits of a pool of O(type=netfs) that is not mounted cannot be read. Where they are asked
        for together with its start, both check mode and the run show them as set.
      - A missing parent folder of O(path) and a missing O(rbd.conf) or O(rbd.keyring) are warnings in check mode,
        because an earlier task may make them, and errors in a run. What such a file would say is then not known.
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  name:
    description:
      - The name of the pool.
      - A pool that is made needs a name of at most 100 letters, digits and C(._+-) that begins with a letter or digit.
    type: str
    required: true
  state:
    description:
      - V(active) has the pool defined, its folder made, and the pool started.
      - V(inactive) has it defined and stopped.
      - V(defined) has it defined, and leaves it running or stopped.
      - V(absent) stops and undefines it. Its folder stays, with every volume and record, and the pool can be defined
        again later; see O(remove_contents).
      - A pool is not stopped, by V(inactive) or V(absent), while a guest that runs, is paused or has a managed save
        uses a volume in it; see O(force).
    type: str
    choices: [active, inactive, defined, absent]
    default: active
  type:
    description:
      - The type of the pool. It is needed to make one, and cannot be changed.
      - V(dir) is a folder of this host.
      - V(netfs) is an export of an NFS server, which libvirt mounts; see O(netfs).
      - V(logical) is a volume group of LVM; see O(logical).
      - V(rbd) is a pool of a Ceph cluster; see O(rbd).
    type: str
    choices: [dir, netfs, logical, rbd]
  path:
    description:
      - The folder in which the volumes of the pool are, an absolute path. It is needed to make a pool of O(type=dir) or
        O(type=netfs), and the others have none.
      - The folder is made when it is missing. Its parent has to be there, so that it is noticed when a file system was
        not mounted.
      - Two pools cannot have the same folder.
      - It can be changed only while the pool is stopped or is being stopped, because a running pool is not redefined.
        The volumes are not moved. A pool that somebody else defined anew while it ran is refused by every module until
        it was stopped.
    type: path
  netfs:
    description:
      - Where a pool of O(type=netfs) comes from.
      - What was mounted is checked after the start of the pool. It has to be NFS 4.1 or newer without C(nocto), because
        the records in the pool are shared between hosts. Otherwise the pool is stopped again, and the task fails.
      - It can be changed only while the pool is stopped or is being stopped.
    type: dict
    suboptions:
      host:
        description:
          - The name or address of the server; an IPv6 address in brackets. It is needed to make a pool.
        type: str
      export:
        description:
          - The exported path on the server. It is needed to make a pool.
        type: path
      version:
        description:
          - The version of NFS. Without it the highest is used that server and host both know.
        type: str
        choices: ["4.1", "4.2"]
      options:
        description:
          - Further mount options, one an item. C(nocto) and options that set a version are refused.
          - The list replaces the one that the pool has.
        type: list
        elements: str
  logical:
    description:
      - Where a pool of O(type=logical) comes from, and how disks stand in its volume group.
      - A group that is there is adopted with all that is in it. One that several hosts share is refused unless
        C(lvmlockd) runs.
      - The records of the pool are in a small logical volume, C(virt-storage-records), which is mounted below
        C(/run/virt-storage) while the pool is in use.
    type: dict
    suboptions:
      group:
        description:
          - The volume group. It is needed to make a pool.
        type: str
      devices:
        description:
          - Block devices to make the group of where there is none of that name. They have to be empty.
          - Nothing becomes of them where the group is there. Needs O(state=active).
        type: list
        elements: path
      thin:
        description:
          - Whether disks are thin, in a thin pool that zeroes new space. Where there is none, one is made of most of
            the group's free space.
          - When it is not given, a group that is made gets one, and another group stays as it is. Needs
            O(state=active).
        type: bool
      thin_pool:
        description:
          - The name of a thin pool in the group, in which disks are to be. Needs O(state=active).
        type: str
  rbd:
    description:
      - Where a pool of O(type=rbd) comes from. The Ceph pool has to be there, and the namespace, too; neither is made.
      - Libvirt keeps the key of the Ceph user in a secret. One that is made here has the same UUID on every host, so
        that guests can go from one host to another. It is not private, because the modules of the collection read the
        key from it to work in the cluster themselves. It goes with the pool, unless the definition of a guest names it.
      - A pool that exists keeps the secret that it has, unless another key is asked for than that holds. A private
        secret shows its key to nobody, so such a pool can be started, but nothing in it can be managed until it was
        stopped and given a secret of its own by O(rbd.key) or O(rbd.keyring).
      - The key in a secret that was made here can be changed while the pool runs. Everything else can be changed only
        while the pool is stopped or is being stopped.
      - Libvirt itself neither uploads to such a pool nor downloads from it. The modules do not need that.
    type: dict
    suboptions:
      pool:
        description:
          - The pool in the Ceph cluster. It is needed to make a pool.
        type: str
      namespace:
        description:
          - A namespace in the Ceph pool, in which disks and images are then. V('') is the default namespace.
          - Libvirt's pools know no namespaces. The name of this one is kept as a text in the pool's definition, where
            only this collection reads it. Libvirt lists the default namespace, whose images the user has to be
            allowed to list for the pool to start.
          - B(A guest cannot use a disk in a namespace where libvirt knows none), as libvirt 9 does not.
        type: str
      conf:
        description:
          - A C(ceph.conf) on the host to take the monitors from. Nothing else is read from it. Mutually exclusive with
            O(rbd.monitors).
          - A new pool without O(rbd.monitors) takes them from C(/etc/ceph/ceph.conf).
        type: path
      monitors:
        description:
          - The monitors, each as C(host), C(host:port) or C([address]:port). The list replaces the one that the pool
            has.
          - Port 3300 is taken for the second version of Ceph's protocol and port 6789 for the first. At another port,
            and without one, both are tried.
        type: list
        elements: str
      user:
        description:
          - The Ceph user, with or without C(client.).
          - A new pool without it gets V(libvirt), whose capabilities should be C(mon 'profile rbd' osd 'profile rbd
            pool=POOL').
        type: str
      keyring:
        description:
          - A keyring on the host to take the key of the user from.
          - A new pool, or one that gets another O(rbd.user), takes it from C(/etc/ceph/ceph.client.USER.keyring) where
            neither this nor O(rbd.key) is given. Otherwise the key that libvirt has stays.
        type: path
      key:
        description:
          - The key of the user, as C(ceph auth get-key) prints it. Mutually exclusive with O(rbd.keyring).
        type: str
  mode:
    description:
      - The mode of the folder of a pool of O(type=dir), an octal number in quotes.
      - A folder that is made gets V(0711), with which libvirt's qemu user can reach the disks in it and others cannot
        list them. A folder that exists keeps its mode when this is not given.
      - Needs O(state=active).
    type: raw
  owner:
    description:
      - The owner of the folder of a pool of O(type=dir), a name or a number. Needs O(state=active).
    type: str
  group:
    description:
      - The group of the folder of a pool of O(type=dir), a name or a number. Needs O(state=active).
    type: str
  autostart:
    description:
      - Whether libvirt starts the pool when it starts itself.
      - When it is not given, a pool is set to start with O(state=active), and left as it is otherwise.
    type: bool
  labels:
    description:
      - Labels of the pool, by which the policy of a flavor chooses it. Values are text, numbers or booleans.
      - They replace all labels that the pool has. V({}) removes them.
      - Needs O(state=active).
    type: dict
  cache:
    description:
      - Limits of the pool's image cache. They are applied when the cache is pruned, and they never touch an image that
        a disk needs or that is pinned.
      - A limit that is not given stays as it is. V(0) lifts one.
      - Needs O(state=active).
    type: dict
    suboptions:
      max_bytes:
        description:
          - How much space the images may take up, in bytes or with a unit, such as V(50GiB).
        type: str
      max_count:
        description:
          - How many images there may be.
        type: int
      max_age:
        description:
          - For how many seconds an image may stay unused.
        type: int
      min_free:
        description:
          - How much space has to stay free in the pool, in bytes or with a unit.
        type: str
  force:
    description:
      - Stop the pool although guests use volumes in it. They go on, as long as the pool needs no unmounting.
    type: bool
    default: false
  remove_contents:
    description:
      - With O(state=absent), also remove the pool's records and its folder. A folder on which something is mounted
        stays, and so do a volume group and a pool of Ceph.
      - B(The records cannot be brought back.) The task refuses, and names what it found, when the pool holds a disk, a
        cached image or a volume without a record, when somebody is at work in it, or when the definition of any guest
        mentions a volume in it.
    type: bool
    default: false
seealso:
  - module: virt.storage.libvirt_pool_info
"""

EXAMPLES = r"""
- name: Two pools, told apart by their labels
  virt.storage.libvirt_pool:
    name: "{{ item.name }}"
    type: dir
    path: "{{ item.path }}"
    labels: "{{ item.labels }}"
  loop:
    - name: ssd
      path: /srv/ssd
      labels:
        tier: fast
    - name: hdd
      path: /srv/hdd
      labels:
        tier: cheap
# actions of the first:
#   - define pool ssd (dir, /srv/ssd)
#   - create folder /srv/ssd (mode 0711)
#   - start pool ssd
#   - enable autostart of pool ssd
#   - label pool ssd (tier=fast)

- name: Keep at most 50 GiB of images in a pool, and 100 GiB free
  virt.storage.libvirt_pool:
    name: ssd
    cache:
      max_bytes: 50GiB
      min_free: 100GiB

- name: A pool that several hosts share over NFS
  virt.storage.libvirt_pool:
    name: shared
    type: netfs
    path: /srv/shared
    netfs:
      host: nas.example.com
      export: /export/guests
      version: "4.2"
      options: [hard, noatime]

- name: A volume group of two new disks, with a thin pool in it
  virt.storage.libvirt_pool:
    name: fast
    type: logical
    logical:
      group: vg0
      devices: [/dev/nvme0n1, /dev/nvme1n1]
# actions:
#   - define pool fast (logical, volume group vg0)
#   - make volume group vg0 of /dev/nvme0n1, /dev/nvme1n1
#   - make a thin pool in volume group vg0
#   - start pool fast
#   - enable autostart of pool fast

- name: A pool on Ceph, with the monitors and the key that the files in /etc/ceph have
  virt.storage.libvirt_pool:
    name: vms
    type: rbd
    rbd:
      pool: vms
# actions:
#   - make the libvirt secret of pool vms with the key of client.libvirt
#   - define pool vms (rbd, vms at 10.0.0.1:3300, 10.0.0.2:3300, 10.0.0.3:3300)
#   - start pool vms
#   - enable autostart of pool vms

- name: The same on a host without these files
  virt.storage.libvirt_pool:
    name: vms
    type: rbd
    rbd:
      pool: vms
      monitors: [10.0.0.1, 10.0.0.2, 10.0.0.3]
      user: libvirt
      key: "{{ vault_ceph_key }}"

- name: Adopt the pool that virt-manager made, and see what lies in it
  virt.storage.libvirt_pool:
    name: default
  register: adopted

- name: Stop and forget a pool, and leave everything that is in it
  virt.storage.libvirt_pool:
    name: hdd
    state: absent
"""

RETURN = r"""
actions:
  description: What was done, or in check mode would be, as sentences and in order.
  returned: success
  type: list
  elements: str
  sample:
    - define pool ssd (dir, /srv/ssd)
    - create folder /srv/ssd (mode 0711)
    - start pool ssd
    - enable autostart of pool ssd
plan:
  description: The same steps in parts.
  returned: success
  type: list
  elements: dict
  contains:
    verb:
      description: What kind of step it is.
      type: str
      sample: define
    what:
      description: What the step is about.
      type: str
      sample: pool ssd
    sentence:
      description: The step as in RV(actions).
      type: str
      sample: define pool ssd (dir, /srv/ssd)
    bytes_to_read:
      description: How many bytes the step reads, estimated.
      type: int
      sample: 0
    bytes_to_write:
      description: How many bytes the step writes, estimated.
      type: int
      sample: 0
pool:
  description: The pool as it is now, or in check mode as it would be.
  returned: success
  type: dict
  contains:
    name:
      description: The name of the pool.
      type: str
      sample: ssd
    state:
      description: One of V(active), V(inactive) and V(absent). For V(absent) nothing but the name is there besides.
      type: str
      sample: active
    type:
      description: The type of the pool.
      type: str
      sample: dir
    path:
      description: The folder in which its volumes are.
      returned: for pools with a folder
      type: str
      sample: /srv/ssd
    uuid:
      description: Libvirt's UUID of the pool. In check mode, a pool that does not exist yet has none.
      type: str
      sample: 3d752bc0-9729-41c3-9e55-9f0202916884
    autostart:
      description: Whether libvirt starts the pool when it starts itself.
      type: bool
      sample: true
    capacity:
      description: Size in bytes of what the pool is on when libvirt last looked, such as its file system.
      type: int
      sample: 270553174016
    allocation:
      description: How many bytes of it were in use.
      type: int
      sample: 26680901632
    available:
      description: How many bytes of it were free.
      type: int
      sample: 243872272384
    netfs:
      description: Where the pool comes from.
      returned: for pools of type V(netfs)
      type: dict
      sample:
        host: nas.example.com
        export: /export/guests
        version: "4.2"
        options: [hard, noatime]
    logical:
      description: Where the pool comes from, and the thin pool that its disks are in, empty where they are thick.
      returned: for pools of type V(logical), and C(thin_pool) while it is active
      type: dict
      sample:
        group: vg0
        thin_pool: virt-storage-pool
    rbd:
      description: Where the pool comes from, and in C(secret) the UUID of the libvirt secret with the user's key.
      returned: for pools of type V(rbd)
      type: dict
      sample:
        pool: vms
        namespace: ""
        monitors: ["10.0.0.1:3300", "10.0.0.2:3300"]
        user: libvirt
        secret: 460b75f7-1409-51a9-8cff-82e63a4d64e3
    labels:
      description: The labels of the pool.
      returned: when the pool can be read, which only those of type V(dir) can while they are not active
      type: dict
      sample:
        tier: fast
    cache:
      description: The limits of the image cache that are set, sizes in bytes and times in seconds.
      returned: when the pool can be read
      type: dict
      sample:
        max_bytes: 53687091200
    unmanaged:
      description: Names of what lies in the pool without a record. It is never touched.
      returned: when the pool can be read
      type: list
      elements: str
      sample: [old-server.img]
    problem:
      description: Why labels, cache limits and volumes of the pool cannot be told.
      returned: when its records cannot be read, or were written by a newer version of the collection
      type: str
      sample: "The records in /srv/ssd/.virt-storage have schema 2, and this version of virt.storage knows up to 1:
        use a newer version of the collection."
"""

from ansible_collections.virt.storage.plugins.module_utils._tasks.libvirt_pool import requires, task
from ansible_collections.virt.storage.plugins.module_utils._tasks.module import run_module

ARGUMENTS = {
    "name": {"type": "str", "required": True},
    "state": {"type": "str", "choices": ["active", "inactive", "defined", "absent"], "default": "active"},
    "type": {"type": "str", "choices": ["dir", "netfs", "logical", "rbd"]},
    "path": {"type": "path"},
    "netfs": {
        "type": "dict",
        "options": {
            "host": {"type": "str"},
            "export": {"type": "path"},
            "version": {"type": "str", "choices": ["4.1", "4.2"]},
            "options": {"type": "list", "elements": "str"},
        },
    },
    "logical": {
        "type": "dict",
        "options": {
            "group": {"type": "str"},
            "devices": {"type": "list", "elements": "path"},
            "thin": {"type": "bool"},
            "thin_pool": {"type": "str"},
        },
    },
    "rbd": {
        "type": "dict",
        "options": {
            "pool": {"type": "str"},
            "namespace": {"type": "str"},
            "conf": {"type": "path"},
            "monitors": {"type": "list", "elements": "str"},
            "user": {"type": "str"},
            "keyring": {"type": "path", "no_log": False},
            "key": {"type": "str", "no_log": True},
        },
        "mutually_exclusive": [["conf", "monitors"], ["keyring", "key"]],
    },
    "mode": {"type": "raw"},
    "owner": {"type": "str"},
    "group": {"type": "str"},
    "autostart": {"type": "bool"},
    "labels": {"type": "dict"},
    "cache": {
        "type": "dict",
        "options": {
            "max_bytes": {"type": "str"},
            "max_count": {"type": "int"},
            "max_age": {"type": "int"},
            "min_free": {"type": "str"},
        },
    },
    "force": {"type": "bool", "default": False},
    "remove_contents": {"type": "bool", "default": False},
    "uri": {"type": "str", "default": "qemu:///system"},
}


def main():
    """Run the module."""
    run_module(ARGUMENTS, task, requires)


if __name__ == "__main__":
    main()
