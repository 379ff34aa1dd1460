# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""The arguments of `cached_image`, as the images that they ask for."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from urllib.parse import unquote, urlsplit

from .._ground.bounds import Bounds
from .._ground.command import Beat
from .._ground.contents import Content, Incoming
from .._ground.digest import BLOCK
from .._ground.errors import BadInput, LostMetadata, NotFound
from .._ground.opening import expected_checksum, open_source
from .._ground.rbd_snapshot import RbdSnapshot
from .._ground.sources import SourceSpec
from .._ground.work import with_beat
from .._policy.plan import Fields
from .._policy.sizes import parse_size
from .._records.types import Image, checked_image_name, is_id
from .image_snapshots import SnapshotSpec, is_snapshot, snapshot, snapshot_spec
from .session import Session

LARGEST = "1T"
"""What a source, and the disk in it, may have where the task does not say."""
LONGEST = 3600
"""Seconds that one intake may take where the task does not say."""


@dataclass(frozen=True)
class Wanted:
    """One image of a task.

    ``digest`` is what its source's bytes have, ``sha256:...``: as the task says, or as they were read just now; "" for
    a source that is trusted to be what it was; of a snapshot in Ceph it is what identifies that, ``rbd-snap:...``.
    ``source_size`` is in bytes, 0 where it is not known yet.
    """

    name: str
    spec: SourceSpec | SnapshotSpec
    bounds: Bounds
    digest: str = ""
    pinned: bool | None = None
    source_size: int = 0
    snapshot: RbdSnapshot | None = None

    @property
    def is_known(self) -> bool:
        """Whether there is a ``content``: not of a snapshot whose cluster check mode cannot reach yet."""
        return self.snapshot is not None or isinstance(self.spec, SourceSpec)

    @property
    def content(self) -> Content:
        """What a volume is filled with."""
        if isinstance(self.spec, SourceSpec):
            return Incoming(self.spec, self.bounds)
        if self.snapshot is None:
            raise AssertionError
        return self.snapshot

    @property
    def identity(self) -> str:
        """What tells the source apart from others, without secrets."""
        return self.spec.identity

    @property
    def key(self) -> str:
        """The key of an image that is filled from this source."""
        return f"{self.digest or 'source:' + self.identity}+{self.spec.format}"

    def served_by(self, image: Image, seal: Fields, identity: str) -> bool:
        """Whether ``image``, which the name stands for now, is what is wanted: the bytes that are, or the same
        source where nobody says which bytes. ``seal`` are the facts of its intake, ``identity`` its source's. Raises
        LostMetadata where they are none."""
        if image.key == self.key:
            return True
        if not image.key.endswith(f"+{self.spec.format}"):
            return False
        if not self.digest:
            return identity == self.identity
        algorithm, _unused, digits = self.digest.partition(":")
        known = seal.get("source_digests", {})
        if not isinstance(known, dict):
            raise LostMetadata(
                f"The facts of {image.id} do not say the digests of its source by algorithm: take the image out of "
                "use with cached_image state=absent, and bring it in anew."
            )
        return bool(known.get(algorithm) == digits)


def wanted_images(session: Session, params: Fields) -> list[Wanted]:
    """The images that ``state: present`` asks for. Reads SUMS files, and sources that are to be refreshed.

    In check mode a local source may be missing: an earlier task may bring it.
    """
    warnings = session.warnings if session.check_mode else None
    limits = params["limits"] or {}
    bounds = Bounds(
        max_source_bytes=parse_size(limits.get("max_source_bytes") or LARGEST, "max_source_bytes"),
        max_virtual_size=parse_size(limits.get("max_virtual_size") or LARGEST, "max_virtual_size"),
        timeout=_seconds(limits.get("timeout"), "limits.timeout", LONGEST),
    )
    entries = image_entries(params)
    specs = [snapshot_spec(entry) if is_snapshot(entry["source"]) else _spec(entry) for entry in entries]
    return [
        _wanted(entry, spec, bounds, warnings)
        if isinstance(spec, SourceSpec)
        else _from_snapshot(session, pool_names(params), entry, spec, bounds)
        for entry, spec in zip(entries, specs)
    ]


def _from_snapshot(session: Session, pools: list[str], entry: Fields, spec: SnapshotSpec, bounds: Bounds) -> Wanted:
    found = snapshot(session, pools, entry, spec, bounds)
    return Wanted(entry["name"], spec, bounds, found.key() if found else "", entry["pinned"], snapshot=found)


def image_entries(params: Fields) -> list[Fields]:
    """The entries of ``images``, each name once."""
    entries: list[Fields] = params["images"] or []
    if not entries:
        raise BadInput(f"The task names no images: list under images what state={params['state']} is about.")
    names = [entry["name"] for entry in entries]
    for name in names:
        if names.count(name) > 1:
            raise BadInput(f"The image {name!r} stands twice under images: a name means one image.")
    return entries


def image_references(params: Fields) -> list[str]:
    """The images that a task names without saying where they come from: by name, id or key."""
    return [_reference(entry["name"]) for entry in image_entries(params)]


def pool_names(params: Fields) -> list[str]:
    """The pools of the task, each once."""
    names = list(dict.fromkeys(params["pools"]))
    if not names:
        raise BadInput("The task names no pools: list under pools those that it is about.")
    return names


def url_secrets(params: Fields) -> list[str]:
    """What is secret within the locations of sources and SUMS files: passwords, and queries, which may be signatures.

    Takes parameters of any shape, because they are asked for before they are checked, too.
    """
    images = params.get("images")
    entries = [entry for entry in images if isinstance(entry, dict)] if isinstance(images, list) else []
    found = []
    for url in [str(entry.get(option) or "") for entry in entries for option in ("source", "checksum")]:
        try:
            parts = urlsplit(url)
            if parts.scheme in ("http", "https"):
                found += [parts.query, parts.password or "", unquote(parts.password or "")]
        except ValueError:
            continue  # no URL, which is refused later, without showing it
    return [secret for secret in found if secret]


def _reference(name: str) -> str:
    if is_id(name):
        return name
    if ":" in name and name.isprintable() and len(name) <= 4096:
        return name
    return checked_image_name(name)


def _spec(entry: Fields) -> SourceSpec:
    name = checked_image_name(entry["name"])
    missing = [option for option in ("source", "format") if not entry[option]]
    if missing:
        raise BadInput(
            f"The image {name} lacks {' and '.join(missing)}: say where it comes from and what format it has."
        )
    for option in ("ceph", "flatten"):
        if entry[option]:
            raise BadInput(f"The image {name} does not come from Ceph, and {option} means nothing then: leave it out.")
    for option in ("client_key", "password"):
        other = {"client_key": "client_cert", "password": "username"}[option]
        if entry[option] and not entry[other]:
            raise BadInput(f"The image {name} has {option} without {other}: give both, or neither.")
    return SourceSpec(
        location=entry["source"],
        format=entry["format"],
        compression=entry["compression"],
        checksum=entry["checksum"] or None,
        headers={str(field): str(value) for field, value in (entry["headers"] or {}).items()},
        username=entry["username"],
        password=entry["password"],
        client_cert=entry["client_cert"],
        client_key=entry["client_key"],
        ca_path=entry["ca_path"],
        validate_certs=entry["validate_certs"],
        use_proxy=entry["use_proxy"],
        timeout=_seconds(entry["timeout"], f"timeout of image {name}", 60),
    )


def _wanted(entry: Fields, spec: SourceSpec, bounds: Bounds, warnings: list[str] | None) -> Wanted:
    """An entry with its digest, as far as the task says it or asks for it to be found out."""
    size, digest = 0, ""
    try:
        _need_files(entry)
        if not spec.is_url:
            size = _size_of(spec, bounds)
    except NotFound as error:
        if warnings is None:
            raise
        warnings.append(f"{error.message} Check mode goes on as if an earlier task had brought it.")
    else:
        digest = str(expected_checksum(spec, bounds) or "")
        if entry["refresh"] and not digest:
            digest = f"sha256:{_digest_of(spec, bounds)}"
    if digest:
        spec = replace(spec, checksum=digest)
    return Wanted(entry["name"], spec, bounds, digest, entry["pinned"], size)


def _need_files(entry: Fields) -> None:
    for option in ("client_cert", "client_key", "ca_path", "checksum"):
        path = entry[option] or ""
        if path.startswith("/") and not os.path.isfile(path):
            raise NotFound(f"The {option} of image {entry['name']}, {path}, does not exist or is no file.")


def _size_of(spec: SourceSpec, bounds: Bounds) -> int:
    """The size in bytes of a source on this host, which is seen to be a file that can be read."""
    source = open_source(spec, bounds)
    try:
        return source.size or 0
    finally:
        source.close()


def _digest_of(spec: SourceSpec, bounds: Bounds) -> str:
    """Read a source to its end, to learn whether it changed. Writes nothing, so that a check run does it, too."""
    source = open_source(spec, bounds)

    def read(alive: Beat) -> str:
        sha256 = hashlib.sha256()
        while data := source.read(BLOCK):
            alive()
            sha256.update(data)
        source.check_unchanged()
        return sha256.hexdigest()

    try:
        return with_beat(read, lambda: None, timeout=bounds.timeout, cancel=source.cancel)
    finally:
        source.close()


def _seconds(value: int | None, what: str, otherwise: int) -> float:
    if value is not None and value <= 0:
        raise BadInput(f"The {what} cannot be {value}: give a number of seconds above 0.")
    return float(otherwise if value is None else value)


def requirements(params: Fields) -> Sequence[str]:
    """The Python modules that a task imports: only taking images in needs to inspect any."""
    inspecting = ("oslo_utils.imageutils.format_inspector",) if params["state"] == "present" else ()
    return ("libvirt", *inspecting)
