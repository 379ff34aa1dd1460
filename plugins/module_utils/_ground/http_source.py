# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""A source behind http or https.

Ansible's ``open_url`` makes the requests: proxies, TLS and authentication behave as in other modules. Redirects are
followed here, because headers and passwords must not follow them to another host. A connection that breaks is
continued where it stopped, and only if the server states that it still serves the same bytes.

Messages name a URL without user, password and query, and never quote the exception that came with one.
"""

from __future__ import annotations

import hashlib
import http.client
import re
import socket
import ssl
import threading
import urllib.error
from typing import Any
from urllib.parse import urljoin, urlsplit

from ansible.module_utils.urls import open_url

from .bounds import Bounds
from .errors import NotFound, SourceError
from .sources import (
    SourceSpec,
    fill,
    origin,
    without_secrets,
)

_MAX_REDIRECTS = 10
_REDIRECTS = {301, 302, 303, 307, 308}
_WORTH_RETRYING = {408, 425, 429, 500, 502, 503, 504}
_READ = 256 * 1024
_LONGEST_PAUSE = 8.0  # seconds
_BROKEN = (OSError, http.client.HTTPException)  # URLError, timeouts and TLS errors are OSErrors
# open_url installs its opener, with its credentials, for the whole process just before it uses it.
_one_request = threading.Lock()


class _Broken(Exception):
    """The connection failed in a way that may pass. Its text has no secrets."""


class HttpSource:
    """The bytes that a URL serves, in order."""

    fd: int | None = None

    def __init__(self, spec: SourceSpec, bounds: Bounds) -> None:
        self._spec = spec
        self._limit = bounds.max_source_bytes
        self._position = 0
        self._failures = 0
        self._cancelled = threading.Event()
        self._response: Any = None
        self._validator = ""
        self.size: int | None = None
        try:
            self._connect()
        except BaseException:
            self.close()
            raise
        # Without a validator only the bytes themselves can tell that the server still has the same ones.
        self._seen = None if self._validator else hashlib.sha256()

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes; none only where the server says that the end is."""
        while True:
            try:
                if self._response is None:
                    self._connect()
                data: bytes = self._receive(min(size, _READ))
            except _Broken as broken:
                self._failed(broken)
                continue
            self._failures = 0
            self._position += len(data)
            if self._position > self._limit:
                raise self._error("is larger than the %d bytes that are accepted" % self._limit)
            if self._seen is not None:
                self._seen.update(data)
            return data

    def block(self, buffer: bytearray) -> memoryview:
        """As many bytes as ``buffer`` holds, or what is left."""
        return fill(self, buffer)

    def check_unchanged(self) -> None:
        """Each connection was checked to serve the same bytes as the first."""

    def cancel(self) -> None:
        """Shut the connection down under a waiting ``read``."""
        self._cancelled.set()
        if self._response is not None:
            try:
                with socket.socket(fileno=socket.dup(self._response.fileno())) as connection:
                    connection.shutdown(socket.SHUT_RDWR)
            except (OSError, ValueError, AttributeError):
                pass  # it ended by itself

    def close(self) -> None:
        """End the connection."""
        if self._response is not None:
            self._response.close()
            self._response = None

    def _receive(self, size: int) -> bytes:
        try:
            data: bytes = self._response.read1(size)
        except _BROKEN as error:
            raise _Broken(_reason(error)) from None
        if not data and self.size is not None and self._position < self.size:
            raise _Broken("the connection ended after %d of %d bytes" % (self._position, self.size))
        return data

    def _failed(self, broken: _Broken) -> None:
        """Pause before the next try, or give up."""
        self.close()
        self._failures += 1
        if self._failures > self._spec.retries or self._cancelled.is_set():
            raise self._error("cannot be read: %s" % broken) from None
        self._cancelled.wait(min(_LONGEST_PAUSE, 0.25 * 2**self._failures))

    def _connect(self) -> None:
        """Ask for everything, or for what is left of it."""
        while self._response is None:
            try:
                self._response = self._request()
            except _Broken as broken:
                self._failed(broken)
        if self._position == 0:
            self._begin()
        else:
            self._resume()

    def _begin(self) -> None:
        headers = self._response.headers
        encoding = (headers.get("Content-Encoding") or "identity").lower().removeprefix("x-")
        if encoding not in ("identity", {"gz": "gzip", "xz": "xz", "zst": "zstd"}.get(self._spec.compressed_with)):
            raise self._error("is sent with the encoding %s, which was not asked for" % encoding[:40])
        length = headers.get("Content-Length")
        self.size = int(length) if length and length.isdigit() and not self._response.chunked else None
        if self.size is not None and self.size > self._limit:
            raise self._error("has %d bytes, and %d are accepted" % (self.size, self._limit))
        if self.size is None and not self._response.chunked and self._spec.checksum is None:
            raise self._error("comes without a length, so that nobody could tell where it ends; give its checksum")
        tag = headers.get("ETag") or ""
        # A weak tag does not promise the same bytes.
        self._validator = headers.get("Last-Modified") or "" if tag.startswith("W/") or not tag else tag

    def _resume(self) -> None:
        status, headers = self._response.status, self._response.headers
        served = headers.get("ETag" if self._validator.endswith('"') else "Last-Modified")
        if self._validator and served != self._validator and not (status == 206 and served is None):
            raise self._error("was replaced on the server while it was read; try again")
        if status == 206:
            found = re.match(r"bytes (\d+)-\d+/(\d+|\*)\Z", headers.get("Content-Range") or "")
            same_size = (found and found.group(2) in ("*", str(self.size))) or self.size is None
            if not found or int(found.group(1)) != self._position or not same_size:
                raise self._error("was asked for the rest from byte %d, and gave something else" % self._position)
            return
        self._skip()  # all of it again: the server does not do ranges

    def _skip(self) -> None:
        """Read again what was passed on already, and see that it is the same."""
        again, left = hashlib.sha256(), self._position
        try:
            while left:
                data = self._response.read1(min(left, _READ))
                if not data:
                    raise self._error("ended earlier than before when it was read again")
                again.update(data)
                left -= len(data)
        except _BROKEN as error:
            self.close()
            raise _Broken(_reason(error)) from None
        if self._seen is not None and again.digest() != self._seen.digest():
            raise self._error("was replaced on the server while it was read; try again")

    def _request(self) -> Any:
        """One answer that has a body, wherever redirects lead."""
        spec, url = self._spec, self._spec.location
        extra = {}
        if self._position and self._validator:
            extra = {"Range": "bytes=%d-" % self._position, "If-Range": self._validator}
        for _unused in range(_MAX_REDIRECTS + 1):
            home = origin(url) == origin(spec.location)
            try:
                return self._open(url, extra, home)
            except urllib.error.HTTPError as error:
                error.close()
                status, target = error.code, error.headers.get("Location")
            except _BROKEN as error:
                if isinstance(getattr(error, "reason", error), ssl.SSLCertVerificationError):
                    raise self._error("cannot be trusted: %s" % _reason(error)) from None
                raise _Broken(_reason(error)) from None
            except ValueError:  # UnicodeError is one, too; its text may have a header in it
                raise self._error(
                    "cannot be asked for: its address, a redirect or a header has what HTTP does not carry; write what "
                    "is not ASCII percent-encoded"
                ) from None
            if status not in _REDIRECTS or not target:
                raise self._refused(status, url)
            url = self._redirected(url, target)
        raise self._error("redirects more than %d times" % _MAX_REDIRECTS)

    def _open(self, url: str, extra: dict[str, str], home: bool) -> Any:
        """One request. Nothing secret goes with it unless it goes to where the deployer said."""
        spec = self._spec
        with _one_request:
            return open_url(
                url,
                headers={**(spec.headers if home else {}), **extra, "Accept-Encoding": "identity"},
                url_username=spec.username if home else None,
                url_password=(spec.password or "") if home and spec.username else None,
                force_basic_auth=spec.force_basic_auth,
                client_cert=spec.client_cert if home else None,
                client_key=spec.client_key if home else None,
                ca_path=spec.ca_path,
                validate_certs=spec.validate_certs,
                use_proxy=spec.use_proxy,
                timeout=spec.timeout,
                http_agent="virt.storage",
                follow_redirects="no",
                decompress=False,
                use_netrc=False,
            )

    def _redirected(self, url: str, target: str) -> str:
        try:
            target = urljoin(url, target).replace(" ", "%20")
            scheme, _host, _port = origin(target)
        except ValueError:
            raise self._error("redirects to something that is no address") from None
        if scheme not in ("http", "https"):
            raise self._error("redirects to something that is not http: %s" % scheme[:20])
        if urlsplit(url).scheme.lower() == "https" and scheme == "http":
            raise self._error("redirects from https to http, where nobody vouches for the bytes")
        # User and password in a redirect are the server's to hand out, but not ours to show or to use.
        parts = urlsplit(target)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()

    def _refused(self, status: int, url: str) -> Exception:
        where = "" if without_secrets(url) == self._spec.shown else " at %s" % without_secrets(url)
        if status in _WORTH_RETRYING:
            return _Broken("the server%s answered with status %d" % (where, status))
        if status in (404, 410):
            return NotFound("The source %s does not exist%s." % (self._spec.shown, where), status=status)
        if status in (401, 403, 407):
            return self._error("is not given to us%s (status %d); check the credentials" % (where, status))
        return self._error("cannot be read: the server%s answered with status %d" % (where, status))

    def _error(self, what: str) -> SourceError:
        return SourceError("The source %s %s." % (self._spec.shown, what), source=self._spec.shown)


def _reason(error: BaseException) -> str:
    """A cause in words that cannot hold a URL."""
    cause = getattr(error, "reason", error)
    if isinstance(cause, (TimeoutError, socket.timeout)):  # two things before Python 3.10
        return "the other side was silent for too long"
    if isinstance(cause, OSError) and cause.strerror:
        return str(cause.strerror)
    if isinstance(error, http.client.IncompleteRead):
        return "the connection ended too early"
    return type(cause).__name__ if not isinstance(cause, str) else "the request failed"
