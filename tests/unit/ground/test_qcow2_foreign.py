# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os

import pytest

from ansible_collections.virt.storage.plugins.module_utils._ground.errors import LostMetadata
from ansible_collections.virt.storage.plugins.module_utils._ground.qcow2 import overlay_image, write_pieces
from ansible_collections.virt.storage.plugins.module_utils._ground.qcow2_foreign import foreign_flaw

MIB = 1 << 20
FORMAT_OF_BACKING = 104 + 8
"""Where in our own overlays the header says the format of the backing file."""


@pytest.fixture
def volume(tmp_path):
    """``volume(backing, patches)``: a qcow2 file with bytes of its header replaced; gives its path."""

    def make(backing=None, patches=()):
        path = tmp_path / "volume.qcow2"
        with path.open("w+b") as file:
            write_pieces(file.fileno(), overlay_image(MIB, backing))
            for offset, data in patches:
                os.pwrite(file.fileno(), data, offset)
        return str(path)

    return make


@pytest.mark.parametrize("backing", [None, "./base.raw"])
def test_our_own_kind_has_no_flaw(volume, backing):
    assert foreign_flaw(volume(backing)) == ""


@pytest.mark.parametrize(
    ("backing", "patch", "tells"),
    [
        (None, (79, b"\x04"), "in another file"),
        (None, (79, b"\x02"), "corrupt"),
        (None, (35, b"\x02"), "encrypted"),
        ("./base.raw", (FORMAT_OF_BACKING, b"vdi"), "says vdi about the format"),
    ],
)
def test_what_leads_elsewhere_is_a_flaw(volume, backing, patch, tells):
    assert tells in foreign_flaw(volume(backing, [patch]))


def test_a_backing_file_of_open_format_is_a_flaw(volume):
    unnamed = (FORMAT_OF_BACKING - 8, b"\x00\x00\x00\x99")
    assert "says nothing about the format" in foreign_flaw(volume("./base.raw", [unnamed]))


def test_what_is_not_qcow2_is_not_what_it_was_said_to_be(tmp_path):
    path = tmp_path / "volume"
    path.write_bytes(bytes(4096))
    with pytest.raises(LostMetadata, match="does not begin with a qcow2 header"):
        foreign_flaw(str(path))
