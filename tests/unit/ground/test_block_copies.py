# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Block copies, where libvirt fails. What they do is tried with guests (integration)."""

from __future__ import annotations

import libvirt
import pytest

from ansible_collections.virt.storage.plugins.module_utils._ground.block_copies import BlockCopies
from ansible_collections.virt.storage.plugins.module_utils._ground.errors import StorageError


class Gone:
    """A connection whose daemon went away."""

    def getLibVersion(self) -> int:  # noqa: N802
        raise libvirt.libvirtError("client socket is closed")


def test_a_daemon_that_went_away_is_told_in_a_sentence() -> None:
    copies = BlockCopies()
    copies._connection = Gone()
    with pytest.raises(StorageError, match=r"^Libvirt could not tell its version: .*\.$"):
        copies.copies_blocks()
