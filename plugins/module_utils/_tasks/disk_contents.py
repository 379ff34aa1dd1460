# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""What a disk that does not stand yet is made of, found out without changing anything."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, replace

from .._algorithms.cache import ImageWish, content_of, look_up
from .._algorithms.disks import DiskWish
from .._algorithms.pool import Pool
from .._algorithms.survey import users_of
from .._ground.blank import identity_for
from .._ground.bounds import Bounds
from .._ground.contents import Incoming, Template
from .._ground.costs import UNKNOWN, Cost
from .._ground.disk_data import DiskData, own_data_of
from .._ground.errors import BadInput, InUse, LostMetadata, NotFound, StorageError, UnsafeImage
from .._ground.intake import PIECE
from .._ground.sources import SourceSpec
from .._policy.disk_plan import Offer, Wanted
from .._policy.sizes import LARGEST
from .._records.contract import Listing
from .._records.types import Image, State, Volume, taken_apart
from .disk_site import Site, Stocked
from .disk_wishes import IN_CEPH, Order
from .session import Session

LONGEST_IMPORT = 24 * 3600.0
"""Seconds that one import may take: nothing is waited for, but some disks have terabytes."""


@dataclass(frozen=True)
class Recipe:
    """How a disk is made: what the plan is told of it, the wish that the algorithms understand, and the template that
    has to be in the cache before."""

    offer: Offer
    wish: DiskWish
    template: ImageWish | None = None


def recipe(session: Session, site: Site, order: Order) -> Recipe:
    """The recipe for a disk. Raises BadInput, InUse or NotFound for what a run would be refused for."""
    want, pool = order.want, site.pool
    plain = DiskWish(want.instance, want.role, want.bytes, origin={want.kind: want.content} if want.kind else {})
    if want.kind == "image":
        cloned = _cloned(session, pool, want, site.stock.get(want.content))
        return _with_own(session, pool, order, site.stock.get(want.content), cloned) if order.over else cloned
    if order.file_system:
        return _from_template(session, site, order)
    if want.kind == "config":
        if order.content is None:
            raise AssertionError
        cost = order.content.cost(session.around.runner)
        offer = Offer(read=cost.read, written=cost.written)
        return Recipe(offer, replace(plain, source=order.content, format="raw"))
    if want.kind == "import":
        name = None if pool is None else session.backend(pool).name_at(order.path)
        if pool is not None and name is not None:
            return _adopted(session, site, pool, order, name)
        if order.path.startswith(IN_CEPH):
            raise BadInput(
                f"The image {order.path} is not in pool {want.pool}, so {want.what} cannot be made of it: name the "
                "pool that it is in, or bring a snapshot of it in with cached_image."
            )
        return _brought_in(session, pool, order, plain)
    return Recipe(Offer(thick=_is_thick(pool)), plain)


def _is_thick(pool: Pool | None) -> bool:
    return pool is not None and pool.capabilities.thick


# From the cache


def _cloned(session: Session, pool: Pool | None, want: Wanted, stocked: Stocked | None) -> Recipe:
    """A clone of an image. One that is not there yet may be brought by an earlier task that check mode left out."""
    if stocked is None:
        problem = f"Pool {want.pool} has no ready image {want.content}: bring it in with cached_image first."
        if not session.check_mode:
            raise NotFound(problem)
        session.warnings.append(f"{problem} Check mode goes on as if an earlier task did.")
    key = stocked.image.key if stocked else ""
    wish = DiskWish(want.instance, want.role, want.bytes, key, want.clone or "", origin={"asked": want.content})
    if pool is None:
        return Recipe(Offer(stocked.size if stocked else 0, want.clone or ""), wish)
    how = want.clone or pool.capabilities.default_clone
    obstacle = session.backend(pool).obstacle_to_clone(how)
    if obstacle:
        raise BadInput(f"The {want.what} cannot be cloned by {how}: {obstacle}.")
    needs_image = how not in pool.capabilities.independent
    copied: int | None = 0 if how != "copy" else None
    to_flatten: int | None = None
    if stocked is not None and (how == "copy" or (want.flattened and needs_image)):
        with session.backend(pool).reading(stocked.image.volume) as image:
            copied, to_flatten = image.allocated() if how == "copy" else 0, image.allocated(PIECE)
    offer = Offer(
        size=stocked.size if stocked else 0,
        strategy=how,
        reason=pool.capabilities.clone_reasons.get(how, ""),
        name=stocked.image.name if stocked else "",
        needs_image=needs_image,
        read=copied,
        written=copied,
        to_flatten=to_flatten,
        thick=pool.capabilities.thick,
    )
    return Recipe(offer, wish)


def _with_own(session: Session, pool: Pool | None, order: Order, stocked: Stocked | None, cloned: Recipe) -> Recipe:
    """A clone, and over it what a disk of another host had over the same image."""
    what, path = order.want.what, order.path
    if pool is not None and not pool.capabilities.takes_own:
        raise BadInput(f"The {what} cannot be made of a part of a disk in this kind of pool: import a whole one.")
    if pool is not None and stocked is not None:
        content = session.run(content_of(pool, stocked.image))
        if content != order.over:
            raise BadInput(
                f"The own data in {path} stands on an image of content {order.over}, and the image "
                f"{order.want.content} of pool {pool.name} has {content or 'none that is known'}: name the same image."
            )
    data = DiskData(lambda: own_data_of(path))
    try:
        with data.reading() as reader:
            size, amount = reader.size, reader.amount()
    except NotFound as error:
        if not session.check_mode:
            raise
        session.warnings.append(f"{error.message} Check mode goes on as if an earlier task brought it.")
        return cloned
    offer = replace(cloned.offer, size=size, read=amount, written=amount, to_flatten=None)
    origin = {**cloned.wish.origin, "own_data": path}
    return Recipe(offer, replace(cloned.wish, size=size, source=data, over=order.over, origin=origin))


def _from_template(session: Session, site: Site, order: Order) -> Recipe:
    """A clone of an empty file system, which is made once and cached like an image.

    The file systems of one instance must not share a UUID. It follows from the template's key, and with it from the
    role, which is another for each disk of an instance; disks of two instances may share one.
    """
    want, pool = order.want, site.pool
    key = f"template:{order.file_system}:{want.bytes}:{order.label}:{want.role}"
    content = Template(order.file_system, want.bytes, order.label, identity_for(key))
    template = ImageWish(key, f"template-{order.file_system}", content, key)
    wish = DiskWish(want.instance, want.role, want.bytes, key, origin={"blank": want.content})
    independent = pool is not None and pool.capabilities.default_clone in pool.capabilities.independent
    made = pool is not None and session.run(look_up(pool, key, site.listing)) is not None
    cost = Cost() if made else content.cost(session.around.runner)
    offer = Offer(
        size=want.bytes,
        needs_image=not independent,
        read=cost.read,
        written=cost.written,
        to_flatten=None,
        thick=_is_thick(pool),
    )
    return Recipe(offer, wish, template)


# From elsewhere


def _brought_in(session: Session, pool: Pool | None, order: Order, plain: DiskWish) -> Recipe:
    """A copy of a file from outside of the pool, inspected on its way in."""
    want = order.want
    try:
        if stat.S_ISDIR(os.stat(order.path).st_mode):
            raise BadInput(f"The path {order.path} to import the {want.what} from is a folder: give an image file.")
    except (FileNotFoundError, NotADirectoryError):
        problem = f"There is no file {order.path} to import the {want.what} from: give the path of an image file."
        if not session.check_mode:
            raise NotFound(problem) from None
        session.warnings.append(f"{problem} Check mode goes on as if an earlier task brought it.")
    source = Incoming(SourceSpec(order.path, order.format), Bounds(LARGEST, want.bytes or LARGEST, LONGEST_IMPORT))
    try:
        cost = source.cost(session.around.runner)
    except StorageError:
        cost = UNKNOWN  # why it cannot be read is told when it is
    offer = Offer(strategy="copy", read=cost.read, written=cost.written, thick=_is_thick(pool))
    return Recipe(offer, replace(plain, source=source, format="raw"))


def _adopted(session: Session, site: Site, pool: Pool, order: Order, name: str) -> Recipe:
    """A volume that stands in the pool without a record becomes the disk, no byte of it touched."""
    want, format, backend = order.want, order.format, session.backend(pool)
    offered = pool.capabilities.disk_names
    if format not in offered:
        raise BadInput(
            f"The volume {name} of pool {pool.name} cannot be adopted as {format}: only {' and '.join(offered)} can."
        )
    native = session.run(_native(pool, name))
    if native is None:
        flaw = backend.flaw(Volume(name, format))
        raise NotFound(f"There is no volume {name} in pool {pool.name} to make the {want.what} of: {flaw}.")
    volume = Volume(name, format, native)
    holder = site.holder(session, native)
    if holder is not None:
        raise BadInput(f"The volume {name} of pool {pool.name} already belongs to {holder}: it cannot be another disk.")
    size = session.run(_size(pool, volume))
    flaw = backend.flaw(volume)
    if flaw:
        raise UnsafeImage(f"The volume {name} of pool {pool.name} cannot be adopted: {flaw}.")
    backing = session.run(_backing(pool, site.listing, volume))
    moves = format in pool.capabilities.moves_adopted
    if moves:
        _check_free_to_move(session, pool, volume)
    wish = DiskWish(
        want.instance,
        want.role,
        size,
        native=native,
        found=name,
        name="" if moves else name,
        format=format,
        backing=backing,
        origin={"import": order.path},
    )
    reason = "a volume of the pool itself is taken over as it is"
    to_flatten = backend.to_flatten(volume) if backing and want.flattened else 0
    offer = Offer(size, "adopt", reason, needs_image=bool(backing), to_flatten=to_flatten, thick=_is_thick(pool))
    return Recipe(offer, wish)


async def _native(pool: Pool, name: str) -> str | None:
    return (await pool.volumes.inventory()).get(name)


async def _size(pool: Pool, volume: Volume) -> int:
    try:
        found = await pool.volumes.stat(volume)
    except LostMetadata:
        found = None
    if found is None:
        raise BadInput(
            f"The volume {volume} of pool {pool.name} does not begin as a {volume.format} volume does: give the format "
            "that it has."
        )
    return found.size


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


def _check_free_to_move(session: Session, pool: Pool, volume: Volume) -> None:
    """A volume in use cannot move; one that a guest is only defined with leaves that definition behind."""
    users = session.run(users_of(pool, volume))
    if users:
        raise InUse(f"The volume {volume} is in use by {users}: stop what uses it, then import it, for raw disks move.")
    defined = sorted({use.domain for use in session.host.users_of(session.path(pool, volume))})
    if defined:
        session.warnings.append(
            f"The volume {volume} of pool {pool.name} moves, and the definition of {', '.join(defined)} names its old "
            "path: define it anew with the element that this task returns."
        )
