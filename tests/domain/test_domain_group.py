#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""A domain in a volume group, whose lvm and device-mapper the test has itself (fake_lvm.py): its life, what others
do to it meanwhile, and each operation killed at each of its steps, and at each command of lvm's. Volumes have old
data where nobody has written to them yet.

usage: test_domain_group.py VDISK_IO STEP_TOOL FAKE_LVM [TEST...]

Without names of tests: all but test_killed, which takes as long as all others.
"""
import hashlib
import os
import pathlib
import re
import shutil
import signal
import stat
import subprocess
import sys
import threading

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import fake_lvm  # noqa: E402
from fake_lvm import Lv, Refused  # noqa: E402
import lib  # noqa: E402
from lib import MIB, check, refused, run, told, volume, works  # noqa: E402
import vdsm  # noqa: E402

STEP_TOOL, CLIENT = os.path.realpath(sys.argv[2]), os.path.realpath(sys.argv[3])
SOURCE = pathlib.Path(__file__).parents[2] / "tools/domain"
U = "dddddddd-0000-4000-8000-00000000000d"
D = f"/dev/{U}"
IMAGE, OTHER, THIRD = (f"{digit * 8}-0000-4000-8000-000000000001" for digit in "123")
A, B, C = (f"{letter * 8}-0000-4000-8000-{letter * 12}" for letter in "abc")
CHANGES = {"lvcreate", "lvremove", "lvextend", "lvreduce", "lvchange"}
SOON = 1 # seconds in which who does not wait, though he has to, has done his harm
LATE = 60 # seconds after which nobody comes any more
LVM = EMPTY = None
seen = set()


# ---- looking ----------------------------------------------------------------------------------------------------


class Domain(vdsm.BlockDomain):
    """As it is now. Its extents are small, that tests are quick."""

    def __init__(self, marks=False):
        self.extent = LVM.vgs[U].extent
        super().__init__({"report": [LVM.report(LVM.vgs[U])]}, {}, marks)

    def judge_specials(self):
        if not EMPTY: # nobody writes to them later
            super().judge_specials()

    def read(self, name, offset, length):
        return LVM.vgs[U].lvs[name].loop.read(offset, length)


def judged(what, marks=False):
    try:
        domain = Domain(marks)
        check("judged", True)
        return domain
    except vdsm.Wrong as e:
        check(f"{what}: judged", False, e)
        return None


def names_in(folder):
    return set(os.listdir(folder)) if os.path.isdir(folder) else set()


def resting(what):
    """Nothing is active but what has to be, nor noted as ours."""
    check(f"{what}: nothing is active", names_in(D) <= {"metadata"}, names_in(D))
    left = names_in(f"/run/vdisk-io/{U}") - {"active", "locks"}
    check(f"{what}: nothing is noted", not left, left)


def sound(what):
    r = run("domain", "check", D)
    check(f"{what}: no fault", r.returncode == 0 and " 0 faults" in r.stdout, r.stdout + r.stderr)
    resting(what)
    return judged(what)


def lv(name):
    return LVM.vgs[U].lvs[name]


def has(name):
    return name in LVM.vgs[U].lvs


def slot_of(name):
    return next(int(tag[3:]) for tag in lv(name).tags if tag.startswith("MD_"))


def text_of(slot):
    return lv("metadata").loop.read(MIB + slot * 8192, 512).rstrip(b"\0").decode()


def set_text(name, old, new):
    text = text_of(slot_of(name))
    check(f"{old} in {name}", old in text)
    lv("metadata").loop.write(MIB + slot_of(name) * 8192, text.replace(old, new).encode().ljust(512, b"\0"))


def tags():
    return {name: sorted(v.tags) + [v.size] for name, v in LVM.vgs[U].lvs.items()}


def io(name, *commands):
    works("io", "-q", "-n", *(x for c in commands for x in ("-c", c)), f"volume:{D}/{name}")


def look(name, *commands):
    works("io", "-q", "-r", *(x for c in commands for x in ("-c", c)), f"volume:{D}/{name}")


def content():
    """{image: what its leaf reads}"""
    images = [line.split()[0] for line in works("image", "list", D).stdout.splitlines() if "deleted" not in line]
    found = {image: run("checksum", f"volume:{D}/{image}") for image in images}
    return {image: r.stdout.split()[0] for image, r in found.items() if r.returncode == 0}


def start(*arguments, tool=None, **variables):
    return subprocess.Popen([tool or lib.TOOL, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True,
                            env={**os.environ, **{f"VDISK_TEST_{k}": v for k, v in variables.items()}})


def end(what, process, code=0):
    try:
        output, errors = process.communicate(timeout=LATE)
        check(what, process.returncode == code, f"{process.returncode} {output}{errors}")
        return output + errors
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        check(f"{what}: it ends", False)
        return ""


def ends_soon(process):
    try:
        process.wait(timeout=SOON)
        return True
    except subprocess.TimeoutExpired:
        return False


class Held:
    """The first lvm that `which` says yes to is held before it does anything."""

    def __init__(self, which):
        self.which, self.come, self.go, self.request = which, threading.Event(), threading.Event(), None
        LVM.at = self.at

    def at(self, request, done):
        if done or self.come.is_set() or not self.which(request):
            return
        self.request = request
        self.come.set()
        self.go.wait(LATE)

    def wait(self, what):
        check(f"{what}: lvm is run", self.come.wait(LATE))

    def end(self):
        self.go.set()
        LVM.at = None


def fails(which, reason):
    def at(request, done):
        if not done and which(request):
            raise Refused(reason)
    LVM.at = at


def fails_once(which, reason):
    def at(request, done):
        if not done and which(request):
            LVM.at = None
            raise Refused(reason)
    LVM.at = at


def is_command(name):
    return lambda request: request.command == name


def asked(command, *arguments):
    """By somebody else."""
    with LVM.lock:
        getattr(LVM, command)(fake_lvm.Request(command, arguments, 0))


# ---- what there is before ---------------------------------------------------------------------------------------


def nothing():
    LVM.at, LVM.errors = None, ""
    LVM.restore(EMPTY)


def base(fmt="qcow2", size="1M", image=IMAGE, uuid=A):
    kind = "sparse" if fmt == "qcow2" else "preallocated"
    works("volume", "create", "-f", fmt, "-a", kind, f"{D}/{image}", size, "--uuid", uuid)
    io(f"{image}/{uuid}", "write -P 1 0 512k", "zero 512k 512k", "flush")


def chain(fmt, length, image=IMAGE):
    def setup():
        base(fmt, image=image)
        for n, name in enumerate((B, C)[:length - 1]):
            works("volume", "snapshot", f"{D}/{image}", f"{n + 2}M", "--uuid", name)
            io(f"{image}/{name}", f"write -P {n + 2} {n * 64 + 128}k 192k", "flush")
    return setup


def template():
    base(image=OTHER)
    works("volume", "update", f"{D}/{OTHER}", "--shared")


def thin():
    base(size="16M")
    works("volume", "reduce", f"{D}/{IMAGE}")


def leaking():
    base(size="16M")
    works("volume", "prepare", f"{D}/{IMAGE}")
    lib.leak(f"{D}/{A}")
    works("volume", "teardown", f"{D}/{IMAGE}")


def clone():
    template()
    works("image", "clone", f"{D}/{OTHER}", "--image", IMAGE, "--uuid", B)


# ---- a domain is made -------------------------------------------------------------------------------------------


def test_create():
    global EMPTY
    first, second = LVM.disk(8 << 30), LVM.disk(8 << 30)
    first, second = max(first, second), min(first, second)
    refused("no block device", "domain", "create", "--type", "block", __file__)
    for command in ("pvchange", "vgcreate", "lvcreate"):
        fails(is_command(command), "it has failed")
        refused("it has failed", "domain", "create", "--type", "block", first, second)
        check(f"{command}: nothing is left", not LVM.pvs and not LVM.vgs, (LVM.pvs, LVM.vgs))
    LVM.at = None
    works("domain", "create", "--type", "block", "--uuid", U, first, second)
    vg = LVM.vgs[U]
    check("'metadata' is beside lvm's own", (vg.lvs["metadata"].device, vg.lvs["metadata"].extent) == (first, 0))
    check("the group is not activated by itself", vg.auto is False)
    check("nothing is active", not names_in(D), names_in(D))
    asked("vgremove", U)

    def group():
        asked("vgcreate", "mine", "--physicalextentsize", f"{128 * MIB}b", first)
    LVM.pvs = {}
    LVM.disk(12 << 30)
    first = LVM.loops[-1].path
    asked("pvcreate", first, "--metadatasize", f"{128 * MIB}b")
    group()
    for command in ("vgrename", "lvcreate"):
        fails(is_command(command), "it has failed")
        refused("it has failed", "domain", "create", "--type", "block", "--vg", "mine")
        check(f"{command}: the group is as it was", list(LVM.vgs) == ["mine"] and not LVM.vgs["mine"].tags and
              not LVM.vgs["mine"].lvs, LVM.vgs["mine"].tags)
    LVM.at = None
    refused("no name of a volume group", "domain", "create", "--type", "block", "--vg", "@mine")
    works("domain", "create", "--type", "block", "--vg", "mine", "--uuid", U)
    check("a group becomes one that is not activated by itself", LVM.vgs[U].auto is False)
    sound("made of a group")
    check("it is told", U in works("domain", "list", "/dev").stdout)
    check("one whose group has another name is none", list(LVM.vgs) == [U])
    asked("vgrename", U, "renamed")
    for verb in ("info", "list"):
        r = run("domain", verb, "/dev")
        check(f"{verb}: a group without a UUID is no domain", r.returncode >= 0 and "renamed" not in r.stdout, r)
    asked("vgrename", "renamed", U)
    LVM.vgs[U].extent = MIB
    EMPTY = LVM.save(U)


# ---- its life ---------------------------------------------------------------------------------------------------


def test_kinds():
    nothing()
    for fmt, kind in (("raw", "preallocated"), ("qcow2", "sparse"), ("qcow2", "preallocated")):
        image, name = volume("create", "-f", fmt, "-a", kind, D, "3M")
        io(f"{image}/{name}", "write -P 5 1M 1M", "zero 0 1M", "flush", "verify -P 5 1M 1M", "verify -P 0 0 1M")
    image, name = volume("create", "-f", "qcow2", "--initial-size", "2M", D, "8M")
    check("the first size", lv(name).size <= 3 * MIB, lv(name).size)
    refused("not sparse", "volume", "create", "-f", "raw", D, "3M")
    refused("insufficient free space", "volume", "create", "-f", "raw", "-a", "preallocated", D, "20G")
    domain = sound("kinds")
    check("all kinds", domain and sorted((v["FORMAT"], v["TYPE"]) for v in domain.volumes.values()) ==
          [("COW", "PREALLOCATED"), ("COW", "SPARSE"), ("COW", "SPARSE"), ("RAW", "PREALLOCATED")])


def test_life():
    nothing()
    chain("raw", 3)()
    before = content()
    look(f"{IMAGE}/{A}", "verify -P 1 0 512k", "verify -P 0 512k 512k")
    domain = sound("a chain")
    check("the chain", domain and [domain.volumes[name]["PUUID"] for name in (C, B, A)] == [B, A, vdsm.BLANK])
    works("volume", "prepare", f"{D}/{IMAGE}")
    check("prepared", {A, B, C} < names_in(D))
    look(IMAGE, "verify -P 3 192k 192k")
    check("still prepared", {A, B, C} < names_in(D))
    works("volume", "teardown", f"{D}/{IMAGE}")
    resting("teardown")
    works("volume", "merge", f"{D}/{IMAGE}/{B}")
    check("merged", not has(B) and content() == before)
    works("volume", "resize", f"{D}/{IMAGE}", "5M")
    look(IMAGE, "verify -P 0 3M 2M")
    works("volume", "merge", f"{D}/{IMAGE}/{C}")
    check("a raw base grows", lv(A).size == 5 * MIB)
    look(IMAGE, "verify -P 1 0 128k", "verify -P 2 128k 64k", "verify -P 3 192k 192k", "verify -P 0 512k 4608k")
    sound("merges")
    works("volume", "snapshot", f"{D}/{IMAGE}", "--uuid", B)
    loop = lv(B).loop
    io(IMAGE, "write -P 8 0 1M", "flush")
    works("volume", "delete", "--wipe", f"{D}/{IMAGE}/{B}")
    check("wiped", not any(loop.read(0, loop.size)))
    works("image", "delete", "--wipe", f"{D}/{IMAGE}")
    check("nothing is left", not has(A))
    sound("deleted")


def test_copies():
    """In and out of a folder, and streams."""
    nothing()
    chain("raw", 2)()
    os.makedirs("out")
    out = f"out/{works('domain', 'create', 'out').stdout.strip()}"
    works("image", "copy", "--volumes", f"{D}/{IMAGE}", out)
    works("image", "copy", "-f", "raw", "-a", "preallocated", f"{D}/{IMAGE}", D, "--image", THIRD)
    works("image", "delete", f"{D}/{IMAGE}")
    works("image", "copy", "--volumes", f"{out}/{IMAGE}", D)
    works("image", "copy", f"{out}/{IMAGE}", D, "--image", OTHER)
    read = content()
    check("copies read the same", len(set(read.values())) == 1 and len(read) == 3, read)
    r = subprocess.run([lib.TOOL, "volume", "download", f"{D}/{IMAGE}/{A}"], capture_output=True, check=False)
    want = b"\1" * (512 << 10) + bytes(512 << 10)
    check("downloaded", r.returncode == 0 and r.stdout == want, r.stderr)
    r = subprocess.run([lib.TOOL, "volume", "upload", D, "2M", "--digest",
                        hashlib.sha256(want + bytes(MIB)).hexdigest()],
                       input=want + bytes(MIB), capture_output=True, check=False)
    check("uploaded", r.returncode == 0, r.stderr)
    if r.returncode == 0:
        look(r.stdout.decode().strip(), "verify -P 1 0 512k", "verify -P 0 512k 1536k")
    for data in (want, want + bytes(MIB + 4096), b""): # a device is as long as it is, whatever has come
        r = subprocess.run([lib.TOOL, "volume", "upload", D, "2M"], input=data, capture_output=True, check=False)
        check(f"{len(data)} bytes are not 2 MiB", r.returncode == 1 and r.stdout == b"", r.stderr)
    sound("copies")


def test_names():
    """From and to what is no domain's, as a copy: what is thin has what it needs, and old data is none of it."""
    nothing()
    works("create", "-q", "-f", "qcow2", "outside", "8M")
    works("io", "-q", "-f", "qcow2", "-c", "write -P 4 1M 2M", "outside")
    works("convert", "-O", "raw", "outside", "plain")
    data, plain = (pathlib.Path(name).read_bytes() for name in ("outside", "plain"))
    reads = "verify -P 0 0 1M", "verify -P 4 1M 2M", "verify -P 0 3M 5M"
    for fmt in ("raw", "qcow2"):
        image, name = works("image", "copy", "-f", fmt, "file:outside", D).stdout.strip().split("/")
        look(image, *reads)
        most = told("volume", "measure", f"{D}/{image}")["fully-allocated"]
        check(f"a {fmt} copy takes what it can, if that is little", most <= lv(name).size < most + 2 * MIB,
              (most, lv(name).size))
        works("image", "copy", f"{D}/{image}/{name}", "file:copy")
        check("and out again", pathlib.Path("copy").read_bytes() == plain)
    refused("has no holes", "image", "copy", "-f", "raw", "-a", "sparse", "file:outside", D)
    for fmt, file, what in (("qcow2", "outside", data), ("raw", "plain", plain)):
        image, name = volume("upload", "-f", fmt, D, "8M", file, "--digest", hashlib.sha256(what).hexdigest())
        look(image, *reads)
        works("volume", "download", f"{D}/{image}", "down")
        check(f"{fmt} bytes", pathlib.Path("down").read_bytes() == what)
        works("volume", "download", f"{D}/{image}", "down") # over what is there
        check("again", pathlib.Path("down").read_bytes() == what)
    refused("its size is", "volume", "upload", D, "4M", "plain")
    sound("names")


def test_half_retired():
    """Of an image that is being deleted the first volume says it for all: lvm had no time for the others."""
    for what, tag in (("deleted", "IU__remove_me_"), ("wiped", "IU__remove_me_ZERO_")):
        nothing()
        chain("raw", 2)()
        loop = lv(B).loop
        lv(A).tags = [tag + IMAGE if name.startswith("IU_") else name for name in lv(A).tags] + ["VDISK_REMOVE"]
        refused("no image", "volume", "info", f"{D}/{IMAGE}")
        refused("was deleted before", "volume", "create", "-f", "qcow2", f"{D}/{IMAGE}", "1M")
        r = run("domain", "check", "--repair", D)
        check(f"half {what}: purged", r.returncode == 0 and not has(A) and not has(B), r.stdout + r.stderr)
        check(f"half {what}: wiped if it is to be", any(loop.read(0, MIB)) == (what == "deleted"))
        sound(f"half {what}")


def test_space():
    nothing()
    image, name = volume("create", "-f", "qcow2", "--initial-size", "2M", D, "64M")
    io(f"{image}/{name},chunk=1M,free=64K", "write -P 8 0 1M", "write -P 9 60M 64k", "flush")
    check("it has grown no further than is needed", lv(name).size < 6 * MIB, lv(name).size)
    works("volume", "extend", f"{D}/{image}/{name}", "8M")
    check("extended", lv(name).size == 8 * MIB, lv(name).size)
    works("volume", "reduce", f"{D}/{image}/{name}")
    check("reduced", lv(name).size < 4 * MIB, lv(name).size)
    look(image, "verify -P 8 0 1M", "verify -P 0 1M 1M", "verify -P 9 60M 64k")
    sound("space")


def test_who_starts():
    """A program that runs lvm need neither hear of its end nor have the first three descriptors."""
    for what, how in (("unseen", {"preexec_fn": lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN)}),
                      ("reaped", {"env": {**os.environ, "VDISK_TEST_REAPS": "all"}}),
                      ("closed", {"preexec_fn": lambda: (os.close(0), os.close(2))})):
        nothing()
        for command in (("volume", "create", "-f", "qcow2", "--initial-size", "2M", f"{D}/{IMAGE}", "64M"),
                        ("io", "-q", "-n", "-c", "write 0 8M", f"volume:{D}/{IMAGE},chunk=1M,free=64K")):
            works(*command, tool=STEP_TOOL, **how)
        sound(what)


# ---- what others do ---------------------------------------------------------------------------------------------


def test_orphan_create():
    """An lvcreate goes on when who has run it is killed: its slot is no other volume's."""
    nothing()
    held = Held(is_command("lvcreate"))
    killed = start("volume", "create", "-f", "qcow2", f"{D}/{IMAGE}", "1M", "--uuid", A)
    held.wait("create")
    killed.kill()
    killed.communicate()
    second = start("volume", "create", "-f", "qcow2", f"{D}/{OTHER}", "2M", "--uuid", B)
    ends_soon(second)
    held.end()
    end("another one is made", second)
    check("both are there, in slots of their own", has(A) and has(B) and slot_of(A) != slot_of(B), tags())
    works("domain", "check", "--repair", D)
    check("what was half-made has gone", not has(A))
    domain = sound("orphan create")
    check("the other one is unharmed", domain and domain.volumes[B]["capacity"] == 2 * MIB)


def test_orphan_reduce():
    """Nobody writes to what is being cut by an lvreduce whose caller was killed."""
    nothing()
    base(size="16M")
    held = Held(is_command("lvreduce"))
    killed = start("volume", "reduce", f"{D}/{IMAGE}/{A}")
    held.wait("reduce")
    killed.kill()
    killed.communicate()
    second = start("volume", "extend", f"{D}/{IMAGE}/{A}", "12M")
    ends_soon(second)
    held.end()
    end("it is extended then", second)
    check("it has what was asked for last", lv(A).size == 12 * MIB, lv(A).size)
    io(IMAGE, "write -P 7 0 10M", "flush", "verify -P 7 0 10M")
    sound("orphan reduce")


def test_doubled_slot():
    nothing()
    base()
    base(image=OTHER, uuid=B)
    lv(B).tags = [tag if tag[:3] != "MD_" else f"MD_{slot_of(A)}" for tag in lv(B).tags]
    text = text_of(slot_of(A))
    r = run("domain", "check", D)
    check("a doubled slot is told", r.returncode == 2 and "same place" in r.stdout, r.stdout + r.stderr)
    lv(B).tags.append("OVIRT_VOL_INITIALIZING")
    run("domain", "check", "--repair", D)
    check("it is not zeroed, as it is another one's", text_of(slot_of(A)) == text, text_of(slot_of(A)))
    look(IMAGE, "verify -P 1 0 512k")


def test_open_elsewhere():
    """By a node of the device that is another one than lvm's, as a virtual machine has it: no lock tells."""
    for operation in (("volume", "merge", f"{D}/{IMAGE}/{B}"), ("volume", "resize", f"{D}/{IMAGE}", "4M"),
                      ("volume", "reduce", f"{D}/{IMAGE}/{B}"), ("volume", "delete", f"{D}/{IMAGE}/{B}"),
                      ("volume", "delete", "--wipe", f"{D}/{IMAGE}/{B}"), ("image", "delete", f"{D}/{IMAGE}"),
                      ("image", "delete", "--wipe", f"{D}/{IMAGE}"), ("volume", "snapshot", f"{D}/{IMAGE}")):
        nothing()
        chain("qcow2", 2)()
        works("volume", "prepare", f"{D}/{IMAGE}")
        pathlib.Path("node").unlink(missing_ok=True)
        os.mknod("node", stat.S_IFBLK | 0o600, lv(B).loop.device)
        before, data = tags(), lv(B).loop.save()
        with open("node", "rb"):
            if operation[1] == "snapshot": # which changes nothing that is open
                works(*operation)
                continue
            refused("somebody has it open", *operation)
            check(f"{operation}: all is as it was", tags() == before and lv(B).loop.save() == data, tags())
        works("volume", "teardown", f"{D}/{IMAGE}")
        works(*operation)


def test_processes():
    """lvm is run no more often than it must be, and not once for each volume."""
    for length, most, operation, rest in ((1, 7, "image delete", ""), (3, 7, "image delete", ""),
                                          (2, 9, "volume snapshot", ""), (3, 13, "volume merge", f"/{B}"),
                                          (3, 9, "volume delete", f"/{C}"), (1, 3, "volume prepare", "")):
        nothing()
        chain("qcow2", length)()
        LVM.log.clear()
        works(*operation.split(), f"{D}/{IMAGE}{rest}")
        check(f"{operation}: {len(LVM.log)} processes of lvm's", len(LVM.log) <= most, LVM.log)


def test_role():
    """A volume that others lie on stays, even if its metadata says that it is no template."""
    nothing()
    clone()
    before = content()
    set_text(A, "VOLTYPE=SHARED", "VOLTYPE=LEAF")
    for command in (("volume", "delete", f"{D}/{OTHER}/{A}"), ("image", "delete", f"{D}/{OTHER}"),
                    ("domain", "check", "--repair", D)):
        r = run(*command)
        check(f"{command}: not well", r.returncode in (1, 2), r.stdout + r.stderr)
        check(f"{command}: it is there", has(A) and "_remove_me" not in " ".join(lv(A).tags), tags())
    look(IMAGE, "verify -P 1 0 512k")
    set_text(A, "VOLTYPE=LEAF", "VOLTYPE=SHARED")
    check("nothing is lost", content() == before)
    sound("role")


def test_half_made_template():
    """Nor does one go that is half-made, or without a slot."""
    for how in ("half-made", "no slot", "half-made, no slot"):
        nothing()
        clone()
        kept = list(lv(A).tags)
        if "no slot" in how:
            lv(A).tags.remove(f"MD_{slot_of(A)}")
        if "half-made" in how:
            lv(A).tags.append("OVIRT_VOL_INITIALIZING")
        for command in (("domain", "check", "--repair", D), ("image", "delete", f"{D}/{OTHER}")):
            said = start(*command)
            try:
                said.communicate(timeout=LATE)
            except subprocess.TimeoutExpired:
                said.kill()
                said.communicate()
                check(f"{how}: {command}: it ends", False)
            check(f"{how}: {command}: mended, or not well", said.returncode in (1, 2) or
                  (command[0] == "domain" and lv(A).tags == kept), said.returncode)
            check(f"{how}: {command}: it is there", has(A), tags())
        if has(A):
            lv(A).tags = kept
            look(IMAGE, "verify -P 1 0 512k")


def twin(how):
    nothing()
    late = start("volume", "create", "-f", "qcow2", f"{D}/{IMAGE}", "1M", "--uuid", A, tool=STEP_TOOL,
                 STOP="create: metadata is noted")
    os.waitpid(late.pid, os.WUNTRACED)
    base(image=OTHER)
    if how == "a report fails":
        fails_once(lambda request: request.command == "fullreport" and request.is_writers(), "it has failed")
    os.kill(late.pid, signal.SIGCONT)
    said = end(f"{how}: the second one fails", late, 1)
    check(f"{how}: it says why", (A if how == "refused" else "it has failed") in said, said)
    LVM.at = None
    look(OTHER, "verify -P 1 0 512k")
    sound(f"twin, {how}")


def test_twin():
    """Who comes second with a UUID takes nothing from who came first, however he fails."""
    twin("refused")
    twin("a report fails")


def test_alike():
    """Volumes whose names agree in 60 bits: who puts one to rest, and who makes the other, do not wait for each
    other."""
    nothing()
    first, second = ("cccccccc-1111-4222-8333-00000000000" + digit for digit in "12")
    base(uuid=first)
    held = Held(lambda request: request.command == "fullreport" and request.is_writers())
    making = start("volume", "create", "-f", "qcow2", f"{D}/{OTHER}", "1M", "--uuid", second)
    held.wait("create")
    pathlib.Path(f"/run/vdisk-io/{U}/{first}").touch() # as who was killed leaves it
    os.symlink(lv(first).loop.path, f"{D}/{first}")
    looking = start("io", "-q", "-r", "-c", "verify -P 1 0 512k", f"volume:{D}/{IMAGE}")
    ends_soon(looking)
    held.end()
    end("one is made", making)
    end("the other one is looked at", looking)
    sound("alike")


def test_file_in_place():
    """Who has written to a volume that was not active has made a file in its place."""
    for name, commands in ((A, (("volume", "delete", "--wipe", f"{D}/{IMAGE}/{A}"),
                                ("volume", "resize", f"{D}/{IMAGE}", "2M"),
                                ("io", "-c", "write 0 64k", f"volume:{D}/{IMAGE}"))),
                           ("metadata", (("domain", "check", D), ("volume", "resize", f"{D}/{IMAGE}", "2M"),
                                         ("volume", "create", "-f", "qcow2", D, "1M")))):
        nothing()
        base("raw")
        if os.path.lexists(f"{D}/{name}"):
            os.unlink(f"{D}/{name}")
        pathlib.Path(f"{D}/{name}").write_bytes(b"what somebody has written" + bytes(4 * MIB))
        before = tags()
        for command in commands:
            r = run(*command)
            said = (r.stdout + r.stderr).lower()
            check(f"{command}: told of the file", r.returncode in (1, 2) and "block device" in said,
                  f"{r.returncode} {said}")
            check(f"{command}: all is as it was", tags() == before and any(lv(A).loop.read(0, 4096)), tags())
            check(f"{command}: so is the file", pathlib.Path(f"{D}/{name}").read_bytes()[:4] == b"what")


def test_stale_slot():
    """A half-made volume has not what was left in its slot: that holds no template of others."""
    nothing()
    clone()
    works("image", "delete", f"{D}/{IMAGE}")
    held = Held(is_command("lvcreate"))
    killed = start("volume", "create", "-f", "qcow2", f"{D}/{THIRD}", "1M", "--uuid", C)
    held.wait("create")
    killed.kill()
    killed.communicate()
    held.end()
    works("domain", "info", D) # waits for lvm
    r = run("image", "delete", f"{D}/{OTHER}")
    check("the template goes", r.returncode == 0 and not has(A), r.stderr)
    check("the slot says what is in it", not has(C) or f"IMAGE={THIRD}" in text_of(slot_of(C)), tags())
    works("domain", "check", "--repair", D)
    sound("stale slot")


def merged_full(file, half, size):
    """A file is uploaded whose first half is written; the second, by a snapshot that is merged then."""
    with open(file, "rb") as f:
        r = subprocess.run([lib.TOOL, "volume", "upload", "-f", "qcow2", D, f"{size}M"], stdin=f,
                           capture_output=True, text=True, check=False)
    check(f"{file} is uploaded", r.returncode == 0, r.stderr)
    image, name = r.stdout.strip().split("/")
    top = volume("snapshot", f"{D}/{image}")[1]
    io(image, f"write -P 2 {half}M {size - half}M", "flush")
    works("volume", "merge", f"{D}/{image}/{top}")
    look(image, f"verify -P 2 {half}M {size - half}M", *([f"verify -P 1 0 {half}M"] if half else []))
    return lv(name).size


def test_room():
    """A base of small clusters, whose tables take more than those of others would; and one with a snapshot inside,
    which keeps what is written over."""
    nothing()
    works("create", "-q", "-f", "qcow2", "-o", "cluster_size=512,refcount_bits=64", "small.qcow2", "48M")
    works("io", "-q", "-f", "qcow2", "-c", "write -P 1 0 24M", "small.qcow2")
    size = merged_full("small.qcow2", 24, 48)
    check("its tables have room, too", size > 48 * MIB + (48 * MIB // 512) * 16, size)
    if not shutil.which("qemu-img"):
        print("no qemu-img: no snapshot inside a volume")
        return
    works("create", "-q", "-f", "qcow2", "inside.qcow2", "4M")
    works("io", "-q", "-f", "qcow2", "-c", "write -P 1 0 4M", "inside.qcow2")
    subprocess.run(["qemu-img", "snapshot", "-c", "s", "inside.qcow2"], check=True)
    size = merged_full("inside.qcow2", 0, 4)
    check("so has what the snapshot keeps", size > 8 * MIB, size)


# ---- killed -----------------------------------------------------------------------------------------------------


def stepped(command, **variables):
    process = start(*command, tool=STEP_TOOL, **variables)
    _, errors = process.communicate()
    return process.returncode, errors


def killed_at_step(saved, command, step, times):
    LVM.restore(saved)
    return stepped(command, KILL=step, AFTER=str(times))[0]


def killed_at_lvm(saved, command, n):
    """At its nth change: lvm does it all the same."""
    LVM.restore(saved)
    count = []

    def at(request, done):
        if not done and request.command in CHANGES:
            count.append(request)
            if len(count) == n + 1:
                os.kill(request.caller(), signal.SIGKILL)
    LVM.at = at
    code = stepped(command)[0]
    LVM.at = None
    return code


def repaired(what, before, after, marks):
    r = run("domain", "check", "--repair", D)
    check(f"{what}: all is repaired", r.returncode == 0, r.stdout + r.stderr)
    r = run("domain", "check", D)
    check(f"{what}: nothing is left", r.returncode == 0, r.stdout + r.stderr)
    resting(what)
    judged(f"{what}, repaired", marks)
    check(f"{what}: either", content() in (before, after))


def goes_on(what, command, before, after):
    """The next command on the image, then the operation again."""
    r = run("volume", "update", f"{D}/{IMAGE}", "--description", "next")
    left = content()
    check(f"{what}: the next command leaves either", left in (before, after), f"{left} {r.stderr}")
    again = run(*command)
    check(f"{what}: once more", again.returncode == 0 or left == after, again.stderr)
    check(f"{what}: done in the end", content() == after, f"{content()} {again.stderr}")
    sound(f"{what}, once more")


def scenario(name, setup, *command):
    nothing()
    setup()
    before, saved, changes = content(), LVM.save(U), []
    LVM.at = lambda request, done: changes.append(request.command) if done and request.command in CHANGES else None
    pathlib.Path("steps").write_text("")
    code, errors = stepped(command, STEPS=f"{os.getcwd()}/steps")
    LVM.at = None
    check(f"{name} works", code == 0, errors)
    steps, after = pathlib.Path("steps").read_text().splitlines(), content()
    seen.update(steps)
    sound(name)
    kills = [(f"{name}, killed at '{step}'", killed_at_step, (step, steps[:n].count(step)))
             for n, step in enumerate(steps)]
    kills += [(f"{name}, killed at {change} ({n + 1})", killed_at_lvm, (n,)) for n, change in enumerate(changes)]
    for n, (what, kill, where) in enumerate(kills): # at lvm's one of the two by turns: steps are near to most
        if n < len(steps) or n % 2 == 0:
            check(what, kill(saved, command, *where) == -signal.SIGKILL)
            repaired(what, before, after, command[1] == "merge")
        if n < len(steps) or n % 2 == 1:
            check(what, kill(saved, command, *where) == -signal.SIGKILL)
            goes_on(what, command, before, after)


def test_killed():
    scenario("create", nothing, "volume", "create", "-f", "qcow2", f"{D}/{IMAGE}", "1M", "--uuid", A)
    scenario("snapshot", chain("raw", 1), "volume", "snapshot", f"{D}/{IMAGE}", "2M", "--uuid", B)
    scenario("clone", template, "image", "clone", f"{D}/{OTHER}", "--image", IMAGE, "--uuid", B)
    scenario("delete and clear", chain("qcow2", 2), "volume", "delete", "--wipe", f"{D}/{IMAGE}/{B}")
    scenario("image delete and clear", chain("raw", 2), "image", "delete", "--wipe", f"{D}/{IMAGE}")
    scenario("merge into raw", chain("raw", 2), "volume", "merge", f"{D}/{IMAGE}/{B}")
    scenario("merge and clear", chain("qcow2", 2), "volume", "merge", "--wipe", f"{D}/{IMAGE}/{B}")
    scenario("merge amid", chain("qcow2", 3), "volume", "merge", f"{D}/{IMAGE}/{B}")
    scenario("copy volumes", chain("raw", 2, OTHER), "image", "copy", "--volumes", f"{D}/{OTHER}", D,
             "--image", IMAGE)
    scenario("extend", thin, "volume", "extend", f"{D}/{IMAGE}", "4M")
    scenario("reduce", leaking, "volume", "reduce", f"{D}/{IMAGE}")
    scenario("resize", chain("raw", 1), "volume", "resize", f"{D}/{IMAGE}", "2M")
    named = set()
    for file in SOURCE.glob("*.c"):
        named |= set(re.findall(r'dom_step\("([^"]+)"\)', file.read_text()))
    named = {step for step in named if not step.startswith(("domain create", "upgrade"))} # of folders
    check("each step was killed at", seen == named, f"not {named - seen}; unknown {seen - named}")


TESTS = {name: value for name, value in list(globals().items()) if name.startswith("test_")}
ASKED = ["test_create", *sys.argv[4:]] if sys.argv[4:] else set(TESTS) - {"test_killed"} # all need the domain


def test_all():
    global LVM
    LVM = fake_lvm.Lvm(CLIENT)
    try:
        check("there are such tests", set(ASKED) <= set(TESTS), ASKED)
        for name, test in TESTS.items():
            if name in ASKED:
                test()
    finally:
        LVM.close()


fake_lvm.enter()
lib.main(test_all)
