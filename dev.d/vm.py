# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""``./dev vm``: small machines under software emulation, for what the host's kernel lacks. See docs/testbed.md."""

from __future__ import annotations

import argparse
import contextlib
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from common import Trouble, say
from vm_image import build
from vm_machine import MACHINES, TREE, Machine, down, up, used


def main(arguments: Sequence[str]) -> int:
    """Do what the command line says and return the exit code, for ``ssh`` and ``run`` that of the command."""
    options = _parser().parse_args(arguments)
    code: int = options.do(options)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="./dev vm", description=__doc__)
    verbs = parser.add_subparsers(required=True, metavar="COMMAND")

    verbs.add_parser("build", help="make the image of the machines, when something it is made of changed").set_defaults(
        do=_build
    )
    verb = verbs.add_parser("up", help="have 1 or 2 machines ready")
    verb.add_argument("count", nargs="?", type=int, choices=(1, 2), default=1)
    verb.set_defaults(do=_up)
    verbs.add_parser("down", help="stop the machines and forget their disks").set_defaults(do=_down)
    verbs.add_parser("status", help="tell which machines run").set_defaults(do=_status)
    verbs.add_parser("inventory", help="print an Ansible inventory of the running machines").set_defaults(do=_inventory)
    for name, do, text in (
        ("ssh", _ssh, "a shell, or a command, in a machine"),
        ("run", _run, "copy the tree into a machine and run a command in its root there"),
    ):
        verb = verbs.add_parser(name, help=text)
        verb.add_argument("--timeout", type=float, default=1800, help="seconds for a command, 1800 unless told")
        verb.add_argument("number", type=int, choices=(1, 2))
        verb.add_argument("command", nargs=argparse.REMAINDER)
        verb.set_defaults(do=do)
    return parser


def _build(_options: argparse.Namespace) -> int:
    say(f"the image is {build().root}")
    return 0


def _up(options: argparse.Namespace) -> int:
    up(options.count)
    return _status(options)


def _down(_options: argparse.Namespace) -> int:
    down()
    return 0


def _status(_options: argparse.Namespace) -> int:
    for machine in MACHINES:
        pid = machine.pid()
        facts = []
        with contextlib.suppress(OSError):
            facts = Path(f"/proc/{pid}/status").read_text(encoding="ascii").split("\n") if pid else []
        if facts:
            resident = sum(int(line.split()[1]) >> 10 for line in facts if line.startswith("VmRSS:"))
            print(f"{machine.name}: process {pid}, {resident} MiB of memory, console in {machine.console}")
        else:
            print(f"{machine.name}: does not run")
    return 0


def _inventory(_options: argparse.Namespace) -> int:
    print(inventory(), end="")
    return 0


def _ssh(options: argparse.Namespace) -> int:
    return _running(options.number).shell(" ".join(options.command), options.timeout)


def _run(options: argparse.Namespace) -> int:
    if not options.command:
        raise Trouble("./dev vm run was given no command to run in the machine.")
    with used():
        machine = _running(options.number)
        place = machine.send_tree()
        return machine.carry_out(f"cd {place} && PYTHONPATH={TREE} {shlex.join(options.command)}", options.timeout)


def _running(number: int) -> Machine:
    machine = Machine(number)
    if not machine.pid():
        raise Trouble(f"{machine.name} does not run: start it with './dev vm up {number}'.")
    return machine


def inventory() -> str:
    """An Ansible inventory, in INI form, of the machines that run. It uses the connection that ``ssh`` keeps open."""
    lines = ["[vms]"]
    for machine in MACHINES:
        if machine.pid():
            settings = f'-F "{machine.ssh_config}"'
            lines.append(f"{machine.name} ansible_ssh_args='{settings}' link_address={machine.address}")
    lines += ["", "[vms:vars]", "ansible_python_interpreter=/usr/bin/python3", "ansible_ssh_pipelining=true"]
    lines += ["ansible_become=false"]  # it is root that comes in, and there is no sudo
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Trouble as trouble:
        sys.exit(str(trouble))
