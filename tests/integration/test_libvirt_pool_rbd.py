# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Pools of type rbd on the cluster of ``./dev ceph``: their secret, adoption, namespaces, and what goes wrong."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import libvirt
import pytest

from .conftest import ModuleFailed

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "dev.d"))
import ceph

GUEST = """
<domain type='qemu'>
  <name>{name}</name>
  <memory unit='MiB'>32</memory>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <devices>
    <disk type='network' device='disk'>
      <driver name='qemu' type='raw'/>
      <source protocol='rbd' name='{image}'>
        <host name='{host}' port='{port}'/>
        <auth username='{user}'><secret type='ceph' uuid='{secret}'/></auth>
      </source>
      <target dev='vda' bus='virtio'/>
    </disk>
  </devices>
  <seclabel type='none'/>
</domain>
"""
SECRET = """
<secret ephemeral='no' private='{private}'>
  <uuid>{uuid}</uuid><usage type='ceph'><name>{usage}</name></usage>
</secret>
"""
POOL = """
<pool type='rbd'>
  <name>{name}</name>
  <source>
    <name>{pool}</name>
    <host name='{host}' port='{port}'/>
    <auth type='ceph' username='{user}'><secret {secret}/></auth>
  </source>
</pool>
"""


def key_in(libvirtd: libvirt.virConnect, secret: str) -> str:
    """The key in a secret, as a keyring has it."""
    return base64.b64encode(libvirtd.secretLookupByUUIDString(secret).value(0)).decode()


def is_there(libvirtd: libvirt.virConnect, secret: str) -> bool:
    return secret in libvirtd.listSecrets()


@dataclass
class Store:
    """A Ceph pool with a user of its own, and the name of a libvirt pool that does not exist yet."""

    connection: libvirt.virConnect
    pool: str
    user: str
    name: str

    @property
    def key(self) -> str:
        return ceph.key(self.user)

    def source(self, **more: Any) -> dict[str, Any]:
        """The option rbd, from files."""
        files = {"conf": str(ceph.CONF), "keyring": str(ceph.keyring(self.user))}
        return {"pool": self.pool, "user": self.user, **files, **more}

    def wanted(self, **more: Any) -> dict[str, Any]:
        """Options of a pool, from files."""
        return {"name": self.name, "type": "rbd", "rbd": self.source(**more)}

    @property
    def places(self) -> dict[str, str]:
        host, _colon, port = ceph.monitor().rpartition(":")
        return {"pool": self.pool, "host": host, "port": port, "user": self.user}

    def foreign(self, *, private: bool = False, by_usage: bool = False) -> str:
        """A pool as virsh makes it, active, with a secret of its own; gives the UUID of that."""
        secret = {"uuid": str(uuid.uuid4()), "usage": f"somebody else's of {self.pool}"}
        xml = SECRET.format(private="yes" if private else "no", **secret)
        self.connection.secretDefineXML(xml, 0).setValue(base64.b64decode(self.key), 0)
        named = f'usage="{secret["usage"]}"' if by_usage else f'uuid="{secret["uuid"]}"'
        self.connection.storagePoolDefineXML(POOL.format(name=self.name, secret=named, **self.places), 0).create(0)
        return secret["uuid"]

    def guest(self, image: str, secret: str) -> libvirt.virDomain:
        """A guest, not started, with that image."""
        xml = GUEST.format(name=f"vst-{self.pool}", image=f"{self.pool}/{image}", secret=secret, **self.places)
        return self.connection.defineXML(xml)

    def clear(self) -> None:
        """Undo what a test left."""
        for guest in self.connection.listAllDomains(0):
            if guest.name() == f"vst-{self.pool}":
                if guest.isActive():
                    guest.destroy()
                guest.undefine()
        for pool in self.connection.listAllStoragePools(0):
            if f"<name>{self.pool}</name>" in pool.XMLDesc(0):
                if pool.isActive():
                    pool.destroy()
                pool.undefine()
        for secret in self.connection.listAllSecrets(0):
            if secret.usageID().endswith((f" {self.name}", f" {self.pool}")):
                secret.undefine()
        ceph.ceph("osd", "pool", "delete", self.pool, self.pool, "--yes-i-really-really-mean-it")
        ceph.ceph("auth", "rm", f"client.{self.user}")
        ceph.keyring(self.user).unlink()


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """The cluster of ``./dev ceph``, which lets pools be deleted while these tests run."""
    with ceph.cluster():
        ceph.ceph("config", "set", "mon", "mon_allow_pool_delete", "true")
        yield


@pytest.fixture
def store(cluster: None, libvirtd: libvirt.virConnect) -> Iterator[Store]:
    fresh = f"p{uuid.uuid4().hex[:8]}"
    ceph.ceph("osd", "pool", "create", fresh, 1)
    ceph.ceph("osd", "pool", "application", "enable", fresh, "rbd")
    ceph.add_user(fresh, {"mon": "profile rbd", "osd": f"profile rbd pool={fresh}"})
    here = Store(libvirtd, fresh, fresh, f"vst-{fresh}")
    yield here
    here.clear()


def rbd(*words: str) -> str:
    """A command of Ceph's own tool, as its administrator."""
    argv = ["rbd", "-c", str(ceph.CONF), *words]
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60).stdout


def test_a_new_pool_gets_a_secret_is_started_and_shows_no_key(four, store, libvirtd):
    results = four("libvirt_pool", **store.wanted())
    made = results.run["pool"]
    assert results.run["actions"] == [
        f"make the libvirt secret of pool {store.name} with the key of client.{store.user}",
        f"define pool {store.name} (rbd, {store.pool} at {ceph.monitor()})",
        f"start pool {store.name}",
        f"enable autostart of pool {store.name}",
    ]
    secret = made["rbd"]["secret"]
    source = {"pool": store.pool, "namespace": "", "monitors": [ceph.monitor()], "user": store.user, "secret": secret}
    assert made["rbd"] == source
    assert results.run["diff"]["after"] == {
        f"pool {store.name}": {"state": "active", "type": "rbd", "rbd": {**source, "key": "new"}, "autostart": True}
    }
    assert made == results.run_again["pool"] == results.check_again["pool"]
    assert made["capacity"] >= made["available"] > 0
    foreseen = results.check["pool"]
    assert set(foreseen) == set(made)
    assert {field: made[field] for field in foreseen if foreseen[field] is not None} == {
        field: value for field, value in foreseen.items() if value is not None
    }
    assert store.key not in json.dumps(results)
    assert key_in(libvirtd, secret) == store.key
    xml = libvirtd.secretLookupByUUIDString(secret).XMLDesc(0)
    assert "private='no'" in xml
    assert f"<name>virt.storage {store.name}</name>" in xml
    assert store.key not in xml + libvirtd.storagePoolLookupByName(store.name).XMLDesc(0)


def test_monitors_and_a_key_that_are_given_need_no_files(four, play, store, libvirtd):
    source = {"pool": store.pool, "monitors": [ceph.monitor()], "user": f"client.{store.user}", "key": store.key}
    results = four("libvirt_pool", name=store.name, type="rbd", rbd=source)
    assert results.run["pool"]["rbd"]["user"] == store.user
    shown = play([{"virt.storage.libvirt_pool": {"name": store.name, "type": "rbd", "rbd": source}}], "-vvv")
    assert shown[-1]["changed"] is False
    assert store.key not in json.dumps([results, shown])
    assert key_in(libvirtd, results.run["pool"]["rbd"]["secret"]) == store.key


def test_the_role_takes_the_key_beside_the_pools_and_shows_it_nowhere(play, store, libvirtd):
    source = {"pool": store.pool, "monitors": [ceph.monitor()], "user": store.user}
    variables = {
        **{f"storage_pool_{name}": False for name in ("manage_packages", "manage_service", "use_venv")},
        "storage_pool_pools": [{"name": store.name, "type": "rbd", "rbd": source, "labels": {"tier": "ceph"}}],
        "storage_pool_ceph_keys": {store.name: store.key},
    }
    shown = play([{"ansible.builtin.include_role": {"name": "virt.storage.storage_pool"}}], variables=variables)
    assert f"start pool {store.name}" in json.dumps(shown)
    assert store.key not in json.dumps(shown)
    assert libvirtd.storagePoolLookupByName(store.name).isActive()


def test_labels_and_limits_are_kept_in_the_cluster(four, task, store):
    task("libvirt_pool", **store.wanted())
    labels, cache = {"tier": "ceph"}, {"max_count": 3}
    results = four("libvirt_pool", name=store.name, labels=labels, cache=cache)
    assert results.check["pool"] == results.run["pool"] == results.run_again["pool"]
    assert (results.run["pool"]["labels"], results.run["pool"]["cache"]) == (labels, cache)
    gone = four("libvirt_pool", name=store.name, state="absent")
    assert gone.run["actions"] == [
        f"stop pool {store.name}",
        f"undefine pool {store.name} (rbd, {store.pool} at {ceph.monitor()})",
        f"remove the libvirt secret of pool {store.name}",
    ]
    again = four("libvirt_pool", labels=labels, **store.wanted())
    assert not any(action.startswith("label") for action in again.run["actions"])
    assert again.check["pool"]["labels"] == again.run["pool"]["labels"] == labels
    assert task("libvirt_pool_info", name=[store.name])["pools"] == [{**again.run["pool"], "cached": 0}]


def test_records_and_secret_go_with_the_pool_when_it_holds_nothing(four, task, refused, store, libvirtd):
    secret = task("libvirt_pool", labels={"tier": "ceph"}, **store.wanted())["pool"]["rbd"]["secret"]
    gone = {"name": store.name, "state": "absent", "remove_contents": True}
    rbd("create", "-s", "8M", f"{store.pool}/somebody")
    assert "volumes without a record: somebody" in refused("libvirt_pool", **gone)
    rbd("rm", f"{store.pool}/somebody")
    task("libvirt_pool", name=store.name, state="inactive")
    results = four("libvirt_pool", **gone)
    assert results.run["actions"][0] == f"remove the records of pool {store.name}, which holds nothing else"
    assert not is_there(libvirtd, secret)
    listing = ["rados", "-c", str(ceph.CONF), "-p", store.pool, "--all", "ls"]
    left = subprocess.run(listing, check=True, capture_output=True, text=True, timeout=60).stdout
    assert "virt-storage" not in left


def test_a_pool_of_somebody_else_is_adopted_with_the_secret_that_it_has(four, store, libvirtd):
    for by_usage in (False, True):
        secret = store.foreign(by_usage=by_usage)
        rbd("create", "-s", "8M", f"{store.pool}/old{by_usage}")
        results = four("libvirt_pool", name=store.name, labels={"tier": str(by_usage)})
        assert results.run["pool"]["unmanaged"][0] == "oldFalse"
        assert results.run["pool"]["rbd"].get("secret") == (None if by_usage else secret)
        assert [action.split()[0] for action in results.run["actions"]] == ["enable", "label"]
        same = four("libvirt_pool", name=store.name, rbd=store.source())
        assert same.run["changed"] is False
        four("libvirt_pool", name=store.name, state="absent")
        assert key_in(libvirtd, secret) == store.key
        libvirtd.secretLookupByUUIDString(secret).undefine()


def test_a_private_secret_is_left_to_libvirt_and_the_pool_gets_its_own(four, task, refused, store, libvirtd):
    foreign = store.foreign(private=True)
    assert "private" in four("libvirt_pool", name=store.name).run["pool"]["problem"]
    assert "rbd.keyring" in refused("libvirt_pool", name=store.name, labels={"tier": "ceph"})
    assert "not redefined" in refused("libvirt_pool", name=store.name, rbd=store.source())
    results = four("libvirt_pool", name=store.name, state="inactive", rbd=store.source())
    assert [action.split()[0] for action in results.run["actions"]] == ["stop", "make", "redefine"]
    own = results.run["pool"]["rbd"]["secret"]
    assert own != foreign
    assert is_there(libvirtd, foreign)
    assert four("libvirt_pool", name=store.name, labels={"tier": "ceph"}).run["pool"]["labels"] == {"tier": "ceph"}


def test_a_pool_whose_secret_is_gone_gets_its_own(four, refused, store, libvirtd):
    foreign = store.foreign()
    libvirtd.storagePoolLookupByName(store.name).destroy()
    libvirtd.secretLookupByUUIDString(foreign).undefine()
    said = refused("libvirt_pool", name=store.name)
    assert foreign in said
    assert "give libvirt_pool the key in rbd.keyring" in said
    assert four("libvirt_pool", name=store.name, rbd=store.source()).run["pool"]["rbd"]["secret"] != foreign


def test_a_changed_key_is_changed_in_the_secret_of_the_running_pool(four, task, refused, store, libvirtd):
    secret = task("libvirt_pool", labels={"tier": "ceph"}, **store.wanted())["pool"]["rbd"]["secret"]
    old = store.key
    ceph.add_user(store.user, {"mon": "profile rbd", "osd": f"profile rbd pool={store.pool}"})
    assert store.key != old
    assert "the key is wrong" in task("libvirt_pool_info", name=[store.name])["pools"][0]["problem"]
    results = four("libvirt_pool", name=store.name, rbd=store.source(), labels={"tier": "other"})
    assert results.run["actions"][0] == (
        f"put the key of client.{store.user} into the libvirt secret of pool {store.name} in place of another"
    )
    assert results.run["diff"]["before"][f"pool {store.name}"]["rbd"] == {"key": "as it was"}
    assert results.run["diff"]["after"][f"pool {store.name}"]["rbd"] == {"key": "changed"}
    assert results.check["pool"] == results.run["pool"]
    assert key_in(libvirtd, secret) == store.key
    assert not {old, store.key} & set(json.dumps(results).split('"'))
    libvirtd.storagePoolLookupByName(store.name).refresh(0)


def test_the_secret_stays_for_guests_and_comes_back_the_same(four, task, store, libvirtd):
    secret = task("libvirt_pool", **store.wanted())["pool"]["rbd"]["secret"]
    guest = store.guest("disk", secret)
    results = four("libvirt_pool", name=store.name, state="absent")
    assert [action.split()[0] for action in results.run["actions"]] == ["stop", "undefine"]
    assert key_in(libvirtd, secret) == store.key
    again = four("libvirt_pool", **store.wanted())
    assert [action.split()[0] for action in again.run["actions"]] == ["define", "start", "enable"]
    four("libvirt_pool", name=store.name, state="absent")
    guest.undefine()
    assert four("libvirt_pool", name=store.name, state="absent").run["actions"] == [
        f"remove the libvirt secret of pool {store.name}"
    ]
    assert four("libvirt_pool", **store.wanted()).run["pool"]["rbd"]["secret"] == secret


def test_a_pool_in_use_is_not_stopped_unless_forced(four, task, refused, store, libvirtd):
    secret = task("libvirt_pool", **store.wanted())["pool"]["rbd"]["secret"]
    rbd("create", "-s", "8M", f"{store.pool}/disk")
    guest = store.guest("disk", secret)
    assert task("libvirt_pool", check=True, name=store.name, state="inactive")["changed"]
    guest.create()
    for state in ("inactive", "absent"):
        said = refused("libvirt_pool", name=store.name, state=state)
        assert f"used by {guest.name()} (running, vda)" in said
    assert four("libvirt_pool", name=store.name, state="inactive", force=True).run["changed"]
    assert guest.isActive()


def test_a_namespace_has_records_of_its_own_and_libvirt_lists_the_default_one(four, task, refused, store, libvirtd):
    assert "There is no namespace tenant" in refused("libvirt_pool", **store.wanted(namespace="tenant"))
    rbd("namespace", "create", f"{store.pool}/tenant")
    rbd("create", "-s", "8M", f"{store.pool}/tenant/inner")
    rbd("create", "-s", "8M", f"{store.pool}/outer")
    results = four("libvirt_pool", labels={"tier": "tenant"}, **store.wanted(namespace="tenant"))
    assert results.run["pool"]["rbd"]["namespace"] == "tenant"
    assert results.run["pool"]["unmanaged"] == ["inner"]
    assert libvirtd.storagePoolLookupByName(store.name).listVolumes() == ["outer"]
    assert "is that of pool" in refused("libvirt_pool", **{**store.wanted(namespace="tenant"), "name": "vst-twice"})
    beside = {**store.wanted(), "name": f"{store.name}-all"}
    other = four("libvirt_pool", **beside)
    assert (other.run["pool"]["labels"], other.run["pool"]["unmanaged"]) == ({}, ["outer"])
    four("libvirt_pool", name=beside["name"], state="absent")
    assert "not redefined" in refused("libvirt_pool", **store.wanted(namespace=""))
    task("libvirt_pool", name=store.name, state="inactive")
    moved = four("libvirt_pool", **store.wanted(namespace=""))
    assert moved.run["diff"]["after"][f"pool {store.name}"]["rbd"] == {"namespace": ""}
    assert moved.run["pool"]["labels"] == {}


def test_a_pool_that_libvirt_cannot_start_is_not_left_behind(task, store, libvirtd):
    """Libvirt opens every image, and one is damaged."""
    rbd("create", "-s", "8M", f"{store.pool}/damaged")
    argv = ["rados", "-c", str(ceph.CONF), "-p", store.pool, "put", "rbd_id.damaged", "-"]
    subprocess.run(argv, input=b"?", check=True, capture_output=True, timeout=60)
    before = libvirtd.listSecrets()
    with pytest.raises(ModuleFailed, match="Libvirt could not start pool"):
        task("libvirt_pool", **store.wanted())
    assert store.name not in [pool.name() for pool in libvirtd.listAllStoragePools(0)]
    assert libvirtd.listSecrets() == before


def test_two_pools_cannot_be_one(task, refused, store):
    task("libvirt_pool", **store.wanted())
    twice = {**store.wanted(), "name": f"{store.name}-2"}
    assert f"is that of pool {store.name}" in refused("libvirt_pool", **twice)


def test_what_cannot_work_is_said_in_a_sentence(refused, store):
    def said(**more: Any) -> str:
        given = {name: value for name, value in store.source(**more).items() if value is not None}
        return refused("libvirt_pool", name=store.name, type="rbd", rbd=given)

    assert "There is no pool nowhere in the Ceph cluster" in said(pool="nowhere")
    assert f"not of client.{store.user}" in said(keyring=str(ceph.keyring(ceph.USER)))
    assert "holds no key of Ceph" in said(key="x", keyring=None)
    assert "names no monitors" in said(conf=str(ceph.keyring(store.user)))
    assert "rbd.pool" in said(pool=None)
    assert "mutually exclusive" in said(monitors=["10.0.0.1"])


@pytest.mark.parametrize(
    "osd", ["allow r pool=nowhere", "profile rbd pool={pool} namespace=tenant"], ids=["other pool", "namespace only"]
)
def test_a_user_who_may_not_enough_is_told_what_is_needed(refused, store, osd):
    """Libvirt lists the default namespace, whichever one the disks are in."""
    rbd("namespace", "create", f"{store.pool}/tenant")
    ceph.add_user(store.user, {"mon": "profile rbd", "osd": osd.format(pool=store.pool)})
    assert "profile rbd" in refused("libvirt_pool", **store.wanted(namespace="tenant"))


def test_a_wrong_key_is_told_from_a_cluster_that_is_away(task, store):
    """Librados tries a wrong key over and over, until its time is up."""
    begun = time.monotonic()
    source = store.source(key=ceph.key(ceph.USER))
    del source["keyring"]
    with pytest.raises(ModuleFailed, match="the key is wrong") as failure:
        task("libvirt_pool", name=store.name, type="rbd", rbd=source)
    assert time.monotonic() - begun < 60
    assert source["key"] not in json.dumps(failure.value.result)


def test_monitors_that_do_not_answer_are_waited_for_so_long_and_no_longer(task, store):
    task("libvirt_pool", **store.wanted())
    with ceph.frozen("mon.a"):
        begun = time.monotonic()
        with pytest.raises(ModuleFailed, match="did not answer within 30 s") as failure:
            task("libvirt_pool", name=store.name)
        assert time.monotonic() - begun < 60
        assert "\n" not in failure.value.msg
        assert task("libvirt_pool", name=store.name, state="inactive")["actions"] == [f"stop pool {store.name}"]
    assert task("libvirt_pool", name=store.name)["pool"]["state"] == "active"


def test_files_that_an_earlier_task_may_bring_are_warned_of_in_check_mode(task, store, tmp_path):
    for option in ("conf", "keyring"):
        missing = store.wanted(**{option: str(tmp_path / "missing")})
        foreseen = task("libvirt_pool", check=True, **missing)
        assert [action.split()[0] for action in foreseen["actions"]] == ["make", "define", "start", "enable"]
        assert f"There is no file {tmp_path}/missing" in str(foreseen["warnings"])
        with pytest.raises(ModuleFailed, match=f"There is no file {tmp_path}/missing"):
            task("libvirt_pool", **missing)
