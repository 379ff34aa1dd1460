#!/usr/bin/python

# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: instance_disk
short_description: Manage the disks of instances
description:
  - Makes, grows, flattens and removes the disks of instances in storage pools, one or thousands in one task.
  - A disk is known by its instance and its role. The task finds it again by these, wherever its file is, and never by
    looking into a volume.
  - Returns the C(<disk>) element to put into the definition of the domain.
  - An argument that cannot be meant, and anything else that is seen before, is refused before the first disk is
    touched. A disk that fails later does not keep the others from being made.
author:
  - The virt.storage authors (@virt-storage)
extends_documentation_fragment:
  - virt.storage.attributes
  - virt.storage.attributes.actiongroup_storage
  - virt.storage.requirements
  - virt.storage.requirements.qemu
  - virt.storage.requirements.inspection
  - virt.storage.requirements.config_disk
  - virt.storage.requirements.file_systems
  - virt.storage.pool
attributes:
  check_mode:
    support: full
    details:
      - The id, the path and the element of a disk that does not exist yet are not known before it is made.
      - A pool, an image or a file to import that is missing is a warning in check mode, because an earlier task may
        bring it, and an error in a run.
      - A file to import is inspected in a run only.
      - Where no pool has the labels that a flavor asks for, an earlier task may make or label one. That is a warning in
        check mode, and RV(disks[].pool) has no value then.
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  state:
    description:
      - V(present) has every one of O(disks) made, at least as large as asked for, and flattened where that is asked.
      - V(absent) removes O(disks) and their data. It is refused, for all of them, while one is in use, by a guest that
        runs, is paused or has a managed save, or by any other process.
    type: str
    choices: [present, absent]
    default: present
  pool:
    description:
      - The storage pool of all disks that do not name their own. It has to be active.
      - A disk that exists in another pool of this host is not made a second time, and moved only with O(allow_move).
      - Mutually exclusive with O(flavor).
    type: str
  allow_move:
    description:
      - Have disks that stand in another pool of this host moved to the pool that is asked for, O(pool) or
        O(disks[].pool). Without it they are refused. A disk asked for by flavor stays where it is.
      - With it, a disk that is found nowhere is made only when every pool that may have it could be looked into. One
        that is not active, or cannot be read, is an error.
      - A disk that moves must have no snapshots of its guest in it; one in Ceph must have neither snapshots nor clones.
        It gets a new id and path, so its guest has to be defined anew, with RV(disks[].xml). The disk left behind is
        removed when the new one is ready; until then it counts.
      - It must not be in use, but by one guest that runs on this host while the disk moves between pools of files or in
        Ceph. Such a guest goes on with the new disk, its definition, too, and stands still for a moment. This needs
        libvirt 8.0.
      - Where the disk comes from a pool of files, and the other has the same image ready, only what the disk has of its
        own is copied. Otherwise all of its data is, and the disk needs no image any more. RV(plan[].reason) tells why.
      - A move that was broken off is brought to its end, or taken back, by the next task about the disk.
    type: bool
    default: false
  flavor:
    description:
      - The flavor of all disks that name neither a pool nor a flavor of their own. It chooses the pool.
      - A disk that exists stays where it is, also in a pool that the flavor does not allow, of which a warning tells.
      - New disks are placed from the largest to the smallest, each into the best choice of its flavor that has a pool
        with room, and counted there before the next. So the same disks and pools give the same places in any order.
        RV(disks[].placement) tells why.
      - To be sure that a disk does not exist yet, all pools of the host are looked into. Where one cannot be, because
        it is not active for example, no new disk is placed by flavor.
      - With O(state=absent) the disks are removed wherever they are, whatever the name of the flavor.
      - Mutually exclusive with O(pool).
    type: str
  flavors:
    description:
      - What the flavors are, by name, most often the variable C(storage_pool_flavors) of the role
        P(virt.storage.storage_pool#role).
      - Each has a list of choices for V(root), V(ephemeral) and V(swap) disks, the best first. The choices for V(root)
        are also for disks of the role V(config), and for those parts that are not given. Swap is what has the role
        V(swap) or is made with O(disks[].blank.fs=swap). All other disks are ephemeral.
      - A choice has C(pools), a list of names, or C(labels), all of which a pool must have, or both.
      - C(choose) is V(spread), the default, to take the pool with the most room of those that fit, or V(pack), to take
        the one with the least.
      - C(overcommit) is how many times its capacity a pool may promise to disks, V(1) when it is not given. What counts
        is the size of a disk as its guest sees it. Cached images count apart.
      - C(min_free) is how much space has to be free in the pool, besides what making the disk takes up at once.
      - A flavor that has C(extra_specs) instead is one of Nova's. C(disk:pool) names pools as in V(ssd1,ssd2;hdd),
        with a semicolon between choices, C(disk:pool_labels) gives labels as in V(media=nvme,tier=gold;media=ssd).
        C(disk:root_pool), C(disk:ephemeral_pool), C(disk:swap_pool) and the same with C(_labels) are about one part.
        C(disk:pool_choose), C(disk:pool_overcommit) and C(disk:pool_min_free) are about all choices. Specs that do not
        begin with C(disk:) are left alone.
    type: dict
  disks:
    description:
      - The disks.
      - What a disk is made of is said by one of O(disks[].image), O(disks[].blank), O(disks[].config) and
        O(disks[].import_from). None is needed for a disk that exists. One that says otherwise than what the disk was
        made of is refused, because a disk is never made anew in place.
    type: list
    elements: dict
    required: true
    suboptions:
      instance:
        description:
          - The name of the instance. 1 to 64 letters, digits and C(._-), beginning with a letter or digit.
        type: str
        required: true
      role:
        description:
          - What the disk is to the instance, such as V(root), V(data) or V(config). 1 to 16 lower-case letters, digits
            and hyphens. An instance has one disk for each role.
          - V(root) when it is not given. With O(state=absent) all disks of the instance in the pool are meant then.
        type: str
      pool:
        description:
          - The storage pool of this disk, instead of O(pool) or O(flavor).
          - Mutually exclusive with O(disks[].flavor).
        type: str
      flavor:
        description:
          - The flavor that chooses the pool of this disk, instead of O(flavor) or O(pool).
          - A disk that is imported by flavor needs its O(disks[].size), and cannot be imported from a pool.
          - Mutually exclusive with O(disks[].pool).
        type: str
      size:
        description:
          - The size in bytes or with a unit, a power of 1024, such as V(20G). It is rounded up to whole sectors of 512
            bytes.
          - A disk that exists grows to this, also while its guest runs, which then sees the new size at once. A disk
            never shrinks, and does not grow while an external snapshot stands on it.
          - When it is not given, a disk of an image has the image's size, and a disk that exists keeps its own. A new
            blank disk needs it.
        type: str
      image:
        description:
          - Clone a cached image, given by its name, its key or its id; see M(virt.storage.cached_image). The image has
            to be in the pool of the disk.
        type: str
      blank:
        description:
          - Make an empty disk.
        type: dict
        suboptions:
          fs:
            description:
              - The file system on it. It fills the whole disk, without a partition table.
              - The file systems of the disks of one instance have different UUIDs. One instance's and another's may be
                the same.
            type: str
            choices: [none, ext4, xfs, swap, vfat]
            default: none
          label:
            description:
              - The label of the file system. Up to 16 characters for ext4, 15 for swap, 12 for xfs, 11 for vfat.
            type: str
      config:
        description:
          - Make a disk that configures the guest through cloud-init, with its C(NoCloud) data source. It is attached as
            a CD-ROM where nothing else is said.
          - Its files are text and may hold secrets. They are not logged, recorded or returned, and only root and the
            guest can read the disk.
        type: dict
        suboptions:
          user_data:
            description:
              - The C(user-data), which begins with V(#cloud-config) in most cases.
            type: str
          meta_data:
            description:
              - The C(meta-data), YAML or JSON. The name of the instance is put in as C(instance-id) when it has none.
            type: str
          network_config:
            description:
              - The C(network-config).
            type: str
          vendor_data:
            description:
              - The C(vendor-data).
            type: str
      own_data:
        description:
          - What a new clone of O(disks[].image) gets over its image, from a qcow2 file that stands on the same image on
            another host. Only what the file has of its own is read, and the image that it names is not looked for.
          - The disk gets the size that the file has. It needs a pool in a folder or in Ceph. A disk that exists stays
            as it is.
        type: dict
        suboptions:
          path:
            description:
              - The absolute path of the file, which nobody may use.
            type: path
            required: true
          content:
            description:
              - The digest of the content of the image that the file stands on, as M(virt.storage.cached_image_info)
                returns it on the other host. The task is refused where that of O(disks[].image) is another.
            type: str
            required: true
      import_from:
        description:
          - Make the disk of an image file or of a volume that exists.
          - A volume that lies in the pool itself, without a record, is taken over as it is. A qcow2 volume keeps its
            name, and may be in use. A raw file moves into the folder of the pool's own files, out of the reach of
            libvirt's refresh, which would follow what a guest writes into it; it must not be in use. In a volume group
            and in Ceph a raw volume keeps its name, too.
          - Any other file is inspected and copied, and left as it is. That may take a day at most.
        type: dict
        suboptions:
          path:
            description:
              - The absolute path of the file or volume; V(rbd:pool/image) for a volume that lies in the pool in Ceph,
                or V(rbd:pool/namespace/image).
            type: path
            required: true
          format:
            description:
              - Its format, which is never guessed. A volume of the pool is V(raw) or V(qcow2).
            type: str
            choices: [raw, qcow2, vmdk, vdi, vpc, vhdx, iso]
            required: true
      clone:
        description:
          - How the disk comes from its image. A disk that exists stays as it is.
          - When it is not given, the way of the pool is taken that costs next to nothing whatever the size. That is
            V(overlay) in a folder and on thick volumes, a thin snapshot in a thin pool, and a clone of RBD in Ceph.
          - V(overlay) makes a qcow2 volume on top of the image.
          - V(reflink) makes a raw file that shares the extents of the image, in a folder on XFS or btrfs.
          - V(copy) copies the image, in every pool. A way that a pool does not have is refused.
        type: str
        choices: [overlay, reflink, copy]
      flattened:
        description:
          - Have the disk need no image. It must not be in use while it is flattened, nor have snapshots of its guest in
            it.
          - A disk that is flat stays so.
        type: bool
        default: false
      replace:
        description:
          - Let a config disk whose files are to change be removed and made anew, with a new id and path. It must not be
            in use. Without it, other files are refused.
        type: bool
        default: false
      target:
        description:
          - The name of the disk in RV(disks[].xml), such as V(vda).
          - When it is not given, the disks of an instance in one task get the next free name on their bus, in the order
            of the list. So list all disks of an instance in one task, or say their targets.
        type: str
      bus:
        description:
          - The bus in RV(disks[].xml). V(virtio) when it is not given, and V(sata) for a CD-ROM.
        type: str
        choices: [virtio, scsi, sata, ide, usb]
      device:
        description:
          - The kind of device in RV(disks[].xml). V(disk) when it is not given, and V(cdrom) for a config disk.
        type: str
        choices: [disk, cdrom]
      cache:
        description:
          - The cache mode in RV(disks[].xml). Left to libvirt when it is not given.
        type: str
        choices: [none, writeback, writethrough, directsync, unsafe]
      io:
        description:
          - The way of input and output in RV(disks[].xml). Left to libvirt when it is not given. V(native) needs
            O(disks[].cache) to be V(none) or V(directsync).
        type: str
        choices: [threads, native, io_uring]
      discard:
        description:
          - What becomes of space that the guest gives back, in RV(disks[].xml). Left to libvirt, which ignores it, when
            it is not given.
          - V(unmap) is refused for a qcow2 disk in a volume group without a thin pool, because it could then outgrow
            its volume.
        type: str
        choices: [unmap, ignore]
      serial:
        description:
          - The serial number that the guest sees, in RV(disks[].xml).
        type: str
seealso:
  - module: virt.storage.instance_disk_info
  - module: virt.storage.cached_image
  - module: virt.storage.libvirt_pool
  - module: virt.storage.disk_metadata
"""

EXAMPLES = r"""
- name: From an image to a running guest, first part, the disks
  virt.storage.instance_disk:
    pool: ssd
    disks:
      - instance: web1
        image: debian-12
        size: 20G
        discard: unmap
      - instance: web1
        role: data
        pool: hdd
        size: 200G
        blank:
          fs: xfs
          label: data
      - instance: web1
        role: config
        config:
          user_data: |
            #cloud-config
            ssh_authorized_keys: {{ admin_keys | to_json }}
            mounts:
              - [LABEL=data, /srv]
  register: made
# actions:
#   - make disk root of web1 in pool ssd (20.0 GiB, overlay of image debian-12)
#   - make disk data of web1 in pool hdd (200.0 GiB, blank, xfs labelled data)
#   - make disk config of web1 in pool ssd (config disk)

- name: From an image to a running guest, second part, the domain
  community.libvirt.virt:
    command: define
    xml: |
      <domain type="kvm">
        <name>web1</name>
        <memory unit="GiB">2</memory>
        <os><type arch="x86_64" machine="q35">hvm</type></os>
        <devices>
          {{ made.disks | map(attribute='xml') | join('\n') }}
          <interface type="network"><source network="default"/><model type="virtio"/></interface>
        </devices>
      </domain>

- name: A root disk for every host of a group, all in one task
  virt.storage.instance_disk:
    pool: ssd
    disks: "{{ dict(groups.runners | product(['runner-image'])) | dict2items('instance', 'image') }}"

- name: A disk wherever its flavor puts it
  virt.storage.instance_disk:
    flavor: gold
    flavors:
      gold:
        root:
          - labels:
              media: nvme
          - pools: [ssd1, ssd2]
            choose: pack
            overcommit: 1.5
            min_free: 50G
        swap:
          - labels:
              media: hdd
    disks:
      - instance: db1
        image: debian-12
        size: 40G
      - instance: db1
        role: swap
        size: 4G
        blank:
          fs: swap
# actions:
#   - make disk root of db1 in pool nvme1 (40.0 GiB, overlay of image debian-12)
#   - make disk swap of db1 in pool hdd (4.0 GiB, blank, swap)

- name: Grow a disk, whose guest goes on running and sees the new size
  virt.storage.instance_disk:
    pool: hdd
    disks:
      - instance: web1
        role: data
        size: 400G
# diff:
#   - disk data of web1 in pool hdd: size 214748364800 -> 429496729600

- name: Have a disk stand on its own, so that its image can go
  virt.storage.instance_disk:
    pool: ssd
    disks:
      - instance: web1
        flattened: true

- name: Move the disk of a guest that is shut off to another pool
  virt.storage.instance_disk:
    pool: nvme
    allow_move: true
    disks:
      - instance: web1

- name: Take over the disk that virt-install made in the pool, and the file of a former hypervisor
  virt.storage.instance_disk:
    pool: ssd
    disks:
      - instance: db1
        import_from:
          path: /srv/ssd/db1.qcow2
          format: qcow2
      - instance: old1
        import_from:
          path: /mnt/export/old1.vmdk
          format: vmdk

- name: Change what cloud-init is told, while the guest is off
  virt.storage.instance_disk:
    pool: ssd
    disks:
      - instance: web1
        role: config
        replace: true
        config:
          user_data: "{{ lookup('ansible.builtin.template', 'user-data.j2') }}"

- name: Remove the data disk of one instance and all disks of another
  virt.storage.instance_disk:
    state: absent
    pool: ssd
    disks:
      - instance: web1
        role: data
        pool: hdd
      - instance: old1
"""

RETURN = r"""
actions:
  description: What was done, or in check mode would be, as sentences and in order.
  returned: success
  type: list
  elements: str
  sample:
    - make disk root of web1 in pool ssd (20.0 GiB, overlay of image debian-12)
    - grow disk data of web1 in pool hdd from 200.0 GiB to 400.0 GiB
plan:
  description: The same steps in parts.
  returned: success
  type: list
  elements: dict
  contains:
    verb:
      description:
        - What kind of step it is, one of V(make), V(grow), V(flatten), V(replace), V(move), V(finish) for the end of a
          move that was broken off, and V(remove).
      type: str
      sample: make
    what:
      description: What the step is about.
      type: str
      sample: disk root of web1 in pool ssd
    sentence:
      description: The step as in RV(actions).
      type: str
      sample: make disk root of web1 in pool ssd (20.0 GiB, overlay of image debian-12)
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
      description: How a disk is made, or moved, V(delta) or V(whole).
      returned: for disks of images, imports and moves
      type: str
      sample: overlay
    reason:
      description: Why so.
      returned: sometimes
      type: str
      sample: a qcow2 overlay costs the same whatever the size of its image
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
  returned: success
  type: list
  elements: dict
  sample:
    - ssd:
        capacity: 1099511627776
        free: 824633720832
counted:
  description: For each step of RV(plan), how many bytes of data it read and wrote, C(bytes_read) and C(bytes_written).
  returned: success, not in check mode
  type: list
  elements: dict
  sample:
    - bytes_read: 1261637632
      bytes_written: 1261637632
disks:
  description:
    - The disks of the task in its order, as they are now, or in check mode as they would be.
    - Empty with O(state=absent).
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
      description: The pool that the disk is in. None in check mode where an earlier task has to make it first.
      type: str
      sample: ssd
    placement:
      description: Why the disk is in this pool. None in check mode where the pool is not there yet.
      returned: for disks that have a flavor
      type: str
      sample: "choice 1 of 2 of flavor gold for root disks: the most room of 3 pools that fit, 412.0 GiB left"
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
    moved:
      description:
        - What moving the disk took, V(from) the name of the pool, V(bytes_read) there and V(bytes_written) here.
      returned: for disks that the task moved
      type: dict
      sample:
        from: hdd
        bytes_read: 1769472
        bytes_written: 1769472
    target:
      description: The name that the element gives the disk in the guest.
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
pools:
  description: Why each pool, those that the flavor names and that do not exist included, cannot have the disk.
  returned: failure, when no pool fits the flavor of a disk
  type: dict
  sample:
    hdd: its label media is hdd, not nvme
    nvme1: of 1.8 TiB that may be promised to disks, 1.8 TiB are
disk:
  description: The first disk that failed.
  returned: failure of a disk
  type: str
  sample: root of web1
also_failed:
  description: What is wrong with the other disks that failed. Those that are not named are as they were asked for.
  returned: failure of several disks
  type: list
  elements: str
"""

from ansible_collections.virt.storage.plugins.module_utils._tasks.disk_wishes import requirements
from ansible_collections.virt.storage.plugins.module_utils._tasks.instance_disk import task
from ansible_collections.virt.storage.plugins.module_utils._tasks.module import run_module

BLANK = {
    "fs": {"type": "str", "choices": ["none", "ext4", "xfs", "swap", "vfat"], "default": "none"},
    "label": {"type": "str"},
}
CONFIG = {
    "user_data": {"type": "str", "no_log": True},
    "meta_data": {"type": "str", "no_log": True},
    "network_config": {"type": "str", "no_log": True},
    "vendor_data": {"type": "str", "no_log": True},
}
IMPORT = {
    "path": {"type": "path", "required": True},
    "format": {
        "type": "str",
        "choices": ["raw", "qcow2", "vmdk", "vdi", "vpc", "vhdx", "iso"],
        "required": True,
    },
}
OWN = {
    "path": {"type": "path", "required": True},
    "content": {"type": "str", "required": True},
}
DISK = {
    "instance": {"type": "str", "required": True},
    "role": {"type": "str"},
    "pool": {"type": "str"},
    "flavor": {"type": "str"},
    "size": {"type": "str"},
    "image": {"type": "str"},
    "blank": {"type": "dict", "options": BLANK},
    "config": {"type": "dict", "options": CONFIG},
    "own_data": {"type": "dict", "options": OWN},
    "import_from": {"type": "dict", "options": IMPORT},
    "clone": {"type": "str", "choices": ["overlay", "reflink", "copy"]},
    "flattened": {"type": "bool", "default": False},
    "replace": {"type": "bool", "default": False},
    "target": {"type": "str"},
    "bus": {"type": "str", "choices": ["virtio", "scsi", "sata", "ide", "usb"]},
    "device": {"type": "str", "choices": ["disk", "cdrom"]},
    "cache": {"type": "str", "choices": ["none", "writeback", "writethrough", "directsync", "unsafe"]},
    "io": {"type": "str", "choices": ["threads", "native", "io_uring"]},
    "discard": {"type": "str", "choices": ["unmap", "ignore"]},
    "serial": {"type": "str"},
}
ARGUMENTS = {
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "pool": {"type": "str"},
    "flavor": {"type": "str"},
    "flavors": {"type": "dict"},
    "disks": {
        "type": "list",
        "elements": "dict",
        "required": True,
        "options": DISK,
        "mutually_exclusive": [("pool", "flavor")],
    },
    "allow_move": {"type": "bool", "default": False},
    "uri": {"type": "str", "default": "qemu:///system"},
}


def main():
    """Run the module."""
    run_module(ARGUMENTS, task, requires=requirements, mutually_exclusive=[("pool", "flavor")])


if __name__ == "__main__":
    main()
