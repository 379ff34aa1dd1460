# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Images and streams that somebody with bad intentions, or a bad disk, might offer. All made here, byte by byte."""

from __future__ import annotations

import gzip
import lzma
import os
import socket
import struct
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SECTOR, CLUSTER, MIB = 512, 65536, 1024**2
MBR_SIGNATURE = b"\x55\xaa"
LUKS_MAGIC = b"LUKS\xba\xbe"
SECRET = "/etc/shadow"
NO_PARENT = 0xFFFFFFFF


@dataclass(frozen=True)
class Hostile:
    """One offer, and the check that has to refuse it."""

    name: str
    declared: str
    content: bytes | Callable[[Path], None]
    """The file's bytes, or what makes something else of the path."""
    check: str
    compression: str = "none"
    checksum: str | None = None


def qcow2(
    *,
    size: int = MIB,
    version: int = 3,
    backing: bytes = b"",
    backing_at: int | None = None,
    cluster_bits: int = 16,
    crypt: int = 0,
    l1_entries: int = 1,
    l1_at: int = 3 * CLUSTER,
    refcount_clusters: int = 1,
    snapshots: int = 0,
    features: int = 0,
    extensions: bytes = b"",
    disk: bytes = b"",
) -> bytes:
    """A small qcow2 that is sound, unless something is asked for that is not.

    ``disk`` (at most a cluster) is what the guest finds at the start of its disk.
    """
    image = bytearray(4 * CLUSTER)
    name_at = backing_at if backing_at is not None else 1024 if backing else 0
    tables = (l1_entries, l1_at, CLUSTER, refcount_clusters, snapshots, CLUSTER if snapshots else 0)
    layout = ">4sIQIIQIIQQIIQ"
    header = struct.pack(layout, b"QFI\xfb", version, name_at, len(backing), cluster_bits, size, crypt, *tables)
    if version >= 3:
        header += struct.pack(">QQQII", features, 0, 0, 4, 104)
    image[: len(header)] = header
    image[len(header) : len(header) + len(extensions)] = extensions
    image[1024 : 1024 + len(backing)] = backing
    struct.pack_into(">Q", image, CLUSTER, 2 * CLUSTER)
    clusters = 4
    if disk:
        struct.pack_into(">Q", image, 3 * CLUSTER, 1 << 63 | 4 * CLUSTER)
        image += struct.pack(">Q", 1 << 63 | 5 * CLUSTER).ljust(CLUSTER, b"\0") + disk.ljust(CLUSTER, b"\0")
        clusters = 6
    struct.pack_into(">%dH" % clusters, image, 2 * CLUSTER, *[1] * clusters)
    return bytes(image)


def poke(image: bytes, offset: int, data: bytes) -> bytes:
    """``image`` with ``data`` at ``offset``, longer if need be."""
    image = image.ljust(offset + len(data), b"\0")
    return image[:offset] + data + image[offset + len(data) :]


def descriptor(create_type: str = "monolithicSparse", extent: str = 'RW 2048 SPARSE "disk.vmdk"', more: str = "",
               parent: int = NO_PARENT) -> bytes:  # fmt: skip
    """The text in a VMDK, or all of one that keeps its data elsewhere."""
    lines = ["# Disk DescriptorFile", "version=1", "CID=12345678", "parentCID=%08x" % parent]
    lines += ['createType="%s"' % create_type, more, "# Extent description", extent, 'ddb.adapterType = "ide"', ""]
    return "\n".join(lines).encode()


def vmdk(text: bytes, *, capacity: int = 2048, at_end: bool = False, where: int = 1, version: int = 1) -> bytes:
    """A sparse VMDK with an embedded descriptor; with ``at_end`` a footer has to follow."""
    header = struct.pack("<4sIIQQQQIQQ", b"KDMV", version, 3, capacity, 128, where, 20, 512, 21,
                         2**64 - 1 if at_end else 26)  # fmt: skip
    return (header.ljust(SECTOR, b"\0") + text).ljust(MIB // 4, b"\0")


def vmdk_stream(*, footer_capacity: int = 2048, footer_where: int = 1) -> bytes:
    """A stream-optimised VMDK, whose footer may tell another story."""
    body = vmdk(descriptor("streamOptimized"), at_end=True)
    footer = struct.pack("<4sIIQQQQIQQ", b"KDMV", 1, 3, footer_capacity, 128, footer_where, 20, 512, 21, 26)
    return body + struct.pack("<QII", 1, 0, 3).ljust(SECTOR, b"\0") + footer.ljust(SECTOR, b"\0") + bytes(SECTOR)


def vhd(*, kind: int = 3, size: int = MIB) -> bytes:
    """The copy of the footer that a dynamic VHD begins with, and little else."""
    head = poke(b"conectix", 40, struct.pack(">QQ", size, size)) + bytes(4) + struct.pack(">I", kind)
    return head.ljust(8192, b"\0")


def vdi(*, kind: int = 1, size: int = MIB, parent: bytes = b"") -> bytes:
    """The header of a VDI."""
    image = poke(
        b"<<< Oracle VM VirtualBox Disk Image >>>\n", 0x40, struct.pack("<IIII", 0xBEDA107F, 0x10001, 400, kind)
    )
    return poke(poke(poke(image, 0x170, struct.pack("<Q", size)), 0x1B8, parent), MIB, b"\0")


def vhdx(*, signature: bytes = b"regi", regions: int = 1, metadata_at: int = MIB) -> bytes:
    """A VHDX up to its region table."""
    guid = bytes.fromhex("06a27c8b90479a4bb8fe575f050f886e")
    table = signature + struct.pack("<III", 0, regions, 0) + guid + struct.pack("<QII", metadata_at, MIB, 1)
    return poke(poke(b"vhdxfile", 192 * 1024, table), 2 * MIB, b"\0")


def luks(version: int) -> bytes:
    """The start of a LUKS volume."""
    return (LUKS_MAGIC + struct.pack(">H", version) + b"aes".ljust(32, b"\0")).ljust(MIB, b"\0")


def raw_disk(size: int = MIB) -> bytes:
    """A disk with one partition in its table."""
    entry = struct.pack("<B3BB3BII", 0x80, 0, 2, 0, 0x83, 0, 0, 0, 1, 100)
    return poke(poke(b"\xeb\x63boot", 446, entry), 510, MBR_SIGNATURE).ljust(size, b"\0")


def iso(*, partitioned: bool = False) -> bytes:
    """A small ISO 9660 volume, with a partition table in front if it is to boot from a stick."""
    volume = b"\1CD001\1".ljust(80, b"\0") + struct.pack("<I", 32)
    image = poke(raw_disk() if partitioned else bytes(MIB), 32768, volume)
    return poke(image, 32768 + 128, struct.pack("<H", 2048))


def zstd(data: bytes) -> bytes:
    """``data`` compressed by the zstd program."""
    return subprocess.run(["zstd", "-q", "-c"], input=data, stdout=subprocess.PIPE, check=True).stdout


def sparse(size: int, start: bytes) -> Callable[[Path], None]:
    """A file of ``size`` bytes that is almost all hole."""

    def make(path: Path) -> None:
        path.write_bytes(start)
        os.truncate(path, size)

    return make


def listening_socket(path: Path) -> None:
    """A socket in the place of a file."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


_FEATURE_DATA_FILE, _FEATURE_EXTENDED_L2, _FEATURE_CORRUPT = 1 << 2, 1 << 4, 1 << 1
_DATA_FILE_NAME = struct.pack(">II", 0x44415441, len(SECRET)) + SECRET.encode().ljust(16, b"\0")
_FLAT = 'RW 2048 FLAT "%s" 0' % SECRET
_FAR_TABLES = struct.pack("<QQ", 2**40, 2**40)
_XZ_GIANT = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 2**30}]
_BOMB = bytes(64 * MIB)
NOISE = os.urandom(MIB)

BEFORE_QEMU = [
    Hostile("backing-shadow", "qcow2", qcow2(backing=SECRET.encode()), "backing_file"),
    Hostile("backing-json", "qcow2", qcow2(backing=b'json:{"driver":"file","filename":"/etc/shadow"}'), "backing_file"),
    Hostile("backing-nbd", "qcow2", qcow2(backing=b"nbd://127.0.0.1:10809/x"), "backing_file"),
    Hostile("backing-without-name", "qcow2", qcow2(backing_at=1024), "backing_file"),
    Hostile("backing-far-away", "qcow2", qcow2(backing_at=2**60), "backing_file"),
    Hostile("backing-version-2", "qcow2", qcow2(version=2, backing=SECRET.encode()), "backing_file"),
    Hostile("data-file", "qcow2", qcow2(features=_FEATURE_DATA_FILE), "data_file"),
    Hostile(
        "data-file-shadow", "qcow2", qcow2(features=_FEATURE_DATA_FILE, extensions=_DATA_FILE_NAME), "data_file"
    ),
    Hostile("unknown-feature-5", "qcow2", qcow2(features=1 << 5), "unknown_features"),
    Hostile("unknown-feature-63", "qcow2", qcow2(features=1 << 63), "unknown_features"),
    Hostile("extended-l2", "qcow2", qcow2(features=_FEATURE_EXTENDED_L2), "unknown_features"),
    Hostile("marked-corrupt", "qcow2", qcow2(features=_FEATURE_CORRUPT), "corrupt"),
    Hostile("qcow2-aes", "qcow2", qcow2(crypt=1), "encrypted"),
    Hostile("qcow2-luks", "qcow2", qcow2(crypt=2), "encrypted"),
    Hostile("giant-l1", "qcow2", qcow2(l1_entries=2**31), "header"),
    Hostile("l1-in-header", "qcow2", qcow2(l1_at=8), "header"),
    Hostile("l1-unaligned", "qcow2", qcow2(l1_at=3 * CLUSTER + 8), "header"),
    Hostile("l1-behind-end", "qcow2", qcow2(l1_at=CLUSTER << 20), "truncated"),
    Hostile("giant-refcount-table", "qcow2", qcow2(refcount_clusters=2**31), "header"),
    Hostile("a-million-snapshots", "qcow2", qcow2(snapshots=10**6), "header"),
    Hostile("giant-clusters", "qcow2", qcow2(cluster_bits=63), "header"),
    Hostile("tiny-clusters", "qcow2", qcow2(cluster_bits=0), "header"),
    Hostile("version-1", "qcow2", qcow2(version=1), "subformat"),
    Hostile("version-9", "qcow2", qcow2(version=9), "subformat"),
    Hostile("huge-disk", "qcow2", qcow2(size=2**62), "virtual_size"),
    Hostile("no-disk", "qcow2", qcow2(size=0), "virtual_size"),
    Hostile("half-a-sector", "qcow2", qcow2(size=MIB + 256), "virtual_size"),
    Hostile("magic-only", "qcow2", b"QFI\xfb", "truncated"),
    Hostile("thirty-bytes", "qcow2", qcow2()[:30], "truncated"),
    Hostile("header-only", "qcow2", qcow2()[:4096], "truncated"),
    Hostile("empty", "qcow2", b"", "truncated"),
    Hostile("empty-raw", "raw", b"", "truncated"),
    Hostile("raw-as-qcow2", "qcow2", raw_disk(), "format_mismatch"),
    Hostile("qcow2-as-raw", "raw", qcow2(), "format_mismatch"),
    Hostile("thirty-bytes-of-qcow2-as-raw", "raw", qcow2()[:30], "format_mismatch"),
    Hostile("qcow2-as-iso", "iso", qcow2(), "format_mismatch"),
    Hostile("raw-as-iso", "iso", raw_disk(), "format_mismatch"),
    Hostile("qcow2-and-iso", "qcow2", poke(qcow2(), 32768, b"\1CD001\1"), "format_mismatch"),
    Hostile("qcow2-and-iso-as-iso", "iso", poke(qcow2(), 32768, b"\1CD001\1"), "format_mismatch"),
    Hostile("qcow2-and-mbr", "qcow2", poke(qcow2(), 510, MBR_SIGNATURE), "format_mismatch"),
    Hostile("qcow2-and-mbr-as-raw", "raw", poke(qcow2(), 510, MBR_SIGNATURE), "format_mismatch"),
    Hostile("luks-1", "raw", luks(1), "encrypted"),
    Hostile("luks-2", "raw", luks(2), "encrypted"),
    Hostile("luks-as-qcow2", "qcow2", luks(1), "encrypted"),
    Hostile("qed-as-raw", "raw", b"QED\0".ljust(MIB, b"\0"), "format_mismatch"),
    Hostile("qed-as-qcow2", "qcow2", b"QED\0".ljust(MIB, b"\0"), "format_mismatch"),
    Hostile("parallels-as-raw", "raw", b"WithouFreSpacExt".ljust(MIB, b"\0"), "format_mismatch"),
    Hostile("vmdk-flat-shadow", "vmdk", descriptor("monolithicFlat", _FLAT), "subformat"),
    Hostile("vmdk-two-gb", "vmdk", descriptor("twoGbMaxExtentSparse"), "subformat"),
    Hostile("vmdk-vmfs", "vmdk", descriptor("vmfs", 'RW 2048 VMFS "%s"' % SECRET), "subformat"),
    Hostile("vmdk-device", "vmdk", descriptor("fullDevice", 'RW 2048 FLAT "/dev/sda" 0'), "subformat"),
    Hostile("vmdk-text-as-raw", "raw", descriptor("monolithicFlat", _FLAT), "format_mismatch"),
    Hostile("vmdk-text-indented", "raw", b"\n\n  " + descriptor("monolithicFlat", _FLAT), "format_mismatch"),
    Hostile("vmdk-embedded-flat", "vmdk", vmdk(descriptor("monolithicFlat", _FLAT)), "subformat"),
    Hostile("vmdk-sparse-with-path", "vmdk", vmdk(descriptor(extent='RW 2048 SPARSE "%s"' % SECRET)), "subformat"),
    Hostile("vmdk-parent-hint", "vmdk", vmdk(descriptor(more='parentFileNameHint="%s"' % SECRET)), "backing_file"),
    Hostile("vmdk-parent-id", "vmdk", vmdk(descriptor(parent=7)), "backing_file"),
    Hostile("vmdk-no-capacity", "vmdk", vmdk(descriptor(), capacity=0), "subformat"),
    Hostile("vmdk-descriptor-elsewhere", "vmdk", vmdk(descriptor(), where=2), "header"),
    Hostile("vmdk-descriptor-behind-end", "vmdk", vmdk(descriptor(), where=2**40), "truncated"),
    Hostile("vmdk-tables-elsewhere", "vmdk", poke(vmdk(descriptor()), 48, _FAR_TABLES), "truncated"),
    Hostile("vmdk-version-9", "vmdk", vmdk(descriptor(), version=9), "header"),
    Hostile("vmdk-huge", "vmdk", vmdk(descriptor(), capacity=2**50), "virtual_size"),
    Hostile("vmdk-footer-size", "vmdk", vmdk_stream(footer_capacity=2**30), "footer"),
    Hostile("vmdk-footer-descriptor", "vmdk", vmdk_stream(footer_where=5), "footer"),
    Hostile("vmdk-footer-missing", "vmdk", vmdk_stream()[:-1536], "footer"),
    Hostile("vmdk-esx", "vmdk", b"COWD".ljust(MIB, b"\0"), "subformat"),
    Hostile("vhd-differencing", "vhd", vhd(kind=4), "backing_file"),
    Hostile("vhd-fixed-in-front", "vpc", vhd(kind=2), "subformat"),
    Hostile("vhd-huge", "vhd", vhd(size=2**60), "virtual_size"),
    Hostile("vhd-short", "vhd", b"conectix\0\0", "truncated"),
    Hostile("vhd-footer-only", "vhd", bytes(MIB) + vhd()[:512], "format_mismatch"),
    Hostile("vdi-differencing", "vdi", vdi(kind=4), "backing_file"),
    Hostile("vdi-parent", "vdi", vdi(parent=b"x" * 16), "backing_file"),
    Hostile("vdi-kind-9", "vdi", vdi(kind=9), "subformat"),
    Hostile("vdi-huge", "vdi", vdi(size=2**60), "virtual_size"),
    Hostile("vhdx-short", "vhdx", b"vhdxfile", "truncated"),
    Hostile("vhdx-no-regions", "vhdx", vhdx(signature=b"nope"), "header"),
    Hostile("vhdx-many-regions", "vhdx", vhdx(regions=10**9), "header"),
    Hostile("vhdx-metadata-behind-end", "vhdx", vhdx(metadata_at=2**60), "truncated"),
    Hostile("sparse-giant", "raw", sparse(2**34, raw_disk()), "virtual_size"),
    Hostile("gz-bomb", "raw", gzip.compress(_BOMB), "virtual_size", "gz"),
    Hostile("xz-bomb", "raw", lzma.compress(_BOMB), "virtual_size", "xz"),
    Hostile("zst-bomb", "raw", zstd(_BOMB), "virtual_size", "zst"),
    Hostile("gz-cut", "raw", gzip.compress(NOISE)[:-9], "truncated", "gz"),
    Hostile("gz-cut-qcow2", "qcow2", gzip.compress(qcow2())[:-9], "truncated", "gz"),
    Hostile("xz-cut", "raw", lzma.compress(NOISE)[:-9], "truncated", "xz"),
    Hostile("zst-cut", "raw", zstd(NOISE)[:-9], "truncated", "zst"),
    Hostile("gz-wrong-sum", "raw", poke(gzip.compress(NOISE), 4000, b"oops"), "compression", "gz"),
    Hostile("gz-then-junk", "raw", gzip.compress(NOISE) + b"junk", "compression", "gz"),
    Hostile("xz-needs-a-gigabyte", "raw", lzma.compress(NOISE, filters=_XZ_GIANT), "compression", "xz"),
    Hostile("not-gz", "raw", raw_disk(), "compression", "gz"),
    Hostile("gz-undeclared", "raw", gzip.compress(NOISE), "format_mismatch"),
    Hostile("gz-twice", "raw", gzip.compress(gzip.compress(NOISE)), "format_mismatch", "gz"),
    Hostile("qcow2-in-gz-as-raw", "raw", gzip.compress(qcow2()), "format_mismatch", "gz"),
    Hostile("backing-in-xz", "qcow2", lzma.compress(qcow2(backing=SECRET.encode())), "backing_file", "xz"),
    Hostile("wrong-checksum", "raw", raw_disk(), "checksum", checksum="sha256:" + "0" * 64),
    Hostile("wrong-checksum-staged", "qcow2", gzip.compress(qcow2()), "checksum", "gz", "sha512:" + "0" * 128),
    Hostile("symlink", "raw", lambda path: path.symlink_to(SECRET), "file_type"),
    Hostile("named-pipe", "raw", os.mkfifo, "file_type"),
    Hostile("directory", "raw", lambda path: path.mkdir(), "file_type"),
    Hostile("socket", "raw", listening_socket, "file_type"),
    Hostile("character-device", "raw", lambda path: os.mknod(path, 0o20600, os.makedev(1, 5)), "file_type"),
]  # fmt: skip
"""Refused before any program of qemu starts."""

BY_QEMU_OR_DIGEST = [
    # The conversion has to be done to see the disk's content.
    Hostile("qcow2-in-qcow2", "qcow2", qcow2(disk=qcow2(backing=SECRET.encode())[:CLUSTER]), "nested"),
    Hostile("vmdk-text-in-qcow2", "qcow2", qcow2(disk=descriptor("monolithicFlat", _FLAT)), "nested"),
    Hostile("luks-in-qcow2", "qcow2", qcow2(disk=luks(1)[:CLUSTER]), "encrypted"),
    # Only a walk through all tables finds data that is not there; converting finds nothing.
    Hostile("data-cut-off", "qcow2", qcow2(disk=b"x" * CLUSTER)[: -2 * CLUSTER], "corrupt"),
    Hostile("l2-elsewhere", "qcow2", poke(qcow2(), 3 * CLUSTER, struct.pack(">Q", 1 << 63 | 1 << 40)), "corrupt"),
    Hostile(
        "cluster-twice",
        "qcow2",
        poke(qcow2(disk=b"x"), 4 * CLUSTER + 8, struct.pack(">Q", 1 << 63 | 5 * CLUSTER)),
        "corrupt",
    ),
    # Tables that only qemu reads.
    Hostile("l1-too-short", "qcow2", qcow2(size=2**30 * 4), "qemu_disagrees"),
    Hostile("vhd-without-table", "vhd", vhd(), "qemu_disagrees"),
    Hostile("vdi-without-table", "vdi", vdi(), "qemu_disagrees"),
    # Hashed while it is converted.
    Hostile("wrong-checksum-local", "qcow2", qcow2(disk=b"boot"), "checksum", checksum="sha256:" + "0" * 64),
]
"""Found by qemu under limits, or when the conversion is over; nothing outside the image is opened for it."""
