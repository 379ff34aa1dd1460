# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A module that takes the arguments of `instance_disk` and does nothing: what Ansible itself costs."""

from __future__ import annotations

from ansible_collections.virt.storage.plugins.module_utils._tasks.module import run_module
from ansible_collections.virt.storage.plugins.modules.instance_disk import ARGUMENTS

run_module(ARGUMENTS, lambda _params, _check_mode: {"changed": False})
