# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from dataclasses import replace

import pytest

from ansible_collections.virt.storage.plugins.module_utils._ground.errors import BadInput, InUse
from ansible_collections.virt.storage.plugins.module_utils._policy.disk_plan import (
    Found,
    Moving,
    Offer,
    Wanted,
    check_discard,
    plan,
    plan_finish,
    plan_move,
)
from ansible_collections.virt.storage.plugins.module_utils._policy.disk_xml import Attachment

GIB = 1 << 30
WHAT = "disk root of web1 in pool ssd"
IMAGE = Wanted("ssd", "web1", "root", "image", "debian-12", 20 * GIB)
OFFER = Offer(2 * GIB, "overlay", "because", "debian-12", needs_image=True)
ORIGIN = {"asked": "debian-12", "name": "debian-12", "image": "image+debian-12+0+a", "key": "sha256:00+qcow2"}
STANDING = Found(20 * GIB, ORIGIN, needs_image=True)
BLANK = Wanted("ssd", "web1", "root", "blank", "ext4", GIB)
CONFIG = Wanted("ssd", "web1", "root", "config", "sha256:new")


def sentences(want, have=None, offer=OFFER):
    return [action.sentence for action in plan(want, have, offer).actions]


def test_a_new_disk_is_made_and_grown_within_one_step():
    made = plan(IMAGE, None, OFFER)
    assert [action.sentence for action in made.actions] == [f"make {WHAT} (20.0 GiB, overlay of image debian-12)"]
    assert (made.actions[0].strategy, made.actions[0].reason) == ("overlay", "because")
    assert (made.before, made.after) == ({}, {WHAT: {"state": "ready", "size": 20 * GIB}})


def test_without_a_size_a_disk_is_as_large_as_its_image():
    assert plan(replace(IMAGE, size=0), None, OFFER).after[WHAT]["size"] == 2 * GIB
    assert plan(replace(IMAGE, size=2 * GIB), None, OFFER).changed
    with pytest.raises(BadInput, match=r"but its image debian-12 has 2147483648 bytes \(2\.0 GiB\)"):
        plan(replace(IMAGE, size=2 * GIB - 512), None, OFFER)


def test_a_size_that_is_not_known_yet_is_not_foretold():
    assert plan(replace(IMAGE, size=0), None, Offer()).after == {WHAT: {"state": "ready"}}


def test_sizes_are_whole_sectors():
    assert replace(IMAGE, size=1).bytes == 512
    assert not plan(replace(IMAGE, size=20 * GIB - 1), STANDING, OFFER).changed


def test_a_disk_as_wanted_needs_nothing():
    for want in (IMAGE, replace(IMAGE, size=0), replace(IMAGE, kind="", content=""), replace(IMAGE, clone="copy")):
        assert not plan(want, STANDING, OFFER).changed


def test_a_disk_grows_and_never_shrinks():
    grown = plan(replace(IMAGE, size=30 * GIB), STANDING, OFFER)
    assert [action.sentence for action in grown.actions] == [f"grow {WHAT} from 20.0 GiB to 30.0 GiB"]
    assert (grown.before, grown.after) == ({WHAT: {"size": 20 * GIB}}, {WHAT: {"size": 30 * GIB}})
    with pytest.raises(BadInput, match="cannot shrink"):
        plan(replace(IMAGE, size=19 * GIB), STANDING, OFFER)


def test_a_disk_is_flattened_once_and_not_while_it_is_used():
    want = replace(IMAGE, flattened=True)
    assert sentences(want) == [
        f"make {WHAT} (20.0 GiB, overlay of image debian-12)",
        f"flatten {WHAT}, so that it needs no image",
    ]
    assert sentences(want, None, replace(OFFER, strategy="copy", needs_image=False)) == [
        f"make {WHAT} (20.0 GiB, copy of image debian-12)"
    ]
    flattened = plan(want, replace(STANDING, to_flatten=5), OFFER)
    assert (flattened.before, flattened.after) == ({WHAT: {"flattened": False}}, {WHAT: {"flattened": True}})
    assert flattened.actions[0].bytes_to_read == flattened.actions[0].bytes_to_write == 5
    assert not plan(want, replace(STANDING, needs_image=False, users="guest web1"), OFFER).changed
    with pytest.raises(InUse, match=r"in use by guest web1 \(running, vda\): stop the guest"):
        plan(want, replace(STANDING, users="guest web1 (running, vda)"), OFFER)


def test_growing_does_not_mind_users_and_comes_before_flattening():
    assert sentences(replace(IMAGE, size=30 * GIB), replace(STANDING, users="guest web1"))
    both = sentences(replace(IMAGE, size=30 * GIB, flattened=True), STANDING)
    assert [sentence.split()[0] for sentence in both] == ["grow", "flatten"]


def test_an_image_is_known_by_every_name_it_has():
    for name in ("debian-12", "image+debian-12+0+a", "sha256:00+qcow2"):
        assert not plan(replace(IMAGE, content=name), STANDING, Offer()).changed
    assert not plan(replace(IMAGE, content="alias"), STANDING, OFFER).changed
    with pytest.raises(BadInput, match="is a clone of image debian-12, not a clone of image debian-13"):
        plan(replace(IMAGE, content="debian-13"), STANDING, replace(OFFER, name="debian-13"))


def test_what_a_disk_was_made_of_is_kept():
    blank, config, imported = {"blank": "ext4", **ORIGIN}, {"config": "sha256:old"}, {"import": "/a"}
    assert not plan(BLANK, Found(GIB, blank), Offer()).changed
    for want, origin, said in (
        (replace(BLANK, content="xfs"), blank, r"is a blank disk \(ext4\), not a blank disk \(xfs\)"),
        (IMAGE, blank, r"is a blank disk \(ext4\), not a clone of image debian-12"),
        (BLANK, ORIGIN, r"is a clone of image debian-12, not a blank disk \(ext4\)"),
        (CONFIG, ORIGIN, "is a clone of image debian-12, not a config disk"),
        (BLANK, config, r"is a config disk, not a blank disk \(ext4\)"),
        (replace(BLANK, kind="import", content="/b"), imported, "is an import of /a, not an import of /b"),
    ):
        with pytest.raises(BadInput, match=said):
            plan(want, Found(GIB, origin), OFFER)


def test_the_task_is_believed_where_the_record_does_not_tell():
    for want in (BLANK, CONFIG, replace(IMAGE, size=0)):
        assert not plan(want, Found(GIB, {}), Offer()).changed


def test_a_disk_that_has_to_be_there_is_not_made():
    with pytest.raises(BadInput, match="does not say what to make it of"):
        plan(Wanted("ssd", "web1", "root"), None, Offer())
    with pytest.raises(BadInput, match="its size is needed"):
        plan(replace(BLANK, size=0), None, Offer())


def test_config_files_are_replaced_only_when_asked_and_their_digests_are_not_shown():
    have = Found(65536, {"config": "sha256:old"})
    assert not plan(replace(CONFIG, content="sha256:old"), have, Offer()).changed
    with pytest.raises(BadInput, match="set replace: true"):
        plan(CONFIG, have, Offer())
    with pytest.raises(InUse, match="stop the guest, then replace"):
        plan(replace(CONFIG, replace=True), replace(have, users="guest web1"), Offer())
    replaced = plan(replace(CONFIG, replace=True), have, Offer())
    assert [action.verb for action in replaced.actions] == ["replace"]
    assert replaced.before != replaced.after
    assert "sha256" not in str([replaced, plan(CONFIG, None, Offer())])


def test_an_adopted_volume_is_grown_after_it_is_taken_over():
    want = Wanted("ssd", "web1", "root", "import", "/srv/ssd/old.img", 3 * GIB)
    offer = Offer(2 * GIB, "adopt")
    adopted = plan(want, None, offer)
    assert [action.sentence for action in adopted.actions] == [
        f"make {WHAT} (the volume /srv/ssd/old.img)",
        f"grow {WHAT} from 2.0 GiB to 3.0 GiB",
    ]
    assert (adopted.before, adopted.after) == ({}, {WHAT: {"state": "ready", "size": 3 * GIB}})
    assert not any(action.verb == "grow" for action in plan(replace(want, size=0), None, offer).actions)
    with pytest.raises(BadInput, match=r"the volume /srv/ssd/old\.img has 2147483648 bytes"):
        plan(replace(want, size=GIB), None, offer)


def test_an_adopted_overlay_can_be_flattened():
    want = Wanted("ssd", "web1", "root", "import", "/srv/ssd/a.qcow2", flattened=True)
    verbs = [action.verb for action in plan(want, None, Offer(GIB, "adopt", needs_image=True)).actions]
    assert verbs == ["make", "flatten"]


def test_a_guest_gives_nothing_back_where_its_disk_has_to_keep_its_space():
    unmap = replace(IMAGE, attachment=Attachment(discard="unmap"))
    with pytest.raises(BadInput, match=f"^The {WHAT} asks for discard unmap, and it is qcow2 .* leave discard out"):
        check_discard(unmap, "qcow2", {"qcow2"})
    check_discard(unmap, "raw", {"qcow2"})
    check_discard(unmap, "qcow2", frozenset())
    for kept in (None, "ignore"):
        check_discard(replace(IMAGE, attachment=Attachment(discard=kept)), "qcow2", {"qcow2"})


COPY = replace(OFFER, strategy="copy", needs_image=False, read=7, written=6)


@pytest.mark.parametrize(
    ("want", "have", "offer", "takes"),
    [
        (IMAGE, None, COPY, [{"ssd": 6}]),
        (IMAGE, None, replace(COPY, thick=True), [{"ssd": 20 * GIB}]),
        (IMAGE, None, replace(COPY, written=None), [{"ssd": None}]),
        (replace(IMAGE, size=0), None, Offer(thick=True), [{"ssd": None}]),
        (replace(IMAGE, flattened=True), None, replace(OFFER, to_flatten=5), [{"ssd": 0}, {"ssd": 5}]),
        (
            replace(IMAGE, flattened=True),
            None,
            replace(OFFER, to_flatten=5, thick=True),
            [{"ssd": 20 * GIB}, {"ssd": 0}],
        ),
        (replace(IMAGE, size=21 * GIB), STANDING, OFFER, [{"ssd": 0}]),
        (replace(IMAGE, size=21 * GIB), STANDING, replace(OFFER, thick=True), [{"ssd": GIB}]),
        (
            replace(CONFIG, replace=True),
            Found(4096, {"config": "x"}, allocated=4096),
            Offer(written=5120),
            [{"ssd": 1024}],
        ),
    ],
)
def test_what_a_step_takes_from_its_pool(want, have, offer, takes):
    assert [action.takes for action in plan(want, have, offer).actions] == takes


def test_a_move_takes_from_one_pool_and_gives_to_the_other():
    (move,) = plan_move(IMAGE, STANDING, Moving("hdd", "delta", "because", 9, 9, allocated=11)).actions
    assert (move.bytes_to_read, move.bytes_to_write, move.takes) == (9, 9, {"ssd": 9, "hdd": -11})
    (move,) = plan_move(IMAGE, STANDING, Moving("hdd", "whole", "because", 9, 9, allocated=11, thick=True)).actions
    assert move.takes == {"ssd": 20 * GIB, "hdd": -11}
    (finish,) = plan_finish("web1", "root", "hdd", "ssd", 11).actions
    assert finish.takes == {"hdd": -11}
