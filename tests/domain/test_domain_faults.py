#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Storage domains that are damaged, hostile, or in use: nothing is lost that a header or metadata names, nothing
is followed that is no file of the domain, and who has a volume open is not worked under.

usage: test_domain_faults.py VDISK_IO STEP_TOOL
"""
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import lib  # noqa: E402
from lib import (MIB, Holder, chain, check, checksum, file_of, find, io, judged, make, meta_of,  # noqa: E402
                 refused, set_meta, told, untouched, volume, works)

STEP_TOOL = os.path.realpath(sys.argv[2])
NEW = "aaaaaaaa-0000-4000-8000-00000000000a"
OTHER = "bbbbbbbb-0000-4000-8000-00000000000b"
BLANK = "00000000-0000-0000-0000-000000000000"


# ---- what a header or metadata names stays ---------------------------------------------------------------------


def test_stale_metadata():
    """Metadata of the leaf that says it lies on the base: its header names the volume between."""
    path = make("stale")
    image, (base, mid, top) = chain(path)
    before = checksum(path, image, top)
    text = meta_of(path, image, top)
    set_meta(path, image, top, f"PUUID={mid}", f"PUUID={base}")
    r = find(path, "--repair")
    check("check says so", r.returncode == 2 and f"lies on '{mid}'" in r.stdout, r.stdout)
    untouched("stale", path, ("domain", "check", "--repair", path),
              ("volume", "snapshot", f"{path}/{image}/{top}"), ("volume", "delete", f"{path}/{image}/{mid}"),
              ("volume", "merge", f"{path}/{image}/{mid}"), ("volume", "merge", f"{path}/{image}/{top}"),
              ("volume", "update", f"{path}/{image}/{base}", "--shared"),
              ("volume", "delete", f"{path}/{image}"))
    refused("lies on it, as its header says", "volume", "delete", f"{path}/{image}/{mid}")
    file_of(path, image, top, ".meta").write_text(text)
    judged(path)
    check("the image reads the same", checksum(path, image, top) == before)


def test_header_of_a_merge_without_mark():
    """A header that names the parent's parent, and no merge that says why: nothing is ended."""
    path = make("nomark")
    image, (base, mid, top) = chain(path)
    works("rebase", "-q", "-u", "-f", "qcow2", "-b", base, "-F", "raw", file_of(path, image, top))
    check("it is told", find(path, "--repair").returncode == 2)
    untouched("no mark", path, ("domain", "check", "--repair", path), ("volume", "prepare", f"{path}/{image}"),
              ("volume", "delete", f"{path}/{image}/{mid}"))


def test_circles():
    """Metadata and headers that lead back to where they were: nothing of it is used, and it is said what it is."""
    path = make("circles")
    image, (base, mid, top) = chain(path, "qcow2")
    for parent in (top, mid):
        set_meta(path, image, base, f"PUUID={BLANK}", f"PUUID={parent}")
        works("rebase", "-q", "-u", "-f", "qcow2", "-b", parent, "-F", "qcow2", file_of(path, image, base))
        r = find(path, "--repair")
        check("check tells", r.returncode == 2 and f"its parent {parent} leads back to itself" in r.stdout and
              "is not there" not in r.stdout, r.stdout)
        at = f"{path}/{image}"
        untouched("circle", path, ("domain", "check", "--repair", path), ("volume", "snapshot", f"{at}/{top}"),
                  ("volume", "merge", f"{at}/{base}"), ("volume", "delete", f"{at}/{mid}"),
                  ("volume", "resize", f"{at}/{top}", "4M"), ("image", "copy", f"{at}/{top}", path))
        refused("its chain leads back to itself", "volume", "merge", f"{path}/{image}/{base}")
        refused("leads back to itself", "info", f"volume:{path}/{image}/{base}")
        works("rebase", "-q", "-u", "-f", "qcow2", "-b", "", file_of(path, image, base))
        set_meta(path, image, base, f"PUUID={parent}", f"PUUID={BLANK}")
    set_meta(path, image, base, f"PUUID={BLANK}", f"PUUID={base}")
    check("one that lies on itself", f"its parent {base} leads back to itself" in find(path).stdout)
    set_meta(path, image, base, f"PUUID={base}", f"PUUID={BLANK}")
    judged(path)


def test_unreadable_metadata():
    """No role changes, and nothing goes, while it is not known of a volume what it lies on."""
    path = make("unreadable")
    image, (_, mid, top) = chain(path)
    meta = file_of(path, image, top, ".meta")
    text = meta.read_text()
    for damage in ("", text.replace("FORMAT=COW", "FORMAT=cow"), None):
        if damage is None:
            meta.unlink() # as one might do who cannot read it
        else:
            meta.write_text(damage)
        check("check tells", find(path).returncode == 2)
        untouched("unreadable", path, ("domain", "check", "--repair", path),
                  ("volume", "delete", f"{path}/{image}/{mid}"), ("volume", "merge", f"{path}/{image}/{mid}"),
                  ("volume", "snapshot", f"{path}/{image}"), ("volume", "snapshot", f"{path}/{image}/{mid}"),
                  ("volume", "resize", f"{path}/{image}/{mid}", "4M"),
                  ("volume", "update", f"{path}/{image}/{mid}", "--shared"))
        r = lib.run("io", "-c", "write 0 4k", f"volume:{path}/{image}/{mid}")
        check("it is not written to", r.returncode == 1 and "read-only" in r.stderr, r.stderr)
    # Metadata that was on its way is not the intent of a volume that goes.
    file_of(path, image, top, ".meta.new").write_text(text)
    untouched("draft", path, ("domain", "check", "--repair", path), ("volume", "delete", f"{path}/{image}/{mid}"))
    os.rename(file_of(path, image, top, ".meta.new"), meta)
    judged(path)
    # A header that cannot be read.
    _, other = image, file_of(path, image, top).read_bytes()
    file_of(path, image, top).write_bytes(b"QFI\xfb" + b"\xff" * 508 + other[512:])
    set_meta(path, image, mid, "VOLTYPE=INTERNAL", "VOLTYPE=LEAF")
    untouched("header", path, ("domain", "check", "--repair", path), ("volume", "delete", f"{path}/{image}/{mid}"))


def test_named_intent():
    """What says that it is half-made, and others lie on it, is not."""
    path = make("intent")
    image, (_, mid, top) = chain(path)
    os.rename(file_of(path, image, mid, ".meta"), file_of(path, image, mid, ".intent"))
    check("check tells", "lies on it" in find(path, "--repair").stdout)
    untouched("intent", path, ("domain", "check", "--repair", path), ("volume", "snapshot", f"{path}/{image}"),
              ("volume", "update", f"{path}/{image}/{top}", "--generation", "7", "--description", "x"))
    os.rename(file_of(path, image, mid, ".intent"), file_of(path, image, mid, ".meta"))
    judged(path)


# ---- names that lead out ---------------------------------------------------------------------------------------


def test_links_to_folders():
    """Neither an image nor a deleted one is a symbolic link."""
    path = make("links")
    os.makedirs("outside")
    for name in (NEW, f"{NEW}.meta", "precious"):
        pathlib.Path(f"outside/{name}").write_text("x")
    outside = lib.snapshot_of("outside")
    for name in (OTHER, f"_remove_me_{OTHER}", f"_remove_me_{NEW}"):
        os.symlink(os.path.realpath("outside"), f"{path}/images/{name}")
    good, _ = volume("create", path, "1M")
    os.makedirs(f"{path}/images/_remove_me_{good}")
    r = find(path, "--repair")
    check("check goes on, and tells of both", r.returncode == 2 and r.stdout.count("is no folder") == 3 and
          f"image {good}: its files are removed" in r.stdout, r.stdout)
    for arguments in (("image", "delete", f"{path}/{OTHER}"), ("volume", "delete", f"{path}/{OTHER}/{NEW}"),
                      ("volume", "create", f"{path}/{OTHER}", "1M"), ("volume", "list", f"{path}/{OTHER}")):
        refused("is no folder", *arguments)
    check("what is outside is untouched", lib.snapshot_of("outside") == outside)


def test_links_to_files():
    """A volume is a regular file."""
    path = make("files")
    image, (base, top) = chain(path, length=2)
    pathlib.Path("secret").write_bytes(b"s" * MIB)
    for name, suffix in ((base, ""), (top, ""), (base, ".meta"), (top, ".meta")):
        file = file_of(path, image, name, suffix)
        os.rename(file, "kept")
        for make_it in (lambda f: os.symlink(os.path.realpath("secret"), f), os.mkfifo,
                        lambda f: os.symlink(os.path.realpath("kept"), f)):
            make_it(file)
            refused("is no regular file", "info", f"volume:{path}/{image}")
            refused("is no regular file", "checksum", f"volume:{path}/{image}", code=2)
            for arguments in (("prepare", f"{path}/{image}/{top}"), ("snapshot", f"{path}/{image}/{top}"),
                              ("merge", f"{path}/{image}/{top}"), ("delete", f"{path}/{image}/{top}"),
                              ("download", f"{path}/{image}/{name}")):
                r = lib.run("volume", *arguments, timeout=60)
                check(f"{arguments}", r.returncode == 1 and "no regular file" in r.stderr and r.stdout == "",
                      r.stdout[:100] + r.stderr)
            check("check tells", "is no regular file" in find(path, "--repair").stdout)
            check("it is there", os.path.lexists(file))
            os.unlink(file)
        os.rename("kept", file)
    check("the secret is", pathlib.Path("secret").read_bytes() == b"s" * MIB)
    judged(path)


def test_data_file():
    path = make("external")
    image, name = volume("create", "-f", "qcow2", path, "1M")
    works("create", "-q", "-f", "qcow2", "-o", "data_file=data", "with", "1M")
    shutil.copyfile("with", file_of(path, image, name))
    refused("external data file", "info", f"volume:{path}/{image}")
    for verb in ("prepare", "snapshot"):
        refused("external data file", "volume", verb, f"{path}/{image}")
    refused("external data file", "image", "copy", f"{path}/{image}", path)
    check("check tells", "external data file" in find(path).stdout)


def test_create_over_a_link():
    os.makedirs("new")
    os.makedirs("target/dom_md")
    pathlib.Path("target/dom_md/metadata").write_text("precious")
    os.symlink(os.path.realpath("target"), f"new/.new-{NEW}")
    r = lib.run("domain", "create", "new", "--uuid", NEW)
    check("it is refused", r.returncode == 1, r.stdout)
    check("what it leads to is whole", pathlib.Path("target/dom_md/metadata").read_text() == "precious" and
          os.path.islink(f"new/.new-{NEW}"))


PARTS = {"dom_md": "dom_md/metadata", "dom_md/metadata": None, "dom_md/leases": None, "images": None}


def test_parts_that_are_something_else():
    """What is missing, or is a file, a folder, a pipe or a link in its place, is named, with what to do."""
    path = make("parts")
    image, (_, top) = chain(path, length=2)
    at = f"{path}/{image}"
    instead = {"nothing": lambda f: None, "a file": lambda f: pathlib.Path(f).touch(), "a folder": os.mkdir,
               "a pipe": os.mkfifo, "a link": lambda f: os.symlink("nowhere", f),
               "a loop": lambda f: os.symlink(os.path.basename(f), f)}
    for part, named in PARTS.items():
        for what, put in instead.items():
            if (what, part) in (("a folder", "dom_md"), ("a folder", "images"), ("a file", "dom_md/leases")):
                continue
            os.rename(f"{path}/{part}", "kept")
            put(f"{path}/{part}")
            for arguments in (("domain", "check", path), ("volume", "snapshot", at),
                              ("volume", "create", path, "1M"), ("volume", "merge", f"{at}/{top}"),
                              ("image", "delete", at), ("info", f"volume:{at}")):
                r = lib.run(*arguments, timeout=60)
                says = r.stderr + (r.stdout if arguments[0] == "domain" else "")
                about = f"{what} in place of {part}: {arguments[0]} {arguments[1]}"
                check(f"{about}: fails", r.returncode == (2 if r.stdout else 1), (r.returncode, says))
                check(f"{about}: it is named", f"{path}/{named or part}" in says or "no storage domain" in says or
                      "has no VERSION" in says or "no image" in says, says)
                check(f"{about}: the hint is about domains", "hint: " in says or r.stdout or "no image" in says or
                      "has no VERSION" in says, says)
                check(f"{about}: no other hint", "rebase" not in says and "relative" not in says, says)
            if os.path.lexists(f"{path}/{part}"):
                (os.rmdir if what == "a folder" else os.unlink)(f"{path}/{part}")
            os.rename("kept", f"{path}/{part}")
    judged(path)


def test_files_of_the_domain():
    """Vdsm does not attach a domain that has not all of its files."""
    for kind in ("localfs", "nfs"):
        path = make(f"whole-{kind}", "--type", kind)
        names = ("ids", "leases", "inbox", "outbox", *(["xleases"] if kind == "nfs" else []))
        check("it is whole", find(path).returncode == 0)
        for name in names:
            os.rename(f"{path}/dom_md/{name}", "kept")
            for put in (lambda f: None, os.mkdir):
                put(f"{path}/dom_md/{name}")
                r = find(path, "--repair")
                check(f"{name} is missed", r.returncode == 2 and f"fault: dom_md/{name} is not there" in r.stdout,
                      r.stdout)
            os.rmdir(f"{path}/dom_md/{name}")
            os.rename("kept", f"{path}/dom_md/{name}")
        judged(path)


# ---- hard links ------------------------------------------------------------------------------------------------


def test_only_copy_of_a_template():
    """A template in a folder that is called otherwise than its metadata says is nobody's share."""
    path = make("only")
    image, name = volume("create", "-f", "qcow2", path, "1M")
    works("volume", "update", f"{path}/{image}", "--shared")
    os.rename(f"{path}/images/{image}", f"{path}/images/{NEW}")
    check("check tells", "no other image has it" in find(path, "--repair").stdout)
    untouched("template", path, ("domain", "check", "--repair", path), ("image", "delete", f"{path}/{NEW}"),
              ("volume", "delete", f"{path}/{NEW}/{name}"))
    # And with a second name that is no image's.
    os.link(file_of(path, NEW, name), "backup")
    untouched("backup", path, ("domain", "check", "--repair", path), ("image", "delete", f"{path}/{NEW}"))


def test_backups():
    """Names of files outside the domain lock nothing up, and make nothing a half-made share."""
    path = make("backups")
    image, (base, top) = chain(path, length=2)
    for name in (base, top):
        os.link(file_of(path, image, name, ".meta"), f"{name}.meta")
        os.link(file_of(path, image, name), name)
    works("volume", "update", f"{path}/{image}", "--description", "x")
    check("a fault all the same", "has 2 names" in find(path).stdout)
    file_of(path, image, top, ".meta").unlink()
    untouched("data", path, ("domain", "check", "--repair", path))
    os.link(f"{top}.meta", file_of(path, image, top, ".meta"))
    works("volume", "snapshot", f"{path}/{image}")
    other, template = volume("create", "-f", "qcow2", path, "1M")
    works("volume", "update", f"{path}/{other}", "--shared")
    os.link(file_of(path, other, template), "template")
    works("volume", "update", f"{path}/{other}", "--description", "x")
    works("image", "delete", f"{path}/{other}")


def test_data_of_two_images():
    path = make("twins")
    image, name = volume("create", path, "1M")
    other, _ = volume("create", path, "1M")
    os.link(file_of(path, image, name), file_of(path, other, name))
    check("check tells", "it is no template" in find(path).stdout)
    for verb, *more in (("snapshot",), ("resize", "4M")):
        refused("is that of another image, too", "volume", verb, f"{path}/{image}", *more)
    r = lib.run("io", "-c", "write 0 4k", f"volume:{path}/{image}")
    check("it is not written to", r.returncode == 1 and "read-only" in r.stderr, r.stderr)
    works("checksum", f"volume:{path}/{image}")
    works("volume", "create", path, "1M", "--uuid", NEW)
    for where in (path, f"{path}/{OTHER}"):
        refused("has a volume", "volume", "create", where, "1M", "--uuid", NEW)


# ---- sizes -----------------------------------------------------------------------------------------------------


def test_sizes():
    """What a volume is told by its header, not by metadata that a resize has not reached."""
    path = make("sizes")
    for fmt in ("raw", "qcow2"):
        for said in (f"CAP={MIB}", "CAP=0"):
            image, base = volume("create", "-f", fmt, path, "1M")
            works("resize", "-q", "-f", fmt, file_of(path, image, base), "3M")
            works("io", "-f", fmt, "-c", "write -P 5 2M 64k", file_of(path, image, base))
            before = checksum(path, image, base)
            set_meta(path, image, base, f"CAP={MIB}", said)
            _, top = volume("snapshot", f"{path}/{image}")
            check("it reads the same", checksum(path, image, top) == before)
            judged(path)
            set_meta(path, image, top, f"CAP={3 * MIB}", said)
            works("resize", "-q", "-f", "qcow2", file_of(path, image, top), "5M")
            io(path, image, top, "write -P 6 4M 64k")
            before = checksum(path, image, top)
            dry = lib.snapshot_of(f"{path}/images")
            works("volume", "merge", "--dry-run", f"{path}/{image}/{top}")
            check("a dry run changes nothing", lib.snapshot_of(f"{path}/images") == dry)
            works("volume", "merge", f"{path}/{image}/{top}")
            check("and when it is merged", checksum(path, image, base) == before)
            judged(path)
            set_meta(path, image, base, f"CAP={5 * MIB}", f"CAP={9 * MIB}")
            for verb in ("snapshot", "prepare"):
                refused("has 5242880 bytes, and its metadata says 9437184", "volume", verb, f"{path}/{image}")
            set_meta(path, image, base, f"CAP={9 * MIB}", said)
            copied = told("image", "copy", f"{path}/{image}", path)
            check("a copy is as large", copied["capacity"] == 5 * MIB and
                  checksum(path, copied["image"], copied["volume"]) == before, copied)
            works("volume", "prepare", f"{path}/{image}")
    image, base = volume("create", path, "1M")
    os.truncate(file_of(path, image, base), 0)
    set_meta(path, image, base, f"CAP={MIB}", "CAP=0")
    refused("a volume of 0 bytes", "volume", "snapshot", f"{path}/{image}")


def test_chain_that_cannot_be_used():
    path = make("unusable")
    image, (base, top) = chain(path, "qcow2", 2)
    works("rebase", "-q", "-u", "-f", "qcow2", "-b", "/etc/passwd", "-F", "raw", file_of(path, image, top))
    untouched("chain", path, ("volume", "snapshot", f"{path}/{image}"))
    refused("/etc/passwd", "volume", "snapshot", f"{path}/{image}")


# ---- beside others ---------------------------------------------------------------------------------------------


def test_writers():
    """Who has the data open by its path."""
    path = make("writers")
    for fmt in ("raw", "qcow2"):
        image, name = volume("create", "-f", fmt, path, "1M")
        at = f"{path}/{image}"
        writer = Holder("-f", fmt, str(file_of(path, image, name)))
        before = sorted(lib.snapshot_of(f"{path}/images"))
        for arguments in (("volume", "delete", at), ("image", "delete", at), ("volume", "snapshot", at),
                          ("volume", "update", at, "--shared"), ("volume", "resize", at, "4M"),
                          ("volume", "download", at), ("image", "copy", at, path)):
            r = lib.run(*arguments)
            check(f"beside a writer: {arguments}", r.returncode == 1 and
                  sorted(lib.snapshot_of(f"{path}/images")) == before and "VOLTYPE=LEAF" in
                  meta_of(path, image, name), r.stdout + r.stderr)
        for arguments in (("volume", "info", at), ("image", "tree", at), ("volume", "prepare", at),
                          ("volume", "update", at, "--description", "x"), ("domain", "check", path)):
            works(*arguments)
        waits = subprocess.Popen([lib.TOOL, "volume", "snapshot", "-q", "--wait", at])
        writer.end()
        check("who waits goes on", waits.wait() == 0)
        writer = Holder("-f", "qcow2", str(file_of(path, image, told("volume", "info", at)["uuid"])))
        r = lib.run("volume", "merge", f"{at}/{told('volume', 'info', at)['uuid']}")
        check("merge", r.returncode == 1, r.stderr)
        writer.end()
    judged(path)


def test_killed_writer():
    """The kernel gives back what a killed process has had open a moment after it is gone."""
    path = make("killed")
    image, name = volume("create", path, "1M")
    at = f"{path}/{image}"
    for arguments in (("volume", "snapshot", at), ("volume", "delete", at), ("image", "delete", at)):
        top = told("volume", "info", at)["uuid"]
        fmt = "raw" if top == name else "qcow2"
        writer = Holder("-f", fmt, str(file_of(path, image, top)))
        writer.process.kill()
        works(*arguments)
        writer.process.communicate()


def test_names_are_uses():
    """Who has a volume open by its name, if only to read."""
    path = make("uses")
    image, (base, top) = chain(path, length=2)
    at = f"{path}/{image}"
    reader = Holder("-r", f"volume:{at}/{base}", command="read 0 4k")
    for arguments in (("volume", "snapshot", at), ("volume", "merge", f"{at}/{top}"), ("image", "delete", at),
                      ("volume", "delete", at), ("volume", "resize", at, "4M")):
        refused(f"image {image} is in use by process {reader.process.pid}", *arguments)
    works("volume", "update", at, "--description", "x")
    works("volume", "prepare", at)
    works("info", f"volume:{at}")
    check("check looks only", "is looked at only" in find(path, "--repair").stdout)
    reader.end()
    works("volume", "merge", f"{at}/{top}")
    child = subprocess.Popen([STEP_TOOL, "volume", "snapshot", at], stdout=subprocess.DEVNULL,
                             env={**os.environ, "VDISK_TEST_STOP": "create: data is written"})
    os.waitpid(child.pid, os.WUNTRACED)
    refused(f"is in use by process {child.pid}", "info", f"volume:{at}")
    os.kill(child.pid, signal.SIGCONT)
    check("it ends", child.wait() == 0)
    judged(path)


def waits_for_a_lock(path):
    """Somebody waits for a byte of the domain's leases."""
    inode = os.stat(f"{path}/dom_md/leases").st_ino
    lines = pathlib.Path("/proc/locks").read_text().splitlines()
    return any(f":{inode} " in line and "->" in line for line in lines)


def test_copies_in_opposite_directions():
    """Both wait, and neither for the other for ever: one is stopped between its two locks when the other comes."""
    one, two = make("one"), make("two")
    for a, image_a, b, image_b in ((one, NEW, two, OTHER), (one, NEW, one, OTHER), (one, OTHER, two, NEW)):
        sides = [(a, image_a), (b, image_b)]
        for domain, image in sides:
            works("volume", "create", f"{domain}/{image}", "1M")
        for (x, i), (y, j) in (sides, sides[::-1]):
            first = subprocess.Popen([STEP_TOOL, "image", "copy", "-q", "--wait", f"{x}/{i}", y, "--image", j],
                                     env={**os.environ, "VDISK_TEST_STOP": "copy: one image is locked"},
                                     stderr=subprocess.PIPE, text=True)
            os.waitpid(first.pid, os.WUNTRACED)
            second = subprocess.Popen([lib.TOOL, "image", "copy", "-q", "--wait", f"{y}/{j}", x, "--image", i],
                                      stderr=subprocess.PIPE, text=True)
            while not waits_for_a_lock(x) and not waits_for_a_lock(y) and second.poll() is None:
                time.sleep(0.01)
            os.kill(first.pid, signal.SIGCONT)
            for process in (first, second):
                try:
                    _, err = process.communicate(timeout=60)
                    check("it is refused", process.returncode == 1 and "has volumes" in err, err)
                except subprocess.TimeoutExpired:
                    check("it ends", False)
                    process.kill()
                    process.communicate()
        for domain, image in sides:
            works("image", "delete", f"{domain}/{image}")


# ---- what goes on ----------------------------------------------------------------------------------------------


def kill(path, step, *arguments):
    r = lib.run(*arguments, tool=STEP_TOOL, env={**os.environ, "VDISK_TEST_KILL": step})
    check(f"killed at '{step}'", r.returncode == -signal.SIGKILL, r.stderr)


def test_dry_runs():
    """They change nothing, not even what one who was killed has left."""
    path = make("dry")
    image, volumes = chain(path, length=2)
    kill(path, "create: data is written", "volume", "snapshot", f"{path}/{image}")
    untouched("dry", path, ("volume", "delete", "--dry-run", f"{path}/{image}/{volumes[1]}"),
              ("volume", "merge", "--dry-run", f"{path}/{image}/{volumes[1]}"),
              ("image", "delete", "--dry-run", f"{path}/{image}"))
    works("volume", "snapshot", f"{path}/{image}")
    judged(path)


def test_leaks():
    """Clusters that a merge which was killed has taken."""
    path = make("leaks")
    image, name = volume("create", "-f", "qcow2", path, "1M")
    file = file_of(path, image, name)
    with open(file, "r+b") as f: # a refcount for a cluster behind the end
        f.seek(64 * 1024 * 2 + 2 * 20)
        f.write(b"\0\1")
        f.truncate(64 * 1024 * 21)
    r = find(path)
    check("check tells", r.returncode == 2 and "1 cluster is nobody's" in r.stdout, r.stdout)
    r = find(path, "--repair")
    check("and repairs", r.returncode == 0 and "1 clusters are given back" in r.stdout, r.stdout)
    check("nothing is found", find(path).returncode == 0)


def test_uploads():
    """The format of the parent that a header promises is judged."""
    path = make("uploads")
    image, base = volume("create", "-f", "qcow2", path, "1M")
    for fmt, code in (("raw", 1), ("qcow2", 0)):
        works("create", "-q", "-u", "-f", "qcow2", "-b", base, "-F", fmt, "up", "1M")
        r = subprocess.run([lib.TOOL, "volume", "upload", "-f", "qcow2", "--parent", base, f"{path}/{image}",
                            "1M"], input=pathlib.Path("up").read_bytes(), capture_output=True,
                           check=False)
        check(f"upload with {fmt}", r.returncode == code and (code == 0 or b"its parent's format" in r.stderr),
              r.stderr)
    judged(path)


def test_names():
    """Targets and backing files by name."""
    path = make("named")
    image, base = volume("create", path, "1M")
    at = f"{path}/{image}"
    pathlib.Path("data").write_bytes(b"d" * 65536)
    works("dd", "-f", "raw", "if=data", f"of=volume:{at}", "bs=64k")
    works("io", "-c", "read -P 100 0 64k", f"volume:{at}")
    refused("leave out -O", "dd", "-O", "raw", "if=data", f"of=volume:{at}")
    works("create", "-q", "-f", "qcow2", "-b", f"volume:{at}", "over")
    said = told("info", "over")
    check("the backing file", said["backing-filename"] == os.path.realpath(file_of(path, image, base)) and
          said["backing-filename-format"] == "raw", said)
    refused("leave out -F", "create", "-q", "-f", "qcow2", "-b", f"volume:{at}", "-F", "raw", "over")
    pathlib.Path("data").write_bytes(b"e" * MIB)
    _, top = volume("snapshot", at)
    works("convert", "-f", "raw", "data", f"volume:{at}")
    works("io", "-c", "read -P 101 0 1M", f"volume:{at}")
    check("the format stays", told("volume", "info", at)["format"] == "qcow2")
    r = works("volume", "delete", at)
    check("the leaf is deleted", top in r.stdout and not file_of(path, image, top).exists())
    works("io", "-c", "read -P 100 0 64k", f"volume:{at}")
    judged(path)


def test_lost_answers():
    """A server of NFS that is asked once more, as its answer was lost, finds what it has done."""
    path = make("answers")
    template, below = volume("create", "-f", "qcow2", path, "1M")
    works("volume", "update", f"{path}/{template}", "--shared")
    for command in (("create", "-f", "qcow2", f"{path}/{NEW}", "1M"), ("snapshot", f"{path}/{NEW}"),
                    ("resize", f"{path}/{NEW}", "2M"), ("update", f"{path}/{NEW}", "--description", "x"),
                    ("merge", f"{path}/{NEW}"), ("delete", f"{path}/{NEW}"),
                    ("clone", f"{path}/{template}", "--image", OTHER), ("delete", f"{path}/{OTHER}")):
        verb = "image" if command[0] == "clone" or OTHER in command[1] else "volume"
        if command[0] == "merge":
            command = ("merge", f"{path}/{NEW}/{told('volume', 'info', f'{path}/{NEW}')['uuid']}")
        r = lib.run(verb, *command, tool=STEP_TOOL, env={**os.environ, "VDISK_TEST_NFS": "answers"})
        check(f"{verb} {command} works", r.returncode == 0, r.stdout + r.stderr)
        check(f"{verb} {command}: no fault", " 0 faults" in find(path).stdout, find(path).stdout)
        judged(path)
    check("all but the template is gone", os.listdir(f"{path}/images") == [template])


def test_names_in_messages():
    """Of a volume by its name the messages tell that name, in one line, whatever is in it."""
    path = make("told")
    image, _ = volume("create", "-f", "qcow2", path, "1M")
    named = f"volume:{path}/{image}"
    r = lib.run("io", "-q", "-c", "write 1M 1M", named)
    check("io tells it", r.returncode == 1 and r.stderr.startswith(f"vdisk-io: {named}: write failed"), r.stderr)
    r = lib.run("bench", "--count", "1", named)
    check("bench tells it", r.stdout.startswith(f"{named}: "), r.stdout + r.stderr)
    check("and in JSON", told("bench", "--count", "1", named)["filename"] == named)
    refused("'vdisk-io volume create' makes volumes", "create", "-f", "qcow2", named, "1M")
    refused("no action 'a?b?[31m'", "volume", "a\nb\x1b[31m", path)
    refused("--output takes human or json, not 'x?y'", "volume", "list", "--output=x\ny", path)


def test_full_disk():
    """What cannot be written stands in no one's way who removes."""
    path = make("nospace")
    image, (_, top) = chain(path, length=2)
    r = subprocess.run(["prlimit", "--fsize=0", lib.TOOL, "volume", "delete", f"{path}/{image}/{top}"],
                       capture_output=True, text=True, check=False)
    check("the data goes", not file_of(path, image, top).exists(), r.stderr)
    check("nothing is on its way", not [n for n in os.listdir(f"{path}/images/{image}") if n.endswith(".new")])
    works("volume", "snapshot", f"{path}/{image}")
    judged(path)


def test_read_only():
    """A file system that is read-only is looked at."""
    path = make("readonly")
    image, (_, mid, _) = chain(path)
    script = (f"mount --bind {path} {path} && mount -o remount,ro,bind {path} && "
              f"exec {lib.TOOL} domain check {path}")
    r = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, check=False)
    if "denied" in r.stderr or "not permitted" in r.stderr:
        print("no mounts here: not tried on a read-only file system")
        return
    check("check", r.returncode == 0 and "0 faults" in r.stdout, r.stdout + r.stderr)
    script = script.replace(f"domain check {path}", f"volume merge --dry-run {path}/{image}/{mid}")
    r = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, check=False)
    check("a dry run", r.returncode == 0, r.stdout + r.stderr)


lib.main(test_stale_metadata, test_header_of_a_merge_without_mark, test_circles, test_unreadable_metadata,
         test_named_intent,
         test_links_to_folders, test_links_to_files, test_data_file, test_create_over_a_link,
         test_parts_that_are_something_else, test_files_of_the_domain,
         test_only_copy_of_a_template, test_backups, test_data_of_two_images,
         test_sizes, test_chain_that_cannot_be_used, test_writers, test_killed_writer, test_names_are_uses,
         test_copies_in_opposite_directions, test_dry_runs, test_leaks, test_uploads, test_names,
         test_lost_answers, test_names_in_messages, test_full_disk, test_read_only)
