#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The NBD server with clients that send in pieces, leave at any point, do not read, say nothing, are too many.

usage: test_nbd_cut.py VDISK_IO
"""
import array
import fcntl
import pathlib
import struct
import sys
import termios
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))
sys.dont_write_bytecode = True
from client import *  # noqa: E402,F403

SIZE = 64 << 20
FORMS = [{"structured": False}, {}, {"extended": True}]
BOTH = ("base:allocation", "qemu:allocation-depth")
check = Checks()


def until(what, condition):
    """Wait for it: a minute is for machines that are busy."""
    deadline = time.monotonic() + TIMEOUT
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    check.same(what, bool(condition()), True)


def taken(sock):
    """Whether the other end has read all that was sent."""
    left = array.array("i", [0])
    fcntl.ioctl(sock, termios.TIOCOUTQ, left)
    return left[0] == 0


def script(form):
    """All bytes that a client sends, where none of them depends on an answer."""
    maker = Client.__new__(Client)
    maker.extended, maker.cookie = bool(form.get("extended")), 0
    data = struct.pack(">I", 3) + option(STARTTLS) + option(LIST) + option(0x1234, b"data")
    if maker.extended:
        data += option(EXTENDED)
    elif form.get("structured", True):
        data += option(STRUCTURED) + option(SET_META, meta_data("", *BOTH))
    data += option(INFO, go_data("none")) + option(GO, go_data("", (INFO_BLOCK_SIZE, INFO_NAME)))
    handshake = len(data)
    data += maker.request(WRITE, 4096, 40, 0, bytes(range(40))) + maker.request(READ, 4090, 60)
    data += maker.request(WRITE, 1 << 60, 30, 0, bytes(30)) + maker.request(ZEROES, 4100, 10)
    data += maker.request(FLUSH) + maker.request(TRIM, 0, 512, 0x80) + maker.request(STATUS, 0, 65536)
    data += maker.request(READ, 4096, 40) + maker.request(DISC)
    return data, handshake


def answers(path, pieces):
    """What the server says, as lines in the order of cookies: requests may be answered in any."""
    client = Client(path, None)
    for piece in pieces:
        if not piece:
            continue
        client.sock.sendall(piece)
        deadline = time.monotonic() + TIMEOUT
        while not taken(client.sock) and time.monotonic() < deadline:
            pass
    data = bytearray()
    while True:
        more = client.sock.recv(1 << 20)
        if not more:
            break
        data += more
    client.close()
    return bytes(data)


def test_split(path):
    for form in FORMS:
        data, handshake = script(form)
        # Sent one request at a time, so that the order of the replies is known; then cut anywhere.
        want = len(answers(path, [data]))
        check.same(f"an answer {form}", want > 400, True)
        for at in range(len(data)):
            got = len(answers(path, [data[:at], data[at:]]))
            if got != want:
                check.same(f"split at {at} of {len(data)}, handshake {handshake}, {form}", got, want)
        check.same("bytes one by one", len(answers(path, [data[i:i + 1] for i in range(len(data))])), want)


def test_content_of_pieces(path):
    """A payload whose pieces end anywhere is what was sent."""
    client = Client(path)
    client.negotiate()
    content = bytes(i * 7 % 251 for i in range(300000))
    data = b"".join(client.request(WRITE, k * 300000, 300000, 0, content[k:] + content[:k]) for k in range(10))
    for length in (1000, 4096, 65536, 262144, 299999, 300027, 300029):
        client.sock.sendall(client.request(ZEROES, 0, 3000000))
        check.same("zeroed", client.reply()[1], 0)
        for at in range(0, len(data), length):
            client.sock.sendall(data[at:at + length])
        check.same(f"written in pieces of {length}", [client.reply()[1] for _ in range(10)], [0] * 10)
        for k in range(10):
            check.same(f"content of {k}", client.read(k * 300000, 300000), (0, content[k:] + content[:k]))
    client.leave()


def test_leave_anywhere(server):
    for form in FORMS:
        data, _ = script(form)
        for at in range(len(data) + 1):
            client = Client(server.path, None)
            client.sock.sendall(data[:at])
            client.close()
    # With requests in flight, and replies that nobody takes.
    for n in (1, 30, 128, 500):
        for reads in (True, False):
            client = Client(server.path)
            client.negotiate()
            client.sock.settimeout(1)
            with contextlib.suppress(socket.timeout):
                for k in range(n):
                    client.sock.sendall(client.request(READ, k << 16, 1 << 20) if reads else
                                        client.request(WRITE, k << 16, 1 << 20, 0, bytes(1 << 20)))
            client.close()
    client = Client(server.path)
    client.negotiate()
    client.sock.sendall(client.request(WRITE, 0, 32 << 20) + bytes(1 << 20))
    client.close()
    until("all are closed", lambda: server.sockets() == 1)
    client = Client(server.path)
    client.negotiate()
    check.same("it serves", client.read(0, 512)[0], 0)
    client.leave()


def test_not_reading(server):
    """Who does not read holds up itself alone, takes no more than it may, and goes on when it reads."""
    client, other = Client(server.path), Client(server.path)
    client.negotiate()
    other.negotiate()
    other.write(0, bytes(range(256)) * 4096)
    before = server.memory()
    client.sock.settimeout(1)
    sent = 0
    with contextlib.suppress(socket.timeout):
        for _ in range(5000):
            client.sock.sendall(client.request(READ, 0, 1 << 20))
            sent += 1
    client.sock.settimeout(TIMEOUT)
    check.same("others are served", [other.read(k << 12, 4096)[0] for k in range(100)], [0] * 100)
    check.same("memory", server.memory() - before < 96 << 10, True)
    for _ in range(sent):
        got = client.reply()
        if got[1:] != (0, bytes(range(256)) * 4096):
            check.same("reply", got[1:], "the content")
            break
    check.same("that was all", client.read(0, 256), (0, bytes(range(256))))
    client.leave()
    other.leave()


def test_silent(tool, where):
    with serving(tool, where, "--handshake-timeout", "1", "--idle-timeout", "1", checks=check) as server:
        silent, begun, long = Client(server.path, None), Client(server.path), Client(server.path)
        begun.sock.sendall(option(GO, go_data())[:-1])
        long.sock.sendall(struct.pack(">QII", IHAVEOPT, LIST, 1 << 20))
        idle = Client(server.path)
        idle.negotiate()
        for what, client in (("silent", silent), ("half an option", begun), ("long option", long), ("idle", idle)):
            check.same(f"{what}: cut off", client.ends(), True)
            client.close()
        client = Client(server.path)
        client.negotiate()
        check.same("it serves", client.read(0, 512)[0], 0)
        client.leave()


def test_shared(tool, where):
    server = Server(tool, where, "-e", "2")
    clients = [Client(server.path) for _ in range(2)]
    for client in clients:
        client.negotiate()
    third = socket.socket(socket.AF_UNIX)
    third.connect(str(server.path))
    third.settimeout(0.5)
    try:
        check.same("a third waits", third.recv(1), "nothing yet")
    except socket.timeout:
        check.same("a third waits", True, True)
    clients[0].leave()
    third.settimeout(TIMEOUT)
    check.same("until one leaves", third.recv(8), b"NBDMAGIC")
    third.close()
    clients[1].leave()
    check.same("exit code", server.stop(), 0)


def test_stop(tool, where):
    """What is in flight is finished; what was answered is there."""
    with serving(tool, where, checks=check) as server:
        client, handshake = Client(server.path), Client(server.path)
        client.negotiate()
        for k in range(100):
            client.sock.sendall(client.request(WRITE, k << 16, 65536, 0, bytes([k + 1]) * 65536))
        until("all is read", lambda: taken(client.sock))
        server.process.send_signal(signal.SIGTERM)
        answered = []
        with contextlib.suppress(Ended):
            while True:
                answered.append(client.reply()[:2])
        check.same("all are answered", sorted(answered), [(k + 1, 0) for k in range(100)])
        check.same("a handshake ends", handshake.ends(), True)
        check.same("exit code", server.stop(), 0)
    with serving(tool, where, checks=check) as server:
        client = Client(server.path)
        client.negotiate()
        for k in range(100):
            check.same("it is there", client.read(k << 16, 65536) == (0, bytes([k + 1]) * 65536), True)
        client.leave()


def main():
    tool = str(pathlib.Path(sys.argv[1]).resolve())
    with folder() as where:
        create(tool, where, "disk", "-f", "qcow2", str(SIZE))
        with serving(tool, where, checks=check) as server:
            test_split(server.path)
            test_content_of_pieces(server.path)
            test_leave_anywhere(server)
            test_not_reading(server)
        test_silent(tool, where)
        test_shared(tool, where)
        test_stop(tool, where)
    return check.finish()


if __name__ == "__main__":
    sys.exit(main())
