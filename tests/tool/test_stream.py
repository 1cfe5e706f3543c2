#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""convert to standard output and from standard input: what comes out is what the file form has, checks clean, and
is the same to each QEMU that there is; readers that go, signals, what a pipe cannot have, and what is no pipe.

usage: test_stream.py VDISK_IO PEER

PEER (bench/peer) prints the path of a second qemu-img, beside the one that is installed. Random:
VDISK_SEED=NUMBER, or new; VDISK_TEST_LONG=1 for more of it.
"""
import fcntl
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import time

from checks import TOOL, end, expect as that

PEER = str(pathlib.Path(sys.argv[2]).resolve())
SEED = os.environ.get("VDISK_SEED", "1")
SEED = random.randrange(1 << 32) if SEED == "new" else int(SEED)
ROUNDS = 120 if os.environ.get("VDISK_TEST_LONG") else 12 if os.environ.get("VDISK_TEST_QUICK") else 30
SIZE_MOST = 9 << 20


def expect(what, code, *args, **kwargs):
    """The exit code; standard output, in bytes, and what was said."""
    kwargs.setdefault("stdin", subprocess.DEVNULL)
    if "input" in kwargs:
        del kwargs["stdin"]
    result = subprocess.run(args, capture_output=True, check=False, **kwargs)
    said = result.stderr.decode(errors="replace")
    that(f"{what}: {' '.join(args)}: exit code {result.returncode}: {said[:500]}", result.returncode == code)
    return result.stdout, said


def peers():
    found = [shutil.which("qemu-img")]
    second = subprocess.run([PEER], capture_output=True, text=True, check=False).stdout.strip()
    if os.access(second, os.X_OK):
        found.append(second)
    else:
        print("no second QEMU: only the installed one is asked")
    return list(dict.fromkeys(path for path in found if path))


# ---- sources --------------------------------------------------------------------------------------------


def content(r, path, size):
    """Data, zeros that are written, and holes, in runs of all lengths; sometimes all of one kind."""
    kinds = r.choice([[0, 1, 2], [0, 1, 2], [0, 1, 2], [0], [1], [2]])
    with open(path, "wb") as f:
        at = 0
        while at < size:
            n = min(size - at, r.choice([512, 1536, 4096, 70000, 700000, 1 << 20]))
            f.seek(at)
            kind = r.choice(kinds)
            if kind == 1:
                f.write(r.randbytes(n))
            elif kind == 2:
                f.write(bytes(n))
            at += n
        f.truncate(size)


def qcow2_options(r):
    cluster = r.choice([512, 1024, 4096, 16384, 65536, 65536, 1 << 20, 2 << 20])
    options = [f"cluster_size={cluster}"]
    if r.random() < 0.2:
        options.append("compat=0.10")
    else:
        options.append(f"refcount_bits={r.choice([1, 2, 4, 8, 16, 16, 32, 64])}")
        if cluster >= 16384 and r.random() < 0.4:
            options.append("extended_l2=on")
        options += r.sample(["lazy_refcounts=on", "compression_type=zstd", "compat=v3"], r.randrange(3))
    return ",".join(options)


def source(r):
    """Its options, and what it reads as, in a file: raw, qcow2 of any kind, compressed, or the top of a chain."""
    size = r.choice([0, 512, r.randrange(512, SIZE_MOST), 512 * r.randrange(1, SIZE_MOST // 512), SIZE_MOST])
    content(r, "want", size)
    kind = r.choice(["raw", "qcow2", "compressed", "chain"])
    if kind == "raw":
        shutil.copy("want", "source")
        return ["-f", "raw", "source"], kind
    compress = ["-c"] if kind == "compressed" else []
    qemu = r.choice(QEMUS)
    expect("source", 0, qemu, "convert", *compress, "-f", "raw", "-O", "qcow2", "want", "source")
    if kind == "chain":
        for name, below in (("middle", "source"), ("top", "middle")):
            larger = [str((size + 511) // 512 * 512 + 512 * r.randrange(300))] if r.random() < 0.5 else []
            expect("layer", 0, TOOL, "create", "-q", "-f", "qcow2", "-o", qcow2_options(r), "-b", below, "-F",
                   "qcow2", name, *larger)
            end = int(subprocess.run(f"{qemu} info {name} | sed -n 's/.*(\\([0-9]*\\) bytes).*/\\1/p'", shell=True,
                                     capture_output=True, text=True, check=True).stdout.split()[0])
            for _ in range(r.randrange(6)):
                at = 512 * r.randrange(end // 512 + 1)
                n = min(end - at, 512 * r.randrange(1, 500))
                if n > 0:
                    word = r.choice([f"write -P {r.randrange(256)}", "write -z", "discard"])
                    expect("write", 0, TOOL, "io", "-c", f"{word} {at} {n}", name)
        expect("chain", 0, qemu, "convert", "-f", "qcow2", "-O", "raw", "top", "want")
        return ["-f", "qcow2", "top"], kind
    return ["-f", "qcow2", "source"], kind


# ---- both ways ------------------------------------------------------------------------------------------


def judge(what, image, want):
    for qemu in QEMUS:
        out, _ = expect(f"{what}: check", 0, qemu, "check", "-f", "qcow2", image)
        that(f"{what}: {out}", b"No errors" in out)
        expect(f"{what}: content", 0, qemu, "compare", "-q", "-f", "raw", "-F", "qcow2", want, image)
    out, _ = expect(f"{what}: our check", 0, TOOL, "check", image)
    expect(f"{what}: our content", 0, TOOL, "compare", "-q", "-f", "raw", "-F", "qcow2", want, image)
    end = (os.path.getsize(want) + 511) // 512 * 512
    out, _ = expect("size", 0, TOOL, "info", "--output", "json", "-f", "qcow2", image)
    that(f"{what}: another size than {end}: {out[:300]}", f'"virtual-size": {end}'.encode() in out)


def padded(path):
    data = pathlib.Path(path).read_bytes()
    return data + bytes(-len(data) % 512)


def to_output(r, seed):
    arguments, kind = source(r)
    options = qcow2_options(r)
    what = f"seed {seed}: {kind} to -o {options}"
    extra = r.choice([[], ["-m", str(r.randrange(1, 17))], ["-S", "0"], ["-S", "64k"], ["-W", "-t", "none"]])
    image, said = expect(what, 0, TOOL, "convert", "-O", "qcow2", "-o", options, *extra, *arguments, "-")
    that(f"{what}: {said}", said == "")
    pathlib.Path("out").write_bytes(image)
    judge(what, "out", "want")
    expect(f"{what}: the file form", 0, TOOL, "convert", "-O", "qcow2", "-o", options, *arguments, "file")
    expect(f"{what}: the file form", 0, QEMUS[-1], "compare", "-q", "-f", "qcow2", "-F", "qcow2", "file", "out")
    packed, _ = expect(what, 0, TOOL, "convert", "-c", "-O", "qcow2", "-o", options, *extra, *arguments, "-")
    pathlib.Path("out").write_bytes(packed)
    judge(f"{what}: compressed", "out", "want")
    again, _ = expect(what, 0, TOOL, "convert", "-c", "-m", str(r.randrange(1, 17)), "--max-memory", "30M", "-O",
                      "qcow2", "-o", options, *(["-S", "0"] if "0" in extra else []), *arguments, "-")
    that(f"{what}: another one with other threads", packed == again)
    data, _ = expect(f"{what}: raw", 0, TOOL, "convert", "-O", "raw", *extra, *arguments, "-")
    that(f"{what}: raw differs", data == padded("want"))
    with open("out", "wb") as out:  # a file in place of a pipe
        command = [TOOL, "convert", "-O", "qcow2", *arguments, "-"]
        that(f"{what}: into a file", subprocess.run(command, stdout=out, check=False).returncode == 0)
    judge(f"{what}: into a file", "out", "want")


def end_of(image):
    out, _ = expect("end", 0, TOOL, "info", "--output", "json", "-f", "qcow2", image)
    return json.loads(out)["virtual-size"]


def over_backing(r, seed):
    """An image over what the source has below: what is not copied reads as before, and zeros hide it."""
    size = 512 * r.randrange(1, SIZE_MOST // 512)
    content(r, "want", size)
    expect("base", 0, r.choice(QEMUS), "convert", "-f", "raw", "-O", "qcow2", "want", "base")
    larger = [str(size + 512 * r.randrange(3000))] if r.random() < 0.5 else []
    expect("top", 0, TOOL, "create", "-q", "-f", "qcow2", "-o", qcow2_options(r), "-b", "base", "-F", "qcow2",
           "top", *larger)
    end = end_of("top")
    for _ in range(r.randrange(12)):
        at = 512 * r.randrange(end // 512)
        n = min(end - at, 512 * r.randrange(1, 900))
        word = r.choice([f"write -P {r.randrange(1, 256)}", "write -z", "write -z -u", "write -P 0", "discard"])
        expect("write", 0, TOOL, "io", "-c", f"{word} {at} {n}", "top")
    expect("want", 0, r.choice(QEMUS), "convert", "-f", "qcow2", "-O", "raw", "top", "want")
    options = qcow2_options(r)
    command = [TOOL, "convert", "-O", "qcow2", "-o", options, "-B", "base", "-F", "qcow2", *r.choice(OVER), "top"]
    what = f"seed {seed}: over a backing file {command}"
    image, said = expect(what, 0, *command, "-")
    again, _ = expect(what, 0, *command, "-")
    that(f"{what}: {said}", said == "")
    that(f"{what}: another one", image == again)
    pathlib.Path("out").write_bytes(image)
    judge(what, "out", "want")
    out, _ = expect(what, 0, TOOL, "info", "--output", "json", "out")
    that(f"{what}: its backing file", json.loads(out)["backing-filename"] == "base")
    if "-S" not in command: # nothing is copied from below
        copied, _ = expect("map", 0, TOOL, "map", "--output", "json", "out")
        mine, _ = expect("map", 0, TOOL, "map", "--output", "json", "top")
        most = sum(round_out(x, end, options) for x in json.loads(mine) if x["depth"] == 0 and x["present"])
        data = sum(x["length"] for x in json.loads(copied) if x["data"] and x["depth"] == 0)
        that(f"{what}: {data} bytes are copied, of {most}", data <= most)


OVER = [[], [], ["-c"], ["-c"], ["-c", "-S", "0"], ["-m", "1"], ["-S", "0"], ["-S", "4k"], ["-r", "1G"]]


def round_out(extent, end, options):
    """An extent, in whole clusters of an image with these options."""
    cluster = int(options.split(",")[0].split("=")[1])
    start = extent["start"] // cluster * cluster
    return min(-(-(extent["start"] + extent["length"]) // cluster) * cluster, -(-end // cluster) * cluster) - start


def from_input(r, seed):
    size = r.choice([0, 1, 511, 512, r.randrange(SIZE_MOST), 512 * r.randrange(SIZE_MOST // 512), SIZE_MOST])
    content(r, "want", size)
    options = qcow2_options(r)
    extra = r.choice([[], [], ["-c"], ["-S", "0"], ["-S", "1M"], ["-m", "2"], ["-t", "writeback"]])
    what = f"seed {seed}: from input, {size} bytes, {extra} -o {options}"
    with open("want", "rb") as given:
        how = {"stdin": given} if r.random() < 0.5 else {"input": given.read()}
        expect(what, 0, TOOL, "convert", "-f", "raw", "-O", "qcow2", "-o", options, *extra, "-", "in", **how)
    judge(what, "in", "want")
    if extra != ["-c"]:
        with open("want", "rb") as given:
            how = {"stdin": given} if r.random() < 0.5 else {"input": given.read()}
            expect(what, 0, TOOL, "convert", "-f", "raw", *extra, "-", "in.raw", **how)
        that(f"{what}: raw differs", pathlib.Path("in.raw").read_bytes() == padded("want"))


def several(r):
    want = b""
    names = []
    for i in range(3):
        content(r, f"part{i}", r.randrange(1 << 20))
        want += padded(f"part{i}")
        names.append(f"part{i}")
    pathlib.Path("want").write_bytes(want)
    image, _ = expect("several", 0, TOOL, "convert", "-f", "raw", "-O", "qcow2", *names, "-")
    pathlib.Path("out").write_bytes(image)
    judge("several", "out", "want")
    data, _ = expect("several", 0, TOOL, "convert", "-f", "raw", *names, "-")
    that("several: raw differs", data == want)


def zeros_in_data():
    """They are left out with -S, and all is there with -S 0."""
    pathlib.Path("want").write_bytes(bytes(3000000))
    for size, options in ((4 << 16, ["-S", "4k"]), ((4 + 1 + 46) << 16, ["-S", "0"])):
        image, _ = expect("zeros", 0, TOOL, "convert", *options, "-f", "raw", "-O", "qcow2", "want", "-")
        that(f"{options}: {len(image)} bytes, not {size}", len(image) == size)
        pathlib.Path("out").write_bytes(image)
        judge(f"zeros {options}", "out", "want")


def over_pipes(r):
    """From one command to the next, and what is there already."""
    content(r, "want", 3000000)
    expect("source", 0, TOOL, "convert", "-f", "raw", "-O", "qcow2", "want", "source")
    command = f"{TOOL} convert source - | {TOOL} convert -f raw -O qcow2 - again"
    that("two commands", subprocess.run(["bash", "-o", "pipefail", "-c", command], check=False).returncode == 0)
    judge("two commands", "again", "want")
    expect("create", 0, TOOL, "create", "-q", "-f", "qcow2", "there", "4M")
    expect("before", 0, TOOL, "io", "-c", "write -P 7 0 4M", "there")
    with open("want", "rb") as given:
        expect("-n", 0, TOOL, "convert", "-n", "-f", "raw", "-O", "qcow2", "-", "there", stdin=given)
    data, _ = expect("-n", 0, TOOL, "convert", "there", "-")
    whole = padded("want")
    that("-n: content", data == whole + b"\x07" * ((4 << 20) - len(whole)))
    with open("want", "rb") as given:
        options = ["-O", "qcow2", "-o", "size=4M,preallocation=metadata"]
        expect("size=", 0, TOOL, "convert", "-f", "raw", *options, "-", "sized", stdin=given)
    data, _ = expect("size=", 0, TOOL, "convert", "sized", "-")
    that("size=: content", data == whole + bytes((4 << 20) - len(whole)))
    with open("want", "rb") as given:
        _, said = expect("size=", 1, TOOL, "convert", "-f", "raw", "-o", "size=1M", "-", "small", stdin=given)
    that(f"too small: {said}", "small: has 1048576 bytes, and more come" in said and said.count("\n") == 1)
    that("too small: it is left", not os.path.exists("small"))


def large():
    """Of 1 TiB with some data nothing is written but that."""
    expect("create", 0, TOOL, "create", "-q", "-f", "qcow2", "wide", "1T")
    writes = [word for i in range(64) for word in ("-c", f"write -P {i + 1} {i * (1 << 34) + 65536} 4k")]
    expect("write", 0, TOOL, "io", *writes, "wide")
    image, _ = expect("wide", 0, TOOL, "convert", "-O", "qcow2", "wide", "-")
    that(f"wide: {len(image)} bytes", len(image) < 16 << 20)
    pathlib.Path("wide.out").write_bytes(image)
    for qemu in QEMUS:
        expect("wide: check", 0, qemu, "check", "-q", "wide.out")
        expect("wide: content", 0, qemu, "compare", "-q", "wide", "wide.out")


# ---- what goes wrong ------------------------------------------------------------------------------------


def one_line(what, said, text):
    that(f"{what}: no '{text}' in: {said}", text in said)
    that(f"{what}: more than a line: {said}", said.count("\n") == 1)


def readers_go():
    content(random.Random(5), "data", 6 << 20)
    expect("below", 0, TOOL, "create", "-q", "-f", "qcow2", "empty", str(6 << 20))
    over = ["-B", "empty", "-F", "qcow2"]
    for options in (["-O", "qcow2"], ["-O", "raw"], ["-c", "-O", "qcow2"], ["-O", "qcow2", *over],
                    ["-c", "-O", "qcow2", *over]):
        for length, ignored in ((0, False), (1, True), (70000, False), (2000000, False), (2000000, True)):
            command = [TOOL, "convert", "-f", "raw", *options, "data", "-"]
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                  restore_signals=not ignored) as process: # SIGPIPE
                process.stdout.read(length)
                process.stdout.close()
                said = process.stderr.read().decode()
            that(f"a reader that goes: {process.returncode}", process.returncode == 1)
            one_line("a reader that goes", said, "standard output: writing: Broken pipe")
    if os.path.exists("/dev/full"):
        with open("/dev/full", "wb") as full:
            command = [TOOL, "convert", "-f", "raw", "data", "-"]
            result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
        that("a full device", result.returncode == 1)
        one_line("a full device", result.stderr, "standard output: writing: No space left on device")


def is_known_as(image, want):
    """Cut off anywhere, it is not taken for whole: it is no image, or damaged, or cannot be read."""
    whole = pathlib.Path(image).read_bytes()
    cluster = 65536
    said = []
    lengths = {0, 3, 4, 104, 512, 4096, *range(cluster, len(whole) - cluster, 3 * cluster + 1000)}
    for length in sorted(lengths):
        pathlib.Path("cut").write_bytes(whole[:length])
        check = subprocess.run([TOOL, "check", "-q", "-f", "qcow2", "cut"], capture_output=True, check=False)
        read = subprocess.run([TOOL, "compare", "-q", "-f", "qcow2", "-F", "raw", "cut", want],
                              capture_output=True, check=False)
        that(f"cut off at {length} of {len(whole)}: check {check.returncode}, compare {read.returncode}",
             check.returncode in (1, 2) and (read.returncode != 0 or check.returncode == 2))
        said.append(read.stderr.decode())
    that("nothing is synced there", not any("syncing" in text for text in said))
    return any("Input/output error (unpacking" in text and "the file is cut off" in text for text in said)


def cut_off():
    """The writer is gone in the middle: what came is not taken for an image that is whole."""
    pathlib.Path("noise").write_bytes(random.Random(9).randbytes(4 << 20))
    for options in ([], ["-c"]):
        out, _ = expect("noise", 0, TOOL, "convert", "-f", "raw", "-O", "qcow2", *options, "noise", "-")
        pathlib.Path("stream").write_bytes(out)
        told = is_known_as("stream", "noise")
        that(f"{options}: compressed data, and no other, cannot be unpacked", told == bool(options))


def interrupted():
    """A reader that takes nothing, a writer that gives nothing: the command still ends when it is told to."""
    for command in (["convert", "-f", "raw", "data", "-"], ["convert", "-f", "raw", "-O", "qcow2", "-", "made"]):
        reads = command[-1] == "made"
        with subprocess.Popen([TOOL, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE) as process:
            if reads:
                process.stdin.write(b"x" * 3000000)
                process.stdin.flush()
            time.sleep(0.3)
            process.send_signal(signal.SIGTERM)
            process.wait(60)
            said = process.stderr.read().decode()
            that(f"interrupted: {process.returncode}", process.returncode == 1)
            one_line("interrupted", said, "cancelled")
            that("interrupted: what was made is left", not os.path.exists("made"))
            process.stdin.close()
    command = [TOOL, "convert", "-f", "raw", "-O", "qcow2", "-", "made"]
    for number, length in ((signal.SIGKILL, 3000000), (signal.SIGKILL, 60000000)):
        with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            process.stdin.write(b"x" * length)
            process.stdin.flush()
            time.sleep(0.2)
            process.send_signal(number)
            process.wait(60)
            try:
                process.stdin.close()
            except BrokenPipeError:
                pass
        for qemu in QEMUS:
            result = subprocess.run([qemu, "info", "-f", "qcow2", "made"], capture_output=True, check=False)
            that("killed: no image yet", result.returncode == 1)
        _, said = expect("killed", 1, TOOL, "info", "made")
        that(f"killed: {said}", "unfinished image" in said)
    with open("data", "rb") as given:
        expect("again", 0, *command, stdin=given)
    judge("again", "made", "data")


def progress():
    image, said = expect("-p", 0, TOOL, "convert", "-p", "-f", "raw", "-O", "qcow2", "data", "-")
    pathlib.Path("out").write_bytes(image)
    judge("-p", "out", "data")
    that(f"-p: {said!r}", said.endswith("    (100.00/100%)\r\n"))


def refused():
    """One line, nothing on standard output, and nothing made."""
    over = ["-o", "backing_file=source,backing_fmt=qcow2", "-O", "qcow2"]
    cases = [
        ("Compression not supported", ["-c", "source", "-"]),
        ("requires explicit backing format", ["-B", "source", "-O", "qcow2", "source", "-"]),
        ("without backing file", ["-F", "qcow2", "-O", "qcow2", "source", "-"]),
        ("a raw image has no backing file", ["-B", "source", "-F", "qcow2", "source", "-"]),
        ("when concatenating", ["-B", "source", "-F", "qcow2", "-O", "qcow2", "source", "source", "-"]),
        ("leave -o size out", [*over, "-o", "size=1G", "source", "-"]),
        ("cannot have an external data file", ["-o", "data_file=new", "-O", "qcow2", "source", "-"]),
        ("cannot have preallocated space", ["-o", "preallocation=metadata", "-O", "qcow2", "source", "-"]),
        ("cannot have preallocated space", ["-o", "preallocation=full", "source", "-"]),
        ("leave -o size out", ["-o", "size=1G", "-O", "qcow2", "source", "-"]),
        ("smaller than input", ["-o", "size=1M", "-O", "qcow2", "source", "-"]),
        ("no target that is there", ["-n", "source", "-"]),
        ("--salvage: not to", ["--salvage", "source", "-"]),
        ("too many for clusters", ["-O", "qcow2", "-o", "cluster_size=512", "wide", "-"]),
        ("No such file", ["missing", "-"]),
        ("needs -f raw", ["-", "new"]),
        ("reading qcow2 needs seeking", ["-f", "qcow2", "-", "new"]),
        ("the only source", ["-f", "raw", "source", "-", "new"]),
        ("once only", ["-f", "raw", "-", "-", "new"]),
        ("nothing is converted", ["-f", "raw", "-", "-"]),
        ("--salvage: not from", ["--salvage", "-f", "raw", "-", "new"]),
        ("-B: of standard input", ["-B", "source", "-F", "qcow2", "-O", "qcow2", "-f", "raw", "-", "new"]),
        ("what a backing file has", [*over, "-f", "raw", "-", "new"]),
        ("preallocation needs the size", ["-o", "preallocation=metadata", "-O", "qcow2", "-f", "raw", "-", "new"]),
    ]
    for text, arguments in cases:
        out, said = expect(text, 1, TOOL, "convert", *arguments)
        said = "".join(line for line in said.splitlines(True) if not line.startswith("vdisk-io: hint:"))
        one_line(" ".join(arguments), said, text)
        that(f"{text}: {out[:80]} on standard output", out == b"")
        that(f"{text}: something was made", not os.path.exists("new"))
    shutil.copy("data", "same")
    with open("same", "rb") as given:
        _, said = expect("same file", 1, TOOL, "convert", "-f", "raw", "-", "same", stdin=given)
    one_line("same file", said, "same file")
    with open("same", "ab") as out:
        result = subprocess.run([TOOL, "convert", "-f", "raw", "same", "-"], stdout=out, stderr=subprocess.PIPE,
                                text=True, check=False)
    that("same file", result.returncode == 1)
    one_line("same file", result.stderr, "same file")
    that("same file: it has changed", pathlib.Path("same").read_bytes() == pathlib.Path("data").read_bytes())
    parent, child = os.openpty()
    result = subprocess.run([TOOL, "convert", "-f", "raw", "same", "-"], stdout=child, stderr=subprocess.PIPE,
                            text=True, check=False)
    os.close(child)
    os.close(parent)
    that("a terminal", result.returncode == 1)
    one_line("a terminal", result.stderr, "is a terminal")


def bash(what, code, command):
    """A command line, with TOOL in $tool: what it said."""
    result = subprocess.run(["bash", "-c", command], env={**os.environ, "tool": TOOL}, stdin=subprocess.DEVNULL,
                            stderr=subprocess.PIPE, check=False)
    said = result.stderr.decode(errors="replace")
    that(f"{what}: {command}: exit code {result.returncode}: {said[:500]}", result.returncode == code)
    return said


def stays(what, name, command, text):
    """It is refused, and the file is as it was."""
    before = pathlib.Path(name).read_bytes()
    said = bash(what, 1, command)
    one_line(f"{what}: {command}", said, text)
    that(f"{what}: {command}: {name} has changed", pathlib.Path(name).read_bytes() == before)


def loops():
    """A loop device is the file behind it."""
    def attach(*how):
        made = subprocess.run(["losetup", "-f", "--show", *how, "disk"], capture_output=True, text=True,
                              check=False)
        return made.stdout.strip() if made.returncode == 0 else None

    shutil.copy("data", "disk")
    device = attach() if os.geteuid() == 0 and shutil.which("losetup") else None
    if device is None:
        print("no loop devices: not tried")
        return
    try:
        for command in (f"$tool convert -f raw {device} - 1<>disk", f"$tool convert -f raw disk - 1<>{device}",
                        f"$tool convert -f raw - disk <{device}", f"$tool convert -n -f raw - {device} <disk",
                        f"$tool convert -n -f raw disk {device}", f"$tool dd if={device} of=disk",
                        f"$tool dd -n if=- of={device} <disk"):
            stays("loop device", "disk", command, "same file")
    finally:
        subprocess.run(["losetup", "-d", device], check=True)
    parts = [attach("-o", "1M", "--sizelimit", "1M"), attach("-o", "2M", "--sizelimit", "1M")]
    try:
        bash("parts of a disk", 0, f"$tool convert -n -f raw - {parts[0]} <{parts[1]}")
    finally:
        subprocess.run(["losetup", "-d", *parts], check=True)
    want = bytearray(pathlib.Path("data").read_bytes())
    want[1 << 20:2 << 20] = want[2 << 20:3 << 20]
    that("parts of a disk: content", pathlib.Path("disk").read_bytes() == want)


def same_files():
    """No file that is read is written: with its chain, and data files."""
    shutil.copy("data", "below")
    expect("create", 0, TOOL, "create", "-q", "-f", "qcow2", "-b", "below", "-F", "raw", "middle")
    expect("create", 0, TOOL, "create", "-q", "-f", "qcow2", "-b", "middle", "-F", "qcow2", "top")
    expect("create", 0, TOOL, "create", "-q", "-f", "qcow2", "-o", "data_file=outer", "image", "4M")
    expect("write", 0, TOOL, "io", "-c", "write -P 3 0 1M", "image")
    out = "it would be overwritten, and the source"
    for name in ("below", "middle"):
        stays("standard output", name, f"$tool convert -O qcow2 top - 1<>{name}", f"{out} top reads it")
        stays("standard output", name, f"$tool convert -U below top - 1<>{name}", "standard output")
        stays("standard output", name, f"$tool dd if=top of=- 1<>{name}", f"{out} top reads it")
    stays("standard output", "outer", "$tool convert image - 1<>outer", f"{out} image reads it")
    stays("standard output", "outer", "$tool dd if=image of=- 1<>outer", f"{out} image reads it")
    stays("standard output", "top", "$tool dd if=top of=- 1<>top", "same file")
    given = "it would be overwritten, and standard input is the same file"
    stays("standard input", "below", "$tool convert -f raw -O qcow2 -o data_file=below - new <below", given)
    stays("standard input", "below", "ln -f below hard; $tool dd if=- of=hard <below", given)
    for verb in ("convert -n -f raw -O qcow2 - image", "dd -n -O qcow2 if=- of=image"):
        stays("standard input", "outer", f"$tool {verb} <outer", given)
        stays("standard input", "image", f"$tool {verb} <image", given)
    that("standard input: something was made", not os.path.exists("new"))
    loops()


def no_standard_files():
    """Those that are closed are nobody else's."""
    for verb in ("convert top -", "dd if=top of=-"):
        stays("closed output", "top", f"$tool {verb} >&-", "standard output: is not open for writing")
        stays("closed both", "top", f"$tool {verb} <&- >&-", "standard output: is not open for writing")
        stays("for reading", "top", f"$tool {verb} 1<data", "standard output: is not open for writing")
        said = bash("all closed", 1, f"$tool {verb} <&- >&- 2>&-")
        that(f"all closed: {said}", said == "")
    for verb in ("convert -f raw - there", "dd if=- of=there", "convert -n -f raw - there"):
        shutil.copy("data", "there")
        stays("closed input", "there", f"$tool {verb} <&-", "standard input: is not open for reading")
        stays("for writing", "there", f"$tool {verb} 0>empty", "standard input: is not open for reading")
        stays("a directory", "there", f"$tool {verb} <.", "standard input: Is a directory")
    stays("a directory", "outer", "$tool convert -f raw -O qcow2 -o data_file=outer - image <.", "Is a directory")
    that("info", "Bad file descriptor" in bash("info", 1, "$tool info top >&-"))


def breaks_off(length):
    """A peer that gives so much, which is taken, and is gone, with an error: what was said."""
    command = [TOOL, "convert", "-f", "raw", "-", "there" if length == 0 else "broken"]
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
    with ours, theirs:
        process = subprocess.Popen(command, stdin=theirs, stderr=subprocess.PIPE, text=True)
        ours.sendall(b"x" * length)
        while length > 0 and not os.path.exists("broken") and process.poll() is None:
            time.sleep(0.01)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    _, said = process.communicate()
    that(f"breaks off: {process.returncode}", process.returncode == 1)
    return said


def input_fails():
    """Whose error it is, and that nothing is lost before."""
    shutil.copy("data", "there")
    one_line("fails at first", breaks_off(0), "standard input: Connection reset by peer")
    that("fails at first: it has changed", pathlib.Path("there").read_bytes() == pathlib.Path("data").read_bytes())
    one_line("fails later", breaks_off(4096), "vdisk-io: standard input: Connection reset by peer")
    that("fails later: what was made is left", not os.path.exists("broken"))


def files_as_output():
    """One that may not be so long; one that is not on disk."""
    for command in ("convert -f raw data - >limited", "dd if=data of=- >limited", "convert -f raw data made"):
        said = bash("a limit", 1, f"ulimit -f 100; $tool {command}")
        that(f"a limit: {said}", "File too large" in said)
    if subprocess.run(["strace", "true"], capture_output=True, check=False).returncode != 0:
        print("no strace: what is flushed is not looked at")
        return
    # Leaks are looked for by ptrace(), which strace has.
    trace = "ASAN_OPTIONS=detect_leaks=0 strace -f -qq -o calls -e trace=fsync"
    for verb in ("convert -f raw data -", "convert -f raw -O qcow2 data -", "dd if=data of=-"):
        bash("flushed", 0, f"{trace} $tool {verb} >flushed")
        that(f"{verb}: not flushed", "fsync(1)" in pathlib.Path("calls").read_text())
        said = bash("flush fails", 1, f"{trace} -e inject=fsync:error=EIO $tool {verb} >flushed")
        one_line("flush fails", said, "standard output: flushing: Input/output error")
        bash("a pipe", 0, f"{trace} $tool {verb} | cat >flushed")
        that(f"{verb}: a pipe is flushed", "fsync(1)" not in pathlib.Path("calls").read_text())


def nobody_takes():
    """With a pipe that is full it is poll() that waits, which sees signals, and no write()."""
    with subprocess.Popen([TOOL, "convert", "-f", "raw", "data", "-"], stdout=subprocess.PIPE) as process:
        full = fcntl.fcntl(process.stdout, 1032)  # F_GETPIPE_SZ
        held = 0
        while held < full and process.poll() is None:
            held = struct.unpack("i", fcntl.ioctl(process.stdout, termios.FIONREAD, bytes(4)))[0]
        places = set()
        for _ in range(50):
            tasks = pathlib.Path(f"/proc/{process.pid}/task").iterdir()
            places |= {(task / "wchan").read_text() for task in tasks}
            time.sleep(0.002)
        that(f"a full pipe: waits in {places}", not any("pipe_write" in place for place in places))
        process.stdout.read()
        that("a full pipe", process.wait() == 0)


def main():
    print("seed", SEED)
    for i in range(ROUNDS):
        seed = SEED * 1000 + i
        to_output(random.Random(seed), seed)
        from_input(random.Random(seed), seed)
        over_backing(random.Random(seed), seed)
        for path in os.listdir():
            os.unlink(path)
    several(random.Random(SEED))
    zeros_in_data()
    over_pipes(random.Random(SEED))
    large()
    readers_go()
    cut_off()
    interrupted()
    progress()
    refused()
    same_files()
    no_standard_files()
    input_fails()
    files_as_output()
    nobody_takes()
    return end(least=300)


QEMUS = peers()
if not QEMUS:
    print("skipped: no qemu-img")
    sys.exit(77)
with tempfile.TemporaryDirectory(prefix="vdisk-stream.") as folder:
    os.chdir(folder)
    code = main()
    os.chdir("/")
sys.exit(code)
