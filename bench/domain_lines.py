# SPDX-License-Identifier: LGPL-2.1-or-later
"""The lines of bench/domain: what is done to storage domains in folders, beside whom, and what is asked of it."""
import os
import shutil

from job_images import MIB, Images, text
from job_lines import NEAR, Line, Maker, processor, speed
from judge import Figure
from page import IN_ALL
from thin_lines import GIB, Thin

ASKED = "QEMU, fallocate"
VOLUMES, PER_IMAGE = 1000, 5 # that are listed; in a chain


def within(bound):
    return Figure(IN_ALL, lambda r: r["ours"]["seconds"] * 1000, bound, at_most=True)


class DomainImages(Images):
    """Domains, each in a folder; and of plain images what QEMU needs for the same work."""

    def __init__(self, work, sizes):
        super().__init__(work, sizes)
        s = sizes
        self.volumes = max(min(VOLUMES, VOLUMES * 128 // s.scale) // PER_IMAGE, 1) * PER_IMAGE
        folder = 40 * MIB # of a domain; what is not its volumes' data
        self.space |= {"empty": folder, "large": folder, "many": folder + self.volumes * MIB // 2,
                       "layers": folder + s.base + s.layer}
        self.names = {}   # of the first volume of a domain: IMAGE/VOLUME

    def remove_image(self, name):
        path = self.work.path(name)
        if path.is_dir():
            shutil.rmtree(path)
        else:
            super().remove_image(name)

    def make_domain(self, name):
        self.work.path(name).mkdir()
        self.tool("domain", "create", name)

    def volume(self, domain, *words):
        """IMAGE/VOLUME of a new one."""
        return self.tool("volume", *words[:-1], domain, words[-1]).strip()

    def fill(self, name, count, step):
        """Pieces of 1 MiB, one in each `step` bytes."""
        self.tool("bench", "--rw", "write", "--bs", MIB, "--pattern", f"step:{step}", "--count", count,
                  f"volume:{name}")

    def settle(self, domain):
        for path in self.work.path(domain).rglob("*"):
            fd = os.open(path, os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

    # ---- one each -------------------------------------------------------------------------------------------

    def make_empty(self):
        self.make_domain("empty")

    def make_large(self):
        """One sparse qcow2 volume."""
        self.make_domain("large")
        self.names["large"] = self.volume("large", "create", "-f", "qcow2", self.sizes.sparse)

    def make_many(self):
        """Chains of a few volumes."""
        self.make_domain("many")
        for _ in range(self.volumes // PER_IMAGE):
            image = self.volume("many", "create", "-f", "qcow2", self.sizes.layer).partition("/")[0]
            for _ in range(PER_IMAGE - 1):
                self.tool("volume", "snapshot", f"many/{image}")

    def make_layers(self):
        """A qcow2 volume full of data."""
        self.make_domain("layers")
        self.names["layers"] = self.volume("layers", "create", "-f", "qcow2", self.sizes.base)
        self.fill(f"layers/{self.names['layers']}", self.sizes.base // MIB, MIB)
        self.settle("layers")

    def make_top(self):
        """Above that one, as base-1 is above base-0; its name."""
        image = self.names["layers"].partition("/")[0]
        name = self.tool("volume", "snapshot", f"layers/{image}").strip()
        self.fill(f"layers/{name}", self.sizes.layer // MIB, 5 * MIB)
        self.settle("layers")
        return f"layers/{name}"


class DomainMaker(Maker):
    """What is done and by whom, in the folder's domains."""

    def making(self, domain, *words):
        """A volume that is made, and is gone again before the next."""
        def measure():
            self.w.settle()
            sample = self.w.measured(self.w.tool, "volume", *words, keep=True)
            self.w.run(self.w.tool, "volume", "delete", f"{domain}/{sample.pop('out').strip()}")
            return sample
        return measure

    def looking(self, *words):
        """By a command that can start no other."""
        return {"ours": lambda: self.w.alone(self.w.tool, *words)}

    def preallocated(self):
        """QEMU has two ways: zeros that it writes, at the device's speed, and space that it asks for, as we do."""
        size = self.s.layer
        for kind in ("raw", "qcow2"):
            sides = {"ours": self.making("empty", "create", "-f", kind, "-a", "preallocated", "empty", size)}
            for name, way in (("QEMU", "full"), (ASKED, "falloc")):
                theirs = ("create", "-q", "-f", kind, "-o", f"preallocation={way}", "target", size)
                sides[name] = self.sides((), theirs, target="target")["QEMU"]
            limit = self.near_limit(sides, self.fio_write(size))
            yield Line(f"volume create preallocated {kind}, {text(size)}", sides,
                       ([limit] if limit else []) +
                       [processor(0.2), speed(None), speed(None, ASKED, "of QEMU's speed by fallocate"),
                        processor(None, ASKED, "of QEMU's CPU time by fallocate")], ("empty",), size)

    def sparse(self):
        size = self.s.sparse
        for kind in ("raw", "qcow2"):
            yield Line(f"volume create sparse {kind}, {text(size)}",
                       {"ours": self.making("empty", "create", "-f", kind, "empty", size)}, [within(10)],
                       ("empty",), MIB)

        def measure():
            image = self.images.names["large"].partition("/")[0]
            return self.making("large", "snapshot", f"large/{image}")()
        yield Line(f"volume snapshot, {text(size)}", {"ours": measure}, [within(20)], ("large",), MIB)

    def lists(self):
        count = f"{self.images.volumes:,} volumes"
        yield Line(f"volume list of {count}", self.looking("volume", "list", "many"), [within(50)], ("many",))
        yield Line(f"domain info with {count}", self.looking("domain", "info", "many"), [within(5)], ("many",))

    def merging(self):
        """As commit, which is held against the same: the layer has been made anew each time."""
        s = self.s

        def ours():
            return self.w.ours("volume", "merge", "-q", self.images.make_top())
        how = ("commit", "-q", "-d", "-f", "qcow2", "-t", "none", "base-1.qcow2")
        sides = {"ours": ours, "QEMU": self.sides((), how)["QEMU"]}
        limit = self.near_limit(sides, self.fio_layer(("base-1.qcow2",), "written"))
        yield Line(f"volume merge of {text(s.layer)} into {text(s.base)}, pieces of 1 MiB", sides,
                   [speed(2, instead=limit)], ("layers", "base", "written"), s.layer)

    def thin(self):
        if self.w.load:
            size = min(max(32 * GIB // self.s.scale, 384 * MIB), 8 * GIB)
            yield Thin(self.w, self.w.load, size, self.w.rounds).line()

    def lines(self):
        for part in (self.preallocated, self.sparse, self.lists, self.merging, self.thin):
            yield from part()
