# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""What is wanted of a disk, what there is, and the steps between. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from .._ground.errors import BadInput, InUse
from .disk_xml import Attachment
from .plan import Action, Fields, Plan
from .sizes import in_words

SECTOR = 512
CONFIG, OTHER_CONFIG = "the task's files", "other files"
"""How plans and diffs speak of the content of config disks. Its digest stays in the record: where a password is all
that is not known of the files, the digest would tell whether a guess is right."""


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
    """The disk as it stands. ``origin`` is its record's; ``needs_image`` whether it stands on one; ``users`` who
    uses it, looked up only where that may stand in the way. ``allocated`` is what it takes up, ``to_flatten`` what
    flattening it would copy, None where that cannot be told; both matter only to steps that ask for them."""

    size: int
    origin: Mapping[str, Any]
    needs_image: bool = False
    users: str = ""
    allocated: int = 0
    to_flatten: int | None = 0


@dataclass(frozen=True)
class Offer:
    """What there is to make a disk of: the ``size`` of the image or volume in bytes (0 where it is not known yet),
    how it becomes a disk and why so, and whether the disk will need the image afterwards.

    ``read`` and ``written`` are the bytes that making it takes, ``to_flatten`` those that flattening it then copies;
    None where only a run can tell. ``thick`` where a volume takes its whole size from the pool at once."""

    size: int = 0
    strategy: str = ""
    reason: str = ""
    name: str = ""
    needs_image: bool = False
    read: int | None = 0
    written: int | None = 0
    to_flatten: int | None = 0
    thick: bool = False


@dataclass(frozen=True)
class Moving:
    """A disk that stands in pool ``source`` and is to move: how (``delta`` or ``whole``), why so, and how many bytes
    are read there, all of which are written. ``kept`` is how many of them are data that the other pool then holds, None
    where only a run can tell; ``allocated`` what it takes up where it stands; ``thick`` as in ``Offer``; ``guest`` the
    one that runs with it meanwhile, if any."""

    source: str
    strategy: str
    reason: str
    amount: int
    kept: int | None
    allocated: int = 0
    thick: bool = False
    guest: str = ""


def plan_move(want: Wanted, have: Found, moving: Moving) -> Plan:
    """The steps that bring a disk of another pool here, as it is wanted. Raises BadInput or InUse as ``plan`` does."""
    _check_origin(want, have.origin, Offer())
    if want.kind == "config" and have.origin.get("config") not in (None, want.content):
        raise BadInput(
            f"The {want.what} stands in pool {moving.source} and holds other files than the task gives: move it with a "
            "task that does not give config, then replace it."
        )
    if have.users:
        raise InUse(
            f"The disk {want.role} of {want.instance} in pool {moving.source} is in use by {have.users}: stop what "
            "uses it, then move it."
        )
    steps = _Steps(want.what)
    how = "its own data" if moving.strategy == "delta" else "all of its data"
    size = in_words(moving.amount)
    size = f"at least {size}, while guest {moving.guest} runs" if moving.guest else size
    way = f"from pool {moving.source} to pool {want.pool} ({how}, {size})"
    sentence = f"move disk {want.role} of {want.instance} {way}"
    amount = moving.amount
    takes = {want.pool: have.size if moving.thick else moving.kept, moving.source: -moving.allocated}
    steps.actions.append(Action("move", want.what, sentence, amount, amount, moving.strategy, moving.reason, takes))
    steps.before["pool"], steps.after["pool"] = moving.source, want.pool
    _grow(steps, want, have.size, moving.thick)
    return steps.plan()


def plan_finish(instance: str, role: str, source: str, pool: str, allocated: int) -> Plan:
    """The one step that is left of a move that was broken off after its copy had become the disk: what was left behind,
    and takes up ``allocated`` bytes there, goes."""
    what = f"disk {role} of {instance} in pool {pool}"
    sentence = f"finish the move of disk {role} of {instance} from pool {source} to pool {pool}"
    return Plan(
        (Action("finish", what, sentence, takes={source: -allocated}),),
        {what: {"left_in": source}},
        {what: {"left_in": None}},
    )


def plan(want: Wanted, have: Found | None, offer: Offer) -> Plan:
    """The steps from ``have`` to ``want``. Raises BadInput for what cannot be, InUse where a guest is in the way."""
    if have is None:
        return _make(want, offer)
    _check_origin(want, have.origin, offer)
    if want.kind == "config" and have.origin.get("config") not in (None, want.content):
        return _replace(want, have, offer)
    steps = _Steps(want.what)
    _grow(steps, want, have.size, offer.thick)
    if want.flattened and have.needs_image:
        if have.users:
            raise InUse(f"The {want.what} is in use by {have.users}: stop the guest, then flatten the disk.")
        _flatten(steps, want, have.to_flatten, offer.thick)
        steps.before["flattened"] = False
    return steps.plan()


def check_discard(want: Wanted, format: str, keeps_space: Collection[str]) -> None:
    """Raise BadInput where the guest is to give space back, and disks of this format have to keep theirs."""
    if want.attachment.discard == "unmap" and format in keeps_space:
        raise BadInput(
            f"The {want.what} asks for discard unmap, and it is {format} on a volume that holds all a guest can write "
            "only if the guest gives nothing back: leave discard out, or have the disk in a pool with a thin pool."
        )


class _Steps:
    """Actions on one disk and the fields that they change."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.actions: list[Action] = []
        self.before: Fields = {}
        self.after: Fields = {}

    def plan(self) -> Plan:
        before = {self.what: self.before} if self.before else {}
        return Plan(tuple(self.actions), before, {self.what: self.after} if self.after else {})


def _make(want: Wanted, offer: Offer) -> Plan:
    if not want.kind:
        raise BadInput(
            f"There is no {want.what}, and the task does not say what to make it of: give image, blank, config or "
            "import_from."
        )
    if want.kind == "blank" and not want.bytes:
        raise BadInput(f"There is no {want.what} yet, and to make it blank its size is needed: give size.")
    if want.bytes and want.bytes < offer.size:
        source = "its image" if want.kind == "image" else "the volume"
        raise BadInput(
            f"The {want.what} is to have {_both(want.bytes)}, but {source} {want.content} has {_both(offer.size)}: "
            "ask for at least that size."
        )
    steps = _Steps(want.what)
    size = want.bytes or offer.size
    adopted = offer.strategy == "adopt"
    if size:
        steps.after["size"] = offer.size if adopted else size
    steps.after["state"] = "ready"
    sentence = f"make {want.what} ({_made_of(want, offer, size)})"
    takes = {want.pool: (size or None) if offer.thick and not adopted else offer.written}
    reason = offer.reason or None
    steps.actions.append(
        Action("make", want.what, sentence, offer.read, offer.written, offer.strategy or None, reason, takes)
    )
    if adopted:
        _grow(steps, want, offer.size, offer.thick)
        steps.before.clear()
    if want.flattened and offer.needs_image:
        _flatten(steps, want, offer.to_flatten, offer.thick)
    return steps.plan()


def _made_of(want: Wanted, offer: Offer, size: int) -> str:
    amount = f"{in_words(size)}, " if size else ""
    if want.kind == "image":
        return f"{amount}{offer.strategy or 'clone'} of image {want.content}"
    if want.kind == "blank":
        return f"{amount}blank, {want.content}"
    if want.kind == "config":
        return "config disk"
    return f"the volume {want.content}" if offer.strategy == "adopt" else f"{amount}import of {want.content}"


def _grow(steps: _Steps, want: Wanted, size: int, thick: bool) -> None:
    """Grow from ``size`` to what is wanted, where that is more; BadInput where it is less."""
    if not want.bytes or want.kind == "config":
        return
    if want.bytes < size:
        raise BadInput(
            f"The {want.what} has {_both(size)} and cannot shrink to {_both(want.bytes)}: ask for at least its size."
        )
    if want.bytes > size:
        sentence = f"grow {want.what} from {in_words(size)} to {in_words(want.bytes)}"
        takes = {want.pool: want.bytes - size if thick else 0}
        steps.actions.append(Action("grow", want.what, sentence, takes=takes))
        steps.before["size"], steps.after["size"] = size, want.bytes


def _flatten(steps: _Steps, want: Wanted, amount: int | None, thick: bool) -> None:
    sentence = f"flatten {want.what}, so that it needs no image"
    takes = {want.pool: 0 if thick else amount}
    steps.actions.append(Action("flatten", want.what, sentence, amount, amount, takes=takes))
    steps.after["flattened"] = True


def _replace(want: Wanted, have: Found, offer: Offer) -> Plan:
    if not want.replace:
        raise BadInput(
            f"The {want.what} holds other files than the task gives: set replace: true to make it anew, under a new "
            "path, or leave its files as they are."
        )
    if have.users:
        raise InUse(f"The {want.what} is in use by {have.users}: stop the guest, then replace its config disk.")
    written = offer.written
    takes = {want.pool: None if written is None else written - have.allocated}
    sentence = f"replace {want.what}, whose files differ"
    action = Action("replace", want.what, sentence, offer.read, written, takes=takes)
    return Plan((action,), {want.what: {"config": OTHER_CONFIG}}, {want.what: {"config": CONFIG}})


def _check_origin(want: Wanted, origin: Mapping[str, Any], offer: Offer) -> None:
    """A disk keeps what it was made of; a task that says otherwise is told so. Where the record does not tell
    (its disk was put under management by hand), the task is believed."""
    kind = next((each for each in ("import", "config", "blank") if each in origin), "image" if "key" in origin else "")
    if not want.kind or not kind:
        return
    if kind == want.kind == "image":
        same = want.content in [origin.get(name) for name in ("asked", "name", "image", "key")]
        if same or (offer.name and offer.name == origin.get("name")):
            return
    elif kind == want.kind and (kind == "config" or origin[kind] == want.content):
        return
    raise BadInput(
        f"The {want.what} exists and is {_called(kind, origin)}, not {_called(want.kind, want.content)}: a disk is "
        "never remade in place, so remove it first (state: absent) or ask for what it is."
    )


def _called(kind: str, content: Any) -> str:
    """What a disk is, or is to be, in words."""
    if isinstance(content, Mapping):
        content = content.get("name" if kind == "image" else kind, "")
    return {
        "image": f"a clone of image {content}",
        "blank": f"a blank disk ({content})",
        "config": "a config disk",
        "import": f"an import of {content}",
    }[kind]


def _both(size: int) -> str:
    """A size as it is compared and as it is read."""
    return f"{size} bytes ({in_words(size)})" if size >= 1024 else in_words(size)
