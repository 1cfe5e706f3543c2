#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Storage domains: all verbs, in domains that are made here and in one that Vdsm has made, judged by vdsm.py.

usage: test_domain.py VDISK_IO GOLDEN
"""
import hashlib
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import lib  # noqa: E402
from lib import (MIB, check, checksum, io, judged, make, meta_of, refused, set_meta, told, volume,  # noqa: E402
                 works)
import vdsm  # noqa: E402

GOLDEN = os.path.realpath(sys.argv[2])
I1, I2, I3, I4, I5, I6 = (f"0000000{n}-0000-4000-8000-00000000000{n}" for n in range(1, 7))
V11, V21, V31, V15, V16 = (f"000000{n}-0000-4000-8000-0000000000{n}" for n in (11, 21, 31, 15, 16))
NEW = "aaaaaaaa-0000-4000-8000-00000000000a"


# ---- domains -------------------------------------------------------------------------------------------------


def test_create():
    for version in (5, 4, 3):
        path = make(f"v{version}", "--domain-version", version, "--description", "café & co", "--remote-path",
                    "/x")
        domain = judged(path)
        check("description", domain and domain.md["DESCRIPTION"] == "café & co" and
              domain.md["REMOTE_PATH"] == "/x")
        said = told("domain", "info", f"v{version}")
        check("info", said["uuid"] == os.path.basename(path) and said["version"] == version, said)
        check("metadata in info", domain and said["metadata"] == domain.md, said)
        image, name = volume("create", "-f", "qcow2", path, "1M")
        volume("snapshot", f"{path}/{image}")
        volume("create", path, "1M")
        judged(path)
    nfs = make("nfs", "--type", "nfs", "--uuid", NEW)
    domain = judged(nfs)
    check("type", domain and domain.md["TYPE"] == "NFS")
    data = pathlib.Path(f"{nfs}/dom_md/xleases").read_bytes()
    mtime = int(data[MIB + 59:MIB + 69])
    check("external leases", data[MIB:MIB + 62 * 4096] == vdsm.xleases(NEW, mtime) and
          abs(mtime - time.time()) < 1000)
    check("list", [d["uuid"] for d in told("domain", "list", "nfs", "v5")][0] == NEW)
    works("domain", "create", "v5")
    refused("there are 2 storage domains", "domain", "info", "v5")
    refused("is there already", "domain", "create", "nfs", "--uuid", NEW)
    refused("it has to be a UUID", "domain", "create", "nfs", "--uuid", "me")
    refused("version 6", "domain", "create", "nfs", "--domain-version", "6")
    refused("--type takes localfs, nfs or block,", "domain", "create", "nfs", "--type", "iscsi")
    refused("there is no storage domain", "domain", "info", ".")
    check("nothing else is left", sorted(os.listdir("nfs")) == [NEW], os.listdir("nfs"))


def test_seal():
    path = make("seal")
    file = pathlib.Path(f"{path}/dom_md/metadata")
    text = file.read_text()
    file.write_text(text.replace("ROLE=Regular", "ROLE=Master"))
    refused("the checksum is", "domain", "info", path)
    refused("the checksum is", "volume", "create", path, "1M")
    file.write_text(re.sub("_SHA_CKSUM.*\n", "", text))
    works("domain", "info", path)
    file.write_text(text.replace("VERSION=5", "VERSION=2"))
    refused("the checksum is", "domain", "info", path)


# ---- volumes --------------------------------------------------------------------------------------------------


def test_kinds():
    """Format and allocation, with sizes and what is allocated."""
    path = make("kinds")
    for fmt, word in (("raw", "RAW"), ("qcow2", "COW")):
        for kind in ("sparse", "preallocated"):
            said = told("volume", "create", "-f", fmt, "-a", kind, path, str(8 * MIB - 1), "--disk-type", "OVFS")
            text = meta_of(path, said["image"], said["volume"])
            check("size is rounded", said["capacity"] == 8 * MIB and f"CAP={8 * MIB}\n" in text, said)
            check("kind", f"FORMAT={word}\n" in text and f"TYPE={kind.upper()}\n" in text and
                  "DISKTYPE=OVFS" in text)
            st = os.stat(f"{path}/images/{said['image']}/{said['volume']}")
            check("allocated", said["allocated"] == st.st_blocks * 512, said)
            if kind == "preallocated":
                check("all is allocated", said["allocated"] >= said["asked"] >= 8 * MIB, said)
            else:
                check("little is allocated", said["allocated"] < MIB and said["asked"] == 0, said)
            name = f"{path}/{said['image']}/{said['volume']}"
            info = told("volume", "info", name)
            check("info", (info["format"], info["allocation"], info["capacity"], info["role"]) ==
                  (fmt, kind, 8 * MIB, "LEAF"), info)
            over = told("volume", "snapshot", f"{path}/{said['image']}", "-a", kind)
            check("of a child, too", (over["asked"] > 8 * MIB) == (kind == "preallocated") and
                  over["allocated"] >= over["asked"], over)
    domain = judged(path)
    check("all are there", domain and len(told("volume", "list", path)) == 8)


def test_rules():
    path = make("rules")
    image, base = volume("create", "-f", "raw", path, "1M")
    at = f"{path}/{image}"
    refused("a raw volume has no parent", "volume", "create", at, "--parent", base)
    refused("is less than that of the parent", "volume", "snapshot", at, "512K")
    refused("a volume without a parent is the first", "volume", "create", at, "1M")
    refused("needs a capacity", "volume", "create", path)
    refused("is no type of a disk", "volume", "create", path, "1M", "--disk-type", "ROOT")
    refused("an initial size is for preallocated", "volume", "create", path, "1M", "--initial-size", "0")
    refused("an initial size is for volumes on block", "volume", "create", "-f", "qcow2", path, "1M",
            "--initial-size", "1M")
    refused("more than the capacity", "volume", "create", "-a", "preallocated", path, "1M", "--initial-size", "2M")
    works("volume", "create", "-a", "preallocated", path, "1M", "--initial-size", "1M")
    refused("it has to be a UUID", "volume", "create", f"{path}/{image}", "1M", "--parent", "x")
    refused("has no volume", "volume", "create", "-f", "qcow2", at, "--parent", NEW)
    refused("no line of text", "volume", "create", path, "1M", "--description", "a\nb")
    refused("at most 512 bytes", "volume", "create", path, "1M", "--description", "é" * 210)
    _, top = volume("snapshot", at, "2M", "--description", "d" * 300)
    check("the description is cut", f"DESCRIPTION={'d' * 210}\n" in meta_of(path, image, top))
    refused("has a child already", "volume", "create", "-f", "qcow2", at, "--parent", base)
    refused("data of that name", "volume", "snapshot", at, "--uuid", base)
    refused("has a child: only", "volume", "delete", f"{at}/{base}")
    refused("only a leaf gets another size", "volume", "resize", f"{at}/{base}", "4M")
    refused("is not made smaller", "volume", "resize", at, "1M")
    refused("it has no parent", "volume", "merge", f"{at}/{base}")
    refused("name the volume that is to go", "volume", "merge", at)
    refused("becomes a template", "volume", "update", at, "--shared")
    refused("nothing is to be changed", "volume", "update", at)
    refused("generation 0, not 5", "volume", "update", at, "--generation", "5", "--description", "x")
    works("volume", "update", at, "--generation", "0", "--description", "x")
    check("the generation is counted", "GEN=1\n" in meta_of(path, image, top))
    set_meta(path, image, top, "GEN=1", "GEN=999")
    works("volume", "update", at, "--generation", "999", "--sequence", "7")
    check("and wraps", "GEN=0\n" in meta_of(path, image, top) and "SEQ=7\n" in meta_of(path, image, top))
    works("volume", "update", at, "--legality", "ILLEGAL")
    refused("only a LEGAL volume can be one", "volume", "snapshot", at)
    refused("only LEGAL volumes are merged", "volume", "merge", f"{at}/{top}")
    refused("only volumes that are LEGAL are used", "volume", "prepare", at)
    works("volume", "update", at, "--legality", "LEGAL")
    refused("takes no option --format", "volume", "snapshot", "-f", "qcow2", at)
    refused("no action 'frob'", "volume", "frob", at)
    refused("takes 1 operand", "volume", "info", at, at)
    refused("is no domain, and no name", "volume", "info", "nowhere")
    check("SEQ goes on", "SEQ=8\n" in meta_of(path, image, volume("snapshot", at)[1]))
    judged(path)


def test_no_space():
    """What cannot be made leaves nothing."""
    path = make("full")
    image, base = volume("create", path, "1M")
    before = lib.snapshot_of(path)

    def fails(*arguments):
        r = subprocess.run(["prlimit", "--fsize=1048576", lib.TOOL, *arguments], capture_output=True, text=True,
                           check=False)
        check(f"fails: {arguments}", r.returncode == 1 and "too large" in r.stderr.lower(), r.stderr)
        after = lib.snapshot_of(path)
        check("nothing is left", {k: v[5:] for k, v in after.items()} == {k: v[5:] for k, v in before.items()},
              sorted(set(after) ^ set(before)))

    fails("volume", "create", "-a", "preallocated", path, "8M")
    fails("volume", "create", "-a", "preallocated", "-f", "qcow2", path, "8M")
    fails("volume", "snapshot", "-a", "preallocated", f"{path}/{image}", "8M")
    fails("volume", "resize", f"{path}/{image}/{base}", "8M")
    judged(path)


def test_foreign_names():
    """A header that says something else than the metadata is not followed."""
    path = make("foreign")
    image, base = volume("create", path, "1M")
    _, top = volume("snapshot", f"{path}/{image}")
    file = f"{path}/images/{image}/{top}"
    for backing, fmt, why in (("/etc/passwd", "raw", "lies on '/etc/passwd'"),
                              (base, "qcow2", "'qcow2', and it is")):
        works("rebase", "-q", "-u", "-f", "qcow2", "-b", backing, "-F", fmt, file)
        for verb in ("resize", "merge", "prepare"):
            refused(why.split("'")[1], "volume", verb, f"{path}/{image}/{top}",
                    *(["2M"] if verb == "resize" else []))
        refused(why.split("'")[1], "info", f"volume:{path}/{image}")
        check("check finds it", why in lib.run("domain", "check", path).stdout)
    works("rebase", "-q", "-u", "-f", "qcow2", "-b", base, "-F", "raw", file)
    judged(path)


def test_damaged():
    """Metadata that cannot be read is an error, never guessed; all else goes on."""
    path = make("damaged")
    image, name = volume("create", path, "1M")
    other, _ = volume("create", path, "1M")
    text = meta_of(path, image, name)
    file = pathlib.Path(f"{path}/images/{image}/{name}.meta")
    for bad, why in ((text.replace("FORMAT=RAW", "FORMAT=raw"), "FORMAT=raw is no value"), ("", "has no CTIME"),
                     (text.replace("DOMAIN=", "NAME="), "has no DOMAIN"), ("x" * 600, "more than 512")):
        file.write_text(bad)
        refused(why, "volume", "snapshot", f"{path}/{image}")
        refused(why, "volume", "resize", f"{path}/{image}/{name}", "2M")
        r = lib.run("domain", "check", path)
        check("check finds it", r.returncode == 2 and why in r.stdout, r.stdout)
        check("info tells", why in told("volume", "info", f"{path}/{image}/{name}")["trouble"])
    works("volume", "snapshot", f"{path}/{other}")
    file.write_text(text)
    judged(path)


def test_check():
    path = make("check")
    image, base = volume("create", "-f", "qcow2", path, "1M")
    _, top = volume("snapshot", f"{path}/{image}")
    folder = f"{path}/images/{image}"

    def finds(text, code, *more):
        r = lib.run("domain", "check", path, *more)
        check(f"check says {text}", r.returncode == code and text in r.stdout,
              f"{r.returncode} {r.stdout}{r.stderr}")

    finds("0 faults", 0)
    works("resize", "-q", f"{folder}/{top}", "2M")
    finds("has 2097152 bytes, and its metadata says 1048576", 2)
    finds("says 2097152 bytes now", 0, "--repair")
    set_meta(path, image, base, "VOLTYPE=INTERNAL", "VOLTYPE=LEAF")
    finds("has a child, and its metadata says LEAF", 2)
    finds("1 mended", 0, "--repair")
    judged(path)
    shutil.copy(f"{folder}/{base}", f"{folder}/{NEW}")
    finds("data without metadata", 2, "--repair")
    check("what nothing says the owner of stays", os.path.exists(f"{folder}/{NEW}"))
    os.unlink(f"{folder}/{NEW}")
    set_meta(path, image, top, f"PUUID={base}", f"PUUID={NEW}")
    finds(f"its parent {NEW} is not there", 2)
    set_meta(path, image, top, f"PUUID={NEW}", f"PUUID={base}")
    pathlib.Path(f"{folder}/notes.txt").touch()
    finds("'notes.txt' is no file of a volume", 0)
    os.unlink(f"{folder}/notes.txt")
    os.makedirs(f"{path}/images/_remove_me_{NEW}")
    pathlib.Path(f"{path}/images/_remove_me_{NEW}/x").touch()
    finds("is deleted, and its files are still there", 2)
    finds("its files are removed", 0, "--repair")
    set_meta(path, image, base, "PUUID=00000000-0000-0000-0000-000000000000", f"PUUID={top}")
    finds("volume", 2) # a circle ends
    set_meta(path, image, base, f"PUUID={top}", "PUUID=00000000-0000-0000-0000-000000000000")
    os.makedirs(f"{path}/images/{NEW}")
    finds("has no volume of its own", 2)
    finds("is removed", 0, "--repair")
    said = told("domain", "check", path)
    check("JSON", said["faults"] == 0 and said["volume-count"] == 2 and said["findings"] == [], said)
    judged(path)


# ---- data -----------------------------------------------------------------------------------------------------


def make_chain(path, fmt, sizes):
    """An image of so many volumes, each with data of its own; (image, volumes from the base up)."""
    image, base = volume("create", "-f", fmt, path, sizes[0])
    volumes = [base]
    for size in sizes[1:]:
        volumes.append(volume("snapshot", f"{path}/{image}", size)[1])
    return image, volumes


def test_merge():
    path = make("merge")
    for fmt in ("raw", "qcow2"):
        for at in (1, 2, 3):
            image, base = volume("create", "-f", fmt, path, "2M")
            io(path, image, base, "write -P 1 0 2M")
            volumes = [base]
            for n, size in ((2, "2M"), (3, "4M"), (4, "4M")):
                volumes.append(volume("snapshot", f"{path}/{image}", size)[1])
                io(path, image, volumes[-1], f"write -P {n} {n * 64}k 256k", f"write -z {n * 100 + 700}k 64k")
            io(path, image, volumes[2], "write -P 9 3M 64k")
            before = checksum(path, image, volumes[3])
            works("volume", "merge", "--dry-run", f"{path}/{image}/{volumes[at]}")
            works("volume", "merge", f"{path}/{image}/{volumes[at]}")
            del volumes[at]
            domain = judged(path)
            check("the chain is shorter", domain and domain.chain(image) == volumes[::-1])
            check("the image reads the same", checksum(path, image, volumes[-1]) == before, f"{fmt} {at}")
            check("one generation more", "GEN=1\n" in meta_of(path, image, volumes[at - 1]))
            works("volume", "delete", f"{path}/{image}/{volumes[-1]}")
            judged(path)
            works("image", "delete", f"{path}/{image}")
    check("nothing is left", os.listdir(f"{path}/images") == [])


def test_resize():
    path = make("resize")
    for fmt in ("raw", "qcow2"):
        for kind in ("sparse", "preallocated"):
            image, name = volume("create", "-f", fmt, "-a", kind, path, "1M")
            works("volume", "resize", f"{path}/{image}", "3M")
            check("capacity", f"CAP={3 * MIB}\n" in meta_of(path, image, name))
            blocks = os.stat(f"{path}/images/{image}/{name}").st_blocks * 512
            check("preallocated as it was", (blocks >= 3 * MIB) == (kind == "preallocated"), blocks)
    judged(path)
    # Larger than its metadata says, as a kill leaves it.
    works("resize", "-q", "-f", "qcow2", f"{path}/images/{image}/{name}", "5M")
    r = works("volume", "prepare", f"{path}/{image}")
    check("prepare mends it and says so", "its capacity is 5242880 bytes" in r.stderr, r.stderr)
    check("prepare prints the path", r.stdout == os.path.realpath(f"{path}/images/{image}/{name}") + "\n",
          r.stdout)
    judged(path)


def test_templates():
    path = make("templates")
    image, name = volume("create", "-f", "qcow2", path, "1M")
    io(path, image, name, "write -P 5 0 1M")
    refused("only a SHARED volume", "image", "clone", f"{path}/{image}")
    works("volume", "update", f"{path}/{image}", "--shared")
    refused("is a template: what lies on it", "volume", "snapshot", f"{path}/{image}")
    clone, top = works("image", "clone", f"{path}/{image}").stdout.strip().split("/")
    volume("create", "-f", "qcow2", f"{path}/{NEW}", "2M", "--parent", f"{image}/{name}")
    judged(path)
    check("the clone reads as the template", checksum(path, clone, top) == checksum(path, image, name))
    refused("is a template that 2 images lie on", "image", "delete", f"{path}/{image}")
    refused("2 images lie on", "volume", "delete", f"{path}/{image}/{name}")
    refused("has a child: only", "volume", "delete", f"{path}/{clone}/{name}")
    refused("a template (SHARED) is not changed", "volume", "merge", f"{path}/{clone}/{top}")
    refused("is shared by 3 images", "volume", "update", f"{path}/{image}", "--description", "x")
    works("volume", "delete", f"{path}/{clone}/{top}")
    check("with its last volume an image goes", sorted(os.listdir(f"{path}/images")) == sorted([image, NEW]))
    works("image", "delete", f"{path}/{NEW}")
    judged(path)
    works("image", "delete", "--dry-run", f"{path}/{image}")
    works("image", "delete", f"{path}/{image}")
    refused("has no image", "image", "delete", f"{path}/{image}")


def test_names():
    """A volume is a name, for all verbs that take an image."""
    path = make("names")
    image, base = volume("create", path, "1M")
    at = f"volume:{path}/{image}"
    works("io", "-c", "write -P 5 0 1M", at)
    _, top = volume("snapshot", f"{path}/{image}", "2M")
    works("io", "-c", "write -P 6 64k 64k", at)
    works("io", "-c", "read -P 6 64k 64k", "-c", "read -P 5 0 64k", f"volume:names/{image}/{top}")
    check("info", told("info", at)["format"] == "qcow2" and told("info", f"{at}/{base}")["format"] == "raw")
    # What a guest wrote does not change what a raw volume is taken for.
    other, raw = volume("create", path, "1M")
    works("create", "-q", "-f", "qcow2", "-b", "/etc/passwd", "-F", "raw", "-u", "evil", "1M")
    works("dd", "-f", "raw", "-O", "raw", "if=evil", "of=head", "bs=64k", "count=1")
    works("convert", "-n", "-f", "raw", "head", f"volume:{path}/{other}")
    check("raw stays raw", told("info", f"volume:{path}/{other}")["format"] == "raw")
    for arguments in (("map",), ("measure", "-O", "qcow2"), ("bench", "--count", "4")):
        works(*arguments, at)
    works("check", at)
    works("compare", at, f"{path}/images/{image}/{top}")
    works("convert", "-O", "qcow2", at, "copy.qcow2")
    works("convert", "--job", "job", "-O", "raw", at, "copy.raw")
    check("a job knows the files", len(json.loads(pathlib.Path("job").read_text())["ends"]) == 3)
    check("checksums", len({works("checksum", name).stdout.split()[0] for name in (at, "copy.qcow2",
                                                                                   "copy.raw")}) == 1)
    works("dd", "-O", "raw", f"if={at}", "of=dd.raw", "bs=64k", "count=2")
    works("convert", "-n", "copy.raw", at)
    works("compare", at, "copy.raw")
    judged(path)
    refused("says read-only=on", "io", "-c", "write 0 4k", f"{at}/{base}")
    refused("'vdisk-io volume resize' does", "resize", at, "4M")
    refused("'vdisk-io volume merge' does", "commit", at)
    refused("'vdisk-io volume merge' does", "rebase", "-u", "-b", "", at)
    refused("leave out -f", "info", "-f", "raw", at)
    refused("leave out -O", "convert", "-n", "-O", "raw", "copy.raw", at)
    refused("has no volume", "info", f"{at}/{NEW}")
    refused("has no image", "info", f"volume:{path}/{NEW}")
    refused("is a domain", "info", f"volume:{path}")
    # How it grows: in a folder there is nothing to do, but it is known what may be said.
    works("info", f"volume:{path}/{image},chunk=512M,free=256k,ahead=3600")
    works("io", "-c", "read 0 4k", f"volume:{path}/{image},ahead=1")
    for wrong in ("", "chunk", "chunk=", "chunk=0", "chunk=-1", "chunk=1X", "chunk=1MM", "chunk=99999999T",
                  "free=a", "ahead=3601", "ahead=1k", "size=1M", "chunk=1M,", ",chunk=1M", "CHUNK=1M"):
        refused("says nothing of a volume", "info", f"volume:{path}/{image},{wrong}")
    works("volume", "update", f"{path}/{image}/{top}", "--legality", "ILLEGAL")
    refused("only volumes that are LEGAL are opened", "info", at)
    judged(path)


def test_copy():
    """An image as one volume, within a domain and from one to another, in each kind."""
    path, other = make("copies"), make("others")
    image, base = volume("create", path, "2M")
    io(path, image, base, "write -P 1 0 1M")
    _, top = volume("snapshot", f"{path}/{image}", "4M", "--description", "of the leaf")
    io(path, image, top, "write -P 2 512k 128k", "write -z 128k 128k", "write -P 3 3M 64k")
    content = checksum(path, image, top)
    for target in (path, other):
        for fmt in ("raw", "qcow2"):
            for kind in ("sparse", "preallocated"):
                said = told("image", "copy", "-f", fmt, "-a", kind, f"{path}/{image}", target)
                check("content", checksum(target, said["image"], said["volume"]) == content, said)
                check("allocation", (said["allocated"] >= 4 * MIB) == (kind == "preallocated"), said)
                check("description", "DESCRIPTION=of the leaf\n" in meta_of(target, said["image"], said["volume"]))
    works("image", "copy", f"{path}/{image}/{base}", other, "--image", NEW)
    check("of the base", content_of(f"volume:{other}/{NEW}") == content_of(f"volume:{path}/{image}/{base}"))
    check("as it is", told("info", f"volume:{other}/{NEW}")["format"] == "raw")
    refused("has volumes", "image", "copy", f"{path}/{image}", other, "--image", NEW)
    refused("to itself", "image", "copy", f"{path}/{image}", path, "--image", image)
    before = sorted(os.listdir(f"{other}/images"))
    r = subprocess.run(["prlimit", "--fsize=1048576", lib.TOOL, "image", "copy", "-f", "raw", f"{path}/{image}",
                        other],
                       capture_output=True, text=True, check=False)
    check("no room: nothing is left", r.returncode == 1 and sorted(os.listdir(f"{other}/images")) == before,
          r.stderr)
    for domain in (path, other):
        judged(domain)


def content_of(name):
    return works("checksum", name).stdout.split()[0]


def same_chain(path, image, other, copy):
    """Each volume reads as its source does, and is of its kind; their names."""
    domains = judged(path), judged(other)
    chains = [d.chain(i) for d, i in zip(domains, (image, copy))]
    check("as many volumes", len(chains[0]) == len(chains[1]), chains)
    for a, b in zip(*chains):
        x, y = domains[0].images[image][a], domains[1].images[copy][b]
        check("of one kind", all(x[key] == y[key] for key in ("FORMAT", "TYPE", "capacity", "VOLTYPE",
                                                              "DESCRIPTION", "DISKTYPE")), (x, y))
        check("the same content", checksum(path, image, a) == checksum(other, copy, b), (a, b))
        if y["TYPE"] == "PREALLOCATED":
            check("its space is there", os.stat(f"{other}/images/{copy}/{b}").st_blocks * 512 >= y["capacity"], y)
    return chains[1]


def test_copy_volumes():
    """Chains as they are: into another domain, back into the same one, onto a template, and what is refused."""
    path, other = make("chains"), make("targets")
    for fmt, kind in (("raw", "sparse"), ("raw", "preallocated"), ("qcow2", "sparse"), ("qcow2", "preallocated")):
        image, base = volume("create", "-f", fmt, "-a", kind, path, "2M", "--disk-type", "OVFS")
        io(path, image, base, "write -P 1 0 1M")
        _, mid = volume("snapshot", f"{path}/{image}", "3M", "-a", kind, "--sequence", "40")
        io(path, image, mid, "write -P 2 512k 128k", "write -z 128k 128k", "write -P 3 2560k 64k")
        _, top = volume("snapshot", f"{path}/{image}", "4M", "--description", "of the leaf")
        io(path, image, top, "write -P 4 3M 64k", "write -z 2560k 64k", "discard 0 64k")
        before = lib.snapshot_of(path), lib.snapshot_of(other)
        dry = told("image", "copy", "--volumes", "--dry-run", f"{path}/{image}", other)
        check("a dry run says what", [v["source"] for v in dry["volumes"]] == [base, mid, top], dry)
        check("and changes nothing", (lib.snapshot_of(path), lib.snapshot_of(other)) == before)
        said = told("image", "copy", "--volumes", f"{path}/{image}", other)
        check("the names are told", [v["volume"] for v in said["volumes"]] == [base, mid, top] and
              said["image"] == image, said)
        check("in another domain they stay", same_chain(path, image, other, image) == [top, mid, base])
        check("SEQ stays, GEN begins", "SEQ=40\n" in meta_of(other, image, mid) and
              "GEN=0\n" in meta_of(other, image, mid))
        check("the source is as it was", lib.snapshot_of(path) == before[0])
        lines = works("image", "copy", "--volumes", f"{path}/{image}", path).stdout.split()
        copy = lines[0].split("/")[0]
        check("in the same one they are new", len(lines) == 3 and copy != image and
              not {line.split("/")[1] for line in lines} & {base, mid, top}, lines)
        check("as printed", same_chain(path, image, path, copy) == [x.split("/")[1] for x in lines[::-1]])
        refused("it has volumes", "image", "copy", "--volumes", f"{path}/{image}", other)
        refused("data of that name", "image", "copy", "--volumes", f"{path}/{image}", other, "--image", NEW)
        works("image", "delete", f"{other}/{image}")
        works("image", "copy", "--volumes", f"{path}/{image}/{mid}", other, "--image", NEW)
        check("up to one of them", judged(other).chain(NEW) == [mid, base])
        works("image", "delete", f"{other}/{NEW}")
    odd, base = volume("create", path, "1M")
    works("resize", "-q", "-f", "raw", f"{path}/images/{odd}/{base}", str(MIB + 512))
    works("volume", "prepare", f"{path}/{odd}")
    said = told("image", "copy", "--volumes", f"{path}/{odd}", path)
    check("capacities are rounded", said["capacity"] == MIB + 4096, said)
    judged(path)
    refused("each volume keeps what it is", "image", "copy", "--volumes", "-f", "raw", f"{path}/{image}", other)
    refused("to itself", "image", "copy", "--volumes", f"{path}/{image}", path, "--image", image)
    works("volume", "update", f"{path}/{image}/{mid}", "--legality", "ILLEGAL")
    refused("is ILLEGAL", "image", "copy", "--volumes", f"{path}/{image}", other)
    check("nothing is left", os.listdir(f"{other}/images") == [])


def test_copy_of_clone():
    """An image on a template: as in Vdsm that has to be there, and is shared."""
    path, other = make("there"), make("elsewhere")
    template, below = volume("create", "-f", "qcow2", path, "1M")
    io(path, template, below, "write -P 1 0 512k")
    works("volume", "update", f"{path}/{template}", "--shared")
    clone, top = works("image", "clone", f"{path}/{template}").stdout.strip().split("/")
    io(path, clone, top, "write -P 2 256k 64k")
    refused("on whose template", "image", "copy", "--volumes", f"{path}/{clone}", other)
    works("image", "copy", f"{path}/{template}", other, "--image", template)
    refused("has no template", "image", "copy", "--volumes", f"{path}/{clone}", other)
    works("image", "delete", f"{other}/{template}")
    check("nothing is left", os.listdir(f"{other}/images") == [])
    works("image", "copy", "--volumes", f"{path}/{template}", other)
    check("it is a template there", "VOLTYPE=SHARED\n" in meta_of(other, template, below))
    works("image", "copy", "--volumes", f"{path}/{clone}", other)
    check("on the same template", same_chain(path, clone, other, clone) == [top, below])
    check("by a hard link", os.path.samefile(f"{other}/images/{clone}/{below}",
                                             f"{other}/images/{template}/{below}"))
    said = told("image", "copy", "--volumes", f"{path}/{clone}", path)
    check("in the same domain", len(said["volumes"]) == 1 and
          same_chain(path, clone, path, said["image"])[1] == below, said)
    r = subprocess.run(["prlimit", "--fsize=200000", lib.TOOL, "image", "copy", "--volumes", f"{path}/{template}",
                        path, "--image", NEW], capture_output=True, text=True, check=False)
    check("no room: nothing is left", r.returncode == 1 and NEW not in os.listdir(f"{path}/images"), r.stderr)
    for domain in (path, other):
        check("nothing is found", told("domain", "check", domain)["faults"] == 0)
    old = make("old", "--domain-version", "3")
    said = told("image", "copy", "--volumes", f"{path}/{template}", old)
    check("as that domain has it", same_chain(path, template, old, template) == [below], said)


def test_streams():
    path = make("streams")
    works("create", "-q", "-f", "qcow2", "image", "2M")
    works("io", "-c", "write -P 5 64k 256k", "image")
    image = pathlib.Path("image").read_bytes()
    digest = hashlib.sha256(image).hexdigest()

    def upload(data, *arguments):
        return subprocess.run([lib.TOOL, "volume", "upload", "--output=json", *arguments], input=data,
                              capture_output=True, check=False)

    def fails(why, data, *arguments):
        before = lib.snapshot_of(f"{path}/images")
        r = upload(data, *arguments)
        check(f"upload fails: {why}", r.returncode == 1 and why in r.stderr.decode(), r.stderr)
        check("and leaves nothing", list(lib.snapshot_of(f"{path}/images")) == list(before))

    r = upload(image, "-f", "qcow2", path, "2M", "--digest", digest)
    said = json.loads(r.stdout or "{}")
    check("upload", r.returncode == 0 and said["sha256"] == digest and said["bytes"] == len(image), r.stderr)
    name = f"{path}/{said['image']}/{said['volume']}"
    check("the same bytes", pathlib.Path(f"{path}/images/{said['image']}/{said['volume']}").read_bytes() == image)
    r = subprocess.run([lib.TOOL, "volume", "download", name], capture_output=True, check=False)
    check("download", r.stdout == image and digest in r.stderr.decode(), r.stderr)
    r = subprocess.run([lib.TOOL, "volume", "download", "-p", "--output=json", name], capture_output=True,
                       check=False)
    check("its progress and its report are beside it", r.stdout == image and b"(100.00/100%)" in r.stderr and
          json.loads(r.stderr.decode().splitlines()[-1].split("\r")[-1]) ==
          {"bytes": len(image), "sha256": digest}, r.stderr)
    with open("/dev/full", "wb") as full:
        r = subprocess.run([lib.TOOL, "volume", "download", name], stdout=full, stderr=subprocess.PIPE,
                           check=False)
    check("where it cannot go is told", r.returncode == 1 and
          r.stderr.startswith(b"vdisk-io: standard output: writing to it: No space left"), r.stderr)
    works("compare", "image", f"volume:{name}")
    raw = bytes(MIB) + os.urandom(MIB // 2) + bytes(MIB // 2)
    r = upload(raw, path, "2M")
    check("a raw one", r.returncode == 0, r.stderr)
    check("a raw image that begins as another",
          upload(image + bytes(2 * MIB - len(image)), path, "2M").returncode == 0)
    judged(path)
    fails("not 4194304", image, "-f", "qcow2", path, "4M")
    fails("its size is", raw, path, "4M")
    fails("no qcow2 magic", raw, "-f", "qcow2", path, "2M")
    fails("the SHA-256 of what", image, "-f", "qcow2", path, "2M", "--digest", "00" * 32)
    fails("is no SHA-256", b"", "-f", "qcow2", path, "2M", "--digest", "00")
    fails("more than 2097152 bytes come", raw + b"1", path, "2M")
    fails("its size is 2097151, not 2097152", raw[:-1], path, "2M")
    huge = image[:24] + (1 << 62).to_bytes(8, "big") + image[32:]
    crypted = image[:32] + (1).to_bytes(4, "big") + image[36:]
    for data in (b"", b"QFI\xfb", raw, huge, crypted):
        r = upload(data, "-f", "qcow2", path, "2M")
        check("what is no image is told of as what has come", r.returncode == 1 and
              path not in r.stderr.decode() and
              b"what was uploaded is no qcow2 image" in r.stderr and b"opened as raw" not in r.stderr, r.stderr)
    fails("damaged", image[:len(image) // 2], "-f", "qcow2", path, "2M")
    works("rebase", "-q", "-u", "-b", "/etc/passwd", "-F", "raw", "image")
    image = pathlib.Path("image").read_bytes()
    fails("its parent is /etc/passwd, not none", image, "-f", "qcow2", path, "2M")
    fails("its parent is /etc/passwd, not " + said["volume"], image, "-f", "qcow2", f"{path}/{said['image']}",
          "2M",
          "--parent", said["volume"])
    works("rebase", "-q", "-u", "-b", said["volume"], "-F", "qcow2", "image")
    r = upload(pathlib.Path("image").read_bytes(), "-f", "qcow2", f"{path}/{said['image']}", "2M", "--parent",
               said["volume"])
    check("with a parent", r.returncode == 0, r.stderr)
    works("create", "-q", "-f", "qcow2", "-o", "data_file=data", "with", "2M")
    fails("external data file", pathlib.Path("with").read_bytes(), "-f", "qcow2", path, "2M")
    judged(path)


def test_document():
    """The walk in docs/domains.md: each line works."""
    os.makedirs("images")
    lines = re.findall(r"^    vdisk-io ([^#\n]+)",
                       (pathlib.Path(__file__).parents[2] / "docs/domains.md").read_text(),
                       re.M)
    image = top = ""
    for line in lines:
        said = works(*(word.replace("/images", os.getcwd() + "/images").replace("IMAGE", image).replace("VOLUME",
                                                                                                        top)
                       for word in shlex.split(line))).stdout.strip()
        if re.fullmatch(rf"{vdsm.UUID.pattern}/{vdsm.UUID.pattern}", said):
            image, top = said.split("/")
    check("there were lines", len(lines) == 7, lines)
    check("merged", told("volume", "info", f"images/{image}")["format"] == "raw")
    judged(told("domain", "info", "images")["path"])


# ---- what Vdsm has made ---------------------------------------------------------------------------------------


def test_golden():
    path = lib.golden("golden", GOLDEN)
    before = lib.snapshot_of(path)
    listed = {i["uuid"]: i["volume-count"] for i in told("image", "list", path)}
    check("images", listed == {I1: 3, I2: 1, I3: 1, I4: 1, I5: 1, I6: 2}, listed)
    domain = vdsm.Domain(path)
    for v in told("volume", "list", path):
        meta = next(vs[v["uuid"]] for vs in domain.images.values() if v["uuid"] in vs)
        check("a volume", (v["format"], v["allocation"], v["role"], v["parent"], v["capacity"],
                           v["description"]) ==
              ({"RAW": "raw", "COW": "qcow2"}[meta["FORMAT"]], meta["TYPE"].lower(), meta["VOLTYPE"],
               meta["PUUID"], meta["capacity"], meta["DESCRIPTION"]), v)
    tree = works("image", "tree", f"{path}/{I1}").stdout.splitlines()
    check("tree", [len(line) - len(line.lstrip()) for line in tree] == [0, 2, 4, 6], tree)
    check("tree of a clone", f"of image {I5}" in works("image", "tree", f"{path}/{I6}").stdout)
    for arguments in (("info", path), ("list", path), ("check", path)):
        works("domain", *arguments)
    for image in (I1, I2, I3, I4, I5, I6):
        works("image", "info", f"{path}/{image}")
        works("volume", "prepare", f"{path}/{image}")
    check("no byte has changed", lib.snapshot_of(path) == before)

    io(path, I1, V11, "write -P 1 0 1M")
    io(path, I1, V21, "write -P 2 512k 1M")
    io(path, I1, V31, "write -P 3 1M 1M")
    _, top = volume("snapshot", f"{path}/{I1}")
    check("SEQ goes on", "SEQ=4\n" in meta_of(path, I1, top))
    io(path, I1, top, "write -P 4 2560k 64k")
    content = checksum(path, I1, top)
    judged(path)
    for name, chain in ((V21, [top, V31, V11]), (V31, [top, V11]), (top, [V11])):
        works("volume", "merge", f"{path}/{I1}/{name}")
        domain = judged(path)
        check("chain", domain and domain.chain(I1) == chain)
        check("content", checksum(path, I1, chain[0]) == content)
    refused("image lies on", "image", "delete", f"{path}/{I5}")
    for image in (I6, I5, I4, I1):
        works("image", "delete", f"{path}/{image}")
        judged(path)
    clone = "bbbbbbbb-0000-4000-8000-00000000000b"
    works("volume", "update", f"{path}/{I3}", "--shared")
    works("image", "clone", f"{path}/{I3}", "--image", clone, "--uuid", NEW)
    domain = judged(path)
    check("a clone", domain and len(domain.images[clone]) == 2)
    check("nothing is found", told("domain", "check", path)["faults"] == 0)


def test_json():
    """Whatever is done is told as JSON, and one thing has one name: of an image, a volume, sizes in bytes."""
    path = make("json")
    kinds = {"image": str, "volume": str, "uuid": str, "domain": str, "path": str, "parent": str, "capacity": int,
             "allocated": int, "asked": int, "size": int, "generation": int, "sequence": int, "merged": bool,
             "deleted": bool}
    said = told("volume", "create", "-f", "qcow2", path, "1M")
    at = f"{path}/{said['image']}"
    top = told("volume", "snapshot", at)
    for arguments in (("domain", "info", path), ("domain", "list", "json"), ("domain", "check", path),
                      ("domain", "upgrade", path), ("image", "list", path), ("image", "info", at),
                      ("image", "tree", path), ("image", "copy", "--dry-run", at, path),
                      ("image", "copy", at, path), ("image", "copy", "--dry-run", "--volumes", at, path),
                      ("image", "copy", "--volumes", at, path), ("volume", "list", path), ("volume", "info", at),
                      ("volume", "prepare", at), ("volume", "measure", at), ("volume", "teardown", at),
                      ("volume", "reduce", "--dry-run", at), ("volume", "reduce", at),
                      ("volume", "update", at, "--description", "ä\\\"b"), ("volume", "resize", at, "3M"),
                      ("volume", "merge", "--dry-run", f"{at}/{top['volume']}"),
                      ("volume", "merge", f"{at}/{top['volume']}"), ("volume", "delete", "--dry-run", at),
                      ("image", "delete", "--dry-run", at), ("volume", "update", "--shared", at),
                      ("image", "clone", at)):
        found = told(*arguments)
        check(f"{arguments}: something is told", isinstance(found, (dict, list)) and found, found)
        for one in found if isinstance(found, list) else [found or {}]:
            for key in set(one) & set(kinds):
                check(f"{arguments}: {key}", isinstance(one[key], kinds[key]), one)
        if arguments[:2] == ("volume", "update") and "--shared" not in arguments:
            check("what it has become", found["description"] == "ä\\\"b" and found["uuid"] == top["volume"], found)
        if arguments[:2] == ("volume", "resize"):
            check("how large it has become", found["capacity"] == 3 * MIB and found["uuid"] == top["volume"],
                  found)
    clone = told("image", "clone", at)["image"]
    check("deleted", told("volume", "delete", f"{path}/{clone}")["deleted"] is True)
    refused("--generation takes a number up to 999, not '1000'", "volume", "update", at, "--generation", "1000")
    refused("create takes 1 to 2 operands", "volume", "create")


lib.main(test_json, test_create, test_seal, test_kinds, test_rules, test_no_space,
         test_foreign_names, test_damaged, test_check, test_merge, test_resize,
         test_templates, test_names, test_copy, test_copy_volumes, test_copy_of_clone, test_streams,
         test_document, test_golden)
