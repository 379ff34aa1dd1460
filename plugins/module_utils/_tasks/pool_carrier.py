# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.
"""Carrying out the plan of a pool."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Any

from .._ground.errors import StorageError
from .._ground.libvirt_host import Host, PoolStatus
from .._ground.libvirt_secrets import Secret
from .._ground.mounts import mounted_at
from .._ground.os_errors import told
from .._policy.plan import Plan
from .._policy.pool_ceph import secret_usage, secret_uuid
from .._policy.pool_nfs import unfit_mount
from .._policy.pool_wished import wished_definition
from .._policy.pool_xml import Definition, write
from .._policy.pools import Found, Wish
from .pool_contents import remove_contents, write_labels, write_limits
from .pool_folder import create, permit
from .pool_group import enlist, gather, let_go, thin
from .pool_look import around


class Carrier:
    """Carries a plan out. The steps of `plan` are its methods, by verb."""

    def __init__(self, host: Host, want: Wish, status: PoolStatus | None, have: Found) -> None:
        self.host, self.want, self.status, self.have = host, want, status, have
        self.around = around(host)
        self.wished = wished_definition(want, have) if want.state != "absent" else have.definition
        self.steps: dict[str, Callable[[], Any]] = {
            "keep": lambda: host.define(host.pool(want.name).xml),
            "entrust": self._entrust,
            "define": self._define,
            "redefine": self._define,
            "create": lambda: create(self._wished.path, want),
            "permit": lambda: permit(self._wished.path, want),
            "gather": lambda: gather(self._wished.group, want.lvm),
            "thin": lambda: thin(self._wished.group),
            "enlist": lambda: enlist(self._wished.group, want.lvm),
            "start": self._start,
            "stop": self._stop,
            "undefine": lambda: host.undefine(want.name),
            "forget": lambda: host.undefine_secret(secret_uuid(want.name)),
            "enable": lambda: host.set_autostart(want.name, True),
            "disable": lambda: host.set_autostart(want.name, False),
            "label": lambda: write_labels(self._wished, self.around, want.labels or {}),
            "limit": lambda: write_limits(self._wished, self.around, want.limits or {}),
            "remove": lambda: remove_contents(self._wished, self.around),
        }

    @property
    def _wished(self) -> Definition:
        if self.wished is None:
            raise AssertionError
        return self.wished

    def apply(self, steps: Plan) -> None:
        """Every step in order. An error tells under ``done`` what was done before it."""
        done: list[str] = []
        for action in steps.actions:
            try:
                self.steps[action.verb]()
            except StorageError as error:
                error.facts.setdefault("done", done)
                raise
            except OSError as error:
                refused = told(error)
                refused.facts["done"] = done
                raise refused from error
            done.append(action.sentence)

    def _entrust(self) -> None:
        """Give the pool a secret of its own with the wished key.

        It is not private: nobody but libvirt could read the key in it then, and our modules work in the cluster
        themselves. Whoever may ask libvirt's system daemon for it may read the guests' disks as well.
        """
        secret = Secret(secret_uuid(self.want.name), secret_usage(self.want.name), private=False)
        self.host.define_secret(secret, f"The key with which pool {self.want.name} and its guests ask Ceph")
        self.host.set_secret_value(secret.uuid, self.want.key or "")

    def _define(self) -> None:
        self.host.define(write(self._wished, onto=self.status.stored if self.status else None))

    def _stop(self) -> None:
        if self._wished.group:
            let_go(self._wished.group)
        self.host.stop(self.want.name)

    def _start(self) -> None:
        """Start the pool. A new one that cannot be used is not left behind; where even that fails, the first error is
        the one to tell."""
        try:
            self.host.start(self.want.name)
            self._check_mount()
        except StorageError:
            with contextlib.suppress(StorageError, OSError):
                self._withdraw()
            raise

    def _check_mount(self) -> None:
        if self._wished.type != "netfs":
            return
        mount = mounted_at(os.path.realpath(self._wished.path))
        problem = unfit_mount(mount.options if mount and mount.type.startswith("nfs") else "")
        if problem:
            raise StorageError(f"Pool {self.want.name} was started and stopped again: {problem}; set netfs.version.")

    def _withdraw(self) -> None:
        self.host.stop(self.want.name)
        if self.status is None:
            self.host.undefine(self.want.name)
            if self.have.keys.own is None:
                self.host.undefine_secret(secret_uuid(self.want.name))
        if self.have.folder and not self.have.folder.exists:
            os.rmdir(self._wished.path)
