#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the NBD client does when its server dies, or its connection, and comes back, or does not: against a server
in this process, which keeps what was flushed and nothing else."""
import ctypes
import errno
import os
import queue
import random
import tempfile
import threading
import unittest
import unittest.mock

import vdisk

import peer as p

MIB = 1 << 20


class Case(unittest.TestCase):
    def setUp(self):
        self.tmp = tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR"))
        self.addCleanup(self.tmp.cleanup)
        self.path = os.path.join(self.tmp.name, "s")
        self.peer = None

    def serve(self, **options):
        self.peer = p.Peer(self.path, **{"size": 4 * MIB, **options})
        self.addCleanup(lambda: self.assertEqual(self.peer.complaints, []))
        self.addCleanup(lambda: self.peer.sock and self.peer.stop())

    def open(self, delay=20, **options):
        name = f"image-opts:driver=raw,file.driver=nbd,file.server.type=unix,file.server.path={self.path}"
        volume = vdisk.Volume(f"{name},file.reconnect-delay={delay}", **{"writable": True, **options})
        self.addCleanup(volume.close)
        return volume

    def results(self, queue):
        found = []
        while queue.inflight:
            found += [-error.errno if error else 0 for _, error in queue.reap()]
        return found

    def fails(self, call, *args, number=errno.EIO, says=""):
        with self.assertRaises(OSError) as caught:
            call(*args)
        self.assertEqual(caught.exception.errno, number)
        self.assertIn(self.path, str(caught.exception))
        self.assertIn(says, str(caught.exception))


class Flush(Case):
    def test_what_was_acknowledged_is_gone(self):
        """A flush fails, once."""
        self.serve()
        volume = self.open()
        volume.write(0, b"a" * 4096)
        self.peer.die()
        self.peer.start()
        self.assertEqual(volume.read(0, 4096), bytes(4096))  # so it is gone, and the connection is new
        self.fails(volume.flush, says="may be lost")
        volume.flush()
        volume.write(0, b"b" * 4096)
        volume.flush()
        self.peer.die()
        self.peer.start()
        self.assertEqual(volume.read(0, 4096), b"b" * 4096)

    def test_the_flush_finds_it(self):
        """The connection is found broken by the flush itself."""
        self.serve()
        volume = self.open()
        volume.zero(0, 4096)
        self.peer.die()
        self.peer.start()
        self.fails(volume.flush)
        volume.flush()

    def test_in_flight(self):
        """The server dies with the flush."""
        for after, what in (("die", "changed"), ("die after", "changed"), ("die", "clean")):
            with self.subTest(after=after, what=what):
                self.serve()
                volume = self.open()
                volume.write(0, b"a" * 512)
                if what == "clean":
                    volume.flush()
                again = []

                def hook(r):
                    if r.kind == p.FLUSH and not again:
                        again.append(r)
                        return after
                    return None
                self.peer.hook = hook
                if what == "clean":
                    volume.flush()  # nothing is lost: it is asked again
                else:
                    self.fails(volume.flush)
                self.assertEqual(len(again), 1)
                volume.flush()
                volume.close()
                self.peer.stop()

    def test_nothing_unflushed(self):
        self.serve()
        volume = self.open()
        volume.write(0, b"a" * 4096)
        volume.flush()
        volume.write(4096, b"c" * 4096, fua=True)
        self.peer.die()
        self.peer.start()
        volume.flush()
        self.assertEqual(volume.read(0, 8192), b"a" * 4096 + b"c" * 4096)

    def test_without_fua(self):
        """A durable write is a write with a flush, where there is no FUA."""
        self.serve(flags=p.HAS_FLAGS | p.CAN_FLUSH)
        volume = self.open()
        volume.write(4096, b"c" * 4096, fua=True)
        self.peer.die()
        self.peer.start()
        volume.flush()
        self.assertEqual(volume.read(4096, 4096), b"c" * 4096)

    def test_another_queue(self):
        """A queue whose connection is new flushes what another wrote on one that is gone."""
        self.serve(flags=p.HAS_FLAGS | p.CAN_FLUSH | p.MULTI)
        volume = self.open()
        with vdisk.Queue() as a, vdisk.Queue() as b:
            for i in range(40):  # enough for a connection of its own
                a.write(volume, i * 4096, b"x" * 4096)
                self.assertEqual(self.results(a), [0])
            self.peer.die()
            self.peer.start()
            for i in range(40):
                buffer = bytearray(4096)
                b.readinto(volume, i * 4096, buffer)
                self.assertEqual(self.results(b), [0])
            b.flush(volume)
            self.assertEqual(self.results(b), [-errno.EIO])
            b.flush(volume)
            self.assertEqual(self.results(b), [0])


    def test_two_in_flight(self):
        """Two flushes are under way when the server dies: each of them was asked for what is gone."""
        self.serve(flags=p.HAS_FLAGS | p.CAN_FLUSH | p.MULTI)
        volume = self.open()
        both = threading.Barrier(2, timeout=60)

        def hook(r):
            if r.kind != p.FLUSH:
                return None
            both.wait()
            self.peer.hook = None  # what is repeated is done
            return "die"
        with vdisk.Queue() as a, vdisk.Queue() as b:
            for queue in (a, b):
                for i in range(40):  # enough for a connection of its own
                    queue.write(volume, i * 4096, b"x" * 4096)
                    self.assertEqual(self.results(queue), [0])
            self.peer.hook = hook
            for queue in (a, b):
                queue.flush(volume)
                queue.submit()
            found = self.results(a) + self.results(b)
            self.assertEqual(found, [-errno.EIO] * 2)
            a.flush(volume)
            self.assertEqual(self.results(a), [0])

    def test_late_answer(self):
        """A server acknowledges and dies; that is read when another queue has come back: its flush fails."""
        self.serve(flags=p.HAS_FLAGS | p.CAN_FLUSH | p.MULTI)
        volume = self.open()
        ready, begin, called, go, answered, read = (threading.Event() for _ in range(6))
        answer, found = p.Connection.answer, []

        def hook(r):
            if r.kind == p.WRITE:
                called.set()
                go.wait(60)

        def answer_and_tell(connection, request, *rest):
            answer(connection, request, *rest)
            if request.kind == p.WRITE:
                answered.set()

        def fill(queue):
            for i in range(40):  # enough for a connection of its own
                queue.write(volume, i * 4096, b"x" * 4096)
                self.assertEqual(self.results(queue), [0])

        def other():  # on a thread of its own, since who waits turns all queues of his
            with vdisk.Queue() as a:
                fill(a)
                ready.set()
                begin.wait(60)
                a.write(volume, 0, b"y" * 4096)
                while not called.is_set():
                    self.assertEqual(a.reap(0), [])
                go.set()
                read.wait(60)
                found.extend(self.results(a))
        thread = threading.Thread(target=other)
        thread.start()
        ready.wait(60)
        with vdisk.Queue() as b:
            fill(b)
            b.flush(volume)
            self.assertEqual(self.results(b), [0])
            with unittest.mock.patch.object(p.Connection, "answer", answer_and_tell):
                self.peer.hook = hook
                begin.set()
                self.assertTrue(answered.wait(60))
                self.peer.hook = None
                self.peer.die()
                self.peer.start()
            b.readinto(volume, 0, bytearray(4096))
            self.assertEqual(self.results(b), [0])
            read.set()
            thread.join()
            self.assertEqual(found, [0])
            b.flush(volume)
            self.assertEqual(self.results(b), [-errno.EIO])

    def test_on_a_new_connection(self):
        """A queue's first connection is made for a flush, and finds that what another carried is gone."""
        self.serve(flags=p.HAS_FLAGS | p.CAN_FLUSH | p.MULTI)
        volume = self.open()
        with vdisk.Queue() as queue:
            for i in range(15):  # one less than make a connection of its own
                queue.write(volume, i * 4096, b"x" * 4096)
                self.assertEqual(self.results(queue), [0])
            self.peer.die()
            self.peer.start()
            queue.flush(volume)
            self.assertEqual(self.results(queue), [-errno.EIO])
            queue.flush(volume)
            self.assertEqual(self.results(queue), [0])

    def test_of_a_queue_that_is_gone(self):
        """A queue's connection was hung up, which nobody had to notice, and goes with it; there was no other."""
        self.serve(flags=p.HAS_FLAGS | p.CAN_FLUSH | p.MULTI)
        volume = self.open(delay=0)
        with vdisk.Queue() as queue:
            for i in range(40):  # enough for a connection of its own
                queue.write(volume, i * 4096, b"x" * 4096)
                self.assertEqual(self.results(queue), [0])
            queue.flush(volume)
            self.assertEqual(self.results(queue), [0])
            self.peer.stop()
            self.fails(volume.read, 0, 4096)  # the one that all share is gone from here on
            queue.readinto(volume, 0, bytearray(4096))
            self.assertEqual(self.results(queue), [-errno.EIO])
            self.peer.start()
            queue.write(volume, 0, b"y" * 4096)
            self.assertEqual(self.results(queue), [0])
            self.peer.die()
            self.peer.start()
        self.fails(volume.flush, says="may be lost")
        volume.flush()
        self.assertEqual(volume.read(0, 4096), b"x" * 4096)


class Reconnect(Case):
    def test_in_flight(self):
        """Random requests, some in flight whenever the connection goes; what was written is there."""
        for seed in range(4):
            with self.subTest(seed=seed):
                rng = random.Random(seed)
                self.serve(extended=seed % 2 == 1, flags=p.HAS_FLAGS | p.CAN_FLUSH | p.CAN_ZERO | p.CAN_TRIM |
                           (p.MULTI if seed % 3 == 0 else 0))
                volume = self.open()
                model = bytearray(4 * MIB)
                countdown = [rng.randrange(40)]

                def hook(r):
                    countdown[0] -= 1
                    if countdown[0] > 0:
                        return None
                    countdown[0] = rng.randrange(5, 40)
                    return rng.choice(["die", "die after"])
                self.peer.hook = hook
                with vdisk.Queue() as queue:
                    for _ in range(12):
                        places = rng.sample(range(64), 16)
                        kept = []
                        for place in places:
                            at, length = place * 65536 + rng.randrange(0, 30000), rng.randrange(1, 30000)
                            kind = rng.randrange(4)
                            if kind < 2:
                                data = rng.randbytes(length)
                                model[at:at + length] = data
                                queue.write(volume, at, data)
                            elif kind == 2:
                                model[at:at + length] = bytes(length)
                                queue.zero(volume, at, length)
                            else:
                                kept.append((at, bytearray(length)))
                                queue.readinto(volume, at, kept[-1][1])
                        self.assertEqual(self.results(queue), [0] * 16)
                        for at, data in kept:
                            self.assertEqual(data, model[at:at + len(data)])
                self.peer.hook = None
                self.assertEqual(volume.read(0, 4 * MIB), bytes(model))
                self.fails(volume.flush)  # connections have broken with something acknowledged
                volume.close()
                self.assertEqual(bytes(self.peer.disk.durable), bytes(model))
                self.peer.stop()

    def test_none(self):
        """Without a delay what was in flight fails at once, and what comes next tries once."""
        self.serve()
        volume = self.open(delay=0)
        self.peer.hook = lambda r: "die"
        self.fails(volume.read, 0, 4096, says="the server has closed it")
        self.peer.hook = None
        self.assertEqual(volume.read(0, 4096), bytes(4096))
        self.peer.hook = lambda r: p.EIO if r.kind == p.READ else None
        with self.assertRaises(OSError) as caught:
            volume.read(0, 4096)
        self.assertNotIn("closed", str(caught.exception))  # that is over
        self.peer.hook = None
        self.peer.stop()
        self.fails(volume.read, 0, 4096)
        self.fails(volume.read, 0, 4096, says="connecting to the socket")
        self.peer.start()
        self.assertEqual(volume.read(0, 4096), bytes(4096))

    def test_over(self):
        """The time is over: what waits fails, and the volume can be closed."""
        self.serve()
        volume = self.open(delay=1)
        self.peer.stop()
        self.fails(volume.read, 0, 4096)
        self.fails(volume.write, 0, b"a" * 512)
        self.fails(volume.close)  # it flushes

    def test_hangs_up(self):
        """A server that hangs up on each request is not asked for ever."""
        self.serve()
        volume = self.open(delay=1)
        self.peer.hook = lambda r: "die"
        self.fails(volume.read, 0, 4096)
        self.fails(volume.close)

    def test_smaller(self):
        self.serve()
        volume = self.open(delay=1)
        self.peer.stop()
        self.peer.size //= 2
        self.peer.start()
        self.fails(volume.read, 0, 4096)
        self.fails(volume.close)

    def test_less(self):
        """A server that cannot flush any more, or gives it for reading only."""
        for flags in (p.HAS_FLAGS, p.HAS_FLAGS | p.CAN_FLUSH | p.READ_ONLY):
            self.serve(flags=p.HAS_FLAGS | p.CAN_FLUSH)
            volume = self.open(delay=0)
            self.peer.stop()
            self.peer.flags = flags
            self.peer.start()
            self.fails(volume.read, 0, 4096)
            self.fails(volume.close)
            self.peer.stop()

    def test_larger(self):
        """The volume follows an export that has grown, when the connection is made anew."""
        self.serve()
        volume = self.open()
        self.assertEqual(volume.size, 4 * MIB)
        self.peer.stop()
        self.peer.size, self.peer.disk = 8 * MIB, p.Disk(8 * MIB)
        self.peer.disk.now[6 * MIB:6 * MIB + 3] = b"far"
        self.peer.start()
        self.assertEqual(volume.read(0, 512), bytes(512))
        self.assertEqual(volume.size, 8 * MIB)
        self.assertEqual(volume.read(6 * MIB, 4), b"far\0")

    def test_larger_is_told(self):
        """Each time, to who listens for it: whichever thread of the library has found it."""
        class Event(ctypes.Structure):
            _fields_ = [("kind", ctypes.c_int), ("value", ctypes.c_uint64), ("text", ctypes.c_char_p)]
        listener = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.POINTER(Event))
        told = queue.Queue()
        listen = listener(lambda arg, volume, event: told.put((event[0].kind, event[0].value)))
        self.serve()
        volume = self.open()
        library = ctypes.CDLL(os.environ.get("VDISK_LIBRARY") or "libvdisk.so.0")
        self.assertEqual(library.vdisk_set_event_callback(volume.handle, listen, None), 0)
        for size in (8 * MIB, 16 * MIB):
            self.peer.stop()
            self.peer.size, self.peer.disk = size, p.Disk(size)
            self.peer.start()
            self.assertEqual(volume.read(0, 512), bytes(512))
            self.assertEqual(told.get(timeout=60), (1, size))
        self.assertEqual(library.vdisk_set_event_callback(volume.handle, listener(), None), 0)


class Open(Case):
    def test_timeout(self):
        """A server that comes late."""
        name = f"image-opts:driver=raw,file.driver=nbd,file.path={self.path},file.open-timeout=30"
        late = threading.Timer(0.5, self.serve)
        late.start()
        self.addCleanup(late.join)
        with vdisk.Volume(name) as volume:
            self.assertEqual(volume.size, 4 * MIB)

    def test_read_only(self):
        self.serve(flags=p.HAS_FLAGS | p.READ_ONLY)
        self.fails(self.open, number=errno.EACCES)
        self.assertEqual(self.open(writable=False).read(0, 5), bytes(5))

    def test_limits(self):
        """Blocks of the server's sizes; what is longer goes in parts, what is shorter by whole blocks (the server
        complains of anything else)."""
        for extended in (False, True):
            self.serve(blocks=(4096, 65536, 131072), extended=extended)
            volume = self.open()
            data = random.Random(extended).randbytes(MIB + 5)
            volume.write(777, data)
            self.assertEqual(volume.read(777, len(data)), data)
            volume.zero(5000, 600000)
            volume.discard(1, 8191)
            self.assertEqual(volume.read(5000, 600000), bytes(600000))
            self.assertGreater(sum(r.kind == p.WRITE for r in self.peer.requests), 7)
            volume.close()
            self.assertEqual(self.peer.complaints, [])
            self.peer.stop()

    def test_ways(self):
        """Each kind of headers; a server without GO."""
        for options in ({"extended": True}, {}, {"structured": False}, {"structured": False, "go": False}):
            with self.subTest(options=options):
                self.serve(**options)
                volume = self.open()
                volume.write(4096, b"w" * 100000)
                volume.flush()
                self.assertEqual(volume.read(4000, 200), bytes(96) + b"w" * 104)
                volume.close()
                self.assertEqual(bytes(self.peer.disk.durable[4096:104096]), b"w" * 100000)
                self.peer.stop()


class Replies(Case):
    def test_pieces(self):
        """A read in pieces, holes among them, in any order."""
        def pieces(offset, length):
            cuts = [0, length]
            if length > 8:
                cuts = sorted({0, length, *(rng.randrange(1, length) for _ in range(6))})
            found = [(a, b - a) for a, b in zip(cuts, cuts[1:])]
            rng.shuffle(found)
            return found
        rng = random.Random(7)
        for extended in (False, True):
            self.serve(pieces=pieces, extended=extended)
            for i in range(0, 4 * MIB, 65536):
                self.peer.disk.now[i:i + 20000] = rng.randbytes(20000)
            volume = self.open()
            for _ in range(100):
                at = rng.randrange(4 * MIB - 1)
                length = rng.randrange(1, min(4 * MIB - at, 300000) + 1)
                self.assertEqual(volume.read(at, length), bytes(self.peer.disk.now[at:at + length]))
            volume.close()
            self.peer.stop()

    def test_unfinished(self):
        """A read that ends without all of its data is none."""
        for pieces in (lambda at, length: [(0, length // 2)], lambda at, length: [(512, length - 512)]):
            for extended in (False, True):
                self.serve(pieces=pieces, extended=extended)
                volume = self.open(delay=0)
                self.fails(volume.read, 0, 4096, says="without all of its data")
                volume.close()
                self.peer.stop()

    def test_errors(self):
        """The server's errors are the request's, and the connection stays."""
        for structured in (False, True):
            for number, meant in ((5, errno.EIO), (28, errno.ENOSPC), (1, errno.EPERM), (12, errno.ENOMEM)):
                self.serve(structured=structured)
                volume = self.open()
                self.peer.hook = lambda r: number if r.kind in (p.READ, p.WRITE, p.FLUSH) else None
                self.fails(volume.read, 0, 4096, number=meant)
                self.fails(volume.write, 0, b"a" * 4096, number=meant)
                self.fails(volume.flush, number=meant)
                self.peer.hook = None
                volume.write(0, b"a" * 4096)
                self.assertEqual(volume.read(0, 4096), b"a" * 4096)
                volume.close()
                self.peer.stop()

    def test_holes(self):
        """Extents, and that they follow our own changes."""
        for extended in (False, True):
            self.serve(extended=extended)
            volume = self.open()
            for at in (0, 65536, MIB):
                self.assertEqual([e.data for e in volume.extents()][0], at > 0)
                volume.write(at, b"d" * 4096)
                data = [(e.offset, e.length) for e in volume.extents() if e.data]
                self.assertEqual(data, [(a, 4096) for a in (0, 65536, MIB) if a <= at])
            volume.zero(0, 4096)
            data = [(e.offset, e.length) for e in volume.extents() if e.data]
            self.assertEqual(data, [(65536, 4096), (MIB, 4096)])
            self.assertEqual(len(list(volume.extents())), 5)
            volume.close()
            self.peer.stop()

    def test_holes_of_the_dead(self):
        """What a server told of holes, and took along, is not told again by the client."""
        self.serve()
        volume = self.open()
        volume.write(0, b"d" * 4096)
        volume.flush()
        volume.zero(0, 4096)
        self.assertEqual([e.data for e in volume.extents()][0], False)
        self.peer.die()
        self.peer.start()
        self.assertEqual(volume.read(0, 4096), b"d" * 4096)
        self.assertEqual([e.data for e in volume.extents()][0], True)
        self.fails(volume.flush, says="may be lost")

    def test_status_begun(self):
        """The connection breaks amid a block status: what has been told is told anew, by who answers then."""
        self.serve()
        volume = self.open()
        volume.write(65536, b"d" * 4096, fua=True)
        answer, begun = p.Connection.answer_status, []

        def begin(connection, request):
            if begun:
                answer(connection, request)
                return
            begun.append(request)
            connection.chunk(request, 5, False, ("context", "I", 42), ("run", "I", 4096), ("state", "I", 3),
                             ("run", "I", 4 * MIB - 4096), ("state", "I", 0))
            raise p.Gone
        with unittest.mock.patch.object(p.Connection, "answer_status", begin):
            told = [(e.offset, e.length, e.data) for e in volume.extents()]
        self.assertEqual(len(begun), 1)
        self.assertEqual(told, [(0, 65536, False), (65536, 4096, True), (69632, 4 * MIB - 69632, False)])


if __name__ == "__main__":
    unittest.main()
