# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The volumes that are read and rewritten.

Where a file lies on the device can matter more than all that is measured here: on virtual disks, equal files made
one after the other differ by tens of percent in random writes, each of them steadily. So one file (or the block
device) holds three of the four kinds of volume in turn. Its bytes are a raw volume as they stand; the metadata of
the two qcow2 volumes was saved when they were made there, and putting it back makes the file that volume again,
with its data on the same blocks. Only the sparse raw volume needs a file of its own, and has fio's io_uring engine
on that file beside it.
"""
import json
import os
import pathlib

from cells import MIB, QCOW2_FULL, QCOW2_SPARSE, RAW_SPARSE


class Volumes:
    def __init__(self, loads, scratch, device, say):
        self.loads = loads
        self.device = device
        self.say = say
        self.shared = device or str(scratch / "shared.img")
        self.sparse = str(scratch / "sparse.raw")
        self.fresh = device or str(scratch / "fresh.img")
        self.metadata = {}  # volume -> [(offset, bytes)]
        self.current = None  # whose metadata is in the shared file

    # ---- read and rewrite ---------------------------------------------------------------------------------

    def prepare(self, used):
        """Make those of the volumes that are in `used`, and write all of each once."""
        length = 0
        for volume in (QCOW2_SPARSE, QCOW2_FULL):  # the last one lays the file out
            self.say(f"making {volume.name}")
            self.make_shared(volume)
            self.loads.fill(volume, self.name_of(volume))
            self.metadata[volume] = self.save_metadata()
            length = max(length, self.file_length())
        self.current = QCOW2_FULL
        if not self.device:
            self.extend(length)
        if RAW_SPARSE in used:
            self.say(f"making {RAW_SPARSE.name}")
            self.make_sparse()
            self.loads.fill(RAW_SPARSE, self.name_of(RAW_SPARSE))
        settle()

    def make_shared(self, volume):
        """In place of what is there."""
        self.loads.create(volume, self.shared)

    def make_sparse(self):
        self.loads.create(RAW_SPARSE, self.sparse)

    def name_of(self, volume):
        """That it is opened by, just after it was made."""
        return self.sparse if volume == RAW_SPARSE else self.shared

    def ready(self, side):
        """The path of the side's volume, with its metadata in place."""
        if side.volume == RAW_SPARSE:
            return self.sparse
        if side.volume in self.metadata and self.current != side.volume:
            fd = os.open(self.shared, os.O_WRONLY)
            try:
                for offset, data in self.metadata[side.volume]:
                    os.pwrite(fd, data, offset)
                os.fsync(fd)
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(fd)
        if side.volume in self.metadata:
            self.current = side.volume
        return self.shared

    def written(self, side, pattern):
        """A raw write has overwritten whatever metadata there was."""
        if pattern.write and side.volume not in self.metadata and side.volume != RAW_SPARSE:
            self.current = None

    def file_length(self):
        fd = os.open(self.shared, os.O_RDONLY)
        try:
            return os.lseek(fd, 0, os.SEEK_END)
        finally:
            os.close(fd)

    def extend(self, length):
        with open(self.shared, "r+b") as f:
            end = f.seek(0, os.SEEK_END)
            while end < length:
                end += f.write(bytes(min(MIB, length - end)))

    def save_metadata(self):
        """Everything in the image file that holds no guest data."""
        extents = json.loads(self.loads.run([self.loads.vdisk_io, "map", "-f", "qcow2", "--output", "json",
                                             self.shared]))
        data = sorted((e["offset"], e["offset"] + e["length"]) for e in extents if "offset" in e)
        if not data:
            raise RuntimeError(f"{self.shared}: no guest data is mapped")
        gaps, at = [], 0
        for start, end in data:
            if start > at:
                gaps.append((at, start))
            at = max(at, end)
        if not self.device and self.file_length() > at:
            gaps.append((at, self.file_length()))
        if sum(end - start for start, end in gaps) > 64 * MIB:
            raise RuntimeError(f"{self.shared}: more metadata than there can be")
        with open(self.shared, "rb") as f:
            return [(start, (f.seek(start), f.read(end - start))[1]) for start, end in gaps]

    # ---- first touch --------------------------------------------------------------------------------------

    def make_fresh(self, side):
        """A new volume that nothing has been written to."""
        if self.device:
            self.loads.run(["blkdiscard", "-f", "-l", str(self.loads.size), self.device])
            self.current = None
        else:
            pathlib.Path(self.fresh).unlink(missing_ok=True)
        self.loads.create(side.volume, self.fresh)
        settle()
        return self.fresh

    def drop_fresh(self):
        if not self.device:
            pathlib.Path(self.fresh).unlink(missing_ok=True)

    def remove(self):
        """All that lies in the scratch folder."""
        for path in {self.shared, self.sparse, self.fresh} - {self.device}:
            pathlib.Path(path).unlink(missing_ok=True)


def settle():
    """Let what was put off while making a volume not be paid by the measurement."""
    os.sync()
