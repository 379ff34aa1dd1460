# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.virt.storage.plugins.module_utils._ground.errors import BadInput
from ansible_collections.virt.storage.plugins.module_utils._policy.sizes import LARGEST, counted, in_words, parse_size

UNITS = {"": 1, "B": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40, "P": 2**50}


@given(st.integers(1, 64), st.sampled_from(sorted(UNITS)), st.sampled_from(("", "iB")), st.sampled_from(("", " ")))
def test_every_way_to_write_a_size(number, unit, suffix, space):
    suffix = suffix if unit not in ("", "B") else ""
    for text in (f"{number}{space}{unit}{suffix}", f" {number}{space}{unit.lower()}{suffix.lower()} "):
        assert parse_size(text, "size") == number * UNITS[unit]


@given(st.integers(1, LARGEST))
def test_bytes_are_taken_as_they_are(size):
    assert parse_size(size, "size") == parse_size(str(size), "size") == size


@pytest.mark.parametrize(
    "value",
    [0, "0", -1, "-1", "10X", "1.5G", "", " ", "G", "0x10", "1e9", "10 GB extra", True, None, LARGEST + 1, "65P"],
)
def test_what_is_no_size_is_refused(value):
    check_refusal(value)


@pytest.mark.parametrize("value", ["9" * 400, "\uff11\uff10G", "10G\n10G", "10\x00"])
def test_a_hostile_size_is_refused_and_shown_harmless(value):
    check_refusal(value)


def check_refusal(value):
    with pytest.raises(BadInput) as refusal:
        parse_size(value, "option max_bytes")
    message = refusal.value.message
    assert message.startswith("The option max_bytes ")
    assert len(message) < 250
    assert message.isprintable()


@pytest.mark.parametrize(
    ("size", "words"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1024, "1.0 KiB"), (1536 << 20, "1.5 GiB"), (5 << 60, "5120.0 PiB")],
)
def test_sizes_in_words(size, words):
    assert in_words(size) == words


def test_numbers_in_words():
    assert [counted(number, "disk") for number in (0, 1, 2)] == ["0 disks", "1 disk", "2 disks"]
