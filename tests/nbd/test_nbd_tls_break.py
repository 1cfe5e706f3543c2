# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the NBD client does in TLS when its server dies or lies: at the beginning of TLS, during it, and after it.
Nothing but STARTTLS is ever said in the clear."""
import errno
import os
import pathlib
import random
import shutil
import ssl
import sys
import tempfile
import threading
import unittest

import vdisk

import keys
import peer as p

MIB = 1 << 20
FOLDER = None


def context(name="keys"):
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(FOLDER / name / "server-cert.pem", FOLDER / name / "server-key.pem")
    made.load_verify_locations(FOLDER / "keys" / "ca-cert.pem")
    made.verify_mode = ssl.CERT_REQUIRED
    return made


class Case(unittest.TestCase):
    def setUp(self):
        self.tmp = tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR"))
        self.addCleanup(self.tmp.cleanup)
        self.path = os.path.join(self.tmp.name, "s")
        self.peer = None

    def serve(self, tls="keys", **options):
        self.peer = p.Peer(self.path, **{"size": 4 * MIB, "tls": tls and context(tls), **options})
        self.addCleanup(lambda: self.peer.sock and self.peer.stop())

    def open(self, delay=20, certificates="keys", **options):
        name = f"image-opts:driver=raw,file.driver=nbd,file.server.type=unix,file.server.path={self.path}" \
               f",file.tls-certificates={FOLDER / certificates},file.tls-hostname=localhost"
        volume = vdisk.Volume(f"{name},file.reconnect-delay={delay}", **{"writable": True, **options})
        self.addCleanup(volume.close)
        return volume

    def results(self, queue):
        found = []
        while queue.inflight:
            found += [-error.errno if error else 0 for _, error in queue.reap()]
        return found

    def fails(self, call, *args, number=None, says="", **named):
        """In one line, which names the export; whatever was tried."""
        with self.assertRaises(OSError) as caught:
            call(*args, **named)
        said = str(caught.exception)
        if number is not None:
            self.assertEqual(caught.exception.errno, number, said)
        self.assertIn(self.path, said)
        self.assertIn(says, said)
        self.assertEqual(said.count("\n"), 0)

    def only_tls(self):
        """All that was asked for in the clear, and that nothing of the client's was odd."""
        self.assertEqual(set(self.peer.in_the_clear), {p.STARTTLS})
        self.assertEqual(self.peer.complaints, [])
        self.assertEqual(self.peer.requests, [])


class Beginning(Case):
    def test_the_clear_behind(self):
        """What follows the server's yes in the clear is refused, whatever it is."""
        reply = p.struct.pack(">QIII", p.REPLY_MAGIC, p.GO, p.ACK, 0)
        for behind in (b"\0", reply, b"\x16\x03\x03\0\x04abcd", b"x" * 60000):
            with self.subTest(behind=behind[:20]):
                self.serve(behind=behind)
                self.fails(self.open, number=errno.EPROTO, says="TLS")
                self.only_tls()
                self.peer.stop()

    def test_the_clear_in_place(self):
        """And so is what comes in place of an answer to our first words."""
        reply = p.struct.pack(">QIII", p.REPLY_MAGIC, p.EXTENDED, p.ACK, 0)
        alert = b"\x15\x03\x03\0\x02\x02\x28"
        for what in (reply, b"HTTP/1.0 200 OK\r\n\r\n", b"\x16\x03\x03\xff\xff" + b"z" * 65535, alert,
                     b"\x15\x03\x03\0\x02\x01\0", b"\x14\x03\x03\0\x01\x01" * 300,
                     b"\x17\x03\x03\0\x20" + b"d" * 32):
            with self.subTest(what=what[:20]):
                self.serve(in_place=what)
                self.fails(self.open)
                self.only_tls()
                self.peer.stop()

    def test_cut(self):
        """The server hangs up after any byte of its first words."""
        self.serve(flight=1 << 20)
        self.fails(self.open)
        for flight in [0, 1, 4, 5, 6, *range(7, 1200, 97)]:
            with self.subTest(flight=flight):
                self.peer.flight = flight
                self.fails(self.open, says="TLS")
        self.only_tls()

    def test_no(self):
        """A server that knows no TLS is not spoken to without."""
        self.serve(tls=None)
        self.fails(self.open, number=errno.ENOTSUP, says="does not speak TLS")
        self.only_tls()

    def test_odd_yes(self):
        self.serve()
        for says, *fields in (("neither yes nor no", p.REPLY_MAGIC, p.STARTTLS, p.ACK, 4),
                              ("too long", p.REPLY_MAGIC, p.STARTTLS, p.ACK, 1 << 20),
                              ("neither yes nor no", p.REPLY_MAGIC, p.STARTTLS, p.REP_INFO, 0),
                              ("another one", p.REPLY_MAGIC, p.GO, p.ACK, 0),
                              ("does not speak TLS", p.REPLY_MAGIC, p.STARTTLS, p.ERR_UNSUP, 0),
                              ("not a reply", p.REPLY_MAGIC + 1, p.STARTTLS, p.ACK, 0)):
            self.peer.yes, self.peer.behind = p.struct.pack(">QIII", *fields), b"abcd" if fields[3] == 4 else b""
            self.fails(self.open, says=says)
        self.only_tls()

    def test_strangers(self):
        """Another's certificate, or no certificate of ours that the server takes."""
        self.serve(tls="other")
        self.fails(self.open, number=errno.EACCES, says="ssuer")
        self.only_tls()
        self.peer.stop()
        self.serve()
        for certificates in ("bare", "stranger"):
            self.fails(self.open, certificates=certificates)
        self.only_tls()


class Later(Case):
    def test_bytes(self):
        rng = random.Random(3)
        for options in ({"extended": True}, {}, {"structured": False}, {"structured": False, "go": False}):
            with self.subTest(options=options):
                self.serve(**options)
                volume = self.open()
                model = bytearray(4 * MIB)
                with vdisk.Queue() as queue:
                    for _ in range(8):
                        kept = []
                        for place in rng.sample(range(16), 12):
                            at = place * 262144 + rng.randrange(1000)
                            length = rng.choice((1, 511, 16384, 16385, 250000))
                            if rng.randrange(2):
                                data = rng.randbytes(length)
                                model[at:at + length] = data
                                queue.write(volume, at, data)
                            else:
                                kept.append((at, bytearray(length)))
                                queue.readinto(volume, at, kept[-1][1])
                        self.assertEqual(self.results(queue), [0] * 12)
                        for at, data in kept:
                            self.assertEqual(data, model[at:at + len(data)])
                volume.flush()
                volume.close()
                self.assertEqual(bytes(self.peer.disk.durable), bytes(model))
                self.assertEqual(set(self.peer.in_the_clear), {p.STARTTLS})
                self.peer.stop()

    def test_byte_by_byte(self):
        """Records that come in many pieces, and many records of a byte."""
        self.serve(step=1, size=MIB)
        self.peer.disk.now[:6] = b"slowly"
        volume = self.open()
        self.assertEqual(volume.read(0, 2000), b"slowly" + bytes(1994))

    def test_many_in_flight(self):
        """More on the way than any buffer between holds, both ways."""
        self.serve(size=64 * MIB)
        volume = self.open()
        with vdisk.Queue() as queue:
            for i in range(32):
                queue.write(volume, i * MIB, bytes([i + 1]) * MIB)
                queue.readinto(volume, (i + 32) * MIB, bytearray(MIB))
            self.assertEqual(self.results(queue), [0] * 64)
        for i in range(32):
            self.assertEqual(self.peer.disk.now[i * MIB:(i + 1) * MIB], bytes([i + 1]) * MIB)

    def test_ends(self):
        """An end that TLS tells, and one that it does not: neither is data, and the error says which."""
        for what, says in (("end", "the server has closed it"), ("die", "without an end of TLS")):
            self.serve()
            volume = self.open(delay=0)
            self.peer.hook = lambda r: what
            self.fails(volume.read, 0, 4096, number=errno.EIO, says=says)
            self.peer.hook = None
            self.assertEqual(volume.read(0, 4096), bytes(4096))  # by TLS that is new
            self.assertEqual(set(self.peer.in_the_clear), {p.STARTTLS})
            self.assertEqual(self.peer.in_the_clear.count(p.STARTTLS), 2)
            volume.close()
            self.peer.stop()

    def test_reconnect(self):
        """Requests in flight whenever the connection goes, on one connection and on several; what was written is
        there, and each connection has begun with TLS."""
        for seed in range(4):
            with self.subTest(seed=seed):
                rng = random.Random(seed)
                self.serve(extended=seed % 2 == 1,
                           flags=p.HAS_FLAGS | p.CAN_FLUSH | p.CAN_ZERO | (p.MULTI if seed > 1 else 0))
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
                        kept = []
                        for place in rng.sample(range(64), 16):
                            at, length = place * 65536 + rng.randrange(0, 30000), rng.randrange(1, 30000)
                            if rng.randrange(3):
                                data = rng.randbytes(length)
                                model[at:at + length] = data
                                queue.write(volume, at, data)
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
                self.assertEqual(set(self.peer.in_the_clear), {p.STARTTLS})
                self.assertGreater(len(self.peer.in_the_clear), 4)
                self.assertEqual(self.peer.complaints, [])
                self.peer.stop()

    def test_comes_back_otherwise(self):
        """A server that comes back without TLS, or as somebody else, gets nothing."""
        for tls in (None, "other"):
            self.serve()
            volume = self.open(delay=1)
            volume.write(0, b"secret" * 100)
            volume.flush()
            self.peer.stop()
            self.peer.fresh()
            self.peer.tls = tls and context(tls)
            self.peer.start()
            self.fails(volume.read, 0, 4096, number=errno.EIO)
            self.only_tls()
            self.peer.stop()
            self.peer.tls = context()
            self.peer.start()
            self.assertEqual(volume.read(0, 6), b"secret")
            volume.close()
            self.peer.stop()

    def test_four(self):
        """Four queues on four threads, each with a connection of its own in the end."""
        self.serve(flags=p.HAS_FLAGS | p.CAN_FLUSH | p.MULTI)
        volume = self.open()
        wrong = []

        def work(number):
            rng = random.Random(number)
            with vdisk.Queue() as queue:
                for i in range(60):
                    at = number * MIB + i * 16384
                    data = rng.randbytes(rng.randrange(1, 16384))
                    queue.write(volume, at, data)
                    wrong.extend(r for r in self.results(queue) if r)
                    buffer = bytearray(len(data))
                    queue.readinto(volume, at, buffer)
                    wrong.extend(r for r in self.results(queue) if r)
                    if buffer != data:
                        wrong.append((number, i))
        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(wrong, [])
        self.assertEqual(self.peer.in_the_clear, [p.STARTTLS] * 5)  # and the shared one

    def test_silent(self):
        """Opening ends though the server stops in the middle of TLS, and holds on."""
        hold = threading.Event()
        self.serve()
        self.addCleanup(hold.set)
        self.peer.tls = Slow(hold)
        self.fails(self.open, number=errno.ETIMEDOUT)


class Slow:
    """In place of a context: takes what comes, and never answers."""

    def __init__(self, until):
        self.until = until

    def wrap_socket(self, sock, server_side):
        self.until.wait()
        return sock


def main():
    global FOLDER
    if not shutil.which("openssl"):
        print("skipped: there is no openssl, which makes the keys")
        return 77
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
        FOLDER = pathlib.Path(folder)
        keys.make_keys(FOLDER)
        return 0 if unittest.main(exit=False).result.wasSuccessful() else 1


if __name__ == "__main__":
    sys.exit(main())
