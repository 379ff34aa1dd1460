# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whatever parses what somebody else wrote either reads it or says one sentence: never a traceback, never without end.

Each reader begins with something that it does read, which is then spoilt: bytes are changed, cut, doubled; a value in
JSON becomes one of another kind; a part of XML goes or comes twice. What was once found to break a reader stands in
``KEPT`` and is tried first, always. Hostile images have tests of their own (``ground/test_hostile.py``).
The default form spoils in the same ways each time, ``VIRT_STORAGE_FULL=1`` fifty times as much and in new ways.
"""

from __future__ import annotations

import contextlib
import copy
import gzip
import io
import json
import lzma
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ansible_collections.virt.storage.plugins.module_utils._algorithms import conversion_journal as journal
from ansible_collections.virt.storage.plugins.module_utils._algorithms.moving import marks
from ansible_collections.virt.storage.plugins.module_utils._backends.lvm_group import _FIELDS, Group, find_group
from ansible_collections.virt.storage.plugins.module_utils._backends.lvm_thick import ThickVolumes
from ansible_collections.virt.storage.plugins.module_utils._backends.rbd_pool import RbdPool
from ansible_collections.virt.storage.plugins.module_utils._ground import checksums, lvm, qcow2, qcow2_clusters
from ansible_collections.virt.storage.plugins.module_utils._ground.ceph import Cluster
from ansible_collections.virt.storage.plugins.module_utils._ground.command import Completed, Runner
from ansible_collections.virt.storage.plugins.module_utils._ground.decompress import decompressed
from ansible_collections.virt.storage.plugins.module_utils._ground.errors import StorageError
from ansible_collections.virt.storage.plugins.module_utils._ground.nova_layout import read_layout
from ansible_collections.virt.storage.plugins.module_utils._ground.qcow2_pointer import (
    read_pointer,
    restore_pointer,
    write_backing,
)
from ansible_collections.virt.storage.plugins.module_utils._policy import guest_disks, pool_xml
from ansible_collections.virt.storage.plugins.module_utils._policy.disk_xml import Link, Location
from ansible_collections.virt.storage.plugins.module_utils._records import omap, types
from ansible_collections.virt.storage.plugins.module_utils._records.folder import FolderStore

FULL = os.environ.get("VIRT_STORAGE_FULL") == "1"
TRIES = 5_000 if FULL else 100
PATIENCE = 2000
"""Milliseconds that one input may take."""
KEPT = Path(__file__).parent / "foreign"
MIB = 1 << 20
UUID = "8d0f3c1e-54c7-4c3e-8e56-7d8a7f0b2a11"
VOLUME = types.Volume("web1-root.qcow2", "qcow2", "")
DISK = types.Disk(
    types.disk_id("web1", "root", "abcdefghijkl"),
    "web1",
    "root",
    MIB,
    VOLUME,
    "2026-01-01T00:00:00Z",
    "host",
    backing=types.image_id("debian", "sha256:1", "abcdefghijkl"),
    origin={"moved": {"pool": "fast", "id": "x"}},
)
IMAGE = types.Image(
    types.image_id("debian", "sha256:1", "abcdefghijkl"), "sha256:1", "debian", "/d.raw", VOLUME, "2026", "host"
)
DISKS = (journal.DiskEntry("root", f"/i/{UUID}/disk", "1:2", "qcow2", MIB, pointer={"backing_file": "/b"}),)
ENTRY = {"schema": 1, **asdict(journal.Entry(UUID, journal.CONVERTING, "/i", "g", DISKS))}
ROW = dict.fromkeys(lvm._FIELDS.split(","), "")
ROW.update(lv_uuid="a-b", lv_name="n", lv_size="4194304", lv_layout="thin,sparse", lv_tags="vst.a,b", pool_lv="p")
ROW.update(lv_kernel_major="253", lv_kernel_minor="1", lv_attr="Vwi-a-tz--", lv_time="1", data_percent="1.5")
GROUP = dict.fromkeys(_FIELDS.split(","), "")
GROUP.update(vg_name="vg", vg_size="9", vg_free="8", vg_extent_size="1", vg_mda_free="7")
DF = {"pools": [{"name": "p", "stats": {"stored": 1, "max_avail": 9, "quota_bytes": 5}}]}
CHAIN = [Link(Location("file", "/pool/a.qcow2"), "qcow2"), Link(Location("file", "/pool/x.raw"), "raw")]
GUEST = f"""<domain type='kvm'><name>g</name><devices><disk type='file' device='disk'><driver name='qemu' type='qcow2'/>
<source file='/i/{UUID}/disk'/><backingStore type='file'><format type='raw'/><source file='/i/_base/x'/><backingStore/>
</backingStore><target dev='vda'/></disk><disk type='volume'><source pool='p' volume='v'/><target dev='vdb'/></disk>
</devices></domain>"""
POOLS = """\
<pool type='dir'><name>a</name><uuid>u</uuid><target><path>/a</path></target></pool>
<pool type='netfs'><name>a</name><source><host name='h'/><dir path='/e'/><format type='nfs'/></source></pool>
<pool type='rbd'><source><host name='h'/><name>v</name><auth username='l'><secret uuid='u'/></auth></source></pool>
<pool type='logical'><name>a</name><source><name>vg</name><format type='lvm2'/></source></pool>
""".splitlines()
SUMS = f"# sums\n{'a' * 64}  debian.qcow2\nSHA512 (./debian.qcow2) = {'b' * 128}\n\\{'c' * 64} *a\\nb\n"


# The readers


@contextmanager
def file_of(data: bytes) -> Iterator[int]:
    """An open file that holds ``data``."""
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        yield file.fileno()


def overlay() -> bytes:
    """A qcow2 file with a backing file and a cluster of its own."""
    with file_of(b"") as fd, file_of(bytes(MIB)) as image:
        qcow2.write_pieces(fd, qcow2.overlay_image(MIB, "/pool/base.raw", "raw"))
        own = qcow2_clusters.OverlaySink(fd, "It", image)
        own.write(0, b"x" * 65536)
        own.sync()
        return os.pread(fd, MIB, 0)


def read_qcow2(data: bytes) -> None:
    with file_of(data) as fd:
        pointer = read_pointer(fd)
        write_backing(fd, "/pool/another.raw")
        restore_pointer(fd, pointer)


def read_clusters(data: bytes) -> None:
    with file_of(data) as fd:
        for count, _cluster in enumerate(qcow2_clusters.clusters(fd, "It")):
            assert count <= len(data), "more clusters than the file can hold"


def read_compressed(kind: str) -> Callable[[bytes], None]:
    def read(data: bytes) -> None:
        stream = decompressed(io.BytesIO(data), kind, MIB, Runner())
        try:
            while stream.read(65536):
                pass
        finally:
            stream.close()

    return read


def read_instance(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root, UUID)
        folder.mkdir()
        (folder / "disk").write_bytes(b"x")
        (folder / "disk.info").write_bytes(data)
        (instance,) = read_layout(root).instances
        assert set(instance.info.values()) <= {"raw", "qcow2"}


def read_facts(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as root:
        Path(root, "facts", DISK.id).mkdir(parents=True)
        Path(root, "facts", DISK.id, "used").write_bytes(data)
        for facts in FolderStore(root).notes(DISK.id).values():
            assert isinstance(facts, dict)


def read_journal(data: bytes) -> None:
    with contextlib.suppress(ValueError, RecursionError):  # stores give what is a mapping, and pass over the rest
        facts = json.loads(data)
        if isinstance(facts, dict):
            journal._from_facts(f"instance+{UUID}", facts)


def read_schema(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as root:
        Path(root, "schema").write_bytes(data)
        FolderStore.open(root)


class Says(Runner):
    """Programs that say this."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.data = data

    def run(self, *_words: Any, **_more: Any) -> Any:
        return Completed(0, self.data.decode(errors="replace"), "")


def read_report(data: bytes) -> None:
    lvm.Lvm(Says(data)).volumes("vg")


def read_group(data: bytes) -> None:
    find_group(lvm.Lvm(Says(data)), "vg")


def thick(data: bytes) -> ThickVolumes:
    return ThickVolumes(Group("vg", 9, 8, 1, 7), Says(data))


def read_ranges(data: bytes) -> None:
    assert thick(data)._ranges("spare"), "any space of the group would do"


def monitors_say(data: bytes) -> RbdPool:
    """A pool of a cluster whose monitors reply this."""

    class Rados:
        def conf_get(self, _name: str) -> str:
            return "auto"

        def mon_command(self, _command: str, _data: bytes) -> tuple[int, bytes, str]:
            return 0, data, ""

    cluster = Cluster.__new__(Cluster)
    cluster._rados = Rados()
    return RbdPool(cluster, "p")


def read_guest(data: bytes) -> None:
    xml = data.decode()
    for element in guest_disks.disk_elements(xml, {"p": "/pool"}):
        guest_disks.is_spelt_out(element, CHAIN)
        guest_disks.exchanged(xml, {element.text: guest_disks.spelt_out(element.text, CHAIN)})


def as_json(value: object) -> bytes:
    return json.dumps(value).encode()


@dataclass(frozen=True)
class Reader:
    """Something that reads, what it does read, and how that is spoilt."""

    read: Callable[[bytes], object]
    good: tuple[bytes, ...]
    spoilt: Callable[[bytes], st.SearchStrategy[bytes]]


# How it is spoilt


def bytes_spoilt(good: bytes) -> st.SearchStrategy[bytes]:
    """Some places are written over, and perhaps a part is cut, doubled or put elsewhere."""
    near = st.one_of(st.integers(0, min(len(good), 1024)), st.integers(0, len(good)))
    patch = st.tuples(near, st.binary(min_size=1, max_size=9))
    moved = st.tuples(near, near, near)

    def spoil(patches: list[tuple[int, bytes]], move: tuple[int, int, int] | None) -> bytes:
        data = bytearray(good)
        for place, what in patches:
            data[place : place + len(what)] = what
        if move:
            start, end, onto = move
            data[onto:end] = data[start:end]
        return bytes(data)

    return st.builds(spoil, st.lists(patch, max_size=4), st.none() | moved)


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
VALUES = st.recursive(LEAVES, lambda each: st.lists(each, max_size=3) | st.dictionaries(st.text(max_size=9), each))


def json_spoilt(good: bytes) -> st.SearchStrategy[bytes]:
    """One value somewhere is another one, is gone, or has company; or the text itself is spoilt."""
    whole = json.loads(good)
    places = list(nodes(whole))

    @st.composite
    def spoil(draw: st.DrawFn) -> bytes:
        spoilt = copy.deepcopy(whole)
        for _time in range(draw(st.integers(1, 3))):
            *way, last = draw(st.sampled_from(places))
            around = spoilt
            try:
                for step in way:
                    around = around[step]
                if draw(st.booleans()) and isinstance(around, dict):
                    around.pop(last, None)
                    around[draw(st.text(max_size=9))] = draw(VALUES)
                else:
                    around[last] = draw(VALUES)
            except (KeyError, IndexError, TypeError):
                continue  # an earlier change took that place away
        return as_json(spoilt)

    return st.one_of(spoil(), VALUES.map(as_json), bytes_spoilt(good))


def nodes(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The ways to all values below one."""
    for key, below in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*way, key)
        yield from nodes(below, (*way, key))


def xml_spoilt(good: bytes) -> st.SearchStrategy[bytes]:
    """Well-formed, as libvirt always is: an element or an attribute is gone, comes twice or says something else."""

    @st.composite
    def spoil(draw: st.DrawFn) -> bytes:
        root = ElementTree.fromstring(good)
        for _time in range(draw(st.integers(1, 4))):
            parent = draw(st.sampled_from(list(root.iter())))
            what = draw(st.sampled_from(["drop", "double", "text", "attribute"]))
            if what in ("drop", "double") and len(parent):
                child = draw(st.sampled_from(list(parent)))
                parent.remove(child) if what == "drop" else parent.append(copy.deepcopy(child))
            elif what == "text":
                parent.text = draw(WORDS)
            elif parent.attrib:
                name = draw(st.sampled_from(sorted(parent.attrib)))
                parent.attrib.pop(name) if draw(st.booleans()) else parent.set(name, draw(WORDS))
        return ElementTree.tostring(root)

    return spoil()


WORDS = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=30) | st.sampled_from(
    ["", "/", "..", "../x", "file:///x", "json:{}", "0", "-1", "rbd:a/b"]
)

RECORDS = (types.to_json(DISK), types.to_json(IMAGE))
READERS = {
    "record": Reader(lambda data: types.from_json(data, DISK.id), RECORDS[:1], json_spoilt),
    "record of an image": Reader(lambda data: types.from_json(data, IMAGE.id), RECORDS[1:], json_spoilt),
    "layout of omaps": Reader(omap._shards, (b'{"schema": 1, "shards": 8}',), json_spoilt),
    "schema": Reader(read_schema, (b"1\n",), bytes_spoilt),
    "facts": Reader(read_facts, (b'{"when": 1.5}',), json_spoilt),
    "marks of moves": Reader(
        lambda data: marks(data.decode(errors="replace").split("\n")), (f"{DISK.id}@fast".encode(),), bytes_spoilt
    ),
    "journal": Reader(read_journal, (as_json(ENTRY),), json_spoilt),
    "disk.info": Reader(read_instance, (as_json({f"/i/{UUID}/disk": "qcow2"}),), json_spoilt),
    "sums": Reader(
        lambda data: checksums.from_sums(data.decode(errors="replace"), "debian.qcow2", "SHA256SUMS"),
        (SUMS.encode(),),
        bytes_spoilt,
    ),
    "lvm": Reader(read_report, (as_json({"report": [{"lv": [ROW, ROW]}]}),), json_spoilt),
    "group": Reader(read_group, (as_json({"report": [{"vg": [GROUP], "lv": [ROW]}]}),), json_spoilt),
    "room": Reader(
        lambda data: thick(data).capacity(),
        (as_json({"report": [{"vg": [{"vg_size": "9", "vg_free": "8"}]}]}),),
        json_spoilt,
    ),
    "ranges": Reader(
        read_ranges, (as_json({"report": [{"lv": [{"seg_pe_ranges": "/dev/a:0-1 /dev/b:0-1"}]}]}),), json_spoilt
    ),
    "df": Reader(lambda data: monitors_say(data).capacity(), (as_json(DF),), json_spoilt),
    "dump": Reader(
        lambda data: monitors_say(data).clone_format, (as_json({"require_min_compat_client": "mimic"}),), json_spoilt
    ),
    "qcow2 header": Reader(read_qcow2, (overlay(),), bytes_spoilt),
    "qcow2 tables": Reader(read_clusters, (overlay(),), bytes_spoilt),
    "gzip": Reader(read_compressed("gz"), (gzip.compress(bytes(range(256)) * 64, mtime=0),), bytes_spoilt),
    "xz": Reader(read_compressed("xz"), (lzma.compress(bytes(range(256)) * 64),), bytes_spoilt),
    "guest": Reader(read_guest, (GUEST.encode(),), xml_spoilt),
    "pool": Reader(lambda data: pool_xml.read(data.decode()), tuple(each.encode() for each in POOLS), xml_spoilt),
}


def is_told(read: Callable[[bytes], object], data: bytes) -> None:
    """It is read, or refused in one sentence."""
    said = ""
    try:
        read(data)
    except StorageError as error:
        said = error.message
    assert not said or said.isprintable()
    assert len(said) < 1500


@pytest.mark.parametrize("name", READERS)
def test_what_is_well_is_read(name: str) -> None:
    for good in READERS[name].good:
        READERS[name].read(good)


@pytest.mark.parametrize("name", [name for name, reader in READERS.items() if reader.good])
def test_what_is_spoilt_is_told(name: str) -> None:
    reader = READERS[name]

    @settings(
        max_examples=TRIES,
        deadline=PATIENCE,
        derandomize=not FULL,
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(st.sampled_from(reader.good).flatmap(reader.spoilt))
    def spoilt(data: bytes) -> None:
        is_told(reader.read, data)

    spoilt()


@pytest.mark.parametrize("kept", sorted(KEPT.iterdir()), ids=lambda path: path.name)
def test_what_once_broke_a_reader_is_told(kept: Path) -> None:
    is_told(READERS[kept.name.partition("-")[0]].read, kept.read_bytes())
