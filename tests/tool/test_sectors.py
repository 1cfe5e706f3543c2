#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Each verb that writes, onto block devices with logical blocks of 512 and of 4096 bytes, through the page cache
and past it: what is there afterwards is what a model in memory has, QEMU reads the same, and what lies behind is
as it was. What is written begins and ends within logical blocks, and so do its zeros.

usage: test_sectors.py VDISK_IO PEER
"""
import os
import pathlib
import random
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from chains import Test, run, seeds  # noqa: E402  pylint: disable=wrong-import-position

MIB = 1 << 20
DEVICE = 12 * MIB
LEFT = 0xa5 # what the device is full of before
SKIPPED = 77
t = Test(sys.argv)


class Device:
    """A loop device over a file of this folder, with blocks of so many bytes."""

    def __init__(self, block):
        self.block, self.file, self.name = block, f"device{block}", None
        with open(self.file, "wb") as f:
            f.truncate(DEVICE)
        made = run("losetup", "-f", "--show", "-b", str(block), self.file)
        self.name = made.stdout.strip() if made.returncode == 0 else None
        self.why = made.stderr.strip()

    def fill(self):
        with open(self.name, "r+b") as f:
            f.write(bytes([LEFT]) * DEVICE)
            f.flush()
            os.fsync(f.fileno())

    def bytes(self):
        with open(self.name, "rb") as f:
            return f.read()

    def close(self):
        if self.name:
            run("losetup", "-d", self.name)


def content(r, size):
    """Data and zeros that begin and end at odd sectors."""
    data, at = bytearray(size), 0
    while at < size:
        n = min(512 * r.choice([1, 3, 7, 9, 130, 700]), size - at)
        if r.random() < 0.5:
            data[at:at + n] = bytes([r.randrange(1, 255)]) * n
        at += n
    return data


def put(name, data):
    pathlib.Path(name).write_bytes(data)
    return name


def read(fmt, name):
    """As QEMU reads it."""
    t.must(t.peer, "convert", "-f", fmt, "-O", "raw", name, "read.raw")
    return pathlib.Path("read.raw").read_bytes()


def as_is(what, dev, size):
    """Behind the content nothing was written."""
    got = dev.bytes()[size:]
    t.expect(f"{what}: nothing behind it is touched", got == bytes([LEFT]) * len(got))


def is_image(what, name, want):
    t.same(f"{what}: qemu-img check", run(t.peer, "check", "-q", "-f", "qcow2", name).returncode, 0)
    t.expect(f"{what}: it has the content", read("qcow2", name)[:len(want)] == want)


def change(r, name, fmt, model, nocache):
    """Writes, zeros and discards within sectors' bounds, by `io`."""
    commands = []
    for _ in range(r.randrange(4, 14)):
        at = r.randrange(len(model)) // 512 * 512
        n = min(512 * r.choice([1, 2, 7, 9, 130, 900]), len(model) - at)
        kind = r.choice(["write -P", "write -f -P", "zero", "zero -u"])
        byte = r.randrange(1, 255) if kind.endswith("-P") else 0
        commands += ["-c", f"{kind} {byte} {at} {n}" if kind.endswith("-P") else f"{kind} {at} {n}"]
        model[at:at + n] = bytes([byte]) * n
    t.must(t.tool, "io", "-q", "-f", fmt, *(["-n"] if nocache else []), *commands, name)


# ---- the verbs ----------------------------------------------------------------------------------------------

def io(r, dev, cache, what):
    size = 512 * r.randrange(2000, 9000)
    model = content(r, size)
    dev.fill()
    with open(dev.name, "r+b") as f:
        f.write(model)
    change(r, dev.name, "raw", model, cache == "none")
    t.expect(f"{what}: it has the content", dev.bytes()[:size] == model)
    as_is(what, dev, size)


def convert_raw(r, dev, cache, what):
    data = content(r, 512 * r.randrange(2000, 9000))
    dev.fill()
    args = ["-S", r.choice(["0", "512", "4k"])] if r.random() < 0.5 else []
    t.must(t.tool, "convert", "-f", "raw", "-O", "raw", "-n", "-t", cache, *args, put("source", data), dev.name)
    t.expect(f"{what}: it has the content", dev.bytes()[:len(data)] == data)
    as_is(what, dev, len(data))


def convert_discard(r, dev, cache, what):
    """A device that is discarded before: zeros are zeros, and nothing but the device's own end ends it."""
    data = content(r, 512 * r.randrange(2000, 9000))
    dev.fill()
    full = os.stat(dev.file).st_blocks
    t.must(t.tool, "convert", "-q", "-f", "raw", "-O", "raw", "-n", "--discard-target", "-t", cache,
           put("source", data), dev.name)
    t.expect(f"{what}: it has the content", dev.bytes()[:len(data)] == data)
    t.expect(f"{what}: it gives back space", os.stat(dev.file).st_blocks < full)


def convert_qcow2(r, dev, cache, what):
    data = content(r, 512 * r.randrange(2000, 9000))
    dev.fill()
    args = r.choice([["-c"], ["-S", "512"], ["-o", "cluster_size=4k"], ["-o", "cluster_size=512"],
                     ["-o", "extended_l2=on"], []])
    t.must(t.tool, "convert", "-f", "raw", "-O", "qcow2", "-t", cache, *args, put("source", data), dev.name)
    is_image(f"{what} {args}", dev.name, data)


def dd(r, dev, _cache, what):
    data = content(r, 512 * r.randrange(2000, 9000))
    dev.fill()
    skip = r.randrange(0, 40)
    t.must(t.tool, "dd", "-f", "raw", "-O", "qcow2", "bs=512", f"skip={skip}", f"if={put('source', data)}",
           f"of={dev.name}")
    is_image(what, dev.name, data[512 * skip:])


def image(r, dev, cache, what):
    """create with a backing file, io, resize, check -r all."""
    size = 512 * r.randrange(2000, 9000)
    model = content(r, size)
    dev.fill()
    put("base", model)
    t.must(t.tool, "create", "-q", "-f", "qcow2", "-b", os.path.abspath("base"), "-F", "raw", "-o",
           f"cluster_size={r.choice(['512', '4k', '64k'])}", dev.name, str(size))
    change(r, dev.name, "qcow2", model, cache == "none")
    is_image(what, dev.name, model)
    more = 512 * r.randrange(1, 900)
    t.must(t.tool, "resize", "-q", "-f", "qcow2", dev.name, f"+{more}")
    model += bytes(more)
    is_image(f"{what}, larger", dev.name, model)
    t.must(t.tool, "resize", "-q", "-f", "qcow2", "--shrink", dev.name, str(size))
    del model[size:]
    change(r, dev.name, "qcow2", model, cache == "none")
    with open(dev.name, "r+b") as f: # refcounts that count nothing
        f.seek(48)
        table = int.from_bytes(f.read(8), "big")
        f.seek(table)
        block = int.from_bytes(f.read(8), "big")
        f.seek(block)
        f.write(bytes(512))
    t.expect(f"{what}: it is damaged", run(t.tool, "check", "-q", "-f", "qcow2", dev.name).returncode == 2)
    t.must(t.tool, "check", "-q", "-r", "all", "-f", "qcow2", dev.name)
    is_image(f"{what}, repaired", dev.name, model)


def commit(r, dev, cache, what):
    size = 512 * r.randrange(2000, 9000)
    model = content(r, size)
    qcow2 = r.random() < 0.5
    dev.fill()
    if qcow2:
        t.must(t.tool, "create", "-q", "-f", "qcow2", dev.name, str(size))
        t.must(t.tool, "convert", "-n", "-f", "raw", "-O", "qcow2", put("source", model), dev.name)
    else: # the device is as long as it is: so is its content
        model = bytearray([LEFT]) * DEVICE
        if size % 2:
            change(r, dev.name, "raw", model, False)
    t.must(t.tool, "create", "-q", "-f", "qcow2", "-b", dev.name, "-F", "qcow2" if qcow2 else "raw", "top")
    change(r, "top", "qcow2", model, False)
    t.must(t.tool, "commit", "-q", "-t", cache, "top")
    if qcow2:
        is_image(what, dev.name, model)
    else:
        t.expect(f"{what}: the device has the content", dev.bytes() == model)


def rebase(r, dev, cache, what):
    size = 512 * r.randrange(2000, 9000)
    model, other = content(r, size), content(r, 512 * r.randrange(1500, 9000))
    dev.fill()
    put("base", model)
    put("other", other)
    t.must(t.tool, "create", "-q", "-f", "qcow2", "-b", os.path.abspath("base"), "-F", "raw", dev.name)
    change(r, dev.name, "qcow2", model, False)
    to = r.choice([["-b", os.path.abspath("other"), "-F", "raw"], ["-b", ""]])
    t.must(t.tool, "rebase", "-q", "-f", "qcow2", "-t", cache, *to, dev.name)
    is_image(f"{what} {to[1]}", dev.name, model)


VERBS = [io, convert_raw, convert_discard, convert_qcow2, dd, image, commit, rebase]


def main():
    if not t.usable():
        return SKIPPED
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        devices = []
        try:
            for block in (512, 4096):
                devices.append(Device(block))
                if devices[-1].name is None:
                    print(f"skipped: no loop device with blocks of {block}: {devices[-1].why}")
                    return SKIPPED
            for seed in seeds(2):
                for dev in devices:
                    for cache in ("none", "writeback"):
                        for verb in VERBS:
                            verb(random.Random(f"{seed} {verb.__name__}"), dev, cache,
                                 f"{verb.__name__}, blocks of {dev.block}, -t {cache}, seed {seed}")
        finally:
            for dev in devices:
                dev.close()
            os.chdir("/")
    return t.end()


if __name__ == "__main__":
    sys.exit(main())
