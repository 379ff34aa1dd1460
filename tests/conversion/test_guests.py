# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Conversion and the guests that have the disks: their definitions, and what waits until they are off."""

from __future__ import annotations

import json
from typing import Any

import libvirt
import libvirt_qemu
import pytest
from integration.conftest import ModuleFailed, Modules

from ansible_collections.virt.storage.plugins.module_utils._ground.errors import StorageError
from ansible_collections.virt.storage.plugins.module_utils._ground.libvirt_host import Host, Use

from .bed import Bed, by_role, run

INACTIVE = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE


def without_disks(xml: str) -> str:
    """A definition but for the disks."""
    start, end = xml.index("<disk "), xml.rindex("</disk>")
    return xml[:start] + xml[end:]


def test_definition_there_and_back(bed: Bed) -> None:
    """Only what the disk is changes, and all of that goes back."""
    folder = bed.instance(1)
    config = bed.raw(folder / "disk.config", 1 << 20)
    with bed.guest((folder / "disk", "qcow2"), (config, "raw")) as guest:
        before = guest.XMLDesc(INACTIVE)
        planned = bed.task("planned")
        assert guest.XMLDesc(INACTIVE) == before
        assert planned["instances"][0]["guest"] == guest.name()
        bed.task("converted")
        after = guest.XMLDesc(INACTIVE)
        assert without_disks(after) == without_disks(before)
        assert str(bed.instances) not in after
        assert "passwd='secret1'" in after
        assert after.count("<backingStore") == 3
        assert "relabel='no'" in after
        for kept in ("<total_iops_sec>500<", "<serial>s0<", "<serial>s1<", "cache='none'", "discard='unmap'", "KEPT"):
            assert kept in after
        assert "secret1" not in "".join(path.read_text() for path in bed.pool.glob(".virt-storage/facts/*/*"))
        assert bed.task("converted")["changed"] is False
        bed.task("rolled_back")
        assert guest.XMLDesc(INACTIVE) == before
        bed.task("converted")
        bed.task("finalized")
        assert guest.XMLDesc(INACTIVE).replace(" ", "") != before.replace(" ", "")
        assert bed.task("converted")["changed"] is False


@pytest.mark.parametrize("state", ["rolled_back", "finalized"])
def test_the_guests_are_looked_at_for_all_instances_at_once(
    bed: Bed, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[Host] = []
    uses = Host.uses

    def counted(host: Host) -> list[Use]:
        looks.append(host)
        return uses(host)

    monkeypatch.setattr(Host, "uses", counted)
    numbers = []
    for instances in ((1,), (2, 3, 4)):
        for each in instances:
            bed.instance(each)
        bed.task("converted")
        looks.clear()
        assert len(bed.task(state)["plan"]) >= len(instances)
        numbers.append(len(looks))
    assert numbers[0] == numbers[1] > 0


@pytest.mark.parametrize("state", ["running", "paused", "saved"])
def test_in_use(bed: Bed, state: str) -> None:
    """All but the header is converted; the guest goes on, starts from the pool the next time, and the rest follows."""
    folder = bed.instance(1)
    before = bed.contents()
    with bed.guest((folder / "disk", "qcow2")) as guest:
        guest.create()
        if state == "paused":
            guest.suspend()
        elif state == "saved":
            guest.managedSave()
        planned = bed.task("planned")
        assert planned["instances"][0]["state"] == state
        assert [step["when"] for step in planned["instances"][0]["steps"] if step["needs_off"]] == ["later"]
        result = bed.task("converted")
        assert result["plan"] == planned["plan"]
        assert [each["verdict"] for each in result["instances"]] == ["waits"]
        assert guest.name() in planned["instances"][0]["guest"]
        assert bed.contents() == before
        assert str(bed.pool) in guest.XMLDesc(INACTIVE)
        assert bed.task("converted")["changed"] is False
        assert "not wholly converted" in bed.refusals(bed.task("finalized"))
        assert "in use" in bed.refusals(bed.task("rolled_back"))

        if state == "saved":
            guest.create()  # goes on as it was saved, from the old path
            assert str(folder) in guest.XMLDesc(0)
        guest.destroy()
        guest.create()
        assert str(folder) not in guest.XMLDesc(0)
        assert str(bed.pool) in guest.XMLDesc(0)
        assert bed.task("converted")["changed"] is False, "the header still waits"
        guest.destroy()
        result = bed.task("converted")
        assert [action for action in result["actions"] if not action.startswith("point the header")] == []
        assert bed.contents() == before
        guest.create()
        assert "finalized" in bed.task("finalized")["verdict"]
        assert bed.disks() == {}
        guest.destroy()
        guest.create()
        guest.destroy()
        assert bed.volumes() == by_role(before)


@pytest.mark.parametrize("named", ["absolute", "relative"])
def test_a_header_that_waits_is_no_fault(bed: Bed, named: str) -> None:
    """`verified` tells of it and does not fail; of a header that names another file it does."""
    folder, base = bed.instance(1), bed.instances / "_base" / ("a" * 40)
    rebase = ("qemu-img", "rebase", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b")
    old = f"../_base/{base.name}" if named == "relative" else str(base)
    run(*rebase, old, folder / "disk")

    def problems(key: str, result: dict[str, Any]) -> list[str]:
        return [each["problem"] for each in result[key]]

    with bed.guest((folder / "disk", "qcow2")) as guest:
        guest.create()
        bed.task("converted")
        assert problems("reports", Modules()("disk_metadata", pool=bed.name, state="verified")) == ["pointer_waits"]
        guest.destroy()
        run(*rebase, f"{bed.root}/else/{base.name}", folder / "disk")
        with pytest.raises(ModuleFailed) as failed:
            Modules()("disk_metadata", pool=bed.name, state="verified")
        assert problems("problems", failed.value.result) == ["pointer_differs"]
        run(*rebase, old, folder / "disk")
        bed.task("converted")
        assert problems("reports", Modules()("disk_metadata", pool=bed.name, state="verified")) == []


def test_writes_while_it_is_converted(bed: Bed) -> None:
    """What a running guest writes, before and after, is on its disk by either name."""
    folder = bed.instance(1)
    with bed.guest((folder / "disk", "qcow2")) as guest:
        guest.create()
        write(guest, 66, "3M 64k")
        bed.task("converted")
        write(guest, 67, "5M 64k")
        guest.destroy()
    for path in (folder / "disk", next(bed.pool.glob("*.qcow2"))):
        run("qemu-io", "-r", "-f", "qcow2", "-c", "read -q -P 66 3M 64k", "-c", "read -q -P 67 5M 64k", path)
    bed.task("rolled_back")
    run("qemu-io", "-r", "-f", "qcow2", "-c", "read -P 66 3M 64k", "-c", "read -P 67 5M 64k", folder / "disk")


def write(guest: libvirt.virDomain, pattern: int, where: str) -> None:
    """Write to the guest's first disk from within its qemu; whether it did shows on the disk."""
    said = json.loads(libvirt_qemu.qemuMonitorCommand(guest, '{"execute": "query-block"}', 0))
    device = said["return"][0]["qdev"]
    libvirt_qemu.qemuMonitorCommand(guest, f'qemu-io -d {device} "write -P {pattern} {where}"', 1)


def test_a_definition_that_nova_wrote_again(bed: Bed) -> None:
    """Nova writes a guest's definition anew when it starts it hard: the old path works, and is found again."""
    folder = bed.instance(1)
    with bed.guest((folder / "disk", "qcow2")) as guest:
        bed.task("converted")
        bed.define(guest.name(), (folder / "disk", "qcow2"), uuid=guest.UUIDString())
        assert "names its old path again" in bed.refusals(bed.task("finalized"))
        guest.create()
        guest.destroy()
        result = bed.task("converted")
        assert [action.partition(" ")[0] for action in result["actions"]] == ["spell"]
        assert bed.refusals(bed.task("finalized")) == ""


def test_start_by_the_old_definition_of_an_instance_that_is_left(bed: Bed) -> None:
    """Instances whose base has become an image start from their old paths as before."""
    folder, other = bed.instance(1), bed.instance(2)
    with bed.guest((other / "disk", "qcow2")) as guest:
        bed.task("converted", instances=[folder.name])
        guest.create()
        guest.destroy()
        assert bed.task("converted")["changed"] is True


def test_a_guest_of_two(bed: Bed) -> None:
    """A disk that two guests name is nobody's to convert."""
    folder = bed.instance(1)
    with bed.guest((folder / "disk", "qcow2")):
        second = bed.define(f"{bed.name}-second", (folder / "disk", "qcow2"))
        try:
            assert "more than one guest" in bed.refusals(bed.task("converted"))
        finally:
            second.undefine()


def test_a_disk_that_was_rebased_meanwhile(bed: Bed) -> None:
    """What waits is done to the disk that was converted, and not to what somebody made of it since."""
    folder = bed.instance(1)
    base, copy = bed.instances / "_base" / ("a" * 40), bed.instances / "_base" / ("b" * 40)
    with bed.guest((folder / "disk", "qcow2")) as guest:
        guest.create()
        bed.task("converted")
        guest.destroy()
        copy.write_bytes(base.read_bytes())
        run("qemu-img", "rebase", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", copy, folder / "disk")
        with pytest.raises(StorageError, match=r"it names .* by now"):
            bed.task("converted")
        assert "not wholly converted" in bed.refusals(bed.task("finalized"))
        run("qemu-img", "rebase", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", base, folder / "disk")
        bed.task("converted")
        assert bed.refusals(bed.task("finalized")) == ""
