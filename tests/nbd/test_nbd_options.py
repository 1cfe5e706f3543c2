#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Options of `vdisk-io nbd` that qemu-nbd has: what clients find of them; and, where qemu-nbd is there, that it
has no option that is not known here.

usage: test_nbd_options.py VDISK_IO BENCH_PEER
"""
import contextlib
import fcntl
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))
sys.dont_write_bytecode = True
from client import *  # noqa: E402,F403

MIB = 1 << 20
check = Checks()


def run(*command, code=0, **how):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=300, check=False,
                          stdin=subprocess.DEVNULL, **how)
    check.same(f"{' '.join(map(str, command))}: {done.stdout[-300:]} {done.stderr[-300:]}", done.returncode, code)
    return done


def allocated(path):
    return os.stat(path).st_blocks * 512


def test_offset(tool, where):
    """What is before it is not there, for requests of each kind, on both formats."""
    for fmt in ("raw", "qcow2"):
        create(tool, where, "disk", "-f", fmt, "8M")
        run(tool, "io", "-q", "-f", fmt, "-c", "write -P 1 0 1M", "-c", "write -P 2 1M 1M", "-c",
            "write -P 3 7M 1M", where / "disk")
        with serving(tool, where, "-f", fmt, "-o", "1M", checks=check) as server:
            client = Client(server.path)
            client.negotiate(contexts=("base:allocation",))
            check.same("size", client.size, 7 * MIB)
            check.same("its begin", client.read(0, 4096), (0, b"\2" * 4096))
            check.same("its end", client.read(6 * MIB, MIB), (0, b"\3" * MIB))
            check.same("past it", client.read(7 * MIB - 1, 2)[0], EINVAL)
            check.same("write", client.write(2 * MIB, b"\4" * 65536), 0)
            check.same("zeros", client.do(ZEROES, 0, 65536)[0], 0)
            check.same("trim", client.do(TRIM, 6 * MIB, MIB)[0], 0)
            check.same("cache", client.do(CACHE, 0, MIB)[0], 0)
            error, found = client.do(STATUS, 0, 7 * MIB)
            check.same("status", (error, sum(length for length, _ in found[0][1]) <= 7 * MIB), (0, True))
            client.leave()
        run(tool, "io", "-q", "-r", "-f", fmt, "-c", "verify -P 1 0 1M", "-c", "verify -P 0 1M 64k",
            "-c", "verify -P 2 1088k 960k", "-c", "verify -P 4 3M 64k", where / "disk")
        os.unlink(where / "disk")
    create(tool, where, "disk", "-f", "raw", "8M")
    done = run(tool, "nbd", "-f", "raw", "-k", where / "s", "-o", "8M", where / "disk", code=1)
    check.same("an offset behind the end", "is not within its 8388608 bytes" in done.stderr, True)


def test_discard(tool, where):
    """ignore: trims do nothing, and zeros keep their space."""
    for how, less in (("unmap", True), ("on", True), ("ignore", False), ("off", False)):
        (where / "disk").write_bytes(b"\7" * (4 * MIB))
        before = allocated(where / "disk")
        with serving(tool, where, "-f", "raw", f"--discard={how}", checks=check) as server:
            client = Client(server.path)
            client.negotiate()
            check.same("trim", client.do(TRIM, MIB, MIB)[0], 0)
            check.same("zeros", client.do(ZEROES, 2 * MIB, MIB)[0], 0)
            check.same("flush", client.do(FLUSH)[0], 0)
            check.same(f"{how}: zeros are there", client.read(2 * MIB, MIB), (0, bytes(MIB)))
            if not less:
                check.same(f"{how}: it is as it was", client.read(MIB, MIB), (0, b"\7" * MIB))
            client.leave()
        check.same(f"{how}: it has less", allocated(where / "disk") < before, less)


def mapped(tool, path, offset):
    """What `map` says of there."""
    for extent in json.loads(run(tool, "map", "-U", "-f", "qcow2", "--output=json", path).stdout):
        if extent["start"] <= offset < extent["start"] + extent["length"]:
            return extent["data"], extent["zero"]
    return None


def test_zeroes(tool, where):
    """Writes of nothing but zeros are noted as zeros, and give back what is there, as is asked for."""
    for how in ("off", "on", "unmap"):
        for fmt in ("raw", "qcow2"):
            create(tool, where, "disk", "-f", fmt, "8M")
            run(tool, "io", "-q", "-f", fmt, "-c", "write -P 7 0 2M", where / "disk")
            before = allocated(where / "disk")
            with serving(tool, where, "-f", fmt, f"--detect-zeroes={how}", checks=check) as server:
                client = Client(server.path)
                client.negotiate()
                for at, data in ((MIB, bytes(MIB)), (4 * MIB, bytes(MIB)), (6 * MIB, bytes(65535) + b"\1"),
                                 (7 * MIB, b"\1" + bytes(65535)), (6 * MIB + 60000, b"\0")):
                    check.same(f"{len(data)} at {at}", client.write(at, data, FUA if at == MIB else 0), 0)
                check.same("flush", client.do(FLUSH)[0], 0)
                check.same("zeros", client.read(MIB, MIB), (0, bytes(MIB)))
                check.same("beside them", client.read(MIB - 1, 1), (0, b"\7"))
                check.same("zeros", client.read(4 * MIB, MIB), (0, bytes(MIB)))
                check.same("one byte behind", client.read(6 * MIB, 65536), (0, bytes(65535) + b"\1"))
                check.same("one byte before", client.read(7 * MIB, 65536), (0, b"\1" + bytes(65535)))
                client.leave()
            if fmt == "qcow2":
                check.same(f"{how}: what is noted", mapped(tool, where / "disk", 4 * MIB),
                           (True, False) if how == "off" else (False, True))
            elif how != "on":
                check.same(f"{how}: space is given back", allocated(where / "disk") < before + 2 * 65536,
                           how == "unmap")
            os.unlink(where / "disk")


def test_manner(tool, where):
    create(tool, where, "disk", "-f", "qcow2", "8M")
    for options in (["--aio=threads"], ["--aio=io_uring"], ["--aio=native"],
                    ["--aio=threads", "--cache=writeback"], ["--aio=native", "-n"],
                    ["--handshake-limit=0"], ["--handshake-limit", "3600"]):
        with serving(tool, where, *options, checks=check) as server:
            client = Client(server.path)
            client.negotiate()
            check.same(f"{options}", client.write(MIB, b"a" * 4096), 0)
            check.same(f"{options}", client.read(MIB, 4096), (0, b"a" * 4096))
            client.leave()
    for options, text in ((["--aio=posix"], "threads, native or io_uring"),
                          (["--discard=maybe"], "unmap or ignore"),
                          (["--detect-zeroes=yes"], "off, on or unmap"), (["-o", "-1"], "Invalid offset"),
                          (["--aio=native", "--cache=writeback"], "needs direct I/O"),
                          (["--detect-zeroes=unmap", "--discard=ignore"], "needs --discard=unmap"),
                          (["-s", "--image-opts"], "--snapshot is not for --image-opts"),
                          (["--handshake-timeout=0"], "Invalid time")):
        done = run(tool, "nbd", *options, "-k", where / "s", where / "disk", code=1)
        check.same(f"{options}: {done.stderr}", (text in done.stderr, len(done.stderr.splitlines())), (True, 1))


def test_refused(tool, where):
    for options, word in ((["-l", "name"], "--load-snapshot"),
                          (["--load-snapshot", "snapshot.id=1"], "--load-snapshot"),
                          (["-B", "b0"], "--bitmap"), (["-c", "/dev/nbd0"], "--connect"),
                          (["-d", "/dev/nbd0"], "--disconnect"), (["--tls-authz", "a"], "--tls-authz")):
        done = run(tool, "nbd", "-k", where / "s", *options, where / "disk", code=1)
        check.same(f"{options}: {done.stderr}", (word in done.stderr, len(done.stderr.splitlines()), done.stdout),
                   (True, 1, ""))
    check.same("no socket", (where / "s").exists(), False)


def test_snapshot(tool, where):
    """What clients write is not in the image, and is gone afterwards."""
    temporary = where / "temporary"
    temporary.mkdir()
    json_name = "json:" + json.dumps({"driver": "qcow2", "file": {"driver": "file", "filename": f"{where}/disk"}})
    for fmt, names in (("qcow2", ("disk",)), ("raw", ("disk",)), ("qcow2", (json_name,))):
        create(tool, where, "disk", "-f", fmt, "8M")
        run(tool, "io", "-q", "-f", fmt, "-c", "write -P 1 0 1M", where / "disk")
        before = (where / "disk").read_bytes()
        os.environ["TMPDIR"] = str(temporary)
        for options in ([], ["-f", fmt]):
            if options and names[0] != "disk":
                continue
            with serving(tool, where, "-s", *options, names=names, checks=check) as server:
                check.same("it has no name", list(temporary.iterdir()), [])
                client = Client(server.path)
                client.negotiate()
                check.same("the image's", client.read(0, 4096), (0, b"\1" * 4096))
                check.same("written", client.write(0, b"\2" * 4096), 0)
                check.same("written", client.write(5 * MIB, b"\3" * 4096, FUA), 0)
                check.same("read again", client.read(0, 4097), (0, b"\2" * 4096 + b"\1"))
                client.leave()
            check.same("the image is as it was", (where / "disk").read_bytes() == before, True)
        del os.environ["TMPDIR"]
        os.unlink(where / "disk")
    for folder_, text in (("/nowhere", "no temporary file"), (str(temporary), "No such file")):
        done = run(tool, "nbd", "-s", "-k", where / "s", where / "gone", code=1,
                   env={**os.environ, "TMPDIR": folder_})
        check.same(f"{folder_}: {done.stderr}", text in done.stderr, True)
    check.same("nothing is left", list(temporary.iterdir()), [])


def test_told(tool, where):
    """What it prints as JSON."""
    create(tool, where, "disk", "-f", "qcow2", "8M")
    process = subprocess.Popen([tool, "nbd", "--output=json", "-v", "-b", "127.0.0.1", "-p", "0", "-x", "a b",
                                "-o", "1M", "-r", "disk"], cwd=where, stdout=subprocess.PIPE, text=True)
    text, told = "", None
    while told is None:
        line = process.stdout.readline()
        check.same("it goes on", line != "", True)
        if not line:
            return
        text += line
        try:
            told = json.loads(text)
        except json.JSONDecodeError:
            pass
    port = told["port"]
    check.same("told", told, {"pid": process.pid, "port": port, "exports": [
        {"image": "disk", "name": "a b", "size": 7 * MIB, "read-only": True,
         "uri": f"nbd://127.0.0.1:{port}/a%20b"}]})
    run(tool, "io", "-r", "-q", "-f", "raw", "-c", "read -P 0 0 4k", told["exports"][0]["uri"])
    end = json.loads(process.stdout.read())
    check.same("it ends", process.wait(TIMEOUT), 0)
    check.same("in the end", (end["connections"] >= 1, end["errors"]), (True, 0))


def test_known(tool, peer):
    """All that qemu-nbd lists, of any version that is here; but what concerns itself."""
    own = {"--help", "--version", "--trace", "--selinux-label", "--list", "--tls-hostname"}
    ours = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", run(tool, "nbd", "--help").stdout))
    there = [p for p in (shutil.which("qemu-nbd"), peer and pathlib.Path(peer).parent / "qemu-nbd")
             if p and os.access(p, os.X_OK)]
    if not there:
        print("note: no qemu-nbd: its options are not compared")
    for program in there:
        text = run(program, "--help").stdout
        theirs = set(re.findall(r"^ +(?:-\w, +)?(--[a-z][a-z-]*)", text, re.M))
        check.same("its options are found", len(theirs) > 20, True)
        check.same(f"{program}: options that are not known", theirs - ours - own, set())


def test_pid_file(tool, where):
    """It is written over what another server has left, and over nothing else; nobody has to read a pipe."""
    (where / "disk").write_bytes(b"d" * MIB)
    (where / "notes").write_text("17 things\n")
    (where / "link").symlink_to("disk")
    (where / "left").write_text("12345\n")
    (where / "empty").write_text("")
    os.mkfifo(where / "pipe")
    for name in ("new", "left", "empty"):
        with serving(tool, where, "-f", "raw", "--pid-file", name, checks=check) as server:
            server.process.send_signal(signal.SIGTERM) # which comes after it has been written, or waits
            server.process.wait(TIMEOUT)
            check.same(name, (where / name).read_text(), f"{server.process.pid}\n")
    for name in ("disk", "link", "notes", "/dev/full"):
        done = run(tool, "nbd", "-f", "raw", "-k", "sock", "--pid-file", name, "disk", code=1, cwd=where)
        check.same(f"{name}: {done.stderr}", done.stderr.startswith(f"vdisk-io: {name}: cannot write"), True)
    check.same("what was there", ((where / "disk").read_bytes() == b"d" * MIB, (where / "notes").read_text()),
               (True, "17 things\n"))
    with serving(tool, where, "-f", "raw", "--pid-file", "pipe", checks=check):
        pass
    done = run(tool, "nbd", "-f", "raw", "-k", "", "disk", code=1, cwd=where)
    check.same(f"no path: {done.stderr}", "a socket needs a path" in done.stderr, True)


def test_signal_early(tool, where):
    """One that comes while an image cannot be opened, which would be tried for an hour."""
    name = "driver=raw,file.driver=nbd,file.server.type=unix,file.server.path=none,file.open-timeout=3600"
    for sig in (signal.SIGTERM, signal.SIGINT):
        with subprocess.Popen([tool, "nbd", "-k", "sock", "--image-opts", name], cwd=where, text=True,
                              stderr=subprocess.PIPE) as server:
            status = pathlib.Path(f"/proc/{server.pid}/status")
            while not int(status.read_text().partition("SigBlk:")[2].split()[0], 16):
                time.sleep(0.02)
            server.send_signal(sig)
            try:
                said = server.communicate(timeout=TIMEOUT)[1]
            except subprocess.TimeoutExpired:
                server.kill()
                said = "does not end"
            check.same(f"{sig} early: {said}", (server.returncode, "told to end" in said), (1, True))


def test_two_at_once(tool, where):
    """A server that begins while another has its socket and does not listen yet leaves that to it. Here the other
    has the folder's lock, as ours do; that the server waits for it is given half a second to be untrue."""
    path, socket_of = where / "two", socket.socket(socket.AF_UNIX)
    lock = os.open(where, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    socket_of.bind(str(path))
    inode = path.stat().st_ino
    with subprocess.Popen([tool, "nbd", "-f", "raw", "-k", path, where / "disk"], stderr=subprocess.PIPE,
                          text=True) as server:
        time.sleep(0.5)
        check.same("the other's socket", path.stat().st_ino, inode)
        socket_of.listen()
        os.close(lock)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(TIMEOUT)
        if server.poll() is None:
            server.kill()
        said = server.stderr.read()
        check.same(f"the second: {said}", (server.returncode, "already in use" in said), (1, True))
    check.same("the other's socket, then", path.stat().st_ino, inode)
    socket_of.close()


def main():
    tool = str(pathlib.Path(sys.argv[1]).resolve())
    peer = subprocess.run([sys.argv[2]], capture_output=True, text=True, check=False).stdout.strip()
    with folder() as where:
        test_offset(tool, where)
        test_discard(tool, where)
        os.unlink(where / "disk")
        test_zeroes(tool, where)
        test_manner(tool, where)
        test_refused(tool, where)
        os.unlink(where / "disk")
        test_snapshot(tool, where)
        test_told(tool, where)
        test_pid_file(tool, where)
        test_two_at_once(tool, where)
        test_signal_early(tool, where)
        test_known(tool, peer)
    return check.finish()


if __name__ == "__main__":
    sys.exit(main())
