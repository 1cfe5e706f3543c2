# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The volumes that are read and rewritten, of a storage domain: each is made through the domain layer, and opened
by its name in it. In a folder, as without a domain, one file holds three of them in turn: it is moved to the one
whose turn it is, so that all of them lie on the same blocks.
"""
import os
import shutil

from cells import RAW_FULL, RAW_SPARSE
from volumes import Volumes, settle


class DomainVolumes(Volumes):
    def __init__(self, loads, scratch, say):
        super().__init__(loads, scratch, None, say)
        self.folder = scratch / "domain"
        self.folder.mkdir()
        self.domain = self.folder / loads.run([loads.vdisk_io, "domain", "create", self.folder]).strip()
        self.names = {}  # volume -> IMAGE/VOLUME

    def allocation(self, volume):
        return "sparse" if volume.prealloc == "off" else "preallocated"

    def make(self, volume, size):
        """Its IMAGE/VOLUME."""
        return self.loads.run([self.loads.vdisk_io, "volume", "create", "-f", volume.format, "-a",
                               self.allocation(volume), self.domain, str(size)]).strip()

    def file(self, name):
        return str(self.domain / "images" / name)

    def opened_as(self, side, name):
        """By fio's own engine and by QEMU the file."""
        return f"volume:{self.domain}/{name}" if side.engine == "vdisk" else self.file(name)

    # ---- read and rewrite ---------------------------------------------------------------------------------

    def make_shared(self, volume):
        if self.names:
            os.unlink(self.shared)  # what is left of the one before is its metadata
        self.names[volume] = self.make(volume, self.loads.size)
        self.shared = self.file(self.names[volume])

    def name_of(self, volume):
        return f"volume:{self.domain}/{self.names[volume]}"

    def make_sparse(self):
        self.names[RAW_SPARSE] = self.make(RAW_SPARSE, self.loads.size)
        self.sparse = self.file(self.names[RAW_SPARSE])

    def prepare(self, used):
        super().prepare(used)
        # As long as the file is that it is to get.
        self.names[RAW_FULL] = self.make(RAW_FULL, self.file_length())
        os.unlink(self.file(self.names[RAW_FULL]))
        settle()

    def ready(self, side):
        super().ready(side)
        name = self.names[side.volume]
        if side.volume != RAW_SPARSE and self.shared != self.file(name):
            os.rename(self.shared, self.file(name))
            self.shared = self.file(name)
        return self.opened_as(side, name)

    # ---- first touch --------------------------------------------------------------------------------------

    def make_fresh(self, side):
        self.fresh = self.make(side.volume, self.loads.size)
        settle()
        return self.opened_as(side, self.fresh)

    def drop_fresh(self):
        self.loads.run([self.loads.vdisk_io, "volume", "delete", self.domain / self.fresh])

    def remove(self):
        shutil.rmtree(self.folder)


class GroupVolumes(DomainVolumes):
    """
    The same of a domain in a volume group, which was there before: each is a logical volume, so each lies on
    blocks of its own. There is no raw sparse one.
    """
    def __init__(self, loads, scratch, say, domain):
        Volumes.__init__(self, loads, scratch, None, say)
        self.domain = domain
        self.names = {}
        self.made = set()

    def allocation(self, volume):
        return "preallocated" if volume.format == "raw" else super().allocation(volume)

    def make(self, volume, size):
        name = super().make(volume, size)
        self.made.add(name)
        self.loads.run([self.loads.vdisk_io, "volume", "prepare", f"{self.domain}/{name}"]) # it has a path now
        return name

    def file(self, name):
        return f"{self.domain}/{name.split('/')[1]}"

    def prepare(self, used):
        for volume in sorted(used, key=lambda volume: volume.name):
            self.say(f"making {volume.name}")
            self.names[volume] = self.make(volume, self.loads.size)
            self.loads.fill(volume, self.name_of(volume))
        settle()

    def ready(self, side):
        return self.opened_as(side, self.names[side.volume])

    def written(self, side, pattern):
        """Nobody else's blocks."""

    def make_fresh(self, side):
        path = super().make_fresh(side)
        if side.volume.format == "raw":
            self.loads.run(["blkdiscard", "-f", self.file(self.fresh)])
            settle()
        return path

    def drop_fresh(self):
        self.drop(self.fresh)

    def drop(self, name):
        self.made.discard(name)
        self.loads.run([self.loads.vdisk_io, "image", "delete", f"{self.domain}/{name.split('/')[0]}"])

    def remove(self):
        for name in sorted(self.made):
            self.drop(name)
