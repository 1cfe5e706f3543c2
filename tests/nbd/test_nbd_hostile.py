#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The NBD client against a server that lies in each field of each message, sends one byte at a time, and hangs up
after each byte. usage: test_nbd_hostile.py VDISK_IO

The tool ends, in time, by exit and not by a signal; with one line that says what was wrong, or with the right
data. A few lies of each kind by default, drawn by VDISK_SEED; all of them with VDISK_TEST_LONG=1.
"""
import concurrent.futures
import itertools
import os
import random
import subprocess
import sys
import tempfile

import peer as p

SIZE, BLOCK = 1 << 20, 512
LONG = bool(os.environ.get("VDISK_TEST_LONG"))
SEED = os.environ.get("VDISK_SEED", "1")
SEED = random.randrange(1 << 32) if SEED == "new" else int(SEED)
COMMANDS = ["read -q -P 17 4096 512", "read -q -P 0 8192 512", "write -q -P 5 16384 512",
            "write -q -f -P 6 16384 512", "write -q -z 20480 512", "discard -q 24576 512", "flush",
            "read -q -P 6 16384 512"]
WAYS = {
    "simple": {"structured": False},
    "oldest": {"structured": False, "go": False},
    "structured": {"pieces": lambda offset, length: [(0, 256), (256, length - 256)]},
    "extended": {"extended": True},
}
LIES = {
    "0": lambda v: 0, "1": lambda v: 1, "all": lambda v: (1 << 64) - 1, "+1": lambda v: v + 1,
    "-1": lambda v: v - 1, "top": lambda v: v ^ (1 << 63) ^ (1 << 31) ^ (1 << 15), "doubled": lambda v: 2 * v,
    "bit": lambda v: v ^ 4,
}
failures = []


def fail(text):
    failures.append(text)
    print("FAILED", text)


class Scene:
    """A server with something to read, and the tool's commands on it."""

    def __init__(self, tool, folder, number, way):
        self.tool = tool
        blocks = None if way == "oldest" else (BLOCK, 4096, 65536)
        self.peer = p.Peer(os.path.join(folder, f"s{number}"), size=SIZE, blocks=blocks, **WAYS[way])

    def run(self, what, commands=None, **how):
        """The exit status, and what it said."""
        peer = self.peer
        for name, value in {"lie": None, "cut": None, "step": None, **how}.items():
            setattr(peer, name, value)
        peer.fresh()
        peer.complaints.clear()
        peer.disk.now[:] = bytes(SIZE)
        peer.disk.now[4096:8192] = bytes([17]) * 4096
        name = f"nbd+unix:///?socket={peer.path}"
        args = commands or ["io", "-f", "raw", *itertools.chain(*(("-c", c) for c in COMMANDS)), name]
        args = [a if a != "NAME" else name for a in args]
        try:
            done = subprocess.run([self.tool, *args], capture_output=True, text=True, timeout=60, errors="replace")
        except subprocess.TimeoutExpired:
            fail(f"{what}: the tool does not end")
            return None, ""
        said = done.stdout + done.stderr
        if done.returncode not in (0, 1, 2):
            fail(f"{what}: exit {done.returncode}: {said}")
        elif done.returncode and not any(w in said for w in ("vdisk-io: ", "failed", "verification")):
            fail(f"{what}: exit {done.returncode} without a word: {said}")
        for complaint in peer.complaints:
            fail(f"{what}: {complaint}")
        return done.returncode, said


# Fields in which a lie is another truth, or changes nothing, whatever is made of them.
HARMLESS = {"data", "name", "text", "preferred", "text length"}


def lies_of(scene, way, rng):
    """(what, lie) of all messages that the scene has."""
    status, said = scene.run(f"{way}, honest")
    if status != 0:
        fail(f"{way}, honest: exit {status}: {said}")
    found = []
    for number, (label, fields) in enumerate(list(scene.peer.messages)):
        for at, (name, form) in enumerate(fields):
            if name not in HARMLESS and form:
                found += [(f"{way}, message {number} ({label}), {name} {lie}", (number, at, LIES[lie]))
                          for lie in LIES]
    return found if LONG else rng.sample(found, min(len(found), 150))


def some(found, rng, count):
    found = list(found)
    return found if LONG or len(found) <= count else sorted(rng.sample(found, count))


def one_way(tool, folder, number, way):
    rng = random.Random(f"{SEED}/{way}")
    scene = Scene(tool, folder, number, way)
    noticed = 0
    lies = lies_of(scene, way, rng)
    for what, lie in lies:
        status, _ = scene.run(what, lie=lie)
        noticed += status != 0
    if noticed < len(lies) // 3:
        fail(f"{way}: of {len(lies)} lies only {noticed} were noticed")
    status, said = scene.run(f"{way}, byte by byte", step=1)
    if status != 0:
        fail(f"{way}, byte by byte: exit {status}: {said}")
    for step in some(range(2, 40), rng, 6):
        status, said = scene.run(f"{way}, {step} bytes at a time", step=step)
        if status != 0:
            fail(f"{way}, {step} bytes at a time: exit {status}: {said}")
    scene.run(f"{way}, whole")
    total = scene.peer.sent
    for cut in some(range(total), rng, 150):
        status, said = scene.run(f"{way}, cut after {cut} of {total}", cut=cut)
        if status == 0:
            fail(f"{way}, cut after {cut} of {total}: nothing was noticed")
    lies += status_lies(scene, way, rng) if way in ("structured", "extended") else []
    scene.peer.stop()
    print(f"{way}: {len(lies)} lies, {noticed} noticed; {total} bytes")


def status_lies(scene, way, rng):
    """The same of block status: by map, which asks for nothing else."""
    commands = ["map", "-f", "raw", "NAME"]
    honest, said = scene.run(f"{way}, map", commands)
    if honest != 0 or "0x1000" not in said:
        fail(f"{way}, map: exit {honest}: {said}")
    found = []
    for number, (label, fields) in enumerate(list(scene.peer.messages)):
        for at, (name, form) in enumerate(fields):
            if label.startswith("chunk") and name in (
                    "context", "run", "length", "type", "flags", "count", "cookie"):
                found += [(f"{way}, map, message {number} ({label}), {name} {lie}", (number, at, LIES[lie]))
                          for lie in LIES]
    found = [found[i] for i in some(range(len(found)), rng, 60)]
    for what, lie in found:
        scene.run(what, commands, lie=lie)
    return found


def endless(tool, folder):
    """A server that never ends its handshake, and one that says nothing: 10 s each."""
    class Endless(p.Connection):
        def shake_hands(self):
            self.put("greeting", ("magic", "Q", 0x4E42444D41474943), ("option", "Q", p.OPTION_MAGIC),
                     ("flags", "H", 3))
            self.get(4)
            option = p.struct.unpack(">QII", self.get(16))[1]
            while True:
                self.reply(option, p.REP_INFO, ("info", "H", 99))

    class Silent(p.Connection):
        def shake_hands(self):
            self.get(1)

    for number, (kind, words) in enumerate(((Endless, "wrong"), (Silent, "does not answer"))):
        path = os.path.join(folder, f"e{number}")
        original, p.Connection = p.Connection, kind
        peer = p.Peer(path)
        done = subprocess.run([tool, "info", f"nbd:unix:{path}"], capture_output=True, text=True, timeout=60)
        if done.returncode != 1 or words not in done.stderr:
            fail(f"{kind.__name__}: exit {done.returncode}: {done.stderr}")
        peer.stop()
        p.Connection = original


def huge(tool, folder):
    """Sizes around the end of what has a sign: told as they are, or refused in words."""
    for size, code in (((1 << 63) - 512, 0), ((1 << 63) - 511, 1), ((1 << 63) - 1, 1), (1 << 63, 1),
                       ((1 << 64) - 1, 1)):
        peer = p.Peer(os.path.join(folder, "huge"), size=1)
        peer.size = size
        names = [f"nbd:unix:{peer.path}"] + ([f"null:{size}"] if size < 1 << 63 else [])
        for name in names:
            done = subprocess.run([tool, "info", "--output", "json", "-f", "raw", name], capture_output=True,
                                  text=True, timeout=60)
            if done.returncode != code or (code == 0) != (f'"virtual-size": {size},' in done.stdout) or \
                    (code == 1) != done.stderr.startswith(f"vdisk-io: {name}: "):
                fail(f"{name} of {size} bytes: exit {done.returncode}: {done.stdout[-200:]}{done.stderr}")
        peer.stop()


def main():
    tool = sys.argv[1]
    print(f"seed {SEED}")
    with tempfile.TemporaryDirectory() as folder:
        endless(tool, folder)
        huge(tool, folder)
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            for done in [pool.submit(one_way, tool, folder, n, way) for n, way in enumerate(WAYS)]:
                done.result()
    print(f"{len(failures)} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
