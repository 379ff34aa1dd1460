# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What preflight says of a host. It can import nothing of the collection, so that it agrees with it is checked here."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.virt.storage.plugins.module_utils._ground import command
from ansible_collections.virt.storage.plugins.module_utils._tasks import interpreter
from ansible_collections.virt.storage.plugins.module_utils._tasks.kinds import KINDS

SCRIPT = Path(__file__).resolve().parents[2] / "playbooks" / "files" / "preflight.py"


@pytest.fixture
def preflight(monkeypatch: pytest.MonkeyPatch) -> Any:
    spec = importlib.util.spec_from_file_location("preflight", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "preflight", module)
    spec.loader.exec_module(module)
    return module


def looked(preflight: Any, capsys: pytest.CaptureFixture[str], **given: Any) -> dict[str, list[str]]:
    preflight.main([json.dumps(given)])
    told: dict[str, list[str]] = json.loads(capsys.readouterr().out)
    return told


def test_it_looks_where_the_modules_look(preflight: Any) -> None:
    assert preflight.INTERPRETERS == interpreter.INTERPRETERS
    assert {"dir", "netfs", *preflight.OTHERS} == {*KINDS}
    for program in preflight.PROGRAMS:
        assert (program.debian, program.redhat) == command.PACKAGES[program.name]


@pytest.mark.parametrize(("family", "package"), [("Debian", "qemu-utils"), ("RedHat", "qemu-img")])
def test_a_bare_host_is_told_its_own_packages(
    preflight: Any,
    family: str,
    package: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(preflight, "PATH", str(tmp_path))
    monkeypatch.setattr(preflight, "INTERPRETERS", ())
    monkeypatch.setattr(preflight.sys, "executable", str(tmp_path / "python3"))
    told = looked(preflight, capsys, family=family)
    assert f"qemu-img is missing: install {package}." in told["problems"]
    assert "No Python here can import libvirt: install python3-libvirt." in told["problems"]
    assert any(sentence.startswith("virsh is missing") for sentence in told["problems"])
    assert any(sentence.startswith("mount.nfs is missing") for sentence in told["hints"])


def test_a_program_matters_when_a_pool_needs_it(
    preflight: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(preflight, "PATH", str(tmp_path))
    shared = {"name": "shared", "type": "netfs", "path": str(tmp_path)}
    group = {"name": "group", "type": "logical", "logical": {"group": "vg0"}}
    told = looked(preflight, capsys, family="Debian", pools=[shared])
    assert "mount.nfs is missing: install nfs-common." in told["problems"]
    assert "lvm is missing, which pools of type logical need: install lvm2." in told["hints"]
    assert f"Pool shared ({tmp_path}) is not mounted, so that nothing is said of it." in told["found"]
    told = looked(preflight, capsys, family="Debian", pools=[group])
    assert "lvm is missing: install lvm2." in told["problems"]
    assert "Pool group is of type logical: it has no folder to look at." in told["found"]


@pytest.mark.parametrize(("type", "has", "lacks"), [("rbd", "", True), ("rbd", "rados rbd", False), ("dir", "", False)])
def test_the_bindings_of_ceph_matter_to_its_pools(
    preflight: Any, type: str, has: str, lacks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = {"libvirt", *has.split()}

    def run(*words: str) -> tuple[int, str]:
        return (0, "Python 3.11.2") if words[-1].rpartition(" ")[2] in {*there, "--version"} else (1, "")

    monkeypatch.setattr(preflight, "run", run)
    report = preflight.Report("Debian")
    preflight.look_at_python(report, {type})
    assert any("install python3-rados and python3-rbd" in problem for problem in report.problems) == lacks


@pytest.mark.parametrize(
    ("kind", "options", "problem"),
    [
        ("ext4", {"ro"}, "The file system of pool ssd is read-only: remount /srv."),
        ("nfs4", {"rw", "vers=4.0"}, "/srv is mounted with NFS 4.0: pool ssd needs 4.1 or 4.2."),
        ("nfs4", {"rw", "vers=4.2", "nocto"}, "/srv is mounted with nocto, which no pool can be: remount it without."),
        ("nfs4", {"rw", "vers=4.2"}, None),
    ],
)
def test_a_mount_that_will_not_do(
    preflight: Any, kind: str, options: set[str], problem: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "mount_of", lambda _path: (kind, options, "/srv"))
    report = preflight.Report("Debian")
    preflight.look_at_pool(report, {"name": "ssd", "type": "dir", "path": str(tmp_path / "not" / "yet")})
    assert report.problems == ([problem] if problem else [])


def test_the_mount_of_a_path_is_that_of_the_kernel(preflight: Any, tmp_path: Path) -> None:
    assert preflight.mount_of("/proc/self")[::2] == ("proc", "/proc")
    assert preflight.mount_of("/procedure")[2] == "/"


def test_it_runs_alone(tmp_path: Path) -> None:
    """As Ansible runs it on a host: the file, by itself, without the site's packages."""
    words = [sys.executable, "-I", "-S", str(SCRIPT), json.dumps({"family": "Debian", "pools": []})]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=tmp_path, timeout=120)
    assert set(json.loads(done.stdout)) == {"problems", "hints", "found"}
