# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The protocol with one clause broken, each in its own way. The explorer must catch every one of them.

A mutant is a replacement in the source of one algorithm file, so it cannot drift from what ships: a text that is
no longer there is an error.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """``old`` becomes ``new`` in ``file``; ``scenarios`` name where it ought to show."""

    label: str
    file: str
    old: str
    new: str
    scenarios: tuple[str, ...]


MUTANTS = (
    Mutant(
        "clone looks before it writes",
        "disks",
        """    await pool.records.create(disk, State.PENDING)
    if disk.backing is not None:
        await pool.records.refer(disk.backing, disk.id)
        await pool.records.probe()
    names = await pool.records.references(disk.backing) if wish.rebuilt and disk.backing is not None else ()
    listing = await pool.records.states()
""",
        """    names = ()
    listing = await pool.records.states()
    listing.states[disk.id] = State.PENDING
    await pool.records.create(disk, State.PENDING)
    if disk.backing is not None:
        await pool.records.refer(disk.backing, disk.id)
""",
        ("clone, retire", "one place, two clones"),
    ),
    Mutant(
        "clone lists without having written among the records since its reference",
        "disks",
        "        await pool.records.probe()\n    names =",
        "    names =",
        ("clone, retire",),
    ),
    Mutant(
        "clone makes no reference",
        "disks",
        "        await pool.records.refer(disk.backing, disk.id)\n",
        "        pass\n",
        ("clone, retire",),
    ),
    Mutant(
        "clone refers after the volume is made",
        "disks",
        """    if disk.backing is not None:
        await pool.records.refer(disk.backing, disk.id)
        await pool.records.probe()
    names = await pool.records.references(disk.backing) if wish.rebuilt and disk.backing is not None else ()
    listing = await pool.records.states()
    lost = rules.lost_names(names, listing, disk.instance, disk.role)
    why = rules.obstacle(listing, disk, lost) or await _named_by_another(pool, disk, listing)
    if why is None:
        try:
            await pool.records.sync()
            outcome, facts = await _volume(pool, wish, disk, image)
""",
        """    listing = await pool.records.states()
    lost = ()
    why = rules.obstacle(listing, disk) or await _named_by_another(pool, disk, listing)
    if why is None:
        try:
            await pool.records.sync()
            outcome, facts = await _volume(pool, wish, disk, image)
            if disk.backing is not None:
                await pool.records.refer(disk.backing, disk.id)
""",
        ("clone, retire",),
    ),
    Mutant(
        "clone does not ask whether the image is still ready",
        "rules",
        "    if disk.backing is not None and listing.state(disk.backing) not in serving:\n",
        "    if False:\n",
        ("clone, retire", "clone, retire, reclaim"),
    ),
    Mutant(
        "clone does not ask whether its place is free",
        "rules",
        "    if others:\n",
        "    if False:\n",
        ("one place, two clones",),
    ),
    Mutant(
        "clone trusts a ready that is not durable",
        "disks",
        """            await pool.records.sync()
            outcome, facts = await _volume(pool, wish, disk, image)
""",
        """            outcome, facts = await _volume(pool, wish, disk, image)
""",
        ("fill, clone", "fill, clone, reclaim"),
    ),
    Mutant(
        "ready without compare-and-swap",
        "pool",
        "    if await pool.records.swap(record.id, was, now):\n        return True\n",
        """    state = await state_of(pool, record.id) or was
    await pool.records.swap(record.id, state, now)
    return True
""",
        ("one place, two clones, reclaim", "two fills", "a frozen maker, clone in its place", "fill, clone, reclaim"),
    ),
    Mutant(
        "a refused swap counts as not worked",
        "pool",
        "    if rules.worked(state):\n        return True\n",
        "    if state in (State.READY, State.FLAT):\n        state = None\n",
        ("clone, retire", "two fills"),
    ),
    Mutant(
        "a name is used again",
        "disks",
        "    record_id = disk_id(wish.instance, wish.role, await pool.host.fresh())\n",
        '    record_id = disk_id(wish.instance, wish.role, "000000000000")\n',
        ("one place, two clones",),
    ),
    Mutant(
        "volume before record",
        "cache",
        """        await pool.records.create(image, State.FILLING)
        facts: Facts = await pool.volumes.fill(image.volume, wish.source)
""",
        """        facts: Facts = await pool.volumes.fill(image.volume, wish.source)
        await pool.records.create(image, State.FILLING)
""",
        ("two fills",),
    ),
    Mutant(
        "retire looks before it writes",
        "cache",
        """    if state is State.READY:
        await pool.records.swap(image.id, State.READY, State.RETIRED)
        state = await state_of(pool, image.id) or State.GONE
""",
        """    if state is State.READY:
        names = await references(pool, image)
        await pool.records.swap(image.id, State.READY, State.RETIRED)
        if not names and await pool.records.swap(image.id, State.RETIRED, State.DELETING):
            await finish(pool, image, State.DELETING)
            return Disposed(removed=True)
        state = await state_of(pool, image.id) or State.GONE
""",
        ("clone, retire",),
    ),
    Mutant(
        "retire does not write before it looks at references",
        "cache",
        "    await pool.records.refer(image.id, probe)\n",
        "",
        ("clone, retire", "clone, retire, retire twice", "last disk deleted, retired image, clone"),
    ),
    Mutant(
        "retire backs out",
        "cache",
        """    if names:
        return Disposed(removed=False, kept_by=tuple(names))
""",
        """    if names:
        await pool.records.swap(image.id, State.RETIRED, State.READY)
        return Disposed(removed=False, kept_by=tuple(names))
""",
        ("clone, retire, retire twice",),
    ),
    Mutant(
        "another's retire is continued without a look",
        "reclaim",
        """    if state is State.DELETING:
        await finish(pool, record, state)
        return True
""",
        """    if state is State.RETIRED and await pool.records.swap(record.id, state, State.DELETING):
        state = State.DELETING
    if state is State.DELETING:
        await finish(pool, record, state)
        return True
""",
        ("clone, retire, reclaim", "last disk deleted, retired image, clone"),
    ),
    Mutant(
        "delete lets the reference go first",
        "disks",
        """        if await pool.records.swap(disk.id, state, State.DELETING):
            await finish(pool, disk, State.DELETING)
""",
        """        if disk.backing is not None:
            await pool.records.unrefer(disk.backing, disk.id)
        if await pool.records.swap(disk.id, state, State.DELETING):
            await finish(pool, disk, State.DELETING)
""",
        ("delete, retire",),
    ),
    Mutant(
        "flatten lets the reference go first",
        "disks",
        "        if not await pool.records.swap(disk.id, State.READY, State.FLAT):\n",
        """        await pool.records.unrefer(disk.backing, disk.id)
        if not await pool.records.swap(disk.id, State.READY, State.FLAT):
""",
        ("flatten, retire", "flatten, flatten, retire"),
    ),
    Mutant(
        "flat before the data is",
        "disks",
        """        outcome: Outcome = await pool.volumes.flatten(disk.volume)
        if not outcome:
""",
        """        await pool.records.swap(disk.id, State.READY, State.FLAT)
        outcome: Outcome = await pool.volumes.flatten(disk.volume)
        if not outcome:
""",
        ("flatten, retire",),
    ),
    Mutant(
        "delete without a state",
        "disks",
        """        if await pool.records.swap(disk.id, state, State.DELETING):
            await finish(pool, disk, State.DELETING)
""",
        """        await pool.volumes.remove(disk.volume)
        if await pool.records.swap(disk.id, state, State.DELETING):
            await finish(pool, disk, State.DELETING)
""",
        ("delete, retire",),
    ),
    Mutant(
        "reclaim removes without a swap",
        "pool",
        """    if not await pool.records.swap(record.id, was, target):
        return False
    await finish(pool, record, target)
""",
        """    await finish(pool, record, target)
    await pool.records.swap(record.id, was, State.GONE)
""",
        ("clone, retire, reclaim", "one place, two clones, reclaim", "fill, clone, reclaim", "adoption, reclaim"),
    ),
    Mutant(
        "reclaim does not sync what it was shown",
        "reclaim",
        """    debris = await find_debris(pool)
    await pool.records.sync()
""",
        """    debris = await find_debris(pool)
""",
        ("delete, reclaim",),
    ),
    Mutant(
        "a dead adoption takes the volume with it",
        "rules",
        "    return State.RELEASED if is_adoption(record) else State.DELETING\n",
        "    return State.DELETING\n",
        ("a dead adoption, reclaim, adoption", "adoption, reclaim"),
    ),
    Mutant(
        "two adoptions do not see each other",
        "disks",
        "        elif other.volume.name == disk.volume.name or other.volume.adopted == disk.volume.adopted:\n",
        "        elif False:\n",
        ("two adoptions of one volume",),
    ),
    Mutant(
        "the lock is let go before the fill",
        "cache",
        "        await pool.records.create(image, State.FILLING)\n",
        """        await pool.records.create(image, State.FILLING)
        await pool.records.release(f"fill+{key_hash(wish.key)}+0")
        await pool.records.release(pool.owner)
""",
        ("two fills", "three fills"),
    ),
    Mutant(
        "a holder is taken for dead at once",
        "pool",
        "    until = await pool.host.clock() + pool.lease\n",
        "    until = await pool.host.clock()\n",
        ("two fills", "three fills"),
    ),
    Mutant(
        "an image is reported before its ready is durable",
        "cache",
        """            await pool.records.sync()
            return Cached(turn, made=False)
""",
        """            return Cached(turn, made=False)
""",
        ("two fills",),
    ),
    Mutant(
        "a record without a state is ended like one of ours",
        "pool",
        """    target = rules.withdrawn(record)
    if target is State.DELETING and record""",
        """    target = State.DELETING
    if False and record""",
        ("two adoptions of one volume", "adoption, reclaim"),
    ),
    Mutant(
        "ready before it is sealed",
        "cache",
        "        await pool.volumes.seal(image.volume)\n",
        "",
        ("two fills",),
    ),
    Mutant(
        "a bad fill leaves its volume",
        "cache",
        "        await withdraw(pool, image, State.FILLING)\n",
        "",
        ("bad fill, good fill",),
    ),
    Mutant(
        "who wakes late leaves its reference",
        "pool",
        "        await forsake(pool, record)\n",
        "        pass\n",
        ("clone, retire, reclaim", "one place, two clones, reclaim"),
    ),
    Mutant(
        "a volume beside an ended record stays",
        "reclaim",
        """    if state is State.GONE:
        return bool(await pool.volumes.remove(record.volume))
""",
        """    if state is State.GONE:
        return True
""",
        ("one place, two clones, reclaim",),
    ),
)
