# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Requests that do not block.

Queue is the library's own: enqueue, reap. AsyncQueue has the same requests for `await`, on the event loop that
it is made in. Either belongs to the thread that first uses it.
"""
import asyncio
import ctypes
import errno
import os

from . import _abi
from ._abi import lib
from ._volume import buffer_of, request_flags, writable_buffer


class Queue:
    """
    vdisk_queue_create(). Options by name: depth, kind, measure. What is enqueued gets a number, which reap() gives
    back with the outcome; buffers are held till then. Nothing is sent before submit() or reap().
    """

    def __init__(self, **options):
        self._handle = None
        opts = _abi.QueueOpts()
        _abi.options("QUEUE", opts, options)
        handle = ctypes.c_void_p()
        _abi.check(lib.vdisk_queue_create(ctypes.byref(opts), ctypes.byref(handle)))
        self._handle = handle
        self._held = {} # number: what its memory is kept by
        self._last = 0

    @property
    def handle(self):
        """C's; ValueError when it is closed."""
        if self._handle is None:
            raise ValueError("the queue is closed")
        return self._handle

    def close(self):
        """Free it. EBUSY: something has not been reaped."""
        if self._handle is not None:
            _abi.check(lib.vdisk_queue_destroy(self._handle))
            self._handle = None

    @property
    def closed(self):
        return self._handle is None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    @property
    def kind(self):
        """"uring-defer" and so on, for people."""
        return lib.vdisk_queue_kind_name(lib.vdisk_queue_get_kind(self.handle)).decode()

    @property
    def reason(self):
        """Why it has no better kind; ""."""
        return os.fsdecode(lib.vdisk_queue_get_reason(self.handle))

    @property
    def inflight(self):
        """Requests enqueued and not yet reaped."""
        return lib.vdisk_queue_inflight(self.handle)

    def fileno(self):
        """Readable when reap() has something to do."""
        return _abi.check(lib.vdisk_queue_fd(self.handle))

    def wake(self):
        """A reap() that waits returns. Any thread."""
        lib.vdisk_queue_wake(self.handle)

    def _enqueue(self, function, volume, *args, kept=None):
        self._last += 1
        self._held[self._last] = kept
        function(self.handle, volume.handle, *args, self._last)
        return self._last

    def readinto(self, volume, offset, buffer):
        """Fill a writable buffer."""
        address, length, kept = writable_buffer(buffer)
        return self._enqueue(lib.vdisk_read, volume, offset, address, length, 0, kept=kept)

    def write(self, volume, offset, data, *, fua=False):
        """Write bytes-like data, which must not change meanwhile."""
        address, length, kept = buffer_of(data)
        return self._enqueue(lib.vdisk_write, volume, offset, address, length, request_flags(fua), kept=kept)

    def zero(self, volume, offset, length, *, fua=False, unmap=False, no_fallback=False):
        """As Volume.zero()."""
        flags = request_flags(fua, unmap, no_fallback)
        return self._enqueue(lib.vdisk_write_zeroes, volume, offset, length, flags)

    def discard(self, volume, offset, length, *, fua=False):
        """As Volume.discard()."""
        return self._enqueue(lib.vdisk_discard, volume, offset, length, request_flags(fua))

    def prefetch(self, volume, offset, length):
        """The range is going to be read."""
        return self._enqueue(lib.vdisk_prefetch, volume, offset, length, 0)

    def copy_range(self, volume, offset, length, source, source_offset, *, no_fallback=False):
        """Have the host copy a range of another raw volume's file. Of ENOTSUP: read and write it."""
        return self._enqueue(lib.vdisk_copy_range, volume, offset, length, source.handle, source_offset,
                             request_flags(no_fallback=no_fallback), kept=source)

    def flush(self, volume):
        """As Volume.flush(): of what had been reaped before."""
        return self._enqueue(lib.vdisk_flush, volume, 0)

    def start(self, job):
        """Start a job; its number comes back when it has ended."""
        self._last += 1
        _abi.check(lib.vdisk_job_start(job.handle, self.handle, self._last))
        self._held[self._last] = job
        return self._last

    def cancel(self, number):
        """Take a request back, if nothing has been done for it. True: it will end with ECANCELED, when reaped."""
        return lib.vdisk_cancel(self.handle, number) > 0

    def submit(self):
        """Send what is enqueued."""
        _abi.check(lib.vdisk_submit(self.handle))

    def reap(self, at_least=1, at_most=64, timeout=None):
        """
        Wait for completions, or `timeout` seconds. A list of (number, None or the OSError that it is). What is
        more than is in flight is not waited for.
        """
        return [(c.user_data, None if c.result == 0 else self._explain(c))
                for c in self._reap(at_least, at_most, timeout)]

    def _reap(self, at_least, at_most, timeout):
        done = (_abi.Completion * at_most)()
        limit = None
        if timeout is not None:
            limit = ctypes.byref(_abi.Timespec(int(timeout), int(timeout % 1 * 1e9)))
        count = -errno.EINTR
        while count == -errno.EINTR: # Python has handled the signal, and goes on unless that has raised
            count = lib.vdisk_reap(self.handle, done, at_least, at_most, limit)
        _abi.check(count)
        for c in done[:count]:
            self._held.pop(c.user_data, None)
        return done[:count]

    def _explain(self, completion):
        lib.vdisk_explain(self.handle, ctypes.byref(completion))
        return _abi.error(-completion.result, lib.vdisk_error_text(), lib.vdisk_error_hint())


class AsyncQueue:
    """
    Requests to be awaited. Made in a coroutine of the loop that it is for:

        async with vdisk.AsyncQueue() as queue:
            data = await queue.read(volume, 0, 4096)

    What is enqueued in one turn of the loop is sent together. A request whose task is cancelled is taken back
    where that can be, and its memory kept until it has ended.
    """

    def __init__(self, **options):
        self._loop = asyncio.get_running_loop()
        self._queue = Queue(**options)
        self._waiting = {} # number: (future, what cancels it; None: a request)
        self._turn_due = False
        self._loop.add_reader(self._queue.fileno(), self._turn)

    @property
    def queue(self):
        """The Queue below: its kind, say. What is enqueued there directly cannot be reaped."""
        return self._queue

    async def close(self):
        """Wait for all that is under way, and free it."""
        while self._waiting:
            await asyncio.wait([f for f, _ in self._waiting.values()])
            await asyncio.sleep(0)
        if self._queue.closed:
            return
        self._loop.remove_reader(self._queue.fileno())
        self._queue.close()

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        await self.close()

    def _turn(self):
        """Send, and hand out what there is. It does not wait."""
        self._turn_due = False
        while True:
            done = self._queue._reap(0, 64, None)
            for c in done:
                ended, cancel = self._waiting.pop(c.user_data)
                error = self._queue._explain(c) if c.result < 0 and cancel is None else None
                ended.set_result((c.result, error))
            if len(done) < 64:
                return

    async def _wait(self, number, cancel=None):
        """Until it has ended. Its result; raises its error, if it is a request."""
        ended = self._loop.create_future()
        self._waiting[number] = ended, cancel
        if not self._turn_due:
            self._turn_due = True
            self._loop.call_soon(self._turn)
        try:
            result, error = await asyncio.shield(ended)
        except asyncio.CancelledError:
            if number in self._waiting:
                if cancel:
                    cancel()
                else:
                    self._take_back(number)
            raise
        if error is not None:
            raise error
        return result

    def _take_back(self, number):
        try:
            self._queue.cancel(number)
        except OSError: # EALREADY: it goes on
            pass

    async def read(self, volume, offset, length):
        """`length` bytes."""
        data = bytearray(length)
        await self.readinto(volume, offset, data)
        return bytes(data)

    async def readinto(self, volume, offset, buffer):
        """Fill a writable buffer."""
        await self._wait(self._queue.readinto(volume, offset, buffer))

    async def write(self, volume, offset, data, *, fua=False):
        """Write bytes-like data, which must not change meanwhile."""
        await self._wait(self._queue.write(volume, offset, data, fua=fua))

    async def zero(self, volume, offset, length, **flags):
        """As Volume.zero()."""
        await self._wait(self._queue.zero(volume, offset, length, **flags))

    async def discard(self, volume, offset, length, **flags):
        """As Volume.discard()."""
        await self._wait(self._queue.discard(volume, offset, length, **flags))

    async def prefetch(self, volume, offset, length):
        """The range is going to be read."""
        await self._wait(self._queue.prefetch(volume, offset, length))

    async def copy_range(self, volume, offset, length, source, source_offset, **flags):
        """As Queue.copy_range()."""
        await self._wait(self._queue.copy_range(volume, offset, length, source, source_offset, **flags))

    async def flush(self, volume):
        """What had been awaited before is durable."""
        await self._wait(self._queue.flush(volume))

    async def run(self, job):
        """
        Run a job beside all else, and return its result. Cancelling the task cancels the job, whose end close()
        waits for.
        """
        number = self._queue.start(job)
        try:
            return job.finish(await self._wait(number, job.cancel))
        finally:
            if number in self._waiting: # cancelled, and not ended yet
                self._waiting[number][0].add_done_callback(lambda _: job.close())
            else:
                job.close()
