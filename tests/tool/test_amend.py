#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""amend beside qemu-img: on copies of the same images both say the same, and the image reads as before, its
snapshots too.

Not the same on purpose: a smaller size needs --force (what is behind it is lost); the backing file can be changed,
by name (QEMU says to use rebase, which does no more); an image with bitmaps does not become version 2 (QEMU loses
them and leaks their clusters), nor one for zstd (QEMU's reads its clusters as zlib's then); data_file is an option
for creation.

usage: test_amend.py VDISK_IO PEER
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
PATIENCE = 10


def told(name):
    """What info says of it, without what depends on where things lie."""
    info = json.loads(t.must(t.peer, "info", "-U", "--output", "json", name))
    data = info["format-specific"]["data"]
    data.pop("data-file", None)
    return {"size": info["virtual-size"], "data": data, "backing": info.get("full-backing-filename"),
            "snapshots": [s["name"] for s in info.get("snapshots", [])]}


def contents(name, snapshots):
    """What the image reads as, and each of its snapshots."""
    found = [t.content(name, "qcow2")]
    for i in range(snapshots):
        t.must(t.peer, "convert", "-U", "-l", f"s{i}", "-O", "raw", name, "content")
        found.append(pathlib.Path("content").read_bytes())
        os.unlink("content")
    return found


def make(r):
    """One or two layers, the upper one with snapshots, between which zeros come over shared clusters."""
    layers = r.randrange(1, 3)
    formats, sizes = t.make(r, layers, [512 * r.randrange(1, 8192) for _ in range(layers)])
    top = f"l{layers - 1}"
    if formats[-1] == "raw":
        t.must(t.peer, "convert", "-f", "raw", "-O", "qcow2", top, "l")
        os.rename("l", top)
    snapshots = r.choice([0, 0, 1, 2])
    for i in range(snapshots):
        if run(t.peer, "snapshot", "-c", f"s{i}", top).returncode:
            return top, i, sizes[-1]
        t.write(r, top, "qcow2", sizes[-1], os.path.exists(f"{top}.data"))
        run(t.io, "-f", "qcow2", "-c", "write -z 0 128k", top)
    return top, snapshots, sizes[-1]


def options(r, size, snapshots):
    """Some, in QEMU's order or another. (The same size is a change to QEMU, where snapshots forbid one.)"""
    more = 512 * r.choice([1 if snapshots else 0, 1, 7, 5000])
    some = [r.choice(["compat=v2", "compat=0.10", "compat=v3", "compat=1.1"]),
            f"refcount_bits={1 << r.randrange(7)}", f"lazy_refcounts={r.choice(['on', 'off'])}",
            f"size={size + more}"]
    some = r.sample(some, r.randrange(1, 4))
    return ["-o", ",".join(some)] if r.randrange(2) else [x for o in some for x in ("-o", o)]


def one(seed):
    r = random.Random(seed)
    clear()
    top, snapshots, size = make(r)
    want = contents(top, snapshots)
    for _ in range(2):
        args = ["amend", "-f", "qcow2", *options(r, size, snapshots), top]
        what = f"seed {seed}, {told(top)['data']}, {snapshots} snapshots, {' '.join(args)}"
        before = digest(".")
        ours, theirs = t.both(args, PATIENCE)
        if theirs is None: # it goes through 2 MiB of refcounts, entry by entry, for minutes
            t.same(f"{what}: exit code {ours.stderr}", ours.returncode, 0)
            in_folder("ours", t.sound, what, top, "qcow2")
            return
        t.same(f"{what}: exit code {ours.stderr} {theirs.stderr}", ours.returncode, theirs.returncode)
        t.same(f"{what}: output", ours.stdout, theirs.stdout)
        if ours.returncode or theirs.returncode:
            t.same(f"{what}: files", in_folder("ours", digest, "."), before)
            continue
        t.same(f"{what}: info", in_folder("ours", told, top), in_folder("theirs", told, top))
        got = in_folder("ours", contents, top, snapshots)
        t.same(f"{what}: reads as before", [g[:len(w)] == w for g, w in zip(got, want)], [True] * len(want))
        t.expect(f"{what}: what is new is zeros", not any(got[0][len(want[0]):]))
        in_folder("ours", t.sound, what, top, "qcow2")
        t.same(f"{what}: once more", run(t.tool, *args, cwd="ours").returncode, 0)
        in_folder("ours", t.sound, what, top, "qcow2")
        t.must("sh", "-c", f"cp --sparse=always ours/{top}* .")
        size = len(got[0])


def refused(text, *args, **more):
    t.refused(text, "amend", *args, **more)


def refused_by_both(text, *args):
    refused(text, *args)
    t.same(f"{args}: QEMU's exit code", run(t.peer, "amend", *args).returncode, 1)


def refusals():
    clear()
    t.must(t.peer, "create", "-q", "-f", "raw", "raw", "1M")
    t.must(t.peer, "create", "-q", "-f", "qcow2", "a", "1M")
    refused_by_both("Format driver 'raw' does not support option amendment", "-f", "raw", "-o", "size=2M", "raw")
    refused_by_both("Format driver 'raw' does not support option amendment", "-f", "raw", "-o", "help")
    refused_by_both("Must specify options (-o)", "a")
    refused_by_both("Expecting one image file name", "-o", "size=2M")
    refused_by_both("Expecting one image file name", "-o", "size=2M", "a", "a")
    for key, value in (("cluster_size", "1k"), ("preallocation", "full"), ("extended_l2", "on"),
                       ("compression_type", "zstd"), ("encrypt.format", "luks"), ("encrypt.state", "active"),
                       ("data_file", "x"), ("data_file_raw", "on")):
        refused_by_both(f"Invalid parameter '{key}': this option is only supported for image creation", "-o",
                        f"compat=v2,{key}={value}", "a")
    refused_by_both("Invalid parameter 'foo'", "-o", "foo=1", "a")
    refused_by_both("Unknown compatibility level 9", "-o", "compat=9", "a")
    refused_by_both("Unknown compatibility level", "-o", "compat=", "a")
    for bits in 0, 3, 128:
        refused_by_both("Refcount width must be a power of two and may not exceed 64 bits", "-o",
                        f"refcount_bits={bits}", "a")
    refused_by_both("Parameter 'refcount_bits' expects a number", "-o", "refcount_bits=x", "a")
    refused_by_both("Parameter 'lazy_refcounts' expects 'on' or 'off'", "-o", "lazy_refcounts=x", "a")
    refused_by_both("Parameter 'size' expects", "-o", "size=x", "a")
    refused_by_both("The new size must be a multiple of 512", "-o", "size=1049000", "a")
    refused_by_both("Invalid cache option: x", "-t", "x", "-o", "size=2M", "a")
    refused_by_both("Lazy refcounts only supported", "-o", "compat=v2,lazy_refcounts=on", "a")
    refused_by_both("Refcount widths other than 16 bits", "-o", "compat=v2,refcount_bits=8", "a")
    refused_by_both("No such file", "-o", "compat=v2", "nope")
    refused("--force", "-o", "size=512", "a")
    t.must(t.peer, "create", "-q", "-f", "qcow2", "-o", "refcount_bits=8", "b", "1M")
    refused_by_both("compat=0.10 requires refcount_bits=16", "-o", "compat=v2", "b")
    t.must(t.peer, "create", "-q", "-f", "qcow2", "-o", "extended_l2=on", "b", "1M")
    refused_by_both("Cannot downgrade an image with incompatible features 0x10 set", "-o", "compat=v2", "b")
    t.must(t.peer, "create", "-q", "-f", "qcow2", "-o", "data_file=b.data", "b", "1M")
    refused_by_both("Cannot downgrade an image with a data file", "-o", "compat=v2", "b")
    t.must(t.peer, "create", "-q", "-f", "qcow2", "-o", "compression_type=zstd", "b", "1M")
    t.must(t.io, "-f", "qcow2", "-c", "write -c -P 3 0 64k", "b")
    refused("Cannot downgrade an image with incompatible features 0x8 set", "-o", "compat=v2", "b")
    t.must(t.peer, "create", "-q", "-f", "qcow2", "b", "1M")
    t.must(t.peer, "bitmap", "--add", "--disable", "b", "bits")
    refused("Cannot downgrade an image with bitmaps", "-o", "compat=v2", "b")
    t.must(t.peer, "create", "-q", "-f", "qcow2", "b", "1M")
    t.must(t.io, "-f", "qcow2", "-c", "write -P 3 0 1M", "b")
    t.must(t.peer, "snapshot", "-c", "one", "b")
    t.must(t.peer, "snapshot", "-c", "two", "b")
    refused_by_both("Cannot decrease refcount entry width to 1 bits: Cluster at offset 0x", "-o",
                    "refcount_bits=1", "b")
    refused("Cannot decrease refcount entry width to 1 bits: Cluster at offset 0x", "-o",
            "refcount_bits=1,size=2M,lazy_refcounts=on", "b")
    t.must(t.peer, "amend", "-o", "compat=v2", "b")
    refused("Cannot decrease refcount entry width to 1 bits: Cluster at offset 0x", "-o",
            "refcount_bits=1,compat=v3", "b")
    t.must(t.peer, "amend", "-o", "compat=v3", "b")
    t.must(t.peer, "amend", "-o", "size=2M", "b")
    refused_by_both("Internal snapshots prevent downgrade of image", "-o", "compat=v2", "b")
    with subprocess.Popen([t.io, "-f", "qcow2", "b"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as p:
        p.stdout.read(9) # its prompt
        refused("lock", "-o", "compat=v2", "b")
        p.stdin.close()
        p.wait()


def others():
    """What is not QEMU's: a smaller size by --force, the backing file; and what goes with none of the above."""
    clear()
    t.must(t.peer, "create", "-q", "-f", "raw", "raw", "1M")
    t.must(t.peer, "create", "-q", "-f", "qcow2", "-b", "raw", "-F", "raw", "a", "1M")
    t.must(t.tool, "amend", "--force", "-o", "size=64k", "a")
    t.same("size", told("a")["size"], 65536)
    t.must(t.tool, "amend", "-o", "size=0", "a")
    t.same("size", told("a")["size"], 65536)
    os.unlink("raw") # what is below is not opened, unless the size changes
    t.must(t.tool, "amend", "-o", "compat=v2", "a")
    refused("No such file", "-o", "size=1M", "a")
    t.must(t.tool, "amend", "-o", "backing_file=other,compat=v3,nolazy_refcounts", "a")
    t.same("backing file", backing("a"), ("other", "raw"))
    t.must(t.tool, "amend", "-o", "backing_fmt=qcow2", "a")
    t.same("backing file", backing("a"), ("other", "qcow2"))
    refused("own backing", "-o", "compat=v2,backing_file=a", "a")
    refused("foo", "-o", "compat=v2,backing_fmt=foo", "a")
    t.must(t.tool, "amend", "-o", "backing_file=,lazy_refcounts", "a")
    t.same("backing file", backing("a"), (None, None))
    t.same("lazy", told("a")["data"]["lazy-refcounts"], True)
    t.must(t.tool, "amend", "--image-opts", "-o", "refcount_bits=2",
           "driver=qcow2,file.driver=file,file.filename=a")
    t.same("refcounts", told("a")["data"]["refcount-bits"], 2)
    result = run(t.tool, "amend", "-p", "-o", "refcount_bits=16,compat=v2", "a")
    t.same("progress", result.stdout.splitlines()[-1], "    (100.00/100%)")
    t.same("no progress", run(t.tool, "amend", "-p", "-q", "-o", "compat=v3", "a").stdout, "")
    listed = t.must(t.tool, "amend", "-o", "help", "a")
    t.same("list", listed, t.must(t.tool, "amend", "-f", "qcow2", "-o", "help"))
    theirs = t.must(t.peer, "amend", "-f", "qcow2", "-o", "help")
    known = [line.split("=")[0].strip() for line in theirs.splitlines()]
    for line in listed.splitlines()[1:]:
        t.expect(f"QEMU lists {line}", line.split("=")[0].strip() in known)


def backing(name):
    info = json.loads(t.must(t.peer, "info", "-U", "--output", "json", name))
    return info.get("backing-filename"), info.get("backing-filename-format")


def old_snapshots():
    """Entries without the fields that version 3 asks for, as of QEMU before 1.7."""
    clear()
    t.must(t.peer, "create", "-q", "-f", "qcow2", "-o", "compat=v2", "a", "1M")
    t.must(t.io, "-f", "qcow2", "-c", "write -P 3 0 64k", "a")
    t.must(t.peer, "snapshot", "-c", "s0", "a")
    t.must(t.io, "-f", "qcow2", "-c", "write -P 4 0 64k", "a")
    image = bytearray(pathlib.Path("a").read_bytes())
    at = int.from_bytes(image[64:72], "big")
    extra = int.from_bytes(image[at + 36:at + 40], "big")
    image[at + 36:at + 40] = bytes(4)
    image[at + 40:at + 512] = image[at + 40 + extra:at + 512] + bytes(extra)
    pathlib.Path("a").write_bytes(image)
    want = contents("a", 1)
    t.must(t.tool, "amend", "-o", "compat=v3", "a")
    t.same("old snapshots: version", told("a")["data"]["compat"], "1.1")
    t.same("old snapshots: content", contents("a", 1), want)
    t.sound("old snapshots", "a", "qcow2")


def shared_zeros():
    """Zeros that came over clusters which a snapshot has, too: of the image, and of a later snapshot."""
    for below in ([], ["-b", "raw", "-F", "raw"]):
        clear()
        t.must(t.peer, "create", "-q", "-f", "raw", "raw", "1M")
        t.must(t.io, "-f", "raw", "-c", "write -P 9 0 1M", "raw")
        t.must(t.peer, "create", "-q", "-f", "qcow2", *below, "a", "1M")
        t.must(t.io, "-f", "qcow2", "-c", "write -P 3 0 512k", "a")
        t.must(t.peer, "snapshot", "-c", "s0", "a")
        t.must(t.io, "-f", "qcow2", "-c", "write -z 0 256k", "a")
        t.must(t.peer, "snapshot", "-c", "s1", "a")
        t.must(t.io, "-f", "qcow2", "-c", "write -P 4 0 64k", "-c", "write -z 256k 128k", "a")
        want = contents("a", 2)
        t.must(t.tool, "amend", "-o", "compat=v2", "a")
        t.same(f"shared zeros, {below}: version", told("a")["data"]["compat"], "0.10")
        t.expect(f"shared zeros, {below}: reads as before", contents("a", 2) == want)
        t.sound(f"shared zeros, {below}", "a", "qcow2")


def main():
    if not t.usable():
        return 77
    with tempfile.TemporaryDirectory(prefix="vdisk-amend.") as folder:
        os.chdir(folder)
        for seed in seeds(60):
            one(seed)
        shared_zeros()
        refusals()
        others()
        old_snapshots()
        os.chdir("/")
    return t.end()


if __name__ == "__main__":
    sys.exit(main())
