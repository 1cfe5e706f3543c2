#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The NBD server against a model: several connections with requests in flight, each on blocks of its own, some of
which cut; afterwards, over all of it, the content is what the replies said, also when the server has been killed
after a flush. Prints its seed.

usage: test_nbd_model.py VDISK_IO
"""
import os
import pathlib
import random
import socket
import struct
import sys
import threading

sys.path.insert(0, str(pathlib.Path(__file__).parent))
sys.dont_write_bytecode = True
from client import *  # noqa: E402,F403

SIZE, BLOCK, WORKERS = 64 << 20, 4096, 4
ROUNDS = 8 if os.environ.get("VDISK_TEST_QUICK") else 30
FORMS = [{"structured": False}, {}, {"extended": True}]
check = Checks()


class Worker:
    """One connection, and what it knows of its blocks: every WORKERS-th run of 16."""

    def __init__(self, path, number, seed):
        self.path, self.number, self.random = path, number, random.Random(f"{seed} {number}")
        self.model = {}        # block: the byte it is full of, or None: not known
        self.spoiled = set()   # what was in flight when a connection was cut: it may come late
        self.problems = []

    def block(self):
        runs = SIZE // BLOCK // 16 // WORKERS
        return (self.random.randrange(runs) * WORKERS + self.number) * 16

    def prepare(self, client, busy):
        """A request on blocks that no other one in flight has: (bytes, what to do with its reply)."""
        while True:
            first = self.block() + self.random.randrange(16)
            count = self.random.randint(1, 16 - first % 16)
            blocks = range(first, first + count)
            if not (busy | self.spoiled) & set(blocks):
                break
        busy |= set(blocks)
        kind = self.random.choice([READ, READ, WRITE, WRITE, WRITE, ZEROES, TRIM, CACHE])
        value = self.random.randrange(1, 256)
        flags = FUA if kind in (WRITE, ZEROES, TRIM) and self.random.random() < 0.1 else 0
        if kind == ZEROES and self.random.random() < 0.3:
            flags |= NO_HOLE
        offset, length = first * BLOCK, count * BLOCK
        data = client.request(kind, offset, length, flags, bytes([value]) * length if kind == WRITE else b"")
        return data, (kind, blocks, value)

    def judge(self, what, error, data):
        kind, blocks, value = what
        if error:
            self.problems.append(f"{kind} of {blocks}: error {error}")
        for k, block in enumerate(blocks):
            if kind == READ:
                known, got = self.model.get(block, 0), data[k * BLOCK:(k + 1) * BLOCK]
                if len(set(got)) != 1 or (known is not None and got[0] != known):
                    self.problems.append(f"block {block} is {got[0]}, not {known}")
                self.model[block] = got[0]
            elif kind in (WRITE, ZEROES):
                self.model[block] = value if kind == WRITE else 0
            elif kind == TRIM and self.model.get(block, 0) != 0:
                self.model[block] = None

    def forget(self, pending):
        """What was in flight when the connection was cut is old or new, and nobody knows from when on."""
        for kind, blocks, _ in pending.values():
            for block in blocks if kind in (WRITE, ZEROES, TRIM) else ():
                self.model[block] = None
                self.spoiled.add(block)

    def run(self):
        for _ in range(ROUNDS):
            client = Client(self.path)
            client.negotiate(**self.random.choice(FORMS))
            pending, busy, left = {}, set(), self.random.randrange(20, 200)
            cut = self.random.random() < 0.2
            while left or (pending and not cut):
                batch = b""
                while left and len(pending) < 32:
                    data, what = self.prepare(client, busy)
                    batch += data
                    pending[client.cookie] = what
                    left -= 1
                client.sock.sendall(batch)
                while pending and (len(pending) > 24 or not left) and not (cut and not left):
                    self.take(client, pending, busy)
            if cut:
                client.close()
                self.forget(pending)
            else:
                if client.do(FLUSH)[0]:
                    self.problems.append("flush failed")
                client.leave()

    def take(self, client, pending, busy):
        """One reply. A simple one of a read has data whose length only its request tells."""
        header = client.sock.recv(16, socket.MSG_PEEK | socket.MSG_WAITALL)
        what = pending[struct.unpack(">Q", header[8:16])[0]]
        cookie, error, data = client.reply(len(what[1]) * BLOCK if what[0] == READ else 0)
        del pending[cookie]
        busy -= set(what[1])
        self.judge(what, error, data)


def verify(path, workers, what):
    client = Client(path)
    client.negotiate()
    for worker in workers:
        for block, value in worker.model.items():
            if value is not None:
                error, data = client.read(block * BLOCK, BLOCK)
                if (error, data) != (0, bytes([value]) * BLOCK):
                    worker.problems.append(f"{what}: block {block} is {data[:1]}, not {value}")
    check.same(what, [problem for worker in workers for problem in worker.problems][:3], [])
    client.leave()


def main():
    tool = str(pathlib.Path(sys.argv[1]).resolve())
    seed = os.environ.get("VDISK_SEED") or str(random.randrange(1 << 32))
    print(f"seed {seed}")
    for kind, options in (("qcow2", ()), ("qcow2", ("-o", "cluster_size=4k")), ("raw", ())):
        with folder() as where:
            create(tool, where, "disk", "-f", kind, *options, str(SIZE))
            with serving(tool, where, "--threads", "3", "-f", kind, checks=check) as server:
                workers = [Worker(server.path, number, seed + kind) for number in range(WORKERS)]
                threads = [threading.Thread(target=worker.run) for worker in workers]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                verify(server.path, workers, f"{kind} {options}")
                client = Client(server.path)
                client.negotiate()
                check.same("flush", client.do(FLUSH)[0], 0)
                server.process.kill()
                server.process.wait()
                server.process.returncode = 0
            with serving(tool, where, "-f", kind, checks=check) as server:
                verify(server.path, workers, f"{kind} {options} after a kill")
    return check.finish()


if __name__ == "__main__":
    sys.exit(main())
