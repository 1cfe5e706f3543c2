#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Bulk work of the tool on a small file system that is full: each file that it writes (the target, the job's FILE
and FILE.blocks, a manifest, standard output) one after the other. It ends with one line that names the file and
says what there is not; the target is whole, absent, or unfinished; nobody's data is lost; and with some room the
same command does the rest.

usage: test_enospc_tool.py VDISK_IO [INTERPOSE]

Needs to mount a tmpfs, in a namespace of its own.
"""
import ctypes
import errno
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tool"))
from checks import TOOL, end, expect, hints_aside, remove, run, same, works

MIB = 1 << 20
SIZE = 16 * MIB
SPACE = "No space left on device"
CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x00020000, 1 << 14, 1 << 18
libc = ctypes.CDLL(None, use_errno=True)


def fails(what, text, code, said, want=1):
    """One line, with hints or without."""
    lines = hints_aside(said)
    expect(f"{what}: exit code {code}", code == want, said)
    expect(f"{what}: one line with '{text}'", len(lines) == 1 and text in lines[0], said)


def fails_full(name, *args, want=1, text=SPACE, **how):
    result = run(*args, **how)
    said = result.stderr
    fails(" ".join(args), text, result.returncode, said, want)
    expect(f"{' '.join(args)}: names {name}", name in said, said)


# ---- the file system --------------------------------------------------------------------------------------


def mount(size):
    """A new one on `small`."""
    pathlib.Path("small").mkdir(exist_ok=True)
    if libc.mount(b"tmpfs", b"small", b"tmpfs", 0, f"size={size}".encode()) != 0:
        print("skipped: a tmpfs cannot be mounted:", os.strerror(ctypes.get_errno()))
        sys.exit(77)


def unmount():
    """What a ring of an ended process has open the kernel lets go of a little later."""
    end = time.monotonic() + 60
    while libc.umount2(b"small", 0) != 0:
        if ctypes.get_errno() != errno.EBUSY or time.monotonic() > end:
            expect("unmount", False, os.strerror(ctypes.get_errno()))
            return
        time.sleep(0.05)


def fill(leave=0):
    """Take all but so many bytes."""
    with open("small/ballast", "ab", buffering=0) as f:
        st = os.statvfs("small")
        for piece in (MIB, 65536, 4096):
            while os.statvfs("small").f_bavail * st.f_frsize >= leave + piece:
                try:
                    f.write(bytes(piece))
                except OSError:
                    break


def make_room():
    os.unlink("small/ballast")


# ---- what is there afterwards -------------------------------------------------------------------------------


def is_unfinished(name):
    result = run("info", name)
    return result.returncode == 1 and "unfinished image" in result.stderr


def start(*args):
    return subprocess.Popen([TOOL, *args, "-r", "5M"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            stdin=subprocess.DEVNULL, text=True)


def reached(job, least, child):
    end = time.monotonic() + 120
    while child.poll() is None and time.monotonic() < end:
        result = run("job", "status", "--output=json", job)
        if result.returncode == 0 and json.loads(result.stdout)["bytes_done"] >= least:
            return
        time.sleep(0.01)
    sys.exit(f"it does not get on: {child.communicate()}")


def status(job):
    return json.loads(works("job", "status", "--output=json", job).stdout)


# ---- targets ------------------------------------------------------------------------------------------------

WAYS = [["-O", "raw"], ["-O", "qcow2"], ["-O", "qcow2", "-c"], ["-O", "qcow2", "-o", "cluster_size=4k"],
        ["-O", "raw", "-S", "0"], ["-O", "qcow2", "-t", "writeback"], ["-O", "qcow2", "-o", "preallocation=full"],
        ["-O", "raw", "-o", "preallocation=full"], ["-O", "qcow2", "--manifest", "m"]]


def targets():
    for way in WAYS:
        for data in (None, pathlib.Path("source").read_bytes()):
            needs = "preallocation needs" if "=full" in way[-1] else SPACE # that is looked at before
            if data and needs != SPACE:
                continue
            args = ["convert", "-f", "raw", *way, "-" if data else "source", "small/target"]
            how = {"input": data} if data else {}
            mount(6 * MIB)
            fails_full("small/target", *args, text=needs, **how)
            left = os.listdir("small")
            expect(f"{args}: it is absent", left == [] and not os.path.exists("m"), left)
            pathlib.Path("small/target").write_bytes(b"x" * 4096)
            fails_full("small/target", *args, text=needs, **how)
            expect(f"{args}: what was there is empty, or as it was",
                   pathlib.Path("small/target").read_bytes() in (b"", b"x" * 4096))
            libc.mount(b"tmpfs", b"small", b"tmpfs", 32, b"size=40M") # MS_REMOUNT
            works(*args, **how)
            same("source", "small/target")
            remove("small/target", "m")
            unmount()


def targets_of_jobs():
    for way in WAYS:
        remove("job", "m")
        args = ["convert", "--job", "job", *way, "source", "small/target"]
        mount(6 * MIB)
        needs = "preallocation needs" if "=full" in way[-1] else SPACE
        fails_full("small/target", *args, text=needs)
        if "=full" in way[-1]: # refused before its first step
            expect("no file of a job that has not begun", not os.path.exists("job"))
        else:
            state = status("job")
            expect("it has failed", state["state"] == "failed" and needs in state["error"], state)
        if os.path.exists("small/target") and "qcow2" in way:
            expect(f"{way}: it is unfinished", is_unfinished("small/target") or
                   os.path.getsize("small/target") == 0)
        expect("no manifest yet", not os.path.exists("m"))
        libc.mount(b"tmpfs", b"small", b"tmpfs", 32, b"size=40M")
        works(*args)
        same("source", "small/target")
        if "qcow2" in way:
            works("check", "-q", "small/target")
        unmount()
    remove("job", "m")


def layers():
    """What is put into a file below, or above; and again."""
    for verb in (["commit"], ["commit", "-d"], ["rebase", "-b", ""]):
        for job in ([], ["--job", "job"]):
            remove("top", "base", "job")
            mount(6 * MIB)
            above, below = ("top", "small/base") if verb[0] == "commit" else ("small/top", "base")
            works("create", "-q", "-f", "qcow2", below, str(SIZE))
            works("create", "-q", "-f", "qcow2", "-b", os.path.abspath(below), "-F", "qcow2", above)
            works("convert", "-n", "-O", "qcow2", "source", "top" if verb[0] == "commit" else "base")
            args = [verb[0], *job, *verb[1:], above]
            fails_full(os.path.basename(below if verb[0] == "commit" else above), *args)
            same("source", above)
            libc.mount(b"tmpfs", b"small", b"tmpfs", 32, b"size=40M")
            works(*args)
            same("source", above)
            works("check", "-q", below)
            works("check", "-q", "-r", "leaks", above)
            remove("top", "base", "job")
            unmount()


# ---- what is written beside ---------------------------------------------------------------------------------


def jobs_at_first():
    """FILE cannot be written at all: nothing is begun."""
    for args in (["convert", "-O", "qcow2", "source", "target"], ["checksum", "source"],
                 ["convert", "--manifest", "m", "source", "target"]):
        mount(MIB)
        fill()
        want = 2 if args[0] == "checksum" else 1
        fails_full("small/job", args[0], "--job", "small/job", *args[1:], want=want)
        expect("nothing is begun", not os.path.exists("target") and not os.path.exists("m"))
        expect("nothing is left", os.listdir("small") == ["ballast"], os.listdir("small"))
        make_room()
        works(args[0], "--job", "small/job", *args[1:])
        expect("it is done", status("small/job")["state"] == "done")
        remove("target", "m")
        unmount()


def jobs_later():
    """FILE, or FILE.blocks, cannot be written any more: the state that it has stays true."""
    for args in (["convert", "-O", "qcow2", "source", "target"], ["convert", "-O", "raw", "source", "target"],
                 ["convert", "-O", "qcow2", "--manifest", "m", "source", "target"],
                 ["checksum", "--block-size=64k", "source"],
                 ["checksum", "--block-size=4k", "--manifest", "m", "source"]):
        mount(2 * MIB)
        command = [args[0], "--job", "small/job", *args[1:]]
        child = start(*command)
        reached("small/job", MIB, child)
        fill()
        _, said = child.communicate()
        fails(" ".join(command), SPACE, child.returncode, said, 2 if args[0] == "checksum" else 1)
        expect(f"{command}: names it", "small/job" in said, said)
        before = status("small/job")
        expect("the last state is whole", before["bytes_done"] > 0 and before["state"] != "done", before)
        if args[0] == "convert" and not is_unfinished("target") and "raw" not in args:
            same("source", "target") # only FILE could not say so
        elif args[0] == "convert":
            expect("no manifest yet", not os.path.exists("m"))
        make_room()
        result = works(*command)
        expect("it goes on", "skipped" in result.stderr, result.stderr)
        if args[0] == "convert":
            same("source", "target")
        if "m" in args:
            works("checksum", "--verify", "m", "source")
        expect("nothing is left", os.listdir("small") == ["job"], os.listdir("small"))
        remove("target", "m")
        unmount()


def manifests():
    """No space for one: what was there stays."""
    for args in (["convert", "-O", "qcow2", "source", "target"], ["checksum", "source"],
                 ["checksum", "--block-size=4k", "source"],
                 ["convert", "-f", "raw", "-O", "qcow2", "-", "target"]):
        want = 2 if args[0] == "checksum" else 1
        how = {"input": pathlib.Path("source").read_bytes()} if "-" in args else {}
        for there in (False, True):
            for job in ([], ["--job", "job"] if not how else []):
                mount(2 * MIB)
                if there:
                    works("checksum", "--manifest", "small/m", "other")
                before = pathlib.Path("small/m").read_bytes() if there else None
                fill()
                command = [args[0], *job, "--manifest", "small/m", *args[1:]]
                fails_full("small/m", *command, want=want, **how)
                left = sorted(os.listdir("small"))
                expect("what was there stays", left == ["ballast"] + ["m"] * there and
                       (not there or pathlib.Path("small/m").read_bytes() == before), left)
                if os.path.exists("target") and not is_unfinished("target"):
                    expect("only with --job it is there", job)
                    same("source", "target") # only the manifest is to be made
                make_room()
                works(*command, **how)
                works("checksum", "--verify", "small/m", "source")
                expect("nothing is left", os.listdir("small") == ["m"], os.listdir("small"))
                remove("job", "target")
                unmount()


def once():
    """Something is not durable, and a moment later all is well: what was said of it does not count on it."""
    if len(sys.argv) < 3:
        return
    for args in (["convert", "-O", "qcow2", "--manifest", "m", "source", "target"],
                 ["checksum", "--block-size=64k", "source"]):
        for call in ("fsync", "rename"):
            for nth in range(1, 12):
                remove("job", "m", "target")
                command = [args[0], "--job", "job", *args[1:]]
                env = {**os.environ, "VDISK_IO_JOB_INTERVAL": "1",
                       "LD_PRELOAD": os.path.realpath(sys.argv[2]),
                       "SURROUND_FAIL": f"{call},{nth},5"}
                result = run(*command, env=env)
                if result.returncode != 0:
                    expect(f"{call} {nth}: why", "Input/output error" in result.stderr, result.stderr)
                works(*command)
                if "m" in args:
                    same("source", "target")
                    works("checksum", "--verify", "m", "source")
                expect("nothing is left", not [name for name in os.listdir() if name.startswith("job.")])


def standard_output():
    works("create", "-q", "-f", "qcow2", "base", str(SIZE))
    works("create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", "top")
    works("io", "-c", "write -P 7 1M 5M", "top")
    for args in (["-O", "raw", "source"], ["-O", "qcow2", "source"], ["-O", "qcow2", "-c", "source"],
                 ["-O", "qcow2", "-B", "base", "-F", "qcow2", "top"], ["-O", "raw", "-S", "64k", "top"],
                 ["-O", "qcow2", "-c", "-B", "base", "-F", "qcow2", "top"]):
        with open("/dev/full", "wb") as full:
            fails_full("standard output", "convert", *args, "-", stdout=full)
        mount(MIB)
        with open("small/out", "wb") as out: # a file: its end is where there was no space any more
            if "-B" not in args or "-c" not in args:
                fails_full("standard output", "convert", *args, "-", stdout=out)
        unmount()
    for args in (["checksum", "source"], ["checksum", "--output=json", "source"],
                 ["checksum", "--job", "job", "source"]):
        with open("/dev/full", "wb") as full:
            result = run(*args, stdout=full)
        said = result.stderr
        expect(f"{args}: exit code", result.returncode != 0, said)
        expect(f"{args}: one line", said.count("\n") == 1 and SPACE in said, said)
    digest = works("checksum", "source").stdout
    expect("it is told again", works("checksum", "--job", "job", "source").stdout == digest)


def main():
    if libc.unshare(CLONE_NEWNS) != 0 or libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None) != 0:
        print("skipped: mounting is not allowed here:", os.strerror(ctypes.get_errno()))
        return 77
    os.environ["VDISK_IO_JOB_INTERVAL"] = "20"
    with tempfile.TemporaryDirectory(prefix="vdisk-full.") as top:
        os.chdir(top)
        for test in (targets, targets_of_jobs, layers, jobs_at_first, jobs_later, manifests, once,
                     standard_output):
            for name in os.listdir():
                if name != "small":
                    os.unlink(name)
            pathlib.Path("source").write_bytes(os.urandom(SIZE))
            pathlib.Path("other").write_bytes(os.urandom(5 * MIB))
            test()
        os.chdir("/")
    return end()


if __name__ == "__main__":
    sys.exit(main())
