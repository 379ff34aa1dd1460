# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Runs in a test machine: modules of the collection, each in a process of its own, imported once for all.

An emulated machine takes ten seconds to unpack, compile and import a module, and less than one to run it. Reads calls
from standard input and writes results to standard output, each a line of JSON.
"""

import importlib
import io
import json
import os
import sys
import traceback

NAMES = ("cached_image", "cached_image_info", "disk_metadata", "instance_disk", "libvirt_pool", "libvirt_pool_info")
PLACE = "ansible_collections.virt.storage.plugins.modules"


def run(main, arguments):
    """What the module printed. It reads its arguments from standard input, as it does without a controller."""
    outlet, inlet = os.pipe()
    if os.fork() == 0:
        os.dup2(inlet, sys.stdout.fileno())
        os.close(outlet)
        sys.stdin = io.TextIOWrapper(io.BytesIO(json.dumps({"ANSIBLE_MODULE_ARGS": arguments}).encode()))
        try:
            main()
        except SystemExit:
            pass
        except Exception:  # noqa: BLE001 - it is told as the result
            print(json.dumps({"failed": True, "msg": traceback.format_exc()}))
        sys.stdout.flush()
        os._exit(0)
    os.close(inlet)
    with open(outlet, encoding="utf-8") as answer:
        said = answer.read()
    os.wait()
    return said


modules = {name: importlib.import_module(f"{PLACE}.{name}") for name in NAMES}
print("ready", flush=True)
for line in sys.stdin:
    call = json.loads(line)
    options = {"_ansible_check_mode": call["check"], "_ansible_diff": True, **call["options"]}
    print(run(modules[call["module"]].main, options).strip(), flush=True)
