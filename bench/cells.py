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
QCOW2_FULL = Volume("qcow2-prealloc", "qcow2", "full")
QCOW2_SPARSE = Volume("qcow2-sparse", "qcow2", "off")
VOLUMES = [RAW_FULL, RAW_SPARSE, QCOW2_FULL, QCOW2_SPARSE]


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
    """One line of work. touch: "read", "rewrite", or "first" (first touch: a fresh volume, written once)."""
    order: str  # "seq" or "rand"
    write: bool
    block: int
    depth: int
    touch: str

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
            sides = [Side("io_uring", RAW_SPARSE), Side("vdisk", RAW_SPARSE), Side("vdisk", QCOW2_SPARSE)]
            peers = [Side("qemu", QCOW2_SPARSE)]
        else:
            sides = [Side("io_uring", RAW_FULL), Side("vdisk", RAW_FULL), Side("vdisk", QCOW2_FULL),
                     Side("vdisk", QCOW2_SPARSE), Side("io_uring", RAW_SPARSE), Side("vdisk", RAW_SPARSE)]
            peers = [Side("qemu", RAW_FULL), Side("qemu", QCOW2_FULL)]
        return sides + (peers if self.qemu_can else [])

    def limit(self, side):
        """The side that `side` is held to: fio's io_uring engine on the same file."""
        own = Side("io_uring", RAW_SPARSE)
        return own if side.volume == RAW_SPARSE else self.sides[0]

    @property
    def qemu_can(self):
        """qemu-img bench walks the image with a fixed step: sequential work only."""
        return self.order == "seq"


def patterns():
    """Every combination that makes sense, the acceptance figures' first."""
    found = []
    for touch in ("read", "rewrite", "first"):
        for order in ("rand", "seq"):
            for block in (4 * KIB, MIB):
                for depth in (1, 32):
                    found.append(Pattern(order, touch != "read", block, depth, touch))
    return sorted(found, key=lambda p: not p.key)


@dataclasses.dataclass
class Sample:
    """One measurement."""
    iops: float
    bytes_per_s: float
    p99_us: float | None      # qemu-img bench does not say
    cpu_us: float | None      # user and system time of the process per I/O
    seconds: float
