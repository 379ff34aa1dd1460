# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the tests on network file systems share: two machines that mount one NFS server, and Ansible to drive them.

The machines are those of ``./dev vm`` (docs/testbed.md). Machine 1 serves, and mounts its own exports by loopback;
machine 2 mounts them over the link between the two.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

REPO = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO / "dev.d"))

from vm_machine import Machine, machines  # noqa: E402

from ansible_collections.virt.storage.tests.over_ssh import played  # noqa: E402


@dataclass(frozen=True)
class NetfsBed:
    """Two machines with the same two NFS 4.2 mounts. Lease and grace period of the server last 10 s."""

    one: Machine
    """Serves ``/srv/nfs`` and ``/srv/squashed``."""
    two: Machine
    shared: str = "/var/lib/libvirt/images/shared"
    """Mount of ``/srv/nfs``: the roots of both machines may write."""
    squashed: str = "/var/lib/libvirt/images/squashed"
    """Mount of ``/srv/squashed``: root counts as nobody there and may not write."""

    def mount(self) -> None:
        """Serve and mount what is not; needed again after a reset of a machine."""
        self.one.ssh("nfs-serve start && nfs-mount")
        self.two.ssh("nfs-mount")

    def ansible_playbook(
        self, host: Machine, tasks: Sequence[dict[str, Any]], *, check: bool = False
    ) -> list[dict[str, Any]]:
        """Run tasks against a machine from outside, over ssh; return the result of each task that ran, in order.

        Modules of this collection are those of the checkout. A failed task ends the play, and its result, the last,
        has a true ``failed``; a play in which no task ran is an error.
        """
        play = {"hosts": host.name, "gather_facts": False, "tasks": list(tasks)}
        told, trouble = played([play], *(["--check"] if check else []))
        # A result does not say by itself that its task failed: a command's has its exit code, a module's a message.
        told[-1]["failed"] = bool(trouble)
        return told


@pytest.fixture(scope="session")
def netfs_bed() -> Iterator[NetfsBed]:
    """Both machines with their mounts; started for the session unless ``./dev vm up 2`` was there before."""
    with machines(2) as (one, two):
        bed = NetfsBed(one, two)
        bed.mount()
        yield bed
