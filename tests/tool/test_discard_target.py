#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""convert -n --discard-target, into targets full of something else: QEMU finds the source's content, space is
given back, what is to stay stays, and what contradicts it is refused before anything is lost. Interrupted, it goes
on.

usage: test_discard_target.py VDISK_IO PEER
"""
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from chains import Test, run  # noqa: E402  pylint: disable=wrong-import-position

MIB = 1 << 20
SIZE = 24 * MIB
SKIPPED = 77
t = Test(sys.argv)
KINDS = [("raw", None), ("qcow2", "compat=1.1"), ("qcow2", "compat=0.10"), ("qcow2", "extended_l2=on"),
         ("qcow2", "compat=1.1,backing_file=base,backing_fmt=raw"),
         ("qcow2", "compat=0.10,backing_file=base,backing_fmt=raw")]


def make_source(name, size, holes=True):
    """Data, zeros that are written, and nothing."""
    with open(name, "wb") as f:
        f.truncate(size)
        for at in range(0, size, 3 * MIB if holes else MIB):
            f.seek(at)
            f.write(os.urandom(MIB - 4096) + bytes(4096))
    return name


def make_target(name, fmt, options, size=SIZE):
    t.must(t.peer, "create", "-q", "-f", fmt, *(["-o", options] if options else []), name, str(size))
    t.must(t.io, "-f", fmt, "-c", f"write -q -P 165 0 {size}", name)
    return name


def convert(*args):
    return run(t.tool, "convert", "-n", "-f", "raw", *args)


def same_content(what, a, b, fmt):
    r = run(t.peer, "compare", "-f", "raw", "-F", fmt, a, b)
    t.expect(f"{what}: QEMU finds no difference", r.returncode == 0, r.stdout + r.stderr)


def blocks(name):
    return os.stat(name).st_blocks * 512


def contents():
    for fmt, options in KINDS:
        what = f"{fmt} {options}"
        for more in ([], ["-t", "writeback"], ["-S", "0"], ["-r", "1G"]) + ((["-c"],) if fmt == "qcow2" else ()):
            make_target("target", fmt, options)
            r = convert("-O", fmt, "--discard-target", *more, "source", "target")
            t.expect(f"{what} {more}: nothing is said", r.returncode == 0 and r.stdout + r.stderr == "", r.stderr)
            same_content(f"{what} {more}", "source", "target", fmt)
            if fmt == "qcow2":
                t.same(f"{what} {more}: check", run(t.peer, "check", "-q", "target").returncode, 0)
    t.expect("what is below the target is as it was", pathlib.Path("base").read_bytes() == b"b" * SIZE)


def space():
    """Of a source without data; and what is behind it."""
    with open("nothing", "wb") as f:
        f.truncate(SIZE // 2)
    for fmt, options in KINDS[:4]:
        make_target("target", fmt, options)
        full = blocks("target")
        r = convert("-O", fmt, "--discard-target", "nothing", "target")
        t.same(f"{fmt} {options}", r.returncode, 0)
        t.expect(f"{fmt} {options}: space is given back", full >= SIZE and blocks("target") < 2 * MIB,
                 blocks("target"))
        same_content(f"{fmt} {options}, all of it", "nothing", "target", fmt)
        t.same(f"{fmt} {options}: size", json.loads(t.must(t.peer, "info", "--output", "json", "target"))
               ["virtual-size"], SIZE)


def own_range():
    """A part of a file: nothing around it is lost."""
    with open("around", "wb") as f:
        f.write(b"x" * (SIZE + 2 * MIB))
    name = f"driver=raw,offset={MIB},size={SIZE},file.driver=file,file.filename=around"
    r = convert("--discard-target", "--target-image-opts", "source", name)
    t.same("a part of a file", (r.returncode, r.stderr), (0, ""))
    got = pathlib.Path("around").read_bytes()
    t.expect("a part of a file: its content", got[MIB:MIB + SIZE] == pathlib.Path("source").read_bytes())
    t.expect("a part of a file: what is around", got[:MIB] == b"x" * MIB and got[MIB + SIZE:] == b"x" * MIB)


def not_taken():
    name = "driver=raw,discard=ignore,file.driver=file,file.filename=target"
    for quiet in ([], ["-q"]):
        make_target("target", "raw", None)
        r = convert("--discard-target", "--target-image-opts", *quiet, "source", name)
        t.expect(f"no discards {quiet}: a warning", r.returncode == 0 and r.stdout == "" and
                 ("takes no discards" in r.stderr and r.stderr.count("\n") == 1 if not quiet else r.stderr == ""),
                 r.stderr)
        same_content(f"no discards {quiet}", "source", "target", "raw")


def refused():
    """With one line, and the target is as it was."""
    make_source("large", SIZE + 512)
    t.must(t.peer, "create", "-q", "-f", "qcow2", "-b", os.path.abspath("target"), "-F", "raw", "over")
    for text, args in (
            ("requires use of -n", ["convert", "-f", "raw", "--discard-target", "source", "target"]),
            ("mutually exclusive", ["convert", "-n", "-f", "raw", "--discard-target", "--target-is-zero", "source",
                                    "target"]),
            ("not with -B", ["convert", "-n", "-f", "raw", "--discard-target", "-B", "base", "source", "target"]),
            ("no target that is there", ["convert", "-n", "-f", "raw", "--discard-target", "source", "-"]),
            ("smaller than input", ["convert", "-n", "-f", "raw", "--discard-target", "large", "target"]),
            ("absent", ["convert", "-n", "-f", "raw", "--discard-target", "absent", "target"]),
            ("target", ["convert", "-n", "-f", "raw", "-U", "--discard-target", "target", "target"]),
            ("target", ["convert", "-n", "-f", "qcow2", "-U", "--discard-target", "over", "target"])):
        make_target("target", "raw", None)
        r = run(t.tool, *args)
        lines = [x for x in r.stderr.splitlines() if "hint: " not in x]
        t.expect(f"{args}: one line", r.returncode == 1 and len(lines) == 1 and text in r.stderr, r.stderr)
        t.expect(f"{args}: the target stays", pathlib.Path("target").read_bytes() == b"\xa5" * SIZE)


def going_on(fmt, options, more):
    """What was done before it was stopped is not written again: where it is marked the mark stays."""
    what = f"going on, {fmt} {options} {more}"
    make_target("target", fmt, options)
    if os.path.exists("job"):
        os.unlink("job")
    command = [t.tool, "convert", "-n", "-q", "--job", "job", "-f", "raw", "-O", fmt, "--discard-target", *more,
               "source", "target"]
    env = dict(os.environ, VDISK_IO_JOB_INTERVAL="20")
    with subprocess.Popen([*command[:-2], "-r", "1M", *command[-2:]], env=env) as child:
        done, end = 0, time.monotonic() + 120
        while done < MIB and child.poll() is None and time.monotonic() < end:
            time.sleep(0.02)
            r = run(t.tool, "job", "status", "--output=json", "job")
            done = json.loads(r.stdout)["bytes_done"] if r.returncode == 0 else 0
        child.send_signal(signal.SIGINT)
        child.wait()
    done = json.loads(run(t.tool, "job", "status", "--output=json", "job").stdout)["bytes_done"]
    t.expect(f"{what}: it was stopped", 0 < done < SIZE, done)
    t.must(*command)
    same_content(what, "source", "target", fmt) # what was done is not written again, so it is not discarded


def main():
    if not t.usable():
        return SKIPPED
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        pathlib.Path("base").write_bytes(b"b" * SIZE)
        make_source("source", SIZE)
        contents()
        space()
        own_range()
        not_taken()
        refused()
        for fmt, options in KINDS[:2]:
            for more in ([], ["--salvage"]):
                going_on(fmt, options, more)
        os.chdir("/")
    return t.end()


if __name__ == "__main__":
    sys.exit(main())
