#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""vdisk-io on hosts where one call fails: each verb, each call of it, with each errno that it can have.

What is refused has changed nothing; what fails later says what is left; nothing is removed that the command did
not make; the exit code is right, there is a text, nothing hangs or dies. Also through links, over devices of 512
and 4096 bytes, with ragged ends, on file systems of several kinds, one of them full, and where a quota ends.

usage: surroundings.py VDISK_IO INTERPOSE [--only SCENARIO] [--seed N] [--runs N] [--list]

A fault is told with the command that repeats it: --only 'PLACE/SCENARIO/CALL,NTH,ERRNO[,done][/noring]'.
"""
import argparse
import errno
import hashlib
import os
import pathlib
import random
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time

E = errno
# What each call of interpose.c can fail with.
ERRNOS = {
    "open": [E.EACCES, E.EPERM, E.ENOENT, E.EMFILE, E.ENFILE, E.ENOMEM, E.ENOSPC, E.EDQUOT, E.EROFS, E.EIO,
             E.ELOOP, E.EINTR, E.ETXTBSY, E.EBUSY, E.EINVAL, E.EOVERFLOW, E.ENXIO],
    "lock": [E.EAGAIN, E.EACCES, E.ENOLCK, E.EINVAL, E.EIO, E.EINTR, E.EOPNOTSUPP],
    "setfl": [E.EINVAL, E.EPERM, E.EIO],
    "stat": [E.EACCES, E.EIO, E.ENOMEM, E.ENOENT, E.ELOOP], "lstat": [E.EACCES, E.EIO, E.ENOMEM],
    "fstat": [E.EIO, E.ENOMEM, E.EOVERFLOW], "statx": [E.ENOSYS, E.EINVAL, E.EIO],
    "fstatvfs": [E.EIO, E.ENOSYS, E.ENOMEM], "fstatfs": [E.EIO, E.ENOSYS],
    "ftruncate": [E.EFBIG, E.EPERM, E.EIO, E.ENOSPC, E.EDQUOT, E.ETXTBSY, E.EINTR, E.EINVAL],
    "fallocate": [E.ENOSPC, E.EDQUOT, E.EOPNOTSUPP, E.ENOSYS, E.EIO, E.EINTR, E.EFBIG, E.EPERM],
    "fdatasync": [E.EIO, E.ENOSPC, E.EDQUOT], "unlink": [E.EACCES, E.EIO, E.EBUSY, E.EROFS],
    "lseek": [E.EINVAL, E.EIO, E.ENXIO], "ioctl": [E.EIO, E.ENOTTY, E.EINVAL, E.EOPNOTSUPP], "mmap": [E.ENOMEM],
    "copy_range": [E.EIO, E.ENOSPC, E.EXDEV, E.EINVAL, E.EINTR],
    "eventfd": [E.EMFILE, E.ENFILE, E.ENOMEM], "readlink": [E.EACCES, E.EIO],
    "ring_init": [E.ENOMEM, E.EMFILE, E.ENFILE, E.ENOSYS, E.EPERM, E.EINVAL],
    "ring_register": [E.EINVAL, E.EPERM, E.ENOMEM], "ring_enter": [E.EINTR, E.EAGAIN, E.EBUSY, E.ENOMEM, E.EPERM],
    "thread": [E.EAGAIN], "read": [E.EIO, E.EINTR, E.EAGAIN, E.EINVAL],
    "write": [E.EIO, E.ENOSPC, E.EDQUOT, E.EINTR, E.EAGAIN, E.EFBIG],
    # Completions of a ring; ENODATA and what follows it are block devices'.
    "ring_read": [E.EIO, E.EINTR, E.EAGAIN, E.EINVAL, E.ENOMEM, E.ENODATA, E.EILSEQ, E.ENOLINK, E.EREMOTEIO,
                  E.ETIMEDOUT],
    "ring_write": [E.EIO, E.ENOSPC, E.EDQUOT, E.EINTR, E.EAGAIN, E.EFBIG, E.EPERM, E.ENOMEM, E.EROFS, E.ENODATA,
                   E.ENOLINK, E.ETIMEDOUT],
    "ring_fsync": [E.EIO, E.ENOSPC, E.EDQUOT, E.EINTR, E.EROFS],
    "ring_fallocate": [E.ENOSPC, E.EDQUOT, E.EOPNOTSUPP, E.EIO, E.EINTR, E.EFBIG, E.EPERM],
    "ring_poll": [E.ENOMEM, E.ECANCELED],
    "fsync": [E.EIO, E.ENOSPC], "rename": [E.EACCES, E.EIO, E.ENOSPC],
}
COMPLETIONS = ("ring_read", "ring_write", "ring_fsync", "ring_fallocate", "ring_poll")
DONE = {"ftruncate": [E.EIO, E.EINTR], "fallocate": [E.EIO], "fdatasync": [E.EIO], "write": [E.EIO],
        "unlink": [E.EIO]}
# Failures that are answers: always tried. This one says that nothing but a hole follows.
ANSWERS = {"lseek": f"lseek,1,{E.ENXIO}"}
# And the size that is told as not changed, but is: each of them.
SIZE_AFTER_ALL = f"{E.EIO},done"
LEFT = ("is left empty", "no longer holds", "may be left empty", "is left longer")

# name: (kind, arguments, files that it makes or replaces or changes). Kinds: create, change, read.
SCENARIOS = {
    "create raw over": ("create", "create -q -f raw old.qcow2 3M", ["old.qcow2"]),
    "create raw full over": ("create", "create -q -f raw -o preallocation=full hard.raw 2M", ["hard.raw"]),
    "create raw falloc over": ("create", "create -q -f raw -o preallocation=falloc old.raw 2M", ["old.raw"]),
    "create over": ("create", "create -q -f qcow2 old.qcow2 1M", ["old.qcow2"]),
    "create smaller over": ("create", "create -q -f qcow2 -o cluster_size=4k old.raw 1M", ["old.raw"]),
    "create full over": ("create", "create -q -f qcow2 -o preallocation=full link 2M", ["old.qcow2"]),
    "create falloc over": ("create", "create -q -f qcow2 -o preallocation=falloc old.raw 2M", ["old.raw"]),
    "create metadata over": ("create", "create -q -f qcow2 -o preallocation=metadata link 2M", ["old.qcow2"]),
    "create new": ("create", "create -q -f qcow2 new 1M", ["new"]),
    "create raw new": ("create", "create -q -f raw -o preallocation=falloc new 1M", ["new"]),
    "create through a link to nothing": ("create", "create -q -f qcow2 void 1M", ["nothing"]),
    "create overlay over": ("create", "create -q -f qcow2 -b base.qcow2 -F qcow2 old.qcow2", ["old.qcow2"]),
    "create overlay new": ("create", "create -q -f qcow2 -b top.qcow2 -F qcow2 new", ["new"]),
    "create with data file over": ("create", "create -q -f qcow2 -o data_file=old.raw old.qcow2 1M",
                                   ["old.qcow2", "old.raw"]),
    "create with raw data file": ("create", "create -q -f qcow2 -o data_file=new.raw,data_file_raw=on,"
                                  "preallocation=full new 1M", ["new", "new.raw"]),
    "create with new data file over": ("create", "create -q -f qcow2 -o data_file=void link 1M",
                                       ["old.qcow2", "nothing"]),
    "info": ("read", "info old.qcow2", []),
    "info chain": ("read", "info --backing-chain --output json top.qcow2", []),
    "info data file": ("read", "info ext.qcow2", []), "map": ("read", "map top.qcow2", []),
    "map raw": ("read", "map --output json ragged.raw", []), "check": ("read", "check leaky.qcow2", []),
    "check data file": ("read", "check ext.qcow2", []),
    "read": ("read", "io -r -c 'read 0 1M' top.qcow2", []),
    "read raw": ("read", "io -n -r -c 'read 0 1000k' link.raw", []),
    "repair": ("change", "check -q -r all leaky.qcow2", ["leaky.qcow2"]),
    "repair with a snapshot": ("change", "check -q -r all snap.qcow2", ["snap.qcow2"]),
    "write": ("change", "io -n -c 'write -P 0x77 100k 300k' -c flush old.qcow2", ["old.qcow2"]),
    "write all": ("change", "io -n -c 'write -P 0x77 0 2M' -c flush old.qcow2", ["old.qcow2"]),
    "write raw all": ("change", "io -f raw -c 'write -P 0x77 0 1M' -c flush old.raw", ["old.raw"]),
    "write overlay all": ("change", "io -c 'write -P 0x77 0 1M' -c flush top.qcow2", ["top.qcow2"]),
    "write data file all": ("change", "io -c 'write -P 0x77 0 1M' -c flush ext.qcow2", ["ext.qcow2", "ext.data"]),
    "write through": ("change", "io -c 'write -f -P 0x77 1000 70000' link", ["old.qcow2"]),
    "write raw": ("change", "io -f raw -n -c 'write -P 0x77 900k 5000' -c flush old.raw", ["old.raw"]),
    "write ragged": ("change", "io -f raw -c 'write -P 0x77 999k 900' -c flush ragged.raw", ["ragged.raw"]),
    "write overlay": ("change", "io -n -c 'write -P 0x77 3000 5000' -c flush top.qcow2", ["top.qcow2"]),
    "write data file": ("change", "io -n -c 'write -P 0x77 5k 200k' -c flush ext.qcow2",
                        ["ext.qcow2", "ext.data"]),
    "zero": ("change", "io -c 'write -z -u 0 400k' -c flush old.qcow2", ["old.qcow2"]),
    "discard": ("change", "io -c 'discard 0 512k' -c flush old.qcow2", ["old.qcow2"]),
    "grow": ("change", "resize -q old.qcow2 9M", ["old.qcow2"]),
    "grow full": ("change", "resize -q --preallocation=full old.qcow2 3M", ["old.qcow2"]),
    "grow falloc": ("change", "resize -q --preallocation=falloc link 3M", ["old.qcow2"]),
    "grow raw": ("change", "resize -q -f raw old.raw 3M", ["old.raw"]),
    "grow raw full": ("change", "resize -q -f raw --preallocation=full ragged.raw 2M", ["ragged.raw"]),
    "shrink": ("change", "resize -q --shrink old.qcow2 1M", ["old.qcow2"]),
    "shrink raw": ("change", "resize -q --shrink -f raw old.raw 512k", ["old.raw"]),
    "commit": ("change", "commit -q over.qcow2", ["over.qcow2", "small.raw"]),
    "commit to a data file": ("change", "commit -q over.ext.qcow2", ["over.ext.qcow2", "ext.qcow2", "ext.data"]),
    "commit and keep": ("change", "commit -q -d over.qcow2", ["over.qcow2", "small.raw"]),
    "rebase": ("change", "rebase -q -b old.qcow2 -F qcow2 over.qcow2", ["over.qcow2"]),
    "rebase onto nothing": ("change", "rebase -q -b '' over.qcow2", ["over.qcow2"]),
    "rebase unsafe": ("change", "rebase -q -u -b base.qcow2 -F qcow2 top.qcow2", ["top.qcow2"]),
    "convert raw": ("create", "convert -q -f raw -O raw ragged.raw new", ["new"]),
    "convert raw over": ("create", "convert -q -f raw -O raw small.raw old.raw", ["old.raw"]),
    "convert two raw": ("create", "convert -q -f raw -O raw small.raw link.raw new", ["new"]),
    "convert raw into": ("change", "convert -q -n -C -f raw -O raw small.raw old.raw", ["old.raw"]),
    "dd raw": ("create", "dd -f raw -O raw bs=4k skip=7 count=90 if=link.raw of=new", ["new"]),
    "measure": ("read", "measure -O qcow2 over.qcow2", []),
    "create on a device": ("create", "create -q -f qcow2 dev 4M", ["dev"]),
    "create full on a device": ("create", "create -q -f qcow2 -o preallocation=full dev 4M", ["dev"]),
    "create raw on a device": ("create", "create -q -f raw -o preallocation=full dev 4M", ["dev"]),
    "create on too small a device": ("create", "create -q -f qcow2 -o preallocation=full dev 64M", ["dev"]),
    "write to a device": ("change", "io -f raw -n -c 'write -P 0x77 3000 9000' -c flush dev", ["dev"]),
}


def sh(command, **how):
    return subprocess.run(command, shell=isinstance(command, str), capture_output=True, text=True, **how)


class Place:
    """A folder on some file system, with a template of the files, and a working copy of it."""

    def __init__(self, name, root, device=None):
        self.name, self.device = name, device
        self.quota = root if name == "quota" else None
        self.template, self.work = root / "template", root / "work"
        self.template.mkdir()
        self.prepare(self.template)
        self.restore()

    def prepare(self, d):
        script = """set -e
        qemu-img create -q -f qcow2 old.qcow2 2M
        qemu-io -c 'write -q -P 1 0 500k' -c 'write -q -P 2 1M 100k' old.qcow2
        truncate -s 1M old.raw; qemu-io -f raw -c 'write -q -P 3 0 950k' old.raw; chmod 640 old.raw old.qcow2
        head -c 1000777 old.raw >ragged.raw; head -c 700000 old.raw >hard.raw; ln hard.raw hard2.raw
        ln -s old.qcow2 link; ln -s old.raw link.raw; ln -s nothing void
        qemu-img create -q -f qcow2 base.qcow2 1M; qemu-io -c 'write -q -P 4 0 300k' base.qcow2
        qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 top.qcow2
        qemu-img create -q -f qcow2 -o data_file=ext.data ext.qcow2 1M
        qemu-io -c 'write -q -P 5 0 100k' ext.qcow2; truncate -s 600k small.raw
        qemu-io -f raw -c 'write -q -P 6 0 500k' small.raw
        qemu-img create -q -f qcow2 -b small.raw -F raw over.qcow2 1M
        qemu-io -c 'write -q -P 7 100k 300k' -c 'write -q -z 450k 200k' -c 'write -q -P 8 900k 100k' over.qcow2
        qemu-img create -q -f qcow2 -b ext.qcow2 -F qcow2 over.ext.qcow2 1M
        qemu-io -c 'write -q -P 7 50k 300k' over.ext.qcow2; cp old.qcow2 leaky.qcow2
        cp old.qcow2 snap.qcow2; qemu-img snapshot -c one snap.qcow2
        printf '\\0\\1' | dd of=leaky.qcow2 bs=1 seek=$((0x20000 + 40)) conv=notrunc status=none
        """
        r = sh(["bash", "-c", script], cwd=d)
        if r.returncode != 0:
            raise RuntimeError(f"{self.name}: {r.stderr}")

    def restore(self):
        if self.quota:
            sh(["btrfs", "qgroup", "limit", "none", str(self.quota)])
        self.copy()
        if self.quota:
            limit(self.quota)

    def copy(self):
        shutil.rmtree(self.work, ignore_errors=True)
        r = sh(["cp", "-a", str(self.template), str(self.work)])
        if r.returncode != 0:
            raise RuntimeError(f"{self.name}: {r.stderr}")
        if self.device:
            (self.work / "dev").symlink_to(self.device)
            self.restore_device()

    def restore_device(self):
        with open(self.device, "r+b") as f:
            for i in range(8):
                f.write(bytes([0x40 + i]) * (1 << 20))

    def shot(self):
        """{name: what is known of it}; content is a hash."""
        found = {}
        for path in sorted(self.work.iterdir()):
            st = path.lstat()
            content = os.readlink(path) if stat.S_ISLNK(st.st_mode) else digest(path)
            found[path.name] = (st.st_ino, st.st_mode, st.st_uid, st.st_gid, st.st_nlink, st.st_size, content)
        if self.device:
            found["dev"] += (digest(self.device),)
        return found


def digest(path):
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha1").hexdigest()


guests = {}


def guest(path, content, raw):
    """What a guest reads; None: not an image."""
    key = (content, raw)
    if key not in guests:
        if raw:
            guests[key] = path.read_bytes()
        else:
            out = args.scratch / "guest"
            r = sh(["qemu-img", "convert", "-U", "-f", "qcow2", "-O", "raw", path.name, str(out)], cwd=path.parent)
            guests[key] = out.read_bytes() if r.returncode == 0 else None
    return guests[key]


class Test:
    def __init__(self, tool, interpose, place, name):
        self.tool, self.interpose, self.place, self.name = tool, interpose, place, name
        self.kind, self.arguments, self.subjects = SCENARIOS[name]
        self.before = place.shot()
        self.clean = {}

    def run(self, fail=None, count=None, noring=False):
        env = dict(os.environ, LD_PRELOAD=str(self.interpose), LC_ALL="C")
        if fail:
            env["SURROUND_FAIL"] = fail
        if count:
            env["SURROUND_COUNT"] = str(count)
        if noring:
            env["SURROUND_NO_RING"] = "1"
        try:
            r = subprocess.run(f"exec {self.tool} {self.arguments}", shell=True, env=env, cwd=self.place.work,
                               capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60)
        except subprocess.TimeoutExpired:
            return None
        return r

    def learn(self, noring):
        """What it does when nothing fails: its calls, and what it leaves."""
        file = args.scratch / "count"
        self.old_guest = {n: self.guest_of(n) for n in self.subjects if n in self.before}
        r = self.run(count=file, noring=noring)
        self.clean_code, self.clean_err = r.returncode, r.stderr
        self.clean = self.place.shot()
        self.clean_guest = {n: self.guest_of(n) for n in self.subjects if n in self.clean}
        calls = dict((n, int(k)) for n, k in (line.split() for line in file.read_text().splitlines()))
        self.faults = self.judge(r, self.clean, None)
        self.place.restore()
        self.before = self.place.shot()
        return calls

    def guest_of(self, name):
        if name == "dev":
            return None
        raw = not name.endswith(".qcow2") and name not in ("new", "nothing") or "-f raw" in self.arguments
        path = self.place.work / name
        return guest(path, digest(path), raw or name.endswith((".raw", ".data")))

    def judge(self, r, after, fail):
        """What is wrong with this outcome."""
        if r is None:
            return ["it hangs"]
        wrong = []
        codes = (0, 1, 2, 3, 63) if self.arguments.startswith("check") else (0, 1)
        if r.returncode not in codes:
            wrong.append(f"exit code {r.returncode}")
        said_nothing = not r.stderr.strip() and not (self.arguments.startswith("check") and r.stdout.strip())
        if r.returncode != 0 and said_nothing and not self.arguments.startswith("io"):
            wrong.append("no text")
        if r.returncode != 0 and self.kind == "create" and "hint: " not in r.stderr:
            wrong.append("no hint what to do")
        for name in set(self.before) - set(after):
            wrong.append(f"{name} is gone")
        unlink_failed = fail and fail.startswith(("unlink", "stat", "lstat", "fstat"))
        gone = fail and fail.startswith("stat,") and fail.split(",")[2] == str(E.ENOENT) # so it was told
        for name in set(after) - set(self.before):
            if r.returncode != 0 and not gone and not (unlink_failed and "removing" in r.stderr):
                wrong.append(f"{name} is left behind")
            elif name not in self.subjects:
                wrong.append(f"{name} has been made")
        for name in set(after) & set(self.before):
            wrong += self.judge_file(r, name, self.before[name], after[name])
        if r.returncode == 0 and fail:
            wrong += self.judge_success(after)
        if "snap.qcow2" in self.subjects:
            r = sh(["qemu-img", "snapshot", "-l", "snap.qcow2"], cwd=self.place.work)
            if " one " not in r.stdout:
                wrong.append("the snapshot is lost")
        return wrong

    def judge_file(self, r, name, old, new):
        if old == new:
            return []
        same = name in self.subjects or any(os.path.samefile(self.place.work / name, self.place.work / s)
                                            for s in self.subjects if (self.place.work / s).exists())
        if not same:
            return [f"{name} has changed: {old} {new}"]
        if old[:5] != new[:5]:
            return [f"{name} is another file: {old} {new}"]
        if r.returncode == 0:
            return []
        if self.kind == "create":
            if not any(text in r.stderr for text in LEFT):
                return [f"{name} has changed, and nothing is said of it"]
            if f"{name} is left empty" in r.stderr and new[5] != 0:
                return [f"{name} is not empty"]
            return []
        return self.judge_changed(name, f"{name} is left longer" in r.stderr)

    def judge_changed(self, name, longer):
        """A change that failed: the image is whole, each sector old or new."""
        path = self.place.work / name
        if name == "dev":
            return []
        if name.endswith(".qcow2"):
            check = sh(["qemu-img", "check", "-q", "-f", "qcow2", name], cwd=self.place.work)
            if check.returncode not in (0, 3):
                return [f"{name} is damaged: {check.stdout}{check.stderr}"]
        now, old, new = self.guest_of(name), self.old_guest.get(name), self.clean_guest.get(name)
        if now is None or old is None or new is None:
            return [] if name == "ext.data" else [f"{name} cannot be read"]
        if len(now) < min(len(old), len(new)) or (len(now) > max(len(old), len(new)) and not longer):
            return [f"{name} has the size {len(now)}"]
        for at in range(0, len(now), 512):
            part = now[at:at + 512]
            if part not in (old[at:at + 512], new[at:at + 512]) and part.strip(b"\0"):
                return [f"{name} at {at} is neither old nor new"]
        return []

    def judge_success(self, after):
        wrong = []
        if set(after) != set(self.clean):
            return [f"it says that it succeeded, but there is {sorted(set(after) ^ set(self.clean))}"]
        for name in self.subjects:
            if name in after and name != "dev" and after[name][6] != self.clean[name][6] and self.clean_code == 0:
                if self.guest_of(name) != self.clean_guest[name]:
                    wrong.append(f"it says that it succeeded, but {name} is not as it should be")
        return wrong

    def once(self, fail, noring):
        r = self.run(fail=fail, noring=noring)
        after = self.place.shot()
        wrong = self.judge(r, after, fail)
        if after != self.before or self.place.device:
            self.place.restore()
            self.before = self.place.shot()
        return wrong, r


def mounts(root):
    """A list of (name, folder, device or None), and of the commands that undo it. What cannot be had is told."""
    made, undo = [], []

    def mount(name, size, make):
        folder, file = root / name, root / f"{name}.fs"
        folder.mkdir()
        with open(file, "wb") as f:
            f.truncate(size)
        r = sh(f"{make} {file} && mount -o loop {file} {folder}") if make else \
            sh(f"mount -t tmpfs -o size={size} none {folder}")
        if r.returncode != 0:
            print(f"not tried: {name}: {r.stderr.strip().splitlines()[-1:]}")
            return None
        undo.append(f"umount -l {folder}")
        return folder

    here = root / "here"
    here.mkdir()
    made.append(("here", here, None))
    for block in (512, 4096):
        file = root / f"dev{block}"
        with open(file, "wb") as f:
            f.truncate(8 << 20)
        r = sh(["losetup", "-f", "--show", "-b", str(block), str(file)])
        if r.returncode != 0:
            print(f"not tried: devices with blocks of {block}: {r.stderr.strip()}")
            continue
        undo.append(f"losetup -d {r.stdout.strip()}")
        folder = root / f"device{block}"
        folder.mkdir()
        made.append((f"device{block}", folder, r.stdout.strip()))
    for name, size, make in (("ext4", 64 << 20, "mkfs.ext4 -q"), ("xfs", 320 << 20, "mkfs.xfs -q"),
                             ("btrfs", 128 << 20, "mkfs.btrfs -q"), ("tmpfs", 64 << 20, None)):
        folder = mount(name, size, make)
        if folder:
            made.append((name, folder, None))
    folder = mount("full", 24 << 20, None)
    if folder:
        made.append(("full", folder, None))
    folder = mount("quotas", 192 << 20, "mkfs.btrfs -q")
    if folder:
        r = sh(f"btrfs quota enable {folder} && btrfs subvolume create {folder}/sub")
        if r.returncode == 0:
            made.append(("quota", folder / "sub", None))
        else:
            print(f"not tried: quota: {r.stderr.strip()}")
    return made, undo


def fill(folder):
    """Leave less than any preallocation needs."""
    st = os.statvfs(folder)
    with open(folder / "filler", "wb") as f:
        os.posix_fallocate(f.fileno(), 0, max(1, st.f_bavail * st.f_bsize - (600 << 10)))


def limit(subvolume):
    """The same, by a quota: the file system has room."""
    sh(["sync", "-f", str(subvolume)])
    used = sh(["btrfs", "qgroup", "show", "--raw", "-f", str(subvolume)]).stdout.split()[-3]
    r = sh(["btrfs", "qgroup", "limit", str(int(used) + (600 << 10)), str(subvolume)])
    if r.returncode != 0:
        raise RuntimeError(f"quota: {r.stderr}")


def completions_fail():
    """Whether this kernel lets a request complete as it is told."""
    return tuple(int(n) for n in re.findall(r"\d+", os.uname().release)[:2]) >= (6, 10)


def plan(test, rng, noring, every):
    """Failures to try, in random order."""
    calls = test.learn(noring)
    todo, sent = [], []
    most = args.per if test.place.name == "here" else max(1, args.per // 2)
    for call, count in calls.items():
        first = len(todo)
        if call in COMPLETIONS and not completions_fail() or args.call and call not in args.call:
            continue
        for nth in range(1, count + 1):
            todo += [f"{call},{nth},{e}" for e in ERRNOS[call]]
            todo += [f"{call},{nth},{e},done" for e in DONE.get(call, [])]
        if call in COMPLETIONS:
            sent, todo = sent + todo[first:], todo[:first]
    rng.shuffle(todo)
    rng.shuffle(sent)
    if every:
        return todo + sent
    answers = [ANSWERS[call] for call in calls if call in ANSWERS]
    if not args.call or "ftruncate" in args.call:
        answers += [f"ftruncate,{nth},{SIZE_AFTER_ALL}" for nth in range(1, calls.get("ftruncate", 0) + 1)]
    return answers + todo[:most] + sent[:max(1, most // 2)]


def relevant(place, name):
    on_device = "dev" in SCENARIOS[name][2]
    if place.device:
        return on_device
    if place.name in ("full", "quota"):
        return not on_device and SCENARIOS[name][0] != "read"
    return not on_device


def told(place, name, fail, noring, wrong, r):
    how = "/noring" if noring else ""
    print(f"{'FAULT' if wrong else 'fine'} {place.name}/{name}/{fail or ''}{how}", flush=True)
    for text in wrong:
        print(f"    {text}")
    if r is not None:
        print(f"    exit code {r.returncode}; {r.stderr.strip()}")


def hunt(places, rng):
    runs = faults = 0
    for place in places:
        for name in SCENARIOS:
            if not relevant(place, name):
                continue
            for noring in (False, True):
                test = Test(args.tool, args.interpose, place, name)
                todo = plan(test, rng, noring, args.long)
                if test.faults:
                    faults += 1
                    told(place, name, None, noring, test.faults, None)
                for fail in todo:
                    wrong, r = test.once(fail, noring)
                    runs += 1
                    if wrong:
                        faults += 1
                        told(place, name, fail, noring, wrong, r)
    print(f"{runs} runs in {len(places)} places, {faults} faults")
    return faults


def repeat(places, what):
    place, name, *rest = what.split("/")
    noring = "noring" in rest
    for p in places:
        if p.name == place:
            test = Test(args.tool, args.interpose, p, name)
            print(test.learn(noring), test.clean_code, test.clean_err, test.faults)
            if rest and rest[0] and rest[0] != "noring":
                wrong, r = test.once(rest[0], noring)
                told(p, name, rest[0], noring, wrong, r)


def main():
    long_run = os.environ.get("VDISK_TEST_LONG") == "1"
    p = argparse.ArgumentParser()
    p.add_argument("tool", type=pathlib.Path)
    p.add_argument("interpose", type=pathlib.Path)
    p.add_argument("--only")
    p.add_argument("--place", action="append")
    p.add_argument("--seed", default=os.environ.get("VDISK_SEED", "1"))
    p.add_argument("--per", type=int, default=2, help="failures of each scenario here; half as many elsewhere")
    p.add_argument("--call", action="append", help="only failures of this one; may be given several times")
    p.add_argument("--long", action="store_true", default=long_run, help="all of them")
    global args
    args = p.parse_args()
    args.tool, args.interpose = args.tool.resolve(), args.interpose.resolve()
    for program in ("qemu-img", "qemu-io"):
        if not shutil.which(program):
            print(f"skipped: no {program}")
            return 77
    seed = int(time.time()) if args.seed == "new" else int(args.seed)
    print(f"seed {seed}")
    if not completions_fail():
        print("not tried: completions that fail, which need Linux 6.10")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # with all undone
    root = pathlib.Path(tempfile.mkdtemp(prefix="vdisk-surroundings-"))
    args.scratch = root / "scratch"
    args.scratch.mkdir()
    made, undo = mounts(root)
    try:
        places = []
        for name, folder, device in made:
            if args.place and name not in args.place:
                continue
            places.append(Place(name, folder, device))
            if name == "full":
                fill(folder)
        if args.only:
            return repeat(places, args.only)
        return 1 if hunt(places, random.Random(seed)) else 0
    finally:
        for command in reversed(undo):
            sh(command)
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
