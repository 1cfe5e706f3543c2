# SPDX-License-Identifier: LGPL-2.1-or-later
"""
libvdisk for Python: raw and qcow2 volumes, through io_uring.

    import vdisk

    vdisk.create("disk.qcow2", 20 << 30, format="qcow2")
    with vdisk.Volume("disk.qcow2", writable=True) as volume:
        volume.write(0, b"hello")
        print(volume.read(0, 5), volume.info()["allocated_size"])

Errors are OSError and its subclasses, with the library's words, and what to do about it as `hint`. Whatever is
said of the functions in <vdisk.h> and <vdisk-image.h> holds here: who may call them, and when.
"""
from ._abi import lib as _lib
from ._job import Job, object_add, secret_add, secret_remove
from ._queue import AsyncQueue, Queue
from ._volume import (Extent, Volume, amend, amend_job, check, check_job, commit, commit_job, compare, compare_job,
                      copy, copy_job, create, create_job, image, rebase, rebase_job, resize_job)

__version__ = _lib.vdisk_version().decode()
__all__ = ["AsyncQueue", "Extent", "Job", "Queue", "Volume", "amend", "amend_job", "check", "check_job",
           "commit", "commit_job", "compare", "compare_job", "copy", "copy_job", "create", "create_job", "image",
           "object_add", "rebase", "rebase_job", "resize_job", "secret_add", "secret_remove"]
