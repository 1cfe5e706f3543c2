# SPDX-License-Identifier: LGPL-2.1-or-later
"""From samples to the table, results.json, results.csv and plot.png."""
import csv
import dataclasses
import json
import statistics
import subprocess

from cells import KIB, MIB, Pattern, QCOW2_FULL, RAW_FULL, RAW_SPARSE, Side


def spread(values):
    """Median, smallest, largest."""
    return statistics.median(values), min(values), max(values)


@dataclasses.dataclass
class Row:
    pattern: Pattern
    side: Side
    samples: dict  # round -> Sample
    limits: dict   # the same of its limit

    def median(self, what):
        values = [getattr(s, what) for s in self.samples.values() if getattr(s, what) is not None]
        return statistics.median(values) if values else None

    def ratios(self, what="iops"):
        """Ours by the limit's, in each round."""
        found = []
        for number, sample in self.samples.items():
            limit = self.limits.get(number)
            if limit is not None and getattr(sample, what) is not None and getattr(limit, what):
                found.append(getattr(sample, what) / getattr(limit, what))
        return found


def make_rows(chosen):
    """Empty rows, one for each side of each pattern."""
    rows = []
    for pattern in chosen:
        samples = {side: {} for side in pattern.sides}
        rows += [Row(pattern, side, samples[side], samples[pattern.limit(side)]) for side in pattern.sides]
    return rows


def find(rows, pattern, side):
    return next((row for row in rows if row.pattern == pattern and row.side == side), None)


# ---- the table ----------------------------------------------------------------------------------------------

HEAD = (f"{'':<26}{'IOPS':>10}{'MB/s':>8}{'p99 us':>9}{'CPU us/IO':>11}{'of limit':>10}   {'(min..max)':<14}"
        f"{'rounds':>6}")


def number(value, form):
    return format(value, form) if value is not None else "-"


def table(rows):
    lines, last = [HEAD], None
    for row in rows:
        if row.pattern != last:
            lines += ["", row.pattern.name]
            last = row.pattern
        ratios = row.ratios()
        ratio, low, high = spread(ratios) if ratios else (None, None, None)
        lines.append(f"  {row.side.name:<24}{number(row.median('iops'), ',.0f'):>10}"
                     f"{number(row.median('bytes_per_s') / 1e6, ',.0f'):>8}"
                     f"{number(row.median('p99_us'), ',.0f'):>9}"
                     f"{number(row.median('cpu_us'), '.2f'):>11}{number(ratio, '.3f'):>10}"
                     f"   {f'({low:.2f}..{high:.2f})' if ratios else '':<14}{len(row.samples):>6}")
    return "\n".join(lines) + "\n"


NOTES = """
of limit: IOPS by those of fio's io_uring engine on the same file, in the same round; median of the rounds.
first: first touch; a fresh volume for each measurement, each block written once, ended by an fsync that counts.
read, rewrite: all of the volume was written once before, in pieces of 64 KiB in random order, so that a sparse one
has the layout of a used one. raw-prealloc and both qcow2 volumes take turns in one file, on the same blocks.
CPU: user and system time of the whole process. qemu: qemu-img bench (io_uring, cache none), which walks the image
in order: it has no random work, gives no percentile, its first touch ends without an fsync, and its CPU time
includes start and end.
"""


# ---- the acceptance figures ---------------------------------------------------------------------------------

def compare(rows, pattern, pairs, what):
    """Median over rounds, and pairs, of ours by theirs in the same round; None when nothing was measured."""
    ratios = []
    for ours, theirs in pairs:
        a, b = find(rows, pattern, ours), find(rows, pattern, theirs)
        if a and b:
            ratios += [getattr(a.samples[n], what) / getattr(b.samples[n], what)
                       for n in a.samples if n in b.samples]
    return spread(ratios) if ratios else None


def figures(rows, lookup):
    """(text, value, smallest, largest, holds) for each figure that the project promises."""
    # Once written through, a sparse raw volume is the same work again: twice as many pairs.
    raw = [(Side("vdisk", volume), Side("io_uring", volume)) for volume in (RAW_FULL, RAW_SPARSE)]
    qcow2 = [(Side("vdisk", QCOW2_FULL), Side("vdisk", volume)) for volume in (RAW_FULL, RAW_SPARSE)]
    found = []
    for write, touch in ((False, "read"), (True, "rewrite")):
        pattern = Pattern("rand", write, 4 * KIB, 32, touch)
        for text, pairs, what, holds in (
                ("raw by io_uring, IOPS (at least 0.97)", raw, "iops", lambda v: v >= 0.97),
                ("raw by io_uring, CPU per I/O (at most 1.10)", raw, "cpu_us", lambda v: v <= 1.10),
                ("qcow2-prealloc by raw, IOPS (at least 0.95)", qcow2, "iops", lambda v: v >= 0.95)):
            got = compare(rows, pattern, pairs, what)
            if got:
                found.append((f"rand {touch} 4k qd32: {text}", *got, holds(got[0])))
    if lookup:
        millions = lookup["iops"] / 1e6
        found.append(("mapped 4k reads, one queue, no device: M/s (at least 2)", millions, millions, millions,
                      millions >= 2))
    return found


def figures_text(found):
    lines = ["", "Figures:"]
    for text, value, low, high, holds in found:
        lines.append(f"  {'met   ' if holds else 'MISSED'}  {value:6.3f}  ({low:.3f}..{high:.3f})  {text}")
    return "\n".join(lines) + "\n"


# ---- files --------------------------------------------------------------------------------------------------

def write_csv(rows, path):
    with open(path, "w", newline="") as f:
        out = csv.writer(f)
        out.writerow(["order", "op", "block", "depth", "touch", "engine", "volume", "round", "iops", "bytes_per_s",
                      "p99_us", "cpu_us_per_io", "seconds", "iops_of_limit"])
        for row in rows:
            p = row.pattern
            for n, s in sorted(row.samples.items()):
                limit = row.limits.get(n)
                out.writerow([p.order, "write" if p.write else "read", p.block, p.depth, p.touch, row.side.engine,
                              row.side.volume.name, n, f"{s.iops:.1f}", f"{s.bytes_per_s:.0f}",
                              "" if s.p99_us is None else f"{s.p99_us:.1f}",
                              "" if s.cpu_us is None else f"{s.cpu_us:.3f}", f"{s.seconds:.3f}",
                              f"{s.iops / limit.iops:.4f}" if limit else ""])


def write_json(rows, lookup, machine, settings, path):
    cells = []
    for row in rows:
        cells.append({
            **dataclasses.asdict(row.pattern), "engine": row.side.engine, "volume": row.side.volume.name,
            "median": {k: row.median(k) for k in ("iops", "bytes_per_s", "p99_us", "cpu_us")},
            "iops_of_limit": row.ratios(),
            "rounds": {n: dataclasses.asdict(s) for n, s in sorted(row.samples.items())},
        })
    found = [{"figure": t, "median": v, "min": a, "max": b, "met": m} for t, v, a, b, m in figures(rows, lookup)]
    with open(path, "w") as f:
        json.dump({"machine": machine, "settings": settings, "figures": found, "lookup": lookup, "cells": cells},
                  f, indent=1)
        f.write("\n")


# Panels of the plot: title, block, what, unit of the axis.
PANELS = [("4 KiB, depth 32", 4 * KIB, 32, "iops", 1e3, "thousand I/O per s"),
          ("4 KiB, depth 1", 4 * KIB, 1, "iops", 1e3, "thousand I/O per s"),
          ("1 MiB, depth 32", MIB, 32, "bytes_per_s", 1e9, "GB/s"),
          ("4 KiB, depth 32: CPU", 4 * KIB, 32, "cpu_us", 1, "us per I/O")]


def plot_panel(rows, block, depth, what, unit):
    """A gnuplot data block: one line per kind of work, one column per side."""
    shown = [r for r in rows if r.side.engine != "qemu" and r.pattern.block == block and r.pattern.depth == depth]
    names = list(dict.fromkeys(r.side.name for r in shown))
    lines = ["work " + " ".join(f'"{n}"' for n in names)]
    for order in ("rand", "seq"):
        for touch in ("read", "rewrite", "first"):
            pattern = Pattern(order, touch != "read", block, depth, touch)
            values = {r.side.name: r.median(what) for r in shown if r.pattern == pattern}
            if values:
                cells = [f"{values[n] / unit:.4f}" if values.get(n) is not None else "NaN" for n in names]
                lines.append(f'"{order} {touch}" ' + " ".join(cells))
    return lines, len(names)


def write_plot(rows, machine, folder):
    script = ["set terminal pngcairo size 1500,1000 font 'sans,10'", f"set output '{folder / 'plot.png'}'",
              "set style data histograms", "set style histogram clustered gap 1",
              "set style fill solid 0.8 noborder", "set grid ytics", "set yrange [0:*]",
              "set key top right font ',8'", "set datafile missing 'NaN'",
              f"set multiplot layout 2,2 title \"vdisk-io: {machine['title']}\""]
    body = []
    for i, (title, block, depth, what, unit, axis) in enumerate(PANELS):
        lines, columns = plot_panel(rows, block, depth, what, unit)
        if len(lines) < 2:
            continue
        script += [f"$panel{i} << EOD", *lines, "EOD"]
        body += [f"set title '{title}'", f"set ylabel '{axis}'",
                 f"plot for [c=2:{columns + 1}] $panel{i} using c:xtic(1) title columnheader(c)"]
    if not body:
        return
    text = "\n".join(script + body + ["unset multiplot"]) + "\n"
    (folder / "plot.gnuplot").write_text(text)
    subprocess.run(["gnuplot", folder / "plot.gnuplot"], check=True, stdin=subprocess.DEVNULL)


def write_all(rows, lookup, machine, settings, folder):
    """Everything into the report folder; returns what is to be printed."""
    text = table(rows) + NOTES + figures_text(figures(rows, lookup))
    (folder / "table.txt").write_text(text)
    (folder / "machine.txt").write_text("".join(f"{k}: {v}\n" for k, v in machine.items()))
    write_csv(rows, folder / "results.csv")
    write_json(rows, lookup, machine, settings, folder / "results.json")
    write_plot(rows, machine, folder)
    return text
