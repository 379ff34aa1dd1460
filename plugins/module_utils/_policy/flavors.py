# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""Flavors: which pools may hold the disks of an instance, in order of preference. Pure; sizes in bytes.

A flavor has a list of choices for ``root``, ``ephemeral`` and ``swap`` disks. As people write it::

    gold:
      root:
        - labels: {media: nvme, tier: gold}
        - pools: [ssd1, ssd2]
          choose: pack
          overcommit: 1.5
          min_free: 50G
      swap:
        - pools: [hdd]

The extra specs of a Nova flavor say the same in text: see ``from_extra_specs``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from .._ground.errors import BadInput
from .plan import Fields
from .sizes import parse_size

ROOT, EPHEMERAL, SWAP = PARTS = ("root", "ephemeral", "swap")
WAYS = ("spread", "pack")
OPTIONS = ("pools", "labels", "choose", "overcommit", "min_free")
EXTRA_SPECS = "extra_specs"
SHARED_SPECS = {"disk:pool_choose": "choose", "disk:pool_overcommit": "overcommit", "disk:pool_min_free": "min_free"}
"""Extra specs that are about all choices of a flavor."""
_RATIO = re.compile(r"[0-9]{1,4}(\.[0-9]{1,4})?")


@dataclass(frozen=True)
class Choice:
    """Pools that are as good as each other: those named, those with all of the labels, or those with both.

    ``overcommit`` is how many times a pool's capacity may be promised to disks. ``min_free`` bytes stay free.
    ``pack`` fills one pool after the other; otherwise disks are spread.
    """

    pools: frozenset[str] = frozenset()
    labels: Mapping[str, str] = field(default_factory=dict)
    pack: bool = False
    overcommit: Fraction = Fraction(1)
    min_free: int = 0

    def mismatch(self, pool: str, labels: Mapping[str, Any]) -> str:
        """Why a pool is not among these, "" where it is."""
        if self.pools and pool not in self.pools:
            return "it is not named"
        for name, wanted in self.labels.items():
            if name not in labels:
                return f"it has no label {name}"
            found = label_text(labels[name])
            if found != wanted:
                return f"its label {name} is {found}, not {wanted}"
        return ""


@dataclass(frozen=True)
class Flavor:
    """What a flavor says of each part, best choice first."""

    name: str
    parts: Mapping[str, tuple[Choice, ...]]

    def choices(self, part: str) -> tuple[Choice, ...]:
        """The choices for ``part``; those for root disks where the flavor does not say."""
        found = self.parts.get(part) or self.parts.get(ROOT)
        if not found:
            raise BadInput(f"Flavor {self.name} does not say which pools hold {part} disks: give it {part} or root.")
        return found


def part_of(role: str, swap: bool = False) -> str:
    """The part of a flavor that speaks of a disk of this role; ``swap`` where it is made as swap space."""
    if swap or role == SWAP:
        return SWAP
    return ROOT if role in (ROOT, "config") else EPHEMERAL


def label_text(value: Any) -> str:
    """A label's value as it is compared: ``true``, ``1`` and text are what a flavor spells likewise."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def parse_flavors(given: Mapping[str, Any]) -> dict[str, Flavor]:
    """Every flavor of a mapping, by name."""
    return {str(name): parse_flavor(str(name), each) for name, each in given.items()}


def parse_flavor(name: str, given: Any) -> Flavor:
    """One flavor as people write it, or BadInput."""
    where = f"Flavor {name}"
    given = _mapping(given, where)
    if EXTRA_SPECS in given:
        _known(given, (EXTRA_SPECS,), where)
        given = from_extra_specs(name, _mapping(given[EXTRA_SPECS], f"{EXTRA_SPECS} of flavor {name}"))
    _known(given, PARTS, where)
    parts = {}
    for part, choices in given.items():
        if not isinstance(choices, list) or not choices:
            raise BadInput(f"{where} has no list of choices for {part}: give one, the best choice first.")
        parts[part] = tuple(
            _choice(each, f"Choice {number} for {part} of flavor {name}") for number, each in enumerate(choices, 1)
        )
    return Flavor(name, parts)


def from_extra_specs(name: str, specs: Mapping[str, Any]) -> Fields:
    """The extra specs of a Nova flavor as a flavor. Those that do not begin with ``disk:`` are Nova's own.

    ``disk:pool`` names pools, ``disk:pool_labels`` gives labels as ``media=nvme,tier=gold``; a semicolon parts one
    choice from the next. ``disk:root_pool``, ``disk:swap_pool_labels`` and so on are about one part only.
    ``disk:pool_choose``, ``disk:pool_overcommit`` and ``disk:pool_min_free`` are about all choices.
    """
    where = f"{EXTRA_SPECS} of flavor {name}"
    stems = {part: f"disk:{part}_pool" for part in PARTS}
    known = [key for stem in ("disk:pool", *stems.values()) for key in (stem, f"{stem}_labels")]
    _known([key for key in specs if str(key).startswith("disk:")], (*known, *SHARED_SPECS), where)
    shared = {option: specs[key] for key, option in SHARED_SPECS.items() if key in specs}
    general = _spelt_out(specs, "disk:pool", where)
    flavor = {}
    for part, stem in stems.items():
        choices = _spelt_out(specs, stem, where) or general
        if choices:
            flavor[part] = [{**choice, **shared} for choice in choices]
    return flavor


def _spelt_out(specs: Mapping[str, Any], stem: str, where: str) -> list[Fields]:
    """The choices that ``stem`` and its labels give, as a flavor has them."""
    pools, labels = str(specs.get(stem, "")), str(specs.get(f"{stem}_labels", ""))
    if pools and labels:
        raise BadInput(f"The {where} have both {stem} and {stem}_labels: give one of them.")
    if pools:
        return [{"pools": _words(choice)} for choice in pools.split(";")]
    found: list[Fields] = []
    for choice in labels.split(";") if labels else ():
        pairs = [word.partition("=") for word in _words(choice)]
        wrong = [name for name, equals, value in pairs if not (name and equals and value)]
        if wrong:
            raise BadInput(f"The {stem}_labels in the {where} do not give {wrong[0]} a value: write media=nvme.")
        found.append({"labels": {name.strip(): value.strip() for name, _equals, value in pairs}})
    return found


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",")]


def _choice(given: Any, where: str) -> Choice:
    given = _mapping(given, where)
    _known(given, OPTIONS, where)
    pools, labels = given.get("pools") or [], given.get("labels") or {}
    if not isinstance(pools, list) or not all(isinstance(pool, str) and pool for pool in pools):
        raise BadInput(f"{where} has pools that are no list of names: give one such as [ssd1, ssd2].")
    labels = {str(name): label_text(value) for name, value in _mapping(labels, f"The labels of {where}").items()}
    if not pools and not labels:
        raise BadInput(f"{where} names no pools: give pools or labels.")
    way = given.get("choose", WAYS[0])
    if way not in WAYS:
        raise BadInput(f"{where} cannot choose by {str(way)[:40]!r}: use {' or '.join(WAYS)}.")
    return Choice(
        pools=frozenset(pools),
        labels=labels,
        pack=way == "pack",
        overcommit=_ratio(given.get("overcommit", 1), where),
        min_free=_min_free(given.get("min_free", 0), where),
    )


def _ratio(value: Any, where: str) -> Fraction:
    text = str(value).strip()
    ratio = Fraction(text) if _RATIO.fullmatch(text) else Fraction(0)
    if not ratio:
        raise BadInput(f"{where} cannot overcommit by {text[:40]!r}: give a number above 0, such as 1 or 2.5.")
    return ratio


def _min_free(value: Any, where: str) -> int:
    return 0 if str(value).strip() == "0" else parse_size(value, f"min_free of {where[0].lower()}{where[1:]}")


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise BadInput(f"{where} cannot be read, for it is no mapping: see the guide on flavors for its form.")
    return value


def _known(given: Iterable[str], known: Iterable[str], where: str) -> None:
    unknown = sorted(str(key) for key in set(given).difference(known))
    if unknown:
        raise BadInput(f"{where} cannot have {unknown[0][:60]}: it knows {', '.join(known)}.")
