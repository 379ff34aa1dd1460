# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the whole integration run did behind the modules' backs: every qemu-img that anybody started, libvirtd
included, and every storage call that libvirtd served. Only what tests of another folder start beside it is left out.

A stand-in for qemu-img, found before the real one on every search path, notes its arguments and goes on as the real
one. Libvirtd is told to log the entry of each storage call. Both are undone when the run ends.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

STAND_IN = Path("/usr/local/bin/qemu-img")
NOTES = Path("/run/vst-trace-qemu-img")
LOG = Path("/var/log/libvirt/vst-trace.log")
CALL = re.compile(r" : (virStorage(?:Pool|Vol)\w+):\d+ : ")

_SCRIPT = f"""#!/usr/bin/python3
# A stand-in of virt.storage's integration tests, removed when they end.
import json, os, sys
pid, others = os.getppid(), False
try:
    while pid > 1 and not others:
        with open("/proc/%d/cmdline" % pid) as line, open("/proc/%d/stat" % pid) as stat:
            words = line.read().split("\\0")
            others = "pytest" in words and not any("tests/integration" in word for word in words)
            pid = int(stat.read().rpartition(")")[2].split()[1])
except OSError:
    pass  # who started it has ended meanwhile
if not others:
    with open({str(NOTES)!r}, "a") as notes:
        notes.write(json.dumps(sys.argv[1:]) + "\\n")
os.execv("/usr/bin/qemu-img", ["/usr/bin/qemu-img", *sys.argv[1:]])
"""


@dataclass
class Trace:
    """What was seen so far."""

    def qemu_img(self) -> list[list[str]]:
        """The arguments of every qemu-img, without its own name."""
        return [json.loads(line) for line in NOTES.read_text().splitlines()]

    def libvirt_calls(self) -> set[str]:
        """The names of the storage calls that libvirtd served."""
        return set(CALL.findall(LOG.read_text(errors="replace"))) if LOG.exists() else set()


@contextlib.contextmanager
def tracing() -> Iterator[Trace]:
    """Note everything for as long as the block lasts."""
    assert not STAND_IN.exists() or "stand-in" in STAND_IN.read_text(errors="replace"), f"{STAND_IN} is somebody's"
    outputs, filters = _setting("outputs"), _setting("filters")
    NOTES.write_text("")
    LOG.unlink(missing_ok=True)
    STAND_IN.write_text(_SCRIPT)
    STAND_IN.chmod(0o755)
    _set("filters", "1:storage")
    _set("outputs", f"{outputs} 1:file:{LOG}".strip())
    try:
        yield Trace()
    finally:
        STAND_IN.unlink()
        _set("outputs", outputs)
        _set("filters", filters)
        NOTES.unlink()
        LOG.unlink(missing_ok=True)


def _setting(name: str) -> str:
    shown = _admin(f"daemon-log-{name}")
    return shown.partition(":")[2].strip()


def _set(name: str, value: str) -> None:
    _admin(f"daemon-log-{name}", f"--{name}", value)


def _admin(*words: str) -> str:
    argv = ["virt-admin", "-c", "libvirtd:///system", *words]
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=30).stdout
