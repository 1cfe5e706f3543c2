# SPDX-License-Identifier: LGPL-2.1-or-later
"""An NBD server for tests of the client: bytes in memory, of which a death takes what was not flushed. It can lie
in any field of what it sends, send one byte at a time, hang up after any byte, and die; and it speaks TLS, or
something else where TLS is to begin."""
import array
import fcntl
import os
import socket
import ssl
import struct
import termios
import threading

OPTION_MAGIC, REPLY_MAGIC = 0x49484156454F5054, 0x3E889045565A9
GO, INFO, EXPORT_NAME, STRUCTURED, SET_META, EXTENDED, STARTTLS = 7, 6, 1, 8, 10, 11, 5
ACK, REP_INFO, REP_META, ERR_UNSUP, ERR_UNKNOWN, ERR_TLS = 1, 3, 4, 0x80000001, 0x80000006, 0x80000005
READ, WRITE, DISC, FLUSH, TRIM, CACHE, ZEROES, STATUS = range(8)
HAS_FLAGS, READ_ONLY, CAN_FLUSH, CAN_FUA, CAN_TRIM, CAN_ZERO, MULTI, CAN_CACHE, FAST = (
    1, 2, 4, 8, 1 << 5, 1 << 6, 1 << 8, 1 << 10, 1 << 11)
FUA, NO_HOLE = 1, 2
EIO, EINVAL, ENOTSUP = 5, 22, 95


class Gone(Exception):
    """The connection has ended."""


class Disk:
    """Bytes that are there, and bytes that will be when they are flushed."""

    def __init__(self, size):
        self.now, self.durable = bytearray(size), bytearray(size)

    def flush(self):
        self.durable[:] = self.now

    def lose(self):
        self.now[:] = self.durable


class Connection:
    def __init__(self, peer, sock):
        self.peer, self.sock = peer, sock
        self.structured = self.extended = self.context = self.lied = self.secure = False

    def get(self, length):
        data = bytearray()
        while len(data) < length:
            try:
                part = self.sock.recv(length - len(data))
            except OSError as e:
                raise Gone from e
            if not part:
                raise Gone
            data += part
        return bytes(data)

    def put(self, label, *fields):
        """A message: (name, format of struct or "", value) for each field, as whole bytes."""
        peer = self.peer
        data = bytearray()
        with peer.lock:
            number = len(peer.messages)
            peer.messages.append((label, [(name, form) for name, form, _ in fields]))
        for at, (_, form, value) in enumerate(fields):
            if peer.lie and peer.lie[:2] == (number, at):
                value = peer.lie[2](value)
                self.lied = True
                self.sock.settimeout(0.3)  # after that nothing more is to be waited for
            data += struct.pack(">" + form, value & (256 ** struct.calcsize(">" + form) - 1)) if form else value
        self.send(bytes(data))

    def send(self, data):
        peer = self.peer
        with peer.lock:
            left = None if peer.cut is None else max(0, peer.cut - peer.sent)
            peer.sent += len(data) if left is None else min(left, len(data))
        part = data if left is None else data[:left]
        try:
            for at in range(0, len(part), peer.step or len(part) or 1):
                self.sock.sendall(part[at:at + (peer.step or len(part))])
                if peer.step:
                    self.wait_until_taken()
        except OSError as e:
            raise Gone from e
        if len(part) < len(data):
            raise Gone

    def wait_until_taken(self):
        left = array.array("i", [1])
        while left[0]:
            fcntl.ioctl(self.sock, termios.TIOCOUTQ, left)

    # ---- handshake

    def reply(self, option, kind, *fields):
        length = sum(struct.calcsize(">" + form) if form else len(value) for _, form, value in fields)
        self.put(f"reply {option} {kind:x}", ("magic", "Q", REPLY_MAGIC), ("option", "I", option),
                 ("type", "I", kind), ("length", "I", length), *fields)

    def shake_hands(self):
        """True: on to requests."""
        peer = self.peer
        self.put("greeting", ("magic", "Q", 0x4E42444D41474943), ("option magic", "Q", OPTION_MAGIC),
                 ("flags", "H", 3))
        self.get(4)
        while True:
            magic, option, length = struct.unpack(">QII", self.get(16))
            assert magic == OPTION_MAGIC
            data = self.get(length)
            if not self.secure:
                with peer.lock:
                    peer.in_the_clear.append(option)
            if option == STARTTLS and peer.tls and not self.secure:
                self.start_tls()
            elif peer.tls and not self.secure:
                self.reply(option, ERR_TLS)
            elif option == EXTENDED and peer.extended:
                self.extended = self.structured = True
                self.reply(option, ACK)
            elif option == STRUCTURED and peer.structured:
                self.structured = True
                self.reply(option, ACK)
            elif option == SET_META and peer.structured:
                self.context = True
                self.reply(option, REP_META, ("id", "I", 42), ("name", "", b"base:allocation"))
                self.reply(option, ACK)
            elif option == GO and peer.go:
                name = data[4:4 + struct.unpack(">I", data[:4])[0]].decode()
                if name != peer.export:
                    self.reply(option, ERR_UNKNOWN, ("text", "", b"there is none"))
                    continue
                self.reply(option, REP_INFO, ("info", "H", 0), ("size", "Q", peer.size),
                           ("flags", "H", peer.flags))
                if peer.blocks:
                    self.reply(option, REP_INFO, ("info", "H", 3), ("minimum", "I", peer.blocks[0]),
                               ("preferred", "I", peer.blocks[1]), ("maximum", "I", peer.blocks[2]))
                self.reply(option, ACK)
                return
            elif option == EXPORT_NAME:
                self.put("export", ("size", "Q", peer.size), ("flags", "H", peer.flags))
                return
            else:
                self.reply(option, ERR_UNSUP)

    def start_tls(self):
        """Says yes, and does it; or something else (`yes`: in place of that; `behind`: at once; `in_place`: in
        place of an answer to the client's first words), or some bytes of the answer alone (`flight`)."""
        peer = self.peer
        self.sock.sendall((peer.yes or struct.pack(">QIII", REPLY_MAGIC, STARTTLS, ACK, 0)) + peer.behind)
        if peer.in_place is not None or peer.flight is not None:
            hello = self.sock.recv(65536)
            answer = peer.in_place if peer.flight is None else self.first_flight(hello)[:peer.flight]
            self.sock.sendall(answer)
            raise Gone
        self.sock = peer.tls.wrap_socket(self.sock, server_side=True)
        self.secure = True

    def first_flight(self, hello):
        got, out = ssl.MemoryBIO(), ssl.MemoryBIO()
        got.write(hello)
        try:
            self.peer.tls.wrap_bio(got, out, server_side=True).do_handshake()
        except ssl.SSLWantReadError:
            pass
        return out.read()

    # ---- requests

    def chunk(self, request, kind, last, *fields):
        length = sum(struct.calcsize(">" + form) if form else len(value) for _, form, value in fields)
        if self.extended:
            self.put(f"chunk {kind:x}", ("magic", "I", 0x6E8A278C), ("flags", "H", int(last)), ("type", "H", kind),
                     ("cookie", "Q", request.cookie), ("offset", "Q", request.offset), ("length", "Q", length),
                     *fields)
        else:
            self.put(f"chunk {kind:x}", ("magic", "I", 0x668E33EF), ("flags", "H", int(last)), ("type", "H", kind),
                     ("cookie", "Q", request.cookie), ("length", "I", length), *fields)

    def answer(self, request, error=0):
        if not self.structured:
            self.put("simple", ("magic", "I", 0x67446698), ("error", "I", error),
                     ("cookie", "Q", request.cookie))
        elif error:
            self.chunk(request, 0x8001, True, ("error", "I", error), ("text length", "H", 4),
                       ("text", "", b"oops"))
        else:
            self.chunk(request, 0, True)

    def answer_read(self, request):
        data = bytes(self.peer.disk.now[request.offset:request.offset + request.length])
        if not self.structured:
            self.put("simple", ("magic", "I", 0x67446698), ("error", "I", 0), ("cookie", "Q", request.cookie),
                     ("data", "", data))
            return
        pieces = self.peer.pieces(request.offset, request.length) if self.peer.pieces else [(0, request.length)]
        for at, length in pieces:
            part, where = data[at:at + length], request.offset + at
            if not any(part):
                self.chunk(request, 2, False, ("hole", "Q", where), ("hole length", "I", length))
            else:
                self.chunk(request, 1, False, ("offset", "Q", where), ("data", "", part))
        self.chunk(request, 0, True)

    def answer_status(self, request):
        disk, block, runs = self.peer.disk.now, 4096, []
        for at in range(request.offset, request.offset + request.length, block):
            end = min(at + block, request.offset + request.length)
            state = 0 if any(disk[at:end]) else 3
            if runs and runs[-1][1] == state:
                runs[-1][0] += end - at
            else:
                runs.append([end - at, state])
        form = "Q" if self.extended else "I"
        fields = [(name, form, value) for run in runs for name, value in zip(("run", "state"), run)]
        head = [("context", "I", 42)] + ([("count", "I", len(runs))] if self.extended else [])
        self.chunk(request, 6 if self.extended else 5, False, *head, *fields)
        self.chunk(request, 0, True)

    def take_request(self):
        form = ">IHHQQQ" if self.extended else ">IHHQQI"
        magic, flags, kind, cookie, offset, length = struct.unpack(form, self.get(struct.calcsize(form)))
        assert magic == (0x21E41C71 if self.extended else 0x25609513), hex(magic)
        return Request(flags, kind, cookie, offset, length, self.get(length) if kind == WRITE else b"")

    def carry_out(self, r):
        peer, disk = self.peer, self.peer.disk
        if r.kind in (READ, WRITE, TRIM, CACHE, ZEROES, STATUS):
            assert r.length > 0 and r.offset + r.length <= peer.size, r
            if peer.blocks:
                assert r.offset % peer.blocks[0] == 0 and r.length % peer.blocks[0] == 0, r
                assert r.kind in (TRIM, STATUS) or r.length <= max(peer.blocks[2], 1), r
        with peer.lock:
            if r.kind == WRITE:
                disk.now[r.offset:r.offset + r.length] = r.data
            elif r.kind in (TRIM, ZEROES):
                disk.now[r.offset:r.offset + r.length] = bytes(r.length)
            if r.kind == FLUSH:
                disk.flush()
            elif r.flags & FUA and r.kind in (WRITE, TRIM, ZEROES):
                disk.durable[r.offset:r.offset + r.length] = disk.now[r.offset:r.offset + r.length]

    def serve(self):
        self.shake_hands()
        while True:
            request = self.take_request()
            if request.kind == DISC:
                return
            with self.peer.lock:
                self.peer.requests.append(request)
            what = self.peer.hook(request) if self.peer.hook else None
            if what == "die":  # nobody is told of it
                raise Gone
            if what == "end":  # TLS is, and properly
                self.sock.unwrap()
                raise Gone
            if isinstance(what, int):
                self.answer(request, what)
                continue
            self.carry_out(request)
            if what == "die after":
                raise Gone
            if request.kind == READ:
                self.answer_read(request)
            elif request.kind == STATUS:
                self.answer_status(request)
            else:
                self.answer(request)

    def run(self):
        try:
            self.serve()
        except Gone:
            pass
        except OSError:
            pass
        except AssertionError as e:
            if not self.lied:
                self.peer.complaints.append(f"the client: {e!r}")
        finally:
            self.sock.close()
            with self.peer.lock:
                self.peer.connections.discard(self)


class Request:
    def __init__(self, flags, kind, cookie, offset, length, data):
        self.flags, self.kind, self.cookie = flags, kind, cookie
        self.offset, self.length, self.data = offset, length, data

    def __repr__(self):
        return f"request {self.kind} of {self.offset}+{self.length}"


class Peer:
    def __init__(self, path, size=1 << 20, **options):
        self.path, self.size, self.export = path, size, ""
        self.disk = Disk(size)
        self.structured, self.extended, self.go, self.blocks = True, False, True, None
        self.flags = HAS_FLAGS | CAN_FLUSH | CAN_FUA | CAN_TRIM | CAN_ZERO | CAN_CACHE | FAST
        self.lie = self.cut = self.step = self.hook = self.pieces = None
        self.tls = self.yes = self.in_place = self.flight = None
        self.kind = Connection
        self.behind = b""
        self.lock = threading.RLock()
        self.complaints, self.connections, self.threads = [], set(), []
        self.sock = None
        self.fresh()
        for name, value in options.items():
            assert hasattr(self, name), name
            setattr(self, name, value)
        self.start()

    def fresh(self):
        """What has been sent and asked is forgotten."""
        with self.lock:
            self.messages, self.requests, self.sent, self.in_the_clear = [], [], 0, []

    def start(self):
        if os.path.exists(self.path):
            os.unlink(self.path)
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.bind(self.path)
        self.sock.listen(64)
        self.threads.append(threading.Thread(target=self.accept, args=(self.sock,), daemon=True))
        self.threads[-1].start()

    def accept(self, sock):
        while True:
            try:
                connection = self.kind(self, sock.accept()[0])
            except OSError:
                return
            with self.lock:
                if self.sock is not sock:
                    connection.sock.close()
                    return
                self.connections.add(connection)
            self.threads.append(threading.Thread(target=connection.run, daemon=True))
            self.threads[-1].start()

    def cut_all(self):
        with self.lock:
            connections = list(self.connections)
        for connection in connections:
            try:
                connection.sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def stop(self):
        """The server ends, its data stays."""
        sock = self.sock
        with self.lock:
            self.sock = None
        try:
            sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        sock.close()
        self.cut_all()
        for thread in self.threads:
            thread.join(30)
            assert not thread.is_alive()
        self.threads.clear()

    def die(self):
        """And what was not flushed goes with it."""
        self.stop()
        self.disk.lose()
