#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""amend of odd images: what lies behind the end of the disk, tables at two places, no room for a snapshot table,
names that fill the header, damage. Either it is refused, and nothing has changed, or all reads as before.

usage: test_amend_odd.py VDISK_IO PEER
"""
import json
import os
import pathlib
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from chains import Test, clear, run  # noqa: E402  pylint: disable=wrong-import-position

t = Test(sys.argv)
OFFSET = 0xfffffffffffe00  # of a cluster, in an entry
COPIED = 1 << 63


class Image:
    """The bytes of a file, as numbers; put back at the end."""

    def __init__(self, name):
        self.name = name

    def __enter__(self):
        self.bytes = bytearray(pathlib.Path(self.name).read_bytes())
        return self

    def __exit__(self, *failure):
        pathlib.Path(self.name).write_bytes(self.bytes)

    def get(self, at, size=8):
        return int.from_bytes(self.bytes[at:at + size], "big")

    def put(self, at, value, size=8):
        self.bytes[at:at + size] = value.to_bytes(size, "big")

    def table(self, entry):
        """The L2 table of an entry of the L1 table."""
        return self.get(self.get(40) + 8 * entry) & OFFSET

    def strip_snapshot(self):
        """Without the fields that version 3 asks for, as of QEMU before 1.7: of the only one."""
        at, extra = self.get(64), 40 + self.get(self.get(64) + 36, 4)
        names = self.get(at + 12, 2) + self.get(at + 14, 2)
        self.bytes[at + 40:at + 512] = self.bytes[at + extra:at + extra + names].ljust(472, b"\0")
        self.put(at + 36, 0, 4)


def create(name, size, *options, commands=()):
    t.must(t.peer, "create", "-q", "-f", "qcow2", *options, name, str(size))
    change(name, *commands)


def change(name, *commands):
    if commands:
        t.must(t.io, "-f", "qcow2", *[arg for c in commands for arg in ("-c", c)], name)


def contents(name, *snapshots):
    found = [t.content(name, "qcow2")]
    for snapshot in snapshots:
        t.must(t.peer, "convert", "-U", "-l", snapshot, "-O", "raw", name, "content")
        found.append(pathlib.Path("content").read_bytes())
        os.unlink("content")
    return found


def version(name):
    return json.loads(t.must(t.peer, "info", "-U", "--output", "json", name))["format-specific"]["data"]["compat"]


def done(what, name, options, want, snapshots=()):
    """It is amended, sound, and reads what it did."""
    result = run(t.tool, "amend", "-o", options, name)
    t.same(f"{what}: exit code {result.stderr}", result.returncode, 0)
    t.sound(what, name, "qcow2")
    t.expect(f"{what}: reads as before", contents(name, *snapshots) == want)
    for compat in "0.10", "1.1":
        t.expect(f"{what}: version", f"compat={compat}" not in options or version(name) == compat)


def refused(hint, text, options, name):
    t.refused(text, "amend", "-o", options, name)
    stderr = run(t.tool, "amend", "-o", options, name).stderr
    t.expect(f"{options}: its hint says {hint}", hint in stderr.partition("hint: ")[2], stderr)


# ---- what is done -------------------------------------------------------------------------------------------

def upgraded_narrowed():
    """Both at once, where there are snapshots that share nothing much."""
    for commands in [], ["write -P 5 0 100k"]:
        clear()
        create("a", "1M", "-o", "compat=0.10", commands=commands)
        t.must(t.peer, "snapshot", "-c", "s", "a")
        done("narrowed while upgraded", "a", "compat=1.1,refcount_bits=8", contents("a", "s"), ["s"])


def vm_state():
    """Zeros behind the end of the disk, where a longer backing file shows through what has no cluster."""
    clear()
    create("below", "1M", commands=["write -P 0x55 0 1M"])
    create("a", "32k", "-o", "cluster_size=512", "-b", "below", "-F", "qcow2", commands=["write -b -P 7 0 4k"])
    t.must(t.peer, "snapshot", "-c", "s", "a")
    with Image("a") as image:
        for i in range(8):
            image.put(image.table(1) + 8 * i, 1)
    run(t.peer, "check", "-r", "leaks", "a")
    t.must(t.io, "-f", "qcow2", "-c", "read -b -P 0 0 4k", "a")
    done("state of a VM", "a", "compat=0.10", contents("a", "s"), ["s"])
    result = run(t.io, "-f", "qcow2", "-c", "read -b -P 0 0 4k", "a")
    t.expect("state of a VM: zeros", "verification failed" not in result.stdout, result.stdout, result.stderr)


def table_at_two_places():
    """One L2 table, of a snapshot at the beginning of its disk, of the image behind its end."""
    clear()
    create("below", "64k", commands=["write -P 0x55 0 64k"])
    create("a", "64k", "-o", "cluster_size=512", "-b", "below", "-F", "qcow2",
           commands=["write -P 9 0 512", "write -z -u 4k 4k", "write -P 9 32k 512"])
    t.must(t.peer, "snapshot", "-c", "s", "a")
    with Image("a") as image:
        mine, its, table = image.get(40), image.get(image.get(64)), image.table(0)
        for at, value in (mine, 0), (mine + 8, table), (its, table), (its + 8, 0), (24, 32768):
            image.put(at, value)
        image.put(image.get(64) + 48, 32768)
    t.must(t.peer, "check", "-r", "all", "a")
    done("a table at two places", "a", "compat=0.10", contents("a", "s"), ["s"])


def new_backing_file():
    """Zeros stay zeros over a backing file that comes with version 2."""
    clear()
    create("below", "1M", commands=["write -P 0x55 0 1M"])
    create("a", "1M", commands=["write -P 9 0 128k", "write -z 0 64k", "write -z -u 256k 700k"])
    with Image("a") as image:
        t.expect("zeros without a cluster", image.get(image.table(0) + 8 * 5) == 1)
    want = contents("a")[0]
    t.must(t.tool, "amend", "-o", "compat=0.10,backing_file=below,backing_fmt=qcow2", "a")
    got = contents("a")[0]
    t.sound("new backing file", "a", "qcow2")
    for start, end in (0, 128 << 10), (256 << 10, 956 << 10):
        t.expect(f"new backing file: from {start}", got[start:end] == want[start:end])


def fill_refcounts(name):
    """So that the refcount blocks that there are have no cluster to spare. (256 clusters of 512 bytes each)"""
    i = 0
    while True:
        told = json.loads(t.must(t.peer, "check", "--output", "json", name))
        left = -(told["image-end-offset"] // 512) % 256
        if left == 0:
            return
        n = max(1, left - 12)
        change(name, *[f"write -P 3 {512 * k} 512" for k in range(i, i + n)])
        i += n


def no_room_for_snapshots():
    """Old entries become longer, in a new place that no refcount block has."""
    clear()
    create("a", "1M", "-o", "compat=0.10,cluster_size=512")
    t.must(t.peer, "snapshot", "-c", "s", "a")
    fill_refcounts("a")
    with Image("a") as image:
        image.strip_snapshot()
    t.sound("old snapshot", "a", "qcow2")
    done("no room for snapshots", "a", "compat=1.1", contents("a", "s"), ["s"])


def odd_size():
    """No multiple of 512, as QEMU has a snapshot's."""
    clear()
    create("a", "1M", commands=["write -P 4 0 64k"])
    with Image("a") as image:
        image.put(24, (1 << 20) - 100)
    t.must(t.peer, "snapshot", "-c", "s", "a")
    done("odd size", "a", "compat=0.10", contents("a", "s"), ["s"])


def names():
    """That fill the only cluster of a header: the longer one of version 3 has room for the new name alone."""
    clear()
    long = "./" * 195 + "b"
    create("b", "1M")
    create("a", "1M", "-o", "compat=0.10,cluster_size=512", "-b", long, "-F", "qcow2")
    refused("shorter names", "does not fit", "compat=1.1", "a")
    refused("shorter names", "does not fit", f"compat=1.1,backing_file={long}c", "a")
    t.must(t.peer, "rebase", "-u", "-b", "", "a")
    refused("shorter names", "does not fit", f"compat=1.1,backing_file={long},backing_fmt=qcow2", "a")
    for options in "backing_file=", "backing_file=b", "backing_file=,backing_fmt=":
        t.must(t.peer, "rebase", "-u", "-b", long, "-F", "qcow2", "a")
        done(f"names, {options}", "a", f"{options},compat=1.1", contents("a"))
        done("names", "a", "compat=0.10", contents("a"))


# ---- what is not --------------------------------------------------------------------------------------------

def shared_by_compression():
    """Clusters that many compressed ones share: there is no snapshot to delete."""
    clear()
    pathlib.Path("raw").write_bytes(b"abcdefgh" * (1 << 19))
    t.must(t.peer, "convert", "-c", "-O", "qcow2", "-o", "compat=0.10", "raw", "a")
    refused("take wider refcounts", "Cannot decrease refcount entry width to 1 bits: Cluster at offset 0x",
            "compat=1.1,refcount_bits=1", "a")
    refused("compressed", "Cannot decrease refcount entry width", "compat=1.1,refcount_bits=1", "a")
    done("shared by compression", "a", "compat=1.1,refcount_bits=8", contents("a"))


def damaged():
    """Whatever would be read by other rules, or counted anew, is looked at first."""
    every = {"a flag of version 3": ("compat=0.10", lambda image: 1, ["compat=1.1"]),
             "a cluster that is none": ("compat=1.1", lambda image: 0x200,
                                        ["compat=0.10", "refcount_bits=8", "refcount_bits=8,size=2M"])}

    for what, (compat, damage, some) in every.items():
        clear()
        create("a", "1M", "-o", compat, commands=["write -P 5 0 64k"])
        with Image("a") as image:
            at = image.table(0)
            image.put(at, image.get(at) | damage(image))
        for options in some:
            refused("check -r all", "is damaged: ", options, "a")
            t.expect(what, version("a") == compat.partition("=")[2])
    clear()
    create("a", "1M", commands=["write -P 5 0 64k"])
    with Image("a") as image: # a refcount of what is in use
        image.put(image.get(image.get(48)) + 2 * ((image.get(image.table(0)) & OFFSET) >> 16), 0, 2)
    for options in "compat=0.10", "refcount_bits=8":
        refused("check -r all", "is damaged: ", options, "a")


def texts():
    clear()
    create("a", "1M")
    create("b", "1M", "-o", "data_file=b.data")
    refused("convert it", "Cannot downgrade an image with a data file", "compat=0.10", "b")
    refused("backing_fmt=", "backing format must be specified", "backing_file=b", "a")
    done("no format of no backing file", "a", "backing_file=,backing_fmt=", contents("a"))


def main():
    if not t.usable():
        return 77
    with tempfile.TemporaryDirectory(prefix="vdisk-amend-odd.") as folder:
        os.chdir(folder)
        upgraded_narrowed()
        vm_state()
        table_at_two_places()
        new_backing_file()
        no_room_for_snapshots()
        odd_size()
        names()
        shared_by_compression()
        damaged()
        texts()
        os.chdir("/")
    return t.end()


if __name__ == "__main__":
    sys.exit(main())
