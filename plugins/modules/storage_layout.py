#!/usr/bin/python

# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: storage_layout
short_description: Convert a host from an old storage layout
description:
  - Converts the disks of a host whose instances have them in the layout of Nova's libvirt driver, with one cache of
    files for all of them, or in a plain folder of qcow2 overlays over bases that were made by hand. Afterwards the
    disks are managed disks of a pool, and what they stand on is in the image cache of that pool.
  - Nothing is copied that can be hard-linked. For disks that are files the pool has to be of type V(dir) or V(netfs)
    and on the file system of the disks. A base that is not raw is converted into the pool, once, and the plan says so.
  - Disks that Nova has in the volume group of a pool of type V(logical), or in the Ceph pool of one of type V(rbd),
    become disks of that pool where they are, by records alone.
  - What is done and how it is undone is written into a journal in the pool before it is done. A run that was killed is
    continued, or taken back, by the next one. Until an instance is finalized its old paths lead to the same files.
  - The format of a disk is never found out by a look at its data. What C(disk.info), the definition of the guest and
    the record in the pool say has to agree. Otherwise the instance is left until O(formats) says what the disk is.
  - Each base is inspected as an incoming image. One that does not pass is quarantined. It stays as it is, and so do the
    instances that stand on it.
  - An instance that cannot be converted holds up no other.
author:
  - The virt.storage authors (@virt-storage)
extends_documentation_fragment:
  - virt.storage.attributes
  - virt.storage.attributes.actiongroup_storage
  - virt.storage.requirements
  - virt.storage.requirements.qemu
  - virt.storage.requirements.inspection
  - virt.storage.pool
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  state:
    description:
      - V(planned) tells what a conversion would do, and why, and changes nothing.
      - V(converted) converts. What needs an instance off is put off while anything uses its disks, and a guest with a
        managed save counts as such. It is done by a later run. The guest goes on meanwhile, and boots from the pool
        when it is started the next time.
      - V(rolled_back) puts back what was converted and is not finalized, as it was. Names, link counts and modes of
        files, backing pointers, and definitions of guests. The instances have to be off. The header of a disk that has
        not run since is the same, bit for bit.
      - V(finalized) takes the old names away, after it has compared inode and pointer. There is no way back from that.
    type: str
    choices: [planned, converted, rolled_back, finalized]
    default: planned
  layout:
    description:
      - V(nova) is what Nova's libvirt driver makes. With a pool of folders that is its folder of instances, with
        C(images_type) V(qcow2), V(raw) or V(flat), otherwise its volumes in that pool, with C(images_type) V(lvm) or
        V(rbd).
      - V(folder) is a folder in which the guests of this host have their disks, together with what these stand on.
    type: str
    choices: [nova, folder]
    default: nova
  path:
    description:
      - The folder. For O(layout=nova) what C(nova.conf) calls C(instances_path). Of disks that are volumes it
        only tells which Nova is resizing or deleting just now.
    type: path
    default: /var/lib/nova/instances
  pool:
    description:
      - The pool that the disks are converted into.
    type: str
    required: true
  instances:
    description:
      - Only these, by the names of their folders, or of the guests in layout V(folder). Without this, all.
    type: list
    elements: str
  formats:
    description:
      - What the operator knows of the format of a file, V(raw) or V(qcow2), by its path. It decides over everything
        else that is said. A volume is given by its name.
    type: dict
  base_format:
    description:
      - What bases are of which nothing says a format, neither the headers of the disks on them nor O(formats). Nova's
        default C(force_raw_images=True) makes them V(raw).
    type: str
    choices: [raw, qcow2]
  flattened:
    description:
      - Whether disks in Ceph that Nova cloned from a snapshot of Glance are flattened, so that they no longer need it.
        That copies, and waits while a disk is in use. There is no way back from it, O(state=rolled_back) leaves them
        flat.
      - Otherwise they go on standing on the snapshot. Not used for other disks.
    type: bool
    default: false
seealso:
  - module: virt.storage.disk_metadata
  - module: virt.storage.cached_image
"""

EXAMPLES = r"""
- name: What would a conversion do
  virt.storage.storage_layout:
    pool: instances
  register: plan

- name: Show that in one line
  ansible.builtin.debug:
    msg: "{{ plan.verdict }}"

- name: Convert what can be converted
  virt.storage.storage_layout:
    state: converted
    pool: instances

- name: Go back
  virt.storage.storage_layout:
    state: rolled_back
    pool: instances

- name: Make it final for two instances
  virt.storage.storage_layout:
    state: finalized
    pool: instances
    instances:
      - 3f2b8a52-0a5f-4a35-9d6c-0b1f6a4f1f10
      - 8d0f3c1e-54c7-4c3e-8e56-7d8a7f0b2a11

- name: Convert a folder of overlays, as vagrant-libvirt and terraform leave it
  virt.storage.storage_layout:
    state: converted
    layout: folder
    path: /var/lib/libvirt/images
    pool: default
"""

RETURN = r"""
actions:
  description: What was done, or would be in check mode, as sentences.
  returned: always
  type: list
  elements: str
plan:
  description: The same as data. Sizes are bytes.
  returned: always
  type: list
  elements: dict
verdict:
  description: One line that says whether the host can be converted and what stands in the way; with
    O(state=rolled_back) and O(state=finalized), for how many instances that is done.
  returned: always
  type: str
  sample: "The host can be converted: 12 converted at once, 1 converted but for what waits until they are off (web3);
    0 bytes of disk data are copied."
stop_service:
  description: Whether nova-compute has to be stopped for what is to be done. A run refuses while it runs.
  returned: always
  type: bool
bytes_to_copy:
  description: Bytes of disk data that are copied. What is hard-linked is not.
  returned: always
  type: int
instances:
  description: The instances of the layout.
  returned: always
  type: list
  elements: dict
  contains:
    instance:
      description: The name of the instance.
      type: str
    guest:
      description: The domain that has its disks, empty where none of this host has.
      type: str
    state:
      description: V(off), V(running), V(paused) or V(saved).
      type: str
    verdict:
      description: V(converts), V(waits) for what is converted but for steps that need it off, V(converted) or
        V(refused). V(rolled back) and V(finalized) for these states.
      type: str
    refusals:
      description: Why it is left as it is.
      type: list
      elements: str
    steps:
      description: The steps, each with the bytes to copy, its reason, whether it needs the instance off, and whether it
        is done now or later.
      type: list
      elements: dict
    disks:
      description: Its disks, with their formats and who says so.
      type: list
      elements: dict
bases:
  description: The bases that become images, and those that are quarantined, with the flaw.
  returned: always
  type: list
  elements: dict
left:
  description: What is left alone, and why.
  returned: always
  type: list
  elements: dict
failures:
  description: The instances and bases that failed, each with a sentence.
  returned: when some did
  type: dict
"""

from ansible_collections.virt.storage.plugins.module_utils._tasks.module import run_module
from ansible_collections.virt.storage.plugins.module_utils._tasks.storage_layout import task

ARGUMENTS = {
    "state": {
        "type": "str",
        "choices": ["planned", "converted", "rolled_back", "finalized"],
        "default": "planned",
    },
    "layout": {"type": "str", "choices": ["nova", "folder"], "default": "nova"},
    "path": {"type": "path", "default": "/var/lib/nova/instances"},
    "pool": {"type": "str", "required": True},
    "instances": {"type": "list", "elements": "str"},
    "formats": {"type": "dict"},
    "base_format": {"type": "str", "choices": ["raw", "qcow2"]},
    "flattened": {"type": "bool", "default": False},
    "uri": {"type": "str", "default": "qemu:///system"},
}


def main():
    """Run the module."""
    run_module(ARGUMENTS, task, requires=("libvirt", "oslo_utils.imageutils.format_inspector"))


if __name__ == "__main__":
    main()
