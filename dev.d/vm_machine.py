# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One or two test machines: started, talked to, disturbed and stopped. Tests use :func:`machines`.

The machines know nothing of the host's network: ssh is forwarded from a free port of the loopback, and the two are
joined with each other by a link of their own. A machine's disks are made anew when it starts and live until it stops;
a reset keeps them.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
import signal
import socket
import subprocess
import tarfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from common import ROOT, Trouble, only_one, run, say, tracked_files
from vm_image import CACHE, Image, build, keys

TREE = "/opt/tree"
"""Folder in a machine that stands for ``.work/tree``: the parent of ``ansible_collections``."""
MEMORY = "1G"
DATA_SIZE = 16 << 30
SHARED_SIZE = 4 << 30
BOOT_LIMIT = 240
"""Seconds in which a machine must be ready; alone on two cores it takes about 20."""


class Machine:
    """The machine with a number, whether it runs or not; ``Machine(1)`` always means the same one.

    Its disks: ``/dev/vda`` is the root, ``/dev/vdb`` (serial ``data``, 16 GiB) is blank and its own, ``/dev/vdc``
    (serial ``shared``, 4 GiB) is one and the same disk in both machines.
    """

    def __init__(self, number: int) -> None:
        if number not in (1, 2):
            raise Trouble(f"there is no machine {number}: the link between machines joins two, 1 and 2.")
        self.number = number
        self.name = f"vm{number}"
        self.address = f"10.99.0.{number}"
        """On the link between the machines; the host cannot reach it."""
        self.folder = CACHE / self.name
        self.console = self.folder / "console.log"
        self.ssh_config = self.folder / "ssh_config"
        self._qmp = self.folder / "qmp.sock"

    # ---- life

    def pid(self) -> int:
        """The process id of the machine's emulator, 0 when it does not run."""
        with contextlib.suppress(OSError, ValueError):
            pid = int((self.folder / "pid").read_text(encoding="ascii"))
            # Process ids come back: only the socket's path proves that this one is ours.
            if str(self._qmp).encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
        return 0

    def start(self, image: Image, link_port: int) -> None:
        """Start the machine with fresh disks and return at once; :meth:`wait_ready` waits."""
        run(["rm", "-rf", self.folder])
        self.folder.mkdir(parents=True)
        create = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw"]
        run([*create, "-b", image.root, self.folder / "root.qcow2"])
        _sparse(self.folder / "data.raw", DATA_SIZE)
        ssh_port = _free_port()
        self.ssh_config.write_text(self._ssh_settings(ssh_port), encoding="utf-8")
        run(["qemu-system-x86_64", *self._hardware(image), *self._disks(), *self._cards(ssh_port, link_port)])

    def wait_ready(self, after: int = 0) -> None:
        """Wait until ssh and libvirt answer; ``after`` is the length of the console's log before a reset."""
        end = time.monotonic() + BOOT_LIMIT
        while "bed: ready" not in (said := self.console.read_bytes()[after:].decode(errors="replace")):
            if not self.pid() or "Kernel panic" in said or time.monotonic() > end:
                raise Trouble(
                    f"{self.name} was not ready within {BOOT_LIMIT} s. Its console ends with:\n{said[-3000:]}"
                )
            time.sleep(0.2)
        self.ssh("true")

    def stop(self) -> None:
        """Switch the machine off as a power cut would, and forget its disks. It may be stopped or frozen already."""
        if pid := self.pid():
            try:
                os.kill(pid, signal.SIGKILL)
            except PermissionError as error:
                raise Trouble(f"{self.name} (process {pid}) is another user's: stop it as that user.") from error
            end = time.monotonic() + 10
            while self.pid():
                if time.monotonic() > end:
                    raise Trouble(f"{self.name} (process {pid}) was killed and is still there after 10 s: look at it.")
                time.sleep(0.05)
        run(["rm", "-rf", self.folder])

    def reset(self) -> None:
        """Press the reset button, nothing is shut down, and wait until the machine is ready again."""
        seen = self.console.stat().st_size
        self.qmp("system_reset")
        # The kept connection would be found dead only by the first command over it.
        run(["ssh", "-F", self.ssh_config, "-O", "exit", self.name], check=False, capture=True, timeout=10)
        self.wait_ready(after=seen)

    # ---- talking to it

    def ssh(
        self, command: str, *, check: bool = True, timeout: float = 60, data: bytes | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell command as root in the machine; ``data`` is its standard input, ``timeout`` in seconds.

        Raises :class:`Trouble` when the time is over, and, with ``check``, for an exit code that is not 0.
        """
        argv = ["ssh", "-F", str(self.ssh_config), self.name, command]
        try:
            done = subprocess.run(argv, input=data or b"", capture_output=True, timeout=timeout, check=False)
        except subprocess.TimeoutExpired as error:
            raise Trouble(f"{self.name}: {command!r} did not end within {timeout:.0f} s.") from error
        out, err = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
        if check and done.returncode:
            raise Trouble(f"{self.name}: {command!r} ended with exit code {done.returncode}.\n{out}{err}".rstrip())
        return subprocess.CompletedProcess(argv, done.returncode, out, err)

    def spawn(self, command: str) -> subprocess.Popen[str]:
        """Start a shell command in the machine; its standard input and output are pipes, it may outlive a freeze."""
        argv = ["ssh", "-F", str(self.ssh_config), self.name, command]
        return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def shell(self, command: str, timeout: float) -> int:
        """A command, ended after ``timeout`` seconds, or for "" a login shell, with this process's own input and
        output; return its exit code."""
        argv = ["ssh", "-F", str(self.ssh_config), self.name]
        if command:
            argv.append(f"timeout --kill-after=10 {timeout:.0f} sh -c {shlex.quote(command)}")
        try:
            return subprocess.run(argv, timeout=timeout + 60 if command else None, check=False).returncode
        except subprocess.TimeoutExpired as error:
            raise Trouble(f"{self.name}: {command!r} did not end within {timeout:.0f} s.") from error

    def carry_out(self, command: str, timeout: float) -> int:
        """Run a command with this process's own output and no input; return its exit code.

        It is ended in the machine, too, when ``timeout`` seconds are over or this process ends, however that does.
        """
        # The end of the input tells the machine that nobody waits any more.
        guarded = (
            f"exec 3<&0; timeout --kill-after=10 {timeout:.0f} sh -c {shlex.quote(command)} </dev/null & child=$!\n"
            "{ cat <&3; kill $child; } >/dev/null 2>&1 &\n"
            "exec 3<&-; wait $child"
        )
        argv = ["ssh", "-F", str(self.ssh_config), self.name, guarded]
        with subprocess.Popen(argv, stdin=subprocess.PIPE) as process:
            try:
                code = process.wait(timeout + 60)
            except BaseException:
                process.kill()
                raise
        if code == 124:
            raise Trouble(f"{self.name}: {command!r} did not end within {timeout:.0f} s.")
        return code

    def send_tree(self) -> str:
        """Copy the collection into the machine, replacing an earlier copy; return its root there."""
        place = f"{TREE}/ansible_collections/virt/storage"
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            for name in tracked_files():
                archive.add(ROOT / name, str(name), recursive=False)
        self.ssh(f"rm -rf {place} && mkdir -p {place} && tar -C {place} --no-same-owner -xf -", data=packed.getvalue())
        return place

    def qmp(self, command: str, **arguments: Any) -> Any:
        """Give the emulator one command of its machine protocol and return its answer."""
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(10)
            control.connect(str(self._qmp))
            stream = control.makefile("rw", encoding="utf-8")
            stream.readline()
            answer: dict[str, Any] = {}
            for each in ({"execute": "qmp_capabilities"}, {"execute": command, "arguments": arguments}):
                stream.write(json.dumps(each) + "\n")
                stream.flush()
                answer = json.loads(stream.readline())
                while "event" in answer:
                    answer = json.loads(stream.readline())
        if "error" in answer:
            raise Trouble(f"{self.name}: {command} was refused: {answer['error']['desc']}")
        return answer["return"]

    @contextlib.contextmanager
    def reaching(self, ports: Sequence[int]) -> Iterator[None]:
        """For the time of a block, these ports of the host's loopback stand on the machine's own."""
        self.ssh("true")  # over the connection that is kept, and carries them
        forward = [word for port in ports for word in ("-R", f"127.0.0.1:{port}:127.0.0.1:{port}")]
        control = ["ssh", "-F", self.ssh_config, *forward, "-O"]
        run([*control, "forward", self.name], capture=True, timeout=60)
        try:
            yield
        finally:
            run([*control, "cancel", self.name], check=False, capture=True, timeout=60)

    # ---- disturbing it

    @contextlib.contextmanager
    def frozen(self, how: str) -> Iterator[None]:
        """Stop the machine for the time of a block, and let it go on.

        ``how`` is ``process`` (SIGSTOP to the emulator: the clock of the machine jumps when it goes on, as after a
        host that hung) or ``clock`` (its processors and clock stop together: it cannot notice, as after a migration).
        """
        if how == "process":
            os.kill(self.pid(), signal.SIGSTOP)
        else:
            self.qmp("stop")
        try:
            yield
        finally:
            if how == "process":
                os.kill(self.pid(), signal.SIGCONT)
            else:
                self.qmp("cont")

    @contextlib.contextmanager
    def unlinked(self) -> Iterator[None]:
        """Pull this machine's end of the link out for the time of a block; ssh from the host still works."""
        self.qmp("set_link", name="link", up=False)
        try:
            yield
        finally:
            self.qmp("set_link", name="link", up=True)

    # ---- parts

    def _ssh_settings(self, port: int) -> str:
        known = self.folder / "known_hosts"
        known.write_text(f"test-bed {(keys() / 'host.pub').read_text(encoding='ascii')}", encoding="ascii")
        settings = {
            "HostName": "127.0.0.1",
            "Port": port,
            "User": "root",
            "IdentityFile": f'"{keys() / "client"}"',
            "IdentitiesOnly": "yes",
            "HostKeyAlias": "test-bed",
            "UserKnownHostsFile": f'"{known}"',
            "StrictHostKeyChecking": "yes",
            "ConnectTimeout": 20,
            # Emulated, a new connection costs a second and a command over a kept one a tenth of it.
            "ControlMaster": "auto",
            "ControlPath": f'"{self.folder / "ssh.sock"}"',
            "ControlPersist": "yes",
            "LogLevel": "ERROR",
        }
        return f"Host {self.name}\n" + "".join(f"    {key} {value}\n" for key, value in settings.items())

    def _hardware(self, image: Image) -> list[str | Path]:
        # Never KVM: a guest may hang in its firmware although /dev/kvm is there, and so everyone has the same bed.
        # The plain processor, because newer instructions cost more to emulate than they save: with "max" a boot
        # takes half as long again.
        return [
            *("-name", self.name, "-nodefaults", "-no-user-config", "-display", "none", "-daemonize"),
            *("-machine", "pc", "-accel", "tcg,tb-size=256", "-cpu", "qemu64", "-smp", "1", "-m", MEMORY),
            *("-kernel", image.kernel, "-initrd", image.initramfs),
            *("-append", f"console=ttyS0 quiet panic=-1 mitigations=off bed.number={self.number}"),
            *("-serial", f"file:{self.console}", "-pidfile", self.folder / "pid"),
            *("-qmp", f"unix:{self._qmp},server=on,wait=off"),
            *("-device", "virtio-rng-pci"),
        ]

    def _disks(self) -> list[str]:
        # The host never fails under a test, so only the machines' page caches matter and the host may skip syncs.
        drives = {
            "root": f"file={self.folder}/root.qcow2,format=qcow2,cache=unsafe",
            "data": f"file={self.folder}/data.raw,format=raw,discard=unmap,cache=unsafe",
            "shared": f"file={CACHE}/shared.raw,format=raw,cache=none,file.locking=off",
        }
        flags: list[str] = []
        for name, drive in drives.items():
            flags += ["-drive", f"if=none,id={name},{drive}"]
            flags += ["-device", f"virtio-blk-pci,drive={name},serial={name}{',share-rw=on' * (name == 'shared')}"]
        return flags

    def _cards(self, ssh_port: int, link_port: int) -> list[str]:
        end = "listen" if self.number == 1 else "connect"
        return [
            *("-netdev", f"user,id=host,restrict=on,hostfwd=tcp:127.0.0.1:{ssh_port}-:22"),
            *("-device", f"virtio-net-pci,netdev=host,mac=52:54:00:00:01:0{self.number}"),
            *("-netdev", f"socket,id=link,{end}=127.0.0.1:{link_port}"),
            *("-device", f"virtio-net-pci,netdev=link,mac=52:54:00:00:02:0{self.number}"),
        ]


MACHINES = (Machine(1), Machine(2))


def up(count: int) -> list[Machine]:
    """Have the first ``count`` machines ready; return those that this call started."""
    with only_one("vm"):
        image = build()
        missing = [machine for machine in MACHINES[:count] if not machine.pid()]
        if not any(machine.pid() for machine in MACHINES):
            _sparse(CACHE / "shared.raw", SHARED_SIZE)
            (CACHE / "link-port").write_text(str(_free_port()), encoding="ascii")
        if missing:
            say(f"starting {' and '.join(machine.name for machine in missing)}")
        try:
            for machine in missing:
                machine.start(image, int((CACHE / "link-port").read_text(encoding="ascii")))
            for machine in missing:
                machine.wait_ready()
        except BaseException:
            _stop(missing)
            raise
        return missing


def down() -> None:
    """Stop the machines and forget their disks. Raises :class:`Trouble` while a test uses them."""
    with used(limit=0), only_one("vm"):
        _stop(MACHINES)
        (CACHE / "shared.raw").unlink(missing_ok=True)


def _stop(those: Sequence[Machine]) -> None:
    for machine in those:
        machine.stop()


def used(limit: float = 3600) -> contextlib.AbstractContextManager[None]:
    """The machines for nobody else for the time of a block; waits for ``limit`` seconds while somebody has them."""
    return only_one("vm-in-use", limit)


@contextlib.contextmanager
def machines(count: int) -> Iterator[tuple[Machine, ...]]:
    """``count`` machines for the time of a block: ``with machines(2) as (one, two)``.

    Those that run already (``./dev vm up``) are used as they stand and stay; others come and go with the block. A
    second process that asks waits until the first is through.
    """
    with used():
        started = up(count)
        try:
            yield MACHINES[:count]
        finally:
            _stop(started)


def _sparse(path: Path, size: int) -> None:
    path.unlink(missing_ok=True)
    with open(path, "wb") as file:
        file.truncate(size)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
