#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The verbs beside QEMU 10's qemu-img: one command line after the other, each run by both on the same files.

usage: test_interop_verbs.py VDISK_IO SOURCE [VERB [SUBSTRING]]     only these; VDISK_TEST_SHOW=1 prints messages

Compared are the exit code; standard output (JSON key by key, else to the letter, but for the numbers of progress);
the words that programs look for in messages (MATCHED); that an error of ours is one line; and which files there
are afterwards, with what content and what QEMU tells of them. The command lines are in verb_cases.py; what
differs on purpose, and why, is in verb_differences.py. A difference that is listed and is none any more fails as
well. Ours is called as qemu-img, by a link.

Not the same on purpose, whatever the command line: what failed has made no file; "Formatting" may be missing where
an image is refused; how long a file is, and where in it things lie.
"""
import contextlib
import filecmp
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

from verb_cases import CASES
from verb_differences import DIFFERENT
from verb_images import make_images

# What is on standard error when QEMU fails so, and what programs are known to look for there.
MATCHED = ['Failed to get "write" lock', 'Failed to get shared "write" lock', "No such file or directory",
           "Permission denied", "No space left", "mutually exclusive", "does not support checks", "--shrink",
           "Must be between", "Flush interval", "--flush-interval", "backing format"]


def without_rights(command):
    """As root: rights of files count."""
    if os.getuid() == 0 and shutil.which("setpriv"):
        return ["setpriv", "--bounding-set", "-dac_override,-dac_read_search", *command]
    return command


def run(command, folder):
    done = subprocess.run(without_rights(command), capture_output=True, cwd=folder, stdin=subprocess.DEVNULL,
                          timeout=120, check=False)
    for name in ("stdout", "stderr"):
        text = getattr(done, name).decode(errors="replace")
        text = text.replace(os.path.realpath(folder), "DIR").replace(folder, "DIR")
        text = re.sub(r"Run completed in [0-9.]+ seconds", "Run completed in N seconds", text)
        text = re.sub(r"(disk size:|\"actual-size\":) [0-9.]+( [KM]iB)?", r"\1 0", text) # of copies it differs
        text = re.sub(r"(    \([0-9]+\.[0-9]{2}/100%\)\r)+", "(PROGRESS)", text)
        setattr(done, name, text)
    return done


def tree(folder):
    found = {}
    for top, _, files in os.walk(folder):
        for name in files:
            path = os.path.join(top, name)
            status = os.lstat(path)
            found[os.path.relpath(path, folder)] = (status.st_mtime_ns, status.st_size)
    return found


class Side:
    """One program, with files of its own, that are made anew when it has changed one."""

    def __init__(self, program, images, folder):
        self.program, self.images, self.folder = program, images, folder
        self.before = self.after = None

    def prepare(self):
        if self.before is None or self.after != self.before:
            shutil.rmtree(self.folder, ignore_errors=True)
            subprocess.run(["cp", "-a", "--sparse=always", self.images, self.folder], check=True)
            self.before = tree(self.folder)

    def call(self, verb, words):
        done = run([self.program, verb, *words], self.folder)
        self.after = tree(self.folder)
        return done

    def changed(self):
        return {name for name in self.before | self.after if self.before.get(name) != self.after.get(name)}


@contextlib.contextmanager
def held(qemu_img, side, words):
    """A QEMU writes to the image held.FORMAT, if the command line has that name."""
    name = re.search(r"held\.(raw|qcow2)", " ".join(words))
    if not name:
        yield
        return
    qemu_io = os.path.join(os.path.dirname(qemu_img), "qemu-io")
    with subprocess.Popen([qemu_io, "-f", name[1], name[0]], cwd=side.folder, text=True, stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as holder:
        holder.stdin.write("read 0 512\n")
        holder.stdin.flush()
        while "read 512/512" not in holder.stdout.readline():
            assert holder.poll() is None
        try:
            yield
        finally:
            holder.communicate("quit\n")


def differing_keys(want, got, path=""):
    if isinstance(want, dict) and isinstance(got, dict):
        return [line for key in want.keys() | got.keys()
                for line in differing_keys(want.get(key, "none"), got.get(key, "none"), f"{path}.{key}")]
    if isinstance(want, list) and isinstance(got, list) and len(want) == len(got):
        return [line for i, pair in enumerate(zip(want, got)) for line in differing_keys(*pair, f"{path}[{i}]")]
    return [] if want == got and type(want) is type(got) else [f"{path}: {got!r}, QEMU has {want!r}"]


def compare_output(want, got, code):
    if code:
        want, got = ["" if text.startswith("Formatting ") else text for text in (want, got)]
    try:
        return differing_keys(json.loads(want), json.loads(got))
    except ValueError:
        return [] if want == got else [f"stdout {got!r}, QEMU's {want!r}"]


def compare_messages(verb, want, got, code):
    missing = [f"{text!r} is not in {got!r}, but in {want!r}" for text in MATCHED
               if text in want and text not in got]
    lines = [line for line in got.splitlines() if ": hint: " not in line]
    if code and verb not in ("check", "compare") and (len(lines) != 1 or not got.startswith("qemu-img: ")):
        missing.append(f"not one line that begins with the name: {got!r}")
    return missing


def told(qemu_img, folder, name):
    """What QEMU says of a file, but for how long it is and what space it takes."""
    info = json.loads(run([qemu_img, "info", "-U", "--output", "json", name], folder).stdout or "{}")
    facts = {key: info.get(key) for key in ("virtual-size", "format", "cluster-size", "backing-filename",
                                            "backing-filename-format", "format-specific", "dirty-flag")}
    if info.get("format") == "qcow2":
        facts["check"] = run([qemu_img, "check", "-q", "-U", name], folder).returncode
    return facts


def same_file(qemu_img, name, theirs, ours):
    facts = [told(qemu_img, side.folder, name) for side in (theirs, ours)]
    if facts[0] != facts[1]:
        return [f"{name}{line}" for line in differing_keys(*facts)]
    both = [os.path.join(side.folder, name) for side in (theirs, ours)]
    if facts[0]["format"] == "raw":
        return [] if filecmp.cmp(*both, shallow=False) else [f"{name}: other bytes"]
    done = run([qemu_img, "compare", "-U", *both], theirs.folder)
    return [] if done.returncode in (0, 2) else [f"{name}: {done.stdout}{done.stderr}"]


def compare_files(qemu_img, theirs, ours, code):
    gone = [f"{name}: {'only QEMU' if name in theirs.after else 'only we'} left it"
            for name in theirs.after.keys() ^ ours.after.keys() if not code or name in ours.after]
    changed = (theirs.changed() | ours.changed()) & theirs.after.keys() & ours.after.keys()
    return gone + [line for name in sorted(changed) for line in same_file(qemu_img, name, theirs, ours)]


def compare(qemu_img, theirs, ours, verb, line):
    """The differences of one command line, by what it is that differs."""
    words = ["" if word == '""' else word for word in line.split()]
    done = []
    for side in (theirs, ours):
        side.prepare()
        with held(qemu_img, side, words):
            done.append(side.call(verb, words))
    want, got = done
    if os.getenv("VDISK_TEST_SHOW"):
        print(f"{verb} {line}\n  QEMU {want.returncode}: {want.stderr.strip()}\n  ours {got.returncode}: "
              f"{got.stderr.strip()}")
    differences = {
        "code": [] if want.returncode == got.returncode else
                [f"exit code {got.returncode}, QEMU's {want.returncode}; {got.stderr!r}, {want.stderr!r}"],
        "output": compare_output(want.stdout, got.stdout, got.returncode),
        "message": compare_messages(verb, want.stderr if want.returncode else "", got.stderr, got.returncode),
        "files": compare_files(qemu_img, theirs, ours, got.returncode),
    }
    return {kind: lines for kind, lines in differences.items() if lines}


def judge(verb, line, differences):
    kinds, reason = DIFFERENT.get((verb, line), ("", ""))
    failures = [text for kind, lines in differences.items() if kind not in kinds.split() for text in lines]
    failures += [f"its {kind} is the same, so not: {reason}" for kind in kinds.split() if kind not in differences]
    if failures:
        print(f"FAIL {verb} {line}", *failures, sep="\n    ")
    return bool(failures)


def main():
    tool = os.path.realpath(sys.argv[1])
    qemu_img = subprocess.run([os.path.join(sys.argv[2], "bench/peer")], capture_output=True, text=True,
                              check=False).stdout.strip()
    version = re.search(r"version (\d+)", subprocess.run([qemu_img, "--version"], capture_output=True, text=True,
                                                         check=True).stdout if qemu_img else "")
    if not version or int(version[1]) < 10:
        print("skipped: QEMU 10 is not to be had (bench/peer)")
        return 77
    cases = [(verb, line.strip()) for verb, lines in CASES.items() for line in lines.strip().splitlines()]
    for unknown in DIFFERENT.keys() - set(cases):
        sys.exit(f"listed as different, but no case: {unknown}")
    cases = [case for case in cases if sys.argv[3:4] in ([], [case[0]]) and "".join(sys.argv[4:5]) in case[1]]
    if os.getenv("VDISK_TEST_QUICK"):
        cases = cases[::4]
    os.environ["LC_ALL"] = "C"
    os.umask(0o022)
    with tempfile.TemporaryDirectory() as top:
        images = os.path.join(top, "images")
        make_images(images, qemu_img)
        theirs = Side(qemu_img, images, os.path.join(top, "qemu"))
        link = os.path.join(top, "qemu-img")
        os.symlink(tool, link)
        ours = Side(link, images, os.path.join(top, "ours"))
        failures = sum(judge(*case, compare(qemu_img, theirs, ours, *case)) for case in cases)
    print(f"{len(cases)} command lines, {len(DIFFERENT)} of all differ on purpose, {failures} failures")
    return 1 if failures or not cases else 0


if __name__ == "__main__":
    sys.exit(main())
