#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The tool on exports of servers that others made: qemu-nbd as it is installed and QEMU 10's, nbdkit and its
filters. usage: test_nbd_servers.py VDISK_IO BENCH_PEER

Random writes, zeros and discards by `io`, against a model; the file behind the server is compared with it, and so
is what qemu-img reads there. What lacks is skipped, and said.
"""
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from listens import listens  # noqa: E402

TOOL = sys.argv[1]
SEED = os.environ.get("VDISK_SEED", "1")
SEED = random.randrange(1 << 32) if SEED == "new" else int(SEED)
MIB = 1 << 20
SIZE = 8 * MIB
ran, failures = [], []


def run(*args, status=0, **how):
    done = subprocess.run([str(a) for a in args], capture_output=True, text=True, timeout=120, **how)
    if done.returncode != status:
        raise AssertionError(f"{' '.join(map(str, args))}: exit {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout + done.stderr


class Server:
    """A process that serves a socket, or a port."""

    def __init__(self, args, socket=None):
        self.process = subprocess.Popen([str(a) for a in args], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        deadline = time.monotonic() + 30
        while socket and not listens(socket):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.process.kill()
                raise AssertionError(f"{args[0]}: {self.process.stderr.read().decode()}")
            time.sleep(0.01)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(30)
        self.process.stderr.close()


def commands(rng, model, count, unit=1):
    """Commands of `io`, which also change the model."""
    for _ in range(count):
        length = rng.choice([rng.randrange(1, 20000), 4096 * rng.randrange(1, 40), rng.randrange(1, MIB)])
        at = rng.randrange(SIZE - length)
        at, length = at // unit * unit, max(unit, length // unit * unit)
        kind = rng.choice(["write", "write", "zero", "fua", "discard", "read"])
        pattern = rng.randrange(1, 256)
        if kind in ("write", "fua"):
            model[at:at + length] = bytes([pattern]) * length
            yield f"write -q {'-f ' if kind == 'fua' else ''}-P {pattern} {at} {length}"
        elif kind == "zero":
            model[at:at + length] = bytes(length)
            yield f"write -q -z {rng.choice(['', '-u '])}{at} {length}"
        elif kind == "discard":
            yield f"discard -q {at} {length}"
            model[at:at + length] = bytes(length)
            yield f"write -q -z {at} {length}"  # what a discard leaves nobody knows
        else:
            byte = model[at]
            same = next((i for i in range(length) if model[at + i] != byte), length)
            yield f"read -q -P {byte} {at} {same}"
    yield "flush"


def io(name, lines, fmt="raw"):
    args = [a for line in lines for a in ("-c", line)]
    run(TOOL, "io", "-f", fmt, *args, name)


def random_io(name, rng, model, fmt="raw", unit=1):
    for _ in range(3):
        io(name, list(commands(rng, model, 25, unit)), fmt)


def blank(path):
    with open(path, "wb") as f:
        f.truncate(SIZE)


def on_raw(folder, name, disk, rng):
    """Raw in an export whose file is `disk`, of zeros: made before the server, which opens it when it likes."""
    model = bytearray(SIZE)
    random_io(name, rng, model)
    if disk.read_bytes() != model:
        raise AssertionError("the file is not what was written")
    plain = folder / "plain"
    plain.write_bytes(model)
    run(TOOL, "compare", "-f", "raw", "-F", "raw", plain, name)
    run(TOOL, "convert", "-f", "raw", "-O", "raw", name, folder / "copy")
    if (folder / "copy").read_bytes() != model:
        raise AssertionError("the copy is not what is there")
    digests = [run(TOOL, "checksum", "-f", "raw", what).split()[0] for what in (plain, name)]
    if digests[0] != digests[1]:
        raise AssertionError(f"checksums: {digests}")
    info = json.loads(run(TOOL, "info", "-f", "raw", "--output", "json", name))
    if info["virtual-size"] != SIZE:
        raise AssertionError(f"info: {info}")
    run(TOOL, "measure", "-f", "raw", "-O", "qcow2", name)
    run(TOOL, "bench", "-f", "raw", "--rw", "randread", "--depth", "8", "--count", "500", name)
    if "0x" not in run(TOOL, "map", "-f", "raw", name):
        raise AssertionError("map tells nothing")
    fresh = bytearray(rng.randbytes(MIB) + bytes(3 * MIB) + rng.randbytes(4 * MIB))
    plain.write_bytes(fresh)
    run(TOOL, "convert", "-n", "-f", "raw", "-O", "raw", plain, name)
    if disk.read_bytes() != fresh:
        raise AssertionError("convert -n has not written what it read")


def on_qcow2(folder, name, disk, rng):
    """A qcow2 image inside an export, which cannot grow."""
    model = bytearray(SIZE)
    with open(disk, "r+b") as f:
        f.truncate(2 * SIZE)
    run(TOOL, "create", "-q", "-f", "qcow2", name, SIZE)
    random_io(name, rng, model, "qcow2")
    run(TOOL, "check", "-f", "qcow2", name)
    plain = folder / "plain"
    plain.write_bytes(model)
    run(TOOL, "compare", "-f", "raw", "-F", "qcow2", plain, name)
    if not name.startswith("nbds"):  # a name that QEMU does not know
        run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", plain, name)
        run("qemu-img", "check", "-f", "qcow2", name)


def on_small(folder, name, disk, rng):
    """The export is too small for what comes: that is ENOSPC, and the image is whole."""
    with open(disk, "r+b") as f:
        f.truncate(MIB)
    run(TOOL, "create", "-q", "-f", "qcow2", name, SIZE)
    said = run(TOOL, "io", "-f", "qcow2", "-c", "write -q -P 1 0 4M", name, status=1)
    if "No space left" not in said:
        raise AssertionError(said)
    run(TOOL, "check", "-f", "qcow2", name)


def qemu_nbd(program, folder, disk, *args):
    socket = folder / "socket"
    return Server([program, "-k", socket, "-f", "raw", "--persistent", "--discard=unmap", *args, disk], socket), \
        f"nbd+unix:///?socket={socket}"


def with_qemu(program, what, number, *args):
    def case(folder, rng):
        disk = folder / "disk"
        blank(disk)
        for size, on in ((SIZE, on_raw), (2 * SIZE, on_qcow2), (MIB, on_small)):
            with open(disk, "wb") as f:
                f.truncate(size)
            server, name = qemu_nbd(program, folder, disk, *args)
            with server:
                on(folder, name, disk, rng)
            (folder / "socket").unlink(missing_ok=True)
    return f"{what} {number} {' '.join(args)}".strip(), case


def nbdkit(*filters):
    def case(folder, rng):
        socket, disk = folder / "socket", folder / "disk"
        blank(disk)
        names = [f"--filter={f}" for f in filters if "=" not in f]
        args = [f for f in filters if "=" in f]
        with Server(["nbdkit", "-f", "-U", socket, *names, "file", disk, *args], socket):
            on_raw(folder, f"nbd+unix:///?socket={socket}", disk, rng)
    return f"nbdkit {' '.join(filters)}".strip(), case


def over_tcp(folder, rng):
    """The same by TCP, with a name of its own."""
    disk = folder / "disk"
    blank(disk)
    for _ in range(20):
        port = random.SystemRandom().randrange(20000, 60000)
        process = Server(["qemu-nbd", "-b", "127.0.0.1", "-p", port, "-x", "a b", "-f", "raw", "--persistent",
                          disk])
        with process:
            for name in (f"nbd://127.0.0.1:{port}/a%20b", f"nbd:127.0.0.1:{port}:exportname=a b",
                         json_name(port), f"nbd+tcp://127.0.0.1:{port}/a%20b"):
                wait = f"image-opts:driver=raw,file.driver=nbd,file.host=127.0.0.1,file.port={port}," \
                       "file.export=a b,file.open-timeout=10"
                if process.process.poll() is None:
                    run(TOOL, "info", "--image-opts", wait.removeprefix("image-opts:"))
                    run(TOOL, "io", "-c", "read -q -P 0 0 4096", name)
            if process.process.poll() is None:
                return
    raise AssertionError("no port")


def json_name(port):
    return "json:" + json.dumps({"driver": "raw", "file": {
        "driver": "nbd", "export": "a b", "server": {"type": "inet", "host": "127.0.0.1", "port": str(port)}}})


def backing(folder, rng):
    """A chain whose base is an export, by a name in the image."""
    disk = folder / "disk"
    disk.write_bytes(rng.randbytes(MIB))
    server, name = qemu_nbd("qemu-nbd", folder, disk, "-r")
    with server:
        run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", name, folder / "top")
        io(folder / "top", ["write -q -P 9 4096 8192"], "qcow2")
        run(TOOL, "convert", "-O", "raw", folder / "top", folder / "flat")
        flat = bytearray(disk.read_bytes())
        flat[4096:12288] = bytes([9]) * 8192
        if (folder / "flat").read_bytes() != flat:
            raise AssertionError("the chain reads otherwise")
        said = run(TOOL, "io", "-f", "raw", "-c", "write 0 512", name, status=1)
        if "for reading only" not in said:
            raise AssertionError(said)


def errors(folder, rng):
    """A server whose writes fail: the errno is the command's, the connection stays, and reads work."""
    socket, disk = folder / "socket", folder / "disk"
    blank(disk)
    with Server(["nbdkit", "-f", "-U", socket, "--filter=error", "file", disk, "error-pwrite=ENOSPC",
                 "error-pwrite-rate=100%"], socket):
        said = run(TOOL, "io", "-f", "raw", "-c", "write 0 4096", "-c", "read -P 0 0 4096",
                   f"nbd+unix:///?socket={socket}", status=1)
        with open(folder / "data", "wb") as f:
            f.write(b"a" * SIZE)
        copy = run(TOOL, "convert", "-n", "-f", "raw", "-O", "raw", folder / "data",
                   f"nbd+unix:///?socket={socket}", status=1)
        load = run(TOOL, "bench", "-f", "raw", "--rw", "write", "--count", "10", f"nbd+unix:///?socket={socket}",
                   status=1)
    for words in (copy, load):
        if str(socket) not in words or "make room where the server has the export" not in words:
            raise AssertionError(words)
    if "No space left" not in said or "read 4096/4096" not in said:
        raise AssertionError(said)


# S is the socket. What QEMU takes, and what it refuses; the first letter: j(son:), o(ptions), n(ame).
TAKEN = """
n nbd:unix:S
n nbd+unix:///?socket=S
n nbd+unix://?socket=S
o driver=nbd,path=S
o driver=nbd,server.type=unix,server.path=S
o driver=raw,file.driver=nbd,file.server.type=unix,file.server.path=S,file.reconnect-delay=2,file.open-timeout=1
o file.driver=nbd,file.path=S,file.read-only=on
j {"driver":"nbd","server":{"type":"unix","path":"S"}}
j {"driver":"raw","offset":4096,"size":8192,"file":{"driver":"nbd","server":{"type":"unix","path":"S"}}}
""".strip().splitlines()
REFUSED = """
n nbd:unix:S:exportname=
n nbd:unix:S:exportname=x
n nbd+unix:///x?socket=S
n nbd+unix:///?socket=S&a=b
n nbd+unix:///
n nbd+unix://host/?socket=S
n nbd:
n nbd:host
n nbd://
n nbd:unix:S.not
o driver=nbd
o driver=nbd,host=h,path=S
o driver=nbd,path=S,port=1
o driver=nbd,path=S,colour=red
o driver=nbd,path=S,tls-creds=none
o driver=nbd,server.type=inet,server.path=S
o driver=nbd,server.type=tape,server.path=S
o driver=nbd,server.type=unix,server.path=S,path=S
o driver=nbd,path=S,export=x
j {"driver":"nbd","server":{"type":"unix"}}
j {"driver":"nbd","server":"S"}
""".strip().splitlines()


def names(qemu_img):
    """Names that QEMU takes are taken, and tell the same size; what it refuses is refused."""
    def case(folder, rng):
        socket, disk = folder / "socket", folder / "disk"
        blank(disk)
        with Server(["qemu-nbd", "-k", socket, "-f", "raw", "--persistent", "-e", "4", "-r", disk], socket):
            for line in TAKEN + REFUSED:
                kind, name = line.split(" ", 1)
                args = [("json:" if kind == "j" else "") + name.replace("S", str(socket))]
                found = []
                for program in (TOOL, qemu_img):
                    command = [program, "info", "--output=json", *["--image-opts"][:kind == "o"], *args]
                    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
                    size = done.returncode == 0 and json.loads(done.stdout)["virtual-size"]
                    found.append((done.returncode, size))
                if found[0] != found[1] or (found[0][0] == 0) != (line in TAKEN):
                    raise AssertionError(f"{line}: ours and QEMU's exit status and size: {found}")
    return "names", case


def demands_tls(folder, rng):
    """A server that demands TLS: that is said."""
    socket, disk, keys = folder / "socket", folder / "disk", folder / "keys"
    blank(disk)
    keys.write_text("someone:" + "0123456789abcdef" * 4 + "\n")
    with Server(["nbdkit", "-f", "-U", socket, "--tls=require", f"--tls-psk={keys}", "file", disk], socket):
        said = run(TOOL, "info", f"nbd+unix:///?socket={socket}", status=1)
    if "demands TLS" not in said:
        raise AssertionError(said)


def version(program):
    return run(program, "--version").split("\n")[0].split()[1]


def cases():
    found = []
    if shutil.which("qemu-nbd"):
        found += [with_qemu("qemu-nbd", "qemu-nbd", version("qemu-nbd")),
                  with_qemu("qemu-nbd", "qemu-nbd", version("qemu-nbd"), "-e", "8"),
                  ("tcp", over_tcp), ("backing", backing)]
    else:
        print("skipped: no qemu-nbd")
    newer = pathlib.Path(run(sys.argv[2]).strip()).with_name("qemu-nbd")
    if newer.exists() and shutil.which("qemu-nbd") != str(newer):
        found += [with_qemu(newer, "qemu-nbd", version(newer)),
                  with_qemu(newer, "qemu-nbd", version(newer), "-e", "8"), names(newer.with_name("qemu-img"))]
    else:
        print("skipped: no newer qemu-nbd")
    if shutil.which("nbdkit"):
        found += [nbdkit(), nbdkit("delay", "rdelay=1ms", "wdelay=1ms"), nbdkit("nozero"), nbdkit("noparallel"),
                  nbdkit("nozero", "fua", "fuamode=emulate"), nbdkit("nocache", "noextents"),
                  ("errors", errors), ("TLS", demands_tls),
                  nbdkit("blocksize-policy", "blocksize-minimum=4096", "blocksize-maximum=65536",
                         "blocksize-error-policy=error")]
    else:
        print("skipped: no nbdkit")
    return found


def main():
    print(f"seed {SEED}")
    found = cases()
    for what, case in found:
        with tempfile.TemporaryDirectory() as folder:
            try:
                case(pathlib.Path(folder), random.Random(f"{SEED}/{what}"))
                print(f"ok {what}", flush=True)
            except (AssertionError, subprocess.TimeoutExpired) as e:
                failures.append(what)
                print(f"FAILED {what}: {e}", flush=True)
    print(f"{len(found)} servers, {len(failures)} failures")
    return 1 if failures else 0 if found else 77


if __name__ == "__main__":
    sys.exit(main())
