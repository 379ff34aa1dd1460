# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A web server on the loopback interface that behaves, or misbehaves, as it is told."""

from __future__ import annotations

import re
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """One request. ``reply`` and ``cut`` are what answers are made of."""

    server: Any

    def do_GET(self) -> None:
        web: WebServer = self.server.web
        web.requests.append((self.path, self.headers))
        web.answers.get(self.path.partition("?")[0], lambda handler: handler.reply(404, b""))(self)

    def reply(self, status: int, body: bytes, **headers: str) -> None:
        """A whole answer; a header's underscores become dashes."""
        self.start(status, len(body), **headers)
        self.wfile.write(body)

    def start(self, status: int, length: int | None, **headers: str) -> None:
        """Only the head of one."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Quiet."""


@dataclass
class WebServer:
    """Serves ``answers``; keeps (path, headers) of each request. Use it with ``with``."""

    answers: dict[str, Answer] = field(default_factory=dict)
    requests: list[tuple[str, Message]] = field(default_factory=list)
    context: ssl.SSLContext | None = None

    def __enter__(self) -> WebServer:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.web = self  # type: ignore[attr-defined]
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign] # clients that hang up are the point
        if self.context is not None:
            self._server.socket = self.context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def url(self, path: str, *, userinfo: str = "") -> str:
        """The URL of ``path`` here."""
        scheme = "http" if self.context is None else "https"
        return "%s://%s127.0.0.1:%d%s" % (scheme, userinfo, self._server.server_port, path)


@dataclass
class Flaky:
    """Serves ``body`` piece by piece: each connection breaks after ``piece`` bytes.

    What a real server does with ``Range`` and ``If-Range`` it does too, unless ``ranges`` is off.
    """

    body: bytes
    piece: int
    tag: str = '"one"'
    ranges: bool = True
    modified: str = ""

    def __call__(self, handler: Handler) -> None:
        headers = {"ETag": self.tag} if self.tag else {}
        if self.modified:
            headers["Last_Modified"] = self.modified
        wanted = re.match(r"bytes=(\d+)-", handler.headers.get("Range") or "")
        unchanged = handler.headers.get("If-Range") in (self.tag, self.modified)
        if wanted and unchanged and self.ranges:
            start, last = int(wanted.group(1)), len(self.body) - 1
            headers["Content_Range"] = "bytes %d-%d/%d" % (start, last, len(self.body))
            handler.start(206, len(self.body) - start, **headers)
            handler.wfile.write(self.body[start : start + self.piece])
        else:
            handler.start(200, len(self.body), **headers)
            handler.wfile.write(self.body[: self.piece])
