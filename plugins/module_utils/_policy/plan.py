# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""What a task intends to do, as a value.

Every task has a pure ``plan(want, have) -> Plan`` and one writer, ``apply(plan)``, which carries out exactly
the actions of the plan, in order. Check mode leaves ``apply`` out and nothing else, so that what it predicts
cannot drift from what a run does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Fields = dict[str, Any]


@dataclass(frozen=True)
class Action:
    """One step of a plan.

    ``verb`` and ``what`` are for the code that carries the step out ("define", "pool ssd"); ``sentence`` is for
    the reader, in the imperative ("define pool ssd (dir, /srv/ssd)"). The costs are bytes of data, without zeroes;
    None is what only a run can tell. ``takes`` says by how much there is less free in each pool afterwards, less than 0
    where there is more. ``strategy`` names the way that was chosen where there are several, ``reason`` says why.
    """

    verb: str
    what: str
    sentence: str
    bytes_to_read: int | None = 0
    bytes_to_write: int | None = 0
    strategy: str | None = None
    reason: str | None = None
    takes: Mapping[str, int | None] = field(default_factory=dict)

    def to_result(self) -> Fields:
        """The step as a module returns it; what was not stated is left out."""
        shown: Fields = {"verb": self.verb, "what": self.what, "sentence": self.sentence}
        shown["bytes_to_read"] = self.bytes_to_read
        shown["bytes_to_write"] = self.bytes_to_write
        for name in ("strategy", "reason"):
            value = getattr(self, name)
            if value is not None:
                shown[name] = value
        if self.takes:
            shown["takes"] = dict(self.takes)
        return shown


@dataclass(frozen=True)
class Plan:
    """The steps from what is to what is wanted, and the fields that they change.

    ``before`` and ``after`` map a resource ("pool ssd") to its differing fields, and to nothing else: a resource
    that is made has no entry in ``before``, one that goes has none in ``after``.
    """

    actions: tuple[Action, ...] = ()
    before: Mapping[str, Fields] = field(default_factory=dict)
    after: Mapping[str, Fields] = field(default_factory=dict)

    @property
    def changed(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.actions)

    def to_result(self) -> Fields:
        """The part of a module's result that every task has: ``changed``, ``actions``, ``plan`` and ``diff``."""
        header = _header([*self.before, *self.after])
        return {
            "changed": self.changed,
            "actions": [action.sentence for action in self.actions],
            "plan": [action.to_result() for action in self.actions],
            "diff": {
                "before": dict(self.before),
                "after": dict(self.after),
                "before_header": header,
                "after_header": header,
            },
        }

    def fill_after(self, spaces: Mapping[str, tuple[int, int]]) -> list[Fields]:
        """For each step, the pools that it is about, each with its ``capacity`` and what is ``free`` of it afterwards.
        ``spaces`` are both as they are before the first; what is free is None once that cannot be told."""
        left: dict[str, int | None] = {name: free for name, (_capacity, free) in spaces.items()}
        found = []
        for action in self.actions:
            after = {}
            for name, taken in action.takes.items():
                if name in spaces:
                    before = left[name]
                    left[name] = None if before is None or taken is None else before - taken
                    after[name] = {"capacity": spaces[name][0], "free": left[name]}
            found.append(after)
        return found

    @classmethod
    def join(cls, plans: Iterable[Plan]) -> Plan:
        """The plans of several resources as one, in the order given."""
        actions: list[Action] = []
        before: dict[str, Fields] = {}
        after: dict[str, Fields] = {}
        for plan in plans:
            actions.extend(plan.actions)
            before.update(plan.before)
            after.update(plan.after)
        return cls(tuple(actions), before, after)


class Differences:
    """Collects in what the wish and the finding differ.

    Only what the user set is compared: ``None`` as a wish means "as it is". Both sides must be in the same
    normal form (bytes, absolute paths, sorted lists); the caller sees to that.
    """

    def __init__(self) -> None:
        self.before: Fields = {}
        self.after: Fields = {}

    def add(self, name: str, wanted: Any, found: Any) -> bool:
        """Compare one field; returns whether it differs."""
        if wanted is None or wanted == found:
            return False
        self.before[name] = found
        self.after[name] = wanted
        return True

    def __bool__(self) -> bool:
        return bool(self.after)

    def __contains__(self, name: str) -> bool:
        return name in self.after

    def names(self) -> list[str]:
        """The fields that differ, in the order in which they were compared."""
        return list(self.after)


def _header(resources: list[str]) -> str:
    """What a diff is about: the resource's name, or how many there are."""
    names = list(dict.fromkeys(resources))
    if len(names) == 1:
        return names[0]
    return f"{len(names)} resources" if names else ""
