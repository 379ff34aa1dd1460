# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""The disks in a guest's definition: found, and exchanged as text, so that all the rest stays as it is. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree
from xml.parsers import expat

from .._ground.errors import StorageError
from .disk_xml import Attachment, Link, disk_xml

_DISK = ["domain", "devices", "disk"]


@dataclass(frozen=True)
class DiskElement:
    """A disk of a definition: its own text, the path of its volume (``pool/image`` on a network), and what is said
    about formats. ``below`` are paths and formats of the chain, as far as it is spelt out. "" is what is not said.
    ``device`` is disk, cdrom, ..."""

    text: str
    path: str
    target: str = ""
    format: str = ""
    below: tuple[tuple[str, str], ...] = ()
    device: str = "disk"


def disk_elements(xml: str, pools: Mapping[str, str]) -> list[DiskElement]:
    """The disks of a definition, in order; ``pools`` has the folder of each pool, for disks that name one."""
    return [_element(text, pools) for text in _texts(xml)]


def _texts(xml: str) -> list[str]:
    """The text of each disk element, exactly as it stands."""
    data = xml.encode()
    found: list[str] = []
    open_tags: list[str] = []
    begun: list[int] = []
    parser = expat.ParserCreate("utf-8")

    def start(name: str, _attributes: Mapping[str, str]) -> None:
        open_tags.append(name)
        if open_tags == _DISK:
            begun.append(parser.CurrentByteIndex)

    def end(_name: str) -> None:
        if open_tags == _DISK:
            stop = parser.CurrentByteIndex  # of an empty element, this is where it has ended
            if data.startswith(b"</disk", stop):
                stop = data.index(b">", stop) + 1
            found.append(data[begun.pop() : stop].decode())
        open_tags.pop()

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.Parse(data, True)
    return found


def _element(text: str, pools: Mapping[str, str]) -> DiskElement:
    root = ElementTree.fromstring(text)
    below = []
    link = root.find("backingStore")
    while link is not None and link.find("source") is not None:
        below.append((_path(link, pools), _attribute(link, "format", "type")))
        link = link.find("backingStore")
    return DiskElement(
        text,
        _path(root, pools),
        _attribute(root, "target", "dev"),
        _attribute(root, "driver", "type"),
        tuple(below),
        root.get("device", "disk"),
    )


def _path(element: ElementTree.Element, pools: Mapping[str, str]) -> str:
    source = element.find("source")
    if source is None:
        return ""
    if source.get("volume") and pools.get(source.get("pool", "")):
        return f"{pools[source.get('pool', '')]}/{source.get('volume')}"
    return source.get("file") or source.get("dev") or source.get("name") or ""


def _attribute(element: ElementTree.Element, tag: str, name: str) -> str:
    child = element.find(tag)
    return "" if child is None else child.get(name, "")


def is_spelt_out(element: DiskElement, chain: Sequence[Link]) -> bool:
    """Whether the element says just this chain, to its end."""
    links = tuple((str(link.place), link.format) for link in chain)
    ended = ElementTree.fromstring(element.text).find("/".join(["backingStore"] * len(chain)))
    told = ((element.path, element.format), *element.below)
    return told == links and ended is not None and ended.find("source") is None


def spelt_out(text: str, chain: Sequence[Link]) -> str:
    """The element with ``chain``, volumes that are files or devices, in the place of what it said; the rest is kept."""
    root = ElementTree.fromstring(text)
    wanted = ElementTree.fromstring(disk_xml(chain, Attachment(), "vda"))
    root.set("type", wanted.get("type", ""))
    driver = root.find("driver")
    if driver is None:
        driver = ElementTree.Element("driver", {"name": "qemu"})
        root.insert(0, driver)
    driver.set("type", chain[0].format)
    for old in root.findall("backingStore"):
        root.remove(old)
    source = root.find("source")
    if source is None:
        raise StorageError("A disk without a source was to get one; run the task again.")
    for name in ("file", "dev", "pool", "volume", "mode", "index"):
        source.attrib.pop(name, None)
    source.attrib.update(_one(wanted, "source").attrib)
    root.insert(list(root).index(source) + 1, _one(wanted, "backingStore"))
    return ElementTree.tostring(root, encoding="unicode").strip()


def _one(root: ElementTree.Element, tag: str) -> Any:
    return root.find(tag)


def exchanged(xml: str, changes: Mapping[str, str]) -> str:
    """The definition with each element that is a key of ``changes`` exchanged for the value."""
    for old, new in changes.items():
        if xml.count(old) != 1:
            raise StorageError("Two disks of a guest are described by the very same words: give each its own target.")
        xml = xml.replace(old, new)
    return xml
