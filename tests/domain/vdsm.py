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
        return parse_header(f.read(65536), path)


def parse_header(head, path):
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

    def has_lockspace(self):
        return os.path.getsize(f"{self.path}/dom_md/ids") > 0

    def judge_domain(self):
        md, path = self.md, self.path
        need(sorted(md) == sorted(DOMAIN_4 + (["ALIGNMENT", "BLOCK_SIZE"] if self.version == 5 else [])),
             sorted(md))
        need(os.path.basename(os.path.realpath(path)) == md["SDUUID"], "the folder is not called", md["SDUUID"])
        need(md["TYPE"] in ("LOCALFS", "NFS"), md["TYPE"])
        used = self.has_lockspace()  # and a lease of the domain's own
        need(not used or md["TYPE"] == "NFS", "a local domain has a lockspace")
        sizes = {"ids": used << 20, "leases": used << 21, "inbox": 16 << 20, "outbox": 16 << 20}
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
                need(name[36:] == ".meta" or (self.marks and name[36:] in (".intent", ".wipe")) or
                     (self.has_lockspace() and name[36:] == ".lease"), "a file is called", name)
        for name in volumes if self.has_lockspace() else ():
            st = os.stat(f"{folder}/{name}.lease")
            need(st.st_size == 1 << 20 and stat.S_IMODE(st.st_mode) == 0o660, "the lease of", name, st.st_size)
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


SPECIALS = {"metadata": 128, "ids": 128, "inbox": 128, "outbox": 128, "leases": 2048, "xleases": 1024,
            "master": 1024}  # MiB
EXTENT = 128 << 20
BLOCK_5 = [key for key in DOMAIN_4 if key != "REMOTE_PATH"] + ["ALIGNMENT", "BLOCK_SIZE", "VGUUID"]


def decode_tag(text):
    return re.sub(r"&(\d+)&", lambda match: chr(int(match.group(1))), text)


class BlockDomain:
    """A domain of version 5 in a volume group: from what lvm reports of it, and the disks, {device: path}."""

    extent = EXTENT

    def __init__(self, report, disks, marks=False):
        groups = [part for part in report["report"] if part.get("vg")]
        need(len(groups) == 1, len(groups), "groups")
        self.group, self.disks, self.marks = groups[0], disks, marks
        self.vg = self.group["vg"][0]
        self.lvs = {lv["lv_name"]: lv for lv in self.group["lv"]}
        self.starts = {pv["pv_name"]: int(pv["pe_start"]) for pv in self.group["pv"]}
        self.judge_domain()
        self.judge_specials()
        self.volumes, self.images, slots = {}, {}, []
        for name, lv in self.lvs.items():
            if name in SPECIALS:
                continue
            meta = self.read_one(name, lv, slots)
            self.volumes[name] = meta
            self.images.setdefault(meta["IMAGE"], {})[name] = meta
        need(len(set(slots)) == len(slots), "slots are taken twice:", slots)
        for image, volumes in self.images.items():
            self.judge_chain(image, volumes)

    def read(self, name, offset, length):
        """Bytes of a volume that lie in one segment."""
        for seg in self.group["seg"]:
            start, size = int(seg["seg_start"]), int(seg["seg_size"])
            if seg["lv_name"] != name or not start <= offset < start + size:
                continue
            device, extent = re.fullmatch(r"(.*)\((\d+)\)", seg["devices"]).groups()
            with open(self.disks[device], "rb") as f:
                f.seek(self.starts[device] + int(extent) * self.extent + offset - start)
                return f.read(length)
        raise Wrong(f"{name} has no byte {offset}")

    def judge_domain(self):
        vg, tags = self.vg, self.vg["vg_tags"].split(",")
        need("RHAT_storage_domain" in tags and "RHAT_storage_domain_UNREADY" not in tags, tags)
        need(int(vg["vg_extent_size"]) == self.extent, vg["vg_extent_size"])
        lines = sorted(decode_tag(tag[4:]) for tag in tags if tag.startswith("MDT_"))
        need(len(lines) == len(tags) - 1, "tags of the group are", tags)
        for tag in tags:
            need(re.fullmatch(r"[a-zA-Z0-9_+.\-/=!:#&]+", tag), tag)
        sums = [line for line in lines if line.startswith("_SHA_CKSUM=")]
        body = [line for line in lines if not line.startswith("_SHA_CKSUM=")]
        seal = hashlib.sha1("".join(body).encode("ascii", "xmlcharrefreplace")).hexdigest()
        need(sums == ["_SHA_CKSUM=" + seal], sums, "is not", seal)
        md = self.md = dict(line.split("=", 1) for line in body)
        pvs = self.group["pv"]
        need(sorted(md) == sorted(BLOCK_5 + [f"PV{i}" for i in range(len(pvs))]), sorted(md))
        need(md["SDUUID"] == vg["vg_name"] and md["VGUUID"] == vg["vg_uuid"], md["SDUUID"], md["VGUUID"])
        need(md["VERSION"] == "5" and md["TYPE"] in ("FCP", "ISCSI"), md["VERSION"], md["TYPE"])
        need(md["BLOCK_SIZE"] == "512" and md["ALIGNMENT"] == str(1 << 20), md)
        offset = 0
        for i, pv in enumerate(pvs):
            need(md[f"PV{i}"] == f"pv:{os.path.basename(pv['pv_name'])},uuid:{pv['pv_uuid']},pestart:0,"
                 f"pecount:{pv['pv_pe_count']},mapoffset:{offset}", md[f"PV{i}"])
            need(int(pv["pe_start"]) >= 128 << 20, "the metadata area is small:", pv["pe_start"])
            need((int(pv["pv_mda_used_count"]) == 2) == (i == 0), "copies in use:", pv["pv_mda_used_count"])
            offset += int(pv["pv_pe_count"])

    def judge_specials(self):
        for name, mib in SPECIALS.items():
            need(name in self.lvs, "there is no", name)
            need(int(self.lvs[name]["lv_size"]) == mib << 20, name, self.lvs[name]["lv_size"])
        first = [seg for seg in self.group["seg"] if seg["lv_name"] == "metadata"]
        need(len(first) == 1 and first[0]["devices"] == self.group["pv"][0]["pv_name"] + "(0)", first)
        index = self.read("xleases", 1 << 20, 62 * 4096)
        need(index == xleases(self.md["SDUUID"], int(index[59:69])), "the index of leases is another")
        need(self.read("master", 1024 + 56, 2) == b"\x53\xef", "master has no ext3")
        for name in ("inbox", "outbox"):
            need(not self.read(name, 0, 250 * 4096).strip(b"\0"), name, "is not zero")
        need(not self.read("ids", 0, 1 << 20).strip(b"\0"), "ids is not zero")

    def read_one(self, name, lv, slots):
        need(UUID.fullmatch(name), "a volume is called", name)
        tags, found = lv["lv_tags"].split(","), {}
        for tag in tags:
            match = re.fullmatch("(MD|IU|PU)_(.*)", tag)
            need(match or (self.marks and tag in ("VDISK_MERGE", "VDISK_WIPE")), name, "has the tag", tag)
            if match:
                found[match.group(1)] = match.group(2)
        need(sorted(found) == ["IU", "MD", "PU"], name, "has the tags", tags)
        slot = int(found["MD"])
        need(1 <= slot <= 1947, name, "has slot", slot)
        slots.append(slot)
        text = self.read("metadata", (1 << 20) + slot * 8192, 512)
        meta = read_volume(text.rstrip(b"\0"), 5)
        need(meta["DOMAIN"] == self.md["SDUUID"] and meta["IMAGE"] == found["IU"], name, meta, tags)
        need(meta["PUUID"] == (found["PU"] if found["PU"] != "BLANK" else BLANK), name, meta["PUUID"], tags)
        size = int(lv["lv_size"])
        need(size % self.extent == 0, name, "has", size)
        if meta["FORMAT"] == "RAW":
            need(meta["TYPE"] == "PREALLOCATED" and size == meta["capacity"], name, size, meta)
            return meta
        virtual, backing, meta["backing_format"], version = parse_header(self.read(name, 0, 65536), name)
        need(virtual == meta["capacity"] and version == 3, name, virtual, version)
        need(backing == ("" if meta["PUUID"] == BLANK else meta["PUUID"]), name, "lies on", backing)
        need(meta["TYPE"] == "SPARSE" or size > virtual, name, "has no room for its tables")
        return meta

    def judge_chain(self, image, volumes):
        parents = [meta["PUUID"] for meta in volumes.values()]
        for name, meta in volumes.items():
            parent = volumes.get(meta["PUUID"]) or self.volumes.get(meta["PUUID"])
            need(parent or meta["PUUID"] == BLANK, name, "has no parent", meta["PUUID"])
            need(not parent or parent["IMAGE"] == image or parent["VOLTYPE"] == "SHARED", name, "lies on", parent)
            need(not parent or parent["capacity"] <= meta["capacity"], name, "is smaller than its parent")
            if parent:
                need(meta["backing_format"] == {"RAW": "raw", "COW": "qcow2"}[parent["FORMAT"]], name, meta)
            children = parents.count(name)
            need(children <= 1, name, "has", children, "children")
            if meta["VOLTYPE"] != "SHARED":
                need(meta["VOLTYPE"] == ("INTERNAL" if children else "LEAF"), name, "is", meta["VOLTYPE"])
        need(sum(1 for name in volumes if name not in parents) == 1, image, "has not one leaf")


def xleases(lockspace, mtime):
    """A formatted index of external leases without any."""
    head = struct.pack(">i1x4s1x48s1x10s1xc440x1s", 0x12152016, b"0001", lockspace.encode(), b"%010d" % mtime,
                       b"-",
                       b"\n")
    record = struct.pack(">48s1x11s1xcc1s", b"", b"%011d" % 0, b"-", b"-", b"\n")
    need(len(head) == 512 and len(record) == 64, len(head), len(record))
    return head + record * 3960
