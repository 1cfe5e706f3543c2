#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Volumes, jobs and queues by the Python package."""
import errno
import hashlib
import os
import pathlib
import random
import tempfile
import unittest

import vdisk

SIZE = 16 << 20


class Case(unittest.TestCase):
    def setUp(self):
        self.tmp = tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR"))
        self.addCleanup(self.tmp.cleanup)
        self.path = pathlib.Path(self.tmp.name, "disk")
        self.random = random.Random(1)

    def make(self, name="disk", size=SIZE, **options):
        path = self.path.with_name(name)
        vdisk.create(path, size, **{"format": "qcow2", **options})
        return path

    def open(self, path, **options):
        volume = vdisk.Volume(path, **{"writable": True, **options})
        self.addCleanup(volume.close)
        return volume


class Data(Case):
    def test_life(self):
        made = vdisk.create(self.path, SIZE, format="qcow2", cluster_size="4K", extended_l2=False)
        self.assertEqual(made["virtual_size"], SIZE)
        self.assertGreater(made["file_size"], 0)
        data = self.random.randbytes(100001)
        with vdisk.Volume(self.path, writable=True, format="qcow2") as volume:
            volume.write(12345, data)
            volume.write(1 << 20, memoryview(bytearray(data))[1:1000:1], fua=True)
            volume.write(2 << 20, memoryview(data)[5:50])
            volume.flush()
            self.assertEqual(volume.size, SIZE)
            self.assertEqual(volume.info()["cluster_size"], 4096)
            self.assertEqual(volume.info()["format"], "qcow2")
            self.assertIsNone(volume.info()["trouble"])
            self.assertEqual(volume.stats()["write"]["requests"], 3)
            self.assertEqual(volume.stats()["write"]["bytes"], len(data) + 999 + 45)
        self.assertTrue(volume.closed)
        volume.close()
        self.assertRaises(ValueError, volume.read, 0, 1)
        with vdisk.Volume(os.fsencode(self.path)) as volume:
            self.assertEqual(volume.read(12345, len(data)), data)
            self.assertEqual(volume.read(1 << 20, 1000), data[1:1000] + b"\0")
            self.assertEqual(volume.read(2 << 20, 45), data[5:50])
            self.assertEqual(volume.image()["cluster_size"], 4096)
        self.assertEqual(vdisk.check(self.path)["corruptions"], 0)

    def test_zero_and_extents(self):
        with self.open(self.make()) as volume:
            volume.write(0, b"x" * (4 << 16))
            volume.zero(1 << 16, 1 << 16)
            volume.discard(2 << 16, 1 << 16)
            kinds = [(e.offset >> 16, e.length >> 16, e.data, e.zero) for e in volume.extents()]
            self.assertEqual(kinds[0], (0, 1, True, False))
            self.assertEqual([k for k in kinds if k[0] == 3], [(3, 1, True, False)])
            self.assertEqual(sum(k[1] for k in kinds), SIZE >> 16)
            self.assertEqual([e.host_offset is not None for e in volume.extents(0, 1 << 16)], [True])
            self.assertEqual(volume.read(1 << 16, 2 << 16), bytes(2 << 16))

    def test_many_extents(self):
        with self.open(self.make(cluster_size=4096)) as volume:
            for i in range(0, 1000, 2):
                volume.write(i * 4096, b"x" * 4096)
            found = list(volume.extents())
            self.assertEqual(len(found), 1000)
            self.assertEqual([e.data for e in found[:999]], [i % 2 == 0 for i in range(999)])

    def test_resize_and_trim(self):
        with self.open(self.make()) as volume:
            self.assertEqual(volume.resize(2 * SIZE, preallocation="metadata"),
                             {"old_size": SIZE, "virtual_size": 2 * SIZE})
            with self.assertRaises(OSError) as caught:
                volume.resize(SIZE)
            self.assertEqual(caught.exception.errno, errno.EINVAL)
            volume.resize(SIZE, shrink=True)
            self.assertEqual(volume.size, SIZE)
            volume.trim()

    def test_chain_and_image(self):
        base = self.make("base")
        with self.open(base) as volume:
            volume.write(0, b"below")
        top = self.make("top", None, backing_file="base", backing_fmt="qcow2")
        with self.open(top) as volume:
            self.assertEqual(volume.read(0, 5), b"below")
            self.assertEqual(volume.info()["depth"], 2)
        self.assertEqual(vdisk.image(top)["backing_file"], "base")
        self.assertEqual(vdisk.image(top)["backing_name"], str(base))
        self.assertIsNone(vdisk.image(base)["backing_file"])

    def test_descriptors(self):
        path = self.make()
        fd = os.open(path, os.O_RDWR)
        try:
            with vdisk.Volume("elsewhere", fds={None: fd}, writable=True, format="qcow2") as volume:
                volume.write(0, b"by descriptor")
        finally:
            os.close(fd)
        with self.open(path) as volume:
            self.assertEqual(volume.read(0, 13), b"by descriptor")

    def test_secrets(self):
        vdisk.secret_add("mine", b"data")
        self.assertRaises(OSError, vdisk.object_add, "secret,id=mine,data=x")
        vdisk.secret_remove("mine")
        vdisk.object_add("secret,id=mine,data=x")
        vdisk.secret_remove("mine")


class Errors(Case):
    def test_subclasses(self):
        with self.assertRaises(FileNotFoundError) as caught:
            vdisk.Volume(self.path)
        self.assertIn("disk", str(caught.exception))
        self.assertEqual(caught.exception.errno, errno.ENOENT)
        self.assertIsInstance(caught.exception.hint, str)
        path = self.make()
        with self.open(path):
            with self.assertRaises(BlockingIOError) as caught:
                vdisk.Volume(path, writable=True)
            self.assertIn("locked for writing", str(caught.exception))
        with self.open(path, writable=False) as volume:
            self.assertRaises(PermissionError, volume.write, 0, b"x")

    def test_options(self):
        self.assertRaises(TypeError, vdisk.Volume, self.path, colour="red")
        self.assertRaises(ValueError, vdisk.Volume, self.path, writable="maybe")
        self.assertRaises(ValueError, vdisk.create, self.path, SIZE, preallocation="some")
        self.assertFalse(self.path.exists())

    def test_range(self):
        with self.open(self.make()) as volume:
            self.assertRaises(OSError, volume.read, SIZE, 1)
            with self.assertRaises(TypeError):
                volume.readinto(0, b"constant")


class Jobs(Case):
    def test_progress(self):
        seen = []
        vdisk.create(self.path, SIZE, preallocation="full", progress=lambda *how: seen.append(how))
        self.assertEqual(seen, sorted(seen))
        self.assertTrue(0 < seen[-1][0] <= seen[-1][1])

    def test_stops(self):
        with self.assertRaises(OSError) as caught:
            vdisk.create(self.path, SIZE, preallocation="full", progress=lambda done, total: True)
        self.assertEqual(caught.exception.errno, errno.ECANCELED)
        self.assertFalse(self.path.exists())

    def test_raises(self):
        def progress(_done, _total):
            raise ZeroDivisionError("mine")

        self.assertRaises(ZeroDivisionError, vdisk.create, self.path, SIZE, preallocation="full",
                          progress=progress)
        path = self.make("other")
        self.assertRaises(ZeroDivisionError, vdisk.Volume, path, progress=progress)

    def test_by_hand(self):
        with vdisk.create_job(self.path, SIZE) as job:
            self.assertEqual(job.progress()["state"], "new")
            job.cancel()
            self.assertRaises(OSError, job.run)
        self.assertRaises(ValueError, job.progress)

    def test_copy_and_compare(self):
        data = self.random.randbytes(3 << 20)
        with self.open(self.make("a")) as a, self.open(self.make("b", format="raw"), format="raw") as b:
            a.write(1 << 20, data)
            result = vdisk.copy(a, b, target_is_zero=True)
            self.assertEqual(result["bytes_total"], SIZE)
            self.assertGreaterEqual(result["bytes_written"], len(data))
            self.assertEqual(b.read(1 << 20, len(data)), data)
            self.assertIsNone(vdisk.compare(a, b)["difference"])
            b.write(5 << 20, b"x")
            result = vdisk.compare(a, b)
            self.assertEqual((result["difference"], result["offset"]), ("content", 5 << 20))
            self.assertRaises(OSError, vdisk.copy, a, a)

    def test_digests(self):
        data = self.random.randbytes(5 << 20)
        told = {}

        def note(first, count, digest):
            told.update(dict.fromkeys(range(first, first + count), digest))

        with self.open(self.make("a")) as a, self.open(self.make("b")) as b:
            a.write(3 << 20, data)
            result = vdisk.copy(a, b, block_digest=note)
            whole = a.read(0, SIZE)
            blocks = [hashlib.blake2b(whole[i << 22:(i + 1) << 22], digest_size=32).digest() for i in range(4)]
            self.assertEqual(told, dict(enumerate(blocks)))
            self.assertEqual(result["digest"], hashlib.blake2b(b"".join(blocks), digest_size=32).digest())
            self.assertRaises(OSError, vdisk.copy, a, b, block_digest=lambda *_: True)

    def make_chain(self):
        """base <- middle <- top, and what the top reads as."""
        self.make("base")
        self.make("middle", None, backing_file="base", backing_fmt="qcow2")
        self.make("top", None, backing_file="middle", backing_fmt="qcow2")
        for i, name in enumerate(("base", "middle", "top")):
            with self.open(self.path.with_name(name)) as volume:
                volume.write(i << 20, self.random.randbytes(3 << 20))
        with self.open(self.path.with_name("top"), writable=False) as volume:
            return volume.read(0, SIZE)

    def content(self, name, **options):
        with self.open(self.path.with_name(name), writable=False, **options) as volume:
            return volume.read(0, SIZE)

    def test_commit(self):
        data, told = self.make_chain(), []
        result = vdisk.commit(self.path.with_name("top"), progress=lambda *at: told.append(at))
        self.assertEqual((result["base_depth"], result["grown"]), (1, False))
        self.assertGreaterEqual(result["bytes_written"], 3 << 20)
        self.assertEqual(told[-1][0], told[-1][1])
        self.assertEqual(self.content("middle"), data)
        self.assertEqual(vdisk.check(self.path.with_name("top"))["allocated_clusters"], 0)
        result = vdisk.commit(self.path.with_name("top"), base="base", format="qcow2", checkpoint=told.append,
                              checkpoint_ms=1, memory_max=1 << 20, depth=2, cache_bytes=1 << 20)
        self.assertEqual(result["base_depth"], 2)
        self.assertIn(SIZE, told)
        self.assertEqual(self.content("base"), data)

    def test_commit_refused(self):
        self.make_chain()
        self.assertRaises(OSError, vdisk.commit, self.path.with_name("base"))
        self.assertRaises(OSError, vdisk.commit, self.path.with_name("top"), base="elsewhere")
        self.assertRaises(FileNotFoundError, vdisk.commit, self.path.with_name("absent"))
        before = self.content("middle")
        self.assertRaises(RuntimeError, vdisk.commit, self.path.with_name("top"), progress=self.stop)
        self.assertEqual(len(before), SIZE)
        vdisk.commit(self.path.with_name("top"), keep=True, rate=1 << 30, buffered=True)
        self.assertGreater(vdisk.check(self.path.with_name("top"))["allocated_clusters"], 0)

    def stop(self, *_):
        raise RuntimeError("enough")

    def test_rebase(self):
        data, top = self.make_chain(), self.path.with_name("top")
        result = vdisk.rebase(top, "base", "qcow2", memory_max=4 << 20, backing_force_share=True)
        self.assertGreater(result["bytes_written"], 0)
        self.assertEqual(self.content("top"), data)
        self.assertEqual(vdisk.image(top)["backing_file"], "base")
        vdisk.rebase(top, compress=True, rate=1 << 30)
        self.assertIsNone(vdisk.image(top)["backing_file"])
        self.assertEqual(self.content("top"), data)
        vdisk.rebase(top, "nowhere", "raw", unsafe=True)
        self.assertEqual(vdisk.image(top)["backing_file"], "nowhere")
        self.assertRaises(OSError, vdisk.rebase, top, "base")
        self.assertRaises(OSError, vdisk.rebase, self.path.with_name("middle"), "absent", "raw")

    def test_amend(self):
        with self.open(self.make()) as volume:
            volume.write(5 << 20, b"x" * 100000)
            self.assertEqual(vdisk.amend(volume, compat="0.10"), {})
            self.assertEqual(volume.image()["version"], 2)
            vdisk.amend(volume, compat="1.1", lazy_refcounts=True, refcount_bits=64, size=2 * SIZE)
            seen = volume.image()
            self.assertEqual((seen["version"], seen["lazy_refcounts"], seen["refcount_bits"], volume.size),
                             (3, True, 64, 2 * SIZE))
            vdisk.amend(volume, lazy_refcounts=False)
            self.assertFalse(volume.image()["lazy_refcounts"])
            self.assertRaises(OSError, vdisk.amend, volume, size=SIZE)
            vdisk.amend(volume, size=SIZE, shrink=True)
            self.assertRaises(OSError, vdisk.amend, volume, refcount_bits=3)
            self.assertRaises(KeyError, vdisk.amend, volume, compat="2")
            self.assertEqual(volume.read(5 << 20, 100000), b"x" * 100000)
        self.make("below")
        with self.open(self.path) as volume:
            vdisk.amend(volume, backing_file="below", backing_fmt="qcow2")
        self.assertEqual(vdisk.image(self.path)["backing_file"], "below")
        self.assertEqual(vdisk.check(self.path)["corruptions"], 0)

    def test_check_and_repair(self):
        path = self.make()
        with self.open(path) as volume:
            volume.write(0, b"x" * 65536)
        with open(path, "r+b") as file: # a cluster that nothing refers to is in use
            file.truncate(101 * 65536)
            file.seek(48)
            file.seek(int.from_bytes(file.read(8), "big"))
            file.seek(int.from_bytes(file.read(8), "big") + 2 * 100)
            file.write(b"\0\1")
        found = []
        result = vdisk.check(path, report=lambda kind, text: found.append((kind, text)))
        self.assertEqual((result["leaks"], [kind for kind, _ in found]), (1, ["leak"]))
        self.assertEqual(vdisk.check(path, repair="leaks")["leaks_fixed"], 1)
        self.assertEqual(vdisk.check(path)["leaks"], 0)
        self.assertRaises(KeyError, vdisk.check, path, repair="most")


class Queues(Case):
    def test_requests(self):
        data = self.random.randbytes(1 << 20)
        with self.open(self.make()) as volume:
            for kind in ("auto", "uring", "threads"):
                with vdisk.Queue(depth=16, kind=kind) as queue:
                    numbers = [queue.write(volume, i << 16, data[i << 16:(i + 1) << 16]) for i in range(16)]
                    self.assertEqual(queue.inflight, 16)
                    self.assertEqual(self.drain(queue), dict.fromkeys(numbers))
                    buffer = bytearray(len(data))
                    queue.readinto(volume, 0, buffer)
                    queue.flush(volume)
                    bad = queue.zero(volume, SIZE, 1)
                    done = self.drain(queue)
                    self.assertEqual(buffer, data)
                    self.assertEqual(done.pop(bad).errno, errno.EINVAL)
                    self.assertEqual(set(done.values()), {None})
                    self.assertTrue(queue.kind)

    def drain(self, queue):
        found = {}
        while queue.inflight:
            found.update(queue.reap(timeout=5))
        return found

    def test_copy_range(self):
        data = self.random.randbytes(1 << 20)
        volumes = [self.open(self.make(name, format="raw"), format="raw") for name in ("one", "other")]
        volumes[0].write(0, data)
        with vdisk.Queue() as queue:
            number = queue.copy_range(volumes[1], 2 << 20, len(data), volumes[0], 0)
            bad = queue.copy_range(volumes[1], 0, len(data), volumes[1], 4 << 20)
            done = self.drain(queue)
        self.assertEqual(done[bad].errno, errno.EINVAL)
        self.assertIsNone(done[number])
        self.assertEqual(volumes[1].read(2 << 20, len(data)), data)
        self.assertEqual(volumes[1].stats()["copy"]["requests"], 2)

    def test_busy_and_cancel(self):
        with self.open(self.make()) as volume, vdisk.Queue() as queue:
            number = queue.write(volume, 0, b"x" * 4096)
            self.assertRaises(OSError, queue.close)
            self.assertTrue(queue.cancel(number))
            self.assertEqual(self.drain(queue)[number].errno, errno.ECANCELED)
            self.assertEqual(queue.reap(timeout=0.01), [])


if __name__ == "__main__":
    unittest.main()
