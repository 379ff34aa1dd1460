# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The command line of ``./dev``: what it can do, and which part does it."""

from __future__ import annotations

import argparse
import importlib
import shutil
import signal
import sys
import time

import ceph
import lint
import sanity
import vm_machine
from common import (
    CEPH_PACKAGES,
    PACKAGES,
    ROOT,
    WORK,
    Trouble,
    apt_install,
    libvirtd,
    libvirtd_answers,
    libvirtd_down,
    libvirtd_up,
    root_prefix,
    run,
    say,
    tree,
    venv,
    venv_env,
)
from lanes import run_lanes
from results import Result, show
from suites import SUITES, run_molecule, run_suite

# Side by side: what has to do with libvirtd, and the rest.
LANES = (("integration", "molecule"), ("lint", "unit", "contract", "crash", "interleavings", "sanity"))
FULL_LANES = ((*LANES[0], "conversion", "netfs", "lvm", "power"), LANES[1])
DEFAULT_PARTS = tuple(part for lane in LANES for part in lane)
FULL_PARTS = tuple(part for lane in FULL_LANES for part in lane)

# Seconds after which the parts that are left are given up. The default parts take under 40 minutes on two free cores;
# the bound leaves room for a machine that is shared.
DEFAULT_LIMIT = 75 * 60
FULL_LIMIT = 6 * 60 * 60

BENCHES = ("fill", "pools", "clone", "noop")


def setup() -> None:
    """Have everything that the other commands need: packages, the virtual environment, the namespaced folder."""
    apt_install([*PACKAGES, *CEPH_PACKAGES])
    venv()
    tree()


def test_all(full: bool) -> bool:
    """Run the whole suite and print what it came to."""
    root_prefix()  # say it now, not after half an hour, when there is no way to become root
    setup()
    began = time.monotonic()
    with libvirtd():
        limit = FULL_LIMIT if full else DEFAULT_LIMIT
        results = run_lanes(FULL_LANES if full else LANES, full=full, timeout=limit)
    passed = show(results)
    say(f"all of it took {(time.monotonic() - began) / 60:.0f} min")
    return passed


def test(part: str, full: bool, extra: list[str]) -> bool:
    """Run a part of the suite and print what it came to."""
    root_prefix()
    setup()
    result = Result(part)
    start = time.monotonic()
    limit = DEFAULT_LIMIT if part in DEFAULT_PARTS and not full else FULL_LIMIT
    try:
        _run_part(part, result, full=full, extra=extra, timeout=limit)
    except Trouble as trouble:
        result.count(part, str(trouble))
    result.seconds = time.monotonic() - start
    result.save()
    return show([result])


def _run_part(part: str, result: Result, *, full: bool, extra: list[str], timeout: float) -> None:
    if part in SUITES:
        run_suite(part, result, full=full, extra=extra, timeout=timeout)
    elif part == "molecule":
        run_molecule(result, full=full, extra=extra, timeout=timeout)
    else:
        {"lint": lint.check, "sanity": sanity.check}[part](result, timeout=timeout)


def bench(name: str, extra: list[str]) -> bool:
    """Run one of the measurements in ``tests/bench``."""
    setup()
    with libvirtd():
        words = [venv(), ROOT / "tests" / "bench" / f"{name}.py", *extra]
        env = {**venv_env(), "PYTHONPATH": str(tree())}
        return run(words, root=True, env=env, check=False, timeout=FULL_LIMIT).returncode == 0


def daemon(action: str) -> bool:
    """Start or stop libvirtd, or say whether it answers."""
    if action == "status":
        answers = libvirtd_answers()
        say("libvirtd answers" if answers else "libvirtd does not answer")
        return answers
    if action == "up":
        apt_install()
        say("libvirtd was started" if libvirtd_up() else "libvirtd was running already")
    else:
        say("libvirtd was stopped" if libvirtd_down() else "libvirtd was not started from here, so it is left alone")
    return True


def clean() -> bool:
    """Stop what was started and remove ``.work``; packages of the distribution are named and left."""
    vm_machine.down()
    libvirtd_down()
    ceph.down()
    told = WORK / "apt-installed"
    if told.exists():
        say(f"installed with apt, and left: {' '.join(sorted(set(told.read_text(encoding='ascii').split())))}")
    if WORK.exists():
        # Tests that ran as root may have left files of root's.
        run(["rm", "-rf", "--one-file-system", WORK], root=True)
    return True


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    top = argparse.ArgumentParser(prog="./dev", description="Everything that is done with this repository.")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("setup", help="install what the other commands need (they do it themselves, too)")
    tests = commands.add_parser("test", help="run the tests; further options go to pytest or molecule")
    tests.add_argument("part", nargs="?", choices=FULL_PARTS, help=f"default: {' '.join(DEFAULT_PARTS)}")
    tests.add_argument("--full", action="store_true", help="the long forms, hours instead of minutes")
    benches = commands.add_parser("bench", help="measure, each figure beside its floor")
    benches.add_argument("name", choices=BENCHES)
    daemons = commands.add_parser("libvirtd", help="start or stop libvirtd where no service manager does")
    daemons.add_argument("action", choices=("up", "down", "status"))
    commands.add_parser("ceph", help="a Ceph cluster on the loopback, for the tests of rbd pools", add_help=False)
    commands.add_parser("quickstart", help="from nothing to a booted guest; --remove takes it all away", add_help=False)
    commands.add_parser("vm", help="the machines that the netfs, lvm and power tests run on", add_help=False)
    commands.add_parser("clean", help="stop and remove what ./dev made; packages of the distribution stay")
    return top


def main() -> int:
    """Do what the command line asks; the exit code is 0 when all of it worked."""
    # Told to end, go through the same exits as an error does, so that what was started is stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # A shell has its background jobs ignore this one, and what they start: but it is how tests are told to clear up.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    options, extra = parser().parse_known_args()
    if extra and options.command not in ("test", "bench", "ceph", "quickstart", "vm"):
        parser().error(f"unrecognized arguments: {' '.join(extra)}")
    if extra and options.command == "test" and options.part in (None, "lint", "sanity"):
        parser().error(f"{' '.join(extra)}: further options belong to one part that runs pytest or molecule")
    if not shutil.which("git"):
        raise Trouble("git is not installed: apt-get install git")
    worked = True
    if options.command == "setup":
        setup()
    elif options.command == "test":
        worked = test(options.part, options.full, extra) if options.part else test_all(options.full)
    elif options.command == "bench":
        worked = bench(options.name, extra)
    elif options.command == "libvirtd":
        worked = daemon(options.action)
    elif options.command == "clean":
        worked = clean()
    else:
        return int(importlib.import_module(options.command).main(extra) or 0)
    return 0 if worked else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Trouble as trouble:
        print(f"./dev: {trouble}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
