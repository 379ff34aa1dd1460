# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a host needs for a module to run there; the role ``storage_pool`` installs all of it."""

from __future__ import annotations


class ModuleDocFragment:
    """The fragment ``virt.storage.requirements``."""

    # Every module: the interpreter and libvirt's bindings.
    DOCUMENTATION = r"""
options: {}
requirements:
  - Python 3.9 or newer
  - libvirt 7.0 or newer, and its Python bindings (Debian and Ubuntu C(python3-libvirt), RedHat C(python3-libvirt))
  - C(lvm2) for pools of type V(logical)
  - The Python bindings of Ceph (C(python3-rados), C(python3-rbd)) for pools of type V(rbd)
notes:
  - It runs on the host as root (C(become)), always as the same user. Records that another user made are refused.
  - When the interpreter that Ansible chose cannot import the bindings, the module looks for one on the host that can,
    and runs there.
"""

    # Modules that make or change volumes.
    QEMU = r"""
options: {}
requirements:
  - qemu-img 5.2 or newer (Debian and Ubuntu C(qemu-utils), RedHat C(qemu-img))
"""

    # Modules that take in images from outside.
    INSPECTION = r"""
options: {}
requirements:
  - oslo.utils 7.4.0 or newer, from version 10.1.0 with its extra C(image-inspection). Where the distribution's package
    (C(python3-oslo.utils)) is older, the role P(virt.storage.storage_pool#role) makes a virtual environment with it.
  - C(zstd) for sources that are compressed with it
"""

    # Modules that make configuration disks.
    CONFIG_DISK = r"""
options: {}
requirements:
  - pycdlib for configuration disks (Debian and Ubuntu C(python3-pycdlib), RedHat C(python3-pycdlib))
"""

    # Modules that make file systems on blank disks.
    FILE_SYSTEMS = r"""
options: {}
requirements:
  - The tools of the file systems asked for, that is C(e2fsprogs), C(xfsprogs), C(dosfstools) or C(util-linux)
"""
