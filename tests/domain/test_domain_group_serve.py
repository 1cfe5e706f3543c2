#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Volumes of a volume group served to NBD clients, with the lvm of test_domain_group.py: what is active meanwhile
and afterwards; thin ones that grow while clients write, when there is no more room, and when lvm fails.

usage: test_domain_group_serve.py VDISK_IO FAKE_LVM
"""
import os
import pathlib
import sys
import threading

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import fake_lvm  # noqa: E402
from fake_lvm import Refused  # noqa: E402
import lib  # noqa: E402
from lib import MIB, check, refused, run, works  # noqa: E402
from serving import LATE, Server  # noqa: E402

CLIENT = os.path.realpath(sys.argv[2])
U = "dddddddd-0000-4000-8000-00000000000d"
D = f"/dev/{U}"
IMAGE, OTHER, THIRD = (f"{digit * 8}-0000-4000-8000-000000000001" for digit in "123")
A, B, C = (f"{letter * 8}-0000-4000-8000-{letter * 12}" for letter in "abc")
READ, WRITE, FLUSH, ENOSPC = 0, 1, 3, 28
GROWS = "chunk=1M,free=256K,ahead=1"
LVM = EMPTY = None


def lv(name):
    return LVM.vgs[U].lvs[name]


def active():
    return set(os.listdir(D)) - {"metadata"} if os.path.isdir(D) else set()


def resting(what):
    check(f"{what}: nothing is active", not active(), active())
    left = set(os.listdir(f"/run/vdisk-io/{U}")) - {"active", "locks"}
    check(f"{what}: nothing is noted", not left, left)


def sound(what):
    r = run("domain", "check", D)
    check(f"{what}: no fault", r.returncode == 0 and " 0 faults" in r.stdout, r.stdout + r.stderr)
    resting(what)


def nothing():
    LVM.at, LVM.errors = None, ""
    LVM.restore(EMPTY)


def thin(size="64M", image=IMAGE, uuid=A):
    works("volume", "create", "-f", "qcow2", "--initial-size", "2M", f"{D}/{image}", size, "--uuid", uuid)


def reads(*commands, image=IMAGE):
    works("io", "-q", "-r", *(x for c in commands for x in ("-c", c)), f"volume:{D}/{image}")


def fill(client, first, end):
    """MiB by MiB, which hold their number; the errors."""
    cookies = {client.send(WRITE, n * MIB, MIB, 0, bytes([n + 1]) * MIB) for n in range(first, end)}
    found = set()
    while cookies:
        cookie, error, _ = client.reply()
        cookies.remove(cookie)
        found.add(error)
    return found


def holds(first, end):
    return [f"verify -P {n + 1} {n}M 1M" for n in range(first, end)]


def fills_group():
    """All that is free goes to another volume."""
    works("volume", "create", "-f", "raw", "-a", "preallocated", f"{D}/{OTHER}",
          f"{LVM.free(LVM.vgs[U]) // MIB}M", "--uuid", C)
    check("the group is full", LVM.free(LVM.vgs[U]) == 0, LVM.free(LVM.vgs[U]))


def test_active():
    """What it activates rests afterwards; what was prepared before, or somebody else uses, does not."""
    nothing()
    thin()
    works("volume", "snapshot", f"{D}/{IMAGE}", "--uuid", B)
    resting("before")
    server = Server("-t", f"{D}/{IMAGE}")
    check("the chain is active", active() == {A, B}, active())
    refused(f"is in use by process {server.process.pid} (vdisk-io)", "volume", "serve", "-k", "s", f"{D}/{IMAGE}")
    refused("is in use by process", "io", "-c", "read 0 4k", f"volume:{D}/{IMAGE}")
    works("volume", "extend", f"{D}/{IMAGE}/{A}", "8M")
    check("it is extended beside", lv(A).size == 8 * MIB, lv(A).size)
    server.stop("active")
    resting("afterwards")
    works("volume", "prepare", f"{D}/{IMAGE}")
    server = Server("-t", f"{D}/{IMAGE}")
    client = server.client()
    check("written", fill(client, 0, 2) == {0})
    client.leave()
    server.stop("prepared")
    check("what was prepared stays", active() == {A, B}, active())
    works("volume", "teardown", f"{D}/{IMAGE}")
    first, second = Server("-t", "-r", f"{D}/{IMAGE}"), Server("-t", "-r", f"{D}/{IMAGE}/{A}")
    names = ("-x", "one", "-x", "two")
    # The name that is not there: who gets past the volume ends, too, with other words.
    refused("is in use by process", "nbd", "-k", "n", *names, f"volume:{D}/{IMAGE}", "nothing-there")
    refused("nothing-there", "nbd", "-r", "-k", "n", *names, f"volume:{D}/{IMAGE}", "nothing-there")
    first.stop("one of two")
    check("the other one's is active", A in active(), active())
    second.stop("both")
    reads(*holds(0, 2))
    sound("active")


def test_grows():
    """While clients write, and none of them waits but who meets the end."""
    nothing()
    thin()
    come, go = threading.Event(), threading.Event()

    def held(request, done):
        if request.command == "lvextend" and not done:
            come.set()
            go.wait(LATE)
    LVM.at = held
    server = Server("-t", "-e", "0", f"{D}/{IMAGE},{GROWS}")
    client, beside = server.client(), server.client()
    check("what there is is taken", beside.write(0, b"\1" * MIB) == 0)
    size = lv(A).size
    waiting = {client.send(WRITE, n * MIB, MIB, 0, bytes([n + 1]) * MIB) for n in range(1, 16)}
    check("lvm is run", come.wait(LATE))
    for n in range(8):
        check("what has its place is written", beside.write(0, b"\1" * MIB) == 0)
        check("and read", beside.read(n * 65536, 4096) == (0, b"\1" * 4096))
    check("flushed", beside.do(FLUSH)[0] == 0)
    check("it has not grown", lv(A).size == size, lv(A).size)
    go.set()
    while waiting:
        cookie, error, _ = client.reply()
        waiting.discard(cookie)
        check("no error", error == 0, error)
    LVM.at = None
    check("written on", fill(client, 16, 40) == {0} and lv(A).size >= 40 * MIB, lv(A).size)
    check("the size is what it was", beside.size == server.client().size == 64 * MIB)
    beside.leave()
    client.leave()
    server.stop("grown")
    reads(*holds(0, 40))
    works("check", f"volume:{D}/{IMAGE}")
    sound("grows")


def test_full():
    """The group has no more: that fails what needs it, and nothing else."""
    nothing()
    thin()
    fills_group()
    server = Server("-t", "-e", "0", f"{D}/{IMAGE},{GROWS}")
    client = server.client()
    check("what there is is taken", client.write(0, b"\1" * MIB) == 0)
    found = fill(client, 1, 8)
    check("no room", ENOSPC in found and found <= {0, ENOSPC}, found)
    check("what has its place is written", client.write(0, b"\1" * MIB) == 0)
    check("and read", client.read(0, MIB) == (0, b"\1" * MIB))
    check("flushed", client.do(FLUSH)[0] == 0)
    client.leave()
    server.stop("full")
    reads(*holds(0, 1))
    works("image", "delete", f"{D}/{OTHER}")
    server = Server("-t", f"{D}/{IMAGE},{GROWS}")
    client = server.client()
    check("there is room again", fill(client, 1, 8) == {0})
    client.leave()
    server.stop("no longer full")
    reads(*holds(0, 8))
    sound("full")


def test_lvm_fails():
    """What needs space waits, which is told; a stop does not wait for it."""
    nothing()
    thin()

    def burns(request, done):
        if request.command == "lvextend" and not done:
            raise Refused("the array is on fire")
    LVM.at = burns
    server = Server("-t", "-e", "0", f"{D}/{IMAGE},{GROWS}")
    client = server.client()
    check("what there is is taken", client.write(0, b"\1" * MIB) == 0)
    for n in range(1, 8):
        client.send(WRITE, n * MIB, MIB, 0, bytes([n + 1]) * MIB)
    beside = server.client()
    check("what has its place is read", beside.read(0, MIB) == (0, b"\1" * MIB))
    beside.leave()
    said = server.stop("lvm fails")
    check("why is told", "the array is on fire" in said, said)
    client.close()
    LVM.at = None
    reads(*holds(0, 1))
    works("domain", "check", "--repair", D)
    sound("lvm fails")


def test_killed():
    """What it has activated is put to rest by who comes next."""
    nothing()
    thin()
    server = Server("-t", f"{D}/{IMAGE},{GROWS}")
    client = server.client()
    check("written", fill(client, 0, 12) == {0} and client.do(FLUSH)[0] == 0)
    for n in range(12, 40):
        client.send(WRITE, n * MIB, MIB, 0, bytes([n + 1]) * MIB)
    server.kill()
    client.close()
    check("it is still active", active() == {A}, active())
    again = Server("-t", f"{D}/{IMAGE},{GROWS}")
    client = again.client()
    check("what was flushed is there", all(client.read(n * MIB, MIB) == (0, bytes([n + 1]) * MIB)
                                           for n in range(12)))
    check("written once more", fill(client, 12, 40) == {0})
    client.leave()
    again.stop("after a kill")
    reads(*holds(0, 40))
    resting("after a kill")
    server = Server("-t", f"{D}/{IMAGE}")
    server.kill()
    works("volume", "snapshot", f"{D}/{IMAGE}", "--uuid", B)
    works("domain", "check", "--repair", D) # clusters that were taken ahead
    sound("killed")


def test_several():
    """Volumes of several images by one server, each of which grows."""
    nothing()
    thin()
    thin(image=THIRD, uuid=B)
    server = Server("-t", "-e", "0", f"{D}/{IMAGE},{GROWS}", f"volume:{D}/{THIRD}/{B},{GROWS}")
    clients = [server.client(e["name"]) for e in server.told["exports"]]
    for client in clients:
        check("written", fill(client, 0, 12) == {0})
        client.leave()
    check("both have grown", min(lv(A).size, lv(B).size) >= 12 * MIB)
    server.stop("several")
    reads(*holds(0, 12))
    reads(*holds(0, 12), image=THIRD)
    sound("several")


TESTS = [value for name, value in list(globals().items()) if name.startswith("test_")]


def test_all():
    global LVM, EMPTY
    LVM = fake_lvm.Lvm(CLIENT)
    try:
        works("domain", "create", "--type", "block", "--uuid", U, LVM.disk(16 << 30))
        LVM.vgs[U].extent = MIB
        EMPTY = LVM.save(U)
        for test in TESTS:
            test()
    finally:
        LVM.close()


fake_lvm.enter()
lib.main(test_all)
