#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Storage domains of versions 3 and 4: read, worked in, and kept as they are.

usage: test_domain_versions.py VDISK_IO
"""
import os
import pathlib
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import lib  # noqa: E402
from lib import (MIB, check, checksum, io, judged, make, meta_of, set_meta, told, volume,  # noqa: E402
                 works)
import vdsm  # noqa: E402

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


lib.main(test_kept)
