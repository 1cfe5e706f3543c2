#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""bench/jobs at a tiny size: each line runs once, both tools do the work, and nothing is left, however it ends;
with --domains bench/domain, with --net bench/net.

usage: test_jobs.py BENCH VDISK_IO PROBE PEER [--domains|--net]

PEER (bench/peer) prints the path of a qemu-img.
"""
import html
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

BENCH, TOOL, PROBE, PEER = (str(pathlib.Path(word).resolve()) for word in sys.argv[1:5])
WHAT = sys.argv[5:]
PROGRAM, TITLE = {"--domains": ("bench/domain", "Storage domains"), "--net": ("bench/net", "NBD server")}.get(
    "".join(WHAT), ("bench/jobs", "Bulk work"))
# What the figures of the project ask for; how many lines have it.
ASKED = {
    "convert (raw|qcow2) to (raw|qcow2), .* half full": (2, [1.5, 0.5]),
    "convert .* in pieces of 64 KiB": (2, [3]),
    "convert a chain of 20 layers": (1, [5]),
    "convert -c to zlib": (1, [5, 1.05]),
    "convert -c to zstd": (1, [2, 1.05]),
    "convert from (zlib|zstd)": (2, [3, None] if shutil.which("fio") else [3]),
    "convert raw to raw by shared blocks": (1, [50]),
    "commit -d of": (1, [2]),
    "rebase past": (1, [2]),
    "compare equal": (1, [2]),
    "checksum": (1, [0.9, None]),
    "(check|measure) of .*, cold": (2, [3]),
    "(check|measure) of .*, warm": (2, [5]),
    "map --output json of": (2, [2]),
    "create preallocation=metadata": (1, [20]),
    "create preallocation=full (raw|qcow2)": (2, [0.2]),
    "create data_file_raw": (2, [20]),
    "random 4k reads qd32 at depth 200": (1, [0.95, 1.1]),
}
ASKED_OF_DOMAINS = {
    "volume create preallocated (raw|qcow2), ": (2, [0.9, 0.2] if shutil.which("fio") else [0.2]),
    "volume create sparse (raw|qcow2), ": (2, [10]),
    "volume snapshot, ": (1, [20]),
    "volume list of ": (1, [50]),
    "domain info with ": (1, [5]),
    "volume merge of ": (1, [2]),
}
ASKED_OF_NET = {
    "4 KiB random read, preallocated qcow2": (1, [1.1, 2.5]),
    "4 KiB random write, preallocated qcow2": (1, [2.0, 3.0]),
    "4 KiB random write, first touch on sparse qcow2": (1, [4]),
    "4 KiB random (read|write), 4 connections": (2, [1.5, 1.5]),
    "1 MiB sequential (read|write), preallocated qcow2": (2, [1.2]),
    "4 KiB random (read|write), raw in the page cache": (2, [None]),
    "4 KiB random (read|write) by our client, raw": (2, [0.5]),
    "copy of an export by our client, raw": (1, [1]),
}
# Where there is nobody beside us: what is asked is a time, or shared blocks.
BESIDE = {"QEMU", "loop", "depth 0", "nbdkit", "file", "nbdcopy"}
ALONE = "shared blocks|create sparse|snapshot|list of|info with"
# Its memory is not ours alone then.
SANITIZED = b"__asan_init" in pathlib.Path(TOOL).read_bytes()
failures = []


def fail(text):
    failures.append(text)
    print("FAILED:", text)


def that(what, fact):
    if not fact:
        fail(what)


def run(*args):
    return subprocess.run(args, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)


def command(folder, *args):
    return [sys.executable, "-B", f"{BENCH}/jobs.py", "--tool", TOOL, "--probe", PROBE, "--peer", QEMU,
            "--dir", folder, *WHAT, *args]


def bounds(figure):
    """What is asked, and of its other way."""
    return [figure["bound"], *([figure["instead"]["bound"]] if "instead" in figure else [])]


def has_nbd_client():
    """Does the tool know the name, whoever listens there?"""
    return "is not supported" not in run(TOOL, "info", "nbd+unix:///?socket=none").stderr


def may_be_skipped(name):
    """For want of what a machine need not have, or this build."""
    if not WHAT == ["--net"]:
        return "shared blocks" in name
    if not shutil.which("fio") or " nbd" not in run("fio", "--enghelp").stdout.replace("\t", " "):
        return True
    if "by our client" in name:
        return not has_nbd_client() or ("copy" in name and not shutil.which("nbdcopy"))
    if "page cache" in name:
        return not shutil.which("nbdkit")
    return not os.access(pathlib.Path(QEMU).with_name("qemu-nbd"), os.X_OK)


def judge_line(line, asked):
    name = line["name"]
    if "skipped" in line:
        print(f"note: {name}: skipped: {line['skipped']}")
        that(f"{name} is skipped", may_be_skipped(name))
        return
    that(f"{name}: {line.get('failed')}", "failed" not in line)
    if "failed" in line:
        return
    that(f"{name}: nobody beside us: {list(line['sides'])}", BESIDE & set(line["sides"])
         or re.search(ALONE, name))
    for side, samples in line["sides"].items():
        for what, values in samples.items():
            that(f"{name}: {side}: {what}: {values}", len(values) == line["rounds"] == 1 and
                 (values[0] > 0 or what == "cpu"))
    memory = line["memory"]
    that(f"{name}: {memory}", 1 << 20 < memory["most"] and memory["bound"] == 256 << 20)
    that(f"{name}: {memory['most']} bytes of memory", SANITIZED or memory["most"] < memory["bound"])
    found = [bound for figure in line["figures"] for bound in bounds(figure)]
    that(f"{name} asks for {found}, not {asked}", set(asked) <= set(found))
    for figure in line["figures"]:
        that(f"{name}: {figure}", figure["median"] > 0 and figure["verdict"] in ("undecided", None))


def report(lines):
    """What --report has written."""
    page = pathlib.Path("report/index.html").read_text()
    that("the page has no title", f">{TITLE}</h2>" in page)
    that("the page has figures of volumes", 'id="figures"' not in page and "qemu-img bench" not in page)
    for line in lines:
        that(f"{line['name']} is not in the page", html.escape(line["name"]) in page)
    told = json.loads(pathlib.Path("report/results.json").read_text())["settings"]["command"]
    that(f"the command is {told}", told.startswith(f"{PROGRAM} --dir ") and not set(WHAT) & set(told.split()))
    that("no commands", TOOL in pathlib.Path("report/commands.txt").read_text())


def all_lines(folder, asked_of):
    done = run(*command(folder, "--scale", "1024", "--rounds", "1", "--limit", "0", "--json", "jobs.json",
                        "--report", "report"))
    that(f"exit code {done.returncode}: {done.stdout[-3000:]}{done.stderr[-3000:]}", done.returncode == 0)
    stored = json.loads(pathlib.Path("jobs.json").read_text())["jobs"]
    that(f"scale {stored['scale']}", stored["scale"] == 1024)
    lines = stored["lines"]
    for pattern, (count, asked) in asked_of.items():
        found = [line for line in lines if re.match(pattern, line["name"])]
        that(f"{len(found)} lines of '{pattern}', not {count}", len(found) == count)
        for line in found:
            judge_line(line, asked)
            that(f"{line['name']} is not in the output", line["name"] in done.stdout)
    that("lines that this test does not know", len(lines) == sum(count for count, _ in asked_of.values()))
    report(lines)
    that(f"left: {os.listdir(folder)}", os.listdir(folder) == [])
    return [line for line in lines if "skipped" in line]


def space(folder):
    """Each image takes no more than is reckoned with when the sizes are chosen."""
    sys.path.insert(0, BENCH)
    sys.dont_write_bytecode = True
    import job_images # from the folder given
    import jobs
    import work as commands
    kind = jobs.KINDS[WHAT[0]] if WHAT else jobs.BULK
    images = kind.images(commands.Work(TOOL, QEMU, PROBE, pathlib.Path(folder)), job_images.Sizes(256))

    def used():
        return sum(path.stat().st_blocks * 512 for path in pathlib.Path(folder).rglob("*"))
    # Cloning lies in a file system of its own; domains have their own images alone.
    skipped = set(job_images.Images(images.work, images.sizes).space) if WHAT == ["--domains"] else {"cloning"}
    for name in images.space:
        if name not in skipped:
            before = used()
            images.need(name)
            took = used() - before
            most = images.space[name] + (4 << 20)
            that(f"{name} takes {took} bytes, more than {most}", 0 < took <= most)
    images.drop(set(images.space))
    that(f"images left: {os.listdir(folder)}", os.listdir(folder) == [])


def options(folder):
    done = run(*command(folder, "--only", "no such line"))
    that(f"--only: {done}", done.returncode == 1 and "--list names them" in done.stderr)
    done = run(*command(folder, "--list", "--quick", "--only", "^compare"))
    that(f"--list: {done}", done.stdout == "compare equal raw and qcow2, 64 MiB half full\n")
    that("a scale of 3", run(*command(folder, "--scale", "3")).returncode == 2)
    done = run(*command(os.path.join(folder, "none"), "--list"))
    that(f"--dir: {done}", done.returncode == 1 and "Traceback" not in done.stderr)
    done = run(*command("nbd+unix:///?socket=none"))
    that(f"--dir is an export: {done}", done.returncode == 1 and "volumes are made in a folder" in done.stderr)
    that(f"left: {os.listdir(folder)}", os.listdir(folder) == [])


def interrupted(folder, only, image, number, code):
    """In the midst of a line, when its image is there."""
    with subprocess.Popen(command(folder, "--scale", "512", "--limit", "0", "--rounds", "1000000", "--only", only),
                          stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as child:
        end = time.monotonic() + 60
        while not list(pathlib.Path(folder).glob(f"**/{image}")) and time.monotonic() < end:
            time.sleep(0.02)
        child.send_signal(number)
        said = child.stderr.read()
    that(f"signal {number}: exit code {child.returncode}: {said}",
         child.returncode == code and "Traceback" not in said)
    that(f"signal {number}: left {os.listdir(folder)}", os.listdir(folder) == [])
    that("a mount is left", str(folder) not in pathlib.Path("/proc/mounts").read_text())


def forbidden():
    """What is measured alone can have threads, and no other process."""
    def alone(*words):
        return run(PROBE, "alone", "alone.json", *words).returncode
    that("a process is not forbidden", alone("sh", "-c", "true | true") != 0)
    that("a command alone", alone("sh", "-c", "true") == 0)
    that("threads are forbidden", alone(PROBE, "blake2b", "1") == 0)


def test_bulk(folder):
    skipped = all_lines(folder, ASKED)
    space(folder)
    options(folder)
    interrupted(folder, "compare", "main.qcow2", signal.SIGINT, 130)
    if not skipped:
        # With a file system mounted, where the folder's own cannot share blocks.
        interrupted(folder, "shared blocks", "source.raw", signal.SIGTERM, 143)


def test_domains(folder):
    all_lines(folder, ASKED_OF_DOMAINS)
    space(folder)
    forbidden()
    interrupted(folder, "list of", "many", signal.SIGINT, 130)


def test_net(folder):
    all_lines(folder, ASKED_OF_NET)
    space(folder)
    interrupted(folder, "random read, prealloc", "server.log", signal.SIGINT, 130)
    interrupted(folder, "random read, prealloc", "server.log", signal.SIGTERM, 143)
    left = [path for path in pathlib.Path("/proc").glob("[0-9]*/cwd") if points_to(path, folder)]
    that(f"processes are left: {left}", not left)
    that(f"sockets are left: {os.listdir(os.environ['TMPDIR'])}", os.listdir(os.environ["TMPDIR"]) == [])


def points_to(link, folder):
    try:
        return os.readlink(link).startswith(folder)
    except OSError: # it has ended, or is not ours
        return False


QEMU = run(PEER).stdout.strip()
if not os.access(QEMU, os.X_OK):
    print("skipped: there is no qemu-img")
    sys.exit(77)
with tempfile.TemporaryDirectory(dir=os.getcwd()) as scratch, tempfile.TemporaryDirectory() as short:
    os.chdir(scratch)
    os.mkdir("work")
    os.environ["TMPDIR"] = short # for sockets
    {"--domains": test_domains, "--net": test_net}.get("".join(WHAT), test_bulk)(os.path.abspath("work"))
    os.chdir("/")
sys.exit(1 if failures else 0)
