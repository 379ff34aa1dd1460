# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a deployer may state about a source, SUMS files, and files as sources."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ansible_collections.virt.storage.plugins.module_utils._ground import checksums
from ansible_collections.virt.storage.plugins.module_utils._ground.bounds import Bounds
from ansible_collections.virt.storage.plugins.module_utils._ground.digest import BLOCK, ZEROES
from ansible_collections.virt.storage.plugins.module_utils._ground.errors import BadInput, NotFound, SourceError
from ansible_collections.virt.storage.plugins.module_utils._ground.opening import expected_checksum, open_source
from ansible_collections.virt.storage.plugins.module_utils._ground.sources import (
    SourceSpec,
)

BOUNDS = Bounds(2**35, 2**35)
URL = "https://user:p%40ss@mirror.example:8443/images/debian%2012.qcow2.xz?X-Signature=s3cret#part"


def test_secrets_are_not_shown() -> None:
    spec = SourceSpec(URL, "qcow2", headers={"X-Token": "t0ken"}, client_key="/k3y")
    assert (spec.username, spec.password) == ("user", "p@ss")
    assert spec.shown == "https://mirror.example:8443/images/debian%2012.qcow2.xz"
    for text in (repr(spec), str(spec), "%s" % [spec], spec.shown, spec.identity):
        assert not any(secret in text for secret in ("user", "p%40ss", "p@ss", "s3cret", "t0ken", "k3y"))


def test_identity() -> None:
    spec = SourceSpec(URL, "qcow2")
    assert spec.identity.startswith(spec.shown + "?sha256:")
    assert spec.identity == replace(spec, password="other").identity
    assert spec.identity != replace(spec, location=spec.location.replace("s3cret", "2nd")).identity
    assert SourceSpec("https://mirror.example/a", "raw").identity == "https://mirror.example/a"
    assert SourceSpec("/srv/a?b", "raw").identity == "/srv/a?b"


def test_stated_credentials_win_over_those_in_the_url() -> None:
    assert SourceSpec(URL, "qcow2", username="me", password="mine").password == "mine"


@pytest.mark.parametrize(
    ("location", "name", "compression"),
    [
        (URL, "debian 12.qcow2.xz", "xz"),
        ("/srv/disk.raw.gz", "disk.raw.gz", "gz"),
        ("/srv/disk.ZST", "disk.ZST", "zst"),
        ("/srv/disk.raw", "disk.raw", "none"),
        ("/srv/xz", "xz", "xz"),
        ("http://h/disk?file=a.gz", "disk", "none"),
    ],
)
def test_name_and_compression(location: str, name: str, compression: str) -> None:
    spec = SourceSpec(location, "raw")
    assert (spec.file_name, spec.compressed_with) == (name, compression)
    assert replace(spec, compression="zst").compressed_with == "zst"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"location": "image.raw"}, "absolute path"),
        ({"location": "ftp://h/x"}, "absolute path"),
        ({"location": "json:{}"}, "absolute path"),
        ({"location": "http:///x"}, "no host"),
        ({"location": "http://h:99999/x"}, "impossible port"),
        ({"location": "http://h:s3cret/x"}, "impossible port"),
        ({"location": "http://h/a\r\nX: y"}, "control characters"),
        ({"headers": {"X": "a\nb"}}, "control characters"),
        ({"format": "qed"}, "'qed' is not one of"),
        ({"format": ""}, "'' is not one of"),
        ({"compression": "bz2"}, "'bz2' is not one of"),
        ({"checksum": "md5:d41d8cd98f00b204e9800998ecf8427e"}, "sha256:<digits>"),
        ({"checksum": "sha256:abc"}, "has 3 digits, but sha256 has 64"),
        ({"checksum": "sha512:" + "a" * 64}, "has 64 digits, but sha512 has 128"),
    ],
)
def test_what_cannot_be_meant(arguments: dict[str, object], text: str) -> None:
    with pytest.raises(BadInput) as caught:
        SourceSpec(**{"location": "/srv/image", "format": "raw", **arguments})  # type: ignore[arg-type]
    assert text in caught.value.message
    assert "s3cret" not in caught.value.message


A, B = "a" * 64, "B" * 64
LONG = "c" * 128


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("%s  disk\n" % A, "sha256:" + A),
        ("%s *disk\n" % B, "sha256:" + "b" * 64),
        ("%s  ./disk\r\n" % A, "sha256:" + A),
        ("%s  other\n%s  disk\n%s  disk.old\n" % (B, A, B), "sha256:" + A),
        ("%s  images/disk\n%s  disk" % (B, A), "sha256:" + A),
        ("%s  images/disk\n" % A, "sha256:" + A),
        ("SHA256 (disk) = %s\n" % A, "sha256:" + A),
        ("MD5 (disk) = %s\nSHA512 (disk) = %s\n" % (A[:32], LONG), "sha512:" + LONG),
        ("%s  disk\n%s  disk\n" % (A, LONG), "sha512:" + LONG),
        ("%s  disk\n%s  disk\n" % (A, A), "sha256:" + A),
        ("-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n# disk: 1 bytes\n%s *disk\n-----END" % A, "sha256:" + A),
    ],
)
def test_sums(text: str, expected: str) -> None:
    assert str(checksums.from_sums(text, "disk", "SUMS")) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "SUMS is not a list of SHA-256 or SHA-512 checksums: no entry was found for disk."),
        ("<html>not found</html>", "SUMS is not a list"),
        ("%s  disk\n" % A[:40], "SUMS is not a list"),
        ("%s  disk2\n" % A, "SUMS has no usable entry for disk."),
        ("%sZ  disk\n%s  x" % (A[:63], A), "SUMS has no usable entry for disk."),
        ("%s  disk\n%s  disk\n" % (A, B), "SUMS has contradicting entries for disk."),
        ("%s  a/disk\n%s  b/disk\n" % (A, B), "SUMS has contradicting entries for disk."),
    ],
)
def test_unusable_sums(text: str, message: str) -> None:
    with pytest.raises(SourceError) as caught:
        checksums.from_sums(text, "disk", "SUMS")
    assert caught.value.message.startswith(message)


names = st.text(st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp"), exclude_characters="/"), min_size=1)
digests = st.sampled_from([64, 128]).flatmap(lambda n: st.text("0123456789abcdef", min_size=n, max_size=n))


@given(entries=st.dictionaries(names, digests, min_size=1), style=st.sampled_from(["gnu", "binary", "bsd"]))
@example(entries={"a  b": A, "b": LONG}, style="gnu")
@example(entries={"x) = y": A}, style="bsd")
@example(entries={"back\\slash": A}, style="gnu")
def test_every_listed_name_is_found(entries: dict[str, str], style: str) -> None:
    lines = {
        "gnu": lambda name, digest: "%s  %s" % (digest, name),
        "binary": lambda name, digest: "%s *%s" % (digest, name),
        "bsd": lambda name, digest: "SHA%d (%s) = %s" % (len(digest) * 4, name, digest),
    }
    text = "\n".join(lines[style](name, digest) for name, digest in entries.items())
    for name, digest in entries.items():
        assert checksums.from_sums(text, name, "SUMS").digest == digest


@given(name=st.text("ab\\\n", min_size=1))
def test_escaped_names(name: str) -> None:
    text = "\\%s  %s\n" % (A, name.replace("\\", "\\\\").replace("\n", "\\n"))
    assert checksums.from_sums(text, name, "SUMS").digest == A


@given(text=st.text())
def test_any_text_is_a_sums_file_or_not(text: str) -> None:
    try:
        found = checksums.from_sums(text, "disk", "SUMS")
    except SourceError:
        return
    assert len(found.digest) == checksums.LENGTHS[found.algorithm]


def test_sums_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "SUMS").write_text("%s  disk\n" % A)
    spec = SourceSpec("/srv/disk", "raw", checksum=str(tmp_path / "SUMS"))
    assert str(expected_checksum(spec, BOUNDS)) == "sha256:" + A
    with pytest.raises(NotFound, match="SUMS2 does not exist"):
        expected_checksum(replace(spec, checksum=str(tmp_path / "SUMS2")), BOUNDS)
    (tmp_path / "SUMS").write_bytes(bytes(5 * 1024**2))
    with pytest.raises(SourceError, match="are accepted"):
        expected_checksum(spec, BOUNDS)


def test_a_file_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(b"x" * 5000)
    source = open_source(SourceSpec(str(path), "raw"), BOUNDS)
    assert source.size == 5000
    assert [source.read(4096), source.read(4096), source.read(4096)] == [b"x" * 4096, b"x" * 904, b""]
    source.check_unchanged()
    source.close()


def test_holes_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(b"x")
    os.truncate(path, 3 * BLOCK)
    source, buffer = open_source(SourceSpec(str(path), "raw"), BOUNDS), bytearray(BLOCK)
    assert source.block(buffer).obj is buffer
    assert source.block(buffer).obj is ZEROES
    source.close()


@pytest.mark.parametrize("change", ["append", "rewrite", "truncate", "touch"])
def test_a_file_that_changes(tmp_path: Path, change: str) -> None:
    path = tmp_path / "image"
    path.write_bytes(b"x" * 5000)
    source = open_source(SourceSpec(str(path), "raw"), BOUNDS)
    os.utime(path, ns=(0, 0)) if change == "touch" else None
    with open(path, "r+b") as other:
        if change == "append":
            other.seek(0, os.SEEK_END)
        if change in ("append", "rewrite"):
            other.write(b"y")
        elif change == "truncate":
            other.truncate(100)
    with pytest.raises(SourceError, match="was changed while it was read"):
        source.check_unchanged()
    source.close()


def test_a_file_replaced_by_another_is_the_one_that_was_opened(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(b"old")
    source = open_source(SourceSpec(str(path), "raw"), BOUNDS)
    (tmp_path / "new").write_bytes(b"new")
    (tmp_path / "new").rename(path)
    assert source.read(10) == b"old"
    source.close()


def test_missing_and_too_large(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="does not exist"):
        open_source(SourceSpec(str(tmp_path / "none"), "raw"), BOUNDS)
    (tmp_path / "image").write_bytes(b"12345")
    with pytest.raises(SourceError, match="has 5 bytes, and 4 are accepted"):
        open_source(SourceSpec(str(tmp_path / "image"), "raw"), Bounds(4, 2**30))
