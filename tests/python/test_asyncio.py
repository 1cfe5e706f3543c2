#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The Python package within an event loop."""
import asyncio
import errno
import os
import pathlib
import random
import tempfile
import unittest

import vdisk

SIZE = 16 << 20


class Async(unittest.IsolatedAsyncioTestCase):
    def setUp(self):
        self.tmp = tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR"))
        self.addCleanup(self.tmp.cleanup)
        self.path = pathlib.Path(self.tmp.name, "disk")
        vdisk.create(self.path, SIZE, format="qcow2")
        self.volume = vdisk.Volume(self.path, writable=True)
        self.addCleanup(self.volume.close)
        self.random = random.Random(1)

    async def test_many(self):
        piece = 10000
        data = self.random.randbytes(piece * 200)
        for kind in ("auto", "uring", "threads"):
            async with vdisk.AsyncQueue(kind=kind) as queue:
                await asyncio.gather(*(queue.write(self.volume, i * piece, data[i * piece:(i + 1) * piece])
                                       for i in range(200)))
                await queue.flush(self.volume)
                parts = await asyncio.gather(*(queue.read(self.volume, i * piece, piece) for i in range(200)))
                self.assertEqual(b"".join(parts), data)
                await queue.zero(self.volume, 0, piece, unmap=True)
                await queue.discard(self.volume, 1 << 20, 1 << 20)
                await queue.prefetch(self.volume, 0, SIZE)
                self.assertEqual(await queue.read(self.volume, 0, piece), bytes(piece))

    async def test_one_after_another(self):
        async with vdisk.AsyncQueue() as queue:
            for i in range(200):
                await queue.write(self.volume, i * 4096, bytes([i]) * 4096)
            for i in range(200):
                self.assertEqual(await queue.read(self.volume, i * 4096, 4096), bytes([i]) * 4096)

    async def test_two_queues(self):
        async with vdisk.AsyncQueue() as a, vdisk.AsyncQueue() as b:
            await asyncio.gather(*((a, b)[i % 2].write(self.volume, i * 5000, bytes([i]) * 5000)
                                   for i in range(100)))
            for i in range(100):
                self.assertEqual(await a.read(self.volume, i * 5000, 5000), bytes([i]) * 5000)

    async def test_errors(self):
        async with vdisk.AsyncQueue() as queue:
            with self.assertRaises(OSError) as caught:
                await queue.read(self.volume, SIZE, 1)
            self.assertEqual(caught.exception.errno, errno.EINVAL)
            self.assertIn("disk", str(caught.exception))
            done = await asyncio.gather(*(queue.read(self.volume, SIZE - 512 * (i % 2), 512) for i in range(100)),
                                        return_exceptions=True)
            self.assertEqual([isinstance(d, OSError) for d in done], [i % 2 == 0 for i in range(100)])

    async def test_cancelled(self):
        """Whatever becomes of the request, its memory is there till it ends, and the queue goes on."""
        async with vdisk.AsyncQueue() as queue:
            for turns in range(4):
                tasks = [asyncio.ensure_future(queue.write(self.volume, i << 16, bytes([i]) * 65536))
                         for i in range(50)]
                for _ in range(turns):
                    await asyncio.sleep(0)
                for task in tasks[::2]:
                    task.cancel()
                done = await asyncio.gather(*tasks, return_exceptions=True)
                self.assertTrue(all(d is None for d in done[1::2]))
                self.assertTrue(all(d is None or isinstance(d, asyncio.CancelledError) for d in done[::2]))
            self.assertEqual(await queue.read(self.volume, 1 << 16, 1), b"\1")
            asyncio.ensure_future(queue.write(self.volume, 0, b"x")).cancel()

    async def test_jobs(self):
        """They run beside requests; progress is told; an error has its words."""
        seen = []
        other = self.path.with_name("other")
        async with vdisk.AsyncQueue() as queue:
            await queue.write(self.volume, 0, b"y" * 65536)
            job = vdisk.create_job(other, SIZE, preallocation="full", progress=lambda *how: seen.append(how))
            made, read = await asyncio.gather(queue.run(job), queue.read(self.volume, 0, 4))
            self.assertEqual((made["virtual_size"], read), (SIZE, b"yyyy"))
            self.assertTrue(seen)
            with vdisk.Volume(other, writable=True, format="raw") as target:
                await queue.run(vdisk.copy_job(self.volume, target))
                self.assertEqual(await queue.read(target, 65532, 8), b"yyyy\0\0\0\0")
            with self.assertRaises(FileNotFoundError) as caught:
                await queue.run(vdisk.check_job(self.path.with_name("none"), format="qcow2"))
            self.assertIn("none", str(caught.exception))

    async def test_job_cancelled(self):
        begun = asyncio.Event()
        loop = asyncio.get_running_loop()

        def progress(_done, _total):
            loop.call_soon_threadsafe(begun.set)

        async with vdisk.AsyncQueue() as queue:
            with vdisk.Volume("null:1T", writable=True, format="raw") as a, \
                    vdisk.Volume("null:1T", writable=True, format="raw") as b:
                task = asyncio.ensure_future(queue.run(vdisk.copy_job(a, b, progress=progress, rate=1 << 20)))
                await begun.wait()
                task.cancel()
                with self.assertRaises(asyncio.CancelledError):
                    await task
                await queue.close() # waits for it: the volumes can be closed


if __name__ == "__main__":
    unittest.main()
