# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the figures were measured on."""
import os
import pathlib
import re
import subprocess

ROOT = pathlib.Path(__file__).parent.parent


def output(*command):
    """What a command says, or "unknown": facts are nice to have, not needed."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, cwd=ROOT)
    except OSError:
        return "unknown"
    return done.stdout.strip() if done.returncode == 0 and done.stdout.strip() else "unknown"


def read(path, default="unknown"):
    try:
        return pathlib.Path(path).read_text().strip()
    except OSError:
        return default


def match(pattern, text):
    found = re.search(pattern, text, re.M)
    return found[1].strip() if found else "unknown"


def scheduler(source):
    name = os.path.basename(os.path.realpath(source))
    for block in (name, re.sub(r"p?\d+$", "", name)):
        text = read(f"/sys/block/{block}/queue/scheduler", "")
        if text:
            return match(r"\[(.*?)\]", text)
    return "unknown"


def describe(where, peer):
    """A dict of facts, printable as they are; "title" is all of it in one line."""
    cpu = match(r"^model name\s*:\s*(.*)$", read("/proc/cpuinfo"))
    memory = int(match(r"^MemTotal:\s*(\d+)", read("/proc/meminfo"))) >> 20
    kernel = os.uname().release
    if os.path.isdir(where):
        source, fstype = (output("findmnt", "-n", "-o", "SOURCE,FSTYPE", "-T", str(where)).split() + ["?"] * 2)[:2]
        storage = f"{fstype} on {source}"
    else:
        source = str(where)
        storage = f"block device {source}"
    return {
        "title": f"{cpu}, {os.cpu_count()} CPUs, {memory} GiB, Linux {kernel}, {storage}",
        "cpu": cpu,
        "cpus": os.cpu_count(),
        "memory_gib": memory,
        "kernel": kernel,
        "storage": storage,
        "scheduler": scheduler(source),
        "cpu_governor": read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "hypervisor": output("systemd-detect-virt"),
        "load_at_start": read("/proc/loadavg"),
        "distribution": match(r'^PRETTY_NAME="?(.*?)"?$', read("/etc/os-release")),
        "fio": output("fio", "--version"),
        "qemu_img": output(peer, "--version").splitlines()[0],
        "gcc": output("gcc", "-dumpfullversion"),
        "revision": output("git", "describe", "--always", "--dirty"),
    }


def device_in_use(device):
    """Mounted, held by another device, or with a signature of something on it?"""
    real = os.path.realpath(device)
    if any(line.split()[0] == real for line in read("/proc/mounts", "").splitlines()):
        return True
    children = output("lsblk", "-n", "-o", "NAME,MOUNTPOINTS", real).splitlines()
    if len(children) > 1:
        return True
    return output("wipefs", "-n", real) != "unknown"
