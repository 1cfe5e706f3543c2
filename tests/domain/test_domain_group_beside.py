#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""What others are at in a volume group, or lvm refuses, amid an operation: with the lvm of test_domain_group.py.

usage: test_domain_group_beside.py VDISK_IO FAKE_LVM
"""
import os
import pathlib
import stat
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import fake_lvm  # noqa: E402
from fake_lvm import Refused  # noqa: E402
import lib  # noqa: E402
from lib import MIB, check, refused, run, works  # noqa: E402

CLIENT = os.path.realpath(sys.argv[2])
U = "dddddddd-0000-4000-8000-00000000000d"
D = f"/dev/{U}"
IMAGE, OTHER, THIRD = (f"{digit * 8}-0000-4000-8000-000000000001" for digit in "123")
A, B, C = (f"{letter * 8}-0000-4000-8000-{letter * 12}" for letter in "abc")
LVM = EMPTY = None


def lv(name):
    return LVM.vgs[U].lvs[name]


def has(name):
    return name in LVM.vgs[U].lvs


def sound(what):
    r = run("domain", "check", D)
    check(f"{what}: no fault", r.returncode == 0 and " 0 faults" in r.stdout, r.stdout + r.stderr)
    left = set(os.listdir(D)) - {"metadata"}
    check(f"{what}: nothing is active", not left, left)


def nothing():
    LVM.at, LVM.errors = None, ""
    LVM.restore(EMPTY)


def base(size="16M", image=IMAGE, uuid=A):
    works("volume", "create", "-f", "qcow2", f"{D}/{image}", size, "--uuid", uuid)
    works("io", "-q", "-n", "-c", "write -P 1 0 512k", "-c", "flush", f"volume:{D}/{image}")


def chain():
    base()
    works("volume", "snapshot", f"{D}/{IMAGE}", "--uuid", B)


def reads(*commands, image=IMAGE):
    works("io", "-q", "-r", *(x for c in commands for x in ("-c", c)), f"volume:{D}/{image}")


def fails(which, reason):
    def at(request, done):
        if not done and which(request):
            raise Refused(reason)
    LVM.at = at


def refuses(command, reason):
    fails(lambda request: request.command == command, reason)


def asked(command, *arguments):
    """By somebody else."""
    with LVM.lock:
        getattr(LVM, command)(fake_lvm.Request(command, arguments, 0))


def test_repair():
    """What somebody has open by a node of his own, and no lock tells, is not repaired: what seems to be leaked is
    what he has taken just now."""
    nothing()
    base()
    works("volume", "prepare", f"{D}/{IMAGE}")
    lib.leak(f"{D}/{A}")
    pathlib.Path("node").unlink(missing_ok=True)
    os.mknod("node", stat.S_IFBLK | 0o600, lv(A).loop.device)
    before = lv(A).loop.save()
    with open("node", "rb"):
        r = run("domain", "check", "--repair", D)
        check("it is told", "nobody's" in r.stdout and "somebody has it open" in r.stdout, r.stdout)
    check("it is as it was", lv(A).loop.save() == before and "given back" not in r.stdout, r.stdout)
    r = run("domain", "check", "--repair", D)
    check("then it is repaired", r.returncode == 0 and "given back" in r.stdout, r.stdout)
    works("volume", "teardown", f"{D}/{IMAGE}")
    reads("verify -P 1 0 512k")
    sound("repair")


def test_template():
    """Nor does it become a template while it is open so."""
    nothing()
    base()
    works("volume", "prepare", f"{D}/{IMAGE}")
    pathlib.Path("node").unlink(missing_ok=True)
    os.mknod("node", stat.S_IFBLK | 0o600, lv(A).loop.device)
    with open("node", "rb"):
        refused("somebody has it open", "volume", "update", f"{D}/{IMAGE}", "--shared")
        works("volume", "update", f"{D}/{IMAGE}", "--description", "x")
    works("volume", "teardown", f"{D}/{IMAGE}")
    works("volume", "update", f"{D}/{IMAGE}", "--shared")
    sound("template")


def test_not_removed():
    """lvm does not remove what somebody has opened meanwhile: it goes later."""
    for command in (("volume", "delete", f"{D}/{IMAGE}/{B}"), ("volume", "merge", f"{D}/{IMAGE}/{B}"),
                    ("image", "delete", f"{D}/{IMAGE}")):
        nothing()
        chain()
        refuses("lvremove", f"Logical volume {U}/{B} in use.")
        for _ in range(2):
            r = run(*command)
            check(f"{command}: it says why", r.returncode == 1 and "in use" in r.stderr, r)
        LVM.at = None
        check(f"{command}: it is there", has(B))
        works("domain", "check", "--repair", D)
        check(f"{command}: it has gone", not has(B))
        sound(f"{command}, not removed")


def test_not_purged():
    """Nor what is left of an image by one who was killed, and active still: it rests in the end."""
    nothing()
    chain()
    for name in (A, B):
        lv(name).tags = [f"IU__remove_me_{IMAGE}" if tag[:3] == "IU_" else tag for tag in lv(name).tags]
        LVM.set_active(LVM.vgs[U], lv(name), True)
        pathlib.Path(f"/run/vdisk-io/{U}/{name}").touch()

    def at(request, done):
        if request.command == "lvremove" and not done:
            LVM.lvremove(fake_lvm.Request("lvremove", [request.names[0]], 0))
            raise Refused(f"Logical volume {request.names[1]} in use.")
    LVM.at = at
    r = run("domain", "check", "--repair", D)
    LVM.at = None
    check("it is told", r.returncode == 2 and "in use" in r.stdout, r)
    left = [name for name in (A, B) if has(name)]
    notes = set(os.listdir(f"/run/vdisk-io/{U}")) - {"active", "locks"}
    check("who is left is noted, and who has gone is not", len(left) == 1 and notes == set(left), (left, notes))
    works("domain", "check", "--repair", D)
    check("all of it has gone", not has(A) and not has(B))
    sound("not purged")


def test_lost_slot():
    """A volume that is being merged is not taken for half-made, when its metadata's place is lost."""
    nothing()
    chain()
    works("io", "-q", "-n", "-c", "write -P 2 1M 512k", "-c", "flush", f"volume:{D}/{IMAGE}")
    kept = list(lv(B).tags)
    lv(B).tags = [tag for tag in kept if tag[:3] != "MD_"] + ["VDISK_MERGE"]
    for command in (("domain", "check", "--repair", D), ("volume", "snapshot", f"{D}/{IMAGE}"),
                    ("volume", "update", f"{D}/{IMAGE}/{A}", "--sequence", "7")):
        run(*command)
        check(f"{command}: it is there", has(B))
    if has(B):
        lv(B).tags = kept
        reads("verify -P 1 0 512k", "verify -P 2 1M 512k")
        sound("lost slot")


def test_doubled_slot():
    """Of two volumes that have one slot none is taken for the other, which is raw, and lies on nothing."""
    for image in (OTHER, IMAGE):
        nothing()
        works("volume", "create", "-f", "raw", "-a", "preallocated", f"{D}/{image}", "16M", "--uuid", A)
        if image == OTHER:
            base(uuid=C)
            works("volume", "update", f"{D}/{IMAGE}", "--shared")
            works("image", "clone", f"{D}/{IMAGE}", "--image", THIRD, "--uuid", B)
        else:
            works("volume", "snapshot", f"{D}/{IMAGE}", "--uuid", B)
        slot = next(tag for tag in lv(A).tags if tag[:3] == "MD_")
        place = MIB + int(slot[3:]) * 8192
        text, head = lv("metadata").loop.read(place, 512), lv(B).loop.read(0, 512)
        lv(B).tags = [tag if tag[:3] != "MD_" else slot for tag in lv(B).tags]
        tags = {name: list(v.tags) for name, v in LVM.vgs[U].lvs.items()}
        where = THIRD if image == OTHER else IMAGE
        for command in (("io", "-n", "-c", "write 0 64k", f"volume:{D}/{where}/{B}"),
                        ("volume", "update", f"{D}/{where}/{B}", "--description", "x"),
                        ("volume", "resize", f"{D}/{where}/{B}", "32M"), ("domain", "check", "--repair", D),
                        ("image", "delete", f"{D}/{IMAGE}") if image == OTHER else ("volume", "list", D)):
            r = run(*command)
            check(f"{command}: it is not well", r.returncode in (1, 2) or command[1] == "list", r)
            check(f"{command}: all is as it was", lv("metadata").loop.read(place, 512) == text and
                  lv(B).loop.read(0, 512) == head and
                  tags == {name: list(v.tags) for name, v in LVM.vgs[U].lvs.items()}, r)


def test_extended():
    """Somebody else has made the volume larger meanwhile, as it is written to."""
    nothing()
    works("volume", "create", "-f", "qcow2", "--initial-size", "2M", f"{D}/{IMAGE}", "16M", "--uuid", A)
    for other, size in ((12, 12), (4, 8)):
        def at(request, done, other=other):
            if request.command == "lvextend" and not done:
                LVM.at = None
                with LVM.lock:
                    LVM.lvextend(fake_lvm.Request("lvextend", ["--size", f"{other * MIB}b", f"{U}/{A}"], 0))
        LVM.at = at
        works("volume", "extend", f"{D}/{IMAGE}", "8M")
        check("it is as large as the larger one wants it", lv(A).size == size * MIB, lv(A).size)
        works("volume", "reduce", f"{D}/{IMAGE}")
    sound("extended")


def test_not_found():
    """What lvm does not find for a while is not full: what waits for space goes on waiting."""
    nothing()
    works("volume", "create", "-f", "qcow2", "--initial-size", "2M", f"{D}/{IMAGE}", "64M", "--uuid", A)
    failed = []

    def at(request, done):
        if request.command == "lvextend" and not done and len(failed) < 4:
            failed.append(request)
            raise Refused(f'Volume group "{U}" not found')
    LVM.at = at
    works("io", "-q", "-n", "-c", "write -P 3 0 8M", "-c", "flush", f"volume:{D}/{IMAGE},chunk=1M,free=64K")
    LVM.at = None
    check("it was tried more than once", len(failed) == 4)
    reads("verify -P 3 0 8M")
    sound("not found")


def test_foreign():
    """A logical volume that has a UUID for a name, and is of no image."""
    nothing()
    base()
    asked("lvcreate", "--size", f"{MIB}b", "--addtag", "OVIRT_VOL_INITIALIZING", "--name", B, U)
    data = lv(B).loop.save()
    refused("of no image", "volume", "create", "-f", "qcow2", f"{D}/{OTHER}", "1M", "--uuid", B)
    refused("of no image", "volume", "snapshot", f"{D}/{IMAGE}", "--uuid", B)
    os.makedirs("foreign")
    there = f"foreign/{works('domain', 'create', 'foreign').stdout.strip()}"
    works("volume", "create", "-f", "qcow2", f"{there}/{OTHER}", "1M", "--uuid", B)
    r = run("image", "copy", "--volumes", f"{there}/{OTHER}", D)
    check("a copy is refused", r.returncode == 1 and B in r.stderr, f"{r.returncode} {r.stderr}")
    run("domain", "check", "--repair", D)
    check("it is as it was", has(B) and lv(B).tags == ["OVIRT_VOL_INITIALIZING"] and lv(B).loop.save() == data)
    reads("verify -P 1 0 512k")


def test_unreadable():
    """A group that cannot be read is not one without images."""
    nothing()
    base()
    for after in range(8):
        count = []

        def nth(request, count=count, after=after):
            count.append(request.command == "fullreport")
            return request.command == "fullreport" and sum(count) > after
        fails(nth, f'Volume group "{U}" not found')
        r = run("domain", "check", D)
        check(f"after {after} reports: not well", r.returncode != 0 or sum(count) <= after, r.stdout)
        r = run("volume", "create", "-f", "qcow2", f"{D}/{OTHER}", "1M", "--uuid", B)
        LVM.at = None
        check("nothing half-made is taken for done", r.returncode == 1 or
              "OVIRT_VOL_INITIALIZING" not in lv(B).tags, r.stderr)
        run("domain", "check", "--repair", D)
        run("image", "delete", f"{D}/{OTHER}")
        reads("verify -P 1 0 512k")
    LVM.errors = "  WARNING: Device for PV abc not found or rejected by a filter.\n"
    works("domain", "check", D)
    refuses("fullreport", "Something else is wrong.")
    r = run("domain", "info", D)
    check("a warning is no reason", r.returncode == 1 and "Something else is wrong" in r.stderr, r.stderr)
    LVM.at, LVM.errors = None, ""


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
