# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Images brought into pools of the real libvirtd, taken out, pruned and verified, by the modules as programs."""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import json
import lzma
import os
import random
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from ansible_collections.virt.storage.plugins.module_utils._algorithms.disks import DiskWish, make
from ansible_collections.virt.storage.plugins.module_utils._ground.errors import NotFound, StorageError
from ansible_collections.virt.storage.plugins.module_utils._records.folder import FolderStore
from ansible_collections.virt.storage.plugins.module_utils._records.types import (
    ENDED,
    SUFFIX_LENGTH,
    Image,
    State,
    Volume,
    image_id,
    taken_apart,
)
from ansible_collections.virt.storage.plugins.module_utils._tasks.cached_image import task as cached_image_task
from ansible_collections.virt.storage.plugins.module_utils._tasks.session import Session
from ansible_collections.virt.storage.plugins.modules.cached_image import ARGUMENTS
from ansible_collections.virt.storage.tests.unit.ground import hostile
from ansible_collections.virt.storage.tests.unit.ground.webserver import Flaky, WebServer

from .conftest import Place

MIB = 1 << 20
DISK = random.Random(1).randbytes(MIB) + bytes(MIB) + random.Random(2).randbytes(MIB)
SECRETS = ("s3cret-of-url", "s3cret-of-option", "s3cret-of-header", "s3cret-of-signature", "s3cret-of-cookie")


@pytest.fixture
def web():
    with WebServer() as server:
        yield server


@pytest.fixture
def disk(tmp_path):
    """A raw source."""
    path = tmp_path / "disk.raw"
    path.write_bytes(DISK)
    return path


@pytest.fixture(scope="module")
def untouched(libvirtd, task):
    """An active pool for tests in which nothing may come into it; empty to the end."""
    place = Place(libvirtd)
    made = task("libvirt_pool", type="dir", **place.pool())["pool"]
    yield made
    assert os.listdir(made["path"]) == []
    place.remove()


@pytest.fixture
def cached(task, pool):
    """``cached(name, source, **options)`` brings a raw image into the pool and gives what the module returns of it."""

    def bring(name, source, **options):
        images = [{"name": name, "source": str(source), "format": "raw", **options}]
        return task("cached_image", pools=[pool["name"]], images=images)["images"][0]

    return bring


def image(name, source, format="raw", **options):
    """An entry of ``images``."""
    return {"name": name, "source": str(source), "format": format, **options}


def served(body):
    """An answer that is always the same."""
    return lambda handler: handler.reply(200, body, ETag=f'"{hashlib.sha256(body).hexdigest()}"')


def sha256(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def converted(source, format, path):
    subprocess.run(["qemu-img", "convert", "-q", "-f", "raw", "-O", format, source, path], check=True)
    return path


def records(pool):
    """The states of the pool's image records, by id."""
    try:
        return dict(FolderStore.open(os.path.join(pool["path"], ".virt-storage")).states().states)
    except NotFound:
        return {}


def live_records(pool):
    return {record_id for record_id, state in records(pool).items() if state not in ENDED}


def volumes(pool):
    """The files of images that lie in the pool."""
    return sorted(os.listdir(os.path.join(pool["path"], ".virt-storage", "images")))


def data(shown):
    """What a guest would read from an image."""
    return Path(shown["path"]).read_bytes()


def stand_on(pool, key, instance="web1"):
    """A disk of an instance, cloned from the image of this key."""
    session = Session()
    opened = session.open(pool["name"])
    (ended,) = session.work(opened, [make(opened, DiskWish(instance, "root", image_key=key))])
    return ended.unwrap().disk


def remove(pool, disk):
    """The disk goes, as if ``instance_disk`` had removed it."""
    store = FolderStore.open(os.path.join(pool["path"], ".virt-storage"))
    os.unlink(os.path.join(pool["path"], disk.volume.name))
    store.swap(disk.id, State.READY, State.DELETING)
    store.unrefer(disk.backing, disk.id)
    store.swap(disk.id, State.DELETING, State.GONE)


def unseal(path):
    subprocess.run(["chattr", "-i", path], check=True)
    os.chmod(path, 0o600)


def seal(path):
    os.chmod(path, 0o444)
    subprocess.run(["chattr", "+i", path], check=True)


def fails(task, module="cached_image", **params):
    """The result of a task that has to fail with one sentence."""
    with pytest.raises(AssertionError) as failed:
        task(module, **params)
    told = failed.value.result
    assert "\n" not in told["msg"]
    assert "Traceback" not in json.dumps(told)
    return told


# present: every kind of source


def test_every_format_and_compression_gives_the_disk_that_is_in_it(four, pool, disk, tmp_path):
    packed = {
        "gz": gzip.compress(DISK, 1),
        "xz": lzma.compress(DISK, preset=0),
        "zst": subprocess.run(["zstd", "-q", "-c"], input=DISK, stdout=subprocess.PIPE, check=True).stdout,
    }
    images = [image("raw", disk)]
    for suffix, content in packed.items():
        (tmp_path / f"disk.raw.{suffix}").write_bytes(content)
        images.append(image(f"raw-{suffix}", tmp_path / f"disk.raw.{suffix}"))
    for format in ("qcow2", "vmdk", "vdi", "vpc", "vhdx"):
        images.append(image(format, converted(disk, format, tmp_path / f"disk.{format}"), format))
    qcow2 = (tmp_path / "disk.qcow2").read_bytes()
    for suffix, content in {"gz": gzip.compress(qcow2, 1), "xz": lzma.compress(qcow2, preset=0)}.items():
        # Named so that the compression has to be said.
        (tmp_path / f"{suffix}.bin").write_bytes(content)
        images.append(image(f"qcow2-{suffix}", tmp_path / f"{suffix}.bin", "qcow2", compression=suffix))
    subprocess.run(["zstd", "-q", tmp_path / "disk.qcow2"], check=True)
    images.append(image("qcow2-zst", tmp_path / "disk.qcow2.zst", "qcow2"))
    (tmp_path / "cd.iso").write_bytes(hostile.iso())
    images.append(image("cd", tmp_path / "cd.iso", "iso"))

    results = four("cached_image", pools=[pool["name"]], images=images)

    assert len(results.run["actions"]) == len(images)
    assert results.run["actions"][0] == f"bring image raw into pool {pool['name']} (raw from {disk}, 3.0 MiB)"
    shown = {each["name"]: each for each in results.run["images"]}
    assert list(shown) == [entry["name"] for entry in images]
    assert data(shown.pop("cd")) == hostile.iso()
    vpc = shown.pop("vpc")  # rounded up to whole cylinders
    assert data(vpc).rstrip(b"\0") == DISK
    assert {each["content"] for each in shown.values()} == {shown["raw"]["content"]}
    for each in shown.values():
        assert data(each) == DISK
        assert (each["size"], each["format"], each["state"]) == (len(DISK), "raw", "ready")
        assert each["allocated"] < len(DISK), "the hole was written"
        assert each["source_digests"]["sha256"] == hashlib.sha256(Path(each["source"]).read_bytes()).hexdigest()
        assert subprocess.run(["lsattr", each["path"]], stdout=subprocess.PIPE, text=True, check=True).stdout[4] == "i"
    assert results.run["images"] == results.run_again["images"] == results.check_again["images"]
    foreseen = results.check["images"][0]
    made = results.run["images"][0]
    assert set(foreseen) == set(made)
    known = {field: value for field, value in foreseen.items() if value not in (None, {})}
    assert known == {field: made[field] for field in known}
    assert results.run["diff"]["before"] == {}
    assert results.run["diff"]["after"][f"image raw in pool {pool['name']}"] == {
        "key": f"source:{disk}+raw",
        "state": "ready",
    }


def test_a_source_without_checksum_is_read_once_and_never_again(four, task, pool, web):
    web.answers["/disk.raw"] = served(DISK)
    wanted = {"pools": [pool["name"]], "images": [image("web", web.url("/disk.raw"))]}
    four("cached_image", **wanted)
    web.answers["/disk.raw"] = served(DISK[::-1])
    assert task("cached_image", **wanted)["changed"] is False
    assert len(web.requests) == 1


def test_checksums_redirects_and_a_file_of_checksums(four, pool, web, tmp_path):
    packed = gzip.compress(DISK, 1)
    web.answers["/disk.raw"] = served(DISK)
    web.answers["/disk.raw.gz"] = served(packed)
    web.answers["/moved"] = lambda handler: handler.reply(302, b"", Location="/again")
    web.answers["/again"] = lambda handler: handler.reply(301, b"", Location=web.url("/disk.raw"))
    digests = f"{hashlib.sha512(DISK).hexdigest()}  moved\n{hashlib.sha256(packed).hexdigest()} *disk.raw.gz\n"
    web.answers["/SUMS"] = served(digests.encode())
    sums = tmp_path / "SUMS"
    sums.write_text(digests)
    images = [
        image("direct", web.url("/disk.raw"), checksum=sha256(DISK)),
        image("moved", web.url("/moved"), checksum=web.url("/SUMS")),
        image("packed", web.url("/disk.raw.gz"), checksum=str(sums)),
    ]
    results = four("cached_image", pools=[pool["name"]], images=images)
    asked = [path for path, _headers in web.requests]
    # Check mode reads the checksums, and only the run reads the images, each once.
    assert asked.count("/SUMS") == 4
    assert sorted(set(asked)) == ["/SUMS", "/again", "/disk.raw", "/disk.raw.gz", "/moved"]
    assert (asked.count("/disk.raw"), asked.count("/disk.raw.gz"), asked.count("/moved")) == (2, 1, 1)
    shown = {each["name"]: each for each in results.run["images"]}
    assert shown["direct"]["key"] == f"{sha256(DISK)}+raw"
    assert shown["moved"]["key"] == f"sha512:{hashlib.sha512(DISK).hexdigest()}+raw"
    assert shown["packed"]["source_digests"] == {"sha256": hashlib.sha256(packed).hexdigest()}
    assert all(data(each) == DISK for each in shown.values())


def test_a_broken_connection_is_continued(task, pool, web):
    web.answers["/ranges"] = Flaky(DISK, 2 * MIB)
    web.answers["/whole"] = Flaky(DISK[:MIB], MIB // 2, ranges=False)
    flaky = web.answers["/whole"]
    web.answers["/whole"] = lambda handler: (flaky(handler), setattr(flaky, "piece", MIB))
    images = [image("ranges", web.url("/ranges")), image("whole", web.url("/whole"))]
    shown = task("cached_image", pools=[pool["name"]], images=images)["images"]
    assert data(shown[0]) == DISK
    assert data(shown[1]) == DISK[:MIB]
    ranges = [headers.get("Range") for path, headers in web.requests if path == "/ranges"]
    assert ranges == [None, f"bytes={2 * MIB}-"]


@pytest.fixture
def secure(tmp_path):
    """A server with a certificate of an authority that only this test knows; ``.authority`` is the file."""
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    names = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *names, "-keyout", key, "-out", cert]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    answers = {"/disk.raw": served(DISK), "/other.raw": served(DISK[::-1])}
    with WebServer(answers, context=context) as server:
        server.authority = str(cert)
        yield server


def test_tls_is_verified_against_the_authority_that_is_named(four, task, pool, secure):
    entry = image("tls", secure.url("/disk.raw"))
    told = fails(task, pools=[pool["name"]], images=[entry])
    assert "cannot be trusted" in told["msg"]
    assert not live_records(pool)
    four("cached_image", pools=[pool["name"]], images=[{**entry, "ca_path": secure.authority}])
    unverified = image("any", secure.url("/other.raw"), validate_certs=False)
    four("cached_image", pools=[pool["name"]], images=[unverified])
    nobody = image("nobody", secure.url("/third.raw"), ca_path="/nonexistent.pem")
    assert "/nonexistent.pem" in fails(task, pools=[pool["name"]], images=[nobody])["msg"]


# Secrets


@pytest.fixture
def journal(tmp_path):
    """What programs that are started with ``journal.python`` say to syslog, in ``journal.lines``."""
    made = not os.path.lexists("/dev/log")
    if made:
        Path("/dev/log").touch()
    place = tmp_path / "log.sock"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(str(place))
    listener.settimeout(0.2)
    python = tmp_path / "python-with-syslog"
    # Its own mount namespace, in which what syslog writes to is this test's socket.
    inner = f'mount --bind {place} "$(readlink -f /dev/log)" && exec {sys.executable} "$@"'
    python.write_text(f"#!/bin/sh\nexec unshare --mount sh -c '{inner}' sh \"$@\"\n")
    python.chmod(0o755)

    class Journal:
        def __init__(self):
            self.python = str(python)

        @property
        def lines(self):
            found = []
            with contextlib.suppress(TimeoutError):
                while True:
                    found.append(listener.recv(1 << 20).decode())
            return found

    yield Journal()
    listener.close()
    if made:
        os.unlink("/dev/log")


def command_lines():
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            yield Path(f"/proc/{pid}/cmdline").read_bytes()


def test_credentials_reach_the_server_and_nothing_else(four, task, pool, web, journal):
    seen = []

    def guarded(handler):
        seen.extend(command_lines())
        seen.extend(command for command in command_lines())
        if not handler.headers.get("Authorization"):
            handler.reply(401, b"", WWW_Authenticate='Basic realm="images"')
        else:
            handler.reply(200, DISK, ETag='"1"')

    elsewhere = WebServer({"/disk": served(DISK)})
    with elsewhere:
        web.answers["/guarded"] = web.answers["/option"] = guarded
        web.answers["/header"] = lambda handler: handler.reply(302, b"", Location=elsewhere.url("/disk"))
        web.answers["/signed"] = served(DISK)
        web.answers["/SUMS"] = served(f"{hashlib.sha256(DISK).hexdigest()}  option\n".encode())
        images = [
            image("url", web.url("/guarded", userinfo="ci:s3cret-of-url@")),
            image("option", web.url("/option"), username="ci", password="s3cret-of-option", checksum=web.url("/SUMS")),
            image(
                "header", web.url("/header"), headers={"X-Auth": "s3cret-of-header", "Cookie": "id=s3cret-of-cookie"}
            ),
            image("signed", web.url("/signed?signature=s3cret-of-signature"), refresh=True),
        ]
        logging = type(task)(python=journal.python)
        results = logging.four("cached_image", pools=[pool["name"]], images=images)
        shown = json.dumps(task("cached_image_info", pools=[pool["name"]]))
        bad = [{**images[0], "name": "bad", "format": "qcow2"}, {**images[3], "name": "worse", "format": "iso"}]
        told = fails(logging, pools=[pool["name"]], images=bad)
        misshapen = fails(logging, pools=[pool["name"]], images=[{**images[0], "format": "guess"}])
    # They did reach the server that they are for, and not the one that it redirects to.
    sent = {path: headers for path, headers in web.requests if path != "/SUMS"}
    assert base64.b64decode(sent["/guarded"]["Authorization"].split()[1]) == b"ci:s3cret-of-url"
    assert base64.b64decode(sent["/option"]["Authorization"].split()[1]) == b"ci:s3cret-of-option"
    assert sent["/header"]["X-Auth"] == "s3cret-of-header"
    assert "/signed?signature=s3cret-of-signature" in sent
    assert elsewhere.requests
    assert not any("s3cret" in str(headers.items()) for _path, headers in elsewhere.requests)
    # And are in no result, diff, log, command line, record or fact.
    lines = journal.lines
    assert any("Invoked with" in line and "/guarded" in line for line in lines)
    kept = [path.read_bytes() for path in Path(pool["path"], ".virt-storage").rglob("*") if path.is_file()]
    places = {
        "results": json.dumps([*results, told, misshapen]).encode(),
        "info": shown.encode(),
        "syslog": "".join(lines).encode(),
        "command lines": b"".join(seen),
        "files": b"".join(content for content in kept if content != DISK),
    }
    assert len(places["command lines"]) > 1000
    for place, content in places.items():
        for secret in SECRETS:
            assert secret.encode() not in content, f"{secret} in {place}"


# present: pools, names, pins, refresh


def test_one_read_serves_every_pool(four, task, place, pool, web):
    other, third = (task("libvirt_pool", type="dir", **place.pool())["pool"] for _unused in range(2))
    web.answers["/disk.raw"] = served(DISK)
    images = [image("web", web.url("/disk.raw"))]
    results = four("cached_image", pools=[pool["name"], other["name"], pool["name"]], images=images)
    assert results.run["actions"] == [
        f"bring image web into pool {pool['name']} (raw from {web.url('/disk.raw')})",
        f"bring image web into pool {other['name']} by what is read for pool {pool['name']}",
    ]
    assert [step["strategy"] for step in results.run["plan"]] == ["source", "shared"]
    assert len(web.requests) == 1
    first, second = results.run["images"]
    assert (first["pool"], second["pool"]) == (pool["name"], other["name"])
    assert data(first) == data(second) == DISK
    for field in ("content", "source", "source_digests", "key", "size"):
        assert first[field] == second[field]
    assert os.stat(second["path"]).st_blocks <= os.stat(first["path"]).st_blocks
    # A pool that comes later copies from whichever has it, also where it is named first.
    results = four("cached_image", pools=[third["name"], other["name"]], images=images)
    assert results.run["actions"] == [f"copy image web from pool {other['name']} into pool {third['name']}"]
    assert len(web.requests) == 1


def test_a_pool_that_is_full_does_not_spoil_the_others(task, four, place, pool, small, web):
    other = task("libvirt_pool", type="dir", **place.pool())["pool"]
    body = random.Random(4).randbytes(64 * MIB)
    web.answers["/disk.raw"] = served(body)
    wanted = {"images": [image("web", web.url("/disk.raw"))]}
    told = fails(task, pools=[pool["name"], small["name"], other["name"]], **wanted)
    assert f"The pool folder {small['path']} is full" in told["msg"]
    assert told["done"] == [
        f"bring image web into pool {pool['name']} (raw from {web.url('/disk.raw')})",
        f"bring image web into pool {other['name']} by what is read for pool {pool['name']}",
    ]
    assert len(web.requests) == 1
    assert volumes(small) == []
    for each in four("cached_image", pools=[pool["name"], other["name"]], **wanted).run["images"]:
        assert data(each) == body
    assert len(web.requests) == 1


def test_a_damaged_image_is_not_copied_to_another_pool(task, place, pool, cached, disk):
    other = task("libvirt_pool", type="dir", **place.pool())["pool"]
    path = cached("a", disk)["path"]
    unseal(path)
    with open(path, "r+b") as file:
        file.write(b"damaged")
    seal(path)
    told = fails(task, pools=[pool["name"], other["name"]], images=[image("a", disk)])
    assert "does not hold what was written" in told["msg"]
    assert told["check"] == "content"
    assert volumes(other) == []
    assert not live_records(other)


def test_pins_come_and_go_and_stay_with_the_name(four, task, pool, disk):
    wanted = {"pools": [pool["name"]]}
    results = four("cached_image", **wanted, images=[image("a", disk, pinned=True)])
    assert results.run["images"][0]["pinned"] is True
    assert task("cached_image", **wanted, images=[image("a", disk)])["images"][0]["pinned"] is True
    results = four("cached_image", **wanted, images=[image("a", disk, pinned=False)])
    assert results.run["actions"] == [f"unpin image a in pool {pool['name']}"]
    what = f"image a in pool {pool['name']}"
    assert results.run["diff"]["before"] == {what: {"pinned": True}}
    assert results.run["diff"]["after"] == {what: {"pinned": False}}
    assert results.run["images"][0]["pinned"] is False
    four("cached_image", **wanted, images=[image("a", disk, pinned=True)])
    disk.write_bytes(DISK[::-1])
    four("cached_image", **wanted, images=[image("a", disk, refresh=True)])
    old, new = sorted(task("cached_image_info", **wanted)["images"], key=lambda each: each["created"])
    assert (old["names"], old["pinned"]) == ([], False)
    assert (new["names"], new["pinned"]) == (["a"], True)


def test_refresh_moves_the_name_and_leaves_the_disks_of_the_old_image_alone(four, task, pool, web):
    web.answers["/disk.raw"] = served(DISK)
    wanted = {"pools": [pool["name"]], "images": [image("web", web.url("/disk.raw"))]}
    refreshed = {"pools": [pool["name"]], "images": [image("web", web.url("/disk.raw"), refresh=True)]}
    old = task("cached_image", **wanted)["images"][0]
    disk = stand_on(pool, old["key"])
    unchanged = task("cached_image", **refreshed)
    assert (unchanged["changed"], unchanged["images"][0]["id"]) == (False, old["id"])

    web.answers["/disk.raw"] = served(DISK[::-1])
    results = four("cached_image", **refreshed)
    new = results.run["images"][0]
    what = f"image web in pool {pool['name']}"
    assert results.run["diff"]["before"] == {what: {"key": old["key"]}}
    assert results.run["diff"]["after"] == {what: {"key": f"{sha256(DISK[::-1])}+raw"}}
    assert data(new) == DISK[::-1]
    # Without refresh the name goes on to stand for what was read last, and not for what has the source's own key.
    requests = len(web.requests)
    again = task("cached_image", **wanted)
    assert (again["changed"], again["images"][0]["id"]) == (False, new["id"])
    assert len(web.requests) == requests
    assert disk.backing == old["id"]
    assert data(old) == DISK
    shown = {each["id"]: each for each in task("cached_image_info", pools=[pool["name"]])["images"]}
    assert (shown[old["id"]]["names"], shown[old["id"]]["references"]) == ([], 1)
    # The name means both: the old one stays as long as the disk does.
    results = four("cached_image", state="absent", pools=[pool["name"]], images=[{"name": "web"}])
    assert [each["id"] for each in results.run["images"]] == [old["id"]]
    assert [each["state"] for each in results.check["images"]] == ["retired"]
    assert live_records(pool) == {old["id"], disk.id}


def test_a_checksum_that_is_added_or_left_out_does_not_read_the_source_again(four, task, pool, web):
    web.answers["/disk.raw"] = served(DISK)
    url = web.url("/disk.raw")
    first = task("cached_image", pools=[pool["name"]], images=[image("a", url)])["images"][0]
    for options in ({"checksum": sha256(DISK)}, {}):
        again = task("cached_image", pools=[pool["name"]], images=[image("a", url, **options)])
        assert (again["changed"], again["images"][0]["id"]) == (False, first["id"])
    assert len(web.requests) == 1
    four("cached_image", pools=[pool["name"]], images=[image("b", url, checksum=sha256(DISK))])
    assert task("cached_image", pools=[pool["name"]], images=[image("b", url)])["changed"] is False
    assert len(web.requests) == 2


def test_two_names_for_one_image_keep_it_until_both_are_gone(four, task, pool, disk):
    def entry(name):
        return image(name, disk, checksum=sha256(DISK))

    first = task("cached_image", pools=[pool["name"]], images=[entry("a")])["images"][0]
    results = four("cached_image", pools=[pool["name"]], images=[entry("b")])
    assert results.run["actions"] == [f"let the name b in pool {pool['name']} stand for {first['id']}"]
    assert results.run["images"][0]["names"] == ["a", "b"]
    results = four("cached_image", state="absent", pools=[pool["name"]], images=[{"name": "a"}])
    assert results.run["actions"] == [f"take the name a from {first['id']} in pool {pool['name']}, which stays as b"]
    assert results.run["images"] == results.check["images"]
    assert [(each["id"], each["names"]) for each in results.run["images"]] == [(first["id"], ["b"])]
    assert live_records(pool) == {first["id"]}
    four("cached_image", state="absent", pools=[pool["name"]], images=[{"name": "b"}])
    assert not live_records(pool)


def test_two_names_for_one_source_in_one_task_read_it_once(four, pool, web):
    web.answers["/disk.raw"] = served(DISK)
    images = [image("a", web.url("/disk.raw")), image("b", web.url("/disk.raw"))]
    results = four("cached_image", pools=[pool["name"]], images=images)
    assert results.run["actions"][1:] == [f"let the name b in pool {pool['name']} stand for what a brings in"]
    assert len(web.requests) == 1
    assert len(live_records(pool)) == 1
    for result in results:
        assert [each["names"] for each in result["images"]] == [["a", "b"]] * 2


def test_two_processes_at_once_read_the_source_once(task, pool, web):
    begun, go = threading.Event(), threading.Event()

    def slow(handler):
        handler.start(200, len(DISK), ETag='"1"')
        handler.wfile.write(DISK[:MIB])
        begun.set()
        go.wait(20)
        handler.wfile.write(DISK[MIB:])

    web.answers["/disk.raw"] = slow
    wanted = {"pools": [pool["name"]], "images": [image("web", web.url("/disk.raw"))]}
    both = [task.start("cached_image", **wanted)]
    assert begun.wait(20)
    both.append(task.start("cached_image", **wanted))
    time.sleep(1.5)  # the second is at the lock by now
    assert both[1].poll() is None
    go.set()
    results = [task.read("cached_image", *process.communicate(timeout=60)) for process in both]
    assert len(web.requests) == 1
    assert results[0]["images"] == results[1]["images"]
    assert len(live_records(pool)) == 1
    assert data(results[0]["images"][0]) == DISK


# absent


def test_absent_removes_what_nothing_stands_on(four, task, pool, cached, disk):
    shown = cached("a", disk)
    results = four("cached_image", state="absent", pools=[pool["name"]], images=[{"name": "a"}])
    (action,) = results.run["actions"]
    assert action.startswith(f"remove {shown['id']} in pool {pool['name']}, which frees 2.0 MiB")
    assert results.run["diff"]["before"] == {f"{shown['id']} in pool {pool['name']}": {"state": "ready"}}
    assert results.run["diff"]["after"] == {}
    assert volumes(pool) == []
    assert records(pool) == {shown["id"]: State.GONE}
    four("cached_image", state="absent", pools=[pool["name"]], images=[{"name": cached("a", disk)["id"]}])
    four("cached_image", state="absent", pools=[pool["name"]], images=[{"name": cached("a", disk)["key"]}])
    assert volumes(pool) == []
    nothing = {"state": "absent", "pools": [pool["name"]], "images": [{"name": "never-was"}]}
    assert task("cached_image", **nothing)["changed"] is False


def test_absent_retires_what_a_disk_stands_on_and_its_data_stays(four, task, pool, cached, disk):
    shown = cached("a", disk)
    standing = stand_on(pool, shown["key"])
    wanted = {"state": "absent", "pools": [pool["name"]], "images": [{"name": "a"}]}
    results = four("cached_image", **wanted)
    assert results.run["actions"] == [
        f"retire {shown['id']} in pool {pool['name']}: 1 disk stands on it, so its data stays"
    ]
    assert results.check["images"] == results.run["images"] == results.run_again["images"]
    assert (results.run["images"][0]["state"], results.run["images"][0]["references"]) == ("retired", 1)
    assert data(shown) == DISK
    # Wanted again, it is filled anew: what is retired stays so.
    again = cached("a", disk)
    assert again["id"] != shown["id"]
    remove(pool, standing)
    four("cached_image", **wanted)
    assert volumes(pool) == []


def test_an_image_in_use_is_not_removed_and_absent_finishes_later(task, four, pool, cached, disk):
    shown = cached("a", disk)
    wanted = {"state": "absent", "pools": [pool["name"]], "images": [{"name": "a"}]}
    with open(shown["path"], "rb"):
        told = fails(task, **wanted)
        assert "cannot be removed" in told["msg"]
        assert data(shown) == DISK
    results = four("cached_image", **wanted)
    assert len(results.run["actions"]) == 1
    assert volumes(pool) == []


# pruned


def prune(pool, **options):
    return {"state": "pruned", "pools": [pool["name"]], **options}


def test_pruned_gives_up_the_least_recently_used_and_check_mode_says_which(four, task, pool, cached, tmp_path):
    shown = {}
    for number, name in enumerate(("pinned", "used", "kept", "old", "new")):
        source = tmp_path / name
        source.write_bytes(random.Random(number).randbytes(MIB))
        shown[name] = cached(name, source, pinned=name == "pinned")
    stand_on(pool, shown["used"]["key"])
    results = four("cached_image", **prune(pool, keep=["kept", "elsewhere"], cache={"max_count": 4}))
    assert results.check["pruned"] == results.run["pruned"]
    told = results.run["pruned"][pool["name"]]
    assert [(each["names"], each["reason"]) for each in told["removed"]] == [
        (["old"], "least recently used of 5 images, and 4 are allowed")
    ]
    assert {each["names"][0]: each["why"] for each in told["kept"]} == {
        "pinned": "it is pinned",
        "used": "1 disk on it",
        "kept": "it is wanted",
        "new": "the cache is within its limits",
    }
    assert told["unmet"] == told["left"] == told["cleared"] == []
    assert (told["frees"], told["cached"]) == (MIB, 4 * MIB)
    # The pool's own limits, and the task's over them.
    task("libvirt_pool", name=pool["name"], cache={"max_bytes": "3M", "max_count": 2})
    assert task("cached_image", **prune(pool, cache={"max_bytes": "0", "max_count": 0}))["changed"] is False
    results = four("cached_image", **prune(pool, cache={"max_count": 0}))
    gone = [each["names"][0] for each in results.run["pruned"][pool["name"]]["removed"]]
    assert gone == ["kept"]
    results = four("cached_image", **prune(pool))
    assert [each["names"][0] for each in results.run["pruned"][pool["name"]]["removed"]] == ["new"]
    # What has to stay is more than is allowed: it is said, and it stays.
    result = task("cached_image", **prune(pool, cache={"max_count": 1}))
    assert result["changed"] is False
    assert result["pruned"][pool["name"]]["unmet"] == ["2 images cannot go, and 1 are allowed"]
    assert any("over its limits" in str(warning) for warning in result["warnings"])
    result = task("cached_image", **prune(pool, cache={"max_age": 1, "max_count": 0, "max_bytes": "0"}))
    assert result["changed"] is False
    assert len(volumes(pool)) == 2


def test_pruned_by_age_and_of_images_that_a_name_has_left(four, task, pool, cached, disk):
    old = cached("a", disk)
    disk.write_bytes(DISK[::-1])
    new = cached("a", disk, refresh=True)
    results = four("cached_image", **prune(pool, keep=["a"], cache={"max_count": 1, "max_age": 1000}))
    assert [each["id"] for each in results.run["pruned"][pool["name"]]["removed"]] == [old["id"]]
    time.sleep(1.1)
    results = four("cached_image", **prune(pool, cache={"max_age": 1}))
    assert [each["id"] for each in results.run["pruned"][pool["name"]]["removed"]] == [new["id"]]


@pytest.fixture
def small(place, task):
    """A pool on a file system of its own, 40 MiB of ext4 on a loop device; gives the pool."""
    params = place.pool()
    disk, folder = place.root / "small.img", params["path"]
    with open(disk, "wb") as file:
        file.truncate(40 * MIB)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", disk], check=True)
    os.mkdir(folder, 0o711)
    subprocess.run(["mount", "-o", "loop", disk, folder], check=True)
    try:
        yield task("libvirt_pool", type="dir", **params)["pool"]
        task("libvirt_pool", name=params["name"], state="absent")
    finally:
        subprocess.run(["umount", folder], check=True)


def fill_up(folder):
    """Leave not one block of a file system free."""
    with contextlib.suppress(OSError), open(os.path.join(folder, "ballast"), "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    assert os.statvfs(folder).f_bavail == 0


def test_pruned_works_on_a_full_file_system(four, task, small, tmp_path):
    images = []
    for number in range(3):
        source = tmp_path / f"{number}"
        source.write_bytes(random.Random(number).randbytes(4 * MIB))
        images.append(image(f"image-{number}", source))
        task("cached_image", pools=[small["name"]], images=images[-1:])
    fill_up(small["path"])
    results = four("cached_image", **prune(small, cache={"min_free": "6M"}))
    told = results.run["pruned"][small["name"]]
    assert len(told["removed"]) == 2
    assert len(volumes(small)) == 1
    assert os.statvfs(small["path"]).f_bavail * 4096 >= 6 * MIB
    fill_up(small["path"])
    results = four("cached_image", state="absent", pools=[small["name"]], images=[{"name": "image-2"}])
    assert volumes(small) == []


def test_pruned_gives_up_no_image_for_room_that_dead_work_takes(four, task, small, tmp_path):
    source = tmp_path / "source"
    source.write_bytes(random.Random(1).randbytes(4 * MIB))
    task("cached_image", pools=[small["name"]], images=[image("a", source)])
    store = FolderStore.open(os.path.join(small["path"], ".virt-storage"))
    name = image_id("dead", "source:/dead+raw", "a" * SUFFIX_LENGTH)
    volume = Volume(f".virt-storage/images/{name}.raw", "raw")
    dead = Image(name, "source:/dead+raw", "dead", "/dead", volume, "2026-01-01T00:00:00.000000Z", "owner+dead")
    store.create(dead, State.FILLING)
    Path(small["path"], volume.name).write_bytes(random.Random(2).randbytes(8 * MIB))
    os.sync()
    free = os.statvfs(small["path"]).f_bavail * os.statvfs(small["path"]).f_frsize
    room = {"min_free": str(free + 6 * MIB)}
    told = task("cached_image", check=True, **prune(small, cache=room))["pruned"][small["name"]]
    assert (told["cleared"], told["removed"]) == ([f"take back {name}, whose maker died"], [])
    # What is cleared and what is given up are told apart, also when both are done.
    results = four("cached_image", **prune(small, cache={"min_free": str(free + 10 * MIB)}))
    assert results.check["pruned"] == results.run["pruned"]
    told = results.run["pruned"][small["name"]]
    assert told["cleared"] == [f"take back {name}, whose maker died"]
    assert [each["names"] for each in told["removed"]] == [["a"]]
    assert volumes(small) == []


def test_a_full_pool_refuses_an_image_and_keeps_nothing_of_it(task, small, tmp_path):
    source = tmp_path / "large.raw"
    source.write_bytes(random.Random(1).randbytes(48 * MIB))
    converted(source, "qcow2", tmp_path / "large.qcow2")
    free = os.statvfs(small["path"]).f_bavail
    for entry in (image("raw", source), image("qcow2", tmp_path / "large.qcow2", "qcow2")):
        told = fails(task, pools=[small["name"]], images=[entry])
        assert told["msg"].startswith("There is no room for the image"), told["msg"]
    assert volumes(small) == []
    assert not live_records(small)
    assert os.statvfs(small["path"]).f_bavail >= free - 64


def test_a_read_only_file_system_is_one_clear_sentence(task, small, disk):
    task("cached_image", pools=[small["name"]], images=[image("a", disk)])
    subprocess.run(["mount", "-o", "remount,ro", small["path"]], check=True)
    try:
        for wanted in (
            {"images": [image("b", disk, checksum=sha256(DISK), format="iso")]},
            {"state": "absent", "images": [{"name": "a"}]},
            {"state": "pruned", "cache": {"max_age": 0, "max_bytes": "1K"}},
        ):
            told = fails(task, pools=[small["name"]], **wanted)
            assert "read-only" in told["msg"], told["msg"]
        assert task("cached_image_info", pools=[small["name"]])["images"][0]["state"] == "ready"
    finally:
        subprocess.run(["mount", "-o", "remount,rw", small["path"]], check=True)
    assert len(volumes(small)) == 1


# verified


def test_verified_finds_what_is_sound_and_quarantines_what_is_not(four, task, pool, cached, disk, tmp_path):
    shown = cached("a", disk)
    other = tmp_path / "other"
    other.write_bytes(DISK[::-1])
    sound = cached("b", other)
    stand_on(pool, shown["key"])
    everything = {"state": "verified", "pools": [pool["name"]]}
    results = four("cached_image", **everything)
    assert [each["sound"] for each in results.run["images"]] == [True, True]
    assert results.run["problems"] == []
    assert {each["verified"] is None for each in task("cached_image_info", pools=[pool["name"]])["images"]} == {False}

    unseal(shown["path"])
    with open(shown["path"], "r+b") as file:
        file.seek(MIB // 2)
        byte = file.read(1)[0]
        file.seek(MIB // 2)
        file.write(bytes([byte ^ 1]))
    seal(shown["path"])
    assert task("cached_image", **everything, images=[{"name": "b"}])["problems"] == []
    predicted, found, again = (fails(task, check=check, **everything) for check in (True, False, False))
    assert predicted["actions"] == found["actions"]
    assert found["actions"] == [
        f"quarantine {shown['id']} in pool {pool['name']}, whose content is not what was written"
    ]
    assert found["changed"] is True
    assert predicted["problems"] == found["problems"]
    assert [(each["id"], each["problem"]) for each in found["problems"]] == [(shown["id"], "content_differs")]
    assert "1 disk stands on it and may be damaged" in found["msg"]
    assert records(pool)[shown["id"]] is State.QUARANTINED
    # It goes on to be told, and nothing is done about it again.
    assert (again["changed"], again["actions"]) == (False, [])
    assert [each["problem"] for each in again["problems"]] == ["quarantined"]
    assert [each["id"] for each in again["images"]] == [sound["id"]]
    # Not cloned again, not even by its key: the image is brought in anew.
    fresh = cached("a", disk)
    assert fresh["id"] != shown["id"]
    assert stand_on(pool, shown["key"], "web2").backing == fresh["id"]
    assert task("cached_image", **prune(pool, cache={"max_count": 1}))["pruned"][pool["name"]]["removed"] != []
    assert records(pool)[shown["id"]] is State.QUARANTINED


def test_verified_tells_of_lost_volumes_facts_and_records(task, pool, cached, tmp_path):
    shown = {}
    for name in ("volume", "digest", "record"):
        source = tmp_path / name
        source.write_bytes(name.encode() * 512)
        shown[name] = cached(name, source)
    own = Path(pool["path"], ".virt-storage")
    unseal(shown["volume"]["path"])
    os.unlink(shown["volume"]["path"])
    (own / "facts" / shown["digest"]["id"] / "seal").write_text("{}")
    (own / "records" / shown["record"]["id"]).write_text("nonsense")
    for check in (True, False):
        told = fails(task, check=check, state="verified", pools=[pool["name"]])
        assert told["changed"] is False
        assert {each["id"]: each["problem"] for each in told["problems"]} == {
            shown["volume"]["id"]: "volume_missing",
            shown["digest"]["id"]: "digest_missing",
            shown["record"]["id"]: "record_damaged",
        }
    described = {each["id"]: each for each in task("cached_image_info", pools=[pool["name"]])["images"]}
    assert "cannot be read" in described[shown["record"]["id"]]["problem"]
    assert described[shown["volume"]["id"]]["size"] is None
    # Wanted again, each comes anew, except what has only lost its digest.
    assert task("cached_image", **prune(pool))["changed"] is False


# Refusals


def refusals(tmp_path, disk):
    """Entries that have to be refused, and the check that does it."""
    qcow2 = converted(disk, "qcow2", tmp_path / "disk.qcow2")
    backed = tmp_path / "backed.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", disk, backed], check=True)
    huge = tmp_path / "huge.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", huge, "10T"], check=True)
    cut = tmp_path / "cut.qcow2"
    cut.write_bytes(qcow2.read_bytes()[: 2 * MIB])
    return {
        "format_mismatch": image("a", qcow2, "raw"),
        "checksum": image("a", disk, checksum=sha256(b"something else")),
        "backing_file": image("a", backed, "qcow2"),
        "virtual_size": image("a", huge, "qcow2"),
        "corrupt": image("a", cut, "qcow2"),
    }


@pytest.mark.parametrize("check", ["format_mismatch", "checksum", "backing_file", "virtual_size", "corrupt"])
def test_what_is_not_as_declared_is_refused_by_the_check_that_is_named(task, pool, disk, tmp_path, check):
    entry = refusals(tmp_path, disk)[check]
    told = fails(task, pools=[pool["name"]], images=[entry, image("good", disk)])
    assert told["check"] == check
    assert volumes(pool) == [name for name in volumes(pool) if "good" in name]
    assert {taken_apart(record_id).image for record_id in live_records(pool)} == {"good"}
    assert told["done"] == [f"bring image good into pool {pool['name']} (raw from {disk}, 3.0 MiB)"]


def test_limits_of_an_intake(task, pool, disk, tmp_path):
    packed = tmp_path / "disk.raw.gz"
    packed.write_bytes(gzip.compress(DISK, 1))
    for entry, limits, words in (
        (image("a", disk), {"max_source_bytes": "2M"}, "accepted"),
        (image("a", disk), {"max_virtual_size": str(2 * MIB)}, "bytes"),
        (image("a", packed), {"max_virtual_size": "2M"}, "accepted"),
    ):
        told = fails(task, pools=[pool["name"]], images=[entry], limits=limits)
        assert words in told["msg"], told["msg"]
        assert not live_records(pool)
    assert task("cached_image", pools=[pool["name"]], images=[image("a", packed)], limits={"timeout": 60})["changed"]


@pytest.fixture
def tracing(task, tmp_path):
    """Modules under strace; ``tracing.started()`` and ``.opened()`` are what they and their children did."""
    trace, python = tmp_path / "trace", tmp_path / "traced-python"
    calls = "-e trace=execve,execveat,open,openat,openat2 -e signal=none"
    python.write_text(f'#!/bin/sh\nexec strace -f --seccomp-bpf -qq -s 300 {calls} -o {trace} {sys.executable} "$@"\n')
    python.chmod(0o755)
    modules = type(task)(python=str(python))
    modules.lines = lambda: trace.read_text(errors="replace").splitlines()
    return modules


def test_no_program_of_qemu_is_started_on_a_hostile_image(tracing, pool, disk, tmp_path):
    chosen = ("backing file", "data file", "encrypted", "descriptor", "footer", "qed", "parent")
    cases = [case for case in hostile.BEFORE_QEMU if isinstance(case.content, bytes)]
    cases = [case for case in cases if case.compression == "none" and case.checksum is None and case.content]
    picked = {case.check: case for case in cases}
    assert {"backing_file", "data_file", "format_mismatch", "encrypted", "subformat"} <= set(picked), chosen
    images = []
    for number, case in enumerate(picked.values()):
        path = tmp_path / f"hostile-{number}"
        path.write_bytes(case.content)
        images.append(image(f"hostile-{number}", path, case.declared))
    told = fails(tracing, pools=[pool["name"]], images=images)
    assert len(told["also_failed"]) == len(images) - 1
    lines = tracing.lines()
    assert sum("hostile-" in line for line in lines) >= len(images)
    assert not [line for line in lines if "exec" in line and "qemu" in line]
    assert not [line for line in lines if "/etc/shadow" in line]
    assert volumes(pool) == []
    assert not live_records(pool)
    # The trace does show qemu where it is started.
    tracing(
        "cached_image", pools=[pool["name"]], images=[image("a", converted(disk, "qcow2", tmp_path / "q"), "qcow2")]
    )
    assert [line for line in tracing.lines() if "execve" in line and "qemu-img" in line]


def sentence(**params):
    """The one sentence with which parameters are refused, in check mode and in a run alike. In this process, for speed;
    it comes out of the programs in the same way, as other tests show."""
    checked = ArgumentSpecValidator(ARGUMENTS).validate(params)
    assert not checked.error_messages
    messages = []
    for check_mode in (True, False):
        with pytest.raises(StorageError) as refusal:
            cached_image_task(checked.validated_parameters, check_mode)
        messages.append(refusal.value.message)
    assert messages[0] == messages[1]
    assert messages[0].isprintable()
    assert len(messages[0]) < 300
    return messages[0]


@pytest.mark.parametrize("name", ["a/b", "..", "a\nb", "x" * 300, "na\xefve", "", "-a", "a b", "*"])
def test_names_that_cannot_be_used(untouched, disk, name):
    message = sentence(pools=[untouched["name"]], images=[image(name, disk)])
    assert message.startswith("The image name ")
    assert sentence(state="absent", pools=[untouched["name"]], images=[{"name": name}]) == message


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"limits": {"max_source_bytes": "10X"}}, "max_source_bytes '10X' is not a size"),
        ({"limits": {"max_virtual_size": "0"}}, "max_virtual_size '0' is not a size"),
        ({"limits": {"max_virtual_size": "-1G"}}, "max_virtual_size '-1G' is not a size"),
        ({"limits": {"timeout": 0}}, "limits.timeout cannot be 0"),
        ({"images": []}, "names no images"),
        ({"state": "absent", "images": []}, "names no images"),
        ({"pools": []}, "names no pools"),
        ({"images": [{"name": "a", "source": "/disk"}]}, "lacks format"),
        ({"images": [{"name": "a", "format": "raw"}]}, "lacks source"),
        ({"images": [image("a", "disk.raw")]}, "absolute path or an http or https URL"),
        ({"images": [image("a", "ftp://host/disk.raw")]}, "absolute path or an http or https URL"),
        ({"images": [image("a", "http:///disk.raw")]}, "no host"),
        ({"images": [image("a", "/disk\nraw")]}, "control characters"),
        ({"images": [image("a", "/disk", checksum="md5:abc")]}, "sha256:<digits>"),
        ({"images": [image("a", "/disk", checksum="sha256:abc")]}, "has 3 digits"),
        ({"images": [image("a", "/disk", timeout=-1)]}, "timeout of image a cannot be -1"),
        ({"images": [image("a", "/disk", password="x")]}, "password without username"),
        ({"images": [image("a", "/disk", client_key="/k")]}, "client_key without client_cert"),
        ({"images": [image("a", "/disk"), image("a", "/other")]}, "stands twice"),
        ({"state": "pruned", "cache": {"max_bytes": "10X"}}, "max_bytes '10X' is not a size"),
        ({"state": "pruned", "cache": {"min_free": "-1"}}, "min_free '-1' is not a size"),
        ({"state": "pruned", "cache": {"max_count": -1}}, "max_count cannot be -1"),
    ],
)
def test_bad_input_is_one_clear_sentence(untouched, params, words):
    assert words in sentence(**{"pools": [untouched["name"]], "images": [image("a", "/disk")], **params})


def test_bad_input_through_the_module(refused, untouched):
    wanted = {"pools": [untouched["name"]], "images": [image("a\nb", "/disk")]}
    assert refused("cached_image", **wanted).startswith('The image name "a\\nb" cannot be used')
    assert "missing" in refused("cached_image", pools=[untouched["name"]])


def test_sources_that_are_not_files(refused, task, pool, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(tmp_path / "fifo")
    for path, words in (("fifo", "named pipe"), ("link", "symbolic link"), (".", "directory")):
        message = refused("cached_image", pools=[pool["name"]], images=[image("a", tmp_path / path)])
        assert words in message
    # What is missing may be brought by an earlier task, which check mode does not run.
    missing = {"pools": [pool["name"]], "images": [image("a", tmp_path / "missing")]}
    predicted = task("cached_image", check=True, **missing)
    assert predicted["changed"] is True
    assert any("does not exist" in str(warning) for warning in predicted["warnings"])
    told = fails(task, **missing)
    assert told["msg"] == f"The source {tmp_path / 'missing'} does not exist."
    assert not live_records(pool)


def test_pools_that_are_absent_or_inactive(task, pool, new_pool, disk):
    wanted = {"pools": [pool["name"], new_pool["name"]], "images": [image("a", disk)]}
    no_pool = f"There is no pool '{new_pool['name']}': make it with libvirt_pool first."
    # One pool that is not there stops all of it before anything is done.
    assert fails(task, **wanted)["msg"] == no_pool
    assert not live_records(pool)
    predicted = task("cached_image", check=True, **wanted)
    assert len(predicted["actions"]) == 2
    assert no_pool in str(predicted["warnings"])
    for state in ("pruned", "verified"):
        assert fails(task, state=state, pools=["../a\nb"])["msg"].startswith("There is no pool '../a\\nb': ")
    assert fails(task, "cached_image_info", pools=[new_pool["name"]])["msg"] == no_pool
    task("libvirt_pool", name=pool["name"], state="inactive")
    inactive = f"The pool {pool['name']} is not active: start it with libvirt_pool state=active."
    assert fails(task, pools=[pool["name"]], images=[image("a", disk)])["msg"] == inactive


def test_what_only_looks_leaves_a_pool_without_records_as_it_is(task, untouched, disk):
    task("cached_image", **prune(untouched))
    task("cached_image", state="verified", pools=[untouched["name"]])
    task("cached_image", state="absent", pools=[untouched["name"]], images=[{"name": "a"}])
    task("cached_image_info", pools=[untouched["name"]])
    task("cached_image", check=True, pools=[untouched["name"]], images=[image("a", disk)])
    nowhere = {"state": "verified", "pools": [untouched["name"]], "images": [{"name": "nowhere"}]}
    assert "has no image nowhere" in fails(task, **nowhere)["msg"]
    assert "has no image nowhere" in str(task("cached_image", check=True, **nowhere)["warnings"])
    assert os.listdir(untouched["path"]) == []


# Death in the middle


def test_killed_while_the_source_comes_the_same_task_converges(four, task, pool, web):
    begun, go = threading.Event(), threading.Event()

    def stuck(handler):
        handler.start(200, len(DISK), ETag='"1"')
        handler.wfile.write(DISK[:MIB])
        begun.set()
        go.wait(20)

    web.answers["/disk.raw"] = stuck
    wanted = {"pools": [pool["name"]], "images": [image("web", web.url("/disk.raw"))]}
    process = task.start("cached_image", **wanted)
    assert begun.wait(20)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    go.set()
    assert list(records(pool).values()) == [State.FILLING]
    (dead,) = records(pool)
    web.answers["/disk.raw"] = served(DISK)
    results = four("cached_image", **wanted)
    assert data(results.run["images"][0]) == DISK
    assert len(volumes(pool)) == 2
    results = four("cached_image", **prune(pool))
    assert results.run["actions"] == [f"take back {dead}, whose maker died, in pool {pool['name']}"]
    assert results.run["pruned"] == results.check["pruned"]
    assert len(volumes(pool)) == 1
    assert len(live_records(pool)) == 1
    assert os.listdir(os.path.join(pool["path"], ".virt-storage", "staging")) == []


def descendants(pid):
    found = []
    with contextlib.suppress(OSError):
        for task_id in os.listdir(f"/proc/{pid}/task"):
            for child in Path(f"/proc/{pid}/task/{task_id}/children").read_text().split():
                found += [int(child), *descendants(int(child))]
    return found


def converting(pid):
    """The process of ``qemu-img convert`` under ``pid``, or 0."""
    for child in descendants(pid):
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
            if words[0].endswith(b"qemu-img") and b"convert" in words:
                return child
    return 0


def test_killed_while_qemu_converts_nobody_writes_beside_it(task, four, pool, tmp_path):
    source = tmp_path / "large"
    with open(source, "wb") as file:
        for number in range(32):
            file.write(random.Random(number).randbytes(4 * MIB))
    wanted = {
        "pools": [pool["name"]],
        "images": [image("large", converted(source, "qcow2", tmp_path / "large.qcow2"), "qcow2")],
    }
    process = task.start("cached_image", **wanted)
    until = time.monotonic() + 30
    while not (convert := converting(process.pid)):
        assert time.monotonic() < until
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.005)
    os.kill(convert, signal.SIGSTOP)  # so that it outlives its parent for certain
    process.send_signal(signal.SIGKILL)
    process.communicate()
    second = task.start("cached_image", **wanted)
    time.sleep(2)
    assert second.poll() is None
    assert len(volumes(pool)) == 1, "a second writer began while the first still ran"
    os.kill(convert, signal.SIGCONT)
    result = task.read("cached_image", *second.communicate(timeout=60))
    assert result["changed"] is True
    assert hashlib.sha256(data(result["images"][0])).digest() == hashlib.sha256(source.read_bytes()).digest()
    results = four("cached_image", **prune(pool))
    assert len(results.run["pruned"][pool["name"]]["cleared"]) == 1
    assert len(volumes(pool)) == 1


# The whole way


def test_through_ansible_playbook(play, pool, disk):
    tasks = [
        {"virt.storage.cached_image": {"pools": [pool["name"]], "images": [image("a", disk)]}},
        {"virt.storage.cached_image_info": {"pools": [pool["name"]]}},
        {"virt.storage.cached_image": {"pools": [pool["name"]], "images": [image("a", disk)]}},
    ]
    filled, info, again = play(tasks)
    assert (filled["changed"], again["changed"]) == (True, False)
    assert info["images"] == filled["images"] == again["images"]


def test_info_of_one_pool_and_of_all(task, pool, cached, disk):
    shown = cached("a", disk)
    for check in (True, False):
        (only,) = task("cached_image_info", check=check, pools=[pool["name"]])["images"]
        assert {**only, "name": "a"} == shown
        assert shown in task("cached_image_info", check=check)["images"]
