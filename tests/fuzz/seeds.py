#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Make inputs for the fuzz targets out of images that QEMU writes: seeds.py DIRECTORY

One folder for each target. What the corpus in the tree was minimised from (README.md tells how).
"""
import pathlib
import struct
import subprocess
import sys
import tempfile

OPTIONS = ["cluster_size=512", "cluster_size=512,compat=0.10", "cluster_size=512,refcount_bits=1",
           "cluster_size=512,refcount_bits=64,lazy_refcounts=on", "cluster_size=1k,refcount_bits=8",
           "cluster_size=2k,compression_type=zstd", "cluster_size=4k", "cluster_size=16k,extended_l2=on",
           "cluster_size=512,data_file=data.raw", "cluster_size=512,data_file=data.raw,data_file_raw=on",
           "cluster_size=4k,preallocation=metadata"]
SIZES = ["64k", "100k"]
SCRIPTS = [
    [],
    ["write -P 1 0 20k", "write -z 24k 4k", "discard 4k 2k", "write -P 2 40k 3k"],
    ["write -c -P 3 0 16k", "write -c -P 4 32k 16k", "write -P 5 5000 700"],
]
SIZE_TEXTS = ["0", "1.5G", "0x10k", "18446744073709551615", "16E", "1.999999999999999999999E", "512b", ".5M", "7e"]
NUMBER_TEXTS = ["0", "017", "0xff", "on", "off", "yes", "1000", "1001"]
LIST_TEXTS = ["cluster_size=64k,compat=1.1", "backing_file=a,,b,size=1G", "nolazy_refcounts",
              "preallocation=full,"]
JSON_TEXTS = [
    '{"driver":"qcow2","file":{"driver":"file","filename":"/a/b.qcow2"}}',
    '{"driver":"raw","file":{"driver":"host_device","filename":"/dev/vg/lv"}}',
    "{'driver':'qcow2','file.driver':'file','file.filename':'x:y','data-file.filename':'d'}",
    '{"file":{"driver":"raw","file.filename":"a"}}', '{"file.filename":"nbd://host/x"}', '{"driver":"nbd"}',
]
OPTS_TEXTS = [
    "driver=qcow2,file.driver=file,file.filename=/a/b.qcow2", "a.qcow2",
    "file.filename=a,,b,read-only,nocache.direct",
    "driver=raw,offset=1.5k,size=0x200,file.filename=x=y", "driver=qcow2,file.driver=raw,file.file.filename=a",
    "file.filename=a,backing=",
    "driver=qcow2,file.filename=a,backing.file.filename=b,data-file.filename=c",
    "driver=null-co,size=1T,discard=off,detect-zeroes=unmap", "file=a,file.b=c", "a.b.c.d=1,a.b=2",
    "\xff=\xfe,no,=",
]
OBJECT_TEXTS = ["", ",format=base64", ",,b", ",b", ",data=x", ",file=/none", ",id=b",
                '{"}', '{","format":"hex"}']
NAME_TEXTS = ["../base.qcow2", "json:{}", "/a/b", "file:x", "nbd://host/x", "\xff\xfe", "a\x1b[2J"]


def run(args, cwd):
    done = subprocess.run(args, cwd=cwd, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return done.returncode == 0


def images(work):
    """Yield the bytes of images."""
    path = work / "image.qcow2"
    for options in OPTIONS:
        for size in SIZES:
            for script in SCRIPTS:
                for extra in ("", "snapshot", "bitmap", "backing"):
                    path.unlink(missing_ok=True)
                    args = ["qemu-img", "create", "-q", "-f", "qcow2", "-o", options]
                    if extra == "backing":
                        args += ["-u", "-b", "base.raw", "-F", "raw"]
                    if not run(args + [path, size], work):
                        continue
                    ok = all(run(["qemu-io", "-f", "qcow2", "-c", line, path], work) for line in script
                             if not (extra == "backing" and "-c" in line))
                    if extra == "snapshot":
                        ok = run(["qemu-img", "snapshot", "-c", "one", path], work) and \
                             run(["qemu-io", "-f", "qcow2", "-c", "write -P 9 0 1k", path], work)
                    if extra == "bitmap":
                        ok = run(["qemu-img", "bitmap", "--add", "-g", "4k", path, "b"], work)
                    if ok and path.stat().st_size <= 256 << 10:
                        yield path.read_bytes()


def cluster_size(image):
    return 1 << struct.unpack(">I", image[20:24])[0]


def table_inputs(image):
    """What fuzz_tables takes: kind, flags, cluster bits, order or number, then the table."""
    version, bits = struct.unpack(">I", image[4:8])[0], struct.unpack(">I", image[20:24])[0]
    l1, reftable = struct.unpack(">QQ", image[40:56])
    nsnapshots, snapshots = struct.unpack(">IQ", image[60:72])
    incompatible = struct.unpack(">Q", image[72:80])[0] if version == 3 else 0
    order = struct.unpack(">I", image[96:100])[0] if version == 3 else 4
    flags = (version == 2) | (2 if incompatible & 16 else 0) | (4 if incompatible & 4 else 0)
    size = 1 << bits
    head = [flags, bits - 9]
    yield bytes([0, *head, order]) + image[l1:l1 + 64]
    l2 = struct.unpack(">Q", image[l1:l1 + 8])[0] & 0x00fffffffffffe00
    if l2:
        yield bytes([0, *head, order]) + image[l2:l2 + min(size, 1024)]
        entry = struct.unpack(">Q", image[l2:l2 + 8])[0]
        if entry >> 62 & 1:
            at = entry & ((1 << (62 - (bits - 8))) - 1)
            yield bytes([4 + bool(incompatible & 8), *head, order]) + image[at:at + 512]
    block = struct.unpack(">Q", image[reftable:reftable + 8])[0]
    yield bytes([1, *head, order]) + image[block:block + min(size, 1024)]
    if nsnapshots:
        yield bytes([2, *head, nsnapshots]) + image[snapshots:snapshots + 200]
    if image.find(b"\x23\x85\x28\x75") >= 0:
        at = image.find(b"\x23\x85\x28\x75") + 8
        number, _, length, offset = struct.unpack(">IIQQ", image[at:at + 24])
        yield bytes([3, *head, number]) + image[offset:offset + length]


def nbd_reply_inputs():
    """A server's side, honest: handshakes, and replies to the requests of fuzz_nbd_replies.c."""
    def reply(option, kind, data=b""):
        return struct.pack(">QIII", 0x3E889045565A9, option, kind, len(data)) + data

    greeting = struct.pack(">QQH", 0x4E42444D41474943, 0x49484156454F5054, 3)
    export = reply(7, 3, struct.pack(">HQH", 0, 1 << 20, 0x5ED))
    blocks = reply(7, 3, struct.pack(">HIII", 3, 512, 4096, 1 << 25))
    no, context = 0x80000001, reply(10, 4, struct.pack(">I", 42) + b"base:allocation")
    yield bytes([0, 0]) + greeting + reply(11, 1) + context + reply(10, 1) + export + blocks + reply(7, 1)
    yield bytes([0, 1]) + greeting + reply(11, no, b"what?") + reply(8, 1) + reply(10, no) + export + reply(7, 1)
    yield bytes([0, 2]) + greeting + reply(11, no) + reply(8, no) + reply(7, 0x80000006, b"there is none")
    yield bytes([0, 3]) + greeting + reply(11, no) + reply(8, no) + reply(7, no) + struct.pack(">QH", 1 << 20, 1)
    yield bytes([1, 0]) + greeting + reply(5, 1)
    yield bytes([1, 1]) + greeting + reply(5, no, b"none here")
    yield bytes([1, 2]) + greeting + reply(5, 1) + reply(11, 1)
    yield bytes([1, 3]) + greeting + reply(5, 1) + b"\x16\x03\x03\0\x04abcd"
    info = export.replace(b"\0\0\0\7", b"\0\0\0\6") + blocks.replace(b"\0\0\0\7", b"\0\0\0\6") + reply(6, 1)
    names = reply(3, 2, struct.pack(">I", 1) + b"a" + b"words") + reply(3, 2, struct.pack(">I", 0)) + reply(3, 1)
    contexts = reply(9, 4, struct.pack(">I", 0) + b"base:allocation") + reply(9, 1)
    yield bytes([5, 0]) + greeting + reply(11, 1) + names + info + contexts + info + reply(9, no)
    yield bytes([5, 1]) + greeting + reply(11, no) + reply(8, no) + names + reply(6, no)
    yield bytes([5, 2]) + greeting + reply(11, no) + reply(8, no) + reply(3, 0x80000002, b"no")
    # The cookie: a number that rises, and a slot, from the last one down.
    cookies = [(i + 1) << 16 | 1023 - i for i in range(7)]
    offsets = [0, 8192, 0, 65536, 0, 16384, 512]
    read = bytes(range(256)) * 16
    yield bytes([2, 0]) + b"".join(  # the status is not asked for
        struct.pack(">IIQ", 0x67446698, 0, c) + {0: read, 2: read[:512]}.get(i, b"")
        for i, c in enumerate(cookies[:6]))
    yield bytes([2, 1]) + b"".join(struct.pack(">IIQ", 0x67446698, 5, c) for c in cookies)
    for form in (3, 4):
        def chunk(i, kind, data=b"", last=True, form=form):
            if form == 3:
                return struct.pack(">IHHQI", 0x668E33EF, last, kind, cookies[i], len(data)) + data
            return struct.pack(">IHHQQQ", 0x6E8A278C, last, kind, cookies[i], offsets[i], len(data)) + data
        runs = struct.pack(">IIIII", 42, 4096, 0, (1 << 20) - 4096, 3) if form == 3 else \
            struct.pack(">IIQQQQ", 42, 2, 4096, 0, (1 << 20) - 4096, 3)
        answers = [chunk(0, 1, struct.pack(">Q", 2048) + read[:2048], False)
                   + chunk(0, 2, struct.pack(">QI", 0, 2048), False) + chunk(0, 0),
                   chunk(1, 0), chunk(2, 2 + form, runs), chunk(3, 1, struct.pack(">Q", 65536) + read[:512]),
                   chunk(4, 0), chunk(5, 0), chunk(6, 0x8001, struct.pack(">IH", 22, 2) + b"no")]
        yield bytes([form, 0]) + b"".join(answers)
        yield bytes([form, 5]) + b"".join(reversed(answers))
        yield bytes([form, 9]) + b"".join(chunk(i, 0x8001, struct.pack(">IH", 5, 0)) for i in range(7))


def main(target):
    number = 0

    def put(name, data):
        nonlocal number
        (target / name).mkdir(parents=True, exist_ok=True)
        (target / name / f"{number:04d}").write_bytes(data)
        number += 1

    with tempfile.TemporaryDirectory() as work:
        for image in images(pathlib.Path(work)):
            put("image", image)
            put("header", image[:cluster_size(image)])
            for data in table_inputs(image):
                put("tables", data)
    for data in nbd_reply_inputs():
        put("nbd_replies", data)
    for kind, texts in enumerate((SIZE_TEXTS, NUMBER_TEXTS, LIST_TEXTS, NAME_TEXTS, JSON_TEXTS,
                                  OPTS_TEXTS, OBJECT_TEXTS)):
        for text in texts:
            put("names", bytes([kind]) + text.encode("latin-1"))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
