# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Writes the result of every task as a line of JSON into the file that COLLECT_RESULTS names (for `play`)."""

from __future__ import annotations

import json
import os

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: collect_results
type: notification
short_description: Write the result of each task as a line of JSON
description:
  - Used by the integration tests.
"""


class CallbackModule(CallbackBase):
    """Appends in the order in which the tasks end."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "collect_results"
    CALLBACK_NEEDS_ENABLED = True

    def v2_runner_on_ok(self, result):
        self._write(result)

    def v2_runner_on_failed(self, result, ignore_errors=False):
        self._write(result)

    def v2_runner_on_skipped(self, result):
        self._write(result)

    def _write(self, result):
        with open(os.environ["COLLECT_RESULTS"], "a", encoding="utf-8") as lines:
            lines.write(json.dumps(result.result, default=str) + "\n")
