#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""What an operator reads and is refused: one word for one thing in all JSON; a volume that an action has no use
for is not passed over; what cannot be kept, or is not known whose it is, is not changed; texts say what is so.

usage: test_domain_operator.py VDISK_IO
"""
import os
import pathlib
import shutil
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import lib  # noqa: E402
from lib import MIB, chain, check, file_of, find, make, refused, run, set_meta, told, untouched  # noqa: E402
from lib import volume, works  # noqa: E402
from vdsm_made import CHAIN, TEMPLATE, TOP, Made  # noqa: E402

NOBODY = 65534
OTHER = "aaaaaaaa-0000-4000-8000-00000000000a"


# ---- JSON -------------------------------------------------------------------------------------------------------


def all_pairs(value):
    if isinstance(value, list):
        for one in value:
            yield from all_pairs(one)
    elif isinstance(value, dict):
        for key, one in value.items():
            yield key, one
            if key != "metadata": # which is the domain's own
                yield from all_pairs(one)


def test_words():
    path, other = make("words"), make("other")
    image, (base, middle, top) = chain(path)
    volume("create", "-f", "raw", "-a", "preallocated", path, "1M")
    said = [told(*command) for command in (
        ("domain", "info", path), ("domain", "list", "words"), ("domain", "check", path), ("image", "list", path),
        ("image", "info", f"{path}/{image}"), ("image", "tree", path), ("volume", "list", path),
        ("volume", "info", f"{path}/{image}"), ("volume", "prepare", f"{path}/{image}"),
        ("volume", "update", f"{path}/{image}", "--description", "x"), ("volume", "measure", f"{path}/{image}"),
        ("image", "copy", "--volumes", f"{path}/{image}", other), ("info", f"volume:{path}/{image}"))]
    kinds, words = {}, {}
    for key, value in (pair for one in said for pair in all_pairs(one)):
        if value is not None:
            kinds.setdefault(key, set()).add(type(value))
        if key in ("format", "allocation"):
            words.setdefault(key, set()).add(value)
    mixed = {key: kind for key, kind in kinds.items() if len(kind) > 1}
    check("a key has values of one kind", not mixed, mixed)
    check("one word for one thing", words == {"format": {"raw", "qcow2", "file"},
                                              "allocation": {"sparse", "preallocated"}}, words)
    listed = {i["uuid"]: i for i in said[3]}
    check("counts", said[2]["image-count"] == 2 and said[2]["volume-count"] == 4 and
          listed[image]["volume-count"] == 3, (said[2], listed))
    children = {v["uuid"]: v["child-count"] for v in said[4][0]["volumes"]}
    check("children", children == {base: 1, middle: 1, top: 0}, children)
    lines = works("volume", "list", f"{path}/{image}").stdout
    check("for people, too", "  raw sparse INTERNAL" in lines and "  qcow2 sparse LEAF" in lines, lines)


def test_plurals():
    path = make("plurals")
    check("none", "0 images, 0 volumes: 0 faults, 0 mended" in find(path).stdout)
    image, (base,) = chain(path, length=1)
    check("one", "1 image, 1 volume: 0 faults, 0 mended" in find(path).stdout)
    set_meta(path, image, base, "DOMAIN=", "DOMAIN=0")
    check("one fault", "1 image, 1 volume: 1 fault, 0 mended" in find(path).stdout, find(path).stdout)


# ---- names ------------------------------------------------------------------------------------------------------


def test_named():
    """Verbs of images that do not change volumes say what does; actions on images take no volume."""
    path = make("named")
    image, (base, top) = chain(path, length=2)
    at = f"{path}/{image}"
    before = lib.snapshot_of(path)
    refused("'vdisk-io volume snapshot'", "snapshot", "-c", "s", f"volume:{at}")
    refused("'vdisk-io volume snapshot'", "snapshot", "-l", f"volume:{at}/{top}")
    refused("'vdisk-io volume snapshot'", "bitmap", "--add", f"volume:{at}", "b")
    refused("cannot be made", "bitmap", "--add", "file", "b")
    for noun, action in (("volume", "list"), ("image", "list"), ("image", "info"), ("image", "tree")):
        refused("names a volume: 'vdisk-io volume info' shows one", noun, action, f"{at}/{top}")
        refused("names a volume", noun, action, f"{at}/{OTHER}", "--output=json")
    refused("name the volume that is to go into its parent", "volume", "merge", at)
    refused("name the volume that is to go into its parent", "volume", "merge", "--dry-run", at)
    check("help says it", "merge DOMAIN/IMAGE/VOLUME:" in works("volume", "--help").stdout)
    refused("leave out -f", "info", "-f", "raw", f"volume:{at}/{base}")
    refused("leave out -O", "convert", "-n", "-O", "raw", "x.raw", f"volume:{at}")
    refused("leave out -F", "compare", "-F", "raw", file_of(path, image, base), f"volume:{at}/{base}", code=2)
    check("nothing has changed", lib.snapshot_of(path) == before)


# ---- what is refused --------------------------------------------------------------------------------------------


def test_sequence():
    """What metadata of the version has no place for."""
    for version in (3, 4, 5):
        os.makedirs(f"sequence{version}")
        made = Made(os.path.abspath(f"sequence{version}"), lib.TOOL, version=version, kind="LOCALFS", block=512,
                    align=MIB, lockspace=False)
        commands = (("volume", "update", f"{made.path}/{CHAIN}/{TOP}"), ("volume", "create", made.path, "1M"),
                    ("volume", "snapshot", f"{made.path}/{CHAIN}"))
        for command in commands:
            if version == 5:
                works(*command, "--sequence", 7)
                continue
            untouched("refused", made.path, (*command, "--sequence", "7"))
            refused(f"is a domain of version {version}: its volumes have no sequence number", *command,
                    "--sequence", 7)
        if version == 5:
            check("it is kept", told("volume", "info", f"{made.path}/{CHAIN}/{TOP}")["sequence"] == 7)


def test_place():
    """A volume whose metadata says that it is of another image, or domain, can be looked at."""
    for key in ("IMAGE", "DOMAIN"):
        path = make(f"place{key}")
        image, (base, top) = chain(path, length=2)
        at, mine = f"{path}/{image}", image if key == "IMAGE" else os.path.basename(path)
        for name in (base, top):
            set_meta(path, image, name, f"{key}={mine}", f"{key}={OTHER}")
            untouched(key, path, ("volume", "list", path), ("image", "tree", at), ("image", "info", at),
                      ("domain", "check", path))
            r = find(path)
            check("check tells", r.returncode == 2 and f"{name}: its metadata says that it is of {key.lower()} "
                  f"{OTHER}" in r.stdout, r.stdout)
            works("io", "-r", "-c", "read -P 1 0 64k", f"volume:{at}")
            commands = (("volume", "update", at, "--description", "x"), ("volume", "resize", at, "2M"),
                        ("volume", "snapshot", at), ("volume", "delete", f"{at}/{top}"), ("image", "delete", at),
                        ("volume", "merge", f"{at}/{top}"), ("volume", "extend", at), ("volume", "reduce", at))
            for command in commands:
                refused(f"says that it is of {key.lower()} {OTHER}: it is not changed", *command)
            untouched(key, path, *commands, ("io", "-c", "write -P 9 0 64k", f"volume:{at}"),
                      ("domain", "check", "--repair", path))
            set_meta(path, image, name, f"{key}={OTHER}", f"{key}={mine}")
        works("volume", "merge", f"{at}/{top}")


def test_template_place():
    """A template is of another image than those that share it."""
    os.makedirs("shared")
    made = Made(os.path.abspath("shared"), lib.TOOL, kind="LOCALFS", block=512, align=MIB, lockspace=False)
    image, top = works("image", "clone", f"{made.path}/{TEMPLATE}").stdout.strip().split("/")
    works("io", "-c", "write -P 9 0 64k", f"volume:{made.path}/{image}")
    works("volume", "update", f"{made.path}/{image}/{top}", "--description", "x")


def others_run():
    os.chmod(".", 0o755)
    try:
        return os.getuid() == 0 and subprocess.run([lib.TOOL, "--version"], user=NOBODY, capture_output=True,
                                                   check=False).returncode == 0
    except OSError:
        return False


def test_stray():
    """What keeps an image from going is found before it is renamed."""
    path = make("stray")
    image, (base, _) = chain(path, length=2)
    at, folder = f"{path}/{image}", file_of(path, image, "lost+found")
    os.makedirs(f"{folder}/within")
    for command in (("image", "delete", at), ("image", "delete", "--wipe", at),
                    ("image", "delete", "--dry-run", at)):
        refused(f"{image}/lost+found: is a folder", *command)
        untouched("a folder", path, command)
    shutil.rmtree(folder)
    if others_run():
        permissions(path, at, file_of(path, image, base))
    else:
        print("nobody else can run the tool here: permissions are not tried")
    works("image", "delete", at)
    check("it has gone", not os.path.exists(f"{path}/images/{image}"))


def permissions(path, at, base):
    """Of who may not write to the files, or not to the folder of the image."""
    for root, folders, files in os.walk("stray"):
        for name in (*folders, *files, "."):
            os.chmod(f"{root}/{name}", 0o755 if name in (*folders, ".") else 0o644)
    os.chmod(f"{path}/dom_md/leases", 0o666)
    for mode, command in ((0o644, ("image", "delete", at)), (0o644, ("volume", "delete", at)),
                          (0o666, ("image", "delete", at))):
        for file in base.parent.iterdir():
            os.chmod(file, mode)
        os.chmod(f"{path}/images", 0o777)
        before = lib.snapshot_of(f"{path}/images")
        r = subprocess.run([lib.TOOL, *command], user=NOBODY, group=NOBODY, extra_groups=[],
                           capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        check(f"{command}: who may not", r.returncode == 1 and "ermission denied" in r.stderr, r.stderr)
        check("advice that is of use", "as a user who may write to the domain's" in r.stderr, r.stderr)
        check("all is as it was", lib.snapshot_of(f"{path}/images") == before)


def test_full():
    """Of a copy that found no space nothing is left, and nothing else is said."""
    path = make("full")
    image, name = volume("create", "-f", "raw", path, "8M")
    works("io", "-f", "raw", "-c", "write -P 1 0 8M", file_of(path, image, name))
    os.makedirs("small")
    if os.getuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4M", "none", "small"],
                                          check=False).returncode != 0:
        print("nothing can be mounted here: a full disk is not tried")
        return
    try:
        there = f"small/{works('domain', 'create', 'small').stdout.strip()}"
        for more in ((), ("-f", "qcow2"), ("-a", "preallocated"), ("--volumes",)):
            r = run("image", "copy", *more, f"{path}/{image}", there)
            check(f"{more}: no space", r.returncode == 1 and r.stdout == "", r.stderr)
            check(f"{more}: it is not said to be left", "; " not in r.stderr, r.stderr)
            check(f"{more}: nothing is", not os.listdir(f"{there}/images"), os.listdir(f"{there}/images"))
        check("nothing is found", told("domain", "check", there)["findings"] == [])
    finally:
        subprocess.run(["umount", "small"], check=True)


lib.main(*(value for name, value in list(globals().items()) if name.startswith("test_")))
