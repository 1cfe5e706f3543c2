#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Leases of sanlock between hosts, by a library in the place of sanlock's (fake_sanlock.c), which fails as it is
told. Another host is a process that takes leases by the same library; what is seen of it is seen by leases alone.

usage: test_domain_leases.py VDISK_IO STEP_TOOL LIBRARY
"""
import ctypes
import os
import pathlib
import shutil
import signal
import subprocess
import sys

LIBRARY, SELF = os.path.realpath(sys.argv[3]), os.path.realpath(__file__)
SHARED = 4


class Resource(ctypes.Structure):
    _fields_ = [("space", ctypes.c_char * 48), ("name", ctypes.c_char * 48), ("numbers", ctypes.c_uint64 * 2),
                ("more", ctypes.c_uint32 * 2), ("flags", ctypes.c_uint32), ("disks", ctypes.c_uint32),
                ("path", ctypes.c_char * 1024), ("offset", ctypes.c_uint64), ("unused", ctypes.c_uint32 * 2)]


def be_another_host():
    """take|share|give NAME PATH OFFSET: a line each; prints what the call gives."""
    library, space = ctypes.CDLL(LIBRARY), sys.argv[5].encode()
    connection = library.sanlock_register()
    for line in sys.stdin:
        verb, name, path, offset = line.split()
        r = Resource(space=space, name=name.encode(), disks=1, path=path.encode(), offset=int(offset),
                     flags=SHARED if verb == "share" else 0)
        each = (ctypes.POINTER(Resource) * 1)(ctypes.pointer(r))
        if verb == "give":
            print(library.sanlock_release(connection, -1, 0, 1, each), flush=True)
        else:
            print(library.sanlock_acquire(connection, -1, 8, 1, each, None), flush=True)


if sys.argv[4:5] == ["--other"]:
    be_another_host()
    sys.exit(0)

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import lib  # noqa: E402
from lib import Holder, check, file_of, judged, make, refused, run, told, volume, works  # noqa: E402
from serving import Server  # noqa: E402

STEP_TOOL = os.path.realpath(sys.argv[2])
MIB = 1 << 20
IDLIVE, AGAIN = "-243", "-11"


class Other:
    def __init__(self, path, number=2):
        self.path = path
        env = dict(os.environ, FAKE_HOST=str(number))
        works("domain", "join", "--host-id", number, path, env=env)
        self.process = subprocess.Popen([sys.executable, SELF, *sys.argv[1:3], LIBRARY, "--other",
                                         os.path.basename(path)], env=env, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)

    def ask(self, verb, image, name):
        path, offset = (f"{self.path}/dom_md/leases", MIB) if name == "SDM" else (
            file_of(self.path, image, name, ".lease"), 0)
        self.process.stdin.write(f"{verb} {name} {path} {offset}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def does(self, verb, image, name):
        got = self.ask(verb, image, name)
        check(f"another host: {verb}", got == "0", got)

    def end(self):
        self.process.stdin.close()
        check("the other host ends", self.process.wait() == 0)


def start(name, *more, join=True):
    """A daemon, so to speak, and a domain that has a lockspace."""
    path = os.path.abspath(f"{name}.daemon")
    os.makedirs(path)
    os.environ.update(FAKE_SANLOCK=path, FAKE_HOST="1", LD_LIBRARY_PATH=os.path.dirname(LIBRARY))
    os.environ.pop("FAKE_FAIL", None)
    domain = os.path.abspath(make(name, "--type", "nfs", "--lockspace", *more))
    if join:
        works("domain", "join", "--host-id", 1, domain)
    return domain


def calls(*words):
    """What was asked of the daemon since the last time."""
    path = f"{os.environ['FAKE_SANLOCK']}/log"
    with open(path, encoding="ascii") as f:
        lines = [line.split() for line in f]
    os.unlink(path)
    return [" ".join(line[1:]) for line in lines if not words or line[1] in words]


def asked(call):
    """How often, since the last calls()."""
    path = f"{os.environ['FAKE_SANLOCK']}/log"
    return open(path, encoding="ascii").read().count(f" {call}\n") if os.path.exists(path) else 0


def io(path, image, name, command):
    works("io", "-q", "-n", "-c", command, f"volume:{path}/{image}/{name}")


def nothing_held(what):
    left = [n for n in os.listdir(os.environ["FAKE_SANLOCK"]) if n.startswith("own.")]
    check(f"{what}: no lease is held", not left, left)


def test_create():
    path = start("create", join=False)
    uuid = os.path.basename(path)
    check("the lockspace is made last, as Vdsm has it", calls() == [
        f"write_resource SDM 0x110 {MIB}", f"write_lockspace {uuid} 0x110 0"])
    check("sizes", os.stat(f"{path}/dom_md/ids").st_size == MIB and
          os.stat(f"{path}/dom_md/leases").st_size == 2 * MIB)
    for name in ("ids", "leases"):
        check(f"mode of {name}", os.stat(f"{path}/dom_md/{name}").st_mode & 0o777 == 0o660)
    judged(path)
    refused("only this host uses it", "domain", "create", "--lockspace", ".")
    os.makedirs("failed")
    for call in ("write_resource", "write_lockspace"):
        os.environ["FAKE_FAIL"] = f"{call}:-202"
        refused("of the daemon (sanlock: -202)", "domain", "create", "--type", "nfs", "--lockspace", "failed")
        check(f"nothing is left when {call} fails", os.listdir("failed") == [])
    del os.environ["FAKE_FAIL"]
    del os.environ["LD_LIBRARY_PATH"]
    if run("domain", "join", "--host-id", 1, path).returncode == 0:
        print("skipped: sanlock is installed here: what is said without it is not looked at")
        return
    refused("library cannot be loaded", "domain", "create", "--type", "nfs", "--lockspace", "failed")
    check("nothing is left without it", os.listdir("failed") == [])


def test_join():
    path = start("join", join=False)
    refused("has not joined its lockspace", "volume", "create", path, "1M")
    check("nothing is made", os.listdir(f"{path}/images") == [])
    works("volume", "list", path)
    check("info tells", "this host has not joined" in works("domain", "info", path).stdout and
          told("domain", "info", path)["lockspace"]["host-id"] == 0)
    shutil.move(os.environ["FAKE_SANLOCK"], "gone")
    refused("daemon of this host does not answer: No such file", "volume", "create", path, "1M")
    refused("daemon of this host does not answer", "domain", "join", "--host-id", 1, path)
    check("info tells of no daemon", "sanlock does not answer" in works("domain", "info", path).stdout)
    r = works("volume", "create", path, "1M", env=dict(os.environ, VDISK_IO_LEASES="ignore"))
    check("that leases are ignored is told", "its leases are ignored" in r.stderr, r.stderr)
    image, name = r.stdout.strip().split("/")
    shutil.move("gone", os.environ["FAKE_SANLOCK"])
    for number in ("0", "2001", "x"):
        check(f"{number} is no host", run("domain", "join", "--host-id", number, path).returncode != 0)
    works("domain", "join", "--host-id", 7, path)
    check("info tells the number", told("domain", "info", path)["lockspace"]["host-id"] == 7)
    check("so does join", told("domain", "join", "--host-id", 7, path)["host-id"] == 7)
    refused("by number 7", "domain", "join", "--host-id", 8, path)
    other = dict(os.environ, FAKE_HOST="2")
    r = run("domain", "join", "--host-id", 7, path, env=other)
    check("a number is one host's", r.returncode == 1 and "another host is in it" in r.stderr, r.stderr)
    check("it has no lease", not os.path.exists(file_of(path, image, name, ".lease")))
    calls()
    works("volume", "snapshot", f"{path}/{image}")
    log = calls("acquire", "write_resource", "release")
    own = log.index("write_resource " + name + " 0x110 0")
    check("it gets one, by who has the domain's own", f"acquire exclusive SDM {MIB}" in log[:own] and
          "release SDM" in log[own:] and f"acquire exclusive {name} 0" in log[own:], log)
    check("it is in none", told("domain", "leave", path)["host-id"] == 0)
    refused("is not in its lockspace", "domain", "leave", path)
    ids, before = f"{path}/dom_md/ids", lib.snapshot_of(f"{path}/images")
    os.rename(ids, f"{path}/ids")
    for what, doing in (("a folder", os.mkdir), ("a link that leads nowhere", lambda to: os.symlink(to, to)),
                        ("a pipe", os.mkfifo)):
        doing(ids)
        for command in (("volume", "create", path, "1M"), ("volume", "snapshot", f"{path}/{image}"),
                        ("io", "-q", "-n", "-c", "read 0 4k", f"volume:{path}/{image}"),
                        ("domain", "join", "--host-id", 7, path)):
            refused("whether it is locked by leases is not known", *command)
        check(f"{what} in the place of ids: nothing has changed", lib.snapshot_of(f"{path}/images") == before)
        check("and info tells", "is not known" in works("domain", "info", path).stdout and
              "is not known" in told("domain", "info", path)["lockspace"]["error"])
        subprocess.run(["rm", "-r", ids], check=True)
    os.rename(f"{path}/ids", ids)
    path = make("without", "--type", "nfs")
    refused("has no lockspace", "domain", "join", "--host-id", 1, path)
    volume("create", path, "1M")


def test_volumes():
    path = start("volumes")
    calls()
    image, base = volume("create", path, "1M")
    lease = file_of(path, image, base, ".lease")
    check("a lease is written, and held", calls("write_resource", "acquire") == [
        f"acquire exclusive SDM {MIB}", f"write_resource {base} 0x110 0", f"acquire exclusive {base} 0"])
    check("as Vdsm has it", os.stat(lease).st_size == MIB and os.stat(lease).st_mode & 0o777 == 0o660)
    nothing_held("create")
    names = [base] + [volume("snapshot", f"{path}/{image}")[1] for _ in range(9)]
    calls()
    works("volume", "delete", f"{path}/{image}/{names[-1]}")
    log = calls("acquire")
    check("all of an image are taken", sorted(log) == sorted(f"acquire exclusive {name} 0" for name in names), log)
    names.pop()
    nothing_held("delete")
    io(path, image, names[-1], "write -P 1 0 4k")
    check("a user shares them", all("shared" in line for line in calls("acquire")))
    works("domain", "check", path)
    works("domain", "check", "--repair", path)
    works("image", "copy", f"{path}/{image}", path)
    works("image", "copy", "--volumes", f"{path}/{image}", path)
    check("each volume has one", len(list(pathlib.Path(path).rglob("*.lease"))) == len(names) * 2 + 1)
    judged(path)
    works("image", "delete", f"{path}/{image}")
    check("they go with the image", len(list(pathlib.Path(path).rglob("*.lease"))) == len(names) + 1)
    template = volume("create", "-f", "qcow2", path, "1M")
    works("volume", "update", "--shared", f"{path}/{template[0]}")
    clone = works("image", "clone", f"{path}/{template[0]}").stdout.strip().split("/")
    check("a template's is shared", os.stat(file_of(path, *template, ".lease")).st_nlink == 2)
    calls()
    io(path, *clone, "write -P 1 0 4k")
    check("and not taken by who lies on it", [line.split()[2] for line in calls("acquire")] == [clone[1]])
    works("image", "delete", f"{path}/{clone[0]}")
    check("until that has gone", os.stat(file_of(path, *template, ".lease")).st_nlink == 1)
    nothing_held("all")


def test_another_host():
    path = start("another")
    other = Other(path)
    image, base = volume("create", "-f", "qcow2", path, "1M")
    leaf = volume("snapshot", f"{path}/{image}")[1]
    name = f"{path}/{image}"
    for which in (base, leaf):
        other.does("take", image, which)
        before = lib.snapshot_of(path)
        for command in (("volume", "snapshot", name), ("volume", "delete", f"{name}/{leaf}"),
                        ("volume", "merge", f"{name}/{leaf}"), ("image", "delete", name),
                        ("volume", "update", "--description", "x", f"{name}/{leaf}"),
                        ("image", "copy", name, path), ("io", "-q", "-n", "-c", "read 0 4k", f"volume:{name}")):
            refused("is in use by host 2 (name-2)", *command)
        check("nothing has changed", lib.snapshot_of(path) == before)
        r = works("domain", "check", path)
        check("check says that it was not looked at", "in use" in r.stdout, r.stdout)
        other.does("give", image, which)
    other.does("take", image, base)
    calls()
    waiting = subprocess.Popen([lib.TOOL, "volume", "snapshot", "--wait", name], stdout=subprocess.PIPE, text=True)
    while asked(f"acquire exclusive {base} 0") < 2 and waiting.poll() is None:
        signal.sigtimedwait([], 0.05)
    check("it waits for the other host", waiting.poll() is None)
    other.does("give", image, base)
    waiting.communicate()
    check("and goes on", waiting.returncode == 0)
    leaf = told("volume", "list", name)[-1]["uuid"]
    other.does("share", image, leaf)
    refused("is in use by host 2", "volume", "snapshot", name)
    io(path, image, leaf, "write -P 1 0 4k")
    works("volume", "update", "--description", "beside", f"{name}/{leaf}")
    other.does("give", image, leaf)
    other.does("take", image, "SDM")
    refused("the lease of domain", "volume", "update", "--description", "x", f"{name}/{leaf}")
    io(path, image, leaf, "write -P 1 0 4k")
    works("volume", "delete", "--dry-run", f"{name}/{leaf}")
    other.does("give", image, "SDM")
    holder = Holder(f"volume:{name}")
    leaf = told("volume", "list", name)[-1]["uuid"]
    check("the other host sees a user", other.ask("take", image, leaf) == IDLIVE)
    other.does("share", image, leaf)
    other.does("give", image, leaf)
    holder.end()
    server = Server("-t", name)
    check("who is served has it alone", other.ask("share", image, leaf) == IDLIVE)
    server.stop("alone")
    server = Server("-t", "-r", name)
    other.does("share", image, leaf)
    server.stop("shared")
    refused("is in use by host 2", "volume", "serve", "-k", "other", name)
    other.does("give", image, leaf)
    other.does("take", image, leaf)
    refused("is in use by host 2", "volume", "serve", "-r", "-k", "other", name)
    other.does("give", image, leaf)
    other.end()
    nothing_held("all")


def await_asked(process, call, times):
    while asked(call) < times and process.poll() is None:
        signal.sigtimedwait([], 0.02)
    return process.poll() is None


def test_waiting():
    """Nobody has the domain's own lease who waits for a volume's; and for that one each waits for a while."""
    path = start("waiting")
    other = Other(path)
    image, name = volume("create", "-f", "qcow2", path, "1M")
    update = lib.TOOL, "volume", "update", "--wait", "--description", "x", f"{path}/{image}/{name}"
    other.does("take", image, name)
    calls()
    waiting = subprocess.Popen(update)
    check("it waits for a volume", await_asked(waiting, f"acquire shared {name} 0", 3))
    other.does("take", image, "SDM")
    other.does("give", image, name)
    calls()
    check("it waits for the domain", await_asked(waiting, f"acquire exclusive SDM {MIB}", 3))
    got = None
    while got != "0" and waiting.poll() is None: # between two of its tries
        got = other.ask("take", image, name)
    check("and has no volume meanwhile", got == "0", got)
    other.does("give", image, name)
    other.does("give", image, "SDM")
    check("it goes on", waiting.wait() == 0)
    other.does("take", image, "SDM")
    calls()
    late = subprocess.Popen([lib.TOOL, "volume", "create", path, "1M"], stdout=subprocess.DEVNULL)
    check("who makes a volume waits for the domain", await_asked(late, f"acquire exclusive SDM {MIB}", 12))
    other.does("give", image, "SDM")
    check("for as long as a change takes", late.wait() == 0)
    other.end()
    nothing_held("waiting")
    judged(path)


def test_killed():
    path = start("killed")
    other = Other(path)
    image, base = volume("create", "-f", "qcow2", path, "1M")
    step = dict(os.environ, VDISK_TEST_STOP="create: data is written")
    process = subprocess.Popen([STEP_TOOL, "volume", "snapshot", f"{path}/{image}"], env=step,
                               stdout=subprocess.DEVNULL)
    os.waitpid(process.pid, os.WUNTRACED)
    new = next(n[:36] for n in os.listdir(f"{path}/images/{image}") if n.endswith(".intent"))
    check("what is being made is locked", other.ask("take", image, new) == IDLIVE)
    check("and what it lies on", other.ask("share", image, base) == IDLIVE)
    process.kill()
    process.wait()
    other.does("take", image, new)
    other.does("give", image, new)
    works("volume", "snapshot", f"{path}/{image}")
    check("what was left has gone, with its lease", not file_of(path, image, new, ".lease").exists())
    judged(path)
    other.end()


def test_moved():
    """A folder of an image that comes from a domain of another lockspace, with its leases."""
    path = start("moved")
    before = os.path.abspath(make("before", "--type", "nfs", "--lockspace"))
    works("domain", "join", "--host-id", 1, before)
    image, name = volume("create", "-f", "qcow2", before, "1M")
    shutil.copytree(f"{before}/images/{image}", f"{path}/images/{image}")
    lib.set_meta(path, image, name, os.path.basename(before), os.path.basename(path))
    calls()
    works("volume", "snapshot", f"{path}/{image}", timeout=60)
    log = calls("write_resource")
    check("its lease is written once, for this lockspace", log.count(f"write_resource {name} 0x110 0") == 1, log)
    nothing_held("moved")


def test_upgrade():
    path = start("upgrade", "--domain-version", "4")
    names = [volume("create", "-f", "qcow2", path, "1M") for _ in range(3)]
    other = Other(path)
    other.does("share", *names[1])
    refused("is in use by host 2 (name-2)", "domain", "upgrade", path)
    check("it is as it was", told("domain", "info", path)["version"] == 4)
    nothing = [line for line in os.listdir(os.environ["FAKE_SANLOCK"]) if line.startswith("own.")]
    check("what was taken is given back", len(nothing) == 1, nothing)
    other.does("give", *names[1])
    calls()
    works("domain", "upgrade", path)
    check("all are taken", {f"acquire exclusive {name} 0" for _, name in names} <= set(calls("acquire")))
    nothing_held("upgrade")
    judged(path, upgraded=True)
    os.rename(f"{path}/images", f"{path}/away")
    refused("images", "domain", "upgrade", path)
    os.rename(f"{path}/away", f"{path}/images")
    nothing_held("images that cannot be listed")
    other.end()


def test_failures():
    path = start("failures")
    image, base = volume("create", "-f", "qcow2", path, "1M")
    before = lib.snapshot_of(path)
    for call, text in (("acquire:-202", "taking lease"), ("acquire:-226", "no lease SDM of its own"),
                       ("acquire:-5", "Input/output error"),
                       ("acquire:-28", "has left it"), ("acquire:-116", "has left it"),
                       ("register:-111", "does not answer"), ("get_lockspaces:-104", "does not answer")):
        os.environ["FAKE_FAIL"] = call
        refused(text, "volume", "snapshot", f"{path}/{image}")
        refused(text, "io", "-q", "-n", "-c", "read 0 4k", f"volume:{path}/{image}")
        check(f"{call}: nothing has changed", lib.snapshot_of(path) == before)
    os.environ["FAKE_FAIL"] = "write_resource:-202"
    refused("writing lease", "volume", "snapshot", f"{path}/{image}")
    refused("writing lease", "volume", "create", path, "1M")
    del os.environ["FAKE_FAIL"]
    works("domain", "check", path)
    listed = told("volume", "list", path)
    check("without a lease there is no volume", len(listed) == 1, listed)
    os.environ["FAKE_FAIL"] = "release:-202"
    r = works("volume", "snapshot", f"{path}/{image}")
    check("what cannot be given back is told", "giving back lease" in r.stderr, r.stderr)
    os.environ["FAKE_FAIL"] = "convert:-202"
    leaf = told("volume", "list", f"{path}/{image}")[-1]["uuid"]
    works("volume", "update", "--description", "x", f"{path}/{image}/{leaf}")
    del os.environ["FAKE_FAIL"]
    with open(file_of(path, image, base, ".lease"), "r+b") as f:
        f.write(bytes(512))
    works("volume", "snapshot", f"{path}/{image}")
    check("a lease that was lost is written again", f"write_resource {base} 0x110 0" in calls())
    nothing_held("all")


lib.main(test_create, test_join, test_volumes, test_another_host, test_waiting, test_killed, test_moved,
         test_upgrade, test_failures)
