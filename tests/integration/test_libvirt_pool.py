# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import stat
import subprocess
import time
from pathlib import Path

import libvirt
import pytest

from ansible_collections.virt.storage.plugins.module_utils._records.folder import FolderStore
from ansible_collections.virt.storage.plugins.module_utils._records.types import Disk, State, Volume

GUEST = """
<domain type='qemu'>
  <name>{name}</name>
  <memory unit='MiB'>32</memory>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2'/>
      <source file='{path}'/>
      <backingStore/>
      <target dev='vda' bus='virtio'/>
    </disk>
  </devices>
  <seclabel type='none'/>
</domain>
"""


def lookup(libvirtd, name):
    return libvirtd.storagePoolLookupByName(name)


def test_a_new_pool_is_defined_made_started_and_set_to_start(four, new_pool, libvirtd):
    results = four("libvirt_pool", type="dir", **new_pool)
    name, path = new_pool["name"], new_pool["path"]
    assert results.run["actions"] == [
        f"define pool {name} (dir, {path})",
        f"create folder {path} (mode 0711)",
        f"start pool {name}",
        f"enable autostart of pool {name}",
    ]
    assert results.run["diff"]["before"] == {}
    assert results.run["diff"]["after"] == {
        f"pool {name}": {"state": "active", "type": "dir", "path": path, "mode": "0711", "autostart": True}
    }
    pool = lookup(libvirtd, name)
    assert pool.isActive()
    assert pool.autostart()
    assert pool.isPersistent()
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o711
    made = results.run["pool"]
    assert made == results.run_again["pool"] == results.check_again["pool"]
    assert made["uuid"] == pool.UUIDString()
    assert made["capacity"] >= made["available"] > 0
    assert (made["labels"], made["cache"], made["unmanaged"]) == ({}, {}, [])
    foreseen = results.check["pool"]
    assert set(foreseen) == set(made)
    assert {field: made[field] for field in foreseen if foreseen[field] is not None} == {
        field: value for field, value in foreseen.items() if value is not None
    }


def test_inactive_and_defined_do_not_make_the_folder(four, task, new_pool, libvirtd):
    assert four("libvirt_pool", type="dir", state="defined", **new_pool).run["pool"]["state"] == "inactive"
    assert not lookup(libvirtd, new_pool["name"]).autostart()
    assert not os.path.exists(new_pool["path"])
    task("libvirt_pool", **new_pool)
    assert task("libvirt_pool", state="defined", **new_pool)["changed"] is False
    results = four("libvirt_pool", name=new_pool["name"], state="inactive")
    assert results.run["actions"] == [f"stop pool {new_pool['name']}"]
    assert results.run["diff"]["before"] == {f"pool {new_pool['name']}": {"state": "active"}}
    assert results.run["diff"]["after"] == {f"pool {new_pool['name']}": {"state": "inactive"}}
    assert os.path.isdir(new_pool["path"])


def test_a_pool_that_starts_inactive(four, new_pool):
    assert four("libvirt_pool", type="dir", state="inactive", autostart=True, **new_pool).run["pool"]["autostart"]


def test_autostart_alone(four, pool, libvirtd):
    results = four("libvirt_pool", name=pool["name"], autostart=False)
    assert results.run["actions"] == [f"disable autostart of pool {pool['name']}"]
    assert not lookup(libvirtd, pool["name"]).autostart()
    assert four("libvirt_pool", name=pool["name"], state="defined", autostart=True).run["changed"]
    assert lookup(libvirtd, pool["name"]).autostart()


def test_absent_leaves_every_file(four, pool, task, libvirtd):
    volume = Path(pool["path"]) / "disk.qcow2"
    volume.write_text("x")
    task("libvirt_pool", name=pool["name"], labels={"tier": "fast"})
    results = four("libvirt_pool", name=pool["name"], state="absent")
    assert results.run["actions"] == [
        f"stop pool {pool['name']}",
        f"undefine pool {pool['name']} (dir, {pool['path']})",
    ]
    assert results.run["diff"]["after"] == {}
    assert results.run["pool"] == {"name": pool["name"], "state": "absent"}
    assert volume.read_text() == "x"
    with pytest.raises(libvirt.libvirtError):
        lookup(libvirtd, pool["name"])
    again = four("libvirt_pool", name=pool["name"], type="dir", path=pool["path"], labels={"tier": "fast"})
    assert not any(action.startswith("label") for action in again.run["actions"])
    assert again.run["pool"]["labels"] == {"tier": "fast"}
    assert again.check["pool"]["unmanaged"] == again.run["pool"]["unmanaged"] == ["disk.qcow2"]


def test_a_pool_of_somebody_else_is_adopted_as_it_is(four, place, libvirtd):
    given = place.pool()
    os.mkdir(given["path"], 0o750)
    (Path(given["path"]) / "old.img").write_text("x")
    xml = f"<pool type='dir'><name>{given['name']}</name><target><path>{given['path']}</path></target></pool>"
    foreign = libvirtd.storagePoolDefineXML(xml, 0)
    results = four("libvirt_pool", name=given["name"], labels={"tier": "old"})
    assert results.run["pool"]["uuid"] == foreign.UUIDString()
    assert results.run["pool"]["unmanaged"] == ["old.img"]
    assert stat.S_IMODE(os.stat(given["path"]).st_mode) == 0o750
    assert results.run["actions"] == [
        f"start pool {given['name']}",
        f"enable autostart of pool {given['name']}",
        f"label pool {given['name']} (tier=old)",
    ]
    assert "cannot pass through" in str(results.run_again["warnings"])


def test_a_pool_started_without_a_definition_gets_one(four, place, libvirtd):
    given = place.pool()
    os.mkdir(given["path"], 0o711)
    xml = f"<pool type='dir'><name>{given['name']}</name><target><path>{given['path']}</path></target></pool>"
    transient = libvirtd.storagePoolCreateXML(xml, 0)
    uuid = transient.UUIDString()
    results = four("libvirt_pool", **given)
    assert results.run["actions"][0] == f"define pool {given['name']}, which was started without a definition, for good"
    assert lookup(libvirtd, given["name"]).isPersistent()
    assert results.run["pool"]["uuid"] == uuid


def test_mode_and_owner_of_the_folder(four, pool):
    results = four("libvirt_pool", name=pool["name"], mode="0755", owner="nobody", group="65534")
    assert results.run["actions"] == [f"set mode 0755, owner nobody, group nogroup of folder {pool['path']}"]
    assert results.run["diff"]["before"] == {f"pool {pool['name']}": {"mode": "0711", "owner": "root", "group": "root"}}
    found = os.stat(pool["path"])
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o755, 65534, 65534)
    assert four("libvirt_pool", name=pool["name"], mode=0o711).run["changed"]


def test_labels_and_cache_limits_are_kept_in_the_pool(four, pool, task):
    labels, cache = {"tier": "fast", "shelf": 3, "raid": True}, {"max_bytes": 10**12, "max_age": 3600}
    results = four("libvirt_pool", name=pool["name"], labels=labels, cache=cache)
    assert (results.run["pool"]["labels"], results.run["pool"]["cache"]) == (labels, cache)
    assert results.check["pool"] == results.run["pool"]
    assert task("libvirt_pool", name=pool["name"], cache={"min_free": "2 GiB"})["pool"]["cache"]["min_free"] == 2 << 30
    assert four("libvirt_pool", name=pool["name"], cache={"min_free": 0}).run["pool"]["cache"] == cache
    one = four("libvirt_pool", name=pool["name"], cache={"max_count": 5, "max_age": 0})
    assert one.run["pool"]["cache"] == {"max_bytes": 10**12, "max_count": 5}
    assert one.run["diff"]["before"] == {f"pool {pool['name']}": {"cache": {"max_count": 0, "max_age": 3600}}}
    assert one.run["pool"]["labels"] == labels
    assert four("libvirt_pool", name=pool["name"], labels={"tier": "slow"}).run["pool"]["labels"] == {"tier": "slow"}
    assert four("libvirt_pool", name=pool["name"], labels={}).run["pool"]["labels"] == {}
    assert task("libvirt_pool_info", name=[pool["name"]])["pools"][0]["cache"] == one.run["pool"]["cache"]


def test_what_a_pool_holds_is_told_from_its_records(task, refused, pool):
    task("libvirt_pool", name=pool["name"], labels={"tier": "fast"})
    store = FolderStore.open(os.path.join(pool["path"], ".virt-storage"))
    disks = {role: f"web1+{role}+k7d2m4q9xa3e" for role in ("root", "data", "old", "lost")}
    for role, state in (("root", State.READY), ("data", State.GONE), ("old", State.RELEASED)):
        volume = Volume(f"{disks[role]}.qcow2", "qcow2")
        (Path(pool["path"]) / volume.name).write_text(role)
        store.create(Disk(disks[role], "web1", role, 4, volume, "2026-11-22T10:00:00.000000Z", "me"), state)
    adopted = Path(pool["path"]) / "adopted.img"
    os.link(Path(pool["path"]) / f"{disks['root']}.qcow2", adopted)
    (Path(pool["path"]) / f"{disks['lost']}.qcow2").write_text("lost")
    found = task("libvirt_pool_info", name=[pool["name"]])["pools"][0]
    assert found["unmanaged"] == sorted([f"{disks['old']}.qcow2", f"{disks['lost']}.qcow2"])
    said = refused("libvirt_pool", name=pool["name"], state="absent", remove_contents=True)
    assert f"disks: {disks['root']};" in said
    assert f"volumes to be reclaimed: {disks['data']}.qcow2" in said


def test_a_pool_of_a_newer_collection_is_told_and_left_alone(task, refused, four, pool):
    task("libvirt_pool", name=pool["name"], labels={"tier": "fast"})
    (Path(pool["path"]) / ".virt-storage" / "schema").write_text("99\n")
    assert "use a newer version" in task("libvirt_pool_info", name=[pool["name"]])["pools"][0]["problem"]
    assert "use a newer version" in refused("libvirt_pool", name=pool["name"], labels={"tier": "slow"})
    gone = {"name": pool["name"], "state": "absent", "remove_contents": True}
    assert "use a newer version" in refused("libvirt_pool", **gone)
    assert four("libvirt_pool", name=pool["name"], state="absent").run["changed"]


def test_a_stopped_pool_moves_and_a_running_one_does_not(four, refused, pool, place, task, libvirtd):
    elsewhere = str(place.root / "elsewhere")
    assert "a running pool is not redefined" in refused("libvirt_pool", name=pool["name"], path=elsewhere)
    assert "a running pool is not redefined" in refused(
        "libvirt_pool", name=pool["name"], path=elsewhere, state="defined"
    )
    results = four("libvirt_pool", name=pool["name"], path=elsewhere, state="inactive")
    assert results.run["actions"] == [
        f"stop pool {pool['name']}",
        f"redefine pool {pool['name']} (dir, {elsewhere})",
    ]
    assert results.run["pool"]["uuid"] == pool["uuid"]
    four("libvirt_pool", name=pool["name"])
    assert lookup(libvirtd, pool["name"]).isActive()
    assert os.path.isdir(elsewhere)
    assert os.path.isdir(pool["path"])


def test_a_running_pool_that_was_defined_anew_is_left_alone_until_it_was_stopped(four, refused, task, pool, libvirtd):
    name, path = pool["name"], pool["path"]
    disks = [{"instance": "web1", "size": "1M", "blank": {}}]
    made = four("instance_disk", pool=name, disks=disks).run["disks"]
    defined, elsewhere = lookup(libvirtd, name).XMLDesc(0), path + "-elsewhere"
    libvirtd.storagePoolDefineXML(defined.replace(f"<path>{path}<", f"<path>{elsewhere}<"), 0)
    sentences = {
        refused("libvirt_pool", name=name),
        refused("libvirt_pool", name=name, state="absent", remove_contents=True),
        refused("instance_disk", pool=name, disks=disks),
        refused("cached_image", pools=[name], state="pruned"),
        refused("disk_metadata", pool=name, state="verified"),
    }
    assert len(sentences) == 1
    told = sentences.pop()
    assert f"Pool {name} runs as dir, {path}, and was defined anew as dir, {elsewhere} meanwhile" in told
    info = task("libvirt_pool_info", name=[name])
    assert info["pools"][0]["path"] == path
    assert told in str(info["warnings"])
    assert not os.path.exists(elsewhere)

    four("libvirt_pool", name=name, state="inactive")
    four("libvirt_pool", name=name, path=path)
    assert four("instance_disk", pool=name, disks=disks).run["disks"] == made


def test_an_nfs_pool_is_defined_with_its_options(four, place, libvirtd):
    given = place.pool()
    netfs = {"host": "127.0.0.1", "export": "/x", "version": "4.2", "options": ["noatime", "hard"]}
    results = four("libvirt_pool", type="netfs", netfs=netfs, state="defined", **given)
    assert results.run["pool"]["netfs"] == {**netfs, "options": ["hard", "noatime"]}
    assert "labels" not in results.run["pool"]
    xml = lookup(libvirtd, given["name"]).XMLDesc(libvirt.VIR_STORAGE_XML_INACTIVE)
    assert "<protocol ver='4.2'/>" in xml
    changed = four("libvirt_pool", name=given["name"], netfs={"version": "4.1"}, state="defined").run
    assert changed["diff"]["before"] == {f"pool {given['name']}": {"netfs": {"version": "4.2"}}}
    assert changed["diff"]["after"] == {f"pool {given['name']}": {"netfs": {"version": "4.1"}}}
    four("libvirt_pool", name=given["name"], state="absent")


def test_a_new_pool_that_cannot_be_mounted_leaves_nothing_behind(task, place, libvirtd):
    given = place.pool()
    netfs = {"host": "127.0.0.1", "export": "/x", "options": ["timeo=1", "retry=0"]}
    with pytest.raises(AssertionError) as failure:
        task("libvirt_pool", type="netfs", netfs=netfs, **given)
    assert f"could not start pool {given['name']}" in failure.value.msg
    assert "\n" not in failure.value.msg
    assert not os.path.exists(given["path"])
    with pytest.raises(libvirt.libvirtError):
        lookup(libvirtd, given["name"])


def test_what_an_nfs_pool_cannot_be_is_refused(refused, place, libvirtd):
    given = {"type": "netfs", **place.pool()}
    netfs = {"host": "nas", "export": "/x"}
    assert "netfs.host, netfs.export" in refused("libvirt_pool", **given)
    assert "nocto cannot be used" in refused("libvirt_pool", netfs={**netfs, "options": ["nocto"]}, **given)
    assert "netfs.version" in refused("libvirt_pool", netfs={**netfs, "options": ["vers=3"]}, **given)
    assert "value of version must be one of" in refused("libvirt_pool", netfs={**netfs, "version": "3"}, **given)
    assert "for the folder of a pool of type dir" in refused("libvirt_pool", netfs=netfs, mode="0711", **given)
    xml = (
        f"<pool type='netfs'><name>{given['name']}</name><source><host name='nas'/><dir path='/x'/>"
        f"<format type='nfs'/><protocol ver='3'/></source><target><path>{given['path']}</path></target></pool>"
    )
    libvirtd.storagePoolDefineXML(xml, 0)
    assert "NFS version 3" in refused("libvirt_pool", name=given["name"])


@pytest.fixture
def guest(libvirtd, pool):
    """A running guest whose disk is in ``pool``."""
    path = os.path.join(pool["path"], "disk.qcow2")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "1M"], check=True)
    name = f"{pool['name']}-guest"
    running = libvirtd.defineXML(GUEST.format(name=name, path=path))
    running.create()
    yield running
    if running.isActive():
        running.destroy()
    running.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE)


def test_a_pool_with_a_live_guest_is_not_stopped(four, refused, task, pool, guest, libvirtd):
    for state in ("inactive", "absent"):
        assert f"{guest.name()} (running, vda)" in refused("libvirt_pool", name=pool["name"], state=state)
    guest.suspend()
    assert f"{guest.name()} (paused, vda)" in refused("libvirt_pool", name=pool["name"], state="absent")
    guest.managedSave(0)
    assert f"{guest.name()} (saved, vda)" in refused("libvirt_pool", name=pool["name"], state="absent")
    guest.managedSaveRemove(0)
    assert task("libvirt_pool", name=pool["name"], state="inactive")["changed"]
    guest.create()
    task("libvirt_pool", name=pool["name"])
    results = four("libvirt_pool", name=pool["name"], state="inactive", force=True)
    assert results.run["changed"]
    assert guest.isActive()


def test_contents_are_removed_only_by_name_and_only_when_there_are_none(four, refused, task, pool, libvirtd):
    task("libvirt_pool", name=pool["name"], labels={"tier": "fast"})
    stray = Path(pool["path"]) / "stray.img"
    stray.write_text("x")
    gone = {"name": pool["name"], "state": "absent", "remove_contents": True}
    assert "volumes without a record: stray.img" in refused("libvirt_pool", **gone)
    assert lookup(libvirtd, pool["name"]).isActive()
    domain = libvirtd.defineXML(GUEST.format(name=f"{pool['name']}-off", path=stray))
    stray.unlink()
    try:
        assert f"used by: {domain.name()} (off, vda)" in refused("libvirt_pool", **gone)
    finally:
        domain.undefine()
    assert "is for state=absent" in refused("libvirt_pool", name=pool["name"], remove_contents=True)
    results = four("libvirt_pool", **gone)
    assert results.run["actions"][0].startswith(f"remove the records of pool {pool['name']}")
    assert not os.path.exists(pool["path"])


@pytest.mark.parametrize("name", ["a/b", "..", "", "a\nb", "x" * 300, "naïve", "a b"])
def test_a_name_that_cannot_be_used_is_refused(refused, place, name):
    assert "cannot be used" in refused("libvirt_pool", name=name, type="dir", path=str(place.root / "p"))
    assert not (place.root / "p").exists()


@pytest.mark.parametrize("path", ["", "relative", "/", "/var/tmp/../x", "/var/tmp/a\nb", "/var/tmp/" + "x" * 300])
def test_a_path_that_cannot_be_used_is_refused(refused, new_pool, path):
    assert "cannot be used" in refused("libvirt_pool", name=new_pool["name"], type="dir", path=path)


def test_what_is_missing_for_a_new_pool_is_said(refused, new_pool):
    assert refused("libvirt_pool", name=new_pool["name"]).endswith("say type, path to have it made.")
    assert "say type to" in refused("libvirt_pool", state="defined", **new_pool)


def test_options_that_would_have_no_effect_are_refused(refused, new_pool, pool):
    for option in ({"labels": {}}, {"cache": {"max_age": 1}}, {"mode": "0711"}, {"owner": "root"}):
        assert "need state=active" in refused("libvirt_pool", name=pool["name"], state="inactive", **option)
    assert "netfs is for" in refused("libvirt_pool", name=pool["name"], netfs={"host": "nas"})
    assert "netfs is for" in refused("libvirt_pool", type="dir", netfs={"host": "nas"}, **new_pool)
    assert "is of type dir" in refused("libvirt_pool", name=pool["name"], type="netfs")


def test_values_that_cannot_be_meant_are_refused(refused, task, pool):
    for mode in ("0666", "rwx", 711, "9", -1, True, "0o711x", "17777"):
        assert "The mode" in refused("libvirt_pool", name=pool["name"], mode=mode)
    assert "cannot be -1" in refused("libvirt_pool", name=pool["name"], cache={"max_age": -1})
    for size in ("10X", "-1", "1.5G", ""):
        assert "is not a size" in refused("libvirt_pool", name=pool["name"], cache={"max_bytes": size})
    assert "'tier' cannot hold list" in refused("libvirt_pool", name=pool["name"], labels={"tier": ["a"]})
    with pytest.raises(AssertionError, match="no user 'nobody-at-all'"):
        task("libvirt_pool", name=pool["name"], owner="nobody-at-all")
    foreseen = task("libvirt_pool", check=True, name=pool["name"], owner="nobody-at-all")
    assert "no user 'nobody-at-all'" in str(foreseen["warnings"])
    assert "names another host" in refused("libvirt_pool", name=pool["name"], uri="qemu+ssh://elsewhere/system")


def test_a_folder_belongs_to_one_pool(refused, pool, new_pool, place):
    link = place.root / "link"
    link.symlink_to(pool["path"])
    for path in (pool["path"], pool["path"] + "/", str(link)):
        said = refused("libvirt_pool", name=new_pool["name"], type="dir", path=path)
        assert f"that of pool {pool['name']}" in said


def test_a_folder_that_cannot_be_made_is_said_before_anything_is_done(refused, task, new_pool, place, libvirtd):
    file = place.root / "file"
    file.write_text("")
    dangling = place.root / "dangling"
    dangling.symlink_to("nothing")
    for path, said in ((file, "not a folder"), (file / "below", "no folder"), (dangling, "symbolic link to nothing")):
        assert said in refused("libvirt_pool", name=new_pool["name"], type="dir", path=str(path))
    orphan = {"name": new_pool["name"], "type": "dir", "path": str(place.root / "not" / "there")}
    with pytest.raises(AssertionError, match="there is no folder"):
        task("libvirt_pool", **orphan)
    foreseen = task("libvirt_pool", check=True, **orphan)
    assert foreseen["changed"]
    assert "unless an earlier task does" in str(foreseen["warnings"])
    with pytest.raises(libvirt.libvirtError):
        lookup(libvirtd, new_pool["name"])


def test_a_read_only_file_system_is_said_before_anything_is_done(refused, new_pool, place, libvirtd):
    mounted = place.root / "mounted"
    mounted.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,size=1M", "vst", str(mounted)], check=True)
    try:
        for path in (mounted, mounted / "below"):
            assert "read-only" in refused("libvirt_pool", name=new_pool["name"], type="dir", path=str(path))
    finally:
        subprocess.run(["umount", str(mounted)], check=True)
    with pytest.raises(libvirt.libvirtError):
        lookup(libvirtd, new_pool["name"])


def test_a_full_file_system_is_told_in_one_sentence(task, new_pool, place):
    mounted = place.root / "mounted"
    mounted.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,nr_inodes=100", "vst", str(mounted)], check=True)
    try:
        given = {"name": new_pool["name"], "type": "dir", "path": str(mounted)}
        task("libvirt_pool", **given)
        subprocess.run(["dd", "if=/dev/zero", f"of={mounted}/full"], check=False, capture_output=True)
        with pytest.raises(AssertionError) as failure:
            task("libvirt_pool", labels={"tier": "fast"}, **given)
        assert "No space is left" in failure.value.msg
        (mounted / "full").unlink()
        assert task("libvirt_pool", labels={"tier": "fast"}, **given)["pool"]["labels"] == {"tier": "fast"}
        task("libvirt_pool", name=new_pool["name"], state="absent")
    finally:
        subprocess.run(["umount", str(mounted)], check=True)


def test_two_at_once_make_one_pool(task, new_pool, libvirtd):
    both = [task.start("libvirt_pool", type="dir", **new_pool) for _unused in range(2)]
    for process in both:
        process.communicate(timeout=60)
    assert task("libvirt_pool", type="dir", **new_pool)["changed"] is False
    assert lookup(libvirtd, new_pool["name"]).isActive()


def test_killed_at_any_moment_the_same_task_converges(task, place, libvirtd):
    for delay in (0.1, 0.15, 0.2, 0.25, 0.3):
        given = place.pool()
        process = task.start("libvirt_pool", type="dir", labels={"tier": "fast"}, **given)
        time.sleep(delay)
        process.kill()
        process.communicate(timeout=60)
        assert task("libvirt_pool", type="dir", labels={"tier": "fast"}, **given)["pool"]["state"] == "active"
        assert task("libvirt_pool", type="dir", labels={"tier": "fast"}, **given)["changed"] is False


def test_info_tells_what_the_cache_has_apart(task, pool, tmp_path):
    source = tmp_path / "disk.raw"
    source.write_bytes(os.urandom(3 << 20))
    wanted = [{"name": name, "source": str(source), "format": "raw", "refresh": True} for name in ("a", "b")]
    images = []
    for image in wanted:
        images += task("cached_image", pools=[pool["name"]], images=[image])["images"]
        source.write_bytes(os.urandom(2 << 20))
    task("instance_disk", pool=pool["name"], disks=[{"instance": f"web-{pool['name']}", "image": "a", "clone": "copy"}])
    (told,) = task("libvirt_pool_info", name=[pool["name"]])["pools"]
    assert told["cached"] == sum(image["allocated"] for image in images) == 5 << 20


def test_info_names_all_pools_or_those_asked_for(task, pool):
    everything = task("libvirt_pool_info")
    assert everything["changed"] is False
    told = {**pool, "cached": 0}
    assert told in everything["pools"]
    assert task("libvirt_pool_info", name=[pool["name"], "vst-not-there"])["pools"] == [told]
    assert task("libvirt_pool_info", check=True, name=["vst-not-there"])["pools"] == []


def test_without_a_daemon_check_mode_predicts_from_nothing(task, new_pool):
    nowhere = "qemu+unix:///system?socket=/run/vst-no-such-socket"
    foreseen = task("libvirt_pool", check=True, type="dir", uri=nowhere, **new_pool)
    assert foreseen["actions"][0].startswith("define pool")
    assert "start libvirtd" in str(foreseen["warnings"])
    with pytest.raises(AssertionError, match="start libvirtd"):
        task("libvirt_pool", type="dir", uri=nowhere, **new_pool)
    assert task("libvirt_pool_info", check=True, uri=nowhere)["pools"] == []


def test_a_play_ships_all_that_the_module_needs(play, new_pool):
    tasks = [{"virt.storage.libvirt_pool": {"type": "dir", **new_pool}, "name": "pool"}]
    predicted = play(tasks, "--check", "--diff")[0]
    made = play(tasks, "--diff")[0]
    again = play(tasks, "--diff")[0]
    assert "failed" not in made, made
    assert predicted["actions"] == made["actions"] != []
    assert predicted["diff"] == made["diff"]
    assert again["changed"] is False
