#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The kernel's NBD client on exports of ours: nbd.sh in the test machine. Then, out here, the power is cut under
the image whose device was logged: at marks that say which files were durable, and amid what no flush stands
behind, of which any part is there. Each time the image has no corruption, by QEMU and by us; the file system in it
recovers its journal, and is clean then; and it holds the files. Prints its seed.

usage: test_vm_nbd.py VDISK_IO NBD_GUEST PEER
"""
import json
import os
import pathlib
import random
import shutil
import struct
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
MIB, ATOMIC, FILES = 1 << 20, 4096, 12 # what a disk writes as a whole; as nbd_guest.c
FLUSH, FUA, DISCARD, MARK = 1, 2, 4, 8
CUTS = 1 << 30 if os.environ.get("VDISK_TEST_LONG") else 40 # about


class Wrong(Exception):
    pass


def run(*command, codes=(0,)):
    r = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, timeout=300)
    if r.returncode not in codes:
        raise Wrong(f"{' '.join(map(str, command))}: exit {r.returncode}: {r.stdout[-2000:]}{r.stderr[-2000:]}")
    return r


# ---- the log of dm-log-writes (tests/vm/log_writes.h)

def read_log(path):
    """[(flags, offset, length, where its content is, text of a mark)]"""
    entries = []
    with open(path, "rb") as f:
        magic, version, count, sector = struct.unpack("<QQQI", f.read(28))
        if magic != 0x6a736677736872 or version != 1:
            raise Wrong("there is no log")
        at = sector
        for _ in range(count):
            f.seek(at)
            first, sectors, flags, length = struct.unpack("<QQQQ", f.read(32))
            text = f.read(min(length, 32)).decode() if flags & MARK else ""
            at += sector
            entries.append((flags, first * sector, sectors * sector, at, text))
            at += 0 if flags & DISCARD else sectors * sector
    return entries


# ---- what is judged

def content(number):
    return b"".join(b"%07x %07x\n" % (number, line) for line in range(60 + number * 7919 % 3700))


def judge_files(folder, low):
    for k in range(min(FILES, low + 1)):
        data = (folder / f"f{k}").read_bytes()
        number = int(data[:7] or b"0", 16)
        if data != content(number):
            raise Wrong(f"f{k} holds other bytes than those of {number}")
        if number % FILES != k or not low - (low - k) % FILES <= number <= low + 1:
            raise Wrong(f"f{k} is {number}, though {low} was durable")


class Judge:
    def __init__(self, tool, peer, work, rng):
        self.tool, self.peer, self.work, self.rng = tool, peer, work, rng
        self.cuts = self.repaired = 0

    def check(self, disk):
        """No corruption; leaks are fine."""
        run(self.tool, "check", "-q", "-f", "qcow2", disk, codes=(0, 3))
        if self.peer:
            r = run(self.peer, "check", "-f", "qcow2", "--output", "json", disk, codes=(0, 1, 2, 3))
            found = json.loads(r.stdout or '{"check-errors": 1}')
            if found.get("corruptions", 0) or found.get("check-errors", 0):
                raise Wrong(f"{disk}: {r.stdout}{r.stderr}")

    def image(self, disk, low):
        """What a power cut leaves, when `low` had been durable."""
        fs, out = self.work / "fs", self.work / "out"
        self.cuts += 1
        self.check(disk)
        if self.rng.random() < 0.2:
            run("cp", "--sparse=always", disk, self.work / "copy")
            disk = self.work / "copy"
            run(self.tool, "check", "-q", "-r", "leaks", "-f", "qcow2", disk)
            run(self.tool, "check", "-q", "-f", "qcow2", disk)
            self.repaired += 1
        reader = self.rng.choice([self.tool, self.peer or self.tool])
        run(reader, "convert", "-f", "qcow2", "-O", "raw", disk, fs)
        run("e2fsck", "-fp", fs, codes=(0, 1))
        run("e2fsck", "-fn", fs)
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        run("debugfs", "-R", f"rdump / {out}", fs)
        judge_files(out, low)


# ---- power cuts

class Replay:
    def __init__(self, before, log, judge, rng):
        self.judge, self.rng, self.low = judge, rng, None
        self.entries, self.log = read_log(log), open(log, "rb")
        self.path = judge.work / "cut"
        run("cp", "--sparse=always", before, self.path)
        self.disk = open(self.path, "r+b", buffering=0)
        marks = [e for e in self.entries if e[4].isdigit()]
        self.share = CUTS / max(1, 2 * len(marks))

    def store(self, entry, parts=None):
        """All of it, or these pieces of ATOMIC bytes."""
        flags, offset, length, at, _ = entry
        if flags & DISCARD:
            if parts is None:
                self.disk.seek(offset)
                self.disk.write(self.rng.randbytes(length)) # nothing is known of it from now on
            return
        self.log.seek(at)
        data = self.log.read(length)
        for piece in range((length + ATOMIC - 1) // ATOMIC) if parts is not None else [None]:
            if piece is None:
                self.disk.seek(offset)
                self.disk.write(data)
            elif piece in parts:
                self.disk.seek(offset + piece * ATOMIC)
                self.disk.write(data[piece * ATOMIC:(piece + 1) * ATOMIC])

    def cut_amid(self, loose):
        """A part of what no flush stands behind is there; afterwards the disk is as it was."""
        before = []
        for entry in loose:
            if not entry[0] & DISCARD:
                self.disk.seek(entry[1])
                before.append((entry[1], self.disk.read(entry[2])))
        how = self.rng.choice(["some", "torn", "one", "all but one"])
        one = self.rng.randrange(len(loose))
        for i, entry in enumerate(loose):
            pieces = range((entry[2] + ATOMIC - 1) // ATOMIC)
            if how == "torn":
                self.store(entry, {p for p in pieces if self.rng.random() < 0.5})
            elif self.rng.random() < 0.5 if how == "some" else (i == one) == (how == "one"):
                if not entry[0] & DISCARD:
                    self.store(entry)
        self.judge.image(self.path, self.low)
        for offset, data in reversed(before):
            self.disk.seek(offset)
            self.disk.write(data)

    def run(self):
        loose = []
        for number, entry in enumerate(self.entries):
            flags, text = entry[0], entry[4]
            if flags & MARK and text.isdigit():
                self.low = int(text)
            if self.low is not None and flags & MARK and self.rng.random() < self.share:
                self.judge.image(self.path, self.low)
            if flags & (MARK | FLUSH | FUA):
                loose = []
            elif not loose:
                end = number
                while end < len(self.entries) and not self.entries[end][0] & (MARK | FLUSH | FUA):
                    end += 1
                loose = self.entries[number:end]
                if self.low is not None and self.rng.random() < self.share:
                    self.cut_amid(loose)
            if not flags & MARK:
                self.store(entry)
        if self.low is None:
            raise Wrong("the log has no marks")
        self.judge.image(self.path, self.low)


# ---- all together

def make_disk(path, size, old):
    with open(path, "wb") as f:
        f.write((b"what was here before" * (old // 20 + 1))[:old])
        f.truncate(size)


def test(tool, guest, peer, work, rng):
    disks = [work / f"disk{i}" for i in range(4)]
    for disk, size, old in zip(disks, (96, 400, 96, 1024), (96, 64, 96, 0)):
        make_disk(disk, size * MIB, old * MIB)
    run("cp", "--sparse=always", disks[2], work / "before")
    r = subprocess.run([str(HERE / "run"), "--timeout", "900", "--disk", disks[0], "--disk4k", disks[1], "--disk",
                        disks[2], "--disk", disks[3], "--put", tool, "--put", guest, "--put", HERE / "guest.sh",
                        "--put", HERE / "nbd.sh", "sh", "nbd.sh"], stdout=subprocess.PIPE, text=True, check=False)
    print(r.stdout)
    if r.returncode != 0 or ": done\n" not in r.stdout:
        return r.returncode or 1
    judge = Judge(tool, peer, work, rng)
    judge.check(disks[0])
    judge.check(disks[1])
    replay = Replay(work / "before", disks[3], judge, rng)
    replay.run()
    print(f"{len(replay.entries)} entries, {judge.cuts} power cuts, {judge.repaired} images repaired")
    return 0


def main():
    tool, guest = (os.path.realpath(word) for word in sys.argv[1:3])
    for program in ("e2fsck", "debugfs"):
        if not shutil.which(program):
            print(f"skipped: no {program}")
            return 77
    peer = subprocess.run([sys.argv[3]], capture_output=True, text=True, check=False).stdout.strip()
    if not os.access(peer, os.X_OK):
        print("note: there is no qemu-img, images are judged by us alone")
        peer = None
    seed = os.environ.get("VDISK_SEED", "1")
    seed = str(random.SystemRandom().randrange(1 << 32)) if seed == "new" else seed
    print(f"seed {seed}")
    memory = "/dev/shm" if not os.environ.get("TMPDIR") and os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="vdisk-vm-nbd.", dir=memory) as work:
        try:
            return test(tool, guest, peer, pathlib.Path(work), random.Random(seed))
        except Wrong as e:
            print(f"FAIL {e}")
            return 1


if __name__ == "__main__":
    sys.exit(main())
