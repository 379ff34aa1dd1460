# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""The disk that configures a guest through cloud-init: its NoCloud data source, as an ISO 9660 image.

Equal files give an equal image, whenever and wherever it is made, so dates are all set to one moment.
Whether a disk is up to date is judged by ``seed_digest``, which looks at the files alone: another version
of pycdlib may arrange them in another way without that being a change.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from .errors import BadInput, MissingRequirement

try:
    import pycdlib
except ImportError:
    HAS_PYCDLIB = False
else:
    HAS_PYCDLIB = True

MAX_FILE = 16 << 20
"""Bytes that one file of a seed may have; what cloud-init is given is text, not data."""

_SECTOR = 2048
_FIRST_DESCRIPTOR = 16 * _SECTOR
_DESCRIPTOR_DATES = range(813, 881, 17)
_ROOT_RECORD = 156
_RECORD_DATE = 18
_MOMENT = bytes([100, 1, 1, 0, 0, 0, 0])  # 2000-01-01 00:00:00 UTC, in the 7 bytes of a directory record
_MOMENT_TEXT = b"2000010100000000\0"  # the same in the 17 bytes of a volume descriptor

# How user data begins that cloud-init knows what to do with.
_KNOWN_STARTS = (
    b"#cloud-config",
    b"#!",
    b"#include",
    b"#cloud-boothook",
    b"#part-handler",
    b"## template: jinja",
    b"Content-Type:",
    b"MIME-Version:",
    b"\x1f\x8b",
)


@dataclass(frozen=True)
class Seed:
    """The files of a config disk by their names, and what a deployer should be warned of."""

    files: Mapping[str, bytes]
    warnings: tuple[str, ...] = ()


def nocloud_seed(
    instance_id: str,
    user_data: str = "",
    meta_data: str = "",
    network_config: str | None = None,
    vendor_data: str | None = None,
) -> Seed:
    """The files that the NoCloud data source reads.

    ``meta_data`` is YAML or JSON text; when it has no ``instance-id``, ``instance_id`` is put in, because
    without one cloud-init does not take the disk for a seed.
    """
    files = {"meta-data": _with_instance_id(meta_data, instance_id).encode(), "user-data": user_data.encode()}
    for name, text in (("network-config", network_config), ("vendor-data", vendor_data)):
        if text is not None:
            files[name] = text.encode()
    warnings = [
        f"The {name} begins with none of the headers that cloud-init knows, such as '#cloud-config' "
        "in its first line; cloud-init will ignore it."
        for name in ("user-data", "vendor-data")
        if files.get(name) and not files[name].startswith(_KNOWN_STARTS)
    ]
    return Seed(files, tuple(warnings))


def seed_digest(files: Mapping[str, bytes], volume_id: str = "cidata") -> str:
    """``sha256:`` and the digest of what a seed says: its volume id, and the names and contents of its files."""
    digest = hashlib.sha256()
    for part in (volume_id.encode(), *(part for name in sorted(files) for part in (name.encode(), files[name]))):
        digest.update(struct.pack(">Q", len(part)) + part)
    return f"sha256:{digest.hexdigest()}"


def check_seed(files: Mapping[str, bytes], volume_id: str = "cidata") -> None:
    """Raise BadInput when ``seed_iso`` could not make this."""
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,16}", volume_id):
        raise BadInput(
            f"The volume id {volume_id!r} was asked; it can have 1 to 16 letters (a-z), digits, '_' and '-'."
        )
    for name, content in files.items():
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}", name):
            raise BadInput(
                f"A file {name!r} was asked for the config disk; a name there has up to 64 letters (a-z), digits, "
                "'.', '_' and '-', and begins with a letter, a digit or '_'."
            )
        if len(content) > MAX_FILE:
            raise BadInput(
                f"The file {name} of the config disk has {len(content)} bytes; it can have up to {MAX_FILE}."
            )


def seed_iso(files: Mapping[str, bytes], volume_id: str = "cidata") -> bytes:
    """An ISO 9660 image with ``files`` in its root, under Rock Ridge and Joliet names.

    Raises BadInput, and MissingRequirement when pycdlib is not installed.
    """
    check_seed(files, volume_id)
    if not HAS_PYCDLIB:
        raise MissingRequirement(
            "The Python library pycdlib, which makes config disks, is not installed; "
            "install the package python3-pycdlib, or pycdlib with pip.",
            library="pycdlib",
        )
    iso = pycdlib.PyCdlib()
    iso.new(interchange_level=3, rock_ridge="1.09", joliet=3, vol_ident=volume_id)
    for number, name in enumerate(sorted(files)):
        content = files[name]
        # The plain name is seen by nobody: every system reads one of the other two.
        iso.add_fp(
            io.BytesIO(content),
            len(content),
            f"/F{number}.;1",
            rr_name=name,
            joliet_path=f"/{name}",
            file_mode=0o100444,
        )
    output = io.BytesIO()
    iso.write_fp(output)
    iso.close()
    image = bytearray(output.getvalue())
    _set_dates(image)
    return bytes(image)


def _with_instance_id(meta_data: str, instance_id: str) -> str:
    if meta_data.lstrip().startswith("{"):
        try:
            values = json.loads(meta_data)
        except ValueError as error:
            raise BadInput(f"The meta-data begins like JSON and is not: {error}.") from error
        return json.dumps({"instance-id": instance_id, **values}, sort_keys=True) + "\n"
    if re.search(r"""^["']?instance-id["']?\s*:""", meta_data, re.MULTILINE):
        return meta_data
    # JSON quoting is YAML quoting, whatever is in the name; a document marker has to stay in front.
    line = f"instance-id: {json.dumps(instance_id)}\n"
    marker = re.match(r"---[ \t]*\n", meta_data)
    at = marker.end() if marker else 0
    return meta_data[:at] + line + meta_data[at:]


def _set_dates(image: bytearray) -> None:
    """Put one moment in place of every date: pycdlib takes the clock's, in the zone of the host."""
    for at in range(_FIRST_DESCRIPTOR, len(image), _SECTOR):
        if image[at] == 255:
            return
        for offset in _DESCRIPTOR_DATES:
            if image[at + offset : at + offset + 16] != b"0" * 16:
                image[at + offset : at + offset + 17] = _MOMENT_TEXT
        root = at + _ROOT_RECORD
        image[root + _RECORD_DATE : root + _RECORD_DATE + 7] = _MOMENT
        start, size = (struct.unpack_from("<I", image, root + field)[0] for field in (2, 10))
        for record in _records(image, start * _SECTOR, size):
            image[record + _RECORD_DATE : record + _RECORD_DATE + 7] = _MOMENT
            _set_rock_ridge_dates(image, record)


def _records(image: bytearray, start: int, size: int) -> Iterator[int]:
    """Where the records of a directory begin. None crosses a sector: a zero says that the rest is empty."""
    at = start
    while at < start + size:
        if image[at]:
            yield at
            at += image[at]
        else:
            at += _SECTOR - at % _SECTOR


def _set_rock_ridge_dates(image: bytearray, record: int) -> None:
    """The dates in a record's TF entry: 5 bytes of head, then 7 for each date."""
    name = image[record + 32]
    at, end = record + 33 + name + (name + 1) % 2, record + image[record]
    while at + 4 <= end and image[at + 2]:
        length = image[at + 2]
        if image[at : at + 2] == b"TF":
            image[at + 5 : at + length] = _MOMENT * ((length - 5) // 7)
        at += length
