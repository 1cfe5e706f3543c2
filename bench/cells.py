# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is measured: volumes, sides, and the cells of the table."""
import dataclasses

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


@dataclasses.dataclass(frozen=True)
class Volume:
    """A kind of volume."""
    name: str
    format: str
    prealloc: str


RAW_FULL = Volume("raw-prealloc", "raw", "full")
RAW_SPARSE = Volume("raw-sparse", "raw", "off")
RAW_DISCARDED = Volume("raw-discarded", "raw", "off")  # a block device whose blocks were discarded
QCOW2_FULL = Volume("qcow2-prealloc", "qcow2", "full")
QCOW2_SPARSE = Volume("qcow2-sparse", "qcow2", "off")


@dataclasses.dataclass(frozen=True)
class Side:
    """Who does the work, on which volume."""
    engine: str  # "io_uring": fio's own, on the plain file; "vdisk": libvdisk; "qemu": qemu-img bench
    volume: Volume

    @property
    def name(self):
        return f"{self.engine} {self.volume.name}"


@dataclasses.dataclass(frozen=True)
class Pattern:
    """
    One line of work. touch: "read", "rewrite", or "first" (first touch: a fresh volume, written once). A block
    device has no sparse raw volume: raw is the device.
    """
    order: str  # "seq" or "rand"
    write: bool
    block: int
    depth: int
    touch: str
    device: bool = False

    @property
    def name(self):
        block = f"{self.block // MIB}M" if self.block >= MIB else f"{self.block // KIB}k"
        return f"{self.order} {'write' if self.write else 'read'} {block} qd{self.depth} {self.touch}"

    @property
    def key(self):
        """The ones that the acceptance figures are taken from: more rounds."""
        return self.order == "rand" and self.block == 4 * KIB and self.depth == 32

    @property
    def sides(self):
        if self.touch == "first":
            raw = RAW_DISCARDED if self.device else RAW_SPARSE
            sides = [Side("io_uring", raw), Side("vdisk", raw), Side("vdisk", QCOW2_SPARSE)]
        else:
            sides = [Side("io_uring", RAW_FULL), Side("vdisk", RAW_FULL), Side("vdisk", QCOW2_FULL),
                     Side("vdisk", QCOW2_SPARSE)]
            sides += [] if self.device else [Side("io_uring", RAW_SPARSE), Side("vdisk", RAW_SPARSE)]
        return sides + (self.peers if self.qemu_can else [])

    @property
    def peers(self):
        if self.touch == "first":
            return [Side("qemu", QCOW2_SPARSE)]
        return [Side("qemu", RAW_FULL), Side("qemu", QCOW2_FULL)]

    @property
    def absent(self):
        """(side, why) of those that cannot be, where one would look for them."""
        found = [] if self.qemu_can else [(side, "qemu-img bench has no random work") for side in self.peers]
        if self.touch == "first":
            found += [(Side("vdisk", volume), "nothing of it is untouched") for volume in (RAW_FULL, QCOW2_FULL)]
        elif self.device:
            found += [(Side("vdisk", RAW_SPARSE), "a block device has no holes")]
        return found

    def limit(self, side):
        """The side that `side` is held to: fio's io_uring engine on the same file."""
        own = Side("io_uring", side.volume)
        return own if own in self.sides else self.sides[0]

    @property
    def qemu_can(self):
        """qemu-img bench walks the image with a fixed step: sequential work only."""
        return self.order == "seq"


def patterns(device=False):
    """Every combination that makes sense, the acceptance figures' first."""
    found = []
    for touch in ("read", "rewrite", "first"):
        for order in ("rand", "seq"):
            for block in (4 * KIB, MIB):
                for depth in (1, 32):
                    found.append(Pattern(order, touch != "read", block, depth, touch, device))
    return sorted(found, key=lambda p: not p.key)


@dataclasses.dataclass
class Sample:
    """One measurement."""
    iops: float
    bytes_per_s: float
    p99_us: float | None      # qemu-img bench does not say
    cpu_us: float | None      # user and system time of the process per I/O
    seconds: float
