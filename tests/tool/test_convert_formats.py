#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""convert between all formats: qemu-img's images are read right; it reads ours right, and finds no fault.

usage: test_convert_formats.py VDISK_IO
"""
import os
import random
import shutil
import sys
import tempfile

from checks import TOOL, call, end, expect

SIZE = 5 * 1024 * 1024 + 7 * 512
OPTIONS = [
    None,  # raw
    "compat=1.1",
    "compat=0.10,cluster_size=512",
    "cluster_size=2M,refcount_bits=1",
    "cluster_size=16k,extended_l2=on,refcount_bits=64",
    "compat=1.1,lazy_refcounts=on,preallocation=metadata",
    "preallocation=falloc,cluster_size=4k,refcount_bits=8",
    "data_file={name}.data",
    "data_file={name}.data,data_file_raw=on",
]


def must(what, *args):
    result = call(*args)
    expect(f"{what}: {' '.join(args)}", result.returncode == 0, result.returncode, result.stdout, result.stderr)


def fmt(options):
    return "raw" if options is None else "qcow2"


def dashes(options, name):
    return ["-o", options.format(name=name)] if options else []


def content(path, seed):
    """Data, zeros that are written, and holes."""
    r = random.Random(seed)
    with open(path, "wb") as f:
        f.truncate(SIZE)
        at = 0
        while at < SIZE:
            n = min(SIZE - at, 512 * r.choice([1, 3, 8, 40, 200, 1500]))
            kind = r.randrange(4)
            if kind < 2:
                f.seek(at)
                f.write(r.randbytes(n) if kind else bytes(n))
            at += n


def check(path, options, data, what):
    must(f"{what}: content", "qemu-img", "compare", "-f", fmt(options), "-F", "raw", path, data)
    if options is not None:
        must(f"{what}: check", "qemu-img", "check", "-q", "-f", "qcow2", path)
        must(f"{what}: our check", TOOL, "check", "-q", "-f", "qcow2", path)


def pairs():
    for i in range(len(OPTIONS)):
        yield 0, i
        yield i, (i * 5 + 1) % len(OPTIONS)
        yield i, 0


def each_to_each():
    for seed, (i, j) in enumerate(sorted(set(pairs()))):
        what = f"{OPTIONS[i] or 'raw'} to {OPTIONS[j] or 'raw'}"
        content("data", seed)
        must(what, "qemu-img", "convert", "-f", "raw", "-O", fmt(OPTIONS[i]), *dashes(OPTIONS[i], "theirs"),
             "data", "theirs")
        must(what, TOOL, "convert", "-f", fmt(OPTIONS[i]), "-O", fmt(OPTIONS[j]), *dashes(OPTIONS[j], "ours"),
             "theirs", "ours")
        check("ours", OPTIONS[j], "data", what)


def compressed():
    for kind in ("zlib", "zstd"):
        content("data", 99)
        must(kind, "qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", "-o", f"compression_type={kind}",
             "data", "theirs")
        for options in (None, "compat=1.1"):
            must(kind, TOOL, "convert", "-f", "qcow2", "-O", fmt(options), "theirs", "ours")
            check("ours", options, "data", f"from {kind}")


def chain():
    """Three layers, of which a lower one is shorter, and the lowest is raw."""
    content("base", 5)
    layers = [("base", "raw"), ("middle", "qcow2"), ("top", "qcow2")]
    sizes = [SIZE, 3 << 20, SIZE + (1 << 20)]
    for (below, below_format), (name, _), size in zip(layers, layers[1:], sizes[1:]):
        must("chain", "qemu-img", "create", "-q", "-f", "qcow2", "-b", below, "-F", below_format, name, str(size))
        commands = ["write -P 5 512 100k", "write -z 1M 640k", "write -P 6 2M 4k", "discard 1M 64k"]
        for command in commands:
            must("chain", TOOL, "io", "-f", "qcow2", "-c", command, name)
    must("chain", "qemu-img", "convert", "-f", "qcow2", "-O", "raw", "top", "data")
    for options in OPTIONS[:5]:
        must("chain", TOOL, "convert", "-f", "qcow2", "-O", fmt(options), *dashes(options, "ours"), "top", "ours")
        check("ours", options, "data", "a chain")
    must("chain", TOOL, "convert", "-f", "qcow2", "-O", "qcow2", "-B", "middle", "-F", "qcow2", "top", "ours")
    check("ours", "compat=1.1", "data", "an overlay")


def main():
    if not shutil.which("qemu-img"):
        print("skipped: no qemu-img")
        return 77
    with tempfile.TemporaryDirectory(prefix="vdisk-convert.") as folder:
        os.chdir(folder)
        each_to_each()
        compressed()
        chain()
        os.chdir("/")
    return end()


if __name__ == "__main__":
    sys.exit(main())
