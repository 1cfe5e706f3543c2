#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""map prints a million extents as it goes: none is missing, and memory does not grow with their number.

usage: test_map_many.py VDISK_IO
"""
import os
import resource
import subprocess
import sys
import tempfile

TABLES, EXTENTS = 128, 8192 # L2 tables of so many extents: every second cluster has data
BOUND = 40 << 10 # KiB; a list of the extents would take 50 MiB by itself


def make(tool, name):
    """An image all of whose L1 entries lead to one L2 table: good enough to be read."""
    subprocess.run([tool, "create", "-q", "-f", "qcow2", name, f"{TABLES * 512}M"], check=True)
    writes = "".join(f"write {i * 131072} 64k\n" for i in range(EXTENTS // 2))
    subprocess.run([tool, "io", "-q", "-f", "qcow2", name], input=writes, text=True, check=True)
    with open(name, "r+b") as f:
        head = f.read(48)
        l1 = int.from_bytes(head[40:48], "big")
        f.seek(l1)
        entry = f.read(8)
        f.seek(l1)
        f.write(entry * TABLES)


def main():
    tool = os.path.realpath(sys.argv[1])
    if b"__asan_init" in open(tool, "rb").read() or b"__tsan_init" in open(tool, "rb").read():
        print("skipped: a sanitizer takes memory of its own")
        return 77
    with tempfile.TemporaryDirectory() as folder:
        name = os.path.join(folder, "many.qcow2")
        make(tool, name)
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        with subprocess.Popen([tool, "map", "--output", "json", name], stdout=subprocess.PIPE) as process:
            lines = sum(1 for _ in process.stdout)
        used = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print(f"{lines} extents, {used} KiB ({before} KiB to make the image)")
    if process.returncode != 0 or lines != TABLES * EXTENTS or used > BOUND:
        print(f"FAILED: exit code {process.returncode}; expected: {TABLES * EXTENTS} extents, at most {BOUND} KiB")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
