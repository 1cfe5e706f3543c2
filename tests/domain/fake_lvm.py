# SPDX-License-Identifier: LGPL-2.1-or-later
"""A volume group without a device-mapper: `lvm` (fake_lvm.c) asks a thread here, and logical volumes are loop
devices on files. What a volume gets anew is full of old data. All of it is in a mount namespace of the test's own,
with a /dev, and a /run/vdisk-io, in which nobody else looks.
"""
import copy
import fcntl
import json
import os
import shutil
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
import uuid

SKIPPED = 77
MIB = 1 << 20
OLD = 0xaa
OLD_MOST = 8 * MIB # of a volume's new part, that is filled with old data: all that these tests have look at
LOOP_CONFIGURE, LOOP_SET_CAPACITY, LOOP_CTL_GET_FREE = 0x4C0A, 0x4C07, 0x4C82
BLKFLSBUF, LO_FLAGS_AUTOCLEAR = 0x1261, 4
held = set() # descriptors of ours, by which devices are there
CONSTANT = {"ids", "inbox", "outbox", "leases", "xleases", "master"}
WITH_VALUE = {"--config", "--devices", "--driverloaded", "--autobackup", "--contiguous", "--zero",
              "--wipesignatures", "--activate", "--size", "--addtag", "--deltag", "--name", "-o", "--configreport",
              "--reportformat", "--units", "--metadatasize", "--metadatacopies", "--metadataignore",
              "--setautoactivation", "--physicalextentsize"}


# ---- a place of our own -----------------------------------------------------------------------------------------


def skip(why):
    print(f"SKIPPED: {why}")
    sys.exit(SKIPPED)


def enter():
    """The test goes on in a mount namespace; or it is skipped."""
    if os.getuid() != 0 or not os.path.exists("/dev/loop-control"):
        skip("loop devices in a namespace of mounts take root")
    if "FAKE_LVM_ENTERED" not in os.environ:
        if subprocess.run(["unshare", "-m", "true"], check=False).returncode != 0:
            skip("there is no namespace of mounts to be had")
        os.environ["FAKE_LVM_ENTERED"] = "1"
        os.execvp("unshare", ["unshare", "-m", "--propagation", "private", sys.executable, *sys.argv])
    os.makedirs("/run/vdisk-io", exist_ok=True)
    mount("-t", "tmpfs", "none", "/run/vdisk-io")
    with open("/proc/misc", encoding="ascii") as f:
        text = "".join(line for line in f if "device-mapper" not in line) + "236 device-mapper\n"
    with open("/run/vdisk-io/misc", "w", encoding="ascii") as f:
        f.write(text)
    mount("--bind", "/run/vdisk-io/misc", "/proc/misc")
    os.makedirs("/run/vdisk-io/dev/shm")
    mount("-t", "tmpfs", "none", "/run/vdisk-io/dev")
    for name in ("null", "zero", "full", "urandom", "random", "tty", "loop-control"):
        st = os.stat(f"/dev/{name}")
        os.mknod(f"/run/vdisk-io/dev/{name}", st.st_mode, st.st_rdev)
    for name, to in (("fd", "fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        os.symlink(f"/proc/self/{to}", f"/run/vdisk-io/dev/{name}")
    os.makedirs("/run/vdisk-io/dev/shm", exist_ok=True)
    mount("--bind", "/dev/shm", "/run/vdisk-io/dev/shm")
    mount("--rbind", "/run/vdisk-io/dev", "/dev")
    mount("-t", "tmpfs", "none", "/run/vdisk-io")


def mount(*arguments):
    r = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if r.returncode != 0:
        skip(f"mount {' '.join(arguments)}: {r.stderr}")


class Loop:
    """A loop device on a file of its own; it goes when this process does."""

    def __init__(self, folder, size):
        self.file = f"{folder}/{uuid.uuid4()}"
        with open(self.file, "xb") as f:
            f.truncate(size)
        with open("/dev/loop-control", "rb") as control, open(self.file, "r+b") as f:
            while True: # until it is not somebody else who got that one
                number = fcntl.ioctl(control, LOOP_CTL_GET_FREE)
                self.path = f"/dev/loop{number}"
                if not os.path.exists(self.path):
                    os.mknod(self.path, stat.S_IFBLK | 0o660, os.makedev(7, number))
                self.hold = os.open(self.path, os.O_RDWR)
                held.add(str(self.hold))
                try:
                    self.control(LOOP_CONFIGURE, struct.pack("=II52xI240x", f.fileno(), 512, LO_FLAGS_AUTOCLEAR))
                    break
                except OSError:
                    self.close()
                    time.sleep(0.01)
        self.device = os.stat(self.path).st_rdev
        self.size = size

    def control(self, request, argument=0):
        with open(self.path, "r+b", buffering=0) as f:
            fcntl.ioctl(f, request, argument)

    def settle(self):
        """What was written by the device is in the file, and is read from there again."""
        fd = os.open(self.path, os.O_RDWR)
        os.fsync(fd)
        fcntl.ioctl(fd, BLKFLSBUF)
        os.close(fd)

    def resize(self, size, old=True):
        self.settle()
        with open(self.file, "r+b") as f:
            f.truncate(size)
            if old and size > self.size:
                f.seek(self.size)
                f.write(bytes([OLD]) * min(size - self.size, OLD_MOST))
        self.control(LOOP_SET_CAPACITY)
        self.size = size

    def read(self, offset, length):
        with open(self.path, "rb") as f:
            f.seek(offset)
            return f.read(length)

    def write(self, offset, data):
        with open(self.path, "r+b") as f:
            f.seek(offset)
            f.write(data)
        self.settle()

    def save(self):
        """[(offset, data)]"""
        self.settle()
        found, at, fd = [], 0, os.open(self.file, os.O_RDONLY)
        while True:
            try:
                at = os.lseek(fd, at, os.SEEK_DATA)
            except OSError:
                break
            end = os.lseek(fd, at, os.SEEK_HOLE)
            found.append((at, os.pread(fd, end - at, at)))
            at = end
        os.close(fd)
        return found

    def restore(self, size, pieces):
        self.settle()
        with open(self.file, "r+b") as f:
            f.truncate(0)
            f.truncate(size)
            for at, data in pieces:
                f.seek(at)
                f.write(data)
        self.control(LOOP_SET_CAPACITY)
        self.settle()
        self.size = size

    def close(self):
        held.discard(str(self.hold))
        os.close(self.hold)


def open_devices():
    """Of this process, and of those that it has started."""
    found, to_do = set(), [os.getpid()]
    while to_do:
        pid = to_do.pop()
        try:
            for task in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as f:
                    to_do += f.read().split()
            for fd in os.listdir(f"/proc/{pid}/fd"):
                if pid == os.getpid() and fd in held:
                    continue
                try:
                    st = os.stat(f"/proc/{pid}/fd/{fd}")
                except OSError:
                    continue # it has been closed since
                if stat.S_ISBLK(st.st_mode):
                    found.add(st.st_rdev)
        except OSError:
            pass # it has ended since
    return found


# ---- the group --------------------------------------------------------------------------------------------------


class Refused(Exception):
    """lvm's reason."""


class Lv:
    def __init__(self, name, size, tags, loop, device, extent):
        self.name, self.size, self.tags, self.loop, self.device = name, size, list(tags), loop, device
        self.extent, self.uuid = extent, str(uuid.uuid4())


class Vg:
    def __init__(self, name, extent, pvs):
        self.name, self.extent, self.pvs, self.uuid = name, extent, pvs, str(uuid.uuid4())
        self.tags, self.lvs, self.auto = [], {}, True


class Request:
    def __init__(self, command, arguments, pid):
        self.command, self.pid, self.options, self.names = command, pid, {}, []
        arguments = list(arguments)
        while arguments:
            argument = arguments.pop(0)
            if argument in WITH_VALUE:
                self.options.setdefault(argument, []).append(arguments.pop(0))
            elif not argument.startswith("-"):
                self.names.append(argument)

    def one(self, option, otherwise=None):
        return self.options.get(option, [otherwise])[-1]

    def caller(self):
        """Who has run lvm, by way of a shell."""
        pid = self.pid
        for _ in range(2):
            with open(f"/proc/{pid}/stat", encoding="ascii") as f:
                pid = int(f.read().rsplit(")", 1)[1].split()[1])
        return pid

    def is_writers(self):
        """Who has run it has the lock of those who change a group."""
        folder = f"/proc/{self.caller()}/fd"
        return any(os.readlink(f"{folder}/{fd}").endswith(".lvm") for fd in os.listdir(folder))


def bytes_of(text):
    return int(text.removesuffix("b"))


class Lvm:
    """`at`, if set, is called with (request, done): before lvm looks at anything, and when all has happened."""

    def __init__(self, client):
        self.folder = os.path.realpath("lvm")
        os.makedirs(f"{self.folder}/bin")
        os.symlink(os.path.realpath(client), f"{self.folder}/bin/lvm")
        self.lock, self.at, self.log = threading.Lock(), None, []
        self.pvs, self.vgs, self.loops, self.spare = {}, {}, [], []
        self.errors = ""
        self.server = socket.socket(socket.AF_UNIX)
        self.server.bind(f"{self.folder}/socket")
        self.server.listen(16)
        os.environ["FAKE_LVM"] = f"{self.folder}/socket"
        os.environ["PATH"] = f"{self.folder}/bin:{os.environ['PATH']}"
        threading.Thread(target=self.serve, daemon=True).start()

    def close(self):
        for loop in self.loops:
            loop.close()

    def disk(self, size):
        self.loops.append(Loop(self.folder, size))
        return self.loops[-1].path

    # ---- who asks

    def serve(self):
        while True:
            connection, _ = self.server.accept()
            threading.Thread(target=self.answer, args=(connection,), daemon=True).start()

    def answer(self, connection):
        pid = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
        data = b""
        while part := connection.recv(65536):
            data += part
        words = data.decode().split("\0")[:-1]
        request = Request(words[0], words[1:], pid)
        status, output, errors = 0, "", self.errors
        try:
            if self.at:
                self.at(request, False)
            with self.lock: # lvm's own, of the group
                self.log.append(" ".join([words[0], *request.names]))
                output = getattr(self, request.command)(request) or ""
            if self.at:
                self.at(request, True)
        except Refused as e:
            status, errors = 5, errors + f"  {e}\n"
        except Exception as e: # pylint: disable=broad-exception-caught
            status, errors = 3, f"  the test's lvm: {request.command}: {e!r}\n"
            print(errors)
        output = output.encode()
        try:
            connection.sendall(struct.pack("=BI", status, len(output)) + output + errors.encode())
        except OSError:
            pass # it has been killed
        connection.close()

    # ---- what is there

    def group(self, name):
        if name not in self.vgs:
            raise Refused(f'Volume group "{name}" not found')
        return self.vgs[name]

    def volumes(self, request):
        for name in request.names:
            vg, name = name.split("/")
            if name not in self.group(vg).lvs:
                raise Refused(f'Failed to find logical volume "{vg}/{name}"')
            yield self.vgs[vg], self.vgs[vg].lvs[name]

    @staticmethod
    def link(vg, lv):
        return f"/dev/{vg.name}/{lv.name}"

    def is_active(self, vg, lv):
        return os.path.islink(self.link(vg, lv))

    def set_active(self, vg, lv, active):
        if not active and self.is_active(vg, lv):
            if lv.loop.device in open_devices():
                raise Refused(f"Logical volume {vg.name}/{lv.name} in use.")
            os.unlink(self.link(vg, lv))
        elif active and not os.path.lexists(self.link(vg, lv)):
            os.makedirs(f"/dev/{vg.name}", exist_ok=True)
            os.symlink(lv.loop.path, self.link(vg, lv))

    def free(self, vg):
        return (sum(self.pvs[pv]["count"] for pv in vg.pvs) * vg.unit - sum(lv.size for lv in vg.lvs.values()))

    def report(self, vg):
        opened, pvs = open_devices(), []
        for name in sorted(vg.pvs):
            pv = self.pvs[name]
            pvs.append({"pv_name": name, "pv_uuid": pv["uuid"], "dev_size": str(pv["size"]),
                        "pe_start": str(pv["start"]), "pv_pe_count": str(pv["count"]), "pv_pe_alloc_count": "0",
                        "pv_mda_used_count": "0" if pv["ignored"] else "2"})
        return {"vg": [{"vg_name": vg.name, "vg_uuid": vg.uuid, "vg_extent_size": str(vg.extent),
                        "vg_size": str(sum(self.pvs[pv]["count"] for pv in vg.pvs) * vg.unit),
                        "vg_free": str(self.free(vg)), "vg_tags": ",".join(vg.tags)}],
                "pv": pvs, "pvseg": [],
                "lv": [{"lv_name": lv.name, "lv_uuid": lv.uuid, "lv_size": str(lv.size),
                        "lv_tags": ",".join(lv.tags), "lv_active": "active" if self.is_active(vg, lv) else "",
                        "lv_device_open": "open" if lv.loop.device in opened else ""} for lv in vg.lvs.values()],
                "seg": [{"lv_name": lv.name, "seg_start": "0", "seg_size": str(lv.size), "segtype": "linear",
                         "devices": f"{lv.device}({lv.extent})"} for lv in vg.lvs.values()]}

    def fullreport(self, request):
        vgs = [self.group(name) for name in request.names] or self.vgs.values()
        return json.dumps({"report": [self.report(vg) for vg in vgs] + ([] if request.names else [{"pv": []}])})

    # ---- volumes

    def lvcreate(self, request):
        vg, name, size = self.group(request.names[0]), request.one("--name"), bytes_of(request.one("--size"))
        size = -(-size // vg.extent) * vg.extent
        if name in vg.lvs:
            raise Refused(f'Logical Volume "{name}" already exists in volume group "{vg.name}"')
        if size > self.free(vg):
            raise Refused(f'Volume group "{vg.name}" has insufficient free space '
                          f"({self.free(vg) // vg.extent} extents): {size // vg.extent} required.")
        device = request.names[1] if len(request.names) > 1 else sorted(vg.pvs)[0]
        if not self.spare:
            self.loops.append(Loop(self.folder, 0))
            self.spare.append(self.loops[-1])
        loop = self.spare.pop()
        loop.resize(0)
        loop.resize(size)
        lv = vg.lvs[name] = Lv(name, size, request.options.get("--addtag", []), loop, device,
                               self.pvs[device]["next"])
        self.pvs[device]["next"] += size // vg.extent
        self.set_active(vg, lv, request.one("--activate") == "y")

    def lvremove(self, request):
        for vg, lv in self.volumes(request):
            self.set_active(vg, lv, False)
            del vg.lvs[lv.name]
            self.spare.append(lv.loop)

    def resize(self, request, grow):
        vg, lv = next(self.volumes(request))
        size = -(-bytes_of(request.one("--size")) // vg.extent) * vg.extent
        if (size > lv.size) != grow or size == lv.size:
            raise Refused(f"New size given ({size // vg.extent} extents) not {'larger' if grow else 'less'} than "
                          f"existing size ({lv.size // vg.extent} extents).")
        if size - lv.size > self.free(vg):
            raise Refused(f"Insufficient free space: {(size - lv.size) // vg.extent} extents needed, but only "
                          f"{self.free(vg) // vg.extent} available")
        lv.loop.resize(size)
        lv.size = size

    def lvextend(self, request):
        self.resize(request, True)

    def lvreduce(self, request):
        self.resize(request, False)

    def lvchange(self, request):
        for vg, lv in self.volumes(request):
            self.retag(lv, request)
            if request.one("--activate"):
                self.set_active(vg, lv, request.one("--activate") == "y")

    @staticmethod
    def retag(what, request):
        what.tags = [tag for tag in what.tags if tag not in request.options.get("--deltag", [])]
        what.tags += [tag for tag in request.options.get("--addtag", []) if tag not in what.tags]

    # ---- groups, and devices

    def pvcreate(self, request):
        for name in request.names:
            if name in self.pvs:
                raise Refused(f"Can't initialize physical volume \"{name}\" of volume group without -ff")
            size = next(loop.size for loop in self.loops if loop.path == name)
            self.pvs[name] = {"uuid": str(uuid.uuid4()), "size": size, "count": 0, "next": 0,
                              "start": MIB + bytes_of(request.one("--metadatasize")),
                              "ignored": request.one("--metadataignore") == "y"}

    def pvchange(self, request):
        for name in request.names:
            self.pvs[name]["ignored"] = request.one("--metadataignore") == "y"

    def pvremove(self, request):
        for name in request.names:
            if any(name in vg.pvs for vg in self.vgs.values()):
                raise Refused(f"PV {name} is used by VG")
            del self.pvs[name]

    def vgcreate(self, request):
        name, *pvs = request.names
        if name in self.vgs:
            raise Refused(f"A volume group called {name} already exists.")
        vg = Vg(name, bytes_of(request.one("--physicalextentsize")), pvs)
        vg.unit = vg.extent
        for pv in pvs:
            self.pvs[pv]["count"] = (self.pvs[pv]["size"] - self.pvs[pv]["start"]) // vg.extent
        self.vgs[name] = vg
        self.vgchange(request)

    def vgchange(self, request):
        vg = self.group(request.names[0])
        self.retag(vg, request)
        vg.auto = {"n": False, "y": True}.get(request.one("--setautoactivation"), vg.auto)

    def vgremove(self, request):
        vg = self.group(request.names[0])
        for lv in list(vg.lvs.values()):
            self.set_active(vg, lv, False)
            self.spare.append(lv.loop)
        del self.vgs[vg.name]

    def vgrename(self, request):
        vg, name = self.group(request.names[0]), request.names[1]
        active = [lv for lv in vg.lvs.values() if self.is_active(vg, lv)]
        for lv in active:
            os.unlink(self.link(vg, lv))
        self.vgs[name] = self.vgs.pop(vg.name)
        vg.name = name
        for lv in active:
            self.set_active(vg, lv, True)

    # ---- as it was

    def save(self, name):
        """Of a group: what it has, and what its volumes hold; but what is never written to is not looked at."""
        vg = self.vgs[name]
        lvs = [(lv.name, lv.size, list(lv.tags), lv.loop, lv.device, lv.extent, self.is_active(vg, lv),
                None if lv.name in CONSTANT else lv.loop.save()) for lv in vg.lvs.values()]
        return {"vg": name, "tags": list(vg.tags), "lvs": lvs, "pvs": copy.deepcopy(self.pvs)}

    def restore(self, saved):
        with self.lock:
            vg = self.vgs[saved["vg"]]
            self.spare += [lv.loop for lv in vg.lvs.values()]
            shutil.rmtree(f"/dev/{vg.name}", ignore_errors=True)
            shutil.rmtree(f"/run/vdisk-io/{vg.name}", ignore_errors=True)
            vg.tags, vg.lvs, self.pvs = list(saved["tags"]), {}, copy.deepcopy(saved["pvs"])
            for name, size, tags, loop, device, extent, active, data in saved["lvs"]:
                self.spare.remove(loop)
                if data is not None:
                    loop.restore(size, data)
                vg.lvs[name] = Lv(name, size, tags, loop, device, extent)
                self.set_active(vg, vg.lvs[name], active)
