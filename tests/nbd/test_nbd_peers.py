#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The NBD server with the clients of others (qemu-img, qemu-io, nbdinfo, nbdcopy), and the process around it:
forks, process ids, sockets that are passed on, ports, the last client's end.

usage: test_nbd_peers.py VDISK_IO
"""
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
from listens import listens  # noqa: E402

check = Checks()
missing = set()


def have(program):
    if not shutil.which(program):
        missing.add(program)
        return False
    return True


def run(*command, cwd=None, code=0):
    done = subprocess.run([str(c) for c in command], cwd=cwd, capture_output=True, text=True, timeout=300,
                          stdin=subprocess.DEVNULL)
    check.same(f"{' '.join(map(str, command))}: {done.stdout[-300:]} {done.stderr[-300:]}", done.returncode, code)
    return done.stdout


def uri(server, name=""):
    return f"nbd+unix:///{name}?socket={server.path}"


def fill(tool, where):
    create(tool, where, "base", "-f", "qcow2", "64M")
    run(tool, "io", "-c", "write -q -P 1 0 3M", "-c", "write -q -z 1M 64k", "base", cwd=where)
    create(tool, where, "disk", "-f", "qcow2", "-b", "base", "-F", "qcow2", "80M")
    run(tool, "io", "-c", "write -q -P 2 2M 5M", "-c", "write -q -P 3 70M 1000", "disk", cwd=where)


def test_qemu(tool, where, server):
    if not have("qemu-img") or not have("qemu-io"):
        return
    address = uri(server)
    run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", "-U", address, where / "disk")
    extents = json.loads(run("qemu-img", "map", "--output=json", address))
    check.same("map", sum(e["length"] for e in extents), 80 << 20)
    ours = json.loads(run(tool, "map", "-U", "--output=json", where / "disk"))

    def zeros(found):
        """Where it begins and ends to read as zeros."""
        edges = [(e["start"], e["zero"]) for e in found]
        return [edge for k, edge in enumerate(edges) if k == 0 or edge[1] != edges[k - 1][1]]
    check.same("zeros of the map", zeros(extents), zeros(ours))
    depth = json.loads(run("qemu-img", "map", "--output=json", "--image-opts",
                           f"driver=nbd,server.type=unix,server.path={server.path},"
                           "x-dirty-bitmap=qemu:allocation-depth"))
    check.same("depths", len(depth) > 3, True)
    out = run("qemu-io", "-f", "raw", "-c", "write -P 9 1000 70000", "-c", "write -z 1M 1M", "-c", "discard 5M 1M",
              "-c", "read -P 9 1000 70000", "-c", "read -P 0 1M 1M", "-c", "write -f -P 7 3M 32M", "-c", "flush",
              "-c", "read -P 7 3M 32M", "-c", "aio_write -P 4 0 64k", "-c", "aio_read 1M 64k", "-c", "aio_flush",
              address)
    check.same("qemu-io", [word for word in ("failed", "error") if word in out.lower()], [])
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", address, where / "copy.qcow2")
    run("qemu-img", "convert", "-n", "-O", "raw", where / "copy.qcow2", address)
    run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", address, where / "copy.qcow2")
    run("qemu-img", "bench", "-f", "raw", "-c", "2000", "-d", "32", "-w", "-s", "4096", "-S", "12288", address)


def test_libnbd(where, server):
    if have("nbdinfo"):
        told = json.loads(run("nbdinfo", "--json", uri(server)))["exports"][0]
        check.same("size", told["export-size"], 80 << 20)
        check.same("contexts", told["contexts"], ["base:allocation", "qemu:allocation-depth"])
        check.same("multi-conn", told["can_multi_conn"], True)
        extents = json.loads(run("nbdinfo", "--map", "--json", uri(server)))
        check.same("map", sum(e["length"] for e in extents), 80 << 20)
        check.same("depths", {e["type"] for e in json.loads(
            run("nbdinfo", "--map=qemu:allocation-depth", "--json", uri(server)))} >= {0, 1}, True)
        names = {e["export-name"] for e in json.loads(run("nbdinfo", "--list", "--json", uri(server)))["exports"]}
        check.same("list", names, {"", "base copy"})
    if have("nbdcopy") and have("qemu-img"):
        run("nbdcopy", "--connections=4", "--requests=64", uri(server), where / "copy.raw")
        run("qemu-img", "compare", "-f", "raw", "-F", "raw", uri(server), where / "copy.raw")
        run("nbdcopy", "--connections=4", where / "copy.raw", uri(server))
        run("qemu-img", "compare", "-f", "raw", "-F", "raw", uri(server), where / "copy.raw")


def test_sizes(tool, where):
    """A file of an odd size is a disk of whole sectors; one that is cut is a smaller disk from then on."""
    (where / "odd").write_bytes(b"g" * 5000)
    with serving(tool, where, "-f", "raw", "-r", names=("odd",), checks=check) as server:
        client = Client(server.path)
        client.negotiate()
        check.same("size", client.size, 5120)
        check.same("its end", client.read(4990, 130), (0, b"g" * 10 + bytes(120)))
        check.same("past it", client.read(4990, 131)[0], EINVAL)
        client.leave()
        os.truncate(where / "odd", 1024)
        client = Client(server.path)
        client.negotiate()
        check.same("new size", client.size, 1024)
        check.same("past it", client.read(1000, 25)[0], EINVAL)
        client.leave()


def test_last_client(tool, where):
    server = subprocess.Popen([tool, "nbd", "-k", where / "s2", "-r", "base"], cwd=where)
    path = where / "s2"
    while not listens(path):
        time.sleep(0.01)
    probe = Client(path)
    probe.close()
    client = Client(path)
    client.negotiate()
    check.same("a handshake alone does not end it", client.read(0, 512)[0], 0)
    client.leave()
    check.same("the last client's end does", server.wait(TIMEOUT), 0)
    check.same("the socket is gone", path.exists(), False)


def test_fork(tool, where):
    run(tool, "nbd", "--fork", "--pid-file", "pid", "-t", "-k", "s3", "-r", "base", cwd=where)
    client = Client(where / "s3") # it is there when the command has returned
    client.negotiate()
    check.same("read", client.read(0, 512), (0, b"\1" * 512))
    pid = int((where / "pid").read_text())
    os.kill(pid, signal.SIGTERM)
    check.same("the end", client.ends(), True)
    deadline = time.monotonic() + TIMEOUT
    while (where / "s3").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    check.same("the socket is gone", (where / "s3").exists(), False)
    done = subprocess.run([tool, "nbd", "--fork", "-k", where / "s4", where / "none"], capture_output=True,
                          text=True)
    check.same("an error is told", (done.returncode, "none" in done.stderr, done.stderr.count("\n") <= 2),
               (1, True, True))


def test_passed(tool, where):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(where / "s5"))
        listener.listen()
        os.set_inheritable(listener.fileno(), True)
        code = f"import os; os.dup2({listener.fileno()}, 3)\n" \
               "os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()))\n" \
               f"os.execv({tool!r}, [{tool!r}, 'nbd', '-r', {str(where / 'base')!r}])"
        server = subprocess.Popen([sys.executable, "-c", code], pass_fds=[listener.fileno()])
    client = Client(where / "s5")
    client.negotiate()
    check.same("read", client.read(0, 512), (0, b"\1" * 512))
    client.leave()
    check.same("end", server.wait(TIMEOUT), 0)


def test_passed_wrongly(tool, where):
    """No other socket is listened on in place of those that should have come."""
    for number in ("x", "-1", "", "65", "1 "):
        code = f"import os; os.environ.update(LISTEN_FDS={number!r}, LISTEN_PID=str(os.getpid()))\n" \
               f"os.execv({tool!r}, [{tool!r}, 'nbd', '-r', {str(where / 'base')!r}])"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=TIMEOUT)
        check.same(f"LISTEN_FDS={number!r}", (done.returncode, "LISTEN_FDS" in done.stderr), (1, True))


def test_reader_gone(tool, where):
    """Who reads what is told has gone: the server ends as it should, with its socket."""
    server = subprocess.Popen([tool, "nbd", "-v", "-r", "-k", where / "s6", where / "base"],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    server.stdout.readline()
    server.stdout.close()
    client = Client(where / "s6")
    client.negotiate()
    client.leave()
    check.same("no signal has ended it", server.wait(TIMEOUT) >= 0, True)
    check.same("its socket is gone", (where / "s6").exists(), False)


def test_full_line(tool, where):
    """Where a server is so busy that nobody more can even wait, there is one."""
    with socket.socket(socket.AF_UNIX) as listener, contextlib.ExitStack() as waiting:
        listener.bind(str(where / "s7"))
        listener.listen(0)
        while True:
            client = waiting.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            if client.connect_ex(str(where / "s7")) != 0:
                break
        done = subprocess.run([tool, "nbd", "-r", "-k", where / "s7", where / "base"], capture_output=True,
                              text=True, timeout=TIMEOUT)
        check.same("a second server", (done.returncode, "in use" in done.stderr), (1, True))
        check.same("the first one's socket", (where / "s7").exists(), True)


def test_tcp(tool, where):
    server = subprocess.Popen([tool, "nbd", "-p", "0", "-b", "127.0.0.1", "-r", "base"], cwd=where,
                              stdout=subprocess.PIPE, text=True)
    port = re.search(r"port (\d+)", server.stdout.readline())[1]
    if have("qemu-img"):
        told = json.loads(run("qemu-img", "info", "--output=json", f"nbd://127.0.0.1:{port}"))
        check.same("size", told["virtual-size"], 64 << 20)
    else:
        server.terminate()
    check.same("end", server.wait(TIMEOUT), 0)


def test_usage(tool, where):
    for words, options in (("takes the names", ()), ("--export-name for each", ("base", "disk")),
                           ("excludes", ("-k", "x", "-p", "1", "base")),
                           ("two exports", ("-x", "a", "-x", "a", "-r", "-k", where / "s6", "base", "base")),
                           ("at most", ("-r", "-k", "x" * 200, "base")),
                           ("Invalid cache mode", ("--cache", "x", "base")),
                           ("cannot listen", ("-r", "-k", where / "no" / "folder", "base"))):
        done = subprocess.run([tool, "nbd", *options], cwd=where, capture_output=True, text=True, timeout=60)
        check.same(f"{options}: {done.stderr}", (done.returncode, words in done.stderr), (1, True))


def test_socket_in_use(tool, where):
    with serving(tool, where, "-r", names=("base",), checks=check) as server:
        done = subprocess.run([tool, "nbd", "-r", "-k", server.path, "base"], cwd=where, capture_output=True,
                              text=True)
        check.same("a socket in use", (done.returncode, "in use" in done.stderr), (1, True))
        client = Client(server.path)
        client.negotiate()
        client.leave()
        server.process.kill()
        server.process.wait()
        server.process.returncode = 0
    with serving(tool, where, "-r", names=("base",), checks=check) as server:
        client = Client(server.path)
        client.negotiate()
        check.same("one that was left is replaced", client.read(0, 512)[0], 0)
        client.leave()


def main():
    tool = str(pathlib.Path(sys.argv[1]).resolve())
    with folder() as where:
        fill(tool, where)
        create(tool, where, "other", "-f", "qcow2", "1M")
        with serving(tool, where, "-x", "", "-x", "base copy", names=("disk", "other"), checks=check) as server:
            test_qemu(tool, where, server)
            test_libnbd(where, server)
        test_sizes(tool, where)
        test_last_client(tool, where)
        test_fork(tool, where)
        test_passed(tool, where)
        test_passed_wrongly(tool, where)
        test_reader_gone(tool, where)
        test_full_line(tool, where)
        test_tcp(tool, where)
        test_usage(tool, where)
        test_socket_in_use(tool, where)
    if missing:
        print(f"without {', '.join(sorted(missing))}")
    return check.finish()


if __name__ == "__main__":
    sys.exit(main())
