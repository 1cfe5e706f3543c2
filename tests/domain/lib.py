# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the tests of domains share: the tool, checks, a folder of their own."""
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import vdsm

sys.dont_write_bytecode = True
TOOL = os.path.realpath(sys.argv[1])
GOLDEN_ID = "b8c7b24a-d2d1-43b5-a854-e78d07e34a33"
MIB = 1 << 20
checks = failures = 0


def check(what, condition, more=""):
    global checks, failures
    checks += 1
    if not condition:
        failures += 1
        print(f"FAIL {what} {more}")


def run(*arguments, **how):
    return subprocess.run([how.pop("tool", TOOL), *map(str, arguments)], capture_output=True, text=True,
                          check=False,
                          stdin=subprocess.DEVNULL, **how)


def works(*arguments, **how):
    r = run(*arguments, **how)
    check(" ".join(map(str, arguments)), r.returncode == 0, f"{r.returncode} {r.stdout}{r.stderr}")
    return r


def told(*arguments):
    """What it says as JSON."""
    r = works(*arguments, "--output=json")
    return json.loads(r.stdout or "null")


def refused(text, *arguments, code=1):
    """One line that has the text; and nothing on stdout."""
    r = run(*arguments)
    lines = [line for line in r.stderr.splitlines() if not line.startswith("vdisk-io: hint: ")]
    check(f"refused: {' '.join(map(str, arguments))}", r.returncode == code and r.stdout == "",
          f"{r.returncode} {r.stdout}{r.stderr}")
    check(f"'{text}' for: {' '.join(map(str, arguments))}", len(lines) == 1 and text in lines[0], r.stderr)


def golden(folder, archive):
    """The domain that Vdsm has made, unpacked; its path."""
    os.makedirs(folder)
    subprocess.run(["tar", "-xSJf", archive, "-C", folder], check=True)
    os.rename(f"{folder}/v5", f"{folder}/{GOLDEN_ID}")
    return f"{folder}/{GOLDEN_ID}"


def judged(path, upgraded=False):
    try:
        domain = vdsm.Domain(path, upgraded)
        check("judged", True)
        return domain
    except vdsm.Wrong as e:
        check(f"judged: {path}", False, e)
        return None


def make(folder, *more):
    os.makedirs(folder)
    uuid = works("domain", "create", folder, *more).stdout.strip()
    check("a UUID is printed", vdsm.UUID.fullmatch(uuid), uuid)
    return f"{folder}/{uuid}"


def volume(*arguments):
    """IMAGE, VOLUME that are printed."""
    image, name = works("volume", *arguments).stdout.strip().split("/")
    return image, name


def meta_of(domain, image, name):
    return pathlib.Path(f"{domain}/images/{image}/{name}.meta").read_text()


def set_meta(domain, image, name, old, new):
    path = pathlib.Path(f"{domain}/images/{image}/{name}.meta")
    text = path.read_text()
    check(f"{old} in {name}", old in text)
    path.write_text(text.replace(old, new))


def io(domain, image, name, *commands):
    fmt = "qcow2" if "FORMAT=COW" in meta_of(domain, image, name) else "raw"
    works("io", "-f", fmt, *(x for c in commands for x in ("-c", c)), f"{domain}/images/{image}/{name}")


def checksum(domain, image, name):
    fmt = "qcow2" if "FORMAT=COW" in meta_of(domain, image, name) else "raw"
    return works("checksum", "-f", fmt, f"{domain}/images/{image}/{name}").stdout.split()[0]


def snapshot_of(path):
    """All files: content, times, links."""
    found = {}
    for file in sorted(pathlib.Path(path).rglob("*")):
        st = file.stat()
        data = hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() and st.st_size < 64 * MIB else ""
        found[str(file)] = (st.st_mode, st.st_size, st.st_mtime_ns, st.st_ino, st.st_nlink, data)
    return found


def chain(path, fmt="raw", length=3):
    """An image of so many volumes with data, from the base up."""
    image, base = volume("create", "-f", fmt, path, "1M")
    volumes = [base]
    io(path, image, base, "write -P 1 0 512k")
    for n in range(2, length + 1):
        volumes.append(volume("snapshot", f"{path}/{image}")[1])
        io(path, image, volumes[-1], f"write -P {n} {n * 64}k 64k")
    return image, volumes


def file_of(path, image, name, suffix=""):
    return pathlib.Path(f"{path}/images/{image}/{name}{suffix}")


def find(path, *more):
    r = run("domain", "check", path, *more)
    check("check tells", r.returncode in (0, 2), f"{r.returncode} {r.stderr}")
    return r


def untouched(what, path, *commands):
    """Whatever the commands say, no file goes or changes."""
    before = snapshot_of(f"{path}/images")
    for command in commands:
        run(*command)
        check(f"{what}: {' '.join(command)}: nothing has changed", snapshot_of(f"{path}/images") == before,
              set(before) ^ set(snapshot_of(f"{path}/images")))


class Holder:
    """A process that has an image open for writing, by its path or its name."""

    def __init__(self, *name, command="write -P 9 0 4k"):
        self.process = subprocess.Popen([TOOL, "io", *name], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT, text=True)
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()
        self.line = self.process.stdout.readline()
        check(f"{name} is open", self.process.poll() is None and "4" in self.line, self.line)

    def end(self):
        self.process.communicate()
        check("who had it open ends well", self.process.returncode == 0)


def leak(file):
    """Write to a qcow2 file, and be killed: clusters that were taken for later writes are nobody's."""
    process = subprocess.Popen([TOOL, "io", "-f", "qcow2", file], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True)
    process.stdin.write("write -P 3 512k 64k\nflush\nread 0 4k\n")
    process.stdin.flush()
    lines = []
    while not any(line.startswith("read ") for line in lines) and process.poll() is None:
        lines.append(process.stdout.readline())
    process.kill()
    process.wait()
    r = run("check", "-f", "qcow2", "--output=json", file)
    check("clusters are leaked", json.loads(r.stdout or "{}").get("leaks", 0) > 0, (lines, r.stdout, r.stderr))


def main(*tests):
    # Thousands of small files are made durable: in memory, unless something else is asked for.
    memory = "/dev/shm" if os.path.isdir("/dev/shm") and "TMPDIR" not in os.environ else None
    folder = tempfile.mkdtemp(prefix="vdisk-domain.", dir=memory)
    os.chdir(folder)
    try:
        for test in tests:
            test()
    finally:
        os.chdir("/")
        if "VDISK_TEST_KEEP" not in os.environ:
            shutil.rmtree(folder)
    print(f"{checks} checks, {failures} failures")
    sys.exit(1 if failures or not checks else 0)
