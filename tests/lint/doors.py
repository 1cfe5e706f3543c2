#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Programs take no name of the library but public ones, read from the symbols of their objects.

usage: doors.py MAP LIBRARY_ARCHIVE PROGRAM_ARCHIVE...
"""
import pathlib
import re
import shutil
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
sys.dont_write_bytecode = True
import api  # noqa: E402

# Source of a program: why it may take other names all the same.
ALSO = {
    "bench_scenario.c": "volumes in memory that a name cannot describe, to measure a part of the engine alone",
}


def symbols(archives):
    """({names defined}, {object: {names used}})"""
    defined, used = set(), {}
    for archive in archives:
        output = subprocess.run(["nm", "-A", archive], capture_output=True, text=True, check=True).stdout
        for line in output.splitlines():
            member, _, rest = line.rpartition(":")
            member = re.split("[:/]", member)[-1]
            fields = rest.split()
            if len(fields) < 2:
                continue
            names = used.setdefault(member, set())
            if fields[-2] in "Uw":
                names.add(fields[-1])
            elif fields[-2] in "TDBRVWC":
                defined.add(fields[-1])
    return defined, used


def judge(public, library, programs, also):
    """Breaches, and how many uses of public names there are."""
    defined, _ = symbols([library])
    breaches, needed, uses = [], set(), 0
    for member, names in sorted(symbols(programs)[1].items()):
        source = re.sub(r"\.c?\.?o$", ".c", member)
        uses += len(names & public)
        for name in sorted(names & defined - public):
            if source in also:
                needed.add(source)
            else:
                breaches.append(f"{source}: takes {name}, which is the library's own: what programs need is in "
                                "vdisk.h or vdisk-image.h, or belongs there")
    for source in sorted(set(also) - needed):
        breaches.append(f"doors.py: ALSO has {source}, which takes public names only: remove it")
    return breaches, uses


def main():
    if not shutil.which("nm"):
        print("skipped: there is no nm")
        return 77
    nodes = api.nodes(pathlib.Path(sys.argv[1]).read_text())
    public = {name for names in nodes.values() for name in names}
    breaches, uses = judge(public, sys.argv[2], sys.argv[3:], ALSO)
    for breach in breaches:
        print(breach)
    if not uses:
        print(f"no object in {' '.join(sys.argv[3:])} takes a public name")
    print(f"{uses} uses of public functions; {len(breaches)} breaches")
    return 1 if breaches or not uses else 0


if __name__ == "__main__":
    sys.exit(main())
