# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""What a host with an old layout holds, and what its conversion takes. Pure.

An instance is judged by itself: one that cannot be converted holds up no other. A step that needs the instance off is
put off while anything uses its disks, and done by a later run; all others are done at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from .plan import Action, Fields, Plan

FORMATS = ("raw", "qcow2")
SPACE_EACH = 32 * 1024
"""Bytes that records and journal of one disk or image take at most, on file systems with blocks of 4 KiB."""


@dataclass(frozen=True)
class OldBase:
    """A file that disks stand on. ``format`` is what all who know agree on, ``flaw`` why it is no image to use,
    ``image`` the cached image that it is already, by id. ``near`` tells that it is on the file system of the pool."""

    path: str
    name: str
    size: int
    format: str = ""
    flaw: str = ""
    image: str = ""
    near: bool = True

    @property
    def copied(self) -> int:
        """Bytes to copy: images of the cache are raw, so only a raw file can be linked."""
        return 0 if self.linked or self.image else self.size

    @property
    def linked(self) -> bool:
        """Whether the file itself becomes the image."""
        return self.format == "raw" and self.near


@dataclass(frozen=True)
class OldDisk:
    """A disk of an instance. ``base`` is the path of the file that it stands on. ``record`` is its record in the pool,
    where it has one; ``pointed``, ``described`` and ``out`` tell that its header names the cached image, that the
    guest's definition spells its chain out, and that no name of it is where libvirt's refresh would open it. One that
    is ``in_place`` is a volume of the pool already, by the name that ``path`` is; ``parent`` is what it was cloned
    from, elsewhere, and ``flatten`` tells that it is to stand on that no longer."""

    role: str
    path: str
    size: int
    format: str = ""
    said: Mapping[str, str] = field(default_factory=dict)
    base: str = ""
    flaw: str = ""
    record: str = ""
    pointed: bool = False
    described: bool = True
    out: bool = True
    in_place: bool = False
    parent: str = ""
    flatten: bool = False


@dataclass(frozen=True)
class OldInstance:
    """An instance. ``guest`` is its domain, "" where no domain of this host names its disks. ``users`` says who uses
    them now; ``flaws`` why it cannot be converted as a whole; ``settled`` that its journal says converted."""

    name: str
    disks: tuple[OldDisk, ...]
    guest: str = ""
    state: str = "off"
    users: str = ""
    flaws: tuple[str, ...] = ()
    settled: bool = False


@dataclass(frozen=True)
class Site:
    """Where it goes: the pool, and the bytes that are free in it. ``obstacle`` is why nothing can be done at all."""

    pool: str
    available: int
    obstacle: str = ""


@dataclass(frozen=True)
class Step:
    """A step of the plan, and whether it waits until the instance is off."""

    action: Action
    needs_off: bool = False


@dataclass(frozen=True)
class Judged:
    """An instance and what becomes of it: ``refusals`` keep it as it is, ``now`` is done at once, ``later`` waits."""

    instance: OldInstance
    refusals: tuple[str, ...] = ()
    now: tuple[Step, ...] = ()
    later: tuple[Step, ...] = ()

    @property
    def verdict(self) -> str:
        """refused, waits, converts, or converted already."""
        if self.refusals:
            return "refused"
        return "waits" if self.later else "converts" if self.now else "converted"


@dataclass(frozen=True)
class Conversion:
    """The whole plan. ``bases`` are those that become cached images now, ``hostile`` those that never will."""

    site: Site
    judged: tuple[Judged, ...]
    bases: tuple[OldBase, ...]
    hostile: tuple[OldBase, ...]

    def chosen(self) -> tuple[Judged, ...]:
        """The instances with something to do now."""
        return tuple(each for each in self.judged if each.now)

    def plan(self) -> Plan:
        """What a run does now."""
        plans = [_base_plan(base, self.site.pool) for base in self.bases]
        plans += [_plan(each) for each in self.chosen()]
        return Plan.join(plans)

    @property
    def bytes_to_copy(self) -> int:
        """Bytes of disk data."""
        return sum(action.bytes_to_write or 0 for action in self.plan().actions)

    @property
    def bytes_needed(self) -> int:
        """Bytes of free space that the run needs."""
        disks = sum(len(each.instance.disks) for each in self.chosen())
        return SPACE_EACH * (disks + len(self.chosen()) + 2 * len(self.bases)) + self.bytes_to_copy

    @property
    def verdict(self) -> str:
        """One line: whether the host can be converted, and what stands in the way."""
        return _verdict(self)


def agreed(said: Mapping[str, str], word: str) -> tuple[str, str]:
    """The format on which all who know agree, or the operator's ``word``; otherwise why there is none. ``said`` tells
    who says what; the data is never asked."""
    if word:
        return word, ""
    formats = set(said.values())
    if len(formats) == 1 and formats <= set(FORMATS):
        return formats.pop(), ""
    if not said:
        return "", "nothing says what format it has: state it under formats"
    told = ", ".join(f"{who} says {what}" for who, what in sorted(said.items()))
    return "", f"its format is not clear ({told}): state it under formats"


def plan_conversion(instances: Iterable[OldInstance], bases: Mapping[str, OldBase], site: Site) -> Conversion:
    """Judge each instance. A base is taken where a disk that is converted now stands on it."""
    judged = tuple(_judge(each, bases, site) for each in instances)
    needed = {disk.base for each in judged if each.now for disk in each.instance.disks if disk.base and not disk.record}
    hostile = {disk.base for each in judged for disk in each.instance.disks if disk.base and bases[disk.base].flaw}
    return Conversion(
        site,
        judged,
        tuple(base for path, base in sorted(bases.items()) if path in needed and not base.image),
        tuple(base for path, base in sorted(bases.items()) if path in hostile),
    )


def _judge(instance: OldInstance, bases: Mapping[str, OldBase], site: Site) -> Judged:
    refusals = [*instance.flaws]
    for disk in instance.disks:
        if disk.flaw:
            refusals.append(f"{disk.path}: {disk.flaw}")
        if disk.base and bases[disk.base].flaw and not disk.record:
            refusals.append(f"{disk.path}: its base {disk.base} cannot be used: {bases[disk.base].flaw}")
    if refusals:
        return Judged(instance, tuple(refusals))
    steps = [step for disk in instance.disks for step in _disk_steps(instance, disk, bases, site)]
    if any(not disk.described for disk in instance.disks):
        sentence = f"spell the chains of its disks out in the definition of guest {instance.guest}"
        steps.append(Step(Action("describe", f"instance {instance.name}", sentence)))
    if not steps and not instance.settled and instance.disks:
        steps.append(Step(Action("settle", f"instance {instance.name}", f"note that {instance.name} is converted")))
    now = tuple(step for step in steps if not (step.needs_off and instance.users))
    return Judged(instance, (), now, tuple(step for step in steps if step not in now))


def _disk_steps(instance: OldInstance, disk: OldDisk, bases: Mapping[str, OldBase], site: Site) -> Iterable[Step]:
    what = f"disk {disk.role} of {instance.name}"
    under = f", on image {bases[disk.base].name}" if disk.base else ""
    if not disk.record:
        how = "hard link" if not disk.in_place else "in place"
        done = f"hard-link {disk.path} into pool {site.pool} and record it"
        if disk.in_place:
            done = f"record {disk.path} of pool {site.pool}, which keeps its name and its data,"
        told = " and ".join(sorted(disk.said)) or "the operator"
        reason = f"{told} says that it is {disk.format}; nothing is copied"
        if disk.parent and not disk.flatten:
            reason += f"; it goes on standing on {disk.parent}"
        yield Step(Action("adopt", what, f"{done} as {what} ({disk.format}{under})", strategy=how, reason=reason))
    if disk.flatten:
        sentence = f"flatten {disk.path}, so that it no longer needs {disk.parent}"
        reason = "that is asked for; a disk that is in use is not flattened"
        yield Step(Action("flatten", what, sentence, disk.size, disk.size, reason=reason), needs_off=True)
    if disk.base and not disk.pointed:
        sentence = f"point the header of {disk.path} at the image {bases[disk.base].name} in pool {site.pool}"
        reason = "the header of a disk that is in use, or that a saved guest goes on with, is not changed"
        yield Step(Action("point", what, sentence, reason=reason), needs_off=True)
    if not disk.out:
        sentence = f"take the name {disk.path} out of the folder that libvirt refreshes"
        reason = "libvirt opens whatever its guest writes there"
        yield Step(Action("move", what, sentence, reason=reason), needs_off=True)


def _base_plan(base: OldBase, pool: str) -> Plan:
    what = f"image {base.name}"
    if not base.linked:
        sentence = f"convert {base.path} into the cached image {base.name} of pool {pool}"
        why = f"it is {base.format}, and images of the cache are raw"
        reason = "it lies on another file system than the pool" if base.format == "raw" else why
        action = Action("fill", what, sentence, base.size, base.size, "copy", reason)
    else:
        sentence = f"hard-link {base.path} into pool {pool} as the cached image {base.name}, and seal it"
        action = Action("adopt", what, sentence, base.size, 0, "hard link", "its content is read once, for its digest")
    return Plan((action,), {}, {what: {"state": "ready", "from": base.path}})


def _plan(judged: Judged) -> Plan:
    instance = judged.instance
    what = f"instance {instance.name}"
    return Plan(
        tuple(step.action for step in judged.now),
        {what: {"layout": "old" if not any(disk.record for disk in instance.disks) else "partly converted"}},
        {what: {"layout": "partly converted" if judged.later else "converted"}},
    )


def _verdict(conversion: Conversion) -> str:
    site = conversion.site
    if site.obstacle:
        return f"The host cannot be converted now: {site.obstacle}"
    needed = conversion.bytes_needed if conversion.chosen() else 0
    if needed > site.available:
        return (
            f"The host cannot be converted now: the run needs {needed} bytes in pool {site.pool}, and "
            f"{site.available} are free there."
        )
    parts = []
    for verdict, told in _TOLD.items():
        names = [each.instance.name for each in conversion.judged if each.verdict == verdict]
        if names:
            shown = f" ({_some(names)})" if verdict in ("waits", "refused") else ""
            parts.append(f"{len(names)} {told}{shown}")
    what = ", ".join(parts) or "there is no instance"
    return f"The host can be converted: {what}; {conversion.bytes_to_copy} bytes of disk data are copied."


_TOLD = {
    "converts": "converted at once",
    "waits": "converted but for what waits until they are off",
    "converted": "converted already",
    "refused": "left as they are",
}


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def shown(judged: Judged) -> Fields:
    """An instance as the module returns it."""
    instance = judged.instance
    return {
        "instance": instance.name,
        "guest": instance.guest,
        "state": instance.state,
        "verdict": judged.verdict,
        "refusals": list(judged.refusals),
        "steps": [_step(step, "now") for step in judged.now] + [_step(step, "later") for step in judged.later],
        "disks": [
            {
                "role": disk.role,
                "path": disk.path,
                "size": disk.size,
                "format": disk.format,
                "formats": dict(disk.said),
                "base": disk.base,
                "id": disk.record or None,
            }
            for disk in instance.disks
        ],
    }


def _step(step: Step, when: str) -> Fields:
    return {**step.action.to_result(), "needs_off": step.needs_off, "when": when}


def base_shown(base: OldBase) -> Fields:
    """A base as the module returns it."""
    return {
        "path": base.path,
        "name": base.name,
        "size": base.size,
        "format": base.format,
        "image": base.image or None,
        "flaw": base.flaw,
        "bytes_to_copy": base.copied,
    }
