# SPDX-License-Identifier: LGPL-2.1-or-later
"""An NBD client that speaks the protocol by hand, and a server of ours to speak to."""
import contextlib
import os
import pathlib
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time

MAGIC, IHAVEOPT, REPLY = 0x4e42444d41474943, 0x49484156454f5054, 0x3e889045565a9
EXPORT_NAME, ABORT, LIST, PEEK, STARTTLS, INFO, GO, STRUCTURED, LIST_META, SET_META, EXTENDED = range(1, 12)
ACK, SERVER, REP_INFO, META = 1, 2, 3, 4
ERR_UNSUP, ERR_POLICY, ERR_INVALID, ERR_UNKNOWN, ERR_BLOCK_SIZE, ERR_TOO_BIG, ERR_EXT = (
    0x80000000 + n for n in (1, 2, 3, 6, 8, 9, 10))
INFO_EXPORT, INFO_NAME, INFO_DESCRIPTION, INFO_BLOCK_SIZE = range(4)
READ, WRITE, DISC, FLUSH, TRIM, CACHE, ZEROES, STATUS, RESIZE = range(9)
FUA, NO_HOLE, DF, REQ_ONE, FAST_ZERO, PAYLOAD_LEN = (1 << n for n in range(6))
EPERM, EIO, EINVAL, ENOSPC, ENOTSUP = 1, 5, 22, 28, 95
HAS_FLAGS, READ_ONLY, SEND_FLUSH, SEND_FUA, ROTATIONAL, SEND_TRIM, SEND_ZEROES, SEND_DF, MULTI_CONN, SEND_RESIZE, \
    SEND_CACHE, SEND_FAST_ZERO, STATUS_PAYLOAD = (1 << n for n in range(13))
TIMEOUT = 60


class Ended(Exception):
    """The server has closed the connection."""


class Checks:
    """Counts; what fails is printed, and raises nothing."""

    def __init__(self):
        self.count = self.failed = 0

    def same(self, what, got, want):
        self.count += 1
        if got != want:
            self.failed += 1
            print(f"FAILED: {what}: {got!r:.300}, not {want!r:.300}")

    def finish(self):
        print(f"{self.count} checks, {self.failed} failed")
        return 1 if self.failed or not self.count else 0


def string(text):
    data = text.encode()
    return struct.pack(">I", len(data)) + data


def go_data(name="", infos=()):
    return string(name) + struct.pack(f">H{len(infos)}H", len(infos), *infos)


def meta_data(name, *queries):
    return string(name) + struct.pack(">I", len(queries)) + b"".join(string(query) for query in queries)


def option(number, data=b""):
    return struct.pack(">QII", IHAVEOPT, number, len(data)) + data


class Client:
    def __init__(self, path, flags=3):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(path)) # may wait to be listened to
        self.sock.settimeout(TIMEOUT)
        self.extended = self.structured = False
        self.cookie = 0
        if flags is not None:
            self.greeting = struct.unpack(">QQH", self.recv(18))
            self.sock.sendall(struct.pack(">I", flags))

    def close(self):
        self.sock.close()

    def recv(self, length):
        data = bytearray()
        while len(data) < length:
            try:
                more = self.sock.recv(min(length - len(data), 1 << 20))
            except ConnectionResetError:
                more = b""
            if not more:
                raise Ended
            data += more
        return bytes(data)

    def ends(self):
        """Whether the server closes, whatever it sends before."""
        try:
            while True:
                self.recv(1)
        except (Ended, ConnectionError):
            return True
        except socket.timeout:
            return False

    # ---- handshake

    def ask(self, number, data=b""):
        """Send an option; all replies to it: [(type, data)]."""
        self.sock.sendall(option(number, data))
        return self.replies(number)

    def replies(self, number):
        found = []
        while True:
            magic, opt, kind, length = struct.unpack(">QIII", self.recv(20))
            assert magic == REPLY and opt == number, (hex(magic), opt, number)
            found.append((kind, self.recv(length)))
            if kind == ACK or kind >= 0x80000000:
                return found

    def answer(self, number, data=b""):
        """The last reply's type."""
        return self.ask(number, data)[-1][0]

    def negotiate(self, name="", structured=True, extended=False, contexts=()):
        """Up to the transmission; {info: data}."""
        if extended:
            assert self.answer(EXTENDED) == ACK
            self.extended = self.structured = True
        elif structured:
            assert self.answer(STRUCTURED) == ACK
            self.structured = True
        if contexts:
            assert self.answer(SET_META, meta_data(name, *contexts)) == ACK
        replies = self.ask(GO, go_data(name, (INFO_NAME, INFO_DESCRIPTION, INFO_BLOCK_SIZE)))
        assert replies[-1][0] == ACK, replies
        infos = {struct.unpack(">H", data[:2])[0]: data[2:] for kind, data in replies[:-1]}
        self.size, self.flags = struct.unpack(">QH", infos[INFO_EXPORT])
        return infos

    # ---- transmission

    def request(self, command, offset=0, length=0, flags=0, data=b"", cookie=None):
        """The bytes of one."""
        self.cookie += 1
        if cookie is None:
            cookie = self.cookie
        if self.extended:
            if data:
                flags |= PAYLOAD_LEN
            return struct.pack(">IHHQQQ", 0x21e41c71, flags, command, cookie, offset, length) + data
        return struct.pack(">IHHQQI", 0x25609513, flags, command, cookie, offset, length) + data

    def send(self, *args, **kwargs):
        self.sock.sendall(self.request(*args, **kwargs))
        return self.cookie

    def chunk(self, read_length=0):
        """One chunk or simple reply: (cookie, done, type, payload); of a simple one type is None, payload (error,
        data)."""
        magic = struct.unpack(">I", self.recv(4))[0]
        if magic == 0x67446698:
            error, cookie = struct.unpack(">IQ", self.recv(12))
            return cookie, True, None, (error, self.recv(0 if error else read_length))
        if magic == 0x668e33ef:
            assert self.structured and not self.extended
            flags, kind, cookie, length = struct.unpack(">HHQI", self.recv(16))
        else:
            assert magic == 0x6e8a278c and self.extended, hex(magic)
            flags, kind, cookie, _, length = struct.unpack(">HHQQQ", self.recv(28))
        return cookie, bool(flags & 1), kind, self.recv(length)

    def reply(self, read_length=0):
        """All of the next reply: (cookie, error, data or [(context, [(length, flags)])])."""
        chunks = []
        while True:
            cookie, done, kind, payload = self.chunk(read_length)
            if kind is None:
                return cookie, *payload
            chunks.append((kind, payload))
            if done:
                break
        if chunks[0][0] & 0x8000:
            error, length = struct.unpack(">IH", chunks[0][1][:6])
            assert len(chunks[0][1]) == 6 + length
            return cookie, error, b""
        if chunks[0][0] in (5, 6):
            return cookie, 0, [self.descriptors(kind, payload) for kind, payload in chunks]
        if chunks[0][0] == 1:
            assert len(chunks) == 1
            return cookie, 0, chunks[0][1][8:]
        assert chunks == [(0, b"")], chunks
        return cookie, 0, b""

    def descriptors(self, kind, payload):
        assert (kind == 6) == self.extended
        if kind == 6:
            context, count = struct.unpack(">II", payload[:8])
            numbers = struct.unpack(f">{2 * count}Q", payload[8:])
        else:
            context = struct.unpack(">I", payload[:4])[0]
            numbers = struct.unpack(f">{(len(payload) - 4) // 4}I", payload[4:])
        return context, list(zip(numbers[::2], numbers[1::2]))

    def do(self, command, offset=0, length=0, flags=0, data=b""):
        """One request and its reply: (error, data)."""
        cookie = self.send(command, offset, length, flags, data)
        got, error, result = self.reply(length if command == READ else 0)
        assert got == cookie, (got, cookie)
        return error, result

    def write(self, offset, data, flags=0):
        return self.do(WRITE, offset, len(data), flags, data)[0]

    def read(self, offset, length, flags=0):
        return self.do(READ, offset, length, flags)

    def leave(self):
        self.send(DISC)
        self.ends()
        self.close()


class Server:
    """vdisk-io nbd in a folder of its own, on a unix socket."""

    def __init__(self, tool, folder, *options, names=("disk",)):
        self.folder, self.path = pathlib.Path(folder), pathlib.Path(folder) / "sock"
        self.path.unlink(missing_ok=True)
        self.log = open(self.folder / "log", "w+")
        self.process = subprocess.Popen([tool, "nbd", "-v", "-t", "-e", "0", "-k", self.path, *options, *names],
                                        cwd=folder, stdout=self.log, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + TIMEOUT
        while True:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as sock:
                sock.connect(str(self.path))
                return
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("no server: " + self.words())
            time.sleep(0.02)

    def words(self):
        self.log.seek(0)
        return self.log.read()

    def sockets(self):
        """How many it has open."""
        path, found = f"/proc/{self.process.pid}/fd", 0
        for name in os.listdir(path):
            with contextlib.suppress(OSError):
                found += os.readlink(f"{path}/{name}").startswith("socket:")
        return found

    def memory(self):
        """KiB that are resident."""
        text = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(text.partition("VmRSS:")[2].split()[0])

    def stop(self, sig=signal.SIGTERM):
        """The exit code."""
        if self.process.poll() is None:
            self.process.send_signal(sig)
        try:
            return self.process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return "does not end"


@contextlib.contextmanager
def folder():
    path = tempfile.mkdtemp(prefix="vdisk-nbd.")
    try:
        yield pathlib.Path(path)
    finally:
        if not os.environ.get("VDISK_TEST_KEEP"):
            shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def serving(tool, where, *options, names=("disk",), checks=None):
    server = Server(tool, where, *options, names=names)
    try:
        yield server
    finally:
        code = server.stop()
        if checks:
            checks.same("exit code of the server", code, 0)
            if code:
                print(server.words())


def create(tool, where, name, *options):
    subprocess.run([tool, "create", *options[:-1], name, options[-1]], cwd=where, check=True,
                   stdout=subprocess.DEVNULL)
