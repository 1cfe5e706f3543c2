# SPDX-License-Identifier: LGPL-2.1-or-later
"""The lines of bench/jobs: what is done, by whom, and what is asked of it."""
import dataclasses
import shutil

from job_images import CHAIN, DEEP, MIB, cold, text
from judge import Figure
from page import IN_ALL, OF_QEMU
from work import recall

DIRECT = ("-t", "none", "-T", "none")
QEMU_COPY = ("convert", *DIRECT, "-m", 16, "-W")
NEAR = 0.9          # of what the device can, which is measured a moment earlier or later
MEMORY = 256 * MIB  # any job's bound
TABLE_SHARE = 8192  # bytes of a disk for each byte of its L2 tables, whose clusters have 64 KiB


@dataclasses.dataclass
class Line:
    name: str
    sides: dict         # functions that give samples, by name; "ours" is the first
    figures: list
    images: tuple = ()  # what must be there
    target: int = 0     # bytes that a side writes at most
    short: bool = False # in the report of bench/run
    of: str = "seconds" # what the table shows of a side
    bound: int = MEMORY


# ---- figures ------------------------------------------------------------------------------------------------

def speed(bound, other="QEMU", what=OF_QEMU, instead=None):
    return Figure(what, lambda r: r[other]["seconds"] / r["ours"]["seconds"], bound, instead=instead)


def processor(bound, other="QEMU", what="of QEMU's CPU time"):
    return Figure(what, lambda r: r["ours"]["cpu"] / max(r[other]["cpu"], 1e-4), bound, at_most=True)


def length(bound):
    return Figure("of QEMU's size", lambda r: r["ours"]["size"] / r["QEMU"]["size"], bound, at_most=True)


class Maker:
    """Makes the lines for one folder, tools and sizes."""

    def __init__(self, work, images):
        self.w, self.images, self.s = work, images, images.sizes
        self.fio = shutil.which("fio") is not None

    # ---- sides ----------------------------------------------------------------------------------------------

    def sides(self, ours, theirs, target=None, before=None):
        """Both tools' commands, each into a new `target`, after `before`; a sample has the target's size."""
        def side(run, words):
            def measure():
                if target:
                    self.w.remove(target)
                self.w.settle()
                if before:
                    before()
                sample = run(*words)
                if target:
                    sample["size"] = self.w.path(target).stat().st_size
                    self.w.remove(target)
                return sample
            return measure
        return {"ours": side(self.w.ours, ours), "QEMU": side(self.w.theirs, theirs)}

    def copying(self, source, source_format, target_format, *options):
        """convert by both."""
        how = ("-f", source_format, "-O", target_format, *options, source, "target")
        return self.sides(("convert", "-q", *DIRECT, *how), (*QEMU_COPY, *how), target="target")

    def fio_copy(self, source="written"):
        """As much data read and written at once, in plain files; of another source all there is of it."""
        def measure():
            self.w.remove("limit")
            self.w.settle()
            size = min(self.w.path(source).stat().st_size, self.s.data)
            sample = self.w.fio([f"--filename={source}", f"--size={size}", "--rw=read"],
                                ["--filename=limit", f"--size={self.s.data}", "--rw=write", "--end_fsync=1"])
            self.w.remove("limit")
            return sample
        return measure

    def fio_layer(self, reads, writes):
        """As much as a layer has, read of each of these images and written to a file, at once."""
        def measure():
            self.w.remove("limit")
            self.w.settle()
            sample = self.w.fio(*([f"--filename={name}", f"--size={self.s.layer}", "--rw=read"] for name in reads),
                                [f"--filename={writes}", f"--size={self.s.layer}", "--rw=write", "--end_fsync=1"])
            self.w.remove("limit")
            return sample
        return measure

    def fio_read_two(self):
        """Both files' data read at once."""
        return lambda: self.w.fio(["--filename=written", f"--size={self.s.data}", "--rw=read"],
                                  ["--filename=main.qcow2", f"--size={self.s.data}", "--rw=read"])

    def fio_write(self, size):
        def measure():
            self.w.remove("limit")
            self.w.settle()
            sample = self.w.fio(["--filename=limit", f"--size={size}", "--rw=write", "--end_fsync=1"])
            self.w.remove("limit")
            return sample
        return measure

    def near_limit(self, sides, side):
        """The figure's other way; adds the side that it takes. None without fio."""
        if not self.fio:
            return None
        sides["fio"] = side
        return speed(NEAR, "fio", "of the device's speed, as fio shows it")

    def beside_device(self, sides, side):
        """A figure that is shown, not judged: a bound of QEMU's speed may be more than the device has."""
        if not self.fio:
            return []
        sides["fio"] = side
        return [speed(None, "fio", "of the device's speed, as fio shows it")]

    # ---- lines ----------------------------------------------------------------------------------------------

    def plain_copies(self):
        for source, target in (("raw", "qcow2"), ("qcow2", "raw")):
            sides = self.copying(f"main.{source}", source, target)
            limit = self.near_limit(sides, self.fio_copy())
            yield Line(f"convert {source} to {target}, {text(self.s.main)} half full", sides,
                       [speed(1.5, instead=limit), processor(0.5)],
                       (f"main.{source}", "written"), self.s.data, short=True)

    def other_copies(self):
        """What the device can is asked of these, too: five times QEMU's speed may be more than that."""
        s = self.s
        for source, target in (("raw", "qcow2"), ("qcow2", "raw")):
            sides = self.copying(f"sparse.{source}", source, target)
            limit = self.near_limit(sides, self.fio_copy())
            yield Line(f"convert {source} to {target}, {text(s.sparse)} with {text(s.data)} in pieces of 64 KiB",
                       sides, [speed(3, instead=limit)], (f"sparse.{source}", "written"), s.data)
        sides = self.copying(f"chain-{CHAIN - 1}.qcow2", "qcow2", "qcow2")
        limit = self.near_limit(sides, self.fio_copy())
        yield Line(f"convert a chain of {CHAIN} layers to qcow2, {text(s.main)} half full", sides,
                   [speed(5, instead=limit)], ("chain", "written"), s.data, short=True)
        for kind, bound in (("zlib", 5), ("zstd", 2)):
            yield Line(f"convert -c to {kind}, {text(s.data)} of data",
                       self.copying("main.raw", "raw", "qcow2", "-c", "-o", f"compression_type={kind}"),
                       [speed(bound), length(1.05)], ("main.raw",), s.data, short=kind == "zstd")
        for kind in ("zlib", "zstd"):
            sides = self.copying(f"{kind}.qcow2", "qcow2", "raw")
            figures = [speed(3)] + self.beside_device(sides, self.fio_copy(f"{kind}.qcow2"))
            yield Line(f"convert from {kind} to raw, {text(s.data)} of data", sides, figures, (f"{kind}.qcow2",),
                       s.data)

    def reflink(self):
        def measure():
            folder = self.images.clone
            (folder / "target").unlink(missing_ok=True)
            self.w.settle()
            return self.w.ours("convert", "-q", "-f", "raw", "-O", "raw", folder / "source.raw", folder / "target")
        yield Line(f"convert raw to raw by shared blocks (XFS, btrfs), {text(self.s.main)}", {"ours": measure},
                   [Figure(IN_ALL, lambda r: r["ours"]["seconds"] * 1000, 50, at_most=True)], ("cloning",))

    def layers(self):
        s = self.s
        def fresh():
            self.w.remove("top")
            self.w.run(self.w.tool, "create", "-q", "-f", "qcow2", "-b", "base-1.qcow2", "-F", "qcow2", "top")
            self.w.settle()
        how = ("rebase", "-f", "qcow2", *DIRECT, "-b", "base-0.qcow2", "-F", "qcow2", "top")
        of = f"{text(s.layer)} over {text(s.base)}, pieces of 1 MiB"
        # An empty image above the layer, put on the layer's base: what the layer has is written to it.
        # Both sides are read, and compared; what is written takes new space.
        sides = self.sides(how, how, before=fresh)
        limit = self.near_limit(sides, self.fio_layer(("base-1.qcow2", "base-0.qcow2"), "limit"))
        yield Line(f"rebase past a layer of {of}", sides, [speed(2, instead=limit)], ("base",), 2 * s.layer)
        # -d: the layer keeps what it has, and the next round has the same to do. What is written has its space.
        how = ("commit", "-q", "-d", "-f", "qcow2", "-t", "none", "base-1.qcow2")
        sides = self.sides(how, how)
        limit = self.near_limit(sides, self.fio_layer(("base-1.qcow2",), "written"))
        yield Line(f"commit -d of {of}", sides, [speed(2, instead=limit)], ("base", "written"), short=True)

    def reading(self):
        s = self.s
        how = ("compare", "-q", "-T", "none", "-f", "raw", "-F", "qcow2", "main.raw", "main.qcow2")
        sides = self.sides(how, how)
        limit = self.near_limit(sides, self.fio_read_two())
        yield Line(f"compare equal raw and qcow2, {text(s.main)} half full", sides, [speed(2, instead=limit)],
                   ("main.raw", "main.qcow2", "written"), short=True)

        def checksum():
            self.w.settle()
            return self.w.ours("checksum", "-q", "-f", "qcow2", "-T", "none", "main.qcow2")
        sides = {"ours": checksum, "loop": lambda: self.w.reference("blake2b", s.data)}
        if self.fio:
            sides["fio"] = lambda: self.w.fio(["--filename=written", f"--size={s.data}", "--rw=read"])
        others = [name for name in ("fio", "loop") if name in sides]
        figures = [Figure("of its limit: fio reading as much, or BLAKE2b in memory on all processors",
                          lambda r: max(r[name]["seconds"] for name in others) / r["ours"]["seconds"], NEAR)]
        figures += [speed(None, name, what) for name, what in
                    (("fio", "of the device's speed"), ("loop", "of the speed of that BLAKE2b")) if name in sides]
        yield Line(f"checksum, {text(s.main)} half full", sides, figures, ("main.qcow2", "written"), short=True)

    def metadata(self):
        s, w = self.s, self.w
        mapped = f"of {text(s.huge)} with {s.clusters:,} mapped clusters"
        for verb, options in (("check", ()), ("measure", ("-O", "qcow2"))):
            how = (verb, "-f", "qcow2", *options, "mapped.qcow2")
            for state, bound, before in (("cold", 3, lambda: cold(w, "mapped.qcow2")),
                                         ("warm", 5, lambda: recall(w.path("mapped.qcow2")))):
                yield Line(f"{verb} {mapped}, {state}", self.sides(how, how, before=before), [speed(bound)],
                           ("mapped.qcow2",), short=verb == "check" and state == "cold")
        for image, what in (("metadata.qcow2", f"{text(s.tables)} of preallocated metadata"),
                            ("extents.qcow2", f"{s.clusters:,} extents")):
            how = ("map", "-f", "qcow2", "--output", "json", image)
            yield Line(f"map --output json of {what}", self.sides(how, how), [speed(2)], (image,),
                       short=image == "metadata.qcow2")

    def creating(self):
        s = self.s
        how = ("create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", "target", s.tables)
        sides = self.sides(how, how, target="target")
        figures = [speed(20)] + self.beside_device(sides, self.fio_write(s.tables // TABLE_SHARE))
        yield Line(f"create preallocation=metadata, {text(s.tables)}", sides, figures, (), s.tables // 4096,
                   short=True)
        for kind in ("raw", "qcow2"):
            how = ("create", "-q", "-f", kind, "-o", "preallocation=full", "target", s.layer)
            sides = self.sides(how, how, target="target")
            limit = self.near_limit(sides, self.fio_write(s.layer))
            yield Line(f"create preallocation=full {kind}, {text(s.layer)}", sides,
                       ([limit] if limit else []) + [processor(0.2)], (), s.layer)
        for size in (s.tables, max(s.huge, 2 * s.tables)):
            how = ("create", "-q", "-f", "qcow2", "-o", "data_file=target.data,data_file_raw=on", "target", size)
            sides = self.sides(how, how, target="target", before=lambda: self.w.remove("target.data"))
            figures = [speed(20)] + self.beside_device(sides, self.fio_write(size // TABLE_SHARE))
            yield Line(f"create data_file_raw, {text(size)}", sides, figures, (), size // 4096)

    def depth(self):
        words = ("-f", "qcow2", "--rw", "randread", "--bs", "4K", "--depth", 32, "--runtime", 1, "--ramp", 2)
        sides = {"ours": lambda: self.w.bench(*words, f"deep-{DEEP}.qcow2"),
                 "depth 0": lambda: self.w.bench(*words, "deep-0.qcow2")}
        yield Line(f"random 4k reads qd32 at depth {DEEP}, {text(self.s.deep)}", sides, [
            Figure("of the requests a second at depth 0", lambda r: r["ours"]["iops"] / r["depth 0"]["iops"],
                   0.95),
            Figure("of the CPU time for each at depth 0",
                   lambda r: r["ours"]["cpu_us"] / r["depth 0"]["cpu_us"], 1.1, at_most=True)],
                   ("deep",), of="iops")

    def lines(self):
        """In an order that keeps few images at a time."""
        for part in (self.plain_copies, self.reading, self.other_copies, self.reflink, self.layers, self.metadata,
                     self.creating, self.depth):
            yield from part()


def space(lines, images):
    """What must be free for all lines, with each image gone after its last line."""
    most = 0
    for i, line in enumerate(lines):
        before = {name for other in lines[:i + 1] for name in with_sources(other.images)}
        later = {name for other in lines[i:] for name in with_sources(other.images)}
        most = max(most, sum(images.space[name] for name in before & later) + line.target)
    return most


SOURCES = {"main.qcow2": "main.raw", "zlib.qcow2": "main.raw", "zstd.qcow2": "main.raw",
           "sparse.qcow2": "sparse.raw"}


def with_sources(names):
    """The images, and those that they are made of."""
    return {*names, *(SOURCES[name] for name in names if name in SOURCES)}
