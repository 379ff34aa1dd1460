# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Two hosts on one NFS pool, of which one is lost to the server in the middle of a task: frozen in either way, cut off,
or without its locks because the server started anew. The other one goes to its end meanwhile, and nothing is lost.

``VIRT_STORAGE_FULL=1`` does that before every step that decides, in all tasks, otherwise before some.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from vm_machine import Machine

PLACE = "/opt/tree/ansible_collections/virt/storage/tests"
LIMIT = 400
"""Seconds that one call may take: the server's grace period is in it."""
OVER = 14
"""Seconds after which the server's lease of 10 s is over."""
FULL = os.environ.get("VIRT_STORAGE_FULL") == "1"
SOME = (
    ("fill from raw", 3, "process", "same"),
    ("clone three", 1, "clock", "opposite"),
    ("clone three", 2, "process", "reclaim"),
    ("flatten", 2, "clock", "opposite"),
    ("prune", 2, "process", "opposite"),
    ("grow", 1, "clock", "same"),
    ("import", 3, "link", "reclaim"),
    ("delete", 2, "link", "same"),
    ("fill from raw", 3, "restart", "same"),
    ("clone three", 2, "restart without grace", "reclaim"),
)
ALL = (
    (name, number, how, rival)
    for name in ("fill from raw", "clone three", "copy", "import", "grow", "flatten", "prune", "delete")
    for number, (how, rival) in zip(
        itertools.count(1),
        itertools.product(("process", "clock", "link", "restart without grace"), ("same", "opposite", "reclaim")),
    )
)


class Actor:
    """A machine that runs ``frozen_inside.py``."""

    def __init__(self, machine: Machine, process: subprocess.Popen[str]) -> None:
        self.machine, self._process = machine, process
        assert self.hears() == "ready"

    def told(self, call: str, given: Any = None) -> None:
        """Have it begin."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([call, given]) + "\n")
        self._process.stdin.flush()

    def hears(self) -> Any:
        """The next that it says."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "it ended; standard error tells why"
        return json.loads(line)

    def does(self, call: str, given: Any = None) -> Any:
        """What came of a call."""
        self.told(call, given)
        return self.hears()


@contextlib.contextmanager
def actor(machine: Machine, *words: str) -> Iterator[Actor]:
    quoted = " ".join(f"'{word}'" for word in words)
    command = f"exec env PYTHONPATH=/opt/tree:{PLACE} timeout {LIMIT} python3 {PLACE}/netfs/frozen_inside.py {quoted}"
    with machine.spawn(command) as process:
        try:
            yield Actor(machine, process)
        finally:
            assert process.stdin is not None
            process.stdin.close()


@pytest.fixture(scope="module")
def trees(netfs_bed) -> None:
    for machine in (netfs_bed.one, netfs_bed.two):
        machine.send_tree()


@pytest.fixture(scope="module")
def counted(request) -> Iterator[list[int]]:
    """How many operations of others went on beside each."""
    found: list[int] = []
    yield found
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print(f"\nnetfs: {len(found)} times one host was lost in its task, beside {sum(found)} operations of the other")


def lost(bed, actor: Actor, how: str) -> contextlib.AbstractContextManager[None]:
    """What befalls machine 2, which is about to go on."""
    if how in ("process", "clock"):
        return actor.machine.frozen(how)
    if how == "link":
        return cut(actor)
    return restarted(bed.one, grace=how == "restart")


@contextlib.contextmanager
def cut(actor: Actor) -> Iterator[None]:
    """Its link is cut, and it goes on, as far as it comes."""
    with actor.machine.unlinked():
        actor.told("go on")
        yield


@contextlib.contextmanager
def restarted(server: Machine, grace: bool) -> Iterator[None]:
    """The server starts anew; without a grace period nobody gets back the locks that it had."""
    server.ssh("nfs-serve stop && nfs-serve start")
    if not grace:
        server.ssh("echo Y > /proc/fs/nfsd/v4_end_grace")
    yield


@pytest.mark.parametrize(("name", "number", "how", "rival"), ALL if FULL else SOME)
def test_lost_to_the_server_anywhere_nothing_is_lost(netfs_bed, trees, counted, name, number, how, rival):
    root = f"{netfs_bed.shared}/frozen-{uuid.uuid4().hex[:8]}/pool"
    with actor(netfs_bed.one, root, name, rival) as one, actor(netfs_bed.two, root, name, rival) as two:
        one.does("set")
        two.told("act", number)
        said = two.hears()
        if said != "paused":
            assert FULL, f"there is no step {number} that decides"
            return
        with lost(netfs_bed, two, how):
            time.sleep(OVER)
            rivals = one.does("rival")
        if how != "link":
            two.told("go on")
        first = two.hears()
        one.does("judge", [first, *rivals])
    counted.append(len(rivals))
    netfs_bed.one.ssh(f"chattr -R -i /srv/nfs/{root.split('/')[-2]}; rm -rf /srv/nfs/{root.split('/')[-2]}")
