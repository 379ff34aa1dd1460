# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Two hosts at work on one NFS pool for a while: each fills, clones, grows, removes, takes images out of use and prunes
as chance has it, never waiting for the other. ``VIRT_STORAGE_FULL=1`` gives them ten minutes, otherwise they have one.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from test_modules import LIMIT, MIB, Hosts, Modules, Result, Shared, Source, hosts, new_source, shared

__all__ = ["hosts", "shared"]  # fixtures
SECONDS = 600 if os.environ.get("VIRT_STORAGE_FULL") == "1" else 60
WORK = ("fill", "fill", "fill", "clone", "clone", "clone", "clone", "grow", "grow", "remove", "retire", "prune")
MOST = 300
"""Pieces of work after which it ends in any case."""


@dataclass
class Worker:
    """One host, what it was told to be there (each disk with the content of its image), and what it did."""

    host: Modules
    pool: str
    sources: list[Source]
    disks: dict[str, tuple[Result, Source]] = field(default_factory=dict)
    done: Counter[str] = field(default_factory=Counter)
    refusals: set[str] = field(default_factory=set)

    def work(self, seconds: float) -> None:
        """Whatever comes next, until time is over and everything has had its turn."""
        chance = random.Random(self.host.machine.name)
        until = time.monotonic() + seconds
        for number in range(MOST):
            if time.monotonic() > until and set(WORK) == set(self.done):
                return
            what, which = chance.choice(WORK), chance.randrange(len(self.sources))
            instance = chance.choice(sorted(self.disks) or [""])
            if what == "clone":
                self.clone(f"{self.host.machine.name}-{number}", which)
            elif what in ("grow", "remove"):
                if instance:
                    getattr(self, what)(instance)
            elif what == "prune":
                self.call(what, "cached_image", pools=[self.pool], state="pruned", cache={"max_bytes": "1M"})
            else:
                self.call(what, "cached_image", pools=[self.pool], **self.image(which, what == "retire"))

    def call(self, what: str, module: str, **options: object) -> Result | None:
        """What the module told; None where it refused, which it may with one sentence."""
        told = self.host(module, **options)
        self.done[what] += 1
        if told.get("failed"):
            assert "\n" not in told["msg"]
            self.refusals.add(f"{what}: {told['msg']}")
            return None
        return told

    def image(self, which: int, gone: bool) -> Result:
        """Bring one of the images, or take it out of use."""
        source, name = self.sources[which], f"work{which}"
        if gone:
            return {"images": [{"name": name}], "state": "absent"}
        return {"images": [{"name": name, "source": source.path, "format": "raw", "checksum": source.checksum}]}

    def clone(self, instance: str, which: int) -> None:
        """A disk on an image that the other may take away at any moment."""
        disk = {"instance": instance, "image": f"work{which}"}
        told = self.call("clone", "instance_disk", pool=self.pool, disks=[disk])
        if told:
            self.disks[instance] = told["disks"][0], self.sources[which]

    def grow(self, instance: str) -> None:
        """One more MiB."""
        disk, source = self.disks[instance]
        wish = {"instance": instance, "size": disk["size"] + MIB}
        told = self.call("grow", "instance_disk", pool=self.pool, disks=[wish])
        assert told, self.refusals
        self.disks[instance] = told["disks"][0], source

    def remove(self, instance: str) -> None:
        """Nobody uses it: it has to go."""
        told = self.call("remove", "instance_disk", pool=self.pool, disks=[{"instance": instance}], state="absent")
        assert told, self.refusals
        del self.disks[instance]

    def reads(self) -> Iterator[str]:
        """Commands that succeed where a disk is readable and equal to its source."""
        for disk, source in self.disks.values():
            yield f"qemu-img compare -q -f {disk['format']} -F raw {disk['path']} {source.path}"


@pytest.mark.timeout(SECONDS + 900)
def test_two_hosts_at_work_lose_nothing(hosts: Hosts, shared: Shared, request: pytest.FixtureRequest) -> None:
    sources = [new_source(hosts, 20 + number) for number in range(3)]
    workers = [Worker(host, shared.name, sources) for host in hosts]
    of = {worker.host: worker for worker in workers}
    hosts.at_once(lambda host: of[host].work(SECONDS))
    # Each reads what the other was told to be there.
    for host, other in zip(hosts, reversed(workers)):
        assert host.done("disk_metadata", pool=shared.name, state="verified")["problems"] == []
        assert host.done("cached_image", pools=[shared.name], state="verified")["problems"] == []
        for command in other.reads():
            host.machine.ssh(command, timeout=LIMIT)
    done = sum((worker.done for worker in workers), Counter[str]())
    refused = {sentence for worker in workers for sentence in worker.refusals}
    assert all("work" in sentence for sentence in refused), refused
    assert set(WORK) == set(done), f"within {MOST} pieces of work, only {done}"
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        told = ", ".join(f"{what} {count}" for what, count in sorted(done.items()))
        left = sum(len(worker.disks) for worker in workers)
        print(
            f"\nnetfs: two hosts in {SECONDS} s: {told}; {len(refused)} sentences; all {left} disks read as they should"
        )

    # What is left goes, and with the last disk the images do.
    for worker in workers:
        for instance in list(worker.disks):
            worker.remove(instance)
    for number in range(len(sources)):
        hosts.one.done("cached_image", pools=[shared.name], images=[{"name": f"work{number}"}], state="absent")
    hosts.two.done("cached_image", pools=[shared.name], state="pruned")
    left = hosts.one.machine.ssh(f"ls {shared.export} {shared.export}/.virt-storage/images").stdout
    assert "work" not in left, left
    assert not any(worker.host.machine.name in left for worker in workers), left
