#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Images of Ceph: our fio engine beside fio's own (ioengine=rbd, which Debian's fio has), and `convert` to an
image beside `rbd import` and `qemu-img convert`, over a Ceph of one machine (tests/rbd/ceph), in rounds.

Started by `bench/net rbd`, which gives it FIO_ENGINE and VDISK_IO.

librbd's cache is off for all of them, and sources are read past the host's, but by `rbd import`, which cannot.
Its objects are in memory, so that the cluster costs as little as it can, and what clients do shows; all of it runs
on the same processors. CPU is that of the client's process from its start on, with librbd's threads, which fio
itself does not count. Exits 1 if a figure is missed.
"""
import argparse
import dataclasses
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))
sys.dont_write_bytecode = True
import judge  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parent.parent
CEPH = ROOT / "tests/rbd/ceph"
MIB = 1 << 20


@dataclasses.dataclass
class Done:
    seconds: float
    cpu: float        # seconds of it
    count: int = 1    # of requests

    @property
    def rate(self):
        return self.count / self.seconds


def run(command, **more):
    """Its output, and what it took."""
    command = [str(word) for word in command]
    before, started = os.times(), time.monotonic()
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, **more)
    seconds, after = time.monotonic() - started, os.times()
    if done.returncode:
        sys.exit(f"net_rbd: {' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout, Done(seconds, after.children_user - before.children_user +
                             after.children_system - before.children_system)


class Bench:
    def __init__(self, args, folder):
        self.args, self.folder = args, folder
        self.seed = 0
        self.source = folder / "source.raw"

    # ---- fio ----------------------------------------------------------------------------------------------

    def fio(self, rw, engine):
        self.seed += 1
        out = self.folder / "fio.json"
        done = run(["fio", "--name=job", f"--output={out}", "--output-format=json", f"--rw={rw}", "--bs=4k",
                    "--iodepth=32", "--direct=1", "--norandommap", f"--number_ios={self.args.count}",
                    f"--io_size={self.args.count * 8192}", f"--randseed={self.seed}", f"--size={self.args.size}",
                    "--clocksource=clock_gettime", *engine])[1]
        text = out.read_text()
        job = json.loads(text[text.index("{"):])["jobs"][0]
        if job["error"]:
            sys.exit(f"net_rbd: fio: {os.strerror(job['error'])}")
        stats = job["write" if "write" in rw else "read"]
        if stats["total_ios"] < self.args.count:
            sys.exit(f"net_rbd: fio has made {stats['total_ios']} requests of {self.args.count}")
        return Done(stats["runtime"] / 1000, done.cpu, stats["total_ios"])

    def ours(self, rw):
        return self.fio(rw, [f"--ioengine=external:{self.args.fio_engine}", "--format=raw",
                             "--filename=rbd\\:rbd/load"])

    def theirs(self, rw):
        """Without librbd's cache, as ours."""
        return self.fio(rw, ["--ioengine=rbd", "--pool=rbd", "--rbdname=load", "--clientname=admin"])

    def fill(self):
        run([self.args.vdisk_io, "create", "-q", "-f", "raw", "rbd:rbd/load", self.args.size])
        run([self.args.vdisk_io, "bench", "-f", "raw", "--rw", "write", "--bs", "4M", "--depth", "8",
             "--count", self.args.size // (4 * MIB), "rbd:rbd/load"])

    # ---- copies -------------------------------------------------------------------------------------------

    def make_source(self):
        data = random.Random(1).randbytes(16 * MIB)
        with open(self.source, "wb") as file:
            for _ in range(self.args.size // len(data)):
                file.write(data)

    def copy(self, command):
        """To an image that is not there; what is in it is not looked at: the tests do that."""
        subprocess.run(["rbd", "rm", "--no-progress", "rbd/copy"], capture_output=True)
        done = run(command)[1]
        done.count = self.args.size
        return done


def ratio(text, new, old, bound, value=lambda done: done.rate, at_most=False):
    return judge.Figure(text, lambda r: value(r[new]) / max(value(r[old]), 1e-9), bound, at_most)


def cpu_each(done):
    return done.cpu / done.count


def load_line(rw, kind):
    sides = {"vdisk": lambda b: b.ours(rw), "fio's rbd": lambda b: b.theirs(rw)}
    return sides, [ratio(f"RBD 4 KiB random {kind}, depth 32: IOPS against fio's rbd engine", "vdisk", "fio's rbd",
                         0.97),
                   ratio(f"RBD 4 KiB random {kind}, depth 32: CPU per request against fio's rbd engine", "vdisk",
                         "fio's rbd", 1.1, cpu_each, True)]


def copy_line():
    sides = {
        "vdisk": lambda b: b.copy([b.args.vdisk_io, "convert", "-f", "raw", "-O", "raw", b.source,
                                   "rbd:rbd/copy"]),
        "rbd import": lambda b: b.copy(["rbd", "import", "--no-progress", b.source, "rbd/copy"]),
        "qemu-img": lambda b: b.copy(["qemu-img", "convert", "-f", "raw", "-O", "raw", "-T", "none", "-t", "none",
                                      b.source, "rbd:rbd/copy"]),
    }
    return sides, [ratio("convert raw to RBD: speed against rbd import", "vdisk", "rbd import", 1.0),
                   ratio("convert raw to RBD: speed against qemu-img", "vdisk", "qemu-img", 2.0),
                   ratio("convert raw to RBD: CPU against rbd import", "vdisk", "rbd import", None, cpu_each)]


LINES = {"randread": lambda: load_line("randread", "read"), "randwrite": lambda: load_line("randwrite", "write"),
         "convert": copy_line}


def measure(args, folder):
    bench, missed = Bench(args, folder), False
    if {"randread", "randwrite"} & set(args.lines):
        bench.fill()
    if "convert" in args.lines:
        bench.make_source()
    for name in args.lines:
        sides, figures = LINES[name]()
        rounds = judge.gather({side: (lambda f=f: f(bench)) for side, f in sides.items()}, figures, args.rounds, 0)
        for side in sides:
            done = sorted(r[side].rate for r in rounds)[len(rounds) // 2]
            told = f"{done / MIB:,.0f} MiB/s" if name == "convert" else f"{done:,.0f} IOPS"
            cpu = sorted(cpu_each(r[side]) for r in rounds)[len(rounds) // 2]
            print(f"{name}: {side}: {told}, " + (f"{cpu * args.size:.2f} s of CPU" if name == "convert"
                                                 else f"{cpu * 1e6:.1f} us of CPU each"), flush=True)
        for figure in figures:
            row = judge.judge_rounds(figure, rounds)
            print(judge.line(row), flush=True)
            missed |= row["verdict"] == judge.MISSED
    return missed


def main():
    parser = argparse.ArgumentParser(prog="bench/net rbd",
                                     description="Measure images of Ceph beside fio's engine, "
                                     "rbd import and qemu-img, in rounds.")
    parser.add_argument("fio_engine", type=os.path.abspath, help=argparse.SUPPRESS)
    parser.add_argument("vdisk_io", type=os.path.abspath, help=argparse.SUPPRESS)
    parser.add_argument("lines", nargs="*", metavar="LINE", help=", ".join(LINES))
    parser.add_argument("--size", type=int, default=4 << 30, help="bytes of the images (4 GiB)")
    parser.add_argument("--count", type=int, default=100000, help="requests of each fio run (100000)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--scratch", help="folder for the source and the cluster's files")
    args = parser.parse_intermixed_args()
    args.lines = args.lines or list(LINES)
    if set(args.lines) - set(LINES):
        parser.error(f"lines are {', '.join(LINES)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143)) # the cluster ends as well
    with tempfile.TemporaryDirectory(prefix="net-rbd-", dir=args.scratch) as folder:
        ceph = pathlib.Path(folder) / "ceph"
        os.environ.update(CEPH_CONF=str(ceph / "ceph.conf"), CEPH_STORE="memstore", CEPH_BYTES=str(4 * args.size))
        done = subprocess.run([CEPH, "start", ceph], stdout=subprocess.PIPE, text=True)
        try:
            if done.returncode:
                print(done.stdout, end="")
                return done.returncode
            with open(os.environ["CEPH_CONF"], "a") as conf: # for all clients alike
                conf.write("[client]\nrbd_cache = false\n")
            return 1 if measure(args, pathlib.Path(folder)) else 0
        finally:
            subprocess.run([CEPH, "stop", ceph])


if __name__ == "__main__":
    sys.exit(main())
