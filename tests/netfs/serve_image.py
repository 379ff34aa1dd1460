# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A web server in a test machine that stops in the middle of a file, and counts who asks for it.

``python3 serve_image.py FILE ADDRESS PORT`` sends the first half of FILE, and the rest once a line is read from
standard input. It prints ``listening``, then ``asked`` for every request and ``half`` for every half that was sent;
it ends with its input.
"""

import http.server
import sys
import threading

PATH, ADDRESS, PORT = sys.argv[1], sys.argv[2], int(sys.argv[3])
go_on = threading.Event()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        print("asked", flush=True)
        with open(PATH, "rb") as file:
            data = file.read()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2])
        self.wfile.flush()
        print("half", flush=True)
        go_on.wait()
        self.wfile.write(data[len(data) // 2 :])

    def log_message(self, format, *arguments):
        """Standard output is the log."""


class Server(http.server.ThreadingHTTPServer):
    allow_reuse_address = True


server = Server((ADDRESS, PORT), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
print("listening", flush=True)
sys.stdin.readline()
go_on.set()
sys.stdin.read()
