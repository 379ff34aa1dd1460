# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the tests on network file systems share: two machines that mount one NFS server, and Ansible to drive them.

The machines are those of ``./dev vm`` (docs/testbed.md). Machine 1 serves, and mounts its own exports by loopback;
machine 2 mounts them over the link between the two.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

REPO = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO / "dev.d"))

from common import VENV, run, venv_env  # noqa: E402
from vm import inventory  # noqa: E402
from vm_machine import Machine, machines  # noqa: E402

PLAY_LIMIT = 600
"""Seconds that one play may take; a task costs about two in an emulated machine."""


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
        with tempfile.TemporaryDirectory() as folder:
            results, book, hosts = (Path(folder, name) for name in ("results", "play.json", "hosts"))
            hosts.write_text(inventory(), encoding="utf-8")
            play = {"hosts": host.name, "gather_facts": False, "tasks": list(tasks)}
            book.write_text(json.dumps([play]), encoding="utf-8")
            env = {
                **venv_env(),
                "ANSIBLE_CALLBACK_PLUGINS": str(REPO / "tests" / "integration" / "callback_plugins"),
                "ANSIBLE_CALLBACKS_ENABLED": "collect_results",
                "COLLECT_RESULTS": str(results),
                "ANSIBLE_HOME": str(Path(folder, "ansible")),
            }
            words = [VENV / "bin" / "ansible-playbook", "--inventory", hosts, "--diff", book]
            words += ["--check"] if check else []
            finished = run(words, env=env, check=False, capture=True, timeout=PLAY_LIMIT)
            assert results.exists(), f"no task ran:\n{finished.stdout}"
            told = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
            # A result does not say by itself that its task failed: a command's has its exit code, a module's a message.
            told[-1]["failed"] = finished.returncode != 0
            return told


@pytest.fixture(scope="session")
def netfs_bed() -> Iterator[NetfsBed]:
    """Both machines with their mounts; started for the session unless ``./dev vm up 2`` was there before."""
    with machines(2) as (one, two):
        bed = NetfsBed(one, two)
        bed.mount()
        yield bed
