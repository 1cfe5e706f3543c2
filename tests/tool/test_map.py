#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""map beside qemu-img: the same output and exit code for every spelling of its options, at odd places of odd
images. (Of random chains: tests/interop/test_interop_show.py.)

usage: test_map.py VDISK_IO PEER
"""
import os
import pathlib
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from chains import Test, run  # noqa: E402  pylint: disable=wrong-import-position

t = Test(sys.argv)

BOUNDS = [[], ["-s", "1000"], ["-l", "1000"], ["-s", "0x10000", "-l", "1"], ["-s", "64k", "-l", "66k"],
          ["-s", "999999"], ["-s", "1000448"], ["-s", "1000000"], ["-s", "2M"], ["-l", "0"],
          ["-s", "10k", "-l", "9G"], ["--start-offset", "1.5k"], ["--start-offset=5k", "--max-length=5k"],
          ["-s", "1b"], ["-s", "5k", "-s", "7k"], ["-s", "9223372036854775807"]]
BAD_BOUNDS = ["-1", "x", "", "8E", "16E", "1x", "9223372036854775808"]
FORMATS = [[], ["-f", "qcow2"], ["-f", "raw"], ["-U"], ["-U", "-f", "qcow2"]]


def make():
    t.must(t.peer, "create", "-q", "-f", "qcow2", "base", "700k")
    t.must(t.io, "-f", "qcow2", "-c", "write 0 100k", "-c", "write -z 100k 100k", "-c", "write -c 256k 64k",
           "base")
    for name, more in (("plain", []), ("over", ["-b", "base", "-F", "qcow2"]),
                       ("split", ["-o", "data_file=split.data"])):
        t.must(t.peer, "create", "-q", "-f", "qcow2", *more, name, "1000000")
        t.must(t.io, "-f", "qcow2", "-c", "write 0 64k", "-c", "write 130k 3k", "-c", "write -z 200k 80k",
               "-c", "discard 0 4k", name)
    t.must(t.io, "-f", "qcow2", "-c", "write -c 512k 64k", "plain")
    t.must(t.peer, "create", "-q", "-f", "qcow2", "none", "0")
    pathlib.Path("empty").write_bytes(b"")
    pathlib.Path("one").write_bytes(b"x")
    pathlib.Path("odd").write_bytes(b"x" * 70001)
    os.truncate("odd", 200001)


def same(*args):
    ours, theirs = run(t.tool, "map", *args), run(t.peer, "map", *args)
    t.same(f"{args}: exit code {ours.stderr}{theirs.stderr}", ours.returncode, theirs.returncode)
    if ours.returncode == 0: # else what came before the failure may be there
        t.same(f"{args}: output", ours.stdout, theirs.stdout)


def refused(text, *args):
    """By both, by us in one line."""
    ours = run(t.tool, "map", *args)
    t.same(f"{args}: exit code", (ours.returncode, run(t.peer, "map", *args).returncode), (1, 1))
    t.expect(f"{args}: says {text}", text in ours.stderr, ours.stderr)
    t.same(f"{args}: output", ours.stdout, "")


def main():
    if not t.usable():
        return 77
    with tempfile.TemporaryDirectory(prefix="vdisk-map.") as folder:
        os.chdir(folder)
        make()
        for form in "human", "json":
            for name in "plain", "over", "split", "none", "base":
                for bounds in BOUNDS:
                    same("--output", form, *bounds, name)
                for fmt in FORMATS:
                    same(f"--output={form}", *fmt, name)
            for name in "empty", "one", "odd":
                for bounds in BOUNDS:
                    same("--output", form, "-f", "raw", *bounds, name)
            same("--output", form, "--image-opts", "driver=qcow2,file.driver=file,file.filename=over")
            same("--output", form, "--image-opts", "driver=qcow2,file.filename=over,backing=")
            same("--output", form, 'json:{"driver":"qcow2","file":{"driver":"file","filename":"over"}}')
        for option, what in (("-s", "start offset"), ("-l", "max length")):
            for value in BAD_BOUNDS:
                refused(f"Invalid {what} specified", option, value, "plain")
        refused("--image-opts and --format are mutually exclusive", "--image-opts", "-f", "qcow2",
                "driver=qcow2,file.filename=over")
        refused("No such file", "nope")
        refused("foo", "--output", "foo", "plain")
        refused("foo", "-f", "foo", "plain")
        refused("one image", "plain", "over")
        refused("one image")
        os.chdir("/")
    return t.end()


if __name__ == "__main__":
    sys.exit(main())
