# SPDX-License-Identifier: LGPL-2.1-or-later
"""Run commands in a folder, and measure them: time, processor time, memory."""
import json
import os
import pathlib
import shlex
import subprocess
import sys


# What is asked of mapped 4 KiB reads in a CPU second, without a device, by what bench-probe's loop does in one:
# processors differ, and where one did 6.4 million of them another did 3.9 million. It is 0.27.
LOOKUP = 0.2


class WorkError(Exception):
    pass


class Work:
    """Our tool and the peer's in one folder. Every command is recorded."""

    def __init__(self, tool, peer, probe, folder, commands=None):
        self.tool, self.peer, self.probe = pathlib.Path(tool).resolve(), peer, pathlib.Path(probe).resolve()
        self.folder = folder
        self.commands = commands  # a file, or None
        self.load, self.rounds = None, 1  # of the test machine: the program, or None; rounds by each boot

    def path(self, name):
        return self.folder / name

    def record(self, command):
        if self.commands:
            self.commands.write(shlex.join(command) + "\n")
            self.commands.flush()

    def run(self, *command, text=None):
        """Its standard output; `text` is its standard input."""
        command = [str(word) for word in command]
        self.record(command)
        done = subprocess.run(command, cwd=self.folder, input=text or "", capture_output=True, text=True)
        if done.returncode != 0:
            raise WorkError(f"{shlex.join(command)}: exit code {done.returncode}\n"
                            f"{(done.stdout + done.stderr).strip()[-2000:]}")
        return done.stdout

    def measured(self, *command, keep=False, how="run"):
        """A sample: seconds, cpu (user and system, seconds), rss (the peak of memory, bytes); with `keep` also
        out, what was printed. `how`: see bench-probe."""
        command = [str(word) for word in command]
        self.record(command)
        result = self.path("sample.json")
        result.unlink(missing_ok=True)
        done = subprocess.run([self.probe, how, result, *command], cwd=self.folder, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE if keep else subprocess.DEVNULL, stderr=subprocess.PIPE,
                              text=True)
        if done.returncode != 0:
            raise WorkError(f"{shlex.join(command)}: exit code {done.returncode}\n{done.stderr.strip()[-2000:]}")
        sample = json.loads(result.read_text())
        if keep:
            sample["out"] = done.stdout
        return sample

    def alone(self, *command):
        """The same, and it fails where it starts another process."""
        return self.measured(*command, how="alone")

    def remove(self, *names):
        for name in names:
            self.path(name).unlink(missing_ok=True)

    def settle(self):
        """What was put off for files of this folder is not paid by what is measured next. It is no sync(), which
        pays what others have put off."""
        for path in [*self.folder.iterdir(), self.folder]:
            if path.is_file() or path == self.folder:
                fd = os.open(path, os.O_RDONLY)
                try:
                    os.fsync(fd)
                finally:
                    os.close(fd)

    def ours(self, *words):
        return self.measured(self.tool, *words)

    def theirs(self, *words):
        return self.measured(self.peer, *words)

    def bench(self, *words):
        """Our tool's own load: iops, cpu_us for each request, requests per_cpu_s, rss."""
        sample = self.measured(self.tool, "bench", "--output", "json", *words, keep=True)
        told = json.loads(sample.pop("out"))
        cpu_us = max(told["cpu"]["us-per-request"], 1e-4)
        return {"iops": told["iops"], "cpu_us": cpu_us, "per_cpu_s": 1e6 / cpu_us, "rss": sample["rss"]}

    def reference(self, *words):
        """A loop of the probe's, which says how fast this machine is just now."""
        return json.loads(self.run(self.probe, *words))

    def fio(self, *jobs):
        """Plain files at the device's speed, all jobs at once: seconds until the last is done, with its fsync."""
        words = ["fio", "--output-format=json", "--ioengine=io_uring", "--direct=1", "--bs=1M", "--iodepth=16",
                 "--fallocate=none", "--clocksource=clock_gettime", "--gtod_reduce=1", "--thread"]
        for number, job in enumerate(jobs):
            words += [f"--name=job{number}", *job]
        out = self.run(*words)
        told = json.loads(out[out.index("{"):])["jobs"]
        return {"seconds": max(job["job_runtime"] for job in told) / 1000}


def forget(path):
    """Let the page cache have nothing of a file."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def recall(path):
    """Let the page cache have all of a file that is no hole."""
    with open(path, "rb") as f:
        at = 0
        while True:
            try:
                start = os.lseek(f.fileno(), at, os.SEEK_DATA)
            except OSError:
                return
            at = os.lseek(f.fileno(), start, os.SEEK_HOLE)
            f.seek(start)
            while start < at:
                start += len(f.read(min(4 << 20, at - start)))


def given(program, hidden):
    """The command line as it was given to the program, without these options, which it adds itself."""
    words = [program]
    for before, word in zip(sys.argv, sys.argv[1:]):
        if word not in (*hidden, "--domains", "--net") and before not in hidden:
            words.append(word)
    return shlex.join(words)


def say(text):
    print(text, file=sys.stderr, flush=True)


def end_with(program, main):
    """Run main(), and end as it says; its failure, or Ctrl-C, is one line."""
    try:
        sys.exit(main())
    except WorkError as error:
        sys.exit(f"{program}: {error}")
    except KeyboardInterrupt:
        say(f"{program}: interrupted; what was made for it is removed")
        sys.exit(130)
