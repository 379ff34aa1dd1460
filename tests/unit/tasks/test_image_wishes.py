# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Options of an image that mean nothing for where it comes from, and facts of one that are none."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from ansible_collections.virt.storage.plugins.module_utils._ground.bounds import Bounds
from ansible_collections.virt.storage.plugins.module_utils._ground.errors import BadInput, LostMetadata
from ansible_collections.virt.storage.plugins.module_utils._ground.sources import SourceSpec
from ansible_collections.virt.storage.plugins.module_utils._records.types import Image, Volume
from ansible_collections.virt.storage.plugins.module_utils._tasks.image_snapshots import snapshot_spec
from ansible_collections.virt.storage.plugins.module_utils._tasks.image_wishes import Wanted, wanted_images
from ansible_collections.virt.storage.plugins.modules.cached_image import ARGUMENTS

FILE, SNAPSHOT = "/srv/images/no-such-file.raw", "rbd:images/x@snap"


def entry(source: str, **given: Any) -> dict[str, Any]:
    """An entry of ``images`` with the defaults of the module."""
    options: dict[str, Any] = ARGUMENTS["images"]["options"]
    defaults = {name: option.get("default") for name, option in options.items()}
    return {**defaults, "name": "g", "source": source, "format": "raw", **given}


def wanted(one: dict[str, Any]) -> list[Wanted]:
    session: Any = SimpleNamespace(check_mode=True, warnings=[])
    return wanted_images(session, {"state": "present", "pools": ["p"], "images": [one], "limits": None})


@pytest.mark.parametrize("given", [{"ceph": {"user": "glance"}}, {"flatten": True}], ids=str)
def test_what_is_only_for_ceph_is_refused_elsewhere(given: dict[str, Any]) -> None:
    assert [one.name for one in wanted(entry(FILE))] == ["g"]
    with pytest.raises(BadInput, match=f"does not come from Ceph, and {next(iter(given))} means nothing"):
        wanted(entry(FILE, **given))


@pytest.mark.parametrize("given", [{"compression": "gz"}, {"password": "s3cret"}, {"client_key": "/key"}], ids=str)
def test_what_is_only_for_files_is_refused_in_ceph(given: dict[str, Any]) -> None:
    for right in ("auto", "none"):
        assert snapshot_spec(entry(SNAPSHOT, compression=right)).address == "images/x@snap"
    with pytest.raises(BadInput, match=f"where {next(iter(given))} means nothing") as refusal:
        snapshot_spec(entry(SNAPSHOT, **given))
    assert "s3cret" not in str(refusal.value)


def test_digests_that_are_none_are_one_sentence() -> None:
    spec = SourceSpec("/a", "raw")
    want = Wanted("g", spec, Bounds(max_source_bytes=1, max_virtual_size=1), digest="sha256:11")
    image = Image("image+g+0+a", "sha256:22+raw", "g", "/a", Volume("v", "raw"), "2026-01-01T00:00:00.000000Z", "o")
    assert want.served_by(image, {"source_digests": {"sha256": "11"}}, "")
    assert not want.served_by(image, {}, "")
    for seal in ({"source_digests": "11"}, {"source_digests": None}):
        with pytest.raises(LostMetadata, match=r"^The facts of image\+g\+0\+a do not say"):
            want.served_by(image, seal, "")
