#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The report's page, made of made-up results: whole, well-formed, without anything from elsewhere; what its plots
show; and what there is no cell of, on files and on a block device.

usage: test_page.py BENCH
"""
import contextlib
import html.parser
import io
import json
import pathlib
import random
import re
import subprocess
import sys
import tempfile
import types
import unittest
import unittest.mock

BENCH = sys.argv.pop(1)
sys.path.insert(0, BENCH)
sys.dont_write_bytecode = True

import cells # from the folder given
import jobs
import judge
import page
import plot
import report

VOID = {"meta", "br", "hr"}


class Tree(html.parser.HTMLParser):
    """Elements in a row, each (name, attributes, texts, ancestors); complains about tags that do not fit."""

    def __init__(self):
        super().__init__()
        self.open, self.all = [], []

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> has an attribute twice"
        one = (tag, dict(attrs), [], [e[0] for e in self.open])
        self.all.append(one)
        if tag not in VOID:
            self.open.append(one)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1][0] == tag, f"</{tag}> ends <{self.open[-1][0] if self.open else '-'}>"
        self.open.pop()

    def handle_data(self, data):
        for one in self.open:
            one[2].append(data)

    def find(self, tag, **attributes):
        return [e for e in self.all if e[0] == tag and all(e[1].get(k) == v for k, v in attributes.items())]


def parse(text):
    tree = Tree()
    tree.feed(text)
    tree.close()
    assert not tree.open, f"left open: {[e[0] for e in tree.open]}"
    return tree


def words(element):
    return "".join(element[2])


def made_rows(device, seed=1):
    r = random.Random(seed)
    rows = report.make_rows(cells.patterns(device))
    for row in rows:
        for number in range(1, 8):
            iops = r.uniform(9e4, 1.1e5) * (0.5 if row.side.engine == "qemu" else 1)
            row.samples[number] = cells.Sample(iops, iops * row.pattern.block, None if row.side.engine == "qemu"
                                               else 99.0, r.uniform(2, 3), 0.5)
    return rows


def made_jobs():
    figure = judge.Figure("times as fast as QEMU", lambda r: r["QEMU"]["seconds"] / r["ours"]["seconds"], 1.5,
                          instead=judge.Figure("of the device's speed", lambda r: 0.95, 0.9))
    done = [{"ours": {"seconds": 1 + i / 100, "cpu": 0.5, "rss": 30 << 20},
             "QEMU": {"seconds": 2 + i / 100, "cpu": 1.5, "rss": 60 << 20}} for i in range(6)]
    sides = {name: {what: [r[name][what] for r in done] for what in done[0][name]} for name in done[0]}
    measured = {"name": "convert a_b to <c>", "of": "seconds", "rounds": 6, "sides": sides,
                "figures": [judge.judge_rounds(figure, done)],
                "memory": {"most": 30 << 20, "bound": 256 << 20, "verdict": judge.MET}}
    skipped = {"name": "shared blocks", "of": "seconds", "skipped": "no such & such"}
    failed = {"name": "broken", "of": "seconds", "failed": "exit code 1"}
    return {"scale": 32, "lines": [measured, skipped, failed]}


MACHINE = {"title": "A processor <x>, 2 CPUs", "cpu": "A processor <x>", "kernel": "6.1", "qemu_img": "version 10"}
SETTINGS = {"size": 1 << 30, "full": False, "cut_short": False, "command": "bench/run --dir /dev/a_b"}
LOOKUPS = [{"ours": 3e7 + i, "loop": 9e7} for i in range(6)]
COMMANDS = "fio --name=job --output=/x/1.json --randseed=1 --rw=read\n" \
           "fio --name=job --output=/x/2.json --randseed=2 --rw=read\nqemu-img bench 'a & b'\n"


def write(folder, device=False, with_jobs=True):
    """The report folder; what was printed, and the page."""
    (folder / "commands.txt").write_text(COMMANDS)
    stored_jobs = made_jobs() if with_jobs else None
    text = report.write_all(made_rows(device), LOOKUPS, MACHINE, SETTINGS, stored_jobs, folder)
    return text, (folder / "index.html").read_text()


class Page(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = pathlib.Path(scratch.name)

    def test_needs_nothing_from_elsewhere(self):
        _, text = write(self.folder)
        parse(text)
        for word in ("http", "src=", "href=", "url(", "@import", "<script", "<link"):
            self.assertNotIn(word, text)

    def test_has_each_part(self):
        tree = parse(write(self.folder)[1])
        self.assertEqual([e[1]["id"] for e in tree.find("h2")],
                         ["figures", "jobs", "plots", "cells", "reading", "machine", "commands"])
        self.assertEqual(len(tree.find("table")), 4)  # figures; work of jobs, their figures; cells
        self.assertEqual(len(tree.find("svg")), 2 + len(page.PANELS))
        said = words(tree.find("body")[0])
        for word in ("A processor <x>", "version 10", "bench/run --dir /dev/a_b", "convert a_b to <c>",
                     "skipped: no such & such", "failed: exit code 1", "qemu-img bench 'a & b'", "30 / 60",
                     "1/32 of those", *(text for _, text in page.READING)):
            self.assertIn(word, said)
        self.assertEqual(said.count("--rw=read"), 1)  # commands that differ

    def test_every_cell_is_in_the_table(self):
        stored = len(made_rows(False))
        tree = parse(write(self.folder)[1])
        firsts = [e for e in tree.find("td") if re.fullmatch(r"(io_uring|vdisk|qemu) [\w-]+", words(e))]
        self.assertEqual(len(firsts), stored)

    def test_made_again_from_what_is_stored(self):
        _, text = write(self.folder)
        (self.folder / "index.html").unlink()
        subprocess.run([sys.executable, "-B", f"{BENCH}/page.py", self.folder], check=True)
        self.assertEqual((self.folder / "index.html").read_text(), text)

    def test_figures_are_stored_as_judged(self):
        text, _ = write(self.folder)
        stored = json.loads((self.folder / "results.json").read_text())
        self.assertEqual(len(stored["figures"]), 7)
        self.assertTrue(all(row["verdict"] in ("met", "missed", "undecided") for row in stored["figures"]))
        lookup = stored["figures"][-1]
        self.assertIn("reference loop", lookup["text"])
        self.assertEqual((lookup["verdict"], round(lookup["median"], 2)), ("met", 0.33))
        self.assertIn("MET        0.333", text)

    def test_page_without_jobs_or_plots(self):
        self.assertNotIn("id=\"jobs\"", write(self.folder, with_jobs=False)[1])
        rows = report.make_rows([])
        parse(page.make(report.results(rows, LOOKUPS, MACHINE, SETTINGS, None), ""))


class Plots(unittest.TestCase):
    def plots(self, device=False):
        rows = made_rows(device)
        results = report.results(rows, LOOKUPS, MACHINE, SETTINGS, None)
        tree = parse(page.make(results, ""))
        return results, tree, [e for e in tree.find("svg") if "bars" in e[1]["aria-label"]]

    def inside(self, tree, number):
        """What is inside of a plot: all elements from its <svg> to the next."""
        marks = [i for i, e in enumerate(tree.all) if e[0] == "svg"] + [len(tree.all)]
        return tree.all[marks[number]:marks[number + 1]]

    def test_a_bar_with_its_spread_for_each_side(self):
        results, tree, plots = self.plots()
        self.assertEqual(len(plots), len(page.PANELS))
        for number, (_, block, depth, _, _) in enumerate(page.PANELS):
            parts = self.inside(tree, number)
            sides = [c for c in results["cells"] if (c["block"], c["depth"]) == (block, depth)]
            bars = [e for e in parts if e[0] == "rect" and e[2]]
            self.assertEqual(len(bars), len(sides))
            self.assertEqual(sum(e[1].get("class") == "whisker" for e in parts), len(sides))
            titles = [words(e) for e in bars]
            self.assertTrue(any("qemu qcow2-prealloc" in title for title in titles))
            self.assertTrue(any("io_uring raw-prealloc" in title for title in titles))

    def test_one_colour_for_an_engine(self):
        _, tree, _ = self.plots()
        for part in tree.find("rect"):
            if part[2]:
                self.assertEqual(part[1]["class"], f"fill-{words(part).split()[0]}")
        for engine in ("vdisk", "io_uring", "qemu"):
            self.assertEqual(len(set(re.findall(rf"\.fill-{engine} {{ fill: ([^;]*);", page.STYLE))), 1)

    def test_the_legend_is_not_over_the_bars(self):
        _, tree, plots = self.plots()
        for number in range(len(plots)):
            rects = [e for e in self.inside(tree, number) if e[0] == "rect"]
            lowest = max(float(e[1]["y"]) + float(e[1]["height"]) for e in rects if not e[2])
            self.assertLess(lowest, min(float(e[1]["y"]) for e in rects if e[2]))

    def test_nothing_is_outside(self):
        _, tree, plots = self.plots()
        for number, one in enumerate(plots):
            width, height = map(float, one[1]["viewbox"].split()[2:])
            for e in self.inside(tree, number):
                if e[0] in ("rect", "text"):
                    self.assertTrue(0 <= float(e[1]["x"]) <= width and 0 <= float(e[1]["y"]) <= height, e)
                # Neither a bar nor its spread reaches the numbers at the right.
                end = float(e[1]["x"]) + float(e[1]["width"]) if e[0] == "rect" else 0
                end = float(re.search(r"H([\d.]+)", e[1]["d"])[1]) if e[1].get("class") == "whisker" else end
                self.assertLessEqual(end, width - plot.VALUES + 0.1)

    def test_what_is_not_there_is_said_so(self):
        _, tree, _ = self.plots()
        said = [words(e) for e in tree.find("text")]
        self.assertIn("none: qemu-img bench has no random work", said)
        self.assertIn("no qemu raw-prealloc, qemu qcow2-prealloc: qemu-img bench has no random work",
                      report.table(made_rows(False)))

    def test_a_block_device_has_no_sparse_raw_volume(self):
        results, tree, _ = self.plots(device=True)
        volumes = {cell["volume"] for cell in results["cells"]}
        self.assertNotIn("raw-sparse", volumes)
        self.assertEqual({c["volume"] for c in results["cells"] if c["touch"] == "first"},
                         {"raw-discarded", "qcow2-sparse"})
        self.assertFalse([e for e in tree.find("rect") if "raw-sparse" in words(e)])
        self.assertIn("raw-sparse: a block device has no holes", words(tree.find("body")[0]))
        self.assertEqual(len(results["figures"]), 7)
        firsts = [p for p in cells.patterns(True) if p.touch == "first"]
        self.assertEqual({p.limit(s).volume.name for p in firsts for s in p.sides}, {"raw-discarded"})


class Text(unittest.TestCase):
    def test_sizes_that_fit(self):
        def fitting(free, scale):
            def make(scale):
                return jobs.Jobs(jobs.Work("tool", "peer", "probe", pathlib.Path(".")), scale)
            usage = types.SimpleNamespace(free=free)
            with unittest.mock.patch("shutil.disk_usage", return_value=usage), \
                    contextlib.redirect_stderr(io.StringIO()) as said:
                return jobs.fitting(".", make, scale), said.getvalue()
        found, said = fitting(1 << 40, 1)
        self.assertEqual((found.images.sizes.scale, said), (1, ""))
        found, said = fitting(8 << 30, 1)
        self.assertGreater(found.images.sizes.scale, 1)
        self.assertLess(found.space(), 8 << 30)
        self.assertEqual(len(said.splitlines()), found.images.sizes.scale.bit_length() - 1)
        with self.assertRaises(jobs.WorkError):
            fitting(100 << 20, 1)

    def test_jobs(self):
        lines = made_jobs()["lines"]
        said = [jobs.describe(line) for line in lines] + [jobs.summary(lines)]
        self.assertIn("ours 1.02 s (CPU 500.0 ms, 30 MiB); QEMU 2.02 s (CPU 1.50 s, 60 MiB); 6 rounds", said[0])
        self.assertRegex(said[0], r"MET +1\.9\d \(1\.9\d?\.\.2\) +times as fast as QEMU, at least 1\.5")
        self.assertIn("SKIPPED: no such & such", said[1])
        self.assertIn("1 met, 0 missed, 0 undecided; 1 lines skipped, 1 failed", said[3])
        lines[0]["memory"] = {"most": 300 << 20, "bound": 256 << 20, "verdict": judge.MISSED}
        self.assertIn("MISSED     300 MiB of memory, at most 256", jobs.describe(lines[0]))

    def test_csv(self):
        with tempfile.TemporaryDirectory() as folder:
            report.write_csv(made_rows(False), pathlib.Path(folder) / "x.csv")
            lines = io.StringIO((pathlib.Path(folder) / "x.csv").read_text()).readlines()
        self.assertEqual(len(lines), 1 + 7 * len(made_rows(False)))


if __name__ == "__main__":
    unittest.main()
