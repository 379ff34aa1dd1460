#!/usr/bin/python

# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: instance_disk_info
short_description: Describe the disks of instances
description:
  - Describes the disks of instances in storage pools, with the C(<disk>) element for their domains.
  - Everything comes from the pools' own records. No volume is looked into to learn what it is.
author:
  - The virt.storage authors (@virt-storage)
extends_documentation_fragment:
  - virt.storage.attributes.info
  - virt.storage.attributes.actiongroup_storage
  - virt.storage.requirements
  - virt.storage.pool
options:
  pools:
    description:
      - The storage pools, by name. They have to be active.
      - Without it all active pools of this host that have records. Those that cannot be looked into are told under
        RV(unseen).
    type: list
    elements: str
  instances:
    description:
      - The instances, by name. One without disks is left out.
      - Without it all instances.
    type: list
    elements: str
seealso:
  - module: virt.storage.instance_disk
  - module: virt.storage.disk_metadata_info
"""

EXAMPLES = r"""
- name: Find the disks of an instance, wherever they are
  virt.storage.instance_disk_info:
    instances: [web1]
  register: found

- name: Say which image each came from
  ansible.builtin.debug:
    msg: "{{ item.role }} in pool {{ item.pool }}: {{ item.image or 'no image' }}"
  loop: "{{ found.disks }}"

- name: Fail when a disk has lost what it needs
  ansible.builtin.assert:
    that: found.disks | selectattr('problem', 'defined') | length == 0
    fail_msg: "{{ found.disks | selectattr('problem', 'defined') | map(attribute='problem') | join(' ') }}"
"""

RETURN = r"""
disks:
  description: The disks, by pool and id.
  returned: success
  type: list
  elements: dict
  contains:
    instance:
      description: The instance that the disk belongs to.
      type: str
      sample: web1
    role:
      description: What the disk is to the instance.
      type: str
      sample: root
    pool:
      description: The pool that the disk is in.
      type: str
      sample: ssd
    id:
      description: The id of the disk's record, which is never used again for another disk.
      type: str
      sample: web1+root+k7d2m4q9xa3e
    state:
      description: V(ready), or V(flat) when the disk came from an image and does not need it any more.
      type: str
      sample: ready
    path:
      description:
        - The absolute path of the volume, in Ceph its pool and name as in V(vms/web1+root+k7d2m4q9xa3e). Another disk,
          also one that is made anew, has another path.
      type: str
      sample: /srv/ssd/web1+root+k7d2m4q9xa3e.qcow2
    format:
      description: The format of the volume as its record says, V(qcow2) or V(raw).
      type: str
      sample: qcow2
    size:
      description: The size in bytes that the guest sees.
      type: int
      sample: 21474836480
    image:
      description: The name of the image that the disk was cloned from.
      type: str
      sample: debian-12
    backing:
      description: The id of the cached image that the disk stands on, none where it needs none.
      type: str
      sample: image+debian-12+1c0f4a9be2d73585+p4x8e2m5q7ha
    strategy:
      description:
        - How the disk was made, one of V(overlay), V(reflink), V(snapshot) in a thin pool, V(clone) in Ceph, V(copy),
          V(blank) and V(adopt).
      type: str
      sample: overlay
    reason:
      description: Why so.
      type: str
      sample: a qcow2 overlay costs the same whatever the size of its image
    target:
      description:
        - The name that the element gives the disk in the guest, which is the first one on its bus.
        - M(virt.storage.instance_disk), asked for several disks of an instance in one task, counts them up.
      type: str
      sample: vda
    xml:
      description:
        - The C(<disk>) element for the domain. It spells out the format of every file that the disk consists of, so
          that libvirt looks into none of them.
      type: str
      sample: |-
        <disk type="file" device="disk">
          <driver name="qemu" type="qcow2"/>
          <source file="/srv/ssd/web1+root+k7d2m4q9xa3e.qcow2"/>
          <backingStore type="file">
            <format type="raw"/>
            <source file="/srv/ssd/.virt-storage/images/image+debian-12+1c0f4a9be2d73585+p4x8e2m5q7ha.raw">
              <seclabel model="dac" relabel="no"/>
            </source>
            <backingStore/>
          </backingStore>
          <target dev="vda" bus="virtio"/>
        </disk>
    allocated:
      description: How many bytes the volume itself takes up.
      type: int
      sample: 1441792
    origin:
      description:
        - Where the content came from, by C(image), C(blank), C(config) or C(import). Of config disks it is not said
          what is in them.
      type: dict
      sample:
        asked: debian-12
        image: image+debian-12+1c0f4a9be2d73585+p4x8e2m5q7ha
        key: sha256:0c3b71e1...+qcow2
        name: debian-12
    created:
      description: When the disk was made, in UTC.
      type: str
      sample: "2026-11-22T10:15:00.000000Z"
    problem:
      description: Why the disk cannot be described. Of the rest only instance, role, pool, id and state are there then.
      returned: when its record cannot be read, or when its volume or the image under it is missing
      type: str
      sample: The disk root of web1 is recorded as ready, but its volume web1+root+k7d2m4q9xa3e.qcow2 is missing from
        pool ssd...
unseen:
  description:
    - The pools that cannot be looked into, such as one whose cluster does not answer. What is in them is not among
      RV(disks), and there is a warning for each. With O(pools) the task fails instead.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: The name of the pool.
      type: str
      sample: ceph
    problem:
      description: Why it cannot be looked into.
      type: str
      sample: Nothing is mounted at /srv/nfs, where the volumes of pool nfs are, though libvirt has it as active...
"""

from ansible_collections.virt.storage.plugins.module_utils._tasks.disk_info import info
from ansible_collections.virt.storage.plugins.module_utils._tasks.module import run_module

ARGUMENTS = {
    "pools": {"type": "list", "elements": "str"},
    "instances": {"type": "list", "elements": "str"},
    "uri": {"type": "str", "default": "qemu:///system"},
}


def main():
    """Run the module."""
    run_module(ARGUMENTS, info)


if __name__ == "__main__":
    main()
