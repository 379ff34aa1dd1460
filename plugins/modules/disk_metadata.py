#!/usr/bin/python

# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: disk_metadata
short_description: Set, check and restore the records of disks
description:
  - Every volume of a pool that belongs to an instance or to the image cache has a record in the pool, which says what
    the volume is. Nothing is ever learnt by looking into the data of a volume, because its guest controls what is
    there.
  - This module gives records to volumes that exist (O(state=present)), checks all records of a pool
    (O(state=verified)), restores records that were lost (O(state=rebuilt)), and ends the management of a disk
    (O(state=absent)). It never changes or removes the data of a volume.
  - Before anything is changed, all disks of the task are looked at. If one of them is refused, nothing is changed.
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
      - The id of a new record, and the new name of a raw volume that moves, are only known after a run. They are null.
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  state:
    description:
      - V(present) gives a record to each volume in O(disks) that has none, as the operator states it. A qcow2 volume
        stays where it is. A raw file moves into a subfolder of the pool, because libvirt opens what a guest writes into
        a raw file in the pool's own folder; it is refused while anything uses it. In volume groups and in Ceph nothing
        moves.
      - V(verified) compares all records of the pool with its volumes. It changes nothing, and fails when something is
        wrong, with all that is wrong under RV(problems). What it compares is listed below.
      - V(rebuilt) does what V(present) does, and besides restores what was lost. A record that is missing, or cannot be
        read, is replaced by a new one for the volume and the disk that are stated. A disk whose record lost its state
        gets it back, and a disk whose reference to its image is missing gets that back.
      - V(absent) ends the management of disks. Their volumes stay as they are. A disk that needs a cached image is
        refused, because the image could be pruned under it; flatten it first. A damaged record of a disk that was never
        finished, or whose removal had begun, is given up.
      - A record of a cached image is not restored, because nobody can vouch for what the image holds. Flatten the disks
        that need it, and fill it anew with M(virt.storage.cached_image).
      - A record of a newer version of the collection is left alone by all states.
      - "V(verified) checks, for each record: that it can be read (C(record_damaged)) and is not of a newer version
        (C(record_newer)), that it has a state when its volume exists (C(stateless)), and that it exists for each volume
        and each reference that bears its id (C(record_missing))."
      - "For each disk that is ready: that its volume exists (C(volume_missing)), is a regular file with the header of a
        qcow2 file if its record says so (C(volume_damaged)), and is the file that was adopted (C(volume_replaced));
        that the image it needs has a record, is ready or retired, and has its volume (C(backing_missing)), which can be
        looked at (C(backing_unseen)); that its reference to the image exists (C(reference_missing)); that the header of
        a qcow2 volume names this image, or none when none is needed (C(pointer_differs)); and that no name of a raw
        volume is in the folder that libvirt refreshes (C(raw_exposed))."
      - "For each image that is ready or retired: that its volume exists (C(volume_missing)) and cannot be written to
        (C(unsealed)). The content of images is checked by M(virt.storage.cached_image). Of the journal of a conversion:
        that its entries can be read (C(journal_damaged))."
      - "It reports without failing, under RV(reports): volumes without a record (C(volume_unmanaged)), and work that
        was begun and whose maker is gone, or a removal that is not finished (C(unfinished)), and disks whose header
        names their image by its old name until M(virt.storage.storage_layout) finds their guest off
        (C(pointer_waits)), and disks whose move to another pool is not at its end (C(moving))."
    type: str
    choices: [present, verified, rebuilt, absent]
    default: present
  pool:
    description:
      - The name of the pool.
    type: str
    required: true
  disks:
    description:
      - The disks that O(state=present) and O(state=rebuilt) state, or those that O(state=absent) ends.
    type: list
    elements: dict
    suboptions:
      volume:
        description:
          - The name of the volume, as RV(virt.storage.disk_metadata_info#module:pools[].unmanaged) lists it.
          - Needed for O(state=present) and O(state=rebuilt).
        type: str
      instance:
        description:
          - The instance that the disk belongs to. Needed for O(state=present) and O(state=rebuilt).
        type: str
      role:
        description:
          - What the disk is to its instance. An instance has one disk of each role.
          - V(root) when it is not given.
        type: str
      format:
        description:
          - The format of the volume. It is never found out by a look at the volume, so it is needed for
            O(state=present) and O(state=rebuilt).
          - A volume that is stated to be qcow2 has to have the header of one. Whether its data is in another file, it
            is encrypted, or its header leaves the format of its backing file open is looked up there, and refused.
        type: str
        choices: [raw, qcow2]
      image:
        description:
          - The cached image that a qcow2 volume stands on, by its name, key or id. The header of the volume has to name
            the same image.
          - A volume that stands on anything else is refused.
          - With O(state=rebuilt) the image can be a retired one, as long as a reference of the lost record keeps it.
        type: str
      id:
        description:
          - The id of the record to end with O(state=absent). For the other states ids are made by the module.
          - With O(state=absent) a disk is given by its O(disks[].id), its O(disks[].volume), or O(disks[].instance) and
            O(disks[].role).
        type: str
seealso:
  - module: virt.storage.disk_metadata_info
  - module: virt.storage.cached_image
  - module: virt.storage.instance_disk
"""

EXAMPLES = r"""
- name: Take over two volumes that somebody else made
  virt.storage.disk_metadata:
    pool: default
    disks:
      - volume: old-server.qcow2
        instance: old-server
        format: qcow2
      - volume: old-server-data.img
        instance: old-server
        role: data
        format: raw
# actions:
#   - adopt old-server.qcow2 as disk root of old-server in pool default (qcow2)
#   - adopt old-server-data.img as disk data of old-server in pool default (raw, moved)

- name: Check every record of a pool
  virt.storage.disk_metadata:
    pool: ssd
    state: verified

- name: Restore the record of a disk, from what the operator knows of it
  virt.storage.disk_metadata:
    pool: ssd
    state: rebuilt
    disks:
      - volume: web1+root+n5zc2vyabcde.qcow2
        instance: web1
        role: root
        format: qcow2
        image: debian-12

- name: Leave a disk to somebody else
  virt.storage.disk_metadata:
    pool: ssd
    state: absent
    disks:
      - instance: web1
        role: data
"""

RETURN = r"""
actions:
  description: What was done, or in check mode would be, as sentences and in order.
  returned: success
  type: list
  elements: str
  sample:
    - adopt old-server.qcow2 as disk root of old-server in pool default (qcow2)
plan:
  description: The same steps in parts.
  returned: success
  type: list
  elements: dict
  contains:
    verb:
      description: What kind of step it is.
      type: str
      sample: adopt
    what:
      description: What the step is about.
      type: str
      sample: disk root of old-server in pool default
    sentence:
      description: The step as in RV(actions).
      type: str
      sample: adopt old-server.qcow2 as disk root of old-server in pool default (qcow2)
    bytes_to_read:
      description: How many bytes of data the step reads. None of them reads any.
      type: int
      sample: 0
    bytes_to_write:
      description: How many bytes of data the step writes. None of them writes any.
      type: int
      sample: 0
disks:
  description: The disks that were stated, as they are now, or in check mode as they would be.
  returned: success
  type: list
  elements: dict
  contains:
    instance:
      description: The instance that the disk belongs to.
      type: str
      sample: old-server
    role:
      description: What the disk is to its instance.
      type: str
      sample: root
    pool:
      description: The name of the pool.
      type: str
      sample: default
    id:
      description: The id of the record.
      type: str
      sample: old-server+root+n5zc2vyabcde
    state:
      description: The state of the record, V(ready) or V(flat).
      type: str
      sample: ready
    volume:
      description: The name of the volume.
      type: str
      sample: old-server.qcow2
    path:
      description: The path of the volume.
      type: str
      sample: /var/lib/libvirt/images/old-server.qcow2
    format:
      description: The format of the volume.
      type: str
      sample: qcow2
    size:
      description: How many bytes the guest sees.
      type: int
      sample: 21474836480
    backing:
      description: The id of the cached image that the volume needs, or null.
      type: str
      sample: image+debian-12+0f3b1c9a2d4e5f60+q2kzvabcdefg
problems:
  description: What is wrong in the pool. Where there is anything, the module fails.
  returned: always for O(state=verified), otherwise empty
  type: list
  elements: dict
  contains: &finding
    pool:
      description: The name of the pool.
      type: str
      sample: ssd
    id:
      description: The id of the record that it is about, or empty.
      type: str
      sample: web1+root+n5zc2vyabcde
    volume:
      description: The name of the volume that it is about, or empty.
      type: str
      sample: web1+root+n5zc2vyabcde.qcow2
    problem:
      description: A word for what it is, of those listed at O(state=verified).
      type: str
      sample: record_missing
    message:
      description: A sentence that says what was found and how it is restored.
      type: str
      sample: "The disk web1+root+n5zc2vyabcde left the volume web1+root+n5zc2vyabcde.qcow2 and has no record: state its
        disk with disk_metadata state=rebuilt."
reports:
  description: What was found besides, and is not wrong.
  returned: always for O(state=verified), otherwise empty
  type: list
  elements: dict
  contains: *finding
"""

from ansible_collections.virt.storage.plugins.module_utils._tasks.disk_metadata import task
from ansible_collections.virt.storage.plugins.module_utils._tasks.module import run_module

DISK = {
    "volume": {"type": "str"},
    "instance": {"type": "str"},
    "role": {"type": "str"},
    "format": {"type": "str", "choices": ["raw", "qcow2"]},
    "image": {"type": "str"},
    "id": {"type": "str"},
}
ARGUMENTS = {
    "state": {"type": "str", "choices": ["present", "verified", "rebuilt", "absent"], "default": "present"},
    "pool": {"type": "str", "required": True},
    "disks": {"type": "list", "elements": "dict", "options": DISK},
    "uri": {"type": "str", "default": "qemu:///system"},
}
NEEDED = [("state", state, ["disks"]) for state in ("present", "rebuilt", "absent")]


def main():
    """Run the module."""
    run_module(ARGUMENTS, task, required_if=NEEDED)


if __name__ == "__main__":
    main()
