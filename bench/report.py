# SPDX-License-Identifier: LGPL-2.1-or-later
"""From samples to the table, results.json, results.csv and index.html."""
import csv
import dataclasses
import statistics
import textwrap

import judge
import page
from cells import KIB, Pattern, QCOW2_FULL, RAW_FULL, RAW_SPARSE, Side
from work import LOOKUP


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


def absent_text(pattern):
    why = {}
    for side, reason in pattern.absent:
        why.setdefault(reason, []).append(side.name)
    return [f"  no {', '.join(names)}: {reason}" for reason, names in why.items()]


def table(rows):
    lines, last = [HEAD], None
    for row in rows:
        if row.pattern != last:
            lines += ["", row.pattern.name, *absent_text(row.pattern)]
            last = row.pattern
        ratios = row.ratios()
        ratio, low, high = spread(ratios) if ratios else (None, None, None)
        lines.append(f"  {row.side.name:<24}{number(row.median('iops'), ',.0f'):>10}"
                     f"{number(row.median('bytes_per_s') / 1e6, ',.0f'):>8}"
                     f"{number(row.median('p99_us'), ',.0f'):>9}"
                     f"{number(row.median('cpu_us'), '.2f'):>11}{number(ratio, '.3f'):>10}"
                     f"   {f'({low:.2f}..{high:.2f})' if ratios else '':<14}{len(row.samples):>6}")
    return "\n".join(lines) + "\n"


def notes(settings):
    found = page.READING + page.of_domain(settings)
    return "\n" + "".join(textwrap.fill(f"{what}: {text}", 115) + "\n" for what, text in found)


# ---- the acceptance figures ---------------------------------------------------------------------------------

def pairs_of(rows, pattern, pairs, what):
    """Over rounds, and pairs of sides: the first by the second in the same round."""
    ratios = []
    for ours, theirs in pairs:
        a, b = find(rows, pattern, ours), find(rows, pattern, theirs)
        if a and b:
            ratios += [getattr(a.samples[n], what) / getattr(b.samples[n], what)
                       for n in a.samples if n in b.samples and getattr(b.samples[n], what)]
    return ratios


def figures(rows, lookups):
    """Each figure that the project promises, judged; "pattern" is the one that it is of. `lookups`: ratios."""
    # Once written through, a sparse raw volume is the same work again: twice as many pairs.
    raw = [(Side("vdisk", volume), Side("io_uring", volume)) for volume in (RAW_FULL, RAW_SPARSE)]
    qcow2 = [(Side("vdisk", QCOW2_FULL), Side("vdisk", volume)) for volume in (RAW_FULL, RAW_SPARSE)]
    device, found = any(row.pattern.device for row in rows), []
    for write, touch in ((False, "read"), (True, "rewrite")):
        pattern = Pattern("rand", write, 4 * KIB, 32, touch, device)
        for text, pairs, what, bound, at_most in (
                ("raw by io_uring, IOPS", raw, "iops", 0.97, False),
                ("raw by io_uring, CPU per I/O", raw, "cpu_us", 1.10, True),
                ("qcow2-prealloc by raw, IOPS", qcow2, "iops", 0.95, False)):
            ratios = pairs_of(rows, pattern, pairs, what)
            if ratios:
                figure = judge.Figure(f"random {touch} 4k qd32: {text}", None, bound, at_most)
                found.append(judge.judge(figure, ratios) | {"pattern": pattern.name})
    if lookups:
        figure = judge.Figure("mapped 4k reads per CPU second, no device: by a reference loop", None, LOOKUP)
        found.append(judge.judge(figure, lookups) | {"pattern": None})
    return found


def figures_text(found):
    return "\nFigures:\n" + "".join(f"  {judge.line(row)}\n" for row in found)


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


def place(pattern, side):
    return {**dataclasses.asdict(pattern), "engine": side.engine, "volume": side.volume.name}


def results(rows, lookups, machine, settings, jobs):
    """What results.json has; the page is made of it. `lookups`: per CPU second, by side; `jobs`: see jobs.py."""
    cells = []
    for row in rows:
        cells.append({
            **place(row.pattern, row.side),
            "median": {k: row.median(k) for k in ("iops", "bytes_per_s", "p99_us", "cpu_us")},
            "iops_of_limit": row.ratios(),
            "rounds": {str(n): dataclasses.asdict(s) for n, s in sorted(row.samples.items())},
        })
    patterns = dict.fromkeys(row.pattern for row in rows)
    absent = [{**place(pattern, side), "why": why} for pattern in patterns for side, why in pattern.absent]
    return {"machine": machine, "settings": settings, "figures": figures(rows, ratios_of(lookups)),
            "lookups": lookups, "cells": cells, "absent": absent, "jobs": jobs}


def ratios_of(lookups):
    return [round_["ours"] / round_["loop"] for round_ in lookups]


def write_all(rows, lookups, machine, settings, jobs, folder):
    """Everything into the report folder, where commands.txt is already; returns what is to be printed."""
    stored = results(rows, lookups, machine, settings, jobs)
    text = table(rows) + notes(settings) + figures_text(stored["figures"])
    (folder / "table.txt").write_text(text)
    (folder / "machine.txt").write_text("".join(f"{k}: {v}\n" for k, v in machine.items()))
    write_csv(rows, folder / "results.csv")
    page.write(stored, folder)
    return text
