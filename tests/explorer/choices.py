# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Sources of choice: every sequence up to a bound, a random one from a seed, or one given to replay."""

from __future__ import annotations

import random
from collections.abc import Iterator


class Choices:
    """Answers ``pick`` from a given prefix, then with 0; keeps what it answered and how many ways there were."""

    def __init__(self, prefix: list[int]) -> None:
        self.prefix = prefix
        self.taken: list[int] = []
        self.ways: list[int] = []

    def pick(self, ways: int) -> int:
        """A number below ``ways``. 0 is the dull way: go on, no fault."""
        taken = self._next(ways)
        self.taken.append(taken)
        self.ways.append(ways)
        return taken

    def _next(self, ways: int) -> int:
        position = len(self.taken)
        return min(self.prefix[position], ways - 1) if position < len(self.prefix) else 0


class RandomChoices(Choices):
    """Takes the dull way most of the time, so that long stories get told, too."""

    def __init__(self, seed: int) -> None:
        super().__init__([])
        self._random = random.Random(seed)
        self._dullness = self._random.choice((0.5, 0.8, 0.92, 0.97))

    def _next(self, ways: int) -> int:
        if ways == 1 or self._random.random() < self._dullness:
            return 0
        return self._random.randrange(ways)


def every(limit: int) -> Iterator[Choices]:
    """Every sequence of choices, one after another, by counting up the last choice that still can; ``limit`` at most.

    The caller runs each to its end before it asks for the next one.
    """
    prefix: list[int] = []
    for _unused in range(limit):
        choices = Choices(prefix)
        yield choices
        last = len(choices.taken) - 1
        while last >= 0 and choices.taken[last] + 1 >= choices.ways[last]:
            last -= 1
        if last < 0:
            return
        prefix = [*choices.taken[:last], choices.taken[last] + 1]
