#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
--job FILE: stopped in each way, the same command goes on, and nothing else does; job status and cancel; what
progress looks like, and what memory is bounded by.
"""
import fcntl
import json
import os
import pty
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time

from checks import TOOL, end, expect as check, refused, remove, run, same, works

MIB = 1 << 20
SIZE = 48 * MIB
SLOW = ["-r", "3M"] # so that there is something to stop


def start(*arguments, **how):
    return subprocess.Popen([TOOL, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, **how)


def rest_of(child):
    return [text.decode() for text in child.communicate()]


def status(job="job"):
    return json.loads(works("job", "status", "--output=json", job).stdout)


def wait_for(condition):
    end = time.monotonic() + 120
    while not condition():
        if time.monotonic() > end:
            sys.exit("something does not happen")
        time.sleep(0.01)


def reached(job, least):
    """It is at work, and has done so much."""
    def look():
        r = run("job", "status", "--output=json", job)
        return r.returncode == 0 and json.loads(r.stdout)["bytes_done"] >= least
    wait_for(look)


def stop(child, number):
    child.send_signal(number)
    out, err = rest_of(child)
    return child.returncode, out, err


def make_source(name="source", size=SIZE):
    with open(name, "wb") as f:
        f.truncate(size)
        for at in range(0, size, 2 * MIB):
            f.seek(at)
            f.write(os.urandom(MIB))


# ---- going on ------------------------------------------------------------------------------------------------

def test_convert(way):
    remove("job", "target")
    command = ["convert", "--job", "job", *way, "source", "target"]
    child = start(*command, *SLOW)
    reached("job", 4 * MIB)
    code, out, err = stop(child, signal.SIGINT)
    check("SIGINT ends with one line", code == 1 and out == "" and err.count("\n") == 1, f"{code} {err}")
    s = status()
    check("it is interrupted", s["state"] == "interrupted" and 4 * MIB <= s["bytes_done"] < SIZE, s)
    check("it keeps what was done", os.path.exists("target"))
    r = works(*command)
    check("it says what it skips", re.search(r"job: skipped [\d.]+ MiB already done\n", r.stderr) and
          r.stderr.count("\n") == 1, r.stderr)
    same("source", "target")
    s = status()
    check("it is done", s["state"] == "done" and s["bytes_done"] == s["bytes_total"] == SIZE, s)
    r = works(*command)
    check("it says that it was done", "done already" in r.stderr, r.stderr)
    r = works(*command, "-q")
    check("-q does not", r.stderr == "", r.stderr)


def test_ways():
    for way in ([], ["-O", "qcow2"], ["-O", "qcow2", "-c"], ["-O", "qcow2", "-o", "preallocation=metadata"],
                ["-S", "0"]):
        test_convert(way)
    remove("job", "target")
    works("create", "-q", "-f", "qcow2", "target", str(SIZE))
    child = start("convert", "--job", "job", "-n", "-O", "qcow2", "source", "target", *SLOW)
    reached("job", 4 * MIB)
    stop(child, signal.SIGKILL)
    check("what was killed says so", status()["state"] == "killed")
    works("convert", "--job", "job", "-n", "-O", "qcow2", "source", "target")
    same("source", "target")


def test_checksum():
    want = works("checksum", "--manifest", "sums", "--block-size=1M", "source").stdout
    for number in (signal.SIGINT, signal.SIGKILL):
        remove("job")
        command = ["checksum", "--job", "job", "--block-size=1M", "--manifest", "again", "source"]
        child = start(*command, *SLOW)
        reached("job", 4 * MIB)
        stop(child, number)
        check("the digests are kept", os.path.getsize("job.blocks") > 0)
        with open("job.blocks", "rb") as f:
            kept = f.read()
        with open("job.blocks", "wb") as f: # what has been counted is looked at
            f.write(b"f" + kept[1:] if kept[:1] != b"f" else b"0" + kept[1:])
        refused("job.blocks: is not what was written; remove job to begin again", *command, code=2)
        with open("job.blocks", "wb") as f:
            f.write(kept + b"something that was not counted")
        check("the same comes out", works(*command).stdout == want)
        check("the same manifest", open("sums", "rb").read() == open("again", "rb").read())
        check("the digests are gone", not os.path.exists("job.blocks"))
        r = works(*command)
        check("it is told again", r.stdout == want and "done already" in r.stderr, r.stdout)
    remove("job")
    works("checksum", "-q", "--job", "job", "source")
    check("nor are they there when none were counted before the end", not os.path.exists("job.blocks"))
    remove("job")
    with open("source", "r+b") as f:
        f.seek(40 * MIB)
        f.write(b"x")
    command = ["checksum", "--job", "job", "--verify", "sums", "source"]
    child = start(*command, *SLOW)
    reached("job", 4 * MIB)
    stop(child, signal.SIGTERM)
    for _ in range(2):
        check("it differs", run(*command).returncode == 1)
    make_source()


def test_order():
    """What FILE, its digests, and a manifest are renamed to, or say, is on disk before."""
    if subprocess.run(["strace", "true"], capture_output=True, check=False).returncode != 0:
        print("no strace: what is flushed is not looked at")
        return
    remove("job", "sums", "target")
    for command in (["checksum", "--block-size=64k", "source"], ["convert", "-O", "qcow2", "source", "target"]):
        r = subprocess.run(["strace", "-f", "-y", "-qq", "-o", "calls", "-e", "trace=write,fsync,rename", TOOL,
                            command[0], "--job", "job", "--manifest", "sums", *command[1:]], capture_output=True,
                           check=False, env={**os.environ, "ASAN_OPTIONS": "detect_leaks=0"})
        check(f"traced: {command}", r.returncode == 0, r.stderr)
        unsynced, renamed = set(), []
        with open("calls") as f:
            for line in f:
                at = re.search(r"(write|fsync)\(\d+<([^>]*)>", line)
                to = re.search(r'rename\("([^"]*)", "([^"]*)"', line)
                if at and at[1] == "write":
                    unsynced.add(os.path.basename(at[2]))
                elif at:
                    unsynced.discard(os.path.basename(at[2]))
                elif to:
                    renamed.append(os.path.basename(to[1]))
                    waits = {renamed[-1]}
                    if renamed[-1] == "job.next" and "sums.new" not in renamed: # in the end they are not needed
                        waits.add("job.blocks")
                    check(f"{renamed[-1]} is renamed when all is on disk", not waits & unsynced, line)
        check("they are renamed", renamed.count("job.next") > 2 and renamed.count("sums.new") == 1, renamed)
        remove("job", "sums", "target")


def make_chain():
    remove("base", "top", "other")
    works("create", "-q", "-f", "qcow2", "base", str(SIZE))
    works("create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", "top")
    works("convert", "-n", "-O", "qcow2", "source", "top")


def test_commit():
    for more in ([], ["-d"]):
        for number in (signal.SIGINT, signal.SIGKILL):
            make_chain()
            remove("job")
            child = start("commit", "--job", "job", *more, "top", *SLOW)
            reached("job", 4 * MIB)
            stop(child, number)
            same("source", "top")
            works("commit", "--job", "job", *more, "top")
            same("source", "base")
            same("source", "top")
            mapped = json.loads(works("map", "--output=json", "top").stdout)
            check("top is empty, or kept", any(e["depth"] == 0 for e in mapped) == bool(more), mapped[:3])


def test_rebase():
    for backing in ("", "other"):
        for number in (signal.SIGINT, signal.SIGKILL):
            make_chain()
            works("commit", "top")
            works("create", "-q", "-f", "qcow2", "other", str(SIZE))
            remove("job")
            command = ["rebase", "--job", "job", "-b", backing, "-F", "qcow2", "top"]
            child = start(*command, *SLOW)
            reached("job", 4 * MIB)
            stop(child, number)
            same("source", "top")
            works(*command)
            remove("base")
            same("source", "top")
            works("check", "-q", "-r", "leaks", "top")


# ---- what is refused -----------------------------------------------------------------------------------------

def stopped(*command):
    remove("job", "target")
    child = start(*command, *SLOW)
    reached("job", 4 * MIB)
    stop(child, signal.SIGINT)


def test_refused():
    command = ["convert", "--job", "job", "-O", "qcow2", "source", "target"]
    stopped(*command)
    for other in (["-c"], ["-S", "64k"], ["-o", "cluster_size=4k"]):
        refused("other arguments", *command, *other)
    refused("other arguments", "convert", "--job", "job", "-O", "qcow2", "source", "elsewhere")
    refused("of another command: convert", "commit", "--job", "job", "target")
    r = run("checksum", "--job", "job", "source")
    check("checksum has its own code", r.returncode == 2 and "of another command" in r.stderr, r.stderr)

    before = os.stat("source")
    os.utime("source", ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    refused("source has been written to since", *command)
    os.utime("source", ns=(before.st_atime_ns, before.st_mtime_ns))
    os.rename("target", "away")
    refused("target is not there any more", *command)
    make_source("target", MIB)
    refused("target is another file now", *command)
    os.rename("away", "target")
    with open("source", "ab") as f:
        f.write(bytes(512))
    refused("source has another size now", *command)
    os.truncate("source", SIZE)
    os.utime("source", ns=(before.st_atime_ns, before.st_mtime_ns))
    check("a refusal changes nothing", status()["state"] == "interrupted")
    works(*command, "-p", "-m", "3", "-W", "--idle", "--max-memory=64M", "-r", "10G")
    same("source", "target")


def overwrite(name, at=MIB):
    """In place, as cp does: it is the same file."""
    with open(name, "r+b") as f:
        f.seek(at)
        f.write(b"somebody's")


def test_target_changed():
    """Somebody writes to the target of a job that has stopped: what was done is not there any more."""
    lost = "does not have what was written to it"
    for number in (signal.SIGINT, signal.SIGKILL):
        command = ["convert", "--job", "job", "-O", "raw", "source", "target"]
        remove("job", "target")
        child = start(*command, *SLOW)
        reached("job", 4 * MIB)
        stop(child, number)
        overwrite("target")
        refused(lost, *command)
        refused(lost, *command) # nothing has been forgotten
        make_source("other", 8 * MIB)
        command = ["convert", "--job", "job", "-O", "qcow2", "source", "target"]
        remove("job", "target")
        child = start(*command, *SLOW)
        reached("job", 4 * MIB)
        stop(child, number)
        works("convert", "-O", "qcow2", "other", "target")
        refused(lost, *command)
        works("compare", "-q", "other", "target")
        make_chain()
        remove("job")
        with open("base", "rb") as f:
            before = f.read()
        child = start("commit", "--job", "job", "top", *SLOW)
        reached("job", 4 * MIB)
        stop(child, number)
        with open("base", "wb") as f:
            f.write(before)
        refused(lost, "commit", "--job", "job", "top")
        same("source", "top")
        remove("job")
        works("commit", "--job", "job", "top")
        same("source", "base")


def test_data_file_changed():
    """What a qcow2 target has its data in is as much the target."""
    command = ["convert", "--job", "job", "-O", "qcow2", "-o", "data_file=data", "source", "target"]
    remove("job", "target", "data")
    child = start(*command, *SLOW)
    reached("job", 4 * MIB)
    stop(child, signal.SIGINT)
    overwrite("data", 2 * MIB)
    refused("does not have what was written to it", *command)
    remove("job", "target", "data")


def test_damaged_source():
    """What cannot be found of a source does not keep a salvage from going on."""
    remove("job", "target", "damaged")
    works("convert", "-O", "qcow2", "-o", "cluster_size=4k", "source", "damaged")
    with open("damaged", "r+b") as f:
        f.seek(40)
        l1 = int.from_bytes(f.read(8), "big")
        f.seek(l1)
        entry = int.from_bytes(f.read(8), "big")
        f.seek(l1)
        f.write((entry | 0x200).to_bytes(8, "big"))
    command = ["convert", "-q", "--job", "job", "--salvage", "-O", "raw", "damaged", "target"]
    child = start(*command, *SLOW)
    reached("job", 8 * MIB)
    stop(child, signal.SIGKILL)
    works(*command)
    with open("source", "rb") as a, open("target", "rb") as b:
        skip = 2 * MIB # what one L2 table maps
        check("the rest is there", a.read()[skip:] == b.read()[skip:])


def test_done():
    """What was done is said to be only where it would be done again."""
    command = ["convert", "--job", "job", "-O", "raw", "source", "target"]
    remove("job", "target")
    works(*command)
    works(*command)
    os.rename("target", "away")
    refused("was done: ", *command)
    os.rename("away", "target")
    before = os.stat("source")
    os.utime("source", ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    refused("source has been written to since", *command)
    os.utime("source", ns=(before.st_atime_ns, before.st_mtime_ns))
    works(*command)
    for name in (b"a\xff", b"a\xfe"): # in JSON they are the same
        with open(name, "wb") as f:
            f.write(os.urandom(MIB))
    remove("job", "target")
    works("convert", "--job", "job", "-O", "raw", b"a\xff", "target")
    refused("with other arguments", "convert", "--job", "job", "-O", "raw", b"a\xfe", "target")


def test_files():
    command = ["convert", "--job", "job", "-O", "qcow2", "source", "target"]
    for content in ("{}", "something", '{"vdisk-io job": "99"}'):
        remove("job", "target")
        with open("job", "w") as f:
            f.write(content)
        refused("job: ", *command)
        check("it stays", open("job").read() == content and not os.path.exists("target"))
    for name in ("job", "link"):
        remove("job", "target", "link")
        open("job", "w").close()
        os.symlink("job", "link")
        works("convert", "--job", name, "-O", "qcow2", "source", "target")
        check("a link stays", os.path.islink("link") and status()["state"] == "done")
    refused("No such file", "job", "status", "nothing")
    refused("is not a job's file", "job", "status", "source")
    refused("is not at work: done", "job", "cancel", "job")
    refused("expecting 'status' or 'cancel'", "job", "begin", "job")
    remove("job", "target")
    refused("nowhere", "convert", "--job", "job", "nowhere", "target")
    check("nothing was begun", not os.path.exists("job") and not os.path.exists("target"))
    refused("No such file", "convert", "--job", "no/such/job", "source", "target")
    for job in ("source", "target"):
        refused("an image of this command", "convert", "--job", job, "source", "target")
    check("the source stays", os.path.getsize("source") == SIZE and not os.path.exists("target"))
    refused("a pipe (-) cannot", "convert", "--job", "job", "source", "-")


def test_two():
    command = ["convert", "--job", "job", "-O", "qcow2", "source", "target"]
    remove("job", "target")
    child = start(*command, *SLOW)
    reached("job", MIB)
    refused(f"process {child.pid} has it", *command)
    s = status()
    check("it is running", s["state"] == "running" and s["pid"] == child.pid, s)
    check("its arguments", s["kind"] == "convert" and
          s["arguments"] == ["--target-format=qcow2", "source", "target"], s)
    check("in words", f"running (process {child.pid})" in works("job", "status", "job").stdout)
    r = works("job", "cancel", "job")
    check("it has ended when cancel has", child.poll() is not None or child.wait(5) is not None)
    check("cancel tells", "state: interrupted" in r.stdout, r.stdout)
    _, err = rest_of(child)
    check("the other one says so", child.returncode == 1 and err.count("\n") == 1, err)
    refused("is not at work: interrupted", "job", "cancel", "job")
    works(*command)
    same("source", "target")


def test_race():
    """All at once: one has it, the others are refused, or find all of it done."""
    for _ in range(5):
        remove("job", "target")
        children = [start("convert", "--job", "job", "-O", "qcow2", "source", "target") for _ in range(6)]
        ended = [(rest_of(child)[1], child.returncode) for child in children]
        check("one has it", any(code == 0 for _, code in ended), ended)
        for err, code in ended:
            check("others are refused", code == 0 and ("done already" in err or err == "") or
                  code == 1 and "has it" in err and err.count("\n") == 1, err)
        check("one has done it", sum(code == 0 and err == "" for err, code in ended) == 1, ended)
        same("source", "target")
        works("check", "-q", "target")


def test_zeros_no_more():
    """A target of zeros has been written to, and FILE does not say how far: it is not taken for zeros again."""
    make_source("changing", 16 * MIB)
    for way in ([], ["--salvage"]):
        remove("job", "target")
        with open("target", "wb") as f:
            f.truncate(16 * MIB)
        command = ["convert", "--job", "job", *way, "-n", "--target-is-zero", "-O", "raw", "changing", "target"]
        child = start(*command, *SLOW)
        reached("job", 1)
        code, _, _ = stop(child, signal.SIGKILL)
        check("it was killed", code == -signal.SIGKILL)
        with open("job", encoding="utf-8") as f:
            state = json.load(f)
        state["bytes_done"] = 0 # as if it had been killed earlier
        with open("job", "w", encoding="utf-8") as f:
            json.dump(state, f)
        with open("target", "rb") as f:
            check("it has written", any(f.read()))
        with open("zeros", "wb") as f:
            f.truncate(16 * MIB)
        os.rename("changing", "before")
        os.rename("zeros", "changing")
        works(*command)
        same("changing", "target")
        os.rename("before", "changing")


def test_full():
    """No space, and then some: by a limit to the file's size."""
    command = ["convert", "--job", "job", "-t", "writeback", "-O", "qcow2", "source", "target"]
    remove("job", "target")
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (12 * MIB, resource.RLIM_INFINITY))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    child = start(*command, preexec_fn=limit)
    _, err = rest_of(child)
    s = status()
    lines = [line for line in err.splitlines() if not line.startswith("vdisk-io: hint: ")]
    check("it fails in one line", child.returncode == 1 and len(lines) == 1, err)
    check("it has failed", s["state"] == "failed" and "File too large" in s["error"], s)
    check("what was done is kept", os.path.exists("target"), s)
    works(*command)
    same("source", "target")


def test_no_stray_signal():
    """A file that names somebody else, and is locked: nobody gets a signal."""
    victim = subprocess.Popen(["sleep", "100"])
    with open("/proc/sys/kernel/random/boot_id") as f:
        boot = f.read().strip()
    with open("stray", "w") as f:
        json.dump({"vdisk-io job": "1", "state": "running", "pid": victim.pid, "pid_start": 1, "boot": boot}, f)
    with open("stray", "r+") as f:
        fcntl.fcntl(f, getattr(fcntl, "F_OFD_SETLK", 37), # struct flock: l_type, l_whence, l_start, l_len, l_pid
                    b"\x01\x00\x00\x00\x00\x00\x00\x00" + bytes(24))
        refused("is not the one it names", "job", "cancel", "stray")
    refused("is not at work: killed", "job", "cancel", "stray")
    time.sleep(0.05)
    check("it lives", victim.poll() is None)
    victim.kill()
    victim.wait()


def test_cancel_of_deaf():
    """cancel reaches what was started with all signals ignored, as by a shell's trap '' or nohup."""
    remove("job", "target")
    command = ["convert", "--job", "job", "source", "target"]
    number = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2)

    def deaf():
        for one in number:
            signal.signal(one, signal.SIG_IGN)
    child = start(*command, "-r", "2M", preexec_fn=deaf)
    reached("job", MIB)
    for one in number[:3]:
        child.send_signal(one)
    r = works("job", "cancel", "job")
    check("it was cancelled", "state: interrupted" in r.stdout and child.wait() == 1, r.stdout)
    rest_of(child)
    works(*command)
    same("source", "target")


def test_refused_at_once():
    """What is refused before it does anything leaves nothing; what has been there stays."""
    remove("job", "target", "busy")
    works("create", "-q", "-f", "qcow2", "busy", str(SIZE))
    holder = subprocess.Popen([TOOL, "io", "busy"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    holder.stdin.write(b"write -P 1 0 64k\n")
    holder.stdin.flush()
    holder.stdout.readline()
    for command, code in ((["convert", "-O", "qcow2", "source", "busy"], 1),
                          (["convert", "-n", "-O", "qcow2", "source", "busy"], 1), (["checksum", "busy"], 2)):
        refused("locked for writing", command[0], "--job", "job", *command[1:], code=code)
        check(f"nothing is left: {command}", not [x for x in os.listdir() if x.startswith("job")], os.listdir())
    open("job", "w").close()
    refused("locked for writing", "checksum", "--job", "job", "busy", code=2)
    check("what was there stays", os.path.exists("job"))
    holder.communicate()
    remove("job", "busy")


def test_nameless():
    for command in (["checksum", "--job=", "source"], ["checksum", "--manifest", "", "source"],
                    ["checksum", "--verify", "", "source"]):
        refused(f"{command[1].rstrip('=')} takes the name of a file, not ''", *command, code=2)
    refused("--job takes the name of a file, not ''", "convert", "--job", "", "source", "target")
    refused("--manifest takes the name of a file, not ''", "convert", "--manifest", "", "source", "target")


# ---- how it works beside others ------------------------------------------------------------------------------

def peak_of(*arguments):
    """Peak memory of the command, in bytes."""
    pid = os.fork()
    if pid == 0:
        null = os.open("/dev/null", os.O_WRONLY)
        os.dup2(null, 1)
        os.execv(TOOL, [TOOL, *arguments])
    _, code, usage = os.wait4(pid, 0)
    check(" ".join(arguments), code == 0)
    return usage.ru_maxrss * 1024


def make_bulky(name, size, random_part):
    """Data all over, of which so much in each 4 KiB gets no shorter."""
    with open(name, "wb") as f:
        for _ in range(size // MIB):
            f.write(b"".join(os.urandom(random_part) + bytes(4096 - random_part) for _ in range(MIB // 4096)))


def test_memory_packed(counts):
    """Buffers, streams and what they are made by, in both directions: whether or not the data gets shorter."""
    make_bulky("hard", 80 * MIB, 4096)
    make_bulky("soft", 80 * MIB, 2048)
    for bound in (24 * MIB, 64 * MIB):
        limit = ["--max-memory", str(bound)]
        for source, size, kind in (("hard", "2M", "zlib"), ("soft", "2M", "zstd"), ("hard", "64K", "zstd")):
            remove("packed", "plain")
            how = ["-O", "qcow2", "-o", f"cluster_size={size},compression_type={kind}"]
            for arguments in (["convert", "-c", *how, source, "packed"], ["convert", "-c", *how, source, "-"],
                              ["convert", "-c", *how, "packed", "-"], ["convert", "-O", "raw", "packed", "plain"],
                              ["convert", "-c", *how, "packed", "again"], ["checksum", "packed"],
                              ["compare", "packed", source]):
                peak = peak_of(arguments[0], *limit, *arguments[1:])
                check(f"{' '.join(arguments)} in {bound // MIB} MiB takes {peak // MIB}",
                      peak <= bound + 16 * MIB or not counts) # the program itself, and what we had before exec()
    remove("hard", "soft", "packed", "plain", "again")


def test_memory():
    with open(TOOL, "rb") as f:
        counts = b"__asan_init" not in f.read() # which takes some of its own
    test_memory_packed(counts)

    def make_all():
        make_chain()
        works("convert", "-O", "qcow2", "source", "other")

    make_all()
    for bound in (32 * MIB, 64 * MIB):
        limit = ["--max-memory", str(bound)]
        for arguments in (["convert", "-O", "qcow2", "source", "target"], ["compare", "source", "other"],
                          ["convert", "-O", "qcow2", "-c", "other", "target"], ["checksum", "other"],
                          ["dd", "-O", "qcow2", "if=source", "of=target"], ["dd", "if=other", "of=target"],
                          ["convert", "-O", "qcow2", "--manifest", "m", "source", "target"],
                          ["measure", "-O", "qcow2", "other"], ["amend", "-o", "refcount_bits=64", "other"],
                          ["resize", "--preallocation=metadata", "other", "+1G"],
                          ["commit", "-d", "top"], ["rebase", "-b", "", "top"]):
            peak = peak_of(arguments[0], *limit, *arguments[1:])
            check(f"{arguments[0]} in {bound // MIB} MiB takes {peak // MIB}", peak <= bound or not counts)
        make_all()
    for verb, *arguments in (["convert", "source", "target"], ["compare", "source", "other"], ["commit", "top"],
                             ["rebase", "-b", "", "top"], ["dd", "if=source", "of=target"], ["measure", "other"],
                             ["amend", "-o", "compat=1.1", "other"], ["resize", "other", "1G"]):
        refused("--max-memory: 1 MiB is too little", verb, "--max-memory=1M", *arguments)
        refused("--max-memory takes a size", verb, "--max-memory=x", *arguments)
    refused("--max-memory: 1 MiB is too little", "checksum", "other", "--max-memory=1M", code=2)


def test_idle():
    remove("target")
    child = start("convert", "--idle", "-O", "qcow2", "source", "target", *SLOW)
    wait_for(lambda: os.path.exists("target"))
    check("idle", os.sched_getscheduler(child.pid) == os.SCHED_IDLE or
          os.getpriority(os.PRIO_PROCESS, child.pid) == 19)
    child.communicate()
    same("source", "target")
    for arguments in (["measure", "--idle", "target"], ["dd", "--idle", "if=target", "of=other"],
                      ["amend", "--idle", "-o", "compat=1.1", "target"], ["resize", "--idle", "target", "+1M"]):
        works(*arguments)


def test_progress():
    remove("target")
    form = re.compile(r"(    \((\d?\d\.\d\d|100\.00)/100%\)\r)+")
    r = works("convert", "-p", "-O", "qcow2", "source", "target", *SLOW)
    check("in a pipe it is QEMU's", re.fullmatch(form.pattern + r"\n", r.stdout), repr(r.stdout))
    r = works("convert", "-O", "qcow2", "source", "target")
    check("without -p nothing", r.stdout == "", r.stdout)
    for arguments in (["convert", "-O", "qcow2", "source", "target"], ["checksum", "-q", "source"],
                      ["compare", "-q", "source", "source"]):
        child = start(*arguments, *SLOW)
        wait_for(lambda: handles(child.pid))
        out, err = stop_with_question(child)
        shown, other = (err, out) if arguments[0] == "checksum" else (out, err)
        check(f"asked: {arguments[0]}", form.fullmatch(shown) and shown.count("\r") >= 1, repr(shown))
        check(f"asked: {arguments[0]}: and nothing else", other == "", repr(other))
    r = works("checksum", "-p", "source")
    check("a digest is alone", re.fullmatch(r"[0-9a-f]{64}  source\n", r.stdout) and "100.00/100" in r.stderr, r)
    main, other = pty.openpty()
    child = subprocess.Popen([TOOL, "convert", "-p", "-O", "qcow2", "source", "target", *SLOW], stdout=other)
    os.close(other)
    shown = b""
    try:
        while piece := os.read(main, 4096):
            shown += piece
    except OSError:
        pass
    check("a person", child.wait() == 0)
    check("bytes, rate, and time left",
          re.search(rb"[\d.]+ MiB of 48 MiB \([\d.]+ %\), [\d.]+ MiB/s, 0:0\d left", shown), shown)


def handles(pid):
    """Does it look for SIGUSR1?"""
    with open(f"/proc/{pid}/status") as f:
        caught = int(re.search(r"SigCgt:\s*([0-9a-f]+)", f.read()).group(1), 16)
    return caught & 1 << signal.SIGUSR1 - 1


def stop_with_question(child):
    child.send_signal(signal.SIGUSR1)
    out, err = rest_of(child)
    check("being asked is no failure", child.returncode == 0, err)
    return out, err


def main():
    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)
        os.environ["VDISK_IO_JOB_INTERVAL"] = "10"
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        make_source()
        for test in (test_ways, test_checksum, test_order, test_commit, test_rebase, test_refused,
                     test_target_changed, test_data_file_changed, test_damaged_source, test_done,
                     test_files, test_two, test_race, test_zeros_no_more,
                     test_full, test_no_stray_signal, test_cancel_of_deaf, test_refused_at_once, test_nameless,
                     test_memory, test_idle, test_progress):
            test()
        os.chdir("/")
    return end()


sys.exit(main())
