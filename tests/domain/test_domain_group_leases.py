#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Leases of sanlock of a domain in a volume group, with lvm (fake_lvm.py) and sanlock (fake_sanlock.c) of the
test's own. Another host is a process that has another place for its locks; or one that takes leases by sanlock's
library.

usage: test_domain_group_leases.py VDISK_IO STEP_TOOL FAKE_LVM LIBRARY
"""
import ctypes
import os
import pathlib
import signal
import subprocess
import sys
import threading

LIBRARY, SELF = os.path.realpath(sys.argv[4]), os.path.realpath(__file__)


class Resource(ctypes.Structure):
    _fields_ = [("space", ctypes.c_char * 48), ("name", ctypes.c_char * 48), ("numbers", ctypes.c_uint64 * 2),
                ("more", ctypes.c_uint32 * 2), ("flags", ctypes.c_uint32), ("disks", ctypes.c_uint32),
                ("path", ctypes.c_char * 1024), ("offset", ctypes.c_uint64), ("unused", ctypes.c_uint32 * 2)]


def be_another_host():
    """take|give SPACE NAME OFFSET: a line each; prints what the call gives."""
    library = ctypes.CDLL(LIBRARY)
    connection = library.sanlock_register()
    for line in sys.stdin:
        verb, space, name, offset = line.split()
        r = Resource(space=space.encode(), name=name.encode(), disks=1, path=f"/dev/{space}/leases".encode(),
                     offset=int(offset))
        each = (ctypes.POINTER(Resource) * 1)(ctypes.pointer(r))
        print(library.sanlock_release(connection, -1, 0, 1, each) if verb == "give" else
              library.sanlock_acquire(connection, -1, 8, 1, each, None), flush=True)


if sys.argv[5:6] == ["--other"]:
    be_another_host()
    sys.exit(0)

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import fake_lvm  # noqa: E402
import lib  # noqa: E402
from lib import MIB, check, refused, run, told, volume, works  # noqa: E402

STEP_TOOL, CLIENT = os.path.realpath(sys.argv[2]), os.path.realpath(sys.argv[3])
U = "dddddddd-0000-4000-8000-00000000000d"
D = f"/dev/{U}"
IDLIVE = "-243"
LATE = 60
LVM = DAEMON = None


def start(host, *arguments, tool=None, **variables):
    """On another host: it has locks of its own, and devices in common."""
    command = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs none /run/vdisk-io && exec "$@"', "sh",
               tool or lib.TOOL, *arguments]
    return subprocess.Popen(command, env=dict(os.environ, FAKE_HOST=str(host), **variables), text=True,
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def end(what, process, code=0):
    try:
        output = process.communicate(timeout=LATE)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        output = process.communicate()[0] + "\nit has not ended"
    check(what, process.returncode == code, f"{process.returncode} {output}")
    return output


def on(host, *arguments, code=0, **variables):
    return end(f"host {host}: {' '.join(arguments)}", start(host, *arguments, **variables), code).strip()


def stopped(what, process):
    """At the step that it was told."""
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    check(what, os.WIFSTOPPED(status), status)


def goes_on(what, process, code=0):
    os.kill(process.pid, signal.SIGCONT)
    return end(what, process, code)


class Other:
    def __init__(self, host):
        self.process = subprocess.Popen([sys.executable, SELF, "", "", "", LIBRARY, "--other"],
                                        env=dict(os.environ, FAKE_HOST=str(host)), stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)

    def ask(self, verb, name):
        self.process.stdin.write(f"{verb} {U} {name} {place_of(name)}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def does(self, verb, name):
        got = self.ask(verb, name)
        check(f"another host: {verb}", got == "0", got)

    def end(self):
        self.process.stdin.close()
        check("the other host ends", self.process.wait() == 0)


def lv(name):
    return LVM.vgs[U].lvs[name]


def has(name):
    return name in LVM.vgs[U].lvs


def slot_of(name):
    return next(int(tag[3:]) for tag in lv(name).tags if tag.startswith("MD_"))


def place_of(name):
    return MIB if name == "SDM" else (100 + slot_of(name)) * MIB


def lease_at(place):
    return lv("leases").loop.read(place + 104, 48).rstrip(b"\0").decode()


def log():
    with open(f"{DAEMON}/log", encoding="ascii") as f:
        return f.read()


def forget():
    open(f"{DAEMON}/log", "w", encoding="ascii").close()


def await_asked(process, call, times):
    """false: it has ended before."""
    while log().count(f" {call}\n") < times and process.poll() is None:
        signal.sigtimedwait([], 0.02)
    return process.poll() is None


def nothing_held(what):
    left = [name for name in os.listdir(DAEMON)
            if name.startswith("own.") and os.path.exists(f"/proc/{name.rsplit('.', 1)[1]}")]
    check(f"{what}: no lease is held", not left, left)


# ---- the tests --------------------------------------------------------------------------------------------------


def test_create():
    """A domain, and three hosts in its lockspace: what is in `ids` is read from the device that it lies on."""
    device = LVM.disk(16 << 30)
    works("domain", "create", "--type", "block", "--lockspace", "--uuid", U, device)
    ids, pv = lv("ids"), LVM.pvs[lv("ids").device]
    loop = next(loop for loop in LVM.loops if loop.path == ids.device)
    loop.write(pv["start"] + ids.extent * 128 * MIB, lv("ids").loop.read(0, 4096))
    os.environ["FAKE_FAIL"] = "join:-202"
    refused("coming into", "domain", "join", "--host-id", 1, D)
    del os.environ["FAKE_FAIL"]
    check("who could not come in leaves nothing active", not {"ids", "leases"} & set(os.listdir(D)), os.listdir(D))
    for host in (1, 2, 3):
        works("domain", "join", "--host-id", host, D, env=dict(os.environ, FAKE_HOST=str(host)))
    volume("create", "-f", "qcow2", D, "16M")
    nothing_held("create")


def test_join():
    """What another process of this host has opened, who is coming in, stays open; what somebody has closed under
    those who are in is opened by who comes in once more."""
    notes = {"ids", "leases"}
    note = pathlib.Path(f"{DAEMON}/in.1.{U}")
    check("they are there", notes <= set(os.listdir(D)))
    number = note.read_text()
    note.write_text("")
    os.environ["FAKE_FAIL"] = "join:-115"
    refused("coming into", "domain", "join", "--host-id", 1, D)
    check("who comes second closes nothing", notes <= set(os.listdir(D)), os.listdir(D))
    del os.environ["FAKE_FAIL"]
    note.write_text(number)
    os.unlink(f"{D}/leases")
    works("domain", "join", "--host-id", 1, D)
    check("it is there again", notes <= set(os.listdir(D)), os.listdir(D))
    volume("create", "-f", "qcow2", D, "16M")
    nothing_held("join")


def test_unreadable():
    """Where `ids` lies is not known, or nothing is there to be read."""
    ids = lv("ids")
    before, missing = ids.device, "/dev/nowhere"
    for device, text in ((missing, "a device for it that it does not have"), ("", "a device of it is missing")):
        ids.device = device
        refused(text, "volume", "create", "-f", "qcow2", D, "16M")
        refused("whether it is locked by leases is not known", "domain", "leave", D)
    ids.device = missing
    LVM.pvs[missing] = LVM.pvs[before]
    LVM.vgs[U].pvs.append(missing)
    refused(f"{missing}: opening it", "volume", "create", "-f", "qcow2", D, "16M")
    LVM.vgs[U].pvs.remove(missing)
    del LVM.pvs[missing]
    ids.device = before


def test_removed():
    """What is left of an image has the leases that it had: of two that purge it one waits, or is told."""
    image, name = volume("create", "-f", "raw", "-a", "preallocated", D, "4M")
    wiping = start(2, "image", "delete", "--wipe", f"{D}/{image}", tool=STEP_TOOL,
                   VDISK_TEST_STOP="image delete: image is renamed")
    stopped("host 2 has retired the image", wiping)
    r = run("domain", "check", "--repair", D)
    check("who repairs is told", "is in use by host 2" in r.stdout, r.stdout)
    refused("is in use by host 2", "image", "delete", f"{D}/{image}")
    check("the volume is there", has(name))
    goes_on("host 2 goes on", wiping)
    check("and has removed it", not has(name))
    wiping = start(2, "image", "delete", "--wipe", f"{D}/{volume('create', '-f', 'qcow2', D, '4M')[0]}",
                   tool=STEP_TOOL, VDISK_TEST_STOP="image delete: image is renamed")
    stopped("host 2 has retired another image", wiping)
    os.kill(wiping.pid, signal.SIGKILL)
    wiping.communicate()
    works("domain", "check", "--repair", D)
    nothing_held("removed")


def test_slot():
    """A volume's lease is held until it has gone, and not when another one has its slot."""
    image, name = volume("create", "-f", "qcow2", D, "16M")
    leaf = volume("snapshot", f"{D}/{image}")[1]
    other, asked = Other(2), []

    def at(request, done):
        if request.command == "lvremove" and not done:
            asked.append(other.ask("take", leaf))
    LVM.at = at
    works("volume", "delete", f"{D}/{image}/{leaf}")
    LVM.at = None
    check("it is held while lvm removes the volume", asked == [IDLIVE], asked)
    slot = slot_of(name)
    removing = start(2, "image", "delete", f"{D}/{image}", tool=STEP_TOOL,
                     VDISK_TEST_STOP="image delete: image is removed")
    stopped("host 2 has removed the image", removing)
    new = volume("create", "-f", "qcow2", D, "16M")
    check("the slot is another volume's", slot_of(new[1]) == slot)
    io = start(3, "io", "-q", f"volume:{D}/{new[0]}")
    while f"own.{new[1]}.3" not in " ".join(os.listdir(DAEMON)) and io.poll() is None:
        signal.sigtimedwait([], 0.02)
    goes_on("host 2 ends", removing)
    check("what it gives back is not the other one's", lease_at(place_of(new[1])) == new[1])
    refused("is in use by host 3", "volume", "snapshot", f"{D}/{new[0]}")
    end("host 3", io)
    other.end()
    nothing_held("slot")


def test_changed_meanwhile():
    """Who waits for an image looks at it anew: what was a volume's place may be another one's."""
    image, base = volume("create", "-f", "qcow2", D, "16M")
    leaf = volume("snapshot", f"{D}/{image}")[1]
    place = place_of(leaf)
    other = Other(2)
    other.does("take", base)
    forget()
    waiting = start(1, "volume", "snapshot", "--wait", f"{D}/{image}")
    check("it waits", await_asked(waiting, f"acquire exclusive {base} {place_of(base)}", 2))
    on(3, "volume", "merge", f"{D}/{image}/{leaf}", VDISK_IO_LEASES="ignore")
    new = on(3, "volume", "create", "-f", "qcow2", D, "16M").split("/")
    check("another volume has the place", not has(leaf) and place_of(new[1]) == place)
    io = start(3, "io", "-q", f"volume:{D}/{new[0]}")
    while f"own.{new[1]}.3" not in " ".join(os.listdir(DAEMON)) and io.poll() is None:
        signal.sigtimedwait([], 0.02)
    other.does("give", base)
    end("who has waited goes on", waiting)
    check("no lease is written over", f"write_resource {leaf} " not in log() and lease_at(place) == new[1])
    check("there are the base, and a new leaf", len(told("volume", "list", f"{D}/{image}")) == 2)
    refused("is in use by host 3", "volume", "snapshot", f"{D}/{new[0]}")
    end("host 3", io)
    other.end()
    nothing_held("changed meanwhile")


def test_busy():
    """Who changes the group is waited for, whether or not an image would be."""
    image, _ = volume("create", "-f", "qcow2", D, "16M")
    other = Other(2)
    other.does("take", "SDM")
    forget()
    waiting = start(1, "volume", "snapshot", f"{D}/{image}")
    check("it waits for the group", await_asked(waiting, f"acquire exclusive SDM {MIB}", 12))
    third = "33333333-0000-4000-8000-000000000003"
    late = start(1, "volume", "create", "-f", "qcow2", f"{D}/{third}", "16M")
    check("so does who makes an image", await_asked(late, f"acquire exclusive SDM {MIB}", 24))
    made = on(3, "volume", "create", "-f", "qcow2", f"{D}/{third}", "16M", VDISK_IO_LEASES="ignore").split("/")[-1]
    other.does("give", "SDM")
    end("it goes on", waiting)
    output = end("that image is there now", late, 1)
    check("and it is told who has it", f"another host has made volume {made} just now" in output, output)
    check("nothing is left of it", [v["uuid"] for v in told("volume", "list", f"{D}/{third}")] == [made])
    r = run("domain", "check", D)
    check("no fault", r.returncode == 0 and " 0 faults" in r.stdout, r.stdout + r.stderr)
    other.end()
    nothing_held("busy")


def test_check():
    """Who only looks has nothing that keeps others from extending their volumes, however long he takes."""
    image, _ = volume("create", "-f", "qcow2", D, "16M")
    forget()
    works("domain", "check", D)
    check("the domain's own lease is not taken", "acquire" in log() and f"SDM {MIB}" not in log(), log())
    works("domain", "check", "--repair", D)
    check("but by who repairs", f"acquire exclusive SDM {MIB}" in log())
    works("image", "delete", f"{D}/{image}")
    nothing_held("check")


def test_double():
    """Of two volumes that have one slot none writes its lease over the other's: the domain's own locks them."""
    first, second = (volume("create", "-f", "qcow2", D, "16M") for _ in range(2))
    other = Other(2)
    other.does("take", first[1])
    tags = lv(second[1]).tags
    lv(second[1]).tags = [tag for tag in tags if not tag.startswith("MD_")] + [f"MD_{slot_of(first[1])}"]
    forget()
    r = run("io", "-q", "-r", "-n", "-c", "read 0 4k", f"volume:{D}/{second[0]}")
    check("it ends", r.returncode in (0, 1), f"{r.returncode} {r.stderr}")
    check("no lease is written over", "write_resource" not in log(), log())
    check("it is locked", f"acquire exclusive SDM {MIB}" in log(), log())
    lv(second[1]).tags = tags
    other.does("give", first[1])
    other.end()
    nothing_held("double")


def test_pool():
    """Of a group that is in a pool nothing is changed, unless it is said that no SPM is at it: nor what a volume
    holds that a virtual machine on another host has open."""
    image, name = volume("create", "-f", "qcow2", D, "16M")
    vg = LVM.vgs[U]
    works("volume", "prepare", f"{D}/{image}")
    lib.leak(f"{D}/{name}")
    works("volume", "teardown", f"{D}/{image}")
    data = lv(name).loop.save()
    before, pool = vg.tags, "77777777-0000-4000-8000-000000000007"
    vg.tags = [tag for tag in before if "SHA_CKSUM" not in tag and "POOL_UUID" not in tag]
    vg.tags.append(f"MDT_POOL_UUID={pool}")
    tags = {name: lv.tags for name, lv in vg.lvs.items()}
    for command in (("volume", "create", "-f", "qcow2", D, "16M"), ("volume", "snapshot", f"{D}/{image}"),
                    ("image", "delete", f"{D}/{image}"), ("domain", "upgrade", D),
                    ("volume", "resize", f"{D}/{image}", "32M"), ("volume", "reduce", f"{D}/{image}")):
        refused(f"is in pool {pool}, whose SPM", *command)
    r = run("domain", "check", "--repair", D)
    check("who repairs looks only", r.returncode == 2 and "is looked at only" in r.stdout, r.stdout)
    check("what it holds has not changed", lv(name).loop.save() == data)
    check("nothing has changed", tags == {name: lv.tags for name, lv in vg.lvs.items()})
    works("io", "-q", "-r", "-n", "-c", "read 0 4k", f"volume:{D}/{image}/{name}")
    r = run("domain", "check", D)
    check("it can be looked at", r.returncode == 2 and " 1 fault," in r.stdout, r.stdout + r.stderr)
    works("volume", "snapshot", f"{D}/{image}", env=dict(os.environ, VDISK_IO_SPM="none"))
    works("image", "delete", f"{D}/{image}", env=dict(os.environ, VDISK_IO_LEASES="ignore"))
    vg.tags = before
    nothing_held("pool")


def test_pool_meanwhile():
    """A group that comes into a pool while somebody waits for an image of it, or has a volume open."""
    image, name = volume("create", "-f", "qcow2", "--initial-size", "2M", D, "1G")
    vg = LVM.vgs[U]
    before, size, other = vg.tags, lv(name).size, Other(2)
    other.does("take", name)
    forget()
    waiting = start(1, "volume", "snapshot", "--wait", f"{D}/{image}")
    check("it waits", await_asked(waiting, f"acquire exclusive {name} {place_of(name)}", 2))
    vg.tags = [tag for tag in before if "SHA_CKSUM" not in tag and "POOL_UUID" not in tag]
    vg.tags.append("MDT_POOL_UUID=77777777-0000-4000-8000-000000000007")
    other.does("give", name)
    output = end("who has waited", waiting, 1)
    check("is refused then", "whose SPM" in output, output)
    vg.tags, pool = before, vg.tags
    io = start(1, "io", f"volume:{D}/{image},chunk=1M,free=124M")
    late = threading.Timer(LATE, io.kill)
    late.start()
    io.stdin.write("write -P 1 0 64k\n")
    io.stdin.flush()
    check("it is open", "wrote" in io.stdout.readline())
    vg.tags = pool
    io.stdin.write("write -P 2 64k 6M\n")
    io.stdin.flush()
    while "whose SPM" not in (line := io.stdout.readline()) and line:
        pass
    check("who has it open is told", "whose SPM" in line, line)
    check("it has not grown since", lv(name).size == size, lv(name).size)
    late.cancel()
    io.kill()
    io.communicate()
    vg.tags = before
    other.end()
    works("image", "delete", f"{D}/{image}")
    nothing_held("pool, meanwhile")


def test_all():
    global LVM, DAEMON
    DAEMON = os.path.abspath("daemon")
    os.makedirs(DAEMON)
    os.environ.update(FAKE_SANLOCK=DAEMON, FAKE_HOST="1", LD_LIBRARY_PATH=os.path.dirname(LIBRARY))
    LVM = fake_lvm.Lvm(CLIENT)
    fake_lvm.open_devices = set # what other hosts have open is not seen
    try:
        test_create()
        test_join()
        test_unreadable()
        test_removed()
        test_slot()
        test_changed_meanwhile()
        test_busy()
        test_check()
        test_double()
        test_pool()
        test_pool_meanwhile()
    finally:
        LVM.close()


fake_lvm.enter()
lib.main(test_all)
