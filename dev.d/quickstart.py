# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""``./dev quickstart``: from nothing to a guest that boots from a disk which the collection made.

Here is only what comes before Ansible: packages, libvirtd, an image. The rest is what a deployer would write, in
``docs/examples/quickstart``; its play recap is the last that is seen.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from common import ROOT, WORK, apt_install, libvirtd_down, libvirtd_up, run, say, tree, venv, venv_env
from guest import make_boot_image

EXAMPLE = ROOT / "docs" / "examples" / "quickstart"
IMAGE = WORK / "quickstart" / "guest.raw"
MARKER = "virt.storage quickstart"
CONSOLE = Path("/var/log/libvirt/qemu/quickstart1-console.log")
LIMIT = 30 * 60
"""Seconds that the playbook may take."""


def main(words: Sequence[str]) -> int:
    """Do what the command line asks; the exit code is Ansible's."""
    parser = argparse.ArgumentParser(prog="./dev quickstart", description="From nothing to a booted guest.")
    parser.add_argument("--check", action="store_true", help="show what would change, and change nothing")
    parser.add_argument("--remove", action="store_true", help="remove what a quickstart made")
    options = parser.parse_args(words)
    apt_install()
    venv()
    libvirtd_up()
    more = ["--check", "--diff"] if options.check else []
    told = {"quickstart_guest": ROOT / "dev.d" / "guest.py", "quickstart_console": CONSOLE}
    if options.remove:
        worked = _play("remove.yml", told, more)
    else:
        worked = _play("quickstart.yml", {**told, "quickstart_image": IMAGE, "quickstart_checksum": _image()}, more)
    if worked and options.remove and not options.check:
        run(["rm", "-rf", IMAGE.parent], root=True)
        libvirtd_down()
    return 0 if worked else 1


def _image() -> str:
    """Make the image that is to be cached, and return its checksum. The same parts give the same image."""
    IMAGE.parent.mkdir(parents=True, exist_ok=True)
    make_boot_image(IMAGE, MARKER)
    return f"sha256:{hashlib.sha256(IMAGE.read_bytes()).hexdigest()}"


def _play(playbook: str, told: Mapping[str, object], more: Sequence[str]) -> bool:
    """Run a playbook of the example, with ``told`` as its variables."""
    tree()
    variables = json.dumps({name: str(value) for name, value in told.items()})
    argv = [venv().with_name("ansible-playbook"), "-e", variables, *more]
    say(f"ansible-playbook docs/examples/quickstart/{playbook}")
    # The settings that a user has for other projects are not meant for this one.
    env = {**venv_env(), "ANSIBLE_CONFIG": str(EXAMPLE / "ansible.cfg")}
    return run([*argv, EXAMPLE / playbook], root=True, env=env, check=False, timeout=LIMIT).returncode == 0
