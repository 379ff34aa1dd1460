# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""What new disks are made of when it is not an image of the cache: templates, and volumes from elsewhere."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, replace

from .._algorithms.cache import ImageWish
from .._algorithms.disks import DiskWish
from .._algorithms.pool import Pool
from .._ground.blank import identity_for
from .._ground.bounds import Bounds
from .._ground.contents import Incoming, Template
from .._ground.errors import BadInput, InUse, NotFound
from .._ground.sources import SourceSpec
from .._policy.sizes import LARGEST
from .._records.contract import Listing
from .._records.types import ENDED, Disk, Image, State, Volume, taken_apart
from .disk_wishes import Order
from .session import Session


@dataclass(frozen=True)
class Ingredients:
    """What a disk is made of: a template image to clone (the ``number`` of those that one instance needs), a source
    to copy, or a volume to adopt."""

    template: ImageWish | None = None
    number: int = 0
    source: Incoming | None = None
    native: str = ""
    found: str = ""
    name: str = ""
    format: str = ""
    backing: str = ""

    def adopt(self, wish: DiskWish) -> DiskWish:
        """The wish, with where its content is."""
        if self.native:
            return replace(
                wish, native=self.native, found=self.found, name=self.name, format=self.format, backing=self.backing
            )
        if self.source is not None:
            return replace(wish, source=self.source, format="raw")
        return wish


def template(session: Session, pool: Pool, listing: Listing, order: Order, taken: dict[str, set[int]]) -> Ingredients:
    """The template for a blank disk with a file system.

    The disks of one instance must not share a file system's UUID, those of two instances may: so templates are
    numbered, and a disk takes the lowest number that no other disk of its instance has.
    """
    want = order.want
    numbers = taken.get(want.instance)
    if numbers is None:
        numbers = taken[want.instance] = session.run(_numbers(pool, listing, want.instance))
    number = next(each for each in range(len(numbers) + 1) if each not in numbers)
    numbers.add(number)
    key = f"template:{order.file_system}:{want.bytes}:{order.label}:{number}"
    content = Template(order.file_system, want.bytes, order.label, identity_for(key))
    return Ingredients(template=ImageWish(key, f"template-{order.file_system}", content, key), number=number)


async def _numbers(pool: Pool, listing: Listing, instance: str) -> set[int]:
    found = set()
    for record_id, state in listing.states.items():
        if state not in ENDED and taken_apart(record_id).instance == instance:
            record = await pool.records.read(record_id)
            if isinstance(record, Disk) and isinstance(record.origin.get("template"), int):
                found.add(int(record.origin["template"]))
    return found


def importing(session: Session, pool: Pool, listing: Listing, order: Order) -> Ingredients:
    """A volume of the pool is adopted as it is; a file from elsewhere is inspected and copied."""
    root = session.path(pool, "")
    path = os.path.normpath(order.path)
    if not path.startswith(os.path.normpath(root) + "/"):
        spec = SourceSpec(location=path, format=order.format)
        return Ingredients(source=Incoming(spec, Bounds(LARGEST, LARGEST)))
    name = os.path.relpath(path, root)
    if order.format not in ("raw", "qcow2"):
        raise BadInput(f"The volume {name} cannot be adopted as {order.format}: only raw and qcow2 volumes can.")
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        raise NotFound(f"There is no volume {name} in pool {pool.name}.") from None
    if not stat.S_ISREG(status.st_mode):
        raise BadInput(f"The volume {name} of pool {pool.name} is not a regular file: give the file itself.")
    volume = Volume(name, order.format, str(status.st_ino))
    users = session.run(_users(pool, volume))
    if users and order.format == "raw":
        raise InUse(f"The volume {name} is in use by {users}: stop what uses it, then import it, for raw disks move.")
    backing = session.run(_backing(pool, listing, volume)) if order.format == "qcow2" else ""
    kept = name if order.format == "qcow2" else ""
    return Ingredients(native=volume.adopted, found=name, name=kept, format=order.format, backing=backing)


async def _users(pool: Pool, volume: Volume) -> str:
    users = await pool.volumes.users(volume)
    return str(users) if users else ""


async def _backing(pool: Pool, listing: Listing, volume: Volume) -> str:
    """The id of the image that a qcow2 volume stands on; BadInput where it is none of this pool's."""
    pointer = await pool.volumes.pointer(volume)
    if pointer is None:
        return ""
    for record_id, state in listing.states.items():
        if state is State.READY and taken_apart(record_id).image:
            record = await pool.records.read(record_id)
            if isinstance(record, Image) and record.volume.name == pointer:
                return record_id
    raise BadInput(
        f"The volume {volume} names {pointer!r} as its backing, which is no ready image of pool {pool.name}: "
        "flatten it (qemu-img rebase with explicit formats), or import it from outside of the pool."
    )
