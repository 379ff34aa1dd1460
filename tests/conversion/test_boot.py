# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One guest through all of it: it boots from its disk at every stage, and counts its boots on that disk."""

from __future__ import annotations

import sys
from pathlib import Path

import libvirt
from ansible_collections.virt import storage

from .bed import DISK, MIB, Bed, content

sys.path.insert(0, str(Path(next(iter(storage.__path__))) / "dev.d"))

from guest import boot_domain_xml, make_boot_image, wait_for_console

SECONDS = 240
UP = r"^virt\.storage guest up: image=(.*) disk=vda size=(\d+) serial=(\S*) boots=(\S+)$"


class Booting:
    """A persistent guest that boots from the first disk of an instance."""

    def __init__(self, bed: Bed, disk: Path) -> None:
        self.console = bed.root / "console"
        element = DISK.format(format="qcow2", path=disk, target="vda", serial="root-1")
        xml = boot_domain_xml(f"{bed.name}-boot", [element], self.console, idle=True)
        self.domain = bed.connection.defineXML(xml)

    def boot(self) -> str:
        """Start it; its count of boots. It goes on running."""
        self.console.unlink(missing_ok=True)
        self.domain.create()
        return wait_for_console(self.console, UP, SECONDS).group(4)

    def runs_from(self) -> str:
        """The definition that it runs by."""
        xml: str = self.domain.XMLDesc(0)
        return xml


def test_a_guest_through_all_of_it(bed: Bed) -> None:
    folder = bed.instances / ("6" * 8 + "-1111-2222-3333-444444444444")
    base = make_boot_image(bed.instances / "_base" / ("a" * 40), "marker-of-this-test")
    folder.mkdir()
    bed.overlay_only(folder / "disk", base, 96 * MIB)
    bed.info(folder, disk="qcow2")
    guest = Booting(bed, folder / "disk")
    try:
        assert guest.boot() == "1"
        assert bed.task("converted")["instances"][0]["verdict"] == "waits"
        assert str(folder) in guest.runs_from()
        guest.domain.destroy()
        assert guest.boot() == "2", "from the pool, before the header was changed"
        assert str(folder) not in guest.runs_from()
        guest.domain.destroy()
        assert bed.task("converted")["changed"] is True
        assert guest.boot() == "3", "from the pool, as it is converted"
        assert base.stat().st_uid == 0, "the image is not handed to the guest's user"
        guest.domain.destroy()
        before = content(str(folder / "disk"), "qcow2")
        bed.task("rolled_back")
        assert content(str(folder / "disk"), "qcow2") == before, "it ran since: its pointer goes back, and nothing else"
        assert guest.boot() == "4", "from its old path"
        assert str(folder) in guest.runs_from()
        guest.domain.destroy()
        bed.task("converted")
        bed.task("finalized")
        assert guest.boot() == "5", "from the pool, for good"
        guest.domain.destroy()
    finally:
        if guest.domain.isActive():
            guest.domain.destroy()
        guest.domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE)
