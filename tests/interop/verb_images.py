# SPDX-License-Identifier: LGPL-2.1-or-later
"""The files that the command lines of verb_cases.py are about, all written by QEMU."""
import os
import random
import struct
import subprocess

MIB = 1 << 20


def write_raw(name, data, size):
    with open(name, "wb") as f:
        f.write(data)
        f.truncate(size)


def put(name, offset, data):
    with open(name, "r+b") as f:
        f.seek(offset)
        f.write(data)


def get_u64(name, offset):
    with open(name, "rb") as f:
        f.seek(offset)
        return struct.unpack(">Q", f.read(8))[0]


def make_raw():
    noise = random.Random(1).randbytes(300000)
    for name in ("a.raw", "same.raw", "ro.raw", "held.raw", "df.raw"):
        write_raw(name, noise, MIB)
    write_raw("other.raw", noise[:200000] + b"\0" + noise[200001:], MIB)
    write_raw("long.raw", noise, 2 * MIB)
    write_raw("more.raw", noise, MIB)
    with open("more.raw", "ab") as f:
        f.write(b"x" * 70000)
    write_raw("odd.raw", noise[:999], 999)
    write_raw("empty", b"", 0)
    write_raw("tiny", b"abc", 3)
    write_raw("hole.raw", b"", MIB)
    write_raw("secret", b"sesame", 6)
    os.mkdir("dir")


def make_damaged():
    """A cluster that nothing refers to; another one, and a cluster that two entries lead to."""
    for name in ("leak.qcow2", "corrupt.qcow2"):
        subprocess.run(["cp", "q.qcow2", name], check=True)
    l2 = get_u64("q.qcow2", get_u64("q.qcow2", 40)) & 0x00FFFFFFFFFFFE00
    put("leak.qcow2", l2, bytes(8))
    put("corrupt.qcow2", l2 + 8, struct.pack(">Q", get_u64("q.qcow2", l2 + 16)))


def make_images(folder, qemu_img):
    """Leaves the working directory as it was."""
    qemu_io = os.path.join(os.path.dirname(qemu_img), "qemu-io")
    os.mkdir(folder)
    before = os.getcwd()
    os.chdir(folder)

    def img(*words):
        subprocess.run([qemu_img, *words], check=True, stdout=subprocess.DEVNULL)

    def write(name, *commands):
        subprocess.run([qemu_io, "-f", "qcow2", *[w for c in commands for w in ("-c", c)], name], check=True,
                       stdout=subprocess.DEVNULL)

    make_raw()
    for name in ("q.qcow2", "base.qcow2", "ro.qcow2", "held.qcow2", "snap.qcow2", "bm.qcow2"):
        img("convert", "-f", "raw", "-O", "qcow2", "a.raw", name)
    img("convert", "-f", "raw", "-O", "qcow2", "-o", "compat=0.10", "a.raw", "v2.qcow2")
    img("convert", "-f", "raw", "-O", "qcow2", "-o", "extended_l2=on", "a.raw", "ext.qcow2")
    img("convert", "-f", "raw", "-O", "qcow2", "-c", "-o", "compression_type=zstd", "a.raw", "zstd.qcow2")
    img("convert", "-f", "raw", "-O", "qcow2", "-o", "data_file=df.raw", "a.raw", "df.qcow2")
    for name, lower, kind in (("mid.qcow2", "base.qcow2", "qcow2"), ("top.qcow2", "mid.qcow2", "qcow2"),
                              ("rawtop.qcow2", "a.raw", "raw")):
        img("create", "-f", "qcow2", "-b", lower, "-F", kind, name)
    write("mid.qcow2", "write -P 1 128k 100k", "write -z 0 64k")
    write("top.qcow2", "write -P 2 192k 64k")
    write("rawtop.qcow2", "write -P 3 512k 64k")
    img("create", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "larger.qcow2", "2M")
    img("create", "-f", "qcow2", "-u", "-b", "gone.qcow2", "-F", "qcow2", "orphan.qcow2", "1M")
    img("create", "-f", "qcow2", "nothing.qcow2", "1M")
    img("create", "-f", "qcow2", "small.qcow2", "64k")
    img("create", "-f", "qcow2", "-o", "preallocation=full", "full.qcow2", "1M")
    img("snapshot", "-c", "first", "snap.qcow2")
    img("bitmap", "--add", "bm.qcow2", "b0")
    img("create", "-f", "qcow2", "--object", "secret,id=s,file=secret", "-o",
        "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10", "luks.qcow2", "1M")
    make_damaged()
    for name in ("ro.raw", "ro.qcow2"):
        os.chmod(name, 0o444)
    os.mkdir("rodir")
    os.chmod("rodir", 0o555)
    os.chdir(before)
