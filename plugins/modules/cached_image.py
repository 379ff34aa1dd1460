#!/usr/bin/python

# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: cached_image
short_description: Manage the images that pools keep for cloning
description:
  - Brings images into the image caches of storage pools, where M(virt.storage.instance_disk) clones disks from them.
    Takes images out of use, prunes a cache to its limits, and verifies that images still hold what was written.
  - An image is read once, whatever the number of pools. On its way it is verified against its checksum, inspected, and
    converted to the form in which its pool clones fastest. An image that is not what it is declared to be, or that
    refers to other files, is refused before any program of QEMU has opened it.
  - An image in a cache never changes. When its source does, O(images[].refresh) or another checksum brings in a new
    image, the name stands for that from then on, and disks of the old one keep the old one.
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
    details:
      - Of an image that is not there yet, the source is not read, except for a file of checksums and with
        O(images[].refresh). So a source that would be refused is refused in a run only.
      - A pool or a local source that is missing is a warning in check mode, because an earlier task may make it, and an
        error in a run.
  diff_mode:
    support: full
  idempotent:
    support: full
    details:
      - With O(state=verified) the time of the verification is noted each time, which does not count as a change.
options:
  state:
    description:
      - V(present) has every one of O(images) ready for cloning in every one of O(pools).
      - V(absent) takes O(images) out of use for good and removes them. The data of an image that a disk stands on stays
        until the last such disk is gone.
      - V(pruned) clears what work that was cut short has left, and removes images until the limits of the cache are
        met, those that were not used for the longest time first. An image on which a disk stands, that is pinned, or
        that is one of O(keep) always stays.
      - V(verified) reads images anew and compares them with the digest that was taken when they were written. An image
        that differs is quarantined, which means that no disk is ever made from it again, and the task fails. It goes
        on to fail until that image is removed.
    type: str
    choices: [present, absent, pruned, verified]
    default: present
  pools:
    description:
      - The storage pools, by name. They have to be active.
    type: list
    elements: str
    required: true
  images:
    description:
      - The images. Needed for O(state=present) and O(state=absent).
      - With O(state=verified) only these are verified, without it all.
    type: list
    elements: dict
    suboptions:
      name:
        description:
          - The name that disks are made by. 1 to 64 letters, digits and C(._-), beginning with a letter or digit.
          - With O(state=absent) and O(state=verified) also the RV(images[].id) or the RV(images[].key) of an image.
          - Several names may stand for one image, which is kept once. O(state=absent) then takes the name only.
        type: str
        required: true
      source:
        description:
          - Where the image comes from, an absolute path on the host or an C(http) or C(https) URL. Needed for
            O(state=present).
          - Or a snapshot in Ceph, as V(rbd:pool/image@snapshot), or as V(rbd://fsid/pool/image/snapshot), which is what
            Glance calls the location of an image. A pool in the same cluster clones it without copying, other pools
            copy what it holds.
          - A user, a password or a query in the URL is neither recorded nor shown.
          - A source without O(images[].checksum) is read once, and not again unless O(images[].refresh) is set.
        type: str
      format:
        description:
          - The format of the image, when it is not compressed. Needed for O(state=present), except for a snapshot in
            Ceph, which is V(raw). It is never guessed, and an image of another format is refused.
        type: str
        choices: [raw, qcow2, vmdk, vdi, vpc, vhdx, iso]
      checksum:
        description:
          - The digest of the source as it is transferred, V(sha256:) or V(sha512:) and its digits.
          - Or the URL or absolute path of a file of such digests (C(SHA256SUMS) and the like), which has a line for the
            last part of O(images[].source). Credentials are sent there only when it is on the same server.
        type: str
      compression:
        description:
          - How the source is compressed besides. V(auto) goes by the end of its name.
        type: str
        choices: [auto, none, gz, xz, zst]
        default: auto
      flatten:
        description:
          - Have an image that is cloned from a snapshot in Ceph hold all of its data itself when it is brought in, so
            that the snapshot can be removed.
        type: bool
        default: false
      ceph:
        description:
          - How the cluster of O(images[].source) is reached, where that is not the cluster of the first of O(pools)
            that is in Ceph.
        type: dict
        suboptions:
          monitors:
            description:
              - The monitors, V(host) or V(host:port). Otherwise those that O(images[].ceph.conf) names.
            type: list
            elements: str
          conf:
            description:
              - A configuration file on the host that names the monitors. V(/etc/ceph/ceph.conf) when it is not given.
            type: path
          user:
            description:
              - The user, without C(client.). V(libvirt) when it is not given.
            type: str
          keyring:
            description:
              - A file on the host with the key of the user. V(/etc/ceph/ceph.client.USER.keyring) when it is not given.
            type: path
          key:
            description:
              - The key itself.
            type: str
      pinned:
        description:
          - Whether O(state=pruned) has to leave the image alone. Without it a pin stays as it is.
          - A pin belongs to the name. When the name stands for a newer image, it is that which is pinned.
        type: bool
      refresh:
        description:
          - Read the whole source each time, to find out whether it has changed.
          - Not needed with O(images[].checksum), which tells.
        type: bool
        default: false
      headers:
        description:
          - Headers to send with each request to the server of O(images[].source), and to no other.
        type: dict
      username:
        description:
          - The user to log in as at the server of O(images[].source), and at no other.
        type: str
      password:
        description:
          - The password of that user.
        type: str
      client_cert:
        description:
          - A file with a certificate in PEM format to show to the server, and the key unless O(images[].client_key) has
            it.
        type: path
      client_key:
        description:
          - The file with the key of O(images[].client_cert), in PEM format.
        type: path
      ca_path:
        description:
          - A file with the certificates of the authorities to trust, in PEM format, instead of the system's.
        type: path
      validate_certs:
        description:
          - Whether the certificate of the server has to be valid.
        type: bool
        default: true
      use_proxy:
        description:
          - Whether to use the proxy that the environment of the task names.
        type: bool
        default: true
      timeout:
        description:
          - For how many seconds the server may be silent.
        type: int
        default: 60
  limits:
    description:
      - What one image may take up at most while it is brought in.
    type: dict
    suboptions:
      max_source_bytes:
        description:
          - The size of the source as it is transferred, in bytes or with a unit. V(1T) when it is not given.
        type: str
      max_virtual_size:
        description:
          - The size of the disk in the image, in bytes or with a unit. V(1T) when it is not given.
        type: str
      timeout:
        description:
          - How many seconds it may take. V(3600) when it is not given.
        type: int
  keep:
    description:
      - With O(state=pruned), names or ids of images that stay, for example those that other tasks of the play bring in.
    type: list
    elements: str
  cache:
    description:
      - With O(state=pruned), limits of the cache for this task. One that is not given is that of the pool, see
        O(virt.storage.libvirt_pool#module:cache). V(0) is no limit.
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
seealso:
  - module: virt.storage.cached_image_info
  - module: virt.storage.libvirt_pool
"""

EXAMPLES = r"""
- name: An image of Debian in two pools, from one download
  virt.storage.cached_image:
    pools: [ssd, hdd]
    images:
      - name: debian-12
        source: https://cloud.debian.org/images/cloud/bookworm/20250703-2162/debian-12-generic-amd64-20250703-2162.qcow2
        format: qcow2
        checksum: https://cloud.debian.org/images/cloud/bookworm/20250703-2162/SHA512SUMS
        pinned: true
# actions:
#   - bring image debian-12 into pool ssd (qcow2 from https://cloud.debian.org/images/cloud/...)
#   - bring image debian-12 into pool hdd by what is read for pool ssd

- name: An image that is built every night, taken anew when it has changed
  virt.storage.cached_image:
    pools: [ssd]
    images:
      - name: appliance
        source: https://builds.example.com/appliance/latest.raw.zst
        format: raw
        refresh: true
        username: ci
        password: "{{ builds_password }}"
        ca_path: /etc/ssl/certs/example-ca.pem
    limits:
      max_virtual_size: 40G

- name: The image of Glance, cloned where it is
  virt.storage.cached_image:
    pools: [ceph]
    images:
      - name: debian-12
        source: rbd:images/1ccbe4a6-a2ee-4f1c-9b6d-6f6f0a5c1f5e@snap

- name: Take an image out of use
  virt.storage.cached_image:
    state: absent
    pools: [ssd, hdd]
    images:
      - name: debian-11

- name: Make room, and keep what the other plays need
  virt.storage.cached_image:
    state: pruned
    pools: [ssd]
    keep: [debian-12, appliance]
    cache:
      max_age: 2592000
      min_free: 100GiB

- name: Read every image anew
  virt.storage.cached_image:
    state: verified
    pools: [ssd, hdd]
"""

RETURN = r"""
actions:
  description: What was done, or in check mode would be, as sentences and in order.
  returned: success
  type: list
  elements: str
  sample:
    - bring image debian-12 into pool ssd (qcow2 from /srv/images/debian-12.qcow2, 408.2 MiB)
    - bring image debian-12 into pool hdd by what is read for pool ssd
plan:
  description: The same steps in parts.
  returned: success
  type: list
  elements: dict
  contains:
    verb:
      description: What kind of step it is.
      type: str
      sample: fill
    what:
      description: What the step is about.
      type: str
      sample: image debian-12 in pool ssd
    sentence:
      description: The step as in RV(actions).
      type: str
      sample: bring image debian-12 into pool hdd by what is read for pool ssd
    bytes_to_read:
      description:
        - How many bytes of data the step reads. None where only a run can tell, as for a source behind a URL.
      type: int
      sample: 1261637632
    bytes_to_write:
      description:
        - How many bytes of data the step writes, without zeroes; more than it then turns out to be where a source has
          zeroes stored as data. None where only a run can tell. Metadata and what is staged do not count.
      type: int
      sample: 1261637632
    strategy:
      description:
        - The way that was chosen. V(source) reads the source, V(shared) gets what is read for another pool, V(sibling)
          copies from a pool that has the image, V(clone) clones a snapshot in Ceph.
      returned: for images that are brought in
      type: str
      sample: shared
    reason:
      description: Why, where there is more to say than that it was asked for.
      returned: sometimes
      type: str
      sample: its source is read once, for pool ssd, too
    takes:
      description:
        - By how many bytes there is less free in each pool afterwards, by its name; negative where there is more.
      returned: for steps that have to do with room
      type: dict
      sample:
        ssd: 1261637632
fill_after:
  description:
    - For each step of RV(plan), the pools that it is about with their C(capacity) and what is C(free) after the step,
      in bytes. What is free is None where that cannot be told before.
  returned: success, but not with O(state=verified)
  type: list
  elements: dict
  sample:
    - ssd:
        capacity: 1099511627776
        free: 824633720832
counted:
  description: For each step of RV(plan), how many bytes of data it read and wrote, C(bytes_read) and C(bytes_written).
  returned: success, not in check mode, with O(state=present) and O(state=absent)
  type: list
  elements: dict
  sample:
    - bytes_read: 1261637632
      bytes_written: 1261637632
images:
  description:
    - With O(state=present) the images that were asked for, one for each pool.
    - With O(state=absent) those that are still there, because a disk stands on them or another name stands for them.
    - With O(state=verified) those that were read.
  returned: when O(state) is not V(pruned)
  type: list
  elements: dict
  contains:
    pool:
      description: The pool that the image is in.
      type: str
      sample: ssd
    name:
      description: The name that the image was brought in by. With O(state=present) the name that was asked for.
      type: str
      sample: debian-12
    names:
      description: All names that stand for the image now.
      type: list
      elements: str
      sample: [debian-12]
    id:
      description:
        - The id of the image's record, which is never used again for another image.
        - In check mode, an image that is not there yet has none. The same is true of all that only a run can tell.
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
    sound:
      description: Whether the image holds what was written.
      returned: with O(state=verified)
      type: bool
      sample: true
pruned:
  description: What became of each cache, by pool.
  returned: with O(state=pruned)
  type: dict
  contains:
    removed:
      description: Images that were removed, each with C(id), C(names), C(bytes) and the C(reason).
      type: list
      elements: dict
    kept:
      description: Images that stay, each with C(id), C(names), C(bytes) and C(why).
      type: list
      elements: dict
    frees:
      description: What the removed images took up, in bytes.
      type: int
    cached:
      description: What the images that stay take up, in bytes. The disks that stand on them count apart.
      type: int
    cleared:
      description: What was cleared of work that was cut short, in sentences.
      type: list
      elements: str
    left:
      description: What ought to go and cannot yet, in sentences.
      type: list
      elements: str
    unmet:
      description: The limits that cannot be met, in sentences. Each is a warning, too.
      type: list
      elements: str
  sample:
    ssd:
      removed:
        - id: image+debian-11+77a1c29b3d4e5f60+q3w5e7r9t2y4
          names: [debian-11]
          bytes: 1047527424
          reason: last used at 2026-01-02T04:30:00Z, more than 2592000 seconds ago
      kept:
        - id: image+debian-12+1c0f4a9be2d73585+k7d2m4q9xa3e
          names: [debian-12]
          bytes: 1261637632
          why: 12 disks on it
      frees: 1047527424
      cached: 1261637632
      cleared: []
      left: []
      unmet: []
problems:
  description: What is wrong with images, also with those that are not read any more.
  returned: with O(state=verified)
  type: list
  elements: dict
  contains:
    pool:
      description: The pool that the image is in.
      type: str
      sample: ssd
    id:
      description: The id of the image.
      type: str
      sample: image+debian-12+1c0f4a9be2d73585+k7d2m4q9xa3e
    problem:
      description:
        - One of V(content_differs), V(quarantined), V(volume_missing), V(digest_missing), V(record_damaged) and
          V(unreadable).
      type: str
      sample: volume_missing
    message:
      description: What was found and what to do.
      type: str
      sample: The image image+debian-12+1c0f4a9be2d73585+k7d2m4q9xa3e of pool ssd has no volume any more ...
done:
  description: What had been done before the task failed, as sentences.
  returned: when O(state=present) fails after it has begun
  type: list
  elements: str
check:
  description: The check that an image did not pass.
  returned: when an image is refused
  type: str
  sample: format_mismatch
"""

from ansible_collections.virt.storage.plugins.module_utils._tasks.cached_image import task
from ansible_collections.virt.storage.plugins.module_utils._tasks.image_wishes import requirements, url_secrets
from ansible_collections.virt.storage.plugins.module_utils._tasks.module import run_module

ARGUMENTS = {
    "state": {"type": "str", "choices": ["present", "absent", "pruned", "verified"], "default": "present"},
    "pools": {"type": "list", "elements": "str", "required": True},
    "images": {
        "type": "list",
        "elements": "dict",
        "options": {
            "name": {"type": "str", "required": True},
            "source": {"type": "str"},
            "format": {"type": "str", "choices": ["raw", "qcow2", "vmdk", "vdi", "vpc", "vhdx", "iso"]},
            "checksum": {"type": "str"},
            "compression": {"type": "str", "choices": ["auto", "none", "gz", "xz", "zst"], "default": "auto"},
            "flatten": {"type": "bool", "default": False},
            "ceph": {
                "type": "dict",
                "options": {
                    "monitors": {"type": "list", "elements": "str"},
                    "conf": {"type": "path"},
                    "user": {"type": "str"},
                    "keyring": {"type": "path", "no_log": False},
                    "key": {"type": "str", "no_log": True},
                },
            },
            "pinned": {"type": "bool"},
            "refresh": {"type": "bool", "default": False},
            "headers": {"type": "dict", "no_log": True},
            "username": {"type": "str"},
            "password": {"type": "str", "no_log": True},
            "client_cert": {"type": "path"},
            "client_key": {"type": "path", "no_log": True},
            "ca_path": {"type": "path"},
            "validate_certs": {"type": "bool", "default": True},
            "use_proxy": {"type": "bool", "default": True},
            "timeout": {"type": "int", "default": 60},
        },
    },
    "limits": {
        "type": "dict",
        "options": {
            "max_source_bytes": {"type": "str"},
            "max_virtual_size": {"type": "str"},
            "timeout": {"type": "int"},
        },
    },
    "keep": {"type": "list", "elements": "str"},
    "cache": {
        "type": "dict",
        "options": {
            "max_bytes": {"type": "str"},
            "max_count": {"type": "int"},
            "max_age": {"type": "int"},
            "min_free": {"type": "str"},
        },
    },
    "uri": {"type": "str", "default": "qemu:///system"},
}


def main():
    """Run the module."""
    run_module(
        ARGUMENTS,
        task,
        requires=requirements,
        secrets=url_secrets,
        required_if=[("state", "present", ["images"]), ("state", "absent", ["images"])],
    )


if __name__ == "__main__":
    main()
