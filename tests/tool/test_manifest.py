#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""convert --manifest: for every kind of source, target and way the very file that checksum --manifest makes of the
target, and of the source; killed, stopped and gone on with as well; what cannot be is refused by name.

usage: test_manifest.py VDISK_IO
"""
import fcntl
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

from checks import TOOL, end, expect, must, refused, run

MIB = 1 << 20


def read(name):
    return pathlib.Path(name).read_bytes()


def content(seed, size):
    """Data, zeros as data, holes, and what can be compressed, in pieces that fit nothing."""
    r = random.Random(seed)
    data = bytearray(size)
    at = 0
    while at < size:
        n = min(size - at, r.choice([512, 4096, 65536, 300000, 3 * MIB, 5 * MIB]))
        kind = r.randrange(4)
        if kind == 1:
            data[at:at + n] = r.randbytes(n)
        elif kind == 2:
            data[at:at + n] = (r.randbytes(8) * (n // 8 + 1))[:n]
        at += n
    return bytes(data)


def write_sparse(path, data):
    with open(path, "wb") as f:
        f.truncate(len(data))
        for at in range(0, len(data), 4096):
            if any(data[at:at + 4096]):
                f.seek(at)
                f.write(data[at:at + 4096])


def convert(sources, more, target="target", source_format="raw", target_format="qcow2", data=None):
    """Twice: with a manifest, and without one by checksum."""
    for name in ("m", "want"):
        if os.path.exists(name):
            os.unlink(name)
    kinds = ["-f", source_format, "-O", target_format]
    must("convert", *kinds, "--manifest", "m", *more, *sources, target, input=data)
    must("checksum", "-q", "-f", target_format, "--manifest", "want", target)
    expect(f"manifest of {sources} {more} {target_format}", read("m") == read("want"))
    expect("nothing beside it", not [name for name in os.listdir() if name.startswith("m.")])


WAYS = [[], ["-c"], ["-c", "-o", "compression_type=zstd", "-m", "3"], ["-S", "0"], ["-S", "64k"], ["-m", "1"],
        ["-o", "cluster_size=2M"], ["-c", "-o", "cluster_size=2M"], ["-o", "cluster_size=512"],
        ["-o", "compat=0.10"], ["-o", "preallocation=metadata"], ["-T", "none", "-t", "writeback"],
        ["-m", "2", "--max-memory", "26M"], ["-c", "--max-memory", "26M"], ["-r", "1G"]]
SIZES = [0, 512, 65536, 4 * MIB - 512, 4 * MIB, 4 * MIB + 512, 23 * MIB + 3 * 512]


def formats():
    for seed, size in enumerate(SIZES):
        data = content(seed, size)
        write_sparse("sparse", data)
        pathlib.Path("full").write_bytes(data)
        must("checksum", "-q", "-f", "raw", "--manifest", "of-source", "sparse")
        ways = WAYS if size > 4 * MIB else WAYS[:4]
        for way in ways:
            convert(["sparse"], way)
            expect("that of the source, too", read("m") == read("of-source"))
        must("convert", "-f", "raw", "-O", "qcow2", "sparse", "layer")
        for source in ("sparse", "full"):
            convert([source], [], target_format="raw", target="raw-target")
            convert([source], ["-S", "0"], target_format="raw", target="raw-target")
        convert(["layer"], ["-c"], source_format="qcow2")
        convert(["layer"], [], source_format="qcow2", target_format="raw", target="raw-target")
        convert(["-"], [], data=data)
        convert(["-"], ["-c"], data=data)
        expect("that of what came", read("m") == read("of-source"))


def several():
    """Sources that end within a sector, and within a block; a target that is longer, or there."""
    for i, size in enumerate([5 * MIB + 700, 1, 4 * MIB - 512, 9 * MIB]):
        pathlib.Path(f"s{i}").write_bytes(content(70 + i, size))
    names = ["s0", "s1", "s2", "s3"]
    whole = b"".join(read(name) + bytes(-len(read(name)) % 512) for name in names)
    pathlib.Path("all").write_bytes(whole)
    for way in ([], ["-c"], ["-m", "2"]):
        convert(names, way)
        must("checksum", "-q", "-f", "raw", "--manifest", "of-all", "all")
        expect("that of all", read("m") == read("of-all"))
    for size in (20 * MIB, 64 * MIB, 1 << 40):
        convert(["all"], ["-o", f"size={size}"])
    convert(["-"], ["-o", "size=30M"], data=whole)
    convert(["-"], [], data=whole[:5 * MIB + 700])
    must("create", "-q", "-f", "qcow2", "target", str(len(whole)))
    must("io", "-c", f"write -P 9 0 {len(whole)}", "target")
    convert(["all"], ["-n"])
    convert(["-"], ["-n"], data=whole)
    must("create", "-q", "-f", "qcow2", "longer", "64M")
    must("io", "-c", "write -P 9 0 64M", "longer")
    must("convert", "-n", "-f", "raw", "-O", "qcow2", "--manifest", "m", "all", "longer")
    expect("of a longer one: that of the sources", read("m") == read("of-all"))


def backing():
    """What the target has from below is in its manifest."""
    data = bytearray(content(5, 21 * MIB))
    write_sparse("base", bytes(data))
    must("create", "-q", "-f", "qcow2", "-b", "base", "-F", "raw", "top", str(24 * MIB))
    must("io", "-c", f"write -P 3 {3 * MIB} 70000", "-c", f"write -z {5 * MIB} 3M", "-c",
         f"write -P 5 {23 * MIB} 10", "top")
    for way in ([], ["-c"], ["-m", "1"]):
        convert(["top"], ["-B", "base", "-F", "raw", *way], source_format="qcow2")
        before = read("m")
        convert(["top"], way, source_format="qcow2")
        expect("the same without a backing file", read("m") == before)
    must("convert", "-O", "qcow2", "-B", "base", "-F", "raw", "--manifest", "m", "top", "target")
    info = json.loads(run("info", "--output=json", "target").stdout)
    expect("what is below is not copied", info["actual-size"] < 5 * MIB, info["actual-size"])


def salvage():
    """What cannot be read is zeros there, too."""
    write_sparse("whole", content(8, 9 * MIB))
    must("convert", "-f", "raw", "-O", "qcow2", "-S", "0", "whole", "cut")
    os.truncate("cut", 6 * MIB)
    must("convert", "-f", "qcow2", "-O", "qcow2", "-q", "--salvage", "--manifest", "m", "cut", "target")
    must("checksum", "-q", "--manifest", "want", "target")
    expect("salvaged", read("m") == read("want"))


def refusals():
    write_sparse("source", content(1, 5 * MIB))
    base = ["convert", "-f", "raw", "-O", "qcow2", "--manifest", "m"]
    refused("--manifest is used", *base, "-C", "source", "target")
    refused("--manifest: not to standard output", *base, "source", "-")
    pathlib.Path("m").write_bytes(b"something else")
    refused("m: is there, and is no manifest", *base, "source", "target")
    expect("nothing was made", not os.path.exists("target") and read("m") == b"something else")
    os.unlink("m")
    pathlib.Path("m.new").write_bytes(b"something else")
    refused("m.new: is there, and is no manifest", *base, "source", "target")
    os.unlink("m.new")
    refused("source: --manifest writes it, and it is an image", *base[:-1], "source", "source", "target")
    refused("", *base, "source", "m.new")
    refused("m: --manifest writes it, and it is an image", *base, "-t", "writeback", "source", "m")
    refused("No such file", *base[:-1], "nowhere/m", "source", "target")
    expect("nothing is left", sorted(os.listdir()) == ["source"], os.listdir())
    must(*base, "source", "target")
    before = read("m")
    os.unlink("target")
    refused("", *base, "source", "absent", "target")
    expect("what was there stays", read("m") == before and sorted(os.listdir()) == ["m", "source"], os.listdir())
    with open("m.new", "wb") as f:
        fcntl.lockf(f, fcntl.LOCK_EX) # a lock of the process: seen by those of a file's description
        refused("m.new: another process writes to it", *base, "source", "target")
    os.unlink("m.new")


def start(*args):
    return subprocess.Popen([TOOL, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def reached(child, least):
    end = time.monotonic() + 120
    while child.poll() is None and time.monotonic() < end:
        result = run("job", "status", "--output=json", "job")
        if result.returncode == 0 and json.loads(result.stdout)["bytes_done"] >= least:
            return
        time.sleep(0.01)
    sys.exit("it does not get on")


def stopped():
    """Killed, a manifest is not there, and what is left beside it is the next one's; with --job it goes on."""
    os.environ["VDISK_IO_JOB_INTERVAL"] = "50"
    write_sparse("source", content(3, 48 * MIB))
    must("checksum", "-q", "-f", "raw", "--manifest", "want", "source")
    command = ["convert", "-f", "raw", "-O", "qcow2", "--manifest", "m", "source", "target"]
    for number in (signal.SIGINT, signal.SIGKILL): # which leaves it
        child = start(*command, "-r", "10M")
        while not os.path.exists("m.new") and child.poll() is None:
            time.sleep(0.01)
        child.send_signal(number)
        child.communicate()
        expect("no manifest", not os.path.exists("m"))
        expect("beside it only of what was killed", number == signal.SIGKILL or not os.path.exists("m.new"))
    child = start(*command, "-r", "10M")
    while not os.path.exists("m.new") and child.poll() is None:
        time.sleep(0.01)
    child.kill()
    child.communicate()
    must(*command)
    expect("after a kill", read("m") == read("want") and not os.path.exists("m.new"))
    for way in ([], ["-c"], ["-S", "0"]):
        for number in (signal.SIGKILL, signal.SIGINT, signal.SIGKILL):
            going_on(command, way, number)


def going_on(command, way, number):
    for name in ("m", "job", "target"):
        if os.path.exists(name):
            os.unlink(name)
    child = start(*command, *way, "--job", "job", "-r", "6M")
    reached(child, 12 * MIB)
    child.send_signal(number)
    child.communicate()
    expect("it was stopped", child.returncode not in (0, None) and not os.path.exists("m"))
    result = run(*command, *way, "--job", "job", "-p")
    expect(f"it goes on {way}", result.returncode == 0 and "skipped" in result.stderr, result.stderr)
    expect(f"manifest of what went on {way} {number}", read("m") == read("want"))
    expect("the digests are not kept", not os.path.exists("job.blocks"))
    must("compare", "-q", "source", "target")


def main():
    with tempfile.TemporaryDirectory(prefix="vdisk-manifest.") as folder:
        for test in (formats, several, backing, salvage, refusals, stopped):
            here = pathlib.Path(folder, test.__name__)
            here.mkdir()
            os.chdir(here)
            test()
        os.chdir("/")
    return end()


if __name__ == "__main__":
    sys.exit(main())
