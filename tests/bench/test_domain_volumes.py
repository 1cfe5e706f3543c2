#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The volumes of bench/run --domain: made in a domain, three of them in turn in one file, each as it was left; and
with fio and its engine each cell of some patterns.

usage: test_domain_volumes.py BENCH VDISK_IO PROBE [ENGINE]
"""
import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

BENCH, TOOL, PROBE = (os.path.realpath(word) for word in sys.argv[1:4])
ENGINE = os.path.realpath(sys.argv[4]) if len(sys.argv) > 4 and shutil.which("fio") else None
del sys.argv[1:]
sys.path.insert(0, BENCH)
sys.dont_write_bytecode = True

import cells # from the folder given
import domain_volumes
import load
import page
import suite

SIZE = 8 << 20
SIDES = [cells.Side(engine, volume) for volume in
         (cells.RAW_FULL, cells.QCOW2_FULL, cells.QCOW2_SPARSE, cells.RAW_SPARSE)
         for engine in ("vdisk", "io_uring")]


class WithoutFio(load.Loads):
    """Volumes are filled by our own tool."""

    def fio(self, options, engine, volume, path):
        self.run([self.vdisk_io, "bench", "--rw", "write", "--bs", "64k", "--count", self.size >> 16, path])


class Case(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory(dir=os.getcwd())
        self.addCleanup(scratch.cleanup)
        self.folder = pathlib.Path(scratch.name)
        self.commands = open(self.folder / "commands.txt", "w")
        self.addCleanup(self.commands.close)

    def loads(self, kind):
        return kind(ENGINE, TOOL, PROBE, None, SIZE, self.folder, self.commands)

    def tool(self, *words):
        done = subprocess.run([TOOL, *map(str, words)], capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 0, f"{words}: {done.stdout}{done.stderr}")
        return done.stdout


class Volumes(Case):
    def prepared(self):
        volumes = domain_volumes.DomainVolumes(self.loads(WithoutFio), self.folder, lambda text: None)
        volumes.prepare({side.volume for side in SIDES})
        return volumes

    def test_each_is_in_the_domain(self):
        volumes = self.prepared()
        listed = self.tool("volume", "list", volumes.domain)
        for volume, name in volumes.names.items():
            line = next(line for line in listed.splitlines() if line.startswith(name))
            self.assertIn(f"{volume.format} {'sparse' if volume.prealloc == 'off' else 'preallocated'} ", line)
        self.assertEqual(len(volumes.names), 4)

    def test_each_is_as_it_was_left(self):
        volumes = self.prepared()
        sides = {side.volume: side for side in SIDES if side.engine == "vdisk"}
        kept = (cells.QCOW2_SPARSE, cells.RAW_SPARSE)
        inodes = {}
        for number, volume in enumerate(kept):
            self.tool("io", "-c", f"write -P {number + 1} 64k 64k", volumes.ready(sides[volume]))
        for volume, side in sides.items():
            told = json.loads(self.tool("info", "--output", "json", volumes.ready(side)))
            self.assertEqual(told["format"], volume.format)
            inodes[volume] = os.stat(volumes.file(volumes.names[volume])).st_ino
        for number, volume in enumerate(kept):
            path = volumes.ready(sides[volume])
            self.assertTrue(path.startswith("volume:"), path)
            self.tool("io", "-c", f"read -P {number + 1} 64k 64k", path)
        alone = inodes.pop(cells.RAW_SPARSE)
        self.assertEqual(len(set(inodes.values())), 1)
        self.assertNotIn(alone, inodes.values())

    def test_raw_writes_leave_the_others_whole(self):
        volumes = self.prepared()
        pattern = next(p for p in cells.patterns() if p.touch == "rewrite")
        raw = cells.Side("vdisk", cells.RAW_FULL)
        self.tool("bench", "--rw", "write", "--bs", "64k", "--count", SIZE >> 16, volumes.ready(raw))
        volumes.written(raw, pattern)
        for volume in (cells.QCOW2_FULL, cells.QCOW2_SPARSE):
            path = volumes.ready(cells.Side("io_uring", volume))
            self.assertIn("No errors", self.tool("check", "-f", "qcow2", path))

    def test_first_touch_is_of_a_new_volume(self):
        volumes = domain_volumes.DomainVolumes(self.loads(WithoutFio), self.folder, lambda text: None)
        for side in SIDES:
            path = volumes.make_fresh(side)
            self.assertEqual(path.startswith("volume:"), side.engine == "vdisk")
            if side.engine == "vdisk":
                self.tool("io", "-c", f"read -P 0 0 {SIZE}", path)
            volumes.drop_fresh()
            self.assertEqual(self.tool("volume", "list", volumes.domain), "")
        self.assertIn("0 faults", self.tool("domain", "check", volumes.domain))
        volumes.remove()
        self.assertEqual(os.listdir(self.folder), ["commands.txt"])


class Run(Case):
    @unittest.skipUnless(ENGINE, "there is no fio, or no engine for it")
    def test_cells(self):
        chosen = [p for p in cells.patterns() if p.order == "rand" and p.block == 4096 and p.depth == 32]
        for pattern in chosen: # without QEMU
            self.assertFalse(pattern.qemu_can)
        plan = suite.Plan(chosen, True, 0.05)
        plan.rounds = lambda pattern: 1
        args = argparse.Namespace(domain="file", seconds=0.05)
        run = suite.Suite(args, self.loads(load.Loads), plan, self.folder, None)
        run.run()
        for row in run.rows:
            self.assertEqual(len(row.samples), 1, f"{row.pattern.name}: {row.side.name}")
        run.volumes.remove()
        self.commands.flush()
        said = (self.folder / "commands.txt").read_text()
        self.assertIn("--filename=volume", said)
        self.assertIn("volume create -f qcow2 -a preallocated", said)


class Page(unittest.TestCase):
    def test_domain_is_told_of(self):
        results = {"machine": {"title": "x"}, "settings": {}, "figures": [], "cells": [], "absent": [],
                   "jobs": None}
        for domain, told in (("file", page.OF_FOLDER), ("/dev/x", page.OF_GROUP)):
            told = page.esc(told[0][1])
            self.assertNotIn(told, page.make(results, ""))
            self.assertIn(told, page.make(results | {"settings": {"domain": domain}}, ""))


if __name__ == "__main__":
    unittest.main()
