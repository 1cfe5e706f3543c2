#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Images of Ceph, over a Ceph of one machine (tests/rbd/ceph): both ways with rbd and qemu-img, raw and qcow2, in
and out of storage domains; holes; snapshots; locks; an OSD that stops, and one that is killed, under writes that
are compared; a cluster that is not there.

usage: test_rbd_ceph.py VDISK_IO TEST_RBD RBD_LOAD [CASE...]
"""
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

tool, test_rbd, load = [os.path.abspath(name) for name in sys.argv[1:4]]
script = pathlib.Path(__file__).resolve().parent / "ceph"
ceph = None # its folder


def run(*command, **more):
    return subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, timeout=200, **more)


def works(*command, **more):
    done = run(*command, **more)
    assert done.returncode == 0, f"{' '.join(map(str, command))}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def refused(text, *command):
    done = run(*command)
    assert done.returncode == 1 and text in done.stderr, \
        f"{' '.join(map(str, command))}: {done.returncode}, '{text}' is not in:\n{done.stdout}{done.stderr}"
    return done.stderr


def make_raw(path, size, seed, pieces=40):
    """Data in pieces with holes between, an odd end."""
    draw = random.Random(seed)
    with open(path, "wb") as file:
        for _ in range(pieces):
            file.seek(draw.randrange(size - 400000) & ~511)
            file.write(draw.randbytes(draw.randrange(1, 300000)))
        file.truncate(size)


def exported(name, path):
    path.unlink(missing_ok=True)
    works("rbd", "export", "--no-progress", name, path)
    return path.read_bytes()


def extents(name):
    """[(start, length)] of objects that rbd says are there."""
    found = json.loads(works("rbd", "diff", "--whole-object", "--format", "json", name))
    return [(int(e["offset"]), int(e["length"])) for e in found if e["exists"] in (True, "true")]


def mapped(name):
    found = json.loads(works(tool, "map", "--output", "json", name))
    return [(e["start"], e["length"]) for e in found if e["data"]]


def joined(pieces):
    out = []
    for start, length in pieces:
        if out and sum(out[-1]) == start:
            out[-1] = (out[-1][0], out[-1][1] + length)
        else:
            out.append((start, length))
    return out


# ---- cases ------------------------------------------------------------------------------------------------

def case_backend(folder):
    """What the backend promises, by the program that also runs over the fake."""
    print(works(test_rbd, "real", "rbd:rbd/backend"))


def case_both_ways(folder):
    raw, back = folder / "a.raw", folder / "back"
    make_raw(raw, (70 << 20) + 512, 1)
    works(tool, "convert", "-O", "raw", raw, "rbd:rbd/ours")
    assert exported("rbd/ours", back) == raw.read_bytes()
    works("qemu-img", "compare", "-f", "raw", "-F", "raw", raw, "rbd:rbd/ours")
    works("rbd", "import", "--no-progress", raw, "rbd/theirs")
    works(tool, "compare", raw, "rbd:rbd/theirs")
    works("qemu-img", "convert", "-f", "raw", "-O", "raw", raw, "rbd:rbd/qemus")
    works(tool, "convert", "-f", "raw", "-O", "qcow2", "rbd:rbd/qemus", back)
    works(tool, "compare", "-f", "raw", "-F", "qcow2", raw, back)
    make_raw(raw, 30 << 20, 2)
    works(tool, "convert", "-O", "raw", raw, "rbd:rbd/ours") # over what was there, which was longer
    assert exported("rbd/ours", back) == raw.read_bytes()
    info = json.loads(works(tool, "info", "--output", "json",
                            'json:{"driver":"rbd","pool":"rbd","image":"ours"}'))
    assert info["virtual-size"] == 30 << 20, info
    works(tool, "compare", "--image-opts", "driver=rbd,pool=rbd,image=ours", f"driver=raw,file.filename={raw}")


def case_qcow2(folder):
    raw, back = folder / "a.raw", folder / "back"
    make_raw(raw, 60 << 20, 3)
    works(tool, "convert", "-f", "raw", "-O", "qcow2", raw, "rbd:rbd/q")
    works("qemu-img", "check", "-f", "qcow2", "rbd:rbd/q")
    works("qemu-img", "compare", "-f", "raw", "-F", "qcow2", raw, "rbd:rbd/q")
    works(tool, "convert", "-O", "raw", "rbd:rbd/q", back)
    assert back.read_bytes() == raw.read_bytes()
    works(tool, "create", "-f", "qcow2", "rbd:rbd/sparse", "1G") # grows as it is written to
    works(tool, "io", "-c", "write -q -P 7 100M 20M", "-c", "flush", "-c", "discard -q 104M 8M", "rbd:rbd/sparse")
    works("qemu-io", "-r", "-f", "qcow2", "-c", "read -P 7 100M 4M", "-c", "read -P 7 112M 8M", "rbd:rbd/sparse")
    works(tool, "check", "rbd:rbd/sparse")
    works("qemu-img", "create", "-q", "-f", "qcow2", "rbd:rbd/made", "64M")
    works(tool, "io", "-c", "write -q -P 9 0 4M", "rbd:rbd/made")
    works("qemu-img", "check", "-f", "qcow2", "rbd:rbd/made")
    works(tool, "resize", "rbd:rbd/sparse", "2G")
    works("qemu-img", "check", "-f", "qcow2", "rbd:rbd/sparse")


def case_names(folder):
    works("rbd", "namespace", "create", "rbd/space")
    works(tool, "create", "-f", "raw", "rbd:rbd/space/a\\@b", "8M") # a name that rbd itself does not take
    works(tool, "info", "rbd:rbd/space/a\\@b:id=admin:conf=" + str(ceph / "ceph.conf"))
    works(tool, "create", "-f", "raw", "rbd:rbd/space/in", "8M")
    assert "in" in works("rbd", "ls", "rbd/space").split() and "in" not in works("rbd", "ls", "rbd").split()
    tree = {"driver": "rbd", "pool": "rbd", "namespace": "space", "image": "in", "auth-client-required": ["none"]}
    works(tool, "info", "json:" + json.dumps(tree))
    tree.update({"auth-client-required": ["cephx"], "config": "client_mount_timeout=5"}) # the cluster has none
    refused("connecting to the Ceph cluster", tool, "info", "json:" + json.dumps(tree))
    refused("no such image", tool, "info", "rbd:rbd/in")
    refused("no such image", tool, "io", "-c", "write 0 4k", "rbd:rbd/nothing")
    refused("'nopool'", tool, "info", "rbd:nopool/a")
    refused("not the name of an image", tool, "create", "-f", "raw", "rbd:rbd", "1M")


def case_domain(folder):
    """Storage domains take volumes from images, and give them."""
    raw, domain = folder / "a.raw", folder / "domain"
    make_raw(raw, 40 << 20, 4)
    works(tool, "convert", "-O", "raw", raw, "rbd:rbd/source")
    domain.mkdir()
    works(tool, "domain", "create", domain)
    volume = works(tool, "volume", "create", "-f", "qcow2", domain, "40M").strip()
    works(tool, "convert", "-n", "-f", "raw", "rbd:rbd/source", f"volume:{domain}/{volume}")
    works(tool, "compare", "-f", "raw", raw, f"volume:{domain}/{volume}")
    works(tool, "convert", "-O", "raw", f"volume:{domain}/{volume}", "rbd:rbd/given")
    works("qemu-img", "compare", "-f", "raw", "-F", "raw", raw, "rbd:rbd/given")


    upload = f'"$0" convert -O raw rbd:rbd/source - | "$0" volume upload -f raw {domain} 40M'
    volume = works("bash", "-o", "pipefail", "-c", upload, tool).strip()
    download = f'"$0" volume download {domain}/{volume} | "$0" convert -f raw -O raw - rbd:rbd/streamed'
    works("bash", "-o", "pipefail", "-c", download, tool)
    works(tool, "compare", "-f", "raw", "-F", "raw", raw, "rbd:rbd/streamed")


def case_chains(folder):
    """Images lie on images of the cluster, in files and in it."""
    raw, top = folder / "a.raw", folder / "top"
    make_raw(raw, 40 << 20, 5)
    works(tool, "convert", "-O", "raw", raw, "rbd:rbd/base")
    for name in (top, "rbd:rbd/top"):
        works(tool, "create", "-q", "-f", "qcow2", "-b", "rbd:rbd/base", "-F", "raw", name)
        works(tool, "compare", "-f", "raw", raw, name)
        works("qemu-img", "compare", "-f", "raw", "-F", "qcow2", raw, name)
    works(tool, "io", "-c", "write -q -P 5 3M 1M", top)
    works(tool, "commit", top)
    works(tool, "io", "-r", "-c", "read -q -P 5 3M 1M", "rbd:rbd/base")


def case_holes(folder):
    name = "rbd:rbd/holes"
    works(tool, "create", "-f", "raw", name, "256M")
    assert mapped(name) == [] == extents("rbd/holes")
    for at in (5, 6, 40, 101, 255):
        works(tool, "io", "-c", f"write -q -P 1 {at}M 64k", name)
    assert joined(mapped(name)) == joined(extents("rbd/holes")), (mapped(name), extents("rbd/holes"))
    assert len(extents("rbd/holes")) == 4
    works(tool, "io", "-c", "discard -q 40M 4M", "-c", "write -q -z -u 100M 4M", "-c", "write -q -z 120M 4M", name)
    assert joined(mapped(name)) == joined(extents("rbd/holes")), (mapped(name), extents("rbd/holes"))
    found = {start >> 20 for start, _ in extents("rbd/holes")}
    assert not found & {40, 100}, found
    assert 120 in found, "zeros that were to be kept are not there"
    works(tool, "create", "-f", "raw", "rbd:rbd/long", "4T") # a map of a million objects
    works(tool, "io", "-c", "write -q -P 1 3T 64k", "rbd:rbd/long")
    assert mapped("rbd:rbd/long") == [(3 << 40, 4 << 20)]
    works("rbd", "create", "rbd/old", "--size", "64M", "--image-feature", "layering") # none of the map
    works(tool, "io", "-c", "write -q -P 1 20M 64k", "rbd:rbd/old")
    assert mapped("rbd:rbd/old") == [(20 << 20, 4 << 20)]
    works("rbd", "create", "rbd/striped", "--size", "64M", "--stripe-unit", "64K", "--stripe-count", "4")
    works(tool, "io", "-c", "write -q -P 1 20M 64k", "rbd:rbd/striped")
    works(tool, "io", "-r", "-c", "read -q -P 1 20M 64k", "-c", "read -q -P 0 0 20M", "rbd:rbd/striped")
    assert mapped("rbd:rbd/striped") == [(0, 64 << 20)]


def case_snapshots(folder):
    name = "rbd:rbd/snapped"
    works(tool, "create", "-f", "raw", name, "32M")
    works(tool, "io", "-c", "write -q -P 1 0 8M", name)
    works("rbd", "snap", "create", "--no-progress", "rbd/snapped@one")
    works(tool, "io", "-c", "write -q -P 2 4M 8M", "-c", "discard -q 0 4M", name)
    works(tool, "io", "-r", "-c", "read -q -P 1 0 8M", "-c", "read -q -P 0 8M 8M", name + "@one")
    works(tool, "io", "-r", "-c", "read -q -P 0 0 4M", "-c", "read -q -P 2 4M 8M", name)
    assert joined(mapped(name + "@one")) == [(0, 8 << 20)], mapped(name + "@one")
    refused("is a snapshot", tool, "io", "-c", "write -q 0 4k", name + "@one")
    works(tool, "convert", "-O", "raw", name + "@one", folder / "one")
    assert (folder / "one").read_bytes() == b"\1" * (8 << 20) + bytes(24 << 20)
    works("rbd", "snap", "protect", "rbd/snapped@one")
    works("rbd", "clone", "rbd/snapped@one", "rbd/clone")
    works(tool, "io", "-c", "write -q -P 3 0 64k", "rbd:rbd/clone")
    works(tool, "io", "-r", "-c", "read -q -P 3 0 64k", "-c", "read -q -P 1 64k 8128k", "rbd:rbd/clone")
    works(tool, "convert", "-O", "raw", "rbd:rbd/clone", folder / "clone")
    works("qemu-img", "compare", "-f", "raw", "-F", "raw", folder / "clone", "rbd:rbd/clone")


def size_of(name):
    return json.loads(works("rbd", "info", "--format", "json", name))["size"]


class Open:
    """Somebody who has the image open, and does what he is told."""

    def __init__(self, *words):
        self.process = subprocess.Popen([tool, "io", *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT, text=True)

    def __enter__(self):
        return self

    def does(self, *commands):
        """What he says to them, and then how long his volume is."""
        self.process.stdin.write("".join(f"{command}\n" for command in commands) + "wait\nlength\nsleep 0\n")
        self.process.stdin.flush()
        said = []
        while not (line := self.process.stdout.readline()).strip().isdigit():
            assert line, f"he has gone: {said}"
            said.append(line)
        return said, int(line)

    def __exit__(self, *why):
        self.process.stdin.close()
        self.process.wait(timeout=100)
        self.process.stdout.close()


def wait_until(holds):
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.05)


def case_sizes(folder):
    """Another size: by us, and by rbd beside who has the image open; objects of another size."""
    name, mib = "rbd:rbd/sized", 1 << 20
    works(tool, "create", "-f", "raw", name + ":rbd_default_order=20", "64M")
    info = json.loads(works("rbd", "info", "--format", "json", "rbd/sized"))
    assert info["object_size"] == mib and info["size"] == 64 * mib, info
    works(tool, "io", "-c", "write -q -P 1 0 64M", name)
    works(tool, "resize", "-f", "raw", "--shrink", name, "32M")
    works(tool, "resize", "-f", "raw", name, "64M")
    assert size_of("rbd/sized") == 64 * mib
    works(tool, "io", "-r", "-c", "read -q -P 1 0 32M", "-c", "read -q -P 0 32M 32M", name)
    assert joined(mapped(name)) == [(0, 32 * mib)], mapped(name)
    with Open("-f", "raw", name) as user: # has its lock, and is asked to do it
        assert user.does("read -q -P 1 0 4k") == ([], 64 * mib)
        works("rbd", "resize", "--no-progress", "rbd/sized", "--size", "256M")
        wait_until(lambda: user.does()[1] == 256 * mib)
        assert user.does("write -q -P 2 200M 4M", "read -q -P 2 200M 4M") == ([], 256 * mib)
        works("rbd", "resize", "--no-progress", "--allow-shrink", "rbd/sized", "--size", "204M")
        wait_until(lambda: user.does()[1] == 204 * mib)
        assert "past the end" in "".join(user.does("read -q 204M 4k")[0])
        assert user.does("read -q -P 2 200M 4M") == ([], 204 * mib)
    works(tool, "io", "-r", "-c", "read -q -P 2 200M 4M", "-c", "read -q -P 1 0 32M", name)


def case_locks(folder):
    name = "rbd:rbd/locked"
    works(tool, "create", "-f", "raw", name, "64M")
    with subprocess.Popen([load, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        writer.stdout.readline() # it is at work
        refused("in use by the Ceph client at 127.0.0.1:", tool, "io", "-c", "write 0 4k", name)
        works(tool, "io", "-r", "-c", "read -q 0 4k", name)
        writer.kill() # its lock stays, and it is there no more when it is not watched any more
        writer.wait()
    end = time.monotonic() + 120
    while (done := run(tool, "io", "-c", "write -q -P 5 0 4k", name)).returncode and time.monotonic() < end:
        assert "in use by the Ceph client" in done.stderr, done.stderr
        time.sleep(1)
    assert done.returncode == 0, done.stderr
    works(tool, "io", "-r", "-c", "read -q -P 5 0 4k", name)


def count_after(writer, more):
    """The load goes on: so many more hundreds of writes."""
    for _ in range(more):
        assert (line := writer.stdout.readline()), "the load has ended"
    return int(line)


def osd_pid():
    return int((ceph / "osd.0.pid").read_text())


def case_osd(folder):
    """It stops for a while; then it is killed, and comes back: nothing that was acknowledged is lost."""
    for kind in ("raw", "qcow2"):
        name = f"rbd:rbd/load-{kind}"
        works(tool, "create", "-f", kind, name, "64M")
        command = [load, name] if kind == "raw" else [load, name, kind]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
            before = count_after(writer, 3)
            os.kill(osd_pid(), signal.SIGSTOP)
            time.sleep(3) # longer than any write
            os.kill(osd_pid(), signal.SIGCONT)
            between = count_after(writer, 8)
            os.kill(osd_pid(), signal.SIGKILL)
            time.sleep(1)
            works(script, "osd", ceph)
            after = count_after(writer, 8)
            assert before < between < after
            writer.stdin.close()
            last = writer.stdout.read()
        assert writer.returncode == 0 and "compared" in last, f"{kind}: {writer.returncode}"
        print(f"{kind}: {last.split()[-1]} writes")
    works(tool, "check", "rbd:rbd/load-qcow2")


def case_osd_copy(folder):
    """It stops while an image is copied to, and from: the copy waits, and is right in the end."""
    raw, back = folder / "a.raw", folder / "back"
    make_raw(raw, 200 << 20, 6, 400)
    for command in ([tool, "convert", "-f", "raw", "-O", "raw", raw, "rbd:rbd/copied"],
                    [tool, "convert", "-f", "raw", "-O", "raw", "rbd:rbd/copied", back]):
        os.kill(osd_pid(), signal.SIGSTOP)
        with subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True) as copy:
            time.sleep(2)
            ended = copy.poll()
            os.kill(osd_pid(), signal.SIGCONT)
            time.sleep(0.3)
            os.kill(osd_pid(), signal.SIGSTOP)
            time.sleep(2)
            os.kill(osd_pid(), signal.SIGCONT)
            text = copy.communicate(timeout=200)[1]
        assert ended is None and copy.returncode == 0, f"{ended}, {copy.returncode}: {text}"
    assert exported("rbd/copied", folder / "exported") == raw.read_bytes() == back.read_bytes()


def case_away(folder):
    """No cluster, or one that goes: commands end, with an error."""
    works(tool, "create", "-f", "raw", "rbd:rbd/away", "64M")
    started = time.monotonic()
    done = run(tool, "info", "rbd:rbd/away:mon_host=127.0.0.1\\:1:client_mount_timeout=2")
    assert done.returncode == 1 and "connecting to the Ceph cluster (mon_host 127.0.0.1:1)" in done.stderr, done
    assert time.monotonic() - started < 60
    refused("no.conf", tool, "info", "rbd:rbd/away:conf=/no.conf")
    os.kill(osd_pid(), signal.SIGSTOP)
    try:
        refused("Connection timed out", tool, "info", "rbd:rbd/away:rados_osd_op_timeout=2")
    finally:
        os.kill(osd_pid(), signal.SIGCONT)
    works(tool, "info", "rbd:rbd/away")
    with subprocess.Popen([load, "rbd:rbd/away:rados_osd_op_timeout=3"], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as writer:
        writer.stdout.readline()
        works(script, "stop", ceph)
        _, text = writer.communicate(timeout=200)
    assert writer.returncode == 1 and "rados_osd_op_timeout" in text, (writer.returncode, text)


CASES = {name[5:]: function for name, function in list(globals().items()) if name.startswith("case_")}


def main(*names):
    global ceph
    if not shutil.which("qemu-img") or "rbd" not in run("qemu-img", "--help").stdout.split():
        print("skipped: qemu-img has no rbd (.ci/install-deps ceph)")
        return 77
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143)) # the cluster ends as well
    with tempfile.TemporaryDirectory(prefix="vdisk-rbd-") as folder:
        ceph = pathlib.Path(folder) / "ceph"
        os.environ["CEPH_CONF"] = str(ceph / "ceph.conf")
        os.environ["CEPH_STORE"] = "bluestore"
        try:
            started = time.monotonic()
            done = run(script, "start", ceph)
            if done.returncode == 77:
                print(done.stdout, end="")
                return 77
            assert done.returncode == 0, done.stdout + done.stderr
            for name in names or CASES:
                print(f"{time.monotonic() - started:.0f} s: {name}", flush=True)
                own = pathlib.Path(folder) / name
                own.mkdir()
                CASES[name](own)
        finally:
            run(script, "stop", ceph)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[4:]))
