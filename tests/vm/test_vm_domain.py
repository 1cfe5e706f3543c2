#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""A storage domain in a volume group: domain.sh in the test machine, and what is on the disk then, judged by the
reader of Vdsm's formats of our own.

usage: test_vm_domain.py VDISK_IO
"""
import json
import os
import pathlib
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.dont_write_bytecode = True
sys.path.insert(0, str(HERE.parent / "domain"))
import vdsm  # noqa: E402

GIB = 1 << 30


def make_disk(path, size):
    """Old data at the start of each extent; the rest takes no space. The disk itself begins as an empty one."""
    old = b"what was here before " * 200000
    with open(path, "wb") as f:
        for at in range(1 << 20, size - len(old), 128 << 20):
            f.seek(at)
            f.write(old)
        f.truncate(size)


def main():
    with tempfile.TemporaryDirectory(prefix="vdisk-vm-domain.") as folder:
        disks = [f"{folder}/disk{i}" for i in range(4)]
        make_disk(disks[0], 16 * GIB)
        make_disk(disks[1], 1 * GIB)
        make_disk(disks[2], 11 * GIB)
        make_disk(disks[3], 11 * GIB)
        r = subprocess.run([str(HERE / "run"), "--timeout", "2400", "--disk", disks[0], "--disk", disks[1],
                            "--disk4k", disks[2], "--disk", disks[3], "--put", os.path.realpath(sys.argv[1]),
                            "--put", str(HERE / "guest.sh"), "--put", str(HERE / "domain.sh"), "sh", "domain.sh"],
                           stdout=subprocess.PIPE, text=True, check=False)
        if r.returncode != 0 or "@report" not in r.stdout:
            print(r.stdout)
            return r.returncode or 1
        lines = r.stdout.splitlines()
        text = "\n".join(lines[lines.index("@report") + 1:lines.index("@end")])
        report = json.loads(text)
        devices = [pv["pv_name"] for part in report["report"] for pv in part["pv"]]
        try:
            domain = vdsm.BlockDomain(report, dict(zip(devices, disks)))  # it has one
        except vdsm.Wrong as e:
            print(text)
            print(f"FAIL what is on the disk: {e}")
            return 1
        roles = sorted(meta["VOLTYPE"] for meta in domain.volumes.values())
        print(f"{len(domain.volumes)} volumes in {len(domain.images)} images: {' '.join(roles)}")
        return 0 if roles == ["INTERNAL", "LEAF", "LEAF", "LEAF", "SHARED"] else 1


if __name__ == "__main__":
    sys.exit(main())
