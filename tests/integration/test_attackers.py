# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What an unprivileged user of the host, and a guest that has taken over its qemu, can do to a pool: nothing."""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .conftest import ModuleFailed, Modules, Place
from .test_instance_disk import SIZE, Store, open_store

QEMU = "libvirt-qemu"
SOMEBODY = "nobody"
DENIED = (errno.EACCES, errno.EPERM)


def as_user(name: str, do: Callable[[], object]) -> int:
    """Do something as another user, with that one's groups; the number of the error that it met, 0 for none."""
    account = pwd.getpwnam(name)
    pid = os.fork()
    if pid == 0:
        code = 255
        try:
            os.setgroups(os.getgrouplist(name, account.pw_gid))
            os.setresgid(account.pw_gid, account.pw_gid, account.pw_gid)
            os.setresuid(account.pw_uid, account.pw_uid, account.pw_uid)
            do()
            code = 0
        except OSError as error:
            code = error.errno or 255
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def write(path: Path) -> Callable[[], object]:
    return lambda: os.write(os.open(path, os.O_WRONLY), b"x")


@pytest.fixture
def own(task: Modules, place: Place) -> Store:
    return open_store(task, place)


# A guest that has taken over its qemu


@pytest.mark.parametrize("user", [QEMU, SOMEBODY])
def test_nobody_else_can_alter_or_replace_an_image(own: Store, user: str) -> None:
    (disk,) = own.make({"instance": "web1", "image": "base"})
    image = own.private / "images" / Path(str(own.image["path"])).name
    assert image.exists()
    attempts = {
        "write": write(image),
        "truncate": lambda: os.truncate(image, 0),
        "unlink": lambda: os.unlink(image),
        "rename onto it": lambda: os.rename(own.path / "x", image),
        "chmod": lambda: os.chmod(image, 0o666),
        "link away": lambda: os.link(image, own.path / "stolen"),
        "make beside it": lambda: os.open(image.parent / "new", os.O_CREAT | os.O_WRONLY),
        "list": lambda: os.listdir(image.parent),
    }
    met = {what: as_user(user, attempt) for what, attempt in attempts.items()}
    assert {what for what, code in met.items() if code not in (*DENIED, errno.ENOENT)} == set(), met
    assert own.four({"instance": "web1", "image": "base"}).run["changed"] is False
    assert own.task("cached_image", pools=[own.name], state="verified", images=[{"name": "base"}])["changed"] is False
    assert disk["state"] == "ready"


@pytest.mark.parametrize("user", [QEMU, SOMEBODY])
def test_nobody_else_can_read_or_write_what_is_known_of_disks(own: Store, user: str) -> None:
    own.make({"instance": "web1", "image": "base"})
    reached = []
    for path in [own.private, *own.private.rglob("*")]:
        if as_user(user, write(path)) == 0 or (
            path.is_dir() and as_user(user, lambda path=path: os.close(os.open(path / "x", os.O_CREAT, 0o600))) == 0
        ):
            reached.append(path)
        if "images" not in path.parts and path.is_file() and as_user(user, path.read_bytes) == 0:
            reached.append(path)
    assert reached == []


def test_nothing_of_a_pool_is_for_all_the_world(own: Store) -> None:
    own.make({"instance": "web1", "image": "base"}, {"instance": "web1", "role": "data", "blank": {}, "size": SIZE})
    for path in [own.path, *own.path.rglob("*")]:
        status = path.lstat()
        assert not status.st_mode & (stat.S_IWOTH | stat.S_IWGRP), f"{path} has mode {status.st_mode:o}"
        assert not status.st_mode & (stat.S_ISUID | stat.S_ISGID)
        if path.is_file() and "images" not in path.parts:
            assert not status.st_mode & stat.S_IROTH, f"{path} has mode {status.st_mode:o}"


# Somebody who can write to the folder that becomes a pool


@pytest.fixture
def shared(place: Place) -> Iterator[dict[str, str]]:
    """A pool whose folder belongs to everybody."""
    given = place.pool()
    os.mkdir(given["path"])
    os.chmod(given["path"], 0o1777)
    yield given
    shutil.rmtree(given["path"], ignore_errors=True)


def records_of_a_stranger(folder: Path, canary: Path) -> None:
    """A folder like ours, that leads to ``canary`` in all ways."""
    private = folder / ".virt-storage"
    private.mkdir()
    for name in ("records", "references", "facts", "locks", "new", "ended"):
        (private / name).mkdir()
    for name in ("images", "disks", "staging"):
        (private / name).symlink_to(canary)
    (private / "schema").write_text("1\n")


def test_records_that_a_stranger_made_up_lead_nowhere(task: Modules, shared: dict[str, str], tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    canary.mkdir(mode=0o755)
    folder = Path(shared["path"])
    assert as_user(SOMEBODY, lambda: records_of_a_stranger(folder, canary)) == 0
    task("libvirt_pool", type="dir", **shared)
    source = tmp_path / "base.raw"
    source.write_bytes(bytes(SIZE))
    said = task.refused(
        "cached_image", pools=[shared["name"]], images=[{"name": "base", "source": str(source), "format": "raw"}]
    )
    assert f"{folder}/.virt-storage is not a folder of user 0" in said
    assert "records" not in os.listdir(canary)
    assert os.listdir(canary) == []
    assert stat.S_IMODE(canary.stat().st_mode) == 0o755, "its mode was changed through a link"


def test_names_that_a_stranger_took_lead_nowhere(task: Modules, place: Place, shared: dict[str, str]) -> None:
    """Links in the place of disks, dangling or not, and a file of root by a second name."""
    canary = place.root / "canary"
    canary.write_bytes(b"safe")
    missing = place.root / "missing"
    store = open_store(task, place, Path(shared["path"]))
    os.chmod(store.path, 0o1777)
    (first,) = store.make({"instance": "known", "image": "base"})
    name = Path(str(first["path"])).name

    def plant() -> None:
        for number, target in enumerate([canary, missing]):
            os.symlink(target, store.path / name.replace("known", f"web{number}"))

    assert as_user(SOMEBODY, plant) == 0
    for number in range(2):
        with contextlib.suppress(ModuleFailed):  # taken names may stand in the way, but are not followed
            store.make({"instance": f"web{number}", "image": "base"})
    os.link(canary, store.path / "linked.raw")
    said = store.refused(
        {"instance": "web3", "import_from": {"path": str(store.path / name.replace("known", "web0")), "format": "raw"}}
    )
    assert "symbolic link" in said
    assert canary.read_bytes() == b"safe"
    assert canary.stat().st_nlink == 2
    assert not missing.exists()
    assert store.four({"instance": "known", "image": "base"}).run["changed"] is False
