# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The part ``sanity``: ``ansible-test sanity``, whole on the controller's Python, and what concerns them on all others.

No exception is granted: a ``tests/sanity/ignore-*.txt`` fails the part, and so does a test that was skipped.
"""

from __future__ import annotations

import os
import re
import shutil
from functools import partial
from pathlib import Path

from common import VENV, WORK, Trouble, copy, home, run, tracked_files, venv, venv_env
from gates import Gates
from results import Result

TARGETS = ("3.9", "3.10", "3.11", "3.12", "3.13")
"""The Pythons that modules may meet: from tests/config.yml to the newest that this ansible-core knows."""

# What ansible-test says when it could not get the script that puts pip into its virtual environments.
NO_PIP = re.compile(r"manually downloaded and saved to: (\S+/get_pip_(\d+)_(\d+)\.py)")

PIP_STAND_IN = '''\
"""Does what ansible-test wants of the script of this name, with a wheel of pip that is here already."""

import runpy
import sys

sys.path.insert(0, {wheel!r})
sys.argv[1:] = ["install"] + [word for word in sys.argv[1:] if word not in ("--no-setuptools", "--no-wheel")]
runpy.run_module("pip", run_name="__main__")
'''


def check(result: Result, timeout: float) -> None:
    """Run the sanity tests; ``timeout`` is in seconds for all Pythons together."""
    python = venv()
    place = copy("sanity")
    pythons = _installed_pythons()
    env = venv_env()
    # Ours first, since ansible-test runs under it; then the targets', ahead of any stand-in for them.
    ahead = [VENV / "bin", *(path.parent for path in pythons.values())]
    env.update(HOME=str(home()), PATH=":".join([*map(str, ahead), env["PATH"]]))
    gates = Gates(result, env, timeout)
    version = "import sys; print('%d.%d' % sys.version_info[:2])"
    controller = run([python, "-c", version], capture=True).stdout.strip()

    gates.all_of("no ignore file", _no_ignore_file)
    gates.all_of(f"python {controller}", partial(_sanity, gates, place, controller, []))
    for target in sorted(set(pythons) - {controller}):
        gates.all_of(
            f"python {target}", partial(_sanity, gates, place, target, ["--test", "compile", "--test", "import"])
        )


def _sanity(gates: Gates, place: Path, python: str, tests: list[str]) -> None:
    """Run ``ansible-test sanity`` in the copy, once more with a stand-in where it cannot get its pip script."""
    words = ["ansible-test", "sanity", "--color", "no", "--python", python, *tests]
    try:
        told = gates.program(*words, cwd=place)
    except Trouble as trouble:
        wanted = NO_PIP.search(str(trouble))
        if not wanted:
            raise Trouble(_without_pip(str(trouble))) from trouble
        _stand_in(Path(wanted[1]), f"{wanted[2]}.{wanted[3]}")
        _sanity(gates, place, python, tests)
        return
    if skipped := [line for line in told.splitlines() if "skip" in line.lower()]:
        raise Trouble("ansible-test left something out:\n" + "\n".join(skipped))


def _without_pip(told: str) -> str:
    """What ansible-test told, less the hundreds of lines in which pip fills its virtual environments."""
    first, *lines = told.splitlines()
    return "\n".join([first, *(line for line in lines if line.startswith(("ERROR", "FATAL", "See", "Running sanity")))])


def _stand_in(script: Path, version: str) -> None:
    """Put a script in place that installs this version of pip from a wheel, fetched by pip as every other package."""
    wheels = WORK / "pip"
    run([venv(), "-m", "pip", "download", "-qq", "--no-deps", "-d", wheels, f"pip=={version}"], capture=True)
    script.write_text(PIP_STAND_IN.format(wheel=str(wheels / f"pip-{version}-py3-none-any.whl")), encoding="utf-8")


def _installed_pythons() -> dict[str, Path]:
    """The interpreter of every target version that is installed here, and works: pyenv has stand-ins that do not."""
    kept = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = {}
    for version in TARGETS:
        name = f"python{version}"
        places = [*sorted(kept.glob(f"{version}.*/bin/{name}")), shutil.which(name)]
        for path in [Path(place) for place in places if place]:
            if run([path, "-c", "import venv"], check=False, capture=True).returncode == 0:
                found[version] = path
                break
    return found


def _no_ignore_file() -> None:
    granted = [str(path) for path in tracked_files() if path.match("tests/sanity/ignore*.txt")]
    if granted:
        raise Trouble(f"exceptions are not granted here: remove {', '.join(granted)} and mend what it hides.")
