#!/usr/bin/python

# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: disk_metadata_info
short_description: Show the records of storage pools
description:
  - Lists every record of the pools, of disks and of cached images, with all that it says, and the volumes that have no
    record.
  - No volume is opened. Whether records and volumes agree is checked by M(virt.storage.disk_metadata) with
    O(virt.storage.disk_metadata#module:state=verified).
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
      - Names of the pools. Without this, all active pools of the types that M(virt.storage.libvirt_pool) manages.
    type: list
    elements: str
seealso:
  - module: virt.storage.disk_metadata
"""

EXAMPLES = r"""
- name: What does the pool know
  virt.storage.disk_metadata_info:
    pools: [ssd]
  register: found

- name: Which volumes have no record
  ansible.builtin.debug:
    msg: "{{ found.pools[0].unmanaged }}"
"""

RETURN = r"""
pools:
  description: The pools, in the order asked for, or by name.
  returned: success
  type: list
  elements: dict
  contains:
    pool:
      description: The name of the pool.
      type: str
      sample: ssd
    problem:
      description:
        - Why nothing can be told about the pool, when its records as a whole cannot be read.
        - So it is also for one that cannot be looked into at all, such as one whose cluster does not answer. There is
          a warning then, and with O(pools) the task fails instead.
      returned: when they cannot
      type: str
      sample: "The records in /srv/ssd/.virt-storage have schema 2, and this version of virt.storage knows up to 1:
        use a newer version of the collection."
    unmanaged:
      description: Names of the volumes that no record names which is in force.
      returned: when the records can be read
      type: list
      elements: str
      sample: [old-server.img]
    records:
      description: The records, by id. They stay for 30 days after their volume has gone.
      returned: when the records can be read
      type: list
      elements: dict
      contains:
        id:
          description: The id of the record. No other ever has the same.
          type: str
          sample: web1+root+n5zc2vyabcde
        kind:
          description: V(disk) or V(image).
          type: str
          sample: disk
        state:
          description:
            - For a disk V(pending), V(ready), V(flat), V(deleting), V(gone) or V(released).
            - For an image V(filling), V(ready), V(retired), V(quarantined), V(deleting) or V(gone).
            - V(moving) for a record that has no state.
          type: str
          sample: ready
        problem:
          description: Why the record cannot be read. What follows from here on is not there then.
          returned: when it cannot
          type: str
          sample: "The record of web1+root+n5zc2vyabcde cannot be read: its content is not a record. Nothing is guessed
            from the volume; restore it with disk_metadata state=rebuilt."
        volume:
          description: The name of the volume.
          type: str
          sample: web1+root+n5zc2vyabcde.qcow2
        format:
          description: The format of the volume.
          type: str
          sample: qcow2
        adopted:
          description: For a volume that was adopted, its inode, LVM's UUID or the id of its RBD image. Otherwise empty.
          type: str
          sample: ""
        created:
          description: When the record was made, in UTC.
          type: str
          sample: "2026-04-06T12:00:00.000000Z"
        owner:
          description: Which process made it.
          type: str
          sample: owner+3f2a9c1d7b604e85
        facts:
          description: What is known beside the record, by topic.
          type: dict
          sample: {}
        instance:
          description: The instance that a disk belongs to.
          returned: for disks
          type: str
          sample: web1
        role:
          description: What a disk is to its instance.
          returned: for disks
          type: str
          sample: root
        size:
          description: With how many bytes a disk was made. It may have grown since.
          returned: for disks
          type: int
          sample: 21474836480
        backing:
          description: The id of the image on which a disk was made. One that is V(flat) does not need it any more.
          returned: for disks
          type: str
          sample: image+debian-12+0f3b1c9a2d4e5f60+q2kzvabcdefg
        strategy:
          description:
            - How a disk was made, one of V(overlay), V(reflink), V(snapshot) in a thin pool, V(clone) in Ceph, V(copy),
              V(blank) and V(adopt).
          returned: for disks
          type: str
          sample: overlay
        reason:
          description: Why it was made in this way.
          returned: for disks
          type: str
          sample: a qcow2 overlay costs the same whatever the size of its image
        origin:
          description: Where the content of a disk came from.
          returned: for disks
          type: dict
          sample:
            name: debian-12
        name:
          description: The name under which an image was filled.
          returned: for images
          type: str
          sample: debian-12
        key:
          description: What identifies an image.
          returned: for images
          type: str
          sample: sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
        source:
          description: Where an image was read from, without secrets.
          returned: for images
          type: str
          sample: https://cloud.example.com/debian-12.qcow2
        references:
          description: The ids of the records that refer to an image.
          returned: for images that are not gone
          type: list
          elements: str
          sample: [web1+root+n5zc2vyabcde]
"""

from ansible_collections.virt.storage.plugins.module_utils._tasks.disk_metadata import info
from ansible_collections.virt.storage.plugins.module_utils._tasks.module import run_module

ARGUMENTS = {
    "pools": {"type": "list", "elements": "str"},
    "uri": {"type": "str", "default": "qemu:///system"},
}


def main():
    """Run the module."""
    run_module(ARGUMENTS, info)


if __name__ == "__main__":
    main()
