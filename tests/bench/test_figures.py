#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Each figure of bench/figures has two sides that can be run, and what is judged of them.

usage: test_figures.py BENCH_FOLDER

Nothing is measured: commands are looked at, and answered as they would be.
"""
import json
import pathlib
import sys
import tempfile
import unittest

sys.path.insert(0, sys.argv.pop(1))
import figures # noqa: E402

TOLD = {"iops": 1000.0, "cpu": {"us-per-request": 2.0}}
FIO = {"jobs": [{"write": {"total_ios": 100, "runtime": 1000}, "usr_cpu": 10, "sys_cpu": 10, "job_runtime": 1000}]}


class Answers(figures.Bench):
    """A volume that is created is there; one that is used has to be."""

    def __init__(self, folder):
        super().__init__("tool", "peer", "probe", folder)
        self.ran = []

    def look(self, command):
        words = [str(word) for word in command]
        self.ran.append(words)
        names = [word for word in words if word.endswith((".raw", ".qcow2")) and "=" not in word]
        if words[1] == "create":
            made = next(name for name in reversed(names) if name != words[words.index("-b") + 1]) \
                if "-b" in words else names[-1]
            self.path(made).touch()
        for name in names:
            if not self.path(name).exists():
                raise AssertionError(f"{name} is used, and was not made: {words}")

    def run(self, *command, text=None):
        self.look(command)
        if command[0] == "fio":
            return json.dumps(FIO)
        return json.dumps({"per_cpu_s": 5.0}) if command[0] == self.probe else ""

    def measured(self, *command, keep=False):
        self.look(command)
        out = json.dumps(TOLD) if command[0] == self.tool else "Run completed in 2.0 seconds."
        return {"seconds": 1.0, "cpu": 0.5, "rss": 1 << 20, "out": out}


class Figures(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory(prefix="vdisk-figures.")
        self.addCleanup(self.folder.cleanup)
        self.root = pathlib.Path(self.folder.name)
        (self.root / "other").mkdir()
        self.new, self.old = Answers(self.root), Answers(self.root / "other")

    def judged(self, ratios):
        for ratio in ratios:
            with self.subTest(ratio.name):
                for _ in range(2): # what is made once is found the second time
                    for side in (ratio.side, ratio.other):
                        self.assertGreater(side()[ratio.of], 0)

    def test_each_has_two_sides(self):
        ratios = figures.figures(self.new)
        self.assertGreater(len(ratios), 10)
        self.assertEqual(len({r.name for r in ratios}), len(ratios))
        self.judged(ratios)

    def test_two_builds(self):
        """Of each build the same work, in a folder of its own, and no peer."""
        self.judged(figures.beside(self.new, self.old))
        self.assertEqual([words[1:] for words in self.new.ran], [words[1:] for words in self.old.ran])
        self.assertNotIn("peer", {words[0] for words in self.new.ran})

    def test_a_chain_has_its_layers(self):
        self.assertEqual(self.new.chain(7, True), "chain-spread-7-7.qcow2")
        overlays = [words for words in self.new.ran if words[1] == "create" and "-b" in words]
        self.assertEqual(len(overlays), 7)
        for i, words in enumerate(overlays[1:], 1):
            self.assertEqual(words[words.index("-b") + 1], f"chain-spread-7-{i}.qcow2")


if __name__ == "__main__":
    unittest.main()
