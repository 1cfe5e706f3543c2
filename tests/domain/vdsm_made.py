# SPDX-License-Identifier: LGPL-2.1-or-later
"""Domains as Vdsm writes them and as they get with the years, made from the description of its formats alone.

It knows no code of ours: qcow2 images are QEMU's, where there is one, all else is written here byte by byte. There
is: a chain of three, a template with a clone, two disks of OVFs, a merge that Vdsm has not ended, a template that
is not legal, a preallocated qcow2 volume as Vdsm makes them, a deleted image of which a half is left.
"""
import hashlib
import os
import shutil
import struct
import subprocess

MIB = 1 << 20
BLANK = "00000000-0000-0000-0000-000000000000"
UUID = "5ec0d0fa-0d0a-4000-8000-0000000000d5"
POOL = "5ec0d0fa-0d0a-4000-8000-0000000000b0"


def name(kind, number):
    return f"{kind * 8}-0000-4000-8000-{number:012d}"


CHAIN, TEMPLATE, CLONE, OVF_1, OVF_2, MERGED, WITHDRAWN, PREALLOCATED, REMOVED = (name("a", n) for n in range(9))
LOW, MID, TOP, BASE, CLONED, STORE_1, STORE_2, UNDER, ABOVE, BAD, FULL, GONE = (name("b", n) for n in range(12))


def record(magic, block, of):
    """The first block of a lockspace, or of a lease, that nobody has."""
    return struct.pack("<IIIIQQQQQ48s48s", magic, 0x00060002, 0, block, 0, 250, 0, 0, 0, UUID.encode(),
                       of.encode())


class Made:
    """In MOUNT; `tool` is vdisk-io, which writes data where QEMU is not there to make images."""

    def __init__(self, mount, tool, version=5, kind="POSIXFS", block=4096, align=2 * MIB, lockspace=True):
        self.path, self.tool, self.version = f"{mount}/{UUID}", tool, version
        self.block, self.align, self.lockspace, self.kind = block, align, lockspace, kind
        os.makedirs(f"{self.path}/images")
        for folder in ("dom_md", "master/vms", "master/tasks"):
            os.makedirs(f"{self.path}/{folder}")
        open(f"{mount}/__DIRECT_IO_TEST__", "wb").close()
        self.write_domain()
        self.write_specials()
        self.write_images()

    # ---- the domain -------------------------------------------------------------------------------------------

    def write_domain(self):
        """Of the master domain of a pool: keys that others do not have."""
        md = {"CLASS": "Data", "DESCRIPTION": "zweite Domäne, 2½", "IOOPTIMEOUTSEC": "10", "LEASERETRIES": "3",
              "LEASETIMESEC": "60", "LOCKPOLICY": "", "LOCKRENEWALINTERVALSEC": "5", "MASTER_VERSION": "7",
              "POOL_DESCRIPTION": "Default", "POOL_DOMAINS": f"{UUID}:Active", "POOL_SPM_ID": "-1",
              "POOL_SPM_LVER": "-1", "POOL_UUID": POOL, "REMOTE_PATH": "/dev/mapper/x", "ROLE": "Master",
              "SDUUID": UUID, "TYPE": self.kind, "VERSION": str(self.version)}
        if self.version == 5:
            md.update(ALIGNMENT=str(self.align), BLOCK_SIZE=str(self.block))
        lines = sorted(f"{key}={value}" for key, value in md.items())
        seal = hashlib.sha1("".join(lines).encode("ascii", "xmlcharrefreplace")).hexdigest()
        with open(f"{self.path}/dom_md/metadata", "w", encoding="utf-8") as f:
            f.write("\n".join(lines + [f"_SHA_CKSUM={seal}"]) + "\n")

    def write_specials(self):
        sizes = {"ids": self.lockspace * self.align, "leases": 2 * self.lockspace * self.align, "inbox": 16 * MIB,
                 "outbox": 16 * MIB, "xleases": 3 * self.align}
        if self.version < 4 or self.kind == "LOCALFS":
            del sizes["xleases"]
        for file, size in sizes.items():
            path = f"{self.path}/dom_md/{file}"
            with open(path, "wb") as f:
                f.truncate(size)
                if file == "ids" and size > 0:
                    f.write(record(0x12212010, self.block, ""))
                if file == "leases" and size > 0:
                    f.seek(self.align)
                    f.write(record(0x06152010, self.block, "SDM"))
                if file == "xleases":
                    f.seek(self.align)
                    f.write(self.index())
            os.chmod(path, 0o660)

    @staticmethod
    def index():
        head = struct.pack(">i", 0x12152016) + b"\0" + b"0001" + b"\0" + UUID.encode().ljust(48, b"\0")
        head += b"\0%010d\0-" % 1550522547
        record = bytes(48) + b"\0" + b"%011d" % 0 + b"\0--\n"
        return (head.ljust(511, b"\0") + b"\n" + record * 3960).ljust(62 * 4096, b"\0")

    # ---- volumes ----------------------------------------------------------------------------------------------

    def meta(self, image, volume, more, order=sorted):
        """The text, in an order of its own, with what older versions had."""
        keys = {"CTIME": "1550522547", "DESCRIPTION": '{"DiskAlias":"dísk","DiskDescription":""}',
                "DISKTYPE": "DATA", "DOMAIN": UUID, "FORMAT": "COW", "GEN": "0", "IMAGE": image,
                "LEGALITY": "LEGAL", "PUUID": BLANK, "TYPE": "SPARSE", "VOLTYPE": "LEAF"}
        keys.update({"CAP": str(4 * MIB), "SEQ": "1"} if self.version == 5 else
                    {"MTIME": "0", "SIZE": str(4 * MIB // 512)})
        keys.update(more)
        if self.version < 5:
            keys.pop("SEQ", None)
        text = "".join(f"{key}={keys[key]}\n" for key in order(keys)) + "EOF\n"
        path = f"{self.path}/images/{image}/{volume}.meta"
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
        os.chmod(path, 0o644)

    def lease(self, image, volume):
        if not self.lockspace:
            return
        path = f"{self.path}/images/{image}/{volume}.lease"
        with open(path, "wb") as f:
            f.write(record(0x06152010, self.block, volume))
            f.truncate(self.align)
        os.chmod(path, 0o660)

    def data(self, image, volume, fmt, size=4 * MIB, parent=None, content=b""):
        folder = f"{self.path}/images/{image}"
        os.makedirs(folder, exist_ok=True)
        path = f"{folder}/{volume}"
        if fmt == "RAW":
            with open(path, "wb") as f:
                f.write(content)
                f.truncate(size)
        else:
            self.cow(folder, volume, size, parent, content)
        os.chmod(path, 0o660)
        self.lease(image, volume)

    def cow(self, folder, volume, size, parent, content):
        compat = "1.1" if self.version > 3 else "0.10"
        under = ["-u", "-b", parent[0], "-F", parent[1]] if parent else []
        tool = shutil.which("qemu-img") or self.tool
        subprocess.run([tool, "create", "-q", "-f", "qcow2", "-o", f"compat={compat}", *under,
                        f"{folder}/{volume}", str(size)], check=True)
        if content:
            subprocess.run([self.tool, "io", "-f", "qcow2", "-c", f"write -q -P {content[0]} 1M {len(content)}",
                            f"{folder}/{volume}"], check=True, stdin=subprocess.DEVNULL)

    def write_images(self):
        self.data(CHAIN, LOW, "RAW", content=b"l" * 3 * MIB)
        self.meta(CHAIN, LOW, {"FORMAT": "RAW", "VOLTYPE": "INTERNAL"}, reversed_keys)
        self.data(CHAIN, MID, "COW", parent=(LOW, "raw"), content=b"m" * MIB)
        self.meta(CHAIN, MID, {"PUUID": LOW, "SEQ": "2", "VOLTYPE": "INTERNAL", "POOL_UUID": "", "ZOMBIE": "1",
                               "MASTERED": ""}, reversed_keys)
        self.data(CHAIN, TOP, "COW", parent=(MID, "qcow2"), content=b"t" * 65536)
        self.meta(CHAIN, TOP, {"PUUID": MID, "SEQ": "3", "GEN": "999"})
        self.data(TEMPLATE, BASE, "COW", content=b"T" * MIB)
        self.meta(TEMPLATE, BASE, {"VOLTYPE": "SHARED", "DISKTYPE": "2"})
        os.makedirs(f"{self.path}/images/{CLONE}")
        for suffix in ("", ".meta", ".lease")[:2 + self.lockspace]:
            os.link(f"{self.path}/images/{TEMPLATE}/{BASE}{suffix}", f"{self.path}/images/{CLONE}/{BASE}{suffix}")
        self.data(CLONE, CLONED, "COW", parent=(BASE, "qcow2"), content=b"c" * 65536)
        self.meta(CLONE, CLONED, {"PUUID": BASE})
        for image, volume in ((OVF_1, STORE_1), (OVF_2, STORE_2)):
            self.data(image, volume, "RAW", content=b"ovf" * 20480)
            self.meta(image, volume, {
                "FORMAT": "RAW", "TYPE": "PREALLOCATED", "DISKTYPE": "OVFS",
                "DESCRIPTION": '{"Updated":true,"Size":61440,"Last Updated":"Tue Feb 19 2019",'
                f'"Storage Domains":[{{"uuid":"{UUID}"}}],"Disk Description":"OVF_STORE"}}'})
        self.write_odd()

    def write_odd(self):
        self.data(MERGED, UNDER, "RAW", content=b"u" * MIB)
        self.meta(MERGED, UNDER, {"FORMAT": "RAW", "VOLTYPE": "INTERNAL"})
        self.data(MERGED, ABOVE, "COW", parent=(UNDER, "raw"), content=b"a" * 65536)
        self.meta(MERGED, ABOVE, {"PUUID": UNDER, "LEGALITY": "ILLEGAL"})
        self.data(WITHDRAWN, BAD, "COW")
        self.meta(WITHDRAWN, BAD, {"VOLTYPE": "SHARED", "LEGALITY": "ILLEGAL", "DISKTYPE": "SCRD"})
        self.data(PREALLOCATED, FULL, "COW")
        self.meta(PREALLOCATED, FULL, {"TYPE": "PREALLOCATED"})
        with open(f"{self.path}/images/{PREALLOCATED}/{FULL}", "r+b") as f:
            os.posix_fallocate(f.fileno(), 0, 4 * MIB)
        self.data(REMOVED, GONE, "RAW", content=b"g" * MIB)
        os.rename(f"{self.path}/images/{REMOVED}", f"{self.path}/images/_remove_me_{REMOVED}")


def reversed_keys(keys):
    return sorted(keys, reverse=True)
