# SPDX-License-Identifier: LGPL-2.1-or-later
"""A reader of Vdsm's file domains of its own, from their description alone: says what is wrong with one.

It knows no code of ours, and takes nothing that Vdsm would not have written.
"""
import hashlib
import os
import re
import stat
import struct

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
BLANK = "00000000-0000-0000-0000-000000000000"
KEYS_4 = ["CTIME", "DESCRIPTION", "DISKTYPE", "DOMAIN", "FORMAT", "GEN", "IMAGE", "LEGALITY", "MTIME", "PUUID",
          "SIZE",
          "TYPE", "VOLTYPE"]
KEYS_5 = ["CAP", "CTIME", "DESCRIPTION", "DISKTYPE", "DOMAIN", "FORMAT", "GEN", "IMAGE", "LEGALITY", "PUUID",
          "SEQ",
          "TYPE", "VOLTYPE"]
DOMAIN_4 = ["CLASS", "DESCRIPTION", "IOOPTIMEOUTSEC", "LEASERETRIES", "LEASETIMESEC", "LOCKPOLICY",
            "LOCKRENEWALINTERVALSEC", "POOL_UUID", "REMOTE_PATH", "ROLE", "SDUUID", "TYPE", "VERSION"]
DISK_TYPES = "DATA ISOF MEMD MEMM OVFS HEVD HESD HEMD HECI SCRD 2 1".split()


class Wrong(Exception):
    pass


def need(condition, *what):
    if not condition:
        raise Wrong(" ".join(str(w) for w in what))


def lines_of(data, where):
    need(data.endswith(b"\n"), where, "does not end with a line")
    return data.decode().split("\n")[:-1]


def read_domain(path):
    """The metadata of a domain, as a dict."""
    with open(f"{path}/dom_md/metadata", "rb") as f:
        lines = lines_of(f.read(), path)
    need(lines[-1].startswith("_SHA_CKSUM="), "no checksum at the end")
    body = lines[:-1]
    need(body == sorted(body), "the lines of the domain are not sorted")
    seal = hashlib.sha1("".join(body).encode("ascii", "xmlcharrefreplace")).hexdigest()
    need(lines[-1] == "_SHA_CKSUM=" + seal, "the checksum is not", seal)
    return dict(line.split("=", 1) for line in body)


def read_volume(data, version):
    need(len(data) <= 512, "more than 512 bytes")
    lines = lines_of(data, "metadata")
    need(lines[-1] == "EOF", "no EOF at the end")
    pairs = [line.split("=", 1) for line in lines[:-1]]
    keys = [key for key, _ in pairs]
    need(keys == (KEYS_5 if version == 5 else KEYS_4), "keys are", keys)
    meta = dict(pairs)
    need(meta["FORMAT"] in ("RAW", "COW"), meta["FORMAT"])
    need(meta["TYPE"] in ("PREALLOCATED", "SPARSE"), meta["TYPE"])
    need(meta["VOLTYPE"] in ("LEAF", "INTERNAL", "SHARED"), meta["VOLTYPE"])
    need(meta["LEGALITY"] in ("LEGAL", "ILLEGAL", "FAKE"), meta["LEGALITY"])
    need(meta["DISKTYPE"] in DISK_TYPES, meta["DISKTYPE"])
    need(len(meta["DESCRIPTION"]) <= 210, "a description of more than 210 characters")
    for key in ("DOMAIN", "IMAGE", "PUUID"):
        need(UUID.fullmatch(meta[key]), key, meta[key])
    need(0 <= int(meta["GEN"]) <= 999, "generation", meta["GEN"])
    need(str(int(meta["CTIME"])) == meta["CTIME"], "time", meta["CTIME"])
    if version == 5:
        meta["capacity"] = int(meta["CAP"])
        need(0 <= int(meta["SEQ"]) < 1 << 32, "sequence", meta["SEQ"])
    else:
        need(meta["MTIME"] == "0", "MTIME")
        meta["capacity"] = int(meta["SIZE"]) * 512
    need(meta["FORMAT"] == "COW" or meta["PUUID"] == BLANK, "a raw volume with a parent")
    return meta


def read_header(path):
    """(virtual size, backing file, its format, version) of a qcow2 image."""
    with open(path, "rb") as f:
        head = f.read(65536)
    magic, version, backing_at, backing_len, bits, size = struct.unpack(">IIQIIQ", head[:32])
    need(magic == 0x514649FB, path, "is no qcow2 image")
    need(bits == 16, path, "has other clusters than 64 KiB")
    backing = head[backing_at:backing_at + backing_len].decode() if backing_at else ""
    at, backing_format = struct.unpack(">I", head[100:104])[0] if version == 3 else 72, ""
    while True:
        kind, length = struct.unpack(">II", head[at:at + 8])
        if kind == 0:
            break
        if kind == 0xE2792ACA:
            backing_format = head[at + 8:at + 8 + length].decode()
        at += 8 + (length + 7) // 8 * 8
    return size, backing, backing_format, version


class Domain:
    """All of a domain, judged as it is read: an exception says what is wrong."""

    def __init__(self, path, upgraded=False, marks=False):
        self.path, self.upgraded, self.marks = path, upgraded, marks # marks: of merges that have not ended
        self.md = read_domain(path)
        self.version = int(self.md["VERSION"])
        self.images = {}
        self.judge_domain()
        for name in sorted(os.listdir(f"{path}/images")):
            need(UUID.fullmatch(name), "an image is called", name)
            self.images[name] = self.read_image(name)

    def judge_domain(self):
        md, path = self.md, self.path
        need(sorted(md) == sorted(DOMAIN_4 + (["ALIGNMENT", "BLOCK_SIZE"] if self.version == 5 else [])),
             sorted(md))
        need(os.path.basename(os.path.realpath(path)) == md["SDUUID"], "the folder is not called", md["SDUUID"])
        need(md["TYPE"] in ("LOCALFS", "NFS"), md["TYPE"])
        sizes = {"ids": 0, "leases": 0, "inbox": 16 << 20, "outbox": 16 << 20}
        files = set(sizes) | {"metadata"} | ({"xleases"} if md["TYPE"] == "NFS" and self.version > 3 else set())
        need(set(os.listdir(f"{path}/dom_md")) == files, sorted(os.listdir(f"{path}/dom_md")))
        for name, size in sizes.items():
            st = os.stat(f"{path}/dom_md/{name}")
            need(st.st_size == size and stat.S_IMODE(st.st_mode) == 0o660, name, st.st_size, oct(st.st_mode))
        need(sorted(os.listdir(path)) == ["dom_md", "images"], sorted(os.listdir(path)))

    def read_image(self, image):
        folder = f"{self.path}/images/{image}"
        names = set(os.listdir(folder))
        volumes = {}
        for name in sorted(names):
            need(name.split(".")[0] + ".meta" in names and name.split(".")[0] in names, image, "has only", name)
            if UUID.fullmatch(name):
                volumes[name] = self.read_one(folder, image, name)
            else:
                need(name[36:] == ".meta" or (self.marks and name[36:] == ".intent"), "a file is called", name)
        need(volumes, image, "is empty")
        self.judge_chain(image, volumes)
        return volumes

    def read_one(self, folder, image, name):
        with open(f"{folder}/{name}.meta", "rb") as f:
            meta = read_volume(f.read(), self.version)
        st = os.stat(f"{folder}/{name}")
        need(stat.S_IMODE(st.st_mode) == 0o660, name, oct(st.st_mode))
        need(meta["DOMAIN"] == self.md["SDUUID"], name, "is of domain", meta["DOMAIN"])
        if meta["IMAGE"] != image:
            need(meta["VOLTYPE"] == "SHARED", name, "is of image", meta["IMAGE"])
            for suffix in ("", ".meta"):
                need(os.path.samefile(f"{folder}/{name}{suffix}",
                                      f"{self.path}/images/{meta['IMAGE']}/{name}{suffix}"), name, "is no link")
        if meta["FORMAT"] == "RAW":
            need(st.st_size == meta["capacity"], name, "has", st.st_size, "bytes, not", meta["capacity"])
            return meta
        size, backing, backing_format, version = read_header(f"{folder}/{name}")
        need(size == meta["capacity"], name, "has", size, "bytes, not", meta["capacity"])
        need(version == (3 if self.version >= 4 else 2) or (version == 2 and self.upgraded), name, "is of version",
             version)
        need(backing == ("" if meta["PUUID"] == BLANK else meta["PUUID"]), name, "lies on", backing)
        meta["backing_format"] = backing_format
        return meta

    def judge_chain(self, image, volumes):
        parents = [meta["PUUID"] for meta in volumes.values()]
        for name, meta in volumes.items():
            parent = volumes.get(meta["PUUID"])
            need(parent or meta["PUUID"] == BLANK, name, "has no parent", meta["PUUID"])
            need(not parent or parent["capacity"] <= meta["capacity"], name, "is smaller than its parent")
            if parent:
                need(meta["backing_format"] == {"RAW": "raw", "COW": "qcow2"}[parent["FORMAT"]], name,
                     meta["backing_format"])
            children = parents.count(name)
            need(children <= 1, name, "has", children, "children")
            if meta["VOLTYPE"] != "SHARED":
                need(meta["VOLTYPE"] == ("INTERNAL" if children else "LEAF"), name, "is", meta["VOLTYPE"],
                     "and has",
                     children, "children")
        need(sum(1 for name in volumes if name not in parents) == 1, image, "has not one leaf")

    def chain(self, image):
        """UUIDs from the leaf down."""
        volumes = self.images[image]
        parents = {meta["PUUID"] for meta in volumes.values()}
        found = [name for name in volumes if name not in parents]
        while volumes[found[-1]]["PUUID"] != BLANK:
            found.append(volumes[found[-1]]["PUUID"])
        return found


def xleases(lockspace, mtime):
    """A formatted index of external leases without any."""
    head = struct.pack(">i1x4s1x48s1x10s1xc440x1s", 0x12152016, b"0001", lockspace.encode(), b"%010d" % mtime,
                       b"-",
                       b"\n")
    record = struct.pack(">48s1x11s1xcc1s", b"", b"%011d" % 0, b"-", b"-", b"\n")
    need(len(head) == 512 and len(record) == 64, len(head), len(record))
    return head + record * 3960
