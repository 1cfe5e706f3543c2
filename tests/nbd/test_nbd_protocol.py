#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The NBD server by hand: each option, command, flag and error, in all forms of replies.

usage: test_nbd_protocol.py VDISK_IO
"""
import pathlib
import struct
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
sys.dont_write_bytecode = True
from client import *  # noqa: E402,F403

SIZE = 16 << 20
FORMS = [{"structured": False}, {}, {"extended": True}]
BOTH = ("base:allocation", "qemu:allocation-depth")
check = Checks()


def test_greeting(path):
    client = Client(path)
    check.same("greeting", client.greeting, (MAGIC, IHAVEOPT, 3))
    check.same("abort", client.ask(ABORT), [(ACK, b"")])
    check.same("end after abort", client.ends(), True)
    for flags in (4, 0xffffffff):
        check.same(f"client flags {flags:x}", Client(path, flags).ends(), True)
    client = Client(path)
    client.sock.sendall(b"IHAVEOPX" + bytes(8))
    check.same("another magic", client.ends(), True)


def test_export_name(path):
    for flags, zeroes in ((3, 0), (1, 124), (0, 124), (2, 0)):
        client = Client(path, flags)
        client.sock.sendall(option(EXPORT_NAME, b"second"))
        size, _ = struct.unpack(">QH", client.recv(10))
        check.same("size by EXPORT_NAME", size, SIZE // 2)
        check.same("zeroes", client.recv(zeroes), bytes(zeroes))
        check.same("write", client.write(4096, b"x" * 512), 0)
        check.same("read", client.read(4096, 512), (0, b"x" * 512))
        client.leave()
    client = Client(path)
    client.sock.sendall(option(EXPORT_NAME, b"no such"))
    check.same("end after another name", client.ends(), True)
    client = Client(path)
    client.sock.sendall(option(EXPORT_NAME, b"x" * 5000))
    check.same("end after a long name", client.ends(), True)
    client = Client(path)
    check.same("extended", client.answer(EXTENDED), ACK)
    client.sock.sendall(option(EXPORT_NAME, b""))
    check.same("EXPORT_NAME with extended headers", client.ends(), True)


def test_options(path):
    client = Client(path)
    check.same("unknown option", client.answer(0x7fffffff, b"abc"), ERR_UNSUP)
    check.same("PEEK", client.answer(PEEK), ERR_UNSUP)
    check.same("STARTTLS", client.answer(STARTTLS), ERR_POLICY)
    check.same("STARTTLS with data", client.answer(STARTTLS, b"x"), ERR_INVALID)
    names = [(struct.unpack(">I", data[:4])[0], data[4:]) for kind, data in client.ask(LIST)[:-1]]
    check.same("LIST", names, [(0, b"words"), (6, b"secondwords")])
    check.same("LIST with data", client.answer(LIST, b"x"), ERR_INVALID)
    check.same("long data", client.answer(INFO, bytes(70000)), ERR_TOO_BIG)
    check.same("INFO", client.answer(INFO, go_data("second")), ACK)
    check.same("INFO of nothing", client.answer(INFO, go_data("third")), ERR_UNKNOWN)
    check.same("GO to nothing", client.answer(GO, go_data("third")), ERR_UNKNOWN)
    for what, data in {
        "nothing": b"", "short": b"\0\0\0", "name behind the end": b"\0\0\0\x09abc\0\0",
        "name of 4 GiB": b"\xff\xff\xff\xff" + bytes(10), "more infos than said": go_data() + b"\0\1",
        "fewer": go_data()[:-1], "NUL in the name": go_data("a\0b"), "long name": go_data("x" * 4097),
    }.items():
        for number in (INFO, GO):
            check.same(f"malformed {what}", client.answer(number, data), ERR_INVALID)
    infos = client.ask(INFO, go_data("", (INFO_NAME, INFO_DESCRIPTION, INFO_BLOCK_SIZE, 0x4444, INFO_NAME)))
    found = sorted((struct.unpack(">H", data[:2])[0], data[2:]) for kind, data in infos[:-1])
    check.same("infos", [kind for kind, data in found], [0, 1, 2, 3])
    check.same("name", found[1][1], b"")
    check.same("description", found[2][1], b"words")
    check.same("block size", struct.unpack(">3I", found[3][1]), (1, 4096, 32 << 20))
    check.same("abort", client.answer(ABORT), ACK)
    client = Client(path)
    client.sock.sendall(struct.pack(">QII", IHAVEOPT, GO, 33 << 20 | 1))
    check.same("data of 33 MiB", client.ends(), True)


def test_forms(path):
    client = Client(path)
    check.same("structured with data", client.answer(STRUCTURED, b"x"), ERR_INVALID)
    check.same("contexts before", client.answer(LIST_META, meta_data("")), ERR_INVALID)
    check.same("structured", client.answer(STRUCTURED), ACK)
    check.same("structured again", client.answer(STRUCTURED), ERR_INVALID)
    check.same("extended with data", client.answer(EXTENDED, b"x"), ERR_INVALID)
    check.same("extended", client.answer(EXTENDED), ACK)
    check.same("extended again", client.answer(EXTENDED), ERR_INVALID)
    check.same("structured after", client.answer(STRUCTURED), ERR_EXT)
    client.close()


def names(replies):
    return [(struct.unpack(">I", data[:4])[0], data[4:].decode()) for kind, data in replies if kind == META]


def test_contexts(path):
    client = Client(path)
    client.answer(STRUCTURED)
    every = [(0, BOTH[0]), (1, BOTH[1])]
    for queries, want in (((), every), (("base:",), every[:1]), (("qemu:",), every[1:]), (BOTH[:1], every[:1]),
                          (("x:y", "base:allocation", "base:allocation"), every[:1]), (("bas",), []), (("",), []),
                          (("qemu:dirty-bitmap:b",), []), (("base", "base:allocatio", "base:allocation2"), [])):
        replies = client.ask(LIST_META, meta_data("", *queries))
        check.same(f"list {queries}", (names(replies), replies[-1]), (want, (ACK, b"")))
    for queries, want in (((), []), (("base:",), []), (BOTH, every), (BOTH[1:], every[1:])):
        check.same(f"set {queries}", names(client.ask(SET_META, meta_data("", *queries))), want)
    check.same("of nothing", client.answer(SET_META, meta_data("third", *BOTH)), ERR_UNKNOWN)
    for data in (b"", meta_data("")[:-1], meta_data("", "a") + b"x", string("") + b"\xff\xff\xff\xff",
                 meta_data("", "x" * 4097)):
        check.same("malformed", client.answer(LIST_META, data), ERR_INVALID)
        check.same("malformed", client.answer(SET_META, data), ERR_INVALID)
    client.negotiate(structured=False)
    client.structured = True
    check.same("after a failure none is set", client.do(STATUS, 0, 4096), (EINVAL, b""))
    client.leave()
    client = Client(path)
    client.answer(STRUCTURED)
    client.answer(SET_META, meta_data("second", *BOTH))
    client.negotiate(structured=False)
    client.structured = True
    check.same("contexts of another export", client.do(STATUS, 0, 4096), (EINVAL, b""))
    client.leave()


def test_flags(path, read_only):
    for form in FORMS:
        client = Client(path)
        client.negotiate(**form)
        want = HAS_FLAGS | SEND_FLUSH | SEND_FUA | SEND_CACHE | MULTI_CONN
        want |= READ_ONLY if read_only else SEND_TRIM | SEND_ZEROES | SEND_FAST_ZERO
        want |= SEND_DF if client.structured else 0
        check.same(f"flags {form}", client.flags, want)
        client.leave()


def test_content(client):
    """Each command that changes something, and what is there afterwards."""
    model = bytearray(client.size)
    check.same("zeroes all", client.do(ZEROES, 0, client.size)[0], 0)

    def put(offset, data, flags=0):
        check.same(f"write {len(data)} at {offset}", client.write(offset, data, flags), 0)
        model[offset:offset + len(data)] = data

    def same(offset, length):
        error, data = client.read(offset, length, DF if client.structured else 0)
        check.same(f"read {length} at {offset}", (error, data == model[offset:offset + length]), (0, True))

    for k, (offset, length) in enumerate(((0, 4096), (1, 1), (4095, 2), (100000, 70000), (client.size - 1, 1),
                                          (client.size - 5000, 5000), (1 << 20, 3 << 20), (65536, 65536))):
        put(offset, bytes((k * 7 + i) % 251 for i in range(length)), FUA if k % 2 else 0)
        same(max(offset - 10, 0), min(length + 20, client.size - max(offset - 10, 0)))
    check.same("flush", client.do(FLUSH)[0], 0)
    for k, flags in enumerate((0, FUA, NO_HOLE, NO_HOLE | FUA)):
        offset, length = 200000 + k * 65536, 5000 + k * 60000
        check.same(f"zeroes {flags}", client.do(ZEROES, offset, length, flags)[0], 0)
        model[offset:offset + length] = bytes(length)
        same(offset - 100, length + 200)
    check.same("fast zeroes", client.do(ZEROES, 2 << 20, 65536, FAST_ZERO)[0] in (0, ENOTSUP), True)
    check.same("zeroes again", client.do(ZEROES, 2 << 20, 65536)[0], 0)
    model[2 << 20:(2 << 20) + 65536] = bytes(65536)
    check.same("trim", client.do(TRIM, 3 << 20, 65536, FUA)[0], 0)
    error, data = client.read(3 << 20, 65536)
    check.same("trimmed", error == 0 and all(data[i] in (0, model[(3 << 20) + i]) for i in range(65536)), True)
    model[3 << 20:(3 << 20) + 65536] = data
    check.same("cache", client.do(CACHE, 0, client.size)[0], 0)
    check.same("cache with FUA", client.do(CACHE, 0, 512, FUA)[0], 0)
    check.same("nothing", [client.do(what, 5, 0) for what in (READ, WRITE, TRIM, CACHE, ZEROES)], [(0, b"")] * 5)
    check.same("nothing at the end", client.do(READ, client.size, 0), (0, b""))
    same(0, client.size)


def test_errors(client):
    size, most = client.size, (1 << 64) - 1
    before = client.read(0, 4096)[1]
    for command, error in ((READ, EINVAL), (TRIM, EINVAL), (CACHE, EINVAL), (ZEROES, ENOSPC), (WRITE, ENOSPC)):
        for offset, length in ((size, 1), (size - 1, 2), (size + 512, 512), (most, 1), (most - 511, 1024),
                               (most, 512)):
            data = bytes(length) if command == WRITE else b""
            got = client.do(command, offset, length, 0, data)[0]
            check.same(f"{command} past the end: {offset}+{length}", got, error)
    check.same("read of 32 MiB and 1", client.do(READ, 0, (32 << 20) + 1)[0], EINVAL)
    for command, length in ((READ, 512), (FLUSH, 0), (TRIM, 512), (CACHE, 512), (ZEROES, 512), (WRITE, 512)):
        allowed = FUA | {ZEROES: NO_HOLE | FAST_ZERO, READ: DF if client.structured else 0,
                         WRITE: PAYLOAD_LEN if client.extended else 0}.get(command, 0)
        for bit in range(16):
            if not allowed & 1 << bit and not (client.extended and 1 << bit == PAYLOAD_LEN):
                data = b"y" * length if command == WRITE else b""
                check.same(f"{command} with flag {bit}", client.do(command, 0, length, 1 << bit, data)[0], EINVAL)
    for command in (RESIZE, 9, 0x7fff, 0xffff):
        check.same(f"command {command}", client.do(command, 0, 512)[0], EINVAL)
    check.same("flush with a length", client.do(FLUSH, 0, 1)[0], EINVAL)
    check.same("flush with an offset", client.do(FLUSH, 1, 0)[0], EINVAL)
    check.same("status without a context", client.do(STATUS, 0, 512)[0], EINVAL)
    check.same("what was refused has changed nothing", client.read(0, 4096), (0, before))
    if client.extended:
        check.same("payload of a read", client.do(READ, 0, 100, 0, b"z" * 100)[0], EINVAL)
        check.same("payload of a trim", client.do(TRIM, 0, 70000, 0, b"z" * 70000)[0], EINVAL)
        check.same("long zeroes", client.do(ZEROES, 0, 1 << 40)[0], ENOSPC)
    check.same("it goes on", client.read(0, 4096), (0, before))


def test_fatal(path, form):
    client = Client(path)
    client.negotiate(**form)
    length = (32 << 20) + 1
    cookie = client.send(WRITE, 0, length)
    check.same("write of 32 MiB and 1", client.reply(), (cookie, EINVAL, b""))
    check.same("is the end", client.ends(), True)
    for data in (b"x" * 32, struct.pack(">IHHQQQ", 0x25609514, 0, 0, 1, 0, 512)):
        client = Client(path)
        client.negotiate(**form)
        client.sock.sendall(data)
        check.same("another magic is the end", client.ends(), True)
    client = Client(path)
    client.negotiate(**form)
    other = Client(path)
    other.extended = not client.extended
    client.sock.sendall(other.request(READ, 0, 512) + bytes(64))
    check.same("a header of the other form is the end", client.ends(), True)
    other.close()


def test_status(path, form):
    client = Client(path)
    client.negotiate(contexts=BOTH, **form)
    check.same("flag for payloads", bool(client.flags & STATUS_PAYLOAD), client.extended)
    client.do(ZEROES, 0, client.size)
    client.do(TRIM, 0, client.size)
    check.same("write", client.write(1 << 20, b"d" * 65536), 0)
    check.same("zeroes that are kept", client.do(ZEROES, 2 << 20, 65536, NO_HOLE)[0], 0)
    error, found = client.do(STATUS, 0, client.size)
    check.same("status", (error, [context for context, _ in found]), (0, [0, 1]))
    base, depth = found[0][1], found[1][1]
    check.same("lengths", [sum(length for length, _ in each) for each in (base, depth)], [client.size] * 2)
    check.same("first", base[:2], [(1 << 20, 3), (65536, 0)])
    check.same("depth of data", [flags for start, flags in starts(depth) if start == 1 << 20], [1])
    check.same("neighbours differ", all(a[1] != b[1] for each in (base, depth) for a, b in zip(each, each[1:])),
               True)
    error, found = client.do(STATUS, 4096, client.size - 4096, REQ_ONE)
    check.same("one", [(context, len(each), each[0][0] <= client.size - 4096) for context, each in found],
               [(0, 1, True), (1, 1, True)])
    check.same("of nothing", client.do(STATUS, 0, 0)[0], EINVAL)
    check.same("past the end", client.do(STATUS, client.size, 512)[0], EINVAL)
    if client.extended:
        payload(client)
    client.leave()


def starts(extents):
    at = 0
    for length, flags in extents:
        yield at, flags
        at += length


def payload(client):
    def ask(effect, *ids, more=b""):
        data = struct.pack(f">Q{len(ids)}I", effect, *ids) + more
        return client.do(STATUS, 0, len(data), 0, data)

    for ids in ((0,), (1,), (1, 0)):
        error, found = ask(65536, *ids)
        check.same(f"payload {ids}", (error, [context for context, _ in found]), (0, sorted(ids)))
    for ids in ((), (2,), (0, 0), (0, 1, 0), tuple(range(100)), (0xffffffff,)):
        check.same(f"payload {ids}", ask(65536, *ids)[0], EINVAL)
    check.same("half an id", ask(65536, 0, more=b"\0")[0], EINVAL)
    check.same("too short", client.do(STATUS, 0, 4, 0, bytes(4))[0], EINVAL)
    check.same("of nothing", ask(0, 0)[0], EINVAL)
    check.same("past the end", ask(1 << 62, 0)[0], EINVAL)
    check.same("it goes on", client.read(0, 512)[0], 0)


def test_read_only(path):
    client = Client(path)
    client.negotiate()
    for command in (WRITE, TRIM, ZEROES):
        data = b"w" * 512 if command == WRITE else b""
        check.same(f"{command} to read-only", client.do(command, 0, 512, 0, data)[0], EPERM)
    check.same("flush", client.do(FLUSH)[0], 0)
    check.same("read", client.read(0, 4096), (0, bytes(4096)))
    client.leave()


def test_order(path):
    """Many in flight: each is answered once, and what a disconnect follows, too."""
    client = Client(path)
    client.negotiate(contexts=BOTH)
    requests = [client.request(*what, cookie=k) for k, what in enumerate(
        [(READ, k * 4096, 4096) for k in range(200)] + [(FLUSH,), (STATUS, 0, 65536)] * 20)]
    client.sock.sendall(b"".join(requests) + client.request(DISC) + b"what is behind it is not read")
    seen = [client.reply()[:2] for _ in requests]
    check.same("all answered", sorted(seen), [(k, 0) for k in range(len(requests))])
    check.same("then the end", client.ends(), True)


def damage(path, clusters):
    """These clusters of a volume of 64 KiB ones have no place that can be."""
    with open(path, "r+b") as disk:
        disk.seek(40)
        disk.seek(struct.unpack(">Q", disk.read(8))[0])
        table = struct.unpack(">Q", disk.read(8))[0] & (1 << 56) - 512
        for cluster in clusters:
            disk.seek(table + cluster * 8)
            disk.write(struct.pack(">Q", 1 << 63 | 512))


def test_large(path):
    """Large reads, some of which meet damage, at their beginning or later: an error, and once."""
    client = Client(path)
    client.negotiate()
    reads = [(65536 * first, 65536 * n) for first in range(0, 60, 3) for n in (1, 4, 5, 17, 40)]
    bad = [any(at <= 65536 * k < at + len for k in (9, 30, 31)) for at, len in reads]
    client.sock.sendall(b"".join(client.request(READ, *what, cookie=k) for k, what in enumerate(reads)))
    seen = sorted(client.reply()[:2] for _ in reads)
    check.same("large reads", seen, [(k, 5 if bad[k] else 0) for k in range(len(reads))])
    check.same("a read after them", client.read(0, 4096), (0, b"x" * 4096))
    client.leave()


def main():
    tool = str(pathlib.Path(sys.argv[1]).resolve())
    with folder() as where:
        create(tool, where, "disk", "-f", "qcow2", str(SIZE))
        create(tool, where, "other", "-f", "raw", str(SIZE // 2))
        with serving(tool, where, "-x", "", "-x", "second", "-D", "words", names=("disk", "other"),
                     checks=check) as s:
            test_greeting(s.path)
            test_export_name(s.path)
            test_options(s.path)
            test_forms(s.path)
            test_contexts(s.path)
            test_flags(s.path, False)
            for form in FORMS:
                for name in ("", "second"):
                    client = Client(s.path)
                    client.negotiate(name, **form)
                    test_content(client)
                    test_errors(client)
                    client.leave()
                test_fatal(s.path, form)
            for form in FORMS[1:]:
                test_status(s.path, form)
            test_order(s.path)
        create(tool, where, "damaged", "-f", "qcow2", str(SIZE))
        with serving(tool, where, names=("damaged",), checks=check) as s:
            client = Client(s.path)
            client.negotiate()
            check.same("write", client.write(0, b"x" * SIZE), 0)
            client.leave()
        damage(where / "damaged", (9, 30, 31))
        with serving(tool, where, "-r", names=("damaged",), checks=check) as s:
            test_large(s.path)
        create(tool, where, "fresh", "-f", "raw", str(SIZE))
        with serving(tool, where, "-r", names=("fresh",), checks=check) as s:
            test_flags(s.path, True)
            test_read_only(s.path)
    return check.finish()


if __name__ == "__main__":
    sys.exit(main())
