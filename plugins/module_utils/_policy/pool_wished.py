# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.
"""The definition that a wish asks for. Of a pool that exists, what is not mentioned stays."""

from __future__ import annotations

from dataclasses import replace

from .._ground.errors import BadInput
from .pool_ceph import CephSource, secret_uuid
from .pool_names import checked_name
from .pool_xml import SOURCES, TYPES, WITH_FOLDER, Definition, Source
from .pools import Found, Wish

_NEEDED = {"netfs": ("host", "export"), "logical": ("group",), "rbd": ("pool",)}
"""What has to be known of a source to make a pool."""


def wished_definition(want: Wish, have: Found) -> Definition:
    """The definition that ``want`` asks for, or `BadInput` where it cannot be meant."""
    kind = _type(want, have.definition)
    for option in want.sources:
        if option != kind:
            raise BadInput(
                f"The option {option} is for pools of type {option}, and pool {want.name} is of type {kind}."
            )
    if want.path and kind not in WITH_FOLDER:
        raise BadInput(f"The option path is for pools with a folder, and pool {want.name} is of type {kind}.")
    if have.definition is None:
        return Definition(checked_name(want.name), kind, want.path or "", None, _source(want, have, kind))
    return replace(have.definition, path=want.path or have.definition.path, source=_source(want, have, kind))


def _type(want: Wish, have: Definition | None) -> str:
    if have is None:
        return _type_of_new(want)
    if want.type and want.type != have.type:
        raise BadInput(
            f"Pool {want.name} is of type {have.type}, and type {want.type} was asked for: choose another name, or "
            "undefine that pool first (state=absent leaves its volumes where they are)."
        )
    if have.type not in TYPES:
        raise BadInput(
            f"Pool {want.name} is of type {have.type}, and only pools of type {', '.join(TYPES)} can be managed."
        )
    return have.type


def _type_of_new(want: Wish) -> str:
    kind = want.type or ""
    given = want.sources.get(kind, {})
    missing = [] if kind else ["type"]
    missing += ["path"] if not want.path and kind in ("", *WITH_FOLDER) else []
    missing += [f"{kind}.{name}" for name in _NEEDED.get(kind, ()) if not given.get(name)]
    if missing:
        raise BadInput(f"There is no pool {want.name}: say {', '.join(missing)} to have it made.")
    return kind


def _source(want: Wish, have: Found, kind: str) -> Source | None:
    if kind not in SOURCES:
        return None
    given = want.sources.get(kind, {})
    old = have.definition.source if have.definition else None
    source = replace(old, **given) if old else SOURCES[kind](**given)
    return _with_secret(source, want, have) if isinstance(source, CephSource) and want.key else source


def _with_secret(source: CephSource, want: Wish, have: Found) -> CephSource:
    """``source`` with a secret that has, or will have, the wished key.

    A secret that somebody else made stays when it has that key already. Otherwise the pool gets one of its own: the
    other may be that of other pools and guests, too.
    """
    own = secret_uuid(want.name)
    if want.key == have.keys.used and (source.secret or source.usage):
        return replace(source, key=want.key)
    return replace(source, secret=own, usage=None, key=want.key)
