#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a client of the NBD server can have of it by TLS that is sound, and has nothing in it: a handshake that is
long.

usage: test_nbd_tls_flood.py VDISK_IO
"""
import os
import pathlib
import shutil
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
sys.dont_write_bytecode = True
from client import *  # noqa: E402,F403
from keys import make_keys  # noqa: E402

SIZE = 1 << 20
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
    return check.finish()


if __name__ == "__main__":
    sys.exit(main(os.path.abspath(sys.argv[1])))
