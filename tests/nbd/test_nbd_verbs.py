#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The verbs that take images, on exports of servers of all kinds, and on images of Ceph (a librbd of the tests'):
each line of the tables works, and leaves what it should, or is refused in one line and leaves all as it was. Where
a line is QEMU's as well, qemu-img of QEMU 10 does the same, once, to an export of ours: its exit status and what
it leaves are ours. usage: test_nbd_verbs.py VDISK_IO BENCH_PEER FAKE_RBD_FOLDER

VDISK_SERVER=TEXT: only servers with that in their names, and ours.
"""
import concurrent.futures
import contextlib
import functools
import multiprocessing
import os
import pathlib
import random
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from listens import listens  # noqa: E402

TOOL, PEER, CEPH = os.path.realpath(sys.argv[1]), os.path.realpath(sys.argv[2]), os.path.realpath(sys.argv[3])
MIB = 1 << 20
SIZE = 4 * MIB
PATIENCE = 60
AT_ONCE = 4 # they wait, most of the time
failures = lines = 0
theirs, FOUND = {}, {}
TELLING = "info", "map", "check", "measure", "compare"


def execute(*args, data=None, **how):
    return subprocess.run([str(a) for a in args], input=data, capture_output=True, timeout=PATIENCE, check=False,
                          **({} if data is not None else {"stdin": subprocess.DEVNULL}), **how)


def must(*args, **how):
    r = execute(*args, **how)
    if r.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, args))}: {r.returncode} {r.stderr.decode()}")
    return r.stdout


# ---- what is copied ---------------------------------------------------------------------------------------------


def make_files(folder):
    rng = random.Random(1)
    plain = bytearray(SIZE)
    plain[:MIB] = rng.randbytes(MIB)
    plain[2 * MIB:3 * MIB] = rng.randbytes(MIB)
    (folder / "plain").write_bytes(plain)
    (folder / "other").write_bytes(rng.randbytes(SIZE))
    (folder / "short").write_bytes(rng.randbytes(MIB))
    (folder / "long").write_bytes(rng.randbytes(SIZE + MIB))
    must("qemu-img", "convert", "-f", "raw", "-O", "qcow2", folder / "other", folder / "qcow2")
    must("qemu-img", "convert", "-f", "raw", "-O", "qcow2", folder / "plain", folder / "inner")
    inner = (folder / "inner").read_bytes()
    return bytes(plain), inner + bytes(SIZE - len(inner))


# ---- servers ----------------------------------------------------------------------------------------------------


class Export:
    """`file`: what is served, from `start` on; None: it is known by its server alone."""

    def __init__(self, name, file=None, start=0, read_only=False, fails=False, fixed=True,
                 is_reference=False):
        self.name, self.file, self.start = name, file, start
        self.read_only, self.fails, self.fixed, self.is_reference = read_only, fails, fixed, is_reference

    def is_untouched(self):
        """Nobody can change it but who serves it."""
        return self.read_only and not self.file

    def set(self, data):
        if not self.file:
            pathlib.Path("given").write_bytes(data)
            must(TOOL, "convert", "-q", *["-n"][:self.fixed], "-S", "0", "-f", "raw", "-O", "raw", "given",
                 self.name)
            return
        with open(self.file, "r+b") as f:
            f.seek(self.start)
            f.write(data)
            f.flush()
            os.fsync(f.fileno())

    def get(self):
        if self.file:
            with open(self.file, "rb") as f:
                f.seek(self.start)
                return f.read(SIZE)
        must(TOOL, "convert", "-q", "-f", "raw", "-O", "raw", self.name, "taken")
        return pathlib.Path("taken").read_bytes()


@contextlib.contextmanager
def serving(socket, *command):
    process = subprocess.Popen([str(a) for a in command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + PATIENCE
    try:
        while not listens(socket):
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"{command[0]}: {process.stderr.read().decode()}")
            time.sleep(0.005)
        yield
    finally:
        process.terminate()
        process.wait(PATIENCE)
        process.stderr.close()
        socket.unlink(missing_ok=True)


def blank(path, size=SIZE):
    with open(path, "wb") as f:
        f.truncate(size)
    return path


def on_socket(command, **how):
    """`command` makes of a socket and a file the server's."""
    @contextlib.contextmanager
    def start(folder):
        socket, file = folder / "socket", blank(folder / "disk")
        with serving(socket, *command(socket, file)):
            yield Export(f"nbd+unix:///?socket={socket}", file, **how)
    return start


def nbdkit(*arguments, plugin=("file", "FILE"), where="file", **how):
    """Filters, options of the program, then its plugin's and theirs."""
    front = [a for a in arguments if a.startswith("-")]
    back = [a for a in arguments if not a.startswith("-")]

    @contextlib.contextmanager
    def start(folder):
        socket, file = folder / "socket", blank(folder / "disk")
        own = [str(file) if a == "FILE" else a for a in plugin]
        with serving(socket, "nbdkit", "-f", "-U", socket, *front, *own, *back):
            yield Export(f"nbd:unix:{socket}", file if where == "file" else None, **how)
    return start


def partition(folder):
    """The first of a disk with a partition table."""
    socket, file = folder / "socket", blank(folder / "disk", SIZE + MIB)
    with open(file, "r+b") as f:
        f.seek(446)
        f.write(struct.pack("<B3sB3sII", 0, b"\0\2\0", 0x83, b"\0\2\0", MIB // 512, SIZE // 512))
        f.seek(510)
        f.write(b"\x55\xaa")
    return serving(socket, "nbdkit", "-f", "-U", socket, "--filter=partition", "file", file, "partition=1")


@contextlib.contextmanager
def a_partition(folder):
    with partition(folder):
        yield Export(f"nbd+unix:///?socket={folder / 'socket'}", folder / "disk", start=MIB)


@contextlib.contextmanager
def by_port(folder):
    file = blank(folder / "disk")
    process = subprocess.Popen([TOOL, "nbd", "-t", "-e", "0", "-b", "127.0.0.1", "-p", "0", "-v", "-x", "a b",
                                "-f", "raw", file], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        port = process.stdout.readline().split()[-1]
        yield Export(f"nbd://127.0.0.1:{port}/a%20b", file)
    finally:
        process.terminate()
        process.wait(PATIENCE)
        process.stdout.close()


@contextlib.contextmanager
def in_ceph(folder):
    """It grows, as a file does."""
    os.environ["VDISK_FAKE_RBD"] = str(folder)
    (folder / "image").unlink(missing_ok=True)
    must(TOOL, "create", "-q", "-f", "raw", "rbd:pool/image", SIZE)
    yield Export("rbd:pool/image", fixed=False)


def servers():
    newer = pathlib.Path(must(PEER).decode().strip()).with_name("qemu-nbd")
    found = {
        "ours": on_socket(lambda s, f: (TOOL, "nbd", "-t", "-e", "0", "-k", s, "-f", "raw", f), is_reference=True),
        "ours, read-only": on_socket(lambda s, f: (TOOL, "nbd", "-r", "-t", "-e", "0", "-k", s, "-f", "raw", f),
                                     read_only=True),
        "ours, by TCP": by_port,
    }
    for program in dict.fromkeys((shutil.which("qemu-nbd"), str(newer))):
        if program and os.path.exists(program):
            found[f"{must(program, '--version').decode().split()[1]}, QEMU"] = on_socket(
                lambda s, f, program=program: (program, "-t", "-e", "8", "-k", s, "-f", "raw", "--discard=unmap",
                                               f))
    if shutil.which("nbdkit"):
        found |= {
            "nbdkit": nbdkit(),
            "nbdkit, memory": nbdkit(plugin=("memory", str(SIZE)), where="memory"),
            "nbdkit, nozero": nbdkit("--filter=nozero"),
            "nbdkit, nozero, noextents, nocache": nbdkit("--filter=nozero", "--filter=noextents",
                                                         "--filter=nocache"),
            "nbdkit, delay": nbdkit("--filter=delay", "delay-read=1ms", "delay-write=1ms"),
            "nbdkit, errors": nbdkit("--filter=error", "error-pwrite=EIO", "error-pwrite-rate=100%",
                                     "error-zero=EIO", "error-zero-rate=100%", fails=True),
            "nbdkit, blocks of 4096": nbdkit("--filter=blocksize-policy", "blocksize-minimum=4096",
                                             "blocksize-maximum=65536", "blocksize-error-policy=error"),
            "nbdkit, read-only": nbdkit("-r", read_only=True),
            "nbdkit, noextents": nbdkit("--filter=noextents"),
            "nbdkit, cow": nbdkit("--filter=cow", where="server"),
            "nbdkit, partition": a_partition,
        }
    else:
        print("skipped: no nbdkit")
    os.environ["LD_LIBRARY_PATH"] = CEPH
    with tempfile.TemporaryDirectory() as folder:
        os.environ["VDISK_FAKE_RBD"] = folder
        if execute(TOOL, "create", "-q", "-f", "raw", "rbd:pool/probe", SIZE).returncode == 0:
            found["Ceph"] = in_ceph
        else:
            print("skipped: no librbd can be loaded here")
    return found


# ---- the tables -------------------------------------------------------------------------------------------------

# E is the export; the files are those of make_files(), in DIR; O is written anew. A backslash keeps a space. In
# front:
#   reads     changes nothing, and is as QEMU's
#   writes    changes the export, and leaves it as QEMU's does
#   refused   in one line: nothing has changed
#   never     the same, although QEMU does it
#   fixed     refused, where the size is
#   full      where the size is fixed it fails amid it, as QEMU's does
#   ours      is no verb of qemu-img's, or has options of ours
# With a + it is for all servers, and not for ours, and Ceph, alone.
RAW = """
reads    info -f raw E
reads    info --output=json -f raw E
reads    info E
reads    map -f raw E
reads+   map --output=json -f raw E
reads    measure -f raw -O qcow2 E
reads    compare -f raw -F raw plain E
reads    compare -f raw -F raw E other
reads    compare -s -f raw -F raw E long
reads+   convert -f raw -O raw E O
reads    convert -f raw -O qcow2 E O
reads    convert -f raw -O qcow2 -c E O
reads    convert -p -T none -f raw -O raw E O
reads    convert -T directsync -f raw -O raw E O
reads    convert -T unsafe -m 2 -W -f raw -O raw E O
reads    convert -S 0 -f raw -O raw E O
reads    convert -C -f raw -O raw E O
reads    dd -f raw -O raw bs=512K skip=1 count=3 if=E of=O
reads    check -f raw E
reads    bench -f raw -c 20 -s 4096 E
ours     checksum -f raw E
ours     io -r -f raw -c read\ -q\ -P\ 0\ 1M\ 1M E
ours     bench -f raw --rw randread --count 20 E
writes+  convert -n -f raw -O raw other E
writes   convert -n -f qcow2 -O raw qcow2 E
writes   convert -n -p -t none -f raw -O raw other E
writes   convert -n -t writeback -f raw -O raw other E
writes   convert -n -t directsync -f raw -O raw other E
writes   convert -n -t unsafe -f raw -O raw other E
writes+  convert -n -S 0 -f raw -O raw plain E
writes   convert -n -f raw -O raw short E
writes   convert -f raw -O raw other E
writes   convert -n --target-is-zero -f raw -O raw other E
writes   convert -n -f raw --target-image-opts other driver=raw,file.driver=nbd,file.path=SOCKET
writes   dd -f raw -O raw bs=1M count=1 if=other of=E
ours     dd -n -f raw -O raw bs=1M count=1 if=other of=E
writes   create -f raw E 4M
writes   create -f raw E 1M
writes   resize -f raw E 4M
writes+  convert -f raw -O qcow2 short E
refused+ convert -n -f raw -O raw long E
fixed    convert -f raw -O raw long E
fixed    resize -f raw E +1M
fixed    resize -f raw --shrink E 1M
fixed+   create -f raw E 5M
fixed    create -f qcow2 -o preallocation=full E 8M
refused  amend -f raw -o compat=1.1 E
refused  commit -f raw E
refused  rebase -f raw -u -b plain -F raw E
refused  convert -n -f raw -O qcow2 other E
never    convert -f raw -O qcow2 E E
never    convert -n -f raw -O raw E E
never    dd -f raw -O raw bs=1M count=1 if=E of=E
full     convert -f raw -O qcow2 long E
ours     io -f raw -c write\ -q\ -P\ 9\ 1M\ 64k -c flush E
ours+    io -f raw -c write\ -q\ -z\ 0\ 64k -c write\ -q\ -z\ -u\ 2M\ 64k E
ours     io -f raw -c discard\ -q\ 0\ 64k E
ours     bench -f raw --rw randwrite --count 20 E
ours+    convert -n --discard-target -f raw -O raw other E
"""
# The export has `inner`, a qcow2 image that reads as `plain`.
QCOW2 = r"""
reads    info -f qcow2 E
reads    info --output=json E
reads+   check E
reads    check --output=json -f qcow2 E
reads    map -f qcow2 E
reads    compare -f raw -F qcow2 plain E
reads    compare -f qcow2 -F qcow2 E qcow2
reads    measure -f qcow2 -O raw E
reads+   convert -f qcow2 -O raw E O
reads    convert -O qcow2 E O
reads    dd -f qcow2 -O raw bs=1M count=3 if=E of=O
reads    bench -f qcow2 -c 20 -s 4096 E
ours     checksum -f qcow2 E
writes   convert -n -f raw -O qcow2 short E
writes+  convert -f raw -O qcow2 plain E
writes   convert -f raw -O qcow2 -c short E
writes+  create -f qcow2 E 64M
writes   create -f qcow2 -o cluster_size=4K,refcount_bits=8 E 1M
writes   create -f qcow2 -b DIR/plain -F raw E
writes   amend -f qcow2 -o compat=0.10 E
writes+  resize -f qcow2 E 6M
writes   resize -f qcow2 --shrink E 2M
writes   check -r all E
writes   bench -w -f qcow2 -c 8 -s 65536 --pattern=7 E
refused  commit -f qcow2 E
full     resize -f qcow2 --preallocation=full E 16M
full+    convert -n -f raw -O qcow2 other E
ours     io -f qcow2 -c write\ -q\ -P\ 9\ 1M\ 64k -c flush E
ours+    io -f qcow2 -c discard\ -q\ 0\ 1M E
"""
# `top` lies on the raw export, and has 64 KiB of its own.
ABOVE = r"""
reads    info --backing-chain top
reads    map top
reads    check top
reads    compare -f raw -F qcow2 plain top
reads    measure -O qcow2 top
reads+   convert -O raw top O
reads    convert -O qcow2 -B E -F raw top O
reads    create -f qcow2 -b E -F raw O
reads    create -f qcow2 -b E -F raw O 8M
ours     checksum top
never    convert -n -O raw top E
writes+  commit top
writes   commit -d -p top
ours     rebase -b DIR/other -F raw top
ours     rebase -b  top
"""


def words_of(text):
    words, word, escaped = [], "", False
    for c in text + " ":
        if c == "\\" and not escaped:
            escaped = True
        elif c == " " and not escaped:
            words.append(word)
            word = ""
        else:
            word += c
            escaped = False
    return words


def command_of(export, text):
    """A line's words. None: it is not for this export."""
    socket = export.name.split("?socket=")[-1].removeprefix("nbd:unix:")
    if "SOCKET" in text and not socket.startswith("/"):
        return None
    names = {"E": export.name, "O": "out", "if=E": f"if={export.name}", "of=E": f"of={export.name}",
             "of=O": "of=out"}
    return [names.get(w, w.replace("SOCKET", socket).replace("DIR", os.getcwd())) for w in words_of(text)]


def guest(file, fmt):
    """What it reads; None: it is no such image."""
    r = execute(TOOL, "convert", "-q", "-f", fmt, "-O", "raw", file, "flat")
    return pathlib.Path("flat").read_bytes() if r.returncode == 0 else None


@functools.lru_cache(4)
def inner_of(data):
    """What an export reads, raw or qcow2."""
    if data[:4] != b"QFI\xfb":
        return data
    pathlib.Path("left").write_bytes(data)
    return guest("left", "qcow2")


class Outcome:
    def __init__(self, program, export, words, before, prepare):
        pathlib.Path("out").unlink(missing_ok=True)
        if not export.is_untouched() and export.get() != before:
            export.set(before)
        prepare(export)
        r = execute(program, *words)
        self.code, self.errors, self.out = r.returncode, r.stderr.decode(), r.stdout.decode()
        self.text = self.out.replace(export.name, "E").replace(export.name.replace(":///?", "://?"), "E")
        self.left = export.get()
        self.inner = inner_of(self.left)
        fmt = "qcow2" if os.path.exists("out") and pathlib.Path("out").read_bytes()[:4] == b"QFI\xfb" else "raw"
        self.read = guest("out", fmt) if os.path.exists("out") else None
        self.top = guest("top", "qcow2") if os.path.exists("top") else None

    def one_line(self):
        return sum(not re.match("(vdisk-io|qemu-img): (hint|warning): ", line)
                   for line in self.errors.splitlines()) == 1


def judge(what, words, ours, theirs, export, before):
    """What is wrong; "": nothing."""
    if ours.code < 0 or ours.code > 125:
        return "it crashed"
    if ours.code == 1 and what not in ("reads", "ours") and not ours.one_line():
        return "its error is not one line"
    if what in ("fixed", "full") and not export.fixed:
        what = "ours"
    if what != "reads" and (export.read_only or not export.fixed):
        theirs = None # which could do more, or less
    if what in ("refused", "fixed", "never") or what in ("writes", "full") and export.read_only:
        return "it is not refused" if ours.code == 0 else "it changed something" if ours.left != before else \
            "QEMU does it" if what != "never" and theirs and theirs.code == 0 else ""
    if what == "full" or export.fails and what == "writes":
        return "it succeeds" if ours.code == 0 and ours.left != before else ""
    if what == "ours":
        return "it fails" if ours.code != 0 and not (export.read_only or export.fails) else ""
    if theirs and ours.code != theirs.code:
        return f"QEMU's exit status is {theirs.code}: {theirs.errors}"
    if theirs and (ours.inner, ours.read, ours.top) != (theirs.inner, theirs.read, theirs.top):
        return "QEMU leaves something else"
    if theirs and export.is_reference and words[0] in TELLING and ours.text != theirs.text:
        return f"QEMU tells {theirs.text}"
    return "it changed the export" if what == "reads" and ours.left != before else \
        "" if theirs or ours.code == 0 else "it fails"


def no_top(_):
    pathlib.Path("top").unlink(missing_ok=True)


def a_top(export):
    if not os.path.exists("fresh"):
        must(TOOL, "create", "-q", "-f", "qcow2", "-b", export.name, "-F", "raw", "fresh")
        must(TOOL, "io", "-f", "qcow2", "-c", "write -q -P 8 1M 64k", "fresh")
    shutil.copyfile("fresh", "top")


def run_table(kind, export, table, before, prepare, qemu):
    global lines, failures
    for line in table.strip().splitlines():
        what, text = line.split(None, 1)
        words = command_of(export, text)
        if words is None or not (export.is_reference or not export.fixed or what.endswith("+")):
            continue
        what = what.rstrip("+")
        lines += 1
        as_qemu = words[0] == "bench" and what != "ours" # there are two
        ours = Outcome("./qemu-img" if as_qemu else TOOL, export, words, before, prepare)
        if what != "ours" and export.is_reference:
            theirs[table, text] = Outcome(qemu, export, words, before, prepare)
        why = judge(what, words, ours, theirs.get((table, text)), export, before)
        if why:
            failures += 1
            print(f"FAILED {kind}: {text}: {why}; ours: {ours.code} {ours.out[-200:]}{ours.errors}", flush=True)


def run_one(folder, kind, qemu):
    """In a process of its own, one after the other."""
    global lines, failures
    lines = failures = 0
    return run_kind(folder, kind, FOUND[kind], qemu)


def run_kind(folder, kind, start, qemu):
    """Returns how many lines there were, and how many failed."""
    os.chdir(folder)
    (folder / "qemu-img").symlink_to(TOOL)
    plain, inner = make_files(folder)
    began = time.monotonic()
    for table, before, prepare in ((RAW, plain, no_top), (QCOW2, inner, no_top), (ABOVE, plain, a_top)):
        with start(folder) as export:
            export.set(before)
            run_table(kind, export, table, before, prepare, qemu)
    print(f"{kind}: {time.monotonic() - began:.1f} s", flush=True)
    return lines, failures


def main():
    global lines, failures
    found = servers()
    FOUND.update(found)
    qemu = must(PEER).decode().strip()
    asked = os.environ.get("VDISK_SERVER", "")
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as top:
        folders = {kind: pathlib.Path(top) / str(number) for number, kind in enumerate(found)}
        for folder in folders.values():
            folder.mkdir()
        run_kind(folders["ours"], "ours", found["ours"], qemu) # the others are compared with it
        os.chdir("/")
        rest = [kind for kind in found if kind != "ours" and asked in kind]
        with concurrent.futures.ProcessPoolExecutor(AT_ONCE, multiprocessing.get_context("fork")) as pool:
            done = [pool.submit(run_one, folders[kind], kind, qemu) for kind in rest]
            for job in done:
                more, failed = job.result()
                lines += more
                failures += failed
    print(f"{lines} lines on {1 + len(rest)} servers, {failures} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
