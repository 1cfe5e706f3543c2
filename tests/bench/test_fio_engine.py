#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""fio over volumes of a storage domain, by their names: what it writes is theirs, and their image is in use;
and over an export.

usage: test_fio_engine.py VDISK_IO [ENGINE]
"""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

TOOL = os.path.realpath(sys.argv[1])
ENGINE = os.path.realpath(sys.argv[2]) if len(sys.argv) > 2 else None
SIZE = 8 << 20
failures = []


def that(what, fact):
    if not fact:
        failures.append(what)
        print("FAILED:", what)


def tool(*words, code=0):
    done = subprocess.run([TOOL, *words], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    that(f"{words}: exit code {done.returncode}: {done.stdout}{done.stderr}", done.returncode == code)
    return done


def words_of_fio(name, *options):
    return ["fio", "--name=job", f"--ioengine=external:{ENGINE}",
            "--filename=" + name.replace(":", "\\:"), "--direct=1", "--bs=64k", "--iodepth=4",
            "--output-format=json", *options]


def fio(name, *options):
    return subprocess.run(words_of_fio(name, *options), capture_output=True, text=True, check=False,
                          stdin=subprocess.DEVNULL)


def fio_done(name, what, size, *options):
    """It goes over all of the volume, whose size nobody has told it."""
    done = fio(name, f"--rw={what}", *options)
    that(f"fio {what} {name}: {done.stdout[-500:]}{done.stderr}", done.returncode == 0)
    if done.returncode == 0:
        jobs = json.loads(done.stdout[done.stdout.index("{"):])["jobs"]
        moved = sum(job["write" if "write" in what else "read"]["io_bytes"] for job in jobs)
        that(f"fio {what} {name}: {moved} bytes", moved == size)


def fio_fails(name, text, *options):
    done = fio(name, *options)
    that(f"fio {options} {name}: {done.returncode} {done.stdout[-500:]}{done.stderr}", done.returncode != 0 and
         "vdisk: " in done.stdout + done.stderr and text in done.stdout + done.stderr)


def kinds(domain):
    """The four kinds are written to and read; what fio has written the tool finds, and the domain is whole."""
    kind = [(fmt, allocation) for fmt in ("raw", "qcow2") for allocation in ("sparse", "preallocated")]
    for number, (fmt, allocation) in enumerate(kind):
        said = tool("volume", "create", "-f", fmt, "-a", allocation, domain, str(SIZE)).stdout.strip()
        name = f"volume:{domain}/{said}"
        fio_done(name, "randwrite", SIZE, f"--buffer_pattern=0x{17 + number:02x}", "--end_fsync=1")
        fio_done(name, "read", SIZE)
        tool("io", "-c", f"read -P {17 + number} 0 {SIZE}", name)
        # Threads share the volume.
        fio_done(name, "randwrite", 2 * SIZE, "--thread", "--numjobs=2", "--group_reporting")
        # Its name without the volume: the leaf.
        fio_done(name.rpartition("/")[0], "read", SIZE)
    that("the domain is whole", "0 faults" in tool("domain", "check", domain).stdout)
    return said


def refused(domain, said):
    image, _, base = said.partition("/")
    tool("volume", "snapshot", f"{domain}/{image}")
    name = f"volume:{domain}/{image}/{base}"
    fio_fails(name, "read-only", "--rw=write")
    fio_done(name, "read", SIZE)
    fio_fails(name, "leave out format=", "--rw=read", "--format=qcow2")
    fio_fails(f"volume:{domain}/{image}/{image}", "has no volume", "--rw=read")
    fio_fails(f"volume:{domain}", "is a domain", "--rw=read")
    tool("volume", "update", "--legality", "ILLEGAL", f"{domain}/{image}")
    fio_fails(f"volume:{domain}/{image}", "ILLEGAL", "--rw=read")
    tool("volume", "update", "--legality", "LEGAL", f"{domain}/{image}")


def has_open(pid, path):
    try:
        return any(os.path.realpath(fd) == path for fd in pathlib.Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False


def in_use(domain):
    """While fio has a volume open nobody changes its image, as beside the tool; and afterwards one may."""
    said = tool("volume", "create", "-f", "qcow2", domain, str(SIZE)).stdout.strip()
    path = os.path.realpath(f"{domain}/images/{said}")
    image = f"{domain}/{said.partition('/')[0]}"
    words = words_of_fio(f"volume:{domain}/{said}", "--thread", "--rw=randread", "--time_based", "--runtime=600")
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
        try:
            # Not when it looks how large the volume is: then it does not stay open.
            seen = 0
            while seen < 20 and child.poll() is None:
                seen = seen + 1 if has_open(child.pid, path) else 0
                time.sleep(0.02)
            that("fio runs", child.poll() is None)
            that("a snapshot beside it", "in use" in tool("volume", "snapshot", image, code=1).stderr)
        finally:
            child.send_signal(signal.SIGINT)
    tool("volume", "snapshot", image)


def exported(folder):
    """An export, by each of its names: by threads that share it, on a connection each, too."""
    tool("create", "-q", "-f", "qcow2", "served", str(SIZE))
    socket = f"{folder}/served.sock"
    tool("nbd", "--fork", "--persistent", "--shared", "0", "--socket", socket, "--pid-file", "served.pid", "-x",
         "a b", "served")
    try:
        for number, name in enumerate((f"nbd+unix:///a%20b?socket={socket}", f"nbd:unix:{socket}:exportname=a b")):
            fio_done(name, "randwrite", SIZE, "--format=raw", f"--buffer_pattern=0x{49 + number}", "--end_fsync=1")
            fio_done(name, "randread", 2 * SIZE, "--format=raw", "--thread", "--numjobs=2", "--group_reporting")
            tool("io", "-f", "raw", "-c", f"read -P 0x{49 + number} 0 {SIZE}", name)
        fio_fails(f"nbd:unix:{socket}", "the server has no export", "--rw=read")
    finally:
        os.kill(int(pathlib.Path("served.pid").read_text()), signal.SIGTERM)
        while os.path.exists(socket): # it is removed when all is written
            time.sleep(0.01)


def main():
    if not shutil.which("fio"):
        print("skipped: there is no fio")
        return 77
    if not ENGINE:
        print("skipped: no fio engine is built: it takes the source of the installed fio, which bench/fio_source "
              "--get gets, before meson setup, and a build without sanitizers")
        return 77
    with tempfile.TemporaryDirectory(dir=os.getcwd()) as folder:
        os.chdir(folder)
        os.mkdir("images")
        domain = f"{folder}/images/{tool('domain', 'create', 'images').stdout.strip()}"
        said = kinds(domain)
        refused(domain, said)
        in_use(domain)
        exported(folder)
        os.chdir("/")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
