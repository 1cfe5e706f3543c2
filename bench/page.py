#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The report as one page, which needs nothing else: made of results.json.

usage: page.py REPORT_FOLDER    makes its index.html again, of its results.json and commands.txt
"""
import html
import json
import pathlib
import re
import statistics
import sys

import judge
from plot import Bar, bars, over_time, ratios

KIB, MIB = 1 << 10, 1 << 20

# How to read it: also below the table of the report's text form.
READING = [
    ("Met, missed", "What the project holds itself to, each a ratio of two sides that took turns. Where its "
     "median lies in 19 of 20 cases is a range, given beside it. Met: all of it is. Missed: none of it. "
     "Undecided: what is asked lies within, and time was over."),
    ("of limit", "IOPS by those of fio's io_uring engine on the same file, in the same round; the median."),
    ("read, rewrite", "All of the volume was written once before, in pieces of 64 KiB in random order, so that a "
     "sparse one has the layout of a used one. raw-prealloc and both qcow2 volumes take turns in one file, on the "
     "same blocks."),
    ("first", "First touch; a fresh volume for each measurement, each block written once, ended by an fsync that "
     "counts. On a block device raw is the device after its blocks were discarded."),
    ("CPU", "User and system time of the whole process, by I/O or in all."),
    ("qemu", "qemu-img bench (io_uring, cache none), which walks the image in order: it has no random work, gives "
     "no percentile, its first touch ends without an fsync, and its CPU time includes start and end."),
    ("Bulk work", "Whole commands, the same by both tools; QEMU's copies with -m 16 -W, and by both past the page "
     "cache. At small sizes the start of a process weighs more than at those that the goals are for."),
    ("Noise", "The machine's is in all sides of a ratio alike: compare ratios, and not runs."),
]

OF_FOLDER = [
    ("domain", "The volumes are of a storage domain in a folder: made through the domain layer, and opened by "
     "their names in it; by fio's own engine and by QEMU as the files that they are."),
]
OF_GROUP = [
    ("domain", "The volumes are of a storage domain in a volume group: logical volumes, each on blocks of its "
     "own, made through the domain layer, and opened by their names in it; by fio's own engine and by QEMU as "
     "the devices that they are."),
]
OF_NET = [
    ("NBD", "One client, fio's nbd engine, and each server in its turn, on the same image and a unix socket; 32 "
     "requests in flight of each connection. A server's CPU time is that of its process; the client's is not in "
     "it. qemu-nbd has io_uring and no page cache; nbdkit's file plugin has the page cache, and ours beside it."),
]
OF_VOLUMES = {"of limit", "read, rewrite", "first", "qemu"} # of these, what is about cells

def of_domain(settings):
    """How to read volumes of a domain."""
    return {None: [], "file": OF_FOLDER}.get(settings.get("domain"), OF_GROUP)


STYLE = """
:root { color-scheme: light dark; --back: #fff; --card: #f6f7f9; --text: #1c2024; --muted: #68707a;
  --line: #d8dce1; --vdisk: #2563c9; --io_uring: #8a8f98; --qemu: #d9822b; --met: #1f8a4c; --missed: #c0392b;
  --undecided: #a9780a; }
@media (prefers-color-scheme: dark) { :root { --back: #15181c; --card: #1e2227; --text: #e4e7eb;
  --muted: #98a1ac; --line: #363c44; --vdisk: #6ea1f5; --io_uring: #9aa1ab; --qemu: #e8a15a; --met: #4cc27f;
  --missed: #f0776a; --undecided: #dcae4b; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 1180px; background: var(--back); color: var(--text);
  font: 15px/1.45 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: .2rem 0; }
h2 { font-size: 1.2rem; margin: 2rem 0 .6rem; }
h3 { font-size: 1rem; margin: 1.2rem 0 .4rem; }
.card h3 { margin-top: 0; }
p { margin: .4rem 0; }
.muted { color: var(--muted); }
.scroll { overflow-x: auto; }
.plots { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 6px; padding: .8rem; min-width: 0; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; width: 100%; }
th, td { padding: .2rem .6rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th { color: var(--muted); font-weight: 600; }
td:first-child, th:first-child { text-align: left; white-space: normal; min-width: 13em; }
tr.group td { font-weight: 600; padding-top: .7rem; }
.verdict { font-weight: 600; }
.is-met { color: var(--met); }
.is-missed { color: var(--missed); }
.is-undecided { color: var(--undecided); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1rem; margin: 0; }
dt { color: var(--muted); }
dd { margin: 0; overflow-wrap: anywhere; }
pre { overflow-x: auto; font-size: 12px; background: var(--card); border: 1px solid var(--line);
  border-radius: 6px; padding: .6rem; max-height: 30rem; }
svg { width: 100%; max-width: 560px; height: auto; display: block; font: 11px system-ui, sans-serif; }
svg text { fill: var(--text); paint-order: stroke; stroke: var(--card); stroke-width: 3px; }
svg text.muted { fill: var(--muted); }
svg text.strong { font-weight: 600; }
.grid { stroke: var(--line); stroke-width: 1; }
.whisker { stroke: var(--text); stroke-width: 1; fill: none; }
.bound { stroke: var(--missed); stroke-width: 2; }
.fill-vdisk { fill: var(--vdisk); }
.fill-io_uring { fill: var(--io_uring); }
.fill-qemu { fill: var(--qemu); }
.line-vdisk, .line-qemu { fill: none; stroke: var(--vdisk); stroke-width: 1.5; }
.line-qemu { stroke: var(--qemu); }
.fill-met { fill: var(--met); }
.fill-missed { fill: var(--missed); }
.fill-undecided { fill: var(--undecided); }
.fill-none { fill: var(--muted); }
@media (max-width: 560px) {
  body { padding: .6rem; }
  dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: .4rem; }
  .card { padding: .4rem; }
  th, td { padding: .2rem .4rem; }
}
"""


def esc(value):
    return html.escape(str(value))


def table(head, rows):
    """`rows`: lists of cells, HTML as they are; a row of one cell is the title of a group."""
    out = ["<div class=\"scroll\"><table><thead><tr>", *(f"<th>{esc(h)}</th>" for h in head),
           "</tr></thead><tbody>"]
    for row in rows:
        if len(row) == 1:
            out.append(f"<tr class=\"group\"><td colspan=\"{len(head)}\">{row[0]}</td></tr>")
        else:
            out.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>")
    return "".join([*out, "</tbody></table></div>"])


def badge(verdict):
    return f"<span class=\"verdict is-{verdict}\">{verdict}</span>" if verdict else "-"


# ---- figures ------------------------------------------------------------------------------------------------

FIGURE_HEAD = ["figure", "", "median", "where it lies", "asked", "rounds"]
OF_QEMU = "times as fast as QEMU"
IN_ALL = "ms in all"
NET = "NBD server" # title of these lines


def figure_cells(row, name):
    low, high = row["interval"] or (row["min"], row["max"])
    range_ = f"{judge.show(low)} .. {judge.show(high)}" + ("" if row["interval"] else " (all)")
    return [esc(name), badge(row["verdict"]), judge.show(row["median"]), range_, judge.asked(row) or "-",
            row["rounds"]]


def figure_rows(figures):
    rows = []
    for row in figures:
        rows.append(figure_cells(row, row["text"]))
        if "instead" in row:
            rows.append(figure_cells(row["instead"], f"or: {row['instead']['text']}"))
    return rows


def figures_section(results):
    if not results["figures"]:
        return []
    return ["<h2 id=\"figures\">Figures</h2>", table(FIGURE_HEAD, figure_rows(results["figures"]))]


def summary(results):
    """How many are met, of both kinds."""
    rows = results["figures"] + [f for line in job_lines(results) for f in line.get("figures", ())]
    verdicts = [row["verdict"] for row in rows if row["verdict"]]
    return ", ".join(f"<span class=\"verdict is-{what}\">{verdicts.count(what)} {what}</span>"
                     for what in (judge.MET, judge.MISSED, judge.UNDECIDED))


# ---- cells --------------------------------------------------------------------------------------------------

def block_name(size):
    return f"{size // MIB} MiB" if size >= MIB else f"{size // KIB} KiB"


def work_name(cell):
    return f"{'random' if cell['order'] == 'rand' else 'sequential'} {TOUCH[cell['touch']]}"


TOUCH = {"read": "read", "rewrite": "rewrite", "first": "first touch"}
# Title, block, depth, what, unit.
PANELS = [("4 KiB, depth 32", 4 * KIB, 32, "iops", "I/O per s"),
          ("4 KiB, depth 1", 4 * KIB, 1, "iops", "I/O per s"),
          ("1 MiB, depth 32", MIB, 32, "bytes_per_s", "bytes per s"),
          ("1 MiB, depth 1", MIB, 1, "bytes_per_s", "bytes per s"),
          ("CPU time: 4 KiB, depth 32", 4 * KIB, 32, "cpu_us", "us per I/O")]


def key(cell):
    return cell["order"], cell["touch"], cell["block"], cell["depth"]


def values(cell, what):
    return [s[what] for s in cell["rounds"].values() if s[what] is not None]


def panel_groups(results, block, depth, what):
    """Kinds of work, each with a bar for what was measured, and one that says why for what cannot be."""
    groups = []
    for order in ("rand", "seq"):
        for touch in TOUCH:
            at = (order, touch, block, depth)
            group = []
            for cell in results["cells"]:
                if key(cell) == at and values(cell, what):
                    v = values(cell, what)
                    group.append(Bar(f"{cell['engine']} {cell['volume']}", cell["engine"], statistics.median(v),
                                     min(v), max(v)))
            if group:
                group += [Bar(f"{a['engine']} {a['volume']}", a["engine"], why=f"none: {a['why']}")
                          for a in results["absent"] if key(a) == at]
                groups.append((work_name({"order": order, "touch": touch}), group))
    return groups


def plots(results):
    out = []
    for title, block, depth, what, unit in PANELS:
        groups = panel_groups(results, block, depth, what)
        if groups:
            out.append(f"<div class=\"card\"><h3>{esc(title)} <span class=\"muted\">({unit})</span></h3>"
                       f"{bars(groups, unit)}</div>")
    return ["<h2 id=\"plots\">Volumes</h2><p>Bars are medians, the lines on them go from the smallest to the "
            "largest round.</p><div class=\"plots\">", *out, "</div>"] if out else []


CELL_HEAD = ["", "IOPS", "MB/s", "p99 us", "CPU us/IO", "of limit", "min .. max", "rounds"]


def cell_row(cell):
    median, of = cell["median"], cell["iops_of_limit"]

    def number(value, form):
        return format(value, form) if value is not None else "-"

    return [esc(f"{cell['engine']} {cell['volume']}"), number(median["iops"], ",.0f"),
            number(median["bytes_per_s"] and median["bytes_per_s"] / 1e6, ",.0f"),
            number(median["p99_us"], ",.0f"), number(median["cpu_us"], ".2f"),
            number(statistics.median(of) if of else None, ".3f"),
            f"{min(of):.2f} .. {max(of):.2f}" if of else "-", len(cell["rounds"])]


def cells_section(results):
    rows, last = [], None
    for cell in results["cells"]:
        if key(cell) != last:
            last = key(cell)
            why = {}
            for a in results["absent"]:
                if key(a) == last:
                    why.setdefault(a["why"], []).append(f"{a['engine']} {a['volume']}")
            absent = "; ".join(f"no cell of {', '.join(names)}: {reason}" for reason, names in why.items())
            rows.append([f"{work_name(cell)}, {block_name(cell['block'])}, depth {cell['depth']}" +
                         (f" <span class=\"muted\">({esc(absent)})</span>" if absent else "")])
        rows.append(cell_row(cell))
    return ["<h2 id=\"cells\">All cells</h2>", table(CELL_HEAD, rows)] if rows else []


# ---- bulk work ----------------------------------------------------------------------------------------------

def job_lines(results):
    return (results.get("jobs") or {}).get("lines", [])


def amount(of, value):
    if of == "iops":
        return f"{value:,.0f}/s"
    if of == "bytes_per_s":
        return f"{value / 1e6:,.0f} MB/s"
    return f"{value * 1000:.1f} ms" if value < 1 else f"{value:.2f} s"


def job_row(line):
    def middle(side, what):
        return statistics.median(line["sides"][side][what]) if what in line["sides"].get(side, {}) else None

    def pair(what, show):
        found = [middle(side, what) for side in ("ours", "QEMU")]
        return " / ".join("-" if v is None else show(v) for v in found)

    rest = ", ".join(f"{esc(side)} {amount(line['of'], middle(side, line['of']))}" for side in line["sides"]
                     if side not in ("ours", "QEMU"))
    return [pair(line["of"], lambda v: amount(line["of"], v)), pair("cpu", lambda v: amount("seconds", v)),
            pair("per_cpu_s", lambda v: f"{v:,.0f}"),
            pair("rss", lambda v: f"{v / MIB:.0f}"), rest or "-"]


JOB_HEAD = ["", "time, ours / QEMU", "CPU, ours / QEMU", "requests in a CPU s", "MiB, ours / QEMU", "others"]


def job_plots(lines):
    """Time and processor time by QEMU's; and time where that is what is asked."""
    of, cpu = {OF_QEMU: [], IN_ALL: []}, []
    for line in lines:
        for figure in line.get("figures", ()):
            if figure["text"] in of:
                of[figure["text"]].append((line["name"], figure["verdict"] or "none", figure["median"],
                                           *(figure["interval"] or (figure["min"], figure["max"])),
                                           figure["bound"]))
        ours, qemu = (line.get("sides", {}).get(side, {}).get("cpu", []) for side in ("ours", "QEMU"))
        times = [theirs / own for own, theirs in zip(ours, qemu) if own and theirs]
        if times:
            cpu.append((line["name"], "none", statistics.median(times), min(times), max(times), None))
    cards = [(title, said, ratios(rows, title.lower())) for title, said, rows in (
        ("Times as fast as QEMU", "Median, where it lies, and what is asked (the upright line).", of[OF_QEMU]),
        ("Milliseconds", "Median, where it lies, and what is asked at most (the upright line).", of[IN_ALL]),
        ("QEMU's CPU time by ours", "Median, smallest and largest.", cpu)) if rows]
    cards = [f"<div class=\"card\"><h3>{title}</h3><p class=\"muted\">{said}</p>{plot}</div>"
             for title, said, plot in cards]
    return ["<div class=\"plots\">", *cards, "</div>"] if cards else []


def trace_plots(lines):
    """Of a volume that grows while it is written to: the round with the longest stall."""
    cards = []
    for line in lines:
        side = line.get("sides", {}).get("ours", {})
        if "trace" not in side:
            continue
        worst = max(range(line["rounds"]), key=lambda i: side["stall_ms"][i])
        trace = side["trace"][worst]
        times = [at / 1000 for at, *_ in trace]
        took, times_extended = side["lvextend_ms"][worst], len(side["extensions"][worst])
        panels = [("Size and use", "MiB", [
                      ("logical volume", "vdisk", [(t, row[1] / MIB) for t, row in zip(times, trace)]),
                      ("in use", "qemu", [(t, row[2] / MIB) for t, row in zip(times, trace)])]),
                  ("Longest write of each 50 ms", "ms", [
                      ("latency", "vdisk", [(t, row[3] / 1000) for t, row in zip(times, trace)])])]
        cards.append(f"<div class=\"card\"><h3>{esc(line['name'])}</h3><p class=\"muted\">The round with the "
                     f"longest stall, {side['stall_ms'][worst]:.0f} ms; it was extended {times_extended} "
                     f"times, each in {took:.0f} ms (the median).</p>"
                     f"{over_time(panels, max(times, default=0), 'over time')}</div>")
    return ["<div class=\"plots\">", *cards, "</div>"] if cards else []


def jobs_section(results):
    lines = job_lines(results)
    if not lines:
        return []
    work, figures = [], []
    for line in lines:
        if "sides" in line:
            work.append([esc(line["name"]), *job_row(line)])
            rows = figure_rows(line["figures"])
            rows[0][0] = f"<b>{esc(line['name'])}</b><br>{rows[0][0]}"
            figures += rows
        else:
            what = next(what for what in ("skipped", "failed") if what in line)
            work.append([f"{esc(line['name'])} <span class=\"muted\">({what}: {esc(line[what])})</span>"])
    most = max((line["memory"] for line in lines if "memory" in line), key=lambda m: m["most"], default=None)
    memory = (f"<p>Memory: no job took more than {most['most'] / MIB:.0f} MiB; the bound is "
              f"{most['bound'] / MIB:.0f} MiB: {badge(most['verdict'])}.</p>") if most else ""
    scale = results["jobs"]["scale"]
    size = "The sizes are those that the goals are for" if scale == 1 else \
        f"The sizes are 1/{scale} of those that the goals are for"
    title = results["jobs"].get("title", "Bulk work")
    return [f"<h2 id=\"jobs\">{esc(title)}</h2><p>{size}.</p>{memory}", *job_plots(lines), *trace_plots(lines),
            "<h3>Time, processor time and memory</h3>", table(JOB_HEAD, work),
            "<h3>Its figures</h3>", table(FIGURE_HEAD, figures)]


# ---- the rest -----------------------------------------------------------------------------------------------

def facts(pairs):
    return "<dl>" + "".join(f"<dt>{esc(k)}</dt><dd>{esc(v)}</dd>" for k, v in pairs) + "</dl>"


def distinct(commands):
    """Each command once: without what differs by round."""
    seen = {}
    for line in commands.splitlines():
        plain = re.sub(r" --output=\S+\.json| --randseed=\d+", "", line)
        seen[re.sub(r"(--runtime=|-c )\d+(ms)?", r"\1N", plain)] = plain
    return list(seen.values())


def make(results, commands):
    """`results` as results.json has them; `commands`: a text, one a line."""
    machine, settings = results["machine"], results["settings"]
    lines = distinct(commands)
    reading = [(what, said) for what, said in READING if results["cells"] or what not in OF_VOLUMES]
    reading += of_domain(settings)
    reading += OF_NET if (results.get("jobs") or {}).get("title") == NET else []
    cut = "<p>Time ran out: there are fewer rounds than planned.</p>" if settings.get("cut_short") else ""
    body = [
        f"<h1>vdisk-io: benchmarks</h1><p>{esc(machine['title'])}</p>"
        f"<p>{summary(results)} <span class=\"muted\">of what the project holds itself to.</span></p>{cut}",
        *figures_section(results), *jobs_section(results), *plots(results), *cells_section(results),
        "<h2 id=\"reading\">How to read it</h2>", facts(reading),
        "<h2 id=\"machine\">The machine</h2>", facts((k, v) for k, v in machine.items() if k != "title"),
        "<h2 id=\"commands\">The commands</h2>", "<p>All of it again:</p>",
        f"<pre>{esc(settings.get('command', 'bench/run'))}</pre>",
        f"<details><summary>What was run ({len(lines)} commands that differ)</summary>"
        f"<pre>{esc(chr(10).join(lines))}</pre></details>"]
    return ("<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
            "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">"
            f"<title>vdisk-io: benchmarks</title><style>{STYLE}</style></head>\n<body>\n"
            + "\n".join(body) + "\n</body></html>\n")


def write(results, folder):
    """The page and what it is made of, in a folder that has commands.txt."""
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (folder / "index.html").write_text(make(results, (folder / "commands.txt").read_text()))


def main():
    folder = pathlib.Path(sys.argv[1])
    write(json.loads((folder / "results.json").read_text()), folder)


if __name__ == "__main__":
    main()
