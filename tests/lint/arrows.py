#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who may use whom, read from the symbols of the objects.

usage: arrows.py SOURCE_ROOT ARCHIVE...

A room is some of the library's files, and the table says which rooms it may take names from. What a file takes
from a room that is not in its list is a breach, unless ALSO has the name, with the reason. Files that use each
other in a circle are a breach where CIRCLES does not allow it, and always where they are of two rooms. Entries
that are not needed (any more) are breaches, too. Only what is called or referred to by name is seen; what goes
through a table of functions (a driver, a hook) is what such tables are for.
"""
import pathlib
import re
import shutil
import subprocess
import sys

# Room: (files, rooms it may take names from). A file belongs to the first room that has it.
ROOMS = {
    "engine/base": ("engine/base/*.c", []),
    "nbd": ("nbd/*.c", []),
    "tls": ("tls/*.c", []),
    "engine/loop": ("engine/loop/*.c", []),
    "engine/spec": ("engine/spec/*.c", ["engine/loop", "tls"]),
    "engine/chain": ("engine/chain/*.c", ["engine/spec", "engine/loop"]),
    "engine": ("engine/*.c", ["engine/chain", "engine/spec", "engine/loop"]),
    "backends/host": ("backends/host/*.c", ["engine/spec", "engine/loop"]),
    "backends": ("backends/*.c", ["backends/host", "engine/spec", "engine/loop"]),
    "backends/rbd": ("backends/rbd/*.c", ["backends", "engine/spec", "engine/loop"]),
    "backends/nbd": ("backends/nbd/*.c", ["nbd", "tls", "engine/spec", "engine/loop"]),
    "backends/lab": ("backends/lab/*.c", ["backends", "engine/spec", "engine/loop"]),
    "jobs": ("jobs/*.c", []),
    "filters": ("filters/*.c", ["engine/spec", "engine/loop"]),
    "tools/lvm": ("tools/lvm/*.c", []),
    "tools/lv": ("tools/lv/*.c", ["tools/lvm"]),
    "tools/domain/text": ("tools/domain/text_*.c", []),
    "tools/domain/kinds": ("tools/domain/{kind_*,file_*,block_*}.c",
                           ["tools/domain", "tools/domain/text", "tools/lvm"]),
    "tools/domain": ("tools/domain/*.c", ["tools/domain/text"]),
    "exports/nbd": ("exports/nbd/*.c", ["nbd", "tls"]),
    "bench": ("bench/fio_engine.c", ["tools/domain"]),
    "qcow2/format": ("qcow2/format/*.c", ["engine/loop"]),
    "qcow2/meta": ("qcow2/{meta/*,mutant}.c", ["qcow2/format", "engine/loop"]),
    "qcow2/space": ("qcow2/space/*.c", ["qcow2/meta", "qcow2/format", "engine/loop"]),
    "qcow2/map": ("qcow2/map/*.c", ["qcow2/space", "qcow2/meta", "qcow2/format", "engine/loop"]),
    "qcow2/flush": ("qcow2/flush/*.c", ["qcow2/space", "qcow2/meta", "qcow2/format", "engine/loop"]),
    "qcow2/check": ("qcow2/check/*.c", ["qcow2/format", "engine/spec", "engine/loop"]),
    "qcow2/image": ("qcow2/{image/*,drivers}.c",
                    ["qcow2/map", "qcow2/flush", "qcow2/check", "qcow2/space", "qcow2/meta", "qcow2/format",
                     "engine/loop", "engine/spec", "engine/chain", "engine"]),
}

# What any room may use.
EVERYBODYS = {"engine/base"}

# Rooms that use the library as a program does: its public functions, whatever room they are of.
PUBLIC_ONLY = {"bench", "exports/nbd",
               "jobs", "tools/lvm", "tools/lv", "tools/domain", "tools/domain/kinds", "tools/domain/text"}

# (room, name): why it may be taken all the same.
ALSO = {
    ("qcow2/check", "q2_header_load"): "the header has one reader, which needs no open image",
    ("engine/chain", "format_drivers"): "the list of formats: the only name that the engine has of them",
    ("engine", "format_drivers"): "the list of formats: the only name that the engine has of them",
    ("engine/spec", "backend_drivers"): "the list of backends: the same",
    ("backends", "nbd_driver"): "the list of backends: the same",
    ("backends", "rotate_driver"): "the list of backends has the filters, too",
    ("tools/domain", "dom_kind_file"): "the list of kinds: the only name that operations have of one",
    ("tools/domain", "dom_kind_block"): "the list of kinds: the same",
    ("backends", "rbd_driver"): "the list of backends has images of Ceph, too",
    ("backends", "sim_driver"): "the list of backends has the simulated disks of tests, too",
}
BY_NAME = {  # name: (rooms, why)
    "chain_read": ("qcow2/map", "the contract of formats: what lies below"),
    "chain_known_zero": ("qcow2/map", "the same"),
}
ALSO.update({(room, name): why for name, (rooms, why) in BY_NAME.items() for room in rooms.split()})

# One of its files: (how many files the circle may have, why).
CIRCLES = {
    "qcow2/space/alloc.c": (2, "who takes clusters makes refcount blocks, which lie in clusters that are taken"),
    "engine/loop/queue.c": (7, "the loop: what turns it and what is turned"),
    "engine/loop/io.c": (3, "an I/O that is not aligned is carried out by an op, whose I/Os are"),
    "backends/nbd/link.c": (4, "a request begins and ends on a link, and what has ended may begin the next"),
    "backends/lab/crash_image.c": (2, "a piece of a crash image is applied to the store that holds it"),
}


def files_of(pattern, paths):
    """Those that the pattern names: `*`, and `{a,b}`."""
    regex = re.escape(pattern).replace(r"\*", "[^/]*").replace(r"\{", "(?:").replace(r"\}", ")").replace(",", "|")
    return [path for path in paths if re.fullmatch(regex, path)]


def rooms_of(rooms, paths):
    """{path: room}"""
    found = {}
    for room, (pattern, _) in rooms.items():
        for path in files_of(pattern, paths):
            found.setdefault(path, room)
    return found


def source_of(member, paths):
    """The file that an archive's member was made from: [FOLDER/]LIBRARY.a.p/PATH_IN_FOLDER.o, or only the name."""
    parts = member.split("/")
    name = parts[-1][:-2]
    folders = ["/".join(parts[i:-2]) + "/" for i in range(len(parts) - 2)]
    for folder in [*folders, "", *sorted({path.split("/")[0] + "/" for path in paths})]:
        for path in paths:
            if path.startswith(folder) and path[len(folder):].replace("/", "_") == name:
                return path
    return None


def symbols(archives, paths):
    """{path: ({defined names}, {names used})}, of the objects in the archives that were made from the files."""
    found, sources = {}, {}
    for archive in archives:
        output = subprocess.run(["nm", "-A", archive], capture_output=True, text=True, check=True).stdout
        for line in output.splitlines():
            member, _, rest = line.rpartition(":")
            member = member.rpartition(":")[2]
            if member not in sources:
                sources[member] = source_of(member, paths)
            fields = rest.split()
            if not sources[member] or len(fields) < 2:
                continue
            defined, used = found.setdefault(sources[member], (set(), set()))
            if fields[-2] in "Uw":
                used.add(fields[-1])
            elif fields[-2] in "TDBRVWC":
                defined.add(fields[-1])
    return found


def uses(found):
    """{path: {path: {names}}}"""
    owner = {name: path for path, (defined, _) in found.items() for name in defined}
    graph = {path: {} for path in found}
    for path, (_, used) in found.items():
        for name in used:
            if owner.get(name, path) != path:
                graph[path].setdefault(owner[name], set()).add(name)
    return graph


def circles(graph):
    """The strongly connected parts of more than one file (Tarjan), each sorted."""
    number, low, stack, found = {}, {}, [], []

    def visit(path):
        number[path] = low[path] = len(number)
        stack.append(path)
        for other in graph[path]:
            if other not in number:
                visit(other)
                low[path] = min(low[path], low[other])
            elif other in stack:
                low[path] = min(low[path], number[other])
        if low[path] == number[path]:
            part = []
            while not part or part[-1] != path:
                part.append(stack.pop())
            if len(part) > 1:
                found.append(sorted(part))

    for path in graph:
        if path not in number:
            visit(path)
    return found


class Arrows:
    def __init__(self, rooms, also, allowed_circles, public=frozenset()):
        self.public = public
        self.rooms, self.also, self.circles = rooms, also, allowed_circles
        self.breaches, self.needed, self.round = [], set(), []

    def judge(self, graph, room_of):
        for path in sorted(graph):
            if path not in room_of:
                self.breaches.append(f"{path}: is in no room: add it to one in tests/lint/arrows.py")
                continue
            for other in sorted(graph[path]):
                self.judge_use(path, other, sorted(graph[path][other]), room_of)
        # The lists of drivers are what the arrows turn round at: no circle goes through them.
        lists = {name for (_, name), why in self.also.items() if why.startswith("the list")}
        plain = {path: {other for other, names in others.items() if names - lists or not names & lists}
                 for path, others in graph.items()}
        self.judge_circles(circles(plain), room_of)
        for entry in sorted(set(self.also) - self.needed):
            if entry[1] not in lists:
                self.breaches.append(f"arrows.py: ALSO has {entry[0]}: {entry[1]}, which nobody takes: remove it")

    def judge_use(self, path, other, names, room_of):
        room, from_room = room_of[path], room_of.get(other)
        if from_room in (None, room) or from_room in EVERYBODYS or from_room in self.rooms[room][1]:
            return
        if room in PUBLIC_ONLY:
            names = [name for name in names if name not in self.public]
        for name in names:
            if (room, name) in self.also:
                self.needed.add((room, name))
            else:
                self.breaches.append(f"{path}: takes {name} of {other}: {room} may not use {from_room}")

    def judge_circles(self, found, room_of):
        allowed = dict(self.circles)
        for part in found:
            key = next((path for path in part if path in allowed), None)
            most = allowed.pop(key)[0] if key else 1
            self.round.append((key, len(part)))
            if len(part) > most:
                self.breaches.append(f"{', '.join(part)}: use each other in a circle of {len(part)} files, at "
                                     f"most {most}: move what both need below them")
            elif len(part) < most:
                self.breaches.append(f"arrows.py: the circle of {key} has {len(part)} files: say so in CIRCLES")
            rooms = sorted({room_of.get(path, "none") for path in part})
            if len(rooms) > 1:
                self.breaches.append(f"{', '.join(part)}: a circle over the rooms {', '.join(rooms)}")
        for key in allowed:
            self.breaches.append(f"arrows.py: CIRCLES has {key}, which is in none: remove it")


def main():
    if not shutil.which("nm"):
        print("skipped: there is no nm")
        return 77
    root = pathlib.Path(sys.argv[1])
    folders = ("engine", "nbd", "tls", "backends", "filters", "qcow2", "jobs", "exports", "tools/domain",
               "tools/lvm", "tools/lv")
    paths = [str(path.relative_to(root)) for folder in folders
             for path in sorted((root / folder).rglob("*.c"))]
    if any("vdisk-fio" in archive for archive in sys.argv[2:]): # built where fio's source is
        paths.append("bench/fio_engine.c")
    room_of = rooms_of(ROOMS, paths)
    graph = uses(symbols(sys.argv[2:], paths))
    public = set(re.findall(r"\b(vdisk_\w+);", (root / "engine/libvdisk.map").read_text()))
    check = Arrows(ROOMS, ALSO, CIRCLES, public)
    check.judge(graph, room_of)
    for breach in check.breaches:
        print(breach)
    names = sum(len(names) for others in graph.values() for names in others.values())
    print(f"{len(graph)} files in {len(set(room_of.values()))} rooms, {names} uses of names across files; "
          f"circles: {', '.join(f'{count} ({key})' for key, count in check.round) or 'none'}; "
          f"{len(check.breaches)} breaches")
    missing = [path for path in paths if path not in graph and not path.endswith("/mutant.c")]
    for path in missing:
        print(f"{path}: no object of it was found in {' '.join(sys.argv[2:])}")
    return 1 if check.breaches or missing else 0


if __name__ == "__main__":
    sys.exit(main())
