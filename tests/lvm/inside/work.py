# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Tasks on a pool in a volume group, as a process of its own does them: ``python3 work.py KIND make|fill|check``.

``make`` and ``fill`` tell ``done``/``filling`` on their standard output, so that whoever cuts the power knows what was
acknowledged; ``check`` brings a pool to rest after that and says what is wrong with it.
"""

from __future__ import annotations

import os
import secrets
import sys
import time
from collections.abc import Coroutine, Sequence
from typing import Any

from contract.beds import MIB
from contract.lvm_bed import GROUP

from ansible_collections.virt.storage.plugins.module_utils._algorithms import cache, disks
from ansible_collections.virt.storage.plugins.module_utils._algorithms.disks import DiskWish
from ansible_collections.virt.storage.plugins.module_utils._algorithms.pool import Pool, attend, depart
from ansible_collections.virt.storage.plugins.module_utils._algorithms.reclaim import reclaim
from ansible_collections.virt.storage.plugins.module_utils._backends.lvm_group import find_group
from ansible_collections.virt.storage.plugins.module_utils._backends.lvm_records import GroupStore
from ansible_collections.virt.storage.plugins.module_utils._backends.lvm_thick import ThickVolumes
from ansible_collections.virt.storage.plugins.module_utils._backends.lvm_thin import ThinVolumes
from ansible_collections.virt.storage.plugins.module_utils._backends.perform import Parts, Performer
from ansible_collections.virt.storage.plugins.module_utils._ground.command import Runner
from ansible_collections.virt.storage.plugins.module_utils._ground.drive import Ended, drive
from ansible_collections.virt.storage.plugins.module_utils._ground.lvm import Lvm
from ansible_collections.virt.storage.plugins.module_utils._records.folder import OWNER
from ansible_collections.virt.storage.plugins.module_utils._records.types import ENDED, Disk, Image, State

LEASE = 5.0
SIZE = 8 * MIB
DATA = bytes(range(256)) * 4096
RESTING = {State.READY, State.FLAT, *ENDED}
Task = Coroutine[Any, Any, Any]


class Slow:
    """An image of 8 MiB, each of them the same; ``pause`` seconds between two."""

    def __init__(self, pause: float = 0) -> None:
        self.pause = pause

    def pour(self, sinks: Sequence[Any], means: Any) -> Any:
        for sink in sinks:
            sink.set_size(SIZE)
        for offset in range(0, SIZE, MIB):
            for sink in sinks:
                sink.write(offset, DATA)
                sink.sync()
            if self.pause:
                print("filling", flush=True)
            time.sleep(self.pause)
            means.beat()
        return {"size": SIZE, "content": "none"}


class Opened:
    """The pool, opened as a task opens it."""

    def __init__(self, kind: str, runner: Runner | None = None) -> None:
        runner = runner or Runner()
        group = find_group(Lvm(runner), GROUP)
        records = GroupStore.of(group, runner, LEASE / 10, make=True)
        kinds = {"thin": ThinVolumes, "thick": ThickVolumes}
        if kind == "thick":
            group = type(group)(**{**vars(group), "pool": ""})
        self.parts = Parts(records, kinds[kind](group, runner, records.locks.inherited))
        self.parts.volumes.prepare()
        self.pool = Pool("p", self.parts.volumes.capabilities(), OWNER + secrets.token_hex(8), LEASE)

    def run(self, *tasks: Task) -> list[Ended]:
        """Do tasks as a process that others can see alive; raises the first error."""
        performer = Performer({"p": self.parts})
        drive([attend(self.pool)], performer)
        ended = drive(list(tasks), performer)
        drive([depart(self.pool)], performer)
        for each in ended:
            each.unwrap()
        return ended

    def fill(self, pause: float = 0) -> Task:
        return cache.fill(self.pool, cache.ImageWish("sha256:x", "img", Slow(pause)))

    def make(self, *instances: str) -> list[Task]:
        wishes = [DiskWish(name, "root", size=SIZE + MIB, image_key="sha256:x") for name in instances]
        return [disks.make(self.pool, wish) for wish in wishes]

    def live(self) -> dict[str, Disk | Image]:
        """The records that have not ended, by name of their volume."""
        found = {}
        for record_id, state in self.parts.records.states().states.items():
            if state not in ENDED:
                assert state in RESTING, f"{record_id} is left {state}"
                record = self.parts.records.read(record_id)
                found[record.volume.name] = record
        return found

    def check(self, *instances: str) -> None:
        """The pool is at rest: a volume for each record and no other, and every disk reads as it should."""
        self.run(reclaim(self.pool))
        live = self.live()
        inventory = set(self.parts.volumes.inventory())
        assert inventory == set(live), inventory ^ set(live)
        found = {record.instance for record in live.values() if isinstance(record, Disk)}
        assert found >= set(instances), f"lost: {set(instances) - found}"
        for record in live.values():
            self._reads(record)

    def _reads(self, record: Disk | Image) -> None:
        place = self.parts.volumes.location(record.volume).name
        if isinstance(record, Image):
            assert self.parts.volumes.sealed(record.volume), f"{record} can be written"
        if record.volume.format == "qcow2":
            code = os.system(f"qemu-img convert -f qcow2 -O raw {place} /tmp/plain")
            assert code == 0
            place = "/tmp/plain"
        with open(place, "rb") as device:
            for offset in range(0, SIZE, MIB):
                assert device.read(MIB) == DATA, f"{record} does not hold its image at {offset}"
            rest = device.read()
        assert not any(rest), f"{record} shows something behind its image"


def main(kind: str, what: str, *instances: str) -> None:
    opened = Opened(kind)
    if what == "make":
        opened.run(opened.fill())
        opened.run(*opened.make(*instances))
        print("done", flush=True)
    elif what == "fill":
        drive([attend(opened.pool)], Performer({"p": opened.parts}))
        wish = cache.ImageWish("sha256:y", "other", Slow(0.5))
        drive([cache.fill(opened.pool, wish)], Performer({"p": opened.parts}))
    else:
        opened.check(*instances)
        print("at rest", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
