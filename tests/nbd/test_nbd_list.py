#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""`nbd --list`: the exports of our own server, of qemu-nbd as it is installed and QEMU 10's, and of nbdkit; what
qemu-nbd --list prints of the same server is what we print. usage: test_nbd_list.py VDISK_IO BENCH_PEER

What lacks is skipped, and said.
"""
import json
import pathlib
import shutil
import socket
import struct
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parent))
sys.dont_write_bytecode = True
from keys import make_keys  # noqa: E402
from peer import ACK, INFO, OPTION_MAGIC, REP_INFO, REP_META, Connection, Peer  # noqa: E402
from test_nbd_servers import MIB, TOOL, Server, run, version  # noqa: E402

listers = []  # programs that list, too


def same(what, got, want):
    if got != want:
        raise AssertionError(f"{what}: {got!r}, not {want!r}")


def without(words, text):
    return [line for line in text.splitlines() if not any(word in line for word in words)]


def same_listing(program, ours, other):
    """An older qemu-nbd prints less, and as it asks for less it is told of less."""
    left = [] if "transaction size" in other else ["transaction size", "  flags:"]
    same(f"what {program} prints", without(left, ours), without(left, other))


def judge(path, names, where=None, objects=()):
    """What is printed, by all ways; the JSON of it."""
    where = where or ["-k", path]
    text = run(TOOL, "nbd", "--list", *objects, *where)
    for program in listers:
        same_listing(program, text, run(program, "--list", *objects, *where))
    if not objects and where[0] == "-k":
        same("by a name", run(TOOL, "nbd", "-L", f"nbd+unix:///?socket={path}"), text)
        same("by options", run(TOOL, "nbd", "-L", "--image-opts", f"driver=nbd,path={path}"), text)
    found = json.loads(run(TOOL, "nbd", "--list", "--output", "json", *objects, *where))
    same("names", [e["name"] for e in found], names)
    return found


def by_qemu(program):
    def case(folder):
        disk, path = folder / "disk", folder / "s"
        disk.write_bytes(bytes(MIB))
        with Server([program, "-k", path, "-f", "raw", "-t", "-e", "3", "-x", "an export", "-D", "words", disk],
                    path):
            found = judge(path, ["an export"])
        same("size", found[0]["size"], MIB)
        same("description", found[0]["description"], "words")
        same("contexts", "base:allocation" in found[0]["contexts"], True)
        same("blocks", found[0]["block-size"]["maximum"] >= MIB, True)
    return f"{program}", case


def by_nbdkit(folder):
    disk, path = folder / "disk", folder / "s"
    disk.write_bytes(bytes(MIB))
    with Server(["nbdkit", "-f", "-r", "-U", path, "file", disk], path):
        found = judge(path, [""])
    same("size", found[0]["size"], MIB)
    same("flags", "readonly" in found[0]["flags"], True)
    path.unlink()
    for name in ("b", "a", "c d"):
        (folder / "dir").mkdir(exist_ok=True)
        (folder / "dir" / name).write_bytes(bytes(512))
    with Server(["nbdkit", "-f", "-U", path, "file", f"dir={folder / 'dir'}"], path):
        found = json.loads(run(TOOL, "nbd", "--list", "--output=json", "-k", path))
    same("a folder", sorted(e["name"] for e in found), ["a", "b", "c d"])


def ours(folder):
    path = folder / "s"
    names = ["", "second", "x" * 255]
    for i in range(3):
        (folder / f"d{i}").write_bytes(bytes(MIB * (i + 1)))
    disks = [folder / f"d{i}" for i in range(3)]
    with Server([TOOL, "nbd", "-t", "-e", "0", "-f", "raw", "-k", path, "-D", "one", "-D", "", "-D", "three",
                 *[word for name in names for word in ("-x", name)], *disks], path):
        found = judge(path, names)
    same("sizes", [e["size"] for e in found], [MIB, 2 * MIB, 3 * MIB])
    same("descriptions", [e.get("description") for e in found], ["one", None, "three"])
    same("headers", [e["extended-headers"] for e in found], [True] * 3)
    for e in found:
        same("contexts", sorted(e["contexts"]), ["base:allocation", "qemu:allocation-depth"])
        same("flags", {"multi", "flush", "fua", "trim", "zeroes", "cache"} <= set(e["flags"]), True)


def many(folder):
    """As many as our server has; a name that would move the cursor is printed as text."""
    path, disk = folder / "s", folder / "disk"
    disk.write_bytes(bytes(512))
    names = ["a\x1b[2Jb"] + [f"export {i}" for i in range(255)]
    with Server([TOOL, "nbd", "-r", "-t", "-f", "raw", "-k", path, *[w for n in names for w in ("-x", n)],
                 *[disk] * 256], path):
        text = run(TOOL, "nbd", "--list", "-k", path)
        found = json.loads(run(TOOL, "nbd", "--list", "-k", path, "--output", "json"))
    same("the cursor", "\x1b" in text, False)
    same("their number", text.split("\n")[0], "exports available: 256")
    same("names", [e["name"] for e in found], names)


def in_tls(folder):
    if not shutil.which("openssl"):
        print("skipped: in TLS: no openssl")
        return
    make_keys(folder)
    path, disk = folder / "s", folder / "disk"
    disk.write_bytes(bytes(MIB))
    for kind, keys in (("x509", "keys"), ("psk", "psk")):
        made = f"tls-creds-{kind},id=t,dir={folder / keys},endpoint="
        client = ["--object", made + "client", "--tls-creds", "t"]
        host = ["--tls-hostname", "localhost"] if kind == "x509" else []
        with Server([TOOL, "nbd", "-t", "-e", "0", "-f", "raw", "-k", path, "--object", made + "server",
                     "--tls-creds", "t", disk], path):
            judge(path, [""], objects=client + host)
            said = run(TOOL, "nbd", "--list", "-k", path, status=1)
            same("without", "demands TLS" in said, True)
            if kind == "x509":
                said = run(TOOL, "nbd", "--list", "-k", path, *client, "--tls-hostname", "elsewhere", status=1)
                same("of another", "certificate" in said, True)
                text = run(TOOL, "nbd", "--list",
                           f"nbds+unix:///?socket={path}&tls-certificates={folder / keys}&tls-hostname=localhost")
                same("by a name", text.split("\n")[0], "exports available: 1")
        path.unlink(missing_ok=True)


def by_port(folder):
    disk = folder / "disk"
    disk.write_bytes(bytes(MIB))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    with Server([TOOL, "nbd", "-t", "-e", "0", "-f", "raw", "-b", "127.0.0.1", "-p", port, "--pid-file",
                 folder / "pid", disk], folder / "pid"):
        judge(None, [""], where=["-b", "127.0.0.1", "-p", port])
        same("by a name", run(TOOL, "nbd", "-L", f"nbd://127.0.0.1:{port}").split("\n")[0], "exports available: 1")


def no_list(folder):
    """Servers that give none, lie, or are not there; and what the command line may not have."""
    path = folder / "s"
    peer = Peer(str(path))
    for args, says in ((["-k", path], "refuses the option"), (["-k", folder / "none"], "connecting to the socket"),
                       ([folder / "disk"], "has no exports"), ([], "connecting to"),
                       (["-k", path, "nbd://h"], "takes a name"), (["nbd://h", "nbd://i"], "one server"),
                       (["-k", path, "--fork"], "serves nothing"), (["-k", path, "--tls-creds", "x"], "'x'"),
                       (["-k", path, "--output", "xml"], "human or json")):
        if args or not is_taken(10809):
            said = run(TOOL, "nbd", "--list", *args, status=1)
            same(f"{args}: {said}", says in said and len(said.strip().split("\n")) < 3, True)
    said = run(TOOL, "nbd", "--tls-hostname", "h", folder / "disk", status=1)
    same("without --list", "is for --list" in said, True)
    for cut in range(0, 200, 9):
        peer.fresh()
        peer.cut = cut
        run(TOOL, "nbd", "--list", "-k", path, status=1)
    peer.stop()


class Talkative(Connection):
    """100 exports, each of which has 64 contexts of 4096 bytes: 26 MiB, where a list has 16 at most."""

    def shake_hands(self):
        self.put("greeting", ("magic", "Q", 0x4E42444D41474943), ("option", "Q", OPTION_MAGIC), ("flags", "H", 3))
        self.get(4)
        while True:
            option, length = struct.unpack(">8xII", self.get(16))
            self.get(length)
            for n in range(100 if option == 3 else 0):
                self.reply(option, 2, ("length", "I", 3), ("name", "", b"%03d" % n))
            if option == INFO:
                self.reply(option, REP_INFO, ("info", "H", 0), ("size", "Q", MIB), ("flags", "H", 1))
            for n in range(64 if option == 9 else 0):
                self.reply(option, REP_META, ("id", "I", n), ("name", "", b"c" * 4096))
            self.reply(option, ACK)


def too_much(folder):
    peer = Peer(str(folder / "s"), kind=Talkative)
    said = run(TOOL, "nbd", "--list", "-k", peer.path, status=1)
    same(f"what is said: {said}", "more than 16 MiB" in said and str(peer.path) in said, True)
    peer.stop()


def is_taken(port):
    with socket.socket() as s:
        return s.connect_ex(("localhost", port)) == 0


def main():
    cases = [("our server", ours), ("many", many), ("in TLS", in_tls), ("by port", by_port), ("no list", no_list),
             ("too much", too_much)]
    newer = pathlib.Path(run(sys.argv[2]).strip()).with_name("qemu-nbd")
    for program in ("qemu-nbd", str(newer)):
        if shutil.which(program):
            listers.append(program)
            cases.append(by_qemu(program))
        else:
            print(f"skipped: no {program}")
    if shutil.which("nbdkit"):
        cases.append(("nbdkit", by_nbdkit))
    else:
        print("skipped: no nbdkit")
    failures = 0
    for what, case in cases:
        with tempfile.TemporaryDirectory() as folder:
            try:
                case(pathlib.Path(folder))
                print(f"ok {what}", flush=True)
            except AssertionError as e:
                failures += 1
                print(f"FAILED {what}: {e}", flush=True)
    print(f"{len(cases)} cases, {failures} failures, beside {', '.join(map(version, listers)) or 'nobody'}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
