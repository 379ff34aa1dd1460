# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Arguments that cannot be meant get a sentence, and no traceback."""

from __future__ import annotations

import pytest

from ansible_collections.virt.storage.plugins.module_utils._ground.errors import BadInput
from ansible_collections.virt.storage.plugins.module_utils._ground.libvirt_host import Host
from ansible_collections.virt.storage.plugins.module_utils._policy.disk_plan import Wanted
from ansible_collections.virt.storage.plugins.module_utils._tasks.disk_wishes import _image, _import


@pytest.mark.parametrize("path", ["relative", "/a\nb", "/a\0b", "/" + "a" * 5000])
def test_a_path_that_is_none_is_refused(path: str) -> None:
    with pytest.raises(BadInput, match="cannot be used"):
        _import({"import_from": {"path": path, "format": "raw"}}, Wanted("ssd", "web1", "root"), [])


@pytest.mark.parametrize("uri", ["qemu://[::1/system", "qemu://other/system"])
def test_a_uri_that_is_none_of_this_host_is_refused(uri: str) -> None:
    with pytest.raises(BadInput, match="qemu:///system"):
        Host(uri)


@pytest.mark.parametrize("path", ["rbd:pool/image", "disk.qcow2", "/a\nb", "/" + "x" * 5000])
def test_own_data_is_taken_from_a_file_by_its_absolute_path(path: str) -> None:
    entry = {"image": "base", "own_data": {"path": path, "content": "0"}}
    with pytest.raises(BadInput, match=r"of the own data of disk root of web1 .* absolute path of a file"):
        _image(entry, Wanted("ssd", "web1", "root"), [])
