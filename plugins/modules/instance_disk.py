#!/usr/bin/python

# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: instance_disk
short_description: Manage the disks of instances
description:
  - Makes, grows, flattens and removes the disks of instances in storage pools.
author:
  - The virt.storage authors (@virt-storage)
options: {}
"""

EXAMPLES = r"""
"""

RETURN = r"""
"""

from ansible_collections.virt.storage.plugins.module_utils._tasks.instance_disk import task
from ansible_collections.virt.storage.plugins.module_utils._tasks.module import run_module

BLANK = {
    "fs": {"type": "str", "choices": ["none", "ext4", "xfs", "swap", "vfat"], "default": "none"},
    "label": {"type": "str"},
}
CONFIG = {
    "user_data": {"type": "str"},
    "meta_data": {"type": "str"},
    "network_config": {"type": "str"},
    "vendor_data": {"type": "str"},
}
IMPORT = {
    "path": {"type": "path", "required": True},
    "format": {"type": "str", "required": True},
}
DISK = {
    "instance": {"type": "str", "required": True},
    "role": {"type": "str"},
    "pool": {"type": "str"},
    "size": {"type": "str"},
    "image": {"type": "str"},
    "blank": {"type": "dict", "options": BLANK},
    "config": {"type": "dict", "options": CONFIG, "no_log": False},
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


def main() -> None:
    run_module(
        {
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "pool": {"type": "str"},
            "disks": {"type": "list", "elements": "dict", "required": True, "options": DISK},
            "uri": {"type": "str", "default": "qemu:///system"},
        },
        task,
    )


if __name__ == "__main__":
    main()
