# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Sources behind http: all the bytes or an error, secrets to whom they are meant for and to nobody else."""

from __future__ import annotations

import hashlib
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from webserver import Flaky, Handler, WebServer

from ansible_collections.virt.storage.plugins.module_utils._ground.bounds import Bounds
from ansible_collections.virt.storage.plugins.module_utils._ground.errors import NotFound, SourceError, StorageError
from ansible_collections.virt.storage.plugins.module_utils._ground.opening import expected_checksum, open_source
from ansible_collections.virt.storage.plugins.module_utils._ground.sources import SourceSpec

BODY = bytes(range(256)) * 4000
BOUNDS = Bounds(len(BODY), 2**30)
SECRETS = ("Bearer-token", "s3cret", "signature")


@pytest.fixture
def web() -> Iterator[WebServer]:
    with WebServer() as server:
        yield server


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(
        "ansible_collections.virt.storage.plugins.module_utils._ground.http_source._LONGEST_PAUSE", 0.01
    )


def download(spec: SourceSpec, bounds: Bounds = BOUNDS) -> bytes:
    source = open_source(spec, bounds)
    try:
        data = b"".join(iter(lambda: source.read(100_000), b""))
        source.check_unchanged()
        return data
    finally:
        source.close()


def refused(spec: SourceSpec, kind: type[StorageError] = SourceError, bounds: Bounds = BOUNDS) -> str:
    """The message; nothing secret may be in it or in what it came from."""
    with pytest.raises(kind) as caught:
        download(spec, bounds)
    told = repr((caught.value, caught.value.facts, caught.value.__cause__, spec))
    assert not any(secret in told for secret in SECRETS)
    return caught.value.message


def test_plain(web: WebServer) -> None:
    web.answers["/image"] = lambda handler: handler.reply(200, BODY)
    source = open_source(SourceSpec(web.url("/image"), "raw"), BOUNDS)
    assert source.size == len(BODY)
    source.close()
    assert download(SourceSpec(web.url("/image"), "raw")) == BODY


def test_headers_and_password(web: WebServer) -> None:
    def answer(handler: Handler) -> None:
        if handler.headers["Authorization"] != "Basic dTpzM2NyZXQ=":
            handler.reply(401, b"", WWW_Authenticate='Basic realm="x"')
        else:
            handler.reply(200, BODY)

    web.answers["/image"] = answer
    headers = {"X-Token": "Bearer-token"}
    asked = SourceSpec(web.url("/image"), "raw", username="u", password="s3cret", headers=headers)
    assert download(asked) == BODY
    assert len(web.requests) == 2
    assert download(replace(asked, force_basic_auth=True)) == BODY
    assert len(web.requests) == 3
    assert download(SourceSpec(web.url("/image", userinfo="u:s3cret@"), "raw")) == BODY
    assert web.requests[0][1]["X-Token"] == "Bearer-token"
    assert "status 401" in refused(replace(asked, password="s3cret-but-wrong"))


def test_redirect_within_the_host_keeps_what_is_secret(web: WebServer) -> None:
    web.answers["/old"] = lambda handler: handler.reply(302, b"", Location="/new")
    web.answers["/new"] = lambda handler: handler.reply(200, BODY)
    spec = SourceSpec(web.url("/old"), "raw", headers={"X-Token": "Bearer-token"}, username="u", password="s3cret",
                      force_basic_auth=True)  # fmt: skip
    assert download(spec) == BODY
    path, headers = web.requests[-1]
    assert path == "/new"
    assert headers["X-Token"] == "Bearer-token"
    assert headers["Authorization"]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect_to_another_host_does_not(web: WebServer, status: int) -> None:
    with WebServer() as other:
        other.answers["/image"] = lambda handler: handler.reply(200, BODY)
        target = other.url("/image?signature", userinfo="x:s3cret@")
        web.answers["/old"] = lambda handler: handler.reply(status, b"", Location=target)
        spec = SourceSpec(web.url("/old"), "raw", headers={"X-Token": "Bearer-token", "Cookie": "s3cret"},
                          username="u", password="s3cret", force_basic_auth=True)  # fmt: skip
        assert download(spec) == BODY
        ((path, headers),) = other.requests
        assert path == "/image?signature"
        assert not any(secret in str(headers) for secret in SECRETS)
        assert headers["Authorization"] is headers["X-Token"] is headers["Cookie"] is None
        other.answers.clear()
        assert "does not exist at %s" % other.url("/image") in refused(spec, NotFound)


@pytest.mark.parametrize("target", ["file:///etc/shadow", "ftp://127.0.0.1/x", "nbd://127.0.0.1/x"])
def test_redirect_to_something_else(web: WebServer, target: str) -> None:
    web.answers["/image"] = lambda handler: handler.reply(302, b"", Location=target)
    assert "not http" in refused(SourceSpec(web.url("/image"), "raw"))


@pytest.mark.parametrize("target", ["http://host:port/x", "http://host:99999/x"])
def test_redirect_to_no_address(web: WebServer, target: str) -> None:
    web.answers["/image"] = lambda handler: handler.reply(302, b"", Location=target)
    assert "no address" in refused(SourceSpec(web.url("/image"), "raw"))


def test_what_http_does_not_carry(web: WebServer) -> None:
    long = f"http://{'a' * 64}.example/image"
    web.answers["/moved"] = lambda handler: handler.reply(302, b"", Location=long)
    for location in (web.url("/im\u00e4ge"), web.url("/moved"), long):
        assert "percent-encoded" in refused(SourceSpec(location, "raw"))
    assert "percent-encoded" in refused(SourceSpec(web.url("/image"), "raw", headers={"X-Token": "s3cret\u20ac"}))


def test_redirects_in_a_circle(web: WebServer) -> None:
    web.answers["/image"] = lambda handler: handler.reply(302, b"", Location="/image")
    assert "more than 10 times" in refused(SourceSpec(web.url("/image"), "raw"))


def test_a_broken_connection_is_continued(web: WebServer) -> None:
    web.answers["/image"] = Flaky(BODY, 300_000)
    assert download(SourceSpec(web.url("/image"), "raw")) == BODY
    assert [headers["Range"] for _unused, headers in web.requests] == [
        None, "bytes=300000-", "bytes=600000-", "bytes=900000-"
    ]  # fmt: skip
    assert {headers["If-Range"] for _unused, headers in web.requests[1:]} == {'"one"'}


def test_a_weak_tag_is_no_promise(web: WebServer) -> None:
    modified = "Sun, 06 Nov 1994 08:49:37 GMT"
    web.answers["/image"] = Flaky(BODY, 600_000, tag='W/"one"', modified=modified)
    assert download(SourceSpec(web.url("/image"), "raw")) == BODY
    assert web.requests[1][1]["If-Range"] == modified


@pytest.mark.parametrize("tag", ['"one"', ""])
def test_a_server_without_ranges_sends_it_again(web: WebServer, tag: str) -> None:
    flaky = Flaky(BODY, 600_000, tag=tag, ranges=False)

    def answer(handler: Handler) -> None:
        flaky(handler)
        flaky.piece = len(BODY)

    web.answers["/image"] = answer
    assert download(SourceSpec(web.url("/image"), "raw")) == BODY


@pytest.mark.parametrize("tag", ['"one"', ""])
@pytest.mark.parametrize("ranges", [True, False])
def test_a_source_that_is_replaced_meanwhile(web: WebServer, tag: str, ranges: bool) -> None:
    flaky = Flaky(BODY, 600_000, tag=tag, ranges=ranges)

    def answer(handler: Handler) -> None:
        flaky(handler)
        flaky.body, flaky.tag, flaky.piece = BODY[::-1], tag and '"two"', len(BODY)

    web.answers["/image"] = answer
    assert "was replaced" in refused(SourceSpec(web.url("/image"), "raw"))


def test_a_range_that_was_not_asked_for(web: WebServer) -> None:
    def answer(handler: Handler) -> None:
        if handler.headers["Range"]:
            handler.reply(206, BODY[:10], Content_Range="bytes 0-9/%d" % len(BODY), ETag='"one"')
        else:
            Flaky(BODY, 1000)(handler)

    web.answers["/image"] = answer
    assert "gave something else" in refused(SourceSpec(web.url("/image"), "raw"))


def test_a_connection_that_always_breaks_at_once(web: WebServer) -> None:
    web.answers["/image"] = Flaky(BODY, 0)
    assert "ended after 0 of %d bytes" % len(BODY) in refused(SourceSpec(web.url("/image"), "raw", retries=2))
    assert len(web.requests) == 3


def test_a_server_that_is_busy_for_a_while(web: WebServer) -> None:
    def answer(handler: Handler) -> None:
        handler.reply(503 if len(web.requests) < 3 else 200, BODY)

    web.answers["/image"] = answer
    assert download(SourceSpec(web.url("/image"), "raw")) == BODY
    web.answers["/image"] = lambda handler: handler.reply(503, b"")
    assert "status 503" in refused(SourceSpec(web.url("/image?signature"), "raw", retries=1))


@pytest.mark.parametrize(("status", "text"), [(404, "does not exist"), (403, "credentials"), (418, "status 418")])
def test_refusals_are_not_tried_again(web: WebServer, status: int, text: str) -> None:
    web.answers["/image"] = lambda handler: handler.reply(status, b"")
    kind = NotFound if status == 404 else SourceError
    assert text in refused(SourceSpec(web.url("/image?signature", userinfo="u:s3cret@"), "raw"), kind)


def test_nobody_listens(web: WebServer) -> None:
    url = web.url("/image?signature", userinfo="u:s3cret@")
    web.__exit__(None, None, None)
    try:
        assert "Connection refused" in refused(SourceSpec(url, "raw", retries=1))
    finally:
        web.__enter__()


def test_chunks_need_no_length(web: WebServer) -> None:
    def answer(handler: Handler) -> None:
        handler.protocol_version = "HTTP/1.1"
        handler.start(200, None, Transfer_Encoding="chunked", Connection="close")
        for start in range(0, len(BODY), 70_000):
            piece = BODY[start : start + 70_000]
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        if complete:
            handler.wfile.write(b"0\r\n\r\n")
        handler.close_connection = True

    web.answers["/image"] = answer
    complete = True
    assert download(SourceSpec(web.url("/image"), "raw")) == BODY
    complete = False
    assert "ended too early" in refused(SourceSpec(web.url("/image"), "raw", retries=0))


def test_no_length_needs_a_checksum(web: WebServer) -> None:
    def answer(handler: Handler) -> None:
        handler.start(200, None)
        handler.wfile.write(BODY)

    web.answers["/image"] = answer
    assert "give its checksum" in refused(SourceSpec(web.url("/image"), "raw"))
    spec = SourceSpec(web.url("/image"), "raw", checksum="sha256:" + hashlib.sha256(BODY).hexdigest())
    assert download(spec) == BODY


def test_size_limit(web: WebServer) -> None:
    def unannounced(handler: Handler) -> None:
        handler.start(200, None)
        handler.wfile.write(BODY)

    web.answers["/announced"] = lambda handler: handler.reply(200, BODY)
    web.answers["/unannounced"] = unannounced
    small = Bounds(len(BODY) - 1, 2**30)
    assert "are accepted" in refused(SourceSpec(web.url("/announced"), "raw"), bounds=small)
    spec = SourceSpec(web.url("/unannounced"), "raw", checksum="sha256:" + "0" * 64)
    assert "are accepted" in refused(spec, bounds=small)


def test_an_encoding_that_nobody_asked_for(web: WebServer) -> None:
    web.answers["/image"] = lambda handler: handler.reply(200, BODY, Content_Encoding="gzip")
    assert "encoding gzip" in refused(SourceSpec(web.url("/image"), "raw"))
    assert web.requests[0][1]["Accept-Encoding"] == "identity"
    assert download(SourceSpec(web.url("/image"), "raw", compression="gz")) == BODY


def test_a_silent_server(web: WebServer) -> None:
    def answer(handler: Handler) -> None:
        handler.start(200, len(BODY))
        handler.wfile.write(BODY[:10])
        handler.wfile.flush()
        quiet.wait(20)

    quiet = threading.Event()
    web.answers["/image"] = answer
    started = time.monotonic()
    spec = SourceSpec(web.url("/image"), "raw", timeout=0.3, retries=0)
    try:
        assert "silent" in refused(spec)
        source = open_source(replace(spec, timeout=20), BOUNDS)
        assert source.read(10) == BODY[:10]
        threading.Timer(0.3, source.cancel).start()
        with pytest.raises(SourceError):
            source.read(10)
        source.close()
        assert time.monotonic() - started < 10
    finally:
        quiet.set()


def test_proxy(web: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    web.answers["http://nowhere.invalid/image"] = lambda handler: handler.reply(200, BODY)
    monkeypatch.setenv("http_proxy", web.url("", userinfo="u:s3cret@"))
    spec = SourceSpec("http://nowhere.invalid/image", "raw", retries=0)
    assert download(spec) == BODY
    assert len(web.requests) == 1
    assert "cannot be read" in refused(replace(spec, use_proxy=False))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    )
    subprocess.run([*command.split(), "-keyout", path, "-out", "%s.crt" % path], check=True, capture_output=True)
    path.write_text(path.read_text() + Path("%s.crt" % path).read_text())
    return path


def test_tls_is_verified(certificate: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with WebServer(context=context) as web, WebServer() as plain:
        web.answers["/image"] = lambda handler: handler.reply(200, BODY)
        web.answers["/down"] = lambda handler: handler.reply(302, b"", Location=plain.url("/image"))
        plain.answers["/image"] = web.answers["/image"]
        spec = SourceSpec(web.url("/image"), "raw")
        assert "certificate verify failed" in refused(spec)
        assert download(replace(spec, ca_path="%s.crt" % certificate)) == BODY
        assert download(replace(spec, validate_certs=False)) == BODY
        assert "from https to http" in refused(replace(spec, location=web.url("/down"), validate_certs=False))
        assert not plain.requests


def test_sums_beside_the_image(web: WebServer) -> None:
    digest = hashlib.sha256(BODY).hexdigest()
    web.answers["/SHA256SUMS"] = lambda handler: handler.reply(200, b"%s *image.raw\n" % digest.encode())
    spec = SourceSpec(web.url("/image.raw?signature"), "raw", headers={"X-Token": "Bearer-token"},
                      checksum=web.url("/SHA256SUMS"))  # fmt: skip
    assert str(expected_checksum(spec, BOUNDS)) == "sha256:" + digest
    assert web.requests[-1][1]["X-Token"] == "Bearer-token"
    with WebServer(answers=web.answers) as other:
        elsewhere = replace(spec, checksum=other.url("/SHA256SUMS"))
        assert str(expected_checksum(elsewhere, BOUNDS)) == "sha256:" + digest
        assert other.requests[-1][1]["X-Token"] is None
    with pytest.raises(SourceError, match=r"SHA256SUMS has no usable entry for other\.raw"):
        expected_checksum(replace(spec, location=web.url("/other.raw")), BOUNDS)
