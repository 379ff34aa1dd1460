# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Runs modules of the collection, each in a process of its own, which is forked from one that has them imported.

Most of what a short task takes is Python's start: half a second, and ten in an emulated machine. Reads calls from
standard input, ``{"module": NAME, "arguments": {...}}``, with ``environment`` where it is not this process's own, and
writes ``{"out": ..., "err": ...}``, what the module printed: each a line of JSON.
"""

import importlib
import io
import json
import os
import sys

PLACE = "ansible_collections.virt.storage.plugins.modules"


def serve():
    """Answer calls until there are no more. In a forked process, returns the main function that it is to run."""
    for line in sys.stdin:
        call = json.loads(line)
        main = importlib.import_module(f"{PLACE}.{call['module']}").main
        streams = [os.memfd_create(name) for name in ("out", "err")]
        pid = os.fork()
        if pid == 0:
            if "environment" in call:
                os.environ.clear()
                os.environ.update(call["environment"])
            for number, stream in enumerate(streams, 1):
                os.dup2(stream, number)
            sys.stdin = io.TextIOWrapper(io.BytesIO(json.dumps({"ANSIBLE_MODULE_ARGS": call["arguments"]}).encode()))
            return main
        os.waitpid(pid, 0)
        print(json.dumps(dict(zip(("out", "err"), map(said, streams)))), flush=True)
    return lambda: None


def said(stream):
    """What was written to a file in memory, which ends with this."""
    os.lseek(stream, 0, os.SEEK_SET)
    with open(stream, encoding="utf-8") as file:
        return file.read()


if __name__ == "__main__":
    serve()()
