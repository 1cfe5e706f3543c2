#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the public headers, the symbol versions, the version and the manual pages say of each other is true.

usage: api.py SOURCE_ROOT

Prints one line for each breach, what is wrong and what to do, and exits 1 if there is any.
"""
import pathlib
import re
import sys

HEADERS = ["engine/vdisk.h", "engine/vdisk-space.h", "engine/vdisk-image.h", "engine/vdisk-bulk.h",
           "backends/vdisk-backend.h", "backends/lab/vdisk-lab.h"]
MAP = "engine/libvdisk.map"
# Nodes that are released, with the number of their functions: programs in the field rely on them.
RELEASED = {"VDISK_0.1": 43}


def without_comments(text):
    return re.sub(r"/\*.*?\*/", " ", text, flags=re.S)


def declared(text):
    """Name -> return type."""
    found = {}
    for head in re.findall(r"^VDISK_API\s+([^;{}()]*)\(", without_comments(text), re.M):
        match = re.match(r"(.*?)(\w+)\s*$", head, re.S)
        if match:
            found[match[2]] = " ".join(match[1].split())
    return found


def nodes(text):
    """Node -> functions, in the order of the file."""
    found = {}
    for name, body in re.findall(r"(\w[\w.]*)\s*\{(.*?)\}", without_comments(text), re.S):
        found[name] = re.findall(r"\b(vdisk_\w+)\s*;", body)
        for pattern in re.findall(r"[\w*?]*vdisk_[\w]*[*?][\w*?]*", body):
            found[name].append(pattern)
    return found


class Api:
    def __init__(self, root):
        self.root = root
        self.breaches = []
        self.functions = {}
        for header in HEADERS:
            for name, kind in declared((root / header).read_text()).items():
                self.functions[name] = (kind, header)
        self.nodes = nodes((root / MAP).read_text())

    def breach(self, text):
        self.breaches.append(text)

    def check_versions(self):
        newest = list(self.nodes)[-1]
        where = {}
        for node, names in self.nodes.items():
            for name in names:
                where.setdefault(name, []).append(node)
        for name, (_, header) in self.functions.items():
            if name not in where:
                self.breach(f"{MAP}: {name}() of {header} has no symbol version, so no program can call it: add "
                            f"the line `{name};` to the node {newest}, below `global:` (add that too if the node "
                            "is empty)")
        for name, found in where.items():
            if len(found) > 1:
                self.breach(f"{MAP}: {name} is in {' and '.join(found)}: leave it in the older one")
            elif name not in self.functions:
                self.breach(f"{MAP}: {name} is in {found[0]}, and no header declares it with VDISK_API: declare "
                            "it, or (if it was never released) remove the line")
        for node, count in RELEASED.items():
            has = len(self.nodes.get(node, []))
            if has != count:
                self.breach(f"{MAP}: {node} is released with {count} functions and has {has}: new functions go "
                            f"into {newest}, and none is taken out")
        for node in self.nodes:
            if node != newest and node not in RELEASED:
                self.breach(f"{MAP}: {node} is followed by {newest}, so it is released: add it to RELEASED in "
                            "tests/lint/api.py")

    def check_error_text(self):
        """Each function that returns int leaves the text of its own error, or none."""
        sources = [path for folder in ("engine", "backends", "jobs") for path in (self.root / folder).rglob("*.c")]
        text = "".join(without_comments(path.read_text()) for path in sorted(sources))
        for name, (kind, _) in self.functions.items():
            body = re.search(rf"^int {name}\([^;]*?\)\n\{{\n(.*?)^\}}", text, re.M | re.S)
            leaves = r"\b(ERR_CALL|ERR_KEEP|err_clear|vdisk_job_(make|get_arg))\("
            if kind == "int" and not (body and re.search(leaves, body[1])):
                self.breach(f"engine: {name}() returns int and may leave the error text of another call: make it "
                            "`return ERR_CALL(...);` around its work (engine/base/error.h)")

    def check_release(self):
        newest = list(self.nodes)[-1]
        version = re.search(r"version: '([\d.]+)'", (self.root / "meson.build").read_text())[1]
        said = re.search(r'return "([\d.]+)"', (self.root / "engine/version.c").read_text())[1]
        if said != version:
            self.breach(f"engine/version.c: says {said}, meson.build {version}: make them the same")
        if newest != "VDISK_" + ".".join(version.split(".")[:2]):
            self.breach(f"{MAP}: the last node is {newest}, but the release {version}: begin a node for each "
                        "release")

    def check_pages(self):
        pages = "".join(page.read_text() for page in sorted((self.root / "docs/man").glob("*.3")))
        for name, (_, header) in self.functions.items():
            if not re.search(rf'^\.(BI|B) .*\b{name}\(', pages, re.M):
                self.breach(f"docs/man: no page has {name}() of {header} in its SYNOPSIS, where the link {name}.3 "
                            "leads: add its prototype")

    def run(self):
        self.check_versions()
        self.check_error_text()
        self.check_release()
        self.check_pages()
        return self.breaches


def main():
    api = Api(pathlib.Path(sys.argv[1]).resolve())
    for breach in api.run():
        print(breach)
    print(f"{len(api.functions)} functions, {len(api.nodes)} versions; {len(api.breaches)} breaches")
    return 1 if api.breaches else 0


if __name__ == "__main__":
    sys.exit(main())
