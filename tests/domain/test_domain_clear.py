#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Volumes and images that are wiped, or discarded, before they go: what their data was is looked at by a
descriptor that was opened before.

usage: test_domain_clear.py VDISK_IO STEP_TOOL
"""
import os
import pathlib
import signal
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import lib  # noqa: E402
from lib import MIB, chain, check, checksum, file_of, find, io, judged, make, told, volume, works  # noqa: E402

STEP_TOOL = os.path.realpath(sys.argv[2])


class Data:
    """The data of a volume, by a descriptor that stays when its name goes."""

    def __init__(self, path, image, name):
        self.file = file_of(path, image, name)
        self.fd = os.open(self.file, os.O_RDONLY)
        self.before = os.fstat(self.fd)
        check("it has data", not self.is_zero())

    def is_zero(self):
        data = os.pread(self.fd, os.fstat(self.fd).st_size, 0)
        return data.count(0) == len(data)

    def judge(self, what, gone=True, wiped=True, discarded=False):
        now = os.fstat(self.fd)
        check(f"{what}: it is gone", gone != os.path.exists(self.file))
        check(f"{what}: zeros", self.is_zero() == wiped)
        check(f"{what}: as long as before", now.st_size == self.before.st_size)
        if discarded:
            check(f"{what}: its space is given back", now.st_blocks == 0, now)
        else:
            check(f"{what}: in place", now.st_blocks == self.before.st_blocks, (now, self.before))


def kinds(path):
    for fmt in ("raw", "qcow2"):
        for kind in ("sparse", "preallocated"):
            image, name = volume("create", "-f", fmt, "-a", kind, path, "70M")
            io(path, image, name, "write -P 7 1M 40M", "write -P 8 69M 1M")
            yield image, name


def test_volume():
    path = make("volumes")
    for image, name in kinds(path):
        data = Data(path, image, name)
        before = lib.snapshot_of(path)
        check("a dry run tells", "would be deleted" in works("volume", "delete", "--wipe", "--dry-run",
                                                             f"{path}/{image}").stdout)
        check("and changes nothing", lib.snapshot_of(path) == before)
        said = told("volume", "delete", "--wipe", "--rate", "4G", "-p", f"{path}/{image}/{name}")
        data.judge("volume delete --wipe")
        check("all of it", 41 * MIB <= said["wiped"] <= data.before.st_blocks * 512 and said["deleted"] and
              said["volume"] == name and said["discarded"] == 0, said)
    for image, name in kinds(path):
        data = Data(path, image, name)
        said = told("volume", "delete", "--discard", f"{path}/{image}/{name}")
        data.judge("volume delete --discard", discarded=True)
        check("without zeros", said["wiped"] == 0 and said["discarded"] == data.before.st_size, said)
    lib.refused("is no size", "volume", "delete", "--rate", "x", f"{path}/{lib.GOLDEN_ID}")
    check("nothing is left", os.listdir(f"{path}/images") == [])


def test_image():
    path = make("images")
    for more, how in ((("--wipe",), {}), (("--discard",), {"discarded": True}),
                      (("--wipe", "--discard"), {"discarded": True})):
        image, volumes = chain(path, "qcow2")
        data = [Data(path, image, name) for name in volumes]
        said = told("image", "delete", *more, f"{path}/{image}")
        for d in data:
            d.judge(f"image delete {more}", **how)
        check("it is told", said["image"] == image and said["deleted"] and
              (said["wiped"] > 512 * 1024) == ("--wipe" in more), said)
    image, (base,) = chain(path, length=1)
    data = Data(path, image, base)
    works("image", "delete", f"{path}/{image}")
    data.judge("without", wiped=False)


def test_other_names():
    """What another image has, too, is not wiped; nor what has a name anywhere."""
    path = make("names")
    template, below = volume("create", "-f", "qcow2", path, "1M")
    io(path, template, below, "write -P 1 0 512k")
    works("volume", "update", f"{path}/{template}", "--shared")
    content = checksum(path, template, below)
    for verb in ("image", "volume"):
        clone, top = works("image", "clone", f"{path}/{template}").stdout.strip().split("/")
        io(path, clone, top, "write -P 2 256k 64k")
        data = Data(path, clone, top)
        r = works(verb, "delete", "--wipe", "--discard", f"{path}/{clone}")
        check("nothing to tell", r.stderr == "", r.stderr)
        data.judge("of the clone", discarded=True)
        check("the template is as it was", checksum(path, template, below) == content)
        check("the clone is gone", os.listdir(f"{path}/images") == [template])
    judged(path)
    os.link(file_of(path, template, below), "precious")
    data = Data(path, template, below)
    r = works("image", "delete", "--wipe", "--discard", f"{path}/{template}")
    check("it is told", f"volume {below}: its data has 2 names: it is not written to" in r.stderr, r.stderr)
    data.judge("another name", wiped=False)


def killed(step, *arguments):
    r = lib.run(*arguments, tool=STEP_TOOL, env={**os.environ, "VDISK_TEST_KILL": step})
    check(f"killed at {step}", r.returncode == -signal.SIGKILL, r.stderr)


def test_killed():
    """Who is killed has his wiping done by the next one."""
    path = make("killed")
    image, (base, top) = chain(path, "qcow2", 2)
    data = Data(path, image, top)
    killed("delete: volume is unpublished", "volume", "delete", "--wipe", f"{path}/{image}")
    data.judge("killed", gone=False, wiped=False)
    works("image", "copy", "--volumes", f"{path}/{image}", path)
    data.judge("killed", gone=False, wiped=False)
    check("check tells", "was being removed" in find(path).stdout)
    works("volume", "update", f"{path}/{image}/{base}", "--description", "next")
    data.judge("the next command")
    data = Data(path, image, base)
    for again in (("image", "delete", f"{path}/{image}"), ("domain", "check", "--repair", path)):
        killed("image delete: image is renamed", "image", "delete", "--wipe", f"{path}/{image}")
        check("as its name says", f"_remove_me_ZERO_{image}" in os.listdir(f"{path}/images"))
        data.file = pathlib.Path(f"{path}/images/_remove_me_ZERO_{image}/{base}")
        data.judge("killed", gone=False, wiped=False)
        check("check tells", "they are to be wiped" in find(path).stdout)
        works(*again)
        data.judge(f"{again[:2]}")
        image, (base,) = chain(path, "qcow2", 1)
        data = Data(path, image, base)
    # One that was deleted without, and is to be wiped after all.
    killed("image delete: image is renamed", "image", "delete", f"{path}/{image}")
    works("image", "delete", "--wipe", f"{path}/{image}")
    data.file = pathlib.Path("none")
    data.judge("wiped later")
    judged(path)


def limited(*arguments):
    return subprocess.run(["prlimit", "--fsize=65536", lib.TOOL, *arguments], capture_output=True, text=True,
                          check=False)


def test_half_made():
    """What one who was killed has left of an image is wiped with it; also where that fails at first."""
    path = make("half")
    for verb in ("volume", "image"):
        image, (_, top) = chain(path, "qcow2", 2)
        other = "eeeeeeee-0000-4000-8000-00000000000e"
        works("create", "-q", "-f", "qcow2", "made", "1M")
        works("io", "-f", "qcow2", "-c", "write -P 9 0 1M", "made")
        works("rebase", "-q", "-u", "-f", "qcow2", "-b", top, "-F", "qcow2", "made")
        with open("made", "rb") as f:
            r = subprocess.run([STEP_TOOL, "volume", "upload", "-f", "qcow2", "--parent", top, "--uuid", other,
                                f"{path}/{image}", "1M"], stdin=f, capture_output=True, check=False,
                               env={**os.environ, "VDISK_TEST_KILL": "create: data is written"})
        check("killed", r.returncode == -signal.SIGKILL, r.stderr)
        data = Data(path, image, other)
        if verb == "volume":
            r = limited(verb, "delete", "--wipe", f"{path}/{image}")
            check("it fails", r.returncode == 1, r.stderr)
            check("that it is to be wiped is known", file_of(path, image, other, ".wipe").exists())
            works("domain", "check", "--repair", path)
        else:
            works(verb, "delete", "--wipe", f"{path}/{image}")
        data.judge(f"{verb} delete --wipe")
    judged(path)


def test_no_writing():
    """What cannot be wiped stays, and is told of; the rest of the image goes on."""
    path = make("stuck")
    image, (base, top) = chain(path, "qcow2", 2)
    data = Data(path, image, top)

    r = limited("volume", "delete", "--wipe", f"{path}/{image}")
    check("it fails", r.returncode == 1 and "too large" in r.stderr.lower(), r.stderr)
    check("it stays", os.path.exists(data.file))
    r = limited("domain", "check", "--repair", path)
    check("and is told of", r.returncode == 2 and "cannot be wiped" in r.stdout, r.stdout)
    check("it stays", os.path.exists(data.file))
    works("volume", "snapshot", f"{path}/{image}/{base}")
    data.judge("in the end")
    check("nothing is found", told("domain", "check", path)["faults"] == 0)
    judged(path)


def test_nfs():
    """There a file that is open when its name goes gets another one, until it is closed; its folder stays."""
    path = make("nfs")
    for verb in ("volume", "image"):
        for more in ((), ("--wipe",), ("--discard",)):
            image, volumes = chain(path, "qcow2", 1 if verb == "volume" else 3)
            data = Data(path, image, volumes[0])
            works(verb, "delete", *more, f"{path}/{image}", tool=STEP_TOOL,
                  env={**os.environ, "VDISK_TEST_NFS": "names"})
            check(f"{verb} delete {more}: nothing is left", os.listdir(f"{path}/images") == [],
                  os.listdir(f"{path}/images"))
            check(f"{verb} delete {more}: what was to go is gone", data.is_zero() == bool(more))


def test_merge():
    """What a merged volume held is in its parent, and nowhere else."""
    path = make("merges")
    for n in (1, 2): # amid the chain, and the leaf
        image, volumes = chain(path, "qcow2", 3)
        content = checksum(path, image, volumes[2])
        data = Data(path, image, volumes[n])
        works("volume", "merge", "--wipe", "--dry-run", f"{path}/{image}/{volumes[n]}")
        data.judge("dry run", gone=False, wiped=False)
        works("volume", "merge", "--wipe", f"{path}/{image}/{volumes[n]}")
        data.judge("merge --wipe")
        check("it reads as before", checksum(path, image, volumes[2 if n == 1 else 1]) == content)
        works("image", "delete", f"{path}/{image}")
    image, volumes = chain(path, "qcow2", 2)
    data = Data(path, image, volumes[1])
    works("volume", "merge", f"{path}/{image}/{volumes[1]}")
    data.judge("merge", wiped=False)


def test_merge_killed():
    """Who ends the merge does the wiping, whether or not he was told to."""
    path = make("ended")
    for step, again in (("merge: volume is marked", ("volume", "merge")),
                        ("merge: base has the data", ("volume", "merge")),
                        ("merge: child's header names the base", ("domain", "check", "--repair")),
                        ("merge: child's parent is the base", ("domain", "check", "--repair")),
                        ("merge: volume is unpublished", ("domain", "check", "--repair"))):
        image, volumes = chain(path, "qcow2", 3)
        content = checksum(path, image, volumes[2])
        data = Data(path, image, volumes[1])
        killed(step, "volume", "merge", "--wipe", f"{path}/{image}/{volumes[1]}")
        data.judge(step, gone=False, wiped=False)
        works(*again, f"{path}/{image}/{volumes[1]}" if again[0] == "volume" else path)
        data.judge(f"{step}, ended")
        check(f"{step}: it reads as before", checksum(path, image, volumes[2]) == content)
        check(f"{step}: nothing is left", told("domain", "check", path)["faults"] == 0)
    # Marked by one who was not to wipe.
    image, volumes = chain(path, "qcow2", 3)
    data = Data(path, image, volumes[1])
    killed("merge: base has the data", "volume", "merge", f"{path}/{image}/{volumes[1]}")
    works("volume", "merge", "--wipe", f"{path}/{image}/{volumes[1]}")
    data.judge("told later")
    judged(path)


lib.main(test_volume, test_image, test_other_names, test_killed, test_half_made, test_no_writing, test_nfs,
         test_merge, test_merge_killed)
