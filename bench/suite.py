#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The benchmark suite; started by bench/run, which builds what it needs."""
import argparse
import contextlib
import json
import os
import pathlib
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import time

import judge
import machine
import report
import scratch
from cells import GIB, patterns
from domain_volumes import DomainVolumes, GroupVolumes
from jobs import ROUNDS as ROUNDS_OF_JOBS, Jobs, describe, fitting, summary
from load import Loads, parse_size
from volumes import Volumes
from work import Work, end_with, given, say

# Default run: time for all, in seconds, once built; and what one measurement costs besides its own time.
BUDGET, OVERHEAD = 190, 0.27
# More rounds for figures that are undecided, in seconds.
DECIDE, FULL_DECIDE = 20, 180
# One measurement of lookups: how many, and CPU seconds of the loop beside them.
LOOKUPS, LOOKUP_SECONDS = 15_000_000, 0.4
# Bulk work: what sizes are divided by, and seconds for more rounds of a line that is undecided.
JOBS_SCALE, JOBS_SECONDS, FULL_JOBS_SCALE, FULL_JOBS_SECONDS = 32, 3, 16, 20
# Of key cells many and short: the machine's speed changes from second to second, so pairs count, not their length.
ROUNDS, KEY_ROUNDS, KEY_FIRST_ROUNDS = 2, 14, 4
FULL_ROUNDS, FULL_KEY_ROUNDS, FULL_SECONDS = 5, 9, 2.5
KEY_WEIGHT = 0.8  # a key cell's measurement takes this part of the others'


class Plan:
    """How many rounds of each pattern, and how long one measurement takes."""

    def __init__(self, chosen, full, seconds):
        self.chosen = chosen
        self.full = full
        self.seconds = seconds or FULL_SECONDS

    def rounds(self, pattern):
        if self.full:
            return FULL_KEY_ROUNDS if pattern.key else FULL_ROUNDS
        if not pattern.key:
            return ROUNDS
        return KEY_FIRST_ROUNDS if pattern.touch == "first" else KEY_ROUNDS

    @property
    def last_round(self):
        return max(self.rounds(p) for p in self.chosen)

    def fit(self, seconds_left):
        """Choose the length of a measurement so that all fit."""
        count = sum(self.rounds(p) * len(p.sides) for p in self.chosen)
        weight = sum(self.rounds(p) * len(p.sides) * (KEY_WEIGHT if p.key else 1) for p in self.chosen)
        self.seconds = min(max((seconds_left - count * OVERHEAD) / weight, 0.2), 2.0)

    def length(self, pattern):
        return self.seconds * KEY_WEIGHT if pattern.key and not self.full else self.seconds


def is_group(domain):
    return domain not in (None, "file")


def volumes_of(args, loads, scratch, device, say):
    if is_group(args.domain):
        return GroupVolumes(loads, scratch, say, args.domain)
    return DomainVolumes(loads, scratch, say) if args.domain else Volumes(loads, scratch, device, say)


class Suite:
    def __init__(self, args, loads, plan, scratch, device):
        self.args = args
        self.loads = loads
        self.plan = plan
        self.volumes = volumes_of(args, loads, scratch, device, self.say)
        self.rows = report.make_rows(plan.chosen)
        self.started = time.monotonic()
        self.cut_short = False

    def elapsed(self):
        return time.monotonic() - self.started

    def say(self, text):
        print(f"[{self.elapsed():5.0f} s] {text}", file=sys.stderr, flush=True)

    def late(self, number):
        """Past the time that a default run may take? The first round is always finished."""
        if not self.plan.full and number > 1 and self.elapsed() > BUDGET + 10:
            self.cut_short = True
        return self.cut_short

    def measure(self, number, pattern, side, path):
        row = report.find(self.rows, pattern, side)
        limit = row.limits.get(number)
        sample = self.loads.sample(pattern, side, path, self.plan.length(pattern), number, limit)
        row.samples[number] = sample
        return sample

    def order(self, pattern, number):
        """Sides take turns in being first; qemu-img goes last, its work is sized by the limit's."""
        ours = [s for s in pattern.sides if s.engine != "qemu"]
        return (ours if number % 2 else ours[::-1]) + [s for s in pattern.sides if s.engine == "qemu"]

    def run(self):
        used = {side.volume for p in self.plan.chosen if p.touch != "first" for side in p.sides}
        if used:
            self.volumes.prepare(used)
        if not self.plan.full and not self.args.seconds:
            self.plan.fit(BUDGET - self.elapsed())
        self.say(f"measuring: {self.plan.seconds:.2f} s each, key cells {KEY_WEIGHT} of that, in rounds")
        for number in range(1, self.plan.last_round + 1):
            for pattern in self.plan.chosen:
                if number <= self.plan.rounds(pattern) and not self.late(number):
                    self.run_pattern(number, pattern)

    def run_pattern(self, number, pattern):
        done = {}
        for side in self.order(pattern, number):
            if pattern.touch == "first":
                done[side] = self.measure(number, pattern, side, self.volumes.make_fresh(side))
                self.volumes.drop_fresh()
            else:
                done[side] = self.measure(number, pattern, side, self.volumes.ready(side))
                self.volumes.written(side, pattern)
        values = " | ".join(f"{s.name} {done[s].iops:,.0f}" for s in pattern.sides)
        self.say(f"round {number}/{max(number, self.plan.rounds(pattern))} {pattern.name}: {values}")

    def undecided(self):
        """Patterns that have a figure which more rounds could decide."""
        names = {row["pattern"] for row in report.figures(self.rows, []) if row["verdict"] == judge.UNDECIDED}
        return [p for p in self.plan.chosen if p.name in names]

    def decide(self):
        """Rounds beyond the plan, while a figure is undecided and there is time."""
        end = self.elapsed() + (FULL_DECIDE if self.plan.full else DECIDE)
        number = self.plan.last_round
        while self.elapsed() < end and not self.cut_short:
            patterns = self.undecided()
            if not patterns:
                return
            self.say(f"more rounds, undecided: {', '.join(p.name for p in patterns)}")
            for _ in range(judge.MORE):
                number += 1
                for pattern in patterns:
                    if self.elapsed() < end:
                        self.run_pattern(number, pattern)


def lookups(loads):
    """Rounds of lookups, and of the loop that they are held against."""
    sides = {"ours": lambda: loads.lookup(LOOKUPS), "loop": lambda: loads.lookup_reference(LOOKUP_SECONDS)}
    figure = judge.Figure("", lambda r: r["ours"] / r["loop"], report.LOOKUP)
    return judge.gather(sides, [figure], 6, 10)


def bulk_work(args, loads, folder, undo):
    """The jobs that the report shows, as it stores them. None on a block device."""
    if not folder or args.jobs == "none":
        return None

    def make(scale):
        return Jobs(Work(loads.vdisk_io, args.peer, loads.probe, folder, loads.commands), scale,
                    short=args.jobs == "short")
    jobs = fitting(folder, make, FULL_JOBS_SCALE if args.full else JOBS_SCALE)
    undo.callback(jobs.images.leave)
    jobs.run(ROUNDS_OF_JOBS, FULL_JOBS_SECONDS if args.full else JOBS_SECONDS, say)
    return {"scale": jobs.images.sizes.scale, "lines": jobs.rows}


# ---- set-up -------------------------------------------------------------------------------------------------

def die(text):
    sys.exit(f"bench/run: {text}")


def parse_args():
    parser = argparse.ArgumentParser(
        prog="bench/run", description="Measure raw and qcow2 volumes with fio, through libvdisk and beside fio's "
        "own io_uring engine and qemu-img bench.")
    parser.add_argument("--dir", default=".", metavar="DIR|DEVICE", help="where the volumes are made: a directory "
                        "(a temporary one is made in it), or a block device, whose content is lost")
    parser.add_argument("--out", metavar="DIR", help="report folder (default: report-DATE here)")
    parser.add_argument("--size", type=parse_size, default=GIB, help="size of a volume (default 1G)")
    parser.add_argument("--full", action="store_true", help="longer and more rounds: about 40 minutes")
    parser.add_argument("--seconds", type=float, help="length of one measurement, instead of what fits")
    parser.add_argument("--only", metavar="REGEX",
                        help="only patterns whose name matches, such as 'rand.*4k qd32'")
    parser.add_argument("--domain", nargs="?", const="file", metavar="file|GROUP",
                        help="the volumes are of a storage domain, made through the domain layer and opened by "
                        "their names: of one in a folder, made in --dir (file, the default), or of one that is "
                        "there in a volume group, named by its path, /dev/UUID; they go afterwards")
    parser.add_argument("--jobs", choices=["none", "short", "all"], default="short",
                        help="bulk work (see bench/jobs) in the report: some lines of it (default), all, or none")
    parser.add_argument("--overwrite-device", action="store_true",
                        help="use a block device that holds something")
    parser.add_argument("--build", required=True, type=pathlib.Path, help=argparse.SUPPRESS)
    parser.add_argument("--peer", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--fio-engine", required=True, type=pathlib.Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def check_directory(folder, size):
    free = shutil.disk_usage(folder).free
    need = 3 * size + (64 << 20) # two that stay, one that is fresh
    if free < need:
        die(f"{folder}: needs {need >> 20} MiB and has {free >> 20} MiB: give a smaller --size, or another --dir")
    probe = folder / "probe"
    probe.write_bytes(bytes(4096))
    try:
        os.close(os.open(probe, os.O_RDONLY | os.O_DIRECT))
    except OSError:
        die(f"{folder}: the file system has no direct I/O: give another --dir")
    finally:
        probe.unlink()


def check_device(device, args):
    if not args.overwrite_device and machine.device_in_use(device):
        die(f"{device} is mounted or holds something; its content would be lost: --overwrite-device to do so")


def check_group(args):
    """It is there, and has space: three volumes that stay, one that is fresh."""
    done = subprocess.run([args.build / "tools" / "vdisk-io", "domain", "info", "--output", "json", args.domain],
                          capture_output=True, text=True, check=False)
    if done.returncode != 0:
        die(done.stderr.strip())
    free, need = json.loads(done.stdout)["available"], 4 * (args.size + args.size // 8) + (1 << 30)
    if not args.domain.startswith("/dev/"):
        die(f"--domain {args.domain}: is no path of a volume group, /dev/UUID")
    if free < need:
        die(f"--domain {args.domain}: needs {need >> 20} MiB and has {free >> 20} MiB: give a smaller --size")


@contextlib.contextmanager
def target(args):
    """Yields (scratch folder, device or None) and removes what was made."""
    scratch.refuse_name(args.dir)
    try:
        mode = os.stat(args.dir).st_mode
    except OSError as error:
        die(f"--dir {args.dir}: {error.strerror}")
    is_device = stat.S_ISBLK(mode) # its content is replaced
    if is_device and args.domain:
        die(f"--dir {args.dir}: a storage domain is not made on a block device: give the folder of one, or the "
            "path of one in a volume group to --domain")
    if is_group(args.domain):
        check_group(args)
    if not is_device and not stat.S_ISDIR(mode):
        die(f"--dir {args.dir}: neither a directory nor a block device")
    with scratch.folder(tempfile.gettempdir() if is_device else args.dir, "vdisk-bench") as folder:
        if is_device:
            check_device(args.dir, args)
        else:
            check_directory(folder, args.size)
        yield folder, args.dir if is_device else None


def chosen_patterns(args):
    device = is_group(args.domain) or (stat.S_ISBLK(os.stat(args.dir).st_mode) if os.path.exists(args.dir) else
                                       False)
    chosen = [p for p in patterns(device) if not args.only or re.search(args.only, p.name)]
    if not chosen:
        die(f"--only {args.only}: no pattern has such a name; they are\n" + "\n".join(p.name for p in patterns()))
    return chosen


def measure(args, plan, out):
    """Everything; a dict for the report."""
    with target(args) as (folder, device), contextlib.ExitStack() as undo:
        commands = undo.enter_context(open(out / "commands.txt", "w"))
        loads = Loads(args.fio_engine, args.build / "tools" / "vdisk-io", args.build / "bench" / "bench-probe",
                      args.peer, args.size, folder, commands)
        about = machine.describe(device or folder, args.peer)
        print(about["title"], file=sys.stderr)
        found = lookups(loads)
        suite = Suite(args, loads, plan, folder, device)
        suite.run()
        suite.decide()
        suite.volumes.remove()
        jobs = bulk_work(args, loads, None if device else folder, undo)
        return suite, {"rows": suite.rows, "lookups": found, "machine": about, "jobs": jobs}


def main():
    args = parse_args()
    plan = Plan(chosen_patterns(args), args.full, args.seconds)
    out = pathlib.Path(args.out or time.strftime("report-%Y%m%d-%H%M%S"))
    out.mkdir(parents=True, exist_ok=True)
    suite, found = measure(args, plan, out)
    settings = {"size": args.size, "full": args.full, "seconds": round(plan.seconds, 3), "only": args.only,
                "domain": args.domain, "cut_short": suite.cut_short,
                "command": given("bench/run", ("--build", "--peer", "--fio-engine"))}
    print(report.write_all(settings=settings, folder=out, **found))
    if found["jobs"]:
        lines = found["jobs"]["lines"]
        print("Bulk work, sizes 1/{} of those that the goals are for (bench/jobs measures all of it):\n".format(
            found["jobs"]["scale"]) + "\n".join(describe(row) for row in lines) + "\n" + summary(lines))
    if suite.cut_short:
        print("Time ran out: fewer rounds than planned (see the last column).")
    print(f"{suite.elapsed():.0f} s; the report is in {out}/: index.html (all of it), table.txt, results.json, "
          "results.csv, machine.txt, commands.txt")


if __name__ == "__main__":
    end_with("bench/run", main)
