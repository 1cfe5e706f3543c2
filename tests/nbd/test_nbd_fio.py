#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""fio, by its NBD engine, against the server, on qcow2 and raw: random writes of several connections at once, with
checksums that it reads back; trims, which read as zeros; then the image by QEMU: whole, the same, and with fio's
checksums in it.

usage: test_nbd_fio.py VDISK_IO
"""
import os
import pathlib
import shutil
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
sys.dont_write_bytecode = True
from client import *  # noqa: E402,F403

MIB, JOBS, EACH = 1 << 20, 4, 8 # connections, and the MiB that each writes to
SEED = os.environ.get("VDISK_SEED", "1")
check = Checks()


def run(*command, cwd=None):
    done = subprocess.run([str(c) for c in command], cwd=cwd, capture_output=True, text=True, timeout=200,
                          stdin=subprocess.DEVNULL)
    check.same(f"{' '.join(map(str, command))}: {done.stdout[-600:]} {done.stderr[-600:]}", done.returncode, 0)
    return done.stdout


def fio(where, *options):
    run("fio", "--minimal", f"--randseed={SEED}", *options, cwd=where)


# Each of JOBS has MiB of its own, all of which it writes once, in random order. TRIMS is what lies behind them.
WRITES = ("--name=job", "--rw=randwrite", "--bsrange=512-64k", "--iodepth=16", "--fsync=64", f"--numjobs={JOBS}",
          f"--size={EACH}m", f"--offset_increment={EACH}m", "--verify=crc32c", "--verify_fatal=1")
TRIMS = ("--name=trim", "--rw=randtrim", "--bs=64k", "--iodepth=8", "--numjobs=2", f"--offset={JOBS * EACH}m",
         f"--size={EACH}m", f"--offset_increment={EACH}m")


def test(tool, where, kind):
    size = (JOBS + 2) * EACH
    create(tool, where, "disk", "-f", kind, f"{size}M")
    run(tool, "io", "-q", "-f", kind, "-c", f"write -P 7 0 {size}M", "disk", cwd=where)
    with serving(tool, where, "-f", kind, checks=check) as server:
        uri = f"nbd+unix:///?socket={server.path}"
        engine = "--ioengine=nbd", f"--uri={uri}"
        fio(where, *engine, *WRITES, *TRIMS)
        fio(where, *engine, *WRITES, "--verify_only")
        run(tool, "io", "-q", "-r", "-f", "raw", "-c", f"verify -P 0 {JOBS * EACH}M {2 * EACH}M", uri)
        run("qemu-img", "convert", "-f", "raw", "-O", "raw", uri, where / "served")
    check.same(f"no request failed: {server.words()}", " 0 errors, 0 clients refused" in server.words(), True)
    if kind == "qcow2":
        run("qemu-img", "check", "-f", kind, "disk", cwd=where)
    run("qemu-img", "compare", "-f", kind, "-F", "raw", "disk", "served", cwd=where)
    run("qemu-img", "convert", "-f", kind, "-O", "raw", "disk", "read", cwd=where)
    fio(where, "--ioengine=psync", "--filename=read", *WRITES, "--verify_only")


def main():
    tool = str(pathlib.Path(sys.argv[1]).resolve())
    for program in ("fio", "qemu-img"):
        if not shutil.which(program):
            print(f"skipped: no {program}")
            return 77
    if "\tnbd\n" not in subprocess.run(["fio", "--enghelp"], capture_output=True, text=True, check=False).stdout:
        print("skipped: this fio has no engine for NBD")
        return 77
    for kind in ("qcow2", "raw"):
        with folder() as where:
            test(tool, where, kind)
    return check.finish()


if __name__ == "__main__":
    sys.exit(main())
