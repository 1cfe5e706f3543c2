# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether a server takes connections already. A socket's name is there from bind() on, and until listen() whoever
connects is refused: a moment that a busy machine makes long."""
import os
import pathlib

ACCEPTS = 0x10000 # __SO_ACCEPTCON


def listens(path):
    """On a unix socket of this name; its folder is told by its being there, as a server may name it otherwise. Any
    other file, as that of a process id, is written when the server is ready."""
    path = pathlib.Path(path)
    if not path.is_socket():
        return path.exists()
    for line in pathlib.Path("/proc/net/unix").read_text().splitlines()[1:]:
        _, _, _, flags, _, _, _, *name = line.split(maxsplit=7)
        if name and int(flags, 16) & ACCEPTS and os.path.basename(name[0]) == path.name:
            return True
    return False
