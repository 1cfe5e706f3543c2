# SPDX-License-Identifier: LGPL-2.1-or-later
"""Run one measurement: fio with its own engine or ours, or qemu-img bench. Every command is recorded."""
import json
import os
import re
import shlex
import subprocess
import tempfile

from cells import MIB, Sample
from work import WorkError


class Loads:
    def __init__(self, fio_engine, vdisk_io, probe, peer, size, scratch, commands):
        self.fio_engine = fio_engine
        self.vdisk_io = vdisk_io
        self.probe = probe
        self.peer = peer  # a qemu-img
        self.size = size
        self.scratch = scratch
        self.commands = commands  # a file

    def run(self, command):
        """Its standard output."""
        command = [str(word) for word in command]
        self.commands.write(shlex.join(command) + "\n")
        self.commands.flush()
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode != 0:
            raise WorkError(f"{shlex.join(command)}\n{(done.stdout + done.stderr).strip()[-2000:]}")
        return done.stdout

    # ---- volumes ----------------------------------------------------------------------------------------

    def create(self, volume, path):
        """Make a volume afresh."""
        options = ["-o", f"preallocation={volume.prealloc}"] if volume.prealloc != "off" else []
        self.run([self.vdisk_io, "create", "-q", "-f", volume.format, *options, path, str(self.size)])

    def fill(self, volume, path):
        """
        Write all of a volume once, in random order. A sparse one gets the layout of a used one that way; and a
        device that keeps zeros, or nothing yet, in a cheaper form has the same to do for every volume afterwards.
        """
        self.fio(["--rw=randwrite", "--bs=64k", "--iodepth=32", "--end_fsync=1"], "vdisk", volume, path)

    # ---- fio --------------------------------------------------------------------------------------------

    def fio(self, options, engine, volume, path):
        """
        A job is a process of its own, so that its CPU time includes whatever threads an engine has. The clock is
        the kernel's: fio's own would be calibrated for 70 ms at each start.
        """
        if engine == "vdisk":
            # The format of a volume of a domain its name says.
            known = path.startswith("volume:")
            engine_options = [f"--ioengine=external:{self.fio_engine}",
                              *([] if known else [f"--format={volume.format}"])]
        else:
            engine_options = [f"--ioengine={engine}"]
        with tempfile.NamedTemporaryFile(dir=self.scratch, suffix=".json") as out:
            self.run(["fio", "--name=job", f"--output={out.name}", "--output-format=json",
                      f"--filename={path.replace(':', chr(92) + ':')}", f"--size={self.size}", "--direct=1",
                      "--clocksource=clock_gettime", "--clat_percentiles=0", "--lat_percentiles=1",
                      "--percentile_list=50:99:99.9", *engine_options, *options])
            text = open(out.name).read()
        job = json.loads(text[text.index("{"):])["jobs"][0]
        if job["error"]:
            raise WorkError(f"fio: {os.strerror(job['error'])}: {text[:500]}")
        return job

    def fio_sample(self, pattern, side, path, seconds, seed):
        rw = ("rand" if pattern.order == "rand" else "") + ("write" if pattern.write else "read")
        options = [f"--rw={rw}", f"--bs={pattern.block}", f"--iodepth={pattern.depth}",
                   f"--runtime={int(seconds * 1000)}ms", f"--randseed={seed}"]
        if pattern.touch == "first":
            # Each block once, and what has been put off is paid at the end, by both sides.
            options += ["--end_fsync=1"]
        else:
            options += ["--time_based", "--norandommap"]
        job = self.fio(options, side.engine, side.volume, path)
        stats = job["write" if pattern.write else "read"]
        ios = stats["total_ios"]
        runtime = stats["runtime"] / 1000
        if not ios or not runtime:
            raise WorkError(f"{pattern.name}: {side.name}: no I/O was done in {seconds:.1f} s")
        cpu = (job["usr_cpu"] + job["sys_cpu"]) / 100 * job["job_runtime"] / 1000
        return Sample(iops=ios / runtime, bytes_per_s=ios * pattern.block / runtime,
                      p99_us=stats["lat_ns"]["percentile"]["99.000000"] / 1000, cpu_us=cpu * 1e6 / ios,
                      seconds=runtime)

    # ---- qemu-img bench -----------------------------------------------------------------------------------

    def qemu_sample(self, pattern, side, path, count):
        """Its CPU time is that of the whole process: start and end are in it."""
        command = [self.peer, "bench", "-i", "io_uring", "-t", "none", "-f", side.volume.format,
                   "-c", str(count), "-d", str(pattern.depth), "-s", str(pattern.block), path]
        if pattern.write:
            command.insert(2, "-w")
        before = os.times()
        out = self.run(command)
        after = os.times()
        took = re.search(r"Run completed in ([0-9.]+) seconds", out)
        if not took or float(took[1]) == 0:
            raise WorkError(f"qemu-img bench said: {out}")
        seconds = float(took[1])
        cpu = (after.children_user - before.children_user) + (after.children_system - before.children_system)
        return Sample(iops=count / seconds, bytes_per_s=count * pattern.block / seconds, p99_us=None,
                      cpu_us=cpu * 1e6 / count, seconds=seconds)

    def sample(self, pattern, side, path, seconds, seed, limit):
        if side.engine != "qemu":
            return self.fio_sample(pattern, side, path, seconds, seed)
        # As many requests as the limit would do in the time. It ends where the volume does: a file that is longer
        # by half a block would end the next lap, and it, with an error.
        count = max(int((limit.iops if limit else 20000) * seconds), pattern.depth, 64)
        return self.qemu_sample(pattern, side, path, min(count, self.size // pattern.block))

    # ---- the mapping, without a device --------------------------------------------------------------------

    def lookup(self, count):
        """Mapped 4 KiB reads per CPU second of a qcow2 volume with metadata in memory and data nowhere. So many of
        them, and for no time: with other load that would be too few to tell."""
        out = self.run([self.vdisk_io, "bench", "--scenario", "lookup", "--rw", "randread", "--latency", "off",
                        "--depth", 64, "--output", "json", "--count", count])
        return 1e6 / max(json.loads(out)["cpu"]["us-per-request"], 1e-4)

    def lookup_reference(self, seconds):
        """What a loop that has nothing of ours does in a CPU second."""
        return json.loads(self.run([self.probe, "lookup", f"{seconds:g}"]))["per_cpu_s"]


def parse_size(text):
    units = {"K": 1 << 10, "M": MIB, "G": 1 << 30, "T": 1 << 40}
    text = text.strip().upper()
    factor = units.get(text[-1:], 1)
    number = int(text[:-1] if factor > 1 else text)
    if number <= 0:
        raise ValueError("a size is more than 0")
    return number * factor
