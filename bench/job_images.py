# SPDX-License-Identifier: LGPL-2.1-or-later
"""The images that bench/jobs works on: each made when a line needs it, removed after the last one that does."""
import array
import fcntl
import os
import random
import shutil
import struct
import subprocess

from work import WorkError, forget

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40
CLUSTER = 64 * KIB
PER_TABLE = CLUSTER // 8
FICLONE = 0x40049409
CHAIN, DEEP = 20, 200 # layers


class Skip(Exception):
    """What a line needs is not to be had here; says what."""


class Sizes:
    """All sizes, divided by `scale`, a power of two."""

    def __init__(self, scale):
        self.scale = scale
        self.main = 8 * GIB // scale         # the image of most lines, half of it data in pieces of 1 MiB
        self.data = self.main // 2
        self.base = 20 * GIB // scale        # below self.layer of data in pieces of 1 MiB
        self.layer = 4 * GIB // scale
        self.sparse = TIB // scale           # of it self.data in pieces of 64 KiB
        self.huge = 8 * TIB // scale         # with self.clusters mapped, or all
        self.clusters = MIB // scale
        self.deep = max(GIB // scale, 256 * MIB) # so that the layers above hide little of it
        self.tables = max(TIB // scale, TIB // 2) # with nothing but metadata: not all of it a process's start


def text(size):
    for unit, name in ((TIB, "TiB"), (GIB, "GiB"), (MIB, "MiB")):
        if size >= unit:
            return f"{size / unit:g} {name}"
    return f"{size / KIB:g} KiB"


def pool(seed=1, size=16 * MIB):
    """Bytes to write: words, records that differ a little, noise. They shrink to a half; no 4 KiB are zeros."""
    r = random.Random(seed)
    words = [bytes(r.choices(b"abcdefghijklmnoprstuvw ", k=r.randint(3, 10))) + b" " for _ in range(2000)]
    prose = b"".join(r.choices(words, k=300000))
    parts = []
    while size > 0:
        kind, length = r.randrange(3), 16 * KIB
        if kind == 0:
            at = r.randrange(len(prose) - length)
            parts.append(prose[at:at + length])
        elif kind == 1:
            record = r.randbytes(96)
            parts.append(b"".join(record + i.to_bytes(4, "big") for i in range(length // 100 + 1))[:length])
        else:
            parts.append(r.randbytes(length))
        size -= length
    return b"".join(parts)


def write_pieces(path, size, piece, count, data, seed=2):
    """A raw image with `count` pieces of data, one at a place of its own in each equal part of it."""
    r, step = random.Random(seed), size // count
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        os.ftruncate(fd, size)
        for i in range(count):
            at = i * step + CLUSTER * r.randrange((step - piece) // CLUSTER + 1)
            start = 4 * KIB * r.randrange((len(data) - piece) // (4 * KIB) + 1)
            os.pwrite(fd, memoryview(data)[start:start + piece], at)
        os.fsync(fd)
    finally:
        os.close(fd)


def in_clusters(count, unit=CLUSTER):
    return -(-count // unit)


def big_endian(values):
    values = array.array("Q", values)
    values.byteswap()
    return values.tobytes()


def header(size, tables, places, refcount_clusters, backing):
    """Version 3, clusters of 64 KiB; `places`: of the L1 table and the refcount table, in clusters."""
    name = backing.encode() if backing else b""
    extension = struct.pack(">II8s", 0xe2792aca, 5, b"qcow2") if backing else b""
    at = 104 + len(extension) + 8
    return struct.pack(">4sIQIIQIIQQIIQQQQII", b"QFI\xfb", 3, at if name else 0, len(name), 16, size, 0, tables,
                       places[0] * CLUSTER, places[1] * CLUSTER, refcount_clusters, 0, 0, 0, 0, 0, 4,
                       104) + extension + bytes(8) + name


def write_mapped(path, size, clusters, backing=None, data=None):
    """A qcow2 image with these guest clusters mapped, in ascending order: to holes at the end of the file, or to
    `data`, a cluster each."""
    tables = in_clusters(size // CLUSTER, PER_TABLE)
    l1, used = in_clusters(8 * tables), clusters[-1] // PER_TABLE + 1
    fixed = 1 + l1 + used + len(clusters)
    blocks = refcount_table = 1
    while blocks * CLUSTER // 2 < fixed + blocks + refcount_table:
        blocks = in_clusters(fixed + blocks + refcount_table, CLUSTER // 2)
        refcount_table = in_clusters(8 * blocks)
    at_table = 1 + l1
    at_blocks = at_table + refcount_table
    at_l2 = at_blocks + blocks
    at_data = at_l2 + used
    with open(path, "wb") as f:
        f.write(header(size, tables, (1, at_table), refcount_table, backing))
        f.seek(CLUSTER)
        f.write(big_endian([(at_l2 + i) * CLUSTER | 1 << 63 for i in range(used)]))
        f.seek(at_table * CLUSTER)
        f.write(big_endian([(at_blocks + i) * CLUSTER for i in range(blocks)]))
        f.seek(at_blocks * CLUSTER)
        f.write(b"\0\1" * (at_data + len(clusters)))
        done = 0
        for table in range(used):
            entries = array.array("Q", bytes(CLUSTER))
            while done < len(clusters) and clusters[done] < (table + 1) * PER_TABLE:
                entries[clusters[done] % PER_TABLE] = (at_data + done) * CLUSTER | 1 << 63
                done += 1
            f.seek((at_l2 + table) * CLUSTER)
            f.write(big_endian(entries))
        if data:
            f.seek(at_data * CLUSTER)
            f.write(data)
        f.truncate((at_data + len(clusters)) * CLUSTER)


class Images:
    """Their names, what each takes at most (bytes), and how each is made."""

    def __init__(self, work, sizes):
        self.work, self.sizes = work, sizes
        self.there = set()
        self.data = None
        self.mounted = None
        s = sizes
        self.space = {
            "main.raw": s.data, "main.qcow2": s.data, "sparse.raw": s.data, "sparse.qcow2": s.data,
            "chain": s.data + CHAIN * MIB, "zlib.qcow2": s.data, "zstd.qcow2": s.data, "cloning": s.data,
            "base": s.base + s.layer,
            "mapped.qcow2": s.huge // 8192 + 64 * MIB, "metadata.qcow2": s.tables // 4096,
            "extents.qcow2": s.clusters * 16 + 64 * MIB, "deep": s.deep + 320 * MIB, "written": s.data}

    def need(self, name):
        """Make it if it is not there."""
        if name not in self.there:
            getattr(self, "make_" + name.replace(".", "_"))()
            self.there.add(name)
            self.work.settle()

    def drop(self, names):
        for name in self.there & set(names):
            self.remove_image(name)
            self.there.discard(name)

    def remove_image(self, name):
        if name == "cloning":
            self.leave()
        elif name in ("chain", "base", "deep"):
            for path in self.work.folder.glob(f"{name}-*.qcow2"):
                path.unlink()
        else:
            self.work.remove(name)

    def tool(self, *words):
        return self.work.run(self.work.tool, *words)

    # ---- one each -------------------------------------------------------------------------------------------

    def content(self):
        self.data = self.data or pool()
        return self.data

    def make_main_raw(self):
        write_pieces(self.work.path("main.raw"), self.sizes.main, MIB, self.sizes.data // MIB, self.content())

    def make_main_qcow2(self):
        self.need("main.raw")
        self.tool("convert", "-q", "-f", "raw", "-O", "qcow2", "main.raw", "main.qcow2")

    def make_written(self):
        """Data from end to end, for fio."""
        with open(self.work.path("written"), "wb") as f:
            left = self.sizes.data
            while left > 0:
                left -= f.write(self.content()[:left])

    def make_sparse_raw(self):
        write_pieces(self.work.path("sparse.raw"), self.sizes.sparse, CLUSTER, self.sizes.data // CLUSTER,
                     self.content())

    def make_sparse_qcow2(self):
        self.need("sparse.raw")
        self.tool("convert", "-q", "-f", "raw", "-O", "qcow2", "sparse.raw", "sparse.qcow2")

    def layered(self, name, layers, size):
        """Empty layers, one on the other; yields each before the next is made."""
        for i in range(layers):
            below = ["-b", f"{name}-{i - 1}.qcow2", "-F", "qcow2"] if i else []
            self.tool("create", "-q", "-f", "qcow2", *below, f"{name}-{i}.qcow2", size)
            yield i, f"{name}-{i}.qcow2"

    def write(self, path, *words):
        self.tool("bench", "-f", "qcow2", "--rw", "write", *words, path)

    def make_chain(self):
        """Each layer has every 40th cluster, so that half is data: what a row of snapshots of a busy disk has."""
        step = 2 * CHAIN * CLUSTER
        for i, path in self.layered("chain", CHAIN, self.sizes.main):
            self.write(path, "--bs", CLUSTER, "--pattern", f"step:{step}", "--offset", 2 * i * CLUSTER,
                       "--count", max(self.sizes.main // step, 1), "--seed", i + 1)

    def compressed(self, kind):
        self.need("main.raw")
        self.tool("convert", "-q", "-c", "-f", "raw", "-O", "qcow2", "-o", f"compression_type={kind}", "main.raw",
                  f"{kind}.qcow2")

    def make_zlib_qcow2(self):
        self.compressed("zlib")

    def make_zstd_qcow2(self):
        self.compressed("zstd")

    def make_base(self):
        """base-0 full of data, base-1 above it with pieces of 1 MiB."""
        for i, path in self.layered("base", 2, self.sizes.base):
            count = self.sizes.layer // MIB if i else self.sizes.base // MIB
            self.write(path, "--bs", MIB, "--pattern", f"step:{5 * MIB if i else MIB}", "--count", count,
                       "--seed", i + 1)

    def make_mapped_qcow2(self):
        """Mapped clusters all over the image, so that all of its tables are there."""
        all_of_it = self.sizes.huge // CLUSTER
        write_mapped(self.work.path("mapped.qcow2"), self.sizes.huge,
                     range(0, all_of_it, all_of_it // self.sizes.clusters))

    def make_extents_qcow2(self):
        """Every second cluster is mapped: as many extents as there are clusters."""
        count = self.sizes.clusters
        write_mapped(self.work.path("extents.qcow2"), count * CLUSTER, range(0, count, 2))

    def make_metadata_qcow2(self):
        self.tool("create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", "metadata.qcow2",
                  self.sizes.tables)

    def make_deep(self):
        """deep-0 full of data; each of the others above has a few clusters."""
        r, size = random.Random(3), self.sizes.deep
        self.tool("create", "-q", "-f", "qcow2", "deep-0.qcow2", size)
        self.write("deep-0.qcow2", "--bs", MIB, "--count", size // MIB)
        for i in range(1, DEEP + 1):
            clusters = sorted(r.sample(range(size // CLUSTER), 4))
            write_mapped(self.work.path(f"deep-{i}.qcow2"), size, clusters, f"deep-{i - 1}.qcow2",
                         self.content()[i * CLUSTER:(i + len(clusters)) * CLUSTER])

    # ---- a file system whose files share blocks -------------------------------------------------------------

    def make_cloning(self):
        """self.clone: a folder where files can share blocks, with source.raw in it."""
        self.clone = self.work.folder if self.can_clone(self.work.folder) else self.mount()
        write_pieces(self.clone / "source.raw", self.sizes.main, MIB, self.sizes.data // MIB, self.content())

    def can_clone(self, folder):
        one, other = folder / "one", folder / "other"
        try:
            one.write_bytes(bytes(4096))
            with open(one, "rb") as source, open(other, "wb") as target:
                fcntl.ioctl(target, FICLONE, source.fileno())
            return True
        except OSError:
            return False
        finally:
            one.unlink(missing_ok=True)
            other.unlink(missing_ok=True)

    def mount(self):
        """XFS, or else btrfs, in a file."""
        if os.geteuid() != 0:
            raise Skip("files here share no blocks, and only root can mount a file system where they do")
        path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
        makers = [name for name in ("mkfs.xfs", "mkfs.btrfs") if shutil.which(name, path=path)]
        if not makers:
            raise Skip("files here share no blocks, and there is neither mkfs.xfs nor mkfs.btrfs")
        image, folder = self.work.path("cloning.img"), self.work.path("cloning")
        folder.mkdir(exist_ok=True)
        for maker in makers:
            image.unlink(missing_ok=True)
            with open(image, "wb") as f:
                f.truncate(2 * self.sizes.data + GIB)
            try:
                self.work.run(shutil.which(maker, path=path), "-q", image)
                self.mounted = folder
                self.work.run("mount", "-o", "loop", image, folder)
                return folder
            except (WorkError, OSError) as error:
                self.mounted, why = None, error
        raise Skip(f"no file system can be made and mounted in a file: {str(why).splitlines()[-1]}")

    def leave(self):
        """Unmount what was mounted, in any state of affairs."""
        if self.mounted:
            done = subprocess.run(["umount", self.mounted], capture_output=True, check=False)
            if done.returncode != 0:
                subprocess.run(["umount", "-l", self.mounted], capture_output=True, check=False)
            self.mounted = None
        else:
            self.work.remove("source.raw")
        self.work.remove("cloning.img")


def cold(work, *names):
    for name in names:
        forget(work.path(name))
