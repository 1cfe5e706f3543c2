#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The library's NBD client on `vdisk-io nbd`, which is killed and comes again under load, against a model: which
contents each block may have by then. Raw and qcow2, one connection, two and four.

usage: test_nbd_reconnect.py VDISK_IO

VDISK_SEED=NUMBER, or new; VDISK_TEST_LONG=1 for more of it.
"""
import errno
import os
import pathlib
import random
import struct
import subprocess
import sys
import threading

sys.path.insert(0, str(pathlib.Path(__file__).parent))
sys.dont_write_bytecode = True
import vdisk  # noqa: E402
from client import *  # noqa: E402,F403

BLOCK, BLOCKS = 4096, 512
ROUNDS = 60 if os.environ.get("VDISK_TEST_LONG") else 4 if os.environ.get("VDISK_TEST_QUICK") else 8
SEEDS = 20 if os.environ.get("VDISK_TEST_LONG") else 1
check = Checks()


class Block:
    """What it may have, and what a kill of the server may leave, in numbers; 0 is zeros."""

    def __init__(self):
        self.may, self.durable, self.acked = {0}, {0}, 0

    def change(self, values, fua):
        """Acknowledged: it has one of the values."""
        self.may = set(values)
        self.durable = set(values) if fua else self.durable | self.may
        self.acked = values[0] if len(values) == 1 else None

    def kill(self, pending=()):
        self.may |= self.durable | set(pending)
        self.durable |= self.may


class Run:
    def __init__(self, tool, where, kind, queues, seed, kills):
        self.tool, self.where, self.kind, self.kills = tool, where, kind, kills
        self.random = random.Random(f"{seed} {kind} {queues} {kills}")
        self.blocks = [Block() for _ in range(BLOCKS)]
        self.stamp = 0
        self.what = f"{kind}, {queues} queues, seed {seed}"
        small = ("-o", "cluster_size=4k") if kills > 1 and kind == "qcow2" else ()
        create(tool, where, "disk", "-f", kind, *small, str(BLOCK * BLOCKS))
        self.start()
        self.volume = vdisk.Volume(f"image-opts:driver=raw,file.driver=nbd,file.server.type=unix,"
                                   f"file.server.path={where}/sock,file.reconnect-delay=60", writable=True)
        self.queues = [vdisk.Queue() for _ in range(queues)]

    def start(self):
        self.server = Server(self.tool, self.where, "-f", self.kind)

    def kill(self):
        self.server.process.kill()
        self.server.process.wait()
        self.start()

    # ---- requests

    def ranges(self, count):
        """As many, which do not touch."""
        cuts = sorted(self.random.sample(range(BLOCKS), 2 * count))
        found = [(a, min(b, a + 24)) for a, b in zip(cuts[::2], cuts[1::2]) if a < b]
        self.random.shuffle(found)
        return found

    def enqueue(self, queue, first, end):
        """One request: what it is, to be judged when it has been answered."""
        kind = self.random.choice(["read", "read", "write", "write", "write", "zero", "discard"])
        fua = kind == "write" and self.random.random() < 0.2  # of zeros it is a flush, which may tell of a kill
        offset, length, buffer, value = first * BLOCK, (end - first) * BLOCK, None, 0
        if kind == "read":
            buffer = bytearray(length)
            queue.readinto(self.volume, offset, buffer)
        elif kind == "write":
            self.stamp += 1
            value = self.stamp
            queue.write(self.volume, offset, struct.pack("<I", value) * (length // 4), fua=fua)
        elif kind == "zero":
            queue.zero(self.volume, offset, length, fua=fua, unmap=self.random.random() < 0.5)
        else:
            queue.discard(self.volume, offset, length)
        return kind, first, end, value, fua, buffer

    def saw(self, number, data, now):
        value = struct.unpack("<I", data[:4])[0]
        if data != struct.pack("<I", value) * (BLOCK // 4) or value not in self.blocks[number].may:
            check.same(f"{self.what}: block {number}", value, self.blocks[number].may)
        elif now:
            self.blocks[number].may = {value}

    def judge(self, request, killed):
        kind, first, end, value, fua, buffer = request
        for number in range(first, end):
            block = self.blocks[number]
            if kind == "read":
                at = (number - first) * BLOCK
                self.saw(number, bytes(buffer[at:at + BLOCK]), not killed)
            elif kind == "discard":
                block.change([0, *(block.may - {0})], False)
            elif killed and not fua:  # acknowledged before, or after
                may = block.may | {value}
                block.change([value], False)
                block.may |= may
            else:
                block.change([value], fua)

    def batch(self, kills):
        """Some requests on each queue, and the server killed amid them."""
        requests = {}
        for index, (first, end) in enumerate(self.ranges(48)):
            queue = self.queues[index % len(self.queues)]
            what = self.enqueue(queue, first, end)
            requests[id(queue), queue._last] = what
        killer = threading.Thread(target=self.kill)
        after = self.random.randrange(len(requests)) if kills else -1
        done = 0
        if kills:  # whatever is in flight then
            for block in self.blocks:
                block.kill()
            for kind, first, end, value, _, _ in requests.values():
                for block in self.blocks[first:end] if kind in ("write", "zero", "discard") else ():
                    block.kill([value])
        for queue in self.queues:
            queue.submit()
        while any(queue.inflight for queue in self.queues):
            for queue in self.queues:
                if kills and done >= after and killer.ident is None:
                    killer.start()
                for number, error in queue.reap(1, 8):
                    done += 1
                    check.same(f"{self.what}: a request", error, None)
                    self.judge(requests.pop((id(queue), number)), kills)
        if kills:
            if killer.ident is None:
                killer.start()
            killer.join()
        check.same(f"{self.what}: each request ends once", requests, {})

    def flush(self):
        """True: it succeeded, and so what was acknowledged is there, and stays."""
        queue = self.random.choice(self.queues)
        queue.flush(self.volume)
        (_, error), = queue.reap()
        if error:
            check.same(f"{self.what}: a flush", (error.errno, self.kills > 0), (errno.EIO, True))
        for number, block in enumerate(self.blocks):
            if error:
                block.acked = None
            elif block.acked is not None:
                if block.acked not in block.may:
                    check.same(f"{self.what}: block {number} after a flush", block.may, block.acked)
                block.may = block.durable = {block.acked}
            else:
                block.durable = set(block.may)

    def status(self):
        """What is told as zeros may be zeros."""
        for extent in self.volume.extents():
            for number in range(extent.offset // BLOCK, (extent.offset + extent.length) // BLOCK):
                if not extent.data and 0 not in self.blocks[number].may:
                    check.same(f"{self.what}: block {number} is told to be zeros", self.blocks[number].may, {0})

    def verify(self):
        data = self.volume.read(0, BLOCK * BLOCKS)
        for number in range(BLOCKS):
            self.saw(number, data[number * BLOCK:(number + 1) * BLOCK], True)

    # ---- the whole

    def run(self):
        for index in range(ROUNDS):
            self.batch(self.kills > 0 and index % 3 < self.kills)
            if self.random.random() < 0.6:
                self.flush()
            if self.random.random() < 0.3:
                self.status()
            if self.random.random() < 0.3:
                self.verify()
        self.verify()
        self.flush()
        self.flush()  # if that has failed: what is known is read again
        self.verify()
        for queue in self.queues:
            queue.close()
        self.volume.close()
        code = self.server.stop()
        check.same(f"{self.what}: the server's exit code", code, 0)
        if self.kind == "qcow2":  # what was killed leaks, and is sound
            code = subprocess.run([self.tool, "check", "-q", "disk"], cwd=self.where, stdout=subprocess.DEVNULL,
                                  stderr=subprocess.DEVNULL).returncode
            check.same(f"{self.what}: check", code in (0, 3) if self.kills else code == 0, True)
        with vdisk.Volume(str(self.where / "disk"), format=self.kind) as volume:
            self.volume = volume
            self.verify()


def main():
    tool = str(pathlib.Path(sys.argv[1]).resolve())
    seed = os.environ.get("VDISK_SEED", "1")
    seed = random.randrange(1 << 32) if seed == "new" else int(seed)
    print(f"seed {seed}")
    for number in range(SEEDS):
        for kind in ("raw", "qcow2"):
            for queues in (1, 2, 4):
                for kills in (0, 1, 2):
                    with folder() as where:
                        Run(tool, where, kind, queues, seed + number, kills).run()
    return check.finish()


if __name__ == "__main__":
    sys.exit(main())
