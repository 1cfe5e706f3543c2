#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""commit beside qemu-img: on copies of one chain both say the same, and leave the same content in each layer.

Not the same on purpose: a base of version 2 over something longer grows, for which QEMU has no zeros.

usage: test_commit.py VDISK_IO PEER
"""
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from chains import Test, clear, digest, in_folder, run, seeds  # noqa: E402  pylint: disable=wrong-import-position

t = Test(sys.argv)


def arguments(r, layers):
    top = f"l{layers - 1}"
    kind = r.randrange(4)
    if kind == 0:
        return ["commit", "-d", top], layers - 2, False
    if kind == 1 and layers > 2:
        below = r.randrange(layers - 1)
        return ["commit", "-b", f"l{below}", top], below, False
    return ["commit", "-q", top] if kind == 2 else ["commit", top], layers - 2, True


def one(seed):
    r = random.Random(seed)
    layers = r.randrange(2, 6)
    clear()
    formats, _ = t.make(r, layers)
    top = f"l{layers - 1}"
    want = t.content(top, "qcow2")
    args, below, emptied = arguments(r, layers)
    what = f"seed {seed}, {layers} layers, {' '.join(args)}"
    ours, theirs = t.both([*args[:-1], "-f", "qcow2", args[-1]])
    theirs_can = "Operation not supported" not in theirs.stderr
    t.same(f"{what}: exit code", ours.returncode, theirs.returncode if theirs_can else 0)
    if theirs_can:
        t.same(f"{what}: output", ours.stdout, theirs.stdout)
    for i in (layers - 1, below):
        name = f"l{i}"
        got = in_folder("ours", t.content, name, formats[i])
        t.expect(f"{what}: {name} has the content", got[:len(want)] == want)
        if theirs_can:
            t.expect(f"{what}: {name} is as QEMU's", got == in_folder("theirs", t.content, name, formats[i]))
        in_folder("ours", t.sound, what, name, formats[i])
    if emptied:
        listed = in_folder("ours", t.must, t.tool, "map", "--output", "json", top)
        t.expect(f"{what}: the top is empty", '"depth": 0, "present": true' not in listed)
        t.expect(f"{what}: its space is given back", os.path.getsize(f"ours/{top}") <=
                 max(os.path.getsize(f"theirs/{top}") * 4, 6 << 20))
    again = run(t.tool, *args, cwd="ours")
    t.same(f"{what}: once more", again.returncode, 0)
    t.expect(f"{what}: and nothing else", in_folder("ours", t.content, top, "qcow2") == want)


def refused(text, *args, **more):
    t.refused(text, "commit", *args, **more)


def refusals():
    clear()
    t.must(t.peer, "create", "-q", "-f", "raw", "l0", "1M")
    t.must(t.peer, "create", "-q", "-f", "qcow2", "-b", "l0", "-F", "raw", "l1", "2M")
    t.must(t.io, "-f", "qcow2", "-c", "write -P 1 0 100k", "l1")
    t.must(t.peer, "create", "-q", "-f", "qcow2", "alone", "2M")
    refused("Image does not have a backing file", "alone")
    refused("Image does not have a backing file", "l0", "-f", "raw")
    refused("Did not find 'other' in the backing chain of 'l1'", "-b", "other", "l1")
    refused("Expecting one image file name", "l0", "l1")
    refused("Invalid cache option: x", "-t", "x", "l1")
    refused("missing", "missing")
    for name, fmt in (("l0", "raw"), ("l1", "qcow2")): # held by another program
        with subprocess.Popen([t.io, "-f", fmt, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as p:
            p.stdout.read(9) # its prompt
            refused("lock", "l1")
            p.stdin.close()
            p.wait()
    if os.geteuid() != 0:
        os.chmod("l0", 0o444)
        refused("Permission denied", "l1")
        os.chmod("l0", 0o644)
    # A base that cannot grow: its size is fixed by the name.
    tree = {"driver": "raw", "size": 1048576, "file": {"driver": "file", "filename": "l0"}}
    t.must(t.peer, "create", "-q", "-u", "-f", "qcow2", "-b", "json:" + json.dumps(tree), "-F", "raw", "l1", "2M")
    refused("size", "l1")


def progress():
    clear()
    t.make(random.Random(3), 2, [1 << 20, 1 << 20])
    result = run(t.tool, "commit", "-p", "l1")
    t.expect("progress", result.stdout.endswith("    (100.00/100%)\nImage committed.\n"), repr(result.stdout))
    t.same("quiet", run(t.tool, "commit", "-p", "-q", "l1").stdout, "")


def short_layers():
    """What lies behind the end of a layer between is zeros in the base, though that has data there."""
    for fmt in ("raw", "qcow2"):
        clear()
        t.must(t.peer, "create", "-q", "-f", fmt, "l0", "2M")
        t.must(t.io, "-f", fmt, "-c", "write -P 7 0 2M", "l0")
        t.must(t.peer, "create", "-q", "-f", "qcow2", "-b", "l0", "-F", fmt, "l1", "1000k")
        t.must(t.peer, "create", "-q", "-f", "qcow2", "-b", "l1", "-F", "qcow2", "l2", "1900k")
        want = t.content("l2", "qcow2")
        t.must(t.tool, "commit", "-b", "l0", "l2")
        got = t.content("l0", fmt)
        t.expect(f"short, {fmt}", got == want + bytes([7]) * (148 << 10))
        clear()


def main():
    if not t.usable():
        return 77
    with tempfile.TemporaryDirectory(prefix="vdisk-commit.") as folder:
        os.chdir(folder)
        for seed in seeds(40):
            one(seed)
        refusals()
        progress()
        short_layers()
        os.chdir("/")
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder)
    return t.end()


if __name__ == "__main__":
    sys.exit(main())
