#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The thin volume of bench/domain: what the test machine tells is read, judged and drawn as it is.

usage: test_thin.py BENCH                                           from made-up results
       test_thin.py BENCH VDISK_IO PROBE PEER LOAD                  with the machine, once at a tiny size
"""
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest
import unittest.mock
import xml.etree.ElementTree

BENCH = str(pathlib.Path(sys.argv[1]).resolve())
sys.path.insert(0, BENCH)
sys.dont_write_bytecode = True

import judge # from the folder given
import page
import plot
import thin_lines
import work
from job_images import MIB, Skip


def written(stall=40.0, failed=0, extensions=((100, 128 * MIB, 256 * MIB, 400.0, 0, 0),
                                              (900, 256 * MIB, 384 * MIB, 600.0, 0, 0))):
    return {"seconds": 2.5, "cpu": 0.5, "rss": 20 * MIB, "failed": failed, "stall_ms": stall,
            "extensions": [list(e) for e in extensions],
            "trace": [[0, 128 * MIB, MIB, 900, 10], [50, 128 * MIB, 60 * MIB, 40000, 3],
                      [1000, 384 * MIB, 200 * MIB, 1200, 8]]}


def told(*rounds, bare=2.4):
    """What the machine prints: each round is (written, lost), and the seconds of what does not grow."""
    lines = ["a note"]
    for first, lost in rounds:
        lines += ["@thin " + json.dumps(first), "@read " + json.dumps({"lost": lost}),
                  "@bare " + json.dumps({"seconds": bare, "failed": 0})]
    return "\n".join(lines) + "\n"


class Made(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        for name in ("tool", "load"):
            (self.folder / name).touch()
        self.work = work.Work(self.folder / "tool", "peer", self.folder / "tool", self.folder)

    def thin(self, body, rounds=2, size=1 << 30):
        """With a machine that is a script."""
        vm = self.folder / "vm"
        vm.write_text(f"#!/bin/sh\n{body}\n")
        vm.chmod(0o755)
        patch = unittest.mock.patch.object(thin_lines, "VM", vm)
        patch.start()
        self.addCleanup(patch.stop)
        return thin_lines.Thin(self.work, self.folder / "load", size, rounds)

    def says(self, text):
        (self.folder / "out").write_text(text)
        return f"cat {self.folder}/out"

    def test_rounds(self):
        tells = self.says(told((written(), 0), (written(stall=700.0), 0)))
        thin = self.thin(f"{tells}; echo x >>{self.folder}/boots")
        line = thin.line()
        done = judge.gather(line.sides, line.figures, 4, 0)
        self.assertEqual([r["ours"]["stall_ms"] for r in done], [40, 700, 40, 700])
        self.assertEqual([r["ours"]["lvextend_ms"] for r in done], [500] * 4)
        self.assertEqual(len((self.folder / "boots").read_text()), 4) # "x\n": two boots
        lost, stall, speed = (judge.judge_rounds(f, done) for f in line.figures)
        self.assertEqual(lost["values"], [0] * 4)
        self.assertEqual((stall["min"], stall["max"], stall["bound"]), (0.08, 1.4, 1))
        self.assertEqual((speed["min"], speed["max"], speed["bound"]), (0.96, 0.96, 0.9))
        self.assertFalse((self.folder / "thin.disk").exists())

    def test_judged(self):
        for rounds, bare, verdicts in (([(written(), 0)] * 6, 2.4, ["met", "met", "met"]),
                                       ([(written(failed=1), 0)] * 6, 2.4, ["missed", "met", "met"]),
                                       ([(written(), 2)] * 6, 2.4, ["missed", "met", "met"]),
                                       ([(written(stall=501.0), 0)] * 6, 2.4, ["met", "missed", "met"]),
                                       ([(written(), 0)] * 6, 2.0, ["met", "met", "missed"])):
            line = self.thin(self.says(told(*rounds, bare=bare)), rounds=6).line()
            done = judge.gather(line.sides, line.figures, 6, 0)
            self.assertEqual([judge.judge_rounds(f, done)["verdict"] for f in line.figures], verdicts)

    def test_no_machine(self):
        with self.assertRaisesRegex(Skip, "no test machine"):
            self.thin("echo skipped: no test machine: none; exit 77").measure()
        self.assertFalse((self.folder / "thin.disk").exists())

    def test_failures(self):
        failed = ((100, 128 * MIB, 128 * MIB, 400.0, 0, -5),)
        for body, text, why in (("echo oops; exit 1", "", "oops"), (None, "nothing", "told nothing"),
                                (None, told((written(extensions=failed), 0)), "not grown"),
                                (None, told((written(), 0)) + "@thin {}\n", "told nothing"),
                                (None, told((written(), 0)).replace("bare", "thin"), "not understood")):
            with self.assertRaisesRegex(work.WorkError, why):
                self.thin(body or self.says(text)).measure()

    def test_chunks(self):
        """It is extended several times, by whole extents, and at the goal's size as Vdsm does or less."""
        for size in (384 * MIB, 2 << 30, 8 << 30):
            chunk = int(self.thin("", size=size).how().split(",")[0].removeprefix("chunk="))
            self.assertEqual(chunk % (128 * MIB), 0)
            self.assertTrue(size // chunk >= 3 and chunk <= 2560 * MIB)

    def test_page(self):
        line = self.thin(self.says(told((written(), 0), (written(stall=70.0), 0)))).line()
        done = judge.gather(line.sides, line.figures, 2, 0)
        sides = {"ours": {what: [r["ours"][what] for r in done] for what in done[0]["ours"]}}
        row = {"name": line.name, "of": line.of, "rounds": 2, "sides": sides,
               "figures": [judge.judge_rounds(f, done) for f in line.figures],
               "memory": {"most": 1, "bound": 2, "verdict": "met"}}
        text = "".join(page.jobs_section({"jobs": {"lines": [row], "scale": 1}}))
        self.assertIn("70 ms; it was extended 2 times, each in 500 ms", text)
        svg = xml.etree.ElementTree.fromstring(text[text.index("<svg"):text.index("</svg>") + 6])
        self.assertEqual([p.get("class") for p in svg.iter("path")], ["line-vdisk", "line-qemu", "line-vdisk"])
        self.assertEqual(page.trace_plots([{"name": "skipped", "of": "seconds", "skipped": "why"}]), [])

    def test_drawn(self):
        """A line keeps its value up to the next point; the largest is at the top, zero at the bottom."""
        text = plot.over_time([("t", "u", [("a", "vdisk", [(0, 0), (5, 10), (10, 5)])])], 10, "what")
        path = next(xml.etree.ElementTree.fromstring(text).iter("path")).get("d")
        self.assertEqual(path, "M48.0 144.0H220.0V34.0H392.0V89.0")
        xml.etree.ElementTree.fromstring(plot.over_time([("t", "u", [("a", "vdisk", [])])], 0, "empty"))


def with_machine(tool, probe, peer, load):
    qemu = subprocess.run([peer], capture_output=True, text=True, check=False).stdout.strip()
    with tempfile.TemporaryDirectory(prefix="vdisk-bench-thin.") as folder:
        os.mkdir(f"{folder}/work")
        command = [sys.executable, "-B", f"{BENCH}/jobs.py", "--domains", "--tool", tool, "--probe", probe,
                   "--load", load, "--peer", qemu, "--dir", f"{folder}/work", "--scale", "1024", "--rounds", "1",
                   "--limit", "0", "--only", "^thin volume", "--json", f"{folder}/told",
                   "--report", f"{folder}/report"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        print(done.stdout + done.stderr)
        if done.returncode != 0:
            return 1
        line, = json.loads(pathlib.Path(f"{folder}/told").read_text())["jobs"]["lines"]
        if "skipped" in line:
            return 77
        ours = line["sides"]["ours"]
        trace, extensions = ours["trace"][0], ours["extensions"][0]
        right = (ours["failed"] == ours["lost"] == [0] and len(extensions) >= 1 and
                 trace[0][1] < trace[-1][1] and trace[0][2] < trace[-1][2] <= trace[-1][1] and
                 all(row[2] <= row[1] for row in trace) and os.listdir(f"{folder}/work") == [] and
                 "line-vdisk" in pathlib.Path(f"{folder}/report/index.html").read_text())
        return 0 if right else 1


if __name__ == "__main__":
    if len(sys.argv) > 2:
        sys.exit(with_machine(*sys.argv[2:6]))
    unittest.main(argv=sys.argv[:1])
