#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a client of the NBD server can have of it by TLS that is sound, and has nothing in it: a handshake that is
long, and one alert after the other. The alerts are GnuTLS's, by ctypes.

usage: test_nbd_tls_flood.py VDISK_IO
"""
import ctypes
import os
import pathlib
import shutil
import socket
import sys
import threading

sys.path.insert(0, str(pathlib.Path(__file__).parent))
sys.dont_write_bytecode = True
from client import *  # noqa: E402,F403
from keys import make_keys  # noqa: E402

SIZE = 1 << 20
TLS_BYTES = 80 << 10  # tls/tls.h: at most so much is taken from the socket at once
FILLS = 2             # and so often by one call, before others have their turn
FLOOD = 8 << 20
AGAIN, INTERRUPTED, CLIENT, CERTIFICATE, WARNING, NO_RENEGOTIATION = -28, -52, 2, 1, 1, 100
check = Checks()


def started(path):
    client = Client(path)
    assert client.answer(STARTTLS) == ACK
    return client


# ---- a handshake

def test_long_hello(path):
    """A hello of 16 MiB, of which the server is sent 2: it is refused, and not kept until it is whole. (Nothing is
    timed: this server waits for a handshake as long as it takes.)"""
    client = started(path)
    record = b"\x16\x03\x01\x40\x00"
    hello = record + b"\x01\xff\xff\xff" + bytes(0x4000 - 4) + (record + bytes(0x4000)) * 127
    try:
        client.sock.sendall(hello)
        check.same("a hello without end", client.ends(), True)
    except (BrokenPipeError, ConnectionResetError):
        check.same("a hello without end", True, True)
    client.close()


# ---- alerts

class GnuTLS:
    """The client's end of a connection; what it says after the handshake is kept, for whoever sends it."""

    def __init__(self, library, sock):
        self.library = library
        self.session, keys = ctypes.c_void_p(), ctypes.c_void_p()
        assert library.gnutls_certificate_allocate_credentials(ctypes.byref(keys)) == 0
        assert library.gnutls_init(ctypes.byref(self.session), CLIENT) == 0
        assert library.gnutls_priority_set_direct(self.session, b"NORMAL:-VERS-ALL:+VERS-TLS1.2", None) == 0
        assert library.gnutls_credentials_set(self.session, CERTIFICATE, keys) == 0
        sock.setblocking(True)
        self.to(sock)
        code = AGAIN
        while code in (AGAIN, INTERRUPTED):
            code = library.gnutls_handshake(self.session)
        assert code == 0, code

    def to(self, sock):
        self.library.gnutls_transport_set_int2(self.session, ctypes.c_int(sock.fileno()),
                                               ctypes.c_int(sock.fileno()))

    def alerts(self, length):
        """So many bytes of warnings, which change nothing."""
        ours, other = socket.socketpair()
        kept = bytearray()

        def keep():
            while part := other.recv(1 << 20):
                kept.extend(part)
        thread = threading.Thread(target=keep)
        thread.start()
        self.to(ours)
        one = 0
        while one == 0 or sent < length:
            assert self.library.gnutls_alert_send(self.session, WARNING, NO_RENEGOTIATION) == 0
            if one == 0:
                while not kept:
                    time.sleep(0.001)
                one, sent = len(kept), 0
            sent += one
        ours.close()
        thread.join()
        other.close()
        return bytes(kept)


def receives(tool, where, credentials, flood):
    """How often the server took something from its connections, of which one was a flood and the other good."""
    with serving(tool, where, *credentials, "--threads", "1", checks=check) as server:
        if flood is not None:
            client = started(server.path)
            data = GnuTLS(flood, client.sock).alerts(FLOOD)
            assert len(data) >= FLOOD
            client.sock.sendall(data)
            client.sock.shutdown(socket.SHUT_WR)
            client.sock.settimeout(TIMEOUT)
            check.same("an end behind alerts", client.ends(), True)
            client.close()
        else:
            started(server.path).close()
        server.stop()
        words = server.words().split()
        return int(words[words.index("receives,") - 1])


def test_alerts(tool, where, credentials):
    """The thread comes back from each of so many bytes to its other connections."""
    try:
        library = ctypes.CDLL("libgnutls.so.30")
    except OSError as e:
        print(f"not tried: alerts: {e}")
        return
    library.gnutls_priority_set_direct.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    few = receives(tool, where, credentials, None)
    many = receives(tool, where, credentials, library)
    check.same(f"{FLOOD} bytes of alerts, taken by {many} calls, beside {few}",
               many - few >= FLOOD // (FILLS * TLS_BYTES), True)


def main(tool):
    if not shutil.which("openssl"):
        print("skipped: there is no openssl, which makes the keys")
        return 77
    with folder() as where:
        make_keys(where)
        create(tool, where, "disk", "-f", "raw", str(SIZE))
        credentials = ["-f", "raw", "--object", "tls-creds-x509,id=t,dir=keys,endpoint=server,verify-peer=off",
                       "--tls-creds", "t"]
        with serving(tool, where, *credentials, "--handshake-limit", "0", checks=check) as server:
            test_long_hello(server.path)
        test_alerts(tool, where, credentials)
    return check.finish()


if __name__ == "__main__":
    sys.exit(main(os.path.abspath(sys.argv[1])))
