#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""What run_fuzz.py prints of a target that fails, and what it gives it to run: a program plays the target.

usage: test_run_fuzz.py
"""
import base64
import gzip
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import unittest

SCRIPT = pathlib.Path(__file__).with_name("run_fuzz.py")
TARGET = """#!/usr/bin/env python3
import pathlib, sys
options = dict(arg[1:].split("=", 1) for arg in sys.argv[1:] if arg[0] == "-")
print(pathlib.Path(options["seed_inputs"][1:]).read_text(), file=open("seeds", "w"))
print("stat::number_of_executed_units: 5\\n#5 DONE cov: 7")
here = pathlib.Path(__file__).parent
if (here / "says").exists():
    print("#12\\tNEW    cov: 5 ft: 7\\n" * 500 + (here / "says").read_text())
    pathlib.Path(options["artifact_prefix"] + "crash-1").write_bytes((here / "input").read_bytes())
    print("artifact_prefix='x'; Test unit written to " + options["artifact_prefix"] + "crash-1")
    print("Base64: " + 5000 * "A")
    sys.exit(77)
"""
ASAN = """==7==ERROR: AddressSanitizer: heap-use-after-free on address 0x60 at pc 0x0
READ of size 8 at 0x60 thread T0
    #0 0x55 in __asan_memcpy (/x/build/tests/fuzz/fuzz_image+0x5)
    #1 0x55 in q2_lookup /x/build/../qcow2/map/lookup.c:77:9
SUMMARY: AddressSanitizer: heap-use-after-free"""
CHECK = "../tests/fuzz/fuzz_image.c:42: len > 0: a hole at 5\n==7== ERROR: libFuzzer: deadly signal"


class RunFuzz(unittest.TestCase):
    def setUp(self):
        work = tempfile.TemporaryDirectory()
        self.addCleanup(work.cleanup)
        self.work = pathlib.Path(work.name)
        (self.work / "target").write_text(TARGET)
        (self.work / "target").chmod(0o755)
        (self.work / "corpus").mkdir()
        for name in "cdaeb":
            (self.work / "corpus" / name).write_text(name)

    def fuzz(self, says=None, data=b""):
        if says:
            (self.work / "says").write_text(says)
            (self.work / "input").write_bytes(data)
        env = {name: value for name, value in os.environ.items() if not name.startswith("VDISK_")}
        return subprocess.run([sys.executable, SCRIPT, self.work / "target", "image", self.work / "corpus"],
                              text=True, stdout=subprocess.PIPE, cwd=self.work, env=env, check=False)

    def test_passes(self):
        done = self.fuzz()
        self.assertEqual(done.returncode, 0)
        self.assertIn("5 executions", done.stdout.splitlines()[-1])
        seeds = (self.work / "seeds").read_text().strip().split(",")
        self.assertEqual([name[-1] for name in seeds], list("abcde"))

    def test_the_end_says_why(self):
        for says, why in ((CHECK, "why: ../tests/fuzz/fuzz_image.c:42: len > 0: a hole at 5"),
                          (ASAN, "in q2_lookup, qcow2/map/lookup.c:77:9"),
                          ("t: a.c:9: f: Assertion `x' failed.", "why: t: a.c:9: f: Assertion `x' failed."),
                          ("== ERROR: libFuzzer: timeout after 25 seconds", "timeout after 25 seconds")):
            done = self.fuzz(says, b"QFI\xfb" + bytes(60000))
            lines = done.stdout.splitlines()
            self.assertEqual(done.returncode, 1)
            self.assertIn(why, " ".join(lines[-2:]))
            self.assertLess(len(lines), 30) # none of the progress
            self.assertLessEqual(max(len(line) for line in lines[-3:]), 120 + len(str(self.work)))

    def test_the_input_can_be_had(self):
        data = b"QFI\xfb" + bytes(60000)
        lines = self.fuzz(CHECK, data).stdout.splitlines()
        first = next(i for i, line in enumerate(lines) if line.startswith("the input: 60004 bytes, sha1 "))
        text = "".join(lines[first + 1:lines.index("END")])
        self.assertEqual(gzip.decompress(base64.b64decode(text)), data)

    def test_an_input_that_is_long(self):
        lines = self.fuzz(CHECK, random.Random(1).randbytes(5000)).stdout.splitlines()
        self.assertIn("5000 bytes, sha1", lines[-3])
        self.assertTrue(lines[-2].startswith("again: "))


if __name__ == "__main__":
    unittest.main()
