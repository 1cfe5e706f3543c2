# SPDX-License-Identifier: LGPL-2.1-or-later
"""Random chains of images, made by QEMU, and two programs that do the same to copies of one: for tests of commit,
rebase, amend."""
import hashlib
import os
import pathlib
import random
import shutil
import subprocess
import sys

KINDS = ["", "compat=0.10", "cluster_size=4k", "cluster_size=2M", "cluster_size=512",
         "compat=0.10,cluster_size=1k", "extended_l2=on,cluster_size=16k", "extended_l2=on",
         "refcount_bits=64", "lazy_refcounts=on", "data_file={name}.data",
         "preallocation=metadata,extended_l2=on"]


def run(*args, **more):
    return subprocess.run(args, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False, **more)


class Test:
    """`tool` and `peer`: vdisk-io and qemu-img; `io`: qemu-io."""

    def __init__(self, argv):
        self.tool = str(pathlib.Path(argv[1]).resolve())
        self.peer = run("bash", argv[2]).stdout.strip()
        self.io = str(pathlib.Path(self.peer).with_name("qemu-io")) if self.peer else ""
        self.checks = 0
        self.failures = []

    def usable(self):
        if self.peer and "version 10" in run(self.peer, "--version").stdout and os.path.exists(self.io):
            return True
        print("skipped: no qemu-img and qemu-io of QEMU 10")
        return False

    def must(self, *args):
        result = run(*args)
        if result.returncode:
            sys.exit(f"{' '.join(args)}: {result.stdout}{result.stderr}")
        return result.stdout

    def expect(self, what, is_so, *more):
        self.checks += 1
        if not is_so:
            self.failures.append(what)
            print(f"FAILED: {what}", *more)

    def same(self, what, ours, theirs):
        self.expect(what, ours == theirs, f": {ours!r}, not {theirs!r}")

    def end(self):
        print(f"{self.checks} checks, {len(self.failures)} failures")
        return 1 if self.failures or not self.checks else 0

    # ---- chains ----

    def write(self, r, name, fmt, size, data_file):
        """Data, zeros, discards and compressed clusters, anywhere."""
        commands = []
        for _ in range(r.randrange(1, 12)):
            at = r.randrange(size) // 512 * 512
            n = min(size - at, 512 * r.choice([1, 3, 8, 40, 128, 700]))
            kind = r.choice(["-P", "-P", "-P", "-z", "-z -u", "-c"]) if fmt == "qcow2" else "-P"
            if n < 512:
                continue
            if kind == "-P":
                commands.append(f"write -P {r.randrange(0, 9)} {at} {n}")
            elif kind != "-c":
                commands.append(f"write {kind} {at} {n}")
            elif not data_file and size >= 65536:
                commands.append(f"write -c -P {r.randrange(1, 9)} {at // 65536 * 65536} 64k")
        for command in commands: # some are refused, as of compressed clusters over others
            run(self.io, "-f", fmt, "-c", command, name)

    def make(self, r, layers, sizes=None):
        """In this directory: l0 (the lowest), l1, ... Their formats and sizes."""
        formats, all_sizes = [], []
        for i in range(layers):
            fmt = "qcow2" if i or r.randrange(2) else "raw"
            size = sizes[i] if sizes else 512 * r.randrange(1, 8192)
            kind = r.choice(KINDS).format(name=f"l{i}")
            if i:
                kind = kind.replace("preallocation=metadata,", "")
            below = ["-b", f"l{i - 1}", "-F", formats[-1]] if i else []
            options = ["-o", kind] if fmt == "qcow2" and kind else []
            self.must(self.peer, "create", "-q", "-f", fmt, *options, *below, f"l{i}", str(size))
            self.write(r, f"l{i}", fmt, size, "data_file" in kind)
            formats.append(fmt)
            all_sizes.append(size)
        return formats, all_sizes

    def content(self, name, fmt):
        self.must(self.peer, "convert", "-U", "-f", fmt, "-O", "raw", name, "content")
        data = pathlib.Path("content").read_bytes()
        os.unlink("content")
        return data

    def sound(self, what, name, fmt):
        if fmt == "qcow2":
            for check in ([self.peer, "check", "-f", fmt, name], [self.tool, "check", "-f", fmt, name]):
                result = run(*check)
                self.expect(f"{what}: {name} checks clean", result.returncode == 0, result.stdout, result.stderr)

    def both(self, args, patience=None):
        """The same command in the directories ours and theirs, which are copies of this one. The results; None for
        QEMU's, if it takes more seconds than `patience`."""
        for where in ("ours", "theirs"):
            shutil.rmtree(where, ignore_errors=True)
            os.mkdir(where)
            for path in os.listdir("."):
                if os.path.isfile(path):
                    self.must("cp", "--sparse=always", path, where)
        ours = run(self.tool, *args, cwd="ours")
        try:
            return ours, run(self.peer, *args, cwd="theirs", timeout=patience)
        except subprocess.TimeoutExpired:
            return ours, None


    def refused(self, text, *args, **more):
        """One line on stderr, and no file has changed."""
        before = digest(".")
        result = run(self.tool, *args, **more)
        self.same(f"{args}: exit code", result.returncode, 1)
        self.expect(f"{args}: says {text}", text in result.stderr, result.stderr)
        lines = [line for line in result.stderr.splitlines() if not line.startswith("vdisk-io: hint: ")]
        self.same(f"{args}: lines", len(lines), 1)
        self.same(f"{args}: files", digest("."), before)


def clear():
    """No file is left in this directory."""
    for name in os.listdir("."):
        if os.path.isfile(name):
            os.unlink(name)


def digest(folder):
    """Of all files of a folder."""
    return {name: hashlib.sha256(pathlib.Path(folder, name).read_bytes()).hexdigest()
            for name in sorted(os.listdir(folder)) if pathlib.Path(folder, name).is_file()}


def in_folder(folder, function, *args):
    before = os.getcwd()
    os.chdir(folder)
    try:
        return function(*args)
    finally:
        os.chdir(before)


def seeds(default):
    """From the environment, as of other tests: VDISK_SEED=N repeats one, new takes others."""
    seed = os.environ.get("VDISK_SEED", "")
    if seed == "new":
        return [random.randrange(1 << 30) for _ in range(default)]
    if seed:
        return [int(seed)]
    return range(default * (10 if os.environ.get("VDISK_TEST_LONG") else 1))
