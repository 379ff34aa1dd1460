# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""``./dev ceph``: a cluster of one monitor, one manager and one OSD on this host's loopback. See docs/testbed.md.

Tests use :func:`cluster`. Everything is in ``.work/ceph``; nothing of the host's own Ceph is read or written.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import fcntl
import json
import os
import secrets
import signal
import socket
import struct
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from common import CEPH_PACKAGES, WORK, Trouble, apt_install, only_one, run, say

FOLDER = WORK / os.environ.get("VIRT_STORAGE_CEPH", "ceph")
"""All of a cluster. The variable names another one, beside that which others use, to break."""
CONF = FOLDER / "ceph.conf"
DISKS = "virt"
"""The pool for disks and their images."""
IMAGES = "images"
"""The pool that plays Glance's."""
USER = "libvirt"
DAEMONS = {"mon.a": "ceph-mon", "osd.0": "ceph-osd", "mgr.x": "ceph-mgr"}
CAPS: dict[str, dict[str, str]] = {
    "mon.": {"mon": "allow *"},
    "client.admin": {"mon": "allow *", "mgr": "allow *", "osd": "allow *"},
    "mgr.x": {"mon": "allow profile mgr", "osd": "allow *"},
    "osd.0": {"mon": "allow profile osd", "mgr": "allow profile osd", "osd": "allow *"},
    # What README.md recommends, and nothing more.
    f"client.{USER}": {"mon": "profile rbd", "osd": f"profile rbd pool={DISKS}, profile rbd-read-only pool={IMAGES}"},
}
OSD_SIZE = 8 << 30
START_LIMIT = 90
"""Seconds in which the cluster must serve; alone on two cores it takes about 14."""
STOP_LIMIT = 10
"""Seconds that a daemon has to end before it is killed, and that this may take then."""

SETTINGS = """\
[global]
fsid = {fsid}
mon host = v2:127.0.0.1:{port}
public addr = 127.0.0.1
ms bind ipv6 = false
keyring = {folder}/$name.keyring
log file = {folder}/$name.log
pid file = {folder}/$name.pid
run dir = {folder}
crash dir = {folder}/crash
mon data = {folder}/mon
mgr data = {folder}/mgr
osd data = {folder}/osd
# Its path would be too long for a socket in some checkouts, and clients would quarrel over it.
admin socket =
auth allow insecure global id reclaim = false
mon allow pool size one = true
mon warn on pool no redundancy = false
mon data avail warn = 1
mon data avail crit = 1
mon max pg per osd = 1000
osd pool default size = 1
osd pool default min size = 1
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
osd memory target = 1073741824
bluestore block size = {size}
"""


def main(arguments: Sequence[str]) -> int:
    """Do what the command line says and return the exit code."""
    parser = argparse.ArgumentParser(prog="./dev ceph", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="COMMAND")
    verbs.add_parser("up", help="have the cluster run until 'down'")
    verbs.add_parser("down", help="stop the cluster and forget its data")
    verbs.add_parser("status", help="tell whether it runs, and how to use it")
    verb = parser.parse_args(arguments).verb
    if verb == "up":
        up()
        _kept().touch()
    elif verb == "down":
        down()
    return 0 if verb == "down" or _status() else 1


def _status() -> bool:
    for name in DAEMONS:
        print(f"{name}: {f'process {pid(name)}' if pid(name) else 'does not run'}")
    if not runs():
        return False
    print(f"health: {ceph('health')['status']}")
    print(f"monitor {monitor()}, pools {DISKS} and {IMAGES}, user {USER}, key in {keyring(USER)}")
    print(f"as admin: ceph -c {CONF} -s")
    return True


def runs() -> bool:
    """Whether all of the cluster's processes are there."""
    return all(pid(name) for name in DAEMONS)


def up() -> bool:
    """Have the cluster serve; whether this call had to start it. What is left of an earlier one is removed."""
    with only_one(FOLDER.name):
        if runs():
            return False
        apt_install(CEPH_PACKAGES)
        _down()
        say("starting a Ceph cluster on the loopback")
        try:
            _make()
        except BaseException:
            for name in DAEMONS:
                stop(name)
            raise  # its logs stay, to be looked at
        return True


def down() -> None:
    """Stop the cluster and remove all of it."""
    with only_one(FOLDER.name):
        _down()


@contextlib.contextmanager
def cluster() -> Iterator[None]:
    """The cluster for the time of a block. One that ``./dev ceph up`` started stays; otherwise the last of the
    processes that use it stops it."""
    WORK.mkdir(exist_ok=True)
    with open(WORK / f"{FOLDER.name}-users.lock", "w", encoding="ascii") as users:
        fcntl.flock(users, fcntl.LOCK_SH)
        up()
        try:
            yield
        finally:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not _kept().exists():
                    down()


# ---- using it


def monitor() -> str:
    """The monitor, as ``address:port``."""
    return next(line.split("v2:")[1] for line in CONF.read_text("utf-8").split("\n") if line.startswith("mon host"))


def ports() -> list[int]:
    """The ports that clients need."""
    named = [*ceph("mon", "dump")["mons"], *ceph("osd", "dump")["osds"]]
    vectors = [each["public_addrs"]["addrvec"] for each in named] + [ceph("mgr", "dump")["active_addrs"]["addrvec"]]
    return sorted({int(each["addr"].rpartition(":")[2]) for vector in vectors for each in vector})


def keyring(user: str) -> Path:
    """The file with a client's key; ``user`` is without ``client.``."""
    return FOLDER / f"client.{user}.keyring"


def key(user: str) -> str:
    """A client's key."""
    return next(line.split(" = ")[1] for line in keyring(user).read_text("ascii").split("\n") if "key = " in line)


def ceph(*words: object, check: bool = True) -> Any:
    """Give the cluster a command as its administrator; returns its answer, from JSON. Without ``check`` it may fail."""
    argv = ["ceph", "-c", CONF, "--connect-timeout", "20", "--format", "json", *words]
    answer = run(argv, capture=True, timeout=60, check=check).stdout
    # Standard error comes along: what stands before the JSON is a remark.
    begins = min((at for at in map(answer.find, "{[") if at >= 0), default=-1)
    return json.JSONDecoder().raw_decode(answer, begins)[0] if begins >= 0 else None


def add_user(user: str, caps: Mapping[str, str]) -> str:
    """Have a client with these capabilities; returns its key."""
    name = f"client.{user}"
    _write(keyring(user), _entry(name, caps))
    run(["ceph", "-c", CONF, "--connect-timeout", "20", "auth", "import", "-i", keyring(user)], capture=True)
    return key(user)


def pid(name: str) -> int:
    """The process id of a daemon, 0 when it does not run."""
    with contextlib.suppress(OSError, ValueError):
        number = int((FOLDER / f"{name}.pid").read_text(encoding="ascii"))
        # Process ids come back: only the path of the settings proves that this one is ours.
        if str(CONF).encode() in Path(f"/proc/{number}/cmdline").read_bytes():
            return number
    return 0


def start(name: str) -> None:
    """Start a daemon; it may take a while to serve."""
    run([DAEMONS[name], "-i", name.split(".")[1], "-c", CONF], capture=True, timeout=START_LIMIT)


def stop(name: str, number: int = signal.SIGTERM) -> None:
    """End a daemon, by force when it takes its time. It may be frozen, or not run at all."""
    for each in (number, signal.SIGKILL):
        there = pid(name)
        if not there:
            return
        run(["kill", f"-{int(each)}", there], root=True, check=False, capture=True)
        end = time.monotonic() + STOP_LIMIT
        while pid(name) and time.monotonic() < end:
            time.sleep(0.05)
    if there := pid(name):
        raise Trouble(f"{name} (process {there}) was killed and is still there after {STOP_LIMIT} s: look at it.")


@contextlib.contextmanager
def frozen(name: str) -> Iterator[None]:
    """Stop a daemon for the time of a block, and let it go on."""
    os.kill(pid(name), signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid(name), signal.SIGCONT)


def wait_until_it_serves() -> None:
    """Wait until the monitor answers and all placement groups serve, also after something was frozen."""
    end = time.monotonic() + START_LIMIT
    told = False
    while not (states := _group_states()) or not all(map(_serves, states)):
        if time.monotonic() > end:
            raise Trouble(f"the Ceph cluster does not serve after {START_LIMIT} s: see the logs in {FOLDER}.")
        if not told and any("laggy" in state for state in states):
            # An OSD that was frozen lets nobody read until another OSD renews its lease, and there is no other.
            ceph("osd", "down", "0")
            told = True
        time.sleep(0.2)


def _serves(state: str) -> bool:
    parts = set(state.split("+"))
    return "active" in parts and not parts & {"laggy", "wait", "stale"}


def _group_states() -> set[str]:
    """The states that placement groups are in."""
    with contextlib.suppress(Trouble):
        status = ceph("status")
        if status["osdmap"]["num_up_osds"]:
            return {each["state_name"] for each in status["pgmap"]["pgs_by_state"]}
    return set()


# ---- making it


def _make() -> None:
    fsid, osd = str(uuid.uuid4()), str(uuid.uuid4())
    for name in ("mon", "mgr", "osd", "crash"):
        (FOLDER / name).mkdir(mode=0o700, parents=True)
    port = _free_port()
    CONF.write_text(SETTINGS.format(fsid=fsid, port=port, folder=FOLDER, size=OSD_SIZE), encoding="utf-8")
    entries = {name: _entry(name, caps) for name, caps in CAPS.items()}
    for name, entry in entries.items():
        _write(FOLDER / f"{name}.keyring", entry)
    _write(FOLDER / "all.keyring", "".join(entries.values()))
    monmap = FOLDER / "monmap"
    run(["monmaptool", "--create", "--fsid", fsid, "--addv", "a", f"[v2:127.0.0.1:{port}]", monmap], capture=True)
    mkfs = ["ceph-mon", "--mkfs", "-i", "a", "-c", CONF, "--monmap", monmap, "--keyring", FOLDER / "all.keyring"]
    run(mkfs, capture=True)
    start("mon.a")
    ceph("osd", "new", osd)
    run(["ceph-osd", "-i", "0", "-c", CONF, "--mkfs", "--osd-uuid", osd], capture=True, timeout=START_LIMIT)
    start("osd.0")
    start("mgr.x")
    ceph("osd", "set-require-min-compat-client", "mimic")
    for pool in (DISKS, IMAGES):
        ceph("osd", "pool", "create", pool, 8)
        run(["rbd", "-c", CONF, "pool", "init", pool], capture=True, timeout=START_LIMIT)
    wait_until_it_serves()


def _down() -> None:
    for name in reversed(DAEMONS):
        stop(name)
    run(["rm", "-rf", "--one-file-system", FOLDER], root=True)


def _kept() -> Path:
    """Marks a cluster that was started to stay."""
    return FOLDER / "kept"


def _entry(name: str, caps: Mapping[str, str]) -> str:
    """A keyring's entry with a new key: type 1 (AES), no time, 16 bytes."""
    fresh = base64.b64encode(struct.pack("<HIIH", 1, 0, 0, 16) + secrets.token_bytes(16)).decode()
    lines = [f"[{name}]", f"\tkey = {fresh}", *(f'\tcaps {what} = "{may}"' for what, may in caps.items())]
    return "\n".join(lines) + "\n"


def _write(path: Path, text: str) -> None:
    """A file that only its owner can read."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="ascii") as file:
        file.write(text)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
