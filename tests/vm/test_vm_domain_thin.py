#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Thin volumes in a volume group: domain_thin.sh in the test machine; then QEMU judges the images on the disks.

usage: test_vm_domain_thin.py VDISK_IO PEER

PEER (bench/peer) prints the path of a qemu-img.
"""
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
GIB, MIB, EXTENT = 1 << 30, 1 << 20, 128 << 20
ZEROS = bytes(MIB)


def extract(report, disks, name, path):
    """A logical volume as a file: what the disks hold of it, holes where they have some."""
    group = [part for part in report["report"] if part.get("vg")][0]
    starts = {pv["pv_name"]: int(pv["pe_start"]) for pv in group["pv"]}
    with open(path, "wb") as out:
        for seg in group["seg"]:
            if seg["lv_name"] != name:
                continue
            device, extent = re.fullmatch(r"(.*)\((\d+)\)", seg["devices"]).groups()
            with open(disks[device], "rb") as f:
                f.seek(starts[device] + int(extent) * EXTENT)
                out.seek(int(seg["seg_start"]))
                for _ in range(int(seg["seg_size"]) // MIB):
                    data = f.read(MIB)
                    if data != ZEROS:
                        out.write(data)
                    else:
                        out.seek(len(data), os.SEEK_CUR)
        out.truncate(sum(int(s["seg_size"]) for s in group["seg"] if s["lv_name"] == name))


def judge(path, first, end, qemu_img):
    """Whole, and each MiB holds what was written to it. Returns what is wrong."""
    r = subprocess.run([qemu_img, "check", "-f", "qcow2", path], capture_output=True, text=True, check=False)
    if r.returncode != 0:
        return r.stdout + r.stderr
    qemu_io = os.path.join(os.path.dirname(qemu_img), "qemu-io")
    commands = "".join(f"read -P {n % 251 + 1} {n}M 1M\n" for n in range(first, end))
    r = subprocess.run([qemu_io, "-r", "-f", "qcow2", path], input=commands, capture_output=True, text=True,
                       check=False)
    done = len(re.findall(r"^(?:qemu-io> )*read 1048576/1048576", r.stdout, re.M))
    if r.returncode != 0 or done != end - first or "verification failed" in r.stdout:
        return f"{done} of {end - first} MiB read:\n{r.stdout[-2000:]}{r.stderr[-2000:]}"
    return ""


def run(folder, vdisk_io, qemu_img):
    disks = [f"{folder}/disk0", f"{folder}/disk1"]
    for disk, size in zip(disks, (11 * GIB, 2 * GIB)):
        with open(disk, "wb") as f:
            f.truncate(size)
    r = subprocess.run([str(HERE / "run"), "--timeout", "2000", "--disk", disks[0], "--disk", disks[1], "--put",
                        os.path.realpath(vdisk_io), "--put", str(HERE / "guest.sh"), "--put",
                        str(HERE / "domain_thin.sh"), "sh", "domain_thin.sh"],
                       stdout=subprocess.PIPE, text=True, check=False)
    lines = r.stdout.splitlines()
    if r.returncode != 0 or "@report" not in lines:
        print(r.stdout)
        return r.returncode or 1
    first, end = lines.index("@report"), lines.index("@end")
    print("\n".join(lines[:first]))
    report = json.loads("\n".join(lines[first + 1:end]))
    devices = sorted(pv["pv_name"] for part in report["report"] for pv in part.get("pv", []))
    if not qemu_img:
        print("no qemu-img: what is on the disks was not judged by it")
        return 0
    for line in lines[end:]:
        if line.startswith("@holds "):
            name, low, high = line.split()[1:]
            extract(report, dict(zip(devices, disks)), name, f"{folder}/image")
            wrong = judge(f"{folder}/image", int(low), int(high), qemu_img)
            if wrong:
                print(f"FAIL {name}: {wrong}")
                return 1
            print(f"{name}: QEMU finds all of {int(high) - int(low)} MiB")
    return 0


def main():
    with tempfile.TemporaryDirectory(prefix="vdisk-vm-thin.") as folder:
        peer = subprocess.run([sys.argv[2]], capture_output=True, text=True, check=False).stdout.strip()
        return run(folder, sys.argv[1], peer)


if __name__ == "__main__":
    sys.exit(main())
