# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A thin volume in a volume group under sustained writes: in the test machine of tests/vm, which has LVM, whatever
the host has. One boot of it gives several rounds; its times are no performance data but of each other.
"""
import json
import os
import pathlib
import re
import statistics
import subprocess

from job_images import MIB, Skip, text
from job_lines import NEAR, Line
from judge import Figure
from work import WorkError

HERE = pathlib.Path(__file__).resolve().parent
VM = HERE.parent / "tests" / "vm" / "run"
EXTENT, GIB = 128 * MIB, 1 << 30
BLOCK, DEPTH = 64 << 10, 16
LOST = "writes failed, or not found again"
SPEED = "of the speed of a raw volume with all its space, in the same group"
STALL = "the longest stall by what one lvextend took"


def read_rounds(out):
    """Samples, from what the machine has printed: a volume is written, and read; one with its space is written."""
    found = [(what, json.loads(told)) for what, told in re.findall(r"^@(thin|read|bare) (\{.*\})$", out, re.M)]
    samples = []
    for (first, written), (second, read), (third, bare) in zip(found[::3], found[1::3], found[2::3]):
        if (first, second, third) != ("thin", "read", "bare"):
            raise WorkError(f"what the machine tells is not understood: {out[-1000:]}")
        took = [e[3] for e in written["extensions"] if e[5] == 0]
        if not took:
            raise WorkError("the volume has not grown")
        samples.append(written | {"lost": read["lost"], "lvextend_ms": statistics.median(took),
                                  "bare": bare["seconds"], "failed": written["failed"] + bare["failed"]})
    if not samples or len(found) % 3:
        raise WorkError(f"the machine has told nothing: {out[-1000:]}")
    return samples


class Thin:
    """Rounds, `rounds` of them by each boot, of `size` bytes written."""

    def __init__(self, work, load, size, rounds):
        self.w, self.load, self.size, self.rounds = work, pathlib.Path(load).resolve(), size, rounds
        self.left = []

    def how(self):
        """In eight extensions or so: a chunk is to be one that this volume needs several of."""
        chunk = min(max(self.size // 8 // EXTENT * EXTENT, EXTENT), 2560 * MIB)
        return f"chunk={chunk},ahead=1"

    def boot(self):
        disk = self.w.path("thin.disk")
        with open(disk, "wb") as f:
            f.truncate(11 * GIB + 3 * self.size)
        command = [str(VM), "--timeout", "3000", "--disk", str(disk), "--put", str(self.w.tool), "--put",
                   str(self.load), "--put", str(HERE / "thin_guest.sh"), "sh", "thin_guest.sh", str(self.rounds),
                   str(self.size), str(BLOCK), str(DEPTH), self.how()]
        self.w.record(command)
        try:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        finally:
            os.unlink(disk)
        if done.returncode == 77:
            raise Skip(done.stdout.strip().splitlines()[-1])
        if done.returncode != 0:
            raise WorkError(f"the test machine: exit code {done.returncode}\n"
                            f"{(done.stdout + done.stderr)[-2000:]}")
        return read_rounds(done.stdout)

    def measure(self):
        if not self.left:
            self.left = self.boot()
        return self.left.pop(0)

    def line(self):
        figures = [Figure(LOST, lambda r: r["ours"]["failed"] + r["ours"]["lost"], 0, at_most=True),
                   Figure(STALL, lambda r: r["ours"]["stall_ms"] / r["ours"]["lvextend_ms"], 1, at_most=True),
                   Figure(SPEED, lambda r: r["ours"]["bare"] / r["ours"]["seconds"], NEAR)]
        return Line(f"thin volume in a volume group, {text(self.size)} written, in the test machine",
                    {"ours": self.measure}, figures, target=2 * self.size + GIB)
