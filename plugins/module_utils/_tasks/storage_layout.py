# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""The task of `storage_layout`: a host's old layout, planned and converted. The way back is in `layout_end`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from .._algorithms.conversion import BaseWish, OldLayout, convert, take_base
from .._algorithms.conversion_journal import Entry
from .._ground.contents import Incoming
from .._ground.errors import StorageError
from .._ground.sources import SourceSpec
from .._policy.conversion import Conversion, Judged, OldBase, Site, base_shown, plan_conversion, shown
from .._policy.plan import Fields, Plan
from .._records.types import Image
from . import layout_end
from .layout_host import Host, look_at_host
from .layout_look import Seen
from .layout_pool import BOUNDS, ConvertingSession


def task(params: Fields, check_mode: bool) -> Fields:
    """Plan, convert, roll back or finalize; gives the result of `storage_layout`."""
    state = params["state"]
    session = ConvertingSession(params["uri"], check_mode, reads=state == "planned")
    host = look_at_host(session, params)
    if host is None:
        return {**Plan().to_result(), **_NOTHING, "warnings": session.warnings}
    if state in ("planned", "converted"):
        result = _convert(host, only_plan=state == "planned")
    else:
        result = (layout_end.roll_back if state == "rolled_back" else layout_end.finalize)(host)
    return {
        **result,
        "stop_service": params["layout"] == "nova" and bool(result["plan"]),
        "left": [{"path": path, "why": why} for path, why in host.layout.left],
        "warnings": session.warnings,
    }


_NOTHING: Fields = {"verdict": "", "instances": [], "bases": [], "left": [], "bytes_to_copy": 0, "stop_service": False}


# planned and converted


def _convert(host: Host, *, only_plan: bool) -> Fields:
    site = Site(host.pool.name, host.available, host.obstacle)
    instances = [each for each in host.seen.instances if each.name in host.chosen]
    conversion = plan_conversion(instances, host.seen.bases, site)
    result = _told(conversion)
    if only_plan:
        return {**result, "changed": False}
    blocked = bool(conversion.chosen()) and (site.obstacle or conversion.bytes_needed > site.available)
    if blocked:
        raise StorageError(conversion.verdict, **{**result, "changed": False})
    if conversion.chosen() and not host.session.check_mode:
        errors = _apply(host, conversion)
        if errors:
            raise StorageError(
                f"{len(errors)} of {len(conversion.chosen())} instances could not be converted, the others were; the "
                f"first: {next(iter(errors.values()))}",
                **{**result, "failures": errors},
            )
    return result


def _told(conversion: Conversion) -> Fields:
    return {
        **conversion.plan().to_result(),
        "verdict": conversion.verdict,
        "instances": [shown(each) for each in conversion.judged],
        "bases": [base_shown(each) for each in (*conversion.bases, *conversion.hostile)],
        "bytes_to_copy": conversion.bytes_to_copy,
    }


def _apply(host: Host, conversion: Conversion) -> dict[str, str]:
    """Carry the plan out. Gives the instances that failed, each with its sentence; the others are done."""
    pool = host.session.convert_into(host.pool.name)
    old = OldLayout(pool.name)
    wishes = [_base_wish(base, host.seen) for base in conversion.bases]
    ended = host.session.work(pool, [take_base(pool, old, wish) for wish in wishes]) if wishes else []
    images = {path: base.image for path, base in host.seen.bases.items() if base.image}
    images.update(
        {wish.entry.path: each.value.id for wish, each in zip(wishes, ended) if isinstance(each.value, Image)}
    )
    broken = {wish.entry.path: str(each.error) for wish, each in zip(wishes, ended) if each.error is not None}
    errors, entries = {}, []
    for each in conversion.chosen():
        why = [broken[disk.base] for disk in each.instance.disks if disk.base in broken and not disk.record]
        if why:
            errors[each.instance.name] = why[0]
        else:
            entries.append(_entry(each, host, images))
    done = host.session.work(pool, [convert(pool, old, entry) for entry in entries]) if entries else []
    errors.update({entry.name: str(each.error) for entry, each in zip(entries, done) if each.error is not None})
    return errors


def _base_wish(base: OldBase, seen: Seen) -> BaseWish:
    entry = seen.base_entries[base.path]
    if base.linked:
        return BaseWish(entry, base.name)
    spec = SourceSpec(location=base.path, format=base.format)
    return BaseWish(entry, base.name, Incoming(spec, BOUNDS))


def _entry(judged: Judged, host: Host, images: Mapping[str, str]) -> Entry:
    """The journal's entry of an instance that is converted now."""
    entry = host.seen.entries[judged.instance.name]
    disks = tuple(replace(disk, image=images.get(disk.base, disk.image)) for disk in entry.disks)
    return replace(entry, disks=disks)
