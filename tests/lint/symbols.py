#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The libraries have the public functions as global names, each in its version, and no other name.

usage: symbols.py MAP LIBVDISK_SO LIBVDISK_A
"""
import pathlib
import shutil
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
sys.dont_write_bytecode = True
import api  # noqa: E402


def symbols(*options):
    """What nm lists: names, but for the nodes themselves."""
    output = subprocess.run(["nm", "--defined-only", *options], capture_output=True, text=True, check=True).stdout
    fields = [line.split() for line in output.splitlines()]
    return {f[2] for f in fields if len(f) == 3 and f[1] != "A"}


def report(library, want, have):
    for name in sorted(have - want):
        print(f"FAILED: {library} shows {name}, which is not public: a program may have a function of that name")
    for name in sorted(want - have):
        print(f"FAILED: {library} lacks {name}")
    return want != have


def main():
    if not shutil.which("nm"):
        print("skipped: there is no nm")
        return 77
    nodes = api.nodes(pathlib.Path(sys.argv[1]).read_text())
    versioned = {f"{name}@@{node}" for node, names in nodes.items() for name in names}
    plain = {name for names in nodes.values() for name in names}
    failed = report(sys.argv[2], versioned, symbols("-D", sys.argv[2]))
    failed |= report(sys.argv[3], plain, symbols("-g", sys.argv[3]))
    print(f"{len(plain)} public functions in both libraries")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
