# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Another process at work on a pool: ``python -m contract.actor ADDRESS WHAT ...``.

It tells on standard output what it does, one word a line, and goes on until its standard input ends or it is killed.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys

from ansible_collections.virt.storage.plugins.module_utils._ground.errors import StorageError
from ansible_collections.virt.storage.plugins.module_utils._records.types import State, Volume

from .beds import open_at


def race(address: str, target: str) -> None:
    """Try to move every pending record; tells which moves were made."""
    bed = open_at(address)
    ids = sorted(bed.do(bed.records.states()).states)
    tell("ready")
    sys.stdin.readline()
    won = [each for each in ids if bed.do(bed.records.swap(each, State.PENDING, State(target)))]
    tell(json.dumps(won))


def rename(address: str) -> None:
    """Move every record to and fro until told to stop."""
    bed = open_at(address)
    ids = sorted(bed.do(bed.records.states()).states)
    tell("ready")
    for turn in itertools.count():
        now = [State.READY, State.FLAT][turn % 2]
        was = [State.FLAT, State.READY][turn % 2]
        for start in range(0, len(ids), 100):
            bed.parts.records.swap_all([(each, was, now) for each in ids[start : start + 100]])
        tell(str(turn))


def hold(address: str, name: str) -> None:
    """Hold a lock."""
    bed = open_at(address)
    tell("held" if bed.do(bed.records.hold(name)) else "refused")
    sys.stdin.read()


def beget(address: str, name: str) -> None:
    """Hold a lock and start a child that inherits it; tells the child's process id."""
    bed = open_at(address)
    bed.do(bed.records.hold(name))
    child = subprocess.Popen(["sleep", "60"], pass_fds=bed.inherited(), stdout=subprocess.DEVNULL)
    tell(str(child.pid))
    sys.stdin.read()


def touch(address: str, name: str, format: str) -> None:
    """Do everything to a volume that can be done to somebody's disk."""
    bed = open_at(address)
    volume = Volume(name, format)
    volumes = bed.volumes
    size = bed.do(volumes.stat(volume)).size
    ops = [
        volumes.stat(volume),
        volumes.pointer(volume),
        volumes.inventory(),
        volumes.users(volume),
        volumes.grow(volume, 2 * size),
        volumes.flatten(volume),
        volumes.digest(volume),
        volumes.sealed(volume),
        volumes.remove(volume),
    ]
    for op in ops:
        try:
            tell(f"{op.primitive}: {bed.do(op)}")
        except StorageError as error:
            tell(f"{op.primitive}: {type(error).__name__}: {error}")


def tell(word: str) -> None:
    print(word, flush=True)


if __name__ == "__main__":
    {"race": race, "rename": rename, "hold": hold, "beget": beget, "touch": touch}[sys.argv[2]](
        sys.argv[1], *sys.argv[3:]
    )
