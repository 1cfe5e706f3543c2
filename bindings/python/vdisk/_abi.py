# SPDX-License-Identifier: LGPL-2.1-or-later
"""libvdisk as C has it: structs, numbers, functions. tests/python/test_abi.py holds it to the headers."""
import ctypes
import os
from ctypes import (CFUNCTYPE, POINTER, Structure, c_bool, c_char_p, c_int, c_int32, c_int64, c_long, c_size_t,
                    c_uint, c_uint8, c_uint32, c_uint64, c_void_p)

ProgressFn = CFUNCTYPE(c_int, c_void_p, c_uint64, c_uint64)
ReportFn = CFUNCTYPE(None, c_void_p, c_int, c_char_p)
UsedFn = CFUNCTYPE(c_int, c_void_p, c_uint64, c_uint64)
SalvagedFn = CFUNCTYPE(None, c_void_p, c_uint, c_uint64, c_uint64, c_int)
CheckpointFn = CFUNCTYPE(c_int, c_void_p, c_uint64)
BlockDigestFn = CFUNCTYPE(c_int, c_void_p, c_uint64, c_uint64, POINTER(c_uint8))
KnownDigestFn = CFUNCTYPE(c_int, c_void_p, c_uint64, POINTER(c_uint64), POINTER(c_uint8))
DIGEST_SIZE = 32
LogFn = CFUNCTYPE(None, c_void_p, c_int, c_char_p, c_char_p)


class Sized(Structure):
    """A struct that begins with its size."""

    def __init__(self, **fields):
        super().__init__(size=ctypes.sizeof(self), **fields)

    def as_dict(self):
        """The fields, texts as str; but the size of the struct."""
        values = {name: getattr(self, name) for name, _ in self._fields_ if name != "size"}
        return {name: os.fsdecode(value) if isinstance(value, bytes) else value for name, value in values.items()}


class Timespec(Structure):
    _fields_ = [("tv_sec", c_int64), ("tv_nsec", c_long)]


class Fd(Structure):
    _fields_ = [("name", c_char_p), ("fd", c_int)]


class OpenOpts(Sized):
    _fields_ = [("size", c_size_t), ("flags", c_uint32), ("max_depth", c_uint32), ("format", c_char_p),
                ("cache_bytes", c_uint64), ("data_file", c_char_p), ("fds", POINTER(Fd)), ("fds_count", c_uint32),
                ("progress", ProgressFn), ("progress_arg", c_void_p), ("layers", c_uint32)]


class Info(Sized):
    _fields_ = [("size", c_size_t), ("virtual_size", c_uint64), ("allocated_size", c_uint64),
                ("cluster_size", c_uint64), ("request_align", c_uint32), ("memory_align", c_uint32),
                ("depth", c_uint32), ("read_only", c_bool), ("direct", c_bool), ("format", c_char_p),
                ("backend", c_char_p), ("trouble", c_char_p), ("max_transfer", c_uint64),
                ("preferred_transfer", c_uint32), ("zero_align", c_uint32), ("discard_align", c_uint32),
                ("zeroes_cheap", c_bool), ("compress_align", c_uint32), ("discards", c_bool)]


class ResizeOpts(Sized):
    _fields_ = [("size", c_size_t), ("preallocation", c_int), ("shrink", c_bool), ("progress", ProgressFn),
                ("progress_arg", c_void_p)]


class CreateOpts(Sized):
    _fields_ = [("size", c_size_t), ("format", c_char_p), ("virtual_size", c_uint64), ("preallocation", c_int),
                ("cluster_size", c_uint32), ("version", c_uint32), ("refcount_bits", c_uint32),
                ("lazy_refcounts", c_bool), ("extended_l2", c_bool), ("data_file_raw", c_bool),
                ("compression_type", c_char_p), ("backing_file", c_char_p), ("backing_fmt", c_char_p),
                ("backing_unchecked", c_bool), ("data_file", c_char_p), ("buffered", c_bool),
                ("progress", ProgressFn), ("progress_arg", c_void_p), ("unfinished", c_bool)]


class QueueOpts(Sized):
    _fields_ = [("size", c_size_t), ("depth", c_uint32), ("kind", c_int), ("flags", c_uint32), ("watch_fd", c_int),
                ("watch_ready", POINTER(c_bool))]


class Extent(Structure):
    _fields_ = [("guest_offset", c_uint64), ("length", c_uint64), ("host_offset", c_uint64), ("flags", c_uint32),
                ("depth", c_uint32)]


class Extents(Structure):
    _fields_ = [("list", POINTER(Extent)), ("max", c_uint), ("count", c_uint)]


class Completion(Structure):
    _fields_ = [("user_data", c_uint64), ("result", c_int32), ("error", c_uint32)]


class Counts(Structure):
    _fields_ = [("requests", c_uint64), ("bytes", c_uint64), ("errors", c_uint64)]


class Stats(Sized):
    _fields_ = [("size", c_size_t), ("kind", Counts * 8), ("cache_hits", c_uint64), ("cache_misses", c_uint64),
                ("allocations", c_uint64), ("flushes", c_uint64), ("flushes_shared", c_uint64)]


class JobProgress(Sized):
    _fields_ = [("size", c_size_t), ("state", c_int), ("result", c_int32), ("bytes_done", c_uint64),
                ("bytes_total", c_uint64), ("bytes_per_second", c_uint64), ("seconds_left", c_uint64)]


class CreateResult(Sized):
    _fields_ = [("size", c_size_t), ("virtual_size", c_uint64), ("file_size", c_uint64),
                ("allocated_size", c_uint64)]


class ResizeResult(Sized):
    _fields_ = [("size", c_size_t), ("old_size", c_uint64), ("virtual_size", c_uint64)]


class CheckOpts(Sized):
    _fields_ = [("size", c_size_t), ("flags", c_uint32), ("kinds", c_uint32), ("format", c_char_p),
                ("report", ReportFn), ("report_arg", c_void_p), ("report_max", c_uint64), ("memory_max", c_uint64),
                ("progress", ProgressFn), ("progress_arg", c_void_p), ("used", UsedFn), ("used_arg", c_void_p)]


class CheckResult(Sized):
    _fields_ = [("size", c_size_t), ("image_end_offset", c_uint64), ("total_clusters", c_uint64),
                ("allocated_clusters", c_uint64), ("fragmented_clusters", c_uint64),
                ("compressed_clusters", c_uint64), ("corruptions", c_uint64), ("leaks", c_uint64),
                ("check_errors", c_uint64)]


class RepairResult(Sized):
    _fields_ = [("size", c_size_t), ("leaks_fixed", c_uint64), ("corruptions_fixed", c_uint64)]


class GoingOn(Structure):
    _fields_ = [("start", c_uint64), ("checkpoint", CheckpointFn), ("checkpoint_arg", c_void_p),
                ("checkpoint_ms", c_uint32)]


class CopyOpts(Sized):
    _fields_ = [("size", c_size_t), ("flags", c_uint32), ("depth", c_uint32), ("name", c_char_p),
                ("memory_max", c_uint64), ("sparse", c_uint64), ("rate", c_uint64), ("backing_depth", c_uint32),
                ("offset", c_uint64), ("length", c_uint64), ("salvaged", SalvagedFn), ("salvaged_arg", c_void_p),
                ("progress", ProgressFn), ("progress_arg", c_void_p), ("going_on", GoingOn),
                ("block_digest", BlockDigestFn), ("block_digest_arg", c_void_p), ("known_digest", KnownDigestFn),
                ("known_digest_arg", c_void_p), ("digest_length", c_uint64)]


class CopyResult(Sized):
    _fields_ = [("size", c_size_t), ("bytes_total", c_uint64), ("bytes_read", c_uint64),
                ("bytes_written", c_uint64), ("bytes_zeroed", c_uint64),
                ("bytes_skipped", c_uint64), ("bytes_salvaged", c_uint64),
                ("read_errors", c_uint64), ("bytes_cloned", c_uint64), ("digest", c_uint8 * DIGEST_SIZE),
                ("bytes_discarded", c_uint64)]


class CompareOpts(Sized):
    _fields_ = [("size", c_size_t), ("flags", c_uint32), ("depth", c_uint32), ("name", c_char_p),
                ("progress", ProgressFn), ("progress_arg", c_void_p), ("memory_max", c_uint64), ("rate", c_uint64),
                ("ret_extents_failed", POINTER(c_bool))]


class CompareResult(Sized):
    _fields_ = [("size", c_size_t), ("difference", c_int), ("sizes_differ", c_bool), ("behind_end", c_bool),
                ("offset", c_uint64), ("bytes_read", c_uint64)]


class CommitOpts(Sized):
    _fields_ = [("size", c_size_t), ("flags", c_uint32), ("open_flags", c_uint32), ("format", c_char_p),
                ("base", c_char_p), ("depth", c_uint32), ("memory_max", c_uint64), ("rate", c_uint64),
                ("progress", ProgressFn), ("progress_arg", c_void_p), ("going_on", GoingOn),
                ("cache_bytes", c_uint64)]


class CommitResult(Sized):
    _fields_ = [("size", c_size_t), ("bytes_written", c_uint64), ("bytes_zeroed", c_uint64),
                ("base_depth", c_uint32), ("grown", c_bool)]


class RebaseOpts(Sized):
    _fields_ = [("size", c_size_t), ("flags", c_uint32), ("open_flags", c_uint32),
                ("backing_open_flags", c_uint32), ("format", c_char_p), ("backing_file", c_char_p),
                ("backing_fmt", c_char_p), ("depth", c_uint32), ("progress", ProgressFn),
                ("progress_arg", c_void_p), ("going_on", GoingOn), ("memory_max", c_uint64), ("rate", c_uint64),
                ("cache_bytes", c_uint64)]


class RebaseResult(Sized):
    _fields_ = [("size", c_size_t), ("bytes_read", c_uint64), ("bytes_written", c_uint64),
                ("bytes_zeroed", c_uint64)]


class AmendOpts(Sized):
    _fields_ = [("size", c_size_t), ("flags", c_uint32), ("version", c_uint32), ("refcount_bits", c_uint32),
                ("virtual_size", c_uint64), ("backing_file", c_char_p), ("backing_fmt", c_char_p),
                ("progress", ProgressFn), ("progress_arg", c_void_p)]


class ImageInfo(Sized):
    _fields_ = [("size", c_size_t), ("name", c_char_p), ("format", c_char_p), ("backend", c_char_p),
                ("file", c_char_p), ("file_size", c_uint64), ("allocated_size", c_uint64),
                ("virtual_size", c_uint64), ("data_path", c_char_p), ("backing_name", c_char_p),
                ("backing_file", c_char_p), ("backing_fmt", c_char_p), ("data_file", c_char_p),
                ("compression_type", c_char_p), ("cluster_size", c_uint32), ("version", c_uint32),
                ("refcount_bits", c_uint32), ("lazy_refcounts", c_bool), ("extended_l2", c_bool),
                ("data_file_raw", c_bool), ("dirty", c_bool), ("corrupt", c_bool), ("bitmaps_stale", c_bool)]


# C's name: ours.
STRUCTS = {
    "struct timespec": Timespec, "struct vdisk_fd": Fd, "struct vdisk_open_opts": OpenOpts,
    "struct vdisk_info": Info, "struct vdisk_resize_opts": ResizeOpts, "struct vdisk_create_opts": CreateOpts,
    "struct vdisk_queue_opts": QueueOpts, "struct vdisk_extent": Extent, "struct vdisk_extents": Extents,
    "struct vdisk_completion": Completion, "struct vdisk_counts": Counts, "struct vdisk_stats": Stats,
    "struct vdisk_job_progress": JobProgress, "struct vdisk_create_result": CreateResult,
    "struct vdisk_resize_result": ResizeResult, "struct vdisk_check_opts": CheckOpts,
    "struct vdisk_check_result": CheckResult, "struct vdisk_repair_result": RepairResult,
    "struct vdisk_going_on": GoingOn, "struct vdisk_copy_opts": CopyOpts, "struct vdisk_copy_result": CopyResult,
    "struct vdisk_compare_opts": CompareOpts, "struct vdisk_compare_result": CompareResult,
    "struct vdisk_commit_opts": CommitOpts, "struct vdisk_commit_result": CommitResult,
    "struct vdisk_rebase_opts": RebaseOpts, "struct vdisk_rebase_result": RebaseResult,
    "struct vdisk_amend_opts": AmendOpts, "struct vdisk_image_info": ImageInfo,
}

NUMBERS = {
    "VDISK_OPEN_BUFFERED": 1 << 1, "VDISK_OPEN_FORCE_SHARE": 1 << 2, "VDISK_OPEN_NO_LOCK": 1 << 3,
    "VDISK_OPTS_OPEN": 0, "VDISK_OPTS_CREATE": 1, "VDISK_OPTS_RESIZE": 2, "VDISK_OPTS_QUEUE": 3,
    "VDISK_REQ_FUA": 1, "VDISK_REQ_UNMAP": 2, "VDISK_REQ_NO_FALLBACK": 4,
    "VDISK_EXTENT_DATA": 1, "VDISK_EXTENT_ZERO": 2, "VDISK_EXTENT_COMPRESSED": 4, "VDISK_EXTENT_OFFSET": 8,
    "VDISK_EXTENT_ALLOCATED": 16, "VDISK_REQUEST_READ": 0, "VDISK_REQUEST_WRITE": 1, "VDISK_REQUEST_ZERO": 2,
    "VDISK_REQUEST_DISCARD": 3, "VDISK_REQUEST_FLUSH": 4, "VDISK_REQUEST_EXTENTS": 5, "VDISK_REQUEST_PREFETCH": 6,
    "VDISK_REQUEST_COPY": 7,
    "VDISK_REQUEST_KINDS": 8, "VDISK_JOB_NEW": 0, "VDISK_JOB_RUNNING": 1, "VDISK_JOB_ENDED": 2,
    "VDISK_FOUND_CORRUPTION": 0, "VDISK_FOUND_LEAK": 1, "VDISK_FOUND_ERROR": 2, "VDISK_FOUND_NOTE": 3,
    "VDISK_FOUND_FIXED": 4, "VDISK_REPAIR_NOTHING": 0, "VDISK_REPAIR_LEAKS": 1, "VDISK_REPAIR_ALL": 2,
    "VDISK_COPY_TARGET_IS_ZERO": 1, "VDISK_COPY_DENSE": 2, "VDISK_COPY_SALVAGE": 4, "VDISK_COPY_DISCARD": 64,
    "VDISK_COMPARE_STRICT": 1,
    "VDISK_DIGEST_SIZE": DIGEST_SIZE,
    "VDISK_DIFFERENCE_NONE": 0, "VDISK_DIFFERENCE_CONTENT": 1, "VDISK_DIFFERENCE_SIZE": 2,
    "VDISK_DIFFERENCE_STATUS": 3, "VDISK_COMMIT_KEEP": 1, "VDISK_REBASE_UNSAFE": 1, "VDISK_REBASE_COMPRESS": 2,
    "VDISK_AMEND_SHRINK": 1, "VDISK_AMEND_LAZY_ON": 2, "VDISK_AMEND_LAZY_OFF": 4,
    "VDISK_LOG_ERROR": 1, "VDISK_LOG_WARNING": 2, "VDISK_LOG_INFO": 3,
}

_NAME, _HANDLE, _OUT = c_char_p, c_void_p, POINTER(c_void_p)

# Name: (result, arguments).
FUNCTIONS = {
    "vdisk_error_text": (c_char_p, []),
    "vdisk_error_hint": (c_char_p, []),
    "vdisk_version": (c_char_p, []),
    "vdisk_object_add": (c_int, [c_char_p]),
    "vdisk_secret_add": (c_int, [c_char_p, c_void_p, c_size_t]),
    "vdisk_secret_remove": (c_int, [c_char_p]),
    "vdisk_set_log": (None, [LogFn, c_void_p]),
    "vdisk_set_option": (c_int, [c_int, c_void_p, c_char_p, c_char_p]),
    "vdisk_open": (c_int, [_NAME, POINTER(OpenOpts), _OUT]),
    "vdisk_close": (c_int, [_HANDLE]),
    "vdisk_get_info": (c_int, [_HANDLE, POINTER(Info)]),
    "vdisk_get_stats": (c_int, [_HANDLE, POINTER(Stats)]),
    "vdisk_size": (c_uint64, [_HANDLE]),
    "vdisk_pread": (c_int, [_HANDLE, c_void_p, c_size_t, c_uint64]),
    "vdisk_pwrite": (c_int, [_HANDLE, c_void_p, c_size_t, c_uint64, c_uint32]),
    "vdisk_pzero": (c_int, [_HANDLE, c_uint64, c_uint64, c_uint32]),
    "vdisk_pdiscard": (c_int, [_HANDLE, c_uint64, c_uint64]),
    "vdisk_sync": (c_int, [_HANDLE]),
    "vdisk_pextents": (c_int, [_HANDLE, c_uint64, c_uint64, POINTER(Extents)]),
    "vdisk_queue_create": (c_int, [POINTER(QueueOpts), _OUT]),
    "vdisk_queue_destroy": (c_int, [_HANDLE]),
    "vdisk_queue_get_kind": (c_int, [_HANDLE]),
    "vdisk_queue_kind_name": (c_char_p, [c_int]),
    "vdisk_queue_get_reason": (c_char_p, [_HANDLE]),
    "vdisk_queue_inflight": (c_uint, [_HANDLE]),
    "vdisk_queue_fd": (c_int, [_HANDLE]),
    "vdisk_queue_wake": (None, [_HANDLE]),
    "vdisk_read": (None, [_HANDLE, _HANDLE, c_uint64, c_void_p, c_size_t, c_uint32, c_uint64]),
    "vdisk_write": (None, [_HANDLE, _HANDLE, c_uint64, c_void_p, c_size_t, c_uint32, c_uint64]),
    "vdisk_write_zeroes": (None, [_HANDLE, _HANDLE, c_uint64, c_uint64, c_uint32, c_uint64]),
    "vdisk_discard": (None, [_HANDLE, _HANDLE, c_uint64, c_uint64, c_uint32, c_uint64]),
    "vdisk_prefetch": (None, [_HANDLE, _HANDLE, c_uint64, c_uint64, c_uint32, c_uint64]),
    "vdisk_copy_range": (None, [_HANDLE, _HANDLE, c_uint64, c_uint64, _HANDLE, c_uint64, c_uint32, c_uint64]),
    "vdisk_flush": (None, [_HANDLE, _HANDLE, c_uint32, c_uint64]),
    "vdisk_cancel": (c_int, [_HANDLE, c_uint64]),
    "vdisk_explain": (c_int, [_HANDLE, POINTER(Completion)]),
    "vdisk_submit": (c_int, [_HANDLE]),
    "vdisk_reap": (c_int, [_HANDLE, POINTER(Completion), c_uint, c_uint, POINTER(Timespec)]),
    "vdisk_job_start": (c_int, [_HANDLE, _HANDLE, c_uint64]),
    "vdisk_job_run": (c_int, [_HANDLE]),
    "vdisk_job_cancel": (None, [_HANDLE]),
    "vdisk_job_get_progress": (c_int, [_HANDLE, POINTER(JobProgress)]),
    "vdisk_job_get_error_text": (c_char_p, [_HANDLE]),
    "vdisk_job_get_error_hint": (c_char_p, [_HANDLE]),
    "vdisk_job_free": (c_int, [_HANDLE]),
    "vdisk_job_create": (c_int, [_NAME, POINTER(CreateOpts), _OUT]),
    "vdisk_job_get_create_result": (c_int, [_HANDLE, POINTER(CreateResult)]),
    "vdisk_job_resize": (c_int, [_HANDLE, c_uint64, POINTER(ResizeOpts), _OUT]),
    "vdisk_job_get_resize_result": (c_int, [_HANDLE, POINTER(ResizeResult)]),
    "vdisk_trim_space": (c_int, [_HANDLE]),
    "vdisk_job_check": (c_int, [_NAME, POINTER(CheckOpts), _OUT]),
    "vdisk_job_get_check_result": (c_int, [_HANDLE, POINTER(CheckResult)]),
    "vdisk_job_repair": (c_int, [_NAME, c_int, POINTER(CheckOpts), _OUT]),
    "vdisk_job_get_repair_result": (c_int, [_HANDLE, POINTER(RepairResult)]),
    "vdisk_job_copy": (c_int, [_OUT, c_uint, _HANDLE, POINTER(CopyOpts), _OUT]),
    "vdisk_job_get_copy_result": (c_int, [_HANDLE, POINTER(CopyResult)]),
    "vdisk_job_compare": (c_int, [_HANDLE, _HANDLE, POINTER(CompareOpts), _OUT]),
    "vdisk_job_get_compare_result": (c_int, [_HANDLE, POINTER(CompareResult)]),
    "vdisk_job_commit": (c_int, [_NAME, POINTER(CommitOpts), _OUT]),
    "vdisk_job_get_commit_result": (c_int, [_HANDLE, POINTER(CommitResult)]),
    "vdisk_job_rebase": (c_int, [_NAME, POINTER(RebaseOpts), _OUT]),
    "vdisk_job_get_rebase_result": (c_int, [_HANDLE, POINTER(RebaseResult)]),
    "vdisk_job_amend": (c_int, [_HANDLE, POINTER(AmendOpts), _OUT]),
    "vdisk_image_load": (c_int, [_NAME, POINTER(OpenOpts), _OUT]),
    "vdisk_image_of_layer": (c_int, [_HANDLE, c_uint32, _OUT]),
    "vdisk_image_get_info": (c_int, [_HANDLE, POINTER(ImageInfo)]),
    "vdisk_image_free": (None, [_HANDLE]),
}


def _load():
    """The library, or the one that VDISK_LIBRARY names."""
    loaded = ctypes.CDLL(os.environ.get("VDISK_LIBRARY") or "libvdisk.so.0")
    for name, (result, arguments) in FUNCTIONS.items():
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
    return loaded


lib = _load()


def error(number, text, hint):
    """An OSError of the right subclass, with the library's words, and what to do about it as `hint`."""
    made = OSError(number, os.fsdecode(text) or os.strerror(number))
    made.hint = os.fsdecode(hint)
    return made


def check(result):
    """`result`, if it is none of an error; else raises, with the words that this thread's last call has left."""
    if result >= 0:
        return result
    raise error(-result, lib.vdisk_error_text(), lib.vdisk_error_hint())


def options(kind, opts, values):
    """Set the fields of `opts` by name. Returns what must stay as long as it is used."""
    kept = []
    for name, value in values.items():
        if value is None:
            continue
        if isinstance(value, bool):
            value = b"on" if value else b"off"
        elif isinstance(value, int):
            value = b"%d" % value
        else:
            value = os.fsencode(value)
        kept.append(value)
        result = lib.vdisk_set_option(NUMBERS["VDISK_OPTS_" + kind], ctypes.byref(opts), name.encode(), value)
        if result < 0:
            text = os.fsdecode(lib.vdisk_error_text())
            raise (ValueError if result == -22 else TypeError)(text)
    return kept
