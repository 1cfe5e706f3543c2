#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the project holds itself to: ratios of two sides that take turns. Started by bench/figures."""
import argparse
import dataclasses
import json
import os
import pathlib
import re
import statistics

import judge
import scratch
from work import LOOKUP, Work, end_with

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40


@dataclasses.dataclass
class Ratio:
    """Two sides, each a function that gives a sample: iops, and cpu_us for each request."""
    name: str
    side: object
    other: object
    bound: float | None  # None: to compare with
    of: str = "iops"
    at_most: bool = False


class Bench(Work):
    """Volumes in a scratch folder, and loads on them by our tool or by the peer's."""

    def fresh(self, kind, size, **options):
        """A new volume, with nothing of its making left to be paid."""
        path = f"fresh.{kind}"
        self.remove(path)
        words = [f"--{k}={v}" if len(k) > 1 else f"-{k}{v}" for k, v in options.items()]
        self.run(self.tool, "create", "-q", "-f", kind, *words, path, size)
        os.sync()
        return path

    def ours(self, *words):
        return self.bench(*words)

    def theirs(self, count, *words, cache="none", image_opts=False):
        how = [] if image_opts else ["-i", "io_uring"]
        sample = self.measured(self.peer, "bench", "-c", count, "-t", cache, *how, *words, keep=True)
        seconds = float(re.search(r"Run completed in ([0-9.]+) seconds", sample["out"])[1])
        return {"iops": count / seconds, "cpu_us": sample["cpu"] * 1e6 / count}

    # ---- the work -------------------------------------------------------------------------------------------

    def first_touch(self, kind, size, *words):
        return lambda: self.ours("-f", kind, "--depth", 32, *words, self.fresh(kind, size))

    def step_ours(self):
        return self.ours("-f", "qcow2", "--rw", "write", "--pattern", f"step:{64 * KIB}", "--count", 40000,
                         "--depth", 32, self.fresh("qcow2", 4 * GIB))

    def step_theirs(self):
        path = self.fresh("qcow2", 4 * GIB)
        return self.theirs(10000, "-f", "qcow2", "-w", "-n", "-s", 4096, "-S", 64 * KIB, "-d", 32, path)

    def written(self, name, kind):
        """A volume of which every byte has been written, made once."""
        if not self.path(name).exists():
            self.run(self.tool, "create", "-q", "-f", kind, name, GIB)
            self.run(self.tool, "bench", "-f", kind, "--rw", "write", "--bs", "1M", "--count", 1024, name)
            os.sync()
        return name

    def overlay(self):
        """A qcow2 volume over a base that holds data everywhere."""
        base = self.written("base.raw", "raw")
        path = self.path("overlay.qcow2")
        path.unlink(missing_ok=True)
        self.run(self.tool, "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", path.name)
        os.sync()
        return path.name

    def cow_ours(self):
        return self.ours("-f", "qcow2", "--rw", "write", "--pattern", f"step:{64 * KIB}", "--count", 8000,
                         "--depth", 32, self.overlay())

    def cow_theirs(self):
        return self.theirs(8000, "-f", "qcow2", "-w", "-n", "-s", 4096, "-S", 64 * KIB, "-d", 32,
                           self.overlay())

    def durable_ours(self):
        return self.ours("-f", "qcow2", "--rw", "write", "--pattern", f"step:{64 * KIB}", "--depth", 8, "--fua",
                         "--count", 4000, self.fresh("qcow2", GIB))

    def durable_theirs(self):
        """With directsync QEMU follows each write with a flush before it completes."""
        return self.theirs(1000, "-f", "qcow2", "-w", "-n", "-s", 4096, "-S", 64 * KIB, "-d", 8,
                           self.fresh("qcow2", GIB), cache="directsync")

    def rewrite_ours(self):
        return self.ours("-f", "qcow2", "--rw", "write", "--pattern", f"step:{37 * MIB + 4 * KIB}", "--count",
                         60000, "--depth", 32, "--register", self.written("allocated.qcow2", "qcow2"))

    def rewrite_theirs(self):
        return self.theirs(60000, "-f", "qcow2", "-w", "-n", "-s", 4096, "-S", 37 * MIB + 4 * KIB, "-d", 32,
                           self.written("allocated.qcow2", "qcow2"))

    def plain_fio(self, path, *words):
        """The floor and the ceiling: fio's io_uring engine, as cheap as it can be, on a plain file."""
        out = self.run("fio", "--name=limit", f"--filename={path}", f"--size={GIB}", "--direct=1", "--iodepth=32",
                       "--ioengine=io_uring", "--output-format=json", "--clocksource=clock_gettime",
                       "--gtod_reduce=1", "--norandommap", "--time_based", "--runtime=1s", *words)
        job = json.loads(out[out.index("{"):])["jobs"][0]
        ios = job["write"]["total_ios"]
        cpu = (job["usr_cpu"] + job["sys_cpu"]) / 100 * job["job_runtime"] / 1000
        return {"iops": ios / (job["write"]["runtime"] / 1000), "cpu_us": cpu * 1e6 / ios}

    def plain(self):
        """A file that has been written from end to end."""
        path = self.path("plain.raw")
        if not path.exists():
            self.run(self.tool, "create", "-q", "-f", "raw", "-o", "preallocation=full", path.name, GIB)
            os.sync()
        return path.name

    def rewrite_floor(self):
        return self.plain_fio(self.plain(), "--rw=randwrite", "--bs=4k", "--registerfiles", "--fixedbufs",
                              "--nonvectored=1", "--iodepth_batch=16", "--iodepth_batch_complete_min=16")

    def cow_ceiling(self):
        """As many reads as writes, of a cluster each: what copying up costs the device, whoever does it."""
        return self.plain_fio(self.plain(), "--rw=randrw", "--rwmixread=50", "--bs=64k")

    def null_rewrite_ours(self):
        """The engine's part of it: the data file takes no time."""
        return self.ours("--scenario", "lookup", "--rw", "randwrite", "--size", GIB, "--depth", 32,
                         "--count", 2000000)

    def null_rewrite_theirs(self):
        path = self.path("null-data.qcow2")
        if not path.exists():
            self.run(self.tool, "create", "-q", "-f", "qcow2", "-o",
                     "data_file=null-data.raw,preallocation=metadata", path.name, GIB)
        return self.theirs(200000, "-w", "-n", "-s", 4096, "-S", 37 * MIB + 4 * KIB, "-d", 32, "--image-opts",
                           f"driver=qcow2,file.driver=file,file.filename={path.name},file.cache.direct=on,"
                           f"data-file.driver=null-co,data-file.size={GIB}", image_opts=True)

    def lookup(self, queues):
        return lambda: self.ours("--scenario", "lookup", "--rw", "randread", "--latency", "off", "--queues",
                                 queues, "--depth", 64, "--runtime", 2, "--ramp", 0.2)

    def lookups_counted(self):
        """A number of them, for processor time: in a time, with other load, it can be few."""
        return self.ours("--scenario", "lookup", "--rw", "randread", "--latency", "off", "--depth", 64,
                         "--count", 40_000_000)

    def allocation(self, queues):
        return lambda: self.ours("--scenario", "first-touch", "--rw", "write", "--latency", "off", "--queues",
                                 queues, "--depth", 64)

    def mapped(self, size):
        """Random reads of an image whose clusters are all mapped to holes in the file."""
        path = self.path(f"mapped-{size}.qcow2")
        if not path.exists():
            self.run(self.tool, "create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", path.name, size)
            os.sync()
        return lambda: self.ours("-f", "qcow2", "--rw", "randread", "--runtime", 3, "--ramp", 2,
                                 "--metadata-cache", "32M", path.name)

    def chain(self, layers, spread):
        """So many overlays; the data is all in the base, or each of them has a share of it."""
        below = self.written("allocated.qcow2", "qcow2")
        for i in range(1, layers + 1):
            path = f"chain-{'spread' if spread else 'base'}-{layers}-{i}.qcow2"
            if not self.path(path).exists():
                self.run(self.tool, "create", "-q", "-f", "qcow2", "-b", below, "-F", "qcow2", path)
                if spread:
                    self.run(self.tool, "bench", "-f", "qcow2", "--rw", "randwrite", "--seed", i, "--bs", "64k",
                             "--count", GIB // (64 * KIB) // layers, path)
            below = path
        return below

    def deep(self, layers, spread=False):
        """Random reads through a chain, when each place has been read before."""
        return lambda: self.ours("-f", "qcow2", "--rw", "randread", "--latency", "off", "--depth", 32,
                                 "--runtime", 2, "--ramp", 5, self.chain(layers, spread))


def figures(b):
    rand = ("--rw", "randwrite", "--count", 40000)
    seq = ("--rw", "write", "--bs")
    return [
        Ratio("first touch 4k random qd32: sparse qcow2 / sparse raw", b.first_touch("qcow2", 16 * GIB, *rand),
              b.first_touch("raw", 16 * GIB, *rand), 1.0),
        Ratio("first touch 4k step 64k qd32: ours / QEMU", b.step_ours, b.step_theirs, 5),
        Ratio("first touch 64k sequential qd32: sparse qcow2 / sparse raw",
              b.first_touch("qcow2", 2 * GIB, *seq, "64k", "--count", 32768),
              b.first_touch("raw", 2 * GIB, *seq, "64k", "--count", 32768), 0.97),
        Ratio("first touch 1M sequential qd32: sparse qcow2 / sparse raw",
              b.first_touch("qcow2", 2 * GIB, *seq, "1M", "--count", 2048),
              b.first_touch("raw", 2 * GIB, *seq, "1M", "--count", 2048), 0.97),
        Ratio("first touch over a backing file 4k step 64k qd32: ours / QEMU", b.cow_ours, b.cow_theirs, 2),
        Ratio("first touch 4k write with flush (durable when done) qd8: ours / QEMU", b.durable_ours,
              b.durable_theirs, 3),
        Ratio("mapped 4k reads per CPU second, metadata in memory, no data / a reference loop", b.lookups_counted,
              lambda: b.reference("lookup", 1), LOOKUP, of="per_cpu_s"),
        Ratio("mapped 4k reads, metadata in memory, no data: 2 queues / 1 queue", b.lookup(2), b.lookup(1), 1.8),
        Ratio("allocating 4k writes in memory: 2 queues / 1 queue", b.allocation(2), b.allocation(1), 1.6),
        Ratio("CPU per 4k rewrite qd32: ours / QEMU", b.rewrite_ours, b.rewrite_theirs, 0.5, of="cpu_us",
              at_most=True),
        Ratio("the same without a device (data on null): ours / QEMU", b.null_rewrite_ours, b.null_rewrite_theirs,
              0.5, of="cpu_us", at_most=True),
        Ratio("limit: CPU per 4k rewrite, fio at its best on the same file / QEMU", b.rewrite_floor,
              b.rewrite_theirs, None, of="cpu_us"),
        Ratio("limit: first touch over a backing file, ours / fio reading and writing 64k each", b.cow_ours,
              b.cow_ceiling, None),
        Ratio("random 4k reads, all mapped, 32M of cache: 1T / 1G", b.mapped(TIB), b.mapped(GIB), 0.8),
        Ratio("random 4k reads, data in the base: 200 layers deep / 0", b.deep(200), b.deep(0), 0.95),
        Ratio("the same: CPU for each", b.deep(200), b.deep(0), 1.1, of="cpu_us", at_most=True),
        Ratio("the same, data in all of the layers", b.deep(200, True), b.deep(0), 0.95),
        Ratio("the same: CPU for each (200 files beside 1)", b.deep(200, True), b.deep(0), 1.1, of="cpu_us",
              at_most=True),
    ]


def beside(new, old):
    """Each thing that a figure measures of our tool, by two builds of it: the first by the second."""
    pairs = []
    for ours, others in zip(figures(new), figures(old)):
        if not ours.name.startswith("limit"):
            what = ours.name.split(" / ")[0].removesuffix(": ours")
            pairs.append(Ratio(f"{what}: this build / the other", ours.side, others.side, None, ours.of))
    return pairs


def measure(ratio, rounds, seconds):
    def value(r):
        return r["side"][ratio.of] / r["other"][ratio.of]

    figure = judge.Figure(ratio.name, value, ratio.bound, ratio.at_most)
    done = judge.gather({"side": ratio.side, "other": ratio.other}, [figure], rounds, seconds)
    medians = {side: statistics.median(r[side][ratio.of] for r in done) for side in ("side", "other")}
    return judge.judge_rounds(figure, done) | {"of": ratio.of} | medians


def line(row):
    return f"{judge.line(row)}   [{judge.show(row['side'])} / {judge.show(row['other'])}]"


def main():
    parser = argparse.ArgumentParser(prog="bench/figures", description="Measure what the project holds itself to.")
    parser.add_argument("--rounds", type=int, default=6, help="of each figure (6, the fewest that can tell)")
    parser.add_argument("--limit", type=float, default=20, metavar="SECONDS",
                        help="for more rounds of a figure that is undecided (20)")
    parser.add_argument("--only", metavar="REGEX", help="only figures whose name matches")
    parser.add_argument("--dir", default=".", help="where volumes are made; about 6 GiB")
    parser.add_argument("--against", metavar="TOOL", type=pathlib.Path,
                        help="another build's vdisk-io: the same work by both, taking turns, and no peer")
    parser.add_argument("--out", metavar="FILE", help="also write the result as JSON")
    for name in ("tool", "peer", "probe"):
        parser.add_argument(f"--{name}", required=True, help=argparse.SUPPRESS)
    args = parser.parse_args()
    rows = []
    with scratch.folder(args.dir, "vdisk-figures") as folder:
        bench = Bench(args.tool, args.peer, args.probe, folder)
        version = bench.run(args.peer, "--version").splitlines()[0]
        print(f"peer: {version}", flush=True)
        wanted = figures(bench)
        if args.against:
            (folder / "other").mkdir()
            wanted = beside(bench, Bench(args.against, args.peer, args.probe, folder / "other"))
        for ratio in wanted:
            if not args.only or re.search(args.only, ratio.name):
                rows.append(measure(ratio, args.rounds, args.limit))
                print(line(rows[-1]), flush=True)
    if args.out:
        pathlib.Path(args.out).write_text(json.dumps({"peer": version, "figures": rows}, indent=2) + "\n")


if __name__ == "__main__":
    end_with("bench/figures", main)
