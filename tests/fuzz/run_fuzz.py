#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Run one libFuzzer target over its corpus and on from there.

usage: run_fuzz.py PROGRAM NAME CORPUS

Without more, a fixed number of inputs from a fixed seed. Environment:
  VDISK_TEST_LONG=1       this target's part of four hours, from a new seed
  VDISK_FUZZ_SECONDS=N    N seconds instead
  VDISK_FUZZ_DIR=DIR      keep what is found in DIR/NAME: inputs that reach new code, and those that fail
  VDISK_SEED=N|new        the seed
What fails is kept in ./fuzz-failures where VDISK_FUZZ_DIR is not set. Exit status 1 when anything failed: the last
lines then are the input, packed, and why it failed.

A fixed seed is one series of inputs for one program: the corpus comes by name, not as the folder lists it; nothing
is read again by the clock; addresses, which libFuzzer takes from comparisons for numbers to try, are not random.
Another compiler, or a change of the code, makes another series.
"""
import base64
import gzip
import hashlib
import os
import pathlib
import re
import secrets
import subprocess
import sys
import tempfile
import textwrap
import time

LONG_SECONDS = 4 * 3600
# Parts of the time, and inputs of a default run.
SHARES = {"image": 6, "header": 1, "tables": 1, "names": 2, "domain": 1, "nbd_handshake": 1, "nbd_requests": 1,
          "nbd_replies": 1}
RUNS = {"image": 3000, "header": 100000, "tables": 60000, "names": 100000, "domain": 100000,
        "nbd_handshake": 20000, "nbd_requests": 20000, "nbd_replies": 20000}
FAILURES_MAX = 20
TIMEOUT_S = 600  # a wait that never ends, not a slow machine
MEMORY_MB = 1024
PACKED_MAX = 2048 # of an input that is printed
WIDTH = 110

# What libFuzzer prints by the hundred.
PROGRESS = re.compile(r"#\d+\s+[A-Za-z]+ +cov:|\s*NEW_FUNC|\s*#\d+ 0x\w+ in fuzzer::|stat::")

# What says why a program failed; the first line of all. Then where, of what does not say that itself.
REASON = re.compile(r"^\S+\.[ch]:\d+:|Assertion .* failed|ERROR: (Address|Leak|Memory)Sanitizer|ERROR: libFuzzer")
ROOMS = "qcow2|engine|backends|filters|jobs|tools|tests"
FRAME = re.compile(rf"^ +#\d+ 0x\w+ in (\w+) (?:\S*/)?((?:{ROOMS})/\S+:\d+)", re.M)


def reason(output):
    """One line of what a program that failed has said."""
    lines = [line.strip() for line in output.splitlines()]
    first = next((line for line in lines if REASON.search(line)), lines[-1] if lines else "it said nothing")
    frame = FRAME.search(output)
    if "Sanitizer" not in first and "libFuzzer" not in first or not frame:
        return first
    return f"{first}; in {frame[1]}, {frame[2]}"


def packed(path):
    """The lines that tell what is in a file."""
    data = path.read_bytes()
    about = f"{len(data)} bytes, sha1 {hashlib.sha1(data).hexdigest()}"
    text = base64.b64encode(gzip.compress(data, mtime=0)).decode()
    if len(text) > PACKED_MAX:
        return [f"the input: {about}: too much to print; the same seed finds it again"]
    return [f"the input: {about}: base64 -d <<'END' | gunzip >{path.name}", *textwrap.wrap(text, WIDTH), "END"]


def fixed_addresses():
    """What a program is run by, so that it lies at the same addresses each time; a container may refuse."""
    command = ["setarch", "-R"]
    try:
        done = subprocess.run([*command, "true"], stderr=subprocess.DEVNULL, check=False)
    except FileNotFoundError:
        return []
    return command if done.returncode == 0 else []


class Fuzzer:
    def __init__(self, program, name, corpus, work):
        self.program, self.name, self.corpus = program, name, corpus
        kept = os.environ.get("VDISK_FUZZ_DIR")
        self.found = pathlib.Path(kept, name, "corpus") if kept else work / "corpus"
        self.failures = pathlib.Path(kept, name, "failures") if kept else pathlib.Path("fuzz-failures", name)
        self.found.mkdir(parents=True, exist_ok=True)
        self.failures.mkdir(parents=True, exist_ok=True)
        self.executions, self.crashes, self.coverage = 0, 0, 0
        self.why = []
        self.seeds = work / "seeds"
        self.seeds.write_text(",".join(sorted(str(f) for f in pathlib.Path(corpus).iterdir())))

    def run(self, limit, seed):
        """One run of the program until the limit or a failure. True: it came to its end."""
        args = [*fixed_addresses(), self.program, limit, f"-seed={seed}", f"-timeout={TIMEOUT_S}",
                f"-rss_limit_mb={MEMORY_MB}", f"-artifact_prefix={self.failures}/", "-print_final_stats=1",
                "-entropic=0", "-max_len=65536", "-reload=0", f"-seed_inputs=@{self.seeds}", str(self.found)]
        done = subprocess.run(args, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                              text=True, errors="replace", check=False)
        for pattern, what in ((r"stat::number_of_executed_units: +(\d+)", "executions"),
                              (r"cov: (\d+)", "coverage")):
            numbers = [int(n) for n in re.findall(pattern, done.stdout)]
            if numbers and what == "executions":
                self.executions += numbers[-1]
            elif numbers:
                self.coverage = max(numbers)
        if done.returncode == 0:
            return True
        self.crashes += 1
        print("\n".join([line for line in done.stdout.splitlines() if not PROGRESS.match(line)][-80:]))
        files = re.findall(r"Test unit written to (.*)", done.stdout)
        self.why = [line for file in files[-1:] for line in packed(pathlib.Path(file))]
        self.why.append(f"again: {' '.join([self.program, *files])}")
        self.why.extend(textwrap.wrap(f"why: {reason(done.stdout)}", WIDTH)[:3])
        return False

    def run_for(self, seconds, seed):
        end = time.monotonic() + seconds
        while (left := int(end - time.monotonic())) > 0 and self.crashes < FAILURES_MAX:
            self.run(f"-max_total_time={left}", seed)
            seed += 1


def main(program, name, corpus):
    started = time.monotonic()
    seconds = float(os.environ.get("VDISK_FUZZ_SECONDS", "0"))
    long = bool(os.environ.get("VDISK_TEST_LONG"))
    if long and not seconds:
        seconds = LONG_SECONDS * SHARES[name] / sum(SHARES.values())
    asked = os.environ.get("VDISK_SEED") or ("new" if seconds else "1")
    seed = secrets.randbelow(1 << 31) + 1 if asked == "new" else int(asked)
    with tempfile.TemporaryDirectory() as work:
        fuzzer = Fuzzer(program, name, corpus, pathlib.Path(work))
        if seconds:
            fuzzer.run_for(seconds, seed)
        else:
            runs = RUNS[name] // (8 if os.environ.get("VDISK_TEST_QUICK") else 1)
            fuzzer.run(f"-runs={runs}", seed)
        print(f"fuzz {name}: {fuzzer.executions} executions in {time.monotonic() - started:.0f} s, "
              f"coverage {fuzzer.coverage}, {fuzzer.crashes} failures (seed {seed})")
        for line in fuzzer.why:
            print(line)
    return 1 if fuzzer.crashes or not fuzzer.executions else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:4]))
