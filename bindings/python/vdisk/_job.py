# SPDX-License-Identifier: LGPL-2.1-or-later
"""Jobs: what takes long."""
import ctypes
import errno
import os
import threading
import warnings

from . import _abi
from ._abi import lib

STATES = ("new", "running", "ended")


class Job:
    """
    Made by create_job() and its like. It is run once: by run(), which blocks, or by AsyncQueue.run(). Its progress
    function is called as progress(done, total), on its thread; a true result, or an exception, stops it.
    """

    def __init__(self, make, opts, progress, *results, callbacks=None, refine=None):
        self._handle = None
        self._results, self._refine = results, refine
        self._raised = None
        self._lock = threading.Lock()
        self._kept = [] # as long as the job may call
        if progress:
            self._keep(opts, "progress", _abi.ProgressFn,
                       lambda _arg, done, total: 1 if progress(done, total) else 0)
        for name, (kind, function) in (callbacks or {}).items():
            self._keep(opts, name, kind, function)
        handle = ctypes.c_void_p()
        _abi.check(make(ctypes.byref(handle)))
        self._handle = handle

    def _keep(self, opts, name, kind, function):
        def call(*args):
            try:
                return function(*args)
            except BaseException as e: # pylint: disable=broad-except
                self._raised = self._raised or e
                self.cancel()
                return 1 if kind._restype_ is ctypes.c_int else None

        made = kind(call)
        self._kept.append(made)
        *within, name = name.split(".")
        for part in within:
            opts = getattr(opts, part)
        setattr(opts, name, made)

    @property
    def handle(self):
        """C's; ValueError when it is closed."""
        if self._handle is None:
            raise ValueError("the job is closed")
        return self._handle

    def run(self):
        """Run it here, close it, and return its result as a dict."""
        try:
            result = lib.vdisk_job_run(self.handle)
            if result == -errno.EBUSY and self.progress()["state"] != "ended":
                _abi.check(result)
            return self.finish(result)
        finally:
            self.close()

    def finish(self, result):
        """The result of one that has ended with this number, or its error."""
        if self._raised is not None:
            raise self._raised
        if result < 0:
            raise _abi.error(-result, lib.vdisk_job_get_error_text(self.handle),
                             lib.vdisk_job_get_error_hint(self.handle))
        found = {}
        for get, struct in self._results:
            values = struct()
            _abi.check(get(self.handle, ctypes.byref(values)))
            found.update(values.as_dict())
        return self._refine(found) if self._refine else found

    def cancel(self):
        """Have it stop, with ECANCELED. Any thread."""
        with self._lock:
            if self._handle is not None:
                lib.vdisk_job_cancel(self._handle)

    def progress(self):
        """How far it is: a dict of struct vdisk_job_progress, `state` one of STATES. Any thread."""
        progress = _abi.JobProgress()
        _abi.check(lib.vdisk_job_get_progress(self.handle, ctypes.byref(progress)))
        found = progress.as_dict()
        found["state"] = STATES[found["state"]]
        return found

    def close(self):
        """Free one that has ended, or was not run. What is closed stays so."""
        with self._lock:
            if self._handle is None:
                return
            _abi.check(lib.vdisk_job_free(self._handle))
            self._handle = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def __del__(self):
        if getattr(self, "_handle", None) is not None:
            warnings.warn("a job was not closed", ResourceWarning, source=self)


def object_add(text):
    """vdisk_object_add(): "secret,id=ID,file=PATH"."""
    _abi.check(lib.vdisk_object_add(os.fsencode(text)))


def secret_add(name, data):
    """Data that names refer to by `name`."""
    _abi.check(lib.vdisk_secret_add(name.encode(), bytes(data), len(data)))


def secret_remove(name):
    """Forget it."""
    _abi.check(lib.vdisk_secret_remove(name.encode()))
