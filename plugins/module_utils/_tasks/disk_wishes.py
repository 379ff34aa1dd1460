# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""The arguments of `instance_disk`, checked and put into the words of the layers below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .._ground.blank import check_blank
from .._ground.contents import Literal
from .._ground.errors import BadInput
from .._ground.seed import check_seed, nocloud_seed, seed_digest, seed_iso
from .._policy.disk_plan import SECTOR, Wanted
from .._policy.disk_xml import TARGETS, Attachment
from .._policy.plan import Fields
from .._policy.sizes import parse_size
from .._records.types import checked_instance, checked_role

KINDS = ("image", "blank", "config", "import_from")


@dataclass(frozen=True)
class Order:
    """A disk of the task, with what only making it needs."""

    want: Wanted
    file_system: str = ""
    label: str = ""
    content: Any = None
    path: str = ""
    format: str = ""

    @property
    def slot(self) -> tuple[str, str]:
        """Instance and role: there is one disk for them."""
        return self.want.instance, self.want.role


def orders(params: Fields, warnings: list[str]) -> list[Order]:
    """Every disk of the task, each checked by itself and all together."""
    entries: Sequence[Fields] = params["disks"]
    found = [_order(entry, params["pool"], params["state"], warnings) for entry in entries]
    seen: set[tuple[str, str]] = set()
    for order in found:
        if order.slot in seen:
            raise BadInput(f"The disk {order.want.role} of {order.want.instance} stands twice in disks: list it once.")
        seen.add(order.slot)
    return found


def _order(entry: Fields, default_pool: str | None, state: str, warnings: list[str]) -> Order:
    instance = checked_instance(entry["instance"])
    if state == "absent":
        role = checked_role(entry["role"]) if entry["role"] else ""
        return Order(Wanted(_pool(entry, default_pool), instance, role))
    role = checked_role(entry["role"] or "root")
    given = [kind for kind in KINDS if entry[kind]]
    if len(given) > 1:
        raise BadInput(f"The disk {role} of {instance} is to be made of {' and '.join(given)}: give one of them.")
    wanted = Wanted(
        pool=_pool(entry, default_pool),
        instance=instance,
        role=role,
        size=parse_size(entry["size"], f"size of disk {role} of {instance}") if entry["size"] is not None else 0,
        clone=entry["clone"],
        flattened=bool(entry["flattened"]),
        replace=bool(entry["replace"]),
        attachment=_attachment(entry, given == ["config"]),
    )
    return _with_content(entry, given[0] if given else "", wanted, warnings)


def _with_content(entry: Fields, kind: str, wanted: Wanted, warnings: list[str]) -> Order:
    """What the disk is made of, where the task says so."""
    settled = _rest(wanted)
    if kind == "image":
        return Order(Wanted(**settled, kind="image", content=entry["image"]))
    if kind == "blank":
        file_system, label = entry["blank"]["fs"], entry["blank"]["label"] or ""
        if file_system == "none":
            return Order(Wanted(**settled, kind="blank", content="no file system"))
        check_blank(file_system, -(-wanted.size // SECTOR) * SECTOR, label)
        return Order(Wanted(**settled, kind="blank", content=file_system), file_system, label)
    if kind == "config":
        return _config(entry["config"], wanted, settled, warnings)
    if kind == "import_from":
        source = entry["import_from"]
        if not source["path"].startswith("/"):
            raise BadInput(f"The path {source['path']!r} to import from is not absolute: give it from / on.")
        return Order(
            Wanted(**settled, kind="import", content=source["path"]), path=source["path"], format=source["format"]
        )
    return Order(wanted)


def _config(config: Fields, wanted: Wanted, settled: dict[str, Any], warnings: list[str]) -> Order:
    seed = nocloud_seed(
        wanted.instance,
        config["user_data"] or "",
        config["meta_data"] or "",
        config["network_config"],
        config["vendor_data"],
    )
    check_seed(seed.files)
    warnings += [f"Disk {wanted.role} of {wanted.instance}: {warning}" for warning in seed.warnings]
    content = Literal(lambda: seed_iso(seed.files))
    return Order(Wanted(**settled, kind="config", content=seed_digest(seed.files)), content=content)


def _rest(wanted: Wanted) -> dict[str, Any]:
    """The fields that do not say what the disk is made of."""
    return {name: value for name, value in vars(wanted).items() if name not in ("kind", "content")}


def _pool(entry: Fields, default_pool: str | None) -> str:
    pool = entry["pool"] or default_pool
    if not pool:
        raise BadInput(f"No pool is given for the disks of {entry['instance']}: set pool for the task or for the disk.")
    return str(pool)


def _attachment(entry: Fields, config: bool) -> Attachment:
    bus = entry["bus"] or ("sata" if config else "virtio")
    if bus not in TARGETS:
        raise BadInput(f"The bus {bus!r} is unknown: use one of {', '.join(TARGETS)}.")
    return Attachment(
        target=entry["target"],
        bus=bus,
        device=entry["device"] or ("cdrom" if config else "disk"),
        cache=entry["cache"],
        io=entry["io"],
        discard=entry["discard"],
        serial=entry["serial"],
    )
