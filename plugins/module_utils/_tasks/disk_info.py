# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""The task of `instance_disk_info`."""

from __future__ import annotations

from .._algorithms.pool import Pool
from .._algorithms.survey import listing_of, see_disk_by_id
from .._policy.plan import Fields
from .._records.contract import Listing
from .._records.types import USABLE, taken_apart
from .disk_result import described_fully
from .session import Session


def info(params: Fields, check_mode: bool) -> Fields:
    """Describe the disks of instances; gives the result of `instance_disk_info`. Only reads."""
    session = Session(params["uri"], check_mode, reads=True)
    wanted = set(params["instances"] or ())
    disks, unseen = session.tell(params["pools"] or (), lambda pool: _disks_of(session, pool, wanted))
    return {"changed": False, "disks": disks, "unseen": unseen, "warnings": session.warnings}


def _disks_of(session: Session, pool: Pool, wanted: set[str]) -> list[Fields]:
    """The disks in a pool of the instances ``wanted``, or of all; one that cannot be described with its ``problem``."""
    shown: list[Fields] = []
    listing = session.run(listing_of(pool))
    ids = [each for each in sorted(listing.states) if _is_disk(listing, each, wanted)]
    for record_id, ended in zip(ids, session.run_all([see_disk_by_id(pool, each, listing) for each in ids])):
        if ended.error is not None:
            name = taken_apart(record_id)
            of = {"instance": name.instance, "role": name.role, "pool": pool.name, "id": record_id}
            shown.append({**of, "state": str(listing.state(record_id)), "problem": str(ended.error)})
        elif ended.value is not None:
            shown.append(described_fully(session, pool, ended.value))
    return shown


def _is_disk(listing: Listing, record_id: str, instances: set[str]) -> bool:
    """Whether this is a usable disk of one of ``instances``, or of any where none are given."""
    name = taken_apart(record_id)
    return listing.state(record_id) in USABLE and not name.image and (not instances or name.instance in instances)
