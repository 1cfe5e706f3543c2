#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The volumes of bench/run --domain /dev/UUID: logical volumes of a domain that there is, made and deleted; with
fio and its engine each cell of some patterns. lvm and device-mapper are the test's own (tests/domain/fake_lvm.py).

usage: test_group_volumes.py BENCH VDISK_IO PROBE FAKE_LVM [ENGINE]
"""
import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "domain"))
import fake_lvm  # noqa: E402

fake_lvm.enter() # and here again, in the namespace
BENCH, TOOL, PROBE, CLIENT = (os.path.realpath(word) for word in sys.argv[1:5])
ENGINE = os.path.realpath(sys.argv[5]) if len(sys.argv) > 5 and shutil.which("fio") else None
sys.path.insert(0, BENCH)

import cells  # noqa: E402
import domain_volumes  # noqa: E402
import load  # noqa: E402
import suite  # noqa: E402

U = "dddddddd-0000-4000-8000-00000000000e"
D = f"/dev/{U}"
SIZE = 8 << 20
KINDS = (cells.RAW_FULL, cells.QCOW2_FULL, cells.QCOW2_SPARSE)
checks = failures = 0


def check(what, condition, more=""):
    global checks, failures
    checks += 1
    if not condition:
        failures += 1
        print(f"FAIL {what} {more}")


def tool(*words):
    done = subprocess.run([TOOL, *map(str, words)], capture_output=True, text=True, check=False)
    check(" ".join(map(str, words)), done.returncode == 0, done.stdout + done.stderr)
    return done.stdout


class WithoutFio(load.Loads):
    """Volumes are filled by our own tool."""

    def fio(self, options, engine, volume, path):
        self.run([self.vdisk_io, "bench", "--rw", "write", "--bs", "64k", "--count", self.size >> 16, path])


def test_volumes(loads):
    volumes = domain_volumes.GroupVolumes(loads, pathlib.Path.cwd(), lambda text: None, D)
    volumes.prepare(set(KINDS))
    listed = tool("volume", "list", D).splitlines()
    check("one of each kind", len(listed) == len(KINDS), listed)
    for kind in KINDS:
        line = next(line for line in listed if line.startswith(volumes.names[kind]))
        check(kind.name, f"{kind.format} {'sparse' if kind.prealloc == 'off' else 'preallocated'} " in line, line)
        ours, theirs = (volumes.ready(cells.Side(engine, kind)) for engine in ("vdisk", "io_uring"))
        check(f"{kind.name}: by its name", ours == f"volume:{D}/{volumes.names[kind]}", ours)
        check(f"{kind.name}: there is a device for others", pathlib.Path(theirs).is_block_device(), theirs)
    for kind in (cells.RAW_FULL, cells.QCOW2_SPARSE):
        path = volumes.make_fresh(cells.Side("vdisk", kind))
        tool("bench", "--rw", "write", "--bs", "64k", "--count", SIZE >> 16, path)
        volumes.drop_fresh()
    check("the fresh ones are gone", len(tool("volume", "list", D).splitlines()) == len(KINDS))
    check("no faults", "0 faults" in tool("domain", "check", D))
    volumes.remove()
    check("all are gone", tool("volume", "list", D) == "")


def test_cells(loads, commands):
    chosen = [p for p in cells.patterns(True) if p.order == "rand" and p.block == 4096 and p.depth == 32]
    plan = suite.Plan(chosen, True, 0.05)
    plan.rounds = lambda pattern: 1
    args = argparse.Namespace(domain=D, seconds=0.05)
    run = suite.Suite(args, loads, plan, pathlib.Path.cwd(), None)
    run.run()
    for row in run.rows:
        check(f"{row.pattern.name}: {row.side.name}: measured", len(row.samples) == 1)
    run.volumes.remove()
    commands.flush()
    said = pathlib.Path("commands.txt").read_text()
    check("by names", "--filename=volume" in said)
    check("and by devices", f"--filename={D}/" in said)


def main():
    with tempfile.TemporaryDirectory(prefix="vdisk-group.") as folder:
        os.chdir(folder)
        lvm = fake_lvm.Lvm(CLIENT)
        try:
            tool("domain", "create", "--type", "block", "--uuid", U, lvm.disk(12 << 30))
            lvm.vgs[U].extent = 1 << 20
            with open("commands.txt", "w") as commands:
                test_volumes(WithoutFio(ENGINE, TOOL, PROBE, None, SIZE, pathlib.Path.cwd(), commands))
                if ENGINE:
                    test_cells(load.Loads(ENGINE, TOOL, PROBE, None, SIZE, pathlib.Path.cwd(), commands), commands)
                else:
                    print("skipped: there is no fio, or no engine for it: test_cells")
        finally:
            os.chdir("/")
            lvm.close()
    print(f"{checks} checks, {failures} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
