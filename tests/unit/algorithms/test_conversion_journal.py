# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A journal that another version of the collection began: nobody goes on with it who does not know what it says."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.virt.storage.plugins.module_utils._algorithms import conversion_journal as journal
from ansible_collections.virt.storage.plugins.module_utils._algorithms.pool import Pool
from ansible_collections.virt.storage.plugins.module_utils._backends.file import CAPABILITIES
from ansible_collections.virt.storage.plugins.module_utils._backends.perform import Parts, Performer
from ansible_collections.virt.storage.plugins.module_utils._ground.drive import drive_one
from ansible_collections.virt.storage.plugins.module_utils._ground.errors import LostMetadata, NewerSchema
from ansible_collections.virt.storage.plugins.module_utils._records.folder import FolderStore

BASE = journal.BaseEntry("/var/lib/nova/base", "77", "/var/lib/nova", 0, 0, 0o644, False)


def read(root: Path, **changed: Any) -> journal.Journal:
    """The journal with one entry in it."""
    store = FolderStore.make(str(root / "store"))
    store.note(journal.JOURNAL, BASE.topic, {"schema": journal.SCHEMA, **asdict(BASE), **changed})
    return drive_one(journal.read_journal(Pool("p", CAPABILITIES, "owner+t")), Performer({"p": Parts(store, None)}))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    assert read(tmp_path).bases == {BASE.path: BASE}


def test_an_entry_of_a_newer_version_is_left_to_it(tmp_path: Path) -> None:
    with pytest.raises(NewerSchema, match=rf"has schema {journal.SCHEMA + 1}, and .* use a newer version"):
        read(tmp_path, schema=journal.SCHEMA + 1, novel=[])


def test_an_entry_with_a_field_that_its_schema_does_not_have_is_not_guessed_at(tmp_path: Path) -> None:
    with pytest.raises(LostMetadata, match=r"damaged .*novel"):
        read(tmp_path, novel=[])
