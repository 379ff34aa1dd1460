# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Config disks: read back by name in both name spaces, the same bytes at any time and in any zone."""

from __future__ import annotations

import io
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pycdlib
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.virt.storage.plugins.module_utils._ground import seed
from ansible_collections.virt.storage.plugins.module_utils._ground.errors import BadInput, MissingRequirement
from ansible_collections.virt.storage.plugins.module_utils._ground.seed import nocloud_seed, seed_digest, seed_iso

FILES = {
    "user-data": b"#cloud-config\nhostname: web1\n",
    "meta-data": b"instance-id: web1\n",
    "network-config": b"version: 2\n" * 1000,
}


def read_back(image: bytes, space: str) -> dict[str, bytes]:
    iso = pycdlib.PyCdlib()
    iso.open_fp(io.BytesIO(image))
    found = {}
    for child in iso.list_children(**{space: "/"}):
        if child.is_dot() or child.is_dotdot():
            continue
        name = child.rock_ridge.name() if space == "rr_path" else child.file_identifier().decode("utf-16-be")
        content = io.BytesIO()
        iso.get_file_from_iso_fp(content, **{space: f"/{name if isinstance(name, str) else name.decode()}"})
        found[name if isinstance(name, str) else name.decode()] = content.getvalue()
    iso.close()
    return found


@pytest.mark.parametrize("space", ["rr_path", "joliet_path"])
def test_what_goes_in_comes_out(space: str) -> None:
    assert read_back(seed_iso(FILES), space) == FILES


def test_the_label_is_found_by_who_looks_for_it(tmp_path: Path) -> None:
    path = tmp_path / "seed"
    path.write_bytes(seed_iso(FILES))
    argv = ["blkid", "--probe", "--output", "export", str(path)]
    env = {"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    told = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=30, env=env).stdout.splitlines()
    assert {"LABEL=cidata", "TYPE=iso9660"} <= set(told)


@pytest.fixture(name="another_day_and_zone")
def fixture_another_day_and_zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    moment = time.time() + 400 * 86400 + 3661
    monkeypatch.setattr(time, "time", lambda: moment)
    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


TODAY = seed_iso(FILES)
TODAY_MANY = seed_iso({f"file-{number}-{'x' * 40}": b"x" * number for number in range(60)})


@pytest.mark.usefixtures("another_day_and_zone")
def test_another_day_in_another_zone_gives_the_same_bytes() -> None:
    assert seed_iso(dict(reversed(FILES.items()))) == TODAY
    assert seed_iso({f"file-{number}-{'x' * 40}": b"x" * number for number in range(60)}) == TODAY_MANY


names = st.text("abcxyzABC019_.-", min_size=1, max_size=64).filter(lambda name: name[0] not in ".-")


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(names, st.binary(max_size=5000), max_size=12))
def test_any_files_come_back_and_have_a_digest_of_their_own(files: dict[str, bytes]) -> None:
    assert read_back(seed_iso(files), "rr_path") == files
    assert seed_digest(files) == seed_digest(dict(reversed(files.items())))
    assert seed_digest({**files, "one-more": b""}) != seed_digest(files)


def test_the_digest_tells_names_contents_and_label_apart() -> None:
    digests = {
        seed_digest({}),
        seed_digest({"a": b"b"}),
        seed_digest({"ab": b""}),
        seed_digest({"a": b"", "b": b""}),
        seed_digest({"a": b"b"}, "other"),
    }
    assert len(digests) == 5
    assert all(digest.startswith("sha256:") for digest in digests)


@pytest.mark.parametrize(
    ("meta_data", "wanted"),
    [
        ("", 'instance-id: "i-1"\n'),
        ("local-hostname: web1\n", 'instance-id: "i-1"\nlocal-hostname: web1\n'),
        ("---\nlocal-hostname: web1\n", '---\ninstance-id: "i-1"\nlocal-hostname: web1\n'),
        ("a: b\ninstance-id: mine\n", "a: b\ninstance-id: mine\n"),
        ('"instance-id": mine\n', '"instance-id": mine\n'),
        ("other-instance-id: x\n", 'instance-id: "i-1"\nother-instance-id: x\n'),
    ],
)
def test_an_instance_id_is_put_in_when_there_is_none(meta_data: str, wanted: str) -> None:
    assert nocloud_seed("i-1", meta_data=meta_data).files["meta-data"].decode() == wanted


def test_meta_data_in_json_keeps_its_own_id() -> None:
    assert json.loads(nocloud_seed("i-1", meta_data='{"a": 1}').files["meta-data"]) == {"a": 1, "instance-id": "i-1"}
    assert json.loads(nocloud_seed("i-1", meta_data='{"instance-id": "x"}').files["meta-data"])["instance-id"] == "x"
    with pytest.raises(BadInput, match="is not"):
        nocloud_seed("i-1", meta_data="{nonsense")


def test_files_that_were_not_given_are_not_there() -> None:
    assert set(nocloud_seed("i").files) == {"user-data", "meta-data"}
    full = nocloud_seed("i", "#!/bin/sh\n", "", "version: 2\n", "#cloud-config\n")
    assert set(full.files) == {"user-data", "meta-data", "network-config", "vendor-data"}
    assert not full.warnings


def test_user_data_that_cloud_init_would_ignore_is_warned_of() -> None:
    (warning,) = nocloud_seed("i", "hostname: web1\n").warnings
    assert "user-data" in warning
    assert "#cloud-config" in warning


@pytest.mark.parametrize("name", ["", "a/b", "../x", ".hidden", "ü", "x" * 65, "a\n"])
def test_a_strange_name_is_refused(name: str) -> None:
    with pytest.raises(BadInput, match="a name there"):
        seed_iso({name: b""})


def test_a_strange_label_and_a_large_file_are_refused() -> None:
    for label in ("", "x" * 17, "a b", "ü"):
        with pytest.raises(BadInput, match="volume id"):
            seed_iso({}, label)
    with pytest.raises(BadInput, match="can have up to 16777216"):
        seed_iso({"user-data": bytes((16 << 20) + 1)})


def test_a_missing_library_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seed, "HAS_PYCDLIB", False)
    with pytest.raises(MissingRequirement, match="python3-pycdlib"):
        seed_iso(FILES)
