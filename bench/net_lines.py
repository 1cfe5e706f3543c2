# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The lines of bench/net: an image that a server gives to one client, the same for all servers, on a unix socket.

One server runs at a time, from before the client comes until it has gone. Its processor time is that of the
process with all of its threads, between these two; the client's is not in it.
"""
import contextlib
import json
import pathlib
import shutil
import socket
import subprocess
import tempfile
import time

from job_images import MIB, Images, Skip, text
from job_lines import Line, Maker, speed
from judge import Figure
from page import OF_QEMU
from work import WorkError

DEPTH, CONNECTIONS = 32, 4
START = STOP = 20 # seconds that a server may take
SMALL, LARGE = 4096, MIB
TOUCHED = 16       # as large as others is the volume of first touch


# ---- figures ------------------------------------------------------------------------------------------------

def times(what, bound, other, of):
    return Figure(of, lambda r: r["ours"][what] / r[other][what], bound)


def rate(bound, what="iops"):
    return times(what, bound, "QEMU", OF_QEMU)


def thrift(bound):
    return times("per_cpu_s", bound, "QEMU", "times QEMU's requests in a CPU second of the server")


# ---- servers ------------------------------------------------------------------------------------------------

def cpu(pid):
    """Seconds that a process has taken with all of its threads: its clock, by its number (clock_getcpuclockid)."""
    return time.clock_gettime(~pid << 3 | 2)


def most_memory(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    raise WorkError(f"process {pid} has no memory")


def wait_for(path, child, said):
    """Until somebody can connect there."""
    end = time.monotonic() + START
    while True:
        with socket.socket(socket.AF_UNIX) as s:
            try:
                return s.connect(str(path))
            except OSError:
                pass
        if child.poll() is not None or time.monotonic() > end:
            raise WorkError(f"{child.args[0]} does not serve: {said.read_text().strip()[-2000:]}")
        time.sleep(0.01)


@contextlib.contextmanager
def serving(work, path, words):
    """A server that listens on `path`; its process id."""
    words, said = [str(word) for word in words], work.path("server.log")
    work.record(words)
    path.unlink(missing_ok=True)
    with open(said, "w") as log, subprocess.Popen(words, cwd=work.folder, stdin=subprocess.DEVNULL, stdout=log,
                                                  stderr=log) as child:
        try:
            wait_for(path, child, said)
            yield child.pid
            ended = child.poll()
        finally:
            child.terminate()
            try:
                child.wait(STOP)
            except subprocess.TimeoutExpired:
                child.kill()
    if ended is not None:
        raise WorkError(f"{words[0]} has ended by itself: {said.read_text().strip()[-2000:]}")
    work.remove("server.log")


class NetImages(Images):
    """One volume in two formats, all of it written; and where the servers' socket is."""

    def __init__(self, work, sizes):
        super().__init__(work, sizes)
        s = sizes
        self.space = {"volume.qcow2": s.main + 4 * MIB, "volume.raw": s.main}
        self.folder = None

    def socket(self):
        """A short name, whatever the folder's is."""
        self.folder = self.folder or tempfile.mkdtemp(prefix="vdisk-net-")
        return pathlib.Path(self.folder) / "nbd"

    def leave(self):
        super().leave()
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder = None

    def make_volume(self, kind):
        name = f"volume.{kind}"
        self.tool("create", "-q", "-f", kind, "-o", "preallocation=falloc", name, self.sizes.main)
        self.tool("bench", "-f", kind, "--rw", "write", "--bs", MIB, "--count", self.sizes.main // MIB, name)

    def make_volume_qcow2(self):
        self.make_volume("qcow2")

    def make_volume_raw(self):
        self.make_volume("raw")


class NetMaker(Maker):
    """What a client does, and who serves it."""

    def __init__(self, work, images):
        super().__init__(work, images)
        self.fio_has = None # an nbd engine; None: not known yet
        self.ms = 4000 if self.s.scale == 1 else 1000 if self.s.scale < 1024 else 200

    # ---- who serves -----------------------------------------------------------------------------------------

    def ours(self, kind, name, *options):
        return (self.w.tool, "nbd", "-t", "-e", 0, "-k", self.images.socket(), "-f", kind, *options, name)

    def qemu(self, kind, name):
        program = shutil.which(pathlib.Path(self.w.peer).with_name("qemu-nbd"))
        if not program:
            raise Skip(f"there is no qemu-nbd beside {self.w.peer}")
        return (program, "-t", "-e", 2 * CONNECTIONS, "-k", self.images.socket(), "-f", kind, "--cache=none",
                "--aio=io_uring", name)

    def nbdkit(self, name):
        program = shutil.which("nbdkit")
        if not program:
            raise Skip("there is no nbdkit")
        return (program, "-f", "-U", self.images.socket(), "file", name)

    # ---- the client -----------------------------------------------------------------------------------------

    def uri(self):
        return f"nbd+unix:///?socket={self.images.socket()}"

    def fio_nbd(self):
        if self.fio_has is None:
            self.fio_has = self.fio and "nbd" in self.w.run("fio", "--enghelp").split()
        if not self.fio_has:
            raise Skip("there is no fio with an nbd engine")

    def load(self, server, rw, block=SMALL, connections=1, touches=False):
        """By fio, for some time; or in a large volume, so few times that next to none meets a cluster again, and a
        flush at the end."""
        how = [f"--size={TOUCHED * self.s.main}", f"--io_size={self.s.main // 16}", "--norandommap",
               "--end_fsync=1"] if touches else \
            [f"--size={self.s.main}", "--time_based", f"--runtime={self.ms}ms"]
        self.fio_nbd()
        with serving(self.w, self.images.socket(), server) as pid:
            before = cpu(pid)
            out = self.w.run("fio", "--output-format=json", "--ioengine=nbd", f"--uri={self.uri()}",
                             "--name=load", f"--rw={rw}", f"--bs={block}", f"--iodepth={DEPTH}",
                             f"--numjobs={connections}", *how, "--thread", "--group_reporting",
                             "--gtod_reduce=1", "--randrepeat=0")
            took, memory = cpu(pid) - before, most_memory(pid)
        job = json.loads(out[out.index("{"):])["jobs"][0]
        return sample(job, "read" if "read" in rw else "write", took, memory, whole=touches)

    def plain(self, rw):
        """The same of a file, past the page cache."""
        self.fio_nbd()
        out = self.w.run("fio", "--output-format=json", "--ioengine=io_uring", "--direct=1",
                         "--filename=volume.raw", "--name=load", f"--rw={rw}", f"--bs={LARGE}",
                         f"--iodepth={DEPTH}", f"--size={self.s.main}", "--time_based",
                         f"--runtime={self.ms}ms", "--thread", "--gtod_reduce=1")
        job = json.loads(out[out.index("{"):])["jobs"][0]
        return {"bytes_per_s": job[rw]["io_bytes"] / job[rw]["total_ios"] * job[rw]["iops"]}

    def fresh(self, server, **how):
        """On a sparse volume that nothing has been written to."""
        self.w.remove("target")
        self.w.run(self.w.tool, "create", "-q", "-f", "qcow2", "target", TOUCHED * self.s.main)
        self.w.settle()
        try:
            return self.load(server, touches=True, **how)
        finally:
            self.w.remove("target")

    # ---- lines ----------------------------------------------------------------------------------------------

    def both(self, **how):
        kind, name = "qcow2", "volume.qcow2"
        return {"ours": lambda: self.load(self.ours(kind, name), **how),
                "QEMU": lambda: self.load(self.qemu(kind, name), **how)}

    def small(self):
        for work, (asked, thrifty) in {"read": (1.1, 2.5), "write": (2.0, 3.0)}.items():
            yield Line(f"4 KiB random {work}, preallocated qcow2", self.both(rw=f"rand{work}"),
                       [rate(asked), thrift(thrifty)], ("volume.qcow2",), of="iops")
        yield Line("4 KiB random write, first touch on sparse qcow2", {
            "ours": lambda: self.fresh(self.ours("qcow2", "target"), rw="randwrite"),
            "QEMU": lambda: self.fresh(self.qemu("qcow2", "target"), rw="randwrite")},
                   [rate(4), thrift(None)], (), self.s.main + 4 * MIB, of="iops")

    def several(self):
        for work in ("read", "write"):
            one = {"one connection": lambda rw=f"rand{work}": self.load(self.ours("qcow2", "volume.qcow2"), rw=rw)}
            yield Line(f"4 KiB random {work}, {CONNECTIONS} connections",
                       self.both(rw=f"rand{work}", connections=CONNECTIONS) | one,
                       [rate(1.5), times("iops", 1.5, "one connection", "times as fast as one connection of ours"),
                        thrift(None)], ("volume.qcow2",), of="iops")

    def large(self):
        """Beside a file that is served by nobody: where a server is as fast, no other can be faster."""
        for work in ("read", "write"):
            file = {"file": lambda work=work: self.plain(work)}
            yield Line(f"1 MiB sequential {work}, preallocated qcow2", self.both(rw=work, block=LARGE) | file,
                       [rate(1.2, "bytes_per_s"), thrift(None),
                        times("bytes_per_s", None, "file", "of a file's bandwidth, as fio shows it"),
                        Figure("of a file's bandwidth: QEMU", lambda r: r["QEMU"]["bytes_per_s"] /
                               r["file"]["bytes_per_s"])], ("volume.qcow2", "volume.raw"), of="bytes_per_s")

    def memory(self):
        """nbdkit's file plugin goes through the page cache: so do we."""
        thrifty = "times nbdkit's requests in a CPU second of the server"
        for work in ("read", "write"):
            yield Line(f"4 KiB random {work}, raw in the page cache", {
                "ours": lambda rw=f"rand{work}": self.load(self.ours("raw", "volume.raw", "--cache", "writeback"),
                                                           rw=rw),
                "nbdkit": lambda rw=f"rand{work}": self.load(self.nbdkit("volume.raw"), rw=rw)},
                       [times("iops", None, "nbdkit", "times as fast as nbdkit"),
                        times("per_cpu_s", None, "nbdkit", thrifty)], ("volume.raw",), of="iops")

    def client(self):
        """By our own client; beside the file that is served, and beside nbdcopy."""
        for work in ("read", "write"):
            words = ("-f", "raw", "--rw", f"rand{work}", "--bs", "4K", "--depth", DEPTH,
                     "--runtime", self.ms / 1000)
            yield Line(f"4 KiB random {work} by our client, raw", {
                "ours": lambda words=words: self.through(lambda: self.w.bench(*words, self.uri())),
                "file": lambda words=words: self.w.bench(*words, "volume.raw")},
                       [times("iops", 0.5, "file", "of the file's requests a second")], ("volume.raw",), of="iops")
        how = ("convert", "-q", "-f", "raw", "-O", "raw", self.uri(), "target")
        yield Line(f"copy of an export by our client, raw, {text(self.s.main)}", {
            "ours": lambda: self.through(lambda: self.copied(self.w.tool, *how)),
            "nbdcopy": lambda: self.through(lambda: self.copied(self.nbdcopy(), self.uri(), "target"))},
                   [speed(1, "nbdcopy", "times as fast as nbdcopy")], ("volume.raw",), self.s.main)

    def through(self, measure):
        with serving(self.w, self.images.socket(), self.ours("raw", "volume.raw")):
            self.has_client()
            return measure()

    def has_client(self):
        try:
            self.w.run(self.w.tool, "info", "-f", "raw", self.uri())
        except WorkError as error:
            if "is not supported" not in str(error):
                raise
            raise Skip("this build of vdisk-io has no driver for names of NBD exports") from None

    def copied(self, *words):
        self.w.remove("target")
        self.w.settle()
        try:
            return self.w.measured(*words)
        finally:
            self.w.remove("target")

    def nbdcopy(self):
        program = shutil.which("nbdcopy")
        if not program:
            raise Skip("there is no nbdcopy")
        return program

    def lines(self):
        for part in (self.small, self.several, self.large, self.memory, self.client):
            yield from part()


def sample(job, way, took, memory, whole):
    """Of what fio tells of a job, and what the server took. `whole`: until the last flush."""
    done = job[way]["total_ios"]
    if not done or job["error"]:
        raise WorkError(f"fio has done nothing: error {job['error']}")
    seconds = job["job_runtime"] / 1000 if whole else done / job[way]["iops"]
    return {"iops": done / seconds, "bytes_per_s": job[way]["io_bytes"] / seconds,
            "per_cpu_s": done / max(took, 1e-6), "cpu_us": took / done * 1e6, "rss": memory}
