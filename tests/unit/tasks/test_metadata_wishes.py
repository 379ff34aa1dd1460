# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest

from ansible_collections.virt.storage.plugins.module_utils._ground.errors import BadInput
from ansible_collections.virt.storage.plugins.module_utils._tasks.metadata_wishes import (
    Statement,
    selections,
    statements,
)

EMPTY = dict.fromkeys(("volume", "instance", "role", "format", "image", "id"))
SOUND = {"volume": "x.qcow2", "instance": "web1", "format": "qcow2"}


def test_a_statement_as_it_is_meant():
    assert statements([{**EMPTY, **SOUND, "image": "base"}], "present") == [
        Statement("x.qcow2", "web1", "root", "qcow2", "base")
    ]
    private = ".virt-storage/disks/web1+root+aaaaaaaaaaaa.raw"
    assert statements([{**EMPTY, **SOUND, "volume": private, "role": "data"}], "rebuilt")[0].volume == private


@pytest.mark.parametrize(
    ("change", "tells"),
    [
        *(({"volume": name}, "The volume name") for name in ("a/b", "/etc/passwd", "..", ".", "../x", "", "a\nb")),
        ({"volume": ".virt-storage"}, "The volume name"),
        ({"volume": ".virt-storage/disks/../../x"}, "The volume name"),
        ({"volume": ".virt-storage/images/x.raw"}, "The volume name"),
        ({"volume": "x" * 300}, "more than 255 bytes"),
        ({"volume": "ü" * 200}, "more than 255 bytes"),
        ({"volume": None}, "lacks its volume"),
        ({"instance": None}, "lacks its instance"),
        ({"format": None}, "lacks its format"),
        ({"instance": "ü"}, "instance name"),
        ({"instance": "a/b"}, "instance name"),
        ({"instance": "i" * 300}, "instance name"),
        ({"role": "Root"}, "disk role name"),
        ({"id": "web1+root+aaaaaaaaaaaa"}, "makes the ids itself"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(change, tells):
    with pytest.raises(BadInput, match=tells) as refusal:
        statements([{**EMPTY, **SOUND, **change}], "present")
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 300


@pytest.mark.parametrize("other", [{"instance": "web2"}, {"volume": "y.qcow2"}])
def test_nothing_is_stated_twice(other):
    with pytest.raises(BadInput, match="is given twice"):
        statements([{**EMPTY, **SOUND}, {**EMPTY, **SOUND, **other}], "present")


@pytest.mark.parametrize(
    ("entry", "tells"),
    [
        ({}, "is given by nothing"),
        ({"id": "web1+root+aaaaaaaaaaaa", "volume": "x"}, "is given by id and volume"),
        ({"id": "../x"}, "is not that of a disk"),
        ({"id": "image+base+0123456789abcdef+aaaaaaaaaaaa"}, "is not that of a disk"),
        ({"volume": "a/b"}, "The volume name"),
        ({"instance": "a b"}, "instance name"),
        ({"instance": "web1", "role": "/"}, "disk role name"),
    ],
)
def test_what_absent_cannot_mean(entry, tells):
    with pytest.raises(BadInput, match=tells):
        selections([{**EMPTY, **entry}])


@pytest.mark.parametrize("entry", [{"id": "web1+root+aaaaaaaaaaaa"}, {"volume": "x"}, {"instance": "web1"}])
def test_what_absent_means(entry):
    assert selections([{**EMPTY, **entry}]) == [{**EMPTY, **entry}]
