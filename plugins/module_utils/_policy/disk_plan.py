# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""What is wanted of a disk, what there is, and the steps between. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .._ground.errors import BadInput
from .disk_xml import Attachment
from .plan import Action, Fields, Plan
from .sizes import in_words

SECTOR = 512


@dataclass(frozen=True)
class Wanted:
    """A disk of the task. ``kind`` is ``image``, ``blank``, ``config`` or ``import``, or empty where it must exist.

    ``content`` tells what it is made of: the image's name, the file system, the digest of the config files, the path.
    """

    pool: str
    instance: str
    role: str
    kind: str = ""
    content: str = ""
    size: int = 0
    clone: str | None = None
    flattened: bool = False
    replace: bool = False
    attachment: Attachment = field(default_factory=Attachment)

    @property
    def what(self) -> str:
        """How the disk is called in plans and diffs."""
        return f"disk {self.role} of {self.instance} in pool {self.pool}"

    @property
    def bytes(self) -> int:
        """The size in whole sectors; 0 where none is asked for."""
        return -(-self.size // SECTOR) * SECTOR


@dataclass(frozen=True)
class Found:
    """The disk as it stands. ``origin`` is its record's; ``needs_image`` whether it stands on one."""

    size: int
    origin: Mapping[str, Any]
    needs_image: bool
    users: str = ""


@dataclass(frozen=True)
class Offer:
    """What the pool has for a new disk: the size of its image, how it would be cloned and why."""

    image_size: int = 0
    strategy: str = ""
    reason: str = ""
    image_id: str = ""
    image_name: str = ""


def plan(want: Wanted, have: Found | None, offer: Offer) -> Plan:
    """The steps from ``have`` to ``want``. Raises BadInput for what cannot be."""
    if have is None:
        return _make(want, offer)
    if want.kind == "config" and have.origin.get("config") not in (None, want.content):
        return _replace(want, have)
    _check_origin(want, have, offer)
    actions: list[Action] = []
    before: Fields = {}
    after: Fields = {}
    if want.bytes and want.bytes < have.size and want.kind != "config":
        raise BadInput(
            f"The {want.what} has {have.size} bytes ({in_words(have.size)}) and cannot shrink to {want.bytes} "
            f"({in_words(want.bytes)}): ask for at least its size."
        )
    if want.bytes > have.size and want.kind != "config":
        sentence = f"grow {want.what} from {in_words(have.size)} to {in_words(want.bytes)}"
        actions.append(Action("grow", want.what, sentence))
        before["size"], after["size"] = have.size, want.bytes
    if want.flattened and have.needs_image:
        if have.users:
            raise BadInput(f"The {want.what} is in use by {have.users}: stop the guest, then flatten the disk.")
        sentence = f"flatten {want.what}, so that it needs no image"
        actions.append(Action("flatten", want.what, sentence, bytes_to_write=offer.image_size))
        before["flattened"], after["flattened"] = False, True
    return Plan(tuple(actions), {want.what: before} if before else {}, {want.what: after} if after else {})


def _make(want: Wanted, offer: Offer) -> Plan:
    if not want.kind:
        raise BadInput(
            f"There is no {want.what}, and the task does not say what to make it of: give image, blank, config or "
            "import_from."
        )
    if want.kind == "blank" and not want.bytes:
        raise BadInput(f"The blank {want.what} needs a size.")
    if want.bytes and want.bytes < offer.image_size:
        raise BadInput(
            f"The {want.what} is to have {want.bytes} bytes ({in_words(want.bytes)}), but its image {want.content} "
            f"has {offer.image_size} ({in_words(offer.image_size)}): ask for at least that size."
        )
    size = want.bytes or offer.image_size
    amount = f"{in_words(size)}, " if size else ""
    of = {
        "image": f"{amount}{offer.strategy} of image {want.content}",
        "blank": f"{amount}blank, {want.content}",
        "config": "config disk",
        "import": f"{amount}import of {want.content}",
    }[want.kind]
    after: Fields = {"state": "ready"}
    if size:
        after["size"] = size
    action = Action(
        "make", want.what, f"make {want.what} ({of})", strategy=offer.strategy or None, reason=offer.reason or None
    )
    actions = [action]
    if want.flattened and want.kind == "image" and offer.strategy == "overlay":
        sentence = f"flatten {want.what}, so that it needs no image"
        actions.append(Action("flatten", want.what, sentence, bytes_to_write=offer.image_size))
        after["flattened"] = True
    return Plan(tuple(actions), {}, {want.what: after})


def _replace(want: Wanted, have: Found) -> Plan:
    if not want.replace:
        raise BadInput(
            f"The {want.what} holds other files than the task gives: set replace: true to make it anew, under a new "
            "path, or leave its files as they are."
        )
    if have.users:
        raise BadInput(f"The {want.what} is in use by {have.users}: stop the guest, then replace its config disk.")
    return Plan(
        (Action("replace", want.what, f"replace {want.what}, whose files differ"),),
        {want.what: {"config": have.origin.get("config")}},
        {want.what: {"config": want.content}},
    )


def _check_origin(want: Wanted, have: Found, offer: Offer) -> None:
    """A disk keeps what it was made of; a task that says otherwise is told so."""
    made_of = {
        key: have.origin[key] for key in ("image", "key", "name", "blank", "config", "import") if key in have.origin
    }
    if want.kind == "image" and made_of:
        if want.content in (made_of.get("name"), made_of.get("image"), made_of.get("key")):
            return
        if offer.image_name and offer.image_name == made_of.get("name"):
            return
    elif not made_of or not want.kind or made_of.get(want.kind) == want.content or want.kind == "config":
        return
    of = made_of.get("name") or next((f"{key} {value}" for key, value in made_of.items()), "nothing known")
    raise BadInput(
        f"The {want.what} exists and was made of {of}, not of {want.content}: a disk is never remade in place, so "
        "remove it first (state: absent) or ask for what it is."
    )
