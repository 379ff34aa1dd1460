# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""The arguments of `instance_disk`, checked and put into the words of the layers below."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from .._ground.blank import check_blank
from .._ground.contents import Literal
from .._ground.errors import BadInput
from .._ground.seed import check_seed, nocloud_seed, seed_digest, seed_iso
from .._policy.disk_plan import Wanted
from .._policy.disk_xml import Attachment, check_attachment
from .._policy.flavors import Flavor, parse_flavors
from .._policy.plan import Fields
from .._policy.sizes import in_words, parse_size
from .._records.types import checked_instance, checked_role

KINDS = {"image": "image", "blank": "blank", "config": "config", "import_from": "import"}
"""The options that say what a disk is made of, and what each is called from here on."""
LARGEST = 1 << 51
"""Bytes; the most that qcow2 holds in clusters of 64 KiB."""
IN_CEPH = "rbd:"
"""How the address of an image in Ceph begins."""
LONGEST_PATH = 4000
"""Bytes."""
NO_FILE_SYSTEM = "no file system"
UNMADE = "yet to be made"
"""What check mode calls the pool of a disk where an earlier task has to make or label one for its flavor."""


@dataclass(frozen=True)
class Order:
    """A disk of the task, with what only making it needs.

    One with a ``flavor`` has no pool before it is placed; ``placement`` is the reason of that. A clone gets the own
    data of the file at ``path``, which stands on an image of the content ``over``.
    """

    want: Wanted
    file_system: str = ""
    label: str = ""
    content: Literal | None = None
    path: str = ""
    format: str = ""
    over: str = ""
    flavor: Flavor | None = None
    placement: str = ""

    @property
    def slot(self) -> tuple[str, str]:
        """Instance and role: there is one disk for them."""
        return self.want.instance, self.want.role


def requirements(params: Fields) -> Sequence[str]:
    """The Python modules that a task imports: config disks and imports need more than the rest."""
    entries = params["disks"] if params["state"] == "present" else ()
    config = ("pycdlib",) if any(entry["config"] is not None for entry in entries) else ()
    imports = any(entry["import_from"] is not None for entry in entries)
    return ("libvirt", *config, *(("oslo_utils.imageutils.format_inspector",) if imports else ()))


def orders(params: Fields, warnings: list[str]) -> list[Order]:
    """Every disk of the task, each checked by itself and all together."""
    entries: Sequence[Fields] = params["disks"]
    flavors = parse_flavors(params["flavors"] or {})
    found = []
    for entry in entries:
        pool, flavor = _destination(entry, params, flavors)
        order = _order(entry, pool, params["state"], warnings)
        found.append(order if flavor is None else replace(order, flavor=flavor))
    slots: set[tuple[str, ...]] = set()
    for order in found:
        want = order.want
        if order.slot in slots:
            raise BadInput(f"The disk {want.role or '(all)'} of {want.instance} stands twice in disks: list it once.")
        target = (want.instance, "", want.attachment.target or "")
        if want.attachment.target and target in slots:
            raise BadInput(f"Two disks of {want.instance} ask for the target {target[2]}: give each its own.")
        slots.update((order.slot, target))
    return found


def _destination(entry: Fields, params: Fields, flavors: Mapping[str, Flavor]) -> tuple[str, Flavor | None]:
    """The pool of a disk, or its flavor, as the disk or else the task says. What is removed is only looked for, so
    nobody has to say what its flavor means."""
    instance = checked_instance(entry["instance"])
    for given in (entry, params):
        name = given["flavor"]
        if given["pool"]:
            return given["pool"], None
        if name and params["state"] == "absent":
            return "", Flavor(name, {})
        if name and name not in flavors:
            known = ", ".join(flavors) or "none"
            raise BadInput(f"The disks of {instance} ask for flavor {name}, and flavors has {known}: define it there.")
        if name:
            return "", flavors[name]
    raise BadInput(f"No pool is given for the disks of {instance}: set pool or flavor for the task or for the disk.")


def _order(entry: Fields, pool: str, state: str, warnings: list[str]) -> Order:
    instance = checked_instance(entry["instance"])
    if state == "absent":
        return Order(Wanted(pool, instance, checked_role(entry["role"]) if entry["role"] else ""))
    role = checked_role(entry["role"] or "root")
    what = f"disk {role} of {instance}"
    given = [option for option in KINDS if entry[option] is not None]
    if len(given) > 1:
        raise BadInput(f"The {what} is to be made of {' and '.join(given)}: give one of them.")
    kind = KINDS[given[0]] if given else ""
    _check_fitting(entry, kind, what)
    size = parse_size(entry["size"], f"size of {what}") if entry["size"] is not None else 0
    if size > LARGEST:
        raise BadInput(f"The size of {what} is {in_words(size)}, and a disk can have {in_words(LARGEST)} at most.")
    attachment = _attachment(entry, kind)
    check_attachment(attachment, what)
    want = Wanted(
        pool=pool,
        instance=instance,
        role=role,
        kind=kind,
        size=size,
        clone=entry["clone"],
        flattened=entry["flattened"],
        replace=entry["replace"],
        attachment=attachment,
    )
    makers = {"": _as_it_is, "image": _image, "blank": _blank, "config": _config, "import": _import}
    return makers[kind](entry, want, warnings)


def _check_fitting(entry: Fields, kind: str, what: str) -> None:
    """Options that mean nothing for what the disk is made of are mistakes."""
    if entry["size"] is not None and kind == "config":
        raise BadInput(f"The {what} is a config disk, which is as large as its files: leave size out.")
    if entry["clone"] and kind not in ("image", ""):
        raise BadInput(f"The {what} is made of no image, so there is nothing to clone: leave clone out.")
    if entry["replace"] and kind != "config":
        raise BadInput(f"The {what} is no config disk, and only those are replaced: leave replace out.")
    if entry["own_data"]:
        _check_own(entry, kind, what)


def _check_own(entry: Fields, kind: str, what: str) -> None:
    if kind != "image":
        raise BadInput(f"The {what} is to get the own data of a file, but over no image: give image, too.")
    for option in ("clone", "size"):
        if entry[option] is not None:
            raise BadInput(f"The {what} gets the own data of a file, which says its {option}: leave {option} out.")


def _as_it_is(entry: Fields, want: Wanted, warnings: list[str]) -> Order:
    return Order(want)


def _image(entry: Fields, want: Wanted, warnings: list[str]) -> Order:
    if not entry["image"]:
        raise BadInput(f"The image of disk {want.role} of {want.instance} has no name: give its name, key or id.")
    own = entry["own_data"]
    if not own:
        return Order(replace(want, content=entry["image"]))
    if not want.pool:
        raise BadInput(f"The disk {want.role} of {want.instance} gets the own data of a file: give pool, not flavor.")
    path = os.path.normpath(own["path"])
    if not (path.startswith("/") and _tellable(path)):
        raise BadInput(
            f"The path {path[:80]!r} of the own data of disk {want.role} of {want.instance} cannot be used: give the "
            "absolute path of a file, of one line."
        )
    return Order(replace(want, content=entry["image"]), path=path, over=own["content"])


def _blank(entry: Fields, want: Wanted, warnings: list[str]) -> Order:
    file_system, label = entry["blank"]["fs"], entry["blank"]["label"] or ""
    if file_system == "none":
        if label:
            raise BadInput(f"The disk {want.role} of {want.instance} has no file system to carry a label: give fs.")
        return Order(replace(want, content=NO_FILE_SYSTEM))
    if want.size:
        try:
            check_blank(file_system, want.bytes, label)
        except BadInput as error:
            raise BadInput(f"The disk {want.role} of {want.instance} cannot be made: {error.message}") from None
    content = f"{file_system} labelled {label}" if label else file_system
    return Order(replace(want, content=content), file_system, label)


def _config(entry: Fields, want: Wanted, warnings: list[str]) -> Order:
    config = entry["config"]
    seed = nocloud_seed(
        want.instance,
        config["user_data"] or "",
        config["meta_data"] or "",
        config["network_config"],
        config["vendor_data"],
    )
    check_seed(seed.files)
    warnings += [f"Disk {want.role} of {want.instance}: {warning}" for warning in seed.warnings]
    return Order(replace(want, content=seed_digest(seed.files)), content=Literal(lambda: seed_iso(seed.files)))


def _import(entry: Fields, want: Wanted, warnings: list[str]) -> Order:
    source = entry["import_from"]
    path = os.path.normpath(source["path"])
    if not (path.startswith(("/", IN_CEPH)) and _tellable(path)):
        raise BadInput(
            f"The path {path[:80]!r} to import disk {want.role} of {want.instance} from cannot be used: give an "
            f"absolute path, or {IN_CEPH}pool/image, of one line."
        )
    return Order(replace(want, content=path), path=path, format=source["format"])


def _tellable(path: str) -> bool:
    """Whether a path can be put into a record and a sentence."""
    return len(os.fsencode(path)) <= LONGEST_PATH and not any(ord(each) < 32 for each in path)


def _attachment(entry: Fields, kind: str) -> Attachment:
    device = entry["device"] or ("cdrom" if kind == "config" else "disk")
    return Attachment(
        target=entry["target"],
        bus=entry["bus"] or ("sata" if device == "cdrom" else "virtio"),
        device=device,
        cache=entry["cache"],
        io=entry["io"],
        discard=entry["discard"],
        serial=entry["serial"],
    )
