#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Domains that Vdsm has used for years, of each version, made by hand from the description of its formats
(vdsm_made.py): shown, worked in, judged byte by byte.

usage: test_domain_made.py VDISK_IO LIBRARY
"""
import os
import pathlib
import shutil
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import lib  # noqa: E402
from lib import MIB, check, checksum, file_of, find, meta_of, refused, told, volume, works  # noqa: E402
import vdsm  # noqa: E402
from vdsm_made import (ABOVE, BAD, BASE, CHAIN, CLONE, CLONED, FULL, GONE, LOW, MERGED, MID, OVF_1,  # noqa: E402
                       PREALLOCATED, REMOVED, STORE_1, TEMPLATE, TOP, UNDER, WITHDRAWN, BLANK, Made)

LIBRARY = os.path.realpath(sys.argv[2])
IMAGES = (CHAIN, TEMPLATE, CLONE, OVF_1, MERGED, WITHDRAWN, PREALLOCATED)


def lines(path, image, name):
    return meta_of(path, image, name).splitlines()


def looks(made):
    """What only looks changes no byte and no time."""
    path, before = made.path, lib.snapshot_of(made.path)
    said = told("domain", "info", path)
    check("the domain", said["version"] == made.version and said["metadata"] == {
        key: value for key, value in (line.split("=", 1) for line in pathlib.Path(
            f"{path}/dom_md/metadata").read_text(encoding="utf-8").splitlines()) if key != "_SHA_CKSUM"}, said)
    check("its lockspace", ("lockspace" in said) == made.lockspace, said)
    trees = {image["uuid"]: [v["uuid"] for v in image["volumes"]] for image in told("image", "tree", path)}
    check("chains from the first volume up", trees[CHAIN] == [LOW, MID, TOP] and trees[CLONE] == [BASE, CLONED] and
          trees[MERGED] == [UNDER, ABOVE] and trees[REMOVED] == [GONE], trees)
    check("which image is deleted", [i["uuid"] for i in told("image", "list", path) if i["removed"]] == [REMOVED])
    found = {v["uuid"]: v for v in told("volume", "list", path)}
    check("what volumes are", found[STORE_1]["disk-type"] == "OVFS" and found[BAD]["legality"] == "ILLEGAL" and
          found[BAD]["role"] == "SHARED" and found[MID]["capacity"] == 4 * MIB and
          "trouble" not in str(found), found)
    for image in (CHAIN, CLONE, PREALLOCATED, OVF_1):
        works("volume", "prepare", f"{path}/{image}")
        works("checksum", f"volume:{path}/{image}")
    refused("ILLEGAL", "volume", "prepare", f"{path}/{MERGED}")
    refused("ILLEGAL", "image", "clone", f"{path}/{WITHDRAWN}")
    r = find(path)
    check("check finds the deleted image and nothing else", r.returncode == 2 and
          "1 fault, 0 mended" in r.stdout and
          f"image {REMOVED} is deleted" in r.stdout and r.stdout.count(" is ILLEGAL") == 2, r.stdout)
    check("nothing is written", lib.snapshot_of(path) == before)


def expected(made, image, parent, more):
    keys = {"CTIME": None, "DESCRIPTION": '{"DiskAlias":"dísk","DiskDescription":""}', "DISKTYPE": "DATA",
            "DOMAIN": os.path.basename(made.path), "FORMAT": "COW", "GEN": "0", "IMAGE": image,
            "LEGALITY": "LEGAL", "PUUID": parent, "TYPE": "SPARSE", "VOLTYPE": "LEAF"}
    keys.update({"CAP": str(4 * MIB), "SEQ": "4"} if made.version == 5 else {"MTIME": "0", "SIZE": "8192"})
    keys.update(more)
    return [f"{key}={keys[key]}" for key in sorted(keys)] + ["EOF"]


def is_as(made, what, image, name, parent, **more):
    got = lines(made.path, image, name)
    if "CTIME" not in more:
        more["CTIME"] = got[[line.split("=")[0] for line in got].index("CTIME")][6:]
    check(f"{what}: the bytes of {name}", got == expected(made, image, parent, more), got)


def works_in(made):
    path, at = made.path, f"{made.path}/{CHAIN}"
    odd = {"POOL_UUID": "", "ZOMBIE": "1", "MASTERED": "", "VOLTYPE": "INTERNAL", "CTIME": "1550522547"}
    if made.version == 5:
        odd["SEQ"] = "2"
    before = {name: checksum(path, CHAIN, name) for name in (LOW, MID, TOP)}
    works("volume", "update", f"{at}/{MID}", "--description", "new")
    is_as(made, "an update", CHAIN, MID, LOW, DESCRIPTION="new", **odd)
    _, new = volume("snapshot", at)
    is_as(made, "a snapshot", CHAIN, new, TOP)
    old = {"SEQ": "3"} if made.version == 5 else {}
    is_as(made, "below it", CHAIN, TOP, MID, VOLTYPE="INTERNAL", GEN="999", CTIME="1550522547", **old)
    size, backing, backing_format, version = vdsm.read_header(file_of(path, CHAIN, new))
    check("its header", (size, backing, backing_format) == (4 * MIB, TOP, "qcow2") and
          version == (3 if made.version > 3 else 2))
    check("it reads the same", checksum(path, CHAIN, new) == before[TOP])
    for name in (MID, new, TOP):
        works("volume", "merge", f"{at}/{name}")
        check("and when it is merged", works("checksum", f"volume:{at}").stdout.split()[0] == before[TOP])
    more = {"SEQ": "1"} if made.version == 5 else {}
    is_as(made, "merged", CHAIN, LOW, BLANK, FORMAT="RAW", GEN="2", CTIME="1550522547", **more)
    names = {"", ".meta"} | ({".lease"} if made.lockspace else set())
    check("no file is left of what was merged", set(os.listdir(f"{path}/images/{CHAIN}")) ==
          {LOW + suffix for suffix in names}, os.listdir(f"{path}/images/{CHAIN}"))
    works("volume", "delete", f"{path}/{MERGED}/{ABOVE}")
    check("what lay below an ILLEGAL one is a leaf", "VOLTYPE=LEAF" in meta_of(path, MERGED, UNDER))


def templates(made):
    path = made.path
    content = checksum(path, CLONE, CLONED)
    refused("image lies on", "image", "delete", f"{path}/{TEMPLATE}")
    other, leaf = works("image", "clone", f"{path}/{TEMPLATE}").stdout.strip().split("/")
    suffixes = ("", ".meta", ".lease")[:2 + made.lockspace]
    check("a template's files are shared", all(os.path.samefile(file_of(path, TEMPLATE, BASE, s), file_of(
        path, other, BASE, s)) and os.stat(file_of(path, other, BASE, s)).st_nlink == 3 for s in suffixes))
    copied = told("image", "copy", "--volumes", f"{path}/{CLONE}", path)["image"]
    check("a copy shares it, too", os.stat(file_of(path, copied, BASE)).st_nlink == 4)
    check("it reads the same", works("checksum", f"volume:{path}/{copied}").stdout.split()[0] == content)
    refused("is shared by 4 images", "volume", "update", f"{path}/{TEMPLATE}", "--description", "new")
    check("an old type of disk stays", "DISKTYPE=2\n" in meta_of(path, copied, BASE) and "DISKTYPE=DATA\n" in
          meta_of(path, other, leaf))
    for image in (other, copied, CLONE, TEMPLATE):
        works("image", "delete", f"{path}/{image}")
    check("all are gone", not {other, copied, CLONE, TEMPLATE} & set(os.listdir(f"{path}/images")))


def ends(made):
    path = made.path
    r = find(path, "--repair")
    check("the deleted image is purged", r.returncode == 0 and
          not os.path.exists(f"{path}/images/_remove_me_{REMOVED}"), r.stdout)
    works("volume", "extend", f"{path}/{PREALLOCATED}")
    works("image", "delete", "--wipe", f"{path}/{OVF_1}")
    if made.lockspace:
        _, top = volume("snapshot", f"{path}/{PREALLOCATED}")
        with open(f"{os.environ['FAKE_SANLOCK']}/log", encoding="ascii") as f:
            check("a lease of blocks of 4096, in 2 MiB", f"write_resource {top} 0x220 0" in f.read())
    content = works("checksum", f"volume:{path}/{PREALLOCATED}").stdout
    before = pathlib.Path(f"{path}/dom_md/metadata").read_text(encoding="utf-8")
    works("domain", "upgrade", path)
    md = vdsm.read_domain(path)
    check("it is of version 5, and the pool's", md["VERSION"] == "5" and md["MASTER_VERSION"] == "7" and
          (made.version < 5 or pathlib.Path(f"{path}/dom_md/metadata").read_text(encoding="utf-8") == before), md)
    check("which has blocks", md["BLOCK_SIZE"] == str(made.block) if made.version == 5 else
          (md["BLOCK_SIZE"], md["ALIGNMENT"]) == ("512", str(MIB)), md)
    check("and reads the same", works("checksum", f"volume:{path}/{PREALLOCATED}").stdout == content and FULL)
    check("what is Vdsm's own stays", sorted(os.listdir(f"{path}/master")) == ["tasks", "vms"])
    check("nothing is found", find(path).returncode == 0)


def one(folder, **how):
    os.makedirs(folder)
    made = Made(os.path.abspath(folder), lib.TOOL, **how)
    if made.lockspace:
        works("domain", "join", "--host-id", 3, made.path)
    for part in (looks, works_in, templates, ends):
        part(made)
    shutil.rmtree(folder)


def test_old():
    for version in (3, 4, 5):
        one(f"local{version}", version=version, kind="LOCALFS", block=512, align=MIB, lockspace=False)


def test_leases():
    os.environ.update(FAKE_SANLOCK=os.path.abspath("daemon"), FAKE_HOST="1",
                      LD_LIBRARY_PATH=os.path.dirname(LIBRARY))
    os.makedirs("daemon")
    one("posix", kind="POSIXFS", block=4096, align=2 * MIB)


lib.main(test_old, test_leases)
