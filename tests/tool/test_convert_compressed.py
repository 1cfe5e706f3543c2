#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""convert -c and io write -c: what is compressed reads the same by us and by each QEMU that there is, and checks
clean; as many threads as you like give the same file; it is about as short as QEMU's; QEMU's read right here.

usage: test_convert_compressed.py VDISK_IO PEER

PEER (bench/peer) prints the path of a second qemu-img, beside the one that is installed.
"""
import filecmp
import os
import pathlib
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time

from checks import TOOL, call, end, expect as that

SIZE = 6 * 1024 * 1024 + 5 * 512
OPTIONS = [
    "cluster_size=512",
    "cluster_size=512,refcount_bits=64,compression_type=zstd",
    "cluster_size=4k,refcount_bits=1",
    "cluster_size=16k,extended_l2=on,compression_type=zstd",
    "compat=0.10",
    "refcount_bits=2",
    "refcount_bits=1,compression_type=zstd",
    "extended_l2=on,refcount_bits=8",
    "cluster_size=2M",
    "cluster_size=2M,compression_type=zstd,refcount_bits=2",
]


def expect(what, code, *args):
    """The exit code; what was said."""
    result = call(*args)
    that(f"{what}: {' '.join(args)}", result.returncode == code, result.returncode, result.stdout, result.stderr)
    return result.stdout + result.stderr


def content(path, size, seed):
    """Text, the same byte, noise, zeros that are written, holes; some repeats what is 5 KB to 30 KB before."""
    r = random.Random(seed)
    words = [bytes(r.choices(b"abcdefgh ", k=r.randint(2, 9))) for _ in range(500)]
    with open(path, "wb") as f:
        f.truncate(size)
        at = 0
        while at < size:
            n = min(size - at, 512 * r.choice([1, 3, 8, 40, 200, 700]))
            f.seek(at)
            kind = r.randrange(6)
            if kind == 0:
                f.write(bytes(n))
            elif kind == 1:
                f.write(bytes([r.randrange(256)]) * n)
            elif kind == 2:
                f.write(r.randbytes(n))
            elif kind == 3:
                f.write((r.randbytes(r.randint(5000, 30000)) * (n // 5000 + 1))[:n])
            elif kind == 4:
                f.write(b"".join(r.choices(words, k=n // 2))[:n])
            at += n


def peers():
    """qemu-img: the installed one, and a second one."""
    found = [shutil.which("qemu-img")]
    second = call(sys.argv[2]).stdout.strip()
    if os.access(second, os.X_OK):
        found.append(second)
    else:
        print("no second QEMU: only the installed one is asked")
    return list(dict.fromkeys(path for path in found if path))


def judge(image, source, options):
    for qemu in QEMUS:
        expect(f"{options}: check", 0, qemu, "check", "-f", "qcow2", image)
        expect(f"{options}: content", 0, qemu, "compare", "-f", "raw", "-F", "qcow2", source, image)
    expect(f"{options}: our check", 0, TOOL, "check", image)
    expect(f"{options}: our content", 0, TOOL, "compare", "-f", "raw", "-F", "qcow2", source, image)


def both_ways(options):
    o = ["-f", "raw", "-O", "qcow2", "-o", options]
    expect(options, 0, TOOL, "convert", "-c", "-m", "1", *o, "data", "one")
    expect(options, 0, TOOL, "convert", "-c", "-m", "8", *o, "data", "many")
    that(f"{options}: -m 8 gives another file than -m 1", filecmp.cmp("one", "many", shallow=False))
    judge("one", "data", options)
    for qemu in QEMUS:
        expect(f"{options}: by QEMU", 0, qemu, "convert", "-c", *o, "data", "theirs")
        expect(f"{options}: QEMU's content", 0, TOOL, "compare", "-f", "raw", "-F", "qcow2", "data", "theirs")
        ours, their = (call(qemu, "check", name).stdout for name in ("one", "theirs"))
        that(f"{options}: clusters: {ours} {their}", "compressed" in ours)
        ends = [int(text.split("Image end offset: ")[1].split()[0]) for text in (ours, their)]
        spare = (9 if "2M" in options else 1) << 20
        that(f"{options}: ends at {ends[0]}, QEMU's at {ends[1]}", ends[0] <= 1.05 * ends[1] + spare)


def written_over():
    """Compressed over what is not, and the other way round; QEMU says EIO to the first."""
    expect("create", 0, TOOL, "create", "-q", "-f", "qcow2", "over", "4M")
    writes = ["write -P 1 0 1M", "write -c -P 2 64k 256k", "write -c -P 3 128k 64k", "write -P 4 130k 1k",
              "write -c -P 5 3M 1M", "flush", "write -c -f -P 6 2M 64k"]
    reads = ["-P 1 0 64k", "-P 2 64k 64k", "-P 3 128k 2k", "-P 4 130k 1k", "-P 3 131k 61k", "-P 2 192k 128k",
             "-P 5 3M 1M", "-P 6 2M 64k"]
    said = expect("write -c", 0, TOOL, "io", *(word for write in writes for word in ("-c", write)), "over")
    that(f"what is said: {said}", said.count("wrote ") == 6)
    for program in QEMUS:
        qemu_io = str(pathlib.Path(program).with_name("qemu-io"))
        words = [word for read in reads for word in ("-c", "read " + read)]
        out = expect("reads", 0, qemu_io, "-f", "qcow2", *words, "over")
        that(f"patterns: {out}", "verification failed" not in out)
        expect("check", 0, program, "check", "over")
    that("half a cluster", "Invalid argument" in expect("half", 1, TOOL, "io", "-c", "write -c 0 32k", "over"))
    that("-z", "only one of" in expect("zero", 1, TOOL, "io", "-c", "write -c -z 0 64k", "over"))
    expect("create", 0, TOOL, "create", "-q", "-f", "qcow2", "-o", "data_file=outside", "with", "4M")
    that("a data file", "not supported" in expect("outside", 1, TOOL, "io", "-c", "write -c 0 64k", "with"))


def other_ends():
    """Several sources that meet inside a cluster; a larger target; the same one twice; a backing file; -S 0."""
    for name, size in (("a", 1000 * 512), ("b", 777 * 512 + 100), ("c", 3 << 20)):
        content(name, size, name)
    with open("abc", "wb") as whole:
        for name in "abc":
            data = pathlib.Path(name).read_bytes()
            whole.write(data + bytes(-len(data) % 512))
    expect("three", 0, TOOL, "convert", "-c", "-f", "raw", "-O", "qcow2", "a", "b", "c", "three")
    judge("three", "abc", "three sources")
    expect("create", 0, TOOL, "create", "-q", "-f", "qcow2", "larger", "16M")
    expect("behind", 0, TOOL, "io", "-c", f"write -P 9 {SIZE} 512", "larger")
    for _ in range(2):
        expect("-n", 0, TOOL, "convert", "-c", "-n", "-f", "raw", "-O", "qcow2", "data", "larger")
        judge("larger", "data+9", "larger target")
    expect("-S 0", 0, TOOL, "convert", "-c", "-S", "0", "-f", "raw", "-O", "qcow2", "data", "dense")
    judge("dense", "data", "-S 0")
    that("-S 0 leaves something out", " 100.00% allocated" in call(QEMUS[0], "check", "dense").stdout)
    expect("base", 0, TOOL, "convert", "-f", "raw", "-O", "qcow2", "data", "base")
    expect("top", 0, TOOL, "create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", "top")
    expect("top", 0, TOOL, "io", "-c", "write -P 7 70k 300k", "-c", "write -z 1M 200k", "top")
    expect("-B", 0, TOOL, "convert", "-c", "-O", "qcow2", "-B", "base", "-F", "qcow2", "top", "above")
    for qemu in QEMUS:
        expect("-B", 0, qemu, "compare", "top", "above")
        expect("-B", 0, qemu, "check", "above")
    that("-B copies what is below", os.path.getsize("above") < os.path.getsize("base") // 2)
    expect("from compressed to compressed", 0, TOOL, "convert", "-c", "-O", "qcow2", "three", "again")
    that("it is another file then", filecmp.cmp("three", "again", shallow=False))


def stream_of(image, bits):
    """Of guest cluster 0: where its stream lies, and how long it is to the end of its last sector."""
    with open(image, "rb") as f:
        f.seek(40)
        f.seek(struct.unpack(">Q", f.read(8))[0])
        f.seek(struct.unpack(">Q", f.read(8))[0] & ~(1 << 63))
        entry = struct.unpack(">Q", f.read(8))[0]
    that("it is compressed", entry >> 62 == 1)
    shift = 62 - (bits - 8)
    at = entry & ((1 << shift) - 1)
    return at, ((entry >> shift & ((1 << (bits - 8)) - 1)) + 1) * 512 - at % 512


def damaged():
    """The error names the stream: of what is unpacked at once, and by a worker; a whole cluster, or a part."""
    for bits, kind in ((16, "zlib"), (16, "zstd"), (21, "zlib")):
        with open("data", "rb") as f:
            pathlib.Path("cluster").write_bytes(f.read(1 << bits))
        expect("convert", 0, TOOL, "convert", "-c", "-f", "raw", "-O", "qcow2", "-o",
               f"cluster_size={1 << bits},compression_type={kind}", "cluster", "alone")
        at, length = stream_of("alone", bits)
        with open("alone", "r+b") as f:
            f.seek(at)
            f.write(b"\xff" * 200)
        for code, *command in ((1, "convert", "-O", "raw", "alone", "out"), (2, "checksum", "alone"),
                               (1, "dd", "bs=512", "skip=3", "count=5", "if=alone", "of=out")):
            said = expect(f"{kind}: damaged", code, TOOL, *command)
            that(f"{kind}, {1 << bits}: {command[0]} names the stream of {length} bytes at {at}",
                 f"(unpacking {length} bytes at {at} of alone)" in said and "it is damaged" in said, said)


def size_of(path):
    return os.path.getsize(path) if os.path.exists(path) else 0


def interrupted():
    """What was made goes; killed, it is left, and no image."""
    for number in (signal.SIGINT, signal.SIGKILL):
        command = [TOOL, "convert", "-c", "-r", "1M", "-f", "raw", "-O", "qcow2", "data", "stopped"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            until = time.monotonic() + 60
            while time.monotonic() < until and size_of("stopped") < 500000:
                time.sleep(0.02)
            process.send_signal(number)
            said = process.communicate()[1]
        if number == signal.SIGINT:
            that(f"SIGINT: {process.returncode}: {said}", process.returncode == 1 and "cancelled" in said)
            that("SIGINT: the target is left", not os.path.exists("stopped"))
        else:
            that("SIGKILL: no image yet", call(QEMUS[0], "info", "-f", "qcow2", "stopped").returncode == 1)
            expect("again", 0, TOOL, "convert", "-c", "-f", "raw", "-O", "qcow2", "data", "stopped")
            judge("stopped", "data", "after SIGKILL")


def main():
    content("data", SIZE, 1)
    shutil.copy("data", "data+9")
    with open("data+9", "r+b") as f:
        f.seek(SIZE)
        f.write(b"\x09" * 512)
        f.truncate(16 << 20)
    for options in OPTIONS:
        both_ways(options)
    written_over()
    other_ends()
    damaged()
    interrupted()
    return end(least=100)


QEMUS = peers()
if not QEMUS:
    print("skipped: no qemu-img")
    sys.exit(77)
with tempfile.TemporaryDirectory(prefix="vdisk-compressed.") as folder:
    os.chdir(folder)
    code = main()
    os.chdir("/")
sys.exit(code)
