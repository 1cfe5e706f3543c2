#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The lines of bench/net from made-up results: what is judged how, and what becomes of servers that fail.

usage: test_net.py BENCH
"""
import os
import pathlib
import socket
import sys
import tempfile
import unittest
import unittest.mock

BENCH = str(pathlib.Path(sys.argv[1]).resolve())
sys.path.insert(0, BENCH)
sys.dont_write_bytecode = True

import jobs # from the folder given
import judge
import net_lines
import page
from job_images import Skip, Sizes
from work import Work, WorkError

LISTEN = "import socket, sys, time; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(); "
SIDES = ("QEMU", "one connection", "nbdkit", "file", "nbdcopy")
PLAIN = {"iops": 1000, "bytes_per_s": 1e6, "per_cpu_s": 1000, "seconds": 1}


def fio_job(ios=5000, iops=2500.0, runtime=4000, way="read", error=0):
    other = {"read": "write", "write": "read"}[way]
    return {"error": error, "job_runtime": runtime,
            way: {"total_ios": ios, "iops": iops, "io_bytes": ios * 4096},
            other: {"total_ios": 0, "iops": 0.0, "io_bytes": 0}}


class Made(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.work = Work("tool", self.folder / "qemu-img", "probe", self.folder)
        self.images = net_lines.NetImages(self.work, Sizes(1024))
        self.addCleanup(self.images.leave)
        self.maker = net_lines.NetMaker(self.work, self.images)

    def serve(self, body):
        """A server that is a few words of Python."""
        path = self.images.socket()
        return net_lines.serving(self.work, path, [sys.executable, "-c", body, path])

    def test_verdicts(self):
        """Each figure is met a little above what is asked, and missed a little below."""
        asking = 0
        for line in self.maker.lines():
            for figure in line.figures:
                if figure.bound is None:
                    continue
                asking += 1
                for factor, verdict in ((1.01, judge.MET), (0.99, judge.MISSED)):
                    other = {side: PLAIN for side in SIDES}
                    ours = {what: value * figure.bound * factor for what, value in PLAIN.items()}
                    ours["seconds"] = 1 / (figure.bound * factor)
                    row = judge.judge_rounds(figure, [other | {"ours": ours}] * 6)
                    self.assertEqual(row["verdict"], verdict, (line.name, figure.text))
        self.assertEqual(asking, 14)

    def test_one_figure_not_the_other(self):
        """Many requests a second by much processor time; and against the wrong side."""
        lines = {line.name: line for line in self.maker.lines()}
        sides = {side: PLAIN for side in SIDES}
        rounds = [sides | {"ours": PLAIN | {"iops": 3000}}] * 6
        verdicts = [judge.judge_rounds(figure, rounds)["verdict"]
                    for figure in lines["4 KiB random write, preallocated qcow2"].figures]
        self.assertEqual(verdicts, [judge.MET, judge.MISSED])
        rounds = [sides | {"ours": PLAIN | {"iops": 3000}, "one connection": PLAIN | {"iops": 2500}}] * 6
        verdicts = [judge.judge_rounds(figure, rounds)["verdict"]
                    for figure in lines["4 KiB random read, 4 connections"].figures]
        self.assertEqual(verdicts, [judge.MET, judge.MISSED, None])

    def test_sample(self):
        """By the rate while it ran; by all of the time where the last flush is in it."""
        found = net_lines.sample(fio_job(), "read", 0.5, 7 << 20, whole=False)
        self.assertEqual(found, {"iops": 2500, "bytes_per_s": 2500 * 4096, "per_cpu_s": 10000, "cpu_us": 100,
                                 "rss": 7 << 20})
        self.assertEqual(net_lines.sample(fio_job(way="write"), "write", 0.5, 1, whole=True)["iops"], 1250)
        for job in (fio_job(ios=0), fio_job(error=5)):
            with self.assertRaises(WorkError):
                net_lines.sample(job, "read", 0.5, 1, whole=False)

    def test_server(self):
        """It is there within, with what it takes; and gone after, also after a failure."""
        with self.serve(LISTEN + "sum(range(3000000)); time.sleep(60)") as pid:
            with socket.socket(socket.AF_UNIX) as s:
                s.connect(str(self.images.socket()))
            self.assertGreater(net_lines.cpu(pid), 0)
            self.assertGreater(net_lines.most_memory(pid), 1 << 20)
        self.assertFalse(os.path.exists(f"/proc/{pid}"))
        with self.assertRaises(ZeroDivisionError):
            with self.serve(LISTEN + "time.sleep(60)") as pid:
                raise ZeroDivisionError
        self.assertFalse(os.path.exists(f"/proc/{pid}"))

    def test_cpu_is_of_the_server(self):
        """What we take meanwhile is not in it."""
        with self.serve(LISTEN + "time.sleep(60)") as pid:
            before, own = net_lines.cpu(pid), net_lines.cpu(os.getpid())
            while net_lines.cpu(os.getpid()) < own + 0.2:
                pass
            self.assertLess(net_lines.cpu(pid) - before, 0.1)

    def test_failing_servers(self):
        with self.assertRaisesRegex(WorkError, "does not serve: no such image"):
            with self.serve("import sys; sys.exit('no such image')"):
                self.fail("it serves")
        with self.assertRaisesRegex(WorkError, "has ended by itself"):
            with self.serve(LISTEN + "s.accept()") as pid:
                os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)

    def test_who_is_not_there(self):
        with unittest.mock.patch("shutil.which", lambda *_: None):
            for server in (lambda: self.maker.qemu("raw", "x"), lambda: self.maker.nbdkit("x"),
                           self.maker.nbdcopy):
                self.assertRaises(Skip, server)
        self.maker.fio = False
        with self.assertRaisesRegex(Skip, "fio"):
            self.maker.fio_nbd()

    def test_our_client(self):
        """Skipped where there is none; a client that fails is no reason to skip."""
        for said, error in (("the protocol 'nbd+unix' is not supported", Skip), ("Connection refused", WorkError)):
            with unittest.mock.patch.object(self.work, "run", side_effect=WorkError(said)):
                with self.assertRaises(error):
                    self.maker.has_client()

    def test_page(self):
        """The title, how to read it, and both amounts."""
        side = {"iops": [1000.0], "per_cpu_s": [70000.0], "bytes_per_s": [5e8], "rss": [9 << 20]}
        figure = judge.judge(judge.Figure(page.OF_QEMU, None, 2), [3.0] * 6)
        row = {"rounds": 1, "sides": {"ours": side, "QEMU": side}, "figures": [figure],
               "memory": {"most": 9 << 20, "bound": 256 << 20, "verdict": judge.MET}}
        lines = [row | {"name": "small", "of": "iops"}, row | {"name": "large", "of": "bytes_per_s"}]
        self.assertIn("1,000/s (70,000 in a CPU second, 9 MiB)", jobs.describe(lines[0]))
        self.assertIn("ours 500 MB/s", jobs.describe(lines[1]))
        results = {"machine": {"title": "m"}, "settings": {}, "figures": [], "cells": [], "absent": []}
        for title in (page.NET, "Bulk work"):
            text = page.make(results | {"jobs": {"title": title, "scale": 1, "lines": lines}}, "")
            self.assertIn("70,000 / 70,000", text)
            self.assertEqual("fio's nbd engine" in text.replace("&#x27;", "'"), title == page.NET)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
