#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Volumes of a domain in a folder served to NBD clients: `volume serve`; who else may have the image meanwhile;
what a kill leaves. Clients are one of ours by hand, qemu-io, nbdinfo and nbdcopy, where they are there.

usage: test_domain_serve.py VDISK_IO
"""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import lib  # noqa: E402
from lib import MIB, Holder, chain, check, make, refused, run, told, volume, works  # noqa: E402
from serving import LATE, Server  # noqa: E402

missing = {program for program in ("qemu-io", "nbdinfo", "nbdcopy") if not shutil.which(program)}


def other(*command):
    """A program that others made, if it is there."""
    if command[0] in missing:
        return None
    r = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False, timeout=LATE,
                       stdin=subprocess.DEVNULL)
    check(" ".join(map(str, command)), r.returncode == 0 and "verification failed" not in r.stdout,
          f"{r.returncode} {r.stdout}{r.stderr}")
    return r.stdout


def sound(what, path):
    r = run("domain", "check", path)
    check(f"{what}: no fault", r.returncode == 0 and " 0 faults" in r.stdout, r.stdout + r.stderr)


def reads(name, *commands):
    works("io", "-q", "-r", *(x for c in commands for x in ("-c", c)), f"volume:{name}")


def test_kinds():
    """Each of the four kinds, written to by clients, is what they have written."""
    path = make("kinds")
    for fmt in ("raw", "qcow2"):
        for kind in ("sparse", "preallocated"):
            image, name = volume("create", "-f", fmt, "-a", kind, path, "8M")
            server = Server("-t", "-e", "0", f"{path}/{image}")
            export = server.told["exports"][0]
            check("what is told", (export["image"], export["volume"], export["size"], export["name"],
                                   export["read-only"], export["uri"], server.told["pid"]) ==
                  (image, name, 8 * MIB, "", False, server.uri(), server.process.pid), server.told)
            client = server.client()
            check("written by hand", client.write(MIB, b"\5" * 4096) == 0)
            check("read by hand", client.read(MIB, 4096) == (0, b"\5" * 4096))
            client.leave()
            works("io", "-q", "-f", "raw", "-c", "write -P 7 3M 64k", "-c", "flush", server.uri())
            other("qemu-io", "-f", "raw", "-c", "write -P 6 2M 1M", "-c", "write -z 5M 1M", "-c", "discard 6M 1M",
                  "-c", "read -P 5 1M 4096", server.uri())
            said = other("nbdinfo", "--json", server.uri())
            check("nbdinfo", said is None or json.loads(said)["exports"][0]["export-size"] == 8 * MIB, said)
            other("nbdcopy", server.uri(), "copy")
            server.stop(f"{fmt} {kind}")
            reads(f"{path}/{image}", "verify -P 5 1M 4096", "verify -P 7 3M 64k",
                  *(["verify -P 6 2M 1M"] if "qemu-io" not in missing else []))
            if "nbdcopy" not in missing:
                works("compare", "-f", "raw", "copy", f"volume:{path}/{image}")
    sound("kinds", path)


def test_names():
    """One has the empty name, several have their own, or those that they are given."""
    path = make("names")
    images = [volume("create", "-f", "qcow2", path, f"{n}M") for n in (1, 2)]
    names = [f"{path}/{images[0][0]}", f"volume:{path}/{'/'.join(images[1])}"]
    for options, exports in (([], ["/".join(pair) for pair in images]), (["-x", "a b", "-x", ""], ["a b", ""])):
        server = Server("-t", "-D", "words", *options, *names)
        check("names", [e["name"] for e in server.told["exports"]] == exports, server.told)
        for n, name in enumerate(exports):
            client = server.client(name)
            check("sizes", client.size == (n + 1) * MIB, client.size)
            client.leave()
        check("a URI has no blank", " " not in "".join(e["uri"] for e in server.told["exports"]))
        works("io", "-q", "-f", "raw", "-r", "-c", "verify -P 0 0 1M", server.told["exports"][0]["uri"])
        server.stop("names")
    r = subprocess.Popen([lib.TOOL, "volume", "serve", "-p", "0", "-b", "127.0.0.1", names[0]], text=True,
                         stdout=subprocess.PIPE)
    lines = [r.stdout.readline().strip() for _ in range(2)]
    port = lines[0].removeprefix("listening on port ")
    check("for people", port.isdigit() and lines[1] == f"nbd://127.0.0.1:{port}/", lines)
    works("io", "-q", "-f", "raw", "-r", "-c", "verify -P 0 0 1M", lines[1])
    check("it ends with its client", r.wait(LATE) == 0 and r.stdout.read() == "")


def test_locked():
    """Nobody else has the image meanwhile; who looks at metadata is not kept off."""
    path = make("locked")
    image, name = volume("create", "-f", "qcow2", path, "4M")
    full = f"{path}/{image}"
    server = Server("-t", full)
    holder = f"is in use by process {server.process.pid} (vdisk-io)"
    for command in (("volume", "serve", "-k", "other", full), ("volume", "serve", "-k", "other", "-r", full),
                    ("io", "-c", "read 0 4k", f"volume:{full}"), ("io", "-r", "-c", "read 0 4k", f"volume:{full}"),
                    ("volume", "snapshot", full), ("volume", "resize", full, "8M"),
                    ("volume", "delete", f"{full}/{name}"), ("image", "delete", full)):
        refused(holder, *command)
    check("no socket is left", not os.path.exists("other"))
    for command in (("volume", "info", full), ("volume", "list", path), ("image", "tree", full),
                    ("volume", "update", full, "--description", "served"), ("domain", "check", path)):
        works(*command)
    client = server.client()
    check("it goes on", client.write(0, b"x" * 512) == 0)
    client.leave()
    server.stop("locked", signal.SIGINT)

    first, second = Server("-t", "-r", full), Server("-t", "-r", full)
    check("read-only", first.told["exports"][0]["read-only"])
    client = second.client()
    check("writes are refused", client.write(0, b"y" * 512) == 1)
    check("it reads", client.read(0, 512) == (0, b"x" * 512))
    client.leave()
    reads(full, "verify -P 120 0 512")
    refused("is in use by process", "volume", "serve", "-k", "other", full)
    refused("is in use by process", "volume", "snapshot", full)
    first.stop("shared", signal.SIGHUP)
    second.stop("shared")
    works("volume", "snapshot", full)
    sound("locked", path)


def test_wait():
    """--wait: until who has it, by its name or its path, has ended; or a signal comes."""
    path = make("wait")
    image, name = volume("create", "-f", "qcow2", path, "4M")
    full, file = f"{path}/{image}", f"{path}/images/{image}/{name}"
    first = Server("-t", full)
    waiting = [Server("-t", "--wait", full, ready=False) for _ in range(2)]
    waiting[1].await_listening()
    waiting[1].stop("told to end while it waits", code=1)
    check("the other one waits", waiting[0].process.poll() is None and not waiting[0].is_ready())
    first.stop("the first")
    waiting[0].await_ready()
    waiting[0].stop("the second")
    holder = Holder("-f", "qcow2", file)
    refused(f"(pid {holder.process.pid})", "volume", "serve", "-k", "other", full)
    waiting = Server("-t", "--wait", full, ready=False)
    check("it waits", waiting.process.poll() is None)
    holder.end()
    waiting.await_ready()
    waiting.stop("after who had its path")


def test_killed():
    """What was flushed is there; the next one has the image at once."""
    path = make("killed")
    image, name = volume("create", "-f", "qcow2", path, "64M")
    full = f"{path}/{image}"
    server = Server("-t", full)
    client = server.client()
    for n in range(16):
        check("written", client.write(n * MIB, bytes([n + 1]) * MIB) == 0)
    check("flushed", client.do(3)[0] == 0)
    for n in range(16, 48):
        client.send(1, n * MIB, MIB, 0, bytes([n + 1]) * MIB)
    server.kill()
    client.close()
    verify = [f"verify -P {n + 1} {n}M 1M" for n in range(16)]
    again = Server("-t", "-v", full)
    works("io", "-q", "-f", "raw", "-r", *(x for c in verify for x in ("-c", c)), again.uri())
    said = again.stop("after a kill")
    check("what there was", json.loads(said)["connections"] >= 1 and json.loads(said)["errors"] == 0, said)
    reads(full, *verify)
    works("domain", "check", "--repair", path) # clusters that were taken ahead
    works("volume", "snapshot", full)
    sound("killed", path)


def test_stopped():
    """What has been sent is answered, and there, when it is told to end amid it."""
    path = make("stopped")
    image, _ = volume("create", "-f", "qcow2", path, "64M")
    server = Server("-t", f"{path}/{image}")
    client = server.client()
    sent = [client.send(1, n * MIB, 65536, 0, bytes([n + 1]) * 65536) for n in range(32)]
    first = client.reply()
    server.process.send_signal(signal.SIGTERM)
    done = {first[0]: first[1]}
    try:
        while len(done) < len(sent):
            cookie, error, _ = client.reply()
            done[cookie] = error
    except Exception as e: # what was not taken any more has no answer
        check("the server has ended it", type(e).__name__ in ("Ended", "ConnectionResetError"), e)
    client.close()
    server.end("stopped")
    check("none has failed", set(done.values()) == {0}, done)
    reads(f"{path}/{image}", *(f"verify -P {n + 1} {n}M 64k" for n, cookie in enumerate(sent) if cookie in done))
    sound("stopped", path)


def test_refused():
    path = make("refused")
    image, (base, _, leaf) = chain(path)
    full = f"{path}/{image}"
    refused("is served with --read-only", "volume", "serve", "-k", "s", f"{full}/{base}")
    server = Server("-t", "-r", f"{full}/{base}")
    client = server.client()
    check("a base reads", client.read(0, 4096) == (0, b"\1" * 4096))
    client.leave()
    server.stop("a base")
    works("volume", "update", f"{full}/{leaf}", "--legality", "ILLEGAL")
    refused("is ILLEGAL", "volume", "serve", "-k", "s", full)
    works("volume", "update", f"{full}/{leaf}", "--legality", "LEGAL")
    none = f"{path}/{lib.GOLDEN_ID}"
    refused("no image", "volume", "serve", "-k", "s", none)
    refused("is a domain", "volume", "serve", "-k", "s", path)
    refused("nowhere: opening the folder", "volume", "serve", "-k", "s", f"nowhere/{image}/{leaf}")
    refused("is in use by process", "volume", "serve", "-k", "s", full, full)
    refused("needs --discard=unmap", "volume", "serve", "--detect-zeroes=unmap", "--discard=ignore", full)
    refused("needs direct I/O", "volume", "serve", "--aio=native", "--cache=writeback", full)
    refused("is not within its", "volume", "serve", "-k", "s", "-o", "3M", full)
    refused("once for each volume", "volume", "serve", "-x", "a", "-x", "b", full)
    refused("--socket excludes", "volume", "serve", "-k", "s", "-p", "0", full)
    refused("no option '-f'", "volume", "serve", "-f", "raw", full)
    refused("cannot write the process id", "volume", "serve", "-k", "s", "--pid-file", "no/such", full)
    works("volume", "snapshot", full)
    check("nothing is left", not os.path.exists("s"))
    sound("refused", path)


def test_fork():
    """--fork returns when clients can connect; the last client's end is the server's, which lets go of all."""
    path = make("fork")
    image, _ = volume("create", "-f", "qcow2", path, "4M")
    said = told("volume", "serve", "--fork", "--pid-file", "pid", "-k", "forked", f"{path}/{image}")
    pid = int(pathlib.Path("pid").read_text())
    check("its process", said["pid"] == pid, said)
    refused(f"is in use by process {pid}", "volume", "snapshot", f"{path}/{image}")
    works("io", "-q", "-f", "raw", "-c", "write -P 3 0 1M", said["exports"][0]["uri"])
    works("volume", "snapshot", "--wait", f"{path}/{image}")
    reads(f"{path}/{image}", "verify -P 3 0 1M")
    deadline = time.monotonic() + LATE
    while os.path.exists(f"/proc/{pid}") and time.monotonic() < deadline:
        time.sleep(0.01)
    check("it has ended", not os.path.exists(f"/proc/{pid}"))
    sound("fork", path)


lib.main(test_kinds, test_names, test_locked, test_wait, test_killed, test_stopped, test_refused, test_fork)
