#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The storage of volumes: extend, reduce, measure, teardown; judged by what the file system says.

usage: test_domain_space.py VDISK_IO STEP_TOOL
"""
import os
import pathlib
import struct
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import lib  # noqa: E402
from lib import (MIB, Holder, chain, check, checksum, file_of, io, judged, make, refused, told,  # noqa: E402
                 volume, works)

STEP_TOOL = os.path.realpath(sys.argv[2])
NEW = "aaaaaaaa-0000-4000-8000-00000000000a"


def allocated(path, image, name):
    return os.stat(file_of(path, image, name)).st_blocks * 512


def test_extend():
    path = make("extend")
    for fmt, parent in (("raw", False), ("qcow2", False), ("qcow2", True)):
        if parent:
            image, base = volume("create", path, "8M")
            name = volume("snapshot", "-a", "preallocated", f"{path}/{image}")[1]
        else:
            image, name = volume("create", "-f", fmt, "-a", "preallocated", path, "8M")
        io(path, image, name, "write -P 5 0 6M", "discard 1M 4M")
        content, before = checksum(path, image, name), allocated(path, image, name)
        check("it has lost some", before < 8 * MIB, before)
        files = lib.snapshot_of(path)
        said = told("volume", "extend", "--dry-run", f"{path}/{image}")
        check("a dry run tells", said["before"] == said["allocated"] == before and said["asked"] >= 8 * MIB, said)
        check("and changes nothing", lib.snapshot_of(path) == files)
        said = told("volume", "extend", f"{path}/{image}", "6M")
        check("some of it", before < said["allocated"] == allocated(path, image, name) and
              said["asked"] == 6 * MIB, said)
        said = told("volume", "extend", f"{path}/{image}/{name}")
        check("all of it", said["allocated"] == allocated(path, image, name) >= said["asked"] >= 8 * MIB, said)
        check("reads the same", checksum(path, image, name) == content)
        check("once more", told("volume", "extend", f"{path}/{image}")["before"] == said["allocated"])
        refused("and is not extended to", "volume", "extend", f"{path}/{image}", "16M")
        if parent:
            refused("grows by itself", "volume", "extend", f"{path}/{image}/{base}")
        os.truncate(file_of(path, image, name), os.stat(file_of(path, image, name)).st_size)
        holder = Holder("-f", fmt, str(file_of(path, image, name)), command="write -P 5 0 4k")
        works("volume", "extend", f"{path}/{image}")
        holder.end()
        check("beside a writer", allocated(path, image, name) >= said["asked"])
    image, name = volume("create", path, "1M")
    refused("grows by itself", "volume", "extend", f"{path}/{image}")
    refused("no size", "volume", "extend", f"{path}/{image}", "x")
    image, name = volume("create", "-a", "preallocated", path, "1M")
    works("volume", "update", f"{path}/{image}", "--shared")
    refused("is a template", "volume", "extend", f"{path}/{image}")
    refused("has no volume", "volume", "extend", f"{path}/{image}/{NEW}")
    judged(path)


def test_reduce():
    path = make("reduce")
    image, (base, top) = chain(path, "qcow2", 2)
    for name in (top, base): # also what another one lies on
        file = file_of(path, image, name)
        content = checksum(path, image, top)
        lib.leak(file)
        if name == top:
            content = checksum(path, image, top)
        os.truncate(file, os.stat(file).st_size + 4 * MIB)
        subprocess.run(["fallocate", "--keep-size", "-o", str(os.stat(file).st_size), "-l", "4M", file],
                       check=True)
        before, files = allocated(path, image, name), lib.snapshot_of(path)
        said = told("volume", "reduce", "--dry-run", f"{path}/{image}/{name}")
        check("a dry run tells", said["before"] == said["allocated"] == before and said["end"] < 4 * MIB, said)
        check("and changes nothing", lib.snapshot_of(path) == files)
        said = told("volume", "reduce", f"{path}/{image}/{name}")
        now = os.stat(file)
        check("it ends where the image does", now.st_size == said["end"] and
              now.st_blocks * 512 <= said["end"] + 4096 and said["allocated"] == now.st_blocks * 512 and
              said["before"] == before, (said, now))
        found = told("check", "-f", "qcow2", file)
        check("nothing is leaked", found.get("leaks", 0) == 0 and found["image-end-offset"] == now.st_size, found)
        if name == top:
            check("reads the same", checksum(path, image, top) == content)
        check("once more", told("volume", "reduce", f"{path}/{image}/{name}")["before"] == said["allocated"])
    holder = Holder("-f", "qcow2", str(file_of(path, image, top)))
    refused(f"(pid {holder.process.pid})", "volume", "reduce", f"{path}/{image}")
    holder.end()
    raw, _ = volume("create", path, "1M")
    refused("is raw", "volume", "reduce", f"{path}/{raw}")
    full, name = volume("create", "-f", "qcow2", "-a", "preallocated", path, "1M")
    refused("is preallocated", "volume", "reduce", f"{path}/{full}")
    works("volume", "update", f"{path}/{full}", "--shared")
    refused("is a template", "volume", "reduce", f"{path}/{full}")
    judged(path)
    with open(file_of(path, image, top), "r+b") as f: # no refcounts
        f.seek(48)
        table, = struct.unpack(">Q", f.read(8))
        f.seek(table)
        block, = struct.unpack(">Q", f.read(8))
        f.seek(block)
        f.write(bytes(512))
    data = file_of(path, image, top).read_bytes()
    refused("it is damaged", "volume", "reduce", f"{path}/{image}")
    check("it is left as it is", file_of(path, image, top).read_bytes() == data)


def test_measure():
    path = make("measure")
    image, (_, _, top) = chain(path, length=3)
    for fmt in ("raw", "qcow2"):
        tool = told("measure", "-O", fmt, f"volume:{path}/{image}")
        for kind in ("sparse", "preallocated"):
            said = told("volume", "measure", "-f", fmt, "-a", kind, f"{path}/{image}")
            check("as the tool says", (said["required"], said["fully-allocated"]) ==
                  (tool["required"], tool["fully-allocated"]) and said["capacity"] == MIB, (said, tool))
            kept = "required" if kind == "sparse" else "fully-allocated"
            check("by its kind", said["takes"] == said[kept], said)
            copy = told("image", "copy", "-f", fmt, "-a", kind, f"{path}/{image}", path)
            size = os.stat(file_of(path, copy["image"], copy["volume"])).st_size
            check("a copy takes that", size <= said["takes"] and
                  (kind == "sparse" or copy["asked"] == said["takes"]), (copy, said))
    said = told("volume", "measure", f"{path}/{image}/{top}")
    check("otherwise as it is",
          said == told("volume", "measure", "-f", "qcow2", "-a", "sparse", f"{path}/{image}"), said)
    holder = Holder("-f", "qcow2", str(file_of(path, image, top)))
    refused(f"(pid {holder.process.pid})", "volume", "measure", f"{path}/{image}")
    holder.end()
    refused("has no volume", "volume", "measure", f"{path}/{image}/{NEW}")


def test_teardown():
    path = make("teardown")
    image, (base, top) = chain(path, length=2)
    works("volume", "prepare", f"{path}/{image}")
    for name in ("", f"/{top}", f"/{base}"):
        works("volume", "teardown", f"{path}/{image}{name}")
    check("as JSON", told("volume", "teardown", f"{path}/{image}") == {"image": image, "in-use": False})
    for how in (("-f", "qcow2", str(file_of(path, image, top))), (f"volume:{path}/{image}",)):
        holder = Holder(*how)
        refused(f"(pid {holder.process.pid})", "volume", "teardown", f"{path}/{image}")
        waits = subprocess.Popen([lib.TOOL, "volume", "teardown", "--wait", f"{path}/{image}"])
        check("it waits", waits.poll() is None)
        holder.end()
        check("until it is unused", waits.wait() == 0)
    refused("has no volume", "volume", "teardown", f"{path}/{image}/{NEW}")
    refused("has no image", "volume", "teardown", f"{path}/{NEW}")
    template, _ = volume("create", "-f", "qcow2", path, "1M")
    works("volume", "update", f"{path}/{template}", "--shared")
    clones = [works("image", "clone", f"{path}/{template}").stdout.strip().split("/") for _ in range(2)]
    holder = Holder(f"volume:{path}/{clones[0][0]}")
    works("volume", "teardown", f"{path}/{clones[1][0]}")
    refused(f"(pid {holder.process.pid})", "volume", "teardown", f"{path}/{clones[0][0]}")
    holder.end()
    judged(path)


def test_nfs():
    """A file system that reserves nothing, or only so that a file gets longer."""
    path = make("nfs")
    image, base = volume("create", "-f", "qcow2", path, "8M")
    for how in ("longer", "none"):
        env = dict(os.environ, VDISK_TEST_FALLOCATE=how)
        r = works("volume", "snapshot", "-a", "preallocated", f"{path}/{image}", tool=STEP_TOOL, env=env)
        name = r.stdout.strip().split("/")[1]
        check(f"{how}: zeros are told", ("zeros are written" in r.stderr) == (how == "none"), r.stderr)
        check(f"{how}: it has its space", allocated(path, image, name) > 8 * MIB, allocated(path, image, name))
        check(f"{how}: nothing is said to lack", "that were to be preallocated" not in r.stderr, r.stderr)
        size = os.stat(file_of(path, image, name)).st_size
        io(path, image, name, "write -P 5 0 8M", "flush", "verify -P 5 0 8M")
        check(f"{how}: and needs no more", os.stat(file_of(path, image, name)).st_size == size)
        works("domain", "check", path)
        judged(path)


lib.main(test_nfs, test_extend, test_reduce, test_measure, test_teardown)
