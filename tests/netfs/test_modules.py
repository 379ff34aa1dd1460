# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The modules on a ``netfs`` pool that two hosts have in common, on real NFS 4.2.

Machine 1 serves and mounts by loopback, machine 2 mounts over the link. The modules run in the machines as programs of
their own, without a controller, which would unpack and compile them anew for each task.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from vm_machine import Machine

Result = dict[str, Any]
MIB = 1 << 20
HERE = Path(__file__).parent
LIMIT = 150
"""Seconds that one module may take; alone on two cores none takes ten."""


@dataclass(frozen=True)
class Modules:
    """Runs modules of the collection in one machine. Calls from several threads are for several machines."""

    machine: Machine
    runner: subprocess.Popen[str]

    def __call__(self, module: str, check: bool = False, **options: Any) -> Result:
        """The module's result, whether it failed or not."""
        arguments = {"_ansible_check_mode": check, "_ansible_diff": True, **options}
        write_line(self.runner, json.dumps({"module": module, "arguments": arguments}))
        told = json.loads(read_line(self.runner, LIMIT))
        assert "Traceback" not in told["err"], told["err"]
        result: Result = json.loads(told["out"])
        return result

    def done(self, module: str, check: bool = False, **options: Any) -> Result:
        """The result of a module that does not fail."""
        result = self(module, check, **options)
        assert not result.get("failed"), result["msg"]
        return result

    def four(self, module: str, **options: Any) -> Result:
        """Check, run, check, run; gives the run's result. It was foretold, and done again it changes nothing."""
        check, run, check_again, run_again = (self.done(module, each, **options) for each in (True, False, True, False))
        assert run["changed"]
        for part in ("changed", "actions", "plan", "diff"):
            assert check[part] == run[part], f"check mode foretold another {part}"
        for again in (check_again, run_again):
            assert not again["changed"]
            assert again["actions"] == []
        return run

    def refused(self, module: str, **options: Any) -> str:
        """The one sentence with which the module fails, in check mode and in a run alike."""
        check, run = (self(module, each, **options) for each in (True, False))
        assert check.get("failed"), "check mode let pass what a run may refuse"
        assert run.get("failed"), run
        assert check["msg"] == run["msg"]
        assert "\n" not in run["msg"]
        return str(run["msg"])


def write_line(process: subprocess.Popen[str], line: str) -> None:
    """Give the process a line."""
    assert process.stdin is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()


def read_line(process: subprocess.Popen[str], seconds: float) -> str:
    """The next line that the process prints; it is killed when it takes longer."""
    assert process.stdout is not None
    limit = threading.Timer(seconds, process.kill)
    limit.start()
    line = process.stdout.readline()
    limit.cancel()
    assert line.endswith("\n"), f"it ended, or said nothing for {seconds} s"
    return line.strip()


def wait_for(machine: Machine, condition: str, seconds: float) -> None:
    """Wait until the shell condition holds in the machine."""
    tries = int(seconds * 2)
    machine.ssh(f"for try in $(seq {tries}); do {condition} && exit; sleep 0.5; done; exit 1", timeout=seconds * 4)


@contextlib.contextmanager
def serving(machine: Machine, path: str, address: str) -> Iterator[subprocess.Popen[str]]:
    """`serve_image.py` in a machine, on port 8080; it ends with the block."""
    machine.ssh("cat > /root/serve_image.py", data=(HERE / "serve_image.py").read_bytes())
    with machine.spawn(f"exec python3 /root/serve_image.py {path} {address} 8080") as server:
        try:
            assert read_line(server, 30) == "listening"
            yield server
        finally:
            server.stdin.close()


@dataclass(frozen=True)
class Source:
    """One guest's disk as raw bytes, at the same path in both machines."""

    path: str
    data: bytes

    @property
    def checksum(self) -> str:
        return f"sha256:{hashlib.sha256(self.data).hexdigest()}"


@dataclass(frozen=True)
class Shared:
    """A netfs pool that both machines have. ``made`` is what making it told, first on one, then on two."""

    name: str
    path: str
    export: str
    made: tuple[Result, Result]


class Hosts(NamedTuple):
    """The two machines, as what runs modules in them."""

    one: Modules
    two: Modules

    def at_once(self, work: Callable[[Modules], Any]) -> list[Any]:
        """Do the work on both together; gives both results, or raises what one raised."""
        with ThreadPoolExecutor(2) as threads:
            return list(threads.map(work, self))


@pytest.fixture(scope="module")
def hosts(netfs_bed) -> Iterator[Hosts]:
    with contextlib.ExitStack() as runners:
        found = []
        for machine in (netfs_bed.one, netfs_bed.two):
            machine.send_tree()
            command = "exec env PYTHONPATH=/opt/tree python3 {}/tests/run_modules.py"
            runner = machine.spawn(command.format("/opt/tree/ansible_collections/virt/storage"))
            found.append(Modules(machine, runners.enter_context(runner)))
            runners.callback(runner.stdin.close)
        yield Hosts(*found)


@pytest.fixture(scope="module")
def shared(hosts) -> Iterator[Shared]:
    name = f"shared-{uuid.uuid4().hex[:8]}"
    path, export = f"/var/lib/libvirt/images/{name}", f"/srv/nfs/{name}"
    hosts.one.machine.ssh(f"mkdir {export}")
    netfs = {"host": hosts.one.machine.address, "export": export, "version": "4.2", "options": ["hard", "noatime"]}
    made = hosts.at_once(lambda host: host.four("libvirt_pool", name=name, type="netfs", path=path, netfs=netfs))
    yield Shared(name, path, export, (made[0], made[1]))
    for host in hosts:
        host.done("libvirt_pool", name=name, state="absent")
        host.machine.ssh(f"! mountpoint -q {path} && rmdir {path}")
    hosts.one.machine.ssh(f"chattr -R -i {export}; rm -rf {export}")


def new_source(hosts: Hosts, seed: int) -> Source:
    """A source of 4 MiB with bytes of its own: another seed is another image."""
    source = Source(f"/root/source-{seed}.raw", random.Random(seed).randbytes(4 * MIB))
    for host in hosts:
        host.machine.ssh(f"cat > {source.path}", data=source.data)
    return source


def assert_sound(hosts: Hosts, pool: str, disks: Sequence[Result], source: Source) -> None:
    """Both hosts find no fault in records and images, and read the disks back as ``source``, each a half of them."""

    def check(host: Modules) -> None:
        assert host.done("disk_metadata", pool=pool, state="verified")["problems"] == []
        assert host.done("cached_image", pools=[pool], state="verified")["problems"] == []
        mine = disks[hosts.index(host) :: 2] or disks
        words = [f"qemu-img compare -q -f {disk['format']} -F raw {disk['path']} {source.path}" for disk in mine]
        host.machine.ssh(" && ".join(words), timeout=LIMIT)

    hosts.at_once(check)


def test_a_netfs_pool_is_made_over_loopback_and_over_the_link(hosts, shared):
    for host, told in zip(hosts, shared.made):
        pool = told["pool"]
        assert (pool["state"], pool["type"], pool["path"]) == ("active", "netfs", shared.path)
        options = host.machine.ssh(f"findmnt --noheadings --output OPTIONS {shared.path}").stdout.strip().split(",")
        assert {"vers=4.2", "hard", "noatime"} <= set(options)
        assert "nocto" not in options


def test_mounts_on_which_records_cannot_live_are_refused(hosts):
    two, name = hosts.two, f"unfit-{uuid.uuid4().hex[:8]}"
    path = f"/var/lib/libvirt/images/{name}"
    server = {"host": hosts.one.machine.address, "export": "/srv/nfs"}
    pool = {"name": name, "type": "netfs", "path": path}
    two.machine.ssh(f"mkdir {path}")
    assert "option nocto cannot" in two.refused("libvirt_pool", **pool, netfs={**server, "options": ["nocto"]})
    assert "say the version with" in two.refused("libvirt_pool", **pool, netfs={**server, "options": ["vers=3"]})
    assert "4.1, 4.2, got: 3" in two.refused("libvirt_pool", **pool, netfs={**server, "version": "3"})

    # What the kernel says of a mount counts, whatever the options were.
    two.machine.ssh(f"mount -t nfs4 -o vers=4.2,nocto {server['host']}:/srv/nfs {path}")
    told = two("libvirt_pool", **pool, netfs=server)
    assert told["failed"]
    assert "mounted with nocto" in told["msg"]
    assert name not in two.machine.ssh("virsh --connect qemu:///system pool-list --all --name").stdout.split()
    two.machine.ssh(f"! mountpoint -q {path} && rmdir {path}")


def test_what_one_host_brings_the_other_uses(hosts, shared):
    one, two = hosts
    source = new_source(hosts, 1)
    image = {"name": "first", "source": source.path, "format": "raw", "checksum": source.checksum}
    brought = one.four("cached_image", pools=[shared.name], images=[image])["images"][0]
    assert (brought["state"], brought["size"]) == ("ready", 4 * MIB)
    found = two.done("cached_image", pools=[shared.name], images=[image])
    assert (found["changed"], found["images"][0]["id"]) == (False, brought["id"])

    disks = [
        {"instance": "web1", "image": "first", "size": "64M"},
        {"instance": "web1", "role": "copy", "image": "first", "clone": "copy"},
        {"instance": "web1", "role": "data", "blank": {"fs": "none"}, "size": "1G"},
    ]
    made = two.four("instance_disk", pool=shared.name, disks=disks)["disks"]
    assert [(disk["role"], disk["format"], disk["size"]) for disk in made] == [
        ("root", "qcow2", 64 * MIB),
        ("copy", "raw", 4 * MIB),
        ("data", "qcow2", 1 << 30),
    ]
    same = one.done("instance_disk", pool=shared.name, disks=disks)
    assert not same["changed"]
    assert [disk["id"] for disk in same["disks"]] == [disk["id"] for disk in made]
    assert_sound(hosts, shared.name, made[:2], source)


def test_both_hosts_at_once_read_a_source_once_and_make_sound_disks(hosts, shared):
    one = hosts.one.machine
    source, spare = new_source(hosts, 2), new_source(hosts, 3)
    url = f"http://{one.address}:8080/guest.raw"
    wanted = {"name": "both", "source": url, "format": "raw", "checksum": source.checksum}
    unused = {"name": "spare", "source": spare.path, "format": "raw", "checksum": spare.checksum}
    with serving(one, source.path, one.address) as server, ThreadPoolExecutor(2) as threads:
        fills = [threads.submit(host.done, "cached_image", pools=[shared.name], images=[wanted]) for host in hosts]
        # Both have planned a fill when both show that they are at work; only then does the server go on.
        wait_for(one, f"test $(ls {shared.export}/.virt-storage/locks | grep -c ^owner) -ge 2", 60)
        write_line(server, "go on")
        filled = [fill.result() for fill in fills]
        said, _errors = server.communicate(timeout=30)
    assert said.split().count("asked") == 1, "the source is read once for both hosts"
    assert [result["changed"] for result in filled] == [True, True], "both set out to fill"
    assert len({result["images"][0]["id"] for result in filled}) == 1

    # Again both at once: one more image, twenty disks a host of the first, and what nothing uses goes.
    def work(host: Modules) -> list[Result]:
        host.done("cached_image", pools=[shared.name], images=[unused])
        disks = [{"instance": f"{host.machine.name}-{number}", "image": "both"} for number in range(20)]
        made = host.done("instance_disk", pool=shared.name, disks=disks)["disks"]
        host.done("cached_image", pools=[shared.name], state="pruned", cache={"max_bytes": "1M"})
        return made

    made = [disk for disks in hosts.at_once(work) for disk in disks]
    assert len({disk["id"] for disk in made}) == 40
    assert {disk["backing"] for disk in made} == {filled[0]["images"][0]["id"]}
    for host in hosts:
        images = host.done("cached_image_info", pools=[shared.name])["images"]
        assert {image["references"] for image in images if image["name"] == "both"} == {40}
        assert "spare" not in {image["name"] for image in images}
    assert_sound(hosts, shared.name, made, source)


def test_a_root_squashed_export_is_refused_in_one_sentence_and_left_as_it_is(hosts):
    two, name = hosts.two, f"squashed-{uuid.uuid4().hex[:8]}"
    path = f"/var/lib/libvirt/images/{name}"
    source = new_source(hosts, 4)
    netfs = {"host": hosts.one.machine.address, "export": "/srv/squashed"}
    image = {"name": "never", "source": source.path, "format": "raw"}
    disk = {"instance": "never", "blank": {"fs": "none"}, "size": "1M"}
    assert two.done("libvirt_pool", name=name, type="netfs", path=path, netfs=netfs)["changed"]
    for told in (
        two("libvirt_pool", name=name, labels={"tier": "fast"}),
        two("cached_image", pools=[name], images=[image]),
        two("instance_disk", pool=name, disks=[disk]),
    ):
        assert told["failed"]
        assert "root_squash" in told["msg"]
        assert "\n" not in told["msg"]
        assert not told.get("changed")
    assert hosts.one.machine.ssh("ls -A /srv/squashed").stdout == ""
    two.done("libvirt_pool", name=name, state="absent")
    two.machine.ssh(f"! mountpoint -q {path} && rmdir {path}")


def test_a_disk_that_the_other_host_uses_is_not_removed(hosts, shared):
    one, two = hosts
    disk = {"instance": "busy", "blank": {"fs": "none"}, "size": "1M"}
    path = one.done("instance_disk", pool=shared.name, disks=[disk])["disks"][0]["path"]
    served = path.replace(shared.path, shared.export)
    absent = {"pool": shared.name, "disks": [{"instance": "busy"}], "state": "absent"}
    with one.machine.spawn(f"exec qemu-io -f qcow2 {path}") as user:
        write_line(user, "length")
        assert "1 MiB" in read_line(user, 30)
        assert "on this host or another" in two.refused("instance_disk", **absent)
        one.machine.ssh(f"test -s {served}")
        user.communicate(timeout=30)
    two.four("instance_disk", **absent)
    one.machine.ssh(f"! test -e {served}")


def test_a_host_that_freezes_in_a_fill_delays_the_other_by_a_lease_and_does_no_harm(hosts, shared):
    one, two = hosts
    source = new_source(hosts, 5)
    image = {"name": "cold", "format": "raw", "checksum": source.checksum}
    here = {"pools": [shared.name], "images": [{**image, "source": source.path}]}
    slow = {"pools": [shared.name], "images": [{**image, "source": "http://127.0.0.1:8080/guest.raw"}]}
    with serving(two.machine, source.path, "127.0.0.1") as server, ThreadPoolExecutor(1) as threads:
        woken = threads.submit(two, "cached_image", **slow)
        assert [read_line(server, 60), read_line(server, 60)] == ["asked", "half"]
        wait_for(two.machine, f"ls {shared.path}/.virt-storage/images | grep -q ^image.cold", 30)
        with two.machine.frozen("process"):
            started = time.monotonic()
            filled = one.done("cached_image", **here)
            waited = time.monotonic() - started
            disk = {"instance": "warm", "image": "cold"}
            made = one.done("instance_disk", pool=shared.name, disks=[disk])["disks"]
        write_line(server, "go on")
        told = woken.result()
        server.communicate(timeout=30)
    assert filled["changed"]
    assert waited < 60, "our lease of 30 s, within which the server's of 10 s is over, and the fill itself"
    assert not told.get("failed") or "\n" not in told["msg"]
    assert_sound(hosts, shared.name, made, source)

    # Who woke up may have published, too. Then the younger image is out of use, and goes with the last disk on it.
    prune = {"pools": [shared.name], "state": "pruned"}
    two.done("cached_image", **prune)
    again = two.done("cached_image", **prune)
    assert (again["changed"], again["pruned"][shared.name]["cleared"]) == (False, [])
    one.done("instance_disk", pool=shared.name, disks=[{"instance": "warm"}], state="absent")
    assert two.done("cached_image", **prune)["pruned"][shared.name]["left"] == []
    now = two.done("cached_image", **here)
    assert not now["changed"]
    images, staged, begun = (
        one.machine.ssh(f"ls {shared.export}/.virt-storage/{folder}").stdout.split()
        for folder in ("images", "staging", "new")
    )
    assert [name for name in images if name.startswith("image+cold+")] == [f"{now['images'][0]['id']}.raw"]
    assert staged == begun == []
