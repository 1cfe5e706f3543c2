#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""What lv judges and measures, without a group of its own: lvm's report is made as it was recorded, and nothing is
changed. The images are on loop devices, where those of volumes would be. tests/vm/lv.sh has real groups.

usage: test_lv.py VDISK_IO
"""
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

TOOL = os.path.realpath(sys.argv[1])
MIB = 1 << 20
EXTENT = 4 * MIB
GROUP = f"vdisktest{os.getpid()}"
LOOPS = []
checks = failures = 0


def check(what, condition, more=""):
    global checks, failures
    checks += 1
    if not condition:
        failures += 1
        print(f"FAIL {what} {more}")


def report(volumes, free, tags="", used_by=()):
    """As lvm gives it. volumes: {name: (size, tags)}; used_by: names of those that somebody has open."""
    used = sum(size for size, _ in volumes.values()) // EXTENT
    return {"report": [{
        "vg": [{"vg_name": GROUP, "vg_uuid": "OFyGJb-Xw8e-G5IS-Oyey-2kmC-vcse-GlxCQB",
                "vg_extent_size": str(EXTENT), "vg_size": str(used * EXTENT + free),
                "vg_free": str(free), "vg_tags": tags}],
        "pv": [{"pv_name": "/dev/loop1", "pv_uuid": "W1hheA-hliK-Ev6a-9ezN-ux8b-M55u-3iUCyM",
                "dev_size": str(1 << 40), "pv_pe_count": str(used + free // EXTENT),
                "pv_pe_alloc_count": str(used), "pe_start": "1048576", "pv_mda_used_count": "1"}],
        "lv": [{"lv_name": name, "lv_uuid": "5fcqt1-yjtE-a1Pl-CMC2-siPS-xzk9-VJiFlC", "lv_size": str(size),
                "lv_tags": of, "lv_active": "active",
                "lv_device_open": "open" if name in used_by else ""} for name, (size, of) in volumes.items()],
        "pvseg": [{"pvseg_start": "0"}],
        "seg": [{"lv_name": name, "seg_start": "0", "seg_size": str(size), "segtype": "linear",
                 "devices": "/dev/loop1(0)"} for name, (size, _) in volumes.items()]}]}


def run(*arguments):
    return subprocess.run([TOOL, "lv", *map(str, arguments)], capture_output=True, text=True, check=False,
                          stdin=subprocess.DEVNULL,
                          env={**os.environ, "PATH": f"{os.getcwd()}/bin:{os.environ['PATH']}"})


def told(*arguments):
    r = run(*arguments, "--output=json")
    check(f"{arguments}", r.returncode == 0, r.stderr)
    return json.loads(r.stdout or "{}")


def refused(text, *arguments):
    r = run(*arguments)
    lines = [line for line in r.stderr.splitlines()
             if not line.startswith(("vdisk-io: hint: ", "vdisk-io: note: "))]
    check(f"refused: {arguments}", r.returncode == 1 and r.stdout == "" and len(lines) == 1 and text in lines[0],
          r.stdout + r.stderr)


def group(volumes, free=1 << 44, tags="", used_by=()):
    """The report from now on, and a program that gives it, and does nothing else."""
    pathlib.Path("report.json").write_text(json.dumps(report(volumes, free, tags, used_by)))
    os.makedirs("bin", exist_ok=True)
    program = pathlib.Path("bin/lvm")
    program.write_text(f"#!/bin/sh\n[ \"$1\" = fullreport ] && exec cat {os.getcwd()}/report.json\n"
                       "echo \"  $1 is not to be run\" >&2\nexit 5\n")
    program.chmod(0o755)


def round_up(size):
    return -(-size // EXTENT) * EXTENT


def measured(size, *options):
    r = subprocess.run([TOOL, "measure", "-O", "qcow2", "--size", str(size), "--output=json", *options],
                       capture_output=True, text=True, check=True)
    return json.loads(r.stdout)


def test_create():
    group({"taken": (EXTENT, ""), "half": (EXTENT, "a,VDISK_UNFINISHED")})
    for size in (1, 512, MIB, 3 * MIB + 512, 100 * MIB, 2560 * MIB, 20 << 30, 1 << 40):
        for options in ((), ("-o", "cluster_size=4k"), ("-o", "extended_l2=on,refcount_bits=64")):
            takes = measured(size, *options)
            full = told("create", "--dry-run", "-a", "preallocated", *options, f"{GROUP}/new", size)
            check(f"{size} {options}: all of it", full["size"] == round_up(takes["fully-allocated"]) and
                  full["fully-allocated"] == takes["fully-allocated"] and full["dry-run"], (full, takes))
            thin = told("create", "--dry-run", *options, f"{GROUP}/new", size)
            least = min(max(2560 * MIB, takes["required"]), takes["fully-allocated"])
            check(f"{size} {options}: thin", thin["size"] == round_up(least) and
                  thin["extents"] == thin["size"] // EXTENT and thin["virtual-size"] % 512 == 0, (thin, takes))
            small = told("create", "--dry-run", "--initial-size", "1", *options, f"{GROUP}/new", size)
            check(f"{size} {options}: no less than it has to", small["size"] == round_up(takes["required"]), small)
    raw = told("create", "--dry-run", "-f", "raw", f"/dev/{GROUP}/new", "5M")
    check("raw is as large as its volume", raw["virtual-size"] == raw["size"] == 2 * EXTENT, raw)
    r = run("create", "--dry-run", f"{GROUP}/half", "1M")
    check("what is half-made is made anew, and told",
          r.returncode == 0 and f"{GROUP}/half is half-made" in r.stderr, r.stderr)


def test_refused():
    group({"taken": (EXTENT, "")}, free=2 * EXTENT)
    for name in ("x", "/dev/x", "x/", "/x", "a/b/c", "../x", "x/..", "./x", "-x/y", "x/-y", "x/a b", "/dev//x",
                 "x/a\n"):
        refused("is no name of a logical volume", "create", "--dry-run", "--", name, "1M")
    refused("has a logical volume taken", "create", f"{GROUP}/taken", "1M")
    refused(f"has {2 * EXTENT} bytes free: {3 * EXTENT} are needed", "create", "-a", "preallocated",
            f"{GROUP}/new", "9M")
    refused("an image of 0 bytes", "create", f"{GROUP}/new", "0")
    refused("more than the image ever takes", "create", "--initial-size", "1G", f"{GROUP}/new", "1M")
    refused("is for thin volumes", "create", "--initial-size", "1M", "-f", "raw", f"{GROUP}/new", "1M")
    refused("is for thin volumes", "create", "--initial-size", "1M", "-a", "preallocated", f"{GROUP}/new", "1M")
    refused("a device has no holes", "create", "-f", "raw", "-a", "thin", f"{GROUP}/new", "1M")
    refused("takes thin or preallocated", "create", "-a", "sparse", f"{GROUP}/new", "1M")
    refused("--format takes raw or qcow2", "create", "-f", "vmdk", f"{GROUP}/new", "1M")
    refused("option size takes", "create", f"{GROUP}/new", "x")
    for key in ("backing_file", "data_file", "preallocation", "size"):
        refused(f"option {key} is not of the layout", "create", "-o", f"{key}=1", f"{GROUP}/new", "1M")
    refused("option cluster_size takes", "create", "-o", "cluster_size=3", f"{GROUP}/new", "1M")
    refused("no action 'remove'", "remove", f"{GROUP}/taken")
    refused("takes no option --backing", "create", "-b", "x", f"{GROUP}/new", "1M")
    refused("takes VG/LV and a size", "create", f"{GROUP}/new")
    refused("takes VG/LV;", "reduce", f"{GROUP}/taken", "1M")
    refused("is no size", "extend", f"{GROUP}/taken", "+")
    refused("no logical volume other", "info", f"{GROUP}/other")
    refused("of another volume group", "snapshot", f"{GROUP}/taken", "x/y")
    refused("lie on itself", "snapshot", f"{GROUP}/taken", "taken")
    group({"taken": (EXTENT, "")}, tags="RHAT_storage_domain")
    for arguments in (("create", f"{GROUP}/new", "1M"), ("extend", f"{GROUP}/taken", "+1M"),
                      ("reduce", f"{GROUP}/taken"), ("snapshot", f"{GROUP}/taken", "new")):
        refused("is a storage domain", *arguments)


def activate(name):
    device = subprocess.run(["losetup", "-f", "--show", name], check=True, capture_output=True,
                            text=True).stdout.strip()
    LOOPS.append(device)
    os.symlink(device, f"/dev/{GROUP}/{name}")


def test_existing():
    """Those that are active are loop devices here."""
    os.makedirs(f"/dev/{GROUP}")
    for name, options in (("thin", ()), ("full", ("-o", "preallocation=full"))):
        subprocess.run([TOOL, "create", "-q", "-f", "qcow2", *options, name, "64M"], check=True)
        subprocess.run([TOOL, "io", "-q", "-n", "-f", "qcow2", "-c", "write -P 1 0 1M", "-c", "flush", name],
                       check=True)
        os.truncate(name, 20 * EXTENT)
        activate(name)
    pathlib.Path("raw").write_bytes(b"x" * EXTENT)
    activate("raw")
    group({"thin": (20 * EXTENT, ""), "full": (20 * EXTENT, ""), "raw": (EXTENT, ""),
           "half": (EXTENT, "VDISK_UNFINISHED")})
    takes = measured(64 * MIB)["fully-allocated"]
    info = told("info", f"{GROUP}/thin")
    check("thin", info["virtual-size"] == 64 * MIB and info["size"] == 20 * EXTENT and info["extents"] == 20 and
          info["allocated-size"] == MIB + 5 * 65536 and info["used"] == [{"start": 0, "count": 1}] and
          info["bitmap"] == "010000" and info["active"] and info["fully-allocated"] == takes, info)
    info = told("info", f"{GROUP}/full")
    check("full", info["used"] == [{"start": 0, "count": 17}] and info["bitmap"] == "ffff01" and
          info["used-extents"] == 17, info)
    info = told("info", "-f", "raw", f"{GROUP}/thin")
    check("raw, if that is said", info["format"] == "raw" and info["used-extents"] == 20, info)
    info = told("info", f"{GROUP}/half")
    check("half-made", info["unfinished"] and "format" not in info, info)
    r = run("info", f"{GROUP}/full")
    check("human", "extents in use: 17: 0-16\n" in r.stdout, r.stdout)

    space = told("reduce", "--dry-run", f"{GROUP}/thin")
    check("reduce", (space["before"], space["size"], space["asked"]) == (20 * EXTENT, EXTENT, MIB + 5 * 65536),
          space)
    refused("is raw", "reduce", "--dry-run", f"{GROUP}/raw")
    refused("is half-made", "reduce", "--dry-run", f"{GROUP}/half")
    refused(f"has {20 * EXTENT} bytes: it is not extended to {MIB}", "extend", f"{GROUP}/thin", "1M")
    refused("once all of it is written", "extend", f"{GROUP}/thin", "+4M")
    refused("has space for all of it", "extend", f"{GROUP}/raw")
    group({"thin": (EXTENT, ""), "raw": (EXTENT, "")}, free=5 * EXTENT)
    check("to what it takes", run("extend", "--dry-run", f"{GROUP}/thin").stderr.count("are needed") == 1)
    check("by so much", told("extend", "--dry-run", f"{GROUP}/thin", "+5M")["size"] == 3 * EXTENT)
    check("to so much", told("extend", "--dry-run", f"{GROUP}/thin", "9M")["size"] == 3 * EXTENT)
    check("raw", told("extend", "--dry-run", f"{GROUP}/raw", "+1")["size"] == 2 * EXTENT)

    made = told("snapshot", "--dry-run", "--initial-size", "1M", f"{GROUP}/thin", "new")
    check("snapshot", made["virtual-size"] == 64 * MIB and made["size"] == EXTENT and
          made["volume"] == f"{GROUP}/new", made)
    refused("is smaller than", "snapshot", f"{GROUP}/thin", "new", "63M")
    refused("has a logical volume raw", "snapshot", f"{GROUP}/thin", "raw")
    refused("raw", "snapshot", f"{GROUP}/raw", "new") # it is not qcow2, and that is not guessed
    check("of raw", told("snapshot", "--dry-run", "--initial-size", "1M", "-F", "raw", f"{GROUP}/raw",
                         f"{GROUP}/new")["virtual-size"] == EXTENT)
    holder = subprocess.Popen([TOOL, "io", "-q", "-n", "-f", "qcow2", "-c", "write -P 1 0 64k", "-c",
                               "sleep 20000", f"/dev/{GROUP}/thin"], stdin=subprocess.DEVNULL)
    subprocess.run(["sleep", "1"], check=True)
    r = run("reduce", "--dry-run", f"{GROUP}/thin")
    check("in use: not reduced", r.returncode == 1 and str(holder.pid) in r.stderr, r.stderr)
    check("in use: shown", told("info", f"{GROUP}/thin")["virtual-size"] == 64 * MIB)
    holder.kill()
    holder.wait()
    group({"thin": (20 * EXTENT, "")}, used_by=["thin"])
    refused("has it open", "reduce", "--dry-run", f"{GROUP}/thin")


def main():
    if os.geteuid() != 0 or subprocess.run(["losetup", "-f"], check=False, capture_output=True).returncode != 0:
        print("skipped: loop devices need root, and a kernel that has them")
        return 77
    with tempfile.TemporaryDirectory(prefix="vdisk-lv.") as folder:
        os.chdir(folder)
        try:
            test_create()
            test_refused()
            test_existing()
        finally:
            for device in LOOPS:
                subprocess.run(["losetup", "-d", device], check=False)
            shutil.rmtree(f"/dev/{GROUP}", ignore_errors=True)
            pathlib.Path(f"/run/vdisk-io/{GROUP}.lvm").unlink(missing_ok=True)
            os.chdir("/")
    print(f"{checks} checks, {failures} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
