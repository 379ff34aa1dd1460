# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Over the whole integration run, and so last in order: nothing ever had to guess a format."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import Any

from .trace import Trace

#: What libvirtd asks itself for a guest whose disk is of type "volume", as one test defines it: no format among it.
BY_LIBVIRTD = {"virStorageVolLookupByName", "virStorageVolGetPath", "virStorageVolGetInfo"}
#: Options that state a format, by sub-command: all of a group's alternatives count as one.
STATED = {
    "info": [("-f",)],
    "check": [("-f",)],
    "commit": [("-f",)],
    "resize": [("-f",)],
    "map": [("-f",)],
    "convert": [("-f",), ("-O",)],
    "compare": [("-f",), ("-F",)],
    "create": [("-f",)],
    "rebase": [("-f",)],
    "dd": [("-f",)],
}


def test_no_qemu_img_had_to_guess(trace: Trace, task: Callable[..., Any], pool: dict[str, Any], tmp_path: Any) -> None:
    source = tmp_path / "source.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(source), "8M"], check=True)
    image = {"name": "traced", "source": str(source), "format": "qcow2"}
    task("cached_image", pools=[pool["name"]], images=[image])
    seen = trace.qemu_img()
    assert "convert" in {argv[0] for argv in seen}, "the trace noted nothing"
    for argv in seen:
        assert stated(argv), f"qemu-img {' '.join(argv)} leaves a format open"


def stated(argv: list[str]) -> bool:
    """Whether this call says all formats."""
    if argv[0] in ("--version", "--help", "measure") or "--image-opts" in argv:
        return True
    if argv[0] == "create" and ("-b" in argv) != ("-F" in argv):
        return False
    if argv[0] == "rebase" and argv[argv.index("-b") + 1] and "-F" not in argv:
        return False
    return argv[0] in STATED and all(any(option in argv for option in group) for group in STATED[argv[0]])


def test_a_guess_would_be_seen() -> None:
    assert not stated(["info", "disk"])
    assert not stated(["convert", "-O", "raw", "a", "b"])
    assert not stated(["create", "-f", "qcow2", "-b", "base", "disk"])
    assert not stated(["commit", "disk"])
    assert stated(["rebase", "-f", "qcow2", "-b", "", "disk"])


def test_libvirt_was_never_asked_for_a_format(trace: Trace, task: Callable[..., Any], pool: dict[str, Any]) -> None:
    task("libvirt_pool_info", name=[pool["name"]])
    calls = trace.libvirt_calls()
    assert "virStoragePoolGetXMLDesc" in calls, "libvirtd's log noted nothing"
    of_volumes = {call for call in calls if call.startswith("virStorageVol") and not call.endswith("Dispose")}
    assert of_volumes <= BY_LIBVIRTD, "libvirt's volume calls read formats, or are told them, and are not ours to make"
