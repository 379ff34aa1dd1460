# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""Where an image comes from: what a deployer states, and the stream of bytes that it leads to.

Credentials stay in here. ``shown`` is the location as messages, records and logs may have it; the ``repr`` of a
``SourceSpec`` has nothing else.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import unquote, urlsplit, urlunsplit

from . import checksums
from .bounds import Bounds
from .digest import BLOCK, ZEROES, next_data
from .errors import BadInput, NotFound, SourceError
from .headers import refuse
from .inspection import canonical_format

COMPRESSIONS = ("auto", "none", "gz", "xz", "zst")
"""What can be declared; ``auto`` goes by the end of the file's name."""


class Source(Protocol):
    """An open source. Its bytes are read once, in order, by one thread."""

    size: int | None
    """Bytes, or ``None`` when the other side does not tell."""
    fd: int | None
    """A descriptor with random access to the same bytes, when there is one."""

    def read(self, size: int) -> bytes:
        """At least one byte and at most ``size``; none at the end."""

    def block(self, buffer: bytearray) -> memoryview:
        """As many bytes as ``buffer`` holds, or what is left: in it, or, where the source has a hole, elsewhere."""

    def check_unchanged(self) -> None:
        """Raise ``SourceError`` if the source is no longer what it was when it was opened."""

    def cancel(self) -> None:
        """Make a ``read`` that waits in another thread fail soon."""

    def close(self) -> None:
        """Let go of it."""


@dataclass(frozen=True, repr=False)
class SourceSpec:
    """What a deployer states about a source.

    :raises BadInput: it cannot be meant. The message has no secrets.
    """

    location: str
    """An absolute path, or an http or https URL. A user and password in the URL move to the fields for them."""
    format: str
    compression: str = "auto"
    checksum: str | None = None
    """``sha256:<digits>``, ``sha512:<digits>``, or the location of a SUMS file."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Sent to the host of the location only, not to those that it redirects to. So are all credentials."""
    username: str | None = None
    password: str | None = None
    force_basic_auth: bool = False
    """Send the password before the server asks for it."""
    client_cert: str | None = None
    client_key: str | None = None
    ca_path: str | None = None
    """File with the certificates of the authorities to trust, instead of the system's."""
    validate_certs: bool = True
    use_proxy: bool = True
    """Whether to heed the environment's ``http_proxy`` and the like."""
    timeout: float = 30.0
    """Seconds that the other side may be silent."""
    retries: int = 3
    """How often to try again in a row without getting a single byte."""
    block_device: bool = False
    """Whether the path names a block device. Nobody can tell that one was not written meanwhile."""

    def __post_init__(self) -> None:
        canonical_format(self.format)
        if self.compression not in COMPRESSIONS:
            raise BadInput("The compression %r is not one of %s." % (self.compression, ", ".join(COMPRESSIONS)))
        if any(
            ord(character) < 32 for part in (self.location, *self.headers, *self.headers.values()) for character in part
        ):
            raise BadInput("The location or a header of the source has control characters in it.")
        if self.is_url:
            self._take_userinfo()
        elif not self.location.startswith("/"):
            raise BadInput("A source is an absolute path or an http or https URL.")
        if self.checksum is not None:
            checksums.declared(self.checksum)

    def _take_userinfo(self) -> None:
        try:
            parts = urlsplit(self.location)
            usable = bool(parts.hostname) and parts.port != 0  # an impossible port raises ValueError
        except ValueError:
            usable = False
        if not usable:
            raise BadInput("The URL of the source has no host, or an impossible port.")
        parts = urlsplit(self.location)
        userinfo, at, netloc = parts.netloc.rpartition("@")
        if at:
            user, _unused, password = userinfo.partition(":")
            object.__setattr__(self, "location", urlunsplit(parts._replace(netloc=netloc)))
            if self.username is None:
                object.__setattr__(self, "username", unquote(user))
                object.__setattr__(self, "password", unquote(password))

    @property
    def is_url(self) -> bool:
        """Whether the location is a URL."""
        return self.location.lower().startswith(("http://", "https://"))

    @property
    def shown(self) -> str:
        """The location without what may be secret: no user, no password, no query."""
        return without_secrets(self.location) if self.is_url else self.location

    @property
    def identity(self) -> str:
        """The location as part of a key. Of a query, which may be a signature, only the digest."""
        query = urlsplit(self.location).query if self.is_url else ""
        return self.shown + ("?sha256:" + hashlib.sha256(query.encode()).hexdigest() if query else "")

    @property
    def file_name(self) -> str:
        """The name that a SUMS file would have."""
        path = unquote(urlsplit(self.location).path) if self.is_url else self.location
        return path.rpartition("/")[2]

    @property
    def compressed_with(self) -> str:
        """``none``, ``gz``, ``xz`` or ``zst``."""
        if self.compression != "auto":
            return self.compression
        suffix = self.file_name.rpartition(".")[2].lower()
        return suffix if suffix in COMPRESSIONS[2:] else "none"

    def __repr__(self) -> str:
        return "SourceSpec(%s, %s)" % (self.shown, self.format)


def without_secrets(url: str) -> str:
    """Scheme, host, port and path of a URL."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


class Reader(Protocol):
    """Something with bytes to read."""

    def read(self, size: int) -> bytes:
        """At least one byte and at most ``size``; none at the end."""


def fill(reader: Reader, buffer: bytearray) -> memoryview:
    """Read until ``buffer`` is full or the end is there."""
    view, filled = memoryview(buffer), 0
    while filled < len(buffer) and (data := reader.read(len(buffer) - filled)):
        view[filled : filled + len(data)] = data
        filled += len(data)
    return view[:filled]


def origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port: whom credentials for ``url`` are meant for."""
    parts = urlsplit(url)
    scheme = parts.scheme.lower()
    return scheme, (parts.hostname or "").lower(), parts.port or (443 if scheme == "https" else 80)


class LocalSource:
    """A file, read through one descriptor, from which nothing is taken if it changed meanwhile."""

    def __init__(self, spec: SourceSpec, bounds: Bounds) -> None:
        self._shown = spec.shown
        self._position = 0
        self.fd: int | None = None
        wanted = stat.S_ISBLK if spec.block_device else stat.S_ISREG
        try:
            # Looked at before it is opened, because opening a device can do something, and again afterwards.
            self._check_type(os.lstat(spec.location), wanted)
            self._fd = os.open(spec.location, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
            self.fd = self._fd
            self._was = os.fstat(self._fd)
            self._check_type(self._was, wanted)
            self.size: int | None = os.lseek(self._fd, 0, os.SEEK_END)
        except FileNotFoundError:
            raise NotFound("The source %s does not exist." % self._shown, source=self._shown) from None
        except OSError as error:
            raise SourceError("The source %s cannot be read: %s." % (self._shown, error.strerror)) from error
        except BaseException:
            self.close()
            raise
        self._end = self.size
        if self._end > bounds.max_source_bytes:
            self.close()
            raise SourceError(
                "The source %s has %d bytes, and %d are accepted." % (self._shown, self._end, bounds.max_source_bytes)
            )

    def _check_type(self, found: os.stat_result, wanted: object) -> None:
        if not wanted(found.st_mode):  # type: ignore[operator]
            names = {stat.S_IFLNK: "a symbolic link; name the file that it leads to", stat.S_IFDIR: "a directory"}
            names.update({stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket", stat.S_IFREG: "a regular file"})
            names.update({stat.S_IFBLK: "a block device, which has to be said", stat.S_IFCHR: "a character device"})
            what = names.get(stat.S_IFMT(found.st_mode), "something else")
            raise refuse("file_type", "The source %s cannot be taken: it is %s." % (self._shown, what))

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes; none at the end."""
        return bytes(self.block(bytearray(min(size, self._end - self._position))))

    def block(self, buffer: bytearray) -> memoryview:
        """The next bytes, in ``buffer`` or, for a whole block in a hole, of ``digest.ZEROES``."""
        size = min(len(buffer), self._end - self._position)
        if size == BLOCK and next_data(self._fd, self._position, self._end) >= self._position + BLOCK:
            self._position += BLOCK
            return memoryview(ZEROES)
        view, filled = memoryview(buffer)[:size], 0
        try:
            while filled < size and (done := os.preadv(self._fd, [view[filled:]], self._position + filled)):
                filled += done
        except OSError as error:
            raise SourceError("The source %s cannot be read: %s." % (self._shown, error.strerror)) from error
        self._position += filled
        return view[:filled]

    def check_unchanged(self) -> None:
        """Compare with what was opened: size, times of change, and that it can still be looked at."""
        now, was = os.fstat(self._fd), self._was
        if (now.st_size, now.st_mtime_ns, now.st_ctime_ns) != (was.st_size, was.st_mtime_ns, was.st_ctime_ns):
            raise SourceError("The source %s was changed while it was read; try again." % self._shown)

    def cancel(self) -> None:
        """Reading a file does not wait."""

    def close(self) -> None:
        """Close the descriptor."""
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None
