#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""measure beside qemu-img: the same numbers, in the same words, for each option of create and for many sources;
and an image that is made needs no more than was said.

Not the same on purpose: compat=v3, which create knows, is known; what create refuses (compat=0.10 with
lazy_refcounts or a data_file) is refused.

usage: test_measure.py VDISK_IO PEER
"""
import json
import os
import random
import shutil
import sys
import tempfile

from checks import call, end, expect, must, must_call, run

OPTIONS = [
    None,
    "cluster_size=512", "cluster_size=4k", "cluster_size=2M",
    "cluster_size=16k,extended_l2=on", "extended_l2=on,cluster_size=2M",
    "refcount_bits=1", "refcount_bits=64", "refcount_bits=8,cluster_size=1k",
    "compat=0.10", "compat=1.1,lazy_refcounts=on",
    "preallocation=metadata", "preallocation=falloc", "preallocation=full,cluster_size=4k",
    "data_file=elsewhere", "data_file=elsewhere,data_file_raw=on",
    "backing_file=below,backing_fmt=raw", "compression_type=zstd", "size=3M",
]
SIZES = ["0", "1", "512", "64k", "1M", "1G", "1000000001", "1T", "7T"]


def same(*args):
    """Output and exit code are the same."""
    ours, theirs = run("measure", *args), call(PEER, "measure", *args)
    expect(f"measure {' '.join(args)}", (ours.returncode, ours.stdout) == (theirs.returncode, theirs.stdout),
           f":\n ours {ours.returncode}: {ours.stdout}{ours.stderr}",
           f"QEMU's {theirs.returncode}: {theirs.stdout}{theirs.stderr}")
    return ours.stdout


def dashes(options):
    return ["-o", options] if options else []


def sizes():
    for size in SIZES:
        same("--size", size)
        for options in OPTIONS:
            same("-O", "qcow2", "--size", size, *dashes(options))
    for form in ("human", "json"):
        same("-O", "qcow2", "--size", "1G", "--output", form)
        same("--size", "1G", "--output", form, "-o", "preallocation=full")


def content(path, seed, size):
    r = random.Random(seed)
    with open(path, "wb") as f:
        f.truncate(size)
        at = 0
        while at < size:
            n = min(size - at, 4096 * r.choice([1, 3, 8, 40, 200]))
            if r.randrange(3) == 0:
                f.seek(at)
                f.write(r.randbytes(n))
            at += n


def sources():
    """Name and format of images of all kinds."""
    content("raw", 1, 9 << 20)
    content("odd", 2, (5 << 20) + 513)
    os.truncate("odd", (5 << 20) + 513)
    yield "raw", "raw"
    yield "odd", "raw"
    for i, options in enumerate([None, "compat=0.10", "cluster_size=512", "cluster_size=2M",
                                 "extended_l2=on,cluster_size=16k", "preallocation=metadata", "refcount_bits=1"]):
        source = "odd" if i % 2 else "raw"
        must_call(PEER, "convert", "-f", "raw", "-O", "qcow2", *dashes(options), source, f"q{i}")
        yield f"q{i}", "qcow2"
    must_call(PEER, "convert", "-c", "-f", "raw", "-O", "qcow2", "raw", "packed")
    yield "packed", "qcow2"
    must_call(PEER, "create", "-q", "-f", "qcow2", "empty", "1G")
    yield "empty", "qcow2"
    must_call(PEER, "create", "-q", "-f", "qcow2", "-b", "odd", "-F", "raw", "middle", "4M")
    must("io", "-f", "qcow2", "-c", "write -z 1M 1M", "-c", "write -P 4 100k 3k", "middle")
    must_call(PEER, "create", "-q", "-f", "qcow2", "-b", "middle", "-F", "qcow2", "top", "9M")
    must("io", "-f", "qcow2", "-c", "write -z 64k 1M", "-c", "write -P 4 6000k 3k", "top")
    yield "top", "qcow2"
    for name, flags in (("a", []), ("another", ["-g", "4k"])):
        must_call(PEER, "bitmap", "--add", *flags, "q0", name)
    yield "q0", "qcow2"


def of_images():
    for name, fmt in sources():
        same("-f", fmt, name)
        for options in OPTIONS:
            same("-f", fmt, "-O", "qcow2", "--output", "json", *dashes(options), name)
        same("-O", "qcow2", "--image-opts", f"driver={fmt},file.driver=file,file.filename={name}")
        tree = {"driver": fmt, "file": {"driver": "file", "filename": name}}
        if fmt == "qcow2":
            tree["backing"] = None
        same("-O", "qcow2", "--output", "json", "-U", "json:" + json.dumps(tree))


def refusals():
    for args in [["--size", "abc"], [], ["a", "b"], ["--size", "1G", "raw"], ["-f", "raw", "--size", "1G"],
                 ["missing"], ["-O", "foo", "--size", "1G"], ["-O", "qcow2", "--size", "1E"],
                 ["--output", "xml", "raw"],
                 ["-O", "qcow2", "-o", "cluster_size=512", "--size", "1T"], ["-o", "foo=1", "--size", "1G"],
                 ["-O", "qcow2", "-o", "compat=0.10,refcount_bits=1", "--size", "1G"],
                 ["-O", "qcow2", "-o", "extended_l2=on,cluster_size=4k", "--size", "1G"], ["-f", "qcow2", "raw"],
                 ["-O", "qcow2", "-o", "cluster_size=3000", "--size", "1G"], ["-l", "s", "raw"],
                 ["-O", "qcow2"]]:
        same(*args)
    ours = run("measure", "-l", "s", "raw")
    expect("-l is refused by name", "internal snapshots" in ours.stderr and ours.stderr.count("\n") == 1)


def extents():
    args = ["-O", "qcow2", "--output", "json", "q0"]
    r = json.loads(must("measure", "--extent-size", "128k", *args))
    expect("required extents", r["required-extents"] == -(-(r["required"] + r["bitmaps"]) // 131072))
    expect("all extents", r["fully-allocated-extents"] == -(-(r["fully-allocated"] + r["bitmaps"]) // 131072))
    expect("in words", "required extents: 1\n" in must("measure", "--size", "1", "--extent-size", "4M"))
    expect("no size", run("measure", "--size", "1", "--extent-size", "0").returncode == 1)


def enough():
    """What was said is enough for a copy, written to the full or not."""
    for options in ("cluster_size=512", None, "cluster_size=16k,extended_l2=on", "refcount_bits=64"):
        for source in ("raw", "q1", "top", "empty"):
            args = ["-O", "qcow2", "--output", "json", *dashes(options)]
            r = json.loads(must("measure", *args, source))
            must("convert", "-O", "qcow2", *dashes(options), source, "copy")
            expect(f"{source} fits with {options}", os.path.getsize("copy") <= r["required"])


def main():
    if not shutil.which("qemu-img") or not PEER or "version 10" not in call(PEER, "--version").stdout:
        print("skipped: no qemu-img of QEMU 10")
        return 77
    with tempfile.TemporaryDirectory(prefix="vdisk-measure.") as folder:
        os.chdir(folder)
        sizes()
        of_images()
        refusals()
        extents()
        enough()
        os.chdir("/")
    return end()


PEER = call("bash", sys.argv[2]).stdout.strip()
if __name__ == "__main__":
    sys.exit(main())
