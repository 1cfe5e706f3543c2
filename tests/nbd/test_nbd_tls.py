#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The NBD server in TLS: who is let in, what is refused before, and that bytes go through; by hand, and by QEMU.

usage: test_nbd_tls.py VDISK_IO
"""
import os
import pathlib
import random
import shutil
import socket
import ssl
import struct
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
sys.dont_write_bytecode = True
from client import *  # noqa: E402,F403
from keys import make_keys, sh  # noqa: E402

SIZE = 64 << 20
ERR_TLS = 0x80000005
check = Checks()


# ---- a client

class Secure(Client):
    def __init__(self, path, keys=None, start=True):
        super().__init__(path)
        if start:
            assert self.answer(STARTTLS) == ACK
            self.wrap(keys)

    def wrap(self, keys):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(keys.parent / "keys" / "ca-cert.pem")
        if (keys / "client-cert.pem").exists():
            context.load_cert_chain(keys / "client-cert.pem", keys / "client-key.pem")
        self.sock = context.wrap_socket(self.sock, server_hostname="localhost")

    def recv(self, length):
        try:
            return super().recv(length)
        except ssl.SSLError as error:
            raise Ended from error


def is_refused(path, keys):
    """With TLS 1.3 a client hears of it when it asks for something."""
    try:
        client = Secure(path, keys)
        client.ask(LIST)
        return False
    except (Ended, OSError):
        return True


# ---- cases

def test_before(path, keys):
    client = Secure(path, start=False)
    for number, data in ((LIST, b""), (INFO, go_data()), (GO, go_data()), (STRUCTURED, b""), (EXTENDED, b""),
                         (LIST_META, meta_data("")), (SET_META, meta_data("", "base:allocation")), (99, b"x")):
        check.same(f"option {number} before TLS", client.answer(number, data), ERR_TLS)
    check.same("STARTTLS with data", client.answer(STARTTLS, b"x"), ERR_INVALID)
    check.same("STARTTLS", client.answer(STARTTLS), ACK)
    client.wrap(keys)
    check.same("STARTTLS again", client.answer(STARTTLS), ERR_INVALID)
    client.negotiate()
    client.leave()
    client = Client(path)
    client.sock.sendall(option(EXPORT_NAME))
    check.same("EXPORT_NAME before TLS", client.ends(), True)
    check.same("abort before TLS", Client(path).ask(ABORT), [(ACK, b"")])


def test_injected(path, keys):
    """What is sent behind STARTTLS in the clear is not taken for something of the protected part."""
    client = Client(path)
    client.sock.sendall(option(STARTTLS) + option(GO, go_data()))
    check.same("the clear behind STARTTLS", client.ends(), True)


def test_bytes(path, keys):
    rng = random.Random(1)
    client = Secure(path, keys)
    client.negotiate(contexts=("base:allocation",))
    content = bytearray(SIZE)
    for _ in range(60):
        length = rng.choice((1, 511, 4096, 16384, 16385, 100001, 3 << 20))
        offset = rng.randrange(SIZE - length)
        data = rng.randbytes(length)
        check.same("write", client.write(offset, data), 0)
        content[offset:offset + length] = data
    for offset in range(0, SIZE, 8 << 20):
        check.same("read", client.read(offset, 8 << 20) == (0, bytes(content[offset:offset + (8 << 20)])), True)
    # Many in flight, whose replies are more than any buffer between holds, read late.
    want = {client.send(READ, n << 20, 1 << 20): n << 20 for n in range(40)}
    for _ in range(40):
        cookie, error, data = client.reply(1 << 20)
        offset = want.pop(cookie)
        check.same("pipelined read", (error, data == content[offset:offset + (1 << 20)]), (0, True))
    client.send(DISC)
    check.same("its end is told", client.sock.recv(1), b"")
    client.close()


def test_strangers(path, keys):
    check.same("a client with a certificate", is_refused(path, keys), False)
    check.same("a client without", is_refused(path, keys.parent / "psk"), True)
    check.same("a client that nobody vouches for", is_refused(path, keys.parent / "other"), True)
    for junk in (b"\0" * 100, b"\x16\x03\x01\xff\xff" + b"x" * 100, b"GET / HTTP/1.0\r\n\r\n"):
        client = Client(path)
        assert client.answer(STARTTLS) == ACK
        client.sock.sendall(junk)
        client.sock.shutdown(socket.SHUT_WR)
        check.same("junk in place of a handshake", client.ends(), True)


class Cut(Secure):
    """Lets go of the line after a number of bytes of the handshake."""

    def wrap(self, keys):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        got, out = ssl.MemoryBIO(), ssl.MemoryBIO()
        with_tls = context.wrap_bio(got, out)
        with contextlib.suppress(ssl.SSLWantReadError):
            with_tls.do_handshake()
        self.hello = out.read()


def test_cut(path, keys, server):
    before = server.sockets()
    whole = Cut(path, keys)
    for end in (0, 1, 4, 5, 6, 50, len(whole.hello) - 1, len(whole.hello)):
        client = Cut(path, keys)
        client.sock.sendall(client.hello[:end])
        client.close()
    whole.close()
    for end in range(1, 40, 7): # byte by byte, then the rest
        client = Cut(path, keys)
        for n in range(end):
            client.sock.sendall(client.hello[n:n + 1])
        client.sock.sendall(client.hello[end:])
        check.same("a handshake in pieces is answered", client.sock.recv(1), b"\x16")
        client.close()
    client = Secure(path, keys)
    client.negotiate()
    check.same("goes on", client.read(0, 4096)[0], 0)
    client.leave()
    deadline = time.monotonic() + TIMEOUT
    while server.sockets() > before and time.monotonic() < deadline:
        time.sleep(0.05)
    check.same("sockets left", server.sockets(), before)


def test_silent(tool, where, credentials):
    with serving(tool, where, *credentials, "--handshake-timeout", "1", checks=check) as server:
        client = Client(server.path)
        check.same("STARTTLS", client.answer(STARTTLS), ACK)
        check.same("a client that goes silent then is cut off", client.ends(), True)


def test_names(tool, where, keys, credentials):
    for names, refused in ((["CN=host1"], False), (["CN=host2"], True), (["CN=host2", "CN=host1"], False),
                           (["host1"], True)):
        allowed = [word for name in names for word in ("--tls-allow", name)]
        with serving(tool, where, *credentials, *allowed, checks=check) as server:
            check.same(f"allowed: {names}", is_refused(server.path, keys), refused)


def test_command(tool, where):
    for words, code, told in (
            (["--tls-creds", "none", "disk"], 1, "no TLS credentials 'none'"),
            (["--tls-allow", "x", "disk"], 1, "--tls-allow is for --tls-creds"),
            (["--object", "tls-creds-psk,id=c,dir=psk", "--tls-creds", "c", "disk"], 1, "endpoint=server"),
            (["--object", "tls-creds-x509,id=c,dir=psk,endpoint=server", "--tls-creds", "c", "disk"], 1,
             "ca-cert.pem"),
            (["--object", "tls-creds-x509,id=c,dir=keys,endpoint=server,verify-peer=off", "--tls-creds", "c",
              "--tls-allow", "CN=host1", "disk"], 1, "no name")):
        done = subprocess.run([tool, "nbd", "-k", "sock", *words], cwd=where, capture_output=True, text=True,
                              check=False, timeout=TIMEOUT)
        check.same(f"{words}: exit code", done.returncode, code)
        check.same(f"{words}: {done.stderr}", told in done.stderr, True)


def test_qemu(tool, where):
    """Certificates and keys, by QEMU's client, from a server that has gone to another folder."""
    if not shutil.which("qemu-io"):
        print("not tried: qemu-io, which is not there")
        return
    for kind, folder_name in (("x509", "keys"), ("psk", "psk")):
        made = f"tls-creds-{kind},id=t,dir={folder_name},endpoint="
        sh(tool, "nbd", "-t", "-k", "sock", "--fork", "--pid-file", "pid", "--object", made + "server",
           "--tls-creds", "t", "disk", cwd=where)
        try:
            done = subprocess.run(
                ["qemu-io", "--object", made + "client", "--image-opts",
                 "driver=nbd,path=sock,tls-creds=t" + (",tls-hostname=localhost" if kind == "x509" else ""),
                 "-c", "write -P 5 3M 20M", "-c", "read -P 5 3M 20M", "-c", "flush"],
                cwd=where, capture_output=True, text=True, check=False, timeout=TIMEOUT)
            check.same(f"qemu-io: {kind}: {done.stdout}{done.stderr}",
                       (done.returncode, "failed" in done.stdout), (0, False))
        finally:
            pid = int((where / "pid").read_text())
            os.kill(pid, signal.SIGTERM)
            while os.path.exists(f"/proc/{pid}/exe"): # a zombie, which is somebody else's child, has none
                time.sleep(0.02)
            check.same("the socket is gone", (where / "sock").exists(), False)


def main(tool):
    if not shutil.which("openssl"):
        print("skipped: there is no openssl, which makes the keys")
        return 77
    with folder() as where:
        make_keys(where)
        keys = where / "keys"
        create(tool, where, "disk", "-f", "qcow2", str(SIZE))
        credentials = ["--object", "tls-creds-x509,id=t,dir=keys,endpoint=server", "--tls-creds", "t"]
        with serving(tool, where, *credentials, checks=check) as server:
            for case in (test_before, test_injected, test_bytes, test_strangers):
                case(server.path, keys)
            test_cut(server.path, keys, server)
        test_silent(tool, where, credentials)
        test_names(tool, where, keys, credentials)
        test_command(tool, where)
        test_qemu(tool, where)
    return check.finish()


if __name__ == "__main__":
    sys.exit(main(os.path.abspath(sys.argv[1])))
