# SPDX-License-Identifier: LGPL-2.1-or-later
"""A folder for a run's volumes, gone at the end, however the run ends; and when a signal ends it."""
import contextlib
import pathlib
import shutil
import signal
import sys
import tempfile


def refuse_name(where):
    """An export, or Ceph, has no folders."""
    if str(where).partition(":")[0] in ("nbd", "nbd+unix", "nbd+tcp", "nbds", "nbds+unix", "rbd"):
        sys.exit(f"{where}: volumes are made in a folder; what is there is measured by 'vdisk-io bench', or by "
                 "fio with our engine")


@contextlib.contextmanager
def folder(parent, name):
    """A new folder in `parent`. SIGTERM and SIGHUP end the program as SIGINT does: by what is in `finally`."""
    signal.signal(signal.SIGINT, signal.default_int_handler) # it is ignored in what a script starts with &
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGHUP, lambda *_: sys.exit(129))
    refuse_name(parent)
    try:
        made = pathlib.Path(tempfile.mkdtemp(prefix=f"{name}-", dir=parent)).resolve()
    except OSError as error:
        sys.exit(f"{parent}: {error.strerror}: give another --dir")
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
