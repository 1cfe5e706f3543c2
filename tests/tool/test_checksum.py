#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""checksum beside Python's hashlib: the same for every format and kind of allocation of one content; manifests say
what differs, to the block, and what is damaged in them is told; what fails leaves no manifest.

usage: test_checksum.py VDISK_IO
"""
import hashlib
import json
import os
import pathlib
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import zlib

from checks import TOOL, end, expect, must, must_call, run

MIB = 1 << 20
SIZES = [0, 1, 511, 512, 1000, 65536, 4 * MIB - 512, 4 * MIB, 4 * MIB + 1, 9 * MIB + 3 * 512 + 5, 12 * MIB]
OPTIONS = ["", "compat=0.10", "cluster_size=512", "cluster_size=2M", "extended_l2=on,cluster_size=16k",
           "preallocation=metadata", "preallocation=full", "data_file=data"]


def tool(code, *args):
    result = run(*args)
    expect(f"{' '.join(args)}: exit code {code}", result.returncode == code, result.returncode, result.stderr)
    return result


def blake(data):
    return hashlib.blake2b(data, digest_size=32)


def wanted(data, block=4 * MIB):
    data += bytes(-len(data) % 512)
    return blake(b"".join(blake(data[i:i + block]).digest() for i in range(0, len(data), block))).hexdigest()


def content(seed, size):
    """Data, zeros as data, and holes."""
    r = random.Random(seed)
    data = bytearray(size)
    at = 0
    while at < size:
        n = min(size - at, r.choice([100, 4096, 65536, 300000, 3 * MIB]))
        if r.randrange(3):
            data[at:at + n] = r.randbytes(n)
        at += n
    return bytes(data)


def write_sparse(path, data):
    with open(path, "wb") as f:
        f.truncate(len(data))
        for at in range(0, len(data), 4096):
            if any(data[at:at + 4096]):
                f.seek(at)
                f.write(data[at:at + 4096])


def same(name, data, *args, block=None):
    more = ["--block-size", str(block)] if block else []
    out = tool(0, "checksum", *args, *more, name).stdout
    expect(f"checksum of {name} {more}", out == f"{wanted(data, block or 4 * MIB)}  {name}\n", out)


def formats():
    for seed, size in enumerate(SIZES):
        data = content(seed, size)
        with open("full", "wb") as f:
            f.write(data)
        write_sparse("sparse", data)
        for name in ("full", "sparse"):
            for cache in ("none", "writeback"):
                same(name, data, "-f", "raw", "-T", cache)
            same(name, data, "-f", "raw", block=4096 if seed % 2 else 3 * 65536)
        must("convert", "-f", "raw", "-O", "qcow2", "sparse", "q")
        same("q", data)
        same("q", data, block=64 * MIB)
        if QEMU and size % 512 == 0 and size:
            by_qemu(data)


def by_qemu(data):
    for options in OPTIONS:
        dashes = ["-o", options] if options else []
        must_call(QEMU, "convert", "-f", "raw", "-O", "qcow2", *dashes, "full", "image")
        same("image", data)
    must_call(QEMU, "convert", "-c", "-f", "raw", "-O", "qcow2", "full", "image")
    same("image", data)
    must_call(QEMU, "convert", "-S", "0", "-f", "raw", "-O", "qcow2", "full", "image") # zeros are data
    same("image", data)


def chains():
    """What layers have, hide and zero; a lower one that is shorter."""
    data = bytearray(content(50, 6 * MIB)) + bytes(5 * MIB)
    write_sparse("base", bytes(data[:6 * MIB]))
    must("create", "-q", "-f", "qcow2", "-b", "base", "-F", "raw", "middle", str(len(data)))
    must("create", "-q", "-f", "qcow2", "-b", "middle", "-F", "qcow2", "top")
    must("io", "-c", f"write -P 7 {MIB - 700} 5000", "-c", f"write -z {2 * MIB} 2M", "middle")
    must("io", "-c", f"write -P 9 {2 * MIB + 100} 9", "-c", f"write -z 0 {MIB}",
         "-c", f"write -P 1 {10 * MIB} 1M", "top")
    data[MIB - 700:MIB + 4300] = b"\7" * 5000
    data[2 * MIB:4 * MIB] = bytes(2 * MIB)
    data[2 * MIB + 100:2 * MIB + 109] = b"\11" * 9
    data[:MIB] = bytes(MIB)
    data[10 * MIB:] = b"\1" * MIB
    same("top", bytes(data))
    same("top", bytes(data), block=65536)


def output():
    data = content(1, 5 * MIB)
    pathlib.Path("a").write_bytes(data)
    found = json.loads(tool(0, "checksum", "--output", "json", "-f", "raw", "a").stdout)
    expect("json", found == {"filename": "a", "algorithm": "blake2b-256", "block_size": 4 * MIB, "size": 5 * MIB,
                             "checksum": wanted(data)}, found)
    progress = tool(0, "checksum", "-p", "--output", "json", "-f", "raw", "a").stdout
    expect("no progress with json", progress.startswith("{") and json.loads(progress) == found, progress)
    expect("quiet", tool(0, "checksum", "-q", "-p", "a").stdout == "")
    expect("progress", "(100.00/100%)" in tool(0, "checksum", "-p", "a").stderr)
    out = tool(0, "checksum", "--image-opts", "driver=raw,file.filename=a").stdout
    expect("options", out.startswith(wanted(data)))
    for args in (["a", "b"], ["--block-size", "1000", "a"], ["--block-size", "128M", "a"], ["-T", "x", "a"],
                 ["--output", "xml", "a"], ["--verify", "m", "--manifest", "n", "a"],
                 ["--verify", "m", "--block-size", "4k", "a"], ["--nothing", "a"], ["--verify"], []):
        expect(f"{args}: one line", tool(2, "checksum", *args).stderr.count("\n") == 1)
    for args in (["missing"], ["-f", "qcow2", "a"], ["--verify", "missing", "a"], ["--verify", ".", "a"]):
        lines = [x for x in tool(2, "checksum", *args).stderr.splitlines() if not x.startswith("vdisk-io: hint: ")]
        expect(f"{args}: one line", len(lines) == 1, lines)


# ---- manifests ----

def ranges(name, *args, code=1):
    """What differs from manifest m, told in both forms."""
    found = json.loads(tool(code, "checksum", "--verify", "m", "--output", "json", *args, name).stdout)
    words = tool(code, "checksum", "--verify", "m", *args, name).stdout.splitlines()
    expect("quiet", tool(code, "checksum", "-q", "--verify", "m", *args, name).stdout == "")
    expect("identical", found["identical"] == (code == 0))
    told = [f"{name}: different at {x['start']}, {x['length']} bytes" for x in found["different"]]
    if found["size"] != found["manifest_size"]:
        told.insert(0, f"{name}: {found['size']} bytes, {found['manifest_size']} in the manifest")
    expect("the same in words", words == (told or [f"{name}: OK"]), words, told)
    return [(x["start"], x["length"]) for x in found["different"]]


def flip(name, at):
    with open(name, "r+b") as f:
        f.seek(at)
        byte = f.read(1)[0]
        f.seek(at)
        f.write(bytes([byte ^ 16]))


def manifests():
    size, block = 9 * MIB + 512, 65536
    data = content(60, size)
    pathlib.Path("a").write_bytes(data)
    tool(0, "checksum", "-f", "raw", "--manifest", "m", "--block-size", str(block), "a")
    lines = pathlib.Path("m").read_text().splitlines()
    expect("head", lines[:4] == ["vdisk-io manifest 1", "algorithm blake2b-256", f"block-size {block}",
                                 f"size {size}"])
    digests = [d for d, n in (line.split() for line in lines[4:-2]) for _ in range(int(n))]
    expect("digests", digests == [blake(data[i:i + block]).hexdigest() for i in range(0, size, block)])
    expect("tail", lines[-2] == "checksum " + wanted(data, block))
    must("convert", "-f", "raw", "-O", "qcow2", "a", "q")
    before = pathlib.Path("m").read_bytes()
    tool(0, "checksum", "--manifest", "m", "--block-size", str(block), "q")
    expect("the same of another format", pathlib.Path("m").read_bytes() == before)
    for name in ("a", "q"):
        expect(f"{name} is the same", ranges(name, code=0) == [])
    r = random.Random(61)
    for at in [0, block - 1, block, size - 1, size - 513] + [r.randrange(size) for _ in range(6)]:
        flip("a", at)
        start = at // block * block
        expect(f"byte {at}", ranges("a", "-f", "raw") == [(start, min(block, size - start))])
        flip("a", at)
    for at in (5 * block, 6 * block + 9, 8 * block, size - 1):
        flip("a", at)
    expect("neighbours are one", ranges("a", "-f", "raw") == [(5 * block, 2 * block), (8 * block, block),
                                                              (size // block * block, 512)])
    pathlib.Path("a").write_bytes(data + bytes(100000))
    expect("longer", ranges("a", "-f", "raw") == [])
    pathlib.Path("a").write_bytes(data[:5 * MIB + 1000])
    lost = [i for i in range(0, size, block) if any(data[max(i, 5 * MIB + 1000):i + block])]
    expect("shorter", sum(n for _, n in ranges("a", "-f", "raw")) == sum(min(block, size - i) for i in lost))


def seal(text):
    """With the sum that it should have."""
    return text + f"crc32 {zlib.crc32(text.encode('latin-1')):08x}\n"


def damage():
    data = content(70, 3 * MIB)
    pathlib.Path("a").write_bytes(data)
    tool(0, "checksum", "-f", "raw", "--manifest", "good", "--block-size", "1M", "a")
    good = pathlib.Path("good").read_bytes()
    text = good.decode().rsplit("crc32", 1)[0]
    bad = [good[:n] for n in range(0, len(good), 7)] + [good + b"x", good + b"\n", b"\0" * 500, b"x" * 100000]
    bad += [good[:i] + bytes([good[i] ^ 1]) + good[i + 1:] for i in range(0, len(good), 5)]
    for old, new in (("size 3145728", "size 3145729"), ("size 3145728", "size 9223372036854775807"),
                     ("size 3145728", "size 9223372036854775296"), ("size 3145728", "size -512"),
                     ("size 3145728", "size 99999999999999999999999"), ("size 3145728", "size 0"),
                     ("size 3145728", "size 4194304"), ("size 3145728", "size 2097152"),
                     ("block-size 1048576", "block-size 0"), ("block-size 1048576", "block-size 4097"),
                     ("block-size 1048576", "block-size 4294967296"), (" 1\n", " 0\n"), (" 1\n", " 4\n"),
                     (" 1\n", " 18446744073709551615\n"), (" 1\n", "\n"), (" 1\n", " 1 1\n"), (" 1\n", " 1\0\n"),
                     ("manifest 1", "manifest 2"), ("blake2b-256", "md5"), ("checksum", "sum")):
        expect(f"{old!r} is in it", old in text)
        bad.append(seal(text.replace(old, new, 1)).encode())
    for i, made in enumerate(bad):
        pathlib.Path("m").write_bytes(made)
        result = run("checksum", "-f", "raw", "--verify", "m", "a")
        expect(f"damage {i} is told", result.returncode == 2 and result.stderr.startswith("vdisk-io: m: ") and
               result.stderr.count("\n") == 1 and not result.stdout, made[:400], result)
    last = text.rindex("checksum ") + len("checksum ")
    pathlib.Path("m").write_text(seal(text[:last] + "0" * 64 + "\n"))
    expect("a checksum of other blocks", "not that of its blocks" in
           tool(2, "checksum", "-f", "raw", "--verify", "m", "a").stderr)
    pathlib.Path("m").write_text(seal(text))
    tool(0, "checksum", "-f", "raw", "--verify", "m", "a")


def alone(*kept):
    left = sorted(set(os.listdir()) - set(kept))
    expect("nothing else is left", not left, left)


def break_entry(name):
    """Of its first L2 table the last entry that is used: reading there fails."""
    with open(name, "r+b") as f:
        f.seek(40)
        f.seek(struct.unpack(">Q", f.read(8))[0])
        table = struct.unpack(">Q", f.read(8))[0] & ~(1 << 63)
        f.seek(table)
        used = [i for i, entry in enumerate(struct.unpack(">8192Q", f.read(65536))) if entry & ~1]
        f.seek(table + 8 * used[-1])
        f.write(struct.pack(">Q", 1 << 63 | 0x10200))


def not_left():
    """What fails or is interrupted leaves the manifest as it was, or none; what is no manifest stays."""
    pathlib.Path("a").write_bytes(content(80, 5 * MIB))
    for name in ("a", "b"):
        pathlib.Path("b").write_bytes(b"something else")
        before = pathlib.Path(name).read_bytes()
        said = tool(2, "checksum", "-f", "raw", "--manifest", name, "a").stderr
        expect(f"said: {said}", ("is an image of this command" if name == "a" else "no manifest") in said)
        expect("kept", pathlib.Path(name).read_bytes() == before)
    os.unlink("b")
    tool(2, "checksum", "--manifest", "nowhere/m", "a")
    alone("a")
    must("convert", "-f", "raw", "-O", "qcow2", "a", "q")
    break_entry("q")
    result = tool(2, "checksum", "--manifest", "m", "q")
    expect("the image is named", result.stderr.startswith("vdisk-io: q: "), result.stderr)
    alone("a", "q")
    os.unlink("q")
    tool(0, "checksum", "-f", "raw", "--manifest", "m", "a")
    os.chmod("m", 0o640)
    os.symlink("m", "link")
    before = pathlib.Path("m").read_bytes()
    flip("a", 5)
    tool(0, "checksum", "-f", "raw", "--manifest", "link", "a")
    expect("behind the link", os.path.islink("link") and pathlib.Path("m").read_bytes() != before)
    expect("mode", os.stat("m").st_mode & 0o777 == 0o640)
    interrupted("m", pathlib.Path("m").read_bytes())
    os.unlink("m")
    os.unlink("link")
    interrupted("m", None)
    alone("a", "long")


def interrupted(name, before):
    with open("long", "wb") as f:
        f.truncate(8 << 40)
    args = [TOOL, "checksum", "-f", "raw", "--block-size", "4k", "--manifest", name, "long"]
    with subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as job:
        while not any(x.startswith(name + ".") for x in os.listdir()) and job.poll() is None:
            time.sleep(0.01)
        job.send_signal(signal.SIGINT)
        out, err = job.communicate()
    expect("interrupted", job.returncode == 2 and err.count("\n") == 1 and not out, job.returncode, out, err)
    expect("as before", (pathlib.Path(name).read_bytes() if os.path.exists(name) else None) == before)
    expect("nothing beside it", not [x for x in os.listdir() if x.startswith(name + ".")])


def main():
    with tempfile.TemporaryDirectory(prefix="vdisk-checksum.") as folder:
        for test in (formats, chains, output, manifests, damage, not_left):
            here = pathlib.Path(folder, test.__name__)
            here.mkdir()
            os.chdir(here)
            test()
        os.chdir("/")
    return end('' if QEMU else ', without qemu-img')


QEMU = shutil.which("qemu-img")
if __name__ == "__main__":
    sys.exit(main())
