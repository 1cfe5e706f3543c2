#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The NBD client in TLS, on exports of our own server, of qemu-nbd as it is installed and QEMU 10's, and of
nbdkit: by certificates and by keys, right ones and wrong ones. usage: test_nbd_tls_servers.py VDISK_IO BENCH_PEER

What lacks is skipped, and said.
"""
import json
import os
import pathlib
import random
import shutil
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parent))
sys.dont_write_bytecode = True
from keys import make_keys  # noqa: E402
from test_nbd_servers import MIB, SEED, SIZE, TOOL, Server, blank, on_qcow2, on_raw, run, version  # noqa: E402

KEYS = None


def ours(folder, disk, kind, keys):
    made = f"tls-creds-{kind},id=t,endpoint=server,dir={KEYS / keys}"
    return [TOOL, "nbd", "-t", "-e", "0", "-f", "raw", "-k", folder / "socket", "--object", made, "--tls-creds",
            "t", disk]


def qemu(program):
    def command(folder, disk, kind, keys):
        made = f"tls-creds-{kind},id=t,endpoint=server,dir={KEYS / keys}"
        return [program, "-t", "-e", "8", "-f", "raw", "--discard=unmap", "-k", folder / "socket", "--object",
                made, "--tls-creds", "t", disk]
    return command


def nbdkit(folder, disk, kind, keys):
    how = [f"--tls-psk={KEYS / keys / 'keys.psk'}"] if kind == "psk" else \
        [f"--tls-certificates={KEYS / keys}", "--tls-verify-peer"]
    return ["nbdkit", "-f", "-U", folder / "socket", "--tls=require", *how, "file", disk]


def by_name(folder, kind, keys):
    """A name that has all in it, as libnbd takes it."""
    if kind == "psk":
        return f"nbds+unix://qemu@/?socket={folder / 'socket'}&tls-psk-file={KEYS / keys / 'keys.psk'}"
    return f"nbds+unix:///?socket={folder / 'socket'}&tls-certificates={KEYS / keys}&tls-hostname=localhost" \
           "&tls-verify-peer=true"


def by_object(folder, kind, keys, **more):
    """As QEMU has it: options, then a name."""
    node = {"driver": "nbd", "server": {"type": "unix", "path": str(folder / "socket")}, "tls-creds": "t", **more}
    if kind == "x509":
        node.setdefault("tls-hostname", "localhost")
    return ["--object", f"tls-creds-{kind},id=t,dir={KEYS / keys}"], "json:" + json.dumps(
        {"driver": "raw", "file": node})


def both_kinds(what, command):
    def case(folder, rng):
        for kind, keys in (("x509", "keys"), ("psk", "psk")):
            disk = folder / "disk"
            for size, on in ((SIZE, on_raw), (2 * SIZE, on_qcow2)):
                blank(disk)
                with open(disk, "r+b") as f:
                    f.truncate(size)
                with Server(command(folder, disk, kind, keys), folder / "socket"):
                    on(folder, by_name(folder, kind, keys), disk, rng)
                    several(folder, kind, keys)
                (folder / "socket").unlink(missing_ok=True)
            wrong(folder, disk, command, kind)
    return what, case


def several(folder, kind, keys):
    """Four queues, each with a connection where the server allows it."""
    objects, name = by_object(folder, kind, keys)
    run(TOOL, "bench", *objects, "--queues", "4", "--rw", "randread", "--depth", "8", "--count", "2000",
        name)


def refused(words, *args):
    """An error of one line, and perhaps a hint, and nothing of what was read."""
    said = run(TOOL, *args, status=1)
    lines = said.strip().split("\n")
    if not any(word in said for word in words) or len(lines) > 2 or (len(lines) == 2 and "hint:" not in lines[1]):
        raise AssertionError(f"{args}: {said}")


def wrong(folder, disk, command, kind):
    """Who is not whom the other end wants gets nothing."""
    socket = folder / "socket"
    with Server(command(folder, disk, kind, "psk" if kind == "psk" else "keys"), socket):
        if kind == "psk":
            refused(("TLS", "connection"), "info", by_name(folder, kind, "wrong"))
            refused(("has no key of 'x'",), "info", by_name(folder, kind, "psk").replace("qemu@", "x@"))
        else:
            for keys in ("bare", "stranger"):  # TLS 1.3 tells it late: by an alert, or by an end
                refused(("TLS", "connection"), "info", by_name(folder, kind, keys))
            refused(("ssuer", "trusted"), "info", by_name(folder, kind, "other"))
            elsewhere = by_name(folder, kind, "keys").replace("=localhost", "=elsewhere")
            refused(("name", "expected"), "info", elsewhere)
            objects, name = by_object(folder, kind, "keys", **{"tls-hostname": "127.0.0.1"})
            refused(("name", "expected"), "info", *objects, name)
        refused(("demands TLS",), "info", f"nbd+unix:///?socket={socket}")
    socket.unlink(missing_ok=True)


def not_there(what, args):
    """A server without TLS, where it is asked for."""
    def case(folder, rng):
        disk, socket = folder / "disk", folder / "socket"
        blank(disk)
        with Server([str(a).replace("SOCKET", str(socket)).replace("DISK", str(disk)) for a in args], socket):
            run(TOOL, "info", f"nbd+unix:///?socket={socket}")
            for kind, keys in (("x509", "keys"), ("psk", "psk")):
                refused(("does not speak TLS",), "info", by_name(folder, kind, keys))
    return f"{what} without TLS", case


def hosts(folder, rng):
    """By TCP: the certificate is the host's, unless tls-hostname says another."""
    disk = folder / "disk"
    blank(disk)
    made = f"tls-creds-x509,id=t,endpoint=server,dir={KEYS / 'keys'}"
    server = Server([TOOL, "nbd", "-t", "-e", "0", "-f", "raw", "-p", "0", "-b", "127.0.0.1", "--object", made,
                     "--tls-creds", "t", "--pid-file", folder / "pid", disk], folder / "pid")
    with server:
        port = port_of(server.process.pid)
        query = f"?tls-certificates={KEYS / 'keys'}"
        run(TOOL, "info", f"nbds://localhost:{port}/{query}")
        run(TOOL, "info", f"nbds+tcp://127.0.0.1:{port}/{query}&tls-hostname=localhost")
        refused(("name", "expected"), "info", f"nbds://127.0.0.1:{port}/{query}")
        refused(("name", "expected"), "info", f"nbds://localhost:{port}/{query}&tls-hostname=127.0.0.1")


def port_of(pid):
    """Where that process listens."""
    inodes = {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
    for line in pathlib.Path("/proc/net/tcp").read_text().split("\n")[1:]:
        fields = line.split()
        if fields and fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
            return int(fields[1].split(":")[1], 16)
    raise AssertionError("it listens nowhere")


def verbs(folder, rng):
    """Each verb that opens an image takes --object for it."""
    disk = folder / "disk"
    disk.write_bytes(rng.randbytes(MIB) + bytes(MIB))
    plain = folder / "plain"
    plain.write_bytes(disk.read_bytes())
    with Server(ours(folder, disk, "x509", "keys"), folder / "socket"):
        objects, name = by_object(folder, "x509", "keys")
        run(TOOL, "info", *objects, name)
        run(TOOL, "convert", *objects, "-O", "qcow2", name, folder / "copy")
        run(TOOL, "compare", *objects, "-F", "qcow2", name, folder / "copy")
        run(TOOL, "io", *objects, "-c", "write -q -P 7 512k 4k", name)
        run(TOOL, "dd", *objects, "-f", "raw", "-O", "raw", f"if={name}", f"of={folder / 'half'}", "bs=1M",
            "count=1")
        if (folder / "half").read_bytes() != disk.read_bytes()[:MIB]:
            raise AssertionError("dd has read something else")
        run(TOOL, "measure", *objects, "-O", "qcow2", name)
        run(TOOL, "map", *objects, name)
        run(TOOL, "checksum", *objects, name)
        run(TOOL, "bench", *objects, "--count", "100", name)
        run(TOOL, "convert", *objects, "-n", "-f", "raw", "-O", "raw", plain, name)
        if disk.read_bytes() != plain.read_bytes():
            raise AssertionError("convert has written something else")
        options = f"driver=raw,file.driver=nbd,file.path={folder / 'socket'},file.tls-creds=t," \
                  "file.tls-hostname=localhost"
        run(TOOL, "info", *objects, "--image-opts", options)
        run(TOOL, "create", *objects, "-q", "-f", "qcow2", "-F", "raw", "-b", name, folder / "top")
        run(TOOL, "io", *objects, "-f", "qcow2", "-c", "read -q -P 0 1M 1M", folder / "top")
        relay = [TOOL, "nbd", "-r", "-t", *objects, "-k", folder / "second", name]
        with Server(relay, folder / "second"):
            run(TOOL, "compare", "-f", "raw", "-F", "raw", plain, f"nbd+unix:///?socket={folder / 'second'}")
        refused(("no TLS credentials 't'",), "info", name)
        refused(("are a client's", "are a server's"), "info", "--object",
                f"tls-creds-x509,id=t,endpoint=server,dir={KEYS / 'keys'}", name)


def names(folder, rng):
    """What is refused before anybody is asked."""
    socket = folder / "socket"
    for name, says in ((f"nbds+unix:///?socket={socket}", "no credentials"), ("nbds://host/x", "no credentials"),
                       (f"nbds+unix:///?socket={socket}&tls-certificates={KEYS}&tls-verify-peer=false",
                        "tls-verify-peer=false is not supported"),
                       (f"nbds+unix:///?socket={socket}&tls-certificates={KEYS / 'none'}", "ca-cert.pem"),
                       (f"nbds+unix:///?socket={socket}&tls-psk-file={KEYS / 'none'}", "none"),
                       (f"nbds+unix:///?socket={socket}&tls-creds=nobody", "no TLS credentials 'nobody'"),
                       (f"nbds+unix:///?socket={socket}&tls-psk-file={KEYS / 'psk' / 'keys.psk'}"
                        f"&tls-certificates={KEYS / 'keys'}", "and one of them"),
                       (f"nbd+unix:///?socket={socket}&tls-certificates={KEYS}", "unknown key"),
                       ('json:{"driver":"nbd","path":"/s","tls-hostname":"h"}', "tls-creds is missing"),
                       ('json:{"driver":"nbd","path":"/s","tls-creds":"t","tls-username":"u"}', "tls-psk-file")):
        refused((says,), "info", name)


def cases():
    servers = [("our server", ours)]
    found = [("verbs", verbs), ("names", names), ("hosts", hosts)]
    if shutil.which("qemu-nbd"):
        servers.append((f"qemu-nbd {version('qemu-nbd')}", qemu("qemu-nbd")))
        found.append(not_there("qemu-nbd", ["qemu-nbd", "-t", "-e", "4", "-f", "raw", "-k", "SOCKET", "DISK"]))
    else:
        print("skipped: no qemu-nbd")
    newer = pathlib.Path(run(sys.argv[2]).strip()).with_name("qemu-nbd")
    if newer.exists() and shutil.which("qemu-nbd") != str(newer):
        servers.append((f"qemu-nbd {version(newer)}", qemu(newer)))
    else:
        print("skipped: no newer qemu-nbd")
    if shutil.which("nbdkit"):
        servers.append(("nbdkit", nbdkit))
        found.append(not_there("nbdkit", ["nbdkit", "-f", "-U", "SOCKET", "file", "DISK"]))
    else:
        print("skipped: no nbdkit")
    found.append(not_there("our server", [TOOL, "nbd", "-t", "-e", "0", "-f", "raw", "-k", "SOCKET", "DISK"]))
    return found + [both_kinds(what, command) for what, command in servers]


def main():
    global KEYS
    if not shutil.which("openssl"):
        print("skipped: there is no openssl, which makes the keys")
        return 77
    print(f"seed {SEED}")
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        KEYS = pathlib.Path(folder)
        make_keys(KEYS)
        found = cases()
        for what, case in found:
            with tempfile.TemporaryDirectory() as folder:
                try:
                    case(pathlib.Path(folder), random.Random(f"{SEED}/{what}"))
                    print(f"ok {what}", flush=True)
                except AssertionError as e:
                    failures += 1
                    print(f"FAILED {what}: {e}", flush=True)
    print(f"{len(found)} cases, {failures} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
