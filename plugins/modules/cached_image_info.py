#!/usr/bin/python

# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: cached_image_info
short_description: Describe the images that pools keep for cloning
description:
  - Describes the images in the caches of storage pools, those out of use that are still there included.
  - Everything comes from the pools' own records. No image is read.
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
seealso:
  - module: virt.storage.cached_image
"""

EXAMPLES = r"""
- name: Look into all caches
  virt.storage.cached_image_info:
  register: cache

- name: Show what no disk stands on
  ansible.builtin.debug:
    msg: "{{ cache.images | selectattr('problem', 'undefined') | rejectattr('references') | map(attribute='id') }}"
"""

RETURN = r"""
images:
  description: The images, by pool and id.
  returned: success
  type: list
  elements: dict
  contains:
    pool:
      description: The pool that the image is in.
      type: str
      sample: ssd
    name:
      description: The name that the image was brought in by.
      type: str
      sample: debian-12
    names:
      description: All names that stand for the image now.
      type: list
      elements: str
      sample: [debian-12]
    id:
      description: The id of the image's record, which is never used again for another image.
      type: str
      sample: image+debian-12+1c0f4a9be2d73585+k7d2m4q9xa3e
    key:
      description: What the image was identified by, and its format.
      type: str
      sample: sha256:0c3b71e1...+qcow2
    state:
      description:
        - V(ready) is an image that disks are made from.
        - V(retired) is one out of use, on which disks still stand, and V(quarantined) one that was found damaged.
        - V(filling) is one that is being made, and V(deleting) one that is being removed.
      type: str
      sample: ready
    path:
      description: The path of the image; in Ceph its pool and name.
      type: str
      sample: /srv/ssd/.virt-storage/images/image+debian-12+1c0f4a9be2d73585+k7d2m4q9xa3e.raw
    format:
      description: The format in which the pool keeps it.
      type: str
      sample: raw
    size:
      description: The size in bytes that a guest sees.
      type: int
      sample: 3221225472
    allocated:
      description: How many bytes it takes up in the pool.
      type: int
      sample: 1261637632
    content:
      description: The digest of what a guest reads, the same whatever the form in which the image is kept.
      type: str
      sample: content:v1:sha256:5d41402abc4b2a76b9719d911017c5925d41402abc4b2a76b9719d911017c592
    source:
      description: Where the image came from, without user, password and query.
      type: str
      sample: /srv/images/debian-12.qcow2
    source_digests:
      description: The digests of the source as it was transferred, hexadecimal digits by algorithm.
      type: dict
      sample:
        sha256: 0c3b71e1...
    created:
      description: When the image was begun.
      type: str
      sample: "2026-02-01T08:30:00.000000Z"
    pinned:
      description: Whether pruning leaves it alone.
      type: bool
      sample: true
    last_used:
      description: When a disk was last made from it, V(null) for never.
      type: str
      sample: "2026-02-03T17:02:11.000000Z"
    verified:
      description: When it was last read anew and found sound, V(null) for never.
      type: str
      sample: "2026-02-02T03:00:00.000000Z"
    references:
      description: How many disks stand on it.
      type: int
      sample: 12
    problem:
      description: What is wrong with the record. Then nothing but RV(images[].pool), RV(images[].id) and
        RV(images[].state) can be told besides.
      returned: when the record of the image cannot be read
      type: str
      sample: "The record of image+debian-12+1c0f4a9be2d73585+k7d2m4q9xa3e cannot be read: its content is not a record.
        Nothing is guessed from the volume; flatten the disks that need the image, and bring it in anew with
        cached_image."
unseen:
  description:
    - The pools that cannot be looked into, such as one whose cluster does not answer. What is in them is not among
      RV(images), and there is a warning for each. With O(pools) the task fails instead.
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

from ansible_collections.virt.storage.plugins.module_utils._tasks.cached_image import info
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
