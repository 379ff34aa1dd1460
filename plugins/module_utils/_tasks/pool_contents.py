# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""What a file pool says about itself: labels and cache limits, and what it holds."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from .._ground.errors import LostMetadata
from .._policy.pools import Contents

FOLDER = ".virt-storage"


def read_config(path: str) -> dict[str, Any]:
    """The pool's own settings, ``labels`` and ``limits``; empty where none were set."""
    name = os.path.join(path, FOLDER, "pool.json")
    try:
        with open(name, encoding="utf-8") as file:
            config = json.load(file)
    except FileNotFoundError:
        return {}
    except ValueError:
        config = None
    if not isinstance(config, dict):
        raise LostMetadata(f"The file {name} cannot be read: put it back from a backup, or remove it and set it anew.")
    return config


def write_config(path: str, config: Mapping[str, Any]) -> None:
    """Replace the pool's own settings."""
    os.makedirs(os.path.join(path, FOLDER), mode=0o700, exist_ok=True)
    name = os.path.join(path, FOLDER, "pool.json")
    with open(name + ".new", "w", encoding="utf-8") as file:
        json.dump(config, file, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())
    os.replace(name + ".new", name)


def write_labels(path: str, labels: Mapping[str, Any]) -> None:
    """Set the labels of the pool, all of them."""
    write_config(path, {**read_config(path), "labels": dict(labels)})


def write_limits(path: str, limits: Mapping[str, int]) -> None:
    """Set the limits that are named; 0 lifts one."""
    config = read_config(path)
    merged = {**config.get("limits", {}), **limits}
    write_config(path, {**config, "limits": {limit: value for limit, value in merged.items() if value}})


def read_contents(path: str) -> Contents:
    """What the folder of a pool holds, from its records and a listing: no volume is opened."""
    try:
        names = sorted(os.listdir(path))
    except (FileNotFoundError, NotADirectoryError):
        return Contents()
    config = read_config(path)
    return Contents(
        labels=config.get("labels", {}),
        limits=config.get("limits", {}),
        unmanaged=tuple(name for name in names if name not in (FOLDER, "lost+found")),
    )


def remove_contents(path: str) -> None:
    """Remove the records of an empty pool, and its folder. What appeared meanwhile stays, and is an error."""
    own = os.path.join(path, FOLDER)
    for folder, folders, files in os.walk(own, topdown=False):
        for name in files:
            os.unlink(os.path.join(folder, name))
        for name in folders:
            os.rmdir(os.path.join(folder, name))
    if os.path.isdir(own):
        os.rmdir(own)
    os.rmdir(path)
