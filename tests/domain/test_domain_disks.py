#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Storage domains on file systems of disks: ext4, XFS, btrfs, and btrfs that compresses, each on a loop device.
The four kinds of volume with direct I/O, what is preallocated, a snapshot, a merge, a copy, a clone, a full disk.

usage: test_domain_disks.py VDISK_IO
"""
import os
import pathlib
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import lib  # noqa: E402
from lib import MIB, check, checksum, io, judged, make, meta_of, refused, told, volume, works  # noqa: E402

SKIPPED = 77
DISKS = (("ext4", 160, "mkfs.ext4 -q", ""), ("xfs", 320, "mkfs.xfs -q", ""), ("btrfs", 160, "mkfs.btrfs -q", ""),
         ("compressed", 160, "mkfs.btrfs -q", ",compress-force=zstd"))


def sh(command):
    return subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)


def kinds(path, compresses):
    """Format and allocation: what is allocated is told as it is."""
    found = []
    for fmt in ("raw", "qcow2"):
        for kind in ("sparse", "preallocated"):
            r = works("volume", "create", "-f", fmt, "-a", kind, path, str(8 * MIB), "--output=json")
            said = lib.json.loads(r.stdout)
            file = f"{path}/images/{said['image']}/{said['volume']}"
            check("as the file system has it", said["allocated"] == os.stat(file).st_blocks * 512, said)
            if kind == "preallocated":
                told_of = "the storage has allocated" in r.stderr
                check("less than asked is told", told_of == (said["allocated"] < said["asked"]), r.stderr)
                check("all is there", compresses or not told_of, said)
            else:
                check("little is allocated", said["allocated"] <= MIB, said)
            io(path, said["image"], said["volume"], "write -P 5 1M 3M", "read -P 0 0 1M", "read -P 5 1M 3M")
            found.append((said["image"], said["volume"]))
    judged(path)
    return found


def life(path, other, image, base):
    content = checksum(path, image, base)
    _, top = volume("snapshot", f"{path}/{image}", "12M")
    io(path, image, top, "write -P 6 9M 1M")
    larger = checksum(path, image, top)
    copied = told("image", "copy", f"{path}/{image}", other)
    check("a copy reads the same", checksum(other, copied["image"], copied["volume"]) == larger)
    works("volume", "merge", f"{path}/{image}/{top}")
    check("merged", checksum(path, image, base) == larger and f"CAP={12 * MIB}\n" in meta_of(path, image, base))
    works("volume", "resize", f"{path}/{image}", "16M")
    works("io", "-c", "read -P 6 9M 1M", f"volume:{path}/{image}")
    check("another one before", content != larger)
    check("nothing is found", told("domain", "check", path)["faults"] == 0)
    works("image", "delete", f"{other}/{copied['image']}")


def template(path, image, name):
    works("volume", "update", f"{path}/{image}", "--shared")
    clone, top = works("image", "clone", f"{path}/{image}").stdout.strip().split("/")
    check("the clone reads the same", checksum(path, clone, top) == checksum(path, image, name))
    refused("image lies on", "image", "delete", f"{path}/{image}")
    works("image", "delete", f"{path}/{clone}")


def full(path):
    """No room for it: nothing is left."""
    before = sorted(lib.snapshot_of(f"{path}/images"))
    r = lib.run("volume", "create", "-a", "preallocated", path, "1G")
    check("a full disk", r.returncode == 1 and "preallocation needs" in r.stderr, r.stderr)
    check("leaves nothing", sorted(lib.snapshot_of(f"{path}/images")) == before)


def on(name, folder):
    path, other = make(f"{folder}/one"), make(f"{folder}/two")
    said = told("domain", "info", path)
    check(f"{name}: direct I/O is found", said["metadata"]["BLOCK_SIZE"] in ("512", "4096"), said)
    found = kinds(path, name == "compressed")
    for image, base in found:
        life(path, other, image, base)
    template(path, *found[2])
    if name != "compressed":
        full(path)
    for image, _ in found:
        works("image", "delete", f"{path}/{image}")
    check("all is gone", os.listdir(f"{path}/images") == [])
    judged(path)
    judged(other)


def main():
    done = 0
    with tempfile.TemporaryDirectory(prefix="vdisk-disks.") as root:
        for name, size, mkfs, more in DISKS:
            folder, file = f"{root}/{name}", f"{root}/{name}.disk"
            os.makedirs(folder)
            with open(file, "wb") as f:
                f.truncate(size * MIB)
            r = sh(f"{mkfs} {file} && mount -o loop{more} {file} {folder}")
            if r.returncode != 0:
                print(f"{name}: not here: {r.stderr.strip()}")
                continue
            try:
                on(name, folder)
                done += 1
            finally:
                sh(f"umount {folder} || umount -l {folder}")
            os.unlink(file)
    print(f"{lib.checks} checks, {lib.failures} failures, on {done} file systems")
    return 1 if lib.failures else 0 if done else SKIPPED


sys.exit(main())
