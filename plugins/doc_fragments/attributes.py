# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a module promises about how it runs: the attributes that ansible-doc shows.

``DOCUMENTATION`` names the attributes of every module, and a module adds its own ``support`` to each.
``INFO`` fills them in for a module that only reads; ``ACTIONGROUP_STORAGE`` belongs to every module of the group.
"""

from __future__ import annotations


class ModuleDocFragment:
    """The fragment ``virt.storage.attributes``."""

    DOCUMENTATION = r"""
options: {}
attributes:
  check_mode:
    description:
      - In check mode nothing is changed, and the result is what a run would have returned.
  diff_mode:
    description:
      - In diff mode the result shows what differs before and after, and nothing that stays the same.
  idempotent:
    description:
      - The same task a second time finds nothing to do, and says so.
"""

    INFO = r"""
options: {}
attributes:
  check_mode:
    support: full
    description:
      - In check mode nothing is changed, and the result is what a run would have returned.
    details:
      - This module only reads.
  diff_mode:
    support: N/A
    description:
      - In diff mode the result shows what differs before and after, and nothing that stays the same.
    details:
      - This module only reads.
  idempotent:
    support: full
    description:
      - The same task a second time finds nothing to do, and says so.
    details:
      - This module only reads.
"""

    ACTIONGROUP_STORAGE = r"""
options: {}
attributes:
  action_group:
    description:
      - Options that every task of a play shares can be set once, in C(module_defaults) under
        C(group/virt.storage.storage).
    support: full
    membership:
      - virt.storage.storage
"""
