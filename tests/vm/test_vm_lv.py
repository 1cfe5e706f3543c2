#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Images on plain logical volumes: lv.sh in the test machine; and what is on its disks then, by qemu-img, where
there is one.

usage: test_vm_lv.py VDISK_IO STEP_TOOL PEER
"""
import json
import os
import pathlib
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
EXTENT = 4 << 20


def make_disk(path, size):
    """Old data, the same everywhere."""
    text = b"what was here before"
    with open(path, "wb") as f:
        f.write((text * (size // len(text) + 1))[:size])


def put_together(line, disks, folder):
    """The bytes of a volume, in a file."""
    group, name, start, *ranges = line.split()
    path = f"{folder}/{group}-{name}"
    with open(disks[int(group[2:])], "rb") as disk, open(path, "wb") as out:
        for piece in ranges:
            first, last = piece.rpartition(":")[2].split("-")
            disk.seek(int(start) + int(first) * EXTENT)
            out.write(disk.read((int(last) - int(first) + 1) * EXTENT))
    return path


def judge(path, peer):
    """Faults that qemu-img finds; leaks are none of a volume that a process was killed with."""
    alone = json.dumps({"driver": "qcow2", "backing": None, "file": {"driver": "file", "filename": path}})
    r = subprocess.run([peer, "check", "--output", "json", f"json:{alone}"], capture_output=True, text=True,
                       check=False)
    found = json.loads(r.stdout or '{"check-errors": 1}')
    if found.get("corruptions", 0) or found.get("check-errors", 0):
        return [f"{path}: {r.stdout}{r.stderr}"]
    info = json.loads(subprocess.run([peer, "info", "-f", "qcow2", "--output", "json", path], capture_output=True,
                                     text=True, check=True).stdout)
    group, name = os.path.basename(path).split("-")
    below = {"top": f"/dev/{group}/thin", "over": f"../{group}/raw"}.get(name)
    if info.get("backing-filename") != below:
        return [f"{path}: backing file is {info.get('backing-filename')}, not {below}"]
    return []


def main():
    tool, step_tool, peer = (os.path.realpath(word) for word in sys.argv[1:4])
    with tempfile.TemporaryDirectory(prefix="vdisk-vm-lv.") as folder:
        disks = [f"{folder}/disk{i}" for i in range(2)]
        for disk in disks:
            make_disk(disk, 256 << 20)
        r = subprocess.run([str(HERE / "run"), "--timeout", "1700", "--disk", disks[0], "--disk4k", disks[1],
                            "--put", tool, "--put", step_tool, "--put", str(HERE / "guest.sh"),
                            "--put", str(HERE / "lv.sh"), "sh", "lv.sh"],
                           stdout=subprocess.PIPE, text=True, check=False)
        if r.returncode != 0 or "@images" not in r.stdout:
            print(r.stdout)
            return r.returncode or 1
        lines = r.stdout.splitlines()
        images = [put_together(line, disks, folder)
                  for line in lines[lines.index("@images") + 1:lines.index("@end")]]
        if len(images) != 8:
            print(r.stdout)
            return 1
        peer = subprocess.run([peer], capture_output=True, text=True, check=False).stdout.strip()
        if not os.access(peer, os.X_OK):
            print("note: there is no qemu-img, the images are not looked at")
            return 0
        faults = [fault for image in images for fault in judge(image, peer)]
        for fault in faults:
            print(f"FAIL {fault}")
        return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
