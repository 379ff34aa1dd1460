# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""LVM, by its own programs: looking through JSON reports, changing in as few starts of a program as there can be.

Whether something is there is never read from an exit status, for LVM has one for every failure: a listing that
succeeded tells. So it is with batches: many commands go to one ``lvm``, and a listing afterwards tells which of them
did what they should.

Programs of LVM close descriptors that they do not know, so they hold no lock of ours on. Each command is whole by
itself, and makes or removes only names that were never used before.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from .command import Limits, Runner
from .errors import CommandFailed, OutOfSpace, StorageError

TAG = "virt-storage"
"""The tag of every logical volume that is ours."""

_LIMITS = Limits(wall_seconds=3600, address_space=None)
"""Stopping LVM in mid-work can leave devices suspended, so it is not done before anybody would have."""
_ENV = {"LVM_SUPPRESS_FD_WARNINGS": "1"}
_AT_ONCE = 50
"""Names in one command; the shell of LVM takes at most 64 words."""
_OPTIONS = ("--reportformat", "json", "--units", "b", "--nosuffix", "--config", "report/time_format=%s")
_NO_ARCHIVE = ("--config", "backup/archive=0")
# Otherwise each command leaves a file with all metadata of the group in /etc/lvm/archive: for 2,000 disks, gigabytes.
_FULL = (
    "nsufficient free space",
    "nsufficient suitable",
    "ot enough free space",
    "has no free space",
    "free space in",
    "Free space in pool",
    "above threshold",
    "too large for circular buffer",
)
_FIELDS = (
    "lv_uuid,lv_name,lv_size,lv_layout,lv_tags,lv_permissions,lv_active,lv_device_open,lv_kernel_major,"
    "lv_kernel_minor,lv_attr,lv_time,origin,pool_lv,data_percent,metadata_percent,lv_health_status,"
    "lv_check_needed"
)
_UNWELL = "needs check"
_CHECK = (
    "its disk failed, or its metadata was full; see that there is a sound disk and room, take the pool out of use "
    "and have LVM check it, as the guide to volume groups says"
)


@dataclass(frozen=True)
class LogicalVolume:
    """A logical volume as LVM shows it. Sizes are bytes; ``number`` is its device's, 0 while it is not active."""

    uuid: str
    name: str
    size: int
    layout: frozenset[str]
    tags: frozenset[str]
    read_only: bool
    active: bool
    open: bool
    zeroes: bool
    """For a thin pool: whether it clears space before a volume has it."""
    number: int
    made: int
    """When, in seconds since 1970."""
    origin: str
    pool: str
    data_percent: float
    """Of a thin volume, what it maps; of a thin pool, what of its data space is in use."""
    metadata_percent: float
    health: str
    check_needed: bool
    """Of a thin pool, whether it takes no writes any more until its metadata was checked."""

    @property
    def thin_pool(self) -> bool:
        """Whether it is a thin pool."""
        return {"thin", "pool"} <= self.layout

    @property
    def ailment(self) -> str:
        """Why a thin pool takes no writes, and what helps, as a sentence; empty where it does. That it is full is not
        among it."""
        if not self.check_needed and self.health in ("", "out_of_data"):
            return ""
        what = self.health.replace("_", " ") or "check needed"
        return f"The thin pool {self.name} takes no writes ({what}): {_CHECK}."

    @property
    def thick_snapshot(self) -> bool:
        """Whether it is a snapshot of the old kind: it cannot grow, and goes when its origin does."""
        return bool(self.origin) and "thin" not in self.layout


@dataclass(frozen=True)
class Changed:
    """What commands left: the volumes that there are after them, and the first thing that was said of a failure."""

    volumes: Sequence[LogicalVolume]
    said: str


class Lvm:
    """LVM on this host."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    def report(self, program: str, fields: str, *words: str) -> list[Mapping[str, str]]:
        """The rows that ``lvs``, ``vgs`` or ``pvs`` shows, each with all of ``fields``; sizes in bytes. Raises
        CommandFailed."""
        out = self._run([program, *_OPTIONS, "-o", fields, *words])
        with understood(program):
            return _rows(out, program[:-1], fields.split(","))

    def volumes(self, group: str) -> list[LogicalVolume]:
        """Every visible logical volume of a group. Raises CommandFailed where there is no such group."""
        rows = self.report("lvs", _FIELDS, "--", group)
        with understood("lvs"):
            return [_volume(row) for row in rows]

    def setting(self, name: str) -> str:
        """What LVM's configuration says here, defaults included; empty where this LVM does not know the setting."""
        try:
            out = self._run(["lvmconfig", "--typeconfig", "full", name])
        except CommandFailed:
            return ""
        return out.strip().partition("=")[2].strip('"')

    def system_id(self) -> str:
        """The name by which LVM knows this host; empty where it has none."""
        return self._run(["systemid"]).strip().partition("system ID:")[2].strip()

    def change(self, *words: str) -> None:
        """Run one command that changes something. Raises CommandFailed or OutOfSpace."""
        self._run([words[0], *_NO_ARCHIVE, *words[1:]])

    def change_all(self, group: str, commands: Sequence[Sequence[str]]) -> Changed:
        """Run commands that change something in one start of LVM, each whether or not those before it succeeded."""
        # One copy of the metadata for all of them, at the end. The look is a start by itself: the shell gives no JSON.
        lines = [" ".join([words[0], "-An", *words[1:]]) for words in commands]
        script = "\n".join([*lines, f"vgcfgbackup {group}", ""])
        done = self._runner.run(["lvm"], limits=_LIMITS, input=script, env=_ENV, ok=range(256))
        return Changed(self.volumes(group), _said(done.err))

    def _run(self, words: Sequence[str]) -> str:
        try:
            return self._runner.run(["lvm", *words], limits=_LIMITS, env=_ENV).out
        except CommandFailed as error:
            if not error.facts.get("stderr"):  # it took too long, say, of which LVM knows nothing
                raise
            raise failure(words[0], _said(error.facts["stderr"])) from error


def in_portions(command: Sequence[str], names: Sequence[str]) -> list[list[str]]:
    """``command`` for all of ``names``, in portions that one line of LVM's shell can hold."""
    return [[*command, *names[start : start + _AT_ONCE]] for start in range(0, len(names), _AT_ONCE)]


def failure(doing: str, said: str) -> CommandFailed | OutOfSpace:
    """What LVM ``said`` when it failed, as a member of the family."""
    said = said or "it gave no reason"
    if _UNWELL in said:
        return CommandFailed(f"{doing} failed: {said}: {_CHECK}.", said=said)
    if any(text in said for text in _FULL):
        return OutOfSpace(f"{doing} found no space: {said}.")
    return CommandFailed(f"{doing} failed: {said}.", said=said)


def _said(err: str) -> str:
    """The first line that tells of an error: what follows follows from it."""
    lines = [line.strip().rstrip(".") for line in err.splitlines()]
    mere = ("WARNING", "File descriptor")
    errors = [line for line in lines if line and (_UNWELL in line or not line.startswith(mere))]
    return errors[0][:500] if errors else ""


@contextmanager
def understood(program: str) -> Iterator[None]:
    """Have what is amiss with a report of ``program`` told in a sentence."""
    try:
        yield
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise StorageError(
            f"The report of {program} could not be understood ({error!r}): see that it is LVM2's."
        ) from error


def _rows(text: str, kind: str, fields: Sequence[str]) -> list[Mapping[str, str]]:
    (report,) = json.loads(text)["report"]
    return [{field: _text(row[field]) for field in fields} for row in report[kind]]


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} for a text")
    return value


def _volume(row: Mapping[str, str]) -> LogicalVolume:
    major, minor = int(row["lv_kernel_major"]), int(row["lv_kernel_minor"])
    return LogicalVolume(
        uuid=row["lv_uuid"],
        name=row["lv_name"],
        size=int(row["lv_size"]),
        layout=frozenset(row["lv_layout"].split(",")),
        tags=frozenset(row["lv_tags"].split(",")) - {""},
        read_only=row["lv_permissions"].startswith("read-only"),
        active=row["lv_active"] not in ("", "unknown"),
        open=row["lv_device_open"] == "open",
        zeroes=row["lv_attr"][7:8] == "z",
        number=os.makedev(major, minor) if major > 0 else 0,
        made=int(row["lv_time"] or 0),
        origin=row["origin"],
        pool=row["pool_lv"],
        data_percent=float(row["data_percent"] or 0),
        metadata_percent=float(row["metadata_percent"] or 0),
        health=row["lv_health_status"],
        check_needed=row["lv_check_needed"] == "check needed",
    )
