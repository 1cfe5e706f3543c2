# SPDX-License-Identifier: LGPL-2.1-or-later
"""`vdisk-io volume serve` as a process of a test's, and a client for it."""
import json
import os
import pathlib
import selectors
import signal
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "nbd"))
from client import Client  # noqa: E402

import lib  # noqa: E402
from lib import check  # noqa: E402

LATE = 60 # seconds after which nothing comes any more
numbers = iter(range(1 << 30))


class Server:
    """Until stop(): told is what it has printed when clients could connect."""

    def __init__(self, *arguments, ready=True, **how):
        self.socket = os.path.abspath(f"serve{next(numbers)}.sock")
        self.process = subprocess.Popen(
            [how.pop("tool", lib.TOOL), "volume", "serve", "--output=json", "-k", self.socket,
             *map(str, arguments)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **how)
        self.told = None
        if ready:
            self.await_ready()

    def await_ready(self):
        text, deadline = "", time.monotonic() + LATE
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while self.told is None and time.monotonic() < deadline:
                if not selector.select(1):
                    continue
                more = os.read(self.process.stdout.fileno(), 65536).decode()
                if not more:
                    break
                text += more
                try:
                    self.told = json.loads(text)
                except json.JSONDecodeError:
                    pass
        if self.told is None:
            self.process.kill()
            check("it serves", False, text + "".join(self.process.communicate()))

    def await_listening(self):
        """To signals: from then on one is not the process's end."""
        path, deadline = f"/proc/{self.process.pid}/status", time.monotonic() + LATE
        while time.monotonic() < deadline:
            blocked = int(pathlib.Path(path).read_text().partition("SigBlk:")[2].split()[0], 16)
            if blocked & 1 << (signal.SIGTERM - 1):
                return
            time.sleep(0.01)
        check("it blocks signals", False)

    def is_ready(self):
        return os.path.exists(self.socket)

    def uri(self, name=""):
        return f"nbd+unix:///{name}?socket={self.socket}"

    def client(self, name="", **how):
        client = Client(self.socket)
        client.negotiate(name, **how)
        return client

    def kill(self):
        self.process.kill()
        self.process.communicate()

    def end(self, what, code=0):
        try:
            output, errors = self.process.communicate(timeout=LATE)
        except subprocess.TimeoutExpired:
            self.kill()
            output, errors = "", "it does not end"
        check(f"{what}: it ends", self.process.returncode == code, f"{self.process.returncode} {output}{errors}")
        check(f"{what}: its socket is gone", not os.path.exists(self.socket))
        return output + errors

    def stop(self, what, sig=signal.SIGTERM, code=0):
        self.process.send_signal(sig)
        return self.end(what, code)
