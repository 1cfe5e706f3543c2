# SPDX-License-Identifier: LGPL-2.1-or-later
"""Volumes, and what is done to images as a whole: calls that block. They let other threads of Python run."""
import collections
import ctypes
import os
import warnings

from . import _abi
from ._abi import NUMBERS, lib
from ._job import Job

Extent = collections.namedtuple("Extent", "offset length data zero compressed allocated depth host_offset")
Extent.__doc__ = """A part of a volume: data: some layer holds bytes for it; zero: it reads as zeros; allocated: it
has space in layer `depth`, where the data is at `host_offset` (None: not to be told)."""

EXTENTS_AT_ONCE = 256


def buffer_of(data):
    """(address, length, what keeps it) of bytes-like data that is only read."""
    if not isinstance(data, bytes):
        view = memoryview(data).cast("B")
        if not view.readonly:
            held = (ctypes.c_char * len(view)).from_buffer(view)
            return ctypes.addressof(held), len(view), (held, view)
        data = bytes(view)
    return ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p), len(data), data


def writable_buffer(data):
    """The same of what is written to."""
    view = memoryview(data).cast("B")
    held = (ctypes.c_char * len(view)).from_buffer(view)
    return ctypes.addressof(held), len(view), (held, view)


def open_flags(buffered, no_lock):
    """Of enum vdisk_open_flags."""
    return NUMBERS["VDISK_OPEN_BUFFERED"] * bool(buffered) | NUMBERS["VDISK_OPEN_NO_LOCK"] * bool(no_lock)


def request_flags(fua=False, unmap=False, no_fallback=False):
    """Of enum vdisk_req_flags."""
    return (NUMBERS["VDISK_REQ_FUA"] * bool(fua) | NUMBERS["VDISK_REQ_UNMAP"] * bool(unmap) |
            NUMBERS["VDISK_REQ_NO_FALLBACK"] * bool(no_fallback))


def make_extent(e):
    """Of C's struct."""
    return Extent(e.guest_offset, e.length, bool(e.flags & NUMBERS["VDISK_EXTENT_DATA"]),
                  bool(e.flags & NUMBERS["VDISK_EXTENT_ZERO"]), bool(e.flags & NUMBERS["VDISK_EXTENT_COMPRESSED"]),
                  bool(e.flags & NUMBERS["VDISK_EXTENT_ALLOCATED"]), e.depth,
                  e.host_offset if e.flags & NUMBERS["VDISK_EXTENT_OFFSET"] else None)


class Volume:
    """
    An open volume: vdisk_open(). Options by name, as vdisk_list_options() has them: writable=True, format="qcow2",
    cache_bytes, ... `fds` gives descriptors in place of names: {name, or None for the volume's own: fd}. Any
    thread may use it. It is closed by close() or at the end of `with`, and not before.
    """

    def __init__(self, name, *, fds=None, progress=None, **options):
        self._handle = None
        opts = _abi.OpenOpts()
        kept = _abi.options("OPEN", opts, options)
        if fds:
            names = [None if key is None else os.fsencode(key) for key in fds]
            opts.fds = (_abi.Fd * len(fds))(*map(_abi.Fd, names, fds.values()))
            opts.fds_count = len(fds)
        guard = _Guard(progress)
        opts.progress = guard.function
        handle = ctypes.c_void_p()
        guard.check(lib.vdisk_open(os.fsencode(name), ctypes.byref(opts), ctypes.byref(handle)))
        del kept
        self._handle = handle
        self.name = name

    @property
    def handle(self):
        """C's; ValueError when it is closed."""
        if self._handle is None:
            raise ValueError("the volume is closed")
        return self._handle

    @property
    def closed(self):
        return self._handle is None

    def close(self):
        """Write back, flush and close. A volume that is closed stays so."""
        if self._handle is None:
            return
        result = lib.vdisk_close(self._handle)
        if result not in KEPT_OPEN:
            self._handle = None
        _abi.check(result)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def __del__(self):
        if getattr(self, "_handle", None) is not None: # closing may block, and spoil another call's error
            warnings.warn(f"volume {self.name!r} was not closed", ResourceWarning, source=self)

    def __repr__(self):
        return f"<vdisk.Volume {self.name!r}{' closed' if self.closed else ''}>"

    @property
    def size(self):
        """Of the virtual disk, in bytes."""
        return lib.vdisk_size(self.handle)

    def info(self):
        """A dict of struct vdisk_info."""
        info = _abi.Info()
        _abi.check(lib.vdisk_get_info(self.handle, ctypes.byref(info)))
        return info.as_dict()

    def stats(self):
        """A dict of struct vdisk_stats; the counts of requests by their kind."""
        stats = _abi.Stats()
        _abi.check(lib.vdisk_get_stats(self.handle, ctypes.byref(stats)))
        found = stats.as_dict()
        counts = found.pop("kind")
        for kind in ("read", "write", "zero", "discard", "flush", "extents", "prefetch", "copy"):
            of = counts[NUMBERS["VDISK_REQUEST_" + kind.upper()]]
            found[kind] = {name: getattr(of, name) for name, _ in of._fields_}
        return found

    def image(self, depth=0):
        """What the image of a layer is, 0 being the top one: a dict of struct vdisk_image_info."""
        handle = ctypes.c_void_p()
        _abi.check(lib.vdisk_image_of_layer(self.handle, depth, ctypes.byref(handle)))
        return _image_info(handle)

    def read(self, offset, length):
        """`length` bytes."""
        data = bytearray(length)
        self.readinto(offset, data)
        return bytes(data)

    def readinto(self, offset, buffer):
        """Fill a writable buffer."""
        address, length, _kept = writable_buffer(buffer)
        _abi.check(lib.vdisk_pread(self.handle, address, length, offset))

    def write(self, offset, data, *, fua=False):
        """Write bytes-like data; fua: durable on return."""
        address, length, _kept = buffer_of(data)
        _abi.check(lib.vdisk_pwrite(self.handle, address, length, offset, request_flags(fua)))

    def zero(self, offset, length, *, fua=False, unmap=False, no_fallback=False):
        """Have it read as zeros; unmap: space may be given back; no_fallback: fail rather than write them."""
        _abi.check(lib.vdisk_pzero(self.handle, length, offset, request_flags(fua, unmap, no_fallback)))

    def discard(self, offset, length):
        """The content is not needed any more."""
        _abi.check(lib.vdisk_pdiscard(self.handle, length, offset))

    def flush(self):
        """What has been written is durable on return."""
        _abi.check(lib.vdisk_sync(self.handle))

    def extents(self, offset=0, length=None):
        """What the range is made of: an Extent each, in order."""
        end = self.size if length is None else offset + length
        found = (_abi.Extent * EXTENTS_AT_ONCE)()
        while offset < end:
            extents = _abi.Extents(found, EXTENTS_AT_ONCE, 0)
            _abi.check(lib.vdisk_pextents(self.handle, end - offset, offset, ctypes.byref(extents)))
            for i in range(extents.count):
                yield make_extent(found[i])
            offset = found[extents.count - 1].guest_offset + found[extents.count - 1].length

    def resize(self, size, *, progress=None, **options):
        """Make it `size` bytes; options: preallocation, shrink. A dict of struct vdisk_resize_result."""
        return resize_job(self, size, progress=progress, **options).run()

    def trim(self):
        """Give back to the host what is not used."""
        _abi.check(lib.vdisk_trim_space(self.handle))


# Errors of vdisk_close() after which the handle is as it was.
KEPT_OPEN = {-16, -10, -35, -24, -12} # EBUSY, ECHILD, EDEADLK, EMFILE, ENOMEM


class _Guard:
    """A progress function for C. What it raises stops the call, and comes out of check()."""

    def __init__(self, progress):
        self.raised = None
        self.progress = progress
        self.function = _abi.ProgressFn(self._call) if progress else _abi.ProgressFn()

    def _call(self, _arg, done, total):
        try:
            return 1 if self.progress(done, total) else 0
        except BaseException as e: # pylint: disable=broad-except
            self.raised = e
            return 1

    def check(self, result):
        """As _abi.check()."""
        if self.raised is not None:
            raise self.raised
        return _abi.check(result)


def _image_info(handle):
    info = _abi.ImageInfo()
    try:
        _abi.check(lib.vdisk_image_get_info(handle, ctypes.byref(info)))
        return info.as_dict()
    finally:
        lib.vdisk_image_free(handle)


def image(name, **options):
    """What an image is, without opening its backing chain: a dict of struct vdisk_image_info."""
    opts = _abi.OpenOpts()
    kept = _abi.options("OPEN", opts, options)
    handle = ctypes.c_void_p()
    _abi.check(lib.vdisk_image_load(os.fsencode(name), ctypes.byref(opts), ctypes.byref(handle)))
    del kept
    return _image_info(handle)


# ---- jobs: what takes long ----------------------------------------------------------------------------------

def create_job(name, size=None, *, format="raw", progress=None, **options): # pylint: disable=redefined-builtin
    """Make a volume. Without a size: that of the backing file. Options: as struct vdisk_create_opts."""
    opts = _abi.CreateOpts()
    options["virtual_size"] = 2 ** 64 - 1 if size is None else size
    kept = _abi.options("CREATE", opts, {"format": format, **options})
    job = Job(lambda out: lib.vdisk_job_create(os.fsencode(name), ctypes.byref(opts), out), opts, progress,
              (lib.vdisk_job_get_create_result, _abi.CreateResult))
    del kept
    return job


def resize_job(volume, size, *, progress=None, **options):
    """Volume.resize() as a job."""
    opts = _abi.ResizeOpts()
    _abi.options("RESIZE", opts, options)
    return Job(lambda out: lib.vdisk_job_resize(volume.handle, size, ctypes.byref(opts), out), opts, progress,
               (lib.vdisk_job_get_resize_result, _abi.ResizeResult))


FINDINGS = ("corruption", "leak", "error", "note", "fixed")
REPAIRS = {None: 0, "leaks": 1, "all": 2}


def check_job(name, *, repair=None, format=None, report=None, progress=None, # pylint: disable=redefined-builtin
              force_share=False, no_lock=False):
    """
    Look for inconsistencies; repair="leaks" or "all" mends them. report(kind, text) is told each finding, kind
    being one of FINDINGS. The result is a dict of the numbers found, and for a repair, of those fixed.
    """
    flags = NUMBERS["VDISK_OPEN_FORCE_SHARE"] * bool(force_share) | NUMBERS["VDISK_OPEN_NO_LOCK"] * bool(no_lock)
    opts = _abi.CheckOpts(flags=flags, format=None if format is None else format.encode())
    what = REPAIRS[repair]

    def make(out):
        if repair is None:
            return lib.vdisk_job_check(os.fsencode(name), ctypes.byref(opts), out)
        return lib.vdisk_job_repair(os.fsencode(name), what, ctypes.byref(opts), out)

    def told(_arg, kind, text):
        report(FINDINGS[kind], os.fsdecode(text))

    results = [(lib.vdisk_job_get_check_result, _abi.CheckResult)]
    if repair is not None:
        results.append((lib.vdisk_job_get_repair_result, _abi.RepairResult))
    return Job(make, opts, progress, *results, callbacks={"report": (_abi.ReportFn, told)} if report else {})


def copy_job(sources, target, *, progress=None, salvaged=None, target_is_zero=False, dense=False, depth=0, rate=0,
             memory_max=0, sparse=0, offset=0, length=0, backing_depth=0, start=0, checkpoint=None,
             checkpoint_ms=0, block_digest=None, digest_length=0, discard_target=False):
    """
    Copy open volumes, one after the other, to the start of another. discard_target: what that had is given back
    before. salvaged(source, offset, length, errno) has
    what cannot be read be zeros, and is told of it. checkpoint(position) is told how far it has come for good,
    every checkpoint_ms or 5 seconds: another job with that as `start` does the rest. block_digest(first, count,
    digest) is told those of blocks of 4 MiB; a true result of it stops the job. The result is a dict of struct
    vdisk_copy_result, its `digest` bytes.
    """
    if isinstance(sources, Volume):
        sources = [sources]
    handles = (ctypes.c_void_p * len(sources))(*(source.handle for source in sources))
    flags = (NUMBERS["VDISK_COPY_TARGET_IS_ZERO"] * bool(target_is_zero) |
             NUMBERS["VDISK_COPY_DENSE"] * bool(dense) |
             NUMBERS["VDISK_COPY_DISCARD"] * bool(discard_target) |
             NUMBERS["VDISK_COPY_SALVAGE"] * (salvaged is not None))
    opts = _abi.CopyOpts(flags=flags, depth=depth, rate=rate, memory_max=memory_max, sparse=sparse, offset=offset,
                         length=length, backing_depth=backing_depth, digest_length=digest_length)
    opts.going_on.start, opts.going_on.checkpoint_ms = start, checkpoint_ms
    callbacks = {}
    if salvaged:
        callbacks["salvaged"] = (_abi.SalvagedFn, lambda _arg, *what: salvaged(*what))
    callbacks.update(checkpoint_of(checkpoint))
    if block_digest:
        callbacks["block_digest"] = (_abi.BlockDigestFn, lambda _arg, first, count, digest:
                                     1 if block_digest(first, count, bytes(digest[:_abi.DIGEST_SIZE])) else 0)
    return Job(lambda out: lib.vdisk_job_copy(handles, len(sources), target.handle, ctypes.byref(opts), out), opts,
               progress, (lib.vdisk_job_get_copy_result, _abi.CopyResult), callbacks=callbacks,
               refine=lambda found: {**found, "digest": bytes(found["digest"])})


DIFFERENCES = (None, "content", "size", "status")


def compare_job(a, b, *, strict=False, depth=0, progress=None):
    """The first difference: a dict of struct vdisk_compare_result, its `difference` None or one of DIFFERENCES."""
    opts = _abi.CompareOpts(flags=NUMBERS["VDISK_COMPARE_STRICT"] * bool(strict), depth=depth)
    return Job(lambda out: lib.vdisk_job_compare(a.handle, b.handle, ctypes.byref(opts), out), opts, progress,
               (lib.vdisk_job_get_compare_result, _abi.CompareResult),
               refine=lambda found: {**found, "difference": DIFFERENCES[found["difference"]]})


def text_of(value):
    """As C takes it."""
    return None if value is None else os.fsencode(value)


def checkpoint_of(checkpoint):
    """The callbacks that tell it."""
    if not checkpoint:
        return {}
    return {"going_on.checkpoint": (_abi.CheckpointFn, lambda _arg, position: checkpoint(position) or 0)}


def commit_job(name, *, base=None, format=None, keep=False, # pylint: disable=redefined-builtin
               buffered=False, no_lock=False, depth=0, memory_max=0,
               rate=0, cache_bytes=0, progress=None, start=0, checkpoint=None, checkpoint_ms=0):
    """
    Put what an image has into a file below it: `base`, as an image of the chain names it, or a path; None: the
    backing file. Then the image is made empty, unless it is to be kept, or there are layers between. The result is
    a dict of struct vdisk_commit_result. checkpoint and start: as of copy_job().
    """
    flags = NUMBERS["VDISK_COMMIT_KEEP"] * bool(keep)
    opts = _abi.CommitOpts(flags=flags, open_flags=open_flags(buffered, no_lock),
                           format=text_of(format), base=text_of(base), depth=depth, memory_max=memory_max,
                           rate=rate, cache_bytes=cache_bytes)
    opts.going_on.start, opts.going_on.checkpoint_ms = start, checkpoint_ms
    return Job(lambda out: lib.vdisk_job_commit(os.fsencode(name), ctypes.byref(opts), out), opts, progress,
               (lib.vdisk_job_get_commit_result, _abi.CommitResult), callbacks=checkpoint_of(checkpoint))


def rebase_job(name, backing_file=None, backing_fmt=None, *, # pylint: disable=redefined-builtin
               unsafe=False, compress=False, format=None,
               buffered=False, no_lock=False, backing_buffered=False, backing_force_share=False, depth=0,
               memory_max=0, rate=0, cache_bytes=0, progress=None, start=0, checkpoint=None, checkpoint_ms=0):
    """
    Give an image another backing file, or none, so that it reads as before; unsafe: change the name and nothing
    else. The result is a dict of struct vdisk_rebase_result. checkpoint and start: as of copy_job().
    """
    flags = NUMBERS["VDISK_REBASE_UNSAFE"] * bool(unsafe) | NUMBERS["VDISK_REBASE_COMPRESS"] * bool(compress)
    below = open_flags(backing_buffered, no_lock) | NUMBERS["VDISK_OPEN_FORCE_SHARE"] * bool(backing_force_share)
    opts = _abi.RebaseOpts(flags=flags, open_flags=open_flags(buffered, no_lock), backing_open_flags=below,
                           format=text_of(format), backing_file=text_of(backing_file),
                           backing_fmt=text_of(backing_fmt), depth=depth, memory_max=memory_max, rate=rate,
                           cache_bytes=cache_bytes)
    opts.going_on.start, opts.going_on.checkpoint_ms = start, checkpoint_ms
    return Job(lambda out: lib.vdisk_job_rebase(os.fsencode(name), ctypes.byref(opts), out), opts, progress,
               (lib.vdisk_job_get_rebase_result, _abi.RebaseResult), callbacks=checkpoint_of(checkpoint))


def amend_job(volume, *, size=None, compat=None, refcount_bits=0, lazy_refcounts=None, backing_file=None,
              backing_fmt=None, shrink=False, progress=None):
    """
    Change what an open image is; what is None stays. `compat`: "0.10" or "1.1"; backing_file "": none; `size` may
    be smaller only to shrink it. The result is an empty dict.
    """
    lazy = {None: 0, True: NUMBERS["VDISK_AMEND_LAZY_ON"], False: NUMBERS["VDISK_AMEND_LAZY_OFF"]}[lazy_refcounts]
    opts = _abi.AmendOpts(flags=NUMBERS["VDISK_AMEND_SHRINK"] * bool(shrink) | lazy, version=VERSIONS[compat],
                          refcount_bits=refcount_bits, virtual_size=size or 0, backing_file=text_of(backing_file),
                          backing_fmt=text_of(backing_fmt))
    return Job(lambda out: lib.vdisk_job_amend(volume.handle, ctypes.byref(opts), out), opts, progress)


VERSIONS = {None: 0, "0.10": 2, "1.1": 3}


def create(*args, **options):
    """create_job(), run."""
    return create_job(*args, **options).run()


def check(*args, **options):
    """check_job(), run."""
    return check_job(*args, **options).run()


def copy(*args, **options):
    """copy_job(), run."""
    return copy_job(*args, **options).run()


def compare(*args, **options):
    """compare_job(), run."""
    return compare_job(*args, **options).run()


def commit(*args, **options):
    """commit_job(), run."""
    return commit_job(*args, **options).run()


def rebase(*args, **options):
    """rebase_job(), run."""
    return rebase_job(*args, **options).run()


def amend(*args, **options):
    """amend_job(), run."""
    return amend_job(*args, **options).run()
