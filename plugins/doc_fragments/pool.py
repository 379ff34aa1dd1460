# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How a module reaches libvirt, the same in every module."""

from __future__ import annotations


class ModuleDocFragment:
    """The fragment ``virt.storage.pool``."""

    DOCUMENTATION = r"""
options:
  uri:
    description:
      - The libvirt daemon to talk to. It has to be on the host on which the task runs, because the folders of its pools
        are looked at there.
    type: str
    default: qemu:///system
notes:
  - In check mode on a host without libvirt, or where its daemon does not run yet, the module warns and predicts what
    it would do on a host without pools, since the task that sets libvirt up has not really run either.
"""
