#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Storage domains of versions 3 and 4: read, worked in, and kept as they are; and upgraded, killed at each step.

usage: test_domain_versions.py VDISK_IO STEP_TOOL
"""
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import lib  # noqa: E402
from lib import (MIB, check, checksum, io, judged, make, meta_of, refused, set_meta, told, volume,  # noqa: E402
                 works)
import vdsm  # noqa: E402

STEP_TOOL = os.path.realpath(sys.argv[2])
SOURCE = pathlib.Path(__file__).parents[2] / "tools/domain"
BLANK = "00000000-0000-0000-0000-000000000000"
IMAGE, BASE, TOP = (f"{c * 8}-0000-4000-8000-{c * 12}" for c in "abc")


def keys(text):
    return [line.split("=")[0] for line in text.splitlines()]


def old_image(path, version):
    """As Vdsm has written it, long ago: a raw volume, and a qcow2 one of version 2 on it; an old type of disk."""
    domain = os.path.basename(path)
    folder = f"{path}/images/{IMAGE}"
    os.makedirs(folder)
    for name, fmt, parent, role in ((BASE, "RAW", BLANK, "INTERNAL"), (TOP, "COW", BASE, "LEAF")):
        file = pathlib.Path(f"{folder}/{name}")
        if fmt == "RAW":
            file.write_bytes(b"d" * MIB)
        else:
            works("create", "-q", "-f", "qcow2", "-u", "-o", f"compat={'0.10' if version == 3 else '1.1'}", "-b",
                  BASE, "-F", "raw", file, "1M")
        file.chmod(0o660)
        pathlib.Path(f"{file}.meta").write_text(
            f"CTIME=1380000000\nDESCRIPTION={{\"DiskAlias\":\"d\"}}\nDISKTYPE=2\nDOMAIN={domain}\nFORMAT={fmt}\n"
            f"GEN=0\nIMAGE={IMAGE}\nLEGALITY=LEGAL\nMTIME=0\nPUUID={parent}\nSIZE={MIB // 512}\nTYPE=SPARSE\n"
            f"VOLTYPE={role}\nEOF\n")


def test_kept():
    for version in (3, 4):
        path = make(f"v{version}", "--domain-version", version)
        old_image(path, version)
        before = lib.snapshot_of(path)
        check("read", told("volume", "info", f"{path}/{IMAGE}")["capacity"] == MIB)
        for arguments in (("domain", "info", path), ("domain", "check", path), ("image", "tree", path),
                          ("volume", "prepare", f"{path}/{IMAGE}"), ("checksum", f"volume:{path}/{IMAGE}")):
            works(*arguments)
        check("no byte has changed", lib.snapshot_of(path) == before)
        text = meta_of(path, IMAGE, TOP)
        works("volume", "update", f"{path}/{IMAGE}", "--description", "new")
        check("all else is kept", meta_of(path, IMAGE, TOP) == text.replace('{"DiskAlias":"d"}', "new"))
        io(path, IMAGE, TOP, "write -P 5 64k 64k")
        content = checksum(path, IMAGE, TOP)
        _, leaf = volume("snapshot", f"{path}/{IMAGE}", "2M")
        check("keys of the version", keys(meta_of(path, IMAGE, leaf)) == vdsm.KEYS_4 + ["EOF"] and
              f"SIZE={2 * MIB // 512}\n" in meta_of(path, IMAGE, leaf))
        works("volume", "resize", f"{path}/{IMAGE}", "3M")
        judged(path)
        works("volume", "merge", f"{path}/{IMAGE}/{TOP}")
        judged(path)
        works("volume", "delete", f"{path}/{IMAGE}/{leaf}")
        check("the content", checksum(path, IMAGE, BASE) == content)
        copied = told("image", "copy", "-f", "qcow2", f"{path}/{IMAGE}", path)
        works("volume", "update", f"{path}/{copied['image']}", "--shared")
        works("image", "clone", f"{path}/{copied['image']}")
        judged(path)
        works("create", "-q", "-f", "qcow2", "-o", "compat=1.1", "up", "1M")
        r = subprocess.run([lib.TOOL, "volume", "upload", "-f", "qcow2", path, "1M"], capture_output=True,
                           check=False, input=pathlib.Path("up").read_bytes())
        refusal = r.returncode == 1 and b"its version of qcow2" in r.stderr
        check("qcow2 of version 3 is not for version 3", refusal if version == 3 else r.returncode == 0, r.stderr)
        set_meta(path, IMAGE, BASE, f"SIZE={MIB // 512}", "SIZE=x")
        check("a size that is none", told("volume", "info", f"{path}/{IMAGE}/{BASE}").get("trouble"))


def contents(path):
    found = {}
    for image in sorted(os.listdir(f"{path}/images")):
        found[image] = works("checksum", f"volume:{path}/{image}").stdout.split()[0]
    return found


def old_domain(folder, version, kind):
    path = make(folder, "--domain-version", version, "--type", kind)
    old_image(path, version)
    image, _ = volume("create", "-f", "qcow2", path, "1M")
    works("volume", "update", f"{path}/{image}", "--shared")
    for _ in range(2):
        works("image", "clone", f"{path}/{image}")
    volume("create", path, "1M", "--description", "é" * 40)
    judged(path)
    return path


def upgraded(path):
    domain = judged(path, upgraded=True)
    check("all is version 5", domain and domain.version == 5)
    check("and nothing is found", told("domain", "check", path)["faults"] == 0)


def test_upgrade():
    seen = set()
    for version, kind in ((3, "localfs"), (4, "localfs"), (3, "nfs"), (4, "nfs")):
        path = old_domain(f"{kind}{version}", version, kind)
        os.makedirs("first")
        subprocess.run(["cp", "-a", "--sparse=always", path, "first/"], check=True)
        before, name = contents(path), os.path.basename(path)
        r = lib.run("domain", "upgrade", path, tool=STEP_TOOL,
                    env={**os.environ, "VDISK_TEST_STEPS": f"{os.getcwd()}/steps"})
        check("upgrade works", r.returncode == 0 and "version 5" in r.stdout, r.stderr)
        upgraded(path)
        check("the images read the same", contents(path) == before)
        was = lib.snapshot_of(path)
        check("once more", "as before" in works("domain", "upgrade", path).stdout and lib.snapshot_of(path) == was)
        works("volume", "snapshot", f"{path}/{IMAGE}")
        works("volume", "update", f"{path}/{IMAGE}", "--description", "x")
        upgraded(path)
        steps = pathlib.Path("steps").read_text().splitlines()
        os.unlink("steps")
        seen |= set(steps)
        # Each step, and each time that it comes.
        for n, step in enumerate(steps):
            shutil.rmtree("killed", ignore_errors=True)
            os.makedirs("killed")
            subprocess.run(["cp", "-a", "--sparse=always", f"first/{name}", "killed/"], check=True)
            path = f"killed/{name}"
            r = lib.run("domain", "upgrade", path, tool=STEP_TOOL,
                        env={**os.environ, "VDISK_TEST_KILL": step,
                             "VDISK_TEST_AFTER": str(steps[:n].count(step))})
            what = f"{kind}{version}, killed at {step}"
            check(what, r.returncode == -signal.SIGKILL, r.stderr)
            check(f"{what}: the images read the same", contents(path) == before)
            check(f"{what}: check tells", step != "upgrade: the domain is of version 5" or
                  "not of version 5 yet" in works("domain", "check", path).stdout)
            works("domain", "upgrade", path)
            upgraded(path)
            check(f"{what}: and afterwards", contents(path) == before)
        shutil.rmtree("first")
    named = set(re.findall(r'dom_step\("([^"]+)"\)', (SOURCE / "op_upgrade.c").read_text()))
    named -= {"upgrade: a volume is of version 5, too"} # in a volume group: tests/vm/domain_kill.sh
    check("each step was killed at", seen == named, seen ^ named)


def test_refused():
    """Before anything is changed."""
    path = old_domain("refused", 4, "localfs")
    meta = pathlib.Path(f"{path}/images/{IMAGE}/{TOP}.meta")
    text = meta.read_text()
    for bad in (text.replace("FORMAT=COW", "FORMAT=cow"), None):
        meta.write_text(bad) if bad else meta.unlink()
        before = lib.snapshot_of(path)
        refused(TOP, "domain", "upgrade", path)
        check("nothing has changed", lib.snapshot_of(path) == before)
    meta.write_text(text)
    child = subprocess.Popen([STEP_TOOL, "volume", "snapshot", f"{path}/{IMAGE}"], stdout=subprocess.DEVNULL,
                             env={**os.environ, "VDISK_TEST_STOP": "create: data is written"})
    os.waitpid(child.pid, os.WUNTRACED)
    refused(f"is in use by process {child.pid}", "domain", "upgrade", path)
    os.kill(child.pid, signal.SIGCONT)
    check("it ends", child.wait() == 0)
    works("domain", "upgrade", path)
    upgraded(path)


lib.main(test_kept, test_upgrade, test_refused)
