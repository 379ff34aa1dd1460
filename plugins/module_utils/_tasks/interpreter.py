# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""Running a module under a Python that has what it imports.

The bindings of libvirt come with the distribution, for the distribution's own Python, while Ansible may have chosen
another; and a distribution whose oslo.utils is too old gets a virtual environment from the role `storage_pool`.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterable
from typing import NoReturn

from ansible.module_utils.common.respawn import has_respawned, respawn_module

from .._ground.command import Limits, Runner
from .._ground.errors import MissingRequirement, StorageError

INTERPRETERS = ("/opt/virt-storage/venv/bin/python", "/usr/bin/python3", "/usr/libexec/platform-python")
"""Where to look. The first is what the role `storage_pool` makes: it also sees the distribution's packages."""

_PROBING = Limits(wall_seconds=30)

BROUGHT_BY = {
    "libvirt": "python3-libvirt with apt or dnf",
    "oslo_utils": "python3-oslo.utils 7.4 or newer with apt or dnf, or let the role virt.storage.storage_pool do it",
    "pycdlib": "python3-pycdlib with apt or dnf",
    "rados": "python3-rados with apt or dnf",
    "rbd": "python3-rbd with apt or dnf",
}


def ensure(modules: Iterable[str]) -> None:
    """Go on under a Python that can import ``modules``.

    Returns where the present one can; otherwise does not return, but runs the Ansible module again under the first
    that can. Raises `MissingRequirement`, naming the packages, where there is none.
    """
    wanted = list(modules)
    missing = [name for name in wanted if not _imports(name)]
    if not missing:
        return
    if not has_respawned():
        for interpreter in INTERPRETERS:
            if _can_import(interpreter, wanted):
                _respawn(interpreter)
    packages = "; ".join(dict.fromkeys(BROUGHT_BY.get(name.partition(".")[0], name) for name in missing))
    raise MissingRequirement(
        f"No Python on this host can import {' and '.join(missing)}: install {packages}.", missing=missing
    )


def _imports(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True


def _can_import(interpreter: str, modules: list[str]) -> bool:
    code = f"import sys\nif sys.version_info < (3, 9):\n    sys.exit(1)\nimport {', '.join(modules)}"
    try:
        return Runner().run([interpreter, "-c", code], limits=_PROBING, ok=(0, 1)).rc == 0
    except StorageError:
        return False  # there is none, or it does not come to an end


def _respawn(interpreter: str) -> NoReturn:
    """Run the module again under ``interpreter``, however long its arguments are.

    `respawn_module` writes all of them into a pipe before anything reads from it: more than a pipe holds (64 KiB,
    some hundred disks) and it would wait for ever. A file in memory, in the pipe's place, has room.
    """
    pipe = os.pipe

    def roomy_pipe() -> tuple[int, int]:
        _set_pipe(pipe)
        room = os.memfd_create("module")
        return os.open(f"/proc/self/fd/{room}", os.O_RDONLY | os.O_CLOEXEC), room

    _set_pipe(roomy_pipe)
    respawn_module(interpreter)
    raise AssertionError("respawn_module came back")


def _set_pipe(pipe: Callable[[], tuple[int, int]]) -> None:
    os.pipe = pipe
