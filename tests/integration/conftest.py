# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What integration tests share: the modules, run for real, against the libvirtd of this machine.

``task`` runs a module in a process of its own, as on a host, but without a controller, and forked from one that has it
imported (``tests/run_modules.py``); ``task.start`` starts it as a program. ``four`` is the order that every option and
state is put through: check, run, check, run. ``play`` goes the whole way through ``ansible-playbook`` and shows that
what is shipped to a host is complete.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import libvirt
import pytest
from ansible_collections.virt import storage

from .trace import Trace, tracing

COLLECTION = Path(next(iter(storage.__path__)))
TREE = COLLECTION.parents[2]
URI = "qemu:///system"
LIMIT = 120
"""Seconds that one module may take before the test fails."""
LAST = 600
"""The same where the machine may be emulated, and busy."""

Result = dict[str, Any]


class ModuleFailed(AssertionError):
    """A module failed; ``result`` is all that it returned, ``msg`` its sentence."""

    def __init__(self, module: str, result: Result) -> None:
        super().__init__(f"{module}: {result.get('msg')}")
        self.msg: str = result.get("msg", "")
        self.result = result


class Four(NamedTuple):
    """The results of check, run, check, run."""

    check: Result
    run: Result
    check_again: Result
    run_again: Result


@dataclass
class Modules:
    """Runs modules of the collection as programs.

    ``python`` is the interpreter, ``environment`` is added to that of the tests, ``tree`` is where the collection is.
    """

    python: str = sys.executable
    environment: dict[str, str] = field(default_factory=dict)
    tree: Path = TREE

    def __call__(self, module: str, check: bool = False, **params: Any) -> Result:
        """The result of ``module`` with ``params``; raises `ModuleFailed` when it fails."""
        if self == Modules():
            return self.read(module, *forked(module, {"_ansible_check_mode": check, "_ansible_diff": True, **params}))
        finished = self.start(module, check, **params)
        try:
            out, err = finished.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            finished.kill()
            raise
        return self.read(module, out, err)

    def start(self, module: str, check: bool = False, **params: Any) -> subprocess.Popen[str]:
        """The module as a process of its own, for tests of what several do at once or of one that is killed."""
        arguments = {"_ansible_check_mode": check, "_ansible_diff": True, **params}
        process = subprocess.Popen(
            [self.python, "-m", f"ansible_collections.virt.storage.plugins.modules.{module}"],
            env={**os.environ, "PYTHONPATH": str(TREE), **self.environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdin is not None
        process.stdin.write(json.dumps({"ANSIBLE_MODULE_ARGS": arguments}))
        process.stdin.close()
        process.stdin = None
        return process

    @staticmethod
    def read(module: str, out: str, err: str) -> Result:
        """What a finished module answered."""
        assert out.strip(), f"{module} answered nothing; its error output:\n{err}"
        result: Result = json.loads(out)
        assert "Traceback" not in err, err
        if result.get("failed"):
            raise ModuleFailed(module, result)
        return result

    def refused(self, module: str, **params: Any) -> str:
        """The sentence with which ``module`` refuses ``params``, in check mode and in a run alike."""
        with pytest.raises(ModuleFailed) as predicted:
            self(module, check=True, **params)
        with pytest.raises(ModuleFailed) as refusal:
            self(module, **params)
        assert predicted.value.msg == refusal.value.msg
        assert "\n" not in refusal.value.msg
        assert "Traceback" not in json.dumps(refusal.value.result)
        return refusal.value.msg

    def four(self, module: str, **params: Any) -> Four:
        """Check, run, check, run: the first pair agrees, and the second changes nothing."""
        results = Four(*(self(module, check=check, **params) for check in (True, False, True, False)))
        for part in ("changed", "actions", "plan", "diff"):
            assert results.check[part] == results.run[part], f"check mode predicted another {part}"
        for again in (results.check_again, results.run_again):
            assert again["actions"] == []
            assert again["changed"] is False
            assert again["diff"]["before"] == again["diff"]["after"] == {}
        return results


IDLE: list[subprocess.Popen[str]] = []
"""Processes of ``run_modules.py`` that wait for a call: as many as were ever wanted at once."""


def forked(module: str, arguments: dict[str, Any]) -> tuple[str, str]:
    """What a module printed on its two streams."""
    process = IDLE.pop() if IDLE else runner()
    assert process.stdin is not None
    assert process.stdout is not None
    call = {"module": module, "arguments": arguments, "environment": {**os.environ, "PYTHONPATH": str(TREE)}}
    limit = threading.Timer(LAST, os.killpg, (process.pid, signal.SIGKILL))
    limit.start()
    try:
        process.stdin.write(json.dumps(call) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
    finally:
        limit.cancel()
    assert line, f"{module} took longer than {LAST} s, or ended what it was forked from"
    IDLE.append(process)
    told = json.loads(line)
    return told["out"], told["err"]


def runner() -> subprocess.Popen[str]:
    """One more process to fork modules from, in a group of its own. It ends with this one."""
    process = subprocess.Popen(
        [sys.executable, COLLECTION / "tests" / "run_modules.py"],
        env={**os.environ, "PYTHONPATH": str(TREE)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    atexit.register(process.communicate)
    return process


@pytest.fixture(scope="session")
def trace() -> Iterator[Trace]:
    """What the run did behind the modules' backs; `test_zz_trace` judges it."""
    with tracing() as seen:
        yield seen


@pytest.fixture(scope="session", autouse=True)
def traced_run(request: pytest.FixtureRequest) -> None:
    """Trace from the first test on where the whole suite is run, as ``./dev test integration`` does."""
    if os.environ.get("VIRT_STORAGE_TRACE") == "1":
        request.getfixturevalue("trace")


@pytest.fixture(scope="session")
def task() -> Modules:
    """``task('libvirt_pool', check=False, name=...)`` gives the module's result or raises `ModuleFailed`."""
    return Modules()


@pytest.fixture(scope="session")
def four(task: Modules) -> Callable[..., Four]:
    """``four('libvirt_pool', name=...)``: check, run, check, run, compared."""
    return task.four


@pytest.fixture(scope="session")
def refused(task: Modules) -> Callable[..., str]:
    """``refused('libvirt_pool', name='a/b')``: the one sentence with which the module refuses."""
    return task.refused


@pytest.fixture(scope="session")
def libvirtd() -> Iterator[libvirt.virConnect]:
    """A connection of the tests' own, to look at what the modules did."""
    libvirt.registerErrorHandler(lambda _context, _error: None, None)
    connection = libvirt.open(URI)
    for pool in connection.listAllStoragePools(0):
        # A run that was killed left it, and what places disks looks at every pool of the host.
        if pool.name().startswith(("vst-", "molecule-")):
            undefine(pool)
    yield connection
    connection.close()


def undefine(pool: libvirt.virStoragePool) -> None:
    """Have libvirt forget a pool; what is in it stays."""
    persistent = pool.isPersistent()
    if pool.isActive():
        pool.destroy()  # one that is not persistent is gone by that
    if persistent:
        pool.undefine()


class Place:
    """A folder, and libvirt pool names, of one test's own; both are gone afterwards."""

    def __init__(self, connection: libvirt.virConnect) -> None:
        self.connection = connection
        self.root = Path(tempfile.mkdtemp(prefix="vst-", dir="/var/tmp"))
        self.root.chmod(0o711)

    def pool(self) -> dict[str, str]:
        """``name`` and ``path`` of a pool that does not exist yet, to be passed to a module with ``**``."""
        name = f"vst-{uuid.uuid4().hex[:8]}"
        return {"name": name, "path": str(self.root / name)}

    def remove(self) -> None:
        """Undo what the test left, by the folder it was given."""
        for pool in self.connection.listAllStoragePools(0):
            if pool.name().startswith("vst-") and str(self.root) in pool.XMLDesc(0):
                undefine(pool)
        for path in self.root.rglob("*"):
            if path.is_file() and not path.is_symlink():
                subprocess.run(["chattr", "-i", str(path)], check=False, capture_output=True)
        shutil.rmtree(self.root)


@pytest.fixture
def place(libvirtd: libvirt.virConnect) -> Iterator[Place]:
    """A folder under /var/tmp and pool names for this test, cleared away after it."""
    here = Place(libvirtd)
    yield here
    here.remove()


@pytest.fixture
def new_pool(place: Place) -> dict[str, str]:
    """``name`` and ``path`` of a pool that does not exist yet."""
    return place.pool()


@pytest.fixture
def pool(place: Place, task: Modules) -> dict[str, Any]:
    """An active dir pool of this test's own, as ``libvirt_pool`` returns it."""
    made: dict[str, Any] = task("libvirt_pool", type="dir", **place.pool())["pool"]
    return made


@pytest.fixture
def play(tmp_path: Path) -> Callable[..., list[Result]]:
    """``play([{...task...}, ...], '--check')`` runs tasks through ansible-playbook; gives one result a task.

    ``python`` is the interpreter that modules are started with.
    """

    def run(
        tasks: list[dict[str, Any]],
        *options: str,
        variables: dict[str, Any] | None = None,
        python: str = sys.executable,
    ) -> list[Result]:
        playbook = [{"hosts": "localhost", "gather_facts": False, "vars": variables or {}, "tasks": tasks}]
        book, results = tmp_path / "play.yml", tmp_path / "results.jsonl"
        book.write_text(json.dumps(playbook))
        results.write_text("")
        finished = subprocess.run(
            [
                str(Path(sys.executable).with_name("ansible-playbook")),
                *("-i", "localhost,", "-c", "local", "-e", f"ansible_python_interpreter={python}"),
                *options,
                str(book),
            ],
            env={
                **os.environ,
                "ANSIBLE_COLLECTIONS_PATH": str(TREE),
                "ANSIBLE_CALLBACK_PLUGINS": str(Path(__file__).parent / "callback_plugins"),
                "ANSIBLE_CALLBACKS_ENABLED": "collect_results",
                "COLLECT_RESULTS": str(results),
                "ANSIBLE_LOCALHOST_WARNING": "false",
                "ANSIBLE_HOME": str(tmp_path / "ansible"),
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=10 * LIMIT,
        )
        lines = [json.loads(line) for line in results.read_text().splitlines()]
        assert lines, f"no task ran:\n{finished.stdout}\n{finished.stderr}"
        return lines

    return run
