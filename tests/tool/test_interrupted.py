#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""SIGINT, SIGTERM or SIGHUP at any time, of each verb that takes long: it ends with one line, and exit code 1 (2
of checksum, 4 of compare), or is done; what was to be made is whole or absent, what was there reads as it did and
checks clean, and the same command again does all of it.

usage: test_interrupted.py VDISK_IO

Random: VDISK_SEED=NUMBER, or new.
"""
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from checks import TOOL, end, expect, hints_aside, remove, run, same, works

SEED = os.environ.get("VDISK_SEED", "1")
SEED = random.randrange(1 << 32) if SEED == "new" else int(SEED)
WORDS = ("cancelled", "Operation canceled", "was stopped")
TRIES = 3 if os.environ.get("VDISK_TEST_QUICK") else 6
MIB = 1 << 20
SIZE = 24 * MIB
stopped = 0


# ---- what each verb works on, and what is true whenever it stops ---------------------------------------------


def make_chain():
    remove("base", "top", "other")
    works("create", "-q", "-f", "qcow2", "base", str(SIZE))
    works("create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", "top")
    works("convert", "-n", "-O", "qcow2", "source", "top")
    works("create", "-q", "-f", "qcow2", "other", str(SIZE))


def make_image():
    remove("image")
    works("convert", "-O", "qcow2", "-o", "cluster_size=4k", "source", "image")


def nothing():
    pass


def there(name, done):
    return done in (None, os.path.exists(name))


def target_absent(done):
    expect("the target is whole, or absent", there("target", done))
    if os.path.exists("target"):
        same("source", "target")


def empty_target(done):
    expect("the target is there, or absent", there("target", done))
    if os.path.exists("target"):
        works("check", "-q", "target")


def manifest_absent(done):
    expect("the manifest is whole, or absent", there("m", done) and not os.path.exists("m.new"))
    if os.path.exists("m"):
        works("checksum", "-q", "--verify", "m", "source")


def target_and_manifest(done):
    target_absent(done)
    manifest_absent(done)


def chain_reads(_done):
    same("source", "top")
    works("check", "-q", "base")
    code = run("check", "-q", "top").returncode
    expect("top checks clean, but for leaks", code in (0, 3), code)


def image_reads(_done):
    same("source", "image")
    result = run("check", "--output=json", "image")
    found = json.loads(result.stdout)
    expect("image checks clean, without a leak", result.returncode == 0 and not found.get("leaks"), result.stdout)


def image_longer(done):
    works("resize", "-q", "--shrink", "image", str(SIZE)) # whatever its size has become
    image_reads(done)


VERBS = [
    (["convert", "-O", "raw", "source", "target"], nothing, target_absent),
    (["convert", "-O", "qcow2", "source", "target"], nothing, target_absent),
    (["convert", "-O", "qcow2", "-c", "source", "target"], nothing, target_absent),
    (["convert", "-O", "qcow2", "--manifest", "m", "source", "target"], nothing, target_and_manifest),
    (["convert", "-O", "qcow2", "-o", "preallocation=full", "source", "target"], nothing, target_absent),
    (["dd", "-O", "qcow2", "bs=1M", "if=source", "of=target"], nothing, target_absent),
    (["create", "-q", "-f", "qcow2", "-o", "preallocation=full", "target", "64M"], nothing, empty_target),
    (["checksum", "-q", "--manifest", "m", "source"], nothing, manifest_absent),
    (["compare", "-q", "source", "copy"], nothing, lambda done: None),
    (["measure", "-O", "qcow2", "image"], make_image, image_reads),
    (["commit", "-q", "top"], make_chain, chain_reads),
    (["rebase", "-q", "-b", "other", "-F", "qcow2", "top"], make_chain, chain_reads),
    (["rebase", "-q", "-c", "-b", "", "top"], make_chain, chain_reads),
    (["amend", "-q", "-o", "refcount_bits=64", "image"], make_image, image_reads),
    (["resize", "-q", "--preallocation=full", "image", "48M"], make_image, image_longer),
    (["check", "-q", "image"], make_image, image_reads),
]


def interrupt(r, command, whole):
    """Started, and told to end at some time. Whether it was done by then; None: either."""
    global stopped
    number = r.choice([signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    child = subprocess.Popen([TOOL, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                             stdin=subprocess.DEVNULL, text=True)
    time.sleep(r.random() * whole)
    child.send_signal(number)
    out, said = child.communicate()
    if child.returncode == 0:
        expect(f"{command}: done, and says nothing", said == "", said)
        return True
    stopped += 1
    if child.returncode == -number: # before its work; or behind it, when what it prints has been printed
        expect(f"{command}: says nothing", said == "", said)
        return None
    want = {"checksum": 2, "compare": 4}.get(command[0], 1)
    expect(f"{command}: exit code {child.returncode}", child.returncode == want, said)
    lines = hints_aside(said)
    expect(f"{command}: one line", len(lines) == 1, said)
    expect(f"{command}: says why", any(word in said for word in WORDS), said)
    return False


def try_verb(r, command, prepare, judge):
    remove("target", "m")
    prepare()
    begin = time.monotonic()
    works(*command)
    whole = time.monotonic() - begin
    for _ in range(TRIES):
        remove("target", "m", "m.new")
        prepare()
        judge(interrupt(r, command, whole))
        remove("target", "m")
        works(*command)


def through_links():
    """What is made where links to nothing lead is removed again, when it is told to end and when it fails."""
    os.mkdir("folder")
    for name, target in (("one", "two"), ("two", "folder/made"), ("sums", "folder/sums")):
        os.symlink(target, name)
    for command, ended in ((["convert", "source", "one"], True),
                           (["convert", "-O", "qcow2", "source", "one"], True),
                           (["convert", "--manifest", "sums", "-O", "qcow2", "source", "one"], True),
                           (["convert", "-O", "qcow2", "-o", "data_file=one", "source", "target"], True),
                           (["checksum", "--manifest", "sums", "source"], True),
                           (["convert", "source", "one"], False),
                           (["dd", "-O", "qcow2", "bs=1M", "if=source", "of=one"], False),
                           (["convert", "-O", "qcow2", "source", "one"], False)):
        if ended:
            child = subprocess.Popen([TOOL, *command, "-r", "4M"],
                                     stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            while child.poll() is None and not os.listdir("folder"):
                time.sleep(0.01)
            child.send_signal(signal.SIGTERM)
        else: # no file may get so long
            child = subprocess.Popen(["sh", "-c", 'ulimit -f 4096; exec "$@"', "sh", TOOL, *command],
                                     stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        err = child.communicate()[1]
        code = 2 if command[0] == "checksum" else 1
        expect(f"{command}: ends", child.returncode == code, child.returncode, err)
        expect(f"{command}: nothing is left", os.listdir("folder") == [] and b"no longer holds" not in err, err)
        expect(f"{command}: links stay", all(os.path.islink(name) for name in ("one", "two", "sums")))
    works("convert", "--manifest", "sums", "-O", "qcow2", "source", "one")
    same("source", "folder/made")
    expect("what the link leads to is the manifest", sorted(os.listdir("folder")) == ["made", "sums"] and
           os.path.islink("sums"), os.listdir("folder"))


def main():
    r = random.Random(SEED)
    print("seed", SEED)
    with tempfile.TemporaryDirectory(prefix="vdisk-interrupted.") as folder:
        os.chdir(folder)
        with open("source", "wb") as f:
            f.truncate(SIZE)
            for at in range(0, SIZE, 2 * MIB):
                f.seek(at)
                f.write(r.randbytes(MIB + 512))
        shutil.copy("source", "copy")
        for command, prepare, judge in VERBS:
            try_verb(r, command, prepare, judge)
        through_links()
        os.chdir("/")
    return end(f", {stopped} of {TRIES * len(VERBS)} runs were stopped") or (0 if stopped else 1)


if __name__ == "__main__":
    sys.exit(main())
