# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can have breaking changes at any time.

"""Which calls of ``qemu-img`` are allowed: those that leave nothing for it to guess.

qemu finds out the format of an image by looking into it when nobody says what it is, and it takes image
names such as ``json:{...}`` or ``nbd:host:port`` as instructions. Both let whoever wrote the data, or the
name, choose which files a root process opens. So a call has to spell out every format, every option has to
be one that is known here, and a name has to be an absolute path, which qemu never takes for anything else.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from .errors import StorageError


class UnsafeCommand(StorageError):
    """A command line that would let an external program guess. A mistake in this collection, not of its user."""


@dataclass(frozen=True)
class _Usage:
    """The options of one sub-command. Any other option is refused, joined forms (``-fraw``) included."""

    values: str
    flags: str = ""
    needs: str = ""
    """Options that have to be there, unless ``--image-opts`` replaces ``-f``."""
    images: int = 1
    """How many arguments that are not options name images."""
    sizes: int = 0
    """How many more may follow."""


# Missing on purpose: info --backing-chain (follows names found in the data), resize --shrink (sizes only
# grow), amend, bitmap, commit, dd and snapshot (not needed).
_USAGE = {
    "check": _Usage("-f --output -r -T", "-q -U --image-opts", "-f"),
    "compare": _Usage("-f -F -T", "-p -q -s -U", "-f -F", images=2),
    "convert": _Usage(
        "-f -O -m -S -t -T -o -B -F -r",
        "-c -n -p -q -U -W --image-opts --salvage --target-image-opts --target-is-zero",
        "-f -O",
        images=2,
    ),
    "create": _Usage("-f -F -b -o", "-q -u", "-f", sizes=1),
    "info": _Usage("-f --output", "-U --image-opts", "-f"),
    "map": _Usage("-f --output -s -l", "-U --image-opts", "-f"),
    "measure": _Usage("-f -O --size --output -o", "-U --image-opts", "-O"),
    "rebase": _Usage("-f -F -b -t -T", "-p -q -u -U", "-f -b"),
    "resize": _Usage("-f --preallocation", "-q", "-f", sizes=1),
}

_FORMAT = re.compile(r"[a-z][a-z0-9]*\Z")
# Options of an image that name other files belong into -b, where they are looked at, or nowhere.
_FORBIDDEN_OPTIONS = re.compile(r"(?:\A|,)(backing_file|backing_fmt|data_file|data_file_raw|encrypt|encryption)\b")
_DOUBLED_COMMA = "\0"


def check_qemu_img(argv: Sequence[str]) -> None:
    """Raise ``UnsafeCommand`` unless ``argv`` (with the program first) is a call that leaves nothing to guess."""
    name = argv[1] if len(argv) > 1 else ""
    if name not in _USAGE:
        raise UnsafeCommand("qemu-img %r is none of the sub-commands that are used here: %s" % (name, sorted(_USAGE)))
    usage = _USAGE[name]
    options, operands = _split(argv, usage)
    by_options = "--image-opts" in options
    needs = set(usage.needs.split()) - ({"-f"} if by_options else set())
    if name == "measure" and "--size" not in options and not by_options:
        needs.add("-f")
    if options.get("-b") or options.get("-B"):
        needs.add("-F")
    missing = sorted(needs - set(options))
    if missing:
        raise UnsafeCommand("qemu-img %s without %s would guess: %s" % (name, " and ".join(missing), list(argv)))
    for option in {"-f", "-O", "-F"} & set(options):
        if not _FORMAT.match(options[option]):
            raise UnsafeCommand("qemu-img %s %s: %r is not the name of a format" % (name, option, options[option]))
    found = _FORBIDDEN_OPTIONS.search(options.get("-o", ""))
    if found:
        raise UnsafeCommand("qemu-img %s -o names %s, which has an option of its own or none" % (name, found.group(1)))
    for option in {"-b", "-B"} & set(options):
        if not (name == "rebase" and options[option] == ""):
            _check_name(options[option])
    if len(operands) > usage.images + usage.sizes:
        raise UnsafeCommand("qemu-img %s has more arguments than are used here: %s" % (name, list(argv)))
    for position, operand in enumerate(operands[: usage.images]):
        last_of_convert = name == "convert" and position == len(operands) - 1
        if "--target-image-opts" in options if last_of_convert else by_options:
            _check_image_opts(operand)
        else:
            _check_name(operand)


def _split(argv: Sequence[str], usage: _Usage) -> tuple[dict[str, str], list[str]]:
    """Options with their values (flags with an empty one), and the other arguments."""
    options: dict[str, str] = {}
    operands: list[str] = []
    rest = iter(argv[2:])
    for word in rest:
        if not word.startswith("-"):
            operands.append(word)
            continue
        option, equals, value = word.partition("=") if word.startswith("--") else (word, "", "")
        if option in usage.values.split():
            value = value if equals else next(rest, "")
        elif equals or option not in usage.flags.split():
            raise UnsafeCommand("qemu-img %s does not know the option %r here: %s" % (argv[1], word, list(argv)))
        if option in options:
            raise UnsafeCommand("qemu-img %s has %s twice: %s" % (argv[1], option, list(argv)))
        options[option] = value
    return options, operands


def _check_name(name: str) -> None:
    if not name.startswith("/") or "\0" in name:
        raise UnsafeCommand("%r is not an absolute path; qemu may take it for a protocol or for options" % (name,))


def _check_image_opts(text: str) -> None:
    """``driver=`` on every level that is named, and absolute file names."""
    keys: dict[str, str] = {}
    for part in text.replace(",,", _DOUBLED_COMMA).split(","):
        key, equals, value = part.partition("=")
        if not equals or key in keys:
            raise UnsafeCommand("image options have to be key=value, each key once, not %r" % (text,))
        keys[key] = value.replace(_DOUBLED_COMMA, ",")
    for key in keys:
        level = key.rpartition(".")[0]
        driver = level + ".driver" if level else "driver"
        if driver not in keys:
            raise UnsafeCommand("image options %r do not say %s=" % (text, driver))
        if key.rpartition(".")[2] == "filename":
            _check_name(keys[key])
