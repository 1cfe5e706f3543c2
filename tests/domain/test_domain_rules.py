#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Storage domains that break a rule of the layout, or meet an error amid an operation: what an image reads does
not change, what nobody may write to is not written to, and what is written can be read again.

usage: test_domain_rules.py VDISK_IO STEP_TOOL
"""
import os
import pathlib
import shutil
import signal
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import lib  # noqa: E402
from lib import (MIB, chain, check, checksum, file_of, find, io, judged, make, meta_of, refused,  # noqa: E402
                 set_meta, told, untouched, volume, works)

STEP_TOOL = os.path.realpath(sys.argv[2])
NEW = "aaaaaaaa-0000-4000-8000-00000000000a"
OTHER = "bbbbbbbb-0000-4000-8000-00000000000b"


def test_small_child():
    """A child that is smaller than its parent hides what lies behind its end: it is not merged."""
    path = make("small")
    image, base = volume("create", path, "4M")
    io(path, image, base, "write -P 1 0 4M")
    mid = volume("snapshot", f"{path}/{image}")[1]
    top = volume("snapshot", f"{path}/{image}")[1]
    os.rename(file_of(path, image, mid), "kept")
    works("create", "-q", "-u", "-f", "qcow2", "-b", base, "-F", "raw", file_of(path, image, mid), "1M")
    os.chmod(file_of(path, image, mid), 0o660)
    set_meta(path, image, mid, f"CAP={4 * MIB}", f"CAP={MIB}")
    before = checksum(path, image, top)
    r = find(path, "--repair")
    check("check tells", r.returncode == 2 and "fewer than its parent" in r.stdout, r.stdout)
    untouched("small", path, ("volume", "merge", f"{path}/{image}/{mid}"))
    refused("fewer than its parent", "volume", "merge", f"{path}/{image}/{mid}")
    check("it reads the same", checksum(path, image, top) == before)
    works("volume", "merge", f"{path}/{image}/{top}") # the middle grows, and hides it still
    check("and when it is merged into the small one", checksum(path, image, mid) == before)
    judged(path)
    works("volume", "merge", f"{path}/{image}/{mid}")
    check("and that into its parent", checksum(path, image, base) == before)
    judged(path)


def breaks(step, *arguments):
    """After this step nothing gets to the disk."""
    r = lib.run(*arguments, tool=STEP_TOOL, env={**os.environ, "VDISK_TEST_EIO": step})
    check(f"{' '.join(arguments)}: it fails after '{step}'", r.returncode == 1 and
          "Input/output error" in r.stderr, r.stderr)


def test_sync_that_fails():
    """A volume that was published, and is not durable, goes with its metadata."""
    path = make("sync")
    image, (_, top) = chain(path, length=2)
    other, _ = volume("create", "-f", "qcow2", path, "1M")
    works("volume", "update", f"{path}/{other}", "--shared")
    before = checksum(path, image, top)
    files = sorted(lib.snapshot_of(f"{path}/images"))
    for arguments in (("volume", "snapshot", f"{path}/{image}"), ("volume", "create", path, "1M"),
                      ("image", "clone", f"{path}/{other}"), ("image", "copy", f"{path}/{image}", path)):
        breaks("create: volume is published", *arguments)
        check(f"{arguments}: nothing is left", sorted(lib.snapshot_of(f"{path}/images")) == files)
        works("volume", "prepare", f"{path}/{image}")
        judged(path)
    breaks("create: metadata is noted", "volume", "create", path, "1M") # the mode of its data
    check("no data without metadata", sorted(lib.snapshot_of(f"{path}/images")) == files)
    check("it reads the same", checksum(path, image, top) == before)


def test_lost_leaf():
    """Where the leaf has no metadata any more, its parent is not taken for it."""
    path = make("lost")
    image, (base, mid, top) = chain(path)
    before = checksum(path, image, top)
    text = meta_of(path, image, top)
    file_of(path, image, top, ".meta").unlink()
    for role in ("INTERNAL", "LEAF"):
        set_meta(path, image, mid, "VOLTYPE=INTERNAL", f"VOLTYPE={role}")
        refused("which volume is the leaf is not known", "checksum", f"volume:{path}/{image}", code=2)
        for arguments in (("info", f"volume:{path}/{image}"), ("volume", "prepare", f"{path}/{image}"),
                          ("image", "copy", f"{path}/{image}", path),
                          ("volume", "download", f"{path}/{image}")):
            refused("which volume is the leaf is not known", *arguments)
        works("info", f"volume:{path}/{image}/{mid}")
        works("checksum", f"volume:{path}/{image}/{base}")
    set_meta(path, image, mid, "VOLTYPE=LEAF", "VOLTYPE=INTERNAL")
    file_of(path, image, top, ".meta").write_text(text)
    judged(path)
    check("it reads the same", checksum(path, image, top) == before)


def test_named_by_a_header():
    """Who says LEAF, and a header names it: it is not written to, and gets no child."""
    path = make("header")
    image, (base, mid, top) = chain(path)
    before = checksum(path, image, top)
    text = meta_of(path, image, top)
    set_meta(path, image, mid, "VOLTYPE=INTERNAL", "VOLTYPE=LEAF")
    for damage in (None, text.replace(f"PUUID={mid}", f"PUUID={base}")):
        if damage is None:
            file_of(path, image, top, ".meta").unlink()
        else:
            file_of(path, image, top, ".meta").write_text(damage)
        r = lib.run("io", "-c", "write 0 4k", f"volume:{path}/{image}/{mid}")
        check("it is not written to", r.returncode == 1 and "read-only" in r.stderr, r.stderr)
        untouched("header", path, ("volume", "snapshot", f"{path}/{image}/{mid}"))
        refused("lies on it, as its header says", "volume", "snapshot", f"{path}/{image}/{mid}")
    set_meta(path, image, mid, "VOLTYPE=LEAF", "VOLTYPE=INTERNAL")
    file_of(path, image, top, ".meta").write_text(text)
    judged(path)
    check("it reads the same", checksum(path, image, top) == before)
    # What is half-made stands in nobody's way.
    r = lib.run("volume", "snapshot", f"{path}/{image}", tool=STEP_TOOL,
                env={**os.environ, "VDISK_TEST_KILL": "create: data is written"})
    check("it is killed", r.returncode == -signal.SIGKILL)
    works("io", "-c", "write 0 4k", f"volume:{path}/{image}/{top}")


def test_names_of_data():
    """Data with another name, whatever it is and wherever, is not written to."""
    path = make("linked")
    image, (base, top) = chain(path, "qcow2", 2)
    other, _ = volume("create", path, "1M")
    for where in (file_of(path, other, NEW), "backup"):
        for name in (base, top):
            os.link(file_of(path, image, name), where)
            before = lib.snapshot_of(path)
            verb = ("merge",) if name == base else ("resize", "4M")
            refused("has 2 names", "volume", verb[0], f"{path}/{image}/{top}", *verb[1:])
            r = lib.run("io", "-c", "write 0 4k", f"volume:{path}/{image}/{name}")
            check("it is not written to", r.returncode == 1 and "read-only" in r.stderr, r.stderr)
            check("check tells", "has 2 names" in find(path, "--repair").stdout)
            check("nothing has changed", lib.snapshot_of(path) == before)
            os.unlink(where)
    file = file_of(path, image, top)
    with open(file, "r+b") as f: # a refcount for a cluster behind the end
        f.seek(64 * 1024 * 2 + 2 * 20)
        f.write(b"\0\1")
        f.truncate(64 * 1024 * 21)
    os.link(file, "backup")
    before = file.read_bytes()
    check("the leak is told", "nobody's" in find(path, "--repair").stdout)
    check("and not repaired in the backup", pathlib.Path("backup").read_bytes() == before)


def test_last_sequence():
    """After the largest number there is none: nothing is written that cannot be read."""
    path = make("sequence")
    image, name = volume("create", path, "1M")
    works("volume", "update", f"{path}/{image}", "--sequence", (1 << 32) - 1)
    untouched("sequence", path, ("volume", "snapshot", f"{path}/{image}"))
    refused("the largest sequence number", "volume", "snapshot", f"{path}/{image}")
    works("volume", "snapshot", f"{path}/{image}", "--sequence", "7", "--uuid", NEW)
    refused("the largest sequence number", "volume", "snapshot", f"{path}/{image}")
    works("volume", "update", f"{path}/{image}/{name}", "--sequence", "8")
    works("volume", "snapshot", f"{path}/{image}")
    check("one more", "SEQ=9\n" in meta_of(path, image, told("volume", "info", f"{path}/{image}")["uuid"]))
    judged(path)


def kill(step, *arguments):
    r = lib.run(*arguments, tool=STEP_TOOL, env={**os.environ, "VDISK_TEST_KILL": step})
    check(f"killed at '{step}'", r.returncode == -signal.SIGKILL, r.stderr)


def test_merge_that_has_not_ended():
    """The parent has some of the volume: that is not deleted, whoever was above it has gone."""
    path = make("half")
    for length in (2, 3):
        image, volumes = chain(path, length=length)
        at = f"{path}/{image}"
        before = checksum(path, image, volumes[-1])
        kill("merge: base has the data", "volume", "merge", f"{at}/{volumes[1]}")
        works("volume", "prepare", at)
        works("domain", "check", "--repair", path)
        check("check tells", "a merge was ended early" in find(path).stdout)
        check("it reads the same", checksum(path, image, volumes[-1]) == before)
        if length == 3:
            works("volume", "delete", at)
            before = checksum(path, image, volumes[1])
        refused("was ended early", "volume", "delete", f"{at}/{volumes[1]}")
        _, top = volume("snapshot", at)
        works("volume", "merge", f"{at}/{top}")
        works("domain", "check", "--repair", path)
        refused("was ended early", "volume", "delete", f"{at}/{volumes[1]}")
        works("volume", "merge", f"{at}/{volumes[1]}")
        check("it reads the same, merged", checksum(path, image, volumes[0]) == before)
        judged(path)


def test_mark_that_stays():
    """A merge that is made again does not write the mark anew: killed amid that it would have left none."""
    path = make("mark")
    image, volumes = chain(path, length=2)
    mark = file_of(path, image, volumes[1], ".intent")
    kill("merge: base has the data", "volume", "merge", f"{path}/{image}/{volumes[1]}")
    with open(mark, "rb"): # so that nothing else gets its inode
        before = mark.stat().st_ino
        kill("merge: volume is marked", "volume", "merge", f"{path}/{image}/{volumes[1]}")
        check("it is the same file", mark.stat().st_ino == before)
    works("volume", "merge", f"{path}/{image}/{volumes[1]}")
    judged(path)


def modes_of(path):
    """Of all that is in the domain: mode and owner; and of it itself."""
    found = {}
    for file in [pathlib.Path(path), *pathlib.Path(path).rglob("*")]:
        st = file.stat()
        found[str(file)] = (st.st_mode & 0o7777, st.st_uid, st.st_gid)
    return found


def test_owners():
    """Whatever the umask is; and what root makes is his who has the domain."""
    owner = (36, 36) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
    if os.geteuid() != 0:
        print("not root: that files get the owner of their domain is not tried")
    os.makedirs("owned")
    os.chown("owned", *owner)
    mask = os.umask(0o077)
    for kind in ("localfs", "nfs"):
        uuid = works("domain", "create", "--type", kind, "--domain-version", "4", "owned").stdout.strip()
        path = f"owned/{uuid}"
        image, (_, _, top) = chain(path)
        works("volume", "merge", f"{path}/{image}/{top}")
        template, _ = volume("create", "-f", "qcow2", path, "1M")
        works("volume", "update", f"{path}/{template}", "--shared")
        works("image", "clone", f"{path}/{template}")
        works("volume", "resize", f"{path}/{image}", "4M")
        works("volume", "update", f"{path}/{image}", "--description", "x")
        _, top = volume("snapshot", f"{path}/{image}")
        kill("merge: base has the data", "volume", "merge", f"{path}/{image}/{top}")
        works("domain", "upgrade", path)
        for name, (mode, *who) in modes_of(path).items():
            wish = 0o755 if os.path.isdir(name) else \
                0o644 if name.endswith((".meta", ".intent", "/metadata")) else 0o660
            check(f"{name} has its mode and owner", mode == wish and tuple(who) == owner, f"{mode:o} {who}")
    os.umask(mask)


def pad(path, image, name, size=512):
    """Metadata of so many bytes, by a key that nobody knows."""
    text = meta_of(path, image, name)
    assert len(text) + len("ZZZ=\n") <= size
    file_of(path, image, name, ".meta").write_text(
        text.replace("EOF\n", f"ZZZ={'z' * (size - len(text) - len('ZZZ=') - 1)}\nEOF\n"))
    check("it has so many bytes", len(meta_of(path, image, name)) == size)


def test_full_metadata():
    """What has no room in metadata is known before anything is changed."""
    path = make("full")
    image, (base, top) = chain(path, length=2)
    works("volume", "resize", f"{path}/{image}", "64M") # a digit more
    pad(path, image, base)
    dry = ("volume", "merge", "--dry-run", f"{path}/{image}/{top}")
    untouched("full", path, dry, ("volume", "merge", f"{path}/{image}/{top}"))
    refused("at most 512 bytes", *dry)
    refused("at most 512 bytes", "volume", "merge", f"{path}/{image}/{top}")
    image, base = volume("create", path, "1M")
    pad(path, image, base)
    untouched("full", path, ("volume", "resize", f"{path}/{image}", "64M"))
    refused("at most 512 bytes", "volume", "resize", f"{path}/{image}", "64M")


def test_illegal_below():
    """What lies on an ILLEGAL volume is not used."""
    path = make("illegal")
    for word in ("ILLEGAL", "FAKE"):
        image, (base, _, top) = chain(path, "qcow2")
        set_meta(path, image, base, "LEGALITY=LEGAL", f"LEGALITY={word}")
        at = f"{path}/{image}"
        refused(f"which is {word}", "checksum", f"volume:{at}", code=2)
        for arguments in (("info", f"volume:{at}"), ("volume", "snapshot", at), ("image", "copy", at, path),
                          ("volume", "resize", at, "4M"), ("volume", "merge", f"{at}/{top}")):
            refused(f"which is {word}", *arguments)
        works("image", "delete", at)
        image, name = volume("create", "-f", "qcow2", path, "1M")
        works("volume", "update", f"{path}/{image}", "--shared")
        clone, _ = works("image", "clone", f"{path}/{image}").stdout.strip().split("/")
        set_meta(path, image, name, "LEGALITY=LEGAL", f"LEGALITY={word}")
        refused(f"which is {word}", "info", f"volume:{path}/{clone}")
        works("image", "delete", f"{path}/{clone}")


def test_upgrade_without_room():
    """Metadata of version 4, full, and without a generation."""
    os.makedirs("old")
    path = f"old/{works('domain', 'create', '--domain-version', '4', 'old').stdout.strip()}"
    image, name = volume("create", path, "1M", "--description", "d" * 40)
    set_meta(path, image, name, "GEN=0\n", "")
    pad(path, image, name)
    before = lib.snapshot_of(path)
    refused("has no room for what version 5 adds", "domain", "upgrade", path)
    check("nothing has changed", lib.snapshot_of(path) == before)
    works("volume", "update", f"{path}/{image}", "--description", "d")
    works("domain", "upgrade", path)
    works("volume", "prepare", f"{path}/{image}")


def test_name_that_two_want():
    """Two images at a time, each with a lock of its own."""
    path = make("names")
    child = subprocess.Popen([STEP_TOOL, "volume", "create", f"{path}/{NEW}", "1M", "--uuid", OTHER],
                             env={**os.environ, "VDISK_TEST_STOP": "create: template is shared"},
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    os.waitpid(child.pid, os.WUNTRACED)
    image, _ = volume("create", path, "1M", "--uuid", OTHER)
    os.kill(child.pid, signal.SIGCONT)
    said, err = child.communicate()
    check("one has it", child.returncode == 1 and said == "" and f"image {image} has a volume" in err, err)
    check("and the other is not there", os.listdir(f"{path}/images") == [image])
    judged(path)


def test_template_with_a_parent():
    path = make("template")
    image, (_, top) = chain(path, "qcow2", 2)
    set_meta(path, image, top, "VOLTYPE=LEAF", "VOLTYPE=SHARED")
    r = find(path, "--repair")
    check("check tells", r.returncode == 2 and "is a template (SHARED), and has a parent" in r.stdout, r.stdout)
    untouched("template", path, ("image", "clone", f"{path}/{image}"))
    refused("and has a parent itself", "image", "clone", f"{path}/{image}")


def test_upgrade_of_an_orphan():
    """A template whose only names are in images that lie on it."""
    os.makedirs("orphan")
    path = f"orphan/{works('domain', 'create', '--domain-version', '4', 'orphan').stdout.strip()}"
    image, name = volume("create", "-f", "qcow2", path, "1M")
    works("volume", "update", f"{path}/{image}", "--shared")
    clones = [works("image", "clone", f"{path}/{image}").stdout.split("/")[0] for _ in range(2)]
    shutil.rmtree(f"{path}/images/{image}")
    works("domain", "upgrade", path)
    for clone in clones:
        check("its metadata is of version 5", "CAP=" in meta_of(path, clone, name) and "SIZE=" not in
              meta_of(path, clone, name))
    check("one file still", file_of(path, clones[0], name, ".meta").samefile(
        file_of(path, clones[1], name, ".meta")))


def test_upload_of_large_clusters():
    """A small image of which each table takes a cluster."""
    path = make("clusters")
    works("create", "-q", "-f", "qcow2", "-o", "cluster_size=2M", "large", "1M")
    works("io", "-f", "qcow2", "-c", "write -P 3 0 1M", "large")
    with open("large", "rb") as f:
        r = subprocess.run([lib.TOOL, "volume", "upload", "-f", "qcow2", path, "1M"], stdin=f,
                           capture_output=True, text=True, check=False)
    check("it is uploaded", r.returncode == 0, r.stderr)
    image = r.stdout.split("/")[0]
    works("io", "-c", "read -P 3 0 1M", f"volume:{path}/{image}")


def test_resize_that_fails():
    """Its metadata does not get to the disk: it has the size that it had."""
    path = make("resize")
    for fmt in ("raw", "qcow2"):
        image, name = volume("create", "-f", fmt, path, "1M")
        io(path, image, name, "write -P 1 0 1M")
        before = checksum(path, image, name)
        breaks("resize: volume is larger", "volume", "resize", f"{path}/{image}", "4M")
        check("it reads the same", checksum(path, image, name) == before)
        judged(path)
        works("volume", "resize", f"{path}/{image}", "4M")
        judged(path)


def test_odd_size():
    """A raw file that does not end with a sector."""
    path = make("odd")
    image, name = volume("create", path, "1M")
    os.truncate(file_of(path, image, name), MIB + 1)
    works("volume", "prepare", f"{path}/{image}")
    judged(path)


def test_draft_of_the_domain():
    """An upgrade that was killed, and is not called again."""
    path = make("draft")
    for name in ("metadata.new", "xleases.new"):
        pathlib.Path(f"{path}/dom_md/{name}").write_text("half")
    r = find(path)
    check("check tells", r.returncode == 2 and "2 files of dom_md" in r.stdout, r.stdout)
    r = find(path, "--repair")
    check("and repairs", r.returncode == 0, r.stdout)
    judged(path)


def test_lists():
    """What cannot be read is told, with all that can: a list of less is no success."""
    path = make("lists")
    image, name = volume("create", path, "1M")
    other, bad = volume("create", path, "1M", "--illegal")
    refused_, works_ = f"{path}/images/{NEW}", (image, other)
    pathlib.Path(refused_).touch()
    for verb in ("image", "volume"):
        for arguments in ((verb, "list", path), (verb, "list", path, "--output=json")):
            r = lib.run(*arguments)
            check(f"{arguments}", r.returncode == 1 and all(i in r.stdout for i in works_) and
                  f"{refused_}: is no folder" in r.stderr, r.stdout + r.stderr)
    os.unlink(refused_)
    listed = works("volume", "list", path).stdout
    check("what is not LEGAL is told", f"{other}/{bad}  raw sparse LEAF ILLEGAL," in listed and
          f"{image}/{name}  raw sparse LEAF, 1" in listed, listed)
    set_meta(path, image, name, "FORMAT=RAW", "FORMAT=raw")
    check("why it cannot be read", f"{image}/{name}  (FORMAT=raw is no value of FORMAT)" in
          works("volume", "list", path).stdout)


def test_odd_description():
    """Whatever another program has written there does not stand in the way of who does not change it."""
    path = make("described")
    image, name = volume("create", path, "1M", "--description", "here")
    file = file_of(path, image, name, ".meta")
    file.write_bytes(file.read_bytes().replace(b"=here", b"=a\xffb\tc\x1b"))
    _, top = volume("snapshot", f"{path}/{image}")
    check("it is kept", b"DESCRIPTION=a\xffb\tc\x1b\n" in file_of(path, image, top, ".meta").read_bytes())
    copied = told("image", "copy", f"{path}/{image}", path)
    check("and copied", b"DESCRIPTION=a\xffb\tc\x1b\n" in
          file_of(path, copied["image"], copied["volume"], ".meta").read_bytes())
    check("JSON has it as text", "c" in told("volume", "list", path)[0]["description"])
    shown = subprocess.run([lib.TOOL, "volume", "info", f"{path}/{image}"], capture_output=True, check=True).stdout
    check("it is shown without what terminals obey", b"\x1b" not in shown and b"b?c?\n" in shown, shown)
    refused("no line of text", "volume", "update", f"{path}/{image}", "--description", "a\tb")


lib.main(test_lists, test_odd_description,
         test_names_of_data, test_small_child, test_sync_that_fails, test_lost_leaf, test_named_by_a_header,
         test_last_sequence, test_merge_that_has_not_ended, test_mark_that_stays, test_owners, test_full_metadata,
         test_illegal_below, test_upgrade_without_room, test_name_that_two_want, test_template_with_a_parent,
         test_upgrade_of_an_orphan, test_upload_of_large_clusters, test_resize_that_fails, test_odd_size,
         test_draft_of_the_domain)
