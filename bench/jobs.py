#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Bulk work beside QEMU's: convert, commit, rebase, compare and so on; or on storage domains; or the NBD
server. Started by bench/jobs, by bench/domain, and by bench/net."""
import argparse
import contextlib
import dataclasses
import json
import pathlib
import re
import shutil
import statistics
import sys

import judge
import machine
import page
import scratch
from domain_lines import DomainImages, DomainMaker
from job_images import MIB, Images, Sizes, Skip, text
from job_lines import Maker, space, with_sources
from net_lines import NetImages, NetMaker
from page import amount
from work import Work, WorkError, end_with, given, say

SCALE, QUICK = 16, 128     # what the sizes of --full are divided by
SMALLEST = 1024
ROUNDS, SECONDS = 6, 20   # 6 are the fewest that can tell anything


@dataclasses.dataclass
class Kind:
    """Of work that is measured: the command for it, its title in the report, its images and lines."""
    program: str
    title: str
    about: str
    images: type
    maker: type


BULK = Kind("bench/jobs", "Bulk work", "Measure bulk work (convert, commit, compare and so on) beside QEMU's, "
            "each line in turns.", Images, Maker)
DOMAINS = Kind("bench/domain", "Storage domains", "Measure work on storage domains in folders (volumes made, "
               "snapshots, lists, merges), beside QEMU's where that has the same, each line in turns.",
               DomainImages, DomainMaker)
NET = Kind("bench/net", page.NET, "Measure the NBD server beside qemu-nbd and nbdkit, by one client, each line in "
           "turns.", NetImages, NetMaker)
KINDS = {"--domains": DOMAINS, "--net": NET}


class Jobs:
    """The lines that are wanted, measured one after the other; `rows` is what is stored of them."""

    def __init__(self, work, scale, only=None, short=False, kind=BULK):
        self.work = work
        self.images = kind.images(work, Sizes(scale))
        lines = list(kind.maker(work, self.images).lines())
        self.lines = [line for line in lines if (line.short or not short) and re.search(only or "", line.name)]
        self.rows = []
        self.failed = False

    def space(self):
        return space(self.lines, self.images)

    def run(self, rounds, seconds, tell):
        for i, line in enumerate(self.lines):
            row = {"name": line.name, "of": line.of}
            try:
                row |= self.measure(line, rounds, seconds)
            except Skip as why:
                row["skipped"] = str(why)
            except WorkError as error:
                row["failed"] = str(error)
                self.failed = True
            self.rows.append(row)
            tell(describe(row))
            later = {name for other in self.lines[i + 1:] for name in with_sources(other.images)}
            self.images.drop(set(self.images.space) - later)

    def measure(self, line, rounds, seconds):
        for name in line.images:
            self.images.need(name)
        done = judge.gather(line.sides, line.figures, rounds, seconds)
        sides = {name: {what: [r[name][what] for r in done] for what in done[0][name]} for name in line.sides}
        memory = max(sides["ours"]["rss"])
        return {"rounds": len(done), "sides": sides,
                "figures": [judge.judge_rounds(f, done) for f in line.figures],
                "memory": {"most": memory, "bound": line.bound,
                           "verdict": judge.MET if memory <= line.bound else judge.MISSED}}


# ---- as text ------------------------------------------------------------------------------------------------

def describe(row):
    """A line of the table, with its figures below."""
    if "skipped" in row or "failed" in row:
        what = next(what for what in ("skipped", "failed") if what in row)
        return f"{row['name']}\n  {what.upper()}: {row[what]}"
    parts = []
    for name, side in row["sides"].items():
        part = f"{name} {amount(row['of'], statistics.median(side[row['of']]))}"
        extra = [f"CPU {amount('seconds', statistics.median(side['cpu']))}"] if "cpu" in side else []
        extra += [f"{statistics.median(side['per_cpu_s']):,.0f} in a CPU second"] if "per_cpu_s" in side else []
        extra += [f"{max(side['rss']) / MIB:.0f} MiB"] if "rss" in side else []
        parts.append(part + (f" ({', '.join(extra)})" if extra else ""))
    lines = [row["name"], f"  {'; '.join(parts)}; {row['rounds']} rounds"]
    lines += ["  " + text.replace("\n", "\n  ") for text in map(judge.line, row["figures"])]
    if row["memory"]["verdict"] != judge.MET:
        lines.append(f"  MISSED     {row['memory']['most'] / MIB:.0f} MiB of memory, "
                     f"at most {row['memory']['bound'] / MIB:.0f}")
    return "\n".join(lines)


def summary(rows):
    verdicts = [f["verdict"] for row in rows for f in row.get("figures", ()) if f["verdict"]]
    most = max((row for row in rows if "memory" in row), key=lambda row: row["memory"]["most"], default=None)
    lines = []
    if most:
        memory = most["memory"]
        lines.append(f"{memory['verdict'].upper():<9}  {memory['most'] / MIB:.0f} MiB of memory for any job, "
                     f"at most {memory['bound'] / MIB:.0f} ({most['name']})")
    count = {what: verdicts.count(what) for what in (judge.MET, judge.MISSED, judge.UNDECIDED)}
    lines.append(", ".join(f"{n} {what}" for what, n in count.items())
                 + f"; {sum('skipped' in row for row in rows)} lines skipped, "
                 f"{sum('failed' in row for row in rows)} failed")
    return "\n".join(lines)


# ---- set-up -------------------------------------------------------------------------------------------------

def fitting(folder, make, scale):
    """The jobs at the first scale for which there is space, beginning with `scale`."""
    free = shutil.disk_usage(folder).free
    while True:
        jobs = make(scale)
        need = jobs.space() * 5 // 4 + 64 * MIB
        if need <= free:
            return jobs
        if scale >= SMALLEST:
            raise WorkError(f"{folder}: {text(need)} are needed and {text(free)} are free: give another --dir, "
                            "or --only")
        say(f"note: {folder} has {text(free)} free, {text(need)} are needed: all sizes are halved")
        scale *= 2


def parse_args(kind, words):
    parser = argparse.ArgumentParser(prog=kind.program, description=kind.about)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"of each line ({ROUNDS})")
    parser.add_argument("--limit", type=float, default=SECONDS, metavar="SECONDS",
                        help=f"for more rounds of a line that is undecided ({SECONDS})")
    parser.add_argument("--only", metavar="REGEX", help="only lines whose name matches")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--full", dest="scale", action="store_const", const=1,
                      help="the sizes of the goals: images of 8 GiB and the like; hours, and 40 GiB of space")
    size.add_argument("--quick", dest="scale", action="store_const", const=QUICK, help=f"1/{QUICK} of that")
    size.add_argument("--scale", type=int, help=f"1/SCALE of that, a power of two up to {SMALLEST} ({SCALE})")
    parser.add_argument("--dir", default=".", help="where images are made")
    parser.add_argument("--json", metavar="FILE", help="also write the result as JSON")
    parser.add_argument("--report", metavar="DIR", help="also write a report: a page with plots and tables, "
                        "index.html, and what it is made of")
    parser.add_argument("--list", action="store_true", help="name the lines, and measure nothing")
    for name in ("tool", "peer", "probe"):
        parser.add_argument(f"--{name}", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--load", help=argparse.SUPPRESS)
    args = parser.parse_args(words)
    args.scale = args.scale or SCALE
    if args.scale & (args.scale - 1) or not 1 <= args.scale <= SMALLEST:
        parser.error(f"--scale is a power of two up to {SMALLEST}")
    if args.rounds < 1:
        parser.error("--rounds is 1 or more")
    return args


def tell_of(folder, args):
    """What is measured on; printed, and returned as facts."""
    about = machine.describe(folder, args.peer)
    print(f"{about['title']}\n{about['qemu_img']}", flush=True)
    if shutil.which("fio") is None:
        print("note: there is no fio, so the device's own speed is not known", flush=True)
    return about


def store(args, kind, about, jobs):
    """The files that were asked for."""
    told = {"title": kind.title, "scale": jobs.images.sizes.scale, "lines": jobs.rows}
    stored = {"machine": about, "jobs": told}
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps(stored, indent=1) + "\n")
    if args.report:
        settings = {"command": given(kind.program, ("--tool", "--peer", "--probe", "--load"))}
        page.write(stored | {"settings": settings, "figures": [], "cells": [], "absent": []},
                   pathlib.Path(args.report))


def measure(args, kind, folder, undo):
    """Whether all went well."""
    commands = None
    if args.report:
        pathlib.Path(args.report).mkdir(parents=True, exist_ok=True)
        commands = undo.enter_context(open(pathlib.Path(args.report) / "commands.txt", "w"))

    def make(scale):
        work = Work(args.tool, args.peer, args.probe, folder, commands)
        work.load, work.rounds = args.load, args.rounds
        return Jobs(work, scale, args.only, kind=kind)
    jobs = fitting(folder, make, args.scale)
    undo.callback(jobs.images.leave)
    if args.list:
        print("\n".join(line.name for line in jobs.lines))
        return True
    if not jobs.lines:
        raise WorkError(f"--only {args.only}: no line has such a name; --list names them")
    about = tell_of(folder, args)
    print(f"sizes: 1/{jobs.images.sizes.scale} of those that the goals are for", flush=True)
    jobs.run(args.rounds, args.limit, lambda text: print("\n" + text, flush=True))
    print("\n" + summary(jobs.rows))
    store(args, kind, about, jobs)
    return not jobs.failed


def main(kind):
    args = parse_args(kind, [word for word in sys.argv[1:] if word not in KINDS])
    with scratch.folder(args.dir, "vdisk-jobs") as folder, contextlib.ExitStack() as undo:
        return 0 if measure(args, kind, folder, undo) else 1


if __name__ == "__main__":
    KIND = next((kind for word, kind in KINDS.items() if word in sys.argv[1:]), BULK)
    end_with(KIND.program, lambda: main(KIND))
