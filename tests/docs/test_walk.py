#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""README's walk through a storage domain, line by line in one shell: each line succeeds, and prints what stands
below it.

usage: test_walk.py SOURCE VDISK_IO PROBE

Below a line its output stands behind "# ", if it is shown. UUIDs are cut to their first part, each to a part of
its own, and "holds" is the file system's. The line of a benchmark is run by the same program, at its smallest
size.
"""
import os
import pathlib
import re
import subprocess
import sys
import tempfile

SOURCE, TOOL, PROBE = (os.path.realpath(word) for word in sys.argv[1:])
UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
SHORT = re.compile(r"\b[0-9a-f]{8}\.\.\.")
MARK = "walk: line ended with "
failures = []


def fail(text):
    failures.append(text)
    print("FAILED:", text)


def walk():
    """[line, [what it prints]], in turn."""
    text = pathlib.Path(SOURCE, "README.md").read_text()
    section = re.search(r"^## A walk [^\n]*\n(.*?)^## ", text, re.M | re.S)[1]
    found = []
    for line in re.findall(r"^    (.*)$", section, re.M):
        if line.startswith("# "):
            found[-1][1].append(line[2:])
        elif line.startswith(" "):
            fail(f"'{line}' is neither a line nor what one prints")
        else:
            found.append([line, []])
    return found


def stand_ins(folder):
    """What the walk supposes to be there; whether that is all. The benchmark is not built first, and is small."""
    os.makedirs(f"{folder}/bin")
    os.symlink(TOOL, f"{folder}/bin/vdisk-io")
    peer = subprocess.run([f"{SOURCE}/bench/peer"], capture_output=True, text=True, check=False).stdout.strip()
    os.makedirs(f"{folder}/bench")
    script = pathlib.Path(folder, "bench/domain")
    script.write_text(f"""#!/bin/bash
exec python3 -B {SOURCE}/bench/jobs.py --domains --tool {TOOL} --probe {PROBE} --peer {peer} \\
    --rounds 1 --limit 0 "${{@/--quick/--scale=1024}}"
""")
    script.chmod(0o755)
    return os.access(peer, os.X_OK)


def run(lines, folder):
    """The output of each line and its exit code, all of them by one shell."""
    script = "".join(f"{line}\necho \"{MARK}$?\"\n" for line, _ in lines)
    path = f"{folder}/bin:{os.environ['PATH']}"
    done = subprocess.run(["bash"], input=script, cwd=folder, env=os.environ | {"PATH": path},
                          capture_output=True, text=True, check=False)
    print(done.stdout + done.stderr)
    parts = re.split(rf"^{MARK}(\d+)\n", done.stdout, flags=re.M)
    return list(zip(parts[0::2], parts[1::2]))


def pattern(line, known):
    """Of a line as README has it; with a group for each UUID that is not known yet, whose short forms come too."""
    regex, at, new = "", 0, []
    for short in SHORT.finditer(line):
        regex += re.escape(line[at:short.start()])
        if short[0] in known:
            regex += known[short[0]]
        else:
            regex += f"({UUID})"
            new.append(short[0])
        at = short.end()
    regex += re.escape(line[at:])
    return re.compile(re.sub(r"holds\\ [\d.\\]+\\ \w+", r"holds [\\d.]+ \\w+", regex)), new


def compare(line, shown, output, known):
    left = output.splitlines()
    for one in shown:
        regex, new = pattern(one, known)
        match = next((m for m in map(regex.fullmatch, left) if m), None)
        if not match:
            fail(f"{line}: prints no '{one}', but {left}")
            return
        known |= dict(zip(new, match.groups()))
        left.remove(match[0])
    if left:
        fail(f"{line}: also prints {left}")
    if len(set(known.values())) != len(known):
        fail(f"{line}: two UUIDs of README are one: {known}")


def judge(lines, results):
    known = {}
    for (line, shown), (output, code) in zip(lines, results):
        if code != "0":
            fail(f"{line}: exit code {code}: {output}")
        elif shown:
            compare(line, shown, output, known)
    if len(results) != len(lines):
        fail(f"of {len(lines)} lines {len(results)} were run")


def main():
    lines = walk()
    for word in ("domain create", "volume create", "volume snapshot", "volume merge", "domain check",
                 "volume serve", "bench/domain"):
        if not any(word in line for line, _ in lines):
            fail(f"the walk has no {word}")
    with tempfile.TemporaryDirectory(dir=os.getcwd()) as folder:
        if not stand_ins(folder):
            print("NOT RUN: there is no qemu-img: the lines from the benchmark on")
            lines = lines[:next(i for i, (line, _) in enumerate(lines) if line.startswith("bench/"))]
        judge(lines, run(lines, folder))
        page = pathlib.Path(folder, "report-domains/index.html")
        if "bench/domain" in str(lines) and not (page.exists() and "<svg" in page.read_text()):
            fail("the benchmark's page has no plot")
    print(f"{len(lines)} lines, {len(failures)} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
