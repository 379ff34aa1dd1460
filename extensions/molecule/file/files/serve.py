# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Serve a folder over HTTP on a free port of the loopback, for as long as a file exists.

Arguments: the folder, and that file, which is written as soon as requests are answered: ``{"port": ...}``.
"""

from __future__ import annotations

import functools
import http.server
import json
import sys
from pathlib import Path


class Server(http.server.ThreadingHTTPServer):
    """A server that ends when its file is gone."""

    told: Path

    def service_actions(self) -> None:
        """Called twice a second."""
        super().service_actions()
        if not self.told.exists():
            sys.exit()


def main(folder: str, told: str) -> None:
    """Serve ``folder`` until ``told`` is removed."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    with Server(("127.0.0.1", 0), handler) as server:
        server.told = Path(told)
        server.told.write_text(json.dumps({"port": server.server_port}), encoding="ascii")
        server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
