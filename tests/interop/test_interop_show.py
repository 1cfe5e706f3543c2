#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""map, info and check of random chains, to the letter as QEMU 10 tells them.

usage: test_interop_show.py VDISK_IO SOURCE [CASE]

Layers of random size, format and options, written by QEMU and by us. A failure prints what repeats it, and how the
layers were made.
"""
import difflib
import json
import os
import random
import re
import subprocess
import sys
import tempfile

CALLS = [["map"], ["map", "--output", "json"], ["info"], ["info", "--output", "json"],
         ["info", "--backing-chain", "--output", "json"], ["check"]]


def run(*args):
    return subprocess.run(args, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL)


class Chain:
    def __init__(self, seed, case, tool, qemu_img):
        self.rng = random.Random(f"{seed} {case}")
        self.tool, self.qemu_img = tool, qemu_img
        self.qemu_io = os.path.join(os.path.dirname(qemu_img), "qemu-io")
        self.log = []
        self.name = self.format = None
        for number in range(self.rng.randint(1, 3)):
            self.add_layer(f"layer{case}.{number}")

    def logged(self, *args):
        """What is refused is refused: then there is that much less to show."""
        self.log.append(" ".join(args))
        return run(*args).returncode

    def options(self, name):
        rng = self.rng
        options = ["cluster_size=" + rng.choice(["512", "4k", "64k", "128k"])]
        if "64k" in options[0] and rng.random() < 0.4:
            options.append("extended_l2=on")
        elif not self.name and rng.random() < 0.6:
            options.append("preallocation=" + rng.choice(["metadata", "metadata", "falloc"]))
        if rng.random() < 0.2:
            options.append(f"data_file={name}.data")
        if rng.random() < 0.2:
            options.append("compression_type=zstd")
        return ",".join(options)

    def add_layer(self, name):
        rng = self.rng
        size = rng.choice([rng.randint(1, 4000) * 512, rng.randint(1, 64) * 65536, rng.randint(1, 3000000)])
        options = ""
        if not self.name and rng.random() < 0.3:
            kind = "raw"
            with open(name, "wb") as f:
                f.truncate(size)
        else:
            kind, options = "qcow2", self.options(name)
            backing = ["-b", self.name, "-F", self.format] if self.name else []
            maker = rng.choice([self.qemu_img, self.tool])
            if self.logged(maker, "create", "-q", "-f", "qcow2", "-o", options, *backing, name, str(size)):
                return
        self.write(name, kind, (size + 511) // 512 * 512, "data_file" not in options)
        self.name, self.format = name, kind

    def write(self, name, kind, size, may_compress):
        rng, commands = self.rng, []
        ours = rng.random() < 0.4
        for _ in range(rng.randint(0, 8)):
            offset = rng.randint(0, size - 1)
            command = rng.choice(["write -P 7", "write -P 7", "write -z", "write -z -u", "discard"])
            if kind == "qcow2" and may_compress and not ours and rng.random() < 0.1:
                command, offset = "write -c -P 5", offset // 131072 * 131072
            length = min(size - offset, 131072 if "-c" in command else rng.choice([1, 512, 4096, 65536, 300000]))
            commands += ["-c", f"{command} {offset} {length}"]
        if commands:
            self.logged(*([self.tool, "io"] if ours else [self.qemu_io]), "-f", kind, *commands, name)


def without_kept_space(text):
    """Unallocated subclusters of allocated clusters: see tests/tool/compare.py for what differs on purpose."""
    merged = []
    for entry in json.loads(text or "[]"):
        if not entry["present"]:
            entry.pop("offset", None)
            if merged and not merged[-1]["present"] and merged[-1]["depth"] == entry["depth"]:
                merged[-1]["length"] += entry["length"]
                continue
        merged.append(entry)
    return "\n".join(map(str, merged))


def compare(seed, case, tool, qemu_img):
    chain = Chain(seed, case, tool, qemu_img)
    if not chain.name:
        return 0
    failures = 0
    for verb in CALLS:
        theirs = run(qemu_img, *verb, "-f", chain.format, chain.name)
        ours = run(tool, *verb, "-f", chain.format, chain.name)
        want, got = theirs.stdout, ours.stdout
        if verb == ["map", "--output", "json"] and any("extended_l2" in line for line in chain.log):
            want, got = without_kept_space(want), without_kept_space(got)
        # A failed map may have printed what came before the failure.
        if ours.returncode != theirs.returncode or (want != got and ours.returncode != 1):
            failures += 1
            print(f"FAILED {' '.join(verb)}: exit code {ours.returncode}, QEMU {theirs.returncode}: {ours.stderr}")
            print("\n".join(difflib.unified_diff(want.splitlines(), got.splitlines(), "QEMU", "ours", n=0)))
    if failures:
        print(f"again: VDISK_SEED={seed} {sys.argv[0]} {sys.argv[1]} {sys.argv[2]} {case}; made by:", *chain.log,
              sep="\n  ")
    return failures


def main():
    tool = os.path.realpath(sys.argv[1])
    qemu_img = run(os.path.join(sys.argv[2], "bench/peer")).stdout.strip()
    version = re.search(r"version (\d+)", run(qemu_img, "--version").stdout if qemu_img else "")
    if not version or int(version[1]) < 10:
        print("skipped: QEMU 10 is not to be had (bench/peer)")
        return 77
    count = 8 if os.getenv("VDISK_TEST_QUICK") else 1000 if os.getenv("VDISK_TEST_LONG") else 40
    cases = [int(sys.argv[3])] if len(sys.argv) > 3 else range(count)
    seed = os.getenv("VDISK_SEED", "1")
    if seed == "new":
        seed = str(random.randrange(1 << 32))
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        failures = sum(compare(seed, case, tool, qemu_img) for case in cases)
        os.chdir("/")
    print(f"seed {seed}: {len(cases)} chains, {failures} differences")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
