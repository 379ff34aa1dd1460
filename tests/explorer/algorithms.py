# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The algorithms under test: the shipped ones, or the same source with one clause broken."""

from __future__ import annotations

import importlib
import sys
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BASE = "ansible_collections.virt.storage.plugins.module_utils"
FILES = ("rules", "pool", "cache", "disks", "moving", "reclaim", "rebuild")
"""Each imports only those before it."""


@dataclass(frozen=True)
class Algorithms:
    """The modules of the ``_algorithms`` layer."""

    rules: Any
    pool: Any
    cache: Any
    disks: Any
    reclaim: Any
    rebuild: Any
    moving: Any


def shipped() -> Algorithms:
    """The algorithms as they ship."""
    return Algorithms(**{name: importlib.import_module("%s._algorithms.%s" % (BASE, name)) for name in FILES})


def mutated(label: str, file: str, old: str, new: str) -> Algorithms:
    """The algorithms with ``old`` replaced by ``new`` in one file; ``old`` must stand there exactly once."""
    package = "%s._mutant_%s" % (BASE, "".join(c if c.isalnum() else "_" for c in label))
    sys.modules[package] = types.ModuleType(package)
    sys.modules[package].__path__ = []  # type: ignore[attr-defined]
    loaded = {}
    for name in FILES:
        module = types.ModuleType("%s.%s" % (package, name))
        module.__package__ = package
        source_file = Path(importlib.import_module("%s._algorithms.%s" % (BASE, name)).__file__ or "")
        source = source_file.read_text()
        if name == file:
            if source.count(old) != 1:
                raise AssertionError("mutant %r: its text stands %d times in %s" % (label, source.count(old), file))
            source = source.replace(old, new)
        sys.modules[module.__name__] = module
        setattr(sys.modules[package], name, module)
        exec(compile(source, str(source_file), "exec"), module.__dict__)
        loaded[name] = module
    return Algorithms(**loaded)
