#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""A host that lets unix sockets hold less than the NBD server asks for: that is told once, with what to set, and
only there.

usage: test_nbd_buffer.py VDISK_IO CLIP

CLIP (clip.c) is preloaded, and is that host.
"""
import os
import pathlib
import signal
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
sys.dont_write_bytecode = True
from client import *  # noqa: E402,F403

SETTING = "sysctl -w net.core.wmem_max=2097152"
check = Checks()


def told(tool, where, clip, limit, *options, fork=False):
    """What a server says on stderr from start to end, with two clients; with --fork: until it is ready."""
    env = dict(os.environ, LD_PRELOAD=clip, CLIP_SNDBUF=str(limit))
    (where / "pid").unlink(missing_ok=True)
    with open(where / "err", "w+") as err:
        server = subprocess.Popen([tool, "nbd", "-t", "-e", "0", "-r", "--pid-file", "pid", *options,
                                   *(["--fork"] if fork else []), "disk"], cwd=where, env=env,
                                  stdout=subprocess.DEVNULL, stderr=err)
        deadline = time.monotonic() + TIMEOUT
        while not ((where / "pid").exists() and (where / "pid").read_text().endswith("\n")):
            if time.monotonic() > deadline or server.poll() not in (None, 0):
                raise RuntimeError("no server: " + (where / "err").read_text())
            time.sleep(0.01)
        if fork:
            check.same("the parent's end", server.wait(TIMEOUT), 0)
        if "-k" in options:
            for _ in range(2):
                client = Client(where / "sock")
                client.negotiate()
                check.same("read", client.read(0, 512), (0, b"\1" * 512))
                client.leave()
        os.kill(int((where / "pid").read_text()), signal.SIGTERM)
        if not fork:
            check.same("the end", server.wait(TIMEOUT), 0)
        err.seek(0)
        return err.read()


def main():
    tool, clip = (str(pathlib.Path(word).resolve()) for word in sys.argv[1:3])
    with folder() as where:
        create(tool, where, "disk", "-f", "qcow2", "4M")
        subprocess.run([tool, "io", "-q", "-c", "write -P 1 0 64k", "disk"], cwd=where, check=True)
        for options in ((), ("-v",)):
            said = told(tool, where, clip, 212992, "-k", "sock", *options)
            check.same(f"too little: {said}", (said.count("\n"), SETTING in said, " 208 KiB " in said),
                       (1, True, True))
        said = told(tool, where, clip, 212992, "-k", "sock", fork=True)
        check.same(f"by the child: {said}", (said.count("\n"), SETTING in said), (1, True))
        check.same("enough", told(tool, where, clip, 2 << 20, "-k", "sock"), "")
        check.same("more than enough", told(tool, where, clip, 8 << 20, "-k", "sock"), "")
        check.same("TCP has buffers of its own", told(tool, where, clip, 212992, "-b", "127.0.0.1", "-p", "0"), "")
    return check.finish()


if __name__ == "__main__":
    sys.exit(main())
