#!/usr/bin/python

# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: libvirt_pool_info
short_description: Describe storage pools of libvirt
description:
  - Lists the storage pools of libvirt with their state, space, labels, cache limits and volumes without a record.
  - Pools are not refreshed and no volume is opened.
author:
  - The virt.storage authors (@virt-storage)
extends_documentation_fragment:
  - virt.storage.attributes.info
  - virt.storage.attributes.actiongroup_storage
  - virt.storage.requirements
  - virt.storage.pool
options:
  name:
    description:
      - Names of the pools to describe. One that does not exist is left out. Without this, all are described.
    type: list
    elements: str
seealso:
  - module: virt.storage.libvirt_pool
"""

EXAMPLES = r"""
- name: How full are the pools
  virt.storage.libvirt_pool_info:
  register: found

- name: Say so
  ansible.builtin.debug:
    msg: "{{ item.name }}: {{ item.available // 1024 ** 3 }} GiB free"
  loop: "{{ found.pools }}"
"""

RETURN = r"""
pools:
  description: The pools, by name.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: The name of the pool.
      type: str
      sample: ssd
    state:
      description: V(active) or V(inactive).
      type: str
      sample: active
    type:
      description: The type of the pool, which may be one that M(virt.storage.libvirt_pool) does not manage.
      type: str
      sample: dir
    path:
      description: The folder in which its volumes are. For other types of pools, what libvirt calls their target.
      returned: for pools with a folder or a target
      type: str
      sample: /srv/ssd
    uuid:
      description: Libvirt's UUID of the pool.
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
    cached:
      description:
        - How many bytes of RV(pools[].allocation) the images of the cache take up. They count apart from disks, which
          may go where they are, while images go when the cache is pruned.
      returned: when the pool can be read
      type: int
      sample: 4831838208
    unmanaged:
      description: Names of what lies in the pool without a record.
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

from ansible_collections.virt.storage.plugins.module_utils._tasks.libvirt_pool import info
from ansible_collections.virt.storage.plugins.module_utils._tasks.module import run_module

ARGUMENTS = {
    "name": {"type": "list", "elements": "str"},
    "uri": {"type": "str", "default": "qemu:///system"},
}


def main():
    """Run the module."""
    run_module(ARGUMENTS, info)


if __name__ == "__main__":
    main()
