# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What every ``./dev`` command stands on: telling, running, and the ground that tests need.

Only the standard library is used, because this runs before anything was installed. All state lives in
``.work/``, which git ignores and which may be removed at any time: everything here makes anew what it misses.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / ".work"
VENV = WORK / "venv"

# Debian's own interpreter and its modules: only these see the bindings that apt installs.
SYSTEM_PYTHON = "/usr/bin/python3"
SYSTEM_MODULES = "/usr/lib/python3/dist-packages"

CEPH_PACKAGES = ("ceph-common", "ceph-mgr", "ceph-mon", "ceph-osd", "python3-rados", "python3-rbd")
"""A Ceph cluster and its bindings, which the quickstart does without."""
PACKAGES = (
    "python3-venv",
    # libvirt, qemu and their bindings
    "libvirt-daemon-system",
    "libvirt-daemon",
    "libvirt-daemon-driver-storage-rbd",
    "libvirt-clients",
    "qemu-system-x86",
    "qemu-utils",
    "qemu-block-extra",
    "python3-libvirt",
    # file systems and compressors that disks and sources are made with
    "btrfs-progs",
    "dosfstools",
    "e2fsprogs",
    "xfsprogs",
    "xz-utils",
    "zstd",
    # a guest of the distribution's own parts, and what tests look with
    "busybox-static",
    "cpio",
    "mount",
    "procps",
    "shellcheck",
    "strace",
)
"""The distribution packages that the whole test suite and the quickstart stand on."""


class Trouble(Exception):
    """A command cannot go on; the text says what was found, what was expected and what to do."""


def say(text: str) -> None:
    """Tell the user one thing, at once, even when the output is a file."""
    print(f"==> {text}", flush=True)


def root_prefix() -> list[str]:
    """The words to put before a command that needs root: none for root, ``sudo -n`` otherwise."""
    if os.geteuid() == 0:
        return []
    sudo = ["sudo", "-n"]
    if shutil.which("sudo") and subprocess.run([*sudo, "true"], capture_output=True, check=False).returncode == 0:
        return sudo
    raise Trouble("this needs root, and sudo without a password is not possible here: run it as root.")


def run(
    argv: Sequence[object],
    *,
    root: bool = False,
    cwd: Path = ROOT,
    env: Mapping[str, str] | None = None,
    timeout: float = 600,
    check: bool = True,
    capture: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end and return its exit code, and with ``capture`` its output, errors included.

    ``argv`` is the program and its arguments, each turned into text by ``str``.
    ``root`` runs it with :func:`root_prefix`; ``env`` adds variables; ``timeout`` is in seconds, and when it is over
    the program is stopped together with all that it started. Raises :class:`Trouble` for that, for a program that is
    not there, and, with ``check``, for an exit code that is not 0.
    """
    words = [str(word) for word in argv]
    added = {key: str(value) for key, value in (env or {}).items()}
    if root:
        # Files that root leaves in the checkout could not be removed by its owner. sudo drops variables: name them.
        added.setdefault("PYTHONDONTWRITEBYTECODE", "1")
        if prefix := root_prefix():
            words = [*prefix, "env", *(f"{key}={value}" for key, value in added.items()), *words]
    output = subprocess.PIPE if capture else None
    merged = subprocess.STDOUT if capture else None
    try:
        process = subprocess.Popen(
            words,
            cwd=cwd,
            env={**os.environ, **added},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=merged,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise Trouble(f"{words[0]} could not be started: {error}. './dev setup' installs what is needed.") from error
    try:
        text = process.communicate(timeout=timeout)[0]
    except subprocess.TimeoutExpired as error:
        seen = stop(process)
        raise Trouble(f"{' '.join(words)} was stopped after {timeout:.0f} s.\n{seen}".rstrip()) from error
    except BaseException:
        stop(process)
        raise
    if check and process.returncode != 0:
        raise Trouble(f"{' '.join(words)} ended with exit code {process.returncode}.\n{text or ''}".rstrip())
    return subprocess.CompletedProcess(words, process.returncode, text or "", "")


def stop(process: subprocess.Popen[str], patience: float = 20) -> str:
    """End a program and its children, politely first: pytest clears up when it is interrupted, and sudo passes on only
    what it can catch. It has ``patience`` seconds for each, then it is killed. Returns what it still said."""
    seen = ""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            seen = process.communicate(timeout=patience)[0] or ""
            break
    return seen


@contextlib.contextmanager
def only_one(name: str, limit: float = 3600) -> Iterator[None]:
    """Keep a second ``./dev`` from using or making the same thing in ``.work/`` at the same time.

    Waits for ``limit`` seconds, and says so; raises :class:`Trouble` when they are over.
    """
    WORK.mkdir(exist_ok=True)
    path = WORK / f"{name}.lock"
    end = time.monotonic() + limit
    with open(path, "w", encoding="ascii") as lock:
        told = False
        while True:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            if time.monotonic() >= end:
                raise Trouble(f"another ./dev, or a test, holds {path}: let it end first (fuser {path}).")
            if not told:
                say(f"waiting for another ./dev, or a test, that holds {path}")
                told = True
            time.sleep(0.2)
        yield


def apt_install(names: Iterable[str] = PACKAGES) -> list[str]:
    """Install the distribution packages that are missing, say which, and return them."""
    if not shutil.which("apt-get"):
        raise Trouble("there is no apt-get here: these commands are made for Debian and Ubuntu.")
    with only_one("apt"):
        missing = [name for name in names if not _installed(name)]
        if missing:
            say(f"installing with apt: {' '.join(missing)}")
            quiet = {"DEBIAN_FRONTEND": "noninteractive"}
            apt = ["apt-get", "-qq", "-o", "Dpkg::Use-Pty=0", "-o", "DPkg::Lock::Timeout=300"]
            run([*apt, "update"], root=True, env=quiet, capture=True)
            apt += ["install", "--no-install-recommends"]
            run([*apt, *missing], root=True, env=quiet, capture=True, timeout=1200)
            with open(WORK / "apt-installed", "a", encoding="ascii") as told:
                told.writelines(f"{name}\n" for name in missing)
    return missing


def _installed(package: str) -> bool:
    found = run(["dpkg-query", "-W", "-f", "${db:Status-Status}", package], check=False, capture=True)
    return found.returncode == 0 and found.stdout == "installed"


def venv() -> Path:
    """Make the virtual environment of the controller and the checks, or bring it up to date; return its ``python``.

    It is made from the distribution's interpreter and sees the distribution's modules *behind* its own, through a
    ``.pth`` file: libvirt's bindings are found, while nothing of Debian's replaces what the requirements ask for.
    """
    python = VENV / "bin" / "python"
    wanted = [ROOT / "tests" / "requirements.txt", ROOT / "tests" / "constraints.txt"]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in wanted)).hexdigest()
    stamp = VENV / "requirements.sha256"
    with only_one("venv"):
        if python.exists() and stamp.exists() and stamp.read_text(encoding="ascii") == digest:
            return python
        apt_install(["python3-venv"])
        say(f"installing tests/requirements.txt with pip into {VENV.relative_to(ROOT)}")
        if not python.exists():
            run([SYSTEM_PYTHON, "-m", "venv", VENV], capture=True)
        pip = [python, "-m", "pip", "install", "-qq", "--no-input", "--disable-pip-version-check"]
        requirements, constraints = wanted
        run([*pip, "-r", requirements, "-c", constraints], capture=True, timeout=1200)
        (modules,) = VENV.glob("lib/python3*/site-packages")
        (modules / "system-bindings.pth").write_text(f"{SYSTEM_MODULES}\n", encoding="ascii")
        stamp.write_text(digest, encoding="ascii")
    return python


def venv_env() -> dict[str, str]:
    """Variables for a program of the virtual environment: its commands first, our collection found by Ansible."""
    return {
        "PATH": f"{VENV / 'bin'}:{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin",
        "ANSIBLE_COLLECTIONS_PATH": str(tree()),
        "ANSIBLE_NOCOLOR": "1",
        "NO_COLOR": "1",
    }


def tree() -> Path:
    """The folder to put on ``PYTHONPATH``: the checkout under its namespaced name, through a symbolic link."""
    place = WORK / "tree" / "ansible_collections" / "virt" / "storage"
    if not place.is_symlink():
        place.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            place.symlink_to(ROOT)
    return WORK / "tree"


def tracked_files() -> list[Path]:
    """What belongs to the collection, relative to its root: files that git tracks, or would unless told to ignore."""
    # Root may look at the checkout of another user here: nothing of it is executed.
    git = ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = run(git, capture=True).stdout.split("\0")
    return [Path(name) for name in sorted(set(names)) if name and os.path.lexists(ROOT / name)]


def copy(name: str) -> Path:
    """A fresh copy of the collection at its namespaced place, for tools that refuse a link; returns its root.

    Each user has a copy of its own, called ``name``. It is a git repository, for tools that ask git what belongs to
    a project: the one around it would tell them that nothing in ``.work`` does.
    """
    top = WORK / "copy" / name
    place = top / "ansible_collections" / "virt" / "storage"
    if top.exists():
        shutil.rmtree(top)
    for file in tracked_files():
        (place / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / file, place / file, follow_symlinks=False)
    run(["git", "init", "-q", "--template=", place], capture=True)
    return place


def home() -> Path:
    """A home for tools that litter theirs; it sees the user's settings of pip, and of nothing else."""
    place = WORK / "home"
    for settings in (".config/pip", ".pip"):
        link = place / settings
        link.parent.mkdir(parents=True, exist_ok=True)
        if (Path.home() / settings).is_dir() and not link.is_symlink():
            link.symlink_to(Path.home() / settings)
    return place


def has_systemd() -> bool:
    """Whether systemd runs this machine; a container or a rescue shell often has no service manager at all."""
    return Path("/run/systemd/system").is_dir()


def libvirtd_answers() -> bool:
    """Whether the system's libvirt daemon takes connections."""
    with contextlib.suppress(Trouble):
        return run(["virsh", "-q", "-c", "qemu:///system", "uri"], root=True, check=False, capture=True).returncode == 0
    return False


def libvirtd_up() -> bool:
    """Have the system's libvirt daemon answer; true when this call had to start it (and so may stop it)."""
    if libvirtd_answers():
        return False
    say("starting libvirtd")
    if has_systemd():
        run(["systemctl", "start", "libvirtd.service"], root=True, capture=True)
        started = ["systemd"]
    else:
        run(["mkdir", "-p", "/run/libvirt"], root=True)
        _open_kvm()
        started = [_start_daemon(name) for name in ("virtlogd", "libvirtd") if not _daemon_pid(name)]
    WORK.mkdir(exist_ok=True)
    (WORK / "libvirtd.started").write_text("\n".join(started), encoding="ascii")
    end = time.monotonic() + 30
    while not libvirtd_answers():
        if time.monotonic() > end:
            raise Trouble("libvirtd was started and does not answer within 30 s: see its log.")
        time.sleep(0.2)
    return True


def libvirtd_down() -> bool:
    """Stop what :func:`libvirtd_up` started, and nothing else; true when there was something to stop."""
    note = WORK / "libvirtd.started"
    if not note.exists():
        return False
    say("stopping libvirtd")
    started = note.read_text(encoding="ascii").split("\n")
    if started == ["systemd"]:
        run(["systemctl", "stop", "libvirtd.service", *_SOCKETS], root=True, capture=True)
    for line in reversed([line for line in started if " " in line]):
        name, pid = line.split()
        if _daemon_pid(name) == int(pid):
            run(["kill", pid], root=True, check=False, capture=True)
            end = time.monotonic() + 15
            while _daemon_pid(name) == int(pid) and time.monotonic() < end:
                time.sleep(0.1)
    note.unlink()
    return True


# Left listening, these would start the service again at the next connection.
_SOCKETS = ("libvirtd.socket", "libvirtd-ro.socket", "libvirtd-admin.socket")


@contextlib.contextmanager
def libvirtd() -> Iterator[None]:
    """The libvirt daemon for as long as a block lasts; one that already answered is left as it was."""
    started = libvirtd_up()
    try:
        yield
    finally:
        if started:
            libvirtd_down()


def _open_kvm() -> None:
    """Give /dev/kvm the group and mode that Debian's udev rule gives it.

    Where no udev runs, libvirt finds the device, finds that its guests' user cannot open it, and forgets what it
    learnt of qemu at every look: each guest then takes a minute to define.
    """
    kvm = Path("/dev/kvm")
    if kvm.exists() and kvm.stat().st_mode & 0o060 != 0o060:
        say("giving /dev/kvm to the group kvm, as udev would")
        run(["chgrp", "kvm", kvm], root=True, check=False, capture=True)
        run(["chmod", "0660", kvm], root=True, check=False, capture=True)


def _start_daemon(name: str) -> str:
    run([name, "--daemon"], root=True, capture=True, env={"PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/sbin"})
    end = time.monotonic() + 10
    while not (pid := _daemon_pid(name)):
        if time.monotonic() > end:
            raise Trouble(f"{name} was started and left no process behind within 10 s: see its log.")
        time.sleep(0.1)
    return f"{name} {pid}"


def _daemon_pid(name: str) -> int:
    """The process id in a daemon's own file when that process still runs under that name, otherwise 0."""
    with contextlib.suppress(OSError, ValueError):
        pid = int(Path(f"/run/{name}.pid").read_text(encoding="ascii"))
        if Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip() == name:
            return pid
    return 0
