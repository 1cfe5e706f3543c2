#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Images and volumes of domains from and to names that are no domain's: exports of NBD servers, images of Ceph
(a librbd of the tests', where it can be loaded), files. What a command cannot do it refuses before it writes, and
what was interrupted leaves nothing that counts.

usage: test_domain_network.py VDISK_IO FAKE_RBD_FOLDER
"""
import contextlib
import hashlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

sys.path[:0] = [str(pathlib.Path(__file__).parent), str(pathlib.Path(__file__).parents[1] / "nbd")]
import lib  # noqa: E402
from lib import MIB, chain, check, file_of, judged, make, refused, run, told, volume, works  # noqa: E402
from listens import listens  # noqa: E402

PATIENCE = 60
SOCKET = "nbd+unix:///?socket="


def content(fmt, name):
    """The bytes that an image reads."""
    works("convert", "-f", fmt, "-O", "raw", name, "content")
    return pathlib.Path("content").read_bytes()


@contextlib.contextmanager
def served(file, *options, fmt="raw"):
    """Its name, and the server's process."""
    name = f"{pathlib.Path(file).name}.sock"
    server = subprocess.Popen([lib.TOOL, "nbd", "--persistent", "--shared", "0", "--socket", name, "-f", fmt,
                               *options, file], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + PATIENCE
    while not listens(name) and server.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    try:
        check(f"{file} is served", listens(name))
        yield f"{SOCKET}{os.path.abspath(name)}", server
    finally:
        server.send_signal(signal.SIGCONT)
        server.terminate()
        server.wait(PATIENCE)
        server.stderr.close()
        pathlib.Path(name).unlink(missing_ok=True)


def json_name(name):
    return "json:" + json.dumps({"driver": "raw", "file": {"driver": "nbd", "path": name.removeprefix(SOCKET)}})


def blank(name, size, fill=b""):
    with open(name, "wb") as f:
        f.write(fill * size)
        f.truncate(size)


def images_of(path):
    return sorted(entry["uuid"] for entry in told("image", "list", path))


def rbd_names():
    """Is there a librbd?"""
    os.environ["LD_LIBRARY_PATH"] = os.path.realpath(sys.argv[2])
    os.makedirs("ceph", exist_ok=True)
    os.environ["VDISK_FAKE_RBD"] = os.path.abspath("ceph")
    return run("create", "-q", "-f", "raw", "rbd:pool/probe", "1M").returncode == 0


def test_image_out():
    """A chain becomes what lies in an export, raw or qcow2."""
    path = make("out")
    image, (_, _, top) = chain(path, "qcow2")
    want = content("qcow2", f"{path}/images/{image}/{top}")
    blank("equal", MIB, b"x")
    blank("longer", 3 * MIB, b"x")
    blank("small", MIB // 2, b"x")
    with served("equal") as (name, _):
        works("image", "copy", f"{path}/{image}", name)
        check("it is there", pathlib.Path("equal").read_bytes() == want)
        works("image", "copy", "--dry-run", f"{path}/{image}", name.replace(SOCKET, "nbd:unix:"))
        said = told("image", "copy", f"{path}/{image}/{top}", json_name(name))
        check("JSON", said == {"capacity": MIB}, said)
        refused("says its format", "image", "copy", "-f", "raw", f"{path}/{image}", json_name(name))
    with served("longer") as (name, _):
        works("image", "copy", f"{path}/{image}", name)
        check("behind it are zeros", pathlib.Path("longer").read_bytes() == want + bytes(2 * MIB))
        works("image", "copy", "-f", "qcow2", f"{path}/{image}", name)
        check("as qcow2", content("qcow2", name) == want)
        works("check", "-f", "qcow2", name)
    with served("small") as (name, _):
        refused("are needed", "image", "copy", f"{path}/{image}", name)
        refused("output file is smaller", "image", "copy", f"{path}/{image}", json_name(name))
        check("nothing was written", pathlib.Path("small").read_bytes() == b"x" * (MIB // 2))
        refused("No space left", "image", "copy", "-f", "qcow2", f"{path}/{image}", name)
    with served("equal", "--read-only") as (name, _):
        refused("for reading only", "image", "copy", f"{path}/{image}", name)
    refused("No such file", "image", "copy", f"{path}/{image}", f"{SOCKET}{os.getcwd()}/nobody")
    works("image", "copy", f"{path}/{image}", "file:plain")
    check("a file", pathlib.Path("plain").read_bytes() == want)
    r = works("image", "copy", "-p", f"{path}/{image}", "file:plain")
    check("progress", "(100.00/100%)" in r.stdout, r.stdout)
    judged(path)


def test_image_in():
    path = make("in")
    works("create", "-q", "-f", "qcow2", "disk", "3M")
    works("io", "-f", "qcow2", "-c", "write -q -P 7 1M 1M", "disk")
    want = bytes(MIB) + b"\7" * MIB + bytes(MIB)
    with served("disk", fmt="qcow2") as (guest, _):
        for more in ([], ["-a", "preallocated"], ["-f", "qcow2"], ["-f", "qcow2", "-a", "preallocated"]):
            said = told("image", "copy", guest, path, *more)
            fmt = "qcow2" if "qcow2" in more else "raw"
            check(f"in {more}", content(fmt, str(file_of(path, said["image"], said["volume"]))) == want)
            check("its space", said["allocated"] < 2 * MIB or "preallocated" in more, said)
        before = images_of(path)
        r = works("image", "copy", "--dry-run", guest, path)
        check("a dry run", f"{guest} would be copied as one volume of {3 * MIB} bytes" in r.stdout and
              images_of(path) == before, r.stdout)
        r = works("image", "copy", guest, path, "--image", "aaaaaaaa-0000-4000-8000-00000000000a")
        check("its name", r.stdout.startswith("aaaaaaaa-0000-4000-8000-00000000000a/"), r.stdout)
        refused("has volumes", "image", "copy", guest, path, "--image", "aaaaaaaa-0000-4000-8000-00000000000a")
    with served("disk") as (file, _):
        for more in ([], ["--source-format", "qcow2"]):
            said = told("image", "copy", file, path, *more)
            found = content("raw", str(file_of(path, said["image"], said["volume"])))
            check("a qcow2 image within", found == want)
        said = told("image", "copy", file, path, "--source-format", "raw", "-f", "qcow2")
        check("its bytes", said["capacity"] == (os.path.getsize("disk") + 4095) // 4096 * 4096, said)
    judged(path)


def test_refused():
    path = make("refused")
    image, name = volume("create", path, "1M")
    blank("there", MIB)
    before = lib.snapshot_of(path)
    with served("there") as (export, _):
        refused("neither", "image", "copy", export, export)
        refused("no --volumes", "image", "copy", "--volumes", f"{path}/{image}", export)
        refused("no --volumes, --image", "image", "copy", "-a", "sparse", f"{path}/{image}", export)
        refused("is no image of a domain", "image", "copy", "--volumes", export, path)
        refused("says its format", "image", "copy", "--source-format", "raw", f"{path}/{image}", path)
        refused("unknown format", "image", "copy", "--source-format", "tape", export, path)
        refused("its size is 1048576, not 2097152", "volume", "upload", path, "2M", export)
        refused("no qcow2 magic", "volume", "upload", "-f", "qcow2", path, "1M", export)
        refused("is no SHA-256", "volume", "upload", path, "1M", export, "--digest", "0")
        refused("the SHA-256 of what", "volume", "upload", path, "1M", export, "--digest", "0" * 64)
    refused("No such file", "volume", "upload", path, "1M", "not-there")
    refused("output file is smaller", "volume", "download", f"{path}/{image}",
            f"volume:{path}/{volume('create', path, '512K')[0]}")
    cow, _ = volume("create", "-f", "qcow2", path, "64K")
    refused("bytes of a qcow2 image", "volume", "download", f"{path}/{cow}", f"volume:{path}/{image}")
    refused("same file", "volume", "download", f"{path}/{image}", file_of(path, image, name))
    after = lib.snapshot_of(path)
    check("what was there is as it was",
          all(after.get(n) == before[n] for n in before if n.endswith((name, ".meta"))))
    judged(path)


def test_upload():
    path = make("up")
    works("create", "-q", "-f", "qcow2", "image", "8M")
    works("io", "-f", "qcow2", "-c", "write -q -P 3 2M 1M", "image")
    blank("raw", 8 * MIB)
    with open("raw", "r+b") as f:
        f.seek(5 * MIB)
        f.write(os.urandom(MIB))
    blank("padded", 9 * MIB)
    with open("padded", "r+b") as f:
        f.write(pathlib.Path("image").read_bytes())
    for fmt, file in (("qcow2", "image"), ("raw", "raw"), ("qcow2", "padded")):
        data = pathlib.Path(file).read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        for source in (file, SOCKET):
            with served(file) if source == SOCKET else contextlib.nullcontext((file, None)) as (name, _):
                said = told("volume", "upload", "-f", fmt, path, "8M", name, "--digest", digest)
                there = file_of(path, said["image"], said["volume"])
                check(f"{name} is uploaded", there.read_bytes() == data and said["sha256"] == digest and
                      said["bytes"] == len(data), said)
                check("holes stay", there.stat().st_blocks * 512 < 4 * MIB, there.stat())
                said = told("volume", "upload", "-p", "-f", fmt, path, "8M", name)
                check("nothing is digested unasked", "sha256" not in said, said)
    image, name = said["image"], said["volume"]
    works("rebase", "-q", "-u", "-b", name, "-F", "qcow2", "image")
    with served("image") as (export, _):
        refused("its parent is", "volume", "upload", "-f", "qcow2", path, "8M", export)
        works("volume", "upload", "-f", "qcow2", f"{path}/{image}", "8M", export, "--parent", name)
    r = subprocess.run([lib.TOOL, "volume", "upload", path, "8M", "-"], input=pathlib.Path("raw").read_bytes(),
                       capture_output=True, check=False)
    check("'-' is standard input", r.returncode == 0, r.stderr)
    said = told("volume", "upload", path, "8M", f"volume:{path}/{r.stdout.decode().strip()}")
    check("a volume is what it reads", file_of(path, said["image"], said["volume"]).read_bytes() ==
          pathlib.Path("raw").read_bytes())
    judged(path)


def test_download():
    path = make("down")
    for fmt in ("raw", "qcow2"):
        image, (_, top) = chain(path, fmt, 2)
        for name in (top, told("volume", "list", f"{path}/{image}")[0]["uuid"]):
            data = file_of(path, image, name).read_bytes()
            blank("export", 2 * MIB, b"y")
            with served("export") as (export, _):
                said = told("volume", "download", f"{path}/{image}/{name}", export)
                check("bytes", said == {"bytes": len(data)}, said)
            check("it is in the export", pathlib.Path("export").read_bytes() == data + bytes(2 * MIB - len(data)))
            works("volume", "download", f"{path}/{image}/{name}", "file")
            check("it is a file", pathlib.Path("file").read_bytes() == data)
            check("with holes", os.stat("file").st_blocks <= file_of(path, image, name).stat().st_blocks + 128)
            r = subprocess.run([lib.TOOL, "volume", "download", f"{path}/{image}/{name}", "-"],
                               capture_output=True, check=False)
            check("'-' is standard output", r.stdout == data, r.stderr)
    image, _ = volume("create", path, "1M")
    blank("whole", MIB, b"q")
    works("convert", "-f", "raw", "whole", f"volume:{path}/{image}")
    other, name = volume("create", "-f", "qcow2", path, "2M")
    works("volume", "download", f"{path}/{image}", f"volume:{path}/{other}")
    check("into a volume", content("qcow2", str(file_of(path, other, name))) == b"q" * MIB + bytes(MIB))
    judged(path)


def half_done(path, name):
    """An upload whose server has gone to sleep in the middle."""
    process = subprocess.Popen([lib.TOOL, "volume", "upload", path, "64M", name], stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        if any(f.stat().st_blocks * 512 > MIB for f in pathlib.Path(path, "images").glob("*/*")):
            break
        time.sleep(0.001)
    return process


def test_interrupted():
    """Told to end, or killed: there is no such volume, and the next command has nothing of it left."""
    path = make("interrupted")
    with open("large", "wb") as f:
        f.write(os.urandom(64 * MIB))
    for what in (signal.SIGINT, signal.SIGKILL):
        with served("large", "--max-bytes", str(16 * MIB)) as (name, _):
            process = half_done(path, name)
            check("it goes on", process.poll() is None)
            process.send_signal(what)
            _, errors = process.communicate(timeout=PATIENCE)
        check("it has ended", process.returncode == (1 if what == signal.SIGINT else -what), errors)
        check("there is no volume", told("volume", "list", path) == [] or what == signal.SIGKILL)
        if what == signal.SIGKILL:
            left = [f.name for f in pathlib.Path(path, "images").glob("*/*")]
            check("it is marked", any(n.endswith(".intent") for n in left) and
                  not any(n.endswith(".meta") for n in left), left)
            image = next(pathlib.Path(path, "images").iterdir()).name
            r = run("volume", "create", f"{path}/{image}", "1M")
            check("the next command removes it", r.returncode == 0 and
                  len(told("volume", "list", path)) == 1, r.stderr)
    judged(path)


def test_rbd():
    if not rbd_names():
        print("skipped: no librbd can be loaded here")
        return
    path = make("ceph-domain")
    image, (_, top) = chain(path, "qcow2", 2)
    want = content("qcow2", f"{path}/images/{image}/{top}")
    for fmt in ("raw", "qcow2"):
        works("image", "copy", "-f", fmt, f"{path}/{image}", f"rbd:pool/{fmt}")
        check(f"{fmt} in Ceph", content(fmt, f"rbd:pool/{fmt}") == want)
        for more in ([], ["-f", "qcow2"]):
            said = told("image", "copy", f"rbd:pool/{fmt}", path, *more)
            check("and back", content("qcow2" if more else "raw",
                                      str(file_of(path, said["image"], said["volume"]))) == want)
    works("volume", "download", f"{path}/{image}/{top}", "rbd:pool/bytes")
    data = file_of(path, image, top).read_bytes()
    check("the bytes of a volume", content("raw", "rbd:pool/bytes") == data)
    said = told("volume", "upload", "-f", "raw", path, "1M", "rbd:pool/raw")
    check("and up", file_of(path, said["image"], said["volume"]).read_bytes() == want)
    r = run("image", "copy", f"{path}/{image}", "rbd:pool/fails:fake_fail=rbd_aio_flush")
    check("a copy that fails", r.returncode == 1 and "Input/output error" in r.stderr, r.stderr)
    judged(path)


lib.main(test_image_out, test_image_in, test_refused, test_upload, test_download, test_interrupted, test_rbd)
