# Copyright (c) 2026 The virt.storage authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Makes a layout with Nova's own code: run by a Python that has Nova, with the wish as JSON on standard input.

``{"root": folder, "images_type": "qcow2" | "raw" | "flat", "force_raw": bool, "use_cow": bool,
"images": {image id: {"path": file, "format": ...}},
"instances": [{"uuid": ..., "disks": [{"name": "disk", "image": id, "size": bytes}]}]}``

``libvirt`` sets more options of that group of nova.conf. A disk with ``clone``, an ``rbd://`` location, is a clone of
that snapshot. A disk without an image is an ephemeral one (``"ephemeral": GiB``) or a swap disk (``"swap": MiB``), or a
config drive (``"config": local file``). Says what it made as JSON.
"""

import eventlet

eventlet.monkey_patch()

import hashlib  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import shutil  # noqa: E402
import sys  # noqa: E402

import nova.conf  # noqa: E402
import nova.privsep  # noqa: E402
from nova import objects  # noqa: E402
from nova.virt.libvirt import imagebackend  # noqa: E402
from oslo_concurrency import processutils  # noqa: E402


def set_up(wish):
    conf = nova.conf.CONF
    conf([], project="nova", default_config_files=[])
    conf.set_override("instances_path", wish["root"])
    conf.set_override("state_path", wish["root"] + ".state")
    conf.set_override("lock_path", wish["root"] + ".locks", group="oslo_concurrency")
    conf.set_override("images_type", wish["images_type"], group="libvirt")
    conf.set_override("force_raw_images", wish.get("force_raw", True))
    conf.set_override("use_cow_images", wish.get("use_cow", True))
    for name, value in wish.get("libvirt", {}).items():
        conf.set_override(name, value, group="libvirt")
    nova.privsep.sys_admin_pctxt.set_client_mode(False)
    objects.register_all()


def fetch_image(sources, raw):
    """As ``nova.virt.images.fetch_to_raw`` with a local file in Glance's place: converted where raw is forced."""

    def fetch(context, target, image_id, **_unused):
        source = sources[image_id]
        if raw:
            processutils.execute("qemu-img", "convert", "-f", source["format"], "-O", "raw", source["path"], target)
        else:
            shutil.copyfile(source["path"], target)

    return fetch


def make_swap(target, swap_mb, **_unused):
    processutils.execute("qemu-img", "create", "-f", "raw", target, "%dM" % swap_mb)
    processutils.execute("mkswap", target)


def make_ephemeral(target, ephemeral_size, **_unused):
    processutils.execute("qemu-img", "create", "-f", "raw", target, "%dM" % ephemeral_size)
    processutils.execute("mkfs.ext4", "-F", "-q", target)


def make_disk(wish, backend, instance, disk):
    image = backend.by_name(instance, disk["name"], *([disk["type"]] if disk.get("type") else []))
    if "clone" in disk:
        location = {"id": "x", "disk_format": "raw", "locations": [{"url": disk["clone"]}]}
        imagebackend.IMAGE_API.get = lambda *_unused, **_more: location
        image.clone(None, "x")
        image.resize_image(disk["size"])
    elif "image" in disk:
        image.cache(
            fetch_func=fetch_image(wish["images"], wish.get("force_raw", True)),
            filename=hashlib.sha1(disk["image"].encode()).hexdigest(),
            size=disk.get("size"),
            context=None,
            image_id=disk["image"],
        )
    elif "swap" in disk:
        image.cache(
            fetch_func=make_swap, filename="swap_%d" % disk["swap"], size=disk["swap"] << 20, swap_mb=disk["swap"]
        )
    elif "ephemeral" in disk:
        name = "ephemeral_%d_%s" % (disk["ephemeral"], disk.get("hash", "40d1d2c"))
        image.cache(
            fetch_func=make_ephemeral,
            filename=name,
            size=disk["ephemeral"] << 20,
            ephemeral_size=disk["ephemeral"],
        )
    else:
        shutil.copyfile(disk["config"], image.path)
    return image


def main():
    wish = json.load(sys.stdin)
    set_up(wish)
    backend = imagebackend.Backend(use_cow=wish.get("use_cow", True))
    made = []
    for number, each in enumerate(wish["instances"]):
        instance = objects.Instance(uuid=each["uuid"], id=number + 1, project_id="p", ephemeral_key_uuid=None)
        os.makedirs(os.path.join(wish["root"], each["uuid"]), exist_ok=True)
        for disk in each["disks"]:
            image = make_disk(wish, backend, instance, disk)
            place = image.path or image.rbd_name
            made.append({"uuid": each["uuid"], "path": place, "format": image.driver_format})
    import nova.version

    print("\n" + json.dumps({"version": nova.version.version_string(), "disks": made}))


if __name__ == "__main__":
    main()
