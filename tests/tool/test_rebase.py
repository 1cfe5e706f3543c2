#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""rebase beside qemu-img: on copies of the same images both say the same, and the image reads as before.

Not the same on purpose: an image is not put below itself by -u either; -c refuses an image with a data file before
anything is written, and works with subclusters, where QEMU 10 fails an assertion.

usage: test_rebase.py VDISK_IO PEER
"""
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from chains import Test, clear, digest, in_folder, run, seeds  # noqa: E402  pylint: disable=wrong-import-position

t = Test(sys.argv)


def backing_of(name):
    info = json.loads(t.must(t.peer, "info", "-U", "--output", "json", name))
    return info.get("backing-filename"), info.get("backing-filename-format")


def new_base(r, formats, layers):
    """Name and format of what it is rebased on: a layer of its chain, another chain, or nothing."""
    kind = r.randrange(4)
    if kind == 0:
        return "", None
    if kind == 1 and layers > 2:
        i = r.randrange(layers - 2)
        return f"l{i}", formats[i]
    fmt = r.choice(["raw", "qcow2"])
    size = 512 * r.randrange(1, 10000)
    below = r.choice([[], ["-b", "l0", "-F", formats[0]]]) if fmt == "qcow2" else []
    t.must(t.peer, "create", "-q", "-f", fmt, *below, "other", str(size))
    t.write(r, "other", fmt, size, False)
    if r.randrange(3) == 0: # much is the same
        t.must(t.peer, "convert", "-f", formats[0], "-O", fmt, "l0", "other")
    return "other", fmt


def one(seed):
    r = random.Random(seed)
    layers = r.randrange(1, 5)
    clear()
    formats, _ = t.make(r, layers)
    if layers == 1 and formats[0] == "raw":
        t.must(t.peer, "convert", "-f", "raw", "-O", "qcow2", "l0", "l")
        os.rename("l", "l0")
        formats[0] = "qcow2"
    top = f"l{layers - 1}"
    base, fmt = new_base(r, formats, layers) if layers > 1 else ("", None)
    want = t.content(top, "qcow2")
    data = json.loads(t.must(t.peer, "info", "-U", "--output", "json", top))["format-specific"]["data"]
    compress = r.randrange(2) and "data-file" not in data
    args = ["rebase", "-f", "qcow2", "-b", base, *(["-F", fmt] if fmt else []), top]
    what = f"seed {seed}, {layers} layers, {' '.join(args)}{' -c' if compress else ''}"
    ours, theirs = t.both(args + ["-c"] if compress and not data.get("extended-l2") else args)
    if compress and data.get("extended-l2"):
        t.must("sh", "-c", "cp --sparse=always l* ours")
        ours = run(t.tool, *args, "-c", cwd="ours")
    t.same(f"{what}: exit code", ours.returncode, theirs.returncode)
    t.same(f"{what}: output", ours.stdout, theirs.stdout)
    if ours.returncode:
        print(ours.stderr, theirs.stderr)
        return
    t.expect(f"{what}: reads as before", in_folder("ours", t.content, top, "qcow2") == want)
    t.same(f"{what}: backing file", in_folder("ours", backing_of, top), (base or None, fmt))
    in_folder("ours", t.sound, what, top, "qcow2")
    before = in_folder("ours", digest, ".")
    t.same(f"{what}: once more", run(t.tool, *args, cwd="ours").returncode, 0)
    t.expect(f"{what}: and nothing else", in_folder("ours", t.content, top, "qcow2") == want)
    for name, value in in_folder("ours", digest, ".").items():
        t.expect(f"{what}: {name} stays", name.startswith(top) or value == before[name])


def unsafe(seed):
    """The name changes and nothing else, whatever kind of header there is."""
    r = random.Random(seed)
    clear()
    t.make(r, 2, [1 << 20, 1 << 20])
    size = os.path.getsize("l1")
    long = "x" * r.choice([1, 100, 300, 1023])
    for name, fmt in (("nowhere", "raw"), (long, "qcow2"), ("", None), ("l0", "raw")):
        args = ["rebase", "-u", "-b", name, *(["-F", fmt] if fmt else []), "l1"]
        before = digest(".")
        ours, theirs = t.both(args)
        what = f"seed {seed}: {' '.join(args)[:60]}"
        t.same(f"{what}: exit code", ours.returncode, theirs.returncode)
        if ours.returncode:
            t.same(f"{what}: files", in_folder("ours", digest, "."), before)
            continue
        run(t.tool, *args)
        t.same(f"{what}: backing file", backing_of("l1"), (name or None, fmt))
        t.same(f"{what}: checks clean", run(t.tool, "check", "-f", "qcow2", "l1").returncode, 0)
        t.same(f"{what}: size", os.path.getsize("l1"), size)
    t.same(f"seed {seed}: -u alone", (run(t.tool, "rebase", "-u", "l1").returncode, backing_of("l1")),
           (0, (None, None)))


def refused(text, *args, **more):
    t.refused(text, "rebase", *args, **more)


def refusals():
    clear()
    t.must(t.peer, "create", "-q", "-f", "raw", "l0", "1M")
    t.must(t.io, "-f", "raw", "-c", "write -P 1 0 100k", "l0")
    t.must(t.peer, "create", "-q", "-f", "qcow2", "-b", "l0", "-F", "raw", "l1", "2M")
    t.must(t.peer, "create", "-q", "-f", "qcow2", "-b", "l1", "-F", "qcow2", "l2", "2M")
    t.must(t.peer, "create", "-q", "-f", "qcow2", "-o", "cluster_size=512", "small", "1M")
    refused("Must specify backing file (-b) or use unsafe mode (-u)", "l1")
    refused("backing format must be specified", "-b", "l0", "l1")
    refused("backing format must be specified", "-u", "-b", "l0", "l1")
    refused("unknown backing format 'foo'", "-u", "-b", "l0", "-F", "foo", "l1")
    refused("Could not open new backing file 'nope'", "-b", "nope", "-F", "raw", "l1")
    refused("own backing", "-b", "l1", "-F", "qcow2", "l1")
    refused("own backing", "-u", "-b", "./l1", "-F", "qcow2", "l1")
    os.mkdir("sub")
    t.must(t.peer, "create", "-q", "-f", "qcow2", "sub/l1", "1M")
    refused("own backing", "-b", "l1", "-F", "qcow2", "sub/l1")
    refused("own backing", "-u", "-b", "l1", "-F", "qcow2", "sub/l1")
    t.must(t.tool, "rebase", "-u", "-b", "sub/l1", "-F", "qcow2", "sub/l1") # sub/sub/l1, which is not there
    t.must(t.tool, "rebase", "-u", "-b", "../l1", "-F", "qcow2", "sub/l1")
    t.must(t.peer, "create", "-q", "-f", "qcow2", "-b", "l2", "-F", "qcow2", "l3", "2M")
    for below in "l2", "l3", "./l2":
        for share in (), ("-U",):
            refused("l1: the image would be part of its own backing chain", *share, "-b", below, "-F", "qcow2",
                    "l1")
    t.must(t.tool, "rebase", "-u", "-b", "l3", "-F", "qcow2", "l1") # nothing is opened: a circle
    t.must(t.tool, "rebase", "-u", "-b", "l0", "-F", "raw", "l1")
    refused("1023 bytes", "-u", "-b", "x" * 1024, "-F", "raw", "l1")
    refused("does not fit", "-u", "-b", "x" * 400, "-F", "raw", "small")
    refused("raw volume has no backing file", "-u", "-b", "l1", "-F", "qcow2", "-f", "raw", "l0")
    refused("Compression not supported for this file format", "-c", "-f", "raw", "-b", "", "l0")
    refused("Compression not supported for this file format", "-c", "-u", "-f", "raw", "-b", "", "l0")
    t.must(t.peer, "create", "-q", "-f", "qcow2", "-o", "data_file=with.data", "-b", "l0", "-F", "raw", "with",
           "1M")
    refused("Compression not supported for this file format", "-c", "-b", "", "with")
    refused("Must specify backing file (-b) or use unsafe mode (-u)", "-c", "l1")
    t.must(t.tool, "rebase", "-c", "-u", "-b", "l2", "-F", "qcow2", "l3") # as it was
    refused("Invalid cache option: x", "-t", "x", "-b", "", "l1")
    refused("Invalid source cache option: x", "-T", "x", "-b", "", "l1")
    refused("Expecting one image file name", "-b", "", "l1", "l0")
    with subprocess.Popen([t.io, "-f", "qcow2", "l1"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as p:
        p.stdout.read(9) # its prompt
        refused("lock", "-b", "", "l1")
        refused("lock", "-u", "-b", "", "l1")
        p.stdin.close()
        p.wait()
    result = run(t.tool, "rebase", "-p", "-b", "", "l1")
    t.same("progress", result.stdout.splitlines()[-1], "    (100.00/100%)")


def main():
    if not t.usable():
        return 77
    with tempfile.TemporaryDirectory(prefix="vdisk-rebase.") as folder:
        os.chdir(folder)
        for seed in seeds(40):
            one(seed)
        for seed in seeds(12):
            unsafe(seed)
        refusals()
        os.chdir("/")
    return t.end()


if __name__ == "__main__":
    sys.exit(main())
