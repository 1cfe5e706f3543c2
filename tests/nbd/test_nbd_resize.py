#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Volumes that change their size while they are served: by the program that serves them (resizer.c), or as a
device that is extended; who asks is told, and who is told may use it.

usage: test_nbd_resize.py VDISK_IO RESIZER
"""
import fcntl
import os
import pathlib
import struct
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
sys.dont_write_bytecode = True
from client import *  # noqa: E402,F403

MIB = 1 << 20
LOOP_CTL_GET_FREE, LOOP_CONFIGURE, LOOP_SET_CAPACITY, LO_FLAGS_AUTOCLEAR = 0x4C82, 0x4C0A, 0x4C07, 4
FORMS = [{"structured": False}, {}, {"extended": True}]
check = Checks()


def asked(path):
    """The sizes that INFO tells, twice, and then GO."""
    client = Client(path)
    found = []
    for number in (INFO, INFO, GO):
        for kind, data in client.ask(number, go_data("")):
            if kind == REP_INFO and struct.unpack(">H", data[:2])[0] == INFO_EXPORT:
                found.append(struct.unpack(">Q", data[2:10])[0])
    client.leave()
    return found


def by_export_name(path):
    client = Client(path, 3)
    client.sock.sendall(option(EXPORT_NAME, b""))
    size = struct.unpack(">Q", client.recv(10)[:8])[0]
    client.leave()
    return size


def connected(path, **form):
    client = Client(path)
    client.negotiate(**form)
    return client


def larger(path, old, size, before, form):
    """`before` were connected when it had the size `old`; they may use what is new, too."""
    check.same("what is told", asked(path), [size] * 3)
    check.same("by EXPORT_NAME", by_export_name(path), size)
    now = connected(path, **form)
    check.same("size", now.size, size)
    check.same("what was there", now.read(0, 4096), (0, b"\1" * 4096))
    check.same("what is new reads as zeros", now.read(old, MIB), (0, bytes(MIB)))
    check.same("across the old end", now.write(old - 512, b"\2" * 1024), 0)
    check.same("the last byte", now.write(size - 1, b"\3"), 0)
    check.same("past it", (now.write(size, b"\4"), now.read(size, 1)[0]), (ENOSPC, EINVAL))
    check.same("zeros", now.do(ZEROES, size - MIB, MIB - 1)[0], 0)
    for client in before:
        check.same("who knew the old size", client.read(old - 512, 1024), (0, b"\2" * 1024))
        check.same("goes on", client.read(0, 4096), (0, b"\1" * 4096))
    now.leave()


def smaller(path, size, before):
    check.same("what is told", asked(path), [size] * 3)
    for client in before:
        check.same("what is cut off", (client.read(size, 512)[0], client.write(size - 1, b"xy")), (EINVAL, ENOSPC))
        check.same("what is left", client.read(0, 4096), (0, b"\1" * 4096))


class Resizer:
    def __init__(self, program, where, *arguments):
        self.process = subprocess.Popen([program, *arguments], cwd=where, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)
        check.same("it serves", self.process.stdout.readline(), "ready\n")

    def resize(self, size, code=0):
        self.process.stdin.write(f"{size}\n")
        self.process.stdin.flush()
        check.same(f"resized to {size}", int(self.process.stdout.readline()), code)

    def end(self):
        self.process.communicate()
        check.same("it ends", self.process.returncode, 0)


def test_program(tool, program, where):
    """vdisk_resize() by the program that serves."""
    for fmt, form in (("raw", FORMS[1]), ("qcow2", FORMS[0]), ("qcow2", FORMS[2])):
        create(tool, where, "disk", "-f", fmt, "8M")
        path = where / "sock"
        resizer = Resizer(program, where, fmt, "disk", path)
        client = connected(path, **form)
        check.same("written", client.write(0, b"\1" * 65536), 0)
        check.same("past the end", client.write(8 * MIB, b"x"), ENOSPC)
        sent = [client.send(WRITE, (k % 64 + 1) * 65536, 65536, 0, bytes([k]) * 65536) for k in range(100)]
        resizer.resize(16 * MIB)
        done = [client.reply()[:2] for _ in sent]
        check.same("what was in flight", sorted(done), [(cookie, 0) for cookie in sent])
        larger(path, 8 * MIB, 16 * MIB, [client], form)
        resizer.resize(4 * MIB)
        smaller(path, 4 * MIB, [client])
        resizer.resize(6 * MIB)
        check.same("what was cut off is gone", client.read(5 * MIB, MIB), (0, bytes(MIB)))
        client.leave()
        resizer.end()
        if fmt == "qcow2":
            subprocess.run([tool, "check", "-q", "-f", fmt, "disk"], cwd=where, check=True)
        os.unlink(where / "disk")


def test_file(tool, where):
    """A file: what others add is theirs."""
    create(tool, where, "disk", "-f", "raw", "8M")
    with serving(tool, where, "-f", "raw", names=("disk",), checks=check) as server:
        os.truncate(where / "disk", 16 * MIB)
        check.same("what is told", asked(server.path), [8 * MIB] * 3)
        client = connected(server.path)
        check.same("past the end", client.write(8 * MIB, b"x"), ENOSPC)
        client.leave()
    with serving(tool, where, "-f", "raw", names=("disk",), checks=check) as server:
        check.same("opened anew", asked(server.path), [16 * MIB] * 3)
    os.unlink(where / "disk")


def loop_device(where):
    """A device on the file, which goes when the descriptor does: (path, descriptor); or why there is none."""
    try:
        with open("/dev/loop-control", "rb") as control, open(where / "back", "r+b") as f:
            number = fcntl.ioctl(control, LOOP_CTL_GET_FREE)
            path = f"/dev/loop{number}"
            hold = os.open(path, os.O_RDWR)
            fcntl.ioctl(hold, LOOP_CONFIGURE, struct.pack("=II52xI240x", f.fileno(), 512, LO_FLAGS_AUTOCLEAR))
            return path, hold
    except OSError as e:
        return None, e


def test_device(tool, where):
    """A device that is extended is followed by raw; a qcow2 image on it keeps its own size."""
    with open(where / "back", "wb") as f:
        f.truncate(8 * MIB)
    path, hold = loop_device(where)
    if path is None:
        print(f"note: no loop device, nothing is said of devices: {hold}")
        return
    try:
        with serving(tool, where, "-f", "raw", names=(path,), checks=check) as server:
            client = connected(server.path)
            check.same("written", client.write(0, b"\1" * 65536), 0)
            os.truncate(where / "back", 16 * MIB)
            fcntl.ioctl(hold, LOOP_SET_CAPACITY)
            larger(server.path, 8 * MIB, 16 * MIB, [client], {})
            client.leave()
        subprocess.run([tool, "create", "-q", "-f", "qcow2", path, "4M"], check=True)
        with serving(tool, where, "-f", "qcow2", names=(path,), checks=check) as server:
            os.truncate(where / "back", 32 * MIB)
            fcntl.ioctl(hold, LOOP_SET_CAPACITY)
            check.same("a size of its own", asked(server.path), [4 * MIB] * 3)
    finally:
        os.close(hold)


def main():
    tool, program = (str(pathlib.Path(word).resolve()) for word in sys.argv[1:])
    with folder() as where:
        test_program(tool, program, where)
        test_file(tool, where)
        test_device(tool, where)
    return check.finish()


if __name__ == "__main__":
    sys.exit(main())
